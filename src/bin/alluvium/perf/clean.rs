//! `perf clean`: rows of shapes, each cleaned so many times, with the raw work in turns.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alluvium::fs::{FileSystem as _, OsFileSystem};

use super::Done;
use super::figures::{Figures, Measured};
use super::round::{Round, Subject};
use super::shape::{Filled, Shape, remove};
use crate::output::grouped;
use crate::{ALLOCATOR, Outcome};

/// Keys that Kafka's map holds in 4 MiB: 24 bytes an entry, nine tenths full.
const KAFKA_CAPACITY: u64 = 157_285;
const MIB: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Records to clean. Any of these five options makes one row of the table; the others then have their defaults.
    #[arg(long, value_parser = amount)]
    records: Option<u64>,
    /// Bytes of a record's value; default 200. Keys have 16.
    #[arg(long, value_parser = amount)]
    record_bytes: Option<u64>,
    /// Different keys, drawn at random; default 157,285.
    #[arg(long, value_parser = amount)]
    keys: Option<u64>,
    /// What the cleaner may hold; default 4M.
    #[arg(long, value_parser = amount)]
    memory: Option<u64>,
    /// When segments roll; default 64M.
    #[arg(long, value_parser = amount)]
    segment_bytes: Option<u64>,
    /// How often each row is measured, in turns with the raw work.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where logs are written; it must exist. A directory for temporary files if left out, which may be no disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
}

/// A number, with K, M or G for powers of 1,024.
fn amount(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K') => (text.trim_end_matches('K'), 1 << 10),
        Some(b'M') => (text.trim_end_matches('M'), 1 << 20),
        Some(b'G') => (text.trim_end_matches('G'), 1 << 30),
        _ => (text, 1_u64),
    };
    let number = digits.replace('_', "").parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    number.ok_or_else(|| "a number is wanted, as in 3000000 or 64M".to_owned())
}

/// A line of the table.
struct Row {
    label: String,
    shape: Shape,
    /// How long Kafka takes, in seconds. Kafka 4.0, the same machine class, the log in the page cache, JVM warmed up.
    kafka_seconds: Option<f64>,
}

impl Args {
    fn rows(&self) -> Done<Vec<Row>> {
        let given = [self.records, self.record_bytes, self.keys, self.memory, self.segment_bytes];
        if given.iter().all(Option::is_none) {
            return Ok(table());
        }
        let keys = self.keys.unwrap_or(KAFKA_CAPACITY);
        let shape = Shape {
            records: self.records.unwrap_or(3_000_000),
            record_bytes: usize::try_from(self.record_bytes.unwrap_or(200))?,
            keys,
            memory_bytes: self.memory.unwrap_or(4 * MIB),
            segment_bytes: u32::try_from(self.segment_bytes.unwrap_or(64 * MIB))?,
        };
        Ok(vec![Row { label: format!("{} keys", grouped(keys)), shape, kafka_seconds: None }])
    }
}

/// 3 million records of 200 bytes with 4 MiB, by how often their keys fill Kafka's map of that size, and a gigabyte with
/// a million keys.
fn table() -> Vec<Row> {
    let many = Shape { records: 3_000_000, record_bytes: 200, keys: 0, memory_bytes: 4 * MIB, segment_bytes: 64 << 20 };
    let one = Shape { segment_bytes: 1 << 30, ..many };
    let times = |halves: u64, shape: Shape, name: &str, kafka_seconds: Option<f64>| {
        let keys = (halves * KAFKA_CAPACITY / 2).min(halves * KAFKA_CAPACITY / 2 - u64::from(halves == 2));
        let times = if halves == 1 { "0.5".to_owned() } else { (halves / 2).to_string() };
        Row { label: format!("{times} x keys, {name}"), shape: Shape { keys, ..shape }, kafka_seconds }
    };
    let mut rows = Vec::new();
    let kafka_many = [Some(2.8), Some(3.2), Some(8.0), Some(12.9), Some(13.9), None];
    let kafka_one = [None, None, None, None, Some(22.6), None];
    for (at, (many_seconds, one_seconds)) in kafka_many.into_iter().zip(kafka_one).enumerate() {
        rows.push(times(1 << at, many, "64 MiB segments", many_seconds));
        rows.push(times(1 << at, one, "one segment", one_seconds));
    }
    let gigabyte = |record_bytes: usize, memory_mib: u64, kafka_seconds: Option<f64>| {
        // What a record takes beside key and value, and its share of the batch's header.
        let each = record_bytes as u64 + 27;
        let (records, keys) = (1_000_000_000 / each, 1_000_000);
        let shape = Shape { records, record_bytes, keys, memory_bytes: memory_mib * MIB, segment_bytes: 64 << 20 };
        Row { label: format!("1 GB of {record_bytes} B, {memory_mib} MiB"), shape, kafka_seconds }
    };
    rows.extend([
        gigabyte(1024, 128, Some(1.95)),
        gigabyte(100, 128, Some(8.3)),
        gigabyte(1024, 4, None),
        gigabyte(100, 4, None),
    ]);
    rows
}

pub(crate) fn run(args: &Args) -> Outcome {
    let rows = args.rows()?;
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut out = io::stdout();
    let mut all = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let dir = scratch.path().join(at.to_string());
        OsFileSystem.create_dir(&dir)?;
        let figures = measure(row, &dir, args.rounds)?;
        OsFileSystem.remove_dir(&dir)?;
        if args.json {
            writeln!(out, "{}", figures.json())?;
        } else {
            eprintln!("  measured {} of {}: {}", at + 1, rows.len(), row.label);
        }
        all.push(figures);
    }
    if !args.json {
        write!(out, "{}", super::figures::table(&all))?;
    }
    Ok(if all.iter().all(Figures::is_within) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Measures one row in `dir`, which is empty before and after.
fn measure(row: &Row, dir: &Path, rounds: u32) -> Done<Figures> {
    let filled = row.shape.fill(&dir.join("filled"))?;
    // Not counted: it says what the raw work is, and warms both up.
    let (first, _) = clean_once(row, &filled, dir)?;
    let raw = first.raw(&row.shape, &filled);
    let mut measured = Vec::new();
    for round in 0..rounds {
        // Each goes first as often as the other.
        let before = if round % 2 == 1 { Some(raw.run(dir)?) } else { None };
        let (round, peak_bytes) = clean_once(row, &filled, dir)?;
        let raw = match before {
            Some(took) => took,
            None => raw.run(dir)?,
        };
        measured.push(Measured { round, peak_bytes, raw });
    }
    remove(&filled.dir)?;
    Ok(Figures::new(row.label.clone(), row.shape, filled.bytes, row.kafka_seconds, &measured))
}

/// One cleaning of a copy, and the most memory that the process held beyond what it held before.
fn clean_once(row: &Row, filled: &Filled, dir: &Path) -> Done<(Round, u64)> {
    let subject = Subject::copy(&row.shape, filled, &dir.join("copy"))?;
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let round = subject.clean()?;
    let peak_bytes = ALLOCATOR.peak_usage().saturating_sub(before) as u64;
    subject.remove()?;
    Ok((round, peak_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(amount("64M"), Ok(64 << 20));
        assert_eq!(amount("3_000_000"), Ok(3_000_000));
        assert!(amount("M").is_err() && amount("1X").is_err() && amount("99999999999G").is_err());
    }

    #[test]
    fn the_table_has_every_multiple_in_many_segments_and_in_one() {
        let rows = table();
        let keys: Vec<u64> = rows.iter().map(|row| row.shape.keys).collect();
        assert_eq!(keys.iter().filter(|keys| **keys == 157_284).count(), 2, "just under: {keys:?}");
        assert_eq!(keys.iter().filter(|keys| **keys == 16 * KAFKA_CAPACITY).count(), 2);
        assert_eq!(rows.len(), 16);
    }
}
