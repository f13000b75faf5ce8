//! Which records of a batch are kept, and the batch that those make (Kafka's `MemoryRecords.filterTo`).
//!
//! A rebuilt batch stands for the same offsets and the same producer's sequences as its source: base offset, last offset
//! delta, producer fields, leader epoch and flags stay, and the records kept keep their offset deltas, so that offsets
//! have gaps. New are length, CRC, record count, base timestamp and, with time of creation, the largest timestamp:
//!
//! ```text
//! base timestamp   the delete horizon, where there is one; else the timestamp of the first record kept
//! timestamp delta  of every record kept, to the new base timestamp
//! max timestamp    the largest of the records kept; with time of append it stays
//! codec            as in the source, at its default level
//! ```
//!
//! Where the base timestamp stays, and so the deltas, runs of records kept are copied as they are. There is nothing
//! that allocates per record.

use std::ops::Range;

use super::batch::{BatchHeader, BatchView};
use super::compress::{self, Compression};
use super::layout::{
    ATTRIBUTES_AT, BASE_TIMESTAMP_AT, BATCH_LENGTH_AT, CODEC_MASK, COUNT_AT, DELETE_HORIZON_BIT, HEADER_BYTES,
    LENGTH_OVERHEAD, MAX_TIMESTAMP_AT, NO_TIMESTAMP,
};
use super::record::{HeaderKeys, checked_delta, create_time, split_record};
use super::stamp::{put, seal};
use super::varint::{put_i32, put_i64, size_of_i64, take_i64};
use super::walk::walk;
use crate::config::TimestampType;
use crate::error::{BuildError, InvalidBatch, InvalidRecord, RecompressError};
use crate::units::{Offset, TimestampMs};

/// Buffers that grew past this are not kept.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// A batch whose bytes are those that its CRC was taken over.
///
/// Rebuilding takes nothing else: a batch that is damaged and then rebuilt would have a valid CRC over wrong bytes, and
/// nobody could tell any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifiedBatch<'a>(BatchView<'a>);

impl<'a> VerifiedBatch<'a> {
    /// Computes the CRC of `batch` and compares.
    pub(crate) fn verify(batch: BatchView<'a>) -> Result<Self, InvalidBatch> {
        batch.verify_crc().map(|()| Self(batch))
    }

    /// What to keep instead of the batch, while it cannot be borrowed.
    pub(crate) fn checked(&self) -> Checked {
        Checked { at: self.0.bytes().as_ptr_range() }
    }

    /// The batch that was verified before, borrowed again, in the place where it was. `None` for another place.
    pub(crate) fn again(batch: BatchView<'a>, checked: &Checked) -> Option<Self> {
        (batch.bytes().as_ptr_range() == checked.at).then_some(Self(batch))
    }

    /// The decoded header.
    pub(crate) fn header(&self) -> &BatchHeader {
        self.0.header()
    }

    /// The batch.
    pub(crate) fn view(&self) -> &BatchView<'a> {
        &self.0
    }

    /// All of its bytes, header included.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.0.bytes()
    }
}

/// Where a batch lay when it was verified. Whoever keeps it does not change those bytes.
#[derive(Debug)]
pub(crate) struct Checked {
    at: Range<*const u8>,
}

/// What a record is to whoever decides about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Its offset.
    pub(crate) offset: Offset,
    /// Its key; `None` is null.
    pub(crate) key: Option<&'a [u8]>,
    /// Whether its value is null.
    pub(crate) is_tombstone: bool,
}

/// Reads the records of batches and rebuilds those that lose some; keeps its buffers from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Retainer {
    plain: Vec<u8>,
    runs: Vec<Range<usize>>,
    rebuilt: Vec<u8>,
    expanded_max: usize,
}

impl Retainer {
    /// Asks `keep` about every record of `batch` in order. After an error nothing is known of the batch: no record that
    /// was asked about before may be taken for read.
    pub(crate) fn choose<'s, E: From<InvalidBatch>>(
        &'s mut self,
        batch: &VerifiedBatch<'s>,
        limit: u32,
        mut keep: impl FnMut(Candidate<'_>) -> Result<bool, E>,
    ) -> Result<Chosen<'s>, E> {
        self.drop_large_buffers();
        let Self { plain, runs, rebuilt, expanded_max } = self;
        let (records, starts_at) = expanded(batch, limit, plain)?;
        if starts_at == 0 {
            *expanded_max = records.len().max(*expanded_max);
        }
        let header = *batch.header();
        let mut kept = Kept::default();
        runs.clear();
        walk_candidates::<E>(&header, records, starts_at, |candidate, at| {
            if keep(candidate)? {
                kept.add(create_time(&header, at.timestamp_delta));
                match runs.last_mut() {
                    Some(last) if last.end == at.bytes.start => last.end = at.bytes.end,
                    _ => runs.push(at.bytes),
                }
            }
            Ok(())
        })?;
        Ok(Chosen { source: batch.view().bytes(), header, records, runs, kept, rebuilt })
    }

    /// The most bytes that the records of a compressed batch were expanded to.
    pub(crate) fn expanded_max(&self) -> usize {
        self.expanded_max
    }

    /// Bytes of memory that it keeps from batch to batch, a few MiB at most.
    pub(crate) fn memory_bytes(&self) -> usize {
        let runs = self.runs.capacity().saturating_mul(size_of::<Range<usize>>());
        self.plain.capacity().saturating_add(self.rebuilt.capacity()).saturating_add(runs)
    }

    fn drop_large_buffers(&mut self) {
        for buffer in [&mut self.plain, &mut self.rebuilt] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        self.runs.clear();
        if self.runs.capacity() > KEPT_BYTES_MAX / size_of::<Range<usize>>() {
            self.runs = Vec::new();
        }
    }
}

/// The records of `batch`, and where they start as errors count: from the batch, or from what was expanded into `plain`.
fn expanded<'s>(
    batch: &VerifiedBatch<'s>,
    limit: u32,
    plain: &'s mut Vec<u8>,
) -> Result<(&'s [u8], usize), InvalidBatch> {
    let stored = batch.view().stored_records();
    let codec = batch.header().attributes.compression();
    if codec == Compression::None || stored.is_empty() {
        return Ok((stored, HEADER_BYTES));
    }
    compress::decompress(codec, stored, limit, plain)?;
    Ok((plain, 0))
}

/// Where a record lies among the records of its batch.
struct At {
    bytes: Range<usize>,
    timestamp_delta: i64,
}

#[inline]
fn walk_candidates<E: From<InvalidBatch>>(
    header: &BatchHeader,
    records: &[u8],
    starts_at: usize,
    mut visit: impl FnMut(Candidate<'_>, At) -> Result<(), E>,
) -> Result<(), E> {
    let (mut start, mut next_delta) = (0, 0);
    // Header keys were judged when the batch was appended; of a follower's any bytes were taken.
    walk(records, starts_at, header.count, HeaderKeys::AnyBytes, |place, scanned| {
        let delta = checked_delta(scanned.offset_delta, next_delta, header.last_offset_delta)
            .map_err(|fault| place.refuse(fault))?;
        next_delta = delta.value().saturating_add(1);
        let bytes = start..start + scanned.bytes;
        start = bytes.end;
        let candidate = Candidate {
            offset: header.base_offset.checked_add(delta).unwrap_or(Offset::MAX),
            key: scanned.key,
            is_tombstone: !scanned.has_value,
        };
        visit(candidate, At { bytes, timestamp_delta: scanned.timestamp_delta })
    })
}

/// Timestamps of the records kept.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    count: u32,
    first: TimestampMs,
    largest: TimestampMs,
}

impl Kept {
    #[inline]
    fn add(&mut self, timestamp: TimestampMs) {
        if self.count == 0 {
            self.first = timestamp;
            self.largest = timestamp;
        }
        self.largest = self.largest.max(timestamp);
        self.count = self.count.saturating_add(1);
    }
}

/// The records of a batch that are to be kept.
#[derive(Debug)]
pub(crate) struct Chosen<'s> {
    source: &'s [u8],
    header: BatchHeader,
    records: &'s [u8],
    runs: &'s [Range<usize>],
    kept: Kept,
    rebuilt: &'s mut Vec<u8>,
}

impl Chosen<'_> {
    /// How many.
    pub(crate) fn count(&self) -> u32 {
        self.kept.count
    }

    /// Appends the batch of the records kept to `out`. `horizon` is one to be set; a batch that has one keeps it.
    ///
    /// After an error `out` is as before. A batch can grow, where its producer compressed better than this build does.
    pub(crate) fn rebuild(self, horizon: Option<TimestampMs>, out: &mut Vec<u8>) -> Result<(), RecompressError> {
        let start = out.len();
        let built = self.append_to(horizon, out);
        if built.is_err() {
            out.truncate(start);
        }
        built
    }

    fn append_to(self, horizon: Option<TimestampMs>, out: &mut Vec<u8>) -> Result<(), RecompressError> {
        let start = out.len();
        let header = &self.header;
        let horizon = header.delete_horizon().or(horizon);
        let base = horizon.unwrap_or(match header.attributes.timestamp_type() {
            TimestampType::CreateTime => self.kept.first,
            TimestampType::LogAppendTime => header.max_timestamp,
        });
        let deltas = Deltas::between(header, base);
        let codec = header.attributes.compression();
        out.extend_from_slice(self.source.get(..HEADER_BYTES).unwrap_or_default());
        if codec == Compression::None {
            put_records(self.records, self.runs, deltas, out)?;
        } else {
            put_records(self.records, self.runs, deltas, self.rebuilt)?;
            compress::compress(codec, None, self.rebuilt, out)?;
        }
        let batch = out.get_mut(start..).unwrap_or_default();
        let largest = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => self.kept.largest,
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        let bit = if horizon.is_some() { DELETE_HORIZON_BIT } else { 0 };
        let fields = NewFields { attributes: header.attributes.bits() | bit, base, largest, count: self.kept.count };
        fields.write(batch)?;
        Ok(())
    }
}

/// The fields of a header that rebuilding changes.
struct NewFields {
    attributes: u16,
    base: TimestampMs,
    largest: TimestampMs,
    count: u32,
}

impl NewFields {
    /// Into the batch `batch`, which is whole but for these; computes its CRC.
    fn write(&self, batch: &mut [u8]) -> Result<(), BuildError> {
        let length = i32::try_from(batch.len().saturating_sub(LENGTH_OVERHEAD)).map_err(|_| BuildError::TooLarge)?;
        put(batch, BATCH_LENGTH_AT, length.to_be_bytes());
        put(batch, ATTRIBUTES_AT, self.attributes.to_be_bytes());
        put(batch, BASE_TIMESTAMP_AT, self.base.value().to_be_bytes());
        put(batch, MAX_TIMESTAMP_AT, self.largest.value().to_be_bytes());
        put(batch, COUNT_AT, self.count.to_be_bytes());
        seal(batch);
        Ok(())
    }
}

/// Appends the header of `batch` without any record: it keeps the offsets, the producer's last sequence and the largest
/// timestamp (Kafka's `writeEmptyHeader`).
pub(crate) fn put_emptied(batch: &VerifiedBatch<'_>, out: &mut Vec<u8>) {
    let header = batch.header();
    let mut bytes = [0; HEADER_BYTES];
    if let Some(source) = batch.view().bytes().first_chunk() {
        bytes = *source;
    }
    let fields = NewFields {
        attributes: header.attributes.bits() & !(CODEC_MASK | DELETE_HORIZON_BIT),
        base: TimestampMs::new(NO_TIMESTAMP),
        largest: header.max_timestamp,
        count: 0,
    };
    if fields.write(&mut bytes).is_ok() {
        out.extend_from_slice(&bytes);
    }
}

/// What becomes of the timestamp deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deltas {
    /// All stay.
    Same,
    /// Each is larger by this. Wraps, as reading does.
    Shifted(i64),
    /// All are this: with time of append all records have one timestamp.
    Equal(i64),
}

impl Deltas {
    fn between(header: &BatchHeader, base: TimestampMs) -> Self {
        match header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => Self::Equal(header.max_timestamp.value().wrapping_sub(base.value())),
            TimestampType::CreateTime => match header.base_timestamp.value().wrapping_sub(base.value()) {
                0 => Self::Same,
                shift => Self::Shifted(shift),
            },
        }
    }

    fn of(self, delta: i64) -> i64 {
        match self {
            Self::Same => delta,
            Self::Shifted(shift) => delta.wrapping_add(shift),
            Self::Equal(all) => all,
        }
    }
}

/// Appends the records in `runs` to `out`. They were read before, so that only what could not be wrong can be.
fn put_records(records: &[u8], runs: &[Range<usize>], deltas: Deltas, out: &mut Vec<u8>) -> Result<(), InvalidBatch> {
    let mut index = 0;
    for run in runs {
        let bytes = records.get(run.clone()).unwrap_or_default();
        if deltas == Deltas::Same {
            out.extend_from_slice(bytes);
            continue;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = (run.end - rest.len()) as u64;
            let refuse = |fault| InvalidBatch::Record { index, at, fault };
            rest = put_retimed(rest, deltas, out).map_err(refuse)?;
            index += 1;
        }
    }
    Ok(())
}

/// Appends the first record of `records` to `out`, with its new timestamp delta, and returns the records after it.
#[inline]
fn put_retimed<'a>(records: &'a [u8], deltas: Deltas, out: &mut Vec<u8>) -> Result<&'a [u8], InvalidRecord> {
    let (record, rest) = split_record(records)?;
    let Some((&attributes, fields)) = record.split_first() else {
        return Err(InvalidRecord::Short { field: "attributes" });
    };
    let (delta, behind) = take_i64(fields, "timestampDelta")?;
    let new_delta = deltas.of(delta);
    if new_delta == delta {
        out.extend_from_slice(records.get(..records.len() - rest.len()).unwrap_or_default());
        return Ok(rest);
    }
    let bytes = size_of::<u8>() + size_of_i64(new_delta) + behind.len();
    let length = i32::try_from(bytes).map_err(|_| InvalidRecord::VarintTooLong)?;
    put_i32(out, length);
    out.push(attributes);
    put_i64(out, new_delta);
    out.extend_from_slice(behind);
    Ok(rest)
}

#[cfg(test)]
pub(crate) mod naive_tests;
#[cfg(test)]
mod tests;
