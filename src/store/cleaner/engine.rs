//! What the supervisor needs of those who know how to clean: a look at a log, and a pass in steps. It knows nothing else
//! of them, so that its tests can have passes that fail in every way.

use std::fmt;

use super::state::{CleaningPhase, CleaningReason, LastPass};
use super::track::{Look, PassBytes};
use crate::clean::plan::{Decision, DueBecause, Outlook, judge};
use crate::clean::{
    Begun, CleanError, CleanMode, CleanOptions, Cleaned, Pass, Phase, log_facts_when_flushed, segment_facts,
};
use crate::log::PartitionLog;
use crate::units::{Offset, TimestampMs};

/// Looks at logs and begins passes.
pub(in crate::store) trait CleaningEngine: fmt::Debug + Send + Sync {
    /// What there is to clean. Reads nothing from a disk but what lags ask for, the times of segments.
    fn look(&self, log: &PartitionLog, last: Option<LastPass>, now: TimestampMs) -> Result<Look, CleanError>;

    /// Begins a pass, or goes on with one that was interrupted; `None` when there is nothing to clean.
    fn begin(&self, log: &PartitionLog, options: &CleanOptions) -> Result<Option<Box<dyn CleaningPass>>, CleanError>;

    /// The first offset that no pass has been at.
    fn first_dirty(&self, log: &PartitionLog) -> Offset;
}

/// A pass, a step at a time. Dropped between two steps it is interrupted, and another one goes on with it.
pub(in crate::store) trait CleaningPass: Send {
    /// Goes on for about `bytes_max` bytes.
    fn step(&mut self, bytes_max: u64) -> Result<Stepped, CleanError>;
}

/// What a step of a pass came to.
#[derive(Clone, Debug)]
pub(in crate::store) struct Stepped {
    /// Bytes read and written in this step.
    pub(in crate::store) bytes: u64,
    pub(in crate::store) phase: CleaningPhase,
    pub(in crate::store) mode: CleanMode,
    pub(in crate::store) so_far: PassBytes,
    /// The figures, when the pass is done.
    pub(in crate::store) finished: Option<Cleaned>,
}

/// The cleaner of this crate.
#[derive(Debug)]
pub(in crate::store) struct LogCleaner;

impl CleaningEngine for LogCleaner {
    fn look(&self, log: &PartitionLog, last: Option<LastPass>, now: TimestampMs) -> Result<Look, CleanError> {
        let view = log.cleanable_at_a_glance()?;
        let segments = segment_facts(&view, now)?;
        let next_horizon = last.and_then(|last| last.next_horizon);
        let facts = log_facts_when_flushed(&view, &segments, next_horizon);
        Ok(look_of(&judge(&facts, &view.config, now), view.marks.log_end))
    }

    fn begin(&self, log: &PartitionLog, options: &CleanOptions) -> Result<Option<Box<dyn CleaningPass>>, CleanError> {
        Ok(match Pass::begin(log, options)? {
            Begun::Pass(pass) => Some(Box::new(*pass)),
            Begun::Nothing(_) => None,
        })
    }

    fn first_dirty(&self, log: &PartitionLog) -> Offset {
        log.clean_state().first_dirty
    }
}

/// What the planner says, in as far as it matters here.
fn look_of(outlook: &Outlook, log_end: Offset) -> Look {
    let range = &outlook.range;
    let reason = |because: &DueBecause| match because {
        DueBecause::Interrupted(_) => CleaningReason::Interrupted,
        DueBecause::DirtyRatio { .. } => CleaningReason::Ratio,
        DueBecause::Overdue { .. } => CleaningReason::Overdue,
        DueBecause::Horizon { .. } => CleaningReason::Horizon,
    };
    let due = match &outlook.decision {
        Decision::Due { because, .. } => because.first().map(reason),
        Decision::NotDue { .. } => None,
    };
    Look {
        due,
        dirty_bytes: range.dirty_bytes,
        excess_bytes: if due.is_some() { outlook.excess_bytes } else { 0 },
        clean_bytes: range.clean_bytes,
        held_bytes: range.held_bytes,
        held_by: range.held_back.first().map(ToString::to_string),
        overdue_ms: outlook.urgency().map_or(0, |urgency| urgency.overdue_ms),
        first_dirty: range.first_dirty,
        log_end,
        due_at: outlook.next_look,
    }
}

impl CleaningPass for Pass {
    fn step(&mut self, bytes_max: u64) -> Result<Stepped, CleanError> {
        let step = Self::step(self, bytes_max)?;
        let progress = self.progress();
        let phase = match progress.phase {
            Phase::Securing | Phase::Finished => CleaningPhase::Beginning,
            Phase::Learning => CleaningPhase::Learning,
            Phase::Resolving => CleaningPhase::Resolving,
            Phase::Rewriting => CleaningPhase::Rewriting,
        };
        let so_far = PassBytes { done: progress.bytes_done, total: progress.bytes_total, freed: progress.bytes_freed };
        let bytes = step.bytes_read.saturating_add(step.bytes_written);
        Ok(Stepped { bytes, phase, mode: progress.mode, so_far, finished: step.finished })
    }
}
