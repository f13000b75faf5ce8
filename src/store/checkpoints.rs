//! The four lists of offsets by partition that a data directory has (format: Kafka's `OffsetCheckpointFile`; the text
//! itself is read and written by [`index::decode_offsets`](crate::index::decode_offsets)).
//!
//! None of them is evidence: what a list does not say is found in the logs, at some cost. So content that cannot be read
//! is a list that says nothing, with the reason beside it:
//!
//! | list | when it says nothing of a partition |
//! |---|---|
//! | recovery point | everything in it is scanned; unreadable, that holds for all partitions of the directory |
//! | log start | the log starts with its first segment: records that were deleted from the front may be read again |
//! | high watermark | it starts at the log start and rises with the replicas |
//! | cleaner | cleaning begins at the log start once more |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::names::CheckpointKind;
use super::partition_id::TopicPartition;
use super::{Content, read_content};
use crate::error::IoFailure;
use crate::fs::FileSystem;
use crate::index::{TextFault, decode_offsets, encode_offsets, replace_small_file};
use crate::units::Offset;

/// No list of offsets is longer; one that is counts as unreadable, unread.
const FILE_BYTES_MAX: usize = 64 << 20;

/// A list that cannot be read, so that it says nothing of any partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be read: {cause}; {}", file.display(), consequence(*kind))]
pub struct CheckpointFault {
    /// The file.
    pub file: PathBuf,
    /// Which list it is.
    pub kind: CheckpointKind,
    /// What is wrong in it.
    pub cause: TextFault,
}

fn consequence(kind: CheckpointKind) -> &'static str {
    match kind {
        CheckpointKind::RecoveryPoint => "every partition of the directory is scanned from its start",
        CheckpointKind::LogStart => "logs start with their first segments, where nothing else tells",
        CheckpointKind::HighWatermark => "high watermarks start at the log starts, where nothing else tells",
        CheckpointKind::Cleaner => "cleaning begins at the log starts once more",
    }
}

/// What becomes of partitions that an update does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay in the list: they may be in service, or yet to be opened.
    Keep,
    /// They leave it: the update names every partition that there is.
    Drop,
}

/// One of a data directory's lists of offsets, in memory. Written by whoever holds the directory's lock.
///
/// ```
/// use alluvium::Offset;
/// use alluvium::fs::OsFileSystem;
/// use alluvium::store::{CheckpointKind, OffsetCheckpoint, TopicPartition};
/// let dir = tempfile::tempdir().unwrap();
/// let mut points = OffsetCheckpoint::read(&OsFileSystem, dir.path(), CheckpointKind::RecoveryPoint).unwrap();
/// let orders = TopicPartition::new("orders", 0).unwrap();
/// assert_eq!(points.offset(&orders), None);
/// points.set(orders.clone(), Offset::new(30).unwrap());
/// points.replace(&OsFileSystem, dir.path()).unwrap();
/// let read = OffsetCheckpoint::read(&OsFileSystem, dir.path(), CheckpointKind::RecoveryPoint).unwrap();
/// assert_eq!(read.offset(&orders), Offset::new(30));
/// assert_eq!(points.encode(), b"0\n1\norders 0 30\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCheckpoint {
    kind: CheckpointKind,
    offsets: BTreeMap<TopicPartition, Offset>,
    /// Entries whose topic is none that could exist here: Kafka's reader takes any word.
    strangers: Vec<(String, i32, Offset)>,
    fault: Option<CheckpointFault>,
}

impl OffsetCheckpoint {
    /// A list that says nothing yet.
    pub fn new(kind: CheckpointKind) -> Self {
        Self { kind, offsets: BTreeMap::new(), strangers: Vec::new(), fault: None }
    }

    /// Reads the list of `dir`. Without a file it is empty; what is no list is empty too, and
    /// [`fault`](Self::fault) has the reason. Changes nothing on disk.
    ///
    /// # Errors
    /// [`IoFailure`] when the system refuses to read: then the directory itself is in trouble.
    pub fn read(fs: &dyn FileSystem, dir: &Path, kind: CheckpointKind) -> Result<Self, IoFailure> {
        let file = dir.join(kind.file_name());
        let decoded = match read_content(fs, &file, FILE_BYTES_MAX)? {
            None => return Ok(Self::new(kind)),
            Some(Content::Whole(bytes)) => decode_offsets(&bytes),
            Some(Content::TooLong(bytes)) => Err(TextFault::Size { bytes, max: FILE_BYTES_MAX as u64 }),
        };
        Ok(match decoded {
            Ok(entries) => Self::of_entries(kind, entries),
            Err(cause) => Self { fault: Some(CheckpointFault { file, kind, cause }), ..Self::new(kind) },
        })
    }

    fn of_entries(kind: CheckpointKind, entries: Vec<(String, i32, Offset)>) -> Self {
        let mut list = Self::new(kind);
        for (topic, partition, offset) in entries {
            match TopicPartition::new(&topic, partition) {
                Ok(named) => drop(list.offsets.insert(named, offset)),
                Err(_) => list.strangers.push((topic, partition, offset)),
            }
        }
        list
    }

    /// Which list it is.
    pub fn kind(&self) -> CheckpointKind {
        self.kind
    }

    /// Why the file could not be read, if it could not. Stays until the list is read again.
    pub fn fault(&self) -> Option<&CheckpointFault> {
        self.fault.as_ref()
    }

    /// What the list says of a partition.
    pub fn offset(&self, partition: &TopicPartition) -> Option<Offset> {
        self.offsets.get(partition).copied()
    }

    /// All that it says, by topic and then partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&TopicPartition, Offset)> {
        self.offsets.iter().map(|(partition, offset)| (partition, *offset))
    }

    /// Entries of the file whose topic or partition cannot exist here, by topic and then partition; to be reported.
    /// They are written again until [`Others::Drop`].
    pub fn strangers(&self) -> &[(String, i32, Offset)] {
        &self.strangers
    }

    /// Says `offset` of a partition from now on; whether that is new.
    pub fn set(&mut self, partition: TopicPartition, offset: Offset) -> bool {
        self.offsets.insert(partition, offset) != Some(offset)
    }

    /// Says nothing of a partition any more, as when it was deleted: one that is created later under the same name
    /// must not find the offset. Returns what it said.
    pub fn remove(&mut self, partition: &TopicPartition) -> Option<Offset> {
        self.offsets.remove(partition)
    }

    /// Takes the offsets of many partitions, and says whether anything changed, so that the file is to be replaced.
    pub fn update(&mut self, offsets: &BTreeMap<TopicPartition, Offset>, others: Others) -> bool {
        let mut changes = false;
        if others == Others::Drop {
            let before = self.offsets.len() + self.strangers.len();
            self.strangers.clear();
            self.offsets.retain(|partition, _| offsets.contains_key(partition));
            changes = self.offsets.len() != before;
        }
        for (partition, offset) in offsets {
            changes |= self.set(partition.clone(), *offset);
        }
        changes
    }

    /// The bytes of the file: Kafka's, by topic and then partition where Kafka follows a hash map.
    pub fn encode(&self) -> Vec<u8> {
        let named = |(partition, offset): (&TopicPartition, &Offset)| {
            (partition.topic().to_owned(), partition.partition(), *offset)
        };
        let entries: Vec<_> = self.offsets.iter().map(named).chain(self.strangers.iter().cloned()).collect();
        encode_offsets(&entries)
    }

    /// Replaces the file in `dir`. Durable when it returns; a crash, or an error, leaves the old list or the new one.
    ///
    /// # Errors
    /// [`IoFailure`]: on a full disk ([`IoFailure::is_storage_full`]) try again when there is space, the old list goes on
    /// being true. Where its path is `dir` itself, the new list is in place and may not last: write it again.
    pub fn replace(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        replace_small_file(fs, dir, self.kind.file_name(), &self.encode())
    }
}

#[cfg(test)]
mod tests;
