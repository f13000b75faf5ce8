//! What a crash left is held to what was promised.

use std::collections::BTreeMap;
use std::path::Path;

use alluvium::BatchView;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{SimFs, Survival};
use alluvium::log::Found as Finding;
use alluvium::store::{CheckpointKind, Entry, OffsetCheckpoint, Store, is_clean_shutdown, list};

use super::machine::{Machine, dirs, named, values};
use super::model::{Ending, Found, Model, Phase};

/// Everything that a store serves.
pub(crate) fn inventory(store: &Store) -> Result<BTreeMap<String, Found>, String> {
    let mut found = BTreeMap::new();
    for name in store.partitions() {
        let partition = store.get(&name).unwrap();
        let told = |what: String| format!("{name}: {what}");
        let (start, values) = values(&partition).map_err(told)?;
        let log = partition.log().map_err(|error| told(error.to_string()))?;
        let marks = log.marks();
        let rises = [marks.log_start, marks.last_stable, marks.high_watermark, marks.log_end];
        if !rises.is_sorted() || marks.durable_end > marks.log_end {
            return Err(told(format!("{marks:?}")));
        }
        let (token, is_sealed) = (log.fencing_token(), log.is_sealed());
        let dir = partition.dir().parent().unwrap().display().to_string();
        found.insert(name.to_string(), Found { start, values, topic_id: partition.topic_id(), token, is_sealed, dir });
    }
    Ok(found)
}

/// What is wrong with the machine, if anything, after an ending. What was found otherwise.
pub(crate) fn accept(machine: &Machine, model: &Model, ending: Ending) -> Result<BTreeMap<String, Found>, String> {
    lists_are_true(&machine.fs, model)?;
    let store = machine.open().map_err(|error| format!("it does not open: {error}"))?;
    verify_report(&store)?;
    let found = inventory(&store)?;
    model.judge(&found, ending)?;
    for (name, found) in &found {
        let end = store.get(&named(name)).unwrap().marks().map_err(|error| error.to_string())?;
        if end.durable_end != end.log_end {
            return Err(format!("{name} is served and not durable: {end:?} of {found:?}"));
        }
    }
    one_copy_each(&machine.fs, &found)?;
    Ok(found)
}

/// The same, and that a second opening finds what the first one found, after a power loss too.
pub(crate) fn accept_twice(
    machine: &Machine,
    model: &Model,
    ending: Ending,
) -> Result<BTreeMap<String, Found>, String> {
    let found = accept(machine, model, ending)?;
    for (name, next) in [("again", machine.killed()), ("powerless", machine.powerless(Survival::Nothing))] {
        let again = accept(&next, model, ending).map_err(|what| format!("{name}: {what}"))?;
        if again != found {
            return Err(format!("{name}: {again:?} after {found:?}"));
        }
    }
    Ok(found)
}

fn verify_report(store: &Store) -> Result<(), String> {
    for line in &store.report().directories {
        if line.offline.is_some() || !line.duplicates.is_empty() || !line.faults.is_empty() || line.was_elsewhere {
            return Err(format!("{line:?}"));
        }
        if !line.unknown_entries.is_empty() {
            return Err(format!("{:?} is unknown", line.unknown_entries));
        }
    }
    if let Some((name, why)) = store.report().failed().next() {
        return Err(format!("{name} cannot be opened: {why}"));
    }
    for (name, report) in store.report().recovered() {
        let is_loss = |found: &Finding| {
            matches!(
                found,
                Finding::EndsBelowRecoveryPoint { .. }
                    | Finding::Damage(_)
                    | Finding::KnownDamage(_)
                    | Finding::StateObsolete
            )
        };
        if let Some(line) = report.findings.iter().find(|line| is_loss(&line.found)) {
            return Err(format!("{name}: {line:?}"));
        }
    }
    Ok(())
}

/// Each partition lies in one data directory under its own name, in that which serves it.
fn one_copy_each(fs: &SimFs, found: &BTreeMap<String, Found>) -> Result<(), String> {
    for dir in dirs() {
        for listed in list(fs, &dir).unwrap() {
            if let Entry::Partition(name) = &listed.entry
                && found.get(&name.to_string()).is_none_or(|found| Path::new(&found.dir) != dir)
            {
                return Err(format!("{} has {name}, too", dir.display()));
            }
        }
    }
    Ok(())
}

/// What Kafka would go by: no recovery point past what is durable, nothing of partitions that are gone, and a marker of a
/// clean shutdown only where everything was closed.
fn lists_are_true(fs: &SimFs, model: &Model) -> Result<(), String> {
    let durable = fs.power_loss_keeping(Survival::Nothing);
    for (fs, is_durable) in [(fs, false), (&durable, true)] {
        for dir in dirs().iter().filter(|dir| fs.metadata(dir).is_ok()) {
            list_is_true(fs, dir, model, is_durable)?;
        }
    }
    Ok(())
}

fn list_is_true(fs: &SimFs, dir: &Path, model: &Model, is_durable: bool) -> Result<(), String> {
    let is_clean = is_clean_shutdown(fs, dir).unwrap();
    if is_clean && model.phase == Phase::Serving {
        return Err(format!("{} is marked as clean while it is served", dir.display()));
    }
    for kind in CheckpointKind::ALL {
        let list = OffsetCheckpoint::read(fs, dir, kind).unwrap();
        if let Some(fault) = list.fault() {
            return Err(format!("{fault:?}"));
        }
        for (name, offset) in list.offsets() {
            let is_there = fs.metadata(&dir.join(name.dir_name())).is_ok();
            if !is_there
                && model.deleted.contains(&name.to_string())
                && !model.partitions.contains_key(&name.to_string())
            {
                return Err(format!("{} goes on about {name} ({kind:?})", dir.display()));
            }
            let end = log_end(fs, &dir.join(name.dir_name()));
            // Of a kill it is what is durable that counts.
            if kind == CheckpointKind::RecoveryPoint
                && is_durable
                && is_there
                && end.is_none_or(|end| offset.value() > end)
            {
                return Err(format!("{}: {name} is said to be durable to {offset}, it ends at {end:?}", dir.display()));
            }
            if kind == CheckpointKind::RecoveryPoint && is_clean && is_there && end != Some(offset.value()) {
                return Err(format!("{}: {name} was closed at {offset}, it ends at {end:?}", dir.display()));
            }
        }
    }
    Ok(())
}

/// Where the log in a directory ends, by its files alone; `None` where it has none.
pub(crate) fn log_end(fs: &SimFs, dir: &Path) -> Option<i64> {
    let entries = fs.list(dir).ok()?;
    // An opening that doubts a sync gives each log another name for a moment.
    let base_of = |name: &str| {
        let name = name.strip_prefix("alluvium.touched.").unwrap_or(name);
        name.strip_suffix(".log").unwrap_or(name).parse::<i64>().ok()
    };
    let newest = entries.iter().filter(|entry| entry.name.contains(".log") || entry.name.contains("touched"));
    let (mut end, name) = newest.filter_map(|entry| Some((base_of(&entry.name)?, &entry.name))).max()?;
    let bytes = fs.live_bytes(&dir.join(name))?;
    let mut rest = bytes.as_slice();
    while let Ok(batch) = BatchView::parse(rest, i32::MAX as u32) {
        let header = batch.header();
        if header.base_offset.value() < end || batch.verify_crc().is_err() {
            break;
        }
        end = header.next_offset().value();
        rest = &rest[batch.bytes().len()..];
    }
    Some(end)
}
