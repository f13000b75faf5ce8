//! Offset index: `.index` (format: Kafka's `OffsetIndex`).
//!
//! ```text
//! at len field            meaning
//! 0  4   relative offset  LAST offset of the indexed batch minus the segment's base offset, i32 big-endian
//! 4  4   position         first byte of that batch in the .log, i32 big-endian
//! ```
//! No header, no checksum. Offsets strictly rise, positions do not fall. The first batch is never indexed.

use super::{IndexFault, last_at_most};
use crate::units::{Offset, RelativeOffset};

const ENTRY_BYTES: usize = 8;

/// One entry: where the batch that ends with an offset starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of the batch, relative to the segment's base.
    pub last: RelativeOffset,
    /// Where the batch starts.
    pub position: u32,
}

/// The offset index of one segment, in memory.
///
/// ```
/// use alluvium::index::{OffsetEntry, OffsetIndex};
/// use alluvium::{Offset, RelativeOffset};
/// let mut index = OffsetIndex::default();
/// index.push(OffsetEntry { last: RelativeOffset::new(9).unwrap(), position: 4200 });
/// let base = Offset::new(100).unwrap();
/// assert_eq!(index.at_or_before(base, Offset::new(109).unwrap()).unwrap().position, 4200);
/// assert_eq!(index.at_or_before(base, Offset::new(108).unwrap()), None);
/// assert_eq!(OffsetIndex::decode(&index.encode(), 5000).unwrap(), index);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetIndex {
    entries: Vec<OffsetEntry>,
}

impl OffsetEntry {
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last.value().to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }
}

impl OffsetIndex {
    /// Number of entries that fit `bytes` (`segment.index.bytes`).
    pub fn capacity(bytes: u32) -> usize {
        bytes as usize / ENTRY_BYTES
    }

    /// Reads the bytes of an `.index` file and checks them against the size of the `.log`.
    pub fn decode(bytes: &[u8], log_bytes: u64) -> Result<Self, IndexFault> {
        let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexFault::Length(bytes.len() as u64));
        }
        let mut entries = Vec::with_capacity(chunks.len());
        let mut previous: Option<OffsetEntry> = None;
        for (at, &[o0, o1, o2, o3, p0, p1, p2, p3]) in chunks.iter().enumerate() {
            let last = RelativeOffset::new(i32::from_be_bytes([o0, o1, o2, o3])).ok_or(IndexFault::Range(at))?;
            let position = u32::from_be_bytes([p0, p1, p2, p3]);
            if u64::from(position) >= log_bytes {
                return Err(IndexFault::Range(at));
            }
            if previous.is_some_and(|p| last <= p.last || position < p.position) {
                return Err(IndexFault::Order(at));
            }
            let entry = OffsetEntry { last, position };
            previous = Some(entry);
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The bytes of the `.index` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        self.entries.iter().for_each(|entry| entry.put(&mut bytes));
        bytes
    }

    /// Appends the bytes of all entries but the newest to `out` and forgets them: for an index that is written to its file
    /// as it grows.
    pub(crate) fn move_out(&mut self, out: &mut Vec<u8>) {
        let moved = self.entries.len().saturating_sub(1);
        self.entries.drain(..moved).for_each(|entry| entry.put(out));
    }

    /// Adds an entry past all others.
    pub fn push(&mut self, entry: OffsetEntry) {
        debug_assert!(self.last().is_none_or(|last| last.last < entry.last && last.position <= entry.position));
        self.entries.push(entry);
    }

    /// Greatest entry whose offset is at most `target`. A scan from its position meets the batch with `target`.
    pub fn at_or_before(&self, base: Offset, target: Offset) -> Option<OffsetEntry> {
        let relative = relative_or_largest(base, target)?;
        last_at_most(&self.entries, &relative, |entry| entry.last).and_then(|at| self.entries.get(at).copied())
    }

    /// Smallest entry whose offset is past `target`: its batch, or one before it, holds the offset after `target`.
    pub fn after(&self, base: Offset, target: Offset) -> Option<OffsetEntry> {
        let relative = relative_or_largest(base, target)?;
        let at = self.entries.partition_point(|entry| entry.last <= relative);
        self.entries.get(at).copied()
    }

    /// Greatest entry whose batch starts at most at `position` and ends before offset `upper`.
    pub fn starting_by(&self, position: u64, base: Offset, upper: Offset) -> Option<OffsetEntry> {
        let at = last_at_most(&self.entries, &position, |entry| u64::from(entry.position))?;
        let entry = self.entries.get(at).copied()?;
        if entry.last.absolute(base).is_some_and(|last| last < upper) {
            return Some(entry);
        }
        let below = self.entries.partition_point(|entry| entry.last.absolute(base).is_some_and(|last| last < upper));
        self.entries.get(below.checked_sub(1)?).copied()
    }

    /// Drops the entries of batches that start at or past `position`.
    pub fn truncate_at(&mut self, position: u64) {
        self.entries.retain(|entry| u64::from(entry.position) < position);
    }

    /// The newest entry.
    pub fn last(&self) -> Option<OffsetEntry> {
        self.entries.last().copied()
    }

    /// All entries, rising.
    pub fn entries(&self) -> &[OffsetEntry] {
        &self.entries
    }

    /// Bytes of memory that the entries take, room for more included.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity().saturating_mul(size_of::<OffsetEntry>())
    }
}

/// `target - base`, or the largest relative offset for a target past it; `None` for one before the base.
fn relative_or_largest(base: Offset, target: Offset) -> Option<RelativeOffset> {
    if target < base { None } else { target.relative_to(base).or(RelativeOffset::new(i32::MAX)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(last: i32, position: u32) -> OffsetEntry {
        OffsetEntry { last: RelativeOffset::new(last).unwrap(), position }
    }

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn bytes_are_kafkas() {
        let mut index = OffsetIndex::default();
        index.push(entry(0x0102_0304, 0x0506_0708));
        assert_eq!(index.encode(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn lookups_at_the_edges() {
        let mut index = OffsetIndex::default();
        for (last, position) in [(9, 100), (19, 200), (29, 300)] {
            index.push(entry(last, position));
        }
        let base = at(1000);
        let position = |target| index.at_or_before(base, at(target)).map(|e| e.position);
        assert_eq!(position(999), None);
        assert_eq!(position(1008), None);
        assert_eq!(position(1009), Some(100));
        assert_eq!(position(1028), Some(200));
        assert_eq!(position(i64::MAX), Some(300));
        assert_eq!(index.after(base, at(1009)).map(|e| e.position), Some(200));
        assert_eq!(index.after(base, at(1029)), None);
        assert_eq!(index.starting_by(250, base, at(5000)).map(|e| e.position), Some(200));
        assert_eq!(index.starting_by(400, base, at(1020)).map(|e| e.position), Some(200));
        assert_eq!(index.starting_by(400, base, at(1009)), None);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let bytes = |pairs: &[(i32, i32)]| -> Vec<u8> {
            pairs.iter().flat_map(|(o, p)| [o.to_be_bytes(), p.to_be_bytes()].concat()).collect()
        };
        assert_eq!(OffsetIndex::decode(&[0; 7], 10), Err(IndexFault::Length(7)));
        assert_eq!(OffsetIndex::decode(&bytes(&[(-1, 0)]), 10), Err(IndexFault::Range(0)));
        assert_eq!(OffsetIndex::decode(&bytes(&[(1, 10)]), 10), Err(IndexFault::Range(0)));
        assert_eq!(OffsetIndex::decode(&bytes(&[(1, -5)]), 10), Err(IndexFault::Range(0)));
        assert_eq!(OffsetIndex::decode(&bytes(&[(1, 5), (1, 6)]), 10), Err(IndexFault::Order(1)));
        assert_eq!(OffsetIndex::decode(&bytes(&[(1, 5), (2, 4)]), 10), Err(IndexFault::Order(1)));
        // What a crash leaves of a preallocated index: zeros decode as entries, and do not rise.
        assert_eq!(OffsetIndex::decode(&[0; 16], 10), Err(IndexFault::Order(1)));
    }
}
