//! Scripts from a seed: a configuration with small segments, and operations on a compacted log.

use alluvium::record::{BatchBuilder, Compression};
use alluvium::{
    CleanOptions, CleanupPolicy, DirtyRatio, FlushPolicy, HighWatermarkMode, LogConfig, OnDamage, ReadMode, TimestampMs,
};
use fastrand::Rng;

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: Option<u32>,
    /// Number that no other record has, and length; `None` for a tombstone.
    pub(crate) value: Option<(u64, usize)>,
    pub(crate) shift_ms: i64,
    pub(crate) has_header: bool,
}

impl Write {
    pub(crate) fn key_bytes(key: u32) -> Vec<u8> {
        format!("key-{key}").into_bytes()
    }

    fn value_bytes((id, len): (u64, usize)) -> Vec<u8> {
        let mut value = format!("{id:x}:").into_bytes();
        value.extend(
            (0..len).map(|at| if id.is_multiple_of(2) { b'v' } else { (at as u64 * 31 + id).to_le_bytes()[0] }),
        );
        value
    }

    /// Adds it to a batch that is built at `now`.
    pub(crate) fn put(&self, builder: &mut BatchBuilder, now: i64) {
        let (key, value) = (self.key.map(Self::key_bytes), self.value.map(Self::value_bytes));
        let timestamp = TimestampMs::new(now + self.shift_ms);
        let all: [(&str, Option<&[u8]>); 2] = [("h", Some(b"1")), ("none", None)];
        let headers = if self.has_header { &all[..] } else { &[] };
        builder.record_with_headers(timestamp, key.as_deref(), value.as_deref(), headers);
    }
}

/// The records of one batch, and their codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) records: Vec<Write>,
    pub(crate) codec: Compression,
}

/// One call, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CleanOp {
    /// A client's batch without a producer.
    Put(Writes),
    /// A follower's, so far past the end; it may lack keys.
    Given {
        gap: i64,
        writes: Writes,
    },
    /// The next batch of a producer; transactional ones go on with what is open.
    Produce {
        producer: i64,
        is_transactional: bool,
        is_new_epoch: bool,
        writes: Writes,
    },
    /// The end of a producer's transaction; a marker of an empty one if none is open.
    End {
        producer: i64,
        commit: bool,
        is_new_epoch: bool,
    },
    /// The last batch of a producer once more: a duplicate.
    Again {
        producer: i64,
    },
    /// A batch that leaves out a sequence: refused.
    OutOfOrder {
        producer: i64,
        writes: Writes,
    },
    NewLeader,
    /// Moves the embedder's high watermark to so far before the end.
    Replicate {
        back: i64,
    },
    Tick {
        ms: u64,
    },
    Roll,
    Flush,
    RaiseStart {
        back: i64,
    },
    /// Cuts so many offsets off the end, but nothing that was cleaned.
    Truncate {
        back: i64,
    },
    /// The same, whatever was cleaned.
    TruncateCleaned {
        back: i64,
    },
    Clean {
        memory: u64,
    },
    CloseAndOpen,
    DropAndOpen,
    /// Closes, removes the producers' snapshots, opens.
    ForgetSnapshots,
}

/// A configuration and what is done under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) config: LogConfig,
    pub(crate) ops: Vec<CleanOp>,
}

/// What a script is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Everything.
    Mixed,
    /// What a crash test can judge after any step: no cuts below what was cleaned, no files removed by hand.
    Crashing,
}

pub(crate) const MEMORY: u64 = 1 << 20;

/// Ways to clean, numbered: with a map that holds everything, or one that a few keys fill, so that passes spill, or are
/// partial without the disk for it; in small groups of segments or not.
pub(crate) fn ways(number: u64) -> CleanOptions {
    let options = CleanOptions::default();
    let options = match number % 8 {
        0..4 => options,
        4 => options.with_small_map(128),
        5 => options.with_small_map(256),
        6 => options.with_small_map(128).with_spill(0),
        _ => options.with_small_map(192).with_spill(0),
    };
    if number % 3 == 2 { options.in_groups_of(5000) } else { options }
}

fn config(rng: &mut Rng) -> LogConfig {
    let modes = [
        HighWatermarkMode::LogEnd,
        HighWatermarkMode::LogEnd,
        HighWatermarkMode::Embedder,
        HighWatermarkMode::DurableEnd,
    ];
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: rng.u32(450..1800),
        segment_index_bytes: [1 << 20, 1 << 20, 48][rng.usize(..3)],
        index_interval_bytes: [0, 100, 300, 4096][rng.usize(..4)],
        read_mode: [ReadMode::Positional, ReadMode::Mapped][rng.usize(..2)],
        on_damage: OnDamage::Quarantine,
        zero_ahead_bytes: [0, 4096][rng.usize(..2)],
        high_watermark: modes[rng.usize(..modes.len())],
        delete_retention_ms: [0, 1000, 60_000][rng.usize(..3)],
        min_compaction_lag_ms: [0, 0, 0, 20_000][rng.usize(..4)],
        min_cleanable_dirty_ratio: DirtyRatio::new(0.0).unwrap(),
        flush: FlushPolicy { on_roll: rng.bool(), ..FlushPolicy::default() },
        // No clock of a script gets there.
        producer_id_expiration_ms: i64::MAX.unsigned_abs(),
        retention_ms: None,
        transaction_partition_verification_enable: false,
        ..LogConfig::default()
    }
}

impl Script {
    pub(crate) fn from_seed(seed: u64, ops: usize, style: Style) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x636c_6561_6e65_7221);
        let config = config(&mut rng);
        let keys = [3, 8, 30, 200][rng.usize(..4)];
        let is_calm = rng.bool();
        let mut planner = Planner { rng, seed, keys, written: 0, style, is_calm };
        let ops = (0..ops).map(|_| planner.op()).collect();
        Self { seed, config, ops }
    }
}

struct Planner {
    rng: Rng,
    seed: u64,
    keys: u32,
    written: u64,
    style: Style,
    /// Without producers.
    is_calm: bool,
}

impl Planner {
    fn write(&mut self, may_lack_key: bool) -> Write {
        self.written += 1;
        let rng = &mut self.rng;
        let key = (!may_lack_key || rng.u8(0..4) > 0).then(|| rng.u32(..self.keys));
        let is_tombstone = key.is_some() && rng.u8(0..6) == 0;
        let len = if rng.u8(0..12) == 0 { rng.usize(100..250) } else { rng.usize(..20) };
        let value = (!is_tombstone).then_some((self.seed * 1_000_000 + self.written, len));
        let shift_ms = if rng.u8(0..4) == 0 { rng.i64(-40_000..2000) } else { 0 };
        Write { key, value, shift_ms, has_header: rng.u8(0..8) == 0 }
    }

    fn writes(&mut self, may_lack_key: bool) -> Writes {
        let count = [1, 1, 1, 2, 3, 5][self.rng.usize(..6)];
        let records = (0..count).map(|_| self.write(may_lack_key)).collect();
        let all = Compression::ALL;
        let codec = if self.rng.u8(0..3) > 0 { Compression::None } else { all[self.rng.usize(..all.len())] };
        // Five large values do not fit the smallest segment.
        let mut writes = Writes { records, codec };
        while writes.bytes() > 380 && writes.records.len() > 1 {
            writes.records.pop();
        }
        writes
    }

    fn producer(&mut self) -> i64 {
        self.rng.i64(10..14)
    }

    fn op(&mut self) -> CleanOp {
        let kind = self.rng.u8(0..100);
        match kind {
            0..24 => CleanOp::Put(self.writes(false)),
            24..29 => CleanOp::Given { gap: [0, 0, 3][self.rng.usize(..3)], writes: self.writes(true) },
            29..58 if self.is_calm => CleanOp::Put(self.writes(false)),
            29..46 => CleanOp::Produce {
                producer: self.producer(),
                is_transactional: self.rng.u8(0..3) > 0,
                is_new_epoch: self.rng.u8(0..12) == 0,
                writes: self.writes(false),
            },
            46..54 => CleanOp::End {
                producer: self.producer(),
                commit: self.rng.bool(),
                is_new_epoch: self.rng.u8(0..12) == 0,
            },
            54..56 => CleanOp::Again { producer: self.producer() },
            56..58 => CleanOp::OutOfOrder { producer: self.producer(), writes: self.writes(false) },
            58..60 => CleanOp::NewLeader,
            60..66 => CleanOp::Replicate { back: self.rng.i64(0..4) },
            66..72 => CleanOp::Tick { ms: [0, 10, 500, 1500, 30_000, 70_000][self.rng.usize(..6)] },
            72..77 => CleanOp::Roll,
            77..79 => CleanOp::Flush,
            79..80 => CleanOp::RaiseStart { back: self.rng.i64(0..60) },
            80..82 => CleanOp::Truncate { back: self.rng.i64(0..8) },
            82..94 => CleanOp::Clean { memory: MEMORY },
            94..96 => CleanOp::CloseAndOpen,
            96..98 => CleanOp::DropAndOpen,
            _ => self.rare(),
        }
    }

    fn rare(&mut self) -> CleanOp {
        match (self.style, self.rng.u8(0..4)) {
            (Style::Crashing, _) | (_, 0) => CleanOp::CloseAndOpen,
            (Style::Mixed, 1) => CleanOp::TruncateCleaned { back: self.rng.i64(0..40) },
            (Style::Mixed, _) => CleanOp::ForgetSnapshots,
        }
    }
}

impl Writes {
    /// About what the batch takes, uncompressed.
    fn bytes(&self) -> usize {
        self.records.iter().map(|record| 60 + record.value.map_or(0, |(_, len)| len + 12)).sum()
    }
}
