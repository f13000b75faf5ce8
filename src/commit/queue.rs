//! Waiters for durability. One of them leads a commit round while the others gather for the next; with a worker
//! attached nobody leads and the worker is woken instead.
//!
//! A round covers a waiter only if it captured its target after the waiter's append, so a raise of the durable end is
//! the only thing that counts as success. A failed round fails everybody who waits and everybody who comes later.

use std::task::{Context, Poll, Waker};

use crossbeam::channel::Sender;

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
pub(crate) struct Enlisted(u64);

#[derive(Debug)]
enum Verdict {
    Open,
    Failed(LogFailed),
    Closed,
}

#[derive(Debug)]
struct Future {
    id: Enlisted,
    ticket: Ticket,
    waker: Waker,
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
    futures: Vec<Future>,
    next_id: u64,
    worker: Option<Sender<()>>,
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
            futures: Vec::new(),
            next_id: 0,
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
            let in_time = sleep(&self.changed, &mut state, deadline);
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
        let mut state = self.state.lock();
        if let Some(outcome) = state.judge(ticket) {
            if let Some(id) = enlisted.take() {
                state.futures.retain(|future| future.id != id);
            }
            return Poll::Ready(outcome);
        }
        let known = enlisted.and_then(|id| state.futures.iter_mut().find(|future| future.id == id));
        if let Some(future) = known {
            future.waker.clone_from(context.waker());
        } else {
            let id = Enlisted(state.next_id);
            state.next_id += 1;
            state.futures.push(Future { id, ticket, waker: context.waker().clone() });
            *enlisted = Some(id);
            self.tell_lingering(&state);
        }
        state.wake_worker();
        Poll::Pending
    }

    /// Takes a future out that is dropped before it was answered.
    pub(crate) fn forget(&self, enlisted: Enlisted) {
        self.state.lock().futures.retain(|future| future.id != enlisted);
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiters(&self) -> bool {
        let state = self.state.lock();
        state.blocked > 0 || !state.futures.is_empty()
    }

    /// Lets a round wait for company, for at most until `deadline` or until `enough` wait.
    pub(crate) fn linger(&self, deadline: Deadline, enough: u32) {
        let mut state = self.state.lock();
        state.lingers_for = Some(enough);
        while matches!(state.verdict, Verdict::Open)
            && state.waiting() < enough
            && sleep(&self.gathered, &mut state, deadline)
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
        self.settle(state);
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
        if state.cuts.len() > CUTS_MAX {
            let (forgotten, _) = state.cuts.remove(0);
            state.forgotten_before = forgotten;
        }
        self.settle(state);
    }

    /// The log latched.
    pub(crate) fn fail(&self, failed: &LogFailed) {
        let mut state = self.state.lock();
        if matches!(state.verdict, Verdict::Open) {
            state.verdict = Verdict::Failed(failed.clone());
        }
        self.settle(state);
    }

    /// The log is closed.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        // Why they were not made durable is what who waits has to know, not that it was given up after that.
        if matches!(state.verdict, Verdict::Open) {
            state.verdict = Verdict::Closed;
        }
        state.worker = None;
        self.settle(state);
    }

    /// From now on nobody leads; `worker` is woken instead. `None` undoes it.
    pub(crate) fn attach_worker(&self, worker: Option<Sender<()>>) {
        let mut state = self.state.lock();
        state.worker = worker;
        // Whoever waits for a worker that is gone has to lead now.
        self.settle(state);
    }

    /// Tells the worker that there may be something to do; `false` when there is none.
    pub(crate) fn wake_worker(&self) -> bool {
        let state = self.state.lock();
        state.wake_worker();
        state.worker.is_some()
    }

    /// Wakes whoever can be answered now. Wakers run without the lock: they may poll again at once.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let mut ready = Vec::new();
        let mut at = 0;
        while let Some(future) = state.futures.get(at) {
            if state.judge(future.ticket).is_some() {
                ready.push(state.futures.swap_remove(at).waker);
            } else {
                at += 1;
            }
        }
        drop(state);
        self.changed.notify_all();
        self.gathered.notify_all();
        ready.into_iter().for_each(Waker::wake);
    }
}

/// Releases the lock until woken or `deadline`; `false` when it passed.
fn sleep(condvar: &Condvar, state: &mut MutexGuard<'_, State>, deadline: Deadline) -> bool {
    if let Some(at) = deadline.instant() {
        return condvar.wait_until(state, at);
    }
    condvar.wait(state);
    true
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
            // Full means that it is awake or about to be.
            let _ = worker.try_send(());
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::error::{IoFailure, IoOperation};

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn failed() -> LogFailed {
        LogFailed { cause: IoFailure::new(IoOperation::Sync, "x", std::io::Error::from_raw_os_error(5)) }
    }

    #[test]
    fn one_waiter_leads_and_the_rest_follow() {
        let queue = CommitQueue::new(Offset::ZERO);
        let rounds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for end in 1..=8 {
                let (queue, rounds) = (&queue, &rounds);
                scope.spawn(move || {
                    let lead = || {
                        rounds.fetch_add(1, Ordering::Relaxed);
                        queue.raise(at(8));
                    };
                    queue.wait(queue.ticket(at(end)), Deadline::NEVER, lead).unwrap();
                });
            }
        });
        assert!((1..=8).contains(&rounds.load(Ordering::Relaxed)));
    }

    #[test]
    fn a_failed_round_fails_everybody_and_stays_failed() {
        let queue = CommitQueue::new(at(3));
        let ticket = queue.ticket(at(5));
        let outcome = queue.wait(ticket, Deadline::NEVER, || queue.fail(&failed()));
        assert!(matches!(outcome, Err(DurabilityError::Failed(_))));
        let outcome = queue.wait(ticket, Deadline::NEVER, || panic!("nothing is tried again"));
        assert!(matches!(outcome, Err(DurabilityError::Failed(_))));
        // What was durable before stays so.
        queue.wait(queue.ticket(at(3)), Deadline::NEVER, || panic!("no round needed")).unwrap();
    }

    #[test]
    fn a_truncated_ticket_is_not_answered_by_what_was_written_in_its_place() {
        let queue = CommitQueue::new(Offset::ZERO);
        let old = queue.ticket(at(10));
        queue.cut(at(4));
        queue.raise(at(10));
        let outcome = queue.wait(old, Deadline::NEVER, || ());
        assert!(matches!(outcome, Err(DurabilityError::Truncated { .. })), "{outcome:?}");
        queue.wait(queue.ticket(at(10)), Deadline::NEVER, || ()).unwrap();
        for end in 11..200 {
            queue.cut(at(end));
        }
        assert!(matches!(queue.wait(old, Deadline::NEVER, || ()), Err(DurabilityError::Truncated { .. })));
    }

    #[test]
    fn with_a_worker_a_deadline_passes_and_nobody_leads() {
        let queue = CommitQueue::new(Offset::ZERO);
        let (sender, receiver) = crossbeam::channel::bounded(1);
        queue.attach_worker(Some(sender));
        let deadline = Duration::from_millis(5).into();
        let outcome = queue.wait(queue.ticket(at(1)), deadline, || panic!("the worker syncs"));
        assert!(matches!(outcome, Err(DurabilityError::DeadlinePassed { .. })));
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn lingering_ends_when_enough_wait() {
        let queue = CommitQueue::new(Offset::ZERO);
        let lead = || {
            queue.linger(Deadline::NEVER, 3);
            queue.raise(at(3));
        };
        std::thread::scope(|scope| {
            for end in 1..=3 {
                let (queue, lead) = (&queue, &lead);
                scope.spawn(move || queue.wait(queue.ticket(at(end)), Deadline::NEVER, lead).unwrap());
            }
        });
    }

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn futures_are_woken_once_and_answered_when_the_log_closes() {
        let queue = CommitQueue::new(Offset::ZERO);
        let counter = Arc::new(CountingWaker::default());
        let waker = Waker::from(Arc::clone(&counter));
        let context = Context::from_waker(&waker);
        let (first, second) = (queue.ticket(at(1)), queue.ticket(at(2)));
        let (mut one, mut two) = (None, None);
        assert!(queue.poll(first, &mut one, &context).is_pending());
        assert!(queue.poll(second, &mut two, &context).is_pending());
        assert!(queue.poll(second, &mut two, &context).is_pending());
        queue.raise(at(1));
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(matches!(queue.poll(first, &mut one, &context), Poll::Ready(Ok(()))));
        queue.close();
        assert_eq!(counter.0.load(Ordering::Relaxed), 2);
        assert!(matches!(queue.poll(second, &mut two, &context), Poll::Ready(Err(DurabilityError::Closed))));
        assert!(!queue.has_waiters());
    }

    /// `cargo test --release --lib many_futures -- --ignored --nocapture`
    #[test]
    #[ignore = "measures; prints nanoseconds per operation"]
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    fn many_futures_cost_little_each() {
        for futures in [100, 1_000, 10_000] {
            let queue = CommitQueue::new(Offset::ZERO);
            let context = Context::from_waker(Waker::noop());
            let mut enlisted: Vec<_> = (1..=futures).map(|end| (queue.ticket(at(end)), None)).collect();
            let started = std::time::Instant::now();
            for _ in 0..2 {
                for (ticket, place) in &mut enlisted {
                    assert!(queue.poll(*ticket, place, &context).is_pending());
                }
            }
            let polled = started.elapsed();
            for (_, place) in enlisted.iter().rev().step_by(2) {
                queue.forget(place.unwrap());
            }
            let forgotten = started.elapsed();
            (1..=futures).for_each(|end| queue.raise(at(end)));
            let raised = started.elapsed();
            assert!(!queue.has_waiters());
            let each = |span: Duration, operations: i64| span.as_nanos() / u128::try_from(operations).unwrap();
            println!(
                "{futures} futures: poll {} ns, forget {} ns, raise {} ns",
                each(polled, futures * 2),
                each(forgotten.saturating_sub(polled), futures / 2),
                each(raised.saturating_sub(forgotten), futures)
            );
        }
    }
}
