//! A file system that lets a test act in the middle of a sync.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use alluvium::fs::sim::SimFs;
use alluvium::fs::{Advice, BorrowedFd, DirEntry, File, FileSystem, LockGuard, Mapping, Metadata, OpenMode, Space};

type Action = Box<dyn FnOnce() + Send>;

/// What is to be done before a sync of a file whose path contains the text.
#[derive(Default)]
struct Armed(Mutex<Option<(String, Action)>>);

impl std::fmt::Debug for Armed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Armed")
    }
}

#[derive(Debug)]
pub(crate) struct Gate {
    fs: SimFs,
    armed: Arc<Armed>,
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn File>,
    path: String,
    armed: Arc<Armed>,
}

impl Gate {
    pub(crate) fn new(fs: SimFs) -> Self {
        Self { fs, armed: Arc::default() }
    }

    /// Runs `action` once, in the thread that syncs, before the sync does anything.
    pub(crate) fn before_next_sync_of(&self, part: &str, action: impl FnOnce() + Send + 'static) {
        *self.armed.0.lock().unwrap() = Some((part.to_owned(), Box::new(action)));
    }
}

impl GatedFile {
    fn act(&self) {
        let mut armed = self.armed.0.lock().unwrap();
        let is_meant = armed.as_ref().is_some_and(|(part, _)| self.path.contains(part.as_str()));
        let action = if is_meant { armed.take() } else { None };
        drop(armed);
        if let Some((_, action)) = action {
            action();
        }
    }
}

impl FileSystem for Gate {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (file, armed) = (self.fs.open(path, mode)?, Arc::clone(&self.armed));
        Ok(Arc::new(GatedFile { file, path: path.display().to_string(), armed }))
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

impl File for GatedFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(buf, at)
    }
    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
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
        self.act();
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.act();
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
}
