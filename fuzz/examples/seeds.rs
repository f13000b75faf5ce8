//! Cuts the seeds of the corpora out of the fixtures that Kafka wrote. Run in the root of the crate:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::path::Path;
use std::sync::Arc;

use alluvium::fs::sim::SimFs;
use alluvium::fs::{EntryKind, FileSystem, OpenMode, write_all_at};
use alluvium::record::batches;
use alluvium::store::{StoreConfig, StoreOpening, Workers};
use alluvium::{Environment, LogConfig, Offset};

#[path = "../shared/mod.rs"]
mod shared;

type Files = Vec<(String, Vec<u8>)>;

const TOPIC: &str = "cleanup.policy=compact,delete\nretention.ms=-1\nsegment.bytes : 1048576\ncompression.type=zstd\n\
    compression.zstd.level=7\nmin.insync.replicas=2\n";
const BROKER: &str = "# log\nlog.retention.hours=168\nlog.roll.hours 24\nlog.flush.interval.\\\n  messages=1000\n\
    alluvium.on.damage=\\u0072efuse\n";

fn main() {
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
            } else if name.ends_with(".txnindex") {
                seed_aborted(&seed, content);
            } else if name.ends_with(".snapshot") {
                write("snapshot", &seed, content);
            } else if name == "leader-epoch-checkpoint" {
                write("checkpoint", &seed, content);
            }
        }
        seed_directories(&partition, &files);
    }
    for (name, content) in files(Path::new("tests/fixtures/kafka/logdir")) {
        if name.ends_with("-offset-checkpoint") {
            write("checkpoint", &name, &content);
        }
    }
    for (name, text) in [("topic", TOPIC), ("broker", BROKER)] {
        write("properties", name, text.as_bytes());
    }
    for key in LogConfig::describe() {
        write("properties", key.name, format!("{}={}", key.name, key.default).as_bytes());
    }
    seed_operations();
    seed_stores();
}

/// Partitions of Kafka's, by name.
fn partitions() -> Vec<(String, Files)> {
    let fixtures = Path::new("tests/fixtures/kafka");
    let mut found = Vec::new();
    for parent in [fixtures.to_owned(), fixtures.join("logdir")] {
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

fn files(dir: &Path) -> Files {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
    };
    let is_file = |entry: &std::io::Result<std::fs::DirEntry>| entry.as_ref().unwrap().file_type().unwrap().is_file();
    let mut all: Files = std::fs::read_dir(dir).unwrap().filter(is_file).map(entry).collect();
    all.sort();
    all
}

fn write(target: &str, name: &str, data: &[u8]) {
    let dir = Path::new("fuzz/corpus").join(target);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("seed-{name}")), data).unwrap();
}

/// The whole index, and each entry alone. The first two bytes are the base offset of the segment.
fn seed_aborted(seed: &str, index: &[u8]) {
    write("txn_index", seed, &[&[0, 0], index].concat());
    for (at, entry) in index.chunks(34).enumerate() {
        write("txn_index", &format!("{seed}-{at}"), &[&[0, 7], entry].concat());
    }
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

fn seed_directories(partition: &str, files: &Files) {
    let small: Files = files.iter().filter(|(_, content)| content.len() < 4096).cloned().collect();
    for settings in [0, 4 | 8] {
        let input = shared::open_dir::encode(settings, &small);
        if input.len() < 16 << 10 {
            write("open_dir", &format!("{partition}-{settings}"), &input);
        }
    }
    let logs: Files = small.into_iter().filter(|(name, _)| name.ends_with(".log")).take(2).collect();
    if !logs.is_empty() {
        write("open_dir", &format!("{partition}-logs"), &shared::open_dir::encode(0, &logs));
        write("open_dir", &format!("{partition}-ours"), &shared::open_dir::encode(0, &closed(&logs)));
    }
}

/// What a log of ours leaves of these files when it was opened and closed: indexes, recovery point, marker.
fn closed(logs: &Files) -> Files {
    let fs = SimFs::new(1);
    let dir = Path::new("/orders-0");
    fs.create_dir(dir).unwrap();
    for (name, content) in logs {
        let file = fs.open(&dir.join(name), OpenMode::CreateNew).unwrap();
        write_all_at(&*file, content, 0).unwrap();
    }
    let environment = Environment { fs: Arc::new(fs.clone()), ..Environment::default() };
    let log = environment.open(dir, LogConfig::default()).unwrap();
    assert!(log.log_end() > Offset::ZERO);
    log.close().unwrap();
    drop(log);
    let names = fs.list(dir).unwrap().into_iter().map(|entry| entry.name);
    names.map(|name| (name.clone(), fs.live_bytes(&dir.join(name)).unwrap())).collect()
}

/// A store of Kafka's, and what ours leaves of it: open, closed, and after a move that died half-way.
fn seed_stores() {
    let logdir = Path::new("tests/fixtures/kafka/logdir");
    let beside = files(logdir);
    for name in ["orders-0", "orders-1", "users-0"] {
        let small: Files = files(&logdir.join(name)).into_iter().filter(|(_, content)| content.len() < 4096).collect();
        for settings in [0, 0x80 | 4] {
            write("open_store", &format!("kafka-{name}-{settings}"), &shared::open_store::encode(settings, &beside, &small));
        }
        for is_closed in [false, true] {
            let (beside, inside) = ours(&beside, &small, is_closed);
            let seed = format!("ours-{name}-{}", if is_closed { "closed" } else { "open" });
            write("open_store", &seed, &shared::open_store::encode(0, &beside, &inside));
        }
    }
}

/// What a store of ours makes of a data directory with these files and one partition.
fn ours(beside: &Files, inside: &Files, is_closed: bool) -> (Files, Files) {
    let fs = SimFs::new(1);
    let (data, dir) = (Path::new("/data"), Path::new("/data/orders-0"));
    for (dir, files) in [(data, beside), (dir, inside)] {
        fs.create_dir(dir).unwrap();
        for (name, content) in files {
            write_all_at(&*fs.open(&dir.join(name), OpenMode::CreateNew).unwrap(), content, 0).unwrap();
        }
    }
    let environment = Environment { fs: Arc::new(fs.clone()), ..Environment::default() };
    let config = StoreConfig { workers: Workers::Tick, reserve_bytes: 100, ..StoreConfig::new(data) };
    let store = StoreOpening::new(config).environment(environment).open().unwrap();
    store.tick();
    if is_closed {
        store.close(std::time::Duration::from_secs(60)).unwrap();
    }
    let read = |dir: &Path| {
        let entries = fs.list(dir).unwrap().into_iter().filter(|entry| entry.kind == EntryKind::File);
        entries.map(|entry| (entry.name.clone(), fs.live_bytes(&dir.join(&entry.name)).unwrap())).collect()
    };
    (read(data), read(dir))
}

fn seed_operations() {
    // Where each of them has the step to die in.
    let targets = [("ops", 8), ("clean", 9)];
    for (target, step, seed) in targets.into_iter().flat_map(|(target, at)| (0..24_u64).map(move |seed| (target, at, seed))) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let len = rng.usize(40..300);
        let mut input: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        // A step of 0: the machine lives to the end.
        if seed % 4 == 0 {
            input[step..step + 2].copy_from_slice(&[0, 0]);
        }
        write(target, &format!("{seed}"), &input);
    }
}
