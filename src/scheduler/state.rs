//! What the scheduler's threads share: the queue, who waits for which answer, what each worker has.
//!
//! Every method runs under the scheduler's lock and ends soon.

use std::{collections::HashMap, time::Instant};

use tokio::sync::oneshot;
use tracing::error;

use super::Scored;
use crate::{
    error::{Error, Result, whole_seconds},
    queue::{Entry, Forecast, LARGE_SHARE, Limits, Pace, Queue, RequestId},
    tokenizer::Encoding,
};

/// The state behind the scheduler's lock.
pub(super) struct State {
    pub(super) queue: Queue<Encoding>,
    pub(super) waiting: HashMap<RequestId, Waiting>,
    workers: Vec<Worker>,
    pub(super) open: bool,
    /// The speed of one worker.
    pace: Pace,
    /// The origin of the queue's times.
    pub(super) origin: Instant,
}

/// What one worker has taken from the queue and not handed out the results of.
#[derive(Clone, Default)]
struct Worker {
    batches: usize,
    tokens: usize,
    /// When the batch that runs was begun.
    running_since: Option<Instant>,
}

/// A request between admission and answer.
pub(super) struct Waiting {
    logits: Vec<f32>,
    missing: usize,
    admitted: Instant,
    started: Option<Instant>,
    answer: oneshot::Sender<Result<Scored>>,
}

impl Waiting {
    /// A request of so many pairs that is admitted now.
    pub(super) fn new(pairs: usize, answer: oneshot::Sender<Result<Scored>>) -> Self {
        Self {
            logits: vec![f32::NAN; pairs],
            missing: pairs,
            admitted: Instant::now(),
            started: None,
            answer,
        }
    }
}

impl State {
    /// Nothing waits, and every worker is free.
    pub(super) fn new(limits: Limits, workers: usize, pace: Pace) -> Self {
        Self {
            queue: Queue::new(limits),
            waiting: HashMap::new(),
            workers: vec![Worker::default(); workers],
            open: true,
            pace,
            origin: Instant::now(),
        }
    }

    /// Whether a worker has no batch.
    pub(super) fn is_free(&self, worker: usize) -> bool {
        self.workers[worker].batches == 0
    }

    /// Takes the next batch from the queue for a worker.
    pub(super) fn take(&mut self, worker: usize) -> Vec<Entry<Encoding>> {
        let forecast = self.forecast();
        let entries = self.queue.next_batch(&forecast);
        self.workers[worker].batches += 1;
        self.workers[worker].tokens += tokens_of(&entries);
        entries
    }

    /// A worker runs one batch; it may pack one more beside it, if that is full and no other worker could start on it at once.
    pub(super) fn may_take(&self, worker: usize) -> bool {
        let all_busy = self.workers.iter().all(|worker| worker.batches > 0);
        match self.workers[worker].batches {
            0 => true,
            1 => all_busy && self.queue.fills_a_batch(),
            _ => false,
        }
    }

    pub(super) fn forecast(&self) -> Forecast {
        let seconds_per_token = self.pace.seconds_per_unit();
        let workers = self.workers.len() as f64;
        let left = |worker: &Worker| {
            let elapsed = worker
                .running_since
                .map_or(0.0, |since| since.elapsed().as_secs_f64());
            (worker.tokens as f64 * seconds_per_token - elapsed).max(0.0)
        };
        Forecast {
            now: self.origin.elapsed().as_secs_f64(),
            busy: self.workers.iter().map(left).sum::<f64>() / workers,
            seconds_per_token: seconds_per_token / workers,
        }
    }

    /// Refuses what could not be done by its deadline even by workers that have nothing else to do
    /// and are as fast as they have been at best.
    pub(super) fn check_alone(&self, tokens: usize, due: Instant) -> Result<()> {
        let seconds = tokens as f64 * self.pace.fastest() / self.workers.len() as f64;
        let left = due.saturating_duration_since(Instant::now());
        if seconds <= left.as_secs_f64() * LARGE_SHARE {
            return Ok(());
        }
        Err(Error::TooSlow {
            needed: whole_seconds(seconds),
        })
    }

    /// Refuses the waiting requests that can no longer be done in time.
    pub(super) fn shed(&mut self) {
        let forecast = self.forecast();
        for shed in self.queue.shed(&forecast) {
            if let Some(waiting) = self.waiting.remove(&shed.request) {
                let admitted = waiting.admitted.saturating_duration_since(self.origin);
                let error = Error::late(shed.finish - admitted.as_secs_f64(), shed.late);
                let _ = waiting.answer.send(Err(error));
            }
        }
    }

    pub(super) fn start(&mut self, worker: usize, entries: &[Entry<Encoding>], now: Instant) {
        self.workers[worker].running_since = Some(now);
        for entry in entries {
            if let Some(waiting) = self.waiting.get_mut(&entry.request) {
                waiting.started.get_or_insert(now);
            }
        }
    }

    /// Hands out the results of a batch; requests that are complete, or have failed, are answered.
    pub(super) fn finish(
        &mut self,
        worker: usize,
        entries: &[Entry<Encoding>],
        result: Result<Vec<f32>>,
        started: Instant,
    ) {
        let tokens = tokens_of(entries);
        let worker = &mut self.workers[worker];
        worker.batches -= 1;
        worker.tokens -= tokens;
        worker.running_since = None;
        match result {
            Ok(logits) => {
                for (entry, logit) in entries.iter().zip(logits) {
                    self.record(entry, logit);
                }
                self.pace.observe(tokens, started.elapsed());
            }
            Err(error) => {
                for entry in entries {
                    self.fail(entry.request, error.clone());
                }
            }
        }
    }

    fn record(&mut self, entry: &Entry<Encoding>, logit: f32) {
        if !logit.is_finite() {
            let message = format!("pair {} of a request has the logit {logit}", entry.index);
            error!(tokens = entry.tokens, "{message}");
            return self.fail(entry.request, Error::Inference(message));
        }
        let Some(waiting) = self.waiting.get_mut(&entry.request) else {
            return; // its owner is gone
        };
        waiting.logits[entry.index] = logit;
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(done) = self.waiting.remove(&entry.request)
        {
            let started = done.started.unwrap_or(done.admitted);
            // Nobody may be listening any more; then nobody misses it.
            let _ = done.answer.send(Ok(Scored {
                logits: done.logits,
                queued: started - done.admitted,
                computed: started.elapsed(),
            }));
        }
    }

    fn fail(&mut self, request: RequestId, error: Error) {
        if let Some(waiting) = self.waiting.remove(&request) {
            self.queue.cancel(request);
            let _ = waiting.answer.send(Err(error));
        }
    }
}

fn tokens_of(entries: &[Entry<Encoding>]) -> usize {
    entries.iter().map(|entry| entry.tokens).sum()
}
