//! Scrubbing: going through sealed segments for what time did to them, a bounded number of bytes at a time.
//!
//! | found | done |
//! |---|---|
//! | a batch, or header bytes, that are not what was sealed | quarantined: reads name the next readable offset, the next opening knows |
//! | an index, or the aborted transactions, that differ from what was sealed | built again from the log, and replaced |
//! | a producer snapshot that fails its own check | removed: an older one and a longer replay say the same |
//! | batches that are valid and not those of the sum: another program wrote here | reported; indexes and sum made again |
//! | no sum, or one that cannot be read | made, from batches that are all valid |
//!
//! It reads through descriptors of its own and holds no lock while it does: appends, reads and commit rounds go on, and a
//! segment that was cut, replaced or deleted meanwhile is left alone. Rounds wait while a finding is put down: for
//! small files, or, in a segment with transactions whose aborted ones have to be derived again, for a walk over it.
//!
//! Pages that it brings into the cache are left to the system: it cannot tell them from those that readers brought.

use std::io;
use std::sync::{Arc, Weak};

use super::derived::{derived_bytes, producer_limits};
use super::view::LogView;
use super::{LogCore, PartitionLog};
use crate::error::{ChangeError, CorruptionKind, Damage, IoFailure, IoOperation, ReadError, SmallFileFault};
use crate::fs::OpenMode;
use crate::index::{IndexCursor, LeaderEpochs, ProducerTable, SegmentIndex};
use crate::record::BatchHeader;
use crate::segment::sum::{
    DamageKind, LogDamage, LogVerdict, LogWalk, SidecarFault, SidecarFaultKind, SidecarStamp, Sidecars, Staleness, Sum,
    Verdict, Walked, verify,
};
use crate::segment::{FileKind, Hole, Segment, SegmentFile};
use crate::units::Offset;

/// Where scrubbing a log has come to. Belongs to one log. Where it is kept over restarts, [`ScrubCursor::position`] is
/// what to keep: a segment that was begun is begun again.
///
/// ```
/// use alluvium::{Offset, ScrubCursor};
/// let cursor = ScrubCursor::starting_at(Offset::new(700).unwrap());
/// assert_eq!(cursor.position().value(), 700);
/// assert_eq!(ScrubCursor::default().position(), Offset::ZERO);
/// ```
#[derive(Debug, Default)]
pub struct ScrubCursor {
    next: Offset,
    walk: Option<Box<SegmentWalk>>,
}

impl ScrubCursor {
    /// Goes on with the first segment whose base offset is `position` or more.
    pub fn starting_at(position: Offset) -> Self {
        Self { next: position, walk: None }
    }

    /// Base offset of the segment that is being looked at, or an offset from which the next one is looked for.
    pub fn position(&self) -> Offset {
        self.next
    }
}

/// What one call of [`PartitionLog::scrub`] did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Scrubbed {
    /// Bytes of logs that were read.
    pub bytes: u64,
    /// What was found in the segment that was finished, if one was.
    pub segment_done: Option<SegmentScrub>,
    /// The cursor came to the end of what is sealed and durable; the next call begins with the oldest segment again.
    pub is_round_done: bool,
}

/// What scrubbing found in one segment, and did about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentScrub {
    /// Base offset of the segment.
    pub base: Offset,
    /// Length of its log in bytes.
    pub bytes: u64,
    /// What is to be thought of the log.
    pub log: LogVerdict,
    /// Damage that was not known before. It is quarantined: see [`PartitionLog::repair`].
    pub quarantined: Vec<Damage>,
    /// Files beside the log that were wrong. They were built again, and a wrong snapshot removed, unless `failure` says
    /// otherwise.
    pub sidecars: Vec<SidecarFault>,
    /// Whether a sum was written: there was none, it was stale or unreadable, or the files beside the log changed.
    pub is_sum_written: bool,
    /// A file that could not be written, a full disk for one. The next round finds and tries the same again; what was
    /// quarantined is in force all the same.
    pub failure: Option<IoFailure>,
}

/// A segment on its way.
#[derive(Debug)]
struct SegmentWalk {
    /// Not held: a segment that is held is not cut in place.
    segment: Weak<Segment>,
    walk: LogWalk,
    sum: Option<Arc<Sum>>,
    /// It was written by a newer version, and is not to be replaced.
    is_sum_newer: bool,
    index: SegmentIndex,
    cursor: IndexCursor,
    /// The smallest offset that the next batch can have, and where the next segment begins.
    expected: Offset,
    limit: Option<Offset>,
    epochs: Arc<LeaderEpochs>,
    /// From the first to the last batch whose epoch is not the one that led then.
    other_epochs: Option<LogDamage>,
    has_control: bool,
}

impl SegmentWalk {
    /// Judges the next batch; returns its bytes, `None` at the end.
    fn step(&mut self) -> io::Result<Option<u64>> {
        let Self { walk, index, cursor, expected, limit, epochs, other_epochs, has_control, .. } = self;
        walk.step_with(|position, header| {
            // One that is misplaced is no way into the log, and indexes only rise.
            if header.base_offset >= *expected && limit.is_none_or(|limit| header.last_offset() < limit) {
                cursor.observe(header, position, index);
                *expected = header.next_offset();
            }
            *has_control |= header.attributes.is_control();
            let led = epochs.epoch_of(header.base_offset);
            if led.is_some() && header.leader_epoch != led {
                note_epoch(other_epochs, position, header);
            }
        })
    }

    fn is_of(&self, view: &LogView) -> Option<usize> {
        let segment = self.segment.upgrade()?;
        let at = view.segment_of(segment.base());
        view.segments.get(at).filter(|found| Arc::ptr_eq(found, &segment)).map(|_| at)
    }
}

fn note_epoch(others: &mut Option<LogDamage>, position: u64, header: &BatchHeader) {
    let (bytes_end, offsets_end) = (position + u64::from(header.size), header.next_offset());
    let others = others.get_or_insert_with(|| LogDamage {
        bytes: position..bytes_end,
        offsets: header.base_offset..offsets_end,
        kind: DamageKind::Headers,
    });
    (others.bytes.end, others.offsets.end) = (bytes_end, offsets_end);
}

impl PartitionLog {
    /// Looks at the next `bytes_max` bytes or so of what is sealed and durable, oldest segment first, and goes on there
    /// with the next call: at least one batch, at most to the end of a segment. So a caller keeps to a byte rate, by
    /// waiting between calls. See the table at the top of this module for what is found and what is done about it.
    ///
    /// Any thread, one at a time for a cursor. Appends and reads do not wait for it. Damage that it quarantines outlives the
    /// process; so does every file that it builds again.
    ///
    /// ```
    /// # use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, PartitionLog, ScrubCursor, TimestampMs};
    /// # let dir = tempfile::tempdir()?;
    /// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// let epoch = LeaderEpoch::new(0).unwrap();
    /// log.append(BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build()?, AppendAs::Client { epoch })?;
    /// log.roll()?;
    /// log.flush()?;
    /// let mut cursor = ScrubCursor::default();
    /// let scrubbed = log.scrub(&mut cursor, 1 << 20)?;
    /// let segment = scrubbed.segment_done.expect("it is a small one");
    /// assert!(segment.quarantined.is_empty() && segment.sidecars.is_empty());
    /// assert!(log.scrub(&mut cursor, 1 << 20)?.is_round_done);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReadError::Io`] when bytes cannot be read, or the log latched: nothing is said of that segment, and the cursor
    /// is past it. [`ReadError::Closed`].
    pub fn scrub(&self, cursor: &mut ScrubCursor, bytes_max: u64) -> Result<Scrubbed, ReadError> {
        let mut scrubbed = Scrubbed::default();
        let Some(mut walk) = self.core.next_walk(cursor)? else {
            cursor.next = Offset::ZERO;
            return Ok(Scrubbed { is_round_done: true, ..scrubbed });
        };
        loop {
            let failed = |e| IoFailure::new(IoOperation::Read, self.core.home.path(cursor.next, FileKind::Log), e);
            match walk.step() {
                Err(e) => {
                    let failure = failed(e);
                    cursor.next = cursor.next.next().unwrap_or_default();
                    return Err(failure.into());
                }
                Ok(Some(bytes)) => scrubbed.bytes += bytes,
                Ok(None) => break,
            }
            if scrubbed.bytes >= bytes_max {
                cursor.walk = Some(walk);
                return Ok(scrubbed);
            }
        }
        let base = cursor.next;
        cursor.next = base.next().unwrap_or_default();
        scrubbed.segment_done = self.core.settle_walk(*walk)?;
        Ok(scrubbed)
    }
}

impl LogCore {
    /// The walk that goes on, or that of the next segment; `None` at the end of what is sealed and durable.
    fn next_walk(&self, cursor: &mut ScrubCursor) -> Result<Option<Box<SegmentWalk>>, ReadError> {
        let view = self.view.read().clone();
        if view.is_closed {
            return Err(ReadError::Closed);
        }
        if let Some(walk) = cursor.walk.take()
            && walk.is_of(&view).is_some()
        {
            return Ok(Some(walk));
        }
        let first = view.segments.partition_point(|segment| segment.base() < cursor.next);
        let next = view.segments.get(first + 1).filter(|next| next.base() <= view.marks.durable_end);
        let (Some(segment), Some(_)) = (view.segments.get(first), next) else { return Ok(None) };
        cursor.next = segment.base();
        match self.begin_walk(segment, &view) {
            // It was deleted or cut just now: the log as it is tells what is next.
            Err(failure) if failure.source.kind() == io::ErrorKind::NotFound && !self.shows(segment) => {
                drop(view);
                self.next_walk(cursor)
            }
            Err(failure) => {
                cursor.next = cursor.next.next().unwrap_or_default();
                Err(failure.into())
            }
            Ok(walk) => Ok(Some(Box::new(walk))),
        }
    }

    /// Whether the log has this segment still.
    pub(super) fn shows(&self, segment: &Arc<Segment>) -> bool {
        let view = self.view.read();
        view.segments.get(view.segment_of(segment.base())).is_some_and(|found| Arc::ptr_eq(found, segment))
    }

    fn begin_walk(&self, segment: &Arc<Segment>, view: &LogView) -> Result<SegmentWalk, IoFailure> {
        let path = segment.log_path();
        let file = self.home.open(&path, OpenMode::Read)?;
        let (sum, is_sum_newer) = match segment.read_sum()? {
            Ok(sum) => (sum.map(Arc::new), false),
            Err(fault) => (None, matches!(fault, SmallFileFault::Version(_))),
        };
        let bounds = segment.walk_bounds();
        let walk = LogWalk::new(file, bounds, sum.clone()).map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
        Ok(SegmentWalk {
            segment: Arc::downgrade(segment),
            walk,
            sum,
            is_sum_newer,
            index: SegmentIndex::default(),
            cursor: IndexCursor::new(bounds.base, bounds.interval_bytes),
            expected: bounds.base,
            limit: bounds.next_base,
            epochs: Arc::clone(&view.epochs),
            other_epochs: None,
            has_control: false,
        })
    }

    /// Acts on what a walk found. `None` when the segment is not in the log any more: then it says nothing.
    fn settle_walk(&self, walk: SegmentWalk) -> Result<Option<SegmentScrub>, ReadError> {
        // A round or a truncation would change what is looked at.
        let _round = self.round.lock();
        let view = self.view.read().clone();
        let Some(at) = walk.is_of(&view) else { return Ok(None) };
        let Some(segment) = view.segments.get(at) else { return Ok(None) };
        let (sum, is_sum_newer, has_control) = (walk.sum, walk.is_sum_newer, walk.has_control);
        let walked = walk.walk.finish();
        let is_current = segment.is_index_saved();
        // One that cannot be read is as good as none.
        let stamps = segment.stamps().unwrap_or_default();
        let found = sum.as_ref().filter(|_| !is_current).map_or(stamps, |sum| *sum.sidecars());
        let mut verdict = verify(sum.as_deref(), &walked, &found);
        verdict.log = settled(verdict.log, &walked, walk.other_epochs);
        let mut index = walk.index;
        walk.cursor.push_largest(&mut index.times);
        let looked =
            Looked { view: &view, at, segment, sum, is_sum_newer, has_control, walked, verdict, index, stamps };
        Ok(Some(self.act(looked)?))
    }

    /// Quarantines what is damaged, and has the files beside the log as they should be. The round is locked.
    fn act(&self, mut looked: Looked<'_>) -> Result<SegmentScrub, ReadError> {
        let segment = looked.segment;
        let mut done = SegmentScrub {
            base: segment.base(),
            bytes: looked.walked.log_bytes(),
            log: looked.verdict.log.clone(),
            quarantined: Vec::new(),
            sidecars: Vec::new(),
            is_sum_written: false,
            failure: None,
        };
        let known = segment.holes();
        let is_known = |hole: &&Hole| known.iter().any(|known| covers(known, hole));
        let holes: Vec<Hole> = looked.verdict.damage().iter().map(hole_of).collect();
        done.quarantined = holes.iter().filter(|hole| !is_known(hole)).map(|hole| segment.damage(hole)).collect();
        if self.writer.lock().check_open().is_err() {
            // A failed log's files are the next opening's.
            segment.add_holes(holes);
            return Ok(done);
        }
        self.quarantine(segment, holes).map_err(refused)?;
        let wrong = self.wrong_sidecars(&mut looked)?;
        let snapshot = self.is_snapshot_bad(segment.base())?;
        done.sidecars.clone_from(&wrong.faults);
        done.sidecars
            .extend(snapshot.then_some(SidecarFault { kind: FileKind::Snapshot, fault: SidecarFaultKind::Invalid }));
        let changed = self.change_files_of(&looked, &wrong, snapshot, &mut done.is_sum_written);
        done.failure = changed.map_err(refused)?;
        Ok(done)
    }

    /// Which of the files beside the log have to be written again, and those that are wrong.
    fn wrong_sidecars(&self, looked: &mut Looked<'_>) -> Result<WrongSidecars, ReadError> {
        let Looked { view, at, segment, verdict, stamps, .. } = looked;
        let is_damaged = !verdict.damage().is_empty();
        let is_sum_trusted = looked.sum.is_some() && !matches!(verdict.log, LogVerdict::Stale(_));
        let right = Sidecars {
            index: Some(SidecarStamp::of(&looked.index.offsets.encode())),
            time_index: Some(SidecarStamp::of(&looked.index.times.encode())),
            ..*stamps
        };
        let is_index_right = (right.index, right.time_index) == (stamps.index, stamps.time_index);
        let mut faults = std::mem::take(&mut verdict.sidecars);
        if !is_damaged && is_index_right {
            // Built again since the sum was written: it is the sum that is behind.
            faults.retain(|fault| !matches!(fault.kind, FileKind::Index | FileKind::TimeIndex));
        }
        let is_current = segment.is_index_saved();
        let is_index_wrong = faults.iter().any(|fault| fault.kind != FileKind::TxnIndex)
            || !is_current
            || (!is_sum_trusted && !is_damaged && !is_index_right);
        let is_txn_told = is_sum_trusted && is_current && faults.iter().all(|fault| fault.kind != FileKind::TxnIndex);
        let may_differ = looked.has_control || stamps.txn_index.is_some() || is_sum_trusted;
        let aborted = if is_txn_told || is_damaged || !may_differ {
            None
        } else {
            let aborted = self.derive_aborted(view, *at)?;
            let stamp = (!aborted.entries().is_empty()).then(|| SidecarStamp::of(&aborted.encode()));
            if stamp == stamps.txn_index {
                faults.retain(|fault| fault.kind != FileKind::TxnIndex);
            }
            (stamp != stamps.txn_index).then_some(aborted)
        };
        if is_damaged && is_index_wrong {
            // Around the damage, as an opening does.
            segment.judge_again(view.extent_of(*at)?.end)?;
        } else if is_index_wrong {
            segment.put_index(std::mem::take(&mut looked.index));
        }
        let must_save = is_index_wrong || aborted.is_some();
        if let Some(aborted) = aborted {
            segment.put_aborted(aborted);
        } else if !is_current && is_damaged {
            self.aborted_in(view, *at)?;
        }
        Ok(WrongSidecars { faults, must_save })
    }

    /// Whether the producer snapshot at `base` fails its own check. The lack of one says nothing.
    fn is_snapshot_bad(&self, base: Offset) -> Result<bool, IoFailure> {
        let name = SegmentFile::live(base, FileKind::Snapshot).name();
        let Some(bytes) = derived_bytes(&self.home, &name)? else { return Ok(false) };
        let limits = producer_limits(&self.config.read());
        Ok(ProducerTable::decode_at(base, &bytes, self.clock.wall(), &limits).is_err())
    }

    /// Writes the files that have to be, durably.
    fn change_files_of(
        &self,
        looked: &Looked<'_>,
        wrong: &WrongSidecars,
        is_snapshot_bad: bool,
        is_sum_written: &mut bool,
    ) -> Result<Option<IoFailure>, ChangeError> {
        let segment = looked.segment;
        let is_sum_due = looked.is_sum_due(&segment.stamps().unwrap_or_default());
        if !wrong.must_save && !is_snapshot_bad && !is_sum_due {
            return Ok(None);
        }
        self.change_files(|| {
            if is_snapshot_bad {
                self.home.remove(&SegmentFile::live(segment.base(), FileKind::Snapshot).name())?;
            }
            if wrong.must_save {
                segment.mark_index_saved(false);
                segment.save_index()?;
            }
            if let Some(sum) = looked.new_sum(&segment.stamps()?) {
                segment.put_sum(&sum)?;
                *is_sum_written = true;
            }
            self.home.sync_names()
        })
    }
}

/// What there is to know of a segment that was gone through.
struct Looked<'a> {
    view: &'a LogView,
    at: usize,
    segment: &'a Arc<Segment>,
    sum: Option<Arc<Sum>>,
    is_sum_newer: bool,
    has_control: bool,
    walked: Walked,
    verdict: Verdict,
    /// As the log gives it, when nothing in it is damaged.
    index: SegmentIndex,
    /// The files beside the log as they were found.
    stamps: Sidecars,
}

impl Looked<'_> {
    fn is_sum_due(&self, stamps: &Sidecars) -> bool {
        !self.is_sum_newer
            && match (&self.sum, &self.verdict.log) {
                (Some(sum), LogVerdict::Intact | LogVerdict::Damaged(_)) => sum.sidecars() != stamps,
                (None, LogVerdict::Damaged(_)) => false,
                _ => true,
            }
    }

    /// The sum to write beside these files, if another one is due.
    fn new_sum(&self, stamps: &Sidecars) -> Option<Sum> {
        if !self.is_sum_due(stamps) {
            return None;
        }
        match &self.sum {
            // It still says what the log was: only the files beside it changed.
            Some(sum) if !self.verdict.damage().is_empty() => Some(Sum::clone(sum).with_sidecars(*stamps)),
            _ => self.walked.rebuilt(&self.verdict, *stamps),
        }
    }
}

/// What has to be done about the files beside a log.
struct WrongSidecars {
    faults: Vec<SidecarFault>,
    must_save: bool,
}

/// What is to be thought of a log, given what else is known of it: who led when, and where the next segment begins.
fn settled(log: LogVerdict, walked: &Walked, other_epochs: Option<LogDamage>) -> LogVerdict {
    match (log, other_epochs) {
        // Nobody truncated and fetched again: the epochs that are known are not these.
        (LogVerdict::Stale(Staleness::Epochs), Some(others)) => LogVerdict::Damaged(vec![others]),
        (LogVerdict::Unprotected, _) => match walked.missing_end() {
            Some(missing) => LogVerdict::Damaged(vec![missing]),
            None => LogVerdict::Unprotected,
        },
        (log, _) => log,
    }
}

/// What kept findings from being put down, as whoever scrubs is told.
fn refused(error: ChangeError) -> ReadError {
    match error {
        ChangeError::Failed(failed) => failed.cause.into(),
        ChangeError::Io(failure) => failure.into(),
        // Nothing else comes of writing files beside a log.
        _ => ReadError::Closed,
    }
}

fn hole_of(damage: &LogDamage) -> Hole {
    let cause = match &damage.kind {
        DamageKind::Batch(cause) => Some(cause.clone()),
        DamageKind::Missing => None,
        _ => Some(CorruptionKind::Headers),
    };
    Hole { bytes: damage.bytes.clone(), offsets: damage.offsets.clone(), cause }
}

fn covers(known: &Hole, hole: &Hole) -> bool {
    known.bytes.start <= hole.bytes.start
        && hole.bytes.end <= known.bytes.end
        && known.offsets.start <= hole.offsets.start
        && hole.offsets.end <= known.offsets.end
}
