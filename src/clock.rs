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

/// How long a blocking wait may take. Made from an [`Instant`], or from a [`Duration`] that starts now.
///
/// ```
/// use alluvium::clock::Deadline;
/// use std::time::Duration;
/// let soon: Deadline = Duration::from_millis(5).into();
/// assert!(soon.instant().is_some());
/// assert_eq!(Deadline::NEVER.instant(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits for as long as it takes.
    pub const NEVER: Self = Self(None);

    /// Whether it has passed.
    #[expect(clippy::disallowed_methods, reason = "blocking waits are measured in real time")]
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// The instant at which waiting ends, if it does.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self(Some(at))
    }
}

impl From<Duration> for Deadline {
    #[expect(clippy::disallowed_methods, reason = "blocking waits are measured in real time")]
    fn from(from_now: Duration) -> Self {
        Self(Instant::now().checked_add(from_now))
    }
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
