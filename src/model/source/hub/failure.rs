//! What can go wrong with the hub, and what the user is told to do about it.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Error, anyhow};
use hf_hub::api::sync::ApiError;

use super::super::HubModel;
use super::Hub;

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
    fn cut(reason: &impl ToString) -> Self {
        Self::Cut {
            reason: reason.to_string(),
            kept: 0,
        }
    }

    /// The hub sent nothing of `file` for as long as it may.
    pub(super) fn silent(file: &str, timeout: Duration) -> Self {
        Self::Unreachable(format!("no data of {file} for {timeout:?}"))
    }
}

impl Hub<'_> {
    /// What an error of `hf-hub` about `file` means.
    pub(super) fn failure(&self, error: ApiError, file: &str) -> Failure {
        match error {
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(status) => self.refusal(status, None, Some(file)),
                error => Failure::cut(&error),
            },
            ApiError::IoError(error) if is_local(error.kind()) => {
                Failure::Final(anyhow!(error).context(self.cannot_write()))
            }
            ApiError::IoError(error) => Failure::cut(&error),
            ApiError::LockAcquisition(lock) => Failure::Final(anyhow!(
                "another process is downloading {file} into the same cache (it holds `{}`): start \
                 again when it is done",
                lock.display()
            )),
            error => Failure::Final(self.unexpected(file, &error.to_string())),
        }
    }

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
                 it: try again or give another revision"
            ),
            (404, None) if code == Some("RevisionNotFound") => anyhow!(
                "`{id}` has no revision `{revision}` at `{endpoint}`: give a branch, tag or commit \
                 that it has, such as `main`"
            ),
            (404, None) => anyhow!(
                "`{endpoint}` has no model `{id}` with revision `{revision}`: check both names, and \
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
        if self.settings.token.is_none() {
            anyhow!(
                "{cause}: it is private, gated or does not exist; check the name, ask for access at \
                 {page} if it is gated, and set HF_TOKEN to a token that may read it"
            )
        } else {
            anyhow!(
                "{cause} to the token in HF_TOKEN: check the name, that the token is valid and may \
                 read it, and ask for access at {page} if it is gated"
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
            "cannot write to the cache `{}`: make it writable, free space on its disk, set HF_HOME \
             to another directory, or set HF_HUB_OFFLINE=1 to use what it has",
            self.settings.cache_dir.display()
        )
    }
}

/// Whether an error is this machine's; `hf-hub` uses one type for files and for connections.
fn is_local(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::HubSettings;
    use super::*;

    /// What `error` about a file makes of a download: how it goes on, and the message.
    fn outcome(error: ApiError) -> (&'static str, String) {
        let model = HubModel {
            id: "acme/reranker".to_owned(),
            revision: "main".to_owned(),
        };
        let settings = HubSettings::new("some-cache");
        let hub = Hub::new(&model, &settings).unwrap();
        match hub.failure(error, "model.safetensors") {
            Failure::Final(error) => ("final", format!("{error:#}")),
            Failure::Cut { reason, .. } => ("cut", reason),
            Failure::Unreachable(reason) => ("unreachable", reason),
        }
    }

    fn status(status: u16) -> ApiError {
        ApiError::RequestError(Box::new(ureq::Error::StatusCode(status)))
    }

    #[test]
    fn only_breakdowns_of_the_hub_are_tried_again() {
        for code in [408, 429, 500, 503] {
            assert_eq!(outcome(status(code)).0, "cut", "{code}");
        }
        for code in [400, 401, 403, 404, 410, 451] {
            assert_eq!(outcome(status(code)).0, "final", "{code}");
        }
        let lost = ApiError::IoError(ErrorKind::UnexpectedEof.into());
        assert_eq!(outcome(lost).0, "cut");
        let refused = ApiError::RequestError(Box::new(ureq::Error::ConnectionFailed));
        assert_eq!(outcome(refused).0, "cut");
    }

    #[test]
    fn a_full_disk_is_not_blamed_on_the_hub() {
        let (kind, message) = outcome(ApiError::IoError(ErrorKind::StorageFull.into()));
        assert_eq!(kind, "final");
        assert!(message.contains("free space"), "{message}");
        assert!(message.contains("some-cache"), "{message}");
    }

    #[test]
    fn a_download_by_another_process_is_named() {
        let (kind, message) = outcome(ApiError::LockAcquisition("x.lock".into()));
        assert_eq!(kind, "final");
        assert!(message.contains("another process"), "{message}");
        assert!(message.contains("`x.lock`"), "{message}");
    }
}
