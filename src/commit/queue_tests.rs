use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
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
    queue.attach_worker(Some(Worker::Thread(sender)));
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

/// A change looks only at the futures that it can answer. Whether these are all is checked here the long way: after
/// every change each future is asked again, and what it says must be what it was woken for.
#[test]
fn random_changes_wake_exactly_the_futures_that_they_answer() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let queue = CommitQueue::new(Offset::ZERO);
        let mut futures: Vec<(Ticket, Arc<CountingWaker>, Option<Enlisted>)> = Vec::new();
        // Cuts that rise are remembered one by one, until the oldest are forgotten.
        let mut rising = 0;
        for step in 0..400 {
            match random.u8(..10) {
                0..=4 => {
                    let ticket = queue.ticket(at(random.i64(1..1_000)));
                    futures.push((ticket, Arc::default(), None));
                }
                5 if !futures.is_empty() => {
                    let (_, _, enlisted) = futures.swap_remove(random.usize(..futures.len()));
                    enlisted.inspect(|enlisted| queue.forget(*enlisted));
                }
                6 => queue.raise(at(random.i64(0..30))),
                7 => queue.cut(at(random.i64(200..1_000))),
                _ => {
                    rising += 3;
                    queue.cut(at(rising));
                }
            }
            if step == 399 {
                queue.fail(&failed());
            }
            futures.retain_mut(|(ticket, counts, enlisted)| {
                let was_enlisted = enlisted.is_some();
                let waker = Waker::from(Arc::clone(counts));
                let is_ready = queue.poll(*ticket, enlisted, &Context::from_waker(&waker)).is_ready();
                let woken = counts.0.load(Ordering::Relaxed);
                let told = format!("seed {seed} step {step} {ticket:?}");
                assert_eq!(woken, usize::from(was_enlisted && is_ready), "{told}");
                !is_ready
            });
            assert_eq!(queue.has_waiters(), !futures.is_empty(), "seed {seed} step {step}");
        }
        assert!(futures.is_empty(), "a failed log answers everybody");
    }
}
