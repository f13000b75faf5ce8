//! A partition log: append, read, roll, truncate, sync, recover.
//!
//! The way of an append: validate (record) → judge (fencing, epochs, producers) → stamp → roll if due → write → index and
//! derive (producers, epochs, aborted transactions) → publish the marks → count for the flush policy → wake who waits. The
//! way of a read: clone the published view → find the segment → index → headers → slices.
//!
//! Who holds what: `round` (one commit round or truncation at a time) < `writer` (the append path) < `view` (what
//! readers see). A sync runs under `round` alone, so appends go on meanwhile; truncation and the undoing of a failed
//! write sync under `writer`, because nothing may be written in the place of a cut before the cut is durable.

mod aborted;
mod ancestors;
mod append;
mod batches;
pub(crate) mod clean_state;
pub(crate) mod cleaning;
mod close;
mod derived;
pub(crate) mod directory;
mod doubt;
mod epochs;
mod handover;
pub(crate) mod hosted;
mod hosting;
mod incoming;
mod keeper;
mod leftovers;
mod open;
mod quarantine;
mod read;
mod recover;
mod repair;
pub(crate) mod replace;
mod report;
mod retain;
mod roll;
mod round;
mod scrub;
mod slice;
mod standing;
pub(crate) mod state;
mod survey;
mod swap;
mod sync;
mod timestamps;
mod truncate;
mod view;
mod wait;
mod writer;
mod zero_ahead;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) use ancestors::sync_ancestors;
pub use append::Appended;
pub use batches::{AppendAs, AppendOptions, Batches};
pub(crate) use clean_state::{CleanState, PassProgress, PutCleanError};
pub(crate) use cleaning::{CleanSegment, CleanView, CleaningClaim, Staged, Staging};
pub(crate) use derived::{derived_bytes, read_epochs, write_epochs};
pub(crate) use handover::{Glimpse, HandOverError, Held, Prefix, Unfinished};
pub(crate) use hosting::{Extent, Former, Lent, oldest_timestamp};
pub use open::Environment;
pub(crate) use open::Left;
pub use read::{Isolation, ReadOptions};
pub use repair::Repaired;
pub(crate) use replace::{REPLACED_MAX, ReplaceError};
pub use report::{Action, Finding, Found, RecoveryReport};

pub use retain::{Deleted, DeletedBecause, Retained};
pub(crate) use retain::{Facts as RetentionFacts, Untold, plan as plan_retention};
pub(crate) use round::{Attempt, Member, Part};
pub use scrub::{ScrubCursor, Scrubbed, SegmentScrub};
pub use slice::{Fetched, FetchedBatches, FileSlice, Sent, SentInPart};
pub use sync::{Durable, Ticked};
pub use timestamps::TimestampOffset;
pub use wait::MarkReached;

use crate::clock::Clock;
use crate::commit::{CommitQueue, Due, MarkWaiters, Marks, Worker};
use crate::config::LogConfig;
use crate::error::{ChangeError, ConfigError, Damage, LogFailed};
use crate::fs::{FileSystem, LockGuard};
use crate::metrics::LogMetrics;
use crate::segment::{Home, SegmentOptions};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::units::Offset;
use keeper::SyncKeeper;
use view::LogView;
use writer::Writer;

/// One open partition log. A handle: clones are cheap and name the same log. `Send + Sync`; any thread may call
/// anything. The last handle to go closes the files as a crash would, which loses nothing that was acknowledged;
/// [`PartitionLog::close`] spares the next opening its scan.
///
/// ```
/// use alluvium::record::BatchBuilder;
/// use alluvium::{AppendAs, LeaderEpoch, LogConfig, Offset, PartitionLog, ReadOptions, TimestampMs};
/// use std::time::Duration;
///
/// let dir = tempfile::tempdir().unwrap();
/// let log = PartitionLog::open(dir.path().join("orders-0"), LogConfig::default()).unwrap();
/// let mut builder = BatchBuilder::new();
/// builder.record(TimestampMs::new(1_700_000_000_000), Some(b"key"), Some(b"value"));
/// let epoch = LeaderEpoch::new(0).unwrap();
///
/// let appended = log.append(builder.build().unwrap(), AppendAs::Client { epoch }).unwrap(); // in the page cache
/// appended.wait_durable(Duration::from_secs(10)).unwrap();                                  // on the disk
///
/// let fetched = log.read(Offset::ZERO, &ReadOptions::default()).unwrap();
/// let batches = fetched.batches().unwrap();
/// let batch = batches.iter().next().unwrap().unwrap();
/// let body = batch.body(1 << 20).unwrap();
/// assert_eq!(body.records().next().unwrap().unwrap().value, Some(&b"value"[..]));
/// log.close().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct PartitionLog {
    core: Arc<LogCore>,
}

/// What all handles of one log share.
#[derive(Debug)]
struct LogCore {
    home: Home,
    clock: Arc<dyn Clock>,
    config: RwLock<Arc<LogConfig>>,
    round: Mutex<RoundState>,
    writer: Mutex<Writer>,
    zeros_done: Condvar,
    view: RwLock<LogView>,
    queue: CommitQueue,
    waiters: MarkWaiters,
    keeper: SyncKeeper,
    /// Shared with the store that holds the log, which sums up over openings.
    metrics: Arc<LogMetrics>,
    report: RecoveryReport,
    /// A read met damage that may not be written down.
    has_met_damage: AtomicBool,
    /// One repair at a time.
    is_repairing: AtomicBool,
    /// How far it is clean.
    cleaned: Mutex<clean_state::Cleaned>,
    /// One cleaner at a time.
    is_cleaning: AtomicBool,
    lock: Mutex<Option<Box<dyn LockGuard>>>,
}

/// What commit rounds remember from one to the next.
#[derive(Debug, Default)]
struct RoundState {
    /// Monotonic time at which the recovery point file was last written.
    point_written: std::time::Duration,
    /// What retention has begun and not finished.
    leaving: retain::Leaving,
    /// Sealed segments whose sums could not be written.
    unsummed: Vec<Offset>,
}

/// How a log is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogHealth {
    /// Why the log takes no more appends, when it does not.
    pub failed: Option<LogFailed>,
    /// Whether it was closed.
    pub is_closed: bool,
    /// Ranges that cannot be read.
    pub damage: Vec<Damage>,
    /// Producers that are remembered; `producers_max` bounds those without an open transaction.
    pub producers: usize,
    /// Calls and futures that wait for a mark.
    pub waiting: usize,
}

impl PartitionLog {
    /// The directory of the partition.
    pub fn dir(&self) -> &Path {
        &self.core.home.dir
    }

    /// All marks, as one consistent snapshot.
    pub fn marks(&self) -> Marks {
        self.core.view.read().marks
    }

    /// First readable offset.
    pub fn log_start(&self) -> Offset {
        self.marks().log_start
    }

    /// Next offset to be assigned.
    pub fn log_end(&self) -> Offset {
        self.marks().log_end
    }

    /// Everything below it survives a power loss. Exclusive; rises with completed syncs only; falls with truncation.
    pub fn durable_end(&self) -> Offset {
        self.marks().durable_end
    }

    /// The durable recovery point as the state file has it: at most `durable_end`, usually behind it.
    pub fn recovery_point(&self) -> Offset {
        self.core.keeper.recovery_point()
    }

    /// What opening found and did.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.core.report
    }

    /// Counters since opening.
    pub fn metrics(&self) -> &LogMetrics {
        &self.core.metrics
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        Arc::clone(&self.core.config.read())
    }

    /// Changes the settings from the next operation on. `read_mode` and `index_interval_bytes` hold for segments made
    /// from now on. With another `high_watermark` the mark moves at once, where the new mode has it further on. Waits for
    /// an append in progress.
    ///
    /// # Errors
    /// [`ConfigError`] when a value is out of range; nothing is changed.
    pub fn update_config(&self, config: LogConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let core = &self.core;
        // With the writer locked: appends publish the marks by the mode that is in force then.
        let mut writer = core.writer.lock();
        *core.config.write() = Arc::new(config);
        if writer.check_open().is_ok() {
            let config = self.config();
            core.publish(&mut writer, &config, |_| ());
        }
        core.wake(writer);
        core.queue.wake_worker();
        Ok(())
    }

    /// How the log is doing. Waits for an append in progress, never for a sync.
    pub fn health(&self) -> LogHealth {
        let (failed, producers) = {
            let writer = self.core.writer.lock();
            (writer.failed(), writer.derived.producers.len())
        };
        let view = self.core.view.read().clone();
        let damage = |segment: &Arc<crate::segment::Segment>| {
            segment.holes().iter().map(|hole| segment.damage(hole)).collect::<Vec<_>>()
        };
        let damage = view.segments.iter().flat_map(damage).collect();
        LogHealth { failed, is_closed: view.is_closed, damage, producers, waiting: self.core.waiters.len() }
    }

    /// Paths of the `.log` files, oldest first.
    pub fn segment_files(&self) -> Vec<PathBuf> {
        let segments = Arc::clone(&self.core.view.read().segments);
        segments.iter().map(|segment| segment.log_path()).collect()
    }

    /// The clock that the log goes by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.core.clock
    }

    /// The file system that it is on.
    pub(crate) fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.core.home.fs
    }

    /// From now on waiters wake `worker` instead of syncing themselves; `None` undoes it. For flushers.
    pub(crate) fn attach_worker(&self, worker: Option<Worker>) {
        self.core.queue.attach_worker(worker);
    }

    /// Undoes [`attach_worker`](Self::attach_worker), unless another one took the place since.
    pub(crate) fn detach_worker(&self, due: &Arc<Due>) {
        self.core.queue.detach_worker(due);
    }

    /// Starts a new segment if the active one holds anything; returns whether it did. The old one is synced by the
    /// next commit round.
    pub fn roll(&self) -> Result<bool, ChangeError> {
        self.core.roll_now()
    }
}

impl LogCore {
    fn segment_options(&self) -> SegmentOptions {
        SegmentOptions::of(&self.config.read())
    }
}
