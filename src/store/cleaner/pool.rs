//! The cleaner's threads: as many as the settings say at the moment, each with a bench of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bench::Bench;
use crate::clock::Deadline;
use crate::store::shared::Shared;
use crate::store::workers::{SpawnError, StepDriver, ThreadBudget, Worker, WorkerHealth};
use crate::sync::Mutex;

/// Threads, and the benches that they work at.
#[derive(Debug, Default)]
pub(in crate::store) struct CleanerPool {
    workers: Mutex<Vec<(Arc<Bench>, Worker)>>,
}

impl CleanerPool {
    /// Starts a thread for every bench that has none, and lets go of those whose bench is gone: each ends with its step.
    pub(in crate::store) fn fit(&self, shared: &Arc<Shared>, budget: &ThreadBudget) -> Result<(), SpawnError> {
        let (benches, stand_in) = (shared.cleaner.benches(), shared.cleaner.stand_in());
        let mut workers = self.workers.lock();
        let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut *workers)
            .into_iter()
            .partition(|(bench, _)| benches.iter().chain(&stand_in).any(|wanted| Arc::ptr_eq(wanted, bench)));
        *workers = kept;
        let mut fitted = Ok(());
        if shared.cleaner.config().enabled {
            for bench in &benches {
                if fitted.is_ok() && !workers.iter().any(|(known, _)| Arc::ptr_eq(known, bench)) {
                    fitted = start(shared, bench, budget).map(|worker| workers.push((Arc::clone(bench), worker)));
                }
            }
        }
        // Nobody is worse off without one: where there is no thread for it, that is no failure.
        let new = stand_in.filter(|bench| !workers.iter().any(|(known, _)| Arc::ptr_eq(known, bench)));
        if let Some(bench) = new.filter(|_| fitted.is_ok() && shared.cleaner.config().enabled)
            && let Ok(worker) = start(shared, &bench, budget)
        {
            workers.push((bench, worker));
        }
        let stuck_after = shared.cleaner.config().stuck_after;
        for (_, worker) in workers.iter() {
            worker.set_stuck_after(stuck_after);
        }
        shared.cleaner.set_wakers(workers.iter().map(|(_, worker)| worker.waker()).collect());
        let has_thread = |bench: &&Arc<Bench>| workers.iter().any(|(known, _)| Arc::ptr_eq(known, bench));
        let with_thread = benches.iter().filter(has_thread).count();
        let missing = if shared.cleaner.config().enabled { benches.len().saturating_sub(with_thread) } else { 0 };
        shared.cleaner.missing_workers.store(missing as u64, Ordering::Release);
        drop(workers);
        // Told to end: each puts down what it is at.
        drop(left);
        fitted
    }

    pub(in crate::store) fn health(&self) -> Vec<(usize, WorkerHealth)> {
        self.workers.lock().iter().map(|(bench, worker)| (bench.number, worker.health())).collect()
    }

    pub(in crate::store) fn is_current(&self) -> bool {
        self.workers.lock().iter().any(|(_, worker)| worker.is_current())
    }

    /// Ends the threads, each after its present step, and waits for that until the deadline.
    pub(in crate::store) fn stop(&self, deadline: Deadline) {
        // Not under the lock: health is asked while a worker hangs.
        let workers = std::mem::take(&mut *self.workers.lock());
        for (bench, worker) in &workers {
            bench.dismiss();
            worker.wake();
        }
        for (_, worker) in &workers {
            worker.stop(deadline);
        }
    }
}

fn start(shared: &Arc<Shared>, bench: &Arc<Bench>, budget: &ThreadBudget) -> Result<Worker, SpawnError> {
    let (room, at) = (Arc::clone(shared), Arc::clone(bench));
    let name = if bench.is_stand_in { "cleaner-stand-in".to_owned() } else { format!("cleaner-{}", bench.number) };
    let driver = StepDriver::new(name, move || {
        let (shared, bench) = (Arc::clone(&room), Arc::clone(&at));
        Box::new(move |now| shared.cleaner.step(&shared, &bench, now))
    });
    let driver = driver.reporting_to(shared.events.clone()).stuck_after(shared.cleaner.config().stuck_after);
    Worker::start(driver, Arc::clone(&shared.environment.clock), budget)
}
