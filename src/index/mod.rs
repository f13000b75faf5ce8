//! Sparse indexes over a segment, aborted transactions, leader epochs, and small files, checked or in Kafka's text form.
//! All of them are caches: never evidence, always checked against the log or rebuilt from it.
//!
//! [`IndexCursor`] decides which batches get an entry. Appending and recovery feed it the same batches, so the index
//! written live and the one rebuilt are equal byte for byte (format: Kafka's `LogSegment.recover`).

mod epoch;
mod offset;
pub mod producer;
mod small_file;
mod text;
mod time;
mod txn;

pub use epoch::{EpochEnd, EpochStart, LeaderEpochs};
pub use offset::{OffsetEntry, OffsetIndex};
pub(crate) use producer::{Authority, KnownProducer, ProducerLimits, ProducerTable, Verdict};
pub use producer::{ProducerState, SnapshotFault, VerificationGuard};
pub(crate) use small_file::{
    HEADER_BYTES as SMALL_FILE_HEADER_BYTES, SmallFile, SmallFileError, read_small_file, replace_file,
    replace_small_file,
};
pub use text::{TextFault, decode_offsets, encode_offsets};
pub use time::{TimeEntry, TimeIndex};
pub use txn::{AbortedTxn, AbortedTxns};

use crate::record::BatchHeader;
use crate::units::{Offset, TimestampMs};

/// Why an index file cannot be used. The answer is always the same: rebuild it from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// There is no file.
    #[error("missing")]
    Missing,
    /// The length is no multiple of an entry.
    #[error("length {0} is no whole number of entries")]
    Length(u64),
    /// Entries do not rise.
    #[error("entry {0} does not rise above the one before it")]
    Order(usize),
    /// An entry has a negative offset or a position outside the log file.
    #[error("entry {0} points outside the segment")]
    Range(usize),
    /// An entry has a version that this build does not read.
    #[error("entry {entry} has version {found}, which is unknown to this build")]
    Version {
        /// Which entry, from 0.
        entry: usize,
        /// Its version.
        found: i16,
    },
    /// An entry contradicts itself, or has a negative number.
    #[error("the {field} of entry {entry} is impossible")]
    Field {
        /// Which entry, from 0.
        entry: usize,
        /// Which of its fields.
        field: &'static str,
    },
    /// The entries are not those that the log gives.
    #[error("entries differ from those that the log gives")]
    Differs,
}

/// The entries of a segment's two indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Offset to position.
    pub offsets: OffsetIndex,
    /// Timestamp to offset, without the final entry that closing adds.
    pub times: TimeIndex,
}

impl SegmentIndex {
    /// CRC-32 over the bytes of both files and of the transaction index. They have none of their own.
    pub(crate) fn checksum(&self, aborted: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.offsets.encode());
        hasher.update(&self.times.encode());
        hasher.update(aborted);
        hasher.finalize()
    }

    /// Bytes of memory that it takes, room for more entries included.
    pub(crate) fn memory_bytes(&self) -> usize {
        let entries = self.offsets.memory_bytes().saturating_add(self.times.memory_bytes());
        size_of::<Self>().saturating_add(entries)
    }
}

/// Decides, batch by batch, what the indexes of a segment hold. Fed in log order by append and by recovery alike.
#[derive(Clone, Debug)]
pub struct IndexCursor {
    base: Offset,
    interval_bytes: u64,
    last_indexed: u64,
    largest_timestamp: Option<(TimestampMs, Offset)>,
}

impl IndexCursor {
    /// The cursor of an empty segment.
    pub fn new(base: Offset, interval_bytes: u32) -> Self {
        Self { base, interval_bytes: u64::from(interval_bytes), last_indexed: 0, largest_timestamp: None }
    }

    /// The cursor as it stood after the batches that gave `index`, so that appending goes on as if never closed.
    pub fn resume(
        base: Offset,
        interval_bytes: u32,
        index: &SegmentIndex,
        largest: Option<(TimestampMs, Offset)>,
    ) -> Self {
        let last_indexed = index.offsets.last().map_or(0, |entry| u64::from(entry.position));
        Self { base, interval_bytes: u64::from(interval_bytes), last_indexed, largest_timestamp: largest }
    }

    /// Takes the next batch, which starts at `position`, and writes the entries that it brings about.
    /// A batch that lies too far from the base to be indexed gets no entry; the log rolls before that happens.
    pub fn observe(&mut self, header: &BatchHeader, position: u64, index: &mut SegmentIndex) {
        self.note_timestamp(header);
        if self.is_due(position) {
            self.write_entry(header, position, index);
        }
    }

    /// Whether a batch at `position` gets an entry: more than the interval lies between it and the last one that did.
    pub fn is_due(&self, position: u64) -> bool {
        position - self.last_indexed > self.interval_bytes
    }

    /// Keeps the largest timestamp and the last offset of the first batch that carried it.
    pub fn note_timestamp(&mut self, header: &BatchHeader) {
        let timestamp = header.max_timestamp;
        // -1 and less mean "no timestamp" and are never indexed.
        if timestamp.value() >= 0 && self.largest_timestamp.is_none_or(|(largest, _)| timestamp > largest) {
            self.largest_timestamp = Some((timestamp, header.last_offset()));
        }
    }

    /// Writes the entries for a batch that [`IndexCursor::is_due`].
    pub fn write_entry(&mut self, header: &BatchHeader, position: u64, index: &mut SegmentIndex) {
        let (Some(last), Ok(at)) = (header.last_offset().relative_to(self.base), u32::try_from(position)) else {
            return;
        };
        index.offsets.push(OffsetEntry { last, position: at });
        self.push_largest(&mut index.times);
        self.last_indexed = position;
    }

    /// Adds the entry that closes a time index: the largest timestamp of the segment, if no entry has it yet.
    pub fn push_largest(&self, times: &mut TimeIndex) {
        if let Some((timestamp, offset)) = self.largest_timestamp
            && let Some(last) = offset.relative_to(self.base)
        {
            times.maybe_push(TimeEntry { timestamp, last });
        }
    }

    /// Largest timestamp so far, with the last offset of the first batch that carried it.
    pub fn largest_timestamp(&self) -> Option<(TimestampMs, Offset)> {
        self.largest_timestamp
    }
}

/// Greatest index `i` with `key(i) <= target`, when there is one. Entries rise by `key`.
fn last_at_most<T, K: PartialOrd>(entries: &[T], target: &K, key: impl Fn(&T) -> K) -> Option<usize> {
    entries.partition_point(|entry| key(entry) <= *target).checked_sub(1)
}
