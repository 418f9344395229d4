//! Options that decide who may connect, and how.

use std::path::PathBuf;

use clap::Args;

use crate::{
    http::{AccessSettings, KeySettings, Origin, TlsFiles},
    secret::Secret,
};

/// Who may connect, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// Keys that clients must send, separated by commas; without any, everyone may use the server
    #[arg(
        long,
        env = "RERANKER_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KEYS"
    )]
    pub api_key: Vec<Secret>,

    /// File with further keys, one a line, `#` for comments; read again when it changes and on
    /// SIGHUP
    #[arg(long, env = "RERANKER_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Certificate chain (PEM) for HTTPS; read again when it changes and on SIGHUP
    #[arg(long, env = "RERANKER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of that certificate
    #[arg(long, env = "RERANKER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Origins whose pages may call from a browser, separated by commas, as `https://app.example`;
    /// `*` for all
    #[arg(
        long,
        env = "RERANKER_CORS_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGINS"
    )]
    pub cors_origins: Vec<Origin>,
}

impl AccessArgs {
    pub(super) fn resolve(&self) -> AccessSettings {
        AccessSettings {
            keys: KeySettings {
                given: self.keys().collect(),
                file: self.api_key_file.clone(),
            },
            tls: self
                .tls_cert
                .clone()
                .zip(self.tls_key.clone())
                .map(|(cert, key)| TlsFiles { cert, key }),
            cors_origins: self.cors_origins.clone(),
        }
    }

    /// A comma at the end is no key: a blank key would open the server to all.
    fn keys(&self) -> impl Iterator<Item = Secret> {
        let trimmed = self.api_key.iter().map(Secret::trimmed);
        trimmed.filter(|key| !key.expose().is_empty())
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.api_key.is_empty() && self.keys().next().is_none() {
            problems.push("RERANKER_API_KEY holds only commas and blanks; give it a key, or leave it out to let everyone in".to_owned());
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => problems.push(
                "RERANKER_TLS_CERT is set but RERANKER_TLS_KEY is not; HTTPS needs both".to_owned(),
            ),
            (None, Some(_)) => problems.push(
                "RERANKER_TLS_KEY is set but RERANKER_TLS_CERT is not; HTTPS needs both".to_owned(),
            ),
            _ => {}
        }
        problems
    }
}
