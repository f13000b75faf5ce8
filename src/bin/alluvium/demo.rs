//! `demo`: the main job, visibly, in under a minute. Writes a real text as keyed records at both acknowledgement
//! levels, kills its own writer process, recovers, reads back, compares, looks up, and says how long everything took.
//!
//! Record `n` is always line `n` of the text, repeated as often as needed, with key `n`: so whoever knows an offset
//! knows what must stand there.

mod check;
mod cleaner;
mod cleaning;
mod faults;
mod store;
mod updates;
mod victim;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alluvium::clock::{Clock, SystemClock};
use alluvium::fs::{FileSystem as _, OsFileSystem};
use alluvium::record::{BatchBuilder, RecordBatch};
use alluvium::{AppendAs, Deadline, LeaderEpoch, LogConfig, PartitionLog, RecoveryReport, TimestampMs};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Outcome;
use crate::output::{Table, bytes, grouped, rate, time};
pub(crate) use store::{WriterArgs as StoreWriterArgs, write_until_killed as write_store_until_killed};
pub(crate) use victim::{WriterArgs, write_until_killed};

/// Public-domain English: Genesis, Shakespeare, Blake, Shelley, Lincoln, Melville, Carroll.
const TEXT: &str = include_str!("demo/text.txt");
const CACHED_RECORDS: u64 = 400_000;
const DURABLE_BATCHES: u64 = 2000;
/// On a slow disk fewer durable batches have to do.
const DURABLE_TIME_MAX: Duration = Duration::from_secs(6);
const BATCH_RECORDS: u64 = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Work in this directory and keep what was written; it must be empty or missing. A temporary one if left out.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Tell one story rather than show all there is.
    #[arg(long, value_enum)]
    story: Option<Story>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Story {
    /// A partition of offsets whose cleaner meets one fault after the other, falls far behind, and catches up by itself.
    Cleaner,
}

type Done<T> = Result<T, Box<dyn std::error::Error>>;

/// The text, as records.
pub(crate) struct Text {
    lines: Vec<&'static str>,
    /// Timestamp of record 0; each later one is a millisecond later, so that timestamps can be looked up exactly.
    start: TimestampMs,
}

impl Text {
    fn new(start: TimestampMs) -> Self {
        Self { lines: TEXT.lines().collect(), start }
    }

    fn value(&self, record: u64) -> &'static str {
        let at = record % (self.lines.len().max(1) as u64);
        usize::try_from(at).ok().and_then(|at| self.lines.get(at)).copied().unwrap_or_default()
    }

    fn timestamp(&self, record: u64) -> TimestampMs {
        TimestampMs::new(self.start.value().saturating_add(i64::try_from(record).unwrap_or(i64::MAX)))
    }

    /// The batch of `count` records from record `first` on.
    fn batch(&self, builder: &mut BatchBuilder, first: u64, count: u64) -> Done<RecordBatch> {
        for record in first..first + count {
            let key = record.to_string();
            builder.record(self.timestamp(record), Some(key.as_bytes()), Some(self.value(record).as_bytes()));
        }
        Ok(builder.build()?)
    }
}

/// Small segments, so that even a demo rolls.
fn config() -> LogConfig {
    LogConfig { segment_bytes: 8 << 20, ..LogConfig::default() }
}

fn epoch() -> LeaderEpoch {
    LeaderEpoch::new(0).unwrap_or_default()
}

/// A bar on a terminal, nothing elsewhere.
fn progress(what: &'static str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("  {msg:24} {bar:40} {percent:>3} %") {
        bar.set_style(style);
    }
    bar.with_message(what)
}

/// How long each of many calls took, and what they moved.
struct Timings {
    name: &'static str,
    each: Vec<Duration>,
    total: Duration,
    records: u64,
    bytes: u64,
}

impl Timings {
    fn new(name: &'static str) -> Self {
        Self { name, each: Vec::new(), total: Duration::ZERO, records: 0, bytes: 0 }
    }

    fn add(&mut self, took: Duration, records: u64, bytes: u64) {
        self.each.push(took);
        self.total += took;
        self.records += records;
        self.bytes += bytes;
    }

    fn quantile(&self, per_mille: usize) -> String {
        let mut sorted = self.each.clone();
        sorted.sort_unstable();
        let at = (sorted.len().saturating_sub(1)) * per_mille / 1000;
        sorted.get(at).map_or_else(String::new, |took| time(*took))
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            grouped(self.each.len() as u64),
            self.quantile(500),
            self.quantile(990),
            self.quantile(1000),
            format!("{:.0}", rate(self.each.len() as u64, self.total)),
            format!("{:.0}", rate(self.records, self.total)),
            format!("{:.1}", rate(self.bytes, self.total) / 1e6),
        ]
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let scratch = if args.dir.is_some() { None } else { Some(tempfile::tempdir()?) };
    let given = args.dir.as_deref().or(scratch.as_ref().map(tempfile::TempDir::path));
    let dir = given.unwrap_or(Path::new("."));
    refuse_used(dir)?;
    if let Some(Story::Cleaner) = args.story {
        return cleaner::run(dir);
    }
    let clock = SystemClock::new();
    let text = Text::new(TimestampMs::new(clock.wall().value().saturating_sub(3_600_000)));
    let mut out = io::stdout();
    writeln!(out, "alluvium demo in {}", dir.display())?;
    writeln!(out, "  {} lines of text, {}, over and over", text.lines.len(), bytes(TEXT.len() as u64))?;

    let mut table = Table::new(&["", "calls", "p50", "p99", "max", "calls/s", "records/s", "MB/s"]);
    writeln!(out, "\n1. write, {BATCH_RECORDS} records a batch: first acknowledged at cached, then at durable")?;
    for timings in write_text(dir, &text, &clock)? {
        table.row(timings.row());
    }
    writeln!(out, "\n2. another process goes on writing and is killed with SIGKILL")?;
    let killed = victim::run_and_kill(dir, &text)?;
    writeln!(
        out,
        "  it died of signal {}, having acknowledged offsets up to {} as cached and up to {} as durable",
        killed.signal,
        grouped(killed.cached_end),
        grouped(killed.durable_end),
    )?;
    writeln!(out, "\n3. open again")?;
    let started = clock.monotonic();
    let log = PartitionLog::open(dir, config())?;
    let took = clock.monotonic().saturating_sub(started);
    print_recovery(log.recovery_report(), took)?;
    let checked = check::check(&log, &text, &killed, &clock)?;
    for timings in &checked.timings {
        table.row(timings.row());
    }
    log.close()?;
    let report = alluvium::inspect::PartitionFiles::open(dir)?.verify(&alluvium::inspect::VerifyOptions::default())?;
    writeln!(out, "\n4. latencies and rates\n{table}")?;
    let problems = checked.problems.iter().cloned().chain(report.problems.iter().map(ToString::to_string));
    let mut problems: Vec<String> = problems.collect();
    writeln!(out, "5. a store")?;
    let stores = tempfile::tempdir()?;
    problems.extend(store::run(&stores.path().join("store"), &text, &clock)?);
    writeln!(out, "6. a log of updates is cleaned")?;
    problems.extend(cleaning::run(&stores.path().join("cleaned"), &text, &clock)?);
    for problem in &problems {
        writeln!(out, "  WRONG: {problem}")?;
    }
    if !problems.is_empty() {
        return Ok(ExitCode::from(1));
    }
    writeln!(
        out,
        "  all {} acknowledged records are there, byte for byte; {} more had been written and not acknowledged",
        grouped(killed.cached_end),
        grouped(checked.records.saturating_sub(killed.cached_end)),
    )?;
    if args.dir.is_some() {
        writeln!(out, "  kept in {0}: try `alluvium dump {0}` and `alluvium verify {0}`", dir.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The demo counts from offset 0, and somebody else's log is not to be written to.
fn refuse_used(dir: &Path) -> Done<()> {
    match OsFileSystem.list(dir) {
        Ok(entries) if entries.is_empty() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(format!("{} is not empty; name a directory that is empty or missing", dir.display()).into()),
        Err(e) => Err(format!("{} cannot be used: {e}; name another directory", dir.display()).into()),
    }
}

fn write_text(dir: &Path, text: &Text, clock: &SystemClock) -> Done<[Timings; 2]> {
    let log = PartitionLog::open(dir, config())?;
    let mut builder = BatchBuilder::new();
    let mut cached = Timings::new("append, cached");
    let mut durable = Timings::new("append, durable");
    let mut next = 0;
    let bar = progress("cached", CACHED_RECORDS);
    while next < CACHED_RECORDS {
        next = append_timed(&log, text, next, &mut builder, clock, &mut cached, false)?;
        bar.set_position(next);
    }
    bar.finish_and_clear();
    // What is cached so far is not the first durable append's to sync.
    log.flush()?;
    let bar = progress("durable", DURABLE_BATCHES);
    for _ in 0..DURABLE_BATCHES {
        next = append_timed(&log, text, next, &mut builder, clock, &mut durable, true)?;
        bar.inc(1);
        if durable.total > DURABLE_TIME_MAX {
            break;
        }
    }
    bar.finish_and_clear();
    log.close()?;
    Ok([cached, durable])
}

fn append_timed(
    log: &PartitionLog,
    text: &Text,
    first: u64,
    builder: &mut BatchBuilder,
    clock: &SystemClock,
    timings: &mut Timings,
    wait: bool,
) -> Done<u64> {
    let batch = text.batch(builder, first, BATCH_RECORDS)?;
    let size = batch.as_bytes().len() as u64;
    let started = clock.monotonic();
    let appended = log.append(batch, AppendAs::Client { epoch: epoch() })?;
    if wait {
        appended.wait_durable(Deadline::NEVER)?;
    }
    timings.add(clock.monotonic().saturating_sub(started), BATCH_RECORDS, size);
    Ok(first + BATCH_RECORDS)
}

fn print_recovery(report: &RecoveryReport, took: Duration) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "  in {}: {} of {} segments scanned, {} in {} batches ({:.0} MB/s), then synced; {} cut",
        time(took),
        report.scanned_segments,
        report.segments,
        bytes(report.scanned_bytes),
        grouped(report.scanned_batches),
        rate(report.scanned_bytes, report.scan_time) / 1e6,
        bytes(report.cut_bytes),
    )?;
    for finding in &report.findings {
        let place = if finding.file.is_empty() { "the directory" } else { &finding.file };
        writeln!(out, "  {place}, byte {}: {:?} -> {:?}", finding.position, finding.found, finding.action)?;
    }
    Ok(())
}
