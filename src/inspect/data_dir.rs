//! A read-only view of a data directory: what a store, or Kafka, left in it, or has in it now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{InspectError, LastClose, PartitionFiles};
use crate::fs::{DirEntry, EntryKind, FileSystem, OsFileSystem};
use crate::log::directory::DirectoryWord;
use crate::log::hosted::peek;
use crate::log::state::RecoveryPoint;
use crate::segment::{FileKind, SegmentFile, Stage, names};
use crate::store::names::RESERVE;
use crate::store::{
    CheckpointFault, CheckpointKind, Entry, MetaError, MetaProperties, OffsetCheckpoint, TopicId, TopicIdError,
    TopicPartition, is_clean_shutdown, list, read_topic_id,
};
use crate::units::Offset;

/// What lies in a data directory. Takes no lock and changes nothing; of a directory that is in use, each line was true
/// when it was read.
///
/// ```
/// use alluvium::LogConfig;
/// use alluvium::inspect::DataDirectory;
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// store.create(&TopicPartition::new("orders", 0)?, LogConfig::default())?;
/// store.close(std::time::Duration::from_secs(10))?;
/// drop(store);
/// let found = DataDirectory::read(dir.path())?;
/// assert!(found.was_clean && !found.in_use && found.is_sound());
/// assert_eq!(found.partitions[0].partition.to_string(), "orders-0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DataDirectory {
    /// The directory.
    pub dir: PathBuf,
    /// Somebody, a broker or a store, has it open.
    pub in_use: bool,
    /// Kafka's marker of a clean shutdown is there.
    pub was_clean: bool,
    /// What a store of ours wrote down of it; `None` where none was.
    pub witness: Option<WitnessInfo>,
    /// `meta.properties`, if it is there and can be read.
    pub meta: Option<MetaProperties>,
    /// Why it cannot be read.
    pub meta_fault: Option<MetaError>,
    /// Kafka's four lists of offsets.
    pub lists: Vec<ListInfo>,
    /// Bytes of the reserve.
    pub reserve_bytes: u64,
    /// Every partition in service, by name.
    pub partitions: Vec<PartitionInfo>,
    /// Directories of partitions that are not: deleted, strays, copies under way.
    pub set_aside: Vec<String>,
    /// Entries that are neither ours nor Kafka's.
    pub unknown_entries: Vec<String>,
}

/// What a store of ours wrote down of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WitnessInfo {
    /// How often a store took the directory.
    pub incarnation: u64,
    /// Whether the last one closed it.
    pub is_closed: bool,
    /// Whether nobody else changed its lists since, by all that they show.
    pub is_unbroken: bool,
}

/// One of Kafka's lists of offsets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListInfo {
    /// Which one.
    pub kind: CheckpointKind,
    /// Partitions that it names.
    pub entries: usize,
    /// Why it cannot be read.
    pub fault: Option<CheckpointFault>,
}

/// One partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// Which one.
    pub partition: TopicPartition,
    /// The id of its topic, if it is there and can be read.
    pub topic_id: Option<TopicId>,
    /// Why it cannot be read.
    pub topic_id_fault: Option<TopicIdError>,
    /// The largest log start that its files name.
    pub log_start: Offset,
    /// Offset after the last valid batch: by the marker of a clean close that fits, or by the batches of the newest
    /// segment.
    pub log_end: Offset,
    /// What the list of recovery points says.
    pub listed_recovery_point: Option<Offset>,
    /// Everything below it is durable, if a state file says so.
    pub durable_end: Option<Offset>,
    /// Its segments.
    pub segments: usize,
    /// Bytes of their logs.
    pub bytes: u64,
    /// Segments with a sum.
    pub sums: usize,
    /// Ranges known to be unreadable.
    pub damage: usize,
    /// A sync began and is not known to have succeeded.
    pub in_doubt: bool,
    /// How it was left.
    pub last_close: LastClose,
    /// Why nothing else is known of it.
    pub fault: Option<InspectError>,
}

impl PartitionInfo {
    /// Whether nothing is wrong with it, by what its state files say; its batches are not checked.
    pub fn is_sound(&self) -> bool {
        self.damage == 0 && self.fault.is_none() && self.topic_id_fault.is_none()
    }
}

impl DataDirectory {
    /// Looks at `dir` on the operating system's file system.
    ///
    /// # Errors
    /// [`InspectError`] when there is no such directory, or it cannot be listed.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self, InspectError> {
        Self::read_on(&(Arc::new(OsFileSystem) as Arc<dyn FileSystem>), dir)
    }

    /// Looks at `dir` of `fs`.
    ///
    /// # Errors
    /// As [`DataDirectory::read`].
    pub fn read_on(fs: &Arc<dyn FileSystem>, dir: impl AsRef<Path>) -> Result<Self, InspectError> {
        let dir = dir.as_ref();
        super::check_directory(&**fs, dir)?;
        let word = DirectoryWord::read(&**fs, dir)?;
        let witness = word.witness.as_ref().map(|witness| WitnessInfo {
            incarnation: witness.incarnation,
            is_closed: witness.is_closed,
            is_unbroken: word.is_unbroken,
        });
        let (meta, meta_fault) = apart(MetaProperties::read(&**fs, dir));
        let mut found = Self {
            dir: dir.to_owned(),
            // Whoever may not be asked is taken for nobody: this is a hint only.
            in_use: fs.is_locked(&dir.join(names::PARENT_LOCK)).unwrap_or(false),
            was_clean: is_clean_shutdown(&**fs, dir)?,
            witness,
            meta,
            meta_fault,
            lists: Vec::new(),
            reserve_bytes: fs.metadata(&dir.join(RESERVE)).map_or(0, |found| found.len),
            partitions: Vec::new(),
            set_aside: Vec::new(),
            unknown_entries: Vec::new(),
        };
        let mut points = OffsetCheckpoint::new(CheckpointKind::RecoveryPoint);
        for kind in CheckpointKind::ALL {
            let list = OffsetCheckpoint::read(&**fs, dir, kind)?;
            found.lists.push(ListInfo { kind, entries: list.offsets().count(), fault: list.fault().cloned() });
            if kind == CheckpointKind::RecoveryPoint {
                points = list;
            }
        }
        for listed in list(&**fs, dir)? {
            match listed.entry {
                Entry::Partition(name) => {
                    let point = points.offset(&name);
                    found.partitions.push(PartitionInfo::read(fs, dir, name, point));
                }
                Entry::Marked(_) => found.set_aside.push(listed.name),
                Entry::UnknownFile | Entry::UnknownDir => found.unknown_entries.push(listed.name),
                _ => {}
            }
        }
        found.partitions.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(found)
    }

    /// Whether nothing is wrong, by what lists and state files say; batches are not checked.
    pub fn is_sound(&self) -> bool {
        self.meta_fault.is_none()
            && self.lists.iter().all(|list| list.fault.is_none())
            && self.partitions.iter().all(PartitionInfo::is_sound)
    }
}

impl PartitionInfo {
    fn read(fs: &Arc<dyn FileSystem>, dir: &Path, partition: TopicPartition, listed: Option<Offset>) -> Self {
        let path = dir.join(partition.dir_name());
        let (topic_id, topic_id_fault) = apart(read_topic_id(&**fs, &path));
        let mut info = Self {
            partition,
            topic_id,
            topic_id_fault,
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            listed_recovery_point: listed,
            durable_end: None,
            segments: 0,
            bytes: 0,
            sums: 0,
            damage: 0,
            in_doubt: false,
            last_close: LastClose::Unknown,
            fault: None,
        };
        info.fault = info.fill(fs, &path).err();
        info
    }

    fn fill(&mut self, fs: &Arc<dyn FileSystem>, path: &Path) -> Result<(), InspectError> {
        let files = PartitionFiles::open_on(Arc::clone(fs), path)?;
        let segments = files.segments()?;
        self.segments = segments.len();
        self.bytes = segments.iter().map(|segment| segment.log_bytes).sum();
        let is_sum = |file: &SegmentFile| file.kind == FileKind::Sum && file.stage == Stage::Live;
        self.sums = files.entries()?.iter().filter_map(segment_file).filter(is_sum).count();
        let state = files.state()?;
        (self.damage, self.in_doubt) = (state.damage.len(), state.in_doubt);
        (self.durable_end, self.last_close) = (state.durable_end, state.last_close);
        let stored = RecoveryPoint::read(&**fs, path)?.ok().flatten().and_then(|point| point.standing.log_start);
        let first = segments.first().map(|segment| segment.base);
        self.log_start = [stored, first].into_iter().flatten().max().unwrap_or(Offset::ZERO);
        let clean = peek(&**fs, path)?.filter(|_| state.was_clean());
        self.log_end = match (clean, segments.last()) {
            (Some(peeked), _) => peeked.log_end,
            (None, Some(newest)) => {
                let mut walk = files.walk(newest)?;
                for item in walk.by_ref() {
                    item?;
                }
                walk.next_offset()
            }
            (None, None) => self.log_start,
        };
        // A log that ends below its start goes on at the start.
        self.log_end = self.log_end.max(self.log_start);
        Ok(())
    }
}

fn segment_file(entry: &DirEntry) -> Option<SegmentFile> {
    if entry.kind == EntryKind::File { SegmentFile::of(entry) } else { None }
}

fn apart<T, E>(read: Result<Option<T>, E>) -> (Option<T>, Option<E>) {
    match read {
        Ok(found) => (found, None),
        Err(fault) => (None, Some(fault)),
    }
}
