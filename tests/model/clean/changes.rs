//! What else changes a log while it is cleaned: retention takes its beginning, and its configuration changes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alluvium::{CleanError, CleanOptions, CleanupPolicy, LogConfig, PartitionLog};
use fastrand::Rng;

use super::examine;
use super::stories::{Teller, config};
use crate::support::clean::script::{CleanOp, MEMORY};
use crate::support::clean::story::Cleaning;

/// Cleans until told that it is over, and counts the passes that came to their end.
fn clean_until(log: &PartitionLog, is_over: &AtomicBool, passes: &AtomicU32) {
    while !is_over.load(Ordering::Relaxed) {
        match log.clean(&CleanOptions::default().with_memory(MEMORY)) {
            Ok(cleaned) => drop(passes.fetch_add(cleaned.passes, Ordering::Relaxed)),
            Err(CleanError::Changed | CleanError::NotCompacted) => {}
            // Whoever waits for passes waits no longer.
            Err(error) => {
                passes.store(u32::MAX / 2, Ordering::Relaxed);
                panic!("{error}");
            }
        }
    }
}

/// Makes changes in this thread while another one cleans, and judges what is left.
fn beside_a_cleaner(
    mut teller: Teller,
    rounds: u32,
    mut change: impl FnMut(&mut Teller, &PartitionLog, u32),
) -> Teller {
    let log = teller.world.log.clone().unwrap();
    let (is_over, passes) = (AtomicBool::new(false), AtomicU32::new(0));
    teller.world.is_watchful = false;
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| clean_until(&log, &is_over, &passes));
        let mut rng = Rng::with_seed(6);
        let is_enough = |round: u32| round >= rounds && passes.load(Ordering::Relaxed) > 1 || round > 10 * rounds;
        for round in (0..).take_while(|round| !is_enough(*round)) {
            teller.put(&[(rng.u32(..30), rng.u8(..5) > 0), (rng.u32(..30), true)]);
            change(&mut teller, &log, round);
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
        cleaner.join().unwrap();
    });
    // Whatever the other thread cleaned, it was sealed.
    let (at, upper) = (teller.world.now(), teller.world.story.end);
    teller.world.story.cleanings.push(Cleaning { at, by: at, upper, is_done: false });
    teller.world.is_watchful = true;
    teller.world.judge().unwrap();
    teller
}

/// Cleans what is left, and asks every question there is.
fn finish(mut teller: Teller) {
    teller.roll();
    teller.clean();
    examine(&teller.world).unwrap();
    teller.apply(&CleanOp::CloseAndOpen);
    examine(&teller.world).unwrap();
}

/// A partition that is compacted and deleted from. Nothing that retention took comes back with the segments of a pass, and
/// nothing past the log start goes that had to stay.
#[test]
fn retention_by_policy_takes_the_beginning_while_a_log_is_cleaned() {
    let policy = CleanupPolicy::CompactDelete;
    let both = LogConfig { cleanup_policy: policy, retention_bytes: Some(2500), segment_bytes: 1500, ..config() };
    let mut deleted = 0;
    let teller = beside_a_cleaner(Teller::new(both), 600, |teller, log, round| {
        if round % 20 == 0 {
            let retained = log.enforce_retention().unwrap();
            assert!(retained.log_start.value() >= teller.world.story.start);
            teller.world.story.start = retained.log_start.value();
            deleted += retained.deleted.len();
        }
    });
    println!("{deleted} segments went");
    finish(teller);
}

/// A pass goes by the configuration that it began with, or stops; the next one goes by the new one.
#[test]
fn the_configuration_changes_while_a_log_is_cleaned() {
    let mut rng = Rng::with_seed(8);
    let teller = beside_a_cleaner(Teller::new(config()), 600, |_, log, round| {
        if round % 5 == 0 {
            let policies = [CleanupPolicy::Compact, CleanupPolicy::Compact, CleanupPolicy::Delete];
            let changed = LogConfig {
                cleanup_policy: policies[rng.usize(..3)],
                segment_bytes: rng.u32(1000..6000),
                min_compaction_lag_ms: [0, 0, 20_000][rng.usize(..3)],
                file_delete_delay_ms: [0, 60_000][rng.usize(..2)],
                ..config()
            };
            log.update_config(changed).unwrap();
        }
    });
    let log = teller.world.log.clone().unwrap();
    log.update_config(LogConfig { cleanup_policy: CleanupPolicy::Delete, ..config() }).unwrap();
    let refused = log.clean(&CleanOptions::default()).unwrap_err();
    assert!(matches!(refused, CleanError::NotCompacted), "{refused:?}");
    log.update_config(config()).unwrap();
    finish(teller);
}
