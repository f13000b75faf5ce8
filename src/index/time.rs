//! Time index: `.timeindex` (format: Kafka's `TimeIndex`).
//!
//! ```text
//! at len field            meaning
//! 0  8   timestamp        largest in the segment so far, ms, i64 big-endian
//! 8  4   relative offset  last offset of the first batch that carried it, minus the base offset, i32 big-endian
//! ```
//! Timestamps strictly rise, offsets do not fall. Every record with a later timestamp has a later offset.

use super::{IndexFault, last_at_most};
use crate::units::{Offset, RelativeOffset, TimestampMs};

const ENTRY_BYTES: usize = 12;

/// One entry: the largest timestamp so far, and the batch that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds since the epoch.
    pub timestamp: TimestampMs,
    /// Last offset of the batch, relative to the segment's base.
    pub last: RelativeOffset,
}

/// The time index of one segment, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeIndex {
    entries: Vec<TimeEntry>,
}

impl TimeEntry {
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.value().to_be_bytes());
        out.extend_from_slice(&self.last.value().to_be_bytes());
    }
}

impl TimeIndex {
    /// Number of entries that fit `bytes`; one slot stays free for the entry that closing adds.
    pub fn capacity(bytes: u32) -> usize {
        (bytes as usize / ENTRY_BYTES).saturating_sub(1)
    }

    /// Reads the bytes of a `.timeindex` file.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexFault> {
        let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexFault::Length(bytes.len() as u64));
        }
        let mut entries: Vec<TimeEntry> = Vec::with_capacity(chunks.len());
        for (at, &[t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3]) in chunks.iter().enumerate() {
            let timestamp = TimestampMs::new(i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]));
            let last = RelativeOffset::new(i32::from_be_bytes([o0, o1, o2, o3])).ok_or(IndexFault::Range(at))?;
            if entries.last().is_some_and(|p| timestamp <= p.timestamp || last < p.last) {
                return Err(IndexFault::Order(at));
            }
            entries.push(TimeEntry { timestamp, last });
        }
        Ok(Self { entries })
    }

    /// The bytes of the `.timeindex` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        self.entries.iter().for_each(|entry| entry.put(&mut bytes));
        bytes
    }

    /// Appends the bytes of all entries but the newest to `out` and forgets them: for an index that is written to its file
    /// as it grows. The newest decides about those to come.
    pub(crate) fn move_out(&mut self, out: &mut Vec<u8>) {
        let moved = self.entries.len().saturating_sub(1);
        self.entries.drain(..moved).for_each(|entry| entry.put(out));
    }

    /// Adds an entry if its timestamp is past all others; returns whether it did.
    pub fn maybe_push(&mut self, entry: TimeEntry) -> bool {
        let rises = self.entries.last().is_none_or(|last| entry.timestamp > last.timestamp);
        if rises {
            self.entries.push(entry);
        }
        rises
    }

    /// Greatest entry whose timestamp is at most `target`. Records past `target` come after its batch, or in it.
    pub fn at_or_before(&self, target: TimestampMs) -> Option<TimeEntry> {
        last_at_most(&self.entries, &target, |entry| entry.timestamp).and_then(|at| self.entries.get(at).copied())
    }

    /// Drops the entries of batches that end at or past `end`.
    pub fn truncate_to(&mut self, base: Offset, end: Offset) {
        self.entries.retain(|entry| entry.last.absolute(base).is_some_and(|last| last < end));
    }

    /// Takes off the entry that closing added, if `newest_indexed` shows that no indexed batch brought it.
    pub fn pop_closing_entry(&mut self, newest_indexed: Option<RelativeOffset>) {
        let past = |entry: &TimeEntry| newest_indexed.is_none_or(|indexed| entry.last > indexed);
        if self.entries.last().is_some_and(past) {
            self.entries.pop();
        }
    }

    /// The newest entry, which has the largest timestamp.
    pub fn last(&self) -> Option<TimeEntry> {
        self.entries.last().copied()
    }

    /// All entries, rising.
    pub fn entries(&self) -> &[TimeEntry] {
        &self.entries
    }

    /// Bytes of memory that the entries take, room for more included.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity().saturating_mul(size_of::<TimeEntry>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(timestamp: i64, last: i32) -> TimeEntry {
        TimeEntry { timestamp: TimestampMs::new(timestamp), last: RelativeOffset::new(last).unwrap() }
    }

    #[test]
    fn bytes_are_kafkas_and_only_rising_timestamps_enter() {
        let mut index = TimeIndex::default();
        assert!(index.maybe_push(entry(0x0102_0304_0506_0708, 0x090a_0b0c)));
        assert!(!index.maybe_push(entry(0x0102_0304_0506_0708, 0x090a_0b0d)));
        assert_eq!(index.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(TimeIndex::decode(&index.encode()).unwrap(), index);
        assert_eq!(TimeIndex::decode(&[0; 13]), Err(IndexFault::Length(13)));
        assert_eq!(TimeIndex::decode(&[0; 24]), Err(IndexFault::Order(1)));
    }

    #[test]
    fn only_the_closing_entry_is_taken_off() {
        let mut index = TimeIndex::default();
        index.maybe_push(entry(5, 10));
        index.pop_closing_entry(RelativeOffset::new(10));
        assert_eq!(index.entries().len(), 1);
        index.maybe_push(entry(6, 12));
        index.pop_closing_entry(RelativeOffset::new(10));
        assert_eq!(index.last(), Some(entry(5, 10)));
        index.pop_closing_entry(None);
        assert!(index.entries().is_empty());
    }
}
