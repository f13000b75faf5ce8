//! The records of a range of offsets, one after the other, for whoever judges them by key.

use std::ops::{ControlFlow, Range};

use super::survey::CleanSurvey;
use super::walk::Item;
use super::{InspectError, SegmentInfo};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, BatchView, Record};
use crate::units::Offset;

/// A record where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) header: &'a BatchHeader,
    pub(super) record: &'a Record<'a>,
    /// The aborted transaction that it belongs to.
    pub(super) aborted: Option<&'a AbortedTxn>,
    /// Its share of the batch's bytes: in each batch, all records have the same.
    pub(super) bytes: u64,
}

/// Offsets that could not be read.
pub(super) type Unread = Vec<Range<Offset>>;

impl CleanSurvey {
    /// Visits every record with an offset in `range`, control records too, until told to stop. Returns what of the
    /// range could not be read.
    pub(super) fn visit(
        &self,
        range: &Range<Offset>,
        mut visit: impl FnMut(&Seen<'_>) -> ControlFlow<()>,
    ) -> Result<Unread, InspectError> {
        let mut unread = Unread::new();
        for segment in &self.listed {
            let is_within = segment.base < range.end && segment.next_base.is_none_or(|end| end > range.start);
            if is_within && self.visit_segment(segment, range, &mut visit, &mut unread)?.is_break() {
                break;
            }
        }
        Ok(unread)
    }

    fn visit_segment(
        &self,
        segment: &SegmentInfo,
        range: &Range<Offset>,
        visit: &mut impl FnMut(&Seen<'_>) -> ControlFlow<()>,
        unread: &mut Unread,
    ) -> Result<ControlFlow<()>, InspectError> {
        let mut walk = self.files.walk(segment)?;
        while let Some(item) = walk.next() {
            let (position, header) = match item? {
                Item::Batch { header, .. } if header.last_offset() < range.start => continue,
                Item::Batch { header, .. } if header.base_offset >= range.end => return Ok(ControlFlow::Break(())),
                Item::Batch { position, header } => (position, header),
                Item::Bad { expected, next, .. } => {
                    unread.extend(next.or(segment.next_base).map(|to| expected..to.max(expected)));
                    continue;
                }
                Item::Zeros { .. } | Item::OldFormat { .. } => continue,
            };
            let bytes = match walk.read(position, &header, self.options.limits) {
                Ok(bytes) => bytes,
                Err(InspectError::Corrupt(_)) => {
                    unread.push(header.base_offset..header.next_offset());
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.visit_batch(&header, &bytes, range, visit) {
                Some(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                Some(ControlFlow::Continue(())) => {}
                None => unread.push(header.base_offset..header.next_offset()),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// `None` when not all of the batch's records can be read.
    fn visit_batch(
        &self,
        header: &BatchHeader,
        bytes: &[u8],
        range: &Range<Offset>,
        visit: &mut impl FnMut(&Seen<'_>) -> ControlFlow<()>,
    ) -> Option<ControlFlow<()>> {
        let body = BatchView::parse(bytes, u32::MAX).ok()?.body(self.options.limits.decompressed_bytes_max).ok()?;
        let aborted = self.abort_of(header);
        let share = u64::from(header.size).checked_div(u64::from(header.count)).unwrap_or(0);
        for record in body.records() {
            let record = record.ok()?;
            if range.contains(&record.offset) {
                let seen = Seen { header, record: &record, aborted, bytes: share };
                if visit(&seen).is_break() {
                    return Some(ControlFlow::Break(()));
                }
            }
        }
        Some(ControlFlow::Continue(()))
    }
}
