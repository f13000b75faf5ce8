//! Why bytes are not a record batch, and which rules a batch breaks.

/// Why bytes are not a valid record batch (format: Kafka's `DefaultRecordBatch` and `DefaultRecord`).
///
/// Positions are bytes from the start of the batch, for records inside a compressed batch from the start of the
/// decompressed records. `index` counts records from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// The bytes end before the batch does.
    #[error("batch ends early: {need} bytes needed, {have} there; send whole batches")]
    Short {
        /// Bytes that the batch needs.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// The length field is smaller than a header or larger than the bound.
    #[error("batch length field says {batch_length}, outside {min}..={max}; the header is damaged or was built wrong")]
    Length {
        /// The field, bytes after itself.
        batch_length: i32,
        /// Smallest that a header can say.
        min: i32,
        /// Largest that is taken here.
        max: i32,
    },
    /// The magic byte is not 2.
    #[error("magic is {found}, only 2 is supported; convert v0 and v1 message sets to record batches first")]
    Magic {
        /// The byte found.
        found: i8,
    },
    /// The stored CRC-32C does not match the bytes.
    #[error("CRC-32C stored {stored:#010x}, computed {computed:#010x}; the bytes changed after the batch was built")]
    Crc {
        /// As in the header.
        stored: u32,
        /// Over attributes to the end.
        computed: u32,
    },
    /// A header field has a value that no writer produces.
    #[error("header field {field} is {value}; the header is damaged or was built wrong")]
    Field {
        /// Name as in the format.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// Base offset plus last offset delta passes the largest offset.
    #[error("base offset {base_offset} plus last offset delta {last_offset_delta} overflows")]
    OffsetOverflow {
        /// Base offset.
        base_offset: i64,
        /// Last offset delta.
        last_offset_delta: i32,
    },
    /// Record count and last offset delta disagree.
    #[error("{count} records declared but last offset delta is {last_offset_delta}; they must agree")]
    Count {
        /// Declared number of records.
        count: i32,
        /// Last offset minus base offset.
        last_offset_delta: i32,
    },
    /// The codec bits name no codec.
    #[error("compression code {code} is unknown; codes 0 to 4 exist")]
    UnknownCodec {
        /// Bits 0 to 2 of the attributes.
        code: u8,
    },
    /// The codec exists but this build leaves it out.
    #[error("this build cannot read {codec}; build with the crate feature of that name")]
    CodecDisabled {
        /// Name of the codec and of the crate feature.
        codec: &'static str,
    },
    /// The compressed blob does not decompress.
    #[error("{codec} data is malformed: {reason}; have the producer send it again")]
    Decompress {
        /// Name of the codec.
        codec: &'static str,
        /// What the decoder found.
        reason: DecompressFault,
    },
    /// The records decompress to more than the caller allows.
    #[error("records decompress to more than {limit} bytes; raise the limit or send smaller batches")]
    Bomb {
        /// The bound that was passed.
        limit: u64,
    },
    /// A record's own structure is wrong.
    #[error("record {index} at byte {at}: {fault}")]
    Record {
        /// Which record.
        index: u32,
        /// Where it starts.
        at: u64,
        /// What is wrong with it.
        fault: InvalidRecord,
    },
    /// Bytes are left after the last record.
    #[error("{bytes} bytes left after the last declared record; the count or the length is wrong")]
    Trailing {
        /// How many.
        bytes: u64,
    },
    /// A batch breaks a rule of its origin although it is well formed (see `Origin`).
    #[error("{0}")]
    Rule(#[from] BrokenRule),
}

/// What a decompressor found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompressFault {
    /// The stream ends early.
    #[error("it ends early")]
    Truncated,
    /// Magic, version or frame header is wrong.
    #[error("its framing is wrong")]
    Framing,
    /// The compressed bytes decode to nothing valid.
    #[error("its content is corrupt")]
    Corrupt,
}

/// Why bytes are not a valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// A varint runs past its largest size.
    #[error("a varint is longer than its type allows")]
    VarintTooLong,
    /// The record ends inside a field.
    #[error("it ends inside field {field}")]
    Short {
        /// The field that is cut.
        field: &'static str,
    },
    /// A length or count is negative where it may not be, or larger than what is left.
    #[error("field {field} says {value}, more than is left or less than allowed")]
    Field {
        /// The field.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// The declared length and the fields disagree.
    #[error("it declares {declared} bytes and its fields take {used}")]
    LengthMismatch {
        /// Declared length.
        declared: u64,
        /// Bytes that its fields take.
        used: u64,
    },
    /// A header key is not UTF-8.
    #[error("a header key is not UTF-8")]
    HeaderKey,
    /// The offset delta is negative or does not rise.
    #[error("offset delta {found} where {expected} or more is due")]
    OffsetDelta {
        /// As stored.
        found: i32,
        /// Smallest allowed.
        expected: i32,
    },
    /// The offset delta lies past the batch's last.
    #[error("offset delta {found} is past the batch's last, {last}")]
    OffsetDeltaPastLast {
        /// As stored.
        found: i32,
        /// Last offset delta of the batch.
        last: i32,
    },
}

/// A rule of the batch's origin that a well-formed batch breaks (Kafka's `LogValidator`; format section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenRule {
    /// The batch is larger than `max.message.bytes`.
    #[error("batch of {size} bytes is over max.message.bytes = {max}; split it or raise the limit")]
    TooLarge {
        /// Whole size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// The batch is larger than a whole segment may be.
    #[error("batch of {size} bytes does not fit a segment of {max} bytes; raise segment.bytes")]
    LargerThanSegment {
        /// Whole size.
        size: u64,
        /// `segment.bytes`.
        max: u64,
    },
    /// A client's batch does not start at offset 0.
    #[error("base offset is {found}; clients send 0 and the log assigns the offset")]
    BaseOffset {
        /// As sent.
        found: i64,
    },
    /// A batch with no records.
    #[error("batch has no records; send at least one")]
    Empty,
    /// A client sent a control batch.
    #[error("control batches come from coordinators only; append as Coordinator or clear the control bit")]
    ControlFromClient,
    /// A control batch's key is not a control record.
    #[error("control record {index} has no valid version and type in its key")]
    ControlKey {
        /// Which record.
        index: u32,
    },
    /// A producer id without epoch or sequence.
    #[error("producer id {producer_id} comes with epoch {epoch} and sequence {sequence}; both must be 0 or more")]
    Producer {
        /// Producer id.
        producer_id: i64,
        /// Producer epoch.
        epoch: i16,
        /// Base sequence.
        sequence: i32,
    },
    /// A transactional batch without a producer id.
    #[error("batch is transactional but has no producer id")]
    TransactionalWithoutProducer,
    /// Offset deltas must be 0, 1, 2 ...
    #[error("record {index} has offset delta {found}; deltas must be 0, 1, 2 and so on")]
    NotDense {
        /// Which record.
        index: u32,
        /// Its delta.
        found: i32,
    },
    /// A compacted log needs keys.
    #[error("record {index} has no key; every record of a compacted log needs one")]
    MissingKey {
        /// Which record.
        index: u32,
    },
    /// A record's timestamp is out of bounds.
    #[error("record {index} has timestamp {timestamp}, outside {earliest}..={latest}; check the producer's clock")]
    Timestamp {
        /// Which record.
        index: u32,
        /// Its timestamp, ms.
        timestamp: i64,
        /// Earliest allowed.
        earliest: i64,
        /// Latest allowed.
        latest: i64,
    },
    /// The header's maximum timestamp is not that of its records.
    #[error("max timestamp in the header is {declared}, the records' is {found}")]
    MaxTimestamp {
        /// In the header.
        declared: i64,
        /// Largest among the records.
        found: i64,
    },
    /// A client's batch must carry create time.
    #[error("batch claims log append time; clients send create time and the log stamps")]
    TimestampType,
    /// A client's batch carries a delete horizon.
    #[error("batch carries a delete horizon; only the cleaner sets one")]
    DeleteHorizon,
}

/// Why a batch could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There are no records.
    #[error("batch has no records; add at least one")]
    Empty,
    /// The records are more than a length field can say.
    #[error("batch is larger than 2 GiB; split it")]
    TooLarge,
    /// Base offset plus number of records passes the largest offset.
    #[error("the base offset leaves no room for the records")]
    OffsetOverflow,
    /// The codec exists but this build leaves it out.
    #[error("this build cannot write {codec}; build with the crate feature of that name")]
    CodecDisabled {
        /// Name of the codec and of the crate feature.
        codec: &'static str,
    },
    /// The codec has no such level.
    #[error("{codec} has no level {level}; choose one of {min}..={max}")]
    Level {
        /// Name of the codec.
        codec: &'static str,
        /// As given.
        level: i32,
        /// Smallest.
        min: i32,
        /// Largest.
        max: i32,
    },
}

/// Why a batch could not be rewritten with another codec (see `record::recompress`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecompressError {
    /// The batch is at fault: its bytes, its size, or a codec that this build cannot read.
    #[error(transparent)]
    Batch(#[from] InvalidBatch),
    /// What was asked for is: the codec, its level, or a result larger than a batch can be.
    #[error(transparent)]
    Build(#[from] BuildError),
}
