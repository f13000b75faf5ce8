//! The crash protocol, with mere kills: `write-workload` is killed at random moments, and `dump-all` must show all that
//! was acknowledged, nothing that was never tried, nothing twice, no holes, and the same again.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::{path, run, stdout, tool};

type Content = (String, String);

/// What a partition was said to hold.
#[derive(Default)]
struct Said {
    tried: HashSet<Content>,
    acked: BTreeMap<i64, Content>,
    /// Records that a later one of their key supersedes may be gone, and offsets are not dense.
    is_compacted: bool,
}

/// What all runs on one directory said so far.
#[derive(Default)]
struct Model {
    partitions: BTreeMap<String, Said>,
}

impl Model {
    /// Takes the lines of one run; what follows the last newline was not said to the end.
    fn take(&mut self, journal: &str) {
        let whole = journal.rfind('\n').map_or("", |end| &journal[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", ..] => {}
                ["try", p, key, hash] => {
                    let said = self.partitions.entry(p.to_owned()).or_default();
                    let is_new = said.tried.insert((key.to_owned(), hash.to_owned()));
                    assert!(is_new || hash == "null", "tried twice: {line}");
                }
                ["ack", p, offset, key, hash, "cached" | "durable"] => {
                    let said = self.partitions.get_mut(p).expect("tried before");
                    let content = (key.to_owned(), hash.to_owned());
                    assert!(said.tried.contains(&content), "acknowledged and never tried: {line}");
                    assert_eq!(said.acked.insert(offset.parse().unwrap(), content), None, "acknowledged twice: {line}");
                }
                ["durable", p, end] => {
                    let end: i64 = end.parse().unwrap();
                    let said = self.partitions.entry(p.to_owned()).or_default();
                    // Acknowledgements follow appends, so what is durable was tried, if not acknowledged. Markers are neither.
                    assert!(
                        said.is_compacted || usize::try_from(end).unwrap() <= said.tried.len() + said.acked.len(),
                        "{line}"
                    );
                }
                ["compact", p] => self.partitions.entry(p.to_owned()).or_default().is_compacted = true,
                ["trunc", p, end] => {
                    let end: i64 = end.parse().unwrap();
                    self.partitions.get_mut(p).unwrap().acked.retain(|offset, _| *offset < end);
                }
                _ => panic!("not in the protocol: {line}"),
            }
        }
    }

    fn check(&self, dump: &str, what: &str) {
        let mut found: BTreeMap<String, BTreeMap<i64, Content>> = BTreeMap::new();
        let mut bounds = BTreeMap::new();
        for line in dump.lines() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| object[name].as_str().unwrap().to_owned();
            if let Some(offset) = object["o"].as_i64() {
                let records = found.entry(text("p")).or_default();
                let due = records.last_key_value().map_or(0, |(last, _)| last + 1);
                let is_compacted = self.partitions.get(&text("p")).is_some_and(|said| said.is_compacted);
                assert!(offset == due || (offset > due && is_compacted), "{what}: {offset} is not {due}: {line}");
                records.insert(offset, (text("k"), text("h")));
            } else {
                let range = (object["start"].as_i64().unwrap(), object["end"].as_i64().unwrap());
                assert_eq!(bounds.insert(text("p"), range), None);
            }
        }
        for (name, said) in &self.partitions {
            let none = BTreeMap::new();
            let records = found.get(name).unwrap_or(&none);
            let end = records.last_key_value().map_or(0, |(last, _)| last + 1);
            let (start, said_end) = bounds[name];
            assert!(start == 0 && (said_end == end || (said_end > end && said.is_compacted)), "{what}: {name}");
            for (offset, content) in &said.acked {
                let is_superseded = |key: &str| records.range(offset + 1..).any(|(_, (other, _))| other == key);
                if records.contains_key(offset) || !said.is_compacted || !is_superseded(&content.0) {
                    assert_eq!(records.get(offset), Some(content), "{what}: {name} lost or changed offset {offset}");
                }
            }
            let mut seen = HashSet::new();
            for (offset, content) in records {
                assert!(said.tried.contains(content), "{what}: {name} invented offset {offset}");
                assert!(seen.insert(content) || content.1 == "null", "{what}: {name} has offset {offset} twice");
            }
        }
    }
}

/// Runs the workload; kills it after `life`, if that is not the end of it.
fn work(dir: &Path, seed: u64, life: Option<Duration>) -> String {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = tool(["write-workload", path(dir), &seed.to_string()])
        .stdout(File::create(said.path()).unwrap())
        .spawn()
        .unwrap();
    if let Some(life) = life {
        std::thread::sleep(life);
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(status.success() || (life.is_some() && status.code().is_none()), "seed {seed}: {status}");
    std::fs::read_to_string(said.path()).unwrap()
}

#[test]
fn kills_at_random_moments_lose_and_invent_nothing() {
    // More of them when asked for: ALLUVIUM_KILLS=1000.
    let kills = std::env::var("ALLUVIUM_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let mut rng = if kills == 8 { fastrand::Rng::with_seed(20) } else { fastrand::Rng::new() };
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    let mut model = Model::default();
    for round in 0..kills {
        let life = Duration::from_millis(rng.u64(5..200));
        let what = format!("round {round}, killed after {life:?}");
        model.take(&work(&dir, round / 2, Some(life)));
        for partition in model.partitions.keys() {
            // What a kill leaves is no damage; and looking does not disturb it.
            let output = run(["verify", path(&dir.join(partition))]);
            let has_none = output.status.code() == Some(2) && super::text(&output.stderr).contains("no segment");
            assert!(output.status.success() || has_none, "{what}: {partition}: {output:?}");
        }
        let first = stdout(&run(["dump-all", path(&dir)]));
        model.check(&first, &what);
        assert_eq!(stdout(&run(["dump-all", path(&dir)])), first, "{what}: the second dump differs");
    }
    model.take(&work(&dir, 99, None));
    model.check(&stdout(&run(["dump-all", path(&dir)])), "left without closing");
    model.take(&work(&dir, 100, None));
    model.check(&stdout(&run(["dump-all", path(&dir)])), "closed");
    for partition in model.partitions.keys() {
        stdout(&run(["verify", path(&dir.join(partition))]));
    }
}

#[test]
fn the_workload_walks_every_path_and_stops_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let said = work(dir.path(), 1, None);
    for needle in [
        "# create-end",
        "# roll-end",
        "# close-end",
        "# reopen-end",
        "# recover-end",
        "# clean-end",
        "compact p-3",
        "trunc p-",
        " cached",
        " durable",
    ] {
        assert!(said.contains(needle), "{needle} is missing");
    }
    assert!(said.ends_with("# done\n"));
    assert!(!said.contains("failed"), "{said}");
    assert!((2000..6000).contains(&said.lines().count()));
}

#[test]
fn dump_all_takes_whatever_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    assert_eq!(stdout(&run(["dump-all", path(&dir.join("missing"))])), "");
    assert_eq!(stdout(&run(["dump-all", path(dir)])), "");
    std::fs::write(dir.join("stray"), "x").unwrap();
    std::fs::create_dir(dir.join("lost+found")).unwrap();
    std::fs::create_dir(dir.join("p-0")).unwrap();
    std::fs::create_dir(dir.join("p-1")).unwrap();
    std::fs::write(dir.join("p-1/alluvium.recovery-point.tmp"), "half").unwrap();
    let expected = "{\"p\":\"p-0\",\"start\":0,\"end\":0}\n{\"p\":\"p-1\",\"start\":0,\"end\":0}\n";
    assert_eq!(stdout(&run(["dump-all", path(dir)])), expected);
    assert_eq!(std::fs::read_dir(dir.join("lost+found")).unwrap().count(), 0);
}
