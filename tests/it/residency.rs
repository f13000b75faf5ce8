//! Budgets of descriptors, maps and index memory that logs share, and the files that idle logs let go of.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::segment::{Residency, ResidencyLimits};
use alluvium::{AppendError, Environment, LogConfig, Offset, PartitionLog, ReadMode, ReadOptions};

use crate::support::{DIR, Machine, at, batch, client, contents, small};

/// Numbers that differ from seed to seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn limits(files: u64, maps: u64, index_bytes: u64) -> ResidencyLimits {
    ResidencyLimits { files, maps, index_bytes }
}

fn value(log: usize, offset: i64) -> String {
    format!("log {log} offset {offset}")
}

fn append(log: &PartitionLog, value: &str) {
    log.append(batch(&[value]), client()).unwrap();
}

/// The value of the record at `offset`, if the log has it.
fn read_one(log: &PartitionLog, offset: Offset) -> Option<String> {
    let options = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
    let fetched = log.read(offset, &options).ok()?;
    let batches = fetched.batches().unwrap();
    let batch = batches.iter().next()?.unwrap();
    batch.verify_crc().unwrap();
    let body = batch.body(1 << 20).unwrap();
    let record = body.records().map(Result::unwrap).find(|record| record.offset == offset)?;
    Some(String::from_utf8(record.value.unwrap().to_vec()).unwrap())
}

/// Descriptors of this process on files below `dir`.
fn open_below(dir: &Path) -> u64 {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(dir)).count() as u64
}

#[test]
fn two_thousand_segments_are_read_within_a_small_budget() {
    const LOGS: usize = 20;
    const SEGMENTS: i64 = 100;
    const THREADS: u64 = 8;
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(limits(LOGS as u64 + 16, 8, 64 << 10));
    let open = |which: usize| {
        let read_mode = if which.is_multiple_of(2) { ReadMode::Mapped } else { ReadMode::Positional };
        let config = LogConfig { read_mode, zero_ahead_bytes: 0, ..LogConfig::default() };
        Environment::default().open_within(dir.path().join(format!("t-{which}")), config, &residency).unwrap()
    };
    let logs: Vec<PartitionLog> = (0..LOGS).map(open).collect();
    for (which, log) in logs.iter().enumerate() {
        for offset in 0..SEGMENTS {
            append(log, &value(which, offset));
            log.roll().unwrap();
        }
        log.flush().unwrap();
    }
    for maps in [0, 1, 8] {
        residency.set_limits(limits(LOGS as u64 + 16, maps, 64 << 10));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (logs, residency) = (&logs, &residency);
                scope.spawn(move || {
                    let mut numbers = Numbers(0x9e37_79b9 + thread + maps);
                    for _ in 0..1_000 {
                        let which = usize::try_from(numbers.below(LOGS as u64)).unwrap();
                        let offset = i64::try_from(numbers.below(SEGMENTS as u64)).unwrap();
                        assert_eq!(read_one(&logs[which], at(offset)), Some(value(which, offset)));
                        let usage = residency.usage();
                        // Each thread may hold a file of the log, and be about to open one more.
                        assert!(usage.files <= LOGS as u64 + 16 + 2 * THREADS, "{usage:?}");
                        assert!(usage.maps <= maps + 2 * THREADS, "{usage:?}");
                    }
                });
            }
        });
        residency.enforce();
        let usage = residency.usage();
        assert!(usage.files <= LOGS as u64 + 16, "{usage:?}");
        assert!(usage.maps <= maps, "{usage:?}");
        assert!(usage.index_bytes <= 64 << 10, "{usage:?}");
        // Beside the segments, a log holds its lock and its sync state.
        assert_eq!(open_below(dir.path()), usage.files + 2 * LOGS as u64);
    }
    assert!(residency.usage().evictions > 1_000 && residency.usage().unmapped_reads > 100);
    drop(logs);
    let usage = residency.usage();
    assert_eq!((usage.files, usage.maps, usage.index_bytes), (0, 0, 0), "nothing leaks");
    assert_eq!(open_below(dir.path()), 0);
}

#[test]
fn files_with_unsynced_bytes_stay_open_whatever_the_limit() {
    let machine = Machine::new();
    let residency = Residency::new(limits(0, 0, 0));
    let log = machine.environment().open_within(DIR, small(), &residency).unwrap();
    for offset in 0..10 {
        append(&log, &value(0, offset));
        log.roll().unwrap();
    }
    residency.enforce();
    assert_eq!(residency.release_files(100), 0);
    assert_eq!(residency.usage().files, 11, "ten that no sync has covered, and the active one");
    assert_eq!(contents(&log).len(), 10);
    assert_eq!(residency.usage().files, 11);
    log.flush().unwrap();
    residency.enforce();
    assert_eq!(residency.usage().files, 1, "the active one");
    assert_eq!(contents(&log).len(), 10, "opened again as they are read");
    log.close().unwrap();
}

#[test]
fn an_idle_log_lets_go_of_its_files_and_appends_again() {
    let machine = Machine::new();
    let residency = Residency::new(ResidencyLimits::default());
    let log = machine.environment().open_within(DIR, small(), &residency).unwrap();
    append(&log, "a");
    assert!(!log.release_idle_files(), "there are unsynced bytes");
    log.flush().unwrap();
    let before = machine.fs.open_handles();
    assert!(log.release_idle_files());
    assert_eq!(machine.fs.open_handles(), before - 2, "the active file and the sync state");
    assert!(!log.release_idle_files(), "they are closed");
    assert_eq!(contents(&log).len(), 1, "reading opens it to be read");
    assert_eq!(machine.fs.open_handles(), before - 1);
    assert!(log.release_idle_files(), "what readers opened is closed too");
    assert_eq!(machine.fs.open_handles(), before - 2);
    assert_eq!(contents(&log).len(), 1);
    append(&log, "b");
    log.flush().unwrap();
    assert_eq!(machine.fs.open_handles(), before, "one handle for readers and the writer");
    assert_eq!(residency.usage().files, 1);

    let held = log.read(Offset::ZERO, &ReadOptions::default()).unwrap();
    assert!(!log.release_idle_files(), "a slice has a hand on it");
    drop(held);
    assert!(log.release_idle_files());
    // A roll, a cut and a close each have to open it.
    assert!(log.roll().unwrap());
    append(&log, "c");
    log.flush().unwrap();
    assert!(log.release_idle_files());
    log.truncate_to(at(2)).unwrap();
    log.flush().unwrap();
    assert!(log.release_idle_files());
    assert_eq!(contents(&log).len(), 2);
    log.close().unwrap();
    drop(log);
    let log = machine.open(small());
    assert_eq!(contents(&log).iter().map(|(.., value)| value.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn an_append_that_cannot_open_its_file_again_changes_nothing() {
    let machine = Machine::new();
    let log = machine.open(small());
    append(&log, "a");
    log.flush().unwrap();
    assert!(log.release_idle_files());
    let path = Machine::log_path(0);
    machine.fs.set_permission_denied(&path);
    let error = log.append(batch(&["b"]), client()).unwrap_err();
    assert!(matches!(error, AppendError::Io(_)), "{error:?}");
    assert!(log.roll().is_err());
    assert_eq!(log.log_end(), at(1));
    machine.fs.clear_permission_denied(&path);
    append(&log, "b");
    log.flush().unwrap();
    assert_eq!(contents(&log).len(), 2);
    log.close().unwrap();
}

#[test]
fn dropping_races_with_reading_cutting_and_idling() {
    for read_mode in [ReadMode::Mapped, ReadMode::Positional] {
        let dir = tempfile::tempdir().unwrap();
        let residency = Residency::new(limits(1, 1, 0));
        let config = LogConfig { read_mode, ..small() };
        let log = Environment::default().open_within(dir.path(), config, &residency).unwrap();
        for offset in 0..100 {
            append(&log, &value(0, offset));
        }
        log.flush().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let (log, residency, is_over) = (&log, Arc::clone(&residency), &is_over);
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    while !is_over.load(Ordering::Relaxed) {
                        let offset = i64::try_from(numbers.below(100)).unwrap();
                        // It may be cut off just now; what is there is what was written.
                        if let Some(read) = read_one(log, at(offset)) {
                            assert_eq!(read, value(0, offset));
                        }
                        let _ = log.release_idle_files();
                        residency.release_files(1);
                    }
                });
            }
            for round in 0..30_i64 {
                let to = 20 + round * 37 % 80;
                let end = log.truncate_to(at(to)).unwrap().value();
                for offset in end..100 {
                    append(&log, &value(0, offset));
                }
                log.flush().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let all: Vec<String> = contents(&log).into_iter().map(|(.., value)| value).collect();
        assert_eq!(all, (0..100).map(|offset| value(0, offset)).collect::<Vec<_>>());
        log.close().unwrap();
        drop(log);
        assert_eq!((residency.usage().files, residency.usage().maps), (0, 0));
    }
}

#[test]
fn retention_takes_segments_whose_files_are_closed_or_not() {
    let machine = Machine::new();
    let residency = Residency::new(limits(2, 0, 0));
    let config = LogConfig { retention_bytes: Some(600), ..small() };
    let log = machine.environment().open_within(DIR, config, &residency).unwrap();
    for offset in 0..60 {
        append(&log, &value(0, offset));
    }
    log.flush().unwrap();
    contents(&log);
    log.tick().unwrap();
    assert!(log.log_start() > Offset::ZERO);
    let kept = contents(&log);
    assert_eq!(kept.last().map(|(offset, ..)| *offset), Some(59));
    residency.enforce();
    assert!(residency.usage().files <= 2);
    log.close().unwrap();
}
