//! `perf appends`: what an append of 16 KiB takes while the store's cleaner works at full speed beside it, against the
//! same appends while it rests. Batches come at a steady rate; what counts is how long each call takes.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use alluvium::LogConfig;
use alluvium::clean::CleanerConfig;
use alluvium::clock::{Clock as _, SystemClock};
use alluvium::fs::{FileSystem as _, OsFileSystem};
use alluvium::store::cleaner::CleaningState;
use alluvium::store::{Partition, Store, StoreConfig, TopicPartition};
use alluvium::sync::{Condvar, Mutex};
use serde_json::json;

use super::Done;
use super::shape::{Batches, Shape, client};
use crate::Outcome;
use crate::output::{Table, grouped, real, time};

/// Appended over and over.
const APPENDED: Shape =
    Shape { records: 70_000, record_bytes: 200, keys: 10_000, memory_bytes: 0, segment_bytes: 1 << 30 };
/// The longest that cleaning may take before something is wrong.
const PATIENCE: Duration = Duration::from_mins(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Batches appended a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Records of 200 bytes in each of the partitions that are cleaned meanwhile.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Partitions that are cleaned meanwhile.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    partitions: u16,
    /// What the cleaner may hold, in bytes; default 128 MiB, as a store's.
    #[arg(long)]
    memory: Option<u64>,
    /// How often it is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the store is made; it must exist. A directory for temporary files if left out, which may be no disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// How long each of many appends took.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn quantile(&self, per_mille: usize) -> Duration {
        let at = self.0.len().saturating_sub(1) * per_mille / 1000;
        self.0.get(at).copied().unwrap_or_default()
    }

    fn of(mut each: Vec<Duration>) -> Self {
        each.sort_unstable();
        Self(each)
    }

    fn row(&self, name: &str) -> Vec<String> {
        let quantile = |per_mille| time(self.quantile(per_mille));
        vec![name.to_owned(), grouped(self.0.len() as u64), quantile(500), quantile(990), quantile(999), quantile(1000)]
    }
}

/// A partition that is appended to, at a rate.
struct Appender {
    partition: Partition,
    batches: Vec<Vec<u8>>,
    pause: Duration,
    at: usize,
    clock: SystemClock,
}

impl Appender {
    fn new(partition: Partition, rate: u32) -> Done<Self> {
        let (mut stream, mut batches) = (Batches::new(&APPENDED), Vec::new());
        while let Some(batch) = stream.next()? {
            batches.push(batch.into_bytes());
        }
        Ok(Self { partition, batches, pause: Duration::from_secs(1) / rate, at: 0, clock: SystemClock::new() })
    }

    /// Appends at the rate for as long as `goes_on` says, which is asked about every 100 appends.
    fn run(&mut self, mut goes_on: impl FnMut(Duration) -> Done<bool>) -> Done<Latencies> {
        let (mut each, started) = (Vec::new(), self.clock.monotonic());
        let (sleeper, lock) = (Condvar::new(), Mutex::new(()));
        let mut due = started;
        loop {
            let now = self.clock.monotonic();
            if let Some(early) = due.checked_sub(now).filter(|early| !early.is_zero()) {
                sleeper.wait_for(&mut lock.lock(), early);
                continue;
            }
            if each.len() % 100 == 0 && !goes_on(now.saturating_sub(started))? {
                return Ok(Latencies::of(each));
            }
            each.push(self.append()?);
            // After a stall it goes on at the same rate and does not make up for what was left out.
            due = due.max(now.saturating_sub(self.pause)) + self.pause;
        }
    }

    fn append(&mut self) -> Done<Duration> {
        // A batch that was appended has its offset and leader epoch stamped in, and is taken without.
        let batch = self.batches.get(self.at).cloned().ok_or("no batches")?;
        self.at = (self.at + 1) % self.batches.len();
        let started = self.clock.monotonic();
        self.partition.append(batch, client())?;
        Ok(self.clock.monotonic().saturating_sub(started))
    }
}

fn cleaner(args: &Args, enabled: bool) -> CleanerConfig {
    let defaults = CleanerConfig::default();
    CleanerConfig { enabled, memory_bytes: args.memory.unwrap_or(defaults.memory_bytes), ..defaults }
}

fn dirty(number: u16) -> Done<TopicPartition> {
    Ok(TopicPartition::new("dirty", i32::from(number))?)
}

/// Makes the store's partitions that are to be cleaned.
fn fill(store: &Store, args: &Args) -> Done<()> {
    let records = args.records;
    let shape =
        Shape { records, record_bytes: 200, keys: (records / 3).max(1), memory_bytes: 0, segment_bytes: 64 << 20 };
    for number in 0..args.partitions {
        let partition = store.create(&dirty(number)?, shape.config())?;
        let mut batches = Batches::new(&shape);
        while let Some(batch) = batches.next()? {
            partition.append(batch, client())?;
        }
        let log = partition.log()?;
        log.roll()?;
        log.flush()?;
    }
    Ok(())
}

/// Whether a pass over every partition came to its end.
fn is_clean(store: &Store, args: &Args) -> Done<bool> {
    for number in 0..args.partitions {
        let health = store.cleaner().health_of(&dirty(number)?)?;
        match health.state {
            CleaningState::Clean if health.last.is_some() => {}
            CleaningState::Retry { cause, .. } => return Err(format!("cleaning failed: {cause}").into()),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// One round in a fresh store: with the cleaner until all is clean, then for as long without.
fn measure(dir: &Path, args: &Args) -> Done<(Latencies, Latencies)> {
    let config = StoreConfig { cleaner: cleaner(args, false), ..StoreConfig::new(dir) };
    let store = Store::open(config)?;
    fill(&store, args)?;
    let plain = LogConfig { segment_bytes: APPENDED.segment_bytes, ..LogConfig::default() };
    let partition = store.create(&TopicPartition::new("appended", 0)?, plain)?;
    let mut appender = Appender::new(partition, args.rate)?;
    // Not counted: files and pages get warm.
    appender.run(|ran| Ok(ran < Duration::from_millis(300)))?;
    store.cleaner().reconfigure(cleaner(args, true))?;
    for number in 0..args.partitions {
        store.cleaner().run_now(&dirty(number)?)?;
    }
    let with = appender.run(|ran| match is_clean(&store, args)? {
        false if ran > PATIENCE => Err("the cleaner does not come to an end".into()),
        is_clean => Ok(!is_clean),
    })?;
    store.cleaner().reconfigure(cleaner(args, false))?;
    // What cleaning left to be written out is not to be felt by those who append without it.
    appender.run(|ran| Ok(ran < Duration::from_millis(500)))?;
    let wanted = Duration::from_secs(1).mul_f64(real(with.0.len() as u64) / f64::from(args.rate));
    let without = appender.run(|ran| Ok(ran < wanted.max(Duration::from_millis(500))))?;
    store.close(Duration::from_mins(1))?;
    Ok((without, with))
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let scratch = match &args.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        let dir = scratch.path().join("store");
        OsFileSystem.create_dir(&dir)?;
        let (rested, cleaned) = measure(&dir, args)?;
        ratios.push(cleaned.quantile(990).as_secs_f64() / rested.quantile(990).as_secs_f64().max(1e-9));
        without.extend(rested.0);
        with.extend(cleaned.0);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    let (without, with) = (Latencies::of(without), Latencies::of(with));
    let mut out = io::stdout();
    if args.json {
        let micros = |latencies: &Latencies, per_mille| latencies.quantile(per_mille).as_secs_f64() * 1e6;
        let of =
            |one: &Latencies| json!({ "appends": one.0.len(), "p50_us": micros(one, 500), "p99_us": micros(one, 990) });
        writeln!(out, "{}", json!({ "without": of(&without), "cleaning": of(&with), "p99_ratio": ratio }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["append of 16 KiB", "calls", "p50", "p99", "p99.9", "max"]);
    table.row(without.row("cleaner at rest"));
    table.row(with.row("while cleaning"));
    writeln!(
        out,
        "{table}  p99 while cleaning: {ratio:.2} of what it is without, the median of {} rounds",
        ratios.len()
    )?;
    Ok(ExitCode::SUCCESS)
}
