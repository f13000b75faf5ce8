//! Holds the files beside the segments against the log, while the log is walked once: producer snapshots, aborted
//! transactions, leader epochs.
//!
//! A snapshot may lack producers: those that expired. What it says of the others is what the batches below it give, as
//! long as all of them were seen: not behind a gap, and in a log whose start was deleted only from a snapshot on.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use super::PartitionFiles;
use super::report::FindingKind;
use crate::error::IoFailure;
use crate::index::{AbortedTxn, EpochStart, IndexFault, LeaderEpochs, ProducerLimits, ProducerState, ProducerTable};
use crate::log::derived_bytes;
use crate::record::{BatchHeader, TransactionMarker};
use crate::segment::{FileKind, SegmentFile, names};
use crate::units::{LeaderEpoch, Offset, ProducerId, TimestampMs};

/// With more producers than this in a log its snapshots are not compared: hostile bytes must not fill the memory.
const PRODUCERS_MAX: usize = 1 << 20;
/// Nothing expires here.
const LIMITS: ProducerLimits =
    ProducerLimits { expiration_ms: i64::MAX, producers_max: PRODUCERS_MAX, verification_required: false };

/// Something that a file says and the log does not.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) file: PathBuf,
    pub(super) offset: Option<Offset>,
    pub(super) kind: FindingKind,
}

/// Follows the log batch by batch.
#[derive(Debug)]
pub(super) struct DerivedCheck<'a> {
    files: &'a PartitionFiles,
    log_start: Offset,
    producers: ProducerTable,
    /// Not every batch below was seen, so that nothing more can be said of producers and transactions.
    is_partial: bool,
    /// Of the segment that is walked, and whether its index has to have the entry.
    aborted: Vec<(AbortedTxn, bool)>,
    /// Producers of which data in a transaction was seen, and no marker since.
    writing: HashSet<ProducerId>,
    /// Offsets of snapshots that the walk has not reached.
    snapshots: VecDeque<Offset>,
    /// As the file has them, if it can be read.
    epochs: Option<Vec<EpochStart>>,
    /// As the batches have them.
    seen: LeaderEpochs,
    /// The first batch whose epoch is not what the file says.
    differs: Option<(Offset, Option<LeaderEpoch>, LeaderEpoch)>,
    found: Vec<Mismatch>,
}

impl<'a> DerivedCheck<'a> {
    /// Before the walk of a log that begins with a segment at `base`, and of which nothing below `log_start` is read.
    pub(super) fn begin(files: &'a PartitionFiles, base: Offset, log_start: Offset) -> Result<Self, IoFailure> {
        let mut check = Self {
            files,
            log_start,
            producers: ProducerTable::new(),
            is_partial: base > Offset::ZERO,
            aborted: Vec::new(),
            writing: HashSet::new(),
            snapshots: files.snapshots()?.into(),
            epochs: None,
            seen: LeaderEpochs::default(),
            differs: None,
            found: Vec::new(),
        };
        match files.leader_epochs()? {
            None => {}
            Some(Ok(epochs)) => check.epochs = Some(epochs),
            Some(Err(fault)) => check.add(names::LEADER_EPOCH_CHECKPOINT, None, FindingKind::BadEpochs(fault)),
        }
        Ok(check)
    }

    fn add(&mut self, name: &str, offset: Option<Offset>, kind: FindingKind) {
        self.found.push(Mismatch { file: self.files.dir().join(name), offset, kind });
    }

    /// The next batch; `expected` is the offset that is due.
    pub(super) fn observe(
        &mut self,
        header: &BatchHeader,
        expected: Offset,
        marker: Option<TransactionMarker>,
    ) -> Result<(), IoFailure> {
        // Of a batch that a cleaner took records from, or put in the place of others, neither the largest timestamp nor what
        // lay there is known.
        let is_thinned = u64::from(header.count) < header.next_offset().distance_from(header.base_offset);
        self.is_partial |= header.base_offset != expected || is_thinned;
        self.pass(header.base_offset)?;
        if let Some(epoch) = header.leader_epoch {
            self.seen.assign(epoch, header.base_offset);
            self.compare_epoch(epoch, header.base_offset);
        }
        let is_due = self.is_due(header);
        self.aborted.extend(self.producers.apply(header, marker, &LIMITS).map(|aborted| (aborted, is_due)));
        self.is_partial |= self.producers.len() >= PRODUCERS_MAX;
        Ok(())
    }

    /// Whether a marker ends a transaction of which data is left that may be read. A cleaner keeps no entry of another.
    fn is_due(&mut self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer_id.filter(|_| header.attributes.is_transactional()) else { return false };
        if !header.attributes.is_control() {
            return self.writing.insert(producer);
        }
        self.writing.remove(&producer) && header.base_offset >= self.log_start
    }

    fn compare_epoch(&mut self, epoch: LeaderEpoch, offset: Offset) {
        let Some(entries) = &self.epochs else { return };
        // Below the first entry lie records that were deleted and whose segment is still there.
        if self.differs.is_some() || entries.first().is_some_and(|first| offset < first.start) {
            return;
        }
        let above = entries.partition_point(|entry| entry.start <= offset);
        let in_file = above.checked_sub(1).and_then(|at| entries.get(at)).map(|entry| entry.epoch);
        if in_file != Some(epoch) {
            self.differs = Some((offset, in_file, epoch));
        }
    }

    /// Compares the snapshots at or below `offset`; everything below it was seen.
    fn pass(&mut self, offset: Offset) -> Result<(), IoFailure> {
        while let Some(at) = self.snapshots.front().copied().filter(|at| *at <= offset) {
            self.snapshots.pop_front();
            let name = SegmentFile::live(at, FileKind::Snapshot).name();
            match self.files.snapshot(at)? {
                // It went since the directory was listed.
                None => {}
                Some(Err(fault)) => self.add(&name, Some(at), FindingKind::BadSnapshot(fault)),
                Some(Ok(entries)) => self.compare_producers(&name, at, &entries),
            }
        }
        Ok(())
    }

    fn compare_producers(&mut self, name: &str, at: Offset, entries: &[ProducerState]) {
        if self.is_partial {
            return;
        }
        let known = self.producers.summaries();
        let is_right = |entry: &ProducerState| {
            let found = known.binary_search_by_key(&entry.producer_id, |known| known.producer_id);
            let Some(known) = found.ok().and_then(|at| known.get(at)) else { return false };
            // One that expired and wrote again is no longer known to any coordinator.
            *entry == *known || *entry == ProducerState { coordinator_epoch: None, ..*known }
        };
        if let Some(wrong) = entries.iter().find(|entry| !is_right(entry)) {
            self.add(name, Some(at), FindingKind::SnapshotDiffers(wrong.producer_id));
        }
    }

    /// The walk enters a segment. Where it is the first one and others were deleted before it, its snapshot is where
    /// producers are known from.
    pub(super) fn enter(&mut self, base: Offset, is_first: bool) -> Result<(), IoFailure> {
        self.aborted.clear();
        if is_first && base > Offset::ZERO {
            let name = SegmentFile::live(base, FileKind::Snapshot).name();
            let bytes = derived_bytes(&self.files.home, &name)?.unwrap_or_default();
            if let Ok(producers) = ProducerTable::decode(&bytes, TimestampMs::new(0), &LIMITS) {
                (self.producers, self.is_partial) = (producers, false);
            }
        }
        self.pass(base)
    }

    /// What is wrong with the transaction index of the segment at `base`, which was walked to its end.
    pub(super) fn judge_aborted(&self, base: Offset) -> Result<Option<IndexFault>, IoFailure> {
        let right = |found: &[AbortedTxn]| {
            let is_wanted = |(aborted, is_due): &&(AbortedTxn, bool)| *is_due || found.contains(aborted);
            self.is_partial || self.aborted.iter().filter(is_wanted).map(|(aborted, _)| aborted).eq(found)
        };
        Ok(match self.files.aborted(base)? {
            Some(Err(fault)) => Some(fault),
            Some(Ok(found)) if right(&found) => None,
            Some(Ok(_)) => Some(IndexFault::Differs),
            None if right(&[]) => None,
            None => Some(IndexFault::Missing),
        })
    }

    /// Something in the log could not be seen.
    pub(super) fn lose_sight(&mut self) {
        self.is_partial = true;
    }

    /// The log ends at `end`. Epochs past `settled` may not have been written down yet.
    pub(super) fn finish(mut self, end: Offset, settled: Offset) -> Result<Vec<Mismatch>, IoFailure> {
        self.pass(end)?;
        for at in std::mem::take(&mut self.snapshots) {
            self.add(&SegmentFile::live(at, FileKind::Snapshot).name(), Some(at), FindingKind::SnapshotPastEnd);
        }
        let name = names::LEADER_EPOCH_CHECKPOINT;
        if let Some((offset, file, log)) = self.differs.filter(|(offset, ..)| *offset < settled) {
            self.add(name, Some(offset), FindingKind::EpochDiffers { file, log });
        }
        let Some(entries) = self.epochs.take() else {
            let is_due = self.seen.entries().first().is_some_and(|first| first.start < settled);
            let is_told = self.found.iter().any(|found| matches!(found.kind, FindingKind::BadEpochs(_)));
            if is_due && !is_told {
                self.add(name, None, FindingKind::EpochsMissing);
            }
            return Ok(self.found);
        };
        // An epoch that begins where none of its batches is. The first one's start rises with the log's.
        let has_batch = |entry: &EpochStart| self.seen.entries().contains(entry);
        let is_odd = |entry: &&EpochStart| entry.start < end.min(settled) && !has_batch(entry);
        let odd = entries.iter().skip(1).find(is_odd).copied();
        if let Some(odd) = odd.filter(|_| !self.is_partial && self.differs.is_none()) {
            self.add(name, Some(odd.start), FindingKind::EpochWithoutBatch(odd.epoch));
        }
        Ok(self.found)
    }
}
