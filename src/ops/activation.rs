//! What may follow a projection.

use super::simd;

/// The function that a projection's outputs go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Outputs stay as they are.
    None,
    /// The exact (erf) GELU.
    Gelu,
}

/// v · ½ (1 + erf(v / √2)) (Hendrycks and Gimpel 2016, exact form).
#[inline(always)]
pub(crate) fn gelu(v: f32) -> f32 {
    0.5 * v * (1.0 + simd::erf(v * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn equals_candle() {
        let x: Vec<f32> = (-1600..1600).map(|i| i as f32 / 100.0).collect();
        let slow = Tensor::new(x.as_slice(), &Device::Cpu)
            .unwrap()
            .gelu_erf()
            .unwrap();
        for (x, slow) in x.iter().zip(slow.to_vec1::<f32>().unwrap()) {
            assert!(
                (gelu(*x) - slow).abs() < 3e-6,
                "gelu({x}) = {}, not {slow}",
                gelu(*x)
            );
        }
    }

    #[test]
    fn nan_stays_nan() {
        assert!(gelu(f32::NAN).is_nan() && gelu(f32::INFINITY).is_infinite());
    }
}
