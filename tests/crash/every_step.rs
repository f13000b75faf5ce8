//! For fixed workloads every I/O step is a crash point, and each crash leaves many images. A second crash, at every step
//! of the opening that follows the first, loses nothing more.

use std::collections::BTreeSet;

use alluvium::fs::sim::{Effect, Fault, FaultOn, SimFs, Survival};

use crate::common::{crashed_at, digest, images, run_whole, seeds};
use crate::support::batches::StoredBatch;
use crate::support::checker::{Checker, Depth};
use crate::support::history::{Ending, History};
use crate::support::runner::{Runner, Trouble, new_clock, open};
use crate::support::workload::Workload;

/// Random images of a power loss at each step, besides the two extremes.
const RANDOM_IMAGES: u64 = 7;
const OPERATIONS: usize = 90;

fn check_step(workload: &Workload, step: u64) -> usize {
    let (fs, history) = crashed_at(workload, step);
    let checker = Checker::new(&workload.config);
    let mut seen = BTreeSet::new();
    for (index, (name, ending, image)) in images(&fs, step, RANDOM_IMAGES).into_iter().enumerate() {
        if !seen.insert(digest(&image, ending)) {
            continue;
        }
        let is_deep = (step + index as u64).is_multiple_of(3);
        let depth = if is_deep { Depth::Everything } else { Depth::Contents };
        if let Err(what) = checker.accepts(&image, &history, ending, depth) {
            panic!("seed {} step {step} {name}: {what}", workload.seed);
        }
    }
    seen.len()
}

#[test]
fn every_step_of_a_workload_is_a_crash_that_loses_nothing_promised() {
    for seed in seeds(4) {
        let workload = Workload::from_seed(seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        let images: usize = (1..=steps).map(|step| check_step(&workload, step)).sum();
        println!("seed {seed}: {steps} steps, {images} different images");
    }
}

/// The same with producers, transactions and leaders: a log that was opened after a crash says of itself what the batches
/// that are left say.
#[test]
fn every_step_is_a_crash_after_which_the_log_says_what_its_batches_say() {
    for seed in seeds(4) {
        let workload = Workload::with_producers(40_000 + seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        let images: usize = (1..=steps).map(|step| check_step(&workload, step)).sum();
        println!("seed {seed}: {steps} steps, {images} different images");
    }
}

/// What the history allows once an opening that crashed later had answered.
fn served(mut history: History, fs: &SimFs, workload: &Workload) -> History {
    if let Ok(log) = open(fs, &new_clock(), &workload.config) {
        let marks = log.marks();
        if history.restart == Some(marks.log_start.value()) && marks.log_end == marks.log_start {
            history.finish_restart(marks.log_start.value());
        }
        history.durable = marks.log_end.value();
        history.cached = history.durable;
    }
    history
}

fn check_second_crashes(workload: &Workload, step: u64) -> usize {
    let (fs, history) = crashed_at(workload, step);
    let mut all = images(&fs, step, RANDOM_IMAGES);
    let (first, ending, image) = all.swap_remove((step / 3) as usize % all.len());
    let checker = Checker::new(&workload.config);
    // A world after a kill is a copy of this one: nothing of it is lost.
    let rehearsal = image.kill();
    drop(open(&rehearsal, &new_clock(), &workload.config));
    let mut judged = 0;
    for second in 1..=rehearsal.steps() {
        let fs = image.kill();
        fs.crash_after(second);
        let history = served(history.clone(), &fs, workload);
        let mut seen = BTreeSet::new();
        for (index, (name, later, image)) in images(&fs, step + second, 2).into_iter().enumerate() {
            let ending = ending.min(later);
            if !seen.insert(digest(&image, ending)) {
                continue;
            }
            let is_deep = (second + index as u64).is_multiple_of(4);
            let depth = if is_deep { Depth::Everything } else { Depth::Contents };
            if let Err(what) = checker.accepts(&image, &history, ending, depth) {
                panic!("seed {} step {step} {first}, then step {second} {name}: {what}", workload.seed);
            }
        }
        judged += seen.len();
    }
    judged
}

#[test]
fn a_second_crash_while_recovering_loses_nothing_more() {
    for seed in seeds(3) {
        let workload = Workload::from_seed(1000 + seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        let crashes = (1..=steps).filter(|step| step % 7 == seed % 7);
        let images: usize = crashes.map(|step| check_second_crashes(&workload, step)).sum();
        println!("seed {seed}: {steps} steps, {images} different images after a second crash");
    }
}

#[test]
fn a_second_crash_while_recovering_leaves_what_the_batches_say() {
    for seed in seeds(2) {
        let workload = Workload::with_producers(41_000 + seed, OPERATIONS);
        let steps = run_whole(&workload).fs.steps();
        let crashes = (1..=steps).filter(|step| step % 11 == seed % 11);
        let images: usize = crashes.map(|step| check_second_crashes(&workload, step)).sum();
        println!("seed {seed}: {steps} steps, {images} different images after a second crash");
    }
}

#[test]
fn the_same_seed_twice_makes_the_same_calls() {
    for seed in 0..5 {
        let workload = Workload::from_seed(seed, OPERATIONS);
        assert_eq!(workload, Workload::from_seed(seed, OPERATIONS));
        let (once, twice) = (run_whole(&workload).fs, run_whole(&workload).fs);
        assert_eq!((once.steps(), once.trace_hash()), (twice.steps(), twice.trace_hash()), "seed {seed}");
        let step = once.steps() / 2;
        let (once, twice) = (crashed_at(&workload, step).0, crashed_at(&workload, step).0);
        assert_eq!(once.trace_hash(), twice.trace_hash(), "seed {seed} step {step}");
    }
}

/// The checker can fail: a disk that only claims to sync loses what was acknowledged, and the checker says so.
#[test]
fn canary_a_disk_that_lies_about_syncs_is_found_out() {
    let mut found_out = 0;
    for seed in 0..5 {
        let workload = Workload::from_seed(seed, OPERATIONS);
        let fs = SimFs::new(seed);
        fs.inject(Fault::new(FaultOn::SyncData, Effect::SyncLies).path_contains(".log").always());
        let mut runner = Runner::new(fs, workload.config.clone());
        if let Err((index, trouble)) = runner.run(&workload) {
            panic!("seed {seed}, operation {index}: {trouble:?}");
        }
        let image = runner.fs.power_loss_keeping(Survival::Nothing);
        let judged =
            Checker::new(&workload.config).accepts(&image, &runner.history, Ending::PowerLoss, Depth::Contents);
        found_out += usize::from(judged.is_err());
    }
    assert_eq!(found_out, 5);
}

/// The checker can fail: each way in which a log could be wrong is one that it sees.
#[test]
fn canary_a_wrong_history_is_refused() {
    let workload = Workload::from_seed(1, OPERATIONS);
    let runner = run_whole(&workload);
    let found = &runner.history.model;
    assert!(found.batches.len() > 3, "{}", found.batches.len());
    let judge = |spoil: &dyn Fn(&mut History)| {
        let mut history = runner.history.clone();
        spoil(&mut history);
        history.judge(found, Ending::Kill)
    };
    judge(&|_| ()).unwrap();
    let swap = |history: &mut History| history.model.batches.swap(0, 1);
    let forget = |history: &mut History| drop(history.model.batches.pop());
    let promise_more = |history: &mut History| history.cached += 1;
    let rename = |history: &mut History| history.model.start += 1;
    let flip = |history: &mut History| {
        let StoredBatch { bytes, .. } = &mut history.model.batches[2];
        bytes[70] ^= 1;
    };
    for (name, spoil) in
        [("swap", &swap as &dyn Fn(&mut History)), ("forget", &forget), ("more", &promise_more), ("start", &rename)]
    {
        judge(spoil).expect_err(name);
    }
    judge(&flip).expect_err("flip");
    let torn = Trouble::Wrong(judge(&flip).unwrap_err());
    println!("{torn:?}");
}
