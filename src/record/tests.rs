//! Corruption by field, the rules of each origin, and stamping.

use super::layout::{
    APPEND_TIME_BIT, ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BATCH_LENGTH_AT, CONTROL_BIT, COUNT_AT, CRC_AT,
    DELETE_HORIZON_BIT, HEADER_BYTES, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_OVERHEAD, MAGIC_AT,
    MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, TRANSACTIONAL_BIT,
};
use super::stamp::{put, seal};
use super::{
    BatchBuilder, BatchHeader, BatchView, Compression, Origin, RecordBatch, Rules, TransactionEnd, batches, stamp,
    stamp_append_time, validate,
};
use crate::config::TimestampType;
use crate::error::{BrokenRule, BuildError, InvalidBatch, InvalidRecord};
use crate::units::{LeaderEpoch, Offset, OffsetDelta, ProducerEpoch, ProducerId, Sequence, TimestampMs};

const NOW: i64 = 1_700_000_000_000;

fn rules(origin: Origin) -> Rules {
    Rules { origin, batch_bytes_max: None, decompressed_bytes_max: 1 << 20, keys_required: false, timestamps: None }
}

fn judge(batch: &[u8], origin: Origin) -> Result<(), InvalidBatch> {
    validate(batch, &rules(origin)).map(drop)
}

/// Three records of an idempotent producer.
fn sample() -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.producer(ProducerId::new(9).unwrap(), ProducerEpoch::new(1).unwrap(), Sequence::new(5));
    for index in 0..3 {
        let headers: &[(&str, Option<&[u8]>)] = &[("h", Some(b"x")), ("h", None)];
        builder.record_with_headers(TimestampMs::new(NOW + index), Some(b"key"), Some(b"value"), headers);
    }
    builder.build().unwrap().into_bytes()
}

/// `batch` with `field` at `at`, and a CRC that is right again.
fn with_field<const N: usize>(mut batch: Vec<u8>, at: usize, field: [u8; N]) -> Vec<u8> {
    put(&mut batch, at, field);
    seal(&mut batch);
    batch
}

fn with_attributes(batch: Vec<u8>, bits: u16) -> Vec<u8> {
    with_field(batch, ATTRIBUTES_AT, bits.to_be_bytes())
}

/// A batch of `count` records whose bytes are `records`, whatever they are.
fn with_records(count: i32, last_offset_delta: i32, records: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::new().record(TimestampMs::new(NOW), None, None).build().unwrap().into_bytes();
    batch.truncate(HEADER_BYTES);
    batch.extend_from_slice(records);
    let length = i32::try_from(batch.len() - LENGTH_OVERHEAD).unwrap();
    put(&mut batch, BATCH_LENGTH_AT, length.to_be_bytes());
    put(&mut batch, COUNT_AT, count.to_be_bytes());
    with_field(batch, LAST_OFFSET_DELTA_AT, last_offset_delta.to_be_bytes())
}

fn iterate(batch: &[u8]) -> Result<usize, InvalidBatch> {
    let body = BatchView::parse(batch, u32::MAX)?.body(1 << 20)?;
    let records: Result<Vec<_>, _> = body.records().collect();
    records.map(|records| records.len())
}

#[test]
fn every_header_field_out_of_range_is_named() {
    let field = |field, value| InvalidBatch::Field { field, value };
    let with = |at, bytes: &[u8]| {
        let mut batch = sample();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut batch);
        batch
    };
    let cases = [
        (with(BASE_OFFSET_AT, &(-1_i64).to_be_bytes()), field("baseOffset", -1)),
        (with(LEADER_EPOCH_AT, &(-2_i32).to_be_bytes()), field("partitionLeaderEpoch", -2)),
        (with(MAGIC_AT, &[0]), InvalidBatch::Magic { found: 0 }),
        (with(MAGIC_AT, &[1]), InvalidBatch::Magic { found: 1 }),
        (with(MAGIC_AT, &[3]), InvalidBatch::Magic { found: 3 }),
        (with(MAGIC_AT, &[0xff]), InvalidBatch::Magic { found: -1 }),
        (with(ATTRIBUTES_AT, &[0, 5]), InvalidBatch::UnknownCodec { code: 5 }),
        (with(ATTRIBUTES_AT, &[0, 7]), InvalidBatch::UnknownCodec { code: 7 }),
        (with(LAST_OFFSET_DELTA_AT, &(-1_i32).to_be_bytes()), field("lastOffsetDelta", -1)),
        (with(LAST_OFFSET_DELTA_AT, &[0, 0, 0, 1]), InvalidBatch::Count { count: 3, last_offset_delta: 1 }),
        (with(PRODUCER_ID_AT, &(-2_i64).to_be_bytes()), field("producerId", -2)),
        (with(PRODUCER_EPOCH_AT, &(-2_i16).to_be_bytes()), field("producerEpoch", -2)),
        (with(BASE_SEQUENCE_AT, &i32::MIN.to_be_bytes()), field("baseSequence", i64::from(i32::MIN))),
        (with(COUNT_AT, &(-1_i32).to_be_bytes()), field("recordsCount", -1)),
        (with(COUNT_AT, &[0, 0, 0, 4]), InvalidBatch::Count { count: 4, last_offset_delta: 2 }),
    ];
    for (batch, expected) in cases {
        for origin in [Origin::Client, Origin::Coordinator, Origin::Follower] {
            assert_eq!(judge(&batch, origin), Err(expected.clone()));
        }
        assert_eq!(BatchHeader::parse(&batch, u32::MAX), Err(expected));
    }
}

#[test]
fn lengths_are_bounded_before_they_are_used() {
    let batch = sample();
    let size = u32::try_from(batch.len()).unwrap();
    let parse = |length: i32, size_max| {
        let mut batch = sample();
        put(&mut batch, BATCH_LENGTH_AT, length.to_be_bytes());
        BatchView::parse(&batch, size_max).map(drop)
    };
    for length in [0, 48, -1, i32::MIN] {
        let expected = InvalidBatch::Length { batch_length: length, min: 49, max: i32::MAX };
        assert_eq!(parse(length, u32::MAX), Err(expected));
    }
    let expected = InvalidBatch::Length { batch_length: 1000, min: 49, max: 988 };
    assert_eq!(parse(1000, 1000), Err(expected));
    let short = |need: u32| InvalidBatch::Short { need: u64::from(need), have: u64::from(size) };
    assert_eq!(parse(988, 1000), Err(short(1000)));
    assert_eq!(parse(i32::MAX, u32::MAX), Err(short(12 + i32::MAX.unsigned_abs())));
    assert_eq!(BatchHeader::parse(&batch[..HEADER_BYTES], u32::MAX).unwrap().size, size);
}

#[test]
fn what_is_cut_is_short_unless_its_magic_says_otherwise() {
    let batch = sample();
    for have in 0..HEADER_BYTES {
        let expected = InvalidBatch::Short { need: HEADER_BYTES as u64, have: have as u64 };
        assert_eq!(BatchHeader::parse(&batch[..have], u32::MAX), Err(expected));
    }
    for have in HEADER_BYTES..batch.len() {
        let expected = InvalidBatch::Short { need: batch.len() as u64, have: have as u64 };
        assert_eq!(judge(&batch[..have], Origin::Client), Err(expected));
    }
    let mut old = batch;
    put(&mut old, MAGIC_AT, [1]);
    assert_eq!(BatchHeader::parse(&old[..=MAGIC_AT], u32::MAX), Err(InvalidBatch::Magic { found: 1 }));
}

#[test]
fn offsets_leave_room_for_the_next() {
    let at = |base: i64| {
        let mut batch = sample();
        put(&mut batch, BASE_OFFSET_AT, base.to_be_bytes());
        BatchHeader::parse(&batch, u32::MAX)
    };
    let header = at(i64::MAX - 3).unwrap();
    assert_eq!(header.last_offset().value(), i64::MAX - 1);
    assert_eq!(header.next_offset(), Offset::MAX);
    for base in [i64::MAX - 2, i64::MAX] {
        let expected = InvalidBatch::OffsetOverflow { base_offset: base, last_offset_delta: 2 };
        assert_eq!(at(base), Err(expected));
    }
}

#[test]
fn every_changed_byte_under_the_crc_is_refused() {
    let batch = sample();
    for at in CRC_AT..batch.len() {
        for bit in 0..8 {
            let mut changed = batch.clone();
            changed[at] ^= 1 << bit;
            for origin in [Origin::Client, Origin::Follower] {
                assert!(judge(&changed, origin).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
    let mut changed = batch.clone();
    changed[HEADER_BYTES] ^= 1;
    assert!(matches!(judge(&changed, Origin::Follower), Err(InvalidBatch::Crc { .. })));
}

#[test]
fn every_record_field_out_of_range_is_named() {
    let field = |field, value| InvalidRecord::Field { field, value };
    let short = |field| InvalidRecord::Short { field };
    // The first byte is the length, zig-zag; then attributes, timestamp delta, offset delta.
    let cases: &[(&[u8], InvalidRecord)] = &[
        (&[0xff, 0xff, 0xff, 0xff, 0xff], InvalidRecord::VarintTooLong),
        (&[0xff, 0xff], short("length")),
        (&[1], field("length", -1)),
        (&[4, 0], field("length", 2)),
        (&[0], short("attributes")),
        (&[2, 0], short("timestampDelta")),
        (&[4, 0, 0x80], short("timestampDelta")),
        (&[24, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2, 0], InvalidRecord::VarintTooLong),
        (&[4, 0, 0], short("offsetDelta")),
        (&[6, 0, 0, 0], short("keyLength")),
        (&[8, 0, 0, 0, 3], field("keyLength", -2)),
        (&[8, 0, 0, 0, 2], field("keyLength", 1)),
        (&[8, 0, 0, 0, 1], short("valueLength")),
        (&[10, 0, 0, 0, 1, 3], field("valueLength", -2)),
        (&[10, 0, 0, 0, 1, 2], field("valueLength", 1)),
        (&[10, 0, 0, 0, 1, 1], short("headersCount")),
        (&[12, 0, 0, 0, 1, 1, 1], field("headersCount", -1)),
        (&[12, 0, 0, 0, 1, 1, 2], field("headersCount", 1)),
        (&[14, 0, 0, 0, 1, 1, 2, 1], field("headerKeyLength", -1)),
        (&[14, 0, 0, 0, 1, 1, 2, 2], field("headerKeyLength", 1)),
        (&[16, 0, 0, 0, 1, 1, 2, 2, b'k'], short("headerValueLength")),
        (&[18, 0, 0, 0, 1, 1, 2, 2, b'k', 3], field("headerValueLength", -2)),
        (&[18, 0, 0, 0, 1, 1, 2, 2, b'k', 2], field("headerValueLength", 1)),
        (&[14, 0, 0, 0, 1, 1, 0, 9], InvalidRecord::LengthMismatch { declared: 7, used: 6 }),
        (&[18, 0, 0, 0, 1, 1, 0, 9, 9, 9], InvalidRecord::LengthMismatch { declared: 9, used: 6 }),
    ];
    let good = [12, 0, 0, 0, 1, 1, 0];
    for (records, fault) in cases {
        // The bad record second, so that index and position count.
        let batch = with_records(2, 1, &[&good, *records].concat());
        let at = (HEADER_BYTES + good.len()) as u64;
        let expected = InvalidBatch::Record { index: 1, at, fault: *fault };
        assert_eq!(judge(&batch, Origin::Client), Err(expected.clone()), "{records:?}");
        assert_eq!(judge(&batch, Origin::Follower), Err(expected.clone()), "{records:?}");
        assert_eq!(iterate(&batch), Err(expected), "{records:?}");
    }
}

#[test]
fn header_keys_are_utf8_for_those_who_read_them() {
    let batch = with_records(1, 0, &[18, 0, 0, 0, 1, 1, 2, 2, 0xff, 1]);
    let expected = InvalidBatch::Record { index: 0, at: HEADER_BYTES as u64, fault: InvalidRecord::HeaderKey };
    assert_eq!(judge(&batch, Origin::Client), Err(expected.clone()));
    assert_eq!(iterate(&batch), Err(expected));
    // A follower that refused what its leader took would never catch up.
    assert_eq!(judge(&batch, Origin::Follower), Ok(()));
}

#[test]
fn offsets_rise_within_the_batch() {
    let record = |delta: u8| [12, 0, 0, delta << 1, 1, 1, 0];
    let two = |last, first, second| with_records(2, last, &[record(first), record(second)].concat());
    assert_eq!(judge(&two(9, 3, 9), Origin::Follower), Ok(()));
    assert_eq!(iterate(&two(9, 3, 9)), Ok(2));
    let at = (HEADER_BYTES + 7) as u64;
    for (batch, fault) in [
        (two(9, 3, 3), InvalidRecord::OffsetDelta { found: 3, expected: 4 }),
        (two(9, 3, 2), InvalidRecord::OffsetDelta { found: 2, expected: 4 }),
        (two(9, 3, 10), InvalidRecord::OffsetDeltaPastLast { found: 10, last: 9 }),
    ] {
        let expected = InvalidBatch::Record { index: 1, at, fault };
        assert_eq!(judge(&batch, Origin::Follower), Err(expected.clone()));
        assert_eq!(iterate(&batch), Err(expected));
    }
    let negative = with_records(1, 9, &[12, 0, 0, 1, 1, 1, 0]);
    let fault = InvalidRecord::OffsetDelta { found: -1, expected: 0 };
    let expected = InvalidBatch::Record { index: 0, at: HEADER_BYTES as u64, fault };
    assert_eq!(judge(&negative, Origin::Follower), Err(expected));
}

#[test]
fn the_count_is_exact() {
    let record = [12, 0, 0, 0, 1, 1, 0];
    let next = [12, 0, 0, 2, 1, 1, 0];
    let fewer = with_records(2, 1, &record);
    let fault = InvalidRecord::Short { field: "length" };
    let expected = InvalidBatch::Record { index: 1, at: HEADER_BYTES as u64 + 7, fault };
    assert_eq!(judge(&fewer, Origin::Client), Err(expected.clone()));
    assert_eq!(iterate(&fewer), Err(expected));
    let more = with_records(1, 0, &[record, next].concat());
    assert_eq!(judge(&more, Origin::Client), Err(InvalidBatch::Trailing { bytes: 7 }));
    assert_eq!(judge(&more, Origin::Follower), Err(InvalidBatch::Trailing { bytes: 7 }));
    assert_eq!(iterate(&more), Err(InvalidBatch::Trailing { bytes: 7 }));
    let body = BatchView::parse(&more, u32::MAX).unwrap().body(0).unwrap();
    assert_eq!(body.records().count(), 2, "one record, one error, the end");
}

#[test]
fn an_emptied_batch_is_taken_from_the_leader_only() {
    let emptied = with_records(0, 9, &[]);
    assert_eq!(judge(&emptied, Origin::Follower), Ok(()));
    assert_eq!(iterate(&emptied), Ok(0));
    assert_eq!(judge(&emptied, Origin::Client), Err(BrokenRule::Empty.into()));
    assert_eq!(judge(&emptied, Origin::Coordinator), Err(BrokenRule::Empty.into()));
    let full = with_records(0, 9, &[12, 0, 0, 0, 1, 1, 0]);
    assert_eq!(judge(&full, Origin::Follower), Err(InvalidBatch::Trailing { bytes: 7 }));
}

#[test]
fn clients_are_held_to_their_rules() {
    let broken = |batch: Vec<u8>| match judge(&batch, Origin::Client) {
        Err(InvalidBatch::Rule(rule)) => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!(judge(&sample(), Origin::Client), Ok(()));
    let moved = with_field(sample(), BASE_OFFSET_AT, 7_i64.to_be_bytes());
    assert_eq!(broken(moved), BrokenRule::BaseOffset { found: 7 });
    assert_eq!(broken(with_attributes(sample(), CONTROL_BIT)), BrokenRule::ControlFromClient);
    assert_eq!(broken(with_attributes(sample(), APPEND_TIME_BIT)), BrokenRule::TimestampType);
    assert_eq!(broken(with_attributes(sample(), DELETE_HORIZON_BIT)), BrokenRule::DeleteHorizon);
    let anonymous = with_field(sample(), PRODUCER_ID_AT, (-1_i64).to_be_bytes());
    assert_eq!(judge(&anonymous, Origin::Client), Ok(()));
    let transactional = with_attributes(anonymous, TRANSACTIONAL_BIT);
    assert_eq!(broken(transactional), BrokenRule::TransactionalWithoutProducer);
    assert_eq!(judge(&with_attributes(sample(), TRANSACTIONAL_BIT), Origin::Client), Ok(()));
    let producer = |epoch, sequence| BrokenRule::Producer { producer_id: 9, epoch, sequence };
    assert_eq!(broken(with_field(sample(), PRODUCER_EPOCH_AT, (-1_i16).to_be_bytes())), producer(-1, 5));
    assert_eq!(broken(with_field(sample(), BASE_SEQUENCE_AT, (-1_i32).to_be_bytes())), producer(1, -1));
    let max = with_field(sample(), MAX_TIMESTAMP_AT, NOW.to_be_bytes());
    assert_eq!(broken(max), BrokenRule::MaxTimestamp { declared: NOW, found: NOW + 2 });
    let sparse = with_field(sample(), LAST_OFFSET_DELTA_AT, 5_i32.to_be_bytes());
    let expected = InvalidBatch::Count { count: 3, last_offset_delta: 5 };
    assert_eq!(judge(&sparse, Origin::Client), Err(expected));
    assert_eq!(judge(&sparse, Origin::Follower), Ok(()));
    let gap = with_records(2, 1, &[[12, 0, 0, 0, 1, 1, 0], [12, 0, 0, 4, 1, 1, 0]].concat());
    assert_eq!(broken(gap), BrokenRule::NotDense { index: 1, found: 2 });
}

#[test]
fn keys_are_required_where_records_are_removed_by_key() {
    let rules = Rules { keys_required: true, ..rules(Origin::Client) };
    assert!(validate(&sample(), &rules).is_ok());
    let mut builder = BatchBuilder::new();
    builder.record(TimestampMs::new(1), Some(b""), None).record(TimestampMs::new(1), None, Some(b"v"));
    for compression in [Compression::None, Compression::Lz4] {
        let batch = builder.clone().compression(compression).build().unwrap();
        let expected = InvalidBatch::Rule(BrokenRule::MissingKey { index: 1 });
        assert_eq!(validate(batch.as_bytes(), &rules), Err(expected));
    }
}

#[test]
fn timestamps_have_bounds_but_may_be_missing() {
    let batch = |timestamps: &[i64]| {
        let mut builder = BatchBuilder::new();
        for &timestamp in timestamps {
            builder.record(TimestampMs::new(timestamp), None, None);
        }
        builder.build().unwrap().into_bytes()
    };
    let client = Rules { timestamps: Some(10..=20), ..rules(Origin::Client) };
    assert!(validate(&batch(&[10, 20, 15, -1]), &client).is_ok());
    assert!(validate(&batch(&[-1, -1]), &client).is_ok());
    for (timestamps, index, timestamp) in [(&[10, 9][..], 1, 9), (&[21, 9], 0, 21), (&[-2], 0, -2)] {
        let expected = BrokenRule::Timestamp { index, timestamp, earliest: 10, latest: 20 };
        assert_eq!(validate(&batch(timestamps), &client), Err(expected.into()));
        let coordinator = Rules { origin: Origin::Coordinator, ..client.clone() };
        assert!(validate(&batch(timestamps), &coordinator).is_ok());
    }
}

#[test]
fn timestamps_of_any_distance_share_a_batch() {
    let timestamps = [i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN];
    let mut builder = BatchBuilder::new();
    for timestamp in timestamps {
        builder.record(TimestampMs::new(timestamp), None, None);
    }
    let batch = builder.build().unwrap();
    assert_eq!(judge(batch.as_bytes(), Origin::Client), Ok(()));
    let body = batch.view().body(0).unwrap();
    let read: Vec<_> = body.records().map(|record| record.unwrap().timestamp.value()).collect();
    assert_eq!(read, timestamps);
}

#[test]
fn coordinators_write_markers_and_offsets() {
    let producer = (ProducerId::new(9).unwrap(), ProducerEpoch::new(1).unwrap());
    for end in [TransactionEnd::Commit, TransactionEnd::Abort] {
        let marker = RecordBatch::end_transaction_marker(end, producer, 3, TimestampMs::new(NOW)).into_bytes();
        assert_eq!(judge(&marker, Origin::Coordinator), Ok(()));
        assert_eq!(judge(&marker, Origin::Client), Err(BrokenRule::ControlFromClient.into()));
    }
    let mut offsets = BatchBuilder::new();
    offsets.producer(producer.0, producer.1, None).transactional(true).record(TimestampMs::new(NOW), None, None);
    let offsets = offsets.build().unwrap().into_bytes();
    assert_eq!(judge(&offsets, Origin::Coordinator), Ok(()));
    assert!(matches!(judge(&offsets, Origin::Client), Err(InvalidBatch::Rule(BrokenRule::Producer { .. }))));
    let data_as_control = with_attributes(sample(), CONTROL_BIT);
    assert_eq!(judge(&data_as_control, Origin::Coordinator), Err(BrokenRule::ControlKey { index: 0 }.into()));
}

#[test]
fn checks_come_in_order() {
    let limited = Rules { batch_bytes_max: Some(100), ..rules(Origin::Client) };
    let mut batch = with_field(sample(), BASE_OFFSET_AT, 7_i64.to_be_bytes());
    batch[HEADER_BYTES] ^= 1;
    let size = batch.len() as u64;
    assert_eq!(validate(&batch, &limited), Err(BrokenRule::TooLarge { size, max: 100 }.into()));
    assert!(matches!(judge(&batch, Origin::Client), Err(InvalidBatch::Crc { .. })));
    seal(&mut batch);
    assert_eq!(judge(&batch, Origin::Client), Err(BrokenRule::BaseOffset { found: 7 }.into()));
    stamp(&mut batch, Offset::ZERO, None);
    assert!(matches!(judge(&batch, Origin::Client), Err(InvalidBatch::Record { index: 0, .. })));
    for origin in [Origin::Coordinator, Origin::Follower] {
        assert!(validate(&sample(), &Rules { origin, ..limited.clone() }).is_ok());
    }
}

#[test]
fn only_the_first_batch_is_judged_and_all_are_iterated() {
    let mut two = [sample(), sample()].concat();
    let size = sample().len();
    assert_eq!(usize::try_from(validate(&two, &rules(Origin::Client)).unwrap().size), Ok(size));
    assert_eq!(batches(&two, u32::MAX).flatten().count(), 2);
    two.pop();
    let found: Vec<_> = batches(&two, u32::MAX).map(|batch| batch.map(drop)).collect();
    let short = InvalidBatch::Short { need: size as u64, have: size as u64 - 1 };
    assert_eq!(found, [Ok(()), Err(short)]);
}

#[test]
fn stamping_keeps_batches_whole() {
    let mut batch = sample();
    stamp(&mut batch, Offset::new(1000).unwrap(), LeaderEpoch::new(4));
    stamp_append_time(&mut batch, TimestampMs::new(NOW + 99));
    assert_eq!(judge(&batch, Origin::Follower), Ok(()));
    let view = BatchView::parse(&batch, u32::MAX).unwrap();
    let header = view.header();
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((header.leader_epoch, header.last_offset()), (LeaderEpoch::new(4), Offset::new(1002).unwrap()));
    let body = view.body(0).unwrap();
    for (index, record) in body.records().enumerate() {
        let record = record.unwrap();
        let delta = i32::try_from(index).unwrap();
        assert_eq!(record.timestamp, TimestampMs::new(NOW + 99));
        assert_eq!(record.offset, Offset::new(1000 + i64::from(delta)).unwrap());
        assert_eq!(record.offset_delta, OffsetDelta::new(delta).unwrap());
        assert_eq!(record.sequence, Sequence::new(5 + delta));
        assert_eq!(record.headers().collect::<Vec<_>>(), [("h", Some(&b"x"[..])), ("h", None)]);
    }
    let horizon = with_attributes(batch, DELETE_HORIZON_BIT);
    let header = BatchHeader::parse(&horizon, u32::MAX).unwrap();
    assert_eq!(header.delete_horizon(), Some(TimestampMs::new(NOW)));
    stamp(&mut sample()[..16], Offset::ZERO, None);
}

#[test]
fn what_cannot_be_built_is_refused() {
    let mut builder = BatchBuilder::new();
    assert_eq!(builder.build(), Err(BuildError::Empty));
    let one = |builder: &mut BatchBuilder| builder.record(TimestampMs::new(1), None, None).build().map(drop);
    builder.compression(Compression::Gzip).compression_level(10);
    assert_eq!(one(&mut builder), Err(BuildError::Level { codec: "gzip", level: 10, min: 1, max: 9 }));
    for level in [-131_073, 23] {
        builder.compression(Compression::Zstd).compression_level(level);
        assert_eq!(one(&mut builder), Err(BuildError::Level { codec: "zstd", level, min: -131_072, max: 22 }));
    }
    builder.compression(Compression::Lz4).compression_level(99);
    assert_eq!(one(&mut builder), Ok(()));
    builder.base_offset(Offset::MAX);
    assert_eq!(one(&mut builder), Err(BuildError::OffsetOverflow));
    assert_eq!(builder.count(), 0, "a failed build clears too");
}

#[test]
fn a_builder_is_used_again() {
    let mut builder = BatchBuilder::new();
    let mut build = |value: &[u8]| {
        builder.record(TimestampMs::new(5), None, Some(value));
        builder.build().unwrap()
    };
    let (first, _, third) = (build(b"a"), build(b"bb"), build(b"a"));
    assert_eq!(first, third);
}
