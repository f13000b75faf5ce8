//! What every user of a store does: create, append, close, find again, delete.

use std::time::Duration;

use alluvium::error::Unavailable;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::store::{
    CheckpointKind, CreateOptions, OffsetCheckpoint, PartitionState, Store, StoreConfig, StoreError, StoreOpening,
    TopicId, Workers, is_clean_shutdown,
};
use alluvium::{LogConfig, Offset, ReadOptions};

use super::world::{World, at, batch, client, named, small, values};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn what_was_written_is_found_after_a_clean_close_and_nothing_is_opened_for_it() {
    let world = World::new(1, 2);
    let store = world.open();
    for number in 0..6 {
        let partition = store.create(&named("orders", number), small()).unwrap();
        for value in ["a", "b", "c"] {
            partition.append(batch(value), client()).unwrap();
        }
    }
    let closed = store.close(LONG).unwrap();
    assert_eq!((closed.clean, closed.unclean.len(), closed.failed_dirs.len()), (6, 0, 0));
    for dir in &world.dirs {
        assert!(is_clean_shutdown(&world.fs, dir).unwrap());
        let points = OffsetCheckpoint::read(&world.fs, dir, CheckpointKind::RecoveryPoint).unwrap();
        assert_eq!(points.offsets().map(|(_, offset)| offset).collect::<Vec<_>>(), [at(3); 3]);
    }
    assert!(matches!(store.create(&named("more", 0), small()), Err(StoreError::Closed)));
    drop(store);

    let store = world.open();
    assert!(store.report().directories.iter().all(|dir| dir.was_clean && dir.partitions == 3));
    assert_eq!(store.report().directories.iter().map(|dir| dir.opened).sum::<usize>(), 0);
    for number in 0..6 {
        let partition = store.get(&named("orders", number)).unwrap();
        assert!(matches!(partition.state(), PartitionState::Idle));
        assert_eq!(partition.marks().unwrap().log_end, at(3));
        assert_eq!(values(&partition), ["a", "b", "c"]);
        assert!(matches!(partition.state(), PartitionState::Open));
    }
}

#[test]
fn what_was_durable_survives_a_power_loss_and_only_open_logs_are_recovered() {
    let world = World::new(2, 1);
    let store = world.open();
    let idle = store.create(&named("idle", 0), small()).unwrap();
    idle.append(batch("x"), client()).unwrap();
    store.close(LONG).unwrap();
    drop((idle, store));

    let store = world.open();
    let busy = store.create(&named("busy", 0), small()).unwrap();
    busy.append(batch("y"), client()).unwrap().wait_durable(LONG).unwrap();
    let world = world.powerless(1);
    drop((busy, store));

    let store = world.open();
    assert!(!store.report().directories[0].was_clean);
    assert_eq!(store.report().directories[0].opened, 1);
    assert_eq!(values(&store.get(&named("busy", 0)).unwrap()), ["y"]);
    assert_eq!(values(&store.get(&named("idle", 0)).unwrap()), ["x"]);
}

#[test]
fn nothing_of_a_deleted_partition_is_left_for_one_of_the_same_name() {
    let world = World::new(3, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("old"), client()).unwrap().wait_durable(LONG).unwrap();
    store.tick();
    store.delete(orders.name()).unwrap();
    assert!(matches!(orders.log().unwrap_err(), Unavailable::Deleted));
    assert!(matches!(store.delete(orders.name()), Err(StoreError::Unknown { .. })));
    for kind in CheckpointKind::ALL {
        let list = OffsetCheckpoint::read(&world.fs, &world.dirs[0], kind).unwrap();
        assert_eq!(list.offsets().count(), 0, "{kind:?}");
    }
    let anew = store.create(&named("orders", 0), small()).unwrap();
    assert_eq!(anew.marks().unwrap().log_end, Offset::ZERO);
    assert_eq!(store.tick().housekept.removed_dirs, 0);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(store.tick().housekept.removed_dirs, 1);
    let left = world.fs.list(&world.dirs[0]).unwrap();
    assert!(left.iter().all(|entry| !entry.name.ends_with("-delete")), "{left:?}");
}

#[test]
fn another_topics_partition_is_refused() {
    let world = World::new(4, 1);
    let store = world.open();
    let (ours, theirs) = (TopicId::from_random(1), TopicId::from_random(2));
    let orders = named("orders", 0);
    store.create(&orders, CreateOptions::new(LogConfig::default()).topic_id(ours)).unwrap();
    assert_eq!(store.claim(&orders, ours).unwrap().topic_id(), Some(ours));
    assert!(matches!(store.claim(&orders, theirs), Err(StoreError::TopicId(_))));
    store.close(LONG).unwrap();
    drop(store);
    let store = world.open();
    assert_eq!(store.get(&orders).unwrap().topic_id(), Some(ours));
    assert!(matches!(store.claim(&orders, theirs), Err(StoreError::TopicId(_))));
    let other = named("other", 0);
    store.create(&other, LogConfig::default()).unwrap();
    assert_eq!(store.claim(&other, theirs).unwrap().topic_id(), Some(theirs));
}

#[test]
fn an_idle_log_is_put_aside_and_comes_back_on_use() {
    let world = World::new(5, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    for value in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        orders.append(batch(value), client()).unwrap();
    }
    orders.log().unwrap().flush().unwrap();
    let held = orders.read(Offset::ZERO, &ReadOptions::default()).unwrap();
    store.tick();
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(store.tick().housekept.parked, 0, "somebody holds a slice");
    drop(held);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(store.tick().housekept.parked, 1);
    assert!(matches!(orders.state(), PartitionState::Idle));
    assert_eq!(orders.marks().unwrap().log_end, at(8));
    orders.append(batch("i"), client()).unwrap();
    assert_eq!(values(&orders), ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    // A crash right after: what was closed while idle is found whole.
    let world = world.killed();
    drop((orders, store));
    let store = world.open();
    assert_eq!(values(&store.get(&named("orders", 0)).unwrap()).len(), 9);
}

#[test]
fn one_directory_fails_and_the_other_is_served() {
    let world = World::new(6, 2);
    let store = world.open();
    let on = |number: usize, topic| {
        let wanted = CreateOptions::new(small()).in_dir(&world.dirs[number]);
        store.create(&named(topic, 0), wanted).unwrap()
    };
    let (lost, kept) = (on(0, "lost"), on(1, "kept"));
    lost.append(batch("a"), client()).unwrap().wait_durable(LONG).unwrap();
    kept.append(batch("b"), client()).unwrap();
    for operation in [FaultOn::Open, FaultOn::Write, FaultOn::SyncDir, FaultOn::List, FaultOn::Rename] {
        let broken = Fault::new(operation, Effect::Error(Errno::Eio)).path_contains("/data0").always();
        world.fs.inject(broken);
    }
    world.clock.advance(Duration::from_secs(61));
    store.tick();
    let health = store.directories();
    assert!(health[0].offline.is_some() && health[1].offline.is_none(), "{health:?}");
    assert_eq!(health[0].partitions, [named("lost", 0)]);
    assert!(matches!(lost.log().unwrap_err(), Unavailable::Offline { .. }));
    kept.append(batch("c"), client()).unwrap().wait_durable(LONG).unwrap();
    assert!(store.reopen_dir(&world.dirs[0]).is_err());
    world.fs.clear_faults();
    store.reopen_dir(&world.dirs[0]).unwrap();
    assert_eq!(values(&lost), ["a"]);
    assert_eq!(values(&kept), ["b", "c"]);
    assert!(matches!(store.reopen_dir(&world.dirs[0]), Err(StoreError::NotOffline { .. })));
}

#[test]
fn two_stores_exclude_one_another() {
    let world = World::new(7, 1);
    let store = world.open();
    assert!(matches!(world.try_open(), Err(StoreError::Lock(_))));
    drop(store);
    world.try_open().unwrap();
}

#[test]
fn a_store_on_the_real_file_system_works_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // The records are years old by the system's clock, and the housekeeper would be right to delete them.
    let log = || LogConfig { retention_ms: None, ..small() };
    let config = StoreConfig {
        default_log: log(),
        directories: vec![dir.path().join("a"), dir.path().join("b")],
        ..StoreConfig::default()
    };
    let store = Store::open(config.clone()).unwrap();
    for number in 0..10 {
        let partition = store.create(&named("t", number), log()).unwrap();
        partition.append(batch("v"), client()).unwrap();
    }
    store.close(LONG).unwrap();
    drop(store);
    let store = Store::open(config).unwrap();
    for number in 0..10 {
        assert_eq!(values(&store.get(&named("t", number)).unwrap()), ["v"]);
    }
}

/// Where a disk is taken away, an empty directory is left that takes whatever is written.
#[test]
fn nothing_is_written_into_an_empty_mount_point() {
    let root = tempfile::tempdir().unwrap();
    let (dir, away) = (root.path().join("data"), root.path().join("away"));
    let store = Store::open(StoreConfig { workers: Workers::Tick, ..StoreConfig::new(&dir) }).unwrap();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("v"), client()).unwrap();
    std::fs::rename(&dir, &away).unwrap();
    std::fs::create_dir(&dir).unwrap();
    assert!(store.create(&named("more", 0), small()).is_err());
    assert!(store.directories()[0].offline.is_some());
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

/// What a deadline cuts off is left as by a crash: nothing durable is lost, and nothing is marked as clean.
#[test]
fn a_store_that_is_given_no_time_to_close_is_recovered() {
    let world = World::new(8, 1);
    for has_time in [false, true] {
        let given = if has_time { LONG } else { Duration::ZERO };
        let config = StoreConfig { close_deadline: given, ..world.config() };
        let store = StoreOpening::new(config).environment(world.environment()).open().unwrap();
        let orders = match store.get(&named("orders", 0)) {
            Some(orders) => orders,
            None => store.create(&named("orders", 0), small()).unwrap(),
        };
        orders.append(batch("v"), client()).unwrap().wait_durable(LONG).unwrap();
        let closed = store.shut_down().unwrap();
        assert_eq!((closed.clean, closed.unclean.len()), if has_time { (1, 0) } else { (0, 1) });
        assert_eq!(is_clean_shutdown(&world.fs, &world.dirs[0]).unwrap(), has_time);
        drop((orders, store));
    }
    let store = world.open();
    assert_eq!(store.report().directories[0].opened, 0);
    assert_eq!(values(&store.get(&named("orders", 0)).unwrap()), ["v", "v"]);
}
