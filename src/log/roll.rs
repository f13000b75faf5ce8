//! Rolling: when a segment ends and the next one begins (Kafka's `LogSegment.shouldRoll`).
//!
//! The next base offset is always the log end, so that recovery can tell a lost tail from a gap; only a follower's
//! batch more than 2^31 offsets past the log end starts a segment of its own, behind a durable barrier.

use std::sync::Arc;

use super::LogCore;
use super::append::AppendShape;
use super::writer::{ActiveFile, Refusal, Unsealed, Writer};
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, IoFailure, LogFailed};
use crate::fs::{File, OpenMode};
use crate::index::{IndexCursor, OffsetIndex, SegmentIndex, TimeIndex};
use crate::segment::sum::SumBuilder;
use crate::segment::{FileKind, Segment};
use crate::units::{Offset, TimestampMs};

impl LogCore {
    /// Rolls if the append asks for it; `false` when the append lies so far past the log end that a barrier must come
    /// first.
    pub(super) fn make_room(
        &self,
        writer: &mut Writer,
        append: &AppendShape,
        config: &LogConfig,
    ) -> Result<bool, IoFailure> {
        if !self.must_roll(writer, append, config) {
            return Ok(true);
        }
        if append.last.relative_to(writer.log_end).is_none() {
            return Ok(false);
        }
        self.roll(writer, writer.log_end)?;
        Ok(true)
    }

    fn must_roll(&self, writer: &Writer, append: &AppendShape, config: &LogConfig) -> bool {
        if append.last.relative_to(writer.active.base()).is_none() {
            return true;
        }
        if writer.position == 0 {
            return false;
        }
        let (offsets, times) = writer.active.index_entries();
        writer.position + append.bytes > u64::from(config.segment_bytes)
            || self.is_old(writer, append.timestamp, config)
            || offsets + append.batches > OffsetIndex::capacity(config.segment_index_bytes)
            || times + append.batches > TimeIndex::capacity(config.segment_index_bytes)
    }

    /// By timestamps where they exist, whatever the clock says; they may go back, and then nothing rolls.
    fn is_old(&self, writer: &Writer, newest: TimestampMs, config: &LogConfig) -> bool {
        let limit = self.age_limit(writer.active.base(), config);
        match writer.first_timestamp.filter(|first| first.value() >= 0) {
            Some(first) => newest.since(first) > limit,
            None => self.clock.wall().since(writer.created) > limit,
        }
    }

    /// `segment.ms`, in compacted logs no more than `max.compaction.lag.ms`, less this segment's share of the jitter, which differs from log to log and segment to segment.
    fn age_limit(&self, base: Offset, config: &LogConfig) -> i64 {
        let share = match config.segment_jitter_ms.min(config.roll_ms()) {
            0 => 0,
            jitter => {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(self.home.dir.as_os_str().as_encoded_bytes());
                hasher.update(&base.value().to_be_bytes());
                u64::from(hasher.finalize()) % jitter
            }
        };
        i64::try_from(config.roll_ms() - share).unwrap_or(i64::MAX)
    }

    /// Rolls a segment that holds something and was made longer ago than `segment.ms`, though nothing is appended.
    pub(super) fn maybe_roll_by_time(&self, config: &LogConfig) -> Result<bool, ChangeError> {
        let mut writer = self.writer.lock();
        writer.check_open()?;
        let limit = self.age_limit(writer.active.base(), config);
        if writer.position == 0 || self.clock.wall().since(writer.created) <= limit {
            return Ok(false);
        }
        let base = writer.log_end;
        self.roll(&mut writer, base)?;
        // A policy may ask for a sync now, and the worker need not be who called.
        self.queue.wake_worker();
        Ok(true)
    }

    /// Rolls a segment that holds something.
    pub(super) fn roll_now(&self) -> Result<bool, ChangeError> {
        let mut writer = self.writer.lock();
        writer.check_open()?;
        if writer.position == 0 {
            return Ok(false);
        }
        let base = writer.log_end;
        self.roll(&mut writer, base)?;
        self.queue.wake_worker();
        Ok(true)
    }

    /// Starts the segment at `base`. When it fails, nothing has changed.
    pub(super) fn roll(&self, writer: &mut Writer, base: Offset) -> Result<(), IoFailure> {
        let active = writer.sealed(&self.home)?;
        if base <= self.view.read().marks.log_start {
            self.save_producers(writer, base)?;
        }
        let path = self.home.path(base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::CreateNew)?;
        self.seal_active(writer, active);
        writer.derived.take_snapshot(base);
        self.begin_segment(writer, base, file);
        Ok(())
    }

    /// Once a log begins with the segment at `base`, no opening looks before it for producers: what is known of them has to
    /// be there before that segment is.
    fn save_producers(&self, writer: &mut Writer, base: Offset) -> Result<(), IoFailure> {
        writer.derived.take_snapshot(base);
        match writer.derived.write_pending(&self.home) {
            // A log rolls on a full disk; the next round tries again.
            Err(failure) if failure.is_storage_full() => Ok(()),
            written => written.and_then(|()| self.home.sync_names()),
        }
    }

    fn seal_active(&self, writer: &mut Writer, active: Unsealed) {
        writer.active.seal(writer.position);
        writer.active.close_time_index(&writer.cursor);
        writer.active.hand_over(writer.summing.take(), writer.log_end);
        // Its descriptor is kept: only a sync through it is sure to tell of a failed write-back.
        writer.unsealed.push(active);
        writer.unsynced.sealed = true;
        self.metrics.rolls.add(1);
    }

    /// Makes an empty file the active segment and publishes it.
    pub(super) fn begin_segment(&self, writer: &mut Writer, base: Offset, file: Arc<dyn File>) {
        let options = self.segment_options();
        let index = SegmentIndex::default();
        let segment = Arc::new(Segment::loaded(&self.home, base, options, Arc::clone(&file), index));
        writer.cursor = IndexCursor::new(base, options.interval_bytes);
        writer.summing = Some(SumBuilder::new(base, options.interval_bytes));
        writer.active = Arc::clone(&segment);
        writer.file = ActiveFile::new(base, file);
        writer.position = 0;
        writer.file_bytes = 0;
        writer.first_timestamp = None;
        writer.created = self.clock.wall();
        writer.is_dirty = false;
        writer.names_changed = true;
        let mut view = self.view.write();
        let mut segments = Vec::with_capacity(view.segments.len() + 1);
        segments.extend(view.segments.iter().cloned());
        segments.push(segment);
        Segment::tell_next(segments.get(segments.len().saturating_sub(2)..).unwrap_or_default());
        view.segments = Arc::new(segments);
        view.active_bytes = 0;
    }

    /// Makes everything durable and starts a segment at `base`, past a gap in the offsets.
    pub(super) fn barrier(&self, base: Offset) -> Result<(), AppendError> {
        let mut round = self.round.lock();
        self.sync_under(&mut round)?;
        let mut writer = self.writer.lock();
        writer.check_open()?;
        // Somebody appended since: the caller looks again.
        if writer.needs_sync() || writer.log_end > base {
            return Ok(());
        }
        let active = writer.sealed(&self.home).map_err(AppendError::Io)?;
        let path = self.home.path(base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::CreateNew).map_err(AppendError::Io)?;
        match self.cross_gap(&active, base) {
            Ok(()) => {}
            Err(failure) => return Err(AppendError::Failed(self.latch(&mut writer, failure))),
        }
        self.seal_active(&mut writer, active);
        writer.derived.take_snapshot(base);
        self.begin_segment(&mut writer, base, file);
        // Synced above, all of it.
        writer.unsealed.drain(..).for_each(|synced| synced.segment.allow_dropping());
        writer.names_changed = false;
        Ok(())
    }

    /// Raises the recovery point to `base`: nothing between can have been lost. The new segment's name is durable
    /// first, or a crash would leave a log that ends below its recovery point and look like a loss.
    fn cross_gap(&self, active: &Unsealed, base: Offset) -> Result<(), IoFailure> {
        self.keeper.begin()?;
        active.trim()?;
        active.sync()?;
        self.home.sync_names()?;
        let high_watermark = self.view.read().marks.high_watermark;
        self.keeper.raise_recovery_point(base, high_watermark)?;
        self.keeper.finish(None)
    }

    /// Refuses appends from now on and tells everybody who waits.
    pub(super) fn latch(&self, writer: &mut Writer, cause: IoFailure) -> LogFailed {
        let failed = LogFailed { cause };
        self.keeper.fail();
        writer.state = super::writer::WriterState::Failed(failed.clone());
        self.queue.fail(&failed);
        self.waiters.fail(&failed);
        failed
    }
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(failed) => Self::Failed(failed),
            Refusal::Closed => Self::Closed,
            Refusal::Sealed => Self::Sealed,
        }
    }
}
