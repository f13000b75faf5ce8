//! What was read becomes verdicts: which offsets are superseded.
//!
//! *In the map*: keys of the dirty range are kept in an [`OffsetMap`], the newest offset of each. A record of the clean
//! head is superseded if its key is in the map, one of the dirty range if the map has a later offset for its key; where a
//! bitmap of the dirty range fits an eighth of the memory, that is known without asking for the key.
//!
//! *In spill*: pairs of hash and offset of every record, head and dirty, go to files and come back as superseded
//! offsets (`spill/`). Bytes written are 16 a record for the first level, and again for each further level for
//! those that it takes, plus 40 a block; and two to four for a superseded record, again where the range is so wide that windows are split.
//!
//! ```text
//! Learning --note, note_all--> Learning --finish--> Finishing --step ..--> Verdicts --is_superseded, superseded_in-->
//! ```

use std::hint::black_box;
use std::ops::Range;

use super::budget::LearningMemory;
use super::key_hash::{KeyHash, KeyHasher};
use super::map::{OffsetMap, Put};
use super::spill::{Bitmap, Pairs, Quantiles, Resolve, Resolved, Sizes, SpillFiles, Windows};
use crate::error::IoFailure;
use crate::units::Offset;

/// Keys that are hashed, and their places in the map touched, before the first of them is put.
const TOGETHER: usize = 32;

/// Takes note of keys and the offsets of their records, in rising order of offsets.
#[derive(Debug)]
pub(super) struct Learning {
    hasher: KeyHasher,
    into: Into,
    notes: u64,
}

#[derive(Debug)]
enum Into {
    Map(MapLearning),
    Spill(SpillLearning),
}

#[derive(Debug)]
struct MapLearning {
    dirty: Range<Offset>,
    map: OffsetMap,
    /// Superseded offsets of the dirty range, where there is room for it.
    superseded: Option<Bitmap>,
    full_at: Option<Offset>,
}

#[derive(Debug)]
struct SpillLearning {
    whole: Range<Offset>,
    files: SpillFiles,
    sizes: Sizes,
    pairs: Pairs,
    /// Where the records lie.
    quantiles: Quantiles,
}

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
    /// Keys of the dirty range are kept in memory. Once there is no room for another one, or an offset is too far from
    /// the first for the map, [`Noted::Full`]: the pass ends at [`Learning::full_at`], or spills.
    pub(super) fn in_map(hasher: KeyHasher, memory: LearningMemory, dirty: Range<Offset>) -> Self {
        let fits = |bytes: &usize| *bytes <= memory.bytes() / 8;
        let superseded = Bitmap::bytes_for(&dirty).filter(fits).map(|_| Bitmap::new(dirty.clone()));
        let taken = superseded.as_ref().map_or(0, Bitmap::memory_bytes);
        // There are no more keys than offsets: the memory for more would be cleared for nothing.
        let keys = dirty.end.distance_from(dirty.start);
        let map_bytes = memory.bytes().saturating_sub(taken).min(OffsetMap::roomy_bytes(keys));
        let map = OffsetMap::new(map_bytes, dirty.start);
        Self { hasher, into: Into::Map(MapLearning { dirty, map, superseded, full_at: None }), notes: 0 }
    }

    /// Keys of the whole range, head and dirty, go to files; never [`Noted::Full`].
    pub(super) fn in_spill(
        hasher: KeyHasher,
        memory: LearningMemory,
        mut files: SpillFiles,
        whole: Range<Offset>,
    ) -> Result<Self, IoFailure> {
        let sizes = Sizes::of(memory.bytes());
        let pairs = Pairs::begin(&mut files, sizes)?;
        let quantiles = Quantiles::new(sizes.windows);
        Ok(Self { hasher, into: Into::Spill(SpillLearning { whole, files, sizes, pairs, quantiles }), notes: 0 })
    }

    /// Notes that the record at `offset` has `key`. Offsets rise from call to call.
    #[cfg(test)]
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> Result<Noted, IoFailure> {
        self.note_all([(key, offset)])
    }

    /// Notes several records, offsets rising; faster than one by one, because their places are looked up together.
    pub(super) fn note_all<'k>(
        &mut self,
        records: impl IntoIterator<Item = (&'k [u8], Offset)>,
    ) -> Result<Noted, IoFailure> {
        let hasher = self.hasher;
        let pairs = records.into_iter().map(|(key, offset)| (hasher.hash(key), offset));
        match &mut self.into {
            Into::Map(learning) => Ok(learning.note_all(pairs, &mut self.notes)),
            Into::Spill(learning) => {
                for (hash, offset) in pairs {
                    learning.pairs.put(hash, offset)?;
                    learning.quantiles.note(offset);
                    self.notes += 1;
                }
                Ok(Noted::Taken)
            }
        }
    }

    /// The first offset that found no room; nothing from there on was noted.
    pub(super) fn full_at(&self) -> Option<Offset> {
        match &self.into {
            Into::Map(learning) => learning.full_at,
            Into::Spill(_) => None,
        }
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        match &self.into {
            Into::Map(learning) => learning.counts(self.notes),
            Into::Spill(learning) => LearningCounts {
                notes: self.notes,
                spilled_bytes: learning.pairs.traffic().written,
                levels: 1,
                memory_bytes: learning.memory_bytes(),
                memory_peak_bytes: learning.memory_bytes(),
                ..LearningCounts::default()
            },
        }
    }

    /// Begins to decide. A map has nothing left to do; spilled records are read back in steps.
    pub(super) fn finish(self) -> Finishing {
        let counts = self.counts();
        Finishing { state: Some(State::Learned(Box::new(self))), counts }
    }
}

impl MapLearning {
    fn note_all(&mut self, mut hashed: impl Iterator<Item = (KeyHash, Offset)>, notes: &mut u64) -> Noted {
        let mut batch = [None; TOGETHER];
        loop {
            let mut count = 0;
            for (place, pair) in batch.iter_mut().zip(hashed.by_ref()) {
                *place = Some(pair);
                count += 1;
            }
            // Fetches the lines of all of them before the first is waited for. Not while hashing: that takes so many
            // instructions that the processor would reach the next key's line only when it has this one's.
            for (hash, _) in batch.iter().take(count).flatten() {
                black_box(self.map.touch(*hash));
            }
            for (hash, offset) in batch.iter().take(count).flatten() {
                if self.note(*hash, *offset) == Noted::Full {
                    return Noted::Full;
                }
                *notes += 1;
            }
            if count < TOGETHER {
                return Noted::Taken;
            }
        }
    }

    #[inline]
    fn note(&mut self, hash: KeyHash, offset: Offset) -> Noted {
        if self.full_at.is_some() {
            return Noted::Full;
        }
        match self.map.put(hash, offset) {
            Put::New => {}
            Put::Known(before) => {
                if let Some(superseded) = self.superseded.as_mut().filter(|_| before != offset) {
                    superseded.set(before.min(offset));
                }
            }
            Put::Full => {
                self.full_at = Some(offset);
                return Noted::Full;
            }
        }
        Noted::Taken
    }

    fn counts(&self, notes: u64) -> LearningCounts {
        let bitmap_bytes = self.superseded.as_ref().map_or(0, Bitmap::memory_bytes);
        let memory_bytes = self.map.memory_bytes() + bitmap_bytes;
        let keys = self.map.len() as u64;
        LearningCounts {
            notes,
            keys,
            superseded: notes.saturating_sub(keys),
            memory_bytes,
            memory_peak_bytes: memory_bytes,
            ..LearningCounts::default()
        }
    }
}

impl SpillLearning {
    fn memory_bytes(&self) -> usize {
        self.pairs.memory_bytes() + self.quantiles.memory_bytes()
    }
}

/// Spilled records on their way to verdicts.
#[derive(Debug)]
pub(super) struct Finishing {
    /// `None` after the verdicts, and after an error.
    state: Option<State>,
    counts: LearningCounts,
}

#[derive(Debug)]
enum State {
    Learned(Box<Learning>),
    Resolving(KeyHasher, Box<Resolve>),
}

impl Finishing {
    /// Reads and writes about `bytes_max` bytes. The verdicts once they are complete. After an error, or after the
    /// verdicts, drop it.
    pub(super) fn step(&mut self, bytes_max: u64) -> Result<Option<Verdicts>, IoFailure> {
        let Some(state) = self.state.take() else { panic!("there is nothing after the verdicts or an error") };
        let (hasher, mut resolve) = match state {
            State::Resolving(hasher, resolve) => (hasher, resolve),
            State::Learned(learned) => {
                let Learning { hasher, into, notes } = *learned;
                match into {
                    Into::Map(learning) => {
                        self.counts = learning.counts(notes);
                        return Ok(Some(Verdicts { hasher, by: By::Map(learning), counts: self.counts }));
                    }
                    Into::Spill(SpillLearning { whole, files, sizes, pairs, quantiles }) => {
                        (hasher, Box::new(Resolve::begin(files, sizes, pairs, &whole, quantiles)?))
                    }
                }
            }
        };
        let is_resolved = resolve.step(bytes_max)?;
        self.count(&resolve);
        if !is_resolved {
            self.state = Some(State::Resolving(hasher, resolve));
            return Ok(None);
        }
        let by = match resolve.finish()? {
            Resolved::Bitmap(bitmap) => By::Bitmap(bitmap),
            Resolved::Windows(windows) => {
                self.counts.mark_bytes = windows.traffic().written;
                By::Windows(windows)
            }
        };
        Ok(Some(Verdicts { hasher, by, counts: self.counts }))
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        self.counts
    }

    fn count(&mut self, resolve: &Resolve) {
        let (pairs, marks) = (resolve.pair_traffic(), resolve.mark_traffic());
        self.counts = LearningCounts {
            notes: self.counts.notes,
            keys: resolve.keys(),
            superseded: resolve.superseded(),
            spilled_bytes: pairs.written,
            mark_bytes: marks.written,
            read_bytes: pairs.read,
            levels: resolve.depth(),
            memory_bytes: resolve.memory_bytes(),
            memory_peak_bytes: self.counts.memory_peak_bytes.max(resolve.memory_peak_bytes()),
        };
    }
}

/// Which offsets are superseded.
#[derive(Debug)]
pub(super) struct Verdicts {
    hasher: KeyHasher,
    by: By,
    counts: LearningCounts,
}

#[derive(Debug)]
enum By {
    Map(MapLearning),
    Bitmap(Bitmap),
    Windows(Windows),
}

impl Verdicts {
    /// Lets go of what it knows: nobody asks any more. What was counted stays.
    pub(super) fn forget(&mut self) {
        self.by = By::Bitmap(Bitmap::new(Offset::ZERO..Offset::ZERO));
    }

    /// Whether the record at `offset` is superseded. Asked in rising order of offsets, only of records that were noted or
    /// that lie below the dirty range. `key` is called only where the answer depends on it; without a key the record is
    /// not superseded.
    pub(super) fn is_superseded<'k>(
        &mut self,
        offset: Offset,
        key: impl FnOnce() -> Option<&'k [u8]>,
    ) -> Result<bool, IoFailure> {
        match &mut self.by {
            By::Map(learning) => {
                if let Some(superseded) = learning.superseded.as_ref().filter(|_| offset >= learning.dirty.start) {
                    return Ok(superseded.has(offset));
                }
                let newest = key().and_then(|key| learning.map.find(self.hasher.hash(key)));
                Ok(newest.is_some_and(|newest| offset < newest))
            }
            By::Bitmap(bitmap) => Ok(bitmap.has(offset)),
            By::Windows(windows) => windows.has(offset),
        }
    }

    /// How many offsets in `range` are superseded, where that is known without keys: then a batch of which all records
    /// are need not be read. Asked in rising order, together with [`Verdicts::is_superseded`].
    pub(super) fn superseded_in(&mut self, range: Range<Offset>) -> Result<Option<u64>, IoFailure> {
        match &mut self.by {
            By::Map(learning) => {
                let superseded = learning.superseded.as_ref().filter(|_| range.start >= learning.dirty.start);
                Ok(superseded.map(|superseded| superseded.count_in(&range)))
            }
            By::Bitmap(bitmap) => Ok(Some(bitmap.count_in(&range))),
            By::Windows(windows) => windows.count_in(&range),
        }
    }

    /// What it has cost so far.
    pub(super) fn counts(&self) -> LearningCounts {
        let By::Windows(windows) = &self.by else {
            let memory_bytes = match &self.by {
                By::Bitmap(bitmap) => bitmap.memory_bytes(),
                _ => self.counts.memory_bytes,
            };
            return LearningCounts { memory_bytes, ..self.counts };
        };
        let traffic = windows.traffic();
        LearningCounts {
            mark_bytes: traffic.written,
            read_bytes: self.counts.read_bytes.saturating_add(traffic.read),
            memory_bytes: windows.memory_bytes(),
            memory_peak_bytes: self.counts.memory_peak_bytes.max(windows.memory_peak_bytes()),
            ..self.counts
        }
    }
}

#[cfg(test)]
#[path = "learning_tests.rs"]
mod tests;
