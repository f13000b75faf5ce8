//! `stat` says what lies in a data directory, and touches nothing.

use std::time::Duration;

use alluvium::store::{Store, StoreConfig, TopicPartition};
use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, TimestampMs};

use super::{path, refusal, run, stdout, text};

fn store_in(dir: &std::path::Path) -> Store {
    let store = Store::open(StoreConfig::new(dir)).unwrap();
    for number in 0..3 {
        let name = TopicPartition::new("orders", number).unwrap();
        let partition = store.create(&name, LogConfig::default()).unwrap();
        for _ in 0..=number {
            let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build().unwrap();
            let epoch = LeaderEpoch::new(0).unwrap();
            partition.append(batch, AppendAs::Client { epoch }).unwrap();
        }
    }
    store
}

fn lines(dir: &std::path::Path) -> (i32, Vec<serde_json::Value>) {
    let output = run(["stat", "--json", path(dir)]);
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().unwrap(), lines)
}

#[test]
fn partitions_are_told_while_the_store_is_open_and_after_it_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let (code, open) = lines(dir.path());
    assert_eq!((code, open.len()), (0, 4));
    assert_eq!((open[3]["in_use"].as_bool(), open[3]["was_clean"].as_bool()), (Some(true), Some(false)));
    store.close(Duration::from_secs(20)).unwrap();
    drop(store);
    let (code, closed) = lines(dir.path());
    assert_eq!((code, closed.len()), (0, 4));
    for number in 0..3 {
        for said in [&open[number], &closed[number]] {
            assert_eq!(said["partition"], format!("orders-{number}"));
            assert_eq!((said["log_start"].as_i64(), said["log_end"].as_u64()), (Some(0), Some(number as u64 + 1)));
        }
        assert_eq!((closed[number]["left"].as_str(), closed[number]["segments"].as_u64()), (Some("clean"), Some(1)));
    }
    assert_eq!((closed[3]["in_use"].as_bool(), closed[3]["was_clean"].as_bool()), (Some(false), Some(true)));
    assert_eq!(closed[3]["witness"]["is_unbroken"].as_bool(), Some(true));
    let said = stdout(&run(["stat", path(dir.path())]));
    for needle in ["orders-2", "recovery-point-offset-checkpoint: 3 partitions", "last shutdown clean", "3 partitions,"]
    {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
}

#[test]
fn what_is_wrong_is_named_and_makes_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    store.close(Duration::from_secs(20)).unwrap();
    drop(store);
    std::fs::write(dir.path().join("replication-offset-checkpoint"), "0\nnonsense\n").unwrap();
    std::fs::create_dir(dir.path().join("empty-7")).unwrap();
    let output = run(["stat", path(dir.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("replication-offset-checkpoint: WRONG"), "{said}");
    assert!(said.contains("empty-7: WRONG"), "{said}");
}

#[test]
fn what_is_no_directory_is_refused() {
    assert!(refusal(&run(["stat", "/nowhere/at.all"])).contains("/nowhere/at.all"));
}
