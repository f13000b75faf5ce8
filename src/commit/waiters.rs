//! Waits for marks to reach offsets: what a long-poll fetch needs. Knows nothing of logs.
//!
//! Marks change with every append, and mostly nobody waits for what changed. So a change costs a store for each mark
//! that moved, one fence, and a look at the lowest offset that is waited for. Only if somebody is due is the lock taken.
//!
//! The race to lose would be a change between a waiter's look at the mark and its enlisting. Both sides write first and
//! look then, with a sequentially consistent fence between: a change stores the mark and looks at what is due, a waiter
//! stores what is due and looks at the mark. One of the two sees the other's store, whatever the processor does; without
//! the fences both could see the old values, and the waiter would sleep beside a mark that is there. `loom_models` runs
//! every order.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::marks::{Mark, Marks};
use super::waitlist::{Place, WaitList, wake_all};
use crate::clock::Deadline;
use crate::error::{LogFailed, WaitError};
use crate::sync::atomic::{AtomicI64, Ordering, fence};
use crate::sync::{Condvar, Mutex, Rank};
use crate::units::Offset;

/// What is due when nobody waits. Whoever waits for the last offset of all shares it, at the cost of a needless look.
const NOBODY: i64 = i64::MAX;

/// Identity of a future that waits for a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitsFor {
    mark: Mark,
    place: Place,
}

/// One mark and what is waited for of it.
#[derive(Debug)]
struct Slot {
    /// As last published.
    at: AtomicI64,
    /// The lowest offset that is waited for, or [`NOBODY`]. Changed under the lock alone.
    due: AtomicI64,
}

#[derive(Debug)]
enum Verdict {
    Open,
    Failed(LogFailed),
    Closed,
}

#[derive(Debug)]
struct State {
    verdict: Verdict,
    waiting: PerMark<WaitList<()>>,
}

/// The waiters for the marks of one log. Any thread may call anything; wakers run without a lock.
#[derive(Debug)]
pub(crate) struct MarkWaiters {
    slots: PerMark<Slot>,
    state: Mutex<State>,
}

impl MarkWaiters {
    pub(crate) fn new(marks: Marks) -> Self {
        let slot = |mark| Slot { at: AtomicI64::new(marks.of(mark).value()), due: AtomicI64::new(NOBODY) };
        let state = State { verdict: Verdict::Open, waiting: PerMark::of_each(|_| WaitList::new()) };
        Self { slots: PerMark::of_each(slot), state: Mutex::ranked(Rank::Queue, state) }
    }

    /// Takes over the marks after a change and wakes whoever is due. Whoever waits for a mark that fell goes on waiting.
    ///
    /// Calls must come in the order of the changes: an older snapshot that came last would stay. Where a lock makes that
    /// order and wakers are not to run under it, [`note`](Self::note) belongs under the lock and
    /// [`wake`](Self::wake) behind it.
    #[cfg(test)]
    pub(crate) fn publish(&self, marks: &Marks) {
        if self.note(marks) {
            self.wake();
        }
    }

    /// The first half of [`publish`](Self::publish): takes over the marks and tells whether somebody is due. Wakes
    /// nobody, takes no lock, allocates nothing.
    #[must_use = "somebody is due and has to be woken"]
    pub(crate) fn note(&self, marks: &Marks) -> bool {
        let mut changed = false;
        for (mark, slot) in self.slots.each() {
            let at = marks.of(mark).value();
            if slot.at.load(Ordering::Relaxed) != at {
                // Release: whoever sees the mark also sees what was published before it.
                slot.at.store(at, Ordering::Release);
                changed = true;
            }
        }
        if !changed {
            return false;
        }
        // The marks first, then what is due; see the top of this file.
        fence(Ordering::SeqCst);
        self.slots.each().any(|(mark, slot)| marks.of(mark).value() >= slot.due.load(Ordering::Relaxed))
    }

    /// The second half of [`publish`](Self::publish): wakes whoever is due by the marks as they are now.
    pub(crate) fn wake(&self) {
        let mut ready = Vec::new();
        let mut state = self.state.lock();
        for mark in Mark::ALL {
            let at = self.at(mark);
            let list = state.waiting.of_mut(mark);
            if list.lowest().is_some_and(|lowest| lowest <= at) {
                list.take_up_to(at, &mut ready);
                self.show_due(mark, list);
            }
        }
        drop(state);
        wake_all(ready);
    }

    /// Blocks until `mark` is at `at_least` or past it, and returns where it is then.
    pub(crate) fn wait(&self, mark: Mark, at_least: Offset, deadline: Deadline) -> Result<Offset, WaitError> {
        if let Some(at) = self.reached(mark, at_least) {
            return Ok(at);
        }
        let parked = Arc::new(Parked::default());
        let waker = Waker::from(Arc::clone(&parked));
        let mut waits = Waits { on: self, enlisted: None };
        loop {
            if let Poll::Ready(outcome) = self.poll(mark, at_least, &mut waits.enlisted, &Context::from_waker(&waker)) {
                return outcome;
            }
            if !parked.sleep(deadline) {
                let late = WaitError::DeadlinePassed { mark, at: self.at(mark), wanted: at_least };
                // What came together with the deadline counts.
                let state = self.state.lock();
                return self.judge(&state, mark, at_least).unwrap_or(Err(late));
            }
        }
    }

    /// Answers a future, or enlists it; `enlisted` belongs to one future, which waits for one thing. The waker is called
    /// once. A mark that was reached and fell before the future was polled again is waited for anew.
    pub(crate) fn poll(
        &self,
        mark: Mark,
        at_least: Offset,
        enlisted: &mut Option<WaitsFor>,
        context: &Context<'_>,
    ) -> Poll<Result<Offset, WaitError>> {
        if enlisted.is_none()
            && let Some(at) = self.reached(mark, at_least)
        {
            return Poll::Ready(Ok(at));
        }
        // Cloning and dropping wakers runs the caller's code, which has no business under the lock.
        let waker = context.waker().clone();
        let (mut replaced, mut removed) = (None, None);
        let mut state = self.state.lock();
        let mut outcome = self.judge(&state, mark, at_least);
        if outcome.is_none() {
            let list = state.waiting.of_mut(mark);
            let known = *enlisted.get_or_insert_with(|| WaitsFor { mark, place: list.place(at_least) });
            assert!(known.mark == mark && known.place.wanted() == at_least, "{known:?} waits for another thing");
            replaced = list.put(known.place, (), waker);
            self.show_due(mark, list);
            // What is due first, then the mark; see the top of this file.
            fence(Ordering::SeqCst);
            outcome = self.reached(mark, at_least).map(Ok);
        }
        if outcome.is_some() {
            removed = enlisted.take().and_then(|known| self.take_out(&mut state, known));
        }
        drop(state);
        drop((replaced, removed));
        outcome.map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes out a future that is dropped before it was answered.
    pub(crate) fn forget(&self, enlisted: WaitsFor) {
        let mut state = self.state.lock();
        let removed = self.take_out(&mut state, enlisted);
        drop(state);
        drop(removed);
    }

    /// The log latched: whoever waits, now or later, for what is not reached is told so.
    pub(crate) fn fail(&self, failed: &LogFailed) {
        self.end(Verdict::Failed(failed.clone()));
    }

    /// The log is closed: whoever waits, now or later, for what is not reached is told so.
    pub(crate) fn close(&self) {
        self.end(Verdict::Closed);
    }

    /// How many wait now.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        Mark::ALL.iter().map(|mark| state.waiting.of(*mark).len()).sum()
    }

    /// The first verdict stands: why the log failed is what who waits has to know, not that it was closed after that.
    fn end(&self, verdict: Verdict) {
        let mut ready = Vec::new();
        let mut state = self.state.lock();
        if matches!(state.verdict, Verdict::Open) {
            state.verdict = verdict;
        }
        for mark in Mark::ALL {
            let list = state.waiting.of_mut(mark);
            list.take_all(&mut ready);
            self.show_due(mark, list);
        }
        drop(state);
        wake_all(ready);
    }

    /// What there is to answer, if anything.
    fn judge(&self, state: &State, mark: Mark, at_least: Offset) -> Option<Result<Offset, WaitError>> {
        if let Some(at) = self.reached(mark, at_least) {
            return Some(Ok(at));
        }
        match &state.verdict {
            Verdict::Open => None,
            Verdict::Failed(failed) => Some(Err(failed.clone().into())),
            Verdict::Closed => Some(Err(WaitError::Closed)),
        }
    }

    fn reached(&self, mark: Mark, at_least: Offset) -> Option<Offset> {
        Some(self.at(mark)).filter(|at| *at >= at_least)
    }

    fn at(&self, mark: Mark) -> Offset {
        // Only marks are stored there, and none is negative.
        Offset::new(self.slots.of(mark).at.load(Ordering::Acquire)).unwrap_or_default()
    }

    fn take_out(&self, state: &mut State, enlisted: WaitsFor) -> Option<Waker> {
        let list = state.waiting.of_mut(enlisted.mark);
        let removed = list.remove(enlisted.place);
        self.show_due(enlisted.mark, list);
        removed
    }

    /// Shows who publishes what is due. Called under the lock.
    fn show_due(&self, mark: Mark, list: &WaitList<()>) {
        let due = &self.slots.of(mark).due;
        let lowest = list.lowest().map_or(NOBODY, Offset::value);
        // A store costs the processor that publishes next, so none without need.
        if due.load(Ordering::Relaxed) != lowest {
            due.store(lowest, Ordering::Relaxed);
        }
    }
}

/// Takes a blocking waiter out however it leaves.
struct Waits<'a> {
    on: &'a MarkWaiters,
    enlisted: Option<WaitsFor>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(enlisted) = self.enlisted.take() {
            self.on.forget(enlisted);
        }
    }
}

/// The sleep of one blocking waiter. Each has its own, so that a mark wakes only those who are due.
#[derive(Debug, Default)]
struct Parked {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl Parked {
    /// Sleeps until woken or `deadline`; `false` when it passed.
    fn sleep(&self, deadline: Deadline) -> bool {
        let mut is_woken = self.is_woken.lock();
        let mut in_time = true;
        while !*is_woken && in_time {
            in_time = self.changed.wait_by(&mut is_woken, deadline);
        }
        std::mem::take(&mut *is_woken)
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock() = true;
        self.changed.notify_one();
    }
}

/// Something for each mark, in the order of [`Mark::ALL`].
#[derive(Debug)]
struct PerMark<T>([T; 5]);

impl<T> PerMark<T> {
    fn of_each(make: impl FnMut(Mark) -> T) -> Self {
        Self(Mark::ALL.map(make))
    }

    fn each(&self) -> impl Iterator<Item = (Mark, &T)> {
        Mark::ALL.into_iter().zip(&self.0)
    }

    fn of(&self, mark: Mark) -> &T {
        let [log_start, last_stable, high_watermark, durable_end, log_end] = &self.0;
        match mark {
            Mark::LogStart => log_start,
            Mark::LastStable => last_stable,
            Mark::HighWatermark => high_watermark,
            Mark::DurableEnd => durable_end,
            Mark::LogEnd => log_end,
        }
    }

    fn of_mut(&mut self, mark: Mark) -> &mut T {
        let [log_start, last_stable, high_watermark, durable_end, log_end] = &mut self.0;
        match mark {
            Mark::LogStart => log_start,
            Mark::LastStable => last_stable,
            Mark::HighWatermark => high_watermark,
            Mark::DurableEnd => durable_end,
            Mark::LogEnd => log_end,
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "waiters_tests.rs"]
mod tests;
