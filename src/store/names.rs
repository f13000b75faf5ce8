//! Every name that stands in a data directory, built and parsed here; those within a partition are in
//! [`segment::names`](crate::segment::names).
//!
//! ```text
//! .lock                                whole-file lock of whoever has the directory open; never unlinked
//! .kafka_cleanshutdown                 there if, and only if, the last shutdown of the directory was clean
//! meta.properties                      ids of cluster, node and directory
//! recovery-point-offset-checkpoint     below it, every byte of the partition was synced
//! log-start-offset-checkpoint          first offset that may be read
//! replication-offset-checkpoint        high watermark
//! cleaner-offset-checkpoint            first offset that is not cleaned yet
//! <any of the above>.tmp               being written, worth nothing after a crash
//! <topic>-<partition>/                 a partition
//! <topic>-<partition>.<32 hex>-delete/ one that is on its way out; topic cut so that the name has 255 bytes at most
//! <topic>-<partition>.<32 hex>-stray/  one that should not be here; cut likewise
//! <topic>-<partition>.<32 hex>-future/ a copy that is being built; never cut
//! __cluster_metadata-0/                the log of a controller, which opens it by itself
//! remote-log-index-cache/              of tiered storage
//! alluvium.reserve                     space for what must go on when the disk is full
//! alluvium.*                           plain files of ours
//! ```
//! Sources: Kafka's `LocalLog`, `UnifiedLog`, `LogManager`. To Kafka any other directory is a reason not to start; here it
//! is left alone and reported.

use std::fmt;
use std::path::Path;

use super::partition_id::{DIR_NAME_BYTES_MAX, NameFault, TopicPartition, as_version_4, check_topic, split};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{DirEntry, EntryKind, FileSystem};
use crate::segment::names::{HIGH_WATERMARKS, LOG_STARTS, PARENT_CLEAN_SHUTDOWN, PARENT_LOCK, RECOVERY_POINTS};

/// Held (fcntl) by whoever has the directory open. The file stays when the lock goes.
pub const LOCK: &str = PARENT_LOCK;
/// Present when the last shutdown was clean.
pub const CLEAN_SHUTDOWN: &str = PARENT_CLEAN_SHUTDOWN;
/// Whose directory it is.
pub const META_PROPERTIES: &str = "meta.properties";
/// Kafka's cache of indexes of segments that are elsewhere.
pub const REMOTE_LOG_INDEX_CACHE: &str = "remote-log-index-cache";
/// The topic of `KRaft`'s own log.
pub const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";
/// Takes up space that is freed when the disk is full; its content means nothing.
pub const RESERVE: &str = "alluvium.reserve";
/// At the end of the name of a backup that is being made.
pub(crate) const UNFINISHED_SUFFIX: &str = ".unfinished";
const OURS_PREFIX: &str = "alluvium.";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// One of Kafka's four lists of offsets by partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointKind {
    /// Recovery points: everything below is synced (`LogManager`).
    RecoveryPoint,
    /// Log starts, of those partitions whose start is past the base of their first segment (`LogManager`).
    LogStart,
    /// High watermarks (`ReplicaManager`).
    HighWatermark,
    /// First offsets that the cleaner has not been at (`LogCleanerManager`).
    Cleaner,
}

impl CheckpointKind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::RecoveryPoint, Self::LogStart, Self::HighWatermark, Self::Cleaner];

    /// The file's name.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::RecoveryPoint => RECOVERY_POINTS,
            Self::LogStart => LOG_STARTS,
            Self::HighWatermark => HIGH_WATERMARKS,
            Self::Cleaner => "cleaner-offset-checkpoint",
        }
    }
}

/// What makes a directory another one than that of a live partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// To be removed.
    Delete,
    /// A copy that will take the place of the partition in another directory.
    Future,
    /// Should not be here by what the cluster knows; kept until somebody decides.
    Stray,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Delete, Self::Future, Self::Stray];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Delete => "-delete",
            Self::Future => "-future",
            Self::Stray => "-stray",
        }
    }
}

/// What keeps two directories of one partition apart: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueId(u128);

impl UniqueId {
    /// From 128 random bits, six of which are not used: a UUID of version 4, as Java makes it.
    #[must_use]
    pub const fn from_random(bits: u128) -> Self {
        Self(as_version_4(bits))
    }

    /// Reads 32 lower-case digits. Kafka writes no others.
    fn parse(digits: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_id = digits.len() == 32 && digits.bytes().all(is_digit);
        if is_id { u128::from_str_radix(digits, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a partition's directory that is not, or not any more, in service.
///
/// ```
/// use alluvium::store::{Fate, MarkedDir, TopicPartition, UniqueId};
/// let orders = TopicPartition::new("orders", 0)?;
/// let marked = MarkedDir::new(&orders, Fate::Delete, UniqueId::from_random(7))?;
/// assert_eq!(marked.name(), "orders-0.00000000000040008000000000000007-delete");
/// assert_eq!(MarkedDir::parse(&marked.name()), Some(marked.clone()));
/// assert_eq!(marked.partition(), Some(orders));
/// # Ok::<(), alluvium::store::NameFault>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkedDir {
    topic: String,
    partition: i32,
    id: UniqueId,
    fate: Fate,
}

impl MarkedDir {
    /// The name for a directory of `partition`. Where it is to be deleted or is a stray, the topic is cut as far as
    /// needed (Kafka's `logDirNameWithSuffixCappedLength`).
    ///
    /// # Errors
    /// [`NameFault::DirNameLength`] for a future copy of a partition whose topic is too long: Kafka does not cut these,
    /// and a cut name would not say whose copy it is.
    pub fn new(partition: &TopicPartition, fate: Fate, id: UniqueId) -> Result<Self, NameFault> {
        let whole = Self { topic: partition.topic().to_owned(), partition: partition.partition(), id, fate };
        let bytes = whole.name().len();
        let excess = bytes.saturating_sub(DIR_NAME_BYTES_MAX);
        if excess > 0 && fate == Fate::Future {
            return Err(NameFault::DirNameLength { bytes });
        }
        // What is cut is ASCII, so that any byte is a character; two hundred of them are left at least.
        let kept = whole.topic.len().saturating_sub(excess);
        let topic = whole.topic.get(..kept).unwrap_or_default().to_owned();
        Ok(Self { topic, ..whole })
    }

    /// Takes a name apart; `None` when it is none that Kafka or we would write.
    pub fn parse(name: &str) -> Option<Self> {
        let (fate, rest) = Fate::ALL.into_iter().find_map(|fate| Some((fate, name.strip_suffix(fate.suffix())?)))?;
        let (partition, id) = rest.rsplit_once('.')?;
        let id = UniqueId::parse(id)?;
        let (topic, partition) = split(partition)?;
        check_topic(topic).ok()?;
        (name.len() <= DIR_NAME_BYTES_MAX).then(|| Self { topic: topic.to_owned(), partition, id, fate })
    }

    /// The name.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// The same copy on its way to something else. Only of a name that was not cut, which every future one is.
    #[must_use]
    pub(crate) fn with_fate(&self, fate: Fate) -> Self {
        Self { fate, ..self.clone() }
    }

    /// What becomes of the directory.
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// What keeps it apart from others of the same partition.
    pub fn id(&self) -> UniqueId {
        self.id
    }

    /// Whose directory it is; `None` where the name is so long that the topic may have been cut.
    pub fn partition(&self) -> Option<TopicPartition> {
        let may_be_cut = self.fate != Fate::Future && self.name().len() == DIR_NAME_BYTES_MAX;
        if may_be_cut { None } else { TopicPartition::new(&self.topic, self.partition).ok() }
    }
}

impl fmt::Display for MarkedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}{}", self.topic, self.partition, self.id, self.fate.suffix())
    }
}

/// What an entry of a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The directory of a partition in service.
    Partition(TopicPartition),
    /// The directory of a partition that is not in service.
    Marked(MarkedDir),
    /// The directory of `KRaft`'s own log. The controller opens it, Kafka's log manager never does.
    ClusterMetadata(TopicPartition),
    /// A list of offsets.
    Checkpoint(CheckpointKind),
    /// Half a file that a crash left; it may be removed.
    Temporary,
    /// The lock file.
    Lock,
    /// The clean-shutdown marker.
    CleanShutdown,
    /// `meta.properties`.
    MetaProperties,
    /// Tiered storage's cache of indexes.
    RemoteLogIndexCache,
    /// A file of ours.
    Ours,
    /// Something that file systems and desktops leave around.
    Ignorable,
    /// Somebody else's file, or one with the name of a directory or the other way round. Left alone, to be reported.
    UnknownFile,
    /// Somebody else's directory. Left alone, to be reported: Kafka would not start on it.
    UnknownDir,
}

/// Says what an entry of a data directory is. An [`EntryKind::Other`] counts as a file: of a symbolic link give the kind
/// that [`FileSystem::metadata`] tells, as [`list`] does.
///
/// ```
/// use alluvium::fs::{DirEntry, EntryKind};
/// use alluvium::store::{Entry, classify};
/// let entry = DirEntry { name: "orders-0".into(), kind: EntryKind::Directory };
/// assert_eq!(classify(&entry), Entry::Partition("orders-0".parse().unwrap()));
/// ```
pub fn classify(entry: &DirEntry) -> Entry {
    if entry.kind == EntryKind::Directory { classify_dir(&entry.name) } else { classify_file(entry) }
}

fn classify_dir(name: &str) -> Entry {
    // First of all: a topic may begin with a dot.
    if let Ok(partition) = name.parse::<TopicPartition>() {
        let is_metadata = partition.topic() == CLUSTER_METADATA_TOPIC;
        return if is_metadata { Entry::ClusterMetadata(partition) } else { Entry::Partition(partition) };
    }
    if let Some(marked) = MarkedDir::parse(name) {
        return Entry::Marked(marked);
    }
    match name {
        REMOTE_LOG_INDEX_CACHE => Entry::RemoteLogIndexCache,
        "lost+found" => Entry::Ignorable,
        _ if name.starts_with('.') && !is_of_kafka(name) => Entry::Ignorable,
        _ => Entry::UnknownDir,
    }
}

fn classify_file(entry: &DirEntry) -> Entry {
    let name = entry.name.as_str();
    if entry.kind == EntryKind::Other {
        return Entry::UnknownFile;
    }
    if let Some(file) = name.strip_suffix(TEMPORARY_SUFFIX) {
        let is_replaced = is_of_kafka(file) && file != LOCK || file.starts_with(OURS_PREFIX);
        return if is_replaced { Entry::Temporary } else { Entry::UnknownFile };
    }
    match name {
        LOCK => Entry::Lock,
        CLEAN_SHUTDOWN => Entry::CleanShutdown,
        META_PROPERTIES => Entry::MetaProperties,
        _ if name.starts_with(OURS_PREFIX) => Entry::Ours,
        _ => match checkpoint(name) {
            Some(kind) => Entry::Checkpoint(kind),
            None if name.starts_with('.') => Entry::Ignorable,
            None => Entry::UnknownFile,
        },
    }
}

fn checkpoint(name: &str) -> Option<CheckpointKind> {
    CheckpointKind::ALL.into_iter().find(|kind| kind.file_name() == name)
}

/// A file that Kafka keeps in a data directory.
fn is_of_kafka(name: &str) -> bool {
    matches!(name, LOCK | CLEAN_SHUTDOWN | META_PROPERTIES) || checkpoint(name).is_some()
}

/// An entry of a data directory, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the directory.
    pub name: String,
    /// What it is to a store.
    pub entry: Entry,
}

/// Lists a data directory, by name, and says what each entry is. Symbolic links are what they lead to, as to Kafka; one
/// that leads nowhere is unknown. Changes nothing.
///
/// # Errors
/// [`IoFailure`] when the directory cannot be listed.
pub fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<Listed>, IoFailure> {
    let entries = fs.list(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    let resolved = entries.into_iter().map(|entry| match entry.kind {
        EntryKind::Other => {
            let kind = fs.metadata(&dir.join(&entry.name)).map_or(EntryKind::Other, |found| found.kind);
            DirEntry { kind, ..entry }
        }
        _ => entry,
    });
    Ok(resolved.map(|entry| Listed { entry: classify(&entry), name: entry.name }).collect())
}

#[cfg(test)]
mod tests;
