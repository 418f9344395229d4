//! The socket: what listens on it, how connections are served, and how that ends.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use axum::Router;
use axum_server::{Handle, Server};
use tokio::{net::TcpListener, time::sleep};
use tracing::{debug, info, warn};

use super::{App, gate::Gate, reload::Watch, router, tls::Tls};
use crate::{config::HttpSettings, metrics::Refused};

/// Requests at once on one HTTP/2 connection. The queue is the bound that matters; this one keeps a single client from
/// having bodies without end in memory.
const STREAMS_PER_CONNECTION: u32 = 64;

/// What an HTTP/1 connection may hold in its buffer: the line and headers of one request fit, or it is refused (431).
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// An open port, and the certificate if it is to speak HTTPS.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
}

impl Listener {
    /// # Errors
    /// A port that is taken, a certificate that cannot be used.
    pub async fn bind(settings: &HttpSettings) -> Result<Self> {
        let tls = settings.access.tls.clone().map(Tls::load).transpose()?;
        let (host, port) = (&settings.host, settings.port);
        let addresses = host.addresses(port).with_context(|| {
            format!(
                "RERANKER_HOST is \"{host}\", which is neither an address nor a name that has one"
            )
        })?;
        // The first of them that can be had.
        let tcp = TcpListener::bind(&addresses[..])
            .await
            .with_context(|| format!("cannot listen on {host} port {port}"))?;
        Ok(Self { tcp, tls })
    }

    /// Where it listens; the port is a real one even if 0 was asked for.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    async fn answer(self, routes: Router, app: &App, handle: Handle<SocketAddr>) -> io::Result<()> {
        let settings = &app.settings;
        let refused = app.metrics.refused(Refused::Connections);
        let gate = Gate::new(settings, refused);
        let mut server = Server::from_listener(self.tcp)
            .handle(handle)
            .accept_error_handler(note_failed_accept());
        let http = server.http_builder();
        http.http1().max_buf_size(HTTP1_BUFFER_BYTES);
        http.http2().max_concurrent_streams(STREAMS_PER_CONNECTION);
        let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
        match self.tls {
            None => server.acceptor(gate).serve(routes).await,
            Some(tls) => {
                let gate = tls.around(gate, settings.header_timeout);
                server.acceptor(gate).serve(routes).await
            }
        }
    }
}

/// Serves until `shutdown`, then drains: no new connections, requests in progress are finished, within limits.
///
/// # Errors
/// If the socket fails.
pub async fn serve(
    listener: Listener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    reload_what_changes(&listener, &app)?;
    warn_if_open(listener.local_addr()?, &app);
    let handle = Handle::new();
    let drain = async {
        shutdown.await;
        let timeout = app.settings.drain_timeout;
        info!(
            timeout_ms = timeout.as_millis(),
            "stopping: finishing requests in progress"
        );
        handle.graceful_shutdown(None);
        sleep(timeout).await;
    };
    let routes = router(&app);
    tokio::select! {
        stopped = listener.answer(routes, &app, handle.clone()) => stopped?,
        () = drain => {
            warn!("requests in progress did not finish within RERANKER_DRAIN_TIMEOUT_MS; giving them up");
            handle.shutdown();
        }
    }
    if let Some(reranker) = app.reranker.get() {
        reranker.close();
    }
    info!("stopped");
    Ok(())
}

/// Tasks that end with the process.
fn reload_what_changes(listener: &Listener, app: &App) -> Result<()> {
    if let Some(tls) = listener.tls.clone() {
        let files = tls.files();
        let watch = Watch::new(vec![files.cert.clone(), files.key.clone()])?;
        tokio::spawn(watch.run(move || tls.reload()));
    }
    if let Some(keys) = app.keys.clone()
        && let Some(file) = keys.file()
    {
        let watch = Watch::new(vec![file.clone()])?;
        tokio::spawn(watch.run(move || keys.reload()));
    }
    Ok(())
}

fn warn_if_open(address: SocketAddr, app: &App) {
    if app.keys.is_none() && !address.ip().is_loopback() {
        warn!(
            "no API key is set: whoever can reach {address} may use this server; set RERANKER_API_KEY, or let only known machines through the firewall"
        );
    }
}

/// A client's broken handshake is its own affair. A process out of file descriptors fails 20 times a second, and says
/// so at the first, second, fourth, eighth … time.
fn note_failed_accept() -> impl Fn(Option<&SocketAddr>, &io::Error) + Send + Sync + 'static {
    let failures = AtomicU64::new(0);
    move |client, error| {
        if let Some(client) = client {
            debug!(%client, "connection not accepted: {error}");
            return;
        }
        let times = failures.fetch_add(1, Ordering::Relaxed) + 1;
        if times.is_power_of_two() {
            warn!(times, "cannot accept connections: {error}");
        }
    }
}
