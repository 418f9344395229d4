use std::{
    collections::VecDeque,
    sync::mpsc::{self, Receiver, Sender},
};

use anyhow::bail;

use super::*;

/// Nothing here takes this long; what does has failed.
const LONG: Duration = Duration::from_secs(30);

fn due() -> Deadline {
    Deadline::after(LONG)
}

/// A model the test drives: each batch is announced, then waits until the test says what becomes of
/// it.
struct Scripted {
    seen: Sender<Vec<Vec<u32>>>,
    outcomes: Mutex<Receiver<Outcome>>,
}

enum Outcome {
    /// Each logit is the sum of its pair's tokens.
    Sum,
    NaN,
    Fail,
    Panic,
    TooFew,
}

impl CrossEncoder for Scripted {
    fn predict(&self, batch: &Batch) -> anyhow::Result<Vec<f32>> {
        self.seen
            .send(batch.sequences().map(<[u32]>::to_vec).collect())?;
        let outcome = self.outcomes.lock().unwrap().recv()?;
        let sums = batch.sequences().map(|s| s.iter().sum::<u32>() as f32);
        match outcome {
            Outcome::Sum => Ok(sums.collect()),
            Outcome::NaN => Ok(sums.map(|_| f32::NAN).collect()),
            Outcome::Fail => bail!("out of memory"),
            Outcome::Panic => panic!("a bug"),
            Outcome::TooFew => Ok(Vec::new()),
        }
    }

    fn padding(&self, _: &Batch) -> usize {
        0
    }
}

/// One worker.
struct Bench {
    scheduler: Arc<Scheduler>,
    seen: Receiver<Vec<Vec<u32>>>,
    outcomes: Sender<Outcome>,
}

type Script = (Receiver<Vec<Vec<u32>>>, Sender<Outcome>);

/// A model, and the two ends by which a test drives it.
fn scripted() -> (Box<dyn CrossEncoder>, Script) {
    let (seen, seen_here) = mpsc::channel();
    let (outcomes, outcomes_there) = mpsc::channel();
    let model = Scripted {
        seen,
        outcomes: Mutex::new(outcomes_there),
    };
    (Box::new(model), (seen_here, outcomes))
}

fn bench(batch_tokens: usize, queue_pairs: usize) -> Bench {
    let (model, (seen, outcomes)) = scripted();
    let limits = Limits {
        batch_tokens,
        turn_tokens: batch_tokens,
        batch_pairs: 100,
        queue_pairs,
    };
    Bench {
        scheduler: Arc::new(
            Scheduler::new(
                vec![model],
                limits,
                Duration::ZERO,
                Pace::new(1),
                Arc::default(),
            )
            .unwrap(),
        ),
        seen,
        outcomes,
    }
}

impl Bench {
    fn submit(&self, pairs: Vec<Encoding>) -> tokio::task::JoinHandle<Result<Scored>> {
        let scheduler = Arc::clone(&self.scheduler);
        tokio::spawn(async move { scheduler.score(pairs, due()).await })
    }

    async fn queued(&self, pairs: usize) {
        queued(&self.scheduler, pairs).await;
    }

    fn next_batch(&self) -> Vec<Vec<u32>> {
        self.seen.recv_timeout(LONG).expect("a batch starts")
    }

    fn let_it(&self, outcome: Outcome) {
        self.outcomes.send(outcome).unwrap();
    }
}

/// Waits until so many pairs are in the queue.
async fn queued(scheduler: &Scheduler, pairs: usize) {
    let reached = async {
        while scheduler.queued_pairs() != pairs {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        tokio::time::timeout(LONG, reached).await.is_ok(),
        "{} pairs in the queue, never {pairs}",
        scheduler.queued_pairs()
    );
}

fn logits(answer: std::result::Result<Result<Scored>, tokio::task::JoinError>) -> Vec<f32> {
    answer.unwrap().unwrap().logits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_starts_at_once_and_latecomers_share_the_next() {
    let bench = bench(100, 100);
    let first = bench.submit(vec![vec![1, 2], vec![3]]);
    assert_eq!(bench.next_batch(), [vec![1, 2], vec![3]]);
    let second = bench.submit(vec![vec![4]]);
    bench.queued(1).await;
    let third = bench.submit(vec![vec![5], vec![6]]);
    bench.queued(3).await;
    bench.let_it(Outcome::Sum);
    assert_eq!(logits(first.await), [3.0, 3.0]);
    assert_eq!(
        bench.next_batch(),
        [vec![4], vec![5], vec![6]],
        "both requests in one batch"
    );
    bench.let_it(Outcome::Sum);
    assert_eq!(logits(second.await), [4.0]);
    assert_eq!(logits(third.await), [5.0, 6.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_request_is_in_the_next_batch() {
    let bench = bench(4, 100);
    let large = bench.submit(vec![vec![1, 1, 1, 1]; 3]);
    assert_eq!(bench.next_batch(), [vec![1; 4]]);
    bench.queued(2).await;
    let small = bench.submit(vec![vec![2]]);
    bench.queued(3).await;
    for _ in 0..4 {
        bench.let_it(Outcome::Sum);
    }
    assert_eq!(bench.next_batch(), [vec![2]]);
    assert_eq!(logits(small.await), [2.0]);
    assert_eq!(logits(large.await), [4.0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_several_batches_is_answered_once_in_order() {
    let bench = bench(4, 100);
    let pairs: Vec<Encoding> = (1..=9).map(|n| vec![n; 2]).collect();
    let answer = bench.submit(pairs);
    for _ in 0..5 {
        bench.let_it(Outcome::Sum);
    }
    let want: Vec<f32> = (1u8..=9).map(|n| 2.0 * f32::from(n)).collect();
    assert_eq!(logits(answer.await), want);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_stay_in_their_batch() {
    let bench = bench(100, 100);
    for (outcome, says) in [
        (Outcome::Panic, "panic: a bug"),
        (Outcome::Fail, "out of memory"),
        (Outcome::NaN, "logit NaN"),
        (Outcome::TooFew, "0 logits for 1 pairs"),
    ] {
        let answer = bench.submit(vec![vec![1]]);
        bench.let_it(outcome);
        let error = answer.await.unwrap().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let answer = bench.submit(vec![vec![7]]);
    bench.let_it(Outcome::Sum);
    assert_eq!(logits(answer.await), [7.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_failed_request_is_not_computed() {
    let bench = bench(4, 100);
    let answer = bench.submit(vec![vec![1; 4]; 5]);
    bench.let_it(Outcome::Fail);
    assert!(answer.await.unwrap().is_err());
    bench.queued(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_request_frees_its_place() {
    let bench = bench(100, 100);
    let running = bench.submit(vec![vec![1]]);
    bench.next_batch();
    let gone = bench.submit(vec![vec![2]; 30]);
    let stays = bench.submit(vec![vec![3]]);
    bench.queued(31).await;
    gone.abort();
    bench.queued(1).await;
    bench.let_it(Outcome::Sum);
    bench.let_it(Outcome::Sum);
    assert_eq!(logits(running.await), [1.0]);
    assert_eq!(bench.next_batch(), [vec![3]]);
    assert_eq!(logits(stays.await), [3.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let bench = bench(1, 3);
    let running = bench.submit(vec![vec![1]]);
    bench.next_batch();
    let waiting = bench.submit(vec![vec![2]; 3]);
    bench.queued(3).await;
    let error = bench
        .scheduler
        .score(vec![vec![3]; 2], due())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Overloaded {
            queued: 3,
            refused: 2,
            limit: 3,
            retry_after: Duration::from_secs(1)
        }
    );
    for _ in 0..4 {
        bench.let_it(Outcome::Sum);
    }
    assert_eq!(logits(running.await), [1.0]);
    assert_eq!(logits(waiting.await), [2.0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_those_inside_and_refuses_the_rest() {
    let bench = bench(2, 100);
    let inside = bench.submit(vec![vec![1, 1]; 3]);
    bench.next_batch();
    bench.queued(2).await;
    bench.scheduler.close();
    assert_eq!(
        bench.scheduler.score(vec![vec![1]], due()).await,
        Err(Error::ShuttingDown)
    );
    for _ in 0..3 {
        bench.let_it(Outcome::Sum);
    }
    assert_eq!(logits(inside.await), [2.0; 3]);
    // The thread ends, and with it the model and its end of the channel.
    assert!(bench.seen.iter().count() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_company_is_possible_when_asked_for() {
    let (model, (seen, outcomes)) = scripted();
    let limits = Limits {
        batch_tokens: 3,
        turn_tokens: 3,
        batch_pairs: 100,
        queue_pairs: 100,
    };
    // Only a full batch can end the wait.
    let wait = Duration::from_hours(1);
    let scheduler = Scheduler::new(vec![model], limits, wait, Pace::new(1), Arc::default());
    let scheduler = Arc::new(scheduler.unwrap());
    let answers: VecDeque<_> = (1..=3)
        .map(|n| {
            let scheduler = Arc::clone(&scheduler);
            tokio::spawn(async move { scheduler.score(vec![vec![n]], due()).await })
        })
        .collect();
    assert_eq!(seen.recv().unwrap().len(), 3);
    outcomes.send(Outcome::Sum).unwrap();
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().logits.len(), 1);
    }
}

/// Two workers and their scripts.
fn pair_of_workers(batch_tokens: usize) -> (Arc<Scheduler>, [Script; 2]) {
    let ((first, a), (second, b)) = (scripted(), scripted());
    let limits = Limits {
        batch_tokens,
        turn_tokens: batch_tokens,
        batch_pairs: 100,
        queue_pairs: 100,
    };
    let models = vec![first, second];
    let wait = Duration::ZERO;
    let scheduler = Scheduler::new(models, limits, wait, Pace::new(1), Arc::default());
    (Arc::new(scheduler.unwrap()), [a, b])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_queue_and_none_idles_while_another_hoards() {
    let (scheduler, workers) = pair_of_workers(4);
    let answer = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.score(vec![vec![1; 4]; 6], due()).await }
    });
    // Two batches run, four wait.
    for (seen, _) in &workers {
        assert_eq!(seen.recv_timeout(LONG).unwrap(), [vec![1; 4]]);
    }
    queued(&scheduler, 4).await;
    for (_, outcomes) in &workers {
        for _ in 0..6 {
            let _ = outcomes.send(Outcome::Sum);
        }
    }
    assert_eq!(logits(answer.await), [4.0; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_fails_on_one_worker_leaves_the_other_alone() {
    let (scheduler, workers) = pair_of_workers(1);
    let submit = || {
        let scheduler = Arc::clone(&scheduler);
        tokio::spawn(async move { scheduler.score(vec![vec![1]], due()).await })
    };
    let (one, other) = (submit(), submit());
    for (seen, _) in &workers {
        seen.recv_timeout(LONG).unwrap();
    }
    workers[0].1.send(Outcome::Panic).unwrap();
    workers[1].1.send(Outcome::Sum).unwrap();
    let answers = [one.await.unwrap(), other.await.unwrap()];
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
}
