//! Why a table could not be loaded, read or written.

use crate::error::{AppendError, BuildError, DurabilityError, ReadError};
use crate::units::Offset;

/// Why an operation on a table failed. Where nothing else is said, neither log nor table have changed.
///
/// ```
/// use alluvium::table::TableError;
/// let full = TableError::MemoryFull { bytes: 2_000, bytes_max: 1_000 };
/// assert!(full.to_string().contains("raise the bound"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The log is not compacted: retention would delete keys that are in use.
    #[error("the log's cleanup.policy does not compact, so that it would lose keys; set it to compact")]
    NotCompacted,
    /// A table makes its own batches, which a follower may not.
    #[error("a table cannot write as a follower; give Client or Coordinator with the leader's epoch")]
    Follower,
    /// No change was given.
    #[error("the write holds no change; pass at least one")]
    Nothing,
    /// A key is larger than the table takes.
    #[error("key {change} of the write has {bytes} bytes of at most {bytes_max}; shorten it or raise the bound")]
    KeyTooLarge {
        /// Which change of the call, from 0.
        change: usize,
        /// Bytes of the key.
        bytes: u64,
        /// Largest that is taken.
        bytes_max: u64,
    },
    /// A value is larger than the table takes.
    #[error("value {change} of the write has {bytes} bytes of at most {bytes_max}; shorten it or raise the bound")]
    ValueTooLarge {
        /// Which change of the call, from 0.
        change: usize,
        /// Bytes of the value.
        bytes: u64,
        /// Largest that is taken.
        bytes_max: u64,
    },
    /// Keys and values need more memory than they may. A write was not made; a load has stopped at the record that did
    /// not fit, and the table shows what is before it.
    #[error("keys and values need {bytes} bytes of at most {bytes_max}; delete keys or raise the bound")]
    MemoryFull {
        /// Bytes needed.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// Somebody else wrote to the log. The write was not made; decide again after a
    /// [`catch_up`](super::CompactedTable::catch_up).
    #[error("the log ends at {log_end} and the table at {position}: somebody else wrote; catch up and decide again")]
    Conflict {
        /// Up to where the table has the log.
        position: Offset,
        /// Where the log ends.
        log_end: Offset,
    },
    /// The batch cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The log refused the write.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The write is in the log and in the table, but its durability could not be confirmed.
    #[error("the write up to {end} is in the log, but not known to be durable: {cause}")]
    NotDurable {
        /// Offset after the write.
        end: Offset,
        /// Why not.
        cause: DurabilityError,
    },
    /// The log cannot be read. A load or catch-up has stopped there; the table shows what is before it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The progress callback ended the load.
    #[error("the load was stopped at {at}, before the end {end}; catch up to finish it")]
    Stopped {
        /// Up to where the table has the log.
        at: Offset,
        /// Where the log ended.
        end: Offset,
    },
}
