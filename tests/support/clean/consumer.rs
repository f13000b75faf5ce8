//! Reads as a consumer of committed records does: fetches below the last stable offset, and leaves out what the aborted
//! transactions of a fetch and the markers in it tell it to leave out.

use std::collections::BTreeMap;

use alluvium::{Isolation, Offset, PartitionLog, ReadOptions};

use super::super::batches::offset;
use super::super::naive::Aborted;
use super::story::{Kept, Part, Story, Told};

/// One fetch, as it came.
struct Fetch {
    batches: Vec<Told>,
    aborted: Vec<Aborted>,
    next: i64,
}

fn fetch(log: &PartitionLog, from: i64, max_bytes: u64) -> Result<Fetch, String> {
    let fail = |what: String| format!("stable read at {from} of {max_bytes} bytes: {what}");
    let options = ReadOptions { max_bytes, min_one_batch: true, isolation: Isolation::Stable };
    let fetched = log.read(offset(from), &options).map_err(|e| fail(e.to_string()))?;
    let entries = fetched.aborted().iter().map(|entry| {
        let offsets = [entry.first_offset, entry.last_offset, entry.last_stable_offset].map(Offset::value);
        (entry.producer_id.value(), offsets[0], offsets[1], offsets[2])
    });
    let next = fetched.next_offset().map_err(|e| fail(e.to_string()))?.value();
    let bytes = fetched.read().map_err(|e| fail(e.to_string()))?;
    Ok(Fetch { aborted: entries.collect(), batches: Told::all(&bytes).map_err(fail)?, next })
}

/// What a consumer makes of a fetch (Kafka's `CompletedFetch`).
fn delivered(fetch: &Fetch, from: i64) -> Vec<&Kept> {
    let mut coming = fetch.aborted.clone();
    coming.sort_by_key(|entry| entry.1);
    let mut coming = coming.into_iter().peekable();
    let mut skipped: Vec<i64> = Vec::new();
    let mut delivered = Vec::new();
    for batch in &fetch.batches {
        while let Some(entry) = coming.next_if(|entry| entry.1 < batch.facts.next) {
            skipped.push(entry.0);
        }
        let id = batch.facts.producer.map(|(id, _)| id);
        match batch.facts.marker {
            Some(marker) if !marker.commit => skipped.retain(|skipped| Some(*skipped) != id),
            Some(_) => {}
            None if batch.facts.is_control => {}
            None if batch.facts.is_transactional && id.is_some_and(|id| skipped.contains(&id)) => {}
            None => delivered.extend(batch.records.iter().filter(|record| record.offset >= from)),
        }
    }
    delivered
}

/// The value of each key is the last that was committed, and a key that was deleted has none.
pub(crate) fn compare_latest(log: &PartitionLog, story: &Story) -> Result<(), String> {
    let stable = log.marks().last_stable.value();
    let mut latest: BTreeMap<Vec<u8>, Kept> = BTreeMap::new();
    let mut from = story.start;
    while from < stable {
        let fetch = fetch(log, from, 1 << 20)?;
        if fetch.batches.is_empty() {
            break;
        }
        for record in delivered(&fetch, from) {
            if let Some(key) = record.key.as_ref() {
                latest.insert(key.clone(), record.clone());
            }
        }
        from = fetch.next;
    }
    latest.retain(|_, record| record.value.is_some());
    let parts = story.parts();
    // A mark within a batch has all of the batch wait.
    let readable = story.told.iter().rfind(|batch| batch.facts.next <= stable).map_or(0, |batch| batch.facts.next);
    let newest = story.newest(&parts, readable);
    let wanted: BTreeMap<&[u8], &Kept> = newest.into_iter().filter(|(_, record)| record.value.is_some()).collect();
    // The embedder's mark may have fallen back since a cleaning went by it, as in Kafka: what superseded the rest of its key
    // is not shown then until the mark is where it was.
    let known = story.newest(&parts, readable.max(story.upper()));
    let is_hidden = |key: &[u8]| known.get(key).is_some_and(|newest| newest.offset >= readable);
    let differs = |key: &&[u8]| wanted.get(key).copied() != latest.get(*key) && !is_hidden(key);
    match wanted.keys().copied().chain(latest.keys().map(Vec::as_slice)).find(differs) {
        None => Ok(()),
        Some(key) => {
            let (found, wanted) = (latest.get(key), wanted.get(key));
            let at = wanted.map_or(story.start, |record| record.offset);
            let told = fetch(log, at, 1).map(|fetch| {
                let facts = fetch.batches.first().map(|batch| (batch.facts, batch.records.len()));
                (facts, fetch.aborted, fetch.next)
            });
            Err(format!(
                "key {} leads to {found:?} and not to {wanted:?}; a fetch there gives {told:?}; {:?} {:?} were aborted, {:?}",
                String::from_utf8_lossy(key),
                log.marks(),
                story.naive().aborted(),
                story.cleanings,
            ))
        }
    }
}

/// Reads from some offsets, in fetches large and small.
pub(crate) fn compare_some(log: &PartitionLog, story: &Story, found: &[Told]) -> Result<(), String> {
    let step = usize::try_from((story.end - story.start) / 12 + 1).unwrap_or(1);
    let mut reader = Reader::new(story, found);
    (story.start..=story.end).step_by(step).enumerate().try_for_each(|(at, from)| reader.compare(log, from, at))
}

/// Reads from every offset.
pub(crate) fn compare_all(log: &PartitionLog, story: &Story, found: &[Told]) -> Result<(), String> {
    let mut reader = Reader::new(story, found);
    (story.start..=story.end).enumerate().try_for_each(|(at, from)| reader.compare(log, from, at))
}

/// What is right, worked out once.
struct Reader<'a> {
    found: &'a [Told],
    aborted: Vec<Aborted>,
    /// Base offsets of batches that do not count.
    uncounted: std::collections::BTreeSet<i64>,
}

impl<'a> Reader<'a> {
    fn new(story: &'a Story, found: &'a [Told]) -> Self {
        let parts = story.parts();
        let uncounted = story.told.iter().zip(&parts).filter(|(told, part)| **part == Part::Aborted || !told.is_data());
        let uncounted = uncounted.map(|(told, _)| told.facts.base).collect();
        Self { found, aborted: story.aborted(), uncounted }
    }

    /// Derived again from a log that was cleaned, a transaction begins at the first batch that is left of it: nothing of it
    /// may be left before that.
    fn was_aborted(&self, entry: &Aborted) -> bool {
        let (id, first, last, stable) = *entry;
        let mut begun = self.aborted.iter().filter(|told| (told.0, told.2) == (id, last));
        begun.any(|told| {
            let is_left = |batch: &Told| {
                let is_its = batch.facts.producer.is_some_and(|(producer, _)| producer == id);
                is_its && (told.1..first).contains(&batch.facts.base)
            };
            told.1 <= first && told.3 <= stable && !self.found.iter().any(is_left)
        })
    }

    fn compare(&mut self, log: &PartitionLog, from: i64, at: usize) -> Result<(), String> {
        let fail = |what: String| Err(format!("a consumer at {from}: {what}"));
        let fetch = fetch(log, from, [1, 1 << 20, 300, 900][at % 4])?;
        let stable = log.marks().last_stable.value();
        let first = self.found.partition_point(|batch| batch.facts.next <= from);
        let due = self.found.get(first).filter(|batch| batch.facts.next <= stable);
        if fetch.batches.first() != due {
            let bases = |batches: &[Told]| batches.iter().map(|batch| batch.facts.base).collect::<Vec<_>>();
            let due = due.map(|batch| batch.facts.base);
            return fail(format!("it is given {:?}, and {due:?} is next below {stable}", bases(&fetch.batches)));
        }
        if let Some(stranger) = fetch.aborted.iter().find(|entry| !self.was_aborted(entry)) {
            return fail(format!("{stranger:?} was never aborted; {:?} were", self.aborted));
        }
        let is_marker =
            |at: i64| self.found.iter().any(|b| b.facts.base == at && b.facts.marker.is_some_and(|m| !m.commit));
        if let Some(entry) = fetch.aborted.iter().find(|entry| !is_marker(entry.2)) {
            return fail(format!("it is told of {entry:?}, and the marker is gone"));
        }
        let counts = |batch: &&Told| !self.uncounted.contains(&batch.facts.base);
        let wanted = fetch.batches.iter().filter(counts).flat_map(|batch| &batch.records);
        let wanted: Vec<i64> = wanted.map(|record| record.offset).filter(|offset| *offset >= from).collect();
        let told: Vec<i64> = delivered(&fetch, from).into_iter().map(|record| record.offset).collect();
        if told != wanted {
            return fail(format!("it delivers {told:?}, not {wanted:?}, told of {:?}", fetch.aborted));
        }
        Ok(())
    }
}
