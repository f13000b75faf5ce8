//! A bound on how many bytes a second background work may move, shared by any number of threads.
//!
//! Whoever wants to move bytes takes a place in line, which is a number: the sum of all bytes wanted so far. The bucket
//! counts how many bytes were allowed so far, and a place is served when that number reaches it. So places are served in
//! the order in which they were taken, and a change of the rate reaches those who wait already.
//!
//! Over any stretch of time, the bytes served are at most `rate * time + burst`, or `rate * time` and the largest single
//! request where that is more than the burst. Waits are rounded up to nanoseconds, both of whose ends count.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::clock::Clock;
use crate::sync::{Condvar, Mutex};

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Whoever waits looks around at least this often, so that a stop is prompt.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// A place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a place that is not used is given back with `give_back`"]
pub struct Place {
    /// Served when so much was allowed, in bytes times nanoseconds per second.
    end: u128,
    bytes: u64,
}

/// The arithmetic of a throttle, without threads or clock: time is what the caller says. A time before one that was given
/// earlier counts as that one.
///
/// ```
/// use alluvium::store::throttle::TokenBucket;
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// let mut bucket = TokenBucket::new(NonZeroU64::new(1000), 500);
/// let now = Duration::from_secs(7);
/// assert_eq!(bucket.take(500, now), Duration::ZERO);
/// assert_eq!(bucket.take(100, now), Duration::from_millis(100));
/// assert_eq!(bucket.take(100, now), Duration::from_millis(200));
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Option<NonZeroU64>,
    /// Most that is saved up while nobody wants anything; in units of `allowed`.
    burst: u128,
    /// Bytes wanted so far, times [`NANOS_PER_SECOND`], so that a nanosecond's share is a whole number at any rate.
    taken: u128,
    /// Bytes allowed by `at`, in the same unit; never more than `taken + burst`.
    allowed: u128,
    at: Duration,
    lifted_until: Duration,
}

fn scaled(bytes: u64) -> u128 {
    u128::from(bytes) * NANOS_PER_SECOND
}

impl TokenBucket {
    /// A full bucket: `burst` bytes may go at once, and `rate` bytes a second after that; `None` is no limit.
    pub fn new(rate: Option<NonZeroU64>, burst: u64) -> Self {
        let burst = scaled(burst);
        Self { rate, burst, taken: 0, allowed: burst, at: Duration::ZERO, lifted_until: Duration::ZERO }
    }

    /// Bytes a second; `None` is no limit.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.rate
    }

    /// Takes the next place in line for `bytes`.
    pub fn place(&mut self, bytes: u64, now: Duration) -> Place {
        self.settle(now);
        self.taken = self.taken.saturating_add(scaled(bytes));
        self.serve_if_open();
        Place { end: self.taken, bytes }
    }

    /// How long `place` has still to wait, if neither rate nor line changes; zero when it is served.
    pub fn wait_left(&mut self, place: Place, now: Duration) -> Duration {
        self.settle(now);
        let missing = place.end.saturating_sub(self.allowed);
        let Some(rate) = self.rate.filter(|_| missing > 0) else { return Duration::ZERO };
        duration_of(missing.div_ceil(u128::from(rate.get())))
    }

    /// Takes a place for `bytes` and says how long it has to wait.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let place = self.place(bytes, now);
        self.wait_left(place, now)
    }

    /// Leaves the line without having moved anything: those behind move up.
    pub fn give_back(&mut self, place: Place, now: Duration) {
        self.settle(now);
        let most = self.taken.saturating_add(self.burst);
        self.allowed = self.allowed.saturating_add(scaled(place.bytes)).min(most);
    }

    /// Changes the rate from `now` on, for those in line, too. `None` serves everybody.
    pub fn set_rate(&mut self, rate: Option<NonZeroU64>, now: Duration) {
        self.settle(now);
        self.rate = rate;
        self.serve_if_open();
    }

    /// Lifts the limit until `until`, for everybody in line and everybody who comes: to catch up with something urgent.
    /// A time that is past ends a lift.
    pub fn lift_until(&mut self, until: Duration, now: Duration) {
        self.settle(now);
        self.lifted_until = until;
        self.serve_if_open();
    }

    fn is_open(&self) -> bool {
        self.rate.is_none() || self.at < self.lifted_until
    }

    fn serve_if_open(&mut self) {
        if self.is_open() {
            self.allowed = self.allowed.max(self.taken);
        }
    }

    /// Allows what the time from `at` to `now` brings.
    fn settle(&mut self, now: Duration) {
        // While the limit is lifted nothing is saved up for later.
        let from = self.at.max(self.lifted_until.min(now));
        let elapsed = now.saturating_sub(from).as_nanos();
        self.at = self.at.max(now);
        let Some(rate) = self.rate else { return };
        let more = elapsed.saturating_mul(u128::from(rate.get()));
        let most = self.taken.saturating_add(self.burst);
        self.allowed = self.allowed.saturating_add(more).min(most);
    }
}

fn duration_of(nanos: u128) -> Duration {
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(u64::MAX);
    let rest = u32::try_from(nanos % NANOS_PER_SECOND).unwrap_or(0);
    Duration::new(seconds, rest)
}

/// A [`TokenBucket`] for several threads. Any thread may call anything.
///
/// ```
/// use alluvium::clock::SystemClock;
/// use alluvium::store::throttle::Throttle;
/// use std::num::NonZeroU64;
/// let throttle = Throttle::new(NonZeroU64::new(100 << 20), 1 << 20);
/// // The first mebibyte goes at once.
/// assert!(throttle.pace(1 << 20, &SystemClock::new(), || false));
/// ```
#[derive(Debug)]
pub struct Throttle {
    bucket: Mutex<TokenBucket>,
    /// Told of every change that may serve somebody sooner.
    changed: Condvar,
    /// Largest place that [`pace`](Self::pace) takes at once, so that others come between.
    portion: u64,
}

impl Throttle {
    /// `rate` bytes a second, `None` for no limit, and up to `burst` bytes at once after a quiet time.
    pub fn new(rate: Option<NonZeroU64>, burst: u64) -> Self {
        let bucket = Mutex::new(TokenBucket::new(rate, burst));
        Self { bucket, changed: Condvar::new(), portion: burst.max(1) }
    }

    /// Bytes a second; `None` is no limit.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.bucket.lock().rate()
    }

    /// Takes `bytes` at the monotonic time `now` and says how long to wait before moving them. For workers that wait by
    /// themselves, between two steps.
    pub fn take(&self, bytes: u64, now: Duration) -> Duration {
        self.bucket.lock().take(bytes, now)
    }

    /// Waits until `bytes` may be moved; `false` when `is_stopped` said so before. It is asked at least every 50 ms, and
    /// what was not served then is given back. More than the burst is taken in portions, so that others come between.
    /// Waits in real time: where the clock is simulated, use [`take`](Self::take).
    pub fn pace(&self, bytes: u64, clock: &dyn Clock, is_stopped: impl Fn() -> bool) -> bool {
        let mut left = bytes;
        while left > 0 && !self.is_open(clock.monotonic()) {
            let portion = left.min(self.portion);
            if !self.pace_portion(portion, clock, &is_stopped) {
                return false;
            }
            left -= portion;
        }
        !is_stopped()
    }

    /// Whether everything is served at once, however much it is.
    fn is_open(&self, now: Duration) -> bool {
        let mut bucket = self.bucket.lock();
        bucket.settle(now);
        bucket.is_open()
    }

    fn pace_portion(&self, bytes: u64, clock: &dyn Clock, is_stopped: &impl Fn() -> bool) -> bool {
        let mut bucket = self.bucket.lock();
        let place = bucket.place(bytes, clock.monotonic());
        loop {
            let now = clock.monotonic();
            let wait = bucket.wait_left(place, now);
            if wait.is_zero() {
                return true;
            }
            if is_stopped() {
                bucket.give_back(place, now);
                self.changed.notify_all();
                return false;
            }
            self.changed.wait_for(&mut bucket, wait.min(WAIT_MAX));
        }
    }

    /// As [`TokenBucket::set_rate`].
    pub fn set_rate(&self, rate: Option<NonZeroU64>, now: Duration) {
        self.bucket.lock().set_rate(rate, now);
        self.changed.notify_all();
    }

    /// As [`TokenBucket::lift_until`].
    pub fn lift_until(&self, until: Duration, now: Duration) {
        self.bucket.lock().lift_until(until, now);
        self.changed.notify_all();
    }

    /// Lets those who wait in [`pace`](Self::pace) ask at once whether they are stopped.
    pub fn nudge(&self) {
        self.changed.notify_all();
    }
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
