//! Backups and exported segments on the simulator.

use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::config::LogConfig;
use crate::fs::FileSystem;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use crate::log::{AppendAs, AppendOptions, Environment, ReadOptions};
use crate::record::BatchBuilder;
use crate::units::LeaderEpoch;

fn environment(fs: &SimFs) -> Environment {
    Environment { fs: Arc::new(fs.clone()), clock: Arc::new(ManualClock::at(1_700_000_000_000)) }
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 100, file_delete_delay_ms: 0, ..LogConfig::default() }
}

fn append(log: &PartitionLog, count: usize) {
    for n in 0..count {
        let value = [u8::try_from(n % 251).unwrap(); 90];
        let mut builder = BatchBuilder::new();
        let batch = builder.record(TimestampMs::new(1_700_000_000_000), None, Some(&value)).build().unwrap();
        let options = AppendOptions::new(AppendAs::Client { epoch: LeaderEpoch::new(2).unwrap() });
        let options = log.fencing_token().map_or(options, |token| options.fenced_by(token));
        log.append(batch, options).unwrap();
    }
}

fn world(seed: u64) -> (SimFs, PartitionLog) {
    let fs = SimFs::new(seed);
    let log = environment(&fs).open("/data/orders-0", config()).unwrap();
    append(&log, 20);
    fs.create_dir(Path::new("/backup")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    (fs, log)
}

fn bytes_of(log: &PartitionLog, end: Offset) -> Vec<u8> {
    let (mut at, mut bytes) = (log.log_start(), Vec::new());
    while at < end {
        let options = ReadOptions { isolation: crate::log::Isolation::At(end), ..ReadOptions::default() };
        let fetched = log.read(at, &options).unwrap();
        bytes.extend(fetched.read().unwrap());
        at = fetched.next_offset().unwrap();
    }
    bytes
}

fn into() -> &'static Path {
    Path::new("/backup/orders-0")
}

#[test]
fn a_backup_has_what_was_there_whatever_becomes_of_the_log() {
    let (fs, log) = world(1);
    log.advance_log_start(Offset::new(3).unwrap()).unwrap();
    log.fence(9).unwrap();
    let end = log.log_end();
    let before = bytes_of(&log, end);
    let made = snapshot(&log, into()).unwrap();
    assert_eq!((made.log_start, made.log_end), (log.log_start(), end));
    assert!(matches!(snapshot(&log, into()), Err(ExportError::Exists { .. })));
    append(&log, 3);
    log.truncate_to(Offset::new(7).unwrap()).unwrap();
    append(&log, 30);
    let world = fs.power_loss_keeping(Survival::Nothing);
    let copy = environment(&world).open(into(), config()).unwrap();
    assert_eq!((copy.log_start(), copy.log_end(), copy.fencing_token()), (log.log_start(), end, Some(9)));
    assert_eq!(bytes_of(&copy, end), before);
    assert_eq!(copy.leader_epochs(), log.leader_epochs());
    assert!(copy.recovery_report().is_ordinary(), "{:?}", copy.recovery_report().findings);
}

#[test]
fn a_cut_or_a_deletion_while_it_is_made_is_told_or_does_not_show() {
    for at in 0..40 {
        let (fs, log) = world(at);
        let end = log.log_end();
        let before = bytes_of(&log, end);
        let prefix = log.durable_prefix().unwrap();
        let target = Home::new(Arc::new(fs.clone()), Arc::from(into()));
        fs.create_dir(into()).unwrap();
        match at % 3 {
            0 => drop(log.truncate_to(Offset::new(i64::try_from(at / 2).unwrap()).unwrap()).unwrap()),
            1 => {
                log.advance_log_start(Offset::new(15).unwrap()).unwrap();
                log.enforce_retention().unwrap();
                log.tick().unwrap();
            }
            _ => append(&log, 9),
        }
        match copy_all(&log, &log.home(), &target, &prefix) {
            Err(ExportError::Changed) => assert_ne!(at % 3, 2),
            copied => {
                copied.unwrap();
                assert_ne!(at % 3, 0, "a cut is told");
                drop(prefix);
                let copy = environment(&fs).open(into(), config()).unwrap();
                assert_eq!(bytes_of(&copy, end), before);
            }
        }
    }
}

#[test]
fn a_crash_at_any_step_leaves_no_backup_or_a_whole_one() {
    let (fs, log) = world(1);
    let first = fs.steps() + 1;
    let end = log.log_end();
    let whole = bytes_of(&log, end);
    snapshot(&log, into()).unwrap();
    let mut made = 0;
    for step in first..=fs.steps() {
        let (fs, log) = world(1);
        fs.crash_after(step);
        let _ = snapshot(&log, into());
        let images = [fs.kill(), fs.power_loss(step), fs.power_loss_keeping(Survival::Nothing)];
        for image in images.into_iter().chain([fs.power_loss_keeping(Survival::Everything)]) {
            let log = environment(&image).open("/data/orders-0", config()).unwrap();
            if image.list(into()).is_err() {
                snapshot(&log, into()).unwrap();
            } else {
                made += 1;
            }
            let copy = environment(&image).open(into(), config()).unwrap();
            if log.log_end() == end || copy.log_end() == end {
                assert_eq!(bytes_of(&copy, copy.log_end()), whole, "step {step}");
            }
        }
    }
    assert!(made > 0);
}

#[test]
fn a_failure_leaves_nothing_where_the_backup_was_to_be() {
    for operation in [FaultOn::Create, FaultOn::Write, FaultOn::Rename, FaultOn::CreateDir, FaultOn::Read] {
        for skip in 0..12 {
            let (fs, log) = world(skip);
            log.flush().unwrap();
            fs.inject(Fault::new(operation, Effect::Error(Errno::Enospc)).path_contains("backup").skip(skip));
            if snapshot(&log, into()).is_err() {
                assert!(fs.list(into()).is_err());
                fs.clear_faults();
                snapshot(&log, into()).unwrap();
            }
        }
    }
}

#[test]
fn exported_segments_stay_readable_without_their_names() {
    let (_fs, log) = world(1);
    let end = log.log_end();
    let whole = bytes_of(&log, end);
    let exported = sealed_segments(&log).unwrap();
    assert!(exported.len() > 2);
    assert!(exported.windows(2).all(|pair| pair[0].end == pair[1].base));
    let last = exported.last().unwrap().end;
    log.advance_log_start(last).unwrap();
    log.enforce_retention().unwrap();
    log.tick().unwrap();
    let mut bytes = Vec::new();
    for segment in &exported {
        let mut piece = vec![0; usize::try_from(segment.bytes).unwrap()];
        fs::read_exact_at(&*segment.file, &mut piece, 0).unwrap();
        bytes.extend(piece);
        assert_eq!(segment.largest_timestamp, Some(TimestampMs::new(1_700_000_000_000)));
        assert_eq!(segment.epochs.len(), 1);
    }
    assert!(whole.starts_with(&bytes) && !bytes.is_empty());
}
