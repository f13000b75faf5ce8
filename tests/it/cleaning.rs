//! The story that the cleaner exists for: the partition of consumers' offsets, and a cleaner that is hit by everything which
//! has killed one in production, while writes go on. Nobody restarts anything, and nobody lends a hand.

mod clock;
mod expanded;
mod failures;
mod mischief;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alluvium::clean::CleanerConfig;
use alluvium::clock::ManualClock;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::SimFs;
use alluvium::store::cleaner::{CauseKind, CleaningCause, CleaningState};
use alluvium::store::events::StoreEvent;
use alluvium::store::{Partition, Store, StoreConfig, StoreOpening, TopicPartition, Workers};
use alluvium::table::{CompactedTable, LoadProgress, OnScanDamage, TableOptions};
use alluvium::{BatchBuilder, CleanMode, CleanupPolicy, DirtyRatio, Environment, LogConfig, TimestampMs};

use crate::support::{NOW, client, coordinator};
use mischief::Mischief;

const MEMORY: u64 = 1 << 20;
/// A mebibyte of memory holds notes of no more keys than this, at 16 bytes each.
const CAPACITY: u32 = 65_536;
/// Groups that commit offsets. More than the map holds.
const KEYS: u32 = 150_000;
const BATCH_RECORDS: u32 = 1000;
/// A record takes so many bytes at least: 50 of key and 50 of value.
const RECORD_BYTES: u64 = 100;

/// A store on a simulated disk, with the offsets of consumers and a small partition beside them.
struct World {
    fs: SimFs,
    mischief: Mischief,
    clock: Arc<ManualClock>,
    store: Store,
    offsets: Partition,
    beside: Partition,
    written: u32,
    /// The newest value of each key.
    model: HashMap<u32, u32>,
}

fn log_config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 4 << 20,
        zero_ahead_bytes: 0,
        min_cleanable_dirty_ratio: DirtyRatio::new(0.1).unwrap(),
        retention_ms: None,
        file_delete_delay_ms: 0,
        ..LogConfig::default()
    }
}

fn named(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0).unwrap()
}

fn key(of: u32) -> Vec<u8> {
    format!("group-{of:08}/topic-with-a-rather-long-name-of-its/own").into_bytes()
}

fn value(of: u32) -> Vec<u8> {
    format!("{of:010}:{}", "o".repeat(39)).into_bytes()
}

impl World {
    fn new() -> Self {
        let fs = SimFs::new(11);
        fs.create_dir(&PathBuf::from("/data")).unwrap();
        let (mischief, clock) = (Mischief::new(fs.clone()), Arc::new(ManualClock::at(NOW)));
        let cleaner = CleanerConfig {
            memory_bytes: MEMORY,
            backoff: Duration::from_secs(1),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(20),
            behind_bytes: Some(16 << 20),
            ..CleanerConfig::default()
        };
        let config = StoreConfig {
            workers: Workers::Tick,
            recovery_threads: 1,
            reserve_bytes: 0,
            cleaner,
            ..StoreConfig::new("/data")
        };
        let environment = Environment { fs: Arc::new(mischief.clone()), clock: Arc::clone(&clock) as _ };
        let store = StoreOpening::new(config).environment(environment).open().unwrap();
        let offsets = store.create(&named("__consumer_offsets"), log_config()).unwrap();
        let small = LogConfig { segment_bytes: 20_000, ..log_config() };
        let beside = store.create(&named("beside"), small).unwrap();
        Self { fs, mischief, clock, store, offsets, beside, written: 0, model: HashMap::new() }
    }

    /// Commits of so many groups in turn, and a few records beside.
    fn write(&mut self, records: u32) {
        for _ in 0..records / BATCH_RECORDS {
            let mut builder = BatchBuilder::new();
            for _ in 0..BATCH_RECORDS {
                // Each group commits again and again, in an order that is not the same twice.
                let of = self.written.wrapping_mul(7919) % KEYS;
                builder.record(TimestampMs::new(NOW), Some(&key(of)), Some(&value(self.written)));
                self.model.insert(of, self.written);
                self.written += 1;
            }
            self.offsets.append(builder.build().unwrap(), client()).unwrap();
        }
        for _ in 0..20 {
            let mut builder = BatchBuilder::new();
            for of in 0..20 {
                builder.record(TimestampMs::new(NOW), Some(&key(of)), Some(&value(of)));
            }
            self.beside.append(builder.build().unwrap(), client()).unwrap();
        }
    }

    /// Lets so much time pass, in which the store does its work.
    fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.store.tick();
        }
    }

    fn state(&self, topic: &str) -> CleaningState {
        self.store.cleaner().health_of(&named(topic)).unwrap().state
    }

    /// What keeps the offsets from being cleaned, as health has it.
    fn trouble(&self) -> Option<CleaningCause> {
        let health = self.store.cleaner().health_of(&named("__consumer_offsets")).unwrap();
        match health.state {
            CleaningState::Retry { cause, .. } => Some(cause),
            _ => health.failed_before,
        }
    }

    fn first_dirty(&self, topic: &str) -> i64 {
        self.store.cleaner().health_of(&named(topic)).unwrap().first_dirty.map_or(0, alluvium::Offset::value)
    }

    /// Passes time until nothing is due any more.
    fn settle(&self) {
        for _ in 0..2000 {
            self.pass(1);
            let health = self.store.cleaner().health();
            if health.is_well() && health.partitions.iter().all(|of| matches!(of.state, CleaningState::Clean)) {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.store.cleaner().health());
    }

    /// Under a fault that is in force: writes go on, health says what is wrong, and the partition beside is cleaned.
    fn suffer(&mut self, kind: CauseKind, records: u32) {
        let beside = self.first_dirty("beside");
        self.write(records);
        let is_told = |world: &Self| world.trouble().is_some_and(|cause| cause.kind == kind);
        self.pass_until(is_told);
        assert!(!self.store.cleaner().health().is_well());
        assert!(self.store.cleaner().metrics().uncleanable_partitions_count >= 1);
        // What is wrong with one partition keeps no other from being cleaned, nor from being written to.
        self.pass_until(|world| world.first_dirty("beside") > beside);
        self.write(BATCH_RECORDS);
    }

    fn pass_until(&self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if is_so(self) {
                return;
            }
            self.pass(1);
        }
        panic!("it never comes to that: {:#?}", self.store.cleaner().health());
    }
}

/// Everything at its worst, and then nobody does anything but wait.
#[test]
fn a_cleaner_that_is_hit_by_everything_catches_up_by_itself() {
    let mut world = World::new();
    let events = world.store.subscribe(10_000);
    world.write(KEYS);
    world.settle();
    let clean_before = world.first_dirty("__consumer_offsets");
    assert!(clean_before > 0);

    // A disk that refuses to make the new segments.
    world.mischief.refuse(".cleaned");
    world.suffer(CauseKind::Io, 2 * CAPACITY);

    // A mistake of the cleaner's own: whatever it touches makes it panic.
    world.mischief.panic_at(".cleaned");
    world.suffer(CauseKind::Panic, 2 * CAPACITY);

    // A damaged batch in a sealed segment, met while it panics still.
    world.offsets.log().unwrap().flush().unwrap();
    let damaged = world.offsets.log().unwrap().segment_files()[2].clone();
    world.fs.flip_bit(&damaged, 5000, 2);
    let damaged_bytes = world.fs.live_bytes(&damaged).unwrap();
    // The backlog grows to twenty times what the memory holds notes of, in segments of which each has more keys than that.
    world.offsets.update_config(LogConfig { segment_bytes: 16 << 20, ..log_config() }).unwrap();
    while world.written < 21 * CAPACITY + KEYS {
        world.write(CAPACITY);
        world.pass(1);
    }
    let files = world.offsets.log().unwrap().segment_files();
    let crowded =
        |path: &&std::path::PathBuf| world.fs.live_bytes(path).unwrap().len() as u64 > u64::from(KEYS) * RECORD_BYTES;
    assert!(files.iter().filter(crowded).count() >= 5, "{} files", files.len());
    let backlog = world.store.cleaner().backlog();
    assert!(backlog.bytes > 20 * u64::from(CAPACITY) * RECORD_BYTES * 9 / 10, "{} bytes", backlog.bytes);
    assert_eq!(backlog.partitions[0].partition, named("__consumer_offsets"), "worst first");
    assert!(backlog.partitions[0].behind.is_some(), "{backlog:?}");
    assert!(world.store.cleaner().health().is_catching_up);

    // The fault is gone, and that is all that anybody does.
    world.mischief.relent();
    world.settle();
    let health = world.store.cleaner().health_of(&named("__consumer_offsets")).unwrap();
    let last = health.last.unwrap();
    assert_eq!(last.mode, CleanMode::Spill, "{last:?}");
    assert!(world.store.cleaner().metrics().memory_peak_bytes <= MEMORY);
    assert_eq!(health.behind, None);
    assert_eq!(health.quarantined.len(), 1, "{:?}", health.quarantined);
    assert_eq!(world.fs.live_bytes(&damaged).as_ref(), Some(&damaged_bytes), "damage is kept as it is");
    let told: Vec<StoreEvent> = std::iter::from_fn(|| events.try_next()).collect();
    let was_told = |of: fn(&StoreEvent) -> bool| told.iter().any(of);
    assert!(was_told(|event| matches!(event, StoreEvent::CleanerBehind { .. })), "{told:?}");
    assert!(was_told(|event| matches!(event, StoreEvent::CleanerCaughtUp { .. })), "{told:?}");
    assert!(was_told(|event| matches!(event, StoreEvent::CleaningFailed { .. })), "{told:?}");
    assert!(was_told(|event| matches!(event, StoreEvent::CleaningRecovered { .. })), "{told:?}");
    assert!(matches!(world.state("beside"), CleaningState::Clean));
    loads_only_what_is_left(&world, &damaged);
}

/// The coordinator loads its table from what survived: each key once, the damaged segment, and the newest segment.
fn loads_only_what_is_left(world: &World, damaged: &std::path::Path) {
    let log = world.offsets.log().unwrap();
    let files = log.segment_files();
    let active = files.last().unwrap();
    let records_in =
        |path: &std::path::Path| world.fs.live_bytes(path).map_or(0, |bytes| bytes.len() as u64 / RECORD_BYTES);
    let most = u64::from(KEYS) + records_in(damaged) + records_in(active);
    let mut read = 0;
    let options = TableOptions { on_damage: OnScanDamage::Skip, ..TableOptions::new(coordinator()) };
    let table = CompactedTable::load(log, options, |progress: &LoadProgress| {
        read = progress.records;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(read <= most, "{read} records are read, and {most} are enough");
    assert_eq!(table.len(), world.model.len());
    for (of, written) in &world.model {
        assert_eq!(table.get(&key(*of)), Some(&value(*written)[..]), "group {of}");
    }
}

/// A topic that is deleted and made anew has nothing of the old one's cleaning.
#[test]
fn a_partition_that_is_made_anew_is_cleaned_from_its_start() {
    let mut world = World::new();
    world.write(BATCH_RECORDS);
    world.settle();
    let before = world.first_dirty("beside");
    assert!(before > 0);
    world.store.delete(&named("beside")).unwrap();
    world.pass(100);
    world.beside = world.store.create(&named("beside"), LogConfig { segment_bytes: 3000, ..log_config() }).unwrap();
    world.pass(2);
    assert_eq!(world.first_dirty("beside"), 0);
    for _ in 0..20 {
        let mut builder = BatchBuilder::new();
        for of in 0..5 {
            builder.record(TimestampMs::new(NOW), Some(&key(of)), Some(&value(of)));
        }
        world.beside.append(builder.build().unwrap(), client()).unwrap();
    }
    world.settle();
    let now = world.first_dirty("beside");
    assert!((1..before).contains(&now), "{now}, and {before} before");
}
