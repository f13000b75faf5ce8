//! Every I/O step of a store's life is a crash.

use alluvium::fs::sim::Survival;

use super::judge::{accept, accept_twice};
use super::machine::Machine;
use super::model::{Ending, Model, Phase};
use super::script::{Life, Stop};
use crate::common::seeds;

fn whole(seed: u64, reserve_bytes: u64) -> Life {
    let mut life = Life::new(Machine::new(seed, reserve_bytes));
    if let Err(stop) = life.live() {
        panic!("seed {seed}, {:?}: {stop:?}", life.chapters.last());
    }
    life
}

fn crashed(seed: u64, reserve_bytes: u64, step: u64) -> Option<Life> {
    let mut life = Life::new(Machine::new(seed, reserve_bytes));
    life.machine.fs.crash_after(step);
    match life.live() {
        Ok(()) => None,
        Err(Stop::Crashed) => Some(life),
        Err(Stop::Wrong(what)) => panic!("seed {seed} step {step} {:?}: {what}", life.chapters.last()),
    }
}

fn endings(seed: u64) -> Vec<(Ending, Option<Survival>)> {
    let mut endings = vec![(Ending::Kill, None)];
    let survivals = [Survival::Nothing, Survival::Everything, Survival::Random(seed), Survival::Random(seed + 1)];
    endings.extend(survivals.map(|survival| (Ending::PowerLoss, Some(survival))));
    endings
}

fn image(machine: &Machine, survival: Option<Survival>) -> Machine {
    survival.map_or_else(|| machine.killed(), |survival| machine.powerless(survival))
}

/// Whether everything is to be looked at, or a sample of it.
fn is_thorough() -> bool {
    std::env::var("ALLUVIUM_SEEDS").is_ok()
}

/// Runs `judge` for a life that ended in each of the steps, and tells all that is wrong.
fn at_every(every: u64, seed: u64, reserve_bytes: u64, judge: impl Fn(u64, &Life) -> Result<(), String>) {
    let steps = whole(seed, reserve_bytes).machine.fs.steps();
    let mut wrong = Vec::new();
    for step in (1..=steps).filter(|step| (step + seed).is_multiple_of(every)) {
        // Names that are drawn may shift the last steps.
        let Some(life) = crashed(seed, reserve_bytes, step) else { continue };
        if let Err(what) = judge(step, &life) {
            let (chapter, _) = life.chapters.last().unwrap();
            wrong.push(format!("seed {seed} step {step} of {steps} ({chapter}): {what}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn judge_endings(step: u64, life: &Life) -> Result<(), String> {
    for (ending, survival) in endings(step * 10) {
        let machine = image(&life.machine, survival);
        let judged = if step.is_multiple_of(4) || is_thorough() {
            accept_twice(&machine, &life.model, ending)
        } else {
            accept(&machine, &life.model, ending)
        };
        judged.map_err(|what| format!("{survival:?}: {what}"))?;
    }
    Ok(())
}

#[test]
fn every_step_of_a_store_is_a_crash_that_loses_nothing_promised() {
    let every = if is_thorough() { 1 } else { 11 };
    for seed in seeds(1) {
        at_every(every, seed, 0, judge_endings);
    }
}

#[test]
fn every_step_of_a_store_with_a_reserve_is_a_crash_that_loses_nothing_promised() {
    let every = if is_thorough() { 3 } else { 61 };
    for seed in seeds(1) {
        at_every(every, seed, 4096, judge_endings);
    }
}

/// The machine dies a second time, in a step of the opening that follows the first death.
fn crash_while_opening(first: &Machine, model: &Model, ending: Ending, every: u64) -> Result<(), String> {
    let rehearsal = first.killed();
    drop(rehearsal.open());
    let steps = rehearsal.fs.steps();
    let mut model = model.clone();
    model.phase = Phase::AtRest;
    let turn = fastrand::Rng::with_seed(steps).u64(0..every);
    for step in (1..=steps).filter(|step| step % every == turn) {
        let machine = first.killed();
        machine.fs.crash_after(step);
        let _ = machine.open();
        for (later, survival) in
            endings(step).into_iter().filter(|(_, survival)| *survival != Some(Survival::Everything))
        {
            let image = image(&machine, survival);
            accept(&image, &model, ending.min(later))
                .map_err(|what| format!("then step {step} of {steps}, {survival:?}: {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_second_crash_while_a_store_opens_loses_nothing_more() {
    let (every, every_second) = if is_thorough() { (7, 1) } else { (131, 13) };
    for seed in seeds(1) {
        at_every(every, seed, 0, |step, life| {
            for (ending, survival) in [(Ending::Kill, None), (Ending::PowerLoss, Some(Survival::Random(step)))] {
                crash_while_opening(&image(&life.machine, survival), &life.model, ending, every_second)
                    .map_err(|what| format!("{survival:?}, {what}"))?;
            }
            Ok(())
        });
    }
}
