//! What a pass is told.

use super::budget::{LearningMemory, PassMemory};
use super::error::CleanError;
use crate::units::Offset;

/// The least memory that a pass can be given.
pub const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// How a log is cleaned. What belongs to the topic (lags, delete retention, segment sizes) is in its
/// [`LogConfig`](crate::LogConfig).
///
/// ```
/// use alluvium::CleanOptions;
/// let options = CleanOptions::default().with_memory(4 << 20);
/// assert_eq!(options.memory_bytes, 4 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanOptions {
    /// What the pass may hold at once: offset map, buffers, bitmaps. At least [`MEMORY_BYTES_MIN`]. Codecs' working
    /// memory is apart, bounded by `max_decompressed_bytes` and one batch. Default 64 MiB.
    pub memory_bytes: u64,
    /// How many bytes of spill files there may be, when the keys of the dirty range do not fit the memory. `None` is
    /// what the file system has free, 0 never spills: the pass is then a partial one. Default `None`.
    pub spill_bytes_max: Option<u64>,
    /// The largest group of new segments that is written before the old ones are freed, in bytes: for a disk that is
    /// nearly full. `None` is no bound but the segments' own. Default `None`.
    pub group_bytes_max: Option<u64>,
    /// Nothing at or past this offset is cleaned, besides what the log itself forbids. Default `None`.
    pub upper: Option<Offset>,
    /// Whether a pass is made although nothing is dirty, for tombstones and markers whose time has passed meanwhile.
    /// Default true.
    pub cleans_clean: bool,
    /// Whether clean pages that the pass has read are dropped from the page cache. Default true.
    pub drops_cache: bool,
    /// Of the memory no more is for keys, so that few of them are too many.
    pub(crate) keys_bytes_max: Option<usize>,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            spill_bytes_max: None,
            group_bytes_max: None,
            upper: None,
            cleans_clean: true,
            drops_cache: true,
            keys_bytes_max: None,
        }
    }
}

impl CleanOptions {
    /// With so much memory.
    #[must_use]
    pub fn with_memory(self, memory_bytes: u64) -> Self {
        Self { memory_bytes, ..self }
    }

    /// With at most so much disk for spilling.
    #[must_use]
    pub fn with_spill(self, spill_bytes_max: u64) -> Self {
        Self { spill_bytes_max: Some(spill_bytes_max), ..self }
    }

    /// In groups of new segments of at most so many bytes.
    #[must_use]
    pub fn in_groups_of(self, group_bytes_max: u64) -> Self {
        Self { group_bytes_max: Some(group_bytes_max), ..self }
    }

    /// Up to `upper`, exclusive, at the most.
    #[must_use]
    pub fn up_to(self, upper: Offset) -> Self {
        Self { upper: Some(upper), ..self }
    }

    /// With a map of keys of at most so many bytes, 128 or more: for tests, which come to spilled and partial passes by a
    /// few keys then. What is spilled is resolved in as little as works.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn with_small_map(self, bytes: usize) -> Self {
        Self { keys_bytes_max: Some(bytes.max(128)), ..self }
    }

    /// Refuses what a cleaner cannot work with. A pass of one that runs several at a time may have less.
    pub(crate) fn validate(&self) -> Result<(), CleanError> {
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return Err(CleanError::Options { memory_bytes: self.memory_bytes, min: MEMORY_BYTES_MIN });
        }
        Ok(())
    }

    /// The memory in which keys are learned.
    pub(super) fn map_memory(&self) -> Result<LearningMemory, CleanError> {
        let memory = self.memory()?.learning();
        Ok(self.keys_bytes_max.map_or(memory, |max| memory.at_most(max)))
    }

    /// The memory in which keys that were spilled are resolved.
    pub(super) fn spill_memory(&self) -> Result<LearningMemory, CleanError> {
        let memory = self.memory()?.learning();
        Ok(self.keys_bytes_max.map_or(memory, |_| memory.at_most(LearningMemory::SPILL_BYTES_MIN)))
    }

    /// The memory of one pass.
    pub(super) fn memory(&self) -> Result<PassMemory, CleanError> {
        let bytes = usize::try_from(self.memory_bytes).unwrap_or(usize::MAX);
        PassMemory::new(bytes)
            .map_err(|_| CleanError::Options { memory_bytes: self.memory_bytes, min: PassMemory::BYTES_MIN as u64 })
    }
}
