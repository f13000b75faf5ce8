//! Kafka has the directories in between. What it leaves counts, and nothing that it took away passes for lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alluvium::fs::sim::{SimFs, Survival};
use alluvium::fs::{FileSystem, OpenMode, write_all_at};
use alluvium::log::Found as Finding;
use alluvium::store::{CheckpointKind, Entry, OffsetCheckpoint, Others, Store, list};
use alluvium::{BatchBuilder, BatchView, LeaderEpoch, Offset, TimestampMs};

use super::judge::{inventory, log_end};
use super::machine::{Machine, at, dirs, named};
use super::model::Phase;
use super::script::{Life, Stop};

/// What the double does to the log of `a-0` while it has the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Cut,
    Append,
    CutAndAppend,
}

/// How the double ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Clean,
    Killed,
    /// Before it had written anything.
    KilledAtOnce,
}

/// A broker, as far as its files show it.
struct Kafka<'a> {
    fs: &'a SimFs,
}

impl Kafka<'_> {
    fn partitions(&self, dir: &Path) -> Vec<(alluvium::store::TopicPartition, PathBuf)> {
        let listed = list(self.fs, dir).unwrap().into_iter();
        listed
            .filter_map(|listed| match listed.entry {
                Entry::Partition(name) => Some((name, dir.join(listed.name))),
                _ => None,
            })
            .collect()
    }

    /// Loads every log: the marker goes first, and what was to be deleted goes.
    fn start(&self) {
        for dir in dirs() {
            let _ = self.fs.remove_file(&dir.join(".kafka_cleanshutdown"));
            for (_, path) in self.partitions(&dir) {
                for entry in self.fs.list(&path).unwrap().iter().filter(|entry| entry.name.ends_with(".deleted")) {
                    self.fs.remove_file(&path.join(&entry.name)).unwrap();
                }
                self.cut_to(&self.newest(&path), self.batches(&path).1);
            }
        }
    }

    fn newest(&self, dir: &Path) -> PathBuf {
        let bases = self.fs.list(dir).unwrap().into_iter().filter_map(|entry| {
            let base = entry.name.strip_suffix(".log")?.to_owned();
            base.parse::<i64>().is_ok().then_some(entry.name)
        });
        dir.join(bases.max().unwrap())
    }

    /// The last batch of the newest segment, and where it ends.
    fn batches(&self, dir: &Path) -> (Option<(usize, Offset)>, usize) {
        let bytes = self.fs.live_bytes(&self.newest(dir)).unwrap();
        let (mut position, mut last) = (0, None);
        while let Ok(batch) = BatchView::parse(&bytes[position..], i32::MAX as u32) {
            last = Some((position, batch.header().base_offset));
            position += batch.bytes().len();
        }
        (last, position)
    }

    fn cut_to(&self, path: &Path, position: usize) {
        let file = self.fs.open(path, OpenMode::ReadWrite).unwrap();
        file.set_len(position as u64).unwrap();
        file.sync_data().unwrap();
    }

    /// Cuts the last batch off, and has its list say so before that.
    fn cut(&self, data_dir: &Path, name: &str) {
        let dir = data_dir.join(name);
        let (position, base) = self.batches(&dir).0.unwrap();
        self.cut_to(&self.newest(&dir), position);
        let mut points = OffsetCheckpoint::read(self.fs, data_dir, CheckpointKind::RecoveryPoint).unwrap();
        let point = points.offset(&named(name)).map_or(base, |point| point.min(base));
        points.set(named(name), point);
        points.replace(self.fs, data_dir).unwrap();
    }

    fn append(&self, data_dir: &Path, name: &str, value: &str) {
        let dir = data_dir.join(name);
        let end = log_end(self.fs, &dir).unwrap();
        let mut builder = BatchBuilder::new();
        builder.base_offset(at(usize::try_from(end).unwrap())).leader_epoch(LeaderEpoch::new(0));
        let batch = builder.record(TimestampMs::new(1_700_000_000_000), None, Some(value.as_bytes())).build().unwrap();
        let file = self.fs.open(&self.newest(&dir), OpenMode::ReadWrite).unwrap();
        write_all_at(&*file, batch.as_bytes(), file.size().unwrap()).unwrap();
    }

    /// Syncs everything, writes its lists and its marker.
    fn stop(&self) {
        for dir in dirs() {
            let mut ends = std::collections::BTreeMap::new();
            for (name, path) in self.partitions(&dir) {
                let file = self.fs.open(&self.newest(&path), OpenMode::ReadWrite).unwrap();
                file.sync_data().unwrap();
                self.fs.sync_dir(&path).unwrap();
                ends.insert(name, at(usize::try_from(log_end(self.fs, &path).unwrap()).unwrap()));
            }
            let mut points = OffsetCheckpoint::read(self.fs, &dir, CheckpointKind::RecoveryPoint).unwrap();
            points.update(&ends, Others::Drop);
            points.replace(self.fs, &dir).unwrap();
            let marker = self.fs.open(&dir.join(".kafka_cleanshutdown"), OpenMode::CreateOrOpen).unwrap();
            write_all_at(&*marker, b"{\"version\":0,\"brokerEpoch\":7}", 0).unwrap();
            marker.sync_all().unwrap();
            self.fs.sync_dir(&dir).unwrap();
        }
    }
}

fn staged(is_closed: bool) -> Life {
    let mut life = Life::new(Machine::new(3, 0));
    let stage = |life: &mut Life| -> Result<(), Stop> {
        life.open()?;
        life.create("a-0", 0, Some(alluvium::store::TopicId::from_random(1)))?;
        life.create("b-0", 1, None)?;
        life.append("a-0", 7, true)?;
        life.append("b-0", 4, true)?;
        life.tick(Duration::from_secs(61))?;
        life.append("a-0", 1, true)?;
        life.fence("a-0", 7)?;
        if is_closed { life.close() } else { life.append("a-0", 1, false) }
    };
    if let Err(stop) = stage(&mut life) {
        panic!("{stop:?}");
    }
    life.model.phase = Phase::AtRest;
    life.store = None;
    life
}

fn verify_findings(store: &Store, told: &str) {
    assert_eq!(store.report().failed().count(), 0, "{told}");
    for (name, report) in store.report().recovered() {
        let is_loss = |found: &Finding| {
            matches!(found, Finding::EndsBelowRecoveryPoint { .. } | Finding::Damage(_) | Finding::KnownDamage(_))
        };
        assert!(!report.findings.iter().any(|line| is_loss(&line.found)), "{told}: {name} {report:?}");
    }
}

/// What Kafka leaves after `deed`, and what `a-0` holds by then.
fn left_by_kafka(is_closed: bool, deed: Deed, exit: Exit) -> (Machine, Vec<String>) {
    let mut life = staged(is_closed);
    let machine = life.machine.killed();
    let kafka = Kafka { fs: &machine.fs };
    kafka.start();
    let known = life.model.known("a-0");
    if exit != Exit::KilledAtOnce {
        if matches!(deed, Deed::Cut | Deed::CutAndAppend) {
            kafka.cut(&dirs()[0], "a-0");
            known.values.pop();
        }
        if matches!(deed, Deed::Append | Deed::CutAndAppend) {
            kafka.append(&dirs()[0], "a-0", "Kafka was here");
            known.values.push("Kafka was here".into());
        }
    }
    if exit == Exit::Clean {
        kafka.stop();
    }
    let wanted = known.values.clone();
    // The kernel lives, so that everything is there that either wrote.
    (machine.killed(), wanted)
}

fn interlude(is_closed: bool, deed: Deed, exit: Exit) {
    let told = format!("closed {is_closed}, {deed:?}, {exit:?}");
    let (mut machine, wanted) = left_by_kafka(is_closed, deed, exit);
    for round in ["first", "again", "after a power loss", "after a clean close"] {
        let store = machine.open().unwrap();
        let told = format!("{told}, {round}");
        verify_findings(&store, &told);
        let line = &store.report().directories[0];
        if round == "first" && exit == Exit::Clean {
            assert!(line.was_elsewhere, "{told}: {line:?}");
        }
        let found = inventory(&store).unwrap_or_else(|what| panic!("{told}: {what}"));
        assert_eq!(found["a-0"].values, wanted, "{told}");
        assert_eq!(found["a-0"].token, Some(7), "{told}");
        assert_eq!(found["b-0"].values.len(), 4, "{told}");
        if round == "after a power loss" {
            assert!(store.close(super::machine::LONG).unwrap().unclean.is_empty());
        }
        drop(store);
        machine = if round == "again" { machine.powerless(Survival::Nothing) } else { machine.killed() };
    }
}

#[test]
fn what_kafka_left_counts() {
    for is_closed in [true, false] {
        for deed in [Deed::Nothing, Deed::Cut, Deed::Append, Deed::CutAndAppend] {
            for exit in [Exit::Clean, Exit::Killed, Exit::KilledAtOnce] {
                interlude(is_closed, deed, exit);
            }
        }
    }
}

#[test]
fn a_crash_while_a_store_takes_over_from_kafka_loses_nothing() {
    let every = if std::env::var("ALLUVIUM_SEEDS").is_ok() { 1 } else { 7 };
    for (is_closed, deed) in [(true, Deed::CutAndAppend), (false, Deed::Cut)] {
        let (machine, wanted) = left_by_kafka(is_closed, deed, Exit::Clean);
        let rehearsal = machine.killed();
        drop(rehearsal.open().unwrap());
        for step in (1..=rehearsal.fs.steps()).filter(|step| step % every == 0) {
            let crashed = machine.killed();
            crashed.fs.crash_after(step);
            let _ = crashed.open();
            let survivals = [Survival::Nothing, Survival::Everything, Survival::Random(step)];
            for survival in survivals.map(Some).into_iter().chain([None]) {
                let next = survival.map_or_else(|| crashed.killed(), |survival| crashed.powerless(survival));
                let told = format!("closed {is_closed}, {deed:?}, step {step}, {survival:?}");
                let store = next.open().unwrap();
                verify_findings(&store, &told);
                let found = inventory(&store).unwrap_or_else(|what| panic!("{told}: {what}"));
                assert_eq!(found["a-0"].values, wanted, "{told}");
                assert_eq!(found["a-0"].token, Some(7), "{told}");
                assert_eq!(found["b-0"].values.len(), 4, "{told}");
            }
        }
    }
}
