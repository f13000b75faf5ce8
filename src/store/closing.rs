//! Work without threads, and the way out of a store: cleanly, or as a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::cleaner::{CleanerPool, CleanerRoom};
use super::directory::Directory;
use super::events::Subscription;
use super::hosted::{Hosted, Parked, SlotState};
use super::housekeeping::Housekept;
use super::names::CheckpointKind;
use super::partition_id::TopicPartition;
use super::scrubber::ScrubMetrics;
use super::shared::Shared;
use super::store_error::StoreError;
use super::workers::{SpawnError, Step, StepDriver, ThreadBudget, Worker, WorkerHealth};
use super::{Store, Workers};
use crate::clock::Deadline;
use crate::error::{ChangeError, IoFailure, Unavailable};
use crate::sync::Mutex;

/// What lives as long as somebody holds the store: its threads. When it goes the store is left as by a crash.
#[derive(Debug)]
pub(super) struct Owner {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    cleaners: Arc<CleanerPool>,
    /// How many threads there may be, the cleaner's included.
    budget: ThreadBudget,
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
    pub synced: usize,
    /// What housekeeping did, if it was time for it.
    pub housekept: Housekept,
}

impl Owner {
    /// Starts the threads that the settings ask for.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let budget = ThreadBudget::new(shared.config.threads_max.unwrap_or(u32::MAX));
        let mut owner = Self { shared: Arc::clone(shared), workers: Vec::new(), cleaners: Arc::default(), budget };
        shared.cleaner.set_pool(&owner.cleaners);
        if shared.config.workers == Workers::Threads {
            owner.start_threads().map_err(|error| StoreError::Thread(Arc::new(error)))?;
        }
        Ok(owner)
    }

    fn start_threads(&mut self) -> Result<(), SpawnError> {
        let budget = self.budget.clone();
        for (at, directory) in self.shared.directories.iter().enumerate() {
            let flusher = Arc::clone(&directory.flusher);
            let driver = StepDriver::new(format!("flusher-{at}"), move || {
                let flusher = Arc::clone(&flusher);
                Box::new(move |now| wait(flusher.step(now)))
            });
            let waker = driver.waker();
            directory.flusher.on_work(move || waker.wake());
            self.workers.push(self.run(driver, &budget)?);
        }
        let duties: [(&str, Duty); 2] = [
            ("housekeeper", |shared, now| {
                shared.housekeeper.step(shared, now);
                shared.config.housekeeping_interval.min(LOOK_INTERVAL)
            }),
            ("scrubber", |shared, now| shared.scrubber.step(shared, now)),
        ];
        for (name, duty) in duties {
            let shared = Arc::clone(&self.shared);
            let driver = StepDriver::new(name, move || {
                let shared = Arc::clone(&shared);
                Box::new(move |now| wait(duty(&shared, now)))
            });
            self.workers.push(self.run(driver, &budget)?);
        }
        self.fit_cleaner()
    }

    /// Has as many threads clean as the settings say, unless there are no threads at all.
    pub(super) fn fit_cleaner(&self) -> Result<(), SpawnError> {
        if self.shared.config.workers == Workers::Tick {
            return Ok(());
        }
        self.cleaners.fit(&self.shared, &self.budget)
    }

    /// How each thread that cleans is doing, by the number of its bench.
    pub(super) fn cleaner_workers(&self) -> Vec<(usize, WorkerHealth)> {
        self.cleaners.health()
    }

    fn run(&self, driver: StepDriver, budget: &ThreadBudget) -> Result<Worker, SpawnError> {
        let driver = driver.reporting_to(self.shared.events.clone());
        Worker::start(driver, Arc::clone(&self.shared.environment.clock), budget)
    }

    /// How each thread is doing.
    pub(super) fn health(&self) -> Vec<WorkerHealth> {
        self.workers
            .iter()
            .map(Worker::health)
            .chain(self.cleaners.health().into_iter().map(|(_, health)| health))
            .collect()
    }

    /// Ends the threads, each after its present step, and waits for that until the deadline.
    pub(super) fn stop(&self, deadline: Deadline) {
        // One that hangs must not use up the time that all logs have for closing.
        let patience = Deadline::from(CLEANER_PATIENCE).instant();
        let until = [deadline.instant(), patience].into_iter().flatten().min();
        self.cleaners.stop(until.map_or(deadline, Deadline::from));
        for worker in &self.workers {
            worker.stop(deadline);
        }
        // Between two steps: the next process goes on with them.
        self.shared.cleaner.drop_passes(&self.shared);
    }
}

/// A step of the cleaner takes some milliseconds, or some syncs where it puts segments in place.
const CLEANER_PATIENCE: Duration = Duration::from_secs(5);

type Duty = fn(&Shared, Duration) -> Duration;

/// The housekeeper looks at the space of directories at least this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

fn wait(pause: Duration) -> Step {
    if pause.is_zero() { Step::Again } else { Step::Wait(pause) }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let (shared, workers) = (Arc::clone(&self.shared), std::mem::take(&mut self.workers));
        let cleaners = std::mem::take(&mut self.cleaners);
        if !workers.iter().any(Worker::is_current) && !cleaners.is_current() {
            return end(&shared, &workers, &cleaners);
        }
        // The last handle went in a waker that a worker called, in the middle of a round, whose locks are not to be met
        // here. Without a thread for it the logs stay as they are until their handles go.
        let builder = std::thread::Builder::new().name("alluvium-end".into());
        let _ = builder.spawn(move || end(&shared, &workers, &cleaners));
    }
}

/// Leaves the store as a crash would.
fn end(shared: &Shared, workers: &[Worker], cleaners: &CleanerPool) {
    let is_first = shared.set_closed();
    // Steps are short; one that hangs in a dead disk must not keep the embedder.
    let deadline: Deadline = Duration::from_secs(1).into();
    cleaners.stop(deadline);
    for worker in workers {
        worker.stop(deadline);
    }
    if is_first {
        // What they have written aside goes while the directories are still locked.
        shared.cleaner.drop_passes(shared);
        shared.abandon_all();
    }
    for directory in &shared.directories {
        directory.close();
    }
}

impl Store {
    /// Does what is due: syncs what policy or waiters ask for, the housekeeping, some scrubbing and cleaning. For embedders that run no
    /// workers ([`Workers::Tick`]); call it every few milliseconds to seconds, from one thread.
    pub fn tick(&self) -> StoreTicked {
        let shared = &self.shared;
        let now = shared.environment.clock.monotonic();
        let mut ticked = StoreTicked::default();
        for hosted in shared.all() {
            // A log that fails is latched, and the housekeeper sees it.
            let synced = hosted.loaded().is_some_and(|log| log.sync_if_due().unwrap_or(false));
            ticked.synced += usize::from(synced);
        }
        ticked.housekept = shared.housekeeper.step(shared, now);
        shared.scrubber.step(shared, now);
        shared.cleaner.tick(shared, now);
        ticked
    }

    /// How each thread of the store is doing; none with [`Workers::Tick`].
    pub fn workers(&self) -> Vec<WorkerHealth> {
        self.owner.health()
    }

    /// What the scrubber did.
    pub fn scrubbing(&self) -> &ScrubMetrics {
        &self.shared.scrubber.metrics
    }

    /// Tells what happens to the store from now on: failures and what came of them. `capacity` events may wait, 1 to
    /// 65,536; of more the oldest are lost, and counted.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        self.shared.events.subscribe(capacity)
    }

    /// As [`Store::close`], within the time that the settings give (`alluvium.close.deadline.ms`).
    ///
    /// # Errors
    /// As [`Store::close`].
    pub fn shut_down(&self) -> Result<StoreClosed, StoreError> {
        self.close(self.shared.config.close_deadline)
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
        self.owner.stop(deadline);
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
                let outcome = if deadline.has_passed() { Err(None) } else { self.close_one(hosted) };
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

impl Shared {
    /// Closes the log of a partition, if it is open, and keeps what the lists are to say of it.
    fn close_one(&self, hosted: &Hosted) -> Result<(), Option<ChangeError>> {
        let Some(log) = hosted.loaded() else {
            return hosted.look(|slot| match &slot.state {
                SlotState::Parked(parked) if parked.marks.is_some() => Ok(()),
                SlotState::Away(Unavailable::Deleted) => Ok(()),
                SlotState::Loaded(_) | SlotState::Parked(_) | SlotState::Failed(_) | SlotState::Away(_) => Err(None),
            });
        };
        let first_base = log.first_base();
        let is_news = self.cleaner.look_last(self, hosted, &log);
        let first_dirty = self.cleaner.first_dirty(&log);
        log.close().map_err(Some)?;
        if is_news {
            CleanerRoom::write(self, hosted);
        }
        let marks = log.marks();
        hosted.change(|slot| {
            slot.state =
                SlotState::Parked(Parked { first_base: Some(first_base), first_dirty, ..Parked::closed_at(marks) });
        });
        Ok(())
    }
}
