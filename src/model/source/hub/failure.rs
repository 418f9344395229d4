//! Why a file of the hub could not be had.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use anyhow::Error;

/// Why a file could not be had.
pub(super) enum Failure {
    /// The hub was there, or is not to blame: neither another attempt nor the cache is an answer.
    Final(Error),
    /// The connection or the hub broke down; `kept` bytes of the file are there.
    Cut { reason: String, kept: u64 },
    /// More attempts do not help either.
    Unreachable(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(super) fn cut(reason: &impl ToString) -> Self {
        Self::Cut {
            reason: reason.to_string(),
            kept: 0,
        }
    }

    /// The hub sent nothing of `file` for as long as it may.
    pub(super) fn silent(file: &str, timeout: Duration) -> Self {
        Self::Unreachable(format!("no data of {file} for {timeout:?}"))
    }

    /// Why, in words.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Final(error) => format!("{error:#}"),
            Self::Cut { reason, .. } | Self::Unreachable(reason) => reason.clone(),
        }
    }

    /// What it means that the body of an answer about `file` cannot be read on.
    pub(super) fn of_body(error: &io::Error, file: &str, timeout: Duration) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        if error.kind() == ErrorKind::TimedOut || matches!(cause, Some(ureq::Error::Timeout(_))) {
            Self::silent(file, timeout)
        } else {
            Self::cut(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_a_cut() {
        let timeout = ureq::Error::Timeout(ureq::Timeout::PerCall).into_io();
        for (error, is_silence) in [
            (timeout, true),
            (ErrorKind::TimedOut.into(), true),
            (ErrorKind::UnexpectedEof.into(), false),
        ] {
            let failure = Failure::of_body(&error, "x", Duration::from_secs(3));
            assert_eq!(matches!(failure, Failure::Unreachable(_)), is_silence);
            assert_eq!(failure.reason() == "no data of x for 3s", is_silence);
        }
    }
}
