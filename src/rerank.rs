//! The use case: a query and documents in, a ranking out.
//!
//! Every way in, HTTP or command line, whatever its wire format, calls [`Reranker::rerank`].

use std::{
    cmp::Ordering,
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{task::spawn_blocking, time::timeout};
use tracing::info;

use crate::{
    config::{Batching, ModelSettings},
    error::{Error, Result},
    metrics::Metrics,
    model::{Backend, Batch, Built, Checkpoint, CrossEncoder},
    ops::GpuInfo,
    scheduler::{self, Scheduler},
    tokenizer::{Encoding, PairTokenizer, Tokens, Truncation, strip},
};

/// A loaded model with its tokenizer and its queue.
pub struct Reranker {
    tokenizer: Arc<PairTokenizer>,
    scheduler: Scheduler,
    info: ModelInfo,
    limits: Limits,
    batching: scheduler::Limits,
}

/// What a request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the call to the answer.
    pub deadline: Duration,
    /// Windows of a long document, where the request does not say.
    pub chunks: usize,
}

/// What to score.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    /// One for all documents, or one for each.
    pub queries: Vec<String>,
    /// In the order of the request.
    pub documents: Vec<String>,
    /// What to do with pairs that are too long.
    pub truncation: Truncation,
}

/// What clients may want to know of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// As configured: a hub id, a directory or `demo`.
    pub id: String,
    /// The commit of the hub's repository, where it came from one.
    pub commit: Option<String>,
    /// `cpu` or `cuda`.
    pub device: &'static str,
    /// The GPUs, where it is `cuda`.
    pub gpus: Vec<GpuInfo>,
    /// The precision of the arithmetic.
    pub dtype: &'static str,
    /// `native` or `reference`.
    pub backend: &'static str,
    /// Tokens per pair; longer pairs are truncated.
    pub max_length: usize,
}

/// How well a document answers the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Its place in the request.
    pub index: usize,
    /// What the model said.
    pub logit: f32,
    /// The sigmoid of that, in [0, 1].
    pub score: f64,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Every document, best first, ties in the order of the request.
    pub scores: Vec<Score>,
    /// Tokens of all pairs as the model reads them: truncated, with the special ones.
    pub tokens: usize,
    /// From the call to admission.
    pub tokenized: Duration,
    /// From admission to the first batch.
    pub queued: Duration,
    /// From there to the last.
    pub computed: Duration,
}

/// The distinct pairs of a request.
#[derive(Default)]
struct Pairs {
    encodings: Vec<Encoding>,
    /// For each document, which of the encodings are its own: several if it is read in windows.
    slots: Vec<Range<usize>>,
}

impl Reranker {
    /// Loads a model, downloading it if need be, and has it score a pair: what returns is ready to work.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong with which file or option, and what to do.
    pub fn load(
        model: &ModelSettings,
        batching: Batching,
        limits: Limits,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(&model.source, &model.hub)?;
        let longest = checkpoint.config.longest_input();
        ensure!(
            model.max_length <= longest,
            "RERANKER_MAX_LENGTH is {}, but this model reads at most {longest} tokens",
            model.max_length
        );
        let tokenizer = PairTokenizer::new(&checkpoint.tokenizer, model.max_length)?
            .remember(model.token_cache_mb * 1_000_000);
        ensure!(
            tokenizer.vocabulary() <= checkpoint.config.vocabulary,
            "tokenizer.json has {} tokens, but `vocab_size` in config.json is {}",
            tokenizer.vocabulary(),
            checkpoint.config.vocabulary
        );
        let Built {
            encoders,
            device,
            gpus,
            dtype,
            batch_tokens,
        } = checkpoint.build(&model.wanted(batching.tokens))?;
        for encoder in &encoders {
            warm_up(encoder.as_ref(), &tokenizer).context("the model cannot score a first pair")?;
        }
        let info = ModelInfo {
            id: model.id.clone(),
            commit: checkpoint.commit,
            device,
            gpus,
            dtype,
            backend: match model.backend {
                Backend::Native => "native",
                Backend::Reference => "reference",
            },
            max_length: model.max_length,
        };
        let settings = batching.settings(batch_tokens);
        let scheduler = Scheduler::new(encoders, settings, Arc::clone(metrics))
            .context("cannot start the threads of the model")?;
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            scheduler,
            info,
            limits,
            batching: settings.limits,
        })
    }

    /// What model this is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The sizes of batches and of the queue.
    pub fn batching(&self) -> scheduler::Limits {
        self.batching
    }

    /// Pairs waiting for a batch.
    pub fn queued_pairs(&self) -> usize {
        self.scheduler.queued_pairs()
    }

    /// Refuses new work; what was admitted is still answered.
    pub fn close(&self) {
        self.scheduler.close();
    }

    /// Ranks documents by how well they answer the query. Dropping the future cancels what has not started.
    ///
    /// # Errors
    /// See [`Error`]; every score of a ranking is finite.
    pub async fn rerank(&self, job: Job) -> Result<Ranking> {
        timeout(self.limits.deadline, self.score(job))
            .await
            .unwrap_or(Err(Error::DeadlineExceeded(self.limits.deadline)))
    }

    async fn score(&self, mut job: Job) -> Result<Ranking> {
        let called = Instant::now();
        job.truncation.chunks.get_or_insert(self.limits.chunks);
        let tokenizer = Arc::clone(&self.tokenizer);
        let pairs = spawn_blocking(move || encode(&tokenizer, &job))
            .await
            .map_err(|e| Error::Inference(format!("tokenizer: {e}")))??;
        let tokens = pairs.tokens();
        let tokenized = called.elapsed();
        let scored = self.scheduler.score(pairs.encodings).await?;
        let logits: Vec<f32> = pairs
            .slots
            .into_iter()
            .map(|slot| best(&scored.logits[slot]))
            .collect();
        Ok(Ranking {
            scores: rank(&logits),
            tokens,
            tokenized,
            queued: scored.queued,
            computed: scored.computed,
        })
    }
}

/// A document is as good as its best window.
fn best(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn warm_up(encoder: &dyn CrossEncoder, tokenizer: &PairTokenizer) -> anyhow::Result<()> {
    let job = Job {
        queries: vec!["warm-up".to_owned()],
        documents: vec!["A first pair, so that the second finds everything in place.".to_owned()],
        ..Job::default()
    };
    let pairs = encode(tokenizer, &job)?;
    let logits = encoder.predict(&Batch::pack(pairs.encodings.iter().map(Vec::as_slice)))?;
    ensure!(
        logits.iter().all(|logit| logit.is_finite()),
        "its logit is {logits:?}; the weights may be damaged"
    );
    info!(logit = logits[0], "warm-up pair scored");
    Ok(())
}

impl Pairs {
    fn tokens(&self) -> usize {
        let slots = self.slots.iter().cloned();
        slots.flatten().map(|pair| self.encodings[pair].len()).sum()
    }
}

/// Encodes each distinct text once, and each distinct pair of texts once.
fn encode(tokenizer: &PairTokenizer, job: &Job) -> Result<Pairs> {
    let queries = Distinct::of(&job.queries);
    let documents = Distinct::of(&job.documents);
    let query_tokens = tokenizer.encode(&queries.texts)?;
    let document_tokens = tokenizer.encode_documents(&documents.texts)?;
    let mut pairs = Pairs::default();
    let mut seen = HashMap::new();
    for (index, &document) in documents.slots.iter().enumerate() {
        let query = match queries.slots[..] {
            [only] => only,
            _ => queries.slots[index],
        };
        let slot = match seen.entry((query, document)) {
            Entry::Occupied(slot) => Range::clone(slot.get()),
            Entry::Vacant(place) => {
                let (query, document): (&Tokens, &Tokens) =
                    (&query_tokens[query], &document_tokens[document]);
                let windows =
                    tokenizer
                        .join(query, document, job.truncation)
                        .map_err(|too_long| Error::PairTooLong {
                            index,
                            tokens: too_long.tokens,
                            limit: too_long.limit,
                        })?;
                let start = pairs.encodings.len();
                pairs.encodings.extend(windows);
                place.insert(start..pairs.encodings.len()).clone()
            }
        };
        pairs.slots.push(slot);
    }
    Ok(pairs)
}

/// Texts without their repetitions.
struct Distinct<'a> {
    /// Stripped.
    texts: Vec<&'a str>,
    /// For each text given, which of those it is.
    slots: Vec<usize>,
}

impl<'a> Distinct<'a> {
    fn of(given: &'a [String]) -> Self {
        let mut texts = Vec::new();
        let mut seen = HashMap::new();
        let slots = given
            .iter()
            .map(|text| {
                let text = strip(text);
                *seen.entry(text).or_insert_with(|| {
                    texts.push(text);
                    texts.len() - 1
                })
            })
            .collect();
        Self { texts, slots }
    }
}

/// Best first; the sort is stable, so ties keep the order of the request.
fn rank(logits: &[f32]) -> Vec<Score> {
    let mut scores: Vec<Score> = logits
        .iter()
        .enumerate()
        .map(|(index, &logit)| Score {
            index,
            logit,
            score: sigmoid(logit),
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
            prop_assert!(scores.iter().all(|s| (0.0..=1.0).contains(&s.score)));
            prop_assert!(scores.windows(2).all(|w| w[0].score >= w[1].score));
            prop_assert_eq!(scores.len(), logits.len());
        }
    }
}
