//! The text checkpoints and transaction indexes that Kafka wrote: read as the manifests say, written again byte for byte,
//! and derived once more from the batches beside them.

use std::collections::BTreeMap;
use std::fs;

use alluvium::index::{AbortedTxn, AbortedTxns, EpochEnd, EpochStart, LeaderEpochs, decode_offsets, encode_offsets};
use alluvium::record::{batches, transaction_marker};
use alluvium::segment::SegmentFile;
use alluvium::{LeaderEpoch, Offset, ProducerId};
use serde_json::Value;

use crate::fixtures::{Fixture, all, contents, fixture, is_kind, offset};

const EPOCHS_FILE: &str = "leader-epoch-checkpoint";

fn epoch(value: i32) -> LeaderEpoch {
    LeaderEpoch::new(value).unwrap()
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// The entries of a checkpoint's text, field by field.
fn entries(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(2).map(|line| line.split(' ').collect()).collect()
}

fn epochs_of(fixture: &Fixture) -> LeaderEpochs {
    LeaderEpochs::decode(&fs::read(fixture.dir.join(EPOCHS_FILE)).unwrap()).unwrap()
}

#[test]
fn leader_epochs_are_read_and_written_as_kafka_does() {
    for fixture in all() {
        let text = fixture.manifest["text"][EPOCHS_FILE].as_str().unwrap();
        assert_eq!(fs::read(fixture.dir.join(EPOCHS_FILE)).unwrap(), text.as_bytes(), "{}", fixture.name);
        let start = |fields: &Vec<&str>| EpochStart {
            epoch: epoch(fields[0].parse().unwrap()),
            start: at(fields[1].parse().unwrap()),
        };
        let expected: Vec<EpochStart> = entries(text).iter().map(start).collect();
        let found = epochs_of(&fixture);
        assert_eq!(found.entries(), expected, "{}", fixture.name);
        assert_eq!(found.encode(), text.as_bytes(), "{}", fixture.name);
    }
}

#[test]
fn leader_epochs_taken_from_the_batches_are_kafkas() {
    for fixture in all() {
        let mut found = LeaderEpochs::default();
        for (_, batch) in fixture.batches().filter(|(_, batch)| batch["crcValid"] == true) {
            let number = i32::try_from(batch["partitionLeaderEpoch"].as_i64().unwrap()).unwrap();
            found.assign(epoch(number), offset(&batch["baseOffset"]));
        }
        let kafkas = epochs_of(&fixture);
        // One directory's log start was moved, which no batch tells.
        if let Some(first) = kafkas.entries().first() {
            found.truncate_from_start(first.start);
        }
        if fixture.name == "logdir/users-0" {
            // The cleaner removed the batch that the epoch began with: what is left of the log begins at 5. Kafka's file
            // still has the start; a rebuild cannot know it.
            assert_eq!(kafkas.entries(), [EpochStart { epoch: epoch(0), start: Offset::ZERO }]);
            assert_eq!(found.entries(), [EpochStart { epoch: epoch(0), start: at(5) }]);
        } else {
            assert_eq!(found, kafkas, "{}", fixture.name);
        }
    }
}

/// The driver asked Kafka's log for the ends, and the manifest's note has the answers.
#[test]
fn ends_of_epochs_are_kafkas() {
    let fixture = fixture("epochs-0");
    let found = epochs_of(&fixture);
    let log_end = offset(&fixture.batches().last().unwrap().1["lastOffset"]).next().unwrap();
    let note = fixture.manifest["note"].as_str().unwrap();
    let answers: Vec<&str> = note.split("endOffsetForEpoch(").skip(1).collect();
    assert!(answers.len() > 8, "{note}");
    for answer in answers {
        let (asked, answer) = answer.split_once(")=").unwrap();
        let expected = answer
            .trim_end_matches("; ")
            .split_once('@')
            .map(|(number, end)| EpochEnd { epoch: epoch(number.parse().unwrap()), end: at(end.parse().unwrap()) });
        assert_eq!(found.end_offset_for(epoch(asked.parse().unwrap()), log_end), expected, "{asked}");
    }
}

fn expected_txn(value: &Value) -> AbortedTxn {
    assert_eq!(value["version"], 0);
    AbortedTxn {
        producer_id: ProducerId::new(value["producerId"].as_i64().unwrap()).unwrap(),
        first_offset: offset(&value["firstOffset"]),
        last_offset: offset(&value["lastOffset"]),
        last_stable_offset: offset(&value["lastStableOffset"]),
    }
}

#[test]
fn aborted_transactions_are_read_and_written_as_kafka_does() {
    let mut files = 0;
    for fixture in all() {
        for (name, bytes) in contents(&fixture.dir).into_iter().filter(|(name, _)| is_kind(name, "txnindex")) {
            let listed = fixture.manifest["txnIndex"][&name].as_array().unwrap();
            let expected: Vec<AbortedTxn> = listed.iter().map(expected_txn).collect();
            let found = AbortedTxns::decode(&bytes, SegmentFile::parse(&name).unwrap().base).unwrap();
            assert_eq!(found.entries(), expected, "{name}");
            assert_eq!(found.encode(), bytes, "{name}");
            files += 1;
        }
    }
    assert_eq!(files, 3);
}

/// Follows the transactions through the batches, as an append or a recovery does, and arrives at Kafka's indexes.
#[test]
fn aborted_transactions_taken_from_the_batches_are_kafkas() {
    for fixture in all().filter(|fixture| !fixture.name.starts_with("torn")) {
        let mut open: BTreeMap<ProducerId, Offset> = BTreeMap::new();
        let mut markers = 0;
        for (name, bytes) in contents(&fixture.dir).into_iter().filter(|(name, _)| is_kind(name, "log")) {
            let mut found = AbortedTxns::default();
            for batch in batches(&bytes, u32::MAX) {
                let batch = batch.unwrap();
                let header = batch.header();
                let marker = transaction_marker(&batch).unwrap();
                let Some(producer_id) = header.producer_id.filter(|_| header.attributes.is_transactional()) else {
                    assert_eq!(marker, None);
                    continue;
                };
                let Some(marker) = marker else {
                    open.entry(producer_id).or_insert(header.base_offset);
                    continue;
                };
                markers += 1;
                let Some(first_offset) = open.remove(&producer_id) else { continue };
                let last_offset = header.last_offset();
                let last_stable_offset = open.values().min().copied().unwrap_or(last_offset.next().unwrap());
                if !marker.commit {
                    found.push(AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset });
                }
            }
            let index = fixture.dir.join(name.replace(".log", ".txnindex"));
            let kafkas = if index.exists() { fs::read(index).unwrap() } else { Vec::new() };
            assert_eq!(found.encode(), kafkas, "{} {name}", fixture.name);
        }
        assert_eq!(markers > 0, fixture.name == "txn-0", "{}", fixture.name);
    }
}

#[test]
fn offset_checkpoints_are_read_and_written_as_kafka_does() {
    let directory = fixture("logdir");
    let mut files = 0;
    for (name, bytes) in contents_of_files(&directory) {
        if !name.ends_with("-offset-checkpoint") {
            continue;
        }
        let text = directory.manifest["text"][&name].as_str().unwrap();
        assert_eq!(bytes, text.as_bytes(), "{name}");
        let found = decode_offsets(&bytes).unwrap();
        let mut expected: Vec<(String, i32, Offset)> = entries(text)
            .iter()
            .map(|fields| (fields[0].to_owned(), fields[1].parse().unwrap(), at(fields[2].parse().unwrap())))
            .collect();
        // Kafka writes them in the order of a hash map, which happens to be ours in these files.
        expected.sort();
        assert_eq!(found, expected, "{name}");
        assert_eq!(encode_offsets(&found), bytes, "{name}");
        files += 1;
    }
    assert_eq!(files, 4);
}

/// The files of the data directory, without the partitions.
fn contents_of_files(directory: &Fixture) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(&directory.dir).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}
