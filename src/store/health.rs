//! How a store is doing: what an operator, or a probe, asks at any time and above all when a disk does not answer. So nothing
//! here waits for a disk, an append, a sync, or a log that is being opened.

use std::path::PathBuf;

use super::cleaner::CleaningHealth;
use super::directories::DirectoryHealth;
use super::hosted::{Hosted, Slot, SlotState};
use super::partition_id::TopicPartition;
use super::report::StoreReport;
use super::space::SpaceGuard;
use super::workers::WorkerHealth;
use super::{Partition, PartitionState, Store};
use crate::error::{Damage, LogFailed};
use crate::fs::DescriptorUsage;
use crate::segment::ResidencyUsage;

/// How a store is doing.
///
/// ```
/// use alluvium::store::{Store, StoreConfig};
/// # let dir = tempfile::tempdir()?;
/// let config = StoreConfig { reserve_bytes: 0, space_floor_bytes: 0, ..StoreConfig::new(dir.path()) };
/// let store = Store::open(config)?;
/// let health = store.health();
/// assert!(health.is_well(), "{health:?}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreHealth {
    /// Whether it was closed.
    pub is_closed: bool,
    /// Every data directory, in the order in which they were named.
    pub directories: Vec<DirectoryHealth>,
    /// The partitions that are not as they should be: latched, unavailable, with ranges that cannot be read, not cleaned
    /// since the last pass failed, or with more to clean than the cleaner keeps up with.
    pub partitions: Vec<PartitionHealth>,
    /// Partitions that are being opened, moved or put aside at this moment: nothing else is said of them here.
    pub changing: Vec<TopicPartition>,
    /// The store's threads; none with [`Workers::Tick`](super::Workers::Tick).
    pub workers: Vec<WorkerStatus>,
    /// Threads that should clean, and could not be started or have ended.
    pub dead_cleaners: u64,
    /// Open descriptors.
    pub descriptors: DescriptorUsage,
    /// Descriptors, maps and index memory of sealed segments.
    pub residency: ResidencyUsage,
    /// What opening the store found.
    pub opening: OpeningSummary,
}

impl StoreHealth {
    /// Whether everything serves as it should: no directory is offline or short of space, no partition latched,
    /// unavailable, damaged or left behind by the cleaner, no thread stuck, dead or pausing after a panic.
    pub fn is_well(&self) -> bool {
        !self.is_closed
            && self.directories.iter().all(DirectoryHealth::is_well)
            && self.partitions.is_empty()
            && self.workers.iter().all(WorkerStatus::is_well)
            && self.dead_cleaners == 0
    }
}

/// How a partition is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionHealth {
    /// Which one.
    pub partition: TopicPartition,
    /// Its data directory.
    pub dir: PathBuf,
    /// Whether its log is open, idle or unavailable.
    pub state: PartitionState,
    /// Why it takes no more appends until it is opened again, if it latched.
    pub failed: Option<LogFailed>,
    /// Ranges that cannot be read: of a log that is open, or was since the store was opened.
    pub damage: Vec<Damage>,
    /// How its cleaning stands; `None` where it is not compacted, or nobody has looked yet.
    pub cleaning: Option<CleaningHealth>,
}

impl PartitionHealth {
    /// Whether it serves as it should, and is cleaned.
    pub fn is_well(&self) -> bool {
        self.failed.is_none()
            && self.damage.is_empty()
            && !matches!(self.state, PartitionState::Unavailable(_))
            && self.cleaning.as_ref().is_none_or(CleaningHealth::is_well)
    }
}

/// A thread of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// What it is at.
    pub worker: WorkerHealth,
    /// Whether its present step takes longer than it should.
    pub is_stuck: bool,
}

impl WorkerStatus {
    /// Whether it goes on with its work.
    pub fn is_well(&self) -> bool {
        !self.is_stuck && !matches!(self.worker.state, super::workers::WorkerState::BackingOff { .. })
    }
}

/// What opening a store found, in numbers; [`Store::report`] has it line by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpeningSummary {
    /// Data directories.
    pub directories: usize,
    /// Those that were offline from the start.
    pub offline_directories: usize,
    /// Those whose last shutdown was clean.
    pub clean_directories: usize,
    /// Partitions found.
    pub partitions: usize,
    /// Those that had to be opened.
    pub opened: usize,
    /// Those in which recovery found anything out of the ordinary.
    pub recovered: usize,
    /// Those that could not be opened.
    pub failed: usize,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// Partitions found in two directories.
    pub duplicates: usize,
    /// Entries that are neither ours nor Kafka's.
    pub unknown_entries: usize,
}

impl OpeningSummary {
    fn of(report: &StoreReport) -> Self {
        let directories = &report.directories;
        Self {
            directories: directories.len(),
            offline_directories: directories.iter().filter(|directory| directory.offline.is_some()).count(),
            clean_directories: directories.iter().filter(|directory| directory.was_clean).count(),
            partitions: report.partitions(),
            opened: directories.iter().map(|directory| directory.opened).sum(),
            recovered: report.recovered().count(),
            failed: report.failed().count(),
            scanned_bytes: directories.iter().map(|directory| directory.scanned_bytes).sum(),
            duplicates: directories.iter().map(|directory| directory.duplicates.len()).sum(),
            unknown_entries: directories.iter().map(|directory| directory.unknown_entries.len()).sum(),
        }
    }
}

impl Store {
    /// How the store is doing. A look at each partition and segment, and no disk; never waits for one. Damage in
    /// partitions that were not opened yet is not known.
    pub fn health(&self) -> StoreHealth {
        let shared = &self.shared;
        let mut directories: Vec<DirectoryHealth> = shared
            .directories
            .iter()
            .map(|directory| DirectoryHealth {
                dir: directory.path.to_path_buf(),
                offline: directory.failure_seen(),
                partitions: Vec::new(),
                space: directory.space().map(SpaceGuard::report),
            })
            .collect();
        let (mut partitions, mut changing) = (Vec::new(), Vec::new());
        for hosted in shared.all() {
            let Some(slot) = hosted.peek() else {
                changing.push(hosted.name.clone());
                continue;
            };
            if let Some(directory) = directories.iter_mut().find(|known| *known.dir == *slot.directory.path) {
                directory.partitions.push(hosted.name.clone());
            }
            let mut health = slot.health(&hosted.name);
            drop(slot);
            health.cleaning = hosted.cleaning_health();
            partitions.extend((!health.is_well()).then_some(health));
        }
        let now = shared.environment.clock.monotonic();
        let status = |worker: WorkerHealth| WorkerStatus { is_stuck: worker.is_stuck(now), worker };
        StoreHealth {
            is_closed: shared.check_open().is_err(),
            directories,
            partitions,
            changing,
            workers: self.workers().into_iter().map(status).collect(),
            dead_cleaners: self.cleaner().metrics().dead_thread_count,
            descriptors: shared.descriptors.usage(),
            residency: shared.residency.usage(),
            opening: OpeningSummary::of(&self.report),
        }
    }
}

impl Partition {
    /// How the partition is doing. Opens nothing; waits only while it is being opened or moved.
    pub fn health(&self) -> PartitionHealth {
        self.hosted.health()
    }
}

impl Hosted {
    pub(super) fn health(&self) -> PartitionHealth {
        let health = self.look(|slot| slot.health(&self.name));
        PartitionHealth { cleaning: self.cleaning_health(), ..health }
    }
}

impl Slot {
    fn health(&self, name: &TopicPartition) -> PartitionHealth {
        let (partition, dir) = (name.clone(), self.directory.path.to_path_buf());
        let (failed, damage) = match &self.state {
            SlotState::Loaded(loaded) => {
                let glance = loaded.log.glance();
                (glance.failed, glance.damage)
            }
            SlotState::Parked(parked) => (None, parked.damage.clone()),
            SlotState::Failed(_) | SlotState::Away(_) => (None, Vec::new()),
        };
        PartitionHealth { partition, dir, state: self.partition_state(), failed, damage, cleaning: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::config::LogConfig;
    use crate::fs::sim::SimFs;
    use crate::log::Environment;
    use crate::store::{StoreConfig, StoreOpening, Workers};

    /// A probe must answer above all when a disk does not: here one partition hangs in a change of its own.
    #[test]
    fn nobody_waits_for_a_partition_that_is_about_to_change() {
        let environment = Environment { fs: Arc::new(SimFs::new(1)), ..Environment::default() };
        let config = StoreConfig { workers: Workers::Tick, reserve_bytes: 0, ..StoreConfig::new("/data") };
        let store = StoreOpening::new(config).environment(environment).open().unwrap();
        let names: [TopicPartition; 2] = ["hangs-0".parse().unwrap(), "serves-0".parse().unwrap()];
        for name in &names {
            store.create(name, LogConfig::default()).unwrap();
        }
        let hosted = store.shared.find(&names[0]).unwrap();
        std::thread::scope(|scope| {
            let (told, hears) = channel();
            let asking = &store;
            hosted.change(|_| {
                scope.spawn(move || told.send((asking.health(), asking.metrics())).is_ok());
                let (health, metrics) = hears.recv_timeout(Duration::from_secs(20)).expect("nobody waits");
                assert_eq!(health.changing, names[..1]);
                assert_eq!(health.directories[0].partitions, names[1..]);
                assert_eq!((metrics.partitions.changing, metrics.partitions.open), (1, 1));
            });
        });
        assert!(store.health().changing.is_empty());
    }
}
