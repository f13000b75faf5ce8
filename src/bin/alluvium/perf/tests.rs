//! The parts that the benchmark shares are tested here: it has no harness to run tests with.

use alluvium::PartitionLog;
use alluvium::fs::{FileSystem as _, OpenMode, OsFileSystem, write_all_at};
use alluvium::table::{CompactedTable, TableOptions};

use super::raw::RawWork;
use super::shape::{Shape, client, remove};

#[test]
fn raw_work_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let log = OsFileSystem.open(&file, OpenMode::CreateNew).unwrap();
    write_all_at(&*log, &vec![7; 3_000_000], 0).unwrap();
    let work = RawWork { files: vec![file], spill_bytes: 2_500_000, survivor_bytes: 1_200_000, segment_bytes: 500_000 };
    assert!(!work.run(dir.path()).unwrap().wall.is_zero());
    assert_eq!(OsFileSystem.list(dir.path()).unwrap().len(), 1);
}

#[test]
fn a_copy_of_a_filled_log_holds_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { records: 5000, record_bytes: 100, keys: 700, memory_bytes: 1 << 20, segment_bytes: 1 << 17 };
    let filled = shape.fill(&dir.path().join("filled")).unwrap();
    assert!(filled.files.len() > 3 && filled.bytes > 5000 * 116, "{filled:?}");
    let copy = dir.path().join("copy");
    filled.copy_to(&copy).unwrap();
    let log = PartitionLog::open(&copy, shape.config()).unwrap();
    assert!(log.recovery_report().was_clean);
    assert_eq!(log.log_end().value(), 5000);
    let table = CompactedTable::open(log.clone(), TableOptions::new(client())).unwrap();
    assert!((650..=700).contains(&table.len()), "{}", table.len());
    drop((table, log));
    remove(&copy).unwrap();
    remove(&filled.dir).unwrap();
}
