//! The gate: how many connections may be open at once, and what becomes of one more.

use std::{
    future::{Ready, ready},
    io,
    sync::Arc,
    time::Duration,
};

use axum_server::accept::Accept;
use prometheus::IntCounter;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::connection::{Activity, Connection, Patience, Service};
use crate::config::HttpSettings;

/// Connections that are being told at once that there are too many. Beyond these even the telling costs too much, and
/// a connection is closed without a word.
const REFUSALS: usize = 64;

/// A connection that is to be refused has this long to send the request that the refusal answers.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Admits or refuses a new connection.
#[derive(Clone)]
pub(super) struct Gate {
    limit: usize,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    refused: IntCounter,
    patience: Patience,
}

impl Gate {
    /// `refused` counts those for which there was no place.
    pub(super) fn new(settings: &HttpSettings, refused: IntCounter) -> Self {
        let limit = settings.max_connections;
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            refused,
            patience: Patience {
                idle: settings.header_timeout,
                sending: settings.body_timeout,
            },
        }
    }

    /// A place, and whether it is only one for being refused.
    fn place(&self) -> io::Result<(OwnedSemaphorePermit, bool)> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok((place, false));
        }
        self.refused.inc();
        match Arc::clone(&self.refusals).try_acquire_owned() {
            Ok(place) => Ok((place, true)),
            Err(_) => Err(io::Error::other(
                "too many connections beyond RERANKER_MAX_CONNECTIONS",
            )),
        }
    }
}

impl<S> Accept<TcpStream, S> for Gate {
    type Stream = Connection;
    type Service = Service<S>;
    type Future = Ready<io::Result<(Connection, Service<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.place().and_then(|(place, is_refused)| {
            // Answers are written whole; waiting for more to send would only delay them.
            stream.set_nodelay(true)?;
            let mut patience = self.patience;
            if is_refused {
                patience.idle = patience.idle.min(REFUSAL_PATIENCE);
            }
            let activity = Arc::new(Activity::new(patience));
            let service = Service::new(
                service,
                Arc::clone(&activity),
                is_refused.then_some(self.limit),
            );
            Ok((Connection::new(stream, activity, place), service))
        }))
    }
}
