//! Our kernels, one safe function each. The sources are in `kernels/`.
//!
//! **Soundness of every launch here.** The arguments are those of the kernel of that name in
//! `kernels.cu`, in its order and types. Each function first checks that every buffer holds the
//! rows it promises; what kernels look up by index (tokens, positions, rows, tiles) was checked
//! against the shapes by [`model`](crate::model). Buffers cannot be freed while work on them is
//! under way, because freeing goes to the same stream.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg as _};
use half::f16;

use super::{
    memory::{Buffer, View, ViewMut},
    number::Number,
};

/// The most queries that a tile of attention may have.
pub(crate) const TILE_QUERIES: usize = 64;
/// The longest rows that layer norms take. They take multiples of four.
pub(crate) const WIDEST: usize = 1024;
/// Heads of this size go to the tensor cores.
const TENSOR_HEAD: usize = 64;
/// Heads of other sizes may have up to this.
pub(super) const LARGEST_HEAD: usize = 256;
const THREADS: u32 = 128;
const WARPS: usize = THREADS as usize / 32;

const NAMES: [&str; 15] = [
    "embed_f16_f16",
    "embed_f16_f32",
    "embed_f32_f32",
    "add_norm_f16",
    "add_norm_f32",
    "gelu_f16",
    "gelu_f32",
    "gather_f16",
    "gather_f32",
    "head",
    "attention_tensor",
    "attention_plain_f16",
    "attention_plain_f32",
    "narrow",
    "widen",
];

/// Launches a kernel with these arguments, in its order: what it reads, writes, and sizes.
macro_rules! launch {
    ($kernels:expr, $name:expr, $grid:expr, $([$($argument:expr),+]),+) => {{
        let mut launch = $kernels.stream.launch_builder($kernels.kernel($name)?);
        $($(launch.arg($argument);)+)+
        // SAFETY: see the top of this file.
        unsafe { launch.launch($grid?) }?;
        Ok(())
    }};
}

/// Gain and shift, `[2, width]`, of a layer norm, and what is added to the variance.
pub(crate) struct Norm {
    /// The numbers, on the GPU.
    pub parameters: Buffer<f32>,
    /// The number that is added to the variance.
    pub eps: f32,
}

/// What attention reads, in the columns of one matrix or of two: row strides are in numbers.
pub(crate) struct Qkv<'a, T> {
    /// Queries from the first column on.
    pub queries: View<'a, T>,
    /// Numbers from one row of queries to the next.
    pub query_stride: usize,
    /// Keys from the first column on, values `width` columns later.
    pub keys: View<'a, T>,
    /// Numbers from one row of keys to the next.
    pub key_stride: usize,
}

/// Which rows of the tables of embeddings stand where, on the GPU.
pub(crate) struct Rows<'a> {
    /// Rows of the table of tokens.
    pub tokens: View<'a, u32>,
    /// Rows of the table of positions.
    pub positions: View<'a, u32>,
}

/// The kernels, loaded, and the stream on which they are launched.
pub(crate) struct Kernels {
    functions: HashMap<&'static str, CudaFunction>,
    stream: Arc<CudaStream>,
}

impl Kernels {
    pub(super) fn load(module: &Arc<CudaModule>, stream: &Arc<CudaStream>) -> Result<Self> {
        let load = |name| {
            let function = module.load_function(name);
            Ok((name, function.with_context(|| format!("kernel {name}"))?))
        };
        Ok(Self {
            functions: NAMES.into_iter().map(load).collect::<Result<_>>()?,
            stream: Arc::clone(stream),
        })
    }

    /// `out[i] = norm(tokens[at.tokens[i]] + positions[at.positions[i]])`. `tokens` is
    /// `[vocabulary, width]`, `positions` `[positions, width]`.
    pub(crate) fn embed<W: Number, T: Number>(
        &self,
        (tokens, positions): (&Buffer<W>, &Buffer<f32>),
        at: &Rows<'_>,
        norm: &Norm,
        out: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        let (rows, width) = (at.tokens.len(), norm.parameters.len() / 2);
        check_width(width)?;
        ensure!(
            at.positions.len() == rows && out.len() >= rows * width,
            "embed: buffers too short"
        );
        let (rows_arg, width) = (int(rows)?, int(width)?);
        launch!(
            self,
            &format!("embed_{}_{}", W::NAME, T::NAME),
            warp_a_row(rows),
            [tokens, positions, &at.tokens, &at.positions],
            [&norm.parameters, out, &rows_arg, &width, &norm.eps]
        )
    }

    /// `x[i] = norm(product[i] + bias + x[i])`, for the rows of `x`.
    pub(crate) fn add_norm<T: Number>(
        &self,
        product: &View<'_, f32>,
        bias: &Buffer<f32>,
        norm: &Norm,
        x: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        let width = norm.parameters.len() / 2;
        check_width(width)?;
        let rows = x.len() / width;
        ensure!(
            bias.len() == width && product.len() >= x.len() && x.len() == rows * width,
            "add_norm: buffers of other lengths"
        );
        let (rows_arg, width) = (int(rows)?, int(width)?);
        launch!(
            self,
            &named::<T>("add_norm"),
            warp_a_row(rows),
            [product, bias, &norm.parameters, x],
            [&rows_arg, &width, &norm.eps]
        )
    }

    /// The exact GELU of every number, in place. Their number is a multiple of four.
    pub(crate) fn gelu<T: Number>(&self, x: &mut ViewMut<'_, T>) -> Result<()> {
        let count = x.len() as u64;
        ensure!(
            count.is_multiple_of(4),
            "gelu: {count} numbers are no multiple of four"
        );
        launch!(self, &named::<T>("gelu"), each(count / 4), [x, &count])
    }

    /// `out[i] = x[rows[i]]`, rows of `width` numbers, a multiple of four.
    pub(crate) fn gather<T: Number>(
        &self,
        x: &View<'_, T>,
        rows: &View<'_, u32>,
        out: &mut ViewMut<'_, T>,
        width: usize,
    ) -> Result<()> {
        let count = rows.len();
        ensure!(
            width.is_multiple_of(4) && out.len() >= count * width,
            "gather: out too short"
        );
        let (count_arg, width) = (int(count)?, int(width)?);
        let (name, grid) = (named::<T>("gather"), warp_a_row(count));
        launch!(self, &name, grid, [x, rows, out, &count_arg, &width])
    }

    /// `logits[i] = tanh(product[i] + bias) · output + output_bias`.
    pub(crate) fn head(
        &self,
        product: &View<'_, f32>,
        bias: &Buffer<f32>,
        (output, output_bias): (&Buffer<f32>, &Buffer<f32>),
        logits: &mut ViewMut<'_, f32>,
    ) -> Result<()> {
        let (rows, width) = (logits.len(), output.len());
        ensure!(
            bias.len() == width && product.len() >= rows * width,
            "head: product too short"
        );
        let (rows_arg, width) = (int(rows)?, int(width)?);
        launch!(
            self,
            "head",
            warp_a_row(rows),
            [product, bias, output, output_bias],
            [logits, &rows_arg, &width]
        )
    }

    /// Softmax attention of packed sequences over themselves: heads of `head` numbers side by side,
    /// `width` in all. `tiles` are four numbers each: the first row of queries, how many (at most
    /// [`TILE_QUERIES`]), the first row of keys, how many.
    pub(crate) fn attention<T: Number>(
        &self,
        from: &Qkv<'_, T>,
        tiles: &View<'_, u32>,
        (head, width): (usize, usize),
        out: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        ensure!(
            head <= LARGEST_HEAD && width.is_multiple_of(head) && tiles.len().is_multiple_of(4),
            "attention: heads of {head} in {width} numbers"
        );
        let grid = grid(tiles.len() as u64 / 4, u32::try_from(width / head)?);
        let (queries, keys, values) = (&from.queries, &from.keys, &from.keys.slice(width..));
        let (query_stride, key_stride) = (&int(from.query_stride)?, &int(from.key_stride)?);
        let (size, width) = (&int(head)?, &int(width)?);
        if head == TENSOR_HEAD && T::NAME == f16::NAME {
            launch!(
                self,
                "attention_tensor",
                grid,
                [queries, query_stride, keys, values, key_stride],
                [tiles, out, width]
            )
        } else {
            launch!(
                self,
                &named::<T>("attention_plain"),
                grid,
                [queries, query_stride, keys, values, key_stride],
                [tiles, out, width, size]
            )
        }
    }

    /// Rounds f32 to f16 and puts 1 into `lost` if a number is beyond f16's range or none.
    pub(crate) fn narrow(
        &self,
        from: &View<'_, f32>,
        to: &mut ViewMut<'_, f16>,
        lost: &mut Buffer<u32>,
    ) -> Result<()> {
        let count = from.len() as u64;
        ensure!(
            to.len() == from.len() && lost.len() == 1,
            "narrow: lengths differ"
        );
        launch!(self, "narrow", each(count), [from, to, &count, lost])
    }

    /// f16 to f32.
    pub(crate) fn widen(&self, from: &View<'_, f16>, to: &mut ViewMut<'_, f32>) -> Result<()> {
        let count = from.len() as u64;
        ensure!(to.len() >= from.len(), "widen: out too short");
        launch!(self, "widen", each(count), [from, to, &count])
    }

    fn kernel(&self, name: &str) -> Result<&CudaFunction> {
        self.functions
            .get(name)
            .with_context(|| format!("there is no kernel {name}"))
    }
}

fn named<T: Number>(kernel: &str) -> String {
    format!("{kernel}_{}", T::NAME)
}

fn check_width(width: usize) -> Result<()> {
    ensure!(
        width <= WIDEST && width.is_multiple_of(4),
        "rows of {width} numbers: only multiples of four up to {WIDEST} have kernels"
    );
    Ok(())
}

/// Counts go to the kernels as C's `int`.
fn int(count: usize) -> Result<i32> {
    i32::try_from(count).with_context(|| format!("{count} is too many for a kernel"))
}

fn warp_a_row(rows: usize) -> Result<LaunchConfig> {
    grid(rows.div_ceil(WARPS) as u64, 1)
}

/// A thread for each number, or for each four of them.
fn each(count: u64) -> Result<LaunchConfig> {
    grid(count.div_ceil(u64::from(THREADS)), 1)
}

fn grid(x: u64, y: u32) -> Result<LaunchConfig> {
    ensure!(x > 0, "a kernel for no rows");
    Ok(LaunchConfig {
        grid_dim: (u32::try_from(x)?, y, 1),
        block_dim: (THREADS, 1, 1),
        shared_mem_bytes: 0,
    })
}
