//! Walks a `.log` file batch by batch, checks every byte, rebuilds the indexes, and says where trust ends.
//!
//! Below the durable limit a bad byte is damage: the scan looks for the next whole valid batch and goes on behind the
//! hole. At or past the limit it is a torn tail: the scan stops there, and a valid batch behind a bad one is not believed.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::window::Window;
use crate::error::{CorruptionKind, InvalidBatch};
use crate::fs::File;
use crate::index::{IndexCursor, SegmentIndex};
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::units::{LeaderEpoch, Offset, TimestampMs};

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;
/// Searching behind damage may hash at most this many times the file's size, whatever the bytes look like.
const SEARCH_WORK_FACTOR: u64 = 8;

/// What a scan is told about the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanTask {
    /// Base offset of the segment.
    pub(crate) base: Offset,
    /// Base offset of the next segment, past which no batch may reach.
    pub(crate) next_base: Option<Offset>,
    /// Bad bytes below this offset are damage, at or past it a torn tail.
    pub(crate) durable_below: Offset,
    /// `index.interval.bytes`.
    pub(crate) interval_bytes: u32,
    /// Whether offsets may be missing anywhere, as cleaning leaves them, or nothing is known about that. Otherwise no
    /// batch reaches past the durable limit while offsets below it are missing.
    pub(crate) may_have_gaps: bool,
}

/// Unreadable bytes with valid ones behind them, or at the end of what was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The bytes; empty when they are missing.
    pub bytes: Range<u64>,
    /// The offsets that cannot be read.
    pub offsets: Range<Offset>,
    /// What the check said; `None` when the bytes are missing.
    pub cause: Option<CorruptionKind>,
}

/// Why a scan did not reach the end of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Only zeros follow: space that was reserved and not used.
    Zeros,
    /// A batch is not whole or not valid.
    Bad(CorruptionKind),
    /// A message of format v0 or v1, with a valid checksum.
    OldFormat(i8),
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The indexes that the batches give.
    pub(crate) index: SegmentIndex,
    /// The cursor after the last batch.
    pub(crate) cursor: IndexCursor,
    /// Offset after the last readable or damaged one: the segment's end.
    pub(crate) end: Offset,
    /// Bytes to keep: up to the end of the last valid batch or hole.
    pub(crate) kept_bytes: u64,
    /// Size of the file.
    pub(crate) file_bytes: u64,
    /// Why the scan stopped at `kept_bytes`, when that is not the end of the file.
    pub(crate) stop: Option<Stop>,
    /// Damage that is kept.
    pub(crate) holes: Vec<Hole>,
    /// Largest timestamp of the first batch.
    pub(crate) first_timestamp: Option<TimestampMs>,
    /// Largest leader epoch met.
    pub(crate) newest_epoch: Option<LeaderEpoch>,
    /// Valid batches met.
    pub(crate) batches: u64,
}

/// Scans `file`.
pub(crate) fn scan(file: Arc<dyn File>, task: ScanTask) -> io::Result<Scan> {
    scan_each(file, task, |_, _, _| Ok(()))
}

/// Scans `file` and shows `visit` each valid batch: where it starts, its header, and a window that holds its bytes.
pub(crate) fn scan_each(
    file: Arc<dyn File>,
    task: ScanTask,
    mut visit: impl FnMut(u64, &BatchHeader, &mut Window) -> io::Result<()>,
) -> io::Result<Scan> {
    let file_bytes = file.size()?;
    let mut scanner = Scanner::new(file, file_bytes, task);
    let mut found = Scan {
        index: SegmentIndex::default(),
        cursor: IndexCursor::new(task.base, task.interval_bytes),
        end: task.base,
        kept_bytes: 0,
        file_bytes,
        stop: None,
        holes: Vec::new(),
        first_timestamp: None,
        newest_epoch: None,
        batches: 0,
    };
    while found.kept_bytes < file_bytes {
        match scanner.placed_batch_at(found.kept_bytes, found.end)? {
            Ok(header) => {
                visit(found.kept_bytes, &header, &mut scanner.window)?;
                found.take(&header);
            }
            Err(stop) => {
                if !scanner.step_over(stop, &mut found)? {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// Whether `range` consists of whole valid batches.
pub(crate) fn is_whole(file: Arc<dyn File>, range: Range<u64>) -> io::Result<bool> {
    let task = ScanTask {
        base: Offset::ZERO,
        next_base: None,
        durable_below: Offset::ZERO,
        interval_bytes: 0,
        may_have_gaps: true,
    };
    let mut scanner = Scanner { window: Window::new(file, range.end), task, file_bytes: range.end, work: 0 };
    let mut at = range.start;
    while at < range.end {
        let bytes = scanner.window.at(at, HEADER_BYTES)?;
        let Ok(header) = BatchHeader::parse(bytes, BATCH_BYTES_MAX) else { return Ok(false) };
        if u64::from(header.size) > range.end - at || scanner.window.batch_crc(at, header.size)? != header.crc {
            return Ok(false);
        }
        at += u64::from(header.size);
    }
    Ok(true)
}

impl Scan {
    fn take(&mut self, header: &BatchHeader) {
        self.cursor.observe(header, self.kept_bytes, &mut self.index);
        self.first_timestamp.get_or_insert(header.max_timestamp);
        self.newest_epoch = self.newest_epoch.max(header.leader_epoch);
        self.kept_bytes += u64::from(header.size);
        // `parse` made sure that the last offset has a successor or is the largest one there is.
        self.end = header.next_offset();
        self.batches += 1;
    }
}

/// Judges the bytes of a segment, one batch at a time.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    task: ScanTask,
    file_bytes: u64,
    work: u64,
}

impl Scanner {
    /// Over the first `file_bytes` of `file`.
    pub(crate) fn new(file: Arc<dyn File>, file_bytes: u64, task: ScanTask) -> Self {
        Self { window: Window::new(file, file_bytes), task, file_bytes, work: 0 }
    }

    /// The bytes that were read last, and more of them.
    pub(crate) fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    /// The batch at `position`, wholly checked, or why there is none.
    pub(crate) fn batch_at(&mut self, position: u64, expected: Offset) -> io::Result<Result<BatchHeader, Stop>> {
        let remaining = self.window.remaining(position);
        let bytes = self.window.at(position, HEADER_BYTES)?;
        let header = match BatchHeader::parse(bytes, BATCH_BYTES_MAX) {
            Ok(header) => header,
            Err(cause) => return self.why_no_header(position, cause).map(Err),
        };
        let bad = |kind| Ok(Err(Stop::Bad(kind)));
        if header.base_offset < expected || !self.fits_segment(&header) {
            return bad(CorruptionKind::OffsetOrder { expected, found: header.base_offset.value() });
        }
        if u64::from(header.size) > remaining {
            return bad(InvalidBatch::Short { need: u64::from(header.size), have: remaining }.into());
        }
        let computed = self.window.batch_crc(position, header.size)?;
        if computed == header.crc {
            Ok(Ok(header))
        } else {
            bad(InvalidBatch::Crc { stored: header.crc, computed }.into())
        }
    }

    /// As [`Scanner::batch_at`], and where its offset leaves a gap, whether that can be true: the offset lies outside the
    /// checksum, and a flipped bit in it would have the good batches behind it taken for bad ones.
    fn placed_batch_at(&mut self, position: u64, expected: Offset) -> io::Result<Result<BatchHeader, Stop>> {
        let header = match self.batch_at(position, expected)? {
            Ok(header) if header.base_offset > expected => header,
            found => return Ok(found),
        };
        let durable_end = self.task.durable_below;
        // What was durable ended between two batches.
        let skips_the_limit = !self.task.may_have_gaps && expected < durable_end && header.base_offset >= durable_end;
        let is_contradicted = match self.batch_at(position + u64::from(header.size), expected)? {
            Ok(behind) => behind.base_offset < header.next_offset(),
            Err(_) => false,
        };
        if skips_the_limit || is_contradicted {
            let found = header.base_offset.value();
            return Ok(Err(Stop::Bad(CorruptionKind::OffsetOrder { expected, found })));
        }
        Ok(Ok(header))
    }

    fn fits_segment(&self, header: &BatchHeader) -> bool {
        let last = header.last_offset();
        last.relative_to(self.task.base).is_some() && self.task.next_base.is_none_or(|next| last < next)
    }

    fn why_no_header(&mut self, position: u64, cause: InvalidBatch) -> io::Result<Stop> {
        if self.only_zeros_from(position)? {
            return Ok(Stop::Zeros);
        }
        if let InvalidBatch::Magic { found: magic @ (0 | 1) } = cause
            && self.is_old_message(position)?
        {
            return Ok(Stop::OldFormat(magic));
        }
        Ok(Stop::Bad(cause.into()))
    }

    /// A torn header is often zeros; only zeros to the end of the file are unused space and no loss.
    fn only_zeros_from(&mut self, position: u64) -> io::Result<bool> {
        let mut at = position;
        while at < self.file_bytes {
            let bytes = self.window.at(at, 1)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Whether a v0 or v1 message with a valid CRC-32 stands at `position` (offset 8, size 4, crc 4, rest).
    fn is_old_message(&mut self, position: u64) -> io::Result<bool> {
        const CRC_END: usize = 16;
        let bytes = self.window.at(position, Window::need_max())?;
        let Some(&[_, _, _, _, _, _, _, _, s0, s1, s2, s3, c0, c1, c2, c3]) = bytes.first_chunk::<CRC_END>() else {
            return Ok(false);
        };
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let covered = size.checked_add(12).and_then(|end| bytes.get(CRC_END..end));
        Ok(covered
            .is_some_and(|rest| rest.len() >= 10 && crc32fast::hash(rest) == u32::from_be_bytes([c0, c1, c2, c3])))
    }

    /// Goes over damage below the durable limit; `false` when the scan ends here, with `found.stop` set if need be.
    fn step_over(&mut self, stop: Stop, found: &mut Scan) -> io::Result<bool> {
        let (position, expected) = (found.kept_bytes, found.end);
        let complete = self.task.next_base.is_some_and(|next| expected >= next);
        let durable_end = self.task.next_base.map_or(self.task.durable_below, |next| next.min(self.task.durable_below));
        let Stop::Bad(cause) = stop else {
            // Zeros where durable records should be are a loss too, but their space is no evidence of anything.
            found.stop = Some(stop);
            return Ok(false);
        };
        if complete || expected >= durable_end {
            found.stop = Some(Stop::Bad(cause));
            return Ok(false);
        }
        let next = self.search_behind(position, expected, &cause)?;
        let (bytes_end, offsets_end) = match next {
            Some((at, base)) => (at, base.min(durable_end)),
            None => (self.file_bytes, durable_end),
        };
        found.holes.push(Hole {
            bytes: position..bytes_end,
            offsets: expected..offsets_end,
            cause: Some(cause.clone()),
        });
        found.kept_bytes = bytes_end;
        found.end = offsets_end;
        if next.is_some_and(|(_, base)| base > durable_end) {
            // Valid bytes, but unsynced and behind a hole: batch n + 1 is not believed when n is bad.
            found.stop = Some(Stop::Bad(cause));
            return Ok(false);
        }
        Ok(next.is_some())
    }

    /// Position and base offset of the next whole valid batch past `position`.
    pub(crate) fn search_behind(
        &mut self,
        position: u64,
        expected: Offset,
        cause: &CorruptionKind,
    ) -> io::Result<Option<(u64, Offset)>> {
        let work_max = self.file_bytes.saturating_mul(SEARCH_WORK_FACTOR);
        // When only the content is bad, the header still says where the next batch starts.
        if let CorruptionKind::Batch(InvalidBatch::Crc { .. }) = cause {
            let bytes = self.window.at(position, HEADER_BYTES)?;
            if let Ok(header) = BatchHeader::parse(bytes, BATCH_BYTES_MAX) {
                let next = position + u64::from(header.size);
                if let Ok(behind) = self.batch_at(next, header.next_offset())? {
                    return Ok(Some((next, behind.base_offset)));
                }
            }
        }
        let mut at = position + 1;
        while let Some(candidate) = self.next_magic(at)? {
            if let Some(base) = self.believable(candidate, expected, work_max)? {
                return Ok(Some((candidate, base)));
            }
            at = candidate + 1;
        }
        Ok(None)
    }

    /// First position at or past `at` whose magic byte is 2.
    fn next_magic(&mut self, mut at: u64) -> io::Result<Option<u64>> {
        const MAGIC_AT: u64 = 16;
        while self.window.remaining(at) >= HEADER_BYTES as u64 {
            let bytes = self.window.at(at + MAGIC_AT, 1)?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if let Some(skip) = bytes.iter().position(|byte| *byte == 2) {
                return Ok(Some(at + skip as u64));
            }
            at += bytes.len() as u64;
        }
        Ok(None)
    }

    fn believable(&mut self, position: u64, expected: Offset, work_max: u64) -> io::Result<Option<Offset>> {
        let bytes = self.window.at(position, HEADER_BYTES)?;
        let Ok(header) = BatchHeader::parse(bytes, BATCH_BYTES_MAX) else { return Ok(None) };
        let size = u64::from(header.size);
        if size > self.window.remaining(position) || header.base_offset < expected {
            return Ok(None);
        }
        self.work = self.work.saturating_add(size);
        if self.work > work_max {
            return Ok(None);
        }
        Ok(self.batch_at(position, expected)?.ok().map(|header| header.base_offset))
    }
}
