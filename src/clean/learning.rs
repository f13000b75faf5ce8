//! What was read becomes verdicts: which offsets are superseded.

use std::ops::Range;

use super::budget::LearningMemory;
use super::key_hash::KeyHasher;
use super::spill::SpillFiles;
use crate::error::IoFailure;
use crate::units::Offset;

/// Takes note of keys and the offsets of their records, in rising order of offsets.
#[derive(Debug)]
pub(super) struct Learning {}

/// Whether a record could be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It was.
    Taken,
    /// It was not, nor will any later one be: [`Learning::full_at`] is the first offset that was not.
    Full,
}

/// What learning has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LearningCounts {
    /// Records noted.
    pub(super) notes: u64,
    /// Distinct keys among them, as far as is known: in spill mode what was resolved.
    pub(super) keys: u64,
    /// Offsets found superseded; in map mode those of the dirty range alone.
    pub(super) superseded: u64,
    /// Bytes of spilled records written, over all levels.
    pub(super) spilled_bytes: u64,
    /// Bytes of superseded offsets written.
    pub(super) mark_bytes: u64,
    /// Bytes of both read back.
    pub(super) read_bytes: u64,
    /// Levels of spilling, 1 where no partition had to be split again; 0 in map mode.
    pub(super) levels: u32,
    /// Memory allocated now.
    pub(super) memory_bytes: usize,
    /// The most memory that was allocated at a time.
    pub(super) memory_peak_bytes: usize,
}

impl Learning {
    /// Keys of the dirty range are kept in memory. Once there is no room for another one, [`Noted::Full`]: the pass ends
    /// at [`Learning::full_at`], or spills.
    pub(super) fn in_map(hasher: KeyHasher, memory: LearningMemory, dirty: Range<Offset>) -> Self {
        unimplemented!("{hasher:?} {memory:?} {dirty:?}")
    }

    /// Keys of the whole range, head and dirty, go to files; never [`Noted::Full`].
    pub(super) fn in_spill(
        hasher: KeyHasher,
        memory: LearningMemory,
        files: SpillFiles,
        whole: Range<Offset>,
    ) -> Result<Self, IoFailure> {
        unimplemented!("{hasher:?} {memory:?} {files:?} {whole:?}")
    }

    /// Notes that the record at `offset` has `key`. Offsets rise from call to call.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> Result<Noted, IoFailure> {
        self.note_all([(key, offset)])
    }

    /// Notes several records, offsets rising; faster than one by one, because their places are looked up together.
    pub(super) fn note_all<'k>(
        &mut self,
        records: impl IntoIterator<Item = (&'k [u8], Offset)>,
    ) -> Result<Noted, IoFailure> {
        unimplemented!("{}", records.into_iter().count())
    }

    /// The first offset that found no room; nothing from there on was noted.
    pub(super) fn full_at(&self) -> Option<Offset> {
        unimplemented!()
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        unimplemented!()
    }

    /// Begins to decide. A map has nothing left to do; spilled records are read back in steps.
    pub(super) fn finish(self) -> Finishing {
        unimplemented!()
    }
}

/// Spilled records on their way to verdicts.
#[derive(Debug)]
pub(super) struct Finishing {}

impl Finishing {
    /// Reads and writes about `bytes_max` bytes. The verdicts once they are complete. After an error, or after the
    /// verdicts, drop it.
    pub(super) fn step(&mut self, bytes_max: u64) -> Result<Option<Verdicts>, IoFailure> {
        unimplemented!("{bytes_max}")
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        unimplemented!()
    }
}

/// Which offsets are superseded.
#[derive(Debug)]
pub(super) struct Verdicts {}

impl Verdicts {
    /// Whether the record at `offset` is superseded. Asked in rising order of offsets, only of records that were noted or
    /// that lie below the dirty range. `key` is called only where the answer depends on it; without a key the record is
    /// not superseded.
    pub(super) fn is_superseded<'k>(
        &mut self,
        offset: Offset,
        key: impl FnOnce() -> Option<&'k [u8]>,
    ) -> Result<bool, IoFailure> {
        unimplemented!("{offset} {:?}", key())
    }

    /// How many offsets in `range` are superseded, where that is known without keys: then a batch of which all records
    /// are need not be read. Asked in rising order, together with [`Verdicts::is_superseded`].
    pub(super) fn superseded_in(&mut self, range: Range<Offset>) -> Result<Option<u64>, IoFailure> {
        unimplemented!("{range:?}")
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        unimplemented!()
    }
}
