//! Who has a data directory open: nobody but one store of one process.
//!
//! The file `.lock` is locked as Kafka locks it (`FileLock`, a whole-file fcntl lock), so that Kafka and a store exclude
//! each other; the lock dies with the process. It is taken on the open file description, so that two stores of one
//! process exclude each other as well. Where somebody has unlinked the file, or the file system grants locks to everyone,
//! that is not enough: the paths that a process has open are listed in a registry, too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::names::LOCK;
use crate::error::{IoFailure, IoOperation};
use crate::fs::{FileSystem, LockGuard};
use crate::sync::Mutex;

/// Why a data directory cannot be locked. Nothing but the lock file was made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else holds the lock.
    #[error(
        "{} is held by another process, Kafka perhaps, or by another store of this one; stop that one first",
        lock.display()
    )]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// This process has the directory open.
    #[error("{} is open in this process already; use that store, or close it first", dir.display())]
    OpenHere {
        /// The directory.
        dir: PathBuf,
    },
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// The data directories that are open, by path. Clones share one list. Any thread.
#[derive(Clone, Debug)]
pub struct DirectoryRegistry {
    open: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl DirectoryRegistry {
    /// The one of this process: what every store on the system's own files goes by.
    pub fn of_process() -> Self {
        static OPEN: LazyLock<DirectoryRegistry> = LazyLock::new(DirectoryRegistry::separate);
        OPEN.clone()
    }

    /// One of its own, for a simulated file system, whose paths are not those of the process.
    #[must_use]
    pub fn separate() -> Self {
        Self { open: Arc::new(Mutex::new(BTreeSet::new())) }
    }
}

impl Default for DirectoryRegistry {
    /// That of the process.
    fn default() -> Self {
        Self::of_process()
    }
}

/// A data directory held. Let go when dropped, and when the process dies; the file `.lock` stays.
#[derive(Debug)]
pub struct DirectoryLock {
    // Dropped first: whoever finds the path free in the registry must find the file unlocked.
    guard: Option<Box<dyn LockGuard>>,
    dir: PathBuf,
    registry: DirectoryRegistry,
}

impl DirectoryLock {
    /// Takes the lock of `dir`, making the lock file if it is missing; never waits.
    ///
    /// ```
    /// use alluvium::fs::OsFileSystem;
    /// use alluvium::store::{DirectoryLock, DirectoryRegistry, LockError};
    /// let dir = tempfile::tempdir().unwrap();
    /// let registry = DirectoryRegistry::of_process();
    /// let held = DirectoryLock::take(&OsFileSystem, dir.path(), &registry).unwrap();
    /// let again = DirectoryLock::take(&OsFileSystem, dir.path(), &registry);
    /// assert!(matches!(again, Err(LockError::OpenHere { .. })));
    /// drop(held);
    /// assert!(DirectoryLock::take(&OsFileSystem, dir.path(), &registry).is_ok());
    /// ```
    ///
    /// # Errors
    /// [`LockError`]: held by somebody else, open in this process, or refused by the system.
    pub fn take(fs: &dyn FileSystem, dir: &Path, registry: &DirectoryRegistry) -> Result<Self, LockError> {
        // Without the current directory's name a relative path must do as it is.
        let named = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        if !registry.open.lock().insert(named.clone()) {
            return Err(LockError::OpenHere { dir: named });
        }
        let mut held = Self { guard: None, dir: named, registry: registry.clone() };
        let lock = dir.join(LOCK);
        match fs.try_lock(&lock) {
            Ok(Some(guard)) => held.guard = Some(guard),
            Ok(None) => return Err(LockError::Locked { lock }),
            Err(e) => return Err(IoFailure::new(IoOperation::Lock, lock, e).into()),
        }
        Ok(held)
    }

    /// The directory, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        self.guard = None;
        self.registry.open.lock().remove(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
    use crate::fs::{OpenMode, OsFileSystem};

    fn world() -> SimFs {
        let fs = SimFs::new(1);
        fs.create_dir(Path::new("/data")).unwrap();
        fs
    }

    #[test]
    fn one_store_has_a_directory_and_the_file_stays() {
        let (fs, registry, dir) = (world(), DirectoryRegistry::separate(), Path::new("/data"));
        let held = DirectoryLock::take(&fs, dir, &registry).unwrap();
        assert_eq!(held.dir(), dir);
        let again = DirectoryLock::take(&fs, Path::new("/data/./"), &registry);
        assert!(matches!(again, Err(LockError::OpenHere { .. })), "{again:?}");
        // Another process has another registry.
        let other = DirectoryLock::take(&fs, dir, &DirectoryRegistry::separate());
        assert!(matches!(other, Err(LockError::Locked { .. })), "{other:?}");
        drop(held);
        assert!(fs.live_bytes(Path::new("/data/.lock")).is_some());
        assert!(DirectoryLock::take(&fs, dir, &registry).is_ok());
    }

    /// The lock on a file that somebody has unlinked excludes nobody: the next one locks a new file.
    #[test]
    fn an_unlinked_lock_file_does_not_let_a_second_store_in() {
        let (fs, registry, dir) = (world(), DirectoryRegistry::separate(), Path::new("/data"));
        let _held = DirectoryLock::take(&fs, dir, &registry).unwrap();
        fs.remove_file(Path::new("/data/.lock")).unwrap();
        let again = DirectoryLock::take(&fs, dir, &registry);
        assert!(matches!(again, Err(LockError::OpenHere { .. })), "{again:?}");
    }

    #[test]
    fn a_refusal_leaves_nothing_taken() {
        let (fs, registry, dir) = (world(), DirectoryRegistry::separate(), Path::new("/data"));
        let lock = dir.join(LOCK);
        let other = fs.try_lock(&lock).unwrap();
        assert!(matches!(DirectoryLock::take(&fs, dir, &registry), Err(LockError::Locked { .. })));
        drop(other);
        fs.inject(Fault::new(FaultOn::Lock, Effect::Error(Errno::Eio)));
        let failed = DirectoryLock::take(&fs, dir, &registry);
        assert!(matches!(&failed, Err(LockError::Io(failure)) if failure.operation == IoOperation::Lock), "{failed:?}");
        assert!(DirectoryLock::take(&fs, dir, &registry).is_ok());
        assert_eq!(fs.open_handles(), 0);
    }

    #[test]
    fn one_directory_under_two_names_is_found_by_the_file_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        OsFileSystem.create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let registry = DirectoryRegistry::of_process();
        let held = DirectoryLock::take(&OsFileSystem, &real, &registry).unwrap();
        let again = DirectoryLock::take(&OsFileSystem, &link, &registry);
        assert!(matches!(again, Err(LockError::Locked { .. })), "{again:?}");
        drop(held);
        assert!(DirectoryLock::take(&OsFileSystem, &link, &registry).is_ok());
        assert!(OsFileSystem.open(&real.join(LOCK), OpenMode::Read).is_ok());
    }
}
