//! Room for decompressed bytes, never more than the limit and one byte that shows that it was passed.

use crate::error::InvalidBatch;

/// Where a first guess starts: most batches fit.
const FIRST_BYTES: usize = 16 << 10;

/// The output of a decompressor, bounded.
pub(super) struct Output<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Output<'a> {
    /// Starts with room for what `blob_bytes` compressed bytes typically become.
    pub(super) fn new(bytes: &'a mut Vec<u8>, limit: u32, blob_bytes: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX - 1);
        let mut output = Self { bytes, limit };
        output.make_room(blob_bytes.saturating_mul(4).max(FIRST_BYTES));
        output
    }

    /// Makes the room at least as large as `wanted` in all, as far as the limit allows.
    pub(super) fn make_room(&mut self, wanted: usize) {
        let wanted = wanted.min(self.limit + 1);
        self.bytes.reserve_exact(wanted.saturating_sub(self.bytes.len()));
    }

    /// Doubles the room, as far as the limit allows.
    #[cfg(any(feature = "gzip", feature = "zstd"))]
    pub(super) fn grow(&mut self) {
        self.make_room(self.bytes.len().saturating_mul(2).max(FIRST_BYTES));
    }

    /// Appends `more`, or refuses what passes the limit.
    #[cfg(feature = "lz4")]
    pub(super) fn extend(&mut self, more: &[u8]) -> Result<(), InvalidBatch> {
        self.check(self.bytes.len().saturating_add(more.len()) as u64)?;
        if self.bytes.capacity() - self.bytes.len() < more.len() {
            self.make_room(self.bytes.len().saturating_mul(2).max(self.bytes.len() + more.len()));
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Refuses a size past the limit.
    pub(super) fn check(&self, bytes: u64) -> Result<(), InvalidBatch> {
        let limit = self.limit as u64;
        if bytes > limit { Err(InvalidBatch::Bomb { limit }) } else { Ok(()) }
    }
}
