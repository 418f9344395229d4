//! One model on one hub: how the hub is asked, and what the user is told when it does not deliver.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use ureq::http::Uri;

use super::{
    super::{name::HubModel, settings::HubSettings},
    cache::{Cache, NOTHING},
    client::{self, Client, TimeLimits},
    failure::Failure,
};

const PUBLIC_HUB: &str = "https://huggingface.co";

/// Bytes of a file with a token.
const MAX_TOKEN: u64 = 64 << 10;

/// One model on one hub.
pub(super) struct Hub<'a> {
    pub(super) model: &'a HubModel,
    pub(super) settings: &'a HubSettings,
    /// The hub's address.
    pub(super) address: String,
    /// The hub's address without a password, for messages.
    pub(super) endpoint: String,
    pub(super) has_token: bool,
    pub(super) limits: TimeLimits,
    /// Attempts in a row that bring no new byte, after which the hub counts as unreachable.
    pub(super) fruitless_attempts: u32,
    pub(super) cache: Cache,
    pub(super) client: Client,
}

impl<'a> Hub<'a> {
    pub(super) fn new(model: &'a HubModel, settings: &'a HubSettings) -> Result<Self> {
        let address = settings.endpoint.as_deref().unwrap_or(PUBLIC_HUB);
        let address = address.trim_end_matches('/').to_owned();
        let home: Option<Uri> = address.parse().ok();
        let home = home
            .filter(|home| matches!(home.scheme_str(), Some("https" | "http")))
            .with_context(|| {
                format!(
                    "the hub's address `{address}` (HF_ENDPOINT) must start with https:// or http://"
                )
            })?;
        let token = token(settings)?;
        Ok(Self {
            model,
            settings,
            endpoint: client::shown(&home),
            address,
            has_token: token.is_some(),
            limits: TimeLimits {
                silence: settings.timeout,
                all: Some(settings.timeout),
            },
            fruitless_attempts: 5,
            cache: Cache::new(&settings.cache_dir, model),
            client: Client::new(home, token, settings),
        })
    }

    /// Shortens the limits, because nobody should wait long for the hub if the cache is complete.
    pub(super) fn hurry(&mut self) {
        self.limits.all = Some(self.settings.question_timeout);
        self.fruitless_attempts = 2;
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

    /// The context of errors of the file system.
    pub(super) fn cannot_write(&self) -> String {
        format!(
            "cannot write to the cache `{}`: make it writable, free space on its disk, set HF_HUB_CACHE \
             or HF_HOME to another directory, or set HF_HUB_OFFLINE=1 to use what it has",
            self.settings.cache_dir.display()
        )
    }
}

/// The token that is sent to the hub: the one that was given, or that of a login.
fn token(settings: &HubSettings) -> Result<Option<String>> {
    let (token, origin) = match (&settings.token, &settings.token_file) {
        (Some(token), _) => (token.clone(), "HF_TOKEN".to_owned()),
        (None, Some(path)) => match read_token(path) {
            Ok(token) => (token, format!("`{}`", path.display())),
            // Most machines have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the token of a login");
                return Ok(None);
            }
        },
        (None, None) => return Ok(None),
    };
    ensure!(
        token.chars().all(|c| c.is_ascii_graphic()),
        "{origin} has a space, a line break or another character that no token has"
    );
    Ok(Some(token).filter(|token| !token.is_empty()))
}

fn read_token(path: &Path) -> io::Result<String> {
    let mut token = String::new();
    File::open(path)?
        .take(MAX_TOKEN)
        .read_to_string(&mut token)?;
    Ok(token.trim().to_owned())
}

#[cfg(test)]
mod tests {
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
}
