use fastrand::Rng;

use super::*;
use crate::fs::OsFileSystem;

fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number).unwrap()
}

fn file(name: &str) -> Entry {
    classify(&DirEntry { name: name.into(), kind: EntryKind::File })
}

fn dir(name: &str) -> Entry {
    classify(&DirEntry { name: name.into(), kind: EntryKind::Directory })
}

const HEX: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn directories_are_told_apart() {
    assert_eq!(dir("orders-0"), Entry::Partition(partition("orders", 0)));
    assert_eq!(dir(".hidden-7"), Entry::Partition(partition(".hidden", 7)));
    assert_eq!(dir("__cluster_metadata-0"), Entry::ClusterMetadata(partition(CLUSTER_METADATA_TOPIC, 0)));
    assert_eq!(dir("remote-log-index-cache"), Entry::RemoteLogIndexCache);
    for (suffix, fate) in [("delete", Fate::Delete), ("future", Fate::Future), ("stray", Fate::Stray)] {
        let Entry::Marked(marked) = dir(&format!("a.b-c-10.{HEX}-{suffix}")) else { panic!("{suffix}") };
        assert_eq!((marked.fate(), marked.partition()), (fate, Some(partition("a.b-c", 10))));
        assert_eq!(marked.id().to_string(), HEX);
    }
    assert_eq!(dir("lost+found"), Entry::Ignorable);
    assert_eq!(dir(".Trash"), Entry::Ignorable);
    for name in ["orders", "orders-01", "orders-x", "-0", "meta.properties", "two words-0", ".lock", "alluvium.spill"] {
        assert_eq!(dir(name), Entry::UnknownDir, "{name}");
    }
}

#[test]
fn marked_names_that_nobody_writes_are_unknown() {
    for name in [
        format!("orders-0.{HEX}-deleted"),
        format!("orders-0.{HEX}"),
        format!("orders-0-{HEX}-delete"),
        format!("orders.{HEX}-delete"),
        format!("orders-00.{HEX}-delete"),
        format!("orders-0.{}-delete", HEX.to_uppercase()),
        format!("orders-0.{}-delete", &HEX[1..]),
        format!("orders-0.+{}-delete", &HEX[1..]),
        format!("two words-0.{HEX}-delete"),
        format!("-0.{HEX}-stray"),
        format!("{}-0.{HEX}-stray", "a".repeat(215)),
        "orders-0.-delete".to_owned(),
        "-delete".to_owned(),
    ] {
        assert_eq!(dir(&name), Entry::UnknownDir, "{name}");
    }
}

#[test]
fn files_are_told_apart() {
    for kind in CheckpointKind::ALL {
        assert_eq!(file(kind.file_name()), Entry::Checkpoint(kind));
        assert_eq!(file(&format!("{}.tmp", kind.file_name())), Entry::Temporary);
    }
    assert_eq!(file(".lock"), Entry::Lock);
    assert_eq!(file(".kafka_cleanshutdown"), Entry::CleanShutdown);
    assert_eq!(file(".kafka_cleanshutdown.tmp"), Entry::Temporary);
    assert_eq!(file("meta.properties"), Entry::MetaProperties);
    assert_eq!(file("meta.properties.tmp"), Entry::Temporary);
    assert_eq!(file("alluvium.anything"), Entry::Ours);
    assert_eq!(file("alluvium.anything.tmp"), Entry::Temporary);
    assert_eq!(file(".DS_Store"), Entry::Ignorable);
    for name in ["orders-0", "holiday.jpg", "x.tmp", ".lock.tmp", "remote-log-index-cache", "leader-epoch-checkpoint"] {
        assert_eq!(file(name), Entry::UnknownFile, "{name}");
    }
}

#[test]
fn long_topics_are_cut_where_kafka_cuts_them() {
    let id = UniqueId::from_random(0);
    let long = "t".repeat(249);
    for (fate, kept) in [(Fate::Delete, 255 - "-17.".len() - 32 - 7), (Fate::Stray, 255 - "-17.".len() - 32 - 6)] {
        let marked = MarkedDir::new(&partition(&long, 17), fate, id).unwrap();
        assert_eq!(marked.name(), format!("{}-17.{id}{}", "t".repeat(kept), fate.suffix()));
        assert_eq!(marked.partition(), None, "nobody can tell what was cut");
        assert_eq!(MarkedDir::parse(&marked.name()), Some(marked));
        // One character less is not cut, and known not to be.
        let whole = MarkedDir::new(&partition(&"t".repeat(kept - 1), 17), fate, id).unwrap();
        assert_eq!(whole.partition(), Some(partition(&"t".repeat(kept - 1), 17)));
    }
    let too_long = MarkedDir::new(&partition(&long, 17), Fate::Future, id);
    assert_eq!(too_long, Err(NameFault::DirNameLength { bytes: 249 + 4 + 32 + 7 }));
    let exact = partition(&"t".repeat(212), 17);
    let future = MarkedDir::new(&exact, Fate::Future, id).unwrap();
    assert_eq!((future.name().len(), future.partition()), (255, Some(exact)));
}

#[test]
fn every_marked_name_reads_back() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000_u64);
    for seed in 0..seeds {
        let mut rng = Rng::with_seed(seed);
        let len = if rng.bool() { rng.usize(1..=249) } else { rng.usize(200..=249) };
        let topic: String = (0..len).map(|_| char::from(*rng.choice(b"aZ9._-").unwrap())).collect();
        let Ok(live) = TopicPartition::new(&topic, rng.i32(0..) >> rng.u32(0..31)) else { continue };
        let fate = Fate::ALL[rng.usize(0..3)];
        let Ok(marked) = MarkedDir::new(&live, fate, UniqueId::from_random(rng.u128(..))) else {
            assert_eq!(fate, Fate::Future, "seed {seed}");
            continue;
        };
        assert!(marked.name().len() <= DIR_NAME_BYTES_MAX);
        assert_eq!(dir(&marked.name()), Entry::Marked(marked.clone()), "seed {seed}");
        assert!(marked.partition().is_none_or(|found| found == live), "seed {seed}");
        // A bit of damage never yields the name of something else that would print differently.
        let mut bytes = marked.name().into_bytes();
        let at = rng.usize(0..bytes.len());
        bytes[at] = rng.u8(..);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match dir(&text) {
            Entry::Marked(found) => assert_eq!(found.name(), text, "seed {seed}"),
            Entry::Partition(found) => assert_eq!(found.dir_name(), text, "seed {seed}"),
            _ => {}
        }
    }
}

#[test]
fn links_are_what_they_lead_to() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = root.path().join("elsewhere");
    let data = root.path().join("data");
    OsFileSystem.create_dir(&elsewhere).unwrap();
    OsFileSystem.create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&elsewhere, data.join("orders-0")).unwrap();
    std::os::unix::fs::symlink(root.path().join("nowhere"), data.join("orders-1")).unwrap();
    let listed = list(&OsFileSystem, &data).unwrap();
    let found: Vec<_> = listed.into_iter().map(|listed| listed.entry).collect();
    assert_eq!(found, [Entry::Partition(partition("orders", 0)), Entry::UnknownFile]);
}
