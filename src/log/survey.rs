//! Looking at what a process left, without changing any of it: which segments the recovery point covers, what the
//! others hold, where the log ends, and what is lost.

use std::sync::Arc;

use super::derived::{self, Replay};
use super::recover::Unjudged;
use super::report::{Action, Found, RecoveryReport};
use super::state::Standing;
use crate::config::HighWatermarkMode;
use crate::error::{Damage, IoFailure, IoOperation, OpenError, ReadError};
use crate::fs::{DirEntry, EntryKind};
use crate::index::{AbortedTxns, IndexFault, LeaderEpochs, OffsetIndex, SegmentIndex, TimeIndex};
use crate::segment::names::{self, Known};
use crate::segment::scan::{Scan, Stop};
use crate::segment::{Extent, FileKind, Hole, Segment, SegmentFile, Stage};
use crate::units::{FilePosition, Offset};

/// A segment that was scanned.
pub(super) struct Scanned {
    pub(super) base: Offset,
    pub(super) scan: Scan,
    /// What is wrong with its index files.
    pub(super) index_fault: Option<IndexFault>,
}

/// What scanning gave.
pub(super) struct Survey {
    /// Segments that the recovery point covers whole; not looked at.
    pub(super) trusted: Vec<Offset>,
    /// Those of them whose size may not be durable.
    pub(super) sealed_late: Vec<Offset>,
    /// The rest, up to a tear.
    pub(super) scanned: Vec<Scanned>,
    /// Segments past a tear.
    pub(super) past_tear: Vec<Offset>,
    /// Where the log ends.
    pub(super) end: Offset,
    /// Durable offsets that are gone from the end.
    pub(super) lost: Option<std::ops::Range<Offset>>,
    /// Readable offsets that are gone from the start.
    pub(super) missing: Option<Damage>,
    /// Producers, transactions and epochs, as far as the log was gone through.
    pub(super) replay: Replay,
}

impl Unjudged {
    /// Looks before anything is changed, so that a refusal leaves the directory as it was. `None` when something has to
    /// be settled first, and then looked at.
    pub(super) fn look(&self, report: &mut RecoveryReport) -> Result<Option<Survey>, OpenError> {
        let started = self.clock.monotonic();
        let files = self.home.list()?;
        let is_on_its_way = |entry: &DirEntry| match names::classify(entry) {
            Known::Segment(file) => file.stage == Stage::Swap,
            known => matches!(known, Known::Touched(_)),
        };
        if files.iter().any(is_on_its_way) || self.restart.is_some() || !self.empty_logs()?.is_empty() {
            return Ok(None);
        }
        let survey = self.survey()?;
        self.describe(&survey, &mut RecoveryReport::default())?;
        report.scan_time = self.clock.monotonic().saturating_sub(started);
        Ok(Some(survey))
    }

    /// Scans what the recovery point does not cover. Changes nothing.
    pub(super) fn survey(&self) -> Result<Survey, OpenError> {
        let mut bases = live_logs(&self.home.list()?);
        bases.drain(..self.hidden(&bases));
        let durable_end = self.restart.or(self.durable_end);
        let covered = self.first_uncovered(&bases);
        let sealed_late = self.first_sealed_late(&bases, covered);
        let first = self.first_with_zeros(&bases, sealed_late..covered)?;
        let last_filled = self.last_filled(&bases)?;
        let (trusted, rest) = bases.split_at(first);
        let start = self.decided_start();
        let mut survey = Survey {
            trusted: trusted.to_vec(),
            sealed_late: bases.get(sealed_late..first).unwrap_or_default().to_vec(),
            scanned: Vec::new(),
            past_tear: Vec::new(),
            end: bases.first().copied().or(start).unwrap_or_default(),
            lost: None,
            missing: self.missing_start(&bases),
            replay: self.begin_replay(&bases, first)?,
        };
        for (at, base) in rest.iter().enumerate() {
            let next_base = rest.get(at + 1).copied();
            // Without a recovery point only the last segment that holds anything may be torn.
            let unknown = if Some(*base) < last_filled { Offset::MAX } else { Offset::ZERO };
            let durable_below = durable_end.unwrap_or(unknown);
            let (scanned, is_torn) = self.scan_one(*base, next_base, durable_below, Some(&mut survey.replay))?;
            survey.end = scanned.scan.end;
            survey.scanned.push(scanned);
            if is_torn {
                survey.past_tear = rest.get(at + 1..).unwrap_or_default().to_vec();
                break;
            }
        }
        // What a power loss took may have been deleted: then nothing is lost, and its offsets are not given out again.
        survey.end = survey.end.max(start.unwrap_or_default());
        if let Some(durable_end) = durable_end.filter(|durable_end| survey.end < *durable_end) {
            // Also when no segment is left at all.
            survey.lost = Some(survey.end..durable_end);
        }
        Ok(survey)
    }

    /// The first of the covered segments that may have become durable while it was active and been sealed after that, so
    /// that the cut of its zeros is not known to be durable. The recovery point file is written after such cuts.
    fn first_sealed_late(&self, bases: &[Offset], covered: usize) -> usize {
        let is_late = |at: &usize| bases.get(at + 1).is_some_and(|next| *next >= self.recovery_point);
        (0..covered).find(is_late).unwrap_or(covered)
    }

    /// The first of the segments that still has zeros kept ahead in it; the end of the range if none has.
    fn first_with_zeros(&self, bases: &[Offset], range: std::ops::Range<usize>) -> Result<usize, OpenError> {
        for at in range.clone() {
            if let Some(base) = bases.get(at)
                && self.has_zeros_to_cut(*base, bases.get(at + 1).copied())?
            {
                return Ok(at);
            }
        }
        Ok(range.end)
    }

    /// Whether zeros follow where the next segment begins.
    fn has_zeros_to_cut(&self, base: Offset, next: Option<Offset>) -> Result<bool, OpenError> {
        let segment = Segment::sealed(&self.home, base, self.options, Vec::new());
        if !segment.ends_in_zero()? {
            return Ok(false);
        }
        let scan = segment.scan(next, Offset::ZERO)?;
        // Zeros in the place of records are a loss; they are left for whoever reads them to be told.
        Ok(scan.stop == Some(Stop::Zeros) && Some(scan.end) == next)
    }

    fn last_filled(&self, bases: &[Offset]) -> Result<Option<Offset>, IoFailure> {
        for base in bases.iter().rev() {
            let path = self.home.path(*base, FileKind::Log);
            let found = self.home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
            if found.len > 0 {
                return Ok(Some(*base));
            }
        }
        Ok(None)
    }

    /// Scans one segment; tells whether what follows it lies past a tear.
    pub(super) fn scan_one(
        &self,
        base: Offset,
        next_base: Option<Offset>,
        durable_below: Offset,
        replay: Option<&mut Replay>,
    ) -> Result<(Scanned, bool), OpenError> {
        let path = self.home.path(base, FileKind::Log);
        let segment = Segment::sealed(&self.home, base, self.options, Vec::new());
        let mut aborted = None;
        let mut scan = match replay {
            None => segment.scan(next_base, durable_below)?,
            Some(replay) => {
                replay.enter(base);
                // Kafka takes one after each segment that it recovers.
                replay.derived.take_snapshot(base);
                let scan =
                    segment.scan_each(next_base, durable_below, |header, marker| replay.take(base, header, marker))?;
                aborted = replay.aborted.get(&base);
                scan
            }
        };
        if let Some(Stop::OldFormat(magic)) = scan.stop {
            let at = FilePosition::new(scan.kept_bytes);
            return Err(OpenError::OldFormat { file: path, at, magic });
        }
        let is_torn = match next_base {
            Some(next) if scan.end < next => self.judge_gap(&mut scan, next, durable_below),
            _ => false,
        };
        let mut closed = scan.index.clone();
        scan.cursor.push_largest(&mut closed.times);
        // In doubt, the files are going to be removed, whatever they say.
        let index_fault = if self.is_in_doubt {
            Some(IndexFault::Missing)
        } else {
            match compare_index(&segment, &closed, scan.kept_bytes)? {
                None => compare_aborted(&segment, aborted)?,
                fault => fault,
            }
        };
        if index_fault.is_none() && next_base.is_some() && !is_torn {
            // It can be read from its files; a thousand segments' indexes need not wait in memory.
            scan.index = SegmentIndex::default();
        }
        Ok((Scanned { base, scan, index_fault }, is_torn))
    }

    /// The segment ends before the next one begins. Returns whether the next one lies past a tear.
    fn judge_gap(&self, scan: &mut Scan, next: Offset, durable_below: Offset) -> bool {
        let ends_whole = scan.stop.is_none() && scan.holes.is_empty();
        let is_unknown = self.durable_end.is_none();
        let may_have_gaps = self.config.cleanup_policy.compacts() || next <= self.cleaned_to;
        if may_have_gaps && ends_whole && (next <= durable_below || is_unknown) {
            // Cleaning makes such gaps; below the recovery point nothing else does without leaving a trace.
            return false;
        }
        let lost_end = next.min(durable_below);
        if scan.end < lost_end {
            let bytes = scan.kept_bytes..scan.kept_bytes;
            scan.holes.push(Hole { bytes, offsets: scan.end..lost_end, cause: None });
            scan.end = lost_end;
        }
        scan.end < next
    }

    /// Goes on from the newest snapshot before what is scanned. Segments between it and the scan are gone through by
    /// their headers, and so are those past the recovery point file: their epochs may not have been written down.
    pub(super) fn begin_replay(&self, bases: &[Offset], first: usize) -> Result<Replay, OpenError> {
        let log_base = bases.first().copied().unwrap_or_default();
        let scan_from = bases.get(first).copied().unwrap_or(log_base);
        let (epochs, epochs_from) = match derived::read_epochs(&self.home)? {
            _ if self.restart.is_some() || self.doubts_epochs => (LeaderEpochs::default(), log_base),
            Ok(Some(epochs)) if self.had_point => (epochs, self.recovery_point),
            Ok(Some(epochs)) => (epochs, scan_from),
            Ok(None) | Err(_) => (LeaderEpochs::default(), log_base),
        };
        let is_borne_out = self.are_borne_out(&epochs, bases, epochs_from.min(scan_from))?;
        let (epochs, epochs_from) =
            if is_borne_out { (epochs, epochs_from) } else { (LeaderEpochs::default(), log_base) };
        let at_most = self.snapshots_up_to(log_base, scan_from);
        let limits = derived::producer_limits(&self.config);
        let mut replay = Replay::begin(&self.home, at_most, log_base, epochs, self.clock.wall(), limits)?;
        let from = replay.producers_from().min(epochs_from);
        for (at, base) in bases.iter().enumerate().take(first) {
            let Some(next) = bases.get(at + 1).copied().filter(|next| *next > from) else { continue };
            let segment = Segment::sealed(&self.home, *base, self.options, self.known_holes(*base));
            let extent = Extent { bytes: segment.bytes()?, end: next };
            // What cannot be read is met by whoever reads it.
            replay.walk(&segment, from, extent)?;
        }
        Ok(replay)
    }

    /// Whether the log bears out what the file says of epochs below `limit`, which is at most where scanning begins. The
    /// file has no checksum, and may be an older one that somebody put back. Epochs never fall in a log, so it is enough
    /// to look at both sides of each change, and at the last batch.
    fn are_borne_out(&self, epochs: &LeaderEpochs, bases: &[Offset], limit: Offset) -> Result<bool, IoFailure> {
        let log_start = self.standing.log_start.unwrap_or_default();
        let starts = epochs.entries().iter().map(|entry| entry.start).filter(|start| *start < limit);
        for point in starts.chain([limit]) {
            let at = bases.partition_point(|base| *base < point);
            // The segment that the point lies in, or those on both sides of it.
            for at in at.saturating_sub(1)..=at {
                let Some(base) = bases.get(at).filter(|base| **base < limit) else { continue };
                let Some(end) = bases.get(at + 1).copied() else { continue };
                let segment = Segment::sealed(&self.home, *base, self.options, self.known_holes(*base));
                let (before, after) = segment.neighbours(point, Extent { bytes: segment.bytes()?, end })?;
                for header in [before, after].into_iter().flatten() {
                    let is_told = (log_start..limit).contains(&header.base_offset) && header.leader_epoch.is_some();
                    let said = [header.base_offset, header.last_offset()].map(|offset| epochs.epoch_of(offset));
                    if is_told && said != [header.leader_epoch; 2] {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// The last offset at which a snapshot says enough for a log from `log_base` to `end`. A transaction that was decided
    /// at or past the high watermark is undecided to readers, and snapshots taken past it do not tell of it. The modes in
    /// which the mark moves by itself begin at the log end; in the other it is never below the log start, although what
    /// is stored of it may be.
    pub(super) fn snapshots_up_to(&self, log_base: Offset, end: Offset) -> Offset {
        match self.config.high_watermark {
            HighWatermarkMode::Embedder => {
                let Standing { log_start, high_watermark, .. } = self.standing;
                let replicated = high_watermark.max(log_start).unwrap_or_default();
                end.min(replicated.max(log_base))
            }
            HighWatermarkMode::LogEnd | HighWatermarkMode::DurableEnd => end,
        }
    }

    pub(super) fn known_holes(&self, base: Offset) -> Vec<Hole> {
        self.known_damage.iter().filter(|(at, _)| *at == base).map(|(_, hole)| hole.clone()).collect()
    }

    /// Where the log was decided to begin.
    pub(super) fn decided_start(&self) -> Option<Offset> {
        self.restart.or(self.standing.log_start)
    }

    /// How many of the segments, from the first one on, lie wholly below the log start. They wait to be deleted, or came
    /// back with a power loss after they were; nobody reads them.
    pub(super) fn hidden(&self, bases: &[Offset]) -> usize {
        let start = self.decided_start().unwrap_or_default();
        bases.partition_point(|base| *base <= start).saturating_sub(1)
    }

    /// Segments go only after the log start was raised past them.
    fn missing_start(&self, bases: &[Offset]) -> Option<Damage> {
        let (start, first) = (self.standing.log_start?, *bases.first()?);
        let hole = Hole { bytes: 0..0, offsets: start..first, cause: None };
        (self.restart.is_none() && start < first).then(|| self.damage_of(first, &hole))
    }

    /// Puts what was found into the report; refuses where the policy says so.
    pub(super) fn describe(&self, survey: &Survey, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let policy = self.config.on_damage;
        let mut refused = Vec::new();
        if let Some(damage) = &survey.missing {
            let (found, at) = (Found::Damage(damage.clone()), Some(damage.offsets.start));
            if report.note(found, policy, "", 0, at) == Action::Refuse {
                refused.push(damage.clone());
            }
        }
        for scanned in &survey.scanned {
            let Scanned { base, scan, .. } = scanned;
            let file = SegmentFile::live(*base, FileKind::Log).name();
            report.scanned_segments += 1;
            report.scanned_bytes += scan.file_bytes;
            report.scanned_batches += scan.batches;
            for hole in &scan.holes {
                let damage = self.damage_of(*base, hole);
                let found = Found::Damage(damage.clone());
                let at = Some(hole.offsets.start);
                if report.note(found, policy, file.clone(), hole.bytes.start, at) == Action::Refuse {
                    refused.push(damage);
                }
            }
            let bytes = scan.file_bytes - scan.kept_bytes;
            let found = match &scan.stop {
                Some(Stop::Bad(cause)) => Found::TornTail { bytes, cause: cause.clone() },
                Some(Stop::Zeros) => Found::ZeroTail { bytes },
                Some(Stop::OldFormat(_)) | None => continue,
            };
            report.cut_bytes += bytes;
            report.note(found, policy, file, scan.kept_bytes, Some(scan.end));
        }
        for base in &survey.past_tear {
            let file = SegmentFile::live(*base, FileKind::Log).name();
            report.note(Found::SegmentPastTear, policy, file, 0, Some(*base));
        }
        if let Some(lost) = &survey.lost {
            let found = Found::EndsBelowRecoveryPoint { lost: lost.clone() };
            let last = survey.scanned.last().map_or(survey.end, |scanned| scanned.base);
            let file = SegmentFile::live(last, FileKind::Log).name();
            if report.note(found, policy, file, 0, Some(lost.start)) == Action::Refuse {
                let hole = Hole { bytes: 0..0, offsets: lost.clone(), cause: None };
                refused.push(self.damage_of(last, &hole));
            }
        }
        for (base, hole) in self.known_damage.iter().filter(|(base, _)| survey.trusted.contains(base)) {
            self.note_known(*base, hole, report)?;
        }
        let count = refused.len();
        match refused.into_iter().next() {
            Some(first) => Err(OpenError::Damaged { first: Box::new(first), count }),
            None => Ok(()),
        }
    }

    pub(super) fn note_known(&self, base: Offset, hole: &Hole, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let damage = self.damage_of(base, hole);
        let file = SegmentFile::live(base, FileKind::Log).name();
        let found = Found::KnownDamage(damage.clone());
        let action = report.note(found, self.config.on_damage, file, hole.bytes.start, Some(hole.offsets.start));
        if action == Action::Refuse {
            return Err(OpenError::Damaged { first: Box::new(damage), count: self.known_damage.len() });
        }
        Ok(())
    }

    pub(super) fn damage_of(&self, base: Offset, hole: &Hole) -> Damage {
        Damage {
            file: self.home.path(base, FileKind::Log),
            bytes: hole.bytes.clone(),
            offsets: hole.offsets.clone(),
            cause: hole.cause.clone(),
        }
    }
}

/// Base offsets of the logs in service, rising.
pub(super) fn live_logs(entries: &[DirEntry]) -> Vec<Offset> {
    let is_log = |file: &SegmentFile| file.kind == FileKind::Log && file.stage == Stage::Live;
    let files = entries.iter().filter_map(SegmentFile::of);
    let mut bases: Vec<Offset> = files.filter(is_log).map(|file| file.base).collect();
    bases.sort_unstable();
    bases
}

/// Whether the segment at `base` has its index files. Entries are sorted by name.
pub(super) fn has_index(entries: &[DirEntry], base: Offset) -> bool {
    [FileKind::Index, FileKind::TimeIndex].into_iter().all(|kind| {
        let name = SegmentFile::live(base, kind).name();
        let at = entries.binary_search_by(|entry| entry.name.as_str().cmp(&name)).ok();
        at.and_then(|at| entries.get(at)).is_some_and(|entry| entry.kind == EntryKind::File)
    })
}

/// What is wrong with the index files of a segment whose index is known.
fn compare_index(segment: &Segment, right: &SegmentIndex, log_bytes: u64) -> Result<Option<IndexFault>, IoFailure> {
    let (Some(offsets), Some(times)) =
        (segment.read_sidecar(FileKind::Index)?, segment.read_sidecar(FileKind::TimeIndex)?)
    else {
        return Ok(Some(IndexFault::Missing));
    };
    let decoded = OffsetIndex::decode(&offsets, log_bytes)
        .and_then(|offsets| Ok(SegmentIndex { offsets, times: TimeIndex::decode(&times)? }));
    Ok(match decoded {
        Ok(found) if found == *right => None,
        Ok(_) => Some(IndexFault::Differs),
        Err(fault) => Some(fault),
    })
}

/// What is wrong with the transaction index of a segment whose aborted transactions are known.
fn compare_aborted(segment: &Segment, right: Option<&AbortedTxns>) -> Result<Option<IndexFault>, IoFailure> {
    match segment.load_aborted() {
        Ok(found) if Some(&found) == right => Ok(None),
        Err(ReadError::Io(failure)) => Err(failure),
        _ => Ok(Some(IndexFault::Differs)),
    }
}

/// Base of the first segment that holds anything, or of the last one.
pub(super) fn first_filled(segments: &[Arc<Segment>], log_end: Offset) -> Result<Offset, OpenError> {
    // The last one takes appends; its size is not to be fixed.
    for segment in segments.iter().take(segments.len().saturating_sub(1)) {
        if segment.bytes()? > 0 || !segment.holes().is_empty() {
            return Ok(segment.base());
        }
    }
    Ok(segments.last().map_or(log_end, |last| last.base()))
}
