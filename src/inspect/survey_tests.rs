//! What is told of each record is what the cleaner then does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clean::{CleanMode, CleanOptions};
use crate::clock::{Clock as _, ManualClock};
use crate::config::{CleanupPolicy, DirtyRatio};
use crate::fs::sim::SimFs;
use crate::inspect::{Asked, Followed, RecordFate, RecordVerdict};
use crate::log::{AppendAs, Environment, PartitionLog};
use crate::record::{BatchBuilder, Compression, RecordBatch, TransactionEnd};
use crate::units::{LeaderEpoch, ProducerEpoch, Sequence};

const NOW: i64 = 1_700_000_000_000;
const DIR: &str = "/p";

struct World {
    fs: SimFs,
    clock: Arc<ManualClock>,
    log: PartitionLog,
    config: LogConfig,
    rng: fastrand::Rng,
    sequences: [i32; 3],
}

fn leader() -> LeaderEpoch {
    LeaderEpoch::new(0).unwrap()
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let config = LogConfig {
            cleanup_policy: CleanupPolicy::Compact,
            segment_bytes: 600,
            delete_retention_ms: 10_000,
            min_cleanable_dirty_ratio: DirtyRatio::new(0.0).unwrap(),
            transaction_partition_verification_enable: false,
            ..LogConfig::default()
        };
        let (fs, clock) = (SimFs::new(seed), Arc::new(ManualClock::at(NOW)));
        let env = Environment { fs: Arc::new(fs.clone()), clock: Arc::<ManualClock>::clone(&clock) };
        let log = env.open(DIR, config.clone()).unwrap();
        Self { fs, clock, log, config, rng: fastrand::Rng::with_seed(seed), sequences: [0; 3] }
    }

    fn append(&mut self, records: &[(&str, Option<&str>)], producer: Option<usize>, codec: Compression) {
        let mut builder = BatchBuilder::new();
        builder.compression(codec);
        if let Some(producer) = producer {
            let sequence = &mut self.sequences[producer];
            let id = ProducerId::new(i64::try_from(producer).unwrap()).unwrap();
            builder.producer(id, ProducerEpoch::new(0).unwrap(), Sequence::new(*sequence)).transactional(true);
            *sequence += i32::try_from(records.len()).unwrap();
        }
        for (key, value) in records {
            builder.record(self.clock.wall(), Some(key.as_bytes()), value.map(str::as_bytes));
        }
        self.log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader() }).unwrap();
    }

    fn end(&mut self, producer: usize, end: TransactionEnd) {
        let who = (ProducerId::new(i64::try_from(producer).unwrap()).unwrap(), ProducerEpoch::new(0).unwrap());
        let marker = RecordBatch::end_transaction_marker(end, who, 1, self.clock.wall());
        self.log.append(marker, AppendAs::Coordinator { epoch: leader() }).unwrap();
    }

    fn act(&mut self) {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let records: Vec<(&str, Option<&str>)> = (0..self.rng.usize(1..4))
            .map(|_| (keys[self.rng.usize(..keys.len())], (self.rng.u8(..) > 50).then_some("some value")))
            .collect();
        let codec = if self.rng.bool() { Compression::None } else { Compression::Lz4 };
        let producer = self.rng.usize(..3);
        match self.rng.u8(..10) {
            0..5 => self.append(&records, None, codec),
            5..8 => self.append(&records, Some(producer), codec),
            8 => self.end(producer, TransactionEnd::Commit),
            _ => self.end(producer, TransactionEnd::Abort),
        }
    }

    fn survey(&self) -> CleanSurvey {
        let options = SurveyOptions { config: self.config.clone(), now: self.clock.wall(), limits: Limits::default() };
        PartitionFiles::open_on(Arc::new(self.fs.clone()), DIR).unwrap().survey(&options).unwrap()
    }

    fn verdicts(&self) -> Vec<RecordVerdict> {
        let survey = self.survey();
        assert_eq!(survey.marks().log_end, self.log.log_end());
        assert_eq!(survey.marks().last_stable, self.log.marks().last_stable, "by the headers alone");
        let all = (0..self.log.log_end().value()).map(|at| survey.record(offset(at)).unwrap());
        all.filter_map(|asked| if let Asked::Record(found) = asked { Some(*found) } else { None }).collect()
    }

    /// Offsets of all records.
    fn left(&self) -> BTreeSet<Offset> {
        let files = PartitionFiles::open_on(Arc::new(self.fs.clone()), DIR).unwrap();
        let mut follow = files.follow(Offset::ZERO);
        let mut left = BTreeSet::new();
        while let Some(followed) = follow.next_batch().unwrap() {
            if let Followed::Batch { bytes, .. } = followed {
                let view = BatchView::parse(&bytes, u32::MAX).unwrap();
                left.extend(view.body(1 << 20).unwrap().records().map(|record| record.unwrap().offset));
            }
        }
        left
    }
}

fn is_marker(verdict: &RecordVerdict) -> bool {
    matches!(verdict.fate, RecordFate::Marker { .. }) || verdict.key.is_none()
}

/// Random logs, each cleaned several times with time passing: what was said to go is gone, and all else is there.
#[test]
fn what_is_said_of_a_record_is_what_the_cleaner_does() {
    let seeds = std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12_u64);
    let mut removed = 0;
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..3 {
            (0..world.rng.usize(..30)).for_each(|_| world.act());
            let said = world.verdicts();
            let estimate = world.survey().estimate(1 << 20, true).unwrap();
            let goes = said.iter().filter(|verdict| verdict.fate.is_removed()).count() as u64;
            assert_eq!((estimate.records_removed, estimate.sampled), (goes, 1), "seed {seed}");
            world.log.clean(&CleanOptions::default()).unwrap();
            let left = world.left();
            for verdict in said.iter().filter(|verdict| !is_marker(verdict)) {
                let is_there = left.contains(&verdict.offset);
                assert_eq!(is_there, !verdict.fate.is_removed(), "seed {seed}: {verdict:?}");
                removed += u64::from(!is_there);
            }
            world.clock.advance(Duration::from_millis(world.rng.u64(..12_000)));
        }
    }
    assert!(removed > 20 * seeds, "{removed}");
}

fn fates(world: &World) -> Vec<String> {
    world.verdicts().iter().map(|verdict| verdict.fate.to_string()).collect()
}

/// One record of each kind, in words.
#[test]
fn every_fate_is_told_with_its_numbers() {
    let mut world = World::new(1);
    let none = Compression::None;
    world.append(&[("a", Some("old"))], None, none);
    world.append(&[("a", Some("new")), ("b", Some("x"))], None, none);
    world.append(&[("b", Some("aborted"))], Some(0), none);
    world.end(0, TransactionEnd::Abort);
    world.append(&[("t", None)], None, none);
    world.append(&[("c", Some("superseded by the active segment"))], None, none);
    world.log.roll().unwrap();
    world.append(&[("c", Some("new"))], None, none);
    let active = "the active segment begins at 7 and is never cleaned";
    let synced = "it is not synced from 7 on (durable end); a pass syncs it first";
    world.log.flush().unwrap();
    let said = fates(&world);
    assert!(!said.iter().any(|said| said.contains(synced)), "{said:?}");
    assert_eq!(
        said,
        [
            "removed by the next pass: superseded by offset 1",
            "kept: the newest record of its key",
            "kept: the newest record of its key",
            "removed by the next pass: its transaction was aborted by the marker at 4",
            "kept: an abort marker, while its transaction has records",
            "kept: a tombstone, for delete.retention.ms from the next pass on",
            &format!("kept for now: superseded by offset 7, which may still be lost: {active}"),
            &format!("kept for now: {active}"),
        ]
    );
    world.log.clean(&CleanOptions::default()).unwrap();
    assert_eq!(world.survey().record(offset(0)).unwrap(), Asked::Gone { next: Some(offset(1)) });
    let horizon = NOW + 10_000;
    assert!(fates(&world).contains(&format!("kept: a tombstone until {horizon}")), "{:?}", fates(&world));
    world.clock.advance(Duration::from_secs(10));
    let said = fates(&world);
    assert!(
        said.contains(&format!("removed by the next pass: a tombstone until {horizon}, which has passed")),
        "{said:?}"
    );
    let key = world.survey().records_of_key(b"c", 1).unwrap();
    assert_eq!((key.total, key.records.len(), key.records[0].offset), (2, 1, offset(7)));
    assert_eq!(world.survey().record(offset(8)).unwrap(), Asked::PastLogEnd(offset(8)));
}

/// Past its memory the estimate counts a share of the keys, and stays near the truth.
#[test]
fn estimates_of_more_keys_than_memory_are_near() {
    let mut world = World::new(2);
    world.config.segment_bytes = 1 << 20;
    world.log.update_config(world.config.clone()).unwrap();
    let keys: Vec<String> = (0..4000).map(|key| format!("key {key}")).collect();
    for round in 0..3 {
        for some in keys.chunks(200) {
            let records: Vec<(&str, Option<&str>)> = some.iter().map(|key| (key.as_str(), Some("value"))).collect();
            world.append(&records, None, Compression::None);
        }
        if round == 2 {
            world.log.roll().unwrap();
        }
    }
    world.append(&[("end", None)], None, Compression::None);
    let survey = world.survey();
    let exact = survey.estimate(1 << 20, true).unwrap();
    assert_eq!((exact.mode, exact.sampled, exact.dirty_keys, exact.records_removed), (CleanMode::Map, 1, 4000, 8000));
    let rough = survey.estimate(20_000, true).unwrap();
    assert_eq!((rough.mode, rough.sampled > 1), (CleanMode::Spill, true), "{rough:?}");
    assert!((2000..7000).contains(&rough.dirty_keys) && (3000..15_000).contains(&rough.records_removed), "{rough:?}");
    assert_eq!(survey.estimate(20_000, false).unwrap().mode, CleanMode::Partial);
}
