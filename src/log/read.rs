//! Reading: clone the published view, find the batches, hand out slices. Nothing here waits for a writer or a sync.

use std::io;
use std::sync::Arc;

use super::PartitionLog;
use super::view::LogView;
use crate::error::{Corruption, CorruptionKind, Damage, IoFailure, IoOperation, ReadError};
use crate::fs::{self, File};
use crate::record::{BatchHeader, BatchView};
use crate::segment::{Extent, Located, Segment, StretchLimits};
use crate::units::{FilePosition, Offset, TimestampMs};

/// Up to which mark a read sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Everything appended, as followers read.
    #[default]
    LogEnd,
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

/// A stretch of whole batches in one file. While it lives the bytes stay as they are: the file is neither shortened nor
/// overwritten in place, and goes on being readable when its name is gone.
#[derive(Clone, Debug)]
pub struct FileSlice {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    position: u64,
    len: u64,
}

impl FileSlice {
    /// First byte in the file.
    pub fn position(&self) -> FilePosition {
        FilePosition::new(self.position)
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Path of the file when the slice was made.
    pub fn path(&self) -> std::path::PathBuf {
        self.segment.log_path()
    }

    /// The open file, for calls that move bytes without copying them.
    pub fn file(&self) -> &dyn File {
        &*self.file
    }

    /// The bytes themselves, where the segment is mapped (`ReadMode::Mapped`, sealed); `None` otherwise.
    pub fn borrow(&self) -> Option<&[u8]> {
        let mapping = self.segment.mapping().ok().flatten()?;
        let start = usize::try_from(self.position).ok()?;
        mapping.bytes().get(start..)?.get(..usize::try_from(self.len).ok()?)
    }

    /// Reads the bytes to the front of `buffer` and returns how many there are. The cheapest way to get them into
    /// memory of one's own: nothing is cleared before it is overwritten.
    ///
    /// # Errors
    /// [`IoFailure`]: of kind `InvalidInput` when `buffer` is shorter than the slice, which is then not touched.
    pub fn read_to(&self, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.segment.log_path(), e);
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        let Some(place) = buffer.get_mut(..len) else { return Err(failed(io::ErrorKind::InvalidInput.into())) };
        match self.borrow() {
            Some(bytes) => place.copy_from_slice(bytes),
            None => fs::read_exact_at(&*self.file, place, self.position).map_err(failed)?,
        }
        Ok(len)
    }

    /// Appends the bytes to `buffer`, reusing its capacity.
    ///
    /// # Errors
    /// [`IoFailure`]; `buffer` is then as it was.
    pub fn read_into(&self, buffer: &mut Vec<u8>) -> Result<(), IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.segment.log_path(), e);
        let len = usize::try_from(self.len).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        if let Some(bytes) = self.borrow() {
            buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let start = buffer.len();
        buffer.resize(start + len, 0);
        let filled = fs::read_exact_at(&*self.file, buffer.get_mut(start..).unwrap_or_default(), self.position);
        filled.map_err(|e| {
            buffer.truncate(start);
            failed(e)
        })
    }
}

/// What a read found: whole batches, as slices of files. Empty at the mark that the isolation names.
#[derive(Clone, Debug)]
pub struct Fetched {
    slices: Vec<FileSlice>,
    start: Offset,
    next: Option<Offset>,
    marks: super::Marks,
}

impl Fetched {
    /// The slices, in offset order. Send them as they are: they are the bytes that the producers sent, with offset and
    /// epoch stamped.
    pub fn slices(&self) -> &[FileSlice] {
        &self.slices
    }

    /// Bytes in all slices.
    pub fn bytes(&self) -> u64 {
        self.slices.iter().map(FileSlice::len).sum()
    }

    /// Whether nothing was found: the offset is at the mark.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// The offset that was asked for. The first batch may begin before it.
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The marks when the read was made.
    pub fn marks(&self) -> super::Marks {
        self.marks
    }

    /// The bytes of all slices, one after the other.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, IoFailure> {
        let mut buffer = Vec::with_capacity(usize::try_from(self.bytes()).unwrap_or_default());
        for slice in &self.slices {
            slice.read_into(&mut buffer)?;
        }
        Ok(buffer)
    }

    /// Reads the bytes and returns a decoded view of them.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be read.
    pub fn batches(&self) -> Result<FetchedBatches, IoFailure> {
        let mut origins = Vec::with_capacity(self.slices.len());
        let mut at = 0;
        for slice in &self.slices {
            origins.push((at, slice.clone()));
            at += usize::try_from(slice.len).unwrap_or_default();
        }
        Ok(FetchedBatches { bytes: self.read()?, origins, next: self.next })
    }

    /// Where to read next: the offset after the last batch, or the offset asked for when there is none.
    ///
    /// # Errors
    /// [`ReadError`] when the last batches have to be looked at and cannot be.
    pub fn next_offset(&self) -> Result<Offset, ReadError> {
        if let Some(next) = self.next {
            return Ok(next);
        }
        let Some(slice) = self.slices.last() else { return Ok(self.start) };
        let (mut position, end) = (slice.position, slice.position + slice.len);
        let mut next = self.start;
        while position < end {
            let header = slice.segment.header_at(position, end)?;
            next = header.next_offset();
            position += u64::from(header.size);
        }
        Ok(next)
    }
}

/// The bytes of a fetch, in memory, with a decoded view.
#[derive(Debug)]
pub struct FetchedBatches {
    bytes: Vec<u8>,
    /// For each slice: where its bytes start here, and the slice.
    origins: Vec<(usize, FileSlice)>,
    /// Where to read next, as far as it was known when the slices were made: no batch reaches past it.
    next: Option<Offset>,
}

impl FetchedBatches {
    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batches in order. Checksums are checked on demand: [`BatchView::verify_crc`]. An error names file and
    /// position and ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<BatchView<'_>, Corruption>> {
        let (mut at, mut expected) = (0, None);
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            match self.placed_batch(rest, expected) {
                Ok(batch) => {
                    at += batch.bytes().len();
                    expected = Some(batch.header().next_offset());
                    Some(Ok(batch))
                }
                Err(kind) => {
                    let corruption = self.corruption(at, kind);
                    at = self.bytes.len();
                    Some(Err(corruption))
                }
            }
        })
    }

    /// The first batch of `rest`, if its offset fits what is before and behind it: no checksum covers the offset.
    fn placed_batch<'a>(&self, rest: &'a [u8], expected: Option<Offset>) -> Result<BatchView<'a>, CorruptionKind> {
        let batch = BatchView::parse(rest, i32::MAX as u32)?;
        let header = batch.header();
        let expected = expected.unwrap_or(header.base_offset);
        // Parsed once more when its turn comes, but only where offsets leave a gap.
        let parse_behind = |rest: &[u8]| BatchHeader::parse(rest, i32::MAX as u32).ok();
        let behind = rest.get(batch.bytes().len()..).filter(|_| header.base_offset > expected).and_then(parse_behind);
        let behind = behind.map(|behind| behind.base_offset).or(self.next);
        if header.base_offset < expected || behind.is_some_and(|behind| header.next_offset() > behind) {
            return Err(CorruptionKind::OffsetOrder { expected, found: header.base_offset.value() });
        }
        Ok(batch)
    }

    fn corruption(&self, at: usize, kind: CorruptionKind) -> Corruption {
        let origin = self.origins.iter().rev().find(|(start, _)| *start <= at);
        let (file, position) = origin.map_or_else(Default::default, |(start, slice)| {
            (slice.segment.log_path(), slice.position + (at - start) as u64)
        });
        Corruption { file, at: FilePosition::new(position), kind }
    }
}

/// A record's offset and timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp.
    pub timestamp: TimestampMs,
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

    /// Runs `look` on the published view, and once more if a file went away meanwhile because the log was cut.
    fn with_view<T>(&self, look: impl Fn(&LogView) -> Result<T, ReadError>) -> Result<T, ReadError> {
        let view = self.core.view.read().clone();
        if view.is_closed {
            return Err(ReadError::Closed);
        }
        match look(&view) {
            Err(ReadError::Io(failure)) if failure.source.kind() == io::ErrorKind::NotFound => {
                let newer = self.core.view.read().clone();
                if Arc::ptr_eq(&newer.segments, &view.segments) { Err(failure.into()) } else { look(&newer) }
            }
            looked => looked,
        }
    }

    fn read_in(&self, view: &LogView, offset: Offset, options: &ReadOptions) -> Result<Fetched, ReadError> {
        let marks = view.marks;
        if offset < marks.log_start || offset > marks.log_end {
            let (log_start, log_end) = (marks.log_start, marks.log_end);
            return Err(ReadError::OutOfRange { asked: offset, log_start, log_end });
        }
        let upper = match options.isolation {
            Isolation::LogEnd => marks.log_end,
            Isolation::Durable => marks.durable_end,
            Isolation::At(at) => at.min(marks.log_end),
        };
        let mut fetched = Fetched { slices: Vec::new(), start: offset, next: None, marks };
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
            Located::Hole(hole) => Err(ReadError::Damaged(Box::new(segment.damage(hole)))),
            Located::End => {
                if end > offset && !self.core.config.read().cleanup_policy.compacts() {
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
                let slice = FileSlice { segment: Arc::clone(segment), file, position, len };
                // What the segment lacks at its end is met by a read of its own, and never skipped.
                let is_hole = !self.core.config.read().cleanup_policy.compacts() || segment.ends_in_hole();
                let is_complete = stretch.next_offset.is_some_and(|next| next >= end);
                Ok((Some(slice), stretch.next_offset, stretch.end == bound && (is_complete || !is_hole)))
            }
        }
    }

    /// The first record, in offset order, whose timestamp is at least `timestamp`; exact also inside compressed
    /// batches. `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError`] when a segment or batch on the way cannot be read.
    pub fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        let decompressed_max = self.core.config.read().max_decompressed_bytes;
        self.with_view(|view| {
            let first = view.segment_of(view.marks.log_start);
            for at in first..view.segments.len() {
                let Some(segment) = view.segments.get(at) else { break };
                let is_active = at + 1 == view.segments.len();
                // Records without timestamp (-1) are in no time index.
                let is_indexed = !is_active && timestamp.value() >= 0;
                if is_indexed && segment.largest_timestamp()?.is_none_or(|largest| largest < timestamp) {
                    continue;
                }
                let extent = view.extent_of(at)?;
                let found = segment.search_timestamp(timestamp, view.marks.log_start, extent, decompressed_max)?;
                if let Some((timestamp, offset)) = found {
                    return Ok(Some(TimestampOffset { offset, timestamp }));
                }
            }
            Ok(None)
        })
    }
}

fn missing(segment: &Segment, at: u64, from: Offset, to: Offset) -> Damage {
    Damage { file: segment.log_path(), bytes: at..at, offsets: from..to, cause: None }
}
