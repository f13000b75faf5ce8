//! Random operations on compacted logs, cleaned now and then: whatever happens, the log shows what the naive model, which
//! never forgets anything, says that it must show.

mod big;
mod changes;
mod stories;

use alluvium::fs::sim::{SimConfig, SimFs};

use crate::support::clean::script::{CleanOp, MEMORY, Script, Style, ways};
use crate::support::clean::world::{CleanWorld, unlike_others};
use crate::support::clean::{consumer, judge, standing};
use crate::support::runner::Trouble;

const OPERATIONS: usize = 60;

fn seeds(few: u64) -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

fn shaky(seed: u64) -> SimFs {
    SimFs::with_config(seed, SimConfig { short_transfers: true, interrupts: true, ..SimConfig::default() })
}

/// Cleanings with time between them, until nothing is left to go, and then every question there is.
fn converge(world: &mut CleanWorld) -> Result<(), Trouble> {
    // Whatever is open is ended first, and replicated, or it would keep the cleaner from all that lies behind it.
    for producer in world.story.naive().producers() {
        if producer.open.is_some() {
            world.apply(&CleanOp::End { producer: producer.id, commit: true, is_new_epoch: false })?;
        }
    }
    for round in 0..5 {
        world.apply(&unlike_others(round))?;
        world.apply(&CleanOp::Roll)?;
        world.apply(&CleanOp::Replicate { back: 0 })?;
        world.apply(&CleanOp::Tick { ms: 70_000 })?;
        world.apply(&CleanOp::Clean { memory: MEMORY })?;
    }
    Ok(())
}

/// Everything that can be asked of the log.
fn examine(world: &CleanWorld) -> Result<(), String> {
    let log = world.log.as_ref().ok_or("no log is open")?;
    let found = judge::everything(log)?;
    consumer::compare_all(log, &world.story, &found)?;
    standing::compare_lookups(log, &world.story, &found)
}

fn check(seed: u64) -> Result<CleanWorld, String> {
    let script = Script::from_seed(seed, OPERATIONS, Style::Mixed);
    let mut world = CleanWorld::new(shaky(seed), script.config.clone());
    world.options = ways(seed);
    world.run(&script).map_err(|(index, trouble)| {
        let op = script.ops.get(index);
        format!("operation {index} {op:?}: {trouble:?}")
    })?;
    examine(&world)?;
    converge(&mut world).map_err(|trouble| format!("converging: {trouble:?}"))?;
    examine(&world)?;
    let found = world.found().map_err(|trouble| format!("{trouble:?}"))?;
    judge::has_converged(&found, &world.story)?;
    world.apply(&CleanOp::CloseAndOpen).map_err(|trouble| format!("closing: {trouble:?}"))?;
    examine(&world)?;
    Ok(world)
}

#[test]
fn a_log_that_is_cleaned_shows_what_the_model_does() {
    let (mut passes, mut freed) = (0, 0);
    let mut modes = [0; 3];
    for seed in seeds(1000) {
        match check(seed) {
            Ok(world) => {
                for cleaned in &world.cleaned {
                    modes[cleaned.mode as usize] += cleaned.passes;
                }
                passes += world.cleaned.iter().map(|cleaned| u64::from(cleaned.passes)).sum::<u64>();
                freed += world.cleaned.iter().map(|cleaned| cleaned.bytes_freed).sum::<u64>();
            }
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    println!("{passes} passes freed {freed} bytes; in memory, spilling, partial: {modes:?}");
    assert!(modes.iter().all(|passes| *passes > 0), "{modes:?}");
    assert!(passes > 0 && freed > 0, "{passes} passes freed {freed} bytes");
}
