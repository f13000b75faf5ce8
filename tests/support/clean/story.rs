//! Everything that was told to a log, as if it had never been cleaned, and the cleanings that were tried.

use std::collections::HashMap;

use alluvium::record::BatchView;

use super::super::batches::StoredBatch;
use super::super::naive::{self, Aborted, Facts, Naive, Transaction};

/// One record as it was told, or as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// One batch as it was told, or as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) facts: Facts,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Kept>,
    /// When its tombstones, or its marker, may go; where a cleaner has put it down.
    pub(crate) horizon: Option<i64>,
}

impl Told {
    /// The batches that lie one after the other in `bytes`, checksums checked.
    pub(crate) fn all(mut bytes: &[u8]) -> Result<Vec<Self>, String> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let view = BatchView::parse(bytes, u32::MAX).map_err(|e| format!("batch {}: {e}", found.len()))?;
            found.push(Self::of(&view).map_err(|e| format!("batch at {}: {e}", view.header().base_offset))?);
            bytes = &bytes[view.bytes().len()..];
        }
        Ok(found)
    }

    /// The batches at the beginning of `bytes`, up to the first that is none.
    pub(crate) fn leading(mut bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Ok(view) = BatchView::parse(bytes, u32::MAX) {
            let Ok(batch) = Self::of(&view) else { break };
            found.push(batch);
            bytes = &bytes[view.bytes().len()..];
        }
        found
    }

    fn of(view: &BatchView<'_>) -> Result<Self, String> {
        view.verify_crc().map_err(|e| e.to_string())?;
        let body = view.body(1 << 26).map_err(|e| e.to_string())?;
        let mut records = Vec::new();
        for record in body.records() {
            let record = record.map_err(|e| e.to_string())?;
            let header = |(name, value): (&str, Option<&[u8]>)| (name.to_owned(), value.map(<[u8]>::to_vec));
            records.push(Kept {
                offset: record.offset.value(),
                timestamp: record.timestamp.value(),
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers().map(header).collect(),
            });
        }
        let horizon = view.header().delete_horizon().map(alluvium::TimestampMs::value);
        Ok(Self { facts: naive::facts(view.bytes()), bytes: view.bytes().to_vec(), records, horizon })
    }

    pub(crate) fn stored(&self) -> StoredBatch {
        let records = self.records.iter().map(|record| (record.offset, record.timestamp)).collect();
        StoredBatch { base: self.facts.base, next: self.facts.next, bytes: self.bytes.clone(), records }
    }

    pub(crate) fn is_data(&self) -> bool {
        !self.facts.is_control
    }
}

/// One cleaning that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cleaning {
    /// When it began.
    pub(crate) at: i64,
    /// The time that it went by at the least: one that goes on with another goes by the other's.
    pub(crate) by: i64,
    /// Nothing at or past it may have been touched.
    pub(crate) upper: i64,
    /// Whether it said that it had done all below its end.
    pub(crate) is_done: bool,
}

/// What a data batch is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Committed,
    Aborted,
    Undecided,
}

/// What is known of a log that nobody ever cleaned, and what was tried to clean it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) told: Vec<Told>,
    /// What is known of producers and transactions comes from these.
    pub(crate) stored: Vec<StoredBatch>,
    /// What was known before less was: a snapshot may still tell of it.
    pub(crate) known_before: Vec<Vec<StoredBatch>>,
    pub(crate) cleanings: Vec<Cleaning>,
    pub(crate) delete_retention_ms: i64,
    /// What is known of producers may be less than what was told since.
    pub(crate) has_lost_snapshots: bool,
    /// Leader epochs and their starts of which no batch tells any more.
    pub(crate) begun: Vec<(i32, i64)>,
    /// Aborted transactions of which nothing but the marker was left when the rest was forgotten.
    pub(crate) aborted_before: Vec<Aborted>,
}

impl Story {
    pub(crate) fn naive(&self) -> Naive<'_> {
        Naive(&self.stored)
    }

    pub(crate) fn tell(&mut self, batch: Told) {
        assert!(batch.facts.base >= self.end, "told at {} after {}", batch.facts.base, self.end);
        self.end = batch.facts.next;
        self.histories_mut().for_each(|history| history.push(batch.stored()));
        self.told.push(batch);
    }

    /// Nothing at or past `end` was ever told.
    pub(crate) fn cut(&mut self, end: i64) {
        self.told.retain(|batch| batch.facts.next <= end);
        self.histories_mut().for_each(|history| history.retain(|batch| batch.next <= end));
        self.end = end;
        self.begun.retain(|(_, start)| *start < end);
        self.aborted_before.retain(|entry| entry.2 < end);
        for cleaning in &mut self.cleanings {
            cleaning.upper = cleaning.upper.min(end);
        }
    }

    /// Of records, what is found is all that there ever was: a cut below what was cleaned leaves nothing else to demand.
    pub(crate) fn forget_all_but(&mut self, found: Vec<Told>) {
        self.told = found;
        self.cleanings.clear();
    }

    /// No more is known of producers than these batches tell.
    pub(crate) fn know(&mut self, known: Vec<StoredBatch>) {
        self.begun = self.naive().epochs(&self.begun);
        self.begun.retain(|(_, start)| *start < self.end);
        self.aborted_before = self.aborted();
        self.known_before.push(std::mem::replace(&mut self.stored, known));
    }

    fn histories_mut(&mut self) -> impl Iterator<Item = &mut Vec<StoredBatch>> {
        self.known_before.iter_mut().chain([&mut self.stored])
    }

    /// What the log may know when `left` is left of it: what was known where a snapshot was, and what is left behind that.
    pub(crate) fn histories(&self, left: &[StoredBatch], has_snapshots: bool) -> Vec<Vec<StoredBatch>> {
        let mut found = Vec::new();
        for known in self.known_before.iter().chain([&self.stored]).rev().filter(|_| has_snapshots) {
            for count in (1..=known.len()).rev() {
                let (below, at) = (&known[..count], known[count - 1].next);
                let behind = left.iter().filter(|batch| batch.base >= at);
                found.push(below.iter().chain(behind).cloned().collect());
            }
        }
        found.push(left.to_vec());
        found
    }

    /// All transactions of what was told, whatever the log may know of them.
    pub(crate) fn transactions(&self) -> Vec<Transaction> {
        Naive(self.known_before.first().unwrap_or(&self.stored)).transactions()
    }

    /// All that were ever aborted.
    pub(crate) fn aborted(&self) -> Vec<Aborted> {
        let known = self.naive().aborted();
        let before = self.aborted_before.iter().filter(|entry| !known.contains(entry)).copied().collect::<Vec<_>>();
        known.into_iter().chain(before).collect()
    }

    /// Below it something may have been removed.
    pub(crate) fn upper(&self) -> i64 {
        self.cleanings.iter().map(|cleaning| cleaning.upper).max().unwrap_or(0)
    }

    /// Below it lies everything that cleanings went by: markers past their end decided what was aborted below it.
    pub(crate) fn relied_upon(&self) -> i64 {
        let upper = self.upper();
        let decided = self.transactions().into_iter().filter(|transaction| transaction.first < upper);
        decided.filter_map(|transaction| transaction.end).map(|(marker, _)| marker + 1).max().unwrap_or(0).max(upper)
    }

    /// Where the newest cleaning that was done ended.
    pub(crate) fn done_upper(&self) -> i64 {
        self.last_done().map_or(0, |cleaning| cleaning.upper)
    }

    pub(crate) fn last_done(&self) -> Option<&Cleaning> {
        self.cleanings.iter().rfind(|cleaning| cleaning.is_done)
    }

    pub(crate) fn told_at(&self, base: i64) -> Option<&Told> {
        let at = self.told.partition_point(|batch| batch.facts.base < base);
        self.told.get(at).filter(|batch| batch.facts.base == base)
    }

    /// What each batch is part of, in their order.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut by_producer: HashMap<i64, Vec<Transaction>> = HashMap::new();
        for transaction in self.transactions() {
            by_producer.entry(transaction.id).or_default().push(transaction);
        }
        let part = |batch: &Told| {
            let Facts { base, producer, is_transactional, .. } = batch.facts;
            let transactions = producer.filter(|_| is_transactional).and_then(|(id, _)| by_producer.get(&id));
            let of = transactions
                .and_then(|all| all.iter().find(|t| t.first <= base && t.end.is_none_or(|(marker, _)| base < marker)));
            match of {
                None => Part::Committed,
                Some(Transaction { end: None, .. }) => Part::Undecided,
                Some(Transaction { end: Some((_, marker)), .. }) if marker.commit => Part::Committed,
                Some(_) => Part::Aborted,
            }
        };
        self.told.iter().map(part).collect()
    }

    /// For each key its newest committed record at or past the log start and below `upper`.
    pub(crate) fn newest<'a>(&'a self, parts: &[Part], upper: i64) -> HashMap<&'a [u8], &'a Kept> {
        let mut newest = HashMap::new();
        for (batch, part) in self.told.iter().zip(parts) {
            if *part != Part::Committed || !batch.is_data() {
                continue;
            }
            for record in &batch.records {
                if let Some(key) = record.key.as_deref().filter(|_| (self.start..upper).contains(&record.offset)) {
                    newest.insert(key, record);
                }
            }
        }
        newest
    }

    /// Whether what was told at `offset` may have passed its horizon in some cleaning: one put it down, a later one, or
    /// the same where it was down before, found it passed.
    pub(crate) fn may_have_expired(&self, offset: i64, horizon: Option<i64>) -> bool {
        let mut covering = self.cleanings.iter().filter(|cleaning| cleaning.upper > offset);
        if let Some(horizon) = horizon {
            return covering.any(|cleaning| cleaning.at >= horizon);
        }
        let Some(first) = covering.next() else { return false };
        // One that could not be done at once may have put it down in one of its passes and found it passed in another.
        if !first.is_done && self.delete_retention_ms == 0 {
            return true;
        }
        covering.any(|later| later.at >= first.at + self.delete_retention_ms)
    }

    /// Whether the newest cleaning, which was done, must have found it passed.
    pub(crate) fn must_have_expired(&self, offset: i64, horizon: Option<i64>) -> bool {
        let Some(last) = self.last_done().filter(|last| last.upper > offset) else { return false };
        let first = self.cleanings.iter().find(|cleaning| cleaning.is_done && cleaning.upper > offset);
        let horizon = horizon.or_else(|| first.map(|first| first.at + self.delete_retention_ms));
        let is_later = first != Some(last);
        horizon.is_some_and(|horizon| last.by >= horizon) && is_later
    }
}
