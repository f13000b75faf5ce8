//! Calls that fail while a log is cleaned: a cleaning that is not done says so, leaves a whole log and nothing beside it,
//! and is done when the fault is gone.

use alluvium::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs};

use super::{all_questions, run_whole, script};
use crate::common::seeds;
use crate::support::clean::script::{CleanOp, MEMORY};
use crate::support::clean::standing;
use crate::support::clean::world::{CleanWorld, unlike_others};
use crate::support::history::Ending;
use crate::support::runner::Trouble;

/// A log with something to clean, open.
fn dirty(seed: u64) -> CleanWorld {
    let (whole, _) = run_whole(&script(seed));
    let mut world = whole.after(whole.fs.kill(), Ending::Kill);
    world.reopen().unwrap();
    for round in 0..12 {
        world.apply(&unlike_others(round % 3)).unwrap();
        if round % 4 == 3 {
            world.apply(&CleanOp::Roll).unwrap();
        }
    }
    world
}

/// Cleans under the fault. Returns whether it struck.
fn strike(world: &mut CleanWorld, fault: Fault, what: &str) -> bool {
    let handles = world.fs.open_handles();
    world.is_watchful = false;
    world.fs.inject(fault);
    let outcome = world.apply(&CleanOp::Clean { memory: MEMORY });
    world.fs.clear_faults();
    world.is_watchful = true;
    let is_latched = world.log.as_ref().is_some_and(|log| log.health().failed.is_some());
    match outcome {
        Ok(()) => {}
        Err(Trouble::Refused(_)) if !is_latched => {
            // Staging is dropped on every path out, and so are descriptors: a few may be held for reading.
            assert!(world.fs.open_handles() <= handles + 8, "{what}: {handles} before, {}", world.fs.open_handles());
        }
        Err(Trouble::Refused(_) | Trouble::Latched(_)) if is_latched => {
            world.reopen().unwrap_or_else(|trouble| panic!("{what}, opening: {trouble:?}"));
        }
        Err(trouble) => panic!("{what}: {trouble:?}"),
    }
    let struck = !matches!(outcome, Ok(()));
    world.judge().unwrap_or_else(|wrong| panic!("{what}, after the fault: {wrong}"));
    let again = world.apply(&CleanOp::Clean { memory: MEMORY });
    again.unwrap_or_else(|trouble| panic!("{what}, cleaning again: {trouble:?}"));
    all_questions(world).unwrap_or_else(|wrong| panic!("{what}, cleaned again: {wrong}"));
    let closed = world.apply(&CleanOp::CloseAndOpen);
    closed.unwrap_or_else(|trouble| panic!("{what}, closing: {trouble:?}"));
    standing::verify(&world.fs).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    struck
}

fn every_call(seed: u64, operation: FaultOn, effect: Effect) -> u64 {
    let mut world = dirty(seed);
    let image = world.fs.kill();
    let mut struck = 0;
    for skip in 0..400 {
        // The log is open in each world, as it was.
        let mut repeated = world.after(image.kill(), Ending::Kill);
        repeated.reopen().unwrap();
        let what = format!("seed {seed}, {operation:?} {skip} {effect:?}");
        let fault = Fault::new(operation, effect).path_contains("orders-0").skip(skip);
        if !strike(&mut repeated, fault, &what) && skip > 3 {
            break;
        }
        struck += 1;
    }
    world.log = None;
    struck
}

#[test]
fn every_failing_write_leaves_a_log_that_is_cleaned_later() {
    for seed in seeds(2) {
        let eio = every_call(75_000 + seed, FaultOn::Write, Effect::Error(Errno::Eio));
        let full = every_call(75_000 + seed, FaultOn::Write, Effect::Error(Errno::Enospc));
        assert!(eio > 3 && full > 3, "{eio} and {full} writes failed");
    }
}

#[test]
fn every_failing_sync_leaves_a_log_that_is_cleaned_later() {
    for seed in seeds(2) {
        for effect in [Effect::SyncDropsPages, Effect::SyncKeepsPages] {
            let data = every_call(76_000 + seed, FaultOn::SyncData, effect);
            let dirs = every_call(76_000 + seed, FaultOn::SyncDir, effect);
            assert!(data + dirs > 1, "{data} and {dirs} syncs failed");
        }
    }
}

#[test]
fn every_failing_read_and_name_leaves_a_log_that_is_cleaned_later() {
    for seed in seeds(2) {
        for operation in
            [FaultOn::Read, FaultOn::Open, FaultOn::Create, FaultOn::Rename, FaultOn::Remove, FaultOn::SetLen]
        {
            every_call(77_000 + seed, operation, Effect::Error(Errno::Eio));
        }
    }
}

/// The disk has less and less room; with none at all the cleaning says so, and with a little it goes on group by group.
#[test]
fn a_disk_that_is_nearly_full_is_cleaned_or_told_of() {
    for seed in seeds(4) {
        let world = dirty(78_000 + seed);
        let image = world.fs.kill();
        let mut done = 0;
        for room in [0, 100, 500, 1000, 3000, 20_000] {
            let mut repeated = world.after(image.kill(), Ending::Kill);
            repeated.reopen().unwrap();
            let used = used(&repeated.fs);
            repeated.fs.set_capacity(Some(used + room));
            let outcome = repeated.apply(&CleanOp::Clean { memory: MEMORY });
            match outcome {
                Ok(()) => done += 1,
                Err(Trouble::Refused(_)) => {}
                Err(Trouble::Latched(_)) => panic!("seed {seed}, {room} bytes of room: a full disk latched the log"),
                Err(trouble) => panic!("seed {seed}, {room} bytes of room: {trouble:?}"),
            }
            repeated.judge().unwrap_or_else(|what| panic!("seed {seed}, {room} bytes of room: {what}"));
            repeated.fs.set_capacity(None);
            let again = repeated.apply(&CleanOp::Clean { memory: MEMORY });
            again.unwrap_or_else(|trouble| panic!("seed {seed}, room again: {trouble:?}"));
        }
        assert!(done > 0, "seed {seed}: 20,000 bytes suffice for any group of these segments");
    }
}

/// What the files of the machine take up.
fn used(fs: &SimFs) -> u64 {
    fs.set_capacity(Some(1 << 40));
    (1 << 40) - fs.free_bytes().unwrap()
}
