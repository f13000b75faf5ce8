//! Commit rounds: capture what is unsynced, sync it in log order, raise the durable end, answer who waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::derived::{PendingSnapshot, write_epochs};
use super::writer::{Refusal, Unsealed, Writer};
use super::{LogCore, PartitionLog, RoundState};
use crate::clock::Deadline;
use crate::commit::{Enlisted, Ticket, due_at, is_due};
use crate::error::{ChangeError, DurabilityError, IoFailure, IoOperation};
use crate::fs::File;
use crate::index::LeaderEpochs;
use crate::segment::Segment;
use crate::units::Offset;

/// The recovery point file is written at least this often while syncs go on (Kafka's checkpoint interval).
const POINT_INTERVAL: Duration = Duration::from_mins(1);

/// A future of an append's durability. Dropping it costs the append nothing.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Durable {
    core: Arc<LogCore>,
    ticket: Ticket,
    enlisted: Option<Enlisted>,
}

impl Durable {
    pub(super) fn new(core: Arc<LogCore>, ticket: Ticket) -> Self {
        Self { core, ticket, enlisted: None }
    }
}

impl Future for Durable {
    type Output = Result<(), DurabilityError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.core.queue.poll(this.ticket, &mut this.enlisted, context)
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(enlisted) = self.enlisted.take() {
            self.core.queue.forget(enlisted);
        }
    }
}

/// The active file while it has unsynced bytes, and its segment.
type DirtyFile = (Arc<dyn File>, Arc<Segment>);

/// What one round has to make durable.
struct Target {
    unsealed: Vec<Unsealed>,
    active: Option<DirtyFile>,
    names: bool,
    end: Offset,
    high_watermark: Offset,
    /// Producer snapshots taken since the last round.
    snapshots: Vec<PendingSnapshot>,
    /// The leader epochs, where they changed.
    epochs: Option<LeaderEpochs>,
}

/// What [`PartitionLog::tick`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ticked {
    /// A segment was rolled because of its age.
    pub rolled: bool,
    /// Segments that retention took out of the log.
    pub deleted: usize,
    /// A commit round synced something.
    pub synced: bool,
    /// Monotonic time, on the log's clock, at which the flush policy will ask for a sync, if nothing else happens.
    pub next_due: Option<Duration>,
}

impl PartitionLog {
    /// Makes everything durable that was appended before the call; returns the durable end.
    ///
    /// # Errors
    /// [`DurabilityError::Failed`] when the sync fails (the log latches) and [`DurabilityError::Closed`].
    pub fn flush(&self) -> Result<Offset, DurabilityError> {
        let mut round = self.core.round.lock();
        Ok(self.core.sync_under(&mut round)?)
    }

    /// Blocks until everything below `end` survives a power loss.
    ///
    /// # Errors
    /// As [`Appended::wait_durable`](super::Appended::wait_durable); [`DurabilityError::PastEnd`] for what was never
    /// appended.
    pub fn wait_durable(&self, end: Offset, deadline: impl Into<Deadline>) -> Result<(), DurabilityError> {
        let log_end = self.log_end();
        if end > log_end {
            return Err(DurabilityError::PastEnd { wanted: end, log_end });
        }
        self.core.wait_durable(self.core.queue.ticket(end), deadline.into())
    }

    /// Closes the files that an idle log keeps open for its next append. That append opens them again, and is refused with
    /// nothing changed when it cannot. Returns whether it closed them: not while anything waits to be synced, a round or
    /// an append is in progress, or a reader holds a slice of the active file. Never waits.
    pub fn release_idle_files(&self) -> bool {
        self.core.release_active_file()
    }

    /// Does what time and policy ask for: rolls an old segment, deletes what retention no longer keeps, syncs what is due or waited for. For embedders that run
    /// no flusher; call it every few milliseconds to seconds, from one thread.
    ///
    /// # Errors
    /// [`ChangeError`]; a failed sync latches the log.
    pub fn tick(&self) -> Result<Ticked, ChangeError> {
        let config = self.config();
        let rolled = self.core.maybe_roll_by_time(&config)?;
        self.core.expire_producers();
        let now = self.core.clock.monotonic();
        let unsynced = self.core.writer.lock().unsynced;
        let wanted = self.core.queue.has_waiters();
        let synced = wanted || is_due(&config.flush, &unsynced, now);
        if synced {
            self.core.lead(&config, wanted)?;
        }
        // Last: what must become durable does not wait for space to be freed.
        let deleted = self.core.maybe_retain()?;
        let unsynced = self.core.writer.lock().unsynced;
        Ok(Ticked { rolled, deleted, synced, next_due: due_at(&config.flush, &unsynced) })
    }
}

impl LogCore {
    pub(super) fn wait_durable(&self, ticket: Ticket, deadline: Deadline) -> Result<(), DurabilityError> {
        self.queue.wait(ticket, deadline, || {
            let config = Arc::clone(&self.config.read());
            // Whatever came of it, the queue knows: the caller is answered from there.
            let _ = self.lead(&config, true);
        })
    }

    /// Runs one round, after waiting for company if the policy says so. `wanted`: somebody waits for it, be it the
    /// caller alone.
    fn lead(&self, config: &crate::config::LogConfig, wanted: bool) -> Result<Offset, Refusal> {
        if !config.flush.linger.is_zero() {
            self.queue.linger(config.flush.linger.into(), config.flush.max_waiting);
        }
        let mut round = self.round.lock();
        let end = self.sync_under(&mut round)?;
        if wanted {
            self.maybe_zero_ahead();
        }
        Ok(end)
    }

    /// One round. Appends go on meanwhile; what they bring is for the next one.
    pub(super) fn sync_under(&self, round: &mut RoundState) -> Result<Offset, Refusal> {
        let target = {
            let mut writer = self.writer.lock();
            writer.check_open()?;
            if !writer.needs_sync() {
                return Ok(writer.log_end);
            }
            writer.unsynced = crate::commit::Unsynced::default();
            Target {
                unsealed: writer.unsealed.clone(),
                active: self.take_dirty(&mut writer)?,
                names: std::mem::take(&mut writer.names_changed),
                end: writer.log_end,
                high_watermark: self.view.read().marks.high_watermark,
                snapshots: writer.derived.pending.drain(..).collect(),
                epochs: std::mem::take(&mut writer.derived.epochs_changed).then(|| writer.derived.epochs.clone()),
            }
        };
        if let Err(cause) = self.make_durable(&target) {
            return Err(Refusal::Failed(self.latch(&mut self.writer.lock(), cause)));
        }
        self.publish_durable(&target)?;
        self.metrics.sync_rounds.add(1);
        self.keep_side_files(round, &target)?;
        Ok(target.end)
    }

    /// The active file, if it has unsynced bytes, which it is about to have no more. One with such bytes is open.
    fn take_dirty(&self, writer: &mut Writer) -> Result<Option<DirtyFile>, Refusal> {
        if !writer.is_dirty {
            return Ok(None);
        }
        let file = match writer.open_file(&self.home) {
            Ok(file) => file,
            Err(failure) => return Err(Refusal::Failed(self.latch(writer, failure))),
        };
        writer.is_dirty = false;
        Ok(Some((file, Arc::clone(&writer.active))))
    }

    /// Closes what an idle log holds open for its next append and its next round: the active file and the sync state. Both
    /// are opened again when they are needed. `false`, with nothing closed, while anything is unsynced or in progress.
    pub(super) fn release_active_file(&self) -> bool {
        // Nobody is waited for: who holds these is at work.
        let Some(_round) = self.round.try_lock() else { return false };
        let Some(mut writer) = self.writer.try_lock() else { return false };
        if writer.needs_sync() || !writer.release_file() {
            return false;
        }
        self.keeper.release_file();
        true
    }

    /// Syncs the target, oldest segment first, so that durability stays a prefix.
    fn make_durable(&self, target: &Target) -> Result<(), IoFailure> {
        self.keeper.begin()?;
        for unsealed in &target.unsealed {
            unsealed.trim()?;
            unsealed.sync()?;
        }
        if let Some((file, segment)) = &target.active {
            file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, segment.log_path(), e))?;
        }
        if target.names {
            // Without its name a synced file is lost with everything in it.
            self.home.sync_names()?;
        }
        Ok(())
    }

    fn publish_durable(&self, target: &Target) -> Result<(), Refusal> {
        let mut writer = self.writer.lock();
        // A write was undone meanwhile, and its sync failed. The system tells of a failed write-back once, through
        // whichever sync asks first: this round's success says nothing then.
        writer.check_open()?;
        let is_done =
            |unsealed: &Unsealed| target.unsealed.iter().any(|done| Arc::ptr_eq(&done.segment, &unsealed.segment));
        for synced in writer.unsealed.extract_if(.., |unsealed| is_done(unsealed)) {
            synced.segment.allow_dropping();
        }
        let config = Arc::clone(&self.config.read());
        self.publish(&mut writer, &config, |view| {
            view.marks.durable_end = view.marks.durable_end.max(target.end);
        });
        self.wake(writer);
        self.queue.raise(target.end);
        Ok(())
    }

    /// Saves the indexes of what was sealed and what else recovery starts from, and then, after a roll or a minute, the
    /// recovery point. These are conveniences: when they cannot be written they are written later. Only a directory sync that fails latches, because it may
    /// have dropped the names of segments with it.
    fn keep_side_files(&self, round: &mut RoundState, target: &Target) -> Result<(), Refusal> {
        let now = self.clock.monotonic();
        let is_stale = now.saturating_sub(round.point_written) >= POINT_INTERVAL;
        let mut kept = self.save_derived(target);
        if kept.is_ok() {
            kept = target.unsealed.iter().try_for_each(|unsealed| unsealed.segment.save_index());
        }
        if kept.is_ok() && (is_stale || !target.unsealed.is_empty()) {
            kept = self.keeper.raise_recovery_point(target.end, target.high_watermark);
            round.point_written = now;
        }
        match kept {
            Err(failure) if failure.operation == IoOperation::Sync && *failure.path == *self.home.dir => {
                return Err(Refusal::Failed(self.latch(&mut self.writer.lock(), failure)));
            }
            kept => self.metrics.side_file_failures.add(u64::from(kept.is_err())),
        }
        // Not in doubt: everything that had to be synced was. If that cannot be written, the next opening writes more
        // than it need.
        let finished = self.keeper.finish(Some(target.end));
        self.metrics.side_file_failures.add(u64::from(finished.is_err()));
        Ok(())
    }
}

impl LogCore {
    /// Writes the leader epochs and the producer snapshots of the round. Epochs that cannot be written are kept for the
    /// next one, and the recovery point stays below them; a snapshot that is missing costs a longer replay.
    fn save_derived(&self, target: &Target) -> Result<(), IoFailure> {
        if let Some(epochs) = &target.epochs
            && let Err(failure) = write_epochs(&self.home, epochs)
        {
            self.writer.lock().derived.epochs_changed = true;
            return Err(failure);
        }
        let written = target.snapshots.iter().try_for_each(|snapshot| snapshot.write(&self.home));
        if written.is_err() {
            // Otherwise a close at the same offset would take it for written.
            self.writer.lock().derived.newest_snapshot = Offset::ZERO;
        }
        written
    }
}

impl Unsealed {
    /// Cuts off zeros kept ahead; returns whether there were any. The file is asked: zeros whose writing failed half-way
    /// are counted nowhere.
    pub(super) fn trim(&self) -> Result<bool, IoFailure> {
        let is_longer = self.file.size().map_err(|e| self.failure(IoOperation::Read, e))? > self.bytes;
        if is_longer {
            self.file.set_len(self.bytes).map_err(|e| self.failure(IoOperation::SetLen, e))?;
        }
        Ok(is_longer)
    }

    /// Syncs bytes and size.
    pub(super) fn sync(&self) -> Result<(), IoFailure> {
        self.file.sync_data().map_err(|e| self.failure(IoOperation::Sync, e))
    }

    fn failure(&self, operation: IoOperation, error: std::io::Error) -> IoFailure {
        IoFailure::new(operation, self.segment.log_path(), error)
    }
}

impl From<Refusal> for DurabilityError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(failed) => Self::Failed(failed),
            // A sealed log is synced as any other; nobody is refused a sync because of it.
            Refusal::Closed | Refusal::Sealed => Self::Closed,
        }
    }
}
