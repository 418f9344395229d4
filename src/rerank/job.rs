//! What a request asks for, whatever its format.

use std::{collections::HashMap, sync::Arc};

use crate::tokenizer::{Truncation, strip};

/// What to score.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// One query for all documents, or one for each.
    pub queries: Vec<Arc<str>>,
    /// The documents, in the order of the request.
    pub documents: Vec<Arc<str>>,
    /// What to do with pairs that are too long.
    pub truncation: Truncation,
}

impl Job {
    /// Bytes of all texts.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.queries.iter().chain(&self.documents);
        texts.map(|text| text.len()).sum()
    }

    /// The first of each group of equal documents.
    pub(super) fn distinct_documents(&self) -> Vec<usize> {
        distinct(&self.documents).0
    }

    /// Counts fewer tokens than the pairs of these documents have, if the texts are ordinary: a
    /// token of those has half as many bytes.
    pub(super) fn few_tokens(
        &self,
        documents: impl IntoIterator<Item = usize>,
        max_length: usize,
    ) -> usize {
        const BYTES: usize = 8;
        let texts = documents.into_iter().map(|place| &self.documents[place]);
        let tokens = texts.map(|text| (text.len() / BYTES).clamp(1, max_length));
        tokens.sum()
    }

    /// What the tokens of the job take at most while it is worked on, in bytes: those of each text
    /// (a token has a byte or more), and those of each window.
    pub(super) fn token_bytes(&self, max_length: usize) -> usize {
        /// A `Vec` and its entry in the queue.
        const WINDOW: usize = 128;
        let chunks = self.truncation.chunks.unwrap_or(1);
        let texts = self.queries.iter().chain(&self.documents);
        let of_text = |text: &Arc<str>| {
            let windows = chunks.min(text.len() + 1);
            let tokens = text.len().min(windows * max_length);
            size_of::<u32>() * (tokens + windows * max_length) + WINDOW * windows
        };
        texts.map(of_text).sum()
    }
}

/// The place of the first of each group of equal texts, and for each text the number of its group.
pub(super) fn distinct(texts: &[Arc<str>]) -> (Vec<usize>, Vec<usize>) {
    let mut firsts = Vec::new();
    let mut seen = HashMap::new();
    let groups = texts.iter().enumerate().map(|(place, text)| {
        *seen.entry(strip(text)).or_insert_with(|| {
            firsts.push(place);
            firsts.len() - 1
        })
    });
    let groups = groups.collect();
    (firsts, groups)
}
