//! Recompression, between all codecs and levels, with every kind of batch. Random cases name the seed that repeats them.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]

use fastrand::Rng;
use kafka_protocol::records as theirs;

use super::layout::{
    APPEND_TIME_BIT, ATTRIBUTES_AT, BATCH_LENGTH_AT, CRC_AT, DELETE_HORIZON_BIT, HEADER_BYTES, LEADER_EPOCH_AT,
    MAGIC_AT, MAX_TIMESTAMP_AT,
};
use super::stamp::{put, seal};
use super::{BatchBuilder, BatchView, Compression, Origin, RecordBatch, Rules, TransactionEnd, recompress, validate};
use crate::error::{BuildError, InvalidBatch, RecompressError};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

const LIMIT: u32 = 1 << 22;

/// zstd has 131,073 levels from 0 down, of which a few must do.
fn is_tried(level: i32) -> bool {
    level > 0 || [-131_072, -1000, -7, -1, 0].contains(&level)
}

/// All that may be asked for: each codec at its default and at every level.
fn targets() -> Vec<(Compression, Option<i32>)> {
    let levels = |codec: Compression| {
        codec.levels().into_iter().flat_map(|(levels, _)| levels).filter(|level| is_tried(*level)).map(Some)
    };
    Compression::ALL
        .into_iter()
        .flat_map(|codec| levels(codec).chain([None]).map(move |level| (codec, level)))
        .collect()
}

/// A transactional batch of a follower, with every field set to something of its own.
fn batch(codec: Compression, level: Option<i32>) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.compression(codec);
    if let Some(level) = level {
        builder.compression_level(level);
    }
    let producer = (ProducerId::new(4000).unwrap(), ProducerEpoch::new(3).unwrap());
    builder.producer(producer.0, producer.1, Sequence::new(i32::MAX - 3)).transactional(true);
    builder.base_offset(Offset::new(1 << 40).unwrap()).leader_epoch(LeaderEpoch::new(9));
    for n in 0..100_i64 {
        let value = format!("value {n} ").repeat(usize::try_from(n % 20).unwrap());
        let headers = [("größe", None), ("n", Some(&b"1"[..]))];
        let key = format!("key {n}");
        let value = (n % 7 != 3).then_some(value.as_bytes());
        let headers = &headers[..usize::try_from(n % 3).unwrap()];
        builder.record_with_headers(TimestampMs::new(1_700_000_000_000 - n * n), Some(key.as_bytes()), value, headers);
    }
    builder.build().unwrap()
}

/// The header without what recompression may change.
fn kept_fields(batch: &[u8]) -> [Vec<u8>; 4] {
    let codec_free = [batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1] & !7];
    let places = [0..BATCH_LENGTH_AT, LEADER_EPOCH_AT..CRC_AT, ATTRIBUTES_AT + 2..HEADER_BYTES];
    let [offset, epoch_and_magic, rest] = places.map(|place| batch[place].to_vec());
    [offset, epoch_and_magic, codec_free.to_vec(), rest]
}

fn plain(batch: &[u8]) -> Vec<u8> {
    BatchView::parse(batch, u32::MAX).unwrap().body(LIMIT).unwrap().bytes().to_vec()
}

fn codec_of(batch: &[u8]) -> Compression {
    BatchView::parse(batch, u32::MAX).unwrap().header().attributes.compression()
}

/// All that must hold of `made`, which was `batch` before.
fn check_made(batch: &[u8], made: &[u8], to: Compression, case: &str) {
    let view = BatchView::parse(made, u32::MAX).unwrap();
    assert_eq!(view.bytes().len(), made.len(), "{case}: one whole batch");
    view.verify_crc().unwrap();
    assert_eq!(view.header().attributes.compression(), to, "{case}");
    assert_eq!(kept_fields(made), kept_fields(batch), "{case}");
    assert_eq!(plain(made), plain(batch), "{case}");
}

#[test]
fn every_codec_and_level_to_every_other() {
    for (from, from_level) in targets() {
        let batch = batch(from, from_level);
        for (to, level) in targets() {
            let case = format!("{from:?} {from_level:?} to {to:?} {level:?}");
            match recompress(batch.as_bytes(), to, level, LIMIT).unwrap() {
                None => assert_eq!(from, to, "{case}"),
                Some(made) => {
                    assert_ne!(from, to, "{case}");
                    check_made(batch.as_bytes(), &made, to, &case);
                }
            }
        }
    }
}

#[test]
fn another_decoder_reads_the_same_records() {
    for from in Compression::ALL {
        let batch = batch(from, None);
        let before = theirs::RecordBatchDecoder::decode(&mut batch.as_bytes()).unwrap();
        assert_eq!(before.records.len(), 100);
        for to in Compression::ALL.into_iter().filter(|to| *to != from) {
            let made = recompress(batch.as_bytes(), to, None, LIMIT).unwrap().unwrap();
            let after = theirs::RecordBatchDecoder::decode(&mut made.as_slice()).unwrap();
            assert_eq!(after.records, before.records, "{from:?} to {to:?}");
            assert_eq!(after.compression as u16, to.code(), "{from:?} to {to:?}");
        }
    }
}

#[test]
fn what_was_built_that_way_is_what_recompression_makes() {
    for (to, level) in targets().into_iter().filter(|(to, _)| *to != Compression::None) {
        let made = recompress(batch(Compression::None, None).as_bytes(), to, level, LIMIT).unwrap().unwrap();
        assert!(made == batch(to, level).as_bytes(), "{to:?} {level:?}");
        let back = recompress(&made, Compression::None, None, LIMIT).unwrap().unwrap();
        assert!(back == batch(Compression::None, None).as_bytes(), "{to:?} {level:?}");
    }
}

#[test]
fn only_the_first_batch_is_taken() {
    let two = [batch(Compression::None, None).as_bytes(), b"and whatever follows"].concat();
    let made = recompress(&two, Compression::Lz4, None, LIMIT).unwrap().unwrap();
    assert!(made == batch(Compression::Lz4, None).as_bytes());
}

#[test]
fn control_batches_and_empty_ones_stay_as_they_are() {
    let producer = (ProducerId::new(7).unwrap(), ProducerEpoch::new(1).unwrap());
    let marker = RecordBatch::end_transaction_marker(TransactionEnd::Abort, producer, 3, TimestampMs::new(5));
    let mut emptied = batch(Compression::None, None).into_bytes();
    emptied.truncate(HEADER_BYTES);
    put(&mut emptied, BATCH_LENGTH_AT, 49_i32.to_be_bytes());
    put(&mut emptied, HEADER_BYTES - 4, 0_i32.to_be_bytes());
    seal(&mut emptied);
    for (to, level) in targets() {
        assert_eq!(recompress(marker.as_bytes(), to, level, LIMIT), Ok(None), "{to:?}");
        assert_eq!(recompress(&emptied, to, level, LIMIT), Ok(None), "{to:?}");
    }
}

#[test]
fn flags_are_kept_those_of_append_time_and_horizon_too() {
    for flag in [APPEND_TIME_BIT, DELETE_HORIZON_BIT, 1 << 7, 1 << 15] {
        let mut bytes = batch(Compression::Gzip, None).into_bytes();
        let bits = u16::from_be_bytes([bytes[ATTRIBUTES_AT], bytes[ATTRIBUTES_AT + 1]]) | flag;
        put(&mut bytes, ATTRIBUTES_AT, bits.to_be_bytes());
        put(&mut bytes, MAX_TIMESTAMP_AT, 123_i64.to_be_bytes());
        seal(&mut bytes);
        let made = recompress(&bytes, Compression::Zstd, Some(1), LIMIT).unwrap().unwrap();
        check_made(&bytes, &made, Compression::Zstd, &format!("{flag:#x}"));
        assert_eq!(BatchView::parse(&made, u32::MAX).unwrap().header().attributes.bits(), bits & !7 | 4);
    }
}

#[test]
fn levels_that_do_not_exist_are_refused() {
    let batch = batch(Compression::None, None);
    for (to, level, min, max) in
        [(Compression::Gzip, 0, 1, 9), (Compression::Gzip, 10, 1, 9), (Compression::Zstd, 23, -131_072, 22)]
    {
        let refused = BuildError::Level { codec: to.name(), level, min, max };
        assert_eq!(recompress(batch.as_bytes(), to, Some(level), LIMIT), Err(RecompressError::Build(refused)));
    }
    // Codecs without levels ignore one.
    for to in [Compression::Snappy, Compression::Lz4] {
        assert!(recompress(batch.as_bytes(), to, Some(99), LIMIT).unwrap().is_some());
    }
}

#[test]
fn more_than_the_bound_is_refused_exactly() {
    let records = u32::try_from(plain(batch(Compression::None, None).as_bytes()).len()).unwrap();
    for from in Compression::ALL {
        let to = if from == Compression::Lz4 { Compression::Snappy } else { Compression::Lz4 };
        let batch = batch(from, None);
        assert!(recompress(batch.as_bytes(), to, None, records).unwrap().is_some(), "{from:?}");
        let bomb = RecompressError::Batch(InvalidBatch::Bomb { limit: u64::from(records) - 1 });
        assert_eq!(recompress(batch.as_bytes(), to, None, records - 1), Err(bomb), "{from:?}");
        // What is not touched is not measured either.
        assert_eq!(recompress(batch.as_bytes(), from, None, 0), Ok(None));
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_bound() {
    let mut builder = BatchBuilder::new();
    builder.compression(Compression::Zstd).record(TimestampMs::new(1), None, Some(&vec![0; 256 << 20]));
    let bomb = builder.build().unwrap();
    assert!(bomb.as_bytes().len() < 1 << 20);
    let refused = Err(RecompressError::Batch(InvalidBatch::Bomb { limit: 1000 }));
    for to in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4] {
        assert_eq!(recompress(bomb.as_bytes(), to, None, 1000), refused, "{to:?}");
    }
}

/// A repair must never put a valid checksum over bytes that failed theirs.
#[test]
fn damage_under_the_checksum_is_refused_at_every_byte() {
    let mut builder = BatchBuilder::new();
    builder.record(TimestampMs::new(1), Some(b"key"), Some(b"value"));
    let whole = builder.build().unwrap();
    for at in CRC_AT..whole.as_bytes().len() {
        for bit in 0..8 {
            let mut bytes = whole.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            // A flip may turn it into a batch that would stay as it is; nothing is signed then.
            let outcome = recompress(&bytes, Compression::Gzip, None, LIMIT);
            assert!(matches!(outcome, Err(RecompressError::Batch(_)) | Ok(None)), "byte {at} bit {bit}: {outcome:?}");
        }
    }
    for len in 0..whole.as_bytes().len() {
        let outcome = recompress(&whole.as_bytes()[..len], Compression::Gzip, None, LIMIT);
        assert!(matches!(outcome, Err(RecompressError::Batch(InvalidBatch::Short { .. }))), "{len} bytes: {outcome:?}");
    }
    let mut old = whole.into_bytes();
    old[MAGIC_AT] = 1;
    let refused = Err(RecompressError::Batch(InvalidBatch::Magic { found: 1 }));
    assert_eq!(recompress(&old, Compression::Gzip, None, LIMIT), refused);
}

fn random_batch(rng: &mut Rng) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    builder.compression(*rng.choice(&Compression::ALL).unwrap());
    if rng.bool() {
        let (id, epoch) = (ProducerId::new(rng.i64(0..)).unwrap(), ProducerEpoch::new(rng.i16(0..)).unwrap());
        builder.producer(id, epoch, Sequence::new(rng.i32(0..))).transactional(rng.bool());
    }
    for _ in 0..rng.usize(1..=50) {
        let mut bytes = |most: usize| {
            let (len, high) = (rng.usize(0..=most), if rng.bool() { 3 } else { 255 });
            (rng.u8(..) > 30).then(|| (0..len).map(|_| rng.u8(0..=high)).collect::<Vec<u8>>())
        };
        let (key, value) = (bytes(30), bytes(3000));
        builder.record(TimestampMs::new(rng.i64(-1..1 << 41)), key.as_deref(), value.as_deref());
    }
    builder.build().unwrap()
}

/// There and on and back: the same records and the same header fields, valid to a client's rules; damage is refused, with
/// a checksum made right again too, or leads to a batch whose records read the same.
#[test]
fn random_batches_through_random_codecs() {
    let any = Rules {
        origin: Origin::Client,
        batch_bytes_max: None,
        decompressed_bytes_max: LIMIT,
        keys_required: false,
        timestamps: None,
    };
    let (targets, mut made_of_damage) = (targets(), 0);
    for seed in 0..600 {
        let mut rng = Rng::with_seed(seed);
        let original = random_batch(&mut rng).into_bytes();
        let mut bytes = original.clone();
        for _ in 0..3 {
            let (to, level) = *rng.choice(&targets).unwrap();
            if rng.bool() && to == Compression::Zstd && level > Some(15) {
                continue;
            }
            match recompress(&bytes, to, level, LIMIT).unwrap() {
                Some(made) => bytes = made,
                None => assert_eq!(codec_of(&bytes), to, "seed {seed}"),
            }
            check_made(&original, &bytes, to, &format!("seed {seed}"));
            validate(&bytes, &any).unwrap();
        }
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(HEADER_BYTES..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let is_resealed = rng.bool();
        if is_resealed {
            seal(&mut bytes);
        }
        if let Ok(Some(made)) = recompress(&bytes, *rng.choice(&Compression::ALL).unwrap(), None, LIMIT) {
            // Bytes may have been overwritten with themselves.
            assert!(is_resealed || plain(&made) == plain(&original), "seed {seed}");
            assert_eq!(plain(&made), plain(&bytes), "seed {seed}");
            made_of_damage += u32::from(is_resealed);
        }
    }
    assert!(made_of_damage > 20, "{made_of_damage}");
}
