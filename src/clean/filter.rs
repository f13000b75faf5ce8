//! What is kept of a batch (Kafka's `Cleaner.cleanInto`, with the fate of batches from `MemoryRecords.filterTo`).
//!
//! Record by record, below the end of the pass:
//!
//! | record | fate |
//! |---|---|
//! | of an aborted transaction | goes, whatever its key |
//! | without key | goes, and is counted: a compacted log has no use for it |
//! | superseded by a newer one of its key | goes |
//! | tombstone whose horizon has passed, no hole below it | goes |
//! | any other | stays |
//!
//! At or past the end of the pass every record stays. Then the batch:
//!
//! | what is left | batch |
//! |---|---|
//! | everything, and no horizon to set | its very bytes |
//! | something, or a horizon to set | rebuilt |
//! | nothing, but its header is needed | 61 bytes: the header alone |
//! | nothing | nothing |
//!
//! A header is needed where it holds the last sequence of an active producer (`producers`), or where it ends the range of
//! the pass: the next offset must not fall back. The marker that holds an active producer's epoch stays whole.
//!
//! A tombstone, and a marker that no transaction needs any more, get a delete horizon when they are met first, once: it
//! is in the batch, and no later pass moves it. They go when the horizon has passed, unless something below them could
//! not be read: a repair may bring back what they hide. A batch that has tombstones past the end of the pass gets its
//! horizon from a later pass, since the values below those are still there.
//!
//! A batch that cannot be read although its checksum is right (it expands past the limit, this build lacks its codec,
//! its records are nonsense) is kept as it is, told, and counts as a hole.

use super::producers::ActiveProducers;
use super::transactions::{CleanedTransactions, SavedFault, Seen, SeenMarker};
use crate::error::{InvalidBatch, IoFailure, RecompressError};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, Candidate, Retainer, VerifiedBatch, put_emptied};
use crate::units::{Offset, TimestampMs};

/// Who knows which records are superseded.
pub(crate) trait SupersededBy {
    /// Whether a newer record has the key of the one at `offset`. Asked in rising offset order, about records with keys
    /// below the end of the pass that were not aborted.
    fn is_superseded(&mut self, offset: Offset, key: &[u8]) -> Result<bool, IoFailure>;
}

/// What holds for a whole pass.
#[derive(Clone, Debug)]
pub(crate) struct FilterRules {
    /// The time of the pass, from which horizons are counted and by which they are judged. A resumed pass keeps it.
    pub(crate) now: TimestampMs,
    /// `delete.retention.ms`.
    pub(crate) delete_retention_ms: u64,
    /// The end of the pass: nothing at or past it is removed or changed.
    pub(crate) upper: Offset,
    /// The lowest offset that cannot be read; tombstones and markers there and past it stay. [`Offset::MAX`] if there is
    /// none.
    pub(crate) tombstones_removable_below: Offset,
    /// As many bytes may the records of a compressed batch expand to.
    pub(crate) decompressed_bytes_max: u32,
    /// Every active producer.
    pub(crate) producers: ActiveProducers,
}

impl FilterRules {
    fn horizon(&self) -> TimestampMs {
        let retention = i64::try_from(self.delete_retention_ms).unwrap_or(i64::MAX);
        TimestampMs::new(self.now.value().saturating_add(retention))
    }

    fn has_passed(&self, horizon: Option<TimestampMs>) -> bool {
        horizon.is_some_and(|horizon| self.now >= horizon)
    }

    /// Whether tombstones and markers at `offset` hide nothing that a repair may bring back.
    fn hides_nothing(&self, offset: Offset) -> bool {
        offset < self.tombstones_removable_below
    }

    /// Whether the pass is about the whole batch.
    fn covers(&self, header: &BatchHeader) -> bool {
        header.next_offset() <= self.upper
    }

    /// Whether something stands in the header of `header` that the log must not forget.
    fn needs_header(&self, header: &BatchHeader) -> bool {
        self.producers.need(header, self.upper) || header.next_offset() == self.upper
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its very bytes were kept.
    Unchanged,
    /// It was kept with fewer records, or with a delete horizon.
    Rebuilt,
    /// Its header was kept.
    Emptied,
    /// It is gone.
    Dropped,
}

/// What became of a batch, and what else there is to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// An entry for the transaction index of the new segment, in the order of the entries.
    pub(crate) carried: Option<AbortedTxn>,
    /// Why it was kept without having been read: to be told.
    pub(crate) unread: Option<RecompressError>,
}

/// What a pass has done so far. All counts are of what was below its end, but for those of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterCounts {
    /// Batches kept byte for byte, those not read among them.
    pub(crate) batches_unchanged: u64,
    /// Batches kept with fewer records or with a horizon.
    pub(crate) batches_rebuilt: u64,
    /// Batches of which the header was kept.
    pub(crate) batches_emptied: u64,
    /// Batches gone.
    pub(crate) batches_dropped: u64,
    /// Batches kept because they could not be read.
    pub(crate) batches_unread: u64,
    /// Bytes of all batches that were filtered.
    pub(crate) bytes_read: u64,
    /// Bytes that became of them.
    pub(crate) bytes_kept: u64,
    /// Records looked at.
    pub(crate) records_read: u64,
    /// Records kept of those.
    pub(crate) records_kept: u64,
    /// Records gone since a newer one has their key.
    pub(crate) superseded: u64,
    /// Records gone since their transaction was aborted.
    pub(crate) aborted: u64,
    /// Records gone since they have no key.
    pub(crate) invalid: u64,
    /// Tombstones kept.
    pub(crate) tombstones_kept: u64,
    /// Tombstones gone since their horizon has passed.
    pub(crate) tombstones_removed: u64,
    /// Markers kept.
    pub(crate) markers_kept: u64,
    /// Markers gone.
    pub(crate) markers_removed: u64,
    /// Batches that got a delete horizon.
    pub(crate) horizons_set: u64,
}

/// Decides about each batch of a pass, in offset order from the log start on.
#[derive(Debug)]
pub(crate) struct BatchFilter {
    rules: FilterRules,
    transactions: CleanedTransactions,
    retainer: Retainer,
    counts: FilterCounts,
}

/// What is to be done with a batch that need not be read record by record.
#[derive(Clone, Copy)]
enum Fate {
    Keep,
    SetHorizon,
    Remove,
}

/// Why records were not chosen.
enum Stop {
    Unread(RecompressError),
    Io(IoFailure),
}

impl From<InvalidBatch> for Stop {
    fn from(cause: InvalidBatch) -> Self {
        Self::Unread(cause.into())
    }
}

impl BatchFilter {
    /// For a pass that begins, with the transactions of a batch that nothing comes before.
    pub(crate) fn new(rules: FilterRules, transactions: CleanedTransactions) -> Self {
        Self { rules, transactions, retainer: Retainer::default(), counts: FilterCounts::default() }
    }

    /// For a pass that goes on where [`Self::save`] was called. The rules must be those of that pass, but for holes found
    /// since; aborted transactions are to be told again.
    pub(crate) fn resume(mut rules: FilterRules, saved: &[u8]) -> Result<Self, SavedFault> {
        let Some((transactions, hole)) = saved.split_last_chunk() else {
            return Err(SavedFault::Length { bytes: saved.len() as u64 });
        };
        let hole = Offset::new(i64::from_be_bytes(*hole)).ok_or(SavedFault::Field { field: "lowest hole" })?;
        rules.tombstones_removable_below = rules.tombstones_removable_below.min(hole);
        Ok(Self::new(rules, CleanedTransactions::restore(transactions)?))
    }

    /// What a pass that goes on with the next batch needs: the transactions, then the lowest hole.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.transactions.save(&mut out);
        out.extend_from_slice(&self.rules.tombstones_removable_below.value().to_be_bytes());
        out
    }

    /// Adds aborted transactions, as [`CleanedTransactions::expect_aborted`] does: all that have an offset in a segment
    /// must be known when the segment begins.
    pub(crate) fn expect_aborted(&mut self, aborted: impl IntoIterator<Item = AbortedTxn>) {
        self.transactions.expect_aborted(aborted);
    }

    /// Decides about the next batch and appends to `out` what is kept of it, in any case. After an error the pass cannot
    /// go on with this filter.
    pub(crate) fn filter<V: SupersededBy + ?Sized>(
        &mut self,
        batch: &VerifiedBatch<'_>,
        verdicts: &mut V,
        out: &mut Vec<u8>,
    ) -> Result<Filtered, IoFailure> {
        let (header, start) = (batch.header(), out.len());
        let mut carried = None;
        let decided = match self.transactions.observe(batch) {
            Ok(Seen::Marker(marker)) => {
                let fate = self.fate_of_marker(header, marker);
                carried = marker.aborted.filter(|_| self.needs_entry(header, marker));
                self.carry_out(fate, batch, out)
            }
            Ok(Seen::OtherControl { is_emptied: true }) if self.rules.covers(header) => Ok(self.remove(batch, out)),
            Ok(Seen::OtherControl { .. }) => Ok(keep(batch, out)),
            Ok(Seen::AbortedData) if self.rules.covers(header) => {
                self.counts.aborted += u64::from(header.count);
                Ok(self.remove(batch, out))
            }
            Ok(Seen::AbortedData | Seen::Data) if header.base_offset >= self.rules.upper => Ok(keep(batch, out)),
            Ok(seen) => self.filter_records(batch, seen == Seen::AbortedData, verdicts, out),
            Err(cause) => Err(cause.into()),
        };
        let (outcome, unread) = match decided {
            Ok(outcome) => (outcome, None),
            Err(Stop::Unread(cause)) => (self.keep_unread(batch, out), Some(cause)),
            Err(Stop::Io(failure)) => return Err(failure),
        };
        self.counts.bytes_read += u64::from(header.size);
        self.counts.bytes_kept += (out.len() - start) as u64;
        self.count(outcome);
        Ok(Filtered { outcome, carried, unread })
    }

    /// Takes notice of the next batch, whose segment is left as it is.
    pub(crate) fn observe_left(&mut self, batch: &VerifiedBatch<'_>) {
        if self.transactions.observe(batch).is_err() {
            self.forbid_removal_past(batch.header().base_offset);
        }
    }

    /// Something at `hole` cannot be read: tombstones and markers there and past it stay from now on.
    pub(crate) fn forbid_removal_past(&mut self, hole: Offset) {
        self.rules.tombstones_removable_below = self.rules.tombstones_removable_below.min(hole);
    }

    /// Whether the next batch can go by its header alone: it is data below the end of the pass that nothing needs, and
    /// all of its records are superseded, or its transaction was aborted. `superseded` is how many of its offsets are
    /// known to be superseded.
    ///
    /// The batch's CRC must have been verified in this pass: a header that is wrong must not remove anything.
    pub(crate) fn is_removable_unread(&mut self, header: &BatchHeader, superseded: u64) -> bool {
        let is_data = !header.attributes.is_control();
        is_data
            && self.rules.covers(header)
            && !self.rules.needs_header(header)
            && (superseded == u64::from(header.count) || self.transactions.is_aborted(header))
    }

    /// Takes notice of a batch that went by its header alone, as [`Self::is_removable_unread`] allowed.
    pub(crate) fn remove_unread(&mut self, header: &BatchHeader) {
        let count = u64::from(header.count);
        match self.transactions.observe_data(header) {
            Seen::AbortedData => self.counts.aborted += count,
            _ => self.counts.superseded += count,
        }
        self.count(Outcome::Dropped);
    }

    /// The time of the pass.
    pub(crate) fn now(&self) -> TimestampMs {
        self.rules.now
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> &FilterCounts {
        &self.counts
    }

    /// The most bytes that the records of a compressed batch were expanded to.
    pub(crate) fn expanded_max(&self) -> usize {
        self.retainer.expanded_max()
    }

    /// Bytes of memory that it takes; those that compressed batches are expanded into come on top.
    pub(crate) fn memory_bytes(&self) -> usize {
        let producer_bytes = self.rules.producers.memory_bytes();
        self.transactions.memory_bytes().saturating_add(producer_bytes).saturating_add(self.retainer.memory_bytes())
    }

    fn fate_of_marker(&mut self, header: &BatchHeader, marker: SeenMarker) -> Fate {
        let rules = &self.rules;
        if !rules.covers(header) {
            return Fate::Keep;
        }
        let horizon = header.delete_horizon();
        let may_go = rules.has_passed(horizon) && rules.hides_nothing(header.base_offset);
        let fate = match marker.is_of_empty {
            true if horizon.is_none() => Fate::SetHorizon,
            true if may_go && !rules.producers.need(header, rules.upper) => Fate::Remove,
            _ => Fate::Keep,
        };
        match fate {
            Fate::Remove => self.counts.markers_removed += 1,
            Fate::Keep | Fate::SetHorizon => self.counts.markers_kept += 1,
        }
        fate
    }

    /// Whether readers still need the aborted transaction of a marker: data of it is left, or may come back.
    fn needs_entry(&self, header: &BatchHeader, marker: SeenMarker) -> bool {
        !marker.is_of_empty || !self.rules.covers(header) || !self.rules.hides_nothing(header.base_offset)
    }

    fn carry_out(&mut self, fate: Fate, batch: &VerifiedBatch<'_>, out: &mut Vec<u8>) -> Result<Outcome, Stop> {
        match fate {
            Fate::Keep => Ok(keep(batch, out)),
            Fate::Remove => Ok(self.remove(batch, out)),
            Fate::SetHorizon => {
                let limit = self.rules.decompressed_bytes_max;
                let chosen = self.retainer.choose::<Stop>(batch, limit, |_| Ok(true))?;
                chosen.rebuild(Some(self.rules.horizon()), out).map_err(Stop::Unread)?;
                self.counts.horizons_set += 1;
                Ok(Outcome::Rebuilt)
            }
        }
    }

    /// Of a batch without anything that counts.
    fn remove(&mut self, batch: &VerifiedBatch<'_>, out: &mut Vec<u8>) -> Outcome {
        let header = batch.header();
        if !self.rules.needs_header(header) {
            return Outcome::Dropped;
        }
        if header.count == 0 {
            return keep(batch, out);
        }
        put_emptied(batch, out);
        Outcome::Emptied
    }

    fn filter_records<V: SupersededBy + ?Sized>(
        &mut self,
        batch: &VerifiedBatch<'_>,
        is_aborted: bool,
        verdicts: &mut V,
        out: &mut Vec<u8>,
    ) -> Result<Outcome, Stop> {
        let (header, rules) = (batch.header(), &self.rules);
        let horizon = header.delete_horizon();
        let mut judge = RecordJudge {
            upper: rules.upper,
            tombstones_gone_below: if rules.has_passed(horizon) {
                rules.tombstones_removable_below
            } else {
                Offset::ZERO
            },
            is_aborted,
            counts: self.counts,
            has_tombstones_past_upper: false,
        };
        let limit = rules.decompressed_bytes_max;
        let chosen = self.retainer.choose(batch, limit, |record| judge.keeps(record, verdicts))?;
        let has_new_tombstones = judge.counts.tombstones_kept > self.counts.tombstones_kept;
        let sets_horizon = horizon.is_none() && has_new_tombstones && !judge.has_tombstones_past_upper;
        let outcome = if chosen.count() == 0 {
            None
        } else if chosen.count() == header.count && !sets_horizon {
            Some(keep(batch, out))
        } else {
            chosen.rebuild(sets_horizon.then(|| rules.horizon()), out).map_err(Stop::Unread)?;
            Some(Outcome::Rebuilt)
        };
        // Only now: a batch that could not be read to its end, or not be rebuilt, is kept whole.
        self.counts = judge.counts;
        self.counts.horizons_set += u64::from(sets_horizon);
        Ok(outcome.unwrap_or_else(|| self.remove(batch, out)))
    }

    fn keep_unread(&mut self, batch: &VerifiedBatch<'_>, out: &mut Vec<u8>) -> Outcome {
        self.counts.batches_unread += 1;
        self.forbid_removal_past(batch.header().base_offset);
        keep(batch, out)
    }

    fn count(&mut self, outcome: Outcome) {
        let counts = &mut self.counts;
        let count = match outcome {
            Outcome::Unchanged => &mut counts.batches_unchanged,
            Outcome::Rebuilt => &mut counts.batches_rebuilt,
            Outcome::Emptied => &mut counts.batches_emptied,
            Outcome::Dropped => &mut counts.batches_dropped,
        };
        *count += 1;
    }
}

fn keep(batch: &VerifiedBatch<'_>, out: &mut Vec<u8>) -> Outcome {
    out.extend_from_slice(batch.view().bytes());
    Outcome::Unchanged
}

/// Decides about the records of one batch of data.
struct RecordJudge {
    upper: Offset,
    /// Tombstones below go: their horizon has passed, and there is no hole below them.
    tombstones_gone_below: Offset,
    is_aborted: bool,
    /// As they will be if the batch can be read to its end.
    counts: FilterCounts,
    has_tombstones_past_upper: bool,
}

impl RecordJudge {
    #[inline]
    fn keeps<V: SupersededBy + ?Sized>(&mut self, record: Candidate<'_>, verdicts: &mut V) -> Result<bool, Stop> {
        if record.offset >= self.upper {
            self.has_tombstones_past_upper |= record.is_tombstone;
            return Ok(true);
        }
        let counts = &mut self.counts;
        counts.records_read += 1;
        if self.is_aborted {
            counts.aborted += 1;
            return Ok(false);
        }
        let Some(key) = record.key else {
            counts.invalid += 1;
            return Ok(false);
        };
        if verdicts.is_superseded(record.offset, key).map_err(Stop::Io)? {
            counts.superseded += 1;
            return Ok(false);
        }
        if record.is_tombstone && record.offset < self.tombstones_gone_below {
            counts.tombstones_removed += 1;
            return Ok(false);
        }
        counts.tombstones_kept += u64::from(record.is_tombstone);
        counts.records_kept += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
