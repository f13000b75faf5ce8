//! The store: partitions over data directories, on the simulated file system and on the real one.

mod basics;
mod scale;
mod soak;
mod world;
