//! Batches that are not taken.

use alluvium::error::{AppendError, BrokenRule, InvalidBatch, InvalidRecord};
use alluvium::record::{BatchBuilder, Compression, crc32c};
use alluvium::{
    AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, Offset, PartitionLog, ProducerEpoch, ProducerId, TimestampType,
};

use crate::support::{
    Machine, NOW, assert_unchanged, at, batch, batch_at, client, contents, coordinator, given, ms, small,
};

const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;
const RECORDS_AT: usize = 61;

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&bytes[ATTRIBUTES_AT..]);
    bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// A batch of two records with `field` written at `at`, and a checksum that fits.
fn with(at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = batch(&["one", "two"]).into_bytes();
    bytes[at..at + field.len()].copy_from_slice(field);
    sealed(bytes)
}

/// A header over `records` as they are, with what they claim.
fn assembled(attributes: u8, count: i32, records: &[u8]) -> Vec<u8> {
    let mut bytes = batch(&["x"]).into_bytes();
    bytes.truncate(RECORDS_AT);
    bytes.extend_from_slice(records);
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    bytes[ATTRIBUTES_AT + 1] = attributes;
    bytes[LAST_DELTA_AT..LAST_DELTA_AT + 4].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_be_bytes());
    sealed(bytes)
}

/// Two records at `NOW`, with these offset deltas, without key.
fn two_records(first_delta: u8, second_delta: u8) -> Vec<u8> {
    // length 7, attributes, timestamp delta 0, offset delta, key -1, value of one byte, no headers; zig-zag doubles.
    let record = |delta: u8| [14, 0, 0, 2 * delta, 1, 2, b'v', 0];
    [record(first_delta), record(second_delta)].concat()
}

/// Snappy that only copies: the length, then one literal.
fn snappy(plain: &[u8]) -> Vec<u8> {
    let len = u8::try_from(plain.len()).unwrap();
    assert!(len <= 60);
    [&[len, (len - 1) << 2], plain].concat()
}

struct Case {
    config: LogConfig,
    machine: Machine,
    log: PartitionLog,
}

impl Case {
    fn new(config: LogConfig) -> Self {
        let machine = Machine::new();
        let log = machine.open(config.clone());
        for n in 0..3 {
            log.append(batch(&[&format!("before {n}")]), client()).unwrap();
        }
        Self { config, machine, log }
    }

    /// The append is refused with an error whose text has `advice`, and nothing has changed.
    fn refuses(&self, batches: &[Vec<u8>], origin: AppendAs, advice: &str) -> AppendError {
        let (files, marks, held) = (self.machine.snapshot(), self.log.marks(), contents(&self.log));
        let counted = self.log.metrics().appended_batches.value();
        let joined = batches.concat();
        let errors = [
            self.log.append(batches.to_vec(), origin).unwrap_err(),
            self.log.append(joined.clone(), origin).unwrap_err(),
            self.log.append(&joined, origin).unwrap_err(),
        ];
        for error in &errors {
            let text = error.to_string();
            assert!(text.contains(advice), "{text:?} lacks {advice:?}");
        }
        let mut lent = joined.clone();
        self.log.append(&mut lent, origin).unwrap_err();
        assert_eq!(lent, joined, "a lent buffer is put back");
        assert_unchanged(&files, &self.machine.snapshot(), advice);
        assert_eq!((self.log.marks(), contents(&self.log)), (marks, held));
        assert_eq!(self.log.metrics().appended_batches.value(), counted);
        assert!(self.log.health().failed.is_none());
        errors.into_iter().next().unwrap()
    }

    fn refuses_one(&self, bytes: Vec<u8>, origin: AppendAs, advice: &str) -> InvalidBatch {
        match self.refuses(&[bytes], origin, advice) {
            AppendError::Invalid { batch: 0, cause } => cause,
            other => panic!("{other:?}"),
        }
    }

    fn breaks(&self, bytes: Vec<u8>, origin: AppendAs, advice: &str) -> BrokenRule {
        match self.refuses_one(bytes, origin, advice) {
            InvalidBatch::Rule(rule) => rule,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Case {
    /// After all that was refused, the log goes on as if nothing had been.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let end = self.log.log_end();
        if self.config.message_timestamp_type == TimestampType::CreateTime && end < at(1000) {
            let epoch = LeaderEpoch::new(9).unwrap();
            let appended = self.log.append(batch(&["after"]), AppendAs::Client { epoch }).unwrap();
            assert_eq!(appended.base_offset(), end);
            assert_eq!(contents(&self.log).last().unwrap().2, "after");
        }
    }
}

#[test]
fn too_large_for_a_client() {
    let case = Case::new(LogConfig { max_message_bytes: 120, ..small() });
    let large = batch(&["value"; 20]).into_bytes();
    let size = large.len() as u64;
    let rule = case.breaks(large, client(), "split it or raise the limit");
    assert_eq!(rule, BrokenRule::TooLarge { size, max: 120 });
    // Others are not limited: what the leader took the follower takes.
    case.log.append(batch(&["value"; 20]), coordinator()).unwrap();
    case.log.append(given(23, &["value"; 20]), AppendAs::Follower).unwrap();
}

#[test]
fn larger_than_a_segment() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        let large = given(0, &["value"; 60]).into_bytes();
        let size = large.len() as u64;
        let rule = case.breaks(large, origin, "raise segment.bytes");
        assert_eq!(rule, BrokenRule::LargerThanSegment { size, max: 600 });
        // Several that together do not fit: an append is never split between segments.
        let some: Vec<Vec<u8>> =
            (0..10).map(|n| given(if origin == AppendAs::Follower { 3 + n } else { 0 }, &["v"]).into_bytes()).collect();
        match case.refuses(&some, origin, "raise segment.bytes") {
            AppendError::Invalid { cause: InvalidBatch::Rule(BrokenRule::LargerThanSegment { size, .. }), .. } => {
                assert_eq!(size, some.concat().len() as u64);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn mis_sized() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        let whole = given(3, &["one", "two"]).into_bytes();
        let cut = whole[..whole.len() - 1].to_vec();
        let (need, have) = (whole.len() as u64, cut.len() as u64);
        let cause = case.refuses_one(cut, origin, "send whole batches");
        assert_eq!(cause, InvalidBatch::Short { need, have });
        let cause = case.refuses_one(whole[..20].to_vec(), origin, "send whole batches");
        assert_eq!(cause, InvalidBatch::Short { need: 61, have: 20 });
        for length in [-1, 0, 48, i32::MIN] {
            let cause = case.refuses_one(with(LENGTH_AT, &length.to_be_bytes()), origin, "the header is damaged");
            assert!(matches!(cause, InvalidBatch::Length { batch_length, .. } if batch_length == length), "{cause:?}");
        }
        let cause = case.refuses_one(with(LENGTH_AT, &i32::MAX.to_be_bytes()), origin, "send whole batches");
        assert!(matches!(cause, InvalidBatch::Short { .. }), "{cause:?}");
    }
}

#[test]
fn more_bytes_than_records() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        let longer = assembled(0, 2, &[two_records(0, 1), vec![0; 3]].concat());
        let longer = if origin == AppendAs::Follower { at_offset(3, longer) } else { longer };
        let cause = case.refuses_one(longer, origin, "the count or the length is wrong");
        assert_eq!(cause, InvalidBatch::Trailing { bytes: 3 });
    }
}

fn at_offset(base: i64, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes
}

#[test]
fn wrong_magic() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        for magic in [0_i8, 1, 3, -1] {
            let cause = case.refuses_one(with(MAGIC_AT, &magic.to_be_bytes()), origin, "convert v0 and v1");
            assert_eq!(cause, InvalidBatch::Magic { found: magic });
        }
    }
}

#[test]
fn wrong_checksum() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        let mut bytes = given(if origin == AppendAs::Follower { 3 } else { 0 }, &["one", "two"]).into_bytes();
        *bytes.last_mut().unwrap() ^= 1;
        let cause = case.refuses_one(bytes, origin, "changed after the batch was built");
        assert!(matches!(cause, InvalidBatch::Crc { .. }), "{cause:?}");
    }
}

/// A crate was seen to take three records with last offset delta 0, so that an offset existed twice.
#[test]
fn count_and_last_offset_delta_that_disagree() {
    for origin in [client(), coordinator(), AppendAs::Follower] {
        let case = Case::new(small());
        let cause = case.refuses_one(with(LAST_DELTA_AT, &0_i32.to_be_bytes()), origin, "they must agree");
        assert_eq!(cause, InvalidBatch::Count { count: 2, last_offset_delta: 0 });
        let cause = case.refuses_one(with(COUNT_AT, &5_i32.to_be_bytes()), origin, "they must agree");
        assert_eq!(cause, InvalidBatch::Count { count: 5, last_offset_delta: 1 });
        let cause = case.refuses_one(with(COUNT_AT, &(-1_i32).to_be_bytes()), origin, "recordsCount");
        assert!(matches!(cause, InvalidBatch::Field { field: "recordsCount", value: -1 }), "{cause:?}");
    }
    let case = Case::new(small());
    let cause = case.refuses_one(with(LAST_DELTA_AT, &4_i32.to_be_bytes()), client(), "they must agree");
    assert_eq!(cause, InvalidBatch::Count { count: 2, last_offset_delta: 4 });
    // Fewer records than declared.
    let cause = case.refuses_one(assembled(0, 3, &two_records(0, 1)), client(), "record 2");
    assert!(matches!(cause, InvalidBatch::Record { index: 2, .. }), "{cause:?}");
    let follower = at_offset(3, assembled(0, 3, &two_records(0, 1)));
    let cause = case.refuses_one(follower, AppendAs::Follower, "record 2");
    assert!(matches!(cause, InvalidBatch::Record { index: 2, .. }), "{cause:?}");
}

#[test]
fn offsets_that_are_not_dense() {
    let case = Case::new(small());
    for origin in [client(), coordinator()] {
        for (attributes, records) in [(0, two_records(0, 2)), (2, snappy(&two_records(0, 2)))] {
            let rule = case.breaks(assembled(attributes, 2, &records), origin, "deltas must be 0, 1, 2");
            assert_eq!(rule, BrokenRule::NotDense { index: 1, found: 2 });
        }
        let rule = case.breaks(assembled(0, 2, &two_records(1, 0)), origin, "deltas must be 0, 1, 2");
        assert_eq!(rule, BrokenRule::NotDense { index: 0, found: 1 });
    }
    // A follower's may have holes, but must rise and end with the batch.
    let cause = case.refuses_one(at_offset(3, assembled(0, 2, &two_records(1, 0))), AppendAs::Follower, "is due");
    let fault = InvalidRecord::OffsetDelta { found: 0, expected: 2 };
    assert!(matches!(cause, InvalidBatch::Record { index: 1, fault: found, .. } if found == fault), "{cause:?}");
    let cause = case.refuses_one(at_offset(3, assembled(0, 2, &two_records(0, 2))), AppendAs::Follower, "past the");
    let fault = InvalidRecord::OffsetDeltaPastLast { found: 2, last: 1 };
    assert!(matches!(cause, InvalidBatch::Record { index: 1, fault: found, .. } if found == fault), "{cause:?}");
}

#[test]
fn records_of_a_bomb_and_of_a_broken_codec() {
    let case = Case::new(LogConfig { max_decompressed_bytes: 1024, segment_bytes: 6000, ..small() });
    let zeros = "0".repeat(100_000);
    for codec in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
        let mut builder = BatchBuilder::new();
        builder.compression(codec).record(ms(NOW), None, Some(zeros.as_bytes()));
        let cause = case.refuses_one(builder.build().unwrap().into_bytes(), client(), "send smaller batches");
        assert_eq!(cause, InvalidBatch::Bomb { limit: 1024 }, "{codec:?}");
    }
    for codec in 1..=4 {
        let cause = case.refuses_one(assembled(codec, 2, &two_records(0, 1)), client(), "have the producer send it");
        assert!(matches!(cause, InvalidBatch::Decompress { .. }), "{cause:?}");
    }
    let cause = case.refuses_one(assembled(5, 2, &two_records(0, 1)), client(), "codes 0 to 4 exist");
    assert_eq!(cause, InvalidBatch::UnknownCodec { code: 5 });
}

#[test]
fn control_from_a_client() {
    let case = Case::new(small());
    let rule = case.breaks(with(ATTRIBUTES_AT + 1, &[0b10_0000]), client(), "append as Coordinator");
    assert_eq!(rule, BrokenRule::ControlFromClient);
    // A coordinator's must at least say what it is.
    let rule = case.breaks(with(ATTRIBUTES_AT + 1, &[0b10_0000]), coordinator(), "no valid version and type");
    assert_eq!(rule, BrokenRule::ControlKey { index: 0 });
}

#[test]
fn no_records() {
    let case = Case::new(small());
    for origin in [client(), coordinator()] {
        let mut empty = batch(&["x"]).into_bytes();
        empty.truncate(RECORDS_AT);
        empty[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&49_i32.to_be_bytes());
        empty[COUNT_AT..COUNT_AT + 4].copy_from_slice(&0_i32.to_be_bytes());
        assert_eq!(case.breaks(sealed(empty), origin, "send at least one"), BrokenRule::Empty);
        for nothing in [Vec::new(), vec![Vec::new()], vec![Vec::new(), Vec::new()]] {
            let error = case.refuses(&nothing, origin, "pass at least one");
            assert!(matches!(error, AppendError::Nothing), "{error:?}");
        }
    }
    let error = case.refuses(&[], AppendAs::Follower, "pass at least one");
    assert!(matches!(error, AppendError::Nothing), "{error:?}");
}

#[test]
fn offsets_that_a_client_may_not_choose() {
    let case = Case::new(small());
    let rule = case.breaks(given(3, &["x"]).into_bytes(), client(), "the log assigns the offset");
    assert_eq!(rule, BrokenRule::BaseOffset { found: 3 });
    let cause = case.refuses_one(with(0, &(-1_i64).to_be_bytes()), client(), "baseOffset");
    assert_eq!(cause, InvalidBatch::Field { field: "baseOffset", value: -1 });
}

#[test]
fn offsets_of_a_follower_that_do_not_rise() {
    let case = Case::new(small());
    for base in 0..3 {
        let error = case.refuses(&[given(base, &["x"]).into_bytes()], AppendAs::Follower, "fetch from the log end");
        let AppendError::NotMonotone { batch: 0, base_offset, log_end } = error else { panic!("{error:?}") };
        assert_eq!((base_offset, log_end), (base, at(3)));
    }
    let overlapping = [given(3, &["x", "y"]), given(4, &["z"])].map(alluvium::record::RecordBatch::into_bytes);
    let error = case.refuses(&overlapping, AppendAs::Follower, "fetch from the log end");
    assert!(matches!(error, AppendError::NotMonotone { batch: 1, base_offset: 4, .. }), "{error:?}");
    let cause =
        case.refuses_one(at_offset(i64::MAX - 1, batch(&["x", "y"]).into_bytes()), AppendAs::Follower, "overflows");
    assert!(matches!(cause, InvalidBatch::OffsetOverflow { .. }), "{cause:?}");
}

#[test]
fn no_offset_left() {
    let case = Case::new(small());
    let last = at(i64::MAX - 2);
    case.log.truncate_fully_and_start_at(last).unwrap();
    let error = case.refuses(&[batch(&["a", "b", "c"]).into_bytes()], client(), "leaves no room");
    assert!(matches!(error, AppendError::OffsetsExhausted { records: 3, log_end } if log_end == last), "{error:?}");
    case.log.append(batch(&["a", "b"]), client()).unwrap();
    assert_eq!(case.log.log_end(), Offset::MAX);
    let error = case.refuses(&[batch(&["c"]).into_bytes()], client(), "leaves no room");
    assert!(matches!(error, AppendError::OffsetsExhausted { records: 1, .. }), "{error:?}");
}

#[test]
fn an_epoch_that_is_over() {
    let case = Case::new(small());
    let as_leader = |epoch: i32| AppendAs::Client { epoch: LeaderEpoch::new(epoch).unwrap() };
    case.log.append(batch(&["x"]), as_leader(5)).unwrap();
    for origin in [as_leader(4), AppendAs::Coordinator { epoch: LeaderEpoch::new(0).unwrap() }] {
        let error = case.refuses(&[batch(&["y"]).into_bytes()], origin, "another leader took over");
        let AppendError::FencedEpoch { newest, .. } = error else { panic!("{error:?}") };
        assert_eq!(newest, LeaderEpoch::new(5).unwrap());
    }
    // The fence stands after a clean and after an unclean restart.
    case.log.close().unwrap();
    let log = case.machine.open(small());
    assert!(matches!(log.append(batch(&["y"]), as_leader(4)), Err(AppendError::FencedEpoch { .. })));
    drop(log);
    let log = case.machine.open(small());
    assert!(matches!(log.append(batch(&["y"]), as_leader(4)), Err(AppendError::FencedEpoch { .. })));
    log.append(batch(&["y"]), as_leader(5)).unwrap();
    drop(log);
    // Keeps `Drop` from using the closed log.
    std::mem::forget(case);
}

#[test]
fn producers_that_are_half_given() {
    let case = Case::new(small());
    let rule = case.breaks(with(PRODUCER_ID_AT, &7_i64.to_be_bytes()), client(), "both must be 0 or more");
    assert_eq!(rule, BrokenRule::Producer { producer_id: 7, epoch: -1, sequence: -1 });
    let mut builder = BatchBuilder::new();
    builder.producer(ProducerId::new(7).unwrap(), ProducerEpoch::new(0).unwrap(), None);
    let without_sequence = builder.record(ms(NOW), None, Some(b"v")).build().unwrap();
    let rule = case.breaks(without_sequence.as_bytes().to_vec(), client(), "both must be 0 or more");
    assert_eq!(rule, BrokenRule::Producer { producer_id: 7, epoch: 0, sequence: -1 });
    // Group coordinators write so in transactions.
    case.log.append(without_sequence, coordinator()).unwrap();
    let rule = case.breaks(with(ATTRIBUTES_AT + 1, &[0b1_0000]), client(), "no producer id");
    assert_eq!(rule, BrokenRule::TransactionalWithoutProducer);
}

#[test]
fn no_key_in_a_compacted_log() {
    let case = Case::new(LogConfig { cleanup_policy: CleanupPolicy::Compact, ..small() });
    for (attributes, records) in [(0, two_records(0, 1)), (2, snappy(&two_records(0, 1)))] {
        let rule = case.breaks(assembled(attributes, 2, &records), client(), "every record of a compacted log");
        assert_eq!(rule, BrokenRule::MissingKey { index: 0 });
    }
}

#[test]
fn timestamps_out_of_bounds() {
    let config = LogConfig { message_timestamp_before_max_ms: 1000, message_timestamp_after_max_ms: 50, ..small() };
    let case = Case::new(config);
    let rule = case.breaks(batch_at(NOW + 50, &["in", "out"]).into_bytes(), client(), "check the producer's clock");
    let right = BrokenRule::Timestamp { index: 1, timestamp: NOW + 51, earliest: NOW - 1000, latest: NOW + 50 };
    assert_eq!(rule, right);
    let rule = case.breaks(batch_at(NOW - 1001, &["out", "in"]).into_bytes(), client(), "check the producer's clock");
    assert!(matches!(rule, BrokenRule::Timestamp { index: 0, .. }), "{rule:?}");
    case.log.append(batch_at(NOW - 1000, &["in"]), client()).unwrap();
    // No timestamp at all is not out of bounds, and a coordinator has none.
    case.log.append(batch_at(-1, &["none"]), client()).unwrap();
    case.log.append(batch_at(NOW + 51, &["in"]), coordinator()).unwrap();
}

#[test]
fn timestamps_that_are_not_what_the_header_says() {
    let case = Case::new(small());
    let rule = case.breaks(with(MAX_TIMESTAMP_AT, &(NOW + 7).to_be_bytes()), client(), "max timestamp");
    assert_eq!(rule, BrokenRule::MaxTimestamp { declared: NOW + 7, found: NOW + 1 });
    let rule = case.breaks(with(ATTRIBUTES_AT + 1, &[0b1000]), client(), "clients send create time");
    assert_eq!(rule, BrokenRule::TimestampType);
    let rule = case.breaks(with(ATTRIBUTES_AT + 1, &[0b100_0000]), client(), "only the cleaner sets one");
    assert_eq!(rule, BrokenRule::DeleteHorizon);
}

/// All or none, wherever the bad one is, however the batches are handed over, and also when time was to be stamped.
#[test]
fn one_bad_batch_among_several() {
    for message_timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let case = Case::new(LogConfig { message_timestamp_type, ..small() });
        for bad in 0..4 {
            let batches: Vec<Vec<u8>> =
                (0..4).map(|n| if n == bad { with(COUNT_AT, &9_i32.to_be_bytes()) } else { with(0, &[0]) }).collect();
            match case.refuses(&batches, client(), &format!("batch {bad} of the append")) {
                AppendError::Invalid { batch, cause: InvalidBatch::Count { count: 9, .. } } => assert_eq!(batch, bad),
                other => panic!("{other:?}"),
            }
        }
        let mut torn: Vec<Vec<u8>> = (0..3).map(|_| batch(&["x"]).into_bytes()).collect();
        torn[2].truncate(69);
        let error = case.refuses(&torn, client(), "send whole batches");
        assert!(matches!(error, AppendError::Invalid { batch: 2, .. }), "{error:?}");
    }
    let case = Case::new(small());
    let given: Vec<Vec<u8>> = [3, 4, 4].map(|base| given(base, &["x"]).into_bytes()).to_vec();
    let error = case.refuses(&given, AppendAs::Follower, "fetch from the log end");
    assert!(matches!(error, AppendError::NotMonotone { batch: 2, .. }), "{error:?}");
}
