//! How much is kept, for how long, and who shares it.

use std::{fmt, str::FromStr, time::Duration};

use redis::{ConnectionAddr, IntoConnectionInfo as _};

use crate::secret::Secret;

/// What the operator decides about the cache. The default is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// Bytes of logits in memory; 0 for none.
    pub bytes: usize,
    /// How long a logit is kept.
    pub ttl: Duration,
    /// The Redis that several machines share.
    pub redis: Option<RedisUrl>,
    /// How long a request waits for it.
    pub redis_timeout: Duration,
    /// Makes keys that nobody can compute who lacks it.
    pub secret: Option<Secret>,
}

/// The address of a Redis, with a password perhaps.
#[derive(Clone)]
pub(crate) struct RedisUrl(redis::ConnectionInfo);

impl RedisUrl {
    /// What a client needs to know.
    pub(super) fn connection(&self) -> redis::ConnectionInfo {
        self.0.clone()
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let info = url.trim().into_connection_info().map_err(|error| {
            // The text may hold a password: only what is wrong with it is told.
            format!(
                "it is no address of a Redis ({error}); expected redis://[[user]:password@]host[:port][/number], or rediss:// with TLS"
            )
        })?;
        Ok(Self(info))
    }
}

/// Where it is, without user and password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.addr() {
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}"),
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (typed, shown) in [
            ("redis://cache", "redis://cache:6379"),
            ("redis://:hunter2@cache:7000/3", "redis://cache:7000"),
            ("rediss://user:hunter2@cache", "rediss://cache:6379"),
            ("valkey://cache", "redis://cache:6379"),
            (" redis://cache\n", "redis://cache:6379"),
        ] {
            let url: RedisUrl = typed.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_told_without_the_password() {
        for wrong in [
            "",
            "cache:6379",
            "http://:hunter2@cache",
            "redis://:hunter2@cache/notanumber",
            "redis://:hunter2@cache:99999",
        ] {
            let error = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(
                error.contains("expected redis://") && !error.contains("hunter2"),
                "{wrong}: {error}"
            );
        }
    }
}
