//! `perf` measures, and says the same to people and to machines. How fast anything is depends on the machine and is not
//! asserted; what is written and held does not.

use super::{path, refusal, run, stdout};

fn rows(args: &[&str]) -> Vec<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let all = ["perf", "clean", "--json", "--rounds", "2", "--dir", path(dir.path())];
    let said = stdout(&run(all.iter().chain(args)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Keys that fit the memory, and more than there is any room for.
#[test]
fn a_row_says_what_was_read_written_and_held() {
    let shape = ["--records", "120000", "--record-bytes", "50", "--memory", "1M", "--segment-bytes", "2M"];
    for (keys, mode) in [("5000", "map"), ("100000", "spill")] {
        let rows = rows(&[&shape[..], &["--keys", keys]].concat());
        let [row] = &rows[..] else { panic!("one row: {rows:?}") };
        assert_eq!(row["mode"], mode, "{row}");
        assert_eq!(row["is_within"], true, "{row}");
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {row}"));
        assert!(number("segments_before") > 3.0 && number("seconds") > 0.0 && number("raw_seconds") > 0.0, "{row}");
        assert!(number("bytes_left") < number("log_bytes") && number("bytes_read") >= number("log_bytes"), "{row}");
        assert!(number("bytes_written") >= number("bytes_left") + number("bytes_spilled"), "{row}");
        assert_eq!(number("bytes_spilled") > 0.0, mode == "spill", "{row}");
        assert!(number("memory_peak") <= number("memory_bytes"), "{row}");
    }
}

#[test]
fn people_see_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let said = stdout(&run([
        "perf",
        "clean",
        "--records",
        "20K",
        "--keys",
        "100",
        "--memory",
        "1M",
        "--rounds",
        "1",
        "--dir",
        path(dir.path()),
    ]));
    for needle in ["100 keys", "x raw", "Kafka s", "at most"] {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
}

#[test]
fn what_is_no_amount_is_refused_and_so_is_too_little_memory() {
    let output = run(["perf", "clean", "--records", "many"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = refusal(&run(["perf", "clean", "--records", "1000", "--memory", "1K"]));
    assert!(said.contains("at least 1048576"), "{said}");
}

#[test]
fn appends_are_measured_with_and_without_the_cleaner() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        ["--records", "30000", "--partitions", "2", "--rounds", "1", "--rate", "500", "--dir", path(dir.path())];
    let all = ["perf", "appends"].iter().chain(&options);
    let said = stdout(&run(all.clone().chain(&["--json"])));
    let row: serde_json::Value = serde_json::from_str(&said).unwrap();
    for when in ["without", "cleaning"] {
        assert!(row[when]["appends"].as_u64().unwrap() > 0, "{row}");
        assert!(row[when]["p99_us"].as_f64().unwrap() >= row[when]["p50_us"].as_f64().unwrap(), "{row}");
    }
    assert!(stdout(&run(all)).contains("p99 while cleaning"));
}
