//! Many who wait for durability, on one partition and on as many partitions, beside the same bytes written by hand and
//! made durable in the best way that the file system offers: one call for all the files.
//!
//! All of them extend their files, so that the ratio tells what the flusher costs and not what zeros kept ahead save;
//! `zeros ahead` is the log as it is configured by default.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "the baseline is the file system itself")]

#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod paired;
#[allow(dead_code, reason = "shared by benchmarks that use different parts")]
mod raw;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use alluvium::clock::{Clock, SystemClock};
use alluvium::flush::{Attached, GroupFlusher};
use alluvium::fs::{FileSystem, OpenMode, PooledFs, SyncItem, write_all_at};
use alluvium::store::{Partition, Store, StoreConfig, TopicPartition};
use alluvium::{AppendAs, Deadline, Durable, Environment, LeaderEpoch, LogConfig, PartitionLog};

use paired::{Contest, Settings, Unit, ours};

fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

/// A directory that goes when it goes.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &Path, name: &str) -> Self {
        let dir = parent.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Logs in the care of one flusher.
struct Group {
    clock: Arc<dyn Clock>,
    flusher: Arc<GroupFlusher>,
    logs: Vec<PartitionLog>,
    _attached: Vec<Attached>,
    _scratch: Scratch,
}

impl Group {
    fn open(parent: &Path, partitions: usize, zero_ahead_bytes: u32) -> Self {
        let scratch = Scratch::make(parent, &format!("logs-{partitions}-{zero_ahead_bytes}"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let environment = Environment { fs: Arc::new(PooledFs::new()), clock: Arc::clone(&clock) };
        let flusher = Arc::new(GroupFlusher::new(Arc::clone(&environment.fs), Arc::clone(&clock)));
        let config = LogConfig { zero_ahead_bytes, ..LogConfig::default() };
        let open = |at| environment.open(scratch.0.join(format!("log-{at}")), config.clone()).unwrap();
        let logs: Vec<_> = (0..partitions).map(open).collect();
        let attached = logs.iter().map(|log| flusher.attach(log)).collect();
        let group = Self { clock, flusher, logs, _attached: attached, _scratch: scratch };
        group.flusher.step(group.clock.monotonic());
        group
    }
}

/// A store whose flusher has a thread, as embedders run it.
struct Served {
    partitions: Vec<Partition>,
    store: Store,
    _scratch: Scratch,
}

impl Served {
    fn open(parent: &Path, partitions: usize, zero_ahead_bytes: u32) -> Self {
        let scratch = Scratch::make(parent, &format!("store-{partitions}-{zero_ahead_bytes}"));
        let store = Store::open(StoreConfig::new(&scratch.0)).unwrap();
        let config = LogConfig { zero_ahead_bytes, ..LogConfig::default() };
        let make = |at| store.create(&TopicPartition::new("t", at).unwrap(), config.clone()).unwrap();
        let partitions = (0..i32::try_from(partitions).unwrap()).map(make).collect();
        Self { partitions, store, _scratch: scratch }
    }
}

/// Each of `threads` threads appends to its partition and waits, `rounds` times.
fn our_threads(dir: PathBuf, threads: usize, partitions: usize, zeros: u32) -> impl FnMut(u64) -> Duration {
    let batch = raw::batches(1, raw::records_in(16 << 10, 1024), 1024).remove(0);
    let mut served = None;
    move |operations| {
        let rounds = operations.div_ceil(threads as u64);
        // Made once: the files grow from round to round, as the baseline's do.
        let served = served.get_or_insert_with(|| Served::open(&dir, partitions, zeros));
        let barrier = Barrier::new(threads + 1);
        let work = |partition: &Partition| {
            let mut batch = batch.clone();
            barrier.wait();
            for _ in 0..rounds {
                raw::unstamp(&mut batch);
                partition.append(&mut batch[..], client()).unwrap().wait_durable(Deadline::NEVER).unwrap();
            }
        };
        let mut took = Duration::ZERO;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|at| {
                    let (partition, work) = (served.partitions.iter().cycle().nth(at).unwrap(), &work);
                    std::thread::Builder::new()
                        .stack_size(128 << 10)
                        .spawn_scoped(scope, move || work(partition))
                        .unwrap()
                })
                .collect();
            barrier.wait();
            let started = Instant::now();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            took = started.elapsed();
        });
        assert!(served.store.workers().iter().all(|worker| worker.panics == 0));
        took
    }
}

/// One thread appends to all partitions, waits for each by a future, and steps: what the rounds cost without threads.
fn our_futures(dir: PathBuf, waiting: usize, partitions: usize, zeros: u32) -> impl FnMut(u64) -> Duration {
    let mut batch = raw::batches(1, raw::records_in(16 << 10, 1024), 1024).remove(0);
    let mut group = None;
    move |operations| {
        let group = group.get_or_insert_with(|| Group::open(&dir, partitions, zeros));
        let context = &mut Context::from_waker(Waker::noop());
        let mut futures: Vec<Durable> = Vec::with_capacity(waiting);
        let started = Instant::now();
        for _ in 0..operations.div_ceil(waiting as u64) {
            for log in group.logs.iter().cycle().take(waiting) {
                raw::unstamp(&mut batch);
                let mut future = log.append(&mut batch[..], client()).unwrap().durable();
                assert!(std::pin::Pin::new(&mut future).poll(context).is_pending());
                futures.push(future);
            }
            group.flusher.step(group.clock.monotonic());
            for mut future in futures.drain(..) {
                assert!(std::pin::Pin::new(&mut future).poll(context).is_ready());
            }
        }
        started.elapsed()
    }
}

/// Writes a batch for each who waits, over so many files, and makes them durable by one call of what a store syncs with.
fn by_hand(dir: PathBuf, waiting: usize, files: usize) -> impl FnMut(u64) -> Duration {
    let batch = raw::batches(1, raw::records_in(16 << 10, 1024), 1024).remove(0);
    let fs = PooledFs::new();
    let mut made = None;
    move |operations| {
        let (_, files, items, written) = made.get_or_insert_with(|| {
            let scratch = Scratch::make(&dir, &format!("raw-{files}"));
            let open = |at| fs.open(&scratch.0.join(format!("raw-{at}")), OpenMode::CreateNew).unwrap();
            let files: Vec<_> = (0..files).map(open).collect();
            let items: Vec<_> = files.iter().map(|file| SyncItem::File(Arc::clone(file))).collect();
            fs.sync_dir(&scratch.0).unwrap();
            let written = vec![0; files.len()];
            (scratch, files, items, written)
        });
        let started = Instant::now();
        for _ in 0..operations.div_ceil(waiting as u64) {
            for at in (0..files.len()).cycle().take(waiting) {
                raw::check(&batch);
                let (Some(file), Some(position)) = (files.get(at), written.get_mut(at)) else { continue };
                write_all_at(&**file, &batch, *position).unwrap();
                *position += batch.len() as u64;
            }
            fs.sync_many(items).into_iter().for_each(Result::unwrap);
        }
        started.elapsed()
    }
}

fn contest(dir: &Path, waiting: usize, partitions: usize) -> Contest {
    let dir = || dir.to_owned();
    let ahead = LogConfig::default().zero_ahead_bytes;
    Contest {
        name: format!("{waiting} waiting on {partitions} partitions"),
        unit: Unit::Things(1, ""),
        // Rounds enough to outlive the first and the last.
        operations: (waiting * 12).max(640) as u64,
        contenders: vec![
            paired::raw("raw", by_hand(dir(), waiting, partitions)),
            ours("store, threads", our_threads(dir(), waiting, partitions, 0)),
            ours("flusher, futures", our_futures(dir(), waiting, partitions, 0)),
            ours("store, zeros ahead", our_threads(dir(), waiting, partitions, ahead)),
        ],
    }
}

fn main() {
    let settings = Settings::from_environment();
    let dir = paired::scratch("durable");
    let mut contests = Vec::new();
    for waiting in [16, 64, 256, 1000] {
        contests.push(contest(&dir, waiting, 1));
        contests.push(contest(&dir, waiting, waiting));
    }
    paired::run("durable", &settings, contests);
    let _ = std::fs::remove_dir_all(&dir);
}
