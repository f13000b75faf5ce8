//! What a store asks of the logs that it holds, beyond what any embedder may: to be put aside while idle, to be given up,
//! to do one part of a tick.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use super::writer::WriterState;
use super::{LogCore, PartitionLog};
use crate::error::{ChangeError, Damage, IoFailure, IoOperation, LogFailed};
use crate::fs::{self, FileSystem, OpenMode};
use crate::index::TimeIndex;
use crate::metrics::LogMetrics;
use crate::segment::{FileKind, Segment, SegmentFile, Stage};
use crate::units::{Offset, TimestampMs};

/// What must be told to the next opening of a log in this process: bytes of segments that sockets may still read.
pub(crate) type Lent = Vec<(Offset, u64)>;

/// What [`PartitionLog::housekeep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Housekept {
    /// A segment was rolled because of its age.
    pub(crate) rolled: bool,
    /// Segments that retention took out of the log.
    pub(crate) deleted: usize,
}

/// A log that was given up, and that a slow call may still be at work on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Former(Weak<LogCore>);

impl Former {
    /// Waits until nobody is in the middle of changing the log's files. It was given up: nobody begins to any more.
    pub(crate) fn wait_until_left(&self) {
        if let Some(core) = self.0.upgrade() {
            drop(core.round.lock());
        }
    }
}

/// How a log is, by what can be seen without waiting for anybody.
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    /// Why it latched, if it did.
    pub(crate) failed: Option<LogFailed>,
    /// Ranges that cannot be read.
    pub(crate) damage: Vec<Damage>,
}

/// How much there is of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segments: usize,
    /// `None` when it would take a look at the disk.
    pub(crate) bytes: Option<u64>,
}

impl PartitionLog {
    /// How the log is, without waiting for an append or a sync, which a dead disk may hold up for ever.
    pub(crate) fn glance(&self) -> Glance {
        let view = self.core.view.read().clone();
        let holes =
            |segment: &Arc<Segment>| segment.holes().iter().map(|hole| segment.damage(hole)).collect::<Vec<_>>();
        let damage = view.segments.iter().flat_map(holes).collect();
        Glance { failed: self.core.queue.failed(), damage }
    }

    /// How much there is of it, without waiting for anybody.
    pub(crate) fn extent(&self) -> Extent {
        let view = self.core.view.read().clone();
        let sealed = view.segments.len().saturating_sub(1);
        let known: Option<u64> = view.segments.iter().take(sealed).map(|segment| segment.known_bytes()).sum();
        Extent { segments: sealed + 1, bytes: known.map(|bytes| bytes + view.active_bytes) }
    }

    /// The counters, to be kept beyond the log.
    pub(crate) fn shared_metrics(&self) -> Arc<LogMetrics> {
        Arc::clone(&self.core.metrics)
    }

    /// Whether nobody else can reach the log: no handle, no append or wait in progress, no slice of its bytes. To be
    /// asked by who holds the one handle and gives none away meanwhile.
    pub(crate) fn is_only_handle(&self) -> bool {
        if Arc::strong_count(&self.core) > 1 {
            return false;
        }
        let view = self.core.view.read().clone();
        let writer = self.core.writer.lock();
        // One reference is the view's.
        view.segments.iter().all(|segment| Arc::strong_count(segment) == 1 + writer.holds(segment))
    }

    /// Whether anything waits for a sync.
    pub(crate) fn needs_sync(&self) -> bool {
        self.core.writer.lock().needs_sync()
    }

    /// What sockets may still read from the pages of its files: a truncation has to know, also in a later opening.
    pub(crate) fn lent(&self) -> Lent {
        let view = self.core.view.read().clone();
        let lent = view.segments.iter().map(|segment| (segment.base(), segment.lent_bytes()));
        lent.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Tells the log what [`PartitionLog::lent`] said before it was closed.
    pub(crate) fn lend_again(&self, lent: &Lent) {
        let view = self.core.view.read().clone();
        for segment in view.segments.iter() {
            for (_, bytes) in lent.iter().filter(|(base, _)| *base == segment.base()) {
                segment.lend(*bytes);
            }
        }
    }

    /// The base offset of the first segment: the log start may lie past it.
    pub(crate) fn first_base(&self) -> Offset {
        let view = self.core.view.read();
        view.segments.first().map_or(view.marks.log_end, |segment| segment.base())
    }

    /// Closes the log as a crash would: nothing is synced or written, and who waits is told that it is closed.
    pub(crate) fn abandon(&self) {
        let core = &self.core;
        {
            let mut writer = core.writer.lock();
            if matches!(writer.state, WriterState::Open) {
                writer.state = WriterState::Closed;
            }
        }
        core.view.write().is_closed = true;
        *core.lock.lock() = None;
        core.queue.close();
        core.waiters.close();
    }

    /// Gives the log up as [`abandon`](Self::abandon) does, and waits until nobody is in the middle of changing its files:
    /// a commit round, a truncation. Whoever comes later finds it closed. To be called before another log may have the
    /// same directory, or one of the same name.
    pub(crate) fn retire(&self) {
        self.abandon();
        self.former().wait_until_left();
    }

    /// What is left of the log for the one that follows it.
    pub(crate) fn former(&self) -> Former {
        Former(Arc::downgrade(&self.core))
    }

    /// The recovery point for the lists of the data directory.
    pub(crate) fn listed_point(&self) -> Offset {
        self.core.keeper.listed_point()
    }

    /// Whether both are the same opening of a log.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    /// Why the log latched, if it did.
    pub(crate) fn failure(&self) -> Option<LogFailed> {
        self.core.writer.lock().failed()
    }

    /// Refuses appends from now on because of what happened to the directory that the log lies in.
    pub(crate) fn fail(&self, cause: IoFailure) {
        let mut writer = self.core.writer.lock();
        if writer.check_open().is_ok() {
            self.core.latch(&mut writer, cause);
        }
    }

    /// Told of what befell a change of somebody else's in the log's directory. Where that was a sync of its names, those of
    /// the log's own files may be lost, and its next sync, which succeeds, would not know.
    pub(crate) fn fail_if_names_are_in_doubt(&self, failure: &IoFailure) {
        if failure.operation == IoOperation::Sync && *failure.path == *self.dir() {
            self.fail(failure.clone());
        }
    }

    /// Runs a commit round if policy or waiters ask for one; whether they did.
    pub(crate) fn sync_if_due(&self) -> Result<bool, ChangeError> {
        Ok(self.core.sync_if_due()?)
    }

    /// Does what time asks for but syncing: rolls an old segment, forgets expired producers and, with `retains`, deletes what
    /// retention no longer keeps. Files on their way out are unlinked when it is time.
    pub(crate) fn housekeep(&self, retains: bool) -> Result<Housekept, ChangeError> {
        let config = self.config();
        let rolled = self.core.maybe_roll_by_time(&config)?;
        self.core.expire_producers();
        let deleted = if retains {
            self.enforce_retention()?.deleted.len()
        } else {
            self.core.unlink_leaving();
            0
        };
        Ok(Housekept { rolled, deleted })
    }

    /// Work done so far, to tell whether anything was asked of the log between two looks.
    pub(crate) fn activity(&self) -> u64 {
        let metrics = self.metrics();
        metrics.appended_batches.value() + metrics.reads.value() + metrics.duplicate_appends.value()
    }
}

/// The earliest time that retention may count the oldest segment of a closed log from; `None` where it holds nothing.
/// Opens nothing but the time index, whose word is checked when the log is opened.
pub(crate) fn oldest_timestamp(fs: &dyn FileSystem, dir: &Path) -> Result<Option<TimestampMs>, IoFailure> {
    let entries = fs.list(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    let is_log = |file: &SegmentFile| file.kind == FileKind::Log && file.stage == Stage::Live;
    let Some(oldest) = entries.iter().filter_map(SegmentFile::of).filter(is_log).min_by_key(|file| file.base) else {
        return Ok(None);
    };
    let path = dir.join(oldest.name());
    let found = fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
    if found.len == 0 {
        return Ok(None);
    }
    let path = dir.join(SegmentFile::live(oldest.base, FileKind::TimeIndex).name());
    let recorded = newest_entry(fs, &path)?.filter(|recorded| recorded.value() > 0);
    Ok([recorded, found.modified].into_iter().flatten().min().or(Some(TimestampMs::new(0))))
}

/// The largest timestamp that a time index knows.
fn newest_entry(fs: &dyn FileSystem, path: &Path) -> Result<Option<TimestampMs>, IoFailure> {
    let failed = |operation| move |e| IoFailure::new(operation, path, e);
    let file = match fs.open(path, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed(IoOperation::Open))?,
    };
    let size = file.size().map_err(failed(IoOperation::Read))?;
    let mut entry = [0; 12];
    let Some(at) = size.checked_sub(entry.len() as u64) else { return Ok(None) };
    fs::read_exact_at(&*file, &mut entry, at).map_err(failed(IoOperation::Read))?;
    Ok(TimeIndex::decode(&entry).ok().and_then(|index| index.last().map(|entry| entry.timestamp)))
}
