//! The use case: a query and documents in, a ranking out.
//!
//! Every way in, HTTP or command line, whatever its wire format, calls [`Reranker::rerank`].

mod job;
mod limits;
mod pairs;
mod ranking;
mod scores;
mod settings;
mod speed;

use std::{sync::Arc, time::Instant};

use anyhow::{Context as _, ensure};

use crate::{
    cache::{Cache, Identity, Key},
    deadline::Deadline,
    error::Result,
    memory::Lease,
    metrics::{Metrics, PairSource},
    model::{self, Checkpoint, LoadedModel},
    ops::GpuInfo,
    queue::{self, Pace},
    scheduler::Scheduler,
    text_pool::{Demand, TextPool},
    tokenizer::{Described, Extent, PairTokenizer, Tokens},
};

pub(crate) use self::{
    job::Job,
    limits::Limits,
    ranking::{Ranking, Score},
    settings::Settings,
};
use self::{
    pairs::{Pairs, Plan, encode},
    ranking::{best, rank},
    scores::Scores,
    speed::{SMALLEST_MEASURED, measure, warm_up},
};

/// Requests with no more text than this are encoded in one piece of work.
const AT_ONCE: usize = 64 * 1024;

/// Hashing a byte costs this much less than tokenising it.
const HASHED_PER_BYTE: usize = 8;

/// What the tokens of a text take while they are described, for each of its bytes: a byte is a
/// token at most, and the library keeps its name, its place and where each byte came from.
const DESCRIBED_PER_BYTE: usize = 320;

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
        for source in PairSource::ALL {
            let from_there = scores.sources.iter().filter(|&&from| from == source);
            self.metrics.cache.pairs(source, from_there.count());
        }
        let is_computed = |source| matches!(source, PairSource::Model | PairSource::Bypass);
        let pairs = scores.sources.iter().zip(lengths);
        let known = pairs.filter(|&(&source, _)| !is_computed(source));
        let (cached, saved) = known.fold((0, 0), |(pairs, tokens), (_, length)| {
            (pairs + 1, tokens + length)
        });
        let saved = self.scheduler.seconds(saved);
        self.metrics.cache.saved_seconds.inc_by(saved);
        cached
    }

    /// The tokens of texts, by a deadline. The lease grows by what they take.
    ///
    /// # Errors
    /// See [`crate::error::Error`].
    pub(crate) async fn tokenize(
        &self,
        texts: Vec<Arc<str>>,
        with_special: bool,
        deadline: Deadline,
        lease: &mut Lease,
    ) -> Result<Vec<Vec<Described>>> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        lease.grow(bytes.saturating_mul(DESCRIBED_PER_BYTE))?;
        let tokenizer = Arc::clone(&self.tokenizer);
        let describe = move |demand: &Demand| {
            let describe = |text: &Arc<str>| {
                if demand.is_there() {
                    tokenizer.describe(text, with_special)
                } else {
                    Err(demand.ended())
                }
            };
            texts.iter().map(describe).collect()
        };
        let described = self.text.run(bytes, deadline, describe);
        deadline.bound(async { described.await? }).await
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

/// Pairs with what the cache knows them by, if there is one.
fn with_keys(pairs: Pairs, cache: Option<&Cache>) -> (Pairs, Vec<Key>) {
    let keys = cache.map_or_else(Vec::new, |cache| {
        let encodings = pairs.encodings.iter();
        encodings.map(|tokens| cache.key(tokens)).collect()
    });
    (pairs, keys)
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
