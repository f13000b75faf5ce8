//! Putting a replica's batches back.

use super::*;
use alluvium::error::{InvalidBatch, RepairError};
use alluvium::segment::sum::LogVerdict;
use alluvium::{CleanupPolicy, Offset, ReadOptions};

use crate::support::{Contents, contents, contents_around_damage, given};

/// Batches of a log as they are on disk, by base offset.
fn batches_of(log: &PartitionLog, range: std::ops::Range<Offset>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut next = range.start;
    while next < range.end {
        let one = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
        let fetched = log.read(next, &one).unwrap();
        found.push(fetched.read().unwrap());
        next = fetched.next_offset().unwrap();
    }
    found
}

struct Hurt {
    machine: Machine,
    log: PartitionLog,
    whole: Contents,
    range: std::ops::Range<Offset>,
    /// What the range held.
    batches: Vec<Vec<u8>>,
}

/// A log in which one batch of a sealed segment is damaged and quarantined.
fn hurt() -> Hurt {
    let (machine, log) = filled(20, small());
    let whole = contents(&log);
    let base = bases(&machine)[1];
    let replica = machine.kill().open(small());
    let name = format!("{base:020}.log");
    // In the payload of its second batch.
    flip(&machine, &name, len(&machine, &name) / u64::try_from(A_SEGMENT).unwrap() + 75, 3);
    let found = scrub(&log);
    let range = found.iter().find_map(|done| done.quarantined.first()).unwrap().offsets.clone();
    let batches = batches_of(&replica, range.clone());
    Hurt { machine, log, whole, range, batches }
}

#[test]
fn a_replicas_batches_heal_a_quarantined_range() {
    let Hurt { machine, log, whole, range, batches } = hurt();
    let before = log.read(at(bases(&machine)[1]), &ReadOptions::default()).unwrap();
    let bytes_before = before.read().unwrap();
    let repaired = log.repair(range, batches).unwrap();
    assert!(repaired.is_whole && repaired.batches == 1, "{repaired:?}");
    assert_eq!(contents(&log), whole);
    assert_eq!(log.health().damage, []);
    assert_eq!(before.read().unwrap(), bytes_before, "a slice that was out reads what it did");
    assert!(!machine.exists("alluvium.damage"));
    let done = scrub(&log);
    assert!(done.iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)), "{done:?}");
    for closes in [true, false] {
        if closes {
            log.close().unwrap();
        }
        let machine = machine.kill();
        let log = machine.open(small());
        assert_eq!(contents(&log), whole, "closes: {closes}");
        assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
    }
}

/// A compacted log: what is put back is shorter than what was there, or nothing.
#[test]
fn what_is_put_back_may_have_another_length() {
    for keeps_one in [true, false] {
        let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..small() };
        let (machine, log) = filled(20, config.clone());
        let whole = contents(&log);
        let base = bases(&machine)[1];
        let name = format!("{base:020}.log");
        // Two batches, one beside the other.
        let size = len(&machine, &name) / u64::try_from(A_SEGMENT).unwrap();
        flip(&machine, &name, size + 70, 1);
        flip(&machine, &name, 2 * size + 70, 1);
        scrub(&log);
        let damage = log.health().damage;
        assert_eq!(damage.len(), 1, "ranges that touch are one: {damage:?}");
        let range = damage[0].offsets.clone();
        let put = if keeps_one { given(range.start.value(), &["short"]).into_bytes() } else { Vec::new() };
        let repaired = log.repair(range.clone(), put).unwrap();
        assert!(repaired.is_whole && repaired.batches == usize::from(keeps_one));
        let mut right: Contents = whole.into_iter().filter(|(offset, ..)| !range.contains(&at(*offset))).collect();
        let found = contents(&log);
        if keeps_one {
            let short = found.iter().find(|(offset, ..)| *offset == range.start.value()).unwrap().clone();
            assert_eq!(short.2, "short");
            right.push(short);
            right.sort();
        }
        assert_eq!(found, right);
        let log = machine.kill().open(config.clone());
        assert_eq!((contents(&log), log.health().damage), (right, vec![]));
        assert!(scrub(&log).iter().all(|done| done.log == LogVerdict::Intact && is_quiet(done)));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let Hurt { machine, log, range, batches, .. } = hurt();
    let before = machine.snapshot();
    let first = range.start.value();
    let (from, to) = (range.start, range.end);
    let mut broken = batches[0].clone();
    *broken.last_mut().unwrap() ^= 1;
    let refused = |range: std::ops::Range<Offset>, put: Vec<u8>| log.repair(range, put).unwrap_err();
    assert!(matches!(refused(at(0)..at(1), batches[0].clone()), RepairError::NotQuarantined { nearest: None, .. }));
    let wider = from..at(to.value() + 1);
    assert!(matches!(refused(wider, batches[0].clone()), RepairError::NotQuarantined { nearest: Some(_), .. }));
    let crc = refused(range.clone(), broken);
    assert!(matches!(crc, RepairError::Invalid { batch: 0, cause: InvalidBatch::Crc { .. } }), "{crc:?}");
    let early = refused(range.clone(), given(first - 1, &["a"]).into_bytes());
    assert!(matches!(early, RepairError::Overlaps { batch: 0, .. }), "{early:?}");
    let long = refused(range.clone(), given(first, &["a", "b", "c", "d", "e", "f", "g"]).into_bytes());
    assert!(matches!(long, RepairError::PastEnd { batch: 0, .. }), "{long:?}");
    assert!(matches!(refused(range.clone(), Vec::new()), RepairError::Gap(_)));
    let mut later = batches[0].clone();
    later[15] = 9;
    assert!(matches!(refused(range.clone(), later), RepairError::Epoch { .. }));
    crate::support::assert_unchanged(&before, &machine.snapshot(), "refused");
    assert_eq!(contents_around_damage(&log).1, [(from.value(), to.value())]);
    log.repair(range, batches).unwrap();
}

/// The end of a file that somebody cut.
#[test]
fn records_that_are_missing_at_the_end_of_a_segment_are_put_back() {
    let (machine, log) = filled(20, small());
    let whole = contents(&log);
    let replica = machine.kill().open(small());
    drop(log);
    let base = bases(&machine)[1];
    let name = format!("{base:020}.log");
    let bytes = machine.read(&name);
    machine.write(&name, &bytes[..bytes.len() / 2]);
    let log = machine.open(small());
    scrub(&log);
    let range = log.health().damage[0].offsets.clone();
    assert_eq!(range.end, at(bases(&machine)[2]));
    let repaired = log.repair(range.clone(), batches_of(&replica, range)).unwrap();
    assert!(repaired.is_whole);
    assert_eq!((contents(&log), machine.read(&name)), (whole, bytes));
}
