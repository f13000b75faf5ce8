//! What is told of the cleaning of a partition.

use std::time::Duration;

use super::cause::CleaningCause;
use crate::clean::{CleanMode, Cleaned};
use crate::error::Damage;
use crate::store::partition_id::TopicPartition;
use crate::units::{Offset, TimestampMs};

/// How the cleaning of a partition stands. Every end of a pass is one of these: none ends without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleaningState {
    /// Nothing is due.
    Clean,
    /// It waits for a worker.
    Due {
        /// Wall time since which it does.
        since: TimestampMs,
        /// Why.
        because: CleaningReason,
    },
    /// A worker is at it.
    Cleaning(CleaningProgress),
    /// Somebody asked for it to be left alone.
    Paused {
        /// Who.
        by: String,
        /// Wall time since which it is.
        since: TimestampMs,
    },
    /// A pass failed, and another one follows.
    Retry {
        /// Wall time of the next attempt; sooner when the cause is seen to be gone.
        at: TimestampMs,
        /// How many attempts failed in a row.
        attempt: u32,
        /// Why the last one did.
        cause: CleaningCause,
    },
}

/// Why a partition is to be cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleaningReason {
    /// `min.cleanable.dirty.ratio` is reached.
    Ratio,
    /// A record is dirty for longer than `max.compaction.lag.ms`.
    Overdue,
    /// Tombstones or markers may go whose time has passed.
    Horizon,
    /// A pass was interrupted.
    Interrupted,
    /// Somebody asked for it.
    Asked,
}

/// What a pass is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleaningPhase {
    /// The pass begins, and makes what it relies on durable.
    Beginning,
    /// It reads keys.
    Learning,
    /// It sorts out keys that did not fit its memory.
    Resolving,
    /// It writes segments anew.
    Rewriting,
}

/// How far a pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleaningProgress {
    /// Wall time at which it began.
    pub since: TimestampMs,
    /// Which worker is at it.
    pub worker: usize,
    /// What it is doing.
    pub phase: CleaningPhase,
    /// How it learns keys.
    pub mode: CleanMode,
    /// Bytes read and written so far.
    pub bytes_done: u64,
    /// Bytes that are still to be, as far as is known.
    pub bytes_left: u64,
    /// Bytes freed so far.
    pub bytes_freed: u64,
    /// How long the rest takes at the pace so far.
    pub time_left: Option<Duration>,
}

/// A partition that the cleaner does not keep up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Behind {
    /// Wall time since which it is.
    pub since: TimestampMs,
    /// Bytes that could be cleaned and are not.
    pub backlog_bytes: u64,
    /// Milliseconds for which the oldest of them should have been.
    pub overdue_ms: u64,
    /// How fast the backlog grows; negative where it shrinks.
    pub growth_bytes_per_second: i64,
}

/// What the last pass that came to its end did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastPass {
    /// Wall time of its end.
    pub at: TimestampMs,
    /// How it learned keys.
    pub mode: CleanMode,
    /// Everything below this offset is clean since.
    pub upper: Offset,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes of segments written.
    pub bytes_written: u64,
    /// Bytes spilled.
    pub bytes_spilled: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
    /// Records kept.
    pub records_kept: u64,
    /// Most memory held.
    pub memory_peak: u64,
    /// How long it took.
    pub took: Duration,
    /// When the earliest tombstone or marker that was left may go.
    pub next_horizon: Option<TimestampMs>,
}

impl LastPass {
    pub(super) fn of(cleaned: &Cleaned, at: TimestampMs) -> Self {
        Self {
            at,
            mode: cleaned.mode,
            upper: cleaned.upper,
            bytes_read: cleaned.bytes_read,
            bytes_written: cleaned.bytes_written,
            bytes_spilled: cleaned.bytes_spilled,
            bytes_freed: cleaned.bytes_freed,
            records_kept: cleaned.records_kept,
            memory_peak: cleaned.memory_peak,
            took: cleaned.took,
            next_horizon: cleaned.next_horizon,
        }
    }
}

/// How the cleaning of one partition stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CleaningHealth {
    /// Which one.
    pub partition: TopicPartition,
    /// How it stands.
    pub state: CleaningState,
    /// Set while the cleaner does not keep up with it.
    pub behind: Option<Behind>,
    /// Bytes that could be cleaned and are not, when it was last looked at.
    pub dirty_bytes: u64,
    /// Bytes below them.
    pub clean_bytes: u64,
    /// Bytes above them, which may not be cleaned yet, those of the active segment included.
    pub held_bytes: u64,
    /// What holds those back, in words.
    pub held_by: Option<String>,
    /// The first offset that no pass has been at; `None` until it was looked at.
    pub first_dirty: Option<Offset>,
    /// What the last pass did.
    pub last: Option<LastPass>,
    /// Why the pass before failed, while the present one is under way or due.
    pub failed_before: Option<CleaningCause>,
    /// Ranges that cannot be read: they are left exactly as they are, and what lies around them is cleaned.
    pub quarantined: Vec<Damage>,
    /// What its own file said of it could not be read, and was begun anew.
    pub is_begun_anew: bool,
}

impl CleaningHealth {
    /// Whether the partition is cleaned as it should be: no pass failed, and the cleaner keeps up. What is damaged is told
    /// by the partition's health.
    pub fn is_well(&self) -> bool {
        self.behind.is_none() && self.failed_before.is_none() && !matches!(self.state, CleaningState::Retry { .. })
    }
}
