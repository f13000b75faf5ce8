//! Holds what a log shows to its story, batch by batch and record by record.

use std::collections::{BTreeSet, HashMap};

use alluvium::{PartitionLog, ReadOptions};

use super::consumer;
use super::story::{Kept, Part, Story, Told};

/// Everything that the log shows, from its start to its end.
pub(crate) fn everything(log: &PartitionLog) -> Result<Vec<Told>, String> {
    let mut found: Vec<Told> = Vec::new();
    let mut next = log.log_start();
    while next < log.log_end() {
        let fetched = log.read(next, &ReadOptions::default()).map_err(|e| format!("read at {next}: {e}"))?;
        if fetched.is_empty() {
            break;
        }
        found.extend(Told::all(&fetched.read().map_err(|e| e.to_string())?)?);
        let after = fetched.next_offset().map_err(|e| format!("next offset after {next}: {e}"))?;
        if after <= next {
            return Err(format!("a read at {next} goes on at {after}"));
        }
        next = after;
    }
    Ok(found)
}

/// Holds the log to the story: what must be there, what must not, and how it is read.
pub(crate) fn judge(log: &PartitionLog, story: &Story) -> Result<(), String> {
    let found = everything(log)?;
    judge_found(&found, story)?;
    consumer::compare_latest(log, story)?;
    consumer::compare_some(log, story, &found)
}

/// The part that looks at the batches alone.
pub(crate) fn judge_found(found: &[Told], story: &Story) -> Result<(), String> {
    rises(found, story)?;
    for batch in found {
        if is_filler(batch, story) {
            continue;
        }
        let told = story.told_at(batch.facts.base);
        let told = told.ok_or_else(|| format!("batch at {} was never told", batch.facts.base))?;
        is_made_of(batch, told, story).map_err(|what| {
            let (base, next) = (told.facts.base, told.facts.next);
            format!("batch {base}..{next}: {what}\nfound {batch:?}\ntold {told:?}")
        })?;
    }
    let parts = story.parts();
    nothing_is_missing(found, story, &parts)?;
    nothing_is_left_over(found, story, &parts)?;
    markers_stay(found, story)
}

/// A batch without records or producer that says of a range no more than that nothing is left of it: where all of a segment
/// is gone, or its end, something must tell how far it reached.
fn is_filler(batch: &Told, story: &Story) -> bool {
    let is_told = story.told_at(batch.facts.base).is_some_and(|told| told.bytes == batch.bytes);
    !is_told && is_bare(batch) && batch.facts.next <= story.upper()
}

fn is_bare(batch: &Told) -> bool {
    let facts = &batch.facts;
    batch.bytes.len() == 61 && batch.bytes[21..23] == [0, 0] && facts.producer.is_none() && facts.timestamp == -1
}

fn rises(found: &[Told], story: &Story) -> Result<(), String> {
    let mut expected = None;
    for batch in found {
        let (base, next) = (batch.facts.base, batch.facts.next);
        // The log start may lie within the first batch.
        let is_in_place = expected.map_or(next > story.start, |expected| base >= expected);
        if !is_in_place || next <= base || next > story.end {
            return Err(format!(
                "batch {base}..{next} where {expected:?} comes next, in a log that ends at {}",
                story.end
            ));
        }
        if let Some(pair) = batch.records.windows(2).find(|pair| pair[0].offset >= pair[1].offset) {
            return Err(format!("offset {} after {}", pair[1].offset, pair[0].offset));
        }
        expected = Some(next);
    }
    Ok(())
}

/// Attributes of a batch, but for codec and delete horizon.
fn kind(bytes: &[u8]) -> (u8, u8) {
    (bytes[21], bytes[22] & !0x47)
}

/// A batch that was touched is the same but for the records that are gone.
fn is_made_of(found: &Told, told: &Told, story: &Story) -> Result<(), String> {
    let is_untouched = found.bytes == told.bytes;
    if is_untouched {
        return Ok(());
    }
    if found.facts.base >= story.upper() {
        return Err(format!("changed, at or past {}, the first uncleanable offset", story.upper()));
    }
    let same = |what: &str, is_same: bool| if is_same { Ok(()) } else { Err(format!("another {what}")) };
    // Length and checksum follow from the rest; base timestamp and largest are judged below.
    same("base offset", found.bytes[..8] == told.bytes[..8])?;
    same("leader epoch or magic", found.bytes[12..17] == told.bytes[12..17])?;
    same("kind", kind(&found.bytes) == kind(&told.bytes))?;
    same("last offset delta", found.bytes[23..27] == told.bytes[23..27])?;
    same("producer", found.bytes[43..57] == told.bytes[43..57])?;
    let mut rest = told.records.iter();
    for record in &found.records {
        if !rest.any(|told| told == record) {
            return Err(format!("record at {} is not as it was told", record.offset));
        }
    }
    horizon_fits(found, told, story)?;
    let codec = |batch: &Told| batch.bytes[22] & 7;
    if found.records.is_empty() {
        same("size than an empty batch's", found.bytes.len() == 61 && codec(found) == 0)?;
        // That of its records, or of those that an earlier cleaning had left of them.
        let was_largest = told.records.iter().any(|record| record.timestamp == found.facts.timestamp);
        return same("largest timestamp", was_largest || found.facts.timestamp == told.facts.timestamp);
    }
    same("codec", codec(found) == codec(told))?;
    if found.records.len() == told.records.len() && found.horizon == told.horizon {
        return Err("rewritten, though nothing of it is gone".to_owned());
    }
    let largest = found.records.iter().map(|record| record.timestamp).max();
    let is_stamped = told.bytes[22] & 8 != 0;
    let largest = if is_stamped { Some(told.facts.timestamp) } else { largest };
    same("largest timestamp", largest == Some(found.facts.timestamp))
}

fn horizon_fits(found: &Told, told: &Told, story: &Story) -> Result<(), String> {
    let Some(horizon) = found.horizon else {
        // The bit goes with the tombstones.
        let has_tombstone = found.records.iter().any(|record| record.value.is_none());
        let is_lost = told.horizon.is_some() && (has_tombstone || (told.facts.is_control && !found.records.is_empty()));
        return if is_lost { Err("its delete horizon is lost".to_owned()) } else { Ok(()) };
    };
    if told.horizon.is_some() {
        return if told.horizon == found.horizon { Ok(()) } else { Err("its delete horizon moved".to_owned()) };
    }
    if !told.facts.is_control && told.records.iter().all(|record| record.value.is_some()) {
        return Err("a delete horizon, and never a tombstone".to_owned());
    }
    let covering = story.cleanings.iter().filter(|cleaning| cleaning.upper > found.facts.base);
    let mut horizons = covering.map(|cleaning| cleaning.at + story.delete_retention_ms);
    if horizons.any(|possible| possible == horizon) { Ok(()) } else { Err(format!("horizon {horizon} of no cleaning")) }
}

/// Each record that nothing has superseded is there, and each tombstone before its horizon.
fn nothing_is_missing(found: &[Told], story: &Story, parts: &[Part]) -> Result<(), String> {
    let there: BTreeSet<i64> = found.iter().flat_map(|batch| &batch.records).map(|record| record.offset).collect();
    let upper = story.upper();
    let newest = story.newest(parts, upper);
    for (batch, part) in story.told.iter().zip(parts) {
        for record in batch.records.iter().filter(|record| record.offset >= story.start) {
            if there.contains(&record.offset) {
                continue;
            }
            let may = |is_allowed: bool, why: &str| {
                let what = || format!("record {record:?} is gone: {why}; cleaned up to {upper}, {:?}", story.cleanings);
                if is_allowed { Ok(()) } else { Err(what()) }
            };
            may(record.offset < upper, "it is past the first uncleanable offset")?;
            if !batch.is_data() {
                let has_expired = story.may_have_expired(record.offset, batch.horizon);
                may(has_expired, "it is a marker before its horizon")?;
            } else if *part == Part::Committed {
                missing_is_right(record, batch, story, &newest).or_else(|why| may(false, why))?;
            }
            may(*part != Part::Undecided, "its transaction is not decided")?;
        }
    }
    Ok(())
}

fn missing_is_right(
    record: &Kept,
    batch: &Told,
    story: &Story,
    newest: &HashMap<&[u8], &Kept>,
) -> Result<(), &'static str> {
    let Some(key) = record.key.as_deref() else { return Ok(()) };
    let is_superseded = newest.get(key).is_some_and(|newest| newest.offset > record.offset);
    if is_superseded || (record.value.is_none() && story.may_have_expired(record.offset, batch.horizon)) {
        return Ok(());
    }
    Err("nothing supersedes it")
}

/// After a cleaning nothing is left below its end that it had to remove.
fn nothing_is_left_over(found: &[Told], story: &Story, parts: &[Part]) -> Result<(), String> {
    let upper = story.done_upper();
    let newest = story.newest(parts, upper);
    let part_of: HashMap<i64, Part> =
        story.told.iter().map(|told| told.facts.base).zip(parts.iter().copied()).collect();
    for batch in found.iter().filter(|batch| batch.is_data()) {
        for record in batch.records.iter().filter(|record| (story.start..upper).contains(&record.offset)) {
            let left = |why: &str| {
                Err(format!("record {record:?} is still there below {upper}: {why}; {:?}", story.cleanings))
            };
            if part_of.get(&batch.facts.base) == Some(&Part::Aborted) {
                return left("it was aborted");
            }
            let Some(key) = record.key.as_deref() else { return left("it has no key") };
            if newest.get(key).is_some_and(|newest| newest.offset > record.offset) {
                return left("it is superseded");
            }
            let told = story.told_at(batch.facts.base).and_then(|told| told.horizon);
            if record.value.is_none() && story.must_have_expired(record.offset, told) {
                return left("its horizon has passed");
            }
        }
    }
    Ok(())
}

/// Markers stay as long as there is anything of their transaction.
fn markers_stay(found: &[Told], story: &Story) -> Result<(), String> {
    let there: BTreeSet<i64> =
        found.iter().filter(|batch| !batch.records.is_empty()).map(|batch| batch.facts.base).collect();
    for transaction in story.transactions() {
        let Some((end, _)) = transaction.end.filter(|(end, _)| *end >= story.start && !there.contains(end)) else {
            continue;
        };
        let is_part = |batch: &&Told| {
            let of = batch.facts.producer.is_some_and(|(id, _)| id == transaction.id) && batch.facts.is_transactional;
            of && batch.is_data() && (transaction.first..end).contains(&batch.facts.base)
        };
        if let Some(left) = found.iter().find(is_part) {
            let base = left.facts.base;
            return Err(format!("the marker at {end} is gone, and the batch at {base} of its transaction is there"));
        }
    }
    Ok(())
}

/// After cleanings enough, with time between them: nothing is left but what is needed.
pub(crate) fn has_converged(found: &[Told], story: &Story) -> Result<(), String> {
    let upper = story.done_upper();
    let producers = story.naive().producers();
    for batch in found.iter().filter(|batch| batch.facts.next <= upper && batch.facts.base >= story.start) {
        let fail = |why: &str| Err(format!("batch at {} is still there: {why}\n{batch:?}", batch.facts.base));
        if batch.is_data() && batch.records.iter().any(|record| record.value.is_none()) {
            return fail("a tombstone");
        }
        let producer = batch.facts.producer.and_then(|(id, _)| producers.iter().find(|known| known.id == id));
        let is_last_of = |known: &&super::super::naive::Producer| {
            known.batches.last().is_some_and(|last| last.base == batch.facts.base)
        };
        // One that was found once counts as told, and another pass puts the same in its place.
        if is_bare(batch) {
            continue;
        }
        let is_needed = producer.as_ref().is_some_and(is_last_of) || batch.facts.next == upper;
        if batch.is_data() && batch.records.is_empty() && !is_needed {
            return fail("it is empty, and no producer's last");
        }
        if !batch.is_data() && !marker_is_needed(batch, found, story) && batch.facts.next != upper {
            return fail("a marker of which nothing is left");
        }
    }
    Ok(())
}

/// Whether anything of its transaction is left, or its producer is known by markers alone.
fn marker_is_needed(batch: &Told, found: &[Told], story: &Story) -> bool {
    let Some((id, epoch)) = batch.facts.producer else { return true };
    let transactions = story.transactions();
    let of = transactions.iter().find(|t| t.id == id && t.end.is_some_and(|(end, _)| end == batch.facts.base));
    let is_part = |other: &Told| {
        let is_within = of.is_some_and(|of| (of.first..batch.facts.base).contains(&other.facts.base));
        other.is_data() && other.facts.producer.is_some_and(|(other, _)| other == id) && is_within
    };
    let known = story.naive().producer(id);
    let has_no_data = known.is_some_and(|known| known.batches.is_empty() && known.epoch == epoch);
    // Below the log start may lie a batch of it, in the segment that has the log start.
    found.iter().any(is_part) || has_no_data || of.is_some_and(|of| of.first < story.start)
}
