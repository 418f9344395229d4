//! The answer to a request: its documents in order.

use std::{cmp::Ordering, time::Duration};

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

/// A document is as good as its best window.
pub(super) fn best(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Best first; the sort is stable, so ties keep the order of the request.
pub(super) fn rank(logits: &[f32]) -> Vec<Score> {
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
