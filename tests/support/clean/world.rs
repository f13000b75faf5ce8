//! A machine with a compacted log on it. It runs a script, keeps the story of what was told to the log, and judges the log
//! after everything that cleans or opens it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::clock::{Clock as _, ManualClock};
use alluvium::error::ProducerFault;
use alluvium::fs::FileSystem as _;
use alluvium::fs::sim::SimFs;
use alluvium::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, AppendError, Appended, ChangeError, CleanError, CleanOptions, Cleaned, HighWatermarkMode, LogConfig,
    PartitionLog, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};

use super::super::batches::{epoch, offset, place};
use super::super::history::Ending;
use super::super::naive::{Producer, plus};
use super::super::runner::{DIR, Trouble, from_change, new_clock};
use super::script::{CleanOp, Script, Writes};
use super::snapshots::Snapshots;
use super::story::{Cleaning, Story, Told};
use super::{judge, standing};

/// A machine, a log, and what was told to it.
pub(crate) struct CleanWorld {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) config: LogConfig,
    pub(crate) log: Option<PartitionLog>,
    pub(crate) story: Story,
    /// Batches whose append was not answered.
    pub(crate) maybe: Vec<Told>,
    /// Everything below it was acknowledged durable.
    pub(crate) durable: i64,
    /// Where the embedder's high watermark was moved to.
    pub(crate) high_watermark: i64,
    /// A log start that may be in force.
    pub(crate) maybe_start: Option<i64>,
    /// A cut that may be in force.
    pub(crate) maybe_cut: Option<i64>,
    pub(crate) leader_epoch: i32,
    pub(crate) ending: Ending,
    /// Which the next opening finds.
    pub(crate) snapshots: Snapshots,
    /// Whether the log is judged after cleanings and openings. Not where a run is repeated up to a crash.
    pub(crate) is_watchful: bool,
    /// What the cleanings told, newest last.
    pub(crate) cleaned: Vec<Cleaned>,
    /// How cleanings are told to work, memory apart.
    pub(crate) options: CleanOptions,
}

/// A producer's next batch.
struct Next {
    producer: i64,
    epoch: i16,
    sequence: i32,
    is_transactional: bool,
}

impl CleanWorld {
    pub(crate) fn new(fs: SimFs, config: LogConfig) -> Self {
        let delete_retention_ms = config.delete_retention_ms.cast_signed();
        Self {
            fs,
            clock: new_clock(),
            config,
            log: None,
            story: Story { delete_retention_ms, ..Story::default() },
            maybe: Vec::new(),
            durable: 0,
            high_watermark: 0,
            maybe_start: None,
            maybe_cut: None,
            leader_epoch: 3,
            ending: Ending::Kill,
            snapshots: Snapshots::Some,
            is_watchful: true,
            cleaned: Vec::new(),
            options: CleanOptions::default(),
        }
    }

    /// Opens the log and runs all operations; stops at the first trouble and says at which.
    pub(crate) fn run(&mut self, script: &Script) -> Result<(), (usize, Trouble)> {
        self.reopen().map_err(|trouble| (0, trouble))?;
        for (index, op) in script.ops.iter().enumerate() {
            self.apply(op).map_err(|trouble| (index, trouble))?;
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, op: &CleanOp) -> Result<(), Trouble> {
        let outcome = self.call(op);
        if self.fs.is_crashed() {
            return match outcome {
                Err(Trouble::Wrong(what)) if !what.contains("the simulated machine") => Err(Trouble::Wrong(what)),
                _ => Err(Trouble::Crash),
            };
        }
        outcome?;
        self.observe()
    }

    pub(crate) fn log(&self) -> Result<&PartitionLog, Trouble> {
        self.log.as_ref().ok_or_else(|| Trouble::Wrong("no log is open".to_owned()))
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.wall().value()
    }

    fn call(&mut self, op: &CleanOp) -> Result<(), Trouble> {
        match op {
            CleanOp::Put(writes) => self.put(writes),
            CleanOp::Given { gap, writes } => self.give(*gap, writes),
            CleanOp::Produce { producer, is_transactional, is_new_epoch, writes } => {
                self.produce(*producer, *is_transactional, *is_new_epoch, writes)
            }
            CleanOp::End { producer, commit, is_new_epoch } => self.end(*producer, *commit, *is_new_epoch),
            CleanOp::Again { producer } => self.again(*producer),
            CleanOp::OutOfOrder { producer, writes } => self.out_of_order(*producer, writes),
            CleanOp::NewLeader => {
                self.leader_epoch += 1;
                Ok(())
            }
            CleanOp::Replicate { back } => self.replicate(*back),
            CleanOp::Tick { ms } => {
                self.clock.advance(Duration::from_millis(*ms));
                self.log()?.tick().map(drop).map_err(from_change)
            }
            CleanOp::Roll => self.log()?.roll().map(drop).map_err(from_change),
            CleanOp::Flush => self.flush(),
            CleanOp::RaiseStart { back } => self.raise_start(*back),
            CleanOp::Truncate { back } => {
                let floor = self.story.relied_upon().max(self.high_watermark).max(self.story.start);
                self.truncate((self.story.end - back).max(floor))
            }
            CleanOp::TruncateCleaned { back } => {
                self.truncate((self.story.end - back).max(self.story.start))?;
                if self.story.upper() > 0 { self.adopt_found() } else { Ok(()) }
            }
            CleanOp::Clean { memory } => self.clean(*memory).map(drop),
            CleanOp::CloseAndOpen => self.close_and_open(),
            CleanOp::DropAndOpen => self.reopen(),
            CleanOp::ForgetSnapshots => self.forget_snapshots(),
        }
    }

    // Appending.

    fn builder(&self, writes: &Writes) -> BatchBuilder {
        let mut builder = BatchBuilder::new();
        builder.compression(writes.codec);
        let now = self.now();
        writes.records.iter().for_each(|write| write.put(&mut builder, now));
        builder
    }

    /// Appends what was sent, as stored at the end of the log plus `gap`.
    fn append(&mut self, sent: Vec<u8>, origin: AppendAs, gap: i64) -> Result<(), Trouble> {
        let mut bytes = sent.clone();
        place(&mut bytes, self.story.end + gap, self.leader_epoch);
        let told = Told::all(&bytes).map_err(Trouble::Wrong)?;
        let sent = if matches!(origin, AppendAs::Follower) { bytes } else { sent };
        if sent.len() > self.config.segment_bytes as usize {
            return Ok(());
        }
        self.maybe.clone_from(&told);
        let base = told.first().map_or(0, |batch| batch.facts.base);
        let appended = self.log()?.append(sent, origin);
        let appended = appended.map_err(|e| self.append_trouble(e))?;
        self.maybe.clear();
        if (appended.base_offset().value(), appended.is_duplicate()) != (base, false) {
            return Err(Trouble::Wrong(format!("appended at {} and not at {base}", appended.base_offset())));
        }
        for batch in told {
            self.story.tell(batch);
        }
        Ok(())
    }

    fn append_trouble(&mut self, error: AppendError) -> Trouble {
        match error {
            AppendError::Failed(e) => Trouble::Latched(e.to_string()),
            AppendError::Io(e) => {
                if !self.fs.is_crashed() {
                    self.maybe.clear();
                }
                Trouble::Refused(e.to_string())
            }
            e => Trouble::Wrong(format!("append: {e}")),
        }
    }

    fn client(&self) -> AppendAs {
        AppendAs::Client { epoch: epoch(self.leader_epoch) }
    }

    fn put(&mut self, writes: &Writes) -> Result<(), Trouble> {
        let sent = self.builder(writes).build().expect("planned batches are valid").into_bytes();
        self.append(sent, self.client(), 0)
    }

    fn give(&mut self, gap: i64, writes: &Writes) -> Result<(), Trouble> {
        let sent = self.builder(writes).build().expect("planned batches are valid").into_bytes();
        self.append(sent, AppendAs::Follower, gap)
    }

    fn data(&self, next: &Next, writes: &Writes) -> Vec<u8> {
        let mut builder = self.builder(writes);
        let (id, epoch) = identity(next.producer, next.epoch);
        builder.producer(id, epoch, Sequence::new(next.sequence)).transactional(next.is_transactional);
        builder.build().expect("planned batches are valid").into_bytes()
    }

    fn known(&self, producer: i64) -> Option<Producer> {
        self.story.naive().producer(producer)
    }

    fn next(&self, producer: i64, is_transactional: bool, is_new_epoch: bool) -> Next {
        // Odd producers begin shortly before sequences wrap.
        let first = if producer % 2 == 1 { i32::MAX - 3 } else { 0 };
        let Some(known) = self.known(producer) else {
            return Next { producer, epoch: 1, sequence: first, is_transactional };
        };
        let is_open = known.open.is_some();
        // A new epoch within a transaction takes it over, which is what the marker of the old one is for.
        if is_new_epoch && !is_open {
            return Next { producer, epoch: known.epoch + 1, sequence: 0, is_transactional };
        }
        let last = known.batches.last().and_then(|last| last.sequences);
        let sequence = last.map_or(0, |(_, last)| plus(last, 1));
        Next { producer, epoch: known.epoch, sequence, is_transactional: is_transactional || is_open }
    }

    fn produce(
        &mut self,
        producer: i64,
        is_transactional: bool,
        is_new_epoch: bool,
        writes: &Writes,
    ) -> Result<(), Trouble> {
        let sent = self.data(&self.next(producer, is_transactional, is_new_epoch), writes);
        self.append(sent, self.client(), 0)
    }

    fn end(&mut self, producer: i64, commit: bool, is_new_epoch: bool) -> Result<(), Trouble> {
        let known = self.known(producer);
        let current = known.as_ref().map_or(1, |known| known.epoch) + i16::from(is_new_epoch);
        let coordinator = known.and_then(|known| known.coordinator_epoch).unwrap_or(5);
        let kind = if commit { TransactionEnd::Commit } else { TransactionEnd::Abort };
        let now = TimestampMs::new(self.now());
        let sent = RecordBatch::end_transaction_marker(kind, identity(producer, current), coordinator, now);
        self.append(sent.into_bytes(), AppendAs::Coordinator { epoch: epoch(self.leader_epoch) }, 0)
    }

    /// The last batch of a producer is known again, wherever its records are by now.
    fn again(&mut self, producer: i64) -> Result<(), Trouble> {
        let Some(last) = self.known(producer).and_then(|known| known.batches.last().copied()) else { return Ok(()) };
        // As it was found once, it may have lost records.
        let is_whole = |told: &&Told| i64::try_from(told.records.len()) == Ok(told.facts.next - told.facts.base);
        let Some(told) = self.story.told_at(last.base).filter(is_whole) else { return Ok(()) };
        let mut sent = told.bytes.clone();
        place(&mut sent, 0, -1);
        if told.horizon.is_some() || last.sequences.is_none() {
            return Ok(());
        }
        let appended: Appended = self.log()?.append(sent, self.client()).map_err(|e| self.append_trouble(e))?;
        let answer = (appended.is_duplicate(), appended.base_offset().value(), appended.end().value());
        if answer == (true, last.base, last.next) {
            return Ok(());
        }
        Err(Trouble::Wrong(format!("batch {}..{} sent again: {answer:?}", last.base, last.next)))
    }

    fn out_of_order(&mut self, producer: i64, writes: &Writes) -> Result<(), Trouble> {
        if self.known(producer).is_none_or(|known| known.batches.is_empty()) {
            return Ok(());
        }
        let next = self.next(producer, false, false);
        let sent = self.data(&Next { sequence: plus(next.sequence, 2), ..next }, writes);
        match self.log()?.append(sent, self.client()) {
            Err(AppendError::Producer(refused))
                if matches!(refused.cause, ProducerFault::OutOfOrderSequence { .. }) =>
            {
                Ok(())
            }
            Err(AppendError::Failed(e)) => Err(Trouble::Latched(e.to_string())),
            answer => Err(Trouble::Wrong(format!("a sequence was left out, and the answer is {answer:?}"))),
        }
    }

    // Marks and cuts.

    fn replicate(&mut self, back: i64) -> Result<(), Trouble> {
        if self.config.high_watermark != HighWatermarkMode::Embedder {
            return Ok(());
        }
        let to = (self.story.end - back).max(self.story.start);
        self.log()?.advance_high_watermark(offset(to)).map_err(from_change)?;
        self.high_watermark = self.high_watermark.max(to);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        let end = self.log()?.flush().map_err(|e| match e {
            alluvium::DurabilityError::Failed(e) => Trouble::Latched(e.to_string()),
            e => Trouble::Wrong(e.to_string()),
        })?;
        self.durable = self.durable.max(end.value());
        Ok(())
    }

    fn raise_start(&mut self, back: i64) -> Result<(), Trouble> {
        let to = (self.story.end - back).max(self.story.start);
        let to = to.min(self.log()?.marks().high_watermark.value());
        self.maybe_start = Some(to);
        let raised = self.log()?.advance_log_start(offset(to)).map_err(from_change)?;
        self.maybe_start = None;
        self.story.start = raised.value();
        if raised.value() == to { Ok(()) } else { Err(Trouble::Wrong(format!("log start {raised}, not {to}"))) }
    }

    fn truncate(&mut self, to: i64) -> Result<(), Trouble> {
        self.maybe_cut = Some(to);
        // Snapshots past the cut go, and so may the only batch that told of a producer.
        self.story.has_lost_snapshots |= self.story.upper() > 0 || self.story.start > 0;
        let end = self.log()?.truncate_to(offset(to)).map_err(from_change)?.value();
        self.maybe_cut = None;
        self.durable = self.durable.min(end);
        self.high_watermark = self.high_watermark.min(end);
        let last = self.story.told.iter().rfind(|batch| batch.facts.next <= to).map_or(0, |batch| batch.facts.next);
        // Cleaning may have removed the batches before the cut.
        if to < self.story.end && (end > to || end < last.min(self.story.start)) {
            return Err(Trouble::Wrong(format!("cut at {to} ends at {end}, the last batch told at {last}")));
        }
        self.story.cut(end);
        self.settle_as_allowed()
    }

    /// Where less may be known of producers than was told, finds out what is.
    pub(crate) fn settle_as_allowed(&mut self) -> Result<(), Trouble> {
        if self.story.has_lost_snapshots { self.settle(Snapshots::Some).map_err(Trouble::Wrong) } else { Ok(()) }
    }

    /// What is gone may not come back, and what was superseded by what is cut may be gone.
    fn adopt_found(&mut self) -> Result<(), Trouble> {
        let found = judge::everything(self.log()?).map_err(Trouble::Wrong)?;
        self.story.forget_all_but(found);
        Ok(())
    }

    // Cleaning.

    /// The first offset that nobody may clean, by the format's rules. Of what may be durable or not, everything below
    /// `durable` is.
    fn first_uncleanable(&self, durable: i64) -> Result<i64, Trouble> {
        let log = self.log()?;
        let high_watermark = match self.config.high_watermark {
            HighWatermarkMode::LogEnd => self.story.end,
            HighWatermarkMode::DurableEnd => durable.max(log.durable_end().value()),
            HighWatermarkMode::Embedder => self.high_watermark.max(self.story.start),
        };
        let stable = self.story.naive().last_stable(self.story.start, high_watermark);
        let active = self.active_base()?;
        let lag = self.config.min_compaction_lag_ms.cast_signed();
        let young = |timestamp: i64| lag > 0 && timestamp > self.now() - lag;
        let mut records = self.story.told.iter().flat_map(|batch| &batch.records);
        let first_young = records.find(|record| young(record.timestamp)).map_or(i64::MAX, |record| record.offset);
        Ok(stable.min(active).min(first_young))
    }

    fn active_base(&self) -> Result<i64, Trouble> {
        Ok(self.log()?.segment_files().last().and_then(|path| base_of(path)).unwrap_or(0))
    }

    /// Where the segment begins that reaches past the high watermark, and may be cut: it is replaced as a whole or not at all.
    fn first_not_replicated(&self) -> Result<i64, Trouble> {
        if self.config.high_watermark != HighWatermarkMode::Embedder {
            return Ok(i64::MAX);
        }
        let bases: Vec<i64> = self.log()?.segment_files().iter().filter_map(|path| base_of(path)).collect();
        let ends = bases.iter().skip(1).copied().chain([self.story.end]);
        let reaching = bases.iter().zip(ends).find(|(_, end)| *end > self.high_watermark);
        Ok(reaching.map_or(i64::MAX, |(base, _)| *base))
    }

    /// Cleans, and judges what is left.
    pub(crate) fn clean(&mut self, memory: u64) -> Result<Cleaned, Trouble> {
        let upper = self.first_uncleanable(self.story.end)?.max(self.story.start);
        // A cleaning makes durable what it needs, and perhaps more.
        let least = self.first_uncleanable(self.active_base()?)?.min(self.first_not_replicated()?);
        let before = if self.is_watchful { Some(standing::Told::by(self.log()?)) } else { None };
        let (at, kept) = (self.now(), self.story.cleanings.len());
        self.story.cleanings.push(Cleaning { at, by: at, upper, is_done: false });
        let cleaned = self.log()?.clean(&self.options.clone().with_memory(memory));
        let cleaned = cleaned.map_err(|error| match error {
            CleanError::Log(ChangeError::Failed(e)) => Trouble::Latched(e.to_string()),
            error @ (CleanError::Io(_) | CleanError::Space { .. } | CleanError::Log(ChangeError::Io(_))) => {
                Trouble::Refused(error.to_string())
            }
            error => Trouble::Wrong(format!("clean: {error}")),
        })?;
        if cleaned.passes == 0 {
            self.story.cleanings.truncate(kept);
        } else {
            self.note_done(kept, &cleaned)?;
            // Partial passes follow one another, and each may find passed what one before it put down.
            let done = self.story.cleanings[kept];
            self.story.cleanings.extend((1..cleaned.passes).map(|_| done));
        }
        self.check_figures(&cleaned, memory, least)?;
        self.cleaned.push(cleaned.clone());
        if let Some(before) = before {
            self.judge().map_err(|what| Trouble::Wrong(format!("after {cleaned:?}: {what}")))?;
            before.is_said_by(self.log()?).map_err(Trouble::Wrong)?;
        }
        Ok(cleaned)
    }

    /// The cleaning at `index` is done; one that was resumed has the time of the one that was interrupted.
    fn note_done(&mut self, index: usize, cleaned: &Cleaned) -> Result<(), Trouble> {
        let cleanings = &mut self.story.cleanings;
        let interrupted = cleanings.iter().rposition(|cleaning| cleaning.is_done).map_or(0, |at| at + 1);
        let first = if cleaned.resumed { interrupted } else { index };
        let (at, by) = (cleanings[index].at, cleanings[first].at);
        let upper_max = cleanings[first..=index].iter().map(|tried| tried.upper).max().unwrap_or(0);
        let upper = cleaned.upper.value();
        cleanings[index] = Cleaning { at, by, upper, is_done: true };
        if upper <= upper_max {
            return Ok(());
        }
        Err(Trouble::Wrong(format!("cleaned up to {upper}, past {upper_max}: {cleaned:?}")))
    }

    fn check_figures(&self, cleaned: &Cleaned, memory: u64, upper: i64) -> Result<(), Trouble> {
        let mut wrong = Vec::new();
        // One batch of any size has to be held, as it was and as it becomes.
        let largest = self.story.told.iter().map(|batch| batch.bytes.len() as u64).max().unwrap_or(0);
        let room = if largest > memory / 16 { 2 * largest } else { 0 };
        if cleaned.memory_peak > memory + room {
            wrong.push("more memory than it was given");
        }
        if cleaned.upper < cleaned.first_dirty {
            wrong.push("the first dirty offset fell");
        }
        let is_bounded = self.options.upper.is_some() || cleaned.resumed || !cleaned.left_alone.is_empty();
        let has_lag = self.config.min_compaction_lag_ms > 0;
        if cleaned.upper.value() < upper && !is_bounded && !has_lag {
            wrong.push("it stopped before the first uncleanable offset");
        }
        if cleaned.records_kept > cleaned.records_read {
            wrong.push("more records kept than read");
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Trouble::Wrong(format!("{wrong:?}, {upper}: {cleaned:?}, {:?}", self.log()?.marks())))
        }
    }

    /// Holds the log to its story.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("no log is open")?;
        judge::judge(log, &self.story)
    }

    fn observe(&mut self) -> Result<(), Trouble> {
        let marks = self.log()?.marks();
        let told = (marks.log_start.value(), marks.log_end.value());
        if told != (self.story.start, self.story.end) {
            return Err(Trouble::Wrong(format!("{marks:?} in a log {}..{}", self.story.start, self.story.end)));
        }
        self.durable = self.durable.max(marks.durable_end.value());
        if self.is_watchful {
            standing::compare(self.log()?, &self.story).map_err(Trouble::Wrong)?;
        }
        Ok(())
    }

    fn close_and_open(&mut self) -> Result<(), Trouble> {
        let closed = self.log()?.close();
        if closed.is_ok() {
            self.durable = self.story.end;
            if self.is_watchful {
                standing::check_files(&self.fs, &self.config).map_err(Trouble::Wrong)?;
            }
        }
        self.reopen()?;
        closed.map_err(from_change)
    }

    fn forget_snapshots(&mut self) -> Result<(), Trouble> {
        // What was deleted from the front of a log is told by snapshots alone.
        if self.story.start > 0 {
            return self.close_and_open();
        }
        self.log()?.close().map_err(from_change)?;
        self.durable = self.story.end;
        self.story.has_lost_snapshots = true;
        self.snapshots = Snapshots::None;
        self.log = None;
        let entries = self.fs.list(Path::new(DIR)).map_err(|e| Trouble::Wrong(e.to_string()))?;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(".snapshot")) {
            let path = Path::new(DIR).join(&entry.name);
            self.fs.remove_file(&path).map_err(|e| Trouble::Wrong(e.to_string()))?;
        }
        self.reopen()
    }
}

fn identity(producer: i64, epoch: i16) -> (ProducerId, ProducerEpoch) {
    (ProducerId::new(producer).unwrap(), ProducerEpoch::new(epoch).unwrap())
}

fn base_of(path: &Path) -> Option<i64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// A batch of one record that no other has a key of, for a world that needs something new at its end.
pub(crate) fn unlike_others(id: u64) -> CleanOp {
    let write = super::script::Write {
        key: Some(1_000_000 + u32::try_from(id % 1_000_000).unwrap()),
        value: Some((u64::MAX / 2 + id, 3)),
        shift_ms: 0,
        has_header: false,
    };
    CleanOp::Put(Writes { records: vec![write], codec: Compression::None })
}
