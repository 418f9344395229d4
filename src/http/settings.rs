//! What the operator decides about the server: where it listens, within which limits, who may use it.

use std::{path::PathBuf, time::Duration};

use super::{host::Host, origin::Origin};
use crate::secret::Secret;

/// Where and within what limits the server listens.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// Bytes per request.
    pub max_body_bytes: usize,
    /// Bytes that all requests in flight may hold.
    pub memory_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Time allowed for the headers of a request to arrive.
    pub header_timeout: Duration,
    /// Time allowed between the end of one request and the beginning of the next.
    pub idle_timeout: Duration,
    /// From the beginning of a body to its end.
    pub body_timeout: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Who may connect, and how.
    pub access: AccessSettings,
}

/// Who may connect, and how.
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// The keys.
    pub keys: KeySettings,
    /// HTTPS, if it is asked for.
    pub tls: Option<TlsFiles>,
    /// Whose pages may call.
    pub cors_origins: Vec<Origin>,
}

/// Where the keys are that open the server; neither means that it is open.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// The keys themselves; none is blank.
    pub given: Vec<Secret>,
    /// A file with more.
    pub file: Option<PathBuf>,
}

/// The files of HTTPS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
