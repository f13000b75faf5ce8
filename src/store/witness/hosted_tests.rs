//! Partitions that change hands: opened alone, in a store, and by a stand-in for Kafka that cuts, appends and rewrites the
//! directory's lists as it likes. Whoever opens next finds what the last one left, and is told of no loss that was none.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::fs::sim::SimFs;
use crate::fs::{self, OpenMode, OsFileSystem};
use crate::index::replace_small_file;
use crate::log::directory::Word;
use crate::log::hosted::{Above, peek};
use crate::log::state::RecoveryPoint;
use crate::log::{Environment, Found, PartitionLog};
use crate::record::BatchBuilder;
use crate::segment::{FileKind, SegmentFile};
use crate::store::names::CLEAN_SHUTDOWN;
use crate::store::{CheckpointKind, OffsetCheckpoint, TopicPartition, mark_clean_shutdown, remove_clean_shutdown};
use crate::sync::Mutex;
use crate::units::{LeaderEpoch, Offset, TimestampMs};
use crate::{AppendAs, HighWatermarkMode, LogConfig, OpenError, ReadOptions};

const LONG: Duration = Duration::from_secs(20);
const OURS: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";

fn at(value: usize) -> Offset {
    Offset::new(i64::try_from(value).unwrap()).unwrap()
}

fn data() -> &'static Path {
    Path::new("/data")
}

fn home() -> PathBuf {
    data().join("orders-0")
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 0).unwrap()
}

fn world() -> SimFs {
    let fs = SimFs::new(7);
    fs.create_dir(data()).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn environment(fs: &SimFs) -> Environment {
    Environment { fs: Arc::new(fs.clone()), clock: Arc::new(ManualClock::at(1_700_000_000_000)) }
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1024, ..LogConfig::default() }
}

fn alone(fs: &SimFs) -> Result<PartitionLog, OpenError> {
    environment(fs).open(home(), config())
}

fn append(log: &PartitionLog, value: &str, is_durable: bool) {
    let mut builder = BatchBuilder::new();
    builder.record(TimestampMs::new(1_700_000_000_000), Some(b"k"), Some(value.as_bytes()));
    let epoch = LeaderEpoch::new(0).unwrap();
    let appended = log.append(builder.build().unwrap(), AppendAs::Client { epoch }).unwrap();
    if is_durable {
        appended.wait_durable(LONG).unwrap();
    }
}

fn values(log: &PartitionLog) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = log.log_start();
    while next < log.log_end() {
        let fetched = log.read(next, &ReadOptions::default()).unwrap();
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            next = batch.header().next_offset();
            let body = batch.body(1 << 20).unwrap();
            found.extend(body.records().map(|r| String::from_utf8(r.unwrap().value.unwrap().to_vec()).unwrap()));
        }
    }
    found
}

/// No loss is reported: nobody lost anything in these stories.
fn assert_no_alarm(log: &PartitionLog, story: &str) {
    for finding in &log.recovery_report().findings {
        let is_alarm = matches!(finding.found, Found::EndsBelowRecoveryPoint { .. } | Found::Damage(_));
        assert!(!is_alarm, "{story}: {finding:?}");
    }
}

/// What a store is to a partition: it has the directory's lists, says beforehand what it writes, and lowers before cuts.
#[derive(Debug)]
struct Lists {
    fs: SimFs,
    witness: Mutex<StoreWitness>,
}

impl Lists {
    fn take(fs: &SimFs) -> Result<(Arc<Self>, Word), IoFailure> {
        let word = DirectoryWord::read(fs, data())?;
        let witness = Mutex::new(StoreWitness::begin(fs, data(), &word)?);
        remove_clean_shutdown(fs, data())?;
        let lists = Arc::new(Self { fs: fs.clone(), witness });
        let above: Arc<dyn Above> = Arc::clone(&lists) as _;
        Ok((lists, Word { above: Some(above), ..word.of("orders-0") }))
    }

    fn say(&self, point: Offset) -> Result<(), IoFailure> {
        let mut list = OffsetCheckpoint::read(&self.fs, data(), CheckpointKind::RecoveryPoint)?;
        list.set(orders(), point);
        let mut witness = self.witness.lock();
        witness.announce(&self.fs, &[(Part::RecoveryPoints, Some(&list.encode()))])?;
        list.replace(&self.fs, data())?;
        witness.settled();
        Ok(())
    }

    fn close(&self) -> Result<(), IoFailure> {
        self.witness.lock().announce_close(&self.fs, &[(Part::Marker, Some(OURS))])?;
        mark_clean_shutdown(&self.fs, data())?;
        self.witness.lock().closed(&self.fs)
    }
}

impl Above for Lists {
    fn before_cut(&self, to: Offset) -> Result<(), IoFailure> {
        let list = OffsetCheckpoint::read(&self.fs, data(), CheckpointKind::RecoveryPoint)?;
        if list.offset(&orders()).is_some_and(|said| said > to) { self.say(to) } else { Ok(()) }
    }
}

fn hosted(fs: &SimFs) -> Result<(PartitionLog, Arc<Lists>), OpenError> {
    let (lists, word) = Lists::take(fs)?;
    Ok((environment(fs).open_hosted(&home(), config(), &word, &Arc::default())?, lists))
}

fn bytes_of(fs: &dyn FileSystem, path: &Path) -> Vec<u8> {
    let file = fs.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    fs::read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

fn copy(from: &dyn FileSystem, source: &Path, to: &dyn FileSystem, target: &Path) {
    for entry in from.list(source).unwrap() {
        if entry.kind == fs::EntryKind::File && !entry.name.starts_with("alluvium.") {
            replace_small_file(to, target, &entry.name, &bytes_of(from, &source.join(&entry.name))).unwrap();
        }
    }
}

/// Kafka had the directory and leaves these records. What is not clean has a torn batch at its end and an older recovery
/// point.
fn kafka(fs: &SimFs, records: &[String], point: usize, clean_epoch: Option<u64>) {
    for entry in fs.list(&home()).unwrap() {
        // What is named so goes first when Kafka loads a partition.
        if SegmentFile::parse(&entry.name).is_some() || entry.name.ends_with(".deleted") {
            fs.remove_file(&home().join(&entry.name)).unwrap();
        }
    }
    let elsewhere = world();
    let log = alone(&elsewhere).unwrap();
    for value in records {
        append(&log, value, false);
    }
    log.close().unwrap();
    copy(&elsewhere, &home(), fs, &home());
    let list = |offset: usize| format!("0\n1\norders 0 {offset}\n").into_bytes();
    replace_small_file(fs, data(), CheckpointKind::RecoveryPoint.file_name(), &list(point)).unwrap();
    replace_small_file(fs, data(), CheckpointKind::LogStart.file_name(), b"0\n0\n").unwrap();
    replace_small_file(fs, data(), CheckpointKind::HighWatermark.file_name(), &list(records.len())).unwrap();
    remove_clean_shutdown(fs, data()).unwrap();
    if let Some(epoch) = clean_epoch {
        let marker = format!("{{\"version\":0,\"brokerEpoch\":{epoch}}}");
        replace_small_file(fs, data(), CLEAN_SHUTDOWN, marker.as_bytes()).unwrap();
        return;
    }
    let newest = log.segment_files().pop().unwrap();
    let file = fs.open(&newest, OpenMode::ReadWrite).unwrap();
    fs::write_all_at(&*file, &[0xff; 30], file.size().unwrap()).unwrap();
    file.sync_data().unwrap();
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// A log of ours of twenty durable records, closed or not, alone or in a store.
fn ours(is_hosted: bool, is_clean: bool) -> SimFs {
    let fs = world();
    if is_hosted {
        let (log, lists) = hosted(&fs).unwrap();
        for value in named("ours", 20) {
            append(&log, &value, true);
        }
        if is_clean {
            log.close().unwrap();
            lists.say(log.log_end()).unwrap();
            lists.close().unwrap();
        }
    } else {
        let log = alone(&fs).unwrap();
        for value in named("ours", 20) {
            append(&log, &value, true);
        }
        if is_clean {
            log.close().unwrap();
        }
    }
    fs.kill()
}

#[test]
fn a_log_that_kafka_cut_in_between_is_opened_as_kafka_left_it() {
    for (was_hosted, was_clean) in [(false, false), (false, true), (true, false), (true, true)] {
        for clean_epoch in [None, Some(5)] {
            for in_store in [false, true] {
                let story = format!("{was_hosted} {was_clean} {clean_epoch:?} {in_store}");
                let fs = ours(was_hosted, was_clean);
                let left = [named("ours", 5), named("kafkas", 4)].concat();
                let point = if clean_epoch.is_some() { left.len() } else { 5 };
                kafka(&fs, &left, point, clean_epoch);
                let log = if in_store { hosted(&fs).unwrap().0 } else { alone(&fs).unwrap() };
                assert_eq!(values(&log), left, "{story}");
                assert_no_alarm(&log, &story);
                let report = log.recovery_report();
                // After a crash of ours Kafka's word is not enough: what it took for synced may not be.
                assert_eq!(report.was_clean, was_clean && clean_epoch.is_some(), "{story}: {report:?}");
                assert!(report.recovery_point <= Some(at(point)), "{story}: {report:?}");
                assert!(!was_clean || report.recovery_point == Some(at(point)), "{story}: {report:?}");
                assert!(report.findings.iter().any(|finding| finding.found == Found::StateObsolete), "{story}");
                append(&log, "next", true);
                // From now on the log's own state is the newest, here and there.
                let fs = fs.power_loss(1);
                let log = if in_store { alone(&fs).unwrap() } else { hosted(&fs).unwrap().0 };
                assert_eq!(values(&log), [left, vec!["next".to_owned()]].concat(), "{story}");
                assert!(log.recovery_report().findings.iter().all(|f| f.found != Found::StateObsolete), "{story}");
                assert_no_alarm(&log, &story);
            }
        }
    }
}

#[test]
fn a_store_and_its_partitions_opened_alone_believe_one_another() {
    let fs = ours(true, true);
    let log = alone(&fs).unwrap();
    assert!(log.recovery_report().was_clean);
    log.truncate_to(at(7)).unwrap();
    append(&log, "alone", true);
    let fs = fs.kill();
    let (log, lists) = hosted(&fs).unwrap();
    let expected = [named("ours", 7), vec!["alone".to_owned()]].concat();
    assert_eq!(values(&log), expected);
    assert_no_alarm(&log, "after a cut by who opened it alone");
    lists.say(at(8)).unwrap();
    log.truncate_to(at(3)).unwrap();
    let said = OffsetCheckpoint::read(&fs, data(), CheckpointKind::RecoveryPoint).unwrap();
    assert_eq!(said.offset(&orders()), Some(at(3)), "the list falls with the log");
    log.truncate_fully_and_start_at(at(50)).unwrap();
    let said = OffsetCheckpoint::read(&fs, data(), CheckpointKind::RecoveryPoint).unwrap();
    assert_eq!(said.offset(&orders()), Some(Offset::ZERO));
}

/// Our crash left a recovery point; Kafka came, took the log for whole, said a higher one and closed. What lies between
/// the two is looked at once more, whoever looks, and what is wrong there is found.
#[test]
fn after_a_crash_of_ours_a_higher_recovery_point_of_kafkas_is_not_believed() {
    for (was_hosted, in_store) in [(false, false), (false, true), (true, false), (true, true)] {
        let fs = ours(was_hosted, false);
        let ours = RecoveryPoint::read(&fs, &home()).unwrap().unwrap().unwrap().offset;
        assert!(ours < at(20), "the log was not closed");
        kafka(&fs, &named("ours", 20), 20, Some(5));
        let log = if in_store { hosted(&fs).unwrap().0 } else { alone(&fs).unwrap() };
        let report = log.recovery_report();
        assert!(!report.was_clean && report.recovery_point.is_some_and(|point| point <= ours), "{report:?}");
        assert!(report.scanned_bytes > 0, "{report:?}");
        assert_eq!(values(&log), named("ours", 20));
        assert_no_alarm(&log, "nothing is lost");
        log.close().unwrap();
        // Our close puts it right: from then on Kafka's word counts again.
        kafka(&fs, &named("kafkas", 9), 9, Some(6));
        let log = if in_store { hosted(&fs).unwrap().0 } else { alone(&fs).unwrap() };
        let report = log.recovery_report();
        assert!(report.was_clean && report.recovery_point == Some(at(9)), "{report:?}");
    }
}

/// Wherever an opening dies, the next one finds what Kafka left.
#[test]
fn a_crash_at_every_step_of_opening_after_kafka() {
    for (was_clean, clean_epoch) in [(true, Some(5)), (true, None), (false, None), (false, Some(5))] {
        let ready = ours(true, was_clean);
        let left = [named("ours", 5), named("kafkas", 4)].concat();
        kafka(&ready, &left, if clean_epoch.is_some() { 9 } else { 5 }, clean_epoch);
        let mut steps = 1;
        loop {
            let fs = ready.kill();
            fs.crash_after(steps);
            let is_over = hosted(&fs).is_ok();
            for (seed, after) in [fs.kill(), fs.power_loss(steps), fs.power_loss(steps + 1000)].iter().enumerate() {
                let story = format!("{was_clean} {clean_epoch:?} after {steps} steps, {seed}");
                let log = if steps % 2 == 0 { hosted(after).unwrap().0 } else { alone(after).unwrap() };
                assert_eq!(values(&log), left, "{story}");
                assert_no_alarm(&log, &story);
            }
            if is_over {
                break;
            }
            steps += 1;
        }
        assert!(steps > 10, "{steps}");
    }
}

/// Random lives in random order against a model.
#[test]
fn whoever_comes_next_finds_what_the_last_one_left() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fs = world();
        drop(alone(&fs).unwrap());
        let (mut model, mut durable): (Vec<String>, usize) = (Vec::new(), 0);
        let mut story = format!("seed {seed}:");
        for life in 0..8 {
            let kind = rng.usize(..3);
            story += [" kafka", " alone", " store"][kind];
            if kind == 0 {
                model.truncate(rng.usize(..=model.len()));
                let kept = model.len();
                model.extend(named(&format!("kafka-{life}"), rng.usize(..8)));
                let clean_epoch = rng.bool().then_some(life);
                let point = if clean_epoch.is_some() { model.len() } else { rng.usize(..=kept) };
                kafka(&fs, &model, point, clean_epoch);
                durable = model.len();
                continue;
            }
            let (log, lists) = if kind == 1 {
                (alone(&fs).unwrap(), None)
            } else {
                let (log, lists) = hosted(&fs).unwrap();
                (log, Some(lists))
            };
            let found = values(&log);
            assert!(found.len() >= durable && model.starts_with(&found), "{story}\n{found:?}\n{model:?} {durable}");
            assert_no_alarm(&log, &story);
            model = found;
            for n in 0..rng.usize(..12) {
                match rng.usize(..8) {
                    0 => {
                        model.truncate(rng.usize(..=model.len()));
                        log.truncate_to(at(model.len())).unwrap();
                    }
                    1 => lists.iter().for_each(|lists| lists.say(log.recovery_point()).unwrap()),
                    choice => {
                        let value = format!("ours-{life}-{n}");
                        append(&log, &value, choice < 5);
                        model.push(value);
                    }
                }
            }
            durable = usize::try_from(log.durable_end().value()).unwrap();
            if rng.bool() {
                story += " closed";
                log.close().unwrap();
                durable = model.len();
                if let Some(lists) = &lists {
                    lists.say(log.log_end()).unwrap();
                    lists.close().unwrap();
                }
            }
            drop(log);
            fs = if rng.bool() { fs.kill() } else { fs.power_loss(rng.u64(..)) };
        }
    }
}

#[test]
fn a_look_at_a_closed_log_tells_its_marks() {
    let fs = ours(true, true);
    let seen = peek(&fs, &home()).unwrap().unwrap();
    assert_eq!(seen.lineage, DirectoryWord::read(&fs, data()).unwrap().lineage);
    let log = alone(&fs).unwrap();
    assert_eq!(seen.marks(HighWatermarkMode::LogEnd), Some(log.marks()));
    assert_eq!(peek(&fs, &home()).unwrap(), None, "it is open");
    append(&log, "more", true);
    assert_eq!(peek(&fs.kill(), &home()).unwrap(), None);
    log.seal().unwrap();
    log.fence(9).unwrap();
    log.close().unwrap();
    let seen = peek(&fs, &home()).unwrap().unwrap();
    assert_eq!((seen.log_end, seen.is_sealed, seen.fencing_token), (at(21), true, Some(9)));
    assert_eq!(peek(&world(), &home()).unwrap(), None);
}

#[test]
fn who_may_write_outlives_kafka() {
    let fs = ours(false, false);
    let log = alone(&fs).unwrap();
    log.fence(9).unwrap();
    drop(log);
    kafka(&fs, &named("kafkas", 3), 3, Some(1));
    let log = alone(&fs).unwrap();
    assert_eq!((log.fencing_token(), log.log_end()), (Some(9), at(3)));
}

#[test]
fn a_store_and_who_opens_alone_exclude_each_other() {
    let fs = ours(true, true);
    let log = alone(&fs).unwrap();
    assert!(matches!(hosted(&fs), Err(OpenError::Locked { .. })));
    log.close().unwrap();
    let held = fs.try_lock(&data().join(crate::store::names::LOCK)).unwrap().unwrap();
    assert!(matches!(alone(&fs), Err(OpenError::ParentLocked { .. })));
    assert!(hosted(&fs).is_ok());
    drop(held);
}

/// Kafka's own directory: closed cleanly, so nothing is scanned and log starts count.
#[test]
fn a_directory_of_kafkas_opens_by_its_lists() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka/logdir");
    for is_clean in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        copy(&OsFileSystem, &source, &OsFileSystem, temp.path());
        if !is_clean {
            remove_clean_shutdown(&OsFileSystem, temp.path()).unwrap();
        }
        let word = DirectoryWord::read(&OsFileSystem, temp.path()).unwrap();
        for (name, log_start) in [("orders-0", 0), ("orders-1", 23), ("users-0", 0)] {
            let dir = temp.path().join(name);
            OsFileSystem.create_dir(&dir).unwrap();
            copy(&OsFileSystem, &source.join(name), &OsFileSystem, &dir);
            let log = Environment::default()
                .open_hosted(&dir, LogConfig::default(), &word.of(name), &Arc::default())
                .unwrap();
            let report = log.recovery_report();
            assert_eq!((log.log_start(), log.log_end()), (at(log_start), at(30)), "{name}: {report:?}");
            assert_eq!((report.was_clean, report.recovery_point), (is_clean, Some(at(30))), "{name}: {report:?}");
            assert_no_alarm(&log, name);
            let is_scanned = |finding: &crate::log::Finding| finding.found == Found::RecoveryPointAbsent;
            assert!(!report.findings.iter().any(is_scanned), "{name}");
            log.close().unwrap();
            assert!(SegmentFile::live(Offset::ZERO, FileKind::Log).name().ends_with("0.log"));
        }
    }
}
