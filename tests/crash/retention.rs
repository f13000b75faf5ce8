//! Deleting the beginning of a log, with a crash at every I/O step: what was deleted stays deleted, nothing at or past the
//! log start is lost, nothing is invented, and no offset is given out twice.

use std::time::Duration;

use alluvium::fs::sim::SimFs;
use alluvium::{AppendAs, Deadline, LogConfig, OnDamage, PartitionLog};
use fastrand::Rng;

use crate::common::{images, seeds};
use crate::support::batches::{BatchPlan, RecordPlan, StoredBatch, epoch, offset};
use crate::support::history::Ending;
use crate::support::reading;
use crate::support::runner::{new_clock, open};

const OPERATIONS: usize = 60;
const RANDOM_IMAGES: u64 = 5;

/// What was promised so far.
#[derive(Clone, Debug, Default)]
struct Promised {
    batches: Vec<StoredBatch>,
    /// Tried, and not answered.
    maybe: Option<StoredBatch>,
    end: i64,
    /// The log start that was acknowledged, and the furthest one that was asked for.
    start: i64,
    start_max: i64,
    durable: i64,
}

impl Promised {
    /// Holds a log that was just opened to it.
    fn judge(&self, log: &PartitionLog, ending: Ending) -> Result<(), String> {
        let found = reading::contents(log)?;
        if found.start < self.start || found.start > self.start_max {
            return Err(format!("begins at {}, not in {}..={}", found.start, self.start, self.start_max));
        }
        let floor = if ending == Ending::Kill { self.end } else { self.durable }.max(found.start);
        if found.end < floor {
            return Err(format!("ends at {}, and {floor} was promised ({ending:?})", found.end));
        }
        let tried: Vec<&StoredBatch> =
            self.batches.iter().chain(&self.maybe).filter(|batch| batch.next > found.start).collect();
        for (index, batch) in found.batches.iter().enumerate() {
            if tried.get(index) != Some(&batch) {
                return Err(format!("batch {}..{} is not the one written there", batch.base, batch.next));
            }
        }
        let last = found.batches.last().map_or(found.start, |batch| batch.next);
        if last == found.end { Ok(()) } else { Err(format!("ends at {}, its last batch at {last}", found.end)) }
    }
}

struct Run {
    fs: SimFs,
    clock: std::sync::Arc<alluvium::clock::ManualClock>,
    config: LogConfig,
    rng: Rng,
    log: Option<PartitionLog>,
    promised: Promised,
    planned: u64,
}

fn config(seed: u64) -> LogConfig {
    LogConfig {
        segment_bytes: 700,
        index_interval_bytes: 100,
        zero_ahead_bytes: if seed.is_multiple_of(3) { 4096 } else { 0 },
        retention_ms: Some(20_000),
        retention_bytes: if seed.is_multiple_of(2) { Some(2000) } else { None },
        file_delete_delay_ms: 3000,
        on_damage: OnDamage::Refuse,
        ..LogConfig::default()
    }
}

/// A call failed: the machine is down.
struct Down;

impl Run {
    fn new(seed: u64) -> Self {
        let (fs, clock) = (SimFs::new(seed), new_clock());
        fs.follow_clock(std::sync::Arc::clone(&clock) as _);
        let rng = Rng::with_seed(seed);
        Self { fs, clock, config: config(seed), rng, log: None, promised: Promised::default(), planned: 0 }
    }

    /// Runs to the end, or to the crash.
    fn run(&mut self) -> Result<(), Down> {
        self.reopen()?;
        for _ in 0..OPERATIONS {
            self.step()?;
        }
        Ok(())
    }

    fn check<T, E: std::fmt::Display>(&self, outcome: Result<T, E>) -> Result<T, Down> {
        outcome.map_err(|e| {
            assert!(self.fs.is_crashed(), "{e}");
            Down
        })
    }

    fn log(&self) -> &PartitionLog {
        self.log.as_ref().expect("a log is open")
    }

    fn reopen(&mut self) -> Result<(), Down> {
        self.log = None;
        let log = self.check(open(&self.fs, &self.clock, &self.config))?;
        self.promised.judge(&log, Ending::Kill).expect("after an opening");
        self.promised.durable = log.durable_end().value();
        (self.promised.start, self.promised.start_max) = (log.log_start().value(), log.log_start().value());
        self.log = Some(log);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Down> {
        match self.rng.u8(0..20) {
            0..9 => self.append()?,
            9..11 => {
                let durable = self.check(self.log().flush())?;
                self.promised.durable = durable.value();
            }
            11..14 => {
                let to = self.rng.i64(self.promised.start..=self.promised.end);
                self.promised.start_max = to;
                let start = self.check(self.log().advance_log_start(offset(to)))?;
                assert_eq!(start.value(), to);
                self.promised.start = to;
            }
            14..16 => {
                self.promised.start_max = self.promised.end;
                let retained = self.check(self.log().enforce_retention())?;
                self.settle_start(retained.log_start.value());
            }
            16..18 => {
                self.clock.advance(Duration::from_millis(self.rng.u64(0..8000)));
                self.promised.start_max = self.promised.end;
                self.check(self.log().tick())?;
                self.settle_start(self.log().log_start().value());
            }
            18 => {
                self.check(self.log().close())?;
                self.promised.durable = self.promised.end;
                self.reopen()?;
            }
            _ => self.reopen()?,
        }
        Ok(())
    }

    fn settle_start(&mut self, start: i64) {
        assert!(start >= self.promised.start);
        (self.promised.start, self.promised.start_max) = (start, start);
    }

    fn append(&mut self) -> Result<(), Down> {
        use alluvium::clock::Clock;
        let count = self.rng.u64(1..4);
        let record = |n| RecordPlan { id: self.planned * 10 + n, value_bytes: 30, shift_ms: Some(0) };
        let plan = BatchPlan { records: (0..count).map(record).collect(), is_compressed: false };
        self.planned += 1;
        let now = self.clock.wall().value();
        let stored = plan.stored(now, self.promised.end, 3);
        self.promised.maybe = Some(stored.clone());
        let appended = self.log().append(plan.build(now), AppendAs::Client { epoch: epoch(3) });
        let appended = self.check(appended)?;
        assert_eq!(appended.base_offset().value(), stored.base, "an offset was given out twice, or skipped");
        self.promised.maybe = None;
        self.promised.end = stored.next;
        self.promised.batches.push(stored);
        if self.rng.bool() {
            self.check(appended.wait_durable(Deadline::NEVER))?;
            self.promised.durable = self.promised.end;
        }
        Ok(())
    }
}

/// Opens an image again and again, and lets retention and appends go on.
fn examine(image: &SimFs, run: &Run, ending: Ending) -> Result<(), String> {
    let clock = std::sync::Arc::clone(&run.clock);
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let log = open(image, &clock, &run.config).map_err(|e| text(&e))?;
    run.promised.judge(&log, ending)?;
    let marks = log.marks();
    let before = reading::contents(&log)?;
    drop(log);
    let log = open(image, &clock, &run.config).map_err(|e| text(&e))?;
    if reading::contents(&log)? != before {
        return Err("a second opening shows something else".to_owned());
    }
    log.enforce_retention().map_err(|e| text(&e))?;
    let plan = BatchPlan {
        records: vec![RecordPlan { id: u64::MAX, value_bytes: 9, shift_ms: Some(0) }],
        is_compressed: false,
    };
    let built = plan.build(alluvium::clock::Clock::wall(&*clock).value());
    let appended = log.append(built, AppendAs::Client { epoch: epoch(9) }).map_err(|e| text(&e))?;
    if appended.base_offset() != marks.log_end {
        return Err(format!("appended at {} to a log that ended at {}", appended.base_offset(), marks.log_end));
    }
    let grown = reading::contents(&log)?;
    log.close().map_err(|e| text(&e))?;
    let log = open(image, &clock, &run.config).map_err(|e| text(&e))?;
    if !log.recovery_report().was_clean || !log.recovery_report().is_ordinary() {
        return Err(format!("not clean after a close: {:?}", log.recovery_report().findings));
    }
    if reading::contents(&log)? == grown { Ok(()) } else { Err("a clean opening shows something else".to_owned()) }
}

#[test]
fn every_step_of_retention_is_a_crash_that_loses_nothing_past_the_log_start() {
    for seed in seeds(6) {
        let mut whole = Run::new(seed);
        assert!(whole.run().is_ok(), "seed {seed}: nothing was to crash");
        let deleted = whole.promised.start;
        whole.log = None;
        for step in 1..=whole.fs.steps() {
            let mut run = Run::new(seed);
            run.fs.crash_after(step);
            // The last call may not tell: what only tidies up is tried again, and is no error.
            let _ = run.run();
            assert!(run.fs.is_crashed(), "seed {seed} step {step}");
            run.log = None;
            for (name, ending, image) in images(&run.fs, step, RANDOM_IMAGES) {
                if let Err(what) = examine(&image, &run, ending) {
                    panic!("seed {seed} step {step} {name}: {what}\n{:?}", run.promised.start..run.promised.end);
                }
            }
        }
        println!("seed {seed}: {} steps, log start {deleted}", whole.fs.steps());
    }
}
