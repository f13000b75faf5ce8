//! Random operations compared with a naive model, and threads on a real file system.

#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
