//! Checking a directory without changing it: what opening would find, and what lies in the batches besides.
//!
//! The recovery point decides what is damage, as it does for opening: bad bytes below it are a problem, at or past it
//! they are what a crash leaves, and a note. Without one (Kafka's directories) only the last segment that holds
//! anything may be torn. An index that does not fit is a problem where it had been finished: in segments below the
//! recovery point, and in a log that was closed cleanly; one that is missing, only there and in Kafka's directories.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::derived_check::{DerivedCheck, Mismatch};
use super::index_check::{IndexCheck, Verdict, Writer};
use super::report::{Finding, FindingKind, IndexProblem, Report};
use super::state::{LastClose, StateFiles};
use super::sum_check::{self, SumVerdict};
use super::walk::{self, Limits};
use super::{InspectError, PartitionFiles, SegmentInfo};
use crate::error::{CorruptionKind, InvalidBatch, IoFailure, IoOperation};
use crate::fs::{EntryKind, OpenMode};
use crate::index::IndexFault;
use crate::record::{BatchHeader, BatchView};
use crate::segment::names::{self, Known};
use crate::segment::scan::{self, Scan, ScanTask, Stop};
use crate::segment::sum::{DamageKind, LogVerdict};
use crate::segment::walk::marker_at;
use crate::segment::window::Window;
use crate::segment::{FileKind, Home, SegmentFile, Stage};
use crate::units::{FilePosition, Offset};

/// What to check, and how much memory to spend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// `index.interval.bytes` of the log, if it never changed: entries missing at the end of an offset index can then be
    /// told exactly. Without it only where the time index or a very long stretch shows that they are.
    pub index_interval_bytes: Option<u32>,
    /// Bounds on batches and on what they decompress to.
    pub limits: Limits,
}

pub(super) fn verify(home: &Home, files: &PartitionFiles, options: &VerifyOptions) -> Result<Report, InspectError> {
    let state = StateFiles::read(home)?;
    let report = Report { durable_end: state.durable_end, was_clean: state.was_clean(), ..Report::default() };
    let mut verifier = Verifier { home, options, state, report, is_compacted: false, gaps: Vec::new() };
    verifier.look_at_entries()?;
    verifier.look_at_state();
    let segments = files.segments()?;
    if verifier.state.restart.is_none() {
        verifier.look_at_segments(files, &segments)?;
    }
    Ok(verifier.report)
}

struct Verifier<'a> {
    home: &'a Home,
    options: &'a VerifyOptions,
    state: StateFiles,
    report: Report,
    /// Holes within segments show that the log was compacted, and then gaps between segments are ordinary.
    is_compacted: bool,
    gaps: Vec<(PathBuf, u64, Range<Offset>)>,
}

/// What walking one segment gave.
struct Walked {
    scan: Scan,
    verdict: Verdict,
}

impl Verifier<'_> {
    fn add(&mut self, is_problem: bool, file: PathBuf, position: u64, offset: Option<Offset>, kind: FindingKind) {
        self.report.add(is_problem, Finding { file, position: FilePosition::new(position), offset, kind });
    }

    fn problem(&mut self, file: PathBuf, position: u64, offset: Offset, kind: FindingKind) {
        self.add(true, file, position, Some(offset), kind);
    }

    fn note(&mut self, file: PathBuf, kind: FindingKind) {
        self.add(false, file, 0, None, kind);
    }

    fn look_at_entries(&mut self) -> Result<(), IoFailure> {
        let entries = self.home.list()?;
        let files: Vec<SegmentFile> = entries.iter().filter_map(SegmentFile::of).collect();
        let has_log = |base| files.contains(&SegmentFile::live(base, FileKind::Log));
        for entry in &entries {
            let kind = match names::classify(entry) {
                Known::Segment(file) if file.stage != Stage::Live => FindingKind::Leftover,
                Known::Segment(file) if file.kind != FileKind::Snapshot && !has_log(file.base) => FindingKind::Orphan,
                Known::Segment(_) if entry.kind != EntryKind::File => FindingKind::Foreign,
                Known::Temporary | Known::Touched(_) => FindingKind::Leftover,
                Known::Aside => FindingKind::SetAside,
                Known::Foreign => FindingKind::Foreign,
                Known::Segment(_) | Known::State | Known::Ignorable => continue,
            };
            self.note(self.home.dir.join(&entry.name), kind);
        }
        Ok(())
    }

    fn look_at_state(&mut self) {
        let dir = self.home.dir.to_path_buf();
        for corruption in std::mem::take(&mut self.state.unreadable) {
            // The sync state is written in place and not synced: a crash may tear it, and opening then doubts.
            let is_problem = !corruption.file.ends_with(names::SYNC_STATE);
            self.add(is_problem, corruption.file, corruption.at.value(), None, FindingKind::StateFile(corruption.kind));
        }
        if self.state.in_use {
            self.note(dir.clone(), FindingKind::InUse);
        }
        if self.state.last_close == LastClose::Stale {
            self.note(dir.join(names::CLEAN_SHUTDOWN), FindingKind::StaleCleanMarker);
        }
        if self.state.in_doubt {
            self.note(dir.join(names::SYNC_STATE), FindingKind::SyncInDoubt);
        }
        if let Some(at) = self.state.restart {
            self.note(dir.join(names::RECOVERY_POINT), FindingKind::RestartPending(at));
        }
    }

    fn look_at_segments(&mut self, files: &PartitionFiles, segments: &[SegmentInfo]) -> Result<(), InspectError> {
        let last_filled = segments.iter().rev().find(|segment| segment.log_bytes > 0).map(|segment| segment.base);
        self.report.log_start = segments.first().map(|segment| segment.base).unwrap_or_default();
        self.report.log_end = self.report.log_start;
        let mut derived = DerivedCheck::begin(files, self.report.log_start, self.state.log_start.unwrap_or_default())?;
        for (at, segment) in segments.iter().enumerate() {
            // Without a recovery point only the last segment that holds anything may be torn.
            let unknown = if Some(segment.base) < last_filled { Offset::MAX } else { Offset::ZERO };
            let durable_below = self.state.durable_end.unwrap_or(unknown);
            derived.enter(segment.base, at == 0)?;
            let Some(walked) = self.walk(segment, durable_below, &mut derived)? else {
                derived.lose_sight();
                continue;
            };
            let is_torn = self.judge(segment, &walked, durable_below);
            self.judge_aborted(segment, &walked, &mut derived)?;
            self.judge_index(segment, walked);
            self.judge_sum(segment)?;
            if is_torn {
                for past in segments.get(at + 1..).unwrap_or_default() {
                    self.add(false, past.path.clone(), 0, Some(past.base), FindingKind::PastTear);
                }
                break;
            }
        }
        self.judge_derived(derived)?;
        self.judge_end(segments);
        self.judge_gaps();
        self.judge_listed();
        Ok(())
    }

    /// Walks one segment once: structure, checksums, records and index. `None` when it is gone.
    fn walk(
        &mut self,
        segment: &SegmentInfo,
        durable_below: Offset,
        derived: &mut DerivedCheck<'_>,
    ) -> Result<Option<Walked>, InspectError> {
        let opened = self.home.fs.open(&segment.path, OpenMode::Read);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, &segment.path, e))?,
        };
        let writer = match self.state.recovery_point {
            Some(_) => Writer::Ours(self.options.index_interval_bytes),
            None => Writer::Kafka,
        };
        let mut check = IndexCheck::open(self.home, segment.base, segment.log_bytes, writer)?;
        let (base, next_base) = (segment.base, segment.next_base);
        let task = ScanTask { base, next_base, durable_below, interval_bytes: 0, may_have_gaps: true };
        let mut expected = segment.base;
        let mut failure = None;
        let scan = scan::scan_each(Arc::clone(&file), task, |position, header, window| {
            check.observe(header, position);
            let span = u64::from(header.last_offset_delta.value().unsigned_abs()) + 1;
            self.is_compacted |= header.base_offset > expected || u64::from(header.count) < span;
            let marker = marker_at(window, position, header)?;
            if let Err(failed) = derived.observe(header, expected, marker) {
                failure.get_or_insert(failed);
            }
            expected = header.next_offset();
            self.report.records += u64::from(header.count);
            self.look_at_records(segment, position, header, window)
        });
        let scan = scan.map_err(|e| IoFailure::new(IoOperation::Read, &segment.path, e))?;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        self.report.segments += 1;
        self.report.bytes += scan.file_bytes;
        self.report.batches += scan.batches;
        self.report.log_end = scan.end;
        let is_closed = segment.next_base.is_some() || self.state.was_clean();
        Ok(Some(Walked { scan, verdict: check.finish(is_closed)? }))
    }

    fn look_at_records(
        &mut self,
        segment: &SegmentInfo,
        position: u64,
        header: &BatchHeader,
        window: &mut Window,
    ) -> io::Result<()> {
        let limits = self.options.limits;
        let outcome = match walk::check_size(header, limits) {
            Err(over) => Err(over),
            Ok(()) if header.size as usize <= Window::need_max() => {
                check_records(window.at(position, header.size as usize)?, limits)
            }
            Ok(()) => check_records(&walk::read_batch(window, position, header)?, limits),
        };
        let Err(cause) = outcome else { return Ok(()) };
        let is_limit = matches!(
            cause,
            InvalidBatch::Length { .. } | InvalidBatch::Bomb { .. } | InvalidBatch::CodecDisabled { .. }
        );
        let kind = if is_limit { FindingKind::Unchecked(cause) } else { FindingKind::BadRecords(cause) };
        self.add(!is_limit, segment.path.clone(), position, Some(header.base_offset), kind);
        Ok(())
    }

    /// Puts what the scan of a segment found into the report; returns whether what follows lies past a tear.
    fn judge(&mut self, segment: &SegmentInfo, walked: &Walked, durable_below: Offset) -> bool {
        let (scan, path) = (&walked.scan, &segment.path);
        for hole in &scan.holes {
            let cause = hole.cause.clone().unwrap_or(CorruptionKind::FoundEarlier);
            let kind = FindingKind::BadBatch { bytes: hole.bytes.clone(), offsets: hole.offsets.clone(), cause };
            self.problem(path.clone(), hole.bytes.start, hole.offsets.start, kind);
        }
        self.judge_stop(segment, scan, durable_below);
        let Some(next) = segment.next_base.filter(|next| scan.end < *next) else { return false };
        let lost_end = next.min(durable_below);
        if scan.end < lost_end {
            // Whether a gap between whole segments is a loss is known once all of them were seen.
            let gap = (path.clone(), scan.kept_bytes, scan.end..lost_end);
            if self.state.log_start.is_some_and(|start| lost_end <= start) {
                self.add(false, gap.0, gap.1, Some(scan.end), FindingKind::DeletedGap(gap.2));
            } else if scan.stop.is_none() && scan.holes.is_empty() {
                self.gaps.push(gap);
            } else {
                self.problem(gap.0, gap.1, scan.end, FindingKind::Missing(gap.2));
            }
        }
        lost_end < next
    }

    fn judge_stop(&mut self, segment: &SegmentInfo, scan: &Scan, durable_below: Offset) {
        let bytes = scan.file_bytes - scan.kept_bytes;
        let (is_problem, kind) = match &scan.stop {
            None => return,
            Some(Stop::Zeros) => (false, FindingKind::ZeroTail { bytes }),
            Some(Stop::OldFormat(magic)) => (true, FindingKind::OldFormat { magic: *magic }),
            Some(Stop::Bad(cause)) => {
                // Behind the end of a segment that was sealed and synced nothing was ever written.
                let is_settled = segment.next_base.is_some_and(|next| next <= durable_below);
                let torn = FindingKind::TornTail { bytes, cause: cause.clone() };
                let bad = FindingKind::BadBatch {
                    bytes: scan.kept_bytes..scan.file_bytes,
                    offsets: scan.end..scan.end,
                    cause: cause.clone(),
                };
                (is_settled, if is_settled { bad } else { torn })
            }
        };
        self.add(is_problem, segment.path.clone(), scan.kept_bytes, Some(scan.end), kind);
    }

    fn judge_index(&mut self, segment: &SegmentInfo, walked: Walked) {
        let Walked { scan, verdict } = walked;
        let is_cut_short = match segment.next_base {
            Some(next) => scan.stop.is_some() && scan.end < next,
            None => self.state.durable_end.is_some_and(|durable_end| scan.end < durable_end),
        };
        if is_cut_short || !scan.holes.is_empty() {
            // The entries are those of the whole log, and cannot be held against what is left of it.
            return;
        }
        if let Some(problem) = verdict.offsets {
            let is_problem = self.is_index_due(segment, problem == IndexProblem::Missing);
            let path = self.home.path(segment.base, FileKind::Index);
            self.add(is_problem, path, 0, Some(segment.base), FindingKind::OffsetIndex(problem));
        }
        if let Some(problem) = verdict.times {
            let is_problem = self.is_index_due(segment, problem == IndexProblem::Missing);
            let path = self.home.path(segment.base, FileKind::TimeIndex);
            self.add(is_problem, path, 0, Some(segment.base), FindingKind::TimeIndex(problem));
        }
    }

    /// Holds a sealed segment against its sum. Batches that fail their own checks were told already.
    fn judge_sum(&mut self, segment: &SegmentInfo) -> Result<(), IoFailure> {
        if segment.next_base.is_none() {
            return Ok(());
        }
        let path = self.home.path(segment.base, FileKind::Sum);
        let verdict = match sum_check::judge(self.home, segment)? {
            SumVerdict::Unprotected => {
                self.report.unprotected += 1;
                return Ok(());
            }
            SumVerdict::Unreadable(fault) => {
                self.report.unprotected += 1;
                self.note(path, FindingKind::BadSum(fault));
                return Ok(());
            }
            SumVerdict::Compared(verdict) => verdict,
        };
        for damage in verdict.damage().iter().filter(|damage| damage.kind == DamageKind::Headers) {
            let (bytes, offsets) = (damage.bytes.clone(), damage.offsets.clone());
            let kind = FindingKind::WrongHeaders { bytes, offsets };
            self.problem(segment.path.clone(), damage.bytes.start, damage.offsets.start, kind);
        }
        for fault in &verdict.sidecars {
            self.note(self.home.path(segment.base, fault.kind), FindingKind::NotAsSealed);
        }
        match verdict.log {
            LogVerdict::Intact => self.report.intact += 1,
            LogVerdict::Stale(staleness) => self.note(path, FindingKind::StaleSum(staleness)),
            _ => {}
        }
        Ok(())
    }

    /// Whether the index files of a segment have been finished, so that what is wrong with them is damage.
    fn is_index_due(&self, segment: &SegmentInfo, is_missing: bool) -> bool {
        let is_settled = match (segment.next_base, self.state.recovery_point) {
            (Some(next), Some(point)) => next <= point || self.state.was_clean(),
            (None, _) => self.state.was_clean(),
            // Kafka finishes the index when it rolls.
            (Some(_), None) => true,
        };
        // A crash may come between the sync of a segment and the writing of its index; closing makes up for it.
        let may_lack = self.state.recovery_point.is_some() && !self.state.was_clean();
        is_settled && !(may_lack && is_missing)
    }

    /// Holds the transaction index of a segment against its batches, if all of them were seen.
    fn judge_aborted(
        &mut self,
        segment: &SegmentInfo,
        walked: &Walked,
        derived: &mut DerivedCheck<'_>,
    ) -> Result<(), InspectError> {
        let Walked { scan, .. } = walked;
        let is_short = segment.next_base.is_some_and(|next| scan.end < next);
        if is_short || !scan.holes.is_empty() || matches!(scan.stop, Some(Stop::Bad(_) | Stop::OldFormat(_))) {
            derived.lose_sight();
        }
        let Some(fault) = derived.judge_aborted(segment.base)? else { return Ok(()) };
        let is_problem = self.is_index_due(segment, fault == IndexFault::Missing);
        // While a segment takes appends its file is behind or not there at all.
        if is_problem || segment.next_base.is_some() {
            let path = self.home.path(segment.base, FileKind::TxnIndex);
            self.add(is_problem, path, 0, Some(segment.base), FindingKind::TxnIndex(fault));
        }
        Ok(())
    }

    fn judge_derived(&mut self, derived: DerivedCheck<'_>) -> Result<(), InspectError> {
        let (end, is_clean) = (self.report.log_end, self.state.was_clean());
        // Epochs are written down before the recovery point rises over their start; Kafka does so at once.
        let settled = if is_clean { end } else { self.state.recovery_point.unwrap_or(end) };
        for Mismatch { file, offset, kind } in derived.finish(end, settled)? {
            // A crash may leave a snapshot of what was not synced.
            self.add(kind != FindingKind::SnapshotPastEnd, file, 0, offset, kind);
        }
        Ok(())
    }

    /// Durable records that are gone from the end.
    fn judge_end(&mut self, segments: &[SegmentInfo]) {
        let end = self.report.log_end;
        if let (Some(durable_end), Some(last)) = (self.state.durable_end.filter(|point| end < *point), segments.last())
        {
            let kind = FindingKind::EndsBelowRecoveryPoint(end..durable_end);
            self.problem(last.path.clone(), last.log_bytes, end, kind);
        }
    }

    fn judge_gaps(&mut self) {
        for (path, position, offsets) in std::mem::take(&mut self.gaps) {
            let from = offsets.start;
            if self.is_compacted || self.state.cleaned_to.is_some_and(|cleaned_to| offsets.end <= cleaned_to) {
                self.add(false, path, position, Some(from), FindingKind::CompactionGap(offsets));
            } else {
                self.problem(path, position, from, FindingKind::Missing(offsets));
            }
        }
    }

    /// Damage that an opening found and that does not show in the bytes.
    fn judge_listed(&mut self) {
        for damage in std::mem::take(&mut self.state.damage) {
            let from = damage.offsets.start;
            let is_told = self.report.problems.iter().any(|problem| problem.offset == Some(from));
            if !is_told {
                self.problem(damage.file, damage.bytes.start, from, FindingKind::ListedAsDamaged(damage.offsets));
            }
        }
    }
}

/// The records of a batch whose checksum is right, decompressed.
fn check_records(bytes: &[u8], limits: Limits) -> Result<(), InvalidBatch> {
    let view = BatchView::parse(bytes, u32::MAX)?;
    let body = view.body(limits.decompressed_bytes_max)?;
    body.records().try_for_each(|record| record.map(drop))
}
