//! What readers see: one snapshot of segments and marks, replaced by every change.

use std::sync::Arc;

use super::LogCore;
use super::writer::Writer;
use crate::commit::Marks;
use crate::config::{HighWatermarkMode, LogConfig};
use crate::index::{EpochStart, LeaderEpochs};
use crate::segment::{Extent, Segment};
use crate::sync::MutexGuard;
use crate::units::Offset;

/// Segments and marks that belong together.
#[derive(Clone, Debug)]
pub(crate) struct LogView {
    /// By base offset, rising; the last one is active. Never empty.
    pub(crate) segments: Arc<Vec<Arc<Segment>>>,
    pub(crate) marks: Marks,
    /// Published bytes of the active segment.
    pub(crate) active_bytes: u64,
    pub(crate) is_closed: bool,
    /// Below it offsets may be missing between batches: cleaning may have been there, whatever the policy says now.
    pub(crate) cleaned_to: Offset,
    /// Who led from which offset on, up to the log end.
    pub(crate) epochs: Arc<LeaderEpochs>,
}

impl LogView {
    /// That of a log that was opened.
    pub(super) fn opened(
        segments: Vec<Arc<Segment>>,
        marks: Marks,
        active_bytes: u64,
        cleaned_to: Offset,
        epochs: Arc<LeaderEpochs>,
    ) -> Self {
        Self { segments: Arc::new(segments), marks, active_bytes, is_closed: false, cleaned_to, epochs }
    }

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

impl LogCore {
    /// Changes what readers see, and what follows from it: high watermark, last stable offset, who waits for them. The
    /// writer is locked, so marks are published in the order in which they came about. Who waits is woken by
    /// [`LogCore::wake`], without the lock: a waker is somebody else's code.
    pub(super) fn publish(&self, writer: &mut Writer, config: &LogConfig, change: impl FnOnce(&mut LogView)) {
        let marks = {
            let mut view = self.view.write();
            change(&mut view);
            if !is_same(view.epochs.entries(), writer.derived.epochs.entries()) {
                view.epochs = Arc::new(writer.derived.epochs.clone());
            }
            view.marks = settled(view.marks, writer, config.high_watermark);
            view.marks
        };
        writer.must_wake |= self.waiters.note(&marks);
    }

    /// Lets go of the writer and wakes those who waited for the marks that were published under it.
    pub(super) fn wake(&self, mut writer: MutexGuard<'_, Writer>) {
        let must_wake = std::mem::take(&mut writer.must_wake);
        drop(writer);
        if must_wake {
            self.waiters.wake();
        }
    }
}

/// Whether nothing came or went at either end, which is where epochs change. Asked with every append.
fn is_same(published: &[EpochStart], current: &[EpochStart]) -> bool {
    (published.len(), published.first(), published.last()) == (current.len(), current.first(), current.last())
}

/// The marks with those that follow from others. The high watermark never falls but with the log end.
pub(super) fn settled(marks: Marks, writer: &mut Writer, mode: HighWatermarkMode) -> Marks {
    let wanted = match mode {
        HighWatermarkMode::LogEnd => marks.log_end,
        HighWatermarkMode::DurableEnd => marks.high_watermark.max(marks.durable_end),
        HighWatermarkMode::Embedder => marks.high_watermark,
    };
    let high_watermark = wanted.max(marks.log_start).min(marks.log_end);
    let producers = &mut writer.derived.producers;
    producers.advance_high_watermark(high_watermark);
    let unstable = producers.first_unstable().unwrap_or(high_watermark);
    // Records may be deleted inside an open transaction.
    let last_stable = unstable.min(high_watermark).max(marks.log_start);
    Marks { last_stable, high_watermark, ..marks }.checked()
}
