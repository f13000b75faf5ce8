use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;
use crate::error::{IoFailure, IoOperation};

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// Marks that all stand at `end`.
fn all_at(end: i64) -> Marks {
    let end = at(end);
    Marks { log_start: end, last_stable: end, high_watermark: end, durable_end: end, log_end: end }
}

fn ends(log_end: i64, high_watermark: i64) -> Marks {
    Marks { log_end: at(log_end), high_watermark: at(high_watermark), ..all_at(0) }
}

fn failed() -> LogFailed {
    LogFailed { cause: IoFailure::new(IoOperation::Sync, "x", std::io::Error::from_raw_os_error(5)) }
}

fn in_ms(ms: u64) -> Deadline {
    Duration::from_millis(ms).into()
}

#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A future and how often it was woken.
#[derive(Default)]
struct Polled {
    counts: Arc<Counts>,
    enlisted: Option<WaitsFor>,
}

impl Polled {
    fn poll(&mut self, waiters: &MarkWaiters, mark: Mark, at_least: i64) -> Poll<Result<Offset, WaitError>> {
        let waker = Waker::from(Arc::clone(&self.counts));
        waiters.poll(mark, at(at_least), &mut self.enlisted, &Context::from_waker(&waker))
    }

    fn woken(&self) -> usize {
        self.counts.0.load(Ordering::Relaxed)
    }
}

#[test]
fn what_is_reached_is_answered_at_once_with_where_the_mark_is() {
    let waiters = MarkWaiters::new(ends(9, 4));
    assert_eq!(waiters.wait(Mark::LogEnd, at(9), Deadline::NEVER).unwrap(), at(9));
    assert_eq!(waiters.wait(Mark::HighWatermark, at(2), Deadline::NEVER).unwrap(), at(4));
    assert!(matches!(Polled::default().poll(&waiters, Mark::LogEnd, 1), Poll::Ready(Ok(end)) if end == at(9)));
    assert_eq!(waiters.len(), 0);
}

#[test]
fn a_mark_wakes_those_who_are_due_and_nobody_else() {
    let waiters = MarkWaiters::new(all_at(0));
    let (mut near, mut far, mut other) = (Polled::default(), Polled::default(), Polled::default());
    assert!(near.poll(&waiters, Mark::LogEnd, 3).is_pending());
    assert!(far.poll(&waiters, Mark::LogEnd, 7).is_pending());
    assert!(other.poll(&waiters, Mark::HighWatermark, 3).is_pending());
    waiters.publish(&ends(2, 0));
    assert_eq!((near.woken(), far.woken(), other.woken()), (0, 0, 0));
    waiters.publish(&ends(6, 2));
    assert_eq!((near.woken(), far.woken(), other.woken()), (1, 0, 0));
    assert!(matches!(near.poll(&waiters, Mark::LogEnd, 3), Poll::Ready(Ok(end)) if end == at(6)));
    waiters.publish(&ends(7, 3));
    assert_eq!((near.woken(), far.woken(), other.woken()), (1, 1, 1));
    assert_eq!(waiters.len(), 0);
}

/// A truncation came between the wake-up and the poll: a fetch must not be sent to an offset that is gone.
#[test]
fn who_waits_for_a_mark_that_fell_goes_on_waiting() {
    let waiters = MarkWaiters::new(all_at(0));
    let mut polled = Polled::default();
    assert!(polled.poll(&waiters, Mark::LogEnd, 5).is_pending());
    waiters.publish(&ends(5, 0));
    waiters.publish(&ends(1, 0));
    assert_eq!(polled.woken(), 1);
    assert!(polled.poll(&waiters, Mark::LogEnd, 5).is_pending());
    waiters.publish(&ends(4, 0));
    assert_eq!((polled.woken(), waiters.len()), (1, 1));
    waiters.publish(&ends(8, 0));
    assert_eq!(polled.woken(), 2);
    assert!(matches!(polled.poll(&waiters, Mark::LogEnd, 5), Poll::Ready(Ok(end)) if end == at(8)));
}

#[test]
fn a_future_that_is_dropped_leaves_nothing_behind() {
    let waiters = MarkWaiters::new(all_at(0));
    let (mut first, mut second) = (Polled::default(), Polled::default());
    assert!(first.poll(&waiters, Mark::DurableEnd, 5).is_pending());
    assert!(second.poll(&waiters, Mark::DurableEnd, 5).is_pending());
    assert!(second.poll(&waiters, Mark::DurableEnd, 5).is_pending());
    assert_eq!(waiters.len(), 2);
    waiters.forget(first.enlisted.unwrap());
    waiters.forget(first.enlisted.unwrap());
    assert_eq!(waiters.len(), 1);
    waiters.publish(&all_at(5));
    assert_eq!((first.woken(), second.woken()), (0, 1));
    assert!(!waiters.note(&all_at(6)), "nobody is left, so nobody is due");
}

#[test]
fn a_deadline_says_where_the_mark_is_and_leaves_nothing_behind() {
    let waiters = MarkWaiters::new(ends(3, 1));
    let outcome = waiters.wait(Mark::HighWatermark, at(2), in_ms(5));
    let Err(WaitError::DeadlinePassed { mark, at: stands, wanted }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((mark, stands, wanted), (Mark::HighWatermark, at(1), at(2)));
    assert_eq!(waiters.len(), 0);
}

#[test]
fn a_failed_log_answers_every_waiter_but_what_was_reached_stays_reached() {
    let waiters = MarkWaiters::new(all_at(2));
    std::thread::scope(|scope| {
        for mark in Mark::ALL {
            let waiters = &waiters;
            scope.spawn(move || {
                let outcome = waiters.wait(mark, at(3), Deadline::NEVER);
                assert!(matches!(outcome, Err(WaitError::Failed(_))), "{outcome:?}");
            });
        }
        while waiters.len() < Mark::ALL.len() {
            std::thread::yield_now();
        }
        waiters.fail(&failed());
    });
    // The cause is not forgotten because somebody closes the log after that.
    waiters.close();
    assert!(matches!(waiters.wait(Mark::LogEnd, at(3), Deadline::NEVER), Err(WaitError::Failed(_))));
    assert_eq!(waiters.wait(Mark::LogEnd, at(2), Deadline::NEVER).unwrap(), at(2));
    assert_eq!(waiters.len(), 0);
}

#[test]
fn closing_answers_who_waits_and_who_comes_later() {
    let waiters = MarkWaiters::new(all_at(2));
    let mut polled = Polled::default();
    assert!(polled.poll(&waiters, Mark::LastStable, 3).is_pending());
    waiters.close();
    assert_eq!(polled.woken(), 1);
    assert!(matches!(polled.poll(&waiters, Mark::LastStable, 3), Poll::Ready(Err(WaitError::Closed))));
    assert!(matches!(waiters.wait(Mark::LogEnd, at(3), in_ms(5000)), Err(WaitError::Closed)));
    assert_eq!(polled.woken(), 1);
}

#[test]
fn the_last_offset_of_all_can_be_waited_for() {
    let waiters = MarkWaiters::new(all_at(0));
    let mut polled = Polled::default();
    assert!(polled.poll(&waiters, Mark::LogEnd, i64::MAX).is_pending());
    waiters.publish(&ends(i64::MAX - 1, 0));
    assert_eq!(polled.woken(), 0);
    waiters.publish(&ends(i64::MAX, 0));
    assert_eq!(polled.woken(), 1);
}

/// Dropping the last waker of a task may drop the task, whose future then takes itself out: not under the lock.
#[test]
fn a_waker_may_come_back_while_it_is_cloned_called_or_dropped() {
    struct ComesBack(Arc<MarkWaiters>);
    impl Wake for ComesBack {
        fn wake(self: Arc<Self>) {
            assert!(self.0.len() < usize::MAX);
        }
    }
    impl Drop for ComesBack {
        fn drop(&mut self) {
            assert!(self.0.len() < usize::MAX);
        }
    }
    let waiters = Arc::new(MarkWaiters::new(all_at(0)));
    let waker = || Waker::from(Arc::new(ComesBack(Arc::clone(&waiters))));
    let poll = |enlisted: &mut Option<WaitsFor>| {
        let waker = waker();
        waiters.poll(Mark::LogEnd, at(2), enlisted, &Context::from_waker(&waker))
    };
    let (mut first, mut second) = (None, None);
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    waiters.forget(first.unwrap());
    waiters.publish(&all_at(2));
    assert!(poll(&mut second).is_ready());
}

/// Against a naive model: random marks that rise and fall, random futures that come, go and poll again.
#[test]
fn random_waits_behave_as_the_naive_model() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let waiters = MarkWaiters::new(all_at(0));
        let mut marks = all_at(0);
        let mut futures: Vec<(Mark, i64, Polled)> = Vec::new();
        for step in 0..400 {
            let told = format!("seed {seed} step {step}");
            match random.u8(..4) {
                0 => futures.push((Mark::ALL[random.usize(..5)], random.i64(0..100), Polled::default())),
                1 if !futures.is_empty() => {
                    let (_, _, polled) = futures.swap_remove(random.usize(..futures.len()));
                    polled.enlisted.inspect(|enlisted| waiters.forget(*enlisted));
                }
                _ => {
                    let mut rises = [0; 5].map(|_| random.i64(0..60));
                    rises.sort_unstable();
                    let [log_start, last_stable, high_watermark, durable_end, log_end] = rises.map(at);
                    marks = Marks { log_start, last_stable, high_watermark, durable_end, log_end };
                    let before: Vec<_> = futures.iter().map(|(_, _, polled)| polled.woken()).collect();
                    waiters.publish(&marks);
                    for ((mark, wanted, polled), before) in futures.iter().zip(before) {
                        let due = polled.enlisted.is_some() && marks.of(*mark) >= at(*wanted);
                        assert_eq!(polled.woken() - before, usize::from(due), "{told}");
                    }
                }
            }
            futures.retain_mut(|(mark, wanted, polled)| match polled.poll(&waiters, *mark, *wanted) {
                Poll::Ready(outcome) => {
                    assert_eq!(outcome.unwrap(), marks.of(*mark), "{told}");
                    assert!(marks.of(*mark) >= at(*wanted), "{told}");
                    false
                }
                Poll::Pending => {
                    assert!(marks.of(*mark) < at(*wanted), "{told}");
                    true
                }
            });
            assert_eq!(waiters.len(), futures.len(), "{told}");
        }
    }
}

/// A future whose waker notes, when it is called, that it is due: the mark is there by then.
struct Due {
    waiters: Arc<MarkWaiters>,
    mark: Mark,
    wanted: Offset,
    calls: AtomicUsize,
    early: AtomicUsize,
}

impl Wake for Due {
    fn wake(self: Arc<Self>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let is_early = self.waiters.reached(self.mark, self.wanted).is_none();
        self.early.fetch_add(usize::from(is_early), Ordering::Relaxed);
    }
}

/// 9,800 futures and 200 threads wait for random offsets of four marks that rise one step at a time: each is woken once,
/// not before it is due, and by the step that makes it due.
#[test]
fn ten_thousand_wait_and_each_is_woken_when_due() {
    const LAST: i64 = 2_000;
    const MARKS: [Mark; 4] = [Mark::LogEnd, Mark::HighWatermark, Mark::DurableEnd, Mark::LastStable];
    let waiters = Arc::new(MarkWaiters::new(all_at(0)));
    let mut random = fastrand::Rng::with_seed(7);
    let mut wish = || (MARKS[random.usize(..4)], at(random.i64(1..=LAST)));
    let mut futures = Vec::new();
    let mut due_by_step: BTreeMap<Offset, usize> = BTreeMap::new();
    for _ in 0..9_800 {
        let (mark, wanted) = wish();
        let due =
            Due { waiters: Arc::clone(&waiters), mark, wanted, calls: AtomicUsize::new(0), early: AtomicUsize::new(0) };
        futures.push((Arc::new(due), None));
        *due_by_step.entry(wanted).or_default() += 1;
    }
    std::thread::scope(|scope| {
        for (mark, wanted) in std::iter::repeat_with(wish).take(200) {
            let waiters = Arc::clone(&waiters);
            *due_by_step.entry(wanted).or_default() += 1;
            scope.spawn(move || assert!(waiters.wait(mark, wanted, in_ms(60_000)).unwrap() >= wanted));
        }
        for (due, enlisted) in &mut futures {
            let waker = Waker::from(Arc::clone(due));
            let polled = waiters.poll(due.mark, due.wanted, enlisted, &Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        while waiters.len() < 10_000 {
            std::thread::yield_now();
        }
        let mut left = 10_000;
        for step in 1..=LAST {
            waiters.publish(&all_at(step));
            left -= due_by_step.get(&at(step)).copied().unwrap_or(0);
            assert_eq!(waiters.len(), left, "at step {step}");
        }
    });
    assert_eq!(waiters.len(), 0);
    for (due, mut enlisted) in futures {
        assert_eq!((due.calls.load(Ordering::Relaxed), due.early.load(Ordering::Relaxed)), (1, 0));
        let waker = Waker::noop();
        let polled = waiters.poll(due.mark, due.wanted, &mut enlisted, &Context::from_waker(waker));
        assert!(matches!(polled, Poll::Ready(Ok(_))));
    }
}

/// Publishing, enlisting, forgetting and deadlines at the same time, from many threads: no wait outlives its mark.
#[test]
fn waits_that_come_while_marks_rise_are_never_lost() {
    const LAST: i64 = 20_000;
    let waiters = MarkWaiters::new(all_at(0));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let waiters = &waiters;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut next = 1;
                while next <= LAST {
                    let mark = Mark::ALL[random.usize(..5)];
                    let deadline = if random.u8(..8) == 0 { Duration::from_micros(50).into() } else { in_ms(20_000) };
                    match waiters.wait(mark, at(next), deadline) {
                        Ok(stands) => next = stands.value() + random.i64(1..4),
                        Err(WaitError::DeadlinePassed { at: stands, .. }) => assert!(stands < at(next)),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        (1..=LAST).for_each(|end| waiters.publish(&all_at(end)));
    });
    assert_eq!(waiters.len(), 0);
}

/// `cargo test --release --lib what_publishing_costs -- --ignored --nocapture`
#[test]
#[ignore = "measures; prints nanoseconds per operation"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn what_publishing_costs() {
    const TIMES: i64 = 10_000_000;
    let measure = |name: &str, waiters: &MarkWaiters, marks: &dyn Fn(i64) -> Marks| {
        let started = Instant::now();
        (1..=TIMES).for_each(|end| waiters.publish(std::hint::black_box(&marks(end))));
        let ns = started.elapsed().as_nanos() / u128::try_from(TIMES).unwrap();
        println!("{name}: {ns} ns");
    };
    measure("nobody waits, one mark moves", &MarkWaiters::new(all_at(0)), &|end| ends(end, 0));
    measure("nobody waits, all marks move", &MarkWaiters::new(all_at(0)), &all_at);
    let waited = MarkWaiters::new(all_at(0));
    let mut polled: Vec<_> = (0..10_000).map(|_| Polled::default()).collect();
    for polled in &mut polled {
        assert!(polled.poll(&waited, Mark::HighWatermark, i64::MAX).is_pending());
    }
    measure("10,000 wait for another mark", &waited, &|end| ends(end, 0));
    let started = Instant::now();
    waited.publish(&ends(i64::MAX, i64::MAX));
    println!("10,000 woken: {} ns each", started.elapsed().as_nanos() / 10_000);
}
