//! One model in the cache, in the layout that all of the hub's clients share: `blobs` are the
//! contents by etag, `snapshots/<commit>` has a link to a blob for each file, and `refs/<revision>`
//! holds the commit that a revision stood for last. `hf-hub` knows the layout.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use hf_hub::{CacheRepo, Repo, RepoType};

use super::{
    super::name::HubModel,
    values::{Commit, Etag},
};

/// Bytes that are read of a reference: more than any commit has, so that a large file in its
/// place is not read whole.
const MAX_REFERENCE: u64 = 1024;

/// Why a model that was never downloaded is not complete.
pub(super) const NOTHING: &str = "nothing of it is there";

pub(super) struct Cache {
    /// The directory of all models.
    root: PathBuf,
    /// The directory of this model.
    model: PathBuf,
    layout: CacheRepo,
}

impl Cache {
    pub(super) fn new(root: &Path, model: &HubModel) -> Self {
        let (id, revision) = (model.id.clone(), model.revision.clone());
        let repo = Repo::with_revision(id, RepoType::Model, revision);
        Self {
            root: root.to_owned(),
            model: root.join(repo.folder_name()),
            layout: hf_hub::Cache::new(root.to_owned()).repo(repo),
        }
    }

    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.layout.pointer_path(commit.as_str())
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.model.join("blobs")
    }

    /// The commit that `revision` stood for last.
    pub(super) fn commit(&self, revision: &str) -> Result<Commit> {
        // A commit has no reference of its own, it is the name of a snapshot.
        if Commit::is_full(revision) {
            return Commit::parse(revision);
        }
        let path = self.reference(revision);
        let file = File::open(&path).context(NOTHING)?;
        let mut text = String::new();
        file.take(MAX_REFERENCE)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        Commit::parse(text.trim())
            .with_context(|| format!("delete `{}`, which is damaged", path.display()))
    }

    /// Records the commit that `revision` stands for. What is right already is left untouched, as
    /// the cache may be read-only.
    pub(super) fn set_commit(&self, revision: &str, commit: &Commit) -> io::Result<()> {
        if self.commit(revision).is_ok_and(|known| known == *commit) {
            return Ok(());
        }
        self.layout.create_ref(commit.as_str())
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.model.join("refs").join(revision)
    }

    /// Checks that a file of a snapshot is in the cache. Whoever else can write there could make
    /// it a link to any file of this machine.
    pub(super) fn check_inside(&self, file: &Path) -> Result<()> {
        let real =
            fs::canonicalize(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        // The operator may have made the model's own directories links to another disk.
        let inside = [self.root.clone(), self.model.clone(), self.blobs()]
            .iter()
            .filter_map(|dir| fs::canonicalize(dir).ok())
            .any(|dir| real.starts_with(dir));
        ensure!(
            inside,
            "`{}` is a link to `{}`, which is outside the cache: delete the link, then the file is \
             downloaded again",
            file.display(),
            real.display()
        );
        Ok(())
    }
}

/// Makes `pointer` (the file `name` of a snapshot) a link to the blob, relative as in the layout.
pub(super) fn link(etag: &Etag, pointer: &Path, name: &str) -> io::Result<()> {
    let up = Path::new(name).components().count() + 1;
    let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
    target.extend(["blobs", etag.as_str()]);
    pointer.parent().map_or(Ok(()), fs::create_dir_all)?;
    match std::os::unix::fs::symlink(target, pointer) {
        // Another process that downloaded the same was faster.
        Err(_) if pointer.is_file() => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_another_process_has_made_is_as_good() {
        let model = tempfile::tempdir().unwrap();
        let etag = Etag::parse("abc").unwrap();
        fs::create_dir(model.path().join("blobs")).unwrap();
        fs::write(model.path().join("blobs/abc"), "contents").unwrap();
        let pointer = model.path().join("snapshots/1/parts/x");
        for _ in 0..2 {
            link(&etag, &pointer, "parts/x").unwrap();
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "contents");
        }
    }
}
