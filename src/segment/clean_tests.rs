//! What is read for cleaning and written by it, held against the batches that went in.

use std::path::Path;

use super::*;
use crate::config::ReadMode;
use crate::fs::FileSystem;
use crate::fs::sim::SimFs;
use crate::index::AbortedTxn;
use crate::record::{BatchBuilder, BatchView};
use crate::segment::sum::{Sidecars, Sum, WalkBounds};
use crate::segment::{CacheUse, CleanReader, Hole, Met};
use crate::units::{ProducerId, TimestampMs};

const OPTIONS: SegmentOptions =
    SegmentOptions { interval_bytes: 300, read_mode: ReadMode::Positional, may_have_gaps: true };

fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn home(fs: &SimFs) -> Home {
    fs.create_dir(Path::new("/log")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    Home::new(Arc::new(fs.clone()), Arc::from(Path::new("/log")))
}

/// Batches with gaps between them, one now and then much larger than any window.
fn batches(rng: &mut fastrand::Rng, count: usize) -> Vec<Vec<u8>> {
    let mut next = 100;
    let mut made = Vec::new();
    for n in 0..count {
        let mut builder = BatchBuilder::new();
        let records = rng.i64(1..4);
        for record in 0..records {
            let len = if rng.u8(0..12) == 0 { 9000 } else { rng.usize(0..80) };
            let value: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            builder.record(
                TimestampMs::new(1000 + i64::try_from(n).unwrap()),
                Some(&record.to_be_bytes()),
                Some(&value),
            );
        }
        let mut batch = builder.build().unwrap();
        next += if rng.bool() { rng.i64(0..5) } else { 0 };
        crate::record::stamp(batch.as_mut_bytes(), at(next), LeaderEpoch::new(1));
        next += records;
        made.push(batch.into_bytes());
    }
    made
}

fn end_of(batch: &[u8]) -> Offset {
    BatchHeader::parse(batch, u32::MAX).unwrap().next_offset()
}

/// A sealed segment of these bytes, which ends before `end`.
fn segment_of(home: &Home, bytes: &[u8], end: Offset, holes: Vec<Hole>) -> (Arc<Segment>, Offset) {
    let path = home.path(at(100), FileKind::Log);
    let file = home.open(&path, OpenMode::CreateOrOpen).unwrap();
    file.set_len(0).unwrap();
    fs::write_all_at(&*file, bytes, 0).unwrap();
    (Arc::new(Segment::sealed(home, at(100), OPTIONS, holes)), end)
}

/// A position, and the batch there where its bytes are asked for.
type Read = (u64, Option<Vec<u8>>);

/// The batches that are read, those that `is_looked_at` by their bytes and the others by their headers; and the holes.
fn read(segment: &(Arc<Segment>, Offset), window: usize, rng: &mut fastrand::Rng) -> (Vec<Read>, Vec<Hole>) {
    let mut reader = CleanReader::open(&segment.0, segment.1, window, CacheUse::DropBehind).unwrap();
    let (mut found, mut holes) = (Vec::new(), Vec::new());
    loop {
        match reader.advance().unwrap() {
            Met::End => return (found, holes),
            Met::Damaged(hole) => holes.push(hole),
            Met::Batch(header) => {
                let position = reader.position() - u64::from(header.size);
                if rng.u8(0..4) == 0 {
                    found.push((position, None));
                    continue;
                }
                match reader.batch().unwrap().unwrap() {
                    Err(hole) => holes.push(hole),
                    Ok(batch) => {
                        assert_eq!(batch.header(), &header);
                        found.push((position, Some(batch.bytes().to_vec())));
                    }
                }
            }
        }
        assert!(reader.memory_bytes() <= window.max(4 << 10) + 60_000, "{}", reader.memory_bytes());
    }
}

#[test]
fn every_batch_is_read_once_whatever_the_window() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (fs, made) = (SimFs::new(seed), batches(&mut rng, 30));
        let home = home(&fs);
        let segment = segment_of(&home, &made.concat(), end_of(&made[29]), Vec::new());
        let (found, holes) = read(&segment, rng.usize(0..20_000), &mut rng);
        assert_eq!(holes, []);
        assert_eq!(found.len(), made.len(), "seed {seed}");
        let mut position = 0;
        for ((found_at, found), made) in found.iter().zip(&made) {
            assert_eq!(*found_at, position);
            assert!(found.as_ref().is_none_or(|found| found == made), "seed {seed} at {position}");
            position += made.len() as u64;
        }
    }
}

/// Row 78: no byte that failed its checksum is ever shown, and nothing but damage is left out.
#[test]
fn damage_is_told_and_stepped_over() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (fs, made) = (SimFs::new(seed), batches(&mut rng, 12));
        let home = home(&fs);
        let mut bytes = made.concat();
        let flipped = rng.usize(0..bytes.len());
        bytes[flipped] ^= 1 << rng.u8(0..8);
        let segment = segment_of(&home, &bytes, end_of(&made[11]).max(at(1000)), Vec::new());
        let (found, holes) = read(&segment, rng.usize(0..20_000), &mut rng);
        let mut position = 0;
        for batch in &made {
            let range = position..position + batch.len() as u64;
            position = range.end;
            let is_flipped = range.contains(&(flipped as u64));
            let shown = found.iter().find(|(at, _)| *at == range.start);
            let is_in_hole = holes.iter().any(|hole| hole.bytes.start < range.end && range.start < hole.bytes.end);
            match shown {
                Some((_, Some(shown))) if is_flipped => {
                    // What the checksum leaves out, and nothing beside it contradicts.
                    assert!((flipped as u64 - range.start) < 17, "seed {seed}");
                    BatchView::parse(shown, u32::MAX).unwrap().verify_crc().unwrap();
                }
                Some((_, shown)) => assert!(is_flipped || shown.as_ref().is_none_or(|shown| shown == batch)),
                // Of two that contradict one another nobody can tell which is right.
                None => assert!(is_in_hole, "seed {seed}: nothing is said of {range:?}, {flipped} was flipped"),
            }
        }
        // What is known already is passed without a word.
        let known = segment_of(&home, &bytes, segment.1, holes.clone());
        let mut every = fastrand::Rng::with_seed(seed);
        let (again, met) = read(&known, 5000, &mut every);
        assert!(met.iter().all(|hole| !holes.contains(hole)), "seed {seed}: {met:?}");
        assert!(again.len() <= made.len());
    }
}

fn live(fs: &SimFs, base: i64, kind: FileKind) -> Option<Vec<u8>> {
    fs.live_bytes(&Path::new("/log").join(SegmentFile::live(at(base), kind).at(Stage::Cleaned).name()))
}

/// What is written is what appending, recovery and scrubbing would make of the same batches.
#[test]
fn the_files_beside_a_log_are_those_that_its_batches_give() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (fs, made) = (SimFs::new(seed), batches(&mut rng, 30));
        let home = home(&fs);
        let mut writer = CleanedWriter::create(&home, at(100), OPTIONS, rng.usize(0..4000)).unwrap();
        let mut kept = Vec::new();
        let mut run = Vec::new();
        for batch in &made {
            if rng.u8(0..5) == 0 {
                continue;
            }
            kept.extend_from_slice(batch);
            run.extend_from_slice(batch);
            if rng.bool() {
                writer.append(&run).unwrap();
                run.clear();
            }
        }
        writer.append(&run).unwrap();
        let (bytes, next) = (writer.bytes(), writer.next_offset());
        let end = at(5000);
        let mut aborted = AbortedTxns::default();
        if rng.bool() {
            let (producer_id, first, last) = (ProducerId::new(5).unwrap(), at(101), at(102));
            aborted.push(AbortedTxn {
                producer_id,
                first_offset: first,
                last_offset: last,
                last_stable_offset: at(103),
            });
        }
        let at_end = FinishAt { end, covers: at(100), filler_epoch: None, aborted: aborted.clone() };
        let written = writer.finish(&at_end).unwrap();
        assert_eq!((written.bytes, written.next, bytes), (kept.len() as u64, next, kept.len() as u64));
        assert_eq!(live(&fs, 100, FileKind::Log).unwrap(), kept, "seed {seed}");
        assert_eq!(written.kinds.last(), Some(&FileKind::Log));
        let txn_index = live(&fs, 100, FileKind::TxnIndex);
        assert_eq!(txn_index, (!aborted.entries().is_empty()).then(|| aborted.encode()));
        let (segment, _) = segment_of(&home, &kept, end, Vec::new());
        let scan = segment.scan(Some(end), Offset::MAX).unwrap();
        let mut index = scan.index;
        scan.cursor.push_largest(&mut index.times);
        assert_eq!(live(&fs, 100, FileKind::Index).unwrap(), index.offsets.encode());
        assert_eq!(live(&fs, 100, FileKind::TimeIndex).unwrap(), index.times.encode());
        let sum = Sum::decode(&live(&fs, 100, FileKind::Sum).unwrap(), at(100)).unwrap();
        let file = home.open(&home.path(at(100), FileKind::Log), OpenMode::Read).unwrap();
        let bounds = WalkBounds { base: at(100), next_base: Some(end), interval_bytes: 300, may_have_gaps: true };
        let mut walk = crate::segment::sum::LogWalk::new(file, bounds, Some(Arc::new(sum.clone()))).unwrap();
        while walk.step().unwrap().is_some() {}
        let sidecars = Sidecars { snapshot: None, ..*sum.sidecars() };
        assert!(crate::segment::sum::verify(Some(&sum), &walk.finish(), &sidecars).is_intact(), "seed {seed}");
        // Synced, all but the names.
        fs.sync_dir(Path::new("/log")).unwrap();
        let lost = fs.power_loss_keeping(crate::fs::sim::Survival::Nothing);
        assert_eq!(live(&lost, 100, FileKind::Log).unwrap(), kept);
        assert_eq!(live(&lost, 100, FileKind::Index).unwrap(), index.offsets.encode());
    }
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_written_stays() {
    let fs = SimFs::new(1);
    let home = home(&fs);
    let mut rng = fastrand::Rng::with_seed(1);
    let made = batches(&mut rng, 3);
    let mut writer = CleanedWriter::create(&home, at(100), OPTIONS, 1000).unwrap();
    writer.append(&made[1]).unwrap();
    let limit = |refused| match refused {
        Err(CleanWriteError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(writer.append(&made[0])), WriteLimit::Order);
    assert_eq!(limit(writer.append(&made[2][..70])), WriteLimit::Shape);
    assert_eq!(limit(writer.append(b"no batch")), WriteLimit::Shape);
    let mut far = made[2].clone();
    far[..8].copy_from_slice(&(100_i64 + (1 << 31)).to_be_bytes());
    assert_eq!(limit(writer.append(&far)), WriteLimit::Offsets);
    assert_eq!(writer.bytes(), made[1].len() as u64);
    remove_cleaned(&home, at(100)).unwrap();
    assert!(home.list().unwrap().is_empty());
}

/// Kafka's recovery goes by the last offset of what is swapped in.
#[test]
fn an_output_reaches_past_all_that_it_takes_the_place_of() {
    let fs = SimFs::new(1);
    let home = home(&fs);
    let made = batches(&mut fastrand::Rng::with_seed(1), 1);
    let epoch = LeaderEpoch::new(4);
    let finish = |with: bool, covers: i64| {
        let mut writer = CleanedWriter::create(&home, at(100), OPTIONS, 1000).unwrap();
        if with {
            writer.append(&made[0]).unwrap();
        }
        let next = writer.next_offset();
        let at_end =
            FinishAt { end: at(900), covers: at(covers), filler_epoch: epoch, aborted: AbortedTxns::default() };
        (writer.finish(&at_end).unwrap(), next)
    };
    let (whole, next) = finish(true, 100);
    assert_eq!((whole.next, whole.bytes), (next, made[0].len() as u64), "its own base offset is covered by any batch");
    for (with, covers) in [(true, 500), (false, 100), (false, 500)] {
        let (filled, next) = finish(with, covers);
        assert_eq!(filled.next, at(900));
        let log = live(&fs, 100, FileKind::Log).unwrap();
        let last = BatchView::parse(&log[log.len() - 61..], u32::MAX).unwrap();
        last.verify_crc().unwrap();
        let header = last.header();
        assert_eq!((header.base_offset, header.next_offset(), header.leader_epoch), (next, at(900), epoch));
    }
}

/// Where offsets leave a gap wider than a batch can span, a segment that lost everything could not be put in place, and its
/// log never be cleaned.
#[test]
fn a_filler_spans_as_much_as_it_can() {
    let fs = SimFs::new(1);
    let home = home(&fs);
    for end in [101, 100 + (1 << 31), 101 + (1 << 31), i64::MAX] {
        let writer = CleanedWriter::create(&home, at(100), OPTIONS, 1000).unwrap();
        let at_end = FinishAt { end: at(end), covers: at(100), filler_epoch: None, aborted: AbortedTxns::default() };
        let written = writer.finish(&at_end).unwrap();
        assert_eq!(written.next, at(end.min(100 + (1 << 31))), "{end}");
        remove_cleaned(&home, at(100)).unwrap();
    }
}
