//! Damage that is met while a log is open: from then on reads are told of it, and so is the next opening. And the files
//! that vouch for sealed segments, as long as they can be made without a walk of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{LogCore, RoundState};
use crate::error::{ChangeError, IoFailure, IoOperation};
use crate::segment::{Hole, Segment};
use crate::units::Offset;

/// A commit round goes through a sealed segment for its sum if it has at most this many bytes: some milliseconds. Larger
/// ones that were not appended to from their beginning by one process are left to scrubbing.
const WALK_BYTES_MAX: u64 = 16 << 20;
/// Sums that could not be written are tried again for this many segments; scrubbing makes the others.
const UNSUMMED_MAX: usize = 64;

impl LogCore {
    /// Notes what of `segment` cannot be read, for readers and on disk; returns whether anything of it is news. A list
    /// that cannot be written is written by a later tick. The round is locked.
    pub(super) fn quarantine(&self, segment: &Segment, met: Vec<Hole>) -> Result<bool, ChangeError> {
        let is_news = segment.add_holes(met);
        if is_news {
            self.keep_damage()?;
        }
        Ok(is_news)
    }

    /// Writes the list of damage. The round is locked.
    pub(super) fn keep_damage(&self) -> Result<(), ChangeError> {
        let segments = Arc::clone(&self.view.read().segments);
        let is_unsaved = |segment: &&Arc<Segment>| segment.has_unsaved_holes();
        let unsaved: Vec<&Arc<Segment>> = segments.iter().filter(is_unsaved).collect();
        // Before it is written: what is met meanwhile is for the next list.
        for segment in &unsaved {
            segment.mark_holes_saved(true);
        }
        if self.change_files(|| self.save_damage())?.is_some() {
            for segment in &unsaved {
                segment.mark_holes_saved(false);
            }
            self.has_met_damage.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A tick's part: writes down what reads met. Skipped while a round is under way.
    pub(super) fn maybe_keep_damage(&self) -> Result<(), ChangeError> {
        if !self.has_met_damage.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(_round) = self.round.try_lock() else { return Ok(()) };
        self.has_met_damage.store(false, Ordering::Relaxed);
        self.keep_met_damage()
    }

    /// Writes the list of damage if it does not have all of it. The round is locked.
    pub(super) fn keep_met_damage(&self) -> Result<(), ChangeError> {
        let has_unsaved = self.view.read().segments.iter().any(|segment| segment.has_unsaved_holes());
        if has_unsaved && self.writer.lock().check_open().is_ok() { self.keep_damage() } else { Ok(()) }
    }

    /// Changes files beside the logs, durably. Returns what failed, if it left the log as good as it was; after a failed
    /// sync of the directory nobody knows which names are durable, and the log latches. The round is locked.
    pub(super) fn change_files(
        &self,
        change: impl FnOnce() -> Result<(), IoFailure>,
    ) -> Result<Option<IoFailure>, ChangeError> {
        let changed = self.keeper.begin().and_then(|()| change());
        let failure = match changed {
            Err(failure) if failure.operation == IoOperation::Sync && *failure.path == *self.home.dir => {
                return Err(self.latch(&mut self.writer.lock(), failure).into());
            }
            changed => changed.err(),
        };
        self.metrics.side_file_failures.add(u64::from(failure.is_some()));
        self.finish_deciding(&mut self.writer.lock())?;
        Ok(failure)
    }

    /// A round's part: writes the sums of the segments that it synced, whose indexes are there, and of those for which
    /// that failed before. What cannot be written now is for the next round, or for scrubbing.
    pub(super) fn save_sums(&self, round: &mut RoundState, sealed: impl Iterator<Item = Offset>) {
        round.unsummed.extend(sealed);
        if round.unsummed.is_empty() {
            return;
        }
        let view = self.view.read().clone();
        let mut wanted = std::mem::take(&mut round.unsummed);
        wanted.retain(|base| {
            let at = view.segment_of(*base);
            let segment = view.segments.get(at).filter(|segment| segment.base() == *base);
            let is_settled = view.segments.get(at + 1).is_some_and(|next| next.base() <= view.marks.durable_end);
            // Gone, or cut since.
            let Some(segment) = segment.filter(|_| is_settled) else { return false };
            let saved =
                if segment.is_index_saved() { segment.save_sum(WALK_BYTES_MAX).map(drop) } else { return true };
            self.metrics.side_file_failures.add(u64::from(saved.is_err()));
            saved.is_err()
        });
        wanted.drain(..wanted.len().saturating_sub(UNSUMMED_MAX));
        round.unsummed = wanted;
    }
}
