//! What the operator decides about the server: where it listens, within which limits, who may use
//! it.

use std::{path::PathBuf, time::Duration};

use super::{host::Host, origin::Origin};
use crate::secret::Secret;

/// Where and within what limits the server listens.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The address or name to listen on.
    pub host: Host,
    /// The port to listen on.
    pub port: u16,
    /// Bytes of a request's body, uncompressed.
    pub max_body_bytes: usize,
    /// Bytes that all requests in flight may hold.
    pub memory_bytes: usize,
    /// Connections that may ask at once.
    pub max_connections: usize,
    /// Time allowed for the headers of a request to arrive.
    pub header_timeout: Duration,
    /// Time allowed between the end of one request and the beginning of the next.
    pub idle_timeout: Duration,
    /// Time allowed for a body to arrive, and for its answer to be taken.
    pub body_timeout: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Who may connect, and how.
    pub access: AccessSettings,
}

/// Who may connect, and how.
#[derive(Debug, Clone)]
pub(crate) struct AccessSettings {
    /// The API keys.
    pub keys: KeySettings,
    /// The files of HTTPS, if it is asked for.
    pub tls: Option<TlsFiles>,
    /// The origins whose pages may call.
    pub cors_origins: Vec<Origin>,
}

/// Where the keys are that open the server; neither means that it is open.
#[derive(Debug, Clone)]
pub(crate) struct KeySettings {
    /// The keys themselves; none is blank.
    pub given: Vec<Secret>,
    /// A file with more keys.
    pub file: Option<PathBuf>,
}

/// The files of HTTPS.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}
