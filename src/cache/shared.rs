//! Logits in a Redis that several machines share. It is never in the way: a request waits a few
//! milliseconds for one answer, and while Redis does not answer nobody asks it.

mod entry;
mod fault;
mod link;
mod writer;

use std::{sync::Arc, time::Duration};

use redis::{RedisResult, Value};
use tokio::time::{Instant, timeout};

use self::{
    entry::{logit, name},
    link::Link,
    writer::Writer,
};
use super::{
    key::Key,
    settings::{RedisUrl, Settings},
};
use crate::metrics::{CacheError, Metrics};

/// The logits that others may have computed.
pub(super) struct Shared {
    link: Arc<Link>,
    writer: Writer,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// Starts the tasks that keep the connection and write. They end with the runtime.
    pub(super) fn start(url: &RedisUrl, settings: &Settings, metrics: Arc<Metrics>) -> Self {
        let link = Link::start(url, Arc::clone(&metrics));
        Self {
            writer: Writer::start(Arc::clone(&link), settings.ttl),
            link,
            timeout: settings.redis_timeout,
            metrics,
        }
    }

    /// The logits of pairs, in their order, as far as they are there; none if Redis does not answer
    /// in time.
    pub(super) async fn get(&self, keys: &[Key]) -> Vec<Option<f32>> {
        let nothing = || vec![None; keys.len()];
        if keys.is_empty() {
            return nothing();
        }
        let Some(mut connection) = self.link.connection() else {
            return nothing();
        };
        let mut command = redis::cmd("MGET");
        for key in keys {
            command.arg(name(key));
        }
        let asked = Instant::now();
        let answer = timeout(self.timeout, command.query_async(&mut connection.redis));
        let answer: Result<RedisResult<Vec<Value>>, _> = answer.await;
        let seconds = asked.elapsed().as_secs_f64();
        self.metrics.cache.redis_seconds.observe(seconds);
        match answer {
            Ok(Ok(values)) if values.len() == keys.len() => values.iter().map(logit).collect(),
            Ok(Ok(_)) => nothing(),
            Ok(Err(error)) => {
                self.link.failed(&connection, &error);
                nothing()
            }
            Err(_) => {
                self.link.late(&connection, self.timeout);
                nothing()
            }
        }
    }

    /// Has logits written, some time soon; they are dropped if too many wait already.
    pub(super) fn put(&self, pairs: Vec<(Key, f32)>) {
        if self.link.connection().is_some() && !self.writer.push(pairs) {
            self.metrics.cache.error(CacheError::Full);
        }
    }
}
