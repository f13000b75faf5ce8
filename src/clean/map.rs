//! The newest offset of each key in 16 bytes a slot.

use super::key_hash::KeyHash;
use crate::units::Offset;

/// Newest offsets by hash of key.
#[derive(Debug)]
pub struct OffsetMap {}

/// What became of a [`OffsetMap::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key is new.
    New,
    /// The key was there with this offset; the larger one of the two is kept.
    Known(Offset),
    /// The key is new and there is no room for it, or the offset is out of reach.
    Full,
}

impl OffsetMap {
    /// Notes an offset.
    pub fn put(&mut self, hash: KeyHash, offset: Offset) -> Put {
        unimplemented!("{hash:?} {offset}")
    }
}
