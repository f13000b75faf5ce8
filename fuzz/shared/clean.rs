//! Operations on a compacted log, cleanings among them, on a simulated machine that dies in an arbitrary I/O step: what the
//! log shows is held, before and after, to the naive model of the cleaner's tests.
//!
//! The input is: seed of the machine, settings, the step in which it dies and how is cleaned, what survives, and then
//! operations.

use alluvium::fs::sim::{SimFs, Survival};
use alluvium::record::Compression;
use alluvium::{CleanupPolicy, DirtyRatio, HighWatermarkMode, LogConfig, OnDamage, ReadMode};

use super::input::Input;
use super::support::clean::script::{CleanOp, MEMORY, Script, Write, Writes, ways};
use super::support::clean::world::CleanWorld;
use super::support::history::Ending;
use super::support::runner::Trouble;

const OPERATIONS_MAX: usize = 60;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.u8());
    let config = config(&mut input);
    let shape = u64::from(input.u16());
    let (step, way) = (shape & 0x03ff, shape >> 10);
    let survival = u64::from(input.u8());
    let script = Script { seed, config, ops: operations(&mut input) };
    let fs = SimFs::new(seed);
    if step > 0 {
        fs.crash_after(step);
    }
    let mut world = CleanWorld::new(fs.clone(), script.config.clone());
    world.options = ways(way);
    match world.run(&script) {
        Err((index, Trouble::Wrong(what))) => panic!("operation {index} {:?}: {what}", script.ops.get(index)),
        Err((index, trouble)) if !fs.is_crashed() => {
            panic!("operation {index} {:?}: {trouble:?} without a fault", script.ops.get(index));
        }
        _ => {}
    }
    let power_loss = match survival {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        seed => Survival::Random(seed),
    };
    for (ending, image) in [(Ending::Kill, fs.kill()), (Ending::PowerLoss, fs.power_loss_keeping(power_loss))] {
        let mut after = world.after(image, ending);
        for op in [None, Some(CleanOp::Roll), Some(CleanOp::Clean { memory: MEMORY }), Some(CleanOp::CloseAndOpen)] {
            let outcome = match &op {
                None => after.reopen(),
                Some(op) => after.apply(op),
            };
            if let Err(trouble) = outcome {
                panic!("after {ending:?} in step {step}, {op:?}: {trouble:?}");
            }
        }
    }
}

fn config(input: &mut Input<'_>) -> LogConfig {
    let modes = [HighWatermarkMode::LogEnd, HighWatermarkMode::Embedder, HighWatermarkMode::DurableEnd];
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 500 + u32::from(input.u8()) * 6,
        segment_index_bytes: *input.pick(&[1 << 20, 48]),
        index_interval_bytes: *input.pick(&[100, 0, 300, 4096]),
        read_mode: *input.pick(&[ReadMode::Positional, ReadMode::Mapped]),
        on_damage: OnDamage::Quarantine,
        zero_ahead_bytes: *input.pick(&[0, 4096]),
        high_watermark: *input.pick(&modes),
        delete_retention_ms: *input.pick(&[1000, 0, 60_000]),
        min_compaction_lag_ms: *input.pick(&[0, 0, 20_000]),
        min_cleanable_dirty_ratio: DirtyRatio::new(0.0).unwrap(),
        producer_id_expiration_ms: i64::MAX.unsigned_abs(),
        retention_ms: None,
        transaction_partition_verification_enable: false,
        ..LogConfig::default()
    }
}

fn operations(input: &mut Input<'_>) -> Vec<CleanOp> {
    let (mut ops, mut written) = (Vec::new(), 0);
    while !input.is_empty() && ops.len() < OPERATIONS_MAX {
        ops.push(operation(input, &mut written));
    }
    ops
}

fn operation(input: &mut Input<'_>, written: &mut u64) -> CleanOp {
    let producer = |input: &mut Input<'_>| 10 + i64::from(input.below(4));
    match input.below(18) {
        0..4 => CleanOp::Put(writes(input, written, false)),
        4 => CleanOp::Given { gap: i64::from(input.below(4)), writes: writes(input, written, true) },
        5..8 => {
            let (producer, shape) = (producer(input), input.u8());
            let (is_transactional, is_new_epoch) = (shape & 1 == 0, shape > 0xf0);
            CleanOp::Produce { producer, is_transactional, is_new_epoch, writes: writes(input, written, false) }
        }
        8 => {
            let (producer, shape) = (producer(input), input.u8());
            CleanOp::End { producer, commit: shape & 1 == 0, is_new_epoch: shape > 0xf0 }
        }
        9 => CleanOp::Again { producer: producer(input) },
        10 => match input.below(4) {
            0 => CleanOp::NewLeader,
            1 => CleanOp::OutOfOrder { producer: producer(input), writes: writes(input, written, false) },
            2 => CleanOp::Flush,
            _ => CleanOp::RaiseStart { back: i64::from(input.u8()) },
        },
        11 => CleanOp::Replicate { back: i64::from(input.below(4)) },
        12 => CleanOp::Tick { ms: *input.pick(&[0, 500, 1500, 70_000]) },
        13 => CleanOp::Roll,
        14 => CleanOp::Truncate { back: i64::from(input.below(16)) },
        15 | 16 => CleanOp::Clean { memory: MEMORY },
        _ if input.below(2) == 0 => CleanOp::CloseAndOpen,
        _ => CleanOp::DropAndOpen,
    }
}

fn writes(input: &mut Input<'_>, written: &mut u64, may_lack_key: bool) -> Writes {
    let shape = input.u8();
    let record = |_| {
        *written += 1;
        let (key, value) = (input.u8(), input.u8());
        let lacks_key = may_lack_key && key > 0xc0;
        Write {
            key: (!lacks_key).then_some(u32::from(key) % 24),
            value: (value >= 0x20 || lacks_key).then_some((*written, usize::from(value % 32))),
            shift_ms: i64::from(value % 5) * -7000,
            has_header: value & 0x80 != 0 && key & 1 == 0,
        }
    };
    let records = (0..=shape % 4).map(record).collect();
    let all = Compression::ALL;
    let codec = if shape & 0x80 == 0 { Compression::None } else { all[usize::from(shape >> 3) % all.len()] };
    Writes { records, codec }
}
