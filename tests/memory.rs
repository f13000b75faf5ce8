//! The memory of a whole cleaner, as the allocator counts it. One test in a process of its own, as all that the process
//! allocates is counted.
#![expect(clippy::unwrap_used, reason = "a failed test is meant to panic, its helpers too")]

use std::path::Path;
use std::time::Duration;

use alluvium::clean::CleanerConfig;
use alluvium::record::Compression;
use alluvium::store::cleaner::{CleaningState, LastPass};
use alluvium::store::{Partition, Store, StoreConfig, TopicPartition, Workers};
use alluvium::{AppendAs, BatchBuilder, CleanMode, CleanupPolicy, LeaderEpoch, LogConfig, TimestampMs};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const NOW: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a store allocates while it cleans and does not count: views of logs, lists of segments, names, open files, and
/// what it remembers of each partition. Measured: 3 KB with one thread, 10 KB with four. What a pass leaves of its share
/// was more than that, so that all of it stayed within the memory that was given.
const BESIDE_BYTES: usize = 64 << 10;
/// What a codec works in beside the expanded batch. Measured: 131 KB for lz4, and 35 KB for zstd, whose own
/// memory is C's and not in the allocator's count.
const CODEC_BYTES: usize = 192 << 10;
/// A key's note in memory.
const NOTE_BYTES: usize = 16;

/// Logs, and a cleaner for them.
struct Case {
    threads: u32,
    memory_bytes: usize,
    partitions: i32,
    /// Different keys of each partition. Each is written twice.
    keys: u32,
    /// Records of a batch: 200 are 11 KB, the size that producers send. It matters, as a batch that is rewritten is held
    /// once more, and one that is larger than the window of a pass is checked through a window of a mebibyte.
    batch_records: u32,
    compression: Compression,
}

impl Case {
    /// As many partitions as are cleaned at a time and one more, each with a half more keys than a share of the memory
    /// has room for.
    fn spilled(threads: u32, memory_bytes: usize) -> Self {
        let share = memory_bytes / usize::try_from(threads).unwrap();
        let keys = u32::try_from(share / NOTE_BYTES * 3 / 2).unwrap();
        let partitions = i32::try_from(threads).unwrap() + 1;
        Self { threads, memory_bytes, partitions, keys, batch_records: 200, compression: Compression::None }
    }

    fn open(&self, dir: &Path) -> Store {
        let cleaner = CleanerConfig {
            threads: self.threads,
            memory_bytes: self.memory_bytes as u64,
            spill_free_bytes: 0,
            ..CleanerConfig::default()
        };
        let config = StoreConfig {
            cleaner,
            workers: Workers::Threads,
            reserve_bytes: 0,
            space_floor_bytes: 0,
            ..StoreConfig::new(dir)
        };
        let store = Store::open(config).unwrap();
        store.cleaner().pause_all("the test, until all is written");
        store
    }

    fn fill(&self, store: &Store) -> Vec<Partition> {
        let config = LogConfig {
            cleanup_policy: CleanupPolicy::Compact,
            segment_bytes: 4 << 20,
            zero_ahead_bytes: 0,
            ..LogConfig::default()
        };
        let named = |number| TopicPartition::new("users", number).unwrap();
        let partitions: Vec<_> =
            (0..self.partitions).map(|number| store.create(&named(number), config.clone()).unwrap()).collect();
        for partition in &partitions {
            let mut written = 0;
            while written < 2 * self.keys {
                partition.append(self.batch(written), client()).unwrap();
                written += self.batch_records;
            }
            let log = partition.log().unwrap();
            log.roll().unwrap();
            log.flush().unwrap();
        }
        partitions
    }

    fn batch(&self, from: u32) -> alluvium::RecordBatch {
        let mut builder = BatchBuilder::new();
        builder.compression(self.compression);
        for number in from..from + self.batch_records {
            let key = format!("key-{:08}", number.wrapping_mul(7919) % self.keys);
            let value = format!("value-{number:08}-{}", "v".repeat(20));
            builder.record(TimestampMs::new(NOW), Some(key.as_bytes()), Some(value.as_bytes()));
        }
        builder.build().unwrap()
    }

    /// Cleans everything.
    fn clean(&self) -> Done {
        let dir = tempfile::tempdir().unwrap();
        let store = self.open(dir.path());
        let partitions = self.fill(&store);
        let events = store.subscribe(1000);
        let cleaner = store.cleaner();
        for partition in &partitions {
            cleaner.run_now(partition.name()).unwrap();
        }
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        cleaner.resume_all();
        let last_of = |partition: &Partition| {
            let health = cleaner.health_of(partition.name()).unwrap();
            health.last.filter(|_| health.state == CleaningState::Clean)
        };
        let mut looks = (0..6000).map(|_| {
            // Nothing is told while all goes well: this waits a while.
            let told = events.next(LOOK_EVERY.into());
            assert!(told.is_none(), "{told:?}");
            partitions.iter().map(last_of).collect::<Option<Vec<LastPass>>>()
        });
        let passes = looks.find_map(|passes| passes).expect("all are clean in time");
        let peak = ALLOCATOR.peak_usage().saturating_sub(before);
        let said = cleaner.metrics().memory_peak_bytes;
        store.close(LONG).unwrap();
        // What passes say of themselves is there in the allocator's count.
        assert!(peak as u64 >= said / 10 * 9, "{peak}, and {said} by the passes' own count");
        for pass in &passes {
            assert_eq!((pass.mode, pass.records_kept), (CleanMode::Spill, u64::from(self.keys)), "{pass:?}");
        }
        Done { peak, said }
    }
}

/// What cleaning held at the most.
struct Done {
    /// By the allocator's count, beyond what was held before.
    peak: usize,
    /// By a pass's own.
    said: u64,
}

fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }
}

/// All cases one after the other: the peak is the process's.
#[test]
fn a_cleaner_stays_within_its_memory_by_the_allocators_count() {
    for (threads, mib) in [(1, 1), (1, 4), (2, 4), (4, 4)] {
        let case = Case::spilled(threads, mib * MIB);
        let Done { peak, said } = case.clean();
        println!("{threads} threads, {mib} MiB: {peak} bytes at most, {said} by one pass's own count");
        assert!(peak <= case.memory_bytes + BESIDE_BYTES, "{peak} bytes with {threads} threads and {mib} MiB");
        assert!(said <= case.memory_bytes as u64 / u64::from(threads), "{said} with {threads} threads and {mib} MiB");
    }
    // One that is larger than the window is held as it was and as it becomes, and nothing beside.
    let case = Case { batch_records: 2100, partitions: 1, keys: 126_000, ..Case::spilled(1, MIB) };
    let batch = case.batch(0).as_bytes().len();
    let Done { peak, said } = case.clean();
    println!("batches of {batch}: {peak} bytes at most of {MIB}, {said} by its own count");
    assert!(peak <= MIB + 2 * batch + BESIDE_BYTES, "{peak} bytes with batches of {batch}");
    for compression in [Compression::Lz4, Compression::Zstd] {
        let case = Case { compression, batch_records: 2000, partitions: 1, keys: 120_000, ..Case::spilled(1, MIB) };
        let plain = Case { compression: Compression::None, ..case }.batch(0).as_bytes().len();
        let Done { peak, said } = case.clean();
        println!("{compression:?}: {peak} bytes at most of {MIB} and a batch of {plain}, {said} by its own count");
        assert!(peak <= MIB + plain + CODEC_BYTES + BESIDE_BYTES, "{peak} bytes with {compression:?}");
        assert!(said <= MIB as u64, "{said} with {compression:?}");
    }
}
