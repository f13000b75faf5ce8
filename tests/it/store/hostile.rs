//! What comes between: somebody uses a partition in the middle of its deletion, of another's reopening, of the close of
//! the store; a directory fails or fills up at the wrong moment.

use std::pin::pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use alluvium::error::Unavailable;
use alluvium::fs::FileSystem;
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::log::Found;
use alluvium::store::{
    CheckpointKind, CreateOptions, OffsetCheckpoint, Partition, Store, StoreConfig, StoreError, StoreOpening,
};
use alluvium::{HighWatermarkMode, LogConfig, Mark, Offset};

use super::world::{World, at, batch, client, named, small, values};

const LONG: Duration = Duration::from_secs(20);
/// Long enough for anything that waits for nothing.
const SHORT: Duration = Duration::from_millis(300);

/// A waker that does something once, in the middle of whatever wakes it.
struct Acts(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Acts {
    fn waker(act: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(Mutex::new(Some(Box::new(act))))))
    }
}

impl Wake for Acts {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }
}

/// Has `act` done when the log of `partition` is closed, before anything else happens to the partition.
fn when_closed<T>(partition: &Partition, act: impl FnOnce() + Send + 'static, then: impl FnOnce() -> T) -> T {
    let waker = Acts::waker(act);
    let mut reached = pin!(partition.wait_for(Mark::LogEnd, at(1_000_000)).unwrap());
    assert!(reached.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    then()
}

fn no_alarm(partition: &Partition) {
    for finding in &partition.log().unwrap().recovery_report().findings {
        assert!(!matches!(finding.found, Found::EndsBelowRecoveryPoint { .. } | Found::Damage(_)), "{finding:?}");
    }
}

#[test]
fn nothing_is_opened_behind_the_back_of_a_store_that_closes() {
    let world = World::new(1, 1);
    let store = world.open();
    // The idle one is come by first.
    let (idle, busy) = (store.create(&named("a", 0), small()).unwrap(), store.create(&named("b", 0), small()).unwrap());
    idle.append(batch("x"), client()).unwrap().wait_durable(LONG).unwrap();
    busy.append(batch("y"), client()).unwrap();
    store.tick();
    world.clock.advance(Duration::from_secs(61));
    busy.append(batch("z"), client()).unwrap();
    assert_eq!(store.tick().housekept.parked, 1);
    let (told, hears) = mpsc::channel();
    let late = idle.clone();
    let act = move || told.send(late.append(batch("late"), client()).map(drop).is_ok()).unwrap();
    let closed = when_closed(&busy, act, || store.close(LONG).unwrap());
    assert!(!hears.recv().unwrap(), "an append to a store that was closed");
    assert_eq!((closed.clean, closed.unclean.len()), (2, 0));
    assert!(matches!(idle.log(), Err(Unavailable::Closed)));
}

#[test]
fn of_two_that_reopen_a_partition_the_slower_one_leaves_the_others_log_alone() {
    let world = World::new(2, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("a"), client()).unwrap();
    let (told, hears) = mpsc::channel();
    let (other, name) = (store.clone(), orders.name().clone());
    let act = move || told.send(other.reopen(&name).unwrap().log().unwrap()).unwrap();
    when_closed(&orders, act, || store.reopen(orders.name()).unwrap());
    let theirs = hears.recv().unwrap();
    theirs.append(batch("b"), client()).unwrap();
    orders.append(batch("c"), client()).unwrap().wait_durable(LONG).unwrap();
    assert_eq!(values(&orders), ["a", "b", "c"]);
    store.close(LONG).unwrap();
    drop((theirs, store));
    assert_eq!(values(&world.open().get(&named("orders", 0)).unwrap()), ["a", "b", "c"]);
}

/// A round writes down its recovery point after it answered who waits: that must not be the next partition's.
#[test]
fn a_round_in_flight_says_nothing_of_the_next_partition_of_that_name() {
    let world = World::new(3, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    // Several segments, so that the round raises the recovery point.
    let appended: Vec<_> = (0..20).map(|_| orders.append(batch("old"), client()).unwrap()).collect();
    let (done, is_done) = mpsc::channel();
    let (other, name) = (store.clone(), orders.name().clone());
    let (threads, joins) = mpsc::channel();
    let waker = Acts::waker(move || {
        let thread = std::thread::spawn(move || {
            other.delete(&name).unwrap();
            let anew = other.create(&name, small()).unwrap();
            anew.append(batch("new"), client()).unwrap();
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(SHORT);
        threads.send(thread).unwrap();
    });
    let mut durable = pin!(appended.last().unwrap().durable());
    assert!(durable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    orders.log().unwrap().flush().unwrap();
    assert!(matches!(durable.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
    joins.recv().unwrap().join().unwrap();
    let anew = store.get(&named("orders", 0)).unwrap();
    assert_eq!(values(&anew), ["new"]);
    assert!(matches!(orders.log(), Err(Unavailable::Deleted)));
    anew.log().unwrap().flush().unwrap();
    let world = world.killed();
    drop((orders, anew, store));
    let store = world.open();
    let anew = store.get(&named("orders", 0)).unwrap();
    assert_eq!(values(&anew), ["new"]);
    no_alarm(&anew);
}

#[test]
fn a_partition_is_deleted_and_made_anew_on_a_full_disk() {
    let world = World::new(4, 1);
    let store = world.open();
    let orders = store.create(&named("orders", 0), small()).unwrap();
    (0..20).for_each(|_| drop(orders.append(batch("old"), client()).unwrap()));
    orders.log().unwrap().flush().unwrap();
    store.tick();
    let full = Fault::new(FaultOn::Write, Effect::Error(Errno::Enospc)).path_contains(".tmp").always();
    world.fs.inject(full);
    store.delete(orders.name()).unwrap();
    assert!(store.get(orders.name()).is_none());
    assert!(matches!(orders.append(batch("late"), client()), Err(error) if error.to_string().contains("deleted")));
    // What the lists go on saying would pass for the new one's.
    assert!(store.create(orders.name(), small()).is_err());
    world.fs.clear_faults();
    let anew = store.create(orders.name(), small()).unwrap();
    assert_eq!(anew.marks().unwrap().log_end, Offset::ZERO);
    let said = OffsetCheckpoint::read(&world.fs, &world.dirs[0], CheckpointKind::RecoveryPoint).unwrap();
    assert_eq!(said.offset(orders.name()), None);
}

#[test]
fn a_move_of_a_partition_that_is_deleted_leaves_no_copy() {
    let world = World::new(5, 2);
    let store = world.open();
    let wanted = || CreateOptions::new(small()).in_dir(&world.dirs[0]);
    let orders = store.create(&named("orders", 0), wanted()).unwrap();
    orders.append(batch("a"), client()).unwrap();
    let mut moving = store.relocate(orders.name(), &world.dirs[1]).unwrap();
    moving.step(1 << 20).unwrap();
    store.delete(orders.name()).unwrap();
    assert!(moving.finish().is_err());
    let left = world.fs.list(&world.dirs[1]).unwrap();
    assert!(left.iter().all(|entry| !entry.name.starts_with("orders")), "{left:?}");
    // One made anew can be moved at once.
    store.create(orders.name(), wanted()).unwrap();
    let mut moving = store.relocate(orders.name(), &world.dirs[1]).unwrap();
    while !moving.step(1 << 20).unwrap().is_caught_up {}
    moving.finish().unwrap();
}

#[test]
fn a_move_into_a_directory_that_went_offline_is_refused_and_the_partition_served() {
    let world = World::new(6, 2);
    let store = world.open();
    let orders = store.create(&named("orders", 0), CreateOptions::new(small()).in_dir(&world.dirs[0])).unwrap();
    orders.append(batch("a"), client()).unwrap();
    let mut moving = store.relocate(orders.name(), &world.dirs[1]).unwrap();
    moving.step(1 << 20).unwrap();
    store.create(&named("other", 0), CreateOptions::new(small()).in_dir(&world.dirs[1])).unwrap();
    for operation in [FaultOn::Write, FaultOn::SyncDir, FaultOn::Rename, FaultOn::Open] {
        world.fs.inject(Fault::new(operation, Effect::Error(Errno::Eio)).path_contains("/data1").always());
    }
    store.delete(&named("other", 0)).unwrap_err();
    world.fs.clear_faults();
    assert!(store.directories()[1].offline.is_some());
    assert!(matches!(moving.finish(), Err(StoreError::Unavailable(Unavailable::Offline { .. }))));
    assert_eq!(values(&orders), ["a"]);
    store.reopen_dir(&world.dirs[1]).unwrap();
    let mut moving = store.relocate(orders.name(), &world.dirs[1]).unwrap();
    while !moving.step(1 << 20).unwrap().is_caught_up {}
    moving.finish().unwrap();
    assert_eq!(values(&orders), ["a"]);
}

#[test]
fn a_move_that_outlives_its_store_touches_nothing() {
    for is_closed in [true, false] {
        let world = World::new(7, 2);
        let store = world.open();
        let orders = store.create(&named("orders", 0), CreateOptions::new(small()).in_dir(&world.dirs[0])).unwrap();
        orders.append(batch("a"), client()).unwrap().wait_durable(LONG).unwrap();
        let mut moving = store.relocate(orders.name(), &world.dirs[1]).unwrap();
        if is_closed {
            store.close(LONG).unwrap();
        }
        drop((orders, store));
        let calls = world.fs.list(&world.dirs[1]).unwrap();
        assert!(matches!(moving.step(1 << 20), Err(StoreError::Closed)));
        drop(moving);
        assert_eq!(world.fs.list(&world.dirs[1]).unwrap(), calls, "it is somebody else's by now");
        let store = world.open();
        assert_eq!(values(&store.get(&named("orders", 0)).unwrap()), ["a"]);
        let left = world.fs.list(&world.dirs[1]).unwrap();
        assert!(left.iter().all(|entry| !entry.name.ends_with("-future")), "{left:?}");
    }
}

/// Network and user-space file systems have no `fallocate`.
#[test]
fn a_directory_whose_file_system_cannot_allocate_is_served_without_a_reserve() {
    let world = World::new(8, 1);
    world.fs.inject(Fault::new(FaultOn::Allocate, Effect::Error(Errno::Raw(95))).always());
    let config = StoreConfig { reserve_bytes: 1 << 20, ..world.config() };
    let store = StoreOpening::new(config).environment(world.environment()).open().unwrap();
    assert!(store.directories()[0].offline.is_none());
    let orders = store.create(&named("orders", 0), small()).unwrap();
    orders.append(batch("a"), client()).unwrap().wait_durable(LONG).unwrap();
    store.tick();
    assert_eq!(values(&orders), ["a"]);
}

/// Whoever waits is told when the store goes, however it goes, and nothing of it is left.
#[test]
fn a_store_that_goes_while_threads_wait_tells_them_and_leaves_no_descriptor() {
    for is_closed in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(temp.path())).unwrap();
        let orders = store.create(&named("orders", 0), LogConfig::default()).unwrap();
        std::thread::scope(|scope| {
            let reached = orders.wait_for(Mark::LogEnd, at(1_000_000)).unwrap();
            let waits = orders.clone();
            let waiter = scope.spawn(move || {
                drop(reached);
                waits.wait_until(Mark::LogEnd, at(1_000_000), LONG)
            });
            let appends = orders.clone();
            let appender = scope.spawn(move || {
                let mut durable = 0;
                while let Ok(appended) = appends.append(batch("v"), client()) {
                    durable += usize::from(appended.wait_durable(LONG).is_ok());
                }
                durable
            });
            std::thread::sleep(Duration::from_millis(50));
            if is_closed {
                store.close(LONG).unwrap();
            }
            drop(store);
            assert!(waiter.join().unwrap().is_err());
            let durable = appender.join().unwrap();
            let store = Store::open(StoreConfig::new(temp.path())).unwrap();
            let found = store.get(orders.name()).unwrap().marks().unwrap().log_end.value();
            assert!(usize::try_from(found).unwrap() >= durable, "{found} of {durable}");
        });
        drop(orders);
        let held =
            std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let held: Vec<_> = held.filter(|path| path.starts_with(temp.path())).collect();
        assert!(held.is_empty(), "{held:?}");
    }
}

/// A future may hold the store, and be dropped by whoever wakes it.
#[test]
fn the_last_handle_may_go_in_the_middle_of_a_flushers_round() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(temp.path())).unwrap();
    let orders = store.create(&named("orders", 0), LogConfig::default()).unwrap();
    let appended = orders.append(batch("a"), client()).unwrap();
    let (done, is_done) = mpsc::channel();
    let (hands, takes) = mpsc::channel();
    let waker = Acts::waker(move || {
        drop::<Store>(takes.recv().unwrap());
        done.send(std::thread::current().name().map(str::to_owned)).unwrap();
    });
    let mut durable = Box::pin(appended.durable());
    let is_ready = durable.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    hands.send(store).unwrap();
    if is_ready {
        // The flusher was quicker.
        waker.wake();
    }
    let name = is_done.recv_timeout(LONG).unwrap();
    assert!(is_ready || name.as_deref().is_some_and(|name| name.starts_with("alluvium-flusher")), "{name:?}");
    drop((orders, durable));
    let deadline = std::time::Instant::now() + LONG;
    let store = loop {
        match Store::open(StoreConfig::new(temp.path())) {
            Ok(store) => break store,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(values(&store.get(&named("orders", 0)).unwrap()), ["a"]);
}

/// Truncations, deletions and the housekeeper at once: no list ever names what is past a cut, or gone.
#[test]
fn no_list_names_what_was_cut_or_deleted_while_it_was_written() {
    let world = World::new(11, 1);
    let store = world.open();
    let all: Vec<_> = (0..4).map(|number| store.create(&named("orders", number), small()).unwrap()).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                world.clock.advance(Duration::from_secs(6));
                store.tick();
            }
        });
        for partition in &all {
            let (world, store) = (&world, &store);
            scope.spawn(move || {
                let list = || OffsetCheckpoint::read(&world.fs, &world.dirs[0], CheckpointKind::RecoveryPoint).unwrap();
                for _ in 0..30 {
                    for _ in 0..20 {
                        partition.append(batch("v"), client()).unwrap();
                    }
                    partition.log().unwrap().flush().unwrap();
                    std::thread::yield_now();
                    let end = partition.truncate_to(at(3)).unwrap();
                    // Nothing is durable past the cut before the next round.
                    assert!(list().offset(partition.name()).is_none_or(|said| said <= end), "{:?}", list());
                }
                store.delete(partition.name()).unwrap();
                for _ in 0..20 {
                    std::thread::yield_now();
                    assert_eq!(list().offset(partition.name()), None);
                }
            });
        }
        // The others are joined by the scope; the ticker goes when the last partition has gone.
        scope.spawn(|| {
            while !store.partitions().is_empty() && !all.is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(20));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

/// A cut above the high watermark, as a follower's is, costs no list.
#[test]
fn a_list_names_no_more_of_an_open_log_than_is_replicated() {
    let world = World::new(12, 1);
    let store = world.open();
    let config = LogConfig { high_watermark: HighWatermarkMode::Embedder, ..small() };
    let orders = store.create(&named("orders", 0), config).unwrap();
    for _ in 0..30 {
        orders.append(batch("v"), client()).unwrap();
    }
    let log = orders.log().unwrap();
    log.flush().unwrap();
    log.advance_high_watermark(at(5)).unwrap();
    assert!(log.recovery_point() > at(5));
    store.tick();
    let list = || OffsetCheckpoint::read(&world.fs, &world.dirs[0], CheckpointKind::RecoveryPoint).unwrap();
    assert_eq!(list().offset(orders.name()), Some(at(5)));
    world.fs.inject(Fault::new(FaultOn::Rename, Effect::Error(Errno::Eio)).path_contains("checkpoint").always());
    assert_eq!(orders.truncate_to(at(12)).unwrap(), at(12));
    world.fs.clear_faults();
    assert_eq!(orders.truncate_to(at(2)).unwrap(), at(2));
    assert_eq!(list().offset(orders.name()), Some(at(2)));
    drop(log);
    store.close(LONG).unwrap();
    assert_eq!(list().offset(orders.name()), Some(at(2)));
}
