//! Partitions come and go: create, get, list, delete, reopen.
//!
//! One creation or deletion at a time, under `Naming`. What is left of a deleted partition is a directory under another
//! name, which is removed after a while; nothing else of it stays, so that one made later under the same name is new.

use std::path::Path;
use std::sync::Arc;

use super::directory::Directory;
use super::hosted::{Hosted, Loaded, Parked, Slot, SlotState};
use super::partition_id::{TopicId, TopicPartition};
use super::shared::{LeavingDir, Naming, Shared, random_id};
use super::store_error::StoreError;
use super::topic_id::{TopicIdError, check_topic_id, claim_topic_id, read_topic_id};
use super::{Partition, Store};
use crate::config::LogConfig;
use crate::error::{IoFailure, IoOperation, OpenError, Unavailable};
use crate::log::PartitionLog;

/// What is wanted of a partition that is created, beside its settings.
///
/// ```
/// use alluvium::store::{CreateOptions, TopicId};
/// use alluvium::LogConfig;
/// let wanted = CreateOptions::new(LogConfig::default()).topic_id(TopicId::from_random(7)).in_dir("/data/b");
/// ```
#[derive(Clone, Debug)]
pub struct CreateOptions {
    config: LogConfig,
    topic_id: Option<TopicId>,
    dir: Option<std::path::PathBuf>,
}

impl CreateOptions {
    /// With these settings, in the data directory with the fewest partitions.
    pub fn new(config: LogConfig) -> Self {
        Self { config, topic_id: None, dir: None }
    }

    /// The id of its topic, kept in `partition.metadata`.
    #[must_use]
    pub fn topic_id(mut self, id: TopicId) -> Self {
        self.topic_id = Some(id);
        self
    }

    /// In this data directory.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }
}

impl From<LogConfig> for CreateOptions {
    fn from(config: LogConfig) -> Self {
        Self::new(config)
    }
}

impl Store {
    /// Creates a partition. Its directory is durable when this returns; a crash before that leaves an empty partition or
    /// none.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; settings; the directory is unknown or offline; I/O, after which an empty directory may be
    /// left, which the next creation or opening takes up.
    pub fn create(
        &self,
        partition: &TopicPartition,
        options: impl Into<CreateOptions>,
    ) -> Result<Partition, StoreError> {
        let options = options.into();
        options.config.validate()?;
        let shared = &self.shared;
        let _naming = shared.naming.lock();
        shared.check_open()?;
        if let Some(hosted) = shared.find(partition) {
            return Err(StoreError::Exists { partition: partition.clone(), dir: hosted.path() });
        }
        let directory = match &options.dir {
            Some(dir) => shared.directory(dir)?,
            None => shared.emptiest()?,
        };
        directory.check()?;
        let config = Arc::new(options.config);
        let log = shared.make(&directory, partition, &config, options.topic_id)?;
        let state = SlotState::Loaded(Loaded::new(log, &directory));
        let slot = Slot { directory: Arc::clone(&directory), topic_id: options.topic_id, config, state };
        let hosted = Arc::new(Hosted::new(partition.clone(), slot));
        shared.insert(Arc::clone(&hosted));
        hosted.recheck(&directory)?;
        Ok(self.handle(hosted))
    }

    /// The partition of that name, if there is one. Opens nothing.
    pub fn get(&self, partition: &TopicPartition) -> Option<Partition> {
        self.shared.find(partition).map(|hosted| self.handle(hosted))
    }

    /// The partition of that name, if it belongs to the topic with this id. Where it has no id yet, it gets this one,
    /// durably.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::TopicId`] when it is another topic's, with nothing changed.
    pub fn claim(&self, partition: &TopicPartition, id: TopicId) -> Result<Partition, StoreError> {
        let unknown = || StoreError::Unknown { partition: partition.clone() };
        let _naming = self.shared.naming.lock();
        self.shared.check_open()?;
        let hosted = self.shared.find(partition).ok_or_else(unknown)?;
        let (directory, known) = hosted.look(|slot| (Arc::clone(&slot.directory), slot.topic_id));
        if known != Some(id) {
            directory.check()?;
            let path = directory.path_of(partition);
            let fs = &*self.shared.environment.fs;
            if check_topic_id(fs, &path, Some(id))?.is_none() {
                claim_topic_id(fs, &path, id).inspect_err(|error| {
                    if let (Some(log), TopicIdError::Io(failure)) = (hosted.loaded(), error) {
                        log.fail_if_names_are_in_doubt(failure);
                    }
                })?;
            }
            hosted.change(|slot| slot.topic_id = Some(id));
        }
        Ok(self.handle(hosted))
    }

    /// The names of all partitions, by topic and number.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.shared.names()
    }

    /// Deletes a partition: it is gone, with everything that the directory's lists say of it, when this returns, also
    /// after a power loss. (On a full disk the lists may go on about it until one of that name is created, or the store is
    /// opened again.) Its files lie under another name for the delay that the settings say, and are unlinked by
    /// housekeeping. Handles of it answer [`Unavailable::Deleted`]; slices go on showing its bytes.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Unavailable`]; I/O, which takes the directory offline unless the disk is full.
    pub fn delete(&self, partition: &TopicPartition) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut naming = shared.naming.lock();
        shared.check_open()?;
        let hosted = shared.find(partition).ok_or_else(|| StoreError::Unknown { partition: partition.clone() })?;
        let directory = hosted.directory();
        directory.check()?;
        // Nothing of it has to be durable any more. But whoever is in the middle of a round or a truncation goes by names,
        // which may be those of the next partition of this name soon.
        let before = hosted.change(|slot| std::mem::replace(&mut slot.state, SlotState::Away(Unavailable::Deleted)));
        if let SlotState::Loaded(loaded) = &before {
            loaded.log.retire();
        }
        match shared.judge(&directory, shared.delete_from(&mut naming, &directory, partition)) {
            Ok(()) => {
                shared.remove(partition);
                Ok(())
            }
            Err(failure) => {
                // It is judged anew if it is used again.
                hosted.change(|slot| match directory.check() {
                    Ok(()) => slot.state = SlotState::Parked(Parked::unknown()),
                    Err(why) => slot.state = SlotState::Away(why),
                });
                Err(failure.into())
            }
        }
    }

    /// Opens the log of a partition anew and has it judged, as the next start of the store would: after a failed sync it
    /// takes appends again, if what is on the disk is sound. Handles stay good; who waited is told that the log failed.
    ///
    /// # Errors
    /// [`StoreError::Unknown`], [`StoreError::Unavailable`]: it cannot be opened; try again when the cause is gone.
    pub fn reopen(&self, partition: &TopicPartition) -> Result<Partition, StoreError> {
        self.shared.check_open()?;
        let hosted = self.shared.find(partition).ok_or_else(|| StoreError::Unknown { partition: partition.clone() })?;
        self.shared.reopen(&hosted)?;
        Ok(self.handle(hosted))
    }

    fn handle(&self, hosted: Arc<Hosted>) -> Partition {
        Partition { hosted, shared: Arc::clone(&self.shared) }
    }
}

impl Shared {
    /// The data directory at `path`.
    pub(super) fn directory(&self, path: &Path) -> Result<Arc<Directory>, StoreError> {
        let found = self.directories.iter().find(|directory| *directory.path == *path);
        found.cloned().ok_or_else(|| StoreError::UnknownDirectory { dir: path.to_path_buf() })
    }

    /// The data directory with the fewest partitions, of those that are served; the first one of several.
    fn emptiest(&self) -> Result<Arc<Directory>, StoreError> {
        let online = self.directories.iter().filter(|directory| directory.check().is_ok());
        online.min_by_key(|directory| directory.len()).cloned().ok_or(StoreError::AllOffline)
    }

    /// Makes the directory of a new partition, and its log.
    fn make(
        &self,
        directory: &Arc<Directory>,
        partition: &TopicPartition,
        config: &Arc<LogConfig>,
        topic_id: Option<TopicId>,
    ) -> Result<PartitionLog, StoreError> {
        let path = directory.path_of(partition);
        // What a crash left of an earlier creation may have the id already, or another topic's.
        let fs = &*self.environment.fs;
        check_topic_id(fs, &path, topic_id)?;
        self.judge(directory, directory.look())?;
        // What is said of an earlier one of that name: Kafka would take it for this one's.
        self.judge(directory, self.forget(directory, partition))?;
        let opened = self.open_log_in(directory, partition, config, true);
        if let Err(OpenError::Io(failure)) = &opened
            && (failure.operation == IoOperation::CreateDir || *failure.path == *directory.path)
        {
            // It was the data directory that did not take a name.
            self.judge(directory, Err(failure.clone()))?;
        }
        let log = opened?;
        if let Some(id) = topic_id
            && let Err(error) = claim_topic_id(fs, &path, id)
        {
            log.abandon();
            return Err(error.into());
        }
        Ok(log)
    }

    /// Forgets what the lists say of the partition and renames its directory. In this order: what fails has changed nothing
    /// that counts, since a partition goes by its own word and to Kafka one that is not listed is scanned.
    fn delete_from(
        &self,
        naming: &mut Naming,
        directory: &Arc<Directory>,
        partition: &TopicPartition,
    ) -> Result<(), IoFailure> {
        match self.forget(directory, partition) {
            // Deleting must not need space. What the lists go on saying is forgotten by whoever makes one of that name, and
            // by the next opening.
            Err(failure) if failure.is_storage_full() => {}
            forgotten => forgotten?,
        }
        let marked = directory.set_deleted(partition, random_id())?;
        let due = self.environment.clock.monotonic() + self.config.delete_delay();
        naming.leaving.push(LeavingDir { directory: Arc::clone(directory), name: marked.name(), due });
        Ok(())
    }

    /// Has the lists say nothing of a partition, at the expense of the reserve if there is no other space.
    fn forget(&self, directory: &Directory, partition: &TopicPartition) -> Result<(), IoFailure> {
        match directory.forget(partition) {
            Err(failure) if failure.is_storage_full() && self.free_reserve(directory) => directory.forget(partition),
            forgotten => forgotten,
        }
    }

    /// Opens the log of a partition anew.
    pub(super) fn reopen(&self, hosted: &Arc<Hosted>) -> Result<(), Unavailable> {
        // Before the slot is taken: who is in the middle of something must be able to finish. Afterwards nobody is.
        let before = hosted.loaded();
        if let Some(log) = &before {
            if log.failure().is_some() { log.retire() } else { drop(log.close()) }
        }
        hosted.change(|slot| {
            self.check_serving()?;
            match &slot.state {
                SlotState::Away(why) => return Err(why.clone()),
                // Somebody else was quicker, and this one is in use: a second one on the same files would be its end.
                SlotState::Loaded(loaded) if before.as_ref().is_none_or(|before| !before.is_same(&loaded.log)) => {
                    return Ok(());
                }
                SlotState::Loaded(loaded) => {
                    slot.state = SlotState::Parked(Parked { lent: loaded.log.lent(), ..Parked::unknown() });
                }
                SlotState::Failed(_) => slot.state = SlotState::Parked(Parked::unknown()),
                SlotState::Parked(_) => {}
            }
            if slot.topic_id.is_none() {
                // It could not be read when the directory was gone through.
                let found = read_topic_id(&*self.environment.fs, &slot.directory.path_of(&hosted.name));
                slot.topic_id = found.ok().flatten();
            }
            hosted.load(slot, |slot| self.open_log(&hosted.name, slot)).map(drop)
        })
    }
}
