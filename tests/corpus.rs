//! The fuzz targets over their committed corpora, without a fuzzer: seeds cut out of what Kafka wrote, and every input
//! that once broke something.
//!
//! `cargo test --test corpus -- --ignored` writes the seeds anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
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
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{} breaks the target {target}", file.display());
        }
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
fn directories() {
    run_all("open_dir", shared::open_dir::run);
}

#[test]
fn operations() {
    run_all("ops", shared::ops::run);
}

#[test]
fn the_canary_falls_for_some_seed() {
    let falls = |seed: u8| std::panic::catch_unwind(|| shared::canary::run(&[1, seed])).is_err();
    assert!((0..=255).any(falls), "a record that was never synced survived every power loss");
}

mod seeds {
    //! Cuts seeds out of the fixtures.

    use std::path::Path;

    use alluvium::Offset;
    use alluvium::record::batches;

    use super::{corpus, shared};

    /// Directories with partitions of Kafka's in them.
    fn partitions() -> Vec<(String, Vec<(String, Vec<u8>)>)> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka");
        let mut found = Vec::new();
        for parent in [fixtures.clone(), fixtures.join("logdir")] {
            for entry in std::fs::read_dir(parent).unwrap() {
                let dir = entry.unwrap().path();
                let name = dir.file_name().unwrap().to_string_lossy().into_owned();
                if dir.is_dir() && name.contains('-') {
                    found.push((name, files(&dir)));
                }
            }
        }
        found.sort();
        found
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let entry = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
        };
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(entry).collect();
        all.sort();
        all
    }

    fn write(target: &str, name: &str, data: &[u8]) {
        std::fs::create_dir_all(corpus(target)).unwrap();
        std::fs::write(corpus(target).join(format!("seed-{name}")), data).unwrap();
    }

    #[test]
    #[ignore = "writes the seeds of the corpora"]
    fn write_seeds() {
        for (partition, files) in partitions() {
            for (name, content) in &files {
                let seed = format!("{partition}-{}", name.trim_start_matches('0'));
                if name.ends_with(".log") {
                    seed_batches(&seed, content);
                } else if name.ends_with(".index") {
                    let mut input = (1_u32 << 30).to_be_bytes().to_vec();
                    input.extend_from_slice(&[0, 3]);
                    input.extend_from_slice(content);
                    write("offset_index", &seed, &input);
                } else if name.ends_with(".timeindex") {
                    write("time_index", &seed, &[&[0, 3], &content[..]].concat());
                }
            }
            seed_directories(&partition, &files);
        }
        seed_operations();
    }

    /// The first batches of a log: more of them are more of the same.
    fn seed_batches(seed: &str, log: &[u8]) {
        for (at, batch) in batches(log, u32::MAX).filter_map(Result::ok).take(3).enumerate() {
            if batch.bytes().len() < 8192 {
                write("batch", &format!("{seed}-{at}"), batch.bytes());
                write("record", &format!("{seed}-{at}"), &shared::record::unwrap(&batch));
            }
        }
    }

    fn seed_directories(partition: &str, files: &[(String, Vec<u8>)]) {
        let small: Vec<_> = files.iter().filter(|(_, content)| content.len() < 4096).cloned().collect();
        for settings in [0, 4 | 8] {
            let input = shared::open_dir::encode(settings, &small);
            if input.len() < 16 << 10 {
                write("open_dir", &format!("{partition}-{settings}"), &input);
            }
        }
        let logs: Vec<_> = small.into_iter().filter(|(name, _)| name.ends_with(".log")).take(2).collect();
        if logs.is_empty() {
            return;
        }
        write("open_dir", &format!("{partition}-logs"), &shared::open_dir::encode(0, &logs));
        write("open_dir", &format!("{partition}-ours"), &shared::open_dir::encode(0, &with_state(logs)));
    }

    /// The files as our own process leaves them: a recovery point behind the first segment, a sync state and a
    /// clean-shutdown marker.
    fn with_state(mut logs: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &logs {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let log = alluvium::PartitionLog::open(dir.path(), alluvium::LogConfig::default()).unwrap();
        assert!(log.log_end() > Offset::ZERO);
        log.close().unwrap();
        drop(log);
        logs.clear();
        logs.extend(files(dir.path()));
        logs
    }

    fn seed_operations() {
        for seed in 0..24_u64 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let len = rng.usize(40..300);
            let mut input: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            // Many die early in a short life, some never do.
            if seed % 4 == 0 {
                input[10..12].copy_from_slice(&[0, 0]);
            }
            write("ops", &format!("{seed}"), &input);
        }
    }
}
