//! Reading a range of the log for its keys.

use std::ops::Range;
use std::sync::Arc;

use super::error::CleanError;
use super::learning::{Learning, Noted};
use super::transactions::CleanedTransactions;
use crate::error::{IoFailure, ReadError};
use crate::log::{CleanSegment, PartitionLog};
use crate::record::{BatchHeader, BatchView, Keys, plain_records};
use crate::segment::{CacheUse, CleanReader, Hole, Met};
use crate::units::{Offset, OffsetDelta};

/// A buffer for expanded records that grew past this is not kept.
const PLAIN_BYTES_KEPT: usize = 1 << 20;

/// What a scan reads, and how.
#[derive(Clone, Debug)]
pub(super) struct ScanTask {
    pub(super) log: PartitionLog,
    pub(super) segments: Arc<Vec<CleanSegment>>,
    /// Records outside of it are not noted.
    pub(super) range: Range<Offset>,
    pub(super) window_bytes: usize,
    /// What a batch may expand to.
    pub(super) decompressed_bytes_max: u32,
    pub(super) cache: CacheUse,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// There is more to read.
    Going,
    /// A key found no room.
    Full,
    /// Everything was read.
    All,
}

/// Reads the keys of a range, oldest first, a bounded number of bytes at a time.
#[derive(Debug)]
pub(super) struct KeyScan {
    task: ScanTask,
    /// The segment that is read, or comes next.
    at: usize,
    reader: Option<CleanReader>,
    transactions: CleanedTransactions,
    plain: Vec<u8>,
    /// Bytes read of segments that are done.
    read_before: u64,
    /// The lowest offset of what could not be read and was not known to be.
    unreadable: Option<Offset>,
}

/// What became of one batch.
enum Taken {
    Noted(Noted),
    /// It cannot be expanded, or its records are no records: it stays as it is.
    Unreadable,
    Damaged(Hole),
}

impl KeyScan {
    /// Of what `task` says, from its front.
    pub(super) fn new(task: ScanTask) -> Self {
        let at = task.segments.partition_point(|segment| segment.end <= task.range.start);
        let transactions = CleanedTransactions::default();
        Self { task, at, reader: None, transactions, plain: Vec::new(), read_before: 0, unreadable: None }
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read_before.saturating_add(self.reader.as_ref().map_or(0, CleanReader::bytes_read))
    }

    /// The lowest offset of what could not be read, but for known holes.
    pub(super) fn unreadable(&self) -> Option<Offset> {
        self.unreadable
    }

    /// Bytes of memory that it holds, expanded records apart.
    pub(super) fn memory_bytes(&self) -> usize {
        let window = self.reader.as_ref().map_or(0, CleanReader::memory_bytes);
        window.saturating_add(self.transactions.memory_bytes())
    }

    /// Reads about `bytes_max` bytes, and notes their keys.
    pub(super) fn step(&mut self, learning: &mut Learning, bytes_max: u64) -> Result<Scanned, CleanError> {
        let stop = self.bytes_read().saturating_add(bytes_max);
        while self.bytes_read() < stop {
            let Some(mut reader) = self.open()? else { return Ok(Scanned::All) };
            match reader.advance()? {
                Met::End => {
                    self.read_before = self.read_before.saturating_add(reader.bytes_read());
                    self.at = self.at.saturating_add(1);
                    continue;
                }
                Met::Damaged(hole) => self.meet(&reader, hole)?,
                Met::Batch(header) if header.base_offset >= self.task.range.end => {
                    self.read_before = self.read_before.saturating_add(reader.bytes_read());
                    self.at = self.task.segments.len();
                    continue;
                }
                Met::Batch(header) => match self.take(&mut reader, &header, learning)? {
                    Taken::Noted(Noted::Taken) => {}
                    Taken::Noted(Noted::Full) => {
                        self.reader = Some(reader);
                        return Ok(Scanned::Full);
                    }
                    Taken::Unreadable => self.note_unreadable(header.base_offset),
                    Taken::Damaged(hole) => self.meet(&reader, hole)?,
                },
            }
            self.reader = Some(reader);
        }
        Ok(Scanned::Going)
    }

    /// The reader of the segment that is due; `None` after the last one of the range.
    fn open(&mut self) -> Result<Option<CleanReader>, CleanError> {
        if let Some(reader) = self.reader.take() {
            return Ok(Some(reader));
        }
        let task = &self.task;
        let Some(segment) = task.segments.get(self.at).filter(|segment| segment.base < task.range.end) else {
            return Ok(None);
        };
        self.transactions.expect_aborted(aborted_of(&task.log, segment)?);
        open(segment, task.window_bytes, task.cache).map(Some)
    }

    fn take(
        &mut self,
        reader: &mut CleanReader,
        header: &BatchHeader,
        learning: &mut Learning,
    ) -> Result<Taken, IoFailure> {
        let attributes = header.attributes;
        let is_aborted = attributes.is_transactional() && self.transactions.is_aborted(header);
        let is_wanted = header.count > 0 && !attributes.is_control() && header.next_offset() > self.task.range.start;
        if is_aborted || !is_wanted {
            return Ok(Taken::Noted(Noted::Taken));
        }
        let batch = match reader.batch()? {
            Some(Ok(batch)) => batch,
            Some(Err(hole)) => return Ok(Taken::Damaged(hole)),
            None => return Ok(Taken::Unreadable),
        };
        let noted = note(batch.view(), &self.task, &mut self.plain, learning)?;
        if self.plain.capacity() > PLAIN_BYTES_KEPT {
            self.plain = Vec::new();
        }
        Ok(noted.map_or(Taken::Unreadable, Taken::Noted))
    }

    fn meet(&mut self, reader: &CleanReader, hole: Hole) -> Result<(), CleanError> {
        self.note_unreadable(hole.offsets.start);
        self.task.log.quarantine_met(reader.segment(), vec![hole])?;
        Ok(())
    }

    fn note_unreadable(&mut self, offset: Offset) {
        self.unreadable = Some(self.unreadable.map_or(offset, |lowest| lowest.min(offset)));
    }
}

/// Notes the keys of a batch's records that lie in the range; `None` when the records cannot be read.
fn note(
    view: &BatchView<'_>,
    task: &ScanTask,
    plain: &mut Vec<u8>,
    learning: &mut Learning,
) -> Result<Option<Noted>, IoFailure> {
    let header = view.header();
    let Ok(records) = plain_records(view, task.decompressed_bytes_max, plain) else { return Ok(None) };
    // Before the first is noted: a key of a batch that cannot be read in whole must supersede nothing.
    if !Keys::are_sound(records, header.count, header.last_offset_delta.value()) {
        return Ok(None);
    }
    let is_inside = task.range.start <= header.base_offset && header.next_offset() <= task.range.end;
    let base = header.base_offset;
    let notes = Keys::new(records).filter_map(|record| {
        let offset = base.checked_add(OffsetDelta::new(record.offset_delta)?)?;
        Some((record.key?, offset)).filter(|_| is_inside || task.range.contains(&offset))
    });
    learning.note_all(notes).map(Some)
}

/// A reader of `segment`.
pub(super) fn open(segment: &CleanSegment, window_bytes: usize, cache: CacheUse) -> Result<CleanReader, CleanError> {
    Ok(PartitionLog::read_for_cleaning(segment, window_bytes, cache)?)
}

/// The aborted transactions that have an offset in `segment`, readable ones.
pub(super) fn aborted_of(
    log: &PartitionLog,
    segment: &CleanSegment,
) -> Result<Vec<crate::index::AbortedTxn>, CleanError> {
    let from = segment.base.max(log.log_start());
    if from >= segment.end {
        return Ok(Vec::new());
    }
    log.aborted_of(&(from..segment.end)).map_err(|error| match error {
        ReadError::Io(failure) => CleanError::Io(failure),
        // Retention took it meanwhile.
        ReadError::OutOfRange { .. } => CleanError::Changed,
        other => CleanError::Read(Box::new(other)),
    })
}
