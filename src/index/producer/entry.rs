//! One producer, with the batches that would be recognised if they came again (Kafka's `ProducerStateEntry`).

use super::ProducerState;
use crate::record::BatchHeader;
use crate::units::{Offset, OffsetDelta, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// A producer has at most this many unanswered batches, so these are all that can come again (Kafka's
/// `NUM_BATCHES_TO_RETAIN`).
pub(super) const RECENT_BATCHES: usize = 5;

/// A data batch in the log, as far as it takes to recognise it and to answer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeptBatch {
    /// `None` from a coordinator.
    pub(super) last_sequence: Option<Sequence>,
    pub(super) base_offset: Offset,
    /// Of the sequences as of the offsets.
    pub(super) last_delta: OffsetDelta,
    pub(super) timestamp: TimestampMs,
}

impl KeptBatch {
    fn of(header: &BatchHeader) -> Self {
        Self {
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    /// Inclusive.
    pub(super) fn last_offset(&self) -> Offset {
        self.base_offset.checked_add(self.last_delta).unwrap_or(Offset::MAX)
    }
}

/// State of one producer id.
#[derive(Clone, Debug)]
pub(super) struct Producer {
    pub(super) epoch: ProducerEpoch,
    /// Data batches of this epoch, newest first.
    recent: [Option<KeptBatch>; RECENT_BATCHES],
    pub(super) last_timestamp: TimestampMs,
    pub(super) coordinator_epoch: Option<i32>,
    /// First offset of the open transaction.
    pub(super) open: Option<Offset>,
    /// All of this is known from batches below it.
    pub(super) changed_below: Offset,
    /// Place in the order of writing, while no transaction is open. 0 before it has one.
    pub(super) rank: u64,
}

impl Producer {
    /// A producer of which nothing but the epoch is known.
    pub(super) fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            recent: [None; RECENT_BATCHES],
            last_timestamp: TimestampMs::new(0),
            coordinator_epoch: None,
            open: None,
            changed_below: Offset::MAX,
            rank: 0,
        }
    }

    /// Takes whatever epoch the log says, also an older one: a follower copies what its leader took.
    pub(super) fn take_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.recent = [None; RECENT_BATCHES];
        }
    }

    pub(super) fn take_batch(&mut self, header: &BatchHeader) {
        self.keep(KeptBatch::of(header));
        self.last_timestamp = header.max_timestamp;
    }

    pub(super) fn keep(&mut self, batch: KeptBatch) {
        self.recent.rotate_right(1);
        let [newest, ..] = &mut self.recent;
        *newest = Some(batch);
    }

    /// The newest data batch of this epoch.
    pub(super) fn last_batch(&self) -> Option<&KeptBatch> {
        let [newest, ..] = &self.recent;
        newest.as_ref()
    }

    /// The batch in the log that `header` repeats. First and last sequence are equal if last and difference are.
    #[inline]
    pub(super) fn duplicate_of(&self, header: &BatchHeader) -> Option<&KeptBatch> {
        let last_sequence = header.last_sequence()?;
        let repeats = |batch: &&KeptBatch| {
            batch.last_sequence == Some(last_sequence) && batch.last_delta == header.last_offset_delta
        };
        self.recent.iter().flatten().find(repeats).filter(|_| header.producer_epoch == Some(self.epoch))
    }

    /// A producer in a transaction never expires: its end is still to come (Kafka's `isProducerExpired`).
    pub(super) fn has_expired(&self, now: TimestampMs, expiration_ms: i64) -> bool {
        self.open.is_none() && now.since(self.last_timestamp) >= expiration_ms
    }

    pub(super) fn summary(&self, producer_id: ProducerId) -> ProducerState {
        let last = self.last_batch();
        ProducerState {
            producer_id,
            epoch: self.epoch,
            last_sequence: last.and_then(|batch| batch.last_sequence),
            last_offset: last.map(KeptBatch::last_offset),
            last_timestamp: self.last_timestamp,
            coordinator_epoch: self.coordinator_epoch,
            open_transaction: self.open,
        }
    }
}
