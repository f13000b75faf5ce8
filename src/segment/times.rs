//! The largest timestamp in a part of a segment, exact to the record.
//!
//! The time index names it for whole segments. Where only a part counts, headers are gone through and batches opened
//! from the largest timestamp down, until no header promises more than a record that was seen. Headers may promise too
//! much: cleaning and foreign writers leave such.

use std::cmp::Reverse;
use std::ops::Range;

use super::window::Window;
use super::{Extent, Located, Segment};
use crate::error::{IoFailure, IoOperation, ReadError};
use crate::record::{BatchHeader, BatchView, HEADER_BYTES};
use crate::units::{Offset, TimestampMs};

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;
/// So many batches are remembered a walk; nearly always the first one is the answer.
const CANDIDATES_MAX: usize = 64;

/// A batch that may hold the record, in the order in which they are opened: largest promise first, then the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    promised: Reverse<TimestampMs>,
    position: u64,
}

/// The best record so far, and where its batch is.
#[derive(Clone, Copy, Debug)]
struct Best {
    timestamp: TimestampMs,
    offset: Offset,
    position: u64,
}

impl Best {
    /// Whether `candidate` cannot hold a later timestamp, nor the same one earlier.
    fn beats(&self, candidate: &Candidate) -> bool {
        let promised = candidate.promised.0;
        promised < self.timestamp || (promised == self.timestamp && candidate.position > self.position)
    }
}

impl Segment {
    /// No record of the segment has a later timestamp. `None` when none has one: negative timestamps do not count.
    pub(crate) fn timestamp_bound(&self, extent: Extent, is_active: bool) -> Result<Option<TimestampMs>, ReadError> {
        let (mut bound, indexed) = self.with_index(|index| {
            let position = index.offsets.last().map_or(0, |entry| u64::from(entry.position));
            (index.times.last().map(|entry| entry.timestamp), position)
        })?;
        if is_active {
            // What was appended since the newest entry is in no index yet.
            self.each_header(indexed, extent.bytes, |_, header| {
                let timestamp = header.max_timestamp;
                bound = bound.max((timestamp.value() >= 0).then_some(timestamp));
                true
            })?;
        }
        Ok(bound)
    }

    /// The earliest record of `range` with the largest timestamp there, `bound` being that of the whole segment.
    pub(crate) fn largest_record(
        &self,
        bound: TimestampMs,
        range: &Range<Offset>,
        extent: Extent,
        decompressed_max: u32,
    ) -> Result<Option<(TimestampMs, Offset)>, ReadError> {
        let found = self.search_timestamp(bound, range.start, extent, decompressed_max)?;
        if let Some((timestamp, offset)) = found
            && timestamp == bound
            && offset < range.end
        {
            return Ok(found);
        }
        match self.largest_by_walk(range, extent, decompressed_max) {
            Err(ReadError::Corrupt(_)) if self.is_sealed() => {
                self.judge_again(extent.end)?;
                self.largest_by_walk(range, extent, decompressed_max)
            }
            found => found,
        }
    }

    fn largest_by_walk(
        &self,
        range: &Range<Offset>,
        extent: Extent,
        decompressed_max: u32,
    ) -> Result<Option<(TimestampMs, Offset)>, ReadError> {
        let start = match self.locate(range.start, extent)? {
            Located::At { position, .. } => position,
            Located::Hole(hole) if !hole.bytes.is_empty() => hole.bytes.end,
            Located::Hole(_) | Located::End => return Ok(None),
        };
        let (mut best, mut opened) = (None::<Best>, None);
        loop {
            let candidates = self.candidates(start, range, extent, opened)?;
            for candidate in &candidates {
                if best.is_some_and(|best| best.beats(candidate)) {
                    // Those behind promise less, or the same later.
                    if best.is_some_and(|best| candidate.promised.0 < best.timestamp) {
                        return Ok(best.map(|best| (best.timestamp, best.offset)));
                    }
                    continue;
                }
                let found = self.largest_of_batch(candidate.position, range, extent.bytes, decompressed_max)?;
                let is_better = |found: &Best| {
                    best.is_none_or(|best| {
                        (Reverse(found.timestamp), found.offset) < (Reverse(best.timestamp), best.offset)
                    })
                };
                best = found.filter(is_better).or(best);
            }
            opened = candidates.last().copied();
            if candidates.len() < CANDIDATES_MAX {
                return Ok(best.map(|best| (best.timestamp, best.offset)));
            }
        }
    }

    /// The first candidates behind `after`, in order.
    fn candidates(
        &self,
        start: u64,
        range: &Range<Offset>,
        extent: Extent,
        after: Option<Candidate>,
    ) -> Result<Vec<Candidate>, ReadError> {
        let mut kept: Vec<Candidate> = Vec::with_capacity(CANDIDATES_MAX + 1);
        self.each_header(start, extent.bytes, |position, header| {
            let candidate = Candidate { promised: Reverse(header.max_timestamp), position };
            let may_hold = header.max_timestamp.value() >= 0
                && header.last_offset() >= range.start
                && after.is_none_or(|after| candidate > after);
            if may_hold && header.base_offset < range.end {
                let at = kept.partition_point(|earlier| *earlier < candidate);
                kept.insert(at, candidate);
                kept.truncate(CANDIDATES_MAX);
            }
            header.base_offset < range.end
        })?;
        Ok(kept)
    }

    fn largest_of_batch(
        &self,
        position: u64,
        range: &Range<Offset>,
        bound: u64,
        decompressed_max: u32,
    ) -> Result<Option<Best>, ReadError> {
        let header = self.header_at(position, bound)?;
        let mut bytes = vec![0; header.size as usize];
        self.read_at(position, &mut bytes)?;
        let corrupt = |cause| self.corrupt(position, cause);
        let batch = BatchView::parse(&bytes, BATCH_BYTES_MAX).map_err(corrupt)?;
        batch.verify_crc().map_err(corrupt)?;
        let body = batch.body(decompressed_max).map_err(corrupt)?;
        let mut best: Option<Best> = None;
        for record in body.records() {
            let record = record.map_err(corrupt)?;
            let (timestamp, offset) = (record.timestamp, record.offset);
            let counts = timestamp.value() >= 0 && range.contains(&offset);
            if counts && best.is_none_or(|best| timestamp > best.timestamp) {
                best = Some(Best { timestamp, offset, position });
            }
        }
        Ok(best)
    }

    /// Shows `visit` the header of each batch from the one at `position` on, until it says `false`. Known holes are
    /// stepped over, as in a search.
    fn each_header(
        &self,
        mut position: u64,
        bound: u64,
        mut visit: impl FnMut(u64, &BatchHeader) -> bool,
    ) -> Result<(), ReadError> {
        let mut window = Window::new(self.file()?, bound);
        while position < bound {
            if let Some(hole) = self.hole_at(position) {
                if hole.bytes.is_empty() {
                    break;
                }
                position = hole.bytes.end;
                continue;
            }
            let bytes = window.at(position, HEADER_BYTES);
            let bytes = bytes.map_err(|e| IoFailure::new(IoOperation::Read, self.log_path(), e))?;
            let header = BatchHeader::parse(bytes, BATCH_BYTES_MAX).map_err(|cause| self.corrupt(position, cause))?;
            if !visit(position, &header) {
                break;
            }
            position += u64::from(header.size);
        }
        Ok(())
    }
}
