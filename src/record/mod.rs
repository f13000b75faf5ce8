//! Record batches, version 2: bytes in, bytes out. Nothing here opens a file, asks the time or takes a lock.
//!
//! The format is drawn in [`layout`]. Reading never copies what is not compressed; every length is bounded by the
//! bytes that are there before it is used, so that no input panics, overflows or allocates without bound.
//!
//! ```
//! use alluvium::record::{BatchBuilder, BatchView, Compression};
//! use alluvium::TimestampMs;
//!
//! let mut builder = BatchBuilder::new();
//! builder.compression(Compression::None);
//! builder.record(TimestampMs::new(1_700_000_000_000), Some(b"key"), Some(b"value"));
//! let batch = builder.build()?;
//!
//! let view = BatchView::parse(batch.as_bytes(), u32::MAX)?;
//! view.verify_crc()?;
//! let body = view.body(1 << 20)?;
//! for record in body.records() {
//!     assert_eq!(record?.key, Some(&b"key"[..]));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod builder;
mod compress;
mod control;
mod empty;
mod keys;
pub mod layout;
mod recompress;
#[expect(clippy::module_inception, reason = "a record is what this file is about; the directory is about batches")]
mod record;
mod retain;
mod stamp;
mod validate;
mod varint;
mod walk;

pub(crate) use batch::Crc32c;
pub use batch::{Attributes, BatchHeader, BatchView, Batches, Body, batches, crc32c};
pub use builder::{BatchBuilder, RecordBatch, TransactionEnd};
pub use compress::Compression;
pub use control::{ControlRecord, TransactionMarker, transaction_marker};
pub(crate) use empty::empty_batch;
pub(crate) use keys::{Keys, plain_records};
pub use layout::HEADER_BYTES;
pub use recompress::recompress;
pub use record::{Headers, Record, Records};
#[cfg(test)]
pub(crate) use retain::naive_tests;
pub(crate) use retain::{Candidate, Checked, Retainer, VerifiedBatch, put_emptied};
pub(crate) use stamp::unstamp;
pub use stamp::{stamp, stamp_append_time};
pub use validate::{Origin, Rules, validate};

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod recompress_tests;
#[cfg(test)]
mod tests;
