//! The format, each refusal, and random transactions against a search through all records.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::*;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn txn(producer: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
    AbortedTxn {
        producer_id: ProducerId::new(producer).unwrap(),
        first_offset: at(first),
        last_offset: at(last),
        last_stable_offset: at(stable),
    }
}

fn index(txns: &[AbortedTxn]) -> AbortedTxns {
    let mut index = AbortedTxns::default();
    for txn in txns {
        index.push(*txn);
    }
    index
}

fn bytes(entries: &[(i16, [i64; 4])]) -> Vec<u8> {
    let entry = |(version, fields): &(i16, [i64; 4])| {
        [version.to_be_bytes().to_vec(), fields.map(i64::to_be_bytes).concat()].concat()
    };
    entries.iter().flat_map(entry).collect()
}

#[test]
fn bytes_are_kafkas() {
    let one = index(&[txn(0x0102_0304_0506_0708, 0x11, 0x2122, 0x2123)]);
    let mut expected = vec![0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0x21, 0x22, 0, 0, 0, 0, 0, 0, 0x21, 0x23]);
    assert_eq!(one.encode(), expected);
    assert_eq!(AbortedTxns::decode(&expected, at(0x2122)), Ok(one));
    assert_eq!(AbortedTxns::decode(b"", at(5)), Ok(AbortedTxns::default()));
    assert_eq!(AbortedTxns::default().encode(), b"");
}

#[test]
fn what_cannot_be_right_is_refused() {
    let fault = |entries: &[(i16, [i64; 4])]| AbortedTxns::decode(&bytes(entries), at(10)).unwrap_err();
    let field = |field| IndexFault::Field { entry: 0, field };
    assert_eq!(AbortedTxns::decode(&[0; 35], at(10)), Err(IndexFault::Length(35)));
    assert_eq!(fault(&[(1, [5, 11, 12, 13])]), IndexFault::Version { entry: 0, found: 1 });
    assert_eq!(fault(&[(256, [5, 11, 12, 13])]), IndexFault::Version { entry: 0, found: 256 });
    assert_eq!(fault(&[(-1, [5, 11, 12, 13])]), IndexFault::Version { entry: 0, found: -1 });
    assert_eq!(fault(&[(0, [-1, 11, 12, 13])]), field("producer id"));
    assert_eq!(fault(&[(0, [5, -1, 12, 13])]), field("first offset"));
    assert_eq!(fault(&[(0, [5, 13, 12, 13])]), field("first offset"));
    assert_eq!(fault(&[(0, [5, 11, -12, 13])]), field("last offset"));
    assert_eq!(fault(&[(0, [5, 11, i64::MAX, 13])]), field("last offset"));
    assert_eq!(fault(&[(0, [5, 11, 12, -1])]), field("last stable offset"));
    assert_eq!(fault(&[(0, [5, 11, 12, 14])]), field("last stable offset"));
    assert_eq!(fault(&[(0, [5, 1, 9, 10])]), IndexFault::Range(0));
    assert_eq!(fault(&[(0, [5, 1, 12, 13]), (0, [6, 2, 12, 13])]), IndexFault::Order(1));
    assert_eq!(fault(&[(0, [5, 1, 12, 13]), (0, [6, 2, 11, 12])]), IndexFault::Order(1));
    assert_eq!(fault(&[(0, [5, 1, 12, 13]), (0, [6, 2, 14, 12])]), IndexFault::Order(1));
    // What a file has that was made longer and never written.
    assert_eq!(AbortedTxns::decode(&[0; 68], Offset::ZERO), Err(IndexFault::Order(1)));
    // An aborted transaction without records, as early versions wrote it, and one from an earlier segment.
    let taken = bytes(&[(0, [5, 10, 10, 11]), (0, [5, 2, 12, 13])]);
    assert_eq!(AbortedTxns::decode(&taken, at(10)).unwrap().encode(), taken);
}

#[test]
fn a_fetch_gets_what_reaches_into_its_range() {
    // Kafka's own example of two producers at once: the second was open when the first was aborted.
    let all = [txn(3000, 7, 16, 17), txn(2000, 20, 28, 24), txn(3000, 24, 40, 41)];
    let index = index(&all);
    let found = |from, upper| {
        let mut found = Vec::new();
        let complete = index.collect(at(from), at(upper), &mut found);
        (found, complete)
    };
    assert_eq!(found(0, 7), (vec![], true), "nothing began below 7, and all that did was decided at 16");
    assert_eq!(found(0, 8), (vec![all[0]], true));
    assert_eq!(found(16, 17), (vec![all[0]], true));
    assert_eq!(found(17, 18), (vec![], true));
    assert_eq!(found(17, 21), (vec![all[1]], true));
    assert_eq!(found(21, 24), (vec![all[1]], true));
    assert_eq!(found(21, 25), (vec![all[1], all[2]], true));
    assert_eq!(found(29, 41), (vec![all[2]], true));
    assert_eq!(found(0, 42), (all.to_vec(), false), "a later segment may know of more");
    assert_eq!(found(41, 50), (vec![], false));
    assert_eq!(found(20, 20), (vec![], true), "a fetch of nothing needs nothing");
    assert_eq!(found(30, 20), (vec![], true));
    assert!(!AbortedTxns::default().collect(at(0), at(1), &mut Vec::new()));
}

#[test]
fn a_cut_drops_the_transactions_whose_markers_it_drops() {
    let all = [txn(3000, 7, 16, 17), txn(2000, 20, 28, 24)];
    for (offset, kept) in [(29, 2), (28, 1), (17, 1), (16, 0), (0, 0)] {
        let mut cut = index(&all);
        cut.truncate_to(at(offset));
        assert_eq!(cut.entries(), &all[..kept], "{offset}");
    }
}

/// What stands at an offset: a record of a transaction, or the marker of one.
#[derive(Clone, Copy)]
enum Entry {
    Plain,
    Data { producer: i64, txn: usize },
    Marker { producer: i64, aborts: bool },
}

/// A log of random transactions, and what its indexes should be told.
struct Model {
    log: Vec<Entry>,
    aborted: BTreeSet<usize>,
    entries: Vec<AbortedTxn>,
    /// Base offsets of the segments.
    bases: Vec<i64>,
}

impl Model {
    fn random(rng: &mut Rng) -> Self {
        let mut model = Self { log: Vec::new(), aborted: BTreeSet::new(), entries: Vec::new(), bases: vec![0] };
        let mut open: BTreeMap<i64, (usize, i64)> = BTreeMap::new();
        let mut next_txn = 0;
        for offset in 0..rng.i64(1..80) {
            if offset > 0 && rng.u8(0..12) == 0 {
                model.bases.push(offset);
            }
            let producer = rng.i64(0..4);
            let entry = match (rng.u8(0..8), open.get(&producer).copied()) {
                (0, _) => Entry::Plain,
                (1 | 2, Some((txn, first))) => {
                    open.remove(&producer);
                    let aborts = rng.u8(0..4) > 0;
                    if aborts {
                        model.aborted.insert(txn);
                        let stable = open.values().map(|(_, first)| *first).min().unwrap_or(offset + 1);
                        model.entries.push(self::txn(producer, first, offset, stable));
                    }
                    Entry::Marker { producer, aborts }
                }
                (_, state) => {
                    let txn = state.map_or(next_txn, |(txn, _)| txn);
                    next_txn = next_txn.max(txn + 1);
                    open.entry(producer).or_insert((txn, offset));
                    Entry::Data { producer, txn }
                }
            };
            model.log.push(entry);
        }
        model
    }

    /// One index a segment: the entries whose markers lie in it.
    fn indexes(&self) -> Vec<AbortedTxns> {
        let ends = self.bases.iter().skip(1).copied().chain([i64::MAX]);
        let within = |base: i64, end: i64| {
            let here = |txn: &&AbortedTxn| (base..end).contains(&txn.last_offset.value());
            index(&self.entries.iter().filter(here).copied().collect::<Vec<_>>())
        };
        self.bases.iter().zip(ends).map(|(base, end)| within(*base, end)).collect()
    }

    /// Which records of a fetch a consumer leaves out that was told `found`, as Kafka's does it: a producer's records
    /// are skipped from where a transaction began up to its marker.
    fn skipped(&self, from: i64, upper: i64, found: &[AbortedTxn]) -> Vec<i64> {
        let mut waiting = found.to_vec();
        waiting.sort_by_key(|txn| txn.first_offset);
        let mut waiting = waiting.into_iter().peekable();
        let (mut aborting, mut skipped) = (BTreeSet::new(), Vec::new());
        for offset in from..upper {
            while let Some(txn) = waiting.next_if(|txn| txn.first_offset.value() <= offset) {
                aborting.insert(txn.producer_id.value());
            }
            match self.log[usize::try_from(offset).unwrap()] {
                Entry::Marker { producer, aborts: true } => {
                    aborting.remove(&producer);
                }
                Entry::Data { producer, .. } if aborting.contains(&producer) => skipped.push(offset),
                Entry::Plain | Entry::Data { .. } | Entry::Marker { .. } => {}
            }
        }
        skipped
    }

    /// Which of them are of aborted transactions.
    fn aborted(&self, from: i64, upper: i64) -> Vec<i64> {
        let is_aborted = |offset: &i64| match self.log[usize::try_from(*offset).unwrap()] {
            Entry::Data { txn, .. } => self.aborted.contains(&txn),
            Entry::Plain | Entry::Marker { .. } => false,
        };
        (from..upper).filter(is_aborted).collect()
    }
}

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

#[test]
fn random_fetches_skip_what_was_aborted_and_nothing_else() {
    let mut stopped_early = 0;
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let model = Model::random(&mut rng);
        let indexes = model.indexes();
        let log_end = i64::try_from(model.log.len()).unwrap();
        for _ in 0..40 {
            let from = rng.i64(0..log_end);
            let upper = rng.i64(from + 1..=log_end);
            let mut found = Vec::new();
            let first = model.bases.partition_point(|base| *base <= from) - 1;
            let last = indexes[first..].iter().position(|index| index.collect(at(from), at(upper), &mut found));
            stopped_early += u32::from(last.is_some_and(|last| first + last + 1 < indexes.len()));
            let reaches = |txn: &&AbortedTxn| txn.last_offset >= at(from) && txn.first_offset < at(upper);
            let expected: Vec<_> = model.entries.iter().filter(reaches).copied().collect();
            assert_eq!(found, expected, "seed {seed}, {from}..{upper}");
            let skipped = model.skipped(from, upper, &found);
            assert_eq!(skipped, model.aborted(from, upper), "seed {seed}, {from}..{upper}");
        }
    }
    assert!(stopped_early > 100, "{stopped_early} searches ended before the last segment");
}

#[test]
fn random_indexes_are_read_back_and_cut_with_their_logs() {
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let model = Model::random(&mut rng);
        for (index, base) in model.indexes().iter().zip(&model.bases) {
            assert_eq!(AbortedTxns::decode(&index.encode(), at(*base)).as_ref(), Ok(index), "seed {seed}");
            let offset = at(rng.i64(0..100));
            let mut cut = index.clone();
            cut.truncate_to(offset);
            let left: Vec<_> = index.entries().iter().filter(|txn| txn.last_offset < offset).copied().collect();
            assert_eq!(cut.entries(), left, "seed {seed}");
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_read_as_it_stands() {
    let right = index(&[txn(3000, 7, 16, 17), txn(2000, 20, 28, 24), txn(3000, 24, 40, 41)]).encode();
    let mut refused = 0;
    for bit in 0..right.len() * 8 {
        let mut flipped = right.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match AbortedTxns::decode(&flipped, at(10)) {
            Ok(read) => assert_eq!(read.encode(), flipped),
            Err(_) => refused += 1,
        }
    }
    // Producer ids, and offsets within the bounds that the others give, can be anything.
    assert!(refused > right.len() * 8 / 2, "{refused}");
}
