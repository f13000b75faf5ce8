//! Operations on a simulated machine that dies in an arbitrary I/O step: what the log serves after it is held to the
//! history of what it promised, by the model and the checker of the crash tests.
//!
//! The input is: seed of the machine, settings, the step in which it dies, what survives, and then operations.

use std::time::Duration;

use alluvium::fs::sim::{SimFs, Survival};
use alluvium::{FlushPolicy, LogConfig, OnDamage, ReadMode};

use super::input::Input;
use super::support::batches::{BatchPlan, RecordPlan};
use super::support::checker::{Checker, Depth};
use super::support::history::Ending;
use super::support::runner::{Runner, Trouble};
use super::support::workload::{Op, Who, Workload};

const OPERATIONS_MAX: usize = 60;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.u8());
    let config = config(&mut input);
    let step = u64::from(input.u16() & 0x03ff);
    let survival = u64::from(input.u8());
    let workload = Workload { seed, config, ops: operations(&mut input) };
    let fs = SimFs::new(seed);
    if step > 0 {
        fs.crash_after(step);
    }
    let mut runner = Runner::new(fs.clone(), workload.config.clone());
    match runner.run(&workload) {
        Err((index, Trouble::Wrong(what))) => panic!("operation {index} {:?}: {what}", workload.ops.get(index)),
        Err((index, trouble)) if !fs.is_crashed() => {
            panic!("operation {index} {:?}: {trouble:?} without a fault", workload.ops.get(index));
        }
        _ => {}
    }
    let history = runner.history.clone();
    drop(runner);
    let checker = Checker::new(&workload.config);
    let power_loss = match survival {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        seed => Survival::Random(seed),
    };
    for (ending, image) in [(Ending::Kill, fs.kill()), (Ending::PowerLoss, fs.power_loss_keeping(power_loss))] {
        let depth = if survival % 4 == 0 { Depth::Everything } else { Depth::Contents };
        if let Err(what) = checker.accepts(&image, &history, ending, depth) {
            panic!("after {ending:?} in step {step}: {what}");
        }
    }
}

fn config(input: &mut Input<'_>) -> LogConfig {
    LogConfig {
        segment_bytes: 600 + u32::from(input.u8()) * 10,
        segment_ms: *input.pick(&[7 * 24 * 3600 * 1000, 20_000]),
        segment_index_bytes: *input.pick(&[1 << 20, 48]),
        index_interval_bytes: *input.pick(&[100, 0, 300, 4096]),
        read_mode: *input.pick(&[ReadMode::Positional, ReadMode::Mapped]),
        // Whatever a crash leaves is no damage, and must not be taken for any.
        on_damage: OnDamage::Refuse,
        zero_ahead_bytes: *input.pick(&[0, 4096, 16_384]),
        flush: flush_policy(input),
        ..LogConfig::default()
    }
}

fn flush_policy(input: &mut Input<'_>) -> FlushPolicy {
    let flags = input.u8();
    FlushPolicy {
        after_records: (flags & 1 != 0).then_some(4),
        after_bytes: (flags & 2 != 0).then_some(700),
        after: (flags & 4 != 0).then_some(Duration::from_secs(3)),
        on_roll: flags & 8 == 0,
        ..FlushPolicy::default()
    }
}

fn operations(input: &mut Input<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut records = 0;
    while !input.is_empty() && ops.len() < OPERATIONS_MAX {
        ops.push(operation(input, &mut records));
    }
    ops
}

fn operation(input: &mut Input<'_>, records: &mut u64) -> Op {
    match input.below(16) {
        0..3 => Op::Append { who: Who::Client, batches: batches(input, records) },
        3 => Op::Append { who: Who::Coordinator, batches: batches(input, records) },
        4 => {
            let gap = i64::from(input.below(4));
            Op::Append { who: Who::Follower { gap }, batches: batches(input, records) }
        }
        5 | 6 => Op::WaitLast,
        7 => Op::KeepFuture,
        8 => Op::Flush,
        9 => Op::Tick { ms: *input.pick(&[0, 10, 5000, 30_000]) },
        10 => Op::Roll,
        11 => Op::Truncate { back: i64::from(input.below(32)) },
        12 => match input.below(4) {
            0 => Op::Restart { shift: i64::from(input.u8()) - 8 },
            1 => Op::SetFlush(flush_policy(input)),
            _ => Op::Release,
        },
        13 => Op::Hold { back: i64::from(input.below(32)) },
        14 => Op::CloseAndOpen,
        _ => Op::DropAndOpen,
    }
}

fn batches(input: &mut Input<'_>, records: &mut u64) -> Vec<BatchPlan> {
    let shape = input.u8();
    (0..=shape % 3).map(|_| batch(input, shape, records)).collect()
}

/// All batches of an append together fit the smallest segment.
fn batch(input: &mut Input<'_>, shape: u8, records: &mut u64) -> BatchPlan {
    let count = 1 + shape / 3 % 3;
    let record = |_| {
        *records += 1;
        let byte = input.u8();
        let room = usize::from(if count == 1 && shape % 3 == 0 { byte % 200 } else { byte % 16 });
        let shift_ms = (byte < 240).then(|| i64::from(byte % 41) - 20);
        RecordPlan { id: *records, value_bytes: room, shift_ms }
    };
    BatchPlan { records: (0..count).map(record).collect(), is_compressed: shape & 0x80 != 0 }
}
