//! The values of labels, each set once.

/// Why a request was refused; the label `reason` has these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The body is no request that can be scored.
    Invalid,
    /// The request exceeds a limit.
    TooLarge,
    /// The queue is full.
    Overloaded,
    /// Requests in flight hold all the memory that there is for them.
    Memory,
    /// No answer within the deadline.
    Deadline,
    /// The model is loading.
    Loading,
    /// The server is draining.
    ShuttingDown,
    /// The body broke off or cannot be unpacked.
    BrokenOff,
    /// The body came too slowly.
    SlowBody,
    /// The body is packed in an unknown way.
    Encoding,
    /// No key, or a wrong one.
    Unauthorized,
    /// All connections are taken.
    Connections,
    /// No such path.
    NoRoute,
    /// The path is there, for another method.
    Method,
    /// The connection ended before there was an answer.
    HungUp,
    /// The model failed.
    Failed,
}

impl Refused {
    /// Every reason once.
    pub(super) const ALL: [Self; 16] = [
        Self::Invalid,
        Self::TooLarge,
        Self::Overloaded,
        Self::Memory,
        Self::Deadline,
        Self::Loading,
        Self::ShuttingDown,
        Self::BrokenOff,
        Self::SlowBody,
        Self::Encoding,
        Self::Unauthorized,
        Self::Connections,
        Self::NoRoute,
        Self::Method,
        Self::HungUp,
        Self::Failed,
    ];

    /// The value of the label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Memory => "memory",
            Self::Deadline => "deadline",
            Self::Loading => "loading",
            Self::ShuttingDown => "shutting_down",
            Self::BrokenOff => "broken_off",
            Self::SlowBody => "slow_body",
            Self::Encoding => "encoding",
            Self::Unauthorized => "unauthorized",
            Self::Connections => "connections",
            Self::NoRoute => "no_route",
            Self::Method => "method",
            Self::HungUp => "hung_up",
            Self::Failed => "failed",
        }
    }
}

/// A part of the time of a request that is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Reading the body: from its last byte to what is to be scored.
    Parse,
    /// Tokenizing: from what is to be scored to the tokens of all pairs.
    Tokenize,
    /// Asking the cache for what is known of the pairs.
    Cache,
    /// Waiting: from admission to the first batch.
    Queue,
    /// Computing: from the first batch to the last.
    Compute,
}

impl Stage {
    /// The value of the label `stage`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Tokenize => "tokenize",
            Self::Cache => "cache",
            Self::Queue => "queue",
            Self::Compute => "compute",
        }
    }
}

/// Where the logit of a pair came from; the label `source` has these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PairSource {
    /// This process remembered it.
    Memory,
    /// It was in Redis.
    Redis,
    /// Another request was computing it.
    Flight,
    /// The model computed it.
    Model,
    /// The model computed it, without a cache: there is none, or the request did not want it.
    Bypass,
}

impl PairSource {
    /// Every source once.
    pub(crate) const ALL: [Self; 5] = [
        Self::Memory,
        Self::Redis,
        Self::Flight,
        Self::Model,
        Self::Bypass,
    ];

    /// The value of the label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Flight => "flight",
            Self::Model => "model",
            Self::Bypass => "bypass",
        }
    }
}

/// What went wrong with Redis; the label `kind` has these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheError {
    /// No answer in time.
    Timeout,
    /// No connection, or it broke off.
    Connection,
    /// An error for an answer.
    Refused,
    /// Scores were not written, because too many wait to be.
    Full,
}

impl CacheError {
    /// The value of the label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Refused => "refused",
            Self::Full => "full",
        }
    }
}
