//! Segments anew, group by group: read, filtered, written aside, put in place.

use std::ops::Range;
use std::sync::Arc;

use super::aborted::AbortedAhead;
use super::error::CleanError;
use super::filter::{BatchFilter, Outcome, SupersededBy};
use super::group::{Group, GroupFate};
use super::learning::Verdicts;
use super::output::{Copied, Output, OutputTask};
use super::scan::open;
use crate::error::IoFailure;
use crate::log::{CleanSegment, PartitionLog, ReplaceError};
use crate::record::BatchHeader;
use crate::segment::{CacheUse, CleanReader, Hole, Met, Segment};
use crate::units::{Offset, TimestampMs};

/// References to a replaced segment when no view of the log has it: the pass's list, and the list of what is replaced.
const HELD_BY_PASS: usize = 2;
/// A buffer for one batch that grew past this is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What is rewritten, and how.
#[derive(Clone, Debug)]
pub(super) struct RewriteTask {
    pub(super) log: PartitionLog,
    pub(super) segments: Arc<Vec<CleanSegment>>,
    pub(super) groups: Vec<Group>,
    /// For windows and buffers.
    pub(super) buffer_bytes: usize,
    pub(super) group_bytes_max: Option<u64>,
    /// Tombstones and markers past it stay, whatever their horizon: something there cannot be read.
    pub(super) removable_below: Offset,
    pub(super) cache: CacheUse,
}

/// How far a rewrite is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewritten {
    /// There is more.
    Going,
    /// A group is done: everything below the offset is clean, and in place if it `is_swapped`.
    Group { done_to: Offset, is_swapped: bool },
    /// A batch that was to be rewritten is damaged. Its segment is to be left alone.
    Damaged,
    /// All groups are done.
    All,
}

/// Figures of a rewrite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RewriteCounts {
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    /// Of the segments that were replaced, and of those in their place.
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    pub(super) segments_after: u64,
    /// The earliest time at which something that is left may go.
    pub(super) next_horizon: Option<TimestampMs>,
    /// The most memory that was held at once, without the verdicts'.
    pub(super) memory_peak: usize,
    /// The most bytes that the records of a compressed batch were expanded to.
    pub(super) expanded_max: usize,
}

/// The groups of a pass, one after the other.
#[derive(Debug)]
pub(super) struct Rewrite {
    task: RewriteTask,
    sieve: Sieve,
    /// The group that is worked on, or comes next.
    at: usize,
    work: Option<Work>,
    counts: RewriteCounts,
}

/// What decides, and what it leaves of one batch.
#[derive(Debug)]
struct Sieve {
    filter: BatchFilter,
    verdicts: Verdicts,
    aborted: AbortedAhead,
    kept: Vec<u8>,
    removable_below: Offset,
    next_horizon: Option<TimestampMs>,
    /// The lowest offset of a sound batch that could not be read.
    unread: Option<Offset>,
}

/// One group on its way.
#[derive(Debug)]
struct Work {
    /// Segments that are yet to be opened.
    rest: Range<usize>,
    reader: Option<CleanReader>,
    /// `None` for a segment that is left as it is.
    output: Option<Output>,
    /// Bytes read of segments that are done.
    read_before: u64,
}

/// How far a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worked {
    Going,
    Damaged,
    All,
}

/// Verdicts, as the filter asks for them.
struct Judge<'v>(&'v mut Verdicts);

impl SupersededBy for Judge<'_> {
    fn is_superseded(&mut self, offset: Offset, key: &[u8]) -> Result<bool, IoFailure> {
        self.0.is_superseded(offset, || Some(key))
    }
}

impl Rewrite {
    /// Of what `task` says, by these verdicts; the filter stands where the first group begins.
    pub(super) fn new(task: RewriteTask, filter: BatchFilter, verdicts: Verdicts) -> Self {
        let removable_below = task.removable_below;
        let sieve = Sieve {
            filter,
            verdicts,
            aborted: AbortedAhead::default(),
            kept: Vec::new(),
            removable_below,
            next_horizon: None,
            unread: None,
        };
        Self { task, sieve, at: 0, work: None, counts: RewriteCounts::default() }
    }

    /// Figures of the groups that are done, and bytes of the one under way.
    pub(super) fn counts(&self) -> RewriteCounts {
        let (read, written) = self.work.as_ref().map_or((0, 0), Work::moved);
        RewriteCounts {
            bytes_read: self.counts.bytes_read.saturating_add(read),
            bytes_written: self.counts.bytes_written.saturating_add(written),
            next_horizon: self.sieve.next_horizon,
            ..self.counts
        }
    }

    /// What decides.
    pub(super) fn filter(&self) -> &BatchFilter {
        &self.sieve.filter
    }

    /// The lowest offset of a sound batch that could not be read so far.
    pub(super) fn unread(&self) -> Option<Offset> {
        self.sieve.unread
    }

    /// What it decides by.
    pub(super) fn verdicts(&self) -> &Verdicts {
        &self.sieve.verdicts
    }

    /// Reads and writes about `bytes_max` bytes, to the end of a group at most.
    pub(super) fn step(&mut self, bytes_max: u64) -> Result<Rewritten, CleanError> {
        let Some(group) = self.task.groups.get(self.at) else { return Ok(Rewritten::All) };
        let work = self.work.get_or_insert_with(|| Work::begin(&self.task, group));
        let worked = work.step(&mut self.sieve, &self.task, bytes_max)?;
        self.counts.memory_peak =
            self.counts.memory_peak.max(self.sieve.memory_bytes().saturating_add(work.memory_bytes()));
        self.counts.expanded_max = self.counts.expanded_max.max(self.sieve.filter.expanded_max());
        match worked {
            Worked::Going => Ok(Rewritten::Going),
            Worked::Damaged => Ok(Rewritten::Damaged),
            Worked::All => self.end_group(),
        }
    }

    /// Puts what was written in the place of its group.
    fn end_group(&mut self) -> Result<Rewritten, CleanError> {
        let (Some(work), Some(group)) = (self.work.take(), self.task.groups.get(self.at)) else {
            return Ok(Rewritten::All);
        };
        let (done_to, count) = (group.end, group.segments.len() as u64);
        let (read, written) = work.moved();
        self.counts.bytes_read = self.counts.bytes_read.saturating_add(read);
        self.counts.bytes_written = self.counts.bytes_written.saturating_add(written);
        let outputs = work.output.map_or_else(|| Ok(Vec::new()), Output::finish)?;
        self.at = self.at.saturating_add(1);
        if outputs.is_empty() {
            self.counts.segments_after = self.counts.segments_after.saturating_add(count);
            return Ok(Rewritten::Group { done_to, is_swapped: false });
        }
        if self.at == self.task.groups.len() {
            // What the old segments are pinned with may take as much as they left free.
            self.sieve.verdicts.forget();
        }
        let inputs: Vec<Arc<Segment>> = self.segments_of(group).iter().map(|one| Arc::clone(&one.segment)).collect();
        let replaced = self.task.log.replace_segments(&inputs, outputs).map_err(of_replace)?;
        // What they were pinned with for readers counts as the pass's while only the pass has them.
        for input in inputs.iter().filter(|input| Arc::strong_count(input) == HELD_BY_PASS) {
            input.let_go();
        }
        if self.task.group_bytes_max.is_some() {
            // The next group has the room that this one's segments took up.
            self.task.log.free_replaced();
        }
        let counts = &mut self.counts;
        counts.bytes_before = counts.bytes_before.saturating_add(replaced.bytes_before);
        counts.bytes_after = counts.bytes_after.saturating_add(replaced.bytes_after);
        counts.segments_after = counts.segments_after.saturating_add(replaced.segments.len() as u64);
        Ok(Rewritten::Group { done_to, is_swapped: true })
    }

    fn segments_of(&self, group: &Group) -> &[CleanSegment] {
        self.task.segments.get(group.segments.clone()).unwrap_or_default()
    }
}

fn of_replace(error: ReplaceError) -> CleanError {
    match error {
        ReplaceError::Changed => CleanError::Changed,
        ReplaceError::Unfit(unfit) => CleanError::Unfit { what: unfit.describe() },
        ReplaceError::Io(failure) => CleanError::of_write(failure, || 1),
        ReplaceError::Log(cause) => cause.into(),
    }
}

impl Work {
    fn begin(task: &RewriteTask, group: &Group) -> Self {
        let output = (group.fate != GroupFate::Damaged).then(|| {
            Output::new(OutputTask {
                log: task.log.clone(),
                segments: Arc::clone(&task.segments),
                group: group.segments.clone(),
                buffer_bytes: task.buffer_bytes / 4,
                prefix_bytes: task.buffer_bytes / 8,
                bytes_max: task.group_bytes_max,
            })
        });
        Self { rest: group.segments.clone(), reader: None, output, read_before: 0 }
    }

    /// Bytes read and written.
    fn moved(&self) -> (u64, u64) {
        let read = self.reader.as_ref().map_or(0, CleanReader::bytes_read).saturating_add(self.read_before);
        let (again, written) =
            self.output.as_ref().map_or((0, 0), |output| (output.bytes_read(), output.bytes_written()));
        (read.saturating_add(again), written)
    }

    fn bytes_moved(&self) -> u64 {
        let (read, written) = self.moved();
        read.saturating_add(written)
    }

    fn memory_bytes(&self) -> usize {
        let window = self.reader.as_ref().map_or(0, CleanReader::memory_bytes);
        window.saturating_add(self.output.as_ref().map_or(0, Output::memory_bytes))
    }

    fn step(&mut self, sieve: &mut Sieve, task: &RewriteTask, bytes_max: u64) -> Result<Worked, CleanError> {
        let stop = self.bytes_moved().saturating_add(bytes_max);
        while self.bytes_moved() < stop {
            if let Some(output) = self.output.as_mut().filter(|output| output.is_copying()) {
                match output.copy(bytes_max)? {
                    Copied::Damaged(segment, hole) => return sieve.leave(task, &segment, hole),
                    Copied::Going | Copied::All => continue,
                }
            }
            let Some(mut reader) = self.open(sieve, task)? else { return Ok(Worked::All) };
            let hole = match reader.advance()? {
                Met::End => {
                    self.read_before = self.read_before.saturating_add(reader.bytes_read());
                    continue;
                }
                Met::Damaged(hole) => Some(hole),
                Met::Batch(header) => match &mut self.output {
                    Some(output) => sieve.rewrite(&mut reader, &header, output)?,
                    None => sieve.observe(&mut reader)?,
                },
            };
            match (hole, &self.output) {
                (Some(hole), Some(_)) => return sieve.leave(task, reader.segment(), hole),
                // It is left alone already.
                (Some(hole), None) => {
                    sieve.forbid_removal_past(hole.offsets.start);
                    task.log.quarantine_met(reader.segment(), vec![hole])?;
                }
                (None, _) => {}
            }
            self.reader = Some(reader);
        }
        Ok(Worked::Going)
    }

    /// The reader of the segment that is due; `None` after the last one.
    fn open(&mut self, sieve: &mut Sieve, task: &RewriteTask) -> Result<Option<CleanReader>, CleanError> {
        if let Some(reader) = self.reader.take() {
            return Ok(Some(reader));
        }
        let Some(segment) = self.rest.next().and_then(|at| task.segments.get(at)) else { return Ok(None) };
        sieve.filter.expect_aborted(sieve.aborted.of(&task.log, segment)?);
        open(segment, task.buffer_bytes / 8 * 3, task.cache).map(Some)
    }
}

impl Sieve {
    fn memory_bytes(&self) -> usize {
        let decides = self.verdicts.counts().memory_bytes.saturating_add(self.filter.memory_bytes());
        self.kept.capacity().saturating_add(decides).saturating_add(self.aborted.memory_bytes())
    }

    /// A segment that was to be rewritten is to be left alone.
    fn leave(&mut self, task: &RewriteTask, segment: &Arc<Segment>, hole: Hole) -> Result<Worked, CleanError> {
        self.forbid_removal_past(hole.offsets.start);
        // What is no news has left the log.
        let is_news = task.log.quarantine_met(segment, vec![hole])?;
        if is_news { Ok(Worked::Damaged) } else { Err(CleanError::Changed) }
    }

    fn forbid_removal_past(&mut self, hole: Offset) {
        self.filter.forbid_removal_past(hole);
        self.removable_below = self.removable_below.min(hole);
    }

    /// Has `output` take what is kept of the batch that the reader has come to. The hole that it is, if it is damaged.
    fn rewrite(
        &mut self,
        reader: &mut CleanReader,
        header: &BatchHeader,
        output: &mut Output,
    ) -> Result<Option<Hole>, CleanError> {
        let position = reader.position().saturating_sub(u64::from(header.size));
        let known = self.verdicts.superseded_in(header.base_offset..header.next_offset())?;
        if known.is_some_and(|superseded| superseded > 0 && self.filter.is_removable_unread(header, superseded)) {
            self.filter.remove_unread(header);
            output.put(&[], true, position)?;
            return Ok(None);
        }
        let batch = match reader.batch()? {
            Some(Ok(batch)) => batch,
            Some(Err(hole)) => return Ok(Some(hole)),
            None => return Err(CleanError::Changed),
        };
        self.kept.clear();
        let filtered = self.filter.filter(&batch, &mut Judge(&mut self.verdicts), &mut self.kept)?;
        if filtered.unread.is_some() {
            self.forbid_removal_past(header.base_offset);
            self.unread = [self.unread, Some(header.base_offset)].into_iter().flatten().min();
        }
        if let Some(aborted) = filtered.carried {
            output.carry(aborted);
        }
        self.note_horizon();
        output.put(&self.kept, filtered.outcome != Outcome::Unchanged, position)?;
        if self.kept.capacity() > KEPT_BYTES_MAX {
            self.kept = Vec::new();
        }
        Ok(None)
    }

    /// Takes notice of the batch that the reader has come to, and that stays.
    fn observe(&mut self, reader: &mut CleanReader) -> Result<Option<Hole>, CleanError> {
        match reader.batch()? {
            Some(Ok(batch)) => {
                self.filter.observe_left(&batch);
                Ok(None)
            }
            Some(Err(hole)) => Ok(Some(hole)),
            None => Ok(None),
        }
    }

    fn note_horizon(&mut self) {
        let kept = BatchHeader::parse(&self.kept, u32::MAX).ok().filter(|kept| kept.base_offset < self.removable_below);
        // A batch keeps its horizon when its tombstones are gone. What has passed and is left, no other pass would remove.
        let to_come = |horizon: &TimestampMs| *horizon > self.filter.now();
        if let Some(horizon) = kept.and_then(|header| header.delete_horizon()).filter(to_come) {
            self.next_horizon = Some(self.next_horizon.map_or(horizon, |earliest| earliest.min(horizon)));
        }
    }
}
