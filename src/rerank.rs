//! The use case: a query and documents in, a ranking out.
//!
//! Every way in, HTTP or command line, whatever its wire format, calls [`Reranker::rerank`].

mod job;
mod limits;
mod pairs;
mod scores;
mod settings;

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tracing::info;

use crate::{
    batch::Batch,
    cache::{Cache, Identity, Key},
    deadline::Deadline,
    error::Result,
    memory::Lease,
    metrics::{Metrics, PairSource},
    model::{self, Checkpoint, CrossEncoder, LoadedModel},
    ops::GpuInfo,
    queue::{self, Pace},
    scheduler::Scheduler,
    text_pool::{Demand, TextPool},
    tokenizer::{Extent, PairTokenizer, Tokens},
};

pub(crate) use self::{job::Job, limits::Limits, settings::Settings};
use self::{
    pairs::{Pairs, Plan},
    scores::Scores,
};

/// Requests with no more text than this are encoded in one piece of work.
const AT_ONCE: usize = 64 * 1024;

/// A batch of less than this share of the largest one, as a divisor, does not show the speed.
const SMALLEST_MEASURED: usize = 4;

/// Hashing a byte costs this much less than tokenising it.
const HASHED_PER_BYTE: usize = 8;

/// The share of the time until its deadline in which a request must be scored; the rest is for the
/// way back.
const SCORING_SHARE: f64 = 0.98;

/// A loaded model with its tokenizer and its queue.
pub(crate) struct Reranker {
    tokenizer: Arc<PairTokenizer>,
    text: Arc<TextPool>,
    scheduler: Scheduler,
    cache: Option<Arc<Cache>>,
    metrics: Arc<Metrics>,
    info: ModelInfo,
    limits: Limits,
    batching: queue::Limits,
}

/// What a request does about the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// It takes what is known and leaves what it computes.
    Use,
    /// It neither asks nor tells.
    Bypass,
}

/// What clients may want to know of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelInfo {
    /// The name of the model as configured: a hub id, a directory or `demo`.
    pub id: String,
    /// The commit of the hub's repository, where it came from one.
    pub commit: Option<String>,
    /// The kind of device: `cpu` or `cuda`.
    pub device: &'static str,
    /// The GPUs that compute, where the device is `cuda`.
    pub gpus: Vec<GpuInfo>,
    /// The precision of the arithmetic.
    pub dtype: &'static str,
    /// `native` or `candle`.
    pub backend: &'static str,
    /// The most tokens of a pair; longer pairs are truncated.
    pub max_length: usize,
}

/// How well a document answers the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// The document's place in the request.
    pub index: usize,
    /// The raw logit of the model.
    pub logit: f32,
    /// The sigmoid of the logit, in [0, 1].
    pub sigmoid: f64,
}

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ranking {
    /// Every document, best first, ties in the order of the request.
    pub scores: Vec<Score>,
    /// Tokens of all pairs as the model reads them: truncated, with the special ones.
    pub tokens: usize,
    /// Pairs that were scored: the distinct ones, a window of a document being one.
    pub pairs: usize,
    /// Pairs among them that were not computed for this request.
    pub cached: usize,
    /// Time from the call to the tokens of all pairs.
    pub tokenized: Duration,
    /// Time that the cache was asked.
    pub recalled: Duration,
    /// Time from admission to the first batch.
    pub queued: Duration,
    /// Time from the first batch to the last logit.
    pub computed: Duration,
}

impl Reranker {
    /// Loads a model, downloading it if need be, and has it score a pair: what returns is ready to
    /// work.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong with which file or option, and what to do.
    pub(crate) fn load(
        settings: &Settings,
        text: Arc<TextPool>,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let Settings {
            model,
            scheduler,
            cache,
            limits,
        } = settings;
        let checkpoint = Checkpoint::open(&model.source, &model.hub)?;
        let tokenizer = tokenizer_of(&checkpoint, model)?;
        let LoadedModel {
            encoders,
            device,
            gpus,
            dtype,
            batch_tokens,
            turn_tokens,
        } = checkpoint.build(&model.build)?;
        let mut pace = Pace::new(batch_tokens / SMALLEST_MEASURED);
        for encoder in &encoders {
            warm_up(encoder.as_ref(), &tokenizer).context("the model cannot score a first pair")?;
            measure(
                encoder.as_ref(),
                model.build.max_length,
                batch_tokens,
                &mut pace,
            )?;
            // What the warm-up took is no request's.
            encoder.take_spent();
        }
        let backend = model.build.backend.name();
        let cache = Cache::new(cache, metrics, || {
            anyhow::Ok(Identity {
                model: checkpoint.fingerprint()?,
                device,
                dtype,
                backend,
            })
        })?;
        let info = ModelInfo {
            id: model.id.clone(),
            commit: checkpoint.commit,
            device,
            gpus,
            dtype,
            backend,
            max_length: model.build.max_length,
        };
        let limits_of_queue = queue::Limits {
            batch_tokens,
            turn_tokens,
            batch_pairs: scheduler.batch_pairs,
            queue_pairs: scheduler.queue_pairs,
        };
        let wait = scheduler.batch_wait;
        let scheduler = Scheduler::new(encoders, limits_of_queue, wait, pace, Arc::clone(metrics))
            .context("cannot start the model's thread")?;
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            text,
            scheduler,
            cache: cache.map(Arc::new),
            metrics: Arc::clone(metrics),
            info,
            limits: *limits,
            batching: limits_of_queue,
        })
    }

    /// What model this is.
    pub(crate) fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The sizes of batches and of the queue.
    pub(crate) fn batching(&self) -> queue::Limits {
        self.batching
    }

    /// Pairs waiting for a batch.
    pub(crate) fn queued_pairs(&self) -> usize {
        self.scheduler.queued_pairs()
    }

    /// Refuses new work; what was admitted is still answered.
    pub(crate) fn close(&self) {
        self.scheduler.close();
    }

    /// Ranks documents by how well they answer the query, by a deadline. Dropping the future
    /// cancels what has not been done. The lease grows by what the tokens take.
    ///
    /// # Errors
    /// See [`crate::error::Error`]; every score of a ranking is finite.
    pub(crate) async fn rerank(
        &self,
        job: Job,
        caching: Caching,
        deadline: Deadline,
        lease: &mut Lease,
    ) -> Result<Ranking> {
        let ranking = self.rank(job, caching, deadline, lease);
        deadline.bound(ranking).await
    }

    async fn rank(
        &self,
        mut job: Job,
        caching: Caching,
        deadline: Deadline,
        lease: &mut Lease,
    ) -> Result<Ranking> {
        let called = Instant::now();
        let deadline = deadline.for_share(SCORING_SHARE);
        job.truncation.chunks.get_or_insert(self.limits.chunks);
        self.check_chance(&job, deadline)?;
        lease.grow(job.token_bytes(self.info.max_length))?;
        let cache = self.cache.as_ref().filter(|_| caching == Caching::Use);
        let (pairs, keys) = self.encode(job, cache.cloned(), deadline).await?;
        let tokens = pairs.tokens();
        let lengths: Vec<usize> = pairs.encodings.iter().map(Vec::len).collect();
        let tokenized = called.elapsed();
        let (scheduler, encodings) = (&self.scheduler, pairs.encodings);
        let scores = match cache {
            Some(cache) => {
                scores::recall_or_compute(scheduler, cache, encodings, &keys, deadline).await?
            }
            None => scores::compute(scheduler, encodings, deadline).await?,
        };
        let slots = pairs.slots.into_iter();
        let logits: Vec<f32> = slots.map(|slot| best(&scores.logits[slot])).collect();
        Ok(Ranking {
            scores: rank(&logits),
            tokens,
            pairs: lengths.len(),
            cached: self.count(&scores, &lengths),
            tokenized,
            recalled: scores.recalled,
            queued: scores.queued,
            computed: scores.computed,
        })
    }

    /// Counts pairs of these lengths by where their logits came from, and tells how many were not
    /// computed for the request.
    fn count(&self, scores: &Scores, lengths: &[usize]) -> usize {
        let (mut cached, mut saved) = (0, 0);
        for (&source, &tokens) in scores.sources.iter().zip(lengths) {
            self.metrics.cache.pair(source);
            if !matches!(source, PairSource::Model | PairSource::Bypass) {
                cached += 1;
                saved += tokens;
            }
        }
        let saved = self.scheduler.seconds(saved);
        self.metrics.cache.saved_seconds.inc_by(saved);
        cached
    }

    /// Refuses a request behind others that would be refused once its tokens are known: under
    /// overload that is most of what comes, and reading it all would take time from what can be
    /// done. Large requests are rare; which of their texts are equal would take long to find out
    /// here.
    fn check_chance(&self, job: &Job, deadline: Deadline) -> Result<()> {
        if job.bytes() > AT_ONCE {
            return Ok(());
        }
        let max_length = self.info.max_length;
        let all = 0..job.documents.len();
        let as_it_stands = self
            .scheduler
            .check(job.few_tokens(all, max_length), deadline);
        as_it_stands.or_else(|_| {
            let distinct = job.distinct_documents();
            self.scheduler
                .check(job.few_tokens(distinct, max_length), deadline)
        })
    }

    /// The job's pairs and their keys, made by the threads for text: in one go, or piece by piece.
    async fn encode(
        &self,
        job: Job,
        cache: Option<Arc<Cache>>,
        deadline: Deadline,
    ) -> Result<(Pairs, Vec<Key>)> {
        let most = self.batching.queue_pairs;
        let bytes = job.bytes();
        let tokenizer = Arc::clone(&self.tokenizer);
        if bytes <= AT_ONCE {
            let encode = move |demand: &Demand| {
                let pairs = encode(&tokenizer, job, most, demand)?;
                Ok(with_keys(pairs, cache.as_deref()))
            };
            return self.text.run(bytes, deadline, encode).await?;
        }
        let plan = self
            .text
            .run(bytes / HASHED_PER_BYTE, deadline, |_| Plan::new(job));
        let plan = Arc::new(plan.await?);
        let queries = self.encode_queries(&plan, deadline).await?;
        let extents: Arc<[Extent]> = plan.extents(&tokenizer, &queries).into();
        let documents = self.encode_documents(&plan, &extents, deadline).await?;
        let copied = bytes.min(documents.len() * self.info.max_length * size_of::<u32>());
        let join = move |_: &Demand| {
            let pairs = plan.join(&tokenizer, &queries, &documents, most)?;
            Ok(with_keys(pairs, cache.as_deref()))
        };
        self.text.run(copied, deadline, join).await?
    }

    async fn encode_queries(&self, plan: &Arc<Plan>, deadline: Deadline) -> Result<Vec<Tokens>> {
        let (plan, tokenizer) = (Arc::clone(plan), Arc::clone(&self.tokenizer));
        let encode = move |demand: &Demand| plan.encode_queries(&tokenizer, demand);
        self.text.run(AT_ONCE, deadline, encode).await?
    }

    async fn encode_documents(
        &self,
        plan: &Arc<Plan>,
        extents: &Arc<[Extent]>,
        deadline: Deadline,
    ) -> Result<Vec<Tokens>> {
        let pieces = plan.pieces().into_iter();
        let work = pieces.map(|(bytes, range)| {
            let (plan, tokenizer) = (Arc::clone(plan), Arc::clone(&self.tokenizer));
            let extents = Arc::clone(extents);
            let encode =
                move |demand: &Demand| plan.encode_documents(range, &extents, &tokenizer, demand);
            (bytes, encode)
        });
        let encoded = self.text.run_all(work.collect(), deadline).await?;
        let encoded: Vec<Vec<Tokens>> = encoded.into_iter().collect::<Result<_>>()?;
        Ok(encoded.into_iter().flatten().collect())
    }
}

/// The pairs of a job that is small, in one go.
fn encode(tokenizer: &PairTokenizer, job: Job, most: usize, demand: &Demand) -> Result<Pairs> {
    let plan = Plan::new(job);
    let queries = plan.encode_queries(tokenizer, demand)?;
    let extents = plan.extents(tokenizer, &queries);
    let documents = plan.encode_documents(0..extents.len(), &extents, tokenizer, demand)?;
    plan.join(tokenizer, &queries, &documents, most)
}

/// Pairs with what the cache knows them by, if there is one.
fn with_keys(pairs: Pairs, cache: Option<&Cache>) -> (Pairs, Vec<Key>) {
    let keys = cache.map_or_else(Vec::new, |cache| {
        let encodings = pairs.encodings.iter();
        encodings.map(|tokens| cache.key(tokens)).collect()
    });
    (pairs, keys)
}

/// A document is as good as its best window.
fn best(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The tokenizer of a model, for pairs of the length that is asked for.
fn tokenizer_of(
    checkpoint: &Checkpoint,
    settings: &model::Settings,
) -> anyhow::Result<PairTokenizer> {
    let (max_length, longest) = (settings.build.max_length, checkpoint.config.longest_input());
    ensure!(
        max_length <= longest,
        "RERANKER_MAX_LENGTH is {max_length}, but this model reads at most {longest} tokens"
    );
    let tokenizer = PairTokenizer::new(&checkpoint.tokenizer, max_length)?;
    let (tokens, limit) = (tokenizer.vocabulary(), checkpoint.config.vocabulary);
    ensure!(
        tokens <= limit,
        "tokenizer.json has {tokens} tokens, but `vocab_size` in config.json is {limit}"
    );
    Ok(tokenizer.remember(settings.token_cache_mb * 1_000_000))
}

fn warm_up(encoder: &dyn CrossEncoder, tokenizer: &PairTokenizer) -> anyhow::Result<()> {
    let job = Job {
        queries: vec!["warm-up".into()],
        documents: vec!["A first pair, so that the second finds everything in place.".into()],
        ..Job::default()
    };
    let pairs = encode(tokenizer, job, 1, &Demand::until(Deadline::far_away()))?;
    let logits = encoder.predict(&Batch::pack(pairs.encodings.iter().map(Vec::as_slice)))?;
    ensure!(
        logits.iter().all(|logit| logit.is_finite()),
        "its logit is {logits:?}; the weights may be damaged"
    );
    info!(logit = logits[0], "warm-up pair scored");
    Ok(())
}

/// Has a model compute pairs of a usual length, and full batches of them if one takes no longer
/// than a second: admission needs to know from the first request on how fast it is.
fn measure(
    encoder: &dyn CrossEncoder,
    max_length: usize,
    batch_tokens: usize,
    pace: &mut Pace,
) -> anyhow::Result<()> {
    /// Query, document and special tokens. A token of a longer pair takes longer.
    const USUAL: usize = 128;
    const AT_MOST: Duration = Duration::from_secs(1);
    const LONG_ENOUGH: Duration = Duration::from_millis(500);
    let pair = vec![0; USUAL.min(max_length)];
    let pairs = (batch_tokens / pair.len()).max(1);
    let mut time = |pairs: usize| {
        let batch = Batch::pack(vec![pair.as_slice(); pairs]);
        let started = Instant::now();
        encoder.predict(&batch)?;
        pace.observe(pairs * pair.len(), started.elapsed());
        anyhow::Ok(started.elapsed())
    };
    let quarter = time(pairs.div_ceil(SMALLEST_MEASURED))?;
    if quarter * u32::try_from(SMALLEST_MEASURED)? <= AT_MOST {
        let started = Instant::now();
        while started.elapsed() < LONG_ENOUGH {
            time(pairs)?;
        }
    }
    Ok(())
}

/// Best first; the sort is stable, so ties keep the order of the request.
fn rank(logits: &[f32]) -> Vec<Score> {
    let mut scores: Vec<Score> = logits
        .iter()
        .enumerate()
        .map(|(index, &logit)| Score {
            index,
            logit,
            sigmoid: sigmoid(logit),
        })
        .collect();
    scores.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal)); // all finite; 0.0 ties with -0.0
    scores
}

/// In f64: a narrower sigmoid saturates, and ties would lose the order of good documents.
fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(logits: &[f32]) -> Vec<usize> {
        rank(logits).iter().map(|score| score.index).collect()
    }

    #[test]
    fn best_first_and_ties_in_the_order_of_the_request() {
        assert_eq!(order(&[0.0, 2.0, -1.0, 2.0, 0.0, -0.0]), [1, 3, 0, 4, 5, 2]);
        assert_eq!(order(&[]), Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn scores_are_in_the_unit_interval_and_fall(logits in prop::collection::vec(-60f32..60.0, 0..50)) {
            let scores = rank(&logits);
            prop_assert!(scores.iter().all(|s| (0.0..=1.0).contains(&s.sigmoid)));
            prop_assert!(scores.windows(2).all(|w| w[0].sigmoid >= w[1].sigmoid));
            prop_assert_eq!(scores.len(), logits.len());
        }
    }
}
