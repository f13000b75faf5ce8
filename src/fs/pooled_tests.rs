use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

use super::pooled::PooledFs;
use super::*;

/// `count` files with something to sync, and the directory they are in.
fn dirty(fs: &dyn FileSystem, dir: &Path, count: usize) -> Vec<SyncItem> {
    let file = |name: usize| {
        let file = fs.open(&dir.join(name.to_string()), OpenMode::CreateOrOpen).unwrap();
        write_all_at(&*file, &[7; 5000], file.size().unwrap()).unwrap();
        SyncItem::File(file)
    };
    let mut items: Vec<SyncItem> = (0..count).map(file).collect();
    items.push(SyncItem::Names(dir.to_path_buf()));
    items
}

fn kinds(answers: &[io::Result<()>]) -> Vec<Option<io::ErrorKind>> {
    answers.iter().map(|answer| answer.as_ref().err().map(io::Error::kind)).collect()
}

/// A file that does in a sync what the test says, with the descriptor the test says.
struct Odd<F> {
    sync: F,
    descriptor: Option<OwnedFd>,
}

impl<F> fmt::Debug for Odd<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Odd")
    }
}

fn odd(sync: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> SyncItem {
    SyncItem::File(Arc::new(Odd { sync, descriptor: None }))
}

impl<F: Fn() -> io::Result<()> + Send + Sync> File for Odd<F> {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        unreachable!()
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        unreachable!()
    }
    fn write_vectored_at(&self, _: &[io::IoSlice<'_>], _: u64) -> io::Result<usize> {
        unreachable!()
    }
    fn size(&self) -> io::Result<u64> {
        unreachable!()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!()
    }
    fn sync_data(&self) -> io::Result<()> {
        (self.sync)()
    }
    fn sync_all(&self) -> io::Result<()> {
        unreachable!()
    }
    fn map(&self, _: u64) -> io::Result<Arc<dyn Mapping>> {
        unreachable!()
    }
    fn advise(&self, _: u64, _: u64, _: Advice) -> io::Result<()> {
        unreachable!()
    }
    fn send_to(&self, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<u64> {
        unreachable!()
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }
}

/// Each way to sync that a real file system has here, the syncfs only where it is allowed.
fn ways(dir: &Path) -> Vec<(&'static str, PooledFs)> {
    let whole = PooledFs::new();
    let is_allowed = whole.allow_syncfs(dir).unwrap();
    // Once is enough.
    assert_eq!(whole.allow_syncfs(dir).unwrap(), is_allowed);
    let broken = PooledFs::new();
    broken.break_syncfs(dir);
    vec![
        ("alone", PooledFs::with_threads_max(0)),
        ("one thread", PooledFs::with_threads_max(1)),
        ("many threads", PooledFs::new()),
        (if is_allowed { "syncfs" } else { "no syncfs here" }, whole),
        ("a syncfs that fails", broken),
    ]
}

#[test]
fn every_way_answers_every_item_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (way, fs) in ways(dir.path()) {
        println!("{way}");
        for count in [0, 1, 2, 3, 7, 15, 40] {
            let mut items = dirty(&fs, dir.path(), count);
            assert_eq!(kinds(&fs.sync_many(&items)), vec![None; count + 1], "{way}, {count}");
            // A directory that is gone fails alone, wherever it stands.
            for at in [0, items.len() / 2, items.len()] {
                items.insert(at, SyncItem::Names(dir.path().join("gone")));
                let mut expected = vec![None; items.len()];
                expected[at] = Some(io::ErrorKind::NotFound);
                assert_eq!(kinds(&fs.sync_many(&items)), expected, "{way}, {count}, {at}");
                items.remove(at);
            }
        }
        assert!(fs.sync_many(&[]).is_empty());
    }
}

#[test]
fn a_thousand_items_and_some_of_them_bad() {
    let dir = tempfile::tempdir().unwrap();
    for (way, fs) in ways(dir.path()) {
        let files = dirty(&fs, dir.path(), 100);
        let mut items: Vec<SyncItem> = files.iter().cycle().take(1000).cloned().collect();
        let mut expected = vec![None; 1000];
        for at in (3..1000).step_by(89) {
            (items[at], expected[at]) = match at % 2 {
                0 => (SyncItem::Names(dir.path().join("gone")), Some(io::ErrorKind::NotFound)),
                _ => (odd(|| Err(io::ErrorKind::StorageFull.into())), Some(io::ErrorKind::StorageFull)),
            };
        }
        assert_eq!(kinds(&fs.sync_many(&items)), expected, "{way}");
    }
}

/// The kernel may tell an error of writing out once: to who starts it, though the sync that follows then succeeds.
#[test]
fn an_error_of_starting_to_write_out_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    for (way, fs) in ways(dir.path()) {
        let mut items = dirty(&fs, dir.path(), 20);
        // Only names can be looked at through such a descriptor: other calls fail with EBADF.
        let path_only = open(&dir.path().join("3"), OFlag::O_PATH, Mode::empty()).unwrap();
        items.push(SyncItem::File(Arc::new(Odd { sync: || Ok(()), descriptor: Some(path_only) })));
        let answers = fs.sync_many(&items);
        let (last, others) = answers.split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().raw_os_error(), Some(libc::EBADF), "{way}");
        assert!(others.iter().all(Result::is_ok), "{way}");
    }
}

/// A pipe cannot be written out, which says nothing of its sync.
#[test]
fn what_cannot_be_written_out_is_synced_nevertheless() {
    let dir = tempfile::tempdir().unwrap();
    for (way, fs) in ways(dir.path()) {
        let mut items = dirty(&fs, dir.path(), 20);
        let (pipe, _other_end) = std::io::pipe().unwrap();
        items.push(SyncItem::File(Arc::new(Odd { sync: || Ok(()), descriptor: Some(pipe.into()) })));
        assert!(fs.sync_many(&items).iter().all(Result::is_ok), "{way}");
    }
}

#[test]
fn the_caller_alone_ends_a_round_when_all_threads_are_busy() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PooledFs::with_threads_max(2);
    let (entered, is_in) = crossbeam::channel::unbounded();
    let (release, released) = crossbeam::channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        let busy = || {
            let (entered, released) = (entered.clone(), released.clone());
            odd(move || {
                entered.send(()).unwrap();
                assert!(released.recv_timeout(Duration::from_mins(1)).is_err());
                Ok(())
            })
        };
        let stuck: Vec<SyncItem> = (0..6).map(|_| busy()).collect();
        let (fs, dir) = (&fs, dir.path());
        let holder = scope.spawn(move || fs.sync_many(&stuck));
        (0..3).for_each(|_| is_in.recv().unwrap());
        // Both threads and one caller are in there; others get through.
        assert!(fs.sync_many(&dirty(fs, dir, 40)).iter().all(Result::is_ok));
        // A closed channel lets go of those three; the items that follow find it closed.
        drop(release);
        assert!(holder.join().unwrap().iter().all(Result::is_ok));
    });
}

#[test]
fn threads_are_bounded_and_started_when_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PooledFs::with_threads_max(3);
    let mut seen = Vec::new();
    for count in [0, 2, 4, 100] {
        assert!(fs.sync_many(&dirty(&fs, dir.path(), count)).iter().all(Result::is_ok));
        seen.push(fs.threads());
    }
    assert_eq!(seen, [0, 0, 1, 3]);
    // The end of the value is the end of the threads: this would not return otherwise.
    drop(fs);
}

#[test]
fn many_callers_share_one_crew() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PooledFs::new();
    let synced = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let (fs, synced, dir) = (&fs, &synced, dir.path().join(caller.to_string()));
            scope.spawn(move || {
                fs.create_dir(&dir).unwrap();
                for round in 0..20 {
                    let mut items = dirty(fs, &dir, 10 + round);
                    items.push(SyncItem::Names(dir.join("gone")));
                    let answers = fs.sync_many(&items);
                    let (last, others) = answers.split_last().unwrap();
                    assert!(last.is_err() && others.iter().all(Result::is_ok));
                    synced.fetch_add(others.len(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(synced.into_inner(), 6 * (0..20).map(|round| 10 + round + 1).sum::<usize>());
    assert!(fs.threads() <= 15);
}

fn descriptors_below(dir: &Path) -> usize {
    let open = OsFileSystem.list(Path::new("/proc/self/fd")).unwrap();
    let target = |entry: &DirEntry| std::fs::read_link(Path::new("/proc/self/fd").join(&entry.name));
    open.iter().filter_map(|entry| target(entry).ok()).filter(|target| target.starts_with(dir)).count()
}

/// A store counts the descriptors that it may have: none may stay open for a thread that has not looked up yet.
#[test]
fn no_descriptor_outlives_the_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let fs = PooledFs::new();
    for round in 0..50 {
        let items = dirty(&fs, &path, 30);
        assert!(fs.sync_many(&items).iter().all(Result::is_ok));
        assert_eq!(descriptors_below(&path), 30, "{round}");
        drop(items);
        assert_eq!(descriptors_below(&path), 0, "{round}");
    }
}

#[test]
fn a_file_that_panics_is_answered_and_the_threads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PooledFs::with_threads_max(2);
    let caller = std::thread::current().id();
    let (_sender, never) = crossbeam::channel::bounded::<()>(0);
    for _ in 0..3 {
        let mut items = dirty(&fs, dir.path(), 20);
        // Only in the threads of the crew: a panic in the caller's own is the caller's.
        let panics = || {
            let never = never.clone();
            move || {
                assert!(std::thread::current().id() == caller, "a file of the test's");
                // Time for the threads to come.
                never.recv_timeout(Duration::from_millis(5)).unwrap_err();
                Ok(())
            }
        };
        items.splice(0..0, (0..6).map(|_| odd(panics())));
        let answers = fs.sync_many(&items);
        assert!(answers[6..].iter().all(Result::is_ok));
        assert!(answers[..6].iter().any(Result::is_err), "the threads took a share");
    }
    assert!(fs.sync_many(&dirty(&fs, dir.path(), 20)).iter().all(Result::is_ok));
}

#[test]
fn syncfs_is_never_taken_for_a_file_system_that_is_not_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!PooledFs::over(Arc::new(OsFileSystem), 3).allow_syncfs(dir.path()).unwrap());
    assert!(!PooledFs::new().allow_syncfs(Path::new("/proc")).unwrap());
    assert!(PooledFs::new().allow_syncfs(&dir.path().join("gone")).is_err());
}

#[cfg(feature = "sim")]
mod simulated {
    use super::sim::{Effect, Errno, Fault, FaultOn, Operation, SimFs, Survival, is_crash};
    use super::*;

    /// Both the default and the threads pass every item through the simulator: the same faults, steps and trace.
    #[test]
    fn each_item_is_synced_failed_and_traced_alone() {
        for threads in [None, Some(0), Some(5)] {
            let sim = SimFs::new(3);
            let pooled = threads.map(|threads| PooledFs::over(Arc::new(sim.clone()), threads));
            let fs: &dyn FileSystem = pooled.as_ref().map_or(&sim, |pooled| pooled);
            let items = dirty(fs, Path::new("/"), 30);
            sim.inject(Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)).path_contains("/17"));
            sim.record_trace(true);
            let steps = sim.steps();
            let failed: Vec<usize> =
                fs.sync_many(&items).iter().enumerate().filter_map(|(at, r)| r.is_err().then_some(at)).collect();
            assert_eq!(failed, [17], "{threads:?}");
            assert_eq!(sim.steps() - steps, 31);
            let synced: BTreeSet<PathBuf> = sim.trace().into_iter().map(|event| event.path).collect();
            assert_eq!(synced.len(), 31);
            assert_eq!(sim.trace().iter().filter(|event| event.operation == Operation::SyncDir).count(), 1);
        }
    }

    /// Whatever was answered with success before the machine died is there after the power loss.
    #[test]
    fn what_was_answered_survives_a_crash_at_every_step() {
        for threads in [None, Some(0), Some(5)] {
            for step in 1..=31 {
                let sim = SimFs::new(3);
                let pooled = threads.map(|threads| PooledFs::over(Arc::new(sim.clone()), threads));
                let fs: &dyn FileSystem = pooled.as_ref().map_or(&sim, |pooled| pooled);
                let items = dirty(fs, Path::new("/"), 30);
                sim.sync_dir(Path::new("/")).unwrap();
                sim.crash_after(sim.steps() + step);
                let answers = fs.sync_many(&items);
                let after = sim.power_loss_keeping(Survival::Nothing);
                for (at, answer) in answers.iter().enumerate().take(30) {
                    let found = after.live_bytes(Path::new(&format!("/{at}")));
                    assert!(answer.is_err() || found == Some(vec![7; 5000]), "{threads:?}, step {step}, file {at}");
                }
                assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(is_crash));
                assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count() as u64, step - 1);
            }
        }
    }
}
