//! Logs with more keys than the memory holds notes of, cleaned on disk, in parts, and group by group. All come to the same
//! records.

use alluvium::fs::sim::SimFs;
use alluvium::record::Compression;
use alluvium::{CleanMode, CleanOptions, CleanupPolicy, LogConfig};
use fastrand::Rng;

use super::examine;
use crate::support::clean::script::{CleanOp, Write, Writes};
use crate::support::clean::story::Told;
use crate::support::clean::world::CleanWorld;
use crate::support::history::Ending;

const MIB: u64 = 1 << 20;
/// More than a mebibyte holds notes of, at 16 bytes each.
const KEYS: u32 = 90_000;
const BATCH_RECORDS: u32 = 600;

fn config(segment_bytes: u32) -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        segment_bytes,
        index_interval_bytes: 4096,
        zero_ahead_bytes: 0,
        delete_retention_ms: 1000,
        retention_ms: None,
        transaction_partition_verification_enable: false,
        ..LogConfig::default()
    }
}

/// Every key once, and a third of them again, in batches of all codecs; some tombstones, and a transaction that is aborted.
fn told(segment_bytes: u32, keys: u32) -> CleanWorld {
    let mut world = CleanWorld::new(SimFs::new(1), config(segment_bytes));
    world.reopen().unwrap();
    world.is_watchful = false;
    let mut rng = Rng::with_seed(u64::from(segment_bytes));
    let mut written = 0;
    for first in (0..keys + keys / 3).step_by(BATCH_RECORDS as usize) {
        let write = |at: u32| {
            let key = if at < keys { at } else { rng.u32(..keys) };
            written += 1;
            let value = (rng.u8(..20) > 0).then_some((written, 0));
            Write { key: Some(key), value, shift_ms: 0, has_header: false }
        };
        let records = (first..first + BATCH_RECORDS).map(write).collect();
        let codec = if first % 5000 == 0 { Compression::Lz4 } else { Compression::None };
        let writes = Writes { records, codec };
        let is_producers = first % 9000 == 0;
        let op = if is_producers {
            CleanOp::Produce { producer: 12, is_transactional: true, is_new_epoch: false, writes }
        } else {
            CleanOp::Put(writes)
        };
        world.apply(&op).unwrap();
        if is_producers {
            world.apply(&CleanOp::End { producer: 12, commit: first % 2 == 0, is_new_epoch: false }).unwrap();
        }
    }
    world.apply(&CleanOp::Roll).unwrap();
    world
}

/// Another world with the same disk.
fn again(world: &CleanWorld, options: CleanOptions) -> CleanWorld {
    let mut again = world.after(world.fs.kill(), Ending::Kill);
    again.is_watchful = false;
    again.reopen().unwrap();
    again.options = options;
    again.is_watchful = true;
    again
}

fn cleaned(world: &mut CleanWorld, memory: u64) -> Vec<Told> {
    world.apply(&CleanOp::Clean { memory }).unwrap();
    world.found().unwrap()
}

#[test]
fn many_keys_come_to_the_same_records_whatever_the_memory() {
    let world = told(1 << 20, KEYS);
    let whole = cleaned(&mut again(&world, CleanOptions::default()), 64 * MIB);
    for (memory, spill, mode) in
        [(MIB, None, CleanMode::Spill), (MIB, Some(0), CleanMode::Partial), (4 * MIB, None, CleanMode::Map)]
    {
        let options = spill.map_or_else(CleanOptions::default, |bytes| CleanOptions::default().with_spill(bytes));
        let mut repeated = again(&world, options);
        let records = cleaned(&mut repeated, memory);
        let figures = &repeated.cleaned[0];
        assert_eq!(figures.mode, mode, "{figures:?}");
        assert_eq!(figures.passes > 1, mode == CleanMode::Partial, "{figures:?}");
        assert_eq!(records_of(&records), records_of(&whole), "with {memory} bytes, spilling {spill:?}");
        let read = figures.records_read;
        assert!(figures.bytes_spilled <= 3 * 24 * read + 8 * read, "{figures:?}");
        examine_a_part(&repeated);
    }
}

fn records_of(found: &[Told]) -> Vec<i64> {
    found.iter().flat_map(|batch| &batch.records).map(|record| record.offset).collect()
}

/// Not every offset: there are too many.
fn examine_a_part(world: &CleanWorld) {
    let log = world.log.as_ref().unwrap();
    for from in (0..world.story.end).step_by(7919) {
        let fetched = log.read(alluvium::Offset::new(from).unwrap(), &alluvium::ReadOptions::default()).unwrap();
        assert!(!fetched.is_empty() || from >= world.story.end, "nothing at {from}");
    }
}

/// One segment with more keys than the map holds: a partial pass ends within it, and the next goes on there.
#[test]
fn one_segment_with_more_keys_than_the_memory_is_cleaned_in_parts() {
    let world = told(64 << 20, KEYS);
    for spill in [None, Some(0)] {
        let options = spill.map_or_else(CleanOptions::default, |bytes| CleanOptions::default().with_spill(bytes));
        let mut repeated = again(&world, options);
        cleaned(&mut repeated, MIB);
        let figures = repeated.cleaned.remove(0);
        assert_eq!(figures.segments_before, 1, "{figures:?}");
        assert!(figures.memory_peak <= MIB, "{figures:?}");
    }
}

/// A spilled cleaning on a disk that has room for a few segments only.
#[test]
fn many_keys_on_a_nearly_full_disk_are_cleaned_in_some_way() {
    let world = told(256 << 10, KEYS);
    let mut repeated = again(&world, CleanOptions::default());
    repeated.fs.set_capacity(Some(1 << 40));
    let used = (1 << 40) - repeated.fs.free_bytes().unwrap();
    repeated.fs.set_capacity(Some(used + (600 << 10)));
    cleaned(&mut repeated, MIB);
    assert_eq!(repeated.cleaned[0].upper.value(), repeated.story.end, "{:?}", repeated.cleaned[0]);
}

#[test]
fn less_than_a_mebibyte_is_refused_and_a_mebibyte_does_for_any_record() {
    let mut world = CleanWorld::new(SimFs::new(3), LogConfig { max_message_bytes: 8 << 20, ..config(16 << 20) });
    world.reopen().unwrap();
    let large = |id: u64, codec| {
        let records = vec![Write { key: Some(1), value: Some((id * 2, 3 << 20)), shift_ms: 0, has_header: false }];
        CleanOp::Put(Writes { records, codec })
    };
    for (id, codec) in (0..).zip([Compression::None, Compression::Zstd, Compression::None, Compression::Gzip]) {
        world.apply(&large(id, codec)).unwrap();
    }
    world.apply(&CleanOp::Roll).unwrap();
    let log = world.log.clone().unwrap();
    let refused = log.clean(&CleanOptions::default().with_memory(MIB - 1)).unwrap_err();
    assert!(matches!(refused, alluvium::CleanError::Options { min: MIB, .. }), "{refused:?}");
    world.apply(&CleanOp::Clean { memory: MIB }).unwrap();
    let found = world.found().unwrap();
    assert_eq!(records_of(&found), [3]);
    examine(&world).unwrap();
}
