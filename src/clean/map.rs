//! The newest offset of each key in 16 bytes a slot.
//!
//! A cuckoo table of buckets of four slots, one cache line each. A key lies in one of two buckets: the one that 32 bits
//! of its hash choose, or that one's partner by the 96 bits that are stored. So an entry can move to its other bucket
//! without its key being known, a look-up reads two lines at most, and the table can be filled to
//! [`OffsetMap::LOAD_PER_CENT`] of a hundred slots. The first bucket is filled before its partner is, and nothing ever
//! leaves a bucket but for another entry: a key that is not in its first bucket while there is room is nowhere, so that
//! most look-ups in a map that is not nearly full read one line.
//!
//! ```text
//! at len field
//!  0  8  high     upper 64 of the 96 stored bits of the hash
//!  8  4  low      the lower 32
//! 12  4  after    offset minus the map's base offset, plus 1; 0 where the slot is free
//! ```
//!
//! # Collisions
//! Two keys are taken for one if their 96 stored bits are equal and one lies in a bucket of the other. With equal stored
//! bits the partner of every bucket is the same, so the second is so for one pair out of half the number of buckets `b`:
//! a pair of keys collides with probability `2^-96 * 2 / b`. Among `n` keys are `n^2 / 2` pairs, and `n` is at most `3.8 b`,
//! so that some keys of a map are taken for one with probability below `n^2 / 2 * 2^-95 / b <= n * 2^-94`: `2^-72` for four
//! million keys. Each key that is looked up and was not put collides with at most `3.8 b` others: `2^-93` a look-up.
//! Where spilled records are resolved, the bucket follows from the stored bits; what is left out there says the partition,
//! one out of `p`: `n^2 / 2 * 2^-96 / p` among all `n` keys of the pass, `2^-44` for a thousand million in 256 partitions.
//! The hash has a random key for each pass, so that no choice of keys is worse than chance
//! ([`KeyHasher`](super::KeyHasher)).

use super::key_hash::KeyHash;
use crate::units::Offset;

/// Buckets that are looked at to make room for one key; more than are ever needed at the allowed load, but by chance.
const SEARCH_BUCKETS_MAX: usize = 256;

/// The newest offset of each key, by the key's hash. Offsets are kept as 32 bits past a base offset.
///
/// ```
/// use alluvium::Offset;
/// use alluvium::clean::{KeyHasher, OffsetMap, Put};
/// let hasher = KeyHasher::random();
/// let offset = |value| Offset::new(value).unwrap();
/// let mut map = OffsetMap::new(1 << 20, offset(1000));
/// assert_eq!(map.put(hasher.hash(b"a"), offset(1001)), Put::New);
/// assert_eq!(map.put(hasher.hash(b"a"), offset(1005)), Put::Known(offset(1001)));
/// assert_eq!(map.find(hasher.hash(b"a")), Some(offset(1005)));
/// assert_eq!(map.find(hasher.hash(b"b")), None);
/// ```
#[derive(Debug)]
pub struct OffsetMap {
    buckets: Vec<Bucket>,
    /// How many of them are in use, from the first on.
    used: usize,
    base: Offset,
    len: usize,
}

/// A slot; see the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    high: u64,
    low: u32,
    after: u32,
}

/// What one cache line holds. Slots are taken from the first on, and none is ever given back.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([Slot; Bucket::SLOTS]);

/// What became of an [`OffsetMap::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key is new.
    New,
    /// The key was there with this offset; the larger of the two is kept.
    Known(Offset),
    /// Nothing was noted: the key is new and there is no room for it, or the offset is out of reach.
    Full,
}

impl Slot {
    #[inline]
    fn is_free(self) -> bool {
        self.after == 0
    }

    #[inline]
    fn is_of(self, hash: KeyHash) -> bool {
        self.high == hash.high && self.low == hash.low && !self.is_free()
    }
}

impl Bucket {
    const SLOTS: usize = 4;

    /// Slots are taken from the first on, so that the last one tells.
    #[inline]
    fn has_room(&self) -> bool {
        self.0.last().is_some_and(|slot| slot.is_free())
    }

    #[inline]
    fn slot_of(&self, hash: KeyHash) -> Option<&Slot> {
        self.0.iter().find(|slot| slot.is_of(hash))
    }

    /// Into the first free slot; `false` without one.
    #[inline]
    fn take_in(&mut self, entry: Slot) -> bool {
        let free = self.0.iter_mut().find(|slot| slot.is_free());
        free.map(|slot| *slot = entry).is_some()
    }
}

impl OffsetMap {
    /// How many of a hundred slots can be taken; room for a new key is found within a bounded search up to there.
    pub const LOAD_PER_CENT: usize = 95;
    /// What a slot takes up.
    pub const SLOT_BYTES: usize = size_of::<Slot>();
    const BUCKET_BYTES: usize = size_of::<Bucket>();

    /// An empty map in at most `bytes`, of which whole multiples of 64 are used, for offsets from `base` on.
    pub fn new(bytes: usize, base: Offset) -> Self {
        // 32 bits of a hash choose among them.
        let count = (bytes / Self::BUCKET_BYTES).min(u32::MAX as usize);
        let buckets = vec![Bucket::default(); count];
        Self { used: buckets.len(), buckets, base, len: 0 }
    }

    /// Forgets everything. Takes other offsets from then on, and as many of its slots as `keys` need, so that a small
    /// number of keys costs little.
    pub fn clear(&mut self, base: Offset, keys: u64) {
        let slots = keys.saturating_mul(100) / Self::LOAD_PER_CENT as u64 + 1;
        // A few more than needed: small maps fill less evenly.
        let buckets = slots / Bucket::SLOTS as u64 + 8;
        self.used = usize::try_from(buckets).unwrap_or(usize::MAX).min(self.buckets.len());
        self.base = base;
        self.len = 0;
        self.buckets.iter_mut().take(self.used).for_each(|bucket| *bucket = Bucket::default());
    }

    /// Notes that a record of this key lies at `offset`. A key that is there is updated also when the map is full.
    #[inline]
    pub fn put(&mut self, hash: KeyHash, offset: Offset) -> Put {
        let Some(after) = self.after(offset) else { return Put::Full };
        let [first, second] = self.places(hash);
        for place in [first, second] {
            let Some(bucket) = self.buckets.get_mut(place) else { continue };
            if let Some(slot) = bucket.0.iter_mut().find(|slot| slot.is_of(hash)) {
                let before = slot.after;
                slot.after = before.max(after);
                return Put::Known(self.offset(before));
            }
            if place == first && bucket.has_room() {
                break;
            }
        }
        let entry = Slot { high: hash.high, low: hash.low, after };
        if self.len < self.keys_max()
            && (self.take_in(entry, [first, second]) || self.make_room(entry, [first, second]))
        {
            self.len += 1;
            return Put::New;
        }
        Put::Full
    }

    /// The newest offset noted for a key.
    #[inline]
    pub fn find(&self, hash: KeyHash) -> Option<Offset> {
        let [first, second] = self.places(hash);
        let bucket = self.buckets.get(first)?;
        let slot = match bucket.slot_of(hash) {
            None if bucket.has_room() => None,
            None => self.buckets.get(second)?.slot_of(hash),
            found => found,
        };
        slot.map(|slot| self.offset(slot.after))
    }

    /// Reads of the lines that a key will be looked for in, and returns something of them. Whoever does so for several
    /// keys before the first is used waits for memory once and not for each: the processor fetches the lines together.
    /// The fewer instructions it takes, the more keys the processor looks ahead.
    #[inline]
    pub fn touch(&self, hash: KeyHash) -> u32 {
        let word = |place: usize| match self.buckets.get(place) {
            Some(Bucket([slot, ..])) => slot.after,
            None => 0,
        };
        let first = self.scaled(hash.home);
        // In a map that is half empty the second one is hardly ever asked.
        let is_filling = self.len > self.used * (Bucket::SLOTS / 2);
        if is_filling { word(first) ^ word(self.partner(first, hash)) } else { word(first) }
    }

    /// How many keys a map in `bytes` holds.
    pub(super) fn keys_in(bytes: usize) -> usize {
        keys_in_buckets(bytes / Self::BUCKET_BYTES)
    }

    /// As much as a map needs for `keys` if it is to stay half empty: then hardly any key has to be looked for twice.
    pub(super) fn roomy_bytes(keys: u64) -> usize {
        let buckets = (keys / (Bucket::SLOTS as u64 / 2)).saturating_add(8);
        usize::try_from(buckets).unwrap_or(usize::MAX).saturating_mul(Self::BUCKET_BYTES)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many keys there may be.
    pub fn keys_max(&self) -> usize {
        keys_in_buckets(self.used)
    }

    /// How many offsets from the base on can be noted.
    pub fn reach() -> u64 {
        u64::from(u32::MAX)
    }

    /// What is allocated.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * Self::BUCKET_BYTES
    }

    /// How an offset is stored; `None` when it is out of reach.
    #[inline]
    fn after(&self, offset: Offset) -> Option<u32> {
        let past = offset.value().checked_sub(self.base.value())?;
        u32::try_from(past).ok()?.checked_add(1)
    }

    #[inline]
    fn offset(&self, after: u32) -> Offset {
        // What is stored came from an offset, so that the sum is one.
        Offset::new(self.base.value().saturating_add(i64::from(after) - 1)).unwrap_or(self.base)
    }

    /// The two buckets of a key.
    #[inline]
    fn places(&self, hash: KeyHash) -> [usize; 2] {
        let first = self.scaled(hash.home);
        [first, self.partner(first, hash)]
    }

    /// The other bucket of an entry that lies in `place`; the partner of the partner is `place` again.
    #[inline]
    fn partner(&self, place: usize, hash: KeyHash) -> usize {
        let sum = self.scaled(hash.mix());
        if sum >= place { sum - place } else { sum + self.used - place }
    }

    /// One of the buckets in use, by 32 bits.
    #[inline]
    fn scaled(&self, bits: u32) -> usize {
        ((u64::from(bits) * self.used as u64) >> 32) as usize
    }

    /// Into the first one of its two buckets that has room.
    #[inline]
    fn take_in(&mut self, entry: Slot, places: [usize; 2]) -> bool {
        places.into_iter().any(|place| self.buckets.get_mut(place).is_some_and(|bucket| bucket.take_in(entry)))
    }

    /// Looks for a chain of entries of which each can move to its other bucket, the last one into a free slot, and moves
    /// them, last first. The nearest free slot is found first, so that no bucket is in a chain twice.
    #[cold]
    fn make_room(&mut self, entry: Slot, places: [usize; 2]) -> bool {
        let mut reached = Search::from(places);
        let mut at = 0;
        while let Some(from) = reached.steps.get(at).copied() {
            let Some(bucket) = self.buckets.get(from.place) else { return false };
            for (slot, moved) in bucket.0.iter().enumerate() {
                let to = self.partner(from.place, KeyHash { high: moved.high, low: moved.low, home: 0 });
                if self.buckets.get(to).is_some_and(Bucket::has_room) {
                    return self.shift(&reached, Step { place: to, before: at, slot }, entry);
                }
                reached.push(Step { place: to, before: at, slot });
            }
            at += 1;
            if at >= reached.len {
                break;
            }
        }
        false
    }

    /// Moves the entries of a chain, from its free end to its beginning, where `entry` comes in.
    fn shift(&mut self, reached: &Search, end: Step, entry: Slot) -> bool {
        let mut to = end;
        loop {
            let from = reached.steps.get(to.before).copied().unwrap_or_default();
            let source = self.buckets.get_mut(from.place).and_then(|bucket| bucket.0.get_mut(to.slot));
            let Some(moved) = source.map(std::mem::take) else { return false };
            let has_room = self.buckets.get_mut(to.place).is_some_and(|bucket| bucket.take_in(moved));
            assert!(has_room, "a chain of moves ends in a free slot");
            if to.before == from.before {
                // The beginning is its own predecessor.
                return self.buckets.get_mut(from.place).is_some_and(|bucket| bucket.take_in(entry));
            }
            to = from;
        }
    }
}

fn keys_in_buckets(buckets: usize) -> usize {
    buckets * Bucket::SLOTS * OffsetMap::LOAD_PER_CENT / 100
}

/// Buckets reached so far in a search for a free slot, nearest first.
struct Search {
    steps: [Step; SEARCH_BUCKETS_MAX],
    len: usize,
}

/// A bucket that is reached by moving an entry of another one.
#[derive(Clone, Copy, Default)]
struct Step {
    place: usize,
    /// Where in the search the bucket is that the entry would come from; a beginning has its own place here.
    before: usize,
    /// Which of that bucket's slots.
    slot: usize,
}

impl Search {
    fn from(places: [usize; 2]) -> Self {
        let mut search = Self { steps: [Step::default(); SEARCH_BUCKETS_MAX], len: 0 };
        for (at, place) in places.into_iter().enumerate() {
            search.push(Step { place, before: at, slot: 0 });
        }
        search
    }

    /// What does not fit is not looked at.
    fn push(&mut self, step: Step) {
        if let Some(next) = self.steps.get_mut(self.len) {
            *next = step;
            self.len += 1;
        }
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
