//! Whether a batch may be appended: its structure, its CRC, and the rules of where it comes from.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use super::batch::{BatchHeader, BatchView};
use super::compress::{self, Compression};
use super::control::ControlRecord;
use super::layout::{HEADER_BYTES, NO_TIMESTAMP};
use super::record::{Fields, HeaderKeys, checked_delta, create_time, split_record};
use super::walk::{Place, Scanned, walk};
use crate::config::TimestampType;
use crate::error::{BrokenRule, InvalidBatch};
use crate::units::{ProducerEpoch, Sequence};

/// Where a batch comes from; the rules differ (Kafka's `AppendOrigin`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// A producer. Nothing is believed: every record is looked at, compressed ones too.
    Client,
    /// A transaction or group coordinator, or the metadata quorum. As a client, but control batches are taken, a
    /// producer needs no sequence, and timestamps have no bounds.
    Coordinator,
    /// The partition's leader, whose batches are copied as they are. Structure and CRC are checked and uncompressed
    /// records walked; compressed ones are not decompressed, and header keys not read, as the leader did both.
    Follower,
}

/// What a batch is held to by [`validate`].
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where the batch comes from.
    pub origin: Origin,
    /// Largest batch of a client, header included; others are not limited.
    pub batch_bytes_max: Option<u32>,
    /// Largest decompressed size of the records.
    pub decompressed_bytes_max: u32,
    /// Whether every record needs a key, as in compacted logs. Followers' batches are not held to it.
    pub keys_required: bool,
    /// The timestamps that a client's records may have, ms. A record without timestamp (-1) is always taken.
    pub timestamps: Option<RangeInclusive<i64>>,
}

/// Checks the first batch of `batch`, which must be there whole, and returns its header.
///
/// In this order: structure, size, CRC, rules, records. The first fault found is the one returned.
///
/// ```
/// # use alluvium::record::{BatchBuilder, Origin, Rules, validate};
/// # use alluvium::TimestampMs;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let mut rules = Rules {
///     origin: Origin::Client,
///     batch_bytes_max: Some(1 << 20),
///     decompressed_bytes_max: 1 << 28,
///     keys_required: false,
///     timestamps: Some(0..=1000),
/// };
/// assert_eq!(validate(batch.as_bytes(), &rules)?.count, 1);
/// rules.keys_required = true;
/// assert!(validate(batch.as_bytes(), &rules).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn validate(batch: &[u8], rules: &Rules) -> Result<BatchHeader, InvalidBatch> {
    let view = BatchView::parse(batch, u32::MAX)?;
    let header = *view.header();
    match rules.origin {
        Origin::Follower => {
            view.verify_crc()?;
            check_copied_records(&view)?;
        }
        Origin::Client | Origin::Coordinator => {
            check_size(&header, rules)?;
            view.verify_crc()?;
            check_header_rules(&header, rules.origin)?;
            check_new_records(&view, rules)?;
        }
    }
    Ok(header)
}

fn check_size(header: &BatchHeader, rules: &Rules) -> Result<(), InvalidBatch> {
    match rules.batch_bytes_max {
        Some(max) if rules.origin == Origin::Client && header.size > max => {
            Err(BrokenRule::TooLarge { size: u64::from(header.size), max: u64::from(max) }.into())
        }
        _ => Ok(()),
    }
}

/// What a new batch may say in its header.
fn check_header_rules(header: &BatchHeader, origin: Origin) -> Result<(), InvalidBatch> {
    let base_offset = header.base_offset.value();
    if base_offset != 0 {
        return Err(BrokenRule::BaseOffset { found: base_offset }.into());
    }
    if header.count == 0 {
        return Err(BrokenRule::Empty.into());
    }
    let last_offset_delta = header.last_offset_delta.value();
    if header.count != last_offset_delta.unsigned_abs() + 1 {
        let count = i32::try_from(header.count).unwrap_or(i32::MAX);
        return Err(InvalidBatch::Count { count, last_offset_delta });
    }
    let attributes = header.attributes;
    if attributes.is_control() && origin == Origin::Client {
        return Err(BrokenRule::ControlFromClient.into());
    }
    if attributes.timestamp_type() != TimestampType::CreateTime {
        return Err(BrokenRule::TimestampType.into());
    }
    if attributes.has_delete_horizon() {
        return Err(BrokenRule::DeleteHorizon.into());
    }
    check_producer(header, origin)
}

fn check_producer(header: &BatchHeader, origin: Origin) -> Result<(), InvalidBatch> {
    let Some(id) = header.producer_id else {
        return if header.attributes.is_transactional() {
            Err(BrokenRule::TransactionalWithoutProducer.into())
        } else {
            Ok(())
        };
    };
    let needs_sequence = origin == Origin::Client;
    if header.producer_epoch.is_some() && (header.base_sequence.is_some() || !needs_sequence) {
        return Ok(());
    }
    let broken = BrokenRule::Producer {
        producer_id: id.value(),
        epoch: header.producer_epoch.map_or(-1, ProducerEpoch::value),
        sequence: header.base_sequence.map_or(-1, Sequence::value),
    };
    Err(broken.into())
}

thread_local! {
    /// Decompressed records of the batch being checked, kept so that appends do not allocate.
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that grew past this is not kept.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// Every record of a batch that a client or coordinator sends.
fn check_new_records(view: &BatchView<'_>, rules: &Rules) -> Result<(), InvalidBatch> {
    let codec = view.header().attributes.compression();
    if codec == Compression::None {
        return check_plain_records(view.header(), view.stored_records(), HEADER_BYTES, rules);
    }
    PLAIN.with_borrow_mut(|plain| {
        plain.clear();
        let outcome = compress::decompress(codec, view.stored_records(), rules.decompressed_bytes_max, plain)
            .and_then(|()| check_plain_records(view.header(), plain, 0, rules));
        if plain.capacity() > KEPT_BYTES_MAX {
            *plain = Vec::new();
        }
        outcome
    })
}

fn check_plain_records(
    header: &BatchHeader,
    records: &[u8],
    starts_at: usize,
    rules: &Rules,
) -> Result<(), InvalidBatch> {
    let bounds = match &rules.timestamps {
        Some(range) if rules.origin == Origin::Client => (*range.start(), *range.end()),
        _ => (i64::MIN, i64::MAX),
    };
    let mut found_max = i64::MIN;
    walk(records, starts_at, header.count, HeaderKeys::Utf8, |Place { index, .. }, scanned| {
        let timestamp = create_time(header, scanned.timestamp_delta).value();
        found_max = found_max.max(timestamp);
        let is_dense = scanned.offset_delta.cast_unsigned() == index;
        let has_key = scanned.key.is_some() || !rules.keys_required;
        let is_timely = bounds.0 <= timestamp && timestamp <= bounds.1;
        if is_dense && has_key && is_timely {
            return Ok(());
        }
        explain(index, &scanned, timestamp, rules, bounds)
    })?;
    let declared = header.max_timestamp.value();
    if found_max != declared {
        return Err(BrokenRule::MaxTimestamp { declared, found: found_max }.into());
    }
    if header.attributes.is_control() { check_control_keys(records, header.count) } else { Ok(()) }
}

/// Which rule a record breaks; none, if it only lacks a timestamp.
#[cold]
fn explain(
    index: u32,
    scanned: &Scanned<'_>,
    timestamp: i64,
    rules: &Rules,
    (earliest, latest): (i64, i64),
) -> Result<(), InvalidBatch> {
    if scanned.offset_delta.cast_unsigned() != index {
        return Err(BrokenRule::NotDense { index, found: scanned.offset_delta }.into());
    }
    if rules.keys_required && scanned.key.is_none() {
        return Err(BrokenRule::MissingKey { index }.into());
    }
    if timestamp == NO_TIMESTAMP {
        return Ok(());
    }
    Err(BrokenRule::Timestamp { index, timestamp, earliest, latest }.into())
}

/// Control batches are few and small, so they are simply read once more.
fn check_control_keys(records: &[u8], count: u32) -> Result<(), InvalidBatch> {
    let mut rest = records;
    for index in 0..count {
        let control = split_record(rest).and_then(|(record, after)| {
            rest = after;
            let fields = Fields::parse(record)?;
            ControlRecord::parse(fields.key, fields.value)
        });
        if control.is_err() {
            return Err(BrokenRule::ControlKey { index }.into());
        }
    }
    Ok(())
}

/// The records of a batch that the leader took: fewer than offsets after compaction, but rising.
fn check_copied_records(view: &BatchView<'_>) -> Result<(), InvalidBatch> {
    let header = view.header();
    let records = view.stored_records();
    if header.count == 0 && !records.is_empty() {
        return Err(InvalidBatch::Trailing { bytes: records.len() as u64 });
    }
    if header.attributes.compression() != Compression::None {
        return Ok(());
    }
    let mut next_delta = 0;
    walk(records, HEADER_BYTES, header.count, HeaderKeys::AnyBytes, |place, scanned| {
        match checked_delta(scanned.offset_delta, next_delta, header.last_offset_delta) {
            Ok(delta) => {
                next_delta = delta.value().saturating_add(1);
                Ok(())
            }
            Err(fault) => Err(place.refuse(fault)),
        }
    })
}
