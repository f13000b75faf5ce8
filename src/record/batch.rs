//! A batch as it lies in memory: its header decoded, its bytes borrowed.

use std::borrow::Cow;

use super::compress::{self, Compression};
use super::layout::{
    APPEND_TIME_BIT, ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_LENGTH_AT, CODEC_MASK,
    CONTROL_BIT, COUNT_AT, CRC_AT, DELETE_HORIZON_BIT, HEADER_BYTES, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT,
    LENGTH_OVERHEAD, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT, NONE, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, TRANSACTIONAL_BIT,
};
use super::record::Records;
use crate::config::TimestampType;
use crate::error::InvalidBatch;
use crate::units::{LeaderEpoch, Offset, OffsetDelta, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// CRC-32C (Castagnoli), the checksum of record batches.
///
/// ```
/// assert_eq!(alluvium::record::crc32c(b"123456789"), 0xe306_9283);
/// ```
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of bytes that come in pieces, for batches too large to hold at once.
pub(crate) struct Crc32c(crc_fast::Digest);

impl Crc32c {
    /// Of no bytes yet.
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes the next piece.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all pieces.
    pub(crate) fn finish(&self) -> u32 {
        u32::try_from(self.0.finalize()).unwrap_or(u32::MAX)
    }
}

/// The attribute bits of a batch whose codec is known to exist.
///
/// ```
/// # use alluvium::record::{BatchBuilder, Compression};
/// # use alluvium::{TimestampMs, TimestampType};
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let attributes = batch.header().attributes;
/// assert_eq!(attributes.compression(), Compression::None);
/// assert_eq!(attributes.timestamp_type(), TimestampType::CreateTime);
/// assert!(!attributes.is_transactional() && !attributes.is_control() && !attributes.has_delete_horizon());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    bits: u16,
    compression: Compression,
}

impl Attributes {
    /// Refuses a codec that does not exist; unused bits are kept as they are.
    #[inline]
    pub(crate) fn parse(bits: u16) -> Result<Self, InvalidBatch> {
        let [_, low] = (bits & CODEC_MASK).to_be_bytes();
        let compression = Compression::from_code(low).ok_or(InvalidBatch::UnknownCodec { code: low })?;
        Ok(Self { bits, compression })
    }

    /// The bits as stored, unused ones included.
    pub fn bits(self) -> u16 {
        self.bits
    }

    /// How the records are compressed.
    pub fn compression(self) -> Compression {
        self.compression
    }

    /// Whose clock the timestamps are from.
    pub fn timestamp_type(self) -> TimestampType {
        if self.has(APPEND_TIME_BIT) { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// Whether the batch is part of a transaction.
    pub fn is_transactional(self) -> bool {
        self.has(TRANSACTIONAL_BIT)
    }

    /// Whether the records are control records, not data.
    pub fn is_control(self) -> bool {
        self.has(CONTROL_BIT)
    }

    /// Whether the base timestamp is a delete horizon.
    pub fn has_delete_horizon(self) -> bool {
        self.has(DELETE_HORIZON_BIT)
    }

    fn has(self, bit: u16) -> bool {
        self.bits & bit != 0
    }
}

/// Every field of a batch's header, decoded and checked on its own.
///
/// ```
/// # use alluvium::record::{BatchBuilder, BatchHeader};
/// # use alluvium::{Offset, TimestampMs};
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let header = BatchHeader::parse(batch.as_bytes(), u32::MAX)?;
/// assert_eq!((header.base_offset, header.next_offset(), header.count), (Offset::ZERO, Offset::new(1).unwrap(), 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchHeader {
    /// Offset of the first record that the batch was built with.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub size: u32,
    /// Leadership that took the batch, stamped by the leader.
    pub leader_epoch: Option<LeaderEpoch>,
    /// CRC-32C as stored.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// Last offset minus base offset, kept by compaction.
    pub last_offset_delta: OffsetDelta,
    /// What the records' timestamps are relative to, or the delete horizon.
    pub base_timestamp: TimestampMs,
    /// Largest timestamp of the records; with time of append, that of every record.
    pub max_timestamp: TimestampMs,
    /// Idempotent or transactional producer.
    pub producer_id: Option<ProducerId>,
    /// Incarnation of the producer.
    pub producer_epoch: Option<ProducerEpoch>,
    /// Sequence of the first record that the batch was built with.
    pub base_sequence: Option<Sequence>,
    /// Records present; at most `last_offset_delta + 1`, 0 in an emptied batch.
    pub count: u32,
}

impl BatchHeader {
    /// Decodes and checks the header in the first 61 bytes of `bytes`; what follows is neither needed nor looked at.
    ///
    /// Magic is judged first, so that an older format is never mistaken for damage. `size_max` bounds the whole batch.
    #[inline]
    pub fn parse(bytes: &[u8], size_max: u32) -> Result<Self, InvalidBatch> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(short_header(bytes));
        };
        let magic = i8::from_be_bytes(field::<MAGIC_AT, _>(header));
        if magic != MAGIC {
            return Err(InvalidBatch::Magic { found: magic });
        }
        let size = checked_size(i32::from_be_bytes(field::<BATCH_LENGTH_AT, _>(header)), size_max)?;
        let attributes = Attributes::parse(u16::from_be_bytes(field::<ATTRIBUTES_AT, _>(header)))?;
        let (base_offset, last_offset_delta) = checked_offsets(
            i64::from_be_bytes(field::<BASE_OFFSET_AT, _>(header)),
            i32::from_be_bytes(field::<LAST_OFFSET_DELTA_AT, _>(header)),
        )?;
        let count = checked_count(i32::from_be_bytes(field::<COUNT_AT, _>(header)), last_offset_delta)?;
        let leader_epoch = i32::from_be_bytes(field::<LEADER_EPOCH_AT, _>(header));
        let producer_id = i64::from_be_bytes(field::<PRODUCER_ID_AT, _>(header));
        let producer_epoch = i16::from_be_bytes(field::<PRODUCER_EPOCH_AT, _>(header));
        let base_sequence = i32::from_be_bytes(field::<BASE_SEQUENCE_AT, _>(header));
        Ok(Self {
            base_offset,
            size,
            leader_epoch: optional("partitionLeaderEpoch", leader_epoch, LeaderEpoch::new)?,
            crc: u32::from_be_bytes(field::<CRC_AT, _>(header)),
            attributes,
            last_offset_delta,
            base_timestamp: TimestampMs::new(i64::from_be_bytes(field::<BASE_TIMESTAMP_AT, _>(header))),
            max_timestamp: TimestampMs::new(i64::from_be_bytes(field::<MAX_TIMESTAMP_AT, _>(header))),
            producer_id: optional("producerId", producer_id, ProducerId::new)?,
            producer_epoch: optional("producerEpoch", producer_epoch, ProducerEpoch::new)?,
            base_sequence: optional("baseSequence", base_sequence, Sequence::new)?,
            count,
        })
    }

    /// The last offset that the batch stands for, also when compaction removed its record. Inclusive.
    pub fn last_offset(&self) -> Offset {
        // Parsing refused what overflows, but the fields are public.
        self.base_offset.checked_add(self.last_offset_delta).unwrap_or(Offset::MAX)
    }

    /// The offset after the last one.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next().unwrap_or(Offset::MAX)
    }

    /// Sequence of the last record that the batch was built with.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.base_sequence.map(|first| first.wrapping_add(self.last_offset_delta))
    }

    /// When tombstones and markers of the batch may go, once the cleaner has set that.
    pub fn delete_horizon(&self) -> Option<TimestampMs> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }
}

/// `N` bytes of the header at `AT`; the compiler folds it to one load.
#[inline]
fn field<const AT: usize, const N: usize>(header: &[u8; HEADER_BYTES]) -> [u8; N] {
    const { assert!(AT + N <= HEADER_BYTES) };
    let found = header.get(AT..).and_then(|tail| tail.first_chunk::<N>());
    *found.unwrap_or(&[0; N])
}

/// Less than a header is there: too little, unless the magic already says that it is something else.
#[cold]
fn short_header(bytes: &[u8]) -> InvalidBatch {
    match bytes.get(MAGIC_AT) {
        Some(&magic) if magic.cast_signed() != MAGIC => InvalidBatch::Magic { found: magic.cast_signed() },
        _ => InvalidBatch::Short { need: HEADER_BYTES as u64, have: bytes.len() as u64 },
    }
}

#[inline]
fn checked_size(batch_length: i32, size_max: u32) -> Result<u32, InvalidBatch> {
    const OVERHEAD: u64 = LENGTH_OVERHEAD as u64;
    const SMALLEST: u64 = HEADER_BYTES as u64;
    let size = u64::try_from(batch_length).map(|length| length + OVERHEAD);
    match size.map(u32::try_from) {
        Ok(Ok(size)) if u64::from(size) >= SMALLEST && size <= size_max => Ok(size),
        _ => {
            let length = |size: u64| i32::try_from(size.saturating_sub(OVERHEAD)).unwrap_or(i32::MAX);
            Err(InvalidBatch::Length { batch_length, min: length(SMALLEST), max: length(u64::from(size_max)) })
        }
    }
}

/// Leaves room for the next offset too, so that none of the derived offsets can overflow.
#[inline]
fn checked_offsets(base_offset: i64, last_offset_delta: i32) -> Result<(Offset, OffsetDelta), InvalidBatch> {
    let Some(base) = Offset::new(base_offset) else {
        return Err(InvalidBatch::Field { field: "baseOffset", value: base_offset });
    };
    let Some(delta) = OffsetDelta::new(last_offset_delta) else {
        return Err(InvalidBatch::Field { field: "lastOffsetDelta", value: i64::from(last_offset_delta) });
    };
    match base.checked_add(delta) {
        Some(last) if last < Offset::MAX => Ok((base, delta)),
        _ => Err(InvalidBatch::OffsetOverflow { base_offset, last_offset_delta }),
    }
}

#[inline]
fn checked_count(count: i32, last_offset_delta: OffsetDelta) -> Result<u32, InvalidBatch> {
    let last_offset_delta = last_offset_delta.value();
    match u32::try_from(count) {
        Ok(checked) if i64::from(count) <= i64::from(last_offset_delta) + 1 => Ok(checked),
        Ok(_) => Err(InvalidBatch::Count { count, last_offset_delta }),
        Err(_) => Err(InvalidBatch::Field { field: "recordsCount", value: i64::from(count) }),
    }
}

/// -1 is none; anything below was written by nobody.
#[inline]
fn optional<N, T>(field: &'static str, value: N, unit: fn(N) -> Option<T>) -> Result<Option<T>, InvalidBatch>
where
    N: Copy + PartialEq + From<i8> + Into<i64>,
{
    match unit(value) {
        None if value != N::from(NONE) => Err(InvalidBatch::Field { field, value: value.into() }),
        unit => Ok(unit),
    }
}

/// One whole batch: its header and its bytes, nothing copied.
///
/// ```
/// # use alluvium::record::{BatchBuilder, BatchView};
/// # use alluvium::TimestampMs;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let view = BatchView::parse(batch.as_bytes(), u32::MAX)?;
/// view.verify_crc()?;
/// let body = view.body(1 << 20)?;
/// assert_eq!(body.records().next().unwrap()?.value, Some(&b"v"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Takes the first batch of `bytes`, which must be there whole. The CRC is not looked at.
    #[inline]
    pub fn parse(bytes: &'a [u8], size_max: u32) -> Result<Self, InvalidBatch> {
        let header = BatchHeader::parse(bytes, size_max)?;
        let whole = usize::try_from(header.size).ok().and_then(|size| bytes.get(..size));
        match whole {
            Some(bytes) => Ok(Self { header, bytes }),
            None => Err(InvalidBatch::Short { need: u64::from(header.size), have: bytes.len() as u64 }),
        }
    }

    /// The decoded header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The bytes of the batch, no more and no less.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the bytes from the attributes on are those that the CRC was taken over.
    #[inline]
    pub fn verify_crc(&self) -> Result<(), InvalidBatch> {
        let computed = crc32c(self.bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
        let stored = self.header.crc;
        if stored == computed { Ok(()) } else { Err(InvalidBatch::Crc { stored, computed }) }
    }

    /// The records, borrowed if they are not compressed, else decompressed into at most `limit` bytes.
    pub fn body(&self, limit: u32) -> Result<Body<'a>, InvalidBatch> {
        let stored = self.stored_records();
        let codec = self.header.attributes.compression();
        if codec == Compression::None || stored.is_empty() {
            return Ok(Body { header: self.header, bytes: Cow::Borrowed(stored), starts_at: HEADER_BYTES });
        }
        let mut plain = Vec::new();
        compress::decompress(codec, stored, limit, &mut plain)?;
        Ok(Body { header: self.header, bytes: Cow::Owned(plain), starts_at: 0 })
    }

    /// What follows the header, as stored.
    pub(crate) fn stored_records(&self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// The uncompressed records of a batch.
///
/// See [`BatchView`] for an example.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    header: BatchHeader,
    bytes: Cow<'a, [u8]>,
    /// What positions in errors count from: the batch's start, or that of the decompressed records.
    starts_at: usize,
}

impl Body<'_> {
    /// The records in order: as many as the header counts, or fewer and then one error. What is left over after the
    /// last record is an error too.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.header, &self.bytes, self.starts_at)
    }

    /// The records as bytes, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The batches that lie one after the other in `bytes`, each at most `size_max` bytes. Ends after an error; a batch
/// that is cut off by the end of `bytes` is [`InvalidBatch::Short`].
///
/// ```
/// # use alluvium::record::{BatchBuilder, batches};
/// # use alluvium::TimestampMs;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let twice = [batch.as_bytes(), batch.as_bytes()].concat();
/// assert_eq!(batches(&twice, u32::MAX).count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn batches(bytes: &[u8], size_max: u32) -> Batches<'_> {
    Batches { rest: bytes, size_max }
}

/// Iterator over concatenated batches, from [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    size_max: u32,
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, InvalidBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchView::parse(self.rest, self.size_max);
        self.rest = match &batch {
            Ok(view) => self.rest.get(view.bytes.len()..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(batch)
    }
}
