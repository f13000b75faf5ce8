//! A store: the partitions of one process over one or more data directories.
//!
//! ```text
//! open.rs           opening: locks, identity, what is found            loading.rs  partitions of a directory, in parallel
//! partitions.rs     create, get, delete, reopen                        partition.rs  the handle that users hold
//! as_log.rs         the same handle as `dyn Log`
//! hosted.rs         one partition: open, put aside, failed or away     shared.rs  what all of it shares
//! housekeeping.rs   what time asks for                                 closing.rs  the way out
//! lists.rs          its four lists of offsets, changed in memory and on disk together
//! directory.rs      one data directory: lock, lists, online or not     report.rs progress.rs store_error.rs config.rs
//!
//! names.rs          every name in a data directory, built and taken apart
//! partition_id.rs   topic and number of a partition; ids of topics and directories
//! checkpoints.rs    the four lists of offsets by partition
//! meta.rs           meta.properties: cluster, node and directory
//! topic_id.rs       partition.metadata: the id of a partition's topic
//! shutdown.rs       the clean-shutdown marker
//! adopt.rs          a partition's directory is taken in from elsewhere
//! export.rs         sealed segments for tiered storage, and a copy for backup
//! lock.rs           who has the directory open
//! workers.rs        background work in supervised steps, with threads or without
//! cleaner/          which compacted partition is cleaned when, and what becomes of it when something fails
//! throttle.rs       how many bytes a second background work may move
//! space.rs          floor and reserve of a directory's space
//! config.rs         settings; their keys are in config_keys.rs
//! events.rs         what befalls a store, told to subscribers
//! health.rs         how everything is doing, without waiting for a disk
//! metrics.rs        what was counted, summed up
//! publish.rs        the same for the `metrics` crate        trace.rs  events for the `tracing` crate
//! scrubber.rs       going through what is sealed, at a byte rate
//! witness.rs        what our store writes, so that it shows when somebody else was there
//! relocation.rs     partitions change their place: moved, backed up, adopted
//! moving.rs         a partition goes to another directory while it is written
//! moving_marker.rs  what a copy says of itself, and giving directories other names durably
//! moving_recovery.rs what an opening makes of copies that a crash left
//! ```
//! Formats and names are Kafka's; each file says which class they come from. What is wrong with a file's content is data,
//! for the caller to decide on; only what the system refuses is an [`IoFailure`]. Files are replaced whole: a crash leaves
//! the old content or the new one.

mod adopt;
mod as_log;
mod checkpoints;
pub mod cleaner;
mod closing;
pub mod config;
mod config_keys;
mod config_of;
mod directories;
mod directory;
pub mod events;
mod export;
mod health;
mod hosted;
mod housekeeping;
mod lists;
mod loading;
mod lock;
mod meta;
mod metrics;
mod moving;
mod moving_marker;
mod moving_recovery;
pub mod names;
mod open;
mod partition;
mod partition_id;
mod partitions;
mod progress;
#[cfg(feature = "metrics")]
mod publish;
mod relocation;
mod report;
mod scrubber;
mod shared;
mod shutdown;
mod sizes;
pub mod space;
mod store_error;
pub mod throttle;
mod topic_id;
mod trace;
mod witness;
pub mod workers;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use adopt::{AdoptError, Adopted};
pub use checkpoints::{CheckpointFault, OffsetCheckpoint, Others};
pub use cleaner::Cleaner;
pub use closing::{StoreClosed, StoreTicked};
pub use config::{StoreConfig, StoreConfigError, Workers};
pub use directories::DirectoryHealth;
pub use events::{Events, StoreEvent, Subscription};
pub use export::{ExportError, ExportedSegment, Snapshot};
pub use health::{OpeningSummary, PartitionHealth, StoreHealth, WorkerStatus};
pub use housekeeping::Housekept;
pub use lock::{DirectoryLock, DirectoryRegistry, LockError};
pub use meta::{Identity, MetaError, MetaFault, MetaProperties, MetaVersion, NodeId};
pub use metrics::{DirectoryMetrics, PartitionCounts, PartitionMetrics, ScrubCounts, StoreMetrics, WorkCounts};
pub use moving::MoveError;
pub use names::{CheckpointKind, Entry, Fate, Listed, MarkedDir, UniqueId, classify, list};
pub use open::StoreOpening;
pub use partition::{Partition, PartitionState};
pub use partition_id::{DIR_NAME_BYTES_MAX, DirectoryId, IdFault, NameFault, TOPIC_BYTES_MAX, TopicId, TopicPartition};
pub use partitions::CreateOptions;
pub use progress::{OpenProgress, Progress};
#[cfg(feature = "metrics")]
pub use publish::{MetricDoc, PUBLISHED, describe_metrics};
pub use relocation::{MoveProgress, Relocation};
pub use report::{DirectoryReport, PartitionReport, StoreReport};
pub use scrubber::ScrubMetrics;
pub use shutdown::{is_clean_shutdown, mark_clean_shutdown, remove_clean_shutdown};
pub use space::{SpaceGuard, SpaceLow};
pub use store_error::StoreError;
pub use topic_id::{TopicIdError, TopicIdFault, check_topic_id, claim_topic_id, read_topic_id};

use closing::Owner;
use config_of::ConfigOf;
use shared::Shared;

use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, EntryKind, FileSystem, OpenMode};

/// A store: all partitions of one process, over one or more data directories. A handle: clones are cheap and name the same
/// store. `Send + Sync`; any thread may call anything.
///
/// The last handle to go closes the store as a crash would, which loses nothing that was acknowledged as durable;
/// [`Store::close`] spares the next opening its scans.
///
/// ```
/// use alluvium::LogConfig;
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// use std::time::Duration;
///
/// let dir = tempfile::tempdir()?;
/// let orders = TopicPartition::new("orders", 0)?;
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// store.create(&orders, LogConfig::default())?;
/// assert_eq!(store.partitions(), [orders.clone()]);
/// store.close(Duration::from_secs(10))?;
///
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// assert!(store.report().directories[0].was_clean);
/// store.delete(&orders)?;
/// assert!(store.get(&orders).is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
    report: Arc<StoreReport>,
    configs: ConfigOf,
}

impl Store {
    /// Opens the store. See [`StoreOpening`] for what can be said beside the settings.
    ///
    /// # Errors
    /// As [`StoreOpening::open`].
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        StoreOpening::new(config).open()
    }

    /// What opening found.
    pub fn report(&self) -> &StoreReport {
        &self.report
    }
}

/// What a small file holds.
enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// It has this many bytes, more than such a file can have, and was not read.
    TooLong(u64),
}

/// Reads a small file; `None` when there is none. No more than `bytes_max` are allocated, whatever the file's size.
fn read_content(fs: &dyn FileSystem, path: &Path, bytes_max: usize) -> Result<Option<Content>, IoFailure> {
    let found = match fs.metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|e| IoFailure::new(IoOperation::Open, path, e))?,
    };
    if found.kind != EntryKind::File {
        // Opening a pipe would wait for somebody to write to it.
        return Err(IoFailure::new(IoOperation::Open, path, io::ErrorKind::InvalidInput.into()));
    }
    let Some(len) = usize::try_from(found.len).ok().filter(|len| *len <= bytes_max) else {
        return Ok(Some(Content::TooLong(found.len)));
    };
    let file = fs.open(path, OpenMode::Read).map_err(|e| IoFailure::new(IoOperation::Open, path, e))?;
    let mut bytes = vec![0; len];
    let failed = |e| IoFailure::new(IoOperation::Read, path, e);
    let read = fs::read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(Some(Content::Whole(bytes)))
}

/// Removes what a crash left half-written in a data directory, and says how many files that were. Not synced: what comes
/// back with a power loss is removed by the next call. To be called while the directory is locked.
///
/// # Errors
/// [`IoFailure`] when the directory cannot be listed or a file cannot be removed; some may be gone by then.
pub fn remove_temporaries(fs: &dyn FileSystem, dir: &Path) -> Result<usize, IoFailure> {
    let listed = list(fs, dir)?;
    let temporary = listed.iter().filter(|listed| listed.entry == Entry::Temporary);
    let mut removed = 0;
    for path in temporary.map(|listed| dir.join(&listed.name)) {
        fs.remove_file(&path).map_err(|e| IoFailure::new(IoOperation::Remove, path, e))?;
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod crash_tests;
