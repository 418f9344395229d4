//! What the name of a model stands for.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

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
}
