//! What went wrong with a pass, and what that is to mean: the one place that maps faults to consequences. A fault of a
//! partition is the partition's alone, in whichever phase of a pass it comes.

use std::fmt;

use crate::clean::CleanError;
use crate::error::{ChangeError, IoFailure, Unavailable};

/// As much of a message as is kept: causes lie in a small file.
const MESSAGE_CHARS_MAX: usize = 500;

/// Why a partition could not be cleaned. It outlives the process, so what was said is kept as a text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleaningCause {
    /// What kind of trouble it is.
    pub kind: CauseKind,
    /// What was said of it, and what to do; the beginning, if it was long.
    pub message: String,
}

/// Kinds of trouble that keep a partition from being cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CauseKind {
    /// A call to the system failed.
    Io,
    /// The disk is full.
    Space {
        /// So many bytes more are needed, as far as is known.
        missing_bytes: u64,
    },
    /// Bytes are not what they should be, where the log goes by them.
    Corrupt,
    /// The log latched; it is cleaned when it was opened again.
    LogFailed,
    /// The partition cannot be opened.
    Unavailable,
    /// The memory that a pass is given is too little.
    Memory,
    /// A pass came to its end without having cleaned anything.
    NoProgress,
    /// The cleaner's own mistake.
    Panic,
}

impl CauseKind {
    /// Every kind, in the order of their numbers on disk.
    pub(super) const ALL: [Self; 8] = [
        Self::Io,
        Self::Space { missing_bytes: 0 },
        Self::LogFailed,
        Self::Unavailable,
        Self::Memory,
        Self::NoProgress,
        Self::Panic,
        Self::Corrupt,
    ];

    /// Its word in figures and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Space { .. } => "space",
            Self::Corrupt => "corrupt",
            Self::LogFailed => "log-failed",
            Self::Unavailable => "unavailable",
            Self::Memory => "memory",
            Self::NoProgress => "no-progress",
            Self::Panic => "panic",
        }
    }
}

impl fmt::Display for CleaningCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl CleaningCause {
    pub(super) fn new(kind: CauseKind, message: impl AsRef<str>) -> Self {
        Self { kind, message: message.as_ref().chars().take(MESSAGE_CHARS_MAX).collect() }
    }

    /// A partition whose log cannot be had.
    pub(super) fn unavailable(why: &Unavailable) -> Self {
        Self::new(CauseKind::Unavailable, why.to_string())
    }

    /// What a panic said.
    pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::new(CauseKind::Panic, said.unwrap_or_else(|| "a panic without a message".to_owned()))
    }

    /// A call to the system that failed outside of a pass.
    pub(super) fn of_io(failure: &IoFailure) -> Self {
        Self::io(failure, &failure.to_string())
    }

    fn io(failure: &IoFailure, message: &str) -> Self {
        let kind = if failure.is_storage_full() { CauseKind::Space { missing_bytes: 0 } } else { CauseKind::Io };
        Self::new(kind, message)
    }
}

/// What the end of a pass means for its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Something came in between, as it may at any time: it is looked at anew, a little later.
    LookAgain,
    /// It is tried again after a pause that grows.
    Retry(CleaningCause),
}

/// What an error of a pass means.
pub(super) fn judge(error: &CleanError) -> Consequence {
    let said = error.to_string();
    let retry = |kind| Consequence::Retry(CleaningCause::new(kind, &said));
    match error {
        // Truncation, retention, a pass of the embedder's own, another policy; or it was closed to be put aside, moved or
        // opened anew.
        CleanError::Changed | CleanError::Busy | CleanError::NotCompacted | CleanError::Log(ChangeError::Closed) => {
            Consequence::LookAgain
        }
        CleanError::Options { .. } => retry(CauseKind::Memory),
        CleanError::Space { missing_bytes, .. } | CleanError::GroupTooLarge { missing_bytes, .. } => {
            retry(CauseKind::Space { missing_bytes: *missing_bytes })
        }
        CleanError::Read(_) | CleanError::Log(ChangeError::Corrupt(_) | ChangeError::Damaged(_)) => {
            retry(CauseKind::Corrupt)
        }
        CleanError::Stuck { .. } => retry(CauseKind::NoProgress),
        CleanError::Io(failure) | CleanError::Log(ChangeError::Io(failure)) => {
            Consequence::Retry(CleaningCause::io(failure, &said))
        }
        CleanError::Log(_) => retry(CauseKind::LogFailed),
    }
}
