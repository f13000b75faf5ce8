//! What a directory's lists say while others cut, delete and collect.

use super::*;
use crate::clock::SystemClock;

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn named(number: i32) -> TopicPartition {
    TopicPartition::new("orders", number).unwrap()
}

fn points(said: &[(i32, i64)]) -> Vec<(CheckpointKind, BTreeMap<TopicPartition, Offset>)> {
    let offsets = said.iter().map(|(number, offset)| (named(*number), at(*offset))).collect();
    vec![(CheckpointKind::RecoveryPoint, offsets)]
}

fn world() -> (tempfile::TempDir, Directory) {
    let temp = tempfile::tempdir().unwrap();
    let environment = Environment { clock: Arc::new(SystemClock::new()), ..Environment::default() };
    let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::new(temp.path()) };
    let registry = DirectoryRegistry::separate();
    let (directory, _) = Directory::open(&environment, &config, temp.path(), &registry).unwrap();
    directory.enter(Duration::ZERO).unwrap();
    (temp, directory)
}

fn on_disk(directory: &Directory) -> Vec<(i32, i64)> {
    let list = OffsetCheckpoint::read(&*directory.fs, &directory.path, CheckpointKind::RecoveryPoint).unwrap();
    list.offsets().map(|(name, offset)| (name.partition(), offset.value())).collect()
}

#[test]
fn what_is_cut_or_deleted_while_offsets_are_collected_is_not_said() {
    let (_temp, directory) = world();
    directory.say(points(&[(0, 10), (1, 10), (2, 10)])).unwrap();
    let collecting = directory.collect();
    let late = directory.collect();
    // As they were, before the next lines.
    let seen = points(&[(0, 100), (1, 100), (2, 100), (3, 100)]);
    directory.lower_recovery_point(&named(0), at(50)).unwrap();
    directory.lower_recovery_point(&named(0), at(70)).unwrap();
    directory.lower_recovery_point(&named(2), at(5)).unwrap();
    directory.forget(&named(1)).unwrap();
    directory.lower_recovery_point(&named(1), at(0)).unwrap();
    assert_eq!(on_disk(&directory), [(0, 10), (2, 5)]);
    collecting.say(seen.clone()).unwrap();
    assert_eq!(on_disk(&directory), [(0, 50), (2, 5), (3, 100)]);
    drop(collecting);
    late.say(seen.clone()).unwrap();
    assert_eq!(on_disk(&directory), [(0, 50), (2, 5), (3, 100)]);
    drop(late);
    // Whoever begins after the cut sees what came after it.
    directory.collect().say(seen).unwrap();
    assert_eq!(on_disk(&directory), [(0, 100), (1, 100), (2, 100), (3, 100)]);
}

#[test]
fn a_list_that_cannot_be_written_says_what_it_did_and_a_closed_directory_is_left_alone() {
    let (temp, directory) = world();
    directory.say(points(&[(0, 10)])).unwrap();
    let aside = temp.path().join("recovery-point-offset-checkpoint.tmp");
    directory.fs.create_dir(&aside).unwrap();
    assert!(directory.lower_recovery_point(&named(0), at(5)).is_err());
    assert_eq!(directory.offset(CheckpointKind::RecoveryPoint, &named(0)), Some(at(10)));
    directory.fs.remove_dir(&aside).unwrap();
    directory.lower_recovery_point(&named(0), at(5)).unwrap();
    assert_eq!(on_disk(&directory), [(0, 5)]);
    directory.close();
    assert!(directory.lower_recovery_point(&named(0), at(1)).is_err(), "it may be another store's by now");
    assert_eq!(on_disk(&directory), [(0, 5)]);
}

/// What a cut in one of ten thousand partitions costs above the log, alone and with others.
#[test]
#[ignore = "a measurement: run it alone, optimised"]
fn cost_of_cuts_in_a_long_list() {
    const PARTITIONS: i32 = 10_000;
    let (_temp, directory) = world();
    let all: Vec<(i32, i64)> = (0..PARTITIONS).map(|number| (number, 1000)).collect();
    directory.say(points(&all)).unwrap();
    let clock = SystemClock::new();
    let clock: &dyn crate::clock::Clock = &clock;
    let begun = clock.monotonic();
    for number in 0..100 {
        directory.lower_recovery_point(&named(number), at(500)).unwrap();
    }
    println!("one after the other: {:?} each", clock.monotonic().saturating_sub(begun) / 100);
    let begun = clock.monotonic();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let directory = &directory;
            scope.spawn(move || {
                for number in 0..25 {
                    let number = 1000 + thread * 25 + number;
                    directory.lower_recovery_point(&named(number), at(500)).unwrap();
                }
            });
        }
    });
    println!("sixteen at once: {:?} each", clock.monotonic().saturating_sub(begun) / 400);
    let begun = clock.monotonic();
    for number in 5000..5100 {
        directory.forget(&named(number)).unwrap();
    }
    println!("forgotten: {:?} each", clock.monotonic().saturating_sub(begun) / 100);
}
