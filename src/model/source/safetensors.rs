//! Whether a file of weights is whole: as long as its own header says.

use std::{
    fs::File,
    io::{Read, Seek as _},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::files::{GIT_LFS_POINTER, check_content};

/// Bytes of a header. Real ones have 40 to 100 KB; the format allows a thousand times that, which
/// would take gigabytes to read.
const MAX_HEADER: u64 = 10_000_000;

/// Checks that a safetensors file is as long as its header says.
///
/// # Errors
/// It is shorter (cut off) or longer, or has no readable header.
pub(super) fn check_whole(path: &Path) -> Result<()> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open `{shown}`"))?;
    let size = file
        .metadata()
        .with_context(|| format!("cannot read the size of `{shown}`"))?
        .len();
    let mut start = Vec::new();
    (&mut file)
        .take(GIT_LFS_POINTER.len() as u64)
        .read_to_end(&mut start)
        .with_context(|| format!("cannot read `{shown}`"))?;
    check_content(&start).with_context(|| format!("cannot use `{shown}`"))?;
    file.rewind()
        .with_context(|| format!("cannot read `{shown}`"))?;
    let expected =
        expected_size(&mut file, size).with_context(|| format!("`{shown}` is damaged"))?;
    ensure!(
        size == expected,
        "`{shown}` is damaged: it has {size} bytes and its header describes {expected}"
    );
    Ok(())
}

/// Size of the header's length field, which every safetensors file starts with.
const LENGTH_FIELD: u64 = 8;

/// The size in bytes that the header of a file of `size` bytes describes.
fn expected_size(file: &mut File, size: u64) -> Result<u64> {
    ensure!(
        size >= LENGTH_FIELD,
        "it has {size} bytes and a safetensors file starts with a header length of {LENGTH_FIELD}"
    );
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let header_size = u64::from_le_bytes(length);
    ensure!(
        header_size <= MAX_HEADER,
        "its header length is {header_size} bytes and the most a safetensors file may have is \
         {MAX_HEADER} here, so it is something else"
    );
    let data_start = LENGTH_FIELD + header_size;
    ensure!(
        data_start <= size,
        "it has {size} bytes and its header alone needs {data_start}"
    );
    let mut header = Vec::new();
    file.take(header_size).read_to_end(&mut header)?;
    let tensors: Map<String, Value> =
        serde_json::from_slice(&header).context("its header is not a JSON object")?;
    let mut data_size = 0;
    for (name, tensor) in tensors.iter().filter(|(name, _)| *name != "__metadata__") {
        let end = tensor
            .get("data_offsets")
            .and_then(|offsets| offsets.get(1));
        let end = end.and_then(Value::as_u64).with_context(|| {
            format!("tensor `{name}` has no `data_offsets` of two numbers in its header")
        })?;
        data_size = data_size.max(end);
    }
    // Offsets near the end of the number range are as wrong as any other and must not wrap.
    Ok(data_start.saturating_add(data_size))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::WEIGHTS;
    use super::*;

    fn safetensors(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn check(bytes: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WEIGHTS);
        fs::write(&path, bytes).unwrap();
        check_whole(&path).map_err(|error| format!("{error:#}"))
    }

    const HEADER: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
        "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;

    #[test]
    fn a_whole_file_passes() {
        check(&safetensors(HEADER, 12)).unwrap();
        check(&safetensors("{}", 0)).unwrap();
    }

    #[test]
    fn a_file_of_another_size_is_named_with_both_sizes() {
        let full = 8 + HEADER.len() + 12;
        for data in [0, 11, 13] {
            let message = check(&safetensors(HEADER, data)).unwrap_err();
            let size = full - 12 + data;
            assert!(message.contains("model.safetensors"), "{message}");
            assert!(message.contains(&format!("{size} bytes")), "{message}");
            assert!(message.contains(&full.to_string()), "{message}");
        }
    }

    #[test]
    fn a_file_cut_inside_its_header_is_named() {
        let bytes = safetensors(HEADER, 12);
        let needed = format!("needs {}", 8 + HEADER.len());
        assert!(check(&bytes[..40]).unwrap_err().contains(&needed));
        assert!(check(&bytes[..5]).unwrap_err().contains("5 bytes"));
        assert!(check(&[]).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let page = check(b"<!doctype html><html></html>").unwrap_err();
        assert!(page.contains("header length"), "{page}");
        let list = check(&safetensors("[1]", 0)).unwrap_err();
        assert!(list.contains("JSON"), "{list}");
        for tensor in [
            r#"{"w":{}}"#,
            r#"{"w":1}"#,
            r#"{"w":{"data_offsets":[0,-4]}}"#,
        ] {
            let message = check(&safetensors(tensor, 4)).unwrap_err();
            assert!(
                message.contains("tensor `w` has no `data_offsets`"),
                "{message}"
            );
        }
        let huge = format!(r#"{{"w":{{"data_offsets":[0,{}]}}}}"#, u64::MAX);
        assert!(
            check(&safetensors(&huge, 4))
                .unwrap_err()
                .contains("describes")
        );
    }

    #[test]
    fn a_header_of_another_size_than_real_ones_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WEIGHTS);
        let mut bytes = (MAX_HEADER + 1).to_le_bytes().to_vec();
        bytes.extend(b"{}");
        fs::write(&path, bytes).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let message = format!("{:#}", check_whole(&path).unwrap_err());
        assert!(message.contains("10000001 bytes"), "{message}");
    }
}
