//! Plain HTTP through a proxy: the request goes to the proxy, with the whole address in its first
//! line. `ureq` by itself asks for a tunnel, which most proxies refuse to any port but 443.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ureq::{
    Agent, Error, Proxy, ProxyProtocol,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport},
    },
};

/// Whether requests to `url` are forwarded by the proxy rather than tunnelled through it.
pub(super) fn is_for(url: &Uri, proxy: &Proxy) -> bool {
    url.scheme_str() == Some("http") && proxy.protocol() == ProxyProtocol::Http
}

/// An agent for one request to `url`.
pub(super) fn agent(config: Config, url: &Uri, proxy: &Proxy) -> Agent {
    let to_proxy = ToProxy(proxy.uri().clone());
    let host = url.host().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let prefix = format!("http://{host}{port}");
    let connector = ().chain(TcpConnector::default()).chain(Absolute { prefix });
    Agent::with_parts(config, connector, to_proxy)
}

/// The value of `Proxy-Authorization`, where the proxy's address has a user.
pub(super) fn credentials(proxy: &Proxy) -> Option<String> {
    let user = proxy.username()?;
    let pair = format!("{user}:{}", proxy.password().unwrap_or_default());
    Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

/// Resolves every name to the proxy's address.
#[derive(Debug)]
struct ToProxy(Uri);

impl Resolver for ToProxy {
    fn resolve(
        &self,
        _url: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        DefaultResolver::default().resolve(&self.0, config, timeout)
    }
}

/// Writes the beginning of the address into the first line of a request.
#[derive(Debug)]
struct Absolute {
    prefix: String,
}

impl<In: Transport> Connector<In> for Absolute {
    type Out = Forwarded<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Forwarded {
            inner,
            prefix: Some(self.prefix.clone()),
        }))
    }
}

#[derive(Debug)]
struct Forwarded<In> {
    inner: In,
    /// The first line; none once it has gone.
    prefix: Option<String>,
}

/// What stands before the path in the first line of a request.
const METHOD: &[u8] = b"GET ";

impl<In: Transport> Transport for Forwarded<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let Some(prefix) = self.prefix.take() else {
            return self.inner.transmit_output(amount, timeout);
        };
        let output = self.inner.buffers().output();
        let total = amount + prefix.len();
        if !output.starts_with(METHOD) || total > output.len() {
            return Err(Error::BadUri(format!("{prefix} is too long for a proxy")));
        }
        let rest = METHOD.len() + prefix.len();
        output.copy_within(METHOD.len()..amount, rest);
        output[METHOD.len()..rest].copy_from_slice(prefix.as_bytes());
        self.inner.transmit_output(total, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}
