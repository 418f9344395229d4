//! Where the time of a batch goes, by kind of operation.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The kinds of operation that time is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Matrix products with weights, rounding, bias and activation included.
    Projection,
    /// Attention between its projections.
    Attention,
    /// Residual and layer norm.
    Norm,
}

impl Operation {
    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::Attention => "attention",
            Self::Norm => "norm",
        }
    }
}

/// Time by operation.
pub type Spent = [(Operation, Duration); 3];

const NONE: Spent = [
    (Operation::Projection, Duration::ZERO),
    (Operation::Attention, Duration::ZERO),
    (Operation::Norm, Duration::ZERO),
];

thread_local! {
    static SPENT: Cell<Spent> = const { Cell::new(NONE) };
}

/// The time that operations called from this thread have taken, since this was asked last.
pub fn take_spent() -> Spent {
    SPENT.replace(NONE)
}

/// Counts the time that this takes.
pub(super) fn time<T>(operation: Operation, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    let mut spent = SPENT.get();
    spent[operation as usize].1 += started.elapsed();
    SPENT.set(spent);
    result
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_kind_and_each_thread_has_its_own() {
        take_spent();
        let pause = || thread::sleep(Duration::from_millis(5));
        time(Operation::Attention, pause);
        let elsewhere = thread::spawn(take_spent).join().unwrap();
        assert!(elsewhere.iter().all(|(_, spent)| spent.is_zero()));
        for (operation, spent) in take_spent() {
            let expected = operation == Operation::Attention;
            assert_eq!(spent >= Duration::from_millis(5), expected, "{operation:?}");
            assert_eq!(spent.is_zero(), !expected, "{operation:?}");
        }
        assert!(take_spent().iter().all(|(_, spent)| spent.is_zero()));
    }
}
