//! Runs a workload on a simulated machine and keeps the history of what was promised.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use alluvium::clock::ManualClock;
use alluvium::fs::sim::SimFs;
use alluvium::{
    AppendAs, AppendError, Appended, ChangeError, Deadline, DurabilityError, Durable, Environment, Fetched, LogConfig,
    OpenError, PartitionLog, ReadOptions, TimestampType,
};

use super::batches::{BatchPlan, StoredBatch, epoch, offset};
use super::history::{Ending, History};
use super::reading;
use super::standing;
use super::transactions::Guards;
use super::workload::{Op, Who, Workload};

/// The partition's directory. Neither it nor the one above it is there before the first opening.
pub(crate) const DIR: &str = "/data/orders-0";
/// Of the first leader.
const EPOCH: i32 = 3;
const WALL_START: i64 = 1_700_000_000_000;

/// Why a run did not go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The machine died.
    Crash,
    /// The log latched.
    Latched(String),
    /// The call failed and changed nothing.
    Refused(String),
    /// Something happened that must not happen.
    Wrong(String),
}

/// Slices that are held, and what they showed.
struct Held {
    fetched: Fetched,
    bytes: Vec<u8>,
}

/// A machine with a log on it.
pub(crate) struct Runner {
    pub(crate) fs: SimFs,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) config: LogConfig,
    pub(crate) log: Option<PartitionLog>,
    pub(crate) history: History,
    /// What an opening in this world may find: less than everything cached, if a failed sync threw pages away.
    pub(crate) ending: Ending,
    /// Epoch of the leader.
    pub(crate) leader_epoch: i32,
    pub(crate) guards: Guards,
    /// Whether what the log says of itself is compared after every operation. Not where a run is repeated, up to a
    /// crash, that was watched before.
    pub(crate) is_watchful: bool,
    pub(super) last: Option<Appended>,
    /// Whether a truncation cut off the newest append.
    pub(super) is_last_cut: bool,
    futures: Vec<Durable>,
    held: Vec<Held>,
}

/// Opens the log on `fs`.
pub(crate) fn open(fs: &SimFs, clock: &Arc<ManualClock>, config: &LogConfig) -> Result<PartitionLog, OpenError> {
    let environment = Environment { fs: Arc::new(fs.clone()), clock: Arc::<ManualClock>::clone(clock) };
    environment.open(DIR, config.clone())
}

pub(crate) fn new_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(WALL_START))
}

impl Runner {
    pub(crate) fn new(fs: SimFs, config: LogConfig) -> Self {
        let (clock, history) = (new_clock(), History::default());
        let (last, futures, held) = (None, Vec::new(), Vec::new());
        Self {
            fs,
            clock,
            config,
            log: None,
            history,
            ending: Ending::Kill,
            leader_epoch: EPOCH,
            guards: Guards::default(),
            is_watchful: true,
            last,
            is_last_cut: false,
            futures,
            held,
        }
    }

    /// Opens the log and runs all operations; stops at the first trouble and says at which.
    pub(crate) fn run(&mut self, workload: &Workload) -> Result<(), (usize, Trouble)> {
        self.reopen().map_err(|trouble| (0, trouble))?;
        for (index, op) in workload.ops.iter().enumerate() {
            self.apply(op).map_err(|trouble| (index, trouble))?;
        }
        Ok(())
    }

    /// Runs one operation.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Trouble> {
        let outcome = self.call(op);
        if self.fs.is_crashed() {
            return match outcome {
                Err(Trouble::Wrong(what)) => Err(Trouble::Wrong(what)),
                _ => Err(Trouble::Crash),
            };
        }
        outcome?;
        self.observe()
    }

    fn call(&mut self, op: &Op) -> Result<(), Trouble> {
        match op {
            Op::Append { who, batches } => self.append(*who, batches),
            Op::Produce(produce) => self.produce(produce),
            Op::End(end) => self.end_transaction(*end),
            Op::Verify { producer } => self.verify(*producer),
            Op::NewLeader { is_announced } => self.new_leader(*is_announced),
            Op::Replicate { back } => self.replicate(*back),
            Op::WaitLast => self.wait_last(),
            Op::KeepFuture => {
                self.futures.extend(self.last.as_ref().map(Appended::durable));
                self.poll_futures()
            }
            Op::Flush => {
                let end = self.log()?.flush().map_err(from_durability)?;
                self.history.acknowledge_durable(end.value());
                Ok(())
            }
            Op::Tick { ms } => {
                self.clock.advance(Duration::from_millis(*ms));
                self.log()?.tick().map_err(from_change)?;
                self.poll_futures()
            }
            Op::Roll => self.log()?.roll().map(drop).map_err(from_change),
            Op::Truncate { back } => self.truncate((self.history.model.end - back).max(self.history.model.start)),
            Op::Restart { shift } => self.restart((self.history.model.end + shift).max(0)),
            Op::Hold { back } => self.hold((self.history.model.end - back).max(self.history.model.start)),
            Op::Release => self.release(),
            Op::SetFlush(flush) => {
                self.config.flush = flush.clone();
                let updated = self.log()?.update_config(self.config.clone());
                updated.map_err(|e| Trouble::Wrong(e.to_string()))
            }
            Op::CloseAndOpen => self.close_and_open(),
            Op::DropAndOpen => self.reopen(),
        }
    }

    pub(crate) fn log(&self) -> Result<&PartitionLog, Trouble> {
        self.log.as_ref().ok_or_else(|| Trouble::Wrong("no log is open".to_owned()))
    }

    /// What `batches` would be in the log, and the buffer to hand over.
    fn plan(&self, who: Who, batches: &[BatchPlan]) -> (Vec<StoredBatch>, Vec<u8>) {
        use alluvium::clock::Clock;
        let now = self.clock.wall().value();
        let gap = if let Who::Follower { gap } = who { gap } else { 0 };
        let mut next = self.history.model.end + gap;
        let (mut stored, mut bytes) = (Vec::new(), Vec::new());
        for plan in batches {
            let batch = plan.stored(now, next, self.leader_epoch);
            let is_given = matches!(who, Who::Follower { .. });
            bytes.extend(if is_given { batch.bytes.clone() } else { plan.build(now) });
            next = batch.next;
            let is_stamped = !is_given && self.config.message_timestamp_type == TimestampType::LogAppendTime;
            stored.push(if is_stamped { batch.stamped(now) } else { batch });
        }
        (stored, bytes)
    }

    pub(crate) fn append(&mut self, who: Who, batches: &[BatchPlan]) -> Result<(), Trouble> {
        let (stored, bytes) = self.plan(who, batches);
        if bytes.len() > self.config.segment_bytes as usize {
            return Ok(());
        }
        let origin = match who {
            Who::Client => AppendAs::Client { epoch: epoch(self.leader_epoch) },
            Who::Coordinator => AppendAs::Coordinator { epoch: epoch(self.leader_epoch) },
            Who::Follower { .. } => AppendAs::Follower,
        };
        let was_latched = self.log()?.health().failed.is_some();
        if !was_latched {
            self.history.maybe.clone_from(&stored);
        }
        match self.log()?.append(bytes, origin) {
            Ok(appended) => {
                let wanted = stored.first().map_or(0, |batch| batch.base);
                if appended.base_offset().value() != wanted {
                    return Err(Trouble::Wrong(format!("appended at {}, not {wanted}", appended.base_offset())));
                }
                self.history.appended(stored);
                (self.last, self.is_last_cut) = (Some(appended), false);
                Ok(())
            }
            Err(AppendError::Io(e)) => {
                if !self.fs.is_crashed() {
                    self.history.maybe.clear();
                }
                Err(Trouble::Refused(e.to_string()))
            }
            Err(AppendError::Failed(e)) => Err(Trouble::Latched(e.to_string())),
            Err(e) => Err(Trouble::Wrong(format!("append: {e}"))),
        }
    }

    fn wait_last(&mut self) -> Result<(), Trouble> {
        let Some(last) = &self.last else { return Ok(()) };
        let outcome = last.wait_durable(Deadline::NEVER);
        match outcome {
            Ok(()) if self.is_last_cut => Err(Trouble::Wrong("durable though it was cut off".to_owned())),
            Ok(()) => {
                let end = last.end().value();
                self.history.acknowledge_durable(end);
                Ok(())
            }
            Err(DurabilityError::Truncated { .. }) if self.is_last_cut => Ok(()),
            Err(e) => Err(from_durability(e)),
        }
    }

    fn poll_futures(&mut self) -> Result<(), Trouble> {
        let mut context = Context::from_waker(Waker::noop());
        let mut wrong = None;
        self.futures.retain_mut(|future| match std::pin::Pin::new(future).poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Ok(()) | Err(DurabilityError::Truncated { .. } | DurabilityError::Failed(_))) => false,
            Poll::Ready(Err(e)) => {
                wrong = Some(e.to_string());
                false
            }
        });
        wrong.map_or(Ok(()), |what| Err(Trouble::Wrong(what)))
    }

    fn truncate(&mut self, to: i64) -> Result<(), Trouble> {
        let before = self.history.clone();
        self.history.begin_cut(to);
        let wanted = self.history.model.cut_end(to);
        let is_cut = to < self.history.model.end;
        let outcome = self.log()?.truncate_to(offset(to));
        match outcome {
            Ok(end) if end.value() != wanted => Err(Trouble::Wrong(format!("cut at {to} ends at {end}, not {wanted}"))),
            Ok(_) => {
                self.history.finish_cut(to);
                self.is_last_cut |= self.last.as_ref().is_some_and(|last| last.end().value() > wanted);
                if is_cut {
                    self.guards.void();
                }
                Ok(())
            }
            Err(ChangeError::Io(e)) if !self.fs.is_crashed() => {
                self.history = before;
                Err(Trouble::Refused(e.to_string()))
            }
            Err(e) => Err(from_change(e)),
        }
    }

    fn restart(&mut self, at: i64) -> Result<(), Trouble> {
        let before = self.history.clone();
        self.history.begin_restart(at);
        match self.log()?.truncate_fully_and_start_at(offset(at)) {
            Ok(()) => {
                self.history.finish_restart(at);
                self.guards.void();
                self.is_last_cut = true;
                Ok(())
            }
            Err(ChangeError::Io(e)) if !self.fs.is_crashed() => {
                self.history = before;
                Err(Trouble::Refused(e.to_string()))
            }
            Err(e) => Err(from_change(e)),
        }
    }

    fn hold(&mut self, from: i64) -> Result<(), Trouble> {
        let fetched = self.log()?.read(offset(from), &ReadOptions::default());
        let fetched = fetched.map_err(|e| self.unless_crashed(format!("read at {from}: {e}")))?;
        let bytes = fetched.read().map_err(|e| self.unless_crashed(e.to_string()))?;
        self.held.push(Held { fetched, bytes });
        Ok(())
    }

    fn release(&mut self) -> Result<(), Trouble> {
        for Held { fetched, bytes } in std::mem::take(&mut self.held) {
            let now = fetched.read().map_err(|e| self.unless_crashed(format!("a held slice: {e}")))?;
            if now != bytes {
                return Err(Trouble::Wrong("a held slice shows other bytes than before".to_owned()));
            }
        }
        Ok(())
    }

    /// What went wrong, unless that is no wonder.
    fn unless_crashed(&self, what: String) -> Trouble {
        if self.fs.is_crashed() { Trouble::Crash } else { Trouble::Wrong(what) }
    }

    fn close_and_open(&mut self) -> Result<(), Trouble> {
        let was_latched = self.log()?.health().failed.is_some();
        let closed = self.log()?.close();
        let mut standing = self.history.standing.clone();
        if closed.is_ok() {
            let end = self.history.model.end;
            // Epochs that begin at the end are forgotten by every opening.
            standing.cut(end);
            self.history.acknowledge_durable(end);
        } else if !was_latched && !self.fs.is_crashed() {
            return Err(closed.map_err(from_change).expect_err("it failed"));
        }
        self.reopen()?;
        let report = self.log()?.recovery_report();
        if closed.is_ok() && !report.was_clean {
            return Err(Trouble::Wrong(format!("not clean after a close: {:?}", report.findings)));
        }
        let now = &self.history.standing;
        if closed.is_ok() && !now.says_as(&standing, &self.history.model) {
            return Err(Trouble::Wrong(format!("{now:?} after a close, not {standing:?}")));
        }
        Ok(())
    }

    /// Lets go of the log as a dying process would.
    pub(crate) fn let_go(&mut self) {
        (self.log, self.last) = (None, None);
        self.futures.clear();
        self.held.clear();
    }

    /// Drops the log, if there is one, and opens it again in the same world.
    ///
    /// Slices are let go of first: they pin the bytes against the log that gave them, not against the next one.
    pub(crate) fn reopen(&mut self) -> Result<(), Trouble> {
        if self.ending == Ending::Kill {
            self.release()?;
        }
        self.let_go();
        let log = open(&self.fs, &self.clock, &self.config).map_err(|e| Trouble::Refused(format!("open: {e}")))?;
        let found = reading::contents(&log).map_err(|what| self.unless_crashed(format!("after opening: {what}")))?;
        self.guards.void();
        self.history.judge(&found, self.ending).map_err(|what| Trouble::Wrong(format!("after opening: {what}")))?;
        let standing = self.history.standing_of(&found).adopt(&log, &found);
        let standing = standing.map_err(|what| Trouble::Wrong(format!("after opening: {what}")))?;
        self.history.adopt(found, standing);
        self.log = Some(log);
        Ok(())
    }

    /// What the marks say is a promise too.
    fn observe(&mut self) -> Result<(), Trouble> {
        let marks = self.log()?.marks();
        let (durable, end) = (marks.durable_end.value(), marks.log_end.value());
        let model = &self.history.model;
        if (marks.log_start.value(), end) != (model.start, model.end) {
            return Err(Trouble::Wrong(format!("{marks:?} in a log from {} to {}", model.start, model.end)));
        }
        if durable < self.history.durable {
            return Err(Trouble::Wrong(format!("durable end fell from {} to {durable}", self.history.durable)));
        }
        self.history.acknowledge_durable(durable);
        if self.is_watchful {
            let told = standing::compare(self.log()?, &self.history.model, &self.history.standing);
            told.map_err(Trouble::Wrong)?;
        }
        Ok(())
    }
}

fn from_durability(error: DurabilityError) -> Trouble {
    match error {
        DurabilityError::Failed(failed) => Trouble::Latched(failed.to_string()),
        other => Trouble::Wrong(other.to_string()),
    }
}

pub(crate) fn from_change(error: ChangeError) -> Trouble {
    match error {
        ChangeError::Failed(failed) => Trouble::Latched(failed.to_string()),
        ChangeError::Io(e) => Trouble::Refused(e.to_string()),
        other => Trouble::Wrong(other.to_string()),
    }
}

/// Path of the partition's directory.
pub(crate) fn dir() -> PathBuf {
    Path::new(DIR).to_path_buf()
}
