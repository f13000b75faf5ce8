//! What is kept of a batch, sentence by sentence.

use super::*;
use crate::clean::producers::tests::known;
use crate::record::naive_tests::NaiveBatch;
use crate::record::{BatchView, Compression};
use crate::units::ProducerId;

mod log_tests;
mod speed_tests;

/// A pass whose end is far away, with a day of retention.
fn rules() -> FilterRules {
    FilterRules {
        now: TimestampMs::new(1_000_000),
        delete_retention_ms: 500,
        upper: at(1000),
        tombstones_removable_below: Offset::MAX,
        decompressed_bytes_max: 1 << 20,
        producers: ActiveProducers::default(),
    }
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

/// Verdicts by offset, which are asked for in rising order only.
struct Superseded {
    offsets: Vec<i64>,
    asked: i64,
}

impl Superseded {
    fn these(offsets: &[i64]) -> Self {
        Self { offsets: offsets.to_vec(), asked: -1 }
    }
}

impl SupersededBy for Superseded {
    fn is_superseded(&mut self, offset: Offset, _key: &[u8]) -> Result<bool, IoFailure> {
        assert!(offset.value() > self.asked, "rising");
        self.asked = offset.value();
        Ok(self.offsets.contains(&offset.value()))
    }
}

fn verified(bytes: &[u8]) -> VerifiedBatch<'_> {
    VerifiedBatch::verify(BatchView::parse(bytes, u32::MAX).unwrap()).unwrap()
}

/// What becomes of `batch`, and the batch that it becomes.
fn pass(filter: &mut BatchFilter, batch: &NaiveBatch, superseded: &[i64]) -> (Filtered, Option<NaiveBatch>) {
    let (bytes, mut out) = (batch.encode(), b"before".to_vec());
    let filtered = filter.filter(&verified(&bytes), &mut Superseded::these(superseded), &mut out).unwrap();
    assert!(out.starts_with(b"before"));
    let out = out.split_off(6);
    assert_eq!(out.is_empty(), filtered.outcome == Outcome::Dropped);
    assert_eq!(out == bytes, filtered.outcome == Outcome::Unchanged);
    (filtered, (!out.is_empty()).then(|| NaiveBatch::decode(&out)))
}

/// What becomes of `batch` alone.
fn alone(rules: FilterRules, batch: &NaiveBatch, superseded: &[i64]) -> (Outcome, Option<NaiveBatch>) {
    let mut filter = BatchFilter::new(rules, CleanedTransactions::default());
    let (filtered, kept) = pass(&mut filter, batch, superseded);
    assert_eq!(filtered.unread, None);
    (filtered.outcome, kept)
}

fn offsets(batch: &NaiveBatch) -> Vec<i64> {
    batch.records.iter().map(|record| record.offset).collect()
}

fn three() -> NaiveBatch {
    NaiveBatch::plain(10, &[(1, Some("a"), Some("1")), (2, Some("b"), Some("2")), (3, Some("c"), Some("3"))])
}

fn tombstone(offset: i64, horizon: Option<i64>) -> NaiveBatch {
    let mut batch = NaiveBatch::plain(offset, &[(7, Some("a"), None)]);
    if let Some(horizon) = horizon {
        (batch.has_horizon, batch.base_timestamp) = (true, horizon);
    }
    batch
}

fn of_producer(mut batch: NaiveBatch, producer: i64, epoch: i16) -> NaiveBatch {
    (batch.producer_id, batch.producer_epoch, batch.base_sequence) = (producer, epoch, 40);
    batch
}

fn with_last(producer: i64, epoch: i16, last_data_offset: Option<i64>) -> FilterRules {
    let known = known(producer, epoch, last_data_offset, 0);
    FilterRules { producers: ActiveProducers::new(&[known], Offset::ZERO), ..rules() }
}

fn entry(producer: i64, first: i64, last: i64) -> AbortedTxn {
    AbortedTxn {
        producer_id: ProducerId::new(producer).unwrap(),
        first_offset: at(first),
        last_offset: at(last),
        last_stable_offset: at(last + 1),
    }
}

#[test]
fn a_batch_that_loses_nothing_keeps_its_bytes() {
    for codec in Compression::ALL {
        let batch = NaiveBatch { codec, ..three() };
        assert_eq!(alone(rules(), &batch, &[]), (Outcome::Unchanged, Some(batch)));
    }
}

#[test]
fn a_batch_that_loses_records_is_rebuilt_with_its_codec_offsets_and_producer() {
    for codec in Compression::ALL {
        let batch = of_producer(NaiveBatch { codec, leader_epoch: 5, ..three() }, 3, 4);
        let (outcome, kept) = alone(rules(), &batch, &[10, 12]);
        assert_eq!((outcome, kept), (Outcome::Rebuilt, Some(batch.with_records(vec![batch.records[1].clone()], None))));
    }
}

#[test]
fn a_batch_that_loses_everything_is_dropped() {
    assert_eq!(alone(rules(), &three(), &[10, 11, 12]), (Outcome::Dropped, None));
}

/// KAFKA-5490, KAFKA-7385: the producer's last sequence, the end of the range.
#[test]
fn an_emptied_batch_is_kept_where_a_producer_or_the_end_of_the_range_needs_it() {
    let batch = of_producer(three(), 3, 4);
    for rules in [with_last(3, 4, Some(12)), FilterRules { upper: at(13), ..rules() }] {
        let (outcome, kept) = alone(rules.clone(), &batch, &[10, 11, 12]);
        assert_eq!((outcome, kept), (Outcome::Emptied, Some(batch.emptied())));
        // Once more it stays as it is, and when nobody needs it any more it goes.
        assert_eq!(alone(rules, &batch.emptied(), &[]).0, Outcome::Unchanged);
    }
    for rules in [with_last(3, 4, Some(11)), with_last(3, 4, None), with_last(2, 4, Some(12)), rules()] {
        assert_eq!(alone(rules.clone(), &batch, &[10, 11, 12]).0, Outcome::Dropped);
        assert_eq!(alone(rules, &batch.emptied(), &[]).0, Outcome::Dropped);
    }
}

/// Row 74: a horizon that every pass moves never comes.
#[test]
fn a_tombstone_gets_its_horizon_once_and_goes_when_that_has_passed() {
    let (outcome, first) = alone(rules(), &tombstone(5, None), &[]);
    let first = first.unwrap();
    assert_eq!((outcome, first.has_horizon, first.base_timestamp), (Outcome::Rebuilt, true, 1_000_500));
    assert_eq!((first.max_timestamp, first.records[0].timestamp), (7, 7));
    for (now, outcome) in [(1_000_499, Outcome::Unchanged), (1_000_500, Outcome::Dropped)] {
        let rules = FilterRules { now: TimestampMs::new(now), ..rules() };
        assert_eq!(alone(rules, &first, &[]).0, outcome, "{now}");
    }
}

#[test]
fn a_horizon_that_is_there_stays_when_the_batch_is_rebuilt() {
    let mut batch = NaiveBatch::plain(5, &[(7, Some("a"), None), (8, Some("b"), Some("2"))]);
    (batch.has_horizon, batch.base_timestamp) = (true, 2_000_000);
    let (outcome, kept) = alone(rules(), &batch, &[6]);
    let kept = kept.unwrap();
    assert_eq!((outcome, kept.base_timestamp, offsets(&kept)), (Outcome::Rebuilt, 2_000_000, vec![5]));
    // When it has passed, only the tombstone goes.
    let rules = FilterRules { now: TimestampMs::new(2_000_000), ..rules() };
    let (_, kept) = alone(rules, &batch, &[]);
    assert_eq!(kept.map(|kept| (kept.base_timestamp, offsets(&kept))), Some((2_000_000, vec![6])));
}

#[test]
fn a_horizon_too_far_away_to_name_saturates() {
    let rules = FilterRules { delete_retention_ms: u64::MAX, ..rules() };
    assert_eq!(alone(rules, &tombstone(5, None), &[]).1.unwrap().base_timestamp, i64::MAX);
}

#[test]
fn tombstones_and_markers_past_a_hole_stay() {
    for (hole, outcome) in [(4, Outcome::Unchanged), (5, Outcome::Unchanged), (6, Outcome::Dropped)] {
        let rules = FilterRules { tombstones_removable_below: at(hole), ..rules() };
        assert_eq!(alone(rules.clone(), &tombstone(5, Some(1)), &[]).0, outcome);
        let mut marker = NaiveBatch::marker(5, 1, true, 7);
        (marker.has_horizon, marker.base_timestamp) = (true, 1);
        assert_eq!(alone(rules.clone(), &marker, &[]).0, outcome);
        let (superseded, _) = alone(rules, &tombstone(5, Some(1)), &[5]);
        assert_eq!(superseded, Outcome::Dropped, "what supersedes it is there");
    }
}

#[test]
fn a_record_without_key_goes_and_is_counted() {
    let batch = NaiveBatch::plain(0, &[(1, None, Some("1")), (1, Some("a"), Some("1")), (1, None, None)]);
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    let (_, kept) = pass(&mut filter, &batch, &[]);
    assert_eq!(offsets(&kept.unwrap()), [1]);
    assert_eq!((filter.counts().invalid, filter.counts().records_read, filter.counts().records_kept), (2, 3, 1));
}

#[test]
fn records_at_or_past_the_end_of_the_pass_stay_whatever_they_are() {
    let records = [(1, None, Some("1")), (1, Some("a"), Some("1")), (1, None, Some("1")), (1, Some("a"), None)];
    let batch = NaiveBatch::plain(0, &records);
    for (upper, kept) in [(0, vec![0, 1, 2, 3]), (1, vec![1, 2, 3]), (2, vec![2, 3])] {
        let rules = FilterRules { upper: at(upper), ..rules() };
        let found = alone(rules, &batch, &[1]).1.unwrap();
        assert_eq!((offsets(&found), found.has_horizon), (kept, false), "{upper}");
    }
}

#[test]
fn a_tombstone_waits_for_its_horizon_until_the_pass_covers_all_tombstones_of_the_batch() {
    let batch = NaiveBatch::plain(0, &[(1, Some("a"), None), (1, Some("b"), None)]);
    let found = alone(FilterRules { upper: at(1), ..rules() }, &batch, &[]);
    assert_eq!(found, (Outcome::Unchanged, Some(batch.clone())));
    assert!(alone(FilterRules { upper: at(2), ..rules() }, &batch, &[]).1.unwrap().has_horizon);
}

#[test]
fn aborted_data_goes_whatever_its_keys_and_its_transaction_is_remembered() {
    let data = NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 0) };
    let marker = NaiveBatch::marker(13, 1, false, 7);
    let new = || {
        let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
        filter.expect_aborted([entry(1, 10, 13)]);
        filter
    };
    // The first pass drops the data, and keeps marker and entry.
    let mut filter = new();
    assert_eq!(pass(&mut filter, &data, &[]).0.outcome, Outcome::Dropped);
    let (filtered, kept) = pass(&mut filter, &marker, &[]);
    assert_eq!((filtered.outcome, filtered.carried), (Outcome::Unchanged, Some(entry(1, 10, 13))));
    assert_eq!((filter.counts().aborted, filter.counts().markers_kept), (3, 1));
    assert_eq!(kept, Some(marker.clone()));
    // The next drops the entry and sets the horizon, a later one removes the marker.
    let (filtered, kept) = pass(&mut new(), &marker, &[]);
    assert_eq!((filtered.outcome, filtered.carried), (Outcome::Rebuilt, None));
    let kept = kept.unwrap();
    assert_eq!((kept.base_timestamp, kept.is_control, kept.is_transactional), (1_000_500, true, true));
    assert_eq!(pass(&mut new(), &kept, &[]).0.outcome, Outcome::Unchanged);
    let later = FilterRules { now: TimestampMs::new(1_000_500), ..rules() };
    assert_eq!(alone(later, &kept, &[]), (Outcome::Dropped, None));
}

#[test]
fn aborted_data_is_dropped_without_being_read() {
    let mut data = NaiveBatch { is_transactional: true, codec: Compression::Zstd, ..of_producer(three(), 1, 0) };
    data.records[0].value = Some(vec![0; 1 << 20]);
    let mut filter =
        BatchFilter::new(FilterRules { decompressed_bytes_max: 10, ..rules() }, CleanedTransactions::default());
    filter.expect_aborted([entry(1, 10, 13)]);
    assert_eq!(pass(&mut filter, &data, &[]).0, Filtered { outcome: Outcome::Dropped, carried: None, unread: None });
}

#[test]
fn of_an_aborted_batch_across_the_end_of_the_pass_the_rest_stays() {
    let data = NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 0) };
    let mut filter = BatchFilter::new(FilterRules { upper: at(11), ..rules() }, CleanedTransactions::default());
    filter.expect_aborted([entry(1, 10, 13)]);
    assert_eq!(offsets(&pass(&mut filter, &data, &[]).1.unwrap()), [11, 12]);
    let (filtered, _) = pass(&mut filter, &NaiveBatch::marker(13, 1, false, 7), &[]);
    assert_eq!((filtered.outcome, filtered.carried), (Outcome::Unchanged, Some(entry(1, 10, 13))));
}

#[test]
fn the_entry_of_an_aborted_transaction_stays_while_a_repair_may_bring_its_data_back() {
    let rules = FilterRules { tombstones_removable_below: at(11), ..rules() };
    let mut filter = BatchFilter::new(rules, CleanedTransactions::default());
    filter.expect_aborted([entry(1, 10, 13)]);
    let (filtered, _) = pass(&mut filter, &NaiveBatch::marker(13, 1, false, 7), &[]);
    assert_eq!(filtered.carried, Some(entry(1, 10, 13)));
}

/// KAFKA-13727: a pass that ends, or is resumed, between a transaction's data and its marker.
#[test]
fn a_resumed_pass_knows_the_transactions_that_it_met() {
    let data = NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 0) };
    let committed = NaiveBatch { is_transactional: true, ..of_producer(tombstone(20, None), 2, 0) };
    let mut before = BatchFilter::new(rules(), CleanedTransactions::default());
    before.expect_aborted([entry(1, 10, 22)]);
    pass(&mut before, &data, &[]);
    pass(&mut before, &committed, &[]);
    before.forbid_removal_past(at(25));
    let mut after = BatchFilter::resume(rules(), &before.save()).unwrap();
    after.expect_aborted([entry(1, 10, 22)]);
    let commit = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(21, 2, true, 7) };
    assert_eq!(pass(&mut after, &commit, &[]).0.outcome, Outcome::Unchanged);
    let abort = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(22, 1, false, 7) };
    let (filtered, _) = pass(&mut after, &abort, &[]);
    assert_eq!((filtered.outcome, filtered.carried), (Outcome::Unchanged, Some(entry(1, 10, 22))));
    assert_eq!(pass(&mut after, &tombstone(26, Some(1)), &[]).0.outcome, Outcome::Unchanged, "past the hole");
    assert_eq!(BatchFilter::resume(rules(), &[0; 7]).unwrap_err(), SavedFault::Length { bytes: 7 });
    assert_eq!(BatchFilter::resume(rules(), &[0xff; 40]).unwrap_err(), SavedFault::Field { field: "lowest hole" });
}

#[test]
fn a_segment_that_is_left_counts_for_the_markers_behind_it() {
    let data = NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 0) };
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    filter.observe_left(&verified(&data.encode()));
    let marker = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(13, 1, true, 7) };
    assert_eq!(pass(&mut filter, &marker, &[]).0.outcome, Outcome::Unchanged);
}

/// Row 75 (KAFKA-14055).
#[test]
fn control_records_have_no_keys_to_a_cleaner() {
    let quorum = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(5, 1, true, 7) };
    let mut quorum = NaiveBatch { is_transactional: false, ..quorum };
    quorum.records[0].key = Some(vec![0, 0, 0, 2]);
    assert_eq!(alone(rules(), &quorum, &[5]).0, Outcome::Unchanged);
    let data = NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 0) };
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    pass(&mut filter, &data, &[10, 11]);
    assert_eq!(pass(&mut filter, &NaiveBatch::marker(13, 1, true, 7), &[13]).0.outcome, Outcome::Unchanged);
}

/// A header alone would not do: emptied control batches change nothing when producers are rebuilt.
#[test]
fn the_marker_with_the_epoch_of_a_producer_without_data_stays_whole() {
    let marker = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(5, 3, true, 7) };
    assert_eq!(alone(with_last(3, 0, None), &marker, &[]).0, Outcome::Unchanged);
    for rules in [with_last(3, 1, None), with_last(3, 0, Some(4)), with_last(4, 0, None)] {
        assert_eq!(alone(rules, &marker, &[]).0, Outcome::Dropped);
    }
    // What Kafka emptied is kept for as long as Kafka keeps it.
    assert_eq!(alone(with_last(3, 0, None), &marker.emptied(), &[]).0, Outcome::Unchanged);
    assert_eq!(alone(with_last(3, 0, Some(4)), &marker.emptied(), &[]).0, Outcome::Dropped);
    // At the end of the range the header says where the log goes on.
    let (outcome, kept) = alone(FilterRules { upper: at(6), ..rules() }, &marker, &[]);
    assert_eq!((outcome, kept), (Outcome::Emptied, Some(marker.emptied())));
}

#[test]
fn what_cannot_be_read_is_kept_told_and_a_hole_to_tombstones_above() {
    let mut large = NaiveBatch { codec: Compression::Lz4, ..three() };
    large.records[2].value = Some(vec![0; 1 << 20]);
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    assert_eq!(pass(&mut filter, &tombstone(9, Some(1)), &[]).0.outcome, Outcome::Dropped);
    let (filtered, _) = pass(&mut filter, &large, &[10, 11, 12]);
    assert_eq!(filtered.outcome, Outcome::Unchanged);
    assert_eq!(filtered.unread, Some(InvalidBatch::Bomb { limit: 1 << 20 }.into()));
    let counts = *filter.counts();
    assert_eq!((counts.batches_unread, counts.superseded, counts.records_read), (1, 0, 1), "nothing half counted");
    assert_eq!(pass(&mut filter, &tombstone(20, Some(1)), &[]).0.outcome, Outcome::Unchanged);
    // So is a marker that is no marker.
    let mut broken = NaiveBatch::marker(30, 1, true, 7);
    broken.records[0].value = None;
    let (filtered, _) = pass(&mut filter, &broken, &[]);
    assert!(filtered.outcome == Outcome::Unchanged && filtered.unread.is_some());
}

#[test]
fn a_failure_to_read_verdicts_ends_the_pass() {
    struct Failing;
    impl SupersededBy for Failing {
        fn is_superseded(&mut self, _: Offset, _: &[u8]) -> Result<bool, IoFailure> {
            let cause = std::io::Error::other("gone");
            Err(IoFailure::new(crate::error::IoOperation::Read, "runs", cause))
        }
    }
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    let (bytes, mut out) = (three().encode(), Vec::new());
    let verdicts: &mut dyn SupersededBy = &mut Failing;
    assert!(filter.filter(&verified(&bytes), verdicts, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn a_batch_goes_unread_only_if_nothing_needs_it() {
    let header = |batch: &NaiveBatch| *verified(&batch.encode()).header();
    let asked = |rules: FilterRules, batch: &NaiveBatch, superseded| {
        let mut filter = BatchFilter::new(rules, CleanedTransactions::default());
        filter.expect_aborted([entry(9, 10, 13)]);
        filter.is_removable_unread(&header(batch), superseded)
    };
    let batch = of_producer(three(), 3, 4);
    assert!(asked(rules(), &batch, 3));
    assert!(!asked(rules(), &batch, 2));
    assert!(!asked(FilterRules { upper: at(12), ..rules() }, &batch, 3));
    assert!(!asked(FilterRules { upper: at(13), ..rules() }, &batch, 3), "the end of the range");
    assert!(!asked(with_last(3, 4, Some(12)), &batch, 3));
    assert!(!asked(rules(), &NaiveBatch::marker(5, 1, true, 7), 1));
    assert!(asked(rules(), &NaiveBatch { is_transactional: true, ..of_producer(three(), 9, 4) }, 0), "aborted");
    // Its transaction was met.
    let mut filter = BatchFilter::new(rules(), CleanedTransactions::default());
    filter.remove_unread(&header(&NaiveBatch { is_transactional: true, ..of_producer(three(), 1, 4) }));
    assert_eq!((filter.counts().superseded, filter.counts().batches_dropped), (3, 1));
    let marker = NaiveBatch { has_horizon: true, base_timestamp: 1, ..NaiveBatch::marker(13, 1, true, 7) };
    assert_eq!(pass(&mut filter, &marker, &[]).0.outcome, Outcome::Unchanged);
}
