//! `demo --story cleaner`: how a broker loses its offsets elsewhere, and why it does not here. A cleaner dies unnoticed,
//! the partition grows until its keys fit no map any more, and nobody can load it. Here the cleaner meets one fault after
//! the other while writes go on until the backlog is 20 times what its memory holds. It says so each time, at once, and
//! catches up by itself when the last fault is gone, within its memory and without a restart.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use alluvium::clean::CleanerConfig;
use alluvium::clock::{Clock as _, SystemClock};
use alluvium::fs::{FileSystem as _, OpenMode, OsFileSystem, read_exact_at, write_all_at};
use alluvium::store::cleaner::{CauseKind, CleaningHealth, CleaningState};
use alluvium::store::{Partition, Store, StoreConfig, StoreEvent, StoreOpening, Subscription, TopicPartition};
use alluvium::{CleanupPolicy, Environment, LogConfig, Offset, ReadOptions};

use super::Done;
use super::cleaning::{load, log_bytes};
use super::faults::{Fault, Faults, quiet_panics};
use super::updates::{RECORD_BYTES, Updates};
use crate::Outcome;
use crate::output::{bytes, grouped, rate, real, time};
use crate::watched::WatchedFs;

/// The least that a cleaner can be given.
const MEMORY_BYTES: u64 = 1 << 20;
/// An entry of the offset map: more keys than this do not fit, whatever else is held.
const ENTRY_BYTES: u64 = 16;
const CAPACITY: u64 = MEMORY_BYTES / ENTRY_BYTES;
const SEGMENT_BYTES: u32 = 16 << 20;
/// So many times the map's capacity is written while the cleaner cannot work.
const BACKLOG_TIMES: u64 = 20;
const FEW_KEYS: u64 = 20_000;
const MANY_KEYS: u64 = 400_000;
/// A round of updates that makes the partition due.
const ROUND: u64 = 200_000;
const BEHIND_BYTES: u64 = 32 << 20;
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(5);

struct Story {
    store: Store,
    partition: Partition,
    events: Subscription,
    faults: Arc<Faults>,
    clock: Arc<SystemClock>,
    updates: Updates,
    /// The backlog at which the first event said that the cleaner is behind.
    behind_at: Option<u64>,
    problems: Vec<String>,
}

fn log_config() -> LogConfig {
    LogConfig { segment_bytes: SEGMENT_BYTES, cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() }
}

fn store_config(dir: &Path) -> StoreConfig {
    let cleaner = CleanerConfig {
        memory_bytes: MEMORY_BYTES,
        behind_bytes: Some(BEHIND_BYTES),
        // Short, so that a demo sees them.
        backoff: Duration::from_millis(50),
        retry: Duration::from_millis(50),
        retry_max: Duration::from_millis(500),
        spill_free_bytes: 0,
        ..CleanerConfig::default()
    };
    // A demo must run where there is little space, too.
    StoreConfig { cleaner, space_floor_bytes: 0, reserve_bytes: 0, ..StoreConfig::new(dir) }
}

/// Tells the story in `dir`, which is empty or missing.
pub(super) fn run(dir: &Path) -> Outcome {
    quiet_panics();
    let mut story = Story::begin(dir)?;
    say(&format!(
        "the cleaner has {}, which hold {} keys at most; keys and values of 50 bytes",
        bytes(MEMORY_BYTES),
        grouped(CAPACITY)
    ))?;
    story.all_is_well()?;
    story.damage()?;
    story.strike(Fault::Panic, CauseKind::Panic, "panics in the middle of a pass")?;
    story.strike(Fault::BrokenDisk, CauseKind::Io, "is refused its writes by the disk (EIO)")?;
    story.fall_behind()?;
    story.catch_up()?;
    story.load()?;
    story.store.close(Duration::from_secs(20))?;
    for problem in &story.problems {
        writeln!(io::stdout(), "  WRONG: {problem}")?;
    }
    if !story.problems.is_empty() {
        return Ok(ExitCode::from(1));
    }
    writeln!(io::stdout(), "\nno restart, and nobody did anything for the cleaner")?;
    Ok(ExitCode::SUCCESS)
}

fn chapter(title: &str) -> io::Result<()> {
    writeln!(io::stdout(), "\n{title}")
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "  {line}")
}

impl Story {
    fn begin(dir: &Path) -> Done<Self> {
        let clock = Arc::new(SystemClock::new());
        let faults = Arc::new(Faults::new(Arc::clone(&clock)));
        let environment = Environment { fs: Arc::new(WatchedFs::new(&faults)), ..Environment::default() };
        let store = StoreOpening::new(store_config(dir)).environment(environment).open()?;
        let events = store.subscribe(1 << 10);
        let partition = store.create(&TopicPartition::new("__consumer_offsets", 0)?, log_config())?;
        let (updates, behind_at, problems) = (Updates::new(), None, Vec::new());
        Ok(Self { store, partition, events, faults, clock, updates, behind_at, problems })
    }

    fn write(&mut self, records: u64, keys: u64) -> Done<()> {
        let now = self.clock.wall();
        self.updates.write(&self.partition, records, keys, now)
    }

    /// What the cleaner says of the partition; `None` before it looked at it.
    fn cleaning(&self) -> Option<CleaningHealth> {
        self.store.cleaner().health_of(self.partition.name()).ok()
    }

    /// Waits until the cleaner says of the partition what is looked for; how long it took. What never comes is a problem.
    fn wait(&mut self, what: &str, is_it: impl Fn(&CleaningHealth) -> bool) -> Done<(CleaningHealth, Duration)> {
        let started = self.clock.monotonic();
        loop {
            let (health, took) = (self.cleaning(), self.clock.monotonic().saturating_sub(started));
            if let Some(health) = health.as_ref().filter(|health| is_it(health)) {
                return Ok((health.clone(), took));
            }
            if took > PATIENCE {
                return Err(format!("{what} did not come within {}: {health:?}", time(PATIENCE)).into());
            }
            // Something may happen meanwhile, and need not.
            let event = self.events.next(LOOK.into());
            self.hear(event.as_ref());
        }
    }

    /// Takes note of what an embedder would slow its producers for.
    fn hear(&mut self, event: Option<&StoreEvent>) {
        if let Some(StoreEvent::CleanerBehind { backlog_bytes, .. }) = event {
            self.behind_at = self.behind_at.or(Some(*backlog_bytes));
        }
    }

    /// Waits until everything that can be cleaned is.
    fn wait_clean(&mut self) -> Done<(CleaningHealth, Duration)> {
        let end = self.partition.marks()?.log_end;
        self.wait("a clean partition", |health| {
            matches!(health.state, CleaningState::Clean) && health.last.is_some_and(|last| last.upper >= end)
        })
    }

    fn roll(&self) -> Done<()> {
        self.partition.log()?.roll()?;
        Ok(())
    }

    fn all_is_well(&mut self) -> Done<()> {
        chapter("1. all is well")?;
        self.write(ROUND, FEW_KEYS)?;
        self.roll()?;
        let before = log_bytes(&self.partition.log()?)?;
        let (_, took) = self.wait_clean()?;
        say(&format!(
            "{} updates of {} keys, {}; {} later {} are left",
            grouped(ROUND),
            grouped(self.updates.keys()),
            bytes(before),
            time(took),
            bytes(log_bytes(&self.partition.log()?)?),
        ))?;
        Ok(())
    }

    /// A byte of a sealed segment turns over. The segment is left as it is, and what lies around it is cleaned. Then a
    /// replica's batch takes its place, as a broker would fetch it.
    fn damage(&mut self) -> Done<()> {
        chapter("2. a batch is damaged on the disk")?;
        let log = self.partition.log()?;
        let wound = Wound::at(&log, Offset::new(i64::try_from(ROUND)? - 1).ok_or("an offset")?)?;
        wound.inflict()?;
        self.write(ROUND, FEW_KEYS)?;
        self.roll()?;
        let (health, took) = self.wait("damage to be told", |health| !health.quarantined.is_empty())?;
        let (_, _) = self.wait_clean()?;
        let damage = health.quarantined.first().ok_or("nothing is quarantined")?;
        say(&format!(
            "told {} after the write: offsets {} to {} cannot be read; that segment stays as it is, the rest was cleaned",
            time(took),
            damage.offsets.start,
            damage.offsets.end,
        ))?;
        if wound.is_mended()? {
            self.problems.push("the damaged bytes were written over".to_owned());
        }
        let repaired = log.repair(damage.offsets.clone(), wound.replica.clone())?;
        say(&format!("a replica's {} batch was put in its place", repaired.batches))?;
        Ok(())
    }

    /// Lets a fault strike whoever writes new segments, and waits until the cleaner says so, with the cause.
    fn strike(&mut self, fault: Fault, kind: CauseKind, what: &str) -> Done<()> {
        chapter(&format!("{}. the cleaner {what}", if fault == Fault::Panic { 3 } else { 4 }))?;
        self.faults.arm(Some(fault));
        self.write(ROUND, MANY_KEYS)?;
        self.roll()?;
        let (health, _) = self.wait(
            "a failed pass",
            |health| matches!(&health.state, CleaningState::Retry { cause, .. } if cause.kind == kind),
        )?;
        let now = self.clock.monotonic();
        let struck = self.faults.struck().ok_or("the fault did not strike")?;
        let CleaningState::Retry { attempt, cause, .. } = &health.state else { return Err("no retry".into()) };
        say(&format!("told within {}: attempt {attempt} failed, {cause}", time(now.saturating_sub(struck))))?;
        if self.store.health().is_well() {
            self.problems.push("the store says that it is well".to_owned());
        }
        Ok(())
    }

    fn fall_behind(&mut self) -> Done<()> {
        chapter("5. writes go on, and the cleaner cannot")?;
        let started = self.updates.written();
        while self.updates.written() - started < BACKLOG_TIMES * CAPACITY {
            self.write(ROUND / 2, MANY_KEYS)?;
        }
        self.roll()?;
        let (health, _) = self.wait("a backlog", |health| {
            // An attempt may be under way, which fails as those before.
            let has_failed = matches!(health.state, CleaningState::Retry { .. });
            has_failed && health.behind.is_some() && health.dirty_bytes > BACKLOG_TIMES * CAPACITY * RECORD_BYTES
        })?;
        // What was told meanwhile may still wait to be heard.
        while let Some(event) = self.events.try_next() {
            self.hear(Some(&event));
        }
        match self.behind_at {
            Some(backlog_bytes) => say(&format!("an event told who writes at {} of backlog", bytes(backlog_bytes)))?,
            None => self.problems.push("no event said that the cleaner is behind".to_owned()),
        }
        let CleaningState::Retry { attempt, .. } = health.state else {
            self.problems.push(format!("the cleaner is not waiting to try again: {:?}", health.state));
            return Ok(());
        };
        say(&format!(
            "{} updates of {} keys, {} dirty: {BACKLOG_TIMES} times what the map holds; {attempt} attempts failed in a row",
            grouped(self.updates.written() - started),
            grouped(self.updates.keys()),
            bytes(health.dirty_bytes),
        ))?;
        Ok(())
    }

    fn catch_up(&mut self) -> Done<()> {
        chapter("6. the disk works again")?;
        let before = log_bytes(&self.partition.log()?)?;
        self.faults.arm(None);
        let (health, took) = self.wait_clean()?;
        let last = health.last.ok_or("no pass came to its end")?;
        say(&format!(
            "clean {} later: one {:?} pass of {} ({:.0} MB/s read), {} held of {}",
            time(took),
            last.mode,
            time(last.took),
            rate(last.bytes_read, last.took) / 1e6,
            bytes(last.memory_peak),
            bytes(MEMORY_BYTES),
        ))?;
        say(&format!(
            "{} read, {} of notes spilled, {} written, {} freed of {}",
            bytes(last.bytes_read),
            bytes(last.bytes_spilled),
            bytes(last.bytes_written),
            bytes(last.bytes_freed),
            bytes(before),
        ))?;
        if last.memory_peak > MEMORY_BYTES {
            self.problems.push(format!("the cleaner held {}", bytes(last.memory_peak)));
        }
        if !health.is_well() || !self.store.health().is_well() {
            self.problems.push(format!("all should be well: {health:?}"));
        }
        Ok(())
    }

    fn load(&mut self) -> Done<()> {
        chapter("7. the coordinator loads its table")?;
        let loaded = load(&self.partition.log()?, &self.clock)?;
        say(&format!(
            "{} records read for {} keys, {} in {}; {:.1} % of the {} updates that were written",
            grouped(loaded.records),
            grouped(loaded.table.len() as u64),
            bytes(loaded.bytes),
            time(loaded.took),
            100.0 * real(loaded.records) / real(self.updates.written()),
            grouped(self.updates.written()),
        ))?;
        if !self.updates.are_in(&loaded.table) {
            self.problems.push("the table is not what was written".to_owned());
        }
        if loaded.records != self.updates.keys() {
            self.problems.push(format!("{} records are left of {} keys", loaded.records, self.updates.keys()));
        }
        Ok(())
    }
}

/// A byte of a batch that is turned over, and what a replica has in the batch's place.
struct Wound {
    file: PathBuf,
    at: u64,
    whole: u8,
    replica: Vec<u8>,
}

impl Wound {
    /// In the batch that holds `offset`.
    fn at(log: &alluvium::PartitionLog, offset: Offset) -> Done<Self> {
        let fetched = log.read(offset, &ReadOptions { max_bytes: 1, ..ReadOptions::default() })?;
        let slice = fetched.slices().first().ok_or("the log is empty")?;
        let replica = fetched.read()?;
        // Behind the header, in the records.
        let within = replica.len() / 2;
        let whole = *replica.get(within).ok_or("an empty batch")?;
        Ok(Self { file: slice.path(), at: slice.position().value() + within as u64, whole, replica })
    }

    fn inflict(&self) -> Done<()> {
        let file = OsFileSystem.open(&self.file, OpenMode::ReadWrite)?;
        Ok(write_all_at(&*file, &[!self.whole], self.at)?)
    }

    /// Whether the byte is right again.
    fn is_mended(&self) -> Done<bool> {
        let file = OsFileSystem.open(&self.file, OpenMode::Read)?;
        let mut byte = [0];
        read_exact_at(&*file, &mut byte, self.at)?;
        Ok(byte == [self.whole])
    }
}
