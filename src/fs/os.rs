//! The real file system: the only user of `std::fs`, of memory maps and of `unsafe` in the crate.
//!
//! Locks are fcntl locks on the open file description: they exclude other processes, Kafka's `FileLock` included,
//! and other logs within this process, and they die with it. `flock` would not exclude Kafka.
#![expect(clippy::disallowed_methods, reason = "this file is the seam that the ban protects")]
#![expect(unsafe_code, reason = "read-only maps of sealed files, see `OsFile::map`, and a call that no safe crate has")]

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
pub use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::{FallocateFlags, FcntlArg, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::sendfile::sendfile64;
use nix::sys::statvfs::statvfs;
use nix::sys::uio::pwritev;

mod whole;

pub(super) use self::whole::Whole;
use super::{Advice, DirEntry, EntryKind, File, FileSystem, LockGuard, Mapping, Metadata, OpenMode, Space};
use crate::units::TimestampMs;

/// The operating system's file system. Linux; see the README for what is assumed of the media.
///
/// ```
/// use alluvium::fs::{FileSystem, OpenMode, OsFileSystem};
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("a");
/// let file = OsFileSystem.open(&path, OpenMode::CreateNew).unwrap();
/// alluvium::fs::write_all_at(&*file, b"abc", 0).unwrap();
/// file.sync_data().unwrap();
/// OsFileSystem.sync_dir(dir.path()).unwrap();
/// assert_eq!(OsFileSystem.metadata(&path).unwrap().len, 3);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFileSystem;

/// How many descriptors this process may have open now: the soft limit `RLIMIT_NOFILE`.
pub fn open_files_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

fn kind_of(file_type: fs::FileType) -> EntryKind {
    if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::Other
    }
}

/// Times before 1970 are negative.
fn to_timestamp(time: SystemTime) -> Option<TimestampMs> {
    let millis = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).ok()?,
        Err(before) => i64::try_from(before.duration().as_millis()).ok()?.checked_neg()?,
    };
    Some(TimestampMs::new(millis))
}

impl FileSystem for OsFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o644).custom_flags(libc::O_CLOEXEC);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::CreateOrOpen => options.write(true).create(true).truncate(false),
        };
        let file = options.open(path)?;
        if mode == OpenMode::Read && file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(OsFile { file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, kind: kind_of(entry.file_type()?) });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let metadata = fs::metadata(path)?;
        let modified = metadata.modified().ok().and_then(to_timestamp);
        Ok(Metadata { kind: kind_of(metadata.file_type()), len: metadata.len(), modified })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = statvfs(path)?;
        let unit = found.fragment_size();
        Ok(Space { total: found.blocks().saturating_mul(unit), free: found.blocks_available().saturating_mul(unit) })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file_lock(libc::F_WRLCK))) {
            Ok(_) => Ok(Some(Box::new(OsLock { file }))),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        // A write lock is what would be taken, but asking needs no write access to the file.
        let file = match fs::File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let mut lock = whole_file_lock(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "lock kinds and SEEK_SET are small constants of another width")]
fn whole_file_lock(kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Holds the lock until it is dropped.
#[derive(Debug)]
struct OsLock {
    file: fs::File,
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // A child process that was forked and has not yet executed shares the description: closing ours would not end it.
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole_file_lock(libc::F_UNLCK)));
    }
}

impl LockGuard for OsLock {}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
}

/// Most that Linux moves in one call.
const ATTEMPT_BYTES_MAX: u64 = 0x7fff_f000;

fn to_off_t(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(buf, at)
    }

    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(pwritev(&self.file, bufs, to_off_t(at)?)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::empty(), to_off_t(at)?, to_off_t(len)?)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if self.size()? < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: the bytes must not change and the file must not shrink while the map lives. The log maps only sealed
        // segments and their indexes, whose bytes it never writes again, and a cut into one goes to a new file
        // (`Segment::truncate`). Another process that breaks the lock and edits our files is outside the contract.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(&self.file)? };
        Ok(Arc::new(OsMapping { map }))
    }

    fn advise(&self, at: u64, len: u64, advice: Advice) -> io::Result<()> {
        let advice = match advice {
            Advice::Sequential => PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
            Advice::WillNeed => PosixFadviseAdvice::POSIX_FADV_WILLNEED,
            Advice::DontNeed => PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        };
        Ok(posix_fadvise(&self.file, to_off_t(at)?, to_off_t(len)?, advice)?)
    }

    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> io::Result<u64> {
        let mut position = to_off_t(position)?;
        // The kernel transfers no more than 2 GiB less a page a call, and refuses counts that pass the largest position.
        let len = len.min(ATTEMPT_BYTES_MAX).min(i64::MAX.abs_diff(position));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(sendfile64(socket, &self.file, Some(&mut position), len)? as u64)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// Starts writing out the file's dirty pages. Waits for none of them, and makes nothing durable.
///
/// # Errors
/// Of the file. That the call is refused for other reasons is none: it only hastens the sync that must follow.
pub(super) fn start_writing_out(file: BorrowedFd<'_>) -> io::Result<()> {
    sync_file_range(file, libc::SYNC_FILE_RANGE_WRITE).map(drop)
}

/// Waits for the file's pages that are being written out, and tells, once for each descriptor, whether any of them was
/// lost since the file was opened. `false` where that cannot be told. Makes nothing durable.
///
/// # Errors
/// What went wrong with the pages.
pub(super) fn outcome_of_writing_out(file: BorrowedFd<'_>) -> io::Result<bool> {
    sync_file_range(file, libc::SYNC_FILE_RANGE_WAIT_AFTER)
}

/// `sync_file_range(2)` over all of the file; `false` where the system does not take the call: it is filtered, or the file
/// is of a kind that has none.
fn sync_file_range(file: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<bool> {
    loop {
        // SAFETY: the call reads and writes no memory of ours, and the descriptor is open as long as it is borrowed.
        let outcome = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
        if outcome == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => return Ok(false),
            _ => return Err(error),
        }
    }
}

struct OsMapping {
    map: memmap2::Mmap,
}

impl fmt::Debug for OsMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OsMapping").field("len", &self.map.len()).finish()
    }
}

impl Mapping for OsMapping {
    fn bytes(&self) -> &[u8] {
        &self.map
    }
}
