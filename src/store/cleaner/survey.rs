//! Looking at partitions: what there is to clean, what has become of causes. No log is opened for it, so that thousands
//! that nobody uses cost nothing; of those that are put aside, what was seen last counts for as long as they end where
//! they did.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cause::{CauseKind, CleaningCause, Consequence, judge};
use super::room::{CleanerRoom, Known, Tracked, now_of};
use super::track::{Effects, Look, Now};
use crate::config::LogConfig;
use crate::log::PartitionLog;
use crate::store::directory::Directory;
use crate::store::hosted::{Hosted, SlotState};
use crate::store::shared::Shared;
use crate::store::space::SpaceState;
use crate::units::Offset;

/// Surveys are no more frequent, whatever the settings say.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// After so long in one survey nothing more is written down; the next one goes on.
const WRITING_TIME: Duration = Duration::from_millis(200);
/// A throttle that is lifted stays so until the next survey but one.
const LIFTED_FOR: u32 = 2;

/// What a look at a partition's slot finds.
enum Sight {
    /// Its log is open.
    Open(PartitionLog, Around),
    /// Its log is closed, and ends there if that is known.
    Parked(Option<Offset>, Around),
    /// It cannot be used.
    Away,
    /// It is about to be something else.
    Changing,
}

/// Where a partition lies, and its settings.
struct Around {
    config: Arc<LogConfig>,
    directory: Arc<Directory>,
}

impl Sight {
    /// Looks without waiting: while a log is opened or moved that could take long.
    fn of(hosted: &Hosted) -> Self {
        let Some(slot) = hosted.peek() else { return Self::Changing };
        let around = |config| Around { config, directory: Arc::clone(&slot.directory) };
        match &slot.state {
            SlotState::Loaded(loaded) => Self::Open(loaded.log.clone(), around(loaded.log.config())),
            SlotState::Parked(parked) => {
                Self::Parked(parked.marks.map(|marks| marks.log_end), around(Arc::clone(&slot.config)))
            }
            SlotState::Failed(_) | SlotState::Away(_) => Self::Away,
        }
    }
}

impl CleanerRoom {
    /// How often partitions are looked at.
    pub(super) fn interval(&self) -> Duration {
        self.config().backoff.max(INTERVAL_MIN)
    }

    /// Looks at every partition, if that is due at monotonic time `now`; whether it did.
    pub(in crate::store) fn survey_if_due(&self, shared: &Shared, now: Duration) -> bool {
        let interval = self.interval();
        {
            let mut surveyed = self.surveyed.lock();
            if surveyed.is_some_and(|last| now.saturating_sub(last) < interval) {
                return false;
            }
            // At its beginning: where a disk does not answer, the next one goes on with the other partitions.
            *surveyed = Some(now);
        }
        if !self.config().enabled || shared.check_open().is_err() {
            return false;
        }
        let (mut is_behind, mut is_any_due) = (false, false);
        for hosted in shared.all() {
            let at = now_of(&*shared.environment.clock);
            self.look_at(shared, &hosted, at, at.monotonic.saturating_sub(now) < WRITING_TIME);
            let (behind, due) =
                hosted.track(|tracked| (tracked.lags(), tracked.track.is_eligible(at))).unwrap_or_default();
            (is_behind, is_any_due) = (is_behind || behind, is_any_due || due);
        }
        self.set_catching_up(is_behind, now);
        if is_any_due {
            self.wake();
        }
        true
    }

    /// Lifts the throttle while something is behind, if the settings say so.
    fn set_catching_up(&self, is_behind: bool, now: Duration) {
        let is_lifted = is_behind && self.config().catch_up_unthrottled;
        self.is_catching_up.store(is_behind, Ordering::Release);
        let until =
            if is_lifted { now.saturating_add(self.interval().saturating_mul(LIFTED_FOR)) } else { Duration::ZERO };
        self.throttle.lift_until(until, now);
    }

    /// Looks at one partition.
    pub(super) fn look_at(&self, shared: &Shared, hosted: &Arc<Hosted>, now: Now, may_write: bool) {
        match Sight::of(hosted) {
            Sight::Changing => {}
            Sight::Away => drop(hosted.track(|tracked| tracked.was_away = true)),
            Sight::Open(_, around) | Sight::Parked(_, around) if !around.config.cleanup_policy.compacts() => {
                Self::let_go(hosted);
            }
            Sight::Open(log, around) => {
                if self.read(shared, hosted, &around.directory, now) {
                    self.look_at_log(shared, hosted, &log, around, (now, may_write));
                }
            }
            Sight::Parked(log_end, around) => {
                if self.read(shared, hosted, &around.directory, now) {
                    self.look_at_parked(shared, hosted, log_end, around, (now, may_write));
                }
            }
        }
    }

    /// Forgets one that is not compacted any more.
    fn let_go(hosted: &Hosted) {
        let mut known = hosted.cleaning.lock();
        if let Known::Read(tracked) = &mut *known {
            tracked.track.unwant();
            if !tracked.track.is_running() {
                *known = Known::Unread;
            }
        }
    }

    fn look_at_log(
        &self,
        shared: &Shared,
        hosted: &Hosted,
        log: &PartitionLog,
        around: Around,
        (now, may_write): (Now, bool),
    ) {
        let last = hosted.track(|tracked| tracked.track.last()).flatten();
        let settings = self.config();
        // Whoever surveys has other things to do: a panic is this partition's.
        let look = catch_unwind(AssertUnwindSafe(|| self.engine.look(log, last, now.wall)));
        let is_failed = log.glance().failed.is_some();
        let found = hosted.track(|tracked| {
            tracked.hear_of_causes(around, is_failed, now);
            tracked.is_unseen = false;
            let effects = match look {
                Ok(Ok(look)) => tracked.track.saw(look, now, &settings),
                Ok(Err(error)) => match judge(&error) {
                    Consequence::Retry(cause) => tracked.track.could_not_be_seen(cause, now, &settings),
                    Consequence::LookAgain => Effects::default(),
                },
                Err(panic) => tracked.track.could_not_be_seen(CleaningCause::panicked(&*panic), now, &settings),
            };
            (effects, tracked.owes_writing)
        });
        let Some((effects, owes_writing)) = found else { return };
        self.settle(shared, hosted, effects);
        if owes_writing && may_write {
            Self::write(shared, hosted);
        }
    }

    fn look_at_parked(
        &self,
        shared: &Shared,
        hosted: &Hosted,
        log_end: Option<Offset>,
        around: Around,
        (now, may_write): (Now, bool),
    ) {
        let settings = self.config();
        let looked = hosted.track(|tracked| {
            tracked.hear_of_causes(around, false, now);
            let seen = tracked.track.seen().filter(|seen| Some(seen.log_end) == log_end).cloned();
            // Time alone may have made it due, and only the log can tell.
            let is_over = |seen: &Look| seen.due.is_none() && seen.due_at.is_some_and(|at| at <= now.wall);
            tracked.is_unseen = seen.as_ref().is_none_or(is_over);
            let effects = seen.map(|seen| tracked.track.saw(seen, now, &settings));
            (effects, tracked.is_unwritten())
        });
        let Some((effects, is_unwritten)) = looked else { return };
        self.settle(shared, hosted, effects.unwrap_or_default());
        // The next process is not to open it only to see that there is nothing to clean.
        if is_unwritten && may_write {
            Self::write(shared, hosted);
        }
    }

    /// What is known of a log at the end is written down after it was closed, for the next process; whether there is any
    /// news. To be called before the log is closed.
    pub(in crate::store) fn look_last(&self, shared: &Shared, hosted: &Hosted, log: &PartitionLog) -> bool {
        let config = log.config();
        if !self.config().enabled || !config.cleanup_policy.compacts() {
            return false;
        }
        let now = now_of(&*shared.environment.clock);
        let directory = hosted.directory();
        if !self.read(shared, hosted, &directory, now) {
            return false;
        }
        self.look_at_log(shared, hosted, log, Around { config, directory }, (now, false));
        hosted.track(|tracked| tracked.is_unwritten()).unwrap_or(false)
    }
}

impl Tracked {
    /// A partition whose pass failed is tried at once when the reason is seen to be gone: it is back, its log was opened
    /// again, there is space, or somebody changed its settings.
    fn hear_of_causes(&mut self, around: Around, is_failed: bool, now: Now) {
        let Around { config, directory } = around;
        let lay_in = self.directory.replace(Arc::clone(&directory.path));
        if lay_in.is_some_and(|path| path != directory.path) {
            // What is written down stayed behind.
            self.forget_written();
        }
        let before = self.config.replace(config);
        let has_changed = before.is_some_and(|before| self.config.as_ref() != Some(&before));
        let is_back = std::mem::take(&mut self.was_away);
        let is_gone = match self.track.retry().map(|retry| retry.cause.kind) {
            Some(CauseKind::Space { missing_bytes }) => directory.space().is_some_and(|space| {
                let report = space.report();
                report.state == SpaceState::Ok && report.space.free > missing_bytes
            }),
            Some(CauseKind::LogFailed) => !is_failed,
            Some(_) | None => false,
        };
        // Where the cause could not be seen when the attempt failed, that it cannot be seen now says nothing.
        let heard = self.track.retry().map(|retry| (retry.attempt, is_gone));
        let before = std::mem::replace(&mut self.heard, heard);
        let was_gone = before.map(|(attempt, _)| attempt) != heard.map(|(attempt, _)| attempt)
            || before.is_some_and(|(_, was_gone)| was_gone);
        if has_changed || is_back || is_gone && !was_gone {
            self.track.try_now(now);
        }
    }
}
