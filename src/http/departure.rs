//! A client that has ended its sending while its request is worked on: is it gone, or does it wait
//! for the answer?
//!
//! Both look the same from here. What tells them apart is an interim response: the machine of a
//! client that has closed its socket answers it with a reset at once, and a client that waits
//! passes over `100 Continue`, as every HTTP/1.1 client must (RFC 9110, section 15.2). Most answers
//! are out before that is needed.

use std::{io, pin::Pin, task::Context, time::Duration};

use axum::http::Version;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// How long an answer may take before the interim response is sent.
const BEFORE_INTERIM: Duration = Duration::from_millis(40);

/// How often to see whether the reset has come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// HTTP/1.0 has no interim responses. A client that speaks it is taken for gone after this time.
const HTTP_10: Duration = Duration::from_secs(1);

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is known of a client that may be gone.
pub(super) struct Departure {
    ended: Instant,
    next: Pin<Box<Sleep>>,
    interim_sent: bool,
}

impl Departure {
    /// The client has just ended its sending.
    pub(super) fn new() -> Self {
        Self {
            ended: Instant::now(),
            next: Box::pin(sleep(BEFORE_INTERIM)),
            interim_sent: false,
        }
    }

    /// An error once the client is known to be gone; until then the task is woken to look again.
    /// All that there was to write has been written, and nothing yet of the answer to the request
    /// in progress.
    pub(super) fn check(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
        version: Version,
    ) -> io::Result<()> {
        while self.next.as_mut().poll(cx).is_ready() {
            if let Some(reset) = stream.take_error()? {
                return Err(reset);
            }
            if version == Version::HTTP_10 {
                if self.ended.elapsed() >= HTTP_10 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            } else if !self.interim_sent {
                send_interim(stream)?;
                self.interim_sent = true;
            }
            self.next.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Ok(())
    }
}

fn send_interim(stream: &TcpStream) -> io::Result<()> {
    match stream.try_write(INTERIM) {
        Ok(written) if written < INTERIM.len() => Err(io::ErrorKind::WriteZero.into()),
        // The client's machine takes nothing at the moment, but it is there.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}
