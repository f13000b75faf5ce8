//! Finding batches in a segment: by offset, by size, by timestamp. Reads headers only, and only as many as it must.

use super::residency::Held;
use super::{Hole, Segment};
use crate::error::{Corruption, CorruptionKind, InvalidBatch, IoFailure, IoOperation, ReadError};
use crate::fs::{self, Mapping};
use crate::index::{IndexCursor, OffsetEntry, SegmentIndex};
use crate::record::{BatchHeader, BatchView, HEADER_BYTES};
use crate::units::{Offset, TimestampMs};

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;

/// Where an offset is.
#[derive(Debug)]
pub(crate) enum Located {
    /// In, or before the first record of, the batch that starts here.
    At {
        /// First byte of the batch.
        position: u64,
        /// Its header.
        header: BatchHeader,
    },
    /// In unreadable bytes.
    Hole(Hole),
    /// Past the last batch of the segment.
    End,
}

/// A stretch of whole batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// First byte.
    pub(crate) start: u64,
    /// Byte after the last one.
    pub(crate) end: u64,
    /// Offset after the last batch, when the walk saw it.
    pub(crate) next_offset: Option<Offset>,
}

/// How far a segment reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Bytes that are published.
    pub(crate) bytes: u64,
    /// Where the next segment begins or, after the active one, the log ends: no batch reaches past it.
    pub(crate) end: Offset,
}

/// Limits of a stretch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StretchLimits {
    /// How far the segment reaches.
    pub(crate) extent: Extent,
    /// Bytes wanted.
    pub(crate) bytes_max: u64,
    /// Batches that reach to or past this offset are left out.
    pub(crate) upper: Offset,
    /// Whether the first batch is taken even if it alone is larger than `bytes_max`.
    pub(crate) min_one_batch: bool,
}

impl Segment {
    /// Finds the batch with `offset`, or the first one past it.
    pub(crate) fn locate(&self, offset: Offset, extent: Extent) -> Result<Located, ReadError> {
        match self.locate_in(offset, extent) {
            // An index is no evidence: only what the log itself says counts as damage. The active one is ours alone.
            Err(ReadError::Corrupt(_)) if self.is_sealed() => {
                self.judge_again(extent.end)?;
                self.locate_in(offset, extent)
            }
            located => located,
        }
    }

    fn locate_in(&self, offset: Offset, extent: Extent) -> Result<Located, ReadError> {
        let located = self.locate_by_index(offset, extent.bytes)?;
        match &located {
            Located::At { position, header } if header.next_offset() > extent.end => {
                Err(self.offset_order(*position, offset, header).into())
            }
            _ => Ok(located),
        }
    }

    fn locate_by_index(&self, offset: Offset, bound: u64) -> Result<Located, ReadError> {
        let (before, after) = self.with_index(|index| {
            let before = index.offsets.at_or_before(self.base, offset);
            (before, index.offsets.after(self.base, offset))
        })?;
        // With batches larger than the index interval every one is indexed, and the next entry is the batch itself.
        if let Some(entry) = after
            && u64::from(entry.position) < bound
            && self.holes().is_empty()
        {
            let header = self.header_at(u64::from(entry.position), bound)?;
            let is_entrys = entry.last.absolute(self.base) == Some(header.last_offset());
            if is_entrys && header.base_offset <= offset && offset <= header.last_offset() {
                return Ok(Located::At { position: u64::from(entry.position), header });
            }
        }
        let Some(entry) = before else { return self.walk_to(offset, 0, None, bound) };
        // An entry that points too far would skip records without a word.
        let named = entry.last.absolute(self.base).unwrap_or(self.base);
        self.walk_to(offset, u64::from(entry.position), Some(named), bound)
    }

    /// Goes from batch to batch, from `position` on, to the one with `offset`. The index `named` the last offset of the
    /// first batch (or, as Kafka writes it, of several that were appended together).
    fn walk_to(
        &self,
        offset: Offset,
        mut position: u64,
        mut named: Option<Offset>,
        bound: u64,
    ) -> Result<Located, ReadError> {
        // Where the index led to is what the index says; from then on each batch follows from the one before.
        let mut expected = (position == 0).then_some(self.base);
        loop {
            if let Some(mut hole) = self.hole_at(position) {
                if offset < hole.offsets.end {
                    // Whether cleaning left a gap before it, or its first bytes held the offset, nobody can tell.
                    hole.offsets.start = hole.offsets.start.min(offset);
                    return Ok(Located::Hole(hole));
                }
                if hole.bytes.is_empty() {
                    return Ok(Located::End);
                }
                position = hole.bytes.end;
                (expected, named) = (Some(hole.offsets.end), None);
                continue;
            }
            if position >= bound {
                return Ok(Located::End);
            }
            let header = self.header_at(position, bound)?;
            self.check_order(&header, expected, position)?;
            let leaves_gap = expected.is_some_and(|expected| header.base_offset > expected);
            if named.is_some_and(|named| header.last_offset() > named)
                || leaves_gap && self.is_misplaced(&header, position, bound)
            {
                return Err(self.offset_order(position, expected.unwrap_or(self.base), &header).into());
            }
            named = named.filter(|named| header.last_offset() < *named);
            if header.last_offset() >= offset {
                // Gaps between batches are legal in compacted logs: the first batch past the offset is the answer.
                return Ok(Located::At { position, header });
            }
            expected = Some(header.next_offset());
            position += u64::from(header.size);
        }
    }

    /// Whether `header` can be that of the batch which `entry` names, or of the first one in the append that it names.
    fn is_entry_of(&self, entry: OffsetEntry, header: &BatchHeader) -> bool {
        entry.last.absolute(self.base).is_some_and(|last| header.last_offset() <= last)
    }

    fn check_order(&self, header: &BatchHeader, expected: Option<Offset>, position: u64) -> Result<(), Corruption> {
        let expected = expected.unwrap_or(self.base);
        if header.base_offset >= expected {
            return Ok(());
        }
        Err(self.offset_order(position, expected, header))
    }

    /// Whether the batch behind contradicts the offset of the one at `position`. Offsets lie outside the checksum; one
    /// that leaves a gap may have a flipped bit.
    fn is_misplaced(&self, header: &BatchHeader, position: u64, bound: u64) -> bool {
        let behind = position + u64::from(header.size);
        // What cannot be read contradicts nothing; it is met when it is read.
        behind < bound
            && self.hole_at(behind).is_none()
            && self.header_at(behind, bound).is_ok_and(|behind| behind.base_offset < header.next_offset())
    }

    fn offset_order(&self, position: u64, expected: Offset, header: &BatchHeader) -> Corruption {
        self.corrupt(position, CorruptionKind::OffsetOrder { expected, found: header.base_offset.value() })
    }

    /// The hole that has the byte at `position`, or that lies between it and the one before. An index that was written
    /// before the damage may point into the middle of it.
    pub(super) fn hole_at(&self, position: u64) -> Option<Hole> {
        let has = |hole: &&Hole| hole.bytes.contains(&position) || hole.bytes.start == position;
        self.holes().iter().find(has).cloned()
    }

    /// The header of the batch that starts at `position`, checked against the bound.
    pub(crate) fn header_at(&self, position: u64, bound: u64) -> Result<BatchHeader, ReadError> {
        let remaining = bound.saturating_sub(position);
        if remaining < HEADER_BYTES as u64 {
            let cause = InvalidBatch::Short { need: HEADER_BYTES as u64, have: remaining };
            return Err(self.corrupt(position, cause).into());
        }
        let mut buffer = [0; HEADER_BYTES];
        self.read_at(position, &mut buffer)?;
        let header = BatchHeader::parse(&buffer, BATCH_BYTES_MAX).map_err(|cause| self.corrupt(position, cause))?;
        if u64::from(header.size) > remaining {
            let cause = InvalidBatch::Short { need: u64::from(header.size), have: remaining };
            return Err(self.corrupt(position, cause).into());
        }
        Ok(header)
    }

    /// Fills `buffer` from `position`, from the map where there is one.
    pub(crate) fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), IoFailure> {
        if self.mapped_bytes().is_some() && self.copy_mapped(position, buffer)? {
            return Ok(());
        }
        let file = self.file()?;
        fs::read_exact_at(&*file, buffer, position).map_err(|e| IoFailure::new(IoOperation::Read, self.log_path(), e))
    }

    /// Fills `buffer` from the map; `false` where there is none, or it ends before that.
    fn copy_mapped(&self, position: u64, buffer: &mut [u8]) -> Result<bool, IoFailure> {
        let copy = |mapping: &dyn Mapping, buffer: &mut [u8]| {
            let start = usize::try_from(position).ok()?;
            let source = mapping.bytes().get(start..)?.get(..buffer.len())?;
            buffer.copy_from_slice(source);
            Some(())
        };
        {
            let resident = self.slots().look(Held::Map);
            if let Some(mapping) = &resident.mapping {
                // Under the lock, which spares counting the reference: nobody waits long for so few bytes.
                return Ok(copy(&**mapping, buffer).is_some());
            }
        }
        let mapping = self.mapping()?;
        Ok(mapping.is_some_and(|mapping| copy(&*mapping, buffer).is_some()))
    }

    /// The whole batches from the one at `start` on that fit the limits.
    pub(crate) fn stretch(&self, start: u64, first: &BatchHeader, limits: StretchLimits) -> Result<Stretch, ReadError> {
        let jump = |limit| self.with_index(|index| index.offsets.starting_by(limit, self.base, limits.upper));
        match self.stretch_by(start, first, limits, jump) {
            Err(ReadError::Corrupt(_)) => {
                if self.is_sealed() {
                    self.judge_again(limits.extent.end)?;
                }
                // Where the index led is damaged, or not what it said. What lies before that is good.
                self.stretch_by(start, first, limits, |_| Ok(None))
            }
            stretch => stretch,
        }
    }

    /// `jump` names the last batch that starts at most at a position, so that those before it need no look.
    fn stretch_by(
        &self,
        start: u64,
        first: &BatchHeader,
        limits: StretchLimits,
        jump: impl FnOnce(u64) -> Result<Option<OffsetEntry>, ReadError>,
    ) -> Result<Stretch, ReadError> {
        let empty = Stretch { start, end: start, next_offset: None };
        let first_end = start + u64::from(first.size);
        let first_fits = u64::from(first.size) <= limits.bytes_max || limits.min_one_batch;
        if first.last_offset() >= limits.upper || !first_fits {
            return Ok(empty);
        }
        // A hole ends the stretch; what lies behind it is read with a request of its own.
        let hole_start = self.holes().iter().map(|hole| hole.bytes.start).filter(|at| *at >= first_end).min();
        let bound = limits.extent.bytes.min(hole_start.unwrap_or(u64::MAX));
        let limit = start.saturating_add(limits.bytes_max).min(bound);
        let mut end = first_end;
        let mut next_offset = first.next_offset();
        let mut landed = None;
        // Not to the hole itself: what its header says counts for nothing.
        let jump_limit = hole_start.map_or(limit, |hole| limit.min(hole.saturating_sub(1)));
        if let Some(entry) = jump(jump_limit)?.filter(|entry| u64::from(entry.position) > end) {
            let header = self.header_at(u64::from(entry.position), bound)?;
            // A stretch that ends inside a batch would be worse than a short one.
            if !self.is_entry_of(entry, &header) || header.base_offset < first.next_offset() {
                return Err(self.offset_order(u64::from(entry.position), first.next_offset(), &header).into());
            }
            end = u64::from(entry.position);
            next_offset = header.base_offset;
            landed = Some(header);
        }
        while end + HEADER_BYTES as u64 <= limit {
            let header = match landed.take().map_or_else(|| self.header_at(end, bound), Ok) {
                // What was found so far is good; the next read meets the error.
                Err(ReadError::Corrupt(_)) => break,
                header => header?,
            };
            let batch_end = end + u64::from(header.size);
            if batch_end > limit || header.last_offset() >= limits.upper {
                break;
            }
            let is_past = header.next_offset() > limits.extent.end;
            let leaves_gap = header.base_offset > next_offset;
            if is_past || header.base_offset < next_offset || leaves_gap && self.is_misplaced(&header, end, bound) {
                break;
            }
            end = batch_end;
            next_offset = header.next_offset();
        }
        Ok(Stretch { start, end, next_offset: Some(next_offset) })
    }

    /// Where a cut at `offset` falls: the bytes and the end of the batches that lie wholly below it.
    pub(crate) fn cut_point(&self, offset: Offset, extent: Extent) -> Result<(u64, Offset), ReadError> {
        match self.cut_point_by_index(offset, extent.bytes) {
            Err(ReadError::Corrupt(_)) if self.is_sealed() => {
                self.judge_again(extent.end)?;
                self.cut_point_by_index(offset, extent.bytes)
            }
            found => found,
        }
    }

    fn cut_point_by_index(&self, offset: Offset, bound: u64) -> Result<(u64, Offset), ReadError> {
        let below = Offset::new(offset.value() - 1);
        let start = match below {
            Some(below) => self.with_index(|index| index.offsets.at_or_before(self.base, below))?,
            None => None,
        };
        let (mut position, mut end) = (start.map_or(0, |entry| u64::from(entry.position)), self.base);
        loop {
            if let Some(hole) = self.hole_at(position) {
                if hole.offsets.end > offset || hole.bytes.is_empty() {
                    return Ok((hole.bytes.start, end.max(hole.offsets.start)));
                }
                (position, end) = (hole.bytes.end, hole.offsets.end);
                continue;
            }
            if position >= bound {
                return Ok((position, end));
            }
            let header = self.header_at(position, bound)?;
            self.check_order(&header, Some(end), position)?;
            if let Some(entry) = start.filter(|entry| u64::from(entry.position) == position)
                && !self.is_entry_of(entry, &header)
            {
                return Err(self.offset_order(position, end, &header).into());
            }
            if header.last_offset() >= offset {
                return Ok((position, end));
            }
            end = header.next_offset();
            position += u64::from(header.size);
        }
    }

    /// The cursor after `bound` bytes that gave `index`, so that appending goes on as if never interrupted.
    pub(crate) fn resume_cursor(&self, index: &SegmentIndex, bound: u64) -> Result<IndexCursor, ReadError> {
        let largest = index.times.last().and_then(|entry| Some((entry.timestamp, entry.last.absolute(self.base)?)));
        let mut cursor = IndexCursor::resume(self.base, self.home.options.interval_bytes, index, largest);
        let mut position = index.offsets.last().map_or(0, |entry| u64::from(entry.position));
        while position < bound {
            if let Some(hole) = self.hole_at(position) {
                if hole.bytes.is_empty() {
                    break;
                }
                position = hole.bytes.end;
                continue;
            }
            let header = self.header_at(position, bound)?;
            cursor.note_timestamp(&header);
            position += u64::from(header.size);
        }
        Ok(cursor)
    }

    /// Whether the end of a sealed segment is what its index files say. Entries in the middle are checked when they are
    /// used; what is missing at the end would be missed without a word.
    pub(crate) fn agrees_at_the_end(&self, index: &SegmentIndex, bound: u64) -> Result<bool, ReadError> {
        /// Kafka indexes at least once an append, and appends are smaller; a longer stretch without an entry is a lost
        /// entry, or costs one scan.
        const TAIL_BYTES_MAX: u64 = 8 << 20;
        let newest = index.offsets.last();
        let mut position = newest.map_or(0, |entry| u64::from(entry.position));
        if bound - position > TAIL_BYTES_MAX {
            return Ok(false);
        }
        if let Some(entry) = newest {
            let header = self.header_at(position, bound)?;
            if !self.is_entry_of(entry, &header) {
                return Ok(false);
            }
        }
        let largest = index.times.last();
        let mut end = None;
        while position < bound && self.hole_at(position).is_none() {
            let header = self.header_at(position, bound)?;
            let timestamp = header.max_timestamp;
            if timestamp.value() >= 0 && largest.is_none_or(|entry| entry.timestamp < timestamp) {
                return Ok(false);
            }
            end = Some(header.last_offset());
            position += u64::from(header.size);
        }
        let past_the_end = |last: Offset| end.is_some_and(|end| last > end);
        Ok(!largest.and_then(|entry| entry.last.absolute(self.base)).is_some_and(past_the_end))
    }

    /// First record with a timestamp of at least `target` and an offset of at least `from`.
    pub(crate) fn search_timestamp(
        &self,
        target: TimestampMs,
        from: Offset,
        extent: Extent,
        decompressed_max: u32,
    ) -> Result<Option<(TimestampMs, Offset)>, ReadError> {
        match self.search_timestamp_from(target, from, extent, decompressed_max) {
            Err(ReadError::Corrupt(_)) if self.is_sealed() => {
                self.judge_again(extent.end)?;
                self.search_timestamp_from(target, from, extent, decompressed_max)
            }
            found => found,
        }
    }

    fn search_timestamp_from(
        &self,
        target: TimestampMs,
        from: Offset,
        extent: Extent,
        decompressed_max: u32,
    ) -> Result<Option<(TimestampMs, Offset)>, ReadError> {
        let bound = extent.bytes;
        let mut position = self.start_for_timestamp(target, extent)?;
        while position < bound {
            if let Some(hole) = self.hole_at(position) {
                if hole.bytes.is_empty() {
                    break;
                }
                position = hole.bytes.end;
                continue;
            }
            let header = self.header_at(position, bound)?;
            if header.max_timestamp >= target && header.last_offset() >= from {
                let found = self.record_at_timestamp(position, &header, target, from, decompressed_max)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            position += u64::from(header.size);
        }
        Ok(None)
    }

    /// Where the batch starts that the time index names for `target`, or one before it.
    fn start_for_timestamp(&self, target: TimestampMs, extent: Extent) -> Result<u64, ReadError> {
        let entry = self.with_index(|index| index.times.at_or_before(target))?;
        let Some((entry, offset)) = entry.and_then(|entry| Some((entry, entry.last.absolute(self.base)?))) else {
            return Ok(0);
        };
        match self.locate(offset, extent)? {
            Located::At { position, header } if header.max_timestamp == entry.timestamp => Ok(position),
            // Kafka names the last offset of a whole append, whose largest timestamp an earlier batch may carry; and an
            // entry may lie. Looking from the front costs time only.
            _ => Ok(0),
        }
    }

    fn record_at_timestamp(
        &self,
        position: u64,
        header: &BatchHeader,
        target: TimestampMs,
        from: Offset,
        decompressed_max: u32,
    ) -> Result<Option<(TimestampMs, Offset)>, ReadError> {
        let mut bytes = vec![0; header.size as usize];
        self.read_at(position, &mut bytes)?;
        let corrupt = |cause| self.corrupt(position, cause);
        let batch = BatchView::parse(&bytes, BATCH_BYTES_MAX).map_err(corrupt)?;
        batch.verify_crc().map_err(corrupt)?;
        let body = batch.body(decompressed_max).map_err(corrupt)?;
        for record in body.records() {
            let record = record.map_err(corrupt)?;
            if record.timestamp >= target && record.offset >= from {
                return Ok(Some((record.timestamp, record.offset)));
            }
        }
        Ok(None)
    }

    /// Largest timestamp of a sealed segment, as its time index says.
    pub(crate) fn largest_timestamp(&self) -> Result<Option<TimestampMs>, ReadError> {
        self.with_index(|index| index.times.last().map(|entry| entry.timestamp))
    }
}
