//! Whole passes over a log, beside the same bytes moved by hand. What is cleaned, the work by hand and the copies are
//! those of `alluvium perf clean`, which also says what is written and held in memory; sizes here are a quarter.

#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/perf/raw.rs"]
mod raw;
#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/rng.rs"]
mod rng;
#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/perf/round.rs"]
mod round;
#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/perf/shape.rs"]
mod shape;
#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/perf/spent.rs"]
mod spent;
#[allow(dead_code, reason = "shared with the tool, which uses more of it")]
#[path = "../../src/bin/alluvium/watched.rs"]
mod watched;

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};

use round::{Round, Subject};
use shape::{Filled, Shape};

/// What comes of a piece of a measurement.
type Done<T> = Result<T, Box<dyn std::error::Error>>;

/// Keys that Kafka's map holds in 1 MiB: 24 bytes an entry, nine tenths full.
const KAFKA_CAPACITY: u64 = 39_321;

/// Where logs go: a real disk, which `/tmp` often is not.
fn scratch() -> PathBuf {
    let parent = std::env::var("ALLUVIUM_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = PathBuf::from(parent).join(format!("bench-clean-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the directory for benchmarks can be made");
    dir
}

/// Cleans so many copies; only cleaning counts.
fn clean(shape: &Shape, filled: &Filled, dir: &Path, times: u64) -> (Duration, Round) {
    let (mut took, mut last) = (Duration::ZERO, None);
    for _ in 0..times {
        let subject = Subject::copy(shape, filled, &dir.join("copy")).unwrap();
        let round = subject.clean().unwrap();
        subject.remove().unwrap();
        took += round.took.wall;
        last = Some(round);
    }
    (took, last.expect("criterion asks for one at least"))
}

/// The group `pass`: by how often the keys fill Kafka's map of the same memory, in many segments and in one.
pub(crate) fn pass(criterion: &mut Criterion) {
    let dir = scratch();
    let mut group = criterion.benchmark_group("pass");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_millis(1));
    for halves in [1_u64, 2, 4, 8, 16, 32] {
        for (segments, segment_bytes) in [("many segments", 16 << 20), ("one segment", 1 << 30)] {
            let keys = (halves * KAFKA_CAPACITY / 2).saturating_sub(u64::from(halves == 2));
            let shape = Shape { records: 750_000, record_bytes: 200, keys, memory_bytes: 1 << 20, segment_bytes };
            let name =
                format!("{} x keys, {segments}", if halves == 1 { "0.5".into() } else { (halves / 2).to_string() });
            // What the raw work is follows from a cleaning, so whoever comes first makes the log.
            let mut made: Option<(Filled, Round)> = None;
            let prepare = || {
                let filled = shape.fill(&dir.join("filled")).unwrap();
                let (_, round) = clean(&shape, &filled, &dir, 1);
                (filled, round)
            };
            group.throughput(Throughput::Bytes(shape.records * (200 + 27)));
            group.bench_function(BenchmarkId::new(&name, "cleaner"), |bencher| {
                let (filled, _) = made.get_or_insert_with(prepare);
                bencher.iter_custom(|times| clean(&shape, filled, &dir, times).0);
            });
            group.bench_function(BenchmarkId::new(&name, "raw"), |bencher| {
                let (filled, round) = made.get_or_insert_with(prepare);
                let work = round.raw(&shape, filled);
                bencher.iter_custom(|times| (0..times).map(|_| work.run(&dir).unwrap().wall).sum());
            });
            if made.is_some() {
                shape::remove(&dir.join("filled")).unwrap();
            }
        }
    }
    group.finish();
    let _ = std::fs::remove_dir_all(&dir);
}
