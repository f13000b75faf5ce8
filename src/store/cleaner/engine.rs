//! What the supervisor needs of those who know how to clean: a look at a log, and a pass in steps. It knows nothing else
//! of them, so that its tests can have passes that fail in every way.

use std::fmt;

use super::state::{CleaningPhase, LastPass};
use super::track::{Look, PassBytes};
use crate::clean::{Begun, CleanError, CleanMode, CleanOptions, Cleaned, Pass, Phase};
use crate::error::IoFailure;
use crate::log::PartitionLog;
use crate::units::{Offset, TimestampMs};

/// Looks at logs and begins passes.
pub(in crate::store) trait CleaningEngine: fmt::Debug + Send + Sync {
    /// What there is to clean. Reads nothing from a disk but what lags ask for, the times of segments.
    fn look(&self, log: &PartitionLog, last: Option<LastPass>, now: TimestampMs) -> Result<Look, IoFailure>;

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
    fn look(&self, log: &PartitionLog, _last: Option<LastPass>, _now: TimestampMs) -> Result<Look, IoFailure> {
        Ok(Look { log_end: log.log_end(), ..Look::default() })
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
