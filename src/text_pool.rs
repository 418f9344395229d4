//! Threads for work on text: parsing, tokenising, serialising.
//!
//! Work on text goes by the rules of the `Queue`, as work on tokens does: small requests first, no
//! later than a deadline, refused at once when it could not be done in time, and dropped when its
//! owner is gone. The unit is a byte. One thread takes small pieces only, so that a few large
//! requests cannot occupy all of them.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    deadline::Deadline,
    error::{Error, Result},
    queue::{Entry, Forecast, Limits, Pace, Queue, Refused, RequestId},
};

/// Pieces of requests with no more bytes than this left may run on any thread.
const SMALL: usize = 256 * 1024;

/// Pieces below this size do not show the speed.
const SMALLEST_MEASURED: usize = 64 * 1024;

/// One entry at a time; [`SMALL`] tells large requests from small ones.
const LIMITS: Limits = Limits {
    batch_tokens: SMALL,
    turn_tokens: SMALL,
    batch_pairs: 1,
    queue_pairs: usize::MAX,
};

/// The threads, shared by all requests. When it is dropped they end.
pub(crate) struct TextPool {
    shared: Arc<Shared>,
    next_id: AtomicU64,
}

struct Shared {
    state: Mutex<State>,
    /// Something was pushed or closed.
    changed: Condvar,
}

struct State {
    queue: Queue<Task>,
    /// Bytes that threads are working on.
    running: usize,
    pace: Pace,
    threads: usize,
    open: bool,
    /// The origin of the queue's times.
    origin: Instant,
}

/// One piece of work; it sends its own result.
type Task = Box<dyn FnOnce() + Send>;

/// Whether somebody still waits for the result. Long work asks now and then.
#[derive(Clone)]
pub(crate) struct Demand {
    given_up: Arc<AtomicBool>,
    deadline: Deadline,
}

impl Demand {
    /// A demand that ends with the deadline, if not before.
    pub(crate) fn until(deadline: Deadline) -> Self {
        Self {
            given_up: Arc::default(),
            deadline,
        }
    }

    /// Whether somebody still waits for the result.
    pub(crate) fn is_there(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed) && !self.deadline.is_over()
    }

    /// The error of work that was ended because there is no demand any more. A client that is gone
    /// does not see it.
    pub(crate) fn ended(&self) -> Error {
        self.deadline.exceeded()
    }
}

impl TextPool {
    /// Starts so many threads, at least two.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let threads = threads.max(2);
        let pool = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    queue: Queue::new(LIMITS),
                    running: 0,
                    pace: Pace::new(SMALLEST_MEASURED),
                    threads,
                    open: true,
                    origin: Instant::now(),
                }),
                changed: Condvar::new(),
            }),
            next_id: AtomicU64::new(0),
        };
        for thread in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let takes_large = thread > 0;
            thread::Builder::new()
                .name(format!("text-{thread}"))
                .spawn(move || shared.work(takes_large))?;
        }
        Ok(pool)
    }

    /// Does one piece of work on so many bytes. Dropping the future ends the work.
    ///
    /// # Errors
    /// See [`Self::run_all`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Deadline,
        work: impl FnOnce(&Demand) -> T + Send + 'static,
    ) -> Result<T> {
        let mut results = self.run_all(vec![(bytes, work)], deadline).await?;
        Ok(results.pop().expect("one piece of work has one result"))
    }

    /// Does the pieces of a request's work, each with its number of bytes, several at a time;
    /// results are in the order given. Dropping the future ends the work.
    ///
    /// # Errors
    /// [`Error::Late`] if it could not be done in time, [`Error::DeadlineExceeded`] if it is not,
    /// [`Error::Inference`] if a piece panics.
    pub(crate) async fn run_all<T: Send + 'static>(
        &self,
        pieces: Vec<(usize, impl FnOnce(&Demand) -> T + Send + 'static)>,
        deadline: Deadline,
    ) -> Result<Vec<T>> {
        let ticket = Ticket {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            demand: Demand::until(deadline),
            shared: &self.shared,
        };
        let mut results = Vec::with_capacity(pieces.len());
        let mut tasks: Vec<(Task, usize)> = Vec::with_capacity(pieces.len());
        for (bytes, work) in pieces {
            let (sender, receiver) = oneshot::channel();
            let demand = ticket.demand.clone();
            results.push(receiver);
            let task = Box::new(move || {
                if demand.is_there() {
                    let _ = sender.send(work(&demand));
                }
            });
            tasks.push((task, bytes.max(1)));
        }
        self.shared.push(ticket.id, tasks, deadline)?;
        let done = async {
            let mut done = Vec::with_capacity(results.len());
            for result in results {
                done.push(result.await.map_err(|_| ticket.why_without_result())?);
            }
            Ok(done)
        };
        deadline.bound(done).await
    }
}

impl Drop for TextPool {
    fn drop(&mut self) {
        self.shared.lock().open = false;
        self.shared.changed.notify_all();
    }
}

/// Ends a request's work when its owner is gone.
struct Ticket<'a> {
    id: RequestId,
    demand: Demand,
    shared: &'a Shared,
}

impl Ticket<'_> {
    fn why_without_result(&self) -> Error {
        if self.demand.is_there() {
            Error::Inference("work on text panicked".to_owned())
        } else {
            self.demand.ended()
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.demand.given_up.store(true, Ordering::Relaxed);
        self.shared.lock().queue.cancel(self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, id: RequestId, tasks: Vec<(Task, usize)>, deadline: Deadline) -> Result<()> {
        let mut state = self.lock();
        let forecast = state.forecast();
        let due = deadline.at().saturating_duration_since(state.origin);
        let due = due.as_secs_f64();
        let pushed = state.queue.push(id, tasks.into_iter(), due, &forecast);
        drop(state);
        self.changed.notify_all();
        pushed.map_err(|refused| match refused {
            Refused::Late { wait, retry_after } => Error::late(wait, retry_after),
            Refused::Full { .. } => Error::late(0.0, 1.0),
        })
    }

    /// A thread's life.
    fn work(&self, takes_large: bool) {
        while let Some(Entry { item, tokens, .. }) = self.take(takes_large) {
            let started = Instant::now();
            // The task's owner learns of a panic by the end of its channel.
            let _ = catch_unwind(AssertUnwindSafe(item));
            self.lock().finish(tokens, started.elapsed());
        }
    }

    /// Waits for a piece of work; none once closed.
    fn take(&self, takes_large: bool) -> Option<Entry<Task>> {
        let mut state = self.lock();
        loop {
            if !state.open {
                return None;
            }
            let least = state.queue.least_tokens();
            if least.is_some_and(|least| takes_large || least <= SMALL) {
                return state.take();
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn forecast(&self) -> Forecast {
        let seconds_per_byte = self.pace.seconds_per_unit() / self.threads as f64;
        Forecast {
            now: self.origin.elapsed().as_secs_f64(),
            busy: self.running as f64 * seconds_per_byte,
            seconds_per_token: seconds_per_byte,
        }
    }

    /// Takes the next piece of work, of which there is one.
    fn take(&mut self) -> Option<Entry<Task>> {
        let forecast = self.forecast();
        let entry = self.queue.next_batch(&forecast).pop()?;
        self.running += entry.tokens;
        Some(entry)
    }

    fn finish(&mut self, bytes: usize, took: Duration) {
        self.running -= bytes;
        self.pace.observe(bytes, took);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Nothing here takes this long; what does has failed.
    const LONG: Duration = Duration::from_secs(30);

    fn due() -> Deadline {
        Deadline::after(LONG)
    }

    #[tokio::test]
    async fn results_come_in_the_order_given() {
        let pool = TextPool::new(3).unwrap();
        let pieces = (0..50).map(|n| (1000 * n, move |_: &Demand| n)).collect();
        let results = pool.run_all(pieces, due()).await.unwrap();
        assert_eq!(results, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_panic_fails_its_request_only() {
        let pool = TextPool::new(2).unwrap();
        let failed = pool.run(1, due(), |_| panic!("a bug")).await;
        assert!(matches!(failed, Err::<(), _>(Error::Inference(_))));
        for n in 0..4 {
            assert_eq!(pool.run(1, due(), move |_| n).await, Ok(n));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn small_work_passes_large_work() {
        let pool = Arc::new(TextPool::new(2).unwrap());
        let (release, held) = mpsc::channel::<()>();
        let large = tokio::spawn({
            let pool = Arc::clone(&pool);
            let mut held = Some(held);
            async move {
                let pieces = (0..4).map(|_| {
                    let held = held.take();
                    let wait = move |_: &Demand| held.map(|held| held.recv_timeout(LONG).is_ok());
                    (SMALL, wait)
                });
                let pieces = pieces.collect();
                pool.run_all(pieces, due()).await
            }
        });
        for n in 0..20 {
            assert_eq!(pool.run(1, due(), move |_| n).await, Ok(n));
        }
        release.send(()).unwrap();
        let done = large.await.unwrap().unwrap();
        assert_eq!(done[0], Some(true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_ends_when_its_owner_is_gone() {
        let pool = Arc::new(TextPool::new(2).unwrap());
        let (started, begins) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let owner = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                let work = move |demand: &Demand| {
                    started.send(()).unwrap();
                    while demand.is_there() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    ended.send(()).unwrap();
                };
                pool.run(1, due(), work).await
            }
        });
        begins.recv_timeout(LONG).unwrap();
        owner.abort();
        ends.recv_timeout(LONG).expect("the work ends");
    }

    #[tokio::test]
    async fn work_ends_at_its_deadline() {
        let pool = TextPool::new(2).unwrap();
        let wait = |demand: &Demand| {
            while demand.is_there() {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let deadline = Deadline::after(Duration::from_millis(20));
        // The work and the wait for it end at the same moment.
        let ended = pool.run(1, deadline, wait).await;
        assert!(
            ended == Ok(()) || ended == Err(deadline.exceeded()),
            "{ended:?}"
        );
        assert!(deadline.is_over());
        assert_eq!(pool.run(1, due(), |_| 1).await, Ok(1), "the thread is free");
    }

    #[tokio::test]
    async fn what_is_past_its_deadline_is_not_begun() {
        let pool = TextPool::new(2).unwrap();
        let deadline = Deadline::after(Duration::ZERO);
        let begun = Arc::new(AtomicBool::new(false));
        let begin = Arc::clone(&begun);
        let run = pool.run(1, deadline, move |_| begin.store(true, Ordering::Relaxed));
        assert_eq!(run.await, Err(deadline.exceeded()));
        drop(pool);
        assert!(!begun.load(Ordering::Relaxed));
    }
}
