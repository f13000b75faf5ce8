//! The calls of a broker on a partition as an object-safe trait, for embedders that need `dyn`: to hold logs of several
//! kinds, or a fake in their tests.
//!
//! [`PartitionLog`] itself stays free of it: its futures are named types and cost no allocation. They are boxed here
//! alone.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Deadline;
use crate::commit::{Mark, Marks};
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, ConfigError, DurabilityError, IoFailure, ReadError, WaitError};
use crate::index::{AbortedTxn, EpochEnd, EpochStart, ProducerState, VerificationGuard};
use crate::log::{
    AppendOptions, Appended, Batches, Fetched, LogHealth, PartitionLog, ReadOptions, Ticked, TimestampOffset,
};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// A future of any kind. Needs no particular runtime; dropping it half-way costs nothing.
pub type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an append through [`Log`] came to. It is in the page cache: it survives the death of the process, and a power
/// loss once [`durable`](Self::durable) has resolved.
#[non_exhaustive]
pub struct LogAppended {
    /// First offset that was assigned, or given by a follower.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub end: Offset,
    /// The timestamp that was stamped, with `message.timestamp.type=LogAppendTime`.
    pub append_time: Option<TimestampMs>,
    /// Whether an idempotent producer had sent the batches before; nothing was written then (KIP-98).
    pub is_duplicate: bool,
    /// Whether the flush policy asks for a sync now: call [`Log::tick`], or let somebody wait.
    pub should_flush: bool,
    /// Resolves when the append survives a power loss, or when it is known that it will not.
    pub durable: BoxedFuture<Result<(), DurabilityError>>,
}

impl LogAppended {
    /// An append at `base_offset..end`, for logs of other kinds. Nothing stamped, no duplicate, no sync asked for.
    ///
    /// ```
    /// use alluvium::{LogAppended, Offset};
    /// let end = Offset::new(3).unwrap();
    /// let appended = LogAppended::new(Offset::ZERO, end, Box::pin(std::future::ready(Ok(()))));
    /// assert_eq!(appended.end, end);
    /// ```
    pub fn new(base_offset: Offset, end: Offset, durable: BoxedFuture<Result<(), DurabilityError>>) -> Self {
        Self { base_offset, end, append_time: None, is_duplicate: false, should_flush: false, durable }
    }
}

impl fmt::Debug for LogAppended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LogAppended");
        shown.field("base_offset", &self.base_offset).field("end", &self.end).field("append_time", &self.append_time);
        shown.field("is_duplicate", &self.is_duplicate).field("should_flush", &self.should_flush);
        shown.finish_non_exhaustive()
    }
}

impl From<Appended> for LogAppended {
    fn from(appended: Appended) -> Self {
        Self {
            base_offset: appended.base_offset(),
            end: appended.end(),
            append_time: appended.append_time(),
            is_duplicate: appended.is_duplicate(),
            should_flush: appended.should_flush(),
            durable: Box::pin(appended.durable()),
        }
    }
}

/// What a read through [`Log`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogRead {
    /// Slices of files, to be sent as they are.
    Slices(Fetched),
    /// Whole batches in memory, from a log without files.
    Memory(MemoryRead),
}

/// Whole batches in memory: what [`Fetched`] is to files.
#[derive(Clone, Debug)]
pub struct MemoryRead {
    /// The batches, one after the other.
    pub bytes: Vec<u8>,
    /// Where to read next.
    pub next_offset: Offset,
    /// The marks when the read was made.
    pub marks: Marks,
    /// The aborted transactions in what was read, if only what is stable was asked for.
    pub aborted: Vec<AbortedTxn>,
}

impl LogRead {
    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Slices(fetched) => fetched.bytes(),
            Self::Memory(read) => read.bytes.len() as u64,
        }
    }

    /// Whether nothing was found: the offset is at the mark.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// The marks when the read was made.
    pub fn marks(&self) -> Marks {
        match self {
            Self::Slices(fetched) => fetched.marks(),
            Self::Memory(read) => read.marks,
        }
    }

    /// The aborted transactions in what was read, as [`Fetched::aborted`].
    pub fn aborted(&self) -> &[AbortedTxn] {
        match self {
            Self::Slices(fetched) => fetched.aborted(),
            Self::Memory(read) => &read.aborted,
        }
    }

    /// Where to read next.
    ///
    /// # Errors
    /// As [`Fetched::next_offset`].
    pub fn next_offset(&self) -> Result<Offset, ReadError> {
        match self {
            Self::Slices(fetched) => fetched.next_offset(),
            Self::Memory(read) => Ok(read.next_offset),
        }
    }

    /// The bytes themselves.
    ///
    /// # Errors
    /// [`IoFailure`] when a file cannot be read.
    pub fn into_bytes(self) -> Result<Vec<u8>, IoFailure> {
        match self {
            Self::Slices(fetched) => fetched.read(),
            Self::Memory(read) => Ok(read.bytes),
        }
    }
}

/// What a broker calls on a partition, object-safe. Each method is that of the same name of [`PartitionLog`]: what it
/// promises, in which units, of which errors and after which crashes, stands there. Any thread may call anything.
///
/// ```
/// use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, Log, LogConfig, Offset, PartitionLog, ReadOptions, TimestampMs};
/// use std::sync::Arc;
///
/// let dir = tempfile::tempdir()?;
/// let log: Arc<dyn Log> = Arc::new(PartitionLog::open(dir.path(), LogConfig::default())?);
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let how = AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }.into();
/// let appended = log.append(batch.into(), how)?;
/// let read = log.read(Offset::ZERO, &ReadOptions::default())?;
/// assert_eq!(read.next_offset()?, appended.end);
/// log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Log: Send + Sync + fmt::Debug {
    /// Appends record batches: all of them or none.
    fn append(&self, batches: Batches<'_>, how: AppendOptions) -> Result<LogAppended, AppendError>;

    /// Reads whole batches from `offset` on.
    fn read(&self, offset: Offset, options: &ReadOptions) -> Result<LogRead, ReadError>;

    /// All marks, as one consistent snapshot.
    fn marks(&self) -> Marks;

    /// A future of the moment when everything below `at_least` is below `mark`; resolves with where the mark is.
    fn wait_for(&self, mark: Mark, at_least: Offset) -> BoxedFuture<Result<Offset, WaitError>>;

    /// The same, blocking.
    fn wait_until(&self, mark: Mark, at_least: Offset, deadline: Deadline) -> Result<Offset, WaitError>;

    /// Makes durable what was appended before; returns the durable end.
    fn flush(&self) -> Result<Offset, DurabilityError>;

    /// Does what time and policy ask for.
    fn tick(&self) -> Result<Ticked, ChangeError>;

    /// Starts a new segment; returns whether there was anything in the old one.
    fn roll(&self) -> Result<bool, ChangeError>;

    /// Cuts off everything at or past `offset`; returns the new log end.
    fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError>;

    /// Drops everything and starts an empty log at `offset`.
    fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), ChangeError>;

    /// Cuts what lies past the leader's answer to where an epoch ended there; returns the log end.
    fn truncate_to_epoch_end(&self, leader: EpochEnd) -> Result<Offset, ChangeError>;

    /// Moves the high watermark, with `high_watermark` set to `Embedder`; returns where it is.
    fn advance_high_watermark(&self, to: Offset) -> Result<Offset, ChangeError>;

    /// Deletes the records below `to`; returns where the log starts.
    fn advance_log_start(&self, to: Offset) -> Result<Offset, ChangeError>;

    /// Notes that a leadership begins at the log end.
    fn begin_leader_epoch(&self, epoch: LeaderEpoch) -> Result<(), ChangeError>;

    /// The newest leader epoch in the log.
    fn leader_epoch(&self) -> Option<LeaderEpoch>;

    /// Every leader epoch in the log with its first offset, rising.
    fn leader_epochs(&self) -> Vec<EpochStart>;

    /// Where `epoch` ended in this log.
    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<EpochEnd>;

    /// Where a follower that read up to `offset` in leadership `last_epoch` left this log, if it did.
    fn divergence(&self, offset: Offset, last_epoch: LeaderEpoch) -> Option<EpochEnd>;

    /// The first record whose timestamp is at least `timestamp`.
    fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError>;

    /// The producers that the log knows, by id.
    fn producers(&self) -> Vec<ProducerState>;

    /// Asks for the guard that the first batch of a transaction needs.
    fn begin_verification(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
    ) -> Result<Option<VerificationGuard>, ChangeError>;

    /// Announces a fencing token: every append has to carry it from now on.
    fn fence(&self, token: u64) -> Result<(), ChangeError>;

    /// The fencing token in force.
    fn fencing_token(&self) -> Option<u64>;

    /// Makes the log read-only.
    fn seal(&self) -> Result<(), ChangeError>;

    /// Lets the log be written again.
    fn unseal(&self) -> Result<(), ChangeError>;

    /// Whether the log is read-only.
    fn is_sealed(&self) -> bool;

    /// The settings in force.
    fn config(&self) -> Arc<LogConfig>;

    /// Changes the settings from the next operation on.
    fn update_config(&self, config: LogConfig) -> Result<(), ConfigError>;

    /// How the log is doing.
    fn health(&self) -> LogHealth;

    /// Paths of the `.log` files, oldest first; none in a log without files.
    fn segment_files(&self) -> Vec<PathBuf>;

    /// Syncs everything and closes the log.
    fn close(&self) -> Result<(), ChangeError>;
}

// An inherent method goes before one of the trait, so that none of these calls itself.
impl Log for PartitionLog {
    fn append(&self, batches: Batches<'_>, how: AppendOptions) -> Result<LogAppended, AppendError> {
        self.append(batches, how).map(LogAppended::from)
    }

    fn read(&self, offset: Offset, options: &ReadOptions) -> Result<LogRead, ReadError> {
        self.read(offset, options).map(LogRead::Slices)
    }

    fn marks(&self) -> Marks {
        self.marks()
    }

    fn wait_for(&self, mark: Mark, at_least: Offset) -> BoxedFuture<Result<Offset, WaitError>> {
        Box::pin(self.wait_for(mark, at_least))
    }

    fn wait_until(&self, mark: Mark, at_least: Offset, deadline: Deadline) -> Result<Offset, WaitError> {
        self.wait_until(mark, at_least, deadline)
    }

    fn flush(&self) -> Result<Offset, DurabilityError> {
        self.flush()
    }

    fn tick(&self) -> Result<Ticked, ChangeError> {
        self.tick()
    }

    fn roll(&self) -> Result<bool, ChangeError> {
        self.roll()
    }

    fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError> {
        self.truncate_to(offset)
    }

    fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), ChangeError> {
        self.truncate_fully_and_start_at(offset)
    }

    fn truncate_to_epoch_end(&self, leader: EpochEnd) -> Result<Offset, ChangeError> {
        self.truncate_to_epoch_end(leader)
    }

    fn advance_high_watermark(&self, to: Offset) -> Result<Offset, ChangeError> {
        self.advance_high_watermark(to)
    }

    fn advance_log_start(&self, to: Offset) -> Result<Offset, ChangeError> {
        self.advance_log_start(to)
    }

    fn begin_leader_epoch(&self, epoch: LeaderEpoch) -> Result<(), ChangeError> {
        self.begin_leader_epoch(epoch)
    }

    fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.leader_epoch()
    }

    fn leader_epochs(&self) -> Vec<EpochStart> {
        self.leader_epochs()
    }

    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.end_offset_for_epoch(epoch)
    }

    fn divergence(&self, offset: Offset, last_epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.divergence(offset, last_epoch)
    }

    fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        self.offset_for_timestamp(timestamp)
    }

    fn producers(&self) -> Vec<ProducerState> {
        self.producers()
    }

    fn begin_verification(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
    ) -> Result<Option<VerificationGuard>, ChangeError> {
        self.begin_verification(producer, epoch, sequence)
    }

    fn fence(&self, token: u64) -> Result<(), ChangeError> {
        self.fence(token)
    }

    fn fencing_token(&self) -> Option<u64> {
        self.fencing_token()
    }

    fn seal(&self) -> Result<(), ChangeError> {
        self.seal()
    }

    fn unseal(&self) -> Result<(), ChangeError> {
        self.unseal()
    }

    fn is_sealed(&self) -> bool {
        self.is_sealed()
    }

    fn config(&self) -> Arc<LogConfig> {
        self.config()
    }

    fn update_config(&self, config: LogConfig) -> Result<(), ConfigError> {
        self.update_config(config)
    }

    fn health(&self) -> LogHealth {
        self.health()
    }

    fn segment_files(&self) -> Vec<PathBuf> {
        self.segment_files()
    }

    fn close(&self) -> Result<(), ChangeError> {
        self.close()
    }
}
