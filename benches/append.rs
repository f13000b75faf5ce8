//! Appends: into the page cache against one write and a checksum of the same bytes, and durable ones against a group
//! commit written by hand.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "the baseline is the file system itself")]

#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod paired;
#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod raw;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::{Duration, Instant};

use alluvium::{AppendAs, Deadline, Flusher, LeaderEpoch, LogConfig, PartitionLog};

use paired::{Contest, Settings, Unit, ours};
use raw::{GroupCommit, Layout, RawFile, Sent};

/// A new file is begun after so many bytes, so that files never leave the page cache.
const FILE_BYTES_MAX: u64 = 512 << 20;

fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

/// A log in a directory of its own, which goes when it goes.
struct Scratch {
    log: Option<PartitionLog>,
    dir: PathBuf,
}

impl Scratch {
    fn open(parent: &Path, config: LogConfig) -> Self {
        let dir = parent.join("log-0");
        let _ = std::fs::remove_dir_all(&dir);
        Self { log: Some(PartitionLog::open(&dir, config).unwrap()), dir }
    }

    fn log(&self) -> &PartitionLog {
        self.log.as_ref().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.log = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What one operation hands over: a buffer of one batch or of several.
#[derive(Clone)]
struct Buffer {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Buffer {
    fn of(batches: &[Vec<u8>]) -> Self {
        let mut starts = Vec::new();
        let mut bytes = Vec::new();
        for batch in batches {
            starts.push(bytes.len());
            bytes.extend_from_slice(batch);
        }
        Self { bytes, starts }
    }

    fn unstamp(&mut self) {
        for &start in &self.starts {
            raw::unstamp(&mut self.bytes[start..]);
        }
    }

    /// Checks and stamps each batch, as a leader must.
    fn stamp(&mut self, offset: u64) {
        for (at, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(at + 1).copied().unwrap_or(self.bytes.len());
            raw::check(&self.bytes[start..end]);
            self.bytes[start..start + 8].copy_from_slice(&(offset + at as u64).to_be_bytes());
        }
    }
}

/// Buffers of `together` batches each; 1 MiB in all, or 64 of them, so that both sides read the same warm bytes.
fn buffers(together: usize, records: usize, value_bytes: usize) -> Vec<Buffer> {
    let batches = raw::batches(64.max(together), records, value_bytes);
    batches.chunks(together).map(Buffer::of).collect()
}

/// Spreads `operations` over files of limited size; `file` does some of them in a new file and says how long it took.
fn in_files(operations: u64, bytes: u64, mut file: impl FnMut(u64) -> Duration) -> Duration {
    let most = (FILE_BYTES_MAX / bytes).max(1);
    let mut left = operations;
    let mut took = Duration::ZERO;
    while left > 0 {
        let now = left.min(most);
        took += file(now);
        left -= now;
    }
    took
}

fn raw_in_place(dir: PathBuf, mut buffers: Vec<Buffer>) -> impl FnMut(u64) -> Duration {
    move |operations| {
        let bytes = buffers[0].bytes.len() as u64;
        in_files(operations, bytes, |now| {
            let mut file = RawFile::create(&dir);
            let count = buffers.len();
            let started = Instant::now();
            for at in 0..now {
                let buffer = &mut buffers[usize::try_from(at).unwrap() % count];
                buffer.unstamp();
                buffer.stamp(at);
                file.write(&buffer.bytes);
            }
            started.elapsed()
        })
    }
}

fn our_in_place(dir: PathBuf, mut buffers: Vec<Buffer>) -> impl FnMut(u64) -> Duration {
    move |operations| {
        let bytes = buffers[0].bytes.len() as u64;
        in_files(operations, bytes, |now| {
            let scratch = Scratch::open(&dir, LogConfig::default());
            let log = scratch.log();
            let count = buffers.len();
            let started = Instant::now();
            for at in 0..now {
                let buffer = &mut buffers[usize::try_from(at).unwrap() % count];
                buffer.unstamp();
                log.append(&mut buffer.bytes[..], client()).unwrap();
            }
            started.elapsed()
        })
    }
}

/// Runs `append` on clones of the buffers, made before the clock starts and given away.
fn given_away(buffers: &[Buffer], operations: u64, mut append: impl FnMut(u64, Buffer)) -> Duration {
    let mut took = Duration::ZERO;
    let mut done = 0;
    while done < operations {
        let now = usize::try_from(operations - done).unwrap().min(buffers.len());
        let clones: Vec<Buffer> = buffers[..now].to_vec();
        let started = Instant::now();
        for buffer in clones {
            append(done, buffer);
            done += 1;
        }
        took += started.elapsed();
    }
    took
}

fn raw_owned(dir: PathBuf, buffers: Vec<Buffer>) -> impl FnMut(u64) -> Duration {
    move |operations| {
        in_files(operations, buffers[0].bytes.len() as u64, |now| {
            let mut file = RawFile::create(&dir);
            given_away(&buffers, now, |at, mut buffer| {
                buffer.stamp(at);
                file.write(&buffer.bytes);
            })
        })
    }
}

fn our_owned(dir: PathBuf, buffers: Vec<Buffer>) -> impl FnMut(u64) -> Duration {
    move |operations| {
        in_files(operations, buffers[0].bytes.len() as u64, |now| {
            let scratch = Scratch::open(&dir, LogConfig::default());
            given_away(&buffers, now, |_, buffer| {
                scratch.log().append(buffer.bytes, client()).unwrap();
            })
        })
    }
}

fn cached(dir: &Path) -> Vec<Contest> {
    let in_place = |name: &str, buffers: Vec<Buffer>, mib: u64| {
        let bytes = buffers[0].bytes.len() as u64;
        let batches = buffers[0].starts.len() as u64;
        Contest {
            name: name.to_owned(),
            unit: if bytes / batches < 1024 { Unit::Things(batches, " batch") } else { Unit::Bytes(bytes) },
            operations: (mib << 20) / bytes,
            contenders: vec![
                paired::raw("raw", raw_in_place(dir.to_owned(), buffers.clone())),
                ours("alluvium", our_in_place(dir.to_owned(), buffers)),
            ],
        }
    };
    let large = buffers(1, raw::records_in(16 << 10, 1024), 1024);
    let small = buffers(1, raw::records_in(16 << 10, 100), 100);
    let owned = large.clone();
    let owned_bytes = owned[0].bytes.len() as u64;
    vec![
        in_place("16KiB batches of 1KiB records", large, 128),
        in_place("16KiB batches of 100B records", small, 128),
        Contest {
            name: "16KiB batches of 1KiB records, owned".into(),
            unit: Unit::Bytes(owned_bytes),
            operations: (128 << 20) / owned_bytes,
            contenders: vec![
                paired::raw("raw", raw_owned(dir.to_owned(), owned.clone())),
                ours("alluvium", our_owned(dir.to_owned(), owned)),
            ],
        },
        in_place("1MiB batches of 1KiB records", buffers(1, raw::records_in(1 << 20, 1024), 1024), 256),
        in_place("64 batches of one 100B record together", buffers(64, 1, 100), 32),
        in_place("one 100B record", buffers(1, 1, 100), 8),
    ]
}

/// Appends batches that a producer sent with `sent`. They are numbered and sealed in rounds before the clock starts.
fn our_sent(dir: PathBuf, mut buffers: Vec<Buffer>, sent: Sent) -> impl FnMut(u64) -> Duration {
    // The verification of a transaction is a question to its coordinator, of which there is none here.
    let config = LogConfig { transaction_partition_verification_enable: false, ..LogConfig::default() };
    move |operations| {
        in_files(operations, buffers[0].bytes.len() as u64, |now| {
            let scratch = Scratch::open(&dir, config.clone());
            let (mut took, mut done, mut sequence) = (Duration::ZERO, 0, 0);
            while done < now {
                let round = usize::try_from(now - done).unwrap().min(buffers.len());
                for buffer in &mut buffers[..round] {
                    sequence = raw::send_as(&mut buffer.bytes, sent, sequence);
                }
                let started = Instant::now();
                for buffer in &mut buffers[..round] {
                    scratch.log().append(&mut buffer.bytes[..], client()).unwrap();
                }
                took += started.elapsed();
                done += round as u64;
            }
            took
        })
    }
}

/// What it costs that a producer numbers its batches: here the baseline is an append of ours without it.
fn producers(dir: &Path) -> Vec<Contest> {
    let contest = |label: &str, buffers: Vec<Buffer>, mib: u64| {
        let bytes = buffers[0].bytes.len() as u64;
        let run = |sent| our_sent(dir.to_owned(), buffers.clone(), sent);
        Contest {
            name: format!("from a producer, {label}"),
            unit: Unit::Things(1, " batch"),
            operations: (mib << 20) / bytes,
            contenders: vec![
                paired::raw("plain append", run(Sent::Plain)),
                ours("idempotent", run(Sent::Idempotent)),
                ours("transactional", run(Sent::Transactional)),
            ],
        }
    };
    vec![
        contest("16KiB batches of 1KiB records", buffers(1, raw::records_in(16 << 10, 1024), 1024), 64),
        contest("16KiB batches of 100B records", buffers(1, raw::records_in(16 << 10, 100), 100), 64),
        contest("one 100B record", buffers(1, 1, 100), 4),
    ]
}

/// Does `operations` appends from `threads` threads; each begins when all are there.
fn from_threads(threads: usize, operations: u64, append: impl Fn(&mut Vec<u8>) + Sync, batch: &[u8]) -> Duration {
    let left = AtomicU64::new(operations);
    let barrier = std::sync::Barrier::new(threads + 1);
    let mut started = None;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut batch = batch.to_vec();
                barrier.wait();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    append(&mut batch);
                }
            });
        }
        barrier.wait();
        started = Some(Instant::now());
    });
    started.unwrap().elapsed()
}

fn raw_durable(dir: PathBuf, threads: usize, batch: Vec<u8>, layout: Layout) -> impl FnMut(u64) -> Duration {
    move |operations| {
        let layout = match layout {
            Layout::Prepared(_) => Layout::Prepared((operations + 1) * batch.len() as u64),
            other => other,
        };
        let commit = GroupCommit::create(&dir, layout);
        from_threads(threads, operations, |batch| commit.append(batch), &batch)
    }
}

fn our_durable(
    dir: PathBuf,
    threads: usize,
    batch: Vec<u8>,
    config: LogConfig,
    has_flusher: bool,
) -> impl FnMut(u64) -> Duration {
    move |operations| {
        let scratch = Scratch::open(&dir, config.clone());
        let log = scratch.log();
        let flusher = has_flusher.then(|| Flusher::start(log.clone()).unwrap());
        let append = |batch: &mut Vec<u8>| {
            raw::unstamp(batch);
            log.append(&mut batch[..], client()).unwrap().wait_durable(Deadline::NEVER).unwrap();
        };
        let took = from_threads(threads, operations, append, &batch);
        drop(flusher);
        took
    }
}

fn durable(dir: &Path) -> Vec<Contest> {
    let mut contests = Vec::new();
    for (label, batch_bytes, value_bytes) in [("16KiB", 16 << 10, 1024), ("1KiB", 1 << 10, 100)] {
        let records = raw::records_in(batch_bytes, value_bytes);
        let batch = raw::batches(1, records, value_bytes).remove(0);
        for (threads, operations) in [(1, 250), (4, 1000), (16, 4000), (64, 6000)] {
            if label == "1KiB" && threads != 16 {
                continue;
            }
            let dir = || dir.to_owned();
            let config = |zero_ahead_bytes| LogConfig { zero_ahead_bytes, ..LogConfig::default() };
            let ahead = LogConfig::default().zero_ahead_bytes;
            let raw = |layout| raw_durable(dir(), threads, batch.clone(), layout);
            let our = |ahead, flusher| our_durable(dir(), threads, batch.clone(), config(ahead), flusher);
            contests.push(Contest {
                name: format!("durable {label} from {threads} threads"),
                unit: Unit::Things(1, ""),
                operations,
                contenders: vec![
                    paired::raw("raw extending", raw(Layout::Extending)),
                    paired::raw("raw zeros ahead", raw(Layout::Ahead(4 << 20))),
                    paired::raw("raw prepared", raw(Layout::Prepared(0))),
                    ours("alluvium", our(ahead, false)),
                    ours("no zeros ahead", our(0, false)),
                    ours("flusher", our(ahead, true)),
                ],
            });
        }
    }
    contests
}

fn main() {
    let settings = Settings::from_environment();
    let dir = paired::scratch("append");
    let mut contests = cached(&dir);
    contests.extend(producers(&dir));
    contests.extend(durable(&dir));
    paired::run("append", &settings, contests);
    let _ = std::fs::remove_dir_all(&dir);
}
