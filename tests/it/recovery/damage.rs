//! Damage of every kind, on both sides of the recovery point.
//!
//! Below it nothing is cut without a word: the rest is readable on both sides of the hole, reads of the hole name the next
//! readable offset, appends go on, and the damage is remembered. At or past it the same bytes are a torn tail.

use alluvium::error::{OpenError, ReadError};
use alluvium::log::{Action, Found};
use alluvium::{LogConfig, OnDamage, PartitionLog, ReadOptions};

use super::{BATCH_BYTES, RECORDS, assert_settled, closed, fill, killed, records, set_aside, settled_files};
use crate::support::{
    Contents, Machine, assert_unchanged, at, contents, contents_around_damage, findings, read_from, small,
};

/// What is done to the file that holds a record.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Flips a bit of a byte of its batch.
    Flip(u64, u8),
    /// Zeros over the batch.
    Zeros,
    /// Zeros over half of it.
    HalfZeros,
    /// Cuts the file where its batch starts.
    CutBefore,
    /// Cuts the file in the middle of its batch.
    CutInside,
}

/// Payload, CRC, attributes, count; length low and high; base offset low, and so high that it lies far past the log;
/// magic.
const FLIPS: [Harm; 11] = [
    Harm::Flip(80, 3),
    Harm::Flip(17, 0),
    Harm::Flip(22, 1),
    Harm::Flip(60, 2),
    Harm::Flip(11, 2),
    Harm::Flip(11, 4),
    Harm::Flip(8, 6),
    Harm::Flip(7, 1),
    Harm::Flip(7, 6),
    Harm::Flip(3, 3),
    Harm::Flip(16, 0),
];

fn base_of(record: i64) -> i64 {
    record / 6 * 6
}

fn harm(machine: &Machine, record: i64, harm: Harm) {
    let base = base_of(record);
    let (path, name) = (Machine::log_path(base), format!("{base:020}.log"));
    let start = (record - base).unsigned_abs() * BATCH_BYTES;
    let mut bytes = machine.read(&name);
    let batch = usize::try_from(start).unwrap()..usize::try_from(start + BATCH_BYTES).unwrap();
    match harm {
        Harm::Flip(byte, bit) => return machine.fs.flip_bit(&path, start + byte, bit),
        Harm::Zeros => bytes[batch].fill(0),
        Harm::HalfZeros => bytes[batch.start..batch.start + 50].fill(0),
        Harm::CutBefore => bytes.truncate(batch.start),
        Harm::CutInside => bytes.truncate(batch.start + 70),
    }
    machine.write(&name, &bytes);
}

fn forget_the_recovery_point(machine: &Machine) {
    for name in ["alluvium.recovery-point", "alluvium.sync-state"] {
        machine.remove(name);
    }
}

fn without(lost: std::ops::Range<i64>, end: i64) -> Contents {
    records(0..end).into_iter().filter(|(offset, ..)| !lost.contains(offset)).collect()
}

fn quarantined(log: &PartitionLog) -> Vec<(i64, i64)> {
    let damage = log.recovery_report().findings.iter().filter_map(|finding| match &finding.found {
        Found::Damage(damage) | Found::KnownDamage(damage) => {
            assert_eq!(finding.action, Action::Quarantine);
            Some((damage.offsets.start.value(), damage.offsets.end.value()))
        }
        _ => None,
    });
    damage.collect()
}

/// Opens, and checks everything that is promised of damage to the durable records `lost`, nothing else being wrong.
fn check_hole(machine: &Machine, lost: std::ops::Range<i64>, what: &str) {
    let before = machine.snapshot();
    let error = machine.try_open(LogConfig { on_damage: OnDamage::Refuse, ..small() }).unwrap_err();
    let OpenError::Damaged { first, count: 1 } = error else { panic!("{what}: {error:?}") };
    assert_eq!(first.offsets, at(lost.start)..at(lost.end), "{what}");
    assert_unchanged(&before, &machine.snapshot(), what);

    let log = machine.open(small());
    assert_eq!(quarantined(&log), [(lost.start, lost.end)], "{what}: {:?}", log.recovery_report().findings);
    // Bytes are kept, but for zeros at the end of a file, which are no evidence of anything.
    let cut = if what.starts_with("Zeros") && lost.end % 6 == 0 { BATCH_BYTES } else { 0 };
    assert_eq!(log.recovery_report().cut_bytes, cut, "{what}");
    assert_eq!(set_aside(machine), Vec::<String>::new(), "{what}");
    assert_eq!(log.log_end(), at(RECORDS), "{what}");
    let damage = vec![(lost.start, lost.end)];
    assert_eq!(contents_around_damage(&log), (without(lost.clone(), RECORDS), damage.clone()), "{what}");
    for asked in lost.clone() {
        let error = log.read(at(asked), &ReadOptions::default()).unwrap_err();
        assert!(error.to_string().contains("go on at the end of that range"), "{what}: {error}");
        let ReadError::Damaged(hole) = error else { panic!("{what}: {error:?}") };
        assert_eq!(hole.offsets, at(lost.start)..at(lost.end), "{what}");
    }
    for asked in without(lost.clone(), RECORDS).iter().map(|(offset, ..)| *offset) {
        let one = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
        let batches = log.read(at(asked), &one).unwrap().batches().unwrap();
        let found = batches.iter().next().unwrap().unwrap().header().base_offset;
        assert_eq!(found, at(asked), "{what}");
    }
    for (offset, timestamp, _) in without(lost.clone(), RECORDS) {
        let found = log.offset_for_timestamp(alluvium::TimestampMs::new(timestamp)).unwrap().unwrap();
        assert_eq!(found.offset, at(offset), "{what}");
    }
    // Appends go on, and it is remembered over a clean and an unclean end.
    fill(&log, RECORDS, RECORDS + 3);
    log.close().unwrap();
    let mut machine = machine.clone();
    for (was_clean, closes) in [(true, true), (true, false), (false, false), (false, true), (true, true)] {
        let log = machine.open(small());
        assert_eq!(log.recovery_report().was_clean, was_clean, "{what}");
        assert_eq!(quarantined(&log), damage, "{what}: {:?}", log.recovery_report());
        assert_eq!(contents_around_damage(&log), (without(lost.clone(), RECORDS + 3), damage.clone()), "{what}");
        if closes {
            log.close().unwrap();
        }
        drop(log);
        machine = machine.kill();
    }
}

/// The recovery point lies in the last segment, which is scanned.
#[test]
fn damage_just_below_the_recovery_point_is_a_hole() {
    for kind in FLIPS.into_iter().chain([Harm::Zeros, Harm::HalfZeros]) {
        for record in [12, 13, 14] {
            let machine = killed(15);
            harm(&machine, record, kind);
            check_hole(&machine, record..record + 1, &format!("{kind:?} in {record}"));
        }
    }
}

/// The last durable record is also the last of the file.
#[test]
fn damage_at_the_very_end_of_what_was_durable_is_a_hole() {
    for kind in FLIPS.into_iter().chain([Harm::HalfZeros]) {
        let machine = killed(RECORDS);
        harm(&machine, 15, kind);
        check_hole(&machine, 15..16, &format!("{kind:?}"));
    }
}

/// Without a recovery point every segment but the last is taken for durable.
#[test]
fn damage_in_earlier_segments_is_a_hole_without_a_recovery_point() {
    for kind in FLIPS.into_iter().chain([Harm::Zeros, Harm::HalfZeros]) {
        for record in [0, 3, 5, 6, 11] {
            let machine = killed(7);
            forget_the_recovery_point(&machine);
            harm(&machine, record, kind);
            check_hole(&machine, record..record + 1, &format!("{kind:?} in {record}"));
        }
    }
}

/// Kafka kept 1 record of 150 after one flipped bit in the first segment and a lost recovery point: it dropped every
/// segment behind it.
#[test]
fn a_flipped_bit_in_the_first_segment_and_a_lost_recovery_point_cost_one_batch() {
    let machine = Machine::new();
    let log = machine.open(small());
    fill(&log, 0, 150);
    drop(log);
    let machine = machine.kill();
    forget_the_recovery_point(&machine);
    harm(&machine, 1, Harm::Flip(80, 3));
    let log = machine.open(small());
    assert_eq!(contents_around_damage(&log), (without(1..2, 150), vec![(1, 2)]));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

#[test]
fn a_segment_cut_short_below_the_recovery_point_is_a_hole() {
    for (kind, record) in [(Harm::CutBefore, 9), (Harm::CutInside, 9), (Harm::CutBefore, 6), (Harm::CutInside, 0)] {
        let machine = killed(RECORDS);
        forget_the_recovery_point(&machine);
        harm(&machine, record, kind);
        check_hole(&machine, record..base_of(record) + 6, &format!("{kind:?} in {record}"));
    }
}

/// A file in the middle is gone: it is never joined over without a word, whether the log is scanned or not.
#[test]
fn a_segment_missing_in_the_middle_is_a_hole() {
    let gone = |machine: Machine| {
        machine.remove("00000000000000000006.log");
        machine
    };
    let scanned = gone(killed(RECORDS));
    forget_the_recovery_point(&scanned);
    check_hole(&scanned, 6..12, "scanned");
    for machine in [gone(closed()), gone(killed(RECORDS)), gone(killed(13))] {
        let log = machine.open(small());
        assert_eq!(contents_around_damage(&log), (without(6..12, RECORDS), vec![(6, 12)]));
        fill(&log, RECORDS, RECORDS + 1);
        drop(log);
        let log = machine.kill().open(small());
        assert_eq!(contents_around_damage(&log), (without(6..12, RECORDS + 1), vec![(6, 12)]));
    }
}

/// Two holes in one log, one of two records.
#[test]
fn several_holes() {
    let machine = killed(RECORDS);
    forget_the_recovery_point(&machine);
    for record in [1, 2, 4, 9] {
        harm(&machine, record, Harm::Flip(80, 3));
    }
    let log = machine.open(small());
    let held: Contents = records(0..RECORDS).into_iter().filter(|(n, ..)| ![1, 2, 4, 9].contains(n)).collect();
    let (found, damage) = contents_around_damage(&log);
    assert_eq!(found, held);
    let covered: Vec<i64> = damage.iter().flat_map(|(from, to)| *from..*to).collect();
    assert_eq!(covered, [1, 2, 4, 9]);
    assert_eq!(log.health().damage.len(), damage.len());
    drop(log);
    assert_settled(&machine.kill(), &small());
}

/// A log cut behind its damage, in the same segment, has it in its active segment.
#[test]
fn damage_in_the_segment_that_a_truncation_makes_active() {
    for end in [14, 15] {
        let machine = killed(15);
        harm(&machine, 13, Harm::Flip(80, 3));
        let log = machine.open(small());
        fill(&log, 16, 20);
        assert_eq!(log.truncate_to(at(end)).unwrap(), at(end));
        fill(&log, end, 17);
        let right = (without(13..14, 17), vec![(13, 14)]);
        assert_eq!(contents_around_damage(&log), right);
        log.close().unwrap();
        let log = machine.open(small());
        assert!(log.recovery_report().was_clean);
        assert_eq!(contents_around_damage(&log), right);
        fill(&log, 17, 22);
        drop(log);
        let machine = machine.kill();
        let log = machine.open(small());
        assert_eq!(contents_around_damage(&log), (without(13..14, 22), vec![(13, 14)]));
        drop(log);
        assert_settled(&machine.kill(), &small());
    }
}

/// A cut into the damage falls where it starts.
#[test]
fn a_truncation_into_the_damage_takes_it_whole() {
    let machine = killed(RECORDS);
    forget_the_recovery_point(&machine);
    harm(&machine, 9, Harm::CutBefore);
    let log = machine.open(small());
    assert_eq!(log.truncate_to(at(10)).unwrap(), at(9));
    fill(&log, 9, 12);
    assert_eq!(contents(&log), records(0..12));
    drop(log);
    assert_settled(&machine.kill(), &small());
}

/// The same harm past the recovery point: cut there, reported, and what lies behind set aside.
#[test]
fn the_same_past_the_recovery_point_is_a_torn_tail() {
    let kinds = FLIPS.into_iter().chain([Harm::Zeros, Harm::HalfZeros, Harm::CutBefore, Harm::CutInside]);
    for kind in kinds {
        for record in [0, 3, 5, 6, 8, 11, 12, 14] {
            let machine = killed(0);
            let last = machine.read("00000000000000000012.log");
            harm(&machine, record, kind);
            let what = format!("{kind:?} in {record}");
            let log = machine.open(LogConfig { on_damage: OnDamage::Refuse, ..small() });
            assert_eq!((contents(&log), log.log_end()), (records(0..record), at(record)), "{what}");
            let found = findings(&log);
            let is_tail = |(found, action): &(Found, Action)| {
                matches!(found, Found::TornTail { .. } | Found::ZeroTail { .. }) && *action == Action::Cut
            };
            let is_aside =
                |(found, action): &(Found, Action)| *found == Found::SegmentPastTear && *action == Action::SetAside;
            let later = usize::try_from(2 - base_of(record) / 6).unwrap();
            let tails = found.iter().filter(|finding| is_tail(finding)).count();
            let aside = found.iter().filter(|finding| is_aside(finding)).count();
            let cuts_at_a_batch = matches!(kind, Harm::CutBefore);
            assert_eq!((tails, aside), (usize::from(!cuts_at_a_batch), later), "{what}: {found:?}");
            assert_eq!(set_aside(&machine).len(), later, "{what}");
            if later > 0 {
                let name = set_aside(&machine).into_iter().find(|name| name.ends_with("12.log")).unwrap();
                assert_eq!(machine.read(&name), last, "{what}");
            }
            fill(&log, record, RECORDS + 3);
            assert_eq!(contents(&log), records(0..RECORDS + 3), "{what}");
            drop(log);
            assert_settled(&machine.kill(), &small());
        }
    }
}

/// The policy that cuts: at the first damage, wherever it is, with all that follows set aside.
#[test]
fn the_policy_to_cut_cuts_at_the_first_damage() {
    let cut = LogConfig { on_damage: OnDamage::Cut, ..small() };
    for kind in FLIPS.into_iter().chain([Harm::Zeros, Harm::HalfZeros, Harm::CutBefore, Harm::CutInside]) {
        for record in [0, 4, 8] {
            let machine = killed(RECORDS);
            forget_the_recovery_point(&machine);
            let last = machine.read("00000000000000000012.log");
            harm(&machine, record, kind);
            let what = format!("{kind:?} in {record}");
            let log = machine.open(cut.clone());
            assert_eq!((contents(&log), log.log_end()), (records(0..record), at(record)), "{what}");
            assert_eq!(log.recovery_point(), at(record), "{what}");
            let aside = set_aside(&machine);
            assert_eq!(aside.len(), usize::try_from(2 - base_of(record) / 6).unwrap(), "{what}");
            assert!(aside.iter().any(|name| machine.read(name) == last), "{what}");
            fill(&log, record, RECORDS);
            assert_eq!(contents(&log), records(0..RECORDS));
            drop(log);
            assert_settled(&machine.kill(), &cut);
        }
    }
}

/// Nobody looks below the recovery point when a log is opened. Whoever reads there meets a hole like any other, as far
/// as headers show it, and the checksum shows the rest.
#[test]
fn damage_that_opening_does_not_look_at_is_met_by_reading() {
    let shows_in_headers = |kind| !matches!(kind, Harm::Flip(11 | 17 | 22 | 80, _));
    for kind in FLIPS.into_iter().chain([Harm::Zeros, Harm::HalfZeros]) {
        for (machine, record) in
            [closed(), killed(RECORDS)].iter().flat_map(|machine| [0, 3, 5, 7, 11].map(|n| (machine.kill(), n)))
        {
            harm(&machine, record, kind);
            let what = format!("{kind:?} in {record}");
            let log = machine.open(small());
            let (found, outcome) = read_from(&log, at(0), 1 << 20);
            assert!(matches!(outcome, Err(ReadError::Corrupt(_) | ReadError::Damaged(_))), "{what}: {outcome:?}");
            assert_eq!(found, records(0..record), "{what}");
            assert_eq!(read_from(&log, at(record + 1), 1 << 20).0, records(record + 1..RECORDS), "{what}");
            if !shows_in_headers(kind) {
                continue;
            }
            let log = machine.kill().open(small());
            let right = (without(record..record + 1, RECORDS), vec![(record, record + 1)]);
            assert_eq!(contents_around_damage(&log), right, "{what}");
            for (offset, timestamp, _) in right.0 {
                let found = log.offset_for_timestamp(alluvium::TimestampMs::new(timestamp)).unwrap().unwrap();
                assert_eq!(found.offset, at(offset), "{what}");
            }
        }
    }
}

/// Nothing of another format is changed, by whatever name it goes.
#[test]
fn messages_of_older_formats_are_refused_by_their_magic() {
    for magic in [0_i8, 1] {
        let mut covered = vec![magic.cast_unsigned(), 0];
        if magic == 1 {
            covered.extend(1_600_000_000_000_i64.to_be_bytes());
        }
        covered.extend(3_i32.to_be_bytes());
        covered.extend(b"key");
        covered.extend(5_i32.to_be_bytes());
        covered.extend(b"value");
        let mut message = 0_i64.to_be_bytes().to_vec();
        message.extend(i32::try_from(4 + covered.len()).unwrap().to_be_bytes());
        message.extend(crc32(&covered).to_be_bytes());
        message.extend(covered);
        for after in [0, 2] {
            let machine = killed(after);
            for name in machine.names() {
                if after == 0 || name.starts_with("000000000000000000") && !name.contains("00000.") {
                    machine.remove(&name);
                }
            }
            let mut log =
                if after == 0 { Vec::new() } else { machine.read("00000000000000000000.log")[..200].to_vec() };
            let position = log.len() as u64;
            log.extend(&message);
            machine.write("00000000000000000000.log", &log);
            machine.write("alluvium.lock", b"");
            let before = machine.snapshot();
            for on_damage in [OnDamage::Refuse, OnDamage::Quarantine, OnDamage::Cut] {
                let error = machine.try_open(LogConfig { on_damage, ..small() }).unwrap_err();
                assert!(error.to_string().contains("upgrade them with Kafka first"), "{error}");
                let OpenError::OldFormat { file, at, magic: named } = error else { panic!("{error:?}") };
                assert_eq!((file, at.value(), named), (Machine::log_path(0), position, magic));
                assert_unchanged(&before, &machine.snapshot(), "old format");
            }
        }
    }
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// Damage and a torn tail in one log.
#[test]
fn a_hole_and_a_tear() {
    let machine = killed(14);
    harm(&machine, 12, Harm::Flip(80, 3));
    harm(&machine, 14, Harm::Flip(80, 3));
    let files = settled_files(&machine);
    machine.try_open(LogConfig { on_damage: OnDamage::Refuse, ..small() }).unwrap_err();
    assert_unchanged(&files, &settled_files(&machine), "refused");
    let log = machine.open(small());
    assert_eq!(log.log_end(), at(14));
    assert_eq!(contents_around_damage(&log), (without(12..13, 14), vec![(12, 13)]));
    assert_eq!(log.recovery_report().cut_bytes, 2 * BATCH_BYTES);
    drop(log);
    assert_settled(&machine.kill(), &small());
}
