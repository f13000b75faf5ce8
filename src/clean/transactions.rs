//! Transactions as a pass meets them (Kafka's `CleanedTransactionMetadata`).
use crate::error::InvalidBatch;
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, VerifiedBatch};
use crate::units::Offset;

/// What a batch is to the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Data that counts, as far as transactions are concerned.
    Data,
    /// Data of a transaction that was aborted.
    AbortedData,
    /// A marker.
    Marker(SeenMarker),
    /// A control batch that decides no transaction; `is_emptied` when its record was removed before.
    OtherControl { is_emptied: bool },
}

/// What a marker stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenMarker {
    /// No batch of its transaction was met.
    pub(crate) is_of_empty: bool,
    /// The transaction that it aborts, as the transaction index has it.
    pub(crate) aborted: Option<AbortedTxn>,
}

/// Why saved transactions cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SavedFault {
    /// An unknown version.
    #[error("saved transactions have version {found}, which is unknown to this build")]
    Version { found: u16 },
    /// Lengths and contents disagree.
    #[error("saved transactions end early or late, at {bytes} bytes")]
    Length { bytes: u64 },
    /// An impossible number.
    #[error("the {field} in the saved transactions is impossible")]
    Field { field: &'static str },
}

/// Transactions met so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CleanedTransactions {}

impl CleanedTransactions {
    /// Adds aborted transactions of the range, in any order, as often as one likes.
    pub(crate) fn expect_aborted(&mut self, _aborted: impl IntoIterator<Item = AbortedTxn>) {
        unimplemented!()
    }

    /// For the learning scan: whether data is aborted. Batches in offset order.
    pub(crate) fn is_aborted(&mut self, _header: &BatchHeader) -> bool {
        unimplemented!()
    }

    /// For the rewrite: takes the next batch.
    pub(crate) fn observe(&mut self, _batch: &VerifiedBatch<'_>) -> Result<Seen, InvalidBatch> {
        unimplemented!()
    }

    /// Offset after the last batch observed.
    pub(crate) fn position(&self) -> Offset {
        unimplemented!()
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        unimplemented!()
    }

    pub(crate) fn save(&self) -> Vec<u8> {
        unimplemented!()
    }

    pub(crate) fn restore(_bytes: &[u8]) -> Result<Self, SavedFault> {
        unimplemented!()
    }
}
