use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::config::{CleanupPolicy, LogConfig};
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use crate::log::{AppendAs, Environment};
use crate::record::BatchBuilder;
use crate::units::LeaderEpoch;

const DIR: &str = "/data/topic-0";

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn open(fs: &SimFs) -> PartitionLog {
    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    Environment { fs: Arc::new(fs.clone()), clock }.open(DIR, config).unwrap()
}

fn grow(log: &PartitionLog, count: i64) {
    for key in 0..count {
        let batch = BatchBuilder::new().record(TimestampMs::new(key), Some(&key.to_be_bytes()), Some(b"v")).build();
        log.append(batch.unwrap(), AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
    }
    log.roll().unwrap();
    log.flush().unwrap();
}

fn pass(upper: i64) -> PassProgress {
    PassProgress {
        upper: at(upper),
        first_dirty: at(2),
        done_to: at(3),
        horizon_from: TimestampMs::new(0x0102),
        transactions: vec![7, 8],
    }
}

#[test]
fn every_byte_of_the_file_is_told() {
    let file = CleanFile {
        lineage: Lineage::new(9),
        first_dirty: at(1),
        cleaned_to: at(6),
        unread: Some(at(4)),
        pass: Some(pass(5)),
    };
    let bytes = file.encode();
    let mut expected = Vec::new();
    for field in [9_i64, 1, 6, 4] {
        expected.extend(field.to_be_bytes());
    }
    expected.push(1);
    for field in [5_i64, 2, 3, 0x0102] {
        expected.extend(field.to_be_bytes());
    }
    expected.extend([0, 0, 0, 2, 7, 8]);
    assert_eq!(bytes[16..], expected);
    assert_eq!(bytes[4..8], [0, 5, 0, 1]);
    assert_eq!(CleanFile::decode(&expected), Ok(file));
    for shorter in 0..expected.len() {
        assert!(CleanFile::decode(&expected[..shorter]).is_err(), "{shorter}");
    }
    let impossible = CleanFile { first_dirty: at(7), cleaned_to: at(6), ..CleanFile::default() };
    assert_eq!(CleanFile::decode(CLEANED.decode(&impossible.encode()).unwrap()), Err(SmallFileFault::Field));
    let endless = PassProgress { transactions: vec![0; TRANSACTIONS_BYTES_MAX + 1], ..pass(5) };
    let bounded = CleanFile { cleaned_to: at(6), pass: Some(endless), ..CleanFile::default() };
    let decoded = CleanFile::decode(CLEANED.decode(&bounded.encode()).unwrap()).unwrap();
    assert_eq!((decoded.cleaned_to, decoded.pass), (at(6), None));
}

#[test]
fn it_is_found_again_and_no_log_has_one_that_was_never_cleaned() {
    let fs = SimFs::new(1);
    let log = open(&fs);
    grow(&log, 10);
    assert_eq!(log.clean_state(), CleanState::default());
    assert!(fs.live_bytes(&Path::new(DIR).join(names::CLEANED)).is_none());
    let state = CleanState { first_dirty: at(4), pass: Some(pass(8)), ..log.clean_state() };
    assert_eq!(log.put_clean_state(state.clone()).unwrap(), state);
    drop(log);
    let lost = fs.power_loss_keeping(Survival::Nothing);
    for fs in [&fs.kill(), &lost] {
        let log = open(fs);
        assert_eq!(log.clean_state(), state);
        log.close().unwrap();
        assert_eq!(open(fs).clean_state(), state);
    }
}

/// Rows 53 and 54.
#[test]
fn it_is_never_below_the_log_start_nor_past_the_end() {
    let fs = SimFs::new(1);
    let log = open(&fs);
    grow(&log, 10);
    let past = CleanState { first_dirty: at(11), ..log.clean_state() };
    assert!(matches!(log.put_clean_state(past), Err(PutCleanError::Changed)));
    log.put_clean_state(CleanState { first_dirty: at(2), pass: Some(pass(8)), ..log.clean_state() }).unwrap();
    log.advance_log_start(at(5)).unwrap();
    assert_eq!(log.clean_state().first_dirty, at(5));
    assert!(log.clean_state().pass.is_some());
    log.advance_log_start(at(9)).unwrap();
    assert_eq!((log.clean_state().first_dirty, log.clean_state().pass), (at(9), None));
    log.close().unwrap();
    // A file of another life of the log.
    let stray = CleanFile { first_dirty: at(50), cleaned_to: at(60), ..CleanFile::default() };
    stray.write(&fs, Path::new(DIR)).unwrap();
    let log = open(&fs);
    let found = Found::CleanStateOutside { first_dirty: at(50), log_end: at(10) };
    assert!(log.recovery_report().findings.iter().any(|finding| finding.found == found));
    assert_eq!(log.clean_state().first_dirty, at(9));
    drop(log);
    let log = open(&fs.power_loss_keeping(Survival::Nothing));
    grow(&log, 60);
    assert_eq!(log.clean_state().first_dirty, at(9), "the log grew over it");
}

#[test]
fn a_file_that_cannot_be_read_costs_another_pass() {
    let fs = SimFs::new(1);
    let log = open(&fs);
    grow(&log, 10);
    log.put_clean_state(CleanState { first_dirty: at(2), ..log.clean_state() }).unwrap();
    log.close().unwrap();
    fs.flip_bit(&Path::new(DIR).join(names::CLEANED), 20, 3);
    let log = open(&fs);
    let is_told = |found: &Found| matches!(found, Found::CleanStateUnreadable(_));
    assert!(log.recovery_report().findings.iter().any(|finding| is_told(&finding.found)));
    assert_eq!(log.clean_state(), CleanState::default());
    log.close().unwrap();
    assert!(open(&fs).recovery_report().is_ordinary());
}

#[test]
fn what_was_taken_before_a_cut_is_refused() {
    let fs = SimFs::new(1);
    let log = open(&fs);
    grow(&log, 10);
    log.put_clean_state(CleanState { first_dirty: at(8), ..log.clean_state() }).unwrap();
    let taken = log.clean_state();
    log.truncate_to(at(9)).unwrap();
    assert!(log.put_clean_state(taken.clone()).is_ok(), "past all that it says");
    log.truncate_to(at(6)).unwrap();
    assert_eq!(log.clean_state().first_dirty, at(6));
    assert!(matches!(log.put_clean_state(taken), Err(PutCleanError::Changed)));
    log.put_clean_state(CleanState { pass: Some(pass(5)), ..log.clean_state() }).unwrap();
    log.truncate_fully_and_start_at(at(100)).unwrap();
    assert_eq!(
        log.clean_state(),
        CleanState { first_dirty: at(100), unread: None, pass: None, cuts: log.clean_state().cuts }
    );
    grow(&log, 10);
    drop(log);
    assert_eq!(open(&fs.power_loss_keeping(Survival::Everything)).clean_state().first_dirty, at(100));
}

/// Whenever a crash comes, no offset past the cut is called clean once the log has grown again.
#[test]
fn every_step_of_a_cut_is_a_crash_after_which_nothing_new_is_called_clean() {
    let cuts: [fn(&PartitionLog) -> bool; 2] =
        [|log| log.truncate_to(at(5)).is_ok(), |log| log.truncate_fully_and_start_at(at(5)).is_ok()];
    for cut in cuts {
        let prepared = |fs: &SimFs| {
            let log = open(fs);
            grow(&log, 10);
            log.put_clean_state(CleanState { first_dirty: at(8), pass: Some(pass(9)), ..log.clean_state() }).unwrap();
            log
        };
        let rehearsed = SimFs::new(1);
        let log = prepared(&rehearsed);
        let first = rehearsed.steps() + 1;
        assert!(cut(&log));
        for step in first..=rehearsed.steps() {
            let fs = SimFs::new(1);
            let log = prepared(&fs);
            fs.crash_after(step);
            cut(&log);
            drop(log);
            for survival in [Survival::Nothing, Survival::Everything, Survival::Random(step)] {
                let image = fs.power_loss_keeping(survival);
                let log = open(&image);
                let (end, state) = (log.log_end(), log.clean_state());
                assert!(state.first_dirty <= end && state.pass.as_ref().is_none_or(|pass| pass.upper <= end));
                grow(&log, 10);
                assert_eq!(log.clean_state().first_dirty, state.first_dirty, "step {step} {survival:?}");
                if end == at(5) {
                    assert!(state.first_dirty <= at(5), "step {step} {survival:?}");
                }
            }
        }
    }
}

#[test]
fn a_full_disk_keeps_no_log_from_being_cut() {
    let fs = SimFs::new(1);
    let log = open(&fs);
    grow(&log, 10);
    log.put_clean_state(CleanState { first_dirty: at(8), ..log.clean_state() }).unwrap();
    fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).path_contains(names::CLEANED).always());
    log.truncate_to(at(5)).unwrap();
    assert_eq!(log.clean_state().first_dirty, Offset::ZERO);
    drop(log);
    assert_eq!(open(&fs.kill()).clean_state().first_dirty, Offset::ZERO);
}

/// Where Kafka had the data directory, its list counts; the lower of both where both do.
#[test]
fn the_directorys_list_counts_where_the_file_does_not() {
    let (ours, theirs) = (Lineage::new(1), Lineage::new(2));
    let file = CleanFile {
        lineage: ours,
        first_dirty: at(40),
        cleaned_to: at(50),
        pass: Some(pass(45)),
        ..CleanFile::default()
    };
    let parents = |first_dirty| super::super::directory::Parents { first_dirty, ..Default::default() };
    let word = |first_dirty| Word { lineage: theirs, parents: parents(first_dirty), ..Word::default() };
    let counts = |whose, listed: Option<i64>| file.clone().under(whose, Some(ours), &word(listed.map(at)));
    assert_eq!(counts(Whose::Own, Some(7)), file);
    let other = file.clone().under(Whose::Own, Some(theirs), &word(None));
    assert_eq!(other, CleanFile::default(), "of another lineage than the state beside it");
    let listed = CleanFile { lineage: theirs, first_dirty: at(7), cleaned_to: at(7), ..CleanFile::default() };
    assert_eq!(counts(Whose::Parents, Some(7)), listed);
    assert_eq!(counts(Whose::Lower, Some(7)), CleanFile { cleaned_to: at(50), ..listed.clone() });
    assert_eq!(counts(Whose::Lower, Some(70)).first_dirty, at(40));
    // Kafka knows nothing of a batch that our passes could not read, and what lies above it counts as clean.
    let unread = CleanFile { unread: Some(at(3)), ..file.clone() };
    for whose in [Whose::Parents, Whose::Lower] {
        assert_eq!(unread.clone().under(whose, Some(ours), &word(Some(at(70)))).unread, Some(at(3)), "{whose:?}");
    }
    assert_eq!(counts(Whose::Lower, None).first_dirty, Offset::ZERO);
    assert_eq!(counts(Whose::Nobodys, Some(7)), CleanFile::default());
    let lost = file.clone().under(Whose::Nobodys, None, &Word { lineage: ours, ..word(None) });
    assert_eq!(lost, CleanFile { cleaned_to: at(50), ..CleanFile::default() }, "the gaps are still there");
}
