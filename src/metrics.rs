//! Counters owned by one log; no global registry. Reading them costs nothing to the log.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// One counter on a cache line of its own, so that readers and writers of the log do not slow one another.
#[derive(Debug, Default)]
pub struct Counter(CachePadded<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one log counted since it was opened. Any thread may read it at any time.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let log = alluvium::PartitionLog::open(dir.path(), alluvium::LogConfig::default()).unwrap();
/// assert_eq!(log.metrics().appended_batches.value(), 0);
/// ```
#[derive(Debug, Default)]
pub struct LogMetrics {
    /// Batches appended.
    pub appended_batches: Counter,
    /// Bytes appended.
    pub appended_bytes: Counter,
    /// Appends of batches that were there already.
    pub duplicate_appends: Counter,
    /// Appends whose write failed and was undone.
    pub undone_appends: Counter,
    /// Segments rolled.
    pub rolls: Counter,
    /// Segments that retention took out of the log.
    pub deleted_segments: Counter,
    /// Bytes of their logs.
    pub deleted_bytes: Counter,
    /// Commit rounds that synced something.
    pub sync_rounds: Counter,
    /// Reads answered.
    pub reads: Counter,
    /// Times that a side file (index, recovery point) could not be written and was left for later.
    pub side_file_failures: Counter,
}
