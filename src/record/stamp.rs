//! What the leader writes into a batch that it takes: offset and epoch, and the time if the log stamps time.

use super::batch::{BatchHeader, BatchView, crc32c};
use super::layout::{APPEND_TIME_BIT, ATTRIBUTES_AT, BASE_OFFSET_AT, CRC_AT, LEADER_EPOCH_AT, MAX_TIMESTAMP_AT, NONE};
use crate::units::{LeaderEpoch, Offset, TimestampMs};

/// Writes base offset and leader epoch into the first batch of `batch`. Both lie outside the CRC, which stays right.
///
/// # Panics
/// If `batch` is shorter than these fields; pass what was validated.
///
/// ```
/// # use alluvium::record::{BatchBuilder, stamp};
/// # use alluvium::{LeaderEpoch, Offset, TimestampMs};
/// let mut batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// stamp(batch.as_mut_bytes(), Offset::new(42).unwrap(), LeaderEpoch::new(3));
/// assert_eq!(batch.header().base_offset, Offset::new(42).unwrap());
/// batch.view().verify_crc()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: Option<LeaderEpoch>) {
    let epoch = leader_epoch.map_or(i32::from(NONE), LeaderEpoch::value);
    put(batch, BASE_OFFSET_AT, base_offset.value().to_be_bytes());
    put(batch, LEADER_EPOCH_AT, epoch.to_be_bytes());
}

/// Makes `time` the timestamp of every record of `batch`, which must be one whole batch, and recomputes the CRC: a
/// pass over the bytes, without decompressing them.
///
/// # Panics
/// If `batch` is not exactly one batch; pass what was validated.
///
/// ```
/// # use alluvium::record::{BatchBuilder, stamp_append_time};
/// # use alluvium::TimestampMs;
/// let mut batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// stamp_append_time(batch.as_mut_bytes(), TimestampMs::new(99));
/// batch.view().verify_crc()?;
/// let body = batch.view().body(0)?;
/// assert_eq!(body.records().next().unwrap()?.timestamp, TimestampMs::new(99));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stamp_append_time(batch: &mut [u8], time: TimestampMs) {
    // A CRC over more or less than one batch would make good bytes look corrupt ever after.
    let Ok(view) = BatchView::parse(batch, u32::MAX) else {
        panic!("only a valid batch is stamped");
    };
    assert!(view.bytes().len() == batch.len(), "exactly one batch is stamped");
    let attributes = view.header().attributes.bits() | APPEND_TIME_BIT;
    put(batch, ATTRIBUTES_AT, attributes.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, time.value().to_be_bytes());
    seal(batch);
}

/// Computes the CRC of the whole batch `batch` and stores it.
pub(crate) fn seal(batch: &mut [u8]) {
    let crc = crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Overwrites the field at `at`.
pub(crate) fn put<const N: usize>(batch: &mut [u8], at: usize, field: [u8; N]) {
    let Some(place) = batch.get_mut(at..at + N) else {
        panic!("a batch has the field at {at}");
    };
    place.copy_from_slice(&field);
}

/// Puts back what [`stamp`] and [`stamp_append_time`] changed, so that a batch whose append failed can be sent again.
/// `sent` is the header as it came.
pub(crate) fn unstamp(batch: &mut [u8], sent: &BatchHeader) {
    stamp(batch, sent.base_offset, sent.leader_epoch);
    put(batch, CRC_AT, sent.crc.to_be_bytes());
    put(batch, ATTRIBUTES_AT, sent.attributes.bits().to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, sent.max_timestamp.value().to_be_bytes());
}
