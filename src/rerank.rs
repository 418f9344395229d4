//! The use case: a query and documents in, a ranking out.
//!
//! Every way in, HTTP or command line, whatever its wire format, calls [`Reranker::rerank`].

use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use tokio::{task::spawn_blocking, time::timeout};
use tracing::info;

use crate::{
    config::ModelSettings,
    error::{Error, Result},
    model::{Backend, Batch, Checkpoint, CrossEncoder},
    scheduler::{Scheduler, Settings},
    tokenizer::{Encoding, PairTokenizer, strip},
};

/// A loaded model with its tokenizer and its queue.
pub struct Reranker {
    tokenizer: Arc<PairTokenizer>,
    scheduler: Scheduler,
    info: ModelInfo,
    deadline: Duration,
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
    /// Tokens computed: truncated pairs, identical documents once.
    pub tokens: usize,
    /// From admission to the first batch.
    pub queued: Duration,
    /// From there to the last.
    pub computed: Duration,
}

/// The distinct pairs of a request.
struct Pairs {
    encodings: Vec<Encoding>,
    /// For each document, which of the encodings is its own.
    slots: Vec<usize>,
}

impl Reranker {
    /// Loads a model, downloading it if need be, and has it score a pair: what returns is ready to work.
    ///
    /// # Errors
    /// A sentence for a person: what is wrong with which file or option, and what to do.
    pub fn load(
        model: &ModelSettings,
        scheduler: Settings,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(&model.source, &model.hub)?;
        let longest = checkpoint.config.longest_input();
        ensure!(
            model.max_length <= longest,
            "RERANKER_MAX_LENGTH is {}, but this model reads at most {longest} tokens",
            model.max_length
        );
        let tokenizer = PairTokenizer::new(&checkpoint.tokenizer, model.max_length)?;
        ensure!(
            tokenizer.vocabulary() <= checkpoint.config.vocabulary,
            "tokenizer.json has {} tokens, but `vocab_size` in config.json is {}",
            tokenizer.vocabulary(),
            checkpoint.config.vocabulary
        );
        let (encoder, device) = checkpoint.build(model.backend, model.device, model.require_gpu)?;
        warm_up(encoder.as_ref(), &tokenizer).context("the model cannot score a first pair")?;
        let info = ModelInfo {
            id: model.id.clone(),
            commit: checkpoint.commit,
            device,
            dtype: "float32",
            backend: match model.backend {
                Backend::Native => "native",
                Backend::Reference => "reference",
            },
            max_length: model.max_length,
        };
        let scheduler = Scheduler::new(encoder, scheduler);
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            scheduler,
            info,
            deadline,
        })
    }

    /// What model this is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
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
    pub async fn rerank(&self, query: String, documents: Vec<String>) -> Result<Ranking> {
        timeout(self.deadline, self.score(query, documents))
            .await
            .unwrap_or(Err(Error::DeadlineExceeded(self.deadline)))
    }

    async fn score(&self, query: String, documents: Vec<String>) -> Result<Ranking> {
        let tokenizer = Arc::clone(&self.tokenizer);
        let pairs = spawn_blocking(move || encode(&tokenizer, &query, &documents))
            .await
            .map_err(|e| Error::Inference(format!("tokenizer: {e}")))??;
        let tokens = pairs.encodings.iter().map(Vec::len).sum();
        let scored = self.scheduler.score(pairs.encodings).await?;
        let logits: Vec<f32> = pairs
            .slots
            .iter()
            .map(|&slot| scored.logits[slot])
            .collect();
        Ok(Ranking {
            scores: rank(&logits),
            tokens,
            queued: scored.queued,
            computed: scored.computed,
        })
    }
}

fn warm_up(encoder: &dyn CrossEncoder, tokenizer: &PairTokenizer) -> anyhow::Result<()> {
    let pairs = tokenizer.encode_pairs(
        "warm-up",
        &["A first pair, so that the second finds everything in place."],
    )?;
    let logits = encoder.predict(&Batch::pack(pairs.iter().map(Vec::as_slice)))?;
    ensure!(
        logits.iter().all(|logit| logit.is_finite()),
        "its logit is {logits:?}; the weights may be damaged"
    );
    info!(logit = logits[0], "warm-up pair scored");
    Ok(())
}

/// Encodes each distinct document once.
fn encode(tokenizer: &PairTokenizer, query: &str, documents: &[String]) -> Result<Pairs> {
    let mut distinct = Vec::new();
    let mut seen = HashMap::new();
    let slots = documents
        .iter()
        .map(|document| {
            let text = strip(document);
            *seen.entry(text).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            })
        })
        .collect();
    Ok(Pairs {
        encodings: tokenizer.encode_pairs(query, &distinct)?,
        slots,
    })
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
