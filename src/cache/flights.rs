//! Pairs that are being computed now, so that equal pairs of several requests are computed once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{key::Key, known::Known};

/// The pairs in flight, by key.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Flight>>);

/// A pair that a request is computing.
struct Flight {
    /// Tokens that the request has to compute at most.
    work: usize,
    pair: Joined,
}

/// A pair that another request computes.
#[derive(Clone)]
pub(crate) struct Joined {
    /// The logits of that request; no more are to come once the sender is gone.
    logits: watch::Receiver<Option<Arc<[f32]>>>,
    place: usize,
}

impl Joined {
    /// The logit, once it is computed; none if the other request gave up or failed.
    pub(crate) async fn logit(mut self) -> Option<f32> {
        let logits = self.logits.wait_for(Option::is_some).await.ok()?;
        logits.as_ref()?.get(self.place).copied()
    }
}

/// What a request does about pairs that it does not know, each with its place in the request.
/// Dropping it tells requests that have joined that they are on their own.
pub(crate) struct Claim<'a> {
    flights: &'a Flights,
    /// Pairs that have become known meanwhile.
    pub(crate) known: Vec<(usize, Known)>,
    /// Pairs that this request is to compute.
    pub(crate) own: Vec<(usize, Key)>,
    /// Pairs that another request computes.
    pub(crate) joined: Vec<(usize, Joined)>,
    /// The pairs of its own that others can join.
    listed: Vec<Key>,
    logits: watch::Sender<Option<Arc<[f32]>>>,
}

impl Flights {
    /// Shares out pairs. A request joins another's pair only if that request has no more work than
    /// itself: the queue computes the request with the least work first, so the pair comes no
    /// later than if it were computed here.
    pub(super) fn claim(
        &self,
        pairs: &[(usize, Key)],
        work: usize,
        remembered: impl Fn(&Key) -> Known,
    ) -> Claim<'_> {
        let (sender, logits) = watch::channel(None);
        let mut claim = Claim {
            flights: self,
            known: Vec::new(),
            own: Vec::new(),
            joined: Vec::new(),
            listed: Vec::new(),
            logits: sender,
        };
        let mut flights = self.lock();
        for &(place, key) in pairs {
            let known = remembered(&key);
            if known.is_some() {
                claim.known.push((place, known));
                continue;
            }
            match flights.entry(key) {
                Entry::Occupied(flight) if flight.get().work <= work => {
                    claim.joined.push((place, flight.get().pair.clone()));
                }
                Entry::Occupied(_) => claim.own.push((place, key)),
                Entry::Vacant(free) => {
                    let pair = Joined {
                        logits: logits.clone(),
                        place: claim.own.len(),
                    };
                    free.insert(Flight { work, pair });
                    claim.own.push((place, key));
                    claim.listed.push(key);
                }
            }
        }
        drop(flights);
        claim
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Gives the logits of this request's own pairs, in their order, to those who have joined.
    pub(crate) fn fulfil(&self, logits: &[f32]) {
        self.logits.send_replace(Some(logits.into()));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        for key in &self.listed {
            flights.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::key::Keys, metrics::PairSource};

    fn keys(count: u32) -> Vec<(usize, Key)> {
        let keys = Keys::random();
        let key = |token| keys.key(&[token]);
        (0..count).map(key).enumerate().collect()
    }

    fn unknown(_: &Key) -> Known {
        None
    }

    #[tokio::test]
    async fn a_request_that_is_no_smaller_joins() {
        let flights = Flights::default();
        let pairs = keys(3);
        let first = flights.claim(&pairs[..2], 100, unknown);
        assert_eq!((first.own.len(), first.joined.len()), (2, 0));
        let mut second = flights.claim(&pairs, 150, unknown);
        assert_eq!(second.own, [pairs[2]]);
        first.fulfil(&[0.5, -1.5]);
        drop(first);
        let mut logits = Vec::new();
        for (place, joined) in second.joined.drain(..) {
            logits.push((place, joined.logit().await));
        }
        assert_eq!(logits, [(0, Some(0.5)), (1, Some(-1.5))]);
    }

    #[tokio::test]
    async fn a_small_request_does_not_wait_for_a_large_one() {
        let flights = Flights::default();
        let pairs = keys(2);
        let large = flights.claim(&pairs, 1000, unknown);
        let small = flights.claim(&pairs[..1], 10, unknown);
        assert_eq!((small.own.len(), small.joined.len()), (1, 0));
        // What it computes itself is not listed, so that nothing is taken away from the large one.
        drop(small);
        assert_eq!(flights.claim(&pairs, 1000, unknown).joined.len(), 2);
        drop(large);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn who_has_joined_learns_that_the_other_gave_up() {
        let flights = Flights::default();
        let pairs = keys(1);
        let first = flights.claim(&pairs, 10, unknown);
        let mut second = flights.claim(&pairs, 10, unknown);
        drop(first);
        let (_, joined) = second.joined.remove(0);
        assert_eq!(joined.logit().await, None);
    }

    #[test]
    fn what_has_become_known_is_neither_computed_nor_joined() {
        let flights = Flights::default();
        let pairs = keys(1);
        let known = Some((2.0, PairSource::Memory));
        let claim = flights.claim(&pairs, 10, |_| known);
        assert_eq!(
            (claim.known.as_slice(), claim.own.len()),
            (&[(0, known)][..], 0)
        );
    }
}
