//! Transactions of which nobody can tell how they ended: the marker may lie in what cannot be read.
//!
//! The transaction index says which ones were aborted, but where it was lost it is derived again from what can be read, and
//! a marker in a hole is not in it: then data of an aborted transaction would pass for committed, and take the committed
//! value below it along. So data that is undecided where a hole begins, is not learned. It stays until it is superseded by
//! what is sure, and counts as what could not be read: tombstones from there on stay, and the next pass learns from there.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::IoFailure;
use crate::log::CleanSegment;
use crate::record::{BatchHeader, TransactionMarker};
use crate::segment::Extent;
use crate::units::{Offset, ProducerId};

/// Bytes of one entry, about.
const ENTRY_BYTES: usize = size_of::<(ProducerId, Range<Offset>)>();

/// Data of transactions that a hole may have ended.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// By the end of what is in doubt; a producer has one transaction at a time.
    undecided: BTreeMap<(ProducerId, Offset), Offset>,
}

/// What is gone through for them.
#[derive(Debug, Default)]
struct Undecided {
    /// First offsets of transactions without a marker so far.
    open: BTreeMap<ProducerId, Offset>,
    found: BTreeMap<(ProducerId, Offset), Offset>,
}

impl Undecided {
    fn take(&mut self, header: &BatchHeader, marker: Option<TransactionMarker>) {
        let Some(producer) = header.producer_id else { return };
        if marker.is_some() {
            self.open.remove(&producer);
        } else if header.attributes.is_transactional() && !header.attributes.is_control() {
            self.open.entry(producer).or_insert(header.base_offset);
        }
    }

    /// What comes behind the hole is decided by what comes behind it: if that is the same transaction, by its marker, and
    /// else by that of the next one.
    fn pass_hole(&mut self, start: Offset) {
        for (producer, first) in std::mem::take(&mut self.open) {
            self.found.insert((producer, start), first);
        }
    }
}

impl Doubts {
    /// Of what lies in `segments` at or past `from`, by the holes that are known. Reads headers, and only where there are
    /// holes.
    pub(super) fn of(segments: &[CleanSegment], from: Offset) -> Result<Self, IoFailure> {
        let holes = |segment: &CleanSegment| segment.segment.holes();
        let Some(last) = segments.iter().rposition(|segment| segment.end > from && !holes(segment).is_empty()) else {
            return Ok(Self::default());
        };
        let mut undecided = Undecided::default();
        for segment in segments.iter().take(last.saturating_add(1)).filter(|segment| segment.end > from) {
            let known = holes(segment);
            let mut ahead = known.iter().map(|hole| hole.offsets.start).peekable();
            let extent = Extent { bytes: segment.bytes, end: segment.end };
            // What it stops at is met by the scan, which then asks again.
            segment.segment.each_batch(from, extent, |header, marker| {
                while let Some(start) = ahead.next_if(|start| *start <= header.base_offset) {
                    undecided.pass_hole(start);
                }
                undecided.take(header, marker);
            })?;
            ahead.for_each(|start| undecided.pass_hole(start));
        }
        Ok(Self { undecided: undecided.found })
    }

    /// Whether nobody can tell how the transaction ended that a batch of data is of.
    pub(super) fn cover(&self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer_id else { return false };
        let next = self.undecided.range((producer, header.next_offset())..).next();
        next.is_some_and(|((of, _), first)| *of == producer && *first <= header.base_offset)
    }

    /// Bytes of memory that they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.undecided.len().saturating_mul(ENTRY_BYTES)
    }
}
