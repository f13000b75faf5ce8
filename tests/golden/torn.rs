//! Directories whose last segment was cut or filled with zeros after Kafka closed them, as a crash would.

use alluvium::error::InvalidBatch;
use alluvium::log::{Action, Finding, Found};
use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, LeaderEpoch, Offset, PartitionLog, TimestampMs};

use crate::fixtures::{Fixture, contents_for_kafka, fixture, is_kind, offset, read_batches};

/// Position and offset after the last batch of the manifest.
fn whole(fixture: &Fixture) -> (u64, Offset) {
    let (_, last) = fixture.batches().last().unwrap();
    (last["position"].as_u64().unwrap() + last["size"].as_u64().unwrap(), offset(&last["lastOffset"]).next().unwrap())
}

fn tail_finding(log: &PartitionLog) -> Finding {
    let findings = &log.recovery_report().findings;
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!(findings[0].found, Found::RecoveryPointAbsent);
    findings[1].clone()
}

/// The tail is gone, the rest is byte for byte as it was, and the log goes on where the whole batches end.
fn check_cut(fixture: &Fixture, bytes: u64, is_expected: impl Fn(&Found) -> bool) {
    let (position, end) = whole(fixture);
    let (_temp, dir) = fixture.copy();
    let log = PartitionLog::open(&dir, fixture.config()).unwrap();
    let finding = tail_finding(&log);
    assert!(is_expected(&finding.found), "{finding:?}");
    assert_eq!(finding.action, Action::Cut);
    assert_eq!((finding.file.as_str(), finding.position), ("00000000000000000133.log", position));
    assert_eq!((finding.offset, log.log_end()), (Some(end), end));
    assert_eq!(log.recovery_report().cut_bytes, bytes);
    let batches = read_batches(&log, 1 << 20);
    assert_eq!(batches.len(), fixture.batches().count());

    let mut builder = BatchBuilder::new();
    builder.record(TimestampMs::new(1_700_000_200_000), None, Some(b"after the tear"));
    let origin = AppendAs::Coordinator { epoch: LeaderEpoch::new(1).unwrap() };
    assert_eq!(log.append(builder.build().unwrap(), origin).unwrap().base_offset(), end);
    assert_eq!(read_batches(&log, 1 << 20).len(), batches.len() + 1);
    log.truncate_to(end).unwrap();
    log.close().unwrap();

    let before = contents_for_kafka(&fixture.dir);
    for (name, bytes) in contents_for_kafka(&dir) {
        if name == "00000000000000000133.log" {
            assert_eq!(bytes, before[&name][..usize::try_from(position).unwrap()]);
        } else if is_kind(&name, "log") {
            assert_eq!(bytes, before[&name], "{name}");
        }
    }
    let log = PartitionLog::open(&dir, fixture.config()).unwrap();
    assert!(log.recovery_report().was_clean);
    assert_eq!(read_batches(&log, 1 << 20), batches);
}

#[test]
fn a_batch_cut_short_is_cut_off() {
    let fixture = fixture("torn-body-0");
    let bytes = 61 + 7;
    check_cut(&fixture, bytes, |found| match found {
        Found::TornTail { bytes: found, cause } => {
            let is_short = matches!(
                cause,
                alluvium::error::CorruptionKind::Batch(InvalidBatch::Short { have, .. }) if *have == bytes
            );
            is_short && *found == bytes
        }
        _ => false,
    });
}

#[test]
fn zeros_behind_the_last_batch_are_cut_off() {
    let fixture = fixture("torn-zeros-0");
    check_cut(&fixture, 4096, |found| *found == Found::ZeroTail { bytes: 4096 });
}

/// A recovery that cut the log to 145 kept Kafka's snapshot of the producers at 150. Once the log had grown past 150
/// again, with other records, that snapshot would have been taken for the state of producers at that offset.
#[test]
fn a_producer_snapshot_past_a_cut_goes_with_what_was_cut() {
    for (name, is_kept) in [("torn-body-0", false), ("torn-zeros-0", true)] {
        let fixture = fixture(name);
        let (_temp, dir) = fixture.copy();
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        assert_eq!(log.log_end() == Offset::new(150).unwrap(), is_kept);
        drop(log);
        let files = contents_for_kafka(&dir);
        assert_eq!(files.contains_key("00000000000000000150.snapshot"), is_kept, "{name}");
        assert!(files.contains_key("00000000000000000133.snapshot"), "{name}");
    }
}
