//! What an answer is, beyond its status: it goes with the answer to the layer that logs and counts.

use std::{borrow::Cow, time::Duration};

use tracing::Level;

use crate::metrics::Refused;

/// What an answer is, beyond its status.
#[derive(Clone)]
pub(super) enum Outcome {
    /// Documents with their scores.
    Scored(Scored),
    /// An error.
    Refused(Cause),
}

/// Why a request was refused.
#[derive(Clone)]
pub(super) struct Cause {
    /// The reason, as the metric's label has it.
    pub(super) reason: Refused,
    /// The level of the log line.
    pub(super) level: Level,
    /// A sentence that repeats nothing of what the client sent.
    pub(super) why: Cow<'static, str>,
}

/// What the log says of a request that was scored.
#[derive(Clone)]
pub(super) struct Scored {
    pub(super) device: &'static str,
    pub(super) documents: usize,
    pub(super) returned: usize,
    pub(super) tokens: usize,
    pub(super) pairs: usize,
    pub(super) cached: usize,
    pub(super) queued: Duration,
    pub(super) computed: Duration,
    pub(super) total: Duration,
}

/// The wire format of an answer, or of the request that was refused.
#[derive(Clone, Copy)]
pub(super) struct Format(pub(super) &'static str);
