//! Producers, transactions and epochs in a workload. What an operation does depends on what the log has by then: "the
//! next batch of producer 2" is planned, which sequence that is turns out when it runs.

use alluvium::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd};
use alluvium::{ProducerEpoch, ProducerId, Sequence, TimestampMs};
use fastrand::Rng;

use super::batches::{BatchPlan, StoredBatch, place};
use super::naive::{Naive, plus};
use super::workload::Who;

/// How a batch stands to the ones before it of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Next,
    /// Sent once more: the last batch, or one so far before it.
    Again {
        back: usize,
    },
    /// So many sequences are left out.
    Gap {
        sequences: i32,
    },
    /// The first of a new epoch; with a wrong sequence unless it is 0.
    NewEpoch {
        sequence: i32,
    },
    OldEpoch,
}

/// Batches of one producer, in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each turns one thing round, by itself")]
pub(crate) struct Produce {
    pub(crate) who: Who,
    pub(crate) producer: i64,
    pub(crate) batches: Vec<(Step, BatchPlan)>,
    /// Whether they are to be part of a transaction, if none is open.
    pub(crate) is_transactional: bool,
    /// Whether that is turned round while one is open.
    pub(crate) is_odd: bool,
    /// Whether the coordinator is asked before.
    pub(crate) asks: bool,
    /// Whether it comes from a leader that was deposed.
    pub(crate) is_stale: bool,
}

/// The end of a transaction, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) who: Who,
    pub(crate) producer: i64,
    pub(crate) commit: bool,
    /// Against the newest seen.
    pub(crate) coordinator_shift: i32,
    pub(crate) epoch_shift: i16,
}

/// What a producer writes next to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) count: Option<usize>,
}

/// Odd producers begin shortly before sequences wrap.
fn first_sequence(producer: i64) -> i32 {
    if producer % 2 == 1 { i32::MAX - 3 } else { 0 }
}

impl Step {
    pub(crate) fn resolve(self, log: Naive<'_>, producer: i64) -> Resolved {
        let Some(known) = log.producer(producer) else {
            return Resolved { epoch: 1, sequence: first_sequence(producer), count: None };
        };
        let last = known.batches.last().and_then(|last| last.sequences).map(|(_, last)| last);
        let due = last.map_or(0, |last| plus(last, 1));
        let (epoch, sequence) = match self {
            Self::Next => (known.epoch, due),
            Self::Gap { sequences } => (known.epoch, plus(due, sequences)),
            Self::NewEpoch { sequence } => (known.epoch + 1, sequence),
            Self::OldEpoch => ((known.epoch - 1).max(0), due),
            Self::Again { back } => {
                let numbered: Vec<_> = known.batches.iter().filter(|batch| batch.sequences.is_some()).collect();
                if let Some(batch) = numbered.len().checked_sub(1 + back).and_then(|at| numbered.get(at)) {
                    let count = usize::try_from(batch.next - batch.base).ok();
                    let sequence = batch.sequences.map_or(0, |(first, _)| first);
                    return Resolved { epoch: known.epoch, sequence, count };
                }
                (known.epoch, due)
            }
        };
        Resolved { epoch, sequence, count: None }
    }
}

/// Where a batch is put, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) base: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) now: i64,
}

fn producer_of(producer: i64, epoch: i16) -> (ProducerId, ProducerEpoch) {
    (ProducerId::new(producer).unwrap(), ProducerEpoch::new(epoch).unwrap())
}

/// A producer's batch as it is sent, and as it is stored at `at`.
pub(crate) fn data_batch(
    plan: &BatchPlan,
    producer: i64,
    resolved: Resolved,
    (is_numbered, is_transactional): (bool, bool),
    at: Place,
) -> (Vec<u8>, StoredBatch) {
    let mut builder = BatchBuilder::new();
    builder.compression(if plan.is_compressed { Compression::Lz4 } else { Compression::None });
    let (id, epoch) = producer_of(producer, resolved.epoch);
    builder.producer(id, epoch, Sequence::new(resolved.sequence).filter(|_| is_numbered));
    builder.transactional(is_transactional);
    let mut records = plan.records.clone();
    if let Some(count) = resolved.count {
        records = records.iter().cycle().take(count).cloned().collect();
    }
    let plan = BatchPlan { records, is_compressed: plan.is_compressed };
    plan.fill(&mut builder, at.now);
    let sent = builder.build().expect("a planned batch is valid").into_bytes();
    let mut stored = plan.stored(at.now, at.base, at.leader_epoch);
    stored.bytes.clone_from(&sent);
    place(&mut stored.bytes, at.base, at.leader_epoch);
    (sent, stored)
}

/// A marker, likewise.
pub(crate) fn marker_batch(end: End, epoch: i16, coordinator_epoch: i32, at: Place) -> (Vec<u8>, StoredBatch) {
    let kind = if end.commit { TransactionEnd::Commit } else { TransactionEnd::Abort };
    let producer = producer_of(end.producer, epoch);
    let sent = RecordBatch::end_transaction_marker(kind, producer, coordinator_epoch, TimestampMs::new(at.now));
    let sent = sent.into_bytes();
    let mut bytes = sent.clone();
    place(&mut bytes, at.base, at.leader_epoch);
    (sent, StoredBatch { base: at.base, next: at.base + 1, bytes, records: vec![(at.base, at.now)] })
}

fn who(rng: &mut Rng, usually: Who) -> Who {
    match rng.u8(0..10) {
        0..8 => usually,
        8 => Who::Coordinator,
        _ => Who::Follower { gap: if rng.bool() { 0 } else { rng.i64(1..4) } },
    }
}

impl Produce {
    pub(crate) fn random(rng: &mut Rng, mut plan: impl FnMut() -> BatchPlan) -> Self {
        let count = if rng.u8(0..5) == 0 { rng.usize(2..4) } else { 1 };
        let batches = (0..count).map(|_| (Step::random(rng), plan())).collect();
        Self {
            who: who(rng, Who::Client),
            producer: rng.i64(10..14),
            batches,
            is_transactional: rng.u8(0..3) > 0,
            is_odd: rng.u8(0..10) == 0,
            asks: rng.u8(0..8) > 0,
            is_stale: rng.u8(0..20) == 0,
        }
    }
}

impl Step {
    fn random(rng: &mut Rng) -> Self {
        match rng.u8(0..20) {
            0..13 => Self::Next,
            13..16 => Self::Again { back: rng.usize(0..7) },
            16 => Self::Gap { sequences: rng.i32(1..4) },
            17 => Self::OldEpoch,
            _ => Self::NewEpoch { sequence: i32::from(rng.u8(0..4) == 0) },
        }
    }
}

impl End {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let who = if rng.u8(0..5) == 0 { Who::Follower { gap: 0 } } else { Who::Coordinator };
        let coordinator_shift = [0, 0, 0, 0, 1, 1, -1][rng.usize(..7)];
        let epoch_shift = [0, 0, 0, 0, 0, 0, 1, -1][rng.usize(..8)];
        Self { who, producer: rng.i64(10..14), commit: rng.bool(), coordinator_shift, epoch_shift }
    }
}
