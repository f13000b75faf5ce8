//! The bodies of the fuzz targets: each takes any bytes, and panics when something does not hold. `tests/corpus.rs`
//! runs them over the committed corpora without a fuzzer.
#![allow(dead_code, reason = "each binary runs one of them")]

pub(crate) mod batch;
pub(crate) mod canary;
pub(crate) mod checkpoint;
pub(crate) mod clean;
pub(crate) mod input;
pub(crate) mod offset_index;
pub(crate) mod open_dir;
pub(crate) mod open_store;
pub(crate) mod ops;
pub(crate) mod properties;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod time_index;
pub(crate) mod txn_index;

#[path = "../../tests/support/mod.rs"]
mod support;
