//! Updates as a coordinator of consumer groups writes them: keys and values of 50 bytes, the same keys over and over.
//! What the latest value of each key is, is remembered, to be compared with what is read.

use std::collections::HashMap;

use alluvium::record::BatchBuilder;
use alluvium::store::Partition;
use alluvium::table::CompactedTable;
use alluvium::{AppendAs, TimestampMs};

use super::{Done, epoch};
use crate::rng::Rng;

const BATCH_RECORDS: u64 = 200;
/// What a record weighs in the log: key, value, lengths and differences.
pub(super) const RECORD_BYTES: u64 = 110;

/// The writer of one partition.
pub(super) struct Updates {
    rng: Rng,
    builder: BatchBuilder,
    latest: HashMap<u64, u64>,
    written: u64,
}

fn key(number: u64) -> String {
    format!("offsets/group-{number:012}/topic-order/partition-1")
}

fn value(version: u64) -> String {
    format!("{version:050}")
}

impl Updates {
    pub(super) fn new() -> Self {
        Self { rng: Rng::new(50), builder: BatchBuilder::new(), latest: HashMap::new(), written: 0 }
    }

    /// Writes so many updates of keys drawn from the first `keys`.
    pub(super) fn write(&mut self, partition: &Partition, records: u64, keys: u64, now: TimestampMs) -> Done<()> {
        for record in 0..records {
            let number = self.rng.below(keys);
            self.written += 1;
            self.latest.insert(number, self.written);
            self.builder.record(now, Some(key(number).as_bytes()), Some(value(self.written).as_bytes()));
            if u64::from(self.builder.count()) == BATCH_RECORDS || record + 1 == records {
                partition.append(self.builder.build()?, AppendAs::Coordinator { epoch: epoch() })?;
            }
        }
        Ok(())
    }

    /// Updates so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Keys so far.
    pub(super) fn keys(&self) -> u64 {
        self.latest.len() as u64
    }

    /// Whether the table has the latest value of every key, and nothing else.
    pub(super) fn are_in(&self, table: &CompactedTable) -> bool {
        let is_latest = |(number, version): (&u64, &u64)| {
            table.get(key(*number).as_bytes()).is_some_and(|found| found == value(*version).as_bytes())
        };
        table.len() == self.latest.len() && self.latest.iter().all(is_latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_have_fifty_bytes() {
        assert_eq!((key(7).len(), value(7).len()), (50, 50));
    }
}
