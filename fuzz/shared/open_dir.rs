//! A directory of arbitrary files. Opening it gives a log or an error, never a panic or an endless loop; what a log
//! serves it serves again after a second opening and after a power loss, and it takes appends.
//!
//! The input is a byte of settings, then for each file: what its name is, how its content is made up, and the content.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use alluvium::clock::ManualClock;
use alluvium::fs::sim::{SimFs, Survival};
use alluvium::fs::{FileSystem, OpenMode, write_all_at};
use alluvium::log::Found;
use alluvium::record::BatchBuilder;
use alluvium::{
    AppendAs, AppendError, CleanupPolicy, Deadline, Environment, LeaderEpoch, LogConfig, Offset, OnDamage, OpenError,
    PartitionLog, ReadError, ReadMode, ReadOptions, TimestampMs,
};

use super::batch::fix_header;
use super::input::Input;

const DIR: &str = "/data/orders-0";
const SUFFIXES: [&str; 6] = ["log", "index", "timeindex", "txnindex", "snapshot", "sum"];
const STAGES: [&str; 4] = ["", ".cleaned", ".swap", ".deleted"];
/// Names of state, ours and Kafka's; the first five are checked files, whose kinds are their places here.
const STATE: [&str; 10] = [
    "alluvium.lock",
    "alluvium.recovery-point",
    "alluvium.sync-state",
    "alluvium.clean-shutdown",
    "alluvium.damage",
    "alluvium.recovery-point.tmp",
    "alluvium.damage.tmp",
    "leader-epoch-checkpoint",
    "partition.metadata",
    "00000000000000000000.log.tmp",
];
const OTHERS: [&str; 6] = [
    "holiday.jpg",
    ".DS_Store",
    "alluvium.aside.0.00000000000000000000.log",
    "alluvium.unknown",
    "00000000000000000000.log.bak",
    "lost+found",
];

/// How the content of a file is made up.
pub(super) const AS_IT_IS: u8 = 0;
const SEALED: u8 = 1;
const CHAINED: u8 = 2;
pub(super) const SMALL_FILE: u8 = 3;
pub(super) const DIRECTORY: u8 = 4;

struct Directory {
    fs: SimFs,
    config: LogConfig,
    has_directories: bool,
}

pub(crate) fn run(data: &[u8]) {
    let directory = build(data);
    let Some(log) = directory.open_judged() else { return };
    let marks = log.marks();
    assert_eq!(marks.durable_end, marks.log_end, "what is served after opening is durable");
    let served = Served::by(&log);
    if std::env::var_os("ALLUVIUM_FUZZ_SHOW").is_some() {
        println!("{:#?}\n{served:#?}", log.recovery_report());
    }
    if directory.has_directories {
        // One in the place of an index or a state file that is to be written makes that fail, each time anew.
        return;
    }
    let image = directory.fs.power_loss_keeping(Survival::Nothing);
    let (end, after) = (log.log_end(), log_files(&directory.fs));
    drop(log);

    let again = directory.open().unwrap_or_else(|error| panic!("the second opening fails: {error}"));
    let findings = &again.recovery_report().findings;
    if findings.iter().any(|finding| finding.found == Found::EmptyLog) {
        // The first opening did not know that the empty log lies below the recovery point; it said what it did.
        return;
    }
    served.check(&Served::by(&again), &format!("after a second opening, which found {findings:?}"));
    assert_eq!(log_files(&directory.fs), after, "a second opening changes a log file");
    check_append(&directory, again, end);

    let survivor = Directory { fs: image, ..directory };
    let log = survivor.open().unwrap_or_else(|error| panic!("opening after a power loss fails: {error}"));
    let findings = &log.recovery_report().findings;
    served.check(&Served::by(&log), &format!("after a power loss, when {findings:?} were found"));
}

impl Directory {
    fn open(&self) -> Result<PartitionLog, OpenError> {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        Environment { fs: Arc::new(self.fs.clone()), clock }.open(DIR, self.config.clone())
    }

    /// Opens the log, twice if a clean-shutdown marker vouched for bytes that nobody looked at: only what was judged can be
    /// held to itself. `None` if it was refused.
    fn open_judged(&self) -> Option<PartitionLog> {
        let mut was_clean = true;
        let mut log = None;
        while was_clean {
            drop(log);
            let before = log_files(&self.fs);
            match self.open() {
                Ok(opened) => {
                    was_clean = opened.recovery_report().was_clean;
                    Served::by(&opened);
                    log = Some(opened);
                }
                Err(error) => {
                    self.check_refusal(&error, &before);
                    return None;
                }
            }
        }
        log
    }

    fn check_refusal(&self, error: &OpenError, before: &BTreeMap<String, (usize, u32)>) {
        assert!(!error.to_string().is_empty());
        match error {
            // A directory where a file should be is the only thing that can fail here.
            OpenError::Io(failure) => assert!(self.has_directories, "{failure}"),
            OpenError::Damaged { .. } | OpenError::Foreign { .. } | OpenError::OldFormat { .. } => {
                assert!(
                    before.is_empty() || log_files(&self.fs) == *before,
                    "refused ({error}), and a log file changed"
                );
            }
            _ => {}
        }
    }
}

/// An append is taken, is durable when it says so, and a close is clean.
fn check_append(directory: &Directory, log: PartitionLog, end: Offset) {
    let batch = BatchBuilder::new().record(TimestampMs::new(1), Some(b"k"), Some(b"v")).build().expect("one record");
    let epoch = LeaderEpoch::new(i32::MAX).expect("not negative");
    let appended = match log.append(batch, AppendAs::Client { epoch }) {
        Ok(appended) => appended,
        Err(AppendError::OffsetsExhausted { .. }) => return,
        Err(error) => panic!("an append to a log just opened fails: {error}"),
    };
    assert_eq!(appended.base_offset(), end);
    appended.wait_durable(Deadline::NEVER).expect("no sync fails here");
    log.close().expect("no sync fails here");
    drop(log);
    let log = directory.open().unwrap_or_else(|error| panic!("opening after a close fails: {error}"));
    assert!(log.recovery_report().was_clean, "{:?}", log.recovery_report().findings);
    assert_eq!(log.log_end(), appended.end());
    let fetched = log.read(appended.base_offset(), &ReadOptions::default()).expect("what was appended is there");
    assert!(!fetched.is_empty());
}

/// Everything that a log serves, errors included.
#[derive(Debug)]
pub(super) struct Served {
    lines: Vec<String>,
    /// Every byte was looked at by this opening. Below the recovery point nobody looks, and damage there shows itself
    /// when an index has to be rebuilt and not before.
    is_judged: bool,
}

impl Served {
    pub(super) fn by(log: &PartitionLog) -> Self {
        let marks = log.marks();
        let mut lines = vec![format!("{marks:?}")];
        let mut next = marks.log_start;
        while next < marks.log_end {
            let Some((what, after)) = look_at(log, next) else {
                lines.push(format!("{next} leads nowhere"));
                break;
            };
            assert!(after > next, "a read at {next} goes on at {after}: {what}");
            lines.push(what);
            next = after;
        }
        for timestamp in [-1, 0, 1, 1000, 1_700_000_000_000, i64::MAX] {
            let found = log.offset_for_timestamp(TimestampMs::new(timestamp));
            assert!(!matches!(found, Err(ReadError::Io(_) | ReadError::OutOfRange { .. })), "{timestamp}: {found:?}");
            lines.push(format!("{timestamp}: {}", found.map_or_else(|e| e.to_string(), |found| format!("{found:?}"))));
        }
        let report = log.recovery_report();
        Self { lines, is_judged: report.scanned_segments == report.segments }
    }

    pub(super) fn check(&self, later: &Self, when: &str) {
        if self.is_judged {
            assert_eq!(later.lines, self.lines, "something else is served {when}");
        } else {
            assert_eq!(later.lines.first(), self.lines.first(), "other marks {when}");
        }
    }
}

/// What a read at `next` gives, and where the next one goes on; `None` where only damage in bytes that are trusted
/// without a look keeps the reader from going on.
fn look_at(log: &PartitionLog, next: Offset) -> Option<(String, Offset)> {
    let options = ReadOptions { max_bytes: 700, ..ReadOptions::default() };
    match log.read(next, &options) {
        Ok(fetched) => {
            let bytes = fetched.read().expect("slices can be read");
            let batches = fetched.batches().expect("slices can be read");
            let errors: Vec<_> = batches.iter().filter_map(Result::err).map(|error| error.to_string()).collect();
            let after = fetched.next_offset().ok().filter(|_| !fetched.is_empty())?;
            let sum = crc32fast::hash(&bytes);
            Some((format!("{next}: {} bytes, {sum:08x} {errors:?}", bytes.len()), after))
        }
        Err(ReadError::Damaged(damage)) => Some((damage.to_string(), damage.offsets.end)),
        Err(ReadError::Corrupt(_)) => None,
        Err(error) => panic!("a read at {next} within {:?}: {error}", log.marks()),
    }
}

/// Length and checksum of each log. Empty ones and swaps are no evidence of a change: they are settled before anything
/// else is looked at.
fn log_files(fs: &SimFs) -> BTreeMap<String, (usize, u32)> {
    let entries = fs.list(Path::new(DIR)).unwrap_or_default();
    let is_a = |name: &str, extension: &str| Path::new(name).extension().is_some_and(|found| found == extension);
    let has_swaps = entries.iter().any(|entry| is_a(&entry.name, "swap"));
    let logs = entries.into_iter().map(|entry| entry.name).filter(|name| is_a(name, "log") && !has_swaps);
    let content = |name: &String| fs.live_bytes(&Path::new(DIR).join(name)).filter(|bytes| !bytes.is_empty());
    logs.filter_map(|name| content(&name).map(|bytes| (name, (bytes.len(), crc32fast::hash(&bytes))))).collect()
}

/// Makes the directory that the input describes, all of it durable.
fn build(data: &[u8]) -> Directory {
    let mut input = Input::new(data);
    let config = config(input.u8());
    let fs = SimFs::new(1);
    for dir in ["/data", DIR] {
        fs.create_dir(Path::new(dir)).expect("a new directory");
    }
    let mut has_directories = false;
    while !input.is_empty() {
        let (name, kind) = name(&mut input);
        let path = Path::new(DIR).join(name);
        let how = input.u8();
        let len = usize::from(input.u16());
        let content = input.bytes(len);
        if how == DIRECTORY {
            has_directories |= fs.create_dir(&path).is_ok();
        } else if let Ok(file) = fs.open(&path, OpenMode::CreateNew) {
            write_all_at(&*file, &made_up(how, kind, content), 0).expect("there is room");
            file.sync_data().expect("no sync fails here");
        }
    }
    for dir in ["/", "/data", DIR] {
        fs.sync_dir(Path::new(dir)).expect("no sync fails here");
    }
    Directory { fs, config, has_directories }
}

pub(super) fn config(flags: u8) -> LogConfig {
    let on_damage = [OnDamage::Quarantine, OnDamage::Refuse, OnDamage::Cut, OnDamage::Quarantine];
    LogConfig {
        on_damage: on_damage[usize::from(flags & 3)],
        read_mode: if flags & 4 == 0 { ReadMode::Positional } else { ReadMode::Mapped },
        cleanup_policy: if flags & 8 == 0 { CleanupPolicy::Delete } else { CleanupPolicy::Compact },
        index_interval_bytes: if flags & 16 == 0 { 4096 } else { 100 },
        segment_bytes: if flags & 32 == 0 { 1 << 20 } else { 1000 },
        max_decompressed_bytes: 1 << 20,
        ..LogConfig::default()
    }
}

/// A name, and the number of the kind of small file that goes by it.
pub(super) fn name(input: &mut Input<'_>) -> (String, u16) {
    match input.below(8) {
        0..5 => {
            let base = input.u16();
            let suffix = input.pick(&SUFFIXES);
            let stage = input.pick(&STAGES);
            (format!("{base:020}.{suffix}{stage}"), 0)
        }
        5 | 6 => {
            let kind = input.below(10);
            (STATE[usize::from(kind)].to_owned(), u16::from(kind))
        }
        _ => ((*input.pick(&OTHERS)).to_owned(), 0),
    }
}

pub(super) fn made_up(how: u8, kind: u16, content: &[u8]) -> Vec<u8> {
    match how {
        SEALED | CHAINED => seal(content, how == CHAINED),
        SMALL_FILE => small_file(kind, content),
        _ => content.to_vec(),
    }
}

/// Makes batches with valid headers of the content as far as its length fields say; `chained`, with offsets that rise.
fn seal(content: &[u8], chained: bool) -> Vec<u8> {
    let mut bytes = content.to_vec();
    let (mut at, mut next) = (0, 0_i64);
    while let Some(header) = bytes.get(at..).and_then(<[u8]>::first_chunk::<61>) {
        let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let last_delta = u32::from_be_bytes([header[23], header[24], header[25], header[26]]);
        let end = Some(at + 12 + length).filter(|end| length >= 49 && *end <= bytes.len()).unwrap_or(bytes.len());
        let batch = &mut bytes[at..end];
        if chained {
            batch[..8].copy_from_slice(&next.to_be_bytes());
        }
        fix_header(batch);
        next += i64::from(last_delta & 0xff_ffff) + 1;
        at = end;
    }
    bytes
}

/// A small file of ours whose checksum is right: magic, kind, version, length, CRC-32, payload.
fn small_file(kind: u16, payload: &[u8]) -> Vec<u8> {
    small_file_of(kind, 1, payload)
}

pub(super) fn small_file_of(kind: u16, version: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"ALVM".to_vec();
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("a u16 came in").to_be_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[4..]);
    hasher.update(payload);
    bytes.extend_from_slice(&hasher.finalize().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The input that gives a directory of these files, as far as there is one, for seeds.
pub(crate) fn encode(settings: u8, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut input = vec![settings];
    for (name, content) in files {
        let Ok(len) = u16::try_from(content.len()) else { continue };
        if let Some(kind) = STATE.iter().position(|state| state == name) {
            input.extend_from_slice(&[5, u8::try_from(kind).expect("there are ten")]);
        } else if let Some((base, suffix)) = name.split_once('.')
            && let Ok(base) = base.parse::<u16>()
            && let Some(suffix) = SUFFIXES.iter().position(|known| *known == suffix)
        {
            input.push(0);
            input.extend_from_slice(&base.to_be_bytes());
            input.extend_from_slice(&[u8::try_from(suffix).expect("there are six"), 0]);
        } else {
            continue;
        }
        input.push(AS_IT_IS);
        input.extend_from_slice(&len.to_be_bytes());
        input.extend_from_slice(content);
    }
    input
}
