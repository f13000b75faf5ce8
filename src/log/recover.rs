//! Judging what a process left: scan what no sync is known to cover, decide by the table in `report`, act, sync, and
//! only then let anybody append.
//!
//! [`Unjudged`] has no way to append; it turns into [`Judged`] here and nowhere else. All steps may be repeated: a crash
//! at any of them is met by the next opening with no less than before.

use std::sync::Arc;

use super::derived::{self, BadSnapshot, Derived, Replay};
use super::keeper::SyncKeeper;
use super::report::{Found, RecoveryReport};
use super::state::{self, CleanShutdown, DamageList, Standing};
use super::survey::{Scanned, Survey, first_filled, has_index, live_logs};
use crate::clock::Clock;
use crate::config::{LogConfig, OnDamage};
use crate::error::{IoFailure, IoOperation, OpenError, ReadError};
use crate::fs::{DirEntry, File, OpenMode};
use crate::index::{AbortedTxns, IndexCursor, IndexFault, LeaderEpochs, OffsetIndex, SegmentIndex, TimeIndex};
use crate::segment::names::{self, Known};
use crate::segment::{Extent, FileKind, Hole, Home, Segment, SegmentFile, SegmentOptions};
use crate::units::{Offset, TimestampMs};

/// A directory that no decision has been taken on.
pub(super) struct Unjudged {
    pub(super) home: Home,
    pub(super) options: SegmentOptions,
    pub(super) config: LogConfig,
    pub(super) clock: Arc<dyn Clock>,
    /// Everything below it was synced; `None` when nothing says what was.
    pub(super) durable_end: Option<Offset>,
    /// As its file has it.
    pub(super) recovery_point: Offset,
    pub(super) is_in_doubt: bool,
    pub(super) restart: Option<Offset>,
    /// Segments whose removal no directory sync is known to have covered.
    pub(super) removed: Vec<Offset>,
    /// Whether there is a recovery point file.
    pub(super) had_point: bool,
    /// A clean close left another file of leader epochs than there is now.
    pub(super) doubts_epochs: bool,
    pub(super) known_damage: DamageList,
    /// Below it cleaning may have left gaps.
    pub(super) cleaned_to: Offset,
    /// What its embedder decided about the log.
    pub(super) standing: Standing,
}

/// The segment that takes appends.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn File>,
    pub(super) cursor: IndexCursor,
    pub(super) position: u64,
    pub(super) first_timestamp: Option<TimestampMs>,
}

/// A log that may be appended to.
pub(super) struct Judged {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) active: Active,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    pub(super) derived: Derived,
}

impl Unjudged {
    /// Whether a clean-shutdown marker can be believed at all.
    pub(super) fn may_be_clean(&self) -> bool {
        !self.is_in_doubt && self.restart.is_none()
    }

    /// Whether the directory has any segment.
    pub(super) fn has_segments(&self) -> Result<bool, IoFailure> {
        Ok(!live_logs(&self.home.list()?).is_empty())
    }

    /// Whether the leader epochs are those that a clean close wrote. Nothing else vouches for them: below the recovery
    /// point no batch is looked at that could contradict them.
    pub(super) fn has_epochs_of(&self, marker: &CleanShutdown) -> Result<bool, IoFailure> {
        let epochs = derived::read_epochs(&self.home)?.ok().flatten();
        Ok(epochs.is_some_and(|epochs| derived::epochs_checksum(&epochs) == marker.epochs_checksum))
    }

    /// Opens without a scan after a clean shutdown, looking at the active segment alone and changing nothing. `None` when the active segment is
    /// not what the marker says after all.
    pub(super) fn accept(
        &self,
        marker: &CleanShutdown,
        report: &mut RecoveryReport,
    ) -> Result<Option<Judged>, OpenError> {
        let entries = self.home.list()?;
        let mut bases = live_logs(&entries);
        bases.pop();
        let path = self.home.path(marker.active_base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::ReadWrite)?;
        let segment = self.trusted_segment(marker.active_base, &entries);
        segment.set_file(Arc::clone(&file));
        let Some((index, aborted)) = load_active_index(&segment, marker)? else { return Ok(None) };
        let cursor = match segment.resume_cursor(&index, marker.active_bytes) {
            Ok(cursor) => cursor,
            Err(ReadError::Io(failure)) => return Err(failure.into()),
            Err(_) => return Ok(None),
        };
        let Some(epochs) = derived::read_epochs(&self.home)?.ok().flatten() else { return Ok(None) };
        if self.doubts_epochs {
            return Ok(None);
        }
        segment.put_index(index);
        segment.put_aborted(aborted);
        segment.mark_index_saved(false);
        Self::note_entries(&entries, report);
        // Of a segment that was deleted nothing is damaged any more.
        let is_here = |base: &Offset| *base == marker.active_base || bases.binary_search(base).is_ok();
        for (base, hole) in self.known_damage.iter().filter(|(base, _)| is_here(base)) {
            self.note_known(*base, hole, report)?;
        }
        report.was_clean = true;
        report.note(Found::CleanShutdown, self.config.on_damage, "", 0, None);
        let position = marker.active_bytes;
        let first_timestamp = segment.header_at(0, position).ok().map(|header| header.max_timestamp);
        let mut segments: Vec<Arc<Segment>> =
            bases.into_iter().map(|base| self.trusted_segment(base, &entries)).collect();
        segments.push(Arc::clone(&segment));
        Segment::tell_next(&segments);
        let mut replay = self.replay_to(&segments, position, marker.log_end, epochs)?;
        // As every opening does, however the log was left: who led and wrote nothing leads no more.
        replay.derived.epochs_changed |= replay.derived.epochs.truncate_from_end(marker.log_end);
        self.note_snapshots(&replay, report);
        let log_start = self.log_start(&segments, marker.log_end)?;
        let active = Active { segment, file, cursor, position, first_timestamp };
        Ok(Some(Judged { segments, active, log_start, log_end: marker.log_end, derived: replay.derived }))
    }

    /// Producers at `log_end`: from the snapshot that a clean close left there, or from an older one and the batches
    /// behind it.
    fn replay_to(
        &self,
        segments: &[Arc<Segment>],
        active_bytes: u64,
        log_end: Offset,
        epochs: LeaderEpochs,
    ) -> Result<Replay, OpenError> {
        let log_base = segments.first().map_or(log_end, |segment| segment.base());
        let at_most = self.snapshots_up_to(log_base, log_end);
        let limits = derived::producer_limits(&self.config);
        let mut replay = Replay::begin(&self.home, at_most, log_base, epochs, self.clock.wall(), limits)?;
        let from = replay.producers_from();
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1).map(|next| next.base());
            let end = next.unwrap_or(log_end);
            if end > from {
                let bytes = if next.is_some() { segment.bytes()? } else { active_bytes };
                replay.walk(segment, from, Extent { bytes, end })?;
            }
        }
        Ok(replay)
    }

    /// Puts unusable snapshots into the report; they are removed once the log is sure to be opened.
    fn note_snapshots(&self, replay: &Replay, report: &mut RecoveryReport) {
        for BadSnapshot { at, fault } in &replay.bad_snapshots {
            let name = SegmentFile::live(*at, FileKind::Snapshot).name();
            report.note(Found::BadSnapshot(*fault), self.config.on_damage, name, 0, Some(*at));
        }
    }

    /// The stored log start; without one, where the first segment begins that holds anything. An empty one in front of
    /// it is no promise that its offsets were ever there.
    fn log_start(&self, segments: &[Arc<Segment>], log_end: Offset) -> Result<Offset, OpenError> {
        let stored = self.standing.log_start.filter(|_| self.restart.is_none());
        let keeps_missing = self.config.on_damage != OnDamage::Cut;
        let start = match stored {
            Some(stored) if keeps_missing => stored,
            stored => first_filled(segments, log_end)?.max(stored.unwrap_or_default()),
        };
        Ok(start.min(log_end))
    }

    fn trusted_segment(&self, base: Offset, entries: &[DirEntry]) -> Arc<Segment> {
        let segment = Segment::sealed(&self.home, base, self.options, self.known_holes(base));
        // A crash may come between the sync of a segment and the writing of its index.
        segment.mark_index_saved(has_index(entries, base));
        Arc::new(segment)
    }

    /// Judges the directory. `survey` is what [`Unjudged::look`] saw.
    pub(super) fn recover(
        self,
        survey: Option<Survey>,
        keeper: &SyncKeeper,
        report: &mut RecoveryReport,
    ) -> Result<Judged, OpenError> {
        let started = self.clock.monotonic();
        // What was read may be in the cache alone. Acted upon and then lost, it would leave an older recovery point that
        // vouches for what was changed meanwhile.
        keeper.confirm(self.is_in_doubt && self.had_point)?;
        let entries = self.home.list()?;
        Self::note_entries(&entries, report);
        self.finish_restart(keeper, report)?;
        self.clear_leftovers(report)?;
        self.remove_empty(report)?;
        self.remove_hidden(report)?;
        if self.is_in_doubt {
            self.remove_indexes()?;
        }
        let mut survey = match survey {
            Some(survey) => survey,
            None => self.survey()?,
        };
        if self.is_in_doubt {
            report.note(Found::SyncInDoubt, self.config.on_damage, names::SYNC_STATE, 0, self.durable_end);
            self.remove_again()?;
            let rewritten = self.rewrite(&survey)?;
            // What was scanned may have come from pages that are gone by now. What counts is what stands in those that
            // were just written, and will be synced.
            if !rewritten {
                survey = self.survey()?;
            }
        }
        let scanned_at = self.clock.monotonic();
        report.scan_time += scanned_at.saturating_sub(started);
        self.describe(&survey, report)?;
        if self.config.on_damage == OnDamage::Cut {
            self.cut_at_damage(&mut survey, keeper)?;
        }
        let judged = self.apply(survey, keeper, report)?;
        report.sync_time = self.clock.monotonic().saturating_sub(scanned_at);
        Ok(judged)
    }

    /// Notes what is in the directory besides segments and state.
    fn note_entries(entries: &[DirEntry], report: &mut RecoveryReport) {
        for entry in entries {
            match names::classify(entry) {
                Known::Aside => report.set_aside.push(entry.name.clone()),
                Known::Foreign => report.unknown_entries.push(entry.name.clone()),
                Known::Segment(_) | Known::State | Known::Temporary | Known::Touched(_) | Known::Ignorable => {}
            }
        }
    }

    fn finish_restart(&self, keeper: &SyncKeeper, report: &mut RecoveryReport) -> Result<(), OpenError> {
        if let Some(at) = self.restart {
            report.note(Found::RestartPending(at), self.config.on_damage, names::RECOVERY_POINT, 0, Some(at));
            keeper.note_removed(self.home.bases()?)?;
            if self.is_in_doubt {
                // A name that is not there any more may come back with a power loss, unless it goes once again.
                let path = self.home.dir.join(names::LEADER_EPOCH_CHECKPOINT);
                drop(self.home.open(&path, OpenMode::CreateOrOpen)?);
            }
            self.home.restart(at)?;
        }
        Ok(())
    }

    /// Which of the segments is the first that the recovery point does not cover whole.
    pub(super) fn first_uncovered(&self, bases: &[Offset]) -> usize {
        let durable_end = self.restart.or(self.durable_end);
        let is_covered = |next: Option<&Offset>| next.is_some_and(|next| durable_end.is_some_and(|end| *next <= end));
        (0..bases.len()).find(|at| !is_covered(bases.get(at + 1))).unwrap_or(bases.len())
    }

    /// Policy `Cut`: the log ends at the first damage; what follows is set aside or cut.
    fn cut_at_damage(&self, survey: &mut Survey, keeper: &SyncKeeper) -> Result<(), OpenError> {
        let damaged = survey.scanned.iter().position(|scanned| !scanned.scan.holes.is_empty());
        if let Some(at) = damaged {
            let later = survey.scanned.split_off(at + 1).into_iter().map(|scanned| scanned.base);
            let mut past: Vec<Offset> = later.collect();
            past.append(&mut survey.past_tear);
            survey.past_tear = past;
            if let Some(last) = survey.scanned.last_mut() {
                // With nothing durable, a scan takes the damage for a tear and stops at it.
                (*last, _) = self.scan_one(last.base, None, Offset::ZERO, None)?;
                survey.end = last.scan.end.max(self.decided_start().unwrap_or_default());
            }
        }
        if damaged.is_some() || survey.lost.take().is_some() {
            self.replay_kept(survey)?;
            // Lowered before the cut, or a crash would take the cut for damage.
            keeper.prepare_cut(survey.end, None)?;
        }
        Ok(())
    }

    /// Derives again what the log says, of what is left of it.
    fn replay_kept(&self, survey: &mut Survey) -> Result<(), OpenError> {
        let bases: Vec<Offset> =
            survey.trusted.iter().copied().chain(survey.scanned.iter().map(|scanned| scanned.base)).collect();
        let mut replay = self.begin_replay(&bases, survey.trusted.len())?;
        for (at, scanned) in survey.scanned.iter().enumerate() {
            let segment = Segment::sealed(&self.home, scanned.base, self.options, scanned.scan.holes.clone());
            let end = survey.scanned.get(at + 1).map_or(survey.end, |next| next.base);
            replay.walk(&segment, scanned.base, Extent { bytes: scanned.scan.kept_bytes, end })?;
        }
        survey.replay = replay;
        Ok(())
    }

    /// Acts on the survey, makes everything durable that is going to be served, and says so.
    fn apply(&self, survey: Survey, keeper: &SyncKeeper, report: &mut RecoveryReport) -> Result<Judged, OpenError> {
        let Survey { trusted, sealed_late, scanned, past_tear, end, lost, missing: _, mut replay } = survey;
        self.note_snapshots(&replay, report);
        for base in sealed_late {
            self.sync_cut(base)?;
        }
        keeper.note_removed(past_tear.iter().copied())?;
        for base in past_tear.iter().rev() {
            self.set_aside(*base, report)?;
        }
        let log_end = lost.as_ref().map_or(end, |lost| lost.end);
        let left_end = scanned.last().map_or(log_end, |last| last.scan.end);
        if lost.is_none() && self.decided_start().is_some_and(|start| left_end < start) {
            // Deleted records need not be durable, nor need the markers among them. What was open here may have been
            // decided, and would keep the last stable offset back for ever. Nothing of it can be read.
            replay.derived.producers.forget_open_transactions();
        }
        let mut damage: DamageList =
            self.known_damage.iter().filter(|(base, _)| trusted.contains(base)).cloned().collect();
        let entries = self.home.list()?;
        let mut segments: Vec<Arc<Segment>> =
            trusted.into_iter().map(|base| self.trusted_segment(base, &entries)).collect();
        let mut active = None;
        let count = scanned.len();
        for (at, mut scanned) in scanned.into_iter().enumerate() {
            let is_last = at + 1 == count;
            if let Some(lost) = lost.clone().filter(|_| is_last) {
                let bytes = scanned.scan.kept_bytes..scanned.scan.kept_bytes;
                scanned.scan.holes.push(Hole { bytes, offsets: lost, cause: None });
            }
            damage.extend(scanned.scan.holes.iter().map(|hole| (scanned.base, hole.clone())));
            // What ends below the log start has lost what was deleted: its next offsets are not the log's.
            let may_grow = is_last && scanned.scan.holes.is_empty() && scanned.scan.end == log_end;
            let aborted = replay.aborted.remove(&scanned.base).unwrap_or_default();
            let judged = self.settle_segment(scanned, aborted, may_grow, report)?;
            segments.push(Arc::clone(&judged.segment));
            active = may_grow.then_some(judged);
        }
        for bad in &replay.bad_snapshots {
            self.home.remove(&SegmentFile::live(bad.at, FileKind::Snapshot).name())?;
        }
        let active =
            if let Some(active) = active { active } else { self.begin_behind(&mut replay, log_end, &mut segments)? };
        Segment::tell_next(&segments);
        self.home.remove_snapshots_past(log_end)?;
        let mut derived = replay.derived;
        self.save_snapshots(&mut derived)?;
        self.home.sync_names()?;
        keeper.forget_removed()?;
        derived.epochs.truncate_from_end(log_end);
        let log_start = self.log_start(&segments, log_end)?;
        derived.epochs.truncate_from_start(log_start);
        let are_epochs_saved = self.save_epochs(&mut derived)?;
        if damage != self.known_damage {
            state::write_damage(&*self.home.fs, &self.home.dir, &damage)?;
        }
        if are_epochs_saved {
            keeper.settle(log_end, log_start, self.had_point)?;
        } else {
            // The recovery point must not pass epochs that are written down nowhere: what is below it is not scanned.
            keeper.settle_in_place(log_end, log_start)?;
        }
        Ok(Judged { segments, active, log_start, log_end, derived })
    }

    /// Begins a segment where what is there must not grow.
    fn begin_behind(
        &self,
        replay: &mut Replay,
        log_end: Offset,
        segments: &mut Vec<Arc<Segment>>,
    ) -> Result<Active, OpenError> {
        // One that is there may know of batches that are damaged now, and the next opening would go by it.
        replay.derived.take_snapshot(log_end);
        if !replay.derived.pending.is_empty() {
            // Once the segment is there, nobody may look at what lies before it, and learn of producers.
            self.save_snapshots(&mut replay.derived)?;
            self.home.sync_names()?;
        }
        self.begin(log_end, segments)
    }

    /// Writes the snapshots of where the scanned segments begin: those of the rolls may have been lost.
    fn save_snapshots(&self, derived: &mut Derived) -> Result<(), OpenError> {
        match derived.write_pending(&self.home) {
            // A log opens on a full disk; without a snapshot a later opening looks at more of the log.
            Err(failure) if failure.is_storage_full() => derived.pending.clear(),
            written => written?,
        }
        Ok(())
    }

    /// Writes the leader epochs down, unless their file says the same and is sure to stay; `false` on a full disk, which
    /// must not keep a log from opening.
    fn save_epochs(&self, derived: &mut Derived) -> Result<bool, OpenError> {
        let on_disk = derived::read_epochs(&self.home)?.ok().flatten();
        let is_saved = !self.is_in_doubt && on_disk.as_ref() == Some(&derived.epochs);
        if !is_saved && (on_disk.is_some() || !derived.epochs.entries().is_empty()) {
            match derived::write_epochs(&self.home, &derived.epochs) {
                Err(failure) if failure.is_storage_full() && self.had_point && self.restart.is_none() => {
                    derived.epochs_changed = true;
                    return Ok(false);
                }
                written => written?,
            }
        }
        derived.epochs_changed = false;
        Ok(true)
    }

    fn set_aside(&self, base: Offset, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let live = SegmentFile::live(base, FileKind::Log).name();
        let path = self.home.dir.join(&live);
        let found = self.home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
        if found.len > 0 {
            let name = names::aside(&self.home.list()?, base);
            self.home.rename(&live, &name)?;
            report.set_aside.push(name);
        }
        self.home.remove_segment(base)?;
        Ok(())
    }

    /// Cuts, indexes and syncs one scanned segment.
    fn settle_segment(
        &self,
        scanned: Scanned,
        aborted: AbortedTxns,
        may_grow: bool,
        report: &mut RecoveryReport,
    ) -> Result<Active, OpenError> {
        let Scanned { base, scan, index_fault } = scanned;
        let path = self.home.path(base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::ReadWrite)?;
        if scan.kept_bytes < scan.file_bytes {
            self.forget_sum(base)?;
            file.set_len(scan.kept_bytes).map_err(|e| IoFailure::new(IoOperation::SetLen, &path, e))?;
        }
        file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, &path, e))?;
        let mut index = scan.index;
        let is_left_on_disk = index_fault.is_none() && !may_grow;
        if !may_grow {
            scan.cursor.push_largest(&mut index.times);
        }
        let segment = if is_left_on_disk {
            Segment::sealed(&self.home, base, self.options, scan.holes)
        } else {
            let segment = Segment::loaded(&self.home, base, self.options, Arc::clone(&file), index);
            segment.with_holes(scan.holes)
        };
        segment.put_aborted(aborted);
        match index_fault {
            None => segment.mark_index_saved(!may_grow),
            // The active one's index is written when it is sealed or closed, and missing or behind until then.
            Some(IndexFault::Missing | IndexFault::Differs) if may_grow => {}
            Some(fault) => {
                let name = SegmentFile::live(base, FileKind::Index).name();
                report.note(Found::BadIndex(fault), self.config.on_damage, name, 0, Some(base));
                match if may_grow { Ok(()) } else { segment.save_index() } {
                    // A log opens on a full disk; its index is saved when there is space.
                    Err(failure) if failure.is_storage_full() => {}
                    saved => saved?,
                }
            }
        }
        if may_grow {
            self.home.remove_index(base)?;
        } else {
            segment.seal(scan.kept_bytes);
            // Synced, so it may be closed; it is opened again when it is read.
            segment.release_file();
            segment.allow_dropping();
        }
        Ok(Active {
            segment: Arc::new(segment),
            file,
            cursor: scan.cursor,
            position: scan.kept_bytes,
            first_timestamp: scan.first_timestamp,
        })
    }

    /// Before a log is cut: its sum would have what is left pass for another's, or for damaged.
    fn forget_sum(&self, base: Offset) -> Result<(), IoFailure> {
        let name = SegmentFile::live(base, FileKind::Sum).name();
        state::remove_durably(&*self.home.fs, &self.home.dir, &name).map(drop)
    }

    /// Begins a segment at `at`: there was none, or the last one must not grow.
    fn begin(&self, at: Offset, segments: &mut Vec<Arc<Segment>>) -> Result<Active, OpenError> {
        let path = self.home.path(at, FileKind::Log);
        let file = self.home.open(&path, OpenMode::CreateNew)?;
        let index = SegmentIndex::default();
        let segment = Segment::loaded(&self.home, at, self.options, Arc::clone(&file), index);
        let segment = Arc::new(segment);
        segments.push(Arc::clone(&segment));
        let cursor = IndexCursor::new(at, self.options.interval_bytes);
        Ok(Active { segment, file, cursor, position: 0, first_timestamp: None })
    }
}
/// The index of a segment that was closed while active, without the entry that closing added. `None` when it is not what
/// the marker vouches for.
fn load_active_index(
    segment: &Segment,
    marker: &CleanShutdown,
) -> Result<Option<(SegmentIndex, AbortedTxns)>, OpenError> {
    let (Some(offsets), Some(times)) =
        (segment.read_sidecar(FileKind::Index)?, segment.read_sidecar(FileKind::TimeIndex)?)
    else {
        return Ok(None);
    };
    let offsets = OffsetIndex::decode(&offsets, marker.active_bytes);
    let (Ok(offsets), Ok(times)) = (offsets, TimeIndex::decode(&times)) else { return Ok(None) };
    let aborted = match segment.load_aborted() {
        Err(ReadError::Io(failure)) => return Err(failure.into()),
        Err(_) => return Ok(None),
        Ok(aborted) => aborted,
    };
    let mut index = SegmentIndex { offsets, times };
    if index.checksum(&aborted.encode()) != marker.index_checksum {
        return Ok(None);
    }
    index.times.pop_closing_entry(index.offsets.last().map(|entry| entry.last));
    Ok(Some((index, aborted)))
}
