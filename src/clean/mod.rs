//! The log cleaner: of each key the newest record is kept, of a log that is read again and again only what still counts.
//!
//! ```text
//! transactions.rs  which data was aborted, which markers and aborted entries are still needed
//! filter.rs        what is kept of a batch
//! ```

mod filter;
mod transactions;
