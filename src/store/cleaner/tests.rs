//! The supervisor with passes that do as they are told, on a simulated disk and a clock that moves when told.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::engine::{CleaningPass, Stepped};
use super::track::{Look, PassBytes};
use super::*;
use crate::clean::{CleanError, CleanMode, CleanOptions, Cleaned};
use crate::clock::ManualClock;
use crate::config::{CleanupPolicy, LogConfig};
use crate::error::{IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
use crate::index::replace_small_file;
use crate::log::{AppendAs, Environment, PartitionLog};
use crate::record::BatchBuilder;
use crate::segment::names::CLEANER_STATE;
use crate::store::events::{StoreEvent, Subscription};
use crate::store::{CheckpointKind, OffsetCheckpoint, StoreConfig, StoreOpening, Workers};
use crate::sync::Mutex;
use crate::units::{LeaderEpoch, Offset, TimestampMs};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What a pass does when it is stepped.
#[derive(Clone, Debug)]
enum Act {
    /// So many bytes, and more to come.
    Move(u64),
    /// One byte, for ever.
    Endless,
    Panic(&'static str),
    Io,
    Space(u64),
    Changed,
    /// Waits until it is let go on.
    Hang,
}

#[derive(Debug, Default)]
struct Plan {
    dirty: u64,
    /// What its passes do before they finish; each act is done once.
    acts: VecDeque<Act>,
}

/// Cleans as it is told.
#[derive(Debug, Default)]
struct Fake {
    plans: Mutex<BTreeMap<String, Plan>>,
    begun: Mutex<Vec<(String, CleanOptions)>>,
    finished: Mutex<Vec<String>>,
    alive: Arc<AtomicUsize>,
    hanging: Mutex<Vec<Sender<()>>>,
    looks: AtomicUsize,
}

impl Fake {
    fn plan(&self, partition: &str, dirty: u64, acts: impl IntoIterator<Item = Act>) {
        self.plans.lock().insert(partition.into(), Plan { dirty, acts: acts.into_iter().collect() });
    }

    fn begun(&self) -> Vec<String> {
        self.begun.lock().iter().map(|(name, _)| name.clone()).collect()
    }

    fn last_options(&self) -> CleanOptions {
        self.begun.lock().last().unwrap().1.clone()
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }
}

fn name_of(log: &PartitionLog) -> String {
    log.dir().file_name().unwrap().to_str().unwrap().to_owned()
}

#[derive(Debug)]
struct Engine(Arc<Fake>);

struct FakePass {
    fake: Arc<Fake>,
    name: String,
    done: u64,
}

impl Drop for FakePass {
    fn drop(&mut self) {
        self.fake.alive.fetch_sub(1, Ordering::AcqRel);
    }
}

impl CleaningEngine for Engine {
    fn look(&self, log: &PartitionLog, _: Option<LastPass>, _: TimestampMs) -> Result<Look, CleanError> {
        self.0.looks.fetch_add(1, Ordering::AcqRel);
        let dirty_bytes = self.0.plans.lock().get(&name_of(log)).map_or(0, |plan| plan.dirty);
        let due = (dirty_bytes > 0).then_some(CleaningReason::Ratio);
        Ok(Look { due, dirty_bytes, excess_bytes: dirty_bytes, log_end: log.log_end(), ..Look::default() })
    }

    fn begin(&self, log: &PartitionLog, options: &CleanOptions) -> Result<Option<Box<dyn CleaningPass>>, CleanError> {
        let name = name_of(log);
        self.0.begun.lock().push((name.clone(), options.clone()));
        self.0.alive.fetch_add(1, Ordering::AcqRel);
        Ok(Some(Box::new(FakePass { fake: Arc::clone(&self.0), name, done: 0 })))
    }

    fn first_dirty(&self, log: &PartitionLog) -> Offset {
        log.log_end()
    }
}

impl CleaningPass for FakePass {
    fn step(&mut self, bytes_max: u64) -> Result<Stepped, CleanError> {
        assert_eq!(bytes_max, MIB);
        let act = {
            let mut plans = self.fake.plans.lock();
            let plan = plans.get_mut(&self.name).unwrap();
            if let Some(Act::Endless) = plan.acts.front() { Some(Act::Endless) } else { plan.acts.pop_front() }
        };
        let disk = || IoFailure::new(IoOperation::Read, "/data/x.log", std::io::ErrorKind::Other.into());
        let bytes = match act {
            Some(Act::Move(bytes)) => bytes,
            Some(Act::Endless) => 1,
            Some(Act::Panic(message)) => panic!("{message}"),
            Some(Act::Io) => return Err(CleanError::Io(disk())),
            Some(Act::Space(missing_bytes)) => return Err(CleanError::Space { missing_bytes, cause: disk() }),
            Some(Act::Changed) => return Err(CleanError::Changed),
            Some(Act::Hang) => {
                let (sender, receiver): (_, Receiver<()>) = channel();
                self.fake.hanging.lock().push(sender);
                let _ = receiver.recv();
                1
            }
            None => 0,
        };
        self.done += bytes;
        let finished = act.is_none().then(|| {
            self.fake.plans.lock().get_mut(&self.name).unwrap().dirty = 0;
            self.fake.finished.lock().push(self.name.clone());
            Cleaned { passes: 1, bytes_read: self.done, bytes_written: self.done / 4, ..Cleaned::default() }
        });
        let so_far = PassBytes { done: self.done, total: 10 * MIB, freed: 0 };
        Ok(Stepped { bytes, phase: CleaningPhase::Learning, mode: CleanMode::Map, so_far, finished })
    }
}

struct World {
    fs: SimFs,
    clock: Arc<ManualClock>,
    fake: Arc<Fake>,
    config: StoreConfig,
}

impl World {
    fn new(cleaner: CleanerConfig) -> Self {
        let config = StoreConfig {
            workers: Workers::Tick,
            reserve_bytes: 0,
            space_floor_bytes: 0,
            idle_after: None,
            cleaner,
            ..StoreConfig::new("/data")
        };
        let (fs, clock) = (SimFs::new(1), Arc::new(ManualClock::at(1_000_000_000_000)));
        Self { fs, clock, fake: Arc::default(), config }
    }

    fn open(&self) -> Store {
        let environment = Environment { fs: Arc::new(self.fs.clone()), clock: Arc::clone(&self.clock) as _ };
        let opening = StoreOpening::new(self.config.clone()).environment(environment);
        opening.configs(|_| Some(compact())).engine(Arc::new(Engine(Arc::clone(&self.fake)))).open().unwrap()
    }

    /// Lets time pass and the store work.
    fn pass(&self, store: &Store, time: Duration) {
        self.clock.advance(time);
        for _ in 0..20 {
            store.tick();
        }
    }
}

fn tick_config() -> CleanerConfig {
    CleanerConfig {
        backoff: SECOND,
        retry: 2 * SECOND,
        retry_max: 60 * SECOND,
        behind_bytes: None,
        behind_after: None,
        ..CleanerConfig::default()
    }
}

fn compact() -> LogConfig {
    LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() }
}

fn named(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

fn create(store: &Store, names: &[&str]) {
    for name in names {
        store.create(&named(name), compact()).unwrap();
    }
}

fn append(store: &Store, name: &str) {
    let batch = BatchBuilder::new().record(TimestampMs::new(7), Some(b"k"), Some(b"v")).build().unwrap();
    store.get(&named(name)).unwrap().append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
}

fn state(store: &Store, name: &str) -> CleaningState {
    store.cleaner().health_of(&named(name)).unwrap().state
}

fn events(subscription: &Subscription) -> Vec<StoreEvent> {
    std::iter::from_fn(|| subscription.try_next()).collect()
}

#[test]
fn what_is_due_is_cleaned_the_neediest_first() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["a-0", "b-0", "c-0", "clean-0"]);
    store.create(&named("deleted-0"), LogConfig::default()).unwrap();
    for (name, dirty) in [("a-0", 10), ("b-0", 30), ("c-0", 20), ("deleted-0", 99)] {
        world.fake.plan(name, dirty, [Act::Move(5), Act::Move(5)]);
    }
    world.pass(&store, SECOND);
    assert_eq!(world.fake.begun(), ["b-0", "c-0", "a-0"]);
    assert_eq!(*world.fake.finished.lock(), ["b-0", "c-0", "a-0"]);
    assert!(store.health().is_well() && store.cleaner().health().is_well());
    assert_eq!(state(&store, "b-0"), CleaningState::Clean);
    assert_eq!(store.cleaner().health().partitions.len(), 4, "those that are compacted");
    let metrics = store.metrics().cleaning;
    assert_eq!((metrics.counts.passes, metrics.counts.read_bytes, metrics.cleaner_recopy_percent), (3, 30, 20));
    world.clock.advance(3 * SECOND);
    assert_eq!(store.metrics().cleaning.time_since_last_run_ms, 3000);
    // A look that finds nothing to do is a run, as it is for Kafka: a store at rest is no cleaner that died.
    world.pass(&store, SECOND);
    assert!(store.metrics().cleaning.time_since_last_run_ms <= 1000);
    store.cleaner().reconfigure(CleanerConfig { enabled: false, ..tick_config() }).unwrap();
    world.fake.plan("a-0", 10, [Act::Move(5)]);
    for _ in 0..5 {
        world.pass(&store, SECOND);
    }
    assert_eq!(store.metrics().cleaning.counts.passes, 3, "switched off");
    assert!(store.metrics().cleaning.time_since_last_run_ms >= 5000);
}

/// Kafka's thread dies of it, and with it all cleaning (rows 49, 67 and 83).
#[test]
fn a_panic_is_one_partitions_retry_and_nobody_elses() {
    let world = World::new(tick_config());
    let store = world.open();
    let told = store.subscribe(64);
    create(&store, &["bad-0", "good-0"]);
    world.fake.plan("bad-0", 100, [Act::Move(5), Act::Panic("index out of bounds"), Act::Panic("again")]);
    world.fake.plan("good-0", 10, []);
    world.pass(&store, SECOND);
    assert_eq!(*world.fake.finished.lock(), ["good-0"]);
    let CleaningState::Retry { attempt: 1, cause, .. } = state(&store, "bad-0") else { panic!() };
    assert_eq!((cause.kind, &*cause.message), (CauseKind::Panic, "index out of bounds"));
    let health = store.health();
    assert!(!health.is_well() && health.partitions[0].cleaning.as_ref().is_some_and(|cleaning| !cleaning.is_well()));
    assert_eq!(store.metrics().cleaning.uncleanable_partitions_count, 1);
    assert_eq!(store.metrics().cleaning.uncleanable_bytes, 100);
    assert_eq!(world.fake.alive(), 0, "the pass is gone");

    world.pass(&store, SECOND);
    assert_eq!(world.fake.begun().len(), 2, "not before its time");
    world.pass(&store, SECOND);
    assert!(matches!(state(&store, "bad-0"), CleaningState::Retry { attempt: 2, .. }));
    world.pass(&store, 4 * SECOND);
    assert_eq!(state(&store, "bad-0"), CleaningState::Clean);
    assert!(store.health().is_well());
    let told = events(&told);
    let failed = |event: &&StoreEvent| matches!(event, StoreEvent::CleaningFailed { .. });
    assert_eq!(told.iter().filter(failed).count(), 2);
    assert!(matches!(told.last(), Some(StoreEvent::CleaningRecovered { partition }) if *partition == named("bad-0")));
}

/// Rows 72 and 82: an error of one partition takes no directory offline, in whatever phase, and is not tried a hundred
/// times a second.
#[test]
fn an_io_error_is_tried_again_with_growing_pauses_and_at_once_when_the_settings_change() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["bad-0", "good-0"]);
    world.fake.plan("bad-0", 100, vec![Act::Io; 1000]);
    let mut attempts = 0;
    for _ in 0..600 {
        world.fake.plans.lock().entry("good-0".into()).or_default().dirty = 1;
        world.pass(&store, SECOND);
        attempts = world.fake.begun().iter().filter(|name| *name == "bad-0").count();
    }
    assert!((10..=16).contains(&attempts), "2, 4 ... 60, 60 seconds: {attempts}");
    assert!(world.fake.finished.lock().len() >= 300, "the other one is cleaned all the time");
    assert!(store.health().directories.iter().all(|directory| directory.offline.is_none()));
    assert!(matches!(state(&store, "bad-0"), CleaningState::Retry { .. }));

    world.fake.plan("bad-0", 100, []);
    let log = store.get(&named("bad-0")).unwrap().log().unwrap();
    log.update_config(LogConfig { segment_bytes: 1 << 20, ..compact() }).unwrap();
    drop(log);
    world.pass(&store, SECOND);
    assert_eq!(state(&store, "bad-0"), CleaningState::Clean);
}

#[test]
fn what_came_in_between_is_looked_at_again_without_a_word() {
    let world = World::new(tick_config());
    let store = world.open();
    let told = store.subscribe(64);
    create(&store, &["moved-0"]);
    world.fake.plan("moved-0", 10, [Act::Changed]);
    world.pass(&store, SECOND);
    assert!(matches!(state(&store, "moved-0"), CleaningState::Due { .. }));
    world.pass(&store, 2 * SECOND);
    assert_eq!(state(&store, "moved-0"), CleaningState::Clean);
    assert!(events(&told).is_empty());
}

#[test]
fn a_pause_a_failure_and_an_alarm_outlive_the_process() {
    let world = World::new(CleanerConfig { behind_bytes: Some(50), ..tick_config() });
    let store = world.open();
    create(&store, &["paused-0", "failed-0"]);
    world.fake.plan("paused-0", 100, []);
    world.fake.plan("failed-0", 10, vec![Act::Io; 9]);
    store.cleaner().pause(&named("paused-0"), "backup of the night").unwrap();
    world.pass(&store, SECOND);
    let before = [state(&store, "paused-0"), state(&store, "failed-0")];
    assert!(matches!(&before[0], CleaningState::Paused { by, .. } if by == "backup of the night"), "{before:?}");
    assert!(matches!(before[1], CleaningState::Retry { attempt: 1, .. }));
    drop(store);
    let again = world.open();
    assert_eq!([state(&again, "paused-0"), state(&again, "failed-0")], before, "after a crash");
    again.close(10 * SECOND).unwrap();
    drop(again);
    let store = world.open();
    assert_eq!([state(&store, "paused-0"), state(&store, "failed-0")], before, "after a close");
    let behind = store.cleaner().health_of(&named("paused-0")).unwrap().behind;
    assert_eq!(behind.map(|behind| behind.backlog_bytes), Some(100));
    store.cleaner().resume(&named("paused-0")).unwrap();
    world.pass(&store, SECOND);
    assert_eq!(*world.fake.finished.lock(), ["paused-0"]);
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_begun_anew() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["users-0"]);
    store.cleaner().pause(&named("users-0"), "operator").unwrap();
    store.close(10 * SECOND).unwrap();
    drop(store);
    replace_small_file(&world.fs, Path::new("/data/users-0"), CLEANER_STATE, b"rubbish").unwrap();
    let store = world.open();
    let told = store.subscribe(8);
    store.cleaner().survey();
    assert!(matches!(events(&told)[..], [StoreEvent::CleanerStateLost { .. }]));
    let health = store.cleaner().health_of(&named("users-0")).unwrap();
    assert!(health.is_begun_anew && health.state == CleaningState::Clean);
}

#[test]
fn a_file_that_the_disk_does_not_give_is_no_reason_to_clean_never_again() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["users-0"]);
    world.fake.plan("users-0", 10, []);
    let fault = Fault::new(FaultOn::Open, Effect::Error(Errno::Eio)).path_contains(CLEANER_STATE).always();
    world.fs.inject(fault);
    world.pass(&store, SECOND);
    assert!(matches!(state(&store, "users-0"), CleaningState::Retry { attempt: 1, .. }));
    world.fs.clear_faults();
    world.pass(&store, 2 * SECOND);
    assert_eq!(state(&store, "users-0"), CleaningState::Clean);
}

/// Row 54: nothing of a deleted partition is left for one of its name.
#[test]
fn one_that_is_made_anew_under_an_old_name_begins_anew() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["users-0"]);
    append(&store, "users-0");
    store.cleaner().pause(&named("users-0"), "operator").unwrap();
    world.pass(&store, 61 * SECOND);
    let listed = || {
        let list = OffsetCheckpoint::read(&world.fs, Path::new("/data"), CheckpointKind::Cleaner).unwrap();
        list.offset(&named("users-0"))
    };
    assert_eq!(listed(), Offset::new(1), "Kafka finds it");
    store.delete(&named("users-0")).unwrap();
    assert_eq!(listed(), None);
    create(&store, &["users-0"]);
    store.cleaner().survey();
    assert_eq!(state(&store, "users-0"), CleaningState::Clean);
    store.close(10 * SECOND).unwrap();
    assert_eq!(listed(), Some(Offset::ZERO), "written at the close");
}

#[test]
fn deleting_a_partition_ends_its_pass() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["users-0"]);
    world.fake.plan("users-0", 10, [Act::Endless]);
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 1);
    store.delete(&named("users-0")).unwrap();
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 0);
}

#[test]
fn pausing_all_and_one_and_aborting_end_passes_between_two_steps() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["users-0"]);
    let cleaner = store.cleaner();
    let users = named("users-0");
    world.fake.plan("users-0", 10, [Act::Endless]);
    world.pass(&store, SECOND);
    assert!(matches!(state(&store, "users-0"), CleaningState::Cleaning(CleaningProgress { worker: 0, .. })));
    cleaner.pause_all("operator");
    world.pass(&store, SECOND);
    assert_eq!((world.fake.alive(), cleaner.health().paused_by), (0, Some("operator".into())));
    cleaner.resume_all();
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 1);
    cleaner.abort(&users).unwrap();
    store.tick();
    assert_eq!(world.fake.alive(), 0);
    world.pass(&store, 2 * SECOND);
    assert_eq!(world.fake.alive(), 1, "due all the same");
    cleaner.pause(&users, "operator").unwrap();
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 0);
    assert!(matches!(cleaner.pause(&named("nobody-0"), "x"), Err(StoreError::Unknown { .. })));
    store.close(10 * SECOND).unwrap();
    assert!(matches!(cleaner.pause(&users, "x"), Err(StoreError::Closed)));
}

#[test]
fn run_now_cleans_what_is_not_due_and_does_not_wait_for_a_retry() {
    let world = World::new(tick_config());
    let store = world.open();
    create(&store, &["clean-0", "bad-0"]);
    world.fake.plan("clean-0", 0, []);
    world.fake.plan("bad-0", 10, [Act::Io]);
    world.pass(&store, SECOND);
    assert_eq!(world.fake.begun(), ["bad-0"]);
    for name in ["clean-0", "bad-0"] {
        store.cleaner().run_now(&named(name)).unwrap();
    }
    world.pass(&store, Duration::ZERO);
    let mut finished = world.fake.finished.lock().clone();
    finished.sort();
    assert_eq!(finished, ["bad-0", "clean-0"]);
}

/// Two workers share one rate; in catch-up it is lifted.
#[test]
fn the_throttle_holds_over_all_workers_and_is_lifted_for_what_is_behind() {
    let rate = NonZeroU64::new(MIB);
    let config = CleanerConfig { threads: 2, bytes_per_second: rate, behind_bytes: Some(1000), ..tick_config() };
    let world = World::new(config);
    let store = world.open();
    let told = store.subscribe(64);
    create(&store, &["a-0", "b-0", "c-0"]);
    for name in ["a-0", "b-0"] {
        world.fake.plan(name, 10, vec![Act::Move(MIB); 100]);
    }
    for _ in 0..10 {
        world.pass(&store, SECOND);
    }
    assert_eq!(world.fake.alive(), 2, "both are at it");
    let moved = store.metrics().cleaning.counts.moved_bytes / MIB;
    assert!((10..=13).contains(&moved), "{moved} MiB in 10 seconds");

    world.fake.plans.lock().get_mut("a-0").unwrap().dirty = 5000;
    world.pass(&store, SECOND);
    assert!(store.cleaner().health().is_catching_up && !store.health().is_well());
    world.pass(&store, SECOND);
    let unthrottled = store.metrics().cleaning.counts.moved_bytes / MIB;
    assert!(unthrottled > moved + 30, "{unthrottled}");
    let behind = events(&told).into_iter().find_map(|event| match event {
        StoreEvent::CleanerBehind { partition, backlog_bytes, .. } => Some((partition, backlog_bytes)),
        _ => None,
    });
    assert_eq!(behind, Some((named("a-0"), 5000)));
    let backlog = store.cleaner().backlog();
    assert_eq!((&backlog.partitions[0].partition, backlog.bytes), (&named("a-0"), 5010));
    for _ in 0..20 {
        world.pass(&store, SECOND);
    }
    assert!(events(&told).iter().any(|event| matches!(event, StoreEvent::CleanerCaughtUp { .. })));
    assert!(!store.cleaner().health().is_catching_up);
}

/// What is behind because somebody paused it, or because its directory is gone, is no reason to hurry the others: an
/// operator's pause would take the throttle off a whole machine.
#[test]
fn what_cannot_be_cleaned_does_not_lift_the_throttle() {
    let rate = NonZeroU64::new(MIB);
    let config = CleanerConfig { bytes_per_second: rate, behind_bytes: Some(1000), ..tick_config() };
    let world = World::new(config);
    let store = world.open();
    create(&store, &["a-0", "paused-0"]);
    store.cleaner().pause(&named("paused-0"), "backup").unwrap();
    world.fake.plan("a-0", 10, vec![Act::Move(MIB); 100]);
    world.fake.plan("paused-0", 5000, []);
    for _ in 0..10 {
        world.pass(&store, SECOND);
    }
    let health = store.cleaner().health();
    assert!(!health.is_catching_up && store.metrics().cleaning.behind_partitions == 1, "{health:?}");
    let moved = store.metrics().cleaning.counts.moved_bytes / MIB;
    assert!((10..=13).contains(&moved), "{moved} MiB in 10 seconds");
    store.cleaner().resume(&named("paused-0")).unwrap();
    world.pass(&store, SECOND);
    assert!(store.cleaner().health().is_catching_up);
}

#[test]
fn passes_never_hold_more_than_the_memory_whatever_the_settings_become() {
    let total = 8 * MIB;
    let world = World::new(CleanerConfig { memory_bytes: total, ..tick_config() });
    let store = world.open();
    create(&store, &["a-0", "b-0", "c-0", "d-0"]);
    for name in ["a-0", "b-0", "c-0", "d-0"] {
        world.fake.plan(name, 10, [Act::Endless]);
    }
    world.pass(&store, SECOND);
    assert_eq!((world.fake.alive(), world.fake.last_options().memory_bytes), (1, total));
    for (threads, memory_bytes) in [(4, total), (2, total), (2, 2 * MIB), (1, MIB), (4, 4 * MIB), (3, total)] {
        let config = CleanerConfig { threads, memory_bytes, ..tick_config() };
        store.cleaner().reconfigure(config).unwrap();
        for _ in 0..10 {
            world.pass(&store, SECOND);
        }
        assert_eq!(world.fake.alive(), usize::try_from(threads).unwrap());
        let held = store.metrics().cleaning.memory_bytes;
        assert!(held <= memory_bytes, "{held} of {memory_bytes} with {threads}");
        // Those that hold less than their new share go on with it.
        assert!(world.fake.last_options().memory_bytes <= memory_bytes / u64::from(threads));
    }
    assert!(store.cleaner().reconfigure(CleanerConfig { threads: 0, ..tick_config() }).is_err());
}

/// Ten thousand idle partitions must not be opened to see that there is nothing to do.
#[test]
fn idle_partitions_are_judged_by_what_is_known_of_them() {
    let mut world = World::new(tick_config());
    world.config.idle_after = Some(SECOND);
    let store = world.open();
    create(&store, &["idle-0", "late-0"]);
    for name in ["idle-0", "late-0"] {
        append(&store, name);
    }
    store.cleaner().survey();
    store.close(10 * SECOND).unwrap();
    drop(store);
    let store = world.open();
    for _ in 0..100 {
        world.pass(&store, SECOND);
    }
    assert_eq!(store.metrics().work.opened_logs, 0, "not even once after the restart");

    // What nobody knows is opened once, and known from then on.
    for name in ["idle-0", "late-0"] {
        world.fs.remove_file(&PathBuf::from("/data").join(name).join(CLEANER_STATE)).unwrap();
    }
    drop(store);
    let store = world.open();
    world.fake.plan("late-0", 10, []);
    for _ in 0..100 {
        world.pass(&store, SECOND);
    }
    assert_eq!(*world.fake.finished.lock(), ["late-0"]);
    let opened = store.metrics().work.opened_logs;
    assert!(opened <= 4, "{opened}");
    for _ in 0..100 {
        world.pass(&store, SECOND);
    }
    assert_eq!(store.metrics().work.opened_logs, opened);
}

#[test]
fn a_full_disk_lends_its_reserve_and_says_how_much_is_missing() {
    let mut world = World::new(tick_config());
    world.config.reserve_bytes = 64 * 1024;
    world.config.space_floor_bytes = MIB;
    world.config.space_margin_bytes = 0;
    world.fs.set_capacity(Some(10 * MIB));
    let store = world.open();
    create(&store, &["users-0"]);
    world.fake.plan("users-0", 10, vec![Act::Space(300_000); 5]);
    world.pass(&store, SECOND);
    let CleaningState::Retry { cause, .. } = state(&store, "users-0") else { panic!() };
    assert_eq!(cause.kind.missing_bytes(), Some(300_000));
    assert!(world.fake.last_options().group_bytes_max.is_none());
    // There is space, as far as can be seen: that is no reason to try all the time.
    for pause in [2, 4, 8, 16] {
        world.pass(&store, pause * SECOND);
    }
    assert!(matches!(state(&store, "users-0"), CleaningState::Retry { attempt: 5, .. }));
    let options = world.fake.last_options();
    assert!(options.group_bytes_max.is_some_and(|group| group >= 64 * 1024), "{options:?}");
    assert_eq!(options.spill_bytes_max, Some(0));

    // It is full, and then there is room: now it is one.
    world.fs.set_capacity(Some(MIB));
    world.pass(&store, 6 * SECOND);
    assert!(!store.health().directories[0].is_well());
    world.fs.set_capacity(Some(10 * MIB));
    world.pass(&store, SECOND);
    world.pass(&store, SECOND);
    assert_eq!(state(&store, "users-0"), CleaningState::Clean);
}

#[test]
fn closing_drops_passes_between_two_steps_and_writes_down_what_is_known() {
    let world = World::new(CleanerConfig { threads: 3, ..tick_config() });
    let store = world.open();
    create(&store, &["a-0", "b-0", "c-0"]);
    for name in ["a-0", "b-0", "c-0"] {
        world.fake.plan(name, 10, [Act::Endless]);
    }
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 3);
    let closed = store.close(10 * SECOND).unwrap();
    assert_eq!((closed.clean, world.fake.alive()), (3, 0));
    drop(store);
    let store = world.open();
    assert!(matches!(state(&store, "a-0"), CleaningState::Due { .. }));
    world.pass(&store, SECOND);
    assert_eq!(world.fake.alive(), 3, "gone on with");
}

/// Waits for something that other threads bring about.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "waits for threads")]
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("in vain: {what}");
}

fn threaded(threads: u32) -> (World, tempfile::TempDir) {
    let backoff = Duration::from_millis(50);
    let stuck_after = Duration::from_millis(300);
    let memory_bytes = 8 * MIB;
    let config = CleanerConfig { threads, memory_bytes, backoff, stuck_after, retry: backoff, ..tick_config() };
    let mut world = World::new(config);
    let dir = tempfile::tempdir().unwrap();
    world.config.workers = Workers::Threads;
    world.config.directories = vec![dir.path().to_owned()];
    (world, dir)
}

fn open_on_disk(world: &World) -> Store {
    let opening = StoreOpening::new(world.config.clone()).configs(|_| Some(compact()));
    opening.engine(Arc::new(Engine(Arc::clone(&world.fake)))).open().unwrap()
}

#[test]
fn a_worker_that_hangs_is_seen_and_another_one_goes_on() {
    let (world, _dir) = threaded(2);
    let store = open_on_disk(&world);
    create(&store, &["hangs-0", "serves-0"]);
    world.fake.plan("hangs-0", 1000, [Act::Hang]);
    world.fake.plan("serves-0", 10, [Act::Move(1)]);
    eventually("the other one is cleaned", || world.fake.finished.lock().contains(&"serves-0".to_owned()));
    eventually("it is seen", || !store.health().is_well());
    let health = store.cleaner().health();
    let stuck: Vec<_> = health.workers.iter().filter(|worker| worker.is_stuck).collect();
    assert_eq!(stuck.len(), 1);
    assert_eq!(stuck[0].partition, Some(named("hangs-0")));
    assert_eq!((store.cleaner().metrics().stuck_workers, store.cleaner().metrics().dead_thread_count), (1, 0));
    world.fake.hanging.lock().clear();
    eventually("it goes on", || world.fake.finished.lock().contains(&"hangs-0".to_owned()));
    eventually("all is well", || store.health().is_well());
    store.close(10 * SECOND).unwrap();
}

/// With one thread, as by default, a dead disk must not end the cleaning of all others.
#[test]
fn while_the_only_worker_hangs_a_stand_in_goes_on_within_the_memory() {
    let (mut world, _dir) = threaded(1);
    world.config.cleaner.memory_bytes = 16 * MIB;
    let store = open_on_disk(&world);
    create(&store, &["hangs-0"]);
    world.fake.plan("hangs-0", 1000, [Act::Hang]);
    eventually("it hangs", || !world.fake.hanging.lock().is_empty());
    create(&store, &["serves-0"]);
    world.fake.plan("serves-0", 10, [Act::Move(1)]);
    eventually("the other one is cleaned", || world.fake.finished.lock().contains(&"serves-0".to_owned()));
    assert_eq!(world.fake.last_options().memory_bytes, MIB);
    assert_eq!(world.fake.begun.lock()[0].1.memory_bytes, 15 * MIB);
    world.fake.hanging.lock().clear();
    eventually("it goes on", || world.fake.finished.lock().contains(&"hangs-0".to_owned()));
    store.close(10 * SECOND).unwrap();
}

#[test]
fn a_close_does_not_wait_for_a_worker_that_hangs() {
    let (world, _dir) = threaded(1);
    let store = open_on_disk(&world);
    create(&store, &["hangs-0"]);
    world.fake.plan("hangs-0", 1000, [Act::Hang]);
    eventually("it hangs", || !world.fake.hanging.lock().is_empty());
    let (done, closed) = channel();
    let closing = store.clone();
    let thread = std::thread::spawn(move || done.send(closing.close(SECOND).is_ok()));
    assert_eq!(closed.recv_timeout(20 * SECOND), Ok(true));
    world.fake.hanging.lock().clear();
    assert!(thread.join().is_ok());
}

#[test]
fn threads_come_and_go_with_the_settings() {
    let (world, _dir) = threaded(1);
    let store = open_on_disk(&world);
    let names = ["a-0", "b-0", "c-0", "d-0"];
    create(&store, &names);
    for name in names {
        world.fake.plan(name, 10, [Act::Endless]);
    }
    for threads in [4_u32, 2, 3, 1] {
        store.cleaner().reconfigure(CleanerConfig { threads, ..world.config.cleaner.clone() }).unwrap();
        let wanted = usize::try_from(threads).unwrap();
        eventually("as many passes as threads", || world.fake.alive() == wanted);
        assert_eq!(store.cleaner().health().workers.len(), wanted);
        assert_eq!(store.cleaner().metrics().dead_thread_count, 0);
    }
    store.close(10 * SECOND).unwrap();
    assert_eq!(world.fake.alive(), 0);
}
