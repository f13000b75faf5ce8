//! Integration tests: the public interface, on the real file system and on the simulated one.
#![expect(clippy::unwrap_used, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::indexing_slicing, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "tests look at directories behind the log's back")]

mod appends;
mod basics;
mod cleaning;
mod conditional;
mod crowds;
mod derived;
mod derived_crashes;
mod durability;
mod facade;
mod group;
mod integrity;
mod reads;
mod recovery;
mod refusals;
mod replication;
mod residency;
mod retention;
mod rolls;
mod sends;
mod store;
mod support;
mod table;
mod timestamps;
