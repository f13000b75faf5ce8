//! Reads from the page cache, against positional reads of the same ranges; sends to a socket, against sendfile of the
//! same ranges; lookups by time and by epoch; and marks, against what a mutex and a condition variable do.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "the baseline is the file system itself")]

#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod paired;
#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod raw;

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use alluvium::{
    AppendAs, Deadline, FileSlice, HighWatermarkMode, LeaderEpoch, LogConfig, Mark, Offset, PartitionLog, ReadOptions,
    TimestampMs,
};

use nix::sys::sendfile::sendfile64;

use paired::{Contest, Settings, Unit, ours};

/// Largest fetch, and the size of the buffer that is read into.
const FETCH_BYTES: usize = 1 << 20;

/// What a fetch found: files by number, positions and lengths.
#[derive(Clone)]
struct Found {
    ranges: Vec<(usize, u64, usize)>,
    offset: Offset,
    timestamp: TimestampMs,
}

impl Found {
    fn bytes(&self) -> usize {
        self.ranges.iter().map(|(_, _, len)| len).sum()
    }
}

/// A log, what lies where in it, and the same files opened by hand.
struct Library {
    log: PartitionLog,
    files: Vec<File>,
    paths: Vec<PathBuf>,
}

impl Library {
    /// About `bytes` in segments of `segment_bytes`; each batch has a timestamp of its own.
    fn write(dir: &Path, bytes: u64, segment_bytes: u32) -> Self {
        let log = PartitionLog::open(dir, LogConfig { segment_bytes, ..LogConfig::default() }).unwrap();
        let records = raw::records_in(16 << 10, 1024);
        let count = usize::try_from(bytes >> 14).unwrap();
        for mut batch in raw::batches(count, records, 1024) {
            log.append(&mut batch[..], AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
        }
        log.flush().unwrap();
        let paths = log.segment_files();
        let files = paths.iter().map(|path| File::open(path).unwrap()).collect();
        Self { log, files, paths }
    }

    /// A walk through the log by fetches of at most `max_bytes`.
    fn fetches(&self, max_bytes: u64) -> Vec<Found> {
        let options = ReadOptions { max_bytes, ..ReadOptions::default() };
        let mut all = Vec::new();
        let mut next = self.log.log_start();
        loop {
            let fetched = self.log.read(next, &options).unwrap();
            if fetched.is_empty() {
                return all;
            }
            let timestamp = fetched.batches().unwrap().iter().next().unwrap().unwrap().header().max_timestamp;
            let range = |slice: &FileSlice| {
                let file = self.paths.iter().position(|path| *path == slice.path()).unwrap();
                (file, slice.position().value(), usize::try_from(slice.len()).unwrap())
            };
            let ranges = fetched.slices().iter().map(range).collect();
            all.push(Found { ranges, offset: next, timestamp });
            next = fetched.next_offset().unwrap();
        }
    }

    fn read_raw(&self, found: &Found, buffer: &mut [u8]) {
        let mut filled = 0;
        for &(file, position, len) in &found.ranges {
            self.files[file].read_exact_at(&mut buffer[filled..filled + len], position).unwrap();
            filled += len;
        }
        black_box(&buffer[0]);
    }

    /// One sendfile for each range, and the rest of it when that was short.
    fn send_raw(&self, found: &Found, socket: &UnixStream) {
        for &(file, position, len) in &found.ranges {
            let mut at = i64::try_from(position).unwrap();
            let mut rest = len;
            while rest > 0 {
                rest -= sendfile64(socket, &self.files[file], Some(&mut at), rest).unwrap();
            }
        }
    }

    /// Fetches from `offset` on into the socket; returns where to go on.
    fn send_ours(&self, offset: Offset, options: &ReadOptions, socket: &UnixStream) -> Offset {
        let fetched = self.log.read(offset, options).unwrap();
        fetched.send_to(socket).unwrap();
        fetched.next_offset().unwrap()
    }

    /// Fetches from `offset` on into `buffer`; returns where to go on.
    fn read_ours(&self, offset: Offset, options: &ReadOptions, buffer: &mut [u8]) -> Offset {
        let fetched = self.log.read(offset, options).unwrap();
        let mut filled = 0;
        for slice in fetched.slices() {
            filled += slice.read_to(&mut buffer[filled..]).unwrap();
        }
        black_box(&buffer[0]);
        fetched.next_offset().unwrap()
    }
}

fn timed(operations: u64, mut operation: impl FnMut(usize)) -> Duration {
    let started = Instant::now();
    for at in 0..operations {
        operation(usize::try_from(at).unwrap());
    }
    started.elapsed()
}

fn sequential(name: &str, library: &Arc<Library>) -> Contest {
    let fetches = library.fetches(FETCH_BYTES as u64);
    let bytes: usize = fetches.iter().map(Found::bytes).sum();
    let (operations, unit) = (fetches.len() as u64, Unit::Bytes((bytes / fetches.len()) as u64));
    let (by_hand, ours_of) = (Arc::clone(library), Arc::clone(library));
    let mut raw_buffer = vec![0; FETCH_BYTES];
    let mut our_buffer = vec![0; FETCH_BYTES];
    let mut next = Offset::ZERO;
    Contest {
        name: name.to_owned(),
        unit,
        operations,
        contenders: vec![
            paired::raw("raw pread", move |operations| {
                timed(operations, |at| by_hand.read_raw(&fetches[at % fetches.len()], &mut raw_buffer))
            }),
            ours("alluvium", move |operations| {
                let options = ReadOptions::default();
                timed(operations, |_| {
                    if next == ours_of.log.log_end() {
                        next = Offset::ZERO;
                    }
                    next = ours_of.read_ours(next, &options, &mut our_buffer);
                })
            }),
        ],
    }
}

/// The ranges of single batches in a random order, the same for both sides.
fn shuffled(library: &Library) -> Vec<Found> {
    let mut fetches = library.fetches(1);
    fastrand::Rng::with_seed(7).shuffle(&mut fetches);
    fetches
}

fn random(library: &Arc<Library>) -> Contest {
    let fetches = shuffled(library);
    let (for_us, by_hand, ours_of) = (fetches.clone(), Arc::clone(library), Arc::clone(library));
    let mut raw_buffer = vec![0; FETCH_BYTES];
    let mut our_buffer = vec![0; FETCH_BYTES];
    Contest {
        name: "one 16KiB batch at random".into(),
        unit: Unit::Things(1, ""),
        operations: 40_000,
        contenders: vec![
            paired::raw("raw pread", move |operations| {
                timed(operations, |at| by_hand.read_raw(&fetches[at % fetches.len()], &mut raw_buffer))
            }),
            ours("alluvium", move |operations| {
                let options = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
                timed(operations, |at| {
                    let found = &for_us[at % for_us.len()];
                    ours_of.read_ours(found.offset, &options, &mut our_buffer);
                })
            }),
        ],
    }
}

/// A socket whose other end is emptied by a thread, until the socket is closed.
fn drained() -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; FETCH_BYTES];
        while theirs.read(&mut buffer).unwrap() > 0 {}
    });
    ours
}

fn sequential_to_socket(name: &str, library: &Arc<Library>) -> Contest {
    let fetches = library.fetches(FETCH_BYTES as u64);
    let bytes: usize = fetches.iter().map(Found::bytes).sum();
    let (operations, unit) = (fetches.len() as u64, Unit::Bytes((bytes / fetches.len()) as u64));
    let (by_hand, ours_of) = (Arc::clone(library), Arc::clone(library));
    let (raw_socket, our_socket) = (drained(), drained());
    let mut next = Offset::ZERO;
    Contest {
        name: name.to_owned(),
        unit,
        operations,
        contenders: vec![
            paired::raw("raw sendfile", move |operations| {
                timed(operations, |at| by_hand.send_raw(&fetches[at % fetches.len()], &raw_socket))
            }),
            ours("alluvium", move |operations| {
                let options = ReadOptions::default();
                timed(operations, |_| {
                    if next == ours_of.log.log_end() {
                        next = Offset::ZERO;
                    }
                    next = ours_of.send_ours(next, &options, &our_socket);
                })
            }),
        ],
    }
}

/// The ranges are found beforehand on both sides: what is left is the sending.
fn slices_to_socket(name: &str, library: &Arc<Library>, max_bytes: u64) -> Contest {
    let mut fetches = library.fetches(max_bytes);
    fastrand::Rng::with_seed(7).shuffle(&mut fetches);
    let bytes: usize = fetches.iter().map(Found::bytes).sum();
    let options = ReadOptions { max_bytes, ..ReadOptions::default() };
    let held: Vec<_> = fetches.iter().map(|found| library.log.read(found.offset, &options).unwrap()).collect();
    let by_hand = Arc::clone(library);
    let (raw_socket, our_socket) = (drained(), drained());
    Contest {
        name: name.to_owned(),
        unit: Unit::Bytes((bytes / fetches.len()) as u64),
        operations: fetches.len() as u64,
        contenders: vec![
            paired::raw("raw sendfile", move |operations| {
                timed(operations, |at| by_hand.send_raw(&fetches[at % fetches.len()], &raw_socket))
            }),
            ours("alluvium", move |operations| {
                timed(operations, |at| {
                    held[at % held.len()].send_to(&our_socket).unwrap();
                })
            }),
        ],
    }
}

/// Here ours finds the batch as well.
fn random_to_socket(library: &Arc<Library>) -> Contest {
    let fetches = shuffled(library);
    let (for_us, by_hand, ours_of) = (fetches.clone(), Arc::clone(library), Arc::clone(library));
    let (raw_socket, our_socket) = (drained(), drained());
    Contest {
        name: "one 16KiB batch at random, to a socket".into(),
        unit: Unit::Things(1, ""),
        operations: 40_000,
        contenders: vec![
            paired::raw("raw sendfile", move |operations| {
                timed(operations, |at| by_hand.send_raw(&fetches[at % fetches.len()], &raw_socket))
            }),
            ours("alluvium", move |operations| {
                let options = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
                timed(operations, |at| {
                    ours_of.send_ours(for_us[at % for_us.len()].offset, &options, &our_socket);
                })
            }),
        ],
    }
}

/// By hand all timestamps are in memory, sorted, so that one search and one read find the batch, whose checksum is taken.
fn by_time(library: &Arc<Library>) -> Contest {
    let fetches = shuffled(library);
    let (for_us, by_hand, ours_of) = (fetches.clone(), Arc::clone(library), Arc::clone(library));
    let mut sorted = fetches.clone();
    sorted.sort_by_key(|found| found.timestamp);
    let mut raw_buffer = vec![0; FETCH_BYTES];
    Contest {
        name: "offset for a timestamp at random".into(),
        unit: Unit::Things(1, ""),
        operations: 20_000,
        contenders: vec![
            paired::raw("search, pread, checksum", move |operations| {
                timed(operations, |at| {
                    let wanted = fetches[at % fetches.len()].timestamp;
                    let found = &sorted[sorted.partition_point(|found| found.timestamp < wanted)];
                    by_hand.read_raw(found, &mut raw_buffer);
                    raw::check(&raw_buffer[..found.bytes()]);
                })
            }),
            ours("alluvium", move |operations| {
                timed(operations, |at| {
                    let wanted = &for_us[at % for_us.len()];
                    let found = ours_of.log.offset_for_timestamp(wanted.timestamp).unwrap().unwrap();
                    assert_eq!(found.offset, wanted.offset);
                })
            }),
        ],
    }
}

/// Leaderships of the log in which ends of epochs are looked up.
const EPOCHS: i32 = 1000;

fn by_epoch(dir: &Path) -> Contest {
    let log = PartitionLog::open(dir, LogConfig::default()).unwrap();
    for epoch in 0..EPOCHS {
        for mut batch in raw::batches(2, 1, 10) {
            // Every other epoch has no records, as after elections in which nothing was written.
            log.append(&mut batch[..], AppendAs::Client { epoch: LeaderEpoch::new(epoch * 2).unwrap() }).unwrap();
        }
    }
    let starts: Vec<_> = log.leader_epochs().iter().map(|known| (known.epoch, known.start)).collect();
    let starts = Mutex::new(starts);
    let wanted: Vec<_> = {
        let mut random = fastrand::Rng::with_seed(7);
        (0..4096).map(|_| LeaderEpoch::new(random.i32(0..EPOCHS * 2 - 2)).unwrap()).collect()
    };
    let asked = wanted.clone();
    Contest {
        name: "end of one epoch of 1000 at random".into(),
        unit: Unit::Things(1, ""),
        operations: 400_000,
        contenders: vec![
            paired::raw("mutex, binary search", move |operations| {
                timed(operations, |at| {
                    let starts = starts.lock().unwrap();
                    let next = starts.partition_point(|(epoch, _)| *epoch <= wanted[at % wanted.len()]);
                    black_box((starts[next - 1].0, starts[next].1));
                })
            }),
            ours("alluvium", move |operations| {
                timed(operations, |at| {
                    black_box(log.end_offset_for_epoch(asked[at % asked.len()]).unwrap());
                })
            }),
        ],
    }
}

/// A log whose high watermark has `MARKS` steps to go.
fn unreplicated(dir: &Path) -> PartitionLog {
    let _ = std::fs::remove_dir_all(dir);
    let high_watermark = HighWatermarkMode::Embedder;
    let log = PartitionLog::open(dir, LogConfig { high_watermark, ..LogConfig::default() }).unwrap();
    let mut batches = raw::batches(1, MARKS, 8);
    log.append(&mut batches[0][..], AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
    log
}

const MARKS: usize = 40_000;

/// Steps of a mark, in as many logs as it takes; `steps` says how long a number of them took.
fn in_steps(operations: u64, mut steps: impl FnMut(i64) -> Duration) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = operations;
    while left > 0 {
        let now = left.min(MARKS as u64);
        took += steps(i64::try_from(now).unwrap());
        left -= now;
    }
    took
}

fn mark(at: i64) -> Offset {
    Offset::new(at).unwrap()
}

/// A mark that nobody waits for goes up.
fn publishing(dir: PathBuf) -> Contest {
    Contest {
        name: "publish a mark".into(),
        unit: Unit::Things(1, ""),
        operations: 40_000,
        contenders: vec![
            paired::raw("mutex, condvar", |operations| {
                let (marks, changed) = (Mutex::new([0_i64; 5]), Condvar::new());
                timed(operations, |at| {
                    marks.lock().unwrap()[2] = i64::try_from(at).unwrap();
                    changed.notify_all();
                })
            }),
            ours("alluvium", move |operations| {
                in_steps(operations, |steps| {
                    let log = unreplicated(&dir);
                    let started = Instant::now();
                    for at in 1..=steps {
                        log.advance_high_watermark(mark(at)).unwrap();
                    }
                    started.elapsed()
                })
            }),
        ],
    }
}

/// A mark by hand.
#[derive(Default)]
struct RawMark {
    at: Mutex<i64>,
    changed: Condvar,
}

impl RawMark {
    fn advance(&self, to: i64) {
        *self.at.lock().unwrap() = to;
        self.changed.notify_all();
    }

    fn wait_until(&self, at_least: i64) {
        drop(self.changed.wait_while(self.at.lock().unwrap(), |at| *at < at_least).unwrap());
    }
}

/// Two threads wake each other in turn: each step is two marks published and two waiters woken.
fn waking(dir: PathBuf) -> Contest {
    Contest {
        name: "wake a waiter, and be woken".into(),
        unit: Unit::Things(1, ""),
        operations: 4_000,
        contenders: vec![
            paired::raw("mutex, condvar", |operations| {
                in_steps(operations, |steps| {
                    let (there, back) = (RawMark::default(), RawMark::default());
                    to_and_fro(
                        steps,
                        |at| there.advance(at),
                        |at| there.wait_until(at),
                        |at| back.advance(at),
                        |at| {
                            back.wait_until(at);
                        },
                    )
                })
            }),
            ours("alluvium", move |operations| {
                in_steps(operations, |steps| {
                    let logs = [unreplicated(&dir.join("there-0")), unreplicated(&dir.join("back-0"))];
                    let [there, back] = &logs;
                    let advance = |log: &PartitionLog, at| {
                        log.advance_high_watermark(mark(at)).unwrap();
                    };
                    let wait = |log: &PartitionLog, at| {
                        log.wait_until(Mark::HighWatermark, mark(at), Deadline::NEVER).unwrap();
                    };
                    to_and_fro(
                        steps,
                        |at| advance(there, at),
                        |at| wait(there, at),
                        |at| advance(back, at),
                        |at| {
                            wait(back, at);
                        },
                    )
                })
            }),
        ],
    }
}

fn to_and_fro(
    steps: i64,
    send: impl Fn(i64),
    receive: impl Fn(i64) + Sync,
    answer: impl Fn(i64) + Sync,
    hear: impl Fn(i64),
) -> Duration {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 1..=steps {
                receive(at);
                answer(at);
            }
        });
        let started = Instant::now();
        for at in 1..=steps {
            send(at);
            hear(at);
        }
        started.elapsed()
    })
}

fn main() {
    let settings = Settings::from_environment();
    let dir = paired::scratch("read");
    let bytes = settings.scaled(512 << 20);
    let one = Arc::new(Library::write(&dir.join("one-0"), bytes, 1 << 30));
    let many = Arc::new(Library::write(&dir.join("many-0"), bytes, 64 << 20));
    let contests = vec![
        sequential("1MiB fetches in order", &one),
        sequential("1MiB fetches in order, 64MiB segments", &many),
        random(&one),
        sequential_to_socket("1MiB fetches in order, to a socket", &one),
        sequential_to_socket("1MiB fetches, 64MiB segments, to a socket", &many),
        slices_to_socket("1MiB slices at random, to a socket", &one, FETCH_BYTES as u64),
        slices_to_socket("16KiB slices at random, to a socket", &one, 1),
        random_to_socket(&one),
        by_time(&one),
        by_epoch(&dir.join("epochs-0")),
        publishing(dir.join("published-0")),
        waking(dir.join("waking")),
    ];
    paired::run("read", &settings.unscaled(), contests);
    let _ = std::fs::remove_dir_all(&dir);
}
