//! What goes in with `append` comes out with `cat`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use alluvium::record::BatchBuilder;
use alluvium::{AppendAs, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};

use super::{path, refusal, run, run_with, stdout, tool};

#[test]
fn lines_round_trip_with_keys_levels_and_every_codec() {
    let dir = tempfile::tempdir().unwrap();
    let dir = path(dir.path());
    let mut expected = String::new();
    for (at, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let ack = if at % 2 == 0 { "cached" } else { "durable" };
        let lines: String =
            (0..500).fold(String::new(), |lines, n| lines + &format!("{codec}-{n}\tvalue {n} of {codec}\n"));
        let said = run_with(
            ["append", dir, "--ack", ack, "--codec", codec, "--batch-records", "64", "--json"],
            lines.as_bytes(),
        );
        let sum: serde_json::Value = serde_json::from_str(&stdout(&said)).unwrap();
        assert_eq!(sum["records"], 500);
        assert_eq!(sum["batches"], 8);
        assert_eq!(sum["first"], 500 * at);
        assert_eq!(sum["end"], 500 * (at + 1));
        let durable_end = if ack == "durable" { 500 * (at + 1) } else { 500 * at };
        assert_eq!(sum["durable_end"], durable_end);
        expected += &lines;
    }
    assert_eq!(stdout(&run(["cat", dir, "--keys"])), expected);
    let values: Vec<&str> = expected.lines().map(|line| line.split_once('\t').unwrap().1).collect();
    assert_eq!(stdout(&run(["cat", dir])).lines().collect::<Vec<_>>(), values);
    let some: Vec<&str> = expected.lines().skip(1234).take(7).collect();
    assert_eq!(stdout(&run(["cat", dir, "--keys", "--from", "1234", "--max", "7"])).lines().collect::<Vec<_>>(), some);
}

#[test]
fn odd_lines_come_back_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let dir = path(dir.path());
    let lines = b"no key\n\n\tempty key\nk\ttabs\tin\tthe value\n\xff\xfe\tnot text\nno newline at the end";
    stdout(&run_with(["append", dir], lines));
    let output = run(["cat", dir, "--keys"]);
    assert_eq!(output.stdout, [lines.as_slice(), b"\n"].concat());
    let json = stdout(&run(["cat", dir, "--json"]));
    let records: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 6);
    assert!(records[0]["key"].is_null());
    assert_eq!(records[2]["key"], "");
    assert_eq!(records[4]["key_hex"], "fffe");
    assert_eq!(records[5]["offset"], 5);
}

#[test]
fn nothing_to_append_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let said = stdout(&run(["append", path(dir.path())]));
    assert!(said.starts_with("0 records"), "{said}");
    assert_eq!(stdout(&run(["cat", path(dir.path())])), "");
}

#[test]
fn cat_finds_the_first_record_of_a_timestamp() {
    let dir = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
    let mut builder = BatchBuilder::new();
    for at in 0..50_i64 {
        let timestamp = TimestampMs::new(1_000 + 10 * at);
        builder.record(timestamp, None, Some(format!("a{at}").as_bytes()));
        builder.record(timestamp, None, Some(format!("b{at}").as_bytes()));
        let epoch = LeaderEpoch::new(0).unwrap();
        log.append(builder.build().unwrap(), AppendAs::Client { epoch }).unwrap();
    }
    let dir = path(dir.path());
    assert_eq!(stdout(&run(["cat", dir, "--from-timestamp", "1195", "--max", "3"])), "a20\nb20\na21\n");
    assert_eq!(stdout(&run(["cat", dir, "--from-timestamp", "5000"])), "");
    assert_eq!(stdout(&run(["cat", dir, "--from-timestamp", "-1", "--max", "1"])), "a0\n");
}

#[test]
fn a_second_process_is_told_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
    let said = refusal(&run_with(["append", path(dir.path())], b"x\n"));
    assert!(said.contains("alluvium.lock is held by another process"), "{said}");
    assert_eq!(log.log_end().value(), 0);
    // Reading needs no lock.
    assert_eq!(stdout(&run(["cat", path(dir.path())])), "");
    log.close().unwrap();
    stdout(&run_with(["append", path(dir.path())], b"x\n"));
}

#[test]
fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("holiday.jpg"), "x").unwrap();
    let said = refusal(&run_with(["append", path(dir.path())], b"x\n"));
    assert!(said.contains("choose an empty directory"), "{said}");
    let file = dir.path().join("holiday.jpg");
    let said = refusal(&run_with(["append", path(&file)], b"x\n"));
    assert!(said.contains("not a directory"), "{said}");
    stdout(&run_with(["append", path(&dir.path().join("log")), "--epoch", "5"], b"x\n"));
    let output = run_with(["append", path(&dir.path().join("log")), "--epoch", "4"], b"x\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(super::text(&output.stderr).contains("another leader took over"), "{output:?}");
    let output = run_with(["append", path(&dir.path().join("log")), "--epoch", "5"], &vec![b'x'; 2 << 20]);
    assert_eq!(output.status.code(), Some(2));
    assert!(super::text(&output.stderr).contains("max.message.bytes"), "{output:?}");
}

#[test]
fn cat_follows_across_rolls_cuts_and_processes() {
    let dir = tempfile::tempdir().unwrap();
    stdout(&run_with(["append", path(dir.path())], b"first\n"));
    let mut child =
        tool(["cat", "-f", path(dir.path())]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (send, lines) = mpsc::channel();
    let pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = send.send(line.unwrap());
        }
    });
    let next = || lines.recv_timeout(Duration::from_secs(20)).expect("a line in time");
    assert_eq!(next(), "first");
    stdout(&run_with(["append", path(dir.path())], b"second\nthird\n"));
    assert_eq!((next(), next()), ("second".to_owned(), "third".to_owned()));
    let log = PartitionLog::open(dir.path(), LogConfig { segment_bytes: 400, ..LogConfig::default() }).unwrap();
    let append = |value: &str| {
        let batch = BatchBuilder::new().record(log.clock().wall(), None, Some(value.as_bytes())).build().unwrap();
        let appended = log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
        // Zeros are kept ahead once somebody waits: they must not be taken for the end.
        appended.wait_durable(Duration::from_secs(20)).unwrap();
    };
    for n in 0..100 {
        append(&format!("rolling {n}"));
    }
    for n in 0..100 {
        assert_eq!(next(), format!("rolling {n}"));
    }
    assert!(log.segment_files().len() > 5);
    log.truncate_to(alluvium::Offset::new(50).unwrap()).unwrap();
    // Let the reader see the cut before the log grows past where it stood.
    std::thread::sleep(Duration::from_secs(1));
    for n in 0..100 {
        append(&format!("after the cut {n}"));
    }
    for n in 0..100 {
        assert_eq!(next(), format!("after the cut {n}"));
    }
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap();
    // A cut takes segment after segment away; who looks meanwhile may be told of more than one end, each below the last.
    let said = super::text(&output.stderr);
    let end = |line: &str| {
        let rest = line.strip_prefix("alluvium: the log was cut; it ends at offset ")?;
        rest.strip_suffix(" now")?.parse::<i64>().ok()
    };
    let ends: Option<Vec<i64>> = said.lines().map(end).collect();
    let ends = ends.unwrap_or_else(|| panic!("{said}"));
    assert!(ends.last() == Some(&50) && ends.windows(2).all(|pair| pair[1] < pair[0]), "{said}");
}
