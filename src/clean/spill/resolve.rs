//! Chain after chain, newest record first: whose key was seen before is superseded.
//!
//! All records of a key lie in one chain. It is read from its newest record to its oldest, so that the first of a key is
//! the one that stays, and each further one is known to be superseded when it is met: one reading, and no offset need be
//! kept. When the map is full, the records whose keys it does not hold go to chains of a further level, and reading goes
//! on for those that it does; so each level settles as many keys as the map holds, and what is written again is what
//! those leave. It comes out with offsets falling, and is read in that order.

use std::ops::Range;
use std::vec;

use super::chain::{Chain, ChainFile, Cursor, Direction};
use super::fan::Chains;
use super::marks::{Bitmap, Marks, Quantiles};
use super::pairs::{self, PAIR_BYTES, Pairs};
use super::windows::Windows;
use super::{Sizes, SpillFiles, Traffic};
use crate::clean::key_hash::KeyHash;
use crate::clean::map::{OffsetMap, Put};
use crate::error::IoFailure;
use crate::units::Offset;

/// Spilled pairs on their way to verdicts.
#[derive(Debug)]
pub(in crate::clean) struct Resolve {
    levels: Vec<Level>,
    reading: Option<Reading>,
    judge: Judge,
    block: Vec<u8>,
    depth: u32,
    /// Of pairs, in files that are gone.
    traffic: Traffic,
    memory_peak: usize,
}

/// What decides on one record after the other.
#[derive(Debug)]
struct Judge {
    files: SpillFiles,
    sizes: Sizes,
    /// The keys of the chain that is being read, as far as there is room.
    map: OffsetMap,
    marks: Marks,
    keys: u64,
}

/// What resolving came to.
#[derive(Debug)]
pub(in crate::clean) enum Resolved {
    /// All superseded offsets are in memory.
    Bitmap(Bitmap),
    /// They are in files.
    Windows(Windows),
}

/// The chains of one file that are yet to be read.
#[derive(Debug)]
struct Level {
    file: ChainFile,
    chains: vec::IntoIter<Chain>,
    order: Order,
    /// Stored bits that all hashes of a chain have in common.
    bits_used: u32,
}

/// In which order offsets were written.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rising,
    Falling,
}

/// The chain that is being read, and what of it found no room.
#[derive(Debug)]
struct Reading {
    cursor: Cursor,
    rest: Option<Pairs>,
}

impl Resolve {
    /// Of all pairs of the records of `whole`.
    pub(in crate::clean) fn begin(
        mut files: SpillFiles,
        sizes: Sizes,
        pairs: Pairs,
        whole: &Range<Offset>,
        quantiles: Quantiles,
    ) -> Result<Self, IoFailure> {
        // The blocks of the first level are given back before anything else is allocated.
        let chains = pairs.close()?;
        let marks = Marks::new(&mut files, &sizes, whole, quantiles)?;
        let block = vec![0; sizes.pair_block];
        let taken = Marks::bytes_for(&sizes, whole) + Pairs::split_bytes(&sizes) + block.len();
        let taken = taken + chains.memory_bytes() + sizes.table_bytes();
        let map = OffsetMap::new(sizes.bytes.saturating_sub(taken), Offset::ZERO);
        let judge = Judge { files, sizes, map, marks, keys: 0 };
        let traffic = Traffic::default();
        let mut resolve = Self { levels: Vec::new(), reading: None, judge, block, depth: 0, traffic, memory_peak: 0 };
        resolve.push(chains, Order::Rising, 0);
        Ok(resolve)
    }

    /// Reads and writes about `bytes_max` bytes; whether all is resolved.
    pub(in crate::clean) fn step(&mut self, bytes_max: u64) -> Result<bool, IoFailure> {
        let before = self.traffic_of_all();
        loop {
            match self.reading.take() {
                Some(reading) => self.go_on(reading)?,
                None => {
                    if !self.next_chain() {
                        return Ok(true);
                    }
                }
            }
            self.memory_peak = self.memory_peak_bytes();
            if self.traffic_of_all().saturating_sub(before) >= bytes_max {
                return Ok(false);
            }
        }
    }

    /// The verdicts, once all is resolved.
    pub(in crate::clean) fn finish(self) -> Result<Resolved, IoFailure> {
        assert!(self.levels.is_empty() && self.reading.is_none(), "every chain was read");
        let Judge { files, sizes, map, marks, .. } = self.judge;
        // The map goes before windows are loaded.
        drop(map);
        Ok(match marks {
            Marks::Bitmap(bitmap) => Resolved::Bitmap(bitmap),
            Marks::Windows(marks) => Resolved::Windows(Windows::new(files, sizes, marks)?),
        })
    }

    /// Distinct keys so far.
    pub(in crate::clean) fn keys(&self) -> u64 {
        self.judge.keys
    }

    /// Superseded offsets so far.
    pub(in crate::clean) fn superseded(&self) -> u64 {
        self.judge.marks.count()
    }

    /// Levels of chains so far.
    pub(in crate::clean) fn depth(&self) -> u32 {
        self.depth
    }

    /// Bytes of pairs written and read so far.
    pub(in crate::clean) fn pair_traffic(&self) -> Traffic {
        let open = self.levels.iter().fold(self.traffic, |sum, level| sum.and(level.file.traffic()));
        let rest = self.reading.as_ref().and_then(|reading| reading.rest.as_ref());
        rest.map_or(open, |rest| open.and(rest.traffic()))
    }

    /// Bytes of superseded offsets written so far.
    pub(in crate::clean) fn mark_traffic(&self) -> Traffic {
        self.judge.marks.traffic()
    }

    /// What is allocated now.
    pub(in crate::clean) fn memory_bytes(&self) -> usize {
        let tables: usize = self.levels.iter().map(|level| level.chains.len() * size_of::<Chain>()).sum();
        let rest = self.reading.as_ref().and_then(|reading| reading.rest.as_ref());
        let rest = rest.map_or(0, Pairs::memory_bytes);
        self.judge.map.memory_bytes() + self.judge.marks.memory_bytes() + self.block.capacity() + tables + rest
    }

    /// The most that was allocated at a time.
    pub(in crate::clean) fn memory_peak_bytes(&self) -> usize {
        self.memory_peak.max(self.memory_bytes())
    }

    fn traffic_of_all(&self) -> u64 {
        self.pair_traffic().and(self.mark_traffic()).total()
    }

    fn push(&mut self, chains: Chains, order: Order, bits_used: u32) {
        self.levels.push(Level { file: chains.file, chains: chains.all.into_iter(), order, bits_used });
        self.depth = self.depth.max(u32::try_from(self.levels.len()).unwrap_or(u32::MAX));
    }

    /// Begins the next chain that holds anything, of the deepest level that has one; `false` when there is none.
    fn next_chain(&mut self) -> bool {
        while let Some(level) = self.levels.last_mut() {
            if let Some(chain) = level.chains.find(|chain| chain.records > 0) {
                let direction = match level.order {
                    Order::Rising => Direction::Backward,
                    Order::Falling => Direction::Forward,
                };
                self.judge.map.clear(Offset::ZERO, chain.records);
                self.reading = Some(Reading { cursor: chain.cursor(direction), rest: None });
                return true;
            }
            self.traffic = self.traffic.and(level.file.traffic());
            self.levels.pop();
        }
        false
    }

    /// Reads one more block of the chain; after the last, what found no room becomes a level of its own.
    fn go_on(&mut self, mut reading: Reading) -> Result<(), IoFailure> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let (order, bits_used) = (level.order, level.bits_used);
        let Some(payload) = level.file.read(&mut reading.cursor, &mut self.block)? else {
            if let Some(rest) = reading.rest {
                self.push(rest.close()?, Order::Falling, bits_used + Sizes::SPLIT_BITS);
            }
            return Ok(());
        };
        let (pairs, odd) = payload.bytes.as_chunks::<PAIR_BYTES>();
        if !odd.is_empty() || u32::try_from(pairs.len()) != Ok(payload.records) {
            return Err(level.file.bad_records(&reading.cursor));
        }
        let mut newest_first = (pairs.iter(), pairs.iter().rev());
        let mut next = || match order {
            Order::Falling => newest_first.0.next(),
            Order::Rising => newest_first.1.next(),
        };
        while let Some(pair) = next() {
            let (hash, distance) = pairs::decoded(*pair);
            let offset = match order {
                Order::Falling => payload.base.checked_sub(i64::from(distance)),
                Order::Rising => payload.base.checked_add(i64::from(distance)),
            };
            let Some(offset) = offset.and_then(Offset::new) else {
                return Err(level.file.bad_records(&reading.cursor));
            };
            self.judge.judge(hash, offset, &mut reading.rest, bits_used)?;
        }
        self.reading = Some(reading);
        Ok(())
    }
}

impl Judge {
    /// One record, all newer ones of the chain having been judged. What finds no room goes to `rest`.
    #[inline]
    fn judge(
        &mut self,
        hash: KeyHash,
        offset: Offset,
        rest: &mut Option<Pairs>,
        bits_used: u32,
    ) -> Result<(), IoFailure> {
        // Once one key found no room no other is taken in, so that all records of a key go the same way.
        let seen = match rest {
            None => self.map.put(hash, Offset::ZERO),
            Some(_) => self.map.find(hash).map_or(Put::Full, Put::Known),
        };
        match seen {
            Put::New => self.keys += 1,
            Put::Known(_) => self.marks.mark(offset)?,
            Put::Full => {
                let pairs = match rest {
                    Some(pairs) => pairs,
                    None => rest.insert(Pairs::split(&mut self.files, self.sizes, bits_used)?),
                };
                pairs.put(hash, offset)?;
            }
        }
        Ok(())
    }
}
