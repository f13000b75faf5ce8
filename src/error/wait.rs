//! Why a wait for a mark ended without it.

use super::{LogFailed, Unavailable};
use crate::units::{Mark, Offset};

/// Why a wait for a mark ended before the mark was where it was wanted. A mark that is there already is never an error,
/// not even of a log that failed or is closed.
///
/// ```
/// use alluvium::Offset;
/// use alluvium::error::WaitError;
/// use alluvium::units::Mark;
/// let (at, wanted) = (Offset::new(4).unwrap(), Offset::new(9).unwrap());
/// let late = WaitError::DeadlinePassed { mark: Mark::HighWatermark, at, wanted };
/// assert!(late.to_string().starts_with("the high watermark is at 4 and did not reach 9"));
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed first. Nothing is wrong: a long-poll fetch answers with what there is.
    #[error("the {mark} is at {at} and did not reach {wanted} before the deadline; wait again or give more time")]
    DeadlinePassed {
        /// Which mark was waited for.
        mark: Mark,
        /// Where it stood at the deadline.
        at: Offset,
        /// Where it was wanted.
        wanted: Offset,
    },
    /// The log latched: it takes no more appends, so there is nothing to wait for.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The log was closed first.
    #[error("the log was closed before the mark was reached; open it again and look at its marks")]
    Closed,
    /// The log is a store's, which cannot give it now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
