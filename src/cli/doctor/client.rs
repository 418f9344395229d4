//! How the server is asked, and what it means that it cannot be.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use ureq::{
    Agent, RequestBuilder,
    http::{HeaderMap, Uri},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::check::Check;
use crate::secret::Secret;

/// Bytes of an answer that are read.
const MOST: u64 = 64 << 20;

/// Paths that the address of a reranker often ends with.
const ENDINGS: [&str; 3] = ["/v1/rerank", "/v2/rerank", "/rerank"];

/// Asks one server.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    /// The address without a path that is the server's own.
    base: String,
    host: String,
    is_encrypted: bool,
    key: Option<Secret>,
}

/// An answer of any status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    pub(super) took: Duration,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the server says about a refusal.
    pub(super) fn detail(&self) -> String {
        let json = self.json();
        let said = json["detail"].as_str().or_else(|| json["message"].as_str());
        said.unwrap_or("no reason given").to_owned()
    }
}

impl Client {
    /// A client of a server at an address.
    ///
    /// # Errors
    /// An address that is none, or a certificate authority that cannot be read.
    pub(super) fn new(
        url: &str,
        key: Option<&Secret>,
        authority: Option<&Path>,
        timeout: Duration,
    ) -> Result<Self> {
        let trimmed = url.trim().trim_end_matches('/');
        let base = ENDINGS
            .iter()
            .find_map(|ending| trimmed.strip_suffix(ending));
        let base = base.unwrap_or(trimmed).trim_end_matches('/');
        let uri: Uri = base
            .parse()
            .with_context(|| format!("\"{url}\" is no address"))?;
        let (Some("http" | "https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            bail!("\"{url}\" is no address of a server; expected http://host:port or https://host");
        };
        let mut config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0);
        if let Some(path) = authority {
            let tls = TlsConfig::builder().root_certs(trusting(path)?);
            config = config.tls_config(tls.build());
        }
        Ok(Self {
            agent: config.build().into(),
            base: base.to_owned(),
            host: host.to_owned(),
            is_encrypted: uri.scheme_str() == Some("https"),
            key: key.map(Secret::trimmed),
        })
    }

    /// The address, for people.
    pub(super) fn shown(&self) -> &str {
        &self.base
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Trouble> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let started = Instant::now();
        read(self.with_key(request).call(), started)
    }

    pub(super) fn rerank(&self, body: &Value) -> Result<Answer, Trouble> {
        let request = self.agent.post(format!("{}/rerank", self.base));
        let request = self.with_key(request).content_type("application/json");
        let started = Instant::now();
        read(request.send(body.to_string()), started)
    }

    fn with_key<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {}", key.expose())),
            None => request,
        }
    }

    /// Whether others can read what is sent.
    pub(super) fn encryption(&self) -> Check {
        let name = "encryption";
        if self.is_encrypted {
            return Check::pass(name, "HTTPS, and the certificate is trusted");
        }
        if self.is_this_machine() {
            return Check::pass(name, "plain HTTP, within this machine");
        }
        if self.has_key() {
            return Check::warn(name, "plain HTTP: the key and all texts can be read on the way")
                .advise("give the server a certificate (RERANKER_TLS_CERT, RERANKER_TLS_KEY), or keep it in a private network");
        }
        Check::warn(name, "plain HTTP: all texts can be read on the way")
            .advise("this is right within a private network; elsewhere give the server a certificate (RERANKER_TLS_CERT, RERANKER_TLS_KEY)")
    }

    fn is_this_machine(&self) -> bool {
        let ip = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Where the name of the host leads; nowhere if nobody knows it.
    fn addresses(&self) -> Vec<SocketAddr> {
        let uri = self.base.parse::<Uri>().ok();
        let usual = if self.is_encrypted { 443 } else { 80 };
        let port = uri.and_then(|uri| uri.port_u16()).unwrap_or(usual);
        let addresses = (self.host.trim_matches(['[', ']']), port).to_socket_addrs();
        addresses.into_iter().flatten().collect()
    }

    /// Whether the port takes connections, whatever answers there.
    fn accepts_connections(&self) -> bool {
        let patience = Duration::from_secs(2);
        let addresses = self.addresses();
        let mut connections = addresses
            .iter()
            .map(|address| TcpStream::connect_timeout(address, patience));
        connections.any(|connection| connection.is_ok())
    }

    /// Whether the port speaks TLS, whatever its certificate.
    fn speaks_tls(&self) -> bool {
        let https = self.base.replacen("http://", "https://", 1);
        let tls = TlsConfig::builder().disable_verification(true).build();
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .tls_config(tls);
        let agent = Agent::from(config.build());
        agent.get(format!("{https}/health")).call().is_ok()
    }
}

/// The authorities of a file, and no others.
fn trusting(path: &Path) -> Result<RootCerts> {
    let cannot_use = || format!("cannot use the certificate authority {}", path.display());
    let pem = fs::read(path).with_context(cannot_use)?;
    let mut own = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.with_context(cannot_use)? {
            own.push(certificate);
        }
    }
    ensure!(
        !own.is_empty(),
        "{}: it holds no certificate in PEM",
        cannot_use()
    );
    Ok(RootCerts::new_with_certs(&own))
}

fn read(
    sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    started: Instant,
) -> Result<Answer, Trouble> {
    let (head, body) = sent.map_err(Trouble)?.into_parts();
    let body = body.into_with_config().limit(MOST).read_to_string();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.map_err(Trouble)?,
        took: started.elapsed(),
    })
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Trouble(ureq::Error);

impl Trouble {
    /// The check that the server can be reached, which it cannot.
    pub(super) fn check(&self, client: &Client) -> Check {
        let (found, advice) = self.sentences(client);
        Check::fail("reach", found).advise(advice)
    }

    /// In a few words, for checks of a server that was reached before.
    pub(super) fn words(&self) -> String {
        match &self.0 {
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            other => format!("no answer: {other}"),
        }
    }

    /// What was wrong with the encryption, if that was it.
    fn of_tls(&self) -> Option<&rustls::Error> {
        match &self.0 {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }

    /// What was found and what to do.
    fn sentences(&self, client: &Client) -> (String, String) {
        if let Some(error) = self.of_tls() {
            return of_tls(error);
        }
        match &self.0 {
            _ if client.addresses().is_empty() => (
                format!("the name \"{}\" has no address", client.host),
                "look for a slip of the pen in the address, or for a name server that does not know it".to_owned(),
            ),
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => (
                "nobody listens at this port".to_owned(),
                "start the server, or see in its log which port it listens on; in a container the port must be published".to_owned(),
            ),
            ureq::Error::Timeout(_) => (
                "no answer in time".to_owned(),
                if client.accepts_connections() {
                    "the port is open but nothing answers: the server hangs, or something else is there; see its log"
                } else {
                    "the machine is off, or a firewall drops the packets: open the port for this machine"
                }
                .to_owned(),
            ),
            other if !client.is_encrypted && client.speaks_tls() => (
                format!("this port speaks HTTPS, not HTTP ({other})"),
                format!("use {}", client.base.replacen("http://", "https://", 1)),
            ),
            other => (
                format!("no answer: {other}"),
                "see the server's log, and whether a proxy is in between".to_owned(),
            ),
        }
    }
}

fn of_tls(error: &rustls::Error) -> (String, String) {
    use rustls::CertificateError;
    let renew = "renew the certificate; a running server takes a new file up by itself";
    match error {
        rustls::Error::InvalidMessage(_) => (
            "this port speaks HTTP, not HTTPS".to_owned(),
            "use http://, or give the server a certificate (RERANKER_TLS_CERT, RERANKER_TLS_KEY)"
                .to_owned(),
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => ("the certificate has expired".to_owned(), renew.to_owned()),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            format!("the certificate is of another name: {error}"),
            "use a name that the certificate has, or have one made out for this name".to_owned(),
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "the certificate is of an authority that this machine does not know".to_owned(),
            "name the authority's certificate with --cafile".to_owned(),
        ),
        other => (
            format!("no encrypted connection: {other}"),
            "see the server's certificate and key".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> Result<String> {
        let client = Client::new(url, None, None, Duration::from_secs(1));
        client.map(|client| client.base)
    }

    #[test]
    fn addresses_are_taken_as_people_configure_them() {
        for url in [
            "http://gpu:8002",
            "http://gpu:8002/",
            "http://gpu:8002/rerank",
            " http://gpu:8002/v1/rerank/ ",
        ] {
            assert_eq!(base(url).unwrap(), "http://gpu:8002", "{url}");
        }
        assert_eq!(base("https://x/behind/rerank").unwrap(), "https://x/behind");
        for url in ["", "gpu:8002", "ftp://gpu", "http://", "not an address"] {
            assert!(base(url).is_err(), "{url}");
        }
    }
}
