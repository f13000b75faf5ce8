//! A file system whose calls on names with a certain part fail, or panic: what a simulated fault cannot do.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use alluvium::fs::sim::SimFs;
use alluvium::fs::{DirEntry, File, FileSystem, LockGuard, Metadata, OpenMode, Space};

/// What becomes of a call that makes such a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Kind,
    Refuses(String),
    Panics(String),
}

/// A simulated file system with moods. Clones have the same.
#[derive(Clone, Debug)]
pub(crate) struct Mischief {
    fs: SimFs,
    mood: Arc<Mutex<Mood>>,
}

impl Mischief {
    pub(crate) fn new(fs: SimFs) -> Self {
        Self { fs, mood: Arc::default() }
    }

    /// Refuses to make files with `part` in their names, in the partition of consumers' offsets.
    pub(crate) fn refuse(&self, part: &str) {
        *self.mood.lock().unwrap() = Mood::Refuses(part.to_owned());
    }

    /// Panics where such a file is to be made.
    pub(crate) fn panic_at(&self, part: &str) {
        *self.mood.lock().unwrap() = Mood::Panics(part.to_owned());
    }

    pub(crate) fn relent(&self) {
        *self.mood.lock().unwrap() = Mood::Kind;
    }

    fn meet(&self, path: &Path, mode: OpenMode) -> io::Result<()> {
        let mood = self.mood.lock().unwrap().clone();
        let path = path.display().to_string();
        let is_meant = |part: &str| {
            let makes = matches!(mode, OpenMode::CreateNew | OpenMode::CreateOrOpen);
            makes && path.contains("__consumer_offsets") && path.contains(part)
        };
        match mood {
            Mood::Refuses(part) if is_meant(&part) => Err(io::Error::from_raw_os_error(5)),
            Mood::Panics(part) => {
                assert!(!is_meant(&part), "mischief at {path}");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl FileSystem for Mischief {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.meet(path, mode)?;
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
