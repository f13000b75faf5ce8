//! Learning and verdicts against a naive model, in the map and by spilling.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::budget::PassMemory;
use super::*;
use crate::fs::FileSystem;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimConfig, SimFs};

fn offset(value: u64) -> Offset {
    Offset::new(i64::try_from(value).unwrap()).unwrap()
}

fn seeds(few: u64) -> u64 {
    std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Records of a log: keys and offsets, which rise.
#[derive(Clone, Debug)]
struct Workload {
    records: Vec<(Vec<u8>, Offset)>,
    range: Range<Offset>,
}

impl Workload {
    /// `count` records of at most `distinct` keys, offsets at most `gap` apart but for a few wide gaps.
    fn random(seed: u64, count: usize, distinct: u64, gap: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let start = if rng.bool() { 0 } else { rng.u64(0..1 << 40) };
        let is_skewed = rng.bool();
        let mut at = start;
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            at += rng.u64(0..gap);
            if gap > 1 && rng.u32(0..5000) == 0 {
                at += rng.u64(0..1 << 36);
            }
            let most = if is_skewed { rng.u64(0..distinct) } else { distinct - 1 };
            let n = rng.u64(0..=most);
            records.push((key(n), offset(at)));
            at += 1;
        }
        Self { records, range: offset(start)..offset(at + rng.u64(0..100)) }
    }

    /// Offsets below `end` of which a later one below `end` has the same key.
    fn superseded(&self, end: Offset) -> BTreeSet<Offset> {
        let mut newest: HashMap<&[u8], Offset> = HashMap::new();
        let below = self.records.iter().filter(|(_, offset)| *offset < end);
        below.filter_map(|(key, offset)| newest.insert(key, *offset)).collect()
    }

    fn keys(&self) -> u64 {
        self.records.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len() as u64
    }

    fn note_all(&self, learning: &mut Learning) -> Result<Noted, IoFailure> {
        for records in self.records.chunks(77) {
            let records = records.iter().map(|(key, offset)| (key.as_slice(), *offset));
            if learning.note_all(records)? == Noted::Full {
                return Ok(Noted::Full);
            }
        }
        Ok(Noted::Taken)
    }
}

/// Keys that resemble one another: empty, zeros of each length, short, long with the same beginning.
fn key(n: u64) -> Vec<u8> {
    match n % 4 {
        0 => vec![0; usize::try_from(n / 4 % 64).unwrap()].into_iter().chain((n / 256).to_be_bytes()).collect(),
        1 => n.to_string().into_bytes(),
        2 => [vec![b'k'; 300], n.to_le_bytes().to_vec()].concat(),
        _ if n == 3 => Vec::new(),
        _ => n.to_be_bytes().to_vec(),
    }
}

fn finish(learning: Learning, step_bytes: u64) -> Result<Verdicts, IoFailure> {
    let mut finishing = learning.finish();
    loop {
        if let Some(verdicts) = finishing.step(step_bytes)? {
            return Ok(verdicts);
        }
        assert!(finishing.counts().memory_bytes > 0);
    }
}

/// Asks of every record below `end`, batch by batch as a rewrite does, and compares with the model.
fn check(workload: &Workload, verdicts: &mut Verdicts, end: Offset, seed: u64) -> Result<(), IoFailure> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let superseded = workload.superseded(end);
    let records: Vec<_> = workload.records.iter().filter(|(_, offset)| *offset < end).collect();
    let mut at = 0;
    while at < records.len() {
        let batch = &records[at..(at + rng.usize(1..50)).min(records.len())];
        at += batch.len();
        let range = batch[0].1..batch[batch.len() - 1].1.next().unwrap();
        if let Some(count) = verdicts.superseded_in(range.clone())? {
            assert_eq!(count, superseded.range(range).count() as u64, "seed {seed}");
        }
        for (key, offset) in batch {
            let found = verdicts.is_superseded(*offset, || Some(key))?;
            assert_eq!(found, superseded.contains(offset), "seed {seed}, offset {offset}");
        }
    }
    Ok(())
}

struct Disk {
    sim: SimFs,
    dir: PathBuf,
}

impl Disk {
    fn new(seed: u64) -> Self {
        let config = SimConfig { short_transfers: seed % 3 == 1, interrupts: seed % 3 == 1, ..SimConfig::default() };
        let sim = SimFs::with_config(seed, config);
        sim.create_dir(Path::new("/log-0")).unwrap();
        Self { sim, dir: PathBuf::from("/log-0") }
    }

    fn files(&self) -> SpillFiles {
        SpillFiles::new(Arc::new(self.sim.clone()), self.dir.clone())
    }

    fn names(&self) -> Vec<String> {
        self.sim.list(&self.dir).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// Learns, decides and asks; every file is gone afterwards.
    fn spill(&self, workload: &Workload, bytes: usize, seed: u64) -> Result<LearningCounts, IoFailure> {
        let memory = LearningMemory::tiny(bytes);
        let done = (|| {
            let hasher = KeyHasher::from_seed(seed);
            let mut learning = Learning::in_spill(hasher, memory, self.files(), workload.range.clone())?;
            assert!(learning.counts().memory_bytes <= bytes);
            assert_eq!(workload.note_all(&mut learning)?, Noted::Taken);
            let mut verdicts = finish(learning, 1 << (seed % 20))?;
            check(workload, &mut verdicts, workload.range.end, seed)?;
            Ok(verdicts.counts())
        })();
        assert_eq!(self.names(), Vec::<String>::new(), "seed {seed}");
        assert_eq!(self.sim.open_handles(), 0, "seed {seed}");
        done
    }
}

fn assert_bounds(counts: LearningCounts, workload: &Workload, bytes: usize, seed: u64) {
    let superseded = workload.superseded(workload.range.end).len() as u64;
    assert_eq!(counts.notes, workload.records.len() as u64, "seed {seed}");
    assert_eq!(counts.keys, workload.keys(), "seed {seed}: {counts:?}");
    assert_eq!(counts.superseded, superseded, "seed {seed}: {counts:?}");
    assert!(counts.memory_peak_bytes <= bytes, "seed {seed}: {counts:?} of {bytes}");
    // Each file's chains end in a block that is not full.
    let last_blocks = 64 * 1024;
    assert!(counts.spilled_bytes <= 24 * counts.notes * u64::from(counts.levels) + last_blocks, "{counts:?}");
    // With less memory than any pass has there are so few windows that a sparse range is split again and again.
    if bytes >= PassMemory::new(PassMemory::BYTES_MIN).unwrap().learning().bytes() {
        assert!(counts.mark_bytes <= 8 * superseded + last_blocks, "seed {seed}: {counts:?}");
    }
}

/// Any number of records and keys, gaps, and memory: spilling comes to the naive model's verdicts, within the memory, and
/// leaves nothing.
#[test]
fn spilling_agrees_with_a_naive_model() {
    let (mut deepest, mut with_marks) = (0, 0);
    for seed in 0..seeds(100) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (count_bits, distinct_bits) = (rng.u32(1..15), rng.u32(1..15));
        let (count, distinct) = (rng.usize(0..1 << count_bits), rng.u64(1..=1 << distinct_bits));
        let gap = [1, 2, 100, 1 << 20][rng.usize(0..4)];
        let bytes = [16 << 10, 20_000, 32 << 10, 64 << 10, 200_000][rng.usize(0..5)];
        let workload = Workload::random(seed, count, distinct, gap);
        let counts = Disk::new(seed).spill(&workload, bytes, seed).unwrap();
        assert_bounds(counts, &workload, bytes, seed);
        deepest = deepest.max(counts.levels);
        with_marks += u32::from(counts.mark_bytes > 0);
    }
    assert!(deepest >= 2 && with_marks > 10, "{deepest} levels, {with_marks} with offsets in files");
}

/// What was split is split again, as often as it takes.
#[test]
fn splitting_goes_on_until_each_chain_fits() {
    let workload = Workload::random(8, 40_000, 30_000, 1 << 10);
    let counts = Disk::new(0).spill(&workload, 16 << 10, 8).unwrap();
    assert_bounds(counts, &workload, 16 << 10, 8);
    assert!(counts.levels >= 3, "{counts:?}");
}

/// Many more keys than the memory of the smallest pass holds: splitting again, each level less than the one before.
#[test]
fn many_keys_take_few_levels() {
    let workload = Workload::random(9, 300_000, 250_000, 1);
    let memory = PassMemory::new(PassMemory::BYTES_MIN).unwrap().learning().bytes();
    let counts = Disk::new(0).spill(&workload, memory, 9).unwrap();
    assert_bounds(counts, &workload, memory, 9);
    assert!(counts.levels == 2 && counts.keys > 40 * 2500, "{counts:?}");
    assert!(counts.spilled_bytes < 2 * 17 * counts.notes, "{counts:?}");
}

/// Every budget is kept, as a sum of what is allocated, whatever the range and the number of records.
#[test]
fn the_memory_is_kept_to_at_every_size() {
    for (bytes, passes) in [(1_usize << 20, 1), (1 << 20, 4), (4 << 20, 1), (64 << 20, 1)] {
        let memory = PassMemory::new(bytes / passes).unwrap().learning();
        for gap in [1, 1000] {
            let workload = Workload::random(5, 60_000, 40_000, gap);
            let learning = Learning::in_map(KeyHasher::from_seed(1), memory, workload.range.clone());
            let held = learning.counts().memory_bytes;
            let offsets = workload.range.end.distance_from(workload.range.start);
            let wanted = (memory.bytes() - memory.bytes() / 1000).min(OffsetMap::roomy_bytes(offsets));
            assert!(held <= memory.bytes() && held + 64 > wanted, "little is unused that may be needed");
            drop(learning);
            let counts = Disk::new(0).spill(&workload, memory.bytes(), 5).unwrap();
            assert!(counts.memory_peak_bytes <= memory.bytes(), "{counts:?} of {memory:?}");
            assert!(counts.memory_peak_bytes >= memory.bytes() / 2, "{counts:?} of {memory:?}");
        }
    }
}

/// A pass over a few records takes as little as they need, whatever it might.
#[test]
fn a_small_range_takes_little_memory() {
    let at = |offset| Offset::new(offset).unwrap();
    let memory = PassMemory::new(128 << 20).unwrap().learning();
    let learning = Learning::in_map(KeyHasher::from_seed(1), memory, at(1000)..at(1010));
    assert!(learning.counts().memory_bytes < 2000, "{:?}", learning.counts());
    let memory = PassMemory::new(1 << 20).unwrap();
    assert_eq!(memory.keys_max(), OffsetMap::new(memory.learning().bytes(), at(0)).keys_max() as u64);
}

/// In the map: the verdicts of the model, up to where the map was full if it was; with and without a bitmap.
#[test]
fn the_map_agrees_with_a_naive_model() {
    let (mut full, mut with_bitmap) = (0, 0);
    for seed in 0..seeds(300) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let workload = Workload::random(seed, rng.usize(0..3000), rng.u64(1..3000), [1, 3, 1 << 16][rng.usize(0..3)]);
        let memory = LearningMemory::tiny(rng.usize(2_000..60_000));
        let mut learning = Learning::in_map(KeyHasher::from_seed(seed), memory, workload.range.clone());
        assert!(learning.counts().memory_bytes <= memory.bytes());
        let noted = workload.note_all(&mut learning).unwrap();
        let end = learning.full_at().unwrap_or(workload.range.end);
        assert_eq!(noted == Noted::Full, learning.full_at().is_some());
        if noted == Noted::Full {
            full += 1;
            let taken = workload.records.iter().filter(|(_, offset)| *offset < end).count();
            assert_eq!(learning.counts().notes, taken as u64, "nothing from there on was noted");
            assert_eq!(learning.note(b"any", end).unwrap(), Noted::Full, "nor will anything be");
        }
        let mut verdicts = finish(learning, 1).unwrap();
        with_bitmap += u32::from(verdicts.superseded_in(workload.range.start..end).unwrap().is_some());
        check(&workload, &mut verdicts, end, seed).unwrap();
        assert_eq!(verdicts.counts().superseded, workload.superseded(end).len() as u64);
    }
    assert!(full > 10 && with_bitmap > 10, "{full} {with_bitmap}");
}

/// The clean head is judged by keys: superseded by whatever the dirty range has, and by nothing else.
#[test]
fn the_head_is_judged_by_the_dirty_range() {
    let memory = PassMemory::new(1 << 20).unwrap().learning();
    let mut learning = Learning::in_map(KeyHasher::from_seed(1), memory, offset(100)..offset(200));
    for (key, at) in [(&b"a"[..], 100), (b"b", 101), (b"a", 150)] {
        assert_eq!(learning.note(key, offset(at)).unwrap(), Noted::Taken);
    }
    let mut verdicts = finish(learning, 1).unwrap();
    assert_eq!(verdicts.superseded_in(offset(0)..offset(100)).unwrap(), None);
    assert!(verdicts.is_superseded(offset(7), || Some(b"a")).unwrap());
    assert!(!verdicts.is_superseded(offset(8), || Some(b"c")).unwrap());
    assert!(!verdicts.is_superseded(offset(9), || None).unwrap());
    assert_eq!(verdicts.superseded_in(offset(100)..offset(200)).unwrap(), Some(1));
    assert!(verdicts.is_superseded(offset(100), || unreachable!("the bitmap knows")).unwrap());
    assert!(!verdicts.is_superseded(offset(101), || Some(b"b")).unwrap());
}

/// A dirty range wider than the map's 32 bits ends where it cannot say an offset any more.
#[test]
fn a_pass_wider_than_the_map_reaches_ends_early() {
    let memory = PassMemory::new(1 << 20).unwrap().learning();
    let mut learning = Learning::in_map(KeyHasher::from_seed(1), memory, offset(10)..offset(1 << 40));
    assert_eq!(learning.note(b"a", offset(10)).unwrap(), Noted::Taken);
    assert_eq!(learning.note(b"a", offset(9 + OffsetMap::reach())).unwrap(), Noted::Taken);
    assert_eq!(learning.note(b"a", offset(10 + OffsetMap::reach())).unwrap(), Noted::Full);
    assert_eq!(learning.full_at(), Some(offset(10 + OffsetMap::reach())));
    let mut verdicts = finish(learning, 1).unwrap();
    assert!(verdicts.is_superseded(offset(10), || Some(b"a")).unwrap());
    assert!(!verdicts.is_superseded(offset(9 + OffsetMap::reach()), || Some(b"a")).unwrap());
}

/// Each step moves about as many bytes as it may: no more than the blocks on the way beside.
#[test]
fn a_step_is_bounded() {
    let workload = Workload::random(3, 20_000, 8_000, 1 << 12);
    let disk = Disk::new(0);
    let memory = LearningMemory::tiny(32 << 10);
    let mut learning =
        Learning::in_spill(KeyHasher::from_seed(3), memory, disk.files(), workload.range.clone()).unwrap();
    workload.note_all(&mut learning).unwrap();
    let mut finishing = learning.finish();
    let (mut before, mut steps) = (finishing.counts().spilled_bytes, 0);
    while finishing.step(4096).unwrap().is_none() {
        let counts = finishing.counts();
        let moved = counts.spilled_bytes + counts.mark_bytes + counts.read_bytes;
        assert!(steps == 0 || moved - before <= 4096 + (64 << 10), "{} bytes in a step", moved - before);
        before = moved;
        steps += 1;
    }
    assert!(steps > 50, "{steps}");
}

/// Whatever call fails, and however: an error that tells a full disk from others, no verdicts, nothing left behind.
#[test]
fn every_failed_call_is_an_error_and_leaves_nothing() {
    let workload = Workload::random(2, 1200, 900, 1 << 20);
    let mut failed = 0;
    for operation in [FaultOn::Create, FaultOn::Write, FaultOn::Read] {
        for errno in [Errno::Eio, Errno::Enospc] {
            for skip in 0.. {
                let disk = Disk::new(0);
                disk.sim.inject(Fault::new(operation, Effect::Error(errno)).path_contains("alluvium.spill").skip(skip));
                let Err(failure) = disk.spill(&workload, 16 << 10, 6) else { break };
                assert_eq!(failure.is_storage_full(), errno == Errno::Enospc);
                failed += 1;
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

/// A reading that ends early, as of a file that was cut, is an error.
#[test]
fn a_file_that_was_cut_is_an_error() {
    let workload = Workload::random(2, 2500, 1800, 1 << 20);
    let disk = Disk::new(0);
    let memory = LearningMemory::tiny(16 << 10);
    let mut learning =
        Learning::in_spill(KeyHasher::from_seed(1), memory, disk.files(), workload.range.clone()).unwrap();
    workload.note_all(&mut learning).unwrap();
    let mut finishing = learning.finish();
    assert!(finishing.step(1).unwrap().is_none());
    let path = disk.dir.join(&disk.names()[0]);
    disk.sim.open(&path, crate::fs::OpenMode::ReadWrite).unwrap().set_len(3000).unwrap();
    let failure = (0..10_000).find_map(|_| finishing.step(1000).err()).unwrap();
    assert_eq!(failure.source.kind(), std::io::ErrorKind::InvalidData, "{failure}");
}

/// A bit that flips in any file between writing and reading is an error or makes no difference: never another verdict.
#[test]
fn a_flipped_bit_is_never_a_wrong_verdict() {
    let workload = Workload::random(2, 1500, 900, 1 << 20);
    let (mut errors, mut none) = (0, 0);
    for seed in 0..seeds(150) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = Disk::new(0);
        let memory = LearningMemory::tiny(16 << 10);
        let whole = workload.range.clone();
        let mut learning = Learning::in_spill(KeyHasher::from_seed(1), memory, disk.files(), whole).unwrap();
        workload.note_all(&mut learning).unwrap();
        let mut finishing = learning.finish();
        let mut outcome = finishing.step(1);
        for _ in 0..rng.usize(0..40) {
            if matches!(outcome, Ok(None)) {
                outcome = finishing.step(1000);
            }
        }
        let names = disk.names();
        let path = disk.dir.join(&names[rng.usize(0..names.len())]);
        let len = disk.sim.live_bytes(&path).unwrap().len() as u64;
        if len > 0 {
            disk.sim.flip_bit(&path, rng.u64(0..len), rng.u8(0..8));
        }
        while matches!(outcome, Ok(None)) {
            outcome = finishing.step(1000);
        }
        let done = outcome.and_then(|verdicts| check(&workload, &mut verdicts.unwrap(), workload.range.end, seed));
        match done {
            Ok(()) => none += 1,
            Err(failure) => {
                assert_eq!(failure.source.kind(), std::io::ErrorKind::InvalidData, "{failure}");
                errors += 1;
            }
        }
    }
    assert!(errors > 20 && none > 0, "{errors} errors, {none} without effect");
}

/// What an earlier pass could not remove, or a crash left, does not stand in the way.
#[test]
fn a_file_of_an_earlier_pass_is_replaced() {
    let disk = Disk::new(0);
    let left = disk.dir.join(crate::segment::names::spill(0));
    disk.sim.open(&left, crate::fs::OpenMode::CreateNew).unwrap();
    let workload = Workload::random(1, 500, 100, 1);
    disk.spill(&workload, 16 << 10, 1).unwrap();
}
