//! Any bytes, taken for an offset index: what decodes rises, encodes to the same bytes, and its lookups find what a
//! linear search finds.

use alluvium::Offset;
use alluvium::index::{OffsetEntry, OffsetIndex};

use super::input::Input;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let log_bytes = u64::from(input.u32());
    let base = Offset::new(i64::from(input.u16()) << 24).expect("not negative");
    let bytes = input.rest();
    let Ok(index) = OffsetIndex::decode(bytes, log_bytes) else { return };
    assert_eq!(index.encode(), bytes);
    let entries = index.entries();
    assert!(entries.iter().all(|entry| u64::from(entry.position) < log_bytes));
    assert!(entries.is_sorted_by(|a, b| a.last < b.last && a.position <= b.position));
    let mut built = OffsetIndex::default();
    entries.iter().for_each(|entry| built.push(*entry));
    assert_eq!(built, index);
    for entry in few(entries) {
        let around = |value: i64| [value - 1, value, value + 1];
        let offset = entry.last.absolute(base).expect("the base is small");
        for target in around(offset.value()).into_iter().chain([0, base.value(), i64::MAX]).filter_map(Offset::new) {
            check_offset(&index, base, target);
        }
        for position in around(i64::from(entry.position)).into_iter().filter_map(|at| u64::try_from(at).ok()) {
            check_position(&index, base, position, offset);
        }
    }
}

/// At most some hundred of them, spread over all: each is looked for in all others.
fn few<T>(entries: &[T]) -> impl Iterator<Item = &T> {
    entries.iter().step_by(entries.len() / 100 + 1)
}

fn check_offset(index: &OffsetIndex, base: Offset, target: Offset) {
    let absolute = |entry: &&OffsetEntry| entry.last.absolute(base).expect("the base is small");
    let before = index.entries().iter().rfind(|entry| absolute(entry) <= target);
    assert_eq!(index.at_or_before(base, target).as_ref(), before);
    let after = index.entries().iter().find(|entry| absolute(entry) > target).filter(|_| target >= base);
    let past_all = target.relative_to(base).is_none();
    if !past_all {
        assert_eq!(index.after(base, target).as_ref(), after);
    }
}

fn check_position(index: &OffsetIndex, base: Offset, position: u64, upper: Offset) {
    let fits = |entry: &&OffsetEntry| {
        u64::from(entry.position) <= position && entry.last.absolute(base).is_some_and(|last| last < upper)
    };
    assert_eq!(index.starting_by(position, base, upper).as_ref(), index.entries().iter().rfind(fits));
    let mut cut = index.clone();
    cut.truncate_at(position);
    assert!(cut.entries().iter().all(|entry| u64::from(entry.position) < position));
    assert!(index.entries().starts_with(cut.entries()));
}
