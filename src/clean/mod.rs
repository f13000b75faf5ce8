//! The cleaner: of each key the newest record stays, in bounded memory.
//!
//! ```text
//! key_hash.rs   keys as 128 bits, by a hash that nobody else can compute
//! map.rs        OffsetMap: the newest offset of each key in 16 bytes a slot
//! budget.rs     how much memory there is, and for what
//! spill.rs      spill/*: what does not fit the memory, in files
//! learning.rs   what was read becomes verdicts: which offsets are superseded
//! ```

mod budget;
mod key_hash;
mod learning;
mod map;
mod spill;

pub use budget::{CleanerMemory, MemoryError, PassMemory};
pub use key_hash::{KeyHash, KeyHasher};
pub use map::{OffsetMap, Put};
