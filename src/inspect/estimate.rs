//! What a pass over a log would read, write and free.
//!
//! Keys are told apart by 64 bits of a hash. While they fit the memory, every key is counted; past that only those whose
//! hash ends with so many zeros, one more each time the memory is full, so that what is counted stands for all. Sizes of
//! compressed batches are shared out evenly among their records.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use super::InspectError;
use super::records::Seen;
use super::survey::CleanSurvey;
use crate::clean::{CleanMode, OffsetMap, PassMemory};
use crate::units::Offset;

/// Bytes that a key takes here, about.
const KEY_BYTES: u64 = 48;
/// Of a pass that spills: bytes for each record, a level.
const SPILLED_RECORD_BYTES: u64 = 24;

/// What a pass would do, about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanEstimate {
    /// How it would know what is superseded.
    pub mode: CleanMode,
    /// The memory that it would have.
    pub memory_bytes: u64,
    /// Keys that fit that memory at a time.
    pub keys_max: u64,
    /// Records that may be cleaned.
    pub records: u64,
    /// Records of them that would go.
    pub records_removed: u64,
    /// Different keys in the dirty range.
    pub dirty_keys: u64,
    /// One in so many keys was counted; 1 is all of them.
    pub sampled: u64,
    /// Bytes that it would read.
    pub bytes_read: u64,
    /// Bytes that it would write into new segments.
    pub bytes_written: u64,
    /// Bytes that it would write into spill files.
    pub bytes_spilled: u64,
    /// Bytes that would be free afterwards.
    pub bytes_freed: u64,
}

/// The newest record of a key so far.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    bytes: u64,
    /// It goes although it is the newest.
    is_expired: bool,
}

/// Counts keys within a bound of memory.
#[derive(Debug)]
struct Sample {
    hasher: RandomState,
    keys: HashMap<u64, Entry>,
    keys_max: usize,
    /// Hashes that end with so many zeros are counted.
    zeros: u32,
    removed_records: u64,
    removed_bytes: u64,
}

impl Sample {
    fn new(memory_bytes: u64) -> Self {
        let keys_max = usize::try_from(memory_bytes / KEY_BYTES).unwrap_or(usize::MAX).max(1);
        let (hasher, keys) = (RandomState::new(), HashMap::new());
        Self { hasher, keys, keys_max, zeros: 0, removed_records: 0, removed_bytes: 0 }
    }

    fn note(&mut self, key: &[u8], entry: Entry) {
        let hash = self.hasher.hash_one(key);
        if hash.trailing_zeros() < self.zeros {
            return;
        }
        if let Some(before) = self.keys.insert(hash, entry) {
            self.remove(before.bytes);
        }
        while self.keys.len() > self.keys_max && self.zeros < u64::BITS - 1 {
            self.zeros += 1;
            let zeros = self.zeros;
            self.keys.retain(|hash, _| hash.trailing_zeros() >= zeros);
            // What was counted of the others stood for half as many keys.
            (self.removed_records, self.removed_bytes) = (self.removed_records / 2, self.removed_bytes / 2);
        }
    }

    fn remove(&mut self, bytes: u64) {
        self.removed_records = self.removed_records.saturating_add(1);
        self.removed_bytes = self.removed_bytes.saturating_add(bytes);
    }

    fn scale(&self) -> u64 {
        1 << self.zeros
    }
}

/// What goes whatever its key is.
#[derive(Debug, Default)]
struct Plain {
    records: u64,
    removed_records: u64,
    removed_bytes: u64,
}

impl CleanSurvey {
    /// What a pass with so much memory would do now. Reads the cleanable part of the log, and holds no more memory than
    /// the pass would. `spills` says whether there is disk for keys that do not fit.
    ///
    /// # Errors
    /// [`InspectError`] when a file cannot be read.
    pub fn estimate(&self, memory_bytes: u64, spills: bool) -> Result<CleanEstimate, InspectError> {
        let range = &self.outlook().range;
        let from = range.retention_to.unwrap_or(range.log_start);
        let (mut sample, mut plain) = (Sample::new(memory_bytes), Plain::default());
        if from < range.secure_to {
            self.visit(&(from..range.secure_to), |seen| {
                self.count(seen, &mut sample, &mut plain);
                ControlFlow::Continue(())
            })?;
        }
        let expired: Vec<u64> =
            sample.keys.values().filter(|entry| entry.is_expired).map(|entry| entry.bytes).collect();
        for bytes in expired {
            sample.remove(bytes);
        }
        Ok(self.told(&sample, &plain, memory_bytes, spills))
    }

    fn count(&self, seen: &Seen<'_>, sample: &mut Sample, plain: &mut Plain) {
        plain.records = plain.records.saturating_add(1);
        let offset = seen.record.offset;
        let is_kept_whole =
            self.segments.iter().any(|segment| segment.has_holes && (segment.base..segment.end).contains(&offset));
        let bytes = if is_kept_whole { 0 } else { seen.bytes };
        if seen.header.attributes.is_control() {
            return;
        }
        let Some(key) = seen.record.key.filter(|_| seen.aborted.is_none()) else {
            plain.removed_records = plain.removed_records.saturating_add(u64::from(!is_kept_whole));
            plain.removed_bytes = plain.removed_bytes.saturating_add(bytes);
            return;
        };
        let has_passed = seen.header.delete_horizon().is_some_and(|horizon| horizon <= self.options.now);
        let is_expired = seen.record.value.is_none() && has_passed && self.damage().is_empty();
        sample.note(key, Entry { offset, bytes, is_expired });
    }

    fn told(&self, sample: &Sample, plain: &Plain, memory_bytes: u64, spills: bool) -> CleanEstimate {
        let range = &self.outlook().range;
        let sampled = sample.scale();
        let is_dirty = |entry: &&Entry| entry.offset >= range.first_dirty;
        let in_sample = sample.keys.values().filter(is_dirty).count() as u64;
        let dirty_keys = in_sample.saturating_mul(sampled);
        let keys_max = keys_max(memory_bytes);
        let mode = match dirty_keys <= keys_max {
            true => CleanMode::Map,
            false if spills => CleanMode::Spill,
            false => CleanMode::Partial,
        };
        let sealed = self.segments.iter().filter(|segment| !segment.is_active && segment.base < range.secure_to);
        let whole = sealed.map(|segment| segment.bytes).fold(0, u64::saturating_add);
        let removed = |plain: u64, sample: u64| plain.saturating_add(sample.saturating_mul(sampled));
        let bytes_freed = removed(plain.removed_bytes, sample.removed_bytes).min(whole);
        let bytes_spilled =
            if mode == CleanMode::Spill { plain.records.saturating_mul(SPILLED_RECORD_BYTES) } else { 0 };
        // Learning, and then rewriting; who spills reads the whole log once more, and what it spilled.
        let learned = range.dirty_bytes.saturating_add(if mode == CleanMode::Spill { whole } else { 0 });
        CleanEstimate {
            mode,
            memory_bytes,
            keys_max,
            records: plain.records,
            records_removed: removed(plain.removed_records, sample.removed_records).min(plain.records),
            dirty_keys,
            sampled,
            bytes_read: whole.saturating_add(learned).saturating_add(bytes_spilled),
            bytes_written: whole.saturating_sub(bytes_freed),
            bytes_spilled,
            bytes_freed,
        }
    }
}

/// Keys that the offset map of a pass holds. Some of the memory goes to a bitmap over the dirty range, which is left out
/// where it would take too much.
fn keys_max(memory_bytes: u64) -> u64 {
    let bytes = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
    let buffers = PassMemory::new(bytes).map_or(0, PassMemory::buffer_bytes);
    let slots = bytes.saturating_sub(buffers) / OffsetMap::SLOT_BYTES;
    (slots / 100).saturating_mul(OffsetMap::LOAD_PER_CENT) as u64
}
