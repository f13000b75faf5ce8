use std::sync::atomic::AtomicUsize;

use super::*;
use crate::fs::OsFileSystem;
use crate::sync::Mutex;

/// Has no descriptor for the first opens.
#[derive(Debug)]
struct Exhausted {
    refusals: AtomicUsize,
    errno: i32,
}

impl Exhausted {
    fn new(refusals: usize, errno: i32) -> Arc<Self> {
        Arc::new(Self { refusals: AtomicUsize::new(refusals), errno })
    }

    fn refuse(&self) -> io::Result<()> {
        let left = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { Err(io::Error::from_raw_os_error(self.errno)) } else { Ok(()) }
    }
}

impl FileSystem for Exhausted {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.refuse()?;
        OsFileSystem.open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.refuse()?;
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
        self.refuse()?;
        OsFileSystem.sync_dir(dir)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        OsFileSystem.space(path)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        self.refuse()?;
        OsFileSystem.try_lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        self.refuse()?;
        OsFileSystem.is_locked(path)
    }
}

#[test]
fn counts_files_and_locks_until_the_last_holder_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Descriptors::new(Arc::new(OsFileSystem), 10);
    let file = fs.open(&dir.path().join("a"), OpenMode::CreateNew).unwrap();
    let again = Arc::clone(&file);
    let lock = fs.try_lock(&dir.path().join("lock")).unwrap().unwrap();
    assert!(fs.try_lock(&dir.path().join("lock")).unwrap().is_none());
    assert!(fs.open(&dir.path().join("b"), OpenMode::Read).is_err());
    assert_eq!(fs.usage().open, 2);
    drop(file);
    assert_eq!(fs.usage().open, 2);
    drop((again, lock));
    assert_eq!(fs.usage(), DescriptorUsage { open: 0, peak: 3, overshoots: 0, retries: 0 });
}

#[test]
fn asks_for_relief_before_the_limit_is_passed_and_refuses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fs = Descriptors::new(Arc::new(OsFileSystem), 4);
    let cached = Arc::new(Mutex::new(Vec::new()));
    let spare = Arc::clone(&cached);
    fs.set_relief(move |count| {
        let mut spare = spare.lock();
        let left = spare.len().saturating_sub(count);
        let closed: Vec<Arc<dyn File>> = spare.split_off(left);
        closed.len()
    });
    for at in 0..20 {
        let file = fs.open(&dir.path().join(at.to_string()), OpenMode::CreateNew).unwrap();
        cached.lock().push(file);
        assert!(fs.usage().open <= 4, "{:?}", fs.usage());
    }
    assert_eq!(fs.usage().overshoots, 0);
    // Nothing that may be closed is left, and everything opens all the same.
    let held: Vec<_> = std::mem::take(&mut *cached.lock());
    let more = fs.open(&dir.path().join("more"), OpenMode::CreateNew).unwrap();
    assert_eq!((fs.usage().open, fs.usage().overshoots), (5, 1));
    drop((held, more));
    assert_eq!(fs.usage().open, 0);
}

#[test]
fn a_call_that_the_system_has_no_descriptor_for_is_tried_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    for errno in [libc::EMFILE, libc::ENFILE] {
        let asked = Arc::new(AtomicUsize::new(0));
        let try_with = |refusals| {
            let fs = Descriptors::new(Exhausted::new(refusals, errno), 100);
            let asked = Arc::clone(&asked);
            fs.set_relief(move |_| asked.fetch_add(1, Ordering::Relaxed));
            fs
        };
        try_with(1).open(&path, OpenMode::CreateOrOpen).unwrap();
        try_with(1).list(dir.path()).unwrap();
        try_with(1).sync_dir(dir.path()).unwrap();
        try_with(1).try_lock(&path).unwrap().unwrap();
        try_with(1).is_locked(&path).unwrap();
        let answers = try_with(1).sync_many(&[SyncItem::Names(dir.path().to_owned())]);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 6);
        let fs = try_with(2);
        assert_eq!(fs.open(&path, OpenMode::Read).unwrap_err().raw_os_error(), Some(errno));
        assert_eq!((fs.usage().open, fs.usage().retries), (0, 1));
    }
    // Any other error is passed on as it is.
    let fs = Descriptors::new(Exhausted::new(1, libc::EACCES), 100);
    assert_eq!(fs.open(&path, OpenMode::Read).unwrap_err().raw_os_error(), Some(libc::EACCES));
    assert_eq!(fs.usage().retries, 0);
}
