//! Deleting the beginning of a log: by the embedder, by age, by size. What goes, in which order, and what readers see.

use std::path::Path;
use std::time::Duration;

use alluvium::config::{CleanupPolicy, HighWatermarkMode, RetentionBasis};
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, Survival};
use alluvium::log::{Action, DeletedBecause, Found};
use alluvium::{ChangeError, LogConfig, OnDamage, PartitionLog, ReadError, ReadOptions};

use crate::support::{Machine, NOW, at, batch_at, client, contents, ms, small};

const DAY: i64 = 24 * 3600 * 1000;

/// A machine on which files know when they were written.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.fs.follow_clock(std::sync::Arc::clone(&machine.clock) as _);
    machine
}

/// Keeps everything for ever, but for what a test says.
fn keeping() -> LogConfig {
    LogConfig {
        retention_ms: None,
        retention_bytes: None,
        segment_ms: i64::MAX as u64,
        message_timestamp_after_max_ms: i64::MAX as u64,
        ..small()
    }
}

/// Appends `count` segments of two records each, the last one active; the n-th record has timestamp `first + n`.
fn fill(log: &PartitionLog, count: i64, first: i64) {
    for n in 0..count {
        if n > 0 {
            log.roll().unwrap();
        }
        let base = log.log_end().value();
        log.append(batch_at(first + base, &["left", "right"]), client()).unwrap();
    }
}

fn advance(machine: &Machine, ms: i64) {
    machine.clock.advance(Duration::from_millis(u64::try_from(ms).unwrap()));
}

fn bases(log: &PartitionLog) -> Vec<i64> {
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    log.segment_files().iter().map(|path| name(path)).collect()
}

fn deleted(log: &PartitionLog) -> Vec<(i64, DeletedBecause)> {
    log.enforce_retention().unwrap().deleted.iter().map(|gone| (gone.base.value(), gone.because)).collect()
}

fn starting_with(machine: &Machine, prefix: &str) -> Vec<String> {
    machine.names().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn segments_wholly_below_the_log_start_go_whatever_the_policy() {
    for cleanup_policy in [CleanupPolicy::Delete, CleanupPolicy::Compact, CleanupPolicy::CompactDelete] {
        let machine = machine();
        let log = machine.open(LogConfig { cleanup_policy, ..keeping() });
        fill(&log, 4, NOW);
        assert_eq!(deleted(&log), []);
        assert_eq!(log.advance_log_start(at(5)).unwrap(), at(5));
        assert_eq!(deleted(&log), [(0, DeletedBecause::LogStart), (2, DeletedBecause::LogStart)]);
        assert_eq!((bases(&log), log.log_start()), (vec![4, 6], at(5)));
        assert_eq!(contents(&log).first().unwrap().0, 5);
        let metrics = log.metrics();
        assert_eq!(metrics.deleted_segments.value(), 2);
        assert!(metrics.deleted_bytes.value() > 100);
        assert_eq!(deleted(&log), []);
    }
}

/// Kafka's `UnifiedLog.deleteOldSegments`: nothing but the log start counts where the policy does not say `delete`.
#[test]
fn age_and_size_count_only_where_the_policy_deletes() {
    let machine = machine();
    let config = LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        retention_ms: Some(1),
        retention_bytes: Some(0),
        ..keeping()
    };
    let log = machine.open(config.clone());
    fill(&log, 3, NOW);
    advance(&machine, DAY);
    assert_eq!(deleted(&log), []);
    log.update_config(LogConfig { cleanup_policy: CleanupPolicy::CompactDelete, ..config }).unwrap();
    assert_eq!(deleted(&log).len(), 3);
}

#[test]
fn by_size_the_oldest_go_while_enough_is_left_without_them() {
    let machine = machine();
    let log = machine.open(keeping());
    fill(&log, 4, NOW);
    let bytes = machine.read("00000000000000000000.log").len() as u64;
    let keep = |limit| {
        log.update_config(LogConfig { retention_bytes: Some(limit), ..keeping() }).unwrap();
        deleted(&log).into_iter().map(|(base, because)| (base, because == DeletedBecause::Size)).collect::<Vec<_>>()
    };
    assert_eq!(keep(4 * bytes), []);
    assert_eq!(keep(3 * bytes + 1), []);
    assert_eq!(keep(3 * bytes), [(0, true)]);
    assert_eq!(keep(bytes + bytes / 2), [(2, true)]);
    // The active one too, when nothing is to be left.
    assert_eq!(keep(0), [(4, true), (6, true)]);
    assert_eq!((bases(&log), log.log_start(), log.log_end()), (vec![8], at(8), at(8)));
    fill(&log, 1, NOW);
    assert_eq!(contents(&log).first().unwrap().0, 8);
}

#[test]
fn by_age_the_active_segment_goes_when_all_of_it_is_expired() {
    let machine = machine();
    let log = machine.open(LogConfig { retention_ms: Some(DAY as u64), ..keeping() });
    fill(&log, 3, NOW);
    advance(&machine, DAY + 1);
    assert_eq!(deleted(&log), [], "the first record's age alone is past the limit");
    advance(&machine, 3);
    assert_eq!(deleted(&log), [(0, DeletedBecause::Time), (2, DeletedBecause::Time)]);
    advance(&machine, 3);
    assert_eq!(deleted(&log), [(4, DeletedBecause::Time)]);
    assert_eq!((bases(&log), log.log_start()), (vec![6], at(6)));
    advance(&machine, 10 * DAY);
    assert_eq!(deleted(&log), [], "an empty log has nothing to lose");
    log.close().unwrap();
    let log = machine.open(keeping());
    assert!(log.recovery_report().was_clean);
    assert_eq!((log.log_start(), log.log_end()), (at(6), at(6)));
}

/// KAFKA-14991: records dated in the future pinned their segment for ever; and those without a time went at once.
#[test]
fn timestamps_that_say_nothing_count_as_the_time_of_the_append() {
    for stamp in [NOW + 1000 * DAY, i64::MAX - 10, 0, -1] {
        let machine = machine();
        let log = machine.open(LogConfig { retention_ms: Some(DAY as u64), ..keeping() });
        for _ in 0..3 {
            let mut batch = alluvium::BatchBuilder::new();
            batch.record(alluvium::TimestampMs::new(stamp), Some(b"k"), Some(b"v"));
            log.append(batch.build().unwrap(), client()).unwrap();
            log.roll().unwrap();
        }
        assert_eq!(deleted(&log), [], "{stamp}");
        advance(&machine, DAY);
        assert_eq!(deleted(&log), [], "{stamp}");
        // A process that knows nothing but the files.
        let machine = machine.kill();
        drop(log);
        let log = machine.open(LogConfig { retention_ms: Some(DAY as u64), ..keeping() });
        assert_eq!(deleted(&log), [], "{stamp}");
        advance(&machine, 2 * DAY);
        assert_eq!(deleted(&log).len(), 3, "{stamp}");
    }
}

#[test]
fn the_basis_says_which_time_counts() {
    // Records that are two days old when they are appended, and half a day passes.
    for (basis, goes) in
        [(RetentionBasis::RecordTime, true), (RetentionBasis::AppendTime, false), (RetentionBasis::Smaller, true)]
    {
        let machine = machine();
        let config = LogConfig { retention_ms: Some(DAY as u64), retention_basis: basis, ..keeping() };
        let log = machine.open(config);
        fill(&log, 3, NOW - 2 * DAY);
        advance(&machine, DAY / 2);
        assert_eq!(deleted(&log).len(), if goes { 3 } else { 0 }, "{basis:?}");
    }
    // Records of now, in files that were written two days ago.
    for (basis, goes) in
        [(RetentionBasis::RecordTime, false), (RetentionBasis::AppendTime, true), (RetentionBasis::Smaller, true)]
    {
        let machine = machine();
        let config = LogConfig { retention_ms: Some(DAY as u64), retention_basis: basis, ..keeping() };
        let log = machine.open(config);
        fill(&log, 3, NOW + 2 * DAY);
        advance(&machine, 2 * DAY + DAY / 2);
        assert_eq!(deleted(&log).len(), if goes { 3 } else { 0 }, "{basis:?}");
    }
}

#[test]
fn nothing_at_or_past_the_high_watermark_goes() {
    let machine = machine();
    let config = LogConfig { retention_bytes: Some(0), high_watermark: HighWatermarkMode::Embedder, ..keeping() };
    let log = machine.open(config);
    fill(&log, 3, NOW);
    assert_eq!(deleted(&log), []);
    log.advance_high_watermark(at(3)).unwrap();
    assert_eq!(deleted(&log), [(0, DeletedBecause::Size)]);
    let refused = log.advance_log_start(at(4)).unwrap_err();
    assert!(matches!(refused, ChangeError::OutOfBounds { what: "the log start", .. }), "{refused}");
    log.advance_high_watermark(at(6)).unwrap();
    assert_eq!(deleted(&log).len(), 2);
    assert_eq!(log.log_start(), at(6));
}

#[test]
fn files_wait_under_another_name_and_readers_go_on() {
    let machine = machine();
    let log = machine.open(LogConfig { file_delete_delay_ms: 5000, ..keeping() });
    fill(&log, 4, NOW);
    log.flush().unwrap();
    let held = log.read(at(0), &ReadOptions::default()).unwrap();
    let before = held.read().unwrap();
    log.advance_log_start(at(4)).unwrap();
    advance(&machine, 1000);
    assert_eq!(log.tick().unwrap().deleted, 2);
    for kind in ["log", "index", "timeindex"] {
        assert!(machine.exists(&format!("00000000000000000000.{kind}.deleted")), "{kind}: {:?}", machine.names());
    }
    assert!(machine.exists("00000000000000000002.snapshot.deleted"), "{:?}", machine.names());
    assert!(machine.exists("00000000000000000004.snapshot"), "{:?}", machine.names());
    advance(&machine, 4999);
    log.tick().unwrap();
    assert!(machine.exists("00000000000000000000.log.deleted"));
    advance(&machine, 1);
    log.tick().unwrap();
    assert_eq!(starting_with(&machine, "00000000000000000000"), Vec::<String>::new());
    assert_eq!(starting_with(&machine, "00000000000000000002"), Vec::<String>::new());
    assert_eq!(held.read().unwrap(), before);
    let refused = log.read(at(3), &ReadOptions::default()).unwrap_err();
    assert!(matches!(refused, ReadError::OutOfRange { log_start, .. } if log_start == at(4)), "{refused}");
    drop(held);
    assert_eq!(log.leader_epochs()[0].start, at(4));
}

#[test]
fn a_close_leaves_nothing_on_its_way_out() {
    let machine = machine();
    let log = machine.open(keeping());
    fill(&log, 3, NOW);
    log.advance_log_start(at(4)).unwrap();
    assert_eq!(deleted(&log).len(), 2);
    log.close().unwrap();
    assert!(machine.names().iter().all(|name| !name.ends_with(".deleted")), "{:?}", machine.names());
    let log = machine.open(keeping());
    assert!(log.recovery_report().was_clean && log.recovery_report().is_ordinary());
    assert_eq!((log.log_start(), bases(&log)), (at(4), vec![4]));
}

/// Segments that are hidden and still there go after a clean opening by a tick, and after another one at once.
#[test]
fn hidden_segments_go_after_every_kind_of_opening() {
    let machine = machine();
    let log = machine.open(keeping());
    fill(&log, 4, NOW);
    log.advance_log_start(at(5)).unwrap();
    let killed = machine.kill();
    log.close().unwrap();
    let log = machine.open(keeping());
    assert!(log.recovery_report().was_clean);
    assert_eq!((bases(&log), log.log_start()), (vec![0, 2, 4, 6], at(5)));
    assert_eq!(contents(&log).first().unwrap().0, 5);
    assert_eq!(log.tick().unwrap().deleted, 2);
    assert_eq!(bases(&log), [4, 6]);

    let log = killed.open(keeping());
    let is_removal = |finding: &&alluvium::log::Finding| finding.found == Found::BelowLogStart;
    let found: Vec<_> = log.recovery_report().findings.iter().filter(is_removal).collect();
    assert!(found.len() == 2 && found.iter().all(|finding| finding.action == Action::Remove));
    assert_eq!((bases(&log), log.log_start()), (vec![4, 6], at(5)));
    assert!(starting_with(&killed, "00000000000000000002").is_empty(), "{:?}", killed.names());
    assert_eq!(contents(&log).first().unwrap().0, 5);
}

/// Damage that is known goes with its segment, and is not asked about again.
#[test]
fn damage_in_a_deleted_segment_is_forgotten() {
    for deletes_first in [true, false] {
        let machine = machine();
        let log = machine.open(keeping());
        fill(&log, 4, NOW);
        log.close().unwrap();
        let name = "00000000000000000000.log";
        let mut bytes = machine.read(name);
        bytes[80] ^= 1;
        machine.write(name, &bytes);
        machine.remove("alluvium.clean-shutdown");
        machine.remove("alluvium.recovery-point");
        let log = machine.open(keeping());
        assert_eq!(log.recovery_report().damage().count(), 1);
        log.advance_log_start(at(4)).unwrap();
        if deletes_first {
            assert_eq!(deleted(&log).len(), 2);
            assert!(log.health().damage.is_empty());
            assert!(!machine.exists("alluvium.damage"));
        }
        let killed = machine.kill();
        log.close().unwrap();
        for (machine, is_clean) in [(&machine, true), (&killed, false)] {
            let on_damage = if deletes_first || !is_clean { OnDamage::Refuse } else { OnDamage::Quarantine };
            let log = machine.open(LogConfig { on_damage, ..keeping() });
            assert_eq!(log.recovery_report().was_clean, is_clean);
            log.enforce_retention().unwrap();
            assert_eq!((bases(&log), log.log_start()), (vec![4, 6], at(4)));
            assert_eq!(contents(&log).len(), 4);
            log.close().unwrap();
            let log = machine.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
            assert!(log.recovery_report().was_clean);
        }
    }
}

/// KAFKA-9133: the log start lies above the active segment's base, up to the log end.
#[test]
fn a_log_start_inside_the_active_segment_holds_over_every_ending() {
    for to in [3, 5, 6] {
        let machine = machine();
        let log = machine.open(keeping());
        fill(&log, 3, NOW);
        log.advance_log_start(at(to)).unwrap();
        assert_eq!(deleted(&log).len(), if to < 4 { 1 } else { 2 }, "{to}");
        assert_eq!(log.advance_log_start(at(1)).unwrap(), at(to), "it never falls");
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(3)] {
            let fs = machine.fs.power_loss_keeping(survival);
            let after = Machine { fs, clock: std::sync::Arc::clone(&machine.clock) };
            let reopened = after.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
            assert_eq!(reopened.log_start(), at(to), "{survival:?}");
            assert!(reopened.log_end() >= at(to), "deleted offsets are given out again: {survival:?}");
            let end = reopened.log_end();
            assert_eq!(reopened.append(batch_at(NOW, &["new"]), client()).unwrap().base_offset(), end);
            assert!(contents(&reopened).iter().all(|(offset, ..)| *offset >= to));
            reopened.close().unwrap();
            let again = after.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
            assert!(again.recovery_report().was_clean, "{:?}", again.recovery_report().findings);
            assert_eq!((again.log_start(), contents(&again).last().unwrap().2.as_str()), (at(to), "new"));
        }
        let killed = machine.kill();
        let reopened = killed.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
        assert_eq!((reopened.log_start(), reopened.log_end()), (at(to), at(6)));
        log.close().unwrap();
        let reopened = machine.open(keeping());
        assert_eq!((reopened.log_start(), reopened.log_end()), (at(to), at(6)));
    }
}

#[test]
fn a_first_segment_that_nobody_deleted_is_missing() {
    let machine = machine();
    let log = machine.open(keeping());
    fill(&log, 4, NOW);
    log.advance_log_start(at(1)).unwrap();
    log.close().unwrap();
    let remove = |machine: &Machine| {
        for kind in ["log", "index", "timeindex"] {
            machine.remove(&format!("00000000000000000000.{kind}"));
        }
        machine.remove("alluvium.clean-shutdown");
    };
    remove(&machine);
    let refusing = LogConfig { on_damage: OnDamage::Refuse, ..keeping() };
    let refused = machine.try_open(refusing).unwrap_err();
    assert!(
        matches!(&refused, alluvium::OpenError::Damaged { first, .. } if first.offsets == (at(1)..at(2))),
        "{refused}"
    );
    let log = machine.open(LogConfig { on_damage: OnDamage::Quarantine, ..keeping() });
    assert_eq!(log.log_start(), at(1));
    let error = log.read(at(1), &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, ReadError::Damaged(hole) if hole.offsets == (at(1)..at(2))), "{error}");
    assert!(!log.read(at(2), &ReadOptions::default()).unwrap().is_empty());
    drop(log);
    let log = machine.open(LogConfig { on_damage: OnDamage::Cut, ..keeping() });
    assert_eq!((log.log_start(), contents(&log).len()), (at(2), 6));
}

/// Redpanda's ballast (PR 13611): on a full disk the deletion that frees space needs some first.
#[test]
fn a_full_disk_does_not_keep_retention_from_freeing_it() {
    let machine = machine();
    let log = machine.open(LogConfig { file_delete_delay_ms: 0, ..keeping() });
    fill(&log, 4, NOW);
    log.flush().unwrap();
    let no_space = |on| Fault::new(on, Effect::Error(Errno::Enospc)).path_contains(".tmp").always();
    machine.fs.inject(no_space(FaultOn::Write));
    machine.fs.inject(no_space(FaultOn::Create));
    log.advance_log_start(at(4)).unwrap();
    assert_eq!(deleted(&log).len(), 2);
    advance(&machine, 2000);
    // The recovery point cannot be written either, which is no reason to stop.
    log.tick().unwrap();
    assert!(starting_with(&machine, "00000000000000000000").is_empty(), "{:?}", machine.names());
    for survival in [Survival::Nothing, Survival::Everything, Survival::Random(1), Survival::Random(2)] {
        let after =
            Machine { fs: machine.fs.power_loss_keeping(survival), clock: std::sync::Arc::clone(&machine.clock) };
        let reopened = after.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
        assert_eq!((reopened.log_start(), contents(&reopened).len()), (at(4), 4), "{survival:?}");
    }
    let killed = machine.kill();
    let full = |on| Fault::new(on, Effect::Error(Errno::Enospc)).path_contains(".tmp").always();
    killed.fs.inject(full(FaultOn::Write));
    let reopened = killed.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() });
    assert_eq!(reopened.log_start(), at(4));
    let again = killed.kill();
    drop(reopened);
    assert_eq!(again.open(LogConfig { on_damage: OnDamage::Refuse, ..keeping() }).log_start(), at(4));
}

#[test]
fn what_fails_before_the_first_name_changes_nothing() {
    let machine = machine();
    let log = machine.open(LogConfig { retention_bytes: Some(0), ..keeping() });
    fill(&log, 3, NOW);
    log.flush().unwrap();
    let fault = Fault::new(FaultOn::Write, Effect::Error(Errno::Eio)).path_contains("alluvium.recovery-point.tmp");
    machine.fs.inject(fault);
    let failed = log.enforce_retention().unwrap_err();
    assert!(matches!(failed, ChangeError::Io(_)), "{failed}");
    assert_eq!((log.log_start(), contents(&log).len()), (at(0), 6));
    // The active one may have been rolled; nothing is lost by it.
    assert_eq!(log.enforce_retention().unwrap().log_start, at(6));
}

#[test]
fn a_file_that_cannot_be_renamed_is_tried_again() {
    let machine = machine();
    let log = machine.open(LogConfig { file_delete_delay_ms: 0, ..keeping() });
    fill(&log, 3, NOW);
    log.advance_log_start(at(4)).unwrap();
    machine.fs.inject(Fault::new(FaultOn::Rename, Effect::Error(Errno::Eio)).path_contains("0.log"));
    assert_eq!(deleted(&log).len(), 2);
    assert!(machine.exists("00000000000000000000.log"));
    assert_eq!(log.log_start(), at(4));
    for _ in 0..2 {
        advance(&machine, 2000);
        log.tick().unwrap();
    }
    assert!(starting_with(&machine, "00000000000000000000").is_empty(), "{:?}", machine.names());
    log.append(batch_at(NOW, &["on"]), client()).unwrap();
}

#[test]
fn a_directory_sync_that_fails_latches() {
    let machine = machine();
    let log = machine.open(LogConfig { retention_bytes: Some(0), ..keeping() });
    fill(&log, 2, NOW);
    log.flush().unwrap();
    machine.fs.inject(Fault::new(FaultOn::SyncDir, Effect::Error(Errno::Eio)));
    let failed = log.enforce_retention().unwrap_err();
    assert!(matches!(failed, ChangeError::Failed(_)), "{failed}");
    assert!(matches!(log.append(batch_at(NOW, &["x"]), client()), Err(alluvium::AppendError::Failed(_))));
    assert_eq!(contents(&log).len(), 4, "reads go on");
}

/// Starting anew at a lower offset: what was on its way out under the same names is another log's by then.
#[test]
fn a_restart_forgets_what_was_leaving() {
    let machine = machine();
    let log = machine.open(LogConfig { file_delete_delay_ms: 0, ..keeping() });
    fill(&log, 2, NOW);
    log.advance_log_start(at(2)).unwrap();
    machine.fs.inject(Fault::new(FaultOn::Rename, Effect::Error(Errno::Eio)).path_contains("0.log"));
    assert_eq!(deleted(&log).len(), 1);
    log.truncate_fully_and_start_at(at(0)).unwrap();
    fill(&log, 2, NOW);
    advance(&machine, 5000);
    log.tick().unwrap();
    assert_eq!((contents(&log).len(), log.log_start()), (4, at(0)));
    assert!(machine.exists("00000000000000000000.log"));
}

/// Redpanda's 963ff237c0: appends race with the deletion of the beginning, readers with both.
#[test]
fn appends_and_reads_race_with_retention() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { retention_bytes: Some(4000), file_delete_delay_ms: 0, zero_ahead_bytes: 0, ..small() };
    let log = PartitionLog::open(dir.path().join("raced-0"), config).unwrap();
    let now = log.clock().wall().value();
    let appended = 600;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..appended {
                log.append(batch_at(now, &[&n.to_string()]), client()).unwrap();
            }
        });
        scope.spawn(|| {
            while log.log_end() < at(appended) {
                log.enforce_retention().unwrap();
                log.tick().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut next = 0;
                while next < appended {
                    match log.read(at(next), &ReadOptions { max_bytes: 300, ..ReadOptions::default() }) {
                        Ok(fetched) => {
                            for record in fetched.batches().unwrap().iter() {
                                let batch = record.unwrap();
                                let body = batch.body(1 << 20).unwrap();
                                for record in body.records() {
                                    let record = record.unwrap();
                                    let value = std::str::from_utf8(record.value.unwrap()).unwrap();
                                    assert_eq!(value, record.offset.value().to_string());
                                    assert_eq!(record.offset.value(), next);
                                    next += 1;
                                }
                            }
                        }
                        Err(ReadError::OutOfRange { log_start, asked, .. }) => {
                            assert!(log_start > asked);
                            next = log_start.value();
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    log.enforce_retention().unwrap();
    assert!(log.log_start() > at(0) && bases(&log).len() < 15, "{:?}", bases(&log));
    let found = contents(&log);
    assert_eq!(found.last().unwrap().0, appended - 1);
    log.close().unwrap();
}

/// What was known of a producer whose batches were deleted is told by a snapshot alone. One that a roll had taken, and no
/// round had written yet, died with the process: the producer was unknown, and its duplicates were appended again.
#[test]
fn a_producer_of_deleted_batches_is_known_after_the_process_died() {
    let machine = machine();
    let log = machine.open(keeping());
    let (id, epoch) = (alluvium::ProducerId::new(7).unwrap(), alluvium::ProducerEpoch::new(1).unwrap());
    let mut builder = alluvium::BatchBuilder::new();
    builder.producer(id, epoch, alluvium::Sequence::new(0)).record(ms(NOW), None, Some(b"v"));
    let sent = builder.build().unwrap();
    log.append(sent.clone(), client()).unwrap();
    log.roll().unwrap();
    fill(&log, 2, NOW);
    log.advance_log_start(at(3)).unwrap();
    let log = machine.kill().open(keeping());
    assert_eq!((bases(&log), log.log_start()), (vec![3], at(3)));
    assert!(log.append(sent, client()).unwrap().is_duplicate());
}
