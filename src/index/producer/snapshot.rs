//! The producer snapshot, `.snapshot` (format: Kafka's `ProducerStateManager` and `ProducerSnapshot.json`).
//!
//! ```text
//! at len field
//! 0  2   version                    1, i16 big-endian, as all that follows
//! 2  4   crc                        CRC-32C over count and entries, u32
//! 6  4   count                      of entries, i32
//! 10 46  entry                      count times
//!
//! in an entry
//! 0  8   producer id
//! 8  2   epoch
//! 10 4   last sequence              of the last data batch; -1: none, or a coordinator's
//! 14 8   last offset                of the last data batch; -1: none known of this epoch
//! 22 4   offset delta               last minus first sequence of that batch; 0: none
//! 26 8   timestamp                  largest of the last batch or marker, ms
//! 34 4   coordinator epoch          of the last marker; -1: none
//! 38 8   current txn first offset   -1: no open transaction
//! ```
//! Kafka writes entries in hash-map order; here they rise by producer id, so that equal states have equal bytes. A
//! snapshot that fails a check is dropped and an older one taken: the log tells the rest.

use super::entry::{KeptBatch, Producer};
use super::state::{ProducerTable, known_coordinator};
use super::{ProducerLimits, ProducerState};
use crate::record::crc32c;
use crate::units::{Offset, OffsetDelta, ProducerEpoch, ProducerId, Sequence, TimestampMs};

const VERSION: i16 = 1;
const VERSION_BYTES: usize = size_of::<i16>();
const CRC_BYTES: usize = size_of::<u32>();
const COUNT_BYTES: usize = size_of::<i32>();
const HEADER_BYTES: usize = VERSION_BYTES + CRC_BYTES + COUNT_BYTES;
const ENTRY_BYTES: usize = 46;
/// Absence, in every field but the timestamp.
const NONE: i8 = -1;

/// Why bytes are no producer snapshot. The answer is always the same: take an older one, or replay the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// Shorter than a header, or another length than the count says.
    #[error("{bytes} bytes hold no snapshot of {count} entries; take an older one or replay the log")]
    Length {
        /// Bytes that are there.
        bytes: usize,
        /// Entries that the count says, 0 when even that is missing.
        count: i32,
    },
    /// Written by another version.
    #[error("snapshot version {0} is unknown, only 1 is known; take an older one or replay the log")]
    Version(i16),
    /// The CRC-32C does not match.
    #[error("CRC-32C stored {stored:#010x}, computed {computed:#010x}; take an older snapshot or replay the log")]
    Crc {
        /// As in the header.
        stored: u32,
        /// Over count and entries.
        computed: u32,
    },
    /// A field has a value that no writer produces.
    #[error("entry {entry}: {field} is {value}; take an older snapshot or replay the log")]
    Field {
        /// Which entry, from 0.
        entry: usize,
        /// Name as in the format.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// An offset at or past the one that the file is named for: it is of another log, or of another life of this one.
    #[error("producer {producer_id} has offset {offset}, not below {at}; take an older snapshot or replay the log")]
    Past {
        /// Whose entry it is.
        producer_id: ProducerId,
        /// What it says.
        offset: Offset,
        /// The offset in the file's name.
        at: Offset,
    },
    /// Two entries for one producer.
    #[error("producer {0} has two entries; take an older snapshot or replay the log")]
    Repeated(ProducerId),
}

/// Reads the bytes of a `.snapshot` file, for tools: what it says of each producer, by rising id, expired or not.
///
/// Takes time and memory in proportion to `bytes`, which may be anything.
///
/// ```
/// use alluvium::index::producer::{SnapshotFault, read_snapshot};
/// let empty = [0, 1, 0x48, 0x67, 0x4b, 0xc7, 0, 0, 0, 0];
/// assert_eq!(read_snapshot(&empty), Ok(vec![]));
/// assert_eq!(read_snapshot(&empty[..9]), Err(SnapshotFault::Length { bytes: 9, count: 0 }));
/// ```
pub fn read_snapshot(bytes: &[u8]) -> Result<Vec<ProducerState>, SnapshotFault> {
    Ok(parse(bytes)?.iter().map(|(id, producer)| producer.summary(*id)).collect())
}

impl ProducerTable {
    /// The bytes of the `.snapshot` file. Of the batches that would be recognised each producer's last one is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut producers: Vec<(&ProducerId, &Producer)> = self.producers.iter().collect();
        producers.sort_unstable_by_key(|(id, _)| **id);
        let mut counted = Vec::with_capacity(COUNT_BYTES + producers.len() * ENTRY_BYTES);
        // A table past 2^31 producers does not fit memory.
        counted.extend_from_slice(&i32::try_from(producers.len()).unwrap_or(i32::MAX).to_be_bytes());
        for (id, producer) in producers {
            put_entry(&mut counted, *id, producer);
        }
        let mut bytes = Vec::with_capacity(VERSION_BYTES + CRC_BYTES + counted.len());
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&crc32c(&counted).to_be_bytes());
        bytes.append(&mut counted);
        bytes
    }

    /// As [`ProducerTable::decode`], of a snapshot that is named for the offset `at`.
    pub(crate) fn decode_at(
        at: Offset,
        bytes: &[u8],
        now: TimestampMs,
        limits: &ProducerLimits,
    ) -> Result<Self, SnapshotFault> {
        let mut table = Self::decode(bytes, now, limits)?;
        let past = table.producers.iter().find_map(|(id, producer)| {
            let offsets = producer.open.into_iter().chain(producer.last_batch().map(KeptBatch::last_offset));
            offsets.max().filter(|offset| *offset >= at).map(|offset| (*id, offset))
        });
        if let Some((producer_id, offset)) = past {
            return Err(SnapshotFault::Past { producer_id, offset, at });
        }
        table.producers.values_mut().for_each(|producer| producer.changed_below = at);
        Ok(table)
    }

    /// The state that a snapshot tells of. Producers that expired before `now` are skipped, unless they are in a
    /// transaction; past the bound the oldest by timestamp are.
    pub(crate) fn decode(bytes: &[u8], now: TimestampMs, limits: &ProducerLimits) -> Result<Self, SnapshotFault> {
        let mut producers = parse(bytes)?;
        producers.retain(|(_, producer)| !producer.has_expired(now, limits.expiration_ms));
        // The file does not say who wrote last. Timestamps do, but for clocks that went back.
        producers.sort_by_key(|(id, producer)| {
            (producer.last_timestamp, producer.last_batch().map(KeptBatch::last_offset), *id)
        });
        let mut table = Self::new();
        for (id, producer) in producers {
            table.restore(id, producer, limits);
        }
        Ok(table)
    }
}

fn put_entry(out: &mut Vec<u8>, id: ProducerId, producer: &Producer) {
    let state = producer.summary(id);
    let delta = producer.last_batch().map_or(0, |batch| batch.last_delta.value());
    let none = i32::from(NONE);
    out.extend_from_slice(&id.value().to_be_bytes());
    out.extend_from_slice(&state.epoch.value().to_be_bytes());
    out.extend_from_slice(&state.last_sequence.map_or(none, Sequence::value).to_be_bytes());
    out.extend_from_slice(&state.last_offset.map_or(i64::from(NONE), Offset::value).to_be_bytes());
    out.extend_from_slice(&delta.to_be_bytes());
    out.extend_from_slice(&state.last_timestamp.value().to_be_bytes());
    out.extend_from_slice(&state.coordinator_epoch.unwrap_or(none).to_be_bytes());
    out.extend_from_slice(&state.open_transaction.map_or(i64::from(NONE), Offset::value).to_be_bytes());
}

/// The producers of a snapshot, by rising id. Everything that can be checked is.
fn parse(bytes: &[u8]) -> Result<Vec<(ProducerId, Producer)>, SnapshotFault> {
    let Some((header, entries)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(SnapshotFault::Length { bytes: bytes.len(), count: 0 });
    };
    let [v0, v1, c0, c1, c2, c3, n0, n1, n2, n3] = *header;
    let version = i16::from_be_bytes([v0, v1]);
    if version != VERSION {
        return Err(SnapshotFault::Version(version));
    }
    let count = i32::from_be_bytes([n0, n1, n2, n3]);
    let (chunks, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || usize::try_from(count) != Ok(chunks.len()) {
        return Err(SnapshotFault::Length { bytes: bytes.len(), count });
    }
    let stored = u32::from_be_bytes([c0, c1, c2, c3]);
    let computed = crc32c(bytes.get(VERSION_BYTES + CRC_BYTES..).unwrap_or_default());
    if stored != computed {
        return Err(SnapshotFault::Crc { stored, computed });
    }
    let mut producers = Vec::with_capacity(chunks.len());
    for (entry, chunk) in chunks.iter().enumerate() {
        producers.push(parse_entry(chunk).map_err(|(field, value)| SnapshotFault::Field { entry, field, value })?);
    }
    producers.sort_by_key(|(id, _)| *id);
    let is_repeated = |pair: &&[(ProducerId, Producer)]| matches!(pair, [(a, _), (b, _)] if a == b);
    match producers.windows(2).find(is_repeated) {
        Some([(id, _), ..]) => Err(SnapshotFault::Repeated(*id)),
        _ => Ok(producers),
    }
}

/// A field's name and the value that it cannot have.
type WrongField = (&'static str, i64);

fn parse_entry(bytes: &[u8; ENTRY_BYTES]) -> Result<(ProducerId, Producer), WrongField> {
    let mut fields = Fields(bytes);
    let id = fields.i64();
    let id = ProducerId::new(id).ok_or(("producerId", id))?;
    let epoch = i16::from_be_bytes(fields.take());
    let epoch = ProducerEpoch::new(epoch).ok_or(("epoch", i64::from(epoch)))?;
    let last_sequence = optional("lastSequence", i64::from(fields.i32()))?;
    let last_offset = optional("lastOffset", fields.i64())?;
    let offset_delta = fields.i32();
    let timestamp = TimestampMs::new(fields.i64());
    let coordinator_epoch = fields.i32();
    optional("coordinatorEpoch", i64::from(coordinator_epoch))?;
    let open = optional("currentTxnFirstOffset", fields.i64())?;

    let mut producer = Producer::new(epoch);
    producer.last_timestamp = timestamp;
    producer.coordinator_epoch = known_coordinator(coordinator_epoch);
    producer.open = open.and_then(Offset::new);
    match last_offset {
        Some(last_offset) => producer.keep(parse_batch(last_sequence, last_offset, offset_delta, timestamp)?),
        // Without a batch there is nothing that these could be of.
        None if offset_delta != 0 => return Err(("offsetDelta", i64::from(offset_delta))),
        None if last_sequence.is_some() => return Err(("lastSequence", last_sequence.unwrap_or_default())),
        None => {}
    }
    Ok((id, producer))
}

fn parse_batch(
    last_sequence: Option<i64>,
    last_offset: i64,
    offset_delta: i32,
    timestamp: TimestampMs,
) -> Result<KeptBatch, WrongField> {
    let wrong = ("offsetDelta", i64::from(offset_delta));
    let last_delta = OffsetDelta::new(offset_delta).ok_or(wrong)?;
    // Neither is below 0, so that the difference does not overflow.
    let base_offset = Offset::new(last_offset - i64::from(offset_delta)).ok_or(wrong)?;
    let last_sequence = last_sequence.and_then(|value| i32::try_from(value).ok()).and_then(Sequence::new);
    Ok(KeptBatch { last_sequence, base_offset, last_delta, timestamp })
}

fn optional(field: &'static str, value: i64) -> Result<Option<i64>, WrongField> {
    match value {
        value if value >= 0 => Ok(Some(value)),
        value if value == i64::from(NONE) => Ok(None),
        value => Err((field, value)),
    }
}

/// Takes fields off the front of an entry.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.0.split_first_chunk::<N>();
        debug_assert!(taken.is_some(), "an entry holds all of its fields");
        let (field, rest) = taken.unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}
