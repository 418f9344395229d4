//! Vector building blocks: plain loops that the compiler turns into the widest vectors the
//! processor has.
//!
//! A kernel is a closure for [`vectorize`], or a struct that implements [`pulp::WithSimd`] where it
//! names vectors. Its body is inlined into one copy per instruction set, which is why every
//! function and closure in it says `#[inline(always)]`: one that is called instead has no vector
//! instructions. The copy is picked at run time, the portable one where nothing better is there.
//! No `unsafe` is needed.

use pulp::{Arch, Simd, WithSimd};

/// Runs `kernel` with the best instruction set of this processor.
pub(super) fn run<K: WithSimd>(kernel: K) -> K::Output {
    Arch::new().dispatch(kernel)
}

/// Runs a closure, which says `#[inline(always)]`, with the best instruction set of this processor.
///
/// It may be called more than once, as far as its type goes: a closure that is passed as `FnOnce`
/// is called through a function of the compiler's, which is not always inlined.
pub(crate) fn vectorize(kernel: impl FnMut()) {
    run(Loops(kernel));
}

struct Loops<F>(F);

impl<F: FnMut()> WithSimd for Loops<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}

const LANES: usize = 16;

/// `Σ f(x)` over a row, added in an order that depends on its length alone.
#[inline(always)]
pub(super) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// `e^x` for x ≤ 0, to 2 units in the last place; below -87 it is e^-87, next to nothing.
///
/// Cody-Waite reduction and the minimax polynomial of the Cephes library's `expf` (Moshier,
/// netlib.org/cephes).
#[inline(always)]
pub(super) fn exp_negative(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits, where it can be shifted
    // into the exponent.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_2e-4f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let power_of_two = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    p.mul_add(r * r, r + 1.0) * power_of_two
}

/// The error function, to 4e-7 absolutely: a rational minimax approximation on [-4, 4], ±1 beyond
/// (the form used by Eigen and XLA for single precision).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let mut p = -2.726_142_3e-10f32;
    p = p.mul_add(x2, 2.770_681_5e-8);
    p = p.mul_add(x2, -2.101_024e-6);
    p = p.mul_add(x2, -5.692_506_4e-5);
    p = p.mul_add(x2, -7.349_906e-4);
    p = p.mul_add(x2, -2.954_6e-3);
    p = p.mul_add(x2, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5f32;
    q = q.mul_add(x2, -2.133_740_6e-4);
    q = q.mul_add(x2, -1.682_827e-3);
    q = q.mul_add(x2, -7.373_329e-3);
    q = q.mul_add(x2, -1.426_474e-2);
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Maclaurin series in f64, good to 1e-12 for |x| ≤ 4.
    fn erf_slow(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn erf_is_close_everywhere() {
        for i in -4000..=4000 {
            let x = i as f32 / 1000.0;
            let want = erf_slow(f64::from(x));
            assert!(
                (f64::from(erf(x)) - want).abs() < 4e-7,
                "erf({x}) = {}, not {want}",
                erf(x)
            );
        }
        assert!((erf(100.0) - 1.0).abs() < 4e-7);
        assert!((erf(f32::NEG_INFINITY) + 1.0).abs() < 4e-7);
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_close_for_what_softmax_feeds_it() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp_negative(x)) - want).abs() / want;
            assert!(error < 3e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp_negative(f32::NEG_INFINITY) < 1e-37);
        assert!(exp_negative(f32::NAN).is_nan());
    }

    #[test]
    fn sums_equal_the_plain_ones() {
        for n in [1usize, 2, 15, 16, 17, 31, 64, 1000] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1013) as f32 - 500.0).collect();
            let total: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(sum(&row, |x| x)) - total).abs() < 1e-2, "{n}");
        }
    }
}
