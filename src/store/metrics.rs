//! What a store counted, as plain numbers at one time. Counters of a log outlive it: what a partition counted before it was
//! put aside, opened anew or deleted is in the sums.
//!
//! Nothing here waits for a disk, a sync or a log that is being opened.

use std::path::PathBuf;
use std::sync::Arc;

use super::cleaner::CleanerMetrics;
use super::hosted::{Hosted, Slot, SlotState};
use super::housekeeping::Housekept;
use super::scrubber::ScrubMetrics;
use super::shared::Shared;
use super::space::{SpaceGuard, SpaceReport};
use super::{Partition, Store};
use crate::commit::Marks;
use crate::error::OpenError;
use crate::fs::DescriptorUsage;
use crate::log::{Extent, PartitionLog};
use crate::metrics::{Counter, LogCounts};
use crate::segment::ResidencyUsage;

/// What a store counted since it was opened, and what it holds now. Plain numbers: two of these tell the rates.
///
/// ```
/// use alluvium::LogConfig;
/// use alluvium::store::{Store, StoreConfig, TopicPartition};
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(StoreConfig::new(dir.path()))?;
/// store.create(&TopicPartition::new("orders", 0)?, LogConfig::default())?;
/// let metrics = store.metrics();
/// assert_eq!((metrics.partitions.open, metrics.logs.appended_batches), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreMetrics {
    /// What all logs counted, those included that were put aside or deleted since.
    pub logs: LogCounts,
    /// How many partitions there are, by state.
    pub partitions: PartitionCounts,
    /// One for each data directory, in the order in which they were named.
    pub directories: Vec<DirectoryMetrics>,
    /// What the store did beside appends and reads.
    pub work: WorkCounts,
    /// What the scrubber did.
    pub scrubbing: ScrubCounts,
    /// What the cleaner did, and how it stands.
    pub cleaning: CleanerMetrics,
    /// Open descriptors.
    pub descriptors: DescriptorUsage,
    /// Descriptors, maps and index memory of sealed segments.
    pub residency: ResidencyUsage,
}

/// How many partitions of a store are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionCounts {
    /// Their logs are open.
    pub open: u64,
    /// Put aside for want of use.
    pub idle: u64,
    /// They could not be opened.
    pub failed: u64,
    /// Their directory is offline, or they are on their way out.
    pub away: u64,
    /// Being opened, moved or put aside at this moment.
    pub changing: u64,
}

/// What a data directory counted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DirectoryMetrics {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it is offline.
    pub is_offline: bool,
    /// Partitions that lie in it.
    pub partitions: u64,
    /// Rounds of its flusher; each syncs any number of logs.
    pub flush_rounds: u64,
    /// Logs that rounds made durable, each counted once a round.
    pub flushed_logs: u64,
    /// Logs left out of a round because somebody else was syncing, cutting or closing theirs.
    pub busy_logs: u64,
    /// Logs whose part in a round panicked.
    pub flush_panics: u64,
    /// Lists of offsets that were replaced.
    pub list_writes: u64,
    /// Times that a list could not be.
    pub list_failures: u64,
    /// Its space at the last look; `None` where it was never served.
    pub space: Option<SpaceReport>,
}

/// What a store did since it was opened, beside appends and reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkCounts {
    /// Logs that were opened: at the start, created, or used after they were put aside.
    pub opened_logs: u64,
    /// Of these, such as had something to scan, because they were not closed cleanly.
    pub recovered_logs: u64,
    /// Bytes scanned for that.
    pub recovered_bytes: u64,
    /// Logs that could not be opened.
    pub failed_openings: u64,
    /// Logs put aside.
    pub parked_logs: u64,
    /// Logs that had failed and were opened again by the housekeeper.
    pub reopened_logs: u64,
    /// Segments rolled because of their age.
    pub rolled_segments: u64,
    /// Directories of deleted partitions that were removed.
    pub removed_dirs: u64,
}

/// What the scrubber did since the store was opened; see [`ScrubMetrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubCounts {
    /// Bytes of logs read.
    pub bytes: u64,
    /// Segments gone through.
    pub segments: u64,
    /// Segments that got a sum.
    pub sums_made: u64,
    /// Ranges found damaged.
    pub damaged_ranges: u64,
    /// Files beside logs that were built again.
    pub rebuilt_sidecars: u64,
    /// Segments in which another program wrote.
    pub stale_segments: u64,
    /// Partitions that could not be gone through to the end.
    pub failures: u64,
    /// Rounds over all partitions.
    pub rounds: u64,
}

/// What one partition counted since the store was opened, over all openings of its log, and how much it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionMetrics {
    /// What its logs counted.
    pub counts: LogCounts,
    /// Its marks, if they are known without opening it.
    pub marks: Option<Marks>,
    /// Its segments; `None` until it was opened.
    pub segments: Option<usize>,
    /// Bytes of its logs; `None` until it was opened, and where it would take a look at the disk.
    pub bytes: Option<u64>,
}

/// Counters of the store's own.
#[derive(Debug, Default)]
pub(super) struct StoreCounters {
    opened: Counter,
    recovered: Counter,
    recovered_bytes: Counter,
    failed_openings: Counter,
    parked: Counter,
    reopened: Counter,
    rolled: Counter,
    removed_dirs: Counter,
}

impl StoreCounters {
    pub(super) fn note_opening(&self, opened: &Result<PartitionLog, OpenError>) {
        let Ok(log) = opened else { return self.failed_openings.add(1) };
        let bytes = log.recovery_report().scanned_bytes;
        self.opened.add(1);
        self.recovered.add(u64::from(bytes > 0));
        self.recovered_bytes.add(bytes);
    }

    pub(super) fn note_parked(&self) {
        self.parked.add(1);
    }

    pub(super) fn note_housekept(&self, done: &Housekept) {
        self.reopened.add(done.reopened as u64);
        self.rolled.add(done.rolled as u64);
        self.removed_dirs.add(done.removed_dirs as u64);
    }

    fn counts(&self) -> WorkCounts {
        WorkCounts {
            opened_logs: self.opened.value(),
            recovered_logs: self.recovered.value(),
            recovered_bytes: self.recovered_bytes.value(),
            failed_openings: self.failed_openings.value(),
            parked_logs: self.parked.value(),
            reopened_logs: self.reopened.value(),
            rolled_segments: self.rolled.value(),
            removed_dirs: self.removed_dirs.value(),
        }
    }
}

impl ScrubMetrics {
    /// The numbers as they are now.
    pub fn counts(&self) -> ScrubCounts {
        ScrubCounts {
            bytes: self.bytes.value(),
            segments: self.segments.value(),
            sums_made: self.sums_made.value(),
            damaged_ranges: self.damaged_ranges.value(),
            rebuilt_sidecars: self.rebuilt_sidecars.value(),
            stale_segments: self.stale_segments.value(),
            failures: self.failures.value(),
            rounds: self.rounds.value(),
        }
    }
}

impl Store {
    /// What the store counted since it was opened, and what it holds now. A look at each partition, and no disk; never
    /// waits for one.
    pub fn metrics(&self) -> StoreMetrics {
        StoreMetrics { cleaning: self.cleaner().metrics(), ..self.shared.metrics() }
    }
}

impl Partition {
    /// What the partition counted since the store was opened, also before it was put aside or reopened. Opens nothing and
    /// never waits.
    pub fn metrics(&self) -> PartitionMetrics {
        self.hosted.metrics()
    }
}

impl Shared {
    pub(super) fn metrics(&self) -> StoreMetrics {
        let (all, mut logs) = self.all_and_departed();
        let mut partitions = PartitionCounts::default();
        for hosted in &all {
            logs += hosted.counts();
            partitions.count(hosted);
        }
        StoreMetrics {
            logs,
            partitions,
            directories: self.directories.iter().map(|directory| directory.metrics()).collect(),
            work: self.counters.counts(),
            scrubbing: self.scrubber.metrics.counts(),
            cleaning: self.cleaner_metrics(),
            descriptors: self.descriptors.usage(),
            residency: self.residency.usage(),
        }
    }
}

impl PartitionCounts {
    fn count(&mut self, hosted: &Arc<Hosted>) {
        let state = hosted.peek();
        *match state.as_deref().map(|slot| &slot.state) {
            Some(SlotState::Loaded(_)) => &mut self.open,
            Some(SlotState::Parked(_)) => &mut self.idle,
            Some(SlotState::Failed(_)) => &mut self.failed,
            Some(SlotState::Away(_)) => &mut self.away,
            None => &mut self.changing,
        } += 1;
    }
}

impl Hosted {
    pub(super) fn metrics(&self) -> PartitionMetrics {
        let mut metrics = PartitionMetrics { counts: self.counts(), ..PartitionMetrics::default() };
        if let Some(slot) = self.peek() {
            let extent = slot.extent();
            metrics.marks = slot.marks();
            metrics.segments = extent.map(|extent| extent.segments);
            metrics.bytes = extent.and_then(|extent| extent.bytes);
        }
        metrics
    }
}

impl Slot {
    fn extent(&self) -> Option<Extent> {
        match &self.state {
            SlotState::Loaded(loaded) => Some(loaded.log.extent()),
            SlotState::Parked(parked) => parked.extent,
            SlotState::Failed(_) | SlotState::Away(_) => None,
        }
    }
}

impl super::directory::Directory {
    fn metrics(&self) -> DirectoryMetrics {
        let flushed = self.flusher.metrics();
        DirectoryMetrics {
            dir: self.path.to_path_buf(),
            is_offline: self.failure_seen().is_some(),
            partitions: u64::try_from(self.len()).unwrap_or(0),
            flush_rounds: flushed.rounds.value(),
            flushed_logs: flushed.synced_logs.value(),
            busy_logs: flushed.busy_logs.value(),
            flush_panics: flushed.panics.value(),
            list_writes: self.list_writes.value(),
            list_failures: self.list_failures.value(),
            space: self.space().map(SpaceGuard::report),
        }
    }
}
