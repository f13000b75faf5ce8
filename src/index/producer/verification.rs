//! Guards against writes that come after their transaction ended (KIP-890; Kafka's `VerificationStateEntry`).
//!
//! Before the first write of a transaction its coordinator is asked whether it knows of that. The answer may come after
//! an end of the transaction was written here; the write would then open one that nobody ends. So the question takes a
//! guard, the write shows it, and an end of the transaction in between makes it void.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use super::ProducerLimits;
use crate::units::{ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Shows that the transaction coordinator was asked, after this guard was issued, whether a producer's transaction is
/// open. Opaque; compared only with the guard that the log remembers for the producer.
///
/// A guard is good for one epoch of one producer, until its transaction starts or ends here, it expires, or the log is
/// opened again or truncated. None survives a crash: ask once more. `Copy`, and may go from thread to thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(u64);

/// A question to the coordinator that has not led to a write yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verification {
    pub(super) guard: VerificationGuard,
    pub(super) epoch: ProducerEpoch,
    /// Higher sequences must wait: the lower one, whose question failed, could never be written after them.
    pub(super) lowest: Option<Sequence>,
    /// When expiry first met it; before that it has no age.
    seen: Option<TimestampMs>,
}

/// Verifications under way, one a producer.
#[derive(Clone, Debug)]
pub(super) struct Verifications {
    by_producer: HashMap<ProducerId, Verification>,
    /// By guard: guards rise, so the first is the oldest.
    by_age: BTreeMap<u64, ProducerId>,
    next: u64,
}

impl Verifications {
    pub(super) fn new() -> Self {
        // A table built anew, after a truncation say, must not issue the numbers of the one before: a stale guard would
        // be believed. A random start makes that impossible in practice; half the range is left to count in.
        let next = RandomState::new().build_hasher().finish() >> 1;
        Self { by_producer: HashMap::new(), by_age: BTreeMap::new(), next }
    }

    #[inline]
    pub(super) fn find(&self, id: ProducerId) -> Option<Verification> {
        // Almost always empty, and then not worth a hash.
        if self.by_producer.is_empty() { None } else { self.by_producer.get(&id).copied() }
    }

    /// The guard for `epoch`, the same one if it was asked for before. An older epoch gets the newer one's, which does
    /// not help it.
    pub(super) fn begin(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
        limits: &ProducerLimits,
    ) -> VerificationGuard {
        match self.by_producer.get_mut(&id) {
            Some(known) if known.epoch > epoch => return known.guard,
            Some(known) if known.epoch == epoch => {
                known.lowest = known.lowest.into_iter().chain(sequence).min();
                return known.guard;
            }
            _ => {}
        }
        self.remove(id);
        while self.by_producer.len() >= limits.producers_max.max(1) {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.by_producer.remove(&oldest);
        }
        let guard = VerificationGuard(self.next);
        self.next += 1;
        self.by_age.insert(guard.0, id);
        self.by_producer.insert(id, Verification { guard, epoch, lowest: sequence, seen: None });
        guard
    }

    /// The producer's transaction started or ended.
    pub(super) fn remove(&mut self, id: ProducerId) {
        if !self.by_producer.is_empty()
            && let Some(known) = self.by_producer.remove(&id)
        {
            self.by_age.remove(&known.guard.0);
        }
    }

    /// Drops those that an earlier call met at least `expiration_ms` before `now`.
    pub(super) fn expire(&mut self, now: TimestampMs, expiration_ms: i64) {
        let by_age = &mut self.by_age;
        self.by_producer.retain(|_, known| {
            let seen = *known.seen.get_or_insert(now);
            let stays = seen == now || now.since(seen) < expiration_ms;
            if !stays {
                by_age.remove(&known.guard.0);
            }
            stays
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_producer.len(), self.by_age.len());
        self.by_producer.len()
    }
}
