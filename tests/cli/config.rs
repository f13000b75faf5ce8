//! `config` lists every setting and judges files of them.

use alluvium::LogConfig;

use super::{path, refusal, run, run_with, stdout, text};

#[test]
fn every_key_is_described_for_people_and_machines() {
    let said = stdout(&run(["config"]));
    let lines: Vec<serde_json::Value> =
        stdout(&run(["config", "--json"])).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys = LogConfig::describe();
    assert_eq!(lines.len(), keys.len());
    for (key, line) in keys.iter().zip(&lines) {
        assert_eq!((line["key"].as_str(), line["default"].as_str()), (Some(key.name), Some(key.default)));
        assert_eq!(line["values"], key.values.to_string());
        assert!(said.lines().any(|row| row.starts_with(key.name) && row.ends_with(&key.values.to_string())), "{said}");
        assert!(said.contains(key.doc), "{said}");
    }
}

#[test]
fn files_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topic.properties");
    std::fs::write(&file, "# a topic\nsegment.bytes = 1000\nlog.retention.hours: 1\nmin.insync.replicas=2\n").unwrap();
    let said = stdout(&run(["config", "check", path(&file)]));
    assert_eq!(
        said,
        "set      segment.bytes = 1000\nset      retention.ms = 3600000\n\
        ignored  min.insync.replicas: replication is the embedder's\nvalid: 2 settings differ from their defaults\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&run(["config", "check", path(&file), "--json"]))).unwrap();
    assert_eq!(json["settings"]["retention.ms"], "3600000");
    assert_eq!(json["settings"]["segment.ms"], "604800000");
    assert_eq!(json["ignored"][0]["key"], "min.insync.replicas");

    let output = run_with(["config", "check", "-"], b"segment.byte=5");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("the nearest is \"segment.bytes\""), "{output:?}");
    let output = run_with(["config", "check", "-", "--json"], b"segment.bytes=5");
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!((json["valid"].as_bool(), json["key"].as_str()), (Some(false), Some("segment.bytes")));
}

#[test]
fn what_is_no_file_of_settings_is_refused() {
    let said = refusal(&run(["config", "check", "/nowhere/at.all"]));
    assert!(said.contains("/nowhere/at.all"), "{said}");
    let said = refusal(&run(["config", "check", "/dev/zero"]));
    assert!(said.contains("name a file of properties"), "{said}");
}
