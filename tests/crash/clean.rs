//! Cleaning, with every I/O step of it as a crash point, and with failing calls: whatever is left opens as a log that has
//! lost nothing which had to stay, and that a later cleaning brings to the same end.

mod faults;

use std::collections::BTreeSet;
use std::ops::Range;

use alluvium::fs::sim::{SimFs, Survival};

use crate::common::{digest, images, seeds};
use crate::support::clean::script::{CleanOp, MEMORY, Script, Style, ways};
use crate::support::clean::world::{CleanWorld, unlike_others};
use crate::support::clean::{consumer, standing};
use crate::support::history::Ending;
use crate::support::runner::Trouble;

const OPERATIONS: usize = 45;
/// Random images of a power loss at each step, besides the two extremes.
const RANDOM_IMAGES: u64 = 2;

/// How closely an image is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Contents,
    Everything,
}

/// Runs the script to its end; says which steps were taken in cleanings.
fn run_whole(script: &Script) -> (CleanWorld, Vec<Range<u64>>) {
    let mut world = CleanWorld::new(SimFs::new(script.seed), script.config.clone());
    world.options = ways(script.seed / WAY);
    let mut cleanings = Vec::new();
    let fail = |index: usize, trouble: Trouble| -> ! {
        panic!("seed {}, operation {index} {:?}: {trouble:?}", script.seed, script.ops.get(index))
    };
    world.reopen().unwrap_or_else(|trouble| fail(0, trouble));
    for (index, op) in script.ops.iter().enumerate() {
        let before = world.fs.steps();
        world.apply(op).unwrap_or_else(|trouble| fail(index, trouble));
        if matches!(op, CleanOp::Clean { .. }) {
            cleanings.push(before + 1..world.fs.steps() + 1);
        }
    }
    (world, cleanings)
}

/// Runs the script until the machine dies in `step`.
fn crashed_at(script: &Script, step: u64) -> CleanWorld {
    let fs = SimFs::new(script.seed);
    fs.crash_after(step);
    let mut world = CleanWorld::new(fs, script.config.clone());
    world.options = ways(script.seed / WAY);
    // The run to the end was watched.
    world.is_watchful = false;
    match world.run(script) {
        Ok(()) => panic!("seed {} step {step}: nothing crashed", script.seed),
        Err((index, Trouble::Wrong(what))) => {
            panic!("seed {} step {step}, operation {index} {:?}: {what}", script.seed, script.ops.get(index));
        }
        Err(_) => {}
    }
    assert!(world.fs.is_crashed(), "seed {} step {step}: trouble without a crash", script.seed);
    world
}

/// Opens `image` as the world that `before` was, and judges it.
fn accept(before: &CleanWorld, image: &SimFs, ending: Ending, depth: Depth) -> Result<CleanWorld, String> {
    let mut world = before.after(image.clone(), ending);
    world.reopen().map_err(|trouble| format!("{trouble:?}"))?;
    if depth == Depth::Everything {
        examine(&mut world)?;
    }
    Ok(world)
}

/// Everything that must hold of a log just opened, beyond its batches.
fn examine(world: &mut CleanWorld) -> Result<(), String> {
    let text = |what: &str, trouble: Trouble| format!("{what}: {trouble:?}");
    all_questions(world)?;
    let nothing_kept = world.fs.power_loss_keeping(Survival::Nothing);
    accept(world, &nothing_kept, Ending::PowerLoss, Depth::Contents)
        .map_err(|what| format!("power loss after opening: {what}"))?;
    world.apply(&CleanOp::DropAndOpen).map_err(|trouble| text("second opening", trouble))?;
    for round in 0..2 {
        world.apply(&unlike_others(round)).map_err(|trouble| text("appending", trouble))?;
        world.apply(&CleanOp::Roll).map_err(|trouble| text("rolling", trouble))?;
        world.apply(&CleanOp::Clean { memory: MEMORY }).map_err(|trouble| text("cleaning again", trouble))?;
    }
    all_questions(world)?;
    world.apply(&CleanOp::CloseAndOpen).map_err(|trouble| text("closing", trouble))?;
    all_questions(world)
}

fn all_questions(world: &CleanWorld) -> Result<(), String> {
    let log = world.log.as_ref().ok_or("no log is open")?;
    standing::compare(log, &world.story)?;
    let found = world.found().map_err(|trouble| format!("{trouble:?}"))?;
    consumer::compare_all(log, &world.story, &found)?;
    standing::compare_lookups(log, &world.story, &found)
}

fn check_step(script: &Script, step: u64) -> usize {
    let crashed = crashed_at(script, step);
    let mut seen = BTreeSet::new();
    for (index, (name, ending, image)) in images(&crashed.fs, step, RANDOM_IMAGES).into_iter().enumerate() {
        if !seen.insert(digest(&image, ending)) {
            continue;
        }
        let is_deep = (step + index as u64).is_multiple_of(7);
        let depth = if is_deep { Depth::Everything } else { Depth::Contents };
        if let Err(what) = accept(&crashed, &image, ending, depth) {
            panic!("seed {} step {step} {name}: {what}", script.seed);
        }
    }
    seen.len()
}

/// Seeds from a multiple of this on are cleaned in the way of that number.
const WAY: u64 = 100_000;

fn script(seed: u64) -> Script {
    Script::from_seed(seed, OPERATIONS, Style::Crashing)
}

#[test]
fn every_step_of_a_cleaning_is_a_crash_that_loses_nothing() {
    // In memory; spilling in small groups; partial.
    for (way, seed) in [0, 5, 6].into_iter().flat_map(|way| seeds(2).map(move |seed| (way, seed))) {
        let script = script(way * WAY + 70_000 + seed);
        let (_, cleanings) = run_whole(&script);
        let steps: Vec<u64> = cleanings.into_iter().flatten().collect();
        let images: usize = steps.iter().map(|step| check_step(&script, *step)).sum();
        println!("way {way}, seed {seed}: {} steps in cleanings, {images} different images", steps.len());
    }
}

/// What was cleaned is looked at again after crashes in whatever follows: appends, rolls, truncations, a raised log start.
#[test]
fn steps_between_cleanings_are_crashes_that_lose_nothing() {
    for seed in seeds(1) {
        let script = script(71_000 + seed);
        let steps = run_whole(&script).0.fs.steps();
        let images: usize = (1..=steps).filter(|step| step % 9 == seed % 9).map(|step| check_step(&script, step)).sum();
        println!("seed {seed}: {steps} steps, {images} different images");
    }
}

/// Crashes in every step of the opening that follows a crash in a cleaning.
fn check_second_crashes(script: &Script, step: u64) -> usize {
    let crashed = crashed_at(script, step);
    let mut all = images(&crashed.fs, step, RANDOM_IMAGES);
    let (first, ending, image) = all.swap_remove((step / 3) as usize % all.len());
    // A world after a kill is a copy of this one: nothing of it is lost.
    let rehearsal = image.kill();
    let mut world = crashed.after(rehearsal.clone(), ending);
    world.is_watchful = false;
    if let Err(trouble) = world.reopen() {
        panic!("seed {} step {step} {first}: {trouble:?}", script.seed);
    }
    let mut judged = 0;
    for second in 1..=rehearsal.steps() {
        let fs = image.kill();
        fs.crash_after(second);
        let mut opening = crashed.after(fs.clone(), ending);
        opening.is_watchful = false;
        if let Err(Trouble::Wrong(what)) = opening.reopen() {
            panic!("seed {} step {step} {first}, then step {second}: {what}", script.seed);
        }
        let mut seen = BTreeSet::new();
        for (index, (name, later, image)) in images(&fs, step + second, 2).into_iter().enumerate() {
            let ending = ending.min(later);
            if !seen.insert(digest(&image, ending)) {
                continue;
            }
            let is_deep = (second + index as u64).is_multiple_of(13);
            let depth = if is_deep { Depth::Everything } else { Depth::Contents };
            if let Err(what) = accept(&crashed, &image, ending, depth) {
                panic!("seed {} step {step} {first}, then step {second} {name}: {what}", script.seed);
            }
        }
        judged += seen.len();
    }
    judged
}

#[test]
fn a_second_crash_while_recovering_from_one_in_a_cleaning_loses_nothing_more() {
    for seed in seeds(1) {
        let script = script(72_000 + seed);
        let (_, cleanings) = run_whole(&script);
        let steps = cleanings.into_iter().flatten().filter(|step| step % 12 == seed % 12);
        let images: usize = steps.map(|step| check_second_crashes(&script, step)).sum();
        println!("seed {seed}: {images} different images after a second crash");
    }
}

/// A pass that a crash interrupts again and again goes on where it was, and comes to its end.
#[test]
fn a_cleaning_that_is_killed_over_and_over_comes_to_its_end() {
    for seed in seeds(20) {
        let script = script(73_000 + seed);
        let (whole, _) = run_whole(&script);
        let mut world = whole.after(whole.fs.kill(), Ending::Kill);
        world.reopen().unwrap();
        world.apply(&unlike_others(seed)).unwrap();
        world.apply(&CleanOp::Roll).unwrap();
        // Each life is a little longer than the one before.
        for life in (3..).step_by(3) {
            assert!(life < 3000, "seed {seed}: it never ends");
            world.fs.crash_after(world.fs.steps() + life);
            let cleaned = world.apply(&CleanOp::Clean { memory: MEMORY });
            if !world.fs.is_crashed() {
                cleaned.unwrap_or_else(|trouble| panic!("seed {seed}, life {life}: {trouble:?}"));
                break;
            }
            if let Err(Trouble::Wrong(what)) = cleaned {
                panic!("seed {seed}, life {life}: {what}");
            }
            world = world.after(world.fs.kill(), Ending::Kill);
            world.reopen().unwrap_or_else(|trouble| panic!("seed {seed}, after life {life}: {trouble:?}"));
        }
        all_questions(&world).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

/// The same seed twice makes the same calls, also where the keys of the hash are drawn at random.
#[test]
fn a_cleaning_is_repeated_call_by_call() {
    for seed in 0..4 {
        let script = script(74_000 + seed);
        let (once, twice) = (run_whole(&script).0.fs, run_whole(&script).0.fs);
        assert_eq!((once.steps(), once.trace_hash()), (twice.steps(), twice.trace_hash()), "seed {seed}");
    }
}
