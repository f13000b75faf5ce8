//! The data directory that Kafka wrote: every entry has a name, every file says what the manifest says.

use std::collections::BTreeMap;
use std::fs;

use alluvium::Offset;
use alluvium::fs::OsFileSystem;
use alluvium::store::{
    CheckpointKind, DirectoryId, Entry, Identity, MetaProperties, MetaVersion, NodeId, OffsetCheckpoint, Others,
    TopicPartition, claim_topic_id, is_clean_shutdown, list, mark_clean_shutdown, read_topic_id, remove_clean_shutdown,
};

use crate::fixtures::{all, fixture};

fn partition(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

#[test]
fn every_entry_is_known() {
    let directory = fixture("logdir");
    let mut expected = BTreeMap::from([
        (".kafka_cleanshutdown", Entry::CleanShutdown),
        ("meta.properties", Entry::MetaProperties),
        ("orders-0", Entry::Partition(partition("orders-0"))),
        ("orders-1", Entry::Partition(partition("orders-1"))),
        ("users-0", Entry::Partition(partition("users-0"))),
        // Ours, about the fixtures.
        ("orders-0.manifest.json", Entry::UnknownFile),
        ("orders-1.manifest.json", Entry::UnknownFile),
        ("users-0.manifest.json", Entry::UnknownFile),
    ]);
    expected.extend(CheckpointKind::ALL.map(|kind| (kind.file_name(), Entry::Checkpoint(kind))));
    let listed = list(&OsFileSystem, &directory.dir).unwrap();
    let found: BTreeMap<&str, Entry> = listed.iter().map(|one| (one.name.as_str(), one.entry.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_checkpoint_says_what_the_manifest_says_and_is_written_the_same() {
    let directory = fixture("logdir");
    let copy = tempfile::tempdir().unwrap();
    for kind in CheckpointKind::ALL {
        let text = directory.manifest["text"][kind.file_name()].as_str().unwrap();
        let found = OffsetCheckpoint::read(&OsFileSystem, &directory.dir, kind).unwrap();
        assert_eq!((found.fault(), found.strangers()), (None, &[][..]));
        let lines: Vec<String> = found
            .offsets()
            .map(|(partition, offset)| format!("{} {} {offset}", partition.topic(), partition.partition()))
            .collect();
        let mut expected: Vec<&str> = text.lines().skip(2).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected, "{kind:?}");
        found.replace(&OsFileSystem, copy.path()).unwrap();
        assert_eq!(fs::read(copy.path().join(kind.file_name())).unwrap(), text.as_bytes(), "{kind:?}");
        assert_eq!(OffsetCheckpoint::read(&OsFileSystem, copy.path(), kind).unwrap(), found);
    }
}

#[test]
fn checkpoints_name_partitions_that_are_there() {
    let directory = fixture("logdir");
    for kind in CheckpointKind::ALL {
        let mut found = OffsetCheckpoint::read(&OsFileSystem, &directory.dir, kind).unwrap();
        let offsets: BTreeMap<TopicPartition, Offset> =
            found.offsets().map(|(partition, offset)| (partition.clone(), offset)).collect();
        assert!(offsets.keys().all(|partition| directory.dir.join(partition.dir_name()).is_dir()), "{kind:?}");
        assert!(!found.update(&offsets, Others::Drop), "nothing is new and nothing gone");
    }
}

#[test]
fn the_directory_belongs_to_the_golden_cluster() {
    let directory = fixture("logdir");
    let meta = MetaProperties::read(&OsFileSystem, &directory.dir).unwrap().unwrap();
    assert_eq!((meta.version(), meta.cluster_id()), (MetaVersion::V1, Some("golden-cluster")));
    assert_eq!((meta.node_id(), meta.directory_id()), (NodeId::new(1), DirectoryId::new(5 << 64 | 6)));
    // But for the comment with the date, byte for byte.
    let text = directory.manifest["text"]["meta.properties"].as_str().unwrap();
    let without_comments: String = text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    assert_eq!(meta.encode(), without_comments.as_bytes());
    let known = Identity::default().verify(&[(directory.dir.clone(), meta)]).unwrap();
    assert_eq!(known, Identity { cluster_id: Some("golden-cluster".into()), node_id: NodeId::new(1) });
}

#[test]
fn topic_ids_are_read_and_written_as_kafka_does() {
    let mut files = 0;
    for fixture in all() {
        let bytes = fs::read(fixture.dir.join("partition.metadata")).unwrap();
        let id = read_topic_id(&OsFileSystem, &fixture.dir).unwrap().unwrap();
        assert!(bytes.ends_with(id.to_string().as_bytes()), "{}", fixture.name);
        claim_topic_id(&OsFileSystem, &fixture.dir, id).unwrap();
        let copy = tempfile::tempdir().unwrap();
        claim_topic_id(&OsFileSystem, copy.path(), id).unwrap();
        assert_eq!(fs::read(copy.path().join("partition.metadata")).unwrap(), bytes, "{}", fixture.name);
        files += 1;
    }
    assert_eq!(files, 10);
}

#[test]
fn the_clean_shutdown_marker_is_seen_and_ours_differs_in_the_epoch_alone() {
    const NAME: &str = ".kafka_cleanshutdown";
    let directory = fixture("logdir");
    assert!(is_clean_shutdown(&OsFileSystem, &directory.dir).unwrap());
    let copy = tempfile::tempdir().unwrap();
    fs::copy(directory.dir.join(NAME), copy.path().join(NAME)).unwrap();
    assert!(remove_clean_shutdown(&OsFileSystem, copy.path()).unwrap());
    assert!(!is_clean_shutdown(&OsFileSystem, copy.path()).unwrap());
    mark_clean_shutdown(&OsFileSystem, copy.path()).unwrap();
    let kafkas = fs::read_to_string(directory.dir.join(NAME)).unwrap();
    assert_eq!(fs::read_to_string(copy.path().join(NAME)).unwrap(), kafkas.replace('7', "-1"));
}
