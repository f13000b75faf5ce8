//! Opens what a crash left and holds it to the history.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{SimFs, Survival};
use alluvium::{AppendAs, Deadline, LogConfig, PartitionLog, TimestampType};

use super::batches::{BatchPlan, RecordPlan, epoch};
use super::history::{Ending, History};
use super::indexes;
use super::model::ModelLog;
use super::reading;
use super::runner::{DIR, new_clock, open};
use super::standing::{self, Standing};

/// Of the leader that takes over last; past all that a workload has.
const LAST_EPOCH: i32 = 1000;

/// How closely an image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Contents, bounds, report.
    Contents,
    /// And lookups, reopening, appending, closing, losing power once more.
    Everything,
}

/// Holds images of one workload to its history.
pub(crate) struct Checker {
    config: LogConfig,
    clock: Arc<ManualClock>,
}

impl Checker {
    pub(crate) fn new(config: &LogConfig) -> Self {
        Self { config: config.clone(), clock: new_clock() }
    }

    /// Opens `image` and judges it. What is wrong comes back as text.
    pub(crate) fn accepts(
        &self,
        image: &SimFs,
        history: &History,
        ending: Ending,
        depth: Depth,
    ) -> Result<ModelLog, String> {
        let before = files(image).into_iter().map(|(name, bytes)| format!("{name} {}", bytes.len()));
        let before = before.collect::<Vec<_>>().join(", ");
        let judge = || {
            let log = self.open(image)?;
            let found = judged(&log, history, ending)?;
            let standing = history.standing_of(&found).adopt(&log, &found)?;
            if depth == Depth::Everything {
                self.examine(image, log, &found, &standing)?;
            }
            Ok(found)
        };
        judge().map_err(|what: String| format!("{what}\nfiles before opening: {before}"))
    }

    fn open(&self, image: &SimFs) -> Result<PartitionLog, String> {
        let log = open(image, &self.clock, &self.config).map_err(|e| format!("open: {e}"))?;
        if let Some(damage) = log.recovery_report().damage().next() {
            return Err(format!("an ordinary crash is reported as damage: {damage}"));
        }
        let marks = log.marks();
        if marks.durable_end != marks.log_end {
            return Err(format!("{marks:?} after opening: what is served is not durable"));
        }
        Ok(log)
    }

    /// Everything that must hold of a log just opened, beyond its contents.
    fn examine(&self, image: &SimFs, log: PartitionLog, found: &ModelLog, standing: &Standing) -> Result<(), String> {
        reading::compare_lookups(&log, found)?;
        standing::compare_all_aborted(&log, found)?;
        // What opening serves as durable is durable.
        self.unchanged(&image.power_loss_keeping(Survival::Nothing), found, standing)
            .map_err(|what| format!("power loss after opening: {what}"))?;
        let before = log_files(image);
        drop(log);
        let log = self.open(image).map_err(|what| format!("second opening: {what}"))?;
        if log_files(image) != before {
            return Err("a second opening changed a .log file".to_owned());
        }
        same(&log, found).map_err(|what| format!("second opening: {what}"))?;
        let standing = standing.adopt(&log, found).map_err(|what| format!("second opening: {what}"))?;
        let grown = self.append_durably(&log, found)?;
        standing::compare(&log, &grown, &standing).map_err(|what| format!("after appending: {what}"))?;
        self.unchanged(&image.power_loss_keeping(Survival::Nothing), &grown, &standing)
            .map_err(|what| format!("power loss after a durable append: {what}"))?;
        log.close().map_err(|e| format!("close: {e}"))?;
        drop(log);
        check_indexes(image, &self.config)?;
        let log = self.open(image).map_err(|what| format!("after close: {what}"))?;
        let report = log.recovery_report();
        if !report.was_clean || !report.is_ordinary() {
            return Err(format!("not clean after a close: {:?}", report.findings));
        }
        same(&log, &grown).map_err(|what| format!("after close: {what}"))?;
        let closed = standing.adopt(&log, &grown).map_err(|what| format!("after close: {what}"))?;
        if !closed.says_as(&standing, &grown) {
            return Err(format!("{closed:?} after a close, not {standing:?}"));
        }
        standing::compare_all_aborted(&log, &grown).map_err(|what| format!("after close: {what}"))?;
        reading::compare_lookups(&log, &grown).map_err(|what| format!("after close: {what}"))
    }

    fn unchanged(&self, image: &SimFs, wanted: &ModelLog, standing: &Standing) -> Result<(), String> {
        let log = self.open(image)?;
        same(&log, wanted)?;
        standing.adopt(&log, wanted).map(drop)
    }

    fn append_durably(&self, log: &PartitionLog, found: &ModelLog) -> Result<ModelLog, String> {
        use alluvium::clock::Clock;
        let mut grown = found.clone();
        for round in 0..2_u64 {
            let record = RecordPlan { id: u64::MAX - round, value_bytes: 40, shift_ms: Some(0) };
            let plan = BatchPlan { records: vec![record.clone(), record], is_compressed: false };
            let now = self.clock.wall().value();
            let appended = log.append(plan.build(now), AppendAs::Client { epoch: epoch(LAST_EPOCH) });
            let appended = appended.map_err(|e| format!("append after recovery: {e}"))?;
            let stored = plan.stored(now, grown.end, LAST_EPOCH);
            let is_stamped = self.config.message_timestamp_type == TimestampType::LogAppendTime;
            grown.append(if is_stamped { stored.stamped(now) } else { stored });
            appended.wait_durable(Deadline::NEVER).map_err(|e| format!("wait after recovery: {e}"))?;
        }
        same(log, &grown).map_err(|what| format!("after appending: {what}"))?;
        Ok(grown)
    }
}

fn judged(log: &PartitionLog, history: &History, ending: Ending) -> Result<ModelLog, String> {
    let found = reading::contents(log)?;
    history.judge(&found, ending)?;
    Ok(found)
}

fn same(log: &PartitionLog, wanted: &ModelLog) -> Result<(), String> {
    let found = reading::contents(log)?;
    if found == *wanted {
        return Ok(());
    }
    let shape = |model: &ModelLog| {
        let batches: Vec<_> = model.batches.iter().map(|batch| batch.base..batch.next).collect();
        format!("{}..{} of {batches:?}", model.start, model.end)
    };
    Err(format!("log is {}, not {}", shape(&found), shape(wanted)))
}

/// Names and bytes of the `.log` files.
pub(crate) fn log_files(image: &SimFs) -> BTreeMap<String, Vec<u8>> {
    files(image).into_iter().filter(|(name, _)| Path::new(name).extension().is_some_and(|e| e == "log")).collect()
}

/// Names and bytes of all files of the partition.
pub(crate) fn files(image: &SimFs) -> BTreeMap<String, Vec<u8>> {
    let entries = image.list(Path::new(DIR)).unwrap_or_default();
    let bytes = |name: &str| image.live_bytes(&Path::new(DIR).join(name));
    entries.into_iter().filter_map(|entry| bytes(&entry.name).map(|bytes| (entry.name, bytes))).collect()
}

/// Compares the index files of a closed log with what its bytes give.
pub(crate) fn check_indexes(image: &SimFs, config: &LogConfig) -> Result<(), String> {
    let files = files(image);
    for (name, log) in &files {
        let Some(base) = name.strip_suffix(".log").filter(|base| base.len() == 20) else { continue };
        let expected = indexes::expected(log, base.parse().unwrap(), config.index_interval_bytes.into());
        let (offsets, times) = expected.map_err(|what| format!("{name}: {what}"))?;
        for (kind, wanted) in [("index", offsets), ("timeindex", times)] {
            let found = files.get(&format!("{base}.{kind}"));
            if found != Some(&wanted) {
                return Err(format!("{base}.{kind} holds {found:?}, the log gives {wanted:?}"));
            }
        }
    }
    Ok(())
}
