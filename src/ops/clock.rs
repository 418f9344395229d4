//! Where the time of a batch goes, by kind of operation.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The kinds of operation that time is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Matrix products with weights, quantization, bias and activation included.
    Projection,
    /// Attention between its projections.
    Attention,
    /// Residual and layer norm, embeddings included.
    Norm,
}

impl Operation {
    /// The name of this kind in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::Attention => "attention",
            Self::Norm => "norm",
        }
    }
}

/// Time by operation.
pub(crate) type Spent = [(Operation, Duration); 3];

const NONE: Spent = [
    (Operation::Projection, Duration::ZERO),
    (Operation::Attention, Duration::ZERO),
    (Operation::Norm, Duration::ZERO),
];

/// Adds up the time that operations take.
pub(crate) struct Clock(Cell<Spent>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Cell::new(NONE))
    }

    /// Runs something and counts its time.
    pub(crate) fn time<T>(&self, operation: Operation, run: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = run();
        let mut spent = self.0.get();
        spent[operation as usize].1 += started.elapsed();
        self.0.set(spent);
        result
    }

    /// The time since this was asked last.
    pub(crate) fn take(&self) -> Spent {
        self.0.replace(NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_kind_has_its_own_and_starts_again() {
        let clock = Clock::new();
        let pause = || thread::sleep(Duration::from_millis(5));
        clock.time(Operation::Attention, pause);
        for (operation, spent) in clock.take() {
            let expected = operation == Operation::Attention;
            assert_eq!(spent >= Duration::from_millis(5), expected, "{operation:?}");
            assert_eq!(spent.is_zero(), !expected, "{operation:?}");
        }
        assert!(clock.take().iter().all(|(_, spent)| spent.is_zero()));
    }
}
