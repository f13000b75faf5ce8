//! Any bytes, taken for a producer snapshot, once as they are and once with the checksum that they should have: what is read
//! has rising ids and survives a log that opens with it.

use std::path::Path;
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::fs::sim::SimFs;
use alluvium::fs::{FileSystem, OpenMode, write_all_at};
use alluvium::index::producer::{ProducerState, read_snapshot};
use alluvium::record::crc32c;
use alluvium::{Environment, LogConfig};

const DIR: &str = "/data/log-0";
const CRC: std::ops::Range<usize> = 2..6;

pub(crate) fn run(data: &[u8]) {
    check(data);
    let mut signed = data.to_vec();
    if let Some(counted) = data.get(CRC.end..) {
        signed[CRC].copy_from_slice(&crc32c(counted).to_be_bytes());
        check(&signed);
    }
}

fn check(bytes: &[u8]) {
    let Ok(producers) = read_snapshot(bytes) else { return };
    assert!(producers.is_sorted_by(|a, b| a.producer_id < b.producer_id));
    assert_eq!(bytes.len(), 10 + 46 * producers.len());
    assert_eq!(opened_with(bytes), Vec::<ProducerState>::new(), "it is past the end of the log");
}

/// What an empty log knows that finds the snapshot in its directory, and whether it can be closed and opened again.
fn opened_with(bytes: &[u8]) -> Vec<ProducerState> {
    let fs = SimFs::new(1);
    fs.create_dir(Path::new("/data")).expect("an empty disk takes a directory");
    fs.create_dir(Path::new(DIR)).expect("an empty disk takes a directory");
    let path = Path::new(DIR).join("00000000000000000009.snapshot");
    let file = fs.open(&path, OpenMode::CreateNew).expect("an empty disk takes a file");
    write_all_at(&*file, bytes, 0).expect("an empty disk takes bytes");
    let environment = Environment { fs: Arc::new(fs), clock: Arc::new(ManualClock::at(0)) };
    let log = environment.open(DIR, LogConfig::default()).expect("a snapshot is no reason to refuse");
    let known = log.producers();
    log.close().expect("an empty log closes");
    drop(log);
    let again = environment.open(DIR, LogConfig::default()).expect("it was closed");
    assert!(again.recovery_report().was_clean);
    known
}
