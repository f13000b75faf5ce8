//! The batches of one append on their way in: found, judged, stamped, written with one call.

use std::io::IoSlice;

use super::batches::Batches;
use crate::config::{CompressionPolicy, LogConfig};
use crate::error::{AppendError, BrokenRule, InvalidBatch};
use crate::fs;
use crate::record::{self, BatchHeader, BatchView, Compression, Rules, TransactionMarker};
use crate::segment::MARKER_BYTES_MAX;
use crate::segment::sum::UNCOVERED_BYTES;
use crate::units::{LeaderEpoch, Offset, TimestampMs};

/// One batch of an append, found and validated.
#[derive(Debug)]
pub(super) struct Placed {
    buffer: usize,
    start: usize,
    /// As it will be written.
    pub(super) header: BatchHeader,
    /// As it came.
    sent: BatchHeader,
    /// What it decides about a transaction.
    pub(super) marker: Option<TransactionMarker>,
}

/// An append before it has its place.
pub(super) struct Incoming<'a> {
    buffers: Buffers<'a>,
    pub(super) placed: Vec<Placed>,
    pub(super) bytes: u64,
}

pub(super) enum Buffers<'a> {
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
    pub(super) fn judge(batches: Batches<'a>, rules: &Rules) -> Result<Self, AppendError> {
        let buffers = match batches {
            Batches::Owned(bytes) => Buffers::One(bytes),
            Batches::Borrowed(bytes) => Buffers::One(bytes.to_vec()),
            Batches::InPlace(bytes) => Buffers::Lent(bytes),
            Batches::Many(buffers) => Buffers::Many(buffers),
        };
        // Nearly always there is one batch, and the room that a vector takes by itself is four.
        let mut incoming = Self { buffers, placed: Vec::with_capacity(1), bytes: 0 };
        let mut at = 0;
        while let Some(buffer) = incoming.buffers.get(at) {
            let mut start = 0;
            while let Some(rest) = buffer.get(start..).filter(|rest| !rest.is_empty()) {
                let batch = incoming.placed.len();
                let header = record::validate(rest, rules).map_err(|cause| AppendError::Invalid { batch, cause })?;
                let marker = marker_of(rest, &header).map_err(|cause| AppendError::Invalid { batch, cause })?;
                incoming.placed.push(Placed { buffer: at, start, header, sent: header, marker });
                start += header.size as usize;
            }
            incoming.bytes += buffer.len() as u64;
            at += 1;
        }
        if incoming.placed.is_empty() { Err(AppendError::Nothing) } else { Ok(incoming) }
    }

    /// Writes data batches anew with the codec that the policy names; those that have it already stay as they are.
    /// Returns whether any was written anew.
    pub(super) fn recompress(&mut self, config: &LogConfig) -> Result<bool, AppendError> {
        let Some((codec, level)) = codec_of(config.compression) else { return Ok(false) };
        let is_other = |placed: &Placed| {
            let attributes = placed.header.attributes;
            !attributes.is_control() && attributes.compression() != codec
        };
        if !self.placed.iter().any(is_other) {
            return Ok(false);
        }
        let mut buffers = Vec::with_capacity(self.placed.len());
        for (batch, placed) in self.placed.iter().enumerate() {
            let refused = |cause| AppendError::Recompress { batch, cause };
            let end = placed.start + placed.header.size as usize;
            let bytes = self.buffers.get(placed.buffer).and_then(|b| b.get(placed.start..end)).unwrap_or_default();
            let rewritten = record::recompress(bytes, codec, level, config.max_decompressed_bytes).map_err(refused)?;
            buffers.push(rewritten.unwrap_or_else(|| bytes.to_vec()));
        }
        for (at, (placed, buffer)) in self.placed.iter_mut().zip(&buffers).enumerate() {
            let header = BatchHeader::parse(buffer, u32::MAX);
            placed.header = header.map_err(|cause| AppendError::Invalid { batch: at, cause })?;
            (placed.buffer, placed.start) = (at, 0);
        }
        self.bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        // A buffer that was lent stays as it came.
        self.buffers = Buffers::Many(buffers);
        Ok(true)
    }

    /// Holds batches that were written anew to `max.message.bytes`.
    pub(super) fn check_sizes(&self, bytes_max: Option<u32>) -> Result<(), AppendError> {
        let Some(max) = bytes_max else { return Ok(()) };
        match self.placed.iter().position(|placed| placed.header.size > max) {
            Some(batch) => {
                let size = self.placed.get(batch).map_or(0, |placed| u64::from(placed.header.size));
                let rule = BrokenRule::TooLarge { size, max: u64::from(max) };
                Err(AppendError::Invalid { batch, cause: rule.into() })
            }
            None => Ok(()),
        }
    }

    /// Whether any batch has a producer id.
    pub(super) fn has_producers(&self) -> bool {
        self.placed.iter().any(|placed| placed.header.producer_id.is_some())
    }

    /// Headers and markers, in order.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&BatchHeader, Option<TransactionMarker>)> + Clone {
        self.placed.iter().map(|placed| (&placed.header, placed.marker))
    }

    /// Stamps the time of the append into every batch; recomputes the checksums.
    pub(super) fn stamp_time(&mut self, now: TimestampMs) {
        for placed in &mut self.placed {
            let end = placed.start + placed.header.size as usize;
            if let Some(batch) = self.buffers.get_mut(placed.buffer).and_then(|b| b.get_mut(placed.start..end)) {
                record::stamp_append_time(batch, now);
                placed.header.max_timestamp = now;
            }
        }
    }

    /// The leader's part: offsets from `next` on, and the epoch. Returns the offset after the last record.
    pub(super) fn assign(&mut self, mut next: Offset, epoch: LeaderEpoch) -> Result<Offset, AppendError> {
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
    pub(super) fn check_given(&self, log_end: Offset) -> Result<Offset, AppendError> {
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
    pub(super) fn put_back(&mut self) {
        let Buffers::Lent(buffer) = &mut self.buffers else { return };
        for placed in &self.placed {
            let end = placed.start + placed.sent.size as usize;
            if let Some(batch) = buffer.get_mut(placed.start..end) {
                record::unstamp(batch, &placed.sent);
            }
        }
    }

    /// The front of a batch as it is written: what its checksum leaves out, and the checksum.
    #[inline]
    pub(super) fn front(&self, placed: &Placed) -> Option<(&[u8; UNCOVERED_BYTES], u32)> {
        let (uncovered, rest) = self.buffers.get(placed.buffer)?.get(placed.start..)?.split_first_chunk()?;
        Some((uncovered, u32::from_be_bytes(*rest.first_chunk()?)))
    }

    pub(super) fn first_offset(&self) -> Offset {
        self.placed.first().map_or(Offset::ZERO, |placed| placed.header.base_offset)
    }

    pub(super) fn write(&self, file: &dyn fs::File, at: u64) -> std::io::Result<()> {
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

/// What a control batch decides about a transaction. One that recovery would not look at decides nothing here either.
fn marker_of(bytes: &[u8], header: &BatchHeader) -> Result<Option<TransactionMarker>, InvalidBatch> {
    if !header.attributes.is_control() || header.size > MARKER_BYTES_MAX {
        return Ok(None);
    }
    record::transaction_marker(&BatchView::parse(bytes, u32::MAX)?)
}

/// The codec that batches are to have, with its level; `None` where each keeps the one that its producer chose.
fn codec_of(policy: CompressionPolicy) -> Option<(Compression, Option<i32>)> {
    Some(match policy {
        CompressionPolicy::Producer => return None,
        CompressionPolicy::Uncompressed => (Compression::None, None),
        // Kafka's name for the level that zlib takes by itself.
        CompressionPolicy::Gzip { level } => (Compression::Gzip, Some(level).filter(|level| *level != -1)),
        CompressionPolicy::Snappy => (Compression::Snappy, None),
        // The encoder has one level.
        CompressionPolicy::Lz4 { .. } => (Compression::Lz4, None),
        CompressionPolicy::Zstd { level } => (Compression::Zstd, Some(level)),
    })
}
