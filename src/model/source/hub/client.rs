//! Requests to the hub: where they may go, who learns the token, how long they may take.

use std::{
    io::{self, Read as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response, Uri},
};

use super::{
    super::settings::{HubSettings, Proxies},
    failure::Failure,
    forward, proxy,
    values::excerpt,
};

/// Redirects that are followed for one question.
const MAX_REDIRECTS: usize = 10;

pub(super) type Answer = Response<Body>;

pub(super) struct Client {
    agent: Agent,
    /// The only host, by scheme and port, that learns the token.
    home: Uri,
    token: Option<String>,
    proxies: Proxies,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// Time allowed until the answer begins, and between any two pieces of it.
    pub(super) silence: Duration,
    /// Time allowed in all, with redirects and the body; no limit if absent.
    pub(super) all: Option<Duration>,
}

impl TimeLimits {
    /// The limits of an answer that may take as long as it needs.
    pub(super) fn in_pieces(self) -> Self {
        Self { all: None, ..self }
    }

    /// What is left of it.
    fn after(self, started: Instant) -> Self {
        let left = |all: Duration| all.saturating_sub(started.elapsed());
        Self {
            // No time at all would be no limit.
            all: self.all.map(|all| left(all).max(Duration::from_millis(1))),
            ..self
        }
    }
}

impl Client {
    pub(super) fn new(home: Uri, token: Option<String>, settings: &HubSettings) -> Self {
        Self {
            agent: agent().into(),
            home,
            token,
            proxies: settings.proxies.clone(),
        }
    }

    /// Asks for part of a file, wherever it is; `range` is that of the header.
    pub(super) fn get(
        &self,
        url: &Uri,
        range: Option<&str>,
        limits: TimeLimits,
    ) -> Result<Answer, Failure> {
        let (mut url, started) = (url.clone(), Instant::now());
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&url, range, limits.after(started))?;
            match redirect(&url, &answer)? {
                None => return Ok(answer),
                Some(next) => url = next,
            }
        }
        Err(too_many_redirects(&url))
    }

    /// Asks what the hub itself says of a file: only redirects without a host are followed, the
    /// others lead to the contents.
    pub(super) fn describe(
        &self,
        url: &Uri,
        range: &str,
        limits: TimeLimits,
    ) -> Result<Answer, Failure> {
        let (mut url, started) = (url.clone(), Instant::now());
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&url, Some(range), limits.after(started))?;
            let stays = header(answer.headers(), "location").is_some_and(|to| to.starts_with('/'));
            match redirect(&url, &answer)? {
                Some(next) if stays => url = next,
                _ => return Ok(answer),
            }
        }
        Err(too_many_redirects(&url))
    }

    /// One request. An answer with any status is an answer.
    fn send(&self, url: &Uri, range: Option<&str>, limits: TimeLimits) -> Result<Answer, Failure> {
        let proxy = proxy::find(&self.proxies, url)?;
        let forwarding = proxy.as_ref().filter(|proxy| forward::is_for(url, proxy));
        let agent = match forwarding {
            Some(proxy) => &forward::agent(agent(), url, proxy),
            None => &self.agent,
        };
        let mut request = agent.get(url);
        if let Some(credentials) = forwarding.and_then(forward::credentials) {
            request = request.header("proxy-authorization", credentials);
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let limit = Some(limits.silence);
        let tunnel = proxy.clone().filter(|_| forwarding.is_none());
        let answer = request
            .config()
            .proxy(tunnel)
            .timeout_resolve(limit)
            .timeout_connect(limit)
            .timeout_send_request(limit)
            .timeout_recv_response(limit)
            .timeout_per_read(limit)
            .timeout_global(limits.all)
            .build()
            .call()
            .map_err(|error| failure(error, url, proxy.as_ref()))?;
        if answer.status() == 407 {
            return Err(refused_by_proxy(proxy.as_ref()).into());
        }
        Ok(answer)
    }

    fn is_home(&self, url: &Uri) -> bool {
        is_same_origin(&self.home, url)
    }
}

fn agent() -> ureq::config::Config {
    Agent::config_builder()
        .http_status_as_error(false)
        // They are followed above, where it is decided who learns the token.
        .max_redirects(0)
        // Only `config` reads the environment.
        .proxy(None)
        .user_agent(concat!(
            env!("CARGO_PKG_NAME"),
            "/",
            env!("CARGO_PKG_VERSION")
        ))
        .build()
}

/// The value of a header that is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// All of an answer, which may have so many bytes.
pub(super) fn read(answer: Answer, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut body = answer.into_body().into_reader().take(limit + 1);
    body.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Where a redirect leads; none if the answer is no redirect.
fn redirect(from: &Uri, answer: &Answer) -> Result<Option<Uri>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = header(answer.headers(), "location").with_context(|| {
        format!(
            "`{}` redirects without saying where to: check the hub's address (HF_ENDPOINT)",
            shown(from)
        )
    })?;
    target(from, location).map(Some).with_context(|| {
        format!(
            "`{}` redirects to `{}`, which is not followed: only http and https are, and from https \
             only https; check the hub's address (HF_ENDPOINT)",
            shown(from),
            excerpt(location)
        )
    })
}

fn target(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(location.parse().ok()?);
        return Uri::from_parts(parts).ok();
    }
    let target: Uri = location.parse().ok()?;
    let is_allowed = match (from.scheme_str()?, target.scheme_str()?) {
        ("https", "https") => true,
        ("http", scheme) => ["http", "https"].contains(&scheme),
        _ => false,
    };
    (is_allowed && target.host().is_some_and(|host| !host.is_empty())).then_some(target)
}

fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| match url.scheme_str() {
        Some("https") => url.port_u16().unwrap_or(443),
        _ => url.port_u16().unwrap_or(80),
    };
    let host = |url: &Uri| url.host().unwrap_or_default().to_ascii_lowercase();
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// An address without a password and without the signature of a link.
pub(super) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("http");
    let host = url.host().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{scheme}://{host}{port}{}", url.path())
        .trim_end_matches('/')
        .to_owned()
}

fn too_many_redirects(url: &Uri) -> Failure {
    anyhow!(
        "`{}` is the end of more than {MAX_REDIRECTS} redirects: check the hub's address \
         (HF_ENDPOINT)",
        shown(url)
    )
    .into()
}

/// What it means that there is no answer.
fn failure(error: ureq::Error, url: &Uri, proxy: Option<&Proxy>) -> Failure {
    let by_proxy = proxy.map_or(String::new(), |proxy| {
        format!(" by the proxy {}", proxy::shown(proxy))
    });
    match error {
        ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => {
            refused_by_proxy(proxy).into()
        }
        ureq::Error::Timeout(_) => {
            Failure::Unreachable(format!("`{}` does not answer{by_proxy}", shown(url)))
        }
        ureq::Error::HostNotFound => Failure::Unreachable(format!(
            "the name in `{}` cannot be resolved{by_proxy}",
            shown(url)
        )),
        error => Failure::cut(&format!("{error}{by_proxy}")),
    }
}

fn refused_by_proxy(proxy: Option<&Proxy>) -> anyhow::Error {
    let shown = proxy.map_or("between here and the hub".to_owned(), proxy::shown);
    anyhow!(
        "the proxy {shown} wants other credentials (407): write user and password into HTTPS_PROXY \
         and HTTP_PROXY, as in http://user:password@proxy.example:3128, or name the hub's host in \
         NO_PROXY"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn a_redirect_leads_to_the_web_and_never_out_of_https() {
        let hub = url("https://hub.example/a/b");
        let to = |location| target(&hub, location).map(|target| target.to_string());
        assert_eq!(to("/c?d=e").unwrap(), "https://hub.example/c?d=e");
        assert_eq!(
            to("https://cdn.example/c").unwrap(),
            "https://cdn.example/c"
        );
        for location in [
            "file:///etc/passwd",
            "http://cdn.example/c",
            "ftp://cdn.example/c",
            "//cdn.example/c",
            "cdn.example",
            "https://",
            "",
            "a b",
        ] {
            assert_eq!(to(location), None, "{location}");
        }
        let plain = url("http://hub.example/a");
        assert!(target(&plain, "https://cdn.example/").is_some());
        assert!(target(&plain, "http://cdn.example/").is_some());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let home = url("https://hub.example/prefix");
        assert!(is_same_origin(&home, &url("https://HUB.example:443/x")));
        for other in [
            "http://hub.example/x",
            "https://hub.example:444/x",
            "https://cdn.hub.example/x",
            "https://hub.example.evil/x",
            "https://hub.example@evil/x",
        ] {
            assert!(!is_same_origin(&home, &url(other)), "{other}");
        }
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        let signed = url("https://user:secret@cdn.example:8443/a?signature=secret");
        assert_eq!(shown(&signed), "https://cdn.example:8443/a");
        assert_eq!(shown(&url("http://hub.example/")), "http://hub.example");
    }
}
