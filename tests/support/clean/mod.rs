//! The oracle of the cleaner: a naive model that never forgets anything, scripts from a seed, a world that runs them, and
//! a judge that holds what a cleaned log shows to what was told to it.
//!
//! ```text
//! story.rs      everything that was appended, and which cleanings were tried: what may be gone, what must be gone
//! script.rs     operations, and workloads of them from a seed
//! world.rs      a machine with a log on it that runs a script and keeps its story
//! opening.rs    opening a log again, after a close, a death of the process or a power loss
//! snapshots.rs  what a log may know of producers when snapshots of them are lost
//! judge.rs      holds the batches of a log to the story
//! consumer.rs   reads as a consumer of committed records does, from every offset
//! standing.rs   marks, producers, epochs, lookups and files against the story
//! ```
//!
//! The model knows the rules from the format alone: of a keyed record the last committed one stays, a tombstone and a
//! marker stay until their horizon, nothing at or past the first uncleanable offset changes.

pub(crate) mod consumer;
pub(crate) mod judge;
pub(crate) mod opening;
pub(crate) mod script;
pub(crate) mod snapshots;
pub(crate) mod standing;
pub(crate) mod story;
pub(crate) mod world;
