//! The append side of a log: where the next batch goes, and what has not been synced.

use std::sync::Arc;
use std::time::Duration;

use super::derived::Derived;
use crate::commit::Unsynced;
use crate::error::{IoFailure, LogFailed};
use crate::fs::{File, OpenMode};
use crate::index::IndexCursor;
use crate::segment::sum::SumBuilder;
use crate::segment::{FileKind, Home, Segment};
use crate::units::{Offset, TimestampMs};

/// Whether the log takes appends.
#[derive(Debug)]
pub(crate) enum WriterState {
    /// It does.
    Open,
    /// It latched.
    Failed(LogFailed),
    /// It was closed.
    Closed,
    /// It was closed because a copy in another directory goes on in its place.
    Moved,
}

/// Why a writer refuses.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It latched.
    Failed(LogFailed),
    /// It was closed.
    Closed,
    /// It is read-only.
    Sealed,
}

/// A sealed segment with unsynced bytes. Its descriptor stays open until a sync on it completed.
#[derive(Clone, Debug)]
pub(crate) struct Unsealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
}

/// The `.log` that is appended to. Open while there is anything unsynced in it; an idle one may be closed.
#[derive(Debug)]
pub(crate) struct ActiveFile {
    base: Offset,
    file: Option<Arc<dyn File>>,
}

impl ActiveFile {
    /// The open file of the segment at `base`.
    pub(crate) fn new(base: Offset, file: Arc<dyn File>) -> Self {
        Self { base, file: Some(file) }
    }

    /// The open file, opened again if it was closed. When that fails nothing has changed.
    pub(crate) fn get(&mut self, home: &Home) -> Result<Arc<dyn File>, IoFailure> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = home.open(&home.path(self.base, FileKind::Log), OpenMode::ReadWrite)?;
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Whether it is open, and `file` is this very handle.
    pub(crate) fn is(&self, file: &Arc<dyn File>) -> bool {
        self.file.as_ref().is_some_and(|open| Arc::ptr_eq(open, file))
    }

    /// Closes it, unless somebody has a hand on it who is neither it nor `segment`; returns whether it did. Only for files
    /// without unsynced bytes.
    fn release(&mut self, segment: &Segment) -> bool {
        // Of a log that is idle already readers may have opened it.
        let Some(file) = &self.file else { return segment.release_unheld_file() };
        let held_here = 1 + usize::from(segment.holds_file(file));
        if Arc::strong_count(file) > held_here {
            return false;
        }
        segment.release_file();
        self.file = None;
        true
    }
}

/// Guarded by `LogCore::writer`.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says of another thing that it waits to be done")]
pub(crate) struct Writer {
    pub(crate) state: WriterState,
    pub(crate) active: Arc<Segment>,
    pub(crate) file: ActiveFile,
    pub(crate) cursor: IndexCursor,
    /// What the sum of the active segment will be made of; `None` unless all of it was appended since it began.
    pub(crate) summing: Option<SumBuilder>,
    /// Where the next batch goes: bytes of the active segment that hold batches.
    pub(crate) position: u64,
    /// Size of the active file: zeros lie between `position` and it. Equal when nothing is kept ahead.
    pub(crate) file_bytes: u64,
    /// Somebody writes zeros past `file_bytes` right now.
    pub(crate) is_zeroing: bool,
    pub(crate) log_end: Offset,
    /// Producers, transactions and epochs at the log end.
    pub(crate) derived: Derived,
    /// Monotonic time at which expired producers were last looked for.
    pub(crate) producers_expired: Option<Duration>,
    /// The only token with which appends are taken.
    pub(crate) fencing_token: Option<u64>,
    /// Made read-only by the embedder.
    pub(crate) is_sealed: bool,
    /// Largest timestamp of the first append to the active segment.
    pub(crate) first_timestamp: Option<TimestampMs>,
    /// Wall time at which the active segment was made or opened.
    pub(crate) created: TimestampMs,
    /// Sealed segments that no sync has covered, oldest first.
    pub(crate) unsealed: Vec<Unsealed>,
    /// The active file has bytes that no sync has covered.
    pub(crate) is_dirty: bool,
    /// Names came or went that no directory sync has covered.
    pub(crate) names_changed: bool,
    pub(crate) unsynced: Unsynced,
    /// Marks were published that somebody waits for, and nobody was woken yet.
    pub(crate) must_wake: bool,
}

impl Writer {
    /// `Err` unless the log takes appends.
    pub(crate) fn check_open(&self) -> Result<(), Refusal> {
        match &self.state {
            WriterState::Open => Ok(()),
            WriterState::Failed(failed) => Err(Refusal::Failed(failed.clone())),
            WriterState::Closed | WriterState::Moved => Err(Refusal::Closed),
        }
    }

    /// `Err` unless the log may be changed by its embedder: open, and not sealed.
    pub(crate) fn check_writable(&self) -> Result<(), Refusal> {
        self.check_open()?;
        if self.is_sealed { Err(Refusal::Sealed) } else { Ok(()) }
    }

    /// The failure that latched the log.
    pub(crate) fn failed(&self) -> Option<LogFailed> {
        match &self.state {
            WriterState::Failed(failed) => Some(failed.clone()),
            WriterState::Open | WriterState::Closed | WriterState::Moved => None,
        }
    }

    /// The open file of the active segment, which readers share. When it cannot be opened nothing has changed.
    pub(crate) fn open_file(&mut self, home: &Home) -> Result<Arc<dyn File>, IoFailure> {
        let file = self.file.get(home)?;
        if !self.active.holds_file(&file) {
            self.active.set_file(Arc::clone(&file));
        }
        Ok(file)
    }

    /// Closes the file of the active segment, if nothing in it is unsynced and nobody is at work on it; returns whether it
    /// did.
    pub(crate) fn release_file(&mut self) -> bool {
        !self.is_dirty && !self.is_zeroing && self.check_open().is_ok() && self.file.release(&self.active)
    }

    /// The active segment as one that is to be synced and not to grow.
    pub(crate) fn sealed(&mut self, home: &Home) -> Result<Unsealed, IoFailure> {
        let file = self.open_file(home)?;
        Ok(Unsealed { segment: Arc::clone(&self.active), file, bytes: self.position })
    }

    /// How many references of its own it holds to `segment`.
    pub(crate) fn holds(&self, segment: &Arc<Segment>) -> usize {
        let unsealed = self.unsealed.iter().map(|unsealed| &unsealed.segment);
        unsealed.chain([&self.active]).filter(|held| Arc::ptr_eq(held, segment)).count()
    }

    /// Whether anything waits for a sync.
    pub(crate) fn needs_sync(&self) -> bool {
        self.is_dirty || self.names_changed || !self.unsealed.is_empty()
    }
}
