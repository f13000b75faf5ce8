//! A disk that fills and empties, in the simulator: every byte of it is counted there.

use super::*;
use crate::fs::OsFileSystem;
use crate::fs::sim::{Effect, Errno, Fault, FaultOn, SimFs, Survival, is_crash};
use crate::fs::write_all_at;

const CAPACITY: u64 = 10_000;
const LIMITS: SpaceLimits =
    SpaceLimits { floor_bytes: 1000, floor_permille: 0, margin_bytes: 500, reserve_bytes: 2000 };
const SECOND: Duration = Duration::from_secs(1);

fn dir() -> &'static Path {
    Path::new("/data")
}

fn world(seed: u64) -> SimFs {
    let fs = SimFs::new(seed);
    fs.create_dir(dir()).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs.set_capacity(Some(CAPACITY));
    fs
}

/// Makes the file of the log, or of another program, `bytes` long.
fn fill(fs: &SimFs, bytes: u64) {
    fs.open(&dir().join("filler"), OpenMode::CreateOrOpen).unwrap().set_len(bytes).unwrap();
}

fn reserve_on(fs: &SimFs) -> Option<u64> {
    fs.live_bytes(&dir().join(RESERVE)).map(|bytes| bytes.len() as u64)
}

#[test]
fn the_floor_is_the_larger_of_bytes_and_share() {
    let limits = SpaceLimits { floor_bytes: 10, floor_permille: 1000, ..SpaceLimits::default() };
    assert_eq!((limits.floor(5), limits.floor(u64::MAX)), (10, u64::MAX));
    let largest = SpaceLimits { floor_bytes: u64::MAX, margin_bytes: u64::MAX, ..limits };
    assert_eq!(largest.resume(u64::MAX), u64::MAX);
}

/// Network and user-space file systems have no `fallocate`.
#[test]
fn a_file_system_that_cannot_allocate_has_no_reserve_and_takes_appends() {
    use nix::libc::{ENOSYS, EOPNOTSUPP};
    for number in [EOPNOTSUPP, ENOSYS] {
        let fs = world(1);
        fs.inject(Fault::new(FaultOn::Allocate, Effect::Error(Errno::Raw(number))).always());
        let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
        assert_eq!((reserve_on(&fs), guard.report().reserve_bytes), (None, 0));
        fill(&fs, 9000);
        assert_eq!(guard.refresh(&fs, 5 * SECOND).unwrap(), None, "nothing of it is owed to a reserve");
        guard.admits().unwrap();
        fill(&fs, 9001);
        assert!(guard.refresh(&fs, 10 * SECOND).unwrap().is_some());
        guard.admits().unwrap_err();
        assert_eq!(reserve_on(&fs), None, "nobody tries again");
        assert_eq!(guard.give_up_reserve(&fs).unwrap(), 0);
    }
}

#[test]
fn appends_stop_at_the_floor_and_go_on_a_margin_above_it() {
    let fs = world(1);
    let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
    assert_eq!((reserve_on(&fs), guard.report().reserve_bytes), (Some(2000), 2000), "and it counts");
    let mut now = Duration::ZERO;
    let mut after = |used: u64| {
        fill(&fs, used);
        now += 5 * SECOND;
        let change = guard.refresh(&fs, now).unwrap();
        assert_eq!(guard.admits().is_err(), matches!(guard.report().state, SpaceState::Low { .. }));
        (change, guard.admits().is_ok())
    };
    assert_eq!(after(6999), (None, true));
    assert_eq!(after(7000), (None, true), "as much as must be free");
    assert_eq!(after(7001), (Some(SpaceState::Low { free: 999, floor: 1000 }), false));
    assert_eq!(after(8000), (None, false));
    assert_eq!(after(6501), (None, false), "above the floor, within the margin");
    assert_eq!(after(6500), (Some(SpaceState::Ok), true));
    fill(&fs, 7500);
    guard.refresh_now(&fs, now).unwrap();
    let refused = guard.admits().unwrap_err();
    assert_eq!(refused, SpaceLow { dir: dir().to_owned(), free: 500, floor: 1000, resume: 1500 });
    let said = "/data has 500 bytes free and needs 1000; delete data or add space: appends go on by themselves at 1500";
    assert_eq!(refused.to_string(), said);
}

#[test]
fn a_look_is_taken_seldom_far_from_the_floor_and_often_near_it() {
    let fs = world(1);
    let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
    // 7,000 are free above the floor.
    guard.note_written(3499);
    assert!(!guard.is_due(SECOND) && guard.is_due(5 * SECOND));
    guard.note_written(1);
    assert!(!guard.is_due(Duration::from_millis(99)) && guard.is_due(Duration::from_millis(100)));
    fill(&fs, 6000);
    guard.refresh(&fs, SECOND).unwrap();
    assert!(!guard.is_due(2 * SECOND));
    guard.note_written(500);
    assert!(guard.is_due(2 * SECOND));
    guard.refresh(&fs, 2 * SECOND).unwrap();
    guard.note_full();
    assert!(guard.admits().is_err());
    assert!(guard.is_due(2 * SECOND + Duration::from_millis(100)));
    assert!(!guard.is_due(Duration::ZERO), "a clock that goes back");
}

#[test]
fn the_reserve_is_given_up_on_a_full_disk_and_made_again_when_there_is_room() {
    let fs = world(1);
    let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
    // Another program takes all that the floor kept.
    fill(&fs, 8000);
    let checkpoint = fs.open(&dir().join("checkpoint"), OpenMode::CreateNew).unwrap();
    assert_eq!(write_all_at(&*checkpoint, b"x", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(guard.give_up_reserve(&fs).unwrap(), 2000);
    write_all_at(&*checkpoint, b"x", 0).unwrap();
    assert_eq!(guard.give_up_reserve(&fs).unwrap(), 0, "there is only one");
    assert!(guard.admits().is_err());
    // What was given up is free, but not for appends.
    assert_eq!(guard.refresh_now(&fs, SECOND).unwrap(), None);
    assert_eq!(guard.admits().unwrap_err().free, 0);
    fill(&fs, 6500);
    assert_eq!(guard.refresh_now(&fs, SECOND).unwrap(), None);
    assert_eq!((reserve_on(&fs), guard.admits().is_ok()), (None, false), "3,499 are free, 3,500 are needed");
    fill(&fs, 6499);
    assert_eq!(guard.refresh_now(&fs, SECOND).unwrap(), Some(SpaceState::Ok));
    assert_eq!((reserve_on(&fs), guard.report().reserve_bytes), (Some(2000), 2000));
}

#[test]
fn a_loan_frees_a_part_and_the_rest_stays() {
    let fs = world(1);
    let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
    let first = guard.lend(&fs, 1500).unwrap().unwrap();
    assert_eq!((first.bytes(), reserve_on(&fs)), (1500, Some(500)));
    let second = guard.lend(&fs, u64::MAX).unwrap().unwrap();
    assert_eq!((second.bytes(), reserve_on(&fs)), (500, None));
    assert!(guard.lend(&fs, 1).unwrap().is_none());
    assert_eq!(guard.report().lent_bytes, 2000);
    drop(second);
    guard.refresh_now(&fs, SECOND).unwrap();
    assert_eq!(reserve_on(&fs), None, "not while any of it is lent");
    drop(first);
    guard.refresh_now(&fs, SECOND).unwrap();
    assert_eq!((reserve_on(&fs), guard.report().lent_bytes), (Some(2000), 0));
}

#[test]
fn a_leftover_of_any_size_is_taken_over() {
    for (left, free_before, expected) in [
        (0, CAPACITY, Some(2000)),
        (1, CAPACITY, Some(2000)),
        (2000, 2000, Some(2000)),
        (5000, 5000, Some(2000)),
        (700, 1000, Some(700)),
    ] {
        let fs = world(1);
        fill(&fs, CAPACITY - free_before);
        fs.open(&dir().join(RESERVE), OpenMode::CreateNew).unwrap().set_len(left).unwrap();
        let guard = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap();
        assert_eq!(reserve_on(&fs), expected, "{left}");
        assert_eq!(Some(guard.report().reserve_bytes), expected, "{left}");
    }
    let (fs, none) = (world(1), SpaceLimits { reserve_bytes: 0, ..LIMITS });
    fs.open(&dir().join(RESERVE), OpenMode::CreateNew).unwrap().set_len(10).unwrap();
    SpaceGuard::open(&fs, dir(), none, Duration::ZERO).unwrap();
    assert_eq!(reserve_on(&fs), None);
    fs.create_dir(&dir().join(RESERVE)).unwrap();
    let refused = SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap_err();
    assert_eq!(refused.source.kind(), io::ErrorKind::InvalidInput);
}

/// Opens, gives up, makes again, lends: the whole life of a reserve.
fn life(fs: &SimFs) -> Result<(), IoFailure> {
    let guard = SpaceGuard::open(fs, dir(), LIMITS, Duration::ZERO)?;
    guard.give_up_reserve(fs)?;
    guard.refresh_now(fs, SECOND)?;
    drop(guard.lend(fs, 300)?);
    guard.refresh_now(fs, 2 * SECOND)?;
    Ok(())
}

#[test]
fn a_crash_at_any_step_leaves_what_the_next_opening_takes() {
    let fs = world(0);
    let before = fs.steps();
    life(&fs).unwrap();
    let steps = fs.steps() - before;
    assert!(steps >= 8, "{steps}");
    for step in 1..=steps {
        for seed in 0..8 {
            let fs = world(seed);
            fs.crash_after(fs.steps() + step);
            assert!(is_crash(&life(&fs).unwrap_err().source), "step {step}");
            let worlds = [fs.kill(), fs.power_loss(seed), fs.power_loss_keeping(Survival::Nothing)];
            for world in worlds {
                world.set_capacity(Some(CAPACITY));
                let guard = SpaceGuard::open(&world, dir(), LIMITS, Duration::ZERO).unwrap();
                assert_eq!((reserve_on(&world), guard.report().reserve_bytes), (Some(2000), 2000), "step {step}");
                assert_eq!(world.free_bytes(), Some(CAPACITY - 2000), "step {step} seed {seed}");
                guard.admits().unwrap();
            }
        }
    }
}

#[test]
fn what_the_disk_refuses_is_told_and_the_guard_goes_on() {
    let operations =
        [FaultOn::Open, FaultOn::Metadata, FaultOn::Allocate, FaultOn::SetLen, FaultOn::Remove, FaultOn::SyncDir];
    for operation in operations {
        for skip in 0..12 {
            for errno in [Errno::Eio, Errno::Enospc] {
                let fs = world(skip);
                fs.inject(Fault::new(operation, Effect::Error(errno)).skip(skip));
                let guard = match SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO) {
                    Ok(guard) => guard,
                    Err(failure) => {
                        assert!(failure.path.starts_with(dir()), "{failure}");
                        SpaceGuard::open(&fs, dir(), LIMITS, Duration::ZERO).unwrap()
                    }
                };
                let _ = guard.give_up_reserve(&fs);
                let _ = guard.refresh_now(&fs, SECOND);
                drop(guard.lend(&fs, 300));
                assert_eq!(guard.report().lent_bytes, 0, "{operation:?} {skip}");
                fs.clear_faults();
                // A reserve whose state was in doubt is settled by the next look, or by the one after.
                let _ = guard.refresh_now(&fs, 2 * SECOND);
                guard.refresh_now(&fs, 3 * SECOND).unwrap();
                assert_eq!(reserve_on(&fs), Some(2000), "{operation:?} {skip}");
                assert_eq!(guard.report().reserve_bytes, 2000, "{operation:?} {skip}");
                guard.admits().unwrap();
            }
        }
    }
}

#[test]
fn a_real_reserve_takes_up_space() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpaceLimits { reserve_bytes: 1 << 20, ..SpaceLimits::default() };
    let guard = SpaceGuard::open(&OsFileSystem, dir.path(), limits, Duration::ZERO).unwrap();
    let file = dir.path().join(RESERVE);
    assert_eq!(OsFileSystem.metadata(&file).unwrap().len, 1 << 20);
    let loan = guard.lend(&OsFileSystem, 1 << 19).unwrap().unwrap();
    assert_eq!(OsFileSystem.metadata(&file).unwrap().len, 1 << 19);
    drop(loan);
    guard.refresh_now(&OsFileSystem, SECOND).unwrap();
    assert_eq!(guard.give_up_reserve(&OsFileSystem).unwrap(), 1 << 20);
    assert!(OsFileSystem.metadata(&file).is_err());
}
