//! Crashes at every I/O step, on a simulated machine that keeps no more than POSIX promises.
//!
//! `ALLUVIUM_SEEDS` sets how many workloads each test runs. A failure prints the seed, the step and what survived.

#[cfg(test)]
mod clean;
#[cfg(test)]
mod common;
#[cfg(test)]
mod every_step;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod integrity;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod store;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod syncs;
#[cfg(test)]
mod writes;

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
