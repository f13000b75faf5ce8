//! One partition of the workload: what is done to it, and what is said about that.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use alluvium::record::{BatchBuilder, Compression, RecordBatch};
use alluvium::{
    AppendAs, AppendError, Appended, CleanupPolicy, DurabilityError, FlushPolicy, Flusher, LeaderEpoch, LogConfig,
    Offset, PartitionLog, ReadMode,
};

use super::{Bench, Try, ack_lines, try_lines};

/// Nothing here takes longer, unless the disk is gone.
const PATIENCE: Duration = Duration::from_mins(1);
/// After this many reopenings because of errors the run gives up.
const FAILURES_MAX: u32 = 20;
/// How many batch ends are remembered as places to cut at.
const ENDS_MAX: usize = 40;

/// Longer than any test: a tombstone that expired would look like a record that was lost.
const DELETE_RETENTION_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

pub(super) type Step = Result<(), Box<dyn Error>>;

/// One partition, and the log that is open on it.
pub(super) struct Partition {
    dir: PathBuf,
    pub(super) name: String,
    pub(super) open: Option<Opened>,
    /// Log ends after earlier appends of this run, rising: batch boundaries.
    pub(super) ends: Vec<Offset>,
    /// Whether it is cleaned, and has transactions.
    pub(super) is_compacted: bool,
    failures: u32,
}

/// An open log. The flusher goes first, so that the last handle closes the log.
pub(super) struct Opened {
    flusher: Option<Flusher>,
    pub(super) log: PartitionLog,
    segment_bytes: u32,
}

/// An append, and what was in it.
struct Sent {
    appended: Appended,
    tries: Vec<Try>,
}

fn random_config(bench: &mut Bench, is_compacted: bool) -> LogConfig {
    let rng = &mut bench.rng;
    LogConfig {
        cleanup_policy: if is_compacted { CleanupPolicy::Compact } else { CleanupPolicy::Delete },
        delete_retention_ms: DELETE_RETENTION_MS,
        transaction_partition_verification_enable: false,
        segment_bytes: rng.pick(&[6 << 10, 8 << 10, 16 << 10]),
        index_interval_bytes: rng.pick(&[200, 1000, 4096]),
        zero_ahead_bytes: rng.pick(&[0, 4 << 10, 32 << 10]),
        read_mode: rng.pick(&[ReadMode::Positional, ReadMode::Mapped]),
        flush: FlushPolicy {
            after_records: rng.pick(&[None, None, Some(40)]),
            after: rng.pick(&[None, None, Some(Duration::from_millis(5))]),
            on_roll: rng.chance(70),
            ..FlushPolicy::default()
        },
        // What was acknowledged is looked for afterwards, however old its timestamps are.
        retention_ms: None,
        ..LogConfig::default()
    }
}

impl Partition {
    pub(super) fn open(
        bench: &mut Bench,
        dir: PathBuf,
        name: String,
        is_compacted: bool,
    ) -> Result<Self, Box<dyn Error>> {
        if is_compacted {
            bench.journal.say(&format!("compact {name}\n"))?;
        }
        let mut partition = Self { dir, name, open: None, ends: Vec::new(), is_compacted, failures: 0 };
        partition.reopen(bench, "create")?;
        Ok(partition)
    }

    /// Opens the log, with other settings than the last time. What opening found is durable.
    fn reopen(&mut self, bench: &mut Bench, what: &str) -> Step {
        self.open = None;
        let config = random_config(bench, self.is_compacted);
        let segment_bytes = config.segment_bytes;
        bench.journal.say(&format!("# {what}-begin\n"))?;
        let log = PartitionLog::open(&self.dir, config)?;
        let flusher = if bench.rng.chance(50) { Some(Flusher::start(log.clone())?) } else { None };
        let end = log.durable_end();
        self.ends.retain(|known| *known <= log.log_end());
        self.open = Some(Opened { flusher, log, segment_bytes });
        bench.journal.say(&format!("# {what}-end\ndurable {} {end}\n", self.name))?;
        self.end_open_transactions()
    }

    /// Does one thing.
    pub(super) fn work(&mut self, bench: &mut Bench) -> Step {
        match bench.rng.below(100) {
            0..10 if self.is_compacted => self.clean(bench),
            10..18 if self.is_compacted => self.transact(bench),
            0..40 => self.append_cached(bench),
            40..60 => self.append_durable(bench),
            60..72 => self.append_together(bench),
            72..79 => self.flush(bench),
            79..86 => self.roll(bench),
            86..91 => self.truncate(bench),
            91..95 => {
                self.close(bench)?;
                self.reopen(bench, "reopen")
            }
            95..97 => self.reopen(bench, "recover"),
            _ => self.tick(bench),
        }
    }

    /// Says what is tried, and appends it as one call of one or several batches. What it returns holds the log open.
    fn append(&mut self, bench: &mut Bench) -> Result<Result<Sent, AppendError>, Box<dyn Error>> {
        let Some(Opened { log, segment_bytes, .. }) = &self.open else { return Ok(Err(AppendError::Closed)) };
        let (tries, batches) = make_batches(bench, u64::from(*segment_bytes), self.is_compacted)?;
        bench.journal.say(&try_lines(&self.name, &tries))?;
        let epoch = LeaderEpoch::new(0).unwrap_or_default();
        Ok(log.append(batches, AppendAs::Client { epoch }).map(|appended| {
            self.ends.push(appended.end());
            if self.ends.len() > ENDS_MAX {
                self.ends.remove(0);
            }
            Sent { appended, tries }
        }))
    }

    fn append_cached(&mut self, bench: &mut Bench) -> Step {
        match self.append(bench)? {
            Ok(Sent { appended, tries }) => {
                let base = appended.base_offset().value();
                Ok(bench.journal.say(&ack_lines(&self.name, base, &tries, "cached"))?)
            }
            Err(error) => self.meet_append(bench, &error),
        }
    }

    fn append_durable(&mut self, bench: &mut Bench) -> Step {
        let Sent { appended, tries } = match self.append(bench)? {
            Ok(sent) => sent,
            Err(error) => return self.meet_append(bench, &error),
        };
        let waited = appended.wait_durable(PATIENCE);
        let base = appended.base_offset().value();
        drop(appended);
        match waited {
            Ok(()) => Ok(bench.journal.say(&ack_lines(&self.name, base, &tries, "durable"))?),
            Err(error) => self.meet(bench, "wait", &error, true),
        }
    }

    /// Several appends whose durability several threads wait for.
    fn append_together(&mut self, bench: &mut Bench) -> Step {
        let (mut sent, mut refused) = (Vec::new(), None);
        for _ in 0..2 + bench.rng.below(3) {
            match self.append(bench)? {
                Ok(one) => sent.push(one),
                Err(error) => refused = Some(error),
            }
        }
        let wait = |Sent { appended, tries }: Sent| {
            let waited = appended.wait_durable(PATIENCE);
            (appended.base_offset().value(), tries, waited)
        };
        let waited: Vec<(i64, Vec<Try>, Result<(), DurabilityError>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = sent.into_iter().map(|one| scope.spawn(move || wait(one))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let mut failed = None;
        for (base, tries, waited) in waited {
            match waited {
                Ok(()) => bench.journal.say(&ack_lines(&self.name, base, &tries, "durable"))?,
                Err(error) => failed = Some(error),
            }
        }
        match (failed, refused) {
            (Some(error), _) => self.meet(bench, "wait", &error, true),
            (None, Some(error)) => self.meet_append(bench, &error),
            (None, None) => Ok(()),
        }
    }

    fn flush(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        match log.flush() {
            Ok(end) => Ok(bench.journal.say(&format!("durable {} {end}\n", self.name))?),
            Err(error) => self.meet(bench, "flush", &error, true),
        }
    }

    fn tick(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        match log.tick() {
            Ok(_) => Ok(bench.journal.say(&format!("durable {} {}\n", self.name, log.durable_end()))?),
            Err(error) => self.meet(bench, "tick", &error, true),
        }
    }

    fn roll(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        bench.journal.say("# roll-begin\n")?;
        let rolled = log.roll();
        bench.journal.say("# roll-end\n")?;
        rolled.map(drop).or_else(|error| self.meet(bench, "roll", &error, false))
    }

    /// Cuts the tail at the end of an earlier append, so that nothing below the cut goes with it.
    fn truncate(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        let at = usize::try_from(bench.rng.below(self.ends.len().max(1) as u64)).unwrap_or_default();
        let Some(end) = self.ends.get(at).copied().filter(|end| *end >= log.log_start()) else { return Ok(()) };
        self.ends.truncate(at + 1);
        bench.journal.say(&format!("# truncate-begin\ntrunc {} {end}\n", self.name))?;
        let cut = log.truncate_to(end);
        bench.journal.say("# truncate-end\n")?;
        match cut {
            Ok(cut) if cut == end => Ok(()),
            Ok(cut) => Err(format!("{}: cut at {cut} instead of {end}", self.name).into()),
            Err(error) => self.meet(bench, "truncate", &error, true),
        }
    }

    pub(super) fn close(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { flusher, log, .. }) = self.open.take() else { return Ok(()) };
        bench.journal.say("# close-begin\n")?;
        drop(flusher);
        let end = log.log_end();
        let closed = log.close();
        bench.journal.say("# close-end\n")?;
        let said = match closed {
            Ok(()) => format!("durable {} {end}\n", self.name),
            // Opening it again judges what is left.
            Err(error) => format!("# close failed on {}: {error}\n", self.name),
        };
        Ok(bench.journal.say(&said)?)
    }

    pub(super) fn meet_append(&mut self, bench: &mut Bench, error: &AppendError) -> Step {
        self.meet(bench, "append", error, !matches!(error, AppendError::Io(_)))
    }

    /// An error is part of the run: says it, and opens the log again if it takes no more.
    pub(super) fn meet(&mut self, bench: &mut Bench, what: &str, error: &dyn Error, reopen: bool) -> Step {
        bench.journal.say(&format!("# {what} failed on {}: {error}\n", self.name))?;
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(format!("{}: {FAILURES_MAX} failures are enough; the last: {error}", self.name).into());
        }
        if reopen { self.reopen(bench, "recover") } else { Ok(()) }
    }
}

/// One to three batches of one to six records, together smaller than a segment.
fn make_batches(
    bench: &mut Bench,
    segment_bytes: u64,
    is_compacted: bool,
) -> Result<(Vec<Try>, Vec<RecordBatch>), Box<dyn Error>> {
    // A batch that compression makes larger grows by less than this.
    const MARGIN: usize = 1024;
    let mut room = usize::try_from(segment_bytes)?.saturating_sub(MARGIN);
    let (mut tries, mut batches) = (Vec::new(), Vec::new());
    for _ in 0..bench.rng.pick(&[1, 1, 1, 2, 3]) {
        let mut builder = BatchBuilder::new();
        builder.compression(bench.rng.pick(&Compression::ALL));
        for _ in 0..bench.rng.pick(&[1, 1, 2, 3, 6]) {
            let Try { key, value, key_text, hash } = bench.make_try(segment_bytes / 2, is_compacted);
            let bytes = key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len) + 32;
            if builder.bytes() + bytes > room {
                break;
            }
            let now = alluvium::clock::Clock::wall(&bench.clock);
            builder.record(now, key.as_deref(), value.as_deref());
            tries.push(Try { key, value, key_text, hash });
        }
        if builder.count() == 0 {
            break;
        }
        room = room.saturating_sub(builder.bytes());
        batches.push(builder.build()?);
    }
    if batches.is_empty() {
        return Err("a segment has no room for a single record; this is a bug of the workload".into());
    }
    Ok((tries, batches))
}
