//! Brings the files of one commit into the cache.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hf_hub::api::sync::{ApiError, ApiRepo};
use hf_hub::{CacheRepo, Repo};

use super::super::files::{self, INDEX};
use super::super::progress::{Event, Reporter};
use super::super::{HubModel, Progress};
use super::{Failure, Hub};

/// Attempts in a row that bring no new byte, after which the hub counts as unreachable.
const FRUITLESS_ATTEMPTS: u32 = 5;

/// Pause before the next attempt, times the number of fruitless ones but the first.
const PAUSE: Duration = Duration::from_secs(1);

/// The commit whose files are being brought together.
pub(super) struct Snapshot<'a> {
    hub: &'a Hub<'a>,
    repo: Repo,
    cache: CacheRepo,
    directory: PathBuf,
    progress: Progress,
}

impl<'a> Snapshot<'a> {
    /// # Errors
    /// The cache is not writable. Found here, before the hub could be blamed for it.
    pub(super) fn new(hub: &'a Hub<'a>, commit: &str, progress: Progress) -> Result<Self> {
        let repo = hub.repo(commit);
        let cache = hub.cache.repo(repo.clone());
        let directory = cache.pointer_path(commit);
        for path in [&directory, &cache.blob_path("")] {
            fs::create_dir_all(path).with_context(|| hub.cannot_write())?;
        }
        Ok(Self {
            hub,
            repo,
            cache,
            directory,
            progress,
        })
    }

    /// Where the commit's files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes sure that the index and the shards it names are there; `listing` is all the hub has.
    pub(super) fn get_shards(&self, listing: &HashSet<&str>) -> Result<(), Failure> {
        self.get(INDEX)?;
        let shards = files::shards(&self.directory.join(INDEX))?;
        let absent = |shard: &&String| !listing.contains(shard.as_str());
        if let Some(absent) = shards.iter().find(absent) {
            let HubModel { id, revision } = self.hub.model;
            let error = anyhow!(
                "`{id}` has no shard `{absent}` at revision `{revision}`, which `weight_map` in \
                 {INDEX} names: try another revision"
            );
            return Err(error.into());
        }
        shards.iter().try_for_each(|shard| self.get(shard))
    }

    /// Makes sure that the file `name` is there, with as many attempts as bring it forward.
    pub(super) fn get(&self, name: &str) -> Result<(), Failure> {
        let pointer = self.directory.join(name);
        if pointer.is_file() {
            return Ok(());
        }
        if pointer.is_symlink() {
            // Its blob is gone. `hf-hub` replaces no link, should the new one have another name.
            fs::remove_file(&pointer).with_context(|| self.hub.cannot_write())?;
        }
        let (mut most_kept, mut fruitless) = (0, 0);
        loop {
            let (reason, kept) = match self.attempt(name, &pointer) {
                Err(Failure::Cut { reason, kept }) => (reason, kept),
                outcome => return outcome,
            };
            fruitless = if kept > most_kept { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_ATTEMPTS {
                return Err(Failure::Unreachable(reason));
            }
            tracing::warn!(
                file = name,
                kept_bytes = kept,
                reason,
                "download was cut off"
            );
            most_kept = kept;
            thread::sleep(PAUSE * fruitless.saturating_sub(1));
        }
    }

    /// Tries once to make `pointer` a link to the whole file `name`.
    fn attempt(&self, name: &str, pointer: &Path) -> Result<(), Failure> {
        let blob = self.blob(name)?;
        blob.settle().with_context(|| self.hub.cannot_write())?;
        if !blob.is_whole() {
            self.download(name, &blob)
                .map_err(|failure| match failure {
                    Failure::Cut { reason, .. } => Failure::Cut {
                        reason,
                        kept: blob.kept(),
                    },
                    other => other,
                })?;
        }
        if !blob.is_whole() {
            return Err(self.discard(&blob, pointer));
        }
        if !pointer.is_file() {
            link(&blob, pointer, name).with_context(|| self.hub.cannot_write())?;
        }
        Ok(())
    }

    /// Asks the hub which blob the file `name` is.
    fn blob(&self, name: &str) -> Result<Blob, Failure> {
        let (api, url) = (self.hub.api.clone(), self.api_repo().url(name));
        let metadata = self.watched(name, None, move |_| api.metadata(&url))?;
        let etag = metadata.etag();
        // It becomes the name of a file, with the mark of a weak etag as a directory.
        let bare = etag.strip_prefix("W/").unwrap_or(etag);
        if ["", ".", ".."].contains(&bare) || bare.contains(['/', '\\', ':']) {
            let error = anyhow!("the hub sent the etag `{etag}` for {name}, which is malformed");
            return Err(error.into());
        }
        Ok(Blob {
            path: self.cache.blob_path(etag),
            etag: etag.to_owned(),
            size: metadata.size() as u64,
        })
    }

    /// Downloads the file `name`, going on where an earlier attempt was cut off.
    fn download(&self, name: &str, blob: &Blob) -> Result<(), Failure> {
        let mut reporter = Reporter::new(self.progress, name, blob.kept());
        let (repo, file) = (self.api_repo(), name.to_owned());
        self.watched(name, Some(&mut reporter), move |sink| {
            repo.download_with_progress(&file, sink).map(drop)
        })
    }

    /// Removes a blob of the wrong size, which `hf-hub` does not check.
    fn discard(&self, blob: &Blob, pointer: &Path) -> Failure {
        let reason = format!(
            "the hub sent {} bytes instead of {}",
            length(&blob.path),
            blob.size
        );
        for path in [pointer, &blob.path] {
            if let Err(error) = fs::remove_file(path) {
                return anyhow!(error).context(self.hub.cannot_write()).into();
            }
        }
        Failure::Cut { reason, kept: 0 }
    }

    fn api_repo(&self) -> ApiRepo {
        self.hub.api.repo(self.repo.clone())
    }

    /// Runs a request for the file `name` in a thread of its own and gives up on it when it is
    /// silent for too long: the requests of `hf-hub` have no time limit.
    fn watched<T: Send + 'static>(
        &self,
        name: &str,
        mut reporter: Option<&mut Reporter>,
        request: impl FnOnce(Sink) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, Failure> {
        let timeout = self.hub.settings.timeout;
        let (sender, events) = mpsc::channel();
        let worker = thread::Builder::new()
            .name("download".to_owned())
            .spawn(move || request(Sink(sender)))
            .context("cannot start a thread to download with")?;
        loop {
            match events.recv_timeout(timeout) {
                Ok(event) => {
                    if let Some(reporter) = &mut reporter {
                        reporter.on(&event);
                    }
                }
                // The thread is left behind. It holds the lock, so another attempt would not help.
                Err(RecvTimeoutError::Timeout) => return Err(Failure::silent(name, timeout)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let answer = worker.join();
        let answer = answer.map_err(|_panic| self.hub.unexpected(name, "`hf-hub` panicked"))?;
        answer.map_err(|error| self.hub.failure(error, name))
    }
}

/// Passes on what `hf-hub` reports; once it is dropped the request is over.
struct Sink(Sender<Event>);

impl Sink {
    fn send(&self, event: Event) {
        // Nobody listens any more when the request was given up.
        let _ = self.0.send(event);
    }
}

impl hf_hub::api::Progress for Sink {
    fn init(&mut self, size: usize, _file: &str) {
        self.send(Event::Start(size as u64));
    }

    fn update(&mut self, bytes: usize) {
        self.send(Event::Bytes(bytes as u64));
    }

    fn finish(&mut self) {}
}

/// A file's contents in the cache, which all commits with the same contents share.
struct Blob {
    path: PathBuf,
    /// Its name in the directory of blobs.
    etag: String,
    /// In bytes, as the hub says.
    size: u64,
}

impl Blob {
    fn is_whole(&self) -> bool {
        self.path.is_file() && length(&self.path) == self.size
    }

    /// The name under which `hf-hub` keeps a download that is not complete.
    fn part(&self) -> PathBuf {
        self.path.with_extension("part")
    }

    /// Bytes there from earlier attempts.
    fn kept(&self) -> u64 {
        length(&self.part())
    }

    /// Deals with partial downloads from which `hf-hub` cannot go on: complete and too long ones.
    fn settle(&self) -> io::Result<()> {
        let part = self.part();
        if !part.is_file() || self.kept() < self.size {
            Ok(())
        } else if self.kept() == self.size {
            fs::rename(part, &self.path)
        } else {
            fs::remove_file(part)
        }
    }
}

/// The size of a file in bytes; 0 if there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Makes `pointer` (the file `name` of a snapshot) the blob, by the relative link of the layout.
#[cfg(unix)]
fn link(blob: &Blob, pointer: &Path, name: &str) -> io::Result<()> {
    let up = Path::new(name).components().count() + 1;
    let mut target: PathBuf = std::iter::repeat_n("..", up).collect();
    target.extend(["blobs", &blob.etag]);
    pointer.parent().map_or(Ok(()), fs::create_dir_all)?;
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege elsewhere; a second name for the same file needs none.
#[cfg(not(unix))]
fn link(blob: &Blob, pointer: &Path, _name: &str) -> io::Result<()> {
    pointer.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::hard_link(&blob.path, pointer)
}
