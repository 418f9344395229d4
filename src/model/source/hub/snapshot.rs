//! Brings the files of one commit into the cache.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{Read, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use ureq::http::Uri;

use super::{
    super::{
        files::{self, INDEX, MAX_WEIGHTS},
        name::HubModel,
        progress::{Event, Progress, Reporter},
    },
    blob::{Blob, Lock},
    cache,
    client::{Answer, header},
    failure::Failure,
    session::Hub,
    values::{Commit, Etag, excerpt},
};

/// Pause before the next attempt, times the number of fruitless ones but the first.
const PAUSE: Duration = Duration::from_secs(1);

/// A download that brings fewer bytes a second counts as silent.
const MIN_RATE: u64 = 1024;

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

/// The commit whose files are being brought together.
pub(super) struct Snapshot<'a> {
    hub: &'a Hub<'a>,
    commit: Commit,
    directory: PathBuf,
    progress: Progress,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(hub: &'a Hub<'a>, commit: Commit, progress: Progress) -> Self {
        Self {
            hub,
            directory: hub.cache.snapshot(&commit),
            commit,
            progress,
        }
    }

    /// Where the commit's files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes sure that the index and the shards it names are there; `listing` is all the hub has.
    pub(super) fn get_shards(&self, listing: &HashSet<&str>) -> Result<(), Failure> {
        self.get(INDEX, files::limit(INDEX))?;
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
        let mut left = MAX_WEIGHTS;
        for shard in &shards {
            self.get(shard, left)?;
            let file = fs::metadata(self.directory.join(shard));
            left = left.saturating_sub(file.map_or(0, |file| file.len()));
        }
        Ok(())
    }

    /// Makes sure that the file `name`, of `limit` bytes at most, is there, with as many attempts
    /// as bring it forward.
    pub(super) fn get(&self, name: &str, limit: u64) -> Result<(), Failure> {
        let pointer = self.directory.join(name);
        if pointer.is_file() {
            return self
                .hub
                .cache
                .check_inside(&pointer)
                .map_err(Failure::Final);
        }
        for path in [&self.directory, &self.hub.cache.blobs()] {
            // Found here, before the hub could be blamed for it.
            fs::create_dir_all(path).with_context(|| self.hub.cannot_write())?;
        }
        if pointer.is_symlink() {
            // The blob that the link leads to is gone.
            fs::remove_file(&pointer).with_context(|| self.hub.cannot_write())?;
        }
        let (mut most_kept, mut fruitless) = (0, 0);
        loop {
            let (reason, kept) = match self.attempt(name, limit, &pointer) {
                Err(Failure::Cut { reason, kept }) => (reason, kept),
                outcome => return outcome,
            };
            fruitless = if kept > most_kept { 0 } else { fruitless + 1 };
            if fruitless >= self.hub.fruitless_attempts {
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
    fn attempt(&self, name: &str, limit: u64, pointer: &Path) -> Result<(), Failure> {
        let blob = self.blob(name, limit)?;
        if !blob.is_whole() {
            self.download(name, &blob)?;
        }
        cache::link(&blob.etag, pointer, name).with_context(|| self.hub.cannot_write())?;
        Ok(())
    }

    /// Asks the hub which blob the file `name` is.
    fn blob(&self, name: &str, limit: u64) -> Result<Blob, Failure> {
        let url = self.url(name)?;
        let range = "bytes=0-0";
        let answer = self.hub.client.describe(&url, range, self.hub.limits)?;
        self.check_status(&answer, name)?;
        let headers = answer.headers();
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let etag = etag.ok_or_else(|| self.hub.unexpected(name, "without an etag"))?;
        let etag =
            Etag::parse(etag).map_err(|error| self.hub.unexpected(name, &format!("{error:#}")))?;
        let size = match header(headers, "x-linked-size") {
            Some(size) => size.parse().ok(),
            None if answer.status().is_redirection() => {
                let answer = self.hub.client.get(&url, Some(range), self.hub.limits)?;
                self.check_status(&answer, name)?;
                size(&answer)
            }
            None => size(&answer),
        };
        let size = size.ok_or_else(|| self.hub.unexpected(name, "without the file's size"))?;
        self.check_size(name, size, limit)?;
        Ok(Blob::new(self.hub.cache.blobs(), etag, size))
    }

    fn check_size(&self, name: &str, size: u64, limit: u64) -> Result<()> {
        ensure!(
            size > 0,
            "`{}` says that {name} of `{}` is empty: try another revision",
            self.hub.endpoint,
            self.hub.model.id
        );
        ensure!(
            size <= limit,
            "`{}` says that {name} of `{}` has {size} bytes, and {limit} are the most that it may \
             have: check the model and the hub's address (HF_ENDPOINT)",
            self.hub.endpoint,
            self.hub.model.id
        );
        Ok(())
    }

    fn check_status(&self, answer: &Answer, name: &str) -> Result<(), Failure> {
        let status = answer.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        Err(self.hub.refusal(status.as_u16(), None, Some(name)))
    }

    /// Downloads the file `name`, going on where an earlier attempt was cut off.
    fn download(&self, name: &str, blob: &Blob) -> Result<(), Failure> {
        let cannot_write = || self.hub.cannot_write();
        let _lock = match blob.lock().with_context(cannot_write)? {
            Lock::HeldElsewhere(path) => {
                let error = anyhow!(
                    "another process is downloading {name} into the same cache (it holds `{}`): \
                     start again when it is done",
                    path.display()
                );
                return Err(error.into());
            }
            held @ Lock::Held(_) => held,
        };
        blob.settle().with_context(cannot_write)?;
        if blob.is_whole() {
            return Ok(());
        }
        if let Some(excess) = blob.excess() {
            let error = anyhow!("the disk lacks {excess} bytes for {name}");
            return Err(error.context(self.hub.cannot_write()).into());
        }
        let kept = |failure| match failure {
            Failure::Cut { reason, .. } => Failure::Cut {
                reason,
                kept: blob.kept(),
            },
            other => other,
        };
        self.fill(name, blob).map_err(kept)?;
        blob.settle().with_context(cannot_write)?;
        Ok(())
    }

    /// Adds what is missing to the part of the blob that is there.
    fn fill(&self, name: &str, blob: &Blob) -> Result<(), Failure> {
        let kept = blob.kept();
        let range = format!("bytes={kept}-");
        let url = self.url(name)?;
        let answer = self
            .hub
            .client
            .get(&url, Some(&range), self.hub.limits.in_pieces())?;
        self.check_status(&answer, name)?;
        // A server that does not know ranges sends all of it.
        let start = if answer.status() == 206 { kept } else { 0 };
        self.check_part(&answer, name, (start, blob.size))?;
        let part = File::options()
            .create(true)
            .append(start > 0)
            .write(true)
            .truncate(start == 0)
            .open(blob.part())
            .with_context(|| self.hub.cannot_write())?;
        let mut reporter = Reporter::new(self.progress, name, start);
        reporter.on(&Event::Start(blob.size));
        reporter.on(&Event::Bytes(start));
        self.copy(
            answer.into_body().into_reader(),
            part,
            (name, blob.size - start),
            &mut reporter,
        )
    }

    /// Checks that the hub is about to send what it described: the bytes from `start` to `size`.
    fn check_part(
        &self,
        answer: &Answer,
        name: &str,
        (start, size): (u64, u64),
    ) -> Result<(), Failure> {
        let described = match header(answer.headers(), "content-range") {
            Some(range) if answer.status() == 206 => {
                let expected = [
                    format!("bytes {start}-{}/{size}", size.saturating_sub(1)),
                    format!("bytes {start}-{}/*", size.saturating_sub(1)),
                ];
                expected.iter().any(|expected| expected == range)
            }
            _ => match header(answer.headers(), "content-length") {
                Some(length) => length.parse() == Ok(size - start),
                None => true,
            },
        };
        if described {
            return Ok(());
        }
        let header = |name| header(answer.headers(), name).map_or("none".to_owned(), excerpt);
        let reason = format!(
            "it described {size} bytes and sends others, content-range {}, content-length {}",
            header("content-range"),
            header("content-length")
        );
        Err(self.hub.unexpected(name, &reason).into())
    }

    /// Copies `expected` bytes and no more.
    fn copy(
        &self,
        mut body: impl Read,
        mut part: File,
        (name, expected): (&str, u64),
        reporter: &mut Reporter,
    ) -> Result<(), Failure> {
        let silence = self.hub.limits.silence;
        let mut piece = vec![0; PIECE];
        let (mut done, mut watched, mut since) = (0, 0, Instant::now());
        loop {
            let read = body
                .read(&mut piece)
                .map_err(|error| Failure::of_body(&error, name, silence))?;
            if read == 0 {
                break;
            }
            let read = read as u64;
            if done + read > expected {
                let reason = format!("it sends more than the {expected} bytes that it described");
                return Err(self.hub.unexpected(name, &reason).into());
            }
            part.write_all(&piece[..usize::try_from(read).unwrap_or(PIECE)])
                .with_context(|| self.hub.cannot_write())?;
            reporter.on(&Event::Bytes(read));
            done += read;
            watched += read;
            if since.elapsed() >= silence {
                if watched < MIN_RATE * silence.as_secs() {
                    return Err(Failure::silent(name, silence));
                }
                (watched, since) = (0, Instant::now());
            }
        }
        if done < expected {
            let reason = format!("the hub sent {done} bytes instead of {expected}");
            return Err(Failure::cut(&reason));
        }
        Ok(())
    }

    fn url(&self, name: &str) -> Result<Uri> {
        let (endpoint, id) = (&self.hub.address, &self.hub.model.id);
        let commit = self.commit.as_str();
        format!("{endpoint}/{id}/resolve/{commit}/{name}")
            .parse()
            .with_context(|| format!("{name} cannot be part of an address"))
    }
}

/// The size of the whole file, of which an answer has the first byte or all.
fn size(answer: &Answer) -> Option<u64> {
    let headers = answer.headers();
    if answer.status() == 206 {
        let range = header(headers, "content-range")?;
        return range.rsplit_once('/')?.1.parse().ok();
    }
    header(headers, "content-length")?.parse().ok()
}
