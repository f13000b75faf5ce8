//! Which segments are rewritten together. Pure.
//!
//! Neighbours are merged while the result fits one segment even if nothing is removed: its bytes, its indexes, and offsets
//! relative to its base within 31 bits; and while there are no more of them than are replaced at once. A damaged segment is left as it is, and nothing is merged across it. The active
//! segment and everything past the end of the pass are in no group.

use std::ops::Range;

use super::range::SegmentFacts;
use crate::config::LogConfig;
use crate::log::REPLACED_MAX;
use crate::units::Offset;

/// What a group must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Bytes of its `.log` files together: `segment.bytes`.
    pub segment_bytes: u64,
    /// Bytes of their indexes together: `segment.index.bytes`.
    pub index_bytes: u64,
    /// Bytes that can be written before the old segments are freed, on a disk that is nearly full.
    pub output_bytes: Option<u64>,
}

impl GroupLimits {
    /// Those of a log's settings.
    pub fn of(config: &LogConfig, output_bytes: Option<u64>) -> Self {
        let (segment_bytes, index_bytes) = (config.segment_bytes.into(), config.segment_index_bytes.into());
        Self { segment_bytes, index_bytes, output_bytes }
    }
}

/// What becomes of the segments of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupFate {
    /// They are written anew, as one.
    Rewrite,
    /// It is damaged, alone, and left as it is.
    Damaged,
    /// It is alone, and might be written anew but for the limit on what can be written at a time.
    TooLarge {
        /// By so many bytes, if nothing of it is removed.
        missing_bytes: u64,
    },
}

/// Neighbouring segments that are treated together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Which ones, by their place among the facts.
    pub segments: Range<usize>,
    /// Base offset of the first.
    pub base: Offset,
    /// First offset past the last.
    pub end: Offset,
    /// Bytes of their `.log` files.
    pub bytes: u64,
    /// Bytes of their indexes.
    pub index_bytes: u64,
    /// What becomes of them.
    pub fate: GroupFate,
}

impl Group {
    fn of(at: usize, segment: &SegmentFacts, limits: &GroupLimits) -> Self {
        let missing_bytes = limits.output_bytes.map_or(0, |limit| segment.bytes.saturating_sub(limit));
        let fate = match missing_bytes {
            _ if segment.has_holes => GroupFate::Damaged,
            0 => GroupFate::Rewrite,
            missing_bytes => GroupFate::TooLarge { missing_bytes },
        };
        let SegmentFacts { base, end, bytes, index_bytes, .. } = *segment;
        Self { segments: at..at.saturating_add(1), base, end, bytes, index_bytes, fate }
    }

    /// The two as one, where that fits.
    fn joined(&self, next: &Self, limits: &GroupLimits) -> Option<Self> {
        let are_rewritten = self.fate == GroupFate::Rewrite && next.fate == GroupFate::Rewrite;
        let bytes = self.bytes.checked_add(next.bytes)?;
        let index_bytes = self.index_bytes.checked_add(next.index_bytes)?;
        let output_max = limits.output_bytes.map_or(limits.segment_bytes, |limit| limit.min(limits.segment_bytes));
        let last_relative = next.end.distance_from(self.base).saturating_sub(1);
        let count = next.segments.end.saturating_sub(self.segments.start);
        let fits = count <= REPLACED_MAX
            && bytes <= output_max
            && index_bytes <= limits.index_bytes
            && last_relative <= u64::from(i32::MAX.unsigned_abs());
        let segments = self.segments.start..next.segments.end;
        (are_rewritten && fits).then(|| Self { segments, end: next.end, bytes, index_bytes, ..self.clone() })
    }
}

/// The groups of the sealed segments that hold anything from `log_start` up to `upper`, in ascending order.
pub fn groups(segments: &[SegmentFacts], log_start: Offset, upper: Offset, limits: &GroupLimits) -> Vec<Group> {
    let is_cleaned = |segment: &SegmentFacts| !segment.is_active && segment.base < upper && segment.end > log_start;
    let mut groups: Vec<Group> = Vec::new();
    for (at, segment) in segments.iter().enumerate().filter(|(_, segment)| is_cleaned(segment)) {
        let next = Group::of(at, segment, limits);
        match groups.last_mut().filter(|last| last.segments.end == at) {
            Some(last) => match last.joined(&next, limits) {
                Some(joined) => *last = joined,
                None => groups.push(next),
            },
            None => groups.push(next),
        }
    }
    groups
}

/// By how many bytes the first group does not fit that is too large for what can be written at a time.
pub fn missing_bytes(groups: &[Group]) -> Option<u64> {
    groups.iter().find_map(|group| match group.fate {
        GroupFate::TooLarge { missing_bytes } => Some(missing_bytes),
        GroupFate::Rewrite | GroupFate::Damaged => None,
    })
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
