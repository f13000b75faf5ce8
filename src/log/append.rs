//! Appending: validate outside the lock, then assign, write once and publish under it.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use super::sync::Durable;
use super::writer::{Refusal, Writer};
use super::{LogCore, PartitionLog};
use crate::clock::Deadline;
use crate::commit::{Ticket, is_due};
use crate::config::{LogConfig, TimestampType};
use crate::error::{AppendError, BrokenRule, DurabilityError, InvalidBatch, IoFailure, IoOperation};
use crate::fs;
use crate::record::{self, BatchHeader, Origin, RecordBatch, Rules};
use crate::units::{LeaderEpoch, Offset, TimestampMs};

/// Batches to append: each buffer holds one or several whole record batches, one after the other. Buffers that are
/// owned or lent mutably are stamped in place; borrowed ones are copied first.
///
/// ```
/// use alluvium::Batches;
/// let bytes = vec![0_u8; 61];
/// let _: Batches<'_> = bytes.as_slice().into();   // copied, then stamped
/// let _: Batches<'_> = bytes.into();              // stamped in place, no copy
/// ```
#[derive(Debug)]
pub enum Batches<'a> {
    /// A buffer given away.
    Owned(Vec<u8>),
    /// Bytes to be copied.
    Borrowed(&'a [u8]),
    /// A buffer that the caller keeps: it holds the stamped bytes afterwards, or what it held before if the append
    /// fails.
    InPlace(&'a mut [u8]),
    /// Several buffers, written with one vectored call.
    Many(Vec<Vec<u8>>),
}

impl From<Vec<u8>> for Batches<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl<'a> From<&'a [u8]> for Batches<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Batches<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Batches<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::InPlace(bytes)
    }
}

impl<'a> From<&'a mut Vec<u8>> for Batches<'a> {
    fn from(bytes: &'a mut Vec<u8>) -> Self {
        Self::InPlace(bytes)
    }
}

impl From<Vec<Vec<u8>>> for Batches<'_> {
    fn from(buffers: Vec<Vec<u8>>) -> Self {
        Self::Many(buffers)
    }
}

impl From<RecordBatch> for Batches<'_> {
    fn from(batch: RecordBatch) -> Self {
        Self::Owned(batch.into_bytes())
    }
}

impl From<Vec<RecordBatch>> for Batches<'_> {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self::Many(batches.into_iter().map(RecordBatch::into_bytes).collect())
    }
}

/// On whose behalf an append is made; decides what is checked and who assigns offsets (format: Kafka's `LogValidator`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAs {
    /// A producer's batches, taken by the leader: offset 0 in, offsets assigned here.
    Client {
        /// The leader's epoch, stamped into each batch.
        epoch: LeaderEpoch,
    },
    /// The leader's own: control batches are allowed, sequences may be missing.
    Coordinator {
        /// The leader's epoch, stamped into each batch.
        epoch: LeaderEpoch,
    },
    /// Batches fetched from the leader, written verbatim: offsets and epochs are given.
    Follower,
}

impl AppendAs {
    fn origin(self) -> Origin {
        match self {
            Self::Client { .. } => Origin::Client,
            Self::Coordinator { .. } => Origin::Coordinator,
            Self::Follower => Origin::Follower,
        }
    }

    fn epoch(self) -> Option<LeaderEpoch> {
        match self {
            Self::Client { epoch } | Self::Coordinator { epoch } => Some(epoch),
            Self::Follower => None,
        }
    }
}

/// An append that is in the page cache. It survives the death of the process; wait for durability to survive a power
/// loss too.
#[derive(Debug)]
pub struct Appended {
    core: Arc<LogCore>,
    base: Offset,
    ticket: Ticket,
    append_time: Option<TimestampMs>,
    should_flush: bool,
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

/// One batch of an append, found and validated.
#[derive(Debug)]
struct Placed {
    buffer: usize,
    start: usize,
    /// As it will be written.
    header: BatchHeader,
    /// As it came.
    sent: BatchHeader,
}

/// An append before it has its place.
struct Incoming<'a> {
    buffers: Buffers<'a>,
    placed: Vec<Placed>,
    bytes: u64,
}

enum Buffers<'a> {
    One(Vec<u8>),
    Lent(&'a mut [u8]),
    Many(Vec<Vec<u8>>),
}

impl Buffers<'_> {
    fn get(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::One(buffer) => (at == 0).then_some(buffer),
            Self::Lent(buffer) => (at == 0).then_some(buffer),
            Self::Many(buffers) => buffers.get(at).map(Vec::as_slice),
        }
    }

    fn get_mut(&mut self, at: usize) -> Option<&mut [u8]> {
        match self {
            Self::One(buffer) => (at == 0).then_some(buffer),
            Self::Lent(buffer) => (at == 0).then_some(buffer),
            Self::Many(buffers) => buffers.get_mut(at).map(Vec::as_mut_slice),
        }
    }
}

impl<'a> Incoming<'a> {
    /// Finds the batches in the buffers and judges each.
    fn judge(batches: Batches<'a>, rules: &Rules) -> Result<Self, AppendError> {
        let buffers = match batches {
            Batches::Owned(bytes) => Buffers::One(bytes),
            Batches::Borrowed(bytes) => Buffers::One(bytes.to_vec()),
            Batches::InPlace(bytes) => Buffers::Lent(bytes),
            Batches::Many(buffers) => Buffers::Many(buffers),
        };
        let mut incoming = Self { buffers, placed: Vec::new(), bytes: 0 };
        let mut at = 0;
        while let Some(buffer) = incoming.buffers.get(at) {
            let mut start = 0;
            while let Some(rest) = buffer.get(start..).filter(|rest| !rest.is_empty()) {
                let batch = incoming.placed.len();
                let header = record::validate(rest, rules).map_err(|cause| AppendError::Invalid { batch, cause })?;
                incoming.placed.push(Placed { buffer: at, start, header, sent: header });
                start += header.size as usize;
            }
            incoming.bytes += buffer.len() as u64;
            at += 1;
        }
        if incoming.placed.is_empty() { Err(AppendError::Nothing) } else { Ok(incoming) }
    }

    /// Stamps the time of the append into every batch; recomputes the checksums.
    fn stamp_time(&mut self, now: TimestampMs) {
        for placed in &mut self.placed {
            let end = placed.start + placed.header.size as usize;
            if let Some(batch) = self.buffers.get_mut(placed.buffer).and_then(|b| b.get_mut(placed.start..end)) {
                record::stamp_append_time(batch, now);
                placed.header.max_timestamp = now;
            }
        }
    }

    /// The leader's part: offsets from `next` on, and the epoch. Returns the offset after the last record.
    fn assign(&mut self, mut next: Offset, epoch: LeaderEpoch) -> Result<Offset, AppendError> {
        let records: u64 = self
            .placed
            .iter()
            .map(|placed| u64::from(placed.header.last_offset_delta.value().unsigned_abs()) + 1)
            .sum();
        let room = Offset::MAX.distance_from(next);
        if records > room {
            return Err(AppendError::OffsetsExhausted { log_end: next, records });
        }
        for placed in &mut self.placed {
            placed.header.base_offset = next;
            placed.header.leader_epoch = Some(epoch);
            let end = placed.start + placed.header.size as usize;
            if let Some(batch) = self.buffers.get_mut(placed.buffer).and_then(|b| b.get_mut(placed.start..end)) {
                record::stamp(batch, next, Some(epoch));
            }
            next = placed.header.next_offset();
        }
        Ok(next)
    }

    /// The follower's part: given offsets must rise from the log end on. Returns the offset after the last record.
    fn check_given(&self, log_end: Offset) -> Result<Offset, AppendError> {
        let mut next = log_end;
        for (batch, placed) in self.placed.iter().enumerate() {
            let base = placed.header.base_offset;
            if base < next {
                return Err(AppendError::NotMonotone { batch, base_offset: base.value(), log_end: next });
            }
            next = placed.header.next_offset();
        }
        Ok(next)
    }

    /// Puts a lent buffer back as it came, so that the caller can send it again.
    fn put_back(&mut self) {
        let Buffers::Lent(buffer) = &mut self.buffers else { return };
        for placed in &self.placed {
            let end = placed.start + placed.sent.size as usize;
            if let Some(batch) = buffer.get_mut(placed.start..end) {
                record::unstamp(batch, &placed.sent);
            }
        }
    }

    fn first_offset(&self) -> Offset {
        self.placed.first().map_or(Offset::ZERO, |placed| placed.header.base_offset)
    }

    fn write(&self, file: &dyn fs::File, at: u64) -> std::io::Result<()> {
        match &self.buffers {
            Buffers::One(buffer) => fs::write_all_at(file, buffer, at),
            Buffers::Lent(buffer) => fs::write_all_at(file, buffer, at),
            Buffers::Many(buffers) => {
                let mut slices: Vec<IoSlice<'_>> = buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
                fs::write_all_vectored_at(file, &mut slices, at)
            }
        }
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
    pub fn append<'a>(&self, batches: impl Into<Batches<'a>>, origin: AppendAs) -> Result<Appended, AppendError> {
        let config = self.config();
        let now = self.core.clock.wall();
        let mut incoming = Incoming::judge(batches.into(), &rules(&config, origin, now))?;
        if incoming.bytes > u64::from(config.segment_bytes) {
            let rule = BrokenRule::LargerThanSegment { size: incoming.bytes, max: u64::from(config.segment_bytes) };
            let batch = incoming.placed.len() - 1;
            return Err(AppendError::Invalid { batch, cause: InvalidBatch::Rule(rule) });
        }
        let stamps = config.message_timestamp_type == TimestampType::LogAppendTime;
        let append_time = (stamps && origin != AppendAs::Follower).then_some(now);
        if let Some(now) = append_time {
            incoming.stamp_time(now);
        }
        let placed = self.place(&mut incoming, origin, &config, append_time);
        if placed.is_err() {
            incoming.put_back();
        }
        placed
    }

    fn place(
        &self,
        incoming: &mut Incoming<'_>,
        origin: AppendAs,
        config: &LogConfig,
        append_time: Option<TimestampMs>,
    ) -> Result<Appended, AppendError> {
        loop {
            match self.core.place(incoming, origin, config)? {
                Placement::Done { base, ticket, should_flush } => {
                    self.core.metrics.appended_batches.add(incoming.placed.len() as u64);
                    self.core.metrics.appended_bytes.add(incoming.bytes);
                    if should_flush {
                        self.core.queue.wake_worker();
                    }
                    let core = Arc::clone(&self.core);
                    return Ok(Appended { core, base, ticket, append_time, should_flush });
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
        origin: AppendAs,
        config: &LogConfig,
    ) -> Result<Placement, AppendError> {
        let mut writer = self.writer.lock();
        // Before anything is assigned: waiting lets go of the lock.
        self.wait_for_zeros(&mut writer, incoming.bytes);
        writer.check_open()?;
        if let (Some(given), Some(newest)) = (origin.epoch(), writer.newest_epoch)
            && given < newest
        {
            return Err(AppendError::FencedEpoch { given, newest });
        }
        let end = match origin.epoch() {
            Some(epoch) => incoming.assign(writer.log_end, epoch)?,
            None => incoming.check_given(writer.log_end)?,
        };
        let shape = shape(incoming, end);
        if !self.make_room(&mut writer, &shape, config).map_err(AppendError::Io)? {
            return Ok(Placement::NeedsBarrier { base: shape.first });
        }
        if let Err(e) = incoming.write(&*writer.file, writer.position) {
            let failure = IoFailure::new(IoOperation::Write, writer.active.log_path(), e);
            return Err(self.undo_write(&mut writer, failure));
        }
        let ticket = self.take_in(&mut writer, incoming, &shape, end);
        // Only a policy by age asks what time it is.
        let now = config.flush.after.map_or_else(Duration::default, |_| self.clock.monotonic());
        let should_flush = is_due(&config.flush, &writer.unsynced, now);
        Ok(Placement::Done { base: shape.first, ticket, should_flush })
    }

    /// The batches are written: index them, count them, publish them.
    fn take_in(&self, writer: &mut Writer, incoming: &Incoming<'_>, shape: &AppendShape, end: Offset) -> Ticket {
        let mut position = writer.position;
        for placed in &incoming.placed {
            writer.cursor.note_timestamp(&placed.header);
            if writer.cursor.is_due(position) {
                let Writer { cursor, active, .. } = &mut *writer;
                active.extend_index(|index| cursor.write_entry(&placed.header, position, index));
            }
            writer.newest_epoch = writer.newest_epoch.max(placed.header.leader_epoch);
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
        {
            let mut view = self.view.write();
            view.active_bytes = position;
            view.marks.log_end = end;
            view.marks = view.marks.checked();
        }
        self.queue.ticket(end)
    }

    /// A write failed, perhaps after a part of it: cuts back to the last whole batch, durably, before anything is
    /// written in its place. If the cut fails the log latches.
    fn undo_write(&self, writer: &mut Writer, failure: IoFailure) -> AppendError {
        let path = writer.active.log_path();
        let file = Arc::clone(&writer.file);
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
        }
    }
}
