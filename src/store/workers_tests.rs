//! Supervision without a thread, where time is a number, and with one, where nothing sleeps but the worker.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;
use crate::clock::{ManualClock, SystemClock};

const SECOND: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A driver whose n-th step is what `script` says, `None` being a panic; and how often the work was made.
fn scripted(script: Vec<Option<Step>>) -> (StepDriver, Arc<AtomicU64>) {
    let made = Arc::new(AtomicU64::new(0));
    let (count, at) = (Arc::clone(&made), Arc::new(AtomicU64::new(0)));
    let driver = StepDriver::new("scripted", move || {
        count.fetch_add(1, Ordering::SeqCst);
        let (script, at) = (script.clone(), Arc::clone(&at));
        Box::new(move |_: Duration| {
            let step = usize::try_from(at.fetch_add(1, Ordering::SeqCst)).unwrap();
            script.get(step).copied().unwrap_or(Some(Step::Done)).unwrap_or_else(|| panic!("step {step}"))
        })
    });
    (driver, made)
}

#[test]
fn steps_come_when_they_are_due_or_wanted() {
    let (mut driver, made) = scripted(vec![Some(Step::Wait(SECOND)), Some(Step::Again), Some(Step::Wait(SECOND))]);
    let waker = driver.waker();
    assert_eq!(driver.tick(SECOND), Some(2 * SECOND));
    assert_eq!(driver.tick(SECOND + millis(999)), Some(2 * SECOND));
    assert_eq!(driver.health().steps, 1);
    waker.wake();
    waker.wake();
    assert_eq!(driver.tick(SECOND + millis(999)), Some(SECOND + millis(999)), "at once");
    assert_eq!(driver.tick(2 * SECOND), Some(3 * SECOND));
    assert_eq!((driver.health().steps, driver.health().state), (3, WorkerState::Waiting));
    assert_eq!(driver.tick(3 * SECOND), None, "done");
    assert_eq!(driver.tick(9 * SECOND), None);
    let health = driver.health();
    assert_eq!((health.state, health.steps, health.since), (WorkerState::Stopped, 4, 3 * SECOND));
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[test]
fn a_panic_costs_a_pause_that_doubles_and_that_no_waking_shortens() {
    let events = Events::new();
    let told = events.subscribe(100);
    let mut script = vec![None; 15];
    script.extend([Some(Step::Again), None]);
    let (driver, made) = scripted(script);
    let mut driver = driver.reporting_to(events);
    let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
    for panics in 1..=15 {
        let due = driver.tick(now).unwrap();
        let health = driver.health();
        assert_eq!((health.panics, health.state), (panics, WorkerState::BackingOff { until: due }));
        assert_eq!(health.last_panic.unwrap(), format!("step {}", panics - 1));
        driver.waker().wake();
        assert_eq!(driver.tick(due.saturating_sub(millis(1))), Some(due), "not before");
        pauses.push(due.saturating_sub(now));
        now = due;
    }
    let expected: Vec<_> = (0..15).map(|n| millis(10 << n).min(Duration::from_mins(1))).collect();
    assert_eq!(pauses, expected);
    assert_eq!(driver.tick(now), Some(now), "a good step");
    assert_eq!(driver.tick(now), Some(now + millis(10)), "and the pauses begin anew");
    assert_eq!(made.load(Ordering::SeqCst), 16, "made anew after each panic");
    let first = told.try_next();
    assert!(
        matches!(&first, Some(StoreEvent::WorkerPanicked { worker, message }) if worker == "scripted" && message == "step 0"),
        "{first:?}"
    );
}

#[test]
fn making_the_work_may_panic_and_so_may_dropping_it() {
    struct Bomb(u32);
    impl Work for Bomb {
        fn step(&mut self, _: Duration) -> Step {
            assert!(self.0 > 3, "too early");
            Step::Done
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("while dropped");
        }
    }
    let mut made = 0;
    let mut driver = StepDriver::new("bomb", move || {
        made += 1;
        assert!(made != 2, "not made");
        Box::new(Bomb(made))
    });
    let mut now = Duration::ZERO;
    while let Some(due) = driver.tick(now) {
        now = due;
    }
    assert_eq!((driver.health().panics, driver.health().steps), (3, 4));
}

#[test]
fn a_wake_up_during_a_step_is_not_lost_and_a_long_message_is_cut() {
    let slot: Arc<Mutex<Option<Waker>>> = Arc::new(Mutex::new(None));
    let waker = Arc::clone(&slot);
    let mut steps = 0;
    let step = move |_: Duration| {
        steps += 1;
        let waker = waker.lock().clone().unwrap();
        if steps == 1 {
            waker.wake();
        }
        assert!(steps < 3, "{}", "long ".repeat(1000));
        Step::Wait(SECOND)
    };
    let mut step = Some(step);
    let mut driver = StepDriver::new("woken", move || Box::new(step.take().unwrap()));
    *slot.lock() = Some(driver.waker());
    driver.tick(Duration::ZERO);
    driver.tick(Duration::ZERO);
    driver.tick(Duration::ZERO);
    assert_eq!(driver.health().steps, 2);
    driver.tick(SECOND);
    assert_eq!(driver.health().last_panic.unwrap().len(), MESSAGE_CHARS_MAX);
}

#[test]
fn ends_of_time_do_not_overflow() {
    let (mut driver, _) = scripted(vec![Some(Step::Wait(Duration::MAX)), None]);
    assert_eq!(driver.tick(SECOND), Some(Duration::MAX));
    assert_eq!(driver.tick(Duration::MAX), Some(Duration::MAX));
}

#[test]
fn a_thread_does_the_same_and_ends_when_told() {
    let (told, heard) = crossbeam::channel::unbounded();
    let budget = ThreadBudget::new(1);
    let make = move || -> Box<dyn Work> {
        let told = told.clone();
        Box::new(move |_: Duration| {
            told.send(std::thread::current().name().map(str::to_owned)).unwrap();
            Step::Wait(Duration::from_hours(1))
        })
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let worker = Worker::start(StepDriver::new("a\0b", make), Arc::clone(&clock), &budget).unwrap();
    assert_eq!(heard.recv().unwrap().as_deref(), Some("alluvium-ab"));
    for _ in 0..3 {
        worker.wake();
        heard.recv().unwrap();
    }
    let refused = Worker::start(scripted(Vec::new()).0, clock, &budget).unwrap_err();
    assert!(matches!(refused, SpawnError::Budget { max: 1 }), "{refused}");
    assert!(worker.stop(Deadline::NEVER));
    assert!(worker.stop(Deadline::from(Duration::ZERO)), "again");
    assert_eq!((worker.health().state, budget.used()), (WorkerState::Stopped, 0));
}

#[test]
fn a_stuck_step_is_seen_and_stopping_does_not_wait_for_it_past_the_deadline() {
    let (release, held) = bounded::<()>(0);
    let (begun, begins) = bounded::<()>(1);
    let clock = Arc::new(ManualClock::at(0));
    let make = move || -> Box<dyn Work> {
        let (held, begun) = (held.clone(), begun.clone());
        Box::new(move |_: Duration| {
            begun.send(()).unwrap();
            let _ = held.recv();
            Step::Again
        })
    };
    let worker = Worker::spawn("stuck".into(), Arc::clone(&clock) as Arc<dyn Clock>, make).unwrap();
    worker.set_stuck_after(SECOND);
    begins.recv().unwrap();
    clock.advance(SECOND);
    assert!(!worker.health().is_stuck(clock.monotonic()));
    clock.advance(millis(1));
    assert!(worker.health().is_stuck(clock.monotonic()));
    assert!(!worker.stop(Deadline::from(millis(1))));
    release.send(()).unwrap();
    assert!(worker.stop(Deadline::NEVER));
    assert_eq!(worker.health().steps, 1);
    assert!(!worker.health().is_stuck(Duration::MAX));
}

/// The last handle of a store may be dropped by one of its own workers, which would wait for itself.
#[test]
fn a_worker_may_stop_and_drop_itself() {
    let slot: Arc<Mutex<Option<Worker>>> = Arc::new(Mutex::new(None));
    let (told, heard) = bounded(1);
    let own = Arc::clone(&slot);
    let make = move || -> Box<dyn Work> {
        let (own, told) = (Arc::clone(&own), told.clone());
        Box::new(move |_: Duration| {
            let Some(worker) = own.lock().take() else { return Step::Wait(millis(1)) };
            let has_ended = worker.stop(Deadline::NEVER);
            drop(worker);
            told.send(has_ended).unwrap();
            Step::Again
        })
    };
    let worker = Worker::spawn("own".into(), Arc::new(SystemClock::new()), make).unwrap();
    *slot.lock() = Some(worker);
    assert!(!heard.recv().unwrap());
    // The thread ends, and with it the work and its sender.
    assert!(heard.recv().is_err());
}
