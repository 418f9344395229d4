//! The logits of pairs: known from before, shared with another request, or computed.

use std::{
    mem,
    time::{Duration, Instant},
};

use crate::{
    cache::{Cache, Key, Known},
    deadline::Deadline,
    error::Result,
    metrics::PairSource,
    scheduler::{Scheduler, Scored},
    tokenizer::Encoding,
};

/// The logits of a request's pairs, and what they cost.
#[derive(Debug)]
pub(super) struct Scores {
    /// One finite logit per pair, in the order given.
    pub(super) logits: Vec<f32>,
    /// Where each came from.
    pub(super) sources: Vec<PairSource>,
    /// Time that the cache was asked.
    pub(super) recalled: Duration,
    /// Time from admission to the first batch.
    pub(super) queued: Duration,
    /// Time from the first batch to the last logit, of another request's batches too.
    pub(super) computed: Duration,
}

/// Has the model score every pair, without a cache.
pub(super) async fn compute(
    scheduler: &Scheduler,
    pairs: Vec<Encoding>,
    deadline: Deadline,
) -> Result<Scores> {
    let scored = scheduler.score(pairs, deadline).await?;
    Ok(Scores {
        sources: vec![PairSource::Bypass; scored.logits.len()],
        logits: scored.logits,
        recalled: Duration::ZERO,
        queued: scored.queued,
        computed: scored.computed,
    })
}

/// Scores pairs with these keys. The model computes those that nobody knows and nobody else
/// computes.
pub(super) async fn recall_or_compute(
    scheduler: &Scheduler,
    cache: &Cache,
    mut pairs: Vec<Encoding>,
    keys: &[Key],
    deadline: Deadline,
) -> Result<Scores> {
    let called = Instant::now();
    let mut known = cache.recall(keys).await;
    let recalled = called.elapsed();
    let unknown = unknown(&known, keys);
    let work = unknown.iter().map(|&(place, _)| pairs[place].len()).sum();
    let mut claim = cache.claim(&unknown, work);
    fill(&mut known, mem::take(&mut claim.known));

    let first = scheduler
        .score(take(&mut pairs, &claim.own), deadline)
        .await?;
    claim.fulfil(&first.logits);
    keep(cache, &claim.own, &first);
    fill(&mut known, computed(&claim.own, &first));
    for (place, joined) in mem::take(&mut claim.joined) {
        known[place] = joined
            .logit()
            .await
            .map(|logit| (logit, PairSource::Flight));
    }
    drop(claim);

    // Requests that were joined gave up: their pairs are left.
    let left = self::unknown(&known, keys);
    let second = scheduler.score(take(&mut pairs, &left), deadline).await?;
    keep(cache, &left, &second);
    fill(&mut known, computed(&left, &second));

    let queued = first.queued + second.queued;
    let (logits, sources) = known.into_iter().flatten().unzip();
    Ok(Scores {
        logits,
        sources,
        recalled,
        queued,
        computed: called.elapsed().saturating_sub(recalled + queued),
    })
}

/// The places and keys of pairs whose logits are not known.
fn unknown(known: &[Known], keys: &[Key]) -> Vec<(usize, Key)> {
    let pairs = known.iter().zip(keys).enumerate();
    pairs
        .filter(|(_, (known, _))| known.is_none())
        .map(|(place, (_, &key))| (place, key))
        .collect()
}

/// Takes pairs out, in the order of the places. None is taken twice.
fn take(pairs: &mut [Encoding], places: &[(usize, Key)]) -> Vec<Encoding> {
    let taken = places
        .iter()
        .map(|&(place, _)| mem::take(&mut pairs[place]));
    taken.collect()
}

fn fill(known: &mut [Known], found: impl IntoIterator<Item = (usize, Known)>) {
    for (place, found) in found {
        known[place] = found;
    }
}

fn computed(places: &[(usize, Key)], scored: &Scored) -> Vec<(usize, Known)> {
    let logits = places.iter().zip(&scored.logits);
    logits
        .map(|(&(place, _), &logit)| (place, Some((logit, PairSource::Model))))
        .collect()
}

/// Keeps what the model computed, unless it had to compute it twice: such logits are of another
/// precision than those that are kept.
fn keep(cache: &Cache, places: &[(usize, Key)], scored: &Scored) {
    if scored.logits.is_empty() || scored.redone {
        return;
    }
    let keys = places.iter().map(|&(_, key)| key);
    cache.keep(keys.zip(scored.logits.iter().copied()).collect());
}

#[cfg(test)]
mod tests;
