//! A data directory that Kafka wrote, opened by a store: its word counts, and its lists stay as they are, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alluvium::store::{CheckpointKind, OffsetCheckpoint, Store, StoreConfig, StoreOpening, TopicPartition, Workers};
use alluvium::{HighWatermarkMode, LogConfig, Offset, ReadOptions};
use tempfile::TempDir;

use crate::fixtures::{at_the_time, fixture};

const LONG: Duration = Duration::from_secs(20);

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn named(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

/// The data directory without what is about the fixtures.
fn copied() -> (TempDir, PathBuf) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to.join(name));
            } else if !name.to_string_lossy().ends_with("manifest.json") {
                fs::copy(entry.path(), to.join(name)).unwrap();
            }
        }
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("logdir");
    copy(&fixture("logdir").dir, &dir);
    (root, dir)
}

fn open(dir: &Path) -> Store {
    // As a broker has it: the high watermark is what the list says until replicas are heard of.
    let default_log =
        LogConfig { high_watermark: HighWatermarkMode::Embedder, retention_ms: None, ..LogConfig::default() };
    let config = StoreConfig { default_log, workers: Workers::Tick, ..StoreConfig::new(dir) };
    StoreOpening::new(config).environment(at_the_time()).open().unwrap()
}

fn lists(dir: &Path) -> Vec<Vec<u8>> {
    CheckpointKind::ALL.map(|kind| fs::read(dir.join(kind.file_name())).unwrap()).to_vec()
}

#[test]
fn a_directory_that_kafka_closed_opens_without_a_scan_and_closes_with_the_same_lists() {
    let (_root, dir) = copied();
    let before = lists(&dir);
    for round in 0..3 {
        let store = open(&dir);
        let report = &store.report().directories[0];
        assert!(report.was_clean && report.partitions == 3 && report.scanned_bytes == 0, "round {round}: {report:?}");
        assert_eq!(store.report().failed().count(), 0);
        for (name, log_start) in [("orders-0", 0), ("orders-1", 23), ("users-0", 0)] {
            let marks = store.get(&named(name)).unwrap().marks().unwrap();
            assert_eq!(
                (marks.log_start, marks.high_watermark, marks.log_end),
                (at(log_start), at(30), at(30)),
                "{name}"
            );
        }
        let closed = store.close(LONG).unwrap();
        assert_eq!((closed.clean, closed.unclean.len(), closed.failed_dirs.len()), (3, 0, 0));
        assert_eq!(lists(&dir), before, "round {round}");
        assert_eq!(fs::read(dir.join(".kafka_cleanshutdown")).unwrap(), b"{\"version\":0,\"brokerEpoch\":-1}");
    }
}

#[test]
fn what_kafka_deleted_from_the_front_stays_deleted_and_what_it_left_is_read() {
    let (_root, dir) = copied();
    let store = open(&dir);
    let orders = store.get(&named("orders-1")).unwrap();
    assert!(orders.read(at(22), &ReadOptions::default()).is_err());
    let mut offsets = Vec::new();
    let mut next = at(23);
    while next < at(30) {
        let fetched = orders.read(next, &ReadOptions::default()).unwrap();
        for batch in fetched.batches().unwrap().iter() {
            let header = *batch.unwrap().header();
            offsets.push(header.base_offset..header.next_offset());
            next = header.next_offset();
        }
    }
    assert!(offsets.windows(2).all(|pair| pair[0].end == pair[1].start) && next == at(30), "{offsets:?}");
}

#[test]
fn the_cleaners_offset_lasts_until_the_partition_is_deleted() {
    let (_root, dir) = copied();
    let store = open(&dir);
    let cleaned = |dir: &Path| {
        let list = OffsetCheckpoint::read(&alluvium::fs::OsFileSystem, dir, CheckpointKind::Cleaner).unwrap();
        list.offset(&named("users-0"))
    };
    store.delete(&named("orders-0")).unwrap();
    store.tick();
    assert_eq!(cleaned(&dir), Some(at(23)));
    store.delete(&named("users-0")).unwrap();
    assert_eq!(cleaned(&dir), None);
    store.close(LONG).unwrap();
    let text = fs::read_to_string(dir.join(CheckpointKind::RecoveryPoint.file_name())).unwrap();
    assert_eq!(text, "0\n1\norders 1 30\n");
}

#[test]
fn without_the_marker_kafkas_recovery_points_say_where_to_scan_from() {
    let (_root, dir) = copied();
    fs::remove_file(dir.join(".kafka_cleanshutdown")).unwrap();
    // Half of the log of one partition is not known to be synced.
    let list = dir.join(CheckpointKind::RecoveryPoint.file_name());
    fs::write(&list, "0\n3\norders 0 0\norders 1 30\nusers 0 30\n").unwrap();
    let store = open(&dir);
    let report = &store.report().directories[0];
    assert!(!report.was_clean && report.opened == 3);
    let scanned = |name: &str| {
        let log = store.get(&named(name)).unwrap().log().unwrap();
        log.recovery_report().scanned_segments
    };
    let segments = store.get(&named("orders-0")).unwrap().log().unwrap().segment_files().len();
    assert_eq!((scanned("orders-0"), scanned("orders-1")), (segments, 1));
    for name in ["orders-0", "orders-1", "users-0"] {
        assert_eq!(store.get(&named(name)).unwrap().marks().unwrap().log_end, at(30), "{name}");
    }
}
