//! Swaps of all shapes: with a crash at every I/O step, of the machine and of the process, also while the opening that
//! follows is at work; with a disk that fails or is full at every step; and beside everything else that changes a log.
//! Besides our own opening, what Apache Kafka's would make of the files is worked out by a few naive lines.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::config::{CleanupPolicy, LogConfig, OnDamage};
use crate::fs::FileSystem;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};
use crate::index::AbortedTxns;
use crate::log::{AppendAs, CleanView, Environment, PassProgress, ReadOptions};
use crate::record::{BatchBuilder, BatchView};
use crate::segment::{CacheUse, Met};
use crate::units::{LeaderEpoch, TimestampMs};

const DIR: &str = "/data/topic-0";
const SEGMENTS: i64 = 6;
const BATCHES: i64 = 4;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        index_interval_bytes: 100,
        on_damage: OnDamage::Refuse,
        file_delete_delay_ms: 1000,
        ..LogConfig::default()
    }
}

fn open_with(fs: &SimFs, config: LogConfig) -> Result<PartitionLog, crate::error::OpenError> {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    Environment { fs: Arc::new(fs.clone()), clock }.open(DIR, config)
}

fn open(fs: &SimFs) -> PartitionLog {
    open_with(fs, config()).unwrap_or_else(|e| panic!("{e}: {:?}", names(fs)))
}

fn append(log: &PartitionLog, key: i64) {
    let mut builder = BatchBuilder::new();
    let value = format!("value-{key}");
    builder.record(TimestampMs::new(1_700_000_000_000 + key), Some(&key.to_be_bytes()), Some(value.as_bytes()));
    let as_client = AppendAs::Client { epoch: LeaderEpoch::new(3).unwrap() };
    log.append(builder.build().unwrap(), as_client).unwrap();
}

/// A log of so many segments of one record a batch, and an active one, all of it durable; ready for swaps of everything
/// that is sealed.
fn prepared(fs: &SimFs) -> PartitionLog {
    let log = open(fs);
    for segment in 0..=SEGMENTS {
        for batch in 0..BATCHES {
            append(&log, segment * BATCHES + batch);
        }
        if segment < SEGMENTS {
            log.roll().unwrap();
        }
    }
    log.flush().unwrap();
    announce(&log);
    log
}

fn announce(log: &PartitionLog) {
    let upper = log.cleanable().unwrap().active_base;
    log.secure(upper).unwrap();
    let mut state = log.clean_state();
    let pass = PassProgress {
        upper,
        first_dirty: state.first_dirty,
        done_to: state.first_dirty,
        horizon_from: TimestampMs::new(7),
        transactions: vec![1, 2, 3],
    };
    state.pass = Some(pass);
    log.put_clean_state(state).unwrap();
}

/// A swap to be made: of which segments, which offsets stay, and where outputs begin besides the first one.
#[derive(Clone, Debug)]
struct Story {
    name: &'static str,
    inputs: std::ops::Range<usize>,
    keep: fn(i64) -> bool,
    splits: &'static [i64],
}

const STORIES: [Story; 5] = [
    Story { name: "identity", inputs: 2..3, keep: |_| true, splits: &[] },
    Story { name: "merged", inputs: 1..4, keep: |offset| offset % 3 != 0, splits: &[] },
    Story { name: "the last one is empty", inputs: 1..4, keep: |offset| offset < 10, splits: &[] },
    Story { name: "nothing is left of the beginning", inputs: 0..3, keep: |_| false, splits: &[] },
    Story { name: "split where no segment began", inputs: 1..4, keep: |offset| offset != 7, splits: &[10] },
];

/// Writes the outputs of a story, and puts them in place.
fn swap(log: &PartitionLog, story: &Story) -> Result<Replaced, ReplaceError> {
    let view = log.cleanable()?;
    let outputs = stage(log, &view, story)?;
    let inputs: Vec<_> = view.segments[story.inputs.clone()].iter().map(|found| Arc::clone(&found.segment)).collect();
    log.replace_segments(&inputs, outputs)
}

fn stage(log: &PartitionLog, view: &CleanView, story: &Story) -> Result<Vec<Staged>, IoFailure> {
    let inputs = &view.segments[story.inputs.clone()];
    let (end, last) = (inputs.last().unwrap().end, inputs.last().unwrap().base);
    let starts: Vec<Offset> =
        std::iter::once(inputs[0].base).chain(story.splits.iter().map(|base| at(*base))).collect();
    let mut staged = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let stop = starts.get(index + 1).copied().unwrap_or(end);
        let mut staging = log.stage(*start, 200)?;
        for input in inputs {
            let mut reader = PartitionLog::read_for_cleaning(input, 64, CacheUse::DropBehind)?;
            loop {
                match reader.advance()? {
                    Met::End => break,
                    Met::Damaged(hole) => panic!("{hole:?}"),
                    Met::Batch(header) => {
                        let offset = header.base_offset;
                        if (*start..stop).contains(&offset) && (story.keep)(offset.value()) {
                            let batch = reader.batch()?.unwrap().unwrap();
                            match staging.append(batch.bytes()) {
                                Err(crate::segment::CleanWriteError::Io(failure)) => return Err(failure),
                                appended => appended.unwrap(),
                            }
                        }
                    }
                }
            }
        }
        staged.push(staging.finish(stop, if stop == end { last } else { *start }, AbortedTxns::default())?);
    }
    Ok(staged)
}

/// What a reader finds: the offset of each record, and its value.
type Records = BTreeMap<i64, Vec<u8>>;

fn records_in(mut bytes: &[u8], into: &mut Records) {
    while !bytes.is_empty() {
        let view = BatchView::parse(bytes, u32::MAX).unwrap();
        view.verify_crc().unwrap();
        for record in view.body(1 << 20).unwrap().records() {
            let record = record.unwrap();
            let known = into.insert(record.offset.value(), record.value.unwrap().to_vec());
            assert_eq!(known, None, "offset {} twice", record.offset);
        }
        bytes = &bytes[view.bytes().len()..];
    }
}

fn contents(log: &PartitionLog) -> Records {
    let mut found = Records::new();
    let mut next = log.log_start();
    while next < log.log_end() {
        let fetched = log.read(next, &ReadOptions::default()).unwrap_or_else(|e| panic!("read at {next}: {e}"));
        if fetched.is_empty() {
            break;
        }
        records_in(&fetched.read().unwrap(), &mut found);
        next = fetched.next_offset().unwrap();
    }
    found
}

/// The same, and what is found from every offset by itself.
fn contents_by_offset(log: &PartitionLog) -> Records {
    let found = contents(log);
    for offset in log.log_start().value()..log.log_end().value() {
        let fetched = log.read(at(offset), &ReadOptions::default()).unwrap();
        let mut behind = Records::new();
        records_in(&fetched.read().unwrap(), &mut behind);
        let expected = found.range(offset..).next().map(|(offset, _)| *offset);
        let first = behind.range(offset..).next().map(|(offset, _)| *offset);
        // What is left of an emptied range is read by itself.
        assert!(first == expected || behind.is_empty(), "at {offset}: {first:?}, not {expected:?}");
    }
    found
}

fn kept(before: &Records, story: &Story, view: &CleanView) -> Records {
    let inputs = &view.segments[story.inputs.clone()];
    let range = inputs[0].base.value()..inputs.last().unwrap().end.value();
    before
        .iter()
        .filter(|(offset, _)| !range.contains(offset) || (story.keep)(**offset))
        .map(|(k, v)| (*k, v.clone()))
        .collect()
}

fn names(fs: &SimFs) -> BTreeMap<String, usize> {
    let entries = fs.list(Path::new(DIR)).unwrap();
    entries
        .into_iter()
        .map(|entry| {
            let len = fs.live_bytes(&Path::new(DIR).join(&entry.name)).map_or(0, |bytes| bytes.len());
            (entry.name, len)
        })
        .collect()
}

/// Whether the name of a file ends so; names of segments have one case.
fn ends(name: &str, suffix: &str) -> bool {
    name.as_bytes().ends_with(suffix.as_bytes())
}

/// What Apache Kafka's `LogLoader` makes of the directory, and what its segments hold then.
fn kafka_finds(fs: &SimFs) -> Records {
    let bytes = |name: &String| fs.live_bytes(&Path::new(DIR).join(name)).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = names(fs).keys().map(|name| (name.clone(), bytes(name))).collect();
    let base = |name: &str| name.split('.').next().and_then(|digits| digits.parse::<i64>().ok());
    files.retain(|name, _| !ends(name, ".deleted"));
    let unfinished = files.keys().filter(|name| ends(name, ".cleaned")).map(|name| base(name).expect(name)).min();
    files.retain(|name, _| {
        let is_partial = ends(name, ".swap") && unfinished.is_some_and(|from| base(name).unwrap() >= from);
        !is_partial && !ends(name, ".cleaned")
    });
    let mut range = Range { start: i64::MAX, end: i64::MIN };
    for (name, content) in files.iter().filter(|(name, _)| ends(name, ".log.swap")) {
        let next = crate::record::batches(content, u32::MAX).map(|batch| batch.unwrap().header().next_offset().value());
        let base = base(name).unwrap();
        range = range.start.min(base)..range.end.max(next.max().unwrap_or(base));
    }
    files.retain(|name, _| ends(name, ".swap") || base(name).is_none_or(|base| !range.contains(&base)));
    let swapped: Vec<String> = files.keys().filter(|name| ends(name, ".swap")).cloned().collect();
    for name in swapped {
        let content = files.remove(&name).unwrap();
        files.insert(name.trim_end_matches(".swap").to_owned(), content);
    }
    let mut found = Records::new();
    let mut next = 0;
    let logs: Vec<_> = files.iter().filter(|(name, _)| ends(name, ".log") && base(name).is_some()).collect();
    for (at, (name, content)) in logs.iter().enumerate() {
        // The last one is cut where its last whole batch ends.
        let whole: usize =
            crate::record::batches(content, u32::MAX).map_while(Result::ok).map(|batch| batch.bytes().len()).sum();
        let content = if at + 1 == logs.len() { &content[..whole] } else { &content[..] };
        // One that holds nothing is on its way out: an opening in doubt makes names change by making and removing them.
        assert!(content.is_empty() || base(name).unwrap() >= next, "{name} begins before {next}: {:?}", names(fs));
        for batch in crate::record::batches(content, u32::MAX) {
            next = batch.unwrap().header().next_offset().value();
        }
        records_in(content, &mut found);
    }
    found
}

/// What a crash may leave, each world once.
fn images(fs: &SimFs, seed: u64, random: u64) -> Vec<(String, SimFs)> {
    let mut left = vec![("kill".to_owned(), fs.kill())];
    let random = (0..random).map(|n| Survival::Random(seed * 100 + n));
    for survival in [Survival::Nothing, Survival::Everything].into_iter().chain(random) {
        left.push((format!("{survival:?}"), fs.power_loss_keeping(survival)));
    }
    let mut met = BTreeSet::new();
    left.retain(|(_, image)| met.insert(names(image)));
    left
}

/// Opens a world twice, goes on in it, and closes and opens it again; what it holds must be one of `allowed`.
fn examine(image: &SimFs, allowed: &[&Records], what: &str) {
    let log = open(image);
    let found = contents(&log);
    assert!(allowed.contains(&&found), "{what}: {:?} in {:?}", found.keys(), names(image));
    assert_eq!(log.log_end(), at((SEGMENTS + 1) * BATCHES), "{what}");
    drop(log);
    let log = open(image);
    assert_eq!(contents(&log), found, "{what}: a second opening");
    append(&log, 999);
    log.flush().unwrap();
    let grown = contents(&log);
    assert_eq!(grown.len(), found.len() + 1, "{what}");
    log.close().unwrap();
    let leftover = |name: &String| [".swap", ".cleaned", ".tmp", ".log.deleted"].iter().any(|end| name.ends_with(end));
    assert!(!names(image).keys().any(leftover), "{what}: {:?}", names(image));
    let log = open(image);
    assert!(log.recovery_report().was_clean, "{what}: {:?}", log.recovery_report().findings);
    assert_eq!(contents(&log), grown, "{what}: after a close");
    scrub(&log, what);
}

/// Every sum, and every file that it vouches for, is right.
fn scrub(log: &PartitionLog, what: &str) {
    let mut cursor = crate::log::ScrubCursor::default();
    loop {
        let scrubbed = log.scrub(&mut cursor, 1 << 20).unwrap();
        if scrubbed.is_round_done {
            return;
        }
        if let Some(segment) = scrubbed.segment_done {
            assert!(segment.quarantined.is_empty() && segment.sidecars.is_empty(), "{what}: {segment:?}");
        }
    }
}

#[test]
fn segments_are_replaced_and_stay_so() {
    for story in STORIES {
        let fs = SimFs::new(1);
        let log = prepared(&fs);
        let before = contents(&log);
        let view = log.cleanable().unwrap();
        let after = kept(&before, &story, &view);
        let replaced = swap(&log, &story).unwrap_or_else(|e| panic!("{}: {e:?}", story.name));
        assert_eq!(replaced.segments.len(), story.splits.len() + 1);
        assert_eq!(contents_by_offset(&log), after, "{}", story.name);
        let left = usize::try_from(SEGMENTS).unwrap() - story.inputs.len() + replaced.segments.len();
        assert_eq!(log.cleanable().unwrap().segments.len(), left, "{}", story.name);
        assert_eq!(kafka_finds(&fs), after, "{}", story.name);
        scrub(&log, story.name);
        examine(&fs.kill(), &[&after], story.name);
        // The old files go when their delay has passed, and only they.
        assert!(names(&fs).keys().any(|name| ends(name, ".log.deleted")));
        log.close().unwrap();
        assert!(!names(&fs).keys().any(|name| ends(name, ".deleted")), "{:?}", names(&fs));
        examine(&fs, &[&after], story.name);
    }
}

/// Row 47 of what a log layer must survive.
#[test]
fn every_step_of_a_swap_is_a_crash_that_leaves_the_old_segments_or_the_new_ones() {
    let random = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for (seed, story) in STORIES.iter().enumerate() {
        let seed = seed as u64;
        let whole = SimFs::new(seed);
        let log = prepared(&whole);
        let first = whole.steps() + 1;
        let before = contents(&log);
        let after = kept(&before, story, &log.cleanable().unwrap());
        let rehearsed = SimFs::new(seed);
        let log = prepared(&rehearsed);
        swap(&log, story).unwrap();
        let last = rehearsed.steps();
        for step in first..=last {
            let fs = SimFs::new(seed);
            let log = prepared(&fs);
            fs.crash_after(step);
            let done = swap(&log, story).is_ok();
            assert!(fs.is_crashed());
            drop(log);
            for (index, (name, image)) in images(&fs, step, random).into_iter().enumerate() {
                let what = format!("{}, step {} of {first}..={last}, {name}", story.name, step);
                let allowed: &[&Records] = if done { &[&after] } else { &[&before, &after] };
                let kafkas = kafka_finds(&image);
                assert!(allowed.contains(&&kafkas), "{what}: Kafka finds {:?} in {:?}", kafkas.keys(), names(&image));
                if (step + index as u64).is_multiple_of(5) {
                    examine(&image, allowed, &what);
                    continue;
                }
                let found = contents(&open(&image));
                assert!(allowed.contains(&&found), "{what}: {:?} in {:?}", found.keys(), names(&image));
            }
        }
    }
}

/// The same while the opening after the crash is at work.
#[test]
fn a_second_crash_while_a_swap_is_finished_leaves_no_third_thing() {
    for (seed, story) in STORIES.iter().enumerate() {
        let seed = 50 + seed as u64;
        let rehearsed = SimFs::new(seed);
        let log = prepared(&rehearsed);
        let first = rehearsed.steps() + 1;
        let before = contents(&log);
        let after = kept(&before, story, &log.cleanable().unwrap());
        let from = rehearsed.steps() + 1;
        swap(&log, story).unwrap();
        let last = rehearsed.steps();
        for step in (first..=last).filter(|step| step % 7 == seed % 7 || *step + 12 > last) {
            let fs = SimFs::new(seed);
            let log = prepared(&fs);
            // What the contents were asked for above.
            contents(&log);
            fs.crash_after(step - from + fs.steps() + 1);
            let _ = swap(&log, story);
            drop(log);
            if !fs.is_crashed() {
                continue;
            }
            for (index, (name, image)) in images(&fs, step, 1).into_iter().enumerate() {
                let rehearsal = image.kill();
                drop(open(&rehearsal));
                for second in (1..=rehearsal.steps()).filter(|second| (second + step + index as u64).is_multiple_of(7))
                {
                    let fs = image.kill();
                    fs.crash_after(second);
                    let _ = open_with(&fs, config());
                    for (later, image) in images(&fs, step + second, 1) {
                        let what = format!("{}, step {step} {name}, then {second} {later}", story.name);
                        // A name that an opening in doubt changes for a moment is no matter of swaps.
                        let is_touched = names(&image).keys().any(|name| name.starts_with("alluvium.touched"));
                        let is_allowed = |found: &Records| [&before, &after].contains(&found);
                        assert!(is_touched || is_allowed(&kafka_finds(&image)), "{what}: {:?}", names(&image));
                        let log = open(&image);
                        let found = contents(&log);
                        assert!([&before, &after].contains(&&found), "{what}: {:?}", found.keys());
                        drop(log);
                        assert_eq!(contents(&open(&image)), found, "{what}");
                    }
                }
            }
        }
    }
}

/// Rows 81 and 88: a step that fails leaves the old segments, nothing staged, and a log that goes on; or a log that failed,
/// and serves what it showed until it is opened again.
#[test]
fn a_disk_that_fails_at_any_step_costs_nothing_but_the_swap() {
    let operations = [
        FaultOn::Open,
        FaultOn::Read,
        FaultOn::Write,
        FaultOn::SyncData,
        FaultOn::SyncDir,
        FaultOn::Rename,
        FaultOn::Remove,
    ];
    for (seed, story) in STORIES.iter().enumerate() {
        for operation in operations {
            for effect in [Effect::Error(Errno::Eio), Effect::Error(Errno::Enospc)] {
                let mut passed = 0;
                // Past the last call of its kind nothing fails any more; before it, only a hint may have.
                let mut skip = 0;
                while passed < 6 {
                    let fs = SimFs::new(seed as u64 + skip);
                    let log = prepared(&fs);
                    let before = contents(&log);
                    let after = kept(&before, story, &log.cleanable().unwrap());
                    fs.inject(Fault::new(operation, effect).skip(skip));
                    let swapped = swap(&log, story);
                    fs.clear_faults();
                    let what = format!("{}, {operation:?} {skip} {effect:?}: {swapped:?}", story.name);
                    let shown = contents(&log);
                    match &swapped {
                        Ok(_) => assert_eq!(shown, after, "{what}"),
                        Err(_) => assert_eq!(shown, before, "{what}"),
                    }
                    let is_failed = log.health().failed.is_some();
                    assert_eq!(is_failed, matches!(swapped, Err(ReplaceError::Log(_))), "{what}");
                    if !is_failed {
                        let leftover = |name: &String| ends(name, ".cleaned") || ends(name, ".swap");
                        assert!(!names(&fs).keys().any(leftover), "{what}: {:?}", names(&fs));
                        assert_eq!(kafka_finds(&fs), shown, "{what}");
                    }
                    let is_struck = swapped.is_err();
                    if !is_failed && is_struck {
                        // It is tried again, and nothing is in its way.
                        swap(&log, story).unwrap_or_else(|e| panic!("{what}, then {e:?}"));
                        assert_eq!(contents(&log), after, "{what}");
                    }
                    drop(log);
                    // With a log that goes on nothing is pending but what is tidied up.
                    let images = if is_failed { images(&fs, skip, 1) } else { vec![("kill".to_owned(), fs.kill())] };
                    for (name, image) in images {
                        let allowed: &[&Records] = if is_failed { &[&before, &after] } else { &[&after] };
                        examine(&image, allowed, &format!("{what}, {name}"));
                    }
                    passed = if is_struck { 0 } else { passed + 1 };
                    skip += 1;
                }
            }
        }
    }
}

/// What befalls a log.
type Change = fn(&PartitionLog);

/// Row 58: what was cut, deleted or replaced meanwhile is not brought back.
#[test]
fn what_changed_since_it_was_read_is_not_replaced() {
    let story = &STORIES[1];
    let changes: [(&str, Change); 4] = [
        ("cut in the middle", |log| {
            log.truncate_to(at(9)).unwrap();
        }),
        ("begun anew", |log| log.truncate_fully_and_start_at(at(100)).unwrap()),
        ("deleted", |log| {
            log.advance_log_start(at(17)).unwrap();
            log.enforce_retention().unwrap();
        }),
        ("replaced", |log| drop(swap(log, &Story { splits: &[], inputs: 3..4, keep: |_| true, name: "" }).unwrap())),
    ];
    for (name, change) in changes {
        let fs = SimFs::new(1);
        let log = prepared(&fs);
        let view = log.cleanable().unwrap();
        let outputs = stage(&log, &view, story).unwrap();
        change(&log);
        let shown = contents(&log);
        let inputs: Vec<_> =
            view.segments[story.inputs.clone()].iter().map(|found| Arc::clone(&found.segment)).collect();
        drop(view);
        let refused = log.replace_segments(&inputs, outputs).unwrap_err();
        assert!(
            matches!(refused, ReplaceError::Changed | ReplaceError::Unfit(Unfit::Unsecured | Unfit::Unannounced)),
            "{name}: {refused:?}"
        );
        assert_eq!(contents(&log), shown, "{name}");
        assert!(!names(&fs).keys().any(|name| ends(name, ".cleaned")), "{name}: {:?}", names(&fs));
        append(&log, 5);
        log.close().unwrap();
        let log = open(&fs);
        assert_eq!(contents(&log).len(), shown.len() + 1, "{name}");
        let mut kafkas = kafka_finds(&fs);
        kafkas.retain(|offset, _| *offset >= log.log_start().value());
        assert_eq!(kafkas, contents(&log), "{name}");
    }
}

#[test]
fn slices_and_views_from_before_go_on_showing_the_old_segments() {
    let fs = SimFs::new(3);
    let log = prepared(&fs);
    let before = contents(&log);
    let slices: Vec<_> = [4, 9, 13].map(|from| log.read(at(from), &ReadOptions::default()).unwrap()).into();
    let view = log.core.view.read().clone();
    swap(&log, &STORIES[1]).unwrap();
    swap(&log, &Story { inputs: 0..2, keep: |offset| offset > 5, splits: &[], name: "" }).unwrap();
    for fetched in &slices {
        let mut found = Records::new();
        records_in(&fetched.read().unwrap(), &mut found);
        assert!(!found.is_empty());
        assert!(found.iter().all(|(offset, value)| before.get(offset) == Some(value)));
    }
    // An older view, with whatever it had open.
    for (index, segment) in view.segments.iter().enumerate() {
        let extent = view.extent_of(index).unwrap();
        let mut bytes = vec![0; usize::try_from(extent.bytes).unwrap()];
        segment.read_at(0, &mut bytes).unwrap();
        let mut found = Records::new();
        records_in(&bytes, &mut found);
        let base = segment.base().value();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), (base..extent.end.value()).collect::<Vec<_>>());
        assert!(matches!(segment.locate(at(base + 1), extent), Ok(crate::segment::Located::At { .. })));
    }
    drop((slices, view));
    log.core.finish_leaving(&mut log.core.round.lock(), true);
    assert!(!names(&fs).keys().any(|name| ends(name, ".deleted")));
    assert!(fs.open_handles() < 40, "{}", fs.open_handles());
}

/// The same base offset comes again and again: its old files wait under the same names.
#[test]
fn a_base_offset_is_replaced_again_and_again_and_then_deleted() {
    let fs = SimFs::new(4);
    let log = prepared(&fs);
    for round in 0..4 {
        let keep = [|offset| offset != 1, |offset| offset != 2, |offset| offset != 3, |offset| offset > 3][round];
        swap(&log, &Story { name: "", inputs: 0..1, keep, splits: &[] }).unwrap();
        assert_eq!(contents(&log).len(), 28 - round - 1);
    }
    log.advance_log_start(at(4)).unwrap();
    log.enforce_retention().unwrap();
    assert_eq!(contents(&log).len(), 24);
    log.close().unwrap();
    assert!(names(&fs).keys().all(|name| !name.starts_with("00000000000000000000.")), "{:?}", names(&fs));
    assert_eq!(contents(&open(&fs)).len(), 24);
}

#[test]
fn what_was_not_secured_or_announced_is_not_replaced() {
    let fs = SimFs::new(5);
    let log = open(&fs);
    for key in 0..8 {
        append(&log, key);
        if key % 4 == 3 {
            log.roll().unwrap();
        }
    }
    let story = Story { name: "", inputs: 0..2, keep: |_| true, splits: &[] };
    let view = log.cleanable().unwrap();
    let inputs: Vec<_> = view.segments.iter().map(|found| Arc::clone(&found.segment)).collect();
    let outputs = |splits| stage(&log, &view, &Story { splits, ..story.clone() }).unwrap();
    let unfit = |inputs: &[Arc<Segment>], outputs| match log.replace_segments(inputs, outputs) {
        Err(ReplaceError::Unfit(unfit)) => unfit,
        other => panic!("{other:?}"),
    };
    assert_eq!(unfit(&[], outputs(&[])), Unfit::Count);
    assert_eq!(unfit(&inputs, Vec::new()), Unfit::Count);
    assert_eq!(unfit(&inputs, outputs(&[6]).into_iter().rev().collect()), Unfit::Bounds);
    assert_eq!(unfit(&inputs[1..], outputs(&[])), Unfit::Bounds);
    let mut short = log.stage(at(0), 100).unwrap();
    let mut reader = PartitionLog::read_for_cleaning(&view.segments[0], 64, CacheUse::Keep).unwrap();
    reader.advance().unwrap();
    short.append(reader.batch().unwrap().unwrap().unwrap().bytes()).unwrap();
    let short = short.finish(at(8), at(0), AbortedTxns::default()).unwrap();
    assert_eq!(unfit(&inputs, vec![short]), Unfit::Coverage);
    drop(view);
    assert!(matches!(swap(&log, &story), Err(ReplaceError::Changed)), "not durable");
    let upper = at(8);
    assert!(matches!(log.secure(at(9)), Err(ChangeError::OutOfRange { .. })));
    assert_eq!(log.secure(upper).unwrap(), upper);
    assert_eq!(log.recovery_point(), upper);
    assert!(matches!(swap(&log, &story), Err(ReplaceError::Unfit(Unfit::Unannounced))));
    announce(&log);
    swap(&log, &story).unwrap();
    assert!(log.claim_cleaning().is_some_and(|_claim| log.claim_cleaning().is_none()));
    assert!(log.claim_cleaning().is_some());
}

/// A log that is not compacted any more keeps the gaps that cleaning made: they are no damage.
#[test]
fn gaps_of_cleaning_outlive_the_policy() {
    let fs = SimFs::new(6);
    let log = prepared(&fs);
    swap(&log, &Story { name: "", inputs: 1..4, keep: |offset| offset > 12, splits: &[] }).unwrap();
    swap(&log, &Story { name: "", inputs: 2..3, keep: |offset| offset < 17, splits: &[] }).unwrap();
    let after = contents(&log);
    log.close().unwrap();
    let plain = LogConfig { cleanup_policy: CleanupPolicy::Delete, ..config() };
    let log = open_with(&fs, plain.clone()).unwrap();
    assert_eq!(contents_by_offset(&log), after);
    scrub(&log, "another policy");
    drop(log);
    // Also where nothing says what was durable, and every segment is looked at.
    let lost = fs.kill();
    lost.remove_file(&Path::new(DIR).join("alluvium.recovery-point")).unwrap();
    let log = open_with(&lost, plain.clone()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(contents(&log), after);
    drop(log);
    let log = open_with(&fs, plain).unwrap();
    assert_eq!(contents(&log), after);
    // Cut in the middle of it, and grown again.
    log.truncate_to(at(14)).unwrap();
    for key in 0..9 {
        append(&log, key);
    }
    log.roll().unwrap();
    let grown = contents(&log);
    log.close().unwrap();
    assert_eq!(
        contents(&open_with(&fs, LogConfig { cleanup_policy: CleanupPolicy::Delete, ..config() }).unwrap()),
        grown
    );
}

/// Appends, rolls and reads go on beside swaps.
#[test]
fn appends_and_reads_go_on_beside_swaps() {
    let fs = SimFs::new(7);
    let log = prepared(&fs);
    let reader = log.clone();
    let is_done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = Arc::clone(&is_done);
    let reading = std::thread::spawn(move || {
        let mut reads = 0;
        while !done.load(std::sync::atomic::Ordering::Acquire) || reads == 0 {
            let found = contents(&reader);
            assert!(found.len() >= 15, "{:?}", found.keys());
            reads += 1;
        }
    });
    for round in 0..30 {
        append(&log, 1000 + round);
        log.roll().unwrap();
        log.flush().unwrap();
        announce(&log);
        let first = usize::try_from(round % 3).unwrap();
        swap(&log, &Story { name: "", inputs: first..first + 2, keep: |_| true, splits: &[] }).unwrap();
        log.tick().unwrap();
    }
    is_done.store(true, std::sync::atomic::Ordering::Release);
    reading.join().unwrap();
    assert_eq!(contents(&log).len(), 28 + 30);
}
