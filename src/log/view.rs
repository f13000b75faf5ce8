//! What readers see: one snapshot of segments and marks, replaced by every change.

use std::sync::Arc;

use crate::segment::{Extent, Segment};
use crate::units::Offset;

/// The marks of a log, as one consistent snapshot. All ends are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// First readable offset.
    pub log_start: Offset,
    /// Everything below it survives a power loss.
    pub durable_end: Offset,
    /// Next offset to be assigned.
    pub log_end: Offset,
}

impl Marks {
    /// Checks all that must hold between the marks, after every change.
    pub(crate) fn checked(self) -> Self {
        assert!(self.log_start <= self.log_end, "{self:?}");
        assert!(self.durable_end <= self.log_end, "{self:?}");
        self
    }
}

/// Segments and marks that belong together.
#[derive(Clone, Debug)]
pub(crate) struct LogView {
    /// By base offset, rising; the last one is active. Never empty.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) marks: Marks,
    /// Published bytes of the active segment.
    pub(crate) active_bytes: u64,
    pub(crate) is_closed: bool,
}

impl LogView {
    /// Index of the segment that holds `offset`, or would.
    pub(crate) fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1)
    }

    /// What readers may see of the segment at `at`.
    pub(crate) fn extent_of(&self, at: usize) -> Result<Extent, crate::error::IoFailure> {
        match (self.segments.get(at), self.segments.get(at + 1)) {
            (Some(segment), Some(next)) => Ok(Extent { bytes: segment.bytes()?, end: next.base() }),
            _ => Ok(Extent { bytes: self.active_bytes, end: self.marks.log_end }),
        }
    }
}
