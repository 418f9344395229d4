//! The connection to Redis: there while Redis answers, else not. A task brings it back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::fault::{kind, sentence};
use crate::{
    cache::settings::RedisUrl,
    metrics::{CacheError, Metrics},
};

/// How long a new connection may take, with its first answer.
const CONNECTING: Duration = Duration::from_secs(2);

/// The pauses between attempts to connect double from the first to the last of these.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// The connection to Redis.
pub(super) struct Link {
    url: RedisUrl,
    state: Mutex<State>,
    /// The connection was given up.
    broken: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    /// Connections so far.
    number: u64,
    connection: Option<MultiplexedConnection>,
    /// What the log said last of what is wrong.
    told: Option<String>,
}

/// A handle of the connection.
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    /// Tells what failed on it from what fails on the next one.
    number: u64,
}

impl Link {
    /// Starts the task that connects, now and whenever the connection was given up.
    pub(super) fn start(url: &RedisUrl, metrics: Arc<Metrics>) -> Arc<Self> {
        let link = Arc::new(Self {
            url: url.clone(),
            state: Mutex::default(),
            broken: Notify::new(),
            metrics,
        });
        tokio::spawn(Arc::clone(&link).keep());
        link
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Option<Connection> {
        let state = self.lock();
        let redis = state.connection.clone()?;
        Some(Connection {
            redis,
            number: state.number,
        })
    }

    /// Notes an answer that is an error. What Redis refuses leaves the connection as it is.
    pub(super) fn failed(&self, connection: &Connection, error: &RedisError) {
        let kind = kind(error);
        self.metrics.cache.error(kind);
        match kind {
            CacheError::Refused => {
                self.tell(format!("Redis refused a command: {}", sentence(error)));
            }
            _ => self.give_up(connection, &sentence(error)),
        }
    }

    /// Notes that no answer came in time. A Redis that is late once is not asked again until it has
    /// answered a new connection, so that no more than the requests of one moment wait for it.
    pub(super) fn late(&self, connection: &Connection, limit: Duration) {
        self.metrics.cache.error(CacheError::Timeout);
        self.give_up(connection, &format!("it did not answer within {limit:?}"));
    }

    fn give_up(&self, connection: &Connection, why: &str) {
        {
            let mut state = self.lock();
            if state.number != connection.number || state.connection.take().is_none() {
                return; // it was given up before
            }
        }
        self.metrics.cache.redis_connected.set(0);
        self.tell(not_shared(why));
        self.broken.notify_one();
    }

    async fn keep(self: Arc<Self>) {
        let [shortest, longest] = PAUSES;
        let mut pause = shortest;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    self.connected(connection);
                    let since = Instant::now();
                    self.broken.notified().await;
                    if since.elapsed() > longest {
                        pause = shortest;
                    }
                }
                Err(error) => {
                    self.metrics.cache.error(kind(&error));
                    self.tell(not_shared(&sentence(&error)));
                }
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    fn connected(&self, connection: MultiplexedConnection) {
        {
            let mut state = self.lock();
            state.number += 1;
            state.connection = Some(connection);
            state.told = None;
        }
        self.metrics.cache.redis_connected.set(1);
        info!(redis = %self.url, "connected to Redis; scores are shared");
    }

    /// A connection that has answered once.
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let client = Client::open(self.url.connection())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(CONNECTING));
        let connected = timeout(CONNECTING, async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let ping = redis::cmd("PING");
            ping.query_async::<()>(&mut connection).await?;
            Ok(connection)
        });
        connected.await.unwrap_or_else(|_| {
            Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {CONNECTING:?}"),
            )
            .into())
        })
    }

    /// Logs what is wrong, once for each thing in a row.
    fn tell(&self, why: String) {
        let mut state = self.lock();
        if state.told.as_ref() != Some(&why) {
            warn!(redis = %self.url, "{why}");
            state.told = Some(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_shared(why: &str) -> String {
    format!("scores are not shared through Redis, which is tried again in the background: {why}")
}
