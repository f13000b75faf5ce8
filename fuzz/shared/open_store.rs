//! Data directories of arbitrary files. Opening a store on them gives a store or an error, never a panic, an endless loop
//! or an allocation that the files do not account for; what its partitions serve they serve again after a close and a
//! second opening, which changes none of their logs.
//!
//! The input is a byte of settings, then for each file: where it lies, what its name is, how its content is made up, and
//! the content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alluvium::clock::ManualClock;
use alluvium::fs::sim::SimFs;
use alluvium::fs::{EntryKind, FileSystem, OpenMode, write_all_at};
use alluvium::record::BatchBuilder;
use alluvium::store::{Store, StoreConfig, StoreOpening, TopicPartition, Workers};
use alluvium::{AppendAs, Environment, LeaderEpoch, ReadOptions, TimestampMs};

use super::input::Input;
use super::open_dir::{AS_IT_IS, DIRECTORY, SMALL_FILE, Served, config, made_up, name, small_file_of};

const DATA: [&str; 2] = ["/data0", "/data1"];
const LONG: Duration = Duration::from_hours(1);
/// What lies in a data directory: partitions in every state, and what is none.
const PLACES: [&str; 10] = [
    "orders-0",
    "orders-1",
    "my-topic-12",
    "orders-0.0123456789abcdef0123456789abcdef-future",
    "orders-0.fedcba9876543210fedcba9876543210-future",
    "orders-0.0123456789abcdef0123456789abcdef-delete",
    "orders-1.0123456789abcdef0123456789abcdef-stray",
    "__cluster_metadata-0",
    "lost+found",
    "orders-x",
];
/// Files beside them.
const BESIDE: [&str; 16] = [
    "alluvium.store",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
    ".kafka_cleanshutdown",
    "meta.properties",
    ".lock",
    "alluvium.reserve",
    "alluvium.store.tmp",
    "recovery-point-offset-checkpoint.tmp",
    "alluvium.unknown",
    "holiday.jpg",
    "orders-0",
    "alluvium.lock",
    "remote-log-index-cache",
];
/// Files of a partition that a log opened alone knows nothing of; with the kinds of the first two.
const HOSTED: [(&str, u16); 4] =
    [("alluvium.move", 18), ("alluvium.store", 17), ("alluvium.canary.deleted", 0), ("partition.metadata", 0)];

struct Disk {
    fs: SimFs,
    flags: u8,
    has_directories: bool,
}

pub(crate) fn run(data: &[u8]) {
    let disk = build(data);
    let Some(store) = disk.open() else { return };
    let first = serve(&store, disk.has_directories);
    store.tick();
    take_appends(&store, disk.has_directories);
    let first = if disk.has_directories { first } else { serve(&store, false) };
    let closed = store.close(LONG).expect("it was not closed before");
    drop(store);
    if disk.has_directories {
        // One in the place of a file that is to be written makes that fail, each time anew.
        drop(disk.open());
        return;
    }
    assert!(closed.failed_dirs.is_empty(), "{closed:?}");
    let after = logs(&disk.fs);
    let again = disk.open().expect("the second opening fails");
    let report = again.report();
    assert!(report.directories.iter().all(|line| line.offline.is_none()), "{report:?}");
    for (name, served) in &first {
        let Some(partition) = again.get(name) else { panic!("{name} is not found again: {report:?}") };
        match partition.log() {
            Ok(log) => served.check(&Served::by(&log), &format!("by {name} after a second opening")),
            Err(error) => panic!("{name} does not open a second time: {error}"),
        }
    }
    again.close(LONG).expect("it was not closed before");
    let later = logs(&disk.fs);
    // What nobody could open the first time is looked at anew.
    let is_known = |path: &&PathBuf| {
        let dir = path.parent().and_then(Path::file_name).map(|dir| dir.to_string_lossy().into_owned());
        first.keys().any(|name| dir == Some(name.dir_name()))
    };
    for path in after.keys().chain(later.keys()).filter(is_known) {
        assert_eq!(later.get(path), after.get(path), "a second opening changes {}", path.display());
    }
}

impl Disk {
    fn open(&self) -> Option<Store> {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let settings = StoreConfig {
            directories: DATA[..=usize::from(self.flags >> 7)].iter().map(PathBuf::from).collect(),
            workers: Workers::Tick,
            recovery_threads: 1,
            reserve_bytes: 1000,
            default_log: config(self.flags & 0x3f),
            ..StoreConfig::default()
        };
        let environment = Environment { fs: Arc::new(self.fs.clone()), clock };
        match StoreOpening::new(settings).environment(environment).open() {
            Ok(store) => Some(store),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                None
            }
        }
    }
}

/// What each partition serves that can be opened. With directories in the place of files reads may fail, and are only made.
fn serve(store: &Store, is_soft: bool) -> BTreeMap<TopicPartition, Served> {
    let mut found = BTreeMap::new();
    for name in store.partitions() {
        let partition = store.get(&name).expect("it was named");
        let marks = partition.marks();
        let Ok(log) = partition.log() else { continue };
        if is_soft {
            let _ = log.read(log.log_start(), &ReadOptions::default()).map(|fetched| fetched.read());
            continue;
        }
        assert!(marks.is_ok(), "{name}: {marks:?}");
        found.insert(name, Served::by(&log));
    }
    found
}

fn take_appends(store: &Store, is_soft: bool) {
    for name in store.partitions() {
        let partition = store.get(&name).expect("it was named");
        let batch =
            BatchBuilder::new().record(TimestampMs::new(1), Some(b"k"), Some(b"v")).build().expect("one record");
        let epoch = LeaderEpoch::new(i32::MAX).expect("not negative");
        if let Ok(appended) = partition.append(batch, AppendAs::Client { epoch }) {
            let durable = appended.wait_durable(LONG);
            assert!(is_soft || durable.is_ok(), "{name}: {durable:?}");
        }
    }
}

/// Every log file with something in it.
fn logs(fs: &SimFs) -> BTreeMap<PathBuf, (usize, u32)> {
    let mut found = BTreeMap::new();
    for data in DATA {
        for place in fs.list(Path::new(data)).unwrap_or_default() {
            let dir = Path::new(data).join(&place.name);
            let entries =
                if place.kind == EntryKind::Directory { fs.list(&dir).unwrap_or_default() } else { Vec::new() };
            for path in entries.iter().map(|entry| dir.join(&entry.name)) {
                let is_log = path.extension().is_some_and(|extension| extension == "log");
                if let Some(bytes) = fs.live_bytes(&path).filter(|bytes| is_log && !bytes.is_empty()) {
                    found.insert(path, (bytes.len(), crc32fast::hash(&bytes)));
                }
            }
        }
    }
    found
}

/// Makes the directories that the input describes, all of it durable.
fn build(data: &[u8]) -> Disk {
    let mut input = Input::new(data);
    let flags = input.u8();
    let fs = SimFs::new(1);
    let mut dirs = vec![PathBuf::from("/")];
    for dir in DATA.map(PathBuf::from) {
        fs.create_dir(&dir).expect("a new directory");
        dirs.push(dir);
    }
    let mut has_directories = false;
    while !input.is_empty() {
        let place = input.u8();
        let data = Path::new(DATA[usize::from(place & 1)]);
        let which = usize::from(place >> 1) % (PLACES.len() + 2);
        let (path, kind) = if let Some(name_of_dir) = PLACES.get(which) {
            let dir = data.join(name_of_dir);
            if fs.create_dir(&dir).is_ok() {
                dirs.push(dir.clone());
            }
            let (name, kind) = if place & 0x80 == 0 {
                name(&mut input)
            } else {
                let (name, kind) = *input.pick(&HOSTED);
                (name.to_owned(), kind)
            };
            (dir.join(name), kind)
        } else {
            let name = *input.pick(&BESIDE);
            (data.join(name), if name == BESIDE[0] { 17 } else { 0 })
        };
        let how = input.u8();
        let len = usize::from(input.u16());
        let content = input.bytes(len);
        if how == DIRECTORY {
            has_directories |= fs.create_dir(&path).is_ok();
        } else if let Ok(file) = fs.open(&path, OpenMode::CreateNew) {
            // The low bits say how, the others which version of the format it is.
            let bytes = if how & 7 == SMALL_FILE {
                small_file_of(kind, 1 + u16::from(how >> 3), content)
            } else {
                made_up(how, kind, content)
            };
            write_all_at(&*file, &bytes, 0).expect("there is room");
            file.sync_data().expect("no sync fails here");
        } else {
            // A file where a directory of that name lies, or the other way round.
            has_directories = true;
        }
    }
    for dir in &dirs {
        fs.sync_dir(dir).expect("no sync fails here");
    }
    Disk { fs, flags, has_directories }
}

/// The input that gives a data directory with these files in it and in one partition, for seeds.
pub(crate) fn encode(settings: u8, beside: &[(String, Vec<u8>)], partition: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![settings];
    for (name, content) in beside {
        let Ok(len) = u16::try_from(content.len()) else { continue };
        let Some(at) = BESIDE.iter().position(|known| known == name) else { continue };
        let place = u8::try_from(PLACES.len()).expect("there are ten") << 1;
        input.extend_from_slice(&[place, u8::try_from(at).expect("there are sixteen"), AS_IT_IS]);
        input.extend_from_slice(&len.to_be_bytes());
        input.extend_from_slice(content);
    }
    for (name, content) in partition {
        let file = if let Some(at) = HOSTED.iter().position(|(known, _)| known == name) {
            let Ok(len) = u16::try_from(content.len()) else { continue };
            let mut file = vec![u8::try_from(at).expect("there are four"), AS_IT_IS];
            file.extend_from_slice(&len.to_be_bytes());
            file.extend_from_slice(content);
            input.push(0x80 | place_in_second_half());
            file
        } else {
            let file = super::open_dir::encode(0, &[(name.clone(), content.clone())]);
            if file.len() == 1 {
                continue;
            }
            input.push(0);
            file[1..].to_vec()
        };
        input.extend_from_slice(&file);
    }
    input
}

/// With the highest bit set, what still leads to the first partition of the first data directory.
fn place_in_second_half() -> u8 {
    (0..0x80).step_by(2).find(|low| usize::from((0x80 | low) >> 1) % (PLACES.len() + 2) == 0).expect("there is one")
}
