//! What a request may cost.

use std::{sync::Arc, time::Duration};

use super::job::Job;
use crate::error::Error;

/// What a request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Time allowed from the end of its body to its answer.
    pub deadline: Duration,
    /// Windows of a long document, where the request does not say.
    pub chunks: usize,
    /// Documents of a request.
    pub documents: usize,
    /// Characters of a document.
    pub document_chars: usize,
    /// Characters of a query.
    pub query_chars: usize,
}

impl Limits {
    /// Refuses a job that is larger.
    ///
    /// # Errors
    /// Which limit it exceeds, and by how much.
    pub(crate) fn check(&self, job: &Job) -> Result<(), Error> {
        let (actual, limit) = (job.documents.len(), self.documents);
        if actual > limit {
            return Err(Error::TooManyDocuments { actual, limit });
        }
        let limit = self.query_chars;
        if let Some((index, chars)) = first_longer(&job.queries, limit) {
            return Err(Error::QueryTooLong {
                index,
                chars,
                limit,
            });
        }
        let limit = self.document_chars;
        if let Some((index, chars)) = first_longer(&job.documents, limit) {
            return Err(Error::DocumentTooLong {
                index,
                chars,
                limit,
            });
        }
        Ok(())
    }
}

/// The first text with more characters than the limit, and how many. Bytes are counted first: that
/// costs nothing.
fn first_longer(texts: &[Arc<str>], limit: usize) -> Option<(usize, usize)> {
    let texts = texts.iter().enumerate();
    texts
        .filter(|(_, text)| text.len() > limit)
        .map(|(index, text)| (index, text.chars().count()))
        .find(|&(_, chars)| chars > limit)
}
