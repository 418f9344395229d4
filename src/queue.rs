//! The queue's policy as a pure data structure: no clock, no threads, no model.
//!
//! Times are seconds since an origin that the caller chooses; a `Forecast` says how fast work is done.
//!
//! **Order.** The request with the least work left goes first; among equals, the one that came first.
//! A request whose deadline leaves less than one batch of slack is urgent, and so is every request
//! whose deadline is earlier. While there are urgent ones, the others that go first share half a
//! batch, and the urgent ones have the rest, in the order of deadlines: neither starves the other.
//! A batch in which requests are done is filled up with work of others, urgent ones aside, for a short
//! time only.
//!
//! **Admission.** A request is admitted, whole, if it and every request admitted before it can be
//! done by its deadline. Requests of more than one batch may use `LARGE_SHARE` of their time only,
//! so that small ones find room while large ones fill the queue.
//!
//! **Shedding.** When work turns out slower than forecast, or small requests have passed large ones,
//! some can no longer be done in time. They leave before they are computed, the largest first.
//!
//! Without a known speed every request is admitted, up to the limit on pairs, and none is shed.

mod pace;
#[cfg(test)]
mod simulation;

use std::collections::{BinaryHeap, VecDeque};

pub use self::pace::Pace;

/// Seconds that a request which would be done with a batch may wait for larger ones to be computed
/// in the same batch.
const FILLING: f64 = 0.02;

/// The share of the time until its deadline that a request of more than one batch may count on.
pub(crate) const LARGE_SHARE: f64 = 0.95;

/// How much fits where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a batch. A single pair longer than this still gets a batch, of its own.
    pub batch_tokens: usize,
    /// Pairs in a batch.
    pub batch_pairs: usize,
    /// Pairs waiting.
    pub queue_pairs: usize,
}

/// Identifies a request while it is here.
pub(crate) type RequestId = u64;

/// When work would be done, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forecast {
    /// The present.
    pub(crate) now: f64,
    /// Seconds until the batches that have left the queue are done.
    pub(crate) busy: f64,
    /// All workers together; 0 if that is not known.
    pub(crate) seconds_per_token: f64,
}

impl Forecast {
    /// When so many tokens are done, if nothing else goes before them.
    fn finish(&self, tokens: usize) -> f64 {
        self.now + self.busy + tokens as f64 * self.seconds_per_token
    }

    /// The tokens that are done in so many seconds; without bound if the speed is not known.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a conversion that saturates is what is wanted"
    )]
    fn tokens_in(&self, seconds: f64) -> usize {
        (seconds / self.seconds_per_token) as usize
    }
}

/// A request was not taken, and none of its pairs was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Refused {
    /// Its pairs do not fit.
    Full {
        /// Pairs waiting already.
        queued: usize,
    },
    /// It, or a request admitted before it, would miss its deadline.
    Late {
        /// Seconds until it would be done.
        wait: f64,
        /// Seconds after which the same request could be admitted.
        retry_after: f64,
    },
}

/// A request that left the line because it could not be done in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shed {
    pub(crate) request: RequestId,
    /// When it would have been done.
    pub(crate) finish: f64,
    /// How many seconds after its deadline that is.
    pub(crate) late: f64,
}

/// One pair in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<T> {
    /// The request that the pair belongs to.
    pub(crate) request: RequestId,
    /// The pair's place in its request.
    pub(crate) index: usize,
    /// What was pushed.
    pub(crate) item: T,
    /// What it counts against a batch.
    pub(crate) tokens: usize,
}

/// Waiting requests, in the order of their deadlines.
pub(crate) struct Queue<T> {
    limits: Limits,
    line: VecDeque<Waiting<T>>,
    pairs: usize,
    tokens: usize,
}

struct Waiting<T> {
    request: RequestId,
    pairs: VecDeque<Entry<T>>,
    /// Tokens of these pairs.
    tokens: usize,
    /// The deadline.
    due: f64,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: VecDeque::new(),
            pairs: 0,
            tokens: 0,
        }
    }

    /// Pairs waiting.
    pub(crate) fn len(&self) -> usize {
        self.pairs
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// Whether what waits fills a batch, so that waiting longer for company is pointless.
    pub(crate) fn fills_a_batch(&self) -> bool {
        self.tokens >= self.limits.batch_tokens || self.pairs >= self.limits.batch_pairs
    }

    /// The tokens of the request that has the fewest left; none if nothing waits.
    pub(crate) fn least_tokens(&self) -> Option<usize> {
        self.line.iter().map(|waiting| waiting.tokens).min()
    }

    /// Puts a request's pairs, each with its number of tokens, in line: all of them or none.
    ///
    /// # Errors
    /// [`Refused`] if they do not fit, or could not be done by `due`.
    pub(crate) fn push(
        &mut self,
        request: RequestId,
        items: impl ExactSizeIterator<Item = (T, usize)>,
        due: f64,
        forecast: &Forecast,
    ) -> Result<(), Refused> {
        if self.pairs + items.len() > self.limits.queue_pairs {
            return Err(Refused::Full { queued: self.pairs });
        }
        let pairs: VecDeque<_> = items
            .enumerate()
            .map(|(index, (item, tokens))| Entry {
                request,
                index,
                item,
                tokens,
            })
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let tokens = pairs.iter().map(|pair| pair.tokens).sum();
        let place = self.place(due);
        self.check_deadlines(place, tokens, due, forecast)?;
        self.pairs += pairs.len();
        self.tokens += tokens;
        let waiting = Waiting {
            request,
            pairs,
            tokens,
            due,
        };
        self.line.insert(place, waiting);
        Ok(())
    }

    /// Whether a request of so many tokens would be admitted now, the limit on pairs aside.
    ///
    /// # Errors
    /// [`Refused::Late`] if not.
    pub(crate) fn check(
        &self,
        tokens: usize,
        due: f64,
        forecast: &Forecast,
    ) -> Result<(), Refused> {
        self.check_deadlines(self.place(due), tokens, due, forecast)
    }

    /// The place in line of a request with this deadline.
    fn place(&self, due: f64) -> usize {
        self.line.partition_point(|waiting| waiting.due <= due)
    }

    /// Whether a request at this place in line, and those behind it, could be done in time.
    fn check_deadlines(
        &self,
        place: usize,
        tokens: usize,
        due: f64,
        forecast: &Forecast,
    ) -> Result<(), Refused> {
        if forecast.seconds_per_token == 0.0 {
            return Ok(());
        }
        let share = if tokens > self.limits.batch_tokens {
            LARGE_SHARE
        } else {
            1.0
        };
        let mut work = tokens + tokens_of(self.line.range(..place));
        let finish = forecast.finish(work);
        let mut late = finish - (forecast.now + share * (due - forecast.now));
        for behind in self.line.range(place..) {
            work += behind.tokens;
            late = late.max(forecast.finish(work) - behind.due);
        }
        if late > 0.0 {
            return Err(Refused::Late {
                wait: finish - forecast.now,
                retry_after: late,
            });
        }
        Ok(())
    }

    /// Removes requests until all that stay can be done in time: while one would be late, the
    /// largest of those no later than it, so that as many as possible stay (J. M. Moore, "An n job,
    /// one machine sequencing algorithm for minimizing the number of late jobs", 1968).
    pub(crate) fn shed(&mut self, forecast: &Forecast) -> Vec<Shed> {
        let mut shed = Vec::new();
        if forecast.seconds_per_token == 0.0 {
            return shed;
        }
        let mut work = 0;
        let mut kept = BinaryHeap::new();
        for (place, waiting) in self.line.iter().enumerate() {
            work += waiting.tokens;
            kept.push((waiting.tokens, place));
            let finish = forecast.finish(work);
            if finish > waiting.due
                && let Some((tokens, largest)) = kept.pop()
            {
                work -= tokens;
                shed.push(Shed {
                    request: self.line[largest].request,
                    finish,
                    late: finish - waiting.due,
                });
            }
        }
        for shed in &shed {
            self.cancel(shed.request);
        }
        shed
    }

    /// Takes the pairs to compute next: empty only if nothing waits.
    pub(crate) fn next_batch(&mut self, forecast: &Forecast) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let urgent = self.urgent(forecast);
        let whole = self.limits.batch_tokens;
        let mut shortest_first: Vec<usize> = (0..self.line.len()).collect();
        shortest_first.sort_by_key(|&place| self.line[place].tokens);
        let done_with_it =
            self.fitting(&shortest_first, if urgent > 0 { whole / 2 } else { whole });
        let (small, others) = shortest_first.split_at(done_with_it);
        self.fill(&mut batch, small.iter().copied(), whole);
        self.fill(&mut batch, 0..urgent, whole);
        let most = if small.is_empty() {
            whole
        } else {
            whole.min(tokens_in(&batch).saturating_add(forecast.tokens_in(FILLING)))
        };
        self.fill(&mut batch, others.iter().copied(), most);
        self.pairs -= batch.len();
        self.line.retain(|waiting| !waiting.pairs.is_empty());
        batch
    }

    /// How many requests, from the first of these places in line, fit whole in so many tokens and in
    /// the pairs of a batch.
    fn fitting(&self, places: &[usize], most: usize) -> usize {
        let (mut tokens, mut pairs) = (0, 0);
        let fit = places.iter().take_while(|&&place| {
            tokens += self.line[place].tokens;
            pairs += self.line[place].pairs.len();
            tokens <= most && pairs <= self.limits.batch_pairs
        });
        fit.count()
    }

    /// Adds the pairs of requests, given by their places in line, until the next one would make the
    /// batch more than so many tokens. A pair larger than a batch has one of its own.
    fn fill(
        &mut self,
        batch: &mut Vec<Entry<T>>,
        places: impl IntoIterator<Item = usize>,
        most: usize,
    ) {
        let mut tokens = tokens_in(batch);
        for place in places {
            let waiting = &mut self.line[place];
            while let Some(next) = waiting.pairs.front() {
                let fits = tokens + next.tokens <= most && batch.len() < self.limits.batch_pairs;
                if !fits && !batch.is_empty() {
                    return;
                }
                tokens += next.tokens;
                waiting.tokens -= next.tokens;
                self.tokens -= next.tokens;
                batch.extend(waiting.pairs.pop_front());
            }
        }
    }

    /// How many of the line, from its front, cannot be put off for a batch.
    fn urgent(&self, forecast: &Forecast) -> usize {
        if forecast.seconds_per_token == 0.0 {
            return 0;
        }
        let mut work = self.limits.batch_tokens;
        let mut urgent = 0;
        for (place, waiting) in self.line.iter().enumerate() {
            work += waiting.tokens;
            if forecast.finish(work) > waiting.due {
                urgent = place + 1;
            }
        }
        urgent
    }

    /// Seconds until what waits is done.
    pub(crate) fn time_to_drain(&self, forecast: &Forecast) -> f64 {
        forecast.finish(self.tokens) - forecast.now
    }

    /// Forgets a request; returns how many of its pairs were still waiting.
    pub(crate) fn cancel(&mut self, request: RequestId) -> usize {
        let place = self.line.iter().position(|w| w.request == request);
        let Some(cancelled) = place.and_then(|place| self.line.remove(place)) else {
            return 0;
        };
        self.pairs -= cancelled.pairs.len();
        self.tokens -= cancelled.tokens;
        cancelled.pairs.len()
    }
}

fn tokens_in<T>(batch: &[Entry<T>]) -> usize {
    batch.iter().map(|entry| entry.tokens).sum()
}

fn tokens_of<'a, T: 'a>(waiting: impl Iterator<Item = &'a Waiting<T>>) -> usize {
    waiting.map(|waiting| waiting.tokens).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Far enough away that nothing is late.
    const NEVER: f64 = 1e9;

    /// Nothing is known of the speed.
    const UNKNOWN: Forecast = Forecast {
        now: 0.0,
        busy: 0.0,
        seconds_per_token: 0.0,
    };

    fn limits(batch_tokens: usize, batch_pairs: usize, queue_pairs: usize) -> Limits {
        Limits {
            batch_tokens,
            batch_pairs,
            queue_pairs,
        }
    }

    /// A hundredth of a second for a token.
    fn at(now: f64) -> Forecast {
        Forecast {
            now,
            busy: 0.0,
            seconds_per_token: 0.01,
        }
    }

    fn push(queue: &mut Queue<()>, request: RequestId, tokens: &[usize]) -> Result<(), Refused> {
        let items = tokens.iter().map(|&tokens| ((), tokens));
        queue.push(request, items, NEVER, &UNKNOWN)
    }

    fn push_by(
        queue: &mut Queue<()>,
        request: RequestId,
        tokens: &[usize],
        due: f64,
        forecast: &Forecast,
    ) -> Result<(), Refused> {
        let items = tokens.iter().map(|&tokens| ((), tokens));
        queue.push(request, items, due, forecast)
    }

    /// The next batch as (request, index) pairs.
    fn next(queue: &mut Queue<()>) -> Vec<(RequestId, usize)> {
        next_at(queue, &UNKNOWN)
    }

    fn next_at(queue: &mut Queue<()>, forecast: &Forecast) -> Vec<(RequestId, usize)> {
        let batch = queue.next_batch(forecast);
        batch.iter().map(|e| (e.request, e.index)).collect()
    }

    #[test]
    fn equal_requests_share_a_batch_in_the_order_they_came() {
        let mut queue = Queue::new(limits(100, 10, 100));
        push(&mut queue, 1, &[30, 30]).unwrap();
        push(&mut queue, 2, &[30, 30]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0), (1, 1), (2, 0)]);
        assert_eq!(next(&mut queue), [(2, 1)]);
        assert_eq!(next(&mut queue), []);
    }

    #[test]
    fn small_requests_pass_a_large_one() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push(&mut queue, 1, &[50; 20]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0), (1, 1)]);
        push(&mut queue, 2, &[40, 40]).unwrap();
        push(&mut queue, 3, &[20]).unwrap();
        assert_eq!(next(&mut queue), [(3, 0), (2, 0), (2, 1)]);
        assert_eq!(next(&mut queue), [(1, 2), (1, 3)]);
    }

    #[test]
    fn a_large_request_that_would_be_late_is_passed_by_half_a_batch_at_most() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push_by(&mut queue, 1, &[50; 20], 14.0, &at(0.0)).unwrap();
        push_by(&mut queue, 2, &[50], 20.0, &at(0.0)).unwrap();
        assert_eq!(next_at(&mut queue, &at(0.0)), [(2, 0)], "done sooner alone");
        for small in 3..6 {
            push_by(&mut queue, small, &[20], 20.0, &at(4.0)).unwrap();
        }
        assert_eq!(
            next_at(&mut queue, &at(4.0)),
            [(3, 0), (4, 0), (1, 0)],
            "10 s of work are left and 10 s of time"
        );
        assert_eq!(next_at(&mut queue, &at(0.0)), [(5, 0)]);
    }

    #[test]
    fn what_would_be_late_is_refused_with_the_time_to_come_back() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push_by(&mut queue, 1, &[100; 9], 10.0, &at(0.0)).unwrap();
        let refused = push_by(&mut queue, 2, &[50, 100], 10.0, &at(0.0));
        let Err(Refused::Late { wait, retry_after }) = refused else {
            panic!("{refused:?}");
        };
        assert!((wait - 10.5).abs() < 1e-9, "{wait}");
        assert!(
            (retry_after - 1.0).abs() < 1e-9,
            "of its 10 s it may use 9.5: {retry_after}"
        );
        push_by(&mut queue, 3, &[100], 10.0, &at(0.0)).unwrap();
        assert_eq!(queue.len(), 10);
    }

    #[test]
    fn nobody_is_admitted_who_would_make_others_late() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push_by(&mut queue, 1, &[100; 5], 6.0, &at(0.0)).unwrap();
        assert!(push_by(&mut queue, 2, &[100; 2], 3.0, &at(0.0)).is_err());
        push_by(&mut queue, 3, &[100], 3.0, &at(0.0)).unwrap();
        assert_eq!(next_at(&mut queue, &at(0.0)), [(3, 0)]);
    }

    #[test]
    fn what_can_no_longer_be_done_leaves_before_it_is_computed() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        for request in 0..8 {
            push_by(&mut queue, request, &[100], 8.0, &at(0.0)).unwrap();
        }
        assert!(queue.shed(&at(0.0)).is_empty());
        let slower = Forecast {
            seconds_per_token: 0.02,
            ..at(0.0)
        };
        let shed: Vec<RequestId> = queue.shed(&slower).iter().map(|s| s.request).collect();
        assert_eq!(shed, [4, 5, 6, 7], "the last that came");
        assert_eq!((queue.len(), queue.tokens), (4, 400));
        assert!(queue.shed(&slower).is_empty());
    }

    #[test]
    fn admission_is_all_or_nothing_at_the_limit_and_one_past_it() {
        let mut queue = Queue::new(limits(100, 10, 5));
        push(&mut queue, 1, &[1, 1]).unwrap();
        assert_eq!(
            push(&mut queue, 2, &[1; 4]),
            Err(Refused::Full { queued: 2 })
        );
        assert_eq!(queue.len(), 2);
        push(&mut queue, 3, &[1; 3]).unwrap();
        assert_eq!(queue.len(), 5);
    }

    #[test]
    fn a_pair_larger_than_a_batch_gets_one_of_its_own() {
        let mut queue = Queue::new(limits(100, 10, 5));
        push(&mut queue, 1, &[10, 500, 10]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0)]);
        assert_eq!(next(&mut queue), [(1, 1)]);
        assert_eq!(next(&mut queue), [(1, 2)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<usize>, f64),
        Take,
        Cancel(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (prop::collection::vec(1usize..60, 0..30), 0.0..40.0)
                .prop_map(|(tokens, patience)| Step::Push(tokens, patience)),
            3 => Just(Step::Take),
            1 => (0usize..20).prop_map(Step::Cancel),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn every_admitted_pair_leaves_exactly_once_in_bounded_batches(
            steps in steps(),
            seconds_per_token in prop_oneof![Just(0.0), Just(0.01)],
        ) {
            let mut queue = Queue::new(limits(50, 7, 60));
            let mut due: HashMap<RequestId, VecDeque<usize>> = HashMap::new();
            let mut drain = vec![Step::Take; 2000];
            let mut all = steps;
            all.append(&mut drain);
            let mut forecast = Forecast { now: 0.0, busy: 0.0, seconds_per_token };
            for (request, step) in (0u64..).zip(all) {
                match step {
                    Step::Push(tokens, patience) => {
                        let waiting: usize = due.values().map(VecDeque::len).sum();
                        let fits = waiting + tokens.len() <= 60;
                        let by = forecast.now + patience;
                        match push_by(&mut queue, request, &tokens, by, &forecast) {
                            Ok(()) => {
                                prop_assert!(fits);
                                due.insert(request, (0..tokens.len()).collect());
                            }
                            Err(Refused::Full { .. }) => prop_assert!(!fits),
                            Err(Refused::Late { wait, retry_after }) => {
                                prop_assert!(seconds_per_token > 0.0 && wait > 0.0 && retry_after > 0.0);
                            }
                        }
                    }
                    Step::Take => {
                        let was_empty = queue.is_empty();
                        let batch = queue.next_batch(&forecast);
                        let tokens: usize = batch.iter().map(|entry| entry.tokens).sum();
                        prop_assert_eq!(batch.is_empty(), was_empty);
                        prop_assert!(tokens <= 50 || batch.len() == 1);
                        prop_assert!(batch.len() <= 7);
                        for entry in batch {
                            let expected = due.get_mut(&entry.request).and_then(VecDeque::pop_front);
                            prop_assert_eq!(expected, Some(entry.index), "in order, and only live pairs");
                        }
                        forecast.now += tokens as f64 * seconds_per_token;
                    }
                    Step::Cancel(nth) => {
                        let Some(&victim) = due.keys().nth(nth) else { continue };
                        let left = due.remove(&victim).map_or(0, |pairs| pairs.len());
                        prop_assert_eq!(queue.cancel(victim), left);
                    }
                }
                for shed in queue.shed(&forecast) {
                    prop_assert!(shed.late > 1e-6, "it was admitted, and the speed is as forecast");
                    due.remove(&shed.request);
                }
                let waiting: usize = due.values().map(VecDeque::len).sum();
                let tokens: usize = tokens_of(queue.line.iter());
                prop_assert_eq!(queue.len(), waiting);
                prop_assert_eq!(queue.tokens, tokens);
            }
            prop_assert!(queue.is_empty() && queue.tokens == 0);
        }

        /// A request waits for no request that had more work left when it came.
        #[test]
        fn a_small_request_waits_for_smaller_ones_only(
            large in prop::collection::vec(prop::collection::vec(1usize..=50, 1..200), 0..8),
            small in prop::collection::vec(1usize..=50, 1..4),
            taken in 0usize..5,
        ) {
            const BATCH: usize = 100;
            let mut queue = Queue::new(limits(BATCH, usize::MAX, usize::MAX));
            for (request, tokens) in (0..).zip(&large) {
                push(&mut queue, request, tokens).unwrap();
            }
            for _ in 0..taken {
                queue.next_batch(&UNKNOWN);
            }
            let size: usize = small.iter().sum();
            let smaller = queue.line.iter().filter(|waiting| waiting.tokens <= size);
            let smaller: usize = tokens_of(smaller);
            push(&mut queue, 99, &small).unwrap();
            let (mut ahead, mut left) = (0, small.len());
            while left > 0 {
                for entry in queue.next_batch(&UNKNOWN) {
                    if entry.request == 99 { left -= 1 } else if left > 0 { ahead += entry.tokens }
                }
            }
            prop_assert!(ahead <= smaller, "{ahead} tokens went first, {smaller} may");
        }
    }
}
