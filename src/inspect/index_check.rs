//! Holds the index files of a segment against its log, while the log is walked once.
//!
//! What any writer's index must fulfil, Kafka's included: an offset entry names a position where a batch starts, and an
//! offset that is not before that batch; a time entry names a timestamp that no record up to its offset passes. Kafka
//! indexes whole appends, and how they were grouped is not in the log. Ours has one entry a batch, so more can be asked:
//! the entry's offset is the batch's last one, its timestamp the largest so far, and no entry is missing at the end.

use super::indexes::{IndexEntry, IndexReader};
use super::report::IndexProblem;
use crate::error::IoFailure;
use crate::record::{BatchHeader, HEADER_BYTES};
use crate::segment::{FileKind, Home};
use crate::units::{Offset, RelativeOffset, TimestampMs};

/// What the check of one segment gives.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) offsets: Option<IndexProblem>,
    pub(super) times: Option<IndexProblem>,
    /// Smallest distance between indexed batches: `index.interval.bytes` is less.
    pub(super) narrowest: Option<u64>,
    /// Where the last entry points, and where the last batch starts.
    pub(super) tail: (u64, u64),
}

impl Verdict {
    /// Whether batches at the end lack entries, when entries are due at least every `narrowest` bytes.
    pub(super) fn lacks_entries(&self, narrowest: u64) -> Option<IndexProblem> {
        let (indexed, log_bytes) = self.tail;
        (log_bytes - indexed >= narrowest).then_some(IndexProblem::OffsetsShort { indexed, log_bytes })
    }
}

/// Both indexes of one segment.
#[derive(Debug)]
pub(super) struct IndexCheck {
    offsets: Entries,
    times: Entries,
    base: Offset,
    is_ours: bool,
    largest: Option<TimestampMs>,
    last_time: Option<TimestampMs>,
    verdict: Verdict,
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
    /// `is_ours`: the files were written by this crate, one entry a batch.
    pub(super) fn open(home: &Home, base: Offset, log_bytes: u64, is_ours: bool) -> Result<Self, IoFailure> {
        Ok(Self {
            offsets: Entries::open(home, base, FileKind::Index, log_bytes)?,
            times: Entries::open(home, base, FileKind::TimeIndex, log_bytes)?,
            base,
            is_ours,
            largest: None,
            last_time: None,
            verdict: Verdict::default(),
        })
    }

    fn absolute(&self, relative: i32) -> Option<Offset> {
        RelativeOffset::new(relative)?.absolute(self.base)
    }

    /// Takes the next batch of the log.
    pub(super) fn observe(&mut self, header: &BatchHeader, position: u64) {
        self.observe_offsets(header, position);
        self.observe_times(header);
        self.verdict.tail.1 = position;
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
        if header.base_offset > found || (self.is_ours && header.last_offset() != found) {
            return self.offsets.fail(IndexProblem::WrongOffset { entry, found });
        }
        let distance = position - self.verdict.tail.0;
        self.verdict.narrowest = Some(self.verdict.narrowest.map_or(distance, |least| least.min(distance)));
        self.verdict.tail.0 = position;
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
            } else if self.is_ours {
                return self.times.fail(IndexProblem::WrongOffset { entry, found });
            }
            let expected = self.largest.unwrap_or(timestamp);
            if timestamp < expected || (self.is_ours && timestamp != expected) {
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
        // -1 and less mean "no timestamp" and are never indexed.
        if let Some(largest) = self.largest.filter(|largest| largest.value() >= 0)
            && is_closed
            && self.last_time.is_none_or(|last| last < largest)
        {
            self.times.problem.get_or_insert(IndexProblem::TimesShort { largest });
        }
        match self.offsets.failure.or(self.times.failure) {
            Some(failure) => Err(failure),
            None => Ok(Verdict { offsets: self.offsets.problem, times: self.times.problem, ..self.verdict }),
        }
    }
}
