//! Record batches against `kafka-protocol`, an encoder and decoder that is not ours.
#![expect(clippy::unwrap_used, reason = "a failed test is meant to panic, its helpers too")]

use alluvium::record::{BatchBuilder, BatchView, Compression, Origin, Rules, validate};
use alluvium::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;

const NOW: i64 = 1_700_000_000_000;
const LIMIT: u32 = 1 << 24;

const CODECS: [(Compression, theirs::Compression); 5] = [
    (Compression::None, theirs::Compression::None),
    (Compression::Gzip, theirs::Compression::Gzip),
    (Compression::Snappy, theirs::Compression::Snappy),
    (Compression::Lz4, theirs::Compression::Lz4),
    (Compression::Zstd, theirs::Compression::Zstd),
];

fn rules() -> Rules {
    Rules {
        origin: Origin::Client,
        batch_bytes_max: None,
        decompressed_bytes_max: LIMIT,
        keys_required: false,
        timestamps: Some(NOW..=NOW + 1_000_000),
    }
}

/// Records with every kind of field, in one transaction. Timestamps rise, as the other encoder's base is the smallest.
fn records() -> Vec<theirs::Record> {
    (0..200_i32)
        .map(|index| {
            let text = format!("value {index} ").repeat(usize::try_from(index % 40 * 10).unwrap());
            let mut headers: IndexMap<StrBytes, _> = IndexMap::new();
            if index % 3 == 0 {
                headers.insert("trace".into(), Some(format!("{index}").into_bytes().into()));
                headers.insert("größe".into(), None);
                headers.insert("".into(), Some(Vec::new().into()));
            }
            theirs::Record {
                transactional: true,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: 4000,
                producer_epoch: 3,
                timestamp_type: theirs::TimestampType::Creation,
                offset: i64::from(index),
                sequence: 17 + index,
                timestamp: NOW + i64::from(index * index),
                key: (index % 4 != 1).then(|| format!("key-{index}").into_bytes().into()),
                value: (index % 5 != 1).then(|| text.into_bytes().into()),
                headers,
            }
        })
        .collect()
}

fn ours_of(records: &[theirs::Record], compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    let (id, epoch) = (ProducerId::new(4000).unwrap(), ProducerEpoch::new(3).unwrap());
    builder.compression(compression).producer(id, epoch, Sequence::new(17)).transactional(true);
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let timestamp = TimestampMs::new(record.timestamp);
        builder.record_with_headers(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build().unwrap().into_bytes()
}

fn theirs_of(records: &[theirs::Record], compression: theirs::Compression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = theirs::RecordEncodeOptions { version: 2, compression };
    theirs::RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes
}

fn assert_reads_as(batch: &[u8], expected: &[theirs::Record]) {
    let view = BatchView::parse(batch, u32::MAX).unwrap();
    view.verify_crc().unwrap();
    let header = view.header();
    assert!(header.attributes.is_transactional() && !header.attributes.is_control());
    assert_eq!((header.producer_id, header.producer_epoch), (ProducerId::new(4000), ProducerEpoch::new(3)));
    let body = view.body(LIMIT).unwrap();
    assert_eq!(body.records().count(), expected.len());
    for (record, expected) in body.records().zip(expected) {
        let record = record.unwrap();
        assert_eq!(Some(record.offset), Offset::new(expected.offset));
        assert_eq!(record.sequence, Sequence::new(expected.sequence));
        assert_eq!(record.timestamp.value(), expected.timestamp);
        assert_eq!(record.key, expected.key.as_deref());
        assert_eq!(record.value, expected.value.as_deref());
        let headers: Vec<_> = expected.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        assert_eq!(record.headers().collect::<Vec<_>>(), headers);
    }
}

#[test]
fn their_batches_are_valid_and_read_the_same() {
    let records = records();
    for (ours, theirs) in CODECS {
        let batch = theirs_of(&records, theirs);
        let header = validate(&batch, &rules()).unwrap();
        assert_eq!(header.attributes.compression(), ours);
        assert_reads_as(&batch, &records);
    }
}

#[test]
fn our_batches_are_decoded_by_them() {
    let records = records();
    for (ours, theirs) in CODECS {
        let batch = ours_of(&records, ours);
        validate(&batch, &rules()).unwrap();
        let decoded = theirs::RecordBatchDecoder::decode(&mut batch.as_slice()).unwrap();
        assert_eq!(decoded.records, records, "{ours:?}");
        assert_eq!(decoded.compression as u8, theirs as u8);
    }
}

#[test]
fn uncompressed_batches_are_the_same_bytes() {
    let records = records();
    assert!(ours_of(&records, Compression::None) == theirs_of(&records, theirs::Compression::None));
}
