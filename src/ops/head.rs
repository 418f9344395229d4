//! The classification head's last step: one logit for each row.

/// Partial sums of a row, so that the compiler can make vectors of them.
const PARTIAL_SUMS: usize = 32;

/// `logits[i] = tanh(features[i]) · weight + bias`.
///
/// A sum for each row instead of a product with one column: its order depends on the width alone.
pub(crate) fn logits(features: &[f32], weight: &[f32], bias: f32) -> Vec<f32> {
    let rows = features.chunks_exact(weight.len());
    rows.map(|row| tanh_dot(row, weight) + bias).collect()
}

fn tanh_dot(row: &[f32], weight: &[f32]) -> f32 {
    let (rows, row_rest) = row.as_chunks::<PARTIAL_SUMS>();
    let (weights, weight_rest) = weight.as_chunks::<PARTIAL_SUMS>();
    let mut sums = [0.0f32; PARTIAL_SUMS];
    for (x, w) in rows.iter().zip(weights) {
        for i in 0..PARTIAL_SUMS {
            sums[i] += x[i].tanh() * w[i];
        }
    }
    let eighth = |i: usize| (sums[i] + sums[i + 8]) + (sums[i + 16] + sums[i + 24]);
    let quarter = |i: usize| eighth(i) + eighth(i + 4);
    let whole = (quarter(0) + quarter(1)) + (quarter(2) + quarter(3));
    let rest = row_rest.iter().zip(weight_rest);
    rest.fold(whole, |sum, (x, w)| sum + x.tanh() * w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_slow_one_over_odd_shapes() {
        for (rows, width) in [(1, 1), (2, 31), (3, 32), (5, 100), (2, 1024)] {
            let wave = |n: usize, step: usize| -> Vec<f32> {
                (0..n)
                    .map(|i| ((i * step % 101) as f32 - 50.0) / 30.0)
                    .collect()
            };
            let (features, weight) = (wave(rows * width, 37), wave(width, 13));
            let fast = logits(&features, &weight, 0.25);
            assert_eq!(fast.len(), rows);
            for (fast, row) in fast.iter().zip(features.chunks(width)) {
                let terms = row.iter().zip(&weight);
                let sum: f64 = terms
                    .map(|(&x, &w)| f64::from(x).tanh() * f64::from(w))
                    .sum();
                let error = (f64::from(*fast) - sum - 0.25).abs();
                assert!(error < 1e-4, "{rows}x{width}: {fast}, not {}", sum + 0.25);
            }
        }
    }
}
