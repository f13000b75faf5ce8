//! Leader epochs: where each leadership of the partition began (format: Kafka's `LeaderEpochFileCache` and
//! `LeaderEpochCheckpointFile`).
//!
//! ```text
//! 0         version
//! 2         number of entries
//! 0 0       epoch, and the offset that its first batch has
//! 3 1200
//! ```
//! Epochs and starts rise strictly. An epoch ends where the next one starts, the last one at the log end. By these a
//! follower, or a leader that was deposed, finds the offset up to which its log and the leader's are the same.

use std::fmt::Write as _;

use super::text::{TextFault, checked_i32, checked_offset, decode_entries, heading};
use crate::units::{LeaderEpoch, Offset};

/// Where an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset that this log has or had; raised with the log start.
    pub start: Offset,
}

/// Where an epoch ends: what a leader answers to Kafka's `OffsetForLeaderEpoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch asked for, or the greatest below it that this log knows.
    pub epoch: LeaderEpoch,
    /// The offset after its last, exclusive.
    pub end: Offset,
}

/// The leader epochs of one log, in memory.
///
/// ```
/// use alluvium::index::{EpochEnd, LeaderEpochs};
/// use alluvium::{LeaderEpoch, Offset};
/// let epoch = |value| LeaderEpoch::new(value).unwrap();
/// let at = |value| Offset::new(value).unwrap();
/// let mut epochs = LeaderEpochs::default();
/// assert!(epochs.assign(epoch(0), at(0)));
/// assert!(!epochs.assign(epoch(0), at(50)), "the epoch goes on");
/// assert!(epochs.assign(epoch(3), at(100)));
/// assert_eq!(epochs.end_offset_for(epoch(2), at(130)), Some(EpochEnd { epoch: epoch(0), end: at(100) }));
/// assert_eq!(epochs.encode(), b"0\n2\n0 0\n3 100\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// Takes the epoch of a batch that starts at `start`; says whether anything changed, and the file is to be written
    /// again. To be called for every batch in log order: while the newest epoch goes on this is one comparison.
    ///
    /// Entries that contradict the new one, of the same epoch or a later one or with the same start or a later one,
    /// are dropped first: the log is what they are about, and it says otherwise.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.entries.last().is_some_and(|newest| newest.epoch == epoch && newest.start <= start) {
            return false;
        }
        // Both rise, so that what contradicts is the end of the list.
        let kept = self.entries.partition_point(|entry| entry.epoch < epoch && entry.start < start);
        self.entries.truncate(kept);
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// The newest epoch.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// All epochs with their starts, both rising.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// Where `epoch` ends in this log, whose end is `log_end`; `None` is Kafka's undefined (-1, -1).
    ///
    /// | `epoch` | answer |
    /// |---|---|
    /// | the newest | itself, `log_end` |
    /// | later than that, or no epoch is known | `None` |
    /// | before the first | itself, the start of the first: what it had is gone from the log |
    /// | any other | the greatest known up to it, the start of the next one |
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        if self.latest()? == epoch {
            return Some(EpochEnd { epoch, end: log_end });
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let next = self.entries.get(above)?;
        let floor = above.checked_sub(1).and_then(|at| self.entries.get(at));
        Some(EpochEnd { epoch: floor.map_or(epoch, |entry| entry.epoch), end: next.start })
    }

    /// The epoch of the batch at `offset`; `None` for one before the first start. An offset past the log end counts to
    /// the newest epoch: the end is not known here.
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.entries.partition_point(|entry| entry.start <= offset);
        above.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.epoch)
    }

    /// The log now ends at `end`: drops the epochs that start there or later, all of them with [`Offset::ZERO`].
    /// Says whether there were any.
    pub fn truncate_from_end(&mut self, end: Offset) -> bool {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        let changes = kept < self.entries.len();
        self.entries.truncate(kept);
        changes
    }

    /// The log now starts at `start`: drops the epochs that start there or before, but for the last of them, which then
    /// starts at `start`. Says whether anything changed.
    pub fn truncate_from_start(&mut self, start: Offset) -> bool {
        let above = self.entries.partition_point(|entry| entry.start <= start);
        let Some(covering) = above.checked_sub(1) else {
            return false;
        };
        self.entries.drain(..covering);
        let Some(first) = self.entries.first_mut() else {
            return false;
        };
        let changes = covering > 0 || first.start != start;
        first.start = start;
        changes
    }

    /// The bytes of the `leader-epoch-checkpoint` file, as Kafka writes them.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = heading(self.entries.len());
        for EpochStart { epoch, start } in &self.entries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{epoch} {start}");
        }
        text.into_bytes()
    }

    /// Reads a `leader-epoch-checkpoint` file of at most 64 MiB. One without a byte has no epochs. Epochs (0 to
    /// `i32::MAX`) and starts must rise: Kafka writes no others, and what contradicts itself is no evidence.
    pub fn decode(bytes: &[u8]) -> Result<Self, TextFault> {
        let mut previous: Option<EpochStart> = None;
        let entries = decode_entries(bytes, |line, [epoch, start]| {
            let epoch = checked_i32(line, "epoch", epoch, LeaderEpoch::new)?;
            let start = checked_offset(line, "start offset", start)?;
            if previous.is_some_and(|previous| epoch <= previous.epoch) {
                return Err(TextFault::Order { line, field: "epoch" });
            }
            if previous.is_some_and(|previous| start <= previous.start) {
                return Err(TextFault::Order { line, field: "start offset" });
            }
            let entry = EpochStart { epoch, start };
            previous = Some(entry);
            Ok(entry)
        })?;
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests;
