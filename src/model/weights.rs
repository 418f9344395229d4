//! The tensors of a checkpoint: safetensors files, mapped or embedded, read out as `f32`.
//!
//! Candle's reader maps the files and checks their headers. Its `Tensor`s are not used: each would
//! be a whole copy beside the one that a device makes. Here a tensor is converted piece by piece,
//! and what has been converted is dropped from memory.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Error, Result, bail, ensure};
use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

use super::names;

/// All shards of a checkpoint.
pub(super) struct Weights {
    shards: Vec<Shard>,
}

struct Shard {
    /// How messages call it.
    name: String,
    file: File,
    /// What tensors are called in the file, by the names that transformers gives them.
    names: HashMap<String, String>,
}

enum File {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
}

/// A tensor as its file has it, of a type that can be converted.
struct Stored<'a> {
    file: &'a File,
    dtype: Dtype,
    bytes: &'a [u8],
}

impl Weights {
    /// Maps the shards and checks that each is whole.
    pub(super) fn map(paths: &[PathBuf]) -> Result<Self> {
        let shards = paths.iter().map(|path| Shard::map(path));
        Ok(Self {
            shards: shards.collect::<Result<_>>()?,
        })
    }

    /// Wraps a file that is part of this program.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let file = SliceSafetensors::new(bytes).map_err(|error| unreadable(name, error))?;
        Ok(Self {
            shards: vec![Shard::new(name.to_owned(), File::Embedded(file))?],
        })
    }

    /// The size of all tensors.
    pub(super) fn bytes(&self) -> usize {
        let tensors = self.shards.iter().flat_map(|shard| shard.file.tensors());
        tensors.map(|(_, tensor)| tensor.data().len()).sum()
    }

    /// Every tensor's name and shape.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.shards.iter().flat_map(|shard| {
            let named = |name: &String| Some((name.clone(), shard.tensor(name)?.shape().to_vec()));
            shard.names.keys().filter_map(named)
        })
    }

    /// Tensors of one shape as `f32`, one after the other.
    pub(super) fn read(&self, names: &[impl AsRef<str>], shape: &[usize]) -> Result<Vec<f32>> {
        let tensors = names.iter().map(|name| self.find(name.as_ref(), shape));
        let tensors: Vec<Stored<'_>> = tensors.collect::<Result<_>>()?;
        let mut out = Vec::with_capacity(tensors.iter().map(Stored::count).sum());
        for tensor in tensors {
            tensor.convert(tensor.bytes, &mut out);
        }
        Ok(out)
    }

    /// The gain of a layer norm, then its shift.
    pub(super) fn read_norm(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        self.read(&names, &[width])
    }

    /// One tensor as `f32`, in pieces of so many numbers.
    #[cfg(feature = "cuda")]
    pub(super) fn for_each_piece(
        &self,
        name: &str,
        shape: &[usize],
        length: usize,
        mut take: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let stored = self.find(name, shape)?;
        let mut numbers = Vec::new();
        for piece in stored.bytes.chunks(length * stored.width()) {
            numbers.clear();
            stored.convert(piece, &mut numbers);
            take(&numbers).map_err(|error| error.context(format!("tensor `{name}`")))?;
        }
        Ok(())
    }

    /// One large tensor as any type of number, in parallel.
    pub(super) fn read_as<T: Copy + Default + Send>(
        &self,
        name: &str,
        shape: &[usize],
        narrow: fn(&mut [T], &[f32]),
    ) -> Result<Vec<T>> {
        const PIECE: usize = 256 * 1024;
        let stored = self.find(name, shape)?;
        let mut out = vec![T::default(); stored.count()];
        let pieces = stored.bytes.par_chunks(PIECE * stored.width());
        let pieces = out.par_chunks_mut(PIECE).zip(pieces);
        pieces.for_each(|(out, piece)| {
            let mut numbers = Vec::new();
            stored.convert(piece, &mut numbers);
            narrow(out, &numbers);
        });
        Ok(out)
    }

    /// The tensor of this name, which must have this shape.
    fn find(&self, name: &str, shape: &[usize]) -> Result<Stored<'_>> {
        let mut shards = self.shards.iter();
        let found = shards.find_map(|shard| Some((shard, shard.tensor(name)?)));
        let Some((shard, tensor)) = found else {
            let shards = self.shards.iter();
            let files: Vec<&str> = shards.clone().map(|shard| shard.name.as_str()).collect();
            let present = shards.flat_map(|shard| shard.names.values());
            bail!(
                "{}: tensor `{name}` is missing{}",
                files.join(", "),
                names::hint(name, present.map(String::as_str))
            );
        };
        ensure!(
            tensor.shape() == shape,
            "{}: tensor `{name}` has shape {:?}, but config.json asks for {shape:?}",
            shard.name,
            tensor.shape()
        );
        ensure!(
            matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16),
            "{}: tensor `{name}`: its type is {:?}; F32, F16 and BF16 are supported",
            shard.name,
            tensor.dtype()
        );
        Ok(Stored {
            file: &shard.file,
            dtype: tensor.dtype(),
            bytes: tensor.data(),
        })
    }
}

impl Shard {
    #[expect(unsafe_code, reason = "memory-mapping a file")]
    fn map(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        // SAFETY: the map is read-only. Whoever truncates or rewrites the file while the server
        // loads it harms only this process, as with every program that maps its weights; nothing is
        // read from it after loading.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|error| unreadable(&name, error))?;
        Self::new(name, File::Mapped(file))
    }

    fn new(name: String, file: File) -> Result<Self> {
        let mut names = HashMap::new();
        for (tensor, _) in file.tensors() {
            if let Some(other) = names.insert(names::canonical(&tensor), tensor.clone()) {
                bail!("{name}: tensors `{tensor}` and `{other}` are the same part of the network");
            }
        }
        Ok(Self { name, file, names })
    }

    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let name = self.names.get(name)?;
        let tensor = match &self.file {
            File::Mapped(file) => file.get(name),
            File::Embedded(file) => file.get(name),
        };
        tensor.ok()
    }
}

/// Why candle cannot read a file, without the path that it puts before that.
fn unreadable(name: &str, error: candle_core::Error) -> Error {
    let error = match error {
        candle_core::Error::WithPath { inner, .. } => *inner,
        other => other,
    };
    let what = match error {
        candle_core::Error::Io(_) => "cannot be mapped",
        _ => "is not a whole safetensors file",
    };
    Error::new(error).context(format!("{name} {what}"))
}

impl File {
    fn tensors(&self) -> Vec<(String, TensorView<'_>)> {
        match self {
            Self::Mapped(file) => file.tensors(),
            Self::Embedded(file) => file.tensors(),
        }
    }
}

impl Stored<'_> {
    /// How many numbers it has.
    fn count(&self) -> usize {
        self.bytes.len() / self.width()
    }

    /// Bytes of a number.
    fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Appends some of the bytes to `out` as numbers. They have been read for the last time then:
    /// the mapped file and the converted copy are not both resident.
    fn convert(&self, bytes: &[u8], out: &mut Vec<f32>) {
        out.reserve_exact(bytes.len() / self.width());
        match self.dtype {
            Dtype::F16 => append_f16(bytes, out),
            Dtype::BF16 => {
                let (halves, _) = bytes.as_chunks();
                out.extend(
                    halves
                        .iter()
                        .map(|&half| bf16::from_le_bytes(half).to_f32()),
                );
            }
            _ => {
                let (numbers, _) = bytes.as_chunks();
                out.extend(numbers.iter().map(|&number| f32::from_le_bytes(number)));
            }
        }
        if let File::Mapped(_) = self.file {
            release(bytes);
        }
    }
}

/// Appends numbers a stretch at a time: the bytes need not be aligned, and a whole copy of them
/// would take too much memory.
fn append_f16(bytes: &[u8], out: &mut Vec<f32>) {
    let mut halves = Vec::new();
    for stretch in bytes.chunks(64 * 1024) {
        halves.clear();
        halves.extend(
            stretch
                .as_chunks()
                .0
                .iter()
                .map(|&half| f16::from_le_bytes(half)),
        );
        let start = out.len();
        out.resize(start + halves.len(), 0.0);
        halves.convert_to_f32_slice(&mut out[start..]);
    }
}

/// Tells the kernel that pages of a mapped file are not needed.
#[expect(unsafe_code, reason = "dropping mapped pages")]
fn release(bytes: &[u8]) {
    let (address, page) = (bytes.as_ptr().addr(), rustix::param::page_size());
    let start = address - address % page;
    let length = address + bytes.len() - start;
    let start = bytes.as_ptr().wrapping_sub(address - start);
    // SAFETY: the pages are those of a read-only view of a file, never written through: a dropped
    // page is read from the file again when somebody looks. Not being able to drop it costs memory,
    // nothing else.
    unsafe { libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dtype: Dtype, data: &[u8], shape: Vec<usize>) -> &'static [u8] {
        let view = TensorView::new(dtype, shape, data).unwrap();
        safetensors::serialize([("w", view)], None).unwrap().leak()
    }

    #[test]
    fn every_width_reads_as_f32() {
        let f32s: Vec<u8> = [1.5f32, -2.0, 0.25]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let f16s: Vec<u8> = [1.5f32, -2.0, 0.25]
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect();
        let bf16s: Vec<u8> = [1.5f32, -2.0, 0.25]
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
            .collect();
        for (dtype, data) in [(Dtype::F32, f32s), (Dtype::F16, f16s), (Dtype::BF16, bf16s)] {
            let weights = Weights::embedded("test", file(dtype, &data, vec![3])).unwrap();
            assert_eq!(
                weights.read(&["w"], &[3]).unwrap(),
                [1.5, -2.0, 0.25],
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn a_wrong_tensor_is_named() {
        let weights =
            Weights::embedded("m.safetensors", file(Dtype::I64, &[0; 16], vec![2])).unwrap();
        for (name, shape, says) in [
            (
                "w",
                [3],
                "m.safetensors: tensor `w` has shape [2], but config.json asks for [3]",
            ),
            ("v", [2], "m.safetensors: tensor `v` is missing"),
            ("w", [2], "its type is I64"),
        ] {
            let error = format!("{:#}", weights.read(&[name], &shape).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let whole = file(Dtype::F32, &[0; 16], vec![4]);
        let error = Weights::embedded("m.safetensors", &whole[..whole.len() - 1])
            .err()
            .unwrap();
        assert!(
            format!("{error:#}").contains("m.safetensors is not a whole safetensors file"),
            "{error:#}"
        );
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let most = u64::MAX;
        for header in [
            r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}"#.to_owned(),
            r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.to_owned(),
            r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"w":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
            r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#.to_owned(),
            format!(r#"{{"w":{{"dtype":"F32","shape":[{most},{most}],"data_offsets":[0,4]}}}}"#),
            format!(r#"{{"w":{{"dtype":"F32","shape":[1],"data_offsets":[{most},{most}]}}}}"#),
            format!(
                r#"{{"w":{{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,{most}]}}}}"#
            ),
            // Two tensors in the same place.
            r#"{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                "w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#
                .to_owned(),
        ] {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes());
            bytes.resize(bytes.len() + 8, 0);
            let error = Weights::embedded("m", bytes.leak()).err();
            let error = error.unwrap_or_else(|| panic!("accepted: {header}"));
            let says = format!("{error:#}");
            assert!(says.contains("not a whole safetensors file"), "{says}");
        }
    }

    #[test]
    fn a_mapped_file_reads_the_same_after_its_pages_were_dropped() {
        let data: Vec<u8> = (0..4 * 5000u32).map(|i| (i % 64) as u8).collect();
        let whole = file(Dtype::F32, &data, vec![5000]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, whole).unwrap();
        let mapped = Weights::map(&[path]).unwrap();
        let first = mapped.read(&["w"], &[5000]).unwrap();
        assert_eq!(first, mapped.read(&["w"], &[5000]).unwrap());
        assert_eq!(
            first,
            Weights::embedded("m", whole)
                .unwrap()
                .read(&["w"], &[5000])
                .unwrap()
        );
    }

    #[test]
    fn a_type_narrower_than_a_byte_is_refused() {
        let four_bits = file(Dtype::F4, &[0; 8], vec![16]);
        let weights = Weights::embedded("m", four_bits).unwrap();
        let narrow: fn(&mut [f32], &[f32]) = |_, _| {};
        let error = weights.read_as("w", &[16], narrow).unwrap_err();
        assert!(format!("{error:#}").contains("its type is F4"), "{error:#}");
    }

    fn named(names: &[&str]) -> Result<Weights> {
        let tensors = names.iter().map(|name| {
            let view = TensorView::new(Dtype::F32, vec![1], &[0, 0, 0x80, 0x3f]).unwrap();
            (*name, view)
        });
        let bytes = safetensors::serialize(tensors, None).unwrap().leak();
        Weights::embedded("m", bytes)
    }

    #[test]
    fn tensors_of_a_wrapped_network_are_found() {
        let weights = named(&["model.roberta.embeddings.x", "model.classifier.y"]).unwrap();
        assert_eq!(
            weights.read(&["roberta.embeddings.x"], &[1]).unwrap(),
            [1.0]
        );
        assert_eq!(weights.read(&["classifier.y"], &[1]).unwrap(), [1.0]);
        let mut tensors: Vec<String> = weights.tensors().map(|(name, _)| name).collect();
        tensors.sort();
        assert_eq!(tensors, ["classifier.y", "roberta.embeddings.x"]);
    }

    #[test]
    fn two_tensors_for_one_place_are_refused() {
        let error = named(&["module.roberta.x", "roberta.x"]).err().unwrap();
        let error = error.to_string();
        assert!(error.contains("`module.roberta.x`") && error.contains("`roberta.x`"));
    }

    #[test]
    fn another_prefix_is_named_beside_the_expected_one() {
        let weights = named(&["transformer.embeddings.x"]).unwrap();
        let missing = |name: &str| weights.read(&[name], &[1]).unwrap_err().to_string();
        let error = missing("roberta.embeddings.x");
        for part in ["`transformer.`", "`roberta.`", "save_pretrained"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(missing("classifier.dense.weight").contains("encoder for embeddings"));
    }
}
