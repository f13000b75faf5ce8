//! Leader epochs and producers of an open log: who led from which offset on, and who wrote what.

use std::time::Duration;

use super::derived::{producer_limits, write_epochs};
use super::{LogCore, PartitionLog};
use crate::error::ChangeError;
use crate::index::{EpochEnd, EpochStart, ProducerState, VerificationGuard};
use crate::units::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// How often producers are looked through for expired ones, at most.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(10);

impl PartitionLog {
    /// Notes that the leadership `epoch` begins at the log end, although nothing was appended in it yet (Kafka's
    /// `maybeAssignEpochStartOffset`): appends of earlier leaders are refused from now on. Durable when it returns. An
    /// opening forgets it while the log still ends there.
    ///
    /// # Errors
    /// [`ChangeError::StaleEpoch`] unless it is past the newest; I/O, after which it holds until the log is closed.
    pub fn begin_leader_epoch(&self, epoch: LeaderEpoch) -> Result<(), ChangeError> {
        let core = &self.core;
        let _round = core.round.lock();
        let epochs = {
            let mut writer = core.writer.lock();
            writer.check_writable()?;
            if let Some(newest) = writer.derived.epochs.latest().filter(|newest| epoch <= *newest) {
                return Err(ChangeError::StaleEpoch { given: epoch, newest });
            }
            let log_end = writer.log_end;
            writer.derived.epochs.assign(epoch, log_end);
            writer.derived.epochs_changed = true;
            core.publish(&mut writer, &self.config(), |_| {});
            writer.derived.epochs.clone()
        };
        core.keeper.begin()?;
        let written = write_epochs(&core.home, &epochs);
        match (written, core.keeper.finish(None)) {
            (Err(failure), _) if *failure.path == *core.home.dir => {
                Err(core.latch(&mut core.writer.lock(), failure).into())
            }
            (_, Err(failure)) => Err(core.latch(&mut core.writer.lock(), failure).into()),
            (written, Ok(())) => Ok(written?),
        }
    }

    /// The newest leader epoch in the log.
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.core.view.read().epochs.latest()
    }

    /// Every leader epoch in the log with its first offset, rising.
    pub fn leader_epochs(&self) -> Vec<EpochStart> {
        self.core.view.read().epochs.entries().to_vec()
    }

    /// Where `epoch` ended in this log, or the epoch before it if it has no records here (KIP-101, KIP-279; Kafka's
    /// `OffsetForLeaderEpoch`). `None` where the log cannot tell: it is newer than all of them, or there are none.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        let view = self.core.view.read();
        view.epochs.end_offset_for(epoch, view.marks.log_end)
    }

    /// Where a follower that read up to `offset` in leadership `last_epoch` left this log, if it did (KIP-595's
    /// diverging epoch): it has to cut there before it may go on.
    pub fn divergence(&self, offset: Offset, last_epoch: LeaderEpoch) -> Option<EpochEnd> {
        let end = self.end_offset_for_epoch(last_epoch)?;
        (end.epoch < last_epoch || end.end < offset).then_some(end)
    }

    /// The follower's part: cuts what this log has past the leader's answer to where `epoch` ended there. Returns the
    /// log end. To be repeated with the newest epoch that is left until the leader finds no divergence.
    ///
    /// # Errors
    /// As [`PartitionLog::truncate_to`].
    pub fn truncate_to_epoch_end(&self, leader: EpochEnd) -> Result<Offset, ChangeError> {
        let own = self.end_offset_for_epoch(leader.epoch);
        let marks = self.marks();
        let cut = match own {
            // The leader knows an epoch that this log has too: what both have of it stays.
            Some(own) if own.epoch == leader.epoch => own.end.min(leader.end),
            // This log has only earlier ones below: they end where ours do, and not past what the leader has.
            Some(own) => own.end.min(leader.end),
            None => leader.end,
        };
        self.truncate_to(cut.max(marks.log_start).min(marks.log_end))
    }

    /// The producers that the log knows, by id. What an idempotent or transactional producer did last (KIP-98).
    pub fn producers(&self) -> Vec<ProducerState> {
        self.core.writer.lock().derived.producers.summaries()
    }

    /// To be asked for before the batch that begins a transaction is appended, once the coordinator has confirmed that
    /// the transaction is under way (KIP-890): a write that comes too late, after the marker, has no guard and is
    /// refused. `None` when a transaction of that producer and epoch is open already and no guard is needed.
    ///
    /// # Errors
    /// A failed or closed log.
    pub fn begin_verification(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        sequence: Option<Sequence>,
    ) -> Result<Option<VerificationGuard>, ChangeError> {
        let limits = producer_limits(&self.config());
        let mut writer = self.core.writer.lock();
        writer.check_open()?;
        Ok(writer.derived.producers.begin_verification(producer, epoch, sequence, &limits))
    }
}

impl LogCore {
    /// Forgets producers that wrote nothing for `producer.id.expiration.ms`. Looks at all of them, with appends waiting,
    /// so no more often than a hundredth of that time, or than [`EXPIRY_INTERVAL`] (Kafka's
    /// `producer.id.expiration.check.interval.ms`).
    pub(super) fn expire_producers(&self) {
        let limits = producer_limits(&self.config.read());
        let hundredth = Duration::from_millis(limits.expiration_ms.unsigned_abs() / 100);
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        let mut writer = self.writer.lock();
        let is_due = |last: Duration| now.saturating_sub(last) >= hundredth.min(EXPIRY_INTERVAL);
        if writer.producers_expired.is_none_or(is_due) {
            writer.producers_expired = Some(now);
            writer.derived.producers.expire(wall, &limits);
        }
    }
}
