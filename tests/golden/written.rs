//! What we write is what the format says, byte for byte, in all files of every segment and those beside them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::clock::ManualClock;
use alluvium::fs::OsFileSystem;
use alluvium::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, Environment, LeaderEpoch, LogConfig, Offset, PartitionLog, ProducerEpoch, ProducerId, Sequence,
    TimestampMs, TimestampType,
};

use crate::fixtures::{assert_same_files, assert_sound, contents_for_kafka, is_kind, read_batches};
use crate::naive::{NaiveBatch, NaiveLog, NaiveRecord, stamped};

const NOW: i64 = 1_700_000_000_000;
const SEGMENT_BYTES: u32 = 3000;
const INTERVAL_BYTES: u32 = 400;

fn config() -> LogConfig {
    LogConfig { segment_bytes: SEGMENT_BYTES, index_interval_bytes: INTERVAL_BYTES, ..LogConfig::default() }
}

fn naive_log() -> NaiveLog {
    NaiveLog::new(SEGMENT_BYTES as usize, INTERVAL_BYTES as usize)
}

fn at_noon() -> (Arc<ManualClock>, Environment) {
    let clock = Arc::new(ManualClock::at(NOW));
    (Arc::clone(&clock), Environment { fs: Arc::new(OsFileSystem), clock })
}

/// Records of every shape, the same for the same `n`; timestamps go back now and then.
fn records(n: i64) -> Vec<NaiveRecord> {
    let count = 1 + n % 4;
    let record = |i: i64| {
        let m = n * 7 + i;
        let key = match m % 5 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(format!("key-{m}").into_bytes()),
        };
        let value = match m % 7 {
            0 => None,
            1 => Some(Vec::new()),
            // Around the lengths where a varint takes one more byte.
            k => Some(vec![u8::try_from(m % 251).unwrap(); usize::try_from(58 + k + n % 9 * 17).unwrap()]),
        };
        let headers = match m % 3 {
            0 => vec![("h", Some(b"1".to_vec())), ("", None), ("h", Some(Vec::new()))],
            _ => Vec::new(),
        };
        NaiveRecord { timestamp: NOW + m * 13 % 29 * 100 - i * 150, key, value, headers }
    };
    (0..count).map(record).collect()
}

fn build(records: &[NaiveRecord], builder: &mut BatchBuilder) -> Vec<u8> {
    for record in records {
        let headers: Vec<(&str, Option<&[u8]>)> =
            record.headers.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        let timestamp = TimestampMs::new(record.timestamp);
        builder.record_with_headers(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build().unwrap().into_bytes()
}

fn leader(epoch: i32) -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(epoch).unwrap() }
}

fn check(dir: &Path, right: NaiveLog, what: &str) {
    let right = right.close();
    assert!(right.len() > 9, "several segments: {:?}", right.keys());
    assert!(right.iter().any(|(name, bytes)| is_kind(name, "index") && bytes.len() > 16));
    assert_same_files(&contents_for_kafka(dir), &right, what);
    assert_sound(dir, Some(INTERVAL_BYTES));
}

#[test]
fn a_leaders_log_is_what_the_format_says() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path(), config()).unwrap();
    let mut right = naive_log();
    let mut builder = BatchBuilder::new();
    for n in 0..60 {
        let epoch = i32::try_from(n / 20).unwrap();
        let groups = if n % 6 == 0 { vec![records(n), records(n + 1), records(n + 2)] } else { vec![records(n)] };
        let given: Vec<Vec<u8>> = groups.iter().map(|records| build(records, &mut builder)).collect();
        let mut next = right.log_end;
        let mut expected = Vec::new();
        for records in &groups {
            expected.push(NaiveBatch::plain(next, epoch, records).bytes());
            next += i64::try_from(records.len()).unwrap();
        }
        // Both ways to hand over several batches.
        let appended =
            if n % 12 == 0 { log.append(given, leader(epoch)) } else { log.append(given.concat(), leader(epoch)) };
        assert_eq!(appended.unwrap().base_offset().value(), right.log_end);
        right.append(&expected);
    }
    assert_eq!(log.log_end().value(), right.log_end);
    log.close().unwrap();
    check(temp.path(), right, "leader");
}

#[test]
fn restarts_leave_no_trace_in_the_files() {
    let temp = tempfile::tempdir().unwrap();
    let mut right = naive_log();
    let mut builder = BatchBuilder::new();
    let mut log = PartitionLog::open(temp.path(), config()).unwrap();
    for n in 0..60 {
        match n % 7 {
            3 => log.close().unwrap(),
            5 => drop(log.wait_durable(log.log_end(), Duration::from_secs(10))),
            _ => {}
        }
        if n % 3 == 0 {
            drop(log);
            log = PartitionLog::open(temp.path(), config()).unwrap();
        } else if n % 7 == 3 {
            log = PartitionLog::open(temp.path(), config()).unwrap();
            assert!(log.recovery_report().was_clean);
        }
        log.append(build(&records(n), &mut builder), leader(0)).unwrap();
        right.append(&[NaiveBatch::plain(right.log_end, 0, &records(n)).bytes()]);
        if n == 41 {
            assert!(log.roll().unwrap());
            right.roll();
        }
    }
    log.close().unwrap();
    check(temp.path(), right, "restarted");
}

#[test]
fn a_truncated_log_is_as_if_the_rest_had_never_been() {
    let temp = tempfile::tempdir().unwrap();
    let mut right = naive_log();
    let mut builder = BatchBuilder::new();
    let log = PartitionLog::open(temp.path(), config()).unwrap();
    for round in 0..6 {
        let end = log.log_end();
        for n in 0..20 {
            log.append(build(&records(500 + n + round), &mut builder), leader(0)).unwrap();
        }
        log.truncate_to(end).unwrap();
        let active = log.segment_files().pop().unwrap();
        if active.ends_with(format!("{:020}.log", end.value())) && !right.is_active_empty() {
            // What was cut off had rolled right there; the segment stays, empty, as it does in Kafka.
            right.roll();
        }
        for n in round * 10..round * 10 + 10 {
            log.append(build(&records(n), &mut builder), leader(0)).unwrap();
            right.append(&[NaiveBatch::plain(right.log_end, 0, &records(n)).bytes()]);
        }
    }
    log.close().unwrap();
    check(temp.path(), right, "truncated");
}

#[test]
fn time_of_append_is_stamped_as_the_format_says() {
    let temp = tempfile::tempdir().unwrap();
    let (clock, environment) = at_noon();
    let config = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..config() };
    let log = environment.open(temp.path(), config).unwrap();
    let mut right = naive_log();
    let mut builder = BatchBuilder::new();
    for n in 0..60 {
        // The clock goes back now and then; the time index only goes up.
        let now = NOW + n * 1000 - n % 5 * 3000;
        clock.set_wall(now);
        let appended = log.append(build(&records(n), &mut builder), leader(4)).unwrap();
        assert_eq!(appended.append_time(), Some(TimestampMs::new(now)));
        let batch = NaiveBatch { append_time: Some(now), ..NaiveBatch::plain(right.log_end, 4, &records(n)) };
        right.append(&[batch.bytes()]);
    }
    log.close().unwrap();
    check(temp.path(), right, "log append time");
}

#[test]
fn compressed_batches_are_kept_but_for_the_stamps() {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for message_timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let temp = tempfile::tempdir().unwrap();
        let (clock, environment) = at_noon();
        let log = environment.open(temp.path(), LogConfig { message_timestamp_type, ..config() }).unwrap();
        let mut right = naive_log();
        let mut builder = BatchBuilder::new();
        for n in 0..80 {
            let now = NOW + n;
            clock.set_wall(now);
            builder.compression(codecs[usize::try_from(n).unwrap() % codecs.len()]);
            let given = build(&[records(n), records(n + 1)].concat(), &mut builder);
            let append_time = (message_timestamp_type == TimestampType::LogAppendTime).then_some(now);
            right.append(&[stamped(&given, right.log_end, 9, append_time)]);
            log.append(given, leader(9)).unwrap();
        }
        for (_, _, bytes) in read_batches(&log, 1 << 20) {
            alluvium::record::BatchView::parse(&bytes, u32::MAX).unwrap().verify_crc().unwrap();
        }
        log.close().unwrap();
        check(temp.path(), right, "compressed");
    }
}

/// Producers, transactions, markers, gaps in the offsets: given bytes are written as they are, and the indexes follow.
#[test]
fn a_followers_log_is_what_the_format_says() {
    let temp = tempfile::tempdir().unwrap();
    let log = at_noon().1.open(temp.path(), config()).unwrap();
    let mut right = naive_log();
    for n in 0..60_i64 {
        let base_offset = right.log_end + n % 4 * 10;
        let small = i32::try_from(n).unwrap();
        let batch = if n % 9 == 8 {
            let epoch = small / 9;
            NaiveBatch {
                attributes: 0b11_0000,
                producer: (4000, 3, -1),
                ..NaiveBatch::plain(base_offset, 5, &[marker(n % 2 == 0, epoch, NOW + n)])
            }
        } else {
            let producer = (4000 + n % 3, 3, small * 4);
            let attributes = if n % 2 == 0 { 0b1_0000 } else { 0 };
            NaiveBatch { attributes, producer, ..NaiveBatch::plain(base_offset, 5, &records(n)) }
        };
        log.append(batch.bytes(), AppendAs::Follower).unwrap();
        right.append(&[batch.bytes()]);
    }
    log.close().unwrap();
    check(temp.path(), right, "follower");
}

fn marker(commit: bool, coordinator_epoch: i32, timestamp: i64) -> NaiveRecord {
    let key = vec![0, 0, 0, u8::from(commit)];
    let value = [vec![0, 0], coordinator_epoch.to_be_bytes().to_vec()].concat();
    NaiveRecord { timestamp, key: Some(key), value: Some(value), headers: Vec::new() }
}

#[test]
fn a_coordinators_log_is_what_the_format_says() {
    let temp = tempfile::tempdir().unwrap();
    let config = LogConfig { transaction_partition_verification_enable: false, ..config() };
    let log = at_noon().1.open(temp.path(), config).unwrap();
    let mut right = naive_log();
    let coordinator = AppendAs::Coordinator { epoch: LeaderEpoch::new(2).unwrap() };
    let producer = (ProducerId::new(77).unwrap(), ProducerEpoch::new(1).unwrap());
    let mut builder = BatchBuilder::new();
    for n in 0..60_i64 {
        let sequence = i32::try_from(n).unwrap();
        builder.producer(producer.0, producer.1, Sequence::new(sequence)).transactional(true);
        let data = build(&records(n), &mut builder);
        let end = if n % 2 == 0 { TransactionEnd::Commit } else { TransactionEnd::Abort };
        let ending = RecordBatch::end_transaction_marker(end, producer, 6, TimestampMs::new(NOW + n));
        let appended = log.append(vec![data, ending.into_bytes()], coordinator).unwrap();
        assert_eq!(appended.base_offset(), Offset::new(right.log_end).unwrap());

        let data = NaiveBatch {
            attributes: 0b1_0000,
            producer: (77, 1, sequence),
            ..NaiveBatch::plain(right.log_end, 2, &records(n))
        };
        let next = right.log_end + i64::try_from(data.records.len()).unwrap();
        let ending = NaiveBatch {
            attributes: 0b11_0000,
            producer: (77, 1, -1),
            ..NaiveBatch::plain(next, 2, &[marker(n % 2 == 0, 6, NOW + n)])
        };
        right.append(&[data.bytes(), ending.bytes()]);
    }
    log.close().unwrap();
    check(temp.path(), right, "coordinator");
}
