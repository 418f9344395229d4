//! What can go wrong with the hub, and what the user is told to do about it.

use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::{Error, anyhow};

use super::super::HubModel;
use super::Hub;
use super::cache::NOTHING;

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

impl Hub<'_> {
    /// The error for an answer about `file` that no hub gives.
    pub(super) fn unexpected(&self, file: &str, reason: &str) -> Error {
        anyhow!(
            "`{}` did not answer for {file} as a hub does ({reason}): check the hub's address \
             (HF_ENDPOINT)",
            self.endpoint
        )
    }

    /// What an answer other than success means; `code` is the hub's own word for it, and `file`
    /// is none for a question about the model as a whole.
    pub(super) fn refusal(&self, status: u16, code: Option<&str>, file: Option<&str>) -> Failure {
        let HubModel { id, revision } = self.model;
        let endpoint = &self.endpoint;
        Failure::Final(match (status, file) {
            (401 | 403, _) => self.no_access(status),
            (408 | 429 | 500.., _) => {
                return Failure::cut(&format!("the hub answered {status}"));
            }
            (404, Some(file)) => anyhow!(
                "`{endpoint}` lists {file} for `{id}` at revision `{revision}` but does not have \
                 it (404): try again or give another revision"
            ),
            (404, None) if code == Some("RevisionNotFound") => anyhow!(
                "`{id}` has no revision `{revision}` at `{endpoint}` (404): give a branch, tag or commit \
                 that it has, such as `main`"
            ),
            (404, None) => anyhow!(
                "`{endpoint}` has no model `{id}` with revision `{revision}` (404): check both names, and \
                 set HF_TOKEN if the model is private"
            ),
            _ => anyhow!(
                "`{endpoint}` answered {status} for `{id}` at revision `{revision}`: check the \
                 hub's address (HF_ENDPOINT)"
            ),
        })
    }

    fn no_access(&self, status: u16) -> Error {
        let HubModel { id, .. } = self.model;
        let page = format!("{}/{id}", self.endpoint);
        // The hub answers the same for a private model and for none, so as to tell nobody.
        let cause = format!("the hub refused `{id}` ({status})");
        if self.has_token {
            anyhow!(
                "{cause} to the token in HF_TOKEN (or that of a login): check the name, that the \
                 token is valid and may read it, and ask for access at {page} if it is gated"
            )
        } else {
            anyhow!(
                "{cause}: it is private, gated or does not exist; check the name, ask for access at \
                 {page} if it is gated, and set HF_TOKEN to a token that may read it (and not \
                 HF_HUB_DISABLE_IMPLICIT_TOKEN, which keeps it from being sent)"
            )
        }
    }

    /// The error when the hub is to be left alone and the cache does not do.
    pub(super) fn offline_error(&self, missing: &Error) -> Error {
        anyhow!(
            "{} and HF_HUB_OFFLINE is set: unset it once to download the model, or give a local \
             directory or `demo` as the model",
            self.not_cached(missing)
        )
    }

    /// The error when the hub, or this machine, refuses for good. What a cache that is there lacks
    /// is another way out.
    pub(super) fn final_error(&self, error: Error, missing: &Error) -> Error {
        let (text, lack) = (format!("{error:#}"), format!("{missing:#}"));
        if lack.starts_with(NOTHING) || text.contains(&lack) {
            return error;
        }
        anyhow!("{text}; and {}", self.not_cached(missing))
    }

    /// The error when the hub does not answer and the cache does not do.
    pub(super) fn unreachable_error(&self, reason: &str, missing: &Error) -> Error {
        anyhow!(
            "cannot reach the hub at `{}` ({reason}), and {}: try again later (what was downloaded \
             is kept, and once it is complete HF_HUB_OFFLINE=1 starts from the cache without the \
             hub), or give a local directory as the model, or `demo`",
            self.endpoint,
            self.not_cached(missing)
        )
    }

    fn not_cached(&self, missing: &Error) -> String {
        let HubModel { id, revision } = self.model;
        format!(
            "the cache `{}` has no complete copy of `{id}` at revision `{revision}` ({missing:#})",
            self.settings.cache_dir.display()
        )
    }

    /// For errors of the file system.
    pub(super) fn cannot_write(&self) -> String {
        format!(
            "cannot write to the cache `{}`: make it writable, free space on its disk, set HF_HUB_CACHE \
             or HF_HOME to another directory, or set HF_HUB_OFFLINE=1 to use what it has",
            self.settings.cache_dir.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::HubSettings;
    use super::*;

    #[test]
    fn only_breakdowns_of_the_hub_are_tried_again() {
        let model = HubModel {
            id: "acme/reranker".to_owned(),
            revision: "main".to_owned(),
        };
        let settings = HubSettings::new("some-cache");
        let hub = Hub::new(&model, &settings).unwrap();
        let is_cut = |code| {
            let failure = hub.refusal(code, None, Some("model.safetensors"));
            matches!(failure, Failure::Cut { .. })
        };
        for code in [408, 429, 500, 503] {
            assert!(is_cut(code), "{code}");
        }
        for code in [400, 401, 403, 404, 410, 416, 451] {
            assert!(!is_cut(code), "{code}");
        }
    }

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
