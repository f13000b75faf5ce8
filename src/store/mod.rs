//! The files of a data directory: which partitions it holds, and what Kafka keeps beside them.
//!
//! ```text
//! names.rs          every name in a data directory, built and taken apart
//! partition_id.rs   topic and number of a partition; ids of topics and directories
//! checkpoints.rs    the four lists of offsets by partition
//! meta.rs           meta.properties: cluster, node and directory
//! topic_id.rs       partition.metadata: the id of a partition's topic
//! shutdown.rs       the clean-shutdown marker
//! adopt.rs          a partition's directory is taken in from elsewhere
//! export.rs         sealed segments for tiered storage, and a copy for backup
//! lock.rs           who has the directory open
//! moving.rs         a partition goes to another directory while it is written
//! moving_marker.rs  what a copy says of itself, and giving directories other names durably
//! moving_recovery.rs what an opening makes of copies that a crash left
//! ```
//! Formats and names are Kafka's; each file says which class they come from. All I/O goes through [`FileSystem`], and
//! nothing here starts a thread. What is wrong with a file's content is data, for the caller to decide on; only what the
//! system refuses is an [`IoFailure`]. Files are replaced whole: a crash leaves the old content or the new one.

#[cfg_attr(not(test), expect(dead_code, reason = "the store takes it up in the next change"))]
pub(crate) mod adopt;
mod checkpoints;
#[cfg_attr(not(test), expect(dead_code, reason = "the store takes it up in the next change"))]
pub(crate) mod export;
mod lock;
mod meta;
#[cfg_attr(not(test), expect(dead_code, reason = "the store takes it up in the next change"))]
pub(crate) mod moving;
pub(crate) mod moving_marker;
#[cfg_attr(not(test), expect(dead_code, reason = "the store takes it up in the next change"))]
pub(crate) mod moving_recovery;
pub mod names;
mod partition_id;
mod shutdown;
mod topic_id;

use std::io;
use std::path::Path;

pub use adopt::{AdoptError, Adopted};
pub use checkpoints::{CheckpointFault, OffsetCheckpoint, Others};
pub use export::{ExportError, ExportedSegment, Snapshot};
pub use lock::{DirectoryLock, DirectoryRegistry, LockError};
pub use meta::{Identity, MetaError, MetaFault, MetaProperties, MetaVersion, NodeId};
pub use moving::MoveError;
pub use names::{CheckpointKind, Entry, Fate, Listed, MarkedDir, UniqueId, classify, list};
pub use partition_id::{DIR_NAME_BYTES_MAX, DirectoryId, IdFault, NameFault, TOPIC_BYTES_MAX, TopicId, TopicPartition};
pub use shutdown::{is_clean_shutdown, mark_clean_shutdown, remove_clean_shutdown};
pub use topic_id::{TopicIdError, TopicIdFault, check_topic_id, claim_topic_id, read_topic_id};

use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, EntryKind, FileSystem, OpenMode};

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
