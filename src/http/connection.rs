//! A connection that ends when nothing has been asked on it for a while, whatever the client sends or does not read.
//!
//! This one clock bounds a fresh connection that says nothing, a request line that trickles in, an idle connection kept
//! alive, and an answer that nobody takes, in HTTP/1 and HTTP/2, with TLS and without.

use std::{
    convert::Infallible,
    future::{self, Future},
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::response::{IntoResponse as _, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tracing::warn;

use super::{
    error::ApiError,
    request_id::{self, X_REQUEST_ID},
};
use crate::metrics::Refused;

/// How long bytes that nobody wants are still read at the end of a connection, and how soon the next must come.
const DISCARDING: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(250);

/// How long a connection may be without a request.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// From the end of a request, or from the last that the client took of its answer, to the next.
    pub(super) idle: Duration,
    /// As long as the client takes of the answer, this much more, all in all.
    pub(super) sending: Duration,
}

/// What has happened on a connection.
pub(super) struct Activity {
    patience: Patience,
    state: Mutex<State>,
}

struct State {
    /// Requests that a handler is working on, reading of their bodies included.
    in_progress: usize,
    /// When the last of them ended, or the connection began.
    ended: Instant,
    /// When the client last took something.
    written: Instant,
}

impl Activity {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State {
            in_progress: 0,
            ended: now,
            written: now,
        });
        Self { patience, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection is to end, if nothing happens until then. Requests in progress have limits of their own.
    fn due(&self, now: Instant) -> Instant {
        let Patience { idle, sending } = self.patience;
        let state = self.state();
        if state.in_progress > 0 {
            return now + idle;
        }
        let without_progress = state.ended.max(state.written) + idle;
        without_progress.min(state.ended + idle + sending)
    }

    fn begin(self: &Arc<Self>) -> InProgress {
        self.state().in_progress += 1;
        InProgress(Arc::clone(self))
    }
}

/// A request in progress; ends when this is dropped.
struct InProgress(Arc<Activity>);

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_progress -= 1;
        state.ended = Instant::now();
    }
}

/// The bytes of a connection, and its place at the gate.
pub(super) struct Connection {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// Rings when the connection may be due, never later.
    alarm: Pin<Box<Sleep>>,
    discarding_until: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        activity: Arc<Activity>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let alarm = Box::pin(sleep_until(activity.due(Instant::now())));
        Self {
            stream,
            activity,
            alarm,
            discarding_until: None,
            _place: place,
        }
    }

    /// An error once the connection is due; until then the task is woken when it may be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = self.activity.due(now);
            if due <= now {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.alarm.as_mut().reset(due);
        }
        Ok(())
    }

    /// Reads on, for a while, as long as something comes. To close on a client that is still sending would reset the
    /// connection, and the client would see that instead of the answer that says what is wrong with its request.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let end = *self.discarding_until.get_or_insert_with(|| {
            self.alarm.as_mut().reset(now + QUIET);
            now + DISCARDING
        });
        let mut bytes = [MaybeUninit::uninit(); 16 * 1024];
        loop {
            let mut buf = ReadBuf::uninit(&mut bytes);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut buf)?;
            if read.is_ready() {
                if buf.filled().is_empty() || Instant::now() >= end {
                    return Poll::Ready(Ok(()));
                }
                self.alarm.as_mut().reset(Instant::now() + QUIET);
            } else {
                return self.alarm.as_mut().poll(cx).map(Ok);
            }
        }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.state().written = Instant::now();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_discard(cx)
    }
}

/// The routes as one connection sees them.
#[derive(Clone)]
pub(super) struct Service<S> {
    inner: S,
    activity: Arc<Activity>,
    /// The limit of connections, on one that is beyond it.
    refused: Option<usize>,
}

impl<S> Service<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>, refused: Option<usize>) -> Self {
        Self {
            inner,
            activity,
            refused,
        }
    }
}

impl<S, R> tower::Service<R> for Service<S>
where
    S: tower::Service<R, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let in_progress = self.activity.begin();
        if let Some(limit) = self.refused {
            return Box::pin(future::ready(Ok(refusal(limit))));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(in_progress);
            answer
        })
    }
}

fn refusal(limit: usize) -> Response {
    let mut response = ApiError::TooManyConnections { limit }.into_response();
    let id = request_id::new();
    // The request never comes to the layer that logs the others.
    let (status, reason) = (response.status().as_u16(), Refused::Connections.label());
    warn!(request_id = ?id, status, reason, limit, "refused");
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}
