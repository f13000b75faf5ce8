//! Reading: across segments, up to marks, by timestamp, through maps, and while what is read is cut off.

use std::path::Path;

use alluvium::record::{BatchBuilder, Compression};
use alluvium::{FileSlice, Isolation, LogConfig, PartitionLog, ReadMode, ReadOptions};

use crate::support::{Contents, Machine, NOW, at, batch, batch_at, client, contents, ms, read_from, small};

fn fill(log: &PartitionLog, from: i64, to: i64) {
    for n in from..to {
        log.append(batch_at(NOW + n, &[&format!("value {n}")]), client()).unwrap();
    }
}

fn right(offsets: std::ops::Range<i64>) -> Contents {
    offsets.map(|n| (n, NOW + n, format!("value {n}"))).collect()
}

#[test]
fn across_segments_whole_batches_up_to_the_bytes_wanted() {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, 100);
    assert!(log.segment_files().len() > 10);
    for from in [0, 1, 6, 7, 50, 99] {
        for max_bytes in [0, 1, 50, 70, 80, 200, 599, 600, 601, 1000, 5000, u64::MAX] {
            let options = ReadOptions { max_bytes, ..ReadOptions::default() };
            let fetched = log.read(at(from), &options).unwrap();
            let batches = fetched.batches().unwrap();
            let found: Vec<i64> = batches.iter().map(|batch| batch.unwrap().header().base_offset.value()).collect();
            let next = found.last().unwrap() + 1;
            assert_eq!(found, (from..next).collect::<Vec<_>>());
            let first = batches.iter().next().unwrap().unwrap().bytes().len() as u64;
            assert!(fetched.bytes() <= max_bytes.max(first), "{} of {max_bytes}", fetched.bytes());
            let is_full = fetched.bytes() + first + 1 > max_bytes || found.last() == Some(&99);
            assert!(is_full, "{} of {max_bytes} bytes from {from}", fetched.bytes());
            assert_eq!(fetched.next_offset().unwrap(), at(next));
            assert_eq!((fetched.start_offset(), fetched.marks()), (at(from), log.marks()));
            assert_eq!(batches.as_bytes().len() as u64, fetched.slices().iter().map(FileSlice::len).sum::<u64>());
        }
    }
    // Without at least one batch a small fetch gets none.
    let strict = ReadOptions { max_bytes: 10, min_one_batch: false, ..ReadOptions::default() };
    assert!(log.read(at(0), &strict).unwrap().is_empty());
    assert_eq!(log.read(at(3), &strict).unwrap().next_offset().unwrap(), at(3));
}

#[test]
fn up_to_a_mark_and_no_further() {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, 10);
    log.flush().unwrap();
    fill(&log, 10, 14);
    log.append(batch(&["a", "b", "c"]), client()).unwrap();
    let offsets = |from: i64, isolation: Isolation| {
        let options = ReadOptions { isolation, ..ReadOptions::default() };
        let batches = log.read(at(from), &options).unwrap().batches().unwrap();
        batches.iter().map(|batch| batch.unwrap().header().base_offset.value()).collect::<Vec<_>>()
    };
    assert_eq!(offsets(0, Isolation::Durable), (0..10).collect::<Vec<_>>());
    assert_eq!(offsets(10, Isolation::Durable), []);
    assert_eq!(offsets(12, Isolation::Durable), []);
    assert_eq!(offsets(0, Isolation::At(at(3))), [0, 1, 2]);
    assert_eq!(offsets(3, Isolation::At(at(3))), []);
    // A batch that reaches past the mark is left out whole.
    assert_eq!(offsets(13, Isolation::At(at(15))), [13]);
    assert_eq!(offsets(13, Isolation::At(at(17))), [13, 14]);
    assert_eq!(offsets(13, Isolation::At(at(1000))), [13, 14]);
    assert_eq!(offsets(16, Isolation::LogEnd), [14]);
}

#[test]
fn by_timestamp_to_the_record_inside_compressed_batches() {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for codec in codecs {
        let machine = Machine::new();
        let log = machine.open(small());
        let mut builder = BatchBuilder::new();
        builder.compression(codec);
        let mut all: Vec<(i64, i64)> = Vec::new();
        for n in 0..30_i64 {
            for i in 0..10 {
                // Rises and steps back, within batches and from batch to batch.
                let timestamp = NOW + n * 50 + [0, 7, 3, 12, 9, 40, 21, 22, 60, 1][usize::try_from(i).unwrap()];
                builder.record(ms(timestamp), Some(b"key"), Some(b"some value"));
                all.push((n * 10 + i, timestamp));
            }
            log.append(builder.build().unwrap(), client()).unwrap();
        }
        let check = |log: &PartitionLog| {
            for target in (NOW - 1..NOW + 1600).step_by(3) {
                let found = log.offset_for_timestamp(ms(target)).unwrap();
                let found = found.map(|found| (found.offset.value(), found.timestamp.value()));
                let right = all.iter().find(|(_, timestamp)| *timestamp >= target).copied();
                assert_eq!(found, right, "{codec:?} {target}");
            }
        };
        check(&log);
        log.close().unwrap();
        check(&machine.open(LogConfig { read_mode: ReadMode::Mapped, ..small() }));
    }
}

#[test]
fn records_without_timestamps_are_before_all_others() {
    let machine = Machine::new();
    let log = machine.open(small());
    for n in 0..20 {
        log.append(batch_at(if n % 3 == 0 { -1 } else { NOW + n }, &["x"]), client()).unwrap();
    }
    let found = log.offset_for_timestamp(ms(-1)).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (at(0), ms(-1)));
    let found = log.offset_for_timestamp(ms(0)).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (at(1), ms(NOW + 1)));
    assert_eq!(log.offset_for_timestamp(ms(NOW + 20)).unwrap(), None);
}

/// The same reads through maps and without, on the real file system and on the simulated one.
#[test]
fn maps_show_what_positional_reads_do() {
    let temp = tempfile::tempdir().unwrap();
    let simulated = Machine::new();
    let environments = [(alluvium::Environment::default(), temp.path()), (simulated.environment(), Path::new("/p-0"))];
    for (environment, dir) in environments {
        let log = environment.open(dir, small()).unwrap();
        fill(&log, 0, 100);
        log.close().unwrap();
        let mapped = LogConfig { read_mode: ReadMode::Mapped, ..small() };
        let log = environment.open(dir, mapped.clone()).unwrap();
        assert_eq!(contents(&log), right(0..100));
        let fetched = log.read(at(0), &ReadOptions::default()).unwrap();
        let (active, sealed) = fetched.slices().split_last().unwrap();
        for slice in sealed {
            let mut copied = Vec::new();
            slice.read_into(&mut copied).unwrap();
            assert_eq!(slice.borrow(), Some(&copied[..]));
        }
        assert!(active.borrow().is_none(), "an active file is never mapped");
        // Segments that this log seals are mapped from then on.
        fill(&log, 100, 130);
        let fetched = log.read(at(100), &ReadOptions::default()).unwrap();
        assert!(fetched.slices().iter().rev().skip(1).all(|slice| slice.borrow().is_some()));
        for n in 0..130 {
            let found = log.offset_for_timestamp(ms(NOW + n)).unwrap().unwrap();
            assert_eq!(found.offset, at(n));
            assert_eq!(read_from(&log, at(n), 150).0, right(n..130));
        }
        log.close().unwrap();
        let log = environment.open(dir, small()).unwrap();
        assert!(
            log.read(at(0), &ReadOptions::default()).unwrap().slices().iter().all(|slice| slice.borrow().is_none())
        );
        assert_eq!(contents(&log), right(0..130));
        log.close().unwrap();
    }
}

/// Whoever holds slices goes on seeing the old bytes, whatever is cut and written in their place.
#[test]
fn slices_outlive_truncation() {
    let temp = tempfile::tempdir().unwrap();
    let simulated = Machine::new();
    let environments = [(alluvium::Environment::default(), temp.path()), (simulated.environment(), Path::new("/p-0"))];
    for (environment, root) in environments {
        for read_mode in [ReadMode::Positional, ReadMode::Mapped] {
            for (cut, fully) in [(20, false), (37, false), (3, false), (0, false), (500, true)] {
                let dir = root.join(format!("{read_mode:?}-{cut}"));
                let config = LogConfig { read_mode, ..small() };
                let log = environment.open(&dir, config.clone()).unwrap();
                fill(&log, 0, 40);
                let held = log.read(at(0), &ReadOptions::default()).unwrap();
                let before = held.read().unwrap();
                let borrowed: Vec<Option<Vec<u8>>> =
                    held.slices().iter().map(|slice| slice.borrow().map(<[u8]>::to_vec)).collect();
                assert_eq!(borrowed.iter().any(Option::is_some), read_mode == ReadMode::Mapped);
                if fully {
                    log.truncate_fully_and_start_at(at(cut)).unwrap();
                } else {
                    assert_eq!(log.truncate_to(at(cut)).unwrap(), at(cut));
                }
                for n in cut..cut + 30 {
                    log.append(batch_at(NOW + n, &["something else, and longer"]), client()).unwrap();
                }
                log.flush().unwrap();
                assert_eq!(held.read().unwrap(), before, "{dir:?}");
                for (slice, borrowed) in held.slices().iter().zip(&borrowed) {
                    if let Some(borrowed) = borrowed {
                        assert_eq!(slice.borrow(), Some(&borrowed[..]), "{dir:?}");
                    }
                }
                let first = if fully { cut } else { 0 };
                let new: Contents =
                    (cut..cut + 30).map(|n| (n, NOW + n, "something else, and longer".to_owned())).collect();
                let whole = if fully { new } else { [right(0..cut), new].concat() };
                assert_eq!(contents(&log), whole, "{dir:?}");
                assert_eq!(log.log_start(), at(first));
                drop(log);
                // The slices hold nothing that keeps the log from being opened, and survive that too.
                let log = environment.open(&dir, config).unwrap();
                assert_eq!(contents(&log), whole, "{dir:?}");
                assert_eq!(held.read().unwrap(), before, "{dir:?}");
                log.close().unwrap();
                assert_eq!(held.read().unwrap(), before, "{dir:?}");
            }
        }
    }
}

/// Readers and writers at once: readers see a prefix that only grows, and never wait.
#[test]
fn readers_see_a_growing_prefix_while_the_log_grows_and_rolls() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path(), LogConfig { segment_bytes: 2000, ..small() }).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut next = at(0);
                while next < at(2000) {
                    let (found, outcome) = read_from(&log, next, 5000);
                    outcome.unwrap();
                    let end = next.value() + i64::try_from(found.len()).unwrap();
                    assert_eq!(found, right(next.value()..end));
                    next = at(end);
                }
            });
        }
        fill(&log, 0, 2000);
    });
    assert!(log.metrics().reads.value() > 3);
}
