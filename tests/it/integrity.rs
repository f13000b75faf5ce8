//! Integrity at rest: sums on sealing, scrubbing, what is quarantined, and how it is repaired.

mod repairing;
mod scrubbing;

use alluvium::fs::FileSystem;
use alluvium::segment::sum::Sum;
use alluvium::{LogConfig, PartitionLog, ScrubCursor, SegmentScrub};

use crate::support::{Machine, at, batch_at, client, small};

/// Records a segment of the logs that these tests make; each is a batch.
const A_SEGMENT: i64 = 6;

fn fill(log: &PartitionLog, records: std::ops::Range<i64>) {
    for n in records {
        log.append(batch_at(crate::support::NOW + n, &[&value(n)]), client()).unwrap();
    }
}

fn value(n: i64) -> String {
    format!("value of record number {n:04}")
}

/// A log of `records` records, all durable, and the machine that it is on.
fn filled(records: i64, config: LogConfig) -> (Machine, PartitionLog) {
    let machine = Machine::new();
    let log = machine.open(config);
    fill(&log, 0..records);
    log.flush().unwrap();
    (machine, log)
}

/// A whole round of scrubbing.
fn scrub(log: &PartitionLog) -> Vec<SegmentScrub> {
    let mut cursor = ScrubCursor::default();
    let mut done = Vec::new();
    loop {
        let scrubbed = log.scrub(&mut cursor, 200).unwrap();
        done.extend(scrubbed.segment_done);
        if scrubbed.is_round_done {
            return done;
        }
    }
}

fn is_quiet(done: &SegmentScrub) -> bool {
    done.quarantined.is_empty() && done.sidecars.is_empty() && done.failure.is_none() && !done.is_sum_written
}

/// Base offsets of the segments that have a sum, which must be readable.
fn sums(machine: &Machine) -> Vec<i64> {
    let names = machine.names();
    let sums = names.iter().filter_map(|name| name.strip_suffix(".sum"));
    sums.map(|base| {
        let base = base.parse().unwrap();
        Sum::decode(&machine.read(&sum_name(base)), at(base)).unwrap();
        base
    })
    .collect()
}

fn sum_name(base: i64) -> String {
    format!("{base:020}.sum")
}

fn bases(machine: &Machine) -> Vec<i64> {
    let names = machine.names();
    names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
}

fn flip(machine: &Machine, name: &str, byte: u64, bit: u8) {
    machine.fs.flip_bit(&Machine::path(name), byte, bit);
}

fn len(machine: &Machine, name: &str) -> u64 {
    machine.fs.metadata(&Machine::path(name)).unwrap().len
}
