//! The socket: what listens on it, how connections are served, and how that ends.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::Router;
use axum_server::{Handle, Server};
use tokio::{net::TcpListener, time::sleep};
use tracing::{debug, info, warn};

use super::{
    app::App,
    descriptors::Share,
    gate::Gate,
    intake::Intake,
    reload::{self, Watch},
    room::Room,
    router::router,
    settings::Settings,
    tls::Tls,
};
use crate::metrics::{Metrics, Refused};

/// Requests at once on one HTTP/2 connection. The queue is the bound that matters; this one keeps a
/// single client from having bodies without end in memory.
const STREAMS_PER_CONNECTION: u32 = 64;

/// What the client of an HTTP/2 connection may send ahead of what is read of it, and what is kept
/// of an answer ahead of what it takes. A body of 32 MB from the other side of the world (0.2 s
/// there and back) still arrives in time.
const HTTP2_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
const HTTP2_FRAME_BYTES: u32 = 16 * 1024;

/// Streams that a client has opened and reset again before they were looked at, and streams that
/// were reset because of what it sent. One more ends the connection.
const HTTP2_RESETS: usize = 64;

/// The line and headers of one request fit, or it is refused (431).
const HEADER_BYTES: u32 = 64 * 1024;

/// A second signal this soon is the first one, sent on by the program that started this one.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// An open port, and the certificate if it is to speak HTTPS.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Option<Tls>,
}

impl Listener {
    /// # Errors
    /// A port that is taken, a certificate that cannot be used.
    pub(crate) async fn bind(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Self> {
        let load = |files| Tls::load(files, Arc::clone(metrics));
        let tls = settings.access.tls.clone().map(load).transpose()?;
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
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// `https` or `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    async fn answer(self, routes: Router, app: &App, handle: Handle<SocketAddr>) -> io::Result<()> {
        let settings = &app.settings;
        let refused = app.metrics.refused(Refused::Connections);
        let share = Share::of(settings.max_connections);
        let room = Room::new(share.places, share.beside);
        let gate = Gate::new(settings, room, refused, self.tls.is_some());
        let mut server = Server::from_listener(self.tcp)
            .handle(handle)
            .accept_error_handler(note_failed_accept());
        let http = server.http_builder();
        // Encrypted connections say when their client is gone; on others `Connection` finds out.
        http.http1()
            .half_close(self.tls.is_none())
            .max_buf_size(HEADER_BYTES as usize);
        http.http2()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .max_header_list_size(HEADER_BYTES)
            .max_pending_accept_reset_streams(HTTP2_RESETS)
            .max_local_error_reset_streams(HTTP2_RESETS);
        let intake = Intake::new(routes, share.places.saturating_add(share.beside));
        match self.tls {
            None => server.acceptor(gate).serve(intake).await,
            Some(tls) => {
                let gate = tls.around(gate, settings.header_timeout);
                server.acceptor(gate).serve(intake).await
            }
        }
    }
}

/// Serves until `stop` says so, then drains: no new connections, requests in progress are finished,
/// within limits or until `stop` says so again.
///
/// # Errors
/// If the socket fails.
pub(crate) async fn serve(
    listener: Listener,
    app: Arc<App>,
    mut stop: impl AsyncFnMut(),
) -> Result<()> {
    reload_what_changes(&listener, &app)?;
    warn_if_open(listener.local_addr()?, &app);
    let handle = Handle::new();
    let drain = async {
        stop().await;
        let timeout = app.settings.drain_timeout;
        info!(
            timeout_ms = timeout.as_millis(),
            "stopping: finishing requests in progress; a second signal gives them up"
        );
        handle.graceful_shutdown(None);
        tokio::select! {
            () = sleep(timeout) => "they did not finish within RERANKER_DRAIN_TIMEOUT_MS",
            () = told_again(&mut stop) => "told to stop again",
        }
    };
    let routes = router(&app);
    tokio::select! {
        stopped = listener.answer(routes, &app, handle.clone()) => stopped?,
        why = drain => {
            warn!("giving up requests in progress: {why}");
            handle.shutdown();
        }
    }
    if let Some(reranker) = app.reranker.get() {
        reranker.close();
    }
    info!("stopped");
    Ok(())
}

async fn told_again(stop: &mut impl AsyncFnMut()) {
    let first = Instant::now();
    while first.elapsed() < SAME_SIGNAL {
        stop().await;
    }
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
    if listener.tls.is_none() && app.settings.access.keys.file.is_none() {
        tokio::spawn(reload::nothing()?);
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

/// A client's broken handshake is its own affair. A process out of file descriptors fails 20 times
/// a second, and says so at the first, second, fourth, eighth … time.
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
