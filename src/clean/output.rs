//! What takes the place of a group of segments: written only once something of it differs.
//!
//! A segment that loses nothing is left as it is, and costs one read. So nothing is written of a group of one segment
//! before the first batch that is not kept as it is; then what lies before that batch is copied first. Neighbours that are
//! merged differ from the start.

use std::ops::Range;
use std::sync::Arc;

use super::error::CleanError;
use super::scan::open;
use crate::error::IoFailure;
use crate::index::{AbortedTxn, AbortedTxns};
use crate::log::{CleanSegment, PartitionLog, Staged, Staging};
use crate::record::BatchHeader;
use crate::segment::{CacheUse, CleanReader, CleanWriteError, Hole, Met, Segment, WriteLimit};
use crate::units::Offset;

/// The segments that an output is for, and the means to write it.
#[derive(Clone, Debug)]
pub(super) struct OutputTask {
    pub(super) log: PartitionLog,
    pub(super) segments: Arc<Vec<CleanSegment>>,
    /// Of the segments, the group's.
    pub(super) group: Range<usize>,
    /// The writer's buffer.
    pub(super) buffer_bytes: usize,
    /// The window in which what lies before the first change is read again.
    pub(super) prefix_bytes: usize,
    /// No more may be written before the old segments are freed.
    pub(super) bytes_max: Option<u64>,
}

/// What became of a step of copying.
#[derive(Debug)]
pub(super) enum Copied {
    /// There is more before the batch that differs.
    Going,
    /// Everything is written that is to be.
    All,
    /// What was read before fails its checksum now.
    Damaged(Arc<Segment>, Hole),
}

/// What is kept of a group, on its way to disk.
#[derive(Debug)]
pub(super) struct Output {
    task: OutputTask,
    staging: Option<Staging>,
    staged: Vec<Staged>,
    carried: AbortedTxns,
    /// What lies before the first batch that differs, on its way; with what comes behind it.
    prefix: Option<Prefix>,
    bytes_read: u64,
    bytes_staged: u64,
}

/// Bytes of a segment that are kept as they are.
#[derive(Debug)]
struct Prefix {
    reader: CleanReader,
    to: u64,
    /// What is kept of the batch behind it.
    behind: Vec<u8>,
}

impl Output {
    /// Of nothing yet.
    pub(super) fn new(task: OutputTask) -> Self {
        Self {
            task,
            staging: None,
            staged: Vec::new(),
            carried: AbortedTxns::default(),
            prefix: None,
            bytes_read: 0,
            bytes_staged: 0,
        }
    }

    /// Bytes read again.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read.saturating_add(self.prefix.as_ref().map_or(0, |prefix| prefix.reader.bytes_read()))
    }

    /// Bytes given to the writer.
    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_staged.saturating_add(self.staging_bytes())
    }

    fn staging_bytes(&self) -> u64 {
        self.staging.as_ref().map_or(0, Staging::bytes)
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        let staging = self.staging.as_ref().map_or(0, Staging::memory_bytes);
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.reader.memory_bytes());
        staging.saturating_add(prefix).saturating_add(self.carried.memory_bytes())
    }

    /// Whether batches that are kept as they are need not be given.
    pub(super) fn is_unchanged(&self) -> bool {
        self.staging.is_none() && self.staged.is_empty() && self.task.group.len() <= 1
    }

    /// An aborted transaction that is still needed, whose marker comes after those given before.
    pub(super) fn carry(&mut self, aborted: AbortedTxn) {
        self.carried.push(aborted);
    }

    /// Takes what is kept of a batch that begins at `position` of its segment, and differs if it `is_changed`.
    pub(super) fn put(&mut self, kept: &[u8], is_changed: bool, position: u64) -> Result<(), CleanError> {
        if self.is_unchanged() {
            if !is_changed {
                return Ok(());
            }
            self.begin()?;
            if position > 0 {
                let segment = self.task.segments.get(self.task.group.start).ok_or(CleanError::Changed)?;
                let reader = open(segment, self.task.prefix_bytes, CacheUse::Keep)?;
                self.prefix = Some(Prefix { reader, to: position, behind: kept.to_vec() });
                return Ok(());
            }
        } else if self.staging.is_none() {
            self.begin()?;
        }
        self.append(kept)
    }

    /// Whether a prefix is to be copied before anything else is given.
    pub(super) fn is_copying(&self) -> bool {
        self.prefix.is_some()
    }

    /// Copies about `bytes_max` bytes of the prefix.
    pub(super) fn copy(&mut self, bytes_max: u64) -> Result<Copied, CleanError> {
        let Some(mut prefix) = self.prefix.take() else { return Ok(Copied::All) };
        let stop = prefix.reader.bytes_read().saturating_add(bytes_max);
        while prefix.reader.bytes_read() < stop && prefix.reader.position() < prefix.to {
            match prefix.reader.advance()? {
                Met::Batch(_) => {}
                Met::Damaged(hole) => return Ok(Copied::Damaged(Arc::clone(prefix.reader.segment()), hole)),
                Met::End => return Err(CleanError::Changed),
            }
            let hole = match prefix.reader.batch()? {
                Some(Ok(batch)) => {
                    self.append(batch.bytes())?;
                    continue;
                }
                Some(Err(hole)) => hole,
                None => return Err(CleanError::Changed),
            };
            return Ok(Copied::Damaged(Arc::clone(prefix.reader.segment()), hole));
        }
        if prefix.reader.position() < prefix.to {
            self.prefix = Some(prefix);
            return Ok(Copied::Going);
        }
        self.bytes_read = self.bytes_read.saturating_add(prefix.reader.bytes_read());
        self.append(&prefix.behind)?;
        Ok(Copied::All)
    }

    fn begin(&mut self) -> Result<(), CleanError> {
        let first = self.task.segments.get(self.task.group.start).ok_or(CleanError::Changed)?;
        let staged = self.task.log.stage(first.base, self.task.buffer_bytes);
        self.staging = Some(staged.map_err(|failure| self.refused(failure))?);
        Ok(())
    }

    fn append(&mut self, batches: &[u8]) -> Result<(), CleanError> {
        if batches.is_empty() {
            return Ok(());
        }
        let Some(staging) = &mut self.staging else { return Err(CleanError::Changed) };
        match staging.append(batches) {
            Ok(()) => {}
            Err(CleanWriteError::Io(failure)) => return Err(self.refused(failure)),
            Err(CleanWriteError::Limit(WriteLimit::Bytes | WriteLimit::Offsets)) => {
                return self.append_to_next(batches);
            }
            Err(CleanWriteError::Limit(WriteLimit::Order | WriteLimit::Shape)) => return Err(CleanError::Changed),
        }
        match self.task.bytes_max.filter(|max| self.bytes_written() > *max) {
            Some(max) => Err(CleanError::GroupTooLarge { bytes_max: max, missing_bytes: self.missing_beside(max) }),
            None => Ok(()),
        }
    }

    /// Rebuilt batches may be larger than they were, so that what fitted one segment may need two.
    fn append_to_next(&mut self, batches: &[u8]) -> Result<(), CleanError> {
        let Ok(header) = BatchHeader::parse(batches, u32::MAX) else { return Err(CleanError::Changed) };
        let base = header.base_offset;
        let Some(staging) = self.staging.take() else { return Err(CleanError::Changed) };
        let (covers, aborted) = (staging.base(), self.carried_below(base));
        if staging.next_offset() <= covers {
            // Not even one batch fits, and there is no way out of that.
            return Err(CleanError::Changed);
        }
        self.end_staging(staging, base, covers, aborted)?;
        let next = self.task.log.stage(base, self.task.buffer_bytes);
        let next = self.staging.insert(next.map_err(|failure| self.refused(failure))?);
        match next.append(batches) {
            Ok(()) => Ok(()),
            Err(CleanWriteError::Io(failure)) => Err(self.refused(failure)),
            Err(CleanWriteError::Limit(_)) => Err(CleanError::Changed),
        }
    }

    fn carried_below(&mut self, offset: Offset) -> AbortedTxns {
        let (mut below, mut rest) = (AbortedTxns::default(), AbortedTxns::default());
        for entry in self.carried.entries() {
            let part = if entry.last_offset < offset { &mut below } else { &mut rest };
            part.push(*entry);
        }
        self.carried = rest;
        below
    }

    fn end_staging(
        &mut self,
        staging: Staging,
        end: Offset,
        covers: Offset,
        aborted: AbortedTxns,
    ) -> Result<(), CleanError> {
        let staged = staging.finish(end, covers, aborted).map_err(|failure| self.refused(failure))?;
        self.bytes_staged = self.bytes_staged.saturating_add(staged.segment().bytes);
        self.staged.push(staged);
        Ok(())
    }

    /// Everything was given. What is to take the group's place; empty when nothing of it differs.
    pub(super) fn finish(mut self) -> Result<Vec<Staged>, CleanError> {
        if self.is_unchanged() {
            return Ok(Vec::new());
        }
        if self.staging.is_none() && self.staged.is_empty() {
            self.begin()?;
        }
        let last = self.task.group.end.checked_sub(1).and_then(|last| self.task.segments.get(last));
        let (end, covers) = last.map(|last| (last.end, last.base)).ok_or(CleanError::Changed)?;
        if let Some(staging) = self.staging.take() {
            let aborted = std::mem::take(&mut self.carried);
            self.end_staging(staging, end, covers, aborted)?;
        }
        Ok(self.staged)
    }

    /// The failure, told as want of space where it is.
    fn refused(&self, failure: IoFailure) -> CleanError {
        let free = || self.task.log.file_system().space(self.task.log.dir()).map_or(0, |space| space.free);
        CleanError::of_write(failure, || self.missing_beside(free().saturating_add(self.bytes_written())))
    }

    /// Bytes that the group needs at most, beside what there is.
    fn missing_beside(&self, there: u64) -> u64 {
        let segments = self.task.segments.get(self.task.group.clone()).unwrap_or_default();
        let whole = segments.iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.bytes));
        whole.saturating_sub(there).max(1)
    }
}
