//! What a cleaner sees of a log, and what it may do to it. Nothing here knows which records stay: that is the cleaner's.
//!
//! A pass goes: [`PartitionLog::claim_cleaning`], [`PartitionLog::cleanable`], [`PartitionLog::secure`], then for each group
//! of segments [`PartitionLog::read_for_cleaning`], [`PartitionLog::stage`] and [`PartitionLog::replace_segments`], and at
//! its end [`PartitionLog::put_clean_state`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clean_state::CleanState;
use super::derived::write_epochs;
use super::view::LogView;
use super::{LogCore, PartitionLog};
use crate::commit::Marks;
use crate::config::{HighWatermarkMode, LogConfig};
use crate::error::{ChangeError, IoFailure, ReadError};
use crate::index::{AbortedTxn, AbortedTxns, KnownProducer};
use crate::segment::{
    CacheUse, CleanReader, CleanWriteError, CleanedSegment, CleanedWriter, FinishAt, Hole, Holes, Segment, SegmentFile,
    SegmentOptions, remove_cleaned,
};
use crate::units::{Offset, TimestampMs};

/// A sealed segment as a cleaner sees it.
#[derive(Clone, Debug)]
pub(crate) struct CleanSegment {
    pub(crate) segment: Arc<Segment>,
    pub(crate) base: Offset,
    /// Where the next one begins.
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// What of it cannot be read.
    pub(crate) holes: Holes,
}

impl CleanSegment {
    /// Largest timestamp of its batches, by its index. `None` when none has one, or the files cannot be read as they are.
    pub(crate) fn largest_timestamp(&self) -> Result<Option<TimestampMs>, IoFailure> {
        told(self.segment.largest_timestamp())
    }

    /// Largest timestamp of its first batch. `None` when it has none, or the batch cannot be read.
    pub(crate) fn first_timestamp(&self) -> Result<Option<TimestampMs>, IoFailure> {
        let header = told(self.segment.header_at(0, self.bytes).map(Some))?;
        Ok(header.map(|header| header.max_timestamp).filter(|timestamp| timestamp.value() >= 0))
    }

    /// When it was last appended to; `now` where the file system does not tell.
    pub(crate) fn last_written(&self, now: TimestampMs) -> Result<TimestampMs, IoFailure> {
        self.segment.last_written(now, false)
    }
}

/// What cannot be told because of damage is nothing; that a read failed is an error.
fn told<T>(found: Result<Option<T>, ReadError>) -> Result<Option<T>, IoFailure> {
    match found {
        Err(ReadError::Io(failure)) => Err(failure),
        found => Ok(found.unwrap_or_default()),
    }
}

/// A log at one moment, for whoever plans its cleaning.
#[derive(Clone, Debug)]
pub(crate) struct CleanView {
    /// The sealed segments that have readable offsets, oldest first.
    pub(crate) segments: Vec<CleanSegment>,
    /// Where the segment begins that takes appends, and how long it is.
    pub(crate) active_base: Offset,
    pub(crate) active_bytes: u64,
    pub(crate) marks: Marks,
    pub(crate) state: CleanState,
    pub(crate) config: Arc<LogConfig>,
    /// What is remembered of each producer: its last data offset, epoch and open transaction.
    pub(crate) producers: Vec<KnownProducer>,
}

/// Says that a log is being cleaned, until it is dropped. A handle of the log cannot do it twice at a time.
#[derive(Debug)]
pub(crate) struct CleaningClaim(Arc<LogCore>);

impl Drop for CleaningClaim {
    fn drop(&mut self) {
        self.0.cleaned.lock().let_go();
        self.0.is_cleaning.store(false, Ordering::Release);
    }
}

/// A segment on its way to take the place of others. Its files go when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    // First: its descriptor is closed before the files go.
    writer: CleanedWriter,
    files: StagedFiles,
}

/// A segment that is written and synced, and waits to be put in place. Its files go when it is dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) segment: CleanedSegment,
    pub(super) files: StagedFiles,
}

/// Files under the names of an unfinished segment.
#[derive(Debug)]
pub(super) struct StagedFiles {
    core: Arc<LogCore>,
    base: Offset,
    /// They are the log's by now.
    is_in_place: AtomicBool,
}

impl StagedFiles {
    /// They are not to be removed any more.
    pub(super) fn keep(&self) {
        self.is_in_place.store(true, Ordering::Release);
    }
}

impl Drop for StagedFiles {
    fn drop(&mut self) {
        // Names in the directory of a log that is over may be those of the next one, which removed these.
        if !self.is_in_place.load(Ordering::Acquire) && !self.core.view.read().is_closed {
            // One that cannot be removed now is by the next attempt, or by the next opening.
            let _ = remove_cleaned(&self.core.home, self.base);
        }
    }
}

impl Staging {
    /// Its base offset.
    pub(crate) fn base(&self) -> Offset {
        self.writer.base()
    }

    /// Offset after its last batch so far; its base offset while it is empty.
    pub(crate) fn next_offset(&self) -> Offset {
        self.writer.next_offset()
    }

    /// Length of its log so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Bytes of memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.writer.memory_bytes()
    }

    /// Adds one or several whole batches.
    pub(crate) fn append(&mut self, batches: &[u8]) -> Result<(), CleanWriteError> {
        self.writer.append(batches)
    }

    /// Ends it: `end` is where the next segment begins, `covers` the base offset of the last segment that it takes the place
    /// of, `aborted` the aborted transactions whose markers lie in it. Writes what belongs beside the log, and syncs it all.
    pub(crate) fn finish(self, end: Offset, covers: Offset, aborted: AbortedTxns) -> Result<Staged, IoFailure> {
        let Self { writer, files } = self;
        let filler_epoch = {
            let epochs = Arc::clone(&files.core.view.read().epochs);
            let (first, last) = (epochs.epoch_of(writer.next_offset()), Offset::new(end.value().saturating_sub(1)));
            first.filter(|_| last.is_some_and(|last| epochs.epoch_of(last) == first))
        };
        let segment = writer.finish(&FinishAt { end, covers, filler_epoch, aborted })?;
        Ok(Staged { segment, files })
    }
}

impl Staged {
    /// The segment.
    pub(crate) fn segment(&self) -> &CleanedSegment {
        &self.segment
    }
}

impl PartitionLog {
    /// Claims the log for one cleaner; `None` while another one has it.
    pub(crate) fn claim_cleaning(&self) -> Option<CleaningClaim> {
        let is_taken = self.core.is_cleaning.swap(true, Ordering::AcqRel);
        (!is_taken).then(|| {
            self.core.cleaned.lock().claim();
            CleaningClaim(Arc::clone(&self.core))
        })
    }

    /// What there is to clean, at this moment. Waits for an append in progress.
    ///
    /// # Errors
    /// A failed or closed log; I/O.
    pub(crate) fn cleanable(&self) -> Result<CleanView, ChangeError> {
        let (producers, view) = {
            let writer = self.core.writer.lock();
            writer.check_open()?;
            (writer.derived.producers.known(), self.core.view.read().clone())
        };
        self.cleanable_of(&view, producers)
    }

    /// [`PartitionLog::cleanable`] for whoever only wants to know whether there is anything to clean, without waiting for an
    /// append: while there is one, the producers are left out. Where the high watermark follows the durable end they are
    /// needed to tell, and are waited for.
    ///
    /// # Errors
    /// A failed or closed log, as far as that can be seen; I/O.
    pub(crate) fn cleanable_at_a_glance(&self) -> Result<CleanView, ChangeError> {
        if self.config().high_watermark == HighWatermarkMode::DurableEnd {
            return self.cleanable();
        }
        let producers = match self.core.writer.try_lock() {
            Some(writer) => {
                writer.check_open()?;
                writer.derived.producers.known()
            }
            None => Vec::new(),
        };
        let view = self.core.view.read().clone();
        if view.is_closed {
            return Err(ChangeError::Closed);
        }
        self.cleanable_of(&view, producers)
    }

    fn cleanable_of(&self, view: &LogView, producers: Vec<KnownProducer>) -> Result<CleanView, ChangeError> {
        let LogView { segments, marks, active_bytes, .. } = view;
        let mut sealed = Vec::with_capacity(segments.len());
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            if next.base() <= marks.log_start {
                continue;
            }
            let (base, end, bytes) = (segment.base(), next.base(), segment.size_on_disk()?);
            sealed.push(CleanSegment { segment: Arc::clone(segment), base, end, bytes, holes: segment.holes() });
        }
        Ok(CleanView {
            segments: sealed,
            active_base: segments.last().map_or(marks.log_end, |active| active.base()),
            active_bytes: *active_bytes,
            marks: *marks,
            state: self.clean_state(),
            config: self.config(),
            producers,
        })
    }

    /// Makes everything below `upper` durable, and has the recovery point on disk at `upper` or past it: below it gaps
    /// between batches are what cleaning leaves, past it they are where a crash tore the log. Returns the recovery point.
    ///
    /// # Errors
    /// A failed or closed log; I/O, after which it may be tried again. [`ChangeError::OutOfRange`] past the log end.
    pub(crate) fn secure(&self, upper: Offset) -> Result<Offset, ChangeError> {
        self.core.secure(upper)
    }

    /// The aborted transactions whose markers lie in the segment with `offset`, and where the next segment begins.
    ///
    /// # Errors
    /// As reading there with [`Isolation::Stable`](super::Isolation::Stable).
    pub(crate) fn aborted_at(&self, offset: Offset) -> Result<(Vec<AbortedTxn>, Option<Offset>), ReadError> {
        self.with_view(|view| {
            let at = view.segment_of(offset);
            let aborted = self.core.aborted_in(view, at)?;
            let next = view.segments.get(at.saturating_add(1)).map(|next| next.base());
            Ok((aborted.entries().to_vec(), next))
        })
    }

    /// Derives the aborted transactions whose markers lie in the segment at `base` from the log again, whatever their file
    /// says, for whoever met the marker at `marker`, which is not in it. From then on they count.
    ///
    /// # Errors
    /// I/O; a closed log; a corrupt transaction index when the log does not tell what the marker aborts.
    pub(crate) fn derive_aborted_again(&self, base: Offset, marker: Offset) -> Result<(), ReadError> {
        self.with_view(|view| {
            let at = view.segment_of(base);
            let aborted = self.core.derive_aborted(view, at)?;
            let Some(segment) = view.segments.get(at) else { return Ok(()) };
            let is_told = aborted.entries().iter().any(|entry| entry.last_offset == marker);
            // Said first: what is on disk too may be dropped from memory at any time.
            segment.mark_index_saved(false);
            segment.put_aborted(aborted);
            if is_told { Ok(()) } else { Err(segment.no_aborted().into()) }
        })
    }

    /// Reads `segment`, which ends before offset `end`, with a window of so many bytes.
    ///
    /// # Errors
    /// I/O; not found when it has left the log.
    pub(crate) fn read_for_cleaning(
        segment: &CleanSegment,
        window_bytes: usize,
        cache: CacheUse,
    ) -> Result<CleanReader, IoFailure> {
        CleanReader::open(&segment.segment, segment.end, window_bytes, cache)
    }

    /// Begins a segment at `base` that is to take the place of others, with a buffer of so many bytes. For whoever claimed
    /// the log.
    ///
    /// # Errors
    /// I/O.
    pub(crate) fn stage(&self, base: Offset, buffer_bytes: usize) -> Result<Staging, IoFailure> {
        let core = Arc::clone(&self.core);
        let options = SegmentOptions::of(&self.config()).cleaned(true);
        let files = StagedFiles { core, base, is_in_place: AtomicBool::new(false) };
        let writer = CleanedWriter::create(&self.core.home, base, options, buffer_bytes)?;
        Ok(Staging { writer, files })
    }

    /// Frees at once what segments took up that were replaced or deleted, and whose files would have stayed for
    /// `file.delete.delay.ms`. Returns whether there was anything.
    pub(crate) fn free_replaced(&self) -> bool {
        self.core.free_leaving()
    }

    /// Whether a file was not found since its segment has left the log: retention or a cut took it meanwhile. One that is
    /// missing from the log as it is now is another matter.
    pub(crate) fn has_left(&self, failure: &IoFailure) -> bool {
        let name = failure.path.file_name().and_then(|name| name.to_str()).and_then(SegmentFile::parse);
        let is_shown = |base: Offset| self.core.view.read().segments.iter().any(|segment| segment.base() == base);
        failure.source.kind() == io::ErrorKind::NotFound && name.is_some_and(|file| !is_shown(file.base))
    }

    /// Notes what of `segment` cannot be read, for readers and on disk. Returns whether anything of it is news. `false` too
    /// when the segment has left the log.
    ///
    /// # Errors
    /// A failed or closed log.
    pub(crate) fn quarantine_met(&self, segment: &Arc<Segment>, met: Vec<Hole>) -> Result<bool, ChangeError> {
        let core = &self.core;
        let _round = core.round.lock();
        core.writer.lock().check_open()?;
        if core.shows(segment) { core.quarantine(segment, met) } else { Ok(false) }
    }
}

impl LogCore {
    fn secure(&self, upper: Offset) -> Result<Offset, ChangeError> {
        let mut round = self.round.lock();
        let is_unsealed = {
            let writer = self.writer.lock();
            writer.check_open()?;
            writer.unsealed.iter().any(|unsealed| unsealed.segment.base() < upper)
        };
        let secured = self.keeper.recovery_point();
        // A segment that an opening found durable may have been sealed since, and is not replaced before a round was at it.
        if secured >= upper && !is_unsealed {
            return Ok(secured);
        }
        self.sync_under(&mut round)?;
        let Marks { log_start, log_end, durable_end, high_watermark, .. } = self.view.read().marks;
        if upper > durable_end {
            return Err(ChangeError::OutOfRange { asked: upper, log_start, log_end });
        }
        // The recovery point must not pass epochs that are written down nowhere: below it nothing is scanned.
        let epochs = {
            let derived = &mut self.writer.lock().derived;
            std::mem::take(&mut derived.epochs_changed).then(|| derived.epochs.clone())
        };
        let changed = self.change_files(|| {
            if let Some(epochs) = &epochs {
                write_epochs(&self.home, epochs)?;
            }
            self.keeper.raise_recovery_point(durable_end, high_watermark)
        });
        if epochs.is_some() && !matches!(changed, Ok(None)) {
            self.writer.lock().derived.epochs_changed = true;
        }
        match changed? {
            Some(failure) => Err(ChangeError::Io(failure)),
            None => Ok(self.keeper.recovery_point()),
        }
    }
}
