//! Aborted transactions of a range, for consumers that read committed records only (Kafka's
//! `LocalLog.collectAbortedTransactions`).

use std::sync::Arc;

use super::LogCore;
use super::derived::{Replay, producer_limits};
use super::view::LogView;
use crate::error::ReadError;
use crate::index::{AbortedTxn, AbortedTxns, LeaderEpochs};
use crate::units::Offset;

impl LogCore {
    /// The transactions that a reader of `from..upper` has to leave out, by the offset of their markers.
    pub(super) fn aborted_between(
        &self,
        view: &LogView,
        from: Offset,
        upper: Offset,
    ) -> Result<Vec<AbortedTxn>, ReadError> {
        let mut found = Vec::new();
        for at in view.segment_of(from)..view.segments.len() {
            let Some(segment) = view.segments.get(at) else { break };
            let is_complete = match segment.with_aborted(|aborted| aborted.collect(from, upper, &mut found)) {
                Err(ReadError::Corrupt(_)) => self.aborted_in(view, at)?.collect(from, upper, &mut found),
                looked => looked?,
            };
            if is_complete {
                break;
            }
        }
        Ok(found)
    }

    /// The aborted transactions of the segment at `at`; derived from the log again where their file is wrong.
    pub(super) fn aborted_in(&self, view: &LogView, at: usize) -> Result<AbortedTxns, ReadError> {
        let Some(segment) = view.segments.get(at) else { return Ok(AbortedTxns::default()) };
        match segment.with_aborted(Clone::clone) {
            Err(ReadError::Corrupt(_)) => {}
            looked => return looked,
        }
        let aborted = self.derive_aborted(view, at)?;
        // Said first: what is on disk too may be dropped from memory at any time.
        segment.mark_index_saved(false);
        segment.put_aborted(aborted.clone());
        Ok(aborted)
    }

    /// What the log says of the aborted transactions of the segment at `at`, whatever its file says.
    pub(super) fn derive_aborted(&self, view: &LogView, at: usize) -> Result<AbortedTxns, ReadError> {
        let Some(segment) = view.segments.get(at) else { return Ok(AbortedTxns::default()) };
        let config = Arc::clone(&self.config.read());
        let log_base = view.segments.first().map_or(segment.base(), |first| first.base());
        let (now, limits) = (self.clock.wall(), producer_limits(&config));
        let epochs = LeaderEpochs::default();
        let mut replay = Replay::begin(&self.home, segment.base(), log_base, epochs, now, limits)?;
        let from = replay.producers_from();
        for before in view.segment_of(from)..=at {
            let Some(segment) = view.segments.get(before) else { break };
            replay.walk(segment, from, view.extent_of(before)?)?;
        }
        Ok(replay.aborted.remove(&segment.base()).unwrap_or_default())
    }
}
