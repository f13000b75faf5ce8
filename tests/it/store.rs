//! The store: partitions over data directories, on the simulated file system and on the real one.

mod basics;
mod cleaner;
mod cleaner_settings;
mod hostile;
mod observed;
mod published;
mod scale;
mod soak;
mod world;
