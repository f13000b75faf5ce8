//! The batches of one segment, one after the other, with a verdict on each.

use std::iter::FusedIterator;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::{InspectError, SegmentInfo};
use crate::error::{Corruption, CorruptionKind, InvalidBatch, IoFailure, IoOperation};
use crate::fs::File;
use crate::record::layout::LENGTH_OVERHEAD;
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::segment::scan::{ScanTask, Scanner, Stop};
use crate::segment::window::Window;
use crate::units::{FilePosition, Offset};

/// Bounds on what is held in memory at once, whatever the bytes on disk claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest batch that is read whole. Default 64 MiB.
    pub batch_bytes_max: u32,
    /// Largest decompressed size of its records. Default 256 MiB.
    pub decompressed_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch_bytes_max: 64 << 20, decompressed_bytes_max: 256 << 20 }
    }
}

/// What stands at a place in a segment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A whole batch whose checksum is right and whose offsets follow.
    Batch {
        /// Where it starts.
        position: FilePosition,
        /// Its header.
        header: BatchHeader,
    },
    /// Bytes that are no valid batch.
    Bad {
        /// The bytes, up to the next valid batch or to the end of the file.
        bytes: Range<u64>,
        /// The offset that was due there.
        expected: Offset,
        /// The header there, if it can be read.
        header: Option<BatchHeader>,
        /// What the check said.
        cause: CorruptionKind,
        /// Base offset of the next valid batch; without one this is the tail, torn or still being written.
        next: Option<Offset>,
    },
    /// Nothing but zeros up to the end of the file: space kept for later.
    Zeros {
        /// The bytes.
        bytes: Range<u64>,
    },
    /// A message of format v0 or v1; nothing behind it is looked at.
    OldFormat {
        /// Where it starts.
        position: FilePosition,
        /// 0 or 1.
        magic: i8,
    },
}

/// Iterator over a segment. Reads what the file held when it was opened, through a bounded window; after `Bad` it goes
/// on at the next valid batch, if there is one.
#[derive(Debug)]
pub struct SegmentWalk {
    scanner: Scanner,
    path: PathBuf,
    position: u64,
    file_bytes: u64,
    expected: Offset,
    ended: bool,
}

impl SegmentWalk {
    pub(super) fn new(
        file: Arc<dyn File>,
        segment: &SegmentInfo,
        position: u64,
        expected: Offset,
    ) -> Result<Self, IoFailure> {
        let path = segment.path.clone();
        let file_bytes = file.size().map_err(|e| IoFailure::new(IoOperation::Read, &path, e))?;
        let task = ScanTask {
            base: segment.base,
            next_base: segment.next_base,
            durable_below: Offset::ZERO,
            interval_bytes: 0,
            may_have_gaps: true,
        };
        let scanner = Scanner::new(file, file_bytes, task);
        Ok(Self { scanner, path, position, file_bytes, expected, ended: false })
    }

    /// Where the next item starts, or, after the last one, where the valid bytes end.
    pub fn at(&self) -> FilePosition {
        FilePosition::new(self.position)
    }

    /// Size of the file when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The offset after the last valid batch.
    pub fn next_offset(&self) -> Offset {
        self.expected
    }

    /// The bytes of a batch that this walk found.
    ///
    /// # Errors
    /// [`InspectError::Corrupt`] for a batch over the limit or a file that got shorter; [`InspectError::Io`].
    pub fn read(
        &mut self,
        position: FilePosition,
        header: &BatchHeader,
        limits: Limits,
    ) -> Result<Vec<u8>, InspectError> {
        let corrupt = |kind: InvalidBatch| Corruption { file: self.path.clone(), at: position, kind: kind.into() };
        check_size(header, limits).map_err(corrupt)?;
        let io = |e| IoFailure::new(IoOperation::Read, self.path.clone(), e);
        let bytes = read_batch(self.scanner.window(), position.value(), header).map_err(io)?;
        if bytes.len() < header.size as usize {
            let short = InvalidBatch::Short { need: u64::from(header.size), have: bytes.len() as u64 };
            return Err(corrupt(short).into());
        }
        Ok(bytes)
    }

    fn step(&mut self) -> std::io::Result<Item> {
        let (position, expected) = (self.position, self.expected);
        match self.scanner.batch_at(position, expected)? {
            Ok(header) => {
                self.position += u64::from(header.size);
                self.expected = header.next_offset();
                Ok(Item::Batch { position: FilePosition::new(position), header })
            }
            Err(Stop::Zeros) => {
                self.ended = true;
                Ok(Item::Zeros { bytes: position..self.file_bytes })
            }
            Err(Stop::OldFormat(magic)) => {
                self.ended = true;
                Ok(Item::OldFormat { position: FilePosition::new(position), magic })
            }
            Err(Stop::Bad(cause)) => {
                let header = BatchHeader::parse(self.scanner.window().at(position, HEADER_BYTES)?, u32::MAX).ok();
                let next = self.scanner.search_behind(position, expected, &cause)?;
                let end = next.map_or(self.file_bytes, |(at, _)| at);
                match next {
                    Some((at, base)) => (self.position, self.expected) = (at, base),
                    None => self.ended = true,
                }
                Ok(Item::Bad { bytes: position..end, expected, header, cause, next: next.map(|(_, base)| base) })
            }
        }
    }
}

impl Iterator for SegmentWalk {
    type Item = Result<Item, IoFailure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.position >= self.file_bytes {
            return None;
        }
        let step = self.step();
        self.ended |= step.is_err();
        Some(step.map_err(|e| IoFailure::new(IoOperation::Read, &self.path, e)))
    }
}

impl FusedIterator for SegmentWalk {}

pub(super) fn check_size(header: &BatchHeader, limits: Limits) -> Result<(), InvalidBatch> {
    if header.size <= limits.batch_bytes_max {
        return Ok(());
    }
    let length = |size: usize| i32::try_from(size.saturating_sub(LENGTH_OVERHEAD)).unwrap_or(i32::MAX);
    Err(InvalidBatch::Length {
        batch_length: length(header.size as usize),
        min: length(HEADER_BYTES),
        max: length(limits.batch_bytes_max as usize),
    })
}

/// The bytes of a batch, or as many of them as there are.
pub(super) fn read_batch(window: &mut Window, position: u64, header: &BatchHeader) -> std::io::Result<Vec<u8>> {
    let size = header.size as usize;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let left = size - bytes.len();
        let piece = window.at(position + bytes.len() as u64, left.min(Window::need_max()))?;
        let piece = piece.get(..left).unwrap_or(piece);
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}
