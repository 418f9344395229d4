//! What belongs to a model in a directory, and how much of it is read.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::Value;

/// The files of one model. Each existed, and each weights file was whole, when the model was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// `model.safetensors`, or all shards in the order of their names.
    pub weights: Vec<PathBuf>,
    /// The hub's commit that the files are of; none for a directory.
    pub commit: Option<String>,
}

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// All of the above in words, for messages.
pub(super) const NEEDED: &str = "config.json, tokenizer.json and model.safetensors (or \
                                 model.safetensors.index.json with its shards)";

/// Bytes of all weights together: four times the largest XLM-RoBERTa in f32.
pub(super) const MAX_WEIGHTS: u64 = 160 << 30;

/// Shards of one model.
const MAX_SHARDS: usize = 1000;

/// What Git leaves in place of a large file.
pub(super) const GIT_LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The bytes that a file other than weights may have: a few times those of the largest known.
pub(super) fn limit(name: &str) -> u64 {
    match name {
        TOKENIZER => 64 << 20,
        INDEX => 16 << 20,
        _ => 1 << 20,
    }
}

/// Reads a file that is read whole: not the weights.
///
/// # Errors
/// It is larger than such a file may be, or is none.
pub(in crate::model) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let limit = limit(&name);
    let cannot_read = || format!("cannot read `{shown}`");
    let mut bytes = Vec::new();
    File::open(path)
        .with_context(cannot_read)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(cannot_read)?;
    ensure!(
        bytes.len() as u64 <= limit,
        "`{shown}` has more than {limit} bytes, the most that a {name} may have: it is something \
         else"
    );
    check_content(&bytes).with_context(|| format!("cannot use `{shown}`"))?;
    Ok(bytes)
}

/// Tells what is often in the place of a file, by its first bytes.
pub(super) fn check_content(start: &[u8]) -> Result<()> {
    ensure!(!start.is_empty(), "it is empty: copy or download it again");
    ensure!(
        !start.starts_with(GIT_LFS_POINTER),
        "it is a pointer of Git LFS and not the file itself: run `git lfs pull` in the repository \
         it is from, or download the file"
    );
    Ok(())
}

/// Finds the files of a model in `dir`; the contents of the weights are not looked at.
pub(super) fn find(dir: &Path) -> Result<ModelFiles> {
    Ok(ModelFiles {
        config: existing(dir, CONFIG)?,
        tokenizer: existing(dir, TOKENIZER)?,
        weights: weights(dir)?,
        commit: None,
    })
}

/// What the user who gave `dir`, which is no model, may have meant: the cache of the hub has its
/// models some directories down.
pub(super) fn meant_instead_of(dir: &Path) -> Option<String> {
    if dir.join(CONFIG).exists() {
        return None;
    }
    let shown = dir.display();
    let snapshots = dir.join("snapshots");
    if let Some(model) = [dir, &snapshots]
        .into_iter()
        .flat_map(directories)
        .find(|model| model.join(CONFIG).is_file())
    {
        return Some(format!(
            "`{shown}` is not the directory of a model, but `{}` is one: give that as the model",
            model.display()
        ));
    }
    let cache = [dir.to_owned(), dir.join("hub")]
        .into_iter()
        .find(|cache| {
            directories(cache)
                .iter()
                .any(|entry| is_model_in_cache(entry))
        })?;
    Some(format!(
        "`{shown}` is not the directory of a model: set HF_HUB_CACHE to `{}`, where models of the hub \
         are kept, and give a name such as `BAAI/bge-reranker-v2-m3` as the model",
        cache.display()
    ))
}

fn is_model_in_cache(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("models--")
}

/// The directories in `dir` in the order of their names, some of them if there are very many.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().into_iter().flatten().take(1000).flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_dir());
    paths.sort();
    paths
}

fn existing(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "`{}` is missing: a model needs {NEEDED}",
        path.display()
    );
    Ok(path)
}

fn weights(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join(WEIGHTS);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = dir.join(INDEX);
    if !index.is_file() {
        let pytorch = dir.join("pytorch_model.bin").is_file()
            || dir.join("pytorch_model.bin.index.json").is_file();
        return Err(no_weights(&dir.display().to_string(), pytorch));
    }
    let shard = |name: String| {
        let path = dir.join(&name);
        ensure!(
            path.is_file(),
            "shard `{}` is missing, which `weight_map` in {INDEX} names: copy or download it",
            path.display()
        );
        Ok(path)
    };
    shards(&index)?.into_iter().map(shard).collect()
}

/// The error for a model (a directory or a hub id) without safetensors weights.
pub(super) fn no_weights(model: &str, has_pytorch: bool) -> Error {
    if has_pytorch {
        anyhow!(
            "`{model}` has pytorch_model.bin but not {WEIGHTS}, and only safetensors is read: \
             convert it with Python's transformers, \
             `AutoModelForSequenceClassification.from_pretrained(\"{model}\")\
             .save_pretrained(\"converted\")`, copy {TOKENIZER} there too, and give that directory \
             as the model"
        )
    } else {
        anyhow!("`{model}` has neither {WEIGHTS} nor {INDEX}: a model needs {NEEDED}")
    }
}

/// The shards that the index at `path` names, each once and in order.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>> {
    let shown = path.display();
    let text = read(path)?;
    let index: Value =
        serde_json::from_slice(&text).with_context(|| format!("`{shown}` is not valid JSON"))?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .with_context(|| {
            format!("`{shown}` has no `weight_map` that names the shard of each tensor")
        })?;
    let shards: BTreeSet<String> = map
        .iter()
        .map(|(tensor, shard)| {
            shard
                .as_str()
                .filter(|shard| is_shard_name(shard))
                .map(str::to_owned)
                .with_context(|| {
                    format!(
                        "`{shown}` names {shard} in `weight_map` for tensor `{tensor}`: it must be \
                         a .safetensors file inside the model's directory"
                    )
                })
        })
        .collect::<Result<_>>()?;
    ensure!(
        shards.len() <= MAX_SHARDS,
        "`{shown}` names {} shards, and {MAX_SHARDS} are the most that a model may have",
        shards.len()
    );
    Ok(shards)
}

/// An index may come from anyone, so a shard must not lead out of the model's directory, nor to
/// another address of the hub.
fn is_shard_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+=".contains(c);
        !part.starts_with('.') && (1..=255).contains(&part.len()) && part.chars().all(allowed)
    };
    let is_weights = Path::new(name)
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    is_weights && name.len() <= 1024 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::{super::safetensors, *};

    fn model(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let dir = model(files);
        let files = find(dir.path()).map_err(|error| format!("{error:#}"))?;
        let relative = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().to_owned();
        let shown = |path| relative(path).display().to_string();
        Ok(files.weights.iter().map(shown).collect())
    }

    #[test]
    fn a_directory_with_one_file_of_weights_is_found() {
        let weights = found(&[(CONFIG, ""), (TOKENIZER, ""), (WEIGHTS, ""), (INDEX, "")]);
        assert_eq!(weights.unwrap(), [WEIGHTS]);
    }

    #[test]
    fn shards_are_found_once_and_in_order() {
        let index =
            r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
        let weights = found(&[
            (CONFIG, ""),
            (TOKENIZER, ""),
            (INDEX, index),
            ("1.safetensors", ""),
            ("2.safetensors", ""),
        ]);
        assert_eq!(weights.unwrap(), ["1.safetensors", "2.safetensors"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let index = r#"{"weight_map":{"a":"1.safetensors"}}"#;
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "config.json` is missing"),
            (&[(CONFIG, "")], "tokenizer.json` is missing"),
            (
                &[(CONFIG, ""), (TOKENIZER, "")],
                "neither model.safetensors",
            ),
            (
                &[(CONFIG, ""), (TOKENIZER, ""), (INDEX, index)],
                "1.safetensors` is missing",
            ),
        ];
        for (files, expected) in cases {
            let message = found(files).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn pytorch_weights_come_with_how_to_convert_them() {
        for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
            let message = found(&[(CONFIG, ""), (TOKENIZER, ""), (name, "")]).unwrap_err();
            assert!(message.contains("not model.safetensors"), "{message}");
            assert!(message.contains("save_pretrained"), "{message}");
        }
    }

    #[test]
    fn shards_outside_the_directory_are_refused() {
        for shard in [
            "../x.safetensors",
            "/x.safetensors",
            "a\\\\x.safetensors",
            "x.bin",
            "",
        ] {
            let index = format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#);
            let message = found(&[(CONFIG, ""), (TOKENIZER, ""), (INDEX, &index)]).unwrap_err();
            assert!(
                message.contains("inside the model's directory"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_index_without_shards_is_refused() {
        for index in ["{}", r#"{"weight_map":{}}"#, r#"{"weight_map":[]}"#, "[]"] {
            let message = found(&[(CONFIG, ""), (TOKENIZER, ""), (INDEX, index)]).unwrap_err();
            assert!(message.contains("no `weight_map`"), "{message}");
        }
        let message = found(&[(CONFIG, ""), (TOKENIZER, ""), (INDEX, "{")]).unwrap_err();
        assert!(message.contains("not valid JSON"), "{message}");
    }

    #[test]
    fn files_that_are_read_whole_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for name in [CONFIG, TOKENIZER, INDEX] {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(limit(name)).unwrap();
            assert!(read(&path).is_ok());
            // A file with a hole, which takes no room on the disk.
            file.set_len(1 << 40).unwrap();
            let message = format!("{:#}", read(&path).unwrap_err());
            assert!(message.contains("more than"), "{message}");
        }
    }

    #[test]
    fn pointers_of_git_lfs_and_empty_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG);
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid").unwrap();
        let weights = format!("{:#}", safetensors::check_whole(&path).unwrap_err());
        let config = format!("{:#}", read(&path).unwrap_err());
        assert_eq!(weights, config);
        assert!(config.contains("config.json`: it is a pointer of Git LFS"));
        assert!(config.contains("git lfs pull"), "{config}");
        fs::write(&path, "").unwrap();
        let message = format!("{:#}", read(&path).unwrap_err());
        assert!(message.contains("config.json`: it is empty"), "{message}");
    }
}
