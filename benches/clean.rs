//! The cleaner's map of keys, against Kafka's layout of it: 24 bytes an entry, MD5, probing one slot after another. And
//! whole passes over a log, against the same bytes moved by hand.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails may panic")]
#![expect(clippy::disallowed_methods, reason = "where logs go is made by hand")]

mod cleaning;

use std::hint::black_box;

use alluvium::Offset;
use alluvium::clean::{KeyHasher, OffsetMap, Put};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use md5::{Digest, Md5};

/// Keys that are hashed before the first one is looked up.
const TOGETHER: usize = 32;

/// Kafka's `SkimpyOffsetMap`, as its source has it: an MD5 of 16 bytes and an offset of 8 in each slot; the slot tried
/// first follows from the first four bytes of the hash, the next ones from the four bytes one further each, and past
/// the last of those one slot after another.
struct Skimpy {
    bytes: Vec<u8>,
    slots: usize,
}

impl Skimpy {
    const ENTRY: usize = 24;

    fn new(bytes: usize) -> Self {
        let slots = bytes / Self::ENTRY;
        Self { bytes: vec![0; slots * Self::ENTRY], slots }
    }

    fn place(&self, hash: &[u8; 16], attempt: usize) -> usize {
        let at = attempt.min(12);
        let word = u32::from_be_bytes(hash[at..at + 4].try_into().unwrap());
        let probe = (word & 0x7fff_ffff) as usize + attempt.saturating_sub(12);
        (probe % self.slots) * Self::ENTRY
    }

    /// Where the key is or would be; whether it is there.
    fn seek(&self, hash: &[u8; 16]) -> (usize, bool) {
        for attempt in 0.. {
            let at = self.place(hash, attempt);
            let entry = &self.bytes[at..at + Self::ENTRY];
            if entry.iter().all(|byte| *byte == 0) {
                return (at, false);
            }
            if entry[..16] == hash[..] {
                return (at, true);
            }
        }
        unreachable!("the map is never full")
    }

    fn put(&mut self, key: &[u8], offset: u64) {
        let hash: [u8; 16] = Md5::digest(key).into();
        let (at, _) = self.seek(&hash);
        self.bytes[at..at + 16].copy_from_slice(&hash);
        self.bytes[at + 16..at + 24].copy_from_slice(&offset.to_be_bytes());
    }

    fn find(&self, key: &[u8]) -> Option<u64> {
        let hash: [u8; 16] = Md5::digest(key).into();
        let (at, is_there) = self.seek(&hash);
        is_there.then(|| u64::from_be_bytes(self.bytes[at + 16..at + 24].try_into().unwrap()))
    }
}

/// Keys of 20 to 40 bytes, one after the other.
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn new(count: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(count));
        for n in 0..count {
            let text = format!("user-{n:012}-{:022}", rng.u64(..));
            bytes.extend_from_slice(&text.as_bytes()[..rng.usize(20..=40)]);
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    fn key(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] };
        &self.bytes[start..self.ends[n]]
    }

    fn count(&self) -> usize {
        self.ends.len()
    }
}

fn offset(n: usize) -> Offset {
    Offset::new(i64::try_from(n).unwrap()).unwrap()
}

/// As a pass puts keys: some are hashed, then touched, then put.
fn put_all(map: &mut OffsetMap, hasher: KeyHasher, keys: &Keys) {
    for first in (0..keys.count()).step_by(TOGETHER) {
        let end = (first + TOGETHER).min(keys.count());
        let mut batch = [None; TOGETHER];
        for n in first..end {
            batch[n - first] = Some(hasher.hash(keys.key(n)));
        }
        for hash in batch.iter().flatten() {
            black_box(map.touch(*hash));
        }
        for n in first..end {
            assert_ne!(map.put(batch[n - first].unwrap(), offset(n)), Put::Full);
        }
    }
}

fn put_all_kafkas(map: &mut Skimpy, keys: &Keys) {
    for n in 0..keys.count() {
        map.put(keys.key(n), n as u64);
    }
}

fn map(c: &mut Criterion) {
    let mut group = c.benchmark_group("map");
    group.sample_size(10);
    for mib in [4_usize, 64, 128] {
        let bytes = mib << 20;
        let keys = Keys::new(OffsetMap::new(bytes, Offset::ZERO).keys_max());
        let at_ninety = Keys::new(bytes / OffsetMap::SLOT_BYTES * 9 / 10);
        let hasher = KeyHasher::from_seed(11);
        let fresh = || OffsetMap::new(bytes, Offset::ZERO);
        group.throughput(Throughput::Elements(at_ninety.count() as u64));
        group.bench_function(BenchmarkId::new("put at 0.9", mib), |b| {
            b.iter_batched_ref(fresh, |map| put_all(map, hasher, &at_ninety), BatchSize::PerIteration);
        });
        group.throughput(Throughput::Elements(keys.count() as u64));
        group.bench_function(BenchmarkId::new("put at 0.95", mib), |b| {
            b.iter_batched_ref(fresh, |map| put_all(map, hasher, &keys), BatchSize::PerIteration);
        });
        let mut full = fresh();
        put_all(&mut full, hasher, &keys);
        group.bench_function(BenchmarkId::new("find one by one", mib), |b| {
            b.iter(|| (0..keys.count()).filter(|n| full.find(hasher.hash(keys.key(*n))).is_some()).count());
        });
        drop(full);
        let kafka = Keys::new(bytes / Skimpy::ENTRY * 9 / 10);
        group.throughput(Throughput::Elements(kafka.count() as u64));
        group.bench_function(BenchmarkId::new("put, Kafka's layout at 0.9", mib), |b| {
            let put_kafkas = |map: &mut Skimpy| put_all_kafkas(map, &kafka);
            b.iter_batched_ref(|| Skimpy::new(bytes), put_kafkas, BatchSize::PerIteration);
        });
        let mut skimpy = Skimpy::new(bytes);
        put_all_kafkas(&mut skimpy, &kafka);
        group.bench_function(BenchmarkId::new("find, Kafka's layout", mib), |b| {
            b.iter(|| (0..kafka.count()).filter(|n| skimpy.find(kafka.key(*n)).is_some()).count());
        });
    }
    group.finish();
}

criterion_group!(benches, map, cleaning::pass);
criterion_main!(benches);
