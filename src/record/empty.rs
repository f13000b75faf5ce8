//! Batches without records, as a cleaner leaves them where only their offsets count (format: what Kafka's
//! `DefaultRecordBatch.writeEmptyHeader` writes for no producer).

use std::ops::Range;

use super::crc32c;
use super::layout::{
    ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_LENGTH_AT, CRC_AT, HEADER_BYTES,
    LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_OVERHEAD, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT, NONE, PRODUCER_EPOCH_AT,
    PRODUCER_ID_AT,
};
use crate::units::{LeaderEpoch, Offset};

/// A batch of no records, no producer and no time that spans `offsets`. `None` where no batch can: there are none, or more
/// than 2^31.
pub(crate) fn empty_batch(offsets: Range<Offset>, epoch: Option<LeaderEpoch>) -> Option<[u8; HEADER_BYTES]> {
    let span = offsets.end.value().checked_sub(offsets.start.value())?.checked_sub(1)?;
    let last_offset_delta = i32::try_from(span).ok().filter(|delta| *delta >= 0)?;
    let length = i32::try_from(HEADER_BYTES - LENGTH_OVERHEAD).ok()?;
    let mut bytes = [0; HEADER_BYTES];
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    let none = i64::from(NONE);
    put(BASE_OFFSET_AT, &offsets.start.value().to_be_bytes());
    put(BATCH_LENGTH_AT, &length.to_be_bytes());
    put(LEADER_EPOCH_AT, &epoch.map_or(i32::from(NONE), LeaderEpoch::value).to_be_bytes());
    put(MAGIC_AT, &MAGIC.to_be_bytes());
    put(LAST_OFFSET_DELTA_AT, &last_offset_delta.to_be_bytes());
    put(BASE_TIMESTAMP_AT, &none.to_be_bytes());
    put(MAX_TIMESTAMP_AT, &none.to_be_bytes());
    put(PRODUCER_ID_AT, &none.to_be_bytes());
    put(PRODUCER_EPOCH_AT, &i16::from(NONE).to_be_bytes());
    put(BASE_SEQUENCE_AT, &i32::from(NONE).to_be_bytes());
    let crc = crc32c(bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
    if let Some(place) = bytes.get_mut(CRC_AT..ATTRIBUTES_AT) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchView;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn every_byte_of_it_is_told() {
        let bytes = empty_batch(at(0x0102)..at(0x0108), LeaderEpoch::new(3)).unwrap();
        let (crc, rest) = ([bytes[17], bytes[18], bytes[19], bytes[20]], [&bytes[..17], &bytes[21..]].concat());
        let mut expected = vec![0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 49, 0, 0, 0, 3, 2];
        expected.extend([0, 0, 0, 0, 0, 5]);
        expected.extend([0xff; 8 + 8 + 8 + 2 + 4]);
        expected.extend([0; 4]);
        assert_eq!(rest, expected);
        assert_eq!(u32::from_be_bytes(crc), crc32c(&bytes[21..]));
        let view = BatchView::parse(&bytes, u32::MAX).unwrap();
        view.verify_crc().unwrap();
        assert_eq!((view.header().base_offset, view.header().last_offset()), (at(0x0102), at(0x0107)));
        assert_eq!(view.body(1 << 10).unwrap().records().count(), 0);
    }

    #[test]
    fn what_no_batch_spans_gives_none() {
        assert!(empty_batch(at(5)..at(5), None).is_none());
        assert!(empty_batch(at(6)..at(5), None).is_none());
        assert!(empty_batch(at(0)..at(1 << 31), None).is_some());
        assert!(empty_batch(at(0)..at((1 << 31) + 1), None).is_none());
    }
}
