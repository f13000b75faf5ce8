//! A number that is set once, in eight bytes: a store has a hundred thousand segments.

use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for none. As a size or an offset it is past all that can be; as a time it is the first of all.
const NONE: u64 = 1 << 63;

/// A number that is not known at first and does not change from then on.
#[derive(Debug)]
pub(super) struct OnceNumber(AtomicU64);

impl Default for OnceNumber {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

impl OnceNumber {
    /// The number, once it was set.
    pub(super) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Acquire)).filter(|number| *number != NONE)
    }

    /// Sets the number unless somebody did before; returns the one that is set.
    pub(super) fn set(&self, number: u64) -> u64 {
        match self.0.compare_exchange(NONE, number, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => number,
            Err(set_before) => set_before,
        }
    }
}
