//! Products with weights by cuBLASLt
//! (<https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api>), summed in f32 whatever the
//! types.
//!
//! cuBLASLt counts in columns: our `y [rows, outputs] = x [rows, inputs] · weight [outputs,
//! inputs]ᵀ` is its `yᵀ = weightᵀᵀ · xᵀ`, every matrix where it lies. What it chooses for a shape
//! is remembered; so that shapes are few, products are computed for a multiple of [`ROWS`] rows.
//! The rows beyond hold anything, and what comes of them nobody reads.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    ffi::c_void,
    ptr,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use cudarc::{
    cublaslt::{
        result,
        sys::{self, cublasLtMatmulDescAttributes_t as Attribute},
    },
    driver::{CudaStream, DevicePtr as _, DevicePtrMut as _},
};

use super::{
    memory::{Buffer, View, ViewMut},
    number::Number,
};

/// Buffers of a product hold a multiple of so many rows; the tensor cores' tiles are no smaller.
pub(crate) const ROWS: usize = 64;

/// cuBLAS's `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// cuBLASLt, and what it chose so far.
pub(crate) struct Matmul {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: Buffer<u8>,
    chosen: RefCell<HashMap<Shape, Chosen>>,
}

// SAFETY: cuBLASLt's handle and descriptors may move to another thread; a `Gpu` is used by one at a
// time.
unsafe impl Send for Matmul {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    outputs: usize,
    inputs: usize,
    /// The names of the types that go in and come out.
    types: (&'static str, &'static str),
    biased: bool,
}

/// The descriptors of a shape, and the algorithm.
struct Chosen {
    product: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        // SAFETY: they were created with this value and are used through it alone. That they cannot
        // be destroyed costs a few bytes.
        unsafe {
            let _ = result::destroy_matmul_desc(self.product);
            for layout in [self.weight, self.x, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // SAFETY: created by `new`, used through this value alone. An error at the end of the
        // process interests nobody.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A weight `[outputs, inputs]` as it is multiplied.
pub(crate) struct WeightView<'a, T> {
    /// Row by row.
    pub numbers: View<'a, T>,
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
}

impl Matmul {
    /// `out = x · weightᵀ + bias` for so many rows. `x` and `out` hold that many, rounded up to
    /// [`ROWS`].
    pub(crate) fn multiply<T: Number, O: Number>(
        &self,
        (x, rows): (&View<'_, T>, usize),
        weight: &WeightView<'_, T>,
        bias: Option<&View<'_, O>>,
        out: &mut ViewMut<'_, O>,
    ) -> Result<()> {
        let (weight, outputs, inputs) = (&weight.numbers, weight.outputs, weight.inputs);
        let rows = rows.next_multiple_of(ROWS);
        ensure!(
            x.len() >= rows * inputs
                && out.len() >= rows * outputs
                && weight.len() == outputs * inputs,
            "multiply: {rows} rows of {inputs} by {outputs} do not fit their buffers"
        );
        ensure!(
            bias.is_none_or(|bias| bias.len() == outputs),
            "multiply: bias of another length"
        );
        let shape = Shape {
            rows,
            outputs,
            inputs,
            types: (T::NAME, O::NAME),
            biased: bias.is_some(),
        };
        let stream = &self.stream;
        let (one, zero) = (1f32, 0f32);
        let (weight, _weight_use) = weight.device_ptr(stream);
        let (x, _x_use) = x.device_ptr(stream);
        let (out, _out_use) = out.device_ptr_mut(stream);
        let (workspace, _workspace_use) = self.workspace.device_ptr(stream);
        let bias = bias.map(|bias| bias.device_ptr(stream));
        let bias = bias.as_ref().map(|(address, _use)| *address);
        stream.context().bind_to_thread()?;
        let mut chosen = self.chosen.borrow_mut();
        let chosen = match chosen.entry(shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.choose::<T, O>(shape, bias)?),
        };
        // SAFETY: the descriptors describe matrices of the sizes checked above, row by row without
        // gaps; scales are read during the call; the workspace is as large as the preference said
        // when the algorithm was chosen, and used by this stream alone.
        unsafe {
            if let Some(bias) = bias {
                set(
                    chosen.product,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                )?;
            }
            result::matmul(
                self.handle,
                chosen.product,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                weight as *const c_void,
                chosen.weight,
                x as *const c_void,
                chosen.x,
                out as *const c_void,
                chosen.out,
                out as *mut c_void,
                chosen.out,
                &raw const chosen.algorithm,
                workspace as *mut c_void,
                self.workspace.len(),
                stream.cu_stream().cast(),
            )
        }
        .with_context(|| format!("cuBLASLt: product of {rows} x {inputs} and {outputs} x {inputs}"))
    }

    /// NVIDIA recommends 32 MiB of workspace on Hopper and less before.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let (major, _) = stream.context().compute_capability()?;
        let workspace = if major >= 9 { 32 << 20 } else { 8 << 20 };
        Ok(Self {
            // SAFETY: cuBLASLt writes it before it reads it.
            workspace: unsafe { stream.alloc(workspace) }?,
            stream: Arc::clone(stream),
            handle: result::create_handle().context("cuBLASLt cannot be used")?,
            chosen: RefCell::default(),
        })
    }

    /// What suits a shape, and a bias at this address or at one aligned like it.
    fn choose<T: Number, O: Number>(&self, shape: Shape, bias: Option<u64>) -> Result<Chosen> {
        use sys::{
            cublasLtEpilogue_t as Epilogue, cublasLtMatmulPreferenceAttributes_t as Preference,
        };
        let (rows, outputs, inputs) = (shape.rows, shape.outputs, shape.inputs);
        let layout = |kind, columns: usize, of: usize| {
            result::create_matrix_layout(
                kind,
                columns as u64,
                of as u64,
                i64::try_from(columns).expect("sizes are small"),
            )
        };
        let mut chosen = Chosen {
            product: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )?,
            weight: layout(T::BLAS, inputs, outputs)?,
            x: layout(T::BLAS, inputs, rows)?,
            out: layout(O::BLAS, outputs, rows)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let preference = result::create_matmul_pref()?;
        let workspace = self.workspace.len();
        // SAFETY: attributes are given by pointers to values of their types that outlive the calls;
        // descriptors exist until `chosen` or, of the preference, this function ends.
        unsafe {
            set(
                chosen.product,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                &TRANSPOSED,
            )?;
            if let Some(bias) = bias {
                set(
                    chosen.product,
                    Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                    &Epilogue::CUBLASLT_EPILOGUE_BIAS,
                )?;
                set(
                    chosen.product,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                )?;
            }
            result::set_matmul_pref_attribute(
                preference,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            )?;
            let best = result::get_matmul_algo_heuristic(
                self.handle,
                chosen.product,
                chosen.weight,
                chosen.x,
                chosen.out,
                chosen.out,
                preference,
            );
            result::destroy_matmul_pref(preference)?;
            let best = best.with_context(|| format!("cuBLASLt has no way to compute {shape:?}"))?;
            chosen.algorithm = best.algo;
        }
        Ok(chosen)
    }
}

/// # Safety
/// `A` is the type of that attribute, and the descriptor exists.
unsafe fn set<A>(
    product: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &A,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let done = unsafe {
        result::set_matmul_desc_attribute(
            product,
            attribute,
            ptr::from_ref(value).cast(),
            size_of::<A>(),
        )
    };
    Ok(done?)
}
