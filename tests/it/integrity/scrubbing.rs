//! Sums on sealing, and what scrubbing finds and does.

use super::*;
use alluvium::error::ReadError;
use alluvium::segment::FileKind;
use alluvium::segment::sum::LogVerdict;
use alluvium::{
    BatchBuilder, LeaderEpoch, ProducerEpoch, ProducerId, ReadOptions, RecordBatch, Sequence, TransactionEnd,
};

use crate::support::{contents, contents_around_damage, ms};

#[test]
fn every_sealed_segment_that_was_synced_has_a_sum() {
    let (machine, log) = filled(20, small());
    let all = bases(&machine);
    assert!(all.len() > 3, "{all:?}");
    assert_eq!(sums(&machine), all[..all.len() - 1], "the active one has none");
    let done = scrub(&log);
    assert_eq!(done.len(), all.len() - 1);
    for done in &done {
        assert!(done.log == LogVerdict::Intact && is_quiet(done), "{done:?}");
    }
    assert_eq!(log.metrics().side_file_failures.value(), 0);
}

/// Appending went on in a segment that an earlier process began: a walk makes the sum.
#[test]
fn a_segment_that_two_processes_wrote_gets_its_sum_too() {
    for closes in [true, false] {
        let (machine, log) = filled(3, small());
        if closes {
            log.close().unwrap();
        }
        drop(log);
        let log = machine.open(small());
        fill(&log, 3..15);
        log.flush().unwrap();
        let all = bases(&machine);
        assert_eq!(sums(&machine), all[..all.len() - 1], "closes: {closes}");
        assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
    }
}

#[test]
fn a_segment_that_is_cut_or_deleted_loses_its_sum() {
    let (machine, log) = filled(20, small());
    let all = bases(&machine);
    log.truncate_to(at(all[2] + 1)).unwrap();
    assert_eq!(sums(&machine), all[..2], "the one that was cut grows again");
    fill(&log, all[2] + 1..30);
    log.flush().unwrap();
    let all = bases(&machine);
    assert_eq!(sums(&machine), all[..all.len() - 1]);
    assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
    log.advance_log_start(at(all[2])).unwrap();
    log.enforce_retention().unwrap();
    assert_eq!(sums(&machine), all[2..all.len() - 1]);
    log.truncate_fully_and_start_at(at(500)).unwrap();
    assert_eq!(sums(&machine), []);
}

#[test]
fn what_has_no_sum_gets_one_by_scrubbing_and_an_unreadable_one_is_made_again() {
    let (machine, log) = filled(20, small());
    let all = bases(&machine);
    machine.remove(&sum_name(all[0]));
    machine.write(&sum_name(all[1]), b"no sum");
    let done = scrub(&log);
    for done in &done[..2] {
        assert!(done.log == LogVerdict::Unprotected && done.is_sum_written, "{done:?}");
        assert!(done.sidecars.is_empty() && done.quarantined.is_empty(), "{done:?}");
    }
    assert!(done[2..].iter().all(is_quiet));
    assert_eq!(sums(&machine), all[..all.len() - 1]);
    assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
}

#[test]
fn a_call_reads_no_more_than_it_is_told_and_a_cursor_goes_on() {
    let (_machine, log) = filled(30, LogConfig { segment_bytes: 2000, ..small() });
    let mut cursor = ScrubCursor::default();
    let (mut calls, mut bytes, mut done) = (0, 0, 0);
    loop {
        let scrubbed = log.scrub(&mut cursor, 1).unwrap();
        if scrubbed.is_round_done {
            break;
        }
        calls += 1;
        assert!(scrubbed.bytes < 150, "one batch: {scrubbed:?}");
        bytes += scrubbed.bytes;
        done += usize::from(scrubbed.segment_done.is_some());
    }
    let segments = log.segment_files().len() - 1;
    assert!(done == segments && calls > 3 * segments && bytes > 0, "{done} {calls} {bytes}");
    // In the middle of a segment, and over a restart, from its front.
    log.scrub(&mut cursor, 1).unwrap();
    let position = cursor.position();
    let mut again = ScrubCursor::starting_at(position);
    assert_eq!(log.scrub(&mut again, 1 << 20).unwrap().segment_done.unwrap().base, position);
}

#[test]
fn damage_that_is_found_is_quarantined_and_remembered() {
    let (machine, log) = filled(20, small());
    let before = contents(&log);
    // The base offset of the third batch of the second segment: only the sum can tell.
    let base = bases(&machine)[1];
    flip(&machine, &format!("{base:020}.log"), len(&machine, &format!("{base:020}.log")) / 3 + 5, 3);
    let found = scrub(&log).into_iter().find(|done| !done.quarantined.is_empty()).unwrap();
    assert_eq!((found.base.value(), found.quarantined.len()), (base, 1));
    let lost = found.quarantined[0].offsets.clone();
    let is_left = |(offset, ..): &&(i64, i64, String)| !lost.contains(&at(*offset));
    let left: Vec<_> = before.iter().filter(is_left).cloned().collect();
    let holes = vec![(lost.start.value(), lost.end.value())];
    assert_eq!(contents_around_damage(&log), (left.clone(), holes.clone()));
    assert_eq!(log.health().damage.len(), 1);
    assert!(scrub(&log).iter().all(|done| done.quarantined.is_empty()), "it is known now");
    fill(&log, 20..21);
    log.truncate_to(at(20)).unwrap();
    drop(log);
    for closes in [true, false] {
        let log = machine.open(small());
        assert_eq!(contents_around_damage(&log), (left.clone(), holes.clone()), "closes: {closes}");
        if closes {
            log.close().unwrap();
        }
    }
}

/// What a read meets is known to the next opening as well.
#[test]
fn damage_that_a_read_meets_is_written_down_by_a_tick() {
    let (machine, log) = filled(20, small());
    let base = bases(&machine)[1];
    flip(&machine, &format!("{base:020}.log"), 16, 0);
    let ReadError::Damaged(_) = log.read(at(base), &ReadOptions::default()).unwrap_err() else { panic!() };
    assert!(!machine.exists("alluvium.damage"));
    log.tick().unwrap();
    let list = machine.read("alluvium.damage");
    log.read(at(base), &ReadOptions::default()).unwrap_err();
    let syncs = machine.fs.steps();
    log.tick().unwrap();
    assert_eq!((machine.read("alluvium.damage"), machine.fs.steps() - syncs < 10), (list, true));
    assert_eq!(machine.kill().open(small()).health().damage.len(), 1);
}

/// Another program put other valid batches in the place of ours.
#[test]
fn a_log_that_another_program_wrote_is_reported_and_protected_anew() {
    let (machine, log) = filled(20, small());
    let base = bases(&machine)[1];
    let name = format!("{base:020}.log");
    let mut written = Vec::new();
    for offset in base..bases(&machine)[2] {
        let mut builder = BatchBuilder::new();
        builder.base_offset(at(offset)).leader_epoch(LeaderEpoch::new(0));
        builder.record(ms(crate::support::NOW + offset), None, Some(b"theirs"));
        written.extend_from_slice(builder.build().unwrap().as_bytes());
    }
    drop(log);
    machine.write(&name, &written);
    let log = machine.open(small());
    let done = scrub(&log);
    let theirs = done.iter().find(|done| done.base.value() == base).unwrap();
    assert!(matches!(theirs.log, LogVerdict::Stale(_)) && theirs.is_sum_written, "{theirs:?}");
    assert!(done.iter().all(|done| done.quarantined.is_empty()));
    assert_eq!(contents(&log).iter().filter(|(_, _, value)| value == "theirs").count(), 6);
    assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
}

#[test]
fn a_segment_that_goes_while_it_is_looked_at_is_passed_over() {
    let (machine, log) = filled(20, small());
    let all = bases(&machine);
    for change in [0, 1] {
        let mut cursor = ScrubCursor::starting_at(at(all[1]));
        log.scrub(&mut cursor, 1).unwrap();
        if change == 0 {
            log.truncate_to(at(all[1] + 2)).unwrap();
            assert!(log.scrub(&mut cursor, 1 << 20).unwrap().is_round_done);
            fill(&log, all[1] + 2..20);
            log.flush().unwrap();
        } else {
            log.advance_log_start(at(all[2])).unwrap();
            log.enforce_retention().unwrap();
            assert_eq!(log.scrub(&mut cursor, 1 << 20).unwrap().segment_done.unwrap().base, at(all[2]));
        }
        assert_eq!(log.health().damage, []);
    }
    assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
}

/// A transaction of one batch that is aborted.
fn abort_one(log: &PartitionLog, producer: i64, values: &[&str]) {
    let (id, epoch) = (ProducerId::new(producer).unwrap(), ProducerEpoch::new(0).unwrap());
    let mut builder = BatchBuilder::new();
    builder.producer(id, epoch, Sequence::new(0)).transactional(true);
    for value in values {
        builder.record(ms(crate::support::NOW), None, Some(value.as_bytes()));
    }
    log.append(builder.build().unwrap(), client()).unwrap();
    let now = ms(crate::support::NOW);
    let marker = RecordBatch::end_transaction_marker(TransactionEnd::Abort, (id, epoch), 4, now);
    log.append(marker, crate::support::coordinator()).unwrap();
}

fn transactional() -> LogConfig {
    LogConfig { transaction_partition_verification_enable: false, ..small() }
}

/// A log with all kinds of files beside its sealed segment, and its directory.
fn with_all_sidecars() -> (Machine, Vec<(String, u64)>) {
    let machine = Machine::new();
    let log = machine.open(transactional());
    abort_one(&log, 7, &["first", "second"]);
    log.roll().unwrap();
    abort_one(&log, 8, &["third"]);
    fill(&log, 0..2);
    log.roll().unwrap();
    log.flush().unwrap();
    log.close().unwrap();
    let base = bases(&machine)[1];
    let kinds = ["log", "index", "timeindex", "txnindex", "snapshot", "sum"];
    let files = kinds.map(|kind| format!("{base:020}.{kind}"));
    let files = files.into_iter().map(|name| (name.clone(), len(&machine, &name))).collect();
    (machine, files)
}

/// Every bit of a sealed segment and of what lies beside it: it is reported, or all that is read is as it was.
#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let (machine, files) = with_all_sidecars();
    let stable = ReadOptions { isolation: alluvium::Isolation::Stable, ..ReadOptions::default() };
    let aborted = |log: &PartitionLog| {
        let from = log.log_start();
        log.read(from, &stable).map(|fetched| fetched.aborted().to_vec()).ok()
    };
    let log = machine.open(transactional());
    let (whole, whole_aborted) = (contents(&log), aborted(&log));
    assert_eq!(whole_aborted.as_ref().unwrap().len(), 2);
    drop(log);
    let (mut found, mut harmless) = (0, 0);
    for (name, bytes) in &files {
        assert!(*bytes > 0 || name.contains("index"), "{name}");
        for bit in 0..bytes * 8 {
            let machine = machine.kill();
            flip(&machine, name, bit / 8, u8::try_from(bit % 8).unwrap());
            let log = machine.open(transactional());
            let done = scrub(&log);
            let is_found = done.iter().any(|done| !is_quiet(done));
            let again = scrub(&log);
            assert!(again.iter().all(is_quiet), "{name} bit {bit}: {again:?}");
            let holes = log.health().damage;
            if is_found {
                found += 1;
            } else {
                harmless += 1;
                println!("{name} bit {bit} is harmless");
            }
            if holes.is_empty() {
                assert_eq!(contents(&log), whole, "{name} bit {bit}");
                assert_eq!(aborted(&log), whole_aborted, "{name} bit {bit}");
            } else {
                assert!(is_found && name.ends_with("log"), "{name} bit {bit}");
                let left = contents_around_damage(&log).0;
                assert!(left.iter().all(|record| whole.contains(record)), "{name} bit {bit}");
            }
        }
    }
    println!("{found} found, {harmless} harmless");
    assert_eq!(harmless, 0);
}

#[test]
fn a_wrong_file_beside_a_log_is_named_and_built_again() {
    let (machine, files) = with_all_sidecars();
    for (name, kind) in
        [("index", FileKind::Index), ("timeindex", FileKind::TimeIndex), ("txnindex", FileKind::TxnIndex)]
    {
        let machine = machine.kill();
        let name = &files.iter().find(|(file, _)| file.ends_with(&format!(".{name}"))).unwrap().0;
        let right = machine.read(name);
        machine.remove(name);
        let log = machine.open(transactional());
        let done = scrub(&log);
        let kinds: Vec<FileKind> = done.iter().flat_map(|done| &done.sidecars).map(|fault| fault.kind).collect();
        // Without one of the two that are always there the next opening knows that something is missing.
        assert!(kinds == [kind] || kinds.is_empty() && kind != FileKind::TxnIndex, "{kinds:?}");
        assert_eq!(machine.read(name), right);
        assert!(scrub(&log).iter().all(is_quiet));
    }
}
