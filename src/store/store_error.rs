//! Why a store could not be opened, or could not do what it was asked.

use std::path::PathBuf;
use std::sync::Arc;

use super::adopt::AdoptError;
use super::config::StoreConfigError;
use super::export::ExportError;
use super::lock::LockError;
use super::meta::MetaError;
use super::moving::MoveError;
use super::partition_id::{NameFault, TopicPartition};
use super::topic_id::TopicIdError;
use super::workers::SpawnError;
use crate::error::{ConfigError, IoFailure, OpenError, Unavailable};

/// Why a store could not be opened, or could not do what it was asked. Where nothing else is said, nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting is refused.
    #[error(transparent)]
    Config(#[from] StoreConfigError),
    /// A setting of a partition is refused.
    #[error(transparent)]
    LogConfig(#[from] ConfigError),
    /// No data directory is named.
    #[error("a store needs at least one data directory; name one")]
    NoDirectory,
    /// A path names something that is no directory.
    #[error("{} is not a directory; name a data directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A data directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A data directory is another node's, or does not say whose it is.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The name of a partition cannot stand on disk.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// There is such a partition.
    #[error("{partition} is there already, in {}; get it, or delete it first", dir.display())]
    Exists {
        /// Which one.
        partition: TopicPartition,
        /// Its directory.
        dir: PathBuf,
    },
    /// There is no such partition.
    #[error("there is no partition {partition} here; create it first")]
    Unknown {
        /// Which one.
        partition: TopicPartition,
    },
    /// The directory is not one of the store's.
    #[error("{} is no data directory of this store; name one that it was opened with", dir.display())]
    UnknownDirectory {
        /// As given.
        dir: PathBuf,
    },
    /// The directory is served.
    #[error("{} is not offline; there is nothing to reopen", dir.display())]
    NotOffline {
        /// The directory.
        dir: PathBuf,
    },
    /// Every directory is offline.
    #[error("every data directory is offline; mend a disk and reopen its directory")]
    AllOffline,
    /// The partition's directory is another topic's, or does not say whose it is.
    #[error(transparent)]
    TopicId(#[from] TopicIdError),
    /// The log of a partition could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The partition cannot be used now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A partition cannot be moved.
    #[error(transparent)]
    Move(Arc<MoveError>),
    /// A partition cannot be copied out.
    #[error(transparent)]
    Export(Arc<ExportError>),
    /// A directory cannot be taken in.
    #[error(transparent)]
    Adopt(Arc<AdoptError>),
    /// A worker of the store got no thread.
    #[error(transparent)]
    Thread(Arc<SpawnError>),
    /// The store is closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

impl StoreError {
    /// The system call that failed, if that is what it is.
    pub fn io(&self) -> Option<&IoFailure> {
        match self {
            Self::Io(failure)
            | Self::Lock(LockError::Io(failure))
            | Self::Meta(MetaError::Io(failure))
            | Self::TopicId(TopicIdError::Io(failure))
            | Self::Open(OpenError::Io(failure) | OpenError::Permission(failure)) => Some(failure),
            _ => None,
        }
    }
}
