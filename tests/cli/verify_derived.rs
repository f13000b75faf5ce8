//! `verify` of what lies beside the segments: producer snapshots, aborted transactions, leader epochs.

use std::fs;
use std::path::Path;

use alluvium::index::IndexFault;
use alluvium::inspect::{FindingKind, PartitionFiles, Report, VerifyOptions};
use alluvium::{LogConfig, PartitionLog};

use super::{kafka_copy, path, run, text};

fn verify(dir: &Path) -> Report {
    PartitionFiles::open(dir).unwrap().verify(&VerifyOptions::default()).unwrap()
}

/// Problems and notes after `change` was done to a file of a directory.
fn after(fixture: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (Vec<FindingKind>, Vec<FindingKind>) {
    let copy = kafka_copy(fixture);
    let file = copy.path().join(name);
    let mut bytes = fs::read(&file).unwrap_or_default();
    change(&mut bytes);
    fs::write(&file, bytes).unwrap();
    let report = verify(copy.path());
    let kinds = |found: Vec<alluvium::inspect::Finding>| found.into_iter().map(|finding| finding.kind).collect();
    (kinds(report.problems), kinds(report.notes))
}

fn problem(fixture: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> FindingKind {
    let (mut problems, notes) = after(fixture, name, change);
    assert_eq!(problems.len(), 1, "{problems:?} {notes:?}");
    problems.remove(0)
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Makes a snapshot valid again after a change.
fn sign(bytes: &mut [u8]) {
    let crc = crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
}

#[test]
fn a_flipped_bit_of_a_snapshot_is_damage() {
    for name in ["00000000000000000041.snapshot", "00000000000000000080.snapshot", "00000000000000000112.snapshot"] {
        let found = problem("txn-0", name, |bytes| bytes[50] ^= 1);
        assert!(matches!(found, FindingKind::BadSnapshot(_)), "{found:?}");
    }
}

#[test]
fn a_snapshot_that_says_something_else_than_the_log_is_damage() {
    // Epoch, last sequence, last offset, timestamp of the first entry.
    for byte in [9 + 10, 13 + 10, 21 + 10, 33 + 10] {
        let found = problem("txn-0", "00000000000000000080.snapshot", |bytes| {
            bytes[byte] = bytes[byte].wrapping_add(1);
            sign(bytes);
        });
        assert!(matches!(found, FindingKind::SnapshotDiffers(_)), "{byte}: {found:?}");
    }
    // One that the log knows nothing of.
    let found = problem("plain-0", "00000000000000000053.snapshot", |bytes| {
        bytes[9] = 1;
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0]);
        bytes.extend((-1_i32).to_be_bytes());
        bytes.extend((-1_i64).to_be_bytes());
        bytes.extend(0_i32.to_be_bytes());
        bytes.extend(1_700_000_000_000_i64.to_be_bytes());
        bytes.extend((-1_i32).to_be_bytes());
        bytes.extend((-1_i64).to_be_bytes());
        sign(bytes);
    });
    assert!(matches!(found, FindingKind::SnapshotDiffers(id) if id.value() == 9), "{found:?}");
}

#[test]
fn a_snapshot_without_producers_that_expired_is_right() {
    let (problems, notes) = after("txn-0", "00000000000000000080.snapshot", |bytes| {
        bytes.truncate(10);
        bytes[9] = 0;
        sign(bytes);
    });
    assert!(problems.is_empty() && notes.is_empty(), "{problems:?} {notes:?}");
}

#[test]
fn a_snapshot_past_the_end_is_noted() {
    let (problems, notes) = after("plain-0", "00000000000000000999.snapshot", |bytes| {
        *bytes = vec![0, 1, 0x48, 0x67, 0x4b, 0xc7, 0, 0, 0, 0];
    });
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(notes, [FindingKind::SnapshotPastEnd]);
}

#[test]
fn a_transaction_index_that_says_something_else_than_the_log_is_damage() {
    let name = "00000000000000000041.txnindex";
    let fault = |change: fn(&mut Vec<u8>)| match problem("txn-0", name, change) {
        FindingKind::TxnIndex(fault) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(|bytes| bytes.truncate(67)), IndexFault::Length(67));
    assert_eq!(fault(|bytes| bytes.truncate(34)), IndexFault::Differs);
    assert_eq!(fault(|bytes| bytes[9] ^= 1), IndexFault::Differs);
    assert_eq!(fault(Vec::clear), IndexFault::Differs);
    let copy = kafka_copy("txn-0");
    fs::remove_file(copy.path().join(name)).unwrap();
    let report = verify(copy.path());
    let kinds: Vec<&FindingKind> = report.problems.iter().map(|problem| &problem.kind).collect();
    assert_eq!(kinds, [&FindingKind::TxnIndex(IndexFault::Missing)]);
    let output = run(["verify", path(copy.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("transaction index: missing"), "{said}");
}

#[test]
fn leader_epochs_that_say_something_else_than_the_log_are_damage() {
    let name = "leader-epoch-checkpoint";
    let is = |text: &'static str| problem("epochs-0", name, |bytes| *bytes = text.as_bytes().to_vec());
    let right = "0\n6\n0 0\n1 24\n3 36\n7 60\n8 72\n12 84\n";
    let (problems, notes) = after("epochs-0", name, |bytes| assert_eq!(bytes, right.as_bytes()));
    assert!(problems.is_empty() && notes.is_empty());
    assert!(matches!(is("0\n6\n0 0\n"), FindingKind::BadEpochs(_)));
    let differs = |found: FindingKind| matches!(found, FindingKind::EpochDiffers { .. });
    assert!(differs(is("0\n5\n0 0\n1 24\n3 36\n7 60\n8 72\n")));
    assert!(differs(is("0\n6\n0 0\n1 26\n3 36\n7 60\n8 72\n12 84\n")));
    assert!(differs(is("0\n6\n0 0\n1 24\n4 36\n7 60\n8 72\n12 84\n")));
    assert!(differs(is("0\n0\n")));
    assert!(matches!(is("0\n6\n0 0\n1 23\n3 36\n7 60\n8 72\n12 84\n"), FindingKind::EpochWithoutBatch(_)));
    // The log start has moved, or a leader has written nothing yet.
    for text in ["0\n5\n1 30\n3 36\n7 60\n8 72\n12 84\n", "0\n7\n0 0\n1 24\n3 36\n7 60\n8 72\n12 84\n13 96\n"] {
        let (problems, notes) = after("epochs-0", name, |bytes| *bytes = text.as_bytes().to_vec());
        assert!(problems.is_empty() && notes.is_empty(), "{text}: {problems:?} {notes:?}");
    }
    let copy = kafka_copy("epochs-0");
    fs::remove_file(copy.path().join(name)).unwrap();
    let kinds: Vec<FindingKind> = verify(copy.path()).problems.into_iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [FindingKind::EpochsMissing]);
}

/// What we made of Kafka's directories, open and closed, holds against the log.
#[test]
fn what_we_write_is_sound() {
    for name in ["plain-0", "codecs-0", "txn-0", "epochs-0", "compact-before-0", "torn-body-0", "logdir/orders-1"] {
        let copy = kafka_copy(name);
        let config = LogConfig { segment_bytes: 4096, index_interval_bytes: 512, ..LogConfig::default() };
        let log = PartitionLog::open(copy.path(), config).unwrap();
        let report = verify(copy.path());
        assert!(report.is_sound(), "{name}, open: {report:?}");
        log.close().unwrap();
        let report = verify(copy.path());
        assert!(report.is_sound() && report.was_clean, "{name}, closed: {report:?}");
    }
}
