//! What the tests share: batches, logs on a simulated disk, and snapshots of directories and logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::error::OpenError;
use alluvium::fs::sim::SimFs;
use alluvium::fs::{EntryKind, FileSystem, OpenMode, read_full_at, write_all_at};
use alluvium::index::IndexFault;
use alluvium::log::{Action, Finding, Found};
use alluvium::record::{BatchBuilder, RecordBatch};
use alluvium::{
    AppendAs, Environment, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadError, ReadOptions, TimestampMs,
};

/// Longer than any test should take.
pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(20);

/// Where clocks stand.
pub(crate) const NOW: i64 = 1_700_000_000_000;

pub(crate) fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

pub(crate) fn ms(value: i64) -> TimestampMs {
    TimestampMs::new(value)
}

pub(crate) fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

pub(crate) fn coordinator() -> AppendAs {
    AppendAs::Coordinator { epoch: LeaderEpoch::new(0).unwrap() }
}

/// A batch of one record for each value; timestamps are `NOW`, `NOW + 1` and so on.
pub(crate) fn batch(values: &[&str]) -> RecordBatch {
    batch_at(NOW, values)
}

pub(crate) fn batch_at(first_timestamp: i64, values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for (timestamp, value) in (first_timestamp..).zip(values) {
        builder.record(ms(timestamp), Some(b"k"), Some(value.as_bytes()));
    }
    builder.build().unwrap()
}

/// A batch as a leader would send it.
pub(crate) fn given(base: i64, values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.base_offset(at(base)).leader_epoch(LeaderEpoch::new(0));
    for (timestamp, value) in (NOW + base % 1_000_000..).zip(values) {
        builder.record(ms(timestamp), Some(b"k"), Some(value.as_bytes()));
    }
    builder.build().unwrap()
}

/// A small log: a few batches a segment, an index entry for every second batch or so.
pub(crate) fn small() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 150, zero_ahead_bytes: 0, ..LogConfig::default() }
}

/// Every readable record: offset, timestamp and value.
pub(crate) type Contents = Vec<(i64, i64, String)>;

/// All records from `from` on, up to the end or an error. Checksums are checked.
pub(crate) fn read_from(log: &PartitionLog, from: Offset, max_bytes: u64) -> (Contents, Result<(), ReadError>) {
    let mut found = Contents::new();
    let mut next = from;
    loop {
        let fetched = match log.read(next, &ReadOptions { max_bytes, ..ReadOptions::default() }) {
            Ok(fetched) => fetched,
            Err(error) => return (found, Err(error)),
        };
        if fetched.is_empty() {
            return (found, Ok(()));
        }
        if let Err(error) = take_records(&fetched, next, &mut found) {
            return (found, Err(error));
        }
        match fetched.next_offset() {
            Ok(after) if after > next => next = after,
            Ok(after) => panic!("reading went from {next} to {after}"),
            Err(error) => return (found, Err(error)),
        }
    }
}

fn take_records(fetched: &alluvium::Fetched, from: Offset, found: &mut Contents) -> Result<(), ReadError> {
    let batches = fetched.batches()?;
    for batch in batches.iter() {
        let batch = batch?;
        let corrupt = |cause: alluvium::error::InvalidBatch| {
            let file = fetched.slices()[0].path();
            let (at, kind) = (fetched.slices()[0].position(), cause.into());
            ReadError::Corrupt(alluvium::error::Corruption { file, at, kind })
        };
        batch.verify_crc().map_err(corrupt)?;
        let body = batch.body(1 << 24).map_err(corrupt)?;
        for record in body.records() {
            let record = record.map_err(corrupt)?;
            if record.offset >= from {
                let value = String::from_utf8(record.value.unwrap_or(b"null").to_vec()).unwrap();
                found.push((record.offset.value(), record.timestamp.value(), value));
            }
        }
    }
    Ok(())
}

/// Everything in the log, which must be readable.
pub(crate) fn contents(log: &PartitionLog) -> Contents {
    let (found, outcome) = read_from(log, log.log_start(), 1 << 20);
    outcome.unwrap();
    assert_eq!(read_from(log, log.log_start(), 100).0, found);
    found
}

/// Everything that can be read, and the ranges that cannot, as the errors give them.
pub(crate) fn contents_around_damage(log: &PartitionLog) -> (Contents, Vec<(i64, i64)>) {
    let (mut all, mut damage) = (Contents::new(), Vec::new());
    let mut next = log.log_start();
    loop {
        let (mut found, outcome) = read_from(log, next, 1 << 20);
        all.append(&mut found);
        let asked = all.last().map_or(next, |(offset, ..)| next.max(at(offset + 1)));
        let error = match outcome {
            Ok(()) => return (all, damage),
            // Slices may span a bad batch that nobody has looked at. A read of its own says how far it reaches.
            Err(ReadError::Corrupt(_)) => log.read(asked, &ReadOptions::default()).unwrap_err(),
            Err(error) => error,
        };
        let ReadError::Damaged(hole) = error else { panic!("neither readable nor known damage: {error}") };
        assert!(hole.offsets.contains(&asked), "{asked} is not in {hole}");
        damage.push((hole.offsets.start.value(), hole.offsets.end.value()));
        next = hole.offsets.end;
    }
}

/// Names and bytes of everything below `dir`.
pub(crate) fn snapshot(fs: &dyn FileSystem, dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![dir.to_path_buf()];
    while let Some(dir) = ahead.pop() {
        for entry in fs.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            match entry.kind {
                EntryKind::Directory => {
                    found.insert(path.clone(), None);
                    ahead.push(path);
                }
                _ => drop(found.insert(path.clone(), Some(read_file(fs, &path)))),
            }
        }
    }
    found
}

/// Says which names or bytes differ.
pub(crate) fn assert_unchanged(
    before: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    after: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    what: &str,
) {
    let differ = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<&PathBuf> = before.keys().chain(after.keys()).filter(differ).collect();
    assert!(changed.is_empty(), "{what}: {changed:?} changed");
}

pub(crate) fn read_file(fs: &dyn FileSystem, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    assert_eq!(read_full_at(&*file, &mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// Replaces a file's bytes, durably.
pub(crate) fn write_file(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::CreateOrOpen).unwrap();
    file.set_len(0).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file.sync_all().unwrap();
    fs.sync_dir(path.parent().unwrap()).unwrap();
}

/// A simulated machine with one partition directory.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
}

/// The partition directory of a machine.
pub(crate) const DIR: &str = "/data/orders-0";

impl Machine {
    pub(crate) fn new() -> Self {
        Self { fs: SimFs::new(1), clock: Arc::new(ManualClock::at(NOW)) }
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment { fs: Arc::new(self.fs.clone()), clock: Arc::clone(&self.clock) as _ }
    }

    pub(crate) fn open(&self, config: LogConfig) -> PartitionLog {
        self.try_open(config).unwrap()
    }

    pub(crate) fn try_open(&self, config: LogConfig) -> Result<PartitionLog, OpenError> {
        self.environment().open(DIR, config)
    }

    /// The process dies; the disk stays as programs saw it.
    pub(crate) fn kill(&self) -> Self {
        Self { fs: self.fs.kill(), clock: Arc::clone(&self.clock) }
    }

    pub(crate) fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    pub(crate) fn log_path(base: i64) -> PathBuf {
        Self::path(&format!("{base:020}.log"))
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        read_file(&self.fs, &Self::path(name))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        write_file(&self.fs, &Self::path(name), bytes);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.fs.remove_file(&Self::path(name)).unwrap();
        self.fs.sync_dir(Path::new(DIR)).unwrap();
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.fs.metadata(&Self::path(name)).is_ok()
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        snapshot(&self.fs, Path::new("/"))
    }

    /// Names in the partition directory.
    pub(crate) fn names(&self) -> Vec<String> {
        self.fs.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect()
    }
}

/// Findings of an opening, without positions. A segment that was sealed after the last sync has no index files yet,
/// which is no news and left out.
pub(crate) fn findings(log: &PartitionLog) -> Vec<(Found, Action)> {
    notable(log).into_iter().map(|finding| (finding.found, finding.action)).collect()
}

pub(crate) fn notable(log: &PartitionLog) -> Vec<Finding> {
    let is_news = |finding: &&Finding| finding.found != Found::BadIndex(IndexFault::Missing);
    log.recovery_report().findings.iter().filter(is_news).cloned().collect()
}
