//! What the crash tests share: workloads that end at a step, and the images that a crash leaves.

use std::hash::{DefaultHasher, Hash, Hasher};

use alluvium::fs::sim::{SimFs, Survival};

use crate::support::checker::files;
use crate::support::history::{Ending, History};
use crate::support::runner::{Runner, Trouble};
use crate::support::workload::Workload;

/// Workloads to run: a number from the environment, or a few.
pub(crate) fn seeds(few: u64) -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Every other workload is one of producers, transactions and leaders.
pub(crate) fn mixed(seed: u64, operations: usize) -> Workload {
    if seed.is_multiple_of(2) {
        Workload::from_seed(seed, operations)
    } else {
        Workload::with_producers(seed, operations)
    }
}

/// Runs the workload until the machine dies in `step`.
pub(crate) fn crashed_at(workload: &Workload, step: u64) -> (SimFs, History) {
    let fs = SimFs::new(workload.seed);
    fs.crash_after(step);
    let mut runner = Runner::new(fs, workload.config.clone());
    // The run to the end was watched.
    runner.is_watchful = false;
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

/// Runs the workload to its end.
pub(crate) fn run_whole(workload: &Workload) -> Runner {
    let mut runner = Runner::new(SimFs::new(workload.seed), workload.config.clone());
    if let Err((index, trouble)) = runner.run(workload) {
        panic!("seed {}, operation {index} {:?}: {trouble:?}", workload.seed, workload.ops[index]);
    }
    runner
}

/// What a crash may leave: the death of the process, and power losses, the extremes and `random` draws.
pub(crate) fn images(fs: &SimFs, seed: u64, random: u64) -> Vec<(String, Ending, SimFs)> {
    let mut images = vec![("kill".to_owned(), Ending::Kill, fs.kill())];
    let extremes = [Survival::Nothing, Survival::Everything];
    let random = (0..random).map(|n| Survival::Random(seed * 1000 + n));
    for survival in extremes.into_iter().chain(random) {
        images.push((format!("{survival:?}"), Ending::PowerLoss, fs.power_loss_keeping(survival)));
    }
    images
}

/// Equal for images of one crash that need to be looked at only once.
pub(crate) fn digest(image: &SimFs, ending: Ending) -> u64 {
    let mut hasher = DefaultHasher::new();
    (files(image), ending).hash(&mut hasher);
    hasher.finish()
}
