//! A file's contents in the cache, which all commits with the same contents share.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::values::Etag;

/// How often another process is waited for, and how long each time.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Blob {
    pub(super) etag: Etag,
    /// The size in bytes, as the hub says.
    pub(super) size: u64,
    directory: PathBuf,
}

impl Blob {
    pub(super) fn new(directory: PathBuf, etag: Etag, size: u64) -> Self {
        Self {
            etag,
            size,
            directory,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.path().is_file() && length(&self.path()) == self.size
    }

    /// Bytes that are there from earlier attempts.
    pub(super) fn kept(&self) -> u64 {
        length(&self.part())
    }

    /// Where a download that is not complete is kept.
    pub(super) fn part(&self) -> PathBuf {
        self.directory.join(format!("{}.part", self.etag.as_str()))
    }

    /// Takes a complete download for the contents, and drops one that is too long.
    pub(super) fn settle(&self) -> io::Result<()> {
        let part = self.part();
        if !part.is_file() || self.kept() < self.size {
            Ok(())
        } else if self.kept() == self.size {
            fs::rename(part, self.path())
        } else {
            fs::remove_file(part)
        }
    }

    /// Keeps other processes from downloading the same; the lock ends with the file.
    pub(super) fn lock(&self) -> io::Result<Lock> {
        let path = self.directory.join(format!("{}.lock", self.etag.as_str()));
        let file = File::create(&path)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if attempt == LOCK_ATTEMPTS => {
                    return Ok(Lock::HeldElsewhere(path));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            }
        }
        Ok(Lock::Held(file))
    }

    /// Bytes that are missing and do not fit on the disk; none if it does not say how much does.
    pub(super) fn excess(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        let room = disk.f_bavail.saturating_mul(disk.f_frsize);
        let missing = self.size.saturating_sub(self.kept());
        missing.checked_sub(room).filter(|&excess| excess > 0)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(self.etag.as_str())
    }
}

/// The right to download a blob, which one process has at a time.
pub(super) enum Lock {
    /// This process, as long as the file is open.
    Held(#[expect(dead_code, reason = "it is kept open")] File),
    /// Another process, which holds this file.
    HeldElsewhere(PathBuf),
}

/// The size of a file in bytes; 0 if there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
