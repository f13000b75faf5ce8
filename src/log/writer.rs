//! The append side of a log: where the next batch goes, and what has not been synced.

use std::sync::Arc;
use std::time::Duration;

use super::derived::Derived;
use crate::commit::Unsynced;
use crate::error::LogFailed;
use crate::fs::File;
use crate::index::IndexCursor;
use crate::segment::Segment;
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

/// Guarded by `LogCore::writer`.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says of another thing that it waits to be done")]
pub(crate) struct Writer {
    pub(crate) state: WriterState,
    pub(crate) active: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) cursor: IndexCursor,
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

    /// The active segment as one that is to be synced and not to grow.
    pub(crate) fn sealed(&self) -> Unsealed {
        Unsealed { segment: Arc::clone(&self.active), file: Arc::clone(&self.file), bytes: self.position }
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
