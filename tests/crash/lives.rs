//! One log through many lives: operations, faults, deaths of the process, power losses, deaths while recovering, in
//! random order and without ever starting anew. What one life leaves behind is what the next one has to cope with.

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
use fastrand::Rng;

use crate::common::seeds;
use crate::support::checker::check_indexes;
use crate::support::history::Ending;
use crate::support::reading;
use crate::support::runner::{Runner, Trouble};
use crate::support::workload::Workload;

const LIVES: u64 = 12;

/// Arms something that will go wrong, within the partition: above it there is no place to leave a warning in.
fn arm(runner: &mut Runner, rng: &mut Rng) {
    let on = |operation, effect, reach: u64, rng: &mut Rng| {
        Fault::new(operation, effect).path_contains("orders-0").skip(rng.u64(0..reach))
    };
    let fault = match rng.u8(0..10) {
        0..4 => {
            let effects = [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages];
            let effect = effects[rng.usize(..3)];
            if effect == Effect::SyncRevertsPages {
                runner.ending = Ending::PowerLoss;
            }
            on(if rng.bool() { FaultOn::SyncData } else { FaultOn::SyncDir }, effect, 25, rng)
        }
        4 => on(FaultOn::Write, Effect::Error(Errno::Enospc), 40, rng),
        5 => on(FaultOn::Write, Effect::Short(rng.usize(1..100)), 40, rng),
        6 => {
            let kinds = [FaultOn::Create, FaultOn::Rename, FaultOn::Remove, FaultOn::SetLen];
            on(kinds[rng.usize(..4)], Effect::Error(Errno::Eio), 10, rng)
        }
        _ => return,
    };
    runner.fs.inject(fault);
}

/// The machine or the process dies; what is left becomes the world. Deaths may follow one another before a log opens.
fn die(runner: &mut Runner, rng: &mut Rng) -> Result<(), String> {
    runner.let_go();
    loop {
        let image = if rng.bool() {
            runner.fs.kill()
        } else {
            runner.ending = Ending::PowerLoss;
            runner.fs.power_loss(rng.u64(..))
        };
        runner.fs = image;
        if rng.u8(0..3) == 0 {
            runner.fs.crash_after(runner.fs.steps() + rng.u64(1..60));
        } else if rng.u8(0..4) == 0 {
            arm(runner, rng);
        }
        match runner.reopen() {
            Err(Trouble::Wrong(what)) => return Err(what),
            _ if runner.fs.is_crashed() => {
                if let Some(log) = &runner.log {
                    // It answered before it died: what it said is a promise.
                    let end = log.log_end().value();
                    runner.history.acknowledge_durable(end);
                }
                runner.let_go();
            }
            Ok(()) => break,
            Err(_) => {
                runner.fs.clear_faults();
                runner.reopen().map_err(|again| format!("{again:?}"))?;
                break;
            }
        }
    }
    runner.fs.clear_faults();
    runner.fs.crash_after(u64::MAX);
    runner.ending = Ending::Kill;
    Ok(())
}

fn heal(runner: &mut Runner) -> Result<(), String> {
    let is_usable = |log: &alluvium::PartitionLog| log.health().failed.is_none() && !log.health().is_closed;
    if runner.log.as_ref().is_some_and(is_usable) {
        return Ok(());
    }
    if let Err(trouble) = runner.reopen() {
        runner.fs.clear_faults();
        runner.reopen().map_err(|again| format!("{again:?} after {trouble:?}"))?;
    }
    Ok(())
}

/// One life. Ends in death, or with the log open.
fn live(runner: &mut Runner, workload: &Workload, rng: &mut Rng) -> Result<(), String> {
    arm(runner, rng);
    if rng.bool() {
        runner.fs.crash_after(runner.fs.steps() + rng.u64(1..200));
    }
    for op in &workload.ops {
        match runner.apply(op) {
            Ok(()) => {}
            Err(Trouble::Wrong(what)) => return Err(format!("{op:?}: {what}")),
            Err(_) if runner.fs.is_crashed() => break,
            Err(trouble) => match heal(runner) {
                Err(_) if runner.fs.is_crashed() => break,
                healed => healed.map_err(|what| format!("{op:?}: {what} after {trouble:?}"))?,
            },
        }
    }
    die(runner, rng)
}

fn check(seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let config = Workload::from_seed(30_000 + seed, 0).config;
    let mut runner = Runner::new(SimFs::new(seed), config.clone());
    runner.reopen().map_err(|trouble| format!("{trouble:?}"))?;
    for life in 0..LIVES {
        let ops = rng.usize(1..40);
        let workload = Workload { config: config.clone(), ..Workload::from_seed(seed * LIVES + life, ops) };
        live(&mut runner, &workload, &mut rng).map_err(|what| format!("life {life}: {what}"))?;
        let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
        reading::compare_lookups(log, &runner.history.model).map_err(|what| format!("after life {life}: {what}"))?;
        if let Some(damage) = log.recovery_report().damage().next() {
            return Err(format!("after life {life}: {damage}"));
        }
    }
    let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
    log.close().map_err(|e| e.to_string())?;
    check_indexes(&runner.fs, &runner.config)
}

#[test]
fn a_log_outlives_whatever_happens_to_it() {
    for seed in seeds(150) {
        if let Err(what) = check(seed) {
            panic!("seed {seed}: {what}");
        }
    }
}
