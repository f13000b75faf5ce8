//! Random operations without crashes, on a file system with short and interrupted transfers: every answer is compared
//! with the naive model's, every index with one worked out from the bytes.

use alluvium::fs::sim::{SimConfig, SimFs};
use alluvium::{Isolation, PartitionLog, ReadError, ReadOptions, TimestampMs};
use fastrand::Rng;

use crate::support::batches::offset;
use crate::support::checker::check_indexes;
use crate::support::model::ModelLog;
use crate::support::reading;
use crate::support::runner::Runner;
use crate::support::workload::Workload;

const OPERATIONS: usize = 70;

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn shaky(seed: u64) -> SimFs {
    SimFs::with_config(seed, SimConfig { short_transfers: true, interrupts: true, ..SimConfig::default() })
}

fn random_options(model: &ModelLog, rng: &mut Rng) -> ReadOptions {
    let sizes = [0, 1, 61, 200, rng.u64(0..5000), 1 << 20, u64::MAX];
    let isolation = match rng.u8(0..4) {
        0 => Isolation::Durable,
        1 => Isolation::At(offset(rng.i64(model.start..=model.end + 3))),
        _ => Isolation::LogEnd,
    };
    ReadOptions { max_bytes: sizes[rng.usize(..sizes.len())], min_one_batch: rng.bool(), isolation }
}

/// A few questions to the log.
fn probe(log: &PartitionLog, model: &ModelLog, rng: &mut Rng) -> Result<(), String> {
    for _ in 0..6 {
        let options = random_options(model, rng);
        reading::compare_read(log, model, rng.i64(model.start..=model.end), &options)?;
    }
    let known = model.interesting_timestamps();
    for _ in 0..4 {
        let target = known[rng.usize(..known.len())];
        let found = log.offset_for_timestamp(TimestampMs::new(target)).map_err(|e| e.to_string())?;
        let (found, wanted) =
            (found.map(|f| (f.offset.value(), f.timestamp.value())), model.offset_for_timestamp(target));
        if found != wanted {
            return Err(format!("timestamp {target} leads to {found:?}, not to {wanted:?}"));
        }
    }
    for outside in [model.start - 1, model.end + 1].into_iter().filter(|outside| *outside >= 0) {
        let refused = log.read(offset(outside), &ReadOptions::default());
        if !matches!(refused, Err(ReadError::OutOfRange { .. })) {
            return Err(format!("read at {outside}, outside {}..{}, gives {refused:?}", model.start, model.end));
        }
    }
    Ok(())
}

fn check(seed: u64) -> Result<(), String> {
    let workload = Workload::from_seed(20_000 + seed, OPERATIONS);
    let mut rng = Rng::with_seed(seed);
    let mut runner = Runner::new(shaky(seed), workload.config.clone());
    runner.reopen().map_err(|trouble| format!("{trouble:?}"))?;
    for (index, op) in workload.ops.iter().enumerate() {
        let fail = |what| format!("operation {index} {op:?}: {what}");
        runner.apply(op).map_err(|trouble| fail(format!("{trouble:?}")))?;
        let log = runner.log().map_err(|trouble| fail(format!("{trouble:?}")))?;
        probe(log, &runner.history.model, &mut rng).map_err(fail)?;
    }
    let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
    reading::compare_lookups(log, &runner.history.model)?;
    log.close().map_err(|e| e.to_string())?;
    check_indexes(&runner.fs, &runner.config)?;
    runner.reopen().map_err(|trouble| format!("after close: {trouble:?}"))?;
    let log = runner.log().map_err(|trouble| format!("{trouble:?}"))?;
    reading::compare_lookups(log, &runner.history.model)
}

#[test]
fn a_log_answers_as_the_model_does() {
    for seed in seeds() {
        if let Err(what) = check(seed) {
            panic!("seed {seed}: {what}");
        }
    }
}
