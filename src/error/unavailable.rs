//! Why a partition of a store cannot be used now.

use std::path::PathBuf;
use std::sync::Arc;

use super::{IoFailure, OpenError};

/// Why a partition of a store cannot be used now. Its handle stays good: once the cause is gone, calls succeed again.
///
/// ```
/// use alluvium::error::Unavailable;
/// assert_eq!(Unavailable::Deleted.to_string(), "the partition was deleted; create it again");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Somebody deleted it.
    #[error("the partition was deleted; create it again")]
    Deleted,
    /// The store is closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// The data directory that holds it failed.
    #[error("{} is offline: {cause}; mend the disk and reopen the directory", dir.display())]
    Offline {
        /// The data directory.
        dir: PathBuf,
        /// What failed in it.
        cause: Box<IoFailure>,
    },
    /// A move of it began to switch over and did not come to its end. Nothing acknowledged is lost.
    #[error("a move of the partition to {} did not come to its end; mend the disks and open the store again", dir.display())]
    Halfway {
        /// The data directory that it was on the way to.
        dir: PathBuf,
    },
    /// It could not be opened, at the start of the store or when it was used after a time of idleness.
    #[error("the partition cannot be opened: {0}; mend that and reopen the partition")]
    Open(Arc<OpenError>),
}
