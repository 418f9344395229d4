//! The gate: every new connection passes it, to be let in or to be told that there is no room.

use std::{
    future::{Ready, ready},
    io,
    sync::Arc,
    time::Duration,
};

use axum_server::accept::Accept;
use prometheus::IntCounter;
use tokio::net::TcpStream;

use super::{
    activity::{Activity, IdleTimeouts},
    connection::{self, Connection},
    room::Room,
    service::{Announced, Service},
    settings::Settings,
};

/// The announced time is shorter than the real one by this: a request may be under way at the end.
const MARGIN: Duration = Duration::from_secs(2);

/// Admits or refuses a new connection.
#[derive(Clone)]
pub(super) struct Gate {
    room: Arc<Room>,
    refused: IntCounter,
    timeouts: IdleTimeouts,
    announced: Announced,
    is_encrypted: bool,
}

impl Gate {
    /// `refused` counts those for which there was no room or no place.
    pub(super) fn new(
        settings: &Settings,
        room: Arc<Room>,
        refused: IntCounter,
        is_encrypted: bool,
    ) -> Self {
        Self {
            room,
            refused,
            timeouts: IdleTimeouts {
                request: settings.header_timeout,
                idle: settings.idle_timeout,
                sending: settings.body_timeout,
            },
            announced: announced(settings.idle_timeout),
            is_encrypted,
        }
    }
}

fn announced(idle: Duration) -> Announced {
    let seconds = idle.saturating_sub(MARGIN).as_secs();
    (seconds > 0).then(|| format!("timeout={seconds}").try_into().expect("ASCII"))
}

impl<S> Accept<TcpStream, S> for Gate {
    type Stream = Connection;
    type Service = Service<S>;
    type Future = Ready<io::Result<(Connection, Service<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let activity = Arc::new(Activity::new(self.timeouts));
        let Some(seat) = self.room.enter(&activity) else {
            self.refused.inc();
            if !self.is_encrypted {
                connection::tell_that_there_is_no_room(&stream);
            }
            return ready(Err(io::Error::other("there is no room for a connection")));
        };
        // Answers are written whole; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            return ready(Err(error));
        }
        let seat = Arc::new(seat);
        let service = Service::new(
            service,
            Arc::clone(&activity),
            Arc::clone(&seat),
            self.refused.clone(),
            self.announced.clone(),
        );
        let connection = Connection::new(stream, activity, seat, self.is_encrypted);
        ready(Ok((connection, service)))
    }
}
