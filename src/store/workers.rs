//! Supervised background work: a step at a time, by a thread of its own or by whoever calls [`StepDriver::tick`].
//!
//! ```text
//! Work        what is to be done, one step at a time
//! StepDriver  when the next step is due, what a panic comes to, how the work is doing; no thread, no waiting
//! Worker      a thread around a driver: tick, wait until due or woken, again
//! ThreadBudget  how many such threads there may be
//! ```
//! A panic in a step ends that step and no more: the work is made anew and goes on after a pause, which doubles while the
//! panics go on and which no wake-up cuts short. Everything about time comes from the caller, so that a simulator with a
//! clock of its own drives the same steps in the same order.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::events::{Events, StoreEvent};
use crate::clock::{Clock, Deadline};
use crate::sync::Mutex;

/// After a panic the work pauses this long, doubled with each panic in a row up to a minute.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// A step that takes longer counts as stuck, unless told otherwise: longer than disks and their retries take.
const STUCK_AFTER: Duration = Duration::from_mins(1);
/// As much of a panic's message as is kept.
const MESSAGE_CHARS_MAX: usize = 500;

/// What a step of some work came to: when the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// Nothing to do for so long, unless woken.
    Wait(Duration),
    /// Nothing to do ever again.
    Done,
}

/// Work that is done in steps. A step should be short (some milliseconds, or one call that cannot be divided, such as a
/// sync): stopping waits for the step in progress.
pub trait Work: Send {
    /// Does what is due at `now`, a monotonic time.
    fn step(&mut self, now: Duration) -> Step;
}

impl<F: FnMut(Duration) -> Step + Send> Work for F {
    fn step(&mut self, now: Duration) -> Step {
        self(now)
    }
}

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// In a step.
    Running,
    /// Between steps.
    Waiting,
    /// A step panicked; the next one comes at this monotonic time.
    BackingOff {
        /// When the pause ends.
        until: Duration,
    },
    /// There will be no more steps.
    Stopped,
}

/// How a worker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerHealth {
    /// Its role, and which of several.
    pub name: String,
    /// What it is at.
    pub state: WorkerState,
    /// Steps that were begun.
    pub steps: u64,
    /// Steps that panicked.
    pub panics: u64,
    /// What the last panic said; the beginning, if it was long.
    pub last_panic: Option<String>,
    /// The monotonic time since which it is in `state`: of a running one, when the present step began.
    pub since: Duration,
    /// How long a step may take before it counts as stuck.
    pub stuck_after: Duration,
}

impl WorkerHealth {
    /// Whether the present step takes longer at `now` than it should: a disk that does not answer, most often.
    pub fn is_stuck(&self, now: Duration) -> bool {
        self.state == WorkerState::Running && now.saturating_sub(self.since) > self.stuck_after
    }
}

/// What a driver's owner and its observers share.
#[derive(Debug)]
struct Shared {
    health: Mutex<WorkerHealth>,
    woken: AtomicBool,
    stopping: AtomicBool,
    /// Rung so that a thread looks at the two flags; full is as good as rung.
    bell: Sender<()>,
}

impl Shared {
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        let _ = self.bell.try_send(());
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.bell.try_send(());
    }
}

/// Wakes a worker, from any thread and without waiting. A wake-up during a step is not lost: another step follows.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Makes the next step due now, but for the pause after a panic.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// Makes a work, at first and after each panic.
type Make = Box<dyn FnMut() -> Box<dyn Work> + Send>;

/// Some work and when its next step is due. It starts no thread and waits for nothing: call [`tick`](Self::tick), or
/// give it to [`Worker::start`].
///
/// ```
/// use alluvium::store::workers::{Step, StepDriver};
/// use std::time::Duration;
/// let mut driver = StepDriver::new("ticker", || Box::new(|_| Step::Wait(Duration::from_secs(5))));
/// assert_eq!(driver.tick(Duration::ZERO), Some(Duration::from_secs(5)));
/// // Too early: nothing is done.
/// driver.tick(Duration::from_secs(4));
/// assert_eq!(driver.health().steps, 1);
/// driver.waker().wake();
/// driver.tick(Duration::from_secs(4));
/// assert_eq!(driver.health().steps, 2);
/// ```
pub struct StepDriver {
    make: Make,
    /// `None` before the first step and after a panic.
    work: Option<Box<dyn Work>>,
    /// Monotonic time of the next step; `None` when there is none.
    due: Option<Duration>,
    /// Whether `due` ends a pause after a panic.
    is_backing_off: bool,
    backoff: Duration,
    shared: Arc<Shared>,
    rung: Receiver<()>,
    events: Option<Events>,
}

impl fmt::Debug for StepDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepDriver").field("health", &self.health()).field("due", &self.due).finish_non_exhaustive()
    }
}

impl StepDriver {
    /// Work by the name of `name`, whose first step is due at once. `make` is called before the first step, and again
    /// after each panic: what a panic left half-changed is dropped.
    pub fn new(name: impl Into<String>, make: impl FnMut() -> Box<dyn Work> + Send + 'static) -> Self {
        let (bell, rung) = bounded(1);
        let health = WorkerHealth {
            name: name.into(),
            state: WorkerState::Waiting,
            steps: 0,
            panics: 0,
            last_panic: None,
            since: Duration::ZERO,
            stuck_after: STUCK_AFTER,
        };
        let (woken, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { health: Mutex::new(health), woken, stopping, bell });
        Self {
            make: Box::new(make),
            work: None,
            due: Some(Duration::ZERO),
            is_backing_off: false,
            backoff: BACKOFF_FIRST,
            shared,
            rung,
            events: None,
        }
    }

    /// Tells subscribers of panics.
    #[must_use]
    pub fn reporting_to(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Sets how long a step may take before it counts as stuck; a minute otherwise.
    #[must_use]
    pub fn stuck_after(self, limit: Duration) -> Self {
        self.shared.health.lock().stuck_after = limit;
        self
    }

    /// What wakes the work.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// How the work is doing.
    pub fn health(&self) -> WorkerHealth {
        self.shared.health.lock().clone()
    }

    /// Does one step if one is due at `now`, a monotonic time that never goes back. Returns when the next one is due,
    /// which may be now; `None` when there is none, for the work is done or stopped.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        if self.shared.stopping.load(Ordering::Acquire) {
            self.stop(now);
        }
        let due = self.due?;
        // Whoever wakes the work during the step below wants another one.
        let is_woken = !self.is_backing_off && self.shared.woken.swap(false, Ordering::AcqRel);
        if now < due && !is_woken {
            return Some(due);
        }
        self.enter(WorkerState::Running, now);
        match catch_unwind(AssertUnwindSafe(|| self.step(now))) {
            Ok(step) => self.went_well(step, now),
            Err(panic) => self.panicked(&*panic, now),
        }
        self.due
    }

    /// Ends the work: no step follows. What it holds is dropped.
    pub fn stop(&mut self, now: Duration) {
        self.due = None;
        self.drop_work();
        self.enter(WorkerState::Stopped, now);
    }

    fn step(&mut self, now: Duration) -> Step {
        self.work.get_or_insert_with(|| (self.make)()).step(now)
    }

    fn went_well(&mut self, step: Step, now: Duration) {
        (self.is_backing_off, self.backoff) = (false, BACKOFF_FIRST);
        match step {
            Step::Again => self.due = Some(now),
            Step::Wait(pause) => self.due = Some(now.saturating_add(pause)),
            Step::Done => return self.stop(now),
        }
        self.enter(WorkerState::Waiting, now);
    }

    fn panicked(&mut self, panic: &(dyn Any + Send), now: Duration) {
        self.drop_work();
        let until = now.saturating_add(self.backoff);
        (self.due, self.is_backing_off) = (Some(until), true);
        self.backoff = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        let message = message_of(panic);
        self.enter(WorkerState::BackingOff { until }, now);
        let worker = {
            let mut health = self.shared.health.lock();
            health.panics += 1;
            health.last_panic = Some(message.clone());
            health.name.clone()
        };
        if let Some(events) = &self.events {
            events.emit(&StoreEvent::WorkerPanicked { worker, message });
        }
    }

    /// What a panic left behind may panic once more as it goes.
    fn drop_work(&mut self) {
        let work = self.work.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
    }

    fn enter(&self, state: WorkerState, now: Duration) {
        let mut health = self.shared.health.lock();
        health.steps += u64::from(state == WorkerState::Running);
        (health.state, health.since) = (state, now);
    }

    /// Waits until `due` by `clock`, or until the bell is rung. A simulated clock may not move meanwhile; then it is
    /// waited for again.
    fn wait(&self, due: Duration, clock: &dyn Clock) {
        let pause = due.saturating_sub(clock.monotonic());
        if !pause.is_zero() {
            // This driver holds a sender itself: the channel never closes.
            let (Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) =
                self.rung.recv_timeout(pause);
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").chars().take(MESSAGE_CHARS_MAX).collect()
}

/// Why a worker got no thread.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The budget is used up.
    #[error("all {max} threads allowed are running; allow more, or drive the work with `tick`")]
    Budget {
        /// How many threads are allowed.
        max: u32,
    },
    /// The system gives no thread.
    #[error(
        "the system starts no thread for {name}: {source}; raise the limit on threads, or drive the work with `tick`"
    )]
    System {
        /// The worker's name.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How many threads there may be. Clones share one budget. A thread counts until it has ended.
///
/// ```
/// use alluvium::store::workers::ThreadBudget;
/// let budget = ThreadBudget::new(8);
/// assert_eq!((budget.max(), budget.used()), (8, 0));
/// ```
#[derive(Clone, Debug)]
pub struct ThreadBudget {
    max: u32,
    used: Arc<AtomicU32>,
}

impl ThreadBudget {
    /// At most `max` threads.
    pub fn new(max: u32) -> Self {
        Self { max, used: Arc::new(AtomicU32::new(0)) }
    }

    /// As many as the system gives.
    pub fn unbounded() -> Self {
        Self::new(u32::MAX)
    }

    /// How many there may be.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// How many there are.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    fn claim(&self) -> Result<ThreadClaim, SpawnError> {
        let one_more = |used: u32| used.checked_add(1).filter(|used| *used <= self.max);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => Ok(ThreadClaim(Arc::clone(&self.used))),
            Err(_) => Err(SpawnError::Budget { max: self.max }),
        }
    }
}

/// One thread of a budget, given back when dropped.
#[derive(Debug)]
struct ThreadClaim(Arc<AtomicU32>);

impl Drop for ThreadClaim {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A thread around a [`StepDriver`], named `alluvium-` and the worker's name. Any thread may use it.
///
/// Dropping it tells the thread to end after its present step and does not wait for that; [`stop`](Self::stop) waits.
///
/// ```
/// use alluvium::clock::{Deadline, SystemClock};
/// use alluvium::store::workers::{Step, Worker, WorkerState};
/// use std::sync::Arc;
/// use std::time::Duration;
/// let clock = Arc::new(SystemClock::new());
/// let worker = Worker::spawn("idler".into(), clock, || Box::new(|_| Step::Wait(Duration::from_secs(60)))).unwrap();
/// worker.wake();
/// assert!(worker.stop(Deadline::NEVER));
/// assert_eq!(worker.health().state, WorkerState::Stopped);
/// ```
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    id: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Closed when the thread is about to end.
    ended: Receiver<()>,
}

impl Worker {
    /// Starts a thread for some work, in no budget. See [`StepDriver::new`] for `make`.
    ///
    /// # Errors
    /// [`SpawnError::System`] when there is no thread to be had.
    pub fn spawn(
        name: String,
        clock: Arc<dyn Clock>,
        make: impl FnMut() -> Box<dyn Work> + Send + 'static,
    ) -> Result<Self, SpawnError> {
        Self::start(StepDriver::new(name, make), clock, &ThreadBudget::unbounded())
    }

    /// Starts a thread that drives `driver`, if `budget` has one left.
    ///
    /// # Errors
    /// [`SpawnError`]; the driver is gone then.
    pub fn start(driver: StepDriver, clock: Arc<dyn Clock>, budget: &ThreadBudget) -> Result<Self, SpawnError> {
        let claim = budget.claim()?;
        let shared = Arc::clone(&driver.shared);
        let (ending, ended) = bounded(0);
        let name = shared.health.lock().name.clone();
        // The system's names end at a zero.
        let builder = std::thread::Builder::new().name(format!("alluvium-{}", name.replace('\0', "")));
        let spawned = builder.spawn(move || {
            run(driver, &*clock);
            drop(claim);
            drop::<Sender<()>>(ending);
        });
        let thread = spawned.map_err(|source| SpawnError::System { name, source })?;
        Ok(Self { shared, id: thread.thread().id(), thread: Mutex::new(Some(thread)), ended })
    }

    /// Makes the next step due now, but for the pause after a panic.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// What wakes it, to be handed to others.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// Whether the thread that asks is the worker's.
    pub(super) fn is_current(&self) -> bool {
        std::thread::current().id() == self.id
    }

    /// Tells the thread to end after its present step, and waits for that until `deadline`. Whether it has ended; if not,
    /// it will when its step is over, and `stop` may be called again. A step that stops its own worker is not waited for.
    pub fn stop(&self, deadline: Deadline) -> bool {
        self.shared.stop();
        if self.is_current() {
            return false;
        }
        match deadline.instant() {
            // Nothing is ever sent: what comes is that the channel closes, or the deadline.
            Some(at) => {
                if matches!(self.ended.recv_deadline(at), Err(RecvTimeoutError::Timeout)) {
                    return false;
                }
            }
            None => drop(self.ended.recv()),
        }
        let thread = self.thread.lock().take();
        // Nothing of the thread but its end is left; panics were caught and counted.
        thread.is_none_or(|thread| thread.join().is_ok())
    }

    /// How it is doing.
    pub fn health(&self) -> WorkerHealth {
        self.shared.health.lock().clone()
    }

    /// Sets how long a step may take before it counts as stuck; a minute otherwise.
    pub fn set_stuck_after(&self, limit: Duration) {
        self.shared.health.lock().stuck_after = limit;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// All that a worker's thread does.
fn run(mut driver: StepDriver, clock: &dyn Clock) {
    while let Some(due) = driver.tick(clock.monotonic()) {
        driver.wait(due, clock);
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
