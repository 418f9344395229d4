//! The tensors of a checkpoint: safetensors files, memory-mapped or embedded, read out as `f32`.

use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use memmap2::{Mmap, UncheckedAdvice};
use rayon::prelude::*;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};

use super::names;

/// All shards of a checkpoint.
pub(super) struct Weights {
    shards: Vec<Shard>,
}

struct Shard {
    /// How messages call it.
    name: String,
    bytes: Bytes,
    metadata: Metadata,
    /// What tensors are called in the file, by the names that transformers gives them.
    names: HashMap<String, String>,
    /// Where the header ends and the data begin.
    data_start: usize,
}

enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }

    /// Tells the kernel that a part has been read for the last time, so that the mapped file and
    /// the converted copy are not both resident.
    #[expect(unsafe_code, reason = "dropping mapped pages")]
    fn release(&self, range: Range<usize>) {
        if let Self::Mapped(map) = self {
            // SAFETY: the map is a read-only view of a file, never written through: a dropped page
            // is read from the file again when somebody looks. Not being able to drop it costs
            // memory, nothing else.
            let _ = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}

impl Weights {
    /// Maps the shards and checks that each is whole.
    pub(super) fn map(paths: &[PathBuf]) -> Result<Self> {
        let shards = paths
            .iter()
            .map(|path| Shard::map(path))
            .collect::<Result<_>>()?;
        Ok(Self { shards })
    }

    /// Wraps a file that is part of this program.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self> {
        let shard = Shard::new(name.to_owned(), Bytes::Embedded(bytes))?;
        Ok(Self {
            shards: vec![shard],
        })
    }

    /// The size of all shards.
    pub(super) fn bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.bytes.as_slice().len())
            .sum()
    }

    /// Every tensor's name and shape.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.shards.iter().flat_map(|shard| {
            let named = |name: &String| Some((name.clone(), shard.info(name)?.shape.clone()));
            shard.names.keys().filter_map(named)
        })
    }

    /// One tensor as `f32`.
    pub(super) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        self.append(name, shape, &mut out)?;
        Ok(out)
    }

    /// Appends one tensor as `f32`, so that several can be joined without another copy.
    pub(super) fn append(&self, name: &str, shape: &[usize], out: &mut Vec<f32>) -> Result<()> {
        let (shard, dtype, range) = self.find(name, shape)?;
        convert(dtype, &shard.bytes.as_slice()[range.clone()], out)
            .with_context(|| format!("{}: tensor `{name}`", shard.name))?;
        shard.bytes.release(range);
        Ok(())
    }

    /// The gain of a layer norm, then its shift.
    pub(super) fn read_norm(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let mut parameters = self.read(&format!("{name}.weight"), &[width])?;
        self.append(&format!("{name}.bias"), &[width], &mut parameters)?;
        Ok(parameters)
    }

    /// One tensor as `f32`, piece by piece in its order; what has been read is let go of.
    #[cfg(feature = "cuda")]
    pub(super) fn for_each_piece(
        &self,
        name: &str,
        shape: &[usize],
        length: usize,
        mut take: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (shard, dtype, range) = self.find(name, shape)?;
        let piece = length * dtype.bitsize() / 8;
        let mut numbers = Vec::new();
        for start in range.clone().step_by(piece) {
            let piece = start..range.end.min(start + piece);
            numbers.clear();
            convert(dtype, &shard.bytes.as_slice()[piece.clone()], &mut numbers)
                .and_then(|()| take(&numbers))
                .with_context(|| format!("{}: tensor `{name}`", shard.name))?;
            shard.bytes.release(piece);
        }
        Ok(())
    }

    /// One large tensor as any type of number, in parallel; what has been read is let go of piece
    /// by piece.
    pub(super) fn read_as<T: Copy + Default + Send>(
        &self,
        name: &str,
        shape: &[usize],
        narrow: fn(&[f32], &mut [T]),
    ) -> Result<Vec<T>> {
        const PIECE: usize = 256 * 1024;
        let (shard, dtype, range) = self.find(name, shape)?;
        let width = dtype.bitsize() / 8;
        let mut out = vec![T::default(); range.len() / width];
        out.par_chunks_mut(PIECE)
            .enumerate()
            .try_for_each(|(i, out)| {
                let start = range.start + i * PIECE * width;
                let piece = start..start + out.len() * width;
                let mut numbers = Vec::new();
                convert(dtype, &shard.bytes.as_slice()[piece.clone()], &mut numbers)
                    .with_context(|| format!("{}: tensor `{name}`", shard.name))?;
                narrow(&numbers, out);
                shard.bytes.release(piece);
                Ok::<_, anyhow::Error>(())
            })?;
        Ok(out)
    }

    /// Where a tensor of this shape lies.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Shard, Dtype, Range<usize>)> {
        let found = self
            .shards
            .iter()
            .find_map(|shard| Some((shard, shard.info(name)?)));
        let Some((shard, info)) = found else {
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
            info.shape == shape,
            "{}: tensor `{name}` has shape {:?}, but config.json asks for {shape:?}",
            shard.name,
            info.shape
        );
        ensure!(
            matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            "{}: tensor `{name}`: its type is {:?}; F32, F16 and BF16 are supported",
            shard.name,
            info.dtype
        );
        let (start, end) = info.data_offsets;
        Ok((
            shard,
            info.dtype,
            shard.data_start + start..shard.data_start + end,
        ))
    }
}

impl Shard {
    #[expect(unsafe_code, reason = "memory-mapping a file")]
    fn map(path: &Path) -> Result<Self> {
        let open = || format!("cannot map {}", path.display());
        let file = File::open(path).with_context(open)?;
        // SAFETY: the map is read-only. Whoever truncates or rewrites the file while the server
        // loads it harms only this process, as with every program that maps its weights; nothing is
        // read from it after loading.
        let map = unsafe { Mmap::map(&file) }.with_context(open)?;
        Self::new(path.display().to_string(), Bytes::Mapped(map))
    }

    fn new(name: String, bytes: Bytes) -> Result<Self> {
        let (header, metadata) =
            SafeTensors::read_metadata(bytes.as_slice()).with_context(|| {
                format!(
                    "{name} is not a whole safetensors file ({} bytes)",
                    bytes.as_slice().len()
                )
            })?;
        let mut canonical = HashMap::new();
        for tensor in metadata.offset_keys() {
            if let Some(other) = canonical.insert(names::canonical(&tensor), tensor.clone()) {
                bail!("{name}: tensors `{tensor}` and `{other}` are the same part of the network");
            }
        }
        Ok(Self {
            name,
            bytes,
            names: canonical,
            metadata,
            // The length of the header is itself stored in the first 8 bytes.
            data_start: header + 8,
        })
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(self.names.get(name)?)
    }
}

/// Appends little-endian floats of any common width to `out`.
fn convert(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) -> Result<()> {
    match dtype {
        Dtype::F32 => {
            out.reserve_exact(bytes.len() / 4);
            out.extend(
                bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            );
        }
        Dtype::F16 => append_half(bytes, f16::from_le_bytes, out, |halves, out| {
            halves.convert_to_f32_slice(out);
        }),
        Dtype::BF16 => append_half(bytes, bf16::from_le_bytes, out, |halves, out| {
            halves.convert_to_f32_slice(out);
        }),
        other => bail!("its type is {other:?}"),
    }
    Ok(())
}

/// Converts a stretch at a time: the bytes need not be aligned, and a whole copy of them would
/// double the memory.
fn append_half<H: Copy>(
    bytes: &[u8],
    from_le: fn([u8; 2]) -> H,
    out: &mut Vec<f32>,
    widen: fn(&[H], &mut [f32]),
) {
    out.reserve_exact(bytes.len() / 2);
    let mut halves = Vec::new();
    for stretch in bytes.chunks(64 * 1024) {
        halves.clear();
        halves.extend(stretch.chunks_exact(2).map(|b| from_le([b[0], b[1]])));
        let start = out.len();
        out.resize(start + halves.len(), 0.0);
        widen(&halves, &mut out[start..]);
    }
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
                weights.read("w", &[3]).unwrap(),
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
            let error = format!("{:#}", weights.read(name, &shape).unwrap_err());
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
        let first = mapped.read("w", &[5000]).unwrap();
        assert_eq!(first, mapped.read("w", &[5000]).unwrap());
        assert_eq!(
            first,
            Weights::embedded("m", whole)
                .unwrap()
                .read("w", &[5000])
                .unwrap()
        );
    }

    #[test]
    fn a_type_narrower_than_a_byte_is_refused() {
        let four_bits = file(Dtype::F4, &[0; 8], vec![16]);
        let weights = Weights::embedded("m", four_bits).unwrap();
        let narrow: fn(&[f32], &mut [f32]) = |_, _| {};
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
        assert_eq!(weights.read("roberta.embeddings.x", &[1]).unwrap(), [1.0]);
        assert_eq!(weights.read("classifier.y", &[1]).unwrap(), [1.0]);
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
        let missing = |name| weights.read(name, &[1]).unwrap_err().to_string();
        let error = missing("roberta.embeddings.x");
        for part in ["`transformer.`", "`roberta.`", "save_pretrained"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(missing("classifier.dense.weight").contains("encoder for embeddings"));
    }
}
