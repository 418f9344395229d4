//! Micro-batching: concurrent requests share batches, and two threads keep each copy of the model busy.
//!
//! Requests put their pairs into one `Queue` and wait for an answer. A *packer* thread takes a batch from it and
//! packs it; a *model* thread, the only one to touch its model, computes it and hands the logits out. There is one such
//! pair of threads, a *worker*, for each GPU. A full batch is
//! packed while the one before it runs, if no other worker is free. One that is not full is taken the moment a worker is free: nobody waits for
//! company (unless `batch_wait` asks for it), and whoever comes meanwhile still gets on.
//!
//! A request leaves in one of three ways: answered, failed with its batch, or dropped by its owner (a client that hung
//! up, a deadline that passed), which takes its pairs out of the queue.

mod queue;

use std::{
    any::Any,
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::error;

pub use self::queue::Limits;
use self::queue::{Entry, Queue, RequestId};
use crate::{
    error::{Error, Result},
    metrics::Metrics,
    model::{Batch, CrossEncoder},
    tokenizer::Encoding,
};

/// What the scheduler goes by.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The sizes of batches and of the queue.
    pub limits: Limits,
    /// How long a batch that is not full waits for company while the model is free. Zero: not at all.
    pub batch_wait: Duration,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One finite logit per pair, in the order given.
    pub logits: Vec<f32>,
    /// From admission until the first of its batches started.
    pub queued: Duration,
    /// From there to the answer.
    pub computed: Duration,
}

/// The handle that requests share. When it is dropped the threads drain the queue and end.
pub struct Scheduler {
    shared: Arc<Shared>,
    next_id: AtomicU64,
}

struct Shared {
    settings: Settings,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Something was pushed, taken, finished or closed.
    changed: Condvar,
}

struct State {
    queue: Queue<Encoding>,
    waiting: HashMap<RequestId, Waiting>,
    /// Batches that each worker has taken from the queue and not handed out the results of.
    in_flight: Vec<usize>,
    open: bool,
    /// How fast pairs have been leaving lately, for `Retry-After`; 0 before the first batch.
    pairs_per_second: f64,
}

/// A request between admission and answer.
struct Waiting {
    logits: Vec<f32>,
    missing: usize,
    admitted: Instant,
    started: Option<Instant>,
    answer: oneshot::Sender<Result<Scored>>,
}

/// A packed batch and where its results go.
struct Packed {
    batch: Batch,
    entries: Vec<Entry<Encoding>>,
}

impl Scheduler {
    /// Starts two threads for each copy of the model.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn new(
        models: Vec<Box<dyn CrossEncoder>>,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            metrics,
            state: Mutex::new(State {
                queue: Queue::new(settings.limits),
                waiting: HashMap::new(),
                in_flight: vec![0; models.len()],
                open: true,
                pairs_per_second: 0.0,
            }),
            changed: Condvar::new(),
        });
        for (worker, model) in models.into_iter().enumerate() {
            let (to_model, from_packer) = sync_channel(1);
            spawn(format!("packer-{worker}"), {
                let shared = Arc::clone(&shared);
                move || shared.pack_batches(worker, &to_model)
            })?;
            spawn(format!("model-{worker}"), {
                let shared = Arc::clone(&shared);
                move || shared.run_batches(worker, model.as_ref(), &from_packer)
            })?;
        }
        Ok(Self {
            shared,
            next_id: AtomicU64::new(0),
        })
    }

    /// Scores a request's pairs, all or none. Dropping the future takes what still waits out of the queue.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once if they do not fit the queue now, [`Error::TooManyPairs`] if they never will,
    /// [`Error::ShuttingDown`] after [`Self::close`],
    /// [`Error::Inference`] if the batch of any of them failed.
    pub async fn score(&self, pairs: Vec<Encoding>) -> Result<Scored> {
        if pairs.is_empty() {
            let (queued, computed) = (Duration::ZERO, Duration::ZERO);
            return Ok(Scored {
                logits: Vec::new(),
                queued,
                computed,
            });
        }
        let ticket = Ticket {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            shared: &self.shared,
        };
        let answer = self.shared.admit(ticket.id, pairs)?;
        answer
            .await
            .unwrap_or_else(|_| Err(Error::Inference("the scheduler has stopped".to_owned())))
    }

    /// Pairs waiting for a batch.
    pub fn queued_pairs(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Refuses new requests from now on; those admitted are still answered.
    pub fn close(&self) {
        self.shared.lock().open = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes a request out of the queue when its owner is gone; does nothing once it is answered.
struct Ticket<'a> {
    id: RequestId,
    shared: &'a Shared,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.waiting.remove(&self.id).is_some() {
            state.queue.cancel(self.id);
        }
    }
}

impl Shared {
    /// A thread that panicked while it held the lock is a bug, but no reason to fail every request after it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        &self,
        id: RequestId,
        pairs: Vec<Encoding>,
    ) -> Result<oneshot::Receiver<Result<Scored>>> {
        let mut state = self.lock();
        if !state.open {
            return Err(Error::ShuttingDown);
        }
        let (count, limit) = (pairs.len(), self.settings.limits.queue_pairs);
        if count > limit {
            return Err(Error::TooManyPairs {
                pairs: count,
                limit,
            });
        }
        let items = pairs.into_iter().map(|encoding| {
            let tokens = encoding.len();
            (encoding, tokens)
        });
        if let Err(full) = state.queue.push(id, items) {
            return Err(Error::Overloaded {
                queued: full.queued,
                refused: count,
                limit,
                retry_after: state.time_to_drain(),
            });
        }
        let (answer, receiver) = oneshot::channel();
        state.waiting.insert(
            id,
            Waiting {
                logits: vec![f32::NAN; count],
                missing: count,
                admitted: Instant::now(),
                started: None,
                answer,
            },
        );
        drop(state);
        self.changed.notify_all();
        Ok(receiver)
    }

    /// A worker's packer thread.
    fn pack_batches(&self, worker: usize, to_model: &SyncSender<Packed>) {
        while let Some(entries) = self.take_batch(worker) {
            let batch = Batch::pack(entries.iter().map(|entry| entry.item.as_slice()));
            if to_model.send(Packed { batch, entries }).is_err() {
                return;
            }
        }
    }

    /// Waits until a batch is due for this worker and takes it; `None` once closed and drained.
    fn take_batch(&self, worker: usize) -> Option<Vec<Entry<Encoding>>> {
        let mut state = self.lock();
        let mut company_until = None;
        loop {
            if state.queue.is_empty() {
                if !state.open {
                    return None;
                }
                company_until = None;
                state = self.wait(state, None);
            } else if state.in_flight[worker] == 0 && !state.queue.fills_a_batch() && state.open {
                // The worker is free and the batch is not full: take it, unless told to wait for company.
                let until =
                    *company_until.get_or_insert_with(|| Instant::now() + self.settings.batch_wait);
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.wait(state, Some(left));
            } else if state.may_take(worker) {
                break;
            } else {
                state = self.wait(state, None);
            }
        }
        state.in_flight[worker] += 1;
        let entries = state.queue.next_batch();
        drop(state);
        // Who waits until every worker is busy before packing ahead (`may_take`) may now be right to.
        self.changed.notify_all();
        Some(entries)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match timeout {
            None => self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.changed
                    .wait_timeout(state, timeout)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// A worker's model thread.
    fn run_batches(&self, worker: usize, model: &dyn CrossEncoder, from_packer: &Receiver<Packed>) {
        for Packed { batch, entries } in from_packer {
            let started = Instant::now();
            self.lock().start(&entries, started);
            let redone = model.batches_redone();
            let result = predict(model, &batch);
            self.metrics
                .redone_batches
                .inc_by(model.batches_redone() - redone);
            self.metrics
                .observe_batch(&batch, model.padding(&batch), started.elapsed());
            for (operation, took) in model.take_spent().into_iter().flatten() {
                self.metrics.observe_operation(operation.name(), took);
            }
            self.count_non_finite(&result);
            self.lock().finish(worker, &entries, result, started);
            self.changed.notify_all();
        }
    }
}

impl Shared {
    fn count_non_finite(&self, result: &Result<Vec<f32>>) {
        let logits = result.iter().flatten();
        let bad = logits.filter(|logit| !logit.is_finite()).count();
        self.metrics.non_finite_scores.inc_by(bad as u64);
    }
}

impl State {
    /// A worker runs one batch; it may pack one more beside it, if that is full and no other worker could start on it at once.
    fn may_take(&self, worker: usize) -> bool {
        let all_busy = self.in_flight.iter().all(|&batches| batches > 0);
        match self.in_flight[worker] {
            0 => true,
            1 => all_busy && self.queue.fills_a_batch(),
            _ => false,
        }
    }

    fn time_to_drain(&self) -> Duration {
        let seconds = self.queue.len() as f64 / self.pairs_per_second.max(1.0);
        Duration::from_secs_f64(seconds.ceil().clamp(1.0, 60.0))
    }

    fn start(&mut self, entries: &[Entry<Encoding>], now: Instant) {
        for entry in entries {
            if let Some(waiting) = self.waiting.get_mut(&entry.request) {
                waiting.started.get_or_insert(now);
            }
        }
    }

    /// Hands out the results of a batch; requests that are complete, or have failed, are answered.
    fn finish(
        &mut self,
        worker: usize,
        entries: &[Entry<Encoding>],
        result: Result<Vec<f32>>,
        started: Instant,
    ) {
        self.in_flight[worker] -= 1;
        match result {
            Ok(logits) => {
                for (entry, logit) in entries.iter().zip(logits) {
                    self.record(entry, logit);
                }
                let workers = self.in_flight.len() as f64;
                let rate =
                    workers * entries.len() as f64 / started.elapsed().as_secs_f64().max(1e-6);
                let weight = if self.pairs_per_second > 0.0 {
                    0.2
                } else {
                    1.0
                };
                self.pairs_per_second += weight * (rate - self.pairs_per_second);
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

/// Runs the model on a batch; a panic in it fails this batch and nothing else.
fn predict(model: &dyn CrossEncoder, batch: &Batch) -> Result<Vec<f32>> {
    let failed = |what: String| {
        error!(
            pairs = batch.len(),
            tokens = batch.input_ids.len(),
            "batch failed: {what}"
        );
        Error::Inference(what)
    };
    match catch_unwind(AssertUnwindSafe(|| model.predict(batch))) {
        Ok(Ok(logits)) if logits.len() == batch.len() => Ok(logits),
        Ok(Ok(logits)) => Err(failed(format!(
            "{} logits for {} pairs",
            logits.len(),
            batch.len()
        ))),
        Ok(Err(error)) => Err(failed(format!("{error:#}"))),
        Err(panic) => Err(failed(format!("panic: {}", panic_message(panic.as_ref())))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(run)?;
    Ok(())
}

#[cfg(test)]
mod tests;
