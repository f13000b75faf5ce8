//! Tables on a partition: the latest value of each key, read from a log (KIP-58's use of a compacted topic), and kept as
//! a table that writes to it.
//!
//! ```text
//! scan.rs       record by record, checked, around damage where asked
//! latest.rs     the latest of each key, in as much memory as is allowed
//! contents.rs   keys and values in memory, undecided transactions, what both weigh
//! options.rs    how a table is kept
//! error.rs      why it could not be
//! compacted.rs  CompactedTable: read, write, catch up
//! load.rs       one way through the log of a table
//! ```

mod compacted;
mod contents;
mod error;
mod latest;
mod load;
mod options;
mod scan;

pub use compacted::{CaughtUp, CompactedTable, TableWrite};
pub use contents::{Entry, TableMemory};
pub use error::TableError;
pub use latest::{Latest, LatestOptions, LatestReport, latest_by_key};
pub use load::LoadProgress;
pub use options::{Acknowledge, Change, OnConflict, TableOptions};
pub use scan::{OnScanDamage, ScanOptions, Scanned, ScannedRecord, scan_records};
