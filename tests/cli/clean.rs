//! `clean` and `explain`: what they say, what they change, and their exit codes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use alluvium::record::BatchBuilder;
use alluvium::store::{Store, StoreConfig, Workers};
use alluvium::{AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};
use serde_json::Value;

use super::{kafka_copy, path, refusal, run, stdout, text};

/// Five keys, written ten times over, in small segments.
fn offsets_like(dir: &Path) {
    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, segment_bytes: 1000, ..LogConfig::default() };
    let log = PartitionLog::open(dir, config).unwrap();
    for round in 0..10 {
        for key in 0..5 {
            let (key, value) = (format!("group {key}"), format!("offset {round}"));
            let mut builder = BatchBuilder::new();
            builder.record(TimestampMs::new(1_700_000_000_000), Some(key.as_bytes()), Some(value.as_bytes()));
            log.append(builder.build().unwrap(), AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
        }
    }
    log.close().unwrap();
}

fn json(args: &[&str]) -> Vec<Value> {
    let said = stdout(&run(args));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sizes(dir: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let mut sizes: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
    sizes.sort();
    sizes
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_cleaning_then_does() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path());
    offsets_like(dir.path());
    let before = sizes(dir.path());
    let plan = json(&["clean", at, "--dry-run", "--budget", "1M", "--json"]).remove(0);
    assert_eq!(sizes(dir.path()), before);
    assert_eq!((plan["due"].as_bool(), plan["mode"].as_str()), (Some(true), Some("map")));
    assert_eq!((plan["dirty_keys"].as_u64(), plan["sampled"].as_u64()), (Some(5), Some(1)));
    let said = stdout(&run(["clean", at, "--dry-run"]));
    for needle in ["due: ", "min.cleanable.dirty.ratio", "5 dirty", "mode map", "free     about"] {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
    let done = json(&["clean", at, "--budget", "1M", "--json"]).remove(0);
    for field in ["bytes_read", "bytes_written", "bytes_freed"] {
        assert_eq!(done[field], plan[field], "{field}: {done} {plan}");
    }
    let kept = plan["records"].as_u64().unwrap() - plan["records_removed"].as_u64().unwrap();
    assert_eq!(done["records_kept"].as_u64(), Some(kept));
    assert_eq!(
        (done["dry_run"].as_bool(), done["first_dirty"].as_i64()),
        (Some(false), plan["first_uncleanable"].as_i64())
    );
    stdout(&run(["verify", at]));
    let rest = stdout(&run(["cat", "--keys", at]));
    for key in 0..5 {
        assert!(rest.contains(&format!("group {key}\toffset 9")), "{rest}");
    }
    assert!(!rest.contains("offset 3"), "{rest}");
    assert!(stdout(&run(["explain", at])).starts_with("not due: everything below"), "it is clean now");
    // Nothing is dirty: another one frees nothing.
    let again = json(&["clean", at, "--json"]).remove(0);
    assert_eq!(again["bytes_freed"], 0, "{again}");
}

#[test]
fn explain_says_why_a_log_and_a_record_stay_or_go() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path());
    offsets_like(dir.path());
    let said = stdout(&run(["explain", at]));
    for needle in ["due: ", "FATE", "held back", "the active segment begins at", "is reached"] {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
    let lines = json(&["explain", at, "--json"]);
    let (stretches, last) = (&lines[..lines.len() - 1], &lines[lines.len() - 1]);
    assert_eq!((stretches[0]["from"].as_i64(), stretches[0]["fate"].as_str()), (Some(0), Some("due")));
    assert_eq!((last["log_end"].as_i64(), last["due"].as_bool()), (Some(50), Some(true)));

    let said = stdout(&run(["explain", at, "--offset", "0"]));
    assert!(
        said.starts_with("0: key group 0, time 1700000000000: removed by the next pass: superseded by offset "),
        "{said}"
    );
    let key = json(&["explain", at, "--key", "group 3", "--max", "2", "--json"]);
    assert_eq!((key[0]["offset"].as_i64(), key[1]["offset"].as_i64()), (Some(43), Some(48)));
    assert_eq!((key[1]["fate"].as_str(), key[2]["records"].as_u64()), (Some("held_back"), Some(10)));
    let said = stdout(&run(["explain", at, "--key", "group 3"]));
    assert!(said.ends_with("10 records with the key group 3\n"), "{said}");

    for (args, needle) in [(["--offset", "50"], "the log ends at 50"), (["--key", "nobody"], "0 records with the key")]
    {
        let output = run(["explain", at].iter().chain(&args));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).contains(needle), "{output:?}");
    }
    let said = stdout(&run(["explain", at, "--set", "cleanup.policy=delete"]));
    assert!(said.starts_with("not due: cleanup.policy is delete"), "{said}");
    let said = stdout(&run(["explain", at, "--set", "min.compaction.lag.ms=9000000000000"]));
    assert!(said.contains("within min.compaction.lag.ms, until 10700000000000"), "{said}");
}

#[test]
fn what_cannot_run_is_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path());
    assert!(refusal(&run(["clean", at])).contains("holds no segment"), "it makes no log where there is none");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    offsets_like(dir.path());
    assert!(refusal(&run(["clean", at, "--budget", "512K"])).contains("give at least 1048576"));
    assert!(refusal(&run(["clean", at, "--dry-run", "--budget", "512K"])).contains("give at least 1048576"));
    assert!(refusal(&run(["clean", at, "--set", "cleanup.policy=delete"])).contains("has no `compact`"));
    assert!(refusal(&run(["explain", at, "--set", "segment.bites=1"])).contains("nearest is \"segment.bytes\""));
    assert!(refusal(&run(["explain", at, "--set", "segment.bytes"])).contains("KEY=VALUE"));
}

/// What Kafka wrote is explained and cleaned, too; what is damaged is left, and told by the exit code.
#[test]
fn logs_of_kafkas_and_damaged_ones() {
    let copy = kafka_copy("compact-before-0");
    let at = path(copy.path());
    let before = sizes(copy.path());
    stdout(&run(["explain", at]));
    let plan = json(&["clean", at, "--dry-run", "--json"]).remove(0);
    assert_eq!(sizes(copy.path()), before, "neither changes anything");
    let done = json(&["clean", at, "--json"]).remove(0);
    let kept = plan["records"].as_u64().unwrap() - plan["records_removed"].as_u64().unwrap();
    assert_eq!(done["records_kept"].as_u64(), Some(kept), "{plan} {done}");
    stdout(&run(["verify", at]));

    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path());
    offsets_like(dir.path());
    let first = dir.path().join("00000000000000000000.log");
    let mut bytes = fs::read(&first).unwrap();
    bytes[100] ^= 1;
    fs::write(&first, &bytes).unwrap();
    for args in [&["clean", at, "--dry-run"][..], &["clean", at]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).contains("damage, left as it is"), "{output:?}");
    }
    assert_eq!(fs::read(&first).unwrap(), bytes, "not a byte of it is changed");
    let said = stdout(&run(["explain", at, "--offset", "0"]));
    assert!(said.contains("the segment at 0 cannot all be read") || said.contains("damage"), "{said}");
}

/// Whoever has the log open goes on as before: neither is a byte written, nor does the holder meet anything new.
#[test]
fn a_log_that_somebody_has_open_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (data, partition) = (dir.path(), dir.path().join("users-0"));
    fs::create_dir(&partition).unwrap();
    offsets_like(&partition);
    let at = path(&partition);
    let contents = || {
        let names = sizes(&partition).into_iter().map(|(name, _)| name);
        names.map(|name| (fs::read(partition.join(&name)).unwrap(), name)).collect::<Vec<_>>()
    };

    let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
    let log = PartitionLog::open(&partition, config.clone()).unwrap();
    let before = contents();
    let said = refusal(&run(["clean", at, "--budget", "1M"]));
    assert!(said.contains("is held by another process") && said.contains("close that first"), "{said}");
    assert_eq!(contents(), before, "nothing of the log is changed");
    assert_eq!(log.log_end().value(), 50);
    // What only reads may look on.
    let plan = json(&["clean", at, "--dry-run", "--json"]).remove(0);
    assert_eq!((plan["dry_run"].as_bool(), contents() == before), (Some(true), true), "{plan}");
    log.close().unwrap();

    // A store holds the directory above, and all that is in it.
    let config = StoreConfig { default_log: config, workers: Workers::Tick, ..StoreConfig::new(data) };
    let store = Store::open(config).unwrap();
    let before = contents();
    let said = refusal(&run(["clean", at]));
    assert!(said.contains("a broker or store has this data directory open"), "{said}");
    assert_eq!(contents(), before, "nor of a store's");
    store.close(Duration::from_secs(20)).unwrap();
    let done = json(&["clean", at, "--budget", "1M", "--json"]).remove(0);
    assert!(done["bytes_freed"].as_u64().unwrap() > 0, "free to clean once it is let go of: {done}");
}
