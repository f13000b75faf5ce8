//! Waiters for durability. One of them leads a commit round while the others gather for the next; with a worker
//! attached nobody leads and the worker is woken instead.
//!
//! A round covers a waiter only if it captured its target after the waiter's append, so a raise of the durable end is
//! the only thing that counts as success. A failed round fails everybody who waits and everybody who comes later.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::due::{Due, Worker};
use super::waitlist::{Place, WaitList, wake_all};
use crate::clock::Deadline;
use crate::error::{DurabilityError, LogFailed};
use crate::sync::{Condvar, Mutex, MutexGuard, Rank};
use crate::units::Offset;

/// How many truncations are told apart. Older tickets than the oldest of them are answered with `Truncated` unless
/// durable: a wrong "no" costs a retry, a wrong "yes" would cost a record.
const CUTS_MAX: usize = 64;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Offset after the last record.
    pub(crate) end: Offset,
    /// The number of truncations before the append.
    pub(crate) generation: u64,
}

/// Identity of a future in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Enlisted(Place);

#[derive(Debug)]
enum Verdict {
    Open,
    Failed(LogFailed),
    Closed,
}

/// Which futures a change lets answer. Between changes nobody in the list can be answered, so that none is looked at
/// without need.
#[derive(Clone, Copy, Debug)]
enum Answers {
    UpTo(Offset),
    Past(Offset),
    All,
    None,
}

#[derive(Debug)]
struct State {
    durable_end: Offset,
    verdict: Verdict,
    generation: u64,
    /// For each remembered truncation its number and the offset that it cut to; offsets strictly rise.
    cuts: Vec<(u64, Offset)>,
    forgotten_before: u64,
    leading: bool,
    /// A round waits for company: so many.
    lingers_for: Option<u32>,
    blocked: u32,
    /// With the generation of each ticket.
    futures: WaitList<u64>,
    worker: Option<Worker>,
}

/// The waiters of one log.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    state: Mutex<State>,
    changed: Condvar,
    /// A lingering round has its company, or no reason to linger.
    gathered: Condvar,
}

impl CommitQueue {
    pub(crate) fn new(durable_end: Offset) -> Self {
        let state = State {
            durable_end,
            verdict: Verdict::Open,
            generation: 0,
            cuts: Vec::new(),
            forgotten_before: 0,
            leading: false,
            lingers_for: None,
            blocked: 0,
            futures: WaitList::new(),
            worker: None,
        };
        Self { state: Mutex::ranked(Rank::Queue, state), changed: Condvar::new(), gathered: Condvar::new() }
    }

    /// A ticket for what ends at `end` and was just appended. Called under the writer lock, so no cut comes between.
    pub(crate) fn ticket(&self, end: Offset) -> Ticket {
        Ticket { end, generation: self.state.lock().generation }
    }

    /// Blocks until the ticket's fate is known or the deadline passes. `lead` runs one round; it is called without
    /// the queue's lock, by one waiter at a time, and only when no worker is attached.
    pub(crate) fn wait(
        &self,
        ticket: Ticket,
        deadline: Deadline,
        mut lead: impl FnMut(),
    ) -> Result<(), DurabilityError> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.judge(ticket) {
                return outcome;
            }
            if !state.leading && state.worker.is_none() {
                state.leading = true;
                drop(state);
                let turn = Turn { queue: self };
                lead();
                drop(turn);
                state = self.state.lock();
                continue;
            }
            state.wake_worker();
            state.blocked += 1;
            self.tell_lingering(&state);
            let in_time = self.changed.wait_by(&mut state, deadline);
            state.blocked -= 1;
            if !in_time {
                let durable_end = state.durable_end;
                let late = DurabilityError::DeadlinePassed { durable_end, wanted: ticket.end };
                return state.judge(ticket).unwrap_or(Err(late));
            }
        }
    }

    /// Answers a future, or enlists it.
    pub(crate) fn poll(
        &self,
        ticket: Ticket,
        enlisted: &mut Option<Enlisted>,
        context: &Context<'_>,
    ) -> Poll<Result<(), DurabilityError>> {
        // Cloning and dropping wakers runs the caller's code, which has no business under the lock.
        let waker = context.waker().clone();
        let mut state = self.state.lock();
        if let Some(outcome) = state.judge(ticket) {
            let removed = enlisted.take().and_then(|Enlisted(place)| state.futures.remove(place));
            drop(state);
            drop(removed);
            return Poll::Ready(outcome);
        }
        let known = *enlisted;
        let Enlisted(place) = *enlisted.get_or_insert_with(|| Enlisted(state.futures.place(ticket.end)));
        let replaced = state.futures.put(place, ticket.generation, waker);
        if known.is_none() {
            self.tell_lingering(&state);
        }
        state.wake_worker();
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Takes a future out that is dropped before it was answered.
    pub(crate) fn forget(&self, enlisted: Enlisted) {
        let Enlisted(place) = enlisted;
        let mut state = self.state.lock();
        let removed = state.futures.remove(place);
        drop(state);
        drop(removed);
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiters(&self) -> bool {
        let state = self.state.lock();
        state.blocked > 0 || !state.futures.is_empty()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.state.lock().waiting()
    }

    /// Lets a round wait for company, for at most until `deadline` or until `enough` wait.
    pub(crate) fn linger(&self, deadline: Deadline, enough: u32) {
        let mut state = self.state.lock();
        state.lingers_for = Some(enough);
        while matches!(state.verdict, Verdict::Open)
            && state.waiting() < enough
            && self.gathered.wait_by(&mut state, deadline)
        {}
        state.lingers_for = None;
    }

    fn tell_lingering(&self, state: &State) {
        if state.lingers_for.is_some_and(|enough| state.waiting() >= enough) {
            self.gathered.notify_all();
        }
    }

    /// Everything below `end` is durable.
    pub(crate) fn raise(&self, end: Offset) {
        let mut state = self.state.lock();
        state.durable_end = state.durable_end.max(end);
        let answers = Answers::UpTo(state.durable_end);
        self.settle(state, answers);
    }

    /// The log was cut to `end`.
    pub(crate) fn cut(&self, end: Offset) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.durable_end = state.durable_end.min(end);
        // A later and deeper cut says all that an earlier, shallower one says.
        while state.cuts.last().is_some_and(|(_, cut)| *cut >= end) {
            state.cuts.pop();
        }
        let generation = state.generation;
        state.cuts.push((generation, end));
        let mut forgotten = Vec::new();
        if state.cuts.len() > CUTS_MAX {
            let (before, _) = state.cuts.remove(0);
            state.forgotten_before = before;
            // The one place that looks at everybody: it takes so many truncations that a look is nothing beside them.
            state.futures.take_where(|generation| *generation < before, &mut forgotten);
        }
        // Every ticket in the list was given before this cut, so whoever wants more than what is left is answered.
        self.settle(state, Answers::Past(end));
        wake_all(forgotten);
    }

    /// The log latched.
    pub(crate) fn fail(&self, failed: &LogFailed) {
        let mut state = self.state.lock();
        if matches!(state.verdict, Verdict::Open) {
            state.verdict = Verdict::Failed(failed.clone());
        }
        self.settle(state, Answers::All);
    }

    /// Why the log latched, if it did; also after it was closed.
    pub(crate) fn failed(&self) -> Option<LogFailed> {
        if let Verdict::Failed(failed) = &self.state.lock().verdict { Some(failed.clone()) } else { None }
    }

    /// The log is closed.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        // Why they were not made durable is what who waits has to know, not that it was given up after that.
        if matches!(state.verdict, Verdict::Open) {
            state.verdict = Verdict::Closed;
        }
        state.worker = None;
        self.settle(state, Answers::All);
    }

    /// From now on nobody leads; `worker` is woken instead. `None` undoes it.
    pub(crate) fn attach_worker(&self, worker: Option<Worker>) {
        let mut state = self.state.lock();
        state.worker = worker;
        // Whoever waits for a worker that is gone has to lead now.
        self.settle(state, Answers::None);
    }

    /// Undoes [`attach_worker`](Self::attach_worker), unless another one took the place since.
    pub(crate) fn detach_worker(&self, due: &Arc<Due>) {
        let mut state = self.state.lock();
        if matches!(&state.worker, Some(Worker::Shared(attached)) if Arc::ptr_eq(attached, due)) {
            state.worker = None;
            self.settle(state, Answers::None);
        }
    }

    /// Tells the worker that there may be something to do; `false` when there is none.
    pub(crate) fn wake_worker(&self) -> bool {
        let state = self.state.lock();
        state.wake_worker();
        state.worker.is_some()
    }

    /// Wakes whoever can be answered now. Wakers run without the lock: they may poll again at once.
    fn settle(&self, mut state: MutexGuard<'_, State>, answers: Answers) {
        let mut ready = Vec::new();
        match answers {
            Answers::UpTo(end) => state.futures.take_up_to(end, &mut ready),
            Answers::Past(end) => state.futures.take_past(end, &mut ready),
            Answers::All => state.futures.take_all(&mut ready),
            Answers::None => (),
        }
        drop(state);
        self.changed.notify_all();
        self.gathered.notify_all();
        wake_all(ready);
    }
}

impl State {
    /// What became of a ticket, when that is known.
    fn judge(&self, ticket: Ticket) -> Option<Result<(), DurabilityError>> {
        if let Some(log_end) = self.cut_since(ticket) {
            return Some(Err(DurabilityError::Truncated { wanted: ticket.end, log_end }));
        }
        if ticket.end <= self.durable_end {
            return Some(Ok(()));
        }
        match &self.verdict {
            Verdict::Open => None,
            Verdict::Failed(failed) => Some(Err(failed.clone().into())),
            Verdict::Closed => Some(Err(DurabilityError::Closed)),
        }
    }

    fn cut_since(&self, ticket: Ticket) -> Option<Offset> {
        let first = self.cuts.iter().find(|(generation, _)| *generation > ticket.generation);
        let deepest = first.map(|(_, end)| *end).filter(|end| *end < ticket.end);
        let forgotten = (ticket.generation < self.forgotten_before).then_some(self.durable_end);
        deepest.or(forgotten)
    }

    fn waiting(&self) -> u32 {
        let futures = u32::try_from(self.futures.len()).unwrap_or(u32::MAX);
        self.blocked.saturating_add(futures).saturating_add(u32::from(self.leading))
    }

    fn wake_worker(&self) {
        if let Some(worker) = &self.worker {
            worker.wake();
        }
    }
}

/// The leader's turn; given back even if the round panics, so that another waiter can lead.
struct Turn<'a> {
    queue: &'a CommitQueue,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queue.state.lock().leading = false;
        // Whoever could be answered was woken by the round itself; of the rest one has to lead.
        self.queue.changed.notify_one();
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
