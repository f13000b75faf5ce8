//! Why a pass ended before its work was done.

use crate::error::{ChangeError, IoFailure};
use crate::units::Offset;

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
        "no space for what cleaning writes beside the log: {missing_bytes} bytes are missing{}; free them, or give a `group_bytes_max` that fits",
        smallest_group.map(|bytes| format!(" (the smallest group needs {bytes})")).unwrap_or_default()
    )]
    Space {
        /// So many bytes more are needed for the group that was being written.
        missing_bytes: u64,
        /// Bytes of the smallest group that there is.
        smallest_group: Option<u64>,
        /// What the system said.
        cause: IoFailure,
    },
    /// The pass would end without having cleaned anything, which another one like it would repeat for ever.
    #[error("cleaning cannot get past offset {at}; more memory, or disk for spilling, is needed")]
    Stuck {
        /// First dirty offset, before and after.
        at: Offset,
    },
    /// A system call failed. The pass may be repeated.
    #[error("the log is as it was: {0}; check the disk, then clean again")]
    Io(#[from] IoFailure),
    /// The log failed or is closed, or what it should have is not there.
    #[error(transparent)]
    Log(#[from] ChangeError),
}
