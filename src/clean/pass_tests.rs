//! Cleaning held to a naive model: random logs with transactions, tombstones and several passes, in steps of any size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::budget::PassMemory;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::config::{CleanupPolicy, DirtyRatio, LogConfig};
use crate::error::ChangeError;
use crate::fs::FileSystem;
use crate::fs::sim::SimFs;
use crate::log::{AppendAs, Environment};
use crate::record::{BatchBuilder, BatchView, Compression, RecordBatch, TransactionEnd, batches};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

#[path = "review_tests.rs"]
mod review;

const NOW: i64 = 1_700_000_000_000;
const RETENTION_MS: u64 = 10_000;

/// A data record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// The producer whose transaction it belongs to, and the number of that transaction.
    transaction: Option<u64>,
}

/// A log, and everything that was ever appended to it.
struct World {
    fs: SimFs,
    clock: Arc<ManualClock>,
    log: PartitionLog,
    written: BTreeMap<i64, Written>,
    /// By number: whether it committed; open ones are not in it.
    ended: HashMap<u64, bool>,
    open: BTreeMap<i64, u64>,
    sequences: HashMap<i64, i32>,
    next_transaction: u64,
    rng: fastrand::Rng,
    keys: u64,
}

fn compacted() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 4096,
        index_interval_bytes: 256,
        delete_retention_ms: RETENTION_MS,
        min_cleanable_dirty_ratio: DirtyRatio::new(0.01).unwrap(),
        transaction_partition_verification_enable: false,
        ..LogConfig::default()
    }
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn leader() -> LeaderEpoch {
    LeaderEpoch::new(0).unwrap()
}

impl World {
    fn new(seed: u64, keys: u64) -> Self {
        Self::with(seed, keys, compacted())
    }

    fn with(seed: u64, keys: u64, config: LogConfig) -> Self {
        let fs = SimFs::new(seed);
        let clock = Arc::new(ManualClock::at(NOW));
        let log = open(&fs, &clock, config);
        Self {
            fs,
            clock,
            log,
            written: BTreeMap::new(),
            ended: HashMap::new(),
            open: BTreeMap::new(),
            sequences: HashMap::new(),
            next_transaction: 0,
            rng: fastrand::Rng::with_seed(seed),
            keys,
        }
    }

    /// Many records with keys of their own, in batches of 200.
    fn append_many(&mut self, records: u64) {
        let now = self.clock.wall();
        let mut left = records;
        while left > 0 {
            let mut builder = BatchBuilder::new();
            let mut plain = Vec::new();
            for _ in 0..left.min(200) {
                let key = self.rng.u64(0..self.keys).to_be_bytes().to_vec();
                builder.record(now, Some(&key), Some(b"v"));
                plain.push(key);
            }
            left -= plain.len() as u64;
            let appended = self.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
            for (at, key) in (appended.base_offset().value()..).zip(plain) {
                let written = Written { key: Some(key), value: Some(b"v".to_vec()), transaction: None };
                self.written.insert(at, written);
            }
        }
    }

    fn append(&mut self, producer: Option<i64>, is_transactional: bool, compression: Compression) {
        let count = self.rng.usize(1..12);
        let mut builder = BatchBuilder::new();
        builder.compression(compression);
        let transaction = is_transactional.then(|| {
            let next = &mut self.next_transaction;
            *self.open.entry(producer.unwrap()).or_insert_with(|| {
                *next += 1;
                *next
            })
        });
        if let Some(producer) = producer {
            let sequence = self.sequences.entry(producer).or_default();
            let id = ProducerId::new(producer).unwrap();
            builder.producer(id, ProducerEpoch::new(0).unwrap(), Sequence::new(*sequence));
            builder.transactional(is_transactional);
            *sequence += i32::try_from(count).unwrap();
        }
        let now = self.clock.wall();
        let mut records = Vec::new();
        for _ in 0..count {
            let key = format!("key-{}", self.rng.u64(0..self.keys)).into_bytes();
            let value = (self.rng.u8(0..10) > 0).then(|| vec![self.rng.u8(..); self.rng.usize(0..60)]);
            builder.record(now, Some(&key), value.as_deref());
            records.push((key, value));
        }
        let appended = self.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
        for (at, (key, value)) in (appended.base_offset().value()..).zip(records) {
            self.written.insert(at, Written { key: Some(key), value, transaction });
        }
    }

    fn end(&mut self, producer: i64, commits: bool) {
        let Some(transaction) = self.open.remove(&producer) else { return };
        let ending = if commits { TransactionEnd::Commit } else { TransactionEnd::Abort };
        let who = (ProducerId::new(producer).unwrap(), ProducerEpoch::new(0).unwrap());
        let marker = RecordBatch::end_transaction_marker(ending, who, 1, self.clock.wall());
        self.log.append(marker, AppendAs::Coordinator { epoch: leader() }).unwrap();
        self.ended.insert(transaction, commits);
    }

    /// One random operation of a producer's.
    fn act(&mut self) {
        let codec = if self.rng.u8(0..4) == 0 { Compression::Lz4 } else { Compression::None };
        match self.rng.u8(0..20) {
            0..=9 => self.append(None, false, codec),
            10 | 11 => self.append(Some(1), false, codec),
            12..=15 => {
                let producer = self.rng.i64(2..5);
                self.append(Some(producer), true, codec);
            }
            _ => {
                let (producer, commits) = (self.rng.i64(2..5), self.rng.bool());
                self.end(producer, commits);
            }
        }
        self.clock.advance(Duration::from_millis(self.rng.u64(0..20)));
    }

    fn fill(&mut self, operations: usize) {
        for _ in 0..operations {
            self.act();
        }
    }

    fn fill_without_producers(&mut self, batches: usize) {
        for n in 0..batches {
            self.append(None, false, if n % 4 == 0 { Compression::Lz4 } else { Compression::None });
        }
    }

    /// Ends what is open, seals all there is, and makes it durable.
    fn settle(&mut self) {
        for producer in 2..5 {
            let commits = self.rng.bool();
            self.end(producer, commits);
        }
        self.log.roll().unwrap();
        self.log.flush().unwrap();
    }

    fn reopen(&mut self) {
        let config = LogConfig::clone(&self.log.config());
        self.log.close().unwrap();
        self.log = open(&self.fs, &self.clock, config);
    }

    /// Every record that lies in the log now, control records apart.
    fn found(&self) -> BTreeMap<i64, Written> {
        let mut found = BTreeMap::new();
        let mut last = -1;
        for path in self.log.segment_files() {
            let bytes = self.fs.live_bytes(&path).unwrap();
            for batch in batches(&bytes, u32::MAX) {
                let batch = batch.unwrap();
                batch.verify_crc().unwrap();
                assert!(batch.header().base_offset.value() > last, "offsets rise in {}", path.display());
                last = batch.header().last_offset().value();
                let body = batch.body(1 << 20).unwrap();
                let records = body.records().map(Result::unwrap);
                for record in records.filter(|_| !batch.header().attributes.is_control()) {
                    let offset = record.offset.value();
                    // What lies below the log start nobody is shown.
                    if record.offset < self.log.log_start() {
                        continue;
                    }
                    let transaction = self.written.get(&offset).and_then(|written| written.transaction);
                    let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
                    found.insert(offset, Written { key, value, transaction });
                }
            }
        }
        found
    }

    /// Those of batches that pass their checks.
    fn found_readable(&self) -> BTreeMap<i64, Written> {
        let mut found = BTreeMap::new();
        for path in self.log.segment_files() {
            let bytes = self.fs.live_bytes(&path).unwrap();
            let mut at = 0;
            while at < bytes.len() {
                let batch = BatchView::parse(&bytes[at..], u32::MAX).ok().filter(|batch| batch.verify_crc().is_ok());
                let Some(batch) = batch else {
                    at += 1;
                    continue;
                };
                at += batch.bytes().len();
                if batch.header().attributes.is_control() {
                    continue;
                }
                for record in batch.body(1 << 20).unwrap().records().map(Result::unwrap) {
                    let offset = record.offset.value();
                    if let Some(written) = self.written.get(&offset)
                        && written.key.as_deref() == record.key
                        && written.value.as_deref() == record.value
                    {
                        found.insert(offset, written.clone());
                    }
                }
            }
        }
        found
    }

    /// The log was cut. Only of logs without producers, whose state would be cut, too.
    fn forget_from(&mut self, end: Offset) {
        self.written.split_off(&end.value());
    }

    fn forget_below(&mut self, start: Offset) {
        self.written = self.written.split_off(&start.value());
    }

    fn is_aborted(&self, written: &Written) -> bool {
        written.transaction.is_some_and(|number| self.ended.get(&number) == Some(&false))
    }

    /// Newest committed offset below `upper` of each key.
    fn newest(&self, upper: i64) -> HashMap<&[u8], i64> {
        let mut newest = HashMap::new();
        for (offset, written) in self.written.range(..upper) {
            if !self.is_aborted(written)
                && let Some(key) = &written.key
            {
                newest.insert(key.as_slice(), *offset);
            }
        }
        newest
    }

    fn check_nothing_is_invented(&self) {
        for (offset, record) in &self.found() {
            assert_eq!(Some(record), self.written.get(offset), "nothing is invented or changed at {offset}");
        }
    }

    /// What the log must be after a whole pass up to `upper`.
    fn check(&self, upper: Offset) {
        let (found, upper) = (self.found(), upper.value());
        let newest = self.newest(upper);
        self.check_nothing_is_invented();
        let mut kept = BTreeSet::new();
        for (offset, written) in &self.written {
            let is_newest = written.key.as_ref().is_some_and(|key| newest.get(key.as_slice()) == Some(offset));
            let must_stay = *offset >= upper || (is_newest && written.value.is_some());
            let may_stay = must_stay || is_newest;
            let is_found = found.contains_key(offset);
            assert!(is_found || !must_stay, "offset {offset} is lost: {written:?} (upper {upper})");
            assert!(!is_found || may_stay, "offset {offset} is left: {written:?} (upper {upper})");
            kept.extend(is_found.then_some(*offset));
        }
        assert_eq!(kept.len(), found.len());
    }

    fn tombstones_left(&self) -> usize {
        self.found().values().filter(|record| record.value.is_none()).count()
    }

    fn aside(&self) -> Vec<String> {
        let names = self.fs.list(self.log.dir()).unwrap().into_iter().map(|entry| entry.name);
        let is_aside = |name: &String| {
            let is_staged = name.contains(".cleaned") || name.contains(".swap");
            name.contains("spill") || is_staged && !name.starts_with("alluvium.")
        };
        names.filter(is_aside).collect()
    }
}

fn open(fs: &SimFs, clock: &Arc<ManualClock>, config: LogConfig) -> PartitionLog {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Environment { fs: Arc::new(fs.clone()), clock }.open("/data/orders-0", config).unwrap()
}

fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..wanted.unwrap_or(12)
}

/// Runs one pass in steps of `bytes`.
fn pass_by_steps(log: &PartitionLog, options: &CleanOptions, bytes: u64) -> Result<Option<Cleaned>, CleanError> {
    let Begun::Pass(mut pass) = Pass::begin(log, options)? else { return Ok(None) };
    for _ in 0..1_000_000 {
        if let Some(cleaned) = pass.step(bytes)?.finished {
            assert_eq!(pass.progress().phase, Phase::Finished);
            return Ok(Some(cleaned));
        }
    }
    panic!("a pass ends: {:?}", pass.progress());
}

#[test]
fn a_cleaned_log_is_what_a_naive_model_says() {
    for seed in seeds() {
        let mut world = World::new(seed, 1 + seed % 30);
        for round in 0..3 {
            world.fill(60);
            world.settle();
            let step = [1, 700, 1 << 20][usize::try_from(seed % 3).unwrap()];
            let cleaned = pass_by_steps(&world.log, &CleanOptions::default(), step).unwrap().unwrap();
            assert_eq!(cleaned.mode, CleanMode::Map, "seed {seed}");
            assert_eq!(cleaned.upper, world.log.log_end(), "seed {seed} round {round}: all is sealed and stable");
            world.check(cleaned.upper);
            assert!(world.aside().is_empty(), "{:?}", world.aside());
        }
    }
}

/// As little as a pass can be given: some 4,000 keys.
fn least_memory() -> CleanOptions {
    CleanOptions::default().with_memory(PassMemory::BYTES_MIN as u64)
}

fn many_keys(seed: u64) -> World {
    let config = LogConfig { segment_bytes: 256 << 10, ..compacted() };
    let mut world = World::with(seed, 20_000, config);
    world.append_many(30_000);
    world.fill(40);
    world.settle();
    world
}

#[test]
fn keys_that_do_not_fit_the_memory_are_sorted_out_on_disk() {
    for step in [1_000, 1 << 20] {
        let mut world = many_keys(step);
        let cleaned = pass_by_steps(&world.log, &least_memory(), step).unwrap().unwrap();
        assert_eq!((cleaned.mode, cleaned.upper), (CleanMode::Spill, world.log.log_end()));
        assert!(cleaned.bytes_spilled > 0 && cleaned.memory_peak <= PassMemory::BYTES_MIN as u64, "{cleaned:?}");
        world.check(cleaned.upper);
        assert!(world.aside().is_empty(), "{:?}", world.aside());
        // The head has more keys than the memory by now; a few dirty ones fit it.
        world.append_many(500);
        world.settle();
        let cleaned = pass_by_steps(&world.log, &least_memory(), step).unwrap().unwrap();
        assert_eq!(cleaned.mode, CleanMode::Map);
        world.check(cleaned.upper);
    }
}

#[test]
fn without_disk_for_spilling_each_pass_gets_on_and_all_is_clean_in_the_end() {
    let world = many_keys(3);
    let mut before = Offset::ZERO;
    for round in 0.. {
        let cleaned = pass_by_steps(&world.log, &least_memory().with_spill(0), 50_000).unwrap().unwrap();
        assert!(cleaned.upper > before, "round {round}: {cleaned:?}");
        world.check(cleaned.upper);
        before = cleaned.upper;
        if cleaned.mode != CleanMode::Partial {
            break;
        }
    }
    assert_eq!(before, world.log.log_end());
}

/// A disk that is full while keys are spilled, and one that is full while segments are written.
#[test]
fn a_full_disk_makes_a_pass_partial_or_ends_it_and_nothing_is_left_behind() {
    for room in [0, 10_000, 100_000, 300_000, 1_000_000] {
        let world = many_keys(4);
        let free = world.fs.free_bytes().unwrap_or(u64::MAX);
        assert_eq!(free, u64::MAX, "without a limit");
        let used = {
            world.fs.set_capacity(Some(1 << 30));
            (1 << 30) - world.fs.free_bytes().unwrap()
        };
        world.fs.set_capacity(Some(used + room));
        match pass_by_steps(&world.log, &least_memory(), 10_000) {
            Ok(Some(cleaned)) => world.check(cleaned.upper),
            Ok(None) => panic!("there is something to clean"),
            Err(CleanError::Space { missing_bytes, .. }) => assert!(missing_bytes > 0),
            Err(CleanError::Io(failure) | CleanError::Log(ChangeError::Io(failure))) => {
                assert!(failure.is_storage_full(), "room {room}: {failure}");
            }
            Err(error) => panic!("room {room}: {error}"),
        }
        assert!(world.aside().is_empty(), "room {room}: {:?}", world.aside());
        world.fs.set_capacity(None);
        let cleaned = world.log.clean(&CleanOptions::default()).unwrap();
        assert_eq!(cleaned.upper, world.log.log_end());
        world.check(cleaned.upper);
    }
}

#[test]
fn an_interrupted_pass_goes_on_where_it_was() {
    let mut resumed = 0;
    for seed in seeds() {
        let mut world = World::new(seed, 20);
        world.fill(120);
        world.settle();
        let end = world.log.log_end();
        let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
        for _ in 0..world.rng.usize(0..30) {
            if pass.step(1_500).unwrap().finished.is_some() {
                break;
            }
        }
        drop(pass);
        assert!(world.aside().is_empty(), "seed {seed}: {:?}", world.aside());
        if world.rng.bool() {
            world.reopen();
        }
        world.fill(10);
        world.settle();
        let state = world.log.clean_state();
        if let Some(cleaned) = pass_by_steps(&world.log, &CleanOptions::default(), 1_500).unwrap()
            && cleaned.resumed
        {
            assert_eq!(Some(cleaned.upper), state.pass.map(|pass| pass.upper));
            assert_eq!(cleaned.upper, end, "with the bounds that it had");
            world.check(cleaned.upper);
            resumed += 1;
        }
        let cleaned = world.log.clean(&CleanOptions::default()).unwrap();
        world.check(cleaned.upper);
        assert_eq!(cleaned.upper, world.log.log_end());
    }
    assert!(resumed > 2, "{resumed}");
}

/// Whatever befalls the log between two steps, a pass ends well or says that the log changed; the next one ends well.
#[test]
fn a_log_may_change_while_it_is_cleaned() {
    let (mut went_on, mut gave_up) = (0, 0);
    for seed in seeds() {
        let mut world = World::new(seed, 15);
        world.fill_without_producers(100);
        world.settle();
        let (upper, mut is_cut) = (world.log.log_end(), false);
        let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
        let ended = loop {
            match pass.step(2_000) {
                Ok(step) if step.finished.is_some() => break Ok(step.finished),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
            match world.rng.u8(0..60) {
                0 => {
                    let to = offset(world.rng.i64(world.log.log_start().value()..=world.log.log_end().value()));
                    if world.log.truncate_to(to).is_ok() {
                        world.forget_from(to);
                        // What is gone may have superseded what is gone by then, too: nobody cuts below a high watermark.
                        is_cut |= to < upper;
                    }
                }
                1 => {
                    let to = offset(world.rng.i64(world.log.log_start().value()..=world.log.log_end().value()));
                    world.log.advance_log_start(to.min(world.log.marks().high_watermark)).unwrap();
                    world.log.enforce_retention().unwrap();
                }
                2 => assert!(world.log.roll().is_ok()),
                3 => assert!(world.log.flush().is_ok()),
                4..=20 => world.append(None, false, Compression::None),
                21 => world.log.update_config(LogConfig { segment_bytes: 9_000, ..compacted() }).unwrap(),
                _ => {}
            }
        };
        drop(pass);
        match ended {
            Ok(_) => went_on += 1,
            Err(CleanError::Changed | CleanError::Io(_) | CleanError::Log(_)) => gave_up += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        assert!(world.aside().is_empty(), "seed {seed}: {:?}", world.aside());
        world.settle();
        let cleaned = world.log.clean(&CleanOptions::default()).unwrap();
        assert_eq!(cleaned.upper, world.log.log_end(), "seed {seed}");
        world.forget_below(world.log.log_start());
        if is_cut {
            world.check_nothing_is_invented();
        } else {
            world.check(cleaned.upper);
        }
    }
    println!("{went_on} went on, {gave_up} gave up");
    assert!(went_on > 0);
}

/// A damaged segment is left as it is, byte for byte, and the rest is cleaned around it.
#[test]
fn damage_is_cleaned_around_and_left_as_it_is() {
    for seed in seeds() {
        let mut world = World::new(seed, 12);
        world.fill(120);
        world.settle();
        let files = world.log.segment_files();
        let victim = files[world.rng.usize(0..files.len() - 1)].clone();
        let bytes = world.fs.live_bytes(&victim).unwrap();
        let at = world.rng.u64(0..bytes.len() as u64);
        world.fs.flip_bit(&victim, at, world.rng.u8(0..8));
        let damaged = world.fs.live_bytes(&victim).unwrap();
        let before = world.found_readable();
        let cleaned = pass_by_steps(&world.log, &CleanOptions::default(), 3_000).unwrap().unwrap();
        assert_eq!(cleaned.upper, world.log.log_end(), "seed {seed}");
        if !cleaned.left_alone.is_empty() {
            assert_eq!(world.fs.live_bytes(&victim).as_ref(), Some(&damaged), "seed {seed}: {}", victim.display());
        }
        // What was newest of what could be read is there still, tombstones too.
        let newest: HashMap<_, _> = before.iter().map(|(offset, record)| (record.key.clone(), *offset)).collect();
        let after = world.found_readable();
        for offset in newest.values().filter(|offset| !world.is_aborted(&world.written[offset])) {
            assert!(after.contains_key(offset), "seed {seed}: {offset} is lost");
        }
        assert!(world.aside().is_empty(), "seed {seed}: {:?}", world.aside());
    }
}

#[test]
fn tombstones_and_markers_go_when_their_time_has_passed_and_not_before() {
    let mut world = World::new(9, 10);
    world.fill(200);
    world.settle();
    let first = world.log.clean(&CleanOptions::default()).unwrap();
    let tombstones = world.tombstones_left();
    assert!(tombstones > 0 && first.tombstones_removed == 0);
    let horizon = TimestampMs::new(world.clock.wall().value() + i64::try_from(RETENTION_MS).unwrap());
    assert_eq!(first.next_horizon, Some(horizon));
    world.clock.advance(Duration::from_millis(RETENTION_MS - 1));
    assert_eq!(world.log.clean(&CleanOptions::default()).unwrap().tombstones_removed, 0);
    assert_eq!(world.tombstones_left(), tombstones);
    world.clock.advance(Duration::from_millis(1));
    let last = world.log.clean(&CleanOptions::default()).unwrap();
    assert!(last.tombstones_removed >= tombstones as u64, "{last:?}");
    assert_eq!(world.tombstones_left(), 0);
    world.check(last.upper);
}

#[test]
fn a_clean_log_is_read_and_not_written() {
    let mut world = World::new(5, 1_000);
    world.fill(100);
    world.settle();
    world.log.clean(&CleanOptions::default()).unwrap();
    // Small neighbours were merged, so that there is nothing to merge any more.
    world.log.clean(&CleanOptions::default()).unwrap();
    let files = world.log.segment_files();
    let steps = world.fs.steps();
    let again = world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!((again.bytes_written, again.passes), (0, 1), "{again:?}");
    assert_eq!(world.log.segment_files(), files);
    assert!(world.fs.steps() - steps < 60, "{}", world.fs.steps() - steps);
    let nothing = world.log.clean(&CleanOptions { cleans_clean: false, ..CleanOptions::default() }).unwrap();
    assert_eq!(nothing.passes, 0);
}

#[test]
fn what_cannot_be_cleaned_is_refused() {
    let world = World::new(1, 3);
    let options = CleanOptions::default();
    let little = world.log.clean(&options.clone().with_memory((1 << 20) - 1));
    assert!(matches!(little, Err(CleanError::Options { min: MEMORY_BYTES_MIN, .. })), "{little:?}");
    assert_eq!(world.log.clean(&options).unwrap().passes, 0, "there is nothing but the active segment");
    let mut world = world;
    world.fill(30);
    world.settle();
    let Begun::Pass(pass) = Pass::begin(&world.log, &options).unwrap() else { panic!() };
    assert!(matches!(world.log.clean(&options), Err(CleanError::Busy)));
    drop(pass);
    world.log.update_config(LogConfig { cleanup_policy: CleanupPolicy::Delete, ..compacted() }).unwrap();
    assert!(matches!(world.log.clean(&options), Err(CleanError::NotCompacted)));
    world.log.close().unwrap();
    assert!(matches!(world.log.clean(&options), Err(CleanError::Log(ChangeError::Closed))));
}

/// Seconds of a pass over 3 M records of 200 bytes, with keys in multiples of what 4 MiB hold:
/// `cargo test --release --lib -- --ignored --nocapture clean::pass_tests::measures`.
#[test]
#[ignore = "a measurement"]
fn measures_a_pass() {
    const RECORDS: u64 = 3_000_000;
    let multiples = std::env::var("ALLUVIUM_MULTIPLES").unwrap_or_else(|_| "0.5,1,2,4,8,16".to_owned());
    for multiple in multiples.split(',').map(|multiple| multiple.parse::<f64>().unwrap()) {
        let dir = tempfile::tempdir().unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of keys")]
        let keys = (multiple * 220_000.0) as u64;
        let config = LogConfig { segment_bytes: 128 << 20, ..compacted() };
        let log = PartitionLog::open(dir.path().join("t-0"), config).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut builder, mut bytes) = (BatchBuilder::new(), 0);
        let value = vec![7_u8; 170];
        for n in 0..RECORDS {
            let key = format!("key-{:012}", rng.u64(0..keys));
            builder.record(TimestampMs::new(NOW), Some(key.as_bytes()), Some(&value));
            if builder.bytes() > 16 << 10 || n + 1 == RECORDS {
                let batch = builder.build().unwrap();
                bytes += batch.as_bytes().len();
                log.append(batch, AppendAs::Client { epoch: leader() }).unwrap();
            }
        }
        log.roll().unwrap();
        log.flush().unwrap();
        let cleaned =
            log.clean(&CleanOptions { drops_cache: false, ..CleanOptions::default().with_memory(4 << 20) }).unwrap();
        println!(
            "{multiple:>4} x: {:>6.3} s for {} MB, {:?}, read {} MB, written {} MB, spilled {} MB, freed {} MB, {} keys, peak {} KiB",
            cleaned.took.as_secs_f64(),
            bytes >> 20,
            cleaned.mode,
            cleaned.bytes_read >> 20,
            cleaned.bytes_written >> 20,
            cleaned.bytes_spilled >> 20,
            cleaned.bytes_freed >> 20,
            cleaned.keys,
            cleaned.memory_peak >> 10,
        );
    }
}
