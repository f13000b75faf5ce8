//! The data directories of a store, as its embedder sees them: how they are doing, and how one comes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Store;
use super::directory::Directory;
use super::events::StoreEvent;
use super::hosted::SlotState;
use super::loading::Loading;
use super::moving_recovery::{Recovered, recover_moves};
use super::partition_id::TopicPartition;
use super::progress::Progress;
use super::report::DirectoryReport;
use super::shared::Shared;
use super::space::{SpaceGuard, SpaceReport, SpaceState};
use super::store_error::StoreError;
use crate::error::{IoFailure, Unavailable};

/// How a data directory is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectoryHealth {
    /// The directory.
    pub dir: PathBuf,
    /// Why it is offline, if it is.
    pub offline: Option<IoFailure>,
    /// The partitions that lie in it; of one that is offline, those that cannot be used.
    pub partitions: Vec<TopicPartition>,
    /// Its space at the last look; `None` where it was never served.
    pub space: Option<SpaceReport>,
}

impl DirectoryHealth {
    /// Whether it takes appends.
    pub fn is_well(&self) -> bool {
        self.offline.is_none() && self.space.is_none_or(|space| space.state == SpaceState::Ok)
    }
}

impl Store {
    /// How each data directory is doing, in the order in which they were named.
    pub fn directories(&self) -> Vec<DirectoryHealth> {
        let health = |directory: &Arc<Directory>| {
            let partitions = self.shared.all_in(directory).iter().map(|hosted| hosted.name.clone()).collect();
            let space = directory.space().map(SpaceGuard::report);
            DirectoryHealth { dir: directory.path.to_path_buf(), offline: directory.failure(), partitions, space }
        };
        self.shared.directories.iter().map(health).collect()
    }

    /// Takes a data directory back into service that went offline: looks at it anew, and recovers its partitions as
    /// opening the store would. Handles of its partitions are good again. Partitions that are not there any more are
    /// taken for deleted.
    ///
    /// # Errors
    /// [`StoreError::UnknownDirectory`], [`StoreError::NotOffline`]; the lock, the identity or the disk: it stays offline.
    pub fn reopen_dir(&self, dir: impl AsRef<Path>) -> Result<DirectoryReport, StoreError> {
        let shared = &self.shared;
        shared.check_open()?;
        let directory = shared.directory(dir.as_ref())?;
        let opened = directory.reopen(&shared.registry)?;
        let progress = Progress::new();
        let loading = Loading { shared, configs: &self.configs, urgent: &[], progress: &progress };
        shared.enter(&directory)?;
        // What the others have is served, and no affair of this one's.
        let refused = shared.recover_moves(std::slice::from_ref(&directory));
        let loaded = shared.judge(&directory, loading.load(&directory, opened, &refused));
        shared.drop_missing(&directory);
        if let Err(closed) = shared.check_open() {
            // Whoever closed the store meanwhile came by before all of this was here.
            shared.abandon_all();
            directory.close();
            return Err(closed);
        }
        let mut report = loaded?;
        report.dir = directory.path.to_path_buf();
        shared.events.emit(&StoreEvent::DirectoryOnline { dir: report.dir.clone() });
        Ok(report)
    }
}

impl Shared {
    /// Takes a directory over that was just opened. One that could not be is offline, be it that its disk is full: what is
    /// written there unannounced would pass for somebody else's.
    pub(super) fn enter(&self, directory: &Arc<Directory>) -> Result<(), IoFailure> {
        directory.enter(self.environment.clock.monotonic()).inspect_err(|failure| self.take_offline(directory, failure))
    }

    /// Finishes or undoes what moves and adoptions left in these directories; returns the partitions that are not to be
    /// opened.
    pub(super) fn recover_moves(&self, directories: &[Arc<Directory>]) -> Vec<TopicPartition> {
        let paths: Vec<Option<&Path>> = self
            .directories
            .iter()
            .map(|known| {
                let is_meant = directories.iter().any(|meant| Arc::ptr_eq(meant, known)) && known.check().is_ok();
                is_meant.then_some(&*known.path)
            })
            .collect();
        let report = recover_moves(&*self.environment.fs, &paths);
        for (at, failure) in &report.offline {
            if let Some(directory) = self.directories.get(*at) {
                let _ = self.judge(directory, Err::<(), _>(failure.clone()));
            }
        }
        let is_refused = |recovered: &Recovered| recovered.served.is_none();
        report.partitions.into_iter().filter(is_refused).map(|recovered| recovered.partition).collect()
    }

    /// Takes out the partitions of a directory that was reopened which were not found there again.
    fn drop_missing(&self, directory: &Arc<Directory>) {
        for hosted in self.all_in(directory) {
            let is_missing = hosted.change(|slot| {
                let is_away = matches!(&slot.state, SlotState::Away(Unavailable::Offline { .. }));
                let is_missing = is_away && directory.check().is_ok();
                if is_missing {
                    slot.state = SlotState::Away(Unavailable::Deleted);
                }
                is_missing
            });
            if is_missing {
                self.remove(&hosted.name);
            }
        }
    }
}
