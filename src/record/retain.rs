//! Which records of a batch are kept, and the batch of those (Kafka's `MemoryRecords.filterTo`).

use super::batch::{BatchHeader, BatchView};
use crate::error::InvalidBatch;

/// A batch whose bytes are those that its CRC was taken over. What cannot be had is what is damaged and signed anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerifiedBatch<'a>(BatchView<'a>);

impl<'a> VerifiedBatch<'a> {
    /// Checks the CRC.
    pub(crate) fn verify(view: BatchView<'a>) -> Result<Self, InvalidBatch> {
        view.verify_crc().map(|()| Self(view))
    }

    /// The decoded header.
    pub(crate) fn header(&self) -> &BatchHeader {
        self.0.header()
    }

    /// The batch.
    pub(crate) fn view(&self) -> &BatchView<'a> {
        &self.0
    }
}

/// What decides over a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) offset: crate::units::Offset,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) is_tombstone: bool,
}

/// Reads records for the learning scan and the filter; keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct Retainer {}

impl Retainer {
    /// Shows `visit` each record; expands to at most `limit` bytes. For the learning scan.
    pub(crate) fn read<E: From<InvalidBatch>>(
        &mut self,
        _batch: &VerifiedBatch<'_>,
        _limit: u32,
        _visit: impl FnMut(Candidate<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        unimplemented!()
    }
}
