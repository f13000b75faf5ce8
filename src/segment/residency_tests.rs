use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::config::ReadMode;
use crate::fs::{self, Advice, BorrowedFd, File, FileSystem, Mapping, OpenMode, OsFileSystem};
use crate::index::{OffsetEntry, SegmentIndex};
use crate::segment::{FileKind, Home, Segment, SegmentOptions};
use crate::units::{Offset, RelativeOffset};

/// A file that says when it is closed, and must not be while it is dirty.
#[derive(Debug)]
struct Watched {
    is_dirty: Arc<AtomicBool>,
    closed: Arc<AtomicU64>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        assert!(!self.is_dirty.load(Ordering::Relaxed), "closed before a completed sync");
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl File for Watched {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn write_at(&self, buf: &[u8], _: u64) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn write_vectored_at(&self, _: &[io::IoSlice<'_>], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn map(&self, _: u64) -> io::Result<Arc<dyn Mapping>> {
        Err(io::ErrorKind::OutOfMemory.into())
    }
    fn advise(&self, _: u64, _: u64, _: Advice) -> io::Result<()> {
        Ok(())
    }
    fn send_to(&self, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<u64> {
        Ok(0)
    }
}

const OPTIONS: SegmentOptions =
    SegmentOptions { interval_bytes: 4096, read_mode: ReadMode::Mapped, may_have_gaps: false };

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn limits(files: u64, maps: u64, index_bytes: u64) -> ResidencyLimits {
    ResidencyLimits { files, maps, index_bytes }
}

/// A directory with `count` logs of a few bytes, and their sealed segments.
fn segments(dir: &Path, count: i64, residency: &Arc<Residency>) -> Vec<Segment> {
    let home = Home::within(Arc::new(OsFileSystem), Arc::from(dir), Arc::clone(residency));
    let make = |base: i64| {
        let path = home.path(at(base), FileKind::Log);
        let file = OsFileSystem.open(&path, OpenMode::CreateOrOpen).unwrap();
        fs::write_all_at(&*file, &base.to_be_bytes(), 0).unwrap();
        let segment = Segment::sealed(&home, at(base), OPTIONS, Vec::new());
        segment.seal(8);
        segment
    };
    (0..count).map(make).collect()
}

fn index_of(entries: i32) -> SegmentIndex {
    let mut index = SegmentIndex::default();
    for last in 0..entries {
        index.offsets.push(OffsetEntry { last: RelativeOffset::new(last).unwrap(), position: last.cast_unsigned() });
    }
    index
}

#[test]
fn an_idle_segment_is_small() {
    let sizes = [("Segment", size_of::<Segment>(), 128), ("Slots", size_of::<Slots>(), 88)];
    for (name, bytes, bound) in sizes {
        println!("{name}: {bytes} bytes");
        assert!(bytes <= bound, "{name} takes {bytes} bytes");
    }
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(ResidencyLimits::default());
    let made = segments(dir.path(), 3, &residency);
    assert!(made.iter().all(|segment| segment.slots.get().is_none()), "nothing is held before it is used");
    assert!(made.iter().all(|segment| Arc::ptr_eq(&segment.home, &made[0].home)), "the place is shared");
}

#[test]
fn files_over_the_limit_are_closed_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(limits(3, 0, 0));
    let made = segments(dir.path(), 10, &residency);
    for _ in 0..3 {
        for segment in &made {
            let mut bytes = [0; 8];
            segment.read_at(0, &mut bytes).unwrap();
            assert_eq!(i64::from_be_bytes(bytes), segment.base().value());
            assert!(residency.usage().files <= 3, "{:?}", residency.usage());
        }
    }
    let usage = residency.usage();
    assert_eq!((usage.files, usage.files_peak, usage.maps), (3, 3, 0));
    assert_eq!(usage.unmapped_reads, 30, "there was no map to be had, and every byte was right");
    assert!(usage.evictions >= 27);
    assert_eq!(residency.release_files(2), 2);
    assert_eq!(residency.release_files(2), 1);
    assert_eq!(residency.usage().files, 0);
    drop(made);
    assert_eq!(residency.usage().files, 0);
}

#[test]
fn what_is_used_gets_a_second_chance() {
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(limits(4, 0, 0));
    let made = segments(dir.path(), 40, &residency);
    made[0].file().unwrap();
    for segment in &made[1..] {
        segment.file().unwrap();
        let kept = made[0].slots().look(Held::File).file.is_some();
        assert!(kept, "the one that is used all the time went at {}", segment.base());
    }
}

#[test]
fn pinned_files_and_maps_stay_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(limits(2, 2, 0));
    let made = segments(dir.path(), 6, &residency);
    let files: Vec<_> = made.iter().map(|segment| segment.file().unwrap()).collect();
    assert_eq!(residency.usage().files, 6, "all are held by somebody");
    assert_eq!(residency.release_files(6), 0);
    let maps: Vec<_> = made.iter().map(|segment| segment.mapping().unwrap()).collect();
    assert_eq!(maps.iter().flatten().count(), 2);
    assert_eq!(residency.usage().maps, 2);
    drop(files);
    residency.enforce();
    assert_eq!(residency.usage().files, 2);
    drop(maps);
    residency.set_limits(limits(0, 0, 0));
    let usage = residency.usage();
    assert_eq!((usage.files, usage.maps, usage.index_bytes), (0, 0, 0));
}

#[test]
fn a_map_that_the_system_refuses_is_done_without() {
    let residency = Residency::new(ResidencyLimits::default());
    let home = Home::within(Arc::new(OsFileSystem), Arc::from(Path::new("/nowhere")), Arc::clone(&residency));
    let file = Arc::new(Watched { is_dirty: Arc::default(), closed: Arc::default() });
    let segment = Segment::loaded(&home, at(0), OPTIONS, file, SegmentIndex::default());
    segment.seal(8);
    assert!(segment.mapping().unwrap().is_none());
    assert_eq!((residency.usage().maps, residency.usage().unmapped_reads), (0, 1));
}

#[test]
fn nothing_unsynced_is_closed_and_no_unsaved_index_forgotten() {
    let residency = Residency::new(limits(0, 0, 0));
    let home = Home::within(Arc::new(OsFileSystem), Arc::from(Path::new("/nowhere")), Arc::clone(&residency));
    let (is_dirty, closed) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
    let file = Arc::new(Watched { is_dirty: Arc::clone(&is_dirty), closed: Arc::clone(&closed) });
    let segment = Segment::loaded(&home, at(0), OPTIONS, file, index_of(10));
    let bytes = residency.usage().index_bytes;
    assert!(bytes >= 80);
    segment.extend_index(|index| *index = index_of(1000));
    assert!(residency.usage().index_bytes >= bytes + 7000, "it is counted as it grows");
    residency.enforce();
    segment.seal(8);
    segment.mark_index_saved(true);
    residency.enforce();
    assert_eq!(closed.load(Ordering::Relaxed), 0, "sealed, and not synced");
    assert_ne!(residency.usage().index_bytes, 0);
    segment.mark_index_saved(false);
    is_dirty.store(false, Ordering::Relaxed);
    segment.allow_dropping();
    residency.enforce();
    assert_eq!(segment.index_entries().0, 1000, "not on disk yet");
    // This file was not opened in the budget, so that nothing is over it; but it may be closed when asked for.
    assert_eq!(residency.release_files(1), 1);
    assert_eq!(closed.load(Ordering::Relaxed), 1);
    segment.mark_index_saved(true);
    residency.enforce();
    residency.enforce();
    assert_eq!((segment.index_entries().0, residency.usage().index_bytes), (0, 0));
}

#[test]
fn a_segment_that_goes_gives_back_all_it_held() {
    let residency = Residency::new(ResidencyLimits::default());
    let dir = tempfile::tempdir().unwrap();
    let home = Home::within(Arc::new(OsFileSystem), Arc::from(dir.path()), Arc::clone(&residency));
    for base in 0..10_000 {
        let segment = Segment::sealed(&home, at(base), OPTIONS, Vec::new());
        segment.put_index(index_of(10));
    }
    assert_eq!(residency.usage().index_bytes, 0);
    assert!(residency.index_bytes.ring.lock().entries.len() <= 2 * SWEEP_AT_LEAST, "the dead are swept out");
}

/// Against a model that knows of each segment whether it is open, pinned and may be closed.
#[test]
fn the_clock_keeps_to_the_limit_whenever_it_can() {
    for seed in 1..=20_u64 {
        let dir = tempfile::tempdir().unwrap();
        let residency = Residency::new(limits(5, 0, 0));
        let made = segments(dir.path(), 24, &residency);
        let mut pins: BTreeMap<usize, Arc<dyn File>> = BTreeMap::new();
        let mut unsynced = [false; 24];
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..400 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let which = usize::try_from(random % 24).unwrap();
            let segment = &made[which];
            let is_open = |at: usize| made[at].slots().is_holding(Held::File);
            let before: Vec<usize> = (0..24).filter(|at| is_open(*at)).collect();
            match random >> 40 & 7 {
                0 if pins.len() < 4 => drop(pins.insert(which, segment.file().unwrap())),
                1 => drop(pins.remove(&which)),
                2 if unsynced.iter().filter(|dirty| **dirty).count() < 4 => {
                    segment.slots().allow_dropping(false);
                    unsynced[which] = true;
                }
                3 => {
                    segment.allow_dropping();
                    unsynced[which] = false;
                }
                4 => residency.enforce(),
                _ => drop(segment.file().unwrap()),
            }
            for at in before {
                let stays = pins.contains_key(&at) || unsynced[at];
                assert!(!stays || is_open(at), "seed {seed}: {at} was closed");
            }
            let open = (0..24).filter(|at| is_open(*at)).count();
            assert_eq!(residency.usage().files, open as u64, "seed {seed}");
            residency.enforce();
            let immovable = (0..24).filter(|at| is_open(*at) && (pins.contains_key(at) || unsynced[*at])).count();
            assert!(residency.usage().files <= immovable.max(5) as u64, "seed {seed}: {:?}", residency.usage());
        }
    }
}

#[test]
fn opening_is_cheap_beside_many_pinned_files() {
    let dir = tempfile::tempdir().unwrap();
    let residency = Residency::new(limits(1, 0, 0));
    let made = segments(dir.path(), 300, &residency);
    let (many, few) = made.split_at(290);
    let pins: Vec<_> = many.iter().map(|segment| segment.file().unwrap()).collect();
    assert!(residency.files.ring.lock().is_futile, "whole turns found nothing");
    // From then on an open looks at a few only, and yet finds what was let go of.
    drop(pins);
    for segment in few {
        segment.file().unwrap();
    }
    assert!(residency.usage().files <= 2, "{:?}", residency.usage());
}
