//! What can go wrong with a request, in the kinds that a caller can act on.
//!
//! Below this line (rerank, scheduler, http) code branches on these; above it (main, cli, config,
//! loading) a person reads [`anyhow`] chains.

use std::time::Duration;

/// A request that got no ranking. `Clone`, because one failed batch answers many requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More documents than a request may have.
    #[error(
        "{actual} documents exceed the limit of {limit} per request; send fewer, or raise RERANKER_MAX_DOCUMENTS"
    )]
    TooManyDocuments {
        /// How many were sent.
        actual: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// More bytes than a request may have.
    #[error(
        "the body exceeds the limit of {limit} bytes; send fewer documents, or raise RERANKER_MAX_BODY_BYTES"
    )]
    BodyTooLarge {
        /// How many bytes are allowed.
        limit: usize,
    },
    /// A query longer than a request may have.
    #[error(
        "query {index} has {chars} characters, more than the limit of {limit}; shorten it, or raise RERANKER_MAX_QUERY_CHARS"
    )]
    QueryTooLong {
        /// Which query; 0 where there is one.
        index: usize,
        /// Characters that it has.
        chars: usize,
        /// How many characters are allowed.
        limit: usize,
    },
    /// A document longer than a request may have.
    #[error(
        "document {index} has {chars} characters, more than the limit of {limit}; split it, or raise RERANKER_MAX_DOCUMENT_CHARS"
    )]
    DocumentTooLong {
        /// The document's place in the request.
        index: usize,
        /// Characters that it has.
        chars: usize,
        /// How many characters are allowed.
        limit: usize,
    },
    /// A pair that the request did not want truncated.
    #[error(
        "the query and document {index} have {}{tokens} tokens together, more than the limit of {limit}; shorten them, or let them be truncated",
        if *.are_all { "" } else { "at least " }
    )]
    PairTooLong {
        /// The document's place in the request.
        index: usize,
        /// Tokens of the pair, specials included.
        tokens: usize,
        /// Whether the number is that of all tokens.
        are_all: bool,
        /// How many are allowed.
        limit: usize,
    },
    /// More pairs than the queue ever holds: documents read in many windows.
    #[error(
        "at least {pairs} pairs exceed the queue of {limit}; send fewer documents or lower max_chunks_per_doc, or raise RERANKER_MAX_QUEUE_PAIRS"
    )]
    TooManyPairs {
        /// Pairs of the request as far as they were counted: documents, or windows of documents.
        pairs: usize,
        /// The queue's size.
        limit: usize,
    },
    /// The queue is full for the moment.
    #[error("{queued} pairs are waiting and {refused} more do not fit the queue of {limit}; retry in {} s", retry_after.as_secs())]
    Overloaded {
        /// Pairs waiting when the request came.
        queued: usize,
        /// Pairs the request had.
        refused: usize,
        /// The queue's size.
        limit: usize,
        /// When there should be room again, in whole seconds.
        retry_after: Duration,
    },
    /// Requests in flight use the memory that there is for them.
    #[error("requests in flight use the {} MB that there are for them; retry in {} s, or raise RERANKER_MEMORY_MB", limit / 1_000_000, retry_after.as_secs())]
    OutOfMemory {
        /// The budget, in bytes.
        limit: usize,
        /// When there may be room again, in whole seconds.
        retry_after: Duration,
    },
    /// The request needs more memory than there ever is for one.
    #[error("the request needs {} MB of memory, more than the {} MB that there are for one; send fewer or shorter documents, or raise RERANKER_MEMORY_MB", needed / 1_000_000, limit / 1_000_000)]
    TooLargeForMemory {
        /// Bytes that it would hold.
        needed: usize,
        /// Bytes that a request may hold.
        limit: usize,
    },
    /// The request cannot be done by its deadline, because of what is ahead of it.
    #[error("this request would take about {} s behind those ahead of it, longer than its deadline allows; retry in {} s, or raise RERANKER_DEADLINE_MS", wait.as_secs(), retry_after.as_secs())]
    Late {
        /// The time until it would be done, in whole seconds.
        wait: Duration,
        /// When it could be admitted, in whole seconds.
        retry_after: Duration,
    },
    /// The request could not be done by its deadline even alone.
    #[error("this request alone would take about {} s here, longer than its deadline allows; send fewer documents, or raise RERANKER_DEADLINE_MS", needed.as_secs())]
    TooSlow {
        /// The time that it would take, in whole seconds.
        needed: Duration,
    },
    /// The answer did not come within the deadline.
    #[error("no answer within the deadline of {} ms; send fewer documents, or raise RERANKER_DEADLINE_MS", .0.as_millis())]
    DeadlineExceeded(Duration),
    /// The server is draining.
    #[error("the server is shutting down; send the request again to another instance")]
    ShuttingDown,
    /// The tokenizer or the model failed. The text is for the log.
    #[error("the model failed: {0}")]
    Inference(String),
}

impl Error {
    /// A request that would take so many seconds, too many by the other number of them.
    pub fn late(wait: f64, retry_after: f64) -> Self {
        Self::Late {
            wait: whole_seconds(wait),
            retry_after: whole_seconds(retry_after),
        }
    }
}

/// Rounds up to whole seconds, at least one and at most a day: `Retry-After` has no fractions.
pub fn whole_seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(1.0, 86_400.0).ceil())
}

/// What every fallible step of a request returns.
pub type Result<T> = std::result::Result<T, Error>;
