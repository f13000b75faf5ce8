//! What a segment holds for as long as it is read: an open file, a map, its indexes.
//!
//! Apart from the segment itself, so that the clock of [`Residency`] can hold on to it without pinning the segment: who
//! holds a segment keeps its bytes from being cut in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::residency::{Held, Residency};
use crate::fs::{File, Mapping};
use crate::index::{AbortedTxns, SegmentIndex};
use crate::sync::{ReadGuard, RwLock};

/// What came of the clock's hand at one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was dropped.
    Dropped,
    /// It stays for now, and is looked at again.
    Kept,
    /// There is nothing to drop here, until something is listed again.
    Gone,
}

/// Things that are held.
#[derive(Debug, Default)]
pub(super) struct Resident {
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) mapping: Option<Arc<dyn Mapping>>,
    pub(super) index: Option<Box<SegmentIndex>>,
    /// Aborted transactions whose markers are in the segment.
    pub(super) aborted: Option<Box<AbortedTxns>>,
}

impl Resident {
    fn holds(&self, held: Held) -> bool {
        match held {
            Held::File => self.file.is_some(),
            Held::Map => self.mapping.is_some(),
            Held::Index => self.index.is_some() || self.aborted.is_some(),
        }
    }

    /// Whether somebody else has a hand on it too: dropping it here would close nothing.
    fn is_pinned(&self, held: Held) -> bool {
        match held {
            Held::File => self.file.as_ref().is_some_and(|file| Arc::strong_count(file) > 1),
            Held::Map => self.mapping.as_ref().is_some_and(|mapping| Arc::strong_count(mapping) > 1),
            Held::Index => false,
        }
    }

    fn discard(&mut self, held: Held) {
        match held {
            Held::File => self.file = None,
            Held::Map => self.mapping = None,
            Held::Index => (self.index, self.aborted) = (None, None),
        }
    }

    fn index_bytes(&self) -> u64 {
        let index = self.index.as_ref().map_or(0, |index| index.memory_bytes());
        let aborted = self.aborted.as_ref().map_or(0, |aborted| aborted.memory_bytes());
        index.saturating_add(aborted) as u64
    }
}

/// One flag for each kind of thing.
#[derive(Debug, Default)]
struct Flags([AtomicBool; 3]);

impl Flags {
    fn of(&self, held: Held) -> &AtomicBool {
        let [file, map, index] = &self.0;
        match held {
            Held::File => file,
            Held::Map => map,
            Held::Index => index,
        }
    }
}

/// What one segment holds, and whether it may be dropped. Any thread.
#[derive(Debug)]
pub(super) struct Slots {
    residency: Arc<Residency>,
    resident: RwLock<Resident>,
    /// Every byte is synced and none is written any more: the file can be closed and opened again.
    may_be_dropped: AtomicBool,
    /// The index files on disk are those of the segment.
    is_index_saved: AtomicBool,
    /// Used since the hand came by.
    used: Flags,
    /// In the clock's ring.
    listed: Flags,
}

impl Slots {
    /// Of a segment that is sealed, synced and indexed on disk, with nothing held.
    pub(super) fn new(residency: Arc<Residency>) -> Arc<Self> {
        Arc::new(Self {
            residency,
            resident: RwLock::new(Resident::default()),
            may_be_dropped: AtomicBool::new(true),
            is_index_saved: AtomicBool::new(true),
            used: Flags::default(),
            listed: Flags::default(),
        })
    }

    /// Looks at what is held. `held` counts as used if it is.
    pub(super) fn look(&self, held: Held) -> ReadGuard<'_, Resident> {
        let used = self.used.of(held);
        let resident = self.resident.read();
        // Written once a turn of the clock: threads that read one segment do not take the line from one another. What has
        // just come is not used yet, or those that are read once would drive out what is read all the time.
        if resident.holds(held) && !used.load(Ordering::Relaxed) {
            used.store(true, Ordering::Relaxed);
        }
        resident
    }

    /// Whether it is held, without its being used.
    #[cfg(test)]
    pub(super) fn is_holding(&self, held: Held) -> bool {
        self.resident.read().holds(held)
    }

    /// Changes what is held. Nothing slow may happen in `change`. What comes may make other things go, here or elsewhere.
    pub(super) fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Resident) -> T) -> T {
        let (changed, before, after) = {
            let mut resident = self.resident.write();
            let before = resident.index_bytes();
            let changed = change(&mut resident);
            (changed, before, resident.index_bytes())
        };
        self.list();
        if before != after {
            self.residency.note_index_bytes(before, after);
        }
        changed
    }

    /// Says whether the file may be closed, the map taken down and, once it is on disk, the index forgotten.
    pub(super) fn allow_dropping(self: &Arc<Self>, may_be_dropped: bool) {
        self.may_be_dropped.store(may_be_dropped, Ordering::Release);
        self.list();
    }

    /// Whether the index files on disk are those of the segment.
    pub(super) fn is_index_saved(&self) -> bool {
        self.is_index_saved.load(Ordering::Acquire)
    }

    /// Says whether the index files on disk are those of the segment.
    pub(super) fn mark_index_saved(self: &Arc<Self>, saved: bool) {
        // An append says so each time.
        if self.is_index_saved.load(Ordering::Acquire) != saved {
            self.is_index_saved.store(saved, Ordering::Release);
            self.list();
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&self) {
        let mut resident = self.resident.write();
        let before = resident.index_bytes();
        *resident = Resident::default();
        drop(resident);
        self.residency.note_index_bytes(before, 0);
    }

    /// Puts itself into the rings of what it holds and may drop.
    fn list(self: &Arc<Self>) {
        if !self.may_be_dropped.load(Ordering::Acquire) {
            return;
        }
        let held = {
            let resident = self.resident.read();
            Held::ALL.map(|held| (held, resident.holds(held)))
        };
        for (held, _) in held.into_iter().filter(|(held, holds)| *holds && self.may_drop(*held)) {
            if !self.listed.of(held).swap(true, Ordering::AcqRel) {
                self.residency.list(held, Arc::downgrade(self));
            }
        }
    }

    fn may_drop(&self, held: Held) -> bool {
        self.may_be_dropped.load(Ordering::Acquire) && (held != Held::Index || self.is_index_saved())
    }

    /// The clock's hand comes by. Never waits: whoever asks may hold another segment's slots.
    pub(super) fn come_by(&self, held: Held) -> Turn {
        let Some(mut resident) = self.resident.try_write() else { return Turn::Kept };
        if !resident.holds(held) || !self.may_drop(held) {
            // Said under the lock: whoever puts something in after this lists it anew.
            self.listed.of(held).store(false, Ordering::Release);
            return Turn::Gone;
        }
        if self.used.of(held).swap(false, Ordering::Relaxed) || resident.is_pinned(held) {
            return Turn::Kept;
        }
        let before = resident.index_bytes();
        // Under the lock: when a segment has let go of everything, no map of its file is left.
        resident.discard(held);
        self.listed.of(held).store(false, Ordering::Release);
        let after = resident.index_bytes();
        drop(resident);
        self.residency.note_index_bytes(before, after);
        Turn::Dropped
    }
}
