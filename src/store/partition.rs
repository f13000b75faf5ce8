//! A partition of a store, as its users hold it.

use std::path::PathBuf;
use std::sync::Arc;

use super::hosted::{Hosted, Slot, SlotState};
use super::partition_id::{TopicId, TopicPartition};
use super::shared::Shared;
use crate::clock::Deadline;
use crate::commit::{Mark, Marks};
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, ConfigError, ReadError, Unavailable, WaitError};
use crate::log::{AppendOptions, Appended, Batches, Fetched, MarkReached, PartitionLog, ReadOptions};
use crate::units::Offset;

/// A partition of a [`Store`](super::Store). A handle: clones are cheap and name the same partition. It stays good while
/// the partition is put aside for want of use, reopened after a failure, or moved to another directory; each call goes to
/// the log as it is then. `Send + Sync`; any thread may call anything.
///
/// [`Partition::log`] gives the log itself, with everything that a [`PartitionLog`] can do. While somebody holds that, or
/// a slice or wait of it, the partition counts as used and stays open.
///
/// ```
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, Offset, ReadOptions, TimestampMs};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// let orders = store.create(&TopicPartition::new("orders", 0)?, LogConfig::default())?;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let appended = orders.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() })?;
/// appended.wait_durable(std::time::Duration::from_secs(10))?;
/// assert_eq!(orders.read(Offset::ZERO, &ReadOptions::default())?.batches()?.iter().count(), 1);
/// store.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Partition {
    pub(super) hosted: Arc<Hosted>,
    pub(super) shared: Arc<Shared>,
}

/// Whether the log of a partition is open.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartitionState {
    /// It is.
    Open,
    /// It was closed cleanly for want of use, and is opened when it is used.
    Idle,
    /// It cannot be used now.
    Unavailable(Unavailable),
}

impl Partition {
    /// Topic and number.
    pub fn name(&self) -> &TopicPartition {
        &self.hosted.name
    }

    /// The id of its topic, where it was ever given one.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.hosted.look(|slot| slot.topic_id)
    }

    /// Its directory now.
    pub fn dir(&self) -> PathBuf {
        self.hosted.path()
    }

    /// The log. Opens it if it was put aside, which takes some milliseconds of disk.
    ///
    /// # Errors
    /// [`Unavailable`]: it was deleted, its directory is offline, it cannot be opened, or the store is closed.
    pub fn log(&self) -> Result<PartitionLog, Unavailable> {
        self.shared.log_of(&self.hosted)
    }

    /// Whether the log is open, idle or unavailable. Opens nothing.
    pub fn state(&self) -> PartitionState {
        self.hosted.look(Slot::partition_state)
    }

    /// All marks, as one consistent snapshot. Opens nothing: an idle log's marks do not move.
    ///
    /// # Errors
    /// As [`Partition::log`].
    pub fn marks(&self) -> Result<Marks, Unavailable> {
        match self.hosted.look(Slot::marks) {
            Some(marks) => Ok(marks),
            None => self.log().map(|log| log.marks()),
        }
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        self.hosted.look(|slot| match slot.loaded() {
            Some(log) => log.config(),
            None => Arc::clone(&slot.config),
        })
    }

    /// Changes the settings, as [`PartitionLog::update_config`] does; of an idle log without opening it.
    ///
    /// # Errors
    /// [`ConfigError`] when a value is out of range; nothing is changed.
    pub fn update_config(&self, config: LogConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.hosted.change(|slot| {
            if let Some(log) = slot.loaded() {
                log.update_config(config.clone())?;
            }
            slot.config = Arc::new(config);
            if let SlotState::Parked(parked) = &mut slot.state {
                // Retention may be another one now.
                parked.retention_due = None;
            }
            Ok(())
        })
    }

    /// As [`PartitionLog::append`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append<'a>(
        &self,
        batches: impl Into<Batches<'a>>,
        how: impl Into<AppendOptions>,
    ) -> Result<Appended, AppendError> {
        self.log()?.append(batches, how)
    }

    /// As [`PartitionLog::read`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, offset: Offset, options: &ReadOptions) -> Result<Fetched, ReadError> {
        self.log()?.read(offset, options)
    }

    /// As [`PartitionLog::wait_for`].
    ///
    /// # Errors
    /// As [`Partition::log`].
    pub fn wait_for(&self, mark: Mark, at_least: Offset) -> Result<MarkReached, Unavailable> {
        Ok(self.log()?.wait_for(mark, at_least))
    }

    /// As [`PartitionLog::wait_until`].
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_until(&self, mark: Mark, at_least: Offset, deadline: impl Into<Deadline>) -> Result<Offset, WaitError> {
        self.log()?.wait_until(mark, at_least, deadline)
    }

    /// As [`PartitionLog::truncate_to`].
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError> {
        self.log()?.truncate_to(offset)
    }
}

impl Slot {
    /// Whether the log is open, idle or unavailable, in the words of users.
    pub(super) fn partition_state(&self) -> PartitionState {
        match &self.state {
            SlotState::Loaded(_) => PartitionState::Open,
            SlotState::Parked(_) => PartitionState::Idle,
            SlotState::Failed(error) => PartitionState::Unavailable(Unavailable::Open(Arc::clone(error))),
            SlotState::Away(why) => PartitionState::Unavailable(why.clone()),
        }
    }
}
