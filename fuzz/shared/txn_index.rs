//! A base offset and any bytes, taken for an index of aborted transactions: what decodes keeps its order, encodes to the
//! same bytes, and a fetch is told what Kafka's search from the first entry on tells it.

use alluvium::Offset;
use alluvium::index::{AbortedTxn, AbortedTxns};

use super::input::Input;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let base = Offset::new(i64::from(input.u16())).expect("not negative");
    let bytes = input.rest();
    let Ok(index) = AbortedTxns::decode(bytes, base) else { return };
    assert_eq!(index.encode(), bytes);
    let entries = index.entries();
    assert!(entries.iter().all(|txn| txn.first_offset <= txn.last_offset && txn.last_offset >= base));
    assert!(entries.iter().all(|txn| Some(txn.last_stable_offset) <= txn.last_offset.next()));
    assert!(entries.is_sorted_by(|a, b| a.last_offset < b.last_offset && a.last_stable_offset <= b.last_stable_offset));
    let mut built = AbortedTxns::default();
    for txn in entries {
        built.push(*txn);
    }
    assert_eq!(built, index);
    for txn in entries.iter().step_by(entries.len() / 30 + 1) {
        let ends = [txn.first_offset, txn.last_offset, txn.last_stable_offset];
        let places: Vec<Offset> = ends.into_iter().flat_map(around).chain([Offset::ZERO, Offset::MAX]).collect();
        for from in &places {
            for upper in &places {
                check_fetch(&index, *from, *upper);
            }
            check_cut(&index, *from);
        }
    }
}

fn around(offset: Offset) -> impl Iterator<Item = Offset> {
    (-1..=1).filter_map(move |step| offset.value().checked_add(step).and_then(Offset::new))
}

fn check_fetch(index: &AbortedTxns, from: Offset, upper: Offset) {
    let mut found = Vec::new();
    let complete = index.collect(from, upper, &mut found);
    if upper <= from {
        assert!(complete && found.is_empty(), "a fetch of nothing needs nothing");
        return;
    }
    assert_eq!((found, complete), as_kafka_does(index.entries(), from, upper));
}

fn as_kafka_does(entries: &[AbortedTxn], from: Offset, upper: Offset) -> (Vec<AbortedTxn>, bool) {
    let mut found = Vec::new();
    for txn in entries {
        if txn.last_offset >= from && txn.first_offset < upper {
            found.push(*txn);
        }
        if txn.last_stable_offset >= upper {
            return (found, true);
        }
    }
    (found, false)
}

fn check_cut(index: &AbortedTxns, offset: Offset) {
    let mut cut = index.clone();
    cut.truncate_to(offset);
    let kept = index.entries().iter().filter(|txn| txn.last_offset < offset).count();
    assert_eq!(cut.entries(), &index.entries()[..kept]);
}
