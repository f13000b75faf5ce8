//! Which batch is needed, where the newest word of a producer lies below the end of the pass and past it.

use super::ActiveProducers;
use crate::index::{KnownProducer, ProducerLimits, ProducerState, ProducerTable};
use crate::record::naive_tests::NaiveBatch;
use crate::record::{BatchHeader, BatchView, transaction_marker};
use crate::units::{Offset, ProducerEpoch, ProducerId, TimestampMs};

const LIMITS: ProducerLimits =
    ProducerLimits { expiration_ms: i64::MAX, producers_max: 100, verification_required: false };

pub(crate) fn known(id: i64, epoch: i16, last_data_offset: Option<i64>, changed_below: i64) -> KnownProducer {
    let state = ProducerState {
        producer_id: ProducerId::new(id).unwrap(),
        epoch: ProducerEpoch::new(epoch).unwrap(),
        last_sequence: None,
        last_offset: last_data_offset.and_then(Offset::new),
        last_timestamp: TimestampMs::new(0),
        coordinator_epoch: None,
        open_transaction: None,
    };
    KnownProducer { state, changed_below: Offset::new(changed_below).unwrap() }
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn data(offset: i64, producer: i64, epoch: i16) -> NaiveBatch {
    let mut batch = NaiveBatch::plain(offset, &[(7, Some("k"), Some("v"))]);
    (batch.producer_id, batch.producer_epoch, batch.base_sequence) = (producer, epoch, 3);
    batch
}

fn marker(offset: i64, producer: i64, epoch: i16) -> NaiveBatch {
    NaiveBatch { producer_epoch: epoch, ..NaiveBatch::marker(offset, producer, true, 7) }
}

fn header(batch: &NaiveBatch) -> BatchHeader {
    *BatchView::parse(&batch.encode(), u32::MAX).unwrap().header()
}

fn meeting(known: KnownProducer, met_from: i64, met: &[NaiveBatch]) -> ActiveProducers {
    let mut producers = ActiveProducers::new(&[known], at(met_from));
    for batch in met {
        producers.meet(&header(batch));
    }
    producers
}

fn needed(producers: &ActiveProducers, upper: i64, log: &[NaiveBatch]) -> Vec<i64> {
    let is_needed = |batch: &&NaiveBatch| producers.need(&header(batch), at(upper));
    log.iter().filter(is_needed).map(|batch| batch.base_offset).collect()
}

#[test]
fn below_the_end_of_the_pass_the_last_batch_alone_is_needed() {
    let log = [data(0, 1, 0), marker(1, 1, 0), data(5, 1, 0), marker(6, 1, 0), data(7, 2, 0)];
    let producers = meeting(known(1, 0, Some(5), 7), 4, &log[2..]);
    assert_eq!(needed(&producers, 10, &log), [5]);
}

#[test]
fn where_the_last_batch_lies_past_the_end_the_last_below_is_needed_too() {
    let log = [data(0, 1, 0), marker(1, 1, 0), data(5, 1, 0), data(6, 1, 0), marker(8, 1, 0), data(12, 1, 0)];
    let producers = meeting(known(1, 0, Some(12), 13), 4, &log[2..5]);
    assert_eq!(needed(&producers, 10, &log), [6, 12]);
    // Markers past the end change nothing of it.
    let producers = meeting(known(1, 0, Some(6), 15), 4, &log[4..5]);
    assert_eq!(needed(&producers, 10, &log), [6]);
    // An epoch that begins past it may go with its marker.
    let producers = meeting(known(1, 1, None, 13), 4, &log[2..5]);
    assert_eq!(needed(&producers, 10, &log), [6]);
}

#[test]
fn where_only_markers_were_met_what_has_their_epoch_is_needed() {
    let log = [data(0, 1, 0), data(1, 1, 1), data(2, 1, 1), marker(5, 1, 1), data(12, 1, 1)];
    let producers = meeting(known(1, 1, Some(12), 13), 4, &log[3..4]);
    assert_eq!(needed(&producers, 10, &log), [1, 2, 5, 12]);
}

#[test]
fn where_not_all_was_met_what_was_met_does_not_count() {
    let log = [data(0, 1, 0), marker(1, 1, 0), data(5, 1, 0), marker(8, 1, 0), data(12, 1, 0)];
    let mut producers = meeting(known(1, 0, Some(12), 13), 4, &log[2..3]);
    producers.forget_met();
    assert_eq!(needed(&producers, 10, &log), [0, 1, 5, 8, 12]);
}

#[test]
fn where_nothing_was_met_all_below_is_needed() {
    let log = [data(0, 1, 0), marker(1, 1, 0), data(2, 3, 0), data(12, 1, 1)];
    let producers = meeting(known(1, 1, Some(12), 13), 4, &[]);
    assert_eq!(needed(&producers, 10, &log), [0, 1, 12]);
}

/// Epoch and last data offset of each producer, as the batches say.
fn state<'a>(batches: impl Iterator<Item = &'a NaiveBatch>) -> ProducerTable {
    let mut table = ProducerTable::new();
    for batch in batches {
        let bytes = batch.encode();
        let view = BatchView::parse(&bytes, u32::MAX).unwrap();
        table.apply(view.header(), transaction_marker(&view).unwrap_or_default(), &LIMITS);
    }
    table
}

fn told(table: &ProducerTable) -> Vec<(ProducerId, ProducerEpoch, Option<Offset>)> {
    table.summaries().iter().map(|state| (state.producer_id, state.epoch, state.last_offset)).collect()
}

/// Three producers, whose epochs rise; every third batch is a marker.
fn random_log(random: &mut fastrand::Rng) -> Vec<NaiveBatch> {
    let mut epochs = [0_i16; 3];
    let batch = |offset| {
        let producer = random.usize(0..3);
        epochs[producer] += i16::from(random.u8(0..8) == 0);
        let of = if random.u8(0..3) == 0 { marker } else { data };
        of(offset, i64::try_from(producer).unwrap(), epochs[producer])
    };
    (0..30).map(batch).collect()
}

/// Whatever goes that is not needed: what is left says the same of every producer, at the end of the pass and at that of
/// the log. So it does after a second pass over what the first has left.
#[test]
fn what_is_needed_says_all_of_every_producer() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let log = random_log(&mut random);
        let mut left = log.clone();
        let mut clean = 0;
        for _ in 0..2 {
            let upper = random.i64(clean..=30);
            let seen_end = random.i64(upper..=30);
            let mut known = state(left.iter().filter(|batch| batch.base_offset < seen_end)).known();
            if random.bool() {
                // As a snapshot at the log end has them.
                for known in &mut known {
                    known.changed_below = at(seen_end);
                }
            }
            let mut producers = ActiveProducers::new(&known, at(clean));
            for batch in left.iter().filter(|batch| (clean..upper).contains(&batch.base_offset)) {
                producers.meet(&header(batch));
            }
            left.retain(|batch| {
                batch.base_offset >= upper || producers.need(&header(batch), at(upper)) || random.u8(0..4) == 0
            });
            for end in [upper, 30] {
                let below = |batch: &&NaiveBatch| batch.base_offset < end;
                let (before, after) = (state(log.iter().filter(below)), state(left.iter().filter(below)));
                // Of a producer that wrote past what was seen nothing was known, and nothing is held.
                let is_known = |id: ProducerId| known.iter().any(|known| known.state.producer_id == id);
                let of_known = |table| told(table).into_iter().filter(|told| is_known(told.0)).collect::<Vec<_>>();
                assert_eq!(of_known(&after), of_known(&before), "seed {seed}, {clean}..{upper} of {end}");
            }
            clean = upper;
        }
    }
}
