//! A commit round in its parts: what is unsynced is captured, synced, and answered. [`LogCore::sync_under`] does one
//! after the other for one log; a flusher of many does each part for all of them, with one call for all the syncs.
//!
//! Order: what a round syncs may become durable in any order, and a crash may leave any part of it. That is no other
//! state than the page cache leaves when it writes back by itself: recovery ends the log at the first gap. What counts
//! is that nothing is acknowledged before all of the round is durable, that a round takes everything sealed before
//! its active file, and that the rounds of a log come one after the other: a segment is made durable before its
//! successor or together with it.
//!
//! Rounds of several logs at once: one thread holds their round locks, each taken without waiting. A log whose lock is
//! taken (it is being synced, cut or closed by somebody else) is left out. While it holds them the thread waits for
//! writers, views and queues of logs, whose holders never wait for a round; see [`Mutex::try_lock_beside`].
//!
//! [`Mutex::try_lock_beside`]: crate::sync::Mutex::try_lock_beside

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::derived::PendingSnapshot;
use super::writer::{Refusal, Unsealed, Writer};
use super::{LogCore, PartitionLog, RoundState};
use crate::commit::{Unsynced, due_at, is_due};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{File, FileSystem, SyncItem};
use crate::index::LeaderEpochs;
use crate::segment::{Home, Segment};
use crate::sync::MutexGuard;
use crate::units::Offset;

/// The active file while it has unsynced bytes, and its segment.
type DirtyFile = (Arc<dyn File>, Arc<Segment>);

/// What one round has to make durable.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) unsealed: Vec<Unsealed>,
    active: Option<DirtyFile>,
    names: bool,
    pub(super) end: Offset,
    pub(super) high_watermark: Offset,
    unsynced: Unsynced,
    /// Producer snapshots taken since the last round.
    pub(super) snapshots: Vec<PendingSnapshot>,
    /// The leader epochs, where they changed.
    pub(super) epochs: Option<LeaderEpochs>,
}

impl Target {
    /// Cuts off zeros kept ahead, since sealed segments end where their batches end.
    fn trim(&self) -> Result<(), IoFailure> {
        self.unsealed.iter().try_for_each(|unsealed| unsealed.trim().map(drop))
    }

    /// What is to be synced, oldest segment first. Without its name a synced file is lost with everything in it.
    fn items<'a>(&'a self, home: &'a Home) -> impl Iterator<Item = SyncItem> + 'a {
        let sealed = self.unsealed.iter().map(|unsealed| SyncItem::File(Arc::clone(&unsealed.file)));
        let active = self.active.iter().map(|(file, _)| SyncItem::File(Arc::clone(file)));
        let names = self.names.then(|| SyncItem::Names(home.dir.to_path_buf()));
        sealed.chain(active).chain(names)
    }

    /// How many items there are.
    fn len(&self) -> usize {
        self.unsealed.len() + usize::from(self.active.is_some()) + usize::from(self.names)
    }

    /// The failure of the item at `at`.
    fn failure(&self, at: usize, home: &Home, error: io::Error) -> IoFailure {
        let sealed = self.unsealed.iter().map(|unsealed| &unsealed.segment);
        let segment = sealed.chain(self.active.iter().map(|(_, segment)| segment)).nth(at);
        let path = segment.map_or_else(|| home.dir.to_path_buf(), |segment| segment.log_path());
        IoFailure::new(IoOperation::Sync, path, error)
    }

    /// Takes this target's share of the answers; the first failure is that of the round.
    fn judge(&self, home: &Home, answers: &mut dyn Iterator<Item = io::Result<()>>) -> Result<(), IoFailure> {
        let mut judged = Ok(());
        // All of its answers, also after a failure: the next ones are for somebody else.
        for at in 0..self.len() {
            let answer = answers.next().unwrap_or_else(|| Err(io::Error::other("the sync gave no answer")));
            if let (Err(error), true) = (answer, judged.is_ok()) {
                judged = Err(self.failure(at, home, error));
            }
        }
        judged
    }
}

/// How far a round has come: what is to be done if it is given up, by a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Captured,
    /// The keeper knows of it.
    Begun,
    /// The system may have told of a failed write-back, and nobody has heard it.
    Syncing,
    Answered,
}

/// A target on its way. If it is dropped before it is answered, nothing of it is forgotten.
#[derive(Debug)]
pub(super) struct Captured<'a> {
    core: &'a LogCore,
    /// Taken out when it is answered.
    target: Option<Target>,
    stage: Stage,
}

/// What a capture found.
pub(super) enum Capture<'a> {
    /// Everything below the log end is durable.
    Nothing(Offset),
    Unsynced(Captured<'a>),
}

impl LogCore {
    /// Takes over what is unsynced. The round is locked.
    pub(super) fn capture(&self) -> Result<Capture<'_>, Refusal> {
        let mut writer = self.writer.lock();
        writer.check_open()?;
        if !writer.needs_sync() {
            let end = writer.log_end;
            drop(writer);
            self.answer_the_forgotten();
            return Ok(Capture::Nothing(end));
        }
        let active = self.take_dirty(&mut writer)?;
        let target = Target {
            unsynced: std::mem::take(&mut writer.unsynced),
            unsealed: writer.unsealed.clone(),
            active,
            names: std::mem::take(&mut writer.names_changed),
            end: writer.log_end,
            high_watermark: self.view.read().marks.high_watermark,
            snapshots: writer.derived.pending.drain(..).collect(),
            epochs: std::mem::take(&mut writer.derived.epochs_changed).then(|| writer.derived.epochs.clone()),
        };
        Ok(Capture::Unsynced(Captured { core: self, target: Some(target), stage: Stage::Captured }))
    }

    /// Whoever waits although everything is durable was forgotten by a round that panicked after its sync. The round is
    /// locked, so that no truncation comes between.
    fn answer_the_forgotten(&self) {
        if self.queue.has_waiters() {
            self.queue.raise(self.view.read().marks.durable_end);
        }
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

    /// Undoes a capture.
    fn put_back(&self, target: Target) {
        let mut writer = self.writer.lock();
        // What was sealed since is among the unsealed.
        writer.is_dirty |= target.active.is_some_and(|(_, segment)| Arc::ptr_eq(&segment, &writer.active));
        writer.names_changed |= target.names;
        writer.derived.epochs_changed |= target.epochs.is_some();
        for snapshot in target.snapshots.into_iter().rev() {
            writer.derived.pending.push_front(snapshot);
        }
        let newer = std::mem::take(&mut writer.unsynced);
        writer.unsynced = Unsynced {
            records: newer.records.saturating_add(target.unsynced.records),
            bytes: newer.bytes.saturating_add(target.unsynced.bytes),
            since: target.unsynced.since.or(newer.since),
            sealed: newer.sealed || target.unsynced.sealed,
        };
    }
}

impl Captured<'_> {
    /// Leaves the warning that a sync is in flight, and does what comes before it.
    fn begin(&mut self) -> Result<(), IoFailure> {
        self.core.keeper.begin()?;
        self.stage = Stage::Begun;
        self.target.iter().try_for_each(Target::trim)
    }

    /// Syncs it all.
    pub(super) fn make_durable(&mut self) -> Result<(), IoFailure> {
        self.begin()?;
        let Some(target) = &self.target else { return Ok(()) };
        self.stage = Stage::Syncing;
        let home = &self.core.home;
        match &target.active {
            // As nearly every round is.
            Some((file, _)) if target.len() == 1 => file.sync_data().map_err(|e| target.failure(0, home, e)),
            _ => {
                let items: Vec<SyncItem> = target.items(home).collect();
                target.judge(home, &mut home.fs.sync_many(&items).into_iter())
            }
        }
    }

    /// Answers who waits: with the new durable end, or with the failure, which latches the log.
    pub(super) fn answer(mut self, synced: Result<(), IoFailure>) -> Result<Target, Refusal> {
        let core = self.core;
        if let Err(cause) = synced {
            self.stage = Stage::Answered;
            return Err(Refusal::Failed(core.latch(&mut core.writer.lock(), cause)));
        }
        // It is known to be durable. Should a waker panic, the next round does it again and answers the rest.
        self.stage = Stage::Begun;
        let published = self.target.as_ref().map_or(Ok(()), |target| core.publish_durable(target));
        self.stage = Stage::Answered;
        published?;
        core.metrics.sync_rounds.add(1);
        self.target.take().ok_or(Refusal::Closed)
    }
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        let (core, stage) = (self.core, self.stage);
        let Some(target) = self.target.take() else { return };
        // It may be a panic that ends the round, and wakers, which are somebody else's code, may panic once more.
        let _ = catch_unwind(AssertUnwindSafe(|| match stage {
            Stage::Answered => {}
            Stage::Captured => core.put_back(target),
            Stage::Begun => {
                core.put_back(target);
                let finished = core.keeper.finish(None);
                core.metrics.side_file_failures.add(u64::from(finished.is_err()));
            }
            Stage::Syncing => {
                let unknown = io::Error::other("a panic during the sync left its outcome unknown");
                let cause = target.failure(0, &core.home, unknown);
                core.latch(&mut core.writer.lock(), cause);
            }
        }));
    }
}

/// What a flusher of many logs wants to know of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// So many wait.
    pub(crate) waiting: u32,
    /// For so long a round waits for company, at most, and until so many wait.
    pub(crate) linger: Duration,
    pub(crate) max_waiting: u32,
    /// The policy asks for a sync, whoever waits.
    pub(crate) is_due: bool,
    /// When it will, if nothing else happens.
    pub(crate) due_at: Option<Duration>,
}

/// A log as one of those that a flusher makes durable together.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    core: Arc<LogCore>,
}

/// What came of the beginning of a round.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, at once; a box would be an allocation for each log of a round"
)]
pub(crate) enum Attempt<'a> {
    /// Somebody else is making it durable, or cuts it: to be tried again soon.
    Busy,
    /// Nothing is unsynced.
    Idle,
    /// Nothing will be synced.
    Refused(Refusal),
    /// Its files are ready to be synced.
    Begun(Part<'a>),
}

/// One log's part in a round, from its beginning until its side files are kept. Holds the log's round.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    core: &'a LogCore,
    captured: Option<Captured<'a>>,
    answered: Option<Target>,
    is_waited_for: bool,
    round: MutexGuard<'a, RoundState>,
}

impl PartitionLog {
    /// The log for a flusher of many.
    pub(crate) fn member(&self) -> Member {
        Member { core: Arc::clone(&self.core) }
    }
}

impl Member {
    /// Whether the log waits for a round, at monotonic time `now`.
    pub(crate) fn look(&self, now: Duration) -> Look {
        let core = &*self.core;
        // First, before the writer: see `DueQueue`.
        let waiting = core.queue.waiting();
        let flush = Arc::clone(&core.config.read());
        let flush = &flush.flush;
        let unsynced = {
            let writer = core.writer.lock();
            if writer.check_open().is_err() {
                return Look::default();
            }
            writer.unsynced
        };
        Look {
            waiting,
            linger: flush.linger,
            max_waiting: flush.max_waiting,
            is_due: is_due(flush, &unsynced, now),
            due_at: due_at(flush, &unsynced),
        }
    }

    /// Whether its files are on `fs`.
    pub(crate) fn is_on(&self, fs: &Arc<dyn FileSystem>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.core.home.fs), Arc::as_ptr(fs))
    }

    /// The file system that it is on.
    pub(crate) fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.core.home.fs
    }

    /// Begins a round. Waits for no other round; the thread may hold those of other logs.
    pub(crate) fn begin(&self) -> Attempt<'_> {
        let core = &*self.core;
        let Some(round) = core.round.try_lock_beside() else { return Attempt::Busy };
        let is_waited_for = core.queue.has_waiters();
        let mut captured = match core.capture() {
            Ok(Capture::Unsynced(captured)) => captured,
            Ok(Capture::Nothing(_)) => return Attempt::Idle,
            Err(refusal) => return Attempt::Refused(refusal),
        };
        match captured.begin() {
            Ok(()) => Attempt::Begun(Part { core, captured: Some(captured), answered: None, is_waited_for, round }),
            Err(failure) => match captured.answer(Err(failure)) {
                Ok(_) => Attempt::Idle,
                Err(refusal) => Attempt::Refused(refusal),
            },
        }
    }
}

impl Part<'_> {
    /// Adds what is to be synced. From here on the outcome must be told to [`Part::answer`]; a part that is dropped
    /// before that latches its log.
    pub(crate) fn add_items(&mut self, items: &mut Vec<SyncItem>) {
        if let Some(captured) = &mut self.captured {
            captured.stage = Stage::Syncing;
            items.extend(captured.target.iter().flat_map(|target| target.items(&self.core.home)));
        }
    }

    /// Takes the answers to its items and answers who waits.
    pub(crate) fn answer(&mut self, answers: &mut dyn Iterator<Item = io::Result<()>>) -> Result<(), Refusal> {
        let Some(captured) = self.captured.take() else { return Err(Refusal::Closed) };
        let synced = captured.target.iter().try_for_each(|target| target.judge(&self.core.home, answers));
        self.answered = Some(captured.answer(synced)?);
        Ok(())
    }

    /// Keeps what recovery starts from, and lets go of the round. Whoever waited was answered before: a failure is told
    /// to whoever comes next.
    pub(crate) fn finish(mut self) -> Result<(), Refusal> {
        let Some(target) = self.answered.take() else { return Ok(()) };
        self.core.keep_side_files(&mut self.round, &target)?;
        if self.is_waited_for {
            self.core.maybe_zero_ahead();
        }
        Ok(())
    }
}
