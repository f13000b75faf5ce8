//! Bugs that were found, one test each. Every test opens with what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use alluvium::{
    AppendAs, AppendError, ChangeError, Environment, Isolation, LogConfig, OnDamage, PartitionLog, ReadOptions,
    TimestampMs,
};

use crate::common::images;
use crate::gate::Gate;
use crate::support::batches::{BatchPlan, RecordPlan, epoch, offset};
use crate::support::checker::{Checker, Depth, check_indexes};
use crate::support::history::Ending;
use crate::support::reading;
use crate::support::runner::{DIR, Runner, Trouble, new_clock, open};
use crate::support::workload::{Op, Who};

const EFFECTS: [Effect; 3] = [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages];

fn config() -> LogConfig {
    LogConfig { on_damage: OnDamage::Refuse, index_interval_bytes: 100, zero_ahead_bytes: 0, ..LogConfig::default() }
}

fn batch(id: u64, shift_ms: i64) -> BatchPlan {
    let record = |n| RecordPlan { id: id * 100 + n, value_bytes: 60, shift_ms: Some(shift_ms) };
    BatchPlan { records: vec![record(1), record(2)], is_compressed: false }
}

fn append(id: u64) -> Op {
    Op::Append { who: Who::Client, batches: vec![batch(id, 0)] }
}

fn runner(config: LogConfig) -> Runner {
    let mut runner = Runner::new(SimFs::new(1), config);
    runner.reopen().unwrap();
    runner
}

fn apply(runner: &mut Runner, ops: &[Op]) {
    for op in ops {
        runner.apply(op).unwrap_or_else(|trouble| panic!("{op:?}: {trouble:?}"));
    }
}

/// Runs `setup`, then dies in each step of `action`; every image of every crash must do.
fn crash_in_each_step(config: &LogConfig, setup: &[Op], action: &[Op], endings: fn(&SimFs) -> Vec<(Ending, SimFs)>) {
    let mut rehearsal = runner(config.clone());
    apply(&mut rehearsal, setup);
    let first = rehearsal.fs.steps() + 1;
    apply(&mut rehearsal, action);
    for step in first..=rehearsal.fs.steps() {
        let mut runner = runner(config.clone());
        apply(&mut runner, setup);
        runner.fs.crash_after(step);
        let trouble = action.iter().find_map(|op| runner.apply(op).err());
        assert!(matches!(trouble, Some(Trouble::Crash)), "step {step}: {trouble:?}");
        let checker = Checker::new(config);
        for (index, (ending, image)) in endings(&runner.fs).into_iter().enumerate() {
            if let Err(what) = checker.accepts(&image, &runner.history, ending, Depth::Everything) {
                panic!("step {step} image {index} {ending:?}: {what}");
            }
        }
    }
}

fn all_images(fs: &SimFs) -> Vec<(Ending, SimFs)> {
    images(fs, 1, 6).into_iter().map(|(_, ending, image)| (ending, image)).collect()
}

/// A log was closed cleanly, so its indexes were on disk. It was opened, grew and rolled, and the process died before
/// the indexes of the sealed segment were written again. The old files were valid and of a shorter log: a lookup by
/// timestamp went past records.
#[test]
fn indexes_of_a_shorter_log_are_not_believed() {
    for is_cut in [false, true] {
        let mut runner = runner(config());
        apply(&mut runner, &[append(1), append(2), append(3), append(4)]);
        if is_cut {
            // The same after a truncation of a segment that was sealed.
            apply(&mut runner, &[Op::Roll, Op::Flush, Op::Truncate { back: 2 }]);
        } else {
            apply(&mut runner, &[Op::CloseAndOpen]);
        }
        runner.append(Who::Client, &[batch(5, 50)]).unwrap();
        runner.append(Who::Client, &[batch(6, 0), batch(7, 0)]).unwrap();
        let no_index = Fault::new(FaultOn::Create, Effect::Error(Errno::Enospc)).path_contains("index").always();
        runner.fs.inject(no_index);
        apply(&mut runner, &[Op::Roll, append(8), Op::Flush]);
        runner.fs.clear_faults();
        apply(&mut runner, &[Op::DropAndOpen]);
        reading::compare_lookups(runner.log().unwrap(), &runner.history.model).unwrap();
        runner.log().unwrap().close().unwrap();
        check_indexes(&runner.fs, &runner.config).unwrap();
    }
}

/// Records without a timestamp were found in the active segment and skipped once it was sealed, because no time index
/// holds them.
#[test]
fn records_without_a_timestamp_are_found_in_sealed_segments() {
    let mut runner = runner(config());
    let record = RecordPlan { id: 1, value_bytes: 1, shift_ms: None };
    runner.append(Who::Client, &[BatchPlan { records: vec![record], is_compressed: false }]).unwrap();
    apply(&mut runner, &[Op::Roll, append(2)]);
    let found = runner.log().unwrap().offset_for_timestamp(TimestampMs::new(-1)).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (offset(0), TimestampMs::new(-1)));
}

/// An append was durable, zeros were written ahead of it, the segment rolled, and the process died. The next opening
/// trusted the sealed segment, and every read that came to its end met a batch of magic 0. And when a round died between
/// cutting the zeros off and its sync, a power loss brought them back behind the recovery point.
#[test]
fn zeros_kept_ahead_do_not_stay_in_a_sealed_segment() {
    let config = LogConfig { zero_ahead_bytes: 4096, ..config() };
    let setup = [append(1), Op::WaitLast];
    crash_in_each_step(&config, &setup, &[Op::Roll, append(2), Op::Flush, append(3), Op::CloseAndOpen], all_images);
    crash_in_each_step(&config, &setup, &[Op::Roll, Op::DropAndOpen, append(4), Op::WaitLast], all_images);
}

/// Zeros were being written ahead, and the disk was full after a part of them. They were counted nowhere, stayed in the
/// file when the log was closed, and the next opening did not believe the clean shutdown.
#[test]
fn a_part_of_zeros_that_could_not_be_written_does_not_spoil_a_clean_close() {
    let mut runner = runner(LogConfig { zero_ahead_bytes: 4096, ..config() });
    apply(&mut runner, &[append(1)]);
    let zeros = runner.fs.live_bytes(&std::path::Path::new(DIR).join("00000000000000000000.log")).unwrap().len();
    runner.fs.inject(Fault::new(FaultOn::Write, Effect::Short(70)).path_contains(".log"));
    runner.fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).path_contains(".log").skip(1));
    apply(&mut runner, &[Op::WaitLast]);
    let after = runner.fs.live_bytes(&std::path::Path::new(DIR).join("00000000000000000000.log")).unwrap().len();
    assert_eq!(after, zeros + 70);
    apply(&mut runner, &[Op::CloseAndOpen]);
}

/// A truncation put a copy of the kept prefix under the segment's name, since a reader held the old bytes, and the sync
/// of the directory failed and dropped the rename. The next opening rewrote the bytes of the new file and synced, with
/// success, a directory that had nothing to write. Durable appends went to a file that a power loss took away.
#[test]
fn a_name_that_a_failed_directory_sync_dropped_is_made_to_change_again() {
    for effect in EFFECTS {
        for nth in 0..4 {
            for is_held in [false, true] {
                let mut runner = runner(LogConfig { segment_bytes: 700, ..config() });
                runner.ending = if effect == Effect::SyncRevertsPages { Ending::PowerLoss } else { Ending::Kill };
                apply(&mut runner, &[append(1), append(2), append(3), append(4), append(5), Op::Flush]);
                if is_held {
                    apply(&mut runner, &[Op::Hold { back: 8 }]);
                }
                runner.fs.inject(Fault::new(FaultOn::SyncDir, effect).skip(nth));
                let _ = runner.apply(&Op::Truncate { back: 7 });
                runner.fs.clear_faults();
                apply(&mut runner, &[Op::DropAndOpen, append(6), append(7), append(8), append(9), Op::Flush]);
                let image = runner.fs.power_loss_keeping(Survival::Nothing);
                let checker = Checker::new(&runner.config);
                let judged = checker.accepts(&image, &runner.history, Ending::PowerLoss, Depth::Everything);
                judged.unwrap_or_else(|what| panic!("{effect:?} {nth} held {is_held}: {what}"));
            }
        }
    }
}

/// The directories above the partition were made by a process that died at once, and the next one synced only the name
/// of the directory that it had made itself.
#[test]
fn every_directory_above_is_synced_whoever_made_it() {
    for step in 1..=4 {
        let fs = SimFs::new(step);
        fs.crash_after(step);
        drop(open(&fs, &new_clock(), &config()));
        let fs = fs.kill();
        let mut runner = Runner::new(fs, config());
        runner.reopen().unwrap();
        apply(&mut runner, &[append(1), Op::WaitLast]);
        let image = runner.fs.power_loss_keeping(Survival::Nothing);
        let checker = Checker::new(&runner.config);
        let judged = checker.accepts(&image, &runner.history, Ending::PowerLoss, Depth::Contents);
        judged.unwrap_or_else(|what| panic!("step {step}: {what}"));
    }
}

/// Names are made to change after a sync in doubt, by renaming a log and by making and removing one that is gone. A crash
/// in the midst of that left a log under a name that the next opening took for something to be removed, or an empty log
/// that hid the records of the one before it.
#[test]
fn a_crash_while_names_are_made_to_change_loses_nothing() {
    let config = LogConfig { segment_bytes: 500, ..config() };
    for cut in [Op::Truncate { back: 5 }, Op::Restart { shift: 9 }, Op::Restart { shift: -3 }] {
        let setup: Vec<Op> = (1..5).map(append).chain([Op::Flush, Op::Hold { back: 7 }]).collect();
        crash_in_each_step(&config, &setup, &[cut, append(6), append(7), Op::Flush], twice);
    }
}

/// Images of a crash, and of crashes in steps of the opening of each: in every third, beginning with another one from
/// crash to crash, or in each step where seeds are asked for.
fn twice(fs: &SimFs) -> Vec<(Ending, SimFs)> {
    let every = if std::env::var("ALLUVIUM_SEEDS").is_ok() { 1 } else { 3 };
    let mut all = Vec::new();
    for (_, ending, image) in images(fs, 3, 1) {
        let clock = new_clock();
        let config = LogConfig { segment_bytes: 500, ..config() };
        let rehearsal = image.kill();
        drop(open(&rehearsal, &clock, &config));
        for step in (1 + fs.steps() % every..=rehearsal.steps()).step_by(usize::try_from(every).unwrap()) {
            let second = image.kill();
            second.crash_after(step);
            drop(open(&second, &clock, &config));
            all.push((ending, second.kill()));
            all.push((Ending::PowerLoss, second.power_loss(step)));
        }
    }
    all
}

/// A full disk refused the first step of a truncation, before anything had changed, and the log latched. Where a reader
/// held the old bytes, the copy that was already made stayed behind.
#[test]
fn a_truncation_refused_by_a_full_disk_changes_nothing() {
    for is_held in [false, true] {
        let mut runner = runner(config());
        apply(&mut runner, &[append(1), append(2), append(3)]);
        if is_held {
            apply(&mut runner, &[Op::Hold { back: 6 }]);
        }
        let full = Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).path_contains("recovery-point").always();
        runner.fs.inject(full);
        for op in [Op::Truncate { back: 3 }, Op::Restart { shift: 5 }] {
            let refused = runner.apply(&op);
            assert!(matches!(refused, Err(Trouble::Refused(_))), "{op:?}: {refused:?}");
        }
        runner.fs.clear_faults();
        apply(&mut runner, &[append(4), Op::CloseAndOpen, Op::Truncate { back: 3 }, append(5), Op::CloseAndOpen]);
    }
}

/// The warning that a sync begins could not be written, and was counted as given. The next sync began without one; it
/// failed, and the process died before it could say so. The one after that believed the page cache.
#[test]
fn a_warning_that_could_not_be_written_is_written_before_the_next_sync() {
    for steps_after in 0..3 {
        let mut runner = runner(config());
        apply(&mut runner, &[append(1), Op::Flush, append(2)]);
        runner.fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Eio)).path_contains("sync-state"));
        assert!(matches!(runner.apply(&Op::Truncate { back: 1 }), Err(Trouble::Refused(_))));
        apply(&mut runner, &[append(3)]);
        runner.fs.inject(Fault::new(FaultOn::SyncData, Effect::SyncDropsPages).path_contains(".log"));
        // The warning, the sync, and what comes after.
        runner.fs.crash_after(runner.fs.steps() + 2 + steps_after);
        assert!(runner.apply(&Op::Flush).is_err());
        let checker = Checker::new(&runner.config);
        let judged = checker.accepts(&runner.fs.kill(), &runner.history, Ending::Kill, Depth::Everything);
        judged.unwrap_or_else(|what| panic!("{steps_after}: {what}"));
    }
}

/// While a round's sync was under way an append failed, was undone, and the sync of the undoing failed: the log latched.
/// The kernel tells of a failed write-back once, so the round's own sync succeeded, and raised the durable end over
/// pages that were lost.
#[test]
fn a_round_that_succeeds_after_the_log_latched_promises_nothing() {
    let sim = SimFs::new(5);
    let gate = Arc::new(Gate::new(sim.clone()));
    let environment = Environment { fs: Arc::<Gate>::clone(&gate), clock: new_clock() };
    let log = environment.open(DIR, config()).unwrap();
    let client = AppendAs::Client { epoch: epoch(1) };
    log.append(batch(1, 0).build(0), client).unwrap();
    let (inner, world, latched) = (log.clone(), sim.clone(), Arc::new(AtomicBool::new(false)));
    let did_latch = Arc::clone(&latched);
    gate.before_next_sync_of(".log", move || {
        world.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Eio)).path_contains(".log"));
        world.inject(Fault::new(FaultOn::SyncData, Effect::SyncDropsPages).path_contains(".log"));
        let failed = inner.append(batch(2, 0).build(0), client);
        did_latch.store(matches!(failed, Err(AppendError::Failed(_))), Ordering::Relaxed);
    });
    let flushed = log.flush();
    assert!(latched.load(Ordering::Relaxed), "the append did not fail as it should");
    assert!(flushed.is_err(), "{flushed:?}");
    assert_eq!(log.durable_end(), offset(0));
    assert_eq!(sim.durable_bytes(&log.segment_files()[0]).unwrap_or_default().len(), 0);
}

fn far_batch(base: i64) -> Vec<u8> {
    batch(50, 0).build_at(0, base, 3)
}

/// A follower's batch lay 2^31 offsets past the log end. The recovery point went there before the new segment's name was
/// durable: a crash in between left a log that ended below its recovery point, and was reported as the loss of two
/// thousand million records. A full disk at that moment latched the log.
#[test]
fn a_crash_in_a_leap_over_offsets_is_no_loss() {
    const FAR: i64 = 5_000_000_000;
    let config = LogConfig { zero_ahead_bytes: 4096, ..config() };
    let check = |log: &PartitionLog, did_leap: bool| {
        assert!(log.recovery_report().damage().next().is_none(), "{:?}", log.recovery_report().findings);
        let found = log.read(offset(0), &ReadOptions::default()).unwrap();
        assert_eq!(reading::decode(&found.read().unwrap()).unwrap()[0].next, 2);
        let end = log.log_end().value();
        assert!(if did_leap { end == FAR + 2 } else { [2, FAR, FAR + 2].contains(&end) }, "{end}");
    };
    for step in 1.. {
        let mut runner = runner(config.clone());
        apply(&mut runner, &[append(1), Op::WaitLast]);
        runner.fs.crash_after(runner.fs.steps() + step);
        let log = runner.log().unwrap();
        let appended = log
            .append(far_batch(FAR), AppendAs::Follower)
            .and_then(|appended| appended.wait_durable(alluvium::Deadline::NEVER).map_err(|_| AppendError::Closed));
        for (name, _, image) in images(&runner.fs, step, 6) {
            let log = open(&image, &new_clock(), &config).unwrap_or_else(|e| panic!("step {step} {name}: {e}"));
            check(&log, appended.is_ok());
        }
        if !runner.fs.is_crashed() {
            break;
        }
    }
    let mut runner = runner(config.clone());
    apply(&mut runner, &[append(1)]);
    runner.fs.inject(Fault::new(FaultOn::Create, Effect::Error(Errno::Enospc)).path_contains(".log"));
    let log = runner.log().unwrap();
    assert!(matches!(log.append(far_batch(FAR), AppendAs::Follower), Err(AppendError::Io(_))));
    log.append(far_batch(FAR), AppendAs::Follower).unwrap();
    let end = ReadOptions { isolation: Isolation::LogEnd, ..ReadOptions::default() };
    assert_eq!(log.read(offset(FAR), &end).unwrap().next_offset().unwrap(), offset(FAR + 2));
    assert!(matches!(log.truncate_to(offset(FAR + 3)), Err(ChangeError::OutOfRange { .. })));
}
