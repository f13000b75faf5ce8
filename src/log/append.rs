//! Appending: validate outside the lock, then assign, write once and publish under it.

use std::sync::Arc;
use std::time::Duration;

use super::batches::{AppendAs, AppendOptions, Batches};
use super::derived::producer_limits;
use super::incoming::Incoming;
use super::sync::Durable;
use super::writer::{Refusal, Writer};
use super::{LogCore, PartitionLog};
use crate::clock::Deadline;
use crate::commit::{Ticket, is_due};
use crate::config::{LogConfig, TimestampType};
use crate::error::{AppendError, BrokenRule, DurabilityError, InvalidBatch, IoFailure, IoOperation};
use crate::fs::File;
use crate::index::{Authority, Verdict};
use crate::record::Rules;
use crate::units::{Offset, TimestampMs};

/// An append that is in the page cache. It survives the death of the process; wait for durability to survive a power
/// loss too.
#[derive(Debug)]
pub struct Appended {
    core: Arc<LogCore>,
    base: Offset,
    ticket: Ticket,
    append_time: Option<TimestampMs>,
    should_flush: bool,
    is_duplicate: bool,
}

impl Appended {
    /// First offset that was assigned (or, for a follower, given).
    pub fn base_offset(&self) -> Offset {
        self.base
    }

    /// Offset after the last record.
    pub fn end(&self) -> Offset {
        self.ticket.end
    }

    /// The timestamp stamped by the log, with `message.timestamp.type=LogAppendTime`.
    pub fn append_time(&self) -> Option<TimestampMs> {
        self.append_time
    }

    /// Whether an idempotent producer sent these batches before: nothing was written, and the offsets are those of the
    /// first time.
    pub fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    /// Whether the flush policy asks for a sync now. A flusher, if attached, already knows; without one call
    /// [`PartitionLog::tick`] or let somebody wait.
    pub fn should_flush(&self) -> bool {
        self.should_flush
    }

    /// Blocks until the append survives a power loss. Without a flusher this thread may do the sync for all who wait.
    /// A round that began before the deadline is finished, and its outcome is the answer.
    ///
    /// # Errors
    /// [`DurabilityError`]: deadline passed, truncated meanwhile, sync failed, or log closed.
    pub fn wait_durable(&self, deadline: impl Into<Deadline>) -> Result<(), DurabilityError> {
        self.core.wait_durable(self.ticket, deadline.into())
    }

    /// A future of the same. It needs no particular runtime and does no I/O in `poll`: a flusher, another waiter or
    /// [`PartitionLog::tick`] completes it.
    pub fn durable(&self) -> Durable {
        Durable::new(Arc::clone(&self.core), self.ticket)
    }
}

/// What rolling looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendShape {
    /// Bytes of the whole append.
    pub(crate) bytes: u64,
    /// Number of batches.
    pub(crate) batches: usize,
    /// First offset.
    pub(crate) first: Offset,
    /// Last offset.
    pub(crate) last: Offset,
    /// Largest timestamp.
    pub(crate) timestamp: TimestampMs,
}

fn rules(config: &LogConfig, origin: AppendAs, now: TimestampMs) -> Rules {
    let is_client = matches!(origin, AppendAs::Client { .. });
    let stamps = config.message_timestamp_type == TimestampType::LogAppendTime;
    let before = i64::try_from(config.message_timestamp_before_max_ms).unwrap_or(i64::MAX);
    let after = i64::try_from(config.message_timestamp_after_max_ms).unwrap_or(i64::MAX);
    let timestamps = now.value().saturating_sub(before)..=now.value().saturating_add(after);
    Rules {
        origin: origin.origin(),
        batch_bytes_max: is_client.then_some(config.max_message_bytes),
        decompressed_bytes_max: config.max_decompressed_bytes,
        keys_required: is_client && config.cleanup_policy.compacts(),
        timestamps: (is_client && !stamps).then_some(timestamps),
    }
}

impl PartitionLog {
    /// Appends one or several record batches: all of them or none. Returns when they are in the page cache and visible
    /// to readers at the log end; what it returns can wait for more. Never syncs, and never waits for a sync (but for
    /// the rare follower's batch that lies 2^31 offsets past the log end: what precedes such a gap is made durable
    /// first).
    ///
    /// # Errors
    /// [`AppendError`]; whatever it is, nothing of the append is visible and nothing of it survives.
    pub fn append<'a>(
        &self,
        batches: impl Into<Batches<'a>>,
        how: impl Into<AppendOptions>,
    ) -> Result<Appended, AppendError> {
        let (config, how) = (self.config(), how.into());
        let above = self.core.keeper.above();
        if let Some(above) = above.filter(|_| !matches!(how.origin, AppendAs::Coordinator { .. })) {
            // The end of a transaction takes little space, and readers and retention wait for it.
            above.admits()?;
        }
        let now = self.core.clock.wall();
        let rules = rules(&config, how.origin, now);
        let mut incoming = Incoming::judge(batches.into(), &rules)?;
        if how.origin != AppendAs::Follower && incoming.recompress(&config)? {
            incoming.check_sizes(rules.batch_bytes_max)?;
        }
        if incoming.bytes > u64::from(config.segment_bytes) {
            let rule = BrokenRule::LargerThanSegment { size: incoming.bytes, max: u64::from(config.segment_bytes) };
            let batch = incoming.placed.len() - 1;
            return Err(AppendError::Invalid { batch, cause: InvalidBatch::Rule(rule) });
        }
        let stamps = config.message_timestamp_type == TimestampType::LogAppendTime;
        let append_time = (stamps && how.origin != AppendAs::Follower).then_some(now);
        let bytes = incoming.bytes;
        let placed = self.place(&mut incoming, &how, &config, append_time);
        if placed.is_err() {
            incoming.put_back();
        }
        match (&placed, above) {
            (Ok(_), Some(above)) => above.wrote(Ok(bytes)),
            (Err(AppendError::Io(failure)), Some(above)) => above.wrote(Err(failure)),
            _ => {}
        }
        placed
    }

    fn place(
        &self,
        incoming: &mut Incoming<'_>,
        how: &AppendOptions,
        config: &LogConfig,
        append_time: Option<TimestampMs>,
    ) -> Result<Appended, AppendError> {
        if let Some(now) = append_time {
            incoming.stamp_time(now);
        }
        loop {
            let core = Arc::clone(&self.core);
            match self.core.place(incoming, how, config)? {
                Placement::Done { base, ticket, should_flush } => {
                    self.core.metrics.appended_batches.add(incoming.placed.len() as u64);
                    self.core.metrics.appended_bytes.add(incoming.bytes);
                    return Ok(Appended { core, base, ticket, append_time, should_flush, is_duplicate: false });
                }
                Placement::Duplicate { base, ticket, timestamp } => {
                    self.core.metrics.duplicate_appends.add(1);
                    incoming.put_back();
                    let append_time = append_time.map(|_| timestamp);
                    return Ok(Appended { core, base, ticket, append_time, should_flush: false, is_duplicate: true });
                }
                Placement::NeedsBarrier { base } => self.core.barrier(base)?,
            }
        }
    }
}

enum Placement {
    Done {
        base: Offset,
        ticket: Ticket,
        should_flush: bool,
    },
    /// The batches are in the log already.
    Duplicate {
        base: Offset,
        ticket: Ticket,
        timestamp: TimestampMs,
    },
    /// The append lies too far past the log end for the next segment to start there.
    NeedsBarrier {
        base: Offset,
    },
}

impl LogCore {
    /// Gives the append its place and writes it.
    fn place(
        &self,
        incoming: &mut Incoming<'_>,
        how: &AppendOptions,
        config: &LogConfig,
    ) -> Result<Placement, AppendError> {
        let mut writer = self.writer.lock();
        // Before anything is assigned: waiting lets go of the lock.
        self.wait_for_zeros(&mut writer, incoming.bytes);
        writer.check_writable()?;
        if let Some(duplicate) = self.judge(&writer, incoming, how, config)? {
            return Ok(duplicate);
        }
        let end = match how.origin.epoch() {
            Some(epoch) => incoming.assign(writer.log_end, epoch)?,
            None => incoming.check_given(writer.log_end)?,
        };
        let shape = shape(incoming, end);
        if !self.make_room(&mut writer, &shape, config).map_err(AppendError::Io)? {
            return Ok(Placement::NeedsBarrier { base: shape.first });
        }
        // Only a log that was idle has to open it, and then nothing was rolled.
        let file = writer.open_file(&self.home).map_err(AppendError::Io)?;
        if let Err(e) = incoming.write(&*file, writer.position) {
            let failure = IoFailure::new(IoOperation::Write, writer.active.log_path(), e);
            return Err(self.undo_write(&mut writer, &*file, failure));
        }
        let was_synced = writer.unsynced.since.is_none();
        let ticket = self.take_in(&mut writer, incoming, &shape, end, config);
        // A flusher that knows of nothing unsynced does not know when it will be due.
        let starts_the_clock = was_synced && config.flush.after.is_some();
        // Only a policy by age asks what time it is.
        let now = config.flush.after.map_or_else(Duration::default, |_| self.clock.monotonic());
        let should_flush = is_due(&config.flush, &writer.unsynced, now);
        self.wake(writer);
        if should_flush || starts_the_clock {
            self.queue.wake_worker();
        }
        Ok(Placement::Done { base: shape.first, ticket, should_flush })
    }

    /// Whether the append may go on: who may write, where the log ends, and what is known of its producers. Changes
    /// nothing.
    fn judge(
        &self,
        writer: &Writer,
        incoming: &Incoming<'_>,
        how: &AppendOptions,
        config: &LogConfig,
    ) -> Result<Option<Placement>, AppendError> {
        if let Some(current) = writer.fencing_token.filter(|current| how.fencing_token != Some(*current)) {
            return Err(AppendError::FencedToken { given: how.fencing_token, current });
        }
        if let (Some(given), Some(newest)) = (how.origin.epoch(), writer.derived.epochs.latest())
            && given < newest
        {
            return Err(AppendError::FencedEpoch { given, newest });
        }
        let authority = match how.origin {
            AppendAs::Client { .. } => Some(Authority::Client),
            AppendAs::Coordinator { .. } => Some(Authority::Coordinator),
            AppendAs::Follower => None,
        };
        if let Some(authority) = authority.filter(|_| incoming.has_producers()) {
            let limits = producer_limits(config);
            let producers = &writer.derived.producers;
            let verdict = producers.judge(incoming.facts(), authority, how.verification, &limits)?;
            if let Verdict::Duplicate { base_offset, last_offset, timestamp } = verdict {
                let ticket = self.queue.ticket(last_offset.next().unwrap_or(Offset::MAX));
                return Ok(Some(Placement::Duplicate { base: base_offset, ticket, timestamp }));
            }
        }
        // After the producers: a retry of what was appended finds the end moved by itself.
        match how.expected_end.filter(|expected| *expected != writer.log_end) {
            Some(expected) => Err(AppendError::UnexpectedEnd { expected, log_end: writer.log_end }),
            None => Ok(None),
        }
    }

    /// The batches are written: index them, count them, publish them.
    fn take_in(
        &self,
        writer: &mut Writer,
        incoming: &Incoming<'_>,
        shape: &AppendShape,
        end: Offset,
        config: &LogConfig,
    ) -> Ticket {
        let limits = producer_limits(config);
        let mut position = writer.position;
        for placed in &incoming.placed {
            writer.cursor.note_timestamp(&placed.header);
            if writer.cursor.is_due(position) {
                let Writer { cursor, active, .. } = &mut *writer;
                active.extend_index(|index| cursor.write_entry(&placed.header, position, index));
            }
            if let Some(summing) = &mut writer.summing
                && let Some((uncovered, crc)) = incoming.front(placed)
            {
                summing.observe(uncovered, crc, position);
            }
            // Before the log end is published: who may read the marker finds what it aborted.
            if let Some(aborted) = writer.derived.take(&placed.header, placed.marker, &limits) {
                writer.active.extend_aborted(|entries| entries.push(aborted));
            }
            position += u64::from(placed.header.size);
        }
        writer.first_timestamp.get_or_insert(shape.timestamp);
        writer.unsynced.records += end.distance_from(writer.log_end);
        writer.unsynced.bytes += shape.bytes;
        writer.unsynced.since.get_or_insert_with(|| self.clock.monotonic());
        writer.active.mark_index_saved(false);
        writer.position = position;
        writer.file_bytes = writer.file_bytes.max(position);
        writer.is_dirty = true;
        writer.log_end = end;
        // The settings may have changed while the append waited for its turn.
        let current = Arc::clone(&self.config.read());
        self.publish(writer, &current, |view| {
            view.active_bytes = position;
            view.marks.log_end = end;
        });
        self.queue.ticket(end)
    }

    /// A write failed, perhaps after a part of it: cuts back to the last whole batch, durably, before anything is
    /// written in its place. If the cut fails the log latches.
    fn undo_write(&self, writer: &mut Writer, file: &dyn File, failure: IoFailure) -> AppendError {
        let path = writer.active.log_path();
        let cut = self.keeper.begin().and_then(|()| {
            file.set_len(writer.position).map_err(|e| IoFailure::new(IoOperation::SetLen, &path, e))?;
            // Otherwise a crash could join what is written next to the rest of what failed.
            file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, &path, e))?;
            self.keeper.finish(None)
        });
        match cut {
            Ok(()) => {
                writer.file_bytes = writer.position;
                self.metrics.undone_appends.add(1);
                AppendError::Io(failure)
            }
            Err(cause) => AppendError::Failed(self.latch(writer, cause)),
        }
    }
}

fn shape(incoming: &Incoming<'_>, end: Offset) -> AppendShape {
    let timestamp = incoming.placed.iter().map(|placed| placed.header.max_timestamp).max().unwrap_or_default();
    let last = incoming.placed.last().map_or(end, |placed| placed.header.last_offset());
    AppendShape {
        bytes: incoming.bytes,
        batches: incoming.placed.len(),
        first: incoming.first_offset(),
        last,
        timestamp,
    }
}

impl From<Refusal> for AppendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(failed) => Self::Failed(failed),
            Refusal::Closed => Self::Closed,
            Refusal::Sealed => Self::Sealed,
        }
    }
}
