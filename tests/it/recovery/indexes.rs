//! Indexes are caches: missing, short, long, filled with zeros or garbage, or pointing anywhere, of sealed segments and of
//! the active one, after clean and unclean ends, every lookup is right.

use alluvium::index::IndexFault;
use alluvium::log::{Action, Found};
use alluvium::{LogConfig, PartitionLog, ReadMode, ReadOptions, TimestampMs};

use super::{RECORDS, closed, fill, records};
use crate::support::{Machine, NOW, at, contents, small};

/// What is done to an index file.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Missing,
    Empty,
    /// The first entry alone.
    FirstEntry,
    /// The last entry is missing.
    LacksLastEntry,
    /// Ends inside an entry.
    TornEntry,
    /// As many zeros as there were bytes.
    Zeros,
    /// Zeros behind, as in a file that was allocated ahead.
    TrailingZeros,
    Garbage,
    /// Another segment's.
    OfAnother,
    /// Every entry's last field is larger by this: positions past the end, or into another batch, or between two.
    Shifted(u32),
    /// Every entry's first field is larger by this.
    Renamed(u32),
    /// An entry more, past all others.
    OneMore,
}

const LIES: [Lie; 17] = [
    Lie::Missing,
    Lie::Empty,
    Lie::FirstEntry,
    Lie::LacksLastEntry,
    Lie::TornEntry,
    Lie::Zeros,
    Lie::TrailingZeros,
    Lie::Garbage,
    Lie::OfAnother,
    Lie::Shifted(1),
    Lie::Shifted(50),
    Lie::Shifted(100),
    Lie::Shifted(1 << 20),
    Lie::Shifted(1 << 31),
    Lie::Renamed(1),
    Lie::Renamed(1000),
    Lie::OneMore,
];

fn entry_bytes(kind: &str) -> usize {
    if kind == "index" { 8 } else { 12 }
}

fn add(bytes: &mut [u8], plus: u32) {
    let field = u32::from_be_bytes(bytes.try_into().unwrap()).wrapping_add(plus);
    bytes.copy_from_slice(&field.to_be_bytes());
}

fn tell(machine: &Machine, base: i64, kind: &str, lie: Lie) {
    let name = format!("{base:020}.{kind}");
    if matches!(lie, Lie::Missing) {
        if machine.exists(&name) {
            machine.remove(&name);
        }
        return;
    }
    let size = entry_bytes(kind);
    let mut bytes = if machine.exists(&name) { machine.read(&name) } else { vec![0; size] };
    match lie {
        Lie::Missing | Lie::Empty => bytes.clear(),
        Lie::FirstEntry => bytes.truncate(size),
        Lie::LacksLastEntry => bytes.truncate(bytes.len().saturating_sub(size)),
        Lie::TornEntry => bytes.truncate(bytes.len().saturating_sub(3)),
        Lie::Zeros => bytes.fill(0),
        Lie::TrailingZeros => bytes.resize(bytes.len() + 10 * size, 0),
        Lie::Garbage => bytes.iter_mut().zip(1_u8..).for_each(|(byte, n)| *byte = n.wrapping_mul(73)),
        Lie::OfAnother => bytes = machine.read(&format!("{:020}.{kind}", if base == 0 { 6 } else { 0 })),
        Lie::Shifted(plus) => bytes.chunks_exact_mut(size).for_each(|entry| add(&mut entry[size - 4..], plus)),
        Lie::Renamed(plus) => bytes.chunks_exact_mut(size).for_each(|entry| add(&mut entry[size - 8..size - 4], plus)),
        Lie::OneMore => {
            let mut entry = bytes[bytes.len().saturating_sub(size)..].to_vec();
            add(&mut entry[size - 8..size - 4], 3);
            add(&mut entry[size - 4..], 3);
            bytes.extend(entry);
        }
    }
    machine.write(&name, &bytes);
}

/// Every offset and every timestamp leads to its record, whatever was asked before.
fn check_lookups(log: &PartitionLog, what: &str) {
    let one = ReadOptions { max_bytes: 0, ..ReadOptions::default() };
    for asked in 0..RECORDS {
        let batches = log.read(at(asked), &one).unwrap_or_else(|error| panic!("{what}: {asked}: {error}")).batches();
        let found = batches.unwrap().iter().next().unwrap().unwrap().header().base_offset;
        assert_eq!(found, at(asked), "{what}");
        let found = log.offset_for_timestamp(TimestampMs::new(NOW + asked)).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp.value()), (at(asked), NOW + asked), "{what}");
    }
    assert_eq!(log.offset_for_timestamp(TimestampMs::new(NOW + RECORDS)).unwrap(), None, "{what}");
    assert_eq!(log.offset_for_timestamp(TimestampMs::new(0)).unwrap().unwrap().offset, at(0), "{what}");
    assert_eq!(contents(log), records(0..RECORDS), "{what}");
}

/// The log whose process died after a sync; all index files are there but the active segment's.
fn unclean() -> Machine {
    let machine = closed();
    let log = machine.open(small());
    drop(log);
    machine.kill()
}

#[test]
fn a_lying_index_misleads_nobody() {
    for (machine, end) in [(closed(), "clean"), (unclean(), "unclean")] {
        for lie in LIES {
            for base in [0, 6, 12] {
                for kind in ["index", "timeindex"] {
                    for read_mode in [ReadMode::Positional, ReadMode::Mapped] {
                        let machine = machine.kill();
                        tell(&machine, base, kind, lie);
                        let what = format!("{lie:?} in {base}.{kind}, {end}, {read_mode:?}");
                        let log = machine.open(LogConfig { read_mode, ..small() });
                        check_lookups(&log, &what);
                    }
                }
            }
        }
    }
}

/// What was found wrong is put right on disk too. What stays costs lookups time and no record: fewer entries than there
/// might be, entries that name the end of a group of batches as Kafka's do, a largest timestamp that is too late.
#[test]
fn what_was_rebuilt_is_saved() {
    let right = closed();
    for lie in LIES {
        for base in [0, 6, 12] {
            let machine = right.kill();
            let names = ["index", "timeindex"].map(|kind| format!("{base:020}.{kind}"));
            for kind in ["index", "timeindex"] {
                tell(&machine, base, kind, lie);
            }
            let told = names.clone().map(|name| machine.exists(&name).then(|| machine.read(&name)));
            let log = machine.open(small());
            check_lookups(&log, &format!("{lie:?} in {base}"));
            log.close().unwrap();
            for (name, told) in names.iter().zip(told) {
                if machine.read(name) != right.read(name) {
                    assert_eq!(Some(machine.read(name)), told, "{lie:?} in {name}");
                    let is_harmless =
                        matches!(lie, Lie::FirstEntry | Lie::LacksLastEntry | Lie::Renamed(_) | Lie::OfAnother);
                    assert!(base < 12 && is_harmless, "{lie:?} in {name} was believed");
                }
            }
        }
    }
}

/// Where segments are scanned, every index is held against them, and put right.
#[test]
fn a_scan_finds_every_lie() {
    for lie in LIES {
        for base in [0, 6] {
            for kind in ["index", "timeindex"] {
                let machine = unclean();
                machine.remove("alluvium.recovery-point");
                let right = machine.read(&format!("{base:020}.{kind}"));
                tell(&machine, base, kind, lie);
                let is_same = !matches!(lie, Lie::Missing) && machine.read(&format!("{base:020}.{kind}")) == right;
                let log = machine.open(small());
                let is_bad = |finding: &&alluvium::log::Finding| {
                    matches!(finding.found, Found::BadIndex(_)) && finding.action == Action::Rebuild
                };
                let bad: Vec<_> = log.recovery_report().findings.iter().filter(is_bad).collect();
                assert_eq!(bad.len(), usize::from(!is_same), "{lie:?} in {base}.{kind}");
                if matches!(lie, Lie::Missing) {
                    assert_eq!(bad[0].found, Found::BadIndex(IndexFault::Missing));
                }
                assert_eq!(machine.read(&format!("{base:020}.{kind}")), right, "{lie:?}");
                check_lookups(&log, &format!("{lie:?} in {base}.{kind}"));
            }
        }
    }
}

/// Appending goes on from what an index said when the log was opened: the files are those of a log that never closed.
#[test]
fn an_index_of_the_active_segment_goes_on_right() {
    let right = {
        let machine = Machine::new();
        let log = machine.open(small());
        fill(&log, 0, 30);
        log.close().unwrap();
        machine
    };
    for lie in LIES {
        for kind in ["index", "timeindex"] {
            let machine = closed();
            tell(&machine, 12, kind, lie);
            let log = machine.open(small());
            fill(&log, RECORDS, 30);
            assert_eq!(contents(&log), records(0..30));
            log.close().unwrap();
            for base in [12, 18, 24] {
                for kind in ["log", "index", "timeindex"] {
                    let name = format!("{base:020}.{kind}");
                    assert_eq!(machine.read(&name), right.read(&name), "{lie:?} in {kind}: {name}");
                }
            }
        }
    }
}
