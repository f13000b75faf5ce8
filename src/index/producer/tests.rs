//! Each rule of producer state on its own. Sequences, offsets and epochs are small numbers, so that a test reads like
//! the story that it tells.

use super::transactions::DECIDED_MAX;
use super::{Authority, ProducerLimits, ProducerState, ProducerTable, Verdict, VerificationGuard};
use crate::error::{ProducerFault, ProducerRefusal};
use crate::index::AbortedTxn;
use crate::record::layout::{CONTROL_BIT, TRANSACTIONAL_BIT};
use crate::record::{Attributes, BatchHeader, TransactionMarker};
use crate::units::{Offset, OffsetDelta, ProducerEpoch, ProducerId, Sequence, TimestampMs};

pub(super) const LIMITS: ProducerLimits =
    ProducerLimits { expiration_ms: 1000, producers_max: 100, verification_required: false };
const VERIFIED: ProducerLimits = ProducerLimits { verification_required: true, ..LIMITS };

/// A batch as the table sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) header: BatchHeader,
    pub(super) marker: Option<TransactionMarker>,
}

pub(super) fn id(value: i64) -> ProducerId {
    ProducerId::new(value).unwrap()
}

pub(super) fn epoch(value: i16) -> ProducerEpoch {
    ProducerEpoch::new(value).unwrap()
}

pub(super) fn at(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

pub(super) fn sequence(value: i32) -> Sequence {
    Sequence::new(value).unwrap()
}

/// `count` records of a producer, from `first` on.
pub(super) fn data(producer: i64, of_epoch: i16, first: i32, count: i32) -> Batch {
    let header = BatchHeader {
        base_offset: Offset::ZERO,
        size: 100,
        leader_epoch: None,
        crc: 0,
        attributes: Attributes::parse(0).unwrap(),
        last_offset_delta: OffsetDelta::new(count - 1).unwrap(),
        base_timestamp: TimestampMs::new(0),
        max_timestamp: TimestampMs::new(0),
        producer_id: Some(id(producer)),
        producer_epoch: Some(epoch(of_epoch)),
        base_sequence: Sequence::new(first),
        count: count.unsigned_abs(),
    };
    Batch { header, marker: None }
}

/// The same within a transaction.
pub(super) fn txn(producer: i64, of_epoch: i16, first: i32, count: i32) -> Batch {
    data(producer, of_epoch, first, count).with_bits(TRANSACTIONAL_BIT)
}

pub(super) fn end(producer: i64, of_epoch: i16, coordinator_epoch: i32, commit: bool) -> Batch {
    let marker = TransactionMarker { commit, coordinator_epoch };
    Batch { marker: Some(marker), ..data(producer, of_epoch, -1, 1).with_bits(TRANSACTIONAL_BIT | CONTROL_BIT) }
}

impl Batch {
    pub(super) fn with_bits(mut self, bits: u16) -> Self {
        self.header.attributes = Attributes::parse(bits).unwrap();
        self
    }

    pub(super) fn at(mut self, offset: i64) -> Self {
        self.header.base_offset = at(offset);
        self
    }

    pub(super) fn stamped(mut self, timestamp: i64) -> Self {
        self.header.max_timestamp = TimestampMs::new(timestamp);
        self
    }
}

pub(super) fn apply(table: &mut ProducerTable, batch: Batch, limits: &ProducerLimits) -> Option<AbortedTxn> {
    let aborted = table.apply(&batch.header, batch.marker, limits);
    table.check_own_state();
    aborted
}

pub(super) fn judge(
    table: &ProducerTable,
    batches: &[Batch],
    authority: Authority,
    guard: Option<VerificationGuard>,
    limits: &ProducerLimits,
) -> Result<Verdict, ProducerRefusal> {
    table.judge(batches.iter().map(|batch| (&batch.header, batch.marker)), authority, guard, limits)
}

/// A table with `batches` applied, at the offsets that they have.
fn after(batches: &[Batch]) -> ProducerTable {
    let mut table = ProducerTable::new();
    for batch in batches {
        apply(&mut table, *batch, &LIMITS);
    }
    table
}

fn client(table: &ProducerTable, batches: &[Batch]) -> Result<Verdict, ProducerRefusal> {
    judge(table, batches, Authority::Client, None, &LIMITS)
}

fn coordinator(table: &ProducerTable, batches: &[Batch]) -> Result<Verdict, ProducerRefusal> {
    judge(table, batches, Authority::Coordinator, None, &LIMITS)
}

fn refused<T>(batch: usize, cause: ProducerFault) -> Result<T, ProducerRefusal> {
    Err(ProducerRefusal { batch, cause })
}

fn out_of_order(producer: i64, of_epoch: i16, given: i32, expected: i32) -> ProducerFault {
    let (given, expected) = (sequence(given), sequence(expected));
    ProducerFault::OutOfOrderSequence { producer_id: id(producer), epoch: epoch(of_epoch), given, expected }
}

fn duplicate(base_offset: i64, last_offset: i64, timestamp: i64) -> Verdict {
    let (base_offset, last_offset) = (at(base_offset), at(last_offset));
    Verdict::Duplicate { base_offset, last_offset, timestamp: TimestampMs::new(timestamp) }
}

fn only(table: &ProducerTable) -> ProducerState {
    let summaries = table.summaries();
    assert_eq!(summaries.len(), 1);
    summaries[0]
}

mod sequences {
    use super::*;

    #[test]
    fn each_batch_follows_the_one_before() {
        let table = after(&[data(1, 0, 0, 3).at(10)]);
        assert_eq!(client(&table, &[data(1, 0, 3, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 0, 4, 1)]), refused(0, out_of_order(1, 0, 4, 3)));
        assert_eq!(client(&table, &[data(1, 0, 2, 1)]), refused(0, out_of_order(1, 0, 2, 3)));
        assert_eq!(client(&table, &[data(1, 0, 0, 4)]), refused(0, out_of_order(1, 0, 0, 3)));
    }

    #[test]
    fn after_the_largest_comes_zero() {
        let table = after(&[data(1, 0, i32::MAX - 1, 2)]);
        assert_eq!(client(&table, &[data(1, 0, 0, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 0, 1, 1)]), refused(0, out_of_order(1, 0, 1, 0)));
        // A batch that wraps within is known again, and goes on after its wrapped end.
        let table = after(&[data(1, 0, i32::MAX - 1, 4).at(7).stamped(5)]);
        assert_eq!(client(&table, &[data(1, 0, i32::MAX - 1, 4)]), Ok(duplicate(7, 10, 5)));
        assert_eq!(client(&table, &[data(1, 0, 2, 1)]), Ok(Verdict::Append));
    }

    #[test]
    fn of_an_unknown_producer_any_is_taken_but_the_next_must_follow() {
        let table = ProducerTable::new();
        assert_eq!(client(&table, &[data(1, 3, 77, 2)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 3, 77, 2), data(1, 3, 79, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 3, 77, 2), data(1, 3, 80, 1)]), refused(1, out_of_order(1, 3, 80, 79)));
    }

    #[test]
    fn a_newer_epoch_starts_at_zero_and_an_older_one_is_fenced() {
        let table = after(&[data(1, 5, 0, 3)]);
        assert_eq!(client(&table, &[data(1, 6, 0, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 6, 3, 1)]), refused(0, out_of_order(1, 6, 3, 0)));
        let (given, current) = (epoch(4), epoch(5));
        let fenced = ProducerFault::FencedEpoch { producer_id: id(1), given, current };
        assert_eq!(client(&table, &[data(1, 4, 3, 1)]), refused(0, fenced));
        assert_eq!(coordinator(&table, &[data(1, 4, -1, 1)]), refused(0, fenced));
        assert_eq!(coordinator(&table, &[end(1, 4, 0, true)]), refused(0, fenced));
    }

    #[test]
    fn after_a_marker_that_raised_the_epoch_the_first_is_zero() {
        let table = after(&[txn(1, 5, 0, 3), end(1, 6, 0, false).at(3)]);
        assert_eq!(client(&table, &[data(1, 6, 0, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(1, 6, 3, 1)]), refused(0, out_of_order(1, 6, 3, 0)));
        // Nor is a batch of the epoch before known any more.
        assert_eq!(only(&table).last_sequence, None);
        assert!(client(&table, &[txn(1, 5, 0, 3)]).is_err());
        // A marker of the same epoch leaves the sequence as it is.
        let table = after(&[txn(1, 5, 0, 3), end(1, 5, 0, false).at(3)]);
        assert_eq!(client(&table, &[data(1, 5, 3, 1)]), Ok(Verdict::Append));
    }

    #[test]
    fn a_coordinator_numbers_nothing() {
        let table = after(&[txn(1, 0, -1, 2), end(1, 0, 0, true).at(2)]);
        assert_eq!(coordinator(&table, &[txn(1, 0, -1, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[txn(1, 0, 0, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[txn(1, 0, 2, 1)]), refused(0, out_of_order(1, 0, 2, 0)));
        let incomplete = ProducerFault::Incomplete { producer_id: id(1) };
        assert_eq!(client(&table, &[data(1, 0, -1, 1)]), refused(0, incomplete));
        let mut without_epoch = data(1, 0, 0, 1);
        without_epoch.header.producer_epoch = None;
        assert_eq!(coordinator(&table, &[without_epoch]), refused(0, incomplete));
    }

    #[test]
    fn batches_without_producer_pass() {
        let mut plain = data(1, 0, 0, 1);
        (plain.header.producer_id, plain.header.producer_epoch, plain.header.base_sequence) = (None, None, None);
        let mut table = after(&[data(1, 0, 0, 1)]);
        assert_eq!(client(&table, &[plain, data(1, 0, 1, 1), plain]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[plain, data(1, 0, 2, 1)]), refused(1, out_of_order(1, 0, 2, 1)));
        assert_eq!(client(&table, &[]), Ok(Verdict::Append));
        apply(&mut table, plain, &LIMITS);
        assert_eq!(table.len(), 1);
    }

    /// What the leader took is so, and a follower that refused it would differ from its leader.
    #[test]
    fn what_is_in_the_log_is_never_refused() {
        let table = after(&[data(1, 5, 0, 3), data(1, 4, 9, 2).at(3).stamped(8)]);
        let state = only(&table);
        assert_eq!((state.epoch, state.last_sequence, state.last_offset), (epoch(4), Some(sequence(10)), Some(at(4))));
        let table = after(&[end(1, 5, 7, true), end(1, 4, 3, true).at(1)]);
        assert_eq!((only(&table).epoch, only(&table).coordinator_epoch), (epoch(4), Some(3)));
    }
}

mod duplicates {
    use super::*;

    fn six() -> ProducerTable {
        after(
            &(0..6)
                .map(|n| data(1, 0, 10 * n, 10).at(100 + 20 * i64::from(n)).stamped(i64::from(n)))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_last_five_batches_are_known_again() {
        let table = six();
        for n in 1..6 {
            let base = 100 + 20 * i64::from(n);
            assert_eq!(client(&table, &[data(1, 0, 10 * n, 10)]), Ok(duplicate(base, base + 9, i64::from(n))));
        }
        assert_eq!(client(&table, &[data(1, 0, 0, 10)]), refused(0, out_of_order(1, 0, 0, 60)));
    }

    #[test]
    fn only_the_same_sequences_of_the_same_epoch_are() {
        let table = six();
        assert_eq!(client(&table, &[data(1, 0, 50, 9)]), refused(0, out_of_order(1, 0, 50, 60)));
        assert_eq!(client(&table, &[data(1, 0, 51, 9)]), refused(0, out_of_order(1, 0, 51, 60)));
        assert_eq!(client(&table, &[data(1, 1, 50, 10)]), refused(0, out_of_order(1, 1, 50, 0)));
        assert_eq!(client(&table, &[data(2, 0, 50, 10)]), Ok(Verdict::Append));
        // A coordinator repeats itself as it likes.
        assert_eq!(coordinator(&table, &[data(1, 0, 50, 10)]), Ok(Verdict::Append));
    }

    #[test]
    fn a_call_is_known_again_as_a_whole_or_refused() {
        let table = six();
        let [fourth, fifth, next] = [40, 50, 60].map(|first| data(1, 0, first, 10));
        assert_eq!(client(&table, &[fourth, fifth]), Ok(duplicate(180, 209, 5)));
        let partly = |is_duplicate, base| ProducerFault::PartlyDuplicate { is_duplicate, base_offset: at(base) };
        assert_eq!(client(&table, &[fourth, fifth, next]), refused(2, partly(false, 200)));
        assert_eq!(client(&table, &[next, fifth]), refused(1, partly(true, 200)));
        let mut plain = fourth;
        plain.header.producer_id = None;
        assert_eq!(client(&table, &[fifth, plain]), refused(1, partly(false, 200)));
        assert_eq!(client(&table, &[plain, fifth]), refused(1, partly(true, 200)));
        // In another order than in the log there is no range of offsets to answer.
        assert_eq!(client(&table, &[fifth, fourth]), refused(1, out_of_order(1, 0, 40, 60)));
        assert_eq!(client(&table, &[fifth, fifth]), refused(1, out_of_order(1, 0, 50, 60)));
        // What repeats a batch of its own call has no offsets yet.
        assert_eq!(client(&table, &[next, next]), refused(1, out_of_order(1, 0, 60, 70)));
    }
}

mod transactions {
    use super::*;

    #[test]
    fn the_earliest_open_one_holds_the_stable_offset() {
        let mut table = after(&[data(9, 0, 0, 5), txn(1, 0, 0, 2).at(5), txn(2, 0, 0, 2).at(7), txn(1, 0, 2, 2).at(9)]);
        assert_eq!(table.first_unstable(), Some(at(5)));
        assert_eq!(apply(&mut table, end(1, 0, 3, true).at(11), &LIMITS), None);
        // Decided, but a new leader may not have the marker.
        assert_eq!(table.first_unstable(), Some(at(5)));
        table.advance_high_watermark(at(11));
        assert_eq!(table.first_unstable(), Some(at(5)));
        table.advance_high_watermark(at(12));
        assert_eq!(table.first_unstable(), Some(at(7)));
        let aborted = apply(&mut table, end(2, 0, 3, false).at(12), &LIMITS);
        let (first_offset, last_offset, last_stable_offset) = (at(7), at(12), at(13));
        assert_eq!(aborted, Some(AbortedTxn { producer_id: id(2), first_offset, last_offset, last_stable_offset }));
        table.advance_log_start(at(12));
        assert_eq!(table.first_unstable(), Some(at(7)));
        table.advance_log_start(at(13));
        assert_eq!(table.first_unstable(), None);
    }

    #[test]
    fn deleting_records_leaves_open_ones_open() {
        let mut table = after(&[txn(1, 0, 0, 2).at(5)]);
        table.advance_log_start(at(100));
        table.advance_high_watermark(at(100));
        assert_eq!(table.first_unstable(), Some(at(5)));
    }

    #[test]
    fn open_ones_that_are_forgotten_leave_their_sequences() {
        let mut table = after(&[txn(1, 0, 0, 2).at(5), txn(2, 0, 0, 2).at(7), end(1, 0, 3, true).at(9)]);
        table.advance_high_watermark(at(10));
        table.forget_open_transactions();
        table.check_own_state();
        assert_eq!(table.first_unstable(), None);
        let known: Vec<_> = table.summaries().iter().map(|p| (p.last_offset, p.open_transaction)).collect();
        assert_eq!(known, [(Some(at(6)), None), (Some(at(8)), None)]);
        // A marker that comes after all ends nothing, and what is written next begins a transaction of its own.
        assert_eq!(apply(&mut table, end(2, 0, 3, false).at(20), &LIMITS), None);
        apply(&mut table, txn(2, 0, 2, 1).at(21), &LIMITS);
        assert_eq!(table.first_unstable(), Some(at(21)));
    }

    #[test]
    fn an_abort_is_stable_up_to_the_earliest_of_another_producer() {
        let mut table = after(&[txn(1, 0, 0, 2).at(5), txn(2, 0, 0, 2).at(7), txn(3, 0, 0, 1).at(9)]);
        let stable = |aborted: Option<AbortedTxn>| aborted.unwrap().last_stable_offset;
        assert_eq!(stable(apply(&mut table, end(2, 0, 3, false).at(10), &LIMITS)), at(5));
        assert_eq!(stable(apply(&mut table, end(1, 0, 3, false).at(11), &LIMITS)), at(9));
        assert_eq!(stable(apply(&mut table, end(3, 0, 3, false).at(12), &LIMITS)), at(13));
    }

    #[test]
    fn one_that_is_decided_within_another_is_hidden_by_it() {
        let mut table = after(&[txn(1, 0, 0, 1).at(0), txn(2, 0, 0, 1).at(1), end(2, 0, 0, true).at(2)]);
        apply(&mut table, end(1, 0, 0, true).at(3), &LIMITS);
        table.advance_high_watermark(at(3));
        assert_eq!(table.first_unstable(), Some(at(0)));
        table.advance_high_watermark(at(4));
        assert_eq!(table.first_unstable(), None);
    }

    #[test]
    fn a_marker_without_transaction_still_tells_its_epochs() {
        let mut table = ProducerTable::new();
        assert_eq!(apply(&mut table, end(1, 4, 8, false).at(6).stamped(3), &LIMITS), None);
        let state = only(&table);
        assert_eq!((state.epoch, state.coordinator_epoch, state.last_offset), (epoch(4), Some(8), None));
        assert_eq!((state.last_timestamp.value(), table.first_unstable()), (3, None));
    }

    #[test]
    fn a_lower_coordinator_epoch_is_fenced() {
        let table = after(&[txn(1, 0, 0, 1), end(1, 0, 8, true).at(1)]);
        assert_eq!(coordinator(&table, &[end(1, 0, 8, true)]), Ok(Verdict::Append));
        assert_eq!(coordinator(&table, &[end(1, 1, 9, true)]), Ok(Verdict::Append));
        let fenced = |given, current| ProducerFault::FencedCoordinator { producer_id: id(1), given, current };
        assert_eq!(coordinator(&table, &[end(1, 0, 7, true)]), refused(0, fenced(7, 8)));
        assert_eq!(coordinator(&table, &[end(1, 0, 9, true), end(1, 0, 8, true)]), refused(1, fenced(8, 9)));
    }

    #[test]
    fn outside_of_an_open_transaction_nothing_is_taken() {
        let open = refused(0, ProducerFault::TransactionOpen { producer_id: id(1) });
        let table = after(&[txn(1, 0, 0, 1)]);
        assert_eq!(client(&table, &[data(1, 0, 1, 1)]), open);
        assert_eq!(coordinator(&table, &[data(1, 0, -1, 1)]), open);
        assert_eq!(client(&table, &[txn(1, 0, 1, 1)]), Ok(Verdict::Append));
        assert_eq!(client(&table, &[data(2, 0, 1, 1)]), Ok(Verdict::Append));
        // Within a call the transaction may end first.
        assert_eq!(coordinator(&table, &[end(1, 0, 0, true), data(1, 0, -1, 1)]), Ok(Verdict::Append));
    }

    #[test]
    fn control_batches_that_are_no_markers_change_nothing() {
        let mut table = after(&[txn(1, 1, 0, 1)]);
        let before = table.encode();
        let mut emptied = end(1, 9, 0, true).at(5);
        (emptied.marker, emptied.header.count) = (None, 0);
        assert_eq!(apply(&mut table, emptied, &LIMITS), None);
        assert_eq!(table.encode(), before);
        assert_eq!(coordinator(&table, &[emptied]), Ok(Verdict::Append));
    }

    #[test]
    fn far_offsets_do_not_overflow() {
        let mut table = ProducerTable::new();
        let mut batch = txn(1, 0, 0, 1).at(i64::MAX);
        batch.header.last_offset_delta = OffsetDelta::new(i32::MAX).unwrap();
        apply(&mut table, batch, &LIMITS);
        let aborted = apply(&mut table, end(1, 0, 0, false).at(i64::MAX), &LIMITS).unwrap();
        assert_eq!(aborted.last_stable_offset, Offset::MAX);
        // Back in the log: hostile, and told as it is.
        apply(&mut table, txn(1, 0, 0, 1).at(3), &LIMITS);
        apply(&mut table, end(1, 0, 0, false).at(1), &LIMITS);
        assert_eq!(table.first_unstable(), Some(at(3)));
        table.advance_high_watermark(Offset::MAX);
    }

    /// A log replayed without a high watermark: what is remembered is bounded, and never too little.
    #[test]
    fn decided_ones_are_bounded() {
        let mut table = ProducerTable::new();
        let many = i64::try_from(DECIDED_MAX).unwrap() + 1000;
        for n in 0..many {
            table.apply(&txn(1, 0, 0, 1).at(2 * n).header, None, &LIMITS);
            let marker = end(1, 0, 0, true).at(2 * n + 1);
            table.apply(&marker.header, marker.marker, &LIMITS);
        }
        table.advance_high_watermark(at(1000));
        assert_eq!(table.first_unstable(), Some(at(1000)));
        table.advance_high_watermark(at(2 * many - 1));
        assert!(table.first_unstable().unwrap() <= at(2 * many - 2));
        table.advance_high_watermark(at(2 * many));
        assert_eq!(table.first_unstable(), None);
    }
}

mod verification {
    use super::*;

    fn guarded(
        table: &ProducerTable,
        batch: Batch,
        guard: Option<VerificationGuard>,
    ) -> Result<Verdict, ProducerRefusal> {
        judge(table, &[batch], Authority::Client, guard, &VERIFIED)
    }

    fn unverified(producer: i64, of_epoch: i16) -> Result<Verdict, ProducerRefusal> {
        refused(0, ProducerFault::Unverified { producer_id: id(producer), epoch: epoch(of_epoch) })
    }

    #[test]
    fn the_first_batch_of_a_transaction_needs_its_guard() {
        let mut table = ProducerTable::new();
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), None), unverified(1, 0));
        let guard = table.begin_verification(id(1), epoch(0), Some(sequence(0)), &VERIFIED);
        assert!(guard.is_some());
        assert_eq!(table.begin_verification(id(1), epoch(0), Some(sequence(0)), &VERIFIED), guard);
        let other = table.begin_verification(id(2), epoch(0), None, &VERIFIED);
        assert_ne!(other, guard);
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), other), unverified(1, 0));
        assert_eq!(guarded(&table, txn(1, 1, 0, 1), guard), unverified(1, 1));
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), guard), Ok(Verdict::Append));
        assert_eq!(judge(&table, &[txn(1, 0, -1, 1)], Authority::Coordinator, guard, &VERIFIED), Ok(Verdict::Append));
        assert!(judge(&table, &[txn(1, 0, -1, 1)], Authority::Coordinator, None, &VERIFIED).is_err());
        // Neither batches outside of transactions nor markers need one.
        assert_eq!(guarded(&table, data(1, 0, 0, 1), None), Ok(Verdict::Append));
        assert_eq!(judge(&table, &[end(1, 0, 0, true)], Authority::Coordinator, None, &VERIFIED), Ok(Verdict::Append));
        // Once open it needs none, and none is given.
        apply(&mut table, txn(1, 0, 0, 1), &VERIFIED);
        assert_eq!(guarded(&table, txn(1, 0, 1, 1), None), Ok(Verdict::Append));
        assert_eq!(table.begin_verification(id(1), epoch(0), None, &VERIFIED), None);
        assert!(table.begin_verification(id(1), epoch(1), None, &VERIFIED).is_some());
    }

    /// KIP-890: the answer of the coordinator is under way while the transaction is aborted; the late write would open a
    /// transaction that nobody ends.
    #[test]
    fn an_end_in_between_makes_the_guard_void() {
        let mut table = ProducerTable::new();
        let guard = table.begin_verification(id(1), epoch(0), Some(sequence(0)), &VERIFIED);
        apply(&mut table, end(1, 0, 0, false), &VERIFIED);
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), guard), unverified(1, 0));
        let again = table.begin_verification(id(1), epoch(0), Some(sequence(0)), &VERIFIED);
        assert_ne!(again, guard);
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), guard), unverified(1, 0));
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), again), Ok(Verdict::Append));
        // Within a call too: the first batch uses the guard up, the marker ends, the third has none.
        let call = [txn(1, 0, -1, 1), end(1, 0, 0, false), txn(1, 0, -1, 1)];
        let late = judge(&table, &call, Authority::Coordinator, again, &VERIFIED);
        assert_eq!(late, refused(2, ProducerFault::Unverified { producer_id: id(1), epoch: epoch(0) }));
    }

    /// A table built anew must not issue the numbers of the one before.
    #[test]
    fn a_guard_of_another_table_is_worth_nothing() {
        let (mut one, mut two) = (ProducerTable::new(), ProducerTable::new());
        let guard = one.begin_verification(id(1), epoch(0), None, &VERIFIED);
        two.begin_verification(id(1), epoch(0), None, &VERIFIED);
        assert_eq!(guarded(&two, txn(1, 0, 0, 1), guard), unverified(1, 0));
    }

    #[test]
    fn a_newer_epoch_takes_the_place_of_an_older_one() {
        let mut table = ProducerTable::new();
        let old = table.begin_verification(id(1), epoch(0), Some(sequence(5)), &VERIFIED);
        let new = table.begin_verification(id(1), epoch(1), Some(sequence(0)), &VERIFIED);
        assert_ne!(old, new);
        assert_eq!(guarded(&table, txn(1, 1, 0, 1), new), Ok(Verdict::Append));
        assert_eq!(guarded(&table, txn(1, 0, 5, 1), old), unverified(1, 0));
        table.begin_verification(id(1), epoch(0), None, &VERIFIED);
        assert_eq!(guarded(&table, txn(1, 1, 0, 1), new), Ok(Verdict::Append));
        // Fenced says more than unverified.
        let table = after(&[data(1, 3, 0, 1)]);
        let fenced = ProducerFault::FencedEpoch { producer_id: id(1), given: epoch(2), current: epoch(3) };
        assert_eq!(guarded(&table, txn(1, 2, 0, 1), None), refused(0, fenced));
    }

    /// A lower sequence whose verification failed could never be written after a higher one.
    #[test]
    fn the_lowest_sequence_goes_first() {
        let mut table = ProducerTable::new();
        let guard = table.begin_verification(id(1), epoch(0), Some(sequence(4)), &VERIFIED);
        table.begin_verification(id(1), epoch(0), Some(sequence(2)), &VERIFIED);
        table.begin_verification(id(1), epoch(0), Some(sequence(6)), &VERIFIED);
        table.begin_verification(id(1), epoch(0), None, &VERIFIED);
        let past = ProducerFault::PastVerifiedSequence { producer_id: id(1), given: sequence(4), lowest: sequence(2) };
        assert_eq!(guarded(&table, txn(1, 0, 4, 1), guard), refused(0, past));
        assert_eq!(guarded(&table, txn(1, 0, 2, 1), guard), Ok(Verdict::Append));
        apply(&mut table, txn(1, 0, 2, 1), &VERIFIED);
        assert_eq!(guarded(&table, txn(1, 0, 3, 1), None), Ok(Verdict::Append));
    }

    #[test]
    fn verifications_expire_and_are_bounded() {
        let mut table = ProducerTable::new();
        let limits = ProducerLimits { producers_max: 3, ..VERIFIED };
        let guards: Vec<_> = (0..5).map(|n| table.begin_verification(id(n), epoch(0), None, &limits)).collect();
        assert_eq!(table.verifications.len(), 3);
        assert_eq!(guarded(&table, txn(1, 0, 0, 1), guards[1]), unverified(1, 0));
        assert_eq!(guarded(&table, txn(2, 0, 0, 1), guards[2]), Ok(Verdict::Append));
        for (now, left) in [(5000, 3), (5000, 3), (5999, 3), (6000, 0)] {
            table.expire(TimestampMs::new(now), &limits);
            assert_eq!(table.verifications.len(), left, "{now}");
        }
    }
}

mod bounds {
    use super::*;

    const THREE: ProducerLimits = ProducerLimits { producers_max: 3, ..LIMITS };

    fn ids(table: &ProducerTable) -> Vec<i64> {
        table.summaries().iter().map(|state| state.producer_id.value()).collect()
    }

    #[test]
    fn producers_expire_but_for_those_in_a_transaction() {
        let mut table =
            after(&[data(1, 0, 0, 1).stamped(10), txn(2, 0, 0, 1).stamped(10), data(3, 0, 0, 1).stamped(11)]);
        assert_eq!(table.expire(TimestampMs::new(1009), &LIMITS), 0);
        assert_eq!(table.expire(TimestampMs::new(1010), &LIMITS), 1);
        assert_eq!(ids(&table), [2, 3]);
        assert_eq!(table.expire(TimestampMs::new(i64::MAX), &LIMITS), 1);
        assert_eq!(table.expire(TimestampMs::new(i64::MIN), &LIMITS), 0);
        apply(&mut table, end(2, 0, 0, true).at(9).stamped(i64::MIN), &LIMITS);
        assert_eq!(table.expire(TimestampMs::new(i64::MAX), &LIMITS), 1);
        table.check_own_state();
        // Forgotten means unknown: any sequence is taken.
        assert_eq!(client(&table, &[data(1, 0, 7, 1)]), Ok(Verdict::Append));
    }

    #[test]
    fn the_least_recently_written_goes_first() {
        let mut table = ProducerTable::new();
        for (producer, left) in [(1, &[1][..]), (2, &[1, 2]), (3, &[1, 2, 3]), (1, &[1, 2, 3]), (4, &[1, 3, 4])] {
            apply(&mut table, data(producer, 0, 0, 1), &THREE);
            assert_eq!(ids(&table), left);
        }
        // In a transaction it stays, and after that it is as recent as its marker.
        apply(&mut table, txn(3, 0, 1, 1), &THREE);
        for (producer, left) in [(5, [3, 4, 5]), (6, [3, 5, 6])] {
            apply(&mut table, data(producer, 0, 0, 1), &THREE);
            assert_eq!(ids(&table), left);
        }
        apply(&mut table, end(3, 0, 0, true), &THREE);
        for (producer, left) in [(7, [3, 6, 7]), (8, [3, 7, 8]), (9, [7, 8, 9])] {
            apply(&mut table, data(producer, 0, 0, 1), &THREE);
            assert_eq!(ids(&table), left);
        }
    }

    #[test]
    fn a_new_producer_is_refused_when_none_can_be_forgotten() {
        let mut table = ProducerTable::new();
        for producer in 1..=3 {
            assert_eq!(judge(&table, &[txn(producer, 0, 0, 1)], Authority::Client, None, &THREE), Ok(Verdict::Append));
            apply(&mut table, txn(producer, 0, 0, 1).at(producer), &THREE);
        }
        let full = |producer| ProducerFault::TooManyProducers { producer_id: id(producer), open: 3, producers_max: 3 };
        assert_eq!(judge(&table, &[data(4, 0, 0, 1)], Authority::Client, None, &THREE), refused(0, full(4)));
        assert_eq!(judge(&table, &[txn(1, 0, 1, 1)], Authority::Client, None, &THREE), Ok(Verdict::Append));
        let ends_first = [end(1, 0, 0, true), data(4, 0, -1, 1)];
        assert_eq!(judge(&table, &ends_first, Authority::Coordinator, None, &THREE), Ok(Verdict::Append));
        // The log is the truth: what is in it is taken in, and room made as soon as there is any.
        apply(&mut table, data(4, 0, 0, 1).at(9), &THREE);
        assert_eq!(ids(&table), [1, 2, 3, 4]);
        apply(&mut table, data(5, 0, 0, 1).at(9), &THREE);
        assert_eq!(ids(&table), [1, 2, 3, 5]);
        apply(&mut table, end(1, 0, 0, true).at(10), &THREE);
        assert_eq!(ids(&table), [1, 2, 3]);
    }

    /// Counted within the call too: the first two open transactions, and leave no place for the third.
    #[test]
    fn a_call_cannot_pass_the_bound_either() {
        let table = ProducerTable::new();
        let two = ProducerLimits { producers_max: 2, ..LIMITS };
        let call = [txn(1, 0, 0, 1), txn(2, 0, 0, 1), txn(3, 0, 0, 1)];
        let full = ProducerFault::TooManyProducers { producer_id: id(3), open: 2, producers_max: 2 };
        assert_eq!(judge(&table, &call, Authority::Client, None, &two), refused(2, full));
    }

    #[test]
    fn a_hundred_thousand_producers_stay_within_the_bound() {
        let limits = ProducerLimits { producers_max: 20_000, ..LIMITS };
        let mut table = ProducerTable::new();
        let mut rng = fastrand::Rng::with_seed(7);
        for offset in 0..1_000_000 {
            let mut batch = data(rng.i64(0..100_000), 0, 0, 1).at(offset);
            if offset % 50 == 0 {
                batch = batch.with_bits(TRANSACTIONAL_BIT);
            } else if offset % 50 == 1 {
                batch = end(rng.i64(0..100_000), 0, 0, true).at(offset);
            }
            table.apply(&batch.header, batch.marker, &limits);
            assert!(table.len() <= 20_000.max(table.transactions.open_count()));
        }
        table.check_own_state();
        assert_eq!(table.len(), 20_000);
        assert_eq!(table.encode().len(), 10 + 46 * 20_000);
    }
}

#[test]
fn refusals_say_what_to_do_next() {
    let refusals = [
        (ProducerFault::FencedEpoch { producer_id: id(1), given: epoch(1), current: epoch(2) }, "stop this one"),
        (out_of_order(1, 0, 5, 3), "where 3 is due"),
        (
            ProducerFault::PastVerifiedSequence { producer_id: id(1), given: sequence(2), lowest: sequence(1) },
            "send that one first",
        ),
        (ProducerFault::Unverified { producer_id: id(1), epoch: epoch(0) }, "append with its guard"),
        (ProducerFault::TransactionOpen { producer_id: id(1) }, "end the transaction first"),
        (ProducerFault::FencedCoordinator { producer_id: id(1), given: 1, current: 2 }, "stop this one"),
        (ProducerFault::PartlyDuplicate { is_duplicate: true, base_offset: at(3) }, "is in the log already"),
        (ProducerFault::PartlyDuplicate { is_duplicate: false, base_offset: at(3) }, "is not in the log yet"),
        (ProducerFault::Incomplete { producer_id: id(1) }, "set both"),
        (ProducerFault::TooManyProducers { producer_id: id(1), open: 3, producers_max: 3 }, "raise the bound"),
    ];
    for (cause, words) in refusals {
        let text = ProducerRefusal { batch: 4, cause }.to_string();
        assert!(text.starts_with("batch 4 of the append: ") && text.contains(words), "{text}");
        assert!(cause.protocol_error().chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    }
}
