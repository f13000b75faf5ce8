//! Workloads from a seed: a configuration with small segments, and a list of operations.

use std::time::Duration;

use alluvium::TimestampType::{CreateTime, LogAppendTime};
use alluvium::{FlushPolicy, HighWatermarkMode, LogConfig, OnDamage, ReadMode};
use fastrand::Rng;

use super::batches::{BatchPlan, RecordPlan};
use super::producing::{End, Produce};

/// On whose behalf batches are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Client,
    Coordinator,
    /// The batches begin so far past the log end.
    Follower {
        gap: i64,
    },
}

/// One call, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Append {
        who: Who,
        batches: Vec<BatchPlan>,
    },
    /// Batches of an idempotent or transactional producer.
    Produce(Produce),
    /// A transaction's marker.
    End(End),
    /// Asks for the guard that a producer's next transaction needs, and keeps it for later.
    Verify {
        producer: i64,
    },
    /// A new leader: announced before it writes, or known by its first batch.
    NewLeader {
        is_announced: bool,
    },
    /// Moves the high watermark to so far before the end, where it is the embedder's.
    Replicate {
        back: i64,
    },
    /// Waits until the newest append is durable.
    WaitLast,
    /// Keeps a future of the newest append's durability; ticks answer it.
    KeepFuture,
    Flush,
    Tick {
        ms: u64,
    },
    Roll,
    /// Cuts so many offsets off the end.
    Truncate {
        back: i64,
    },
    /// Starts anew so far from the log end.
    Restart {
        shift: i64,
    },
    /// Reads from so far before the end and keeps the slices, and with them the bytes.
    Hold {
        back: i64,
    },
    /// Compares the kept slices with what they showed, and lets go of them.
    Release,
    SetFlush(FlushPolicy),
    CloseAndOpen,
    DropAndOpen,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) seed: u64,
    pub(crate) config: LogConfig,
    pub(crate) ops: Vec<Op>,
}

impl Workload {
    pub(crate) fn from_seed(seed: u64, ops: usize) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x616c_6c75);
        let config = config(&mut rng);
        let mut planner = Planner { rng, seed, planned: 0, batch_bytes_max: config.segment_bytes as usize / 2 };
        let ops = (0..ops).map(|_| planner.op()).collect();
        Self { seed, config, ops }
    }
}

impl Workload {
    /// Producers, transactions and leaders, with everything else in between.
    pub(crate) fn with_producers(seed: u64, ops: usize) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x7478_6e73);
        let config = LogConfig {
            segment_bytes: rng.u32(600..1800),
            high_watermark: *pick(
                &mut rng,
                &[HighWatermarkMode::LogEnd, HighWatermarkMode::Embedder, HighWatermarkMode::DurableEnd],
            ),
            transaction_partition_verification_enable: rng.bool(),
            message_timestamp_type: CreateTime,
            // No clock of a workload gets there.
            producer_id_expiration_ms: i64::MAX.unsigned_abs(),
            ..config(&mut rng)
        };
        let mut planner = Planner { rng, seed, planned: 0, batch_bytes_max: 300 };
        let ops = (0..ops).map(|_| planner.op_of_producers()).collect();
        Self { seed, config, ops }
    }
}

fn config(rng: &mut Rng) -> LogConfig {
    LogConfig {
        segment_bytes: rng.u32(600..3000),
        segment_ms: *pick(rng, &[7 * 24 * 3600 * 1000, 7 * 24 * 3600 * 1000, 20_000]),
        segment_index_bytes: *pick(rng, &[1 << 20, 1 << 20, 48]),
        index_interval_bytes: *pick(rng, &[0, 100, 300, 4096]),
        read_mode: *pick(rng, &[ReadMode::Positional, ReadMode::Mapped]),
        // Whatever a crash leaves is no damage; that it is taken for none is part of the test.
        on_damage: OnDamage::Refuse,
        zero_ahead_bytes: *pick(rng, &[0, 0, 4096, 16_384]),
        message_timestamp_type: *pick(rng, &[CreateTime, CreateTime, CreateTime, CreateTime, LogAppendTime]),
        flush: flush_policy(rng),
        ..LogConfig::default()
    }
}

fn flush_policy(rng: &mut Rng) -> FlushPolicy {
    FlushPolicy {
        after_records: *pick(rng, &[None, None, Some(4)]),
        after_bytes: *pick(rng, &[None, None, Some(700)]),
        after: *pick(rng, &[None, Some(Duration::from_secs(3))]),
        on_roll: rng.bool(),
        ..FlushPolicy::default()
    }
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}

struct Planner {
    rng: Rng,
    seed: u64,
    planned: u64,
    batch_bytes_max: usize,
}

impl Planner {
    fn op(&mut self) -> Op {
        match self.rng.u8(0..100) {
            0..38 => {
                let who = if self.rng.u8(0..10) == 0 { Who::Coordinator } else { Who::Client };
                Op::Append { who, batches: self.batches() }
            }
            38..46 => {
                let gap = if self.rng.u8(0..3) == 0 { self.rng.i64(1..4) } else { 0 };
                Op::Append { who: Who::Follower { gap }, batches: self.batches() }
            }
            46..60 => Op::WaitLast,
            60..64 => Op::KeepFuture,
            64..68 => Op::Flush,
            68..75 => Op::Tick { ms: *pick(&mut self.rng, &[0, 10, 5000, 30_000]) },
            75..79 => Op::Roll,
            79..86 => Op::Truncate { back: self.rng.i64(0..14) },
            86..87 => Op::Restart { shift: self.rng.i64(-8..100) },
            87..91 => Op::Hold { back: self.rng.i64(0..20) },
            91..93 => Op::Release,
            93..94 => Op::SetFlush(flush_policy(&mut self.rng)),
            94..97 => Op::CloseAndOpen,
            _ => Op::DropAndOpen,
        }
    }

    fn op_of_producers(&mut self) -> Op {
        match self.rng.u8(0..100) {
            0..42 => {
                let mut rng = self.rng.fork();
                Op::Produce(Produce::random(&mut rng, || self.batch(250)))
            }
            42..60 => Op::End(End::random(&mut self.rng)),
            60..63 => Op::Verify { producer: self.rng.i64(10..14) },
            63..66 => Op::NewLeader { is_announced: self.rng.bool() },
            66..72 => Op::Replicate { back: self.rng.i64(0..12) },
            72..76 => Op::Truncate { back: self.rng.i64(0..20) },
            76..79 => Op::Roll,
            79..82 => Op::CloseAndOpen,
            82..85 => Op::DropAndOpen,
            _ => self.op(),
        }
    }

    fn batches(&mut self) -> Vec<BatchPlan> {
        let count = if self.rng.bool() { 1 } else { self.rng.usize(1..4) };
        (0..count).map(|_| self.batch(self.batch_bytes_max / count)).collect()
    }

    /// A batch of at most about `bytes_max` bytes.
    fn batch(&mut self, bytes_max: usize) -> BatchPlan {
        let count = self.rng.usize(1..5);
        let room = (bytes_max.saturating_sub(100) / count).saturating_sub(40).max(1);
        let is_large = self.rng.u8(0..4) == 0;
        let records = (0..count).map(|_| {
            self.planned += 1;
            RecordPlan {
                id: (self.seed << 32) | self.planned,
                value_bytes: self.rng.usize(0..if is_large { room } else { room.min(30) }),
                shift_ms: (self.rng.u8(0..8) > 0).then(|| self.rng.i64(-20..20)),
            }
        });
        let records = records.collect();
        BatchPlan { records, is_compressed: self.rng.u8(0..3) == 0 }
    }
}
