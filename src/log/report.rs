//! What opening found and what it did about it: the decision table of recovery.
//!
//! [`decide`] is the table. It is exhaustive, each arm has a label, and the tests go through the labels.

use std::ops::Range;
use std::time::Duration;

use crate::config::OnDamage;
use crate::error::{CorruptionKind, Damage};
use crate::index::{IndexFault, SnapshotFault};
use crate::units::Offset;

/// What was found in a partition's directory.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Found {
    /// No directory, or an empty one.
    Nothing,
    /// The last close was clean and the files are as it left them.
    CleanShutdown,
    /// A clean-shutdown marker that does not fit the files: somebody else wrote here since.
    StaleCleanMarker,
    /// There is no recovery point: another program's directory, or our file was lost.
    RecoveryPointAbsent,
    /// The recovery point cannot be read.
    RecoveryPointUnreadable(CorruptionKind),
    /// A sync began and is not known to have succeeded: the page cache may show what the disk does not have.
    SyncInDoubt,
    /// A restart at an offset was decided and not finished.
    RestartPending(Offset),
    /// A file on its way out.
    LeftoverDeleted,
    /// A file that was being written.
    LeftoverUnfinished,
    /// A complete file that was being swapped in.
    LeftoverSwap,
    /// A file of a segment in whose place a complete one is being swapped in.
    LeftoverReplaced,
    /// A swap file of a set that is not complete.
    LeftoverPartialSwap,
    /// A log whose name was being made to change.
    LeftoverTouched,
    /// An empty log below the recovery point, where only sealed segments can be.
    EmptyLog,
    /// A segment that lies wholly below the log start: it was about to be deleted, or had been and came back.
    BelowLogStart,
    /// An index without its log.
    OrphanIndex,
    /// Zeros behind the last batch.
    ZeroTail {
        /// How many bytes.
        bytes: u64,
    },
    /// Bytes at or past the recovery point that are no whole valid batch.
    TornTail {
        /// How many bytes.
        bytes: u64,
        /// What the check said.
        cause: CorruptionKind,
    },
    /// A segment at or past the recovery point that does not join the one before it.
    SegmentPastTear,
    /// Bytes below the recovery point that are no valid batch, or missing offsets below it.
    Damage(Damage),
    /// The log ends below its recovery point: durable records are gone.
    EndsBelowRecoveryPoint {
        /// What is gone.
        lost: Range<Offset>,
    },
    /// An index that is not what the log gives.
    BadIndex(IndexFault),
    /// A producer snapshot that cannot be used: an older one is, and more of the log is gone through.
    BadSnapshot(SnapshotFault),
    /// Damage that an earlier opening found.
    KnownDamage(Damage),
    /// The partition's own state is from before somebody else, Kafka perhaps, had the data directory. What that one left
    /// in the directory's checkpoint files is gone by, as far as it says anything.
    StateObsolete,
    /// What is written down of cleaning cannot be read: all of the log counts as dirty.
    CleanStateUnreadable(CorruptionKind),
    /// What is written down of cleaning is about offsets past the end of the log: all of the log counts as dirty.
    CleanStateOutside {
        /// Up to here the log was to be clean.
        first_dirty: Offset,
        /// Where it ends.
        log_end: Offset,
    },
    /// The list of known damage cannot be read.
    DamageListUnreadable(CorruptionKind),
}

/// What was done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing had to be done.
    Accept,
    /// Began an empty log.
    Create,
    /// Scanned the segments that the recovery point does not cover.
    Scan,
    /// Scanned every segment.
    ScanAll,
    /// Wrote the bytes past the recovery point again, in place, before syncing them.
    Rewrite,
    /// Finished the restart.
    FinishRestart,
    /// Removed the file.
    Remove,
    /// Finished the swap.
    FinishSwap,
    /// Cut the file after the last whole valid batch.
    Cut,
    /// Moved the log aside under a name of ours.
    SetAside,
    /// Kept the bytes; reads of the range get an error.
    Quarantine,
    /// Cut the log at the damage.
    CutAtDamage,
    /// Refused to open.
    Refuse,
    /// Went on at the recovery point; the lost offsets are never given out again.
    SkipLost,
    /// Built the index from the log.
    Rebuild,
}

/// The decision table.
#[expect(clippy::match_same_arms, reason = "each arm is a decision of its own, with its label and its reason")]
pub(crate) fn decide(found: &Found, on_damage: OnDamage) -> Action {
    match found {
        // N1: nothing there, nothing to lose.
        Found::Nothing => Action::Create,
        // C1: the marker vouches for everything, and the files fit it.
        Found::CleanShutdown => Action::Accept,
        // C2: the marker vouches for other files than these.
        Found::StaleCleanMarker => Action::Scan,
        // P1: what was durable is unknown: everything is looked at, and only the last segment may be torn.
        Found::RecoveryPointAbsent | Found::RecoveryPointUnreadable(_) => Action::ScanAll,
        // P2: a failed sync marks pages clean on some file systems; only what is written again is sure to be written.
        Found::SyncInDoubt => Action::Rewrite,
        // T1: the decision was durable before the first file went.
        Found::RestartPending(_) => Action::FinishRestart,
        // L1: was about to be unlinked.
        Found::LeftoverDeleted => Action::Remove,
        // L2: never complete, so worth nothing; what it was made from is still there.
        Found::LeftoverUnfinished => Action::Remove,
        // L3: complete and synced before it got this name.
        Found::LeftoverSwap => Action::FinishSwap,
        // L9: what is swapped in was made from it; to stay beside that it would bring back what was cleaned out of it.
        Found::LeftoverReplaced => Action::Remove,
        // L4: an unfinished sibling shows that the set is not complete.
        Found::LeftoverPartialSwap => Action::Remove,
        // L6: the log is whole; only its name is on the way.
        Found::LeftoverTouched => Action::FinishSwap,
        // L7: nothing is in it, and no segment is sealed empty.
        Found::EmptyLog => Action::Remove,
        // L8: the log start was durable before; nobody may read it.
        Found::BelowLogStart => Action::Remove,
        // L5: indexes are caches of a log that is not there.
        Found::OrphanIndex => Action::Remove,
        // S1: space that was reserved and not used.
        Found::ZeroTail { .. } => Action::Cut,
        // S2: never acknowledged as durable.
        Found::TornTail { .. } => Action::Cut,
        // S3: behind a tear nothing is believed, and nothing is thrown away.
        Found::SegmentPastTear => Action::SetAside,
        // D1, D2, D3: durable records cannot be read; the policy decides, never silence.
        Found::Damage(_) => match on_damage {
            OnDamage::Refuse => Action::Refuse,
            OnDamage::Quarantine => Action::Quarantine,
            OnDamage::Cut => Action::CutAtDamage,
        },
        // D4, D5: durable records are gone from the end; their offsets were given out and may have been seen.
        Found::EndsBelowRecoveryPoint { .. } => match on_damage {
            OnDamage::Refuse => Action::Refuse,
            OnDamage::Quarantine => Action::SkipLost,
            OnDamage::Cut => Action::CutAtDamage,
        },
        // I1: an index is no evidence.
        Found::BadIndex(_) => Action::Rebuild,
        // I2: a snapshot is no evidence either.
        Found::BadSnapshot(_) => Action::Remove,
        // D6: still as it was.
        Found::KnownDamage(_) => match on_damage {
            OnDamage::Refuse => Action::Refuse,
            OnDamage::Quarantine | OnDamage::Cut => Action::Quarantine,
        },
        // K1: it speaks of files that others may have cut or written since.
        Found::StateObsolete => Action::Remove,
        // R1, R2: to clean what is clean already costs time and nothing else.
        Found::CleanStateUnreadable(_) | Found::CleanStateOutside { .. } => Action::Remove,
        // D7: damage shows itself again when it is read.
        Found::DamageListUnreadable(_) => Action::Remove,
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What was found.
    pub found: Found,
    /// What was done.
    pub action: Action,
    /// Name of the file in the partition's directory; empty when the finding is about the directory.
    pub file: String,
    /// Byte in the file.
    pub position: u64,
    /// Offset that would have come next there.
    pub offset: Option<Offset>,
}

/// What opening a log found and did.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let log = alluvium::PartitionLog::open(dir.path(), alluvium::LogConfig::default()).unwrap();
/// assert!(log.recovery_report().damage().next().is_none());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Everything out of the ordinary, in the order in which it was dealt with.
    pub findings: Vec<Finding>,
    /// Whether the last close was clean, so that nothing was scanned.
    pub was_clean: bool,
    /// The recovery point before opening, if it was known.
    pub recovery_point: Option<Offset>,
    /// Segments in the log.
    pub segments: usize,
    /// Segments scanned.
    pub scanned_segments: usize,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// Whole valid batches met by the scan.
    pub scanned_batches: u64,
    /// Bytes cut off.
    pub cut_bytes: u64,
    /// First readable offset after opening.
    pub log_start: Offset,
    /// Next offset after opening.
    pub log_end: Offset,
    /// Files that recoveries set aside, this one or an earlier one. They stay until somebody removes them.
    pub set_aside: Vec<String>,
    /// Entries that are neither ours nor Kafka's; left alone.
    pub unknown_entries: Vec<String>,
    /// Time spent scanning.
    pub scan_time: Duration,
    /// Time spent making durable what was found.
    pub sync_time: Duration,
}

impl RecoveryReport {
    /// The damage found, by this opening or an earlier one.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.findings.iter().filter_map(|finding| match &finding.found {
            Found::Damage(damage) | Found::KnownDamage(damage) => Some(damage),
            _ => None,
        })
    }

    /// Whether anything but a clean shutdown or a new directory was found.
    pub fn is_ordinary(&self) -> bool {
        self.findings.iter().all(|finding| matches!(finding.found, Found::Nothing | Found::CleanShutdown))
    }

    /// Notes a finding and returns what the table says about it.
    pub(crate) fn note(
        &mut self,
        found: Found,
        on_damage: OnDamage,
        file: impl Into<String>,
        position: u64,
        offset: Option<Offset>,
    ) -> Action {
        let action = decide(&found, on_damage);
        self.findings.push(Finding { found, action, file: file.into(), position, offset });
        action
    }
}
