//! Settings of the cleaner that are not the default's, each with what it changes and what it leaves.

use std::num::NonZeroU64;
use std::time::Duration;

use alluvium::clean::CleanerConfig;
use alluvium::store::cleaner::{CleanerCounts, CleaningState, LastPass};
use alluvium::store::{Partition, Store, StoreConfig, StoreOpening, Workers};
use alluvium::{BatchBuilder, CleanMode, CleanupPolicy, DirtyRatio, LogConfig, Offset, TimestampMs};

use super::super::support::{LONG, NOW};
use super::cleaner::{compact, expected, fill, table, work};
use super::world::{World, client, named};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

fn opening(world: &World, cleaner: CleanerConfig) -> StoreOpening {
    let config = StoreConfig { cleaner, idle_after: None, space_floor_bytes: 0, ..world.config() };
    StoreOpening::new(config).environment(world.environment()).configs(|_| Some(large()))
}

fn large() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 1 << 20,
        zero_ahead_bytes: 0,
        retention_ms: None,
        min_cleanable_dirty_ratio: DirtyRatio::new(0.01).unwrap(),
        ..LogConfig::default()
    }
}

/// Records of so many keys in turn, all but sealed, with values of so many bytes.
fn write(partition: &Partition, records: u32, keys: u32, value_bytes: usize) {
    let value = vec![b'v'; value_bytes];
    for from in (0..records).step_by(100) {
        let mut builder = BatchBuilder::new();
        for number in from..from + 100 {
            let key = format!("key-{}", number % keys);
            builder.record(TimestampMs::new(NOW), Some(key.as_bytes()), Some(&value));
        }
        partition.append(builder.build().unwrap(), client()).unwrap();
    }
    partition.log().unwrap().roll().unwrap();
}

/// Ticks ten times a second, and so does no more than ten steps in one.
fn pass(world: &World, store: &Store, seconds: u32) {
    for _ in 0..seconds * 10 {
        world.clock.advance(TICK);
        store.tick();
    }
}

fn last_of(store: &Store, partition: &Partition) -> Option<LastPass> {
    let health = store.cleaner().health_of(partition.name()).unwrap();
    health.last.filter(|_| health.state == CleaningState::Clean)
}

/// An operator who would rather have the log behind than the disk busy has the limit kept.
#[test]
fn the_throttle_is_kept_while_behind_where_the_settings_say_so() {
    const RATE: u64 = MIB / 2;
    for catch_up_unthrottled in [false, true] {
        let world = World::new(21, 1);
        let cleaner = CleanerConfig {
            backoff: SECOND,
            bytes_per_second: NonZeroU64::new(RATE),
            behind_bytes: Some(1),
            catch_up_unthrottled,
            ..CleanerConfig::default()
        };
        let store = opening(&world, cleaner).open().unwrap();
        let users = store.create(&named("users", 0), large()).unwrap();
        write(&users, 12_000, 1000, 1000);
        pass(&world, &store, 3);
        assert!(catch_up_unthrottled || store.cleaner().health().is_catching_up, "it is behind");
        pass(&world, &store, 7);
        let moved = store.metrics().cleaning.counts.moved_bytes;
        if catch_up_unthrottled {
            assert!(moved > 16 * MIB && last_of(&store, &users).is_some(), "{moved} bytes in ten seconds");
            continue;
        }
        // What may be at once, ten seconds' worth, and a step that began before it was known how much it takes.
        assert!((4 * MIB..=10 * RATE + 3 * MIB).contains(&moved), "{moved} bytes in ten seconds");
        assert!(store.cleaner().backlog().partitions[0].behind.is_some(), "{:?}", store.cleaner().backlog());
        let mut rounds = 0..20;
        assert!(rounds.any(|_| {
            pass(&world, &store, 5);
            last_of(&store, &users).is_some()
        }));
        assert!(store.health().is_well(), "it gets there: {:?}", store.cleaner().health());
    }
}

/// Cleans more keys than a mebibyte holds notes of, with a gibibyte of disk.
fn with_many_keys(spill: bool, spill_free_bytes: u64) -> (CleanerCounts, LastPass) {
    const KEYS: u32 = 80_000;
    let world = World::new(22, 1);
    world.fs.set_capacity(Some(1 << 30));
    let cleaner =
        CleanerConfig { backoff: SECOND, memory_bytes: MIB, spill, spill_free_bytes, ..CleanerConfig::default() };
    let store = opening(&world, cleaner).open().unwrap();
    let users = store.create(&named("users", 0), large()).unwrap();
    write(&users, 2 * KEYS, KEYS, 20);
    let mut rounds = 0..60;
    let is_clean = || store.cleaner().health_of(users.name()).unwrap().first_dirty == Offset::new(2 * i64::from(KEYS));
    assert!(rounds.any(|_| {
        pass(&world, &store, 5);
        is_clean() && last_of(&store, &users).is_some()
    }));
    let (count, latest) = table(&users);
    assert_eq!((count, latest.len()), (KEYS as usize, KEYS as usize), "spill {spill}, {spill_free_bytes} stay free");
    let metrics = store.metrics().cleaning;
    assert!(metrics.memory_peak_bytes <= MIB, "{metrics:?}");
    (metrics.counts, last_of(&store, &users).unwrap())
}

/// Either setting can keep the cleaner from spilling. It then takes several passes, and comes to the same end.
#[test]
fn keys_that_do_not_fit_are_spilled_only_where_the_settings_let_them() {
    let (counts, last) = with_many_keys(true, 512 * MIB);
    assert_eq!((counts.passes, counts.spilling_passes, last.mode), (1, 1, CleanMode::Spill), "{counts:?}");
    assert!(last.bytes_spilled > 0);
    for (spill, spill_free_bytes) in [(false, 0), (true, 1 << 30)] {
        let (counts, last) = with_many_keys(spill, spill_free_bytes);
        assert!(counts.passes > 1 && counts.partial_passes > 0, "{counts:?}");
        assert_eq!((counts.spilling_passes, last.bytes_spilled), (0, 0), "{counts:?}");
    }
}

/// Nothing is cleaned, whoever asks; appends, reads, retention, closing and opening are as ever. Turned on, it cleans.
#[test]
fn a_cleaner_that_is_turned_off_cleans_nothing_and_all_else_goes_on() {
    let world = World::new(23, 1);
    let off = CleanerConfig { enabled: false, backoff: SECOND, ..CleanerConfig::default() };
    let deleted = LogConfig { segment_bytes: 600, retention_ms: Some(10_000), ..LogConfig::default() };
    let open = || {
        let deleted = deleted.clone();
        let configs = move |name: &alluvium::store::TopicPartition| {
            Some(if name.topic() == "users" { compact() } else { deleted.clone() })
        };
        opening(&world, off.clone()).configs(configs).open().unwrap()
    };
    let store = open();
    let users = store.create(&named("users", 0), compact()).unwrap();
    let events = store.create(&named("events", 0), deleted.clone()).unwrap();
    fill(&users, 0..200);
    fill(&events, 0..200);
    store.cleaner().run_now(users.name()).unwrap();
    work(&world, &store, 400);
    assert!(events.log().unwrap().log_start() > Offset::ZERO, "what is to be deleted is");
    fill(&users, 200..210);
    assert_eq!(table(&users), (210, expected(210)));
    let health = store.cleaner().health();
    assert!(!health.is_enabled && health.is_well() && store.health().is_well(), "{health:?}");
    let counts = store.metrics().cleaning.counts;
    assert_eq!((counts.passes, counts.failures, counts.moved_bytes), (0, 0, 0));
    assert_eq!(store.close(LONG).unwrap().clean, 2);
    drop((users, events, store));

    let store = open();
    work(&world, &store, 100);
    let users = store.get(&named("users", 0)).unwrap();
    assert_eq!(table(&users), (210, expected(210)));
    store.cleaner().reconfigure(CleanerConfig { enabled: true, ..off.clone() }).unwrap();
    work(&world, &store, 100);
    let (count, latest) = table(&users);
    assert!(count < 45 && latest == expected(210), "{count}");
}

/// No thread is started for it, and none is missed.
#[test]
fn a_cleaner_that_is_turned_off_has_no_threads() {
    let dir = tempfile::tempdir().unwrap();
    let cleaner = CleanerConfig { enabled: false, threads: 2, memory_bytes: 8 * MIB, ..CleanerConfig::default() };
    let config = StoreConfig { cleaner, workers: Workers::Threads, reserve_bytes: 0, ..StoreConfig::new(dir.path()) };
    let store = Store::open(config).unwrap();
    let users = store.create(&named("users", 0), compact()).unwrap();
    fill(&users, 0..50);
    let health = store.cleaner().health();
    assert!(health.workers.is_empty() && health.dead_workers == 0 && health.is_well(), "{health:?}");
    store.cleaner().reconfigure(CleanerConfig { enabled: true, ..store.cleaner().config() }).unwrap();
    assert_eq!(store.cleaner().health().workers.len(), 2);
    store.close(LONG).unwrap();
}
