//! Looking up by timestamp: the first record at or past a time, and the newest one there is. Exact to the record, also
//! inside compressed batches; by the segments' time indexes, so that a batch or two are opened and not the log.
//!
//! Timestamps need not rise: clocks go back, and producers send what they like. Nothing below the log start is ever the
//! answer, nor anything at or past the mark that the caller may see.

use std::cmp::Reverse;

use super::PartitionLog;
use super::read::Isolation;
use super::view::LogView;
use crate::error::ReadError;
use crate::units::{Offset, TimestampMs};

/// A record's offset and timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp, in milliseconds since the epoch; with `LogAppendTime` the time of the append.
    pub timestamp: TimestampMs,
}

impl PartitionLog {
    /// The first record, in offset order, whose timestamp is at least `timestamp`; exact also inside compressed
    /// batches. `None` when there is none (Kafka's `ListOffsets` by time). With clocks that went back, records behind it
    /// may be older.
    ///
    /// Any `timestamp` may be asked for; one below 0 finds records without timestamp (-1) too.
    ///
    /// ```
    /// # use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, Offset, PartitionLog, TimestampMs};
    /// # let dir = tempfile::tempdir()?;
    /// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// let epoch = LeaderEpoch::new(0).unwrap();
    /// let mut batch = BatchBuilder::new();
    /// for time in [1000, 1005, 1003] {
    ///     batch.record(TimestampMs::new(time), None, Some(b"v"));
    /// }
    /// log.append(batch.build()?, AppendAs::Client { epoch })?;
    /// let found = log.offset_for_timestamp(TimestampMs::new(1001))?.unwrap();
    /// assert_eq!((found.offset.value(), found.timestamp.value()), (1, 1005));
    /// assert_eq!(log.offset_of_max_timestamp()?, Some(found));
    /// assert_eq!(log.offset_for_timestamp(TimestampMs::new(1006))?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReadError`] when a segment or batch on the way cannot be read.
    pub fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        self.offset_for_timestamp_within(timestamp, Isolation::LogEnd)
    }

    /// As [`PartitionLog::offset_for_timestamp`], for a reader that sees no more than `isolation` lets it. As in Kafka
    /// the first record counts: where it lies past the mark the answer is `None`.
    ///
    /// # Errors
    /// As [`PartitionLog::offset_for_timestamp`].
    pub fn offset_for_timestamp_within(
        &self,
        timestamp: TimestampMs,
        isolation: Isolation,
    ) -> Result<Option<TimestampOffset>, ReadError> {
        let decompressed_max = self.core.config.read().max_decompressed_bytes;
        self.with_view(|view| {
            let (start, upper) = (view.marks.log_start, isolation.upper(view.marks));
            for at in view.segment_of(start)..view.segments.len() {
                let Some(segment) = view.segments.get(at).filter(|segment| segment.base() < upper) else { break };
                let is_active = at + 1 == view.segments.len();
                // Records without timestamp (-1) are in no time index.
                let is_indexed = !is_active && timestamp.value() >= 0;
                if is_indexed && segment.largest_timestamp()?.is_none_or(|largest| largest < timestamp) {
                    continue;
                }
                let found = segment.search_timestamp(timestamp, start, view.extent_of(at)?, decompressed_max)?;
                if let Some((timestamp, offset)) = found {
                    return Ok((offset < upper).then_some(TimestampOffset { offset, timestamp }));
                }
            }
            Ok(None)
        })
    }

    /// The record with the largest timestamp in the log, the earliest of several (KIP-734). `None` when no record has
    /// one; negative ones do not count.
    ///
    /// # Errors
    /// [`ReadError`] when a segment or batch that may hold it cannot be read.
    pub fn offset_of_max_timestamp(&self) -> Result<Option<TimestampOffset>, ReadError> {
        self.offset_of_max_timestamp_within(Isolation::LogEnd)
    }

    /// As [`PartitionLog::offset_of_max_timestamp`], of the records that `isolation` lets a reader see.
    ///
    /// # Errors
    /// As [`PartitionLog::offset_of_max_timestamp`].
    pub fn offset_of_max_timestamp_within(&self, isolation: Isolation) -> Result<Option<TimestampOffset>, ReadError> {
        let decompressed_max = self.core.config.read().max_decompressed_bytes;
        self.with_view(|view| {
            let range = view.marks.log_start..isolation.upper(view.marks);
            let mut best: Option<TimestampOffset> = None;
            for (bound, at) in by_bound(view, range.end)? {
                if best.is_some_and(|best| bound < best.timestamp) {
                    break;
                }
                let Some(segment) = view.segments.get(at) else { continue };
                let found = segment.largest_record(bound, &range, view.extent_of(at)?, decompressed_max)?;
                let found = found.map(|(timestamp, offset)| TimestampOffset { offset, timestamp });
                let is_better = |found: &TimestampOffset| {
                    best.is_none_or(|best| {
                        (Reverse(found.timestamp), found.offset) < (Reverse(best.timestamp), best.offset)
                    })
                };
                best = found.filter(is_better).or(best);
            }
            Ok(best)
        })
    }
}

/// The segments below `upper` that have timestamps, by their largest one, falling; of equal ones the earliest first.
fn by_bound(view: &LogView, upper: Offset) -> Result<Vec<(TimestampMs, usize)>, ReadError> {
    let mut bounds = Vec::new();
    for at in view.segment_of(view.marks.log_start)..view.segments.len() {
        let Some(segment) = view.segments.get(at).filter(|segment| segment.base() < upper) else { break };
        let is_active = at + 1 == view.segments.len();
        if let Some(bound) = segment.timestamp_bound(view.extent_of(at)?, is_active)? {
            bounds.push((bound, at));
        }
    }
    bounds.sort_by(|(a, at_a), (b, at_b)| b.cmp(a).then(at_a.cmp(at_b)));
    Ok(bounds)
}
