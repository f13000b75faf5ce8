//! How much all segments of a store may hold at once: descriptors, maps, memory of indexes.
//!
//! A store has more segments than a process may have descriptors and maps. Each segment opens what it is read by, and
//! what is over a limit goes from the segment that was not used for the longest time, by the clock of the second chance:
//! a ring of what is held, in which whatever was used since the hand last came by is passed over once.
//!
//! Only what can be had again goes: never what a slice or a reader still holds, never what belongs to a segment that is
//! written to, has bytes that no completed sync covered, or has an index that is not on disk.

mod handles;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::slots::{Slots, Turn};
use crate::sync::Mutex;

pub(crate) use handles::{FileRoom, MapRoom};

/// A limit that is none.
const UNLIMITED: u64 = u64::MAX;
/// How many entries an attempt looks at after a whole turn has found nothing to drop: the slices of a slow reader must
/// not make each open cost a turn.
const STEPS_AFTER_FUTILE_TURN: usize = 8;
/// Entries of segments that are gone are swept out no more often than this many pushes.
const SWEEP_AT_LEAST: usize = 64;

/// What segments hold that there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// An open `.log`.
    File,
    /// A map of one.
    Map,
    /// Its indexes and aborted transactions in memory.
    Index,
}

impl Held {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::File, Self::Map, Self::Index];
}

/// How much the segments within one [`Residency`] may hold at once. `u64::MAX` means without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidencyLimits {
    /// Open descriptors of log files.
    pub files: u64,
    /// Maps of log files. At 0, and wherever the system gives none, files are read positionally instead.
    pub maps: u64,
    /// Bytes of memory that indexes take.
    pub index_bytes: u64,
}

impl Default for ResidencyLimits {
    fn default() -> Self {
        Self { files: UNLIMITED, maps: UNLIMITED, index_bytes: UNLIMITED }
    }
}

/// How much the segments within one [`Residency`] hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResidencyUsage {
    /// Descriptors that are really open, those that slices keep open included.
    pub files: u64,
    /// Maps that really exist, those that slices keep included.
    pub maps: u64,
    /// Bytes of memory that indexes take.
    pub index_bytes: u64,
    /// The most descriptors that were open at once.
    pub files_peak: u64,
    /// The most maps that there were at once.
    pub maps_peak: u64,
    /// The most memory that indexes took at once, in bytes.
    pub index_bytes_peak: u64,
    /// Descriptors, maps and indexes that were dropped for others.
    pub evictions: u64,
    /// Reads that were to be from a map and were positional, because there was no map to be had.
    pub unmapped_reads: u64,
}

/// The budget of descriptors, maps and index memory that the sealed segments of any number of logs share. Any thread may
/// call anything; nothing waits for I/O.
///
/// A limit is kept by dropping what was not used for the longest time. What cannot be dropped may exceed it: files that
/// are written to or not synced, indexes that are not on disk yet, and whatever slices hold.
///
/// ```
/// use alluvium::segment::{Residency, ResidencyLimits};
/// use alluvium::{Environment, LogConfig};
/// let residency = Residency::new(ResidencyLimits { files: 16, maps: 0, index_bytes: 64 << 10 });
/// let dir = tempfile::tempdir().unwrap();
/// let environment = Environment::default();
/// let one = environment.open_within(dir.path().join("a-0"), LogConfig::default(), &residency).unwrap();
/// let other = environment.open_within(dir.path().join("a-1"), LogConfig::default(), &residency).unwrap();
/// assert_eq!(residency.usage().files, 2, "the two active ones");
/// # drop((one, other));
/// ```
#[derive(Debug, Default)]
pub struct Residency {
    files: Budget,
    maps: Budget,
    index_bytes: Budget,
    unmapped_reads: AtomicU64,
    scanned: AtomicU64,
    /// Told of every stretch that was scanned.
    on_scan: OnceLock<ScanListener>,
}

/// Called by the threads that scan; must not wait.
struct ScanListener(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for ScanListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScanListener")
    }
}

impl Residency {
    /// One with these limits, and nothing held.
    pub fn new(limits: ResidencyLimits) -> Arc<Self> {
        let residency = Arc::new(Self::default());
        residency.set_limits(limits);
        residency
    }

    /// The limits in force.
    pub fn limits(&self) -> ResidencyLimits {
        let limit = |budget: &Budget| budget.limit.load(Ordering::Relaxed);
        ResidencyLimits { files: limit(&self.files), maps: limit(&self.maps), index_bytes: limit(&self.index_bytes) }
    }

    /// Changes the limits, and drops at once what is over them and can be dropped.
    pub fn set_limits(&self, limits: ResidencyLimits) {
        self.files.limit.store(limits.files, Ordering::Relaxed);
        self.maps.limit.store(limits.maps, Ordering::Relaxed);
        self.index_bytes.limit.store(limits.index_bytes, Ordering::Relaxed);
        self.enforce();
    }

    /// What is held now, and what was counted since it was made.
    pub fn usage(&self) -> ResidencyUsage {
        let peak = |budget: &Budget| budget.peak.load(Ordering::Relaxed).max(budget.used());
        let evictions = |budget: &Budget| budget.evictions.load(Ordering::Relaxed);
        ResidencyUsage {
            files: self.files.used(),
            maps: self.maps.used(),
            index_bytes: self.index_bytes.used(),
            files_peak: peak(&self.files),
            maps_peak: peak(&self.maps),
            index_bytes_peak: peak(&self.index_bytes),
            evictions: evictions(&self.files) + evictions(&self.maps) + evictions(&self.index_bytes),
            unmapped_reads: self.unmapped_reads.load(Ordering::Relaxed),
        }
    }

    /// Drops what is over the limits, as far as it can be dropped. For housekeeping: slices may have kept things over a
    /// limit that nobody holds any more, and nothing else may be opened for long.
    pub fn enforce(&self) {
        for held in Held::ALL {
            let budget = self.budget(held);
            budget.reclaim(held, Effort::WholeTurns, |_| !budget.is_over());
        }
    }

    /// Closes up to `count` descriptors whatever the limit is; returns how many. For whoever has none left.
    pub fn release_files(&self, count: usize) -> usize {
        self.files.reclaim(Held::File, Effort::WholeTurns, |closed| closed >= count)
    }

    /// Bytes of logs that openings scanned.
    pub(crate) fn scanned(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed)
    }

    /// Has `listener` called with every stretch that is scanned. The first one stays.
    pub(crate) fn on_scan(&self, listener: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_scan.set(ScanListener(Box::new(listener)));
    }

    /// Takes note that an opening scanned so many bytes more.
    pub(super) fn note_scanned(&self, bytes: u64) {
        self.scanned.fetch_add(bytes, Ordering::Relaxed);
        if let Some(ScanListener(listener)) = self.on_scan.get() {
            listener();
        }
    }

    /// Takes note that `slots` has something that may be dropped.
    pub(super) fn list(&self, held: Held, slots: Weak<Slots>) {
        self.budget(held).list(slots);
    }

    /// The memory that indexes take has changed. What is over the limit goes, perhaps what has just come.
    pub(super) fn note_index_bytes(&self, before: u64, after: u64) {
        if after <= before {
            self.index_bytes.give_back(before - after);
        } else {
            self.index_bytes.take(after - before);
            self.index_bytes.make_room(Held::Index);
            self.index_bytes.note_peak();
        }
    }

    /// A read that was to be from a map is positional.
    pub(super) fn note_unmapped_read(&self) {
        self.unmapped_reads.fetch_add(1, Ordering::Relaxed);
    }

    fn budget(&self, held: Held) -> &Budget {
        match held {
            Held::File => &self.files,
            Held::Map => &self.maps,
            Held::Index => &self.index_bytes,
        }
    }
}

/// How long to look for something to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// Two turns: the first one takes the second chances away.
    WholeTurns,
    /// The same, unless the last ones found nothing.
    Amortised,
}

/// One kind of thing: how much of it may be held, how much is, and in whose hands.
#[derive(Debug)]
struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
    evictions: AtomicU64,
    ring: Mutex<Ring>,
}

/// Who holds something that may be dropped, in the order in which the hand comes by.
#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Weak<Slots>>,
    /// Length at which entries of segments that are gone are swept out.
    sweep_at: usize,
    /// The last turn found nothing.
    is_futile: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            limit: AtomicU64::new(UNLIMITED),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            ring: Mutex::new(Ring::default()),
        }
    }
}

impl Budget {
    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.used() > self.limit.load(Ordering::Relaxed)
    }

    fn take(&self, amount: u64) {
        self.used.fetch_add(amount, Ordering::Relaxed);
    }

    fn give_back(&self, amount: u64) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }

    fn note_peak(&self) {
        self.peak.fetch_max(self.used(), Ordering::Relaxed);
    }

    fn make_room(&self, held: Held) {
        if self.is_over() {
            self.reclaim(held, Effort::Amortised, |_| !self.is_over());
        }
    }

    fn list(&self, slots: Weak<Slots>) {
        let mut ring = self.ring.lock();
        if ring.entries.len() >= ring.sweep_at {
            ring.entries.retain(|slots| slots.strong_count() > 0);
            ring.sweep_at = ring.entries.len().saturating_mul(2).max(SWEEP_AT_LEAST);
        }
        ring.entries.push_back(slots);
    }

    /// Turns the hand until `is_enough` of the number of things dropped; returns that number.
    fn reclaim(&self, held: Held, effort: Effort, is_enough: impl Fn(usize) -> bool) -> usize {
        let mut steps = {
            let ring = self.ring.lock();
            let whole = ring.entries.len().saturating_mul(2);
            if ring.is_futile && effort == Effort::Amortised { whole.min(STEPS_AFTER_FUTILE_TURN) } else { whole }
        };
        let mut dropped = 0;
        while steps > 0 && !is_enough(dropped) {
            steps -= 1;
            let Some(slots) = self.ring.lock().entries.pop_front() else { break };
            let Some(slots) = slots.upgrade() else { continue };
            // With the ring unlocked: closing a file and taking a map down are not done under a lock that all need.
            match slots.come_by(held) {
                Turn::Dropped => dropped += 1,
                Turn::Kept => self.ring.lock().entries.push_back(Arc::downgrade(&slots)),
                Turn::Gone => {}
            }
        }
        self.evictions.fetch_add(dropped as u64, Ordering::Relaxed);
        self.ring.lock().is_futile = dropped == 0 && !is_enough(dropped);
        dropped
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "residency_tests.rs"]
mod tests;
