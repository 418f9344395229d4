//! A deadline: until when a request must be answered, and how long it was given.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::error::{Error, Result};

/// The time until which work is worth doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Instant,
    within: Duration,
}

impl Deadline {
    /// A deadline so long after now.
    pub(crate) fn after(within: Duration) -> Self {
        Self {
            at: Instant::now() + within,
            within,
        }
    }

    /// A deadline that work at the start of the program does not reach.
    pub(crate) fn far_away() -> Self {
        Self::after(Duration::from_hours(24 * 365))
    }

    /// The deadline for a part of the work that may use this share of the time that is left.
    #[must_use]
    pub(crate) fn for_share(self, share: f64) -> Self {
        let now = Instant::now();
        let left = self.at.saturating_duration_since(now);
        Self {
            at: now + left.mul_f64(share),
            ..self
        }
    }

    /// The time of the deadline.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// The time that the request was given in all.
    pub(crate) fn within(self) -> Duration {
        self.within
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.at
    }

    /// The error of work that was not done by then.
    pub(crate) fn exceeded(self) -> Error {
        Error::DeadlineExceeded(self.within)
    }

    /// Does work until the deadline.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] if it is not done by then; the errors of the work.
    pub(crate) async fn bound<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = timeout_at(self.at.into(), work).await;
        done.unwrap_or_else(|_| Err(self.exceeded()))
    }
}
