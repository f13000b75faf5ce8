//! What an embedder decides about a log: who may write, whether anybody may, where it begins, what is replicated. Each
//! decision is on disk before it is in force, but for the high watermark, which may be behind after a crash.

use std::sync::Arc;

use super::state::Standing;
use super::writer::Writer;
use super::{LogCore, PartitionLog};
use crate::config::HighWatermarkMode;
use crate::error::ChangeError;
use crate::sync::MutexGuard;
use crate::units::Offset;

impl PartitionLog {
    /// Announces a fencing token: from now on every append has to carry it, and those of an older writer are refused.
    /// Survives restarts and power losses.
    ///
    /// ```
    /// # use alluvium::{AppendAs, AppendError, AppendOptions, BatchBuilder, LeaderEpoch, LogConfig, PartitionLog};
    /// # let dir = tempfile::tempdir()?;
    /// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
    /// log.fence(7)?;
    /// let epoch = LeaderEpoch::new(0).unwrap();
    /// let batch = BatchBuilder::new().record(alluvium::TimestampMs::new(-1), None, Some(b"v")).build()?;
    /// let refused = log.append(batch.clone(), AppendAs::Client { epoch });
    /// assert!(matches!(refused, Err(AppendError::FencedToken { given: None, current: 7 })));
    /// log.append(batch, AppendOptions::new(AppendAs::Client { epoch }).fenced_by(7))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ChangeError::StaleToken`] unless it is larger than the one in force; I/O, after which either may be.
    pub fn fence(&self, token: u64) -> Result<(), ChangeError> {
        self.core.decide(|standing| match standing.fencing_token {
            Some(current) if token <= current => Err(ChangeError::StaleToken { given: token, current }),
            _ => Ok(Standing { fencing_token: Some(token), ..standing }),
        })
    }

    /// The fencing token in force.
    pub fn fencing_token(&self) -> Option<u64> {
        self.core.keeper.standing().fencing_token
    }

    /// Makes the log read-only: appends and truncations are refused until [`PartitionLog::unseal`]. What was appended
    /// before may still become durable; retention goes on. Survives restarts and power losses.
    ///
    /// # Errors
    /// I/O, after which the log is sealed or not; a failed or closed log.
    pub fn seal(&self) -> Result<(), ChangeError> {
        self.core.decide(|standing| Ok(Standing { is_sealed: true, ..standing }))
    }

    /// Lets the log be written again.
    ///
    /// # Errors
    /// As [`PartitionLog::seal`].
    pub fn unseal(&self) -> Result<(), ChangeError> {
        self.core.decide(|standing| Ok(Standing { is_sealed: false, ..standing }))
    }

    /// Whether the log is read-only.
    pub fn is_sealed(&self) -> bool {
        self.core.keeper.standing().is_sealed
    }

    /// Moves the high watermark, with `high_watermark` set to `Embedder`: everything below it is replicated. It never
    /// falls but with the log end. Returns the mark, which is what it was when `to` lies before it.
    ///
    /// Written down at times: after a crash it is an earlier one, as in Kafka.
    ///
    /// # Errors
    /// [`ChangeError::NotYours`] in the other modes; [`ChangeError::OutOfBounds`] past the log end.
    pub fn advance_high_watermark(&self, to: Offset) -> Result<Offset, ChangeError> {
        let config = self.config();
        if config.high_watermark != HighWatermarkMode::Embedder {
            return Err(ChangeError::NotYours);
        }
        let mut writer = self.core.writer.lock();
        writer.check_open()?;
        if to > writer.log_end {
            let (from, to_max) = (self.marks().high_watermark, writer.log_end);
            return Err(ChangeError::OutOfBounds { what: "the high watermark", asked: to, from, to: to_max });
        }
        self.core.publish(&mut writer, &config, |view| {
            view.marks.high_watermark = view.marks.high_watermark.max(to);
        });
        self.core.wake(writer);
        Ok(self.marks().high_watermark)
    }

    /// Deletes the records below `to` (Kafka's `DeleteRecords`): they cannot be read from now on, also after a power
    /// loss. Their space is freed segment by segment, by [`PartitionLog::tick`] or
    /// [`PartitionLog::enforce_retention`]; what lies in the active segment stays on disk until that has rolled. Returns
    /// the log start, which is what it was when `to` lies before it. Works on a full disk.
    ///
    /// What is deleted need not have been durable: the offsets below `to` are not given out again, even if a power loss
    /// takes their records.
    ///
    /// # Errors
    /// [`ChangeError::OutOfBounds`] past the high watermark; I/O, after which either start may be found when the log is
    /// opened again.
    pub fn advance_log_start(&self, to: Offset) -> Result<Offset, ChangeError> {
        let core = &self.core;
        // No truncation meanwhile, whose end could come to lie below the new start.
        let _round = core.round.lock();
        let marks = self.marks();
        if to > marks.high_watermark {
            let (from, to_max) = (marks.log_start, marks.high_watermark);
            return Err(ChangeError::OutOfBounds { what: "the log start", asked: to, from, to: to_max });
        }
        if to <= marks.log_start {
            core.writer.lock().check_open()?;
            return Ok(marks.log_start);
        }
        core.raise_log_start(to)?;
        Ok(to)
    }
}

impl LogCore {
    fn decide(&self, change: impl FnOnce(Standing) -> Result<Standing, ChangeError>) -> Result<(), ChangeError> {
        let _round = self.round.lock();
        self.decide_under(change)
    }

    /// Writes a decision down and puts it in force. The round is locked. A decision that forbids something is in force
    /// once this returns: appends that were under way have their place by then.
    fn decide_under(&self, change: impl FnOnce(Standing) -> Result<Standing, ChangeError>) -> Result<(), ChangeError> {
        self.writer.lock().check_open()?;
        let standing = change(self.keeper.standing())?;
        self.keeper.begin()?;
        let decided = self.keeper.decide(standing);
        let mut writer = self.writer.lock();
        match decided {
            // Nobody knows which names are durable.
            Err(failure) if *failure.path == *self.home.dir => return Err(self.latch(&mut writer, failure).into()),
            Err(failure) => {
                self.finish_deciding(&mut writer)?;
                return Err(failure.into());
            }
            Ok(()) => self.finish_deciding(&mut writer)?,
        }
        writer.fencing_token = standing.fencing_token;
        writer.is_sealed = standing.is_sealed;
        Ok(())
    }

    /// Has it on disk that nothing below `to` is to be read any more, and tells readers. The round is locked.
    pub(super) fn raise_log_start(&self, to: Offset) -> Result<(), ChangeError> {
        // The mark may be past what is on disk, where nobody ever decided about it.
        if self.keeper.standing().log_start.is_none_or(|decided| decided < to) {
            self.tell_of_producers()?;
            self.decide_under(|standing| Ok(Standing { log_start: Some(to), ..standing }))?;
        }
        let mut writer = self.writer.lock();
        let config = Arc::clone(&self.config.read());
        writer.derived.epochs_changed |= writer.derived.epochs.truncate_from_start(to);
        writer.derived.producers.advance_log_start(to);
        self.publish(&mut writer, &config, |view| view.marks.log_start = view.marks.log_start.max(to));
        Ok(())
    }

    /// Writes the producers' snapshots that wait. What is deleted from the front of a log is told by them alone: a process
    /// that died before the next round would leave a log that has forgotten those producers. Their names are synced with
    /// that of the decision which follows. The round is locked.
    fn tell_of_producers(&self) -> Result<(), ChangeError> {
        let mut pending = std::mem::take(&mut self.writer.lock().derived.pending);
        while let Some(snapshot) = pending.front() {
            if let Err(failure) = snapshot.write(&self.home) {
                let mut writer = self.writer.lock();
                // A roll may have taken another one meanwhile.
                pending.append(&mut writer.derived.pending);
                writer.derived.pending = pending;
                // The log start is raised on a full disk too, where nothing else frees space.
                return if failure.is_storage_full() { Ok(()) } else { Err(failure.into()) };
            }
            pending.pop_front();
        }
        Ok(())
    }

    pub(super) fn finish_deciding(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), ChangeError> {
        self.keeper.finish(None).map_err(|failure| self.latch(writer, failure).into())
    }
}
