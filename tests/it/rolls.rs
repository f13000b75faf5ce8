//! When a segment ends and the next one begins.

use std::time::Duration;

use alluvium::index::{OffsetIndex, TimeIndex};
use alluvium::{AppendAs, LogConfig, PartitionLog};

use crate::support::{DIR, Machine, NOW, at, batch, batch_at, client, contents, given, small};

fn bases(log: &PartitionLog) -> Vec<i64> {
    let name = |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    log.segment_files().iter().map(name).collect()
}

/// Exactly 100 bytes.
fn hundred() -> alluvium::record::RecordBatch {
    let batch = batch(&["thirty-one bytes of record text"]);
    assert_eq!(batch.as_bytes().len(), 100);
    batch
}

#[test]
fn by_size_before_a_segment_grows_past_the_limit() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { segment_bytes: 300, ..small() });
    for _ in 0..3 {
        log.append(hundred(), client()).unwrap();
    }
    assert_eq!(bases(&log), [0], "filled to the byte");
    log.append(hundred(), client()).unwrap();
    assert_eq!(bases(&log), [0, 3]);
    // An append of several batches is never split.
    log.append(vec![hundred(), hundred(), hundred()], client()).unwrap();
    assert_eq!(bases(&log), [0, 3, 4]);
    assert_eq!(machine.read("00000000000000000003.log").len(), 100);
    // The limit can be changed under way.
    log.update_config(LogConfig { segment_bytes: 500, ..small() }).unwrap();
    log.append(hundred(), client()).unwrap();
    assert_eq!(bases(&log), [0, 3, 4]);
    log.update_config(LogConfig { segment_bytes: 250, ..small() }).unwrap();
    log.append(hundred(), client()).unwrap();
    assert_eq!(bases(&log), [0, 3, 4, 8]);
    assert_eq!(contents(&log).len(), 9);
}

fn by_time(segment_ms: u64) -> LogConfig {
    LogConfig { segment_ms, segment_bytes: 1 << 20, ..small() }
}

/// The batches' own time counts, whatever the clock says.
#[test]
fn by_time_as_the_records_tell_it() {
    let machine = Machine::new();
    let log = machine.open(by_time(1000));
    let append = |timestamp: i64| log.append(batch_at(timestamp, &["x"]), client()).unwrap();
    append(NOW);
    machine.clock.advance(Duration::from_secs(5));
    append(NOW + 1000);
    assert_eq!(bases(&log), [0], "not yet past the limit");
    append(NOW + 1001);
    assert_eq!(bases(&log), [0, 2]);
    // Records that step back roll nothing, and the segment's age counts from its first append.
    append(NOW - 500_000);
    append(NOW + 2001);
    assert_eq!(bases(&log), [0, 2]);
    append(NOW + 2002);
    assert_eq!(bases(&log), [0, 2, 5]);
    // The largest timestamp of an append counts, at both ends.
    log.append(vec![batch_at(NOW, &["x"]), batch_at(NOW + 3003, &["y"]), batch_at(NOW, &["z"])], client()).unwrap();
    assert_eq!(bases(&log), [0, 2, 5, 6]);
    log.append(batch_at(NOW + 4003, &["x"]), client()).unwrap();
    assert_eq!(bases(&log).len(), 4);
    log.append(batch_at(NOW + 4004, &["x"]), client()).unwrap();
    assert_eq!(bases(&log).len(), 5);
    // It is the same after a restart, clean or not, as far as the first batch tells.
    log.close().unwrap();
    let log = machine.open(by_time(1000));
    log.append(batch_at(NOW + 5004, &["x"]), client()).unwrap();
    assert_eq!(bases(&log).len(), 5);
    drop(log);
    let log = machine.kill().open(by_time(1000));
    log.append(batch_at(NOW + 5004, &["x"]), client()).unwrap();
    assert_eq!(bases(&log).len(), 5);
    log.append(batch_at(NOW + 5005, &["x"]), client()).unwrap();
    assert_eq!(bases(&log).len(), 6);
}

/// Records without a time have the time at which their segment was made; a clock that goes back rolls nothing.
#[test]
fn by_the_clock_where_records_have_no_time() {
    let machine = Machine::new();
    let log = machine.open(by_time(1000));
    let append = || log.append(batch_at(-1, &["x"]), client()).unwrap();
    append();
    machine.clock.advance(Duration::from_millis(1000));
    append();
    assert_eq!(bases(&log), [0]);
    machine.clock.set_wall(NOW - 1_000_000);
    append();
    assert_eq!(bases(&log), [0]);
    machine.clock.set_wall(NOW + 1001);
    append();
    assert_eq!(bases(&log), [0, 3]);
}

/// A quiet log rolls too, on a tick, by the wall clock: what it holds would otherwise never be cleaned.
#[test]
fn by_time_on_a_tick() {
    let machine = Machine::new();
    let log = machine.open(by_time(1000));
    machine.clock.advance(Duration::from_secs(10));
    assert!(!log.tick().unwrap().rolled, "an empty segment stays");
    log.append(batch_at(NOW, &["x"]), client()).unwrap();
    machine.clock.set_wall(NOW);
    assert!(!log.tick().unwrap().rolled, "a clock that went back");
    machine.clock.set_wall(NOW + 1000);
    assert!(!log.tick().unwrap().rolled);
    machine.clock.set_wall(NOW + 1001);
    assert!(log.tick().unwrap().rolled);
    assert_eq!(bases(&log), [0, 1]);
    machine.clock.advance(Duration::from_secs(1000));
    assert!(!log.tick().unwrap().rolled);
    assert_eq!((bases(&log), log.metrics().rolls.value()), (vec![0, 1], 1));
}

/// Each segment has a limit of its own, between the limit less the jitter and the limit, and the same at every restart.
#[test]
fn jitter_spreads_the_rolls() {
    let config = LogConfig { segment_jitter_ms: 500, ..by_time(1000) };
    let mut limits = Vec::new();
    for start in 0..40 {
        let limit = |machine: &Machine| {
            let log = machine.open(config.clone());
            log.truncate_fully_and_start_at(at(start)).unwrap();
            log.append(batch_at(NOW, &["x"]), client()).unwrap();
            let rolled = |age: &i64| {
                log.append(batch_at(NOW + age, &["x"]), client()).unwrap();
                bases(&log).len() > 1
            };
            (0..=1001).find(rolled).unwrap()
        };
        let (first, again) = (limit(&Machine::new()), limit(&Machine::new()));
        assert_eq!(first, again, "{DIR} {start}");
        assert!((501..=1001).contains(&first), "{first}");
        limits.push(first);
    }
    limits.sort_unstable();
    limits.dedup();
    assert!(limits.len() > 20, "{limits:?}");
}

#[test]
fn when_an_index_is_full() {
    // Room for three offsets, and for one timestamp with one to spare for the entry that closes.
    let config = LogConfig { segment_index_bytes: 24, index_interval_bytes: 0, segment_bytes: 1 << 20, ..small() };
    let machine = Machine::new();
    let log = machine.open(config.clone());
    for n in 0..20 {
        log.append(batch_at(NOW + n, &["x"]), client()).unwrap();
    }
    assert_eq!(bases(&log), (0..20).step_by(2).collect::<Vec<_>>());
    log.close().unwrap();
    for base in bases(&log) {
        let bytes = machine.read(&format!("{base:020}.log")).len() as u64;
        let offsets = OffsetIndex::decode(&machine.read(&format!("{base:020}.index")), bytes).unwrap();
        let times = TimeIndex::decode(&machine.read(&format!("{base:020}.timeindex"))).unwrap();
        assert!(offsets.entries().len() <= OffsetIndex::capacity(24) && times.entries().len() * 12 <= 24, "{base}");
    }
    // Where timestamps do not rise, the offset index fills first.
    let machine = Machine::new();
    let log = machine.open(config.clone());
    for _ in 0..20 {
        log.append(batch_at(NOW, &["x"]), client()).unwrap();
    }
    assert!(bases(&log).len() > 4);
    drop(log);
    assert_eq!(contents(&machine.kill().open(config)).len(), 20);
}

#[test]
fn on_demand_if_there_is_anything() {
    let machine = Machine::new();
    let log = machine.open(small());
    assert!(!log.roll().unwrap());
    log.append(batch(&["x"]), client()).unwrap();
    assert!(log.roll().unwrap());
    assert!(!log.roll().unwrap());
    assert_eq!(bases(&log), [0, 1]);
    // The segment begins at the log end, though the follower's next batch lies past it.
    log.append(given(7, &["y"]), AppendAs::Follower).unwrap();
    assert_eq!(bases(&log), [0, 1]);
    assert_eq!(contents(&log).iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), [0, 7]);
    log.flush().unwrap();
    assert_eq!(log.durable_end(), at(8));
}

/// Rolling does not wait for a sync; the next round covers both segments, the older one first.
#[test]
fn a_roll_leaves_durability_a_prefix() {
    let machine = Machine::new();
    let log = machine.open(small());
    log.append(batch(&["x"]), client()).unwrap();
    machine.fs.record_trace(true);
    log.roll().unwrap();
    log.append(batch(&["y"]), client()).unwrap();
    use alluvium::fs::sim::Operation;
    let syncs = |machine: &Machine| {
        let trace = machine.fs.trace();
        trace
            .into_iter()
            .filter(|event| event.operation == Operation::SyncData)
            .map(|event| event.path)
            .collect::<Vec<_>>()
    };
    assert_eq!(syncs(&machine), Vec::<std::path::PathBuf>::new());
    assert_eq!(log.durable_end(), at(0));
    log.flush().unwrap();
    let logs: Vec<_> = syncs(&machine).into_iter().filter(|path| path.to_string_lossy().ends_with(".log")).collect();
    assert_eq!(logs, [Machine::log_path(0), Machine::log_path(1)]);
}
