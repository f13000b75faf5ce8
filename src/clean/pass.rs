//! One pass over one log: a state machine that is driven a bounded step at a time.

use std::ops::Range;

use super::cleaned::{CleanMode, Cleaned};
use super::error::CleanError;
use super::options::CleanOptions;
use crate::log::PartitionLog;
use crate::units::Offset;

/// What came of beginning a pass.
#[derive(Debug)]
pub(crate) enum Begun {
    /// There is something to clean.
    Pass(Box<Pass>),
    /// There is not; the figures are those of no pass.
    Nothing(Cleaned),
}

/// What one step did.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassStep {
    /// Bytes read, of segments and spill files.
    pub(crate) bytes_read: u64,
    /// Bytes written, to new segments and spill files.
    pub(crate) bytes_written: u64,
    /// The figures, when the pass is done. It is not stepped again.
    pub(crate) finished: Option<Cleaned>,
}

/// What a pass is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Making what it relies on durable.
    Securing,
    /// Reading keys.
    Learning,
    /// Sorting out spilled keys.
    Resolving,
    /// Writing segments anew and putting them in place.
    Rewriting,
    /// All done.
    Finished,
}

/// How far a pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What it is doing.
    pub(crate) phase: Phase,
    /// How it learns.
    pub(crate) mode: CleanMode,
    /// The dirty range that it cleans.
    pub(crate) dirty: Range<Offset>,
    /// Bytes that were read and written so far.
    pub(crate) bytes_done: u64,
    /// Bytes that will have been when it is done, as far as is known.
    pub(crate) bytes_total: u64,
    /// Bytes of the old segments that are freed so far.
    pub(crate) bytes_freed: u64,
}

/// One pass over one log. Dropping it removes what it has written aside; what is swapped stays.
#[derive(Debug)]
pub(crate) struct Pass {
    log: PartitionLog,
}

impl Pass {
    /// Begins a pass, or goes on with the one that was interrupted.
    ///
    /// # Errors
    /// [`CleanError`]; nothing is changed.
    pub(crate) fn begin(log: &PartitionLog, options: &CleanOptions) -> Result<Begun, CleanError> {
        options.validate()?;
        Ok(Begun::Pass(Box::new(Self { log: log.clone() })))
    }

    /// Goes on for about `bytes_max` bytes of reading and writing.
    ///
    /// # Errors
    /// [`CleanError`]; the pass is to be dropped, and another one goes on behind the groups that are finished.
    pub(crate) fn step(&mut self, bytes_max: u64) -> Result<PassStep, CleanError> {
        unimplemented!("{bytes_max} {:?}", self.log)
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        unimplemented!()
    }
}
