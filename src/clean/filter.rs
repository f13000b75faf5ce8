//! What is kept of a batch (Kafka's `Cleaner.cleanInto` and `MemoryRecords.filterTo`).
use std::collections::BTreeMap;
use std::ops::Range;

use super::transactions::{CleanedTransactions, SavedFault};
use crate::error::{IoFailure, RecompressError};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, VerifiedBatch};
use crate::units::{Offset, ProducerEpoch, ProducerId, TimestampMs};

/// Who knows which records are superseded. Asked in rising offset order.
pub(crate) trait SupersededBy {
    /// Whether a newer record has the key of the one at `offset`.
    fn is_superseded(&mut self, offset: Offset, key: &[u8]) -> Result<bool, IoFailure>;

    /// How many of the offsets in `range` are superseded, where that is known without their keys.
    fn superseded_in(&mut self, _range: Range<Offset>) -> Option<u64> {
        None
    }
}

/// What a log still has to remember of an active producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastOfProducer {
    /// Its current epoch.
    pub(crate) epoch: ProducerEpoch,
    /// Last offset of its last data batch in that epoch.
    pub(crate) last_data_offset: Option<Offset>,
}

/// What holds for a pass.
#[derive(Clone, Debug)]
pub(crate) struct FilterRules {
    /// The time of the pass; a resumed one keeps it.
    pub(crate) now: TimestampMs,
    /// `delete.retention.ms`.
    pub(crate) delete_retention_ms: u64,
    /// Nothing at or past it changes.
    pub(crate) upper: Offset,
    /// Lowest offset of a hole; tombstones and markers past it stay. [`Offset::MAX`] without holes.
    pub(crate) tombstones_removable_below: Offset,
    /// What a batch may expand to.
    pub(crate) decompressed_bytes_max: u32,
    /// Every active producer.
    pub(crate) last_of_producers: BTreeMap<ProducerId, LastOfProducer>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `out` has its very bytes.
    Unchanged,
    /// `out` has it with fewer records, or with a delete horizon.
    Rebuilt,
    /// `out` has its header alone.
    Emptied,
    /// `out` has nothing of it.
    Dropped,
}

/// What became of a batch, and what to know besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// An entry for the transaction index of the new segment.
    pub(crate) carried: Option<AbortedTxn>,
    /// Why it was kept as it is without being read: tell it.
    pub(crate) unread: Option<RecompressError>,
}

/// Counts of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterCounts {
    pub(crate) batches_unchanged: u64,
    pub(crate) batches_rebuilt: u64,
    pub(crate) batches_emptied: u64,
    pub(crate) batches_dropped: u64,
    pub(crate) batches_unread: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_kept: u64,
    pub(crate) records_read: u64,
    pub(crate) records_kept: u64,
    pub(crate) superseded: u64,
    pub(crate) aborted: u64,
    pub(crate) invalid: u64,
    pub(crate) tombstones_kept: u64,
    pub(crate) tombstones_removed: u64,
    pub(crate) markers_kept: u64,
    pub(crate) markers_removed: u64,
    pub(crate) horizons_set: u64,
}

/// Decides batch by batch.
#[derive(Debug)]
pub(crate) struct BatchFilter {}

impl BatchFilter {
    /// At the log start, or with transactions as they stood before the next batch.
    pub(crate) fn new(_rules: FilterRules, _transactions: CleanedTransactions) -> Self {
        unimplemented!()
    }

    /// As it stood when it was saved; aborted transactions are to be given again.
    pub(crate) fn resume(_rules: FilterRules, _saved: &[u8]) -> Result<Self, SavedFault> {
        unimplemented!()
    }

    /// What `resume` needs, between two batches.
    pub(crate) fn save(&self) -> Vec<u8> {
        unimplemented!()
    }

    /// Adds aborted transactions, in any order, again if need be.
    pub(crate) fn expect_aborted(&mut self, _aborted: impl IntoIterator<Item = AbortedTxn>) {
        unimplemented!()
    }

    /// Appends to `out` what is kept of `batch`, in every case.
    pub(crate) fn filter<V: SupersededBy + ?Sized>(
        &mut self,
        _batch: &VerifiedBatch<'_>,
        _verdicts: &mut V,
        _out: &mut Vec<u8>,
    ) -> Result<Filtered, IoFailure> {
        unimplemented!()
    }

    /// Takes notice of a batch in a segment that is left as it is.
    pub(crate) fn observe_left(&mut self, _batch: &VerifiedBatch<'_>) {
        unimplemented!()
    }

    /// A hole was met there.
    pub(crate) fn forbid_removal_past(&mut self, _hole: Offset) {
        unimplemented!()
    }

    /// Whether a batch can go by its header alone, of whose records `superseded` are superseded.
    pub(crate) fn is_removable_unread(&mut self, _header: &BatchHeader, _superseded: u64) -> bool {
        unimplemented!()
    }

    /// Removes such a batch.
    pub(crate) fn remove_unread(&mut self, _header: &BatchHeader) {
        unimplemented!()
    }

    /// Counts so far.
    pub(crate) fn counts(&self) -> &FilterCounts {
        unimplemented!()
    }
}
