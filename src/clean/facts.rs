//! What the planner goes by, as a log tells it.

use super::plan::{LogFacts, PassFacts};
use super::range::SegmentFacts;
use crate::commit::Marks;
use crate::config::HighWatermarkMode;
use crate::error::IoFailure;
use crate::log::{CleanSegment, CleanView};
use crate::units::{Offset, TimestampMs};

/// Of an index entry, the larger kind.
const INDEX_ENTRY_BYTES: u64 = 12;
/// The least bytes of a batch, of which none has more than one entry.
const BATCH_BYTES_MIN: u64 = 61;

/// Facts of all segments that a log shows its cleaner, the active one last.
///
/// # Errors
/// I/O: times are read from indexes and headers, where the settings ask for them.
pub(crate) fn segment_facts(view: &CleanView, now: TimestampMs) -> Result<Vec<SegmentFacts>, IoFailure> {
    let first_dirty = view.state.first_dirty;
    let mut facts = Vec::with_capacity(view.segments.len().saturating_add(1));
    for segment in &view.segments {
        facts.push(facts_of(view, segment, segment.end > first_dirty, now)?);
    }
    let is_there = view.active_base < view.marks.log_end || view.segments.is_empty();
    facts.extend(is_there.then_some(SegmentFacts {
        base: view.active_base,
        end: view.marks.log_end,
        bytes: view.active_bytes,
        index_bytes: 0,
        first_timestamp: None,
        largest_timestamp: None,
        last_written: None,
        is_active: true,
        has_holes: false,
    }));
    Ok(facts)
}

fn facts_of(
    view: &CleanView,
    segment: &CleanSegment,
    is_dirty: bool,
    now: TimestampMs,
) -> Result<SegmentFacts, IoFailure> {
    let config = &view.config;
    let deletes = config.cleanup_policy.deletes();
    let has_min_lag = config.min_compaction_lag_ms > 0;
    let has_max_lag = config.max_compaction_lag_ms < i64::MAX.unsigned_abs();
    let needs_age = deletes || is_dirty && (has_min_lag || has_max_lag);
    Ok(SegmentFacts {
        base: segment.base,
        end: segment.end,
        bytes: segment.bytes,
        index_bytes: index_bytes_max(segment.bytes, config.index_interval_bytes.into()),
        first_timestamp: if is_dirty && has_max_lag { segment.first_timestamp()? } else { None },
        largest_timestamp: if needs_age { segment.largest_timestamp()? } else { None },
        last_written: if needs_age { Some(segment.last_written(now)?) } else { None },
        is_active: false,
        has_holes: !segment.holes.is_empty(),
    })
}

/// No index of a log of so many bytes is larger.
fn index_bytes_max(bytes: u64, interval_bytes: u64) -> u64 {
    let entries = bytes.checked_div(interval_bytes.max(BATCH_BYTES_MIN)).unwrap_or(0).saturating_add(1);
    entries.saturating_mul(INDEX_ENTRY_BYTES)
}

/// All that the planner wants to know of a log. `next_horizon` is what the last pass told.
pub(crate) fn log_facts<'a>(
    view: &CleanView,
    segments: &'a [SegmentFacts],
    next_horizon: Option<TimestampMs>,
) -> LogFacts<'a> {
    let pass = view.state.pass.as_ref();
    let is_known = view.state.first_dirty > Offset::ZERO;
    LogFacts {
        segments,
        marks: view.marks,
        first_dirty: is_known.then_some(view.state.first_dirty),
        pass: pass.map(|pass| PassFacts { done_to: pass.done_to, upper: pass.upper }),
        next_horizon,
    }
}

/// [`log_facts`] as they are once a pass has begun. Where the high watermark follows the durable end, nothing is dirty
/// before somebody flushes, and nobody else may ever: a pass begins with that, so it is judged by what a flush makes
/// readable. For whoever decides whether to begin one; the pass goes by the marks as they are by then.
pub(crate) fn log_facts_when_flushed<'a>(
    view: &CleanView,
    segments: &'a [SegmentFacts],
    next_horizon: Option<TimestampMs>,
) -> LogFacts<'a> {
    LogFacts { marks: marks_when_flushed(view), ..log_facts(view, segments, next_horizon) }
}

/// The durable end stays as it is, so that whoever asks is told what a pass has to sync.
fn marks_when_flushed(view: &CleanView) -> Marks {
    let marks = view.marks;
    if view.config.high_watermark != HighWatermarkMode::DurableEnd {
        return marks;
    }
    let open = view.producers.iter().filter_map(|producer| producer.state.open_transaction).min();
    let last_stable = open.unwrap_or(marks.log_end).min(marks.log_end).max(marks.log_start);
    Marks { last_stable, high_watermark: marks.log_end, ..marks }
}
