//! A machine with a simulated disk, and stores on it.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::support::NOW;
use alluvium::clock::ManualClock;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::SimFs;
use alluvium::store::{Store, StoreConfig, StoreError, StoreOpening, TopicPartition, Workers};
use alluvium::{AppendAs, BatchBuilder, Environment, LeaderEpoch, LogConfig, Offset, ReadOptions, TimestampMs};

pub(crate) struct World {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) dirs: Vec<PathBuf>,
}

impl World {
    pub(crate) fn new(seed: u64, dirs: usize) -> Self {
        let fs = SimFs::new(seed);
        let dirs: Vec<PathBuf> = (0..dirs).map(|at| PathBuf::from(format!("/data{at}"))).collect();
        for dir in &dirs {
            fs.create_dir(dir).unwrap();
        }
        fs.sync_dir(std::path::Path::new("/")).unwrap();
        Self { fs, clock: Arc::new(ManualClock::at(NOW)), dirs }
    }

    /// The machine after the process died.
    pub(crate) fn killed(&self) -> Self {
        self.with(self.fs.kill())
    }

    /// The machine after the power failed.
    pub(crate) fn powerless(&self, seed: u64) -> Self {
        self.with(self.fs.power_loss(seed))
    }

    fn with(&self, fs: SimFs) -> Self {
        Self { fs, clock: Arc::clone(&self.clock), dirs: self.dirs.clone() }
    }

    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig {
            directories: self.dirs.clone(),
            workers: Workers::Tick,
            recovery_threads: 1,
            reserve_bytes: 0,
            ..StoreConfig::default()
        }
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment { fs: Arc::new(self.fs.clone()), clock: Arc::clone(&self.clock) as _ }
    }

    pub(crate) fn opening(&self) -> StoreOpening {
        StoreOpening::new(self.config()).environment(self.environment())
    }

    pub(crate) fn open(&self) -> Store {
        self.opening().open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Store, StoreError> {
        self.opening().open()
    }
}

pub(crate) fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition).unwrap()
}

pub(crate) fn small() -> LogConfig {
    LogConfig { segment_bytes: 400, ..LogConfig::default() }
}

pub(crate) fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

pub(crate) fn batch(value: &str) -> alluvium::RecordBatch {
    BatchBuilder::new().record(TimestampMs::new(NOW), None, Some(value.as_bytes())).build().unwrap()
}

/// The values of a partition, from its log start on.
pub(crate) fn values(partition: &alluvium::store::Partition) -> Vec<String> {
    let log = partition.log().unwrap();
    let (mut values, mut from) = (Vec::new(), log.log_start());
    while from < log.log_end() {
        let fetched = log.read(from, &ReadOptions::default()).unwrap();
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            let body = batch.body(1 << 20).unwrap();
            for record in body.records() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
            from = batch.header().next_offset();
        }
    }
    values
}

pub(crate) fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

/// Makes one more partition of one that was closed cleanly, in the same data directory: with the same files where no log
/// ever writes again, and with copies of the others.
pub(crate) fn copy_partition(data: &std::path::Path, from: &TopicPartition, to: &TopicPartition) {
    let (from, to) = (data.join(from.dir_name()), data.join(to.dir_name()));
    std::fs::create_dir(&to).unwrap();
    let names = || std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let active = names().filter_map(|name| name.strip_suffix(".log").map(str::to_owned)).max().unwrap();
    for name in names() {
        let is_sealed = name.starts_with(|first: char| first.is_ascii_digit()) && name[..20] < *active;
        if is_sealed {
            std::fs::hard_link(from.join(&name), to.join(&name)).unwrap();
        } else {
            std::fs::write(to.join(&name), std::fs::read(from.join(&name)).unwrap()).unwrap();
        }
    }
}
