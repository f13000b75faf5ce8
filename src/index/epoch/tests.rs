//! Each rule by an example, and random histories against a model that knows the epoch of every record.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;

fn epoch(value: i32) -> LeaderEpoch {
    LeaderEpoch::new(value).unwrap()
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
    let entries = entries.iter().map(|(number, start)| EpochStart { epoch: epoch(*number), start: at(*start) });
    LeaderEpochs { entries: entries.collect() }
}

fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
    epochs.entries().iter().map(|entry| (entry.epoch.value(), entry.start.value())).collect()
}

fn end_of(epochs: &LeaderEpochs, number: i32, log_end: i64) -> Option<(i32, i64)> {
    epochs.end_offset_for(epoch(number), at(log_end)).map(|found| (found.epoch.value(), found.end.value()))
}

#[test]
fn an_epoch_starts_once() {
    let mut found = LeaderEpochs::default();
    assert_eq!(found.latest(), None);
    assert!(found.assign(epoch(2), at(5)));
    assert!(!found.assign(epoch(2), at(5)));
    assert!(!found.assign(epoch(2), at(9)));
    assert!(found.assign(epoch(3), at(10)));
    assert_eq!(pairs(&found), [(2, 5), (3, 10)]);
    assert_eq!(found.latest(), Some(epoch(3)));
}

#[test]
fn what_contradicts_a_new_entry_is_dropped() {
    let before = [(1, 0), (3, 10), (5, 20), (7, 30)];
    for (assigned, after) in [
        // A later epoch from an offset that earlier ones claim.
        ((9, 30), &[(1, 0), (3, 10), (5, 20), (9, 30)][..]),
        ((9, 15), &[(1, 0), (3, 10), (9, 15)]),
        ((9, 0), &[(9, 0)]),
        // The newest epoch, from an earlier offset.
        ((7, 29), &[(1, 0), (3, 10), (5, 20), (7, 29)]),
        ((7, 20), &[(1, 0), (3, 10), (7, 20)]),
        // An earlier epoch after a later one.
        ((5, 40), &[(1, 0), (3, 10), (5, 40)]),
        ((4, 40), &[(1, 0), (3, 10), (4, 40)]),
        ((3, 5), &[(1, 0), (3, 5)]),
        ((1, 0), &[(1, 0)]),
        ((0, 40), &[(0, 40)]),
        ((0, 0), &[(0, 0)]),
    ] {
        let mut found = epochs(&before);
        assert!(found.assign(epoch(assigned.0), at(assigned.1)), "{assigned:?}");
        assert_eq!(pairs(&found), after, "{assigned:?}");
    }
}

#[test]
fn ends_are_kafkas() {
    let found = epochs(&[(2, 10), (4, 30), (7, 50)]);
    // The newest epoch ends with the log.
    assert_eq!(end_of(&found, 7, 60), Some((7, 60)));
    assert_eq!(end_of(&found, 7, 50), Some((7, 50)));
    // Later ones are undefined.
    assert_eq!(end_of(&found, 8, 60), None);
    assert_eq!(end_of(&found, i32::MAX, 60), None);
    // Those before the first had offsets that are gone.
    assert_eq!(end_of(&found, 0, 60), Some((0, 10)));
    assert_eq!(end_of(&found, 1, 60), Some((1, 10)));
    // A known one ends where the next starts, and an unknown one counts as the one before it.
    assert_eq!(end_of(&found, 2, 60), Some((2, 30)));
    assert_eq!(end_of(&found, 3, 60), Some((2, 30)));
    assert_eq!(end_of(&found, 4, 60), Some((4, 50)));
    assert_eq!(end_of(&found, 6, 60), Some((4, 50)));
    assert_eq!(end_of(&LeaderEpochs::default(), 0, 60), None);
}

#[test]
fn an_offset_has_the_epoch_that_began_last() {
    let found = epochs(&[(2, 10), (4, 30)]);
    let of = |offset| found.epoch_of(at(offset)).map(LeaderEpoch::value);
    assert_eq!([of(0), of(9), of(10), of(29)], [None, None, Some(2), Some(2)]);
    assert_eq!([of(30), of(31), of(i64::MAX)], [Some(4); 3]);
    assert_eq!(LeaderEpochs::default().epoch_of(Offset::ZERO), None);
}

#[test]
fn a_cut_drops_the_epochs_that_began_behind_it() {
    let before = [(2, 10), (4, 30), (7, 50)];
    for (end, kept) in [(51, 3), (50, 2), (49, 2), (31, 2), (30, 1), (11, 1), (10, 0), (0, 0)] {
        let mut found = epochs(&before);
        assert_eq!(found.truncate_from_end(at(end)), kept < 3, "{end}");
        assert_eq!(pairs(&found), before[..kept], "{end}");
    }
    assert!(!LeaderEpochs::default().truncate_from_end(Offset::ZERO));
}

#[test]
fn the_log_start_raises_the_start_of_the_epoch_that_covers_it() {
    for (start, changes, after) in [
        (0, false, &[(2, 10), (4, 30), (7, 50)][..]),
        (9, false, &[(2, 10), (4, 30), (7, 50)]),
        (10, false, &[(2, 10), (4, 30), (7, 50)]),
        (11, true, &[(2, 11), (4, 30), (7, 50)]),
        (29, true, &[(2, 29), (4, 30), (7, 50)]),
        (30, true, &[(4, 30), (7, 50)]),
        (40, true, &[(4, 40), (7, 50)]),
        (50, true, &[(7, 50)]),
        (i64::MAX, true, &[(7, i64::MAX)]),
    ] {
        let mut found = epochs(&[(2, 10), (4, 30), (7, 50)]);
        assert_eq!(found.truncate_from_start(at(start)), changes, "{start}");
        assert_eq!(pairs(&found), after, "{start}");
        assert!(!found.truncate_from_start(at(start)), "a second time changes nothing");
    }
    assert!(!LeaderEpochs::default().truncate_from_start(at(5)));
}

#[test]
fn bytes_are_kafkas() {
    let text = b"0\n6\n0 0\n1 24\n3 36\n7 60\n8 72\n12 84\n";
    let found = LeaderEpochs::decode(text).unwrap();
    assert_eq!(pairs(&found), [(0, 0), (1, 24), (3, 36), (7, 60), (8, 72), (12, 84)]);
    assert_eq!(found.encode(), text);
    assert_eq!(LeaderEpochs::default().encode(), b"0\n0\n");
    assert_eq!(LeaderEpochs::decode(b"0\n0\n"), Ok(LeaderEpochs::default()));
    assert_eq!(LeaderEpochs::decode(b""), Ok(LeaderEpochs::default()));
    let largest = epochs(&[(0, 0), (i32::MAX, i64::MAX)]);
    assert_eq!(LeaderEpochs::decode(&largest.encode()), Ok(largest));
}

#[test]
fn entries_that_contradict_one_another_are_refused() {
    let fault = |text: &str| LeaderEpochs::decode(text.as_bytes()).unwrap_err();
    let order = |line, field| TextFault::Order { line, field };
    assert_eq!(fault("0\n2\n3 5\n3 6\n"), order(4, "epoch"));
    assert_eq!(fault("0\n2\n3 5\n2 6\n"), order(4, "epoch"));
    assert_eq!(fault("0\n2\n3 5\n4 5\n"), order(4, "start offset"));
    assert_eq!(fault("0\n2\n3 5\n4 4\n"), order(4, "start offset"));
    let epoch_max = i64::from(i32::MAX);
    let range = |field, value, max| TextFault::Range { line: 3, field, value, max };
    assert_eq!(fault("0\n1\n-1 5\n"), range("epoch", -1, epoch_max));
    assert_eq!(fault("0\n1\n2147483648 5\n"), range("epoch", epoch_max + 1, epoch_max));
    assert_eq!(fault("0\n1\n1 -5\n"), range("start offset", -5, i64::MAX));
    assert_eq!(fault("0\n1\n1 5 9\n"), TextFault::Fields { line: 3, found: 3, expected: 2 });
}

/// What a log has, record by record.
#[derive(Default)]
struct Model {
    /// Epoch of the record at an offset. The log start has one even when its record is gone.
    records: BTreeMap<i64, i32>,
    log_start: i64,
    log_end: i64,
}

impl Model {
    fn entries(&self) -> Vec<(i32, i64)> {
        let mut entries: Vec<(i32, i64)> = Vec::new();
        for (offset, number) in &self.records {
            if entries.last().is_none_or(|last| last.0 != *number) {
                entries.push((*number, *offset));
            }
        }
        entries
    }

    fn latest(&self) -> Option<i32> {
        self.records.values().next_back().copied()
    }

    fn append(&mut self, base: i64, count: i64, number: i32) {
        let contradicts = |offset: i64, other: i32| offset >= base || other >= number;
        let goes_on = self.latest() == Some(number) && self.records.iter().any(|(o, e)| *e == number && *o <= base);
        if !goes_on {
            self.records.retain(|offset, other| !contradicts(*offset, *other));
        }
        self.records.extend((base..base + count).map(|offset| (offset, number)));
        self.log_end = self.log_end.max(base + count);
    }

    fn truncate_to(&mut self, end: i64) {
        self.records.retain(|offset, _| *offset < end);
        self.log_end = self.log_end.min(end);
    }

    fn advance_start(&mut self, start: i64) {
        if let Some((_, number)) = self.records.range(..=start).next_back() {
            let number = *number;
            self.records.insert(start, number);
        }
        self.records.retain(|offset, _| *offset >= start);
        self.log_start = start;
    }

    /// By definition: a log that goes with ours up to the end of `number` can differ from it only behind the last
    /// offset of epochs up to `number`.
    fn end_of(&self, number: i32) -> Option<(i32, i64)> {
        let latest = self.latest()?;
        if number == latest {
            return Some((number, self.log_end));
        }
        let next = self.records.iter().find(|(_, other)| **other > number)?;
        let floor = self.records.values().filter(|other| **other <= number).max();
        Some((floor.copied().unwrap_or(number), *next.0))
    }
}

fn check(found: &LeaderEpochs, model: &Model, seed: u64) {
    assert_eq!(pairs(found), model.entries(), "seed {seed}");
    assert_eq!(found.latest().map(LeaderEpoch::value), model.latest(), "seed {seed}");
    for number in 0..model.latest().unwrap_or(0) + 3 {
        assert_eq!(end_of(found, number, model.log_end), model.end_of(number), "seed {seed}, epoch {number}");
    }
    for offset in model.log_start..model.log_end + 2 {
        let expected = model.records.range(..=offset).next_back().map(|(_, number)| *number);
        assert_eq!(found.epoch_of(at(offset)).map(LeaderEpoch::value), expected, "seed {seed}, offset {offset}");
    }
    assert_eq!(LeaderEpochs::decode(&found.encode()).as_ref(), Ok(found), "seed {seed}");
}

/// One step of a log's life; the model and the epochs take the same one.
fn step(rng: &mut Rng, found: &mut LeaderEpochs, model: &mut Model, conflicts: bool) -> (bool, bool) {
    let before = model.entries();
    let changed = match rng.u8(0..10) {
        0 => {
            let end = rng.i64(model.log_start..=model.log_end);
            model.truncate_to(end);
            found.truncate_from_end(at(end))
        }
        1 => {
            let start = rng.i64(model.log_start..=model.log_end);
            model.advance_start(start);
            found.truncate_from_start(at(start))
        }
        // A leader that was deposed, or a file that was not what the log says.
        2 if conflicts => {
            let number = rng.i32(0..=model.latest().unwrap_or(0) + 1);
            let base = rng.i64(model.log_start..=model.log_end);
            model.append(base, 1, number);
            found.assign(epoch(number), at(base))
        }
        _ => {
            let rises = if rng.u8(0..3) == 0 { rng.i32(1..3) } else { 0 };
            let number = model.latest().unwrap_or(0) + rises;
            // Compaction leaves gaps behind, which a follower takes over.
            let base = model.log_end + if rng.u8(0..4) == 0 { rng.i64(1..4) } else { 0 };
            model.append(base, rng.i64(1..5), number);
            found.assign(epoch(number), at(base))
        }
    };
    (changed, before != model.entries())
}

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

#[test]
fn random_lives_agree_with_the_epoch_of_every_record() {
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let (mut found, mut model) = (LeaderEpochs::default(), Model::default());
        let conflicts = rng.bool();
        for _ in 0..40 {
            let (says_changed, has_changed) = step(&mut rng, &mut found, &mut model, conflicts);
            assert_eq!(says_changed, has_changed, "seed {seed}");
            check(&found, &model, seed);
        }
    }
}

/// What recovery does: epochs taken anew from the batches are those of the log that wrote them.
#[test]
fn epochs_rebuilt_from_the_log_are_the_same() {
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let (mut found, mut model) = (LeaderEpochs::default(), Model::default());
        for _ in 0..40 {
            step(&mut rng, &mut found, &mut model, false);
        }
        let mut rebuilt = LeaderEpochs::default();
        for (offset, number) in &model.records {
            rebuilt.assign(epoch(*number), at(*offset));
        }
        assert_eq!(rebuilt, found, "seed {seed}");
    }
}

/// A follower asks the leader where its own newest epoch ends, cuts, and asks again, until the leader knows that epoch.
/// What is left is what both have, and the leader's records can follow.
#[test]
fn a_follower_that_went_astray_is_cut_to_what_both_logs_have() {
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        let mut leader: Vec<i32> = Vec::new();
        let mut number = 0;
        for _ in 0..rng.usize(0..20) {
            number += i32::from(rng.u8(0..4) == 0) * rng.i32(1..4);
            leader.push(number);
        }
        let common = rng.usize(0..=leader.len());
        let mut follower = leader[..common].to_vec();
        // An epoch has one leader: what the follower has alone is of epochs that the leader's log does not have.
        let mut own = follower.last().copied().unwrap_or(0);
        for _ in 0..rng.usize(0..10) {
            own += i32::from(rng.bool());
            while leader[common..].contains(&own) {
                own += 1;
            }
            follower.push(own);
        }
        let of = |log: &[i32]| {
            let mut epochs = LeaderEpochs::default();
            for (offset, number) in log.iter().enumerate() {
                epochs.assign(epoch(*number), at(i64::try_from(offset).unwrap()));
            }
            epochs
        };
        let leader_epochs = of(&leader);
        let leader_end = at(i64::try_from(leader.len()).unwrap());
        let mut rounds = 0;
        while let Some(newest) = of(&follower).latest() {
            rounds += 1;
            assert!(rounds < 50, "seed {seed}");
            let end = at(i64::try_from(follower.len()).unwrap());
            let mine = of(&follower);
            // Undefined: the follower's epoch is later than any of the leader, which has none of its records.
            let Some(answer) = leader_epochs.end_offset_for(newest, leader_end) else {
                let start = mine.entries().last().unwrap().start;
                follower.truncate(usize::try_from(start.value()).unwrap());
                continue;
            };
            let own_end = mine.end_offset_for(answer.epoch, end).map_or(answer.end, |own| own.end);
            let cut = usize::try_from(own_end.min(answer.end).value()).unwrap();
            let is_settled = answer.epoch == newest;
            follower.truncate(cut);
            if is_settled {
                break;
            }
        }
        assert!(leader.starts_with(&follower), "seed {seed}: {leader:?} {follower:?}");
        assert!(follower.len() >= common, "seed {seed}: nothing that both have is cut: {leader:?} {follower:?}");
    }
}
