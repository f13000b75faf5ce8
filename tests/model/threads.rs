//! Many threads on a real file system: appenders, readers, somebody who truncates, with and without a flusher.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alluvium::clock::{Clock, SystemClock};
use alluvium::record::{BatchBuilder, BatchView};
use alluvium::{
    AppendAs, Deadline, DurabilityError, Flusher, Isolation, LogConfig, Offset, PartitionLog, ReadError, ReadMode,
    ReadOptions, TimestampMs,
};

use crate::support::batches::{epoch, offset};

const APPENDERS: u64 = 4;
const READERS: u64 = 8;
const RUN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
struct Variant {
    truncates: bool,
    has_flusher: bool,
    read_mode: ReadMode,
    zero_ahead_bytes: u32,
}

/// What all threads share.
struct Scene {
    log: PartitionLog,
    clock: SystemClock,
    variant: Variant,
    /// Ends below which a durable wait succeeded; only without truncation.
    durable: AtomicU64,
    is_over: AtomicBool,
}

impl Scene {
    fn goes_on(&self) -> bool {
        let goes_on = self.clock.monotonic() < RUN;
        self.is_over.fetch_or(!goes_on, Ordering::Relaxed);
        goes_on && !self.is_over.load(Ordering::Relaxed)
    }
}

/// A batch whose records say who wrote them and in which order.
fn batch(thread: u64, count: u64, records: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for record in 0..records {
        let mut value = [thread, count, record].map(u64::to_be_bytes).concat();
        value.resize(24 + (count % 90) as usize, b'x');
        builder.record(TimestampMs::new(-1), None, Some(&value));
    }
    builder.build().unwrap().into_bytes()
}

fn append_all(scene: &Scene, thread: u64) {
    let mut rng = fastrand::Rng::with_seed(thread);
    let mut count = 0;
    while scene.goes_on() {
        count += 1;
        let client = AppendAs::Client { epoch: epoch(1) };
        let appended = scene.log.append(batch(thread, count, rng.u64(1..4)), client).unwrap();
        if rng.u8(0..4) > 0 {
            continue;
        }
        match appended.wait_durable(Deadline::NEVER) {
            Ok(()) => {
                let end = appended.end().value().cast_unsigned();
                if !scene.variant.truncates {
                    assert!(scene.log.durable_end() >= appended.end());
                    scene.durable.fetch_max(end, Ordering::Relaxed);
                }
            }
            Err(DurabilityError::Truncated { .. }) if scene.variant.truncates => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// The newest batch of each thread that was seen.
#[derive(Default)]
struct Seen {
    newest: BTreeMap<u64, u64>,
}

/// Checks whole valid batches, dense offsets from at most `from` on, and each thread's order; returns the end.
fn check_bytes(mut bytes: &[u8], from: i64, seen: &mut Seen) -> i64 {
    let mut next = None;
    while !bytes.is_empty() {
        let view = BatchView::parse(bytes, u32::MAX).unwrap();
        view.verify_crc().unwrap();
        let header = view.header();
        let base = header.base_offset.value();
        match next {
            None => assert!(base <= from && header.last_offset().value() >= from, "{base} at {from}"),
            Some(next) => assert_eq!(base, next),
        }
        next = Some(header.next_offset().value());
        let body = view.body(1 << 20).unwrap();
        for (index, record) in (0_u64..).zip(body.records()) {
            let value = record.unwrap().value.unwrap().to_vec();
            let field = |at: usize| u64::from_be_bytes(value[at * 8..at * 8 + 8].try_into().unwrap());
            let (thread, count) = (field(0), field(1));
            assert_eq!(field(2), index);
            let newest = seen.newest.insert(thread, count);
            assert!(newest.is_none_or(|newest| newest <= count), "thread {thread}: {count} after {newest:?}");
        }
        bytes = &bytes[view.bytes().len()..];
    }
    next.unwrap_or(from)
}

fn read_all(scene: &Scene, thread: u64) {
    let mut rng = fastrand::Rng::with_seed(100 + thread);
    let (mut from, mut seen) = (0, Seen::default());
    let mut held = None;
    while scene.goes_on() {
        let isolation = if rng.bool() { Isolation::LogEnd } else { Isolation::Durable };
        let options = ReadOptions { max_bytes: rng.u64(1..20_000), isolation, ..ReadOptions::default() };
        let fetched = match scene.log.read(offset(from), &options) {
            Ok(fetched) => fetched,
            Err(ReadError::OutOfRange { log_end, .. }) if scene.variant.truncates => {
                (from, seen) = (log_end.value(), Seen::default());
                continue;
            }
            Err(e) => panic!("read at {from}: {e}"),
        };
        let bytes = fetched.read().unwrap();
        let marks = fetched.marks();
        assert!(marks.durable_end <= marks.log_end && marks.log_start <= marks.log_end, "{marks:?}");
        if scene.variant.truncates {
            // What comes next may be another version of what was seen.
            seen = Seen::default();
        }
        from = check_bytes(&bytes, from, &mut seen);
        if rng.u8(0..20) == 0 {
            (from, seen) = (rng.i64(0..=scene.log.log_end().value()), Seen::default());
        }
        match held.take() {
            None if !bytes.is_empty() => held = Some((fetched, bytes)),
            None => {}
            Some((fetched, bytes)) if rng.u8(0..5) == 0 => {
                let now: Vec<u8> = fetched.read().unwrap();
                assert!(now == bytes, "a slice shows other bytes than before");
            }
            kept => held = kept,
        }
    }
}

fn truncate_all(scene: &Scene) {
    let mut rng = fastrand::Rng::with_seed(7);
    while scene.goes_on() {
        let end = scene.log.log_end().value();
        let to = if rng.u8(0..6) == 0 { end / 2 } else { end - rng.i64(0..60).min(end) };
        let cut = scene.log.truncate_to(offset(to)).unwrap();
        assert!(cut.value() <= to);
        let pause = scene.clock.monotonic() + Duration::from_millis(rng.u64(0..8));
        while scene.clock.monotonic() < pause {
            std::thread::yield_now();
        }
    }
}

fn config(variant: Variant) -> LogConfig {
    LogConfig {
        segment_bytes: 6000,
        index_interval_bytes: 500,
        read_mode: variant.read_mode,
        zero_ahead_bytes: variant.zero_ahead_bytes,
        ..LogConfig::default()
    }
}

/// A log with sealed segments that nobody has opened yet.
fn prepared(dir: &Path, variant: Variant) -> PartitionLog {
    let log = PartitionLog::open(dir, config(variant)).unwrap();
    for count in 0..600 {
        log.append(batch(99, count, 2), AppendAs::Client { epoch: epoch(1) }).unwrap();
    }
    log.close().unwrap();
    PartitionLog::open(dir, config(variant)).unwrap()
}

fn run(variant: Variant) {
    let dir = tempfile::tempdir().unwrap();
    let log = prepared(dir.path(), variant);
    let flusher = variant.has_flusher.then(|| Flusher::start(log.clone()).unwrap());
    let (durable, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let scene = Scene { log, clock: SystemClock::new(), variant, durable, is_over };
    std::thread::scope(|scope| {
        let scene = &scene;
        let appenders = (0..APPENDERS).map(|thread| scope.spawn(move || append_all(scene, thread)));
        let mut threads: Vec<_> = appenders.collect();
        threads.extend((0..READERS).map(|thread| scope.spawn(move || read_all(scene, thread))));
        if variant.truncates {
            threads.push(scope.spawn(move || truncate_all(scene)));
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                scene.is_over.store(true, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
    });
    if let Some(flusher) = flusher {
        assert_eq!(flusher.panics(), 0);
    }
    let Scene { log, durable, .. } = scene;
    let (marks, whole) = (log.marks(), read_whole(&log));
    assert!(durable.into_inner() <= marks.durable_end.value().cast_unsigned());
    drop(log);
    let log = PartitionLog::open(dir.path(), config(variant)).unwrap();
    assert_eq!((log.log_end(), read_whole(&log) == whole), (marks.log_end, true));
    assert!(log.recovery_report().damage().next().is_none(), "{:?}", log.recovery_report());
    println!("{variant:?}: {} records, {} bytes", marks.log_end, whole.len());
}

fn read_whole(log: &PartitionLog) -> Vec<u8> {
    let (mut next, mut whole) = (Offset::ZERO, Vec::new());
    while next < log.log_end() {
        let fetched = log.read(next, &ReadOptions::default()).unwrap();
        whole.extend(fetched.read().unwrap());
        next = fetched.next_offset().unwrap();
    }
    let end = check_bytes(&whole, 0, &mut Seen::default());
    assert_eq!(end, log.log_end().value());
    whole
}

#[test]
fn threads_that_append_and_read() {
    for (has_flusher, read_mode) in [(true, ReadMode::Positional), (false, ReadMode::Mapped)] {
        run(Variant { truncates: false, has_flusher, read_mode, zero_ahead_bytes: 4096 });
    }
}

#[test]
fn threads_that_append_read_and_truncate() {
    for (has_flusher, read_mode) in [(false, ReadMode::Positional), (true, ReadMode::Mapped)] {
        for zero_ahead_bytes in [0, 4096] {
            run(Variant { truncates: true, has_flusher, read_mode, zero_ahead_bytes });
        }
    }
}
