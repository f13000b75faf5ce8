//! For fixed workloads every I/O step is a crash point, and each crash leaves many images.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use alluvium::fs::sim::{SimFs, Survival};

use crate::support::checker::{Checker, Depth, files};
use crate::support::history::{Ending, History};
use crate::support::runner::{Runner, Trouble};
use crate::support::workload::Workload;

/// Random images of a power loss at each step, besides the two extremes.
const RANDOM_IMAGES: u64 = 7;

/// Workloads to run: a number from the environment, or a few.
fn seeds(few: u64) -> u64 {
    std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Runs the workload until the machine dies in `step`.
fn crashed_at(workload: &Workload, step: u64) -> (SimFs, History) {
    let fs = SimFs::new(workload.seed);
    fs.crash_after(step);
    let mut runner = Runner::new(fs, workload.config.clone());
    match runner.run(workload) {
        Ok(()) => panic!("seed {} step {step}: nothing crashed", workload.seed),
        Err((index, Trouble::Wrong(what))) => {
            panic!("seed {} step {step}, operation {index} {:?}: {what}", workload.seed, workload.ops[index]);
        }
        Err(_) => {}
    }
    assert!(runner.fs.is_crashed(), "seed {} step {step}: trouble without a crash", workload.seed);
    (runner.fs.clone(), runner.history.clone())
}

fn steps_of(workload: &Workload) -> u64 {
    let mut runner = Runner::new(SimFs::new(workload.seed), workload.config.clone());
    if let Err((index, trouble)) = runner.run(workload) {
        panic!("seed {}, operation {index} {:?}: {trouble:?}", workload.seed, workload.ops[index]);
    }
    runner.fs.steps()
}

fn images(fs: &SimFs, step: u64) -> Vec<(String, Ending, SimFs)> {
    let mut images = vec![("kill".to_owned(), Ending::Kill, fs.kill())];
    let extremes = [Survival::Nothing, Survival::Everything];
    let random = (0..RANDOM_IMAGES).map(|n| Survival::Random(step * 1000 + n));
    for survival in extremes.into_iter().chain(random) {
        images.push((format!("{survival:?}"), Ending::PowerLoss, fs.power_loss_keeping(survival)));
    }
    images
}

fn digest(image: &SimFs, ending: Ending) -> u64 {
    let mut hasher = DefaultHasher::new();
    (files(image), ending as u8).hash(&mut hasher);
    hasher.finish()
}

fn check_step(workload: &Workload, step: u64) -> usize {
    let (fs, history) = crashed_at(workload, step);
    let checker = Checker::new(&workload.config);
    let mut seen = BTreeSet::new();
    for (index, (name, ending, image)) in images(&fs, step).into_iter().enumerate() {
        if !seen.insert(digest(&image, ending)) {
            continue;
        }
        let depth = if (step as usize + index) % 3 == 0 { Depth::Everything } else { Depth::Contents };
        if let Err(what) = checker.accepts(&image, &history, ending, depth) {
            panic!("seed {} step {step} {name}: {what}", workload.seed);
        }
    }
    seen.len()
}

fn check_workload(seed: u64) {
    let workload = Workload::from_seed(seed, 90);
    let steps = steps_of(&workload);
    let mut images = 0;
    for step in 1..=steps {
        images += check_step(&workload, step);
    }
    println!("seed {seed}: {steps} steps, {images} different images, {:?}", workload.config.zero_ahead_bytes);
}

#[test]
fn every_step_of_a_workload_is_a_crash_that_loses_nothing_promised() {
    for seed in 0..seeds(3) {
        check_workload(seed);
    }
}
