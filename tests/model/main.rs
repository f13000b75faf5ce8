//! Random operations compared with a naive model, and threads on a real file system.

#[cfg(test)]
mod clean;
#[cfg(test)]
mod producers;
#[cfg(test)]
mod random;
#[cfg(test)]
mod side_files;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod threads;

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
