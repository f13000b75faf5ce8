//! Models that loom runs once for every order of steps: `RUSTFLAGS="--cfg loom" cargo test --lib loom_`. A lost
//! wake-up shows as a deadlock, which loom finds and reports with the order that led to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::thread;

use super::{CommitQueue, Due, DueQueue, Mark, MarkWaiters, Marks, Worker};
use crate::clock::Deadline;
use crate::error::{DurabilityError, IoFailure, IoOperation, LogFailed, WaitError};
use crate::sync::{Condvar, Mutex};
use crate::units::Offset;

/// How often a thread may be interrupted where it need not wait. Known lost wake-ups take one or two.
const PREEMPTIONS_MAX: usize = 3;

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn all_at(end: i64) -> Marks {
    let end = at(end);
    Marks { log_start: end, last_stable: end, high_watermark: end, durable_end: end, log_end: end }
}

fn failed() -> LogFailed {
    LogFailed { cause: IoFailure::new(IoOperation::Sync, "x", std::io::Error::from_raw_os_error(5)) }
}

/// The smallest executor: sleeps until the waker is called. A call that never comes is a deadlock.
#[derive(Default)]
struct Executor {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock() = true;
        self.changed.notify_one();
    }
}

fn block_on<T>(mut poll: impl FnMut(&Context<'_>) -> Poll<T>) -> T {
    let executor = Arc::new(Executor::default());
    let waker = Waker::from(Arc::clone(&executor));
    loop {
        if let Poll::Ready(outcome) = poll(&Context::from_waker(&waker)) {
            return outcome;
        }
        let mut is_woken = executor.is_woken.lock();
        while !*is_woken {
            executor.changed.wait(&mut is_woken);
        }
        *is_woken = false;
    }
}

#[test]
fn loom_a_mark_that_rises_while_a_future_enlists_is_not_missed() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let publisher = Arc::clone(&waiters);
        let publisher = thread::spawn(move || (1..=2).for_each(|end| publisher.publish(&all_at(end))));
        let mut enlisted = None;
        let reached = block_on(|context| waiters.poll(Mark::LogEnd, at(2), &mut enlisted, context));
        assert_eq!(reached.unwrap(), at(2));
        publisher.join().unwrap();
        assert_eq!(waiters.len(), 0);
    });
}

/// The second waiter enlists while the first one is taken out and what is due goes up.
#[test]
fn loom_two_blocking_waiters_for_different_offsets_are_both_woken() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let near = Arc::clone(&waiters);
        let near = thread::spawn(move || near.wait(Mark::LogEnd, at(1), Deadline::NEVER).unwrap());
        let far = Arc::clone(&waiters);
        let far = thread::spawn(move || far.wait(Mark::LogEnd, at(2), Deadline::NEVER).unwrap());
        (1..=2).for_each(|end| waiters.publish(&all_at(end)));
        assert!(near.join().unwrap() >= at(1));
        assert_eq!(far.join().unwrap(), at(2));
    });
}

/// Two publishers in turn, each waking without the lock that orders them.
#[test]
fn loom_marks_noted_under_a_lock_and_woken_behind_it_reach_everybody() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let last = Arc::new(Mutex::new(0));
        let publish = |waiters: Arc<MarkWaiters>, last: Arc<Mutex<i64>>| {
            let is_due = {
                let mut last = last.lock();
                *last += 1;
                waiters.note(&all_at(*last))
            };
            if is_due {
                waiters.wake();
            }
        };
        let (other, others_last) = (Arc::clone(&waiters), Arc::clone(&last));
        let other = thread::spawn(move || publish(other, others_last));
        let waiting = Arc::clone(&waiters);
        let waiting = thread::spawn(move || waiting.wait(Mark::HighWatermark, at(2), Deadline::NEVER).unwrap());
        publish(waiters, last);
        other.join().unwrap();
        assert_eq!(waiting.join().unwrap(), at(2));
    });
}

#[test]
fn loom_a_mark_that_falls_and_rises_again_is_not_missed() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let publisher = Arc::clone(&waiters);
        let publisher = thread::spawn(move || [2, 0, 3].iter().for_each(|end| publisher.publish(&all_at(*end))));
        assert!(waiters.wait(Mark::LogEnd, at(2), Deadline::NEVER).unwrap() >= at(2));
        publisher.join().unwrap();
        assert_eq!(waiters.len(), 0);
    });
}

/// One leaves at its deadline, or because its future is dropped, while the other has the same mark to wait for.
#[test]
fn loom_a_waiter_that_leaves_takes_nobody_elses_wake_up_along() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let hasty = Arc::clone(&waiters);
        let hasty = thread::spawn(move || {
            let outcome = hasty.wait(Mark::LogEnd, at(1), Duration::from_millis(1).into());
            assert!(matches!(outcome, Ok(_) | Err(WaitError::DeadlinePassed { .. })));
        });
        let patient = Arc::clone(&waiters);
        let patient = thread::spawn(move || patient.wait(Mark::LogEnd, at(1), Deadline::NEVER).unwrap());
        waiters.publish(&all_at(1));
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_eq!(waiters.len(), 0);
    });
}

#[test]
fn loom_a_log_that_fails_or_closes_answers_who_enlists_meanwhile() {
    explore(|| {
        let waiters = Arc::new(MarkWaiters::new(all_at(0)));
        let ending = Arc::clone(&waiters);
        let ending = thread::spawn(move || {
            ending.fail(&failed());
            ending.close();
        });
        let outcome = waiters.wait(Mark::DurableEnd, at(1), Deadline::NEVER);
        assert!(matches!(outcome, Err(WaitError::Failed(_))));
        ending.join().unwrap();
    });
}

/// A round that makes everything appended so far durable.
fn wait_and_lead(queue: &CommitQueue, end: i64, appended: &Mutex<i64>) -> Result<(), DurabilityError> {
    {
        let mut appended = appended.lock();
        *appended = (*appended).max(end);
    }
    let ticket = queue.ticket(at(end));
    queue.wait(ticket, Deadline::NEVER, || {
        let target = *appended.lock();
        queue.raise(at(target));
    })
}

#[test]
fn loom_leadership_is_handed_over_until_everybody_is_answered() {
    explore(|| {
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        let appended = Arc::new(Mutex::new(0));
        let other = (Arc::clone(&queue), Arc::clone(&appended));
        let other = thread::spawn(move || wait_and_lead(&other.0, 1, &other.1).unwrap());
        wait_and_lead(&queue, 2, &appended).unwrap();
        other.join().unwrap();
        assert!(!queue.has_waiters());
    });
}

#[test]
fn loom_a_leader_that_panics_leaves_the_lead_to_who_waits() {
    explore(|| {
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        let appended = Arc::new(Mutex::new(0));
        let panics = Arc::clone(&queue);
        let panics = thread::spawn(move || {
            let ticket = panics.ticket(at(1));
            // Not `panic!`: the hook would print thousands of messages.
            let lead = || std::panic::resume_unwind(Box::new("the round"));
            let _ = catch_unwind(AssertUnwindSafe(|| panics.wait(ticket, Deadline::NEVER, lead)));
        });
        wait_and_lead(&queue, 2, &appended).unwrap();
        panics.join().unwrap();
        assert!(!queue.has_waiters());
    });
}

/// The worker serves nobody and leaves: whoever relied on it leads.
#[test]
fn loom_a_worker_that_leaves_leaves_the_lead_to_who_waits() {
    explore(|| {
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        let appended = Arc::new(Mutex::new(0));
        let (sender, _receiver) = crossbeam::channel::bounded(1);
        queue.attach_worker(Some(Worker::Thread(sender)));
        let leaving = Arc::clone(&queue);
        let leaving = thread::spawn(move || leaving.attach_worker(None));
        let other = (Arc::clone(&queue), Arc::clone(&appended));
        let other = thread::spawn(move || wait_and_lead(&other.0, 1, &other.1).unwrap());
        wait_and_lead(&queue, 2, &appended).unwrap();
        other.join().unwrap();
        leaving.join().unwrap();
    });
}

/// A waiter whose deadline passes must not swallow the hand-over of the lead.
#[test]
fn loom_a_deadline_beside_a_leader_costs_nobody_the_answer() {
    explore(|| {
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        let appended = Arc::new(Mutex::new(0));
        let hasty = Arc::clone(&queue);
        let hasty = thread::spawn(move || {
            let ticket = hasty.ticket(at(1));
            let _ = hasty.wait(ticket, Duration::from_millis(1).into(), || hasty.raise(at(1)));
        });
        wait_and_lead(&queue, 2, &appended).unwrap();
        hasty.join().unwrap();
        assert!(!queue.has_waiters());
    });
}

#[test]
fn loom_a_future_in_the_queue_misses_neither_a_raise_nor_a_cut() {
    explore(|| {
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        let ticket = queue.ticket(at(2));
        let changing = Arc::clone(&queue);
        let changing = thread::spawn(move || {
            changing.raise(at(1));
            changing.cut(at(1));
            changing.raise(at(5));
        });
        let mut enlisted = None;
        let outcome = block_on(|context| queue.poll(ticket, &mut enlisted, context));
        assert!(matches!(outcome, Err(DurabilityError::Truncated { .. })));
        changing.join().unwrap();
        assert!(!queue.has_waiters());
    });
}

/// Listed once, looked at as often as needed: whoever enlists beside a look is seen by that one or by the next.
#[test]
fn loom_a_log_in_a_due_queue_is_looked_at_for_everybody_who_waits() {
    explore(|| {
        let due = Arc::new(DueQueue::new());
        let queue = Arc::new(CommitQueue::new(Offset::ZERO));
        queue.attach_worker(Some(Worker::Shared(Arc::new(Due::new(Arc::clone(&due), 7)))));
        let woken = Arc::new(Executor::default());
        let hook = Arc::clone(&woken);
        due.on_listed(Some(Arc::new(move || Arc::clone(&hook).wake())));
        let appended = Arc::new(Mutex::new(0));
        let waiters = [1, 2].map(|end| {
            let (queue, appended) = (Arc::clone(&queue), Arc::clone(&appended));
            thread::spawn(move || {
                {
                    let mut appended = appended.lock();
                    *appended = end.max(*appended);
                }
                queue.wait(queue.ticket(at(end)), Deadline::NEVER, || panic!("the worker syncs")).unwrap();
            })
        });
        let mut durable = 0;
        while durable < 2 {
            let mut is_woken = woken.is_woken.lock();
            while !*is_woken {
                woken.changed.wait(&mut is_woken);
            }
            *is_woken = false;
            drop(is_woken);
            for key in due.take() {
                assert_eq!(key, 7);
                // The look begins with the queue of waiters.
                if queue.has_waiters() {
                    durable = *appended.lock();
                    queue.raise(at(durable));
                }
            }
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}
