//! Reading: clone the published view, find the batches, hand out slices. Nothing here waits for a writer or a sync.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::slice::{Fetched, FileSlice};
use super::view::LogView;
use super::{LogCore, PartitionLog};
use crate::commit::Marks;
use crate::error::{Damage, ReadError};
use crate::segment::{Extent, Located, Segment, StretchLimits};
use crate::units::Offset;

/// Up to which mark a read sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Everything appended, as followers read.
    #[default]
    LogEnd,
    /// Only what is replicated, as consumers read that take uncommitted records.
    HighWatermark,
    /// Only what is decided: below the last stable offset, as consumers read that take committed records only. The read
    /// says which transactions were aborted; their records are in the batches all the same.
    Stable,
    /// Only what survives a power loss.
    Durable,
    /// Only what lies below this offset, exclusive.
    At(Offset),
}

/// What a read may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whole batches are returned up to this many bytes. Default 1 MiB.
    pub max_bytes: u64,
    /// Return the first batch even if it alone is larger, so that a small fetch makes progress. Default true.
    pub min_one_batch: bool,
    /// Up to which mark. Default the log end.
    pub isolation: Isolation,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, min_one_batch: true, isolation: Isolation::LogEnd }
    }
}

impl Isolation {
    /// Where it ends what is seen of a log with these marks, exclusive.
    pub(super) fn upper(self, marks: Marks) -> Offset {
        match self {
            Self::LogEnd => marks.log_end,
            Self::HighWatermark => marks.high_watermark,
            Self::Stable => marks.last_stable,
            Self::Durable => marks.durable_end,
            Self::At(at) => at.min(marks.log_end),
        }
    }
}

impl PartitionLog {
    /// Reads whole batches from the one with `offset` on (or, where compaction left a hole, the first one past it).
    /// Empty when `offset` is at the mark that the isolation names. Headers are read, bytes are not: that is up to the
    /// slices.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] before the log start or past the log end; [`ReadError::Damaged`] with the next
    /// readable offset; [`ReadError::Corrupt`], [`ReadError::Io`], [`ReadError::Closed`].
    pub fn read(&self, offset: Offset, options: &ReadOptions) -> Result<Fetched, ReadError> {
        self.core.metrics.reads.add(1);
        self.with_view(|view| self.read_in(view, offset, options))
    }

    /// Runs `look` on the published view, and again on a newer one if a file went away meanwhile because the log was cut
    /// or its start was deleted.
    pub(super) fn with_view<T>(&self, look: impl Fn(&LogView) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let mut view = self.core.view.read().clone();
        loop {
            if view.is_closed {
                return Err(ReadError::Closed);
            }
            match look(&view) {
                Err(ReadError::Io(failure)) if failure.source.kind() == io::ErrorKind::NotFound => {
                    let newer = self.core.view.read().clone();
                    if Arc::ptr_eq(&newer.segments, &view.segments) && !newer.is_closed {
                        return Err(failure.into());
                    }
                    view = newer;
                }
                Err(ReadError::Damaged(damage)) => {
                    // Written down by whoever holds the rounds next: a read does not write.
                    self.core.has_met_damage.store(true, Ordering::Relaxed);
                    return Err(ReadError::Damaged(damage));
                }
                looked => return looked,
            }
        }
    }

    fn read_in(&self, view: &LogView, offset: Offset, options: &ReadOptions) -> Result<Fetched, ReadError> {
        let marks = view.marks;
        if offset < marks.log_start || offset > marks.log_end {
            let (log_start, log_end) = (marks.log_start, marks.log_end);
            return Err(ReadError::OutOfRange { asked: offset, log_start, log_end });
        }
        let upper = options.isolation.upper(marks);
        if let Some(first) = view.segments.first().filter(|first| offset < first.base()) {
            // The segment that began the log is gone, and nobody deleted it.
            return Err(ReadError::Damaged(Box::new(missing(first, 0, offset, first.base()))));
        }
        let mut fetched = Fetched { slices: Vec::new(), start: offset, next: None, marks, aborted: Vec::new() };
        let (mut at, mut from) = (view.segment_of(offset), offset);
        let mut bytes_left = options.max_bytes;
        while from < upper && at < view.segments.len() && (bytes_left > 0 || fetched.is_empty()) {
            let min_one_batch = options.min_one_batch && fetched.is_empty();
            let taken = self.read_segment(view, at, from, bytes_left, upper, min_one_batch);
            let (slice, next, goes_on) = match taken {
                // What was found so far is good; the next read meets the error.
                Err(_) if !fetched.is_empty() => break,
                taken => taken?,
            };
            if let Some(slice) = slice {
                bytes_left = bytes_left.saturating_sub(slice.len);
                fetched.slices.push(slice);
                fetched.next = next;
            }
            match next {
                Some(next) if goes_on => from = next,
                _ => break,
            }
            at += 1;
        }
        if options.isolation == Isolation::Stable && !fetched.is_empty() {
            let end = fetched.next.unwrap_or(upper).min(upper);
            fetched.aborted = self.core.aborted_between(view, offset, end)?;
        }
        Ok(fetched)
    }

    /// What the segment at `at` has from `offset` on; the offset to go on with, and whether to go on in the next one.
    fn read_segment(
        &self,
        view: &LogView,
        at: usize,
        offset: Offset,
        bytes_max: u64,
        upper: Offset,
        min_one_batch: bool,
    ) -> Result<(Option<FileSlice>, Option<Offset>, bool), ReadError> {
        let Some(segment) = view.segments.get(at) else { return Ok((None, None, false)) };
        let extent = view.extent_of(at)?;
        let Extent { bytes: bound, end } = extent;
        match segment.locate(offset, extent)? {
            Located::Hole(hole) => Err(ReadError::Damaged(Box::new(segment.damage(&hole)))),
            Located::End => {
                if end > offset && !self.core.may_have_gaps(view, end) {
                    // A hole between segments is never joined silently, unless cleaning makes holes.
                    let damage = missing(segment, bound, offset, end);
                    return Err(ReadError::Damaged(Box::new(damage)));
                }
                Ok((None, Some(end.max(offset)), true))
            }
            Located::At { position, header } => {
                let limits = StretchLimits { extent, bytes_max, upper, min_one_batch };
                let stretch = segment.stretch(position, &header, limits)?;
                if stretch.end == stretch.start {
                    return Ok((None, None, false));
                }
                let (position, len) = (stretch.start, stretch.end - stretch.start);
                let file = segment.file()?;
                let mapping = OnceLock::new();
                let slice = FileSlice { segment: Arc::clone(segment), file, mapping, position, len };
                // What the segment lacks at its end is met by a read of its own, and never skipped.
                let is_hole = !self.core.may_have_gaps(view, end) || segment.ends_in_hole();
                let is_complete = stretch.next_offset.is_some_and(|next| next >= end);
                Ok((Some(slice), stretch.next_offset, stretch.end == bound && (is_complete || !is_hole)))
            }
        }
    }
}

impl LogCore {
    /// Whether offsets below `end`, where a segment ends, may be missing without anything having been lost.
    pub(super) fn may_have_gaps(&self, view: &LogView, end: Offset) -> bool {
        end <= view.cleaned_to || self.config.read().cleanup_policy.compacts()
    }
}

fn missing(segment: &Segment, at: u64, from: Offset, to: Offset) -> Damage {
    Damage { file: segment.log_path(), bytes: at..at, offsets: from..to, cause: None }
}
