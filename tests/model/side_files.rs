//! Side files that are deleted, cut, flipped or older than the log: a log that is opened with them says what its batches
//! say all the same, or refuses to open. It never says anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use alluvium::fs::sim::SimFs;
use alluvium::fs::{FileSystem, OpenMode, write_all_at};

use crate::support::checker::files;
use crate::support::producing::Produce;
use crate::support::reading;
use crate::support::runner::{DIR, Runner, new_clock, open};
use crate::support::standing;
use crate::support::workload::{Op, Who, Workload};

const OPERATIONS: usize = 60;

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

fn extension(name: &str) -> &str {
    Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_side_file(name: &str) -> bool {
    name == "leader-epoch-checkpoint" || ["snapshot", "txnindex"].contains(&extension(name))
}

/// Every content that a side file has had.
type Versions = BTreeMap<String, BTreeSet<Vec<u8>>>;

/// A log that was used, and is closed or dropped.
struct Used {
    runner: Runner,
    versions: Versions,
}

/// Of one entry in a transaction index.
const ENTRY_BYTES: usize = 34;

/// Without gaps in the offsets: an epoch that begins in one may as well begin elsewhere in it, nothing contradicts that.
fn workload(seed: u64) -> Workload {
    let mut workload = Workload::with_producers(50_000 + seed, OPERATIONS);
    for op in &mut workload.ops {
        match op {
            Op::Append { who, .. } | Op::Produce(Produce { who, .. }) if matches!(who, Who::Follower { .. }) => {
                *who = Who::Follower { gap: 0 };
            }
            _ => {}
        }
    }
    workload
}

fn used(seed: u64, is_closed: bool) -> Used {
    let workload = workload(seed);
    let mut runner = Runner::new(SimFs::new(seed), workload.config.clone());
    let mut versions = Versions::new();
    runner.reopen().unwrap();
    for op in &workload.ops {
        runner.apply(op).unwrap();
        // What was cut off told of batches that are gone. Put back where others stand by now, it has a right checksum and
        // names an offset of the log: nothing tells it from the right one.
        let end = runner.history.model.end;
        let is_past =
            |name: &str| name.split('.').next().and_then(|base| base.parse().ok()).is_some_and(|base: i64| base > end);
        versions.retain(|name, _| !is_past(name));
        if matches!(op, Op::Restart { .. }) {
            versions.clear();
        }
        for (name, bytes) in files(&runner.fs) {
            if is_side_file(&name) {
                versions.entry(name).or_default().insert(bytes);
            }
        }
    }
    if is_closed {
        runner.log().unwrap().close().unwrap();
    }
    runner.let_go();
    Used { runner, versions }
}

fn put(fs: &SimFs, name: &str, bytes: &[u8]) {
    let file = fs.open(&Path::new(DIR).join(name), OpenMode::CreateOrOpen).unwrap();
    file.set_len(0).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
}

impl Used {
    /// Opens what is left after `spoil`. Says whether the log opened.
    fn check(&self, spoil: impl Fn(&SimFs)) -> Result<bool, String> {
        let fs = self.runner.fs.kill();
        spoil(&fs);
        let history = &self.runner.history;
        let Ok(log) = open(&fs, &new_clock(), &self.runner.config) else { return Ok(false) };
        let found = reading::contents(&log)?;
        if found != history.model {
            return Err("other batches".to_owned());
        }
        history.standing_of(&found).adopt(&log, &found)?;
        standing::compare_all_aborted(&log, &found)?;
        Ok(true)
    }

    /// Spoils `name` to be `bytes`, or not to be, and says what is wrong then.
    fn check_file(&self, name: &str, bytes: Option<&[u8]>) -> Option<String> {
        let outcome = self.check(|fs| match bytes {
            Some(bytes) => put(fs, name, bytes),
            None => fs.remove_file(&Path::new(DIR).join(name)).unwrap(),
        });
        match outcome {
            Ok(true) => None,
            Ok(false) => Some("refused".to_owned()),
            // Kafka's format gives this file no checksum, and a sealed segment is not gone through at every opening:
            // entries that are missing, or say something else that is possible, pass for what the writer wrote.
            Err(_) if extension(name) == "txnindex" && bytes.is_none_or(is_possible) => None,
            Err(said) => Some(said),
        }
    }

    /// Every way to spoil each of the side files; returns how many, and what is wrong after them.
    fn check_all(&self) -> (usize, Vec<String>) {
        let (mut count, mut wrong) = (0, Vec::new());
        let mut check = |what: String, name: &str, bytes: Option<&[u8]>| {
            count += 1;
            wrong.extend(self.check_file(name, bytes).map(|said| format!("{what} of {name}: {said}")));
        };
        for (name, bytes) in files(&self.runner.fs).into_iter().filter(|(name, _)| is_side_file(name)) {
            check("deletion".to_owned(), &name, None);
            for at in 0..bytes.len().min(600) {
                check(format!("cut at {at}"), &name, Some(&bytes[..at]));
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                check(format!("flip at {at}"), &name, Some(&flipped));
            }
        }
        for (name, versions) in &self.versions {
            for (at, bytes) in versions.iter().enumerate() {
                check(format!("version {at}"), name, Some(bytes));
            }
        }
        (count, wrong)
    }
}

/// Whether the form of a transaction index is kept.
fn is_possible(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(ENTRY_BYTES) && bytes.chunks(ENTRY_BYTES).all(|entry| entry[..2] == [0, 0])
}

/// Closed or dropped, in every way: what comes of it.
fn check_spoilt(is_closed: bool) {
    let (mut wrong, mut ways) = (Vec::new(), 0);
    for seed in seeds() {
        let (count, found) = used(seed, is_closed).check_all();
        ways += count;
        wrong.extend(found.into_iter().map(|what| format!("seed {seed}: {what}")));
    }
    println!("{ways} ways");
    assert!(wrong.is_empty(), "{} of {ways}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_closed_log_with_spoilt_side_files_says_what_its_batches_say() {
    check_spoilt(true);
}

#[test]
fn a_dropped_log_with_spoilt_side_files_says_what_its_batches_say() {
    check_spoilt(false);
}
