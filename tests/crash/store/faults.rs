//! Every I/O call of a store's great moments fails, once or from then on, with an error of the disk or a full one.

use std::time::Duration;

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival};

use super::judge::{accept, inventory};
use super::machine::{LONG, Machine, at, batch, client, dirs, named};
use super::model::{Ending, Phase};
use super::script::{Life, Stop};
use alluvium::store::{Store, TopicId};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    OpenAfterKill,
    OpenAfterClose,
    Create,
    Delete,
    Move,
    Checkpoint,
    Close,
}

const MOMENTS: [Moment; 7] = [
    Moment::OpenAfterKill,
    Moment::OpenAfterClose,
    Moment::Create,
    Moment::Delete,
    Moment::Move,
    Moment::Checkpoint,
    Moment::Close,
];

const CALLS: [FaultOn; 12] = [
    FaultOn::Open,
    FaultOn::Create,
    FaultOn::Read,
    FaultOn::Write,
    FaultOn::SetLen,
    FaultOn::SyncData,
    FaultOn::SyncDir,
    FaultOn::Rename,
    FaultOn::Remove,
    FaultOn::CreateDir,
    FaultOn::List,
    FaultOn::Metadata,
];

/// Those that take space.
const GROWING: [FaultOn; 5] = [FaultOn::Create, FaultOn::Write, FaultOn::SyncData, FaultOn::CreateDir, FaultOn::SetLen];

impl Moment {
    /// A store right before the moment.
    fn stage(self, reserve_bytes: u64) -> Life {
        let mut life = Life::new(Machine::new(1, reserve_bytes));
        let mut staged = || -> Result<(), Stop> {
            life.open()?;
            life.create("a-0", 0, Some(TopicId::from_random(1)))?;
            life.create("b-0", 0, None)?;
            life.create("k-0", 1, None)?;
            life.append("a-0", 6, true)?;
            life.append("b-0", 2, true)?;
            life.append("k-0", 1, true)?;
            life.tick(Duration::ZERO)?;
            if self != Self::OpenAfterClose {
                life.append("a-0", 2, false)?;
            }
            match self {
                Self::OpenAfterClose => life.close()?,
                Self::OpenAfterKill => {
                    life.model.phase = Phase::AtRest;
                    life.store = None;
                }
                _ => {}
            }
            Ok(())
        };
        if let Err(stop) = staged() {
            panic!("{self:?}: {stop:?}");
        }
        if self.is_opening() {
            life.machine = life.machine.killed();
        }
        life
    }

    fn is_opening(self) -> bool {
        matches!(self, Self::OpenAfterClose | Self::OpenAfterKill)
    }

    fn come(self, life: &mut Life) -> Result<(), Stop> {
        match self {
            Self::OpenAfterKill | Self::OpenAfterClose => life.open(),
            Self::Create => life.create("c-0", 0, Some(TopicId::from_random(2))),
            Self::Delete => life.delete("a-0"),
            Self::Move => life.move_quickly("a-0", 1),
            Self::Checkpoint => {
                life.pass(Duration::from_secs(61));
                Ok(())
            }
            Self::Close => life.close(),
        }
    }

    /// How often each call on the first directory is made.
    fn calls(self, reserve_bytes: u64) -> Vec<(FaultOn, u64)> {
        let mut life = self.stage(reserve_bytes);
        life.machine.fs.record_trace(true);
        if let Err(stop) = self.come(&mut life) {
            panic!("{self:?}: {stop:?}");
        }
        let trace = life.machine.fs.trace();
        let is_there = |path: &std::path::Path| path.starts_with("/data0");
        let count = |call: FaultOn| {
            let calls = trace.iter().filter(|event| event.operation == call);
            calls.filter(|event| is_there(&event.path) || event.to.as_deref().is_some_and(is_there)).count() as u64
        };
        CALLS.iter().map(|call| (*call, count(*call))).collect()
    }
}

/// One fault, and what is wrong with what comes of it.
fn strike(moment: Moment, fault: &Fault, reserve_bytes: u64) -> Result<(), String> {
    let mut life = moment.stage(reserve_bytes);
    life.machine.fs.inject(fault.clone());
    let came = moment.come(&mut life);
    if let Some(store) = life.store.clone() {
        while_it_lasts(&mut life, &store, moment, fault)?;
    }
    let is_refused = came.is_err();
    life.machine.fs.clear_faults();
    if let Some(store) = life.store.clone() {
        when_it_is_over(&life, &store, moment, is_refused)?;
    }
    let asleep = life.machine.killed();
    let dark = life.machine.powerless(Survival::Nothing);
    life.model.phase = Phase::AtRest;
    // Pages that a failed sync dropped are gone with the process, too.
    for (name, machine) in [("kill", asleep), ("power loss", dark)] {
        accept(&machine, &life.model, Ending::PowerLoss).map_err(|what| format!("after a {name}: {what}"))?;
    }
    Ok(())
}

fn while_it_lasts(life: &mut Life, store: &Store, moment: Moment, fault: &Fault) -> Result<(), String> {
    let is_full = fault.effect == Effect::Error(Errno::Enospc);
    let health = store.directories();
    if let Some(failure) = &health[1].offline {
        return Err(format!("the other directory is offline: {failure}"));
    }
    // One in which nothing at all can be written cannot be taken over.
    let is_beyond_use = is_full && moment.is_opening() && fault.times == u64::MAX && fault.skip == 0;
    if let Some(failure) = health[0].offline.as_ref().filter(|_| is_full && !is_beyond_use) {
        return Err(format!("a full disk took the directory offline: {failure}"));
    }
    life.append("k-0", 1, true).map_err(|stop| format!("the other directory is not served: {stop:?}"))?;
    store.tick();
    Ok(())
}

/// Everything comes back without another process.
fn when_it_is_over(life: &Life, store: &Store, moment: Moment, is_refused: bool) -> Result<(), String> {
    life.machine.clock.advance(Duration::from_secs(6));
    let health = store.directories();
    if health[0].offline.is_some() {
        store.reopen_dir(&dirs()[0]).map_err(|error| format!("it does not come back: {error}"))?;
    }
    store.tick();
    for name in store.partitions() {
        let partition = store.get(&name).unwrap();
        if partition.log().is_err() || partition.log().unwrap().health().failed.is_some() {
            let reopened = store.reopen(&name);
            if moment == Moment::Move && is_refused && reopened.is_err() {
                // A move that stopped halfway says that the store has to be opened again.
                return Ok(());
            }
            reopened.map_err(|error| format!("{name} does not come back: {error}"))?;
        }
    }
    let found = inventory(store)?;
    life.model.judge(&found, Ending::PowerLoss)?;
    for name in found.keys() {
        if !found[name].is_sealed {
            let log = store.get(&named(name)).unwrap().log().map_err(|error| error.to_string())?;
            let appended = log.append(batch("later"), client()).map_err(|error| format!("{name}: {error}"))?;
            appended.wait_durable(LONG).map_err(|error| format!("{name}: {error}"))?;
            log.truncate_to(at(found[name].start + found[name].values.len()))
                .map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok(())
}

fn every_call(errno: Errno, calls: &[FaultOn], reserve_bytes: u64, every: u64) {
    let (mut struck, mut wrong) = (0, Vec::new());
    for moment in MOMENTS {
        for (call, count) in moment.calls(reserve_bytes) {
            if !calls.contains(&call) {
                continue;
            }
            // What becomes of names is the hardest to get right.
            let is_hard = matches!(call, FaultOn::SyncDir | FaultOn::Rename | FaultOn::Create);
            for skip in (0..count).filter(|skip| is_hard || skip % every == 0) {
                let fault = Fault::new(call, Effect::Error(errno)).path_contains("/data0").skip(skip);
                for fault in [fault.clone(), fault.always()] {
                    struck += 1;
                    let outcome = std::panic::catch_unwind(|| strike(moment, &fault, reserve_bytes));
                    let outcome = outcome.unwrap_or_else(|_| Err("it panicked".into()));
                    if let Err(what) = outcome {
                        wrong.push(format!("{moment:?} {call:?} {skip} of {count} x{}: {what}", fault.times));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {struck} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every how many calls one is struck.
fn sample(every: u64) -> u64 {
    if std::env::var("ALLUVIUM_SEEDS").is_ok() { 1 } else { every }
}

#[test]
fn a_disk_that_fails_in_any_call_costs_one_directory_and_nothing_durable() {
    every_call(Errno::Eio, &CALLS, 0, sample(5));
}

#[test]
fn a_disk_that_is_full_in_any_call_costs_nothing() {
    every_call(Errno::Enospc, &GROWING, 0, sample(3));
}

#[test]
fn a_disk_that_is_full_in_any_call_costs_nothing_with_a_reserve() {
    every_call(Errno::Enospc, &GROWING, 4096, sample(7));
}

/// Not a byte more than the files have: what is written anew has no room, what is overwritten has.
#[test]
fn a_store_opens_on_a_disk_without_room() {
    for (moment, reserve_bytes) in
        [(Moment::OpenAfterKill, 0), (Moment::OpenAfterKill, 4096), (Moment::OpenAfterClose, 4096)]
    {
        let mut life = moment.stage(reserve_bytes);
        let capacity = used(&life.machine.fs);
        life.machine.fs.set_capacity(Some(capacity));
        let opened = life.open();
        assert!(opened.is_ok(), "{moment:?}: {opened:?}");
        let store = life.store.clone().unwrap();
        assert!(
            store.directories().iter().all(|health| health.offline.is_none()),
            "{moment:?}, {reserve_bytes} in reserve: {:?}",
            store.directories()
        );
        let found = inventory(&store).unwrap();
        life.model.judge(&found, Ending::Kill).unwrap();
        // Deleting is how room is made.
        life.delete("a-0").unwrap();
        life.pass(Duration::from_secs(61));
        life.pass(Duration::from_secs(61));
        life.machine.fs.set_capacity(None);
        life.pass(Duration::from_secs(6));
        life.append("b-0", 1, true).unwrap();
        let next = life.machine.killed();
        accept(&next, &life.model, Ending::Kill).unwrap_or_else(|what| panic!("{moment:?}: {what}"));
    }
}

fn used(fs: &SimFs) -> u64 {
    fs.set_capacity(Some(1 << 40));
    (1 << 40) - fs.free_bytes().unwrap()
}
