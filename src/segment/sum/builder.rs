//! Gathers what a [`Sum`] says, batch by batch, where the batches pass anyway: no second look at the log.

use std::ops::RangeInclusive;

use super::{Interval, Sidecars, Sum};
use crate::record::layout::{CRC_AT, LENGTH_OVERHEAD};
use crate::units::Offset;

/// Bytes at the front of a batch that its CRC leaves out: offset, length, leader epoch and magic (Kafka's
/// `DefaultRecordBatch`). The CRC itself is left out too, and goes into the digest.
pub const UNCOVERED_BYTES: usize = CRC_AT;
/// With less between them, the intervals of a segment of 2 GiB would not fit a small file.
const INTERVAL_BYTES_MIN: u32 = 4 << 10;
/// With more, a flipped bit would make too much unreadable.
const INTERVAL_BYTES_MAX: u32 = 1 << 20;
/// Headers are gathered before they are hashed: a CRC over 17 bytes costs as much as one over some hundred.
const GATHERED_BYTES: usize = 16 * UNCOVERED_BYTES;
/// Odd, so that multiplying by it loses nothing, with bits spread evenly (2^64 / golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The lengths of intervals that are written and read.
pub(super) fn interval_range() -> RangeInclusive<u32> {
    INTERVAL_BYTES_MIN..=INTERVAL_BYTES_MAX
}

/// A 64-bit digest of a sequence of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest(u64);

impl Digest {
    const EMPTY: Self = Self(MIX);

    /// Takes the next word. Bijective in the state and in the word.
    #[inline]
    fn take(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(MIX);
        // What multiplying spreads upwards comes back down, where the next word meets it.
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// CRC-32 over pieces of 17 bytes.
#[derive(Clone, Debug)]
struct HeaderCrc {
    hasher: crc32fast::Hasher,
    gathered: [u8; GATHERED_BYTES],
    filled: usize,
}

impl HeaderCrc {
    fn new() -> Self {
        Self { hasher: crc32fast::Hasher::new(), gathered: [0; GATHERED_BYTES], filled: 0 }
    }

    #[inline]
    fn take(&mut self, header: &[u8; UNCOVERED_BYTES]) {
        if let Some(place) = self.gathered.get_mut(self.filled..self.filled + UNCOVERED_BYTES) {
            place.copy_from_slice(header);
            self.filled += UNCOVERED_BYTES;
        }
        if self.filled == GATHERED_BYTES {
            self.hash();
        }
    }

    #[inline(never)]
    fn hash(&mut self) {
        self.hasher.update(self.gathered.get(..self.filled).unwrap_or_default());
        self.filled = 0;
    }

    /// The checksum of all pieces so far, after which it begins again.
    fn finish(&mut self) -> u32 {
        self.hash();
        std::mem::take(&mut self.hasher).finalize()
    }
}

/// Makes the [`Sum`] of a segment from its batches, fed in log order: by the writer, or by a walk over their headers.
/// Lives beside the index cursor. Hundreds of bytes, and 12 more for each interval.
///
/// It knows from each batch where the next one starts. One that starts elsewhere (a truncation, a hole, a batch that was
/// not fed) leaves a builder that makes no sum; a fresh one has to be fed from the front, which reads headers only.
///
/// See [`Sum`] for an example.
#[derive(Clone, Debug)]
pub struct SumBuilder {
    base: Offset,
    interval_bytes: u32,
    intervals: Vec<Interval>,
    /// Where the last interval starts.
    started: u64,
    /// Where the next batch starts.
    next: u64,
    batches: Digest,
    placement: Digest,
    headers: HeaderCrc,
    /// Whether the next batch starts an interval, wherever it lies.
    begins: bool,
    is_whole: bool,
}

impl SumBuilder {
    /// Of an empty segment. `interval_bytes` is `index.interval.bytes`; less than 4 KiB or more than 1 MiB counts as
    /// that, so that the file stays small, and the range that a flipped bit makes unreadable too.
    pub fn new(base: Offset, interval_bytes: u32) -> Self {
        Self {
            base,
            interval_bytes: interval_bytes.clamp(INTERVAL_BYTES_MIN, INTERVAL_BYTES_MAX),
            intervals: Vec::new(),
            started: 0,
            next: 0,
            batches: Digest::EMPTY,
            placement: Digest::EMPTY,
            headers: HeaderCrc::new(),
            begins: true,
            is_whole: true,
        }
    }

    /// Takes the next batch, which starts at byte `position` of the log: the front of its header as it lies there, and
    /// the CRC stored in it. Looks at nothing else, allocates 12 bytes once an interval, does no I/O.
    #[inline]
    pub fn observe(&mut self, header: &[u8; UNCOVERED_BYTES], stored_crc: u32, position: u64) {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, _, _, _, _, magic] = *header;
        let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if position != self.next {
            self.is_whole = false;
        }
        // As in the offset index: more than the interval lies between two starts, and no batch lies in two of them.
        if self.begins || position.saturating_sub(self.started) > u64::from(self.interval_bytes) {
            self.begin_interval(offset, position);
        }
        self.batches.take(u64::from(stored_crc));
        // One word of both: another offset, or another length or magic, always makes another one.
        self.placement.take(offset.wrapping_mul(MIX) ^ (u64::from(length) << 8 | u64::from(magic)));
        self.headers.take(header);
        self.next = position.saturating_add(u64::from(length) + LENGTH_OVERHEAD as u64);
    }

    #[inline(never)]
    fn begin_interval(&mut self, offset: u64, position: u64) {
        self.end_interval();
        let offset = i64::try_from(offset).ok().and_then(Offset::new);
        let first = offset.and_then(|offset| offset.relative_to(self.base));
        if first.is_none() || u32::try_from(position).is_err() {
            self.is_whole = false;
        }
        // It stays where it is whatever its first batch says, so that it can be compared with what a sum has there.
        let (at, first) = (u32::try_from(position).unwrap_or(u32::MAX), first.unwrap_or_default());
        self.intervals.push(Interval { position: at, first, crc: 0 });
        self.started = position;
        self.begins = false;
    }

    fn end_interval(&mut self) {
        let crc = self.headers.finish();
        if let Some(interval) = self.intervals.last_mut() {
            interval.crc = crc;
        }
    }

    /// Where the next batch has to start: bytes fed so far.
    pub fn next_position(&self) -> u64 {
        self.next
    }

    /// Bytes of memory that it takes, room for more intervals included.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.intervals.capacity().saturating_mul(size_of::<Interval>()))
    }

    /// Whether everything up to [`SumBuilder::next_position`] was fed, in order.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Goes on at `position` after bytes that cannot be fed. An interval starts there, so that those behind can be
    /// compared with those of a sum; the whole makes none.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.is_whole = false;
        self.begins = true;
        self.next = position;
    }

    /// How many intervals it holds.
    pub(super) fn held(&self) -> usize {
        self.intervals.len()
    }

    /// Whether the intervals that it holds may follow one another.
    pub(super) fn are_rising(&self) -> bool {
        self.intervals.is_sorted_by(|a, b| a.is_before(b, self.interval_bytes))
    }

    /// Gives away the intervals that have ended: all but the last.
    pub(super) fn take_ended(&mut self) -> impl Iterator<Item = Interval> {
        let ended = self.intervals.len().saturating_sub(1);
        self.intervals.drain(..ended)
    }

    /// The sum of a log of `log_bytes` bytes that ends before offset `end`, and of the files beside it, once all of it
    /// is sealed and written. `None` when what was fed is not that log: feed a fresh builder from its front.
    pub fn finish(self, log_bytes: u64, end: Offset, sidecars: Sidecars) -> Option<Sum> {
        let is_whole = self.is_whole && self.next == log_bytes;
        let sum = self.sum_so_far(log_bytes, end, sidecars);
        (is_whole && sum.is_possible()).then_some(sum)
    }

    /// What was fed, whole or not.
    pub(super) fn sum_so_far(mut self, log_bytes: u64, end: Offset, sidecars: Sidecars) -> Sum {
        self.end_interval();
        Sum {
            base: self.base,
            end,
            log_bytes,
            batches: self.batches.0,
            placement: self.placement.0,
            interval_bytes: self.interval_bytes,
            sidecars,
            intervals: self.intervals,
        }
    }
}
