//! How much memory the cleaner may have, and for what.
//!
//! [`CleanerMemory`] is all of it; each pass that runs at a time has an equal [`PassMemory`]; of that a part is for
//! reading and writing batches and the rest for learning keys: map, bitmaps, and buffers of spill files. The memory that
//! codecs work in comes on top: it is bounded by the largest batch and not by the number of keys.

use std::num::NonZeroUsize;

use super::map::OffsetMap;

/// All the memory that the cleaner may have, however many of its passes run at a time.
///
/// ```
/// use alluvium::clean::CleanerMemory;
/// use std::num::NonZeroUsize;
/// let memory = CleanerMemory::new(4 << 20).unwrap();
/// let pass = memory.share(NonZeroUsize::new(4).unwrap()).unwrap();
/// assert_eq!(pass.bytes(), 1 << 20);
/// assert!(CleanerMemory::new(1000).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanerMemory {
    bytes: usize,
}

impl CleanerMemory {
    /// Less than this is refused: passes would write and read spill files more than they clean.
    pub const BYTES_MIN: usize = 1 << 20;

    /// So many bytes, of which there must be [`CleanerMemory::BYTES_MIN`].
    pub fn new(bytes: usize) -> Result<Self, MemoryError> {
        if bytes < Self::BYTES_MIN {
            return Err(MemoryError::TooLittle { bytes, bytes_min: Self::BYTES_MIN });
        }
        Ok(Self { bytes })
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// What each pass has when `passes` run at a time.
    pub fn share(self, passes: NonZeroUsize) -> Result<PassMemory, MemoryError> {
        PassMemory::new(self.bytes / passes)
    }
}

/// The memory of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassMemory {
    bytes: usize,
}

impl PassMemory {
    /// Less than this is refused: one cleaner of the least memory shares it among eight passes at most.
    pub const BYTES_MIN: usize = CleanerMemory::BYTES_MIN / 8;
    const BUFFER_BYTES_MIN: usize = 64 << 10;
    const BUFFER_BYTES_MAX: usize = 1 << 20;

    /// So many bytes, of which there must be [`PassMemory::BYTES_MIN`].
    pub fn new(bytes: usize) -> Result<Self, MemoryError> {
        if bytes < Self::BYTES_MIN {
            return Err(MemoryError::TooLittle { bytes, bytes_min: Self::BYTES_MIN });
        }
        Ok(Self { bytes })
    }

    /// The number of bytes.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// How many different keys fit; a pass that meets more spills.
    pub fn keys_max(self) -> u64 {
        OffsetMap::keys_in(self.learning().bytes()) as u64
    }

    /// The part for reading and writing batches: an eighth within limits.
    pub fn buffer_bytes(self) -> usize {
        (self.bytes / 8).clamp(Self::BUFFER_BYTES_MIN, Self::BUFFER_BYTES_MAX)
    }

    /// The part for learning keys: the rest.
    pub(super) fn learning(self) -> LearningMemory {
        LearningMemory { bytes: self.bytes - self.buffer_bytes() }
    }
}

/// The memory in which keys are learned and verdicts kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LearningMemory {
    bytes: usize,
}

impl LearningMemory {
    /// The number of bytes.
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// Spilling needs some blocks at a time.
    pub(super) const SPILL_BYTES_MIN: usize = 16 << 10;

    /// Less than a pass would have, so that tests reach what takes millions of keys otherwise.
    pub(super) fn at_most(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.min(bytes) }
    }

    /// So much.
    #[cfg(test)]
    pub(super) fn tiny(bytes: usize) -> Self {
        Self { bytes }
    }
}

/// Why an amount of memory is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// It is too little to clean in.
    #[error(
        "{bytes} bytes of memory are too little to clean in; give {bytes_min} or more, or run fewer passes at a time"
    )]
    TooLittle {
        /// What was given.
        bytes: usize,
        /// What is needed at least.
        bytes_min: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole_and_too_little_is_refused() {
        let too_little = MemoryError::TooLittle { bytes: (1 << 20) - 1, bytes_min: 1 << 20 };
        assert_eq!(CleanerMemory::new((1 << 20) - 1), Err(too_little));
        for bytes in [1_usize << 20, 4 << 20, 64 << 20] {
            for passes in [1, 2, 4, 8] {
                let memory = CleanerMemory::new(bytes).unwrap();
                let pass = memory.share(NonZeroUsize::new(passes).unwrap()).unwrap();
                assert!(pass.bytes() * passes <= memory.bytes());
                assert_eq!(pass.buffer_bytes() + pass.learning().bytes(), pass.bytes());
                assert!(pass.learning().bytes() >= 64 << 10);
            }
        }
        assert!(CleanerMemory::new(1 << 20).unwrap().share(NonZeroUsize::new(9).unwrap()).is_err());
    }
}
