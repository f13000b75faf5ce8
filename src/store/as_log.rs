//! A store's partition behind the object-safe trait [`Log`], so that an embedder holds it and a log opened alone, or a fake,
//! in the same place.
//!
//! What can fail says why the partition cannot be used. What cannot (a look at producers, epochs, the token) answers as an
//! empty log would while it cannot be used; [`Log::health`] says that it is so.

use std::path::PathBuf;
use std::sync::Arc;

use super::hosted::{Hosted, Parked, SlotState};
use super::partition::{Partition, PartitionState};
use crate::clock::Deadline;
use crate::commit::{Mark, Marks};
use crate::config::LogConfig;
use crate::error::{
    AppendError, ChangeError, ConfigError, DurabilityError, LogFailed, ReadError, Unavailable, WaitError,
};
use crate::facade::{BoxedFuture, Log, LogAppended, LogRead};
use crate::index::{EpochEnd, EpochStart, ProducerState, VerificationGuard};
use crate::log::{AppendOptions, Batches, LogHealth, PartitionLog, ReadOptions, Ticked, TimestampOffset};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Each call goes to the log as it is then, as those of [`Partition`] itself do. Three differ from a log opened alone:
/// `close` makes everything durable and puts the log aside, and whoever uses the partition next opens it again; `tick` and
/// `marks` open nothing. While the partition is unavailable `marks` are those last known, which are all zero if it was
/// never open.
impl Log for Partition {
    fn append(&self, batches: Batches<'_>, how: AppendOptions) -> Result<LogAppended, AppendError> {
        Ok(self.log()?.append(batches, how)?.into())
    }

    fn read(&self, offset: Offset, options: &ReadOptions) -> Result<LogRead, ReadError> {
        Ok(LogRead::Slices(self.log()?.read(offset, options)?))
    }

    fn marks(&self) -> Marks {
        let (zero, last) = (Offset::ZERO, self.hosted.last_marks());
        let nothing =
            Marks { log_start: zero, last_stable: zero, high_watermark: zero, durable_end: zero, log_end: zero };
        Self::marks(self).ok().or(last).unwrap_or(nothing)
    }

    fn wait_for(&self, mark: Mark, at_least: Offset) -> BoxedFuture<Result<Offset, WaitError>> {
        match self.log() {
            Ok(log) => Box::pin(log.wait_for(mark, at_least)),
            Err(why) => Box::pin(std::future::ready(Err(why.into()))),
        }
    }

    fn wait_until(&self, mark: Mark, at_least: Offset, deadline: Deadline) -> Result<Offset, WaitError> {
        self.log()?.wait_until(mark, at_least, deadline)
    }

    fn flush(&self) -> Result<Offset, DurabilityError> {
        self.log()?.flush()
    }

    fn tick(&self) -> Result<Ticked, ChangeError> {
        // Nothing is due of one that was put aside.
        self.hosted.loaded().map_or_else(|| Ok(Ticked::default()), |log| log.tick())
    }

    fn roll(&self) -> Result<bool, ChangeError> {
        self.log()?.roll()
    }

    fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError> {
        self.log()?.truncate_to(offset)
    }

    fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), ChangeError> {
        self.log()?.truncate_fully_and_start_at(offset)
    }

    fn truncate_to_epoch_end(&self, leader: EpochEnd) -> Result<Offset, ChangeError> {
        self.log()?.truncate_to_epoch_end(leader)
    }

    fn advance_high_watermark(&self, to: Offset) -> Result<Offset, ChangeError> {
        self.log()?.advance_high_watermark(to)
    }

    fn advance_log_start(&self, to: Offset) -> Result<Offset, ChangeError> {
        self.log()?.advance_log_start(to)
    }

    fn begin_leader_epoch(&self, epoch: LeaderEpoch) -> Result<(), ChangeError> {
        self.log()?.begin_leader_epoch(epoch)
    }

    fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.log().ok()?.leader_epoch()
    }

    fn leader_epochs(&self) -> Vec<EpochStart> {
        self.log().map(|log| log.leader_epochs()).unwrap_or_default()
    }

    fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.log().ok()?.end_offset_for_epoch(epoch)
    }

    fn divergence(&self, offset: Offset, last_epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.log().ok()?.divergence(offset, last_epoch)
    }

    fn offset_for_timestamp(&self, timestamp: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        self.log()?.offset_for_timestamp(timestamp)
    }

    fn producers(&self) -> Vec<ProducerState> {
        self.log().map(|log| log.producers()).unwrap_or_default()
    }

    fn begin_verification(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
    ) -> Result<Option<VerificationGuard>, ChangeError> {
        self.log()?.begin_verification(producer, epoch, sequence)
    }

    fn fence(&self, token: u64) -> Result<(), ChangeError> {
        self.log()?.fence(token)
    }

    fn fencing_token(&self) -> Option<u64> {
        self.log().ok()?.fencing_token()
    }

    fn seal(&self) -> Result<(), ChangeError> {
        self.log()?.seal()
    }

    fn unseal(&self) -> Result<(), ChangeError> {
        self.log()?.unseal()
    }

    fn is_sealed(&self) -> bool {
        self.log().is_ok_and(|log| log.is_sealed())
    }

    fn config(&self) -> Arc<LogConfig> {
        Self::config(self)
    }

    fn update_config(&self, config: LogConfig) -> Result<(), ConfigError> {
        Self::update_config(self, config)
    }

    fn health(&self) -> LogHealth {
        if let Some(log) = self.hosted.loaded() {
            return log.health();
        }
        let health = Self::health(self);
        let (failed, is_closed) = match health.state {
            PartitionState::Unavailable(Unavailable::Offline { cause, .. }) => {
                (Some(LogFailed { cause: *cause }), true)
            }
            PartitionState::Unavailable(_) => (None, true),
            PartitionState::Idle | PartitionState::Open => (None, false),
        };
        LogHealth { failed, is_closed, damage: health.damage, producers: 0, waiting: 0 }
    }

    fn segment_files(&self) -> Vec<PathBuf> {
        self.log().map(|log| log.segment_files()).unwrap_or_default()
    }

    fn close(&self) -> Result<(), ChangeError> {
        match (self.hosted.loaded(), self.state()) {
            (Some(log), _) => self.hosted.put_aside(&log),
            (None, PartitionState::Unavailable(why)) => Err(why.into()),
            (None, PartitionState::Idle | PartitionState::Open) => Ok(()),
        }
    }
}

impl Hosted {
    /// Closes a log and puts it aside, whoever still holds it.
    fn put_aside(&self, log: &PartitionLog) -> Result<(), ChangeError> {
        let (lent, first_base) = (log.lent(), Some(log.first_base()));
        // Before the slot is taken: who is in the middle of something must be able to finish.
        log.close()?;
        let marks = log.marks();
        self.change(|slot| {
            // Somebody may have closed and opened it meanwhile.
            if slot.loaded().is_some_and(|open| open.is_same(log)) {
                slot.state = SlotState::Parked(Parked { first_base, lent, ..Parked::closed_at(marks) });
            }
        });
        Ok(())
    }
}
