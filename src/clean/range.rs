//! Which part of a log may be cleaned, and what holds back the rest. Pure: facts in, offsets out.
//!
//! ```text
//! log start        first dirty                 first uncleanable                     log end
//!     | clean, kept     | dirty: to be cleaned        | held back, each for a reason     |
//! ```
//! Sizes are counted by offsets, a segment that a mark cuts in proportion: with whole segments such a one would count as
//! clean and as dirty, the ratio would stay at one half, and a log of one segment would never be cleaned again.

use std::fmt;

use crate::commit::Marks;
use crate::config::LogConfig;
use crate::log::{RetentionFacts, Untold, plan_retention};
use crate::units::{Offset, TimestampMs};

/// What the planner goes by, of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its base offset.
    pub base: Offset,
    /// First offset past it: after its last record where that is known, or else the next segment's base offset.
    pub end: Offset,
    /// Size of its `.log`.
    pub bytes: u64,
    /// Size of the larger one of its offset index and its time index.
    pub index_bytes: u64,
    /// Timestamp of its first batch; `None` where that has none or is not known.
    pub first_timestamp: Option<TimestampMs>,
    /// Largest timestamp of its records; `None` where none has one, or it is not known.
    pub largest_timestamp: Option<TimestampMs>,
    /// When it was appended to last, by this machine's clock; `None` where that is not known.
    pub last_written: Option<TimestampMs>,
    /// Whether it takes appends.
    pub is_active: bool,
    /// Whether some of it cannot be read. Then all of it is left as it is.
    pub has_holes: bool,
}

impl SegmentFacts {
    /// How many offsets it spans.
    pub fn span(&self) -> u64 {
        self.end.distance_from(self.base)
    }

    /// Its bytes from `from` to `to`, in proportion to the offsets.
    pub fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        let (from, to) = (from.max(self.base), to.min(self.end));
        let (part, span) = (to.distance_from(from), self.span());
        if part == span {
            // Of a segment that holds nothing, all or none is the same.
            return if span == 0 { 0 } else { self.bytes };
        }
        let share = (u128::from(self.bytes) * u128::from(part)).div_ceil(u128::from(span));
        u64::try_from(share).unwrap_or(self.bytes)
    }

    /// From when its youngest record is. A time that is still to come, or none, says nothing: then the time of the last
    /// append counts, as for retention. What neither tells is taken at the record's word.
    fn youngest(&self, now: TimestampMs) -> Option<TimestampMs> {
        let recorded = self.largest_timestamp.filter(|largest| largest.value() > 0);
        let is_past = recorded.is_some_and(|largest| largest <= now);
        let written = self.last_written.map(|written| written.min(now));
        if is_past { recorded } else { written.or(recorded) }
    }

    /// From when its oldest record at or past `from` may be. Within it, time is taken to pass evenly with the offsets.
    pub(super) fn oldest_from(&self, from: Offset) -> Option<TimestampMs> {
        let known = |time: &TimestampMs| time.value() > 0;
        let largest = self.largest_timestamp.filter(known);
        let Some(first) = self.first_timestamp.filter(known) else { return largest };
        let cut = from.distance_from(self.base);
        if cut == 0 || self.span() == 0 {
            return Some(first);
        }
        let length = i128::from(largest.unwrap_or(first).max(first).since(first));
        let passed = length * i128::from(cut.min(self.span())) / i128::from(self.span());
        Some(later(first, u64::try_from(passed).unwrap_or(0)))
    }
}

impl RetentionFacts for SegmentFacts {
    fn base(&self) -> Offset {
        self.base
    }

    fn end(&self) -> Offset {
        self.end
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_active(&self) -> bool {
        self.is_active
    }

    fn largest_timestamp(&self) -> Result<Option<TimestampMs>, Untold> {
        Ok(self.largest_timestamp)
    }

    fn last_written(&self) -> Result<TimestampMs, Untold> {
        self.last_written.ok_or(Untold)
    }
}

/// `time` and so many milliseconds, or the end of time.
pub(super) fn later(time: TimestampMs, millis: u64) -> TimestampMs {
    TimestampMs::new(time.value().saturating_add(i64::try_from(millis).unwrap_or(i64::MAX)))
}

/// The bytes of a log from `from` to `to`.
pub(super) fn bytes_between(segments: &[SegmentFacts], from: Offset, to: Offset) -> u64 {
    segments.iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.bytes_between(from, to)))
}

/// What keeps the cleaner from an offset and all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldBack {
    /// A transaction from here on is undecided.
    LastStable {
        /// The last stable offset.
        at: Offset,
    },
    /// It is not replicated yet, and may be truncated away.
    HighWatermark {
        /// The high watermark.
        at: Offset,
    },
    /// A power loss may take it. A pass asks for the sync first.
    DurableEnd {
        /// The durable end.
        at: Offset,
    },
    /// It is in the segment that takes appends, which is never touched.
    ActiveSegment {
        /// That segment's base offset.
        at: Offset,
    },
    /// A record of the segment is younger than `min.compaction.lag.ms`.
    MinimumLag {
        /// The segment's base offset, or the first dirty offset within it.
        at: Offset,
        /// From when the youngest record is; `None` where nothing tells.
        youngest: Option<TimestampMs>,
        /// When the lag will have passed, as far as is known.
        until: Option<TimestampMs>,
    },
}

impl HeldBack {
    /// The first offset that it holds back.
    pub fn at(&self) -> Offset {
        match *self {
            Self::LastStable { at }
            | Self::HighWatermark { at }
            | Self::DurableEnd { at }
            | Self::ActiveSegment { at }
            | Self::MinimumLag { at, .. } => at,
        }
    }

    /// Whether the sync that a pass asks for is all that it takes.
    pub(super) fn is_lifted_by_sync(&self) -> bool {
        matches!(self, Self::DurableEnd { .. })
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LastStable { at } => write!(f, "a transaction is open from {at} on (last stable offset)"),
            Self::HighWatermark { at } => write!(f, "it is not replicated from {at} on (high watermark)"),
            Self::DurableEnd { at } => write!(f, "it is not synced from {at} on (durable end); a pass syncs it first"),
            Self::ActiveSegment { at } => write!(f, "the active segment begins at {at} and is never cleaned"),
            Self::MinimumLag { at, youngest: None, .. } => {
                write!(f, "the age of the segment at {at} is not known, and min.compaction.lag.ms is set")
            }
            Self::MinimumLag { at, youngest: Some(youngest), until } => {
                let until = until.map_or_else(String::new, |until| format!(", until {until}"));
                write!(f, "a record of {youngest} in the segment at {at} is within min.compaction.lag.ms{until}")
            }
        }
    }
}

/// Why the stored first dirty offset was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstDirtyRepair {
    /// It lay below the log start, which has risen since.
    BelowLogStart {
        /// What was stored.
        stored: Offset,
    },
    /// It lay past the log end: it is another log's, or the log was cut behind the cleaner's back. All is dirty.
    PastLogEnd {
        /// What was stored.
        stored: Offset,
    },
}

/// The parts of a log as the cleaner sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanRange {
    /// The log start.
    pub log_start: Offset,
    /// First offset that no pass has cleaned: what was stored, or what came of it.
    pub first_dirty: Offset,
    /// Why that is not what was stored.
    pub repaired: Option<FirstDirtyRepair>,
    /// Nothing at or past it may be cleaned now.
    pub first_uncleanable: Offset,
    /// What it will be once everything below is durable. A pass asks for that sync, and a log is judged by it.
    pub secure_to: Offset,
    /// All that holds back, in the order of the offsets. The first decides.
    pub held_back: Vec<HeldBack>,
    /// Retention is about to take whole segments up to here.
    pub retention_to: Option<Offset>,
    /// Bytes below the first dirty offset, without what retention takes.
    pub clean_bytes: u64,
    /// Bytes from the first dirty offset to `secure_to`, without what retention takes.
    pub dirty_bytes: u64,
    /// Bytes that are held back.
    pub held_bytes: u64,
}

impl CleanRange {
    /// Where what is to be cleaned begins: at the first dirty offset, or where retention stops.
    pub fn dirty_from(&self) -> Offset {
        self.retention_to.map_or(self.first_dirty, |to| to.max(self.first_dirty))
    }

    /// The share of what may be cleaned that is dirty, 0.0 to 1.0.
    #[expect(clippy::cast_precision_loss, reason = "a share of 53 bits is plenty")]
    pub fn dirty_ratio(&self) -> f64 {
        let total = self.clean_bytes.saturating_add(self.dirty_bytes);
        if total == 0 { 0.0 } else { self.dirty_bytes as f64 / total as f64 }
    }

    /// What is found of `segments`.
    pub(super) fn of(
        segments: &[SegmentFacts],
        marks: &Marks,
        stored: Option<Offset>,
        config: &LogConfig,
        now: TimestampMs,
    ) -> Self {
        let log_start = marks.log_start;
        let (first_dirty, repaired) = first_dirty(marks, stored);
        let mut held_back = held_back(segments, marks, first_dirty, config, now);
        // A stable sort: of several at one offset, the one that is named first is the one to know about.
        held_back.sort_by_key(HeldBack::at);
        let least = |held: Option<&HeldBack>| held.map_or(marks.log_end, HeldBack::at).max(log_start);
        let first_uncleanable = least(held_back.first());
        let secure_to = least(held_back.iter().find(|held| !held.is_lifted_by_sync()));
        let retained = plan_retention(segments, marks, config, now);
        let last_taken = retained.len().checked_sub(1).and_then(|last| segments.get(last));
        let retention_to = last_taken.map(|segment| segment.end).filter(|to| *to > log_start);
        let kept_from = retention_to.unwrap_or(log_start);
        Self {
            log_start,
            first_dirty,
            repaired,
            first_uncleanable,
            secure_to,
            held_back,
            retention_to,
            clean_bytes: bytes_between(segments, kept_from, first_dirty),
            dirty_bytes: bytes_between(segments, kept_from.max(first_dirty), secure_to),
            held_bytes: bytes_between(segments, secure_to, marks.log_end),
        }
    }
}

/// What was stored, if it can be. Whatever stands in a file, the range that comes of it is one of this log.
fn first_dirty(marks: &Marks, stored: Option<Offset>) -> (Offset, Option<FirstDirtyRepair>) {
    match stored {
        None => (marks.log_start, None),
        Some(stored) if stored < marks.log_start => (marks.log_start, Some(FirstDirtyRepair::BelowLogStart { stored })),
        Some(stored) if stored > marks.log_end => (marks.log_start, Some(FirstDirtyRepair::PastLogEnd { stored })),
        Some(stored) => (stored, None),
    }
}

fn held_back(
    segments: &[SegmentFacts],
    marks: &Marks,
    first_dirty: Offset,
    config: &LogConfig,
    now: TimestampMs,
) -> Vec<HeldBack> {
    let active = segments.iter().find(|segment| segment.is_active);
    let mut held = vec![
        HeldBack::LastStable { at: marks.last_stable },
        HeldBack::HighWatermark { at: unreplicated_from(segments, marks.high_watermark) },
        HeldBack::DurableEnd { at: marks.durable_end },
    ];
    held.extend(active.map(|active| HeldBack::ActiveSegment { at: active.base }));
    let mut dirty = segments.iter().filter(|segment| !segment.is_active && segment.end > first_dirty);
    held.extend(dirty.find_map(|segment| within_lag(segment, first_dirty, config.min_compaction_lag_ms, now)));
    // What begins at the log end holds nothing back.
    held.retain(|held| held.at() < marks.log_end);
    held
}

/// A segment is replaced as a whole, so that a sealed one which reaches past the high watermark, and may be cut, has to
/// wait as a whole.
fn unreplicated_from(segments: &[SegmentFacts], high_watermark: Offset) -> Offset {
    let reaches_past = |segment: &&SegmentFacts| segment.base < high_watermark && high_watermark < segment.end;
    let cut = segments.iter().filter(|segment| !segment.is_active).find(reaches_past);
    cut.map_or(high_watermark, |segment| segment.base)
}

/// Whether a segment is too young, and until when.
fn within_lag(segment: &SegmentFacts, first_dirty: Offset, lag: u64, now: TimestampMs) -> Option<HeldBack> {
    if lag == 0 {
        return None;
    }
    let youngest = segment.youngest(now);
    let until = youngest.map(|youngest| later(youngest, lag));
    let is_young = until.is_none_or(|until| until > now);
    is_young.then_some(HeldBack::MinimumLag { at: segment.base.max(first_dirty), youngest, until })
}
