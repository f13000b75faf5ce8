//! Each directory opens, every field of it is what Kafka read, and closing leaves Kafka's files as they were.

use alluvium::log::{Action, Finding, Found};
use alluvium::record::{BatchView, Compression, ControlRecord, Record};
use alluvium::{LeaderEpoch, Offset, PartitionLog, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::fixtures::{
    Fixture, all, assert_same_files, assert_sound, at_the_time, base64, contents, contents_for_kafka, offset,
    read_batches, right_files,
};

/// -1 is Kafka's "none".
fn or_none<T: Into<i64>>(value: Option<T>) -> i64 {
    value.map_or(-1, Into::into)
}

fn check_batch(view: &BatchView<'_>, expected: &Value, at: &str) -> usize {
    let header = view.header();
    let is = |field: &str, value: i64| assert_eq!(Some(value), expected[field].as_i64(), "{field} of {at}");
    let flag = |field: &str, value: bool| assert_eq!(Some(value), expected[field].as_bool(), "{field} of {at}");
    is("size", i64::from(header.size));
    is("size", i64::try_from(view.bytes().len()).unwrap());
    is("baseOffset", header.base_offset.value());
    is("lastOffset", header.last_offset().value());
    is("count", i64::from(header.count));
    is("magic", i64::from(view.bytes()[16]));
    is("partitionLeaderEpoch", or_none(header.leader_epoch.map(LeaderEpoch::value)));
    is("crc", i64::from(header.crc));
    flag("crcValid", view.verify_crc().is_ok());
    let codec = match header.attributes.compression() {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        other => panic!("{at}: {other:?}"),
    };
    assert_eq!(Some(codec), expected["compression"].as_str(), "{at}");
    let time = match header.attributes.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    assert_eq!(Some(time), expected["timestampType"].as_str(), "{at}");
    is("maxTimestamp", header.max_timestamp.value());
    let horizon = header.delete_horizon().map(TimestampMs::value);
    assert_eq!(horizon, expected["deleteHorizonMs"].as_i64(), "{at}");
    is("producerId", or_none(header.producer_id.map(ProducerId::value)));
    is("producerEpoch", or_none(header.producer_epoch.map(ProducerEpoch::value)));
    is("baseSequence", or_none(header.base_sequence.map(Sequence::value)));
    is("lastSequence", or_none(header.last_sequence().map(Sequence::value)));
    flag("isTransactional", header.attributes.is_transactional());
    flag("isControl", header.attributes.is_control());
    let records = expected["records"].as_array().unwrap();
    assert_eq!(records.len(), header.count as usize, "{at}");
    let body = view.body(1 << 24).unwrap();
    let mut found = 0;
    for (record, expected_record) in body.records().zip(records) {
        let record = record.unwrap();
        check_record(&record, expected_record, at);
        if header.attributes.is_control() {
            check_control(&record, expected, at);
        }
        found += 1;
    }
    assert_eq!((found, body.records().count()), (records.len(), records.len()), "{at}");
    found
}

fn check_record(record: &Record<'_>, expected: &Value, at: &str) {
    assert_eq!(Some(record.offset.value()), expected["offset"].as_i64(), "{at}");
    assert_eq!(Some(record.timestamp.value()), expected["timestamp"].as_i64(), "{at}");
    let sequence = or_none(record.sequence.map(Sequence::value));
    assert_eq!(Some(sequence), expected["sequence"].as_i64(), "{at}");
    assert_eq!(record.key.map(<[u8]>::to_vec), base64(&expected["key"]), "{at}");
    assert_eq!(record.value.map(<[u8]>::to_vec), base64(&expected["value"]), "{at}");
    let headers: Vec<(String, Option<Vec<u8>>)> =
        record.headers().map(|(key, value)| (key.to_owned(), value.map(<[u8]>::to_vec))).collect();
    let expected = expected["headers"].as_array().unwrap();
    let expected = expected.iter().map(|header| (header["key"].as_str().unwrap().into(), base64(&header["value"])));
    assert_eq!(headers, expected.collect::<Vec<(String, _)>>(), "{at}");
}

fn check_control(record: &Record<'_>, batch: &Value, at: &str) {
    let coordinator_epoch = i32::try_from(batch["coordinatorEpoch"].as_i64().unwrap()).unwrap();
    let right = match batch["controlType"].as_str() {
        Some("COMMIT") => ControlRecord::Commit { coordinator_epoch },
        Some("ABORT") => ControlRecord::Abort { coordinator_epoch },
        other => panic!("{at}: {other:?}"),
    };
    assert_eq!(ControlRecord::parse(record.key, record.value), Ok(right), "{at}");
}

/// The records in the encoding that the manifest's digests are over.
fn digest(batches: &[(String, u64, Vec<u8>)], with_control: bool) -> String {
    let mut hasher = Sha256::new();
    let put = |bytes: Option<&[u8]>, hasher: &mut Sha256| match bytes {
        Some(bytes) => {
            hasher.update(i32::try_from(bytes.len()).unwrap().to_be_bytes());
            hasher.update(bytes);
        }
        None => hasher.update((-1_i32).to_be_bytes()),
    };
    for (_, _, bytes) in batches {
        let view = BatchView::parse(bytes, u32::MAX).unwrap();
        if view.header().attributes.is_control() && !with_control {
            continue;
        }
        for record in view.body(1 << 24).unwrap().records() {
            let record = record.unwrap();
            hasher.update(record.offset.value().to_be_bytes());
            hasher.update(record.timestamp.value().to_be_bytes());
            put(record.key, &mut hasher);
            put(record.value, &mut hasher);
        }
    }
    hasher.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Checks all that the log returns; gives the number of batches and records.
fn check_all(fixture: &Fixture, log: &PartitionLog) -> (usize, usize) {
    let found = read_batches(log, 1 << 20);
    let expected: Vec<(&str, &Value)> = fixture.batches().collect();
    assert_eq!(found.len(), expected.len(), "{}", fixture.name);
    let mut records = 0;
    for ((file, position, bytes), (right_file, right)) in found.iter().zip(expected) {
        let at = format!("{} {file} at {position}", fixture.name);
        assert_eq!((file.as_str(), Some(*position)), (right_file, right["position"].as_u64()), "{at}");
        records += check_batch(&BatchView::parse(bytes, u32::MAX).unwrap(), right, &at);
    }
    assert_eq!(fixture.manifest["sha256AllRecords"].as_str().unwrap(), digest(&found, true), "{}", fixture.name);
    assert_eq!(fixture.manifest["sha256DataRecords"].as_str().unwrap(), digest(&found, false), "{}", fixture.name);
    for max_bytes in [0, 1, 61, 500, 700, 4096, 5000] {
        assert_eq!(read_batches(log, max_bytes), found, "{} in pieces of {max_bytes}", fixture.name);
    }
    (found.len(), records)
}

/// What is out of the ordinary in a directory that Kafka closed: our recovery point is missing, and an index that Kafka
/// wrote from larger groups of batches than one (see `indexes`).
pub(crate) fn expected_findings(fixture: &Fixture) -> Vec<(Found, Action, String)> {
    let mut findings = vec![(Found::RecoveryPointAbsent, Action::ScanAll, String::new())];
    if fixture.name == "logdir/users-0" {
        let found = Found::BadIndex(alluvium::index::IndexFault::Differs);
        findings.push((found, Action::Rebuild, "00000000000000000012.index".to_owned()));
    }
    findings
}

pub(crate) fn brief(findings: &[Finding]) -> Vec<(Found, Action, String)> {
    findings.iter().map(|f| (f.found.clone(), f.action, f.file.clone())).collect()
}

#[test]
fn every_field_of_every_batch_and_record_is_what_kafka_read() {
    let (mut batches, mut records, mut segments) = (0, 0, 0);
    for fixture in all() {
        let (_temp, dir) = fixture.copy();
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        let (some_batches, some_records) = check_all(&fixture, &log);
        batches += some_batches;
        records += some_records;
        segments += log.segment_files().len();
        log.close().unwrap();
        // What a clean open serves is the same.
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        assert!(log.recovery_report().was_clean, "{} {:?}", fixture.name, log.recovery_report());
        assert_eq!(check_all(&fixture, &log), (some_batches, some_records));
        log.close().unwrap();
        let verified = assert_sound(&dir, Some(512));
        assert_eq!(verified, (some_batches as u64, some_records as u64), "{}", fixture.name);
        if !fixture.name.starts_with("torn") {
            assert_eq!(assert_sound(&fixture.dir, None), verified, "as Kafka left it: {}", fixture.name);
        }
    }
    // Nothing was skipped: these are the numbers in the fixtures.
    let all_of = |count: fn(&Fixture) -> usize| all().map(|fixture| count(&fixture)).sum::<usize>();
    assert_eq!(segments, all_of(|fixture| fixture.segments().len()));
    assert_eq!(batches, all_of(|fixture| fixture.batches().count()));
    assert_eq!(records, all_of(|fixture| fixture.records().count()));
    assert_eq!((segments, batches, records), (SEGMENTS, BATCHES, RECORDS));
}

const SEGMENTS: usize = 40;
const BATCHES: usize = 498;
const RECORDS: usize = 1151;

#[test]
fn marks_are_where_kafka_left_them() {
    for fixture in all() {
        let (_temp, dir) = fixture.copy();
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        let end = fixture.batches().last().map(|(_, batch)| offset(&batch["lastOffset"]).next().unwrap()).unwrap();
        assert_eq!(log.log_start(), Offset::ZERO, "{}", fixture.name);
        assert_eq!((log.log_end(), log.durable_end(), log.recovery_point()), (end, end, end), "{}", fixture.name);
        let report = log.recovery_report();
        let bytes: u64 = fixture.segments().iter().map(|segment| segment["bytes"].as_u64().unwrap()).sum();
        assert_eq!((report.scanned_bytes, report.segments), (bytes, fixture.segments().len()), "{}", fixture.name);
        assert_eq!(report.scanned_batches, fixture.batches().count() as u64);
        if !fixture.name.starts_with("torn") {
            assert_eq!(brief(&report.findings), expected_findings(&fixture), "{}", fixture.name);
        }
    }
}

#[test]
fn every_offset_is_found_and_the_first_record_at_or_after_every_timestamp() {
    for fixture in all() {
        let (_temp, dir) = fixture.copy();
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        look_up(&fixture, &log);
        log.close().unwrap();
        // Once more with indexes read from files.
        let log = PartitionLog::open(&dir, fixture.config()).unwrap();
        look_up(&fixture, &log);
    }
}

fn look_up(fixture: &Fixture, log: &PartitionLog) {
    let records: Vec<(i64, i64)> = fixture
        .records()
        .map(|record| (record["offset"].as_i64().unwrap(), record["timestamp"].as_i64().unwrap()))
        .collect();
    let first_at = |target: i64| records.iter().find(|(_, timestamp)| *timestamp >= target).copied();
    for target in records.iter().flat_map(|(_, timestamp)| [timestamp - 1, *timestamp, timestamp + 1]) {
        let found = log.offset_for_timestamp(TimestampMs::new(target)).unwrap();
        let found = found.map(|found| (found.offset.value(), found.timestamp.value()));
        assert_eq!(found, first_at(target), "{} {target}", fixture.name);
    }
    for target in [i64::MIN, -1, 0] {
        let found = log.offset_for_timestamp(TimestampMs::new(target)).unwrap().unwrap();
        assert_eq!((found.offset.value(), found.timestamp.value()), records[0], "{}", fixture.name);
    }
    assert_eq!(log.offset_for_timestamp(TimestampMs::new(i64::MAX)).unwrap(), None);
    let one = alluvium::ReadOptions { max_bytes: 0, ..Default::default() };
    let batches: Vec<&Value> = fixture.batches().map(|(_, batch)| batch).collect();
    for asked in 0..log.log_end().value() {
        let fetched = log.read(Offset::new(asked).unwrap(), &one).unwrap().batches().unwrap();
        let found = fetched.iter().next().unwrap().unwrap();
        let right = batches.iter().find(|batch| batch["lastOffset"].as_i64().unwrap() >= asked).unwrap();
        assert_eq!(found.header().base_offset, offset(&right["baseOffset"]), "{} {asked}", fixture.name);
    }
}

#[test]
fn closing_leaves_kafkas_files_as_kafka_wrote_them() {
    for fixture in all().filter(|fixture| !fixture.name.starts_with("torn")) {
        let mut right = right_files(&fixture);
        right.extend(contents(&fixture.dir).into_iter().filter(|(name, _)| name == "partition.metadata"));
        let (_temp, dir) = fixture.copy();
        at_the_time().open(&dir, fixture.config()).unwrap().close().unwrap();
        let found = contents_for_kafka(&dir);
        if fixture.name == "logdir/users-0" {
            // Written by the cleaner in one append of four batches; ours has entries for each (see `indexes`).
            for name in ["00000000000000000012.index", "00000000000000000012.timeindex"] {
                assert_ne!(found[name], right[name]);
                right.insert(name.to_owned(), found[name].clone());
            }
        }
        assert_same_files(&found, &right, fixture.name);
        // And once more, from the clean-shutdown marker.
        at_the_time().open(&dir, fixture.config()).unwrap().close().unwrap();
        assert_same_files(&contents_for_kafka(&dir), &right, fixture.name);
    }
}
