//! What a store says of itself: health and counters, and a partition behind `dyn Log`.

use std::sync::Arc;
use std::time::Duration;

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::store::{CreateOptions, PartitionCounts, PartitionState, Store, StoreConfig};
use alluvium::{AppendError, Log, Offset, PartitionLog, ReadOptions};

use super::world::{World, at, batch, client, named, small};

const LONG: Duration = Duration::from_secs(20);

/// What is counted of a partition stays counted, whatever becomes of its log.
#[test]
fn counters_outlive_their_logs() {
    let world = World::new(11, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    let appended = |count: u64| {
        assert_eq!(orders.metrics().counts.appended_batches, count);
        assert_eq!(store.metrics().logs.appended_batches, count);
    };
    for value in ["a", "b", "c"] {
        orders.append(batch(value), client()).unwrap();
    }
    appended(3);
    orders.log().unwrap().flush().unwrap();
    store.tick();
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(store.tick().housekept.parked, 1);
    appended(3);
    let metrics = store.metrics();
    assert_eq!((metrics.partitions.idle, metrics.partitions.open, metrics.work.parked_logs), (1, 0, 1));
    assert!(orders.metrics().bytes.is_some() && orders.metrics().marks.unwrap().log_end == at(3));
    orders.append(batch("d"), client()).unwrap();
    appended(4);
    store.reopen(orders.name()).unwrap();
    appended(4);
    orders.append(batch("e"), client()).unwrap();
    Log::close(&orders).unwrap();
    appended(5);
    assert_eq!(store.metrics().work.opened_logs, 3, "created, used again, reopened");
    store.delete(orders.name()).unwrap();
    appended(5);
    assert_eq!(store.metrics().partitions, PartitionCounts::default());
    store.create(orders.name(), small()).unwrap().append(batch("f"), client()).unwrap();
    assert_eq!(store.metrics().logs.appended_batches, 6);
    assert!(store.metrics().directories[0].list_writes > 0);
}

#[test]
fn counters_are_summed_over_moves_and_closes() {
    let world = World::new(12, 2);
    let store = world.open();
    let orders = store.create(&named("orders", 0), CreateOptions::new(small()).in_dir(&world.dirs[0])).unwrap();
    for value in ["a", "b"] {
        orders.append(batch(value), client()).unwrap();
    }
    let mut relocation = store.relocate(orders.name(), &world.dirs[1]).unwrap();
    while !relocation.step(1 << 20).unwrap().is_caught_up {}
    relocation.finish().unwrap();
    orders.append(batch("c"), client()).unwrap();
    assert!(orders.metrics().counts.appended_batches >= 3, "{:?}", orders.metrics());
    assert_eq!(orders.health().dir, world.dirs[1]);
    let before = store.metrics().logs;
    store.close(LONG).unwrap();
    assert_eq!(store.metrics().logs.appended_batches, before.appended_batches);
    assert!(store.health().is_closed && !store.health().is_well());
}

#[test]
fn health_names_what_is_wrong_and_nothing_else() {
    let world = World::new(13, 2);
    let store = world.open();
    let on = |number: usize, topic| {
        store.create(&named(topic, 0), CreateOptions::new(small()).in_dir(&world.dirs[number])).unwrap()
    };
    let (lost, latched, _well) = (on(0, "lost"), on(1, "latched"), on(1, "well"));
    assert!(store.health().is_well(), "{:?}", store.health());
    lost.append(batch("a"), client()).unwrap();

    let failing = Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)).path_contains("latched").always();
    world.fs.inject(failing);
    assert!(latched.append(batch("a"), client()).unwrap().wait_durable(LONG).is_err());
    world.fs.clear_faults();
    for operation in [FaultOn::Open, FaultOn::Write, FaultOn::SyncDir, FaultOn::List, FaultOn::Rename] {
        world.fs.inject(Fault::new(operation, Effect::Error(Errno::Eio)).path_contains("/data0").always());
    }
    world.clock.advance(Duration::from_secs(61));
    store.tick();

    let health = store.health();
    assert!(!health.is_well());
    assert!(health.directories[0].offline.is_some() && health.directories[1].is_well(), "{health:?}");
    assert_eq!(health.directories[1].partitions, [named("latched", 0), named("well", 0)]);
    let wrong: Vec<_> = health.partitions.iter().map(|line| line.partition.clone()).collect();
    assert_eq!(wrong, [named("latched", 0), named("lost", 0)]);
    assert!(health.partitions[0].failed.is_some() && matches!(health.partitions[0].state, PartitionState::Open));
    assert!(matches!(health.partitions[1].state, PartitionState::Unavailable(_)));
    let metrics = store.metrics();
    assert_eq!((metrics.partitions.open, metrics.partitions.away), (2, 1));
    assert!(metrics.directories[0].is_offline && metrics.directories[0].list_failures > 0);
    assert_eq!(metrics.logs.appended_batches, 2, "those of a lost directory included");
    // The marks as they were, by a handle that cannot say that it does not know.
    assert_eq!(Log::marks(&lost).log_end, at(1));
    assert!(Log::health(&lost).is_closed);

    world.fs.clear_faults();
    store.reopen_dir(&world.dirs[0]).unwrap();
    store.reopen(latched.name()).unwrap();
    assert!(store.health().is_well(), "{:?}", store.health());
}

#[test]
fn threads_are_in_the_health() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::open(StoreConfig { reserve_bytes: 0, space_floor_bytes: 0, ..StoreConfig::new(dir.path()) }).unwrap();
    let health = store.health();
    let names: Vec<_> = health.workers.iter().map(|status| status.worker.name.clone()).collect();
    assert_eq!(names, ["flusher-0", "housekeeper", "scrubber", "cleaner-0", "cleaner-stand-in"]);
    assert!(health.is_well() && health.workers.iter().all(|status| !status.is_stuck));
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("a"), client()).unwrap().wait_durable(LONG).unwrap();
    // Who waited is told before the round is counted.
    while store.metrics().directories[0].flush_rounds == 0 {
        std::thread::yield_now();
    }
    store.close(LONG).unwrap();
}

/// The same calls on a log opened alone and on a store's partition, through one trait.
#[test]
fn a_partition_serves_behind_dyn_as_a_log_does() {
    let world = World::new(15, 1);
    let store = world.open();
    let hosted = store.create(&named("orders", 0), small()).unwrap();
    let alone: PartitionLog = world.environment().open("/alone", small()).unwrap();
    let both: [Arc<dyn Log>; 2] = [Arc::new(hosted.clone()), Arc::new(alone)];
    for log in &both {
        for value in ["a", "b", "c"] {
            let appended = log.append(batch(value).into(), client().into()).unwrap();
            assert_eq!(appended.end.value(), log.marks().log_end.value());
        }
        assert_eq!(log.flush().unwrap(), at(3));
        let read = log.read(Offset::ZERO, &ReadOptions::default()).unwrap();
        assert!(!read.is_empty() && read.marks().log_end == at(3));
        assert!(!log.segment_files().is_empty() && log.leader_epoch().is_some());
        assert!(log.health().failed.is_none() && !log.health().is_closed);
        assert_eq!(log.truncate_to(at(2)).unwrap(), at(2));
        log.fence(7).unwrap();
        assert_eq!(log.fencing_token(), Some(7));
        log.tick().unwrap();
        log.close().unwrap();
        assert_eq!(log.marks().log_end, at(2));
    }
    // A log opened alone stays closed; a store's comes back when it is used.
    assert!(matches!(hosted.state(), PartitionState::Idle));
    assert_eq!(both[0].fencing_token(), Some(7));
    assert!(!both[0].health().is_closed && both[1].health().is_closed);
    store.delete(&named("orders", 0)).unwrap();
    let refused = both[0].append(batch("x").into(), client().into()).unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    assert!(both[0].close().is_err() && both[0].producers().is_empty());
    assert_eq!(both[0].marks().log_end, at(2), "as last known");
}

/// A disk was pulled out from under a store, or unmounted, and an idle partition on it was used: the store made its
/// directory anew, served an empty log from offset 0, and the disk could not come back to its place.
#[test]
fn a_partition_whose_directory_is_gone_does_not_come_back_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, elsewhere) = (dir.path().join("disk"), dir.path().join("elsewhere"));
    let config = StoreConfig { reserve_bytes: 0, space_floor_bytes: 0, ..StoreConfig::new(&disk) };
    let store = Store::open(config).unwrap();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("a"), client()).unwrap();
    Log::close(&orders).unwrap();
    std::fs::rename(&disk, &elsewhere).unwrap();
    let refused = orders.append(batch("b"), client()).unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    assert!(!disk.join("orders-0").exists());
    std::fs::remove_dir_all(&disk).unwrap_or_default();
    std::fs::rename(&elsewhere, &disk).unwrap();
    store.reopen(orders.name()).unwrap();
    assert_eq!(orders.append(batch("b"), client()).unwrap().base_offset(), at(1));
}
