//! The cleaner's supervisor: which partition is cleaned when, by whom, and what becomes of it when something fails.
//!
//! ```text
//! mod.rs      Cleaner, what an embedder asks for      report.rs   how it stands: health, backlog, figures
//! state.rs    the states of a partition, as told      track.rs    the machine behind them, without disk or clock
//! cause.rs    faults, and what they mean: one place   memory.rs   what outlives the process, a small file
//! survey.rs   a look at every partition               work.rs     one step of a worker
//! room.rs     what workers share                      bench.rs    a worker's place, and the passes' memory
//! pool.rs     the threads                             engine.rs   the seam to those who know how to clean
//! counters.rs what is counted
//! ```
//! A worker takes the partition that needs cleaning most and that nobody is at, and steps a pass over it, about a mebibyte
//! at a time. Whatever the pass comes to is a state of that partition alone: an error or a panic is tried again after a
//! pause that grows up to a bound, and at once when the cause is seen to be gone. The worker goes on with the next
//! partition. Nothing here takes a data directory offline: a disk that is dead is found by what the directory itself
//! writes (`Shared::judge`).

mod bench;
mod cause;
mod counters;
mod engine;
mod memory;
mod pool;
mod report;
mod room;
mod state;
mod survey;
mod track;
mod work;

use std::sync::Arc;

pub use cause::{CauseKind, CleaningCause};
pub(super) use engine::{CleaningEngine, LogCleaner};
pub(super) use pool::CleanerPool;
pub use report::{CleanerBacklog, CleanerCounts, CleanerHealth, CleanerMetrics, CleanerWorker, PartitionBacklog};
pub(super) use room::{CleanerRoom, Known};
pub use state::{Behind, CleaningHealth, CleaningPhase, CleaningProgress, CleaningReason, CleaningState, LastPass};

use super::hosted::Hosted;
use super::partition_id::TopicPartition;
use super::store_error::StoreError;
use super::{Owner, Store};
use crate::clean::CleanerConfig;
use crate::clock::Deadline;
use crate::error::{IoFailure, IoOperation};
use crate::store::shared::Shared;
use room::now_of;
use track::{Effects, Now, Pause, Track};

/// The cleaner of a [`Store`]: [`Store::cleaner`]. A handle; clones are cheap. It goes on by itself and needs none of this,
/// which is for operators: a partition can be left alone, cleaned at once, and looked at.
///
/// ```
/// use alluvium::config::CleanupPolicy;
/// use alluvium::store::cleaner::CleaningState;
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// use alluvium::LogConfig;
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// let users = TopicPartition::new("users", 0)?;
/// store.create(&users, LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() })?;
/// store.cleaner().pause(&users, "backup")?;
/// let health = store.cleaner().health_of(&users)?;
/// assert!(matches!(health.state, CleaningState::Paused { by, .. } if by == "backup"));
/// store.cleaner().resume(&users)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cleaner {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

impl Store {
    /// The cleaner of compacted partitions.
    pub fn cleaner(&self) -> Cleaner {
        Cleaner { shared: Arc::clone(&self.shared), owner: Arc::clone(&self.owner) }
    }
}

impl Cleaner {
    /// Leaves a partition alone until it is [resumed](Self::resume), also over restarts. A pass in progress ends with its
    /// present step; what it has finished stays, and the next one goes on behind that. `by` is told to whoever asks.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Closed`].
    pub fn pause(&self, partition: &TopicPartition, by: &str) -> Result<(), StoreError> {
        let by: String = by.chars().take(BY_CHARS_MAX).collect();
        self.change(partition, |track, now| track.pause(&by, now))
    }

    /// Has a partition cleaned again that was paused, and at once if its last pass failed.
    ///
    /// # Errors
    /// As [`Cleaner::pause`].
    pub fn resume(&self, partition: &TopicPartition) -> Result<(), StoreError> {
        self.change(partition, Track::resume)
    }

    /// Ends the pass over a partition that is in progress, if there is one, after its present step. The partition is taken up
    /// again when it is due.
    ///
    /// # Errors
    /// As [`Cleaner::pause`].
    pub fn abort(&self, partition: &TopicPartition) -> Result<(), StoreError> {
        self.change(partition, |track, now| {
            track.abort(now, &self.shared.cleaner.config());
            Effects::default()
        })
    }

    /// Has a partition cleaned as soon as a worker is free, due or not, and without waiting for the end of a pause after a
    /// failure. One that is paused is cleaned when it is resumed.
    ///
    /// # Errors
    /// As [`Cleaner::pause`].
    pub fn run_now(&self, partition: &TopicPartition) -> Result<(), StoreError> {
        self.change(partition, |track, now| {
            track.ask(now);
            Effects::default()
        })
    }

    /// Has all cleaning stand still until [`Cleaner::resume_all`] or the end of the process. Passes in progress end with
    /// their present steps.
    pub fn pause_all(&self, by: &str) {
        let by = by.chars().take(BY_CHARS_MAX).collect();
        let since = self.now().wall;
        *self.shared.cleaner.pause.lock() = Some(Pause { by, since });
        self.shared.cleaner.wake();
    }

    /// Ends what [`Cleaner::pause_all`] began. Partitions that were paused by name stay so.
    pub fn resume_all(&self) {
        *self.shared.cleaner.pause.lock() = None;
        self.shared.cleaner.wake();
    }

    /// The settings in force.
    pub fn config(&self) -> CleanerConfig {
        CleanerConfig::clone(&self.shared.cleaner.config())
    }

    /// Takes other settings from now on: threads, memory, throttle, limits. Passes that hold more memory than their new
    /// share end with their present steps, and go on under the new settings; passes that wait for the end of a pause
    /// are tried at once.
    ///
    /// # Errors
    /// [`StoreError::Config`] for settings that are refused; [`StoreError::Thread`] when there is no thread for more
    /// workers, and those that there are go on under the new settings; [`StoreError::Closed`].
    pub fn reconfigure(&self, config: CleanerConfig) -> Result<(), StoreError> {
        self.shared.check_open()?;
        config.validate()?;
        let now = self.now();
        let before = self.shared.cleaner.set_config(&self.shared, config, now.monotonic);
        if *before != *self.shared.cleaner.config() {
            for hosted in self.shared.all() {
                hosted.track(|tracked| tracked.track.try_now(now));
            }
        }
        let fitted = self.owner.fit_cleaner();
        self.shared.cleaner.wake();
        fitted.map_err(|error| StoreError::Thread(Arc::new(error)))
    }

    /// Looks at every partition now, rather than when it is time for it. No log is opened for that.
    pub fn survey(&self) {
        *self.shared.cleaner.surveyed.lock() = None;
        self.shared.cleaner.survey_if_due(&self.shared, self.now().monotonic);
    }

    fn now(&self) -> Now {
        now_of(&*self.shared.environment.clock)
    }

    fn find(&self, partition: &TopicPartition) -> Result<Arc<Hosted>, StoreError> {
        self.shared.check_open()?;
        let unknown = || StoreError::Unknown { partition: partition.clone() };
        let hosted = self.shared.find(partition).ok_or_else(unknown)?;
        // Whoever asks before the first survey is to find what an earlier process left.
        let directory = hosted.directory();
        let deadline = Deadline::from(READING_MAX);
        while !self.shared.cleaner.read(&self.shared, &hosted, &directory, self.now()) {
            // A survey is reading it at this moment, most often for microseconds.
            if deadline.has_passed() {
                let path = directory.path_of(partition);
                return Err(IoFailure::new(IoOperation::Read, path, std::io::ErrorKind::TimedOut.into()).into());
            }
            std::thread::yield_now();
        }
        Ok(hosted)
    }

    fn change(
        &self,
        partition: &TopicPartition,
        change: impl FnOnce(&mut Track, Now) -> Effects,
    ) -> Result<(), StoreError> {
        let hosted = self.find(partition)?;
        let now = self.now();
        let effects = hosted.track(|tracked| change(&mut tracked.track, now)).unwrap_or_default();
        self.shared.cleaner.settle(&self.shared, &hosted, effects);
        self.shared.cleaner.wake();
        Ok(())
    }
}

/// Whoever asks waits no longer for a disk that somebody else waits for.
const READING_MAX: std::time::Duration = std::time::Duration::from_secs(1);
/// As much is kept of who paused something.
const BY_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests;
