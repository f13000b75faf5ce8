//! Going through a sealed log for its integrity: every checksum, and every header as [`SumBuilder`] sees it.
//!
//! Unlike recovery's scan, offsets decide nothing here about where the next batch is: a flipped bit in one would have
//! the good batches behind it taken for bad ones, and only the sum can say which of them is wrong.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::super::scan::{ScanTask, Scanner};
use super::super::window::Window;
use super::{Sidecars, Sum, SumBuilder, UNCOVERED_BYTES, Verdict};
use crate::error::{CorruptionKind, InvalidBatch};
use crate::fs::File;
use crate::record::{BatchHeader, HEADER_BYTES, layout};
use crate::units::{LeaderEpoch, Offset};

/// Positions in a segment are i32; nothing larger is believed.
const BATCH_BYTES_MAX: u32 = i32::MAX as u32;
/// More ranges than this join the last one: a report of garbage must not be as large as the garbage.
const RANGES_MAX: usize = 1024;

/// What a walk is told about the segment.
#[derive(Clone, Copy, Debug)]
pub struct WalkBounds {
    /// Base offset of the segment.
    pub base: Offset,
    /// Base offset of the next segment, past which no batch may reach; `None` if there is none, or it is not known.
    pub next_base: Option<Offset>,
    /// `index.interval.bytes`: how fine a new sum is. One that is there says for itself.
    pub interval_bytes: u32,
    /// Whether cleaning may have removed records. Else a log that has become shorter although the next segment still
    /// starts where it ended has lost records.
    pub may_have_gaps: bool,
}

/// Bytes of a log that are not what they were, and the offsets that cannot be trusted with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// The bytes; empty when they are missing.
    pub bytes: Range<u64>,
    /// The offsets that cannot be read. The end is the next readable offset, as far as that is known.
    pub offsets: Range<Offset>,
    /// What is wrong.
    pub kind: DamageKind,
}

/// What is wrong with damaged bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// A batch fails its checks.
    Batch(CorruptionKind),
    /// Every batch of an interval passes its own checks, but offset, length, epoch or magic of one is not what it was.
    Headers,
    /// Whole batches are missing at the end, although the next segment starts where they ended.
    Missing,
}

/// A batch that passed its own checks.
#[derive(Clone, Copy, Debug)]
struct Valid {
    header: BatchHeader,
    uncovered: [u8; UNCOVERED_BYTES],
}

/// Where a batch stands, to be judged together with the one behind it.
#[derive(Clone, Debug)]
struct Placed {
    bytes: Range<u64>,
    /// Smallest offset that it could have had.
    expected: Offset,
    header: BatchHeader,
}

/// A walk over a sealed log, one batch a step, so that a caller can keep to a byte rate. Reads each byte once, with
/// positional reads of up to 1 MiB, and only looks behind damage for the next valid batch beyond that.
///
/// Needs `&mut` for each step; runs on any thread, beside appends and reads of other segments.
///
/// ```
/// use alluvium::fs::{FileSystem, OpenMode, OsFileSystem, write_all_at};
/// use alluvium::record::BatchBuilder;
/// use alluvium::segment::sum::{LogVerdict, LogWalk, Sidecars, WalkBounds, verify};
/// use alluvium::{Offset, TimestampMs};
///
/// let dir = tempfile::tempdir()?;
/// let file = OsFileSystem.open(&dir.path().join("log"), OpenMode::CreateNew)?;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// write_all_at(&*file, batch.as_bytes(), 0)?;
///
/// let bounds = WalkBounds { base: Offset::ZERO, next_base: None, interval_bytes: 4096, may_have_gaps: false };
/// let mut walk = LogWalk::new(file, bounds, None)?;
/// while let Some(bytes) = walk.step()? {
///     assert_eq!(bytes, batch.as_bytes().len() as u64, "a place to wait, when this is more than the rate allows");
/// }
/// let walked = walk.finish();
/// let verdict = verify(None, &walked, &Sidecars::default());
/// assert_eq!(verdict.log, LogVerdict::Unprotected);
/// let sum = walked.rebuilt(&verdict, Sidecars::default()).expect("every batch is valid");
/// assert!(verify(Some(&sum), &walked, &Sidecars::default()).is_intact());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LogWalk {
    file: Arc<dyn File>,
    window: Window,
    file_bytes: u64,
    bounds: WalkBounds,
    sum: Option<Arc<Sum>>,
    builder: SumBuilder,
    /// Made by the first damage. Kept, so that looking for batches behind damage has one bound for the whole walk.
    searcher: Option<Scanner>,
    position: u64,
    expected: Offset,
    previous: Option<Placed>,
    newest_epoch: Option<LeaderEpoch>,
    epochs_rise: bool,
    broken: Vec<LogDamage>,
    misplaced: Vec<LogDamage>,
}

impl LogWalk {
    /// A walk over all of `file`. The `sum`, if the segment has one, says where batches began and helps to find the way
    /// behind damage; what it means is for [`verify`](super::verify) to say.
    pub fn new(file: Arc<dyn File>, bounds: WalkBounds, sum: Option<Arc<Sum>>) -> io::Result<Self> {
        let file_bytes = file.size()?;
        let interval_bytes = sum.as_ref().map_or(bounds.interval_bytes, |sum| sum.interval_bytes);
        Ok(Self {
            window: Window::new(Arc::clone(&file), file_bytes),
            file,
            file_bytes,
            bounds,
            sum,
            builder: SumBuilder::new(bounds.base, interval_bytes),
            searcher: None,
            position: 0,
            expected: bounds.base,
            previous: None,
            newest_epoch: None,
            epochs_rise: true,
            broken: Vec::new(),
            misplaced: Vec::new(),
        })
    }

    /// Judges the next batch, or steps over damage up to the next valid one; returns how many bytes that took, `None`
    /// at the end of the log.
    pub fn step(&mut self) -> io::Result<Option<u64>> {
        self.step_with(|_, _| ())
    }

    /// As [`LogWalk::step`]; shows `visit` where a valid batch starts, and its header.
    pub(crate) fn step_with(&mut self, visit: impl FnOnce(u64, &BatchHeader)) -> io::Result<Option<u64>> {
        let from = self.position;
        if from >= self.file_bytes {
            return Ok(None);
        }
        match self.valid_at(from)? {
            Ok(valid) => {
                visit(from, &valid.header);
                self.builder.observe(&valid.uncovered, valid.header.crc, from);
                self.position = from + u64::from(valid.header.size);
                self.place(from..self.position, &valid.header);
            }
            Err(cause) => self.step_over(cause)?,
        }
        Ok(Some(self.position - from))
    }

    /// What was found, once [`LogWalk::step`] has come to the end.
    pub fn finish(self) -> Walked {
        assert!(self.position >= self.file_bytes, "a walk is judged at its end, not at byte {}", self.position);
        let is_whole = self.builder.is_whole() && self.broken.is_empty();
        Walked {
            found: self.builder.sum_so_far(self.file_bytes, self.expected, Sidecars::default()),
            is_whole,
            bounds: self.bounds,
            epochs_rise: self.epochs_rise,
            broken: self.broken,
            misplaced: self.misplaced,
        }
    }

    /// The batch at `position`, if it passes its own checks.
    fn valid_at(&mut self, position: u64) -> io::Result<Result<Valid, CorruptionKind>> {
        let remaining = self.window.remaining(position);
        let bytes = self.window.at(position, HEADER_BYTES)?;
        let header = match BatchHeader::parse(bytes, BATCH_BYTES_MAX) {
            Ok(header) => header,
            Err(cause) => return Ok(Err(cause.into())),
        };
        // Parsing made sure that the whole header is there.
        let uncovered = bytes.first_chunk().copied().unwrap_or([0; UNCOVERED_BYTES]);
        if u64::from(header.size) > remaining {
            let short = InvalidBatch::Short { need: u64::from(header.size), have: remaining };
            return Ok(Err(short.into()));
        }
        let computed = self.window.batch_crc(position, header.size)?;
        if computed == header.crc {
            Ok(Ok(Valid { header, uncovered }))
        } else {
            Ok(Err(InvalidBatch::Crc { stored: header.crc, computed }.into()))
        }
    }

    /// Holds a valid batch's offset and epoch against those before it.
    fn place(&mut self, bytes: Range<u64>, header: &BatchHeader) {
        if header.leader_epoch < self.newest_epoch {
            self.epochs_rise = false;
        }
        self.newest_epoch = self.newest_epoch.max(header.leader_epoch);
        let expected = self.expected;
        let fits = header.last_offset().relative_to(self.bounds.base).is_some()
            && self.bounds.next_base.is_none_or(|next| header.last_offset() < next);
        if fits && header.base_offset >= expected {
            self.expected = header.next_offset();
            self.previous = Some(Placed { bytes, expected, header: *header });
            return;
        }
        // Of two that contradict one another, the one that leapt ahead is wrong if the other fits where it leapt from.
        if fits
            && let Some(leapt) = self.previous.take()
            && leapt.header.base_offset > leapt.expected
            && header.base_offset >= leapt.expected
        {
            self.misplace(leapt.bytes, leapt.expected..header.base_offset, expected, &leapt.header);
            self.expected = header.next_offset();
            return;
        }
        // It is likely to have had the offsets that are due.
        let end = expected.checked_add(header.last_offset_delta).and_then(Offset::next).unwrap_or(Offset::MAX);
        self.misplace(bytes, expected..end, expected, header);
        self.expected = end;
        self.previous = None;
    }

    fn misplace(&mut self, bytes: Range<u64>, offsets: Range<Offset>, expected: Offset, header: &BatchHeader) {
        let kind = DamageKind::Batch(CorruptionKind::OffsetOrder { expected, found: header.base_offset.value() });
        note(&mut self.misplaced, LogDamage { bytes, offsets, kind });
    }

    /// Goes from the damage at the position to the next valid batch, or to the end.
    fn step_over(&mut self, cause: CorruptionKind) -> io::Result<()> {
        let position = self.position;
        let found = match self.behind_its_length(position)? {
            Some(found) => found,
            None => self.behind_damage(position, &cause)?,
        };
        let end = found.base.unwrap_or_else(|| self.end_of_offsets(position));
        let mut offsets = self.expected..end.max(self.expected);
        // The sum knows better than neighbours which may have been misplaced, unless it is about another log.
        let bytes = position..found.position;
        if let Some(sum) = self.sum.as_ref().filter(|sum| sum.log_bytes == self.file_bytes)
            && let Some(around) = sum.offsets_around(&bytes)
        {
            offsets = offsets.start.clamp(around.start, around.end)..offsets.end.clamp(around.start, around.end);
        }
        self.expected = offsets.end;
        self.previous = None;
        self.position = found.position;
        note(&mut self.broken, LogDamage { bytes, offsets, kind: DamageKind::Batch(cause) });
        Ok(())
    }

    /// Where the damaged batch ends if its length is right: a valid batch stands there, or the log ends. Then its header
    /// counts, so that what the sum says of the interval can be compared.
    fn behind_its_length(&mut self, position: u64) -> io::Result<Option<Found>> {
        let bytes = self.window.at(position, HEADER_BYTES)?;
        let Some(front) = bytes.first_chunk::<{ layout::ATTRIBUTES_AT }>().copied() else { return Ok(None) };
        let [_, _, _, _, _, _, _, _, l0, l1, l2, l3, .., c0, c1, c2, c3] = front;
        let size = u64::from(u32::from_be_bytes([l0, l1, l2, l3])) + layout::LENGTH_OVERHEAD as u64;
        if size < HEADER_BYTES as u64 || size > self.window.remaining(position) {
            return Ok(None);
        }
        let next = position + size;
        let base = match self.valid_at(next)? {
            Ok(valid) => Some(valid.header.base_offset),
            Err(_) if next == self.file_bytes => None,
            Err(_) => return Ok(None),
        };
        let uncovered = front.first_chunk().copied().unwrap_or([0; UNCOVERED_BYTES]);
        self.builder.observe(&uncovered, u32::from_be_bytes([c0, c1, c2, c3]), position);
        Ok(Some(Found { position: next, base }))
    }

    /// The next valid batch past `position`: where the sum says that one was, or else wherever one is found.
    fn behind_damage(&mut self, position: u64, cause: &CorruptionKind) -> io::Result<Found> {
        let found = match self.next_known_start(position)? {
            Some(found) => found,
            None => self.search(position, cause)?,
        };
        self.builder.skip_to(found.position);
        Ok(found)
    }

    fn next_known_start(&mut self, position: u64) -> io::Result<Option<Found>> {
        let Some(sum) = self.sum.clone() else { return Ok(None) };
        let after = sum.intervals.partition_point(|interval| u64::from(interval.position) <= position);
        for interval in sum.intervals.iter().skip(after) {
            let (at, first) = (u64::from(interval.position), sum.absolute(interval.first));
            // Its offset is looked at first: in a log that was written anew, nothing is hashed in vain.
            let bytes = self.window.at(at, HEADER_BYTES)?;
            let is_likely = BatchHeader::parse(bytes, BATCH_BYTES_MAX).is_ok_and(|header| header.base_offset == first);
            if is_likely && self.valid_at(at)?.is_ok() {
                return Ok(Some(Found { position: at, base: Some(first) }));
            }
        }
        Ok(None)
    }

    fn search(&mut self, position: u64, cause: &CorruptionKind) -> io::Result<Found> {
        let WalkBounds { base, next_base, interval_bytes, .. } = self.bounds;
        let (file, file_bytes) = (&self.file, self.file_bytes);
        let searcher = self.searcher.get_or_insert_with(|| {
            let task = ScanTask { base, next_base, durable_below: Offset::MAX, interval_bytes, may_have_gaps: true };
            Scanner::new(Arc::clone(file), file_bytes, task)
        });
        let found = searcher.search_behind(position, self.expected, cause)?;
        Ok(found
            .map_or(Found { position: file_bytes, base: None }, |(at, base)| Found { position: at, base: Some(base) }))
    }

    /// Where the offsets end if everything from `position` on is damaged.
    fn end_of_offsets(&mut self, position: u64) -> Offset {
        let recorded = self.sum.as_ref().filter(|sum| sum.log_bytes == self.file_bytes).map(|sum| sum.end());
        if let Some(end) = recorded.or(self.bounds.next_base) {
            return end;
        }
        let claimed = self.window.at(position, HEADER_BYTES).ok();
        let claimed = claimed.and_then(|bytes| BatchHeader::parse(bytes, BATCH_BYTES_MAX).ok());
        // One at least: a batch stood there.
        let least = self.expected.next().unwrap_or(Offset::MAX);
        claimed.map_or(least, |header| header.next_offset().max(least))
    }
}

/// Where a walk goes on: at a valid batch with a base offset, or at the end.
#[derive(Clone, Copy, Debug)]
struct Found {
    position: u64,
    base: Option<Offset>,
}

/// Adds a range, which lies past all others, or makes the last one reach over it.
pub(super) fn note(list: &mut Vec<LogDamage>, damage: LogDamage) {
    if list.len() < RANGES_MAX {
        list.push(damage);
    } else if let Some(last) = list.last_mut() {
        last.bytes.end = damage.bytes.end;
        last.offsets.end = last.offsets.end.max(damage.offsets.end);
    }
}

/// What a walk found in a log; what it means depends on the sum, see [`verify`](super::verify). Plain data.
#[derive(Clone, Debug)]
pub struct Walked {
    /// As the builder saw it; without any say when not whole.
    pub(super) found: Sum,
    pub(super) is_whole: bool,
    pub(super) bounds: WalkBounds,
    pub(super) epochs_rise: bool,
    /// Batches that fail their own checks.
    pub(super) broken: Vec<LogDamage>,
    /// Valid batches whose offsets contradict their neighbours'.
    pub(super) misplaced: Vec<LogDamage>,
}

impl Walked {
    /// Length of the log in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.found.log_bytes
    }

    /// Offset after the last one found.
    pub fn end(&self) -> Offset {
        self.found.end
    }

    /// What lies between the end that was found and the next segment, where cleaning leaves no gaps.
    pub(crate) fn missing_end(&self) -> Option<LogDamage> {
        let (end, at) = (self.found.end, self.found.log_bytes);
        let next = self.bounds.next_base.filter(|next| *next > end && !self.bounds.may_have_gaps)?;
        Some(LogDamage { bytes: at..at, offsets: end..next, kind: DamageKind::Missing })
    }

    /// The sum to write for this log now: where it had none, or a stale one, or where the files beside it were built
    /// again. `None` when anything in the log is damaged: a new sum would vouch for it.
    pub fn rebuilt(&self, verdict: &Verdict, sidecars: Sidecars) -> Option<Sum> {
        let is_sound = self.is_whole && self.misplaced.is_empty() && verdict.damage().is_empty();
        is_sound.then(|| self.found.clone().with_sidecars(sidecars)).filter(Sum::is_possible)
    }
}
