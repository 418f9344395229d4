//! HTTPS: the certificate and its key, from files, and again when they change.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use x509_parser::parse_x509_certificate;

use super::settings::TlsFiles;
use crate::metrics::Metrics;

/// What new connections are encrypted with.
#[derive(Clone)]
pub(super) struct Tls {
    files: TlsFiles,
    config: RustlsConfig,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// # Errors
    /// Files that cannot be read, hold something else, or do not fit together.
    pub(super) fn load(files: TlsFiles, metrics: Arc<Metrics>) -> Result<Self> {
        let config = server_config(&files, &metrics)?;
        Ok(Self {
            files,
            config: RustlsConfig::from_config(Arc::new(config)),
            metrics,
        })
    }

    pub(super) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Reads the files again; if that fails, the old certificate goes on.
    pub(super) fn reload(&self) -> Result<String> {
        let config = server_config(&self.files, &self.metrics)?;
        self.config.reload_from_config(Arc::new(config));
        Ok("certificate read again".to_owned())
    }

    /// Encrypts what `inner` accepts.
    pub(super) fn around<A>(&self, inner: A, handshake_timeout: Duration) -> RustlsAcceptor<A> {
        RustlsAcceptor::new(self.config.clone())
            .handshake_timeout(handshake_timeout)
            .acceptor(inner)
    }
}

/// What the files say, with the end of the certificate in the metrics.
fn server_config(files: &TlsFiles, metrics: &Metrics) -> Result<ServerConfig> {
    let TlsFiles { cert, key } = files;
    let chain = certificates(cert)?;
    let end = chain.iter().filter_map(end).min();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(key)?)
        .with_context(|| {
            format!(
                "RERANKER_TLS_CERT {} and RERANKER_TLS_KEY {} cannot be used together",
                cert.display(),
                key.display()
            )
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Some(end) = end {
        metrics.set_certificate_end(end);
    }
    Ok(config)
}

/// When a certificate ends, in seconds since 1970; none if it cannot be read, which clients will
/// tell.
fn end(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = fs::read(file)
        .with_context(|| format!("cannot read RERANKER_TLS_CERT {}", file.display()))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain
        .with_context(|| format!("RERANKER_TLS_CERT {} is not in PEM form", file.display()))?;
    ensure!(
        !chain.is_empty(),
        "RERANKER_TLS_CERT {} holds no certificate in PEM form",
        file.display()
    );
    Ok(chain)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = fs::read(file)
        .with_context(|| format!("cannot read RERANKER_TLS_KEY {}", file.display()))?;
    PrivateKeyDer::from_pem_slice(&pem).with_context(|| {
        format!(
            "RERANKER_TLS_KEY {} holds no private key in PEM form without a password",
            file.display()
        )
    })
}
