//! What a pass tells when it is done.

use std::ops::Range;
use std::time::Duration;

use crate::units::{Offset, TimestampMs};

/// How a pass came to know what is superseded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleanMode {
    /// The keys of the dirty range fitted the memory.
    #[default]
    Map,
    /// They did not, and were sorted out on disk.
    Spill,
    /// They did not, and there was no disk for it: the dirty range was cleaned up to where the memory was full.
    Partial,
}

/// A range that was left as it is, since it cannot all be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftAlone {
    /// Base offset of the segment.
    pub base: Offset,
    /// The offsets in it that cannot be read.
    pub damaged: Range<Offset>,
}

/// What cleaning did, in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// How it knew what is superseded.
    pub mode: CleanMode,
    /// Passes that were made; 0 when there was nothing to clean.
    pub passes: u32,
    /// Whether it went on with a pass that had been interrupted.
    pub resumed: bool,
    /// Log start when it began.
    pub from: Offset,
    /// First dirty offset when it began.
    pub first_dirty: Offset,
    /// First dirty offset now: everything below is clean.
    pub upper: Offset,
    /// Bytes of segments and spill files that were read.
    pub bytes_read: u64,
    /// Bytes of new segments that were written.
    pub bytes_written: u64,
    /// Bytes of spill files that were written, runs included.
    pub bytes_spilled: u64,
    /// Bytes of the logs that are gone, less those of the logs in their place.
    pub bytes_freed: u64,
    /// Bytes of the segments that were cleaned, before.
    pub bytes_before: u64,
    /// Segments that were cleaned, before.
    pub segments_before: u64,
    /// Segments in their place.
    pub segments_after: u64,
    /// Records that were looked at.
    pub records_read: u64,
    /// Records that were kept.
    pub records_kept: u64,
    /// Records without a key, which a compacted log does not keep.
    pub records_keyless: u64,
    /// Tombstones and markers that were removed since their time had passed.
    pub tombstones_removed: u64,
    /// Notes of keys in the dirty range.
    pub notes: u64,
    /// Different keys in the dirty range; in a spilling pass, in the whole range.
    pub keys: u64,
    /// The most memory that was held at once, codecs apart.
    pub memory_peak: u64,
    /// The most bytes that a compressed batch was expanded to. It is held beside [`memory_peak`](Self::memory_peak), as is
    /// what its codec works in: less than 256 KiB for lz4, megabytes for a large window of zstd.
    pub expanded_peak: u64,
    /// How long it took by the log's clock.
    pub took: Duration,
    /// The earliest time at which a tombstone or marker that is left may go.
    pub next_horizon: Option<TimestampMs>,
    /// What was left as it is since it is damaged.
    pub left_alone: Vec<LeftAlone>,
}

impl Cleaned {
    /// The figures of this one and of the pass that came after it.
    pub(crate) fn and_then(self, next: Self) -> Self {
        Self {
            mode: if self.mode == CleanMode::Partial { self.mode } else { next.mode },
            passes: self.passes.saturating_add(next.passes),
            resumed: self.resumed,
            from: self.from,
            first_dirty: self.first_dirty,
            upper: next.upper,
            bytes_read: self.bytes_read.saturating_add(next.bytes_read),
            bytes_written: self.bytes_written.saturating_add(next.bytes_written),
            bytes_spilled: self.bytes_spilled.saturating_add(next.bytes_spilled),
            bytes_freed: self.bytes_freed.saturating_add(next.bytes_freed),
            bytes_before: self.bytes_before.max(next.bytes_before),
            segments_before: self.segments_before.max(next.segments_before),
            segments_after: next.segments_after,
            records_read: self.records_read.saturating_add(next.records_read),
            records_kept: next.records_kept,
            records_keyless: self.records_keyless.saturating_add(next.records_keyless),
            tombstones_removed: self.tombstones_removed.saturating_add(next.tombstones_removed),
            notes: self.notes.saturating_add(next.notes),
            keys: self.keys.saturating_add(next.keys),
            memory_peak: self.memory_peak.max(next.memory_peak),
            expanded_peak: self.expanded_peak.max(next.expanded_peak),
            took: self.took.saturating_add(next.took),
            next_horizon: next.next_horizon,
            left_alone: next.left_alone,
        }
    }
}
