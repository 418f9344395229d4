//! The memory that requests share: one budget in bytes for all that they hold at the same time.
//!
//! A request holds a [`Lease`] from the first byte of its body to the last byte of its answer. The
//! lease grows as bytes arrive and as they are turned into something larger; what does not fit is
//! refused at once. A part of the budget is kept for small requests, so that a few large ones
//! cannot shut them out.

mod limit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;

pub(crate) use self::limit::available_bytes;
use crate::error::Error;

/// A request up to this size may use the whole budget.
const SMALL: usize = 1 << 20;

/// The share of the budget, as a divisor, that only small requests may use.
const RESERVE: usize = 8;

/// How soon memory is likely to be free again: a request's body or answer is on its way meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes that all requests together may hold.
pub(crate) struct Budget {
    total: usize,
    used: AtomicUsize,
    /// The most that was used since this was asked for last.
    peak: AtomicUsize,
    gauge: IntGauge,
}

/// What one request holds of the budget; given back when it is dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of which nothing is used; `gauge` shows how much is.
    pub(crate) fn new(total: usize, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            total,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            gauge,
        })
    }

    /// A lease of nothing, which can grow.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        Lease {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }

    /// Bytes that requests hold.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes that they have held since the last call.
    pub(crate) fn take_peak(&self) -> usize {
        self.peak.swap(self.used(), Ordering::Relaxed)
    }

    /// What a single request may hold at most.
    fn room_for(&self, bytes: usize) -> usize {
        if bytes <= SMALL {
            self.total
        } else {
            self.total - self.total / RESERVE
        }
    }

    fn set(&self, change: impl Fn(usize) -> Option<usize>) -> Result<(), usize> {
        let order = Ordering::Relaxed;
        let before = self.used.fetch_update(order, order, &change)?;
        let after = change(before).unwrap_or(before);
        self.peak.fetch_max(after, order);
        self.gauge.set(i64::try_from(after).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl Lease {
    /// Takes more of the budget.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if others use it, [`Error::TooLargeForMemory`] if it is not that
    /// large; the lease stays as it was.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let grown = self.budget.set(|used| self.room_to_grow(bytes, used).ok());
        if let Err(used) = grown {
            self.room_to_grow(bytes, used)?;
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Whether it could grow by so much now. Nothing is taken.
    ///
    /// # Errors
    /// Fails as [`Self::grow`] does.
    pub(crate) fn check(&self, bytes: usize) -> Result<(), Error> {
        let used = self.budget.used();
        self.room_to_grow(bytes, used).map(drop)
    }

    /// What the budget's use becomes when this lease grows.
    fn room_to_grow(&self, bytes: usize, used: usize) -> Result<usize, Error> {
        let needed = self.bytes.saturating_add(bytes);
        let limit = self.budget.room_for(needed);
        if needed > limit {
            return Err(Error::TooLargeForMemory { needed, limit });
        }
        let after = used.saturating_add(bytes);
        if after > limit {
            return Err(Error::OutOfMemory {
                limit: self.budget.total,
                retry_after: RETRY_AFTER,
            });
        }
        Ok(after)
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of an answer that hold what they take until they are dropped, and no more.
    pub(crate) fn hold(mut self, bytes: Vec<u8>) -> Held {
        self.shrink_to(bytes.len());
        Held {
            bytes,
            _lease: self,
        }
    }

    /// Gives back all but so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let back = self.bytes.saturating_sub(bytes);
        let _ = self.budget.set(|used| Some(used - back));
        self.bytes -= back;
    }
}

/// Bytes with the lease of what they take.
pub(crate) struct Held {
    bytes: Vec<u8>,
    _lease: Lease,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(total: usize) -> Arc<Budget> {
        Budget::new(total, IntGauge::new("memory", "for a test").unwrap())
    }

    #[test]
    fn large_requests_leave_room_for_small_ones() {
        let budget = budget(80 * SMALL);
        let mut large: Vec<Lease> = (0..7).map(|_| budget.lease()).collect();
        for lease in &mut large {
            lease.grow(10 * SMALL).unwrap();
        }
        let mut one_more = budget.lease();
        assert!(matches!(
            one_more.grow(2 * SMALL),
            Err(Error::OutOfMemory { .. })
        ));
        let mut small: Vec<Lease> = (0..10).map(|_| budget.lease()).collect();
        for lease in &mut small {
            lease.grow(SMALL).unwrap();
        }
        assert_eq!(budget.used(), 80 * SMALL);
        assert!(one_more.grow(1).is_err());
        large.pop();
        one_more.grow(2 * SMALL).unwrap_err();
        small.clear();
        one_more.grow(2 * SMALL).unwrap();
        assert_eq!(usize::try_from(budget.gauge.get()), Ok(62 * SMALL));
        drop((large, one_more));
        assert_eq!((budget.used(), budget.gauge.get()), (0, 0));
    }

    #[test]
    fn what_never_fits_is_told_apart_from_what_does_not_fit_now() {
        let budget = budget(16 * SMALL);
        let mut lease = budget.lease();
        assert_eq!(
            lease.grow(15 * SMALL),
            Err(Error::TooLargeForMemory {
                needed: 15 * SMALL,
                limit: 14 * SMALL
            })
        );
        assert!(lease.grow(usize::MAX).is_err());
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn what_is_used_is_what_is_leased_and_never_too_much(
            steps in prop::collection::vec((0usize..6, 0usize..3, 0usize..3_000_000), 0..80),
        ) {
            let budget = budget(10_000_000);
            let mut leases: Vec<Lease> = (0..6).map(|_| budget.lease()).collect();
            for (which, kind, bytes) in steps {
                match kind {
                    0 => drop(leases[which].grow(bytes)),
                    1 => leases[which].shrink_to(bytes),
                    _ => leases[which] = budget.lease(),
                }
                let sum: usize = leases.iter().map(|lease| lease.bytes).sum();
                prop_assert_eq!(budget.used(), sum);
                prop_assert!(sum <= 10_000_000);
            }
        }
    }
}
