//! A connection that ends when nothing has been asked on it for a while, whatever the client sends
//! or does not read.
//!
//! One clock bounds a fresh connection that says nothing, a request line that trickles in, an idle
//! connection kept alive, and an answer that nobody takes, in HTTP/1 and HTTP/2, with TLS and
//! without.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{activity::Activity, departure::Departure, room::Seat};

/// How long bytes that nobody wants are still read at the end of a connection, and how soon the
/// next must come.
const DISCARDING: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(250);

/// How soon to look again for bytes that have come at the last moment.
const SOON: Duration = Duration::from_millis(1);

/// What a connection is told that has not asked anything and has to go.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{\"detail\":\"there is no room for a connection; retry in 1 s\"}";

/// Writes that, if the client takes it at once.
pub(super) fn tell_that_there_is_no_room(stream: &TcpStream) {
    // The socket itself is asked: tokio does not know yet that a fresh one can be written to.
    let _ = SockRef::from(stream).send(NO_ROOM);
}

/// The bytes of a connection, and its seat in the room.
pub(super) struct Connection {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// Rings when the connection may be due, never later.
    alarm: Pin<Box<Sleep>>,
    discarding_until: Option<Instant>,
    /// Set while a client has ended its sending, and either waits for an answer or is gone.
    departure: Option<Departure>,
    is_encrypted: bool,
    _seat: Arc<Seat>,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        activity: Arc<Activity>,
        seat: Arc<Seat>,
        is_encrypted: bool,
    ) -> Self {
        let alarm = Box::pin(sleep_until(activity.next_look(Instant::now())));
        Self {
            stream,
            activity,
            alarm,
            discarding_until: None,
            departure: None,
            is_encrypted,
            _seat: seat,
        }
    }

    /// An error once the connection is due; until then the task is woken when it may be.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let mut next = self.activity.next_look(now);
            if self.activity.due(now) <= now {
                if !self.has_more() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                next = now + SOON;
            }
            self.alarm.as_mut().reset(next);
        }
        Ok(())
    }

    /// Whether an idle connection is no longer idle: bytes have come that have not been read yet.
    fn has_more(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        self.activity.is_idle() && matches!(peeked, Ok(1..))
    }

    /// An error once others need the connection's room; until then the task is woken when they do.
    fn make_way(&self, cx: &Context<'_>) -> io::Result<()> {
        if !self.activity.is_dismissed(cx) {
            return Ok(());
        }
        if self.activity.has_asked_nothing() && !self.is_encrypted {
            tell_that_there_is_no_room(&self.stream);
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// An error once the client of a request in progress is gone. Where the connection is
    /// encrypted, the end of its sending says so.
    fn check_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let version = self.activity.working_on();
        let Some(version) = version.filter(|_| !self.is_encrypted) else {
            self.departure = None;
            return Ok(());
        };
        if self.departure.is_none() {
            let mut byte = [MaybeUninit::uninit()];
            let mut byte = ReadBuf::uninit(&mut byte);
            if let Poll::Ready(0) = self.stream.poll_peek(cx, &mut byte)? {
                self.departure = Some(Departure::new());
            }
        }
        match &mut self.departure {
            Some(departure) => departure.check(cx, &self.stream, version),
            None => Ok(()),
        }
    }

    /// Reads on, for a while, as long as something comes. To close on a client that is still
    /// sending would reset the connection, and the client would see that instead of the answer that
    /// says what is wrong with its request.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let end = *self.discarding_until.get_or_insert_with(|| {
            self.alarm.as_mut().reset(now + QUIET);
            now + DISCARDING
        });
        let mut bytes = [MaybeUninit::uninit(); 16 * 1024];
        loop {
            self.make_way(cx)?;
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
        match written {
            Poll::Ready(Ok(1..)) => self.activity.note_written(),
            Poll::Pending => self.activity.note_blocked(),
            Poll::Ready(_) => {}
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.make_way(cx)?;
        let before = buf.filled().len();
        // Reading comes before the clock: what has arrived in time counts, however late it is read.
        let read = Pin::new(&mut self.stream).poll_read(cx, buf)?;
        if read.is_ready() && buf.filled().len() > before {
            self.activity.note_read();
        }
        self.check(cx)?;
        read.map(Ok)
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
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(self.check_client(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_discard(cx)
    }
}
