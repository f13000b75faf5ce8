//! Failing syncs: the n-th of a workload, for every n and every fate of the pages. Nothing acknowledged durable is lost,
//! a failed sync never becomes a success, and the log says what it can no longer promise.

use alluvium::fs::sim::{Effect, Fault, FaultOn, SimFs, Survival};
use alluvium::{AppendAs, AppendError, Deadline, DurabilityError};

use crate::common::{crashed_at, images, mixed, run_whole, seeds};
use crate::support::batches::{BatchPlan, RecordPlan, epoch};
use crate::support::checker::{Checker, Depth};
use crate::support::history::{Ending, History};
use crate::support::reading;
use crate::support::runner::{Runner, Trouble, new_clock, open};
use crate::support::workload::Workload;

const OPERATIONS: usize = 40;
const EFFECTS: [Effect; 3] = [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages];
const SYNCS: [FaultOn; 2] = [FaultOn::SyncData, FaultOn::SyncDir];

/// How many times the whole workload makes such a call.
fn count(workload: &Workload, operation: FaultOn) -> u64 {
    let fs = SimFs::new(workload.seed);
    fs.record_trace(true);
    let mut runner = Runner::new(fs, workload.config.clone());
    runner.run(workload).unwrap_or_else(|(index, trouble)| panic!("operation {index}: {trouble:?}"));
    runner.fs.trace().iter().filter(|event| event.operation == operation).count() as u64
}

/// What an opening in the same world may find after a sync with that effect.
fn ending_after(effect: Effect) -> Ending {
    if effect == Effect::SyncRevertsPages { Ending::PowerLoss } else { Ending::Kill }
}

fn runner_with(workload: &Workload, fault: Fault) -> Runner {
    let fs = SimFs::new(workload.seed);
    let ending = ending_after(fault.effect);
    fs.inject(fault);
    let mut runner = Runner::new(fs, workload.config.clone());
    runner.ending = ending;
    runner
}

/// A latched log refuses what it cannot promise, and goes on with what it can.
fn check_latched(runner: &Runner, can_read: bool) -> Result<(), String> {
    let Some(log) = &runner.log else { return Ok(()) };
    let health = log.health();
    if health.failed.is_none() || health.is_closed {
        return Ok(());
    }
    let record = RecordPlan { id: 1, value_bytes: 1, shift_ms: None };
    let plan = BatchPlan { records: vec![record], is_compressed: false };
    let (marks, steps) = (log.marks(), runner.fs.steps());
    let appended = log.append(plan.build(0), AppendAs::Client { epoch: epoch(9) });
    if !matches!(appended, Err(AppendError::Failed(_))) {
        return Err(format!("a latched log answers an append with {appended:?}"));
    }
    if marks.durable_end < marks.log_end {
        let waited = log.wait_durable(marks.log_end, Deadline::NEVER);
        if !matches!(waited, Err(DurabilityError::Failed(_))) {
            return Err(format!("a latched log answers a waiter with {waited:?}"));
        }
    }
    let (flushed, ticked) = (log.flush(), log.tick());
    if flushed.is_ok() || ticked.is_ok() || log.marks() != marks || runner.fs.steps() != steps {
        return Err(format!("a latched log goes on: {flushed:?} {ticked:?} {:?}, then {:?}", marks, log.marks()));
    }
    if can_read {
        reading::contents(log).map_err(|what| format!("a latched log cannot be read: {what}"))?;
    }
    Ok(())
}

/// After trouble: any image of this moment must do, whether the process dies now or the power goes.
fn check_images(runner: &Runner, seed: u64) -> Result<(), String> {
    let checker = Checker::new(&runner.config);
    for (name, ending, image) in images(&runner.fs, seed, 1) {
        let ending = ending.min(runner.ending);
        checker
            .accepts(&image, &runner.history, ending, Depth::Everything)
            .map_err(|what| format!("{name}: {what}"))?;
    }
    Ok(())
}

/// Runs the workload, opening the log again whenever it is in trouble.
fn run_through(runner: &mut Runner, workload: &Workload, seed: u64, can_read: bool) -> Result<(), String> {
    let mut troubled = false;
    let mut outcome = runner.reopen();
    let mut ops = workload.ops.iter();
    loop {
        match outcome {
            Ok(()) => {}
            Err(Trouble::Wrong(what)) => return Err(what),
            Err(trouble) => {
                troubled = true;
                check_latched(runner, can_read).map_err(|what| format!("{what} after {trouble:?}"))?;
                check_images(runner, seed).map_err(|what| format!("{what} after {trouble:?}"))?;
                runner.reopen().map_err(|again| format!("{again:?} when opening after {trouble:?}"))?;
                check_nothing_lost(runner)?;
            }
        }
        let Some(op) = ops.next() else { break };
        outcome = runner.apply(op);
    }
    check_nothing_lost(runner)?;
    if troubled { check_images(runner, seed) } else { Ok(()) }
}

/// If the power went now and took all that no sync covered.
fn check_nothing_lost(runner: &Runner) -> Result<(), String> {
    let image = runner.fs.power_loss_keeping(Survival::Nothing);
    let judged = Checker::new(&runner.config).accepts(&image, &runner.history, Ending::PowerLoss, Depth::Contents);
    judged.map(drop).map_err(|what| format!("power loss: {what}"))
}

#[test]
fn a_failed_sync_never_becomes_a_success() {
    for seed in seeds(4) {
        let workload = mixed(2000 + seed, OPERATIONS);
        for operation in SYNCS {
            for nth in 0..count(&workload, operation) {
                for effect in EFFECTS {
                    let mut runner = runner_with(&workload, Fault::new(operation, effect).skip(nth));
                    let can_read = effect != Effect::SyncRevertsPages;
                    if let Err(what) = run_through(&mut runner, &workload, nth, can_read) {
                        panic!("seed {seed} {operation:?} {nth} {effect:?}: {what}");
                    }
                }
            }
        }
    }
}

/// The process dies in one of the steps after the failed sync: the next one must know all the same.
#[test]
fn a_process_that_dies_soon_after_a_failed_sync_leaves_a_warning() {
    for seed in seeds(3) {
        let workload = mixed(3000 + seed, OPERATIONS);
        for operation in SYNCS {
            for nth in 0..count(&workload, operation) {
                let effect = EFFECTS[(nth % 3) as usize];
                // Not above the partition: there is no place to leave a warning in before its directory is made, and
                // a directory whose name was dropped looks like any other.
                let fault = Fault::new(operation, effect).path_contains("orders-0").skip(nth);
                let mut runner = runner_with(&workload, fault.clone());
                let _ = runner.run(&workload);
                let last = runner.fs.steps();
                for step in last.saturating_sub(5).max(1)..=last {
                    let mut runner = runner_with(&workload, fault.clone());
                    runner.fs.crash_after(step);
                    if let Err((index, Trouble::Wrong(what))) = runner.run(&workload) {
                        panic!("seed {seed} {operation:?} {nth} {effect:?} step {step} operation {index}: {what}");
                    }
                    if let Err(what) = check_images(&runner, step) {
                        panic!("seed {seed} {operation:?} {nth} {effect:?} step {step}: {what}");
                    }
                }
            }
        }
    }
}

/// Opens with the n-th sync failing until no sync is left to fail; then the log must be whole.
fn check_failing_open(workload: &Workload, history: &History, ending: Ending, image: &SimFs) -> Result<(), String> {
    let checker = Checker::new(&workload.config);
    for operation in SYNCS {
        for effect in EFFECTS {
            for nth in 0.. {
                let fs = image.kill();
                fs.inject(Fault::new(operation, effect).path_contains("orders-0").skip(nth));
                let opened = open(&fs, &new_clock(), &workload.config);
                let is_over = opened.is_ok();
                drop(opened);
                fs.clear_faults();
                let ending = ending.min(ending_after(effect));
                let fail = |what| format!("{operation:?} {nth} {effect:?}: {what}");
                checker.accepts(&fs.kill(), history, ending, Depth::Everything).map_err(fail)?;
                let lost = fs.power_loss_keeping(Survival::Nothing);
                checker.accepts(&lost, history, Ending::PowerLoss, Depth::Contents).map_err(fail)?;
                checker.accepts(&fs, history, ending, Depth::Everything).map_err(fail)?;
                if is_over {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_sync_that_fails_while_recovering_is_not_forgotten() {
    for seed in seeds(3) {
        let workload = mixed(4000 + seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        for step in (1..=steps).filter(|step| step % 9 == seed % 9) {
            let (fs, history) = crashed_at(&workload, step);
            let mut all = images(&fs, step, 3);
            let (name, ending, image) = all.swap_remove((step / 9) as usize % all.len());
            if let Err(what) = check_failing_open(&workload, &history, ending, &image) {
                panic!("seed {seed} step {step} {name}: {what}");
            }
        }
    }
}
