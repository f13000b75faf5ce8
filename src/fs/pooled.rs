//! A file system that makes many files durable at once.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::crew::Crew;
use super::os::{Whole, outcome_of_writing_out, start_writing_out};
use super::{DirEntry, File, FileSystem, LockGuard, Metadata, OpenMode, OsFileSystem, Space, SyncItem};
use crate::sync::RwLock;

/// What [`PooledFs::new`] starts at most.
const THREADS_MAX: u8 = 15;
/// Items of one file system for which syncing all of it is considered.
const WHOLE_ITEMS_MIN: usize = 16;

/// [`OsFileSystem`] with a [`sync_many`](FileSystem::sync_many) for many files: for whoever keeps many partitions in one
/// data directory. Everything else is passed on.
///
/// # How it syncs
/// One item: as [`OsFileSystem`]. More: the kernel is asked to start writing out all the files, which puts the medium to
/// work on all of them and waits for none (`sync_file_range(2)`); then each item gets an fdatasync (a directory an fsync)
/// of its own, so that its answer is what that call said, as if it were alone. From four items on, threads share these
/// calls, half as many at a time as there are items and at most one more than `threads_max`: the kernel merges flushes
/// that wait at once. Durability rests on nothing but fdatasync and fsync. An error in starting to write out fails the
/// item too, since the kernel may report it only once.
///
/// Medians of 15 rounds, in ms, of the bare calls: 16 KiB appended to each of n files and made durable (ext4 without a
/// journal, virtual disk with a write-back cache, 2 cores, Linux 6.18). "Extending" files grow, the others were filled
/// with zeros before. The bold column is what is done here, with 8 threads for 16 files and 16 for more.
///
/// | | one by one | 4 threads | `io_uring` | **writing out, then threads** | writing out, then `io_uring` | syncfs |
/// |---|---|---|---|---|---|---|
/// | 16 extending | 3.7 | 1.9 | 1.2 | **1.1** | 1.1 | 0.9 |
/// | 64 | 12.9 | 6.3 | 3.0 | **3.2** | 2.7 | 2.4 |
/// | 256 | 56 | 27 | 11.8 | **10.6** | 9.9 | 8.0 |
/// | 1000 | 221 | 87 | 42 | **37** | 34 | 26 |
/// | 16 with zeros ahead | 2.0 | 1.0 | 0.70 | **0.60** | 0.54 | 0.43 |
/// | 64 | 7.8 | 4.0 | 1.8 | **1.8** | 1.7 | 1.1 |
/// | 256 | 30 | 13.8 | 5.7 | **6.1** | 6.3 | 4.5 |
/// | 1000 | 110 | 53 | 28 | **27** | 30 | 17 |
///
/// Writing out first counts most where the disk has other work: with a journal, on a loop device of a busy disk, 256
/// extending files took this type 42, `io_uring` alone 475, after writing out 43, syncfs 14 to 16; 1000 took 293, 1644, 275
/// and 77 to 83.
///
/// Where the system gives no threads, fewer work, or the caller alone. There is no `io_uring` here: it runs the same
/// fdatasyncs on threads of the kernel's, is refused in many containers, and gained a sixth at most.
///
/// # Threads
/// Any number of threads may call; the crew is shared. Its threads start when a round first wants them and end when the
/// value is dropped. One `PooledFs` for all data directories of a process keeps their number bounded.
///
/// # Crash survival
/// As [`FileSystem::sync_many`]: what was answered with `Ok` survives a power loss, of the rest any part may.
///
/// ```
/// use alluvium::fs::{FileSystem, OpenMode, PooledFs, SyncItem, write_all_at};
/// let dir = tempfile::tempdir().unwrap();
/// let fs = PooledFs::new();
/// let mut items = vec![SyncItem::Names(dir.path().to_path_buf())];
/// for name in 0..20 {
///     let file = fs.open(&dir.path().join(name.to_string()), OpenMode::CreateNew).unwrap();
///     write_all_at(&*file, b"abc", 0).unwrap();
///     items.push(SyncItem::File(file));
/// }
/// assert!(fs.sync_many(&items).iter().all(Result::is_ok));
/// ```
#[derive(Debug)]
pub struct PooledFs {
    fs: Arc<dyn FileSystem>,
    crew: Crew,
    /// Whether `fs` is the system's own: only then does a path name for us what it names for the kernel.
    is_system: bool,
    wholes: RwLock<Vec<Arc<Whole>>>,
}

impl Default for PooledFs {
    fn default() -> Self {
        Self::new()
    }
}

impl PooledFs {
    /// The operating system's files, synced by at most 15 threads beside the caller.
    pub fn new() -> Self {
        Self::with_threads_max(THREADS_MAX)
    }

    /// The operating system's files, synced by at most `threads_max` threads beside the caller; 0 is the caller alone.
    pub fn with_threads_max(threads_max: u8) -> Self {
        Self { is_system: true, ..Self::over(Arc::new(OsFileSystem), threads_max) }
    }

    /// Any other file system, with the same way to sync. Files without a [`File::descriptor`] are not written out before;
    /// each is synced by its own [`File::sync_data`], which must be fit for being called from any thread.
    pub fn over(fs: Arc<dyn FileSystem>, threads_max: u8) -> Self {
        let wholes = RwLock::new(Vec::new());
        Self { fs, crew: Crew::new(usize::from(threads_max)), is_system: false, wholes }
    }

    /// Lets rounds of 16 and more items on the file system that holds `dir` be one syncfs(2). Off unless asked for.
    ///
    /// Returns `false`, and changes nothing, where a syncfs is not known to do what is needed: only ext4 with a journal,
    /// through Linux 5.17 or later, passes. Before 5.17 an error in the last part of a syncfs was not told. Without a
    /// journal ext4 flushes the medium before it writes its tables: with that last write lost, 256 files of a round that
    /// was answered were gone. No other file system was looked at. Call it before anything is written there: errors from
    /// before may be lost otherwise.
    ///
    /// After a syncfs every file is asked for errors of its own, and a file system that has become read-only makes the
    /// round fail. When a round's syncfs fails, for whatever reason and whosever pages, each item is synced on its own as
    /// without it, and answered by that.
    ///
    /// What was shown of it, on Linux 6.18 with ext4's ordinary journal on a loop device whose requests were recorded: of
    /// files that grew, were overwritten, created and renamed, all were there in copies of the device made the moment the
    /// syncfs returned, and also with every write dropped, or half of them, that no completed flush covered; only tables
    /// that the journal holds were among those. With a device that ran full under the file system, the syncfs failed.
    /// What rests on reading alone: an error of ext4's writing out that it notes neither with the file nor with the file
    /// system would be told by fdatasync and not here.
    ///
    /// It pays from a handful of files on, and takes a tenth of the CPU time and less (0.7 ms against 8 for 256 files). But it writes
    /// out *everything* that is dirty on that file system, of any process: a copy that runs beside may hold every round
    /// up for seconds. Take it for file systems that hold nothing else.
    ///
    /// # Errors
    /// What opening `dir` said.
    pub fn allow_syncfs(&self, dir: &Path) -> io::Result<bool> {
        if !self.is_system {
            return Ok(false);
        }
        let Some(whole) = Whole::of(dir)? else { return Ok(false) };
        let mut wholes = self.wholes.write();
        if !wholes.iter().any(|known| known.is_same(&whole)) {
            wholes.push(Arc::new(whole));
        }
        Ok(true)
    }

    /// Lets rounds on the file system of `dir` begin with a syncfs that fails.
    #[cfg(test)]
    pub(super) fn break_syncfs(&self, dir: &Path) {
        self.wholes.write().push(Arc::new(Whole::broken(dir)));
    }

    /// Threads that were started.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.crew.threads()
    }

    /// Answers what a syncfs can answer.
    fn sync_wholes(&self, items: &[SyncItem], answers: &mut [Option<io::Result<()>>]) {
        let wholes = self.wholes.read().clone();
        for whole in wholes {
            let on_it: Vec<bool> = items.iter().map(|item| is_on(&whole, item)).collect();
            let count = on_it.iter().filter(|on_it| **on_it).count();
            if count < WHOLE_ITEMS_MIN || whole.sync().is_err() {
                continue;
            }
            for ((item, answer), _) in items.iter().zip(&mut *answers).zip(on_it).filter(|(_, on_it)| *on_it) {
                *answer = outcome_after_syncfs(item);
            }
        }
    }
}

fn is_on(whole: &Whole, item: &SyncItem) -> bool {
    match item {
        SyncItem::File(file) => file.descriptor().is_some_and(|file| whole.holds(file)),
        SyncItem::Names(dir) => whole.holds_directory(dir),
    }
}

/// What is known of an item on a file system that was synced whole; `None` if it takes an fdatasync to know.
fn outcome_after_syncfs(item: &SyncItem) -> Option<io::Result<()>> {
    match item {
        SyncItem::File(file) => match outcome_of_writing_out(file.descriptor()?) {
            Ok(is_known) => is_known.then_some(Ok(())),
            // Asking took the error from the descriptor: an fdatasync now would succeed.
            Err(error) => Some(Err(error)),
        },
        SyncItem::Names(_) => Some(Ok(())),
    }
}

fn start_item(item: &SyncItem) -> io::Result<()> {
    match item {
        SyncItem::File(file) => file.descriptor().map_or(Ok(()), start_writing_out),
        SyncItem::Names(_) => Ok(()),
    }
}

impl FileSystem for PooledFs {
    fn sync_many(&self, items: &[SyncItem]) -> Vec<io::Result<()>> {
        if let [item] = items {
            return vec![item.sync(&*self.fs)];
        }
        let mut answers: Vec<Option<io::Result<()>>> = items.iter().map(|_| None).collect();
        self.sync_wholes(items, &mut answers);
        let is_open = |(_, answer): &(&SyncItem, &mut Option<_>)| answer.is_none();
        let (rest, places): (Vec<&SyncItem>, Vec<_>) = items.iter().zip(&mut answers).filter(is_open).unzip();
        let started: Vec<io::Result<()>> = rest.iter().map(|item| start_item(item)).collect();
        let synced = self.crew.sync(&self.fs, rest.into_iter().cloned().collect());
        for ((place, synced), started) in places.into_iter().zip(synced).zip(started) {
            *place = Some(synced.and(started));
        }
        // Every place was filled above; an answer that were missing must not pass for success.
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))).collect()
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.fs.open(path, mode)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.fs.list(dir)
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
        self.fs.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.fs.space(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.fs.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.fs.is_locked(path)
    }
}
