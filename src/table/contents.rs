//! What a table holds in memory, and what it weighs.
//!
//! Of a key the record with the greatest offset counts, as to the cleaner, also when its transaction was committed later
//! than another record came: table and compacted log would otherwise come to differ.

use std::collections::BTreeMap;

use super::latest::KEY_OVERHEAD_BYTES;
use crate::units::{Offset, ProducerId, TimestampMs};

/// A value in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The value.
    pub value: Box<[u8]>,
    /// Offset of the record that set it.
    pub offset: Offset,
    /// Timestamp of that record.
    pub timestamp: TimestampMs,
}

/// What a table weighs, in bytes: keys, values, and 128 for each key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableMemory {
    /// Of what the table shows.
    pub entries: u64,
    /// Of transactions that are neither committed nor aborted, and of keys deleted while there are any.
    pub undecided: u64,
}

impl TableMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.entries.saturating_add(self.undecided)
    }
}

/// A record to be taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
    pub(super) offset: Offset,
    pub(super) timestamp: TimestampMs,
}

#[derive(Debug)]
struct Undecided {
    key: Box<[u8]>,
    value: Option<Box<[u8]>>,
    offset: Offset,
    timestamp: TimestampMs,
}

/// Keys and values, and what transactions may yet make of them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    entries: BTreeMap<Box<[u8]>, Entry>,
    undecided: BTreeMap<ProducerId, Vec<Undecided>>,
    /// Offsets of the tombstones that came while a transaction was undecided: what it says of these keys may be older.
    deleted: BTreeMap<Box<[u8]>, Offset>,
    memory: TableMemory,
}

impl Contents {
    pub(super) fn entries(&self) -> &BTreeMap<Box<[u8]>, Entry> {
        &self.entries
    }

    pub(super) fn memory(&self) -> TableMemory {
        self.memory
    }

    pub(super) fn undecided_transactions(&self) -> usize {
        self.undecided.len()
    }

    /// What the table would weigh at most with `changes`.
    pub(super) fn weight_with<'a>(&self, changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> u64 {
        let mut weight = self.memory.total();
        for (key, value) in changes {
            let known = self.entries.get(key).map_or(0, |known| weight_of(key, &known.value));
            match value {
                Some(value) => weight = weight.saturating_add(weight_of(key, value).saturating_sub(known)),
                None if !self.undecided.is_empty() => weight = weight.saturating_add(weight_of(key, &[])),
                None => {}
            }
        }
        weight
    }

    /// Takes in a record that counts.
    pub(super) fn apply(&mut self, update: Update<'_>) {
        let Update { key, value, offset, timestamp } = update;
        let is_older = self.entries.get(key).is_some_and(|known| known.offset > offset)
            || self.deleted.get(key).is_some_and(|deleted| *deleted > offset);
        if is_older {
            return;
        }
        if let Some(known) = self.entries.remove(key) {
            self.memory.entries -= weight_of(key, &known.value);
        }
        if self.deleted.remove(key).is_some() {
            self.memory.undecided -= weight_of(key, &[]);
        }
        match value {
            Some(value) => {
                self.memory.entries += weight_of(key, value);
                self.entries.insert(key.into(), Entry { value: value.into(), offset, timestamp });
            }
            None if !self.undecided.is_empty() => {
                self.memory.undecided += weight_of(key, &[]);
                self.deleted.insert(key.into(), offset);
            }
            None => {}
        }
    }

    /// Takes in a record that counts only if its transaction is committed.
    pub(super) fn hold(&mut self, producer: ProducerId, update: Update<'_>) {
        let Update { key, value, offset, timestamp } = update;
        self.memory.undecided += weight_of(key, value.unwrap_or_default());
        let held = Undecided { key: key.into(), value: value.map(Box::from), offset, timestamp };
        self.undecided.entry(producer).or_default().push(held);
    }

    /// Forgets the records below `start`.
    pub(super) fn drop_below(&mut self, start: Offset) {
        let memory = &mut self.memory;
        self.entries.retain(|key, entry| {
            let stays = entry.offset >= start;
            if !stays {
                memory.entries -= weight_of(key, &entry.value);
            }
            stays
        });
        for held in self.undecided.values_mut() {
            held.retain(|held| {
                let stays = held.offset >= start;
                if !stays {
                    memory.undecided -= weight_of(&held.key, held.value.as_deref().unwrap_or_default());
                }
                stays
            });
        }
    }

    /// A producer's transaction has ended.
    pub(super) fn decide(&mut self, producer: ProducerId, commit: bool) {
        let Some(held) = self.undecided.remove(&producer) else { return };
        for Undecided { key, value, offset, timestamp } in held {
            self.memory.undecided -= weight_of(&key, value.as_deref().unwrap_or_default());
            if commit {
                self.apply(Update { key: &key, value: value.as_deref(), offset, timestamp });
            }
        }
        if self.undecided.is_empty() {
            self.deleted.clear();
            self.memory.undecided = 0;
        }
    }
}

fn weight_of(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + KEY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update<'a>(key: &'a str, value: Option<&'a str>, offset: i64) -> Update<'a> {
        let (key, value) = (key.as_bytes(), value.map(str::as_bytes));
        Update { key, value, offset: Offset::new(offset).unwrap(), timestamp: TimestampMs::new(offset) }
    }

    fn shown(contents: &Contents) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        contents.entries().iter().map(|(key, entry)| (text(key), text(&entry.value))).collect()
    }

    fn weighed(contents: &Contents) -> u64 {
        contents.entries().iter().map(|(key, entry)| weight_of(key, &entry.value)).sum()
    }

    #[test]
    fn what_is_kept_is_what_it_weighs() {
        let mut contents = Contents::default();
        contents.apply(update("a", Some("one"), 0));
        contents.apply(update("b", Some("two"), 1));
        contents.apply(update("a", Some("three"), 2));
        contents.apply(update("b", None, 3));
        contents.apply(update("c", None, 4));
        assert_eq!(shown(&contents), [("a".to_owned(), "three".to_owned())]);
        assert_eq!(contents.memory().entries, weighed(&contents));
        contents.apply(update("a", None, 5));
        assert_eq!(contents.memory(), TableMemory::default());
    }

    #[test]
    fn undecided_records_count_from_their_commit_on_and_by_offset() {
        let (one, two) = (ProducerId::new(1).unwrap(), ProducerId::new(2).unwrap());
        let mut contents = Contents::default();
        contents.hold(one, update("a", Some("txn"), 0));
        contents.hold(one, update("b", Some("txn"), 1));
        contents.hold(one, update("c", Some("txn"), 2));
        contents.hold(two, update("d", Some("aborted"), 3));
        // Later than what the transaction says of them, though decided before.
        contents.apply(update("a", Some("plain"), 4));
        contents.apply(update("b", None, 5));
        assert_eq!(shown(&contents), [("a".to_owned(), "plain".to_owned())]);
        assert_eq!(contents.undecided_transactions(), 2);
        contents.decide(one, true);
        contents.decide(two, false);
        let expected = [("a", "plain"), ("c", "txn")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(shown(&contents), expected);
        assert_eq!(contents.memory(), TableMemory { entries: weighed(&contents), undecided: 0 });
    }
}
