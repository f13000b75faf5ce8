//! Batches with unique content, planned before they are built.

use alluvium::TimestampMs;
use alluvium::record::{BatchBuilder, Compression};
use alluvium::units::{LeaderEpoch, Offset};

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlan {
    /// No other record of the workload has it.
    pub(crate) id: u64,
    pub(crate) value_bytes: usize,
    /// Relative to the clock when it is appended; `None` for a record without timestamp.
    pub(crate) shift_ms: Option<i64>,
}

/// One batch to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchPlan {
    pub(crate) records: Vec<RecordPlan>,
    pub(crate) is_compressed: bool,
}

/// A batch as the log is to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredBatch {
    pub(crate) base: i64,
    /// Offset after the last record.
    pub(crate) next: i64,
    pub(crate) bytes: Vec<u8>,
    /// Offset and timestamp of each record.
    pub(crate) records: Vec<(i64, i64)>,
}

impl RecordPlan {
    fn key(&self) -> Vec<u8> {
        format!("key-{}", self.id % 7).into_bytes()
    }

    /// Bytes that hardly compress, told apart by the number in front.
    fn value(&self) -> Vec<u8> {
        let mut value = format!("{:08x}:", self.id).into_bytes();
        let mut rng = fastrand::Rng::with_seed(self.id);
        value.extend(std::iter::repeat_with(|| rng.u8(..)).take(self.value_bytes));
        value
    }
}

impl BatchPlan {
    /// The batch as a producer would send it at `now`: offsets from 0.
    pub(crate) fn build(&self, now: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.compression(if self.is_compressed { Compression::Lz4 } else { Compression::None });
        self.fill(&mut builder, now);
        builder.build().expect("a planned batch is valid").into_bytes()
    }

    /// The batch as a leader would have stored it.
    pub(crate) fn build_at(&self, now: i64, base: i64, epoch: i32) -> Vec<u8> {
        let mut bytes = self.build(now);
        place(&mut bytes, base, epoch);
        bytes
    }

    pub(crate) fn fill(&self, builder: &mut BatchBuilder, now: i64) {
        for record in &self.records {
            builder.record(TimestampMs::new(record.timestamp(now)), Some(&record.key()), Some(&record.value()));
        }
    }

    /// What the log is to hold once it was appended at `base`.
    pub(crate) fn stored(&self, now: i64, base: i64, epoch: i32) -> StoredBatch {
        let records = (base..).zip(&self.records).map(|(offset, record)| (offset, record.timestamp(now))).collect();
        let next = base + i64::try_from(self.records.len()).unwrap();
        StoredBatch { base, next, bytes: self.build_at(now, base, epoch), records }
    }
}

impl StoredBatch {
    /// The same with the time of its append as the timestamp of every record.
    pub(crate) fn stamped(mut self, now: i64) -> Self {
        alluvium::record::stamp_append_time(&mut self.bytes, TimestampMs::new(now));
        for (_, timestamp) in &mut self.records {
            *timestamp = now;
        }
        self
    }
}

impl RecordPlan {
    fn timestamp(&self, now: i64) -> i64 {
        self.shift_ms.map_or(-1, |shift| now + shift)
    }
}

/// Writes base offset and leader epoch into a batch, with nothing of the crate: both lie outside the checksum.
pub(crate) fn place(batch: &mut [u8], base: i64, epoch: i32) {
    batch[0..8].copy_from_slice(&base.to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.to_be_bytes());
}

pub(crate) fn offset(value: i64) -> Offset {
    Offset::new(value).expect("offsets of tests are not negative")
}

pub(crate) fn epoch(value: i32) -> LeaderEpoch {
    LeaderEpoch::new(value).expect("epochs of tests are not negative")
}
