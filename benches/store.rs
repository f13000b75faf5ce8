//! A store: opening it clean and after a crash, and what an idle partition costs.
//!
//! `ALLUVIUM_BENCH_GIB` says how much there is to recover (default 1), `ALLUVIUM_BENCH_PARTITIONS` how many partitions a
//! clean store has (default 10,000). What both open is in the page cache.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "the baseline is the file system itself")]
#![expect(unsafe_code, reason = "an allocator that counts is unsafe to implement, and passes everything on")]

#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod paired;
#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod raw;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alluvium::store::{PartitionState, Store, StoreConfig, TopicPartition, Workers};
use alluvium::{AppendAs, LeaderEpoch, LogConfig};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use paired::{Contest, Settings, Unit, ours};

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

fn count(bytes: usize, sign: i64) {
    ALLOCATED.fetch_add(sign * i64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

fn named(number: usize) -> TopicPartition {
    TopicPartition::new("bench", i32::try_from(number).unwrap()).unwrap()
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap())
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig { workers: Workers::Tick, reserve_bytes: 0, ..StoreConfig::new(dir) }
}

/// A data directory with `partitions` partitions of `sealed` sealed segments and an active one, closed cleanly. All are
/// copies of one, which saves making each durable.
fn clean_store(data: &Path, partitions: usize, sealed: usize) {
    let store = Store::open(config(data)).unwrap();
    let first = store.create(&named(0), LogConfig::default()).unwrap();
    let batch = raw::batches(1, 10, 100).remove(0);
    for _ in 0..sealed {
        first.append(batch.clone(), client()).unwrap();
        assert!(first.log().unwrap().roll().unwrap());
    }
    first.append(batch, client()).unwrap();
    drop(first);
    store.close(Duration::from_mins(1)).unwrap();
    let template = data.join(named(0).dir_name());
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name(), std::fs::read(entry.path()).unwrap())
    };
    let files: Vec<_> = std::fs::read_dir(&template).unwrap().map(read).collect();
    for number in 1..partitions {
        let partition = data.join(named(number).dir_name());
        std::fs::create_dir(&partition).unwrap();
        for (name, bytes) in &files {
            std::fs::write(partition.join(name), bytes).unwrap();
        }
    }
}

/// Opens a clean store. Only opening counts: threads that end and what is freed do not.
fn open_clean(data: PathBuf, partitions: usize, clock: fn() -> Duration) -> impl FnMut(u64) -> Duration {
    move |operations| {
        let mut took = Duration::ZERO;
        for _ in 0..operations {
            let started = clock();
            let store = Store::open(config(&data)).unwrap();
            took += clock().saturating_sub(started);
            let line = &store.report().directories[0];
            assert!(line.was_clean && line.partitions == partitions && line.opened == 0 && line.scanned_bytes == 0);
            store.close(Duration::from_mins(1)).unwrap();
        }
        took
    }
}

/// The least that knowing each partition takes: its directory's name, and its files of state read one after the other.
fn read_states(data: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(data).unwrap().map(Result::unwrap) {
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        for name in ["alluvium.clean-shutdown", "alluvium.recovery-point"] {
            bytes += std::fs::read(entry.path().join(name)).map_or(0, |content| content.len() as u64);
        }
    }
    bytes
}

fn timed(clock: fn() -> Duration, operations: u64, mut operation: impl FnMut()) -> Duration {
    let started = clock();
    for _ in 0..operations {
        operation();
    }
    clock().saturating_sub(started)
}

fn clean_contest(dir: &Path) -> Vec<Contest> {
    let partitions = usize::try_from(variable("ALLUVIUM_BENCH_PARTITIONS", 10_000)).unwrap();
    let data = dir.join("data");
    clean_store(&data, partitions, 2);
    let contest = |name: &str, clock: fn() -> Duration| {
        let raw_data = data.clone();
        Contest {
            name: format!("open clean, {partitions} partitions, {name}"),
            unit: Unit::Things(partitions as u64, "partitions"),
            operations: 1,
            contenders: vec![
                paired::raw("two files of each", move |operations| {
                    timed(clock, operations, || {
                        black_box(read_states(&raw_data));
                    })
                }),
                ours("store", open_clean(data.clone(), partitions, clock)),
            ],
        }
    };
    vec![contest("wall time", since_start), contest("CPU time", cpu)]
}

/// Wall time since the first call.
fn since_start() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

/// A store that was not closed: about `bytes` in 32 partitions.
fn unclean_store(data: &Path, bytes: u64) -> Vec<PathBuf> {
    const PARTITIONS: usize = 32;
    let store = Store::open(config(data)).unwrap();
    let mut batches = raw::batches(64, raw::records_in(16 << 10, 1024), 1024);
    let mut files = Vec::new();
    for number in 0..PARTITIONS {
        let partition = store.create(&named(number), LogConfig::default()).unwrap();
        let mut written = 0;
        while written < bytes / PARTITIONS as u64 {
            for batch in &mut batches {
                raw::unstamp(batch);
                partition.append(&mut batch[..], client()).unwrap();
                written += batch.len() as u64;
            }
        }
        let log = partition.log().unwrap();
        log.flush().unwrap();
        files.append(&mut log.segment_files());
    }
    files
}

/// All files, by so many threads.
fn scan_all(files: &[PathBuf], threads: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    black_box(raw::scan(file));
                }
            });
        }
    });
}

fn recover_contests(dir: &Path) -> Vec<Contest> {
    let bytes = variable("ALLUVIUM_BENCH_GIB", 1) << 30;
    let data = dir.join("data");
    let files = unclean_store(&data, bytes);
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum();
    let contest = |threads: u32| {
        let (files, data) = (files.clone(), data.clone());
        Contest {
            name: format!("open after a crash, {} MiB, {threads} threads", bytes >> 20),
            unit: Unit::Bytes(bytes),
            operations: 1,
            contenders: vec![
                paired::raw("raw scan", move |operations| {
                    timed(since_start, operations, || scan_all(&files, threads as usize))
                }),
                ours("store", move |operations| {
                    let mut took = Duration::ZERO;
                    for _ in 0..operations {
                        let started = Instant::now();
                        let config = StoreConfig { recovery_threads: threads, ..config(&data) };
                        let store = Store::open(config).unwrap();
                        took += started.elapsed();
                        let line = &store.report().directories[0];
                        assert!(!line.was_clean && line.scanned_bytes == bytes, "{line:?}");
                    }
                    took
                }),
            ],
        }
    };
    vec![contest(1), contest(2)]
}

/// Prints and checks what partitions cost that nobody uses.
fn measure_memory(dir: &Path) {
    const PARTITIONS: usize = 2_000;
    const BYTES_MAX: i64 = 4 << 10;
    clean_store(&dir.join("data"), PARTITIONS, 10);
    let allocated = || ALLOCATED.load(Ordering::Relaxed);
    let before = allocated();
    let config = StoreConfig {
        idle_after: Some(Duration::from_millis(1)),
        housekeeping_interval: Duration::from_millis(1),
        ..config(&dir.join("data"))
    };
    let store = Store::open(config).unwrap();
    let each = |now: i64| (now - before) / i64::try_from(PARTITIONS).unwrap();
    let opened = each(allocated());
    let all: Vec<_> = (0..PARTITIONS).map(|number| store.get(&named(number)).unwrap()).collect();
    for partition in &all {
        let log = partition.log().unwrap();
        assert_eq!(log.segment_files().len(), 11);
        partition.read(log.log_start(), &alluvium::ReadOptions::default()).unwrap();
    }
    let used = each(allocated());
    while all.iter().any(|partition| !matches!(partition.state(), PartitionState::Idle)) {
        std::thread::sleep(Duration::from_millis(2));
        store.tick();
    }
    drop(all);
    let idle = each(allocated());
    println!(
        "store memory of {PARTITIONS} partitions with 11 segments: {opened} bytes each when freshly opened, {used} in use, \
         {idle} idle after use"
    );
    assert!(opened < BYTES_MAX && idle < BYTES_MAX, "more than {BYTES_MAX}");
}

fn main() {
    let settings = Settings::from_environment();
    let dir = paired::scratch("store");
    for part in ["memory", "clean", "crashed"] {
        std::fs::create_dir_all(dir.join(part)).unwrap();
    }
    let wants =
        |name: &str| std::env::args().skip(1).filter(|word| !word.starts_with('-')).all(|word| name.contains(&word));
    if wants("memory") {
        measure_memory(&dir.join("memory"));
    }
    let mut contests = Vec::new();
    if wants("open clean") {
        contests.extend(clean_contest(&dir.join("clean")));
    }
    if wants("open after a crash") {
        contests.extend(recover_contests(&dir.join("crashed")));
    }
    paired::run("store", &settings.unscaled(), contests);
    let _ = std::fs::remove_dir_all(&dir);
}
