//! Partition directories that Apache Kafka wrote (`tests/fixtures/kafka`), opened here and compared with what Kafka's
//! own iterators read from them; and logs that we write, compared with a construction from the format's text alone.
#![expect(clippy::unwrap_used, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::indexing_slicing, reason = "a failed test is meant to panic, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "tests look at directories behind the log's back")]

mod checkpoints;
mod directory;
mod fixtures;
mod followed;
mod indexes;
mod naive;
mod naive_state;
mod opened;
mod state;
mod store;
mod torn;
mod written;
