//! Opening what another process left: each row of the decision table by its label, damage of every kind on both sides of
//! the recovery point, indexes that lie, and every bit flip of a small log.

mod damage;
mod flips;
mod indexes;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use alluvium::log::Found;
use alluvium::{LogConfig, PartitionLog};

use crate::support::{Contents, Machine, NOW, assert_unchanged, batch_at, client, contents_around_damage, small};

/// Appends records `from..to`, one a batch, each batch of [`BATCH_BYTES`].
fn fill(log: &PartitionLog, from: i64, to: i64) {
    for n in from..to {
        let appended = log.append(batch_at(NOW + n, &[&value(n)]), client()).unwrap();
        assert_eq!(appended.base_offset().value(), n);
    }
}

const BATCH_BYTES: u64 = 100;
/// With [`small`]: segments at 0, 6 and 12.
const RECORDS: i64 = 16;

fn value(n: i64) -> String {
    format!("value of record number {n:08}")
}

fn records(offsets: std::ops::Range<i64>) -> Contents {
    offsets.map(|n| (n, NOW + n, value(n))).collect()
}

/// A log of [`RECORDS`] records, made durable up to `durable`, whose process died.
fn killed(durable: i64) -> Machine {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, durable);
    log.flush().unwrap();
    fill(&log, durable, RECORDS);
    assert_eq!(machine.fs.live_bytes(&Machine::log_path(0)).unwrap().len() as u64, 6 * BATCH_BYTES);
    machine.kill()
}

/// The same log, closed.
fn closed() -> Machine {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, RECORDS);
    log.close().unwrap();
    machine
}

/// The directory without the two files whose generation rises with each opening.
fn settled_files(machine: &Machine) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut files = machine.snapshot();
    files.retain(|path, _| !path.ends_with("alluvium.recovery-point") && !path.ends_with("alluvium.sync-state"));
    files
}

/// Once judged, a directory is judged the same again, with nothing more to do.
fn assert_settled(machine: &Machine, config: &LogConfig) {
    let log = machine.open(config.clone());
    let (held, marks) = (contents_around_damage(&log), log.marks());
    drop(log);
    let machine = machine.kill();
    let files = settled_files(&machine);
    let log = machine.open(config.clone());
    assert_eq!((contents_around_damage(&log), log.marks()), (held, marks));
    for finding in &log.recovery_report().findings {
        let is_old = matches!(finding.found, Found::KnownDamage(_) | Found::Damage(_));
        assert!(is_old, "found again: {finding:?}");
    }
    drop(log);
    assert_unchanged(&files, &settled_files(&machine), "the second opening");
}

/// The one segment file set aside.
fn set_aside(machine: &Machine) -> Vec<String> {
    machine.names().into_iter().filter(|name| name.starts_with("alluvium.aside.")).collect()
}

fn patch(machine: &Machine, path: &Path, at: u64, bytes: &[u8]) {
    use alluvium::fs::{FileSystem, OpenMode, write_all_at};
    let file = machine.fs.open(path, OpenMode::ReadWrite).unwrap();
    assert!(at + bytes.len() as u64 <= file.size().unwrap());
    write_all_at(&*file, bytes, at).unwrap();
    file.sync_all().unwrap();
}
