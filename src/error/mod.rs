//! Errors are data: what happened, where, and whose fault it was. `Display` says what to do next.
//!
//! Four kinds never share a variant: a caller's mistake, corrupt bytes, failed I/O, and a log that is closed or failed.

mod batch;
mod config;
mod producer;
mod repair;
mod unavailable;
mod wait;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

pub use batch::{BrokenRule, BuildError, DecompressFault, InvalidBatch, InvalidRecord, RecompressError};
pub use config::ConfigError;
pub use producer::{ProducerFault, ProducerRefusal};
pub use repair::RepairError;
pub use unavailable::Unavailable;
pub use wait::WaitError;

use crate::units::{FilePosition, LeaderEpoch, Offset};

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
    /// Send bytes of a file to a socket.
    Send,
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
    /// Batches pass their own checks, and are not the ones that were sealed.
    #[error("offset, length, epoch or magic of a batch is not what it was when the segment was sealed")]
    Headers,
    /// An earlier opening found the bytes invalid.
    #[error("an earlier opening found these bytes invalid; run `verify` for the cause")]
    FoundEarlier,
    /// A transaction index is not one.
    #[error("it is no transaction index of its segment; it is built again from the log")]
    TransactionIndex,
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

/// Why a log could not be opened. But for a lock file, nothing was changed on disk, unless the variant says so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is refused.
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

impl From<IoFailure> for OpenError {
    fn from(failure: IoFailure) -> Self {
        match failure.source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission(failure),
            _ => Self::Io(failure),
        }
    }
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
    /// Batch `batch` of the call cannot be written anew with the codec of `compression.type`.
    #[error("batch {batch} of the append: {cause}")]
    Recompress {
        /// Which batch of the call.
        batch: usize,
        /// Why.
        cause: RecompressError,
    },
    /// The producer's batches do not follow what the log has of that producer (KIP-98, KIP-890).
    #[error(transparent)]
    Producer(#[from] ProducerRefusal),
    /// The log does not end where the caller expects it to.
    #[error(
        "the log ends at {log_end}, not at {expected} as expected; somebody appended meanwhile: read and decide again"
    )]
    UnexpectedEnd {
        /// What the caller expected.
        expected: Offset,
        /// Where the log ends.
        log_end: Offset,
    },
    /// The fencing token is not the one in force.
    #[error("fencing token {given:?} is not {current}, which is in force; another writer took over")]
    FencedToken {
        /// As given.
        given: Option<u64>,
        /// The one in force.
        current: u64,
    },
    /// The log is read-only.
    #[error("the log is sealed and takes no appends; unseal it first")]
    Sealed,
    /// No offset is left.
    #[error("the log end {log_end} leaves no room for {records} more offsets; go on in another partition")]
    OffsetsExhausted {
        /// Next offset.
        log_end: Offset,
        /// Offsets needed.
        records: u64,
    },
    /// The data directory is short of space. Appends are taken again by themselves when there is more.
    #[error("{} has {free} bytes free, {floor} must stay; free space: from {resume} on appends are taken again", dir.display())]
    SpaceLow {
        /// The data directory.
        dir: PathBuf,
        /// Bytes that may still be written.
        free: u64,
        /// Bytes that must stay free.
        floor: u64,
        /// Bytes that must be free before appends go on.
        resume: u64,
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
    /// The log is a store's, which cannot give it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
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
    /// The log is a store's, which cannot give it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
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
    /// The log is a store's, which cannot give it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
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
    /// A mark may not be moved there.
    #[error("{what} may be moved within {from}..={to}, not to {asked}")]
    OutOfBounds {
        /// Which mark.
        what: &'static str,
        /// As asked for.
        asked: Offset,
        /// Smallest allowed.
        from: Offset,
        /// Largest allowed.
        to: Offset,
    },
    /// The high watermark follows another mark by configuration and is not the embedder's to move.
    #[error("the high watermark moves by itself; set `high_watermark` to `Embedder` to move it")]
    NotYours,
    /// A fencing token does not rise.
    #[error("fencing token {given} is not past {current}, which is in force; another writer took over")]
    StaleToken {
        /// As given.
        given: u64,
        /// The one in force.
        current: u64,
    },
    /// A leader epoch does not rise.
    #[error("leader epoch {given} is not past {newest}, the newest in this log; another leader took over")]
    StaleEpoch {
        /// As given.
        given: LeaderEpoch,
        /// The newest seen.
        newest: LeaderEpoch,
    },
    /// The log is read-only.
    #[error("the log is sealed and is not cut; unseal it first")]
    Sealed,
    /// The log latched.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log is closed.
    #[error("the log is closed; open it again")]
    Closed,
    /// The log is a store's, which cannot give it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
