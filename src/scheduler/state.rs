//! What the scheduler's threads share: the queue, who waits for which answer, what each worker has.
//!
//! Every method runs under the scheduler's lock and ends soon.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::error;

use crate::{
    deadline::Deadline,
    error::{Error, Result, whole_seconds},
    queue::{Entry, Forecast, Limits, Pace, Queue, RequestId},
    tokenizer::Encoding,
};

/// The share of its time that a request may take alone: less than the queue would admit, so that
/// what it refuses can be admitted later.
const ALONE_SHARE: f64 = 0.9;

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scored {
    /// One finite logit per pair, in the order given.
    pub logits: Vec<f32>,
    /// Whether a batch of theirs was computed twice, the second time in another precision.
    pub redone: bool,
    /// Time from admission until the first of the request's batches started.
    pub queued: Duration,
    /// Time from the first batch to the answer.
    pub computed: Duration,
}

/// The state behind the scheduler's lock.
pub(super) struct State {
    pub(super) queue: Queue<Encoding>,
    pub(super) waiting: HashMap<RequestId, Waiting>,
    /// What each worker computes.
    workers: Vec<Option<Running>>,
    pub(super) open: bool,
    /// The speed of one worker.
    pace: Pace,
    /// The origin of the queue's times.
    pub(super) origin: Instant,
}

/// What came of a batch.
pub(super) struct Computed {
    /// One logit per pair.
    pub(super) logits: Vec<f32>,
    /// Whether it was computed twice, the second time in another precision.
    pub(super) redone: bool,
}

/// The batch that a worker computes.
#[derive(Clone, Copy)]
struct Running {
    tokens: usize,
    since: Instant,
}

/// A request between admission and answer.
pub(super) struct Waiting {
    logits: Vec<f32>,
    missing: usize,
    redone: bool,
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
            redone: false,
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
            workers: vec![None; workers],
            open: true,
            pace,
            origin: Instant::now(),
        }
    }

    /// Takes the next batch from the queue for a worker.
    pub(super) fn take(&mut self, worker: usize) -> Vec<Entry<Encoding>> {
        let forecast = self.forecast();
        let entries = self.queue.next_batch(&forecast);
        let since = Instant::now();
        self.workers[worker] = Some(Running {
            tokens: tokens_of(&entries),
            since,
        });
        for entry in &entries {
            if let Some(waiting) = self.waiting.get_mut(&entry.request) {
                waiting.started.get_or_insert(since);
            }
        }
        entries
    }

    /// A deadline as the queue counts time.
    pub(super) fn due(&self, deadline: Deadline) -> f64 {
        let since = deadline.at().saturating_duration_since(self.origin);
        since.as_secs_f64()
    }

    /// The measured speed of one worker.
    pub(super) fn seconds_per_token(&self) -> f64 {
        self.pace.seconds_per_unit()
    }

    pub(super) fn forecast(&self) -> Forecast {
        let seconds_per_token = self.pace.seconds_per_unit();
        let workers = self.workers.len() as f64;
        let left = |running: &Running| {
            let needed = running.tokens as f64 * seconds_per_token;
            (needed - running.since.elapsed().as_secs_f64()).max(0.0)
        };
        Forecast {
            now: self.origin.elapsed().as_secs_f64(),
            busy: self.workers.iter().flatten().map(left).sum::<f64>() / workers,
            seconds_per_token: seconds_per_token / workers,
        }
    }

    /// Refuses what takes nearly all the time that a request is given, or more, even if workers
    /// have nothing else to do.
    pub(super) fn check_alone(&self, tokens: usize, deadline: Deadline) -> Result<()> {
        let workers = self.workers.len() as f64;
        let seconds = tokens as f64 * self.pace.seconds_per_unit() / workers;
        if seconds <= ALONE_SHARE * deadline.within().as_secs_f64() {
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

    /// Hands out the results of a batch; requests that are complete, or have failed, are answered.
    pub(super) fn finish(
        &mut self,
        worker: usize,
        entries: &[Entry<Encoding>],
        result: Result<Computed>,
        started: Instant,
    ) {
        self.workers[worker] = None;
        match result {
            Ok(Computed { logits, redone }) => {
                for (entry, logit) in entries.iter().zip(logits) {
                    self.record(entry, logit, redone);
                }
                self.pace.observe(tokens_of(entries), started.elapsed());
            }
            Err(error) => {
                for entry in entries {
                    self.fail(entry.request, error.clone());
                }
            }
        }
    }

    fn record(&mut self, entry: &Entry<Encoding>, logit: f32, redone: bool) {
        if !logit.is_finite() {
            let message = format!("pair {} of a request has the logit {logit}", entry.index);
            error!(tokens = entry.tokens, "{message}");
            return self.fail(entry.request, Error::Inference(message));
        }
        let Some(waiting) = self.waiting.get_mut(&entry.request) else {
            return; // its owner is gone
        };
        waiting.logits[entry.index] = logit;
        waiting.redone |= redone;
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(done) = self.waiting.remove(&entry.request)
        {
            let started = done.started.unwrap_or(done.admitted);
            // Nobody may be listening any more; then nobody misses it.
            let _ = done.answer.send(Ok(Scored {
                logits: done.logits,
                redone: done.redone,
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
