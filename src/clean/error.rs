//! Why a pass ended before its work was done.

use crate::error::{ChangeError, IoFailure, ReadError};
use crate::log::PartitionLog;
use crate::units::Offset;

/// What a small file beside the log takes that has to be replaced: a block of most file systems, which none is larger than
/// but for the transactions that an interrupted pass remembers.
const SMALL_FILE_BYTES: u64 = 4096;

/// Why a log was not cleaned, or not to the end. The log is whole in any case; groups of segments that were finished stay
/// cleaned, and the next pass goes on behind them.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanError {
    /// The memory does not suffice for any pass.
    #[error("{memory_bytes} bytes of memory are too few to clean with; give at least {min}")]
    Options {
        /// As given.
        memory_bytes: u64,
        /// The least there can be.
        min: u64,
    },
    /// The log's policy is not to compact it.
    #[error("`cleanup.policy` has no `compact`; set it to have the log cleaned")]
    NotCompacted,
    /// Another pass over this log is under way.
    #[error("the log is being cleaned already; wait for that pass")]
    Busy,
    /// The log was truncated, or its segments were deleted, repaired or replaced meanwhile.
    #[error("the log changed while it was cleaned; plan anew and clean again")]
    Changed,
    /// The disk is full. What the pass had written aside is removed.
    #[error(
        "no space for what cleaning writes beside the log: up to {missing_bytes} bytes are missing ({cause}); free them"
    )]
    Space {
        /// So many bytes more the group needs that was being written, if nothing of it is removed.
        missing_bytes: u64,
        /// What the system said.
        cause: IoFailure,
    },
    /// What is left of a segment is more than may be written before the old ones are freed.
    #[error(
        "what is left of a segment is more than `group_bytes_max`, {bytes_max} bytes; give up to {missing_bytes} more, or free space"
    )]
    GroupTooLarge {
        /// As given.
        bytes_max: u64,
        /// So many bytes more it needs, if nothing of it is removed.
        missing_bytes: u64,
    },
    /// The pass would end without having cleaned anything, which another one like it would repeat for ever.
    #[error("cleaning cannot get past offset {at}; more memory, or disk for spilling, is needed")]
    Stuck {
        /// First dirty offset, before and after.
        at: Offset,
    },
    /// What was written cannot take the place of what it was made from.
    #[error("{what}; the log is as it was. That is a fault of this library: please report it")]
    Unfit {
        /// What is wrong with it.
        what: &'static str,
    },
    /// What the log says of aborted transactions cannot be read.
    #[error("{0}; scrub the log or repair it, then clean again")]
    Read(Box<ReadError>),
    /// A system call failed. The pass may be repeated.
    #[error("the log is as it was: {0}; check the disk, then clean again")]
    Io(#[from] IoFailure),
    /// The log failed or is closed, or what it should have is not there.
    #[error(transparent)]
    Log(ChangeError),
}

impl From<ChangeError> for CleanError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Io(failure) => Self::of_write(failure, || SMALL_FILE_BYTES),
            error => Self::Log(error),
        }
    }
}

impl CleanError {
    /// The same error, but that a file which went with its segment means no more than that the log changed.
    pub(super) fn seen_in(self, log: &PartitionLog) -> Self {
        match self {
            Self::Io(failure) | Self::Log(ChangeError::Io(failure)) if log.has_left(&failure) => Self::Changed,
            error => error,
        }
    }

    /// A write's failure, told as want of space where it is.
    pub(super) fn of_write(failure: IoFailure, missing_bytes: impl FnOnce() -> u64) -> Self {
        if failure.is_storage_full() {
            return Self::Space { missing_bytes: missing_bytes(), cause: failure };
        }
        Self::Io(failure)
    }
}
