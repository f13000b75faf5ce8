//! Single rules of the cleaner, each as a story of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64 as Count;

use alluvium::fs::sim::SimFs;
use alluvium::record::{BatchBuilder, Compression};
use alluvium::{AppendAs, CleanError, CleanOptions, CleanupPolicy, LogConfig, OnDamage, ReadOptions, TimestampMs};

use super::{converge, examine};
use crate::support::batches::{epoch, offset};
use crate::support::clean::judge;
use crate::support::clean::script::{CleanOp, MEMORY, Script, Style, Write, Writes};
use crate::support::clean::story::Told;
use crate::support::clean::world::{CleanWorld, unlike_others};
use crate::support::runner::DIR;

/// Other threads have met what they are to meet long before.
const ROUNDS_MAX: u32 = 20_000;

const CLEAN: CleanOp = CleanOp::Clean { memory: MEMORY };

pub(super) fn config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes: 2000,
        index_interval_bytes: 150,
        zero_ahead_bytes: 0,
        delete_retention_ms: 1000,
        retention_ms: None,
        producer_id_expiration_ms: i64::MAX.unsigned_abs(),
        transaction_partition_verification_enable: false,
        on_damage: OnDamage::Quarantine,
        ..LogConfig::default()
    }
}

pub(super) struct Teller {
    pub(super) world: CleanWorld,
    written: u64,
}

impl Teller {
    pub(super) fn new(config: LogConfig) -> Self {
        let mut world = CleanWorld::new(SimFs::new(7), config);
        world.reopen().unwrap();
        Self { world, written: 0 }
    }

    fn writes(&mut self, changes: &[(u32, bool)]) -> Writes {
        let records = changes.iter().map(|(key, has_value)| {
            self.written += 1;
            Write { key: Some(*key), value: has_value.then_some((self.written, 5)), shift_ms: 0, has_header: false }
        });
        Writes { records: records.collect(), codec: Compression::None }
    }

    /// Keys with whether there is a value.
    pub(super) fn put(&mut self, changes: &[(u32, bool)]) {
        let writes = self.writes(changes);
        self.apply(&CleanOp::Put(writes));
    }

    fn produce(&mut self, producer: i64, is_transactional: bool, keys: &[u32]) {
        let writes = self.writes(&keys.iter().map(|key| (*key, true)).collect::<Vec<_>>());
        self.apply(&CleanOp::Produce { producer, is_transactional, is_new_epoch: false, writes });
    }

    fn end(&mut self, producer: i64, commit: bool) {
        self.apply(&CleanOp::End { producer, commit, is_new_epoch: false });
    }

    pub(super) fn apply(&mut self, op: &CleanOp) {
        self.world.apply(op).unwrap_or_else(|trouble| panic!("{op:?}: {trouble:?}"));
    }

    pub(super) fn roll(&mut self) {
        self.apply(&CleanOp::Roll);
    }

    fn pass_time(&mut self, ms: u64) {
        self.apply(&CleanOp::Tick { ms });
    }

    pub(super) fn clean(&mut self) -> Vec<Told> {
        self.apply(&CLEAN);
        self.world.found().unwrap()
    }

    fn offsets(&self) -> Vec<i64> {
        let found = self.world.found().unwrap();
        found.iter().flat_map(|batch| &batch.records).map(|record| record.offset).collect()
    }
}

/// A tombstone's clock is set once, however often it is looked at (rows 56 and 74).
#[test]
fn a_tombstone_stays_until_its_horizon_and_no_longer() {
    let mut teller = Teller::new(config());
    teller.put(&[(1, true), (2, true)]);
    teller.put(&[(1, false)]);
    teller.roll();
    for _ in 0..4 {
        teller.clean();
        assert_eq!(teller.offsets(), [1, 2], "the value goes, the tombstone stays");
        teller.pass_time(300);
    }
    // 1,200 ms after the first pass, with no word from anybody in between; the record of another key lives on.
    teller.clean();
    assert_eq!(teller.offsets(), [1], "passes in between do not move the horizon");
}

#[test]
fn a_value_after_a_tombstone_takes_its_place() {
    let mut teller = Teller::new(config());
    teller.put(&[(1, true)]);
    teller.put(&[(1, false)]);
    teller.put(&[(1, true)]);
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets(), [2]);
}

/// What was aborted never counts, and the committed value below it stays (row 73).
#[test]
fn what_was_aborted_supersedes_nothing() {
    let mut teller = Teller::new(config());
    teller.put(&[(1, true)]);
    teller.produce(12, true, &[1, 2]);
    teller.end(12, false);
    teller.put(&[(3, true)]);
    teller.roll();
    teller.clean();
    assert!(teller.offsets().starts_with(&[0]), "{:?}", teller.offsets());
    assert!(!teller.offsets().contains(&1), "{:?}", teller.offsets());
    examine(&teller.world).unwrap();
}

/// A user's key may look like a marker's, and neither is taken for the other (row 75).
#[test]
fn a_marker_has_no_key_whatever_its_bytes() {
    let mut teller = Teller::new(config());
    let log = teller.world.log.clone().unwrap();
    teller.produce(12, true, &[1]);
    teller.end(12, true);
    let put_control_keys = |world: &mut CleanWorld| {
        for kind in [0, 1] {
            let mut builder = BatchBuilder::new();
            builder.record(TimestampMs::new(world.now()), Some(&[0, 0, 0, kind]), Some(b"a user's"));
            let batch = builder.build().unwrap();
            let appended = log.append(batch, AppendAs::Client { epoch: epoch(world.leader_epoch) }).unwrap();
            let read = log.read(appended.base_offset(), &ReadOptions::default()).unwrap();
            Told::all(&read.read().unwrap()).unwrap().into_iter().for_each(|told| world.story.tell(told));
        }
    };
    put_control_keys(&mut teller.world);
    put_control_keys(&mut teller.world);
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets(), [0, 1, 4, 5], "the marker at 1, and the last of each of the user's keys");
}

/// Markers stay while anything of their transaction does, also when segments lie between (row 59).
#[test]
fn a_marker_outlives_the_data_of_its_transaction() {
    let mut teller = Teller::new(config());
    teller.produce(12, true, &[1, 2]);
    teller.roll();
    teller.put(&[(3, true)]);
    teller.roll();
    teller.end(12, true);
    teller.roll();
    teller.clean();
    teller.pass_time(5000);
    teller.clean();
    assert_eq!(teller.offsets(), [0, 1, 2, 3], "its data are the last of their keys");
    teller.put(&[(1, true), (2, true)]);
    teller.produce(12, false, &[4]);
    teller.roll();
    teller.clean();
    assert!(teller.offsets().contains(&3), "its clock begins when nothing is left: {:?}", teller.offsets());
    converge(&mut teller.world).unwrap();
    assert!(!teller.offsets().contains(&3), "{:?}", teller.offsets());
    examine(&teller.world).unwrap();
}

/// Of a producer whose every record is superseded the last batch stays, without records; what it says of offsets, times and
/// sequences holds, also without snapshots (row 57).
#[test]
fn an_empty_batch_keeps_what_its_producer_needs() {
    let mut teller = Teller::new(config());
    for _ in 0..3 {
        teller.produce(12, false, &[1, 2]);
    }
    teller.put(&[(1, true), (2, true)]);
    teller.put(&[(9, true)]);
    teller.roll();
    let found = teller.clean();
    assert_eq!(teller.offsets(), [6, 7, 8]);
    assert_eq!(found.iter().filter(|batch| batch.records.is_empty()).count(), 1, "{found:?}");
    teller.apply(&CleanOp::ForgetSnapshots);
    teller.apply(&CleanOp::Again { producer: 12 });
    teller.produce(12, false, &[3]);
    examine(&teller.world).unwrap();
}

/// An open transaction holds the cleaner back, and nothing below it.
#[test]
fn nothing_at_or_past_an_open_transaction_is_touched() {
    let mut teller = Teller::new(config());
    teller.put(&[(1, true), (1, true)]);
    teller.produce(12, true, &[2]);
    teller.put(&[(1, true), (2, true)]);
    teller.roll();
    teller.put(&[(1, true)]);
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets(), [1, 2, 3, 4, 5]);
    teller.end(12, true);
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets(), [4, 5, 6]);
}

/// A follower takes what a cleaned leader has, holes and horizons included, and cleans on from there.
#[test]
fn a_follower_of_a_cleaned_log_cleans_it_further() {
    for seed in 0..40 {
        let script = Script::from_seed(9000 + seed, 50, Style::Crashing);
        let mut leader = CleanWorld::new(SimFs::new(seed), script.config.clone());
        leader.run(&script).map_err(|(index, trouble)| format!("seed {seed}, {index}: {trouble:?}")).unwrap();
        leader.apply(&CLEAN).unwrap();
        let found = leader.found().unwrap();
        let Some(first) = found.first() else { continue };
        let mut follower = CleanWorld::new(SimFs::new(seed), script.config.clone());
        follower.reopen().unwrap();
        follower.clock.set_wall(leader.now());
        if first.facts.base > 0 {
            let log = follower.log().unwrap();
            log.truncate_fully_and_start_at(offset(first.facts.base)).unwrap();
            (follower.story.start, follower.story.end) = (first.facts.base, first.facts.base);
        }
        follower.leader_epoch = leader.leader_epoch;
        for batch in &found {
            follower.log().unwrap().append(batch.bytes.clone(), AppendAs::Follower).unwrap();
            follower.story.tell(batch.clone());
        }
        let mut run = || -> Result<(), String> {
            let text = |trouble| format!("{trouble:?}");
            follower.apply(&CleanOp::Roll).map_err(text)?;
            follower.apply(&CleanOp::Replicate { back: 0 }).map_err(text)?;
            follower.apply(&CLEAN).map_err(text)?;
            converge(&mut follower).map_err(text)?;
            examine(&follower)?;
            judge::has_converged(&follower.found().map_err(text)?, &follower.story)
        };
        run().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

fn log_path(base: i64) -> PathBuf {
    Path::new(DIR).join(format!("{base:020}.log"))
}

/// Damage stays as it is, byte for byte, what lies around it is cleaned, and what hides something in it stays (rows 50, 78).
#[test]
fn a_damaged_segment_is_cleaned_around_and_never_signed_anew() {
    let mut teller = Teller::new(config());
    teller.put(&[(1, true), (2, true)]);
    teller.put(&[(3, true), (4, true)]);
    teller.roll();
    teller.put(&[(1, true), (3, true)]);
    teller.put(&[(1, false)]);
    teller.roll();
    teller.put(&[(2, true), (3, true)]);
    teller.roll();
    teller.world.log().unwrap().flush().unwrap();
    // A bit of the value of the first record, in the first batch of the first segment.
    teller.world.fs.flip_bit(&log_path(0), 75, 3);
    let damaged = teller.world.fs.live_bytes(&log_path(0)).unwrap();
    let log = teller.world.log.clone().unwrap();
    for round in 0..4 {
        let cleaned = log.clean(&CleanOptions::default().with_memory(MEMORY)).unwrap();
        assert_eq!(cleaned.left_alone.len(), 1, "round {round}: {cleaned:?}");
        assert_eq!(cleaned.left_alone[0].base.value(), 0, "round {round}: {cleaned:?}");
        assert_eq!(teller.world.fs.live_bytes(&log_path(0)).unwrap(), damaged, "round {round}");
        teller.world.clock.advance(std::time::Duration::from_hours(1));
        log.tick().unwrap();
    }
    let refused = log.read(offset(0), &ReadOptions::default()).unwrap_err();
    assert!(matches!(&refused, alluvium::ReadError::Damaged(damage) if damage.offsets.end == offset(2)), "{refused:?}");
    let rest = log.read(offset(2), &ReadOptions::default()).unwrap();
    let rest: Vec<i64> =
        Told::all(&rest.read().unwrap()).unwrap().iter().flat_map(|b| &b.records).map(|r| r.offset).collect();
    // 2 and 3 lie in the damaged segment; the tombstone of key 1 at 6 hides what a repair would bring back.
    assert_eq!(rest, [2, 3, 6, 7, 8]);
}

/// Whoever reads goes on reading what was there when the fetch began.
#[test]
fn slices_show_what_they_showed_before_a_cleaning() {
    for mode in [alluvium::ReadMode::Positional, alluvium::ReadMode::Mapped] {
        let mut teller = Teller::new(LogConfig { read_mode: mode, ..config() });
        for round in 0..40 {
            teller.put(&[(round % 3, true), (7, true)]);
        }
        teller.roll();
        let log = teller.world.log.clone().unwrap();
        let held = log.read(offset(0), &ReadOptions::default()).unwrap();
        let before = held.read().unwrap();
        teller.clean();
        assert_eq!(held.read().unwrap(), before);
        drop(held);
        assert!(teller.offsets().len() < 6, "{:?}", teller.offsets());
    }
}

/// Offsets further apart than an index can tell never share a segment (row 21).
#[test]
fn neighbours_are_not_merged_over_two_to_the_31_offsets() {
    let mut teller = Teller::new(config());
    for _ in 0..3 {
        let writes = teller.writes(&[(1, true), (2, true)]);
        teller.apply(&CleanOp::Given { gap: (1 << 30) + 5, writes });
        teller.roll();
    }
    let writes = teller.writes(&[(1, true), (2, true)]);
    teller.apply(&CleanOp::Given { gap: (1 << 31) + 5, writes });
    teller.roll();
    teller.apply(&CLEAN);
    let files = teller.world.log().unwrap().segment_files();
    assert!(files.len() > 2, "{files:?}");
    let found = teller.world.found().unwrap();
    assert!(found.iter().flat_map(|batch| &batch.records).count() == 2, "{found:?}");
    teller.apply(&CleanOp::CloseAndOpen);
}

/// Small neighbours become one segment, and their files are gone.
#[test]
fn small_neighbours_are_merged() {
    let mut teller = Teller::new(LogConfig { file_delete_delay_ms: 0, ..config() });
    for round in 0..60 {
        teller.put(&[(round % 5, true), (7, true), (8, true)]);
    }
    teller.roll();
    let before = teller.world.log().unwrap().segment_files().len();
    // What they are merged by is known once they are small.
    teller.clean();
    teller.clean();
    let after = teller.world.log().unwrap().segment_files().len();
    assert!(before > 4 && after <= 3, "{before} segments became {after}");
    teller.pass_time(10);
    examine(&teller.world).unwrap();
    teller.apply(&CleanOp::CloseAndOpen);
}

/// Cutting off and starting anew forget how far the log was clean (rows 53 and 54).
#[test]
fn a_cut_below_what_was_cleaned_is_no_obstacle() {
    let mut teller = Teller::new(config());
    for round in 0..20 {
        teller.put(&[(round % 3, true), (5, true)]);
    }
    teller.roll();
    teller.clean();
    teller.apply(&CleanOp::TruncateCleaned { back: 15 });
    for round in 0..20 {
        teller.put(&[(round % 3, true), (5, true)]);
    }
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets().len(), 4, "{:?}", teller.offsets());
    let log = teller.world.log.clone().unwrap();
    log.truncate_fully_and_start_at(offset(3)).unwrap();
    let mut teller = Teller {
        world: teller.world.after(teller.world.fs.kill(), crate::support::history::Ending::Kill),
        written: 500,
    };
    drop(log);
    teller.world.story = crate::support::clean::story::Story {
        start: 3,
        end: 3,
        delete_retention_ms: 1000,
        ..crate::support::clean::story::Story::default()
    };
    teller.world.reopen().unwrap();
    for _ in 0..5 {
        teller.put(&[(1, true), (1, true)]);
    }
    teller.roll();
    teller.clean();
    assert_eq!(teller.offsets(), [12]);
}

/// A log start within the log is no obstacle either, whether above or below what was cleaned (row 53).
#[test]
fn a_raised_log_start_is_no_obstacle() {
    let mut teller = Teller::new(config());
    for round in 0..20 {
        teller.put(&[(round % 3, true), (5, true)]);
    }
    teller.roll();
    teller.clean();
    teller.put(&[(1, true), (2, true)]);
    teller.roll();
    teller.apply(&CleanOp::RaiseStart { back: 1 });
    teller.pass_time(100_000);
    teller.clean();
    assert_eq!(teller.offsets().last(), Some(&41));
    teller.apply(&unlike_others(1));
    teller.roll();
    teller.clean();
    examine(&teller.world).unwrap();
}

#[test]
fn a_log_that_is_not_compacted_is_not_cleaned() {
    let mut teller = Teller::new(LogConfig { cleanup_policy: CleanupPolicy::Delete, ..config() });
    teller.put(&[(1, true), (1, true)]);
    teller.roll();
    let refused = teller.world.log().unwrap().clean(&CleanOptions::default()).unwrap_err();
    assert!(matches!(refused, CleanError::NotCompacted), "{refused:?}");
}

/// Appends, reads and rolls go on in other threads while a log is cleaned over and over.
#[test]
fn a_log_is_written_and_read_while_it_is_cleaned() {
    let mut teller = Teller::new(LogConfig { segment_bytes: 4000, ..config() });
    let log = teller.world.log.clone().unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let (passes, reads) = (Count::new(0), Count::new(0));
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let (scanned, done) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(relaxed) {
                let cleaned = log.clean(&CleanOptions::default().with_memory(MEMORY)).unwrap();
                passes.fetch_add(u64::from(cleaned.passes), relaxed);
            }
        });
        scope.spawn(|| {
            while !is_over.load(relaxed) {
                let found = judge::everything(&log).unwrap();
                // A header alone may come to span what a read before it saw as batches of their own.
                let told: Vec<_> = found.iter().filter(|batch| !batch.records.is_empty()).collect();
                assert!(told.windows(2).all(|pair| pair[0].facts.next <= pair[1].facts.base));
                reads.fetch_add(1, relaxed);
                let _ = scanned.try_send(());
            }
        });
        teller.world.is_watchful = false;
        let mut rng = fastrand::Rng::with_seed(4);
        let has_met = || passes.load(relaxed) > 1 && reads.load(relaxed) > 1;
        let mut rounds = 0;
        while rounds < 1500 || !has_met() && rounds < ROUNDS_MAX {
            // On a busy machine the writer alone would outrun the others.
            if rounds >= 1500 {
                done.recv_timeout(std::time::Duration::from_mins(1)).unwrap();
            }
            teller.put(&[(rng.u32(..40), rng.u8(..5) > 0), (rng.u32(..40), true)]);
            rounds += 1;
        }
        is_over.store(true, relaxed);
        assert!(has_met(), "{passes:?} passes, {reads:?} scans");
    });
    teller.world.is_watchful = true;
    teller.roll();
    teller.clean();
    examine(&teller.world).unwrap();
}

/// What is compressed anew may take more than before, and no bound of a segment is broken (row 51).
#[test]
fn a_segment_that_grows_when_it_is_rewritten_is_no_trouble() {
    let mut teller = Teller::new(LogConfig { segment_bytes: 6000, ..config() });
    let log = teller.world.log.clone().unwrap();
    for round in 0..60_u8 {
        let mut builder = BatchBuilder::new();
        builder.compression(Compression::Zstd).compression_level(19);
        let now = TimestampMs::new(teller.world.now());
        builder.record(now, Some(b"the same in all"), Some(&[round]));
        for of in 0..12_u8 {
            let words: Vec<u8> = (0..60_u32).map(|at| (at * u32::from(of + round) / 7 % 11) as u8 + b'a').collect();
            builder.record(now, Some(&[round, of]), Some(&words));
        }
        let appended = log.append(builder.build().unwrap(), AppendAs::Client { epoch: epoch(3) }).unwrap();
        let read = log.read(appended.base_offset(), &ReadOptions { max_bytes: 1, ..ReadOptions::default() }).unwrap();
        Told::all(&read.read().unwrap()).unwrap().into_iter().for_each(|told| teller.world.story.tell(told));
    }
    teller.roll();
    teller.clean();
    for path in log.segment_files() {
        let bytes = teller.world.fs.live_bytes(&path).unwrap().len();
        assert!(bytes <= 8000, "{} has {bytes} bytes", path.display());
    }
    examine(&teller.world).unwrap();
    teller.apply(&CleanOp::CloseAndOpen);
}

/// The tail is cut off and written anew, over and over, while what lies below is cleaned (row 58).
#[test]
fn a_log_is_truncated_while_it_is_cleaned() {
    let config = LogConfig { segment_bytes: 1500, high_watermark: alluvium::HighWatermarkMode::Embedder, ..config() };
    let mut teller = Teller::new(config);
    let log = teller.world.log.clone().unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let passes = Count::new(0);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let (tried, done) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(relaxed) {
                match log.clean(&CleanOptions::default().with_memory(MEMORY)) {
                    Ok(cleaned) => drop(passes.fetch_add(u64::from(cleaned.passes), relaxed)),
                    Err(CleanError::Changed) => {}
                    Err(error) => panic!("{error}"),
                }
                let _ = tried.try_send(());
            }
        });
        teller.world.is_watchful = false;
        let mut rng = fastrand::Rng::with_seed(5);
        let mut round = 0;
        while round < 600 || passes.load(relaxed) < 2 && round < ROUNDS_MAX {
            round += 1;
            // On a busy machine the cleaner would be overtaken for ever.
            if round > 600 {
                done.recv_timeout(std::time::Duration::from_mins(1)).unwrap();
            }
            teller.put(&[(rng.u32(..20), rng.u8(..5) > 0), (rng.u32(..20), true)]);
            if round % 3 == 0 {
                teller.apply(&CleanOp::Truncate { back: rng.i64(0..30) });
            }
            teller.apply(&CleanOp::Replicate { back: rng.i64(0..40) });
        }
        is_over.store(true, relaxed);
        assert!(passes.load(relaxed) > 1, "every pass was overtaken by a truncation");
    });
    // What the other thread cleaned lies below the high watermark, which no truncation went below.
    let (at, upper) = (teller.world.now(), teller.world.high_watermark);
    teller.world.story.cleanings.push(crate::support::clean::story::Cleaning { at, by: at, upper, is_done: false });
    teller.world.is_watchful = true;
    teller.world.judge().unwrap();
    teller.roll();
    teller.apply(&CleanOp::Replicate { back: 0 });
    teller.clean();
    examine(&teller.world).unwrap();
    teller.apply(&CleanOp::CloseAndOpen);
}
