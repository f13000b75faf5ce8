//! Crowds: ten thousand who wait on one partition, and many readers beside appenders.
//!
//! `ALLUVIUM_STRESS_SECONDS` makes the second one longer (default 5).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use alluvium::clock::{Clock, SystemClock};
use alluvium::record::{BatchBuilder, BatchView, TransactionEnd};
use alluvium::units::{ProducerEpoch, ProducerId, Sequence};
use alluvium::{
    AppendOptions, Flusher, HighWatermarkMode, Isolation, LogConfig, Mark, MarkReached, Offset, PartitionLog,
    ReadError, ReadOptions, RecordBatch,
};

use crate::support::{at, batch, client, coordinator, ms};

const WAITERS: usize = 10_000;
const BLOCKED: usize = 200;

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Waiting {
    future: Pin<Box<MarkReached>>,
    bell: Arc<Bell>,
    mark: Mark,
    until: i64,
}

impl Waiting {
    fn poll(&mut self) -> Poll<Offset> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker)).map(Result::unwrap)
    }
}

#[test]
fn ten_thousand_wait_on_one_partition_and_each_is_woken_when_its_offset_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { high_watermark: HighWatermarkMode::Embedder, ..LogConfig::default() };
    let log = PartitionLog::open(dir.path(), config).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let marks = [Mark::LogEnd, Mark::HighWatermark, Mark::LastStable, Mark::DurableEnd];
    let mut futures: Vec<Waiting> = (0..WAITERS - BLOCKED)
        .map(|n| {
            let (mark, until) = (marks[n % marks.len()], rng.i64(1..=100));
            Waiting { future: Box::pin(log.wait_for(mark, at(until))), bell: Arc::default(), mark, until }
        })
        .collect();
    assert!(futures.iter_mut().all(|waiting| waiting.poll().is_pending()));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..BLOCKED {
            let (log, answered, until) = (&log, &answered, at(1 + i64::try_from(n).unwrap() / 2));
            scope.spawn(move || {
                let reached = log.wait_until(Mark::HighWatermark, until, Duration::from_mins(2)).unwrap();
                assert!(reached >= until);
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        for end in 1..=100 {
            log.append(batch(&["v"]), client()).unwrap();
            if end % 10 == 0 {
                log.flush().unwrap();
            }
            if end % 4 == 0 {
                log.advance_high_watermark(at(end)).unwrap();
            }
            check(&log, &mut futures, end % 25 == 0);
        }
    });
    assert_eq!(answered.load(Ordering::SeqCst), BLOCKED);
    assert!(futures.is_empty(), "{} were never answered", futures.len());
    assert_eq!(log.health().waiting, 0);
}

/// Whoever is due was woken and is answered; whoever is not was left alone.
fn check(log: &PartitionLog, futures: &mut Vec<Waiting>, polls_all: bool) {
    let marks = log.marks();
    futures.retain_mut(|waiting| {
        let is_due = marks.of(waiting.mark).value() >= waiting.until;
        let is_woken = waiting.bell.0.load(Ordering::SeqCst) > 0;
        // Who waits for durability is first woken by the log end, to wait for the sync from then on.
        let may_be_woken = is_due || (waiting.mark == Mark::DurableEnd && marks.log_end.value() >= waiting.until);
        assert!(!is_due || is_woken, "{:?} {} at {marks:?}", waiting.mark, waiting.until);
        assert!(!is_woken || may_be_woken, "{:?} {} at {marks:?}", waiting.mark, waiting.until);
        if !is_woken && !polls_all {
            return true;
        }
        waiting.bell.0.store(0, Ordering::SeqCst);
        let is_answered = waiting.poll().is_ready();
        assert_eq!(is_answered, is_due);
        !is_answered
    });
}

fn run_time() -> Duration {
    let seconds = std::env::var("ALLUVIUM_STRESS_SECONDS").ok().and_then(|value| value.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// What the threads of the stress share.
struct Scene {
    log: PartitionLog,
    clock: SystemClock,
    is_over: AtomicBool,
    batches: AtomicU64,
    reads: AtomicU64,
}

impl Scene {
    fn goes_on(&self) -> bool {
        if self.clock.monotonic() > run_time() {
            self.is_over.store(true, Ordering::Relaxed);
        }
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// A batch of `records` of producer `id`; each value says who wrote it and its number.
fn numbered(id: i64, first: i64, records: i32, is_transactional: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for n in 0..i64::from(records) {
        let value = [id, first + n].map(i64::to_be_bytes).concat();
        builder.record(ms(-1), Some(b"k"), Some(&value));
    }
    let (id, epoch) = (ProducerId::new(id).unwrap(), ProducerEpoch::new(0).unwrap());
    builder.producer(id, epoch, Sequence::new(i32::try_from(first).unwrap()));
    builder.transactional(is_transactional);
    builder.build().unwrap().into_bytes()
}

/// Appends batches of an idempotent producer, some of them twice.
fn append_idempotently(scene: &Scene, id: i64) {
    let mut rng = fastrand::Rng::with_seed(id.unsigned_abs());
    let mut next = 0;
    while scene.goes_on() {
        let records = rng.i32(1..20);
        let bytes = numbered(id, next, records, false);
        let appended = scene.log.append(&bytes, client()).unwrap();
        assert!(!appended.is_duplicate());
        if rng.u8(..) < 8 {
            let again = scene.log.append(&bytes, client()).unwrap();
            assert!(again.is_duplicate());
            assert_eq!((again.base_offset(), again.end()), (appended.base_offset(), appended.end()));
        }
        if rng.u8(..) < 4 {
            appended.wait_durable(Duration::from_mins(1)).unwrap();
        }
        next += i64::from(records);
        scene.batches.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends transactions, every second one aborted.
fn append_transactions(scene: &Scene, id: i64) {
    let (producer, epoch) = (ProducerId::new(id).unwrap(), ProducerEpoch::new(0).unwrap());
    let mut next = 0;
    let mut commits = false;
    while scene.goes_on() {
        let guard = scene.log.begin_verification(producer, epoch, None).unwrap();
        for n in 0..3 {
            let how = AppendOptions::new(client());
            let how = if let (0, Some(guard)) = (n, guard) { how.verified_by(guard) } else { how };
            scene.log.append(numbered(id, next, 2, true), how).unwrap();
            next += 2;
        }
        let end = if commits { TransactionEnd::Commit } else { TransactionEnd::Abort };
        let marker = RecordBatch::end_transaction_marker(end, (producer, epoch), 0, ms(1));
        scene.log.append(marker, coordinator()).unwrap();
        commits = !commits;
        scene.batches.fetch_add(4, Ordering::Relaxed);
    }
}

/// Reads from a random place to the end, over and over: offsets are dense, checksums right, every producer's numbers
/// rise by one, and nobody sees past the mark.
fn read_on(scene: &Scene, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let isolations = [Isolation::LogEnd, Isolation::HighWatermark, Isolation::Stable, Isolation::Durable];
    let isolation = isolations[usize::try_from(seed).unwrap() % isolations.len()];
    while scene.goes_on() {
        let marks = scene.log.marks();
        let mut from = at(rng.i64(marks.log_start.value()..=marks.log_end.value()));
        let mut newest: HashMap<i64, i64> = HashMap::new();
        for _ in 0..20 {
            let options = ReadOptions { max_bytes: rng.u64(1..200_000), isolation, ..ReadOptions::default() };
            let fetched = match scene.log.read(from, &options) {
                // Deleted meanwhile.
                Err(ReadError::OutOfRange { log_start, .. }) if log_start > from => break,
                fetched => fetched.unwrap(),
            };
            scene.reads.fetch_add(1, Ordering::Relaxed);
            if fetched.is_empty() {
                let wait = Duration::from_millis(20);
                let _ = scene.log.wait_until(Mark::HighWatermark, from.next().unwrap(), wait);
                continue;
            }
            let upper = match isolation {
                Isolation::Stable => fetched.marks().last_stable,
                Isolation::Durable => fetched.marks().durable_end,
                Isolation::HighWatermark => fetched.marks().high_watermark,
                _ => fetched.marks().log_end,
            };
            let mut expected = None;
            for batch in fetched.batches().unwrap().iter() {
                let batch = batch.unwrap();
                batch.verify_crc().unwrap();
                let header = *batch.header();
                assert_eq!(expected.unwrap_or(header.base_offset), header.base_offset);
                assert!(header.next_offset() <= upper);
                expected = Some(header.next_offset());
                if !header.attributes.is_control() {
                    take_numbers(&batch, &mut newest);
                }
            }
            from = fetched.next_offset().unwrap();
        }
    }
}

fn take_numbers(batch: &BatchView<'_>, newest: &mut HashMap<i64, i64>) {
    for record in batch.body(1 << 20).unwrap().records() {
        let value = record.unwrap().value.unwrap();
        let id = i64::from_be_bytes(value[..8].try_into().unwrap());
        let number = i64::from_be_bytes(value[8..16].try_into().unwrap());
        if let Some(before) = newest.insert(id, number) {
            // The first batch of a read may begin before the offset asked for.
            assert!(number == before + 1 || number <= before, "producer {id}: {number} after {before}");
        }
    }
}

#[test]
fn sixty_four_readers_and_four_appenders() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 1 << 20, zero_ahead_bytes: 1 << 16, ..LogConfig::default() };
    let log = PartitionLog::open(dir.path(), config).unwrap();
    let scene = Scene {
        log: log.clone(),
        clock: SystemClock::new(),
        is_over: AtomicBool::new(false),
        batches: AtomicU64::new(0),
        reads: AtomicU64::new(0),
    };
    let flusher = Flusher::start(log.clone()).unwrap();
    std::thread::scope(|scope| {
        let scene = &scene;
        for id in [1, 2] {
            scope.spawn(move || append_idempotently(scene, id));
        }
        for id in [3, 4] {
            scope.spawn(move || append_transactions(scene, id));
        }
        for seed in 0..64 {
            scope.spawn(move || read_on(scene, seed));
        }
        scope.spawn(move || {
            while scene.goes_on() {
                // The oldest records go, down to the last few segments.
                let end = scene.log.marks().last_stable.value();
                scene.log.advance_log_start(at(end / 2)).unwrap();
                let _ = scene.log.wait_until(Mark::LogEnd, at(i64::MAX), Duration::from_millis(100));
            }
        });
    });
    drop(flusher);
    let (batches, reads) = (scene.batches.load(Ordering::Relaxed), scene.reads.load(Ordering::Relaxed));
    assert!(batches > 100 && reads > 100, "{batches} batches, {reads} reads");
    let marks = log.marks();
    assert_eq!(marks.last_stable, marks.high_watermark, "every transaction was decided");
    log.close().unwrap();
}
