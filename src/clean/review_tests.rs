//! What a hostile reader tried: passes that meet another log, other settings or less memory than they were begun with.

use super::*;
use crate::config::HighWatermarkMode;

fn wall(world: &World) -> TimestampMs {
    world.clock.wall()
}

fn put(world: &World, key: &str, value: Option<&str>) {
    put_by(world, key, value, None);
}

/// One record in a batch of its own, of a producer and with a sequence where they are given.
fn put_by(world: &World, key: &str, value: Option<&str>, producer: Option<(i64, i32)>) {
    let mut builder = BatchBuilder::new();
    builder.record(wall(world), Some(key.as_bytes()), value.map(str::as_bytes));
    if let Some((producer, sequence)) = producer {
        builder.producer(ProducerId::new(producer).unwrap(), ProducerEpoch::new(0).unwrap(), Sequence::new(sequence));
    }
    world.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
}

fn seal(world: &World) {
    world.log.roll().unwrap();
    world.log.flush().unwrap();
}

/// Offsets of the records of `key`, in the files.
fn offsets_of(world: &World, key: &str) -> Vec<i64> {
    let found = world.found().into_iter();
    found.filter(|(_, record)| record.key.as_deref() == Some(key.as_bytes())).map(|(offset, _)| offset).collect()
}

#[test]
fn a_pass_may_end_below_what_is_clean() {
    let mut world = World::new(3, 10);
    world.fill(100);
    world.settle();
    let upper = world.log.clean(&CleanOptions::default()).unwrap().upper;
    for to in [0, 1, upper.value() / 2, upper.value() - 1] {
        let again = world.log.clean(&CleanOptions::default().up_to(offset(to))).unwrap();
        assert_eq!(again.upper, upper, "to {to}");
        assert_eq!(world.log.clean_state().first_dirty, upper);
    }
    world.check(upper);
}

/// A pass does not reach further than it is told, even when the one that was interrupted was to.
#[test]
fn an_interrupted_pass_is_not_gone_on_with_past_what_may_be_cleaned() {
    let mut world = World::new(4, 10);
    world.fill(100);
    world.settle();
    let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
    while world.log.clean_state().pass.is_none() {
        assert!(pass.step(1_000).unwrap().finished.is_none());
    }
    drop(pass);
    let to = offset(world.log.log_end().value() / 2);
    let cleaned = world.log.clean(&CleanOptions::default().up_to(to)).unwrap();
    assert_eq!((cleaned.upper, cleaned.resumed), (to, false));
    assert_eq!(world.log.clean_state().first_dirty, to);
}

/// With as little memory the keys fit up to an offset that is done already. It said that the log changed, for ever.
#[test]
fn an_interrupted_pass_goes_on_with_less_memory() {
    let world = many_keys(2);
    let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
    let most = offset(world.log.log_end().value() * 9 / 10);
    while world.log.clean_state().pass.is_none_or(|pass| pass.done_to < most) {
        assert!(pass.step(10_000).unwrap().finished.is_none(), "too late");
    }
    drop(pass);
    let mut cleaned = pass_by_steps(&world.log, &least_memory().with_spill(0), 1 << 20).unwrap().unwrap();
    assert!(cleaned.resumed && cleaned.mode == CleanMode::Partial && cleaned.upper >= most, "{cleaned:?}");
    for _ in 0..100 {
        if cleaned.upper == world.log.log_end() {
            break;
        }
        cleaned = pass_by_steps(&world.log, &least_memory().with_spill(0), 1 << 20).unwrap().unwrap();
    }
    assert_eq!(cleaned.upper, world.log.log_end());
    world.check(cleaned.upper);
}

/// A batch keeps its horizon when its tombstones are gone, and that is no reason to clean again.
#[test]
fn a_horizon_that_has_passed_is_not_told_as_one_to_come() {
    let world = World::new(1, 1);
    let mut builder = BatchBuilder::new();
    builder.record(wall(&world), Some(b"gone"), None);
    builder.record(wall(&world), Some(b"there"), Some(b"v"));
    world.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
    seal(&world);
    let first = world.log.clean(&CleanOptions::default()).unwrap();
    assert!(first.next_horizon.is_some());
    world.clock.advance(Duration::from_millis(RETENTION_MS));
    let second = world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!((second.tombstones_removed, second.next_horizon), (1, None));
    assert_eq!(offsets_of(&world, "there"), [1]);
}

/// Damages the only batch of the first segment, and returns its file, the batch, and what it was left as.
fn damage_first(world: &World) -> (Vec<u8>, std::ops::Range<Offset>) {
    let first = world.log.segment_files()[0].clone();
    let bytes = world.fs.live_bytes(&first).unwrap();
    world.fs.flip_bit(&first, bytes.len() as u64 - 2, 3);
    let cleaned = world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(cleaned.left_alone.len(), 1, "{cleaned:?}");
    (bytes, cleaned.left_alone[0].damaged.clone())
}

/// The tombstone lies in the clean head when the value below it comes back.
#[test]
fn a_value_that_a_repair_brings_back_is_deleted_still() {
    let world = World::new(1, 1);
    put(&world, "deleted", Some("v"));
    seal(&world);
    put(&world, "deleted", None);
    put(&world, "other", Some("v"));
    seal(&world);
    let (bytes, damaged) = damage_first(&world);
    world.clock.advance(Duration::from_millis(RETENTION_MS));
    assert_eq!(world.log.clean(&CleanOptions::default()).unwrap().tombstones_removed, 0, "it may hide something");
    assert_eq!(world.log.clean_state().first_dirty, offset(3));
    world.log.repair(damaged, bytes).unwrap();
    assert_eq!(world.log.clean_state().first_dirty, Offset::ZERO);
    for _ in 0..2 {
        world.log.clean(&CleanOptions::default()).unwrap();
        let left = offsets_of(&world, "deleted");
        assert!(left.is_empty() || left == [1], "the tombstone goes after the value: {left:?}");
    }
    assert_eq!(offsets_of(&world, "other"), [2]);
    assert!(!offsets_of(&world, "deleted").contains(&0));
}

/// A pass that learned without the records of a hole must not say that they are clean.
#[test]
fn a_pass_does_not_outlive_a_repair_in_its_range() {
    let world = World::new(1, 1);
    put(&world, "deleted", Some("v"));
    seal(&world);
    put(&world, "deleted", None);
    seal(&world);
    let (bytes, damaged) = damage_first(&world);
    put(&world, "other", Some("v"));
    seal(&world);
    let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
    while pass.progress().phase != Phase::Rewriting {
        pass.step(1).unwrap();
    }
    assert!(world.log.clean_state().pass.is_some());
    world.log.repair(damaged, bytes).unwrap();
    assert_eq!((world.log.clean_state().first_dirty, world.log.clean_state().pass), (Offset::ZERO, None));
    let ended = loop {
        match pass.step(1 << 20) {
            Ok(step) => assert!(step.finished.is_none()),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, CleanError::Changed), "{ended}");
    drop(pass);
    world.log.clean(&CleanOptions::default()).unwrap();
    assert!(!offsets_of(&world, "deleted").contains(&0));
}

/// Producers' last data offsets are taken when the pass begins. A cut past its end moves one of them below it, and the
/// header that holds the last sequence then would be dropped.
#[test]
fn a_cut_past_the_end_of_a_pass_keeps_the_last_sequence_that_is_left() {
    let world = World::new(1, 1);
    put_by(&world, "key", Some("1"), Some((7, 0)));
    put(&world, "key", Some("2"));
    seal(&world);
    put_by(&world, "key", Some("3"), Some((7, 1)));
    world.log.flush().unwrap();
    let Begun::Pass(mut pass) = Pass::begin(&world.log, &CleanOptions::default()).unwrap() else { panic!() };
    while pass.progress().phase != Phase::Rewriting {
        pass.step(1).unwrap();
    }
    world.log.truncate_to(offset(2)).unwrap();
    let ended = loop {
        match pass.step(1 << 20) {
            Ok(step) if step.finished.is_some() => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    assert!(matches!(ended, Err(CleanError::Changed)), "{ended:?}");
    drop(pass);
    assert!(world.aside().is_empty());
    world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(offsets_of(&world, "key"), [1]);
    let bytes = world.fs.live_bytes(&world.log.segment_files()[0]).unwrap();
    let sequences: Vec<_> = batches(&bytes, u32::MAX).map(|batch| batch.unwrap().header().producer_id).collect();
    assert!(sequences.contains(&ProducerId::new(7)), "{sequences:?}");
}

/// What the planner calls due, a pass has to find something to do for, or the log would be due again at once and again.
#[test]
fn a_sealed_segment_past_the_high_watermark_makes_no_log_due() {
    let config = LogConfig { high_watermark: HighWatermarkMode::Embedder, ..compacted() };
    let world = World::with(1, 1, config);
    for _ in 0..4 {
        put(&world, "key", Some("v"));
    }
    seal(&world);
    let is_due = |world: &World| {
        let view = world.log.cleanable().unwrap();
        let segments = segment_facts(&view, wall(world)).unwrap();
        plan::judge(&log_facts_when_flushed(&view, &segments, None), &view.config, wall(world)).is_due()
    };
    for mark in 0..=4 {
        world.log.advance_high_watermark(offset(mark)).unwrap();
        let is_due = is_due(&world);
        assert_eq!(is_due, mark == 4, "{mark}");
        let before = world.log.clean_state().first_dirty;
        let once = CleanOptions { cleans_clean: false, ..CleanOptions::default() };
        let cleaned = world.log.clean(&once).unwrap();
        assert_eq!(cleaned.upper > before, is_due, "{mark}: {cleaned:?}");
    }
}

/// A batch that expands past the limit is kept. When the limit is raised it can be read, and what is deleted above it, in
/// the clean part, hides what it holds.
#[test]
fn a_value_that_a_higher_limit_brings_back_is_deleted_still() {
    let mut world = World::new(1, 1);
    let mut builder = BatchBuilder::new();
    builder.compression(Compression::Lz4).record(wall(&world), Some(b"deleted"), Some(&[b'v'; 3000]));
    world.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
    seal(&world);
    put(&world, "deleted", None);
    put(&world, "other", Some("v"));
    seal(&world);
    world.log.update_config(LogConfig { max_decompressed_bytes: 1024, ..compacted() }).unwrap();
    let unread = |world: &World| (world.log.clean_state().first_dirty, world.log.clean_state().unread);
    world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(unread(&world), (offset(3), Some(offset(0))));
    world.clock.advance(Duration::from_millis(RETENTION_MS));
    world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(offsets_of(&world, "deleted"), [0, 1]);
    world.reopen();
    world.log.update_config(compacted()).unwrap();
    // One that ends below the tombstone has not learned it.
    world.log.clean(&CleanOptions::default().up_to(offset(1))).unwrap();
    assert_eq!(unread(&world), (offset(3), Some(offset(0))));
    for _ in 0..2 {
        world.log.clean(&CleanOptions::default()).unwrap();
        let left = offsets_of(&world, "deleted");
        assert!(left.is_empty() || left == [1], "the tombstone goes after the value: {left:?}");
    }
    assert_eq!(unread(&world), (offset(3), None));
    assert_eq!(offsets_of(&world, "other"), [2]);
}

/// One record of a transaction.
fn put_in_transaction(world: &World, key: &str, value: &str) {
    let mut builder = BatchBuilder::new();
    builder.record(wall(world), Some(key.as_bytes()), Some(value.as_bytes()));
    builder.producer(ProducerId::new(7).unwrap(), ProducerEpoch::new(0).unwrap(), Sequence::new(0)).transactional(true);
    world.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
}

fn put_end(world: &World, ending: TransactionEnd) {
    let who = (ProducerId::new(7).unwrap(), ProducerEpoch::new(0).unwrap());
    let marker = RecordBatch::end_transaction_marker(ending, who, 1, wall(world));
    world.log.append(marker, AppendAs::Coordinator { epoch: leader() }).unwrap();
}

/// Nothing is dirty by the marks before somebody flushes, and only a pass would: none was ever begun. What is called due,
/// the pass finds, with transactions that are decided in the active segment, too.
#[test]
fn a_log_whose_high_watermark_follows_the_durable_end_is_due_before_anybody_flushes() {
    for (ends, cleaned_to) in [(true, 3), (false, 1)] {
        let world = World::with(1, 1, LogConfig { high_watermark: HighWatermarkMode::DurableEnd, ..compacted() });
        put(&world, "key", Some("1"));
        put_in_transaction(&world, "key", "2");
        put(&world, "key", Some("3"));
        world.log.roll().unwrap();
        if ends {
            put_end(&world, TransactionEnd::Commit);
        }
        let view = world.log.cleanable().unwrap();
        let segments = segment_facts(&view, wall(&world)).unwrap();
        let outlook = plan::judge(&log_facts_when_flushed(&view, &segments, None), &view.config, wall(&world));
        assert!(outlook.is_due(), "{outlook:?}");
        assert_eq!(outlook.range.secure_to, offset(cleaned_to));
        let once = CleanOptions { cleans_clean: false, ..CleanOptions::default() };
        assert_eq!(world.log.clean(&once).unwrap().upper, offset(cleaned_to));
    }
}

/// With the marker of a transaction a power loss would take what decides it, and the value below is gone by then.
#[test]
fn a_marker_by_which_values_are_removed_is_durable_first() {
    let world = World::new(1, 1);
    put(&world, "key", Some("1"));
    put_in_transaction(&world, "key", "2");
    seal(&world);
    put_end(&world, TransactionEnd::Commit);
    assert!(world.log.durable_end() < world.log.log_end());
    world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(offsets_of(&world, "key"), [1]);
    assert_eq!(world.log.durable_end(), world.log.log_end());
}

/// As [`offsets_of`], of batches that pass their checks.
fn readable_offsets_of(world: &World, key: &str) -> Vec<i64> {
    let mut found = Vec::new();
    for path in world.log.segment_files() {
        let bytes = world.fs.live_bytes(&path).unwrap();
        for batch in batches(&bytes, u32::MAX).map(Result::unwrap).filter(|batch| batch.verify_crc().is_ok()) {
            let body = batch.body(1 << 20).unwrap();
            let records = body.records().map(Result::unwrap);
            found.extend(
                records.filter(|record| record.key == Some(key.as_bytes())).map(|record| record.offset.value()),
            );
        }
    }
    found
}

/// The transaction index of the segment at `base` is gone, and its first batch may be damaged, when the log is opened again.
fn lose_index_and_damage(world: &mut World, base: i64, damages: bool) {
    let config = LogConfig::clone(&world.log.config());
    let files = world.log.segment_files();
    let of_base = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&format!("{base:020}"));
    let log = files.iter().find(of_base).unwrap().clone();
    world.log.close().unwrap();
    world.fs.remove_file(&log.with_extension("txnindex")).unwrap();
    if damages {
        world.fs.flip_bit(&log, 70, 3);
    }
    world.log = open(&world.fs, &world.clock, config);
}

/// With the transaction index, and the marker that it was derived from again, nothing told any more that data was aborted:
/// it was learned, and the committed value below it removed.
#[test]
fn aborted_data_without_index_and_marker_removes_nothing() {
    for damages in [false, true] {
        let mut world = World::new(1, 1);
        put(&world, "key", Some("committed"));
        put(&world, "gone", Some("v"));
        seal(&world);
        put_in_transaction(&world, "key", "aborted");
        put(&world, "gone", None);
        seal(&world);
        put_end(&world, TransactionEnd::Abort);
        put(&world, "other", Some("v"));
        seal(&world);
        put(&world, "other", Some("w"));
        seal(&world);
        lose_index_and_damage(&mut world, 4, damages);
        for _ in 0..3 {
            let cleaned = world.log.clean(&CleanOptions::default()).unwrap();
            assert_eq!(cleaned.left_alone.len(), usize::from(damages), "{cleaned:?}");
            let left = readable_offsets_of(&world, "key");
            assert_eq!(left, if damages { vec![0, 2] } else { vec![0] });
            assert_eq!(world.log.clean_state().unread, damages.then(|| offset(2)));
            world.clock.advance(Duration::from_millis(RETENTION_MS));
        }
        assert_eq!(
            readable_offsets_of(&world, "gone").is_empty(),
            !damages,
            "a tombstone stays above what is in doubt"
        );
    }
}
