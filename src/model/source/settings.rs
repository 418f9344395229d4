//! How the Hugging Face hub is reached and where its files are kept.

use std::{fmt, path::PathBuf, time::Duration};

/// How the hub is reached and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// The hub's address (`HF_ENDPOINT`); the public hub if absent.
    pub endpoint: Option<String>,
    /// The access token (`HF_TOKEN`).
    pub token: Option<String>,
    /// Where a login may have left a token (`HF_TOKEN_PATH`), for when none was given.
    pub token_file: Option<PathBuf>,
    /// The cache directory (`HF_HUB_CACHE`), in the layout that all of the hub's clients share.
    pub cache_dir: PathBuf,
    /// Use the cache alone (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// How long the hub may stay silent before it counts as unreachable
    /// (`HF_HUB_DOWNLOAD_TIMEOUT`).
    pub timeout: Duration,
    /// How long all questions to the hub may take together when the cache has a complete copy
    /// (`HF_HUB_ETAG_TIMEOUT`).
    pub question_timeout: Duration,
    /// How the hub is reached where it is not reached directly.
    pub proxies: Proxies,
}

/// Proxies by scheme; an address may have user and password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The proxy for addresses that start with https (`HTTPS_PROXY`, `ALL_PROXY`).
    pub https: Option<String>,
    /// The proxy for addresses that start with http (`HTTP_PROXY`, `ALL_PROXY`).
    pub http: Option<String>,
    /// Hosts that are reached directly (`NO_PROXY`).
    pub except: String,
}

impl HubSettings {
    /// The [`timeout`](Self::timeout) for when there is no reason for another one.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    /// The [`question_timeout`](Self::question_timeout) likewise.
    pub const DEFAULT_QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

    /// Settings for the public hub, online, without a token of their own.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: None,
            token: None,
            token_file: None,
            cache_dir: cache_dir.into(),
            offline: false,
            timeout: Self::DEFAULT_TIMEOUT,
            question_timeout: Self::DEFAULT_QUESTION_TIMEOUT,
            proxies: Proxies::default(),
        }
    }
}

/// Leaves out the token and passwords, so that settings can be logged.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("token_file", &self.token_file)
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .field("question_timeout", &self.question_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_hide_the_token() {
        let mut settings = HubSettings::new("cache");
        settings.token = Some("hf_secret".to_owned());
        let shown = format!("{settings:?}");
        assert!(shown.contains("hidden") && !shown.contains("hf_secret"));
    }
}
