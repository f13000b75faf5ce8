//! What the models found, each as the shortest run that shows it. The runner compares after every operation.

use std::path::Path;

use alluvium::fs::sim::SimFs;
use alluvium::fs::{FileSystem, OpenMode, write_all_at};
use alluvium::{HighWatermarkMode, LogConfig};

use crate::support::batches::{BatchPlan, RecordPlan};
use crate::support::producing::{End, Produce, Step};
use crate::support::runner::{DIR, Runner};
use crate::support::standing;
use crate::support::workload::{Op, Who};

fn runner(high_watermark: HighWatermarkMode) -> Runner {
    let config = LogConfig { high_watermark, zero_ahead_bytes: 0, ..LogConfig::default() };
    let mut runner = Runner::new(SimFs::new(0), config);
    runner.reopen().unwrap();
    runner
}

fn batch() -> BatchPlan {
    BatchPlan { records: vec![RecordPlan { id: 1, value_bytes: 5, shift_ms: Some(0) }], is_compressed: false }
}

fn write(who: Who, is_transactional: bool) -> Op {
    let batches = vec![(Step::Next, batch())];
    Op::Produce(Produce { who, producer: 10, batches, is_transactional, is_odd: false, asks: true, is_stale: false })
}

fn abort() -> Op {
    let (coordinator_shift, epoch_shift) = (0, 0);
    Op::End(End { who: Who::Coordinator, producer: 10, commit: false, coordinator_shift, epoch_shift })
}

fn apply(runner: &mut Runner, ops: &[Op]) {
    for (at, op) in ops.iter().enumerate() {
        runner.apply(op).unwrap_or_else(|trouble| panic!("operation {at} {op:?}: {trouble:?}"));
    }
    standing::compare_all_aborted(runner.log().unwrap(), &runner.history.model).unwrap();
}

/// With the high watermark at the durable end, a transaction whose marker was not durable counted as decided after a
/// truncation elsewhere: the state was derived again from a snapshot that was taken past the marker.
#[test]
fn a_cut_does_not_decide_what_was_undecided() {
    let mut runner = runner(HighWatermarkMode::DurableEnd);
    let ops = [write(Who::Client, true), Op::Flush, abort(), Op::Roll, write(Who::Client, false)];
    apply(&mut runner, &ops);
    apply(&mut runner, &[write(Who::Client, false), Op::Truncate { back: 1 }]);
    assert_eq!(runner.log().unwrap().marks().last_stable.value(), 0);
}

/// A segment was covered by a sync and its process died before its index files were written. That it has no
/// `.txnindex` passed for "nothing was aborted", and a clean close made that last.
#[test]
fn a_segment_without_index_files_has_its_aborted_transactions() {
    let mut runner = runner(HighWatermarkMode::LogEnd);
    let ops = [write(Who::Client, true), abort(), Op::Flush, Op::Roll, write(Who::Client, false)];
    apply(&mut runner, &ops);
    apply(&mut runner, &[Op::DropAndOpen]);
    apply(&mut runner, &[Op::CloseAndOpen]);
}

/// An epoch that was cut off stayed in its file until the next sync. Behind a gap no batch contradicted it.
#[test]
fn an_epoch_that_was_cut_off_does_not_come_back() {
    let mut runner = runner(HighWatermarkMode::LogEnd);
    let leader = Op::NewLeader { is_announced: false };
    let ops = [write(Who::Client, false), Op::Flush, Op::Truncate { back: 1 }, leader];
    apply(&mut runner, &ops);
    apply(&mut runner, &[write(Who::Follower { gap: 1 }, false), Op::DropAndOpen]);
    assert_eq!(runner.log().unwrap().leader_epochs().len(), 1);
}

/// An epoch file without entries, behind a clean close or not, was believed below the recovery point.
#[test]
fn an_epoch_file_that_lost_its_entries_is_not_believed() {
    for is_closed in [false, true] {
        let mut runner = runner(HighWatermarkMode::LogEnd);
        let leader = Op::NewLeader { is_announced: false };
        let roll = [Op::Roll, Op::Flush];
        apply(&mut runner, &[write(Who::Client, false), leader, write(Who::Client, false)]);
        apply(&mut runner, &roll);
        apply(&mut runner, &[write(Who::Client, false), Op::Flush]);
        if is_closed {
            runner.log().unwrap().close().unwrap();
        }
        runner.let_go();
        let path = Path::new(DIR).join("leader-epoch-checkpoint");
        let file = runner.fs.open(&path, OpenMode::ReadWrite).unwrap();
        file.set_len(0).unwrap();
        write_all_at(&*file, b"0\n0\n", 0).unwrap();
        runner.reopen().unwrap();
        assert_eq!(runner.log().unwrap().leader_epochs().len(), 2);
    }
}
