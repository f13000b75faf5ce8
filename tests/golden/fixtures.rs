//! The fixtures, their manifests, and copies of them to open.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::fs::OsFileSystem;
use alluvium::inspect::{PartitionFiles, VerifyOptions};
use alluvium::{CleanupPolicy, Environment, LogConfig, Offset, PartitionLog, ReadOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::naive_state::in_order;

/// Every partition directory, those in the data directory included.
pub(crate) const ALL: [&str; 10] = [
    "plain-0",
    "codecs-0",
    "txn-0",
    "epochs-0",
    "compact-before-0",
    "torn-body-0",
    "torn-zeros-0",
    "logdir/orders-0",
    "logdir/orders-1",
    "logdir/users-0",
];

/// One partition directory and what Kafka read from it.
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Value,
}

pub(crate) fn all() -> impl Iterator<Item = Fixture> {
    ALL.into_iter().map(fixture)
}

pub(crate) fn fixture(name: &'static str) -> Fixture {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka");
    let manifest = fs::read(root.join(format!("{name}.manifest.json"))).unwrap();
    Fixture { name, dir: root.join(name), manifest: serde_json::from_slice(&manifest).unwrap() }
}

impl Fixture {
    pub(crate) fn segments(&self) -> &[Value] {
        self.manifest["segments"].as_array().unwrap()
    }

    /// Every batch of the manifest with the name of its file.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.segments().iter().flat_map(|segment| {
            let file = segment["file"].as_str().unwrap();
            segment["entries"].as_array().unwrap().iter().map(move |entry| (file, entry))
        })
    }

    /// Every record of the manifest.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Value> {
        self.batches().flat_map(|(_, batch)| batch["records"].as_array().unwrap())
    }

    pub(crate) fn is_compacted(&self) -> bool {
        self.name == "compact-before-0" || self.name == "logdir/users-0"
    }

    /// The settings that the directory was written with.
    pub(crate) fn config(&self) -> LogConfig {
        let cleanup_policy = if self.is_compacted() { CleanupPolicy::Compact } else { CleanupPolicy::Delete };
        LogConfig {
            segment_bytes: 4096,
            index_interval_bytes: 512,
            segment_index_bytes: 65536,
            cleanup_policy,
            ..LogConfig::default()
        }
    }

    /// A copy to work on.
    pub(crate) fn copy(&self) -> (TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join(self.dir.file_name().unwrap());
        fs::create_dir(&dir).unwrap();
        for (name, bytes) in contents(&self.dir) {
            fs::write(dir.join(name), bytes).unwrap();
        }
        (temp, dir)
    }
}

/// Names and bytes of all files of a directory.
pub(crate) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// The same without the files that are ours alone, which Kafka ignores.
pub(crate) fn contents_for_kafka(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let is_ours = |name: &str| name.starts_with("alluvium.") || is_kind(name, "sum");
    contents(dir).into_iter().filter(|(name, _)| !is_ours(name)).collect()
}

/// Whether a file name ends in `.kind`.
pub(crate) fn is_kind(name: &str, kind: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == kind)
}

/// The real files at the time that the fixtures are of: later on their producers count as expired.
pub(crate) fn at_the_time() -> Environment {
    Environment { fs: Arc::new(OsFileSystem), clock: Arc::new(ManualClock::at(1_700_000_300_000)) }
}

/// The files that our log has to have after a close, where Kafka's are those of the fixture.
pub(crate) fn right_files(fixture: &Fixture) -> BTreeMap<String, Vec<u8>> {
    let mut right = contents_for_kafka(&fixture.dir);
    right.remove("partition.metadata");
    for (name, bytes) in &mut right {
        if is_kind(name, "snapshot") {
            *bytes = in_order(bytes);
        }
    }
    if fixture.name == "logdir/orders-1" {
        // Kafka's log begins at 23, which a checkpoint of the directory above says. Ours begins with its first segment.
        let epochs = right.get_mut("leader-epoch-checkpoint").unwrap();
        assert_eq!(epochs, b"0\n1\n0 23\n");
        *epochs = b"0\n1\n0 0\n".to_vec();
    }
    right
}

/// Says which file differs, and where, instead of printing thousands of bytes.
pub(crate) fn assert_same_files(found: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(right), "{what}");
    for (name, right) in right {
        let found = &found[name];
        let first = found.iter().zip(right).position(|(a, b)| a != b);
        assert_eq!((found.len(), first), (right.len(), None), "{what}: {name}\n{found:?}\n{right:?}");
    }
}

/// The batches that the log has, read in pieces of `max_bytes`: file name, position, bytes.
pub(crate) fn read_batches(log: &PartitionLog, max_bytes: u64) -> Vec<(String, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut next = log.log_start();
    loop {
        let fetched = log.read(next, &ReadOptions { max_bytes, ..ReadOptions::default() }).unwrap();
        if fetched.is_empty() {
            assert_eq!(next, log.log_end());
            return found;
        }
        let first_bytes = fetched.batches().unwrap().iter().next().unwrap().unwrap().bytes().len() as u64;
        assert!(fetched.bytes() <= max_bytes.max(first_bytes), "{} of {max_bytes}", fetched.bytes());
        let before = found.len();
        for slice in fetched.slices() {
            let file = slice.path().file_name().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            slice.read_into(&mut bytes).unwrap();
            let mut at = 0;
            while at < bytes.len() {
                let size = 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
                found.push((file.clone(), slice.position().value() + at as u64, bytes[at..at + size].to_vec()));
                at += size;
            }
            assert_eq!(at, bytes.len());
        }
        assert_eq!(fetched.batches().unwrap().iter().count(), found.len() - before);
        let after = fetched.next_offset().unwrap();
        assert!(after > next);
        next = after;
    }
}

/// Our own verification finds nothing wrong; gives the number of batches and records.
pub(crate) fn assert_sound(dir: &Path, index_interval_bytes: Option<u32>) -> (u64, u64) {
    let options = VerifyOptions { index_interval_bytes, ..VerifyOptions::default() };
    let report = PartitionFiles::open(dir).unwrap().verify(&options).unwrap();
    assert!(report.is_sound(), "{}: {:?}", dir.display(), report.problems);
    (report.batches, report.records)
}

pub(crate) fn offset(value: &Value) -> Offset {
    Offset::new(value.as_i64().unwrap()).unwrap()
}

/// Bytes of a field that is base64 or null.
pub(crate) fn base64(text: &Value) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.as_str()?.trim_end_matches('=');
    let digits = text.bytes().map(|byte| ALPHABET.iter().position(|digit| *digit == byte).unwrap());
    let bits: Vec<bool> = digits.flat_map(|digit| (0..6).rev().map(move |bit| digit >> bit & 1 == 1)).collect();
    Some(bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect())
}
