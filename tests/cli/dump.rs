//! `dump`: what it says of directories that Kafka wrote.

use serde_json::Value;

use super::{kafka_copy, path, refusal, run, stdout};

fn lines(args: &[&str]) -> Vec<Value> {
    stdout(&run(args)).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

#[test]
fn batches_are_those_of_the_manifest() {
    for name in ["plain-0", "codecs-0", "txn-0", "epochs-0", "compact-before-0"] {
        let copy = kafka_copy(name);
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka");
        let manifest = std::fs::read(fixtures.join(format!("{name}.manifest.json"))).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let expected: Vec<(i64, i64)> = manifest["segments"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|segment| segment["entries"].as_array().unwrap())
            .map(|batch| (batch["baseOffset"].as_i64().unwrap(), batch["lastOffset"].as_i64().unwrap()))
            .collect();
        let dumped = lines(&["dump", "--json", path(copy.path())]);
        let batches = of_type(&dumped, "batch");
        let found: Vec<(i64, i64)> = batches
            .iter()
            .map(|batch| (batch["base_offset"].as_i64().unwrap(), batch["last_offset"].as_i64().unwrap()))
            .collect();
        assert_eq!(found, expected, "{name}");
        assert!(batches.iter().all(|batch| batch["crc_ok"] == true), "{name}");
    }
}

#[test]
fn records_and_indexes_are_printed_on_request() {
    let copy = kafka_copy("txn-0");
    let dumped = lines(&["dump", "--records", "--indexes", "--json", path(copy.path())]);
    assert!(of_type(&dumped, "batch").is_empty());
    let records = of_type(&dumped, "record");
    assert_eq!(records.len(), 112);
    assert!(records.iter().any(|record| record["control"].as_str().is_some_and(|c| c.starts_with("Abort"))));
    assert!(!of_type(&dumped, "offset_index").is_empty());
    assert!(!of_type(&dumped, "time_index").is_empty());
    let human = stdout(&run(["dump", "--batches", "--records", "--indexes", path(copy.path())]));
    assert!(human.contains("transactional,control"), "{human}");
}

#[test]
fn producers_transactions_and_epochs_are_those_of_the_manifest() {
    let copy = kafka_copy("txn-0");
    let dumped = lines(&["dump", "--producers", "--json", path(copy.path())]);
    assert!(of_type(&dumped, "batch").is_empty());
    let snapshots = of_type(&dumped, "snapshot");
    let at: Vec<i64> = snapshots.iter().map(|snapshot| snapshot["at"].as_i64().unwrap()).collect();
    assert_eq!(at, [41, 80, 112]);
    let producers = of_type(&dumped, "producer").into_iter().filter(|producer| producer["snapshot"] == 112);
    let producers: Vec<(i64, i64)> = producers
        .map(|producer| {
            let open = producer["open_transaction"].as_i64().unwrap_or(-1);
            (producer["producer_id"].as_i64().unwrap(), open)
        })
        .collect();
    assert_eq!(producers, [(1000, -1), (1001, -1), (2000, -1), (3000, -1), (4000, -1), (5000, 107), (6000, -1)]);
    let aborted: Vec<(i64, i64)> = of_type(&dumped, "aborted")
        .iter()
        .map(|txn| (txn["first_offset"].as_i64().unwrap(), txn["last_offset"].as_i64().unwrap()))
        .collect();
    assert_eq!(aborted, [(7, 16), (20, 28), (41, 50), (71, 79), (75, 84)]);
    assert_eq!(of_type(&dumped, "leader_epoch")[0]["epoch"], 2);
    let human = stdout(&run(["dump", "--producers", path(copy.path())]));
    for needle in [
        "epoch    2 starts at 0",
        "  aborted: producer 3000, offsets 7 to 16, stable up to 17 then",
        "snapshot 112, producers: 7",
        "transaction from 107",
    ] {
        assert!(human.contains(needle), "{needle} is not in\n{human}");
    }
}

#[test]
fn bad_snapshots_indexes_and_epochs_are_shown_as_such() {
    let copy = kafka_copy("txn-0");
    let change = |name: &str, bytes: &[u8]| std::fs::write(copy.path().join(name), bytes).unwrap();
    change("00000000000000000080.snapshot", b"too short");
    change("00000000000000000041.txnindex", &[0; 33]);
    change("leader-epoch-checkpoint", b"0\n2\n1 1\n");
    let dumped = lines(&["dump", "--producers", "--json", path(copy.path())]);
    for (kind, at) in [("snapshot", Some(80)), ("txn_index", Some(41)), ("leader_epochs", None)] {
        let bad = of_type(&dumped, kind).into_iter().filter(|line| line["cause"].is_string());
        let bad: Vec<Option<i64>> = bad.map(|line| line["at"].as_i64()).collect();
        assert_eq!(bad, [at], "{kind}");
    }
    let human = stdout(&run(["dump", "--producers", path(copy.path())]));
    assert!(human.contains("snapshot at 80 cannot be used: "), "{human}");
    assert!(human.contains("leader_epochs cannot be used: "), "{human}");
    std::fs::remove_file(copy.path().join("leader-epoch-checkpoint")).unwrap();
    let human = stdout(&run(["dump", "--producers", path(copy.path())]));
    assert!(human.contains("there is no leader-epoch-checkpoint"), "{human}");
}

#[test]
fn damage_is_shown_and_stepped_over() {
    let copy = kafka_copy("plain-0");
    let file = copy.path().join("00000000000000000026.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let dumped = lines(&["dump", "--json", path(copy.path())]);
    assert_eq!(of_type(&dumped, "bad").len(), 1);
    assert_eq!(of_type(&dumped, "batch").iter().filter(|batch| batch["crc_ok"] == false).count(), 1);
    assert_eq!(of_type(&dumped, "batch").len(), 60);
    let torn = kafka_copy("torn-body-0");
    let human = stdout(&run(["dump", path(torn.path())]));
    assert!(human.contains("no valid batch follows"), "{human}");
}

#[test]
fn what_is_no_partition_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["dump", "cat", "verify"] {
        let said = refusal(&run([command, path(dir.path())]));
        assert!(said.contains("holds no segment"), "{said}");
        let said = refusal(&run([command, path(&dir.path().join("missing"))]));
        assert!(said.contains("does not exist"), "{said}");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let said = refusal(&run([command, path(&file)]));
        assert!(said.contains("is not a directory"), "{said}");
        std::fs::remove_file(&file).unwrap();
    }
}
