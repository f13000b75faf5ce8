//! Each label of the decision table: what was found, what was done, what is there afterwards.

use alluvium::error::{CorruptionKind, DurabilityError, InvalidBatch, OpenError, SmallFileFault};
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{Effect, Fault, FaultOn, Survival};
use alluvium::index::IndexFault;
use alluvium::log::{Action, Finding, Found};
use alluvium::{LogConfig, OnDamage, PartitionLog};

use super::{BATCH_BYTES, RECORDS, assert_settled, closed, fill, killed, patch, records, set_aside, settled_files};
use crate::support::{
    DIR, Machine, assert_unchanged, at, contents, contents_around_damage, findings, given, notable, small,
};

fn name(base: i64, kind: &str) -> String {
    format!("{base:020}.{kind}")
}

fn only(log: &PartitionLog) -> Finding {
    let findings = notable(log);
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings[0].clone()
}

#[test]
fn n1_an_empty_or_missing_directory_is_begun() {
    let machine = Machine::new();
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::Nothing, Action::Create)]);
    assert!(log.recovery_report().is_ordinary());
    assert_eq!((log.log_start(), log.log_end(), log.recovery_point()), (at(0), at(0), at(0)));
    drop(log);
    assert_settled(&machine.kill(), &small());
    // The next one finds a log without records, and nothing to say about it.
    assert_eq!(findings(&machine.open(small())), []);
}

#[test]
fn c1_a_clean_shutdown_is_believed() {
    let machine = closed();
    assert!(machine.exists("alluvium.clean-shutdown"));
    let reads = |machine: &Machine| machine.fs.record_trace(true);
    reads(&machine);
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::CleanShutdown, Action::Accept)]);
    let report = log.recovery_report();
    assert!(report.was_clean && report.is_ordinary());
    assert_eq!((report.scanned_segments, report.scanned_bytes, report.segments), (0, 0, 3));
    // Sealed segments are not touched.
    let touched: Vec<_> = machine.fs.trace().into_iter().map(|event| event.path).collect();
    for kind in ["log", "index", "timeindex"] {
        for base in [0, 6] {
            assert!(!touched.contains(&Machine::path(&name(base, kind))), "{base} {kind}");
        }
    }
    assert_eq!(contents(&log), records(0..RECORDS));
    // The marker is gone as long as the log is open, and durably so.
    assert!(!machine.exists("alluvium.clean-shutdown"));
    assert_eq!(machine.fs.durable_bytes(&Machine::path("alluvium.clean-shutdown")), None);
    log.close().unwrap();
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::CleanShutdown, Action::Accept)]);
    assert_eq!(contents(&log), records(0..RECORDS));
}

/// Somebody else appended after our clean shutdown, as Kafka would.
#[test]
fn c2_a_marker_that_does_not_fit_the_files_is_not_believed() {
    let machine = closed();
    let mut active = machine.read(&name(12, "log"));
    active.extend_from_slice(given(16, &["theirs"]).as_bytes());
    machine.write(&name(12, "log"), &active);
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::StaleCleanMarker, Action::Scan)]);
    assert!(!log.recovery_report().was_clean);
    let found = contents(&log);
    assert_eq!(found[..16], records(0..16));
    assert_eq!(found[16].2, "theirs");
    drop(log);
    assert_settled(&machine.kill(), &small());

    // They rolled too.
    let machine = closed();
    machine.write(&name(16, "log"), given(16, &["theirs"]).as_bytes());
    let log = machine.open(small());
    assert_eq!(findings(&log)[0], (Found::StaleCleanMarker, Action::Scan));
    assert_eq!(contents(&log).len(), 17);

    // A marker for another state of the log, put back from a backup.
    let machine = closed();
    let marker = machine.read("alluvium.clean-shutdown");
    let log = machine.open(small());
    fill(&log, 16, 18);
    log.close().unwrap();
    machine.write("alluvium.clean-shutdown", &marker);
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::StaleCleanMarker, Action::Scan)]);
    assert_eq!(contents(&log), records(0..18));
}

/// Unreadable, the marker says nothing, and that is no loss.
#[test]
fn c2_a_marker_that_cannot_be_read_is_not_believed() {
    for garbage in [&b""[..], b"ALVM", &[0; 52]] {
        let machine = closed();
        machine.write("alluvium.clean-shutdown", garbage);
        let log = machine.open(small());
        assert_eq!(findings(&log), [(Found::StaleCleanMarker, Action::Scan)]);
        assert_eq!(contents(&log), records(0..RECORDS));
        // Only what the recovery point does not cover is scanned.
        assert_eq!(log.recovery_report().scanned_segments, 1);
    }
}

#[test]
fn p1_without_a_recovery_point_everything_is_scanned() {
    for machine in [killed(RECORDS), killed(7), killed(0), closed()] {
        for name in ["alluvium.recovery-point", "alluvium.sync-state", "alluvium.clean-shutdown"] {
            if machine.exists(name) {
                machine.remove(name);
            }
        }
        let log = machine.open(small());
        assert_eq!(findings(&log), [(Found::RecoveryPointAbsent, Action::ScanAll)]);
        let report = log.recovery_report();
        assert_eq!((report.recovery_point, report.scanned_segments, report.scanned_batches), (None, 3, 16));
        assert_eq!(contents(&log), records(0..RECORDS));
        // It is there from now on, durable, before anything is appended.
        assert!(machine.fs.durable_bytes(&Machine::path("alluvium.recovery-point")).is_some());
        assert_eq!(log.recovery_point(), at(RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

#[test]
fn p1_a_recovery_point_that_cannot_be_read_counts_as_absent() {
    let right = killed(RECORDS).read("alluvium.recovery-point");
    let mut flipped = right.clone();
    flipped[20] ^= 4;
    let cases: [(&[u8], SmallFileFault); 5] = [
        (b"", SmallFileFault::Length),
        (&right[..30], SmallFileFault::Length),
        (&flipped, SmallFileFault::Crc),
        (&[0; 41], SmallFileFault::Magic),
        (&[&right[..], b"more"].concat(), SmallFileFault::Length),
    ];
    for (bytes, fault) in cases {
        let machine = killed(RECORDS);
        machine.write("alluvium.recovery-point", bytes);
        let log = machine.open(small());
        let found = Found::RecoveryPointUnreadable(CorruptionKind::SmallFile(fault));
        assert_eq!(findings(&log), [(found, Action::ScanAll)]);
        assert_eq!(only(&log).file, "alluvium.recovery-point");
        assert_eq!(log.recovery_report().scanned_segments, 3);
        assert_eq!(contents(&log), records(0..RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// Only segments at or past the recovery point are scanned.
#[test]
fn a_recovery_point_bounds_the_scan() {
    for (durable, scanned) in [(0, 3), (5, 3), (6, 2), (7, 2), (12, 1), (13, 1), (16, 1)] {
        let machine = killed(durable);
        let log = machine.open(small());
        assert_eq!(findings(&log), [], "{durable}");
        let report = log.recovery_report();
        assert_eq!(report.recovery_point, Some(at(durable)));
        assert_eq!(report.scanned_segments, scanned, "{durable}");
        assert_eq!(contents(&log), records(0..RECORDS));
        assert_eq!(log.durable_end(), at(RECORDS));
        // What was found in the page cache is on the disk before it is served as durable.
        let after = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() };
        assert_eq!(contents(&after.open(small())), records(0..RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// The disk shows new bytes after EIO, does not have them, and its next sync succeeds.
#[test]
fn p2_after_a_sync_in_doubt_bytes_are_written_again() {
    for effect in [Effect::SyncDropsPages, Effect::SyncKeepsPages] {
        let machine = Machine::new();
        let log = machine.open(small());
        fill(&log, 0, 8);
        log.flush().unwrap();
        fill(&log, 8, RECORDS);
        machine.fs.inject(Fault::new(FaultOn::SyncData, effect).path_contains(".log"));
        let error = log.flush().unwrap_err();
        assert!(matches!(error, DurabilityError::Failed(_)), "{error:?}");
        drop(log);
        let machine = machine.kill();
        let log = machine.open(small());
        assert_eq!(findings(&log), [(Found::SyncInDoubt, Action::Rewrite)]);
        assert_eq!(contents(&log), records(0..RECORDS));
        assert_eq!(log.durable_end(), at(RECORDS));
        // Whatever is served as durable stands on the platter.
        let after = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() };
        assert_eq!(contents(&after.open(small())), records(0..RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// The failed sync took the bytes back: what is gone was never durable.
#[test]
fn p2_bytes_that_a_failed_sync_took_back_are_a_torn_tail() {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, 8);
    log.flush().unwrap();
    fill(&log, 8, 11);
    machine.fs.inject(Fault::new(FaultOn::SyncData, Effect::SyncRevertsPages).path_contains(".log"));
    log.flush().unwrap_err();
    drop(log);
    let machine = machine.kill();
    let log = machine.open(small());
    assert_eq!(findings(&log)[0], (Found::SyncInDoubt, Action::Rewrite));
    assert_eq!(contents(&log), records(0..8));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

/// The process dies at each step of starting anew: the old log or the new one, and the next opening finishes what was
/// decided.
#[test]
fn t1_a_restart_that_was_decided_is_finished() {
    let (mut pending, mut old, mut new) = (0, 0, 0);
    for step in 1.. {
        let machine = Machine::new();
        let log = machine.open(small());
        fill(&log, 0, RECORDS);
        log.flush().unwrap();
        machine.fs.crash_after(machine.fs.steps() + step);
        let outcome = log.truncate_fully_and_start_at(at(500));
        if !machine.fs.is_crashed() {
            outcome.unwrap();
            break;
        }
        outcome.unwrap_err();
        drop(log);
        let machine = machine.kill();
        let log = machine.open(small());
        if findings(&log).contains(&(Found::RestartPending(at(500)), Action::FinishRestart)) {
            pending += 1;
        }
        if log.log_end() == at(500) {
            new += 1;
            assert_eq!(log.log_start(), at(500));
            assert_eq!(contents(&log), []);
            fill(&log, 500, 502);
            log.truncate_to(at(500)).unwrap();
        } else {
            old += 1;
            assert_eq!(contents(&log), records(0..RECORDS));
        }
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
    assert!(pending > 3 && new >= pending && old > 0, "{pending} {new} {old}");
}

#[test]
fn l1_a_file_on_its_way_out_is_removed() {
    let machine = killed(RECORDS);
    for kind in ["log.deleted", "index.deleted", "timeindex.deleted"] {
        machine.write(&name(3, kind), b"old");
    }
    let log = machine.open(small());
    assert_eq!(findings(&log), vec![(Found::LeftoverDeleted, Action::Remove); 3]);
    assert!(!machine.names().iter().any(|name| name.contains("deleted")));
    assert_eq!(contents(&log), records(0..RECORDS));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn l2_a_file_that_was_being_written_is_removed() {
    let machine = killed(RECORDS);
    machine.write(&name(6, "log.cleaned"), &machine.read(&name(6, "log"))[..250]);
    machine.write("alluvium.recovery-point.tmp", b"half");
    machine.write(&(name(0, "index") + ".tmp"), b"half");
    let log = machine.open(small());
    assert_eq!(findings(&log), [(Found::LeftoverUnfinished, Action::Remove)]);
    assert!(!machine.exists(&name(6, "log.cleaned")) && !machine.exists("alluvium.recovery-point.tmp"));
    assert_eq!(contents(&log), records(0..RECORDS));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn l3_a_complete_swap_is_finished() {
    let machine = killed(RECORDS);
    let (live, swap) = (Machine::log_path(6), Machine::path(&name(6, "log.swap")));
    machine.fs.rename(&live, &swap).unwrap();
    machine.fs.sync_dir(DIR.as_ref()).unwrap();
    let log = machine.open(small());
    // The index files of the old segment go with it.
    let replaced = (Found::LeftoverReplaced, Action::Remove);
    let right = [replaced.clone(), replaced.clone(), replaced, (Found::LeftoverSwap, Action::FinishSwap)];
    assert_eq!(findings(&log), right);
    assert_eq!(contents(&log), records(0..RECORDS));
    assert!(machine.exists(&name(6, "log")) && !machine.exists(&name(6, "log.swap")));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn l4_a_swap_with_an_unfinished_sibling_is_removed() {
    let machine = killed(RECORDS);
    machine.write(&name(6, "log.cleaned"), &machine.read(&name(6, "log"))[..100]);
    machine.write(&name(12, "log.swap"), &machine.read(&name(12, "log"))[..100]);
    let log = machine.open(small());
    let right = [(Found::LeftoverPartialSwap, Action::Remove), (Found::LeftoverUnfinished, Action::Remove)];
    assert_eq!(findings(&log), right);
    assert!(!machine.exists(&name(12, "log.swap")));
    assert_eq!(contents(&log), records(0..RECORDS));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn l5_an_index_without_its_log_is_removed() {
    let machine = killed(RECORDS);
    let orphans = [name(3, "index"), name(3, "timeindex"), name(3, "txnindex")];
    for name in &orphans {
        machine.write(name, b"12345678");
    }
    let log = machine.open(small());
    assert_eq!(findings(&log), vec![(Found::OrphanIndex, Action::Remove); 3]);
    assert!(orphans.iter().all(|name| !machine.exists(name)));
    assert_eq!(contents(&log), records(0..RECORDS));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

/// What a crash left of a removed segment would hide the records of the segment that has its offsets.
#[test]
fn l6_an_empty_log_below_the_recovery_point_is_removed() {
    for base in [3, 8, 11, 13] {
        let machine = killed(RECORDS);
        machine.write(&name(base, "log"), b"");
        let log = machine.open(small());
        assert_eq!(findings(&log), [(Found::EmptyLog, Action::Remove)]);
        assert!(!machine.exists(&name(base, "log")));
        assert_eq!(contents(&log), records(0..RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

#[test]
fn s1_zeros_behind_the_last_batch_are_cut_off() {
    for (durable, zeros) in [(0, 1), (13, 4096), (RECORDS, 4096)] {
        let machine = killed(durable);
        let mut active = machine.read(&name(12, "log"));
        let whole = active.len();
        active.resize(whole + zeros, 0);
        machine.write(&name(12, "log"), &active);
        let log = machine.open(small());
        let finding = only(&log);
        assert_eq!((finding.found, finding.action), (Found::ZeroTail { bytes: zeros as u64 }, Action::Cut));
        assert_eq!((finding.position, finding.offset), (whole as u64, Some(at(RECORDS))));
        assert_eq!(machine.read(&name(12, "log")), active[..whole]);
        assert_eq!(contents(&log), records(0..RECORDS));
        fill(&log, RECORDS, RECORDS + 1);
        log.truncate_to(at(RECORDS)).unwrap();
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// A prefix of a batch, of every length.
#[test]
fn s2_a_torn_batch_is_cut_off() {
    for have in 1..BATCH_BYTES {
        let machine = killed(15);
        let active = machine.read(&name(12, "log"));
        let torn = active.len() - usize::try_from(BATCH_BYTES - have).unwrap();
        machine.write(&name(12, "log"), &active[..torn]);
        let log = machine.open(small());
        let finding = only(&log);
        let need = if have < 61 { 61 } else { BATCH_BYTES };
        let is_zeros = active[300..torn].iter().all(|byte| *byte == 0);
        let right = if is_zeros {
            Found::ZeroTail { bytes: have }
        } else {
            Found::TornTail { bytes: have, cause: InvalidBatch::Short { need, have }.into() }
        };
        assert_eq!((finding.found, finding.action), (right, Action::Cut));
        assert_eq!((finding.position, finding.offset), (300, Some(at(15))));
        assert_eq!(contents(&log), records(0..15));
        fill(&log, 15, 16);
        assert_eq!(contents(&log), records(0..16));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// The middle segment lost its end, and the one behind it did not: nothing behind the tear is believed, and nothing of it
/// is thrown away.
#[test]
fn s3_segments_past_a_tear_are_set_aside() {
    let machine = killed(7);
    let (middle, last) = (machine.read(&name(6, "log")), machine.read(&name(12, "log")));
    machine.write(&name(6, "log"), &middle[..350]);
    let log = machine.open(small());
    let cause = InvalidBatch::Short { need: 61, have: 50 }.into();
    let right = [(Found::TornTail { bytes: 50, cause }, Action::Cut), (Found::SegmentPastTear, Action::SetAside)];
    assert_eq!(findings(&log), right);
    assert_eq!(notable(&log)[1].file, name(12, "log"));
    assert_eq!(contents(&log), records(0..9));
    let aside = set_aside(&machine);
    assert_eq!(aside, log.recovery_report().set_aside);
    assert_eq!(aside.len(), 1);
    assert_eq!(machine.read(&aside[0]), last);
    assert!(!machine.exists(&name(12, "log")) && !machine.exists(&name(12, "index")));
    fill(&log, 9, 10);
    assert_eq!(contents(&log), records(0..10));
    drop(log);
    assert_settled(&machine.kill(), &small());
    // They are named by later openings too, and another one gets another name.
    let log = machine.kill().open(small());
    assert_eq!(log.recovery_report().set_aside, aside);
}

fn with_policy(on_damage: OnDamage) -> LogConfig {
    LogConfig { on_damage, ..small() }
}

/// Record 13, which is durable, has a flipped bit; 15 was never durable.
fn damaged() -> Machine {
    let machine = killed(15);
    machine.fs.flip_bit(&Machine::log_path(12), BATCH_BYTES + 80, 3);
    machine
}

#[test]
fn d1_damage_is_quarantined() {
    let machine = damaged();
    let before = machine.read(&name(12, "log"));
    let log = machine.open(small());
    let finding = only(&log);
    let Found::Damage(damage) = &finding.found else { panic!("{finding:?}") };
    assert_eq!(finding.action, Action::Quarantine);
    assert_eq!((damage.bytes.clone(), damage.offsets.clone()), (100..200, at(13)..at(14)));
    assert_eq!(damage.file, Machine::log_path(12));
    assert!(matches!(damage.cause, Some(CorruptionKind::Batch(InvalidBatch::Crc { .. }))), "{damage:?}");
    assert_eq!(machine.read(&name(12, "log")), before, "kept as it is");
    let held = [records(0..13), records(14..16)].concat();
    assert_eq!(contents_around_damage(&log), (held, vec![(13, 14)]));
    assert_eq!(log.health().damage, std::slice::from_ref(damage));
    // Appends go on behind it.
    fill(&log, RECORDS, 20);
    let held = [records(0..13), records(14..20)].concat();
    assert_eq!(contents_around_damage(&log), (held, vec![(13, 14)]));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn d2_damage_is_refused_and_nothing_is_changed() {
    let machine = damaged();
    let before = machine.snapshot();
    for _ in 0..2 {
        let error = machine.try_open(with_policy(OnDamage::Refuse)).unwrap_err();
        assert!(error.to_string().contains("open with Quarantine"), "{error}");
        let OpenError::Damaged { first, count: 1 } = error else { panic!("{error:?}") };
        assert_eq!(first.offsets, at(13)..at(14));
        assert_unchanged(&before, &machine.snapshot(), "refused");
    }
    // With another policy it opens as if nobody had tried.
    assert_eq!(findings(&machine.open(small())).len(), 1);
}

#[test]
fn d3_the_log_is_cut_at_the_damage() {
    let machine = damaged();
    let log = machine.open(with_policy(OnDamage::Cut));
    assert_eq!(only(&log).action, Action::CutAtDamage);
    assert_eq!(contents(&log), records(0..13));
    assert_eq!((log.log_end(), log.durable_end(), log.recovery_point()), (at(13), at(13), at(13)));
    assert_eq!(machine.read(&name(12, "log")).len() as u64, BATCH_BYTES);
    fill(&log, 13, 15);
    assert_eq!(contents(&log), records(0..15));
    drop(log);
    assert_settled(&machine.kill(), &with_policy(OnDamage::Cut));
}

/// The last segment is shorter than what was synced.
fn shortened() -> Machine {
    let machine = killed(15);
    let active = machine.read(&name(12, "log"));
    machine.write(&name(12, "log"), &active[..usize::try_from(2 * BATCH_BYTES).unwrap()]);
    machine
}

#[test]
fn d4_a_log_that_ends_below_its_recovery_point_does_not_hand_out_offsets_again() {
    let machine = shortened();
    let log = machine.open(small());
    let lost = Found::EndsBelowRecoveryPoint { lost: at(14)..at(15) };
    assert_eq!(findings(&log), [(lost, Action::SkipLost)]);
    assert_eq!(log.log_end(), at(15));
    fill(&log, 15, 18);
    let held = [records(0..14), records(15..18)].concat();
    assert_eq!(contents_around_damage(&log), (held, vec![(14, 15)]));
    drop(log);
    assert_settled(&machine.kill(), &small());
    // The same when there is no file left at all.
    for keep in [&[0, 6][..], &[0], &[]] {
        let machine = killed(15);
        for base in [0, 6, 12].iter().filter(|base| !keep.contains(base)) {
            machine.remove(&name(*base, "log"));
        }
        let log = machine.open(small());
        assert_eq!(log.log_end(), at(15), "{keep:?}");
        let end = keep.last().map_or(0, |base| base + 6);
        let (held, damage) = contents_around_damage(&log);
        assert_eq!(held, records(0..end), "{keep:?}");
        let lost = Found::EndsBelowRecoveryPoint { lost: at(end)..at(15) };
        assert_eq!(findings(&log).last(), Some(&(lost, Action::SkipLost)), "{keep:?}");
        // Without any segment too: where the log starts is written down, and nobody deleted these records.
        assert_eq!((damage, log.log_start()), (vec![(end, 15)], at(0)), "{keep:?}");
        fill(&log, 15, 16);
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

#[test]
fn d5_a_log_that_ends_below_its_recovery_point_is_refused_or_cut_as_the_policy_says() {
    let machine = shortened();
    let before = machine.snapshot();
    let error = machine.try_open(with_policy(OnDamage::Refuse)).unwrap_err();
    let OpenError::Damaged { first, count: 1 } = error else { panic!("{error:?}") };
    assert_eq!(first.offsets, at(14)..at(15));
    assert_unchanged(&before, &machine.snapshot(), "refused");
    let log = machine.open(with_policy(OnDamage::Cut));
    assert_eq!(only(&log).action, Action::CutAtDamage);
    assert_eq!((log.log_end(), log.recovery_point()), (at(14), at(14)));
    fill(&log, 14, 16);
    assert_eq!(contents(&log), records(0..16));
    drop(log);
    assert_settled(&machine.kill(), &with_policy(OnDamage::Cut));
}

#[test]
fn d6_damage_is_remembered_over_a_clean_shutdown() {
    let machine = damaged();
    machine.open(small()).close().unwrap();
    for _ in 0..2 {
        let log = machine.open(small());
        let [(Found::KnownDamage(damage), Action::Quarantine), (Found::CleanShutdown, Action::Accept)] =
            &findings(&log)[..]
        else {
            panic!("{:?}", log.recovery_report());
        };
        assert_eq!((damage.bytes.clone(), damage.offsets.clone()), (100..200, at(13)..at(14)));
        assert_eq!(damage.cause, Some(CorruptionKind::FoundEarlier));
        assert_eq!(log.recovery_report().damage().count(), 1);
        let held = [records(0..13), records(14..16)].concat();
        assert_eq!(contents_around_damage(&log), (held, vec![(13, 14)]));
        log.close().unwrap();
    }
    // A log with known damage is refused by policy, however clean it is, and stays clean.
    let before = machine.snapshot();
    let error = machine.try_open(with_policy(OnDamage::Refuse)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { count: 1, .. }), "{error:?}");
    assert_unchanged(&before, &machine.snapshot(), "refused");
    // Nothing is cut when it is no news.
    let log = machine.open(with_policy(OnDamage::Cut));
    assert_eq!(log.log_end(), at(16));
}

/// The list of damage outlived the bytes that it was about: a truncation took the damaged bytes, good ones were written
/// in their place, and a later opening answered reads of them with `Damaged`.
#[test]
fn d6_damage_that_was_cut_off_is_forgotten() {
    for fully in [false, true] {
        let machine = damaged();
        let log = machine.open(small());
        if fully {
            log.truncate_fully_and_start_at(at(12)).unwrap();
        } else {
            log.truncate_to(at(12)).unwrap();
        }
        assert_eq!(log.health().damage, []);
        fill(&log, 12, 30);
        log.close().unwrap();
        let log = machine.open(with_policy(OnDamage::Refuse));
        assert_eq!(findings(&log), [(Found::CleanShutdown, Action::Accept)]);
        let first = if fully { 12 } else { 0 };
        assert_eq!(contents(&log), records(first..30));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// The damaged segment is sealed and covered by the recovery point; the list is all that knows of it.
#[test]
fn d6_damage_is_remembered_after_an_unclean_shutdown() {
    let machine = damaged();
    let log = machine.open(small());
    fill(&log, RECORDS, 30);
    log.flush().unwrap();
    drop(log);
    let machine = machine.kill();
    let log = machine.open(small());
    let [(Found::KnownDamage(damage), Action::Quarantine)] = &findings(&log)[..] else {
        panic!("{:?}", log.recovery_report());
    };
    assert_eq!(damage.offsets, at(13)..at(14));
    let held = [records(0..13), records(14..30)].concat();
    assert_eq!(contents_around_damage(&log), (held, vec![(13, 14)]));
    drop(log);
    let before = settled_files(&machine);
    machine.try_open(with_policy(OnDamage::Refuse)).unwrap_err();
    assert_unchanged(&before, &settled_files(&machine), "refused");
}

#[test]
fn d7_a_damage_list_that_cannot_be_read_is_removed() {
    for machine in [killed(RECORDS), closed()] {
        let was_closed = machine.exists("alluvium.clean-shutdown");
        machine.write("alluvium.damage", b"garbage");
        let log = machine.open(small());
        let found = Found::DamageListUnreadable(CorruptionKind::SmallFile(SmallFileFault::Length));
        assert_eq!(findings(&log)[0], (found, Action::Remove));
        assert!(!machine.exists("alluvium.damage"), "was closed: {was_closed}");
        assert_eq!(contents(&log), records(0..RECORDS));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
    // Damage that only the list knew shows itself again to whoever reads it, as long as its checksum is looked at.
    let machine = damaged();
    machine.open(small()).close().unwrap();
    machine.write("alluvium.damage", b"garbage");
    let log = machine.open(small());
    let (found, outcome) = crate::support::read_from(&log, at(0), 1 << 20);
    assert!(found.len() <= 13 && outcome.is_err(), "{outcome:?}");
}

#[test]
fn i1_an_index_that_is_not_what_the_log_gives_is_rebuilt() {
    let machine = killed(7);
    // A roll and a sync write the indexes of what was sealed.
    let log = machine.open(small());
    log.flush().unwrap();
    drop(log);
    let machine = machine.kill();
    machine.remove("alluvium.recovery-point");
    let right = machine.read(&name(6, "index"));
    patch(&machine, &Machine::path(&name(6, "index")), 3, &[right[3] ^ 1]);
    let log = machine.open(small());
    let right_findings =
        [(Found::RecoveryPointAbsent, Action::ScanAll), (Found::BadIndex(IndexFault::Differs), Action::Rebuild)];
    assert_eq!(findings(&log), right_findings);
    assert_eq!(notable(&log)[1].file, name(6, "index"));
    assert_eq!(machine.read(&name(6, "index")), right);
    assert_eq!(contents(&log), records(0..RECORDS));
    drop(log);
    assert_settled(&machine.kill(), &small());
}
