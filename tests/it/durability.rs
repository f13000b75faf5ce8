//! Who waits, who syncs, and who is told what.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use alluvium::clock::ManualClock;
use alluvium::error::{AppendError, ChangeError, DurabilityError};
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, Survival};
use alluvium::fs::{Advice, BorrowedFd, DirEntry, File, FileSystem, LockGuard, Mapping, Metadata, OpenMode, Space};
use alluvium::{Environment, FlushPolicy, Flusher, LogConfig, PartitionLog};

use crate::support::{DIR, Machine, NOW, at, batch, client, contents, small};

/// A file system whose file syncs wait at a gate.
#[derive(Clone, Debug)]
struct Gated {
    inner: Arc<dyn FileSystem>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn set(&self, is_open: bool) {
        *self.is_open.lock().unwrap() = is_open;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut is_open = self.is_open.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !*is_open {
            is_open = self.changed.wait(is_open).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn wait_for_somebody(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl FileSystem for Gated {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(GatedFile { inner, gate: Arc::clone(&self.gate) }))
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn metadata(&self, path: &Path) -> std::io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.inner.remove_file(path)
    }
    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.inner.create_dir(path)
    }
    fn remove_dir(&self, path: &Path) -> std::io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn space(&self, path: &Path) -> std::io::Result<Space> {
        self.inner.space(path)
    }
    fn try_lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn LockGuard>>> {
        self.inner.try_lock(path)
    }
    fn is_locked(&self, path: &Path) -> std::io::Result<bool> {
        self.inner.is_locked(path)
    }
}

impl File for GatedFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<usize> {
        self.inner.read_at(buf, at)
    }
    fn write_at(&self, buf: &[u8], at: u64) -> std::io::Result<usize> {
        self.inner.write_at(buf, at)
    }
    fn write_vectored_at(&self, bufs: &[std::io::IoSlice<'_>], at: u64) -> std::io::Result<usize> {
        self.inner.write_vectored_at(bufs, at)
    }
    fn size(&self) -> std::io::Result<u64> {
        self.inner.size()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, at: u64, len: u64) -> std::io::Result<()> {
        self.inner.allocate(at, len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }
    fn sync_all(&self) -> std::io::Result<()> {
        self.gate.pass();
        self.inner.sync_all()
    }
    fn map(&self, len: u64) -> std::io::Result<Arc<dyn Mapping>> {
        self.inner.map(len)
    }
    fn advise(&self, at: u64, len: u64, advice: Advice) -> std::io::Result<()> {
        self.inner.advise(at, len, advice)
    }
    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> std::io::Result<u64> {
        self.inner.send_to(socket, position, len)
    }
}

/// A log on a simulated disk whose syncs wait at a gate, open at first.
fn gated() -> (Machine, Arc<Gate>, PartitionLog) {
    let machine = Machine::new();
    let gate = Arc::new(Gate { is_open: Mutex::new(true), changed: Condvar::new(), waiting: AtomicUsize::new(0) });
    let fs = Gated { inner: Arc::new(machine.fs.clone()), gate: Arc::clone(&gate) };
    let environment = Environment { fs: Arc::new(fs), clock: Arc::new(ManualClock::at(NOW)) };
    let log = environment.open(DIR, quiet()).unwrap();
    (machine, gate, log)
}

/// Nothing is synced unless somebody waits.
fn quiet() -> LogConfig {
    LogConfig { flush: FlushPolicy { on_roll: false, ..FlushPolicy::default() }, ..small() }
}

const SOON: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, woken: &Arc<Woken>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(woken));
    std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_deadline_passes_while_the_flushers_sync_is_slow() {
    let (_machine, gate, log) = gated();
    let flusher = Flusher::start(log.clone()).unwrap();
    let first = log.append(batch(&["one"]), client()).unwrap();
    first.wait_durable(LONG).unwrap();
    gate.set(false);
    let slow = log.append(batch(&["two"]), client()).unwrap();
    let error = slow.wait_durable(SOON).unwrap_err();
    assert!(error.to_string().contains("wait again or give more time"), "{error}");
    let DurabilityError::DeadlinePassed { durable_end, wanted } = error else { panic!("{error:?}") };
    assert_eq!((durable_end, wanted), (at(1), at(2)));
    // Appends and reads go on meanwhile.
    gate.wait_for_somebody();
    log.append(batch(&["three"]), client()).unwrap();
    assert_eq!(contents(&log).len(), 3);
    assert_eq!((log.durable_end(), log.log_end()), (at(1), at(3)));
    gate.set(true);
    slow.wait_durable(LONG).unwrap();
    first.wait_durable(Duration::ZERO).unwrap();
    log.wait_durable(at(3), LONG).unwrap();
    assert_eq!(log.durable_end(), at(3));
    assert_eq!(flusher.panics(), 0);
    drop(flusher);
    // Without a flusher whoever waits leads the round, deadline or not.
    log.append(batch(&["four"]), client()).unwrap().wait_durable(Duration::ZERO).unwrap();
    log.close().unwrap();
}

#[test]
fn a_round_covers_only_what_was_appended_before_it_began() {
    let (_machine, gate, log) = gated();
    log.append(batch(&["one"]), client()).unwrap();
    gate.set(false);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| log.wait_durable(at(1), LONG));
        gate.wait_for_somebody();
        let late = log.append(batch(&["two"]), client()).unwrap();
        let follower = scope.spawn(move || late.wait_durable(LONG));
        gate.set(true);
        leader.join().unwrap().unwrap();
        follower.join().unwrap().unwrap();
    });
    assert_eq!(log.durable_end(), at(2));
    assert_eq!(log.metrics().sync_rounds.value(), 2);
}

#[test]
fn many_waiters_share_rounds() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path(), LogConfig { segment_bytes: 1 << 20, ..quiet() }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let appended = log.append(batch(&["x"]), client()).unwrap();
                    appended.wait_durable(LONG).unwrap();
                    assert!(log.durable_end() >= appended.end());
                }
            });
        }
    });
    let rounds = log.metrics().sync_rounds.value();
    assert!((1..=200).contains(&rounds), "{rounds}");
    assert_eq!((log.durable_end(), log.marks().log_end), (at(200), at(200)));
}

/// A failed sync fails everybody who waits, is never tried again, and leaves the log readable.
#[test]
fn a_failed_sync_latches_the_log() {
    for with_flusher in [false, true] {
        let machine = Machine::new();
        let log = machine.open(quiet());
        log.append(batch(&["durable"]), client()).unwrap().wait_durable(LONG).unwrap();
        let flusher = with_flusher.then(|| Flusher::start(log.clone()).unwrap());
        machine.fs.inject(Fault::new(FaultOn::SyncData, Effect::SyncDropsPages).path_contains(".log"));
        let appended: Vec<_> = (0..3).map(|_| log.append(batch(&["doubtful"]), client()).unwrap()).collect();
        let mut future = appended[0].durable();
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut future, &woken).is_pending() || with_flusher);
        for appended in &appended {
            let error = appended.wait_durable(LONG).unwrap_err();
            assert!(error.to_string().contains("close it and open it again"), "{error}");
            assert!(matches!(error, DurabilityError::Failed(_)), "{error:?}");
        }
        assert!(matches!(poll(&mut future, &woken), Poll::Ready(Err(DurabilityError::Failed(_)))));
        // The disk would take it now. It is not asked.
        machine.fs.clear_faults();
        assert!(matches!(log.flush(), Err(DurabilityError::Failed(_))));
        assert!(matches!(log.append(batch(&["more"]), client()), Err(AppendError::Failed(_))));
        assert!(matches!(log.tick(), Err(ChangeError::Failed(_))));
        assert!(matches!(log.roll(), Err(ChangeError::Failed(_))));
        assert!(matches!(log.truncate_to(at(1)), Err(ChangeError::Failed(_))));
        assert_eq!((log.durable_end(), contents(&log).len()), (at(1), 4));
        let failed = log.health().failed.unwrap();
        assert_eq!(failed.cause.path, Machine::log_path(0));
        // What was durable before still is.
        log.wait_durable(at(1), Duration::ZERO).unwrap();
        assert!(matches!(log.close(), Err(ChangeError::Failed(_))));
        assert!(log.health().is_closed);
        drop(flusher);
        drop(log);
        let log = machine.open(quiet());
        assert_eq!(log.durable_end(), log.log_end());
        assert_eq!(contents(&log)[0].2, "durable");
        let after = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() };
        assert_eq!(contents(&after.open(quiet())), contents(&log));
    }
}

#[test]
fn futures_are_completed_by_ticks_flushers_and_other_waiters() {
    let machine = Machine::new();
    let log = machine.open(quiet());
    let woken = Arc::new(Woken::default());
    let mut by_tick = log.append(batch(&["one"]), client()).unwrap().durable();
    assert!(poll(&mut by_tick, &woken).is_pending());
    let steps = machine.fs.steps();
    assert!(poll(&mut by_tick, &woken).is_pending());
    assert_eq!(machine.fs.steps(), steps, "a poll does no I/O");
    assert!(log.tick().unwrap().synced, "somebody waits");
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut by_tick, &woken), Poll::Ready(Ok(()))));

    let appended = log.append(batch(&["two"]), client()).unwrap();
    let mut by_waiter = appended.durable();
    assert!(poll(&mut by_waiter, &woken).is_pending());
    appended.wait_durable(LONG).unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert!(matches!(poll(&mut by_waiter, &woken), Poll::Ready(Ok(()))));

    let flusher = Flusher::start(log.clone()).unwrap();
    let by_flusher = log.append(batch(&["three"]), client()).unwrap().durable();
    block_on(by_flusher).unwrap();
    drop(flusher);
    // One that asks late is answered at once.
    let mut late = appended.durable();
    assert!(matches!(poll(&mut late, &woken), Poll::Ready(Ok(()))));
}

/// No runtime: parks the thread until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(LONG);
    }
}

#[test]
fn a_future_that_is_dropped_waits_no_more() {
    let machine = Machine::new();
    let log = machine.open(quiet());
    let woken = Arc::new(Woken::default());
    let mut futures: Vec<_> = (0..10).map(|_| log.append(batch(&["x"]), client()).unwrap().durable()).collect();
    // One that was never polled never waited.
    let unpolled = futures.pop();
    assert!(futures.iter_mut().all(|future| poll(future, &woken).is_pending()));
    drop(futures);
    drop(unpolled);
    assert!(!log.tick().unwrap().synced, "nobody waits any more");
    assert_eq!((woken.0.load(Ordering::SeqCst), log.durable_end()), (0, at(0)));
    assert_eq!(Arc::strong_count(&woken), 1, "and nothing of them is kept");
    log.close().unwrap();
}

#[test]
fn closing_answers_who_waits() {
    let woken = Arc::new(Woken::default());
    // A close that succeeds made it durable first.
    let machine = Machine::new();
    let log = machine.open(quiet());
    let mut future = log.append(batch(&["x"]), client()).unwrap().durable();
    assert!(poll(&mut future, &woken).is_pending());
    log.close().unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut future, &woken), Poll::Ready(Ok(()))));
    // One that fails says so to a blocked thread and to a future.
    let (machine, gate, log) = gated();
    let appended = log.append(batch(&["x"]), client()).unwrap();
    let mut future = appended.durable();
    assert!(poll(&mut future, &woken).is_pending());
    gate.set(false);
    machine.fs.inject(Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)).path_contains(".log"));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| appended.wait_durable(LONG));
        gate.wait_for_somebody();
        let closer = scope.spawn(|| log.close());
        gate.set(true);
        assert!(matches!(waiter.join().unwrap(), Err(DurabilityError::Failed(_))));
        assert!(closer.join().unwrap().is_err());
    });
    assert!(matches!(poll(&mut future, &woken), Poll::Ready(Err(DurabilityError::Failed(_)))));
}

#[test]
fn a_truncation_answers_who_waits_for_what_it_cuts() {
    let machine = Machine::new();
    let log = machine.open(quiet());
    let woken = Arc::new(Woken::default());
    let kept = log.append(batch(&["kept"]), client()).unwrap();
    let cut = log.append(batch(&["cut"]), client()).unwrap();
    let mut future = cut.durable();
    assert!(poll(&mut future, &woken).is_pending());
    log.truncate_to(at(1)).unwrap();
    let Poll::Ready(Err(error)) = poll(&mut future, &woken) else { panic!("not answered") };
    assert!(matches!(error, DurabilityError::Truncated { .. }), "{error:?}");
    // What is written in its place answers for itself alone.
    let new = log.append(batch(&["new"]), client()).unwrap();
    new.wait_durable(LONG).unwrap();
    assert!(matches!(cut.wait_durable(Duration::ZERO), Err(DurabilityError::Truncated { .. })));
    kept.wait_durable(Duration::ZERO).unwrap();
}

#[test]
fn the_policy_says_when_nobody_waits() {
    let with = |flush: FlushPolicy| {
        let machine = Machine::new();
        let log = machine.open(LogConfig { flush: FlushPolicy { on_roll: false, ..flush }, ..small() });
        (machine, log)
    };
    let (_, log) = with(FlushPolicy { after_records: Some(3), ..FlushPolicy::default() });
    assert!(!log.append(batch(&["a", "b"]), client()).unwrap().should_flush());
    assert!(!log.tick().unwrap().synced);
    assert!(log.append(batch(&["c"]), client()).unwrap().should_flush());
    assert!(log.tick().unwrap().synced);
    assert_eq!(log.durable_end(), at(3));
    assert!(!log.append(batch(&["d"]), client()).unwrap().should_flush());

    let (_, log) = with(FlushPolicy { after_bytes: Some(150), ..FlushPolicy::default() });
    assert!(!log.append(batch(&["a"]), client()).unwrap().should_flush());
    assert!(!log.append(batch(&["b"]), client()).unwrap().should_flush());
    assert!(log.append(batch(&["c"]), client()).unwrap().should_flush());

    let (machine, log) = with(FlushPolicy { after: Some(Duration::from_millis(100)), ..FlushPolicy::default() });
    assert_eq!(log.tick().unwrap().next_due, None);
    machine.clock.advance(Duration::from_millis(7));
    log.append(batch(&["a"]), client()).unwrap();
    assert_eq!(log.tick().unwrap().next_due, Some(Duration::from_millis(107)));
    machine.clock.advance(Duration::from_millis(99));
    assert!(!log.tick().unwrap().synced);
    machine.clock.advance(Duration::from_millis(1));
    assert!(log.tick().unwrap().synced);
    assert_eq!(log.durable_end(), at(1));

    let machine = Machine::new();
    let log = machine.open(small());
    log.append(batch(&["a"]), client()).unwrap();
    assert!(!log.tick().unwrap().synced);
    log.roll().unwrap();
    assert!(log.tick().unwrap().synced);
}

/// A flusher acts on the policy by itself.
#[test]
fn a_flusher_needs_nobody_to_wait() {
    let temp = tempfile::tempdir().unwrap();
    let flush = FlushPolicy { after_records: Some(5), ..FlushPolicy::default() };
    let log = PartitionLog::open(temp.path(), LogConfig { flush, ..small() }).unwrap();
    let flusher = Flusher::start(log.clone()).unwrap();
    log.append(batch(&["a", "b", "c", "d", "e"]), client()).unwrap();
    let began = std::time::SystemTime::now();
    while log.durable_end() < at(5) {
        assert!(began.elapsed().unwrap() < LONG);
        std::thread::yield_now();
    }
    drop(flusher);
    log.close().unwrap();
}

#[test]
fn side_files_that_cannot_be_written_cost_nothing_but_a_count() {
    let machine = Machine::new();
    let log = machine.open(quiet());
    machine.fs.inject(Fault::new(FaultOn::Rename, Effect::Error(Errno::Enospc)).path_contains("index").always());
    for n in 0..20 {
        log.append(batch(&[&format!("a record, number {n}, that is long enough to roll")]), client()).unwrap();
    }
    assert!(log.metrics().rolls.value() > 1);
    log.flush().unwrap();
    assert_eq!(log.durable_end(), at(20));
    assert!(log.metrics().side_file_failures.value() >= 1);
    assert!(log.health().failed.is_none());
    machine.fs.clear_faults();
    log.close().unwrap();
    let log = machine.open(quiet());
    assert!(log.recovery_report().was_clean);
    assert_eq!(contents(&log).len(), 20);
}

#[test]
fn counters_count() {
    let machine = Machine::new();
    let log = machine.open(quiet());
    let metrics = log.metrics();
    let (one, two) = (batch(&["a"]).into_bytes(), batch(&["b"]).into_bytes());
    let bytes = (one.len() + two.len()) as u64;
    log.append(vec![one, two], client()).unwrap();
    assert_eq!((metrics.appended_batches.value(), metrics.appended_bytes.value()), (2, bytes));
    log.roll().unwrap();
    assert_eq!((metrics.rolls.value(), metrics.sync_rounds.value()), (1, 0));
    log.flush().unwrap();
    log.flush().unwrap();
    assert_eq!(metrics.sync_rounds.value(), 1, "a round without work is none");
    let before = metrics.reads.value();
    contents(&log);
    assert!(metrics.reads.value() > before);
    assert_eq!((metrics.undone_appends.value(), metrics.side_file_failures.value()), (0, 0));
}
