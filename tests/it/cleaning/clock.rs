//! A wall clock that is set back: horizons and lags are judged by it all the same, and nothing goes before its time.

use alluvium::{BatchBuilder, CleanOptions, CleanupPolicy, LogConfig, PartitionLog, ReadOptions, TimestampMs};

use crate::support::{Machine, NOW, client};

const HOUR: i64 = 3_600_000;
const TEN_DAYS: i64 = 240 * HOUR;

fn compact() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        delete_retention_ms: HOUR.unsigned_abs(),
        retention_ms: None,
        zero_ahead_bytes: 0,
        ..LogConfig::default()
    }
}

/// A record at the time of the machine's clock; one without a value deletes the key.
fn put(log: &PartitionLog, at: i64, key: &str, value: Option<&str>) {
    let mut builder = BatchBuilder::new();
    builder.record(TimestampMs::new(at), Some(key.as_bytes()), value.map(str::as_bytes));
    log.append(builder.build().unwrap(), client()).unwrap();
}

/// Rolls, so that all is sealed, and cleans. What is left: offset, and whether there is a value.
fn cleaned(log: &PartitionLog) -> Vec<(i64, bool)> {
    log.roll().unwrap();
    log.clean(&CleanOptions::default()).unwrap();
    let (mut left, mut from) = (Vec::new(), log.log_start());
    while from < log.log_end() {
        let fetched = log.read(from, &ReadOptions::default()).unwrap();
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            for record in batch.body(1 << 20).unwrap().records() {
                let record = record.unwrap();
                left.push((record.offset.value(), record.value.is_some()));
            }
            from = batch.header().next_offset();
        }
    }
    left
}

/// The horizon is in the batch, and passes under another clock neither move it nor think that it has passed.
#[test]
fn a_clock_that_is_set_back_lets_no_tombstone_go_early() {
    let machine = Machine::new();
    let log = machine.open(compact());
    put(&log, NOW, "a", Some("value"));
    put(&log, NOW, "a", None);
    put(&log, NOW, "b", Some("value"));
    assert_eq!(cleaned(&log), [(1, false), (2, true)], "from here on it is to stay for an hour");

    let back = NOW - TEN_DAYS;
    machine.clock.set_wall(back);
    assert_eq!(cleaned(&log), [(1, false), (2, true)]);
    put(&log, back, "b", None);
    assert_eq!(cleaned(&log), [(1, false), (3, false)], "a new one has an hour of the clock as it is");
    machine.clock.set_wall(back + HOUR - 1);
    assert_eq!(cleaned(&log), [(1, false), (3, false)]);
    machine.clock.set_wall(back + HOUR);
    assert_eq!(cleaned(&log), [(1, false)], "and the older one has the hour that it was given");

    // The clock is right again, also for another process.
    drop(log);
    let machine = machine.kill();
    let log = machine.open(compact());
    machine.clock.set_wall(NOW + HOUR - 1);
    assert_eq!(cleaned(&log), [(1, false)]);
    machine.clock.set_wall(NOW + HOUR);
    assert_eq!(cleaned(&log), []);
}

/// A record that is younger than the lag stays, and one from a time to come is not thought old.
#[test]
fn a_clock_that_is_set_back_cuts_no_lag_short() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { min_compaction_lag_ms: HOUR.unsigned_abs(), ..compact() });
    for value in ["old", "new"] {
        put(&log, NOW, "a", Some(value));
    }
    let both = [(0, true), (1, true)];
    for wall in [NOW, NOW - TEN_DAYS, NOW - TEN_DAYS + HOUR + 1, NOW - 1, NOW + HOUR - 1] {
        machine.clock.set_wall(wall);
        assert_eq!(cleaned(&log), both, "at {wall}, written at {NOW}");
    }
    machine.clock.set_wall(NOW + HOUR);
    assert_eq!(cleaned(&log), [(1, true)]);
}
