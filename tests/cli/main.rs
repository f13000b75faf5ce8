//! The tool, run as people and scripts run it.
#![expect(clippy::disallowed_methods, reason = "tests stand outside the seam, as the tool's users do")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test fails; clippy excuses only functions that are tests themselves"
)]

mod append_cat;
mod clean;
mod config;
mod crash;
mod dump;
mod perf;
mod stat;
mod verify;
mod verify_derived;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The tool with `args`, not yet started.
fn tool<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    command.args(args);
    command
}

/// Runs the tool with `input` on its standard input.
fn run_with<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>, input: &[u8]) -> Output {
    let mut child =
        tool(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool runs");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A tool that refuses does not read its input.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn run<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Output {
    run_with(args, b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What a run printed, if it went well.
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// The one line of an error of a run that could not do its work.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    assert!(said.starts_with("alluvium: "), "{said}");
    said
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// A copy of a directory that Kafka wrote.
fn kafka_copy(name: &str) -> tempfile::TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka").join(name);
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn the_demo_does_its_job() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("demo");
    let said = stdout(&run(["demo", "--dir", path(&dir)]));
    for needle in [
        "signal 9",
        "append, durable",
        "offset for a timestamp",
        "byte for byte",
        "32 partitions closed cleanly",
        "one directory went away",
        "a log of updates is cleaned",
    ] {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
    assert!(!said.contains("WRONG"), "{said}");
    stdout(&run(["verify", path(&dir)]));
    // It does not write into what is there.
    let said = refusal(&run(["demo", "--dir", path(&dir)]));
    assert!(said.contains("not empty"), "{said}");
}

/// The cleaner is hit by every fault while writes go on, says so, and catches up.
#[test]
fn the_story_of_the_cleaner_ends_well() {
    let said = stdout(&run(["demo", "--story", "cleaner"]));
    for needle in [
        "cannot be read",
        "failed, panic: ",
        "failed, io: ",
        "20 times what the map holds",
        "one Spill pass",
        "the coordinator loads its table",
        "no restart",
    ] {
        assert!(said.contains(needle), "{needle} is missing:\n{said}");
    }
    assert!(!said.contains("WRONG"), "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_tool_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let lines = (0..50_000).map(|n| format!("{n}\tvalue number {n}")).collect::<Vec<_>>().join("\n");
    stdout(&run_with(["append", path(dir.path())], lines.as_bytes()));
    for command in ["cat", "dump"] {
        let mut child = tool([command, path(dir.path()), "--json"])
            .arg(if command == "dump" { "--records" } else { "--keys" })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert!(output.stderr.is_empty(), "{command}: {output:?}");
    }
}
