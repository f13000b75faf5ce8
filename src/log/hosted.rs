//! Opening a partition for a store: the store holds the data directory's lock and says whose word counts.
//!
//! Where the partition's own state is of another lineage than the directory's, the directory's lists take its place. That
//! they did is written down first, in the partition's own recovery point, and before anything of the log is changed: from
//! then on a crash finds own state that is right. What the old state says otherwise goes before that, or is void by its
//! generation.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::ancestors::{make_directories, missing_directories};
use super::clean_state::CleanFile;
use super::directory::{Lineage, Own, Parents, Whose, Word, judge};
use super::open::{self, Opening};
use super::state::{CleanShutdown, RecoveryPoint, Standing};
use super::survey::live_logs;
use super::{PartitionLog, derived};
use crate::commit::Marks;
use crate::config::{HighWatermarkMode, LogConfig};
use crate::error::{AppendError, IoFailure, IoOperation, OpenError, ReadError};
use crate::fs::FileSystem;
use crate::index::{OffsetIndex, SegmentIndex, TimeIndex};
use crate::log::Environment;
use crate::segment::{FileKind, Home, Residency, Segment, SegmentFile, SegmentOptions, Stage, names};
use crate::units::Offset;

/// The store above a log: it says the log's recovery point to others, and watches over the space of the directory. Called
/// with the log's writer locked or on its way to be, so it must not call the log.
pub(crate) trait Above: Send + Sync + fmt::Debug {
    /// The log is about to be cut to `to`, or to be dropped. When this returns no list names a later recovery point,
    /// durably: Kafka goes by what its list says, and takes a log that ends below it for whole.
    fn before_cut(&self, to: Offset) -> Result<(), IoFailure>;
    /// Whether there is space for an append. A look at one flag.
    fn admits(&self) -> Result<(), AppendError> {
        Ok(())
    }
    /// An append wrote so many bytes, or found the disk full.
    fn wrote(&self, _outcome: Result<u64, &IoFailure>) {}
}

impl Environment {
    /// Opens a partition in a data directory whose lock the caller holds, or begins one there. Takes no lock of its own,
    /// and so no descriptor: whoever opens the partition alone looks at the directory's lock after taking that of the
    /// partition.
    ///
    /// # Errors
    /// As [`Environment::open`]; [`OpenError::Locked`] when somebody has the partition open alone.
    pub(crate) fn open_hosted(
        &self,
        dir: &Path,
        config: LogConfig,
        word: &Word,
        residency: &Arc<Residency>,
    ) -> Result<PartitionLog, OpenError> {
        config.validate()?;
        let home = Home::within(Arc::clone(&self.fs), Arc::from(dir), Arc::clone(residency));
        let missing = missing_directories(&home)?;
        make_directories(&home, &missing)?;
        open::refuse_foreign(&home, &home.list()?)?;
        refuse_opened_alone(&home)?;
        let opening = Opening { home, clock: Arc::clone(&self.clock), config, word: word.clone() };
        opening.open(None)
    }
}

/// What counts of a partition where it lies now, in the terms of the lists of a data directory: for whoever is to take it to
/// another one, whose lineage its own state is not of.
pub(crate) fn words_of(fs: &dyn FileSystem, dir: &Path) -> Result<Parents, IoFailure> {
    let word = open::word_around(fs, dir)?;
    let own = RecoveryPoint::read(fs, dir)?.ok().flatten();
    let marker = CleanShutdown::read(fs, dir)?.ok().flatten();
    let has_canary = open::has_canary(fs, dir).unwrap_or(false);
    match (judge(own.map(|own| own.for_judgement(has_canary, marker)), &word), own) {
        (Whose::Own, Some(own)) if own.restart.is_none() => {
            let Standing { log_start, high_watermark, .. } = own.standing;
            let cleaned = CleanFile::read(fs, dir)?.ok().flatten().filter(|file| file.lineage == own.lineage);
            let first_dirty = cleaned.map(|file| file.first_dirty);
            let recovery_point = Some(own.offset);
            Ok(Parents { recovery_point, log_start, high_watermark, first_dirty, is_clean: false })
        }
        (Whose::Lower, Some(own)) => {
            let recovery_point = word.parents.recovery_point.map(|listed| listed.min(own.offset));
            Ok(Parents { recovery_point, is_clean: false, ..word.parents })
        }
        _ => Ok(Parents { is_clean: false, ..word.parents }),
    }
}

impl RecoveryPoint {
    /// What tells whether it counts: `marker` is that of our last close, if there is one.
    pub(super) fn for_judgement(&self, has_canary: bool, marker: Option<CleanShutdown>) -> Own {
        let is_closed = marker.is_some_and(|marker| self.is_closed_by(&marker));
        Own { lineage: (has_canary || !self.is_guarded).then_some(self.lineage), is_closed }
    }

    /// Whether `marker` belongs to it: nothing was written since the close.
    fn is_closed_by(&self, marker: &CleanShutdown) -> bool {
        marker.generation == self.generation && marker.log_end == self.offset && self.restart.is_none()
    }
}

fn refuse_opened_alone(home: &Home) -> Result<(), OpenError> {
    let lock = home.dir.join(names::LOCK);
    match home.fs.is_locked(&lock) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::Locked { lock }),
        Err(e) => Err(IoFailure::new(IoOperation::Lock, lock, e).into()),
    }
}

/// What a log that was closed cleanly says of itself in two small files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    /// As it was when the log was closed.
    pub(crate) high_watermark: Offset,
    /// The last stable offset under that high watermark.
    pub(crate) last_stable: Offset,
    pub(crate) active_base: Offset,
    pub(crate) active_bytes: u64,
    /// It counts in a directory of this lineage alone.
    pub(crate) lineage: Lineage,
    pub(crate) fencing_token: Option<u64>,
    pub(crate) is_sealed: bool,
}

impl Peeked {
    /// The marks with which the log would open. `None` when that takes a look at its transactions, because the high
    /// watermark would be another one than at the close.
    pub(crate) fn marks(&self, mode: HighWatermarkMode) -> Option<Marks> {
        let high_watermark = match mode {
            HighWatermarkMode::LogEnd | HighWatermarkMode::DurableEnd => self.log_end,
            HighWatermarkMode::Embedder => self.high_watermark,
        };
        let (log_start, log_end, last_stable) = (self.log_start, self.log_end, self.last_stable);
        let marks = Marks { log_start, last_stable, high_watermark, durable_end: log_end, log_end };
        (high_watermark == self.high_watermark).then_some(marks)
    }
}

/// Looks at a partition without opening it: two small files and whether its canary lives, no listing. `None` unless its last close was clean and
/// nothing was written since. Whether the log's files are still those is seen when it is opened.
pub(crate) fn peek(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Peeked>, IoFailure> {
    let Some(marker) = CleanShutdown::read(fs, dir)?.ok().flatten() else { return Ok(None) };
    let Some(marks) = marker.marks else { return Ok(None) };
    let Some(point) = RecoveryPoint::read(fs, dir)?.ok().flatten() else { return Ok(None) };
    let fits = point.is_closed_by(&marker);
    if point.is_guarded && !open::has_canary(fs, dir)? {
        return Ok(None);
    }
    let log_start = point.standing.log_start.unwrap_or(marks.log_start).min(marker.log_end);
    // One that starts elsewhere by now has other marks, too.
    let is_whole = log_start == marks.log_start
        && (log_start..=marker.log_end).contains(&marks.high_watermark)
        && (log_start..=marks.high_watermark).contains(&marks.last_stable);
    Ok((fits && is_whole).then_some(Peeked {
        log_start,
        log_end: marker.log_end,
        high_watermark: marks.high_watermark,
        last_stable: marks.last_stable,
        active_base: marker.active_base,
        active_bytes: marker.active_bytes,
        lineage: point.lineage,
        fencing_token: point.standing.fencing_token,
        is_sealed: point.standing.is_sealed,
    }))
}

/// The marker that our close would have left of a log that Kafka closed: its clean shutdown syncs everything, trims the
/// index files and puts the recovery point at the log end. `None` when the last segment's files do not bear that out.
pub(super) fn marker_of_kafkas_close(
    home: &Home,
    options: SegmentOptions,
    point: RecoveryPoint,
) -> Result<Option<CleanShutdown>, IoFailure> {
    let entries = home.list()?;
    let is_settled = entries.iter().filter_map(SegmentFile::of).all(|file| file.stage == Stage::Live);
    let Some(active_base) = live_logs(&entries).pop().filter(|_| is_settled) else { return Ok(None) };
    let path = home.path(active_base, FileKind::Log);
    let found = home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, &path, e))?;
    let segment = Segment::sealed(home, active_base, options, Vec::new());
    let (Some(offsets), Some(times)) =
        (segment.read_sidecar(FileKind::Index)?, segment.read_sidecar(FileKind::TimeIndex)?)
    else {
        return Ok(None);
    };
    let (Ok(offsets), Ok(times)) = (OffsetIndex::decode(&offsets, found.len), TimeIndex::decode(&times)) else {
        return Ok(None);
    };
    let index = SegmentIndex { offsets, times };
    let Some(epochs) = derived::read_epochs(home)?.ok().flatten() else { return Ok(None) };
    let looked = segment.load_aborted().and_then(|aborted| {
        let ends_there = ends_at(&segment, &index, found.len, point.offset)?;
        Ok(ends_there.then(|| index.checksum(&aborted.encode())))
    });
    let index_checksum = match looked {
        Ok(Some(checksum)) => checksum,
        Err(ReadError::Io(failure)) => return Err(failure),
        Ok(None) | Err(_) => return Ok(None),
    };
    Ok(Some(CleanShutdown {
        generation: point.generation,
        log_end: point.offset,
        active_base,
        active_bytes: found.len,
        index_checksum,
        epochs_checksum: derived::epochs_checksum(&epochs),
        marks: None,
    }))
}

/// Whether the segment's last batch, found from its last index entry on, ends with the file and right before `end`, and
/// nothing on the way contradicts the index.
fn ends_at(segment: &Segment, index: &SegmentIndex, bytes: u64, end: Offset) -> Result<bool, ReadError> {
    if !segment.agrees_at_the_end(index, bytes)? {
        return Ok(false);
    }
    let mut position = index.offsets.last().map_or(0, |entry| u64::from(entry.position));
    let mut next = segment.base();
    while position < bytes {
        let header = segment.header_at(position, bytes)?;
        if header.base_offset < next {
            return Ok(false);
        }
        next = header.next_offset();
        position += u64::from(header.size);
    }
    Ok(next == end)
}
