//! The runner's part for producers, transactions and leaders: asks the naive model what has to come of a call, makes
//! the call, and compares.

use std::collections::HashMap;

use alluvium::error::ProducerFault;
use alluvium::index::VerificationGuard;
use alluvium::{AppendAs, AppendError, AppendOptions, HighWatermarkMode, ProducerEpoch, ProducerId};

use super::batches::{StoredBatch, epoch, offset};
use super::naive::{self, Circumstances, Naive, Refusal, Verdict};
use super::producing::{End, Place, Produce, Step, data_batch, marker_batch};
use super::runner::{Runner, Trouble};
use super::workload::Who;

/// The guards that were given out.
#[derive(Debug, Default)]
pub(crate) struct Guards {
    /// The newest of each producer, good or not.
    given: HashMap<i64, VerificationGuard>,
    /// Of which epoch those are that are still good.
    good: HashMap<i64, (i16, VerificationGuard)>,
}

impl Guards {
    /// The log was opened or cut: whoever has one has to ask again.
    pub(crate) fn void(&mut self) {
        self.good.clear();
    }
}

/// One call, worked out.
struct Call {
    who: Who,
    leader_epoch: i32,
    bytes: Vec<u8>,
    stored: Vec<StoredBatch>,
    producer: i64,
}

fn refusal_of(fault: &ProducerFault) -> Option<Refusal> {
    Some(match fault {
        ProducerFault::FencedEpoch { .. } => Refusal::FencedEpoch,
        ProducerFault::OutOfOrderSequence { .. } => Refusal::OutOfOrder,
        ProducerFault::Unverified { .. } => Refusal::Unverified,
        ProducerFault::TransactionOpen { .. } => Refusal::TransactionOpen,
        ProducerFault::FencedCoordinator { .. } => Refusal::FencedCoordinator,
        ProducerFault::PartlyDuplicate { .. } => Refusal::PartlyDuplicate,
        _ => return None,
    })
}

impl Runner {
    fn wall(&self) -> i64 {
        use alluvium::clock::Clock;
        self.clock.wall().value()
    }

    fn place_at(&self, who: Who, base: i64, leader_epoch: i32) -> Place {
        let gap = if let Who::Follower { gap } = who { gap } else { 0 };
        Place { base: base + gap, leader_epoch, now: self.wall() }
    }

    pub(super) fn produce(&mut self, produce: &Produce) -> Result<(), Trouble> {
        let Produce { who, producer, .. } = *produce;
        let is_stale = produce.is_stale && !matches!(who, Who::Follower { .. });
        let leader_epoch = self.leader_epoch - i32::from(is_stale);
        let mut grown = self.history.model.batches.clone();
        let kept = grown.len();
        let mut bytes = Vec::new();
        let mut at = self.place_at(who, self.history.model.end, leader_epoch);
        for (step, plan) in &produce.batches {
            let log = Naive(&grown);
            let is_open = log.producer(producer).is_some_and(|known| known.open.is_some());
            let is_transactional = if is_open { !produce.is_odd } else { produce.is_transactional };
            let resolved = step.resolve(log, producer);
            let is_numbered = who != Who::Coordinator;
            let (sent, stored) = data_batch(plan, producer, resolved, (is_numbered, is_transactional), at);
            bytes.extend(if matches!(who, Who::Follower { .. }) { stored.bytes.clone() } else { sent });
            at.base = stored.next;
            grown.push(stored);
        }
        if produce.asks {
            self.verify(producer)?;
        }
        self.make(Call { who, leader_epoch, bytes, stored: grown.split_off(kept), producer })
    }

    pub(super) fn end_transaction(&mut self, end: End) -> Result<(), Trouble> {
        let known = Naive(&self.history.model.batches).producer(end.producer);
        let current = known.as_ref().map_or(1, |known| known.epoch);
        let producer_epoch = (current + end.epoch_shift).max(0);
        let seen = known.and_then(|known| known.coordinator_epoch).unwrap_or(5);
        let at = self.place_at(end.who, self.history.model.end, self.leader_epoch);
        let (sent, stored) = marker_batch(end, producer_epoch, (seen + end.coordinator_shift).max(0), at);
        let bytes = if matches!(end.who, Who::Follower { .. }) { stored.bytes.clone() } else { sent };
        let leader_epoch = self.leader_epoch;
        self.make(Call { who: end.who, leader_epoch, bytes, stored: vec![stored], producer: end.producer })
    }

    /// What may come of the call: with everything remembered that could be, and with no more than must be.
    fn verdicts(&self, call: &Call) -> [Verdict; 2] {
        let batches = &self.history.model.batches;
        if matches!(call.who, Who::Follower { .. }) {
            return [Verdict::Append; 2];
        }
        let latest = Naive(batches).epochs(&self.history.standing.begun).last().map(|(epoch, _)| *epoch);
        if latest.is_some_and(|latest| call.leader_epoch < latest) {
            return [Verdict::Refuse(Refusal::FencedLeader); 2];
        }
        [i64::MIN, self.history.remembered_from].map(|remembered_from| {
            let good = self.guards.good.get(&call.producer);
            let is_shown =
                |(_, guard): &&(i16, VerificationGuard)| self.guards.given.get(&call.producer) == Some(guard);
            let how = Circumstances {
                is_client: call.who == Who::Client,
                verifies: self.config.transaction_partition_verification_enable,
                verified: good.filter(is_shown).map(|(epoch, _)| (call.producer, *epoch)),
                remembered_from,
            };
            naive::judge(batches, &call.stored, how)
        })
    }

    fn make(&mut self, call: Call) -> Result<(), Trouble> {
        if call.bytes.len() > self.config.segment_bytes as usize {
            return Ok(());
        }
        let verdicts = self.verdicts(&call);
        let leader = epoch(call.leader_epoch);
        let origin = match call.who {
            Who::Client => AppendAs::Client { epoch: leader },
            Who::Coordinator => AppendAs::Coordinator { epoch: leader },
            Who::Follower { .. } => AppendAs::Follower,
        };
        let verification = self.guards.given.get(&call.producer).copied();
        let how = AppendOptions { verification, ..AppendOptions::new(origin) };
        if self.log()?.health().failed.is_none() && verdicts.contains(&Verdict::Append) {
            self.history.maybe.clone_from(&call.stored);
        }
        let steps = self.fs.steps();
        let outcome = self.log()?.append(call.bytes, how);
        let answered = match outcome {
            Ok(appended) => {
                let range = (appended.base_offset().value(), appended.end().value());
                let is_duplicate = appended.is_duplicate();
                (self.last, self.is_last_cut) = (Some(appended), false);
                if is_duplicate { Verdict::Duplicate(range.0, range.1) } else { Verdict::Append }
            }
            Err(AppendError::FencedEpoch { .. }) => Verdict::Refuse(Refusal::FencedLeader),
            Err(AppendError::Producer(refused)) => match refusal_of(&refused.cause) {
                Some(refusal) => Verdict::Refuse(refusal),
                None => return Err(Trouble::Wrong(refused.to_string())),
            },
            Err(AppendError::Failed(e)) => return Err(Trouble::Latched(e.to_string())),
            Err(AppendError::Io(e)) => {
                if !self.fs.is_crashed() {
                    self.history.maybe.clear();
                }
                return Err(Trouble::Refused(e.to_string()));
            }
            Err(e) => return Err(Trouble::Wrong(format!("append: {e}"))),
        };
        if !verdicts.contains(&answered) {
            return Err(Trouble::Wrong(format!("an append is answered {answered:?}, not {verdicts:?}")));
        }
        self.history.maybe.clear();
        if answered == Verdict::Append {
            self.take_in(call.stored, call.producer);
        } else if self.fs.steps() != steps {
            return Err(Trouble::Wrong(format!("something was written, and the answer is {answered:?}")));
        }
        Ok(())
    }

    fn take_in(&mut self, stored: Vec<StoredBatch>, producer: i64) {
        if stored.iter().any(|batch| naive::facts(&batch.bytes).is_transactional) {
            self.guards.good.remove(&producer);
        }
        self.history.appended(stored);
    }

    pub(super) fn verify(&mut self, producer: i64) -> Result<(), Trouble> {
        let log = Naive(&self.history.model.batches);
        let known = log.producer(producer);
        let of = Step::Next.resolve(log, producer).epoch;
        let is_open = known.is_some_and(|known| known.open.is_some());
        let (id, epoch) = (ProducerId::new(producer).unwrap(), ProducerEpoch::new(of).unwrap());
        let guard = self.log()?.begin_verification(id, epoch, None);
        let guard = guard.map_err(|e| Trouble::Latched(e.to_string()))?;
        let Some(guard) = guard else {
            return if is_open { Ok(()) } else { Err(Trouble::Wrong("no guard, and nothing is open".to_owned())) };
        };
        if is_open {
            return Err(Trouble::Wrong("a guard for a transaction that is open".to_owned()));
        }
        self.guards.given.insert(producer, guard);
        let good = self.guards.good.entry(producer).or_insert((of, guard));
        if good.0 < of {
            *good = (of, guard);
        } else if good.1 != guard {
            return Err(Trouble::Wrong("asked twice, another guard".to_owned()));
        }
        Ok(())
    }

    pub(super) fn new_leader(&mut self, is_announced: bool) -> Result<(), Trouble> {
        self.leader_epoch += 1;
        if !is_announced {
            return Ok(());
        }
        // Whatever comes of it, it may be so.
        let begun = (self.leader_epoch, self.history.model.end);
        self.history.standing.begun.push(begun);
        let outcome = self.log()?.begin_leader_epoch(epoch(self.leader_epoch));
        outcome.map_err(super::runner::from_change)
    }

    pub(super) fn replicate(&mut self, back: i64) -> Result<(), Trouble> {
        if self.config.high_watermark != HighWatermarkMode::Embedder {
            return Ok(());
        }
        let model = &self.history.model;
        let to = (model.end - back).max(model.start);
        let outcome = self.log()?.advance_high_watermark(offset(to));
        let now = outcome.map_err(super::runner::from_change)?.value();
        let mark = &mut self.history.standing.high_watermark;
        *mark = (*mark).max(to);
        let wanted = (*mark).max(model.start);
        if now == wanted { Ok(()) } else { Err(Trouble::Wrong(format!("high watermark {now}, not {wanted}"))) }
    }
}
