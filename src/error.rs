//! Errors are data: what happened, where, and whose fault it was. `Display` says what to do next.
//!
//! Four kinds never share a variant: a caller's mistake, corrupt bytes, failed I/O, and a log that is closed or failed.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::units::{FilePosition, LeaderEpoch, Offset};

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

/// What kind of operation failed, in an [`IoFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoOperation {
    /// Open or create a file.
    Open,
    /// Read bytes.
    Read,
    /// Write bytes.
    Write,
    /// Change a file's length.
    SetLen,
    /// Make bytes or names durable.
    Sync,
    /// Rename a file.
    Rename,
    /// Remove a file.
    Remove,
    /// List a directory or look at a path.
    List,
    /// Make a directory.
    CreateDir,
    /// Lock a file.
    Lock,
    /// Map a file.
    Map,
}

/// A failed system call: which one, on which path, and what the system said.
///
/// Cheap to clone: one failed sync answers every waiter.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation:?} of {} failed: {source}", path.display())]
pub struct IoFailure {
    /// What was tried.
    pub operation: IoOperation,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    pub source: Arc<io::Error>,
}

impl IoFailure {
    /// Wraps what the system said.
    pub fn new(operation: IoOperation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { operation, path: path.into(), source: Arc::new(source) }
    }

    /// Whether the disk (or quota) is full: try again when there is space.
    pub fn is_storage_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Bytes on disk that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {at}: {kind}", file.display())]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub at: FilePosition,
    /// What is wrong there.
    pub kind: CorruptionKind,
}

/// What is wrong in a [`Corruption`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptionKind {
    /// A record batch is invalid.
    #[error("{0}")]
    Batch(#[from] InvalidBatch),
    /// Offsets do not rise from batch to batch.
    #[error("batch starts at offset {found} where {expected} or more is due")]
    OffsetOrder {
        /// Smallest allowed.
        expected: Offset,
        /// As stored.
        found: i64,
    },
    /// An earlier opening found the bytes invalid.
    #[error("an earlier opening found these bytes invalid; run `verify` for the cause")]
    FoundEarlier,
    /// A small file of ours fails its own check.
    #[error("the file's own check fails: {0}")]
    SmallFile(SmallFileFault),
}

/// What is wrong with one of our own small files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SmallFileFault {
    /// Shorter or longer than it says.
    #[error("its length is wrong")]
    Length,
    /// Not one of ours.
    #[error("its magic is wrong")]
    Magic,
    /// Written by another version.
    #[error("its version {0} is unknown to this build")]
    Version(u16),
    /// The CRC-32 does not match.
    #[error("its CRC-32 does not match")]
    Crc,
    /// A field has an impossible value.
    #[error("a field has an impossible value")]
    Field,
}

/// Why a log could not be opened. Nothing was changed on disk unless the variant says so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A configuration value is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The path names a file.
    #[error("{} is not a directory; name the partition's directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses access.
    #[error("no permission for {}; run as its owner or change its mode", .0.path.display())]
    Permission(IoFailure),
    /// Somebody else has the log open.
    #[error("{} is held by another process or another log of this one; close that first", lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// The directory above is locked: a broker or store owns its partitions.
    #[error("{} is held: a broker or store has this data directory open; stop it, or open the partition through it",
        lock.display())]
    ParentLocked {
        /// The lock file.
        lock: PathBuf,
    },
    /// The directory holds files that are not a log's.
    #[error("{} holds {entry:?}, which is no partition log's; choose an empty directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The first entry that is not a log's.
        entry: String,
    },
    /// The log holds messages of an older format.
    #[error("{} holds messages with magic {magic} at byte {at}; upgrade them with Kafka first, v2 is needed",
        file.display())]
    OldFormat {
        /// The file.
        file: PathBuf,
        /// Where.
        at: FilePosition,
        /// 0 or 1.
        magic: i8,
    },
    /// Damage was found and the policy is to refuse.
    #[error(
        "damage below the recovery point and `on_damage` is Refuse: {first}; open with Quarantine to read around it, \
        or restore the file"
    )]
    Damaged {
        /// The first damage found.
        first: Box<Damage>,
        /// How many damaged ranges there are.
        count: usize,
    },
    /// A system call failed.
    #[error(transparent)]
    Io(IoFailure),
    /// One of our own small files is unreadable and no rule says how to go on.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// A range of offsets that is lost or unreadable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offsets {}..{} are unreadable ({} bytes {}..{})", offsets.start, offsets.end, file.display(), bytes.start, bytes.end)]
pub struct Damage {
    /// The `.log` file that holds, or should hold, the range.
    pub file: PathBuf,
    /// The damaged bytes in it; empty when the bytes are missing.
    pub bytes: Range<u64>,
    /// The offsets that cannot be read. The end is the next readable offset.
    pub offsets: Range<Offset>,
    /// What the check said; `None` when the range is missing.
    pub cause: Option<CorruptionKind>,
}

/// Why an append was refused. Nothing of it is visible, and nothing of it survives.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Batch `batch` (from 0) of the call is not acceptable.
    #[error("batch {batch} of the append: {cause}")]
    Invalid {
        /// Which batch of the call.
        batch: usize,
        /// Why.
        cause: InvalidBatch,
    },
    /// A follower's batch does not start at or past the log end.
    #[error(
        "batch {batch} of the append starts at {base_offset}, before the log end {log_end}; fetch from the log end"
    )]
    NotMonotone {
        /// Which batch of the call.
        batch: usize,
        /// Its base offset.
        base_offset: i64,
        /// The log end it must not precede.
        log_end: Offset,
    },
    /// The leader epoch given is older than the newest in the log.
    #[error("leader epoch {given} is older than {newest}, the newest in this log; another leader took over")]
    FencedEpoch {
        /// As given.
        given: LeaderEpoch,
        /// The newest seen.
        newest: LeaderEpoch,
    },
    /// The call holds no batch.
    #[error("the append holds no batch; pass at least one")]
    Nothing,
    /// No offset is left.
    #[error("the log end {log_end} leaves no room for {records} more offsets")]
    OffsetsExhausted {
        /// Next offset.
        log_end: Offset,
        /// Offsets needed.
        records: u64,
    },
    /// The write failed and was undone; the log goes on. Try again (when the disk was full: once there is space).
    #[error("the write was undone: {0}; free space or check the disk, then append again")]
    Io(IoFailure),
    /// The log latched after a failed sync or an undo that failed. Close it and open it again.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log is closed.
    #[error("the log is closed; open it again")]
    Closed,
}

/// The log latched: its files can no longer be trusted until it is opened again and judged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log failed and takes no more appends: {cause}; close it and open it again to have it judged")]
pub struct LogFailed {
    /// The failure that latched it.
    pub cause: IoFailure,
}

/// Why durability could not be confirmed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurabilityError {
    /// The deadline passed first. The append stands at cached, and may become durable later.
    #[error(
        "not durable before the deadline: durable end {durable_end}, waiting for {wanted}; wait again or give more time"
    )]
    DeadlinePassed {
        /// What is durable so far.
        durable_end: Offset,
        /// What was waited for.
        wanted: Offset,
    },
    /// The records were cut off by a truncation before they became durable.
    #[error("offsets up to {wanted} were truncated before they were durable; the log ends at {log_end}")]
    Truncated {
        /// What was waited for.
        wanted: Offset,
        /// Where the log ends now.
        log_end: Offset,
    },
    /// The offset is past the log end: nothing that could become durable.
    #[error("offset {wanted} is past the log end {log_end}; wait for what was appended")]
    PastEnd {
        /// What was asked for.
        wanted: Offset,
        /// Where the log ends.
        log_end: Offset,
    },
    /// A sync failed; the log latched.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log was closed first.
    #[error("the log was closed before the records were durable; open it again and look at its log end")]
    Closed,
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("offset {asked} is outside {log_start}..={log_end}; read from the log start or wait at the log end")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// First readable offset.
        log_start: Offset,
        /// Next offset to be assigned.
        log_end: Offset,
    },
    /// The offset lies in damaged bytes. The end of `damage.offsets` is the next readable offset.
    #[error("{0}; go on at the end of that range, or restore it from a replica")]
    Damaged(Box<Damage>),
    /// Bytes that should be valid are not.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// The log is closed.
    #[error("the log is closed; open it again")]
    Closed,
}

/// Why a truncation, roll, flush or close failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The offset is not in the log.
    #[error("offset {asked} is outside {log_start}..={log_end}")]
    OutOfRange {
        /// What was asked for.
        asked: Offset,
        /// First readable offset.
        log_start: Offset,
        /// Next offset to be assigned.
        log_end: Offset,
    },
    /// The offset lies in damaged bytes: nothing tells where the cut would fall.
    #[error("{0}; cut at the start or the end of that range")]
    Damaged(Box<Damage>),
    /// Bytes that should be valid are not.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A system call failed; the log goes on, unchanged, and the call may be repeated.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// The log latched.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log is closed.
    #[error("the log is closed; open it again")]
    Closed,
}

/// A configuration value that is refused. Values are never clamped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is outside {min}..={max}; set it within that range")]
pub struct ConfigError {
    /// Kafka's name of the key where it has one.
    pub key: &'static str,
    /// The value refused.
    pub value: i64,
    /// Smallest allowed.
    pub min: i64,
    /// Largest allowed.
    pub max: i64,
}
