//! Where a model's files come from: the model in the binary, a directory, or the Hugging Face hub.
//!
//! [`Source::parse`] reads the name a user gave, [`fetch`] turns it into paths of files that are
//! there and whole. Nothing here reads the environment: `config` does, and hands over the values.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

mod files;
mod hub;
mod progress;
mod safetensors;

pub(super) use files::read;
pub use progress::Progress;

/// The revision of a hub model when none is given.
const DEFAULT_REVISION: &str = "main";

/// What a model name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The small model inside the binary; it has no files.
    Demo,
    /// A directory with `config.json`, `tokenizer.json` and safetensors weights.
    Directory(PathBuf),
    /// A model on the Hugging Face hub, or in its local cache.
    Hub(HubModel),
}

/// A model on the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// Owner and name, such as `BAAI/bge-reranker-v2-m3`.
    pub id: String,
    /// A branch, a tag, a commit, or a reference such as `refs/pr/1`.
    pub revision: String,
}

/// How the hub is reached and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// The hub's address (`HF_ENDPOINT`); the public hub if absent.
    pub endpoint: Option<String>,
    /// The access token (`HF_TOKEN`).
    pub token: Option<String>,
    /// Where a login may have left a token (`HF_TOKEN_PATH`), for when none was given.
    pub token_file: Option<PathBuf>,
    /// The cache directory (`HF_HUB_CACHE`), in the layout that all of the hub's clients share.
    pub cache_dir: PathBuf,
    /// Use the cache alone (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// How long the hub may stay silent before it counts as unreachable
    /// (`HF_HUB_DOWNLOAD_TIMEOUT`).
    pub timeout: Duration,
    /// How long all questions to the hub may take together when the cache has a complete copy
    /// (`HF_HUB_ETAG_TIMEOUT`).
    pub question_timeout: Duration,
    /// How the hub is reached where it is not reached directly.
    pub proxies: Proxies,
}

/// Proxies by scheme; an address may have user and password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The proxy for addresses that start with https (`HTTPS_PROXY`, `ALL_PROXY`).
    pub https: Option<String>,
    /// The proxy for addresses that start with http (`HTTP_PROXY`, `ALL_PROXY`).
    pub http: Option<String>,
    /// Hosts that are reached directly (`NO_PROXY`).
    pub except: String,
}

impl HubSettings {
    /// The [`timeout`](Self::timeout) for when there is no reason for another one.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    /// The [`question_timeout`](Self::question_timeout) likewise.
    pub const DEFAULT_QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

    /// Settings for the public hub, online, without a token of their own.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: None,
            token: None,
            token_file: None,
            cache_dir: cache_dir.into(),
            offline: false,
            timeout: Self::DEFAULT_TIMEOUT,
            question_timeout: Self::DEFAULT_QUESTION_TIMEOUT,
            proxies: Proxies::default(),
        }
    }
}

/// Leaves out the token and passwords, so that settings can be logged.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("token_file", &self.token_file)
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .field("timeout", &self.timeout)
            .field("question_timeout", &self.question_timeout)
            .finish_non_exhaustive()
    }
}

/// The files of one model. Each existed, and each weights file was whole, when [`fetch`] returned.
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

impl Source {
    /// Reads a model name: `demo`, a directory (an existing one, or anything that starts with `/`,
    /// `./`, `../` or `~`), or a hub id. An empty `revision` counts as none.
    ///
    /// # Errors
    /// The name is none of these, or a revision is malformed or given without a hub id.
    pub fn parse(model: &str, revision: Option<&str>) -> Result<Self> {
        let revision = revision.filter(|revision| !revision.is_empty());
        let source = if model == "demo" {
            Self::Demo
        } else if is_directory(model) {
            Self::Directory(model.into())
        } else if is_hub_id(model) {
            return HubModel::new(model, revision.unwrap_or(DEFAULT_REVISION)).map(Self::Hub);
        } else {
            bail!(
                "model `{model}` is not known: give a hub id such as `BAAI/bge-reranker-v2-m3`, an \
                 existing directory (or a path that starts with `/`, `./` or `../`), or `demo`"
            );
        };
        match revision {
            Some(revision) => bail!(
                "revision `{revision}` needs a model of the hub and `{model}` is none: remove the \
                 revision, or give a hub id such as `BAAI/bge-reranker-v2-m3`"
            ),
            None => Ok(source),
        }
    }
}

impl HubModel {
    fn new(id: &str, revision: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
        ensure!(
            revision.chars().all(allowed)
                && !revision.starts_with('/')
                && !revision.ends_with('/')
                && !revision.contains("..")
                && !revision.contains("//"),
            "revision `{revision}` is malformed: give a branch, a tag, a commit, or a reference \
             such as `refs/pr/1`"
        );
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

fn is_directory(model: &str) -> bool {
    ["/", "./", "../", "~"]
        .iter()
        .any(|prefix| model.starts_with(prefix))
        || Path::new(model).is_dir()
}

/// The hub's own rules, which also keep an id from leaving the cache directory.
fn is_hub_id(model: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.len() <= 96
            && !part.contains("..")
            && !part.contains("--")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    model
        .split_once('/')
        .is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

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

    fn hub(id: &str, revision: &str) -> Source {
        Source::Hub(HubModel {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }

    fn parse_error(model: &str, revision: Option<&str>) -> String {
        Source::parse(model, revision).unwrap_err().to_string()
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(Source::parse("demo", None).unwrap(), Source::Demo);
        assert_eq!(
            Source::parse("BAAI/bge-reranker-v2-m3", None).unwrap(),
            hub("BAAI/bge-reranker-v2-m3", "main")
        );
        for path in ["/models/x", "./x", "../x", "~/x", "/no/such/dir"] {
            let parsed = Source::parse(path, None).unwrap();
            assert_eq!(parsed, Source::Directory(path.into()));
        }
    }

    #[test]
    fn an_existing_directory_wins_over_a_hub_id() {
        // Tests run in the package's root, where this directory is.
        let parsed = Source::parse("src/model", None).unwrap();
        assert_eq!(parsed, Source::Directory("src/model".into()));
    }

    #[test]
    fn other_names_are_refused_with_what_is_accepted() {
        for name in ["", "gpt2", "a/b/c", "a/", "a/b--c", "a/..", "a b/c"] {
            let message = parse_error(name, None);
            assert!(message.contains(&format!("`{name}`")), "{message}");
            assert!(message.contains("hub id") && message.contains("`demo`"));
        }
        assert!(parse_error("https://hub.example/a/b", None).contains("hub id"));
    }

    #[test]
    fn a_revision_is_kept_for_a_hub_id_only() {
        let parse = |revision| Source::parse("a/b", Some(revision)).unwrap();
        assert_eq!(parse("refs/pr/1"), hub("a/b", "refs/pr/1"));
        assert_eq!(parse(""), hub("a/b", "main"));
        assert!(parse_error("demo", Some("v1")).contains("revision `v1`"));
        assert!(parse_error("./x", Some("v1")).contains("revision `v1`"));
    }

    #[test]
    fn malformed_revisions_are_refused() {
        for revision in ["../x", "/x", "x/", "a//b", "a?b", "a b", "a#b", "ä"] {
            let message = parse_error("a/b", Some(revision));
            assert!(message.contains(revision), "{message}");
        }
    }

    #[test]
    fn settings_hide_the_token() {
        let mut settings = HubSettings::new("cache");
        settings.token = Some("hf_secret".to_owned());
        let shown = format!("{settings:?}");
        assert!(shown.contains("hidden") && !shown.contains("hf_secret"));
    }

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
