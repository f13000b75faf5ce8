//! What a store, its workers and the handles of its partitions share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::cleaner::{CleanerRoom, CleaningEngine};
use super::config::StoreConfig;
use super::directory::Directory;
use super::events::{Events, StoreEvent};
use super::hosted::{Hosted, Slot, SlotState};
use super::housekeeping::Housekeeper;
use super::lock::DirectoryRegistry;
use super::metrics::StoreCounters;
use super::names::UniqueId;
use super::partition_id::TopicPartition;
use super::scrubber::Scrubber;
use super::store_error::StoreError;
use super::throttle::Throttle;
use super::trace;
use crate::config::LogConfig;
use crate::error::{IoFailure, IoOperation, OpenError, Unavailable};
use crate::flush::flush_many;
use crate::fs::Descriptors;
use crate::log::{Environment, Member, PartitionLog};
use crate::metrics::LogCounts;
use crate::segment::Residency;
use crate::sync::{Mutex, Rank, RwLock};

/// As much background work is done at once after a quiet time.
const BACKGROUND_BURST: u64 = 1 << 20;
/// At most so many logs are made durable in one round when their descriptors are needed: it takes little longer than one of them
/// alone, and those that need not be closed now are ready to be closed next time.
const FLUSHED_AT_ONCE: usize = 64;

/// The inside of a store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: StoreConfig,
    /// Shared by all partitions that have no settings of their own.
    pub(super) default_log: Arc<LogConfig>,
    pub(super) environment: Environment,
    /// What all segments may hold at once.
    pub(super) residency: Arc<Residency>,
    /// Counts what is open.
    pub(super) descriptors: Descriptors,
    /// Held by whoever closes what is not needed, of which there is one at a time.
    trimming: Mutex<()>,
    pub(super) registry: DirectoryRegistry,
    open_files: u32,
    pub(super) directories: Vec<Arc<Directory>>,
    pub(super) events: Events,
    pub(super) housekeeper: Housekeeper,
    pub(super) scrubber: Scrubber,
    pub(super) cleaner: CleanerRoom,
    /// What all background work together may read and write.
    pub(super) background: Throttle,
    /// What the store did, beside what its logs count.
    pub(super) counters: StoreCounters,
    partitions: RwLock<BTreeMap<TopicPartition, Arc<Hosted>>>,
    /// What partitions had counted that are not there any more.
    departed: Mutex<LogCounts>,
    /// Held while partitions come, go or change their directory.
    pub(super) naming: Mutex<Naming>,
    is_closed: AtomicBool,
}

/// What whoever changes the names of partitions needs.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// Directories that wait to be removed.
    pub(super) leaving: Vec<LeavingDir>,
}

/// A directory of a deleted partition.
#[derive(Clone, Debug)]
pub(super) struct LeavingDir {
    pub(super) directory: Arc<Directory>,
    pub(super) name: String,
    /// Monotonic time from which on it is removed.
    pub(super) due: Duration,
}

impl Shared {
    pub(super) fn new(
        config: StoreConfig,
        (environment, descriptors): (Environment, Descriptors),
        residency: Arc<Residency>,
        registry: DirectoryRegistry,
        directories: Vec<Arc<Directory>>,
        engine: Arc<dyn CleaningEngine>,
    ) -> Self {
        Self {
            cleaner: CleanerRoom::new(config.cleaner.clone(), engine, environment.clock.wall()),
            residency,
            descriptors,
            trimming: Mutex::ranked(Rank::Naming, ()),
            housekeeper: Housekeeper::default(),
            background: Throttle::new(config.background_bytes_per_second, BACKGROUND_BURST),
            scrubber: Scrubber::new(config.scrub_bytes_per_second),
            open_files: config.open_files(),
            default_log: Arc::new(config.default_log.clone()),
            config,
            environment,
            registry,
            directories,
            events: Events::new(),
            counters: StoreCounters::default(),
            partitions: RwLock::ranked(Rank::Partitions, BTreeMap::new()),
            departed: Mutex::default(),
            naming: Mutex::ranked(Rank::Naming, Naming::default()),
            is_closed: AtomicBool::new(false),
        }
    }

    /// `Err` once the store is closed.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// As [`Shared::check_open`], for whoever is about to open a log. Asked with the slot locked: closing the store comes by
    /// every slot after it refused everything, so that none is opened behind its back.
    pub(super) fn check_serving(&self) -> Result<(), Unavailable> {
        if self.is_closed.load(Ordering::Acquire) { Err(Unavailable::Closed) } else { Ok(()) }
    }

    /// Refuses everything from now on; `false` when it did before.
    pub(super) fn set_closed(&self) -> bool {
        !self.is_closed.swap(true, Ordering::AcqRel)
    }

    /// Opens the log of a partition whose slot has none open.
    pub(super) fn open_log(&self, name: &TopicPartition, slot: &Slot) -> Result<PartitionLog, OpenError> {
        self.open_log_in(&slot.directory, name, &slot.config, false)
    }

    /// Opens the log of a partition in a directory of the store, or begins one there. `is_new`: what the directory's
    /// lists ever said of one of that name is not about it.
    pub(super) fn open_log_in(
        &self,
        directory: &Arc<Directory>,
        name: &TopicPartition,
        config: &Arc<LogConfig>,
        is_new: bool,
    ) -> Result<PartitionLog, OpenError> {
        let word = directory.word_of(name, is_new);
        let path = directory.path_of(name);
        let opened = if is_new { Ok(()) } else { self.require(&path) }
            .and_then(|()| self.environment.open_hosted(&path, (**config).clone(), &word, &self.residency));
        self.counters.note_opening(&opened);
        trace::opened(name, &opened);
        opened
    }

    /// `Err` unless there is a directory at `path`: a partition whose disk was pulled out must not come back empty, and give
    /// out its offsets once more.
    fn require(&self, path: &Path) -> Result<(), OpenError> {
        match self.environment.fs.metadata(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(OpenError::Io(IoFailure::new(IoOperation::Open, path, error))),
        }
    }

    /// The log of a partition, opened if it was put aside.
    pub(super) fn log_of(&self, hosted: &Hosted) -> Result<PartitionLog, Unavailable> {
        // With nothing locked: what is done for a log that is short of descriptors waits for other logs.
        self.trim_descriptors();
        hosted.log(|| self.check_serving(), |slot| self.open_log(&hosted.name, slot))
    }

    /// Closes the files of logs that are not being written, where too many are open: those that are synced, and where these
    /// are not enough, others after a sync. A descriptor with unsynced bytes is never closed.
    pub(super) fn trim_descriptors(&self) {
        let limit = u64::from(self.open_files);
        if self.descriptors.count() < limit - limit / 8 {
            return;
        }
        let _trimming = match self.trimming.try_lock() {
            Some(trimming) => trimming,
            // Somebody else is at it, and there is room until that is done.
            None if self.descriptors.count() < limit => return,
            // Who went on now would open what nobody could close: all that is open may wait for the same sync.
            None => self.trimming.lock(),
        };
        let is_enough = || self.descriptors.count() < limit - limit / 4;
        let mut all = self.all();
        let turn = random_below(all.len());
        all.rotate_left(turn);
        for log in all.iter().filter_map(|hosted| hosted.loaded()) {
            if is_enough() {
                return;
            }
            log.release_idle_files();
        }
        // Each opens its sync state for the round, and the round their directories.
        let at_once = FLUSHED_AT_ONCE.min(usize::try_from(limit / 16).unwrap_or(FLUSHED_AT_ONCE)).max(1);
        for some in all.chunks(at_once) {
            if is_enough() {
                return;
            }
            let logs: Vec<PartitionLog> = some.iter().filter_map(|hosted| hosted.loaded()).collect();
            let members: Vec<Member> = logs.iter().filter(|log| log.needs_sync()).map(PartitionLog::member).collect();
            // One that fails latches, and whoever uses it next is told.
            drop(flush_many(&self.environment.fs, &members));
            for log in &logs {
                log.release_idle_files();
            }
        }
    }

    /// Every partition there is.
    pub(super) fn all(&self) -> Vec<Arc<Hosted>> {
        self.partitions.read().values().cloned().collect()
    }

    /// The partition of that name.
    pub(super) fn find(&self, name: &TopicPartition) -> Option<Arc<Hosted>> {
        self.partitions.read().get(name).cloned()
    }

    /// The partitions whose names begin a topic: in order of their numbers.
    pub(super) fn names(&self) -> Vec<TopicPartition> {
        self.partitions.read().keys().cloned().collect()
    }

    /// Takes a partition in, unless there is one of that name.
    pub(super) fn insert(&self, hosted: Arc<Hosted>) -> bool {
        let mut partitions = self.partitions.write();
        match partitions.entry(hosted.name.clone()) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(place) => {
                hosted.directory().count(1);
                place.insert(hosted);
                true
            }
        }
    }

    /// Takes a partition out.
    pub(super) fn remove(&self, name: &TopicPartition) -> Option<Arc<Hosted>> {
        let removed = {
            let mut partitions = self.partitions.write();
            let removed = partitions.remove(name)?;
            // Under the same lock, or a sum made in between would lack them.
            *self.departed.lock() += removed.counts();
            removed
        };
        removed.directory().count(-1);
        Some(removed)
    }

    /// Every partition there is, and what those counted that are not there any more.
    pub(super) fn all_and_departed(&self) -> (Vec<Arc<Hosted>>, LogCounts) {
        let partitions = self.partitions.read();
        (partitions.values().cloned().collect(), *self.departed.lock())
    }

    /// The partitions that lie in a directory.
    pub(super) fn all_in(&self, directory: &Arc<Directory>) -> Vec<Arc<Hosted>> {
        let is_there = |hosted: &Arc<Hosted>| hosted.look(|slot| Arc::ptr_eq(&slot.directory, directory));
        self.all().into_iter().filter(is_there).collect()
    }

    /// What came of an operation on a directory's own files: but for a full disk, a failure takes it out of service.
    pub(super) fn judge<T>(&self, directory: &Arc<Directory>, done: Result<T, IoFailure>) -> Result<T, IoFailure> {
        if let Err(failure) = &done
            && !failure.is_storage_full()
        {
            self.take_offline(directory, failure);
        }
        done
    }

    /// Takes a directory out of service, with all its partitions. Others go on.
    pub(super) fn take_offline(&self, directory: &Arc<Directory>, cause: &IoFailure) {
        if !directory.set_offline(cause) {
            return;
        }
        let why = directory.unavailable(cause);
        let mut names = Vec::new();
        for hosted in self.all_in(directory) {
            names.push(hosted.name.clone());
            let log = hosted.change(|slot| {
                // What was deleted stays deleted.
                if matches!(slot.state, SlotState::Away(_)) {
                    return None;
                }
                match std::mem::replace(&mut slot.state, SlotState::Away(why.clone())) {
                    SlotState::Loaded(loaded) => Some(loaded.log),
                    SlotState::Parked(_) | SlotState::Failed(_) | SlotState::Away(_) => None,
                }
            });
            if let Some(log) = log {
                // Whoever waits for it learns why.
                log.fail(cause.clone());
                hosted.abandon(&log);
            }
        }
        let (dir, cause) = (directory.path.to_path_buf(), cause.clone());
        self.events.emit(&StoreEvent::DirectoryOffline { dir, cause, partitions: names });
    }

    /// Empties every slot, as the death of the process would.
    pub(super) fn abandon_all(&self) {
        for hosted in self.all() {
            let taken = hosted.change(|slot| std::mem::replace(&mut slot.state, SlotState::Away(Unavailable::Closed)));
            if let SlotState::Loaded(loaded) = taken {
                loaded.log.abandon();
            }
        }
        for directory in &self.directories {
            // Nobody is left to ask for them, and handles of partitions would keep them and their files.
            drop(directory.flusher.take_failed());
        }
    }
}

/// A number below `limit`; 0 where there is none.
pub(super) fn random_below(limit: usize) -> usize {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let drawn = RandomState::new().build_hasher().finish();
    usize::try_from(drawn % (limit.max(1) as u64)).unwrap_or(0)
}

/// An id that no other directory of the process will have.
pub(super) fn random_id() -> UniqueId {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Seeded by the system; each state differs from the one before.
    let word = || u128::from(RandomState::new().build_hasher().finish());
    UniqueId::from_random(word() << 64 | word())
}
