//! What is known of a segment's integrity while it is open: what of it cannot be read, and its sum.
//!
//! The sum vouches for the log and for the files that are built from it and have no checksum: the two indexes and the
//! aborted transactions. Not for the producer snapshot at the base offset. That one has a CRC of its own, and is rightly
//! removed, or written later, without anything about the segment being changed: by closes, by recovery, and by Kafka.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::sum::{LogWalk, SidecarStamp, Sidecars, Sum, SumBuilder, WalkBounds, verify};
use super::{FileKind, Hole, Segment, SegmentFile, SegmentOptions};
use crate::error::{CorruptionKind, IoFailure, IoOperation, SmallFileFault};
use crate::fs::{self, File, OpenMode};
use crate::index::{SegmentIndex, replace_file};
use crate::sync::{Mutex, RwLock};
use crate::units::Offset;

/// More ranges than this in one segment join the last one: a list of damage must not be as large as the damage.
const HOLES_MAX: usize = 1024;
/// No sum is larger: that of a segment of 2 GiB with the shortest intervals takes 6 MiB.
const SUM_BYTES_MAX: u64 = 16 << 20;

/// What of a segment cannot be read. It grows; what is mended is mended in another segment object. Costs one load where
/// nothing is damaged.
#[derive(Debug)]
pub(super) struct KnownHoles(OnceLock<Box<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Some of it is not in the list of damage on disk.
    is_unsaved: AtomicBool,
    list: RwLock<Arc<[Hole]>>,
}

impl KnownHoles {
    pub(super) fn new(holes: Vec<Hole>) -> Self {
        let known = OnceLock::new();
        if !holes.is_empty() {
            let _ = known.set(Box::new(Known { list: RwLock::new(holes.into()), ..Known::default() }));
        }
        Self(known)
    }

    pub(super) fn list(&self) -> Holes {
        Holes(self.0.get().map(|known| Arc::clone(&known.list.read())))
    }

    /// Adds what was met; returns whether anything of it was not known.
    pub(super) fn add(&self, met: Vec<Hole>) -> bool {
        let known = self.0.get_or_init(Box::default);
        let mut list = known.list.write();
        let merged = merged(&list, met);
        let is_same = |(a, b): (&Hole, &Hole)| a.bytes == b.bytes && a.offsets == b.offsets;
        let is_known = merged.len() == list.len() && merged.iter().zip(list.iter()).all(is_same);
        *list = merged.into();
        known.is_unsaved.fetch_or(!is_known, Ordering::AcqRel);
        !is_known
    }

    /// Whether some of it is not in the list of damage on disk.
    fn is_unsaved(&self) -> bool {
        self.0.get().is_some_and(|known| known.is_unsaved.load(Ordering::Acquire))
    }

    fn set_unsaved(&self, is_unsaved: bool) {
        if let Some(known) = self.0.get() {
            known.is_unsaved.store(is_unsaved, Ordering::Release);
        }
    }
}

/// The holes of a segment at one moment, by rising position.
#[derive(Clone, Debug)]
pub(crate) struct Holes(Option<Arc<[Hole]>>);

impl Deref for Holes {
    type Target = [Hole];

    fn deref(&self) -> &[Hole] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Both lists as one: by position, ranges that overlap or touch made one, at most [`HOLES_MAX`] of them.
fn merged(known: &[Hole], met: Vec<Hole>) -> Vec<Hole> {
    let mut all: Vec<Hole> = known.iter().cloned().chain(met).collect();
    all.sort_by_key(|hole| (hole.bytes.start, hole.bytes.end));
    let mut merged: Vec<Hole> = Vec::with_capacity(all.len().min(HOLES_MAX));
    for hole in all {
        let is_full = merged.len() >= HOLES_MAX;
        match merged.last_mut() {
            Some(last) if is_full || are_joined(last, &hole) => join(last, hole),
            _ => merged.push(hole),
        }
    }
    merged
}

/// Records that are missing without bytes stay told apart from bytes that are bad: what ends in them ends there.
fn are_joined(before: &Hole, hole: &Hole) -> bool {
    match (before.bytes.is_empty(), hole.bytes.is_empty()) {
        (true, true) => before.bytes == hole.bytes,
        (false, false) => hole.bytes.start <= before.bytes.end,
        _ => false,
    }
}

fn join(last: &mut Hole, hole: Hole) {
    last.bytes.end = last.bytes.end.max(hole.bytes.end);
    last.offsets = last.offsets.start.min(hole.offsets.start)..last.offsets.end.max(hole.offsets.end);
    if matches!(last.cause, None | Some(CorruptionKind::FoundEarlier)) {
        last.cause = hole.cause.or(last.cause.take());
    }
}

/// What appending gathered for the sum of a segment that is sealed now.
#[derive(Debug)]
pub(super) struct Gathered {
    builder: SumBuilder,
    end: Offset,
}

/// Where a sealed segment keeps it until its sum is written.
pub(super) type GatheredSlot = Mutex<Option<Box<Gathered>>>;

impl Segment {
    /// Leaves with a segment that was sealed what appending gathered for its sum. `end`: the offset after its last one.
    pub(crate) fn hand_over(&self, builder: Option<SumBuilder>, end: Offset) {
        *self.gathered.lock() = builder.map(|builder| Box::new(Gathered { builder, end }));
    }

    /// Writes the sum of a sealed segment, synced and renamed into place; the name lasts once the directory is synced.
    /// From what appending gathered; without that from a walk over the log, if it has at most `walk_bytes_max` bytes.
    /// Returns whether it was written: of a log that is damaged there is none.
    ///
    /// The index files must be on disk as they are to stay.
    pub(crate) fn save_sum(&self, walk_bytes_max: u64) -> Result<bool, IoFailure> {
        let stamps = self.stamps()?;
        let gathered = self.gathered.lock().take();
        let bytes = self.bytes()?;
        let gathered = gathered.and_then(|gathered| gathered.builder.finish(bytes, gathered.end, stamps));
        let sum = match gathered {
            None if bytes <= walk_bytes_max => self.walk_for_sum(stamps)?,
            gathered => gathered,
        };
        let Some(sum) = sum else { return Ok(false) };
        self.put_sum(&sum)?;
        Ok(true)
    }

    /// Replaces the file of the sum. The name lasts once the directory is synced.
    pub(crate) fn put_sum(&self, sum: &Sum) -> Result<(), IoFailure> {
        let name = SegmentFile::live(self.base, FileKind::Sum).name();
        replace_file(&*self.home.fs, &self.home.dir, &name, &sum.encode())
    }

    /// The sum that the log gives, if every batch in it is valid.
    fn walk_for_sum(&self, stamps: Sidecars) -> Result<Option<Sum>, IoFailure> {
        let failed = |e| IoFailure::new(IoOperation::Read, self.log_path(), e);
        if !self.holes().is_empty() {
            return Ok(None);
        }
        let mut walk = LogWalk::new(self.file()?, self.walk_bounds(), None).map_err(failed)?;
        while walk.step().map_err(failed)?.is_some() {}
        let walked = walk.finish();
        Ok(walked.rebuilt(&verify(None, &walked, &stamps), stamps))
    }

    /// What a walk has to know of this segment.
    pub(crate) fn walk_bounds(&self) -> WalkBounds {
        let SegmentOptions { interval_bytes, may_have_gaps, .. } = self.home.options;
        WalkBounds { base: self.base, next_base: self.next_base(), interval_bytes, may_have_gaps }
    }

    /// The sum as its file has it; `Ok(None)` without a file. The inner error says why the file cannot be used.
    pub(crate) fn read_sum(&self) -> Result<Result<Option<Sum>, SmallFileFault>, IoFailure> {
        let path = self.home.path(self.base, FileKind::Sum);
        let file = match self.home.fs.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
            opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?,
        };
        let failed = |e| IoFailure::new(IoOperation::Read, &path, e);
        let len = file.size().map_err(failed)?;
        if len > SUM_BYTES_MAX {
            return Ok(Err(SmallFileFault::Length));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let read = fs::read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
        bytes.truncate(read);
        Ok(Sum::decode(&bytes, self.base).map(Some))
    }

    /// Lengths and checksums of the files that a sum vouches for besides the log, as they are on disk.
    pub(crate) fn stamps(&self) -> Result<Sidecars, IoFailure> {
        let stamp = |kind| Ok(self.read_sidecar(kind)?.map(|bytes| SidecarStamp::of(&bytes)));
        Ok(Sidecars {
            index: stamp(FileKind::Index)?,
            time_index: stamp(FileKind::TimeIndex)?,
            txn_index: stamp(FileKind::TxnIndex)?,
            snapshot: None,
        })
    }

    /// The same segment in another file, which was put in the place of its own, with the index that the file gives. `end`
    /// is where the next one begins.
    pub(crate) fn mended(&self, file: Arc<dyn File>, bytes: u64, index: SegmentIndex, end: Offset) -> Self {
        let mended = Self::sealed_at(Arc::clone(&self.home), self.base, Vec::new());
        mended.set_file(file);
        mended.put_index(index);
        mended.mark_index_saved(false);
        mended.seal(bytes);
        mended.next_base.set(end.value().cast_unsigned());
        // It is as old as it was, whatever its new file says.
        if let Some(written) = self.written.get() {
            mended.written.set(written);
        }
        mended
    }

    /// Notes that these ranges cannot be read; returns whether anything of them was not known.
    pub(crate) fn add_holes(&self, met: Vec<Hole>) -> bool {
        !met.is_empty() && self.holes.add(met)
    }

    /// Whether the list of damage on disk has other holes for it.
    pub(crate) fn has_unsaved_holes(&self) -> bool {
        self.holes.is_unsaved()
    }

    /// The list of damage was written, or is about to be.
    pub(crate) fn mark_holes_saved(&self, is_saved: bool) {
        self.holes.set_unsaved(!is_saved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(bytes: std::ops::Range<u64>, offsets: std::ops::Range<i64>) -> Hole {
        let offset = |value| Offset::new(value).unwrap();
        let cause = (!bytes.is_empty()).then_some(CorruptionKind::FoundEarlier);
        Hole { bytes, offsets: offset(offsets.start)..offset(offsets.end), cause }
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        let known = KnownHoles::new(vec![hole(10..20, 1..2)]);
        assert!(!known.add(vec![hole(10..20, 1..2)]), "known already");
        assert!(!known.add(vec![hole(12..15, 1..2)]), "lies within");
        assert!(known.add(vec![hole(20..30, 2..3), hole(40..50, 5..6)]));
        assert_eq!(*known.list(), [hole(10..30, 1..3), hole(40..50, 5..6)]);
        assert!(known.add(vec![hole(25..45, 2..6)]));
        assert_eq!(*known.list(), [hole(10..50, 1..6)]);
        assert!(known.add(vec![hole(50..50, 6..9)]), "missing records are no bad bytes");
        assert_eq!(*known.list(), [hole(10..50, 1..6), hole(50..50, 6..9)]);
    }

    #[test]
    fn the_list_is_bounded() {
        let many = (0..5000).map(|n| hole(n * 10..n * 10 + 5, 1..2)).collect();
        let known = KnownHoles::new(Vec::new());
        assert!(known.list().is_empty());
        assert!(known.add(many));
        let list = known.list();
        assert_eq!((list.len(), list.last().unwrap().bytes.end), (HOLES_MAX, 49_995));
    }
}
