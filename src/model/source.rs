//! Where a model's files come from: the model in the binary, a directory, or the Hugging Face hub.
//!
//! [`Source::parse`] reads the name a user gave, [`fetch`] turns it into paths of files that are
//! there and whole. Nothing here reads the environment: `config` does, and hands over the values.

mod files;
mod hub;
mod name;
mod progress;
mod safetensors;
mod settings;

use std::path::Path;

use anyhow::{Result, ensure};

pub(super) use self::files::read;
pub use self::{
    files::ModelFiles,
    name::{HubModel, Source},
    progress::Progress,
    settings::{HubSettings, Proxies},
};

/// Finds the files of a model, downloading what the cache lacks. [`Source::Demo`] has none.
///
/// Blocks while it downloads: call it outside an async task.
///
/// # Errors
/// A file is missing or truncated, or the hub refuses, lacks or cannot deliver it; each says which
/// file and what to do.
pub fn fetch(
    source: &Source,
    settings: &HubSettings,
    progress: Progress,
) -> Result<Option<ModelFiles>> {
    match source {
        Source::Demo => Ok(None),
        Source::Directory(path) => directory(path).map(Some),
        Source::Hub(model) => hub::fetch(model, settings, progress).map(Some),
    }
}

fn directory(path: &Path) -> Result<ModelFiles> {
    let shown = path.display();
    ensure!(
        path.exists() || !path.to_string_lossy().starts_with('~'),
        "model directory `{shown}` does not exist: `~` is only expanded by a shell, write the path \
         out"
    );
    ensure!(path.exists(), "model directory `{shown}` does not exist");
    ensure!(
        path.is_dir(),
        "model `{shown}` is a file: give the directory that holds {}",
        files::NEEDED
    );
    let files = files::find(path).map_err(|error| match files::meant_instead_of(path) {
        Some(hint) => error.context(hint),
        None => error,
    })?;
    for weights in &files.weights {
        safetensors::check_whole(weights)?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(model: &str) -> Result<Option<ModelFiles>, String> {
        let source = Source::parse(model, None).unwrap();
        let settings = HubSettings::new("cache");
        fetch(&source, &settings, Progress::Lines).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_demo_has_no_files() {
        assert_eq!(fetched("demo"), Ok(None));
    }

    #[test]
    fn the_files_of_a_directory_are_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let weights = dir.path().join("model.safetensors");
        std::fs::write(&weights, b"\x02\0\0\0\0\0\0\0{}").unwrap();
        let path = dir.path().to_str().unwrap();
        let files = fetched(path).unwrap().unwrap();
        assert_eq!(files.weights, std::slice::from_ref(&weights));
        assert_eq!(files.commit, None);

        std::fs::write(&weights, b"\x02\0\0\0\0\0\0\0{").unwrap();
        let message = fetched(path).unwrap_err();
        assert!(
            message.contains("model.safetensors` is damaged"),
            "{message}"
        );
    }

    #[test]
    fn a_path_that_is_no_directory_is_named() {
        let message = fetched("/no/such/dir").unwrap_err();
        assert_eq!(message, "model directory `/no/such/dir` does not exist");
        assert!(
            fetched("~/no-such-dir")
                .unwrap_err()
                .contains("write the path out")
        );
        assert!(fetched("./Cargo.toml").unwrap_err().contains("is a file"));
    }

    #[test]
    fn a_directory_above_the_one_that_was_meant_has_a_hint() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("hub/models--acme--reranker");
        let snapshot = model.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        for (given, hint) in [
            (model.clone(), &*snapshot),
            (model.join("snapshots"), &*snapshot),
            (home.path().join("hub"), &*home.path().join("hub")),
            (home.path().to_owned(), &*home.path().join("hub")),
        ] {
            let message = fetched(given.to_str().unwrap()).unwrap_err();
            let hint = format!("`{}`", hint.display());
            assert!(message.contains(&hint), "{message}");
            assert!(message.contains("config.json` is missing"), "{message}");
        }
        let message = fetched(snapshot.to_str().unwrap()).unwrap_err();
        assert!(!message.contains("is not the directory"), "{message}");
    }
}
