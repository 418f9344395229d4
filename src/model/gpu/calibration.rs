//! How many tokens to compute at once: measured on the GPU itself, because it is the point where a
//! larger batch stops being cheaper per token.

use anyhow::Result;
use tracing::info;

/// Tokens of a lone request of usual size: 20 chunks of about 100.
const LONE_REQUEST: usize = 2048;
const CANDIDATES: [usize; 6] = [512, 1024, LONE_REQUEST, 4096, 8192, 16384];
/// A share of the best throughput that is as good as the best.
const GOOD_ENOUGH: f64 = 0.97;

/// Tokens, and the seconds that a batch of so many takes.
type Point = (usize, f64);

/// The best size of a batch, of which `measure` tells the seconds; at least one pair of `longest`
/// tokens.
pub(super) fn batch_tokens(
    longest: usize,
    measure: impl Fn(usize) -> Result<f64>,
) -> Result<usize> {
    let mut curve: Vec<Point> = Vec::new();
    for tokens in CANDIDATES {
        let seconds = measure(tokens)?;
        let lone = curve.iter().find(|point| point.0 == LONE_REQUEST);
        // What cannot be chosen need not be looked at, nor memory be taken for it.
        let too_long = lone.is_some_and(|&(_, lone)| seconds > 2.0 * lone);
        curve.push((tokens, seconds));
        if too_long {
            break;
        }
    }
    let chosen = choose(&curve).max(longest);
    let told: Vec<String> = curve
        .iter()
        .map(|(tokens, seconds)| format!("{tokens}: {:.1} ms", seconds * 1e3))
        .collect();
    info!(
        batch_tokens = chosen,
        measured = told.join(", "),
        "batch size calibrated"
    );
    Ok(chosen)
}

/// The smallest batch of nearly the best throughput among those that take at most twice as long as
/// a lone request: whoever comes while a batch runs must not wait for longer than that.
fn choose(curve: &[Point]) -> usize {
    let lone = curve
        .iter()
        .find(|point| point.0 >= LONE_REQUEST)
        .or(curve.last());
    let longest = 2.0 * lone.expect("the curve has points").1;
    let allowed = || curve.iter().filter(|point| point.1 <= longest);
    let throughput = |point: &Point| point.0 as f64 / point.1;
    let best = allowed().map(throughput).fold(0.0, f64::max);
    let chosen = allowed().find(|point| throughput(point) >= GOOD_ENOUGH * best);
    chosen.expect("the lone request itself is allowed").0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(milliseconds: [f64; 6]) -> usize {
        let curve: Vec<Point> = CANDIDATES.into_iter().zip(milliseconds).collect();
        choose(&curve)
    }

    #[test]
    fn a_small_gpu_is_full_early_and_a_large_one_late() {
        // In proportion to the tokens: larger batches gain nothing.
        assert_eq!(chosen([14.0, 28.0, 56.0, 112.0, 224.0, 448.0]), 512);
        // Half empty up to 2,048 tokens, full from there on.
        assert_eq!(chosen([3.0, 3.2, 3.6, 6.0, 12.0, 24.0]), 4096);
        // Never longer than twice the lone request, however much there is to gain.
        assert_eq!(chosen([1.0, 1.5, 2.0, 4.1, 5.0, 6.0]), LONE_REQUEST);
    }

    #[test]
    fn a_curve_that_ends_early_will_do() {
        assert_eq!(choose(&[(512, 1.0)]), 512);
    }
}
