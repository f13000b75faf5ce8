//! Hash and offset in 16 bytes; which chain they go to.
//!
//! ```text
//! at len field     big-endian
//!  0 12  stored    the 96 stored bits of the hash
//! 12  4  distance  of the offset from the block's base, to whichever side the chain goes
//! ```
//!
//! At the first level the bits that are not stored choose the chain, at each further level the next
//! [`Sizes::SPLIT_BITS`] of the stored ones. After all of them are used, what is still in one chain has one hash and is
//! one key: so there is an end to splitting. Bits are random, so each level divides the keys evenly, and the number of
//! levels is the logarithm of keys by room in the map.

use super::fan::{Chains, Fan};
use super::{Sizes, SpillFiles, Traffic};
use crate::clean::key_hash::KeyHash;
use crate::error::IoFailure;
use crate::units::Offset;

/// What a pair takes up.
pub(super) const PAIR_BYTES: usize = 16;
const STORED_BITS: u32 = 96;

/// Pairs on their way into chains.
#[derive(Debug)]
pub(in crate::clean) struct Pairs {
    fan: Fan,
    way: Way,
    count: u64,
}

/// By what a chain is chosen.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By so many of the bits that are not stored.
    Home { bits: u32 },
    /// By the stored bits from this one on.
    Stored { from: u32 },
}

impl Pairs {
    /// The first level: the pairs of all records, offsets rising.
    pub(in crate::clean) fn begin(files: &mut SpillFiles, sizes: Sizes) -> Result<Self, IoFailure> {
        let way = Way::Home { bits: sizes.chains.ilog2() };
        Ok(Self { fan: Fan::new(files, sizes.chains, sizes.pair_block)?, way, count: 0 })
    }

    /// A further level: what one chain had too much of, offsets falling, by the stored bits from `from` on.
    pub(super) fn split(files: &mut SpillFiles, sizes: Sizes, from: u32) -> Result<Self, IoFailure> {
        Ok(Self { fan: Fan::new(files, Sizes::SPLIT, sizes.pair_block)?, way: Way::Stored { from }, count: 0 })
    }

    /// What the chains of a further level take up.
    pub(super) fn split_bytes(sizes: &Sizes) -> usize {
        Sizes::SPLIT * (sizes.pair_block + Fan::BRANCH_BYTES)
    }

    /// Adds a pair.
    #[inline]
    pub(in crate::clean) fn put(&mut self, hash: KeyHash, offset: Offset) -> Result<(), IoFailure> {
        self.count += 1;
        let offset = offset.value();
        self.fan.push(self.way.chain_of(hash), offset, |base, _| {
            let distance = u32::try_from(base.abs_diff(offset)).ok()?;
            Some((encoded(hash, distance), PAIR_BYTES))
        })
    }

    /// All chains, complete.
    pub(super) fn close(self) -> Result<Chains, IoFailure> {
        self.fan.close()
    }

    /// Bytes written so far.
    pub(in crate::clean) fn traffic(&self) -> Traffic {
        self.fan.traffic()
    }

    /// What is allocated.
    pub(in crate::clean) fn memory_bytes(&self) -> usize {
        self.fan.memory_bytes()
    }
}

impl Way {
    #[inline]
    fn chain_of(self, hash: KeyHash) -> usize {
        let chosen = match self {
            Self::Home { bits } => u64::from(hash.home).unbounded_shr(u32::BITS - bits),
            Self::Stored { from } => stored_bits(hash, from),
        };
        usize::try_from(chosen).unwrap_or(0)
    }
}

/// The stored bits `from` to `from + SPLIT_BITS`, counted from the uppermost.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "three bits are left")]
fn stored_bits(hash: KeyHash, from: u32) -> u64 {
    let stored = (u128::from(hash.high) << 32 | u128::from(hash.low)) << (u128::BITS - STORED_BITS);
    stored.unbounded_shl(from).unbounded_shr(u128::BITS - Sizes::SPLIT_BITS) as u64
}

#[inline]
fn encoded(hash: KeyHash, distance: u32) -> [u8; PAIR_BYTES] {
    (u128::from(hash.high) << 64 | u128::from(hash.low) << 32 | u128::from(distance)).to_be_bytes()
}

/// Takes a pair apart; the distance is to be counted from the block's base.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the fields of a pair")]
pub(super) fn decoded(pair: [u8; PAIR_BYTES]) -> (KeyHash, u32) {
    let pair = u128::from_be_bytes(pair);
    (KeyHash::from_stored((pair >> 64) as u64, (pair >> 32) as u32), pair as u32)
}
