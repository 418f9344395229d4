//! The queue's policy as a pure data structure: no clock, no threads, no model.
//!
//! **The rule.** Requests are served in the order they came. A request may take one *turn* of `batch_tokens` tokens;
//! if pairs of it are left then, it goes to the end of the line for its next turn. A batch is filled from the front of
//! the line until the next pair would not fit. So a request that fits one turn waits at most one turn for each request
//! ahead of it, however large those are, and requests of one turn keep their order.

use std::collections::VecDeque;

/// How much fits where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a batch, and in a turn. A single pair longer than this still gets a batch, of its own.
    pub batch_tokens: usize,
    /// Pairs in a batch.
    pub batch_pairs: usize,
    /// Pairs waiting.
    pub queue_pairs: usize,
}

/// Identifies a request while it is here.
pub(super) type RequestId = u64;

/// A request's pairs did not fit; none of them was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// Pairs waiting already.
    pub(super) queued: usize,
}

/// One pair in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<T> {
    /// Whose it is.
    pub(super) request: RequestId,
    /// Its place among the pairs of its request.
    pub(super) index: usize,
    /// What was pushed.
    pub(super) item: T,
    /// What it counts against a batch.
    pub(super) tokens: usize,
}

/// Waiting requests, in line.
pub(super) struct Queue<T> {
    limits: Limits,
    line: VecDeque<Waiting<T>>,
    pairs: usize,
    tokens: usize,
}

struct Waiting<T> {
    request: RequestId,
    pairs: VecDeque<Entry<T>>,
    /// Tokens left in this turn.
    turn: usize,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: VecDeque::new(),
            pairs: 0,
            tokens: 0,
        }
    }

    /// Pairs waiting.
    pub(super) fn len(&self) -> usize {
        self.pairs
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// Whether what waits fills a batch, so that waiting longer for company is pointless.
    pub(super) fn fills_a_batch(&self) -> bool {
        self.tokens >= self.limits.batch_tokens || self.pairs >= self.limits.batch_pairs
    }

    /// Puts a request's pairs, each with its number of tokens, at the end of the line: all of them or none.
    ///
    /// # Errors
    /// [`Full`] if they do not all fit.
    pub(super) fn push(
        &mut self,
        request: RequestId,
        items: impl ExactSizeIterator<Item = (T, usize)>,
    ) -> Result<(), Full> {
        if self.pairs + items.len() > self.limits.queue_pairs {
            return Err(Full { queued: self.pairs });
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
        if !pairs.is_empty() {
            self.pairs += pairs.len();
            self.tokens += pairs.iter().map(|pair| pair.tokens).sum::<usize>();
            self.line.push_back(Waiting {
                request,
                pairs,
                turn: self.limits.batch_tokens,
            });
        }
        Ok(())
    }

    /// Takes the pairs to compute next: empty only if nothing waits.
    pub(super) fn next_batch(&mut self) -> Vec<Entry<T>> {
        let mut batch = Vec::new();
        let mut room = self.limits.batch_tokens;
        while let Some(front) = self.line.front_mut() {
            let next = front.pairs[0].tokens;
            if !batch.is_empty() && (next > room || batch.len() == self.limits.batch_pairs) {
                break;
            }
            let turn_is_over = next > front.turn && front.turn < self.limits.batch_tokens;
            if turn_is_over {
                front.turn = self.limits.batch_tokens;
                self.line.rotate_left(1);
                continue;
            }
            batch.extend(self.take_front());
            room = room.saturating_sub(next);
        }
        batch
    }

    /// Takes the next pair of the first request, which leaves the line with its last one.
    fn take_front(&mut self) -> Option<Entry<T>> {
        let front = self.line.front_mut()?;
        let entry = front.pairs.pop_front()?;
        front.turn = front.turn.saturating_sub(entry.tokens);
        if front.pairs.is_empty() {
            self.line.pop_front();
        }
        self.pairs -= 1;
        self.tokens -= entry.tokens;
        Some(entry)
    }

    /// Forgets a request; returns how many of its pairs were still waiting.
    pub(super) fn cancel(&mut self, request: RequestId) -> usize {
        let Some(place) = self
            .line
            .iter()
            .position(|waiting| waiting.request == request)
        else {
            return 0;
        };
        let cancelled = self
            .line
            .remove(place)
            .map_or_else(VecDeque::new, |waiting| waiting.pairs);
        self.pairs -= cancelled.len();
        self.tokens -= cancelled.iter().map(|pair| pair.tokens).sum::<usize>();
        cancelled.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn limits(batch_tokens: usize, batch_pairs: usize, queue_pairs: usize) -> Limits {
        Limits {
            batch_tokens,
            batch_pairs,
            queue_pairs,
        }
    }

    fn push(queue: &mut Queue<()>, request: RequestId, tokens: &[usize]) -> Result<(), Full> {
        queue.push(request, tokens.iter().map(|&tokens| ((), tokens)))
    }

    /// The next batch as (request, index) pairs.
    fn next(queue: &mut Queue<()>) -> Vec<(RequestId, usize)> {
        queue
            .next_batch()
            .iter()
            .map(|entry| (entry.request, entry.index))
            .collect()
    }

    #[test]
    fn requests_share_a_batch_in_the_order_they_came() {
        let mut queue = Queue::new(limits(100, 10, 100));
        push(&mut queue, 1, &[30, 30]).unwrap();
        push(&mut queue, 2, &[30, 30]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0), (1, 1), (2, 0)]);
        assert_eq!(next(&mut queue), [(2, 1)]);
        assert_eq!(next(&mut queue), []);
    }

    #[test]
    fn a_large_request_yields_after_each_turn() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push(&mut queue, 1, &[50; 20]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0), (1, 1)]);
        push(&mut queue, 2, &[50]).unwrap();
        push(&mut queue, 3, &[50]).unwrap();
        assert_eq!(
            next(&mut queue),
            [(2, 0), (3, 0)],
            "the large one has had its turn"
        );
        assert_eq!(next(&mut queue), [(1, 2), (1, 3)]);
    }

    #[test]
    fn a_turn_cut_short_by_a_full_batch_goes_on_in_the_next() {
        let mut queue = Queue::new(limits(100, 100, 1000));
        push(&mut queue, 1, &[60]).unwrap();
        push(&mut queue, 2, &[40; 5]).unwrap();
        push(&mut queue, 3, &[40]).unwrap();
        assert_eq!(next(&mut queue), [(1, 0), (2, 0)]);
        assert_eq!(
            next(&mut queue),
            [(2, 1), (3, 0)],
            "one more pair of the turn, then the next in line"
        );
        assert_eq!(next(&mut queue), [(2, 2), (2, 3)]);
    }

    #[test]
    fn admission_is_all_or_nothing_at_the_limit_and_one_past_it() {
        let mut queue = Queue::new(limits(100, 10, 5));
        push(&mut queue, 1, &[1, 1]).unwrap();
        assert_eq!(push(&mut queue, 2, &[1; 4]), Err(Full { queued: 2 }));
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
        Push(Vec<usize>),
        Take,
        Cancel(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => prop::collection::vec(1usize..60, 0..30).prop_map(Step::Push),
            3 => Just(Step::Take),
            1 => (0usize..20).prop_map(Step::Cancel),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn every_admitted_pair_leaves_exactly_once_in_bounded_batches(steps in steps()) {
            let mut queue = Queue::new(limits(50, 7, 60));
            let mut due: HashMap<RequestId, VecDeque<usize>> = HashMap::new();
            let mut drain = vec![Step::Take; 2000];
            let mut all = steps;
            all.append(&mut drain);
            for (request, step) in (0u64..).zip(all) {
                match step {
                    Step::Push(tokens) => {
                        let waiting: usize = due.values().map(VecDeque::len).sum();
                        let fits = waiting + tokens.len() <= 60;
                        prop_assert_eq!(push(&mut queue, request, &tokens).is_ok(), fits);
                        if fits {
                            due.insert(request, (0..tokens.len()).collect());
                        }
                    }
                    Step::Take => {
                        let was_empty = queue.is_empty();
                        let batch = queue.next_batch();
                        let tokens: usize = batch.iter().map(|entry| entry.tokens).sum();
                        prop_assert_eq!(batch.is_empty(), was_empty);
                        prop_assert!(tokens <= 50 || batch.len() == 1);
                        prop_assert!(batch.len() <= 7);
                        for entry in batch {
                            let expected = due.get_mut(&entry.request).and_then(VecDeque::pop_front);
                            prop_assert_eq!(expected, Some(entry.index), "in order, and only live pairs");
                        }
                    }
                    Step::Cancel(nth) => {
                        let Some(&victim) = due.keys().nth(nth) else { continue };
                        let left = due.remove(&victim).map_or(0, |pairs| pairs.len());
                        prop_assert_eq!(queue.cancel(victim), left);
                    }
                }
                let waiting: usize = due.values().map(VecDeque::len).sum();
                prop_assert_eq!(queue.len(), waiting);
            }
            prop_assert!(queue.is_empty() && queue.tokens == 0);
        }

        /// The rule itself: a request of one turn is out once each request ahead of it has had one turn.
        #[test]
        fn a_small_request_waits_at_most_one_turn_for_each_ahead(
            large in prop::collection::vec(prop::collection::vec(1usize..=50, 1..200), 0..8),
            small in prop::collection::vec(1usize..=50, 1..4),
            taken in 0usize..5,
        ) {
            const BATCH: usize = 100;
            prop_assume!(small.iter().sum::<usize>() <= BATCH);
            let mut queue = Queue::new(limits(BATCH, usize::MAX, usize::MAX));
            for (request, tokens) in (0..).zip(&large) {
                push(&mut queue, request, tokens).unwrap();
            }
            for _ in 0..taken {
                queue.next_batch();
            }
            push(&mut queue, 99, &small).unwrap();
            let (mut ahead, mut left) = (0, small.len());
            while left > 0 {
                for entry in queue.next_batch() {
                    if entry.request == 99 { left -= 1 } else if left > 0 { ahead += entry.tokens }
                }
            }
            prop_assert!(ahead <= BATCH * large.len(), "{ahead} tokens went first");
        }
    }
}
