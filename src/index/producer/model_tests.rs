//! The table against a model that keeps every batch ever applied and works each answer out of all of them, over random
//! lives of producers: gaps, duplicates, epochs, transactions, restarts from snapshots, expiry, too many producers.
//! `ALLUVIUM_SEEDS` sets how many lives; a failure names the seed.

use fastrand::Rng;

use super::tests::{Batch, apply, at, data, end, id, judge, txn};
use super::{Authority, ProducerLimits, ProducerState, ProducerTable, Verdict};
use crate::index::AbortedTxn;
use crate::record::BatchHeader;
use crate::units::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

#[derive(Clone, Copy)]
enum Event {
    Applied(Batch),
    Forgotten(ProducerId),
    /// Only the last batch of each producer is recognised after it.
    Restarted,
}

#[derive(Clone, Default)]
struct Model {
    events: Vec<Event>,
    high_watermark: i64,
}

type Refusal = (usize, &'static str);

impl Model {
    /// Batches of a producer since it was last forgotten, with their places among the events.
    fn history(&self, of: ProducerId) -> Vec<(usize, Batch)> {
        let forgotten = |event: &Event| matches!(event, Event::Forgotten(gone) if *gone == of);
        let from = self.events.iter().rposition(forgotten).map_or(0, |at| at + 1);
        let own = |(at, event): (usize, &Event)| match event {
            Event::Applied(batch) if batch.header.producer_id == Some(of) => Some((at, *batch)),
            _ => None,
        };
        self.events.iter().enumerate().skip(from).filter_map(own).collect()
    }

    /// Where the last restart is among the events, 0 when there was none.
    fn restarted(&self) -> usize {
        self.events.iter().rposition(|event| matches!(event, Event::Restarted)).unwrap_or(0)
    }

    fn last(&self, of: ProducerId) -> Option<(usize, Batch)> {
        self.history(of).pop()
    }

    /// Data batches that would be recognised, newest first.
    fn recent(&self, of: ProducerId) -> Vec<BatchHeader> {
        let Some((_, last)) = self.last(of) else { return Vec::new() };
        let restarted = self.restarted();
        let history = self.history(of);
        let same =
            history.iter().rev().take_while(|(_, batch)| batch.header.producer_epoch == last.header.producer_epoch);
        let data: Vec<_> = same.filter(|(_, batch)| batch.marker.is_none()).collect();
        // Of those before the restart the newest was in the snapshot.
        let newer = data.iter().take_while(|(at, _)| *at >= restarted).count();
        let kept = if restarted > 0 { newer + 1 } else { data.len() };
        data.into_iter().take(kept.min(5)).map(|(at, batch)| self.as_restored(*at, batch.header)).collect()
    }

    /// A snapshot has one timestamp a producer, that of its last batch or marker, and gives it to the batch in it.
    fn as_restored(&self, place: usize, mut header: BatchHeader) -> BatchHeader {
        let history = self.history(header.producer_id.unwrap());
        let restarted = self.restarted();
        if place < restarted
            && let Some((_, last)) = history.iter().rev().find(|(at, _)| *at < restarted)
        {
            header.max_timestamp = last.header.max_timestamp;
        }
        header
    }

    fn open(&self, of: ProducerId) -> Option<Offset> {
        let history = self.history(of);
        let ended = history.iter().rposition(|(_, batch)| batch.marker.is_some()).map_or(0, |at| at + 1);
        let begins = |batch: &&(usize, Batch)| batch.1.header.attributes.is_transactional();
        history[ended..].iter().find(begins).map(|(_, batch)| batch.header.base_offset)
    }

    fn coordinator(&self, of: ProducerId) -> Option<i32> {
        self.history(of).iter().rev().find_map(|(_, batch)| batch.marker).map(|marker| marker.coordinator_epoch)
    }

    fn known(&self) -> Vec<ProducerId> {
        let mut ids: Vec<_> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Applied(batch) => batch.header.producer_id,
                _ => None,
            })
            .filter(|id| self.last(*id).is_some())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn summaries(&self) -> Vec<ProducerState> {
        let summary = |producer_id: ProducerId| {
            let (_, last) = self.last(producer_id).unwrap();
            let recent = self.recent(producer_id);
            ProducerState {
                producer_id,
                epoch: last.header.producer_epoch.unwrap(),
                last_sequence: recent.first().and_then(BatchHeader::last_sequence),
                last_offset: recent.first().map(BatchHeader::last_offset),
                last_timestamp: last.header.max_timestamp,
                coordinator_epoch: self.coordinator(producer_id),
                open_transaction: self.open(producer_id),
            }
        };
        self.known().into_iter().map(summary).collect()
    }

    /// Every transaction ended since the restart whose marker the high watermark has not passed, and every open one.
    fn first_unstable(&self) -> Option<Offset> {
        let restarted = self.restarted();
        let mut unstable: Vec<Offset> = self.known().into_iter().filter_map(|id| self.open(id)).collect();
        for (place, event) in self.events.iter().enumerate().skip(restarted) {
            if let Event::Applied(Batch { header, marker: Some(_) }) = event
                && header.base_offset.value() >= self.high_watermark
            {
                let before = Self { events: self.events[..place].to_vec(), high_watermark: 0 };
                unstable.extend(before.open(header.producer_id.unwrap()));
            }
        }
        unstable.into_iter().min()
    }

    fn apply(&mut self, batch: Batch, limits: &ProducerLimits) -> Option<AbortedTxn> {
        let producer_id = batch.header.producer_id.unwrap();
        let first = self.open(producer_id);
        self.events.push(Event::Applied(batch));
        let others = self.known().into_iter().filter_map(|id| self.open(id)).min();
        self.make_room(producer_id, limits);
        batch.marker.filter(|marker| !marker.commit)?;
        let last_offset = batch.header.base_offset;
        let last_stable_offset = others.unwrap_or(last_offset.next().unwrap());
        Some(AbortedTxn { producer_id, first_offset: first?, last_offset, last_stable_offset })
    }

    fn make_room(&mut self, spared: ProducerId, limits: &ProducerLimits) {
        while self.known().len() > limits.producers_max {
            let idle = self.known().into_iter().filter(|id| *id != spared && self.open(*id).is_none());
            let Some(oldest) = idle.min_by_key(|id| self.last(*id).unwrap().0) else { break };
            self.events.push(Event::Forgotten(oldest));
        }
    }

    fn expire(&mut self, now: i64, limits: &ProducerLimits) -> usize {
        let is_old = |id: &ProducerId| {
            let last = self.last(*id).unwrap().1.header.max_timestamp.value();
            self.open(*id).is_none() && now - last >= limits.expiration_ms
        };
        let gone: Vec<_> = self.known().into_iter().filter(is_old).collect();
        self.events.extend(gone.iter().map(|id| Event::Forgotten(*id)));
        gone.len()
    }

    fn judge(&self, call: &[Batch], authority: Authority, limits: &ProducerLimits) -> Result<Verdict, Refusal> {
        let is_client = authority == Authority::Client;
        let mut after = self.clone();
        let mut duplicates: Vec<BatchHeader> = Vec::new();
        for (place, batch) in call.iter().enumerate() {
            let header = &batch.header;
            let producer = header.producer_id.unwrap();
            let repeats = |known: &&BatchHeader| {
                let sequences =
                    |header: &BatchHeader| (header.producer_epoch, header.base_sequence, header.last_sequence());
                sequences(known) == sequences(header)
            };
            let recent = self.recent(producer);
            if let Some(known) = recent.iter().find(repeats).filter(|_| is_client && batch.marker.is_none()) {
                let in_order = duplicates.last().is_none_or(|last| known.base_offset > last.last_offset());
                if duplicates.len() < place || !in_order {
                    return Err((place, "OUT_OF_ORDER_SEQUENCE_NUMBER"));
                }
                duplicates.push(*known);
                continue;
            }
            after.judge_new(batch, is_client, limits).map_err(|name| (place, name))?;
            if !duplicates.is_empty() {
                return Err((place, "OUT_OF_ORDER_SEQUENCE_NUMBER"));
            }
            after.events.push(Event::Applied(*batch));
        }
        Ok(match (duplicates.first(), duplicates.last()) {
            (Some(first), Some(last)) => Verdict::Duplicate {
                base_offset: first.base_offset,
                last_offset: last.last_offset(),
                timestamp: last.max_timestamp,
            },
            _ => Verdict::Append,
        })
    }

    fn judge_new(&self, batch: &Batch, is_client: bool, limits: &ProducerLimits) -> Result<(), &'static str> {
        let header = &batch.header;
        let producer = header.producer_id.unwrap();
        let open = self.known().into_iter().filter(|id| self.open(*id).is_some()).count();
        let Some((_, last)) = self.last(producer) else {
            return if open >= limits.producers_max { Err("THROTTLING_QUOTA_EXCEEDED") } else { Ok(()) };
        };
        if header.producer_epoch < last.header.producer_epoch {
            return Err("INVALID_PRODUCER_EPOCH");
        }
        if let Some(marker) = batch.marker {
            let is_fenced = self.coordinator(producer).is_some_and(|seen| marker.coordinator_epoch < seen);
            return if is_fenced { Err("TRANSACTION_COORDINATOR_FENCED") } else { Ok(()) };
        }
        if is_client {
            let recent = self.recent(producer);
            let same_epoch = header.producer_epoch == last.header.producer_epoch;
            let newest = recent.first().filter(|_| same_epoch).and_then(BatchHeader::last_sequence);
            let expected = newest.map_or(0, |last| if last.value() == i32::MAX { 0 } else { last.value() + 1 });
            if header.base_sequence != Sequence::new(expected) {
                return Err("OUT_OF_ORDER_SEQUENCE_NUMBER");
            }
        }
        if self.open(producer).is_some() && !header.attributes.is_transactional() {
            return Err("INVALID_TXN_STATE");
        }
        Ok(())
    }
}

/// The sequence after a batch, as producers count.
fn following(newest: Option<&BatchHeader>) -> i32 {
    newest.and_then(BatchHeader::last_sequence).and_then(|last| last.value().checked_add(1)).unwrap_or(0)
}

/// One random life of a partition.
struct Life {
    rng: Rng,
    limits: ProducerLimits,
    table: ProducerTable,
    model: Model,
    clock: i64,
    next_offset: i64,
    taken: usize,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let producers_max = rng.usize(2..8);
        let limits = ProducerLimits { expiration_ms: 400, producers_max, verification_required: false };
        let (table, model) = (ProducerTable::new(), Model::default());
        Self { rng, limits, table, model, clock: 1000, next_offset: 0, taken: 0 }
    }

    /// Mostly what would be right, and around it what would not.
    fn batch(&mut self, authority: Authority) -> Batch {
        let producer = self.rng.i64(0..6);
        let last = self.model.last(id(producer)).map(|(_, batch)| batch.header);
        let epoch = last.and_then(|header| header.producer_epoch).map_or(0, ProducerEpoch::value);
        let epoch = match self.rng.u8(0..12) {
            0 => epoch + 1,
            1 => (epoch - 1).max(0),
            _ => epoch,
        };
        self.clock += self.rng.i64(1..30);
        if authority == Authority::Coordinator && self.rng.u8(0..3) > 0 {
            let coordinator_epoch = self.rng.i32(2..4) - i32::from(self.rng.u8(0..8) == 0);
            return end(producer, epoch, coordinator_epoch, self.rng.bool()).stamped(self.clock);
        }
        let recent = self.model.recent(id(producer));
        let count = self.rng.i32(1..4);
        let (first, count) = match self.rng.u8(0..10) {
            0 => (self.rng.i32(0..4), count),
            1 => (i32::MAX - self.rng.i32(0..4), count),
            2..4 if !recent.is_empty() => {
                let known = self.rng.choice(&recent).unwrap();
                (known.base_sequence.map_or(-1, Sequence::value), known.last_offset_delta.value() + 1)
            }
            _ => (following(recent.first()), count),
        };
        let first = if authority == Authority::Coordinator { -1 } else { first.max(0) };
        let is_open = self.model.open(id(producer)).is_some();
        let is_transactional = if self.rng.u8(0..6) == 0 { !is_open } else { is_open };
        let make = if is_transactional { txn } else { data };
        make(producer, epoch, first, count).stamped(self.clock)
    }

    fn append(&mut self) {
        let authority = if self.rng.u8(0..3) == 0 { Authority::Coordinator } else { Authority::Client };
        let batches = if self.rng.u8(0..4) == 0 { self.rng.usize(2..4) } else { 1 };
        let call: Vec<Batch> = (0..batches).map(|_| self.batch(authority)).collect();
        let found = judge(&self.table, &call, authority, None, &self.limits);
        let told = self.model.judge(&call, authority, &self.limits);
        assert_eq!(found.map_err(|refusal| (refusal.batch, refusal.cause.protocol_error())), told, "{call:?}");
        // Now and then another leader took it all the same.
        let is_copied = self.rng.u8(0..10) == 0;
        if found != Ok(Verdict::Append) && !is_copied {
            return;
        }
        self.taken += 1;
        for batch in call {
            let batch = batch.at(self.next_offset);
            self.next_offset += i64::from(batch.header.last_offset_delta.value()) + 1;
            let aborted = apply(&mut self.table, batch, &self.limits);
            assert_eq!(aborted, self.model.apply(batch, &self.limits));
        }
    }

    fn restart(&mut self) {
        let bytes = self.table.encode();
        self.table = ProducerTable::decode(&bytes, TimestampMs::new(self.clock), &self.limits).unwrap();
        self.model.expire(self.clock, &self.limits);
        self.model.events.push(Event::Restarted);
        self.model.high_watermark = 0;
        // A snapshot may hold more than the bound when all have transactions open; then it still does.
        assert_eq!(self.table.summaries(), self.model.summaries());
    }

    fn step(&mut self) {
        match self.rng.u8(0..30) {
            0 => self.restart(),
            1 => {
                let now = self.clock + self.rng.i64(0..300);
                let expired = self.table.expire(TimestampMs::new(now), &self.limits);
                assert_eq!(expired, self.model.expire(now, &self.limits));
            }
            2..6 => {
                let high_watermark = self.rng.i64(self.model.high_watermark..=self.next_offset);
                self.model.high_watermark = high_watermark;
                if self.rng.bool() {
                    self.table.advance_high_watermark(at(high_watermark));
                } else {
                    self.table.advance_log_start(at(high_watermark));
                }
            }
            _ => self.append(),
        }
        self.table.check_own_state();
        assert_eq!(self.table.summaries(), self.model.summaries());
        assert_eq!(self.table.first_unstable(), self.model.first_unstable());
        assert_eq!(self.table.len(), self.model.known().len());
    }
}

#[test]
fn the_table_answers_as_if_it_remembered_everything() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let mut taken = 0;
    for seed in 0..seeds {
        let life = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..150 {
                life.step();
            }
            life.taken
        });
        taken += life.unwrap_or_else(|cause| {
            println!("ALLUVIUM_SEEDS={} repeats it, at seed {seed}", seed + 1);
            std::panic::resume_unwind(cause)
        });
    }
    assert!(taken as u64 > seeds * 20, "{taken} appends in {seeds} lives");
}
