//! Producers, transactions, leader epochs and marks across crashes, failed syncs, cuts and hostile files. Each test opens
//! with the story of what it guards against.

use std::sync::Arc;
use std::time::Duration;

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, Survival};
use alluvium::inspect::{Finding, FindingKind, PartitionFiles, VerifyOptions};
use alluvium::log::Found;
use alluvium::record::{BatchBuilder, RecordBatch};
use alluvium::{
    AppendAs, HighWatermarkMode, Isolation, LeaderEpoch, LogConfig, Mark, Offset, OnDamage, PartitionLog,
    ProducerEpoch, ProducerId, ReadOptions, Sequence, TransactionEnd,
};

use crate::support::{DIR, Machine, NOW, at, batch, client, contents, coordinator, findings, given, ms, small};

fn producer(id: i64) -> (ProducerId, ProducerEpoch) {
    (ProducerId::new(id).unwrap(), ProducerEpoch::new(0).unwrap())
}

/// A batch of an idempotent producer, of its transaction if it has one.
fn sent_by(id: i64, sequence: i32, is_transactional: bool) -> RecordBatch {
    let (id, epoch) = producer(id);
    let mut builder = BatchBuilder::new();
    builder.producer(id, epoch, Sequence::new(sequence)).transactional(is_transactional);
    builder.record(ms(NOW), Some(b"k"), Some(b"value")).build().unwrap()
}

fn abort(id: i64) -> RecordBatch {
    RecordBatch::end_transaction_marker(TransactionEnd::Abort, producer(id), 0, ms(NOW))
}

fn led_by(epoch: i32) -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(epoch).unwrap() }
}

fn unverified() -> LogConfig {
    LogConfig { transaction_partition_verification_enable: false, ..small() }
}

/// Aborted transactions of everything decided: producer and first offset.
fn aborted(log: &PartitionLog) -> Vec<(i64, i64)> {
    let options = ReadOptions { isolation: Isolation::Stable, max_bytes: u64::MAX, ..ReadOptions::default() };
    let fetched = log.read(log.log_start(), &options).unwrap();
    fetched.aborted().iter().map(|txn| (txn.producer_id.value(), txn.first_offset.value())).collect()
}

fn epochs(log: &PartitionLog) -> Vec<(i32, i64)> {
    log.leader_epochs().iter().map(|entry| (entry.epoch.value(), entry.start.value())).collect()
}

fn last_offsets(log: &PartitionLog) -> Vec<(i64, Option<i64>)> {
    log.producers().iter().map(|known| (known.producer_id.value(), known.last_offset.map(Offset::value))).collect()
}

/// A batch goes as a whole, and with the log start inside of it the log ended before its start: the marks panicked, with
/// the writer locked.
#[test]
fn a_cut_into_the_batch_that_holds_the_log_start_leaves_an_empty_log_there() {
    let machine = Machine::new();
    let log = machine.open(small());
    log.append(batch(&["a", "b", "c"]), client()).unwrap();
    log.append(batch(&["d"]), client()).unwrap();
    log.advance_log_start(at(1)).unwrap();
    assert_eq!(log.truncate_to(at(2)).unwrap(), at(1));
    let marks = log.marks();
    assert_eq!((marks.log_start, marks.log_end, marks.durable_end), (at(1), at(1), at(1)));
    assert_eq!(log.append(batch(&["e"]), client()).unwrap().base_offset(), at(1));
    log.close().unwrap();
    let log = machine.open(small());
    assert_eq!(contents(&log), [(1, NOW, "e".to_owned())]);
}

/// The log start is written down at once, the records below it later. A power loss in between took the records, and the
/// log start went back with them: offsets that were deleted would have been given out again.
#[test]
fn the_log_start_does_not_go_back_when_the_records_are_lost() {
    for (durable, start) in [(0, 2), (1, 2), (2, 4), (2, 6)] {
        let machine = Machine::new();
        let log = machine.open(small());
        for n in 0..6 {
            log.append(batch(&["v"]), client()).unwrap();
            if n + 1 == durable {
                log.flush().unwrap();
            }
        }
        log.advance_log_start(at(start)).unwrap();
        let lost = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), clock: machine.clock.clone() };
        let log = lost.open(small());
        assert_eq!((log.log_start(), log.log_end()), (at(start), at(start)), "{durable} durable");
        assert_eq!(log.append(batch(&["w"]), client()).unwrap().base_offset(), at(start));
        log.flush().unwrap();
        let again = Machine { fs: lost.fs.power_loss_keeping(Survival::Nothing), clock: lost.clock.clone() };
        let log = again.open(small());
        assert_eq!(contents(&log), [(start, NOW, "w".to_owned())]);
        // The file that lost its records is cleared away; nothing else is to be done.
        let is_expected = |found: &Found| matches!(found, Found::SyncInDoubt | Found::EmptyLog | Found::BelowLogStart);
        let is_news = |(found, _): &(Found, _)| !is_expected(found);
        assert!(!findings(&log).iter().any(is_news), "opened twice: {:?}", findings(&log));
    }
}

/// Records are durable, the marker that decided about them is not, and the log start is raised past both. The power loss
/// took the marker, and its transaction kept the last stable offset at the log start for ever.
#[test]
fn a_transaction_whose_marker_is_lost_below_the_log_start_is_not_open() {
    for policy in [OnDamage::Quarantine, OnDamage::Cut] {
        let machine = Machine::new();
        let config = LogConfig { on_damage: policy, ..unverified() };
        let log = machine.open(config.clone());
        log.append(sent_by(7, 0, true), client()).unwrap();
        log.append(sent_by(8, 0, true), client()).unwrap();
        log.flush().unwrap();
        log.append(abort(7), coordinator()).unwrap();
        log.advance_log_start(at(3)).unwrap();
        let lost = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), clock: machine.clock.clone() };
        let log = lost.open(config.clone());
        let marks = log.marks();
        assert_eq!((marks.log_start, marks.last_stable, marks.log_end), (at(3), at(3), at(3)));
        assert_eq!(last_offsets(&log), [(7, Some(0)), (8, Some(1))]);
        assert!(log.append(sent_by(7, 0, true), client()).unwrap().is_duplicate());
        log.append(sent_by(8, 1, true), client()).unwrap();
        let files = PartitionFiles::open_on(Arc::new(lost.fs.clone()), DIR).unwrap();
        let report = files.verify(&VerifyOptions::default()).unwrap();
        let is_gap = |finding: &Finding| finding.kind == FindingKind::DeletedGap(at(2)..at(3));
        assert!(report.is_sound() && report.notes.iter().any(is_gap), "{report:?}");
        drop(log);
        let log = lost.kill().open(config);
        assert_eq!((log.marks().last_stable, log.log_end()), (at(3), at(4)), "what 8 wrote next is open");
        log.append(abort(8), coordinator()).unwrap();
        assert_eq!(log.marks().last_stable, at(5));
        assert_eq!(aborted(&log), [(8, 3)]);
    }
}

/// All records were deleted, and then the segment was rolled: an opening began with the new one, at the log start, and did
/// not look before it for producers, whose snapshot waited for the next sync.
#[test]
fn producers_are_known_though_all_they_wrote_was_deleted_and_the_segment_rolled() {
    let machine = Machine::new();
    let log = machine.open(unverified());
    log.append(sent_by(7, 0, false), client()).unwrap();
    log.append(sent_by(8, 0, true), client()).unwrap();
    log.advance_log_start(at(2)).unwrap();
    assert!(log.roll().unwrap());
    let log = machine.kill().open(unverified());
    assert_eq!(last_offsets(&log), [(7, Some(0)), (8, Some(1))]);
    assert!(log.append(sent_by(7, 0, false), client()).unwrap().is_duplicate());
    assert_eq!(log.append(abort(8), coordinator()).unwrap().base_offset(), at(2));
    assert_eq!(aborted(&log), [(8, 1)]);
}

/// The high watermark is written down at times, the log start at once. Where the stored mark lay below the segments that
/// are left, no snapshot was believed, and producers that wrote before them were forgotten.
#[test]
fn producers_are_known_though_the_stored_high_watermark_lies_before_the_log_start() {
    let machine = Machine::new();
    let config = LogConfig { high_watermark: HighWatermarkMode::Embedder, ..unverified() };
    let log = machine.open(config.clone());
    log.append(sent_by(7, 0, false), client()).unwrap();
    log.append(sent_by(8, 0, true), client()).unwrap();
    for sequence in 0..28 {
        log.append(sent_by(9, sequence, false), client()).unwrap();
    }
    log.flush().unwrap();
    log.advance_high_watermark(log.log_end()).unwrap();
    let files = log.segment_files();
    assert!(files.len() > 2);
    let base = files[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    log.advance_log_start(at(base)).unwrap();
    let killed = machine.kill();
    for name in killed.names().iter().filter(|name| name.starts_with(&format!("{:020}.", 0))) {
        killed.remove(name);
    }
    let log = killed.open(config);
    assert_eq!(log.log_start(), at(base));
    assert_eq!(last_offsets(&log), [(7, Some(0)), (8, Some(1)), (9, Some(29))]);
    assert!(log.append(sent_by(7, 0, false), client()).unwrap().is_duplicate());
    log.advance_high_watermark(log.log_end()).unwrap();
    assert_eq!(log.marks().last_stable, at(base), "the transaction of 8 is open");
}

/// The epochs' file was renamed, the sync of the directory failed, and the next process saw the new file in the cache and
/// left it alone. The power loss after that brought the old one back, behind a recovery point that nobody looks behind.
#[test]
fn epochs_whose_rename_is_in_doubt_are_written_again() {
    for effect in [Effect::SyncDropsPages, Effect::SyncKeepsPages, Effect::SyncRevertsPages] {
        let machine = Machine::new();
        let log = machine.open(small());
        log.append(batch(&["a"]), led_by(0)).unwrap();
        log.flush().unwrap();
        log.append(batch(&["b"]), led_by(1)).unwrap();
        machine.fs.inject(Fault::new(FaultOn::SyncDir, effect));
        log.flush().unwrap_err();
        let killed = machine.kill();
        let log = killed.open(small());
        assert_eq!(epochs(&log), [(0, 0), (1, 1)]);
        // From now on nobody looks at the batches in which the epoch began.
        assert!(log.roll().unwrap());
        log.append(batch(&["c"]), led_by(1)).unwrap();
        log.flush().unwrap();
        let lost = Machine { fs: killed.fs.power_loss_keeping(Survival::Nothing), clock: killed.clock.clone() };
        assert_eq!(epochs(&lost.open(small())), [(0, 0), (1, 1)], "{effect:?}");
    }
}

/// A sealed segment became durable, and its side files could not be written. The next process found the segment covered
/// and no transaction index, and took that for a segment in which nothing was aborted.
#[test]
fn aborted_transactions_are_derived_where_a_segment_has_no_index_files() {
    let machine = Machine::new();
    let log = machine.open(unverified());
    log.append(sent_by(7, 0, true), client()).unwrap();
    log.append(abort(7), coordinator()).unwrap();
    assert!(log.roll().unwrap());
    log.append(batch(&["later"]), client()).unwrap();
    let full = Effect::Error(Errno::Enospc);
    machine.fs.inject(Fault::new(FaultOn::Write, full).path_contains("index").always());
    machine.fs.inject(Fault::new(FaultOn::Write, full).path_contains("snapshot").always());
    log.flush().unwrap();
    assert_eq!(aborted(&log), [(7, 0)]);
    let killed = machine.kill();
    killed.fs.clear_faults();
    let log = killed.open(unverified());
    assert_eq!(aborted(&log), [(7, 0)], "before the index files are there");
    log.close().unwrap();
    let log = killed.open(unverified());
    assert_eq!(aborted(&log), [(7, 0)], "after they are written");
    drop(log);
    let lost = Machine { fs: killed.fs.power_loss_keeping(Survival::Nothing), clock: killed.clock.clone() };
    assert_eq!(aborted(&lost.open(unverified())), [(7, 0)], "and lost again");
}

/// After a cut the epochs' file still tells of what was cut until the next round. A batch of the epoch before it that
/// grew over the place where the epoch had begun did not contradict it by its first offset.
#[test]
fn an_epoch_that_was_cut_does_not_come_back_inside_a_batch() {
    for tail in [0, 1, 3] {
        let machine = Machine::new();
        let log = machine.open(small());
        for _ in 0..4 {
            log.append(batch(&["a"]), led_by(0)).unwrap();
        }
        log.append(batch(&["b"]), led_by(1)).unwrap();
        log.flush().unwrap();
        log.truncate_to(at(3)).unwrap();
        let mut next = log.append(given(3, &["c", "d", "e"]), AppendAs::Follower).unwrap().end();
        for _ in 0..tail {
            next = log.append(given(next.value(), &["f"]), AppendAs::Follower).unwrap().end();
        }
        assert_eq!(epochs(&log), [(0, 0)]);
        let log = machine.kill().open(small());
        assert_eq!((epochs(&log), log.log_end()), (vec![(0, 0)], next), "{tail} batches after it");
    }
}

/// A snapshot has no tie to its log but its name. One that tells of offsets past that was believed: the transaction
/// seemed to begin past the log end, and a duplicate was answered with offsets that nobody could wait for.
#[test]
fn a_snapshot_that_reaches_past_its_name_is_not_believed() {
    let other = Machine::new();
    let log = other.open(unverified());
    for sequence in 0..3 {
        log.append(sent_by(7, sequence, false), client()).unwrap();
    }
    log.append(sent_by(8, 0, true), client()).unwrap();
    log.append(sent_by(8, 1, true), client()).unwrap();
    log.close().unwrap();
    let foreign = other.read(&format!("{:020}.snapshot", 5));

    let machine = Machine::new();
    let log = machine.open(unverified());
    log.append(batch(&["a", "b"]), client()).unwrap();
    log.close().unwrap();
    machine.write(&format!("{:020}.snapshot", 2), &foreign);
    let log = machine.open(unverified());
    assert!(log.recovery_report().findings.iter().any(|finding| matches!(finding.found, Found::BadSnapshot(_))));
    assert_eq!(last_offsets(&log), []);
    assert_eq!(log.marks().last_stable, at(2));
    assert!(!log.append(sent_by(7, 2, false), client()).unwrap().is_duplicate());
    log.append(abort(8), coordinator()).unwrap();
    assert_eq!(aborted(&log), []);
}

/// The names of a log that starts anew go with a directory sync. That failed, the next process saw no names to remove,
/// and the power loss brought snapshots and epochs of the older life back.
#[test]
fn nothing_of_an_older_life_comes_back_after_a_restart_in_doubt() {
    for (nth, effect) in (0..4).flat_map(|nth| [Effect::SyncDropsPages, Effect::SyncKeepsPages].map(|e| (nth, e))) {
        let machine = Machine::new();
        let log = machine.open(unverified());
        log.append(sent_by(7, 0, true), led_by(3)).unwrap();
        log.append(sent_by(8, 0, false), led_by(4)).unwrap();
        log.close().unwrap();
        let log = machine.open(unverified());
        machine.fs.inject(Fault::new(FaultOn::SyncDir, effect).skip(nth));
        let _ = log.truncate_fully_and_start_at(at(100));
        let killed = machine.kill();
        killed.fs.clear_faults();
        let log = killed.open(unverified());
        if log.log_start() != at(100) {
            // The decision itself was in doubt.
            continue;
        }
        drop(log);
        let lost = Machine { fs: killed.fs.power_loss_keeping(Survival::Nothing), clock: killed.clock.clone() };
        let log = lost.open(unverified());
        assert_eq!((log.log_start(), log.log_end()), (at(100), at(100)), "{nth} {effect:?}");
        assert_eq!((last_offsets(&log), epochs(&log)), (vec![], vec![]), "{nth} {effect:?}");
    }
}

/// Likewise a cut: a snapshot past it came back, and once the log had grown over it, passed for the state there.
#[test]
fn no_snapshot_past_a_cut_comes_back_when_its_removal_is_in_doubt() {
    let mut was_in_doubt = 0;
    for (nth, effect) in (0..5).flat_map(|nth| [Effect::SyncDropsPages, Effect::SyncKeepsPages].map(|e| (nth, e))) {
        let machine = Machine::new();
        let log = machine.open(unverified());
        for sequence in 0..28 {
            log.append(sent_by(7, sequence, false), client()).unwrap();
        }
        log.close().unwrap();
        let log = machine.open(unverified());
        machine.fs.inject(Fault::new(FaultOn::SyncDir, effect).skip(nth));
        if log.truncate_to(at(2)).is_ok() {
            continue;
        }
        was_in_doubt += 1;
        let killed = machine.kill();
        killed.fs.clear_faults();
        let end = killed.open(unverified()).log_end().value();
        let lost = Machine { fs: killed.fs.power_loss_keeping(Survival::Nothing), clock: killed.clock.clone() };
        for name in lost.names() {
            let stale = name.strip_suffix(".snapshot").is_some_and(|at| at.parse::<i64>().unwrap() > end);
            assert!(!stale, "{name} past {end}: {nth} {effect:?}");
        }
    }
    assert!(was_in_doubt > 2);
}

/// A mark that moves by itself moves when the settings say that it does, not with the next append.
#[test]
fn the_high_watermark_moves_when_its_mode_changes() {
    let machine = Machine::new();
    let config = LogConfig { high_watermark: HighWatermarkMode::Embedder, ..small() };
    let log = machine.open(config.clone());
    log.append(batch(&["a"]), client()).unwrap();
    assert_eq!(log.marks().high_watermark, at(0));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| log.wait_until(Mark::HighWatermark, at(1), Duration::from_secs(20)));
        while log.health().waiting == 0 {
            std::thread::yield_now();
        }
        log.update_config(LogConfig { high_watermark: HighWatermarkMode::LogEnd, ..config }).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), at(1));
    });
    assert_eq!(log.marks().last_stable, at(1));
}

/// Who waited for the durable end was told of another mark.
#[test]
fn a_late_wait_for_the_durable_end_names_the_durable_end() {
    let machine = Machine::new();
    let log = machine.open(small());
    let late = log.wait_until(Mark::DurableEnd, at(1), Duration::from_millis(1)).unwrap_err();
    assert!(matches!(late, alluvium::error::WaitError::DeadlinePassed { mark: Mark::DurableEnd, .. }), "{late:?}");
}
