//! The table of producers: every batch of the log is applied to it, in order.

use std::collections::{BTreeMap, HashMap};

use super::entry::Producer;
use super::transactions::Transactions;
use super::verification::Verifications;
use super::{KnownProducer, ProducerLimits, ProducerState, VerificationGuard};
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, TransactionMarker};
use crate::units::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// State of all producers of a partition.
///
/// After a restart from a snapshot only the last batch of each producer is recognised, decided transactions count as
/// replicated, and the order in which producers are forgotten is that of their timestamps: more is not in the file.
#[derive(Clone, Debug)]
pub(crate) struct ProducerTable {
    pub(super) producers: HashMap<ProducerId, Producer>,
    pub(super) transactions: Transactions,
    pub(super) verifications: Verifications,
    write_order: WriteOrder,
}

impl ProducerTable {
    /// Nothing is known of any producer.
    pub(crate) fn new() -> Self {
        Self {
            producers: HashMap::new(),
            transactions: Transactions::default(),
            verifications: Verifications::new(),
            write_order: WriteOrder::default(),
        }
    }

    /// Takes in a batch that is in the log, offsets assigned, whoever wrote it. Refuses nothing: what the leader took is
    /// so, older epochs included. `limits` only bounds memory.
    ///
    /// Returns the aborted transaction when the batch is an abort marker of an open one. Control batches that are empty
    /// or no markers change nothing, nor do batches without producer id or epoch.
    pub(crate) fn apply(
        &mut self,
        header: &BatchHeader,
        marker: Option<TransactionMarker>,
        limits: &ProducerLimits,
    ) -> Option<AbortedTxn> {
        let (id, epoch) = (header.producer_id?, header.producer_epoch?);
        let is_control = header.attributes.is_control();
        if is_control && marker.is_none() {
            return None;
        }
        let aborted = match marker {
            Some(marker) if is_control => self.apply_marker(id, epoch, header, marker),
            _ => {
                self.apply_data(id, epoch, header);
                None
            }
        };
        if header.attributes.is_transactional() {
            // The transaction has started or ended here: what was asked about it before no longer counts.
            self.verifications.remove(id);
        }
        self.make_room(id, limits);
        aborted
    }

    fn apply_data(&mut self, id: ProducerId, epoch: ProducerEpoch, header: &BatchHeader) {
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.take_epoch(epoch);
        producer.take_batch(header);
        producer.changed_below = header.next_offset();
        if header.attributes.is_transactional() && producer.open.is_none() {
            producer.open = Some(header.base_offset);
            self.transactions.begin(header.base_offset, id);
        }
        self.write_order.note(id, producer);
    }

    fn apply_marker(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        header: &BatchHeader,
        marker: TransactionMarker,
    ) -> Option<AbortedTxn> {
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.take_epoch(epoch);
        producer.last_timestamp = header.max_timestamp;
        producer.changed_below = header.next_offset();
        producer.coordinator_epoch = known_coordinator(marker.coordinator_epoch);
        let ended = producer.open.take();
        self.write_order.note(id, producer);
        let first_offset = ended?;
        let last_offset = header.base_offset;
        let last_stable_offset = self.transactions.decide(first_offset, id, last_offset);
        (!marker.commit).then_some(AbortedTxn { producer_id: id, first_offset, last_offset, last_stable_offset })
    }

    /// Forgets producers until the bound holds: those without open transaction, least recently written first. One that
    /// is forgotten may write again as if it were new, but is no longer held to its sequence.
    fn make_room(&mut self, just_written: ProducerId, limits: &ProducerLimits) {
        while self.producers.len() > limits.producers_max {
            let Some(oldest) = self.write_order.pop_oldest_but(just_written) else { break };
            self.producers.remove(&oldest);
        }
    }

    /// First offset of the earliest transaction that is open, or decided by a marker that the high watermark has not
    /// passed. O(log n).
    pub(crate) fn first_unstable(&self) -> Option<Offset> {
        self.transactions.first_unstable()
    }

    /// Forgets decided transactions whose marker is below `high_watermark` (exclusive).
    pub(crate) fn advance_high_watermark(&mut self, high_watermark: Offset) {
        self.transactions.forget_decided_below(high_watermark);
    }

    /// Forgets decided transactions whose marker is below `log_start`. Open ones stay, as do producers whose records
    /// are all deleted: their sequences still hold.
    pub(crate) fn advance_log_start(&mut self, log_start: Offset) {
        self.transactions.forget_decided_below(log_start);
    }

    /// Forgets open transactions, where all that was written of them is deleted and their markers may be too: nobody
    /// else would end them. Sequences still hold.
    pub(crate) fn forget_open_transactions(&mut self) {
        for id in self.transactions.take_open() {
            if let Some(producer) = self.producers.get_mut(&id) {
                producer.open = None;
                self.write_order.note(id, producer);
            }
        }
    }

    /// Forgets producers whose last batch is `expiration_ms` old, and as old verifications; returns how many producers.
    /// O(n): for the housekeeper.
    pub(crate) fn expire(&mut self, now: TimestampMs, limits: &ProducerLimits) -> usize {
        let before = self.producers.len();
        let write_order = &mut self.write_order;
        self.producers.retain(|_, producer| {
            let goes = producer.has_expired(now, limits.expiration_ms);
            if goes {
                write_order.idle.remove(&producer.rank);
            }
            !goes
        });
        self.verifications.expire(now, limits.expiration_ms);
        before - self.producers.len()
    }

    /// Begins the verification that a transaction's first batch needs (KIP-890): ask the transaction coordinator, then
    /// append with the guard. `None`: a transaction of that producer and epoch is open, and no guard is needed. The same
    /// guard again when asked again. `sequence` is the first of the batch; until one as low is written, none higher is.
    ///
    /// At most `producers_max` are remembered; then the oldest goes, and its append is refused as unverified.
    pub(crate) fn begin_verification(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
        limits: &ProducerLimits,
    ) -> Option<VerificationGuard> {
        let is_open = |producer: &Producer| producer.open.is_some() && producer.epoch == epoch;
        if self.producers.get(&id).is_some_and(is_open) {
            return None;
        }
        Some(self.verifications.begin(id, epoch, sequence, limits))
    }

    /// What is remembered, by rising producer id.
    pub(crate) fn summaries(&self) -> Vec<ProducerState> {
        let mut summaries: Vec<_> = self.producers.iter().map(|(id, producer)| producer.summary(*id)).collect();
        summaries.sort_unstable_by_key(|summary| summary.producer_id);
        summaries
    }

    /// What is remembered, by rising producer id, and since when.
    pub(crate) fn known(&self) -> Vec<KnownProducer> {
        let known = |(id, producer): (&ProducerId, &Producer)| KnownProducer {
            state: producer.summary(*id),
            changed_below: producer.changed_below,
        };
        let mut all: Vec<_> = self.producers.iter().map(known).collect();
        all.sort_unstable_by_key(|known| known.state.producer_id);
        all
    }

    /// How many producers are remembered.
    pub(crate) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Puts in a producer that a snapshot tells of, as if it had written just now.
    pub(super) fn restore(&mut self, id: ProducerId, mut producer: Producer, limits: &ProducerLimits) {
        if let Some(first) = producer.open {
            self.transactions.begin(first, id);
        }
        self.write_order.note(id, &mut producer);
        self.producers.insert(id, producer);
        self.make_room(id, limits);
    }

    #[cfg(test)]
    pub(super) fn check_own_state(&self) {
        let idle = self.producers.values().filter(|producer| producer.open.is_none()).count();
        assert_eq!(self.write_order.idle.len(), idle);
        assert_eq!(self.transactions.open_count(), self.producers.len() - idle);
        for (rank, id) in &self.write_order.idle {
            assert_eq!(self.producers[id].rank, *rank);
        }
        let _ = self.verifications.len();
    }
}

/// A coordinator epoch as a marker or a snapshot has it; less than 0 is none.
pub(super) fn known_coordinator(epoch: i32) -> Option<i32> {
    (epoch >= 0).then_some(epoch)
}

/// Producers without open transaction, in the order of their last batches.
#[derive(Clone, Debug, Default)]
struct WriteOrder {
    idle: BTreeMap<u64, ProducerId>,
    last_rank: u64,
}

impl WriteOrder {
    /// `producer` was written just now.
    fn note(&mut self, id: ProducerId, producer: &mut Producer) {
        let is_idle = producer.open.is_none();
        // One producer that writes alone, the common case, keeps its place.
        if is_idle && producer.rank != 0 && producer.rank == self.last_rank {
            self.idle.entry(producer.rank).or_insert(id);
            return;
        }
        self.idle.remove(&producer.rank);
        if is_idle {
            self.last_rank += 1;
            producer.rank = self.last_rank;
            self.idle.insert(producer.rank, id);
        }
    }

    fn pop_oldest_but(&mut self, spared: ProducerId) -> Option<ProducerId> {
        let oldest = self.idle.first_entry()?;
        (*oldest.get() != spared).then(|| oldest.remove())
    }
}
