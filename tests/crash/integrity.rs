//! Sums, scrubbing, quarantine and repair, with a crash or a failing call at every I/O step: nothing that can be read is
//! lost, nothing wrong is served without a word, and what is repaired stays readable, or quarantined and repairable.

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};
use alluvium::fs::{FileSystem, OpenMode, write_all_at};
use alluvium::{AppendAs, CleanupPolicy, LogConfig, Offset, PartitionLog, ReadError, ReadOptions, ScrubCursor};

use crate::common::images;
use crate::support::batches::{BatchPlan, RecordPlan, epoch, offset};
use crate::support::runner::{new_clock, open};

const RECORDS: i64 = 14;
const NOW: i64 = 1_700_000_000_000;

fn config(compacts: bool) -> LogConfig {
    let cleanup_policy = if compacts { CleanupPolicy::Compact } else { CleanupPolicy::Delete };
    LogConfig {
        segment_bytes: 600,
        index_interval_bytes: 100,
        zero_ahead_bytes: 0,
        cleanup_policy,
        ..LogConfig::default()
    }
}

fn batch(n: i64, value_bytes: usize) -> Vec<u8> {
    let record = RecordPlan { id: n.unsigned_abs(), value_bytes, shift_ms: Some(0) };
    BatchPlan { records: vec![record], is_compressed: false }.build(NOW + n)
}

fn append(log: &PartitionLog, n: i64) -> bool {
    log.append(batch(n, 30), AppendAs::Client { epoch: epoch(1) }).is_ok()
}

/// Bytes of each batch, or `None` where the log says that it cannot be read.
type Found = Vec<(i64, Option<Vec<u8>>)>;

fn found(log: &PartitionLog) -> Found {
    let (mut found, mut next) = (Found::new(), log.log_start());
    while next < log.log_end() {
        match log.read(next, &ReadOptions { max_bytes: 1, ..ReadOptions::default() }) {
            Ok(fetched) if fetched.is_empty() => break,
            Ok(fetched) => {
                let batches = fetched.batches().unwrap();
                let batch = batches.iter().next().unwrap().unwrap();
                batch.verify_crc().expect("what is served is whole");
                found.push((batch.header().base_offset.value(), Some(batches.as_bytes().to_vec())));
                next = fetched.next_offset().unwrap();
            }
            Err(ReadError::Damaged(damage)) => {
                (next.value()..damage.offsets.end.value()).for_each(|at| found.push((at, None)));
                next = damage.offsets.end;
            }
            Err(error) => panic!("{error}"),
        }
    }
    found
}

/// A log with a quarantined range in its second segment, the range, and what a replica has in it. Closed.
struct Hurt {
    fs: SimFs,
    range: std::ops::Range<Offset>,
    batches: Vec<u8>,
    whole: Found,
}

fn filled(compacts: bool) -> (SimFs, PartitionLog) {
    let fs = SimFs::new(7);
    let log = open(&fs, &new_clock(), &config(compacts)).unwrap();
    assert!((0..RECORDS).all(|n| append(&log, n)));
    log.flush().unwrap();
    (fs, log)
}

/// Flips a bit in a batch of the second segment; returns which offset it has.
fn harm(fs: &SimFs, log: &PartitionLog) -> i64 {
    let path = log.segment_files()[1].clone();
    let len = fs.metadata(&path).unwrap().len;
    let base: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let next: i64 = log.segment_files()[2].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let size = len / u64::try_from(next - base).unwrap();
    fs.flip_bit(&path, size + 70, 2);
    base + 1
}

fn scrub(log: &PartitionLog) {
    let mut cursor = ScrubCursor::default();
    // A call that fails has gone on.
    for _ in 0..1000 {
        if log.scrub(&mut cursor, 1 << 20).is_ok_and(|scrubbed| scrubbed.is_round_done) {
            return;
        }
    }
}

fn hurt(compacts: bool) -> Hurt {
    let (fs, log) = filled(compacts);
    let mut whole = found(&log);
    let lost = harm(&fs, &log);
    scrub(&log);
    let range = log.health().damage[0].offsets.clone();
    assert_eq!(range, offset(lost)..offset(lost + 1));
    let slot = whole.iter_mut().find(|(at, _)| *at == lost).unwrap();
    let batches = if compacts {
        // Another one than was there, of another length.
        let mut short = batch(lost, 5);
        short[..8].copy_from_slice(&lost.to_be_bytes());
        short[12..16].copy_from_slice(&1_i32.to_be_bytes());
        short
    } else {
        slot.1.clone().unwrap()
    };
    slot.1 = Some(batches.clone());
    log.close().unwrap();
    Hurt { fs, range, batches, whole }
}

/// What is read is what was written, or reported where it may be.
fn judge(log: &PartitionLog, whole: &Found, may_lack: i64, what: &str) {
    for (at, bytes) in found(log) {
        let right =
            whole.iter().find(|(offset, _)| *offset == at).unwrap_or_else(|| panic!("{what}: {at} is invented"));
        assert!(bytes == right.1 || (bytes.is_none() && at == may_lack), "{what}: offset {at}");
    }
}

fn check_repaired(image: &SimFs, hurt: &Hurt, compacts: bool, what: &str) {
    let log = open(image, &new_clock(), &config(compacts)).unwrap_or_else(|e| panic!("{what}: {e}"));
    let lost = hurt.range.start.value();
    judge(&log, &hurt.whole, lost, what);
    assert_eq!(log.log_end(), offset(RECORDS), "{what}");
    if !log.health().damage.is_empty() {
        assert_eq!(log.health().damage[0].offsets, hurt.range, "{what}");
        log.repair(hurt.range.clone(), hurt.batches.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    assert_eq!(found(&log), hurt.whole, "{what}");
    scrub(&log);
    assert_eq!(log.health().damage, [], "{what}");
    log.close().unwrap();
    let log = open(image, &new_clock(), &config(compacts)).unwrap();
    assert_eq!((found(&log), log.recovery_report().was_clean), (hurt.whole.clone(), true), "{what}");
}

#[test]
fn every_step_of_a_repair_is_a_crash_that_loses_nothing() {
    for compacts in [false, true] {
        let hurt = hurt(compacts);
        let rehearsal = hurt.fs.kill();
        let log = open(&rehearsal, &new_clock(), &config(compacts)).unwrap();
        let opened = rehearsal.steps();
        log.repair(hurt.range.clone(), hurt.batches.clone()).unwrap();
        assert_eq!(found(&log), hurt.whole);
        let steps = rehearsal.steps();
        drop(log);
        for step in opened + 1..=steps {
            let fs = hurt.fs.kill();
            fs.crash_after(step);
            let log = open(&fs, &new_clock(), &config(compacts)).unwrap();
            let repaired = log.repair(hurt.range.clone(), hurt.batches.clone());
            drop(log);
            for (name, _, image) in images(&fs, step, 12) {
                let what = format!("compacts {compacts}, step {step} of {opened}..{steps}, {name}: {repaired:?}");
                let image = image.kill();
                if repaired.is_ok() {
                    // Acknowledged: it is durable.
                    let log = open(&image.kill(), &new_clock(), &config(compacts)).unwrap();
                    assert_eq!(found(&log), hurt.whole, "{what}");
                }
                check_repaired(&image, &hurt, compacts, &what);
            }
        }
    }
}

/// A call fails, and the process goes on; then it dies, or the power goes.
#[test]
fn every_failing_call_of_a_repair_leaves_it_done_or_to_be_done() {
    let calls = [
        FaultOn::Create,
        FaultOn::Write,
        FaultOn::SyncData,
        FaultOn::Rename,
        FaultOn::Remove,
        FaultOn::SyncDir,
        FaultOn::Open,
        FaultOn::Read,
    ];
    for compacts in [false, true] {
        let hurt = hurt(compacts);
        for call in calls {
            for (errno, skip) in
                [Errno::Eio, Errno::Enospc].into_iter().flat_map(|errno| (0..12).map(move |n| (errno, n)))
            {
                let fs = hurt.fs.kill();
                let log = open(&fs, &new_clock(), &config(compacts)).unwrap();
                fs.inject(Fault::new(call, Effect::Error(errno)).skip(skip));
                let repaired = log.repair(hurt.range.clone(), hurt.batches.clone());
                fs.clear_faults();
                let what = format!("compacts {compacts}, {call:?} {errno:?} {skip}: {repaired:?}");
                judge(&log, &hurt.whole, hurt.range.start.value(), &what);
                assert!(repaired.is_err() || found(&log) == hurt.whole, "{what}");
                drop(log);
                check_repaired(&fs.kill(), &hurt, compacts, &what);
                check_repaired(
                    &fs.power_loss_keeping(alluvium::fs::sim::Survival::Random(skip)),
                    &hurt,
                    compacts,
                    &what,
                );
            }
        }
    }
}

/// Sealing, which writes sums, and a scrub that quarantines, and writes sums and indexes again.
fn live(fs: &SimFs, hurts: bool) -> Option<i64> {
    let log = open(fs, &new_clock(), &config(false)).ok()?;
    for n in log.log_end().value()..RECORDS + 10 {
        append(&log, n);
        if n % 3 == 0 {
            let _ = log.flush();
        }
    }
    let lost = hurts.then(|| harm(fs, &log));
    for name in [0, 2] {
        let path = log.segment_files()[name].with_extension("sum");
        let _ = fs.remove_file(&path);
    }
    if let Ok(file) = fs.open(&log.segment_files()[3].with_extension("index"), OpenMode::ReadWrite) {
        let _ = write_all_at(&*file, &[0xff; 8], 0);
    }
    scrub(&log);
    let _ = log.close();
    lost
}

#[test]
fn every_step_of_sealing_and_scrubbing_is_a_crash_that_loses_nothing() {
    let (fs, log) = filled(false);
    drop(log);
    let rehearsal = fs.kill();
    let lost = live(&rehearsal, true).unwrap();
    let steps = rehearsal.steps();
    let log = open(&rehearsal.kill(), &new_clock(), &config(false)).unwrap();
    let mut whole = found(&log);
    drop(log);
    let healthy = fs.kill();
    live(&healthy, false);
    let log = open(&healthy, &new_clock(), &config(false)).unwrap();
    for (slot, right) in whole.iter_mut().zip(found(&log)) {
        slot.1 = right.1;
    }
    drop(log);
    for step in 1..=steps {
        let fs = fs.kill();
        fs.crash_after(step);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&fs, true)));
        assert!(fs.is_crashed(), "step {step}: {:?}", outcome.is_err());
        for (name, _, image) in images(&fs, step, 6) {
            let what = format!("step {step} of {steps}, {name}");
            let log = open(&image, &new_clock(), &config(false)).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(log.log_end() >= offset(RECORDS), "{what}");
            scrub(&log);
            judge(&log, &whole, lost, &what);
            let before = found(&log);
            log.close().unwrap();
            let log = open(&image, &new_clock(), &config(false)).unwrap();
            assert_eq!(found(&log), before, "{what}");
        }
    }
}
