//! How fast work has been done lately: seconds per unit, a token of a model or a byte of text.

use std::{collections::VecDeque, time::Duration};

/// The lower quartile of so many samples is the pace: stalls do not change it, and a lasting change
/// shows after seven. It errs on the fast side: what is admitted in error is shed once that shows,
/// but what is refused in error is lost, and the model idles.
const REMEMBERED: usize = 9;

/// Pieces of work are put together to a sample until they have taken so long: single short ones
/// vary with everything else that the machine does.
const SAMPLE: Duration = Duration::from_millis(100);

/// The speed of one worker.
pub(crate) struct Pace {
    /// Smaller pieces say more of what a piece costs than of what a unit costs.
    smallest: usize,
    /// The sample that is being put together.
    units: usize,
    took: Duration,
    /// Seconds per unit, oldest first.
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Pace {
    /// A speed that is not known yet; pieces of fewer than `smallest` units do not change it.
    pub(crate) fn new(smallest: usize) -> Self {
        Self {
            smallest,
            units: 0,
            took: Duration::ZERO,
            recent: VecDeque::with_capacity(REMEMBERED),
            sorted: Vec::with_capacity(REMEMBERED),
        }
    }

    /// Notes that a piece of work of so many units took so long.
    pub(crate) fn observe(&mut self, units: usize, took: Duration) {
        if units < self.smallest.max(1) {
            return;
        }
        self.units += units;
        self.took += took;
        if self.took >= SAMPLE || self.recent.is_empty() {
            self.take_sample();
        }
    }

    fn take_sample(&mut self) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        let sample = self.took.as_secs_f64() / self.units as f64;
        self.recent.push_back(sample);
        (self.units, self.took) = (0, Duration::ZERO);
        self.sorted.clear();
        self.sorted.extend(&self.recent);
        self.sorted.sort_by(f64::total_cmp);
    }

    /// Seconds that a unit takes; 0 if that is not known.
    pub(crate) fn seconds_per_unit(&self) -> f64 {
        let quartile = self.sorted.get(self.sorted.len() / 4);
        quartile.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(pieces: &[(usize, u64)]) -> Pace {
        let mut pace = Pace::new(10);
        for &(units, ms) in pieces {
            pace.observe(units, Duration::from_millis(ms));
        }
        pace
    }

    fn is(number: f64, wanted: f64) -> bool {
        (number - wanted).abs() < 1e-12
    }

    #[test]
    fn a_stall_does_not_change_the_pace_and_a_lasting_change_does() {
        assert!(is(pace(&[]).seconds_per_unit(), 0.0));
        let steady = [(100, 100); 9];
        assert!(is(pace(&steady).seconds_per_unit(), 0.001));
        let stalled = [&steady[..], &[(100, 5000)]].concat();
        assert!(is(pace(&stalled).seconds_per_unit(), 0.001));
        let slower = [&steady[..], &[(100, 200); 7]].concat();
        assert!(is(pace(&slower).seconds_per_unit(), 0.002));
    }

    #[test]
    fn short_pieces_are_put_together() {
        // The first is a sample whatever it took; the next five make one, and three none yet.
        let pieces = [&[(100, 10)][..], &[(100, 20); 4], &[(300, 20); 4]].concat();
        let pace = pace(&pieces);
        assert_eq!(pace.recent.len(), 2);
        assert!(is(pace.recent[1], 0.1 / 700.0));
    }

    #[test]
    fn small_pieces_do_not_count() {
        assert!(is(pace(&[(9, 1000), (0, 1)]).seconds_per_unit(), 0.0));
        assert!(is(pace(&[(10, 10), (9, 1000)]).seconds_per_unit(), 0.001));
    }
}
