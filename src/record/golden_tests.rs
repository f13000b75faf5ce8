//! Batches that Apache Kafka wrote, against what Kafka's own iterators read from them (`tests/fixtures/kafka`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout::HEADER_BYTES;
use super::{
    BatchBuilder, BatchView, Compression, ControlRecord, Origin, RecordBatch, Rules, TransactionEnd, batches, stamp,
    validate,
};
use crate::config::TimestampType;
use crate::error::InvalidBatch;
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

const LIMIT: u32 = 1 << 24;

/// A `.log` file's bytes and what its manifest says of the segment.
struct Segment {
    log: PathBuf,
    bytes: Vec<u8>,
    manifest: Value,
}

#[expect(clippy::disallowed_methods, reason = "fixtures are read from the real disk")]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn segments() -> Vec<Segment> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka");
    let partitions = [
        "plain-0",
        "codecs-0",
        "txn-0",
        "epochs-0",
        "compact-before-0",
        "torn-body-0",
        "torn-zeros-0",
        "logdir/orders-0",
        "logdir/orders-1",
        "logdir/users-0",
    ];
    let mut segments = Vec::new();
    for partition in partitions {
        let manifest = read(&root.join(format!("{partition}.manifest.json")));
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for segment in manifest["segments"].as_array().unwrap() {
            let log = root.join(partition).join(segment["file"].as_str().unwrap());
            segments.push(Segment { bytes: read(&log), log, manifest: segment.clone() });
        }
    }
    assert!(segments.len() > 30, "{}", segments.len());
    segments
}

/// Calls `check` for every whole batch of every fixture and what the manifest says of it.
fn for_each_batch(mut check: impl FnMut(&BatchView<'_>, &Value, &str)) {
    let mut count = 0;
    for segment in segments() {
        let entries = segment.manifest["entries"].as_array().unwrap();
        for (batch, entry) in batches(&segment.bytes, LIMIT).zip(entries) {
            let at = format!("{} at {}", segment.log.display(), entry["position"]);
            check(&batch.unwrap(), entry, &at);
            count += 1;
        }
    }
    assert!(count > 400, "{count}");
}

fn base64(text: &Value) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.as_str()?;
    let (mut bits, mut width, mut out) = (0_u32, 0, Vec::new());
    for byte in text.bytes().filter(|&byte| byte != b'=') {
        let digit = ALPHABET.iter().position(|&digit| digit == byte).expect("a base64 digit");
        bits = bits << 6 | u32::try_from(digit).unwrap();
        width += 6;
        if width >= 8 {
            width -= 8;
            out.push(u8::try_from(bits >> width & 0xff).unwrap());
        }
    }
    Some(out)
}

fn owned(bytes: Option<&[u8]>) -> Option<Vec<u8>> {
    bytes.map(<[u8]>::to_vec)
}

fn or_none(number: Option<i64>) -> i64 {
    number.unwrap_or(-1)
}

fn name_of(timestamp_type: TimestampType) -> &'static str {
    match timestamp_type {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

#[test]
fn headers_read_as_kafka_reads_them() {
    for_each_batch(|batch, entry, at| {
        let header = batch.header();
        let attributes = header.attributes;
        let sequence = |sequence: Option<Sequence>| or_none(sequence.map(|s| i64::from(s.value())));
        for (found, expected) in [
            (header.base_offset.value(), "baseOffset"),
            (header.last_offset().value(), "lastOffset"),
            (i64::from(header.size), "size"),
            (i64::from(header.count), "count"),
            (i64::from(header.crc), "crc"),
            (or_none(header.leader_epoch.map(|epoch| i64::from(epoch.value()))), "partitionLeaderEpoch"),
            (header.max_timestamp.value(), "maxTimestamp"),
            (or_none(header.producer_id.map(ProducerId::value)), "producerId"),
            (or_none(header.producer_epoch.map(|epoch| i64::from(epoch.value()))), "producerEpoch"),
            (sequence(header.base_sequence), "baseSequence"),
            (sequence(header.last_sequence()), "lastSequence"),
        ] {
            assert_eq!(Some(found), entry[expected].as_i64(), "{expected} of {at}");
        }
        assert_eq!(attributes.is_transactional(), entry["isTransactional"], "{at}");
        assert_eq!(attributes.is_control(), entry["isControl"], "{at}");
        assert_eq!(attributes.compression().name(), entry["compression"], "{at}");
        assert_eq!(name_of(attributes.timestamp_type()), entry["timestampType"], "{at}");
        assert_eq!(header.delete_horizon().map(TimestampMs::value), entry["deleteHorizonMs"].as_i64(), "{at}");
        assert_eq!(batch.verify_crc().is_ok(), entry["crcValid"], "{at}");
    });
}

#[test]
fn records_read_as_kafka_reads_them() {
    for_each_batch(|batch, entry, at| {
        let body = batch.body(LIMIT).unwrap();
        let expected = entry["records"].as_array().unwrap();
        assert_eq!(body.records().count(), expected.len(), "{at}");
        for (record, expected) in body.records().zip(expected) {
            let record = record.unwrap();
            assert_eq!(record.offset.value(), expected["offset"], "{at}");
            assert_eq!(record.timestamp.value(), expected["timestamp"], "{at}");
            assert_eq!(record.sequence.map_or(-1, Sequence::value), expected["sequence"], "{at}");
            assert_eq!(owned(record.key), base64(&expected["key"]), "{at}");
            assert_eq!(owned(record.value), base64(&expected["value"]), "{at}");
            let headers: Vec<_> = record.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect();
            let expected_headers: Vec<_> = expected["headers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|header| (header["key"].as_str().unwrap().to_owned(), base64(&header["value"])))
                .collect();
            assert_eq!(headers, expected_headers, "{at}");
        }
    });
}

/// The batch again, from its decoded records.
fn rebuilt(batch: &BatchView<'_>) -> RecordBatch {
    let header = batch.header();
    let mut builder = BatchBuilder::new();
    builder
        .compression(header.attributes.compression())
        .base_offset(header.base_offset)
        .leader_epoch(header.leader_epoch)
        .transactional(header.attributes.is_transactional())
        .control(header.attributes.is_control());
    if let (Some(id), Some(epoch)) = (header.producer_id, header.producer_epoch) {
        builder.producer(id, epoch, header.base_sequence);
    }
    for record in batch.body(LIMIT).unwrap().records() {
        let record = record.unwrap();
        let headers: Vec<_> = record.headers().collect();
        builder.record_with_headers(record.timestamp, record.key, record.value, &headers);
    }
    builder.build().unwrap()
}

#[test]
fn built_batches_are_byte_equal_to_kafkas() {
    for_each_batch(|batch, _, at| {
        let again = rebuilt(batch);
        if batch.header().attributes.compression() == Compression::None {
            assert!(again.as_bytes() == batch.bytes(), "{at}");
            return;
        }
        // Compressors differ in what they find; what they are given, and the rest of the header, is the same.
        let (ours, theirs) = (again.view().body(LIMIT).unwrap(), batch.body(LIMIT).unwrap());
        assert!(ours.bytes() == theirs.bytes(), "{at}");
        let (mut ours, theirs) = (again.header(), *batch.header());
        ours.size = theirs.size;
        ours.crc = theirs.crc;
        assert_eq!(ours, theirs, "{at}");
    });
}

#[test]
fn markers_are_byte_equal_to_kafkas() {
    let mut markers = 0;
    for_each_batch(|batch, entry, at| {
        let header = batch.header();
        if !header.attributes.is_control() {
            return;
        }
        let body = batch.body(LIMIT).unwrap();
        let record = body.records().next().unwrap().unwrap();
        let (end, epoch, name) = match ControlRecord::parse(record.key, record.value).unwrap() {
            ControlRecord::Commit { coordinator_epoch } => (TransactionEnd::Commit, coordinator_epoch, "COMMIT"),
            ControlRecord::Abort { coordinator_epoch } => (TransactionEnd::Abort, coordinator_epoch, "ABORT"),
            other => panic!("{other:?} {at}"),
        };
        assert_eq!(entry["controlType"], name, "{at}");
        assert_eq!(entry["coordinatorEpoch"], epoch, "{at}");
        let producer = (header.producer_id.unwrap(), header.producer_epoch.unwrap());
        let mut marker = RecordBatch::end_transaction_marker(end, producer, epoch, record.timestamp);
        stamp(marker.as_mut_bytes(), header.base_offset, header.leader_epoch);
        assert!(marker.as_bytes() == batch.bytes(), "{at}");
        markers += 1;
    });
    assert!(markers > 5, "{markers}");
}

#[test]
fn every_origin_takes_what_kafka_took_from_it() {
    let rules = |origin| Rules {
        origin,
        batch_bytes_max: Some(1 << 20),
        decompressed_bytes_max: LIMIT,
        keys_required: false,
        timestamps: Some(0..=i64::MAX),
    };
    for_each_batch(|batch, _, at| {
        let header = *batch.header();
        assert_eq!(validate(batch.bytes(), &rules(Origin::Follower)), Ok(header), "{at}");
        let mut sent = batch.bytes().to_vec();
        stamp(&mut sent, Offset::ZERO, None);
        let origin = if header.attributes.is_control() { Origin::Coordinator } else { Origin::Client };
        let taken = validate(&sent, &rules(origin)).unwrap();
        stamp(&mut sent, header.base_offset, header.leader_epoch);
        assert!(sent == batch.bytes(), "{at}");
        assert_eq!(taken.next_offset().value(), i64::from(header.count), "{at}");
    });
}

#[test]
fn torn_ends_are_told_apart() {
    for segment in segments() {
        let last = batches(&segment.bytes, LIMIT).last().unwrap();
        let whole = segment.manifest["batches"].as_u64().unwrap();
        let path = segment.log.display().to_string();
        let is_last = path.ends_with("00000000000000000133.log");
        let expected = match () {
            () if is_last && path.contains("torn-body") => {
                Some(InvalidBatch::Short { need: 603, have: HEADER_BYTES as u64 + 7 })
            }
            () if is_last && path.contains("torn-zeros") => Some(InvalidBatch::Magic { found: 0 }),
            () => None,
        };
        assert_eq!(last.err(), expected, "{path}");
        let found = batches(&segment.bytes, LIMIT).flatten().count() as u64;
        assert_eq!(found, whole, "{path}");
    }
}

#[test]
fn units_of_the_fixtures_are_as_expected() {
    // Guards the helpers above: a fixture with everything set must have been seen.
    let mut seen = (false, false);
    for_each_batch(|batch, _, _| {
        seen.0 |= batch.header().leader_epoch > LeaderEpoch::new(0);
        seen.1 |= batch.header().producer_epoch == ProducerEpoch::new(32766);
    });
    assert_eq!(seen, (true, true));
}
