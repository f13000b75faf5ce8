//! Closing cleanly: everything durable, indexes written, the recovery point at the log end, and a marker that spares the
//! next opening its scan. The marker is written last, when all that it vouches for is synced.

use super::derived::{epochs_checksum, write_epochs};
use super::state::{CleanShutdown, ClosedMarks};
use super::writer::{Writer, WriterState};
use super::{LogCore, PartitionLog, RoundState};
use crate::error::{ChangeError, IoFailure, ReadError};
use crate::units::Offset;

impl PartitionLog {
    /// Syncs everything, writes the indexes and closes the log. Appends and reads are refused from then on, waiters are
    /// answered, and the lock is free. Closing a closed log does nothing.
    ///
    /// # Errors
    /// [`ChangeError`] says why the close was not clean. The log is closed all the same, and the next opening recovers.
    pub fn close(&self) -> Result<(), ChangeError> {
        let core = &self.core;
        let mut round = core.round.lock();
        let is_over = matches!(core.writer.lock().state, WriterState::Closed | WriterState::Moved);
        // One that latched and was given up then is over, too.
        if is_over || core.view.read().is_closed {
            return Ok(());
        }
        let closed = core.close_cleanly(&mut round);
        core.writer.lock().state = WriterState::Closed;
        core.view.write().is_closed = true;
        *core.lock.lock() = None;
        // Wakers are somebody else's code, which may well look at the log.
        drop(round);
        core.queue.close();
        core.waiters.close();
        closed
    }
}

impl LogCore {
    fn close_cleanly(&self, round: &mut RoundState) -> Result<(), ChangeError> {
        // A directory with files on their way out is not a clean one. What cannot be unlinked is, by the next opening.
        self.finish_leaving(round, true);
        self.keep_met_damage()?;
        loop {
            self.sync_under(round)?;
            let mut writer = self.writer.lock();
            writer.check_open()?;
            // An append came between; with the lock held none can.
            if !writer.needs_sync() {
                return Ok(self.put_down(round, &mut writer)?);
            }
        }
    }

    fn put_down(&self, round: &mut RoundState, writer: &mut Writer) -> Result<(), IoFailure> {
        self.keeper.begin()?;
        // Zeros kept ahead are no part of the log.
        let active = writer.sealed(&self.home)?;
        if active.trim()? {
            active.sync()?;
        }
        writer.active.close_time_index(&writer.cursor);
        self.save_missing_indexes()?;
        self.save_sums(round, std::iter::empty());
        self.put_down_derived(writer)?;
        self.home.sync_names()?;
        let marks = self.view.read().marks;
        self.keeper.raise_recovery_point(writer.log_end, marks.high_watermark)?;
        self.keeper.finish(Some(writer.log_end))?;
        let marker = CleanShutdown {
            generation: self.keeper.generation(),
            log_end: writer.log_end,
            active_base: writer.active.base(),
            active_bytes: writer.position,
            index_checksum: writer.active.index_checksum(),
            epochs_checksum: epochs_checksum(&writer.derived.epochs),
            marks: Some(ClosedMarks {
                log_start: marks.log_start,
                high_watermark: marks.high_watermark,
                last_stable: marks.last_stable,
            }),
        };
        marker.write(&*self.home.fs, &self.home.dir)
    }

    /// Writes the index files that are missing or behind. Where the aborted transactions cannot be told, none is written:
    /// the lack of their file would then mean that there are none.
    fn save_missing_indexes(&self) -> Result<(), IoFailure> {
        let view = self.view.read().clone();
        for (at, segment) in view.segments.iter().enumerate().filter(|(_, segment)| !segment.is_index_saved()) {
            match self.aborted_in(&view, at) {
                Err(ReadError::Io(failure)) => return Err(failure),
                Err(_) => continue,
                Ok(_) => segment.build_index()?,
            }
            segment.save_index()?;
        }
        Ok(())
    }

    /// Writes what Kafka, and the next opening, would otherwise derive from the log: leader epochs, and the producers at
    /// the log end.
    fn put_down_derived(&self, writer: &mut Writer) -> Result<(), IoFailure> {
        write_epochs(&self.home, &writer.derived.epochs)?;
        writer.derived.epochs_changed = false;
        writer.derived.take_snapshot(writer.log_end);
        writer.derived.write_pending(&self.home)?;
        let bases: Vec<Offset> = self.view.read().segments.iter().map(|segment| segment.base()).collect();
        self.home.remove_stray_snapshots(&bases, writer.log_end)
    }
}
