//! What is served over any stretch of time stays within the rate, whatever is asked for and whenever.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::clock::{ManualClock, SystemClock};

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// Asserts the promise over every stretch between two services. Times are in nanoseconds.
fn assert_within(served: &[(u64, u64)], rate: u64, burst: u64, seed: u64) {
    for (first, (start, largest)) in served.iter().enumerate() {
        let (mut sum, mut largest) = (0, *largest);
        for (end, bytes) in &served[first..] {
            sum += u128::from(*bytes);
            largest = largest.max(*bytes);
            // The nanoseconds of both ends belong to the stretch: waits are whole nanoseconds, rounded up.
            let allowed = u128::from(rate) * u128::from(end - start + 1) + scaled(burst.max(largest));
            assert!(scaled(1) * sum <= allowed, "seed {seed}: {sum} bytes from {start} to {end} ns at {rate} B/s");
        }
    }
}

#[test]
fn over_any_stretch_of_time_the_bytes_stay_within_rate_and_burst() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (bytes_per_second, burst) = (1 << rng.u64(0..40), 1 << rng.u64(0..20));
        let mut bucket = TokenBucket::new(rate(bytes_per_second), burst);
        let (mut now, mut served) = (rng.u64(0..1 << 40), Vec::new());
        for _ in 0..60 {
            let bytes_max = if rng.u8(0..4) == 0 { burst * 3 } else { burst };
            let bytes = rng.u64(0..=bytes_max);
            let wait = bucket.take(bytes, nanos(now));
            served.push((now + u64::try_from(wait.as_nanos()).unwrap(), bytes));
            // In bursts, with pauses of all lengths.
            let pause_max = 1 << rng.u64(1..36);
            now += if rng.bool() { 0 } else { rng.u64(0..pause_max) };
        }
        assert!(served.is_sorted_by_key(|(at, _)| *at), "seed {seed}: in the order of asking");
        assert_within(&served, bytes_per_second, burst, seed);
    }
}

#[test]
fn the_rate_is_used_up() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (bytes_per_second, burst) = (1 << rng.u64(4..40), 1 << rng.u64(0..20));
        let mut bucket = TokenBucket::new(rate(bytes_per_second), burst);
        let mut sum = 0_u64;
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            let bytes = rng.u64(1..=burst);
            sum += bytes;
            last = bucket.take(bytes, Duration::ZERO);
        }
        let due = scaled(sum.saturating_sub(burst)).div_ceil(u128::from(bytes_per_second));
        assert_eq!(last.as_nanos(), due, "seed {seed}");
    }
}

#[test]
fn a_new_rate_reaches_those_who_wait() {
    let mut bucket = TokenBucket::new(rate(100), 0);
    let place = bucket.place(1000, Duration::ZERO);
    assert_eq!(bucket.wait_left(place, Duration::ZERO), Duration::from_secs(10));
    bucket.set_rate(rate(1000), Duration::from_secs(5));
    assert_eq!(bucket.wait_left(place, Duration::from_secs(5)), Duration::from_millis(500));
    bucket.set_rate(rate(1), Duration::from_secs(5));
    assert_eq!(bucket.wait_left(place, Duration::from_secs(5)), Duration::from_secs(500));
    bucket.set_rate(None, Duration::from_secs(5));
    assert_eq!(bucket.wait_left(place, Duration::from_secs(5)), Duration::ZERO);
    assert_eq!(bucket.take(u64::MAX, Duration::from_secs(5)), Duration::ZERO);
    bucket.set_rate(rate(10), Duration::from_secs(5));
    assert_eq!(bucket.take(10, Duration::from_secs(5)), Duration::from_secs(1), "what was free is no debt");
}

#[test]
fn a_lift_serves_everybody_until_it_ends_and_leaves_nothing_saved_up() {
    let second = Duration::from_secs(1);
    let mut bucket = TokenBucket::new(rate(100), 50);
    let place = bucket.place(1050, Duration::ZERO);
    bucket.lift_until(5 * second, second);
    assert_eq!(bucket.wait_left(place, second), Duration::ZERO);
    assert_eq!(bucket.take(1 << 40, 4 * second), Duration::ZERO);
    assert_eq!(bucket.take(100, 5 * second), second);
    // Half a second after a lift that nobody saw the end of, half a second's bytes are there.
    bucket.lift_until(20 * second, 6 * second);
    assert_eq!(bucket.take(75, 20 * second + second / 4), second / 2);
    bucket.lift_until(Duration::MAX, 30 * second);
    bucket.lift_until(Duration::ZERO, 31 * second);
    assert!(bucket.take(1000, 31 * second) > second);
}

#[test]
fn who_leaves_the_line_makes_room() {
    let mut bucket = TokenBucket::new(rate(10), 0);
    let (first, second) = (bucket.place(1000, Duration::ZERO), bucket.place(10, Duration::ZERO));
    assert_eq!(bucket.wait_left(second, Duration::ZERO), Duration::from_secs(101));
    bucket.give_back(first, Duration::ZERO);
    assert_eq!(bucket.wait_left(second, Duration::ZERO), Duration::from_secs(1));
    bucket.give_back(second, Duration::ZERO);
    assert_eq!(bucket.take(10, Duration::ZERO), Duration::from_secs(1), "nothing comes of nothing");
}

#[test]
fn the_largest_numbers_neither_overflow_nor_panic() {
    for (bytes_per_second, burst) in [(1, 0), (u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX, 0)] {
        let mut bucket = TokenBucket::new(rate(bytes_per_second), burst);
        for now in [Duration::ZERO, Duration::MAX, Duration::ZERO, Duration::MAX] {
            for _ in 0..3 {
                bucket.take(u64::MAX, now);
            }
            let place = bucket.place(u64::MAX, now);
            bucket.give_back(place, now);
            bucket.lift_until(now, now);
        }
    }
}

#[test]
fn a_clock_that_stands_or_goes_back_gives_nothing() {
    let mut bucket = TokenBucket::new(rate(10), 0);
    assert_eq!(bucket.take(10, Duration::from_secs(9)), Duration::from_secs(1));
    assert_eq!(bucket.take(10, Duration::from_secs(1)), Duration::from_secs(2));
    assert_eq!(bucket.take(10, Duration::from_secs(9)), Duration::from_secs(3));
}

#[test]
fn who_waits_is_stopped_at_once_and_gives_its_bytes_back() {
    let (throttle, clock) = (Throttle::new(rate(1), 1), ManualClock::at(0));
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| throttle.pace(1 << 40, &clock, || is_stopped.load(Ordering::SeqCst)));
        is_stopped.store(true, Ordering::SeqCst);
        throttle.nudge();
        assert!(!waiter.join().unwrap());
    });
    assert!(throttle.take(1, Duration::ZERO) <= Duration::from_secs(1));
}

#[test]
fn threads_share_one_rate_and_all_get_on() {
    const THREADS: u64 = 4;
    const BYTES: u64 = 3000;
    let (throttle, clock) = (Throttle::new(rate(2_000_000), 100), SystemClock::new());
    let started = clock.monotonic();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| assert!(throttle.pace(BYTES, &clock, || false)));
        }
    });
    let took = clock.monotonic().saturating_sub(started);
    assert!(took >= Duration::from_micros((THREADS * BYTES - 100) / 2), "{took:?}");
    throttle.set_rate(None, clock.monotonic());
    assert!(throttle.pace(u64::MAX, &clock, || false));
    assert!(!throttle.pace(1, &clock, || true));
}
