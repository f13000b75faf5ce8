//! Putting a replica's batches in the place of a quarantined range.
//!
//! A segment is never written in the middle: slices that are out, and maps, would show half of it. So the segment is made
//! again in a file beside it (what lies before the range, the batches, what lies behind), synced, and renamed over the
//! old one, which slices go on reading. The steps, and what a crash between them leaves:
//! 1. The new file is written and synced under a name that the next opening removes. No lock is held.
//! 2. What is written down of cleaning is lowered to the segment, durably: the cleaner passed it over, and has to hold the
//!    records that come back against everything above them.
//! 3. If it has another length, the list of damage says for either length what cannot be read. Which one holds shows the
//!    log itself, so the rename decides about both at once.
//! 4. Indexes and sum go, durably: they are about the old file, and all of them can be made again.
//! 5. The rename, made durable. Before it the range is quarantined as before; after it, it is not, but that a list written
//!    for the same length still names it, and whoever repairs it again does no harm.
//! 6. Readers are shown the new segment; list, indexes and sum are written.
//!
//! What is derived from the range: the aborted transactions of this segment are derived again from its batches. The leader
//! epochs, and the producers at the log end, are those that appending or an earlier opening learned. An opening that had to
//! go through the range while it was damaged knows nothing of the producers in it, nor of a transaction that began there
//! and was aborted in a later segment; a repair does not tell it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batches::{AppendAs, Batches};
use super::incoming::Incoming;
use super::state::{self, DamageChange, DamageList};
use super::view::LogView;
use super::{LogCore, PartitionLog};
use crate::error::{AppendError, ChangeError, IoFailure, IoOperation, ReadError, RepairError};
use crate::fs::{self, File, OpenMode};
use crate::index::SegmentIndex;
use crate::record::Rules;
use crate::segment::sum::{LogWalk, Sidecars, Sum, verify};
use crate::segment::{FileKind, Hole, Segment, SegmentFile, names};
use crate::units::Offset;

/// Positions in a segment are i32, as in Kafka.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
const PIECE_BYTES: u64 = 1 << 20;

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Base offset of the segment.
    pub base: Offset,
    /// Length of its log in bytes, now.
    pub bytes: u64,
    /// Batches that were put back.
    pub batches: usize,
    /// Whether all of the segment passes its checks now, so that a sum was made for it. Otherwise there is more damage in
    /// it: scrub it, or repair what [`PartitionLog::health`] still lists.
    pub is_whole: bool,
}

impl PartitionLog {
    /// Puts `batches` in the place of the quarantined `range`, verbatim, as a replica has them. `range` is that of one of
    /// the `offsets` in [`PartitionLog::health`]'s damage. Readable and durable when it returns, and so is that the range is
    /// not damaged any more.
    ///
    /// The batches are checked as a follower's are: checksums and structure. Their offsets lie in the range and rise; in a
    /// log that is not compacted they cover it whole. In a compacted one there may be none at all left in it, and then
    /// `batches` is an empty buffer. There, have them from a replica that is cleaned as far as this one: a value that this
    /// one deleted so long ago that the tombstone is gone, too, would come back with the batches of one that is not. This
    /// log cannot tell: since the damage was found it keeps every tombstone above it, but those that went before, it does
    /// not know. Where no such replica is at hand, clean the other one first, as far as this one is (its first dirty offset
    /// at or past this one's, and `delete.retention.ms` over), or leave out of `batches` what the embedder knows to be
    /// deleted, or give the partition up for a whole copy of the other one, truncated with
    /// [`PartitionLog::truncate_fully_and_start_at`] and appended anew, in which values and tombstones belong together.
    ///
    /// Any thread; appends and reads go on. The segment is copied first, without a lock; commit rounds wait while the copy
    /// is put in its place. Slices handed out before go on reading the old file.
    ///
    /// ```
    /// # use alluvium::{LogConfig, Offset, PartitionLog, RepairError};
    /// # let dir = tempfile::tempdir()?;
    /// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// let range = Offset::ZERO..Offset::new(5).unwrap();
    /// let refused = log.repair(range, Vec::<u8>::new()).unwrap_err();
    /// assert!(matches!(refused, RepairError::NotQuarantined { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RepairError`]; the range stays quarantined, but where the variant says otherwise.
    pub fn repair<'a>(&self, range: Range<Offset>, batches: impl Into<Batches<'a>>) -> Result<Repaired, RepairError> {
        let core = &self.core;
        if core.is_repairing.swap(true, Ordering::AcqRel) {
            return Err(RepairError::Busy);
        }
        let _busy = Busy(&core.is_repairing);
        core.repair(&range, batches.into())
    }
}

/// Says that a repair is under way, until it is dropped.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The quarantined range, and where it is.
struct Wound {
    segment: Arc<Segment>,
    /// How long the log is now.
    bytes: u64,
    hole: Hole,
    /// All that is known to be unreadable.
    known: Vec<Hole>,
    /// Offset after the last one that the segment can have.
    end: Offset,
}

/// The segment as it will be: in a file beside it, synced.
struct Mended {
    file: Arc<dyn File>,
    bytes: u64,
    index: SegmentIndex,
    /// What else cannot be read, where it will be.
    holes: Vec<Hole>,
    /// What the sum will say but for the files beside the log, if all of it is good.
    sum: Option<Sum>,
}

impl LogCore {
    fn repair(&self, range: &Range<Offset>, batches: Batches<'_>) -> Result<Repaired, RepairError> {
        let view = self.view.read().clone();
        if view.is_closed {
            return Err(RepairError::Closed);
        }
        self.writer.lock().check_open().map_err(ChangeError::from)?;
        let wound = find(&view, range)?;
        let incoming = judge(batches)?;
        let may_have_gaps = self.may_have_gaps(&view, wound.end);
        check_offsets(incoming.as_ref(), range, may_have_gaps)?;
        check_epochs(incoming.as_ref(), range, &view)?;
        drop(view);
        let count = incoming.as_ref().map_or(0, |incoming| incoming.placed.len());
        let base = wound.segment.base();
        let mended = self.mend(&wound, incoming.as_ref()).inspect_err(|_| self.drop_mended(base))?;
        let (bytes, is_whole) = (mended.bytes, mended.sum.is_some());
        self.put_in_place(&wound, mended).inspect_err(|_| self.drop_mended(base))?;
        Ok(Repaired { base, bytes, batches: count, is_whole })
    }

    /// Writes the segment anew, beside the old file, and looks at all of it.
    fn mend(&self, wound: &Wound, incoming: Option<&Incoming<'_>>) -> Result<Mended, RepairError> {
        let Wound { segment, bytes: old_bytes, hole, .. } = wound;
        let put = incoming.map_or(0, |incoming| incoming.bytes);
        let (tail, tail_at) = (hole.bytes.end.min(*old_bytes)..*old_bytes, hole.bytes.start + put);
        let bytes = tail_at + (tail.end - tail.start);
        if bytes > SEGMENT_BYTES_MAX {
            return Err(RepairError::TooLarge { bytes, max: SEGMENT_BYTES_MAX });
        }
        let name = names::repaired(segment.base());
        let path = self.home.dir.join(&name);
        let failed = |operation| {
            let path = path.clone();
            move |e| IoFailure::new(operation, path, e)
        };
        self.home.remove(&name)?;
        let file = self.home.open(&path, OpenMode::CreateNew)?;
        let source = segment.file()?;
        copy(&*source, 0..hole.bytes.start, &*file, 0).map_err(failed(IoOperation::Write))?;
        if let Some(incoming) = incoming {
            incoming.write(&*file, hole.bytes.start).map_err(failed(IoOperation::Write))?;
        }
        copy(&*source, tail, &*file, tail_at).map_err(failed(IoOperation::Write))?;
        file.sync_data().map_err(failed(IoOperation::Sync))?;
        // What lies behind the range lies elsewhere now.
        let shift = |at: u64| if at >= hole.bytes.end { at - hole.bytes.end + tail_at } else { at };
        let is_other = |other: &&Hole| other.bytes != hole.bytes || other.offsets != hole.offsets;
        let moved = |other: &Hole| Hole { bytes: shift(other.bytes.start)..shift(other.bytes.end), ..other.clone() };
        let holes: Vec<Hole> = wound.known.iter().filter(is_other).map(moved).collect();
        let (index, sum) = look_through(segment, &file, holes.is_empty()).map_err(failed(IoOperation::Read))?;
        Ok(Mended { file, bytes, index, holes, sum })
    }

    /// Puts the new file in the place of the old one.
    fn put_in_place(&self, wound: &Wound, mended: Mended) -> Result<(), RepairError> {
        let _round = self.round.lock();
        self.writer.lock().check_open().map_err(ChangeError::from)?;
        let view = self.view.read().clone();
        let at = view.segment_of(wound.segment.base());
        let is_same = view.segments.get(at).is_some_and(|found| Arc::ptr_eq(found, &wound.segment));
        // More damage in it would be lost from sight.
        let has_grown = *wound.segment.holes() != *wound.known;
        if !is_same || has_grown {
            return Err(RepairError::Changed);
        }
        let segment = &wound.segment;
        // Whoever has the old view goes on with the old file, and not with what comes under its name.
        segment.file()?;
        segment.build_index()?;
        let mut is_swapped = false;
        let changed = self.change_files(|| self.swap(wound, &mended, &mut is_swapped))?;
        if let Some(failure) = changed {
            if !is_swapped {
                // The list may be the one for either length, which is as true.
                segment.mark_index_saved(false);
                self.keep_damage()?;
            }
            return Err(failure.into());
        }
        let twin = self.show(wound, mended.file, mended.bytes, mended.index, mended.holes);
        twin.mark_holes_saved(false);
        self.keep_damage()?;
        self.finish_files(&twin, at, mended.sum)?;
        Ok(())
    }

    /// Steps 2 to 5. Whatever fails before the rename leaves the old segment in its place.
    fn swap(&self, wound: &Wound, mended: &Mended, is_swapped: &mut bool) -> Result<(), IoFailure> {
        let base = wound.segment.base();
        self.clean_again_from(base)?;
        if mended.bytes != wound.bytes {
            let segments = Arc::clone(&self.view.read().segments);
            let others: DamageList = damage_of(segments.iter().filter(|segment| segment.base() != base));
            let before = wound.segment.holes();
            let (before, after) = ((wound.bytes, &*before), (mended.bytes, mended.holes.as_slice()));
            let change = DamageChange { base, before, after };
            state::write_damage_by_length(&*self.home.fs, &self.home.dir, &others, &change)?;
        }
        self.home.remove_index(base)?;
        self.home.sync_names()?;
        self.home.rename(&names::repaired(base), &SegmentFile::live(base, FileKind::Log).name())?;
        *is_swapped = true;
        self.home.sync_names()
    }

    /// Shows readers the new segment.
    fn show(
        &self,
        wound: &Wound,
        file: Arc<dyn File>,
        bytes: u64,
        index: SegmentIndex,
        holes: Vec<Hole>,
    ) -> Arc<Segment> {
        let old = &wound.segment;
        let twin = Arc::new(old.mended(file, bytes, index, wound.end).with_holes(holes));
        // Also where there are none left: the list on disk has the old ones.
        let mut view = self.view.write();
        let mut segments = Vec::clone(&view.segments);
        for segment in &mut segments {
            if Arc::ptr_eq(segment, old) {
                *segment = Arc::clone(&twin);
            }
        }
        view.segments = Arc::new(segments);
        drop(view);
        // Its files are another's now. One of its descriptors that is closed is not opened again.
        old.mark_leaving();
        twin
    }

    /// Writes the files beside the new log. What cannot be written is written by closing, or made by scrubbing.
    fn finish_files(&self, twin: &Segment, at: usize, sum: Option<Sum>) -> Result<(), RepairError> {
        let view = self.view.read().clone();
        // Derived again: the range may have had markers.
        let is_told = match self.aborted_in(&view, at) {
            Err(ReadError::Io(failure)) => return Err(failure.into()),
            aborted => aborted.is_ok(),
        };
        self.change_files(|| {
            if !is_told {
                return Ok(());
            }
            twin.save_index()?;
            if let Some(sum) = sum {
                twin.put_sum(&sum.with_sidecars(twin.stamps()?))?;
            }
            self.home.sync_names()
        })?;
        Ok(())
    }

    /// Removes the new file, if it was not put in place. One that cannot be removed now is by the next opening.
    fn drop_mended(&self, base: Offset) {
        let _ = self.home.remove(&names::repaired(base));
    }
}

/// The hole with exactly these offsets.
fn find(view: &LogView, range: &Range<Offset>) -> Result<Wound, RepairError> {
    let mut nearest = None;
    // A range without offsets lies where a segment ends as well as where it begins.
    for at in view.segment_of(range.start).saturating_sub(1)..view.segments.len() {
        let (Some(segment), Some(next)) = (view.segments.get(at), view.segments.get(at + 1)) else { break };
        if segment.base() > range.start {
            break;
        }
        let holes = segment.holes();
        if let Some(hole) = holes.iter().find(|hole| hole.offsets == *range) {
            let wound = Wound {
                segment: Arc::clone(segment),
                bytes: segment.bytes()?,
                hole: hole.clone(),
                known: holes.to_vec(),
                end: next.base(),
            };
            return Ok(wound);
        }
        let is_near = |hole: &&Hole| hole.offsets.start < range.end && range.start < hole.offsets.end;
        nearest = nearest.or_else(|| holes.iter().find(is_near).map(|hole| Box::new(segment.damage(hole))));
    }
    Err(RepairError::NotQuarantined { range: range.clone(), nearest })
}

/// The batches, each checked; `None` when there are none.
fn judge(batches: Batches<'_>) -> Result<Option<Incoming<'_>>, RepairError> {
    let rules = Rules {
        origin: AppendAs::Follower.origin(),
        batch_bytes_max: None,
        decompressed_bytes_max: u32::MAX,
        keys_required: false,
        timestamps: None,
    };
    match Incoming::judge(batches, &rules) {
        Ok(incoming) => Ok(Some(incoming)),
        Err(AppendError::Invalid { batch, cause }) => Err(RepairError::Invalid { batch, cause }),
        // Judging says nothing else.
        Err(_) => Ok(None),
    }
}

fn check_offsets(
    incoming: Option<&Incoming<'_>>,
    range: &Range<Offset>,
    may_have_gaps: bool,
) -> Result<(), RepairError> {
    let mut expected = range.start;
    for (batch, (header, _)) in incoming.iter().flat_map(|incoming| incoming.facts()).enumerate() {
        let found = header.base_offset;
        if found < expected {
            return Err(RepairError::Overlaps { batch, expected, found });
        }
        if header.last_offset() >= range.end {
            return Err(RepairError::PastEnd { batch, end: range.end, found: header.next_offset() });
        }
        if found > expected && !may_have_gaps {
            return Err(RepairError::Gap(expected..found));
        }
        expected = header.next_offset();
    }
    if expected < range.end && !may_have_gaps { Err(RepairError::Gap(expected..range.end)) } else { Ok(()) }
}

/// Epochs never fall in a log, so those in the range lie between those on both sides of it.
fn check_epochs(incoming: Option<&Incoming<'_>>, range: &Range<Offset>, view: &LogView) -> Result<(), RepairError> {
    let before = Offset::new(range.start.value() - 1).and_then(|before| view.epochs.epoch_of(before));
    let to = view.epochs.epoch_of(range.end).or_else(|| view.epochs.latest());
    let mut from = before;
    for (batch, (header, _)) in incoming.iter().flat_map(|incoming| incoming.facts()).enumerate() {
        let found = header.leader_epoch;
        if found.is_some() && (found < from || (to.is_some() && found > to)) {
            return Err(RepairError::Epoch { batch, found, from, to });
        }
        from = found.max(from);
    }
    Ok(())
}

/// What cannot be read in these segments.
fn damage_of<'a>(segments: impl Iterator<Item = &'a Arc<Segment>>) -> DamageList {
    let of = |segment: &Arc<Segment>| {
        let base = segment.base();
        segment.holes().iter().map(|hole| (base, hole.clone())).collect::<DamageList>()
    };
    segments.flat_map(of).collect()
}

/// Goes through the new file as scrubbing does: the index that it gives and, of a log without other damage, the sum.
fn look_through(
    segment: &Segment,
    file: &Arc<dyn File>,
    is_all_there: bool,
) -> std::io::Result<(SegmentIndex, Option<Sum>)> {
    let bounds = segment.walk_bounds();
    let mut walk = LogWalk::new(Arc::clone(file), bounds, None)?;
    let mut cursor = crate::index::IndexCursor::new(bounds.base, bounds.interval_bytes);
    let mut index = SegmentIndex::default();
    let mut expected = bounds.base;
    while walk
        .step_with(|position, header| {
            // One that is misplaced lies in other damage, and is no way into it.
            if header.base_offset >= expected && bounds.next_base.is_none_or(|next| header.last_offset() < next) {
                cursor.observe(header, position, &mut index);
                expected = header.next_offset();
            }
        })?
        .is_some()
    {}
    cursor.push_largest(&mut index.times);
    let walked = walk.finish();
    let verdict = verify(None, &walked, &Sidecars::default());
    let sum = walked.rebuilt(&verdict, Sidecars::default()).filter(|_| is_all_there);
    Ok((index, sum))
}

fn copy(source: &dyn File, range: Range<u64>, target: &dyn File, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; usize::try_from((range.end - range.start).min(PIECE_BYTES)).unwrap_or_default()];
    let mut at = range.start;
    while at < range.end {
        let piece = usize::try_from((range.end - at).min(PIECE_BYTES)).unwrap_or_default();
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        fs::read_exact_at(source, piece, at)?;
        fs::write_all_at(target, piece, to + (at - range.start))?;
        at += piece.len() as u64;
    }
    Ok(())
}

impl From<ChangeError> for RepairError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Failed(failed) => Self::Failed(failed),
            ChangeError::Io(failure) => Self::Io(failure),
            // Nothing else comes of writing files beside a log.
            _ => Self::Closed,
        }
    }
}
