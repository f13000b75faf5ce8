//! Writing the segment that takes the place of cleaned ones: its log, and beside it what appending would have made of the
//! same batches: both indexes, the aborted transactions and the sum.
//!
//! All of it is written under names that an opening removes (`.cleaned`), and synced before the writer lets go of it. What
//! puts it in place is the log's; see `log::replace`.
//!
//! # Fillers
//! Apache Kafka's recovery knows of a swap by its `.swap` files alone: it removes every segment whose base offset lies
//! between the first and the last offset of them. So a log that is written here reaches past the base offset of every
//! segment that it takes the place of. Where no batch does that is kept, because the last of the segments has lost all of
//! its records, an empty batch is written that spans their offsets: 61 bytes, as Kafka leaves of a batch that was emptied.
//! Without it a crash in the middle of a swap could bring the emptied segment back, and a deleted key with it. The next
//! pass drops it and writes another one if that is needed still.

use std::path::PathBuf;
use std::sync::Arc;

use super::clean_beside::Beside;
use super::{FileKind, Home, Segment, SegmentFile, SegmentOptions, Stage};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, File, OpenMode};
use crate::index::AbortedTxns;
use crate::record::{BatchHeader, empty_batch};
use crate::units::{LeaderEpoch, Offset};

/// Positions in a segment are i32, as in Kafka.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;

/// Why a batch does not fit a segment that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteLimit {
    /// Its log would be longer than positions can count.
    Bytes,
    /// The batch lies too far from the base offset.
    Offsets,
    /// It does not come after the one before: a mistake of the caller's.
    Order,
    /// The bytes are no whole batches: a mistake of the caller's.
    Shape,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(crate) enum CleanWriteError {
    /// It does not fit; what was written stays.
    Limit(WriteLimit),
    /// The file could not be written.
    Io(IoFailure),
}

/// Where an output ends.
#[derive(Clone, Debug)]
pub(crate) struct FinishAt {
    /// Base offset of what comes behind it: no batch of it reaches past that.
    pub(crate) end: Offset,
    /// Base offset of the last of the segments that it takes the place of.
    pub(crate) covers: Offset,
    /// The leader epoch of a filler, where one led at all of its offsets.
    pub(crate) filler_epoch: Option<LeaderEpoch>,
    /// The aborted transactions whose markers lie in it.
    pub(crate) aborted: AbortedTxns,
}

/// A segment that is being written. Holds the buffer that it was given the size of, and a little of its indexes.
#[derive(Debug)]
pub(crate) struct CleanedWriter {
    base: Offset,
    file: Arc<dyn File>,
    path: PathBuf,
    buffer: Vec<u8>,
    buffer_bytes: usize,
    flushed: u64,
    next: Offset,
    beside: Beside,
}

/// A segment that is written, and synced but for its names.
#[derive(Clone, Debug)]
pub(crate) struct CleanedSegment {
    pub(crate) base: Offset,
    /// Offset after its last batch.
    pub(crate) next: Offset,
    /// Where the next segment begins.
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// The files that it has, its log last.
    pub(crate) kinds: Vec<FileKind>,
}

impl CleanedWriter {
    /// Begins the segment at `base`, with a buffer of `buffer_bytes`. What an earlier one left under its names goes.
    pub(crate) fn create(
        home: &Home,
        base: Offset,
        options: SegmentOptions,
        buffer_bytes: usize,
    ) -> Result<Self, IoFailure> {
        remove_cleaned(home, base)?;
        let path = home.dir.join(SegmentFile::live(base, FileKind::Log).at(Stage::Cleaned).name());
        let file = home.open(&path, OpenMode::CreateNew)?;
        Ok(Self {
            base,
            file,
            path,
            buffer: Vec::new(),
            buffer_bytes,
            flushed: 0,
            next: base,
            beside: Beside::new(home, base, options.interval_bytes),
        })
    }

    /// Its base offset.
    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// Length of its log so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Offset after its last batch so far; its base offset while it is empty.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// Bytes of memory that it holds: buffer, and what is not yet written of indexes and sum.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buffer.capacity().saturating_add(self.beside.memory_bytes())
    }

    fn limit(&self, bytes: u64, last: Offset) -> Option<WriteLimit> {
        if self.bytes().saturating_add(bytes) > SEGMENT_BYTES_MAX {
            return Some(WriteLimit::Bytes);
        }
        last.relative_to(self.base).is_none().then_some(WriteLimit::Offsets)
    }

    /// Adds one or several whole batches as they are. They are not checked again: their checksums were, or are new.
    pub(crate) fn append(&mut self, batches: &[u8]) -> Result<(), CleanWriteError> {
        let mut rest = batches;
        while !rest.is_empty() {
            let shape = CleanWriteError::Limit(WriteLimit::Shape);
            let Ok(header) = BatchHeader::parse(rest, BATCH_BYTES_MAX) else { return Err(shape) };
            let Some((batch, behind)) = rest.split_at_checked(header.size as usize) else { return Err(shape) };
            self.append_one(&header, batch)?;
            rest = behind;
        }
        Ok(())
    }

    fn append_one(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), CleanWriteError> {
        if header.base_offset < self.next {
            return Err(CleanWriteError::Limit(WriteLimit::Order));
        }
        if let Some(limit) = self.limit(batch.len() as u64, header.last_offset()) {
            return Err(CleanWriteError::Limit(limit));
        }
        let position = self.bytes();
        self.put(batch).map_err(CleanWriteError::Io)?;
        self.beside.observe(header, batch, position).map_err(CleanWriteError::Io)?;
        self.next = header.next_offset();
        Ok(())
    }

    /// Writes out what does not fit the buffer.
    fn put(&mut self, bytes: &[u8]) -> Result<(), IoFailure> {
        if self.buffer.len().saturating_add(bytes.len()) > self.buffer_bytes {
            self.write_out()?;
        }
        if bytes.len() >= self.buffer_bytes {
            fs::write_all_at(&*self.file, bytes, self.flushed).map_err(|e| self.failed(IoOperation::Write, e))?;
            self.flushed += bytes.len() as u64;
            return Ok(());
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(self.buffer_bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), IoFailure> {
        fs::write_all_at(&*self.file, &self.buffer, self.flushed).map_err(|e| self.failed(IoOperation::Write, e))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn failed(&self, operation: IoOperation, error: std::io::Error) -> IoFailure {
        IoFailure::new(operation, &self.path, error)
    }

    /// Writes the rest, the files beside the log, and syncs all of them. The names last once the directory is synced.
    pub(crate) fn finish(mut self, at: &FinishAt) -> Result<CleanedSegment, IoFailure> {
        if self.next <= at.covers {
            self.fill(at)?;
        }
        self.write_out()?;
        // It goes before the other files are made.
        self.buffer = Vec::new();
        self.file.sync_data().map_err(|e| self.failed(IoOperation::Sync, e))?;
        let bytes = self.flushed;
        let mut kinds = self.beside.finish(bytes, self.next, &at.aborted)?;
        kinds.push(FileKind::Log);
        Ok(CleanedSegment { base: self.base, next: self.next, end: at.end, bytes, kinds })
    }

    /// An empty batch over the offsets that are left.
    fn fill(&mut self, at: &FinishAt) -> Result<(), IoFailure> {
        // All of them where a segment can have them: no more were in it.
        let reach = Offset::new(self.base.value().saturating_add(1 << 31)).unwrap_or(at.end);
        let filler = empty_batch(self.next..at.end.min(reach), at.filler_epoch);
        let Some(filler) = filler else { return Ok(()) };
        match self.append(&filler) {
            Err(CleanWriteError::Io(failure)) => Err(failure),
            // A log at its limit of 2 GiB has batches enough.
            Ok(()) | Err(CleanWriteError::Limit(_)) => Ok(()),
        }
    }
}

impl CleanedSegment {
    /// The segment as the log will have it, once its files have their names.
    pub(crate) fn segment(&self, home: &Home, options: SegmentOptions) -> Segment {
        let segment = Segment::sealed(home, self.base, options, Vec::new());
        segment.seal(self.bytes);
        segment.next_base.set(self.end.value().cast_unsigned());
        segment
    }
}

/// Removes what was written of the segment at `base` and not put in place.
pub(crate) fn remove_cleaned(home: &Home, base: Offset) -> Result<(), IoFailure> {
    for kind in FileKind::ALL_LOG_LAST {
        home.remove(&SegmentFile::live(base, kind).at(Stage::Cleaned).name())?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "clean_tests.rs"]
mod tests;
