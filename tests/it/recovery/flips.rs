//! Every bit of every file of a small log, flipped: opening and reading never panic, never return a record that was not
//! written, and lose none without an error.
//!
//! One thing cannot be told from the log alone: the base offset and the leader's epoch of a batch lie outside its
//! checksum. A flipped epoch goes unseen, and so may an offset that was raised into a gap that nothing contradicts; the
//! record's content is right even then.

use alluvium::error::ReadError;
use alluvium::{LogConfig, OnDamage, PartitionLog};

use super::{RECORDS, closed, killed, value};
use crate::support::{Contents, DIR, Machine, NOW, at, read_from, small};

/// What came of a flip.
#[derive(Debug, Default)]
struct Tally {
    flips: u32,
    refused: u32,
    complete: u32,
    with_errors: u32,
    moved: u32,
}

fn read_all(log: &PartitionLog, what: &str) -> (Contents, u32) {
    let (mut all, mut errors) = (Contents::new(), 0);
    let mut next = log.log_start();
    loop {
        let (found, outcome) = read_from(log, next, 250);
        for record in found {
            assert!(all.last().is_none_or(|last| last.0 < record.0), "{what}: {} after {:?}", record.0, all.last());
            all.push(record);
        }
        let behind = all.last().map_or(next, |(offset, ..)| next.max(at(offset + 1)));
        next = match outcome {
            Ok(()) => return (all, errors),
            Err(ReadError::Damaged(hole)) => hole.offsets.end,
            // Asked for alone, a batch is damaged as a whole or the next one is found by its offset.
            Err(ReadError::Corrupt(_)) if behind > next => behind,
            Err(ReadError::Corrupt(_)) => next.next().unwrap(),
            Err(error) => panic!("{what}: {error}"),
        };
        errors += 1;
        if next >= log.log_end() {
            return (all, errors);
        }
    }
}

fn check(machine: &Machine, name: &str, byte: u64, bit: u8, tally: &mut Tally) {
    tally.flips += 1;
    let what = format!("byte {byte} bit {bit} of {name}");
    machine.fs.flip_bit(&Machine::path(name), byte, bit);
    let log = match machine.try_open(small()) {
        Ok(log) => log,
        Err(_) => return tally.refused += 1,
    };
    let (found, errors) = read_all(&log, &what);
    let is_log = name.strip_suffix(".log").is_some();
    let is_offset = is_log && byte % 100 < 8;
    let mut lost = 0;
    for (offset, timestamp, text) in &found {
        let n = timestamp - NOW;
        assert!((0..RECORDS).contains(&n) && *text == value(n), "{what}: {text:?} was never written");
        if *offset != n {
            assert!(is_offset, "{what}: record {n} came with offset {offset}");
            tally.moved += 1;
        }
    }
    for n in 0..RECORDS {
        lost += u32::from(!found.iter().any(|(_, timestamp, _)| *timestamp == NOW + n));
    }
    let report = log.recovery_report();
    let was_cut = report.cut_bytes > 0 || !report.set_aside.is_empty();
    if lost > 0 {
        assert!(is_log, "{what}: {lost} records lost");
        assert!(errors > 0 || was_cut, "{what}: {lost} records lost without a word: {report:?}");
        let most = match byte % 100 {
            // A raised last offset claims the records behind it as well.
            23..27 => 4,
            // What the active segment holds up to its next index entry is reached through the batch before.
            0..61 if name.contains("12.log") => 2,
            _ => 1,
        };
        assert!(errors == 0 || was_cut || lost <= most, "{what}: {lost} records lost to one bit: {found:?}");
        tally.with_errors += 1;
    } else {
        tally.complete += 1;
    }
    // Timestamps lead to records that were written, or to an error.
    for n in [0, 7, 15] {
        if let Ok(Some(found)) = log.offset_for_timestamp(alluvium::TimestampMs::new(NOW + n)) {
            assert!(found.timestamp.value() >= NOW + n && found.timestamp.value() < NOW + RECORDS, "{what}");
        }
    }
}

fn flip_everything(base: &Machine, bits: impl Fn(&str, u64) -> Vec<u8>) -> Tally {
    let mut tally = Tally::default();
    for name in base.names() {
        let bytes = base.read(&name).len() as u64;
        for byte in 0..bytes {
            for bit in bits(&name, byte) {
                check(&base.kill(), &name, byte, bit, &mut tally);
            }
        }
    }
    assert_eq!(base.fs.steps(), base.fs.steps());
    tally
}

/// All bits of headers and of our own files; one of each byte that a checksum covers.
fn bits(name: &str, byte: u64) -> Vec<u8> {
    let is_covered = name.strip_suffix(".log").is_some() && byte % 100 >= 61;
    if is_covered { vec![u8::try_from(byte % 8).unwrap()] } else { (0..8).collect() }
}

#[test]
fn of_a_log_that_was_closed() {
    let tally = flip_everything(&closed(), bits);
    assert!(tally.flips > 10_000 && tally.complete > 1000 && tally.with_errors > 1000, "{tally:?}");
    // Whatever cannot be opened is refused for a reason; no flip in a closed log is one.
    assert_eq!(tally.refused, 0, "{tally:?}");
}

#[test]
fn of_a_log_whose_process_died_after_a_sync() {
    let tally = flip_everything(&killed(RECORDS), bits);
    assert!(tally.flips > 9000 && tally.complete > 500 && tally.with_errors > 1000, "{tally:?}");
}

#[test]
fn of_a_log_that_has_lost_its_recovery_point() {
    let machine = killed(RECORDS);
    for name in ["alluvium.recovery-point", "alluvium.sync-state"] {
        machine.remove(name);
    }
    flip_everything(&machine, bits);
}

/// With the policy to refuse, what is refused is as it was.
#[test]
fn nothing_is_changed_by_a_refusal() {
    let base = killed(15);
    let refuse = LogConfig { on_damage: OnDamage::Refuse, ..small() };
    let mut refused = 0;
    for byte in 0..400 {
        let machine = base.kill();
        machine.fs.flip_bit(&Machine::log_path(12), byte, 2);
        let before = machine.snapshot();
        if machine.try_open(refuse.clone()).is_err() {
            crate::support::assert_unchanged(&before, &machine.snapshot(), &format!("byte {byte}, in {DIR}"));
            refused += 1;
        }
    }
    assert!(refused > 250, "{refused}");
}
