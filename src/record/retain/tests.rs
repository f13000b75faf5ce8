//! Rebuilt batches against the same batches built field by field.

use super::naive_tests::{NaiveBatch, Random};
use super::*;
use crate::record::BatchBuilder;

const LIMIT: u32 = 1 << 24;

fn verified(bytes: &[u8]) -> VerifiedBatch<'_> {
    VerifiedBatch::verify(BatchView::parse(bytes, u32::MAX).unwrap()).unwrap()
}

/// The batch of the records that `keep` is true of, by their index.
fn rebuilt(bytes: &[u8], horizon: Option<i64>, keep: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut retainer = Retainer::default();
    let mut index = 0;
    let chosen = retainer.choose::<InvalidBatch>(&verified(bytes), LIMIT, |_| {
        index += 1;
        Ok(keep(index - 1))
    });
    let mut out = b"what was there".to_vec();
    chosen.unwrap().rebuild(horizon.map(TimestampMs::new), &mut out).unwrap();
    out.split_off(14)
}

fn seeds() -> u64 {
    std::env::var("ALLUVIUM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

#[test]
fn a_rebuilt_batch_equals_one_built_field_by_field() {
    for seed in 0..seeds() {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let batch = random.batch(1000);
        let bytes = batch.encode();
        assert_eq!(NaiveBatch::decode(&bytes), batch, "seed {seed}");
        let mut mask: Vec<bool> = batch.records.iter().map(|_| random.0.bool()).collect();
        let sure = random.0.usize(0..mask.len());
        mask[sure] = true;
        let horizon = random.0.bool().then_some(1_700_086_400_000);
        let kept = batch.records.iter().zip(&mask).filter(|(_, keep)| **keep).map(|(record, _)| record.clone());
        let expected = batch.with_records(kept.collect(), horizon);
        let found = rebuilt(&bytes, horizon, |index| mask[index]);
        assert_eq!(NaiveBatch::decode(&found), expected, "seed {seed}");
        assert!(found == expected.encode(), "the same bytes, compressed ones too; seed {seed}");
    }
}

#[test]
fn an_emptied_batch_is_its_header_without_codec_horizon_and_base_timestamp() {
    for seed in 0..100 {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let batch = random.batch(7);
        let mut out = Vec::new();
        put_emptied(&verified(&batch.encode()), &mut out);
        assert_eq!(out.len(), HEADER_BYTES);
        assert_eq!(NaiveBatch::decode(&out), batch.emptied(), "seed {seed}");
    }
}

#[test]
fn emptied_and_rebuilt_headers_are_these_bytes() {
    let mut batch = NaiveBatch::plain(258, &[(5, Some("a"), Some("1")), (9, Some("b"), None)]);
    (batch.producer_id, batch.producer_epoch, batch.base_sequence) = (3, 4, 5);
    let mut emptied = Vec::new();
    put_emptied(&verified(&batch.encode()), &mut emptied);
    let crc = crate::record::crc32c(&emptied[21..]).to_be_bytes();
    let mut expected = vec![0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 49, 0, 0, 0, 0, 2];
    expected.extend(crc);
    expected.extend([0, 0, 0, 0, 0, 1]);
    expected.extend([255; 8]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0]);
    assert_eq!(emptied, expected);
    // One record with offset delta 1, whose timestamp is the base; then the same with a horizon of 8.
    let without = rebuilt(&batch.encode(), None, |index| index == 1);
    assert_eq!(without[21..43], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(without[57..], [0, 0, 0, 1, 14, 0, 0, 2, 2, b'b', 1, 0]);
    let with = rebuilt(&batch.encode(), Some(8), |index| index == 1);
    assert_eq!(with[21..43], [0, 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(with[57..], [0, 0, 0, 1, 14, 0, 2, 2, 2, b'b', 1, 0]);
}

#[test]
fn what_has_a_horizon_keeps_it() {
    let mut batch = NaiveBatch::plain(0, &[(5, Some("a"), None), (9, Some("b"), None)]);
    (batch.has_horizon, batch.base_timestamp) = (true, 77);
    let found = NaiveBatch::decode(&rebuilt(&batch.encode(), Some(1000), |index| index == 1));
    assert_eq!((found.has_horizon, found.base_timestamp, found.records[0].timestamp), (true, 77, 9));
}

#[test]
fn bits_that_nobody_uses_yet_stay() {
    let mut bytes = NaiveBatch::plain(0, &[(5, Some("a"), None), (9, Some("b"), None)]).encode();
    bytes[ATTRIBUTES_AT] = 0x80;
    seal(&mut bytes);
    let found = rebuilt(&bytes, None, |index| index == 0);
    assert_eq!(verified(&found).header().attributes.bits(), 0x8000);
}

/// KAFKA-5316: what a producer compressed at its best level may grow.
#[test]
fn a_batch_may_grow() {
    let noise: Vec<u8> =
        (0..30_000_u32).map(|at| b'a' + u8::try_from(at.wrapping_mul(2_654_435_761) >> 29).unwrap()).collect();
    let mut builder = BatchBuilder::new();
    builder.compression(Compression::Gzip).compression_level(9);
    builder.record(TimestampMs::new(1), Some(b"k"), Some(&noise)).record(TimestampMs::new(2), Some(b"k"), Some(b"v"));
    let batch = builder.build().unwrap();
    let found = rebuilt(batch.as_bytes(), None, |index| index == 0);
    assert_eq!(NaiveBatch::decode(&found).records[0].value.as_deref(), Some(&noise[..]));
}

#[test]
fn damaged_bytes_cannot_be_had_as_a_verified_batch() {
    let mut bytes = NaiveBatch::plain(0, &[(5, Some("a"), Some("value"))]).encode();
    let last = bytes.len() - 1;
    for at in [ATTRIBUTES_AT, COUNT_AT, HEADER_BYTES, last] {
        bytes[at] ^= 1;
        if let Ok(view) = BatchView::parse(&bytes, u32::MAX) {
            assert!(matches!(VerifiedBatch::verify(view), Err(InvalidBatch::Crc { .. })));
        }
        bytes[at] ^= 1;
    }
}

#[test]
fn what_expands_past_the_limit_is_refused() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new();
        builder.compression(codec).record(TimestampMs::new(1), Some(b"k"), Some(&vec![0; 1 << 20]));
        let batch = builder.build().unwrap();
        let mut retainer = Retainer::default();
        let batch = verified(batch.as_bytes());
        let read = retainer.choose::<InvalidBatch>(&batch, 100_000, |_| panic!("no record")).map(drop);
        assert_eq!(read, Err(InvalidBatch::Bomb { limit: 100_000 }), "{codec:?}");
        assert!(retainer.memory_bytes() < 300_000);
    }
}

#[test]
fn records_that_are_nonsense_are_an_error_and_leave_no_trace() {
    let batch = NaiveBatch::plain(0, &[(5, Some("a"), Some("1")), (6, Some("b"), Some("2"))]).encode();
    let mut refused = 0;
    for at in HEADER_BYTES..batch.len() {
        for bit in 0..8 {
            let mut bytes = batch.clone();
            bytes[at] ^= 1 << bit;
            seal(&mut bytes);
            let mut retainer = Retainer::default();
            match retainer.choose::<InvalidBatch>(&verified(&bytes), LIMIT, |record| Ok(record.offset > Offset::ZERO)) {
                Err(_) => refused += 1,
                Ok(chosen) => {
                    let mut out = Vec::new();
                    chosen.rebuild(None, &mut out).unwrap();
                    verified(&out);
                }
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn random_bytes_with_a_valid_checksum_never_panic() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut retainer = Retainer::default();
    let mut read = 0;
    for _ in 0..20_000 {
        let count = rng.i32(0..4);
        let mut bytes =
            NaiveBatch::plain(9, &[(1, None, None), (1, None, None), (1, None, None), (1, None, None)]).encode();
        bytes.truncate(HEADER_BYTES);
        bytes.extend((0..rng.usize(0..40)).map(|_| if rng.bool() { rng.u8(0..12) } else { rng.u8(..) }));
        put(&mut bytes, COUNT_AT, count.to_be_bytes());
        put(&mut bytes, ATTRIBUTES_AT, rng.u16(0..128).to_be_bytes());
        let length = i32::try_from(bytes.len() - LENGTH_OVERHEAD).unwrap();
        put(&mut bytes, BATCH_LENGTH_AT, length.to_be_bytes());
        seal(&mut bytes);
        let Ok(view) = BatchView::parse(&bytes, u32::MAX) else { continue };
        let batch = VerifiedBatch::verify(view).unwrap();
        let chosen = retainer.choose::<InvalidBatch>(&batch, 1 << 16, |_| Ok(true));
        if let Ok(chosen) = chosen {
            let mut out = Vec::new();
            chosen.rebuild(Some(TimestampMs::new(i64::MIN)), &mut out).unwrap();
            verified(&out);
            read += 1;
        }
    }
    assert!(read > 30, "{read}");
}
