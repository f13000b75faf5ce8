//! The seam to the operating system: everything the crate does with files goes through [`FileSystem`] and [`File`].
//!
//! Object-safe and positional: no cursor, so any number of threads share a handle. The vtable call costs nothing
//! beside a system call, and no type parameter spreads. Names are as real as bytes: creating, renaming and removing
//! survive a power loss only after [`FileSystem::sync_dir`] on the directory that holds the name (POSIX promises no
//! more), and that is how the simulator behaves.
//!
//! [`OsFileSystem`] is the real one, [`PooledFs`] the same for whoever syncs many files at once; `SimFs` (feature `sim`)
//! is the simulated one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::units::TimestampMs;

mod counted;
mod crew;
mod file_in;
mod os;
mod pooled;
#[cfg(not(loom))]
#[cfg(test)]
mod pooled_tests;
#[cfg(feature = "sim")]
pub mod sim;

pub use counted::{DescriptorUsage, Descriptors};
pub(crate) use file_in::FileIn;
pub use os::{AsFd, BorrowedFd, OsFileSystem, open_files_limit};
pub use pooled::PooledFs;

/// How [`FileSystem::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only. A write on it fails with `PermissionDenied` or `EBADF`.
    Read,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Must not exist (`AlreadyExists` otherwise); reads and writes. The name lasts once the directory is synced.
    CreateNew,
    /// Created if missing, kept as it is otherwise; reads and writes.
    CreateOrOpen,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: symbolic link, socket, device.
    Other,
}

/// One entry of [`FileSystem::list`]. Names that are not UTF-8 are given lossily; they are never ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name within the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What [`FileSystem::metadata`] tells of a path (symbolic links followed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes, of files.
    pub len: u64,
    /// When the content changed last, by the clock of the file system; `None` where it does not tell. Whoever copies a
    /// directory may have changed it.
    pub modified: Option<TimestampMs>,
}

/// One thing for [`FileSystem::sync_many`] to make durable.
#[derive(Clone, Debug)]
pub enum SyncItem {
    /// A file's bytes and size.
    File(Arc<dyn File>),
    /// The names in a directory.
    Names(PathBuf),
}

impl SyncItem {
    /// Makes this one durable, in this thread.
    pub fn sync(&self, fs: &dyn FileSystem) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_data(),
            Self::Names(dir) => fs.sync_dir(dir),
        }
    }
}

/// How much a file system holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What may still be written by whoever asks: what is kept for root does not count.
    pub free: u64,
}

/// A hint how a range will be used next. Never changes what is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Read from front to back soon.
    Sequential,
    /// Read soon.
    WillNeed,
    /// Not needed again: clean pages may leave the cache.
    DontNeed,
}

/// An exclusive lock on a file, released when dropped and when the process dies.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// A read-only view of a file's bytes. The file is never shortened or overwritten while one lives.
pub trait Mapping: Send + Sync + fmt::Debug {
    /// The mapped bytes.
    fn bytes(&self) -> &[u8];
}

/// A file system. All paths are as the caller gives them; nothing is resolved against a hidden state.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Opens or creates a file. Opening a directory is an error.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// The entries of a directory, sorted by name, without `.` and `..`.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Kind and size of what a path names; `NotFound` if nothing.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// Renames within the file system, replacing a file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Open handles go on reading.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes one directory; its parent must exist. `AlreadyExists` if the name is taken.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable: what was created, renamed or removed in it before the call.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes everything in `items` durable, all of it for one call: an answer for each item, in their order. What succeeds
    /// is durable as after [`File::sync_data`] or [`FileSystem::sync_dir`] on it alone; nothing is said of the order in
    /// which it became so, and a crash before the call returns may leave any part of it durable.
    ///
    /// One after the other unless the file system has a faster way, as [`PooledFs`] has.
    ///
    /// # Errors
    /// Each item's own. One that fails says nothing of the others.
    fn sync_many(&self, items: &[SyncItem]) -> Vec<io::Result<()>> {
        let sync = |item: &SyncItem| match item {
            SyncItem::File(file) => file.sync_data(),
            SyncItem::Names(dir) => self.sync_dir(dir),
        };
        items.iter().map(sync).collect()
    }
    /// Space on the file system that holds `path`, which must exist.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes an exclusive whole-file lock, creating the file if missing; never waits. `None` when somebody else, in
    /// this process or another one, holds it. The file stays when the lock goes.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>>;
    /// Whether somebody else, in this process or another one, holds a lock on `path`. `false` if it does not exist.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// An open file. Transfers may be short and may be interrupted; see [`read_exact_at`] and [`write_all_at`].
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `at`; 0 at or past the end.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes up to `buf.len()` bytes at `at`, extending the file as needed.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize>;
    /// Writes several buffers, one after the other, at `at`, in one call.
    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space for `[at, at + len)` and extends the size over it, reading as zeros.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// Makes the bytes and the size durable (fdatasync). Covers what was written before the call, by any handle.
    fn sync_data(&self) -> io::Result<()>;
    /// Like `sync_data`, and the rest of the inode too (fsync).
    fn sync_all(&self) -> io::Result<()>;
    /// Maps the first `len` bytes read-only. For files that never change again.
    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>>;
    /// Hints at the use of a range; `len` 0 means to the end.
    fn advise(&self, at: u64, len: u64, advice: Advice) -> io::Result<()>;
    /// Sends up to `len` bytes from `position` on to a socket, pipe or file, by sendfile(2): the bytes do not pass
    /// through the process. One attempt; returns how many the receiver took, 0 at or past the end of the file.
    ///
    /// # Errors
    /// `WouldBlock` when a non-blocking receiver takes nothing now, `Interrupted` when a signal came first, and what
    /// else sendfile(2) says: `BrokenPipe` when the peer is gone, `InvalidInput` for a receiver that was opened to append.
    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> io::Result<u64>;
    /// The file's descriptor, where the kernel knows the file and whatever makes the descriptor's bytes durable makes the
    /// file durable: [`PooledFs`] starts and judges writing out by it. `None`, the default, where it is not so, or where
    /// every sync is to be seen by [`File::sync_data`].
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Fills `buf` from `at`, going on after short and interrupted reads.
///
/// # Errors
/// `UnexpectedEof` when the file ends first; otherwise what the read said.
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], at: u64) -> io::Result<()> {
    if read_full_at(file, buf, at)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Fills as much of `buf` from `at` as the file has, going on after short and interrupted reads; returns how much.
pub fn read_full_at(file: &dyn File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Sends `len` bytes from `at` on, going on after short and interrupted sends, and stops at the first error, which may
/// be that the receiver would block. Returns how many were sent, and why not all. See [`File::send_to`].
///
/// ```
/// use alluvium::fs::{AsFd, FileSystem, OpenMode, OsFileSystem, send_from, write_all_at};
/// use std::io::Read;
/// let dir = tempfile::tempdir().unwrap();
/// let file = OsFileSystem.open(&dir.path().join("a"), OpenMode::CreateNew).unwrap();
/// write_all_at(&*file, b"abcdef", 0).unwrap();
/// let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
/// let (sent, outcome) = send_from(&*file, ours.as_fd(), 2, 3);
/// assert!(sent == 3 && outcome.is_ok());
/// let mut got = [0; 3];
/// theirs.read_exact(&mut got).unwrap();
/// assert_eq!(&got, b"cde");
/// ```
///
/// # Errors
/// `UnexpectedEof` when the file ends first; otherwise what the last attempt said. The number is right in any case.
pub fn send_from(file: &dyn File, socket: BorrowedFd<'_>, at: u64, len: u64) -> (u64, io::Result<()>) {
    let mut sent = 0;
    while sent < len {
        match file.send_to(socket, at.saturating_add(sent), len - sent) {
            Ok(0) => return (sent, Err(io::ErrorKind::UnexpectedEof.into())),
            // No more than was asked for, whatever the system says.
            Ok(n) => sent = sent.saturating_add(n).min(len),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (sent, Err(e)),
        }
    }
    (sent, Ok(()))
}

/// Writes all of `buf` at `at`, going on after short and interrupted writes.
///
/// # Errors
/// What the write said; `WriteZero` when the system takes nothing. A part of the bytes may have been written.
pub fn write_all_at(file: &dyn File, buf: &[u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buf.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, at.saturating_add(done as u64)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all buffers one after the other at `at`, going on after short and interrupted writes.
///
/// # Errors
/// As [`write_all_at`].
pub fn write_all_vectored_at(file: &dyn File, bufs: &mut [io::IoSlice<'_>], at: u64) -> io::Result<()> {
    // The kernel takes at most 1,024 buffers a call (IOV_MAX).
    const BUFFERS_MAX: usize = 1024;
    let mut rest = bufs;
    let mut position = at;
    // Leading empty buffers are dropped first, so that `Ok(0)` below means refusal.
    io::IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let head = rest.get(..rest.len().min(BUFFERS_MAX)).unwrap_or_default();
        match file.write_vectored_at(head, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                position = position.saturating_add(n as u64);
                io::IoSlice::advance_slices(&mut rest, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
