//! Holds the index files of a segment against its log, while the log is walked once.
//!
//! What any writer's index must fulfil, Kafka's included: an offset entry names a position where a batch starts, and an
//! offset that is not before that batch; a time entry names a timestamp that no record up to its offset passes. Kafka
//! indexes whole appends, and how they were grouped is not in the log. Ours has one entry a batch, so more can be asked:
//! the entry's offset is the batch's last one, its timestamp the largest so far, and none is missing at the end.

use super::indexes::{IndexEntry, IndexReader};
use super::report::IndexProblem;
use crate::error::IoFailure;
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::segment::{FileKind, Home};
use crate::units::{Offset, RelativeOffset, TimestampMs};

/// Whatever the interval, a longer stretch than this without an entry is a lost entry: opening takes it for one too.
const TAIL_BYTES_MAX: u64 = 8 << 20;

/// What the check of one segment gives.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) offsets: Option<IndexProblem>,
    pub(super) times: Option<IndexProblem>,
}

/// Both indexes of one segment.
#[derive(Debug)]
pub(super) struct IndexCheck {
    offsets: Entries,
    times: Entries,
    base: Offset,
    writer: Writer,
    largest: Option<TimestampMs>,
    last_time: Option<TimestampMs>,
    /// Where the batch of the last offset entry starts.
    indexed: u64,
    /// Where the last batch starts.
    last_batch: u64,
}

/// Who wrote the index files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// Kafka, one entry an append at most.
    Kafka,
    /// This crate, one entry a batch at most, with `index.interval.bytes` if that is known. It may have changed between
    /// any two segments, so what the entries show of it proves nothing.
    Ours(Option<u32>),
}

/// The entries of one index, with the one that is due next.
#[derive(Debug)]
struct Entries {
    reader: Option<IndexReader>,
    due: Option<IndexEntry>,
    number: u64,
    problem: Option<IndexProblem>,
    failure: Option<IoFailure>,
}

impl Entries {
    fn open(home: &Home, base: Offset, kind: FileKind, log_bytes: u64) -> Result<Self, IoFailure> {
        let reader = IndexReader::open(home, base, kind)?;
        // No more entries than batches, and one that closes a time index.
        let entries_max = log_bytes / HEADER_BYTES as u64 + 1;
        let problem = match &reader {
            None => Some(IndexProblem::Missing),
            Some(reader) => {
                let (bytes, max) = (reader.file_bytes(), entries_max * reader.entry_bytes());
                match bytes % reader.entry_bytes() {
                    _ if bytes > max => Some(IndexProblem::TooLong { bytes, max }),
                    0 => None,
                    _ => Some(IndexProblem::Length { bytes }),
                }
            }
        };
        let reader = reader.filter(|_| problem.is_none());
        let mut entries = Self { reader, due: None, number: 0, problem, failure: None };
        entries.due = entries.read();
        Ok(entries)
    }

    fn read(&mut self) -> Option<IndexEntry> {
        match self.reader.as_mut()?.next()? {
            Ok(entry) => Some(entry),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Takes the entry that is due; the next one must rise above it.
    fn take(&mut self) {
        let taken = self.due.take();
        self.due = self.read();
        self.number += 1;
        let rises = match (taken, self.due) {
            (
                Some(IndexEntry::Offset { relative: a, position: p }),
                Some(IndexEntry::Offset { relative: b, position: q }),
            ) => a < b && p <= q,
            (
                Some(IndexEntry::Time { timestamp: t, relative: a }),
                Some(IndexEntry::Time { timestamp: u, relative: b }),
            ) => t < u && a <= b,
            _ => true,
        };
        if !rises {
            self.fail(IndexProblem::Order { entry: self.number });
        }
    }

    /// Only the first problem is told; behind it nothing is sure.
    fn fail(&mut self, problem: IndexProblem) {
        self.problem.get_or_insert(problem);
        self.due = None;
        self.reader = None;
    }
}

impl IndexCheck {
    pub(super) fn open(home: &Home, base: Offset, log_bytes: u64, writer: Writer) -> Result<Self, IoFailure> {
        Ok(Self {
            offsets: Entries::open(home, base, FileKind::Index, log_bytes)?,
            times: Entries::open(home, base, FileKind::TimeIndex, log_bytes)?,
            base,
            writer,
            largest: None,
            last_time: None,
            indexed: 0,
            last_batch: 0,
        })
    }

    fn is_ours(&self) -> bool {
        matches!(self.writer, Writer::Ours(_))
    }

    fn absolute(&self, relative: i32) -> Option<Offset> {
        RelativeOffset::new(relative)?.absolute(self.base)
    }

    /// Takes the next batch of the log.
    pub(super) fn observe(&mut self, header: &BatchHeader, position: u64) {
        self.observe_offsets(header, position);
        self.observe_times(header);
        self.last_batch = position;
    }

    fn observe_offsets(&mut self, header: &BatchHeader, position: u64) {
        let entry = self.offsets.number;
        let Some(IndexEntry::Offset { relative, position: named }) = self.offsets.due else { return };
        if u64::from(named) > position {
            return;
        }
        if u64::from(named) < position {
            return self.offsets.fail(IndexProblem::NoBatch { entry, position: named });
        }
        let Some(found) = self.absolute(relative) else {
            return self.offsets.fail(IndexProblem::Outside { entry });
        };
        if header.base_offset > found || (self.is_ours() && header.last_offset() != found) {
            return self.offsets.fail(IndexProblem::WrongOffset { entry, found });
        }
        self.indexed = position;
        self.offsets.take();
    }

    fn observe_times(&mut self, header: &BatchHeader) {
        while let Some(IndexEntry::Time { timestamp, relative }) = self.times.due {
            let entry = self.times.number;
            let Some(found) = self.absolute(relative) else {
                return self.times.fail(IndexProblem::Outside { entry });
            };
            if found > header.last_offset() {
                break;
            }
            if found == header.last_offset() {
                self.largest = self.largest.max(Some(header.max_timestamp));
            } else if self.is_ours() {
                return self.times.fail(IndexProblem::WrongOffset { entry, found });
            }
            let expected = self.largest.unwrap_or(timestamp);
            if timestamp < expected || (self.is_ours() && timestamp != expected) {
                return self.times.fail(IndexProblem::WrongTimestamp { entry, found: timestamp, expected });
            }
            self.last_time = Some(timestamp);
            self.times.take();
        }
        self.largest = self.largest.max(Some(header.max_timestamp));
    }

    /// The log ends. `is_closed`: nothing is appended any more, so the time index has its closing entry.
    pub(super) fn finish(mut self, is_closed: bool) -> Result<Verdict, IoFailure> {
        if self.offsets.due.is_some() {
            self.offsets.fail(IndexProblem::Outside { entry: self.offsets.number });
        }
        if self.times.due.is_some() {
            self.times.fail(IndexProblem::Outside { entry: self.times.number });
        }
        if is_closed {
            self.check_ends();
        }
        match self.offsets.failure.or(self.times.failure) {
            Some(failure) => Err(failure),
            None => Ok(Verdict { offsets: self.offsets.problem, times: self.times.problem }),
        }
    }

    /// Whether entries are missing at the end.
    fn check_ends(&mut self) {
        // -1 and less mean "no timestamp" and are never indexed.
        if let Some(largest) = self.largest.filter(|largest| largest.value() >= 0)
            && self.last_time.is_none_or(|last| last < largest)
        {
            self.times.problem.get_or_insert(IndexProblem::TimesShort { largest });
        }
        let unindexed = self.last_batch - self.indexed;
        // A time entry comes with an offset entry, but for the one that closes.
        let is_outnumbered = self.times.number > self.offsets.number + 1;
        let is_short = match self.writer {
            Writer::Kafka => false,
            Writer::Ours(Some(interval)) => unindexed > u64::from(interval),
            Writer::Ours(None) => unindexed > TAIL_BYTES_MAX || is_outnumbered,
        };
        if is_short {
            let (indexed, last_batch) = (self.indexed, self.last_batch);
            self.offsets.problem.get_or_insert(IndexProblem::OffsetsShort { indexed, last_batch });
        }
    }
}
