//! How the cleaner stands. A look at each partition and no disk; nobody is waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Cleaner;
use super::cause::CauseKind;
use super::counters::percent;
use super::room::{CleanerRoom, Tracked};
use super::state::{Behind, CleaningHealth, CleaningState};
use crate::store::hosted::{Hosted, SlotState};
use crate::store::partition_id::TopicPartition;
use crate::store::shared::Shared;
use crate::store::store_error::StoreError;
use crate::store::workers::{WorkerHealth, WorkerState};
use crate::units::TimestampMs;

/// How the cleaner stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CleanerHealth {
    /// Whether the settings have it clean at all.
    pub is_enabled: bool,
    /// Who had all of it stand still, if somebody did.
    pub paused_by: Option<String>,
    /// Whether some partition is behind, for which the throttle is lifted.
    pub is_catching_up: bool,
    /// Its workers; none with [`Workers::Tick`](crate::store::Workers::Tick).
    pub workers: Vec<CleanerWorker>,
    /// Workers that have no thread, or whose thread has ended.
    pub dead_workers: u64,
    /// Every compacted partition that was looked at.
    pub partitions: Vec<CleaningHealth>,
}

impl CleanerHealth {
    /// Whether all is cleaned as it should be: no partition waits after a failure or is behind, no worker is dead or stuck.
    pub fn is_well(&self) -> bool {
        self.dead_workers == 0
            && self.workers.iter().all(|worker| !worker.is_stuck)
            && self.partitions.iter().all(CleaningHealth::is_well)
    }
}

/// A worker of the cleaner.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CleanerWorker {
    /// Its thread.
    pub worker: WorkerHealth,
    /// Whether its present step takes longer than it should: a disk that does not answer, most often.
    pub is_stuck: bool,
    /// The partition that it is at.
    pub partition: Option<TopicPartition>,
}

/// What is left to clean, for whoever wants to slow down those who write.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CleanerBacklog {
    /// The partitions that have something to clean, the one that needs it most first.
    pub partitions: Vec<PartitionBacklog>,
    /// Bytes that could be cleaned and are not, of all of them.
    pub bytes: u64,
    /// How fast these grow; negative where they shrink.
    pub growth_bytes_per_second: i64,
    /// How long it takes at the pace of late, if nothing is added; `None` where nothing tells.
    pub time_left: Option<Duration>,
}

/// What is left to clean of one partition.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionBacklog {
    /// Which one.
    pub partition: TopicPartition,
    /// Bytes that could be cleaned and are not.
    pub bytes: u64,
    /// Milliseconds for which the oldest of them should have been.
    pub overdue_ms: u64,
    /// How fast the backlog grows.
    pub growth_bytes_per_second: i64,
    /// Set while the cleaner does not keep up with it.
    pub behind: Option<Behind>,
}

/// The cleaner's figures, the first eight under the names that they have in Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanerMetrics {
    /// `max-dirty-percent`: of all partitions, the largest dirty share.
    pub max_dirty_percent: u64,
    /// `time-since-last-run-ms`: since a worker looked for something to clean or a pass came to its end, in any partition;
    /// since the store was opened before that. Grows where nothing cleans: no thread, all of them stuck, the cleaner
    /// switched off or paused.
    pub time_since_last_run_ms: u64,
    /// `uncleanable-partitions-count`: partitions whose last pass failed, or that are damaged.
    pub uncleanable_partitions_count: u64,
    /// `uncleanable-bytes`: bytes that could be cleaned of those whose last pass failed.
    pub uncleanable_bytes: u64,
    /// `DeadThreadCount`: workers that have no thread, or whose thread has ended.
    pub dead_thread_count: u64,
    /// `max-compaction-delay-secs`: for how long the record that is longest overdue should have been cleaned.
    pub max_compaction_delay_secs: u64,
    /// `max-buffer-utilization-percent`: how full the last pass's map of keys was, in hundredths of the keys that its memory
    /// holds; 100 where they did not fit, and were spilled or left to another pass.
    pub max_buffer_utilization_percent: u64,
    /// `cleaner-recopy-percent`: bytes of segments written, in hundredths of those read.
    pub cleaner_recopy_percent: u64,
    /// `max-clean-time-secs`: how long the longest pass took.
    pub max_clean_time_secs: u64,
    /// Partitions that the cleaner does not keep up with.
    pub behind_partitions: u64,
    /// Partitions that are being cleaned.
    pub cleaning_partitions: u64,
    /// Partitions that wait for a worker.
    pub due_partitions: u64,
    /// Partitions that are paused.
    pub paused_partitions: u64,
    /// Workers whose step takes longer than it should.
    pub stuck_workers: u64,
    /// Bytes that could be cleaned and are not.
    pub backlog_bytes: u64,
    /// Memory that passes may hold now.
    pub memory_bytes: u64,
    /// The most memory that a pass held, codecs apart.
    pub memory_peak_bytes: u64,
    /// What was counted since the store was opened.
    pub counts: CleanerCounts,
}

/// What the cleaner did since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanerCounts {
    /// Passes that came to their end.
    pub passes: u64,
    /// Of these, such as sorted out keys on disk.
    pub spilling_passes: u64,
    /// Of these, such as ended early for want of memory and disk.
    pub partial_passes: u64,
    /// Passes that failed.
    pub failures: u64,
    /// Times that a partition fell behind.
    pub times_behind: u64,
    /// Bytes read and written, also by passes that failed.
    pub moved_bytes: u64,
    /// Bytes read by passes that came to their end.
    pub read_bytes: u64,
    /// Bytes of segments written.
    pub written_bytes: u64,
    /// Bytes spilled.
    pub spilled_bytes: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Records looked at.
    pub read_records: u64,
    /// Records kept.
    pub kept_records: u64,
    /// Records without a key, which a compacted log does not keep.
    pub keyless_records: u64,
}

impl Cleaner {
    /// How the cleaner stands, with every compacted partition. Never waits for a disk.
    pub fn health(&self) -> CleanerHealth {
        let room = &self.shared.cleaner;
        let now = self.now().monotonic;
        let partitions: Vec<CleaningHealth> =
            self.shared.all().iter().filter_map(|hosted| hosted.cleaning_health()).collect();
        let at_work = |number: usize| {
            let is_at = |health: &&CleaningHealth| matches!(&health.state, CleaningState::Cleaning(progress) if progress.worker == number);
            partitions.iter().find(is_at).map(|health| health.partition.clone())
        };
        let worker = |(number, worker): (usize, WorkerHealth)| CleanerWorker {
            is_stuck: worker.is_stuck(now),
            partition: at_work(number),
            worker,
        };
        CleanerHealth {
            is_enabled: room.config().enabled,
            paused_by: room.pause.lock().as_ref().map(|pause| pause.by.clone()),
            is_catching_up: room.is_catching_up.load(Ordering::Acquire),
            workers: self.owner.cleaner_workers().into_iter().map(worker).collect(),
            dead_workers: self.shared.dead_cleaners(),
            partitions,
        }
    }

    /// How the cleaning of one partition stands.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Closed`].
    pub fn health_of(&self, partition: &TopicPartition) -> Result<CleaningHealth, StoreError> {
        let hosted = self.find(partition)?;
        hosted.cleaning_health().ok_or_else(|| StoreError::Unknown { partition: partition.clone() })
    }

    /// What is left to clean, the partition that needs it most first.
    pub fn backlog(&self) -> CleanerBacklog {
        let mut found: Vec<_> = self.shared.all().iter().filter_map(|hosted| hosted.backlog()).collect();
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        let partitions: Vec<PartitionBacklog> = found.into_iter().map(|(_, backlog)| backlog).collect();
        let bytes = partitions.iter().map(|partition| partition.bytes).fold(0, u64::saturating_add);
        let growth = partitions.iter().map(|partition| partition.growth_bytes_per_second);
        CleanerBacklog {
            bytes,
            growth_bytes_per_second: growth.fold(0, i64::saturating_add),
            time_left: self.shared.cleaner.time_for(bytes, self.config().threads),
            partitions,
        }
    }

    /// The cleaner's figures.
    pub fn metrics(&self) -> CleanerMetrics {
        self.shared.cleaner_metrics()
    }
}

impl CleanerRoom {
    /// How long so many dirty bytes take at the pace of the passes so far.
    fn time_for(&self, bytes: u64, threads: u32) -> Option<Duration> {
        let millis = self.counters.millis_for(bytes)? / u64::from(threads.max(1));
        Some(Duration::from_millis(millis))
    }
}

impl Hosted {
    /// How its cleaning stands; `None` where it is not cleaned.
    pub(in crate::store) fn cleaning_health(&self) -> Option<CleaningHealth> {
        // Before the track is locked: holes are behind locks of the log's.
        let quarantined = self.peek().map_or_else(Vec::new, |slot| match &slot.state {
            SlotState::Loaded(loaded) => loaded.log.glance().damage,
            SlotState::Parked(parked) => parked.damage.clone(),
            SlotState::Failed(_) | SlotState::Away(_) => Vec::new(),
        });
        self.track(|tracked| CleaningHealth { quarantined, ..tracked.health(self.name.clone()) })
    }

    fn backlog(&self) -> Option<(impl Ord + use<>, PartitionBacklog)> {
        self.track(|tracked| {
            let track = &tracked.track;
            let seen = track.seen().filter(|seen| seen.dirty_bytes > 0)?;
            let backlog = PartitionBacklog {
                partition: self.name.clone(),
                bytes: seen.dirty_bytes,
                overdue_ms: track.behind().map_or(seen.overdue_ms, |behind| behind.overdue_ms),
                growth_bytes_per_second: track.growth(),
                behind: track.behind(),
            };
            Some((track.urgency(), backlog))
        })?
    }
}

impl Tracked {
    fn health(&self, partition: TopicPartition) -> CleaningHealth {
        let (track, seen) = (&self.track, self.track.seen());
        let state = track.state();
        let is_told = matches!(state, CleaningState::Retry { .. });
        CleaningHealth {
            partition,
            behind: track.behind(),
            dirty_bytes: seen.map_or(0, |seen| seen.dirty_bytes),
            clean_bytes: seen.map_or(0, |seen| seen.clean_bytes),
            held_bytes: seen.map_or(0, |seen| seen.held_bytes),
            held_by: seen.and_then(|seen| seen.held_by.clone()),
            first_dirty: seen.map(|seen| seen.first_dirty),
            last: track.last(),
            failed_before: track.retry().filter(|_| !is_told).map(|retry| retry.cause.clone()),
            quarantined: Vec::new(),
            is_begun_anew: track.is_begun_anew,
            state,
        }
    }
}

impl Shared {
    /// Workers that have no thread, or whose thread has ended though nobody told it to.
    fn dead_cleaners(&self) -> u64 {
        let room = &self.cleaner;
        let is_dead = |health: &WorkerHealth| health.state == WorkerState::Stopped;
        // A store that closes ends them all.
        let is_open = self.check_open().is_ok();
        let dead = room.workers().iter().filter(|(_, health)| is_open && is_dead(health)).count() as u64;
        room.missing_workers.load(Ordering::Acquire).saturating_add(dead)
    }

    /// The cleaner's figures.
    pub(in crate::store) fn cleaner_metrics(&self) -> CleanerMetrics {
        let room = &self.cleaner;
        let monotonic = self.environment.clock.monotonic();
        let recent = room.counters.recent();
        let counts = room.counters.counts();
        let mut metrics = CleanerMetrics {
            dead_thread_count: self.dead_cleaners(),
            stuck_workers: room.workers().iter().filter(|(_, worker)| worker.is_stuck(monotonic)).count() as u64,
            max_buffer_utilization_percent: recent.buffer_percent,
            cleaner_recopy_percent: percent(counts.written_bytes, counts.read_bytes),
            max_clean_time_secs: recent.took_max.as_secs(),
            memory_bytes: room.memory.held(),
            memory_peak_bytes: recent.memory_peak,
            counts,
            ..CleanerMetrics::default()
        };
        let mut last_run = *room.looked.lock();
        for hosted in self.all() {
            metrics.add(&hosted, &mut last_run);
        }
        let now = self.environment.clock.wall();
        let last_run = last_run.unwrap_or(room.opened_at);
        metrics.time_since_last_run_ms = u64::try_from(now.since(last_run)).unwrap_or(0);
        metrics
    }
}

impl CleanerMetrics {
    fn add(&mut self, hosted: &Arc<Hosted>, last_run: &mut Option<TimestampMs>) {
        let Some(health) = hosted.cleaning_health() else { return };
        let dirty = health.dirty_bytes;
        *last_run = (*last_run).max(health.last.map(|last| last.at));
        self.backlog_bytes = self.backlog_bytes.saturating_add(dirty);
        self.max_dirty_percent = self.max_dirty_percent.max(percent(dirty, dirty.saturating_add(health.clean_bytes)));
        let overdue = hosted.track(|tracked| tracked.track.seen().map_or(0, |seen| seen.overdue_ms)).unwrap_or(0);
        self.max_compaction_delay_secs = self.max_compaction_delay_secs.max(overdue / 1000);
        self.behind_partitions += u64::from(health.behind.is_some());
        let has_failed = hosted.track(|tracked| tracked.track.retry().is_some()).unwrap_or(false);
        self.uncleanable_partitions_count += u64::from(has_failed || !health.quarantined.is_empty());
        if has_failed {
            self.uncleanable_bytes = self.uncleanable_bytes.saturating_add(dirty);
        }
        match health.state {
            CleaningState::Cleaning(_) => self.cleaning_partitions += 1,
            CleaningState::Due { .. } => self.due_partitions += 1,
            CleaningState::Paused { .. } => self.paused_partitions += 1,
            CleaningState::Clean | CleaningState::Retry { .. } => {}
        }
    }
}

impl CauseKind {
    /// How many bytes are missing, if it is that.
    pub fn missing_bytes(self) -> Option<u64> {
        if let Self::Space { missing_bytes } = self { Some(missing_bytes) } else { None }
    }
}
