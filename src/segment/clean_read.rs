//! Reading a sealed segment for cleaning: batch by batch, front to back, in large positional reads through a descriptor of
//! its own.
//!
//! A cleaner must know of every byte that it goes by whether its checksum was right: what it copies gets a sum that vouches
//! for it, and what it rebuilds gets a new checksum. So [`CleanReader::batch`] is the only way to the bytes of a batch, and
//! it checks them; [`CleanReader::advance`] shows headers, whose bytes nothing vouches for, to whoever decides that a batch
//! need not be read at all. Known holes are stepped over. Damage that is met is told as a hole, for the log to quarantine;
//! the reader goes on behind it, with the next whole valid batch.
//!
//! Offsets lie outside the checksums. One that leaves a gap, as cleaning does, is held against the batch behind it, as a
//! scan does: a flipped bit must not put a record at an offset where it hides newer ones.

use std::io;
use std::sync::Arc;

use super::scan::{ScanTask, Scanner};
use super::{Extent, Hole, Segment};
use crate::error::{CorruptionKind, InvalidBatch, IoFailure, IoOperation};
use crate::fs::{self, Advice, File, OpenMode};
use crate::record::layout::ATTRIBUTES_AT;
use crate::record::{BatchHeader, BatchView, Checked, Crc32c, HEADER_BYTES, VerifiedBatch};
use crate::units::Offset;

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;
/// With less, a read would cost more than its bytes.
const WINDOW_BYTES_MIN: usize = 4 << 10;
/// Behind a batch of this size that nobody looked at, a header is read alone: it costs less than its batch's bytes, of which
/// nobody may want to look at either.
const LONE_HEADER_BATCH_MIN: u32 = 4 << 10;

/// What [`CleanReader::advance`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A batch: its header, of which nothing but its place is checked yet.
    Batch(BatchHeader),
    /// Bytes that cannot be read and were not known to be: to be quarantined. The reader is past them.
    Damaged(Hole),
    /// The end of the segment.
    End,
}

/// What becomes of the pages that reading brings into the system's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheUse {
    /// They are left to the system: the bytes are read again soon.
    Keep,
    /// They are given back behind the reader, so that the tail that consumers read stays in the cache.
    DropBehind,
}

/// Reads the batches of one sealed segment in order. Holds one window of the size asked for, and for as long as it is
/// looked at a batch that is larger; such a one is checked before the memory for it is taken, so that a damaged length
/// takes none.
#[derive(Debug)]
pub(crate) struct CleanReader {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    extent: Extent,
    cache: CacheUse,
    window_bytes: usize,
    buffer: Vec<u8>,
    /// Where the buffer begins in the log, and how much of it is filled.
    start: u64,
    filled: usize,
    /// The batch that was met last.
    current: Option<Placed>,
    /// Whether the bytes of a batch that was met were not looked at, and were many.
    passes_by: bool,
    /// Where the next one begins, and the smallest offset that it can have.
    next: u64,
    expected: Offset,
    bytes_read: u64,
    given_back: u64,
}

/// A batch that was met, by its header.
#[derive(Clone, Copy, Debug)]
struct Placed {
    position: u64,
    /// Smallest offset that it could have had.
    expected: Offset,
    header: BatchHeader,
}

impl CleanReader {
    /// How many bytes behind the reader are given back at once.
    const GIVE_BACK_BYTES: u64 = 8 << 20;

    /// Opens `segment`, which is sealed and ends before offset `end`, at its front.
    pub(crate) fn open(
        segment: &Arc<Segment>,
        end: Offset,
        window_bytes: usize,
        cache: CacheUse,
    ) -> Result<Self, IoFailure> {
        let file = segment.home.open(&segment.log_path(), OpenMode::Read)?;
        let bytes = segment.bytes()?;
        // A hint: without it the same bytes are read.
        let _ = file.advise(0, bytes, Advice::Sequential);
        Ok(Self {
            segment: Arc::clone(segment),
            file,
            extent: Extent { bytes, end },
            cache,
            window_bytes: window_bytes.max(WINDOW_BYTES_MIN),
            buffer: Vec::new(),
            start: 0,
            filled: 0,
            current: None,
            passes_by: false,
            next: 0,
            expected: segment.base(),
            bytes_read: 0,
            given_back: 0,
        })
    }

    /// The segment that is read.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Bytes that were read from the disk or its cache so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Bytes of memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Where the next batch begins: everything before it was met.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Goes on to the next batch, without a look at the bytes of the one before.
    pub(crate) fn advance(&mut self) -> Result<Met, IoFailure> {
        self.current = None;
        loop {
            self.give_back();
            if self.next >= self.extent.bytes {
                return Ok(Met::End);
            }
            match self.segment.hole_at(self.next).filter(|hole| !hole.bytes.is_empty()) {
                Some(hole) => {
                    self.next = hole.bytes.end;
                    self.expected = self.expected.max(hole.offsets.end);
                }
                None => break,
            }
        }
        let position = self.next;
        let header = match self.placed_header(position).map_err(|e| self.failed(e))? {
            Ok(header) => header,
            Err(cause) => return self.damage(position, cause).map(Met::Damaged),
        };
        self.current = Some(Placed { position, expected: self.expected, header });
        self.passes_by = header.size >= LONE_HEADER_BATCH_MIN;
        self.next = position + u64::from(header.size);
        self.expected = header.next_offset();
        Ok(Met::Batch(header))
    }

    /// The batch that [`CleanReader::advance`] came to, checked; the inner error is for bytes that fail their checksum: then
    /// the reader is past them. `None` when it came to no batch.
    pub(crate) fn batch(&mut self) -> Result<Option<Result<VerifiedBatch<'_>, Hole>>, IoFailure> {
        let Some(Placed { position, expected, header }) = self.current else { return Ok(None) };
        self.passes_by = false;
        let checked = match self.load(position, &header).map_err(|e| self.failed(e))? {
            Ok(checked) => checked,
            Err(cause) => {
                // What its header says of offsets may be as wrong.
                self.expected = expected;
                return self.damage(position, cause).map(|hole| Some(Err(hole)));
            }
        };
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        let bytes = self.buffer.get(from..self.filled).unwrap_or_default();
        // It was parsed from these bytes before.
        let view = BatchView::parse(bytes, BATCH_BYTES_MAX).ok();
        Ok(view.and_then(|view| VerifiedBatch::again(view, &checked)).map(Ok))
    }

    /// The header at `position`, if a batch can stand there.
    fn placed_header(&mut self, position: u64) -> io::Result<Result<BatchHeader, CorruptionKind>> {
        let bytes = self.at(position, HEADER_BYTES)?;
        let header = match BatchHeader::parse(bytes, BATCH_BYTES_MAX) {
            Ok(header) => header,
            Err(cause) => return Ok(Err(cause.into())),
        };
        let remaining = self.extent.bytes - position;
        if u64::from(header.size) > remaining {
            let short = InvalidBatch::Short { need: u64::from(header.size), have: remaining };
            return Ok(Err(short.into()));
        }
        let fits =
            header.last_offset() < self.extent.end && header.last_offset().relative_to(self.segment.base()).is_some();
        if header.base_offset < self.expected || !fits || self.is_contradicted(position, &header)? {
            let kind = CorruptionKind::OffsetOrder { expected: self.expected, found: header.base_offset.value() };
            return Ok(Err(kind));
        }
        Ok(Ok(header))
    }

    /// Whether the batch behind says that the offset of this one, which leaves a gap, is wrong.
    fn is_contradicted(&mut self, position: u64, header: &BatchHeader) -> io::Result<bool> {
        let behind = position + u64::from(header.size);
        let is_readable = behind < self.extent.bytes && self.segment.hole_at(behind).is_none();
        if header.base_offset == self.expected || !is_readable {
            return Ok(false);
        }
        let mut apart = [0; HEADER_BYTES];
        let bytes = if let Some(bytes) = self.held(behind, HEADER_BYTES) {
            bytes
        } else {
            // By itself: the window stays where the batch is.
            let read = fs::read_full_at(&*self.file, &mut apart, behind)?;
            self.bytes_read += read as u64;
            apart.get(..read).unwrap_or_default()
        };
        let contradicts = |found: BatchHeader| (self.expected..header.next_offset()).contains(&found.base_offset);
        Ok(BatchHeader::parse(bytes, BATCH_BYTES_MAX).is_ok_and(contradicts))
    }

    /// Has the whole batch in the buffer, checked.
    fn load(&mut self, position: u64, header: &BatchHeader) -> io::Result<Result<Checked, CorruptionKind>> {
        let size = header.size as usize;
        let is_checked = size > self.window_bytes;
        if is_checked {
            let computed = self.crc_through_window(position, header.size)?;
            if computed != header.crc {
                return Ok(Err(InvalidBatch::Crc { stored: header.crc, computed }.into()));
            }
        }
        let bytes = self.at(position, size)?;
        let Some(bytes) = bytes.get(..size) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let verified = BatchView::parse(bytes, BATCH_BYTES_MAX).and_then(VerifiedBatch::verify);
        Ok(verified.map(|verified| verified.checked()).map_err(Into::into))
    }

    /// CRC-32C of a batch that is larger than the window: memory for all of it is taken only once it is known to be sound.
    fn crc_through_window(&mut self, position: u64, size: u32) -> io::Result<u32> {
        let mut crc = Crc32c::new();
        let (mut at, end) = (position + ATTRIBUTES_AT as u64, position + u64::from(size));
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let bytes = self.at(at, left.min(self.window_bytes))?;
            let part = bytes.get(..left).unwrap_or(bytes);
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            crc.update(part);
            at += part.len() as u64;
        }
        Ok(crc.finish())
    }

    /// Looks for the next whole valid batch behind damage at `position`, and goes on there.
    fn damage(&mut self, position: u64, cause: CorruptionKind) -> Result<Hole, IoFailure> {
        self.current = None;
        let mut scanner = Scanner::new(Arc::clone(&self.file), self.extent.bytes, self.scan_task());
        let found = scanner.search_behind(position, self.expected, &cause).map_err(|e| self.failed(e))?;
        let (bytes_end, offsets_end) = found.unwrap_or((self.extent.bytes, self.extent.end));
        let offsets = self.expected..offsets_end.max(self.expected);
        (self.next, self.expected) = (bytes_end, offsets.end);
        Ok(Hole { bytes: position..bytes_end, offsets, cause: Some(cause) })
    }

    fn scan_task(&self) -> ScanTask {
        let (base, next_base) = (self.segment.base(), Some(self.extent.end));
        ScanTask { base, next_base, durable_below: Offset::MAX, interval_bytes: u32::MAX, may_have_gaps: true }
    }

    fn failed(&self, error: io::Error) -> IoFailure {
        IoFailure::new(IoOperation::Read, self.segment.log_path(), error)
    }

    /// `need` bytes at `position`, if the buffer has them.
    fn held(&self, position: u64, need: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.buffer.get(from..self.filled).filter(|bytes| bytes.len() >= need)
    }

    /// The bytes at `position`: at least `need`, or as many as there are.
    fn at(&mut self, position: u64, need: usize) -> io::Result<&[u8]> {
        if self.held(position, need).is_none() {
            self.fill(position, need)?;
        }
        Ok(self.held(position, 0).unwrap_or_default())
    }

    fn fill(&mut self, position: u64, need: usize) -> io::Result<()> {
        let remaining = usize::try_from(self.extent.bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let window_bytes = if self.passes_by { 0 } else { self.window_bytes };
        let wanted = window_bytes.max(need).min(remaining);
        // What is already here moves to the front instead of being read again.
        let from = position.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let kept = match from.filter(|from| *from < self.filled) {
            Some(from) => {
                self.buffer.copy_within(from..self.filled, 0);
                self.filled - from
            }
            None => 0,
        };
        // A large batch is behind: its memory goes. No more than the window is kept of it.
        let kept = kept.min(wanted);
        let room = wanted.max(self.window_bytes.min(remaining));
        self.buffer.resize(room, 0);
        self.buffer.shrink_to(room.max(self.window_bytes));
        (self.start, self.filled) = (position, kept);
        if let Some(rest) = self.buffer.get_mut(kept..wanted) {
            let read = fs::read_full_at(&*self.file, rest, position + kept as u64)?;
            self.filled += read;
            self.bytes_read += read as u64;
        }
        Ok(())
    }

    fn give_back(&mut self) {
        let is_over = self.next >= self.extent.bytes;
        let behind = self.next.saturating_sub(self.given_back);
        if self.cache == CacheUse::DropBehind && (behind >= Self::GIVE_BACK_BYTES || is_over && behind > 0) {
            // A hint, too.
            let _ = self.file.advise(self.given_back, behind, Advice::DontNeed);
            self.given_back = self.next;
        }
    }
}
