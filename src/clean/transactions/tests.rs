//! Transactions as a pass meets them, and what is restored of them.

use super::*;
use crate::record::BatchView;
use crate::record::naive_tests::NaiveBatch;

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn entry(producer: i64, first: i64, last: i64) -> AbortedTxn {
    AbortedTxn {
        producer_id: ProducerId::new(producer).unwrap(),
        first_offset: at(first),
        last_offset: at(last),
        last_stable_offset: at(last + 1),
    }
}

fn data(offset: i64, producer: i64) -> Vec<u8> {
    let mut batch = NaiveBatch::plain(offset, &[(1, Some("k"), Some("v"))]);
    (batch.is_transactional, batch.producer_id, batch.producer_epoch) = (true, producer, 0);
    batch.encode()
}

fn emptied(offset: i64, producer: i64) -> Vec<u8> {
    NaiveBatch::decode(&data(offset, producer)).emptied().encode()
}

fn commit(offset: i64, producer: i64) -> Vec<u8> {
    NaiveBatch::marker(offset, producer, true, 1).encode()
}

fn abort(offset: i64, producer: i64) -> Vec<u8> {
    NaiveBatch::marker(offset, producer, false, 1).encode()
}

fn observe(transactions: &mut CleanedTransactions, batch: &[u8]) -> Seen {
    let batch = VerifiedBatch::verify(BatchView::parse(batch, u32::MAX).unwrap()).unwrap();
    transactions.observe(&batch).unwrap()
}

fn marker(is_of_empty: bool, aborted: Option<AbortedTxn>) -> Seen {
    Seen::Marker(SeenMarker { is_of_empty, aborted })
}

fn expecting(aborted: &[AbortedTxn]) -> CleanedTransactions {
    let mut transactions = CleanedTransactions::default();
    transactions.expect_aborted(aborted.iter().copied());
    transactions
}

#[test]
fn aborted_data_is_known_by_producer_and_offsets() {
    let mut all = expecting(&[entry(1, 10, 14)]);
    assert_eq!(observe(&mut all, &data(9, 1)), Seen::Data, "before it began");
    assert_eq!(observe(&mut all, &data(10, 1)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &data(11, 2)), Seen::Data, "another producer's");
    let plain = NaiveBatch { is_transactional: false, ..NaiveBatch::decode(&data(12, 1)) };
    assert_eq!(observe(&mut all, &plain.encode()), Seen::Data);
    assert_eq!(observe(&mut all, &data(13, 1)), Seen::AbortedData);
    // Its earlier data had no marker of its own, so the marker is that of both.
    assert_eq!(observe(&mut all, &abort(14, 1)), marker(false, Some(entry(1, 10, 14))));
    assert_eq!(observe(&mut all, &data(15, 1)), Seen::Data, "after its end");
    assert_eq!(all.position(), at(16));
}

/// The next transaction of the producer would be lost.
#[test]
fn an_abort_marker_that_was_not_read_ends_its_transaction_all_the_same() {
    let mut all = expecting(&[entry(1, 10, 12)]);
    assert_eq!(observe(&mut all, &data(10, 1)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &data(13, 1)), Seen::Data);
    assert_eq!(observe(&mut all, &commit(14, 1)), marker(false, None));
    assert_eq!(all, CleanedTransactions { position: at(15), ..CleanedTransactions::default() });
}

/// KAFKA-8351: the marker of a transaction of which data is left must stay.
#[test]
fn a_marker_is_needed_until_nothing_of_its_transaction_is_met() {
    let aborted = entry(2, 1, 4);
    let mut first = expecting(&[aborted]);
    observe(&mut first, &data(0, 1));
    observe(&mut first, &data(1, 2));
    assert_eq!(observe(&mut first, &commit(3, 1)), marker(false, None));
    assert_eq!(observe(&mut first, &abort(4, 2)), marker(false, Some(aborted)));
    let mut second = expecting(&[aborted]);
    assert_eq!(observe(&mut second, &commit(3, 1)), marker(true, None));
    assert_eq!(observe(&mut second, &abort(4, 2)), marker(true, Some(aborted)));
}

#[test]
fn the_header_of_an_emptied_batch_is_something_of_its_transaction() {
    let aborted = entry(2, 1, 4);
    let mut all = expecting(&[aborted]);
    assert_eq!(observe(&mut all, &emptied(0, 1)), Seen::Data);
    assert_eq!(observe(&mut all, &emptied(1, 2)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &commit(3, 1)), marker(false, None));
    assert_eq!(observe(&mut all, &abort(4, 2)), marker(false, Some(aborted)));
}

#[test]
fn a_marker_ends_one_transaction_and_not_the_next() {
    let mut all = CleanedTransactions::default();
    observe(&mut all, &data(0, 1));
    assert_eq!(observe(&mut all, &commit(1, 1)), marker(false, None));
    assert_eq!(observe(&mut all, &commit(2, 1)), marker(true, None));
    assert_eq!(observe(&mut all, &abort(3, 1)), marker(true, None));
}

/// KAFKA-14055: a user's key of the bytes of a marker is data.
#[test]
fn a_key_of_the_bytes_of_a_marker_ends_nothing() {
    let mut all = CleanedTransactions::default();
    let twin = NaiveBatch { is_control: false, ..NaiveBatch::marker(0, 1, true, 1) };
    assert_eq!(observe(&mut all, &twin.encode()), Seen::Data);
    assert_eq!(observe(&mut all, &commit(1, 1)), marker(false, None));
}

#[test]
fn other_control_batches_end_nothing() {
    let mut all = CleanedTransactions::default();
    observe(&mut all, &data(0, 1));
    let mut other = NaiveBatch::marker(1, 1, true, 1);
    other.records[0].key = Some(vec![0, 0, 0, 2]);
    assert_eq!(observe(&mut all, &other.encode()), Seen::OtherControl { is_emptied: false });
    let emptied = NaiveBatch::marker(2, 1, true, 1).emptied();
    assert_eq!(observe(&mut all, &emptied.encode()), Seen::OtherControl { is_emptied: true });
    assert_eq!(observe(&mut all, &commit(3, 1)), marker(false, None));
}

#[test]
fn a_marker_that_is_no_marker_is_an_error_and_ends_nothing() {
    let mut all = CleanedTransactions::default();
    observe(&mut all, &data(0, 1));
    let mut broken = NaiveBatch::marker(1, 1, true, 1);
    broken.records[0].value = Some(vec![0, 0]);
    let broken = broken.encode();
    let batch = VerifiedBatch::verify(BatchView::parse(&broken, u32::MAX).unwrap()).unwrap();
    assert!(matches!(all.observe(&batch), Err(InvalidBatch::Record { .. })));
    assert_eq!(observe(&mut all, &commit(2, 1)), marker(false, None));
}

/// Row 73: what the scan that learns asks, from the middle of a transaction on.
#[test]
fn the_learning_scan_knows_aborted_data_by_headers_alone() {
    let mut all = expecting(&[entry(1, 10, 20), entry(2, 25, 28)]);
    let mut is_aborted = |bytes: &[u8]| all.is_aborted(BatchView::parse(bytes, u32::MAX).unwrap().header());
    assert!(is_aborted(&data(15, 1)));
    assert!(!is_aborted(&data(16, 2)));
    assert!(!is_aborted(&abort(20, 1)), "a marker is no data");
    assert!(!is_aborted(&data(21, 1)));
    assert!(is_aborted(&data(25, 2)));
    assert!(is_aborted(&data(26, 2)));
    assert!(!is_aborted(&data(29, 2)));
}

/// Row 59: transactions, some of them aborted, in a log, and a pass that is resumed after every batch.
#[test]
fn what_is_restored_goes_on_as_if_never_interrupted() {
    let aborted = [entry(1, 0, 4), entry(2, 3, 9), entry(1, 6, 11)];
    let log = [
        data(0, 1),
        data(1, 3),
        emptied(2, 1),
        data(3, 2),
        abort(4, 1),
        data(5, 2),
        data(6, 1),
        commit(7, 3),
        data(8, 3),
        abort(9, 2),
        commit(10, 3),
        abort(11, 1),
    ];
    let mut straight = expecting(&aborted);
    let seen: Vec<Seen> = log.iter().map(|batch| observe(&mut straight, batch)).collect();
    for stop in 0..log.len() {
        let mut before = expecting(&aborted);
        for batch in &log[..stop] {
            observe(&mut before, batch);
        }
        let mut saved = Vec::new();
        before.save(&mut saved);
        let mut after = CleanedTransactions::restore(&saved).unwrap();
        // All that have an offset in what is left, and more.
        after.expect_aborted(aborted);
        after.expect_aborted(aborted);
        assert_eq!(after, before, "at {stop}");
        let rest: Vec<Seen> = log[stop..].iter().map(|batch| observe(&mut after, batch)).collect();
        assert_eq!(rest, seen[stop..], "at {stop}");
    }
}

#[test]
fn saved_transactions_are_these_bytes() {
    let mut all = expecting(&[entry(2, 1, 7)]);
    observe(&mut all, &data(0, 1));
    observe(&mut all, &data(1, 2));
    let mut saved = Vec::new();
    all.save(&mut saved);
    let mut expected = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    for field in [2, 1, 7, 8] {
        expected.extend([0, 0, 0, 0, 0, 0, 0, field]);
    }
    expected.push(1);
    assert_eq!(saved, expected);
}

#[test]
fn saved_bytes_that_are_wrong_are_an_error() {
    let mut all = expecting(&[entry(2, 1, 7)]);
    observe(&mut all, &data(0, 1));
    observe(&mut all, &data(1, 2));
    let mut saved = Vec::new();
    all.save(&mut saved);
    for length in 0..saved.len() {
        let fault = SavedFault::Length { bytes: length as u64 };
        assert_eq!(CleanedTransactions::restore(&saved[..length]), Err(fault));
    }
    let longer = [saved.as_slice(), &[0]].concat();
    assert_eq!(CleanedTransactions::restore(&longer), Err(SavedFault::Length { bytes: 60 }));
    let with = |place: usize, value: u8| {
        let mut bytes = saved.clone();
        bytes[place] = value;
        CleanedTransactions::restore(&bytes)
    };
    assert_eq!(with(1, 2), Err(SavedFault::Version { found: 2 }));
    assert_eq!(with(2, 0x80), Err(SavedFault::Field { field: "position" }));
    assert_eq!(with(14, 0x80), Err(SavedFault::Field { field: "producer id" }));
    assert_eq!(with(10, 0xff), Err(SavedFault::Length { bytes: 59 }), "a count is not believed");
    assert_eq!(with(41, 9), Err(SavedFault::Field { field: "first offset" }));
    assert_eq!(with(58, 2), Err(SavedFault::Field { field: "sign of data met" }));
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..rng.usize(0..90)).map(|_| rng.u8(0..4)).collect();
        if rng.bool() {
            bytes.splice(0..bytes.len().min(2), [0, 1]);
        }
        if let Ok(restored) = CleanedTransactions::restore(&bytes) {
            let mut again = Vec::new();
            restored.save(&mut again);
            assert_eq!(CleanedTransactions::restore(&again), Ok(restored));
        }
    }
}

#[test]
fn entries_that_overlap_neither_panic_nor_take_what_comes_after_them() {
    let mut all = expecting(&[entry(1, 0, 9), entry(1, 2, 5)]);
    assert_eq!(observe(&mut all, &data(0, 1)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &data(3, 1)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &abort(5, 1)), marker(false, Some(entry(1, 2, 5))));
    assert_eq!(observe(&mut all, &data(6, 1)), Seen::AbortedData);
    assert_eq!(observe(&mut all, &abort(9, 1)), marker(false, Some(entry(1, 0, 9))));
    assert_eq!(observe(&mut all, &data(10, 1)), Seen::Data);
    assert!(all.memory_bytes() < 1000);
}
