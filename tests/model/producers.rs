//! Random producers, transactions and leaders, with truncations and restarts, without crashes: after every operation
//! the log is asked all that it can say of itself, and held to a model that works it out from all batches.

use alluvium::fs::sim::{SimConfig, SimFs};
use fastrand::Rng;

use crate::support::checker::check_indexes;
use crate::support::naive::{self, Naive};
use crate::support::runner::Runner;
use crate::support::standing;
use crate::support::workload::Workload;

const OPERATIONS: usize = 90;

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

fn shaky(seed: u64) -> SimFs {
    SimFs::with_config(seed, SimConfig { short_transfers: true, interrupts: true, ..SimConfig::default() })
}

/// What a run met, so that it can be told whether the runs meet anything.
#[derive(Debug, Default)]
struct Met {
    aborted: usize,
    committed: usize,
    open: usize,
    segments: usize,
    epochs: usize,
    duplicates: u64,
}

fn check(seed: u64, met: &mut Met) -> Result<(), String> {
    let workload = Workload::with_producers(30_000 + seed, OPERATIONS);
    let mut rng = Rng::with_seed(seed);
    let mut runner = Runner::new(shaky(seed), workload.config.clone());
    runner.reopen().map_err(|trouble| format!("{trouble:?}"))?;
    for (index, op) in workload.ops.iter().enumerate() {
        let fail = |what| format!("operation {index} {op:?}: {what}");
        let before = runner.log().map(|log| log.metrics().duplicate_appends.value()).unwrap_or_default();
        runner.apply(op).map_err(|trouble| fail(format!("{trouble:?}")))?;
        let log = runner.log().map_err(|trouble| fail(format!("{trouble:?}")))?;
        met.duplicates += log.metrics().duplicate_appends.value().saturating_sub(before);
        let model = &runner.history.model;
        for _ in 0..3 {
            let sizes = [1, 300, 900, 1 << 20];
            let from = rng.i64(model.start..=model.end);
            standing::compare_aborted(log, model, from, sizes[rng.usize(..sizes.len())]).map_err(fail)?;
        }
    }
    let naive = Naive(&runner.history.model.batches);
    met.aborted += naive.aborted().len();
    met.committed += naive.transactions().iter().filter(|t| t.end.is_some()).count() - naive.aborted().len();
    met.open += naive.transactions().iter().filter(|t| t.end.is_none()).count();
    met.epochs += naive.epochs(&[]).len();
    let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
    met.segments += log.segment_files().len();
    standing::compare_all_aborted(log, &runner.history.model)?;
    log.close().map_err(|e| e.to_string())?;
    check_indexes(&runner.fs, &runner.config)?;
    runner.reopen().map_err(|trouble| format!("after close: {trouble:?}"))?;
    let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
    standing::compare_all_aborted(log, &runner.history.model)
}

/// The comparison can fail: a model that lacks one batch is told from the log.
#[test]
fn canary_a_model_that_lacks_a_batch_is_found_out() {
    let mut found_out = 0;
    for seed in 0..20 {
        let workload = Workload::with_producers(30_000 + seed, OPERATIONS);
        let mut runner = Runner::new(shaky(seed), workload.config.clone());
        runner.run(&workload).unwrap();
        let log = runner.log().unwrap();
        let (mut model, told) = (runner.history.model.clone(), &runner.history.standing);
        standing::compare(log, &model, told).unwrap();
        let marker = model.batches.iter().rposition(|batch| naive::facts(&batch.bytes).marker.is_some());
        let Some(marker) = marker else { continue };
        model.batches.remove(marker);
        found_out += usize::from(standing::compare(log, &model, told).is_err());
    }
    // One that ended nothing may leave no trace: another of the same producer before it says the same.
    assert!(found_out > 10, "{found_out}");
}

#[test]
fn a_log_says_of_producers_transactions_and_epochs_what_the_model_does() {
    let mut met = Met::default();
    let wrong: Vec<String> =
        seeds().filter_map(|seed| check(seed, &mut met).err().map(|what| format!("seed {seed}: {what}"))).collect();
    assert!(wrong.is_empty(), "{} seeds:\n{}", wrong.len(), wrong.join("\n"));
    println!("{met:?}");
    assert!(met.aborted > 0 && met.committed > 0 && met.open > 0 && met.epochs > 0 && met.duplicates > 0, "{met:?}");
}
