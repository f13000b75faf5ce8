//! One step of a worker: go on with the pass at hand, or take the partition that needs it most. Whatever a pass does, be
//! it a panic, comes to a state of its partition, and the worker goes on with the next one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::bench::{AtWork, Bench};
use super::cause::{CleaningCause, Consequence, judge};
use super::engine::Stepped;
use super::room::{CleanerRoom, now_of};
use super::track::{Effects, Now};
use crate::clean::{CleanError, CleanOptions, PassMemory};
use crate::store::hosted::{Hosted, SlotState};
use crate::store::shared::Shared;
use crate::store::space::{ReserveLoan, SpaceState};
use crate::store::workers::Step;

/// Read and written at a time: the longest that stopping waits for, and little beside what a reader asks for.
const STEP_BYTES: u64 = 1 << 20;
/// Between two partitions that are opened only to be looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// A worker that waits for a retry looks around no later than this.
const REST_MIN: Duration = Duration::from_millis(10);

/// What a worker takes up next.
enum Choice {
    /// It is to be cleaned.
    Clean(Arc<Hosted>),
    /// It is to be opened, since nobody knows what there is to clean.
    Look(Arc<Hosted>),
    Nothing,
}

impl CleanerRoom {
    /// What a worker does at monotonic time `now`.
    pub(super) fn step(&self, shared: &Shared, bench: &Bench, now: Duration) -> Step {
        let at_work = bench.take();
        if bench.is_dismissed() {
            self.put_down(shared, at_work);
            return Step::Done;
        }
        if !self.config().enabled || self.is_paused() {
            self.put_down(shared, at_work);
            return Step::Wait(self.interval());
        }
        if let Some(at_work) = at_work {
            return self.go_on(shared, bench, at_work, now);
        }
        if bench.is_stand_in && !self.is_anyone_stuck(shared, now) {
            return Step::Wait(self.interval());
        }
        *self.looked.lock() = Some(shared.environment.clock.wall());
        self.survey_if_due(shared, now);
        match Self::choose(shared, now) {
            Choice::Clean(hosted) => self.begin(shared, bench, &hosted),
            Choice::Look(hosted) => self.open_to_look(shared, &hosted),
            Choice::Nothing => Step::Wait(self.rest(shared, now)),
        }
    }

    /// What embedders without threads have done from time to time: a step of every worker.
    pub(in crate::store) fn tick(&self, shared: &Shared, now: Duration) {
        for bench in self.benches() {
            // Who waits is asked again by the next tick.
            let (Step::Again | Step::Wait(_) | Step::Done) = self.step(shared, &bench, now);
        }
    }

    /// How long there is nothing to do: until a retry is due, or the next survey.
    fn rest(&self, shared: &Shared, now: Duration) -> Duration {
        let due = |hosted: &Arc<Hosted>| hosted.track(|tracked| tracked.track.retry_due())?;
        let next = shared.all().iter().filter_map(due).filter(|due| *due > now).min();
        next.map_or(Duration::MAX, |due| due.saturating_sub(now)).clamp(REST_MIN, self.interval().max(REST_MIN))
    }

    /// The partition that needs it most, of those that nobody is at.
    fn choose(shared: &Shared, now: Duration) -> Choice {
        let now = Now { monotonic: now, ..now_of(&*shared.environment.clock) };
        let (mut best, mut unseen) = (None, None);
        for hosted in shared.all() {
            let found = hosted.track(|tracked| {
                // What is away is the store's trouble, and not the cleaner's: it is tried when it is back.
                let may = !tracked.was_away && tracked.track.is_eligible(now);
                let urgency = may.then(|| tracked.track.urgency());
                (urgency, !tracked.was_away && tracked.is_unseen && tracked.track.may_be_looked_at(now))
            });
            match found {
                Some((Some(urgency), _)) if best.as_ref().is_none_or(|(most, _)| urgency > *most) => {
                    best = Some((urgency, hosted));
                }
                Some((None, true)) => unseen = unseen.or(Some(hosted)),
                _ => {}
            }
        }
        match (best, unseen) {
            (Some((_, hosted)), _) => Choice::Clean(hosted),
            (None, Some(hosted)) => Choice::Look(hosted),
            (None, None) => Choice::Nothing,
        }
    }

    /// Opens a log to see what there is to clean. One that cannot be opened is tried again as one that cannot be cleaned.
    fn open_to_look(&self, shared: &Shared, hosted: &Arc<Hosted>) -> Step {
        let now = now_of(&*shared.environment.clock);
        hosted.track(|tracked| tracked.is_unseen = false);
        match shared.log_of(hosted) {
            Ok(log) => {
                drop(log);
                self.look_at(shared, hosted, now, true);
            }
            Err(why) => self.fail(shared, hosted, CleaningCause::unavailable(&why)),
        }
        Step::Wait(LOOK_PAUSE)
    }

    fn begin(&self, shared: &Shared, bench: &Bench, hosted: &Arc<Hosted>) -> Step {
        let now = now_of(&*shared.environment.clock);
        let config = self.config();
        let Some(memory) = self.memory.claim(self.share_of(bench), config.memory_bytes) else {
            // Passes that were begun under other settings hold more than their share; they are on their way out.
            return Step::Wait(REST_MIN);
        };
        if hosted.track(|tracked| tracked.track.claim(bench.number, now)) != Some(true) {
            return Step::Again;
        }
        hosted.track(|tracked| tracked.track.begin_step(now));
        let (options, loan) = self.options(shared, hosted, memory.bytes());
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let log = shared.log_of(hosted).map_err(|why| CleaningCause::unavailable(&why))?;
            Ok((self.engine.begin(&log, &options), log))
        }));
        match begun {
            Ok(Ok((Ok(Some(pass)), _))) => {
                hosted.track(|tracked| tracked.track.end_step());
                let at_work = AtWork { hosted: Arc::clone(hosted), pass, _loan: loan, memory, due: now.monotonic };
                self.keep(shared, bench, at_work, Duration::ZERO)
            }
            Ok(Ok((Ok(None), log))) => {
                let effects = hosted.track(|tracked| tracked.track.had_nothing(now)).unwrap_or_default();
                self.settle(shared, hosted, effects);
                drop(log);
                self.look_at(shared, hosted, now, true);
                // A look that calls it due and a pass that finds nothing must not take turns for ever.
                hosted.track(|tracked| tracked.track.came_between(now, &self.config()));
                Step::Again
            }
            Ok(Ok((Err(error), log))) => {
                drop(log);
                self.ended_with(shared, hosted, &error)
            }
            Ok(Err(cause)) => self.fail_and_go_on(shared, hosted, cause),
            Err(panic) => self.fail_and_go_on(shared, hosted, CleaningCause::panicked(&*panic)),
        }
    }

    /// What a pass may take up. In a directory that is short of space it goes group by group within what the reserve
    /// lends, and spills nothing.
    fn options(&self, shared: &Shared, hosted: &Hosted, memory: u64) -> (CleanOptions, Option<ReserveLoan>) {
        let config = self.config();
        let options = CleanOptions::default().with_memory(memory);
        let directory = hosted.directory();
        let Some(space) = directory.space() else { return (options.with_spill(0), None) };
        let report = space.report();
        let spill = if config.spill { report.space.free.saturating_sub(config.spill_free_bytes) } else { 0 };
        let was_full = hosted.track(|tracked| tracked.track.is_short_of_space()).unwrap_or(false);
        if report.state == SpaceState::Ok && !was_full {
            return (options.with_spill(spill), None);
        }
        let loan = space.lend(&*shared.environment.fs, u64::MAX).ok().flatten();
        let lent = loan.as_ref().map_or(0, ReserveLoan::bytes);
        // An eighth is left to others: appends, checkpoints, what the system rounds up.
        let group = lent.saturating_add(report.space.free - report.space.free / 8);
        (options.with_spill(0).in_groups_of(group.max(1)), loan)
    }

    fn go_on(&self, shared: &Shared, bench: &Bench, mut at_work: AtWork, now: Duration) -> Step {
        let hosted = Arc::clone(&at_work.hosted);
        let at = Now { monotonic: now, ..now_of(&*shared.environment.clock) };
        let holds_too_much = at_work.memory.bytes() > self.share_of(bench);
        let is_wanted = hosted.track(|tracked| tracked.track.is_wanted()).unwrap_or(false);
        let is_there = hosted.peek().is_none_or(|slot| !matches!(slot.state, SlotState::Away(_)));
        if !is_wanted || !is_there || holds_too_much {
            self.put_down(shared, Some(at_work));
            return Step::Again;
        }
        if at_work.due > now && !self.is_unthrottled() {
            let pause = at_work.due.saturating_sub(now);
            bench.put(at_work);
            return Step::Wait(pause);
        }
        hosted.track(|tracked| tracked.track.begin_step(at));
        let stepped = catch_unwind(AssertUnwindSafe(|| at_work.pass.step(STEP_BYTES)));
        match stepped {
            Ok(Ok(stepped)) => self.stepped(shared, bench, at_work, stepped),
            Ok(Err(error)) => {
                drop_quietly(at_work);
                self.ended_with(shared, &hosted, &error)
            }
            Err(panic) => {
                drop_quietly(at_work);
                self.fail_and_go_on(shared, &hosted, CleaningCause::panicked(&*panic))
            }
        }
    }

    fn stepped(&self, shared: &Shared, bench: &Bench, mut at_work: AtWork, stepped: Stepped) -> Step {
        let now = now_of(&*shared.environment.clock);
        let hosted = Arc::clone(&at_work.hosted);
        self.counters.bytes.add(stepped.bytes);
        let Some(cleaned) = stepped.finished else {
            hosted.track(|tracked| {
                tracked.track.progressed(stepped.phase, stepped.mode, stepped.so_far, now);
            });
            let pause = self.throttle.take(stepped.bytes, now.monotonic);
            // Who is behind does not wait, and what it takes is no debt of others either.
            let is_held = !self.is_unthrottled();
            let others = if is_held { shared.background.take(stepped.bytes, now.monotonic) } else { Duration::ZERO };
            let pause = if is_held { pause.max(others) } else { Duration::ZERO };
            at_work.due = now.monotonic.saturating_add(pause);
            return self.keep(shared, bench, at_work, pause);
        };
        let share = usize::try_from(at_work.memory.bytes()).unwrap_or(usize::MAX);
        let keys_max = PassMemory::new(share).map_or(0, PassMemory::keys_max);
        drop_quietly(at_work);
        let pace = hosted.track(|tracked| tracked.track.pace(now)).unwrap_or_default();
        self.counters.note_cleaned(&cleaned, pace, keys_max);
        let effects = hosted.track(|tracked| tracked.track.finished(&cleaned, now)).unwrap_or_default();
        // What is left to clean is seen before it is written down what was cleaned.
        self.look_at(shared, &hosted, now, false);
        self.settle(shared, &hosted, effects);
        let pause = self.throttle.take(stepped.bytes, now.monotonic);
        if pause.is_zero() || self.is_unthrottled() { Step::Again } else { Step::Wait(pause) }
    }

    /// Leaves a pass at its bench until the next step.
    fn keep(&self, shared: &Shared, bench: &Bench, at_work: AtWork, pause: Duration) -> Step {
        bench.put(at_work);
        if bench.is_dismissed() {
            // Whoever dismissed it looked for the pass while the step was under way, and nobody else will.
            self.put_down(shared, bench.take());
            return Step::Done;
        }
        if pause.is_zero() { Step::Again } else { Step::Wait(pause) }
    }

    fn is_unthrottled(&self) -> bool {
        self.is_catching_up.load(Ordering::Acquire) && self.config().catch_up_unthrottled
    }

    fn ended_with(&self, shared: &Shared, hosted: &Arc<Hosted>, error: &CleanError) -> Step {
        match judge(error) {
            Consequence::Retry(cause) => self.fail_and_go_on(shared, hosted, cause),
            Consequence::LookAgain => {
                let now = now_of(&*shared.environment.clock);
                hosted.track(|tracked| tracked.track.came_between(now, &self.config()));
                self.look_at(shared, hosted, now, true);
                Step::Again
            }
        }
    }

    fn fail_and_go_on(&self, shared: &Shared, hosted: &Arc<Hosted>, cause: CleaningCause) -> Step {
        self.fail(shared, hosted, cause);
        Step::Again
    }

    fn fail(&self, shared: &Shared, hosted: &Arc<Hosted>, cause: CleaningCause) {
        let now = now_of(&*shared.environment.clock);
        let config = self.config();
        let effects: Option<Effects> = hosted.track(|tracked| tracked.track.failed(cause, now, &config));
        self.look_at(shared, hosted, now, false);
        self.settle(shared, hosted, effects.unwrap_or_default());
    }

    /// Dismisses a worker, and lets go of its pass unless it is in a step: then it does that itself.
    pub(super) fn put_away(&self, shared: &Shared, bench: &Bench) {
        bench.dismiss();
        self.put_down(shared, bench.take());
    }

    /// Lets go of a pass between two steps. Whoever takes the partition up next goes on with it.
    fn put_down(&self, shared: &Shared, at_work: Option<AtWork>) {
        let Some(at_work) = at_work else { return };
        let hosted = Arc::clone(&at_work.hosted);
        drop_quietly(at_work);
        let now = now_of(&*shared.environment.clock);
        hosted.track(|tracked| tracked.track.leave(now));
        self.look_at(shared, &hosted, now, true);
    }
}

/// What a panic left behind may panic once more as it goes.
fn drop_quietly(at_work: AtWork) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(at_work)));
}
