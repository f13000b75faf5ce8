//! A follower that copies Kafka's batches one by one ends with Kafka's files: the same names, and the same bytes but for
//! the order of the producers in a snapshot, which with Kafka is that of a hash map.

use std::fs;
use std::path::Path;

use alluvium::{AppendAs, LogConfig, Offset};

use crate::fixtures::{Fixture, all, assert_same_files, at_the_time, contents_for_kafka, right_files};

/// The batches of one file.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut batches = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = 12 + u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        batches.push(&rest[..size]);
        rest = &rest[size..];
    }
    batches
}

/// Whether the sizes alone make Kafka roll where it did. In `codecs-0` and `txn-0` segments had other limits, and the
/// cleaner made those of `users-0`: there we roll where Kafka did.
fn rolls_by_size(fixture: &Fixture) -> bool {
    !matches!(fixture.name, "codecs-0" | "txn-0" | "logdir/users-0")
}

/// Copies the fixture's batches into a new log, `group` at a time.
fn follow(fixture: &Fixture, dir: &Path, group: usize) {
    let by_size = rolls_by_size(fixture);
    let segment_bytes = if by_size { 4096 } else { 1 << 20 };
    let log = at_the_time().open(dir, LogConfig { segment_bytes, ..fixture.config() }).unwrap();
    for (at, segment) in fixture.segments().iter().enumerate() {
        if at > 0 && !by_size {
            assert!(log.roll().unwrap());
        }
        let bytes = fs::read(fixture.dir.join(segment["file"].as_str().unwrap())).unwrap();
        for batches in split(&bytes).chunks(group) {
            let batches: Vec<Vec<u8>> = batches.iter().map(|batch| batch.to_vec()).collect();
            let first = i64::from_be_bytes(batches[0][..8].try_into().unwrap());
            let appended = log.append(batches, AppendAs::Follower).unwrap();
            assert_eq!(appended.base_offset(), Offset::new(first).unwrap());
        }
    }
    log.close().unwrap();
}

fn check(fixture: &Fixture, group: usize) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("copy-0");
    follow(fixture, &dir, group);
    let mut right = right_files(fixture);
    if fixture.name == "logdir/users-0" {
        // The cleaner took the batches below 5, with which the epoch had begun; a follower never saw them.
        let epochs = right.insert("leader-epoch-checkpoint".into(), b"0\n1\n0 5\n".to_vec());
        assert_eq!(epochs.as_deref(), Some(&b"0\n1\n0 0\n"[..]));
    }
    let mut found = contents_for_kafka(&dir);
    if fixture.name == "logdir/users-0" {
        // One append of four batches there; see `indexes`.
        for name in ["00000000000000000012.index", "00000000000000000012.timeindex"] {
            assert_ne!(found.remove(name), right.remove(name));
        }
    }
    assert_same_files(&found, &right, fixture.name);
}

#[test]
fn batches_copied_one_by_one_make_kafkas_files() {
    for fixture in all().filter(|fixture| !fixture.name.starts_with("torn")) {
        check(&fixture, 1);
    }
}

/// However the batches come in, the index has its entries batch by batch.
#[test]
fn batches_copied_in_groups_make_the_same_files_where_no_group_is_split_by_a_roll() {
    for fixture in all().filter(|fixture| !fixture.name.starts_with("torn") && !rolls_by_size(fixture)) {
        check(&fixture, 2);
        check(&fixture, 100);
    }
}
