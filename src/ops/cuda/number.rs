//! The types of activations on a GPU.

use cudarc::{
    cublaslt::sys::cudaDataType,
    driver::{DeviceRepr, ValidAsZeroBits},
};
use half::f16;

/// f16 or f32.
pub(crate) trait Number: DeviceRepr + ValidAsZeroBits + Copy + 'static {
    /// The suffix of the names of kernels for this type.
    const NAME: &'static str;
    /// cuBLASLt's name for this type.
    const BLAS: cudaDataType;
    /// Converts from f32, rounding.
    fn from_f32(x: f32) -> Self;
    /// Converts to f32 exactly.
    fn to_f32(self) -> f32;
}

impl Number for f16 {
    const NAME: &'static str = "f16";
    const BLAS: cudaDataType = cudaDataType::CUDA_R_16F;

    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Number for f32 {
    const NAME: &'static str = "f32";
    const BLAS: cudaDataType = cudaDataType::CUDA_R_32F;

    fn from_f32(x: f32) -> Self {
        x
    }

    fn to_f32(self) -> f32 {
        self
    }
}

/// Random numbers from -1 to 1, always the same for a seed. Zeros would let the GPU clock higher
/// than real data do.
pub(super) fn random<T: Number>(count: usize, seed: u64) -> impl Iterator<Item = T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        T::from_f32((state >> 40) as f32 / 8_388_608.0 - 1.0)
    })
}
