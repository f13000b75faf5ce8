//! The planner: whether a log is due for cleaning, why or why not, and which of several logs comes first. Pure.
//!
//! A log is due when a pass over it was interrupted; when the dirty share of it reaches `min.cleanable.dirty.ratio`; when
//! a record has waited for `max.compaction.lag.ms`; or when tombstones and markers of its clean part are overdue to go,
//! which Kafka's cleaner never looks for. Kafka demands more than the ratio where it is enough here to reach it: a log
//! that is cleaned in halves would else stay at exactly one half for ever.

use std::fmt;
use std::time::Duration;

use super::config::CleanerConfig;
use super::range::later;
pub use super::range::{CleanRange, FirstDirtyRepair, HeldBack, SegmentFacts};
use crate::commit::Marks;
use crate::config::{DirtyRatio, LogConfig};
use crate::units::{Offset, TimestampMs};

/// A log is not cleaned for the sake of expired tombstones sooner after they expire: so those of a while go together.
const HORIZON_SLACK_MIN_MS: u64 = 60_000;

/// What the planner goes by, of one log.
#[derive(Clone, Copy, Debug)]
pub struct LogFacts<'a> {
    /// Its segments, in ascending order, the active one last.
    pub segments: &'a [SegmentFacts],
    /// Its marks.
    pub marks: Marks,
    /// The first dirty offset that is stored; `None` before the first pass.
    pub first_dirty: Option<Offset>,
    /// The pass that was begun and is not finished.
    pub pass: Option<PassFacts>,
    /// The earliest time at which a tombstone or marker that the last pass left may go, of those that no damage keeps.
    pub next_horizon: Option<TimestampMs>,
}

/// An interrupted pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassFacts {
    /// Everything below it is cleaned and in place.
    pub done_to: Offset,
    /// Where it ends.
    pub upper: Offset,
}

/// What the planner says of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outlook {
    /// Its parts.
    pub range: CleanRange,
    /// Whether it is due.
    pub decision: Decision,
    /// Dirty bytes past those that made it due by the dirty ratio.
    pub excess_bytes: u64,
    /// When it will be due, or may be cleaned further, though nothing is appended; `None` when time alone brings nothing.
    pub next_look: Option<TimestampMs>,
}

/// Whether a log is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is to be cleaned.
    Due {
        /// Every reason there is, at least one.
        because: Vec<DueBecause>,
        /// How it compares with other logs.
        urgency: Urgency,
    },
    /// It is not.
    NotDue {
        /// Every reason there is, at least one.
        reasons: Vec<NotDueBecause>,
    },
}

/// Why a log is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DueBecause {
    /// A pass was interrupted and goes on.
    Interrupted(PassFacts),
    /// The dirty share has reached the limit.
    DirtyRatio {
        /// Bytes that no pass has cleaned, and that may be.
        dirty_bytes: u64,
        /// Bytes below them.
        clean_bytes: u64,
        /// `min.cleanable.dirty.ratio`.
        limit: DirtyRatio,
    },
    /// A record has waited for `max.compaction.lag.ms`.
    Overdue {
        /// Since when.
        since: TimestampMs,
        /// For how long by now.
        by_ms: u64,
    },
    /// Tombstones or markers may have gone for a while.
    Horizon {
        /// The earliest delete horizon of them.
        horizon: TimestampMs,
        /// Since when a pass is due for them.
        since: TimestampMs,
        /// For how long by now.
        by_ms: u64,
    },
}

/// Why a log is not due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotDueBecause {
    /// Its `cleanup.policy` is `delete`.
    NotCompacted,
    /// There is nothing that may be cleaned and is not.
    NothingDirty {
        /// First offset that no pass has cleaned.
        first_dirty: Offset,
        /// What holds back the records behind it, if there are any.
        held_back: Option<HeldBack>,
    },
    /// Retention takes everything that is dirty.
    RetentionTakes {
        /// Up to this offset.
        to: Offset,
    },
    /// The dirty share is below the limit.
    BelowRatio {
        /// Bytes that no pass has cleaned, and that may be.
        dirty_bytes: u64,
        /// Bytes below them.
        clean_bytes: u64,
        /// `min.cleanable.dirty.ratio`.
        limit: DirtyRatio,
    },
}

/// How much a log needs cleaning, beside others: what is longest overdue comes first, then what has the most to clean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// For how long it is overdue: a delete was promised by then.
    pub overdue_ms: u64,
    /// Bytes that no pass has cleaned, and that may be.
    pub backlog_bytes: u64,
}

impl Outlook {
    /// Whether the log is to be cleaned.
    pub fn is_due(&self) -> bool {
        self.urgency().is_some()
    }

    /// How urgent that is; `None` when it is not due.
    pub fn urgency(&self) -> Option<Urgency> {
        match self.decision {
            Decision::Due { urgency, .. } => Some(urgency),
            Decision::NotDue { .. } => None,
        }
    }

    /// Whether a log is behind that has been due for `due_for`: its backlog or its delay is past the cleaner's limits.
    pub fn is_behind(&self, config: &CleanerConfig, due_for: Duration) -> bool {
        let Some(urgency) = self.urgency() else { return false };
        let late = due_for.max(Duration::from_millis(urgency.overdue_ms));
        config.behind_bytes.is_some_and(|limit| self.excess_bytes >= limit)
            || config.behind_after.is_some_and(|limit| late >= limit)
    }
}

/// Judges one log. Total: whatever the facts are, there is an answer, and a pass over a range that it calls due makes the
/// dirty range shorter or the horizon later.
pub fn judge(facts: &LogFacts<'_>, config: &LogConfig, now: TimestampMs) -> Outlook {
    let range = CleanRange::of(facts.segments, &facts.marks, facts.first_dirty, config, now);
    let mut times = Vec::new();
    if !config.cleanup_policy.compacts() {
        let decision = Decision::NotDue { reasons: vec![NotDueBecause::NotCompacted] };
        return Outlook { range, decision, excess_bytes: 0, next_look: None };
    }
    let mut because = Vec::new();
    because.extend(interrupted(facts, &range));
    because.extend(by_ratio(&range, config).ok());
    because.extend(overdue(facts, &range, config, now, &mut times));
    because.extend(by_horizon(facts, &range, config, now, &mut times));
    times.extend(range.held_back.iter().filter_map(|held| match held {
        HeldBack::MinimumLag { until, .. } => *until,
        _ => None,
    }));
    let decision = if because.is_empty() {
        Decision::NotDue { reasons: by_ratio(&range, config).err().into_iter().collect() }
    } else {
        let overdue_ms = because.iter().map(DueBecause::by_ms).max().unwrap_or_default();
        Decision::Due { urgency: Urgency { overdue_ms, backlog_bytes: range.dirty_bytes }, because }
    };
    let excess_bytes = excess(&range, config.min_cleanable_dirty_ratio);
    Outlook { range, decision, excess_bytes, next_look: times.into_iter().filter(|time| *time > now).min() }
}

/// A pass goes on only where all that it was to clean may still be cleaned.
fn interrupted(facts: &LogFacts<'_>, range: &CleanRange) -> Option<DueBecause> {
    let pass = facts.pass.filter(|pass| range.first_dirty < pass.upper && pass.upper <= range.secure_to)?;
    Some(DueBecause::Interrupted(pass))
}

fn by_ratio(range: &CleanRange, config: &LogConfig) -> Result<DueBecause, NotDueBecause> {
    if range.first_dirty >= range.secure_to {
        let decides = |held: &HeldBack| !held.is_lifted_by_sync() && held.at() <= range.first_dirty;
        let held_back = range.held_back.iter().copied().find(decides);
        return Err(NotDueBecause::NothingDirty { first_dirty: range.first_dirty, held_back });
    }
    if let Some(to) = range.retention_to.filter(|to| *to >= range.secure_to) {
        return Err(NotDueBecause::RetentionTakes { to });
    }
    let CleanRange { dirty_bytes, clean_bytes, .. } = *range;
    let limit = config.min_cleanable_dirty_ratio;
    if dirty_bytes > 0 && range.dirty_ratio() >= limit.value() {
        return Ok(DueBecause::DirtyRatio { dirty_bytes, clean_bytes, limit });
    }
    Err(NotDueBecause::BelowRatio { dirty_bytes, clean_bytes, limit })
}

/// By KIP-354: counted from the oldest record that is dirty and may be cleaned.
fn overdue(
    facts: &LogFacts<'_>,
    range: &CleanRange,
    config: &LogConfig,
    now: TimestampMs,
    times: &mut Vec<TimestampMs>,
) -> Option<DueBecause> {
    let from = range.dirty_from();
    let dirty = facts.segments.iter().filter(|segment| segment.bytes_between(from, range.secure_to) > 0);
    let oldest = dirty.filter_map(|segment| segment.oldest_from(from)).min()?;
    if config.max_compaction_lag_ms >= i64::MAX.unsigned_abs() {
        return None;
    }
    let since = later(oldest, config.max_compaction_lag_ms);
    times.push(since);
    let by_ms = u64::try_from(now.since(since)).ok()?;
    Some(DueBecause::Overdue { since, by_ms })
}

/// Tombstones and markers that expire in a log that nobody writes to any more must go, too. Not at once: their values are
/// gone already, and those that expire within the next `delete.retention.ms` go with them.
fn by_horizon(
    facts: &LogFacts<'_>,
    range: &CleanRange,
    config: &LogConfig,
    now: TimestampMs,
    times: &mut Vec<TimestampMs>,
) -> Option<DueBecause> {
    let kept_from = range.retention_to.unwrap_or(range.log_start);
    let horizon = facts.next_horizon.filter(|_| kept_from < range.first_dirty && kept_from < range.secure_to)?;
    let since = later(horizon, config.delete_retention_ms.max(HORIZON_SLACK_MIN_MS));
    times.push(since);
    let by_ms = u64::try_from(now.since(since)).ok()?;
    Some(DueBecause::Horizon { horizon, since, by_ms })
}

/// Dirty bytes past those at which the log became due.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such casts saturate, and neither is below 0"
)]
fn excess(range: &CleanRange, limit: DirtyRatio) -> u64 {
    if range.clean_bytes == 0 {
        return range.dirty_bytes;
    }
    // Without end at a limit of 1.0: then no number of bytes makes the log due.
    let due_at = range.clean_bytes as f64 * limit.value() / (1.0 - limit.value());
    range.dirty_bytes.saturating_sub(due_at as u64)
}

impl DueBecause {
    fn by_ms(&self) -> u64 {
        match *self {
            Self::Overdue { by_ms, .. } | Self::Horizon { by_ms, .. } => by_ms,
            Self::Interrupted(_) | Self::DirtyRatio { .. } => 0,
        }
    }
}

impl fmt::Display for DueBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted(pass) => {
                write!(f, "a pass up to {} was interrupted and goes on at {}", pass.upper, pass.done_to)
            }
            Self::DirtyRatio { dirty_bytes, clean_bytes, limit } => write!(
                f,
                "{dirty_bytes} bytes are dirty and {clean_bytes} clean: min.cleanable.dirty.ratio = {} is reached",
                limit.value()
            ),
            Self::Overdue { since, by_ms } => {
                write!(f, "max.compaction.lag.ms had passed for a record at {since}, {by_ms} ms ago")
            }
            Self::Horizon { horizon, since, by_ms } => write!(
                f,
                "tombstones or markers may go since {horizon}; a pass for them is due since {since}, {by_ms} ms ago"
            ),
        }
    }
}

impl fmt::Display for NotDueBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCompacted => f.write_str("cleanup.policy is delete; set it to compact"),
            Self::NothingDirty { first_dirty, held_back: None } => {
                write!(f, "everything below {first_dirty} is clean, and there is no more")
            }
            Self::NothingDirty { first_dirty, held_back: Some(held) } => {
                write!(f, "everything below {first_dirty} is clean, and past that {held}")
            }
            Self::RetentionTakes { to } => write!(f, "retention takes everything below {to}"),
            Self::BelowRatio { dirty_bytes, clean_bytes, limit } => write!(
                f,
                "{dirty_bytes} bytes are dirty and {clean_bytes} clean: less than min.cleanable.dirty.ratio = {}",
                limit.value()
            ),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
