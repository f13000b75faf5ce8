//! Building batches, byte for byte as Kafka's `MemoryRecordsBuilder` does when nothing is compressed.

use super::batch::{BatchHeader, BatchView};
use super::compress::{self, Compression};
use super::control;
use super::layout::{
    APPEND_TIME_BIT, ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_LENGTH_AT, CONTROL_BIT,
    COUNT_AT, HEADER_BYTES, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_OVERHEAD, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT,
    NONE, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, TRANSACTIONAL_BIT,
};
use super::stamp::{put, seal};
use super::varint::{put_i32, put_i64, size_of_i32, size_of_i64};
use crate::config::TimestampType;
use crate::error::BuildError;
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Collects records and builds one batch of them, and then the next: settings and allocation stay.
///
/// ```
/// use alluvium::record::{BatchBuilder, Compression};
/// use alluvium::{ProducerEpoch, ProducerId, Sequence, TimestampMs};
///
/// let mut builder = BatchBuilder::new();
/// builder
///     .producer(ProducerId::new(1000).unwrap(), ProducerEpoch::new(0).unwrap(), Sequence::new(0))
///     .transactional(true)
///     .record(TimestampMs::new(1), Some(b"a"), Some(b"1"))
///     .record(TimestampMs::new(2), Some(b"b"), None);
/// let batch = builder.build()?;
/// assert_eq!(batch.header().count, 2);
/// assert_eq!(batch.header().max_timestamp, TimestampMs::new(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    compression: Compression,
    level: Option<i32>,
    base_offset: Offset,
    leader_epoch: Option<LeaderEpoch>,
    timestamp_type: TimestampType,
    producer: Option<(ProducerId, ProducerEpoch, Option<Sequence>)>,
    is_transactional: bool,
    is_control: bool,
    pending: Pending,
}

/// The records so far.
#[derive(Clone, Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// A record was larger than any batch can hold; `bytes` lacks it.
    is_overfull: bool,
}

impl BatchBuilder {
    /// No compression, no producer, base offset 0: what a plain client sends.
    pub fn new() -> Self {
        Self::default()
    }

    /// How the records are compressed, at the codec's default level.
    pub fn compression(&mut self, compression: Compression) -> &mut Self {
        self.compression = compression;
        self.level = None;
        self
    }

    /// The level of gzip (1 to 9, default 6) or zstd (-131,072 to 22, default 3). Other codecs have none and ignore it.
    pub fn compression_level(&mut self, level: i32) -> &mut Self {
        self.level = Some(level);
        self
    }

    /// The producer; `base_sequence` is the first record's. Builds do not raise it: set it for each batch.
    pub fn producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Option<Sequence>) -> &mut Self {
        self.producer = Some((id, epoch, base_sequence));
        self
    }

    /// Whether the batch is part of the producer's transaction.
    pub fn transactional(&mut self, is_transactional: bool) -> &mut Self {
        self.is_transactional = is_transactional;
        self
    }

    /// Whether the records are control records, whose keys must be as [`ControlRecord`](super::ControlRecord) reads.
    pub fn control(&mut self, is_control: bool) -> &mut Self {
        self.is_control = is_control;
        self
    }

    /// The leader's epoch, for batches that a leader made before.
    pub fn leader_epoch(&mut self, leader_epoch: Option<LeaderEpoch>) -> &mut Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Offset of the first record, for batches that have theirs already; clients send 0.
    pub fn base_offset(&mut self, base_offset: Offset) -> &mut Self {
        self.base_offset = base_offset;
        self
    }

    /// With time of append, every record is read with the largest timestamp of the batch.
    pub fn timestamp_type(&mut self, timestamp_type: TimestampType) -> &mut Self {
        self.timestamp_type = timestamp_type;
        self
    }

    /// Adds a record; a null value is a tombstone in a compacted log.
    pub fn record(&mut self, timestamp: TimestampMs, key: Option<&[u8]>, value: Option<&[u8]>) -> &mut Self {
        self.record_with_headers(timestamp, key, value, &[])
    }

    /// Adds a record with headers, whose keys may repeat and whose values may be null.
    pub fn record_with_headers(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> &mut Self {
        self.pending.push(timestamp.value(), key, value, headers);
        self
    }

    /// Records since the last build.
    pub fn count(&self) -> u32 {
        self.pending.count.unsigned_abs()
    }

    /// Bytes that the batch has so far, before compression.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.pending.bytes.len()
    }

    /// Drops the records; settings and allocation stay.
    pub fn clear(&mut self) {
        self.pending.clear();
    }

    /// The batch of the records added since the last build, whose place is empty afterwards, also after an error.
    pub fn build(&mut self) -> Result<RecordBatch, BuildError> {
        let built = self.assemble();
        self.clear();
        built
    }

    fn assemble(&self) -> Result<RecordBatch, BuildError> {
        if self.pending.is_overfull {
            return Err(BuildError::TooLarge);
        }
        if self.pending.count == 0 {
            return Err(BuildError::Empty);
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.pending.bytes.len());
        bytes.resize(HEADER_BYTES, 0);
        compress::compress(self.compression, self.level, &self.pending.bytes, &mut bytes)?;
        let length = i32::try_from(bytes.len() - LENGTH_OVERHEAD).map_err(|_| BuildError::TooLarge)?;
        let last_offset_delta = self.pending.count - 1;
        let last_offset = self.base_offset.value().checked_add(i64::from(last_offset_delta));
        if last_offset.is_none_or(|last| last == i64::MAX) {
            return Err(BuildError::OffsetOverflow);
        }
        self.write_header(&mut bytes, length, last_offset_delta);
        seal(&mut bytes);
        Ok(RecordBatch { bytes })
    }

    fn write_header(&self, bytes: &mut [u8], length: i32, last_offset_delta: i32) {
        let none = i32::from(NONE);
        let (id, epoch, sequence) = match self.producer {
            Some((id, epoch, sequence)) => (id.value(), epoch.value(), sequence.map_or(none, Sequence::value)),
            None => (i64::from(NONE), i16::from(NONE), none),
        };
        put(bytes, BASE_OFFSET_AT, self.base_offset.value().to_be_bytes());
        put(bytes, BATCH_LENGTH_AT, length.to_be_bytes());
        put(bytes, LEADER_EPOCH_AT, self.leader_epoch.map_or(none, LeaderEpoch::value).to_be_bytes());
        put(bytes, MAGIC_AT, MAGIC.to_be_bytes());
        put(bytes, ATTRIBUTES_AT, self.attributes().to_be_bytes());
        put(bytes, LAST_OFFSET_DELTA_AT, last_offset_delta.to_be_bytes());
        put(bytes, BASE_TIMESTAMP_AT, self.pending.base_timestamp.to_be_bytes());
        put(bytes, MAX_TIMESTAMP_AT, self.pending.max_timestamp.to_be_bytes());
        put(bytes, PRODUCER_ID_AT, id.to_be_bytes());
        put(bytes, PRODUCER_EPOCH_AT, epoch.to_be_bytes());
        put(bytes, BASE_SEQUENCE_AT, sequence.to_be_bytes());
        put(bytes, COUNT_AT, self.pending.count.to_be_bytes());
    }

    fn attributes(&self) -> u16 {
        let bit = |is_set: bool, bit: u16| if is_set { bit } else { 0 };
        self.compression.code()
            | bit(self.timestamp_type == TimestampType::LogAppendTime, APPEND_TIME_BIT)
            | bit(self.is_transactional, TRANSACTIONAL_BIT)
            | bit(self.is_control, CONTROL_BIT)
    }
}

impl Pending {
    fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        // Wraps on overflow, as does the addition when it is read: any two timestamps can share a batch.
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let bytes = size_of_fields(timestamp_delta, self.count, key, value, headers);
        let length = i32::try_from(bytes).ok().filter(|_| i32::try_from(self.bytes.len() + bytes).is_ok());
        let (Some(length), Some(count)) = (length, self.count.checked_add(1)) else {
            self.is_overfull = true;
            return;
        };
        self.bytes.reserve(size_of_i32(length) + bytes);
        put_i32(&mut self.bytes, length);
        self.bytes.push(0);
        put_i64(&mut self.bytes, timestamp_delta);
        put_i32(&mut self.bytes, self.count);
        put_nullable(&mut self.bytes, key);
        put_nullable(&mut self.bytes, value);
        put_i32(&mut self.bytes, length_of(headers));
        for (key, value) in headers {
            put_nullable(&mut self.bytes, Some(key.as_bytes()));
            put_nullable(&mut self.bytes, *value);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count = count;
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.is_overfull = false;
    }
}

/// Size of a record without its length field, saturating where no batch could hold it.
fn size_of_fields(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&str, Option<&[u8]>)],
) -> usize {
    let attributes = 1;
    let fixed = attributes + size_of_i64(timestamp_delta) + size_of_i32(offset_delta) + size_of_i32(length_of(headers));
    headers
        .iter()
        .flat_map(|(key, value)| [Some(key.as_bytes()), *value])
        .chain([key, value])
        .fold(fixed, |sum, bytes| sum.saturating_add(size_of_nullable(bytes)))
}

fn size_of_nullable(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => size_of_i32(length_of(bytes)) + bytes.len(),
        None => size_of_i32(i32::from(NONE)),
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_i32(out, length_of(bytes));
            out.extend_from_slice(bytes);
        }
        None => put_i32(out, i32::from(NONE)),
    }
}

/// Saturates where the size check refuses the record anyway.
fn length_of<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

/// Bytes of exactly one valid batch, owned.
///
/// See [`BatchBuilder`] for an example.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    bytes: Vec<u8>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// Its records count.
    Commit,
    /// Its records are to be skipped.
    Abort,
}

impl RecordBatch {
    /// The control batch that ends a producer's transaction, as a transaction coordinator writes it.
    ///
    /// ```
    /// use alluvium::record::{RecordBatch, TransactionEnd};
    /// use alluvium::{ProducerEpoch, ProducerId, TimestampMs};
    /// let producer = (ProducerId::new(1000).unwrap(), ProducerEpoch::new(0).unwrap());
    /// let marker = RecordBatch::end_transaction_marker(TransactionEnd::Commit, producer, 7, TimestampMs::new(1));
    /// assert!(marker.header().attributes.is_control());
    /// ```
    pub fn end_transaction_marker(
        end: TransactionEnd,
        (id, epoch): (ProducerId, ProducerEpoch),
        coordinator_epoch: i32,
        timestamp: TimestampMs,
    ) -> Self {
        let key = control::marker_key(end == TransactionEnd::Commit);
        let value = control::marker_value(coordinator_epoch);
        let mut builder = BatchBuilder::new();
        builder.producer(id, epoch, None).transactional(true).control(true);
        builder.record(timestamp, Some(&key), Some(&value));
        builder.build().expect("one small record is a batch")
    }

    /// The bytes of the batch.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of the batch, to stamp.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The bytes of the batch, given away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The batch, to read.
    ///
    /// # Panics
    /// If the bytes were made invalid through [`RecordBatch::as_mut_bytes`].
    pub fn view(&self) -> BatchView<'_> {
        BatchView::parse(&self.bytes, u32::MAX).expect("a built batch is valid")
    }

    /// The decoded header.
    ///
    /// # Panics
    /// As [`RecordBatch::view`].
    pub fn header(&self) -> BatchHeader {
        *self.view().header()
    }
}

impl AsRef<[u8]> for RecordBatch {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<RecordBatch> for Vec<u8> {
    fn from(batch: RecordBatch) -> Self {
        batch.bytes
    }
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBatch").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
