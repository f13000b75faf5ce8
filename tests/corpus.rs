//! The fuzz targets over their committed corpora, without a fuzzer: seeds cut out of what Kafka wrote, and every input
//! that once broke something.
//!
//! `fuzz/README.md` says how the seeds are made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_wrap, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "corpora are read from the real file system")]

use std::path::{Path, PathBuf};

#[path = "../fuzz/shared/mod.rs"]
mod shared;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Runs a target over its corpus; a failure names the file.
fn run_all(target: &str, run: fn(&[u8])) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3 && files.len() < 200, "{} files in the corpus of {target}", files.len());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        let held = std::panic::catch_unwind(|| run(&data));
        assert!(held.is_ok(), "{} breaks the target {target}", file.display());
    }
}

#[test]
fn batches() {
    run_all("batch", shared::batch::run);
}

#[test]
fn records() {
    run_all("record", shared::record::run);
}

#[test]
fn offset_indexes() {
    run_all("offset_index", shared::offset_index::run);
}

#[test]
fn time_indexes() {
    run_all("time_index", shared::time_index::run);
}

#[test]
fn transaction_indexes() {
    run_all("txn_index", shared::txn_index::run);
}

#[test]
fn checkpoints() {
    run_all("checkpoint", shared::checkpoint::run);
}

#[test]
fn snapshots() {
    run_all("snapshot", shared::snapshot::run);
}

#[test]
fn properties() {
    run_all("properties", shared::properties::run);
}

#[test]
fn directories() {
    run_all("open_dir", shared::open_dir::run);
}

#[test]
fn data_directories() {
    run_all("open_store", shared::open_store::run);
}

#[test]
fn operations() {
    run_all("ops", shared::ops::run);
}

#[test]
fn cleanings() {
    run_all("clean", shared::clean::run);
}

#[test]
fn the_canary_falls_for_some_seed() {
    let falls = |seed: u8| std::panic::catch_unwind(|| shared::canary::run(&[1, seed])).is_err();
    assert!((0..=255).any(falls), "a record that was never synced survived every power loss");
}
