//! Append, read, truncate, close and open again.

use std::time::Duration;

use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, Isolation, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadOptions, TimestampMs};

fn batch(values: &[&str]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for (timestamp, value) in (1_700_000_000_000..).zip(values) {
        builder.record(TimestampMs::new(timestamp), Some(b"k"), Some(value.as_bytes()));
    }
    builder.build().unwrap().into_bytes()
}

fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn values(log: &PartitionLog) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    let mut next = log.log_start();
    loop {
        let fetched = log.read(next, &ReadOptions { max_bytes: 300, ..ReadOptions::default() }).unwrap();
        if fetched.is_empty() {
            return all;
        }
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            for record in batch.body(1 << 20).unwrap().records() {
                let record = record.unwrap();
                all.push((record.offset.value(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
            }
        }
        next = fetched.next_offset().unwrap();
    }
}

#[test]
fn a_log_appends_reads_truncates_and_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/orders-0");
    let config = LogConfig { segment_bytes: 600, index_interval_bytes: 100, ..LogConfig::default() };
    let log = PartitionLog::open(&path, config.clone()).unwrap();
    let mut expected = Vec::new();
    for n in 0..100_i64 {
        let value = format!("value-{n}");
        let appended = log.append(batch(&[&value, "second"]), client()).unwrap();
        assert_eq!(appended.base_offset(), at(2 * n));
        expected.push((2 * n, value));
        expected.push((2 * n + 1, "second".to_owned()));
        if n % 10 == 0 {
            appended.wait_durable(Duration::from_secs(5)).unwrap();
            assert_eq!(log.durable_end(), at(2 * n + 2));
        }
    }
    assert_eq!(values(&log), expected);
    let durable = ReadOptions { isolation: Isolation::Durable, ..ReadOptions::default() };
    assert!(log.read(at(183), &durable).unwrap().is_empty());
    assert!(log.segment_files().len() > 10);
    let found = log.offset_for_timestamp(TimestampMs::new(1_700_000_000_001)).unwrap().unwrap();
    assert_eq!(found.offset, at(1));
    assert_eq!(log.truncate_to(at(51)).unwrap(), at(50));
    expected.truncate(50);
    assert_eq!(values(&log), expected);
    log.append(batch(&["new"]), client()).unwrap();
    expected.push((50, "new".to_owned()));
    log.close().unwrap();

    let log = PartitionLog::open(&path, config.clone()).unwrap();
    assert!(log.recovery_report().was_clean, "{:?}", log.recovery_report());
    assert_eq!(values(&log), expected);
    log.append(batch(&["unclean"]), client()).unwrap();
    expected.push((51, "unclean".to_owned()));
    drop(log);

    let log = PartitionLog::open(&path, config.clone()).unwrap();
    assert!(!log.recovery_report().was_clean);
    assert_eq!(values(&log), expected);
    assert_eq!(log.durable_end(), log.log_end());
    log.truncate_fully_and_start_at(at(7000)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (at(7000), at(7000)));
    log.append(batch(&["fresh"]), client()).unwrap();
    assert_eq!(values(&log), [(7000, "fresh".to_owned())]);
    drop(log);
    let log = PartitionLog::open(&path, config).unwrap();
    assert_eq!(values(&log), [(7000, "fresh".to_owned())]);
}
