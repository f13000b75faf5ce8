//! What is left after the kill, against what was acknowledged.

use std::io::{self, Write as _};

use alluvium::clock::{Clock, SystemClock};
use alluvium::{Offset, PartitionLog, ReadOptions};

use super::victim::Killed;
use super::{Done, Text, Timings, progress};
use crate::output::grouped;
use crate::rng::Rng;

const LOOKUPS: u64 = 20_000;
/// One problem of a kind says enough.
const PROBLEMS_MAX: usize = 10;

/// What checking gave.
pub(super) struct Checked {
    pub(super) records: u64,
    pub(super) timings: Vec<Timings>,
    pub(super) problems: Vec<String>,
}

pub(super) fn check(log: &PartitionLog, text: &Text, killed: &Killed, clock: &SystemClock) -> Done<Checked> {
    let mut checked = Checked { records: 0, timings: Vec::new(), problems: Vec::new() };
    read_back(log, text, clock, &mut checked)?;
    if checked.records < killed.cached_end {
        let text = format!("{} records acknowledged, {} found", killed.cached_end, checked.records);
        checked.problems.push(text);
    }
    look_up(log, text, clock, &mut checked)?;
    writeln!(
        io::stdout(),
        "  read back and compared {} records; looked up {} offsets and {} timestamps",
        grouped(checked.records),
        grouped(LOOKUPS),
        grouped(LOOKUPS),
    )?;
    Ok(checked)
}

impl Checked {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Reads everything and compares every record with the line that must stand there.
fn read_back(log: &PartitionLog, text: &Text, clock: &SystemClock, checked: &mut Checked) -> Done<()> {
    let mut timings = Timings::new("read, 1 MiB");
    let bar = progress("reading back", u64::try_from(log.log_end().value())?);
    let mut next = log.log_start();
    while next < log.log_end() {
        let started = clock.monotonic();
        let fetched = log.read(next, &ReadOptions::default())?;
        let bytes = fetched.read()?;
        let took = clock.monotonic().saturating_sub(started);
        let before = checked.records;
        for batch in alluvium::record::batches(&bytes, u32::MAX) {
            let batch = batch?;
            batch.verify_crc()?;
            next = batch.header().next_offset();
            for record in batch.body(1 << 20)?.records() {
                let record = record?;
                let line = checked.records;
                let is_right = u64::try_from(record.offset.value()) == Ok(line)
                    && record.key == Some(line.to_string().as_bytes())
                    && record.value == Some(text.value(line).as_bytes())
                    && record.timestamp == text.timestamp(line);
                if !is_right {
                    checked.problem(format!("record {line} is not what was written: {record:?}"));
                }
                checked.records += 1;
            }
        }
        timings.add(took, checked.records - before, bytes.len() as u64);
        bar.set_position(checked.records);
    }
    bar.finish_and_clear();
    checked.timings.push(timings);
    Ok(())
}

/// Looks up random offsets and timestamps.
fn look_up(log: &PartitionLog, text: &Text, clock: &SystemClock, checked: &mut Checked) -> Done<()> {
    let mut by_offset = Timings::new("read at an offset");
    let mut by_time = Timings::new("offset for a timestamp");
    let mut rng = Rng::new(1);
    let one = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
    let bar = progress("looking up", LOOKUPS);
    for _ in 0..LOOKUPS {
        let line = rng.below(checked.records.max(1));
        let offset = Offset::new(i64::try_from(line)?).unwrap_or_default();
        let started = clock.monotonic();
        let bytes = log.read(offset, &one)?.read()?;
        by_offset.add(clock.monotonic().saturating_sub(started), 1, bytes.len() as u64);
        let batch = alluvium::record::BatchView::parse(&bytes, u32::MAX)?;
        if !(batch.header().base_offset <= offset && offset <= batch.header().last_offset()) {
            checked.problem(format!("a read at offset {offset} gave the batch at {}", batch.header().base_offset));
        }
        let started = clock.monotonic();
        let found = log.offset_for_timestamp(text.timestamp(line))?;
        by_time.add(clock.monotonic().saturating_sub(started), 1, 0);
        if found.map(|found| found.offset) != Some(offset) {
            checked.problem(format!("timestamp {} gave {found:?} instead of {offset}", text.timestamp(line)));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    checked.timings.extend([by_offset, by_time]);
    Ok(())
}
