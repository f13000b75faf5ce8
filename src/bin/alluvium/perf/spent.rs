//! Time that a piece of work takes: by the clock, and of the processor, which tells more where others use the machine.

use std::time::Duration;

use alluvium::clock::{Clock as _, SystemClock};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// What was spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    /// Of the whole process, in the system's calls and outside.
    pub(crate) cpu: Duration,
}

/// Runs from when it is made.
pub(crate) struct Stopwatch {
    clock: SystemClock,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { cpu: cpu(), clock: SystemClock::new() }
    }

    pub(crate) fn spent(&self) -> Spent {
        Spent { wall: self.clock.monotonic(), cpu: cpu().saturating_sub(self.cpu) }
    }
}

/// What the process used so far; nothing where the system does not tell.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds());
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
