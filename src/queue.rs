//! The queue's policy as a pure data structure: no clock, no threads, no model.
//!
//! Times are seconds since an origin that the caller chooses; a `Forecast` says how fast work is
//! done.
//!
//! **Order.** The request with the least work left goes first; among equals, the one that came
//! first. A request whose deadline leaves less than one batch of slack is urgent, and so is every
//! request whose deadline is earlier. While there are urgent ones, the others that go first share
//! half a batch, and the urgent ones have the rest, in the order of deadlines: neither starves the
//! other. While small requests come, a batch of nothing but large requests' work is shorter than
//! others. One in which requests are done is filled up with work of others, urgent ones aside, for
//! a short time only.
//!
//! **Admission.** A request is admitted, whole, if it and every request admitted before it can be
//! done by its deadline. Requests of more than one batch may use `LARGE_SHARE` of their time only,
//! so that small ones find room while large ones fill the queue.
//!
//! **Shedding.** When work turns out slower than forecast, or small requests have passed large
//! ones, some can no longer be done in time. They leave before they are computed, the largest
//! first.
//!
//! Without a known speed every request is admitted, up to the limit on pairs, and none is shed.

mod pace;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BinaryHeap, VecDeque};

pub(crate) use self::pace::Pace;

/// A request of more than so many batches is large: it yields to small ones more often.
const LARGE_BATCHES: usize = 2;

/// Seconds after a small request for which another one is expected.
const EXPECTED: f64 = 10.0;

/// Seconds that a request which would be done with a batch may wait for larger ones to be computed
/// in the same batch.
const FILLING: f64 = 0.01;

/// The share of the time until its deadline that a request of more than one batch may count on.
const LARGE_SHARE: f64 = 0.95;

/// The sizes of batches and of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tokens in a batch. A single pair longer than this still gets a batch, of its own.
    pub batch_tokens: usize,
    /// Tokens in a batch that holds nothing but work of large requests while small ones come: those
    /// wait for it. No more than `batch_tokens`.
    pub turn_tokens: usize,
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
    /// The request's pairs do not fit.
    Full {
        /// Pairs waiting already.
        queued: usize,
    },
    /// The request, or one admitted before it, would miss its deadline.
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
    /// The time at which the request would have been done.
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
    /// The item that was pushed.
    pub(crate) item: T,
    /// The tokens that the item counts in a batch.
    pub(crate) tokens: usize,
}

/// Waiting requests, in the order of their deadlines.
pub(crate) struct Queue<T> {
    limits: Limits,
    line: VecDeque<Waiting<T>>,
    pairs: usize,
    tokens: usize,
    /// When a request that is not large came last.
    small_came: f64,
}

struct Waiting<T> {
    request: RequestId,
    pairs: VecDeque<Entry<T>>,
    /// Tokens of these pairs.
    tokens: usize,
    /// Whether the request had more work than [`LARGE_BATCHES`] when it came.
    is_large: bool,
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
            small_came: f64::NEG_INFINITY,
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
        let is_large = tokens > LARGE_BATCHES * self.limits.batch_tokens;
        if !is_large {
            self.small_came = forecast.now;
        }
        let waiting = Waiting {
            request,
            pairs,
            tokens,
            is_large,
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
        let most = if let Some(&first) = others.first().filter(|_| small.is_empty()) {
            self.turn(first, forecast.now)
        } else {
            whole.min(tokens_in(&batch).saturating_add(forecast.tokens_in(FILLING)))
        };
        self.fill(&mut batch, others.iter().copied(), most);
        self.pairs -= batch.len();
        self.line.retain(|waiting| !waiting.pairs.is_empty());
        batch
    }

    /// The tokens of a batch that begins now with work of the request at this place in line.
    fn turn(&self, place: usize, now: f64) -> usize {
        if self.line[place].is_large && now - self.small_came < EXPECTED {
            self.limits.turn_tokens
        } else {
            self.limits.batch_tokens
        }
    }

    /// How many requests, from the first of these places in line, fit whole in so many tokens and
    /// in the pairs of a batch.
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
