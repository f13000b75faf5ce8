//! See `shared/clean.rs`, which `tests/corpus.rs` runs too.
#![no_main]

#[path = "../shared/mod.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::clean::run(data));
