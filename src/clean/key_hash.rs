//! Keys as 128 bits, by a hash that nobody else can compute.
//!
//! The cleaner takes two keys of the same hash for one and removes the older record, so a collision loses data. Chance
//! is met by the number of bits (see [`OffsetMap`](super::OffsetMap)); intent by the key of the hash: `SipHash` is a
//! pseudorandom function, so whoever writes records to a log but does not know the 128 random bits drawn for the pass
//! has no better way to a collision than chance. Hashes that are merely seeded make no such promise.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::SipHasher13;

/// Hashes the keys of one pass. Another pass has other random bits, so that keys that met by chance meet once.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher {
    key: [u64; 2],
}

impl KeyHasher {
    /// With random bits from the operating system, by way of the standard library's.
    pub fn random() -> Self {
        let word = || RandomState::new().build_hasher().finish();
        Self { key: [word(), word()] }
    }

    /// With bits that follow from `seed`, for runs that are to be repeated exactly.
    pub fn from_seed(seed: u64) -> Self {
        Self { key: [seed, !seed.rotate_left(32)] }
    }

    /// The hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let [first, second] = self.key;
        let hash = SipHasher13::new_with_keys(first, second).hash(key);
        let (upper, lower) = halves(hash.h2);
        KeyHash { high: hash.h1, low: upper, home: lower }
    }
}

/// The hash of a key: 96 bits that are stored and compared, and 32 that choose its first place. Where records are
/// spilled the 32 are not kept, and others take their part that are mixed from the 96.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash {
    /// The upper 64 of the stored bits.
    pub(super) high: u64,
    /// The lower 32 of the stored bits.
    pub(super) low: u32,
    /// What says where to look first; not stored.
    pub(super) home: u32,
}

impl KeyHash {
    /// From the stored bits alone.
    pub(super) fn from_stored(high: u64, low: u32) -> Self {
        Self { high, low, home: halves(mixed(high.rotate_left(29), low)).0 }
    }

    /// 32 bits that depend on all stored bits.
    #[inline]
    pub(super) fn mix(self) -> u32 {
        halves(mixed(self.high, self.low)).0
    }
}

/// A product whose upper bits depend on all bits given. The stored bits are random to begin with; it only keeps what is
/// chosen by it apart from what is chosen by some of the bits themselves.
#[inline]
fn mixed(high: u64, low: u32) -> u64 {
    let folded = high ^ u64::from(low).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (folded ^ (folded >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// The upper and the lower half.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_the_key_and_on_the_pass() {
        let (one, other) = (KeyHasher::from_seed(1), KeyHasher::from_seed(2));
        assert_eq!(one.hash(b"a"), one.hash(b"a"));
        assert_ne!(one.hash(b"a"), one.hash(b"b"));
        assert_ne!(one.hash(b"a"), one.hash(b"a\0"));
        assert_ne!(one.hash(b"a"), other.hash(b"a"));
        assert_ne!(KeyHasher::random().hash(b"a"), KeyHasher::random().hash(b"a"));
    }

    /// A place chosen by the mix is as good as by other bits: no place has many more keys than the mean.
    #[test]
    fn places_are_spread_evenly_also_among_keys_that_share_bits() {
        let hasher = KeyHasher::from_seed(5);
        let (mut homes, mut mixes) = (vec![0_u32; 256], vec![0_u32; 256]);
        for n in 0_u64..256_000 {
            let hash = hasher.hash(&n.to_be_bytes());
            // As in a partition that was split by the upper bits.
            let stored = KeyHash::from_stored(hash.high >> 12, hash.low);
            homes[usize::try_from(stored.home >> 24).unwrap()] += 1;
            mixes[usize::try_from(stored.mix() >> 24).unwrap()] += 1;
        }
        for counts in [homes, mixes] {
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least > 800 && *most < 1200, "{least} to {most} where 1000 are the mean");
        }
    }
}
