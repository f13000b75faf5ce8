//! Thousands of partitions and everything that befalls them at once, for some seconds, or for as long as
//! `ALLUVIUM_SOAK_SECONDS` says. In a process of its own: what is counted there, descriptors and memory, is the store's.

mod model;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alluvium::inspect::{PartitionFiles, VerifyOptions};
use alluvium::store::{CreateOptions, Partition, PartitionState, Store, StoreConfig, StoreEvent, TopicPartition};
use alluvium::{LogConfig, ReadError, ReadOptions};

use super::super::support::LONG;
use super::world::{client, copy_partition, named};
use model::{Model, Modelled, Numbers, PRODUCERS, offset};

const PARTITIONS: i32 = 2_000;
const WRITERS: usize = 4;
const READERS: usize = 2;
const OPEN_FILES: u32 = 256;
/// What threads hold between taking and counting, and a directory's own files.
const OPEN_FILES_BESIDE: u64 = 64;
const RETENTION_BYTES: u64 = 8 << 10;
/// A soak that has not done everything by then has not done it.
const TIME_MAX: Duration = Duration::from_mins(1);
const CHILD_DIR: &str = "ALLUVIUM_TEST_SOAK_DIR";

fn log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 4 << 10,
        index_interval_bytes: 512,
        retention_bytes: Some(RETENTION_BYTES),
        file_delete_delay_ms: 500,
        zero_ahead_bytes: 4 << 10,
        ..LogConfig::default()
    }
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        directories: vec![dir.join("a"), dir.join("b")],
        default_log: log_config(),
        open_files_max: Some(OPEN_FILES),
        index_memory_bytes: 4 << 20,
        retention_check_interval: Duration::from_millis(700),
        recovery_checkpoint_interval: Duration::from_secs(1),
        start_checkpoint_interval: Duration::from_secs(1),
        high_watermark_checkpoint_interval: Duration::from_secs(1),
        housekeeping_interval: Duration::from_millis(100),
        idle_after: Some(Duration::from_millis(800)),
        scrub_delay: Duration::ZERO,
        scrub_interval: Duration::from_millis(1),
        scrub_bytes_per_second: None,
        ..StoreConfig::default()
    }
}

fn seconds() -> u64 {
    std::env::var("ALLUVIUM_SOAK_SECONDS").ok().and_then(|value| value.parse().ok()).unwrap_or(20)
}

#[test]
fn two_thousand_partitions_live_through_everything_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::soak::child_that_soaks", "--nocapture"])
        .env(CHILD_DIR, temp.path())
        .status()
        .unwrap();
    assert!(status.success());
}

/// Started by the test above in a process of its own.
#[test]
fn child_that_soaks() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let descriptors = descriptors();
    let soak = Soak::new(&dir);
    let events = soak.store.subscribe(1 << 12);
    let samples = soak.run(Duration::from_secs(seconds()));
    soak.print();
    let bad: Vec<StoreEvent> = std::iter::from_fn(|| events.try_next()).collect();
    assert!(bad.is_empty(), "{bad:?}");
    samples.check();
    soak.check_all(&soak.store, 1);
    soak.check_workers();
    println!("checked after {:?}", soak.began.elapsed());

    let closed = soak.store.close(LONG).unwrap();
    assert!(closed.unclean.is_empty() && closed.failed_dirs.is_empty(), "{closed:?}");
    assert_eq!(open_below(&dir), 0);
    println!("closed after {:?}", soak.began.elapsed());
    soak.verify_directories();
    println!("verified after {:?}", soak.began.elapsed());

    let store = Store::open(config(&dir)).unwrap();
    for line in &store.report().directories {
        assert!(line.was_clean && line.opened == 0 && line.scanned_bytes == 0, "{line:?}");
        assert!(line.faults.is_empty() && line.lines.is_empty() && line.unknown_entries.is_empty(), "{line:?}");
    }
    // Opening all of them once more would show nothing else.
    soak.check_all(&store, 10);
    store.close(LONG).unwrap();
    drop((store, soak));
    assert_eq!(open_below(&dir), 0);
    assert!(self::descriptors() <= descriptors + 2, "{} after, {descriptors} before", self::descriptors());
}

/// What was done, to show that all of it was.
#[derive(Debug, Default)]
struct Done {
    cached: AtomicU64,
    durable: AtomicU64,
    duplicates: AtomicU64,
    cuts: AtomicU64,
    deletes: AtomicU64,
    moves: AtomicU64,
    reads: AtomicU64,
    below_start: AtomicU64,
    idle: AtomicU64,
}

struct Soak {
    dir: PathBuf,
    store: Store,
    all: Vec<Modelled>,
    done: Done,
    is_over: AtomicBool,
    began: Instant,
}

/// Empty partitions, closed cleanly: all but two are copies, which saves making each of them durable.
fn make_empty(dir: &Path) {
    let store = Store::open(config(dir)).unwrap();
    for (first, directory) in ["a", "b"].into_iter().enumerate() {
        let first = i32::try_from(first).unwrap();
        let directory = dir.join(directory);
        store.create(&named("soak", first), CreateOptions::new(log_config()).in_dir(directory)).unwrap();
    }
    store.close(LONG).unwrap();
    for number in 2..PARTITIONS {
        let directory = dir.join(["a", "b"][usize::try_from(number % 2).unwrap()]);
        copy_partition(&directory, &named("soak", number % 2), &named("soak", number));
    }
}

impl Soak {
    fn new(dir: &Path) -> Self {
        make_empty(dir);
        let store = Store::open(config(dir)).unwrap();
        assert_eq!(store.partitions().len(), usize::try_from(PARTITIONS).unwrap());
        let modelled = |number| {
            let mut model = Model::default();
            model.renew();
            Modelled { number, model: Mutex::new(model) }
        };
        let all = (0..PARTITIONS).map(modelled).collect();
        let (done, is_over, began) = (Done::default(), AtomicBool::new(false), Instant::now());
        Self { dir: dir.to_owned(), store, all, done, is_over, began }
    }

    fn run(&self, time: Duration) -> Samples {
        let started = Instant::now();
        let mut samples = Samples::default();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || self.write(writer));
            }
            for reader in 0..READERS {
                scope.spawn(move || self.read(reader));
            }
            // On a disk that is busy with others' work it takes longer until each thing was done once.
            while started.elapsed() < time || (!self.did_everything() && started.elapsed() < TIME_MAX) {
                samples.take(&self.dir);
                std::thread::sleep(Duration::from_millis(50));
            }
            self.is_over.store(true, Ordering::Relaxed);
        });
        samples
    }

    fn get(&self, one: &Modelled) -> Partition {
        self.store.get(&name(one)).unwrap()
    }
}

/// Changes what readers must not look at too closely.
fn change(one: &Modelled, change: impl FnOnce(Model) -> Model) {
    let before = {
        let mut model = one.model.lock().unwrap();
        model.version += 1;
        model.clone()
    };
    let after = change(before);
    let mut model = one.model.lock().unwrap();
    let version = model.version + 1;
    *model = Model { version, ..after };
}

fn name(one: &Modelled) -> TopicPartition {
    named("soak", one.number)
}

/// The writers: each partition has one, which alone appends to it and changes it.
impl Soak {
    fn write(&self, writer: usize) {
        let mine: Vec<&Modelled> = self.all.iter().skip(writer).step_by(WRITERS).collect();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 + writer as u64);
        while !self.is_over.load(Ordering::Relaxed) {
            let one = self.pick(&mine, &mut numbers);
            if !one.model.lock().unwrap().is_there {
                self.make(one);
            }
            match numbers.below(1_000) {
                0..700 => self.append(one, &mut numbers, false),
                700..900 => self.append(one, &mut numbers, true),
                900..960 => self.append_to_many(&mine, &mut numbers),
                960..985 => self.cut(one, &mut numbers),
                985..990 => self.relocate(one),
                990..994 => self.delete(one),
                _ => drop(self.get(one).log().unwrap().flush().unwrap()),
            }
        }
    }

    /// Most of the time one of a few, which are others from second to second: the rest is idle meanwhile.
    fn pick<'a>(&self, mine: &[&'a Modelled], numbers: &mut Numbers) -> &'a Modelled {
        let count = mine.len() as u64;
        let hot = (self.began.elapsed().as_secs() / 2 * 61 + numbers.below(10)) % count;
        let at = if numbers.below(8) > 0 { hot } else { numbers.below(count) };
        mine[usize::try_from(at).unwrap()]
    }

    fn append_one(&self, one: &Modelled, numbers: &mut Numbers) -> alluvium::log::Appended {
        let (records, producer) = (1 + i64::try_from(numbers.below(5)).unwrap(), numbers.below(PRODUCERS as u64));
        let producer = usize::try_from(producer).unwrap();
        let (batch, end) = {
            let model = one.model.lock().unwrap();
            (model.batch(one.number, records, producer), model.end)
        };
        let partition = self.get(one);
        let again = (numbers.below(20) == 0 && one.number % 3 == 0).then(|| batch.clone());
        let appended = partition.append(batch, client()).unwrap();
        assert!(!appended.is_duplicate());
        assert_eq!((appended.base_offset(), appended.end()), (offset(end), offset(end + records)), "{}", name(one));
        one.model.lock().unwrap().grew(records, producer);
        if let Some(again) = again {
            let repeated = partition.append(again, client()).unwrap();
            assert!(repeated.is_duplicate());
            assert_eq!(repeated.base_offset(), appended.base_offset());
            self.done.duplicates.fetch_add(1, Ordering::Relaxed);
        }
        appended
    }

    fn append(&self, one: &Modelled, numbers: &mut Numbers, is_durable: bool) {
        let appended = self.append_one(one, numbers);
        if is_durable {
            self.wait(one, &appended);
        } else {
            self.done.cached.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wait(&self, one: &Modelled, appended: &alluvium::log::Appended) {
        appended.wait_durable(LONG).unwrap();
        let marks = self.get(one).marks().unwrap();
        assert!(marks.durable_end >= appended.end(), "{}: {marks:?}", name(one));
        let mut model = one.model.lock().unwrap();
        model.durable = model.durable.max(appended.end().value());
        self.done.durable.fetch_add(1, Ordering::Relaxed);
    }

    fn append_to_many(&self, mine: &[&Modelled], numbers: &mut Numbers) {
        let first = usize::try_from(numbers.below(mine.len() as u64)).unwrap();
        let some = mine.iter().cycle().skip(first).take(24).filter(|one| one.model.lock().unwrap().is_there);
        let appended: Vec<_> = some.map(|one| (one, self.append_one(one, numbers))).collect();
        for (one, appended) in &appended {
            self.wait(one, appended);
        }
    }

    fn cut(&self, one: &Modelled, numbers: &mut Numbers) {
        change(one, |mut model| {
            let log = self.get(one).log().unwrap();
            let (start, end) = (log.log_start().value(), model.end);
            let to = start + i64::try_from(numbers.below((end - start + 1).unsigned_abs())).unwrap();
            // A cut falls on the start of the batch that holds the offset.
            let to = log.truncate_to(offset(to)).unwrap().value();
            assert_eq!(log.log_end().value(), to);
            model.cut(to);
            model
        });
        self.done.cuts.fetch_add(1, Ordering::Relaxed);
    }

    fn relocate(&self, one: &Modelled) {
        change(one, |model| {
            let partition = self.get(one);
            let (a, b) = (self.dir.join("a"), self.dir.join("b"));
            let target = if partition.dir().starts_with(&a) { b } else { a };
            let mut relocation = self.store.relocate(&name(one), &target).unwrap();
            while !relocation.step(1 << 20).unwrap().is_caught_up {}
            relocation.finish().unwrap();
            assert!(partition.dir().starts_with(&target));
            assert_eq!(partition.marks().unwrap().log_end.value(), model.end, "{}", name(one));
            model
        });
        self.done.moves.fetch_add(1, Ordering::Relaxed);
    }

    fn delete(&self, one: &Modelled) {
        change(one, |model| {
            self.store.delete(&name(one)).unwrap();
            Model { is_there: false, ..model }
        });
        self.done.deletes.fetch_add(1, Ordering::Relaxed);
    }

    fn make(&self, one: &Modelled) {
        change(one, |mut model| {
            let made = self.store.create(&name(one), log_config()).unwrap();
            assert_eq!(made.marks().unwrap().log_end.value(), 0, "{}", name(one));
            model.renew();
            model
        });
    }
}

/// The readers, and what everybody must find.
impl Soak {
    fn read(&self, reader: usize) {
        let mut numbers = Numbers(77 + reader as u64);
        while !self.is_over.load(Ordering::Relaxed) {
            let mine: Vec<&Modelled> = self
                .all
                .iter()
                .skip(usize::try_from(numbers.below(WRITERS as u64)).unwrap())
                .step_by(WRITERS)
                .collect();
            let one = self.pick(&mine, &mut numbers);
            let model = one.model.lock().unwrap().clone();
            if !model.is_there || model.version % 2 == 1 {
                continue;
            }
            let Some(partition) = self.store.get(&name(one)) else { continue };
            let is_idle = matches!(partition.state(), PartitionState::Idle);
            self.done.idle.fetch_add(u64::from(is_idle), Ordering::Relaxed);
            let span = (model.end - model.floor + 1).unsigned_abs();
            let from = model.floor + i64::try_from(numbers.below(span)).unwrap();
            let read = read_some(&partition, from);
            let marks = partition.marks();
            let mut now = one.model.lock().unwrap();
            if now.version != model.version {
                continue;
            }
            let marks = marks.unwrap();
            assert!(marks.log_start.value() >= model.floor, "{}: {marks:?} {model:?}", name(one));
            assert!(marks.log_end.value() >= model.end, "{}: {marks:?} {model:?}", name(one));
            assert!(marks.durable_end.value() >= model.durable, "{}: {marks:?} {model:?}", name(one));
            assert!(marks.durable_end <= marks.log_end && marks.log_start <= marks.log_end, "{marks:?}");
            now.floor = now.floor.max(marks.log_start.value());
            match read {
                Ok(found) => check_values(one, &model, from, &found),
                Err(ReadError::OutOfRange { asked, log_start, .. }) if asked < log_start => {
                    self.done.below_start.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{} at {from}: {error} {model:?}", name(one)),
            }
            self.done.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything that was acknowledged is there, in its order, but for what retention took.
    /// The marks of all partitions are looked at, and what is in one of so many.
    fn check_all(&self, store: &Store, one_of: usize) {
        let there = self.all.iter().filter(|one| one.model.lock().unwrap().is_there).count();
        assert_eq!(store.partitions().len(), there);
        let mut shortened = 0;
        for (at, one) in self.all.iter().enumerate() {
            let model = one.model.lock().unwrap().clone();
            let Some(partition) = store.get(&name(one)) else {
                assert!(!model.is_there, "{} is gone", name(one));
                continue;
            };
            let marks = partition.marks().unwrap();
            assert_eq!(marks.log_end.value(), model.end, "{}", name(one));
            assert!(marks.durable_end.value() >= model.durable && marks.log_start.value() >= model.floor);
            assert!(marks.log_start <= marks.high_watermark && marks.high_watermark <= marks.log_end, "{marks:?}");
            shortened += usize::from(marks.log_start.value() > 0);
            if at % one_of != 0 {
                continue;
            }
            let (mut next, mut bytes) = (marks.log_start.value(), 0);
            while next < model.end {
                let found = read_some(&partition, next).unwrap();
                check_values(one, &model, next, &found);
                bytes += found.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
                next = found.last().unwrap().0 + 1;
            }
            if marks.log_start.value() > 0 && !model.was_cut {
                // What a record takes beside its value is little.
                assert!(bytes > RETENTION_BYTES * 3 / 4, "{} kept {bytes} bytes: {marks:?}", name(one));
            }
            let log = partition.log().unwrap();
            let health = log.health();
            assert!(health.failed.is_none(), "{}: {health:?}", name(one));
            assert_eq!(log.recovery_report().damage().count(), 0);
        }
        assert!(shortened > 0, "retention had something to do");
    }

    fn check_workers(&self) {
        let workers = self.store.workers();
        assert_eq!(workers.len(), 6, "a flusher for each directory, housekeeper, scrubber, cleaner and its stand-in");
        for worker in workers {
            assert_eq!(worker.panics, 0, "{worker:?}");
        }
        let scrubbing = self.store.scrubbing();
        assert_eq!((scrubbing.damaged_ranges.value(), scrubbing.stale_segments.value()), (0, 0));
        assert!(scrubbing.segments.value() > 0, "{scrubbing:?}");
    }

    /// What was left is what Kafka's own tools would find, without opening it.
    fn verify_directories(&self) {
        for directory in ["a", "b"] {
            for entry in std::fs::read_dir(self.dir.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                let file = path.file_name().unwrap().to_str().unwrap().to_owned();
                if !path.is_dir() || !file.starts_with("soak-") {
                    continue;
                }
                let report = PartitionFiles::open(&path).unwrap().verify(&VerifyOptions::default()).unwrap();
                assert!(report.is_sound() && report.was_clean, "{file}: {report:?}");
            }
        }
    }

    fn did_everything(&self) -> bool {
        let Done { cached, durable, duplicates, cuts, deletes, moves, reads, idle, .. } = &self.done;
        let counts = [cached, durable, duplicates, cuts, deletes, moves, reads, idle];
        let scrubbed = self.store.scrubbing().segments.value();
        scrubbed > 0 && counts.iter().all(|count| count.load(Ordering::Relaxed) > 0)
    }

    fn print(&self) {
        println!("{:?}; {:?}", self.done, self.store.scrubbing());
        assert!(self.did_everything(), "{:?}", self.done);
    }
}

/// The records of one read from `from` on.
fn read_some(partition: &Partition, from: i64) -> Result<Vec<(i64, String)>, ReadError> {
    let fetched = partition.read(offset(from), &ReadOptions { max_bytes: 8 << 10, ..ReadOptions::default() })?;
    let mut found = Vec::new();
    for batch in fetched.batches()?.iter() {
        let batch = batch?;
        batch.verify_crc().unwrap();
        for record in batch.body(1 << 20).unwrap().records().map(Result::unwrap) {
            found.push((record.offset.value(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    // A batch may begin before the offset that was asked for.
    found.retain(|(offset, _)| *offset >= from);
    Ok(found)
}

fn check_values(one: &Modelled, model: &Model, from: i64, found: &[(i64, String)]) {
    assert!(!found.is_empty() || from >= model.end, "{} shows nothing at {from}: {model:?}", name(one));
    for ((offset, value), expected) in found.iter().zip(from..) {
        assert_eq!(*offset, expected, "{}", name(one));
        assert_eq!(*value, model.value(one.number, *offset), "{}", name(one));
    }
}

/// Descriptors and memory as time went by.
#[derive(Default)]
struct Samples {
    open: Vec<u64>,
    resident_kib: Vec<u64>,
}

impl Samples {
    fn take(&mut self, dir: &Path) {
        // While others are opened and closed, one that changes its number is counted twice; not every time.
        self.open.extend((0..4).map(|_| open_below(dir)).min());
        self.resident_kib.push(resident_kib());
    }

    fn check(&self) {
        let open = self.open.iter().copied().max().unwrap();
        let half = self.resident_kib.len() / 2;
        let mean = |some: &[u64]| some.iter().sum::<u64>() / some.len().max(1) as u64;
        let (first, second) = (mean(&self.resident_kib[half / 2..half]), mean(&self.resident_kib[half..]));
        println!("at most {open} descriptors; {first} KiB resident in the first half, {second} in the second");
        assert!(open <= u64::from(OPEN_FILES) + OPEN_FILES_BESIDE, "{open} descriptors");
        assert!(second <= first + first / 5 + (8 << 10), "{:?}", self.resident_kib);
    }
}

/// Descriptors of this process on what lies below `dir`.
fn open_below(dir: &Path) -> u64 {
    let targets = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = targets.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(dir)).count() as u64
}

fn descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}
