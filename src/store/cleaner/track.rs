//! The states of one partition's cleaning: a machine without disk, clock or thread. Each change says what is to be
//! written down and told.
//!
//! ```text
//!            saw: due                 claim                    finished
//!   Clean ------------> Due ----------------> Cleaning -----------------> Clean, or Due at once
//!     ^                  ^ ^                   |  |  | left, look again
//!     |    cause gone,   | +-------------------|--|--+
//!     |    or its time   |          failed     |  |
//!     |                 Retry <----------------+  | pause
//!     +------------- resume                       v
//!                                              Paused, from any state; resumed where it was
//! ```
//! Whether it is behind stands beside these: a partition falls behind while it waits, is cleaned, fails or is paused.

use std::time::Duration;

use super::cause::{CauseKind, CleaningCause};
use super::state::{Behind, CleaningPhase, CleaningProgress, CleaningReason, CleaningState, LastPass};
use crate::clean::{CleanMode, Cleaned, CleanerConfig};
use crate::units::{Offset, TimestampMs};

/// The time by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) wall: TimestampMs,
    pub(super) monotonic: Duration,
}

impl Now {
    fn wall_in(self, pause: Duration) -> TimestampMs {
        let millis = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        TimestampMs::new(self.wall.value().saturating_add(millis))
    }
}

/// What there is to clean in a log, as far as the supervisor has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Look {
    /// Why it is to be cleaned now, if it is.
    pub(super) due: Option<CleaningReason>,
    pub(super) dirty_bytes: u64,
    /// Of these, such as are beyond what made it due.
    pub(super) excess_bytes: u64,
    pub(super) clean_bytes: u64,
    pub(super) held_bytes: u64,
    pub(super) held_by: Option<String>,
    /// Milliseconds for which the oldest dirty record should have been cleaned.
    pub(super) overdue_ms: u64,
    pub(super) first_dirty: Offset,
    pub(super) log_end: Offset,
    /// When it is to be looked at again, though nothing is appended; `None` for never.
    pub(super) due_at: Option<TimestampMs>,
}

/// Something that subscribers hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Behind(Behind),
    CaughtUp,
    Failed {
        cause: CleaningCause,
        attempt: u32,
        retry_at: TimestampMs,
    },
    /// A pass came to its end after some had failed.
    Recovered,
    Paused {
        by: String,
    },
    Resumed,
}

/// What a change asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Effects {
    /// It is to be written down.
    pub(super) is_new: bool,
    pub(super) told: Vec<Told>,
}

impl Effects {
    fn tell(told: Told) -> Self {
        Self { is_new: true, told: vec![told] }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) by: String,
    pub(super) since: TimestampMs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) attempt: u32,
    pub(super) cause: CleaningCause,
    /// By the wall clock, which is what a later process can tell.
    pub(super) at: TimestampMs,
    /// By this process's clock, which nobody sets.
    due: Duration,
}

#[derive(Clone, Debug)]
struct Running {
    progress: CleaningProgress,
    began: Duration,
    /// Monotonic time since which a step is under way.
    in_step: Option<Duration>,
    /// It is to stop at the end of the step.
    is_unwanted: bool,
}

/// How fast the backlog grows, smoothed.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    last: Option<(Duration, u64)>,
    bytes_per_second: i64,
}

impl Growth {
    fn note(&mut self, bytes: u64, now: Duration) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, bytes));
            return;
        };
        let millis = i128::try_from(now.saturating_sub(at).as_millis()).unwrap_or(i128::MAX);
        // Looks that follow one another at once would make a rate of nothing.
        if millis < 100 {
            return;
        }
        let change = i128::from(bytes).saturating_sub(i128::from(before));
        let rate = i64::try_from(change.saturating_mul(1000) / millis).unwrap_or(i64::MAX);
        self.bytes_per_second =
            i64::try_from(i128::midpoint(i128::from(self.bytes_per_second), i128::from(rate))).unwrap_or(rate);
        self.last = Some((now, bytes));
    }
}

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) pause: Option<Pause>,
    pub(super) failed: Option<(u32, TimestampMs, CleaningCause)>,
    pub(super) due_since: Option<TimestampMs>,
    pub(super) behind_since: Option<TimestampMs>,
    pub(super) last: Option<LastPass>,
    /// What was seen of the log, which is true for as long as it ends at the same offset.
    pub(super) seen: Option<Look>,
}

/// The cleaning of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    pause: Option<Pause>,
    retry: Option<Retry>,
    running: Option<Running>,
    due: Option<(TimestampMs, CleaningReason)>,
    behind: Option<Behind>,
    last: Option<LastPass>,
    seen: Option<Look>,
    growth: Growth,
    is_asked: bool,
    /// Monotonic time before which it is not looked at again, since something came in between.
    not_before: Duration,
    /// Monotonic time of the last pass's end: of those that are equally urgent, the one that waits longest goes first.
    last_turn: Option<Duration>,
    pub(super) is_begun_anew: bool,
}

impl Track {
    /// Goes on from what an earlier process left.
    pub(super) fn restore(remembered: Remembered, now: Now, config: &CleanerConfig) -> Self {
        let Remembered { pause, failed, due_since, behind_since, last, seen } = remembered;
        let retry = failed.map(|(attempt, at, cause)| {
            // The wall clock may have been set since: never later than a pause from now on.
            let left = u64::try_from(at.since(now.wall)).unwrap_or(0);
            let left = Duration::from_millis(left).min(config.retry_after(attempt));
            Retry { attempt, cause, at: now.wall_in(left), due: now.monotonic.saturating_add(left) }
        });
        let behind = behind_since.map(|since| Behind {
            since,
            backlog_bytes: seen.as_ref().map_or(0, |seen| seen.dirty_bytes),
            overdue_ms: seen.as_ref().map_or(0, |seen| seen.overdue_ms),
            growth_bytes_per_second: 0,
        });
        let because = seen.as_ref().and_then(|seen| seen.due);
        // Of a time to come nothing is due since.
        let due = due_since.zip(because).map(|(since, because)| (since.min(now.wall), because));
        Self { pause, retry, due, behind, last, seen, ..Self::default() }
    }

    /// What a later process has to know.
    pub(super) fn remember(&self) -> Remembered {
        Remembered {
            pause: self.pause.clone(),
            failed: self.retry.as_ref().map(|retry| (retry.attempt, retry.at, retry.cause.clone())),
            due_since: self.due.map(|(since, _)| since),
            behind_since: self.behind.map(|behind| behind.since),
            last: self.last,
            // What holds back the rest is for whoever asks now.
            seen: self.seen.clone().map(|seen| Look { held_by: None, ..seen }),
        }
    }

    /// Takes note of what there is to clean.
    pub(super) fn saw(&mut self, look: Look, now: Now, config: &CleanerConfig) -> Effects {
        self.growth.note(look.dirty_bytes, now.monotonic);
        self.due = match (look.due, self.due) {
            (Some(because), Some((since, _))) => Some((since, because)),
            (Some(because), None) => Some((now.wall, because)),
            (None, _) => None,
        };
        let effects = self.judge_backlog(&look, now, config);
        self.seen = Some(look);
        effects
    }

    fn judge_backlog(&mut self, look: &Look, now: Now, config: &CleanerConfig) -> Effects {
        let waiting_ms = self.due.map_or(0, |(since, _)| u64::try_from(now.wall.since(since)).unwrap_or(0));
        let behind = Behind {
            since: self.behind.map_or(now.wall, |behind| behind.since),
            backlog_bytes: look.dirty_bytes,
            overdue_ms: look.overdue_ms.max(waiting_ms),
            growth_bytes_per_second: self.growth.bytes_per_second,
        };
        let is_late = config.behind_after.is_some_and(|after| u128::from(behind.overdue_ms) >= after.as_millis());
        let is_more_than = |share: u64| config.behind_bytes.is_some_and(|limit| look.excess_bytes > limit / share);
        match self.behind {
            None if is_late || is_more_than(1) => {
                self.behind = Some(behind);
                Effects::tell(Told::Behind(behind))
            }
            None => Effects::default(),
            // Only well below the limit, or a log that is written would fall behind and catch up once a second.
            Some(_) if !is_late && !is_more_than(2) => {
                self.behind = None;
                Effects::tell(Told::CaughtUp)
            }
            Some(_) => {
                self.behind = Some(behind);
                Effects::default()
            }
        }
    }

    /// Whether a worker may take it now.
    pub(super) fn is_eligible(&self, now: Now) -> bool {
        // What failed is tried again also where nothing seems due any more: else nobody would learn whether it is well.
        let is_wanted = self.is_asked || self.due.is_some() || self.retry.is_some();
        let is_time = self.retry.as_ref().is_none_or(|retry| retry.due <= now.monotonic);
        let is_free = self.running.is_none() && self.pause.is_none();
        is_free && is_wanted && (self.is_asked || is_time && self.not_before <= now.monotonic)
    }

    /// Whether it may be opened for a look.
    pub(super) fn may_be_looked_at(&self, now: Now) -> bool {
        let is_time = self.retry.as_ref().is_none_or(|retry| retry.due <= now.monotonic);
        self.running.is_none() && self.pause.is_none() && is_time
    }

    /// Monotonic time of the next attempt, if it waits for one.
    pub(super) fn retry_due(&self) -> Option<Duration> {
        self.retry.as_ref().filter(|_| self.pause.is_none() && self.running.is_none()).map(|retry| retry.due)
    }

    /// Whether the last pass failed for want of space.
    pub(super) fn is_short_of_space(&self) -> bool {
        self.retry.as_ref().is_some_and(|retry| matches!(retry.cause.kind, CauseKind::Space { .. }))
    }

    /// Orders partitions that wait: the first one is the greatest. What is behind goes before what is not, what is overdue
    /// longest, then what has most to clean; of equals, the one that waits longest for its turn.
    pub(super) fn urgency(&self) -> impl Ord + use<> {
        let (overdue, bytes) = self.seen.as_ref().map_or((0, 0), |seen| (seen.overdue_ms, seen.dirty_bytes));
        let turn = std::cmp::Reverse(self.last_turn);
        // A ratio of its own kind: what was just cleaned and is due again must not keep others waiting for ever.
        (self.is_asked, self.behind.is_some(), overdue, bytes, turn)
    }

    /// A worker takes it; `false` when it may not.
    pub(super) fn claim(&mut self, worker: usize, now: Now) -> bool {
        if !self.is_eligible(now) {
            return false;
        }
        let progress = CleaningProgress {
            since: now.wall,
            worker,
            phase: CleaningPhase::Beginning,
            mode: CleanMode::default(),
            bytes_done: 0,
            bytes_left: self.seen.as_ref().map_or(0, |seen| seen.dirty_bytes.saturating_add(seen.clean_bytes)),
            bytes_freed: 0,
            time_left: None,
        };
        self.running = Some(Running { progress, began: now.monotonic, in_step: None, is_unwanted: false });
        self.is_asked = false;
        true
    }

    /// Whether its pass is to go on.
    pub(super) fn is_wanted(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.is_unwanted)
    }

    /// A step begins.
    pub(super) fn begin_step(&mut self, now: Now) {
        if let Some(running) = &mut self.running {
            running.in_step = Some(now.monotonic);
        }
    }

    /// A step is over.
    pub(super) fn end_step(&mut self) {
        if let Some(running) = &mut self.running {
            running.in_step = None;
        }
    }

    /// Since when a step is under way, by the monotonic clock.
    pub(super) fn in_step_since(&self) -> Option<Duration> {
        self.running.as_ref().and_then(|running| running.in_step)
    }

    /// A step is over, and this is how far the pass is.
    pub(super) fn progressed(&mut self, phase: CleaningPhase, mode: CleanMode, bytes: PassBytes, now: Now) {
        self.end_step();
        let Some(running) = &mut self.running else { return };
        let left = bytes.total.saturating_sub(bytes.done);
        let elapsed = now.monotonic.saturating_sub(running.began);
        let rate =
            u128::from(bytes.done).saturating_mul(1000).checked_div(elapsed.as_millis()).filter(|rate| *rate > 0);
        let millis = rate.map(|rate| u128::from(left).saturating_mul(1000) / rate);
        let progress = &mut running.progress;
        (progress.phase, progress.mode) = (phase, mode);
        (progress.bytes_done, progress.bytes_left, progress.bytes_freed) = (bytes.done, left, bytes.freed);
        progress.time_left = millis.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)));
    }

    /// How many dirty bytes the pass is about, and how long it is under way.
    pub(super) fn pace(&self, now: Now) -> (u64, Duration) {
        let dirty = self.seen.as_ref().map_or(0, |seen| seen.dirty_bytes);
        let began = self.running.as_ref().map_or(now.monotonic, |running| running.began);
        (dirty, now.monotonic.saturating_sub(began))
    }

    /// The pass came to its end. What there is to clean now is to be seen next.
    pub(super) fn finished(&mut self, cleaned: &Cleaned, now: Now) -> Effects {
        self.leave(now);
        self.due = None;
        self.last = Some(LastPass::of(cleaned, now.wall));
        if let Some(seen) = &mut self.seen {
            seen.first_dirty = seen.first_dirty.max(cleaned.upper);
        }
        match self.retry.take() {
            Some(_) => Effects::tell(Told::Recovered),
            None => Effects { is_new: true, told: Vec::new() },
        }
    }

    /// There was nothing to do.
    pub(super) fn had_nothing(&mut self, now: Now) -> Effects {
        self.leave(now);
        self.due = None;
        match self.retry.take() {
            Some(_) => Effects::tell(Told::Recovered),
            None => Effects::default(),
        }
    }

    /// The pass failed.
    pub(super) fn failed(&mut self, cause: CleaningCause, now: Now, config: &CleanerConfig) -> Effects {
        self.leave(now);
        let attempt = self.retry.as_ref().map_or(0, |retry| retry.attempt).saturating_add(1);
        let pause = config.retry_after(attempt);
        let retry_at = now.wall_in(pause);
        let due = now.monotonic.saturating_add(pause);
        self.retry = Some(Retry { attempt, cause: cause.clone(), at: retry_at, due });
        Effects::tell(Told::Failed { cause, attempt, retry_at })
    }

    /// It could not be looked at. As with a pass: whoever cannot tell what is due would else never clean it.
    pub(super) fn could_not_be_seen(&mut self, cause: CleaningCause, now: Now, config: &CleanerConfig) -> Effects {
        let waits = self.retry.as_ref().is_some_and(|retry| retry.due > now.monotonic);
        if waits || self.running.is_some() { Effects::default() } else { self.failed(cause, now, config) }
    }

    /// Something came in between. It is looked at again, though not at once: what changes all the time must not keep a
    /// worker busy.
    pub(super) fn came_between(&mut self, now: Now, config: &CleanerConfig) {
        self.leave(now);
        self.not_before = now.monotonic.saturating_add(config.retry);
    }

    /// The worker let go of it between two steps; the next one goes on with the pass.
    pub(super) fn leave(&mut self, now: Now) {
        if self.running.take().is_some() {
            self.last_turn = Some(now.monotonic);
        }
    }

    /// The reason of the last failure may be gone: it is tried at once.
    pub(super) fn try_now(&mut self, now: Now) {
        self.not_before = Duration::ZERO;
        if let Some(retry) = &mut self.retry {
            (retry.at, retry.due) = (now.wall, now.monotonic);
        }
    }

    /// Leaves it alone until it is resumed.
    pub(super) fn pause(&mut self, by: &str, now: Now) -> Effects {
        self.unwant();
        if self.pause.as_ref().is_some_and(|pause| pause.by == by) {
            return Effects::default();
        }
        self.pause = Some(Pause { by: by.to_owned(), since: now.wall });
        Effects::tell(Told::Paused { by: by.to_owned() })
    }

    /// Has it cleaned again. Whoever resumes it knows of the trouble that there was: it is tried at once.
    pub(super) fn resume(&mut self, now: Now) -> Effects {
        self.try_now(now);
        if self.pause.take().is_some() { Effects::tell(Told::Resumed) } else { Effects::default() }
    }

    /// Ends the pass at the end of its step. The partition is cleaned again when it is due.
    pub(super) fn unwant(&mut self) {
        if let Some(running) = &mut self.running {
            running.is_unwanted = true;
        }
    }

    /// Ends the pass, and leaves the partition alone for a moment.
    pub(super) fn abort(&mut self, now: Now, config: &CleanerConfig) {
        self.unwant();
        self.not_before = now.monotonic.saturating_add(config.retry);
    }

    /// Has it cleaned as soon as there is a worker, due or not.
    pub(super) fn ask(&mut self, now: Now) {
        self.is_asked = true;
        self.try_now(now);
    }

    /// How it stands.
    pub(super) fn state(&self) -> CleaningState {
        if let Some(pause) = &self.pause {
            return CleaningState::Paused { by: pause.by.clone(), since: pause.since };
        }
        if let Some(running) = &self.running {
            return CleaningState::Cleaning(running.progress.clone());
        }
        if let Some(retry) = &self.retry {
            let Retry { attempt, cause, at, .. } = retry.clone();
            return CleaningState::Retry { at, attempt, cause };
        }
        match self.due {
            Some((since, because)) => CleaningState::Due { since, because },
            None => CleaningState::Clean,
        }
    }

    pub(super) fn retry(&self) -> Option<&Retry> {
        self.retry.as_ref()
    }

    /// Somebody asked for it to be left alone.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    pub(super) fn behind(&self) -> Option<Behind> {
        self.behind
    }

    pub(super) fn last(&self) -> Option<LastPass> {
        self.last
    }

    pub(super) fn seen(&self) -> Option<&Look> {
        self.seen.as_ref()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn growth(&self) -> i64 {
        self.growth.bytes_per_second
    }
}

/// How many bytes a pass has done, will have done, and has freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct PassBytes {
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) freed: u64,
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
