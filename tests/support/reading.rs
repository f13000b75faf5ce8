//! Reading a whole log back, and asking it everything that can be compared with a model.

use alluvium::record::BatchView;
use alluvium::{Isolation, PartitionLog, ReadOptions, TimestampMs};

use super::batches::{StoredBatch, offset};
use super::model::ModelLog;

/// Every batch of the log, checksums and records checked.
pub(crate) fn contents(log: &PartitionLog) -> Result<ModelLog, String> {
    let marks = log.marks();
    let mut found = ModelLog { start: marks.log_start.value(), end: marks.log_end.value(), batches: Vec::new() };
    let mut next = marks.log_start;
    while next < marks.log_end {
        let fetched = log.read(next, &ReadOptions::default()).map_err(|e| format!("read at {next}: {e}"))?;
        if fetched.is_empty() {
            break;
        }
        found.batches.extend(decode(&fetched.read().map_err(|e| e.to_string())?)?);
        let after = fetched.next_offset().map_err(|e| format!("next offset after {next}: {e}"))?;
        if after <= next {
            return Err(format!("a read at {next} goes on at {after}"));
        }
        next = after;
    }
    let mut expected = found.start;
    for batch in &found.batches {
        // The log start may lie within a batch.
        let holds_start = batch.base < found.start && batch.next > found.start && expected == found.start;
        if batch.base < expected && !holds_start {
            return Err(format!("batch at {} where {expected} comes next", batch.base));
        }
        expected = batch.next;
    }
    if expected > found.end { Err(format!("a batch ends at {expected}, past the log end")) } else { Ok(found) }
}

/// The batches that lie one after the other in `bytes`.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Vec<StoredBatch>, String> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let view = BatchView::parse(bytes, u32::MAX).map_err(|e| format!("batch {}: {e}", batches.len()))?;
        view.verify_crc().map_err(|e| e.to_string())?;
        let body = view.body(1 << 24).map_err(|e| e.to_string())?;
        let mut records = Vec::new();
        for record in body.records() {
            let record = record.map_err(|e| e.to_string())?;
            records.push((record.offset.value(), record.timestamp.value()));
        }
        let header = view.header();
        let (base, next) = (header.base_offset.value(), header.next_offset().value());
        batches.push(StoredBatch { base, next, bytes: view.bytes().to_vec(), records });
        bytes = &bytes[view.bytes().len()..];
    }
    Ok(batches)
}

/// Asks for every offset and for every timestamp, and compares with what a full scan showed.
pub(crate) fn compare_lookups(log: &PartitionLog, model: &ModelLog) -> Result<(), String> {
    for from in model.start..=model.end.min(model.start + 100_000) {
        let small = ReadOptions { max_bytes: 1, ..ReadOptions::default() };
        compare_read(log, model, from, &small)?;
    }
    for target in model.interesting_timestamps() {
        let found = log.offset_for_timestamp(TimestampMs::new(target)).map_err(|e| format!("time {target}: {e}"))?;
        let found = found.map(|found| (found.offset.value(), found.timestamp.value()));
        let wanted = model.offset_for_timestamp(target);
        if found != wanted {
            return Err(format!("timestamp {target} leads to {found:?}, not to {wanted:?}"));
        }
    }
    Ok(())
}

/// One read, compared with the model byte for byte.
pub(crate) fn compare_read(
    log: &PartitionLog,
    model: &ModelLog,
    from: i64,
    options: &ReadOptions,
) -> Result<(), String> {
    let fail = |what: String| Err(format!("read at {from} with {options:?}: {what}"));
    let fetched = match log.read(offset(from), options) {
        Ok(fetched) => fetched,
        Err(e) => return fail(e.to_string()),
    };
    let upper = match options.isolation {
        Isolation::Durable => fetched.marks().durable_end.value(),
        Isolation::At(at) => at.value().min(model.end),
        _ => model.end,
    };
    let wanted = model.read(from, options.max_bytes, options.min_one_batch, upper);
    let bytes = fetched.read().map_err(|e| e.to_string())?;
    if bytes != wanted.iter().flat_map(|batch| batch.bytes.iter().copied()).collect::<Vec<u8>>() {
        let offsets = |batches: &[StoredBatch]| batches.iter().map(|b| b.base..b.next).collect::<Vec<_>>();
        return fail(format!("gives {:?}, not {:?}", decode(&bytes).map(|found| offsets(&found)), offsets(wanted)));
    }
    let next = fetched.next_offset().map_err(|e| e.to_string())?.value();
    let last = wanted.last().map_or(from, |batch| batch.next);
    let following = model.batches.iter().map(|batch| batch.base).find(|base| *base >= last).unwrap_or(model.end);
    if next != last && (wanted.is_empty() || next != following) {
        return fail(format!("goes on at {next}, not at {last}"));
    }
    Ok(())
}
