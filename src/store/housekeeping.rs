//! What a store does from time to time: roll, delete and expire by time, put idle logs aside, reopen failed ones, write the
//! lists of offsets, remove the directories of deleted partitions.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::directory::Directory;
use super::events::StoreEvent;
use super::hosted::{Hosted, SlotState};
use super::names::CheckpointKind;
use super::partition_id::TopicPartition;
use super::shared::{LeavingDir, Shared};
use super::space::SpaceState;
use super::trace;
use crate::config::LogConfig;
use crate::error::{IoFailure, IoOperation};
use crate::fs::{EntryKind, FileSystem};
use crate::log::{PartitionLog, oldest_timestamp};
use crate::sync::Mutex;
use crate::units::{Offset, TimestampMs};

/// What one look of the housekeeper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Housekept {
    /// Segments rolled because of their age.
    pub rolled: usize,
    /// Segments that retention took out of their logs.
    pub deleted_segments: usize,
    /// Logs put aside because nobody used them.
    pub parked: usize,
    /// Logs that had failed and were opened again.
    pub reopened: usize,
    /// Directories of deleted partitions that were removed.
    pub removed_dirs: usize,
    /// Whether the lists of offsets were written.
    pub wrote_lists: bool,
}

/// After so long in one look no more idle logs are put aside; the next look goes on.
const PARKING_TIME: Duration = Duration::from_millis(200);

/// When things were done last.
#[derive(Debug, Default)]
pub(super) struct Housekeeper {
    last: Mutex<Option<Duration>>,
    retained: Mutex<Option<Duration>>,
    points: Mutex<Option<Duration>>,
    starts: Mutex<Option<Duration>>,
    marks: Mutex<Option<Duration>>,
    cleaned: Mutex<Option<Duration>>,
    #[cfg(feature = "metrics")]
    published: Mutex<Option<Duration>>,
}

/// How often figures go to the recorder of the `metrics` crate.
#[cfg(feature = "metrics")]
const PUBLISH_INTERVAL: Duration = Duration::from_secs(5);

impl Housekeeper {
    /// Does what is due at monotonic time `now`.
    pub(super) fn step(&self, shared: &Shared, now: Duration) -> Housekept {
        let config = &shared.config;
        let mut done = Housekept::default();
        shared.watch_space(now);
        shared.trim_descriptors();
        if is_due(&self.last, now, config.housekeeping_interval) {
            let retains = is_due(&self.retained, now, config.retention_check_interval);
            for hosted in shared.all() {
                shared.keep(&hosted, now, retains, &mut done);
            }
            done.removed_dirs = shared.remove_leaving(now);
            shared.residency.enforce();
            shared.hear_of_failures();
        }
        // Also here: that a partition falls behind is seen while all workers are busy, or hang.
        shared.cleaner.survey_if_due(shared, now);
        let intervals = [
            (CheckpointKind::RecoveryPoint, &self.points, config.recovery_checkpoint_interval),
            (CheckpointKind::LogStart, &self.starts, config.start_checkpoint_interval),
            (CheckpointKind::HighWatermark, &self.marks, config.high_watermark_checkpoint_interval),
            // Kafka writes it after each pass, and others may have come to their end meanwhile.
            (CheckpointKind::Cleaner, &self.cleaned, config.start_checkpoint_interval),
        ];
        let is_kind_due = |(kind, last, every): (_, &Mutex<_>, _)| is_due(last, now, every).then_some(kind);
        let kinds: Vec<CheckpointKind> = intervals.into_iter().filter_map(is_kind_due).collect();
        if !kinds.is_empty() {
            done.wrote_lists = true;
            for directory in &shared.directories {
                // A directory that fails is offline now, and a full disk is asked again.
                let _ = shared.write_lists(directory, &kinds);
                if kinds.contains(&CheckpointKind::RecoveryPoint) && directory.check().is_ok() {
                    // A disk that died is noticed, though nothing had to be written.
                    let _ = shared.judge(directory, directory.look().and_then(|()| directory.sync()));
                }
            }
        }
        shared.counters.note_housekept(&done);
        #[cfg(feature = "metrics")]
        if is_due(&self.published, now, PUBLISH_INTERVAL) {
            shared.publish_metrics();
        }
        done
    }
}

/// Whether `interval` has passed since `last`; from the first look on.
fn is_due(last: &Mutex<Option<Duration>>, now: Duration, interval: Duration) -> bool {
    let mut last = last.lock();
    let due = last.is_none_or(|last| now.saturating_sub(last) >= interval);
    if due {
        *last = Some(now);
    }
    due
}

impl Shared {
    /// Looks after one partition.
    fn keep(&self, hosted: &Arc<Hosted>, now: Duration, retains: bool, done: &mut Housekept) {
        if let Some(log) = hosted.loaded() {
            if log.failure().is_some() {
                done.reopened += usize::from(self.mend(hosted, now));
                return;
            }
            self.keep_log(hosted, log, now, retains, done);
        } else if retains
            && self.has_expired(hosted)
            && let Ok(log) = self.log_of(hosted)
        {
            self.keep_log(hosted, log, now, retains, done);
        }
    }

    fn keep_log(&self, hosted: &Arc<Hosted>, log: PartitionLog, now: Duration, retains: bool, done: &mut Housekept) {
        // What fails is tried again, and what latches the log is seen by the next look.
        let kept = log.housekeep(retains).unwrap_or_default();
        done.rolled += usize::from(kept.rolled);
        done.deleted_segments += kept.deleted;
        trace::retained(&hosted.name, kept.deleted);
        let is_idle = self.config.idle_after.is_some_and(|after| hosted.is_idle(&log, now, after));
        drop(log);
        // Closing one takes some syncs. When thousands have become idle at once, lists and space must not wait for all.
        let has_time = self.environment.clock.monotonic().saturating_sub(now) < PARKING_TIME;
        if is_idle && has_time && hosted.park(self.environment.clock.wall(), |log| self.cleaner.first_dirty(log)) {
            self.counters.note_parked();
            done.parked += 1;
        }
    }

    /// Whether retention may have something to delete from a log that is put aside.
    fn has_expired(&self, hosted: &Hosted) -> bool {
        let wall = self.environment.clock.wall();
        let known = hosted.look(|slot| match &slot.state {
            SlotState::Parked(parked) => {
                Some((parked.retention_due, Arc::clone(&slot.config), slot.directory.path_of(&hosted.name)))
            }
            SlotState::Loaded(_) | SlotState::Failed(_) | SlotState::Away(_) => None,
        });
        let Some((due, config, path)) = known else { return false };
        if let Some(due) = due {
            return due <= wall;
        }
        let due = retention_due(&*self.environment.fs, &path, &config);
        hosted.change(|slot| match &mut slot.state {
            SlotState::Parked(parked) => {
                // One that was just looked at in vain is not opened again at once.
                let due = due.max(parked.not_before);
                parked.retention_due = Some(due);
                due <= wall
            }
            SlotState::Loaded(_) | SlotState::Failed(_) | SlotState::Away(_) => false,
        })
    }

    /// Opens a log anew that failed, if the settings say so and the time has come.
    fn mend(&self, hosted: &Arc<Hosted>, now: Duration) -> bool {
        let Some(first) = self.config.reopen_after else { return false };
        let is_time = hosted.watch(|watch| {
            let doubled = first.saturating_mul(1_u32.checked_shl(watch.reopenings.min(31)).unwrap_or(u32::MAX));
            let pause = doubled.min(self.config.reopen_after_max);
            let at = *watch.reopen_at.get_or_insert(now + pause);
            if now >= at {
                watch.reopenings = watch.reopenings.saturating_add(1);
                watch.reopen_at = None;
            }
            now >= at
        });
        if !is_time {
            return false;
        }
        let reopenings = hosted.watch(|watch| watch.reopenings);
        let reopened = self.reopen(hosted).is_ok();
        if reopened {
            self.events.emit(&StoreEvent::PartitionReopened { partition: hosted.name.clone() });
        }
        // Loading began a new watch; a log that fails again soon must not be reopened at once.
        hosted.watch(|watch| watch.reopenings = reopenings);
        reopened
    }

    /// Writes the lists of offsets of a directory.
    pub(super) fn write_lists(&self, directory: &Arc<Directory>, kinds: &[CheckpointKind]) -> Result<(), IoFailure> {
        if directory.check().is_err() {
            return Ok(());
        }
        // Where there is no space for that yet, none is left for the rest either, which the rest will tell.
        let _ = directory.forget_owed();
        let collecting = directory.collect();
        let mut offsets = self.offsets_of(directory);
        offsets.retain(|(kind, _)| kinds.contains(kind));
        let said = match collecting.say(offsets.clone()) {
            Err(failure) if failure.is_storage_full() && self.free_reserve(directory) => collecting.say(offsets),
            said => said,
        };
        drop(collecting);
        if let Err(cause) = &said {
            trace::lists_not_written(&directory.path, cause);
        }
        self.judge(directory, said)
    }

    /// Looks at the space of each directory, where that is due.
    fn watch_space(&self, now: Duration) {
        for directory in &self.directories {
            let Some(space) = directory.space() else { continue };
            // What the system does not tell leaves things as they are; the directory's own files show whether it lives.
            let Ok(Some(state)) = space.refresh(&*self.environment.fs, now) else { continue };
            let dir = directory.path.to_path_buf();
            let free = space.report().space.free;
            self.events.emit(&match state {
                SpaceState::Low { free, floor } => StoreEvent::SpaceLow { dir, free, floor },
                SpaceState::Ok => StoreEvent::SpaceOk { dir, free },
            });
        }
    }

    /// Gives up a directory's reserve, so that what frees space has some to begin with; `true` if that was any.
    pub(super) fn free_reserve(&self, directory: &Directory) -> bool {
        let Some(space) = directory.space() else { return false };
        space.give_up_reserve(&*self.environment.fs).is_ok_and(|bytes| bytes > 0)
    }

    /// Tells subscribers of logs that failed.
    fn hear_of_failures(&self) {
        for directory in &self.directories {
            // It keeps them until they are asked for; the slots know.
            drop(directory.flusher.take_failed());
        }
        for hosted in self.all() {
            let Some(failed) = hosted.loaded().and_then(|log| log.failure()) else { continue };
            if hosted.watch(|watch| !std::mem::replace(&mut watch.is_failure_told, true)) {
                let (partition, cause) = (hosted.name.clone(), failed.cause);
                self.events.emit(&StoreEvent::PartitionFailed { partition, cause });
            }
        }
    }

    /// What the lists of a directory are to say of its partitions, by list.
    fn offsets_of(&self, directory: &Arc<Directory>) -> Vec<(CheckpointKind, BTreeMap<TopicPartition, Offset>)> {
        let (mut points, mut starts, mut marks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut cleaned = BTreeMap::new();
        for hosted in self.all_in(directory) {
            let name = || hosted.name.clone();
            hosted.look(|slot| {
                let Some(found) = slot.marks() else { return };
                // One that is not open was closed cleanly. Of an open one no more than what is replicated: a cut goes no
                // further back then, most often, and each that does has to have the list replaced first.
                let replicated = |log: &PartitionLog| log.listed_point().min(found.high_watermark);
                let point = slot.loaded().map_or(found.log_end, replicated);
                let first = slot.first_base().unwrap_or(found.log_start);
                points.insert(name(), point);
                marks.insert(name(), found.high_watermark);
                cleaned.extend(slot.first_dirty(|log| self.cleaner.first_dirty(log)).map(|first| (name(), first)));
                // Kafka writes those alone that its segments do not tell.
                let is_told = directory.offset(CheckpointKind::LogStart, &hosted.name).is_some();
                if found.log_start > first || is_told {
                    starts.insert(name(), found.log_start);
                }
            });
        }
        vec![
            (CheckpointKind::RecoveryPoint, points),
            (CheckpointKind::LogStart, starts),
            (CheckpointKind::HighWatermark, marks),
            (CheckpointKind::Cleaner, cleaned),
        ]
    }

    /// Removes the directories of deleted partitions whose time has come; returns how many.
    fn remove_leaving(&self, now: Duration) -> usize {
        let due: Vec<LeavingDir> = {
            let naming = self.naming.lock();
            naming.leaving.iter().filter(|leaving| leaving.due <= now).cloned().collect()
        };
        let mut removed = 0;
        for leaving in due.iter().filter(|leaving| leaving.directory.check().is_ok()) {
            let path = leaving.directory.path.join(&leaving.name);
            // What cannot be removed is tried again; it is in nobody's way.
            if remove_dir(&*self.environment.fs, &path).is_ok() {
                self.naming.lock().leaving.retain(|other| other.name != leaving.name);
                removed += 1;
            }
        }
        removed
    }
}

/// Removes a directory with the files in it. May be repeated.
fn remove_dir(fs: &dyn FileSystem, path: &Path) -> Result<(), IoFailure> {
    let entries = match fs.list(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| IoFailure::new(IoOperation::List, path, e))?,
    };
    for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Directory) {
        let file = path.join(&entry.name);
        fs.remove_file(&file).map_err(|e| IoFailure::new(IoOperation::Remove, file, e))?;
    }
    fs.remove_dir(path).map_err(|e| IoFailure::new(IoOperation::Remove, path, e))
}

/// When retention may first delete something of a closed log that nothing is appended to. The end of time where it never
/// will; now where nothing tells.
fn retention_due(fs: &dyn FileSystem, path: &Path, config: &LogConfig) -> TimestampMs {
    let Some(retention) = config.retention_ms.filter(|_| config.cleanup_policy.deletes()) else {
        return TimestampMs::new(i64::MAX);
    };
    let retention = i64::try_from(retention).unwrap_or(i64::MAX);
    match oldest_timestamp(fs, path) {
        Ok(Some(oldest)) => TimestampMs::new(oldest.value().saturating_add(retention)),
        Ok(None) => TimestampMs::new(i64::MAX),
        Err(_) => TimestampMs::new(i64::MIN),
    }
}
