//! Indexes that we build from Kafka's `.log` files, against those that Kafka wrote while appending.
//!
//! Kafka looks at the byte count once an append, before it adds the append's bytes; we look at each batch, as Kafka's
//! own recovery does. The two agree wherever an append was one batch. In the fixtures that is everywhere but in segment
//! 12 of `users-0`, which Kafka's cleaner wrote: four batches in one append, so Kafka's index has no entry at all where
//! a rebuild has one for the batch at 723. The time index gets an entry whenever the offset index does.

use std::fs;
use std::path::Path;

use alluvium::{Offset, PartitionLog, ReadOptions};

use crate::fixtures::{Fixture, all, assert_same_files, contents_for_kafka, is_kind};

fn is_index(name: &str) -> bool {
    is_kind(name, "index") || is_kind(name, "timeindex")
}

fn drop_indexes(dir: &Path) {
    for name in contents_for_kafka(dir).into_keys().filter(|name| is_index(name)) {
        fs::remove_file(dir.join(name)).unwrap();
    }
}

/// What the index files have to be.
fn right(fixture: &Fixture) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = contents_for_kafka(&fixture.dir);
    if fixture.name == "logdir/users-0" {
        assert!(files["00000000000000000012.index"].is_empty());
        // The batch at 723, whose last offset is 20.
        files.insert("00000000000000000012.index".into(), [8_i32, 723].map(i32::to_be_bytes).concat());
        let entries = [(1_700_000_000_210_i64, 8_i32), (1_700_000_000_230, 10)];
        let bytes = entries.iter().flat_map(|(time, last)| [&time.to_be_bytes()[..], &last.to_be_bytes()].concat());
        files.insert("00000000000000000012.timeindex".into(), bytes.collect());
    }
    files.retain(|name, _| is_index(name));
    files
}

fn index_files(dir: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = contents_for_kafka(dir);
    files.retain(|name, _| is_index(name));
    files
}

#[test]
fn an_unclean_open_rebuilds_what_kafka_wrote() {
    for fixture in all() {
        let (_temp, dir) = fixture.copy();
        drop_indexes(&dir);
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        // Sealed segments have theirs at once, the active one when it is closed.
        let active = log.segment_files().pop().unwrap();
        let active = active.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut sealed = right(&fixture);
        sealed.retain(|name, _| !name.starts_with(&active));
        assert_same_files(&index_files(&dir), &sealed, fixture.name);
        log.close().unwrap();
        assert_same_files(&index_files(&dir), &right(&fixture), fixture.name);
    }
}

#[test]
fn a_clean_open_rebuilds_what_is_missing_when_it_is_looked_at() {
    for fixture in all() {
        let (_temp, dir) = fixture.copy();
        PartitionLog::open(&dir, fixture.config()).unwrap().close().unwrap();
        drop_indexes(&dir);
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        for batch in fixture.batches().map(|(_, batch)| batch) {
            let asked = Offset::new(batch["lastOffset"].as_i64().unwrap()).unwrap();
            assert!(!log.read(asked, &ReadOptions::default()).unwrap().is_empty());
        }
        log.close().unwrap();
        assert_same_files(&index_files(&dir), &right(&fixture), fixture.name);
    }
}
