//! What a log says beyond its records, worked out from batches byte by byte and without the crate: the files of producer
//! snapshots, aborted transactions and leader epochs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::naive::{crc32c, i32_at, i64_at};

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// The fields of a snapshot's entry, -1 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NaiveProducer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: i64,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: i64,
    pub(crate) coordinator_epoch: i32,
    pub(crate) open: i64,
}

impl NaiveProducer {
    fn new(id: i64, epoch: i16) -> Self {
        let (last_sequence, last_offset, offset_delta) = (-1, -1, 0);
        Self { id, epoch, last_sequence, last_offset, offset_delta, timestamp: -1, coordinator_epoch: -1, open: -1 }
    }

    /// A new incarnation: what the older one wrote no longer counts.
    fn enter(&mut self, epoch: i16) {
        if self.epoch != epoch {
            (self.epoch, self.last_sequence, self.last_offset, self.offset_delta) = (epoch, -1, -1, 0);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.last_sequence.to_be_bytes());
        bytes.extend(self.last_offset.to_be_bytes());
        bytes.extend(self.offset_delta.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.coordinator_epoch.to_be_bytes());
        bytes.extend(self.open.to_be_bytes());
        bytes
    }
}

/// The bytes of a snapshot, whatever its entries are and in whatever order.
pub(crate) fn snapshot_of(producers: &[NaiveProducer]) -> Vec<u8> {
    let mut counted = i32::try_from(producers.len()).unwrap().to_be_bytes().to_vec();
    counted.extend(producers.iter().flat_map(NaiveProducer::bytes));
    [&[0, 1], &crc32c(&counted).to_be_bytes()[..], &counted].concat()
}

/// The entries of a snapshot, in its order. Checks what there is to check.
pub(crate) fn entries_of(snapshot: &[u8]) -> Vec<NaiveProducer> {
    assert_eq!((snapshot.len() - 10) % 46, 0);
    let entry = |bytes: &[u8]| NaiveProducer {
        id: i64_at(bytes, 0),
        epoch: i16_at(bytes, 8),
        last_sequence: i32_at(bytes, 10),
        last_offset: i64_at(bytes, 14),
        offset_delta: i32_at(bytes, 22),
        timestamp: i64_at(bytes, 26),
        coordinator_epoch: i32_at(bytes, 34),
        open: i64_at(bytes, 38),
    };
    let entries: Vec<NaiveProducer> = snapshot[10..].chunks_exact(46).map(entry).collect();
    assert_eq!(snapshot_of(&entries), snapshot);
    entries
}

/// Snapshots that hold the same entries in different orders are one and the same. Ours rise by producer id.
pub(crate) fn in_order(snapshot: &[u8]) -> Vec<u8> {
    let mut entries = entries_of(snapshot);
    entries.sort_unstable();
    snapshot_of(&entries)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct NaiveState {
    producers: BTreeMap<i64, NaiveProducer>,
    epochs: Vec<(i32, i64)>,
}

/// Reads a varint off the front.
fn take_varint(bytes: &mut &[u8]) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
        }
    }
}

/// Key and value of the only record of a control batch.
fn control(batch: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = &batch[61..];
    take_varint(&mut rest);
    rest = &rest[1..];
    take_varint(&mut rest);
    take_varint(&mut rest);
    let key_bytes = usize::try_from(take_varint(&mut rest)).unwrap();
    let (key, mut rest) = rest.split_at(key_bytes);
    let value_bytes = usize::try_from(take_varint(&mut rest)).unwrap();
    (key, &rest[..value_bytes])
}

impl NaiveState {
    /// Takes in a batch; gives the entry of a transaction index that it brings about.
    pub(crate) fn apply(&mut self, batch: &[u8]) -> Option<Vec<u8>> {
        let (base, epoch) = (i64_at(batch, 0), i32_at(batch, 12));
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.push((epoch, base));
        }
        let (attributes, delta, timestamp) = (i16_at(batch, 21), i32_at(batch, 23), i64_at(batch, 35));
        let (id, producer_epoch, sequence) = (i64_at(batch, 43), i16_at(batch, 51), i32_at(batch, 53));
        if id < 0 {
            return None;
        }
        let producer = self.producers.entry(id).or_insert_with(|| NaiveProducer::new(id, producer_epoch));
        producer.enter(producer_epoch);
        producer.timestamp = timestamp;
        if attributes & 0x20 == 0 {
            producer.last_sequence = if sequence < 0 { -1 } else { (sequence + delta) & i32::MAX };
            (producer.last_offset, producer.offset_delta) = (base + i64::from(delta), delta);
            if attributes & 0x10 != 0 && producer.open < 0 {
                producer.open = base;
            }
            return None;
        }
        let (key, value) = control(batch);
        producer.coordinator_epoch = i32_at(value, 2);
        let first = std::mem::replace(&mut producer.open, -1);
        if first < 0 || i16_at(key, 2) != 0 {
            return None;
        }
        let others = self.producers.values().map(|producer| producer.open).filter(|open| *open >= 0);
        let stable = others.min().unwrap_or(base + 1);
        Some([&[0, 0][..], &[id, first, base, stable].map(i64::to_be_bytes).concat()].concat())
    }

    pub(crate) fn snapshot(&self) -> Vec<u8> {
        snapshot_of(&self.producers.values().copied().collect::<Vec<_>>())
    }

    pub(crate) fn epochs(&self) -> Vec<u8> {
        let mut text = format!("0\n{}\n", self.epochs.len());
        for (epoch, start) in &self.epochs {
            writeln!(text, "{epoch} {start}").unwrap();
        }
        text.into_bytes()
    }
}
