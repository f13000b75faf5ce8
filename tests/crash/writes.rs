//! Failing writes: a full disk, an I/O error, a part of a write. Nothing of a failed append is visible or survives, and
//! the log goes on when the disk does.

use std::path::Path;

use alluvium::fs::FileSystem;
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use alluvium::{AppendAs, AppendError};

use crate::common::{crashed_at, images, mixed, run_whole, seeds};
use crate::support::batches::{BatchPlan, RecordPlan, epoch};
use crate::support::checker::{Checker, Depth};
use crate::support::history::{Ending, History};
use crate::support::reading;
use crate::support::runner::{DIR, Runner, Trouble, new_clock, open};
use crate::support::workload::Workload;

const OPERATIONS: usize = 45;

/// After trouble: what is visible is what was acknowledged, and any image of this moment must do.
fn check_moment(runner: &Runner, seed: u64) -> Result<(), String> {
    if let Some(log) = &runner.log
        && !log.health().is_closed
    {
        runner.history.judge(&reading::contents(log)?, Ending::Kill)?;
    }
    let checker = Checker::new(&runner.config);
    for (name, ending, image) in images(&runner.fs, seed, 2) {
        // What is being tried is the crash after a failure, on a disk that is well again.
        image.set_capacity(None);
        let accepted = checker.accepts(&image, &runner.history, ending, Depth::Everything);
        accepted.map_err(|what| format!("{name}: {what}"))?;
    }
    Ok(())
}

/// Opens the log again if it cannot be used as it is.
fn heal(runner: &mut Runner) -> Result<(), String> {
    let is_usable = |log: &alluvium::PartitionLog| log.health().failed.is_none() && !log.health().is_closed;
    if runner.log.as_ref().is_some_and(is_usable) {
        return Ok(());
    }
    let again = match runner.reopen() {
        // One fault may strike where the log is opened once more.
        Err(Trouble::Refused(_)) => runner.reopen(),
        outcome => outcome,
    };
    again.map_err(|trouble| format!("cannot be opened: {trouble:?}"))
}

/// Runs the workload, healing the log after each trouble. Says how often there was any.
fn run_through(runner: &mut Runner, workload: &Workload, seed: u64) -> Result<usize, String> {
    let mut troubles = 0;
    let mut outcome = runner.reopen();
    let mut ops = workload.ops.iter();
    loop {
        match outcome {
            Ok(()) => {}
            Err(Trouble::Wrong(what)) => return Err(what),
            Err(trouble) => {
                troubles += 1;
                let after = |what| format!("{what} after {trouble:?}");
                check_moment(runner, seed).map_err(after)?;
                heal(runner).map_err(after)?;
            }
        }
        let Some(op) = ops.next() else { break };
        outcome = runner.apply(op);
    }
    check_moment(runner, seed)?;
    Ok(troubles)
}

fn check_fault(workload: &Workload, name: &str, faults: impl Fn(u64) -> Vec<Fault>) {
    for nth in 0.. {
        let fs = SimFs::new(workload.seed);
        fs.record_trace(true);
        let faults = faults(nth);
        let operation = faults[0].operation;
        for fault in faults {
            fs.inject(fault);
        }
        let mut runner = Runner::new(fs, workload.config.clone());
        if let Err(what) = run_through(&mut runner, workload, nth) {
            panic!("seed {} {name} {nth}: {what}", workload.seed);
        }
        let calls = runner.fs.trace().iter().filter(|event| event.operation == operation).count() as u64;
        if nth + 1 >= calls {
            println!("seed {} {name}: {calls} calls", workload.seed);
            break;
        }
    }
}

#[test]
fn a_failed_write_leaves_nothing_and_stops_nothing() {
    for seed in seeds(3) {
        let workload = mixed(5000 + seed, OPERATIONS);
        for number in [Errno::Enospc, Errno::Eio] {
            let error = Effect::Error(number);
            check_fault(&workload, "write", |nth| vec![Fault::new(FaultOn::Write, error).skip(nth)]);
            check_fault(&workload, "part of a write", |nth| {
                let part = Fault::new(FaultOn::Write, Effect::Short(70)).skip(nth);
                vec![part, Fault::new(FaultOn::Write, error).skip(nth + 1)]
            });
        }
    }
}

#[test]
fn a_failed_change_of_names_or_sizes_loses_nothing() {
    for seed in seeds(3) {
        let workload = mixed(6000 + seed, OPERATIONS);
        let kinds = [FaultOn::Create, FaultOn::Rename, FaultOn::Remove, FaultOn::SetLen, FaultOn::Lock];
        for operation in kinds {
            for number in [Errno::Enospc, Errno::Eio] {
                let effect = Effect::Error(number);
                check_fault(&workload, &format!("{operation:?} {number:?}"), |nth| {
                    vec![Fault::new(operation, effect).skip(nth)]
                });
            }
        }
    }
}

/// Lets the disk have so many bytes free.
fn set_free(fs: &SimFs, free: u64) {
    fs.set_capacity(Some(u64::MAX));
    let used = u64::MAX - fs.free_bytes().unwrap_or_default();
    fs.set_capacity(Some(used + free));
}

#[test]
fn a_full_disk_is_an_ordinary_state() {
    for seed in seeds(6) {
        let workload = mixed(7000 + seed, 70);
        for free in [0, 1, 60, 300] {
            let mut runner = run_whole(&Workload { ops: workload.ops[..5].to_vec(), ..workload.clone() });
            for (index, op) in workload.ops[5..].iter().enumerate() {
                // Now and then there is space.
                if index % 7 == 0 {
                    runner.fs.set_capacity(None);
                } else {
                    set_free(&runner.fs, free);
                }
                match runner.apply(op) {
                    Ok(()) => {}
                    Err(Trouble::Refused(what)) => {
                        let fail = |why| panic!("seed {seed} free {free} operation {index} {op:?}: {why} after {what}");
                        check_moment(&runner, index as u64).unwrap_or_else(fail);
                        heal(&mut runner).unwrap_or_else(fail);
                    }
                    Err(trouble) => panic!("seed {seed} free {free} operation {index} {op:?}: {trouble:?}"),
                }
            }
        }
    }
}

/// Whether a log was ever open here.
fn has_recovery_point(image: &SimFs) -> bool {
    image.metadata(&Path::new(DIR).join("alluvium.recovery-point")).is_ok()
}

fn check_open_on_full_disk(
    workload: &Workload,
    history: &History,
    ending: Ending,
    image: &SimFs,
) -> Result<(), String> {
    set_free(image, 0);
    match open(image, &new_clock(), &workload.config) {
        Ok(log) => {
            let found = reading::contents(&log)?;
            history.judge(&found, ending)?;
            reading::compare_lookups(&log, &found)?;
            let record = RecordPlan { id: 1, value_bytes: 200, shift_ms: None };
            let plan = BatchPlan { records: vec![record], is_compressed: false };
            let client = AppendAs::Client { epoch: epoch(9) };
            // A torn tail that was cut off is space.
            set_free(image, 0);
            match log.append(plan.build(0), client) {
                // Zeros that were kept ahead are space too.
                Ok(_) if workload.config.zero_ahead_bytes > 0 => {}
                Err(AppendError::Io(_)) => {}
                Ok(appended) => return Err(format!("a full disk took an append at {}", appended.base_offset())),
                Err(e) => return Err(format!("a full disk answers an append with {e}")),
            }
            image.set_capacity(None);
            log.append(plan.build(0), client).map_err(|e| format!("there is space again, and yet: {e}"))?;
            log.close().map_err(|e| e.to_string())
        }
        // A restart that was decided has to be noted as done before anything is appended.
        Err(e) if has_recovery_point(image) && history.restart.is_none() => Err(format!("open on a full disk: {e}")),
        Err(_) => {
            image.set_capacity(None);
            let checker = Checker::new(&workload.config);
            checker.accepts(image, history, ending, Depth::Everything).map(drop)
        }
    }
}

#[test]
fn a_log_opens_on_a_full_disk() {
    for seed in seeds(4) {
        let workload = mixed(8000 + seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        for step in (1..=steps).filter(|step| step % 5 == seed % 5) {
            let (fs, history) = crashed_at(&workload, step);
            for (name, ending, image) in images(&fs, step, 4) {
                if let Err(what) = check_open_on_full_disk(&workload, &history, ending, &image) {
                    panic!("seed {seed} step {step} {name}: {what}");
                }
            }
        }
    }
}

/// A write failed half-way, the cut was made, and other batches were written in its place: no crash brings old bytes
/// and new ones together.
#[test]
fn a_crash_never_joins_a_batch_to_the_rest_of_a_failed_one() {
    for seed in 0..400 {
        let workload = Workload::from_seed(9000 + seed % 4, 12);
        let mut runner = run_whole(&workload);
        let records = |id| (0..3_u64).map(|n| RecordPlan { id: id + n, value_bytes: 90, shift_ms: Some(0) }).collect();
        let plan = |id| BatchPlan { records: records(id), is_compressed: false };
        runner.fs.inject(
            Fault::new(FaultOn::Write, Effect::Short(40 + usize::try_from(seed).unwrap())).path_contains(".log"),
        );
        runner.fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Eio)).path_contains(".log").skip(1));
        let who = crate::support::workload::Who::Client;
        let failed = runner.append(who, &[plan(1), plan(4)]);
        if seed < 200 {
            assert!(matches!(failed, Err(Trouble::Refused(_))), "seed {seed}: {failed:?}");
        }
        runner.fs.clear_faults();
        runner.append(who, &[plan(7)]).unwrap_or_else(|trouble| panic!("seed {seed}: {trouble:?}"));
        let image = runner.fs.power_loss_keeping(Survival::Random(seed));
        let checker = Checker::new(&runner.config);
        if let Err(what) = checker.accepts(&image, &runner.history, Ending::PowerLoss, Depth::Contents) {
            panic!("seed {seed}: {what}");
        }
    }
}
