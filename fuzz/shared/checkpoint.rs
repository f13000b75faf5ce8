//! Any bytes, taken for Kafka's text checkpoints: what decodes encodes to a file that decodes to the same, and leader
//! epochs keep their order whatever is done with them.

use alluvium::index::{LeaderEpochs, decode_offsets, encode_offsets};
use alluvium::{LeaderEpoch, Offset};

pub(crate) fn run(data: &[u8]) {
    if let Ok(offsets) = decode_offsets(data) {
        assert!(offsets.is_sorted_by(|a, b| (&a.0, a.1) < (&b.0, b.1)));
        assert_eq!(decode_offsets(&encode_offsets(&offsets)), Ok(offsets));
    }
    if let Ok(epochs) = LeaderEpochs::decode(data) {
        check_order(&epochs);
        assert_eq!(LeaderEpochs::decode(&epochs.encode()).as_ref(), Ok(&epochs));
        check_epochs(&epochs);
    }
}

fn check_order(epochs: &LeaderEpochs) {
    assert!(epochs.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start < b.start));
}

fn check_epochs(epochs: &LeaderEpochs) {
    let entries = epochs.entries();
    let mut built = LeaderEpochs::default();
    assert!(entries.iter().all(|entry| built.assign(entry.epoch, entry.start)));
    assert_eq!(&built, epochs);
    for entry in entries.iter().step_by(entries.len() / 30 + 1) {
        for step in -1..=1 {
            let epoch = entry.epoch.value().checked_add(step).and_then(LeaderEpoch::new);
            let start = entry.start.value().checked_add(i64::from(step)).and_then(Offset::new);
            if let Some(epoch) = epoch {
                check_end(epochs, epoch);
            }
            if let Some(start) = start {
                check_place(epochs, start);
            }
            if let (Some(epoch), Some(start)) = (epoch, start) {
                let mut assigned = epochs.clone();
                assigned.assign(epoch, start);
                check_order(&assigned);
                assert_eq!(assigned.latest(), Some(epoch));
                assert!(!assigned.assign(epoch, start), "an epoch starts once");
            }
        }
    }
}

fn check_end(epochs: &LeaderEpochs, epoch: LeaderEpoch) {
    let found = epochs.end_offset_for(epoch, Offset::MAX).map(|answer| (answer.epoch, answer.end));
    let next = epochs.entries().iter().find(|entry| entry.epoch > epoch);
    let floor = epochs.entries().iter().rfind(|entry| entry.epoch <= epoch).map(|entry| entry.epoch);
    let expected = match next {
        Some(next) => Some((floor.unwrap_or(epoch), next.start)),
        None if floor == Some(epoch) => Some((epoch, Offset::MAX)),
        None => None,
    };
    assert_eq!(found, expected);
}

fn check_place(epochs: &LeaderEpochs, offset: Offset) {
    let covering = epochs.entries().iter().rfind(|entry| entry.start <= offset);
    assert_eq!(epochs.epoch_of(offset), covering.map(|entry| entry.epoch));
    let mut cut = epochs.clone();
    assert_eq!(cut.truncate_from_end(offset), cut != *epochs);
    assert!(cut.entries().iter().all(|entry| entry.start < offset));
    assert!(epochs.entries().starts_with(cut.entries()));
    let mut moved = epochs.clone();
    assert_eq!(moved.truncate_from_start(offset), moved != *epochs);
    check_order(&moved);
    assert_eq!(moved.epoch_of(offset), epochs.epoch_of(offset));
    assert!(epochs.entries().ends_with(moved.entries().get(usize::from(covering.is_some())..).unwrap_or_default()));
}
