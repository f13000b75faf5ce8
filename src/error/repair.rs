//! Why a repair was refused.

use std::ops::Range;

use super::{Damage, InvalidBatch, IoFailure, LogFailed};
use crate::units::{LeaderEpoch, Offset};

/// Why a quarantined range was not repaired. But where the variant says so, the log is as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The range is not one that is quarantined.
    #[error(
        "offsets {}..{} are no quarantined range{}; take the range from `health().damage`", range.start, range.end,
        nearest.as_ref().map(|near| format!(" ({}..{} is one)", near.offsets.start, near.offsets.end)).unwrap_or_default()
    )]
    NotQuarantined {
        /// As asked for.
        range: Range<Offset>,
        /// A quarantined range that has some of these offsets.
        nearest: Option<Box<Damage>>,
    },
    /// Batch `batch` (from 0) of the call is not acceptable.
    #[error("batch {batch} of the repair: {cause}; fetch the range from a replica again")]
    Invalid {
        /// Which batch of the call.
        batch: usize,
        /// Why.
        cause: InvalidBatch,
    },
    /// Batch `batch` starts before the offset that is due: it overlaps what is before it.
    #[error(
        "batch {batch} of the repair starts at {found}, where {expected} or more is due; send whole batches of the range"
    )]
    Overlaps {
        /// Which batch of the call.
        batch: usize,
        /// Smallest allowed.
        expected: Offset,
        /// Its base offset.
        found: Offset,
    },
    /// Batch `batch` has offsets at or past the end of the range.
    #[error(
        "batch {batch} of the repair ends at {found}, past the end {end} of the range; leave out what lies behind it"
    )]
    PastEnd {
        /// Which batch of the call.
        batch: usize,
        /// End of the range.
        end: Offset,
        /// Offset after its last record.
        found: Offset,
    },
    /// Offsets of the range are in no batch, and the log is not compacted.
    #[error("offsets {}..{} are in none of the batches; a log that is not compacted has no gaps: send them too", .0.start, .0.end)]
    Gap(Range<Offset>),
    /// The leader epoch of batch `batch` is not one that led at its offsets: the replica has another history.
    #[error(
        "batch {batch} of the repair has leader epoch {found:?}, outside {from:?}..={to:?} which led there; ask the leader's replica"
    )]
    Epoch {
        /// Which batch of the call.
        batch: usize,
        /// Its epoch.
        found: Option<LeaderEpoch>,
        /// Epoch before the range.
        from: Option<LeaderEpoch>,
        /// Epoch behind it.
        to: Option<LeaderEpoch>,
    },
    /// With these batches the segment would be larger than positions can count.
    #[error(
        "the segment would have {bytes} bytes, and {max} is the most; the replica's batches are not those of this log"
    )]
    TooLarge {
        /// Bytes it would have.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// The segment was cut, deleted, repaired or found to have more damage meanwhile.
    #[error("the segment changed while it was repaired; look at `health().damage` and repair what is left")]
    Changed,
    /// Another repair of this log is under way.
    #[error("another repair of this log is under way; wait for it")]
    Busy,
    /// A system call failed. The range is quarantined as before, and the call may be repeated.
    #[error("the range stays quarantined: {0}; free space or check the disk, then repair again")]
    Io(#[from] IoFailure),
    /// The log latched; whether the range is repaired is known when it is opened again.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log is closed.
    #[error("the log is closed; open it again")]
    Closed,
}
