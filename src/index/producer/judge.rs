//! Whether an append may be taken (Kafka's `UnifiedLog.analyzeAndValidateProducerState` and `ProducerAppendInfo`).

use std::collections::BTreeMap;

use super::entry::KeptBatch;
use super::state::{ProducerTable, known_coordinator};
use super::verification::Verification;
use super::{Authority, ProducerLimits, Verdict, VerificationGuard};
use crate::error::{ProducerFault, ProducerRefusal};
use crate::record::{BatchHeader, TransactionMarker};
use crate::units::{Offset, ProducerEpoch, ProducerId, Sequence};

impl ProducerTable {
    /// Judges the batches of one append, in order, all or none; changes nothing. Each comes with what its marker says,
    /// if it is one. Batches without producer id pass, as do control batches that are no markers.
    ///
    /// The first batch at fault is the one refused. A batch that repeats another of the same call is out of order: it is
    /// not in the log yet.
    pub(crate) fn judge<'b>(
        &self,
        batches: impl Iterator<Item = (&'b BatchHeader, Option<TransactionMarker>)> + Clone,
        authority: Authority,
        guard: Option<VerificationGuard>,
        limits: &ProducerLimits,
    ) -> Result<Verdict, ProducerRefusal> {
        let mut call =
            Call { table: self, authority, guard, limits, changed: BTreeMap::new(), began: 0, ended: 0, found: None };
        let mut batches = batches.enumerate().peekable();
        while let Some((batch, (header, marker))) = batches.next() {
            let Some(producer_id) = header.producer_id else {
                call.take_new().map_err(|cause| ProducerRefusal { batch, cause })?;
                continue;
            };
            let is_last = batches.peek().is_none();
            call.judge(producer_id, header, marker, is_last).map_err(|cause| ProducerRefusal { batch, cause })?;
        }
        Ok(match call.found {
            Some(Found::Duplicates { base_offset, last }) => {
                Verdict::Duplicate { base_offset, last_offset: last.last_offset(), timestamp: last.timestamp }
            }
            Some(Found::New) | None => Verdict::Append,
        })
    }

    fn standing(&self, id: ProducerId) -> Standing {
        let known = self.producers.get(&id).map(|producer| Known {
            epoch: producer.epoch,
            last_sequence: producer.last_batch().and_then(|batch| batch.last_sequence),
            coordinator_epoch: producer.coordinator_epoch,
            is_open: producer.open.is_some(),
        });
        Standing { known, verification: self.verifications.find(id) }
    }
}

/// What judging needs to know of a producer.
#[derive(Clone, Copy)]
struct Standing {
    /// `None`: nothing is, and whatever it writes begins its history here.
    known: Option<Known>,
    verification: Option<Verification>,
}

#[derive(Clone, Copy)]
struct Known {
    epoch: ProducerEpoch,
    /// Of this epoch.
    last_sequence: Option<Sequence>,
    coordinator_epoch: Option<i32>,
    is_open: bool,
}

/// What the batches of the call have been so far.
#[derive(Clone, Copy)]
enum Found {
    New,
    Duplicates { base_offset: Offset, last: KeptBatch },
}

/// One append under judgement.
struct Call<'t> {
    table: &'t ProducerTable,
    authority: Authority,
    guard: Option<VerificationGuard>,
    limits: &'t ProducerLimits,
    /// Producers as they will be after the batches so far. Only filled when there are several batches.
    changed: BTreeMap<ProducerId, Standing>,
    /// Transactions that the batches so far open, and end.
    began: usize,
    ended: usize,
    found: Option<Found>,
}

impl Call<'_> {
    fn judge(
        &mut self,
        id: ProducerId,
        header: &BatchHeader,
        marker: Option<TransactionMarker>,
        is_last: bool,
    ) -> Result<(), ProducerFault> {
        let Some(epoch) = header.producer_epoch else {
            return Err(ProducerFault::Incomplete { producer_id: id });
        };
        let is_control = header.attributes.is_control();
        if is_control && marker.is_none() {
            return self.take_new();
        }
        if self.authority == Authority::Client && !is_control {
            let known = self.table.producers.get(&id);
            if let Some(batch) = known.and_then(|producer| producer.duplicate_of(header)) {
                return self.take_duplicate(id, epoch, header, *batch);
            }
        }
        let before = self.changed.get(&id).copied().unwrap_or_else(|| self.table.standing(id));
        let after = match marker {
            Some(marker) if is_control => judge_marker(id, epoch, header, marker, before)?,
            _ => self.judge_data(id, epoch, header, before)?,
        };
        self.check_room(id, before)?;
        let is_open = |standing: Standing| standing.known.is_some_and(|known| known.is_open);
        self.began += usize::from(is_open(after) && !is_open(before));
        self.ended += usize::from(!is_open(after) && is_open(before));
        if !is_last {
            self.changed.insert(id, after);
        }
        self.take_new()
    }

    fn judge_data(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
        header: &BatchHeader,
        before: Standing,
    ) -> Result<Standing, ProducerFault> {
        check_epoch(id, epoch, before)?;
        let is_transactional = header.attributes.is_transactional();
        if is_transactional && self.limits.verification_required {
            self.check_verified(id, epoch, before)?;
        }
        if self.authority == Authority::Client {
            let given = header.base_sequence.ok_or(ProducerFault::Incomplete { producer_id: id })?;
            check_sequence(id, epoch, given, before)?;
        }
        let was_open = before.known.is_some_and(|known| known.is_open);
        if was_open && !is_transactional {
            return Err(ProducerFault::TransactionOpen { producer_id: id });
        }
        let known = Known {
            epoch,
            last_sequence: header.last_sequence(),
            coordinator_epoch: before.known.and_then(|known| known.coordinator_epoch),
            is_open: is_transactional,
        };
        Ok(Standing { known: Some(known), verification: before.verification.filter(|_| !is_transactional) })
    }

    /// An open transaction of this epoch was verified when it began, and its coordinator knows of it.
    fn check_verified(&self, id: ProducerId, epoch: ProducerEpoch, before: Standing) -> Result<(), ProducerFault> {
        let is_open = before.known.is_some_and(|known| known.is_open && known.epoch == epoch);
        let is_guard = |known: Verification| known.epoch == epoch && self.guard == Some(known.guard);
        if is_open || before.verification.is_some_and(is_guard) {
            return Ok(());
        }
        Err(ProducerFault::Unverified { producer_id: id, epoch })
    }

    /// A new producer takes the place of one that has no transaction open; if all have, there is none to take.
    fn check_room(&self, id: ProducerId, before: Standing) -> Result<(), ProducerFault> {
        let open = (self.table.transactions.open_count() + self.began).saturating_sub(self.ended);
        let producers_max = self.limits.producers_max;
        if before.known.is_none() && open >= producers_max {
            return Err(ProducerFault::TooManyProducers { producer_id: id, open, producers_max });
        }
        Ok(())
    }

    fn take_new(&mut self) -> Result<(), ProducerFault> {
        if let Some(Found::Duplicates { last, .. }) = self.found {
            return Err(ProducerFault::PartlyDuplicate { is_duplicate: false, base_offset: last.base_offset });
        }
        self.found = Some(Found::New);
        Ok(())
    }

    fn take_duplicate(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        header: &BatchHeader,
        batch: KeptBatch,
    ) -> Result<(), ProducerFault> {
        let base_offset = match self.found {
            None => batch.base_offset,
            Some(Found::New) => {
                return Err(ProducerFault::PartlyDuplicate { is_duplicate: true, base_offset: batch.base_offset });
            }
            // Offsets are answered as a range, so the batches must be asked for in the order of the log.
            Some(Found::Duplicates { base_offset, last }) if batch.base_offset > last.last_offset() => base_offset,
            Some(Found::Duplicates { .. }) => {
                let last = self.table.standing(id).known.and_then(|known| known.last_sequence);
                let given = header.base_sequence.unwrap_or_default();
                let expected = last.map_or(Sequence::default(), following);
                return Err(ProducerFault::OutOfOrderSequence { producer_id: id, epoch, given, expected });
            }
        };
        self.found = Some(Found::Duplicates { base_offset, last: batch });
        Ok(())
    }
}

fn judge_marker(
    id: ProducerId,
    epoch: ProducerEpoch,
    header: &BatchHeader,
    marker: TransactionMarker,
    before: Standing,
) -> Result<Standing, ProducerFault> {
    check_epoch(id, epoch, before)?;
    let seen = before.known.and_then(|known| known.coordinator_epoch);
    if let Some(current) = seen
        && marker.coordinator_epoch < current
    {
        let given = marker.coordinator_epoch;
        return Err(ProducerFault::FencedCoordinator { producer_id: id, given, current });
    }
    let same_epoch = before.known.filter(|known| known.epoch == epoch);
    let known = Known {
        epoch,
        last_sequence: same_epoch.and_then(|known| known.last_sequence),
        coordinator_epoch: known_coordinator(marker.coordinator_epoch),
        is_open: false,
    };
    let verification = before.verification.filter(|_| !header.attributes.is_transactional());
    Ok(Standing { known: Some(known), verification })
}

fn check_epoch(id: ProducerId, given: ProducerEpoch, before: Standing) -> Result<(), ProducerFault> {
    match before.known {
        Some(Known { epoch: current, .. }) if given < current => {
            Err(ProducerFault::FencedEpoch { producer_id: id, given, current })
        }
        _ => Ok(()),
    }
}

/// A client's sequence follows the last one of its epoch; a new epoch starts at 0, and so does one of which only a
/// marker is known. Of a producer of which nothing is known any is taken: its records may have been deleted.
fn check_sequence(
    id: ProducerId,
    epoch: ProducerEpoch,
    given: Sequence,
    before: Standing,
) -> Result<(), ProducerFault> {
    let verification = before.verification.filter(|verification| verification.epoch == epoch);
    if let Some(lowest) = verification.and_then(|verification| verification.lowest)
        && given > lowest
    {
        return Err(ProducerFault::PastVerifiedSequence { producer_id: id, given, lowest });
    }
    let Some(known) = before.known else { return Ok(()) };
    let last = known.last_sequence.filter(|_| known.epoch == epoch);
    let expected = last.map_or(Sequence::default(), following);
    if given == expected {
        return Ok(());
    }
    Err(ProducerFault::OutOfOrderSequence { producer_id: id, epoch, given, expected })
}

/// After the largest comes 0.
fn following(last: Sequence) -> Sequence {
    last.value().checked_add(1).and_then(Sequence::new).unwrap_or_default()
}
