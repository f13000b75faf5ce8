//! Lookups by timestamp, compared with a look at every record.

use std::time::Duration;

use alluvium::config::{HighWatermarkMode, TimestampType};
use alluvium::record::{BatchBuilder, Compression};
use alluvium::{Isolation, LogConfig, Offset, PartitionLog, ReadError, TimestampMs, TimestampOffset};

use crate::support::{Machine, NOW, at, batch_at, client, contents, ms, small};

fn config() -> LogConfig {
    LogConfig { retention_ms: None, high_watermark: HighWatermarkMode::Embedder, ..small() }
}

fn plain(found: Result<Option<TimestampOffset>, ReadError>) -> Option<(i64, i64)> {
    found.unwrap().map(|found| (found.offset.value(), found.timestamp.value()))
}

/// Offset and timestamp of every record that may be seen.
fn seen(log: &PartitionLog, upper: Offset) -> Vec<(i64, i64)> {
    contents(log).into_iter().map(|(o, t, _)| (o, t)).filter(|(o, _)| *o < upper.value()).collect()
}

/// Compares every lookup that could come out differently.
fn compare(log: &PartitionLog, what: &str) {
    let marks = log.marks();
    let middle = at(i64::midpoint(marks.log_start.value(), marks.log_end.value()));
    let isolations = [
        (Isolation::LogEnd, marks.log_end),
        (Isolation::HighWatermark, marks.high_watermark),
        (Isolation::Stable, marks.last_stable),
        (Isolation::Durable, marks.durable_end),
        (Isolation::At(middle), middle),
        (Isolation::At(Offset::ZERO), Offset::ZERO),
    ];
    for (isolation, upper) in isolations {
        let records = seen(log, upper);
        let largest = records.iter().map(|(_, t)| *t).filter(|t| *t >= 0).max();
        let newest = largest.and_then(|largest| records.iter().find(|(_, t)| *t == largest).copied());
        assert_eq!(plain(log.offset_of_max_timestamp_within(isolation)), newest, "{what} {isolation:?} {marks:?}");
        let mut targets: Vec<i64> = records.iter().flat_map(|(_, t)| [t - 1, *t, t + 1]).collect();
        targets.extend([i64::MIN, -2, -1, 0, 1, i64::MAX]);
        targets.sort_unstable();
        targets.dedup();
        for target in targets {
            let wanted = records.iter().find(|(_, t)| *t >= target).copied();
            let found = plain(log.offset_for_timestamp_within(ms(target), isolation));
            assert_eq!(found, wanted, "{what} {isolation:?} {target} {marks:?}");
        }
    }
    assert_eq!(
        plain(log.offset_of_max_timestamp()),
        plain(log.offset_of_max_timestamp_within(Isolation::LogEnd)),
        "{what}"
    );
}

fn random_batch(rng: &mut fastrand::Rng, now: i64) -> alluvium::RecordBatch {
    let mut builder = BatchBuilder::new();
    let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Gzip];
    builder.compression(codecs[rng.usize(..codecs.len())]);
    for _ in 0..rng.usize(1..6) {
        let timestamp = match rng.u8(0..10) {
            0 => -1,
            1 => 0,
            2 => now + rng.i64(0..50),
            _ => now + rng.i64(-30..5),
        };
        builder.record(TimestampMs::new(timestamp), Some(b"k"), Some(&vec![b'v'; rng.usize(0..60)]));
    }
    builder.build().unwrap()
}

/// `ALLUVIUM_SEEDS` sets how many logs are tried.
#[test]
fn lookups_agree_with_a_look_at_every_record() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let stamps = rng.u8(0..4) == 0;
        let config = LogConfig {
            message_timestamp_type: if stamps { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
            index_interval_bytes: [0, 150, 4096][rng.usize(..3)],
            segment_bytes: rng.u32(500..2000),
            ..config()
        };
        let machine = Machine::new();
        let mut log = machine.open(config.clone());
        for step in 0..40 {
            match rng.u8(0..20) {
                0 => drop(log.roll().unwrap()),
                1 => {
                    let start = log.log_start().value();
                    log.advance_log_start(at(rng.i64(start..=log.marks().high_watermark.value()))).unwrap();
                }
                2 => drop(log.enforce_retention().unwrap()),
                3 => drop(log.flush().unwrap()),
                4 => {
                    log.close().unwrap();
                    log = machine.open(config.clone());
                }
                5 | 6 => {
                    let (from, to) = (log.marks().high_watermark.value(), log.log_end().value());
                    log.advance_high_watermark(at(rng.i64(from..=to))).unwrap();
                }
                // A clock that goes back now and then.
                7 => machine.clock.set_wall(NOW + rng.i64(-100..100)),
                _ => {
                    machine.clock.advance(Duration::from_millis(rng.u64(0..8)));
                    let now = log.clock().wall().value();
                    log.append(random_batch(&mut rng, now), client()).unwrap();
                }
            }
            if step % 8 == 7 {
                compare(&log, &format!("seed {seed} step {step}"));
            }
        }
    }
}

#[test]
fn an_empty_log_and_one_without_timestamps_have_no_newest_record() {
    let machine = Machine::new();
    let log = machine.open(config());
    assert_eq!(plain(log.offset_of_max_timestamp()), None);
    for _ in 0..2 {
        let mut builder = BatchBuilder::new();
        builder.record(ms(-1), None, Some(b"v"));
        log.append(builder.build().unwrap(), client()).unwrap();
        log.roll().unwrap();
    }
    assert_eq!(plain(log.offset_of_max_timestamp()), None);
    assert_eq!(plain(log.offset_for_timestamp(ms(-1))), Some((0, -1)));
    assert_eq!(plain(log.offset_for_timestamp(ms(0))), None);
}

/// The newest record of a log whose clock went back lies in an old segment, and not in the first batch of it.
#[test]
fn the_newest_record_is_found_by_the_indexes_alone() {
    let machine = Machine::new();
    let log = machine.open(config());
    for n in 0..40 {
        log.append(batch_at(NOW - n * 10, &["a", "b", "c"]), client()).unwrap();
        if n == 0 {
            log.append(batch_at(NOW + 100, &["newest but one", "newest"]), client()).unwrap();
        }
    }
    log.flush().unwrap();
    machine.fs.record_trace(true);
    assert_eq!(plain(log.offset_of_max_timestamp()), Some((4, NOW + 101)));
    let reads = machine.fs.trace().len();
    assert!(reads < 40, "{reads} calls for {} segments", log.segment_files().len());
}

/// What a broker is told of times a little outside the bounds of the log.
#[test]
fn the_edges_of_the_log() {
    let machine = Machine::new();
    let log = machine.open(config());
    log.append(batch_at(NOW, &["a", "b", "c"]), client()).unwrap();
    assert_eq!(plain(log.offset_for_timestamp(ms(NOW - 1))), Some((0, NOW)));
    assert_eq!(plain(log.offset_for_timestamp(ms(NOW + 2))), Some((2, NOW + 2)));
    assert_eq!(plain(log.offset_for_timestamp(ms(NOW + 3))), None);
    // Nothing is replicated yet.
    assert_eq!(plain(log.offset_for_timestamp_within(ms(NOW), Isolation::HighWatermark)), None);
    assert_eq!(plain(log.offset_of_max_timestamp_within(Isolation::Stable)), None);
    log.advance_high_watermark(at(3)).unwrap();
    log.advance_log_start(at(3)).unwrap();
    assert_eq!(plain(log.offset_for_timestamp(ms(0))), None);
    assert_eq!(plain(log.offset_of_max_timestamp()), None);
}
