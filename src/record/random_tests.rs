//! Random records there and back, and random damage. Every failure names the seed that repeats it.

use fastrand::Rng;

use super::layout::{ATTRIBUTES_AT, CRC_AT, HEADER_BYTES};
use super::stamp::seal;
use super::{BatchBuilder, BatchView, Compression, Origin, RecordBatch, Rules, batches, compress, validate};
use crate::error::{InvalidBatch, InvalidRecord};
use crate::units::{ProducerEpoch, ProducerId, Sequence, TimestampMs};

const LIMIT: u32 = 1 << 20;

fn rules(origin: Origin) -> Rules {
    Rules { origin, batch_bytes_max: None, decompressed_bytes_max: LIMIT, keys_required: false, timestamps: None }
}

#[derive(Debug, PartialEq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn nullable(rng: &mut Rng, bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = rng.usize(0..=bytes_max);
    let (low, high) = if rng.bool() { (0, 3) } else { (0, 255) };
    (rng.u8(..) > 30).then(|| (0..bytes).map(|_| rng.u8(low..=high)).collect())
}

fn timestamp(rng: &mut Rng) -> i64 {
    match rng.u8(0..20) {
        0 => rng.i64(..),
        1 => -1,
        2..10 => 1_700_000_000_000 + rng.i64(-100_000..100_000),
        _ => 1_700_000_000_000 + rng.i64(0..200),
    }
}

fn record(rng: &mut Rng) -> Owned {
    let value_max = if rng.u8(..) < 8 { 20_000 } else { 200 };
    let headers = if rng.u8(0..4) == 0 { rng.usize(0..4) } else { 0 };
    Owned {
        timestamp: timestamp(rng),
        key: nullable(rng, 100),
        value: nullable(rng, value_max),
        headers: (0..headers)
            .map(|_| ((0..rng.usize(0..80)).map(|_| rng.char('a'..='ÿ')).collect(), nullable(rng, 80)))
            .collect(),
    }
}

fn batch_of(rng: &mut Rng, records: &[Owned]) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.compression(*rng.choice(&Compression::ALL).unwrap());
    if rng.bool() {
        let (id, epoch) = (ProducerId::new(rng.i64(0..)).unwrap(), ProducerEpoch::new(rng.i16(0..)).unwrap());
        builder.producer(id, epoch, Sequence::new(rng.i32(0..))).transactional(rng.bool());
    }
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let timestamp = TimestampMs::new(record.timestamp);
        builder.record_with_headers(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder.build().unwrap()
}

fn read(batch: &[u8]) -> Result<Vec<Owned>, InvalidBatch> {
    let body = BatchView::parse(batch, u32::MAX)?.body(LIMIT)?;
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    body.records()
        .map(|record| {
            record.map(|record| Owned {
                timestamp: record.timestamp.value(),
                key: owned(record.key),
                value: owned(record.value),
                headers: record.headers().map(|(key, value)| (key.to_owned(), owned(value))).collect(),
            })
        })
        .collect()
}

#[test]
fn random_records_round_trip() {
    for seed in 0..3000 {
        let mut rng = Rng::with_seed(seed);
        let records: Vec<_> = (0..rng.usize(1..=100)).map(|_| record(&mut rng)).collect();
        let batch = batch_of(&mut rng, &records);
        let header = batch.header();
        assert_eq!(validate(batch.as_bytes(), &rules(Origin::Client)), Ok(header), "seed {seed}");
        assert_eq!(validate(batch.as_bytes(), &rules(Origin::Follower)), Ok(header), "seed {seed}");
        assert_eq!(read(batch.as_bytes()), Ok(records), "seed {seed}");
    }
}

#[test]
fn random_damage_is_refused_under_the_crc_and_never_panics() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let records: Vec<_> = (0..rng.usize(1..=5)).map(|_| record(&mut rng)).collect();
        let mut bytes = batch_of(&mut rng, &records).into_bytes();
        let mut is_under_crc = false;
        for _ in 0..rng.usize(1..=4) {
            let at = rng.usize(..bytes.len());
            let damaged = bytes[at] ^ rng.u8(1..);
            bytes[at] = damaged;
            is_under_crc |= at >= CRC_AT;
        }
        if rng.u8(..) < 30 {
            bytes.truncate(rng.usize(..bytes.len()));
        }
        for origin in [Origin::Client, Origin::Coordinator, Origin::Follower] {
            // Several changes to one place may undo each other; the CRC alone knows.
            let verdict = validate(&bytes, &rules(origin));
            let is_intact = BatchView::parse(&bytes, u32::MAX).is_ok_and(|batch| batch.verify_crc().is_ok());
            assert!(verdict.is_err() || is_intact, "seed {seed}");
            assert!(!is_intact || !is_under_crc || records_are(&bytes, &records), "seed {seed}");
        }
        for batch in batches(&bytes, LIMIT) {
            let _ = batch.map(|batch| read(batch.bytes()));
        }
    }
}

fn records_are(bytes: &[u8], records: &[Owned]) -> bool {
    read(bytes).is_ok_and(|read| read == records)
}

/// The walk of the append path and the iterator of the read path are two readers of one format. Damage with a CRC
/// made right again: whatever a client may append can be read, and what cannot be read is not taken.
#[test]
fn validation_and_iteration_agree_on_damaged_records() {
    let mut taken = 0;
    for seed in 0..60_000 {
        let mut rng = Rng::with_seed(seed);
        let records: Vec<_> = (0..rng.usize(1..=4)).map(|_| record(&mut rng)).collect();
        let mut bytes = batch_of(&mut rng, &records).into_bytes();
        for _ in 0..rng.usize(1..=3) {
            // Near the start there are more lengths than values.
            let within = if rng.bool() { bytes.len() - HEADER_BYTES } else { 12.min(bytes.len() - HEADER_BYTES) };
            let at = HEADER_BYTES + rng.usize(..within);
            bytes[at] = if rng.bool() { bytes[at] ^ 1 << rng.u8(0..8) } else { rng.u8(..) };
        }
        if rng.u8(..) < 60 {
            bytes[ATTRIBUTES_AT + 1] = rng.u8(..) & 0b0011_0111;
        }
        seal(&mut bytes);
        let read = read(&bytes);
        let client = validate(&bytes, &rules(Origin::Coordinator));
        assert!(client.is_err() || read.is_ok(), "seed {seed}: {read:?}");
        let follower = validate(&bytes, &rules(Origin::Follower));
        let is_plain = follower.as_ref().is_ok_and(|header| header.attributes.compression() == Compression::None);
        match &read {
            Ok(_) => assert!(follower.is_ok(), "seed {seed}: {follower:?}"),
            Err(InvalidBatch::Record { fault: InvalidRecord::HeaderKey, .. }) => {}
            Err(_) => assert!(!is_plain, "seed {seed}: {read:?}"),
        }
        taken += u32::from(client.is_ok());
    }
    assert!(taken > 5000, "{taken}: most damage should not be structural");
}

#[test]
fn random_blobs_never_panic_nor_pass_the_limit() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let codec = *rng.choice(&Compression::ALL[1..]).unwrap();
        let plain = nullable(&mut rng, 5000).unwrap_or_default();
        let mut blob = Vec::new();
        compress::compress(codec, None, &plain, &mut blob).unwrap();
        for _ in 0..rng.usize(1..=3) {
            let at = rng.usize(..blob.len());
            blob[at] = rng.u8(..);
        }
        if rng.bool() {
            blob.truncate(rng.usize(..=blob.len()));
        }
        let limit = rng.u32(0..10_000);
        let mut out = Vec::new();
        let outcome = compress::decompress(codec, &blob, limit, &mut out);
        assert!(outcome.is_err() || out.len() <= limit as usize, "seed {seed}");
        assert!(out.capacity() <= limit as usize + 64, "seed {seed}: {}", out.capacity());
    }
}
