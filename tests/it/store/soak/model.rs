//! What a partition must hold, kept beside it by the one thread that changes it.

use std::sync::Mutex;

use alluvium::{BatchBuilder, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence, TimestampMs};

use super::super::world::at;

/// Producers of a partition that takes sequences.
pub(super) const PRODUCERS: usize = 3;

/// Numbers that differ from seed to seed.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One partition, and what is known of it.
pub(super) struct Modelled {
    pub(super) number: i32,
    pub(super) model: Mutex<Model>,
}

/// What a partition must hold: each record's value follows from its offset and from how often the log was cut before.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Odd while the partition is cut, made, deleted or moved: readers then expect less.
    pub(super) version: u64,
    pub(super) is_there: bool,
    /// How often it was made.
    pub(super) incarnation: u32,
    /// Everything below it was acknowledged.
    pub(super) end: i64,
    /// Everything below it was acknowledged as durable.
    pub(super) durable: i64,
    /// The furthest log start that anybody saw.
    pub(super) floor: i64,
    pub(super) was_cut: bool,
    /// From which offset on which generation of values counts.
    pub(super) generations: Vec<(i64, u32)>,
    /// Sequences that each producer has come to, by the offset after its batch.
    pub(super) sequences: [Vec<(i64, i32)>; PRODUCERS],
}

impl Model {
    /// A new partition under the same name.
    pub(super) fn renew(&mut self) {
        let (version, incarnation) = (self.version, self.incarnation + 1);
        *self = Self { version, incarnation, is_there: true, generations: vec![(0, 0)], ..Self::default() };
    }

    pub(super) fn cut(&mut self, to: i64) {
        let newest = self.generations.iter().map(|(_, generation)| *generation).max().unwrap_or(0);
        self.generations.retain(|(from, _)| *from < to);
        // The number of generations is bounded by what is still in the log; their names must not come again.
        self.generations.push((to, newest + 1));
        for sequences in &mut self.sequences {
            sequences.retain(|(end, _)| *end <= to);
        }
        (self.end, self.durable, self.was_cut) = (to, self.durable.min(to), true);
    }

    /// The value of the record at `offset`.
    pub(super) fn value(&self, number: i32, offset: i64) -> String {
        let generation = self.generations.iter().rev().find(|(from, _)| *from <= offset).map_or(0, |found| found.1);
        let mut value = format!("{number}.{}.{generation}.{offset}.", self.incarnation);
        let length = 120 + usize::try_from(offset % 7).unwrap() * 40;
        while value.len() < length {
            value.push('x');
        }
        value
    }

    /// A batch for the end of the log; in every third partition it is an idempotent producer's.
    pub(super) fn batch(&self, number: i32, records: i64, producer: usize) -> RecordBatch {
        let mut builder = BatchBuilder::new();
        if number % 3 == 0 {
            let id = ProducerId::new(1_000 + i64::try_from(producer).unwrap()).unwrap();
            let sequence = self.sequences[producer].last().map_or(0, |(_, next)| *next);
            builder.producer(id, ProducerEpoch::new(0).unwrap(), Sequence::new(sequence));
        }
        for offset in self.end..self.end + records {
            builder.record(now(), None, Some(self.value(number, offset).as_bytes()));
        }
        builder.build().unwrap()
    }

    /// A batch of `records` was appended.
    pub(super) fn grew(&mut self, records: i64, producer: usize) {
        self.end += records;
        let sequences = &mut self.sequences[producer];
        let next = sequences.last().map_or(0, |(_, next)| *next) + i32::try_from(records).unwrap();
        sequences.push((self.end, next));
        if sequences.len() > 200 {
            let floor = self.floor;
            let below = sequences.iter().take_while(|(end, _)| *end <= floor).count();
            sequences.drain(..below.saturating_sub(1));
        }
    }
}

pub(super) fn now() -> TimestampMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    TimestampMs::new(i64::try_from(since.as_millis()).unwrap())
}

pub(super) fn offset(value: i64) -> Offset {
    at(value)
}
