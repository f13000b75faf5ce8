//! The cleaning part of the demo: the text as updates of few keys, a table loaded from all of them, the log cleaned, and
//! the same table loaded from what is left.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use alluvium::clean::CleanOptions;
use alluvium::clock::{Clock as _, SystemClock};
use alluvium::fs::{FileSystem as _, OsFileSystem};
use alluvium::record::BatchBuilder;
use alluvium::table::{CompactedTable, TableOptions};
use alluvium::{AppendAs, CleanupPolicy, LogConfig, PartitionLog};

use super::{BATCH_RECORDS, Done, Text, epoch};
use crate::output::{bytes, grouped, rate, time};
use crate::rng::Rng;

const RECORDS: u64 = 400_000;
const KEYS: u64 = 5_000;
/// What the cleaner may hold: as little as it takes.
const MEMORY_BYTES: u64 = 1 << 20;

/// A table, and what it took to load it.
pub(super) struct Loaded {
    pub(super) table: CompactedTable,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// Loads the table of a log.
pub(super) fn load(log: &PartitionLog, clock: &SystemClock) -> Done<Loaded> {
    let options = TableOptions::new(AppendAs::Coordinator { epoch: epoch() });
    let (mut records, mut bytes) = (0, 0);
    let started = clock.monotonic();
    let table = CompactedTable::load(log.clone(), options, |progress| {
        (records, bytes) = (progress.records, progress.bytes);
        ControlFlow::Continue(())
    })?;
    Ok(Loaded { table, records, bytes, took: clock.monotonic().saturating_sub(started) })
}

/// Bytes of all segments of a log.
pub(super) fn log_bytes(log: &PartitionLog) -> Done<u64> {
    let mut bytes = 0;
    for file in log.segment_files() {
        bytes += OsFileSystem.metadata(&file)?.len;
    }
    Ok(bytes)
}

/// Runs the part; returns what was wrong.
pub(super) fn run(dir: &Path, text: &Text, clock: &SystemClock) -> Done<Vec<String>> {
    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..super::config() };
    let log = PartitionLog::open(dir, config)?;
    write_updates(&log, text)?;
    log.roll()?;
    let (before, bytes_before) = (load(&log, clock)?, log_bytes(&log)?);
    let cleaned = log.clean(&CleanOptions::default().with_memory(MEMORY_BYTES))?;
    let (after, bytes_after) = (load(&log, clock)?, log_bytes(&log)?);
    let mut out = io::stdout();
    writeln!(
        out,
        "  {} records of {} keys, {} in {} segments; cleaned in {} ({:.0} MB/s read) with {} of memory",
        grouped(before.records),
        grouped(before.table.len() as u64),
        bytes(bytes_before),
        cleaned.segments_before,
        time(cleaned.took),
        rate(cleaned.bytes_read, cleaned.took) / 1e6,
        bytes(cleaned.memory_peak),
    )?;
    writeln!(
        out,
        "  {} are left in {} segments; the table loads from {} records in {} instead of {} in {}",
        bytes(bytes_after),
        cleaned.segments_after,
        grouped(after.records),
        time(after.took),
        grouped(before.records),
        time(before.took),
    )?;
    let mut problems = Vec::new();
    if !after.table.iter().eq(before.table.iter()) {
        problems.push("the table is another one after cleaning".to_owned());
    }
    if after.records != after.table.len() as u64 {
        problems.push(format!("{} records are left of {} keys", after.records, after.table.len()));
    }
    log.close()?;
    Ok(problems)
}

/// Lines of the text as values of keys drawn at random.
fn write_updates(log: &PartitionLog, text: &Text) -> Done<()> {
    let (mut builder, mut rng) = (BatchBuilder::new(), Rng::new(KEYS));
    for first in (0..RECORDS).step_by(usize::try_from(BATCH_RECORDS)?) {
        for record in first..first + BATCH_RECORDS {
            let key = format!("key-{}", rng.below(KEYS));
            builder.record(text.timestamp(record), Some(key.as_bytes()), Some(text.value(record).as_bytes()));
        }
        log.append(builder.build()?, AppendAs::Client { epoch: epoch() })?;
    }
    Ok(())
}
