//! Integrity of a sealed segment at rest: its `.sum` file, which is ours; Kafka ignores it.
//!
//! The CRC-32C of a batch leaves out bytes 0 to 17 of its header (offset, length, epoch, magic), so that a leader can
//! stamp them. At rest nobody stamps anything, and a bit that flips there moves records to other offsets or to another
//! leadership with every checksum right. The indexes have no checksum at all. This file covers both, and says whether
//! it is still about these bytes:
//!
//! ```text
//! at  len field               meaning
//!  0   8  base offset         of the segment: a file under another segment's name is refused
//!  8   8  end offset          after the last one
//! 16   8  log bytes           length of the .log
//! 24   8  batches             digest of the stored CRCs, in order
//! 32   8  placement           digest of a word a batch, in order: offset * 0x9e3779b97f4a7c15 ^ length << 8 ^ magic
//! 40   4  interval bytes      more than this lies between the starts of two intervals
//! 44  52  sidecars            offset index, time index, aborted transactions, producer snapshot; for each of them
//!                             present u8 (0 or 1), length u64, CRC-32 u32; zeros where there is no such file
//! 96   4  count               of the intervals
//! 100 12  for each interval   position of its first batch u32, first offset minus base offset u32, CRC-32 u32 over bytes
//!                             0 to 17 of its batches, one after the other
//! ```
//! A digest starts with that number as its state s, and a word w makes it t ^ t >> 32, where t = (s ^ w) * that number.
//! All big-endian, behind the header of a small checked file (magic, kind, version, length, CRC-32).
//!
//! # Why two digests
//! A CRC over the file would need its bytes again. The stored CRCs stand for what they cover, so a digest over them costs
//! a multiplication a batch and tells whether these are the batches that were sealed. It has 64 bits: with 32, one in
//! four billion foreign rewrites of equal length would pass for ours, and be called damage. Each step is a bijection of
//! the state and of the word it takes in: sequences that differ in one word never have the same digest, and others with
//! 1 in 2^64. It is no defence against forgers, who can write this file as well.
//!
//! The second digest covers what places a batch. Where both are equal and a checksum of headers differs, nothing but
//! leader epochs can have changed, and that happens without damage: a Kafka broker may truncate a follower and fetch the
//! same producer's batches again, from a leader that took them in a later epoch.
//!
//! # What becomes of a flipped bit
//! | where | what [`verify`] says |
//! |---|---|
//! | under a batch's CRC, or in the CRC | [`DamageKind::Batch`], that batch |
//! | in the bytes that the CRC leaves out | [`DamageKind::Headers`], the interval; `Batch` if the walk trips over it |
//! | in an index, the aborted transactions, the snapshot | [`SidecarFault`]: build it again |
//! | in this file | [`Sum::decode`] refuses it: [`LogVerdict::Unprotected`], make it again |
//!
//! It is no evidence for recovery, which judges the log by the log.

mod builder;
mod gradual;
mod verdict;
mod walk;

#[cfg(test)]
mod tests;

use std::ops::Range;

pub use builder::{SumBuilder, UNCOVERED_BYTES};
pub(crate) use gradual::{GradualSum, SumEnd};
pub use verdict::{LogVerdict, SidecarFault, SidecarFaultKind, Staleness, Verdict, verify};
pub use walk::{DamageKind, LogDamage, LogWalk, WalkBounds, Walked};

use super::FileKind;
use crate::error::SmallFileFault;
use crate::index::SmallFile;
use crate::units::{Offset, RelativeOffset};

const FILE: SmallFile = SmallFile { kind: 16, version: 1, in_place: false };
/// Payload before the intervals.
const FIXED_BYTES: usize = 100;
/// Size of an interval's entry.
const INTERVAL_BYTES: usize = 12;
const _: () = assert!(FIXED_BYTES == 5 * size_of::<u64>() + 2 * size_of::<u32>() + 4 * (1 + 8 + 4));

/// Length and checksum of one of a segment's other files.
///
/// ```
/// use alluvium::segment::sum::SidecarStamp;
/// assert_eq!(SidecarStamp::of(b"123456789"), SidecarStamp { bytes: 9, crc: 0xcbf4_3926 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarStamp {
    /// Length in bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE) over all of it.
    pub crc: u32,
}

impl SidecarStamp {
    /// That of a file with this content.
    pub fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, crc: crc32fast::hash(content) }
    }
}

/// The files that lie beside a segment's log, as they are on disk; `None` where there is no such file.
///
/// ```
/// use alluvium::segment::sum::{SidecarStamp, Sidecars};
/// let sidecars = Sidecars { index: Some(SidecarStamp::of(&[])), ..Sidecars::default() };
/// assert_ne!(sidecars, Sidecars::default(), "an empty file is another thing than none");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// The offset index.
    pub index: Option<SidecarStamp>,
    /// The time index.
    pub time_index: Option<SidecarStamp>,
    /// The aborted transactions. Most segments have none.
    pub txn_index: Option<SidecarStamp>,
    /// The producer snapshot at the base offset.
    pub snapshot: Option<SidecarStamp>,
}

impl Sidecars {
    /// Each with its kind, in the order of the format.
    fn each(&self) -> [(FileKind, Option<SidecarStamp>); 4] {
        [
            (FileKind::Index, self.index),
            (FileKind::TimeIndex, self.time_index),
            (FileKind::TxnIndex, self.txn_index),
            (FileKind::Snapshot, self.snapshot),
        ]
    }
}

/// A run of batches whose header bytes have a checksum of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    position: u32,
    first: RelativeOffset,
    crc: u32,
}

impl Interval {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.first.value().to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
    }

    /// Whether `next` may follow, with more than `interval_bytes` between the starts.
    fn is_before(&self, next: &Self, interval_bytes: u32) -> bool {
        let distance = next.position.checked_sub(self.position);
        distance.is_some_and(|distance| distance > interval_bytes) && self.first < next.first
    }
}

/// What is known of a sealed segment's bytes: the content of its integrity file. Made by [`SumBuilder`] or
/// [`Walked::rebuilt`], compared by [`verify`].
///
/// 12 bytes of memory an interval: 3 MiB for a segment of 1 GiB and intervals of 4 KiB. Load it for as long as it is
/// compared.
///
/// ```
/// use alluvium::segment::sum::{Sidecars, Sum, SumBuilder};
/// use alluvium::record::{BatchBuilder, layout};
/// use alluvium::{Offset, TimestampMs};
///
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let mut builder = SumBuilder::new(Offset::ZERO, 4096);
/// builder.observe(batch.as_bytes().first_chunk().unwrap(), batch.header().crc, 0);
/// let bytes = batch.as_bytes().len() as u64;
/// let sum = builder.finish(bytes, Offset::new(1).unwrap(), Sidecars::default()).expect("fed in order");
///
/// let file = sum.encode();
/// assert_eq!(Sum::decode(&file, Offset::ZERO), Ok(sum));
/// assert!(Sum::decode(&file, Offset::new(1).unwrap()).is_err(), "it is another segment's");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    base: Offset,
    end: Offset,
    log_bytes: u64,
    batches: u64,
    placement: u64,
    interval_bytes: u32,
    sidecars: Sidecars,
    /// By rising position; the first one starts the log.
    intervals: Vec<Interval>,
}

impl Sum {
    /// The content of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(FIXED_BYTES + self.intervals.len() * INTERVAL_BYTES);
        self.put_fixed(u32::try_from(self.intervals.len()).unwrap_or(u32::MAX), &mut payload);
        self.intervals.iter().for_each(|interval| interval.put(&mut payload));
        FILE.encode(&payload)
    }

    /// What stands before the intervals, of which there are `count`.
    fn put_fixed(&self, count: u32, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&self.base.value().to_be_bytes());
        payload.extend_from_slice(&self.end.value().to_be_bytes());
        for field in [self.log_bytes, self.batches, self.placement] {
            payload.extend_from_slice(&field.to_be_bytes());
        }
        payload.extend_from_slice(&self.interval_bytes.to_be_bytes());
        for (_, stamp) in self.sidecars.each() {
            payload.push(u8::from(stamp.is_some()));
            let SidecarStamp { bytes, crc } = stamp.unwrap_or_default();
            payload.extend_from_slice(&bytes.to_be_bytes());
            payload.extend_from_slice(&crc.to_be_bytes());
        }
        payload.extend_from_slice(&count.to_be_bytes());
    }

    /// Reads the content of the file that bears the name of the segment with base offset `base`. Takes any bytes, and
    /// memory in proportion to them.
    ///
    /// # Errors
    /// What is wrong with the file. The answer to all of it but a newer version is to make it again from a walk that
    /// finds every batch valid: till then the segment is unprotected, not damaged.
    pub fn decode(bytes: &[u8], base: Offset) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(FILE.decode(bytes)?);
        let found_base = fields.offset()?;
        let end = fields.offset()?;
        let log_bytes = fields.u64()?;
        let (batches, placement) = (fields.u64()?, fields.u64()?);
        let interval_bytes = fields.u32()?;
        let sidecars = Sidecars {
            index: fields.stamp()?,
            time_index: fields.stamp()?,
            txn_index: fields.stamp()?,
            snapshot: fields.stamp()?,
        };
        let count = fields.u32()? as usize;
        let intervals = fields.intervals(count)?;
        let sum = Self { base, end, log_bytes, batches, placement, interval_bytes, sidecars, intervals };
        if found_base == base && sum.is_possible() { Ok(sum) } else { Err(SmallFileFault::Field) }
    }

    /// What every builder's outcome holds to.
    fn is_possible(&self) -> bool {
        self.intervals.first().is_none_or(|first| first.position == 0) && self.is_possible_end()
    }

    /// As [`Sum::is_possible`], where the intervals are the last ones of a log.
    fn is_possible_end(&self) -> bool {
        let ends_fit = match self.intervals.last() {
            Some(last) => {
                u64::from(last.position) < self.log_bytes
                    && last.first.absolute(self.base).is_some_and(|offset| offset < self.end)
            }
            None => self.log_bytes == 0 && self.end >= self.base,
        };
        let rise = self.intervals.is_sorted_by(|a, b| a.is_before(b, self.interval_bytes));
        rise && ends_fit && builder::interval_range().contains(&self.interval_bytes)
    }

    /// Base offset of the segment.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Offset after the last one of the segment.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Length of the log in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The other files of the segment, as they were.
    pub fn sidecars(&self) -> &Sidecars {
        &self.sidecars
    }

    /// The same log beside other files: for after they were built again.
    #[must_use]
    pub fn with_sidecars(self, sidecars: Sidecars) -> Self {
        Self { sidecars, ..self }
    }

    /// Bytes and offsets of the intervals, in order, each with its checksum.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let ends = self.intervals.iter().skip(1).map(|next| (u64::from(next.position), self.absolute(next.first)));
        self.intervals.iter().zip(ends.chain([(self.log_bytes, self.end)])).map(|(interval, (bytes_end, end))| Span {
            bytes: u64::from(interval.position)..bytes_end,
            offsets: self.absolute(interval.first)..end,
            crc: interval.crc,
        })
    }

    /// The offsets of the intervals that have any of `bytes`.
    fn offsets_around(&self, bytes: &Range<u64>) -> Option<Range<Offset>> {
        // A sum may have half a million intervals, and a walk may ask for each of a thousand breaks.
        let after = self.intervals.partition_point(|interval| u64::from(interval.position) < bytes.end);
        let from = self.intervals.partition_point(|interval| u64::from(interval.position) <= bytes.start);
        let first = self.intervals.get(from.checked_sub(1)?)?;
        let end = self.intervals.get(after).map_or(self.end, |next| self.absolute(next.first));
        Some(self.absolute(first.first)..end)
    }

    fn absolute(&self, relative: RelativeOffset) -> Offset {
        // Decoding and building refused what overflows.
        relative.absolute(self.base).unwrap_or(Offset::MAX)
    }
}

/// An interval and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    bytes: Range<u64>,
    offsets: Range<Offset>,
    crc: u32,
}

/// Reads fields from a payload, front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SmallFileFault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, SmallFileFault> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, SmallFileFault> {
        self.take().map(u64::from_be_bytes)
    }

    fn offset(&mut self) -> Result<Offset, SmallFileFault> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SmallFileFault::Field)
    }

    fn stamp(&mut self) -> Result<Option<SidecarStamp>, SmallFileFault> {
        let [present] = self.take()?;
        let stamp = SidecarStamp { bytes: self.u64()?, crc: self.u32()? };
        match present {
            1 => Ok(Some(stamp)),
            0 if stamp == SidecarStamp::default() => Ok(None),
            _ => Err(SmallFileFault::Field),
        }
    }

    /// All that is left, which must be `count` of them: the count allocates nothing that is not there.
    fn intervals(&self, count: usize) -> Result<Vec<Interval>, SmallFileFault> {
        let (chunks, rest) = self.0.as_chunks::<INTERVAL_BYTES>();
        if !rest.is_empty() || chunks.len() != count {
            return Err(SmallFileFault::Length);
        }
        let interval = |&[p0, p1, p2, p3, o0, o1, o2, o3, c0, c1, c2, c3]: &[u8; INTERVAL_BYTES]| {
            Ok(Interval {
                position: u32::from_be_bytes([p0, p1, p2, p3]),
                first: RelativeOffset::new(i32::from_be_bytes([o0, o1, o2, o3])).ok_or(SmallFileFault::Field)?,
                crc: u32::from_be_bytes([c0, c1, c2, c3]),
            })
        };
        chunks.iter().map(interval).collect()
    }
}
