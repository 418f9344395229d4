use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
    mpsc::{self, Receiver, Sender},
};

use anyhow::bail;

use super::*;
use crate::{
    batch::Batch,
    cache::{self, Identity},
    error::Error,
    metrics::Metrics,
    model::CrossEncoder,
    queue::{Limits, Pace},
};

/// Nothing here takes this long; what does has failed.
const LONG: Duration = Duration::from_secs(30);

/// What becomes of a batch.
#[derive(Clone, Copy)]
enum Outcome {
    Scored,
    Redone,
    Failed,
    NotFinite,
}

/// A model whose logit of a pair is the sum of its tokens. It waits before each batch until the
/// test says what becomes of it.
struct Scripted {
    outcomes: Mutex<Receiver<Outcome>>,
    redone: AtomicU64,
    computed: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl CrossEncoder for Scripted {
    fn predict(&self, batch: &Batch) -> anyhow::Result<Vec<f32>> {
        let outcome = self.outcomes.lock().unwrap().recv_timeout(LONG)?;
        let pairs = batch.sequences().map(<[u32]>::to_vec);
        self.computed.lock().unwrap().extend(pairs);
        let sums = batch
            .sequences()
            .map(|pair| pair.iter().sum::<u32>() as f32);
        match outcome {
            Outcome::Scored => Ok(sums.collect()),
            Outcome::Redone => {
                self.redone.fetch_add(1, Ordering::Relaxed);
                Ok(sums.collect())
            }
            Outcome::Failed => bail!("out of memory"),
            Outcome::NotFinite => Ok(sums.map(|_| f32::NAN).collect()),
        }
    }

    fn padding(&self, _: &Batch) -> usize {
        0
    }

    fn batches_redone(&self) -> u64 {
        self.redone.load(Ordering::Relaxed)
    }
}

/// A scheduler with a cache.
struct Bench {
    scheduler: Arc<Scheduler>,
    cache: Arc<Cache>,
    outcomes: Sender<Outcome>,
    computed: Arc<Mutex<Vec<Vec<u32>>>>,
}

fn bench() -> Bench {
    let (outcomes, script) = mpsc::channel();
    let computed = Arc::default();
    let model = Scripted {
        outcomes: Mutex::new(script),
        redone: AtomicU64::new(0),
        computed: Arc::clone(&computed),
    };
    let limits = Limits {
        batch_tokens: 100,
        turn_tokens: 100,
        batch_pairs: 100,
        queue_pairs: 100,
    };
    let metrics = Arc::new(Metrics::new());
    let settings = cache::Settings {
        bytes: 1_000_000,
        ttl: LONG,
        ..cache::Settings::default()
    };
    let unneeded = || -> anyhow::Result<Identity<'static>> { bail!("nothing is shared") };
    let cache = Cache::new(&settings, &metrics, unneeded).unwrap().unwrap();
    let models: Vec<Box<dyn CrossEncoder>> = vec![Box::new(model)];
    let pace = Pace::new(1);
    let scheduler = Scheduler::new(models, limits, Duration::ZERO, pace, metrics).unwrap();
    Bench {
        scheduler: Arc::new(scheduler),
        cache: Arc::new(cache),
        outcomes,
        computed,
    }
}

type Scoring = tokio::task::JoinHandle<Result<Scores>>;

impl Bench {
    fn submit(&self, pairs: &[&[u32]]) -> Scoring {
        let (scheduler, cache) = (Arc::clone(&self.scheduler), Arc::clone(&self.cache));
        let pairs: Vec<Encoding> = pairs.iter().map(|pair| pair.to_vec()).collect();
        tokio::spawn(async move {
            let keys: Vec<Key> = pairs.iter().map(|pair| cache.key(pair)).collect();
            let deadline = Deadline::after(LONG);
            recall_or_compute(&scheduler, &cache, pairs, &keys, deadline).await
        })
    }

    /// Lets a batch become this, and waits for the scores of a request.
    async fn play(&self, outcome: Outcome, scoring: Scoring) -> Result<Scores> {
        self.outcomes.send(outcome).unwrap();
        scoring.await.unwrap()
    }

    /// Waits until other tasks have come as far as they can while the model waits.
    async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

use PairSource::{Flight, Memory, Model};

#[tokio::test]
async fn only_pairs_that_are_missing_are_computed() {
    let bench = bench();
    let first = bench.submit(&[&[1, 2], &[3]]);
    let first = bench.play(Outcome::Scored, first).await.unwrap();
    assert_eq!(
        (first.logits, first.sources),
        (vec![3.0, 3.0], vec![Model; 2])
    );
    let second = bench.submit(&[&[3], &[4, 5], &[1, 2], &[2, 1]]);
    let second = bench.play(Outcome::Scored, second).await.unwrap();
    assert_eq!(second.logits, [3.0, 9.0, 3.0, 3.0]);
    assert_eq!(second.sources, [Memory, Model, Memory, Model]);
    let all_known = bench.submit(&[&[2, 1]]).await.unwrap().unwrap();
    assert_eq!(
        (all_known.logits, all_known.sources),
        (vec![3.0], vec![Memory])
    );
    assert_eq!(
        *bench.computed.lock().unwrap(),
        [vec![1, 2], vec![3], vec![4, 5], vec![2, 1]]
    );
}

#[tokio::test]
async fn equal_pairs_of_a_request_are_computed_once() {
    let bench = bench();
    let scoring = bench.submit(&[&[7], &[7], &[8]]);
    let scores = bench.play(Outcome::Scored, scoring).await.unwrap();
    assert_eq!(scores.logits, [7.0, 7.0, 8.0]);
    assert_eq!(scores.sources, [Model, Flight, Model]);
    assert_eq!(bench.computed.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_joins_what_another_computes() {
    let bench = bench();
    let first = bench.submit(&[&[1], &[2]]);
    bench.settle().await;
    let second = bench.submit(&[&[2], &[1]]);
    bench.settle().await;
    let first = bench.play(Outcome::Scored, first).await.unwrap();
    let second = second.await.unwrap().unwrap();
    assert_eq!(
        (first.logits, second.logits),
        (vec![1.0, 2.0], vec![2.0, 1.0])
    );
    assert_eq!(second.sources, [Flight, Flight]);
    assert_eq!(bench.computed.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn who_joined_a_request_that_hung_up_computes_itself() {
    let bench = bench();
    let first = bench.submit(&[&[1], &[2]]);
    bench.settle().await;
    let second = bench.submit(&[&[1], &[2]]);
    bench.settle().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // The model may be at the first request's batch already; its logits reach nobody then.
    bench.outcomes.send(Outcome::Scored).unwrap();
    let second = bench.play(Outcome::Scored, second).await.unwrap();
    assert_eq!(
        (second.logits, second.sources),
        (vec![1.0, 2.0], vec![Model, Model])
    );
}

#[tokio::test]
async fn who_joined_a_batch_that_failed_computes_itself() {
    let bench = bench();
    let first = bench.submit(&[&[1]]);
    bench.settle().await;
    let second = bench.submit(&[&[1]]);
    bench.settle().await;
    let first = bench.play(Outcome::Failed, first).await;
    assert!(matches!(first, Err(Error::Inference(_))));
    let second = bench.play(Outcome::Scored, second).await.unwrap();
    assert_eq!((second.logits, second.sources), (vec![1.0], vec![Model]));
}

#[tokio::test]
async fn failed_redone_and_non_finite_logits_are_not_kept() {
    let bench = bench();
    for outcome in [Outcome::Failed, Outcome::NotFinite] {
        let scoring = bench.submit(&[&[1]]);
        assert!(bench.play(outcome, scoring).await.is_err());
    }
    for outcome in [Outcome::Redone, Outcome::Scored] {
        let scoring = bench.submit(&[&[1]]);
        let scores = bench.play(outcome, scoring).await.unwrap();
        assert_eq!((scores.logits, scores.sources), (vec![1.0], vec![Model]));
    }
    let scores = bench.submit(&[&[1]]).await.unwrap().unwrap();
    assert_eq!((scores.logits, scores.sources), (vec![1.0], vec![Memory]));
}
