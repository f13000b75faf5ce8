//! How a table is kept.

use std::time::Duration;

use super::scan::OnScanDamage;
use crate::log::AppendAs;
use crate::record::Compression;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is in the page cache: it survives the death of the process.
    Cached,
    /// Once it survives a power loss, for which the call waits this long.
    Durable {
        /// How long.
        within: Duration,
    },
}

/// What a write does when somebody else has written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It fails with [`TableError::Conflict`](super::TableError::Conflict): the caller decides again.
    Refuse,
    /// The table catches up and writes again. For writes that do not depend on what was read.
    CatchUp {
        /// So many times at most; then it fails as with `Refuse`.
        attempts_max: u32,
    },
}

/// How a table is kept, and how it writes.
///
/// ```
/// use alluvium::table::{Acknowledge, TableOptions};
/// use alluvium::{AppendAs, LeaderEpoch};
/// use std::time::Duration;
/// let epoch = LeaderEpoch::new(3).unwrap();
/// let within = Duration::from_secs(10);
/// let options =
///     TableOptions { acknowledge: Acknowledge::Durable { within }, ..TableOptions::new(AppendAs::Coordinator { epoch }) };
/// assert_eq!(options.key_bytes_max, 32 << 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// On whose behalf it writes: as a client, within `max.message.bytes`, or as a coordinator.
    pub origin: AppendAs,
    /// When a write is acknowledged. Default in the page cache.
    pub acknowledge: Acknowledge,
    /// What to do about other writers. Default refuse.
    pub on_conflict: OnConflict,
    /// The token announced with [`PartitionLog::fence`](crate::PartitionLog::fence). Default `None`.
    pub fencing_token: Option<u64>,
    /// How batches are compressed. Default not at all; `compression.type` of the log has the last word.
    pub compression: Compression,
    /// Largest key that is written, in bytes. Default 32 KiB. What is in the log is loaded whatever its size.
    pub key_bytes_max: u32,
    /// Largest value that is written, in bytes. Default 1 MiB.
    pub value_bytes_max: u32,
    /// Bound on [`memory_bytes`](super::CompactedTable::memory_bytes). Default `None`: no bound.
    pub memory_bytes_max: Option<u64>,
    /// What loading does about damage. Default stop. A table that went around damage may show keys that were changed or
    /// deleted in what was lost.
    pub on_damage: OnScanDamage,
    /// Bytes read at a time, and between two reports of progress. Default 1 MiB.
    pub fetch_bytes: u64,
}

impl TableOptions {
    /// The defaults, writing as `origin`.
    pub fn new(origin: AppendAs) -> Self {
        Self {
            origin,
            acknowledge: Acknowledge::Cached,
            on_conflict: OnConflict::Refuse,
            fencing_token: None,
            compression: Compression::None,
            key_bytes_max: 32 << 10,
            value_bytes_max: 1 << 20,
            memory_bytes_max: None,
            on_damage: OnScanDamage::Stop,
            fetch_bytes: 1 << 20,
        }
    }
}

/// One change of a write.
///
/// ```
/// use alluvium::table::Change;
/// assert_eq!(Change::delete(b"k"), Change { key: b"k", value: None });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its new value; `None` deletes it, by a tombstone in the log.
    pub value: Option<&'a [u8]>,
}

impl<'a> Change<'a> {
    /// Sets `key` to `value`.
    pub fn put(key: &'a [u8], value: &'a [u8]) -> Self {
        Self { key, value: Some(value) }
    }

    /// Deletes `key`.
    pub fn delete(key: &'a [u8]) -> Self {
        Self { key, value: None }
    }
}
