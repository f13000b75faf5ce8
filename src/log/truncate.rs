//! Truncation: cutting the tail, and starting anew at an offset. Both are durable when they return.
//!
//! Order matters at each step. The recovery point is lowered before anything is cut, or a crash would take the cut for
//! damage. Readers are shown the shorter log before bytes go. Later segments go before the cut one, and the cut is
//! synced before the log takes another append, or a crash could join new batches to old ones.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::derived::{Derived, Replay, producer_limits, write_epochs};
use super::state::{self, DamageList};
use super::view::LogView;
use super::writer::{ActiveFile, Unsealed, Writer};
use super::{LogCore, PartitionLog, RoundState};
use crate::commit::Marks;
use crate::error::{ChangeError, IoFailure, IoOperation, ReadError};
use crate::fs::{self, File, OpenMode};
use crate::index::{AbortedTxns, IndexCursor, LeaderEpochs, ProducerTable, SegmentIndex};
use crate::segment::{Extent, FileKind, Segment, SegmentFile, names};
use crate::sync::MutexGuard;
use crate::units::Offset;

impl PartitionLog {
    /// Cuts off everything at or past `offset`; returns the new log end. A batch that reaches past `offset` goes as a
    /// whole, and the log then ends where that batch began, or at the log start if that lies inside the batch. Durable
    /// when it returns.
    ///
    /// Slices handed out before go on showing the old bytes. Who still waits for the durability of what was cut is
    /// answered with `Truncated`.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] outside the log; a failure once the cut has begun latches the log.
    pub fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError> {
        let core = &self.core;
        // No round in flight: it could declare durable what is about to be cut.
        let mut round = core.round.lock();
        let mut writer = core.writer.lock();
        writer.check_writable()?;
        let view = core.view.read().clone();
        let (log_start, log_end) = (view.marks.log_start, view.marks.log_end);
        if offset < log_start || offset > log_end {
            return Err(ChangeError::OutOfRange { asked: offset, log_start, log_end });
        }
        if offset == log_end {
            // Who led and wrote nothing has an epoch that begins here. It is as little part of the log as what is cut,
            // and a follower that went on naming it would be told to cut for ever.
            if writer.derived.epochs.truncate_from_end(log_end) {
                writer.derived.epochs_changed = true;
                let config = Arc::clone(&core.config.read());
                core.publish(&mut writer, &config, |_| {});
            }
            return Ok(log_end);
        }
        let mut cut = core.plan(&view, offset)?;
        if cut.end < log_start {
            // The batch that holds the log start goes with the rest, and nothing that can be read is left.
            core.start_anew(&mut round, writer, log_start)?;
            return Ok(log_start);
        }
        let derived = core.derive_again(&mut writer, &view, &cut)?;
        // A view pins what it shows, and this one is not to be read from any more.
        drop(view);
        let is_held = Arc::strong_count(&cut.old) > 2 + writer.holds(&cut.old);
        // A receiver that is slow would be sent zeros, or what is appended next, from pages that it was given before.
        let is_pinned = is_held || cut.old.lent_bytes() > cut.kept;
        core.prepare(&mut writer, || {
            if is_pinned {
                cut.copy = Some(core.copy_aside(cut.old.base(), cut.kept)?);
            }
            let lowered = core.lower_clean_state(cut.end);
            let prepared = lowered.and_then(|()| core.keeper.prepare_cut(cut.end, None));
            if prepared.is_err() && is_pinned {
                // A copy that is left would have to be cleared away by the next opening, even after a clean close.
                core.drop_copy(cut.old.base());
            }
            prepared
        })?;
        let end = cut.end;
        writer.derived = derived;
        let cut = core.put_down_epochs(&mut writer).and_then(|()| core.cut(&mut writer, cut));
        match cut {
            Ok(()) => {
                core.wake(writer);
                Ok(end)
            }
            Err(failure) => Err(core.latch(&mut writer, failure).into()),
        }
    }

    /// Drops the whole log and starts an empty one at `offset`. Durable when it returns; a crash in between is finished
    /// by the next opening.
    ///
    /// # Errors
    /// [`ChangeError`]; a failure once the first file is gone latches the log.
    pub fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), ChangeError> {
        let core = &self.core;
        let mut round = core.round.lock();
        let writer = core.writer.lock();
        writer.check_writable()?;
        core.start_anew(&mut round, writer, offset)
    }
}

/// A cut that is worked out and not begun.
struct Cut {
    /// Which segment is cut; it becomes the active one.
    at: usize,
    old: Arc<Segment>,
    /// Bytes of it to keep.
    kept: u64,
    /// These bytes in a file of their own, synced, where the old one is pinned.
    copy: Option<Arc<dyn File>>,
    end: Offset,
    index: SegmentIndex,
    aborted: AbortedTxns,
    cursor: IndexCursor,
}

impl LogCore {
    /// Drops everything and starts an empty log at `offset`. The round is locked.
    fn start_anew(
        &self,
        round: &mut RoundState,
        mut writer: MutexGuard<'_, Writer>,
        offset: Offset,
    ) -> Result<(), ChangeError> {
        self.prepare(&mut writer, || {
            self.lower_clean_state(Offset::ZERO)?;
            self.keeper.prepare_cut(Offset::ZERO, Some(offset))
        })?;
        round.leaving.forget();
        let restarted = self
            .restart(&mut writer, offset)
            .and_then(|()| self.keeper.finish_restart(offset))
            .and_then(|()| self.keeper.finish(None));
        match restarted {
            Ok(()) => {
                self.wake(writer);
                Ok(())
            }
            Err(failure) => Err(self.latch(&mut writer, failure).into()),
        }
    }

    /// Works out where a cut at `offset` falls.
    fn plan(&self, view: &LogView, offset: Offset) -> Result<Cut, ChangeError> {
        let at = view.segment_of(offset);
        let old = view.segments.get(at).cloned().ok_or(ChangeError::Closed)?;
        let extent = view.extent_of(at)?;
        let (kept, end) = old.cut_point(offset, extent)?;
        let mut index = old.index_copy()?;
        index.offsets.truncate_at(kept);
        index.times.truncate_to(old.base(), end);
        index.times.pop_closing_entry(index.offsets.last().map(|entry| entry.last));
        let mut aborted = self.aborted_in(view, at)?;
        aborted.truncate_to(end);
        let cursor = old.resume_cursor(&index, kept)?;
        Ok(Cut { at, old, kept, copy: None, end, index, aborted, cursor })
    }

    /// Takes the steps before a cut that change nothing yet. A full disk there is no reason to latch.
    fn prepare(
        &self,
        writer: &mut MutexGuard<'_, Writer>,
        steps: impl FnOnce() -> Result<(), IoFailure>,
    ) -> Result<(), ChangeError> {
        let generation = self.keeper.generation();
        self.keeper.begin()?;
        match steps() {
            Ok(()) => Ok(()),
            // But for the sync of the directory, after which nobody knows which names are durable.
            Err(failure)
                if failure.is_storage_full()
                    && *failure.path != *self.home.dir
                    && self.keeper.generation() == generation =>
            {
                self.keeper.finish(None).map_err(|failure| self.latch(writer, failure))?;
                Err(failure.into())
            }
            Err(failure) => Err(self.latch(writer, failure).into()),
        }
    }

    /// What the log says of producers, transactions and epochs below the cut. Changes nothing but that snapshots which
    /// wait to be written are, since one of them may be the nearest.
    fn derive_again(&self, writer: &mut Writer, view: &LogView, cut: &Cut) -> Result<Derived, ChangeError> {
        writer.derived.write_pending(&self.home)?;
        let config = Arc::clone(&self.config.read());
        let mut epochs = writer.derived.epochs.clone();
        epochs.truncate_from_end(cut.end);
        // A transaction that was decided past the high watermark is undecided below it, and a snapshot taken past the
        // mark does not tell of it.
        let at_most = cut.end.min(view.marks.high_watermark);
        let log_base = view.segments.first().map_or(view.marks.log_start, |segment| segment.base());
        let (now, limits) = (self.clock.wall(), producer_limits(&config));
        let mut replay = Replay::begin(&self.home, at_most, log_base, epochs, now, limits)?;
        let from = replay.producers_from();
        for at in view.segment_of(from)..=cut.at {
            let Some(segment) = view.segments.get(at) else { break };
            let extent = if at == cut.at { Extent { bytes: cut.kept, end: cut.end } } else { view.extent_of(at)? };
            replay.walk(segment, from, extent)?;
        }
        let mut derived = replay.derived;
        derived.epochs_changed = writer.derived.epochs_changed || derived.epochs != writer.derived.epochs;
        Ok(derived)
    }

    /// Writes the epochs that are left. One that begins past the cut would stay in the file when the log goes on behind a
    /// gap, as a follower's does: no batch there contradicts it. The recovery point is lowered by now, so that a crash
    /// before the cut has the others derived again.
    fn put_down_epochs(&self, writer: &mut Writer) -> Result<(), IoFailure> {
        if !writer.derived.epochs_changed {
            return Ok(());
        }
        match write_epochs(&self.home, &writer.derived.epochs) {
            Ok(()) => writer.derived.epochs_changed = false,
            // Then the next round does it: a log is cut on a full disk too.
            Err(failure) if failure.is_storage_full() && *failure.path != *self.home.dir => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn cut(&self, writer: &mut MutexGuard<'_, Writer>, cut: Cut) -> Result<(), IoFailure> {
        let Cut { at, old, kept, copy, end, index, aborted, cursor } = cut;
        let base = old.base();
        let holes = old.holes().iter().filter(|hole| hole.bytes.start < kept).cloned().collect();
        let twin = Arc::new(old.twin(index)?.with_holes(holes));
        twin.put_aborted(aborted);
        let removed = self.publish_cut(writer, &twin, at, kept, end);
        // Their names will be those of other bytes: who has their files open goes on reading, nobody else.
        removed.iter().chain([&old]).for_each(|segment| segment.mark_leaving());
        let forgets = removed.iter().chain([&old]).any(|segment| !segment.holes().is_empty());
        writer.active = Arc::clone(&twin);
        // Descriptors of unsynced files stay open until the cut is synced; the segments must not count as pinned.
        let is_past = |unsealed: &mut Unsealed| unsealed.segment.base() >= base;
        let _descriptors: Vec<Arc<dyn File>> =
            writer.unsealed.extract_if(.., is_past).map(|unsealed| unsealed.file).collect();
        self.remove_past(base, end, &removed)?;
        drop(removed);
        // What was published is the twin. If nobody else holds the old one, nobody can read past the cut any more.
        let is_pinned = Arc::into_inner(old).is_none_or(|old| {
            // Also what was sent since the twin was made: it goes on with the same file.
            twin.lend(old.lent_bytes());
            old.lent_bytes() > kept
        });
        let file = match copy {
            Some(copy) => self.swap_in(base, copy)?,
            // Somebody who read the old view just now.
            None if is_pinned => self.swap_in(base, self.copy_aside(base, kept)?)?,
            None => self.shorten(base, kept)?,
        };
        twin.set_file(Arc::clone(&file));
        self.home.sync_names()?;
        if forgets {
            self.save_damage()?;
        }
        writer.file = ActiveFile::new(base, file);
        writer.cursor = cursor;
        // It has taken in what is cut. The sum will be made by a walk.
        writer.summing = None;
        writer.position = kept;
        writer.file_bytes = kept;
        writer.log_end = end;
        // What lies before the cut may have been unsynced: the next round covers it.
        writer.is_dirty = true;
        writer.created = self.clock.wall();
        writer.first_timestamp = first_timestamp(&twin, kept);
        self.keeper.finish(None)
    }

    /// Shows readers the shorter log; returns the segments that are no longer in it.
    fn publish_cut(
        &self,
        writer: &mut Writer,
        twin: &Arc<Segment>,
        at: usize,
        kept: u64,
        end: Offset,
    ) -> Vec<Arc<Segment>> {
        let config = Arc::clone(&self.config.read());
        let mut removed = Vec::new();
        self.publish(writer, &config, |view| {
            let mut segments = Vec::clone(&view.segments);
            removed = segments.split_off((at + 1).min(segments.len()));
            if let Some(slot) = segments.get_mut(at) {
                *slot = Arc::clone(twin);
            }
            view.segments = Arc::new(segments);
            view.active_bytes = kept;
            view.marks.log_end = end;
            view.marks.durable_end = view.marks.durable_end.min(end);
            view.cleaned_to = view.cleaned_to.min(end);
        });
        self.queue.cut(end);
        removed
    }

    /// Removes the segments past the cut, newest first, and what side files say about offsets past it. Durable.
    fn remove_past(&self, base: Offset, end: Offset, removed: &[Arc<Segment>]) -> Result<(), IoFailure> {
        let bases = removed.iter().map(|segment| segment.base());
        // Snapshots among them, which would pass for the state at their offsets once others stand there.
        let snapshots = self.home.bases()?.into_iter().filter(|at| *at > end);
        self.keeper.note_removed(bases.chain(snapshots).collect::<BTreeSet<_>>())?;
        for segment in removed.iter().rev() {
            self.home.remove_segment(segment.base())?;
        }
        self.home.remove_snapshots_past(end)?;
        self.home.remove_index(base)?;
        self.home.sync_names()?;
        self.keeper.forget_removed()
    }

    /// Writes down what is unreadable in the segments that are left. Otherwise the list would go on about bytes that are
    /// gone, and good records in their place would pass for damaged after the next opening.
    pub(super) fn save_damage(&self) -> Result<(), IoFailure> {
        let segments = Arc::clone(&self.view.read().segments);
        let holes_of = |segment: &Arc<Segment>| {
            let base = segment.base();
            segment.holes().iter().map(|hole| (base, hole.clone())).collect::<DamageList>()
        };
        let list = segments.iter().flat_map(holes_of).collect();
        state::write_damage(&*self.home.fs, &self.home.dir, &list)
    }

    /// Cuts the file in place and syncs it. Nobody reads past the cut.
    fn shorten(&self, base: Offset, kept: u64) -> Result<Arc<dyn File>, IoFailure> {
        let path = self.home.path(base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::ReadWrite)?;
        file.set_len(kept).map_err(|e| IoFailure::new(IoOperation::SetLen, &path, e))?;
        file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, &path, e))?;
        Ok(file)
    }

    /// Writes the kept prefix to a new file, synced: slices that are out go on reading the old one.
    fn copy_aside(&self, base: Offset, kept: u64) -> Result<Arc<dyn File>, IoFailure> {
        let live = SegmentFile::live(base, FileKind::Log);
        let name = names::cut(base);
        let (path, aside) = (self.home.dir.join(live.name()), self.home.dir.join(&name));
        let source = self.home.open(&path, OpenMode::Read)?;
        self.home.remove(&name)?;
        let copy = self.home.open(&aside, OpenMode::CreateNew)?;
        let copied = copy_bytes(&*source, &*copy, kept, &aside)
            .and_then(|()| copy.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, &aside, e)));
        if copied.is_err() {
            self.drop_copy(base);
        }
        copied.map(|()| copy)
    }

    /// Removes a copy that is not going to be used: it takes space that may be missing. One that cannot be removed now
    /// is when the log is opened again.
    fn drop_copy(&self, base: Offset) {
        let _ = self.home.remove(&names::cut(base));
    }

    /// Puts the copy in the place of the old file.
    fn swap_in(&self, base: Offset, copy: Arc<dyn File>) -> Result<Arc<dyn File>, IoFailure> {
        let live = SegmentFile::live(base, FileKind::Log);
        self.home.rename(&names::cut(base), &live.name())?;
        Ok(copy)
    }

    /// Removes every segment and begins an empty one. The decision is on disk already.
    fn restart(&self, writer: &mut Writer, at: Offset) -> Result<(), IoFailure> {
        writer.derived = Derived::new(ProducerTable::new(), LeaderEpochs::default(), at);
        writer.derived.epochs_changed = true;
        let config = Arc::clone(&self.config.read());
        self.publish(writer, &config, |view| {
            view.marks = Marks { log_start: at, last_stable: at, high_watermark: at, durable_end: at, log_end: at };
            view.cleaned_to = Offset::ZERO;
        });
        self.queue.cut(Offset::ZERO);
        self.queue.raise(at);
        self.view.read().segments.iter().for_each(|segment| segment.mark_leaving());
        self.keeper.note_removed(self.home.bases()?)?;
        let file = self.home.restart(at)?;
        self.keeper.forget_removed()?;
        writer.unsealed.clear();
        writer.unsynced = crate::commit::Unsynced::default();
        writer.log_end = at;
        self.view.write().segments = Arc::new(Vec::new());
        self.begin_segment(writer, at, file);
        self.save_damage()?;
        // `Home::restart` synced the names.
        writer.names_changed = false;
        Ok(())
    }
}

fn first_timestamp(segment: &Segment, bound: u64) -> Option<crate::units::TimestampMs> {
    segment.header_at(0, bound).ok().map(|header| header.max_timestamp)
}

fn copy_bytes(source: &dyn File, copy: &dyn File, len: u64, path: &Path) -> Result<(), IoFailure> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut buffer = vec![0; usize::try_from(len.min(PIECE_BYTES)).unwrap_or_default()];
    let mut at = 0;
    while at < len {
        let piece = usize::try_from((len - at).min(PIECE_BYTES)).unwrap_or_default();
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        fs::read_exact_at(source, piece, at).map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
        fs::write_all_at(copy, piece, at).map_err(|e| IoFailure::new(IoOperation::Write, path, e))?;
        at += piece.len() as u64;
    }
    Ok(())
}

impl From<ReadError> for ChangeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::OutOfRange { asked, log_start, log_end } => Self::OutOfRange { asked, log_start, log_end },
            ReadError::Damaged(damage) => Self::Damaged(damage),
            ReadError::Corrupt(corruption) => Self::Corrupt(corruption),
            ReadError::Io(failure) => Self::Io(failure),
            ReadError::Unavailable(cause) => Self::Unavailable(cause),
            ReadError::Closed => Self::Closed,
        }
    }
}
