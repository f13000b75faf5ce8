//! `verify`: exit 0 when sound, 1 on damage, 2 when it could not run; and what it says.

use std::fs;
use std::path::Path;
use std::time::Duration;

use alluvium::inspect::{FindingKind, IndexProblem, PartitionFiles, Report, VerifyOptions};
use alluvium::record::{BatchBuilder, Compression};
use alluvium::{AppendAs, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};

use super::{kafka_copy, path, run, stdout, text};

fn verify(dir: &Path) -> Report {
    PartitionFiles::open(dir).unwrap().verify(&VerifyOptions::default()).unwrap()
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

fn files_of(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn what_kafka_wrote_is_sound_and_stays_untouched() {
    let names = ["plain-0", "codecs-0", "txn-0", "epochs-0", "compact-before-0", "torn-body-0", "torn-zeros-0"];
    for name in names.into_iter().chain(["logdir/orders-0", "logdir/orders-1", "logdir/users-0"]) {
        let copy = kafka_copy(name);
        let before = files_of(copy.path());
        let said = stdout(&run(["verify", path(copy.path())]));
        assert!(said.lines().last().unwrap().starts_with("sound: "), "{name}: {said}");
        assert_eq!(files_of(copy.path()), before, "{name}");
    }
}

#[test]
fn every_flipped_byte_of_a_sealed_log_is_damage() {
    let copy = kafka_copy("plain-0");
    let file = copy.path().join("00000000000000000026.log");
    let good = fs::read(&file).unwrap();
    let sizes = alluvium::record::batches(&good, u32::MAX).map(|batch| batch.unwrap().bytes().len());
    let starts: Vec<usize> = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
    for at in (0..good.len()).step_by(13) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        fs::write(&file, &bytes).unwrap();
        let start = starts[starts.partition_point(|start| *start <= at) - 1];
        // The leader epoch alone lies under no checksum and no rule.
        let is_epoch = (12..16).contains(&(at - start));
        assert!(is_epoch || !verify(copy.path()).is_sound(), "the flip at byte {at} of {start} went unseen");
    }
    fs::write(&file, &good).unwrap();
    change(&file, |bytes| bytes[100] ^= 1);
    let output = run(["verify", path(copy.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("00000000000000000026.log:0 offset 26: "), "{said}");
    let output = run(["verify", "--json", path(copy.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let first: serde_json::Value = serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
    assert_eq!(first["severity"], "damage");
    assert_eq!(first["offset"], 26);
}

/// A log of ours with several segments, closed.
fn our_log(dir: &Path) {
    let config = LogConfig { segment_bytes: 9_000, index_interval_bytes: 1000, ..LogConfig::default() };
    let log = PartitionLog::open(dir, config).unwrap();
    let mut builder = BatchBuilder::new();
    for n in 0..200_i64 {
        builder.compression(Compression::ALL[usize::try_from(n).unwrap() % 5]);
        for _ in 0..5 {
            let value = format!("value {n} and some more text to make it longer than nothing at all {n}");
            builder.record(TimestampMs::new(1_700_000_000_000 + n), Some(b"key"), Some(value.as_bytes()));
        }
        let epoch = LeaderEpoch::new(3).unwrap();
        log.append(builder.build().unwrap(), AppendAs::Client { epoch }).unwrap();
    }
    log.close().unwrap();
}

#[test]
fn a_log_of_ours_is_sound_open_closed_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    our_log(dir.path());
    let report = verify(dir.path());
    assert!(report.is_sound() && report.notes.is_empty() && report.was_clean, "{report:#?}");
    assert_eq!(report.records, 1000);
    let exact = VerifyOptions { index_interval_bytes: Some(1000), ..VerifyOptions::default() };
    let report = PartitionFiles::open(dir.path()).unwrap().verify(&exact).unwrap();
    assert!(report.is_sound(), "{report:#?}");
    let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
    let batch = BatchBuilder::new().record(log.clock().wall(), None, Some(b"v")).build().unwrap();
    let appended = log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(3).unwrap() }).unwrap();
    appended.wait_durable(Duration::from_secs(20)).unwrap();
    let report = verify(dir.path());
    assert!(report.is_sound(), "{report:#?}");
    assert!(report.notes.iter().any(|note| note.kind == FindingKind::InUse), "{report:#?}");
    drop((log, appended));
    let report = verify(dir.path());
    assert!(report.is_sound() && !report.was_clean, "{report:#?}");
    assert!(report.notes.iter().any(|note| matches!(note.kind, FindingKind::ZeroTail { .. })), "{report:#?}");
}

/// The kinds of problems after `harm` was done to a log of ours.
fn problems_after(harm: impl FnOnce(&Path, &[String])) -> Vec<FindingKind> {
    let dir = tempfile::tempdir().unwrap();
    our_log(dir.path());
    let names = files_of(dir.path()).into_iter().map(|(name, _)| name.into_string().unwrap());
    let logs: Vec<String> = names.filter_map(|name| name.strip_suffix(".log").map(str::to_owned)).collect();
    assert!(logs.len() > 3);
    harm(dir.path(), &logs);
    verify(dir.path()).problems.into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn losses_and_gaps_are_named() {
    let found = problems_after(|dir, logs| fs::remove_file(dir.join(format!("{}.log", logs[1]))).unwrap());
    assert!(matches!(found[..], [FindingKind::Missing(_)]), "{found:?}");
    let found = problems_after(|dir, logs| {
        change(&dir.join(format!("{}.log", logs[logs.len() - 1])), |bytes| bytes.truncate(bytes.len() - 10));
    });
    assert!(found.iter().any(|kind| matches!(kind, FindingKind::BadBatch { .. })), "{found:?}");
    let found = problems_after(|dir, logs| {
        change(&dir.join(format!("{}.log", logs[logs.len() - 1])), Vec::clear);
    });
    assert!(matches!(found[..], [FindingKind::EndsBelowRecoveryPoint(_)]), "{found:?}");
    let found = problems_after(|dir, logs| {
        change(&dir.join(format!("{}.log", logs[1])), |bytes| bytes.fill(0));
    });
    assert!(matches!(found[..], [FindingKind::Missing(_)]), "{found:?}");
    let found = problems_after(|dir, logs| {
        change(&dir.join(format!("{}.log", logs[1])), |bytes| bytes.extend_from_slice(b"garbage"));
    });
    assert!(matches!(found[..], [FindingKind::BadBatch { .. }]), "{found:?}");
    let found = problems_after(|dir, _| {
        change(&dir.join("alluvium.recovery-point"), |bytes| bytes[20] ^= 1);
    });
    assert!(found.iter().any(|kind| matches!(kind, FindingKind::StateFile(_))), "{found:?}");
}

#[test]
fn a_torn_tail_past_the_recovery_point_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    our_log(dir.path());
    let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
    let batch = BatchBuilder::new().record(log.clock().wall(), None, Some(b"value")).build().unwrap();
    log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(3).unwrap() }).unwrap();
    let file = log.segment_files().pop().unwrap();
    drop(log);
    change(&file, |bytes| bytes.truncate(bytes.len() - 1));
    let report = verify(dir.path());
    assert!(report.is_sound(), "{report:#?}");
    assert!(report.notes.iter().any(|note| matches!(note.kind, FindingKind::TornTail { .. })), "{report:#?}");
    assert_eq!(report.log_end.value(), 1000);
}

#[test]
fn a_wrong_record_under_a_right_checksum_is_damage() {
    let found = problems_after(|dir, logs| {
        change(&dir.join(format!("{}.log", logs[0])), |bytes| {
            let size = 12 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
            // The length of the first record, which is not compressed.
            bytes[61] = 0x7e;
            let crc = alluvium::record::crc32c(&bytes[21..size]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        });
    });
    assert!(matches!(found[..], [FindingKind::BadRecords(_)]), "{found:?}");
}

fn index_problem(harm: impl FnOnce(&mut Vec<u8>)) -> Vec<IndexProblem> {
    let found = problems_after(|dir, logs| change(&dir.join(format!("{}.index", logs[1])), harm));
    let problem = |kind| match kind {
        FindingKind::OffsetIndex(problem) => problem,
        other => panic!("{other:?}"),
    };
    found.into_iter().map(problem).collect()
}

#[test]
fn a_wrong_offset_index_is_named() {
    assert!(index_problem(|_| ()).is_empty());
    assert!(matches!(index_problem(|bytes| bytes.truncate(bytes.len() - 3))[..], [IndexProblem::Length { .. }]));
    assert!(matches!(index_problem(|bytes| bytes.truncate(bytes.len() - 8))[..], [IndexProblem::OffsetsShort { .. }]));
    assert!(matches!(index_problem(Vec::clear)[..], [IndexProblem::OffsetsShort { .. }]));
    assert!(matches!(index_problem(|bytes| bytes.fill(0))[..], [_]));
    assert!(matches!(index_problem(|bytes| bytes.resize(10 << 20, 0))[..], [IndexProblem::TooLong { .. }]));
    assert!(matches!(index_problem(|bytes| bytes[7] ^= 1)[..], [IndexProblem::NoBatch { entry: 0, .. }]));
    assert!(matches!(index_problem(|bytes| bytes[3] ^= 1)[..], [IndexProblem::WrongOffset { entry: 0, .. }]));
    assert!(matches!(index_problem(|bytes| bytes[0] = 0x80)[..], [IndexProblem::Outside { entry: 0 }]));
    let found = index_problem(|bytes| bytes.extend_from_slice(&[0x7f, 0, 0, 0, 0x7f, 0, 0, 0]));
    assert!(matches!(found[..], [IndexProblem::Outside { .. }]), "{found:?}");
}

#[test]
fn a_wrong_time_index_is_named() {
    let problem = |harm: &dyn Fn(&mut Vec<u8>)| {
        let found = problems_after(|dir, logs| change(&dir.join(format!("{}.timeindex", logs[1])), harm));
        match found[..] {
            [FindingKind::TimeIndex(problem)] => problem,
            _ => panic!("{found:?}"),
        }
    };
    let found = problem(&|bytes| bytes.truncate(bytes.len() - 12));
    assert!(matches!(found, IndexProblem::TimesShort { .. }), "{found:?}");
    let found = problem(&|bytes| bytes[7] ^= 1);
    assert!(matches!(found, IndexProblem::WrongTimestamp { entry: 0, .. }), "{found:?}");
    let found = problem(&|bytes| bytes[11] ^= 1);
    assert!(matches!(found, IndexProblem::WrongOffset { entry: 0, .. }), "{found:?}");
    let found = problems_after(|dir, logs| fs::remove_file(dir.join(format!("{}.timeindex", logs[1]))).unwrap());
    assert!(matches!(found[..], [FindingKind::TimeIndex(IndexProblem::Missing)]), "{found:?}");
}

#[test]
fn hostile_bytes_are_judged_without_a_panic() {
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..25 {
        let dir = tempfile::tempdir().unwrap();
        our_log(dir.path());
        for (name, _) in files_of(dir.path()) {
            change(&dir.path().join(&name), |bytes| {
                for _ in 0..rng.usize(0..8) {
                    let at = rng.usize(0..bytes.len().max(1));
                    match rng.u8(0..3) {
                        _ if bytes.is_empty() => {}
                        0 => bytes[at] = rng.u8(..),
                        1 => bytes.truncate(at),
                        _ => bytes[at..].fill(0xff),
                    }
                }
            });
        }
        // Whatever it says, it says something; and so do the others.
        for args in [&["verify"][..], &["dump", "--batches", "--records", "--indexes"], &["cat", "--json"]] {
            let output = run(args.iter().copied().chain([path(dir.path())]));
            assert!(matches!(output.status.code(), Some(0 | 1)), "round {round}, {args:?}: {output:?}");
        }
    }
}
