//! Logits of pairs that were scored before, in memory and in a Redis that several machines share,
//! and of pairs that are being scored now.
//!
//! A pair is known by its tokens (`key`): what the model reads decides its logit, and nothing else
//! does. Nothing here computes, and nothing here fails: a logit that cannot be had is computed.

mod flights;
mod key;
mod known;
mod memory;
mod settings;
mod shared;

use std::sync::Arc;

pub(crate) use self::{
    flights::Claim,
    key::{Identity, Key},
    known::Known,
    settings::{RedisUrl, Settings},
};
use self::{flights::Flights, key::Keys, memory::Memory, shared::Shared};
use crate::metrics::{Metrics, PairSource};

/// What is known of pairs.
pub(crate) struct Cache {
    keys: Keys,
    memory: Option<Memory>,
    shared: Option<Shared>,
    flights: Flights,
    metrics: Arc<Metrics>,
}

impl Cache {
    /// A cache of one model's logits; none if the settings leave it no place. Whose logits they
    /// are is asked only if they are shared, because it takes reading all weights.
    ///
    /// # Errors
    /// What `identify` says.
    ///
    /// # Panics
    /// With Redis, outside of a tokio runtime: tasks keep the connection.
    pub(crate) fn new<'a, E>(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        identify: impl FnOnce() -> Result<Identity<'a>, E>,
    ) -> Result<Option<Self>, E> {
        let cache = |keys, shared| Self {
            keys,
            memory: (settings.bytes > 0).then(|| Memory::new(settings.bytes, settings.ttl)),
            shared,
            flights: Flights::default(),
            metrics: Arc::clone(metrics),
        };
        let Some(redis) = &settings.redis else {
            return Ok((settings.bytes > 0).then(|| cache(Keys::random(), None)));
        };
        let keys = Keys::of(&identify()?, settings.secret.as_ref());
        let shared = Shared::start(redis, settings, Arc::clone(metrics));
        Ok(Some(cache(keys, Some(shared))))
    }

    /// The key of a pair's tokens.
    pub(crate) fn key(&self, tokens: &[u32]) -> Key {
        self.keys.key(tokens)
    }

    /// What is known of pairs, in their order. What memory does not have is asked of Redis, once
    /// for all of them.
    pub(crate) async fn recall(&self, keys: &[Key]) -> Vec<Known> {
        let mut known: Vec<Known> = keys.iter().map(|key| self.remembered(key)).collect();
        let Some(shared) = &self.shared else {
            return known;
        };
        let missing: Vec<usize> = (0..keys.len()).filter(|&i| known[i].is_none()).collect();
        let asked: Vec<Key> = missing.iter().map(|&place| keys[place]).collect();
        let found = shared.get(&asked).await;
        for ((place, key), logit) in missing.into_iter().zip(&asked).zip(found) {
            let Some(logit) = logit else { continue };
            known[place] = Some((logit, PairSource::Redis));
            if let Some(memory) = &self.memory {
                memory.insert(*key, logit);
            }
        }
        known
    }

    /// Shares out pairs of a request that nothing is known of: those that this request is to
    /// compute, and those that another computes already. `work` is how much the request has to
    /// compute at most, in tokens.
    pub(crate) fn claim(&self, pairs: &[(usize, Key)], work: usize) -> Claim<'_> {
        // A pair that was in flight a moment ago may be known by now.
        self.flights.claim(pairs, work, |key| self.remembered(key))
    }

    /// Keeps logits for later requests, of this process and of others.
    pub(crate) fn keep(&self, pairs: Vec<(Key, f32)>) {
        if let Some(memory) = &self.memory {
            for &(key, logit) in &pairs {
                memory.insert(key, logit);
            }
            let (entries, bytes) = memory.size();
            self.metrics.cache.entries.set(entries);
            self.metrics.cache.bytes.set(bytes);
        }
        if let Some(shared) = &self.shared {
            shared.put(pairs);
        }
    }

    fn remembered(&self, key: &Key) -> Known {
        let logit = self.memory.as_ref()?.get(key)?;
        Some((logit, PairSource::Memory))
    }
}
