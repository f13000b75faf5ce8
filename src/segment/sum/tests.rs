//! Every bit of a sealed segment and of what lies beside it, what other programs do to a segment, and hostile bytes.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::error::{CorruptionKind, InvalidBatch};
use crate::fs::{Advice, BorrowedFd, File, Mapping};
use crate::index::{AbortedTxn, AbortedTxns, IndexCursor, SegmentIndex};
use crate::record::{BatchBuilder, BatchHeader, HEADER_BYTES, batches, layout, stamp};
use crate::units::{LeaderEpoch, ProducerId, TimestampMs};

const INTERVAL: u32 = 4096;

/// Bytes that can only be read.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl File for Memory {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = self.0.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn write_vectored_at(&self, _: &[io::IoSlice<'_>], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn map(&self, _: u64) -> io::Result<Arc<dyn Mapping>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn advise(&self, _: u64, _: u64, _: Advice) -> io::Result<()> {
        Ok(())
    }
    fn send_to(&self, _: BorrowedFd<'_>, _: u64, _: u64) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

const BASE: i64 = 1000;

/// One batch of two records, about 300 bytes.
fn batch(number: u64, base_offset: Offset, epoch: i32) -> Vec<u8> {
    let time = TimestampMs::new(1_700_000_000_000 + i64::try_from(number).unwrap());
    let value: Vec<u8> = (0..110).map(|i| u8::try_from((number * 31 + i * 7) % 251).unwrap()).collect();
    let mut builder = BatchBuilder::new();
    builder.record(time, Some(b"key"), Some(&value)).record(time, None, Some(&value));
    let mut bytes = builder.build().unwrap().into_bytes();
    stamp(&mut bytes, base_offset, LeaderEpoch::new(epoch));
    bytes
}

/// A log of `count` batches from [`BASE`] on, the later half in a later epoch.
fn batches_of(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|n| batch(n, at(BASE + 2 * i64::try_from(n).unwrap()), if n < count / 2 { 1 } else { 2 })).collect()
}

fn sum_of(log: &[u8], sidecars: Sidecars) -> Sum {
    let (mut builder, mut position, mut end) = (SumBuilder::new(at(BASE), INTERVAL), 0, at(BASE));
    for view in batches(log, u32::MAX) {
        let view = view.unwrap();
        builder.observe(view.bytes().first_chunk().unwrap(), view.header().crc, position);
        position += view.bytes().len() as u64;
        end = view.header().next_offset();
    }
    assert!(builder.is_whole() && builder.next_position() == position);
    builder.finish(position, end, sidecars).unwrap()
}

const BOUNDS: WalkBounds =
    WalkBounds { base: Offset::new(BASE).unwrap(), next_base: None, interval_bytes: INTERVAL, may_have_gaps: false };

fn walk_within(log: &[u8], sum: Option<&Sum>, bounds: WalkBounds) -> Walked {
    let mut walk = LogWalk::new(Arc::new(Memory(log.to_vec())), bounds, sum.cloned().map(Arc::new)).unwrap();
    let mut bytes = 0;
    while let Some(step) = walk.step().unwrap() {
        assert!(step > 0, "every step goes on");
        bytes += step;
    }
    assert_eq!(bytes, log.len() as u64);
    walk.finish()
}

fn walked(log: &[u8], sum: Option<&Sum>) -> Walked {
    walk_within(log, sum, BOUNDS)
}

fn judged(log: &[u8], sum: &Sum) -> LogVerdict {
    verify(Some(sum), &walked(log, Some(sum)), sum.sidecars()).log
}

/// A segment with everything beside it.
struct Sealed {
    log: Vec<u8>,
    beside: [(FileKind, Vec<u8>); 4],
    sum: Sum,
}

fn sidecars_of(files: &[(FileKind, Vec<u8>); 4]) -> Sidecars {
    let [index, time_index, txn_index, snapshot] = files.each_ref().map(|(_, bytes)| Some(SidecarStamp::of(bytes)));
    Sidecars { index, time_index, txn_index, snapshot }
}

fn sealed() -> Sealed {
    let log = batches_of(36).concat();
    let (mut cursor, mut index, mut position) = (IndexCursor::new(at(BASE), 256), SegmentIndex::default(), 0);
    for view in batches(&log, u32::MAX) {
        let header = *view.unwrap().header();
        cursor.observe(&header, position, &mut index);
        position += u64::from(header.size);
    }
    let mut aborted = AbortedTxns::default();
    let (first_offset, last_offset) = (at(BASE + 4), at(BASE + 9));
    let producer_id = ProducerId::new(7).unwrap();
    aborted.push(AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset: at(BASE + 10) });
    let beside = [
        (FileKind::Index, index.offsets.encode()),
        (FileKind::TimeIndex, index.times.encode()),
        (FileKind::TxnIndex, aborted.encode()),
        (FileKind::Snapshot, (0..56).collect()),
    ];
    let sum = sum_of(&log, sidecars_of(&beside));
    assert!(sum.intervals.len() == 3 && beside.iter().all(|(_, bytes)| !bytes.is_empty()));
    Sealed { log, beside, sum }
}

fn covers(damage: &[LogDamage], byte: u64, offset: Offset) -> bool {
    damage.iter().any(|d| d.bytes.contains(&byte) && d.offsets.contains(&offset))
}

#[test]
fn the_format_is_as_drawn() {
    let log = batches_of(20).concat();
    let sidecars = Sidecars {
        index: Some(SidecarStamp { bytes: 0x0102_0304_0506_0708, crc: 0x090a_0b0c }),
        ..Sidecars::default()
    };
    let sum = sum_of(&log, sidecars);
    let file = sum.encode();
    assert_eq!(&file[..8], [b'A', b'L', b'V', b'M', 0, 16, 0, 1]);
    let payload = &file[16..];
    assert_eq!(payload[0..8], 1000_i64.to_be_bytes());
    assert_eq!(payload[8..16], 1040_i64.to_be_bytes());
    assert_eq!(payload[16..24], (log.len() as u64).to_be_bytes());
    // The digests as their definition gives them.
    let mix = |state: u64, word: u64| {
        let mixed = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    };
    let (mut crcs, mut placement) = (0x9e37_79b9_7f4a_7c15, 0x9e37_79b9_7f4a_7c15);
    for view in batches(&log, u32::MAX) {
        let header = *view.unwrap().header();
        crcs = mix(crcs, u64::from(header.crc));
        let offset = u64::try_from(header.base_offset.value()).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        placement = mix(placement, offset ^ (u64::from(header.size - 12) << 8 | 2));
    }
    assert_eq!(payload[24..32], crcs.to_be_bytes());
    assert_eq!(payload[32..40], placement.to_be_bytes());
    assert_eq!(payload[40..44], INTERVAL.to_be_bytes());
    assert_eq!(payload[44..57], [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(payload[57..96], [0; 39]);
    assert_eq!(payload[96..100], [0, 0, 0, 2]);
    // The second interval begins with the first batch more than 4,096 bytes behind the first one.
    let size = log.len() / 20;
    let second = 4096 / size + 1;
    assert_eq!(payload[112..116], u32::try_from(second * size).unwrap().to_be_bytes());
    assert_eq!(payload[116..120], u32::try_from(second * 2).unwrap().to_be_bytes());
    let headers: Vec<u8> = (0..second).flat_map(|n| log[n * size..n * size + 17].to_vec()).collect();
    assert_eq!(payload[100..112], [&[0; 8][..], &crc32fast::hash(&headers).to_be_bytes()].concat());
    assert_eq!(payload.len(), 124);
    assert_eq!(Sum::decode(&file, at(BASE)), Ok(sum));
}

#[test]
fn what_was_sealed_is_intact_and_a_walk_makes_the_same_sum() {
    let Sealed { log, beside, sum } = sealed();
    let seen = walked(&log, Some(&sum));
    let verdict = verify(Some(&sum), &seen, &sidecars_of(&beside));
    assert!(verdict.is_intact(), "{verdict:?}");
    assert_eq!((seen.log_bytes(), seen.end()), (sum.log_bytes(), sum.end()));
    let unprotected = walked(&log, None);
    let verdict = verify(None, &unprotected, &sidecars_of(&beside));
    assert_eq!(verdict, Verdict { log: LogVerdict::Unprotected, sidecars: Vec::new() });
    assert_eq!(unprotected.rebuilt(&verdict, sidecars_of(&beside)), Some(sum));
    let nothing = sum_of(&[], Sidecars::default());
    assert_eq!(judged(&[], &nothing), LogVerdict::Intact);
    assert_eq!(Sum::decode(&nothing.encode(), at(BASE)), Ok(nothing));
}

#[test]
fn every_bit_of_the_log_is_guarded() {
    let Sealed { mut log, sum, .. } = sealed();
    let headers: Vec<(Range<u64>, BatchHeader)> = batches(&log.clone(), u32::MAX)
        .scan(0, |position, view| {
            let header = *view.unwrap().header();
            let start = *position;
            *position += u64::from(header.size);
            Some((start..*position, header))
        })
        .collect();
    let mut headers_alone = 0;
    for (bytes, header) in headers {
        for byte in bytes.clone() {
            for bit in 0..8 {
                log[usize::try_from(byte).unwrap()] ^= 1 << bit;
                let seen = walked(&log, Some(&sum));
                let verdict = verify(Some(&sum), &seen, sum.sidecars());
                let why = || format!("byte {byte} (in batch {}), bit {bit}: {verdict:?}", byte - bytes.start);
                let damage = verdict.damage();
                assert!(covers(damage, byte, header.base_offset), "{}", why());
                assert!(covers(damage, byte, header.last_offset()), "{}", why());
                // No more is given up than the interval; with the length gone, up to the next one.
                let lost: u64 = damage.iter().map(|d| d.bytes.end - d.bytes.start).sum();
                let in_place = byte - bytes.start >= layout::CRC_AT as u64;
                assert!(lost <= if in_place { u64::from(header.size) } else { 4096 + 300 }, "{}", why());
                assert_eq!(seen.rebuilt(&verdict, Sidecars::default()), None, "{}", why());
                headers_alone += u32::from(damage[0].kind == DamageKind::Headers);
                log[usize::try_from(byte).unwrap()] ^= 1 << bit;
            }
        }
    }
    // Offset and epoch of each batch, but for the bits that make them negative, and nothing else.
    assert!(headers_alone >= 36 * 90, "{headers_alone}");
}

#[test]
fn every_bit_beside_the_log_is_guarded() {
    let Sealed { log, mut beside, sum } = sealed();
    let seen = walked(&log, Some(&sum));
    for which in 0..beside.len() {
        for bit in 0..beside[which].1.len() * 8 {
            beside[which].1[bit / 8] ^= 1 << (bit % 8);
            let verdict = verify(Some(&sum), &seen, &sidecars_of(&beside));
            assert_eq!(verdict.log, LogVerdict::Intact);
            let [SidecarFault { kind, fault: SidecarFaultKind::Differs { .. } }] = verdict.sidecars[..] else {
                panic!("{verdict:?}");
            };
            assert_eq!(kind, beside[which].0);
            beside[which].1[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..beside[which].1.len() {
            let mut cut = beside.clone();
            cut[which].1.truncate(length);
            assert_eq!(verify(Some(&sum), &seen, &sidecars_of(&cut)).sidecars.len(), 1);
        }
    }
}

#[test]
fn every_bit_of_the_sum_is_guarded_and_without_it_the_log_is_unprotected() {
    let Sealed { log, beside, sum } = sealed();
    let mut file = sum.encode();
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(Sum::decode(&file, at(BASE)).is_err(), "bit {bit}");
        file[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..file.len() {
        assert!(Sum::decode(&file[..length], at(BASE)).is_err(), "{length}");
    }
    assert_eq!(Sum::decode(&file, at(BASE + 1)), Err(SmallFileFault::Field));
    let seen = walked(&log, None);
    let verdict = verify(None, &seen, &sidecars_of(&beside));
    assert_eq!(verdict.log, LogVerdict::Unprotected);
    assert_eq!(seen.rebuilt(&verdict, sidecars_of(&beside)).unwrap().encode(), file);
}

#[test]
fn missing_and_new_sidecars_are_named() {
    let Sealed { log, beside, sum } = sealed();
    let seen = walked(&log, Some(&sum));
    let all = sidecars_of(&beside);
    let some = Sidecars { time_index: None, snapshot: None, ..all };
    let fault = |kind, fault| SidecarFault { kind, fault };
    let missing = [FileKind::TimeIndex, FileKind::Snapshot].map(|kind| fault(kind, SidecarFaultKind::Missing));
    assert_eq!(verify(Some(&sum), &seen, &some).sidecars, missing);
    let lacking = sum.with_sidecars(some);
    let unexpected = [FileKind::TimeIndex, FileKind::Snapshot].map(|kind| fault(kind, SidecarFaultKind::Unexpected));
    assert_eq!(verify(Some(&lacking), &seen, &all).sidecars, unexpected);
}

fn restamped(mut log: Vec<Vec<u8>>, epoch: impl Fn(usize) -> i32) -> Vec<u8> {
    for (n, bytes) in log.iter_mut().enumerate() {
        stamp(bytes, at(BASE + 2 * i64::try_from(n).unwrap()), LeaderEpoch::new(epoch(n)));
    }
    log.concat()
}

#[test]
fn what_another_program_wrote_is_stale_and_not_damaged() {
    let before = batches_of(36);
    let sum = sum_of(&before.concat(), Sidecars::default());
    let epoch = |n: usize| if n < 18 { 1 } else { 2 };
    let recorded = sum.log_bytes();
    let size = before[0].len() as u64;
    let stale_length = |found| LogVerdict::Stale(Staleness::Length { recorded, found });

    // Cleaned: batches are gone, the others stay where they were.
    let mut cleaned = before.clone();
    cleaned.remove(7);
    assert_eq!(judged(&cleaned.concat(), &sum), stale_length(recorded - size));
    // Truncated, and appended to.
    let mut other = before.clone();
    other.truncate(20);
    assert_eq!(judged(&other.concat(), &sum), stale_length(size * 20));
    other.extend((20..36).map(|n| batch(n + 100, at(BASE + 2 * i64::try_from(n).unwrap()), 3)));
    assert_eq!(judged(&other.concat(), &sum), LogVerdict::Stale(Staleness::Batches));
    // Longer: a producer's batch came twice.
    let mut twice = before.clone();
    twice.insert(9, before[8].clone());
    assert_eq!(judged(&restamped(twice, epoch), &sum), stale_length(recorded + size));
    // The same batches in another order, at rising offsets.
    let mut swapped = before.clone();
    swapped.swap(3, 30);
    assert_eq!(judged(&restamped(swapped, epoch), &sum), LogVerdict::Stale(Staleness::Batches));
    // A stale sum is made again, and says nothing of the files beside the log.
    let seen = walked(&cleaned.concat(), Some(&sum));
    let some = Sidecars { index: Some(SidecarStamp::of(b"")), ..Sidecars::default() };
    let verdict = verify(Some(&sum), &seen, &some);
    assert!(verdict.sidecars.is_empty());
    assert_eq!(seen.rebuilt(&verdict, some), Some(sum_of(&cleaned.concat(), some)));
}

/// A Kafka broker had the directory: it truncated, and fetched the same producers' batches from a leader that had taken
/// them in a later epoch. Lengths, checksums and offsets are what they were.
#[test]
fn batches_fetched_again_in_a_later_epoch_are_stale() {
    let before = batches_of(36);
    let sum = sum_of(&before.concat(), Sidecars::default());
    for (from, epoch) in [(34, 3), (35, 5), (20, 3), (20, 6), (0, 3)] {
        let old = |n: usize| if n < 18 { 1 } else { 2 };
        let log = restamped(before.clone(), |n| if n < from { old(n) } else { epoch });
        let expected = LogVerdict::Stale(Staleness::Epochs);
        assert_eq!(judged(&log, &sum), expected, "from {from} on in epoch {epoch}");
    }
}

#[test]
fn epochs_that_nobody_writes_are_damage() {
    let before = batches_of(36);
    let sum = sum_of(&before.concat(), Sidecars::default());
    let old = |n: usize| if n < 18 { 1 } else { 2 };
    // They fall; they are back to what they were before the end; one bit of the last batch's.
    let falling = restamped(before.clone(), |n| if n == 35 { 1 } else { old(n) });
    let early = restamped(before.clone(), |n| if n == 17 { 2 } else { old(n) });
    let last = restamped(before.clone(), |n| if n == 35 { 3 } else { old(n) });
    for (log, batch) in [(falling, 35), (early, 17), (last, 35)] {
        let LogVerdict::Damaged(damage) = judged(&log, &sum) else { panic!("batch {batch}") };
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].kind, DamageKind::Headers);
        let byte = (before[0].len() * batch) as u64;
        assert!(covers(&damage, byte, at(BASE + 2 * i64::try_from(batch).unwrap())), "{damage:?}");
    }
}

#[test]
fn batches_moved_without_new_offsets_are_damage() {
    let before = batches_of(36);
    let sum = sum_of(&before.concat(), Sidecars::default());
    let mut twice = before.clone();
    twice.insert(9, before[8].clone());
    let mut swapped = before.clone();
    swapped.swap(3, 30);
    for log in [twice.concat(), swapped.concat()] {
        for verdict in [judged(&log, &sum), verify(None, &walked(&log, None), &Sidecars::default()).log] {
            let LogVerdict::Damaged(damage) = verdict else { panic!("{verdict:?}") };
            let is_order = |d: &LogDamage| matches!(d.kind, DamageKind::Batch(CorruptionKind::OffsetOrder { .. }));
            assert!(damage.iter().all(is_order), "{damage:?}");
        }
    }
}

#[test]
fn without_a_sum_the_batch_that_leapt_ahead_is_blamed() {
    let before = batches_of(36);
    let mut leapt = before.clone();
    stamp(&mut leapt[5], at(BASE + 10 + 64), LeaderEpoch::new(1));
    let LogVerdict::Damaged(damage) = verify(None, &walked(&leapt.concat(), None), &Sidecars::default()).log else {
        panic!("it was taken")
    };
    let size = before[0].len() as u64;
    assert_eq!(damage.len(), 1);
    assert_eq!((&damage[0].bytes, &damage[0].offsets), (&(size * 5..size * 6), &(at(BASE + 10)..at(BASE + 12))));
}

#[test]
fn a_cut_is_damage_inside_a_batch_and_by_the_next_segment_between_two() {
    let before = batches_of(36);
    let log = before.concat();
    let sum = sum_of(&log, Sidecars::default());
    let size = before[0].len();
    let followed = WalkBounds { next_base: Some(sum.end()), ..BOUNDS };
    for length in 0..log.len() {
        let cut = &log[..length];
        let found = length as u64;
        let whole = length / size;
        let end = at(BASE + 2 * i64::try_from(whole).unwrap());
        if length % size > 0 {
            let LogVerdict::Damaged(damage) = judged(cut, &sum) else { panic!("{length}") };
            assert!(covers(&damage, (whole * size) as u64, end), "{length}: {damage:?}");
            continue;
        }
        // Kafka truncates too. But then it does not keep the segment behind.
        assert_eq!(judged(cut, &sum), LogVerdict::Stale(Staleness::Length { recorded: sum.log_bytes(), found }));
        let verdict = verify(Some(&sum), &walk_within(cut, Some(&sum), followed), &Sidecars::default());
        let missing = LogDamage { bytes: found..found, offsets: end..sum.end(), kind: DamageKind::Missing };
        assert_eq!(verdict.log, LogVerdict::Damaged(vec![missing]));
        let compacted = WalkBounds { may_have_gaps: true, ..followed };
        let verdict = verify(Some(&sum), &walk_within(cut, Some(&sum), compacted), &Sidecars::default());
        assert!(matches!(verdict.log, LogVerdict::Stale(_)));
    }
}

#[test]
fn damage_in_several_places_is_told_apart() {
    let before = batches_of(36);
    let mut log = before.concat();
    let sum = sum_of(&log, Sidecars::default());
    let size = before[0].len();
    // The length of the third batch, which takes the rest of its interval along, and an offset in the last interval.
    log[2 * size + layout::BATCH_LENGTH_AT + 2] ^= 1;
    log[35 * size + layout::BASE_OFFSET_AT + 7] ^= 0x40;
    let LogVerdict::Damaged(damage) = judged(&log, &sum) else { panic!("it was taken") };
    let spans: Vec<Span> = sum.spans().collect();
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!(damage[0].bytes, 2 * size as u64..spans[0].bytes.end);
    assert_eq!(damage[0].offsets, at(BASE + 4)..spans[0].offsets.end);
    assert_eq!(
        damage[1],
        LogDamage { bytes: spans[2].bytes.clone(), offsets: spans[2].offsets.clone(), kind: DamageKind::Headers }
    );
    // A body and an offset in one interval: the length of the first still leads to the second.
    let mut log = before.concat();
    log[2 * size + HEADER_BYTES + 20] ^= 1;
    log[4 * size + layout::LEADER_EPOCH_AT + 3] ^= 4;
    let LogVerdict::Damaged(damage) = judged(&log, &sum) else { panic!("it was taken") };
    let kinds: Vec<bool> = damage.iter().map(|d| d.kind == DamageKind::Headers).collect();
    assert_eq!(kinds, [true, false, true], "{damage:?}");
    let size = size as u64;
    let bytes: Vec<Range<u64>> = damage.iter().map(|d| d.bytes.clone()).collect();
    assert_eq!(bytes, [0..2 * size, 2 * size..3 * size, 3 * size..spans[0].bytes.end]);
    let offsets: Vec<Range<Offset>> = damage.iter().map(|d| d.offsets.clone()).collect();
    assert_eq!(offsets, [at(BASE)..at(BASE + 4), at(BASE + 4)..at(BASE + 6), at(BASE + 6)..spans[0].offsets.end]);
    let is_crc = matches!(damage[1].kind, DamageKind::Batch(CorruptionKind::Batch(InvalidBatch::Crc { .. })));
    assert!(is_crc, "{damage:?}");
}

#[test]
fn a_report_of_garbage_is_bounded() {
    let mut log = Vec::new();
    for n in 0..3000 {
        let mut bytes = batch(n, at(BASE + 2 * i64::try_from(n).unwrap()), 1);
        bytes[100] ^= u8::from(n % 2 == 0);
        log.extend(bytes);
    }
    let LogVerdict::Damaged(damage) = verify(None, &walked(&log, None), &Sidecars::default()).log else {
        panic!("it was taken")
    };
    assert_eq!(damage.len(), 1024);
    let size = log.len() as u64 / 3000;
    assert_eq!(damage[1023].bytes, size * 2046..size * 2999);
    assert_eq!(damage[1023].offsets, at(BASE + 4092)..at(BASE + 5998));
}

#[test]
fn no_bytes_make_it_panic_or_hang() {
    let Sealed { log, sum, .. } = sealed();
    let file = sum.encode();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..3000 {
        let mut payload = file[16..].to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..payload.len());
            payload[at] = random.u8(..);
        }
        if random.bool() {
            payload.truncate(random.usize(..=payload.len()));
        }
        // Past the checksum: what a writer with a fault would leave.
        let decoded = Sum::decode(&FILE.encode(&payload), at(BASE));
        let other = decoded.as_ref().unwrap_or(&sum);
        if decoded.is_ok() {
            assert_eq!(other.encode()[16..], payload[..], "one content, one file");
        }
        let mut bytes = log.clone();
        for _ in 0..random.usize(0..30) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        match round % 3 {
            0 => bytes.truncate(random.usize(..=bytes.len())),
            1 => bytes.extend_from_within(random.usize(..bytes.len())..),
            _ => {}
        }
        let bounds = WalkBounds { next_base: random.bool().then(|| at(random.i64(..=BASE * 2).abs())), ..BOUNDS };
        for sum in [None, Some(other)] {
            let seen = walk_within(&bytes, sum, bounds);
            let verdict = verify(sum, &seen, &Sidecars::default());
            let is_apart = |pair: &[LogDamage]| pair[0].bytes.end <= pair[1].bytes.start;
            assert!(verdict.damage().windows(2).all(is_apart), "{verdict:?}");
            assert!(verdict.damage().iter().all(|d| d.bytes.start <= d.bytes.end && d.offsets.start <= d.offsets.end));
            if let Some(rebuilt) = seen.rebuilt(&verdict, Sidecars::default()) {
                let seen = walk_within(&bytes, Some(&rebuilt), bounds);
                assert!(verify(Some(&rebuilt), &seen, &Sidecars::default()).is_intact());
            }
        }
    }
}

#[test]
fn a_builder_that_missed_something_makes_no_sum() {
    let before = batches_of(20);
    let size = before[0].len() as u64;
    let feed = |builder: &mut SumBuilder, (from, to): (usize, usize)| {
        for (n, bytes) in before.iter().enumerate().take(to).skip(from) {
            let header = BatchHeader::parse(bytes, u32::MAX).unwrap();
            builder.observe(bytes.first_chunk().unwrap(), header.crc, size * n as u64);
        }
    };
    let make = |fed: &[(usize, usize)], bytes: u64| {
        let mut builder = SumBuilder::new(at(BASE), INTERVAL);
        for numbers in fed {
            feed(&mut builder, *numbers);
        }
        builder.finish(bytes, at(BASE + 40), Sidecars::default())
    };
    assert!(make(&[(0, 20)], size * 20).is_some());
    assert_eq!(make(&[(0, 20)], size * 19), None, "the log is shorter");
    assert_eq!(make(&[(0, 19)], size * 20), None, "the log is longer");
    assert_eq!(make(&[(0, 7), (8, 20)], size * 20), None, "one was not fed");
    assert_eq!(make(&[(0, 12), (9, 20)], size * 20), None, "the log was cut and appended to");
    assert_eq!(make(&[(1, 20)], size * 20), None, "it was not fed from the front");
    // An offset that lies before the base, or too far from it.
    for (offset, base) in [(BASE, BASE + 1), (BASE, 0)] {
        let mut builder = SumBuilder::new(at(base), INTERVAL);
        let bytes = batch(0, at(if base == 0 { i64::from(u32::MAX) } else { offset }), 1);
        builder.observe(bytes.first_chunk().unwrap(), 0, 0);
        assert_eq!(builder.finish(size, at(i64::from(u32::MAX) + 2), Sidecars::default()), None);
    }
}

#[test]
fn intervals_are_neither_too_fine_nor_too_coarse() {
    let before = batches_of(20);
    for (asked, intervals) in [(0, 2), (4096, 2), (u32::MAX, 1)] {
        let mut builder = SumBuilder::new(at(BASE), asked);
        for (n, bytes) in before.iter().enumerate() {
            builder.observe(bytes.first_chunk().unwrap(), 0, (n * bytes.len()) as u64);
        }
        let sum = builder.finish(before.concat().len() as u64, at(BASE + 40), Sidecars::default()).unwrap();
        assert_eq!(sum.intervals.len(), intervals);
        assert_eq!(Sum::decode(&sum.encode(), at(BASE)), Ok(sum));
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "fixtures are read from the real disk")]
fn what_kafka_wrote_is_walked_and_summed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka");
    let mut count = 0;
    for partition in
        ["plain-0", "codecs-0", "txn-0", "epochs-0", "compact-before-0", "logdir/orders-0", "logdir/users-0"]
    {
        for entry in std::fs::read_dir(root.join(partition)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(file) = super::super::SegmentFile::parse(name).filter(|file| file.kind == FileKind::Log) else {
                continue;
            };
            let log = std::fs::read(&path).unwrap();
            let bounds = WalkBounds { base: file.base, may_have_gaps: true, ..BOUNDS };
            let seen = walk_within(&log, None, bounds);
            let verdict = verify(None, &seen, &Sidecars::default());
            assert_eq!(verdict.log, LogVerdict::Unprotected, "{name} of {partition}");
            let sum = seen.rebuilt(&verdict, Sidecars::default()).unwrap();
            let again = walk_within(&log, Some(&sum), bounds);
            assert!(verify(Some(&sum), &again, &Sidecars::default()).is_intact());
            count += 1;
        }
    }
    assert!(count > 8, "{count}");
}

#[test]
#[ignore = "a measurement: run it alone, optimised"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn cost_of_observing() {
    for size in [200, 1000, 16_000_u64] {
        // Made before: a load right behind the stores of its bytes would wait for them, and be measured.
        let headers: Vec<[u8; UNCOVERED_BYTES]> = (0..1000)
            .map(|n: i64| {
                let mut header: [u8; UNCOVERED_BYTES] = *batch(0, at(BASE + n), 1).first_chunk().unwrap();
                header[8..12].copy_from_slice(&u32::try_from(size - 12).unwrap().to_be_bytes());
                header
            })
            .collect();
        let batches = (1_u64 << 30) / size;
        let best = (0..5).map(|_| {
            let mut builder = SumBuilder::new(at(BASE), INTERVAL);
            let start = std::time::Instant::now();
            for (n, header) in (0..batches).zip(headers.iter().cycle()) {
                let crc = u32::try_from(n).unwrap();
                builder.observe(std::hint::black_box(header), crc, n * size);
            }
            let spent = start.elapsed();
            assert!(builder.is_whole());
            std::hint::black_box(builder);
            spent
        });
        let spent = best.min().unwrap();
        println!(
            "{size} bytes a batch: {:.1} ns each",
            spent.as_secs_f64() * 1e9 / f64::from(u32::try_from(batches).unwrap())
        );
    }
}
