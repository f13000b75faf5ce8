//! Retention: which segments are old, and how they go (Kafka's `UnifiedLog.deleteOldSegments`).
//!
//! The order, and the loss that another one would cause:
//! 1. The log start is raised on disk. A crash after the first name changed would otherwise find a log whose beginning
//!    is missing, which is damage.
//! 2. Readers are shown the log without the segments. Who has an older view goes on with the descriptors it holds; who
//!    has none yet finds no file, looks again, and is told the new log start.
//! 3. The files get the names under which they wait, and are unlinked by a later tick, `file.delete.delay.ms` after. No
//!    directory sync is made for it: names that come back with a power loss are those of segments below the log start,
//!    which nobody reads, and which the next opening or tick removes.
//!
//! On a full disk the log start goes into the sync state in place, which takes no space, and is synced there: so the
//! guarantee is the same, for retention and for [`PartitionLog::advance_log_start`]. Nothing else here needs space but
//! the new segment when the active one goes, and then the active one stays.

use std::sync::Arc;
use std::time::Duration;

use super::view::LogView;
use super::{LogCore, PartitionLog, RoundState};
use crate::commit::Marks;
use crate::config::{LogConfig, RetentionBasis};
use crate::error::{ChangeError, ReadError};
use crate::segment::Segment;
use crate::units::{Offset, TimestampMs};

/// [`PartitionLog::tick`] looks for old segments at most so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a segment was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeletedBecause {
    /// It lies wholly below the log start.
    LogStart,
    /// It is older than `retention.ms`.
    Time,
    /// The log is larger than `retention.bytes` without it.
    Size,
}

/// A segment that retention took out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its base offset.
    pub base: Offset,
    /// Size of its `.log`, in bytes.
    pub bytes: u64,
    /// Why it went.
    pub because: DeletedBecause,
}

/// What [`PartitionLog::enforce_retention`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retained {
    /// What went, oldest first.
    pub deleted: Vec<Deleted>,
    /// The log start after it.
    pub log_start: Offset,
}

impl Retained {
    /// Bytes of the logs that went. They are free once the files are unlinked.
    pub fn bytes(&self) -> u64 {
        self.deleted.iter().map(|deleted| deleted.bytes).sum()
    }
}

/// Segments that are out of the log and not off the disk, oldest first.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    segments: Vec<LeavingSegment>,
    /// Monotonic time of the last look.
    looked: Option<Duration>,
}

#[derive(Debug)]
struct LeavingSegment {
    base: Offset,
    /// Monotonic time at which its files got their other names; `None` while they have not.
    renamed: Option<Duration>,
}

impl Leaving {
    /// These are out of the log, and their files have their other names since `now`. What waits under the names of an
    /// earlier segment with the same base offset was removed before.
    pub(super) fn add_renamed(&mut self, bases: &[Offset], now: Duration) {
        self.segments.retain(|leaving| !bases.contains(&leaving.base));
        self.segments.extend(bases.iter().map(|base| LeavingSegment { base: *base, renamed: Some(now) }));
    }

    /// Every segment file is gone: what comes under these names from now on is another's.
    pub(super) fn forget(&mut self) {
        self.segments.clear();
    }
}

/// A time that cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold;

/// What the planner goes by, of one segment. Times are asked only where they decide.
pub(crate) trait Facts {
    /// First offset of the segment.
    fn base(&self) -> Offset;
    /// First offset after it.
    fn end(&self) -> Offset;
    fn bytes(&self) -> u64;
    /// The one that takes appends.
    fn is_active(&self) -> bool;
    /// Largest timestamp of its records, if any has one.
    fn largest_timestamp(&self) -> Result<Option<TimestampMs>, Untold>;
    /// When it was last appended to.
    fn last_written(&self) -> Result<TimestampMs, Untold>;
}

/// Which segments go, from the oldest on, and why. Nothing at or past the high watermark goes, and an empty active
/// segment stays. By log start the active one stays too, as in Kafka.
pub(crate) fn plan(facts: &[impl Facts], marks: &Marks, config: &LogConfig, now: TimestampMs) -> Vec<Deleted> {
    let deletes = config.cleanup_policy.deletes();
    let total = facts.iter().map(Facts::bytes).fold(0, u64::saturating_add);
    let mut surplus = config.retention_bytes.filter(|_| deletes).map(|limit| total.saturating_sub(limit));
    let mut planned = Vec::new();
    for segment in facts {
        let is_replicated = segment.end() <= marks.high_watermark;
        if !is_replicated || (segment.is_active() && segment.bytes() == 0) {
            break;
        }
        let is_hidden = !segment.is_active() && segment.end() <= marks.log_start;
        let because = if is_hidden {
            DeletedBecause::LogStart
        } else if deletes && is_expired(segment, config, now) {
            DeletedBecause::Time
        } else if surplus.is_some_and(|surplus| surplus > 0 && surplus >= segment.bytes()) {
            DeletedBecause::Size
        } else {
            break;
        };
        surplus = surplus.map(|surplus| surplus.saturating_sub(segment.bytes()));
        planned.push(Deleted { base: segment.base(), bytes: segment.bytes(), because });
    }
    planned
}

/// Whether `retention.ms` has passed. What cannot be told is not deleted.
fn is_expired(segment: &impl Facts, config: &LogConfig, now: TimestampMs) -> bool {
    let Some(limit) = config.retention_ms else { return false };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    counted_from(segment, config.retention_basis, now).is_ok_and(|from| now.since(from) > limit)
}

/// What the age of a segment is counted from. A record time of 0 or less, or one that is still to come, says nothing of
/// the age: it counts as the time of the append. So records from the future do not hold a segment for ever, and records
/// without a time, or with the 0 of an unset one, do not let it go at once. Any other time is taken at its word, 1970 too.
fn counted_from(segment: &impl Facts, basis: RetentionBasis, now: TimestampMs) -> Result<TimestampMs, Untold> {
    if basis == RetentionBasis::AppendTime {
        return segment.last_written();
    }
    let recorded = segment.largest_timestamp()?.filter(|largest| largest.value() > 0 && *largest <= now);
    match (recorded, basis) {
        (None, _) => segment.last_written(),
        (Some(recorded), RetentionBasis::Smaller) => Ok(recorded.min(segment.last_written()?)),
        (Some(recorded), _) => Ok(recorded),
    }
}

/// A segment of the published log.
struct OfView<'a> {
    segment: &'a Segment,
    end: Offset,
    /// Whether `segment` takes appends.
    is_active: bool,
    active_largest: Option<TimestampMs>,
    bytes: u64,
    now: TimestampMs,
}

impl Facts for OfView<'_> {
    fn base(&self) -> Offset {
        self.segment.base()
    }

    fn end(&self) -> Offset {
        self.end
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_active(&self) -> bool {
        self.is_active
    }

    fn largest_timestamp(&self) -> Result<Option<TimestampMs>, Untold> {
        if self.is_active {
            return Ok(self.active_largest);
        }
        match self.segment.largest_timestamp() {
            Err(ReadError::Io(_)) => Err(Untold),
            // Damaged: nobody can tell any more, and the file's own time has to do.
            Err(_) => Ok(None),
            Ok(largest) => Ok(largest),
        }
    }

    fn last_written(&self) -> Result<TimestampMs, Untold> {
        self.segment.last_written(self.now, self.is_active).map_err(|_| Untold)
    }
}

impl PartitionLog {
    /// Deletes what the settings no longer keep, now: segments wholly below the log start; and, where `cleanup.policy`
    /// says `delete`, the oldest ones past `retention.ms` (counted from what `retention_basis` says) or `retention.bytes`
    /// (while the log would hold that many bytes without them). Only whole segments below the high watermark; the active
    /// one goes when all of it is expired, and a new one begins first. Returns what went. [`PartitionLog::tick`] does the
    /// same, at most once a second.
    ///
    /// The log start rises on disk before any file goes. The files stay under another name (`.deleted`) for
    /// `file.delete.delay.ms`, and are unlinked by a later tick, by closing or by the next opening. Slices handed out go
    /// on reading them; reads below the new start get [`ReadError::OutOfRange`].
    ///
    /// Any thread. It waits for a commit round in progress, and appends do not wait for it. Works on a full disk.
    ///
    /// ```
    /// # use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};
    /// # let dir = tempfile::tempdir()?;
    /// let config = LogConfig { retention_bytes: Some(0), ..LogConfig::default() };
    /// let log = PartitionLog::open(dir.path(), config)?;
    /// let epoch = LeaderEpoch::new(0).unwrap();
    /// log.append(BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build()?, AppendAs::Client { epoch })?;
    /// let retained = log.enforce_retention()?;
    /// assert_eq!((retained.deleted.len(), retained.log_start), (1, log.log_end()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// I/O before anything went, after which the call may be repeated; a failed or closed log. Files that could not be
    /// renamed or unlinked are no error: they are out of the log, and tried again.
    pub fn enforce_retention(&self) -> Result<Retained, ChangeError> {
        let mut round = self.core.round.lock();
        self.core.retain(&mut round)
    }
}

impl LogCore {
    /// Retention's part of a tick; returns how many segments went. Skipped while a round is under way, and between looks.
    pub(super) fn maybe_retain(&self) -> Result<usize, ChangeError> {
        let Some(mut round) = self.round.try_lock() else { return Ok(0) };
        self.finish_leaving(&mut round, false);
        let now = self.clock.monotonic();
        if round.leaving.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_INTERVAL) {
            return Ok(0);
        }
        round.leaving.looked = Some(now);
        Ok(self.retain(&mut round)?.deleted.len())
    }

    /// Unlinks what retention took out, where its delay has passed. Skipped while a round is under way.
    pub(super) fn unlink_leaving(&self) {
        if let Some(mut round) = self.round.try_lock() {
            self.finish_leaving(&mut round, false);
        }
    }

    /// Unlinks everything that has left the log, without waiting for its delay: the disk is full, and what has a file open
    /// goes on reading it. Returns whether anything went.
    pub(super) fn free_leaving(&self) -> bool {
        let mut round = self.round.lock();
        let before = round.leaving.segments.len();
        self.finish_leaving(&mut round, true);
        round.leaving.segments.len() < before
    }

    fn retain(&self, round: &mut RoundState) -> Result<Retained, ChangeError> {
        self.writer.lock().check_open()?;
        let view = self.view.read().clone();
        let config = Arc::clone(&self.config.read());
        let mut planned = self.plan_of(&view, &config)?;
        if planned.len() == view.segments.len() && !self.replace_active(&view)? {
            planned.pop();
        }
        let log_start = view.marks.log_start;
        if planned.is_empty() {
            return Ok(Retained { deleted: planned, log_start });
        }
        let next_base = view.segments.get(planned.len()).map(|segment| segment.base());
        let end = next_base.unwrap_or(view.marks.log_end);
        self.raise_log_start(end.max(log_start))?;
        let gone: Vec<Arc<Segment>> = view.segments.iter().take(planned.len()).cloned().collect();
        drop(view);
        self.take_out(&gone, &config);
        self.forget_damage_of(&gone)?;
        let leaving = gone.iter().map(|segment| LeavingSegment { base: segment.base(), renamed: None });
        // A cleaned segment may wait under the names that these are about to get.
        let is_taken = |known: &LeavingSegment| gone.iter().any(|segment| segment.base() == known.base);
        round.leaving.segments.retain(|known| !is_taken(known));
        round.leaving.segments.extend(leaving);
        self.rename_leaving(round);
        let retained = Retained { deleted: planned, log_start: end.max(log_start) };
        self.metrics.deleted_segments.add(retained.deleted.len() as u64);
        self.metrics.deleted_bytes.add(retained.bytes());
        Ok(retained)
    }

    /// Nothing changes meanwhile but that appends make the log longer: the round is locked.
    fn plan_of(&self, view: &LogView, config: &LogConfig) -> Result<Vec<Deleted>, ChangeError> {
        let now = self.clock.wall();
        // Of an append after the view was taken, too: then the active one stays, whatever is planned.
        let active_largest = self.writer.lock().cursor.largest_timestamp().map(|(largest, _)| largest);
        let mut facts = Vec::with_capacity(view.segments.len());
        for (at, segment) in view.segments.iter().enumerate() {
            let next = view.segments.get(at + 1).map(|next| next.base());
            let (is_active, end) = (next.is_none(), next.unwrap_or(view.marks.log_end));
            let bytes = if is_active { view.active_bytes } else { segment.size_on_disk()? };
            facts.push(OfView { segment, end, is_active, active_largest, bytes, now });
        }
        Ok(plan(&facts, &view.marks, config, now))
    }

    /// Rolls, so that the active segment of `view` can go. `false` when it has grown since, or there is no space for a
    /// new one: then it stays for now.
    fn replace_active(&self, view: &LogView) -> Result<bool, ChangeError> {
        let mut writer = self.writer.lock();
        writer.check_open()?;
        let log_end = writer.log_end;
        if log_end != view.marks.log_end || writer.active.is_sealed() || writer.position != view.active_bytes {
            return Ok(false);
        }
        match self.roll(&mut writer, log_end) {
            Err(failure) if failure.is_storage_full() => Ok(false),
            rolled => rolled.map(|()| true).map_err(Into::into),
        }
    }

    /// Shows readers the log without the segments `gone`, which are its first ones, and forgets what was to be done for
    /// them.
    fn take_out(&self, gone: &[Arc<Segment>], config: &LogConfig) {
        let mut writer = self.writer.lock();
        let is_gone = |base: Offset| gone.iter().any(|segment| segment.base() == base);
        // What was not synced yet need not be: it lies below the log start.
        writer.unsealed.retain(|unsealed| !is_gone(unsealed.segment.base()));
        writer.derived.pending.retain(|snapshot| !is_gone(snapshot.at));
        self.publish(&mut writer, config, |view| {
            view.segments = Arc::new(view.segments.iter().skip(gone.len()).cloned().collect());
        });
        for segment in gone {
            segment.mark_leaving();
        }
    }

    /// The list of damage would go on about bytes that are gone. It needs space to be written; what is left in it is
    /// passed over by the next opening.
    fn forget_damage_of(&self, gone: &[Arc<Segment>]) -> Result<(), ChangeError> {
        if gone.iter().all(|segment| segment.holes().is_empty()) {
            return Ok(());
        }
        self.keep_damage().map(drop)
    }

    /// Gives the files of segments that left their other names. One whose files cannot be renamed is tried again.
    fn rename_leaving(&self, round: &mut RoundState) {
        let now = self.clock.monotonic();
        for leaving in round.leaving.segments.iter_mut().filter(|leaving| leaving.renamed.is_none()) {
            match self.home.set_deleted(leaving.base) {
                Ok(()) => leaving.renamed = Some(now),
                Err(_) => self.metrics.side_file_failures.add(1),
            }
        }
    }

    /// Unlinks what has waited long enough; with `now`, everything. Returns whether nothing is left of that.
    pub(super) fn finish_leaving(&self, round: &mut RoundState, at_once: bool) -> bool {
        // The names in the directory of a log that is over may be those of the next one.
        if round.leaving.segments.is_empty() || self.view.read().is_closed {
            return true;
        }
        if round.leaving.segments.iter().any(|leaving| leaving.renamed.is_none()) {
            self.rename_leaving(round);
        }
        let delay = Duration::from_millis(self.config.read().file_delete_delay_ms);
        let now = self.clock.monotonic();
        let is_due = |renamed: Duration| at_once || now.saturating_sub(renamed) >= delay;
        round.leaving.segments.retain(|leaving| {
            let is_due = leaving.renamed.is_some_and(is_due);
            let is_gone = is_due && self.home.remove_deleted(leaving.base).is_ok();
            self.metrics.side_file_failures.add(u64::from(is_due && !is_gone));
            !is_gone
        });
        round.leaving.segments.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CleanupPolicy, LogConfig};

    /// Ends at `end` and holds ten bytes; `None` for a time that cannot be told.
    struct Planned {
        end: i64,
        largest: Option<i64>,
        written: Option<i64>,
        is_active: bool,
    }

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    impl Facts for Planned {
        fn base(&self) -> Offset {
            offset(self.end - 10)
        }
        fn end(&self) -> Offset {
            offset(self.end)
        }
        fn bytes(&self) -> u64 {
            10
        }
        fn is_active(&self) -> bool {
            self.is_active
        }
        fn largest_timestamp(&self) -> Result<Option<TimestampMs>, Untold> {
            Ok(self.largest.map(TimestampMs::new))
        }
        fn last_written(&self) -> Result<TimestampMs, Untold> {
            self.written.map(TimestampMs::new).ok_or(Untold)
        }
    }

    fn segment(end: i64, largest: Option<i64>, written: Option<i64>) -> Planned {
        Planned { end, largest, written, is_active: end == 40 }
    }

    fn planned(facts: &[Planned], log_start: i64, config: &LogConfig) -> Vec<(i64, DeletedBecause)> {
        let (log_start, end) = (offset(log_start), offset(40));
        let marks = Marks { log_start, last_stable: end, high_watermark: end, durable_end: end, log_end: end };
        let plan = plan(facts, &marks, config, TimestampMs::new(1000));
        plan.into_iter().map(|deleted| (deleted.base.value(), deleted.because)).collect()
    }

    #[test]
    fn each_segment_has_its_own_reason_and_the_first_that_has_none_ends_the_plan() {
        use DeletedBecause::{LogStart, Size, Time};
        let recent = |end| segment(end, Some(990), Some(990));
        let facts = [recent(10), segment(20, Some(100), Some(990)), recent(30), recent(40)];
        let config = |ms, bytes| LogConfig { retention_ms: ms, retention_bytes: bytes, ..LogConfig::default() };
        assert_eq!(planned(&facts, 15, &config(Some(500), Some(20))), [(0, LogStart), (10, Time)]);
        assert_eq!(planned(&facts, 15, &config(Some(500), Some(10))), [(0, LogStart), (10, Time), (20, Size)]);
        assert_eq!(planned(&facts, 0, &config(Some(500), None)), [], "a young one in front holds the others");
        assert_eq!(planned(&facts, 40, &config(None, None)), [(0, LogStart), (10, LogStart), (20, LogStart)]);
        let compact = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..config(Some(0), Some(0)) };
        assert_eq!(planned(&facts, 0, &compact), []);
    }

    #[test]
    fn what_cannot_be_told_is_not_deleted() {
        let config = LogConfig { retention_ms: Some(500), ..LogConfig::default() };
        let goes = |largest, written| !planned(&[segment(10, largest, written)], 0, &config).is_empty();
        assert!(goes(Some(1), None), "1970 is taken at its word");
        assert!(!goes(Some(0), None) && !goes(Some(-1), None) && !goes(None, None) && !goes(Some(1001), None));
        assert!(goes(Some(0), Some(499)) && goes(Some(1001), Some(499)) && goes(None, Some(-5)));
        assert!(!goes(Some(0), Some(500)) && !goes(Some(500), Some(1)), "exactly as old as allowed");
        let smaller = LogConfig { retention_basis: RetentionBasis::Smaller, ..config };
        assert!(!planned(&[segment(10, Some(900), Some(100))], 0, &smaller).is_empty());
    }
}
