//! A machine with two data directories, and what tests ask of the stores on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvium::clock::ManualClock;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{SimFs, Survival};
use alluvium::record::RecordBatch;
use alluvium::store::{Partition, Store, StoreConfig, StoreError, StoreOpening, TopicPartition, Workers};
use alluvium::{AppendAs, BatchBuilder, Environment, LeaderEpoch, LogConfig, Offset, ReadOptions, TimestampMs};

pub(crate) const LONG: Duration = Duration::from_secs(20);
const NOW: i64 = 1_700_000_000_000;

pub(crate) struct Machine {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) reserve_bytes: u64,
}

pub(crate) fn dirs() -> [PathBuf; 2] {
    ["/data0".into(), "/data1".into()]
}

impl Machine {
    /// The first data directory is there, the second one is made by the store.
    pub(crate) fn new(seed: u64, reserve_bytes: u64) -> Self {
        let fs = SimFs::new(seed);
        for dir in ["/data0", "/elsewhere"] {
            fs.create_dir(Path::new(dir)).unwrap();
        }
        fs.sync_dir(Path::new("/")).unwrap();
        Self::on(fs, reserve_bytes)
    }

    /// Another process on this disk.
    pub(crate) fn on(fs: SimFs, reserve_bytes: u64) -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        fs.follow_clock(Arc::clone(&clock) as _);
        Self { fs, clock, reserve_bytes }
    }

    pub(crate) fn killed(&self) -> Self {
        Self::on(self.fs.kill(), self.reserve_bytes)
    }

    pub(crate) fn powerless(&self, survival: Survival) -> Self {
        Self::on(self.fs.power_loss_keeping(survival), self.reserve_bytes)
    }

    pub(crate) fn opening(&self) -> StoreOpening {
        let config = StoreConfig {
            directories: dirs().into(),
            default_log: small(),
            workers: Workers::Tick,
            recovery_threads: 1,
            reserve_bytes: self.reserve_bytes,
            ..StoreConfig::default()
        };
        let environment = Environment { fs: Arc::new(self.fs.clone()), clock: Arc::clone(&self.clock) as _ };
        StoreOpening::new(config).environment(environment)
    }

    pub(crate) fn open(&self) -> Result<Store, StoreError> {
        self.opening().open()
    }
}

pub(crate) fn small() -> LogConfig {
    LogConfig { segment_bytes: 400, index_interval_bytes: 100, ..LogConfig::default() }
}

pub(crate) fn named(name: &str) -> TopicPartition {
    let (topic, number) = name.rsplit_once('-').unwrap();
    TopicPartition::new(topic, number.parse().unwrap()).unwrap()
}

pub(crate) fn batch(value: &str) -> RecordBatch {
    BatchBuilder::new().record(TimestampMs::new(NOW), None, Some(value.as_bytes())).build().unwrap()
}

pub(crate) fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

pub(crate) fn at(offset: usize) -> Offset {
    Offset::new(i64::try_from(offset).unwrap()).unwrap()
}

/// The values of a partition from its log start on, one an offset.
pub(crate) fn values(partition: &Partition) -> Result<(usize, Vec<String>), String> {
    let log = partition.log().map_err(|error| error.to_string())?;
    let start = usize::try_from(log.log_start().value()).unwrap();
    let (mut values, mut from) = (Vec::new(), log.log_start());
    while from < log.log_end() {
        let fetched = log.read(from, &ReadOptions::default()).map_err(|error| error.to_string())?;
        let batches = fetched.batches().map_err(|error| error.to_string())?;
        for batch in batches.iter() {
            let batch = batch.map_err(|error| error.to_string())?;
            batch.verify_crc().map_err(|error| error.to_string())?;
            let body = batch.body(1 << 20).map_err(|error| error.to_string())?;
            for record in body.records() {
                let record = record.map_err(|error| error.to_string())?;
                if record.offset.value() != i64::try_from(start + values.len()).unwrap() {
                    return Err(format!("offset {} where {} was expected", record.offset, start + values.len()));
                }
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
            from = batch.header().next_offset();
        }
    }
    Ok((start, values))
}
