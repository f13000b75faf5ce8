//! Whole logs through several passes, against a second telling of the rules that knows every batch at once.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::record::naive_tests::Random;

const RETENTION: i64 = 500;

fn seeds() -> u64 {
    std::env::var("ALLUVIUM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100)
}

/// A log, and the aborted transactions that its transaction indexes hold.
#[derive(Clone, Debug, Default)]
struct Log {
    batches: Vec<NaiveBatch>,
    aborted: Vec<AbortedTxn>,
}

/// What holds for one pass.
struct Pass {
    rules: FilterRules,
    /// Epoch and last data offset of active producers.
    known: BTreeMap<i64, (i16, Option<i64>)>,
    /// Batches in segments that are left as they are.
    left: Vec<bool>,
    superseded: BTreeSet<i64>,
}

fn end_of(log: &Log) -> i64 {
    log.batches.last().map_or(0, |batch| batch.last_offset + 1)
}

/// Transactions of producers 0 to 2, data of others, gaps, every codec, both kinds of time; nothing open at the end.
fn random_log(random: &mut Random) -> Log {
    let mut log = Log::default();
    let mut open = BTreeMap::new();
    for left in (0..random.0.usize(3..40)).rev() {
        let next = end_of(&log) + random.0.i64(0..2);
        let ends = left < open.len() || random.0.u8(0..4) == 0;
        match open.keys().nth(random.0.usize(0..4)).or(open.keys().next()).copied().filter(|_| ends) {
            Some(producer) => {
                let is_commit = random.0.bool();
                let first = open.remove(&producer).unwrap();
                log.batches.push(NaiveBatch::marker(next, producer, is_commit, 7));
                if !is_commit {
                    let earliest = open.values().min().copied().unwrap_or(next + 1);
                    log.aborted.push(AbortedTxn { last_stable_offset: at(earliest), ..entry(producer, first, next) });
                }
            }
            None => log.batches.push(random_data(random, next, left, &mut open)),
        }
    }
    log
}

fn random_data(random: &mut Random, base: i64, left: usize, open: &mut BTreeMap<i64, i64>) -> NaiveBatch {
    let mut batch = random.batch(base);
    for record in &mut batch.records {
        record.key = (random.0.u8(0..20) > 0).then(|| vec![random.0.u8(b'a'..b'i')]);
    }
    let may_begin = left > open.len() + 1;
    batch.producer_id = random.0.i64(if may_begin { 0..6 } else { 3..6 });
    (batch.producer_epoch, batch.base_sequence) = (0, 1);
    batch.is_transactional = batch.producer_id < 3;
    if batch.is_transactional {
        open.entry(batch.producer_id).or_insert(base);
    }
    batch
}

fn abortion<'l>(log: &'l Log, batch: &NaiveBatch) -> Option<&'l AbortedTxn> {
    log.aborted.iter().find(|entry| {
        let is_of = entry.producer_id.value() == batch.producer_id && batch.is_transactional && !batch.is_control;
        is_of && entry.first_offset.value() <= batch.base_offset && batch.base_offset < entry.last_offset.value()
    })
}

fn is_unreadable(batch: &NaiveBatch, rules: &FilterRules) -> bool {
    let plain = NaiveBatch { codec: Compression::None, ..batch.clone() }.encode().len() - 61;
    batch.codec != Compression::None && !batch.records.is_empty() && plain > rules.decompressed_bytes_max as usize
}

/// The newest committed offset of each key below the end of the pass, in what can be read.
fn newest(log: &Log, rules: &FilterRules) -> BTreeMap<Vec<u8>, i64> {
    let mut newest = BTreeMap::new();
    for batch in &log.batches {
        if batch.is_control || abortion(log, batch).is_some() || is_unreadable(batch, rules) {
            continue;
        }
        for record in batch.records.iter().filter(|record| record.offset < rules.upper.value()) {
            if let Some(key) = &record.key {
                newest.insert(key.clone(), record.offset);
            }
        }
    }
    newest
}

fn random_pass(random: &mut Random, log: &Log, now: i64) -> Pass {
    let end = end_of(log);
    let mut known_producers = BTreeMap::new();
    for batch in &log.batches {
        if random.0.u8(0..3) == 0 && batch.producer_id >= 0 {
            let last_data_offset = (!batch.is_control).then_some(batch.last_offset);
            known_producers.insert(batch.producer_id, (batch.producer_epoch, last_data_offset));
        }
    }
    let rules = FilterRules {
        now: TimestampMs::new(now),
        delete_retention_ms: 500,
        upper: at(if random.0.bool() { end } else { random.0.i64(0..=end) }),
        tombstones_removable_below: if random.0.u8(0..4) > 0 { Offset::MAX } else { at(random.0.i64(0..=end)) },
        decompressed_bytes_max: if random.0.bool() { 1 << 20 } else { 3000 },
        producers: {
            let all = known_producers.iter().map(|(id, (epoch, last))| known(*id, *epoch, *last, 0));
            ActiveProducers::new(&all.collect::<Vec<_>>(), Offset::ZERO)
        },
    };
    let newest: BTreeMap<_, _> = newest(log, &rules);
    let readable = log.batches.iter().filter(|batch| !is_unreadable(batch, &rules));
    let records = readable.flat_map(|batch| &batch.records);
    let is_superseded = |key: &Vec<u8>, offset: i64| newest.get(key).is_some_and(|newest| offset < *newest);
    let superseded = records.filter(|record| record.key.as_ref().is_some_and(|key| is_superseded(key, record.offset)));
    let superseded = superseded.map(|record| record.offset).collect();
    let left = log.batches.iter().map(|_| random.0.u8(0..40) == 0).collect();
    Pass { rules, known: known_producers, left, superseded }
}

/// The rules once more, told of the whole log.
fn naive_pass(log: &Log, pass: &Pass) -> Log {
    let mut hole = pass.rules.tombstones_removable_below.value();
    let mut cleaned = Log::default();
    for (at, batch) in log.batches.iter().enumerate() {
        if pass.left[at] {
            hole = hole.min(batch.base_offset);
            cleaned.batches.push(batch.clone());
        } else if batch.is_control {
            cleaned.batches.extend(naive_control(log, pass, at, hole));
        } else {
            let kept = naive_data(log, pass, batch, &mut hole);
            cleaned.batches.extend(kept);
        }
        let ended = log.aborted.iter().find(|entry| batch.is_control && entry.last_offset.value() == batch.base_offset);
        let is_needed = pass.left[at]
            || has_data(log, at)
            || batch.last_offset >= pass.rules.upper.value()
            || batch.base_offset >= hole;
        cleaned.aborted.extend(ended.filter(|_| is_needed && !batch.records.is_empty()));
    }
    cleaned
}

fn is_needed(pass: &Pass, batch: &NaiveBatch) -> bool {
    let of_producer = pass.known.get(&batch.producer_id).is_some_and(|(epoch, last)| match last {
        Some(offset) => *offset == batch.last_offset,
        None => batch.is_control && *epoch == batch.producer_epoch,
    });
    of_producer || batch.last_offset + 1 == pass.rules.upper.value()
}

/// Whether the log has data of the transaction that the marker at `at` ends.
fn has_data(log: &Log, at: usize) -> bool {
    let producer = log.batches[at].producer_id;
    let before = log.batches[..at].iter().rev().filter(|batch| batch.producer_id == producer && batch.is_transactional);
    before.take_while(|batch| !batch.is_control || batch.records.is_empty()).any(|batch| !batch.is_control)
}

fn naive_control(log: &Log, pass: &Pass, at: usize, hole: i64) -> Option<NaiveBatch> {
    let (batch, rules) = (&log.batches[at], &pass.rules);
    let header = is_needed(pass, batch).then(|| batch.emptied());
    if batch.last_offset >= rules.upper.value() {
        return Some(batch.clone());
    }
    if batch.records.is_empty() {
        return header;
    }
    if has_data(log, at) {
        return Some(batch.clone());
    }
    if !batch.has_horizon {
        return Some(batch.with_records(batch.records.clone(), Some(rules.now.value() + RETENTION)));
    }
    let last = pass.known.get(&batch.producer_id);
    let stays_whole = last.is_some_and(|(epoch, last)| last.is_none() && *epoch == batch.producer_epoch);
    if rules.now.value() < batch.base_timestamp || batch.base_offset >= hole || stays_whole {
        return Some(batch.clone());
    }
    header
}

fn naive_data(log: &Log, pass: &Pass, batch: &NaiveBatch, hole: &mut i64) -> Option<NaiveBatch> {
    let (rules, upper) = (&pass.rules, pass.rules.upper.value());
    if batch.base_offset >= upper {
        return Some(batch.clone());
    }
    let is_aborted = abortion(log, batch).is_some();
    if is_unreadable(batch, rules) && !(is_aborted && batch.last_offset < upper) {
        *hole = (*hole).min(batch.base_offset);
        return Some(batch.clone());
    }
    let has_passed = batch.has_horizon && rules.now.value() >= batch.base_timestamp;
    let stays = |record: &&crate::record::naive_tests::NaiveRecord| {
        let is_old_tombstone = record.value.is_none() && has_passed && record.offset < *hole;
        let counts = record.key.is_some() && !pass.superseded.contains(&record.offset) && !is_old_tombstone;
        record.offset >= upper || (!is_aborted && counts)
    };
    let kept: Vec<_> = batch.records.iter().filter(stays).cloned().collect();
    if kept.is_empty() {
        let header = if batch.records.is_empty() { batch.clone() } else { batch.emptied() };
        return is_needed(pass, batch).then_some(header);
    }
    let mut tombstones = kept.iter().filter(|record| record.value.is_none()).map(|record| record.offset).peekable();
    // All of them lie below the end of the pass.
    let sets_horizon = !batch.has_horizon && tombstones.peek().is_some() && tombstones.all(|offset| offset < upper);
    if kept.len() == batch.records.len() && !sets_horizon {
        return Some(batch.clone());
    }
    Some(batch.with_records(kept, sets_horizon.then_some(rules.now.value() + RETENTION)))
}

/// The log through the filter, which is saved and resumed now and then.
fn filtered_pass(random: &mut Random, log: &Log, pass: &Pass) -> Log {
    let mut cleaned = Log::default();
    let mut filter = BatchFilter::new(pass.rules.clone(), CleanedTransactions::default());
    filter.expect_aborted(log.aborted.iter().copied());
    let offsets: Vec<i64> = pass.superseded.iter().copied().collect();
    for (batch, is_left) in log.batches.iter().zip(&pass.left) {
        if random.0.u8(0..5) == 0 {
            filter = BatchFilter::resume(pass.rules.clone(), &filter.save()).unwrap();
            filter.expect_aborted(log.aborted.iter().copied());
        }
        let bytes = batch.encode();
        if *is_left {
            filter.forbid_removal_past(at(batch.base_offset));
            filter.observe_left(&verified(&bytes));
            let ended = log.aborted.iter().find(|entry| entry.last_offset.value() == batch.base_offset);
            cleaned.aborted.extend(ended.filter(|_| batch.is_control && !batch.records.is_empty()));
            cleaned.batches.push(batch.clone());
            continue;
        }
        let superseded = batch.records.iter().filter(|record| pass.superseded.contains(&record.offset)).count();
        let is_removable = filter.is_removable_unread(verified(&bytes).header(), superseded as u64);
        if is_removable && random.0.bool() {
            filter.remove_unread(verified(&bytes).header());
            continue;
        }
        let (filtered, kept) = super::pass(&mut filter, batch, &offsets);
        assert!(!is_removable || filtered.outcome == Outcome::Dropped || filtered.unread.is_some());
        cleaned.aborted.extend(filtered.carried);
        cleaned.batches.extend(kept);
    }
    cleaned
}

/// Of each key the newest committed record that can be read, with its value; and tombstones apart.
fn table(log: &Log) -> BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)> {
    let mut table = BTreeMap::new();
    for batch in log.batches.iter().filter(|batch| !batch.is_control && abortion(log, batch).is_none()) {
        for record in &batch.records {
            if let Some(key) = &record.key {
                table.insert(key.clone(), (record.offset, record.value.clone()));
            }
        }
    }
    table
}

#[test]
fn passes_agree_with_the_rules_told_of_the_whole_log() {
    for seed in 0..seeds() {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let mut log = random_log(&mut random);
        let (mut now, whole) = (1_700_000_000_000, table(&log));
        for round in 0..5 {
            let pass = random_pass(&mut random, &log, now);
            let expected = naive_pass(&log, &pass);
            let found = filtered_pass(&mut random, &log, &pass);
            assert_eq!(found.batches, expected.batches, "seed {seed}, round {round}");
            assert_eq!(found.aborted, expected.aborted, "seed {seed}, round {round}");
            log = found;
            now += random.0.i64(0..900);
        }
        let values = |table: &BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)>| {
            let values = table.iter().filter(|(_, (_, value))| value.is_some());
            values.map(|(key, found)| (key.clone(), found.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(&table(&log)), values(&whole), "of each key the newest value; seed {seed}");
    }
}

#[expect(clippy::disallowed_methods, reason = "fixtures are read from the real disk")]
fn fixture(partition: &str) -> Log {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka").join(partition);
    let mut files: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut log = Log::default();
    for file in files {
        let base = file.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("log") => {
                let bytes = std::fs::read(&file).unwrap();
                let batches = crate::record::batches(&bytes, u32::MAX).map(Result::unwrap);
                log.batches.extend(batches.map(|batch| NaiveBatch::decode(batch.bytes())));
            }
            Some("txnindex") => {
                let bytes = std::fs::read(&file).unwrap();
                let index = crate::index::AbortedTxns::decode(&bytes, at(base.unwrap())).unwrap();
                log.aborted.extend(index.entries());
            }
            _ => {}
        }
    }
    log
}

fn whole_pass(log: &Log, now: i64) -> Pass {
    let upper = log.batches.iter().take_while(|batch| batch.producer_id != 5000).last().unwrap().last_offset + 1;
    let rules = FilterRules { now: TimestampMs::new(now), upper: at(upper), ..rules() };
    let newest = newest(log, &rules);
    let is_superseded = |record: &&crate::record::naive_tests::NaiveRecord| {
        record.key.as_ref().and_then(|key| newest.get(key)).is_some_and(|newest| record.offset < *newest)
    };
    let records = log.batches.iter().flat_map(|batch| &batch.records).filter(is_superseded);
    let superseded = records.map(|record| record.offset).collect();
    Pass { left: vec![false; log.batches.len()], known: BTreeMap::new(), superseded, rules }
}

#[test]
fn what_kafka_wrote_is_cleaned_to_the_newest_of_each_key() {
    let log = fixture("compact-before-0");
    let mut random = Random(fastrand::Rng::with_seed(0));
    let whole = table(&log);
    let cleaned = filtered_pass(&mut random, &log, &whole_pass(&log, 10_000));
    let records: usize = cleaned.batches.iter().map(|batch| batch.records.len()).sum();
    assert_eq!((table(&cleaned), records), (whole.clone(), whole.len()));
    assert_eq!(end_of(&cleaned), end_of(&log));
    assert!(cleaned.batches.len() < log.batches.len() / 2);
    // A second pass changes nothing; one past the horizon takes the tombstones along.
    let again = filtered_pass(&mut random, &cleaned, &whole_pass(&cleaned, 10_100));
    assert_eq!(again.batches, cleaned.batches);
    let last = filtered_pass(&mut random, &again, &whole_pass(&again, 10_500));
    let values = whole.into_iter().filter(|(_, (_, value))| value.is_some()).collect();
    assert_eq!(table(&last), values);
    assert_eq!(end_of(&last), end_of(&log));
}

#[test]
fn the_transactions_that_kafka_wrote_leave_markers_first_and_then_nothing() {
    let log = fixture("txn-0");
    let mut random = Random(fastrand::Rng::with_seed(0));
    assert!(log.aborted.len() > 3);
    let first = filtered_pass(&mut random, &log, &whole_pass(&log, 10_000));
    assert_eq!(first.aborted, log.aborted, "data was met");
    assert!(first.batches.iter().all(|batch| batch.records.is_empty() || abortion(&first, batch).is_none()));
    assert_eq!(table(&first), table(&log));
    let second = filtered_pass(&mut random, &first, &whole_pass(&first, 10_100));
    let third = filtered_pass(&mut random, &second, &whole_pass(&second, 10_600));
    let markers = |log: &Log| log.batches.iter().filter(|batch| batch.is_control && !batch.records.is_empty()).count();
    assert!(markers(&first) == markers(&log) && markers(&third) < markers(&second), "{}", markers(&third));
    assert_eq!(markers(&second), markers(&log));
    assert_eq!(second.aborted.len(), 0);
    assert_eq!(end_of(&third), end_of(&log));
}
