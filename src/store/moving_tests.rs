//! Moves on the simulator: every I/O step a crash point and a place for the disk to fail, with appends, cuts and deletions
//! in between, held against a plain list of what was acknowledged.

use std::fmt::Write as _;
use std::sync::Arc;

use fastrand::Rng;

use super::super::moving_recovery::{MoveReport, recover_moves};
use super::*;
use crate::clock::ManualClock;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use crate::record::BatchBuilder;
use crate::units::{LeaderEpoch, ProducerEpoch, ProducerId, Sequence, TimestampMs};

const HERE: &str = "/a";
const THERE: &str = "/b";

fn seeds(few: u64) -> u64 {
    std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0).unwrap()
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 600, index_interval_bytes: 100, ..LogConfig::default() }
}

fn environment(fs: &SimFs) -> Environment {
    Environment { fs: Arc::new(fs.clone()), clock: Arc::new(ManualClock::at(1_700_000_000_000)) }
}

fn world(seed: u64) -> SimFs {
    let fs = SimFs::new(seed);
    for dir in [HERE, THERE] {
        fs.create_dir(Path::new(dir)).unwrap();
    }
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn open_in(fs: &SimFs, data_dir: &str) -> Result<PartitionLog, OpenError> {
    environment(fs).open(Path::new(data_dir).join("orders-0"), config())
}

/// Base offset and bytes of each batch that can be read.
type Contents = Vec<(i64, Vec<u8>)>;

fn contents(log: &PartitionLog) -> Contents {
    try_contents(log).unwrap()
}

fn try_contents(log: &PartitionLog) -> Result<Contents, String> {
    let mut found = Vec::new();
    let mut at = log.log_start();
    while at < log.log_end() {
        let fetched = log.read(at, &ReadOptions::default()).map_err(|e| e.to_string())?;
        let batches = fetched.batches().map_err(|e| e.to_string())?;
        for batch in batches.iter() {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            found.push((batch.header().base_offset.value(), batch.bytes().to_vec()));
        }
        let next = fetched.next_offset().map_err(|e| e.to_string())?;
        assert!(next > at);
        at = next;
    }
    Ok(found)
}

/// What was promised of a partition.
#[derive(Clone, Debug, Default)]
struct Promised {
    /// Acknowledged batches, by base offset, with the offset behind each.
    batches: Vec<(i64, i64, Vec<u8>)>,
    start: i64,
    /// Below it everything is durable.
    durable: i64,
    /// Tried, and not answered.
    maybe: Option<(i64, i64, Vec<u8>)>,
    /// A cut and a deletion that were tried, and not answered.
    maybe_cut: Option<i64>,
    maybe_start: Option<i64>,
}

impl Promised {
    fn end(&self) -> i64 {
        self.batches.last().map_or(self.start, |(_, next, _)| *next)
    }

    /// Holds what was found to it; `is_kill`: what is cached is there, too.
    fn judge(&self, log: &PartitionLog, is_kill: bool) -> Result<(), String> {
        let (start, end) = (log.log_start().value(), log.log_end().value());
        if start != self.start && Some(start) != self.maybe_start {
            return Err(format!("begins at {start}, not at {}", self.start));
        }
        let floor = if is_kill { self.end() } else { self.durable };
        let floor = self.maybe_cut.map_or(floor, |cut| floor.min(cut));
        if end < floor {
            return Err(format!("ends at {end}, promised was {floor}"));
        }
        let known = self.batches.iter().chain(&self.maybe).filter(|(_, next, _)| *next > start);
        let mut known = known.map(|(base, _, bytes)| (*base, bytes));
        for (base, bytes) in contents(log) {
            if known.next() != Some((base, &bytes)) {
                return Err(format!("the batch at {base} is not the one that was written there"));
            }
        }
        Ok(())
    }
}

/// One run: a partition, a move, and what goes on meanwhile.
struct Run {
    fs: SimFs,
    rng: Rng,
    log: PartitionLog,
    promised: Promised,
    planned: i32,
}

/// How a run ended.
enum Ended {
    /// It came to its end; the partition is there or here.
    Moved,
    Cancelled,
    /// A call failed.
    Failed(String),
}

impl Run {
    /// A partition with some batches in several segments, all of it durable.
    fn begin(seed: u64) -> Self {
        let fs = world(seed);
        let log = open_in(&fs, HERE).unwrap();
        claim_topic_id(&fs, log.dir(), crate::store::TopicId::from_random(5)).unwrap();
        let (rng, promised) = (Rng::with_seed(seed), Promised::default());
        let mut run = Self { fs, rng, log, promised, planned: 0 };
        for _ in 0..run.rng.usize(1..14) {
            run.append().unwrap();
        }
        if run.rng.bool() {
            run.log.fence(7).unwrap();
        }
        run.flush().unwrap();
        if run.rng.bool() {
            run.delete_some().unwrap();
        }
        run
    }

    fn batch(&mut self) -> Vec<u8> {
        // One record a batch, so that the producer counts as the offsets do, also after a cut.
        let sequence = i32::try_from(self.promised.end()).unwrap();
        self.planned += 1;
        let mut builder = BatchBuilder::new();
        let (id, epoch) = (ProducerId::new(9).unwrap(), ProducerEpoch::new(0).unwrap());
        builder.producer(id, epoch, Sequence::new(sequence));
        let mut value = self.planned.to_be_bytes().to_vec();
        value.resize(self.rng.usize(20..150), b'v');
        builder.record(TimestampMs::new(1_700_000_000_000), Some(b"k"), Some(&value));
        builder.build().unwrap().into_bytes()
    }

    fn append(&mut self) -> Result<(), String> {
        let sent = self.batch();
        let mut bytes = sent.clone();
        let base = self.promised.end();
        crate::record::stamp(&mut bytes, offset(base), LeaderEpoch::new(1));
        self.promised.maybe = Some((base, base + 1, bytes.clone()));
        let options = crate::log::AppendOptions::new(AppendAs::Client { epoch: LeaderEpoch::new(1).unwrap() });
        let options = self.log.fencing_token().map_or(options, |token| options.fenced_by(token));
        let appended = self.log.append(sent, options).map_err(|e| e.to_string());
        if appended.is_err() && !self.fs.is_crashed() {
            self.promised.maybe = None;
        }
        assert_eq!(appended?.base_offset().value(), base);
        let done = self.promised.maybe.take().unwrap();
        self.promised.batches.push(done);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        self.promised.durable = self.log.flush().map_err(|e| e.to_string())?.value();
        Ok(())
    }

    fn cut(&mut self) -> Result<(), String> {
        let end = self.promised.end();
        let to = self.rng.i64(self.promised.start.max(end - 6)..=end);
        self.promised.maybe_cut = Some(to);
        self.log.truncate_to(offset(to)).map_err(|e| e.to_string())?;
        self.promised.maybe_cut = None;
        self.promised.batches.retain(|(_, next, _)| *next <= to);
        self.promised.durable = self.promised.durable.min(to);
        Ok(())
    }

    fn delete_some(&mut self) -> Result<(), String> {
        let to = self.rng.i64(self.promised.start..=self.promised.end());
        self.promised.maybe_start = Some(to);
        let start = self.log.advance_log_start(offset(to)).map_err(|e| e.to_string())?;
        self.log.enforce_retention().map_err(|e| e.to_string())?;
        self.promised.start = start.value();
        self.promised.maybe_start = None;
        if self.promised.batches.last().is_none_or(|(_, next, _)| *next <= to) {
            self.promised.durable = self.promised.durable.max(to);
        }
        Ok(())
    }

    fn meanwhile(&mut self) -> Result<(), String> {
        match self.rng.u8(0..12) {
            0..6 => self.append(),
            6..8 => self.flush(),
            8 => self.cut(),
            9 => self.delete_some(),
            10 => self.log.roll().map(drop).map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }

    fn run(&mut self) -> Ended {
        match self.go() {
            Ok(true) => Ended::Moved,
            Ok(false) => Ended::Cancelled,
            Err(what) => Ended::Failed(what),
        }
    }

    fn go(&mut self) -> Result<bool, String> {
        let text = |e: MoveError| e.to_string();
        let (environment, id) = (environment(&self.fs), UniqueId::from_random(self.rng.u128(..)));
        let mut moving = Move::begin(self.log.clone(), &environment, Path::new(THERE), &orders(), id).map_err(text)?;
        for _ in 0..self.rng.usize(1..8) {
            moving.step(self.rng.u64(1..500)).map_err(text)?;
            self.meanwhile()?;
        }
        if self.rng.u8(0..5) == 0 {
            moving.cancel().map_err(|e| e.to_string())?;
            self.append()?;
            return Ok(false);
        }
        let producers = self.log.producers();
        let before = try_contents(&self.log)?;
        let (token, marks) = (self.log.fencing_token(), self.log.marks());
        let moved = moving.finish().map_err(text)?;
        self.promised.durable = self.promised.end();
        assert!(self.log.health().is_closed);
        assert_eq!((moved.retired.parent(), moved.dir.as_path()), (Some(Path::new(HERE)), Path::new("/b/orders-0")));
        self.log = moved.log.map_err(|e| e.to_string())?;
        assert_eq!(self.log.dir(), Path::new("/b/orders-0"));
        assert!(self.log.recovery_report().was_clean);
        assert_eq!(try_contents(&self.log)?, before);
        assert_eq!((self.log.fencing_token(), self.log.producers()), (token, producers));
        let now = self.log.marks();
        assert_eq!(
            (now.log_start, now.high_watermark, now.log_end),
            (marks.log_start, marks.high_watermark, marks.log_end)
        );
        assert!(read_topic_id(&self.fs, self.log.dir()).map_err(|e| e.to_string())?.is_some());
        self.append()?;
        self.flush()?;
        Ok(true)
    }
}

fn recover(fs: &SimFs) -> MoveReport {
    let report = recover_moves(fs, &[Some(Path::new(HERE)), Some(Path::new(THERE))]);
    assert!(report.offline.is_empty(), "{report:?}");
    report
}

/// Opens the partition wherever it is to be served from.
fn reopen(fs: &SimFs) -> Result<PartitionLog, String> {
    let report = recover(fs);
    let failed: Vec<_> = report.partitions.iter().flat_map(|partition| &partition.failed).collect();
    if !failed.is_empty() {
        return Err(format!("{failed:?}"));
    }
    let live: Vec<&str> =
        [HERE, THERE].into_iter().filter(|dir| fs.list(&Path::new(dir).join("orders-0")).is_ok()).collect();
    let [dir] = live[..] else { return Err(format!("it is in {live:?}: {report:?}")) };
    let again = recover(fs);
    if !again.partitions.is_empty() {
        return Err(format!("a second look finds {again:?}"));
    }
    let futures = [HERE, THERE].into_iter().flat_map(|dir| fs.list(Path::new(dir)).unwrap());
    let mut left = String::new();
    for entry in futures.filter(|entry| entry.name.ends_with("-future")) {
        let _ = write!(left, " {}", entry.name);
    }
    if !left.is_empty() {
        return Err(format!("left:{left}"));
    }
    open_in(fs, dir).map_err(|e| e.to_string())
}

fn images(fs: &SimFs, step: u64) -> Vec<(String, bool, SimFs)> {
    let mut images = vec![("kill".to_owned(), true, fs.kill())];
    let random = (0..4).map(|n| Survival::Random(step * 100 + n));
    for survival in [Survival::Nothing, Survival::Everything].into_iter().chain(random) {
        images.push((format!("{survival:?}"), false, fs.power_loss_keeping(survival)));
    }
    images
}

fn examine(run: &Run, image: &SimFs, is_kill: bool) -> Result<(), String> {
    let log = reopen(image)?;
    run.promised.judge(&log, is_kill)?;
    let before = contents(&log);
    drop(log);
    // And a power loss right after it changes nothing.
    let later = image.power_loss_keeping(Survival::Nothing);
    let log = reopen(&later)?;
    if contents(&log) == before { Ok(()) } else { Err("a second opening shows something else".to_owned()) }
}

#[test]
fn a_crash_at_any_step_leaves_one_copy_with_everything_that_was_acknowledged() {
    let (mut moved, mut cancelled) = (0, 0);
    for seed in 0..seeds(4) {
        let mut whole = Run::begin(seed);
        let first = whole.fs.steps() + 1;
        match whole.run() {
            Ended::Moved => moved += 1,
            Ended::Cancelled => cancelled += 1,
            Ended::Failed(what) => panic!("seed {seed}: {what}"),
        }
        for step in first..=whole.fs.steps() {
            let mut run = Run::begin(seed);
            run.fs.crash_after(step);
            let _ = run.run();
            assert!(run.fs.is_crashed(), "seed {seed} step {step}");
            for (name, is_kill, image) in images(&run.fs, step) {
                if let Err(what) = examine(&run, &image, is_kill) {
                    panic!("seed {seed} step {step} {name}: {what}");
                }
            }
        }
    }
    assert!(moved > 0 && cancelled > 0, "{moved} moved, {cancelled} cancelled");
}

#[test]
fn a_crash_while_recovering_is_recovered_from() {
    for seed in 0..seeds(2) {
        let whole_steps = {
            let mut whole = Run::begin(seed);
            let first = whole.fs.steps() + 1;
            let _ = whole.run();
            first..=whole.fs.steps()
        };
        // The first steps make the copy; what is left of it is cleared up by one rename.
        for step in whole_steps.rev().take(45) {
            let mut run = Run::begin(seed);
            run.fs.crash_after(step);
            let _ = run.run();
            for (name, is_kill, image) in images(&run.fs, step).into_iter().take(3) {
                let whole = image.kill();
                recover(&whole);
                for again in 1..=whole.steps() {
                    let crashed = image.kill();
                    crashed.crash_after(again);
                    let _ = recover_moves(&crashed, &[Some(Path::new(HERE)), Some(Path::new(THERE))]);
                    for (second, second_kill, image) in images(&crashed, again).into_iter().take(3) {
                        // What was cached is gone with the second power loss, if not with the first.
                        if let Err(what) = examine(&run, &image, is_kill && second_kill) {
                            panic!("seed {seed} step {step} {name}, then {again} {second}: {what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_failure_at_any_step_loses_nothing_that_was_acknowledged() {
    const OPERATIONS: [FaultOn; 10] = [
        FaultOn::Open,
        FaultOn::Create,
        FaultOn::Write,
        FaultOn::SyncData,
        FaultOn::Rename,
        FaultOn::Remove,
        FaultOn::SyncDir,
        FaultOn::Metadata,
        FaultOn::Read,
        FaultOn::List,
    ];
    for seed in 0..seeds(1) {
        for operation in OPERATIONS {
            for error in [Errno::Eio, Errno::Enospc] {
                let mut passed = 0;
                for skip in 0.. {
                    let mut run = Run::begin(seed);
                    // A second failure hits what is done about the first.
                    let fault = Fault::new(operation, Effect::Error(error)).skip(skip).times(1 + skip % 2);
                    run.fs.inject(fault.clone());
                    let ended = run.run();
                    let Ended::Failed(what) = ended else {
                        // What only tidies up is no failure of the move. Past the end nothing strikes any more.
                        passed += 1;
                        if passed > 8 {
                            break;
                        }
                        continue;
                    };
                    run.fs.clear_faults();
                    let label = format!("seed {seed} {operation:?} {error:?} after {skip}: {what}");
                    // The log that failed is let go of, and what a failed sync threw away is gone.
                    let promised = run.promised.clone();
                    let is_cached_safe = operation != FaultOn::SyncData && operation != FaultOn::SyncDir;
                    let world = run.fs.kill();
                    let log = reopen(&world).unwrap_or_else(|e| panic!("{label}: {e}"));
                    promised.judge(&log, is_cached_safe).unwrap_or_else(|e| panic!("{label}, kill: {e}"));
                    let world = run.fs.power_loss_keeping(Survival::Nothing);
                    let log = reopen(&world).unwrap_or_else(|e| panic!("{label}: {e}"));
                    promised.judge(&log, false).unwrap_or_else(|e| panic!("{label}, power loss: {e}"));
                }
            }
        }
    }
}

/// Batches as a leader sent them, at these offsets, one record each.
fn follow(log: &PartitionLog, offsets: &[i64]) {
    for base in offsets {
        let mut builder = BatchBuilder::new();
        let value = [7; 60];
        let batch = builder.record(TimestampMs::new(1_700_000_000_000), Some(b"k"), Some(&value)).build().unwrap();
        let mut bytes = batch.into_bytes();
        crate::record::stamp(&mut bytes, offset(*base), LeaderEpoch::new(1));
        log.append(bytes, AppendAs::Follower).unwrap();
    }
}

fn begin(fs: &SimFs, log: &PartitionLog) -> Result<Move, MoveError> {
    Move::begin(log.clone(), &environment(fs), Path::new(THERE), &orders(), UniqueId::from_random(1))
}

#[test]
fn what_cleaning_left_of_the_offsets_stays() {
    let fs = world(1);
    let compacted = LogConfig { cleanup_policy: crate::config::CleanupPolicy::Compact, ..config() };
    let log = environment(&fs).open("/a/orders-0", compacted).unwrap();
    follow(&log, &[0, 1, 5, 6, 900, 2_147_483_900, 2_147_483_901, 9_000_000_000, 9_000_000_001]);
    let before = contents(&log);
    let mut moving = begin(&fs, &log).unwrap();
    while !moving.step(100).unwrap().is_caught_up {}
    follow(&log, &[20_000_000_000]);
    let moved = moving.finish().unwrap().log.unwrap();
    assert_eq!(contents(&moved)[..before.len()], before);
    assert_eq!((moved.log_end(), moved.leader_epochs()), (offset(20_000_000_001), log.leader_epochs()));
}

#[test]
fn a_partition_that_starts_anew_is_copied_anew() {
    for (to, seed) in [(3, 1), (20, 2), (500, 3)] {
        let fs = world(seed);
        let log = open_in(&fs, HERE).unwrap();
        log.truncate_fully_and_start_at(offset(10)).unwrap();
        follow(&log, &(10..40).collect::<Vec<_>>());
        let mut moving = begin(&fs, &log).unwrap();
        moving.step(2000).unwrap();
        log.truncate_fully_and_start_at(offset(to)).unwrap();
        follow(&log, &(to..to + 15).collect::<Vec<_>>());
        let before = contents(&log);
        assert!(moving.step(u64::MAX).unwrap().is_caught_up);
        let moved = moving.finish().unwrap().log.unwrap();
        assert_eq!((contents(&moved), moved.log_start()), (before, offset(to)));
    }
}

#[test]
fn batches_that_are_larger_than_segments_are_now_are_copied() {
    let fs = world(1);
    let log = open_in(&fs, HERE).unwrap();
    follow(&log, &[0, 1, 2]);
    log.update_config(LogConfig { segment_bytes: 50, ..config() }).unwrap();
    let before = contents(&log);
    let mut moving = begin(&fs, &log).unwrap();
    while !moving.step(1).unwrap().is_caught_up {}
    let moved = moving.finish().unwrap().log.unwrap();
    assert_eq!(contents(&moved), before);
    assert_eq!(moved.config().segment_bytes, 50);
}

#[test]
fn damage_is_not_copied_and_nothing_else_takes_its_place() {
    let fs = world(1);
    let log = open_in(&fs, HERE).unwrap();
    follow(&log, &(0..30).collect::<Vec<_>>());
    log.flush().unwrap();
    fs.flip_bit(&log.segment_files()[1], 90, 3);
    let mut moving = begin(&fs, &log).unwrap();
    let refused = loop {
        match moving.step(300) {
            Ok(progress) => assert!(!progress.is_caught_up),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, MoveError::Invalid { .. } | MoveError::Damaged { .. }), "{refused}");
    assert!(matches!(moving.finish(), Err(MoveError::Invalid { .. } | MoveError::Damaged { .. })));
    assert_eq!(log.log_end(), offset(30));
    follow(&log, &[30]);
    assert!(fs.list(Path::new(THERE)).unwrap().is_empty());
}

#[test]
fn what_is_there_already_is_refused() {
    let fs = world(1);
    let log = open_in(&fs, HERE).unwrap();
    let moving = begin(&fs, &log).unwrap();
    assert!(matches!(begin(&fs, &log).err(), Some(MoveError::Exists { .. })));
    moving.cancel().unwrap();
    let same = Move::begin(log.clone(), &environment(&fs), Path::new(HERE), &orders(), UniqueId::from_random(2));
    assert!(matches!(same.err(), Some(MoveError::SameDirectory { .. })));
    log.close().unwrap();
    assert!(begin(&fs, &log).is_err());
    assert!(fs.list(Path::new(THERE)).unwrap().is_empty());
}

/// Whoever appends while the switch is made is told that the log is closed, and nothing of it is in either copy; whoever was
/// answered before finds the records in the new place.
#[test]
fn appends_go_on_up_to_the_switch_and_none_is_lost() {
    let fs = world(1);
    let log = open_in(&fs, HERE).unwrap();
    let mut moving = begin(&fs, &log).unwrap();
    let appender = {
        let log = log.clone();
        std::thread::spawn(move || {
            let mut acknowledged = 0;
            loop {
                let batch = BatchBuilder::new().record(TimestampMs::new(1), None, Some(b"v")).build().unwrap();
                match log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(1).unwrap() }) {
                    Ok(appended) => acknowledged = appended.end().value(),
                    Err(AppendError::Closed) => return acknowledged,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    };
    for _ in 0..20 {
        moving.step(4000).unwrap();
    }
    let moved = moving.finish().unwrap().log.unwrap();
    assert_eq!(appender.join().unwrap(), moved.log_end().value());
    assert!(log.close().is_ok());
}
