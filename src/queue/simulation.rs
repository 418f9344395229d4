//! Goodput of the queue under any load, with a simulated clock: requests that are answered by their
//! deadline, against what the model could do.

use proptest::prelude::*;

use super::{Forecast, Limits, Pace, Queue, Refused, RequestId};
use std::{collections::HashMap, time::Duration};

/// What the model can do, in tokens a second.
const SPEED: f64 = 20_000.0;

/// Seconds that a request may take.
const DEADLINE: f64 = 10.0;

/// The share of that in which a request must be scored.
const SCORING_SHARE: f64 = 0.98;

/// Tokens of a pair.
const PAIR: usize = 60;

const LIMITS: Limits = Limits {
    batch_tokens: 1536,
    turn_tokens: 512,
    batch_pairs: 512,
    queue_pairs: 16_384,
};

/// A request that comes at a time.
struct Arrival {
    at: f64,
    pairs: usize,
}

/// What became of all requests.
#[derive(Debug, Default)]
struct Outcome {
    /// Tokens of requests that were answered in time.
    good: usize,
    /// Requests that were answered in time.
    answered: usize,
    /// Requests that were answered after their deadline: they got an error, having been computed.
    late: usize,
    /// Requests that were refused when they came, or left before they were computed.
    refused: usize,
    /// Seconds that requests of no more than two pairs took, at most.
    slowest_small: f64,
    /// When the last batch ended.
    end: f64,
}

/// A model whose batches take a fifth more or less than on average.
struct Simulation {
    queue: Queue<()>,
    pace: Pace,
    now: f64,
    noise: u64,
    /// Arrival and pairs left of each admitted request.
    open: HashMap<RequestId, (f64, usize, usize)>,
    outcome: Outcome,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut pace = Pace::new(LIMITS.batch_tokens / 4);
        pace.observe(1536, Duration::from_secs_f64(1536.0 / SPEED));
        Self {
            queue: Queue::new(LIMITS),
            pace,
            now: 0.0,
            noise: seed,
            open: HashMap::new(),
            outcome: Outcome::default(),
        }
    }

    /// A number from 0 to 1.
    fn random(&mut self) -> f64 {
        let state = self.noise.wrapping_mul(6_364_136_223_846_793_005);
        self.noise = state.wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn forecast(&self, now: f64) -> Forecast {
        Forecast {
            now,
            busy: (self.now - now).max(0.0),
            seconds_per_token: self.pace.seconds_per_unit(),
        }
    }

    fn run(mut self, arrivals: &[Arrival]) -> Outcome {
        let mut arrivals = (0..).zip(arrivals).peekable();
        loop {
            while let Some((request, arrival)) = arrivals.next_if(|(_, a)| a.at <= self.now) {
                self.arrive(request, arrival);
            }
            if !self.queue.is_empty() {
                self.compute();
            } else if let Some((_, arrival)) = arrivals.peek() {
                self.now = arrival.at;
            } else {
                self.outcome.end = self.now;
                return self.outcome;
            }
        }
    }

    fn arrive(&mut self, request: RequestId, arrival: &Arrival) {
        let items = vec![((), PAIR); arrival.pairs];
        let due = arrival.at + SCORING_SHARE * DEADLINE;
        let forecast = self.forecast(arrival.at);
        match self.queue.push(request, items.into_iter(), due, &forecast) {
            Ok(()) => {
                let open = (arrival.at, arrival.pairs, arrival.pairs);
                self.open.insert(request, open);
            }
            Err(Refused::Late { .. } | Refused::Full { .. }) => self.outcome.refused += 1,
        }
    }

    fn compute(&mut self) {
        let forecast = self.forecast(self.now);
        for shed in self.queue.shed(&forecast) {
            self.open.remove(&shed.request);
            self.outcome.refused += 1;
        }
        let batch = self.queue.next_batch(&forecast);
        let tokens: usize = batch.iter().map(|entry| entry.tokens).sum();
        let took = tokens as f64 / SPEED * (0.8 + 0.4 * self.random());
        self.pace.observe(tokens, Duration::from_secs_f64(took));
        self.now += took;
        for entry in batch {
            self.finish_pair(entry.request);
        }
    }

    fn finish_pair(&mut self, request: RequestId) {
        let Some((at, pairs, left)) = self.open.get_mut(&request) else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        let (took, pairs) = (self.now - *at, *pairs);
        self.open.remove(&request);
        if took > DEADLINE {
            self.outcome.late += 1;
            return;
        }
        self.outcome.answered += 1;
        self.outcome.good += pairs * PAIR;
        if pairs <= 2 {
            self.outcome.slowest_small = self.outcome.slowest_small.max(took);
        }
    }
}

/// Requests at random times within a number of seconds, at a multiple of what the model can do; one
/// of ten has two pairs, the others have forty.
fn arrivals(load: f64, seconds: f64, seed: u64) -> Vec<Arrival> {
    let mut random = Simulation::new(seed);
    let mean_tokens = (0.1 * 2.0 + 0.9 * 40.0) * PAIR as f64;
    let gap = mean_tokens / (SPEED * load);
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    while at < seconds {
        at += -gap * random.random().max(1e-9).ln();
        let pairs = if random.random() < 0.1 { 2 } else { 40 };
        arrivals.push(Arrival { at, pairs });
    }
    arrivals
}

fn tokens(arrivals: &[Arrival]) -> f64 {
    arrivals.iter().map(|a| (a.pairs * PAIR) as f64).sum()
}

#[test]
fn of_three_hundred_at_once_as_many_are_answered_as_the_model_can_do() {
    let arrivals: Vec<Arrival> = (0..300).map(|_| Arrival { at: 0.0, pairs: 40 }).collect();
    let outcome = Simulation::new(1).run(&arrivals);
    let possible = SPEED * DEADLINE / tokens(&arrivals[..1]);
    assert!(
        outcome.answered as f64 >= 0.9 * possible,
        "{outcome:?} of {possible}"
    );
    assert_eq!(outcome.late, 0, "{outcome:?}");
    assert_eq!(outcome.answered + outcome.refused, 300);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn overload_costs_no_answers(load in prop_oneof![0.5..1.5, 1.5..50.0], seed: u64) {
        let arrivals = arrivals(load, 60.0, seed);
        let outcome = Simulation::new(seed).run(&arrivals);
        let possible = (outcome.end * SPEED).min(tokens(&arrivals));
        prop_assert!(outcome.good as f64 >= 0.9 * possible, "{outcome:?} of {possible} tokens");
        prop_assert!(outcome.late * 100 <= arrivals.len(), "{outcome:?}");
        prop_assert!(outcome.slowest_small < 1.0, "{outcome:?}");
    }
}
