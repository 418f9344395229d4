//! Micro-batching: concurrent requests share batches.
//!
//! Requests put their pairs into one `Queue` and wait for an answer. Each copy of the model, one
//! for each GPU, has a thread of its own, a *worker*: it takes a batch from the queue, packs it,
//! computes it and hands the logits out. A worker that is free takes what is there: nobody waits
//! for company (unless `batch_wait` asks for it). Nothing is taken before it can be computed, so
//! that a small request waits for one batch at most. Packing takes microseconds.
//!
//! A request leaves in one of three ways: answered, failed with its batch, or dropped by its owner
//! (a client that hung up, a deadline that passed), which takes its pairs out of the queue.

mod state;

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::error;

pub(crate) use self::state::Scored;
use self::state::{Computed, State, Waiting};
use crate::{
    batch::Batch,
    deadline::Deadline,
    error::{Error, Result, whole_seconds},
    metrics::Metrics,
    model::CrossEncoder,
    queue::{Entry, Limits, Pace, Refused, RequestId},
    tokenizer::Encoding,
};

/// How requests share the model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Pairs computed at once.
    pub batch_pairs: usize,
    /// Pairs that may wait.
    pub queue_pairs: usize,
    /// How long a batch that is not full waits for company while the model is free. Zero: not at
    /// all.
    pub batch_wait: Duration,
}

/// The handle that requests share. When it is dropped the threads drain the queue and end.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
    next_id: AtomicU64,
}

struct Shared {
    limits: Limits,
    batch_wait: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Something was pushed or closed.
    changed: Condvar,
}

impl Scheduler {
    /// Starts a thread for each copy of the model. A batch that is not full waits `batch_wait` for
    /// company. `pace` is what is known of their speed, in seconds per token.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(crate) fn new(
        models: Vec<Box<dyn CrossEncoder>>,
        limits: Limits,
        batch_wait: Duration,
        pace: Pace,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            limits,
            batch_wait,
            metrics,
            state: Mutex::new(State::new(limits, models.len(), pace)),
            changed: Condvar::new(),
        });
        for (worker, model) in models.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("model-{worker}"))
                .spawn(move || shared.run_batches(worker, model.as_ref()))?;
        }
        Ok(Self {
            shared,
            next_id: AtomicU64::new(0),
        })
    }

    /// Scores a request's pairs by a deadline, all or none. Dropping the future takes what still
    /// waits out of the queue.
    ///
    /// # Errors
    /// [`Error::Overloaded`] at once if they do not fit the queue now, [`Error::TooManyPairs`] if
    /// they never will; [`Error::Late`] if they cannot be done in time, as soon as that is known,
    /// [`Error::TooSlow`] if they could not even alone; [`Error::ShuttingDown`] after
    /// [`Self::close`]; [`Error::Inference`] if the batch of any of them failed.
    pub(crate) async fn score(&self, pairs: Vec<Encoding>, deadline: Deadline) -> Result<Scored> {
        if pairs.is_empty() {
            let (queued, computed) = (Duration::ZERO, Duration::ZERO);
            return Ok(Scored {
                logits: Vec::new(),
                redone: false,
                queued,
                computed,
            });
        }
        let ticket = Ticket {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            shared: &self.shared,
        };
        let answer = self.shared.admit(ticket.id, pairs, deadline)?;
        answer
            .await
            .unwrap_or_else(|_| Err(Error::Inference("the scheduler has stopped".to_owned())))
    }

    /// Whether a request of about so many tokens would be admitted behind those that wait; yes if
    /// none do.
    ///
    /// # Errors
    /// [`Error::Late`] if not.
    pub(crate) fn check(&self, tokens: usize, deadline: Deadline) -> Result<()> {
        let state = self.shared.lock();
        if state.queue.is_empty() {
            return Ok(());
        }
        let checked = state
            .queue
            .check(tokens, state.due(deadline), &state.forecast());
        checked.map_err(|refused| self.shared.refusal(&state, refused, 0))
    }

    /// How long a worker takes for so many tokens, in seconds.
    pub(crate) fn seconds(&self, tokens: usize) -> f64 {
        tokens as f64 * self.shared.lock().seconds_per_token()
    }

    /// Pairs waiting for a batch.
    pub(crate) fn queued_pairs(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Refuses new requests from now on; those admitted are still answered.
    pub(crate) fn close(&self) {
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
    /// A thread that panicked while it held the lock is a bug, but no reason to fail every request
    /// after it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        &self,
        id: RequestId,
        pairs: Vec<Encoding>,
        deadline: Deadline,
    ) -> Result<oneshot::Receiver<Result<Scored>>> {
        let mut state = self.lock();
        if !state.open {
            return Err(Error::ShuttingDown);
        }
        let (count, limit) = (pairs.len(), self.limits.queue_pairs);
        if count > limit {
            return Err(Error::TooManyPairs {
                pairs: count,
                limit,
            });
        }
        state.check_alone(pairs.iter().map(Vec::len).sum(), deadline)?;
        let forecast = state.forecast();
        let due = state.due(deadline);
        let items = pairs.into_iter().map(|encoding| {
            let tokens = encoding.len();
            (encoding, tokens)
        });
        let pushed = state.queue.push(id, items, due, &forecast);
        pushed.map_err(|refused| self.refusal(&state, refused, count))?;
        let (answer, receiver) = oneshot::channel();
        state.waiting.insert(id, Waiting::new(count, answer));
        drop(state);
        self.changed.notify_all();
        Ok(receiver)
    }

    /// Why a request of so many pairs was refused.
    fn refusal(&self, state: &State, refused: Refused, pairs: usize) -> Error {
        match refused {
            Refused::Full { queued } => Error::Overloaded {
                queued,
                refused: pairs,
                limit: self.limits.queue_pairs,
                retry_after: whole_seconds(state.queue.time_to_drain(&state.forecast())),
            },
            Refused::Late { wait, retry_after } => Error::late(wait, retry_after),
        }
    }

    /// Waits until a batch is due for this worker and takes it; `None` once closed and drained.
    fn take_batch(&self, worker: usize) -> Option<Vec<Entry<Encoding>>> {
        let mut state = self.lock();
        let mut company_until = None;
        loop {
            state.shed();
            if state.queue.is_empty() {
                if !state.open {
                    return None;
                }
                company_until = None;
                state = self.wait(state, None);
            } else if state.queue.fills_a_batch() || !state.open {
                break;
            } else {
                // The batch is not full: take it, unless told to wait for company.
                let until = *company_until.get_or_insert_with(|| Instant::now() + self.batch_wait);
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                state = self.wait(state, Some(left));
            }
        }
        Some(state.take(worker))
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

    /// A worker's life.
    fn run_batches(&self, worker: usize, model: &dyn CrossEncoder) {
        while let Some(entries) = self.take_batch(worker) {
            let batch = Batch::pack(entries.iter().map(|entry| entry.item.as_slice()));
            let started = Instant::now();
            let redone = model.batches_redone();
            let result = predict(model, &batch);
            let redone = model.batches_redone() - redone;
            self.metrics.redone_batches.inc_by(redone);
            self.metrics.observe_batch(
                batch.len(),
                batch.input_ids.len(),
                model.padding(&batch),
                started.elapsed(),
            );
            for (operation, took) in model.take_spent().into_iter().flatten() {
                self.metrics.observe_operation(operation.name(), took);
            }
            self.count_non_finite(&result);
            let result = result.map(|logits| Computed {
                logits,
                redone: redone > 0,
            });
            self.lock().finish(worker, &entries, result, started);
        }
    }

    fn count_non_finite(&self, result: &Result<Vec<f32>>) {
        let logits = result.iter().flatten();
        let bad = logits.filter(|logit| !logit.is_finite()).count();
        self.metrics.non_finite_scores.inc_by(bad as u64);
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

#[cfg(test)]
mod tests;
