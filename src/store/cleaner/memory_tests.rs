use super::*;
use crate::fs::sim::SimFs;

fn full() -> Remembered {
    let cause = CleaningCause::new(CauseKind::Space { missing_bytes: 7 }, "no room");
    Remembered {
        pause: Some(Pause { by: "operator".into(), since: TimestampMs::new(1) }),
        failed: Some((2, TimestampMs::new(3), cause)),
        due_since: Some(TimestampMs::new(4)),
        behind_since: Some(TimestampMs::new(5)),
        last: Some(LastPass {
            at: TimestampMs::new(6),
            mode: CleanMode::Spill,
            upper: Offset::new(7).unwrap(),
            bytes_read: 8,
            bytes_written: 9,
            bytes_spilled: 10,
            bytes_freed: 11,
            records_kept: 12,
            memory_peak: 13,
            took: Duration::from_millis(14),
            next_horizon: Some(TimestampMs::new(15)),
        }),
        seen: Some(Look {
            due: Some(CleaningReason::Horizon),
            dirty_bytes: 16,
            excess_bytes: 17,
            clean_bytes: 18,
            held_bytes: 19,
            held_by: None,
            overdue_ms: 20,
            first_dirty: Offset::new(21).unwrap(),
            log_end: Offset::new(22).unwrap(),
            due_at: Some(TimestampMs::new(23)),
        }),
    }
}

fn dir() -> (SimFs, std::path::PathBuf) {
    let fs = SimFs::new(1);
    let dir = std::path::PathBuf::from("/users-0");
    fs.create_dir(&dir).unwrap();
    (fs, dir)
}

fn found(fs: &SimFs, dir: &Path) -> Option<Remembered> {
    match read(fs, dir).unwrap() {
        Found::Remembered(remembered) => Some(*remembered),
        Found::Nothing => None,
        Found::Corrupt => panic!("corrupt"),
    }
}

#[test]
fn what_is_written_is_read_again() {
    let (fs, dir) = dir();
    assert!(found(&fs, &dir).is_none());
    for bits in 0..64 {
        let is_kept = |bit: u32| bits & (1 << bit) != 0;
        let full = full();
        let some = Remembered {
            pause: full.pause.filter(|_| is_kept(0)),
            failed: full.failed.filter(|_| is_kept(1)),
            due_since: full.due_since.filter(|_| is_kept(2)),
            behind_since: full.behind_since.filter(|_| is_kept(3)),
            last: full.last.filter(|_| is_kept(4)),
            seen: full.seen.filter(|_| is_kept(5)),
        };
        write(&fs, &dir, &some).unwrap();
        assert_eq!(found(&fs, &dir), Some(some));
    }
}

#[test]
fn the_layout_is_pinned() {
    let bytes = encode(&Remembered { seen: None, last: None, ..full() });
    let expected: &[u8] = &[
        39, // paused, failed, behind, due
        0, 0, 0, 0, 0, 0, 0, 1, 0, 8, b'o', b'p', b'e', b'r', b'a', b't', b'o', b'r', //
        0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 7, b'n', b'o', b' ', b'r', b'o', b'o', b'm',
        0, 0, 0, 0, 0, 0, 0, 5, //
        0, 0, 0, 0, 0, 0, 0, 4,
    ];
    assert_eq!(bytes, expected);
    assert_eq!(encode(&full()).len(), bytes.len() + 8 + 1 + 8 + 7 * 8 + 9 + 1 + 5 * 8 + 16 + 9);
}

#[test]
fn every_cause_and_reason_has_a_number_of_its_own() {
    let mut bytes = std::collections::BTreeSet::new();
    for kind in CauseKind::ALL {
        let failed = Some((1, TimestampMs::new(0), CleaningCause::new(kind, "x")));
        let remembered = Remembered { failed, ..Remembered::default() };
        assert_eq!(decode(&encode(&remembered)).unwrap(), remembered);
        bytes.insert(encode(&remembered));
    }
    assert_eq!(bytes.len(), CauseKind::ALL.len());
    for due in REASONS {
        let remembered = Remembered { seen: Some(Look { due: Some(due), ..Look::default() }), ..Remembered::default() };
        assert_eq!(decode(&encode(&remembered)).unwrap(), remembered);
    }
}

#[test]
fn a_long_text_is_cut_where_a_character_begins() {
    let by = "ü".repeat(40_000);
    let pause = Some(Pause { by: by.clone(), since: TimestampMs::new(0) });
    let again = decode(&encode(&Remembered { pause, ..Remembered::default() })).unwrap();
    let kept = again.pause.unwrap().by;
    assert!(by.starts_with(&kept) && kept.len() == 65_534);
}

#[test]
fn bytes_that_were_changed_are_seen_and_never_panic() {
    let (fs, dir) = dir();
    let good = FILE.encode(&encode(&full()));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        replace_small_file(&fs, &dir, CLEANER_STATE, &bad).unwrap();
        assert!(matches!(read(&fs, &dir).unwrap(), Found::Corrupt), "byte {at}");
        replace_small_file(&fs, &dir, CLEANER_STATE, &good[..at]).unwrap();
        assert!(matches!(read(&fs, &dir).unwrap(), Found::Corrupt), "cut at {at}");
    }
    // Also where the checksum agrees: it may be a later version's, or somebody's joke.
    let payload = encode(&full());
    for at in 0..payload.len() {
        for value in [0, 1, 127, 128, 255] {
            let mut odd = payload.clone();
            odd[at] = value;
            let _ = decode(&odd);
        }
        assert!(decode(&payload[..at]).is_err(), "cut at {at}");
    }
}
