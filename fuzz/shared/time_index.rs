//! Any bytes, taken for a time index: what decodes rises, encodes to the same bytes, and its lookups find what a linear
//! search finds.

use alluvium::index::{TimeEntry, TimeIndex};
use alluvium::{Offset, TimestampMs};

use super::input::Input;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let base = Offset::new(i64::from(input.u16()) << 24).expect("not negative");
    let bytes = input.rest();
    let Ok(index) = TimeIndex::decode(bytes) else { return };
    assert_eq!(index.encode(), bytes);
    let entries = index.entries();
    assert!(entries.is_sorted_by(|a, b| a.timestamp < b.timestamp && a.last <= b.last));
    let mut built = TimeIndex::default();
    assert!(entries.iter().all(|entry| built.maybe_push(*entry)));
    assert_eq!(built, index);
    if let Some(last) = index.last() {
        assert!(!built.maybe_push(last), "a timestamp enters once");
    }
    for entry in entries.iter().step_by(entries.len() / 100 + 1) {
        let at = entry.timestamp.value();
        for target in [at.saturating_sub(1), at, at.saturating_add(1), i64::MIN, i64::MAX] {
            let target = TimestampMs::new(target);
            let wanted = entries.iter().rfind(|entry| entry.timestamp <= target);
            assert_eq!(index.at_or_before(target).as_ref(), wanted);
        }
        check_cut(&index, base, entry);
    }
}

fn check_cut(index: &TimeIndex, base: Offset, entry: &TimeEntry) {
    let end = entry.last.absolute(base).expect("the base is small");
    let mut cut = index.clone();
    cut.truncate_to(base, end);
    assert!(index.entries().starts_with(cut.entries()));
    let kept = index.entries().iter().filter(|other| other.last < entry.last).count();
    assert_eq!(cut.entries().len(), kept);
    let before = cut.entries().len();
    cut.pop_closing_entry(Some(entry.last));
    assert_eq!(cut.entries().len(), before, "what an indexed batch brought stays");
    cut.pop_closing_entry(None);
    assert_eq!(cut.entries().len(), before.saturating_sub(1));
}
