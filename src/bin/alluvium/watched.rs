//! A file system around the real one, with somebody who is told of every transfer before it is made, and may refuse it:
//! counts what is written, or stands in for a disk that fails.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::fs::{
    Advice, BorrowedFd, DirEntry, File, FileSystem, LockGuard, Mapping, Metadata, OpenMode, OsFileSystem, Space,
};

/// Who is told. An error is what the caller gets instead of the transfer.
pub(crate) trait Watch: Send + Sync + fmt::Debug + 'static {
    /// So many bytes of `path` are about to be read.
    fn before_read(&self, _path: &Path, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// So many bytes are about to be written to `path`.
    fn before_write(&self, path: &Path, bytes: u64) -> io::Result<()>;
}

/// The system's files, watched.
#[derive(Debug)]
pub(crate) struct WatchedFs<W> {
    watch: Arc<W>,
}

impl<W: Watch> WatchedFs<W> {
    pub(crate) fn new(watch: &Arc<W>) -> Self {
        Self { watch: Arc::clone(watch) }
    }
}

impl<W: Watch> FileSystem for WatchedFs<W> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = OsFileSystem.open(path, mode)?;
        Ok(Arc::new(WatchedFile { file, path: path.to_owned(), watch: Arc::clone(&self.watch) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        OsFileSystem.list(dir)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsFileSystem.metadata(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFileSystem.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsFileSystem.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsFileSystem.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        OsFileSystem.space(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        OsFileSystem.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        OsFileSystem.is_locked(path)
    }
}

#[derive(Debug)]
struct WatchedFile<W> {
    file: Arc<dyn File>,
    path: PathBuf,
    watch: Arc<W>,
}

impl<W: Watch> File for WatchedFile<W> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.watch.before_read(&self.path, buf.len() as u64)?;
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.watch.before_write(&self.path, buf.len() as u64)?;
        self.file.write_at(buf, at)
    }

    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.watch.before_write(&self.path, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        self.file.write_vectored_at(bufs, at)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.allocate(at, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        self.file.map(len)
    }

    fn advise(&self, at: u64, len: u64, advice: Advice) -> io::Result<()> {
        self.file.advise(at, len, advice)
    }

    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> io::Result<u64> {
        self.file.send_to(socket, position, len)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}
