//! What a pass has done so far, in figures.

use std::time::Duration;

use super::cleaned::Cleaned;
use super::filter::FilterCounts;
use super::learning::LearningCounts;
use super::rewrite::{Rewrite, RewriteCounts};
use crate::units::Offset;

/// Figures of the phases that are over, and of learning.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// When the pass began, by the log's monotonic clock.
    began: Duration,
    /// Bytes read for their keys.
    pub(super) bytes_scanned: u64,
    /// Of the learning that is under way, or was the last.
    pub(super) learning: LearningCounts,
    /// Where the map was full.
    pub(super) full_at: Option<Offset>,
    /// Of learnings that were given up.
    spilled: u64,
    spill_read: u64,
    rewrite: RewriteCounts,
    filter: FilterCounts,
    memory_peak: usize,
    expanded_max: usize,
}

impl Figures {
    /// Of a pass that begins at monotonic time `began`.
    pub(super) fn from(began: Duration) -> Self {
        Self { began, ..Self::default() }
    }

    /// So much memory is held, and so many bytes came of a compressed batch.
    pub(super) fn note_held(&mut self, bytes: usize, expanded: usize) {
        self.note_memory(bytes);
        self.expanded_max = self.expanded_max.max(expanded);
    }

    /// So much memory is held.
    pub(super) fn note_memory(&mut self, bytes: usize) {
        self.memory_peak = self.memory_peak.max(bytes);
    }

    /// The keys are to be learned again.
    pub(super) fn end_learning(&mut self) {
        let LearningCounts { spilled_bytes, mark_bytes, read_bytes, .. } = std::mem::take(&mut self.learning);
        self.spilled = self.spilled.saturating_add(spilled_bytes).saturating_add(mark_bytes);
        self.spill_read = self.spill_read.saturating_add(read_bytes);
    }

    /// A rewrite is over.
    pub(super) fn end_rewrite(&mut self, rewrite: &Rewrite) {
        // Merged runs are read while segments are written.
        self.learning = rewrite.verdicts().counts();
        self.rewrite = self.rewrite_with(rewrite.counts());
        let (sum, more) = (&mut self.filter, rewrite.filter().counts());
        sum.records_read = sum.records_read.saturating_add(more.records_read);
        sum.records_kept = sum.records_kept.saturating_add(more.records_kept);
        sum.invalid = sum.invalid.saturating_add(more.invalid);
        sum.tombstones_removed = sum.tombstones_removed.saturating_add(more.tombstones_removed);
        sum.markers_removed = sum.markers_removed.saturating_add(more.markers_removed);
    }

    /// Figures of the rewrites that are over, and of the one under way.
    pub(super) fn rewrite_with(&self, under_way: RewriteCounts) -> RewriteCounts {
        let sum = |before: u64, now: u64| before.saturating_add(now);
        RewriteCounts {
            bytes_read: sum(self.rewrite.bytes_read, under_way.bytes_read),
            bytes_written: sum(self.rewrite.bytes_written, under_way.bytes_written),
            bytes_before: sum(self.rewrite.bytes_before, under_way.bytes_before),
            bytes_after: sum(self.rewrite.bytes_after, under_way.bytes_after),
            segments_after: sum(self.rewrite.segments_after, under_way.segments_after),
            next_horizon: [self.rewrite.next_horizon, under_way.next_horizon].into_iter().flatten().min(),
            memory_peak: self.rewrite.memory_peak.max(under_way.memory_peak),
            expanded_max: self.rewrite.expanded_max.max(under_way.expanded_max),
        }
    }

    /// Bytes read and written, with those of a scan and a rewrite that are under way.
    pub(super) fn moved(&self, scanned: u64, under_way: RewriteCounts) -> (u64, u64) {
        let LearningCounts { spilled_bytes, mark_bytes, read_bytes, .. } = self.learning;
        let rewrite = self.rewrite_with(under_way);
        let read = [self.bytes_scanned, scanned, self.spill_read, read_bytes, rewrite.bytes_read];
        let written = [self.spilled, spilled_bytes, mark_bytes, rewrite.bytes_written];
        let sum = |parts: &[u64]| parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        (sum(&read), sum(&written))
    }

    /// All of them, at `now`, when the pass is over.
    pub(super) fn cleaned(&self, now: Duration) -> Cleaned {
        let (bytes_read, written) = self.moved(0, RewriteCounts::default());
        let rewrite = self.rewrite;
        Cleaned {
            passes: 1,
            bytes_read,
            bytes_written: rewrite.bytes_written,
            bytes_spilled: written.saturating_sub(rewrite.bytes_written),
            bytes_freed: rewrite.bytes_before.saturating_sub(rewrite.bytes_after),
            segments_after: rewrite.segments_after,
            records_read: self.filter.records_read,
            records_kept: self.filter.records_kept,
            records_keyless: self.filter.invalid,
            tombstones_removed: self.filter.tombstones_removed.saturating_add(self.filter.markers_removed),
            notes: self.learning.notes,
            keys: self.learning.keys,
            memory_peak: self.memory_peak as u64,
            expanded_peak: self.expanded_max as u64,
            took: now.saturating_sub(self.began),
            next_horizon: rewrite.next_horizon,
            ..Cleaned::default()
        }
    }
}
