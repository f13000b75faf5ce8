//! Scans, the latest of each key, and tables on compacted logs.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use alluvium::error::{CorruptionKind, InvalidBatch};
use alluvium::fs::sim::Survival;
use alluvium::index::EpochEnd;
use alluvium::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd};
use alluvium::table::{
    Acknowledge, Change, CompactedTable, LatestOptions, OnConflict, OnScanDamage, ScanOptions, TableError,
    TableOptions, latest_by_key, scan_records,
};
use alluvium::units::{ProducerEpoch, ProducerId, Sequence};
use alluvium::{
    AppendAs, AppendError, CleanupPolicy, Isolation, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadError,
};

use crate::support::{LONG, Machine, NOW, at, coordinator, ms, small};

type Pairs = BTreeMap<String, String>;

fn compacted() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        transaction_partition_verification_enable: false,
        segment_bytes: 2000,
        ..small()
    }
}

fn options() -> TableOptions {
    TableOptions { acknowledge: Acknowledge::Cached, ..TableOptions::new(coordinator()) }
}

fn led_by(epoch: i32) -> AppendAs {
    AppendAs::Coordinator { epoch: LeaderEpoch::new(epoch).unwrap() }
}

fn pairs(table: &CompactedTable) -> Pairs {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    table.iter().map(|(key, entry)| (text(key), text(&entry.value))).collect()
}

fn records(changes: &[(&str, Option<&str>)]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    for (key, value) in changes {
        builder.record(ms(NOW), Some(key.as_bytes()), value.map(str::as_bytes));
    }
    builder.build().unwrap()
}

fn transactional(id: i64, sequence: i32, key: &str, value: Option<&str>) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    let producer_epoch = ProducerEpoch::new(0).unwrap();
    builder.producer(ProducerId::new(id).unwrap(), producer_epoch, Sequence::new(sequence)).transactional(true);
    builder.record(ms(NOW), Some(key.as_bytes()), value.map(str::as_bytes)).build().unwrap()
}

fn marker(id: i64, end: TransactionEnd) -> RecordBatch {
    let producer = (ProducerId::new(id).unwrap(), ProducerEpoch::new(0).unwrap());
    RecordBatch::end_transaction_marker(end, producer, 1, ms(NOW))
}

/// Offsets and values that a scan visits.
fn scanned(log: &PartitionLog, from: Offset, options: impl Into<ScanOptions>) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    scan_records(log, from, options, |seen| {
        let value = String::from_utf8(seen.record.value.unwrap_or(b"null").to_vec()).unwrap();
        found.push((seen.record.offset.value(), value));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

fn latest(log: &PartitionLog, options: &LatestOptions) -> (Vec<(String, Option<String>)>, u32) {
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let report = latest_by_key(log, options, |latest| {
        found.push((text(latest.key), latest.value.map(text)));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(report.keys, found.len() as u64);
    (found, report.passes)
}

#[test]
fn a_scan_leaves_out_markers_and_what_was_aborted_and_stops_at_its_mark() {
    let log = Machine::new().open(compacted());
    let append = |batch: RecordBatch| drop(log.append(batch, coordinator()).unwrap());
    append(records(&[("a", Some("0")), ("a", Some("1"))]));
    append(transactional(7, 0, "a", Some("2 aborted")));
    append(transactional(8, 0, "b", Some("3 committed")));
    append(records(&[("c", Some("4"))]));
    append(marker(7, TransactionEnd::Abort));
    append(marker(8, TransactionEnd::Commit));
    append(transactional(7, 1, "a", Some("7 second")));
    append(marker(7, TransactionEnd::Commit));
    append(records(&[("d", None)]));
    append(transactional(8, 1, "a", Some("10 open")));
    append(records(&[("e", Some("11"))]));
    let stable = ["0", "1", "3 committed", "4", "7 second", "null"];
    let found = scanned(&log, at(0), Isolation::Stable);
    assert_eq!(found.iter().map(|(_, value)| &**value).collect::<Vec<_>>(), stable);
    assert_eq!(found, scanned(&log, at(0), ScanOptions { fetch_bytes: 0, ..ScanOptions::default() }));
    assert_eq!(scanned(&log, at(4), Isolation::Stable), found[3..], "from the middle");
    assert_eq!(scanned(&log, at(1), Isolation::Stable), found[1..], "from the middle of a batch");
    let until = ScanOptions { until: Some(at(1)), ..ScanOptions::default() };
    assert_eq!(scanned(&log, at(0), until), found[..1]);
    assert_eq!(scanned(&log, at(0), Isolation::LogEnd).len(), 9, "everything but markers");
    assert_eq!(scanned(&log, at(12), Isolation::LogEnd), []);
    assert!(matches!(
        scan_records(&log, at(13), Isolation::LogEnd, |_| ControlFlow::Continue(())),
        Err(ReadError::OutOfRange { .. })
    ));
    // The visitor may end it, and go on later.
    let mut first = None;
    let report = scan_records(&log, at(1), Isolation::Stable, |seen| {
        first = Some(seen.record.offset);
        ControlFlow::Break(())
    });
    let report = report.unwrap();
    assert_eq!((first, report.next, report.records, report.end), (Some(at(1)), at(2), 1, at(10)));
    let text = |(key, value): (&str, Option<&str>)| (key.to_owned(), value.map(str::to_owned));
    let expected = [("b", Some("3 committed")), ("c", Some("4")), ("a", Some("7 second")), ("d", None)].map(text);
    assert_eq!(latest(&log, &LatestOptions::default()), (expected.to_vec(), 1));
}

#[test]
fn a_scan_names_damage_or_goes_around_it() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    for n in 0..60 {
        let pair = (format!("k{}", n % 10), format!("value {n}"));
        log.append(records(&[(&pair.0, Some(&pair.1))]), coordinator()).unwrap();
    }
    log.flush().unwrap();
    let whole = scanned(&log, at(0), Isolation::LogEnd);
    let path = Machine::log_path(0);
    let size = machine.fs.live_bytes(&path).unwrap().len() as u64;
    // A bit of a value in the third batch: only the checksum knows.
    let batch_bytes = records(&[("k0", Some("value 0"))]).as_bytes().len() as u64;
    machine.fs.flip_bit(&path, 3 * batch_bytes - 3, 0);
    assert!(size > 3 * batch_bytes);
    let outcome = scan_records(&log, at(0), Isolation::LogEnd, |_| ControlFlow::Continue(()));
    let Err(ReadError::Damaged(damage)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((damage.offsets.clone(), damage.bytes.start), (at(2)..at(3), 2 * batch_bytes));
    assert!(matches!(damage.cause, Some(CorruptionKind::Batch(InvalidBatch::Crc { .. }))), "{damage:?}");
    let skip = ScanOptions { on_damage: OnScanDamage::Skip, ..Isolation::LogEnd.into() };
    let around: Vec<_> = whole.iter().filter(|(offset, _)| *offset != 2).cloned().collect();
    assert_eq!(scanned(&log, at(0), skip), around);
    // And the length of the sixth, after which nothing in the read bytes can be found.
    machine.fs.flip_bit(&path, 5 * batch_bytes + 8, 6);
    let mut seen = Vec::new();
    let report = scan_records(&log, at(0), skip, |found| {
        seen.push(found.record.offset.value());
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!(report.damaged, 2, "{report:?}");
    let is_lost = |offset: &i64| report.damage.iter().any(|damage| damage.offsets.contains(&at(*offset)));
    let expected: Vec<i64> = (0..60).filter(|offset| !is_lost(offset)).collect();
    assert_eq!(seen, expected, "{report:?}");
    assert!(seen.len() > 40 && !seen.contains(&5) && report.next == at(60));
    // A table says so, or goes around it.
    let error = CompactedTable::open(log.clone(), options()).unwrap_err();
    assert!(matches!(error, TableError::Read(ReadError::Damaged(_))), "{error:?}");
    let table = CompactedTable::open(log, TableOptions { on_damage: OnScanDamage::Skip, ..options() }).unwrap();
    assert_eq!((table.len(), table.damage().len()), (10, 2));
}

#[test]
fn the_latest_of_each_key_is_the_same_in_any_amount_of_memory() {
    let log = Machine::new().open(LogConfig { segment_bytes: 20_000, ..compacted() });
    let mut rng = fastrand::Rng::with_seed(5);
    let mut expected: BTreeMap<String, Option<String>> = BTreeMap::new();
    for n in 0..400 {
        let mut builder = BatchBuilder::new();
        builder.compression(if n % 3 == 0 { Compression::Zstd } else { Compression::None });
        for _ in 0..rng.usize(1..6) {
            let key = format!("key {}", rng.u32(..200));
            let value = rng.bool().then(|| format!("{n} {}", "v".repeat(rng.usize(..50))));
            builder.record(ms(NOW), Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
            expected.insert(key, value);
        }
        log.append(builder.build().unwrap(), coordinator()).unwrap();
    }
    let mut passes_before = 0;
    for memory_bytes_max in [None, Some(1 << 20), Some(10_000), Some(2_000), Some(400)] {
        let (found, passes) = latest(&log, &LatestOptions { memory_bytes_max, ..LatestOptions::default() });
        assert_eq!(found.len(), expected.len(), "each key once");
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected, "{memory_bytes_max:?}");
        assert!(passes >= passes_before, "{memory_bytes_max:?}: {passes}");
        passes_before = passes;
    }
    assert!(passes_before > 20);
    let one_byte = LatestOptions { memory_bytes_max: Some(1), ..LatestOptions::default() };
    let error = latest_by_key(&log, &one_byte, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, TableError::MemoryFull { bytes_max: 1, .. }), "{error:?}");
    let mut visited = 0;
    let outcome = latest_by_key(&log, &LatestOptions::default(), |_| {
        visited += 1;
        if visited == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((visited, outcome.unwrap().keys), (3, 3));
}

#[test]
fn a_table_is_what_was_put_whatever_it_is_loaded_from() {
    let mut machine = Machine::new();
    let mut log = machine.open(compacted());
    let mut table = CompactedTable::open(log.clone(), options()).unwrap();
    let (mut model, mut rng) = (Pairs::new(), fastrand::Rng::with_seed(9));
    for n in 0..300 {
        let key = |rng: &mut fastrand::Rng| format!("k{}", rng.u32(..40));
        match rng.u32(..10) {
            0..4 => {
                let (key, value) = (key(&mut rng), format!("{n}"));
                table.put(key.as_bytes(), value.as_bytes()).unwrap();
                model.insert(key, value);
            }
            4..6 => {
                let key = key(&mut rng);
                table.delete(key.as_bytes()).unwrap();
                model.remove(&key);
            }
            6..9 => {
                let (first, second, value) = (key(&mut rng), key(&mut rng), format!("{n} both"));
                let changes = [Change::put(first.as_bytes(), value.as_bytes()), Change::delete(second.as_bytes())];
                let appended = table.put_all(&changes).unwrap();
                assert_eq!(appended.end(), table.position());
                model.insert(first, value);
                model.remove(&second);
            }
            _ if n % 2 == 0 => {
                log.close().unwrap();
                log = machine.open(compacted());
                table = CompactedTable::open(log.clone(), options()).unwrap();
            }
            _ => {
                log.flush().unwrap();
                machine = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine };
                log = machine.open(compacted());
                table = CompactedTable::open(log.clone(), options()).unwrap();
            }
        }
        assert_eq!(pairs(&table), model, "after {n}");
    }
    let again = CompactedTable::open(log, options()).unwrap();
    assert_eq!(pairs(&again), model);
    assert_eq!(again.memory_bytes(), table.memory_bytes());
    let weight: usize = model.iter().map(|(key, value)| key.len() + value.len() + 128).sum();
    assert_eq!(again.memory_bytes().total(), weight as u64);
    assert!(again.iter().all(|(key, entry)| again.entry(key) == Some(entry)));
}

#[test]
fn two_tables_on_one_log_do_not_diverge() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    let mut one = CompactedTable::open(log.clone(), options()).unwrap();
    let retrying = TableOptions { on_conflict: OnConflict::CatchUp { attempts_max: 3 }, ..options() };
    let mut two = CompactedTable::open(log.clone(), retrying).unwrap();
    one.put(b"a", b"1").unwrap();
    assert_eq!(two.get(b"a"), None, "it was not told");
    two.put(b"b", b"2").unwrap();
    assert_eq!((two.get(b"a"), two.position()), (Some(&b"1"[..]), at(2)), "it caught up first");
    let (files, marks) = (machine.snapshot(), log.marks());
    let error = one.put(b"a", b"3").unwrap_err();
    assert!(matches!(error, TableError::Conflict { position, log_end } if (position, log_end) == (at(1), at(2))));
    assert!(error.to_string().contains("catch up"), "{error}");
    crate::support::assert_unchanged(&files, &machine.snapshot(), "a conflict");
    assert_eq!((log.marks(), one.get(b"a")), (marks, Some(&b"1"[..])));
    let caught_up = one.catch_up().unwrap();
    assert_eq!((caught_up.records, caught_up.position, caught_up.reloaded), (1, at(2), false));
    one.put(b"a", b"3").unwrap();
    two.catch_up().unwrap();
    assert_eq!(pairs(&one), pairs(&two));
    // The token and the epoch of whoever took over go before everything.
    log.fence(5).unwrap();
    assert!(matches!(one.put(b"a", b"4"), Err(TableError::Append(AppendError::FencedToken { .. }))));
    two.take_over(led_by(4), Some(5)).unwrap();
    two.put(b"a", b"5").unwrap();
    one.take_over(led_by(3), Some(5)).unwrap();
    one.catch_up().unwrap();
    assert!(matches!(one.put(b"a", b"6"), Err(TableError::Append(AppendError::FencedEpoch { .. }))));
    assert_eq!(pairs(&one), pairs(&two));
}

#[test]
fn racing_tables_that_retry_lose_nothing() {
    let log = Machine::new().open(LogConfig { segment_bytes: 20_000, ..compacted() });
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let log = log.clone();
            scope.spawn(move || {
                let on_conflict = OnConflict::CatchUp { attempts_max: 10_000 };
                let mut table = CompactedTable::open(log, TableOptions { on_conflict, ..options() }).unwrap();
                for n in 0..50 {
                    table.put(format!("{writer} {n}").as_bytes(), b"v").unwrap();
                }
            });
        }
    });
    assert_eq!(CompactedTable::open(log, options()).unwrap().len(), 200);
}

#[test]
fn a_table_notices_that_its_log_was_cut() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    let mut writer = CompactedTable::open(log.clone(), options()).unwrap();
    for n in 0..20 {
        writer.put(format!("k{n}").as_bytes(), b"first").unwrap();
    }
    let mut standby = CompactedTable::open(log.clone(), options()).unwrap();
    let catch_up = |table: &mut CompactedTable| {
        let outcome = table.catch_up().unwrap();
        assert_eq!(pairs(table), pairs(&CompactedTable::open(log.clone(), options()).unwrap()));
        outcome.reloaded
    };
    assert!(!catch_up(&mut standby));
    // Shorter.
    log.truncate_to(at(15)).unwrap();
    assert!(matches!(writer.put(b"x", b"y"), Err(TableError::Conflict { .. })));
    assert!(catch_up(&mut writer) && catch_up(&mut standby));
    assert_eq!(standby.len(), 15);
    // Cut, and longer again under a new leader.
    log.truncate_to_epoch_end(EpochEnd { epoch: LeaderEpoch::new(0).unwrap(), end: at(10) }).unwrap();
    log.append(records(&[("new", Some("leader")); 12]), led_by(2)).unwrap();
    assert!(catch_up(&mut writer) && catch_up(&mut standby));
    assert_eq!(standby.len(), 11);
    // Cut, and exactly as long again under the same leader: only the last batch tells.
    log.truncate_to(at(10)).unwrap();
    log.append(records(&[("other", Some("records")); 12]), led_by(2)).unwrap();
    assert_eq!(standby.position(), log.log_end());
    assert!(catch_up(&mut standby) && standby.get(b"other").is_some() && standby.get(b"new").is_none());
    assert!(!catch_up(&mut standby));
    // Records deleted at the start go, without loading anew.
    log.advance_log_start(at(5)).unwrap();
    assert!(!catch_up(&mut standby) && standby.get(b"k4").is_none() && standby.get(b"k5").is_some());
    // Begun anew, before and after.
    for start in [100, 7] {
        log.truncate_fully_and_start_at(at(start)).unwrap();
        log.append(records(&[("k", Some("v")); 200]), led_by(3)).unwrap();
        assert!(catch_up(&mut standby));
        assert_eq!(standby.len(), 1);
    }
}

#[test]
fn transactions_count_once_they_are_committed() {
    let log = Machine::new().open(compacted());
    let mut table = CompactedTable::open(log.clone(), options()).unwrap();
    let append = |batch: RecordBatch| drop(log.append(batch, coordinator()).unwrap());
    append(records(&[("a", Some("plain")), ("b", Some("plain"))]));
    append(transactional(7, 0, "a", Some("committed")));
    append(transactional(8, 0, "b", Some("aborted")));
    append(transactional(7, 1, "c", Some("superseded")));
    table.catch_up().unwrap();
    assert_eq!((table.get(b"a"), table.undecided_transactions()), (Some(&b"plain"[..]), 2));
    assert!(table.memory_bytes().undecided > 0);
    // The table's own write comes after the transaction's, and stays.
    table.put(b"c", b"later").unwrap();
    append(marker(8, TransactionEnd::Abort));
    append(marker(7, TransactionEnd::Commit));
    let loaded = CompactedTable::open(log.clone(), options()).unwrap();
    table.catch_up().unwrap();
    let expected = [("a", "committed"), ("b", "plain"), ("c", "later")];
    let expected: Pairs = expected.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    assert_eq!((pairs(&table), pairs(&loaded)), (expected.clone(), expected));
    assert_eq!((table.undecided_transactions(), table.memory_bytes().undecided), (0, 0));
    assert_eq!(table.memory_bytes(), loaded.memory_bytes());
}

#[test]
fn bounds_are_held_to_and_refusals_change_nothing() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    let bounds = TableOptions { key_bytes_max: 4, value_bytes_max: 10, memory_bytes_max: Some(3 * 140), ..options() };
    let mut table = CompactedTable::open(log.clone(), bounds).unwrap();
    table.put(b"key1", b"value").unwrap();
    let (files, before) = (machine.snapshot(), pairs(&table));
    let errors = [
        table.put(b"key11", b"v").unwrap_err(),
        table.put_all(&[Change::put(b"k", b"v"), Change::put(b"k", b"0123456789+")]).unwrap_err(),
        table.put_all(&[]).unwrap_err(),
        table.put_all(&[Change::put(b"k1", b""), Change::put(b"k2", b""), Change::put(b"k3", b"")]).unwrap_err(),
    ];
    assert!(matches!(errors[0], TableError::KeyTooLarge { change: 0, bytes: 5, bytes_max: 4 }), "{errors:?}");
    assert!(matches!(errors[1], TableError::ValueTooLarge { change: 1, bytes: 11, bytes_max: 10 }), "{errors:?}");
    assert!(matches!(errors[2], TableError::Nothing) && matches!(errors[3], TableError::MemoryFull { .. }));
    crate::support::assert_unchanged(&files, &machine.snapshot(), "bounds");
    assert_eq!(pairs(&table), before);
    // A full table can still delete, and then write again.
    table.put(b"key2", b"").unwrap();
    table.put(b"key3", b"").unwrap();
    assert!(matches!(table.put(b"key4", b""), Err(TableError::MemoryFull { .. })));
    table.delete(b"key2").unwrap();
    table.put(b"key4", b"").unwrap();
    // A load that does not fit shows what is before the record that did not, and can go on with more room.
    let small_table = TableOptions { memory_bytes_max: Some(300), ..options() };
    let mut loading = CompactedTable::unloaded(log.clone(), small_table).unwrap();
    assert!(matches!(loading.catch_up(), Err(TableError::MemoryFull { .. })));
    assert_eq!((loading.len(), loading.position()), (2, at(2)));
    // Logs that would lose keys, and followers.
    let other = Machine::new().open(small());
    assert!(matches!(CompactedTable::open(other, options()), Err(TableError::NotCompacted)));
    let follower = CompactedTable::open(log, TableOptions::new(AppendAs::Follower));
    assert!(matches!(follower, Err(TableError::Follower)));
}

#[test]
fn loading_tells_how_far_it_is_and_can_be_stopped() {
    let log = Machine::new().open(compacted());
    for n in 0..100 {
        log.append(records(&[(&format!("k{n}"), Some("v"))]), coordinator()).unwrap();
    }
    let reporting = TableOptions { fetch_bytes: 500, ..options() };
    let mut seen = Vec::new();
    let table = CompactedTable::load(log.clone(), reporting, |progress| {
        seen.push(*progress);
        ControlFlow::Continue(())
    });
    assert_eq!(table.unwrap().len(), 100);
    assert!(seen.len() > 5 && seen.windows(2).all(|two| two[0].offset <= two[1].offset));
    assert!(seen.windows(2).all(|two| two[0].fraction() <= two[1].fraction()));
    let last = seen.last().unwrap();
    assert!((last.fraction() - 1.0).abs() < f64::EPSILON, "{last:?}");
    assert_eq!((last.offset, last.records, last.start, last.end), (at(100), 100, at(0), at(100)));
    let stopped = CompactedTable::load(log, reporting, |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(stopped, TableError::Stopped { end, .. } if end == at(100)), "{stopped:?}");
}

#[test]
fn writes_are_as_safe_as_was_asked_for_and_wait_as_futures_too() {
    let machine = Machine::new();
    let log = machine.open(compacted());
    let durable = TableOptions { acknowledge: Acknowledge::Durable { within: LONG }, ..options() };
    let mut table = CompactedTable::open(log.clone(), durable).unwrap();
    table.put(b"a", b"1").unwrap();
    let lost = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() };
    assert_eq!(CompactedTable::open(lost.open(compacted()), options()).unwrap().get(b"a"), Some(&b"1"[..]));
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting = table.write(&[Change::put(b"b", b"2")]);
    assert_eq!(table.get(b"b"), Some(&b"2"[..]));
    assert!(Pin::new(&mut waiting).poll(&mut context).is_pending());
    drop(table.write(&[Change::put(b"c", b"3")]));
    log.tick().unwrap();
    for _ in 0..2 {
        assert!(matches!(Pin::new(&mut waiting).poll(&mut context), Poll::Ready(Ok(end)) if end == at(2)));
    }
    let mut refused = table.write(&[]);
    assert!(matches!(Pin::new(&mut refused).poll(&mut context), Poll::Ready(Err(TableError::Nothing))));
    // A standby waits for more, without being asked to look.
    let mut standby = CompactedTable::open(log.clone(), options()).unwrap();
    let mut more = standby.more();
    assert!(Pin::new(&mut more).poll(&mut context).is_pending());
    table.put(b"d", b"4").unwrap();
    assert!(matches!(Pin::new(&mut more).poll(&mut context), Poll::Ready(Ok(end)) if end == at(4)));
    standby.catch_up().unwrap();
    assert_eq!(pairs(&standby), pairs(&table));
    // A log that is closed says so, and the table still shows what it had.
    log.close().unwrap();
    assert!(matches!(table.put(b"e", b"5"), Err(TableError::Append(AppendError::Closed))));
    assert!(matches!(table.catch_up(), Err(TableError::Read(ReadError::Closed))));
    assert_eq!(table.get(b"d"), Some(&b"4"[..]));
}
