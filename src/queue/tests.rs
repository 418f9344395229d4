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
        turn_tokens: batch_tokens,
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
fn while_small_requests_come_large_ones_take_shorter_turns() {
    let limits = Limits {
        turn_tokens: 50,
        ..limits(100, 100, 1000)
    };
    let mut queue = Queue::new(limits);
    push(&mut queue, 1, &[50; 4]).unwrap();
    push(&mut queue, 2, &[50; 7]).unwrap();
    assert_eq!(next(&mut queue), [(1, 0), (1, 1)], "two batches of work");
    assert_eq!(next(&mut queue), [(1, 2), (1, 3)]);
    for index in 0..3 {
        assert_eq!(next(&mut queue), [(2, index)], "more than that");
    }
    let later = Forecast {
        now: 10.0,
        ..UNKNOWN
    };
    let rest = next_at(&mut queue, &later);
    assert_eq!(rest, [(2, 3), (2, 4)], "no small one for so long");
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
