//! Opening a log that was not closed, against a scan of its file by hand: one thread, 1 MiB at a time into one buffer,
//! and a checksum. The bytes are in the page cache and written back.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "the baseline is the file system itself")]

#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod paired;
#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod raw;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alluvium::{AppendAs, LeaderEpoch, LogConfig, PartitionLog};

use paired::{Contest, Settings, Unit, ours};
use raw::Sent;

/// Writes a log of about `bytes`, makes it durable and leaves it without closing it; returns its one file.
fn unclean(dir: &Path, bytes: u64, value_bytes: usize, sent: Sent) -> PathBuf {
    let log = PartitionLog::open(dir, LogConfig::default()).unwrap();
    let records = raw::records_in(16 << 10, value_bytes);
    let mut batches = raw::batches(64, records, value_bytes);
    let (mut written, mut sequence) = (0, 0);
    while written < bytes {
        for batch in &mut batches {
            sequence = raw::send_as(batch, sent, sequence);
            log.append(&mut batch[..], AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
            written += batch.len() as u64;
        }
    }
    log.flush().unwrap();
    log.segment_files().remove(0)
}

fn timed(operations: u64, mut operation: impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..operations {
        operation();
    }
    started.elapsed()
}

fn main() {
    let settings = Settings::from_environment();
    let dir = paired::scratch("recover");
    let wanted = settings.scaled(768 << 20);
    let mut contests = Vec::new();
    let cases = [
        ("1KiB records", 1024, Sent::Plain),
        ("100B records", 100, Sent::Plain),
        ("1KiB records, each from a producer", 1024, Sent::Idempotent),
    ];
    for (at, (label, value_bytes, sent)) in cases.into_iter().enumerate() {
        let log_dir = dir.join(format!("case-{at}"));
        let file = unclean(&log_dir, wanted, value_bytes, sent);
        let bytes = std::fs::metadata(&file).unwrap().len();
        contests.push(Contest {
            name: format!("{} MiB of 16KiB batches of {label}", bytes >> 20),
            unit: Unit::Bytes(bytes),
            operations: 1,
            contenders: vec![
                paired::raw("raw scan", move |operations| {
                    timed(operations, || {
                        black_box(raw::scan(&file));
                    })
                }),
                ours("alluvium", move |operations| {
                    timed(operations, || {
                        let log = PartitionLog::open(&log_dir, LogConfig::default()).unwrap();
                        assert!(!log.recovery_report().was_clean);
                        assert_eq!(log.recovery_report().scanned_bytes, bytes);
                    })
                }),
            ],
        });
    }
    paired::run("recover", &settings.unscaled(), contests);
    let _ = std::fs::remove_dir_all(&dir);
}
