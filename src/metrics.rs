//! Counters owned by one log; no global registry. Reading them costs nothing to the log.

use std::ops::AddAssign;
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

/// What logs counted, as plain numbers: one log at one time, or the sum over several.
///
/// ```
/// use alluvium::metrics::LogCounts;
/// let mut sum = LogCounts { reads: 1, ..LogCounts::default() };
/// sum += LogCounts { reads: 2, rolls: 1, ..LogCounts::default() };
/// assert_eq!((sum.reads, sum.rolls), (3, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Batches appended.
    pub appended_batches: u64,
    /// Bytes appended.
    pub appended_bytes: u64,
    /// Appends of batches that were there already.
    pub duplicate_appends: u64,
    /// Appends whose write failed and was undone.
    pub undone_appends: u64,
    /// Segments rolled.
    pub rolls: u64,
    /// Segments that retention took out of the log.
    pub deleted_segments: u64,
    /// Bytes of their logs.
    pub deleted_bytes: u64,
    /// Commit rounds that synced something.
    pub sync_rounds: u64,
    /// Reads answered.
    pub reads: u64,
    /// Times that a side file (index, recovery point) could not be written and was left for later.
    pub side_file_failures: u64,
}

impl LogMetrics {
    /// The numbers as they are now. Each is exact; between two of them the log may have gone on.
    pub fn counts(&self) -> LogCounts {
        LogCounts {
            appended_batches: self.appended_batches.value(),
            appended_bytes: self.appended_bytes.value(),
            duplicate_appends: self.duplicate_appends.value(),
            undone_appends: self.undone_appends.value(),
            rolls: self.rolls.value(),
            deleted_segments: self.deleted_segments.value(),
            deleted_bytes: self.deleted_bytes.value(),
            sync_rounds: self.sync_rounds.value(),
            reads: self.reads.value(),
            side_file_failures: self.side_file_failures.value(),
        }
    }
}

impl AddAssign for LogCounts {
    fn add_assign(&mut self, other: Self) {
        self.appended_batches += other.appended_batches;
        self.appended_bytes += other.appended_bytes;
        self.duplicate_appends += other.duplicate_appends;
        self.undone_appends += other.undone_appends;
        self.rolls += other.rolls;
        self.deleted_segments += other.deleted_segments;
        self.deleted_bytes += other.deleted_bytes;
        self.sync_rounds += other.sync_rounds;
        self.reads += other.reads;
        self.side_file_failures += other.side_file_failures;
    }
}
