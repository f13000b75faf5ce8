//! Reading a range of the log for its keys.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::aborted::{AbortedAhead, unreadable};
use super::doubt::Doubts;
use super::error::CleanError;
use super::learning::{Learning, Noted};
use super::producers::ActiveProducers;
use super::transactions::CleanedTransactions;
use crate::error::IoFailure;
use crate::log::{CleanSegment, PartitionLog};
use crate::record::{BatchHeader, BatchView, Keys, plain_records, transaction_marker};
use crate::segment::{CacheUse, CleanReader, Extent, Hole, Met};
use crate::units::{Offset, OffsetDelta, ProducerId};

/// A buffer for expanded records that grew past this is not kept.
const PLAIN_BYTES_KEPT: usize = 1 << 20;

/// What a scan reads, and how.
#[derive(Clone, Debug)]
pub(super) struct ScanTask {
    pub(super) log: PartitionLog,
    pub(super) segments: Arc<Vec<CleanSegment>>,
    /// Records outside of it are not noted.
    pub(super) range: Range<Offset>,
    pub(super) window_bytes: usize,
    /// What a batch may expand to.
    pub(super) decompressed_bytes_max: u32,
    pub(super) cache: CacheUse,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// There is more to read.
    Going,
    /// A key found no room.
    Full,
    /// Something was noted that may be of an aborted transaction: damage was met where it may have ended, or a marker that
    /// the transaction index lacks. To be begun again, now that it is known.
    Misled,
    /// Everything was read.
    All,
}

/// Reads the keys of a range, oldest first, a bounded number of bytes at a time.
#[derive(Debug)]
pub(super) struct KeyScan {
    task: ScanTask,
    /// What lies below, in the segment with the log start, is not noted: which of it was aborted, nobody tells any more.
    log_start: Offset,
    /// The segment that is read, or comes next.
    at: usize,
    reader: Option<CleanReader>,
    transactions: CleanedTransactions,
    producers: ActiveProducers,
    aborted: AbortedAhead,
    /// Transactions of which nobody can tell how they ended; `None` before the first segment.
    doubts: Option<Doubts>,
    has_transactions: bool,
    /// Producers of which something was noted that counts if the next marker commits.
    undecided: BTreeSet<ProducerId>,
    plain: Vec<u8>,
    expanded_max: usize,
    /// Bytes read of segments that are done.
    read_before: u64,
    /// The lowest offset of what could not be read and was not known to be.
    unreadable: Option<Offset>,
    /// The lowest offset of what is sound and was not learned since its transaction is in doubt.
    doubtful: Option<Offset>,
}

/// What became of one batch.
enum Taken {
    Noted(Noted),
    /// It cannot be expanded, or its records are no records: it stays as it is.
    Unreadable,
    /// It is sound, and nobody can tell whether it counts.
    Doubtful,
    /// A marker that aborts what was noted, and that the transaction index lacks.
    Unlisted,
    Damaged(Hole),
}

impl KeyScan {
    /// Of what `task` says, from its front. `producers` meet its batches.
    pub(super) fn new(task: ScanTask, producers: ActiveProducers) -> Self {
        let at = task.segments.partition_point(|segment| segment.end <= task.range.start);
        Self {
            log_start: task.log.log_start(),
            task,
            at,
            reader: None,
            transactions: CleanedTransactions::default(),
            producers,
            aborted: AbortedAhead::default(),
            doubts: None,
            has_transactions: false,
            undecided: BTreeSet::new(),
            plain: Vec::new(),
            expanded_max: 0,
            read_before: 0,
            unreadable: None,
            doubtful: None,
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read_before.saturating_add(self.reader.as_ref().map_or(0, CleanReader::bytes_read))
    }

    /// The lowest offset of what could not be read, but for known holes.
    pub(super) fn unreadable(&self) -> Option<Offset> {
        self.unreadable
    }

    /// The producers, with what was met of them; once the scan has ended.
    pub(super) fn take_producers(&mut self) -> ActiveProducers {
        std::mem::take(&mut self.producers)
    }

    /// The lowest offset of what was read and is to be learned by the next pass, since nobody can tell whether it counts.
    pub(super) fn doubtful(&self) -> Option<Offset> {
        self.doubtful
    }

    /// The most bytes that the records of a compressed batch were expanded to.
    pub(super) fn expanded_max(&self) -> usize {
        self.expanded_max
    }

    /// Bytes of memory that it holds, expanded records apart.
    pub(super) fn memory_bytes(&self) -> usize {
        let window = self.reader.as_ref().map_or(0, CleanReader::memory_bytes);
        let doubts = self.doubts.as_ref().map_or(0, Doubts::memory_bytes);
        let undecided = self.undecided.len().saturating_mul(size_of::<ProducerId>());
        let producers = self.producers.memory_bytes();
        let known = [self.transactions.memory_bytes(), self.aborted.memory_bytes(), doubts, undecided, producers];
        known.into_iter().fold(window, usize::saturating_add)
    }

    /// Reads about `bytes_max` bytes, and notes their keys.
    pub(super) fn step(&mut self, learning: &mut Learning, bytes_max: u64) -> Result<Scanned, CleanError> {
        let stop = self.bytes_read().saturating_add(bytes_max);
        while self.bytes_read() < stop {
            let Some(mut reader) = self.open()? else { return self.look_ahead() };
            match reader.advance()? {
                Met::End => {
                    self.read_before = self.read_before.saturating_add(reader.bytes_read());
                    self.at = self.at.saturating_add(1);
                    continue;
                }
                Met::Damaged(hole) => {
                    if self.meet(&reader, hole)? {
                        return Ok(Scanned::Misled);
                    }
                }
                Met::Batch(header) if header.base_offset >= self.task.range.end => {
                    self.read_before = self.read_before.saturating_add(reader.bytes_read());
                    self.at = self.task.segments.len();
                    continue;
                }
                Met::Batch(header) => match self.take(&mut reader, &header, learning)? {
                    Taken::Noted(Noted::Taken) => self.producers.meet(&header),
                    Taken::Noted(Noted::Full) => {
                        self.reader = Some(reader);
                        return Ok(Scanned::Full);
                    }
                    Taken::Unreadable => {
                        self.producers.meet(&header);
                        self.note_unreadable(header.base_offset);
                    }
                    Taken::Doubtful => {
                        self.producers.meet(&header);
                        self.note_unreadable(header.base_offset);
                        self.doubtful = self.doubtful.or(Some(header.base_offset));
                    }
                    Taken::Unlisted => {
                        let (base, marker) = (reader.segment().base(), header.last_offset());
                        self.task.log.derive_aborted_again(base, marker).map_err(unreadable)?;
                        return Ok(Scanned::Misled);
                    }
                    Taken::Damaged(hole) => {
                        if self.meet(&reader, hole)? {
                            return Ok(Scanned::Misled);
                        }
                    }
                },
            }
            self.reader = Some(reader);
        }
        Ok(Scanned::Going)
    }

    /// The reader of the segment that is due; `None` after the last one of the range.
    fn open(&mut self) -> Result<Option<CleanReader>, CleanError> {
        if let Some(reader) = self.reader.take() {
            return Ok(Some(reader));
        }
        let task = &self.task;
        let Some(segment) = task.segments.get(self.at).filter(|segment| segment.base < task.range.end) else {
            return Ok(None);
        };
        if self.doubts.is_none() {
            self.doubts = Some(Doubts::of(&task.segments, task.range.start)?);
        }
        self.transactions.expect_aborted(self.aborted.of(&task.log, segment)?);
        open(segment, task.window_bytes, task.cache).map(Some)
    }

    fn take(
        &mut self,
        reader: &mut CleanReader,
        header: &BatchHeader,
        learning: &mut Learning,
    ) -> Result<Taken, IoFailure> {
        let attributes = header.attributes;
        let is_aborted = attributes.is_transactional() && self.transactions.is_aborted(header);
        let wanted_from = self.task.range.start.max(self.log_start);
        let is_wanted = header.count > 0 && !attributes.is_control() && header.next_offset() > wanted_from;
        self.has_transactions |= attributes.is_transactional();
        if is_aborted || !is_wanted {
            return if attributes.is_control() { self.take_control(reader) } else { Ok(Taken::Noted(Noted::Taken)) };
        }
        if attributes.is_transactional() && self.doubts.as_ref().is_some_and(|doubts| doubts.cover(header)) {
            return Ok(Taken::Doubtful);
        }
        self.undecided.extend(header.producer_id.filter(|_| attributes.is_transactional()));
        let batch = match reader.batch()? {
            Some(Ok(batch)) => batch,
            Some(Err(hole)) => return Ok(Taken::Damaged(hole)),
            None => return Ok(Taken::Unreadable),
        };
        let noted = note(batch.view(), &self.task, &mut self.plain, learning)?;
        // Only what is compressed is expanded there.
        self.expanded_max = self.expanded_max.max(self.plain.len());
        if self.plain.capacity() > PLAIN_BYTES_KEPT {
            self.plain = Vec::new();
        }
        Ok(noted.map_or(Taken::Unreadable, Taken::Noted))
    }

    /// A damaged marker decides nothing, and that is to be known before what it decided is learned by.
    fn take_control(&mut self, reader: &mut CleanReader) -> Result<Taken, IoFailure> {
        let batch = match reader.batch()? {
            Some(Ok(batch)) => batch,
            Some(Err(hole)) => return Ok(Taken::Damaged(hole)),
            None => return Ok(Taken::Noted(Noted::Taken)),
        };
        let marker = transaction_marker(batch.view()).unwrap_or_default();
        let ends = |producer: ProducerId| self.undecided.remove(&producer);
        let is_undecided = marker.is_some() && batch.header().producer_id.is_some_and(ends);
        let is_unlisted = is_undecided && marker.is_some_and(|marker| !marker.commit);
        Ok(if is_unlisted { Taken::Unlisted } else { Taken::Noted(Noted::Taken) })
    }

    /// At the end: what was noted may be decided past the range, and there the transaction index may lack markers too.
    fn look_ahead(&mut self) -> Result<Scanned, CleanError> {
        let task = &self.task;
        let undecided = &mut self.undecided;
        for segment in task.segments.iter().filter(|segment| segment.end > task.range.end) {
            if undecided.is_empty() {
                break;
            }
            let mut unlisted = None;
            let extent = Extent { bytes: segment.bytes, end: segment.end };
            segment.segment.each_batch(task.range.end, extent, |header, marker| {
                let is_end = marker.is_some() && header.producer_id.is_some_and(|producer| undecided.remove(&producer));
                let aborts = is_end && marker.is_some_and(|marker| !marker.commit);
                unlisted = unlisted.or(aborts.then(|| header.last_offset()));
            })?;
            if let Some(marker) = unlisted {
                task.log.derive_aborted_again(segment.base, marker).map_err(unreadable)?;
                return Ok(Scanned::Misled);
            }
        }
        Ok(Scanned::All)
    }

    /// Notes damage; whether what was learned has to be learned again.
    fn meet(&mut self, reader: &CleanReader, hole: Hole) -> Result<bool, CleanError> {
        self.note_unreadable(hole.offsets.start);
        let is_news = self.task.log.quarantine_met(reader.segment(), vec![hole])?;
        Ok(is_news && self.has_transactions)
    }

    fn note_unreadable(&mut self, offset: Offset) {
        self.unreadable = Some(self.unreadable.map_or(offset, |lowest| lowest.min(offset)));
    }
}

/// Notes the keys of a batch's records that lie in the range; `None` when the records cannot be read.
fn note(
    view: &BatchView<'_>,
    task: &ScanTask,
    plain: &mut Vec<u8>,
    learning: &mut Learning,
) -> Result<Option<Noted>, IoFailure> {
    let header = view.header();
    let Ok(records) = plain_records(view, task.decompressed_bytes_max, plain) else { return Ok(None) };
    // Before the first is noted: a key of a batch that cannot be read in whole must supersede nothing.
    if !Keys::are_sound(records, header.count, header.last_offset_delta.value()) {
        return Ok(None);
    }
    let is_inside = task.range.start <= header.base_offset && header.next_offset() <= task.range.end;
    let base = header.base_offset;
    let notes = Keys::new(records).filter_map(|record| {
        let offset = base.checked_add(OffsetDelta::new(record.offset_delta)?)?;
        Some((record.key?, offset)).filter(|_| is_inside || task.range.contains(&offset))
    });
    learning.note_all(notes).map(Some)
}

/// A reader of `segment`.
pub(super) fn open(segment: &CleanSegment, window_bytes: usize, cache: CacheUse) -> Result<CleanReader, CleanError> {
    Ok(PartitionLog::read_for_cleaning(segment, window_bytes, cache)?)
}
