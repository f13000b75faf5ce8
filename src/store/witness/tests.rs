use super::*;
use crate::fs::sim::{SimFs, Survival};
use crate::fs::{self, OpenMode};
use crate::index::replace_small_file;
use crate::log::directory::Lineage;
use crate::store::names::{CLEAN_SHUTDOWN, CheckpointKind};
use crate::store::{mark_clean_shutdown, remove_clean_shutdown};

const POINTS: &str = CheckpointKind::RecoveryPoint.file_name();
const STARTS: &str = CheckpointKind::LogStart.file_name();
const OURS: &[u8] = b"{\"version\":0,\"brokerEpoch\":-1}";

fn dir() -> &'static Path {
    Path::new("/data")
}

fn world() -> SimFs {
    let fs = SimFs::new(7);
    fs.create_dir(dir()).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn word(fs: &SimFs) -> DirectoryWord {
    DirectoryWord::read(fs, dir()).unwrap()
}

/// What a broker does that starts, writes its lists and dies.
fn kafka_was_here(fs: &SimFs, points: &[u8]) {
    remove_clean_shutdown(fs, dir()).unwrap();
    replace_small_file(fs, dir(), POINTS, points).unwrap();
    replace_small_file(fs, dir(), STARTS, b"0\n0\n").unwrap();
}

/// A store's whole life: begins, removes the marker, writes its lists, closes.
fn life(fs: &SimFs, list: &[u8]) -> Result<Lineage, IoFailure> {
    let mut witness = StoreWitness::begin(fs, dir(), &DirectoryWord::read(fs, dir())?)?;
    remove_clean_shutdown(fs, dir())?;
    for round in [list, &[list, b" "].concat()] {
        witness.announce(fs, &[(Part::RecoveryPoints, Some(round)), (Part::LogStarts, Some(list))])?;
        replace_small_file(fs, dir(), POINTS, round)?;
        replace_small_file(fs, dir(), STARTS, list)?;
        witness.settled();
    }
    witness.announce_close(fs, &[(Part::Marker, Some(OURS))])?;
    mark_clean_shutdown(fs, dir())?;
    witness.closed(fs)?;
    Ok(witness.lineage())
}

#[test]
fn lives_of_one_store_are_one_lineage() {
    let fs = world();
    kafka_was_here(&fs, b"0\n1\nkafka 0 3\n");
    let found = word(&fs).lineage;
    let first = life(&fs, b"0\n1\norders 0 1\n").unwrap();
    assert_eq!(first, found, "partitions opened alone before the store came are of it");
    assert!(word(&fs).is_unbroken && word(&fs).witness.unwrap().is_closed);
    assert_eq!(life(&fs, b"0\n1\norders 0 2\n").unwrap(), first);
    assert_eq!(word(&fs).witness.unwrap().incarnation, 2);
    kafka_was_here(&fs, b"0\n1\norders 0 2\n");
    assert!(!word(&fs).is_unbroken);
    let alone = word(&fs).lineage;
    let second = life(&fs, b"0\n1\norders 0 2\n").unwrap();
    assert_eq!(second, alone);
    assert_ne!(second, first);
}

/// A broker that starts and stops and changes no offset leaves its own epoch in the marker.
#[test]
fn a_broker_that_changed_nothing_shows_all_the_same() {
    let fs = world();
    let first = life(&fs, b"0\n0\n").unwrap();
    replace_small_file(&fs, dir(), CLEAN_SHUTDOWN, b"{\"version\":0,\"brokerEpoch\":12}").unwrap();
    assert_ne!(word(&fs).lineage, first);
    // And one that died.
    let fs = world();
    let first = life(&fs, b"0\n0\n").unwrap();
    fs.remove_file(&dir().join(CLEAN_SHUTDOWN)).unwrap();
    assert_ne!(word(&fs).lineage, first);
}

/// Whatever a crash leaves of a life, the next one knows it for its own.
#[test]
fn a_crash_at_every_step_leaves_a_print_that_is_known() {
    let ready = world();
    kafka_was_here(&ready, b"0\n1\nkafka 0 3\n");
    let lineage = life(&ready, b"0\n1\norders 0 1\n").unwrap();
    let mut steps = 0;
    loop {
        let fs = ready.kill();
        fs.crash_after(steps);
        let is_over = life(&fs, b"0\n1\norders 0 2\n").is_ok();
        for seed in 0..4 {
            let after = if seed == 0 { fs.kill() } else { fs.power_loss(seed) };
            assert_eq!(word(&after).lineage, lineage, "after {steps} steps, {seed}");
        }
        if is_over {
            break;
        }
        steps += 1;
    }
    assert!(steps > 20, "{steps}");
}

/// From a directory that Kafka left, too: begun, interrupted and begun again it is one lineage.
#[test]
fn taking_over_may_be_interrupted_at_every_step() {
    let ready = world();
    kafka_was_here(&ready, b"0\n1\nkafka 0 3\n");
    mark_clean_shutdown(&ready, dir()).unwrap();
    let lineage = word(&ready).lineage;
    for steps in 0..60 {
        let fs = ready.kill();
        fs.crash_after(steps);
        drop(life(&fs, b"0\n1\norders 0 2\n"));
        for after in [fs.kill(), fs.power_loss(steps), fs.power_loss_keeping(Survival::Nothing)] {
            assert_eq!(word(&after).lineage, lineage, "after {steps} steps");
        }
    }
}

#[test]
fn what_does_not_change_is_not_announced() {
    let fs = world();
    let mut witness = StoreWitness::begin(&fs, dir(), &word(&fs)).unwrap();
    assert_eq!(witness.incarnation(), 1);
    let list = b"0\n0\n";
    witness.announce(&fs, &[(Part::RecoveryPoints, Some(list))]).unwrap();
    replace_small_file(&fs, dir(), POINTS, list).unwrap();
    witness.settled();
    let steps = fs.steps();
    witness.announce(&fs, &[(Part::RecoveryPoints, Some(list))]).unwrap();
    assert_eq!(fs.steps(), steps);
}

/// Replacements that fail again and again, each with other content: what stands on disk is among what was announced.
#[test]
fn failures_in_a_row_are_bounded() {
    let fs = world();
    let mut witness = StoreWitness::begin(&fs, dir(), &word(&fs)).unwrap();
    for round in 0..300_u32 {
        let list = round.to_be_bytes();
        witness.announce(&fs, &[(Part::RecoveryPoints, Some(&list)), (Part::LogStarts, Some(&list))]).unwrap();
    }
    assert!(word(&fs).is_unbroken || witness.possible.len() == POSSIBLE_MAX + 1);
    replace_small_file(&fs, dir(), POINTS, &299_u32.to_be_bytes()).unwrap();
    replace_small_file(&fs, dir(), STARTS, &299_u32.to_be_bytes()).unwrap();
    assert!(word(&fs).is_unbroken, "the newest is always known");
    let file = fs.open(&dir().join(crate::segment::names::STORE_WITNESS), OpenMode::Read).unwrap();
    let mut bytes = [0; 4096];
    assert!(fs::read_full_at(&*file, &mut bytes, 0).unwrap() < 4096);
}
