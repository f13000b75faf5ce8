//! Where a pass begins and ends, and the log as it sees it.

use std::ops::Range;
use std::sync::Arc;

use super::options::CleanOptions;
use super::range::{CleanRange, SegmentFacts, bytes_between};
use crate::log::{CleanSegment, CleanView};
use crate::units::{Offset, TimestampMs};

/// Where a pass begins and ends, and how far it is: what an interrupted one leaves for the next.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// The log start.
    pub(super) from: Offset,
    pub(super) first_dirty: Offset,
    /// What no pass could read so far begins there: keys are learned from there, though what lies above it is clean.
    pub(super) unread: Option<Offset>,
    /// First uncleanable offset.
    pub(super) upper: Offset,
    /// Groups below it are done.
    pub(super) done_to: Offset,
    /// The time from which delete horizons count.
    pub(super) horizon_from: TimestampMs,
    /// As the filter saved it at `done_to`; empty at the front.
    pub(super) transactions: Vec<u8>,
    /// Whether another pass left them.
    pub(super) resumed: bool,
}

impl Bounds {
    /// Those of the pass that was interrupted, where all that it was to clean may still be cleaned; else new ones.
    pub(super) fn of(view: &CleanView, facts: &[SegmentFacts], options: &CleanOptions, now: TimestampMs) -> Self {
        let stored = view.state.first_dirty;
        let range = CleanRange::of(facts, &view.marks, Some(stored), &view.config, now);
        let from = range.log_start;
        let most = options.upper.map_or(range.secure_to, |upper| upper.min(range.secure_to));
        let is_valid = |upper: Offset| range.first_dirty < upper && upper <= most;
        if let Some(pass) =
            view.state.pass.as_ref().filter(|pass| is_valid(pass.upper) && pass.first_dirty < pass.upper)
        {
            return Self {
                from,
                first_dirty: pass.first_dirty.max(from),
                unread: view.state.unread,
                upper: pass.upper,
                done_to: pass.done_to.max(from),
                horizon_from: pass.horizon_from,
                transactions: pass.transactions.clone(),
                resumed: true,
            };
        }
        let upper = below_waiting(view, from, most.max(from));
        let first_dirty = range.first_dirty;
        Self {
            from,
            first_dirty,
            unread: view.state.unread,
            upper,
            done_to: from,
            horizon_from: now,
            transactions: Vec::new(),
            resumed: false,
        }
    }

    /// What is learned: the dirty range, and what lies behind the first batch that could not be read before.
    pub(super) fn learned(&self) -> Range<Offset> {
        let from = self.unread.map_or(self.first_dirty, |unread| unread.min(self.first_dirty));
        from.min(self.upper)..self.upper
    }

    /// What no pass has cleaned.
    pub(super) fn dirty(&self) -> Range<Offset> {
        self.first_dirty.min(self.upper)..self.upper
    }
}

/// `upper`, or where the segment with the log start begins, if that one has to wait because it is not replicated to its end:
/// it is replaced as a whole or not at all, and then there is nothing to clean.
fn below_waiting(view: &CleanView, from: Offset, upper: Offset) -> Offset {
    let first = view.segments.iter().find(|segment| segment.base <= from && from < segment.end);
    first.filter(|first| first.end > view.marks.high_watermark).map_or(upper, |first| first.base)
}

/// The log as a pass sees it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) segments: Arc<Vec<CleanSegment>>,
    pub(super) facts: Vec<SegmentFacts>,
    pub(super) view: CleanView,
    /// The lowest offset of what scans could not read, but for holes that were known before.
    pub(super) unreadable: Option<Offset>,
}

impl Source {
    /// What `view` shows.
    pub(super) fn of(mut view: CleanView, facts: Vec<SegmentFacts>) -> Self {
        let segments = Arc::new(std::mem::take(&mut view.segments));
        Self { segments, facts, view, unreadable: None }
    }

    /// Where its first segment begins.
    pub(super) fn start(&self) -> Offset {
        self.segments.first().map_or(self.view.active_base, |first| first.base)
    }

    /// Where the last segment ends that has something below `upper`.
    pub(super) fn end_of(&self, upper: Offset) -> Offset {
        let last = self.segments.iter().rfind(|segment| segment.base < upper);
        last.map_or(upper, |segment| segment.end.max(upper))
    }

    /// Bytes of its logs from `from` to `to`.
    pub(super) fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        bytes_between(&self.facts, from, to)
    }

    /// How many segments have something below `upper`, and their bytes.
    pub(super) fn extent_below(&self, upper: Offset) -> (u64, u64) {
        let cleanable = self.segments.iter().filter(|segment| segment.base < upper);
        cleanable.fold((0, 0), |(count, bytes), segment| (count + 1, segment.bytes.saturating_add(bytes)))
    }

    /// Has the facts know of holes that were met since they were gathered.
    pub(super) fn note_holes(&mut self) {
        for (facts, segment) in self.facts.iter_mut().zip(self.segments.iter()) {
            facts.has_holes = !segment.segment.holes().is_empty();
        }
    }

    /// Takes note of what a scan could not read.
    pub(super) fn note_unreadable(&mut self, offset: Option<Offset>) {
        self.unreadable = [self.unreadable, offset].into_iter().flatten().min();
    }

    /// The lowest offset that cannot be read, as far as is known: what lies past it may hide what comes back by a repair.
    pub(super) fn lowest_unreadable(&self) -> Offset {
        let holes = |segment: &CleanSegment| segment.segment.holes().iter().map(|hole| hole.offsets.start).min();
        let known = self.segments.iter().filter_map(holes).min();
        [known, self.unreadable].into_iter().flatten().min().unwrap_or(Offset::MAX)
    }
}
