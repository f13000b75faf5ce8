//! More segments than descriptors and maps, and more partitions with unsynced data than descriptors. 12,000 segments;
//! 100,000 where `ALLUVIUM_SEEDS` asks for long runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alluvium::fs::sim::TraceEvent;
use alluvium::store::{Partition, Store, StoreConfig};
use alluvium::{LogConfig, ReadMode, ReadOptions};

use super::super::support::LONG;
use super::world::{World, at, batch, client, copy_partition, named, small};

const PARTITIONS: i32 = 300;
const OPEN_FILES: u32 = 128;
const MAPS: u32 = 16;
const THREADS: u64 = 4;
/// What each thread may hold while it looks for something to close, the directory's own files, and what a round writes.
const OPEN_FILES_BESIDE: u64 = 8 * THREADS;

fn segments() -> i64 {
    if std::env::var_os("ALLUVIUM_SEEDS").is_some() { 334 } else { 40 }
}

fn config(dir: &Path) -> StoreConfig {
    let default_log =
        LogConfig { read_mode: ReadMode::Mapped, zero_ahead_bytes: 0, retention_ms: None, ..LogConfig::default() };
    StoreConfig {
        default_log,
        open_files_max: Some(OPEN_FILES),
        maps_max: MAPS,
        index_memory_bytes: 64 << 10,
        idle_after: None,
        ..StoreConfig::new(dir)
    }
}

/// The sealed segments are copies of one partition's, which saves making each of them durable.
fn value(partition: i32, offset: i64) -> String {
    if offset < segments() { format!("sealed {offset}") } else { format!("partition {partition} offset {offset}") }
}

/// Partitions of so many sealed segments each, closed cleanly.
fn make(dir: &Path, segments: i64) {
    let store = Store::open(config(dir)).unwrap();
    let first = store.create(&named("t", 0), config(dir).default_log).unwrap();
    for offset in 0..segments {
        append(&first, offset);
        assert!(first.log().unwrap().roll().unwrap());
    }
    store.close(LONG).unwrap();
    (1..PARTITIONS).for_each(|number| copy_partition(dir, &named("t", 0), &named("t", number)));
}

fn append(partition: &Partition, offset: i64) -> alluvium::log::Appended {
    let appended = partition.append(batch(&value(partition.name().partition(), offset)), client()).unwrap();
    assert_eq!(appended.base_offset(), at(offset));
    appended
}

fn check_record(partition: &Partition, offset: i64) {
    let fetched = partition.read(at(offset), &ReadOptions { max_bytes: 1, ..ReadOptions::default() }).unwrap();
    let batches = fetched.batches().unwrap();
    let found = batches.iter().next().unwrap().unwrap();
    found.verify_crc().unwrap();
    let body = found.body(1 << 20).unwrap();
    let record = body.records().next().unwrap().unwrap();
    assert_eq!(record.offset, at(offset));
    assert_eq!(record.value.unwrap(), value(partition.name().partition(), offset).as_bytes());
}

fn all_of(store: &Store) -> Vec<Partition> {
    (0..PARTITIONS).map(|number| store.get(&named("t", number)).unwrap()).collect()
}

/// Calls `work` in some threads, and returns the most descriptors and maps that were seen meanwhile.
fn watched(dir: &Path, work: impl Fn(u64) + Sync) -> (u64, u64) {
    let (is_over, files, maps) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                files.fetch_max(open_below(dir), Ordering::Relaxed);
                maps.fetch_max(mapped_below(dir), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let work = &work;
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        let done: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        done.into_iter().for_each(Result::unwrap);
    });
    (files.into_inner(), maps.into_inner())
}

fn check_bounds((files, maps): (u64, u64)) {
    assert!(files <= u64::from(OPEN_FILES) + OPEN_FILES_BESIDE, "{files} descriptors");
    assert!(maps <= u64::from(MAPS) + 2 * THREADS, "{maps} maps");
}

/// The partitions of one thread.
fn share(all: &[Partition], thread: u64) -> impl Iterator<Item = &Partition> {
    all.iter().skip(usize::try_from(thread).unwrap()).step_by(usize::try_from(THREADS).unwrap())
}

#[test]
fn twelve_thousand_segments_and_more_partitions_than_descriptors() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, segments) = (temp.path().join("data"), segments());
    make(&dir, segments);
    let store = Store::open(config(&dir)).unwrap();
    assert_eq!(store.partitions().len(), usize::try_from(PARTITIONS).unwrap());
    let all = all_of(&store);
    // Round and round: every partition has unsynced data when the next one is appended to.
    let end = segments + 4;
    check_bounds(watched(&dir, |thread| {
        for offset in segments..end {
            share(&all, thread).for_each(|partition| drop(append(partition, offset)));
        }
    }));
    check_bounds(watched(&dir, |thread| read_at_random(&all, thread, end)));
    // Some are waited for; the others are in the page cache alone when the store goes.
    let appended: Vec<_> = all.iter().map(|partition| append(partition, end)).collect();
    appended.iter().step_by(10).for_each(|appended| appended.wait_durable(LONG).unwrap());
    let logs_held = appended.len();
    drop((appended, all, store));
    assert_eq!(open_below(&dir), 0, "{logs_held} logs went with the store");

    let store = Store::open(config(&dir)).unwrap();
    let found = &store.report().directories[0];
    assert!(!found.was_clean && found.opened == found.partitions, "{found:?}");
    assert_eq!(store.report().failed().count(), 0);
    let all = all_of(&store);
    check_bounds(watched(&dir, |thread| {
        for partition in share(&all, thread) {
            assert_eq!(partition.marks().unwrap().log_end, at(end + 1), "{}", partition.name());
            (0..=end).for_each(|offset| check_record(partition, offset));
        }
    }));
    assert!(store.close(LONG).unwrap().unclean.is_empty());
    drop((all, store));

    let store = Store::open(config(&dir)).unwrap();
    let found = &store.report().directories[0];
    assert!(found.was_clean && found.opened == 0 && found.scanned_bytes == 0, "{found:?}");
    let all = all_of(&store);
    check_bounds(watched(&dir, |thread| read_at_random(&all, thread, end)));
}

fn read_at_random(all: &[Partition], thread: u64, segments: i64) {
    let mut state = 0x9e37_79b9_7f4a_7c15 + thread;
    let mut below = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    for _ in 0..2_000 {
        let partition = &all[usize::try_from(below(all.len() as u64)).unwrap()];
        check_record(partition, i64::try_from(below(segments.unsigned_abs())).unwrap());
    }
}

/// Descriptors of this process on what lies below `dir`.
fn open_below(dir: &Path) -> u64 {
    let targets = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = targets.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(dir)).count() as u64
}

/// Maps of this process of what lies below `dir`.
fn mapped_below(dir: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(dir.to_str().unwrap())).count() as u64
}

#[test]
fn a_clean_opening_touches_no_segment() {
    const PARTITIONS: i32 = 200;
    let world = World::new(5, 2);
    let store = world.open();
    for number in 0..PARTITIONS {
        let partition = store.create(&named("t", number), small()).unwrap();
        for offset in 0..6 {
            partition.append(batch(&value(number, offset)), client()).unwrap();
        }
    }
    store.close(LONG).unwrap();
    drop(store);

    world.fs.record_trace(true);
    let before = world.fs.trace().len();
    let store = world.open();
    let trace = world.fs.trace();
    world.fs.record_trace(false);
    assert!(store.report().directories.iter().all(|line| line.was_clean && line.opened == 0), "{:?}", store.report());
    let within =
        |event: &&TraceEvent| event.path.parent().is_some_and(|dir| !world.dirs.iter().any(|data| data == dir));
    let of_partitions: Vec<&TraceEvent> = trace[before..].iter().filter(within).collect();
    let is_segment = |event: &TraceEvent| {
        let extension = event.path.extension().and_then(std::ffi::OsStr::to_str);
        matches!(extension, Some("log" | "index" | "timeindex" | "txnindex" | "snapshot" | "sum"))
    };
    let touched: Vec<_> = of_partitions.iter().filter(|event| is_segment(event)).collect();
    assert!(touched.is_empty(), "{touched:?}");
    // A look for the id of the topic, and two small files that are asked for their size, opened and read, and the canary.
    let calls = of_partitions.len();
    assert!(calls <= 12 * usize::try_from(PARTITIONS).unwrap(), "{calls} calls");
    for number in 0..PARTITIONS {
        let partition = store.get(&named("t", number)).unwrap();
        assert_eq!(partition.marks().unwrap().log_end, at(6));
        check_record(&partition, 5);
    }
}
