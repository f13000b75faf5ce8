//! Time as a dependency, so that a simulator owns it.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::units::TimestampMs;

/// Where the crate reads time. `Send + Sync`; any thread may call it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since the epoch; may go back.
    fn wall(&self) -> TimestampMs;
    /// Time since a fixed point of this clock's own; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]
    fn wall(&self) -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs::new(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: crate::sync::Mutex<(i64, Duration)>,
}

impl ManualClock {
    /// Stands at `wall` milliseconds since the epoch.
    pub fn at(wall: i64) -> Self {
        Self { now: crate::sync::Mutex::new((wall, Duration::ZERO)) }
    }

    /// Moves both clocks ahead.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock();
        now.0 = now.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
        now.1 = now.1.saturating_add(by);
    }

    /// Sets the wall clock alone, as an administrator or NTP may.
    pub fn set_wall(&self, wall: i64) {
        self.now.lock().0 = wall;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> TimestampMs {
        TimestampMs::new(self.now.lock().0)
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().1
    }
}
