//! What a checkpoint is known by among machines: a digest of its configuration and its weights.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};

use super::{demo, source::ModelFiles};

/// The digest of the files of a model; of the embedded one if there are none. It takes reading all
/// weights, at 1 to 3 GB a second once they are in memory.
pub(super) fn of(files: Option<&ModelFiles>) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    match files {
        None => {
            add(&mut hasher, blake3::hash(demo::CONFIG));
            add(&mut hasher, blake3::hash(demo::WEIGHTS));
        }
        Some(files) => {
            for file in [&files.config].into_iter().chain(&files.weights) {
                add(&mut hasher, of_file(file)?);
            }
        }
    }
    Ok(hasher.finalize().into())
}

/// Digests have one length, so that no file can pass for the end of another.
fn add(hasher: &mut blake3::Hasher, digest: blake3::Hash) {
    hasher.update(digest.as_bytes());
}

fn of_file(path: &Path) -> Result<blake3::Hash> {
    let cannot_read = || format!("cannot read `{}`", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let mut hasher = blake3::Hasher::new();
    // Read, not mapped: mapped pages would count as this program's memory.
    hasher.update_reader(file).with_context(cannot_read)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_fingerprint_tells_weights_and_configurations_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = ModelFiles {
            config: path("config.json"),
            tokenizer: path("tokenizer.json"),
            weights: vec![path("1.safetensors"), path("2.safetensors")],
            commit: None,
        };
        let with = |config: &str, one: &str, two: &str| {
            fs::write(&files.config, config).unwrap();
            fs::write(&files.weights[0], one).unwrap();
            fs::write(&files.weights[1], two).unwrap();
            of(Some(&files)).unwrap()
        };
        let reference = with("{}", "ab", "c");
        assert_eq!(reference, with("{}", "ab", "c"));
        for other in [
            with("{ }", "ab", "c"),
            with("{}", "a", "bc"),
            with("{}", "c", "ab"),
        ] {
            assert_ne!(reference, other);
        }
        assert_ne!(of(None).unwrap(), reference);
        fs::remove_file(&files.weights[1]).unwrap();
        let error = of(Some(&files)).unwrap_err().to_string();
        assert!(
            error.contains("cannot read") && error.contains("2.safetensors"),
            "{error}"
        );
    }
}
