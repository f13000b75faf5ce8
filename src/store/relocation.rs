//! Partitions change their place: to another data directory of the store, out of it as a backup, into it from elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adopt::{AdoptError, Adopted, adopt};
use super::directory::Directory;
use super::export::{ExportError, ExportedSegment, Snapshot, sealed_segments, snapshot};
use super::hosted::{Hosted, Loaded, Slot, SlotState};
use super::moving::{Move, MoveError};
use super::names::CheckpointKind;
use super::partition_id::{TopicId, TopicPartition};
use super::shared::{LeavingDir, Shared, random_id};
use super::store_error::StoreError;
use super::topic_id::read_topic_id;
use super::{Partition, Store};
use crate::config::LogConfig;
use crate::error::Unavailable;
use crate::log::hosted::words_of;

pub use super::moving::MoveProgress;

/// A partition on its way to another data directory. It is served from the old one until [`finish`](Self::finish); dropped
/// before that, the move is given up. Drive it from any thread, at whatever pace is wanted: it copies when it is told to.
///
/// ```
/// use alluvium::LogConfig;
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
/// let directories = vec![a.path().to_path_buf(), b.path().to_path_buf()];
/// let store = Store::open(StoreConfig { directories, ..StoreConfig::default() })?;
/// let orders = store.create(&TopicPartition::new("orders", 0)?, LogConfig::default())?;
/// let target = if orders.dir().starts_with(a.path()) { b.path() } else { a.path() };
/// let mut relocation = store.relocate(orders.name(), target)?;
/// while !relocation.step(1 << 20)?.is_caught_up {}
/// relocation.finish()?;
/// assert!(orders.dir().starts_with(target));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropped, the move is given up"]
pub struct Relocation {
    shared: Arc<Shared>,
    hosted: Arc<Hosted>,
    target: Arc<Directory>,
    /// Taken out when the move ends.
    moving: Option<Move>,
}

impl Relocation {
    /// Copies up to about `bytes_max` bytes, one batch at least, and says how far the copy is.
    ///
    /// # Errors
    /// [`MoveError`]. The move may go on with another step, once the cause is gone.
    pub fn step(&mut self, bytes_max: u64) -> Result<MoveProgress, StoreError> {
        self.shared.check_open()?;
        let moving = self.moving.as_mut().ok_or(Unavailable::Closed)?;
        Ok(moving.step(bytes_max)?)
    }

    /// Copies what is left and switches over. Who uses the partition through its handle waits meanwhile; appends that are
    /// in the middle through a [`PartitionLog`](crate::PartitionLog) are refused as by a closed log, with nothing of them
    /// kept. To be called when a step has caught up: what was appended since is copied while everybody waits.
    ///
    /// # Errors
    /// [`MoveError::Halfway`]: the partition is unavailable until the store is opened again, and nothing acknowledged is
    /// lost. With any other it goes on where it was, and the copy is gone.
    pub fn finish(mut self) -> Result<Partition, StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut naming = shared.naming.lock();
        shared.check_open()?;
        let (hosted, target) = (Arc::clone(&self.hosted), Arc::clone(&self.target));
        // Until it begins to switch, dropping this gives the move up.
        target.check()?;
        let source = hosted.directory();
        let moved = hosted.change(|slot| {
            if let SlotState::Away(why) = &slot.state {
                return Err(StoreError::from(why.clone()));
            }
            let Some(moving) = self.moving.take() else { return Err(Unavailable::Closed.into()) };
            let moved = match moving.finish() {
                Err(error @ MoveError::Halfway { .. }) => {
                    slot.state = SlotState::Away(Unavailable::Halfway { dir: target.path.to_path_buf() });
                    return Err(error.into());
                }
                moved => moved?,
            };
            debug_assert_eq!(moved.dir, target.path_of(&hosted.name), "a move ends where it was to go");
            slot.directory = Arc::clone(&target);
            slot.state = match moved.log {
                Ok(log) => SlotState::Loaded(Loaded::new(log, &target)),
                Err(error) => SlotState::Failed(Arc::new(error)),
            };
            Ok(moved.retired)
        })?;
        source.count(-1);
        target.count(1);
        let kept = hosted.recheck(&target);
        let due = shared.environment.clock.monotonic() + shared.config.delete_delay();
        let name = moved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        naming.leaving.push(LeavingDir { directory: Arc::clone(&source), name, due });
        // The move is done; a list that goes on about the partition is passed over by the next opening.
        let _ = shared.judge(&source, source.forget(&hosted.name));
        kept?;
        Ok(Partition { hosted, shared: Arc::clone(&shared) })
    }

    /// Gives the move up: the copy is removed. The partition goes on where it is.
    ///
    /// # Errors
    /// I/O: the copy, or a part of it, is still there. The next opening clears it up.
    pub fn cancel(mut self) -> Result<(), StoreError> {
        self.shared.check_open()?;
        self.moving.take().map_or(Ok(()), |moving| Ok(moving.cancel()?))
    }
}

impl std::fmt::Debug for Relocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = &self.target.path;
        f.debug_struct("Relocation").field("partition", &self.hosted.name).field("to", to).finish_non_exhaustive()
    }
}

impl Drop for Relocation {
    fn drop(&mut self) {
        // The directory of a store that is closed may be another's by now.
        if let Some(moving) = self.moving.take().filter(|_| self.shared.check_open().is_ok()) {
            // What is left of the copy is cleared up by the next opening.
            let _ = moving.cancel();
        }
    }
}

impl Store {
    /// Begins to move a partition to another data directory while it is written.
    ///
    /// How far it is clean does not come along: it is copied while it may be written and cleaned, and in its new place all of
    /// a compacted partition is dirty until a pass went through it. That costs a pass and loses nothing: what is deleted
    /// stays deleted, since tombstones are only gone where what they hide is.
    ///
    /// # Errors
    /// [`StoreError`]: no such partition or directory, one of them cannot be used, or a [`MoveError`]: damaged ranges would
    /// be lost by a copy.
    pub fn relocate(&self, partition: &TopicPartition, to: impl AsRef<Path>) -> Result<Relocation, StoreError> {
        let shared = &self.shared;
        shared.check_open()?;
        let hosted = shared.find(partition).ok_or_else(|| StoreError::Unknown { partition: partition.clone() })?;
        let target = shared.directory(to.as_ref())?;
        target.check()?;
        let log = shared.log_of(&hosted)?;
        let (environment, residency) = (shared.environment.clone(), Arc::clone(&shared.residency));
        let word = target.word_of(partition, true);
        let open = move |dir: &Path, config: LogConfig| environment.open_hosted(dir, config, &word, &residency);
        let id = random_id();
        let moving = Move::begin_with(log, &shared.environment, &target.path, partition, id, Arc::new(open))?;
        Ok(Relocation { shared: Arc::clone(shared), hosted, target, moving: Some(moving) })
    }

    /// Takes a partition's directory from elsewhere into the store: by renaming it, or from another file system by a copy.
    /// Durable when it returns. What its own state says of recovery point, log start and high watermark holds here. How far it
    /// is clean is not taken over: nobody knows who had it since, so all of a compacted one is dirty until a pass.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Adopt`]: the directory is where it was, and as it was but for a lock file.
    /// [`StoreError::Unavailable`]: it is one of the store's, and its log cannot be opened; see [`Store::reopen`].
    pub fn adopt(
        &self,
        from: impl AsRef<Path>,
        partition: &TopicPartition,
        into: impl AsRef<Path>,
        topic_id: Option<TopicId>,
    ) -> Result<Partition, StoreError> {
        let (shared, from) = (&self.shared, from.as_ref());
        let _naming = shared.naming.lock();
        shared.check_open()?;
        if let Some(hosted) = shared.find(partition) {
            return Err(StoreError::Exists { partition: partition.clone(), dir: hosted.path() });
        }
        let directory = shared.directory(into.as_ref())?;
        directory.check()?;
        let fs = &shared.environment.fs;
        // Its state is of another directory's lineage. What counts of it stands in the lists before it comes.
        let parents = words_of(&**fs, from)?;
        let said = [
            (CheckpointKind::RecoveryPoint, parents.recovery_point),
            (CheckpointKind::LogStart, parents.log_start),
            (CheckpointKind::HighWatermark, parents.high_watermark),
        ];
        let said: Vec<_> = said
            .into_iter()
            .filter_map(|(kind, offset)| Some((kind, [(partition.clone(), offset?)].into_iter().collect())))
            .collect();
        shared.judge(&directory, directory.say(said))?;
        let adopted = adopt(fs, from, &directory.path, partition, topic_id, random_id());
        if adopted.is_err() {
            let _ = directory.forget(partition);
        }
        let Adopted { dir, .. } = adopted?;
        let mut word = directory.word_of(partition, true);
        word.parents = parents;
        let config = self.configs.of(partition, &shared.default_log);
        // It lies here from now on, whether it can be opened or not.
        let opened =
            shared.environment.open_hosted(&dir, (*config).clone(), &word, &shared.residency).map_err(Arc::new);
        let topic_id = read_topic_id(&**fs, &dir).unwrap_or(topic_id);
        let failed = opened.as_ref().err().cloned();
        let state = match opened {
            Ok(log) => SlotState::Loaded(Loaded::new(log, &directory)),
            Err(error) => SlotState::Failed(error),
        };
        let slot = Slot { directory: Arc::clone(&directory), topic_id, config, state };
        let hosted = Arc::new(Hosted::new(partition.clone(), slot));
        shared.insert(Arc::clone(&hosted));
        hosted.recheck(&directory)?;
        if let Some(error) = failed {
            return Err(Unavailable::Open(error).into());
        }
        Ok(Partition { hosted, shared: Arc::clone(shared) })
    }
}

impl Partition {
    /// The segments to which nothing is appended any more and that are durable, oldest first, each with an open descriptor:
    /// their bytes stay readable while it is held, whatever retention deletes. For tiered storage.
    ///
    /// # Errors
    /// [`StoreError::Export`], [`StoreError::Unavailable`].
    pub fn sealed_segments(&self) -> Result<Vec<ExportedSegment>, StoreError> {
        Ok(sealed_segments(&self.log()?)?)
    }

    /// Copies everything that was appended before the call to `into`, a directory that is not there yet, while appends go
    /// on. It opens as a partition of its own, and in Kafka.
    ///
    /// # Errors
    /// [`StoreError::Export`], [`StoreError::Unavailable`].
    pub fn backup(&self, into: impl Into<PathBuf>) -> Result<Snapshot, StoreError> {
        Ok(snapshot(&self.log()?, &into.into())?)
    }
}

impl From<MoveError> for StoreError {
    fn from(error: MoveError) -> Self {
        Self::Move(Arc::new(error))
    }
}

impl From<ExportError> for StoreError {
    fn from(error: ExportError) -> Self {
        Self::Export(Arc::new(error))
    }
}

impl From<AdoptError> for StoreError {
    fn from(error: AdoptError) -> Self {
        Self::Adopt(Arc::new(error))
    }
}
