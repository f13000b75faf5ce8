//! How far a log is clean, on disk.

use super::{LogCore, PartitionLog};
use crate::error::ChangeError;
use crate::units::{Offset, TimestampMs};

/// How far a log is clean. Taken from [`PartitionLog::clean_state`], changed, and put back: what was taken before the log
/// was cut is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CleanState {
    /// Below it nothing superseded is left, as far as passes that came to their end can tell.
    pub(crate) first_dirty: Offset,
    /// A pass that began and did not come to its end.
    pub(crate) pass: Option<PassProgress>,
    /// Rises with every cut that changes this.
    pub(super) cuts: u64,
}

/// How far a pass has come. It goes on with the same bounds and the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassProgress {
    /// First uncleanable offset when it began.
    pub(crate) upper: Offset,
    /// First dirty offset when it began.
    pub(crate) first_dirty: Offset,
    /// Groups below it are in place.
    pub(crate) done_to: Offset,
    /// The time from which its delete horizons count.
    pub(crate) horizon_from: TimestampMs,
    /// What the pass knows of transactions at `done_to`, as it wrote it.
    pub(crate) transactions: Vec<u8>,
}

impl PartitionLog {
    /// How far the log is clean. The first dirty offset is never below the log start.
    pub(crate) fn clean_state(&self) -> CleanState {
        unimplemented!("in the next commit")
    }

    /// Writes down how far the log is clean; durable when it returns.
    ///
    /// # Errors
    /// [`PutCleanError::Changed`] when the log was cut below it since the state was taken: plan anew.
    pub(crate) fn put_clean_state(&self, state: CleanState) -> Result<CleanState, PutCleanError> {
        let _ = state;
        unimplemented!("in the next commit")
    }
}

/// Why a state was not written down.
#[derive(Debug)]
pub(crate) enum PutCleanError {
    /// The log was cut since it was taken, or it lies outside the log.
    Changed,
    /// A failed or closed log; I/O, after which it may be tried again.
    Log(ChangeError),
}
