//! The softmax of attention, queries side by side.

use pulp::{Simd, WithSimd};

use super::simd;

/// Queries that are computed side by side.
const LANES: usize = 16;

/// Turns `scores [key][query]` (bits of f32) into `e^(scale · (score - the query's largest))` and adds them up per query. The division by that
/// sum is left to the end. The number of queries is a multiple of 16.
pub(super) fn softmax(scores: &mut [u32], sums: &mut [f32], scale: f32) {
    simd::run(Softmax {
        scores,
        sums,
        scale,
    });
}

struct Softmax<'a> {
    /// `[key][query]`, bits of f32.
    scores: &'a mut [u32],
    sums: &'a mut [f32],
    scale: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let across = self.sums.len() / LANES;
        let (scores, _) = self.scores.as_chunks_mut::<LANES>();
        let (sums, _) = self.sums.as_chunks_mut::<LANES>();
        for (first, sums) in sums.iter_mut().enumerate() {
            let mut largest = [f32::NEG_INFINITY; LANES];
            for scores in scores.iter().skip(first).step_by(across) {
                for i in 0..LANES {
                    let score = f32::from_bits(scores[i]);
                    // NaN is passed over: it comes out in the sum.
                    largest[i] = if score > largest[i] {
                        score
                    } else {
                        largest[i]
                    };
                }
            }
            *sums = [0.0; LANES];
            for scores in scores.iter_mut().skip(first).step_by(across) {
                for i in 0..LANES {
                    let e =
                        simd::exp_negative((f32::from_bits(scores[i]) - largest[i]) * self.scale);
                    sums[i] += e;
                    scores[i] = e.to_bits();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_slow_one() {
        for (keys, queries) in [(1, 16), (7, 16), (33, 32), (100, 64)] {
            let score = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 3.0;
            let mut scores: Vec<u32> = (0..keys * queries).map(|i| score(i).to_bits()).collect();
            let mut sums = vec![0.0; queries];
            softmax(&mut scores, &mut sums, 0.125);
            for query in 0..queries {
                let column =
                    || (0..keys).map(|key| f64::from(score(key * queries + query)) * 0.125);
                let total: f64 = column().map(f64::exp).sum();
                for (key, x) in column().enumerate() {
                    let got = f32::from_bits(scores[key * queries + query]) / sums[query];
                    assert!(
                        (f64::from(got) - x.exp() / total).abs() < 1e-6,
                        "{keys} keys, query {query}"
                    );
                }
            }
        }
    }

    #[test]
    fn nan_spoils_its_own_query_only() {
        let mut scores = vec![1.0f32.to_bits(); 3 * 16];
        scores[16 + 5] = f32::NAN.to_bits();
        let mut sums = vec![0.0; 16];
        softmax(&mut scores, &mut sums, 1.0);
        let spoilt: Vec<usize> = (0..16).filter(|&query| sums[query].is_nan()).collect();
        assert_eq!(spoilt, [5]);
    }
}
