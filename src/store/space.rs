//! The space of one data directory: when appends are refused for lack of it, and a reserve for what must go on then.
//!
//! Appends stop while there is still space, at the *floor*: a checkpoint, a retention or a compaction needs some to free
//! more. They go on when a margin above the floor is free, so that a directory at the floor does not flap. Other programs
//! may eat what the floor keeps; for that case there is the *reserve*, a file that takes up space and says nothing. It is
//! removed when something that must go on meets a full disk, lent to the cleaner, and made again when there is room. While
//! it is missing, its bytes do not count as free: they are not the appends'.
//!
//! ```text
//!            free - what the reserve lacks
//!  appends   >= floor + margin   admitted, and admitted again after Low
//!            >= floor            as before
//!            <  floor            refused (Low), or the system said that the disk is full
//! ```
//! Where the file system cannot allocate there is no reserve, and the floor alone counts.
//!
//! Nothing of the reserve's file is ever read. A crash leaves it in any size, or not at all; the next opening takes it as
//! it is and makes it what it should be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;

use super::names::RESERVE;
use crate::error::{IoFailure, IoOperation};
use crate::fs::{EntryKind, FileSystem, OpenMode, Space};
use crate::sync::Mutex;

/// The system is asked for free space at least this often.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// And no more often than this, however much is written.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What a directory's space is held to. All zero: nothing is refused, and there is no reserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceLimits {
    /// Appends are refused below this many free bytes.
    pub floor_bytes: u64,
    /// And below this many thousandths of the file system, 0 to 1,000. The larger of the two counts.
    pub floor_permille: u16,
    /// They are admitted again when so many bytes more are free.
    pub margin_bytes: u64,
    /// Size of the reserve.
    pub reserve_bytes: u64,
}

impl SpaceLimits {
    /// Bytes that must be free on a file system of `total` bytes.
    ///
    /// ```
    /// use alluvium::store::space::SpaceLimits;
    /// let limits = SpaceLimits { floor_bytes: 100, floor_permille: 50, ..SpaceLimits::default() };
    /// assert_eq!((limits.floor(1000), limits.floor(10_000)), (100, 500));
    /// ```
    pub fn floor(&self, total: u64) -> u64 {
        let share = u128::from(total) * u128::from(self.floor_permille) / 1000;
        self.floor_bytes.max(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// Bytes at which a directory that was low is no more.
    fn resume(&self, total: u64) -> u64 {
        self.floor(total).saturating_add(self.margin_bytes)
    }

    /// Whether a directory is low that has `space`, of which `owed` belong to the reserve.
    fn is_low(&self, was_low: bool, space: Space, owed: u64) -> bool {
        // A disk that was full is not used again while nothing at all is free.
        let needed = if was_low { self.resume(space.total).max(1) } else { self.floor(space.total) };
        space.free.saturating_sub(owed) < needed
    }
}

/// Whether a directory takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceState {
    /// It does.
    Ok,
    /// It does not.
    Low {
        /// Bytes free, without what belongs to the reserve.
        free: u64,
        /// Bytes that must be.
        floor: u64,
    },
}

/// An append was refused: its data directory is short of space. Nothing was written; it may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} has {free} bytes free and needs {floor}; delete data or add space: appends go on by themselves at {resume}",
    dir.display()
)]
pub struct SpaceLow {
    /// The data directory.
    pub dir: PathBuf,
    /// Bytes free at the last look, without what belongs to the reserve.
    pub free: u64,
    /// Bytes that must be free.
    pub floor: u64,
    /// Bytes at which appends are admitted again.
    pub resume: u64,
}

/// How a directory's space stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceReport {
    /// What the system said at the last look.
    pub space: Space,
    /// Whether appends are taken.
    pub state: SpaceState,
    /// Bytes that the reserve holds.
    pub reserve_bytes: u64,
    /// Bytes of it that are lent.
    pub lent_bytes: u64,
}

/// What was seen at the last look.
#[derive(Debug)]
struct Seen {
    space: Space,
    at: Duration,
}

/// Watches the space of one data directory and keeps its reserve. Any thread may call anything; one guard a directory,
/// made while the directory is locked.
///
/// ```
/// use alluvium::fs::OsFileSystem;
/// use alluvium::store::space::{SpaceGuard, SpaceLimits};
/// use std::time::Duration;
/// let dir = tempfile::tempdir().unwrap();
/// let limits = SpaceLimits { floor_bytes: 1, reserve_bytes: 4096, ..SpaceLimits::default() };
/// let guard = SpaceGuard::open(&OsFileSystem, dir.path(), limits, Duration::ZERO).unwrap();
/// assert!(guard.admits().is_ok());
/// assert_eq!(guard.report().reserve_bytes, 4096);
/// assert_eq!(guard.give_up_reserve(&OsFileSystem).unwrap(), 4096);
/// ```
#[derive(Debug)]
pub struct SpaceGuard {
    dir: PathBuf,
    file: PathBuf,
    limits: SpaceLimits,
    /// All that an append looks at.
    is_low: AtomicBool,
    /// Bytes written since the last look.
    written: AtomicU64,
    seen: Mutex<Seen>,
    /// Bytes that the reserve takes up. Changed under `reserve` alone.
    held: AtomicU64,
    /// The file system cannot allocate (no `fallocate`): then there is no reserve, and appends owe it nothing.
    is_impossible: AtomicBool,
    /// Who changes the reserve's file: background work alone, and for a few calls to the system. Appends never wait for it.
    reserve: Mutex<()>,
    lent: Arc<AtomicU64>,
}

impl SpaceGuard {
    /// Looks at the space of `dir`, takes over the reserve that an earlier process left, and makes it what `limits` say
    /// if there is room. `now` is monotonic.
    ///
    /// # Errors
    /// [`IoFailure`] when the system does not tell how much space there is, or refuses to change the reserve for another
    /// reason than a full disk. A directory of the reserve's name is refused, too.
    pub fn open(fs: &dyn FileSystem, dir: &Path, limits: SpaceLimits, now: Duration) -> Result<Self, IoFailure> {
        let space = look(fs, dir)?;
        let file = dir.join(RESERVE);
        let held = match fs.metadata(&file) {
            Ok(found) if found.kind == EntryKind::File => found.len,
            Ok(_) => return Err(IoFailure::new(IoOperation::Open, file, io::ErrorKind::InvalidInput.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(IoFailure::new(IoOperation::List, file, e)),
        };
        let guard = Self {
            dir: dir.to_owned(),
            file,
            limits,
            is_low: AtomicBool::new(false),
            written: AtomicU64::new(0),
            seen: Mutex::new(Seen { space, at: now }),
            held: AtomicU64::new(held),
            is_impossible: AtomicBool::new(false),
            reserve: Mutex::new(()),
            lent: Arc::new(AtomicU64::new(0)),
        };
        guard.adopt(fs)?;
        guard.refresh_now(fs, now)?;
        Ok(guard)
    }

    /// Whether an append may go on: one atomic load. To be asked before anything is written.
    ///
    /// # Errors
    /// [`SpaceLow`] below the floor.
    pub fn admits(&self) -> Result<(), SpaceLow> {
        if !self.is_low.load(Ordering::Relaxed) {
            return Ok(());
        }
        let space = self.seen.lock().space;
        let (floor, resume) = (self.limits.floor(space.total), self.limits.resume(space.total));
        Err(SpaceLow { dir: self.dir.clone(), free: self.free_to_use(space), floor, resume })
    }

    /// Counts bytes that were written to the directory, so that it is looked at sooner near the floor.
    pub fn note_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the system said the disk is full (or a quota used up): appends are refused until a look finds space.
    pub fn note_full(&self) {
        self.is_low.store(true, Ordering::Relaxed);
    }

    /// Whether a look is due: every 5 seconds; every 100 ms while the directory is low; and in between when half of what
    /// was free above the floor may be written by now.
    pub fn is_due(&self, now: Duration) -> bool {
        let (space, at) = {
            let seen = self.seen.lock();
            (seen.space, seen.at)
        };
        let elapsed = now.saturating_sub(at);
        let above_floor = self.free_to_use(space).saturating_sub(self.limits.floor(space.total));
        let is_near = self.written.load(Ordering::Relaxed) >= above_floor / 2;
        let is_wanted = is_near || self.is_low.load(Ordering::Relaxed);
        elapsed >= LOOK_INTERVAL_MAX || is_wanted && elapsed >= LOOK_INTERVAL_MIN
    }

    /// Looks if that is due, makes the reserve again if there is room, and says how things stand if that has changed.
    /// Appends are admitted or refused accordingly. `now` is monotonic.
    ///
    /// # Errors
    /// [`IoFailure`] when the system does not tell, and the state is as it was; or when the reserve cannot be made for
    /// another reason than a full disk, and the state is up to date. The next look comes when it is due.
    pub fn refresh(&self, fs: &dyn FileSystem, now: Duration) -> Result<Option<SpaceState>, IoFailure> {
        if self.is_due(now) { self.refresh_now(fs, now) } else { Ok(None) }
    }

    /// The same, due or not: after something was deleted.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn refresh_now(&self, fs: &dyn FileSystem, now: Duration) -> Result<Option<SpaceState>, IoFailure> {
        // A look that fails counts as one: it is not repeated at once.
        self.seen.lock().at = now;
        self.written.store(0, Ordering::Relaxed);
        let mut space = look(fs, &self.dir)?;
        let restored = self.restore(fs, space);
        if let Ok(true) = restored {
            space = look(fs, &self.dir)?;
        }
        self.seen.lock().space = space;
        let was_low = self.is_low.load(Ordering::Relaxed);
        let is_low = self.limits.is_low(was_low, space, self.owed());
        self.is_low.store(is_low, Ordering::Relaxed);
        restored?;
        Ok((is_low != was_low).then(|| self.state_at(space)))
    }

    /// How things stood at the last look.
    pub fn report(&self) -> SpaceReport {
        let space = self.seen.lock().space;
        let reserve_bytes = self.held();
        SpaceReport { space, state: self.state_at(space), reserve_bytes, lent_bytes: self.lent.load(Ordering::Relaxed) }
    }

    /// Frees the reserve for something that must go on (a checkpoint, a retention) and met a full disk; returns how many
    /// bytes that is, 0 when there was none. Try once more then. Appends are refused until a look finds space for them and
    /// for the reserve.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be removed, or its removal not be made durable: some file systems give the
    /// space out again only then.
    pub fn give_up_reserve(&self, fs: &dyn FileSystem) -> Result<u64, IoFailure> {
        self.note_full();
        let _changing = self.reserve.lock();
        self.remove(fs)
    }

    /// Frees up to `bytes` of the reserve for somebody who frees more by it: the cleaner, which writes before it deletes.
    /// `None` when there is nothing to lend. The reserve is made again when the loan is dropped and there is room.
    ///
    /// # Errors
    /// [`IoFailure`] as [`give_up_reserve`](Self::give_up_reserve); nothing is lent then.
    pub fn lend(&self, fs: &dyn FileSystem, bytes: u64) -> Result<Option<ReserveLoan>, IoFailure> {
        let _changing = self.reserve.lock();
        let bytes = bytes.min(self.held());
        if bytes == 0 {
            return Ok(None);
        }
        // Counted before the space is free, or a look in between would make it part of the reserve again.
        self.lent.fetch_add(bytes, Ordering::Relaxed);
        let loan = ReserveLoan { bytes, lent: Arc::clone(&self.lent) };
        if bytes == self.held() {
            self.remove(fs)?;
        } else {
            self.cut(fs, bytes)?;
        }
        Ok(Some(loan))
    }

    /// Brings what was found at opening to the size it should have, if that takes no space.
    fn adopt(&self, fs: &dyn FileSystem) -> Result<(), IoFailure> {
        let _changing = self.reserve.lock();
        if self.limits.reserve_bytes == 0 {
            // An empty one has a name all the same.
            return self.remove(fs).map(|_| ());
        }
        if self.held() > self.limits.reserve_bytes {
            let excess = self.held() - self.limits.reserve_bytes;
            self.cut(fs, excess)?;
        }
        if self.held() > 0 {
            // A copied file may be all holes: then it reserves nothing until it is allocated.
            let held = self.held();
            self.allocate(fs, held)?;
        }
        Ok(())
    }

    /// Makes the reserve whole if nothing of it is lent and appends have room beside it. Whether anything was done.
    fn restore(&self, fs: &dyn FileSystem, space: Space) -> Result<bool, IoFailure> {
        let _changing = self.reserve.lock();
        let missing = self.limits.reserve_bytes.saturating_sub(self.held());
        let needed = self.limits.resume(space.total).saturating_add(missing);
        if missing == 0
            || self.is_impossible.load(Ordering::Relaxed)
            || self.lent.load(Ordering::Relaxed) > 0
            || space.free < needed
        {
            return Ok(false);
        }
        self.allocate(fs, self.limits.reserve_bytes)?;
        Ok(true)
    }

    /// Makes the file `bytes` long and allocated. Where there is no room for that, it is removed.
    fn allocate(&self, fs: &dyn FileSystem, bytes: u64) -> Result<(), IoFailure> {
        let opened = fs.open(&self.file, OpenMode::CreateOrOpen);
        let allocated = match opened {
            Ok(file) => file.allocate(0, bytes).map_err(|e| IoFailure::new(IoOperation::SetLen, &self.file, e)),
            Err(e) => Err(IoFailure::new(IoOperation::Open, &self.file, e)),
        };
        match allocated {
            Ok(()) => self.held.store(bytes, Ordering::Relaxed),
            Err(failure) => {
                // A part of it may have been allocated, of an unknown size.
                self.remove(fs)?;
                if is_unsupported(&failure.source) {
                    self.is_impossible.store(true, Ordering::Relaxed);
                } else if !failure.is_storage_full() {
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Takes `bytes` off the end.
    fn cut(&self, fs: &dyn FileSystem, bytes: u64) -> Result<(), IoFailure> {
        let left = self.held().saturating_sub(bytes);
        let file = fs.open(&self.file, OpenMode::ReadWrite);
        let file = file.map_err(|e| IoFailure::new(IoOperation::Open, &self.file, e))?;
        file.set_len(left).map_err(|e| IoFailure::new(IoOperation::SetLen, &self.file, e))?;
        self.held.store(left, Ordering::Relaxed);
        file.sync_all().map_err(|e| IoFailure::new(IoOperation::Sync, &self.file, e))
    }

    /// Removes the file, if there is one, and returns what it took up.
    fn remove(&self, fs: &dyn FileSystem) -> Result<u64, IoFailure> {
        match fs.remove_file(&self.file) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.held.store(0, Ordering::Relaxed);
                return Ok(0);
            }
            Err(e) => return Err(IoFailure::new(IoOperation::Remove, &self.file, e)),
        }
        let freed = self.held.swap(0, Ordering::Relaxed);
        fs.sync_dir(&self.dir).map_err(|e| IoFailure::new(IoOperation::Sync, &self.dir, e))?;
        Ok(freed)
    }

    /// Bytes that the reserve should take up and does not.
    fn owed(&self) -> u64 {
        if self.is_impossible.load(Ordering::Relaxed) {
            return 0;
        }
        self.limits.reserve_bytes.saturating_sub(self.held())
    }

    fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn free_to_use(&self, space: Space) -> u64 {
        space.free.saturating_sub(self.owed())
    }

    fn state_at(&self, space: Space) -> SpaceState {
        if self.is_low.load(Ordering::Relaxed) {
            SpaceState::Low { free: self.free_to_use(space), floor: self.limits.floor(space.total) }
        } else {
            SpaceState::Ok
        }
    }
}

/// Whether a file system has no such call at all: some that lie in a network or in another program have none.
fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

fn look(fs: &dyn FileSystem, dir: &Path) -> Result<Space, IoFailure> {
    fs.space(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))
}

/// A part of a directory's reserve, free to be written by whoever holds this. To be dropped when what was written is
/// deleted again, or has made more than that deletable.
#[derive(Debug)]
#[must_use = "the loan ends when it is dropped"]
pub struct ReserveLoan {
    bytes: u64,
    lent: Arc<AtomicU64>,
}

impl ReserveLoan {
    /// How many bytes may be written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for ReserveLoan {
    fn drop(&mut self) {
        self.lent.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
