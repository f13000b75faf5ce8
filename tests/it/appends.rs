//! What appending does with what it is given: offsets with gaps and near the ends of their range, several batches a call,
//! buffers that are lent, time of append, coordinators.

use alluvium::error::{AppendError, ReadError};
use alluvium::record::{BatchBuilder, BatchView, Compression, ControlRecord, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, Batches, CleanupPolicy, LeaderEpoch, LogConfig, Offset, PartitionLog, ProducerEpoch, ProducerId,
    ReadOptions, TimestampType,
};

use crate::support::{
    Machine, NOW, at, batch, batch_at, client, contents, contents_around_damage, coordinator, findings, given, ms,
    small,
};

const FAR: i64 = 1 << 31;

fn compacted() -> LogConfig {
    LogConfig { cleanup_policy: CleanupPolicy::Compact, ..small() }
}

fn offsets(log: &PartitionLog) -> Vec<i64> {
    contents(log).iter().map(|(offset, ..)| *offset).collect()
}

/// What reading from each offset finds first: the record, or the next one past a gap.
fn check_every_way_in(log: &PartitionLog, all: &[i64]) {
    let around = all.iter().flat_map(|offset| [offset - 1, *offset, offset + 1]);
    for asked in around.filter(|asked| (0..log.log_end().value()).contains(asked)) {
        let right = *all.iter().find(|offset| **offset >= asked).unwrap();
        let batches = log.read(at(asked), &ReadOptions::default()).unwrap().batches().unwrap();
        let first = batches.iter().next().unwrap().unwrap().header().base_offset;
        assert_eq!(first, at(right), "asked for {asked}");
    }
}

#[test]
fn a_followers_gaps_are_kept() {
    let machine = Machine::new();
    let log = machine.open(small());
    let mut all = Vec::new();
    for (n, gap) in [0, 1, 0, 5, 1000, 0, 1 << 20, 3, 3, 0, 1 << 29, 0, 2].into_iter().cycle().take(40).enumerate() {
        let base = log.log_end().value() + gap;
        let appended = log.append(given(base, &[&format!("record {n}")]), AppendAs::Follower).unwrap();
        assert_eq!((appended.base_offset(), appended.end()), (at(base), at(base + 1)));
        all.push(base);
    }
    assert!(log.segment_files().len() > 3);
    assert_eq!(offsets(&log), all);
    check_every_way_in(&log, &all);
    drop(log);
    let machine = machine.kill();
    let log = machine.open(small());
    assert_eq!(findings(&log), []);
    assert_eq!(offsets(&log), all);
    log.close().unwrap();
    check_every_way_in(&machine.open(small()), &all);
}

/// The first offset that a segment cannot name relative to its base starts another one.
#[test]
fn relative_offsets_at_their_limit() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    for base in [0, FAR - 1, FAR, FAR + 1] {
        log.append(given(base, &["x"]), AppendAs::Follower).unwrap();
    }
    let names: Vec<_> = log.segment_files();
    assert_eq!(names, [Machine::log_path(0), Machine::log_path(FAR)]);
    let all = [0, FAR - 1, FAR, FAR + 1];
    assert_eq!(offsets(&log), all);
    check_every_way_in(&log, &all);
    // A batch that only its last offset takes over the limit.
    log.truncate_fully_and_start_at(at(0)).unwrap();
    log.append(given(0, &["x"]), AppendAs::Follower).unwrap();
    log.append(given(FAR - 1, &["x", "y"]), AppendAs::Follower).unwrap();
    assert_eq!(log.segment_files(), [Machine::log_path(0), Machine::log_path(1)]);
    assert_eq!(offsets(&log), [0, FAR - 1, FAR]);
    log.close().unwrap();
    assert_eq!(offsets(&machine.open(compacted())), [0, FAR - 1, FAR]);
}

/// Too far past the log end for the next segment to start there: what precedes the gap is made durable, and the segment
/// starts behind it.
#[test]
fn a_gap_of_more_than_two_to_the_31_is_a_barrier() {
    for gap in [FAR + 1, FAR * 5, 1 << 60] {
        let machine = Machine::new();
        let log = machine.open(compacted());
        log.append(given(0, &["before"]), AppendAs::Follower).unwrap();
        assert_eq!(log.durable_end(), at(0));
        log.append(given(gap, &["behind"]), AppendAs::Follower).unwrap();
        assert_eq!((log.durable_end(), log.recovery_point()), (at(1), at(gap)), "{gap}");
        log.append(given(gap + 1, &["and on"]), AppendAs::Follower).unwrap();
        assert_eq!(log.segment_files(), [Machine::log_path(0), Machine::log_path(gap)]);
        let all = [0, gap, gap + 1];
        assert_eq!(offsets(&log), all);
        check_every_way_in(&log, &all);
        drop(log);
        // Not taken for a loss by the next opening, whatever the disk kept of what was not synced.
        for seed in 0..20 {
            let after = Machine { fs: machine.fs.power_loss(seed), ..machine.clone() };
            let log = after.open(compacted());
            assert_eq!(log.recovery_report().damage().count(), 0, "{gap}, seed {seed}");
            let found = offsets(&log);
            assert!(!found.is_empty() && all.starts_with(&found), "{gap}, seed {seed}: {found:?}");
        }
        let log = machine.kill().open(compacted());
        assert_eq!(findings(&log), []);
        assert_eq!(offsets(&log), all);
        log.close().unwrap();
    }
}

/// Where nothing is cleaned such a gap is not joined over without a word; it is told by its range.
#[test]
fn a_barrier_in_a_log_that_is_not_compacted_is_told_to_readers() {
    let machine = Machine::new();
    let log = machine.open(small());
    log.append(given(0, &["before"]), AppendAs::Follower).unwrap();
    log.append(given(FAR * 2, &["behind"]), AppendAs::Follower).unwrap();
    let error = log.read(at(1), &ReadOptions::default()).unwrap_err();
    let ReadError::Damaged(hole) = error else { panic!("{error:?}") };
    assert_eq!(hole.offsets, at(1)..at(FAR * 2));
    let (found, holes) = contents_around_damage(&log);
    assert_eq!((found.len(), holes), (2, vec![(1, FAR * 2)]));
}

#[test]
fn offsets_near_two_to_the_63() {
    let last = i64::MAX - 1;
    let machine = Machine::new();
    let log = machine.open(small());
    log.truncate_fully_and_start_at(at(last - 20)).unwrap();
    for n in 0..20 {
        assert_eq!(log.append(batch(&["x"]), client()).unwrap().base_offset(), at(last - 20 + n));
    }
    log.append(given(last, &["the last one"]), AppendAs::Follower).unwrap();
    assert_eq!(log.log_end(), Offset::MAX);
    let all: Vec<i64> = (last - 20..=last).collect();
    assert_eq!(offsets(&log), all);
    assert!(log.read(Offset::MAX, &ReadOptions::default()).unwrap().is_empty());
    let error = log.append(batch(&["x"]), client()).unwrap_err();
    assert!(matches!(error, AppendError::OffsetsExhausted { .. }), "{error:?}");
    drop(log);
    let machine = machine.kill();
    let log = machine.open(small());
    assert_eq!(offsets(&log), all);
    log.flush().unwrap();
    log.truncate_to(at(last - 3)).unwrap();
    assert_eq!(offsets(&log), all[..17]);
    log.close().unwrap();
    assert_eq!(offsets(&machine.open(small())), all[..17]);
}

#[test]
fn several_batches_a_call_however_they_come() {
    let batches = || (0..5).map(|n| batch(&[&format!("{n}.0"), &format!("{n}.1")])).collect::<Vec<RecordBatch>>();
    let bytes = || batches().into_iter().map(RecordBatch::into_bytes).collect::<Vec<_>>();
    let right: Vec<String> = (0..5).flat_map(|n| [format!("{n}.0"), format!("{n}.1")]).collect();
    let config = LogConfig { segment_bytes: 1 << 20, ..small() };
    let with = |append: &dyn Fn(&PartitionLog) -> alluvium::Appended| {
        let machine = Machine::new();
        let log = machine.open(config.clone());
        log.append(batch(&["first"]), client()).unwrap();
        let appended = append(&log);
        assert_eq!((appended.base_offset(), appended.end(), log.log_end()), (at(1), at(11), at(11)));
        let found = contents(&log);
        assert_eq!(found.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
        assert_eq!(found.into_iter().skip(1).map(|(.., value)| value).collect::<Vec<_>>(), right);
        assert_eq!(log.metrics().appended_batches.value(), 6);
        assert_eq!(log.metrics().appended_bytes.value(), machine.read("00000000000000000000.log").len() as u64);
        machine.read("00000000000000000000.log")
    };
    let joined = with(&|log| log.append(bytes().concat(), client()).unwrap());
    assert_eq!(with(&|log| log.append(batches(), client()).unwrap()), joined);
    assert_eq!(with(&|log| log.append(bytes(), client()).unwrap()), joined);
    assert_eq!(with(&|log| log.append(&bytes().concat(), client()).unwrap()), joined);
    assert_eq!(with(&|log| log.append(&mut bytes().concat(), client()).unwrap()), joined);
    // Buffers of one, of several, and of none.
    let mixed = || {
        let all = bytes();
        vec![all[0].clone(), Vec::new(), all[1..4].concat(), all[4].clone()]
    };
    assert_eq!(with(&|log| log.append(mixed(), client()).unwrap()), joined);
}

/// More buffers than the kernel takes in one call, on the real file system.
#[test]
fn thousands_of_batches_in_one_call() {
    let temp = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(temp.path(), LogConfig { segment_bytes: 1 << 20, ..small() }).unwrap();
    let batches: Vec<Vec<u8>> = (0..3000).map(|n| batch(&[&format!("record {n}")]).into_bytes()).collect();
    log.append(batches, client()).unwrap();
    let found = contents(&log);
    assert_eq!(found.len(), 3000);
    assert!(found.iter().zip(0..).all(|((offset, _, value), n)| *offset == n && *value == format!("record {n}")));
}

#[test]
fn a_lent_buffer_holds_what_was_written() {
    for message_timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let machine = Machine::new();
        let log = machine.open(LogConfig { message_timestamp_type, ..small() });
        log.append(batch(&["before"]), client()).unwrap();
        let epoch = LeaderEpoch::new(7).unwrap();
        let mut buffer = [batch(&["one", "two"]).into_bytes(), batch(&["three"]).into_bytes()].concat();
        log.append(Batches::InPlace(&mut buffer), AppendAs::Client { epoch }).unwrap();
        let file = machine.read("00000000000000000000.log");
        assert_eq!(file[file.len() - buffer.len()..], buffer);
        let first = BatchView::parse(&buffer, u32::MAX).unwrap();
        assert_eq!((first.header().base_offset, first.header().leader_epoch), (at(1), Some(epoch)));
        first.verify_crc().unwrap();
    }
}

#[test]
fn time_of_append_is_stamped_into_every_batch_of_every_codec() {
    let machine = Machine::new();
    let config = LogConfig {
        message_timestamp_type: TimestampType::LogAppendTime,
        // What a producer says of the time does not matter then.
        message_timestamp_after_max_ms: 0,
        message_timestamp_before_max_ms: 0,
        segment_bytes: 4096,
        ..small()
    };
    let log = machine.open(config);
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (n, codec) in (0..).zip(codecs) {
        machine.clock.set_wall(NOW + n);
        let mut builder = BatchBuilder::new();
        builder.compression(codec);
        builder.record(ms(5), Some(b"k"), Some(b"a")).record(ms(NOW * 2), Some(b"k"), Some(b"b"));
        let appended = log.append(builder.build().unwrap(), client()).unwrap();
        assert_eq!(appended.append_time(), Some(ms(NOW + n)));
    }
    let found = contents(&log);
    let right: Vec<(i64, i64)> = (0..10).map(|offset| (offset, NOW + offset / 2)).collect();
    assert_eq!(found.iter().map(|(offset, timestamp, _)| (*offset, *timestamp)).collect::<Vec<_>>(), right);
    let fetched = log.read(at(0), &ReadOptions::default()).unwrap().batches().unwrap();
    for batch in fetched.iter() {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    }
    for n in 0..5 {
        let found = log.offset_for_timestamp(ms(NOW + n)).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (at(2 * n), ms(NOW + n)));
    }
    // A follower's batches keep the time that they came with.
    let appended = log.append(given(10, &["theirs"]), AppendAs::Follower).unwrap();
    assert_eq!(appended.append_time(), None);
    assert_eq!(contents(&log).last().unwrap().1, NOW + 10);
}

#[test]
fn a_coordinators_control_batches_are_data_to_the_log_and_control_to_readers() {
    let machine = Machine::new();
    let log = machine.open(small());
    let producer = (ProducerId::new(9).unwrap(), ProducerEpoch::new(2).unwrap());
    for (n, end) in [(0, TransactionEnd::Commit), (1, TransactionEnd::Abort)] {
        let marker = RecordBatch::end_transaction_marker(end, producer, 40 + n, ms(NOW));
        let appended = log.append(marker, coordinator()).unwrap();
        assert_eq!(appended.base_offset(), at(i64::from(n)));
    }
    let fetched = log.read(at(0), &ReadOptions::default()).unwrap().batches().unwrap();
    let found: Vec<ControlRecord> = fetched
        .iter()
        .map(|batch| {
            let batch = batch.unwrap();
            assert!(batch.header().attributes.is_control() && batch.header().attributes.is_transactional());
            assert_eq!(batch.header().producer_id, Some(producer.0));
            let body = batch.body(0).unwrap();
            let record = body.records().next().unwrap().unwrap();
            ControlRecord::parse(record.key, record.value).unwrap()
        })
        .collect();
    let right = [ControlRecord::Commit { coordinator_epoch: 40 }, ControlRecord::Abort { coordinator_epoch: 41 }];
    assert_eq!(found, right);
}

/// The disk fills in the middle of a batch: the part is cut off, readers see nothing of it, and appends go on when there
/// is space.
#[test]
fn a_full_disk_costs_the_append_and_nothing_else() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { segment_bytes: 1 << 20, ..small() });
    log.append(batch(&["before"]), client()).unwrap();
    let files = machine.snapshot();
    let used: u64 = files.values().flatten().map(|bytes| bytes.len() as u64).sum();
    for room in [0, 1, 60, 61, 100] {
        machine.fs.set_capacity(Some(used + room));
        let error = log.append(batch(&["x".repeat(200).as_str()]), client()).unwrap_err();
        let AppendError::Io(failure) = error else { panic!("{error:?}") };
        assert!(failure.is_storage_full());
        assert_eq!((log.log_end(), contents(&log).len()), (at(1), 1), "{room}");
        crate::support::assert_unchanged(&files, &machine.snapshot(), "full");
    }
    assert!(log.metrics().undone_appends.value() >= 1);
    assert!(log.health().failed.is_none());
    machine.fs.set_capacity(None);
    log.append(batch_at(NOW, &["after"]), client()).unwrap().wait_durable(std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(offsets(&log), [0, 1]);
    drop(log);
    assert_eq!(offsets(&machine.kill().open(small())), [0, 1]);
}
