//! A file system that counts what it has open, and asks for relief when there is no room left.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

use super::{DirEntry, File, FileIn, FileSystem, LockGuard, Metadata, OpenMode, Space, SyncItem};
use crate::sync::RwLock;

/// Closes up to so many descriptors that are only kept for their next use; says how many. It may be called by any call of
/// the file system that opens something, and so with locks of a log held: it must neither wait nor use that file system.
type Relief = Arc<dyn Fn(usize) -> usize + Send + Sync>;

/// So many descriptors are asked for when the system has none left: others in the process want some too.
const RELIEF_FILES: usize = 16;

/// How many descriptors are open through a [`Descriptors`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescriptorUsage {
    /// Files and locks that are open now.
    pub open: u64,
    /// The most that were open at once.
    pub peak: u64,
    /// Opens that went past the limit, because relief could not close enough.
    pub overshoots: u64,
    /// Calls that the system had no descriptor for (`EMFILE`, `ENFILE`) and that were tried again after relief.
    pub retries: u64,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    peak: AtomicU64,
    overshoots: AtomicU64,
    retries: AtomicU64,
}

/// Passes everything on to another file system, and counts the handles that are open. Before an open that would pass the
/// limit, and when the system has no descriptor left, it asks its relief to close some. Nothing is refused because of the
/// limit: what cannot be closed is in use, and the system has the last word. Clones share the count. Any thread.
///
/// ```
/// use alluvium::fs::{Descriptors, FileSystem, OpenMode, OsFileSystem};
/// use std::sync::Arc;
/// let dir = tempfile::tempdir().unwrap();
/// let fs = Descriptors::new(Arc::new(OsFileSystem), 100);
/// let file = fs.open(&dir.path().join("a"), OpenMode::CreateNew).unwrap();
/// assert_eq!(fs.usage().open, 1);
/// drop(file);
/// assert_eq!(fs.usage().open, 0);
/// ```
#[derive(Clone)]
pub struct Descriptors {
    fs: Arc<dyn FileSystem>,
    limit: Arc<AtomicU64>,
    counts: Arc<Counts>,
    relief: Arc<RwLock<Option<Relief>>>,
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptors").field("fs", &self.fs).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Descriptors {
    /// Counts what is open in `fs`, and wants it to be at most `limit`.
    pub fn new(fs: Arc<dyn FileSystem>, limit: u64) -> Self {
        let limit = Arc::new(AtomicU64::new(limit));
        Self { fs, limit, counts: Arc::default(), relief: Arc::new(RwLock::new(None)) }
    }

    /// From now on `relief` is asked to close so many descriptors; it says how many it closed. Calls that open something
    /// call it, and those are made with locks of a log held: it must neither wait nor use this file system.
    pub fn set_relief(&self, relief: impl Fn(usize) -> usize + Send + Sync + 'static) {
        *self.relief.write() = Some(Arc::new(relief));
    }

    /// Changes the limit. What is open stays open until the next open asks for relief.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many are open now: one look at a number.
    pub fn count(&self) -> u64 {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// What is open now, and what was counted.
    pub fn usage(&self) -> DescriptorUsage {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DescriptorUsage {
            open: count(&self.counts.open),
            peak: count(&self.counts.peak),
            overshoots: count(&self.counts.overshoots),
            retries: count(&self.counts.retries),
        }
    }

    fn relieve(&self, count: usize) -> usize {
        // Called with nothing locked: it drops files, which count themselves out.
        let relief = self.relief.read().clone();
        relief.map_or(0, |relief| relief(count))
    }

    /// Takes room for one more, with what must be closed for it closed.
    fn room(&self) -> Open {
        let open = self.counts.open.fetch_add(1, Ordering::Relaxed) + 1;
        let room = Open { counts: Arc::clone(&self.counts) };
        let limit = self.limit.load(Ordering::Relaxed);
        if open > limit {
            self.relieve(usize::try_from(open - limit).unwrap_or(usize::MAX));
        }
        let open = self.counts.open.load(Ordering::Relaxed);
        self.counts.overshoots.fetch_add(u64::from(open > limit), Ordering::Relaxed);
        self.counts.peak.fetch_max(open, Ordering::Relaxed);
        room
    }

    /// Makes a call that takes a descriptor, and makes it once more if there was none and some could be closed.
    fn relieved<T>(&self, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match call() {
            Err(e) if is_out_of_descriptors(&e) => {
                self.prepare_retry();
                call()
            }
            answer => answer,
        }
    }

    /// The system had no descriptor. What was refused is tried again also when nothing was closed here: somebody else may
    /// have closed something.
    fn prepare_retry(&self) {
        self.counts.retries.fetch_add(1, Ordering::Relaxed);
        self.relieve(RELIEF_FILES);
    }
}

/// Whether the process (`EMFILE`) or the system (`ENFILE`) has no descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// One open descriptor.
#[derive(Debug)]
struct Open {
    counts: Arc<Counts>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileSystem for Descriptors {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let room = self.room();
        let file = self.relieved(|| self.fs.open(path, mode))?;
        Ok(Arc::new(FileIn::new(file, room)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.relieved(|| self.fs.list(dir))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.fs.metadata(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // A directory that could not be opened was not synced, and no failure was swallowed: it may be asked again.
        self.relieved(|| self.fs.sync_dir(dir))
    }

    fn sync_many(&self, items: &[SyncItem]) -> Vec<io::Result<()>> {
        let mut answers = self.fs.sync_many(items);
        for (answer, item) in answers.iter_mut().zip(items) {
            if let (Err(e), SyncItem::Names(dir)) = (&*answer, item)
                && is_out_of_descriptors(e)
            {
                self.prepare_retry();
                *answer = self.fs.sync_dir(dir);
            }
        }
        answers
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.fs.space(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let room = self.room();
        let guard = self.relieved(|| self.fs.try_lock(path))?;
        Ok(guard.map(|guard| Box::new(OpenLock { _guard: guard, _room: room }) as _))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.relieved(|| self.fs.is_locked(path))
    }
}

/// The lock goes before its descriptor is counted out.
#[derive(Debug)]
struct OpenLock {
    _guard: Box<dyn LockGuard>,
    _room: Open,
}

impl LockGuard for OpenLock {}

#[cfg(test)]
#[path = "counted_tests.rs"]
mod tests;
