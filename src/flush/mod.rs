//! Flushers: [`Flusher`] is a thread that makes one log durable when policy or waiters ask for it, [`GroupFlusher`] does
//! so for many logs together and is driven by whoever owns it.
//!
//! All that a [`Flusher`] does is [`PartitionLog::tick`], woken by a channel or by the clock; the same call drives a log without a
//! thread, so that a simulator runs the same code.

mod group;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::commit::Worker as Woken;
use crate::log::PartitionLog;
use crate::metrics::Counter;

pub(crate) use group::flush_many;
pub use group::{Attached, GroupFlusher, GroupMetrics};

/// The log is looked at at least this often, for what only the wall clock brings about.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After a panic the worker waits this long, doubled each time up to a minute.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// A background thread that syncs one log. Waiters wake it instead of syncing themselves. Dropping it stops the thread
/// after the round in progress; waiters then sync for themselves again.
///
/// ```
/// use alluvium::{Flusher, LogConfig, PartitionLog};
/// let dir = tempfile::tempdir().unwrap();
/// let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
/// let flusher = Flusher::start(log.clone()).unwrap();
/// assert_eq!(flusher.panics(), 0);
/// drop(flusher);
/// log.close().unwrap();
/// ```
#[derive(Debug)]
pub struct Flusher {
    log: PartitionLog,
    panics: Arc<Counter>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread. One flusher a log: a second one takes the place of the first.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(log: PartitionLog) -> std::io::Result<Self> {
        let (wake, woken) = bounded(1);
        let (stop, stopped) = bounded(0);
        let panics = Arc::new(Counter::default());
        let mut worker = Worker { log: log.clone(), woken, stopped, panics: Arc::clone(&panics) };
        let thread = std::thread::Builder::new().name("alluvium-flusher".into()).spawn(move || worker.run())?;
        log.attach_worker(Some(Woken::Thread(wake)));
        Ok(Self { log, panics, stop: Some(stop), thread: Some(thread) })
    }

    /// How often the worker panicked and was started again.
    pub fn panics(&self) -> u64 {
        self.panics.value()
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.attach_worker(None);
        // A closed channel is the signal.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was caught inside; there is nothing left to report.
            let _ = thread.join();
        }
    }
}

struct Worker {
    log: PartitionLog,
    woken: Receiver<()>,
    stopped: Receiver<()>,
    panics: Arc<Counter>,
}

impl Worker {
    fn run(&mut self) {
        let mut backoff = BACKOFF_FIRST;
        let mut pause = Duration::ZERO;
        while self.wait(pause) {
            let Ok(next) = catch_unwind(AssertUnwindSafe(|| self.step())) else {
                self.panics.add(1);
                pause = backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            };
            (pause, backoff) = (next, BACKOFF_FIRST);
        }
    }

    /// One look at the log; returns how long the next one may wait.
    fn step(&self) -> Duration {
        let Ok(ticked) = self.log.tick() else { return LOOK_INTERVAL };
        let now = self.log.clock().monotonic();
        ticked.next_due.map_or(LOOK_INTERVAL, |due| due.saturating_sub(now).min(LOOK_INTERVAL))
    }

    /// Waits for a wake-up or for `pause`; `false` when it is time to stop.
    fn wait(&self, pause: Duration) -> bool {
        let timeout = crossbeam::channel::after(pause);
        crossbeam::channel::select! {
            recv(self.stopped) -> _ => false,
            recv(self.woken) -> message => message.is_ok() || self.wait_alone(pause),
            recv(timeout) -> _ => true,
        }
    }

    /// Nobody can wake the worker any more (the log was closed, or another flusher took over).
    fn wait_alone(&self, pause: Duration) -> bool {
        matches!(self.stopped.recv_timeout(pause.max(LOOK_INTERVAL)), Err(RecvTimeoutError::Timeout))
    }
}
