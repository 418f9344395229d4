//! Writes logits to Redis behind the answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{
    entry::{name, value},
    link::Link,
};
use crate::cache::key::Key;

/// Pairs that may wait to be written: 1 MB of them.
const WAITING: usize = 1 << 15;

/// Pairs of one round trip.
const AT_ONCE: usize = 1024;

/// Takes pairs and writes them in the background.
pub(super) struct Writer {
    pairs: UnboundedSender<Vec<(Key, f32)>>,
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    /// Starts the task that writes.
    pub(super) fn start(link: Arc<Link>, ttl: Duration) -> Self {
        let (sender, pairs) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn(write_all(pairs, Arc::clone(&waiting), link, ttl));
        Self {
            pairs: sender,
            waiting,
        }
    }

    /// Whether there was room for the pairs.
    pub(super) fn push(&self, pairs: Vec<(Key, f32)>) -> bool {
        let count = pairs.len();
        if self.waiting.fetch_add(count, Ordering::Relaxed) + count > WAITING {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            return false;
        }
        self.pairs.send(pairs).is_ok()
    }
}

async fn write_all(
    mut pairs: UnboundedReceiver<Vec<(Key, f32)>>,
    waiting: Arc<AtomicUsize>,
    link: Arc<Link>,
    ttl: Duration,
) {
    while let Some(batch) = pairs.recv().await {
        for part in batch.chunks(AT_ONCE) {
            write(part, &link, ttl).await;
        }
        waiting.fetch_sub(batch.len(), Ordering::Relaxed);
    }
}

/// Writes some pairs in one round trip, if there is a connection.
async fn write(pairs: &[(Key, f32)], link: &Link, ttl: Duration) {
    let Some(mut connection) = link.connection() else {
        return;
    };
    let mut pipeline = redis::pipe();
    for (key, logit) in pairs {
        pipeline
            .cmd("SETEX")
            .arg(name(key))
            .arg(ttl.as_secs())
            .arg(&value(*logit))
            .ignore();
    }
    if let Err(error) = pipeline.query_async::<()>(&mut connection.redis).await {
        link.failed(&connection, &error);
    }
}
