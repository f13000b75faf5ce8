//! Cleaning held to a naive model: random logs with transactions, tombstones and several passes, in steps of any size.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::config::{CleanupPolicy, DirtyRatio, LogConfig};
use crate::fs::FileSystem;
use crate::fs::sim::SimFs;
use crate::log::{AppendAs, Environment};
use crate::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd, batches};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

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
                    let transaction = self.written.get(&offset).and_then(|written| written.transaction);
                    let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
                    found.insert(offset, Written { key, value, transaction });
                }
            }
        }
        found
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

    /// What the log must be after a whole pass up to `upper`.
    fn check(&self, upper: Offset) {
        let (found, upper) = (self.found(), upper.value());
        let newest = self.newest(upper);
        for (offset, record) in &found {
            assert_eq!(Some(record), self.written.get(offset), "nothing is invented or changed at {offset}");
        }
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
        names.filter(|name| name.contains("spill") || name.ends_with(".cleaned") || name.ends_with(".swap")).collect()
    }
}

fn open(fs: &SimFs, clock: &Arc<ManualClock>, config: LogConfig) -> PartitionLog {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Environment { fs: Arc::new(fs.clone()), clock }.open("/data/orders-0", config).unwrap()
}

fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..wanted.unwrap_or(40)
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
            println!("seed {seed} round {round}");
            world.check(cleaned.upper);
            assert!(world.aside().is_empty(), "{:?}", world.aside());
        }
    }
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
