//! Holds what an open log says of producers, marks, epochs and aborted transactions to the naive model.

use alluvium::record::BatchView;
use alluvium::{HighWatermarkMode, Isolation, LeaderEpoch, Offset, PartitionLog, ProducerId, ReadOptions, Sequence};

use super::batches::offset;
use super::model::ModelLog;
use super::naive::{self, Aborted, Facts, Naive, Producer};
use super::reading;

/// What the batches alone do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Where it was moved to; with `HighWatermarkMode::Embedder` alone.
    pub(crate) high_watermark: i64,
    /// Epochs that were announced, with the log end of that moment.
    pub(crate) begun: Vec<(i32, i64)>,
}

impl Standing {
    pub(crate) fn cut(&mut self, end: i64) {
        self.high_watermark = self.high_watermark.min(end);
        self.begun.retain(|(_, start)| *start < end);
    }

    /// Whether a log of these batches says the same with both.
    pub(crate) fn says_as(&self, other: &Self, model: &ModelLog) -> bool {
        let epochs = |standing: &Self| Naive(&model.batches).epochs(&standing.begun);
        epochs(self) == epochs(other) && self.high_watermark == other.high_watermark
    }

    /// What a log may say of itself that was just opened, and says. Two things may be older than they were:
    /// - the high watermark of the embedder, which is written down at times only, as in Kafka;
    /// - an epoch that was announced and in which nothing was written, while others were later: its file may not have been
    ///   written again.
    ///
    /// One that begins where the log ends is forgotten by every opening, as in Kafka.
    pub(crate) fn adopt(&self, log: &PartitionLog, found: &ModelLog) -> Result<Self, String> {
        let mut adopted = self.clone();
        adopted.cut(found.end);
        let known: Vec<(i32, i64)> = epochs(log);
        adopted.begun.retain(|begun| known.contains(begun));
        if log.config().high_watermark == HighWatermarkMode::Embedder {
            let mark = log.marks().high_watermark.value();
            if mark > adopted.high_watermark.max(found.start) {
                let before = self.high_watermark;
                return Err(format!("the high watermark rose from {before} to {mark} by itself"));
            }
            adopted.high_watermark = mark;
        }
        compare(log, found, &adopted)?;
        Ok(adopted)
    }
}

fn epochs(log: &PartitionLog) -> Vec<(i32, i64)> {
    log.leader_epochs().iter().map(|entry| (entry.epoch.value(), entry.start.value())).collect()
}

/// Everything but aborted transactions, which have to be read.
pub(crate) fn compare(log: &PartitionLog, model: &ModelLog, standing: &Standing) -> Result<(), String> {
    let naive = Naive(&model.batches);
    compare_producers(log, naive)?;
    compare_epochs(log, model, &naive.epochs(&standing.begun))?;
    let marks = log.marks();
    let high_watermark = match log.config().high_watermark {
        HighWatermarkMode::LogEnd => model.end,
        HighWatermarkMode::DurableEnd => marks.durable_end.value().max(model.start),
        HighWatermarkMode::Embedder => standing.high_watermark.max(model.start),
    };
    let stable = naive.last_stable(model.start, high_watermark);
    if (marks.high_watermark.value(), marks.last_stable.value()) != (high_watermark, stable) {
        return Err(format!(
            "{marks:?}, but high watermark is {high_watermark}, stable {stable}: {:?}",
            naive.transactions()
        ));
    }
    Ok(())
}

fn compare_producers(log: &PartitionLog, naive: Naive<'_>) -> Result<(), String> {
    let said = log.producers().into_iter().map(|p| {
        let last = (p.last_sequence.map(Sequence::value), p.last_offset.map(Offset::value), p.last_timestamp.value());
        let open = (p.coordinator_epoch, p.open_transaction.map(Offset::value));
        (p.producer_id.value(), p.epoch.value(), last, open)
    });
    let wanted =
        naive.producers().into_iter().map(|Producer { id, epoch, batches, timestamp, coordinator_epoch, open }| {
            let last = batches.last();
            let last_sequence = last.and_then(|batch| batch.sequences).map(|(_, last)| last);
            (id, epoch, (last_sequence, last.map(|batch| batch.next - 1), timestamp), (coordinator_epoch, open))
        });
    let (said, wanted): (Vec<_>, Vec<_>) = (said.collect(), wanted.collect());
    if said == wanted { Ok(()) } else { Err(format!("producers are\n{said:?}, not\n{wanted:?}")) }
}

fn compare_epochs(log: &PartitionLog, model: &ModelLog, wanted: &[(i32, i64)]) -> Result<(), String> {
    let said = epochs(log);
    if said != wanted {
        return Err(format!("leader epochs are {said:?}, not {wanted:?}"));
    }
    if log.leader_epoch().map(LeaderEpoch::value) != wanted.last().map(|(epoch, _)| *epoch) {
        return Err(format!("the newest epoch is {:?}", log.leader_epoch()));
    }
    for epoch in 0..wanted.last().map_or(2, |(latest, _)| *latest + 3) {
        let end = log.end_offset_for_epoch(LeaderEpoch::new(epoch).unwrap());
        let end = end.map(|end| (end.epoch.value(), end.end.value()));
        let right = naive::epoch_end(wanted, model.end, epoch);
        if end != right {
            return Err(format!("epoch {epoch} ends at {end:?}, not {right:?}"));
        }
    }
    Ok(())
}

/// Reads as consumers do that take committed records only: from everywhere, in large fetches and small.
pub(crate) fn compare_all_aborted(log: &PartitionLog, model: &ModelLog) -> Result<(), String> {
    for (at, from) in (model.start..=model.end.min(model.start + 100_000)).enumerate() {
        let max_bytes = [1, 1 << 20, 300, 900][at % 4];
        compare_aborted(log, model, from, max_bytes)?;
    }
    Ok(())
}

/// One such read.
pub(crate) fn compare_aborted(log: &PartitionLog, model: &ModelLog, from: i64, max_bytes: u64) -> Result<(), String> {
    let fail = |what: String| Err(format!("stable read at {from} of {max_bytes} bytes: {what}"));
    let options = ReadOptions { max_bytes, min_one_batch: true, isolation: Isolation::Stable };
    let fetched = match log.read(offset(from), &options) {
        Ok(fetched) => fetched,
        Err(e) => return fail(e.to_string()),
    };
    let stable = fetched.marks().last_stable.value();
    let bytes = fetched.read().map_err(|e| e.to_string())?;
    let batches = reading::decode(&bytes)?;
    let wanted = model.read(from, max_bytes, true, stable);
    if batches != wanted {
        return fail(format!("{} batches, not {}, below {stable}", batches.len(), wanted.len()));
    }
    let said: Vec<Aborted> = fetched
        .aborted()
        .iter()
        .map(|txn| {
            let offsets = [txn.first_offset, txn.last_offset, txn.last_stable_offset].map(Offset::value);
            (txn.producer_id.value(), offsets[0], offsets[1], offsets[2])
        })
        .collect();
    let Some(last) = batches.last() else {
        return if said.is_empty() { Ok(()) } else { fail(format!("nothing, and {said:?}")) };
    };
    let naive = Naive(&model.batches);
    let uppers = [last.next, fetched.next_offset().map_err(|e| e.to_string())?.value(), stable];
    if !uppers.iter().any(|upper| naive.aborted_between(from, *upper) == said) {
        return fail(format!("{said:?}, not {:?}", naive.aborted_between(from, last.next)));
    }
    let delivered = delivered(&batches.iter().map(|batch| naive::facts(&batch.bytes)).collect::<Vec<_>>(), &said);
    let counting = naive.committed(from, last.next);
    if delivered == counting { Ok(()) } else { fail(format!("delivers {delivered:?}, not {counting:?}")) }
}

/// What a consumer makes of a fetch (Kafka's `CompletedFetch`): base offsets of the batches that it delivers.
fn delivered(batches: &[Facts], aborted: &[Aborted]) -> Vec<i64> {
    let mut coming = aborted.to_vec();
    coming.sort_by_key(|entry| entry.1);
    let mut skipped: Vec<i64> = Vec::new();
    let mut delivered = Vec::new();
    for batch in batches {
        while coming.first().is_some_and(|entry| entry.1 < batch.next) {
            skipped.push(coming.remove(0).0);
        }
        let id = batch.producer.map(|(id, _)| id);
        match batch.marker {
            Some(marker) if !marker.commit => skipped.retain(|skipped| Some(*skipped) != id),
            Some(_) => {}
            None if batch.is_transactional && id.is_some_and(|id| skipped.contains(&id)) => {}
            None => delivered.push(batch.base),
        }
    }
    delivered
}

/// The crate's own reading of a batch, beside the one by places.
pub(crate) fn check_facts(bytes: &[u8]) -> Result<(), String> {
    let header = *BatchView::parse(bytes, u32::MAX).map_err(|e| e.to_string())?.header();
    let facts = naive::facts(bytes);
    let said = (
        header.producer_id.map(ProducerId::value),
        header.last_sequence().map(Sequence::value),
        header.next_offset().value(),
    );
    let read = (facts.producer.map(|(id, _)| id), facts.sequences.map(|(_, last)| last), facts.next);
    if said == read { Ok(()) } else { Err(format!("{said:?}, not {read:?}")) }
}
