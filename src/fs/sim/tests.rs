//! The promises of the simulator, one test each, and a comparison with the real file system.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::fs::{AsFd, OsFileSystem, read_exact_at, write_all_at, write_all_vectored_at};

const SECTOR: usize = 512;
const DRAWS: u64 = 400;

fn at(path: &str) -> &Path {
    Path::new(path)
}

fn create(fs: &SimFs, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(at(path), OpenMode::CreateNew).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
    file
}

/// A file whose name and bytes are durable.
fn durable_file(fs: &SimFs, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(fs, path, bytes);
    file.sync_data().unwrap();
    fs.sync_dir(at(path).parent().unwrap()).unwrap();
    file
}

fn images(fs: &SimFs) -> impl Iterator<Item = SimFs> + '_ {
    (0..DRAWS).map(|seed| fs.power_loss(seed))
}

/// What `path` holds in the images; `None` where it is missing.
fn contents(fs: &SimFs, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    images(fs).map(|image| image.live_bytes(at(path))).collect()
}

/// Which of `paths` are there, over the images.
fn names(fs: &SimFs, paths: &[&str]) -> BTreeSet<Vec<bool>> {
    let there = |image: SimFs| paths.iter().map(|path| image.metadata(at(path)).is_ok()).collect();
    images(fs).map(there).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "what a path holds is an option")]
fn some(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

// Bytes.

#[test]
fn unsynced_sectors_survive_in_any_subset_and_never_tear_within() {
    let fs = SimFs::new(1);
    let file = durable_file(&fs, "/a", &[b'a'; 4 * SECTOR]);
    write_all_at(&*file, &[b'b'; 4 * SECTOR], 0).unwrap();
    let mut seen = BTreeSet::new();
    for image in contents(&fs, "/a") {
        let image = image.unwrap();
        assert_eq!(image.len(), 4 * SECTOR);
        let pattern: Vec<u8> = image.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(image.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        seen.insert(pattern);
    }
    for pattern in [b"aaaa", b"bbbb", b"baaa", b"aaab", b"abab"] {
        assert!(seen.contains(&pattern[..]), "{pattern:?}");
    }
}

#[test]
fn synced_bytes_always_survive() {
    let fs = SimFs::new(2);
    durable_file(&fs, "/a", &[b'a'; 3000]);
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[b'a'; 3000])]));
}

#[test]
fn a_sector_may_hold_any_version_since_the_last_sync() {
    let fs = SimFs::new(3);
    let file = durable_file(&fs, "/a", &[0; 8]);
    for version in 1..=3 {
        write_all_at(&*file, &[version; 8], 0).unwrap();
    }
    let all = (0..=3).map(|version| some(&[version; 8])).collect();
    assert_eq!(contents(&fs, "/a"), all);
}

#[test]
fn sizes_survive_without_data_and_data_without_sizes() {
    let fs = SimFs::new(4);
    let file = durable_file(&fs, "/a", b"");
    write_all_at(&*file, &[b'x'; SECTOR], 0).unwrap();
    write_all_at(&*file, &[b'x'; SECTOR], SECTOR as u64).unwrap();
    let seen = contents(&fs, "/a");
    let joined = |first: u8, second: u8| Some([[first; SECTOR], [second; SECTOR]].concat());
    for wanted in [
        some(b""),
        some(&[0; SECTOR]),
        some(&[b'x'; SECTOR]),
        joined(0, 0),
        joined(0, b'x'),
        joined(b'x', 0),
        joined(b'x', b'x'),
    ] {
        assert!(seen.contains(&wanted), "{:?}", wanted.map(|bytes| bytes.len()));
    }
}

#[test]
fn an_unsynced_cut_may_be_undone_even_where_the_file_grew_again() {
    let fs = SimFs::new(5);
    let file = durable_file(&fs, "/a", &[b'o'; 2 * SECTOR]);
    file.set_len(0).unwrap();
    let seen = contents(&fs, "/a");
    assert_eq!(seen.iter().flatten().map(Vec::len).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2 * SECTOR]));
    file.set_len(2 * SECTOR as u64).unwrap();
    let seen = contents(&fs, "/a");
    assert!(seen.contains(&some(&[b'o'; 2 * SECTOR])) && seen.contains(&some(&[0; 2 * SECTOR])));
    assert!(seen.contains(&Some([[b'o'; SECTOR], [0; SECTOR]].concat())));
    // Cut into a sector: what follows within it reads as zeros after any extension.
    file.set_len(3).unwrap();
    file.set_len(6).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[0; 6])]));
}

/// The naive model: the whole file after every call since the last sync. Every sector of an image must be found at its
/// place in one of them, and so must the size.
#[test]
fn images_of_random_work_hold_only_versions_that_were() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let fs = SimFs::new(seed);
        let file = durable_file(&fs, "/a", &[1; 700]);
        let mut versions = vec![fs.live_bytes(at("/a")).unwrap()];
        for step in 0..20 {
            let from = rng.u64(0..3000);
            match rng.u8(0..8) {
                0 => file.set_len(from).unwrap(),
                1 => file.allocate(from, 100).unwrap(),
                2 => {
                    file.sync_data().unwrap();
                    versions.clear();
                }
                _ => write_all_at(&*file, &vec![step + 2; rng.usize(1..1500)], from).unwrap(),
            }
            versions.push(fs.live_bytes(at("/a")).unwrap());
        }
        assert_eq!(fs.power_loss_keeping(Survival::Everything).live_bytes(at("/a")).as_ref(), versions.last());
        assert_eq!(fs.power_loss_keeping(Survival::Nothing).live_bytes(at("/a")), fs.durable_bytes(at("/a")));
        for loss in 0..40 {
            let image = fs.power_loss(loss).live_bytes(at("/a")).unwrap();
            assert!(versions.iter().any(|version| version.len() == image.len()), "seed {seed} loss {loss}");
            for (index, sector) in image.chunks(SECTOR).enumerate() {
                let held = |version: &Vec<u8>| {
                    let mut padded = version.clone();
                    padded.resize(padded.len().max(image.len()), 0);
                    padded[index * SECTOR..].starts_with(sector)
                };
                assert!(versions.iter().any(held), "seed {seed} loss {loss} sector {index}");
            }
        }
    }
}

// Names.

#[test]
fn syncing_a_file_does_not_save_its_name_and_syncing_the_directory_does() {
    let fs = SimFs::new(6);
    let file = create(&fs, "/a", b"abc");
    file.sync_all().unwrap();
    assert_eq!(fs.durable_bytes(at("/a")), None);
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([None, some(b"abc")]));
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(b"abc")]));
}

#[test]
fn a_durable_name_of_an_unsynced_file_may_be_empty() {
    let fs = SimFs::new(7);
    create(&fs, "/a", b"abc");
    fs.sync_dir(at("/")).unwrap();
    let seen = contents(&fs, "/a");
    assert_eq!(seen, [&b""[..], &[0; 3], b"abc"].map(some).into());
}

#[test]
fn a_directory_vanishes_with_everything_in_it_unless_its_parent_was_synced() {
    let fs = SimFs::new(8);
    fs.create_dir(at("/d")).unwrap();
    durable_file(&fs, "/d/a", b"abc");
    assert_eq!(fs.durable_bytes(at("/d/a")), None);
    assert_eq!(names(&fs, &["/d", "/d/a"]), BTreeSet::from([vec![false, false], vec![true, true]]));
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(names(&fs, &["/d", "/d/a"]), BTreeSet::from([vec![true, true]]));
}

#[test]
fn name_changes_survive_in_any_subset() {
    let fs = SimFs::new(9);
    create(&fs, "/a", b"");
    create(&fs, "/b", b"");
    assert_eq!(names(&fs, &["/a", "/b"]).len(), 4);
}

#[test]
fn a_rename_leaves_one_name_and_never_neither() {
    let fs = SimFs::new(10);
    durable_file(&fs, "/new", b"new");
    durable_file(&fs, "/old", b"old");
    fs.rename(at("/new"), at("/old")).unwrap();
    let mut seen = BTreeSet::new();
    for image in images(&fs) {
        seen.insert((image.live_bytes(at("/new")), image.live_bytes(at("/old"))));
    }
    assert_eq!(seen, BTreeSet::from([(some(b"new"), some(b"old")), (None, some(b"new"))]));
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(contents(&fs, "/old"), BTreeSet::from([some(b"new")]));
}

#[test]
fn a_rename_whose_source_did_not_survive_moves_nothing() {
    let fs = SimFs::new(11);
    create(&fs, "/new", b"new").sync_data().unwrap();
    fs.rename(at("/new"), at("/name")).unwrap();
    let none = vec![false, false];
    assert_eq!(names(&fs, &["/new", "/name"]), BTreeSet::from([none, vec![true, false], vec![false, true]]));
}

#[test]
fn a_rename_between_directories_touches_both() {
    let fs = SimFs::new(12);
    for directory in ["/from", "/to"] {
        fs.create_dir(at(directory)).unwrap();
    }
    durable_file(&fs, "/from/a", b"abc");
    fs.sync_dir(at("/")).unwrap();
    fs.rename(at("/from/a"), at("/to/a")).unwrap();
    let both = ["/from/a", "/to/a"];
    assert_eq!(names(&fs, &both), BTreeSet::from([vec![true, false], vec![false, true]]));
    let beside = fs.kill();
    fs.sync_dir(at("/from")).unwrap();
    assert_eq!(names(&fs, &both), BTreeSet::from([vec![false, true]]));
    // Only the new name is promised when only its directory was synced.
    beside.sync_dir(at("/to")).unwrap();
    assert_eq!(names(&beside, &both), BTreeSet::from([vec![true, true], vec![false, true]]));
    beside.sync_dir(at("/from")).unwrap();
    assert_eq!(names(&beside, &both), BTreeSet::from([vec![false, true]]));
}

#[test]
fn a_moved_directory_is_never_in_two_places() {
    let fs = SimFs::new(13);
    for directory in ["/from", "/to", "/from/d"] {
        fs.create_dir(at(directory)).unwrap();
    }
    fs.sync_dir(at("/")).unwrap();
    fs.rename(at("/from/d"), at("/to/d")).unwrap();
    fs.sync_dir(at("/to")).unwrap();
    assert_eq!(names(&fs, &["/from/d", "/to/d"]), BTreeSet::from([vec![false, true]]));
}

#[test]
fn an_unsynced_removal_may_be_undone_with_the_bytes_back() {
    let fs = SimFs::new(14);
    drop(durable_file(&fs, "/a", b"abc"));
    fs.remove_file(at("/a")).unwrap();
    assert_eq!(fs.live_bytes(at("/a")), None);
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([None, some(b"abc")]));
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([None]));
}

#[test]
fn a_recreated_name_is_another_file() {
    let fs = SimFs::new(15);
    drop(durable_file(&fs, "/a", b"old"));
    fs.remove_file(at("/a")).unwrap();
    create(&fs, "/a", b"newer").sync_data().unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([None, some(b"old"), some(b"newer")]));
}

#[test]
fn a_removed_file_stays_readable_through_its_handles() {
    let fs = SimFs::new(16);
    let file = create(&fs, "/a", b"abc");
    fs.set_capacity(Some(10));
    fs.remove_file(at("/a")).unwrap();
    let mut got = [0; 3];
    read_exact_at(&*file, &mut got, 0).unwrap();
    write_all_at(&*file, b"d", 3).unwrap();
    assert_eq!((&got, file.size().unwrap(), fs.free_bytes()), (b"abc", 4, Some(6)));
    assert_eq!(fs.kill().free_bytes(), Some(10));
    drop(file);
    assert_eq!(fs.free_bytes(), Some(10));
}

#[test]
fn many_removed_files_do_not_pile_up() {
    let fs = SimFs::new(17);
    for round in 0..1000 {
        drop(create(&fs, "/a", b"abc"));
        fs.remove_file(at("/a")).unwrap();
        if round % 3 == 0 {
            fs.sync_dir(at("/")).unwrap();
        }
    }
    let debug = format!("{:?}", fs.world.lock().disk);
    assert!(debug.matches("FileBytes").count() < 200);
}

// Failing syncs.

fn after_failed_sync(effect: Effect) -> (SimFs, Arc<dyn File>) {
    let fs = SimFs::new(18);
    let file = durable_file(&fs, "/a", &[b'o'; 2 * SECTOR]);
    write_all_at(&*file, &[b'n'; 3 * SECTOR], 0).unwrap();
    fs.inject(Fault::new(FaultOn::SyncData, effect));
    let synced = file.sync_data();
    assert_eq!(synced.is_ok(), effect == Effect::SyncLies);
    assert_eq!(synced.err().and_then(|e| e.raw_os_error()), (effect != Effect::SyncLies).then_some(libc::EIO));
    (fs, file)
}

/// The trap of fsync on Linux: after an error the pages are clean, the next call succeeds, and the bytes are nowhere.
#[test]
fn a_dropping_sync_loses_bytes_that_the_next_sync_does_not_write() {
    let (fs, file) = after_failed_sync(Effect::SyncDropsPages);
    file.sync_data().unwrap();
    assert_eq!(fs.live_bytes(at("/a")), some(&[b'n'; 3 * SECTOR]));
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[b'o'; 2 * SECTOR])]));
    // Written again, one sector is dirty again, and only that one.
    write_all_at(&*file, b"n", SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.durable_bytes(at("/a")), Some([[b'o'; SECTOR], [b'n'; SECTOR]].concat()));
    // All of it written again in place, size included.
    write_all_at(&*file, &[b'n'; 3 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[b'n'; 3 * SECTOR])]));
}

/// How a reopening can see what the medium holds: pages that are clean may leave the cache.
#[test]
fn pages_dropped_by_a_failed_sync_are_read_from_the_medium_once_they_leave_the_cache() {
    let (fs, file) = after_failed_sync(Effect::SyncDropsPages);
    write_all_at(&*file, &[b'r'; 10], 0).unwrap();
    file.advise(0, 2 * SECTOR as u64 - 1, crate::fs::Advice::DontNeed).unwrap();
    assert_eq!(fs.live_bytes(at("/a")).unwrap()[SECTOR..], [b'n'; 2 * SECTOR]);
    file.advise(0, 0, crate::fs::Advice::DontNeed).unwrap();
    // The first sector is dirty and stays; the size is not a page.
    let rewritten = [vec![b'r'; 10], vec![b'n'; SECTOR - 10], vec![b'o'; SECTOR], vec![0; SECTOR]].concat();
    assert_eq!(fs.live_bytes(at("/a")), Some(rewritten));
}

#[test]
fn a_size_dropped_by_a_failed_sync_comes_back_with_set_len() {
    let (fs, file) = after_failed_sync(Effect::SyncDropsPages);
    file.set_len(3 * SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    assert_eq!(fs.durable_bytes(at("/a")), Some([vec![b'o'; 2 * SECTOR], vec![0; SECTOR]].concat()));
}

#[test]
fn a_keeping_sync_writes_the_pages_the_next_time() {
    let (fs, file) = after_failed_sync(Effect::SyncKeepsPages);
    assert_eq!(fs.durable_bytes(at("/a")), some(&[b'o'; 2 * SECTOR]));
    file.sync_data().unwrap();
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[b'n'; 3 * SECTOR])]));
}

#[test]
fn a_reverting_sync_shows_the_durable_bytes() {
    let (fs, file) = after_failed_sync(Effect::SyncRevertsPages);
    assert_eq!(fs.live_bytes(at("/a")), some(&[b'o'; 2 * SECTOR]));
    assert_eq!(file.size().unwrap(), 2 * SECTOR as u64);
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[b'o'; 2 * SECTOR])]));
}

#[test]
fn a_lying_sync_makes_nothing_durable() {
    let (fs, file) = after_failed_sync(Effect::SyncLies);
    assert_eq!(fs.durable_bytes(at("/a")), some(&[b'o'; 2 * SECTOR]));
    assert!(contents(&fs, "/a").len() > 2);
    file.sync_data().unwrap();
    assert_eq!(fs.durable_bytes(at("/a")), some(&[b'n'; 3 * SECTOR]));
}

#[test]
fn a_plain_error_on_sync_follows_the_configuration() {
    let outcome = |sync_failure, seed| {
        let fs = SimFs::with_config(seed, SimConfig { sync_failure, ..SimConfig::default() });
        let file = durable_file(&fs, "/a", b"old");
        write_all_at(&*file, b"new", 0).unwrap();
        fs.inject(Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)));
        file.sync_all().unwrap_err();
        let live = fs.live_bytes(at("/a")).unwrap();
        file.sync_all().unwrap();
        (live, fs.durable_bytes(at("/a")).unwrap())
    };
    let [drops, keeps, reverts] =
        [(b"new", b"old"), (b"new", b"new"), (b"old", b"old")].map(|(live, durable)| (live.to_vec(), durable.to_vec()));
    assert_eq!(outcome(SyncFailure::DropsPages, 1), drops);
    assert_eq!(outcome(SyncFailure::KeepsPages, 1), keeps);
    assert_eq!(outcome(SyncFailure::RevertsPages, 1), reverts);
    let drawn: BTreeSet<_> = (0..50).map(|seed| outcome(SyncFailure::Random, seed)).collect();
    assert_eq!(drawn, BTreeSet::from([drops, keeps, reverts]));
}

#[test]
fn a_failed_directory_sync_drops_names_until_they_are_made_again() {
    let fs = SimFs::new(19);
    drop(durable_file(&fs, "/gone", b"x"));
    create(&fs, "/a", b"abc").sync_data().unwrap();
    fs.remove_file(at("/gone")).unwrap();
    fs.inject(Fault::new(FaultOn::SyncDir, Effect::SyncDropsPages));
    fs.sync_dir(at("/")).unwrap_err();
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(names(&fs, &["/a", "/gone"]), BTreeSet::from([vec![false, true]]));
    // A rename is a new operation on the name; its target lasts although the source never did.
    fs.rename(at("/a"), at("/b")).unwrap();
    assert_eq!(names(&fs, &["/a", "/b"]), BTreeSet::from([vec![false, false]]), "nothing there to move until synced");
    create(&fs, "/gone", b"");
    fs.remove_file(at("/gone")).unwrap();
    fs.sync_dir(at("/")).unwrap();
    assert_eq!(names(&fs, &["/a", "/b", "/gone"]), BTreeSet::from([vec![false, true, false]]));
    assert_eq!(fs.durable_bytes(at("/b")), some(b"abc"));
}

#[test]
fn directory_syncs_lie_and_keep_as_told() {
    for effect in [Effect::SyncLies, Effect::SyncKeepsPages] {
        let fs = SimFs::new(20);
        create(&fs, "/a", b"").sync_data().unwrap();
        fs.inject(Fault::new(FaultOn::SyncDir, effect));
        assert_eq!(fs.sync_dir(at("/")).is_ok(), effect == Effect::SyncLies);
        assert_eq!(fs.durable_bytes(at("/a")), None);
        fs.sync_dir(at("/")).unwrap();
        assert_eq!(fs.durable_bytes(at("/a")), some(b""));
    }
}

// Crashes.

/// Eleven steps, with reads between; stops at the first error, as a program does.
fn small_workload(fs: &SimFs) -> io::Result<()> {
    fs.create_dir(at("/d"))?;
    fs.sync_dir(at("/"))?;
    let _lock = fs.try_lock(at("/d/lock"))?;
    let file = fs.open(at("/d/tmp"), OpenMode::CreateNew)?;
    write_all_at(&*file, &[b'x'; 1300], 0)?;
    write_all_vectored_at(&*file, &mut [io::IoSlice::new(b"y"), io::IoSlice::new(&[b'z'; 600])], 1300)?;
    file.sync_data()?;
    fs.rename(at("/d/tmp"), at("/d/file"))?;
    fs.sync_dir(at("/d"))?;
    let mut got = [0; 1901];
    read_exact_at(&*file, &mut got, 0)?;
    file.set_len(1000)?;
    fs.remove_file(at("/d/lock"))?;
    fs.list(at("/d")).map(|_| ())
}

#[test]
fn a_crash_at_every_step_fails_that_step_and_all_calls_after_it() {
    let whole = SimFs::new(21);
    small_workload(&whole).unwrap();
    assert_eq!(whole.steps(), 11);
    for step in 1..=whole.steps() {
        let mut torn = BTreeSet::new();
        for seed in 0..40 {
            let fs = SimFs::new(seed);
            fs.crash_after(step);
            let error = small_workload(&fs).unwrap_err();
            assert!(is_crash(&error) && fs.is_crashed() && fs.steps() == step, "step {step} seed {seed}: {error}");
            assert!(fs.metadata(at("/")).is_err_and(|e| is_crash(&e)));
            let left = fs.kill();
            torn.insert(left.live_bytes(at("/d/tmp")).map(|bytes| bytes.len()));
            for survivor in [left, fs.power_loss(seed), fs.power_loss_keeping(Survival::Everything)] {
                assert!(!survivor.is_crashed() && survivor.open_handles() == 0 && survivor.steps() == 0);
                let durable = step > 9;
                let file = survivor.live_bytes(at("/d/file"));
                assert!(!durable || file.is_some_and(|bytes| bytes[..1000] == [b'x'; 1000]), "step {step} seed {seed}");
            }
        }
        // The first write of the file happens not at all, wholly, in whole sectors or in any part.
        assert!(step != 5 || (torn.contains(&Some(0)) && torn.contains(&Some(1300)) && torn.contains(&Some(1024))));
        assert!(step != 5 || torn.iter().flatten().any(|len| len % SECTOR != 0 && *len < 1300));
    }
}

#[test]
fn a_crash_in_a_sync_may_have_done_part_of_it() {
    let mut bytes = BTreeSet::new();
    let mut there = BTreeSet::new();
    for seed in 0..200 {
        let fs = SimFs::new(seed);
        let file = durable_file(&fs, "/a", &[b'o'; 2 * SECTOR]);
        write_all_at(&*file, &[b'n'; 2 * SECTOR], 0).unwrap();
        create(&fs, "/b", b"");
        create(&fs, "/c", b"");
        let others = fs.kill();
        fs.crash_after(fs.steps() + 1);
        assert!(is_crash(&file.sync_data().unwrap_err()));
        bytes.insert(fs.durable_bytes(at("/a")).unwrap());
        others.crash_after(1);
        assert!(is_crash(&others.sync_dir(at("/")).unwrap_err()));
        there.insert(["/b", "/c"].map(|path| others.durable_bytes(at(path)).is_some()));
    }
    assert_eq!(bytes.len(), 4);
    assert_eq!(there, BTreeSet::from([[false, false], [true, false], [true, true]]));
}

#[test]
fn a_crash_step_that_is_past_is_now() {
    let fs = SimFs::new(22);
    create(&fs, "/a", b"");
    fs.crash_after(1);
    assert!(fs.is_crashed());
    assert!(!is_crash(&io::Error::other("something else")));
}

#[test]
fn a_kill_keeps_everything_unsynced_as_it_was() {
    let fs = SimFs::new(23);
    let file = create(&fs, "/a", b"abc");
    create(&fs, "/mapped", b"abc");
    let mapping = fs.open(at("/mapped"), OpenMode::Read).unwrap().map(3).unwrap();
    let lock = fs.try_lock(at("/lock")).unwrap().unwrap();
    fs.inject(Fault::new(FaultOn::Open, Effect::Error(Errno::Eio)).always());
    let after = fs.kill();
    assert_eq!(after.live_bytes(at("/a")), some(b"abc"));
    assert_eq!(after.durable_bytes(at("/a")), None);
    assert!(!after.is_locked(at("/lock")).unwrap() && fs.is_locked(at("/lock")).unwrap());
    // Neither world sees what the other does next.
    write_all_at(&*file, b"ABC", 0).unwrap();
    let other = after.open(at("/a"), OpenMode::ReadWrite).unwrap();
    assert_eq!(after.live_bytes(at("/a")), some(b"abc"));
    other.sync_data().unwrap();
    after.sync_dir(at("/")).unwrap();
    assert_eq!((after.durable_bytes(at("/a")), fs.durable_bytes(at("/a"))), (some(b"abc"), None));
    after.open(at("/mapped"), OpenMode::ReadWrite).unwrap().set_len(0).unwrap();
    assert_eq!((fs.open_handles(), after.open_handles()), (2, 1));
    drop((file, lock, mapping));
    assert_eq!((fs.open_handles(), after.open_handles()), (0, 1));
}

// The same seed twice.

fn noisy_run(seed: u64) -> SimFs {
    let config = SimConfig { short_transfers: true, interrupts: true, capacity: Some(20_000), ..SimConfig::default() };
    let fs = SimFs::with_config(seed, config);
    fs.record_trace(true);
    fs.inject(Fault::new(FaultOn::SyncData, Effect::Error(Errno::Eio)).skip(3).times(2));
    fs.crash_after(120);
    let mut choice = fastrand::Rng::with_seed(99);
    for round in 0..200u8 {
        let path = format!("/{}", choice.u8(0..5));
        let Ok(file) = fs.open(at(&path), OpenMode::CreateOrOpen) else { continue };
        let _ = write_all_at(&*file, &vec![round; choice.usize(1..2000)], choice.u64(0..3000));
        let _ = read_exact_at(&*file, &mut [0; 100], 0);
        match choice.u8(0..6) {
            0 => drop(file.sync_data()),
            1 => drop(fs.sync_dir(at("/"))),
            2 => drop(fs.rename(at(&path), at("/moved"))),
            3 => drop(fs.remove_file(at("/moved"))),
            _ => {}
        }
    }
    fs
}

fn all_files(fs: &SimFs) -> Vec<(String, Option<Vec<u8>>)> {
    let entries = fs.list(at("/")).unwrap().into_iter();
    entries.map(|entry| (entry.name.clone(), fs.live_bytes(at(&format!("/{}", entry.name))))).collect()
}

#[test]
fn the_same_seed_twice_gives_the_same_trace_and_the_same_images() {
    for seed in 0..20 {
        let (one, two) = (noisy_run(seed), noisy_run(seed));
        assert!(one.is_crashed() && one.trace().len() > 200);
        assert_eq!(one.trace(), two.trace(), "seed {seed}");
        assert_eq!(one.trace_hash(), two.trace_hash(), "seed {seed}");
        for loss in 0..20 {
            assert_eq!(all_files(&one.power_loss(loss)), all_files(&two.power_loss(loss)), "seed {seed} loss {loss}");
        }
    }
    assert_ne!(noisy_run(1).trace_hash(), noisy_run(2).trace_hash());
}

#[test]
fn the_trace_tells_every_call_and_its_outcome() {
    let fs = SimFs::new(24);
    create(&fs, "/untraced", b"");
    fs.record_trace(true);
    let before = fs.trace_hash();
    let file = create(&fs, "/a", b"abc");
    file.read_at(&mut [0; 10], 1).unwrap();
    fs.rename(at("/b"), at("/c")).unwrap_err();
    fs.crash_after(1);
    fs.list(at("/")).unwrap_err();
    let event = |operation, path: &str, to: Option<&str>, [at, len]: [u64; 2], outcome| TraceEvent {
        operation,
        path: path.into(),
        to: to.map(Into::into),
        at,
        len,
        outcome,
    };
    let wanted = [
        event(Operation::Create, "/a", None, [0, 0], Outcome::Done(0)),
        event(Operation::Write, "/a", None, [0, 3], Outcome::Done(3)),
        event(Operation::Read, "/a", None, [1, 10], Outcome::Done(2)),
        event(Operation::Rename, "/b", Some("/c"), [0, 0], Outcome::Failed(io::ErrorKind::NotFound)),
        event(Operation::List, "/", None, [0, 0], Outcome::Crashed),
    ];
    assert_eq!(fs.trace(), wanted);
    assert_ne!(fs.trace_hash(), before);
}

// Faults and limits.

#[test]
fn faults_strike_the_calls_they_name() {
    let fs = SimFs::new(25);
    let (log, index) = (create(&fs, "/a.log", b"abcdef"), create(&fs, "/a.index", b""));
    fs.inject(Fault::new(FaultOn::Write, Effect::Error(Errno::Erofs)).path_contains(".log").skip(1).times(2));
    let kinds: Vec<_> = (0..4).map(|_| log.write_at(b"x", 0).map_err(|e| e.kind())).collect();
    let refused = Err(io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(kinds, [Ok(1), refused, refused, Ok(1)]);
    index.write_at(b"x", 0).unwrap();

    fs.inject(Fault::new(FaultOn::Read, Effect::Short(2)));
    assert_eq!(log.read_at(&mut [0; 6], 0).unwrap(), 2);
    fs.inject(Fault::new(FaultOn::Write, Effect::Short(0)));
    assert_eq!(write_all_at(&*log, b"xyz", 0).unwrap_err().kind(), io::ErrorKind::WriteZero);
    fs.inject(Fault::new(FaultOn::Read, Effect::Error(Errno::Eintr)));
    read_exact_at(&*log, &mut [0; 6], 0).unwrap();

    fs.inject(Fault::new(FaultOn::List, Effect::Error(Errno::Eio)).always());
    for _ in 0..3 {
        assert_eq!(fs.list(at("/")).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    fs.clear_faults();
    fs.list(at("/")).unwrap();
}

#[test]
fn every_operation_can_be_struck() {
    let error = Effect::Error(Errno::Raw(libc::EMFILE));
    let struck = |operation, call: &dyn Fn(&SimFs, &dyn File) -> io::Result<()>| {
        let fs = SimFs::new(26);
        let file = create(&fs, "/a", b"abc");
        let before = all_files(&fs);
        fs.inject(Fault::new(operation, error));
        let failed = call(&fs, &*file).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EMFILE), "{operation:?}");
        assert_eq!(all_files(&fs), before, "{operation:?}");
        call(&fs, &*file).unwrap();
    };
    struck(FaultOn::Open, &|fs, _| fs.open(at("/a"), OpenMode::Read).map(|_| ()));
    struck(FaultOn::Create, &|fs, _| fs.open(at("/b"), OpenMode::CreateNew).map(|_| ()));
    struck(FaultOn::Write, &|_, file| file.write_at(b"x", 0).map(|_| ()));
    struck(FaultOn::SetLen, &|_, file| file.set_len(9));
    struck(FaultOn::Allocate, &|_, file| file.allocate(0, 9));
    struck(FaultOn::SyncDir, &|fs, _| fs.sync_dir(at("/")));
    struck(FaultOn::Rename, &|fs, _| fs.rename(at("/a"), at("/b")));
    struck(FaultOn::Remove, &|fs, _| fs.remove_file(at("/a")));
    struck(FaultOn::CreateDir, &|fs, _| fs.create_dir(at("/d")));
    struck(FaultOn::Lock, &|fs, _| fs.try_lock(at("/a")).map(|_| ()));
    struck(FaultOn::Map, &|_, file| file.map(3).map(|_| ()));
    struck(FaultOn::Metadata, &|fs, _| fs.metadata(at("/a")).map(|_| ()));
    struck(FaultOn::Metadata, &|_, file| file.size().map(|_| ()));
    struck(FaultOn::Advise, &|_, file| file.advise(0, 0, crate::fs::Advice::DontNeed));
    struck(FaultOn::Send, &|_, file| file.send_to(io::pipe()?.1.as_fd(), 0, 0).map(|_| ()));
}

#[test]
fn a_full_disk_takes_a_part_or_nothing() {
    let mut parts = BTreeSet::new();
    for seed in 0..20 {
        let fs = SimFs::with_config(seed, SimConfig { capacity: Some(10), ..SimConfig::default() });
        let file = create(&fs, "/a", b"12345678");
        assert_eq!(fs.free_bytes(), Some(2));
        write_all_at(&*file, b"abcd", 0).unwrap();
        let error = write_all_at(&*file, b"90123", 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        parts.insert(file.size().unwrap());
        assert_eq!(file.allocate(0, 11).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.set_len(3).unwrap();
        assert_eq!(fs.free_bytes(), Some(7));
        // A hole takes no space.
        file.set_len(11).unwrap();
        assert_eq!(fs.free_bytes(), Some(0));
        fs.set_capacity(None);
        assert_eq!(fs.free_bytes(), None);
    }
    assert_eq!(parts, BTreeSet::from([8, 10]));
}

#[test]
fn transfers_are_short_and_interrupted_where_configured() {
    let fs = SimFs::with_config(27, SimConfig { short_transfers: true, interrupts: true, ..SimConfig::default() });
    let file = fs.open(at("/a"), OpenMode::CreateNew).unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let mut got = vec![0; bytes.len()];
    let (mut short, mut interrupted) = (0, 0);
    for _ in 0..100 {
        match file.write_at(&bytes, 0) {
            Ok(n) => short += u32::from(n < bytes.len()),
            Err(e) => interrupted += u32::from(e.kind() == io::ErrorKind::Interrupted),
        }
        write_all_at(&*file, &bytes, 0).unwrap();
        read_exact_at(&*file, &mut got, 0).unwrap();
        assert_eq!(got, bytes);
    }
    assert!(short > 5 && interrupted > 5);
}

#[test]
fn bit_rot_changes_one_bit_in_cache_and_on_the_medium() {
    let fs = SimFs::new(28);
    let file = durable_file(&fs, "/a", &[0; 3]);
    write_all_at(&*file, &[0; 3], 0).unwrap();
    let steps = fs.steps();
    fs.flip_bit(at("/a"), 1, 4);
    assert_eq!(fs.live_bytes(at("/a")), some(&[0, 16, 0]));
    assert_eq!(contents(&fs, "/a"), BTreeSet::from([some(&[0, 16, 0])]));
    assert_eq!(fs.steps(), steps);
    assert!(catch_unwind(AssertUnwindSafe(|| fs.flip_bit(at("/a"), 3, 0))).is_err());
}

#[test]
fn forbidden_paths_are_forbidden_with_all_below() {
    let fs = SimFs::new(29);
    fs.create_dir(at("/d")).unwrap();
    let file = create(&fs, "/d/a", b"");
    fs.set_permission_denied(at("/d"));
    let denied = [
        fs.open(at("/d/a"), OpenMode::Read).map(|_| ()),
        fs.open(at("/d/b"), OpenMode::CreateNew).map(|_| ()),
        fs.list(at("/d")).map(|_| ()),
        fs.metadata(at("/d/a")).map(|_| ()),
        fs.rename(at("/d/a"), at("/a")),
        fs.remove_file(at("/d/a")),
        fs.remove_dir(at("/d")),
        fs.create_dir(at("/d/d")),
        fs.sync_dir(at("/d")),
        fs.try_lock(at("/d/a")).map(|_| ()),
        fs.is_locked(at("/d/a")).map(|_| ()),
    ];
    assert!(denied.iter().all(|result| result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)));
    write_all_at(&*file, b"x", 0).unwrap();
    fs.list(at("/")).unwrap();
    fs.clear_permission_denied(at("/d"));
    assert_eq!(fs.list(at("/d")).unwrap().len(), 1);
}

// Handles.

#[test]
fn locks_exclude_and_go_with_their_guard() {
    let fs = SimFs::new(30);
    assert!(!fs.is_locked(at("/lock")).unwrap());
    let guard = fs.try_lock(at("/lock")).unwrap().unwrap();
    assert!(fs.try_lock(at("/lock")).unwrap().is_none() && fs.is_locked(at("/lock")).unwrap());
    assert_eq!(fs.open_handles(), 1);
    // The lock is on the file, not on the name.
    fs.rename(at("/lock"), at("/moved")).unwrap();
    assert!(fs.is_locked(at("/moved")).unwrap() && !fs.is_locked(at("/lock")).unwrap());
    drop(guard);
    assert!(fs.try_lock(at("/moved")).unwrap().is_some());
    assert_eq!(fs.open_handles(), 0);
}

#[test]
fn changing_mapped_bytes_panics() {
    let fs = SimFs::new(31);
    let file = create(&fs, "/a", b"abcdef");
    assert_eq!(file.map(7).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let mapping = file.map(4).unwrap();
    assert_eq!(mapping.bytes(), b"abcd");
    write_all_at(&*file, b"EF", 4).unwrap();
    file.set_len(4).unwrap();
    let panic_of = |call: &dyn Fn()| {
        let payload = catch_unwind(AssertUnwindSafe(call)).unwrap_err();
        assert!(payload.downcast_ref::<String>().unwrap().contains("mapped bytes changed"));
    };
    panic_of(&|| drop(file.write_at(b"x", 3)));
    panic_of(&|| drop(file.set_len(3)));
    assert_eq!(fs.live_bytes(at("/a")), some(b"abcd"));
    drop(mapping);
    file.set_len(3).unwrap();
    assert_eq!(fs.open_handles(), 1);
}

#[test]
fn handles_obey_their_mode() {
    let fs = SimFs::new(32);
    create(&fs, "/a", b"abc");
    let file = fs.open(at("/a"), OpenMode::Read).unwrap();
    let refused = [file.write_at(b"x", 0).map(|_| ()), file.set_len(0), file.allocate(0, 9)];
    assert!(refused.iter().all(|result| result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)));
    file.sync_data().unwrap();
    for path in ["a", "/../a"] {
        assert_eq!(fs.open(at(path), OpenMode::Read).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(fs.sync_dir(at("/a")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    let file = fs.open(at("/a"), OpenMode::ReadWrite).unwrap();
    assert_eq!(file.set_len(u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(file.write_at(b"x", u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(file.read_at(&mut [0], u64::MAX).unwrap(), 0);
}

#[test]
fn threads_share_a_world() {
    let fs = SimFs::new(33);
    let shared: Arc<dyn FileSystem> = Arc::new(fs.clone());
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let shared = Arc::clone(&shared);
            scope.spawn(move || {
                let path = format!("/{thread}");
                let file = shared.open(at(&path), OpenMode::CreateNew).unwrap();
                for position in 0..100 {
                    write_all_at(&*file, &[thread], position).unwrap();
                }
                file.sync_all().unwrap();
            });
        }
    });
    assert_eq!(fs.steps(), 4 * 102);
    assert_eq!(fs.live_bytes(at("/3")), some(&[3; 100]));
}

// The real one.

/// Two file systems that are given the same calls.
struct Pair {
    sim: SimFs,
    root: tempfile::TempDir,
    files: Vec<(Arc<dyn File>, Arc<dyn File>)>,
}

impl Pair {
    fn both<T>(&self, path: &str, call: impl Fn(&dyn FileSystem, &Path) -> T) -> (T, T) {
        let real = self.root.path().join(path.trim_start_matches('/'));
        (call(&self.sim, at(path)), call(&OsFileSystem, &real))
    }

    fn same<T: PartialEq + fmt::Debug>(
        &self,
        path: &str,
        call: impl Fn(&dyn FileSystem, &Path) -> io::Result<T>,
    ) -> Result<T, io::ErrorKind> {
        let (sim, real) = self.both(path, |fs, path| call(fs, path).map_err(|e| e.kind()));
        assert_eq!(sim, real, "{path}");
        sim
    }

    fn open(&mut self, path: &str, mode: OpenMode) {
        match self.both(path, |fs, path| fs.open(path, mode)) {
            (Ok(sim), Ok(real)) => self.files.push((sim, real)),
            (sim, real) => assert_eq!(sim.err().map(|e| e.kind()), real.err().map(|e| e.kind()), "{path} {mode:?}"),
        }
    }

    fn rename(&self, from: &str, to: &str) {
        let real = |path: &str| self.root.path().join(path.trim_start_matches('/'));
        let sim = self.sim.rename(at(from), at(to)).map_err(|e| e.kind());
        assert_eq!(sim, OsFileSystem.rename(&real(from), &real(to)).map_err(|e| e.kind()), "{from} to {to}");
    }

    fn same_on_file<T: PartialEq + fmt::Debug>(&self, index: usize, call: impl Fn(&dyn File) -> io::Result<T>) {
        let Some((sim, real)) = self.files.get(index) else { return };
        // A handle for reading refuses changes with another error here than there; both refuse.
        let kind = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBADF | libc::EINVAL | libc::EACCES) => io::ErrorKind::PermissionDenied,
            _ => e.kind(),
        };
        assert_eq!(call(&**sim).map_err(kind), call(&**real).map_err(kind));
    }

    fn step(&mut self, rng: &mut fastrand::Rng) {
        let path = || ["/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a", "/b/a"];
        let (one, two) = (path()[rng.usize(0..8)], path()[rng.usize(0..8)]);
        let index = rng.usize(0..6);
        let (from, len) = (rng.u64(0..5000), rng.usize(0..3000));
        match rng.u8(0..20) {
            0 => self.open(one, OpenMode::Read),
            1 => self.open(one, OpenMode::ReadWrite),
            2 => self.open(one, OpenMode::CreateNew),
            3 => self.open(one, OpenMode::CreateOrOpen),
            4 if index < self.files.len() => drop(self.files.remove(index)),
            5 => drop(self.same(one, |fs, path| fs.create_dir(path))),
            6 => drop(self.same(one, |fs, path| fs.remove_dir(path))),
            7 => drop(self.same(one, |fs, path| fs.remove_file(path))),
            8 | 9 => self.rename(one, two),
            10 => drop(self.same(one, |fs, path| Ok(fs.try_lock(path)?.is_some()))),
            11 => drop(self.same(one, |fs, path| fs.is_locked(path))),
            12 => self.same_on_file(index, |file| file.set_len(from)),
            13 => self.same_on_file(index, |file| file.allocate(from, len as u64)),
            14 => self.same_on_file(index, |file| {
                let mut got = vec![0; len];
                Ok((file.read_at(&mut got, from)?, got))
            }),
            15 => self.same_on_file(index, |file| Ok(file.map(from)?.bytes().to_vec())),
            16 => self.same_on_file(index, |file| {
                file.write_vectored_at(&[io::IoSlice::new(&vec![1; len]), io::IoSlice::new(b"end")], from)
            }),
            17 => self.same_on_file(index, |file| {
                let (mut reader, writer) = io::pipe()?;
                let sent = file.send_to(writer.as_fd(), from, len as u64)?;
                drop(writer);
                let mut got = Vec::new();
                io::Read::read_to_end(&mut reader, &mut got)?;
                Ok((sent, got))
            }),
            18 => self.same_on_file(index, |file| file.send_to(io::pipe()?.1.as_fd(), u64::MAX - from, len as u64)),
            _ => self.same_on_file(index, |file| file.write_at(&vec![from.to_le_bytes()[0]; len], from)),
        }
    }

    fn compare(&self, path: &str) {
        let is_file = |metadata: &Metadata| metadata.kind == EntryKind::File;
        let shape = |metadata: Metadata| (metadata.kind, is_file(&metadata).then_some(metadata.len));
        let _ = self.same(path, |fs, path| fs.metadata(path).map(shape));
        if let Ok(entries) = self.same(path, |fs, path| fs.list(path)) {
            for entry in entries {
                self.compare(&format!("{}/{}", path.trim_end_matches('/'), entry.name));
            }
        } else {
            let bytes = self.same(path, |fs, path| {
                let file = fs.open(path, OpenMode::Read)?;
                let mut got = vec![0; usize::try_from(file.size()?).unwrap()];
                read_exact_at(&*file, &mut got, 0).map(|()| got)
            });
            assert_eq!(bytes.ok(), self.sim.live_bytes(at(path)));
        }
    }
}

#[test]
fn without_faults_it_does_what_the_real_one_does() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let root = tempfile::tempdir().unwrap();
        let mut pair = Pair { sim: SimFs::new(seed), root, files: Vec::new() };
        for _ in 0..150 {
            pair.step(&mut rng);
            if rng.u8(0..10) == 0 {
                pair.compare("/");
            }
        }
        pair.compare("/");
        // A kill keeps all of that.
        pair.files.clear();
        pair.sim = pair.sim.kill();
        pair.compare("/");
    }
}
