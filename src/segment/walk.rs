//! Going through a segment batch by batch for what the headers say: producers, markers, epochs.

use std::io;

use super::window::Window;
use super::{Extent, Segment};
use crate::error::{IoFailure, IoOperation};
use crate::record::{self, BatchHeader, BatchView, HEADER_BYTES, TransactionMarker};
use crate::units::Offset;

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;

/// No marker of a transaction is larger: a control batch past that decides nothing, live as in recovery.
pub(crate) const MARKER_BYTES_MAX: u32 = 1 << 20;
const _: () = assert!(MARKER_BYTES_MAX as usize <= Window::need_max());

/// How far a walk got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Through the whole extent.
    Whole,
    /// Something in it cannot be read; what lies behind was not seen.
    Partly,
}

impl Segment {
    /// Shows `visit` each batch that reaches to `from` or past it, in order, with what it decides about a transaction.
    /// Known holes are stepped over. Nothing is checksummed but markers.
    pub(crate) fn each_batch(
        &self,
        from: Offset,
        extent: Extent,
        mut visit: impl FnMut(&BatchHeader, Option<TransactionMarker>),
    ) -> Result<Walked, IoFailure> {
        self.walk_while(from, extent, |window, position, header| {
            if header.last_offset() >= from {
                visit(header, marker_at(window, position, header)?);
            }
            Ok(true)
        })
    }

    /// The last batch that begins before `offset`, and the first one that begins there or later. What cannot be read is
    /// taken for the end of the segment.
    pub(crate) fn neighbours(
        &self,
        offset: Offset,
        extent: Extent,
    ) -> Result<(Option<BatchHeader>, Option<BatchHeader>), IoFailure> {
        let (mut before, mut after) = (None, None);
        let below = Offset::new(offset.value() - 1).unwrap_or_default();
        self.walk_while(below, extent, |_, _, header| {
            let slot = if header.base_offset < offset { &mut before } else { &mut after };
            *slot = Some(*header);
            Ok(after.is_none())
        })?;
        Ok((before, after))
    }

    /// Shows `visit` each batch from some place at or before the one with `from` on, until it says `false`.
    fn walk_while(
        &self,
        from: Offset,
        extent: Extent,
        mut visit: impl FnMut(&mut Window, u64, &BatchHeader) -> io::Result<bool>,
    ) -> Result<Walked, IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.log_path(), e);
        let mut position = self.start_near(from, extent.bytes);
        let mut expected = self.base();
        let mut window = Window::new(self.file()?, extent.bytes);
        while position < extent.bytes {
            if let Some(hole) = self.hole_at(position).filter(|hole| !hole.bytes.is_empty()) {
                position = hole.bytes.end;
                continue;
            }
            let bytes = window.at(position, HEADER_BYTES).map_err(failed)?;
            let Ok(header) = BatchHeader::parse(bytes, BATCH_BYTES_MAX) else { return Ok(Walked::Partly) };
            let is_placed = header.base_offset >= expected && header.last_offset() < extent.end;
            if !is_placed || u64::from(header.size) > window.remaining(position) {
                return Ok(Walked::Partly);
            }
            if !visit(&mut window, position, &header).map_err(failed)? {
                return Ok(Walked::Whole);
            }
            expected = header.next_offset();
            position += u64::from(header.size);
        }
        Ok(Walked::Whole)
    }

    /// A position from which the batch with `from` is soon reached. The index may lie; then the walk starts in front.
    fn start_near(&self, from: Offset, bound: u64) -> u64 {
        let entry = self.with_index(|index| index.offsets.at_or_before(self.base(), from));
        let Ok(Some(entry)) = entry else { return 0 };
        let position = u64::from(entry.position);
        let named = entry.last.absolute(self.base());
        match self.header_at(position, bound) {
            Ok(header) if named.is_some_and(|named| header.last_offset() <= named) => position,
            _ => 0,
        }
    }
}

/// What the batch at `position` decides about its producer's transaction. A control batch that is damaged, or larger than
/// any marker, decides nothing.
pub(crate) fn marker_at(
    window: &mut Window,
    position: u64,
    header: &BatchHeader,
) -> io::Result<Option<TransactionMarker>> {
    let size = header.size as usize;
    if !header.attributes.is_control() || header.size > MARKER_BYTES_MAX {
        return Ok(None);
    }
    let Some(bytes) = window.at(position, size)?.get(..size) else { return Ok(None) };
    let Ok(view) = BatchView::parse(bytes, BATCH_BYTES_MAX) else { return Ok(None) };
    if view.verify_crc().is_err() {
        return Ok(None);
    }
    Ok(record::transaction_marker(&view).unwrap_or_default())
}
