//! The softmax of attention, queries side by side.

use super::{matmul::tile::LaneType, simd};

/// Queries that are computed side by side.
const LANES: usize = 16;

/// Turns `scores [key][query]` (bits of f32) into `e^(scale · (score - the query's largest))` and
/// adds them up per query. The division by that sum is left to the end. The number of queries is a
/// multiple of 16. For bf16 the result is packed in pairs: row `i` of the first `n` holds the keys
/// `i` and `i + n`.
pub(crate) fn softmax(scores: &mut [u32], sums: &mut [f32], scale: f32, lane_type: LaneType) {
    simd::vectorize(
        #[inline(always)]
        move || {
            let across = sums.len() / LANES;
            let (scores, _) = scores.as_chunks_mut::<LANES>();
            for (first, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                column(&mut scores[first..], across, sums, scale, lane_type);
            }
        },
    );
}

/// The softmax of 16 queries, whose scores are `across` vectors apart.
#[inline(always)]
fn column(
    scores: &mut [[u32; LANES]],
    across: usize,
    sums: &mut [f32; LANES],
    scale: f32,
    lane_type: LaneType,
) {
    let keys = scores.len().div_ceil(across);
    let steps = keys.div_ceil(lane_type.packing_factor());
    let mut largest = [f32::NEG_INFINITY; LANES];
    for scores in scores.iter().step_by(across) {
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
    for step in 0..steps {
        let place = step * across;
        let low = exponentials(&scores[place], &largest, scale, sums);
        scores[place] = match lane_type {
            LaneType::Bf16 if step + steps < keys => {
                let other = place + steps * across;
                let high = exponentials(&scores[other], &largest, scale, sums);
                std::array::from_fn(|i| {
                    round_to_bf16(low[i]) >> 16 | round_to_bf16(high[i]) & 0xffff_0000
                })
            }
            LaneType::Bf16 => low.map(|low| round_to_bf16(low) >> 16),
            _ => low.map(f32::to_bits),
        };
    }
}

/// `e^(scale · (score - largest))`, which is added to the sums.
#[inline(always)]
fn exponentials(
    scores: &[u32; LANES],
    largest: &[f32; LANES],
    scale: f32,
    sums: &mut [f32; LANES],
) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    for i in 0..LANES {
        all[i] = simd::exp_negative((f32::from_bits(scores[i]) - largest[i]) * scale);
        sums[i] += all[i];
    }
    all
}

/// The nearest bf16 in the upper half; what lies between two is rounded up. It is meant for
/// numbers from 0 to 1; one that is not a number shows in the sum.
#[inline(always)]
fn round_to_bf16(x: f32) -> u32 {
    x.to_bits().wrapping_add(0x8000)
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
            softmax(&mut scores, &mut sums, 0.125, LaneType::F32);
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
    fn two_share_a_lane_however_many_keys() {
        for keys in [1, 2, 7, 8] {
            let scores: Vec<u32> = (0..keys * 32)
                .map(|i| ((i * 37 % 101) as f32 / 9.0).to_bits())
                .collect();
            let (mut one, mut two) = (scores.clone(), scores);
            let (mut sums_one, mut sums_two) = (vec![0.0; 32], vec![0.0; 32]);
            softmax(&mut one, &mut sums_one, 0.125, LaneType::F32);
            softmax(&mut two, &mut sums_two, 0.125, LaneType::Bf16);
            let steps = usize::div_ceil(keys, 2);
            for (i, &lane) in two[..steps * 32].iter().enumerate() {
                let (low, high) = (one[i], one.get(i + steps * 32).copied().unwrap_or(0));
                for (got, want) in [(lane << 16, low), (lane & 0xffff_0000, high)] {
                    let (got, want) = (f32::from_bits(got), f32::from_bits(want));
                    assert!(
                        (got - want).abs() <= want / 256.0,
                        "{keys} keys: {got}, not {want}"
                    );
                }
            }
            for (one, two) in sums_one.iter().zip(&sums_two) {
                assert!((one - two).abs() <= one * 1e-6);
            }
        }
    }

    #[test]
    fn nan_spoils_its_own_query_only() {
        let mut scores = vec![1.0f32.to_bits(); 3 * 16];
        scores[16 + 5] = f32::NAN.to_bits();
        let mut sums = vec![0.0; 16];
        softmax(&mut scores, &mut sums, 1.0, LaneType::F32);
        let spoilt: Vec<usize> = (0..16).filter(|&query| sums[query].is_nan()).collect();
        assert_eq!(spoilt, [5]);
    }
}
