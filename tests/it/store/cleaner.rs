//! The cleaner at work in a store: by itself, after faults, over restarts, with one thread and several.

use std::collections::BTreeMap;
use std::time::Duration;

use alluvium::clean::CleanerConfig;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::store::cleaner::{CauseKind, CleaningState};
use alluvium::store::events::StoreEvent;
use alluvium::store::{CheckpointKind, OffsetCheckpoint, Partition, Store, StoreConfig, StoreOpening, Workers};
use alluvium::{BatchBuilder, CleanupPolicy, LogConfig, RecordBatch, TimestampMs};

use super::super::support::NOW;
use super::world::{World, client, named};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);
const KEYS: u32 = 5;

pub(super) fn compact() -> LogConfig {
    LogConfig { cleanup_policy: CleanupPolicy::Compact, segment_bytes: 600, ..LogConfig::default() }
}

fn keyed(number: u32) -> RecordBatch {
    let (key, value) = (format!("key-{}", number % KEYS), format!("value-{number}"));
    BatchBuilder::new().record(TimestampMs::new(NOW), Some(key.as_bytes()), Some(value.as_bytes())).build().unwrap()
}

pub(super) fn fill(partition: &Partition, numbers: std::ops::Range<u32>) {
    for number in numbers {
        partition.append(keyed(number), client()).unwrap();
    }
}

/// How many records there are, and the last value of each key.
pub(super) fn table(partition: &Partition) -> (usize, BTreeMap<String, String>) {
    let log = partition.log().unwrap();
    let (mut count, mut latest, mut from) = (0, BTreeMap::new(), log.log_start());
    while from < log.log_end() {
        let fetched = log.read(from, &alluvium::ReadOptions::default()).unwrap();
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            for record in batch.body(1 << 20).unwrap().records() {
                let record = record.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                latest.insert(text(record.key.unwrap()), text(record.value.unwrap()));
                count += 1;
            }
            from = batch.header().next_offset();
        }
    }
    (count, latest)
}

pub(super) fn expected(records: u32) -> BTreeMap<String, String> {
    (0..records).map(|number| (format!("key-{}", number % KEYS), format!("value-{number}"))).collect()
}

fn opening(world: &World) -> StoreOpening {
    let cleaner = CleanerConfig { backoff: SECOND, retry: SECOND, ..CleanerConfig::default() };
    let config = StoreConfig { cleaner, idle_after: None, ..world.config() };
    StoreOpening::new(config).environment(world.environment()).configs(|_| Some(compact()))
}

pub(super) fn work(world: &World, store: &Store, steps: u32) {
    for _ in 0..steps {
        world.clock.advance(SECOND);
        store.tick();
    }
}

#[test]
fn a_store_cleans_by_itself_and_says_so() {
    let world = World::new(1, 1);
    let store = opening(&world).open().unwrap();
    let users = store.create(&named("users", 0), compact()).unwrap();
    fill(&users, 0..200);
    work(&world, &store, 90);
    let (count, latest) = table(&users);
    assert_eq!(latest, expected(200));
    assert!(count < 40, "{count} records are left");
    let health = store.cleaner().health_of(users.name()).unwrap();
    assert_eq!(health.state, CleaningState::Clean);
    assert!(health.last.is_some_and(|last| last.bytes_freed > 0), "{health:?}");
    let metrics = store.metrics().cleaning;
    assert!(metrics.counts.passes >= 1 && metrics.memory_bytes == 0 && metrics.memory_peak_bytes > 0, "{metrics:?}");
    work(&world, &store, 70);
    let list = OffsetCheckpoint::read(&world.fs, &world.dirs[0], CheckpointKind::Cleaner).unwrap();
    assert_eq!(list.offset(users.name()), health.first_dirty);
    assert!(store.health().is_well());
}

/// Rows 67, 72 and 82 with the engine itself: staging cannot be written.
#[test]
fn an_error_of_one_partition_is_seen_at_once_and_mends_itself() {
    let world = World::new(2, 1);
    let store = opening(&world).open().unwrap();
    let told = store.subscribe(64);
    let [bad, good] = ["bad", "good"].map(|topic| store.create(&named(topic, 0), compact()).unwrap());
    for partition in [&bad, &good] {
        fill(partition, 0..200);
    }
    store.tick();
    for operation in [FaultOn::Write, FaultOn::Open] {
        let fault = Fault::new(operation, Effect::Error(Errno::Eio)).always();
        world.fs.inject(fault.path_contains("bad-0/00000000000000000000.log.cleaned"));
    }
    let has_failed_thrice = || {
        let health = store.cleaner().health_of(bad.name()).unwrap();
        assert!(health.last.is_none(), "{health:?}");
        matches!(health.state, CleaningState::Retry { attempt: 3, cause, .. } if cause.kind == CauseKind::Io)
    };
    assert!((0..200).any(|_| {
        work(&world, &store, 1);
        has_failed_thrice()
    }));
    work(&world, &store, 60);
    assert!(!store.health().is_well());
    assert!(store.health().directories.iter().all(|directory| directory.offline.is_none()));
    assert!(table(&good).0 < 40, "the other one is clean");
    assert_eq!(table(&bad), (200, expected(200)));
    fill(&bad, 200..210);

    world.fs.clear_faults();
    work(&world, &store, 400);
    assert!(store.health().is_well(), "{:?}", store.health().partitions);
    let (count, latest) = table(&bad);
    assert!(count < 45 && latest == expected(210), "{count}");
    let events: Vec<_> = std::iter::from_fn(|| told.try_next()).collect();
    assert!(events.iter().any(|event| matches!(event, StoreEvent::CleaningFailed { .. })));
    assert!(events.iter().any(|event| matches!(event, StoreEvent::CleaningRecovered { .. })));
}

/// Cleaning frees space, and needs some first. With a reserve it gets along on a disk that has none left, a group of
/// segments at a time; without one it says how much it lacks, and goes on by itself once there is that much.
#[test]
fn a_full_disk_is_cleaned_by_the_reserve_or_with_the_bytes_that_it_says_are_missing() {
    const RECORDS: u32 = 600;
    for reserve_bytes in [0, 8 << 10] {
        let world = World::new(9, 1);
        let cleaner = CleanerConfig { backoff: SECOND, retry: SECOND, ..CleanerConfig::default() };
        let config = StoreConfig { cleaner, idle_after: None, reserve_bytes, space_floor_bytes: 0, ..world.config() };
        let opening = StoreOpening::new(config).environment(world.environment());
        world.fs.set_capacity(Some(1 << 30));
        let store = opening.configs(|_| Some(compact())).open().unwrap();
        let users = store.create(&named("users", 0), compact()).unwrap();
        fill(&users, 0..RECORDS);
        users.log().unwrap().flush().unwrap();
        let before = world.fs.space(&world.dirs[0]).unwrap();
        let used = before.total - before.free;
        assert!(reserve_bytes < used / 4, "it does not hold all at once: {used} bytes");
        world.fs.set_capacity(Some(used));
        work(&world, &store, 100);
        let health = || store.cleaner().health_of(users.name()).unwrap();
        assert!(reserve_bytes > 0 || table(&users) == (RECORDS as usize, expected(RECORDS)));
        for round in 0..8 {
            let CleaningState::Retry { cause, .. } = health().state else { break };
            assert!(reserve_bytes == 0 && round < 7, "reserve {reserve_bytes}, round {round}: {cause:?}");
            let CauseKind::Space { missing_bytes } = cause.kind else { panic!("{cause:?}") };
            assert!(missing_bytes > 1 && missing_bytes < 64 << 10, "{cause:?}");
            // An eighth of what is free is left to others.
            let space = world.fs.space(&world.dirs[0]).unwrap();
            world.fs.set_capacity(Some(space.total + missing_bytes * 8 / 7 + 64));
            work(&world, &store, 400);
        }
        let (count, latest) = table(&users);
        assert!(latest == expected(RECORDS) && count < 45, "reserve {reserve_bytes}: {count}, {:?}", health());
        assert!(health().last.is_some_and(|last| last.bytes_freed > 0), "{:?}", health());
        let after = world.fs.space(&world.dirs[0]).unwrap();
        assert!(after.total - after.free < used / 2 + reserve_bytes, "{after:?}, {used} before");
    }
}

#[test]
fn a_pass_that_a_crash_or_a_close_broke_off_is_gone_on_with() {
    for steps in 0..12 {
        let world = World::new(3 + u64::from(steps), 1);
        let store = opening(&world).open().unwrap();
        let users = store.create(&named("users", 0), compact()).unwrap();
        fill(&users, 0..200);
        users.append(keyed(200), client()).unwrap().wait_durable(LONG).unwrap();
        work(&world, &store, steps);
        if steps % 2 == 0 {
            store.close(LONG).unwrap();
        }
        drop((users, store));
        let world = if steps % 3 == 0 { world.powerless(7) } else { world.killed() };
        let store = opening(&world).open().unwrap();
        work(&world, &store, 120);
        let users = store.get(&named("users", 0)).unwrap();
        let (count, latest) = table(&users);
        assert!(latest == expected(201) && count < 45, "after {steps} steps: {count}");
        assert!(store.cleaner().health().is_well());
    }
}

/// Pauses are of the clock that nobody sets, and a later process, which knows no more than the wall clock's time of the
/// next attempt, waits no longer than the pause either.
#[test]
fn a_wall_clock_that_is_set_back_delays_no_retry() {
    let world = World::new(12, 1);
    let store = opening(&world).open().unwrap();
    let users = store.create(&named("users", 0), compact()).unwrap();
    fill(&users, 0..200);
    for operation in [FaultOn::Write, FaultOn::Open] {
        let fault = Fault::new(operation, Effect::Error(Errno::Eio)).always();
        world.fs.inject(fault.path_contains(".log.cleaned"));
    }
    let attempts = |store: &Store| match store.cleaner().health_of(users.name()).unwrap().state {
        CleaningState::Retry { attempt, .. } => attempt,
        _ => 0,
    };
    assert!((0..200).any(|_| {
        work(&world, &store, 1);
        attempts(&store) == 2
    }));
    world.clock.set_wall(NOW - 864_000_000);
    // A pass takes half a minute of ticks, and the pauses are of seconds.
    assert!((0..60).any(|_| {
        work(&world, &store, 1);
        attempts(&store) == 3
    }));
    store.close(LONG).unwrap();
    drop(store);

    world.clock.set_wall(NOW - 2 * 864_000_000);
    let store = opening(&world).open().unwrap();
    assert_eq!(attempts(&store), 3, "it is remembered");
    world.fs.clear_faults();
    work(&world, &store, 60);
    let (count, latest) = table(&store.get(users.name()).unwrap());
    assert!(count < 45 && latest == expected(200), "{count}: {:?}", store.cleaner().health());
    assert!(store.health().is_well());
}

#[test]
fn any_number_of_threads_cleans_any_number_of_partitions() {
    for threads in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let backoff = Duration::from_millis(50);
        let cleaner = CleanerConfig { threads, memory_bytes: 8 << 20, backoff, ..CleanerConfig::default() };
        let config = StoreConfig {
            cleaner,
            workers: Workers::Threads,
            reserve_bytes: 0,
            space_floor_bytes: 0,
            ..StoreConfig::new(dir.path())
        };
        let store = Store::open(config).unwrap();
        let partitions: Vec<Partition> =
            (0..6).map(|number| store.create(&named("users", number), compact()).unwrap()).collect();
        for partition in &partitions {
            fill(partition, 0..200);
        }
        let is_done = || partitions.iter().all(|partition| table(partition).0 < 45);
        for _ in 0..2000 {
            if is_done() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for partition in &partitions {
            assert_eq!(table(partition).1, expected(200), "with {threads} threads");
        }
        assert!(is_done(), "with {threads} threads: {:?}", store.cleaner().health());
        assert_eq!(store.close(LONG).unwrap().clean, 6);
    }
}
