//! Must crash within seconds: it claims of the log what is not true, that a record appended and never made durable
//! survives every power loss. If this target passes, the others prove nothing.
#![no_main]

#[path = "../shared/mod.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::canary::run(data));
