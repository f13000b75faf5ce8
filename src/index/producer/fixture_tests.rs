//! Snapshots that Apache Kafka wrote, and bytes that nobody wrote.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tests::LIMITS;
use super::{ProducerLimits, ProducerTable, SnapshotFault, read_snapshot};
use crate::index::AbortedTxn;
use crate::record::{BatchView, ControlRecord, TransactionMarker, batches, crc32c};
use crate::units::{Offset, Sequence, TimestampMs};

const FOREVER: ProducerLimits = ProducerLimits { expiration_ms: i64::MAX, ..LIMITS };
const NOW: TimestampMs = TimestampMs::new(1_700_000_100_000);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka")
}

#[expect(clippy::disallowed_methods, reason = "fixtures are read from the real disk")]
fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "fixtures are listed on the real disk")]
fn snapshots_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            snapshots_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "snapshot") {
            found.push(path);
        }
    }
}

/// Kafka's order is that of a hash map, so entries are compared as a set.
fn entries(snapshot: &[u8]) -> Vec<&[u8]> {
    let mut entries: Vec<_> = snapshot[10..].chunks(46).collect();
    entries.sort_unstable();
    entries
}

fn txn_snapshot(base: i64) -> Vec<u8> {
    read(&root().join(format!("txn-0/{base:020}.snapshot")))
}

fn manifest() -> Value {
    serde_json::from_slice(&read(&root().join("txn-0.manifest.json"))).unwrap()
}

#[test]
fn every_snapshot_of_kafka_comes_back_as_it_was() {
    let mut paths = Vec::new();
    snapshots_below(&root(), &mut paths);
    assert!(paths.len() > 30, "{}", paths.len());
    for path in paths {
        let bytes = read(&path);
        let table = ProducerTable::decode(&bytes, NOW, &FOREVER).unwrap_or_else(|f| panic!("{}: {f}", path.display()));
        let written = table.encode();
        assert_eq!(entries(&written), entries(&bytes), "{}", path.display());
        assert_eq!(written.len(), bytes.len());
        assert_eq!(read_snapshot(&bytes).unwrap(), table.summaries());
        table.check_own_state();
    }
}

/// The note of the manifest is what Kafka's own producer state said at the end.
#[test]
fn states_are_those_that_kafka_had() {
    let manifest = manifest();
    let note = manifest["note"].as_str().unwrap();
    let mut told: Vec<String> =
        note.split('{').skip(1).map(|text| text.split('}').next().unwrap().to_owned()).collect();
    let table = ProducerTable::decode(&txn_snapshot(112), NOW, &FOREVER).unwrap();
    let mut found: Vec<String> = table
        .summaries()
        .iter()
        .map(|state| {
            format!(
                "id={},epoch={},lastSeq={},coordinatorEpoch={},currentTxnStart={}",
                state.producer_id,
                state.epoch.value(),
                state.last_sequence.map_or(-1, Sequence::value),
                state.coordinator_epoch.unwrap_or(-1),
                state.open_transaction.map_or(-1, Offset::value),
            )
        })
        .collect();
    told.sort();
    found.sort();
    assert_eq!(found, told);
    assert_eq!(table.first_unstable(), Offset::new(107));
}

fn marker_of(batch: &BatchView<'_>) -> Option<TransactionMarker> {
    if !batch.header().attributes.is_control() {
        return None;
    }
    let body = batch.body(1 << 20).unwrap();
    let record = body.records().next()?.unwrap();
    match ControlRecord::parse(record.key, record.value).unwrap() {
        ControlRecord::Abort { coordinator_epoch } => Some(TransactionMarker { commit: false, coordinator_epoch }),
        ControlRecord::Commit { coordinator_epoch } => Some(TransactionMarker { commit: true, coordinator_epoch }),
        _ => None,
    }
}

/// Replaying the log gives Kafka's snapshot at each roll and at the end, and Kafka's aborted transactions.
#[test]
fn the_log_gives_what_kafka_wrote_beside_it() {
    let manifest = manifest();
    let mut table = ProducerTable::new();
    for (base, end) in [(0, 41), (41, 80), (80, 112)] {
        let log = read(&root().join(format!("txn-0/{base:020}.log")));
        let mut aborted: Vec<AbortedTxn> = Vec::new();
        for batch in batches(&log, u32::MAX) {
            let batch = batch.unwrap();
            aborted.extend(table.apply(batch.header(), marker_of(&batch), &FOREVER));
        }
        let index = &manifest["txnIndex"][format!("{base:020}.txnindex")];
        let told: Vec<_> = index
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                ["producerId", "firstOffset", "lastOffset", "lastStableOffset"].map(|f| entry[f].as_i64().unwrap())
            })
            .collect();
        let found: Vec<_> = aborted
            .iter()
            .map(|txn| {
                let [first, last, stable] =
                    [txn.first_offset, txn.last_offset, txn.last_stable_offset].map(Offset::value);
                [txn.producer_id.value(), first, last, stable]
            })
            .collect();
        assert_eq!(found, told);
        let snapshot = txn_snapshot(end);
        assert_eq!(entries(&table.encode()), entries(&snapshot), "at {end}");
        // Going on from the snapshot is as good as going on from the log.
        table = ProducerTable::decode(&snapshot, NOW, &FOREVER).unwrap();
    }
}

#[test]
fn the_expired_and_those_past_the_bound_are_left_out() {
    let bytes = txn_snapshot(112);
    let ids = |limits: &ProducerLimits| {
        let table = ProducerTable::decode(&bytes, NOW, limits).unwrap();
        table.summaries().iter().map(|state| state.producer_id.value()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&FOREVER), [1000, 1001, 2000, 3000, 4000, 5000, 6000]);
    assert_eq!(ids(&ProducerLimits { expiration_ms: 1, ..LIMITS }), [5000]);
    // By last timestamp: 2000 at 1060, 4000 at 1070, 6000 at 1090; 5000 has a transaction open.
    assert_eq!(ids(&ProducerLimits { producers_max: 3, ..FOREVER }), [4000, 5000, 6000]);
}

#[test]
fn every_single_bit_flip_is_refused() {
    for bytes in [txn_snapshot(112), txn_snapshot(41), ProducerTable::new().encode()] {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(read_snapshot(&flipped).is_err(), "byte {at} bit {bit}");
                assert!(ProducerTable::decode(&flipped, NOW, &FOREVER).is_err());
            }
        }
        for len in 0..bytes.len() {
            assert!(read_snapshot(&bytes[..len]).is_err());
        }
    }
}

fn seal(bytes: &mut [u8]) {
    let crc = crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
}

/// A valid checksum makes no valid field.
#[test]
fn fields_that_no_writer_produces_are_named() {
    let minus_two = (-2_i64).to_be_bytes();
    let cases = [
        (0, 8, "producerId", -2),
        (8, 2, "epoch", -2),
        (10, 4, "lastSequence", -2),
        (14, 8, "lastOffset", -2),
        (22, 4, "offsetDelta", -2),
        (34, 4, "coordinatorEpoch", -2),
        (38, 8, "currentTxnFirstOffset", -2),
    ];
    for (at, len, field, value) in cases {
        let mut bytes = txn_snapshot(112);
        let start = 10 + 2 * 46 + at;
        bytes[start..start + len].copy_from_slice(&minus_two[8 - len..]);
        seal(&mut bytes);
        assert_eq!(read_snapshot(&bytes), Err(SnapshotFault::Field { entry: 2, field, value }));
    }
    let mut repeated = txn_snapshot(112);
    let id: [u8; 8] = repeated[10..18].try_into().unwrap();
    repeated[56..64].copy_from_slice(&id);
    seal(&mut repeated);
    assert_eq!(read_snapshot(&repeated), Err(SnapshotFault::Repeated(super::tests::id(i64::from_be_bytes(id)))));
    let mut newer = txn_snapshot(112);
    newer[1] = 2;
    assert_eq!(read_snapshot(&newer), Err(SnapshotFault::Version(2)));
    let mut more = txn_snapshot(112);
    more[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
    seal(&mut more);
    assert_eq!(read_snapshot(&more), Err(SnapshotFault::Length { bytes: 332, count: i32::MAX }));
}

/// Any bytes are a snapshot or a fault; what is taken is written again as it was.
#[test]
fn any_bytes_are_told_apart() {
    let mut taken = 0;
    for seed in 0..20_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = match rng.u8(0..3) {
            0 => vec![0; rng.usize(0..200)],
            _ => txn_snapshot_of(&mut rng),
        };
        for _ in 0..rng.usize(0..4) {
            if let Some(at) = (!bytes.is_empty()).then(|| rng.usize(0..bytes.len())) {
                bytes[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap();
            }
        }
        if bytes.len() > 6 && rng.u8(0..8) > 0 {
            seal(&mut bytes);
        }
        // Nothing is old at the beginning of time.
        let Ok(table) = ProducerTable::decode(&bytes, TimestampMs::new(i64::MIN), &FOREVER) else { continue };
        taken += 1;
        table.check_own_state();
        let written = table.encode();
        assert_eq!(entries(&written), entries(&bytes), "seed {seed}");
        assert!(read_snapshot(&written).is_ok());
    }
    assert!(taken > 1000, "{taken}");
}

fn txn_snapshot_of(rng: &mut fastrand::Rng) -> Vec<u8> {
    thread_local! {
        static BYTES: Vec<Vec<u8>> = [41, 80, 112].map(txn_snapshot).to_vec();
    }
    BYTES.with(|bytes| rng.choice(bytes).unwrap().clone())
}
