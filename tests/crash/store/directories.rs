//! Two data directories of which one fails, whatever is being done: it alone goes offline, and comes back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::error::Unavailable;
use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn};
use alluvium::store::{Store, StoreEvent, TopicId};
use alluvium::{Environment, Offset};

use super::machine::{LONG, Machine, batch, client, dirs, named};
use super::model::Ending;
use super::script::{Life, Stop};
use crate::gate::Gate;

const CHANGES: [FaultOn; 7] = [
    FaultOn::Create,
    FaultOn::Write,
    FaultOn::SetLen,
    FaultOn::SyncData,
    FaultOn::SyncDir,
    FaultOn::Rename,
    FaultOn::Remove,
];

/// What is being done when the disk dies.
type Deed = fn(&mut Life) -> Result<(), Stop>;

const DEEDS: [(&str, Deed); 8] = [
    ("create", |life| life.create("c-0", 0, Some(TopicId::from_random(9)))),
    ("append", |life| life.append("a-0", 1, true)),
    ("truncate", |life| life.truncate("a-0", 3)),
    ("delete", |life| life.delete("a-0")),
    ("move away", |life| life.move_quickly("a-0", 1)),
    ("move here", |life| life.move_quickly("k-0", 0)),
    ("adopt", |life| {
        life.partition("k-0").backup("/elsewhere/k").map_err(|error| Stop::Wrong(error.to_string()))?;
        life.store().adopt("/elsewhere/k", &named("e-0"), &dirs()[0], None).map_err(|e| Stop::Wrong(e.to_string()))?;
        panic!("adopted by a dead disk");
    }),
    ("pass time", |life| {
        life.pass(Duration::from_secs(301));
        Ok(())
    }),
];

fn staged() -> Life {
    let mut life = Life::new(Machine::new(5, 0));
    let stage = |life: &mut Life| -> Result<(), Stop> {
        life.open()?;
        life.create("a-0", 0, Some(TopicId::from_random(1)))?;
        life.create("b-0", 0, None)?;
        life.create("k-0", 1, None)?;
        life.append("a-0", 7, true)?;
        life.append("b-0", 2, true)?;
        life.append("k-0", 5, true)?;
        life.tick(Duration::ZERO)
    };
    if let Err(stop) = stage(&mut life) {
        panic!("{stop:?}");
    }
    life
}

fn events(subscription: &alluvium::store::Subscription) -> Vec<StoreEvent> {
    std::iter::from_fn(|| subscription.try_next()).collect()
}

/// Lets a minute pass with the housekeeper at work.
fn wait_a_minute(life: &Life, store: &Store) {
    for _ in 0..12 {
        life.machine.clock.advance(Duration::from_secs(6));
        store.tick();
    }
}

#[test]
fn a_directory_that_dies_goes_alone_and_comes_back() {
    for (name, deed) in DEEDS {
        let mut life = staged();
        let store = life.store();
        let subscription = store.subscribe(64);
        let (handle, neighbour) = (life.partition("a-0"), life.partition("b-0"));
        for call in CHANGES {
            life.machine.fs.inject(Fault::new(call, Effect::Error(Errno::Eio)).path_contains("/data0").always());
        }
        let _ = deed(&mut life);
        wait_a_minute(&life, &store);

        let health = store.directories();
        assert!(health[0].offline.is_some() && health[1].offline.is_none(), "{name}: {health:?}");
        assert!(health[0].partitions.contains(&named("b-0")), "{name}: {health:?}");
        assert!(matches!(neighbour.log(), Err(Unavailable::Offline { .. })), "{name}");
        let seen = events(&subscription);
        let offline: Vec<_> = seen
            .iter()
            .filter_map(|event| match event {
                StoreEvent::DirectoryOffline { dir, partitions, .. } => Some((dir.clone(), partitions.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(offline.len(), 1, "{name}: {seen:?}");
        assert_eq!((&offline[0].0, &offline[0].1), (&dirs()[0], &health[0].partitions), "{name}");
        life.append("k-0", 1, true).unwrap_or_else(|stop| panic!("{name}: {stop:?}"));
        assert!(store.reopen_dir(&dirs()[0]).is_err(), "{name}: the disk is dead");
        assert!(store.directories()[0].offline.is_some(), "{name}");

        life.machine.fs.clear_faults();
        store.reopen_dir(&dirs()[0]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let seen = events(&subscription);
        let online = seen.iter().filter(|event| matches!(event, StoreEvent::DirectoryOnline { .. }));
        assert_eq!(online.count(), 1, "{name}: {seen:?}");
        let found = super::judge::inventory(&store).unwrap_or_else(|what| panic!("{name}: {what}"));
        life.model.judge(&found, Ending::PowerLoss).unwrap_or_else(|what| panic!("{name}: {what}"));
        neighbour.append(batch("on"), client()).unwrap().wait_durable(LONG).unwrap();
        if found.contains_key("a-0") {
            handle.append(batch("on"), client()).unwrap().wait_durable(LONG).unwrap();
        } else {
            assert!(matches!(handle.log(), Err(Unavailable::Deleted)), "{name}");
        }
    }
}

/// Only a partition's own files fail: it alone is out of service, and its directory goes on.
#[test]
fn a_partition_that_fails_takes_nobody_with_it() {
    for call in CHANGES {
        let mut life = staged();
        let store = life.store();
        life.machine.fs.inject(Fault::new(call, Effect::Error(Errno::Eio)).path_contains("/data0/a-0/").always());
        life.machine.fs.inject(Fault::new(call, Effect::Error(Errno::Eio)).path_contains("/data0/a-0").always());
        for _ in 0..6 {
            let _ = life.append("a-0", 1, true);
        }
        wait_a_minute(&life, &store);
        assert!(store.directories().iter().all(|health| health.offline.is_none()), "{call:?}");
        life.append("b-0", 1, true).unwrap_or_else(|stop| panic!("{call:?}: {stop:?}"));
        life.machine.fs.clear_faults();
        store.reopen(&named("a-0")).unwrap();
        let found = super::judge::inventory(&store).unwrap();
        life.model.judge(&found, Ending::PowerLoss).unwrap_or_else(|what| panic!("{call:?}: {what}"));
        life.append("b-0", 1, true).unwrap();
    }
}

/// A partition is deleted while its files are being synced, under their old names: that is no failure of the disk.
#[test]
fn a_deletion_in_the_middle_of_a_sync_takes_no_directory_offline() {
    for part in ["/data0/a-0/0", "/data0/a-0/alluvium"] {
        let machine = Machine::new(1, 0);
        let gate = Arc::new(Gate::new(machine.fs.clone()));
        let environment = Environment { fs: Arc::clone(&gate) as _, clock: Arc::clone(&machine.clock) as _ };
        let store = machine.opening().environment(environment).open().unwrap();
        for name in ["a-0", "b-0"] {
            let options = alluvium::store::CreateOptions::new(super::machine::small()).in_dir(Path::new("/data0"));
            store.create(&named(name), options).unwrap();
        }
        let orders = store.get(&named("a-0")).unwrap();
        let appended: Vec<_> = (0..8).map(|_| orders.append(batch("v"), client()).unwrap()).collect();
        // The deletion lets the round come to its end.
        let (deleting, worker) = (store.clone(), Arc::new(std::sync::Mutex::new(None)));
        let started = Arc::clone(&worker);
        gate.before_next_sync_of(part, move || {
            let deletion = std::thread::spawn(move || deleting.delete(&named("a-0")).unwrap());
            *started.lock().unwrap() = Some(deletion);
        });
        // Either answer is right: it was made durable, or is gone.
        let _ = appended.last().unwrap().wait_durable(LONG);
        worker.lock().unwrap().take().expect("nothing was synced").join().unwrap();
        assert!(store.get(&named("a-0")).is_none(), "{part}");
        machine.clock.advance(Duration::from_secs(61));
        store.tick();
        assert!(store.directories().iter().all(|health| health.offline.is_none()), "{:?}", store.directories());
        let other = store.get(&named("b-0")).unwrap();
        other.append(batch("v"), client()).unwrap().wait_durable(LONG).unwrap();
        assert!(orders.read(Offset::ZERO, &alluvium::ReadOptions::default()).is_err());
    }
}
