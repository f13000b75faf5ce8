//! Transaction index: `.txnindex`, the aborted transactions of a segment (format: Kafka's `TransactionIndex` and
//! `AbortedTxn`).
//!
//! ```text
//! at len field               meaning
//! 0  2   version             0, i16 big-endian
//! 2  8   producer id         i64 big-endian, as are the offsets
//! 10 8   first offset        of the transaction; may lie in an earlier segment
//! 18 8   last offset         that of the ABORT marker, in this segment
//! 26 8   last stable offset  first offset of the oldest transaction of another producer that was open when the marker
//!                            came, or else the offset after the marker
//! ```
//! No header, no checksum. Last offsets rise strictly. Last stable offsets do not fall: of the transactions that are
//! open at a marker, each was open at the marker before it or began after that.

use super::IndexFault;
use crate::units::{Offset, ProducerId};

const ENTRY_BYTES: usize = 34;
const VERSION: i16 = 0;

/// An aborted transaction: records of its producer from its first offset to its marker do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Offset of its first record.
    pub first_offset: Offset,
    /// Offset of its ABORT marker.
    pub last_offset: Offset,
    /// Everything below was decided once the marker was written. The high watermark plays no part. At most the offset
    /// after the marker.
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    /// What every writer's entries hold to. A transaction without records had its marker as its first offset in early
    /// versions of Kafka.
    fn fault(&self) -> Option<&'static str> {
        match self.last_offset.next() {
            _ if self.first_offset > self.last_offset => Some("first offset"),
            Some(end) if self.last_stable_offset <= end => None,
            Some(_) => Some("last stable offset"),
            None => Some("last offset"),
        }
    }

    fn follows(&self, previous: &Self) -> bool {
        previous.last_offset < self.last_offset && previous.last_stable_offset <= self.last_stable_offset
    }
}

/// The aborted transactions whose markers lie in one segment, in memory, by rising last offset.
///
/// ```
/// use alluvium::index::{AbortedTxn, AbortedTxns};
/// use alluvium::{Offset, ProducerId};
/// let at = |value| Offset::new(value).unwrap();
/// let aborted = AbortedTxn {
///     producer_id: ProducerId::new(1000).unwrap(),
///     first_offset: at(7),
///     last_offset: at(16),
///     last_stable_offset: at(17),
/// };
/// let mut index = AbortedTxns::default();
/// index.push(aborted);
/// let mut found = Vec::new();
/// assert!(!index.collect(at(10), at(20), &mut found), "later segments may have more");
/// assert_eq!(found, [aborted]);
/// assert_eq!(AbortedTxns::decode(&index.encode(), Offset::ZERO), Ok(index));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AbortedTxns {
    entries: Vec<AbortedTxn>,
}

impl AbortedTxns {
    /// Adds a transaction whose marker comes after all others.
    pub fn push(&mut self, txn: AbortedTxn) {
        debug_assert!(txn.fault().is_none(), "{txn:?}");
        debug_assert!(
            self.entries.last().is_none_or(|last| txn.follows(last)),
            "{txn:?} after {:?}",
            self.entries.last()
        );
        self.entries.push(txn);
    }

    /// All entries, by rising last offset.
    pub fn entries(&self) -> &[AbortedTxn] {
        &self.entries
    }

    /// Bytes of memory that it takes, room for more entries included.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.entries.capacity().saturating_mul(size_of::<AbortedTxn>()))
    }

    /// Drops the transactions whose markers lie at or past `offset`.
    pub fn truncate_to(&mut self, offset: Offset) {
        let kept = self.entries.partition_point(|txn| txn.last_offset < offset);
        self.entries.truncate(kept);
    }

    /// Adds those that a fetch of `from` (inclusive) to `upper` (exclusive) needs to `found`: those with an offset in
    /// that range. To be called for the segment that has `from` and the ones after it, in order, until it says `true`:
    /// then the search is complete, as all transactions that began below `upper` are decided, and later segments need
    /// no look.
    pub fn collect(&self, from: Offset, upper: Offset, found: &mut Vec<AbortedTxn>) -> bool {
        if upper <= from {
            return true;
        }
        // Those before end below `from`, and none of them could end the search: it was stable at most up to `from`.
        let first = self.entries.partition_point(|txn| txn.last_offset < from);
        for txn in self.entries.iter().skip(first) {
            if txn.first_offset < upper {
                found.push(*txn);
            }
            if txn.last_stable_offset >= upper {
                return true;
            }
        }
        false
    }

    /// The bytes of the `.txnindex` file. Without entries there is none in a directory of Kafka's.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for txn in &self.entries {
            bytes.extend_from_slice(&VERSION.to_be_bytes());
            let offsets = [txn.first_offset, txn.last_offset, txn.last_stable_offset].map(Offset::value);
            for field in [txn.producer_id.value()].into_iter().chain(offsets) {
                bytes.extend_from_slice(&field.to_be_bytes());
            }
        }
        bytes
    }

    /// Reads the bytes of a `.txnindex` file, of the segment whose base offset is `segment_base`. Stricter than Kafka's
    /// sanity check, which looks at versions and at the base alone: a wrong entry would hide records, or show records
    /// that do not count.
    pub fn decode(bytes: &[u8], segment_base: Offset) -> Result<Self, IndexFault> {
        let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(IndexFault::Length(bytes.len() as u64));
        }
        let mut entries: Vec<AbortedTxn> = Vec::with_capacity(chunks.len());
        for (at, chunk) in chunks.iter().enumerate() {
            let txn = decode_entry(at, chunk)?;
            if txn.last_offset < segment_base {
                return Err(IndexFault::Range(at));
            }
            if entries.last().is_some_and(|last| !txn.follows(last)) {
                return Err(IndexFault::Order(at));
            }
            entries.push(txn);
        }
        Ok(Self { entries })
    }
}

fn decode_entry(at: usize, bytes: &[u8; ENTRY_BYTES]) -> Result<AbortedTxn, IndexFault> {
    let [v0, v1, fields @ ..] = *bytes;
    let found = i16::from_be_bytes([v0, v1]);
    if found != VERSION {
        return Err(IndexFault::Version { entry: at, found });
    }
    let impossible = |field| IndexFault::Field { entry: at, field };
    let ([producer_id, first_offset, last_offset, last_stable_offset], _) = fields.as_chunks() else {
        return Err(IndexFault::Length(ENTRY_BYTES as u64));
    };
    let offset = |bytes: &[u8; 8], field| Offset::new(i64::from_be_bytes(*bytes)).ok_or(impossible(field));
    let txn = AbortedTxn {
        producer_id: ProducerId::new(i64::from_be_bytes(*producer_id)).ok_or(impossible("producer id"))?,
        first_offset: offset(first_offset, "first offset")?,
        last_offset: offset(last_offset, "last offset")?,
        last_stable_offset: offset(last_stable_offset, "last stable offset")?,
    };
    txn.fault().map_or(Ok(txn), |field| Err(impossible(field)))
}

#[cfg(test)]
mod tests;
