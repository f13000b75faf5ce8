//! Storage engine for append-only partition logs in Kafka's on-disk format.
//!
//! # Layers
//! A lower layer never names a higher one; `tests/tidy.rs` holds it.
//! ```text
//! 0 units error config clock metrics sync    plain words, no I/O
//! 1 fs                                       FileSystem and File; os; sim
//! 2 record                                   RecordBatch v2
//! 3 index segment                            indexes, leader epochs, producer state, small files; segment files
//! 4 commit                                   flush policy, group commit, waiters for marks, knowing nothing of logs
//! 5 log                                      PartitionLog
//! 6 flush clean table facade                 flushers of one log and of many; the cleaner; tables on a log; the log as `dyn`
//! 7 store                                    data directories: names, checkpoints, ids, lock, clean-shutdown marker
//! 8 inspect                                  read-only views for tools
//! ```

pub mod clean;
pub mod clock;
mod commit;
pub mod config;
pub mod error;
mod facade;
pub mod flush;
pub mod fs;
pub mod index;
pub mod inspect;
pub mod log;
pub mod metrics;
pub mod record;
pub mod segment;
pub mod store;
pub mod sync;
pub mod table;
pub mod units;

pub use clean::{CleanError, CleanMode, CleanOptions, Cleaned};
pub use clock::Deadline;
pub use commit::{Mark, Marks};
pub use config::{
    CleanupPolicy, CompressionPolicy, DirtyRatio, FlushPolicy, HighWatermarkMode, LogConfig, OnDamage, ReadMode,
    RetentionBasis, TimestampType,
};
pub use error::{AppendError, ChangeError, ConfigError, Damage, DurabilityError, OpenError, ReadError, RepairError};
pub use facade::{BoxedFuture, Log, LogAppended, LogRead, MemoryRead};
pub use flush::Flusher;
pub use log::{
    AppendAs, AppendOptions, Appended, Batches, Deleted, DeletedBecause, Durable, Environment, Fetched, FetchedBatches,
    FileSlice, Isolation, MarkReached, PartitionLog, ReadOptions, RecoveryReport, Repaired, Retained, ScrubCursor,
    Scrubbed, SegmentScrub, Sent, SentInPart, TimestampOffset,
};
pub use record::{
    Attributes, BatchBuilder, BatchHeader, BatchView, Compression, ControlRecord, Origin, Record, RecordBatch, Rules,
    TransactionEnd,
};
pub use store::{TopicId, TopicPartition};
pub use table::{CompactedTable, latest_by_key, scan_records};
pub use units::{
    FilePosition, LeaderEpoch, Offset, OffsetDelta, ProducerEpoch, ProducerId, RelativeOffset, Sequence, TimestampMs,
};

/// The examples of the README, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
