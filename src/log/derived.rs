//! What a log says beyond its records: producers, transactions, leader epochs. One machine, fed batches in log order by
//! append, recovery and truncation alike, so that what was derived live and what is derived again are equal.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::config::LogConfig;
use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, OpenMode};
use crate::index::{
    AbortedTxn, AbortedTxns, LeaderEpochs, ProducerLimits, ProducerTable, SnapshotFault, TextFault, replace_file,
    replace_small_file,
};
use crate::record::{BatchHeader, TransactionMarker};
use crate::segment::{Extent, FileKind, Home, Segment, SegmentFile, Stage, Walked, names};
use crate::units::{Offset, TimestampMs};

/// Snapshots that wait for a commit round to write them take no more than this, or two of them. With more rolls than that
/// between two rounds the older ones are dropped: each is worth a shorter replay and nothing else.
const PENDING_BYTES_MAX: usize = 8 << 20;
/// No checkpoint of epochs is larger: one line takes at most 32 bytes, and no log has a million leaderships.
const EPOCHS_BYTES_MAX: u64 = 32 << 20;
/// No snapshot is larger: ten million producers.
const SNAPSHOT_BYTES_MAX: u64 = 512 << 20;

/// The bounds that the settings put on producers.
pub(crate) fn producer_limits(config: &LogConfig) -> ProducerLimits {
    ProducerLimits {
        expiration_ms: i64::try_from(config.producer_id_expiration_ms).unwrap_or(i64::MAX),
        producers_max: config.producers_max as usize,
        verification_required: config.transaction_partition_verification_enable,
    }
}

/// Producer state as a snapshot file has it, not yet written.
#[derive(Debug)]
pub(crate) struct PendingSnapshot {
    /// It holds for what lies below.
    pub(crate) at: Offset,
    pub(crate) bytes: Vec<u8>,
}

/// Guarded, in an open log, by `LogCore::writer`.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) producers: ProducerTable,
    pub(crate) epochs: LeaderEpochs,
    /// The epochs changed since their file was written.
    pub(crate) epochs_changed: bool,
    /// Offset of the newest snapshot that was taken or is known to be good, or where the log begins: nothing is to be
    /// known there.
    pub(crate) newest_snapshot: Offset,
    pub(crate) pending: VecDeque<PendingSnapshot>,
}

impl Derived {
    pub(crate) fn new(producers: ProducerTable, epochs: LeaderEpochs, newest_snapshot: Offset) -> Self {
        Self { producers, epochs, epochs_changed: false, newest_snapshot, pending: VecDeque::new() }
    }

    /// Takes in a batch that is in the log. Returns the transaction that it aborts.
    pub(crate) fn take(
        &mut self,
        header: &BatchHeader,
        marker: Option<TransactionMarker>,
        limits: &ProducerLimits,
    ) -> Option<AbortedTxn> {
        if let Some(epoch) = header.leader_epoch {
            self.epochs_changed |= self.epochs.assign(epoch, header.base_offset);
        }
        header.producer_id?;
        self.producers.apply(header, marker, limits)
    }

    fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|snapshot| snapshot.bytes.len()).sum()
    }

    /// Takes a snapshot of the producers at `end`, the end of the log.
    pub(crate) fn take_snapshot(&mut self, end: Offset) {
        if self.newest_snapshot >= end {
            return;
        }
        self.newest_snapshot = end;
        self.pending.push_back(PendingSnapshot { at: end, bytes: self.producers.encode() });
        while self.pending.len() > 2 && self.pending_bytes() > PENDING_BYTES_MAX {
            self.pending.pop_front();
        }
    }
}

impl Derived {
    /// Writes the snapshots that wait.
    pub(crate) fn write_pending(&mut self, home: &Home) -> Result<(), IoFailure> {
        while let Some(snapshot) = self.pending.front() {
            snapshot.write(home)?;
            self.pending.pop_front();
        }
        Ok(())
    }
}

impl PendingSnapshot {
    /// Writes the file, synced, unless it is there already. The name lasts once the directory is synced.
    pub(crate) fn write(&self, home: &Home) -> Result<(), IoFailure> {
        let name = SegmentFile::live(self.at, FileKind::Snapshot).name();
        if read_file(home, &name, self.bytes.len() as u64)?.as_ref() == Some(&self.bytes) {
            return Ok(());
        }
        replace_file(&*home.fs, &home.dir, &name, &self.bytes)
    }
}

/// Writes `leader-epoch-checkpoint`; durable when it returns. The recovery point rises over an epoch's start only after
/// that: below it nothing is scanned that could tell.
pub(crate) fn write_epochs(home: &Home, epochs: &LeaderEpochs) -> Result<(), IoFailure> {
    replace_small_file(&*home.fs, &home.dir, names::LEADER_EPOCH_CHECKPOINT, &epochs.encode())
}

/// CRC-32 over the bytes of the epochs' file.
pub(crate) fn epochs_checksum(epochs: &LeaderEpochs) -> u32 {
    crc32fast::hash(&epochs.encode())
}

/// Reads `leader-epoch-checkpoint`. `Ok(None)` without one; the inner error is for bytes that are wrong.
pub(crate) fn read_epochs(home: &Home) -> Result<Result<Option<LeaderEpochs>, TextFault>, IoFailure> {
    let Some(bytes) = read_file(home, names::LEADER_EPOCH_CHECKPOINT, EPOCHS_BYTES_MAX)? else { return Ok(Ok(None)) };
    Ok(LeaderEpochs::decode(&bytes).map(Some))
}

/// The bytes of a snapshot or a transaction index. `None` when it is not there, or too large to be one.
pub(crate) fn derived_bytes(home: &Home, name: &str) -> Result<Option<Vec<u8>>, IoFailure> {
    read_file(home, name, SNAPSHOT_BYTES_MAX)
}

/// The bytes of a file; `None` when it is not there, or too large to be what it is named for.
fn read_file(home: &Home, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, IoFailure> {
    let path = home.dir.join(name);
    let file = match home.fs.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?,
    };
    let failed = |e| IoFailure::new(IoOperation::Read, &path, e);
    let len = file.size().map_err(failed)?;
    if len > bytes_max {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = fs::read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// A snapshot file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadSnapshot {
    pub(crate) at: Offset,
    pub(crate) fault: SnapshotFault,
}

/// What looking for a snapshot gave.
#[derive(Debug)]
struct FoundSnapshot {
    good: Option<(Offset, ProducerTable)>,
    bad: Vec<BadSnapshot>,
}

/// The newest good snapshot within `range`, and the bad ones that were met on the way to it. One from before the log began
/// says nothing of what was written in between, or is of an older life of the log.
fn newest_snapshot(
    home: &Home,
    range: RangeInclusive<Offset>,
    now: TimestampMs,
    limits: &ProducerLimits,
) -> Result<FoundSnapshot, IoFailure> {
    let entries = home.list()?;
    let is_snapshot = |file: &SegmentFile| file.kind == FileKind::Snapshot && file.stage == Stage::Live;
    let files = entries.iter().filter_map(SegmentFile::of).filter(is_snapshot);
    let mut offsets: Vec<Offset> = files.map(|file| file.base).filter(|at| range.contains(at)).collect();
    offsets.sort_unstable();
    let mut bad = Vec::new();
    for at in offsets.into_iter().rev() {
        let name = SegmentFile::live(at, FileKind::Snapshot).name();
        let bytes = read_file(home, &name, SNAPSHOT_BYTES_MAX)?.unwrap_or_default();
        match ProducerTable::decode_at(at, &bytes, now, limits) {
            Ok(table) => return Ok(FoundSnapshot { good: Some((at, table)), bad }),
            Err(fault) => bad.push(BadSnapshot { at, fault }),
        }
    }
    Ok(FoundSnapshot { good: None, bad })
}

/// Deriving everything again from a snapshot and the batches behind it.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) derived: Derived,
    limits: ProducerLimits,
    /// Earlier batches are in the snapshot.
    producers_from: Offset,
    /// Aborted transactions by the base offset of the segment that holds the marker; for segments that were gone
    /// through from their first batch on.
    pub(crate) aborted: BTreeMap<Offset, AbortedTxns>,
    pub(crate) bad_snapshots: Vec<BadSnapshot>,
}

impl Replay {
    /// From the newest good snapshot at or below `at_most`; without one from nothing, as the log was at `log_base`.
    pub(crate) fn begin(
        home: &Home,
        at_most: Offset,
        log_base: Offset,
        epochs: LeaderEpochs,
        now: TimestampMs,
        limits: ProducerLimits,
    ) -> Result<Self, IoFailure> {
        let FoundSnapshot { good: found, bad: bad_snapshots } =
            newest_snapshot(home, log_base..=at_most, now, &limits)?;
        let (producers_from, producers) = found.unwrap_or_else(|| (log_base, ProducerTable::new()));
        let derived = Derived::new(producers, epochs, producers_from);
        Ok(Self { derived, limits, producers_from, aborted: BTreeMap::new(), bad_snapshots })
    }

    /// Batches from here on have to be shown.
    pub(crate) fn producers_from(&self) -> Offset {
        self.producers_from
    }

    /// From here on the segment at `base` is gone through.
    pub(crate) fn enter(&mut self, base: Offset) {
        if base >= self.producers_from {
            self.aborted.insert(base, AbortedTxns::default());
        }
    }

    /// Takes in the next batch, of the segment at `base`.
    pub(crate) fn take(&mut self, base: Offset, header: &BatchHeader, marker: Option<TransactionMarker>) {
        self.reconcile(header);
        if header.producer_id.is_none() || header.base_offset < self.producers_from {
            return;
        }
        if let Some(aborted) = self.derived.producers.apply(header, marker, &self.limits)
            && let Some(entries) = self.aborted.get_mut(&base)
        {
            entries.push(aborted);
        }
    }

    /// The epochs' file may be behind or ahead of the log. Where a batch contradicts it, the batch is right: all of it
    /// has one epoch.
    fn reconcile(&mut self, header: &BatchHeader) {
        let Some(epoch) = header.leader_epoch else { return };
        let (epochs, start) = (&mut self.derived.epochs, header.base_offset);
        // At both ends: an entry may claim to begin within the batch.
        if [start, header.last_offset()].iter().any(|offset| epochs.epoch_of(*offset) != Some(epoch)) {
            epochs.truncate_from_end(start);
            epochs.assign(epoch, start);
            self.derived.epochs_changed = true;
        }
    }

    /// Goes through one segment from `from` on. What cannot be read is skipped: who reads it is told.
    pub(crate) fn walk(&mut self, segment: &Segment, from: Offset, extent: Extent) -> Result<Walked, IoFailure> {
        let base = segment.base();
        if from <= base {
            self.enter(base);
        }
        segment.each_batch(from, extent, |header, marker| self.take(base, header, marker))
    }
}
