//! Which transactions keep the last stable offset back: those that are open, and those decided by a marker that the
//! high watermark has not passed, since a new leader may lack that marker (Kafka's `ongoingTxns`, `unreplicatedTxns`).

use std::collections::{BTreeSet, VecDeque};

use crate::units::{Offset, ProducerId};

/// More decided transactions than this share their last entry. A log that is replayed without a high watermark would
/// otherwise hold them all; sharing keeps the offset back a little longer, never too short.
pub(super) const DECIDED_MAX: usize = 1 << 16;

/// A decided transaction, and all later ones that began before it ended.
#[derive(Clone, Copy, Debug)]
struct Decided {
    marker: Offset,
    first: Offset,
}

/// First offsets of transactions, by what is known of their end.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    /// A set of pairs, since a hostile snapshot may let two producers begin at one offset.
    open: BTreeSet<(Offset, ProducerId)>,
    /// By marker, and by first offset too: one that began later and was decided earlier than another is never the
    /// earliest, and is left out. So the front is the earliest, and leaves first.
    decided: VecDeque<Decided>,
}

impl Transactions {
    pub(super) fn begin(&mut self, first: Offset, id: ProducerId) {
        self.open.insert((first, id));
    }

    /// Ends the transaction that began at `first`; returns the last stable offset as the aborted index stores it,
    /// in which the high watermark plays no part.
    pub(super) fn decide(&mut self, first: Offset, id: ProducerId, marker: Offset) -> Offset {
        self.open.remove(&(first, id));
        self.push_decided(first, marker);
        // A producer has one transaction at most, so all that are left are others'.
        self.earliest_open().unwrap_or_else(|| marker.next().unwrap_or(Offset::MAX))
    }

    fn push_decided(&mut self, first: Offset, marker: Offset) {
        // Markers rise in a log. Should they not, the higher one holds: rather too long than too short.
        let marker = self.decided.back().map_or(marker, |last| last.marker.max(marker));
        while self.decided.back().is_some_and(|last| last.first >= first) {
            self.decided.pop_back();
        }
        let is_full = self.decided.len() >= DECIDED_MAX;
        match self.decided.back_mut() {
            Some(last) if is_full => last.marker = marker,
            _ => self.decided.push_back(Decided { marker, first }),
        }
    }

    fn earliest_open(&self) -> Option<Offset> {
        self.open.first().map(|(first, _)| *first)
    }

    pub(super) fn first_unstable(&self) -> Option<Offset> {
        let decided = self.decided.front().map(|decided| decided.first);
        self.earliest_open().into_iter().chain(decided).min()
    }

    /// Forgets decided transactions whose marker is below `end`.
    pub(super) fn forget_decided_below(&mut self, end: Offset) {
        while self.decided.front().is_some_and(|decided| decided.marker < end) {
            self.decided.pop_front();
        }
    }

    /// Forgets those that are open; tells whose they were, the earliest first.
    pub(super) fn take_open(&mut self) -> impl Iterator<Item = ProducerId> {
        std::mem::take(&mut self.open).into_iter().map(|(_, id)| id)
    }

    /// How many are open.
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }
}
