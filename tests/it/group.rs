//! One flusher for many logs: who is answered, with what, and what a crash in the middle leaves.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use alluvium::clock::{Clock, ManualClock, SystemClock};
use alluvium::error::{ChangeError, DurabilityError};
use alluvium::flush::{Attached, GroupFlusher};
use alluvium::fs::sim::{Effect, Fault, FaultOn, SimFs, Survival};
use alluvium::fs::{DirEntry, File, FileSystem, LockGuard, Metadata, OpenMode, Space, SyncItem};
use alluvium::{Durable, Environment, FlushPolicy, LogConfig, PartitionLog};

use crate::support::{LONG, NOW, at, batch, client, contents, small};

/// A file system that tells how many things were synced by each call, and panics on demand.
#[derive(Clone, Debug)]
struct Watched {
    inner: Arc<SimFs>,
    calls: Arc<Mutex<Vec<usize>>>,
    panics: Arc<AtomicBool>,
}

impl FileSystem for Watched {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn File>> {
        self.inner.open(path, mode)
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
    fn sync_many(&self, items: &[SyncItem]) -> Vec<std::io::Result<()>> {
        self.calls.lock().unwrap().push(items.len());
        if self.panics.load(Ordering::SeqCst) {
            // Not `panic!`: the hook would print.
            std::panic::resume_unwind(Box::new("sync_many"));
        }
        self.inner.sync_many(items)
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

/// Logs in the care of one flusher, on a simulated disk.
struct Group {
    fs: Watched,
    clock: Arc<ManualClock>,
    environment: Environment,
    flusher: Arc<GroupFlusher>,
    logs: Vec<PartitionLog>,
    attached: Vec<Attached>,
}

fn dir(at: usize) -> String {
    format!("/data/orders-{at}")
}

/// Nothing is synced unless somebody waits.
fn quiet() -> LogConfig {
    LogConfig { flush: FlushPolicy { on_roll: false, ..FlushPolicy::default() }, ..small() }
}

impl Group {
    fn empty(fs: SimFs) -> Self {
        let fs = Watched { inner: Arc::new(fs), calls: Arc::default(), panics: Arc::default() };
        let clock = Arc::new(ManualClock::at(NOW));
        let environment = Environment { fs: Arc::new(fs.clone()), clock: Arc::clone(&clock) as _ };
        let flusher = Arc::new(GroupFlusher::new(Arc::clone(&environment.fs), Arc::clone(&environment.clock)));
        Self { fs, clock, environment, flusher, logs: Vec::new(), attached: Vec::new() }
    }

    fn of(logs: usize, config: &LogConfig) -> Self {
        let mut group = Self::empty(SimFs::new(1));
        for at in 0..logs {
            group.add(at, config).unwrap();
        }
        group.step();
        group.calls();
        group
    }

    fn add(&mut self, at: usize, config: &LogConfig) -> Result<(), alluvium::OpenError> {
        let log = self.environment.open(dir(at), config.clone())?;
        self.attached.push(self.flusher.attach(&log));
        self.logs.push(log);
        Ok(())
    }

    fn step(&self) -> Duration {
        self.flusher.step(self.clock.monotonic())
    }

    /// How many things each round has synced since the last question.
    fn calls(&self) -> Vec<usize> {
        std::mem::take(&mut self.fs.calls.lock().unwrap())
    }

    /// Appends to each log and has somebody wait for it.
    fn append_and_wait(&self, woken: &Arc<Woken>) -> Vec<Durable> {
        let wait = |log: &PartitionLog| {
            let mut future = log.append(batch(&["x"]), client()).unwrap().durable();
            assert!(poll(&mut future, woken).is_pending());
            future
        };
        self.logs.iter().map(wait).collect()
    }
}

#[derive(Default)]
struct Woken {
    times: AtomicUsize,
    panics: bool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.times.fetch_add(1, Ordering::SeqCst);
        if self.panics {
            std::panic::resume_unwind(Box::new("a waker"));
        }
    }
}

fn poll(future: &mut Durable, woken: &Arc<Woken>) -> Poll<Result<(), DurabilityError>> {
    let waker = Waker::from(Arc::clone(woken));
    std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn one_call_syncs_for_all_who_wait_and_for_nobody_else() {
    let group = Group::of(200, &quiet());
    let woken = Arc::new(Woken::default());
    let mut futures = group.append_and_wait(&woken);
    group.step();
    assert_eq!(group.calls(), [200]);
    assert_eq!(woken.times.load(Ordering::SeqCst), 200);
    assert!(futures.iter_mut().all(|future| matches!(poll(future, &woken), Poll::Ready(Ok(())))));
    // Of the next round are those alone who are waited for.
    let before = group.flusher.metrics().synced_logs.value();
    group.logs.iter().for_each(|log| drop(log.append(batch(&["y"]), client()).unwrap()));
    let mut future = group.logs[7].append(batch(&["z"]), client()).unwrap().durable();
    assert!(poll(&mut future, &woken).is_pending());
    group.step();
    assert_eq!((group.calls(), group.flusher.metrics().synced_logs.value() - before), (vec![1], 1));
    assert!(matches!(poll(&mut future, &woken), Poll::Ready(Ok(()))));
    let steps = group.fs.inner.steps();
    group.step();
    assert_eq!(group.fs.inner.steps(), steps, "nobody asks for anything");
}

#[test]
fn a_failed_sync_latches_its_own_log_and_no_other() {
    for (operation, part) in [(FaultOn::SyncData, "orders-123/0"), (FaultOn::SyncDir, "orders-123")] {
        let group = Group::of(200, &quiet());
        let woken = Arc::new(Woken::default());
        // A new segment everywhere: its name is to be synced too.
        group.logs.iter().for_each(|log| drop(log.append(batch(&["v"]), client()).unwrap()));
        group.logs.iter().for_each(|log| assert!(log.roll().unwrap()));
        let mut futures = group.append_and_wait(&woken);
        group.fs.inner.inject(Fault::new(operation, Effect::SyncDropsPages).path_contains(part));
        group.step();
        assert_eq!(group.calls(), [600]);
        for (at, future) in futures.iter_mut().enumerate() {
            match poll(future, &woken) {
                Poll::Ready(Ok(())) if at != 123 => {}
                Poll::Ready(Err(DurabilityError::Failed(_))) if at == 123 => {}
                other => panic!("{operation:?}: log {at} says {other:?}"),
            }
        }
        let failed = group.flusher.take_failed();
        assert!(failed.len() == 1 && failed[0].0.dir() == Path::new(&dir(123)), "{failed:?}");
        assert!(group.logs[123].health().failed.is_some());
        assert_eq!(group.logs.iter().filter(|log| log.health().failed.is_some()).count(), 1);
        // The others go on.
        group.append_and_wait_but(123);
    }
}

impl Group {
    fn append_and_wait_but(&self, but: usize) {
        let woken = Arc::new(Woken::default());
        for (_, log) in self.logs.iter().enumerate().filter(|(at, _)| *at != but) {
            let mut future = log.append(batch(&["x"]), client()).unwrap().durable();
            assert!(poll(&mut future, &woken).is_pending());
            self.step();
            assert!(matches!(poll(&mut future, &woken), Poll::Ready(Ok(()))));
        }
    }
}

#[test]
fn a_waker_that_panics_costs_no_log_its_round() {
    let group = Group::of(5, &quiet());
    let woken = Arc::new(Woken::default());
    let broken = Arc::new(Woken { panics: true, ..Woken::default() });
    let mut bad = group.logs[2].append(batch(&["x"]), client()).unwrap().durable();
    assert!(poll(&mut bad, &broken).is_pending());
    let mut futures = group.append_and_wait(&woken);
    group.step();
    assert_eq!(group.flusher.metrics().panics.value(), 1);
    assert!(futures.iter_mut().all(|future| matches!(poll(future, &woken), Poll::Ready(Ok(())))));
    assert!(matches!(poll(&mut bad, &broken), Poll::Ready(Ok(()))));
    assert!(group.logs.iter().all(|log| log.health().failed.is_none() && log.durable_end() == log.log_end()));
    group.append_and_wait_but(99);
    group.logs.iter().for_each(|log| log.close().unwrap());
}

/// The same for whoever waits for the mark: woken before the queue of waiters hears of the durable end.
#[test]
fn a_waker_of_a_mark_that_panics_leaves_nobody_waiting() {
    let group = Group::of(3, &quiet());
    let (woken, broken) = (Arc::new(Woken::default()), Arc::new(Woken { panics: true, ..Woken::default() }));
    let mut marked = Box::pin(group.logs[1].wait_for(alluvium::Mark::HighWatermark, at(9)));
    let waker = Waker::from(Arc::clone(&broken));
    assert!(marked.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut config = quiet();
    config.high_watermark = alluvium::HighWatermarkMode::DurableEnd;
    group.logs.iter().for_each(|log| log.update_config(config.clone()).unwrap());
    group.logs[1].append(batch(&["x"; 9]), client()).unwrap();
    let mut futures = group.append_and_wait(&woken);
    group.step();
    assert_eq!((group.flusher.metrics().panics.value(), broken.times.load(Ordering::SeqCst)), (1, 1));
    group.clock.advance(Duration::from_millis(10));
    group.step();
    assert!(futures.iter_mut().all(|future| matches!(poll(future, &woken), Poll::Ready(Ok(())))));
    assert!(group.logs.iter().all(|log| log.health().failed.is_none()));
    group.logs.iter().for_each(|log| log.close().unwrap());
}

/// Nobody knows what the system said of the files then: a later sync that succeeds would say nothing.
#[test]
fn a_sync_that_panics_latches_whoever_was_in_the_round() {
    let mut group = Group::of(3, &quiet());
    group.add(3, &quiet()).unwrap();
    group.step();
    let woken = Arc::new(Woken::default());
    let bystander = group.logs.pop().unwrap();
    let mut futures = group.append_and_wait(&woken);
    group.fs.panics.store(true, Ordering::SeqCst);
    group.step();
    group.fs.panics.store(false, Ordering::SeqCst);
    for future in &mut futures {
        assert!(matches!(poll(future, &woken), Poll::Ready(Err(DurabilityError::Failed(_)))));
    }
    assert_eq!(group.flusher.take_failed().len(), 3);
    assert!(bystander.health().failed.is_none());
    let mut future = bystander.append(batch(&["x"]), client()).unwrap().durable();
    assert!(poll(&mut future, &woken).is_pending());
    group.step();
    assert!(matches!(poll(&mut future, &woken), Poll::Ready(Ok(()))));
}

/// A round of one log whose file system panics during the sync must not take what it captured for durable.
#[test]
fn a_flush_that_panics_is_not_followed_by_one_that_lies() {
    let group = Group::of(1, &quiet());
    let log = &group.logs[0];
    log.append(batch(&["x"]), client()).unwrap();
    // Two segments and a name: one call for three.
    log.roll().unwrap();
    log.append(batch(&["y"]), client()).unwrap();
    group.fs.panics.store(true, Ordering::SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| log.flush())).is_err());
    group.fs.panics.store(false, Ordering::SeqCst);
    assert!(matches!(log.flush(), Err(DurabilityError::Failed(_))));
    assert_eq!(log.durable_end(), at(0));
}

#[test]
fn a_policy_by_age_is_met_to_the_moment() {
    let after = Duration::from_millis(40);
    let flush = FlushPolicy { after: Some(after), ..quiet().flush };
    let group = Group::of(3, &LogConfig { flush, ..quiet() });
    group.clock.advance(Duration::from_secs(1));
    group.logs[0].append(batch(&["x"]), client()).unwrap();
    assert_eq!(group.step(), after);
    group.clock.advance(Duration::from_millis(15));
    group.logs[1].append(batch(&["x"]), client()).unwrap();
    assert_eq!(group.step(), Duration::from_millis(25));
    group.clock.advance(Duration::from_millis(25));
    assert_eq!(group.step(), Duration::from_millis(15));
    assert_eq!((group.logs[0].durable_end(), group.logs[1].durable_end()), (at(1), at(0)));
    group.clock.advance(Duration::from_millis(15));
    group.step();
    assert_eq!((group.logs[1].durable_end(), group.calls()), (at(1), vec![1, 1]));
}

#[test]
fn a_round_waits_for_company_as_long_as_the_least_patient() {
    let with = |linger: u64, max_waiting| {
        let linger = Duration::from_millis(linger);
        LogConfig { flush: FlushPolicy { linger, max_waiting, ..quiet().flush }, ..quiet() }
    };
    let group = Group::of(3, &with(50, 2));
    group.logs[1].update_config(with(20, 2)).unwrap();
    group.step();
    let woken = Arc::new(Woken::default());
    let wait = |log: usize| {
        let mut future = group.logs[log].append(batch(&["x"]), client()).unwrap().durable();
        assert!(poll(&mut future, &woken).is_pending());
        future
    };
    let _first = wait(0);
    assert_eq!(group.step(), Duration::from_millis(50));
    let _second = wait(1);
    assert_eq!(group.step(), Duration::from_millis(20));
    group.clock.advance(Duration::from_millis(20));
    group.step();
    assert_eq!(group.calls(), [2]);
    // Enough company ends it too.
    let _third = wait(2);
    assert_eq!(group.step(), Duration::from_millis(50));
    let _fourth = wait(2);
    group.step();
    assert_eq!(group.calls(), [1]);
}

#[test]
fn a_log_on_another_file_system_is_synced_there() {
    let mut group = Group::of(2, &quiet());
    let elsewhere = Group::of(1, &quiet());
    elsewhere.attached.into_iter().for_each(drop);
    let stranger = elsewhere.logs[0].clone();
    group.attached.push(group.flusher.attach(&stranger));
    group.logs.push(stranger);
    let woken = Arc::new(Woken::default());
    let mut futures = group.append_and_wait(&woken);
    group.step();
    assert_eq!((group.calls(), std::mem::take(&mut *elsewhere.fs.calls.lock().unwrap())), (vec![2], vec![1]));
    assert!(futures.iter_mut().all(|future| matches!(poll(future, &woken), Poll::Ready(Ok(())))));
    // Out of its care, whoever waits syncs.
    group.attached.clear();
    group.logs[0].append(batch(&["x"]), client()).unwrap().wait_durable(Duration::ZERO).unwrap();
}

/// The flusher on a thread of its own, until it is dropped.
struct Driven {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Driven {
    fn by(flusher: &Arc<GroupFlusher>, clock: Arc<dyn Clock>) -> Self {
        let (wake, woken) = sync_channel(1);
        // Full means that it is awake or about to be.
        flusher.on_work(move || _ = wake.try_send(()));
        let (flusher, stop) = (Arc::clone(flusher), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let pause = flusher.step(clock.monotonic());
                match woken.recv_timeout(pause) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => panic!("the flusher keeps its hook"),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Logs on a simulated disk, with real time.
fn timed(logs: usize) -> (Vec<PartitionLog>, Vec<Attached>, Driven) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let environment = Environment { fs: Arc::new(SimFs::new(1)), clock: Arc::clone(&clock) };
    let flusher = Arc::new(GroupFlusher::new(Arc::clone(&environment.fs), Arc::clone(&clock)));
    let config = LogConfig { segment_bytes: 1 << 16, ..quiet() };
    let open = |at| environment.open(dir(at), config.clone()).unwrap();
    let logs: Vec<_> = (0..logs).map(open).collect();
    let attached = logs.iter().map(|log| flusher.attach(log)).collect();
    let driven = Driven::by(&flusher, clock);
    (logs, attached, driven)
}

#[test]
fn no_wake_up_is_lost() {
    let (logs, _attached, _driven) = timed(12);
    let until = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for (at, log) in (0..24).map(|at| (at, &logs[at % 12])) {
            scope.spawn(move || {
                while Instant::now() < until {
                    let appended = log.append(batch(&["x"]), client()).unwrap();
                    // Far less than what a flusher sleeps that was not woken would be needed to notice, so: strict.
                    let started = Instant::now();
                    appended.wait_durable(LONG).unwrap();
                    assert!(log.durable_end() >= appended.end());
                    assert!(started.elapsed() < Duration::from_secs(5), "log {at} waited {:?}", started.elapsed());
                }
            });
        }
    });
    let rounds: u64 = logs.iter().map(|log| log.metrics().sync_rounds.value()).sum();
    let appended: i64 = logs.iter().map(|log| log.log_end().value()).sum();
    assert!(rounds > 100 && appended > 100, "{rounds} rounds, {appended} appends");
}

#[test]
fn truncations_and_closes_beside_rounds_leave_nobody_waiting() {
    let (logs, _attached, _driven) = timed(6);
    let until = Instant::now() + Duration::from_millis(700);
    std::thread::scope(|scope| {
        for log in &logs {
            for _ in 0..2 {
                scope.spawn(move || {
                    loop {
                        let Ok(appended) = log.append(batch(&["x"]), client()) else { return };
                        match appended.wait_durable(LONG) {
                            Ok(()) | Err(DurabilityError::Truncated { .. }) => {}
                            Err(DurabilityError::Closed) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
            scope.spawn(move || {
                while Instant::now() < until {
                    let end = log.log_end().value();
                    match log.truncate_to(at((end - 3).max(0))) {
                        Ok(_) | Err(ChangeError::OutOfRange { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                    std::thread::yield_now();
                }
                log.close().unwrap();
            });
        }
    });
    assert!(logs.iter().all(|log| log.health().failed.is_none() && log.health().is_closed));
}

/// What was acknowledged to each log.
type Acknowledged = Vec<i64>;

/// Two group rounds over three logs, the second with rolled segments and new names. Returns where each log was
/// acknowledged, when it ended or the machine crashed.
fn two_rounds(fs: SimFs) -> (SimFs, Acknowledged) {
    let mut group = Group::empty(fs);
    let mut acknowledged = vec![0; 3];
    let config = LogConfig { segment_bytes: 250, ..quiet() };
    for log in 0..3 {
        if group.add(log, &config).is_err() {
            return ((*group.fs.inner).clone(), acknowledged);
        }
    }
    let woken = Arc::new(Woken::default());
    for round in 0..2 {
        let mut futures = Vec::new();
        for (at, log) in group.logs.iter().enumerate() {
            for n in 0..=(round * (at + 2)) {
                let Ok(appended) = log.append(batch(&[&format!("{at} {round} {n}")]), client()) else { continue };
                let mut future = appended.durable();
                let _ = poll(&mut future, &woken);
                futures.push((at, appended.end().value(), future));
            }
        }
        group.step();
        for (at, end, future) in &mut futures {
            if matches!(poll(future, &woken), Poll::Ready(Ok(()))) {
                acknowledged[*at] = acknowledged[*at].max(*end);
            }
        }
    }
    ((*group.fs.inner).clone(), acknowledged)
}

#[test]
fn a_crash_at_any_step_of_a_round_loses_nothing_acknowledged_and_leaves_prefixes() {
    let (whole, all) = two_rounds(SimFs::new(5));
    assert_eq!(all, [4, 5, 6]);
    let steps = whole.steps();
    for step in 0..steps {
        let fs = SimFs::new(5);
        fs.crash_after(step);
        let (fs, acknowledged) = two_rounds(fs);
        assert!(fs.is_crashed(), "step {step} of {steps}");
        let extremes = [Survival::Nothing, Survival::Everything];
        for survival in extremes.into_iter().chain((0..6).map(|n| Survival::Random(step * 31 + n))) {
            let image = fs.power_loss_keeping(survival);
            let environment = Environment { fs: Arc::new(image), clock: Arc::new(ManualClock::at(NOW)) };
            for (at, acknowledged) in acknowledged.iter().enumerate() {
                let told = format!("step {step} of {steps}, {survival:?}, log {at}");
                let log = environment.open(dir(at), quiet()).unwrap_or_else(|error| panic!("{told}: {error}"));
                let found = contents(&log);
                let values: Vec<String> = found.iter().map(|(_, _, value)| value.clone()).collect();
                let written =
                    (0..2).flat_map(|round| (0..=(round * (at + 2))).map(move |n| format!("{at} {round} {n}")));
                let written: Vec<String> = written.take(values.len()).collect();
                assert_eq!(values, written, "{told}: no prefix");
                assert!(
                    values.len() >= usize::try_from(*acknowledged).unwrap(),
                    "{told}: {acknowledged} were acknowledged"
                );
            }
        }
    }
}
