//! Producers, transactions, leader epochs and marks of Kafka's directories are those that Kafka had when it wrote them,
//! wherever they come from: Kafka's snapshots, the batches alone, or what we wrote at a clean close.

use std::fs;
use std::path::Path;

use alluvium::index::producer::read_snapshot;
use alluvium::index::{AbortedTxn, EpochEnd, EpochStart, ProducerState};
use alluvium::{Isolation, LeaderEpoch, Offset, PartitionLog, ProducerId, ReadOptions};

use crate::fixtures::{Fixture, all, at_the_time, contents_for_kafka, fixture, is_kind, offset};

const FROM_BATCHES: &str = "from the batches alone";

/// Opens the fixture in every way there is, and shows each to `check`.
fn in_every_way(fixture: &Fixture, check: impl Fn(&PartitionLog, &str)) {
    let is_derived = |name: &str| ["snapshot", "txnindex"].iter().any(|kind| is_kind(name, kind));
    let (_temp, dir) = fixture.copy();
    let log = at_the_time().open(&dir, fixture.config()).unwrap();
    check(&log, "as Kafka left it");
    log.close().unwrap();
    let log = at_the_time().open(&dir, fixture.config()).unwrap();
    assert!(log.recovery_report().was_clean);
    check(&log, "after a clean close");
    drop(log);
    let log = at_the_time().open(&dir, fixture.config()).unwrap();
    check(&log, "after no close at all");
    log.close().unwrap();
    remove(&dir, |name| is_kind(name, "snapshot"));
    let log = at_the_time().open(&dir, fixture.config()).unwrap();
    assert!(log.recovery_report().was_clean);
    check(&log, "after a clean close, with the snapshots gone");

    let (_temp, dir) = fixture.copy();
    remove(&dir, |name| is_derived(name) || name == "leader-epoch-checkpoint");
    check(&at_the_time().open(&dir, fixture.config()).unwrap(), FROM_BATCHES);
}

fn remove(dir: &Path, which: impl Fn(&str) -> bool) {
    for name in contents_for_kafka(dir).into_keys().filter(|name| which(name)) {
        fs::remove_file(dir.join(name)).unwrap();
    }
}

/// The text between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap().1;
    rest.split_once(after).map_or(rest, |(found, _)| found)
}

/// A producer as the manifest's note has it: id, epoch, last sequence, coordinator epoch, start of its transaction.
type Noted = [i64; 5];

fn noted(note: &str) -> Vec<Noted> {
    let mut producers: Vec<Noted> = note
        .split('{')
        .skip(1)
        .map(|entry| {
            let fields = ["id=", ",epoch=", ",lastSeq=", ",coordinatorEpoch=", ",currentTxnStart="];
            let number = |field: &str| {
                let rest = between(entry, field, "}");
                rest.split(',').next().unwrap().parse().unwrap()
            };
            fields.map(number)
        })
        .collect();
    producers.sort_unstable();
    producers
}

fn as_noted(producer: &ProducerState) -> Noted {
    [
        producer.producer_id.value(),
        i64::from(producer.epoch.value()),
        producer.last_sequence.map_or(-1, |sequence| i64::from(sequence.value())),
        producer.coordinator_epoch.map_or(-1, i64::from),
        producer.open_transaction.map_or(-1, Offset::value),
    ]
}

#[test]
fn producers_and_the_last_stable_offset_are_those_of_the_note() {
    let fixture = fixture("txn-0");
    let note = fixture.manifest["note"].as_str().unwrap();
    let right = noted(note);
    assert_eq!(right.len(), 7);
    let stable: i64 = between(note, "last stable offset ", " ").parse().unwrap();
    let end: i64 = between(note, "log end offset ", ";").parse().unwrap();
    let kafkas = fs::read(fixture.dir.join(format!("{end:020}.snapshot"))).unwrap();
    let kafkas = read_snapshot(&kafkas).unwrap();
    in_every_way(&fixture, |log, how| {
        let producers = log.producers();
        assert_eq!(producers.iter().map(as_noted).collect::<Vec<_>>(), right, "{how}");
        // With offsets and timestamps, which the note does not have.
        assert_eq!(producers, kafkas, "{how}");
        let marks = log.marks();
        assert_eq!((marks.last_stable.value(), marks.log_end.value()), (stable, end), "{how}");
        assert_eq!(marks.high_watermark, marks.log_end, "{how}");
    });
}

#[test]
fn logs_without_transactions_are_stable_to_their_end() {
    for fixture in all().filter(|fixture| fixture.name != "txn-0") {
        in_every_way(&fixture, |log, how| {
            let marks = log.marks();
            assert_eq!(marks.last_stable, marks.log_end, "{} {how}", fixture.name);
            assert_eq!((marks.high_watermark, marks.durable_end), (marks.log_end, marks.log_end));
            assert_eq!(log.producers(), [], "{} {how}", fixture.name);
        });
    }
}

#[test]
fn epochs_and_their_ends_are_those_of_the_note() {
    let fixture = fixture("epochs-0");
    let epoch = |text: &str| LeaderEpoch::new(text.parse().unwrap()).unwrap();
    let at = |text: &str| Offset::new(text.parse().unwrap()).unwrap();
    let note = fixture.manifest["note"].as_str().unwrap();
    let answers: Vec<(LeaderEpoch, Option<EpochEnd>)> = note
        .split("endOffsetForEpoch(")
        .skip(1)
        .map(|answer| {
            let (asked, found) = answer.trim_end_matches("; ").split_once(")=").unwrap();
            let found = found.split_once('@').map(|(found, end)| EpochEnd { epoch: epoch(found), end: at(end) });
            (epoch(asked), found)
        })
        .collect();
    assert_eq!(answers.len(), 9);
    let text = fixture.manifest["text"]["leader-epoch-checkpoint"].as_str().unwrap();
    let starts: Vec<EpochStart> = text
        .lines()
        .skip(2)
        .map(|line| line.split_once(' ').unwrap())
        .map(|(number, start)| EpochStart { epoch: epoch(number), start: at(start) })
        .collect();
    in_every_way(&fixture, |log, how| {
        assert_eq!(log.leader_epochs(), starts, "{how}");
        for (asked, right) in &answers {
            assert_eq!(log.end_offset_for_epoch(*asked), *right, "{asked} {how}");
        }
        // A follower that has the same log is told nothing else, one that goes past an epoch's end is.
        let newest = log.leader_epoch().unwrap();
        assert_eq!(log.divergence(log.log_end(), newest), None);
        let end = log.end_offset_for_epoch(epoch("3")).unwrap();
        assert_eq!(log.divergence(end.end, epoch("3")), None, "{how}");
        assert_eq!(log.divergence(end.end.next().unwrap(), epoch("3")), Some(end), "{how}");
    });
}

#[test]
fn epochs_of_every_directory_are_kafkas() {
    for fixture in all() {
        let text = fixture.manifest["text"]["leader-epoch-checkpoint"].as_str().unwrap();
        in_every_way(&fixture, |log, how| {
            let found: Vec<String> =
                log.leader_epochs().iter().map(|entry| format!("{} {}", entry.epoch, entry.start)).collect();
            let mut right: Vec<String> = text.lines().skip(2).map(str::to_owned).collect();
            if fixture.name == "logdir/orders-1" {
                // Kafka's log begins at 23; ours with its first segment (see `right_files`).
                assert_eq!(right, ["0 23"]);
                right = vec!["0 0".to_owned()];
            }
            if fixture.name == "logdir/users-0" && how == FROM_BATCHES {
                // The cleaner took the batches below 5, with which the epoch had begun.
                assert_eq!(right, ["0 0"]);
                right = vec!["0 5".to_owned()];
            }
            assert_eq!(found, right, "{} {how}", fixture.name);
        });
    }
}

/// For every range that a consumer may fetch.
#[test]
fn aborted_transactions_of_every_range_are_those_of_the_manifest() {
    let fixture = fixture("txn-0");
    let index = fixture.manifest["txnIndex"].as_object().unwrap();
    let all: Vec<AbortedTxn> = index
        .values()
        .flat_map(|entries| entries.as_array().unwrap())
        .map(|entry| AbortedTxn {
            producer_id: ProducerId::new(entry["producerId"].as_i64().unwrap()).unwrap(),
            first_offset: offset(&entry["firstOffset"]),
            last_offset: offset(&entry["lastOffset"]),
            last_stable_offset: offset(&entry["lastStableOffset"]),
        })
        .collect();
    assert_eq!(all.len(), 5);
    in_every_way(&fixture, |log, how| {
        for from in 0..log.log_end().value() {
            for max_bytes in [0, 300, 900, 2500, 1 << 20] {
                let from = Offset::new(from).unwrap();
                let options = ReadOptions { max_bytes, isolation: Isolation::Stable, ..ReadOptions::default() };
                let fetched = log.read(from, &options).unwrap();
                if fetched.is_empty() {
                    assert!(from >= log.marks().last_stable && fetched.aborted().is_empty(), "{from} {how}");
                    continue;
                }
                let upper = fetched.next_offset().unwrap();
                assert!(upper <= log.marks().last_stable);
                let is_needed = |txn: &&AbortedTxn| txn.last_offset >= from && txn.first_offset < upper;
                let right: Vec<AbortedTxn> = all.iter().filter(is_needed).copied().collect();
                assert_eq!(fetched.aborted(), right, "{from}..{upper} {how}");
            }
        }
    });
}
