//! Work without threads, and the way out of a store: cleanly, or as a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Store;
use super::directory::Directory;
use super::hosted::{Hosted, Parked, SlotState};
use super::housekeeping::{Housekeeper, Housekept};
use super::names::CheckpointKind;
use super::partition_id::TopicPartition;
use super::shared::Shared;
use super::store_error::StoreError;
use crate::clock::Deadline;
use crate::error::{ChangeError, IoFailure, Unavailable};
use crate::sync::Mutex;

/// What lives as long as somebody holds the store: its workers. When it goes the store is left as by a crash.
#[derive(Debug)]
pub(super) struct Owner {
    shared: Arc<Shared>,
    pub(super) housekeeper: Housekeeper,
}

/// How closing went.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreClosed {
    /// Logs closed cleanly, those that were put aside included.
    pub clean: usize,
    /// Partitions that the next opening has to recover, and why: their logs had failed, could not be closed cleanly, or the
    /// deadline passed first.
    pub unclean: Vec<(TopicPartition, Option<ChangeError>)>,
    /// Directories whose lists or markers could not be written.
    pub failed_dirs: Vec<IoFailure>,
}

/// What [`Store::tick`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreTicked {
    /// Logs that were made durable.
    pub synced: u64,
    /// What housekeeping did, if it was time for it.
    pub housekept: Housekept,
}

impl Owner {
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        Ok(Self { shared: Arc::clone(shared), housekeeper: Housekeeper::default() })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.shared.set_closed() {
            self.shared.abandon_all();
        }
        for directory in &self.shared.directories {
            directory.close();
        }
    }
}

impl Store {
    /// Does what is due: syncs what policy or waiters ask for, and the housekeeping. For embedders that run no workers;
    /// call it every few milliseconds to seconds, from one thread.
    pub fn tick(&self) -> StoreTicked {
        let now = self.shared.environment.clock.monotonic();
        let mut ticked = StoreTicked::default();
        for directory in &self.shared.directories {
            let before = directory.flusher.metrics().synced_logs.value();
            directory.flusher.step(now);
            ticked.synced += directory.flusher.metrics().synced_logs.value() - before;
        }
        ticked.housekept = self.owner.housekeeper.step(&self.shared, now);
        ticked
    }

    /// Closes the store: makes everything durable, closes all logs, several at a time, writes the lists of offsets, and
    /// marks each directory whose logs were all closed as clean. Everything is refused from then on. What is not done when
    /// the deadline passes is left as by a crash, which loses nothing that was acknowledged as durable; a call into a disk
    /// that does not answer cannot be cut short.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when it was closed before.
    pub fn close(&self, deadline: impl Into<Deadline>) -> Result<StoreClosed, StoreError> {
        let deadline = deadline.into();
        let shared = &self.shared;
        {
            let _naming = shared.naming.lock();
            if !shared.set_closed() {
                return Err(StoreError::Closed);
            }
        }
        let mut closed = shared.close_logs(deadline);
        for directory in &shared.directories {
            if directory.check().is_ok()
                && let Err(failure) = shared.close_directory(directory, &closed)
            {
                closed.failed_dirs.push(failure);
            }
        }
        shared.abandon_all();
        for directory in &shared.directories {
            directory.close();
        }
        Ok(closed)
    }
}

impl Shared {
    /// Closes every log that is open.
    fn close_logs(&self, deadline: Deadline) -> StoreClosed {
        let all = self.all();
        let next = AtomicUsize::new(0);
        let closed = Mutex::new(StoreClosed::default());
        let work = || {
            while let Some(hosted) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let outcome = if deadline.has_passed() { Err(None) } else { close_one(hosted) };
                let mut closed = closed.lock();
                match outcome {
                    Ok(()) => closed.clean += 1,
                    Err(why) => closed.unclean.push((hosted.name.clone(), why)),
                }
            }
        };
        let threads = (self.config.recovery_threads as usize).saturating_mul(self.directories.len()).min(all.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let builder = std::thread::Builder::new().name("alluvium-close".into());
                let _ = builder.spawn_scoped(scope, work);
            }
            work();
        });
        std::mem::take(&mut *closed.lock())
    }

    fn close_directory(&self, directory: &Arc<Directory>, closed: &StoreClosed) -> Result<(), IoFailure> {
        self.write_lists(directory, &CheckpointKind::ALL)?;
        let is_there =
            |name: &TopicPartition| self.find(name).is_some_and(|hosted| Arc::ptr_eq(&hosted.directory(), directory));
        if closed.unclean.iter().all(|(name, _)| !is_there(name)) {
            directory.mark_clean()?;
        }
        Ok(())
    }
}

/// Closes the log of a partition, if it is open, and keeps what the lists are to say of it.
fn close_one(hosted: &Hosted) -> Result<(), Option<ChangeError>> {
    let Some(log) = hosted.loaded() else {
        return hosted.look(|slot| match &slot.state {
            SlotState::Parked(parked) if parked.marks.is_some() => Ok(()),
            SlotState::Away(Unavailable::Deleted) => Ok(()),
            SlotState::Loaded(_) | SlotState::Parked(_) | SlotState::Failed(_) | SlotState::Away(_) => Err(None),
        });
    };
    let first_base = log.first_base();
    log.close().map_err(Some)?;
    let marks = log.marks();
    hosted.change(|slot| {
        slot.state = SlotState::Parked(Parked { first_base: Some(first_base), ..Parked::closed_at(marks) });
    });
    Ok(())
}
