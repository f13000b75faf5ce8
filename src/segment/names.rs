//! Every file name and suffix, built and parsed here and nowhere else.
//!
//! ```text
//! <base:020>.log .index .timeindex .txnindex .snapshot .sum     Kafka's (the last is ours), one set a segment
//! ... + .deleted | .cleaned | .swap                             on the way out | being written | being swapped in
//! leader-epoch-checkpoint           Kafka's: leader epochs and where each starts
//! partition.metadata                Kafka's: the topic's id
//! alluvium.lock                     held while a partition is open alone
//! alluvium.recovery-point           durable: below it every byte was synced
//! alluvium.sync-state               in place: the newest durable end, and whether a sync began and did not succeed
//! alluvium.clean-shutdown           written last when closing, removed first when opening
//! alluvium.damage                   ranges found unreadable below the recovery point
//! alluvium.clean-state              how far the log is clean, and a pass that did not come to its end
//! alluvium.canary.deleted           goes when Kafka loads the partition
//! alluvium.cleaner-state            how the cleaning of the partition stands
//! alluvium.move                     in a copy that is to take the place of a partition: how far it has come
//! alluvium.aside.<n>.<base:020>.log segments past a torn tail, kept for whoever wants to look
//! alluvium.touched.<base:020>.log   a log for a moment, while its name is made to change after a sync in doubt
//! alluvium.cut.<base:020>.log.tmp   what is kept of a log that is being cut while somebody reads it
//! alluvium.repaired.<base:020>.log.tmp  a log that is being written anew by a repair
//! alluvium.spill.<n>.tmp            what a pass of the cleaner cannot keep in memory; worth nothing after a crash
//! ```

use std::path::Path;

use crate::fs::{DirEntry, EntryKind};
use crate::units::Offset;

/// Held (fcntl) by whoever has the partition open alone.
pub const LOCK: &str = "alluvium.lock";
/// The durable recovery point of a partition opened alone.
pub const RECOVERY_POINT: &str = "alluvium.recovery-point";
/// The newest durable end, and whether a sync is in doubt.
pub const SYNC_STATE: &str = "alluvium.sync-state";
/// Present when the last close was clean.
pub const CLEAN_SHUTDOWN: &str = "alluvium.clean-shutdown";
/// Ranges known to be unreadable.
pub const DAMAGE: &str = "alluvium.damage";
/// How the cleaning of a partition stands: pauses, failures, what the last pass did.
pub const CLEANER_STATE: &str = "alluvium.cleaner-state";
/// How far the log is clean. Not with the suffix of unfinished files, which Kafka takes for segments.
pub const CLEANED: &str = "alluvium.clean-state";
/// In a copy that takes the place of a partition elsewhere.
pub const MOVE: &str = "alluvium.move";
/// Kafka's list of leader epochs and where each starts.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// Kafka's file with the id of the partition's topic.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Kafka's lock on a data directory.
pub const PARENT_LOCK: &str = ".lock";
/// In a data directory: what our store wrote last, so that it shows when somebody else had the directory since.
pub const STORE_WITNESS: &str = "alluvium.store";
/// In a partition: there for as long as Kafka has not loaded the partition, which removes every file of such a name.
pub const CANARY: &str = "alluvium.canary.deleted";
/// Kafka's list of recovery points of a data directory.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// Kafka's list of log starts of a data directory.
pub const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// Kafka's list of high watermarks of a data directory.
pub const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// Kafka's list of first dirty offsets of a data directory.
pub const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";
/// Kafka's marker: the last shutdown of the data directory was clean.
pub const PARENT_CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const ASIDE_PREFIX: &str = "alluvium.aside.";
const TOUCHED_PREFIX: &str = "alluvium.touched.";
const CUT_PREFIX: &str = "alluvium.cut.";
const REPAIRED_PREFIX: &str = "alluvium.repaired.";
const SPILL_PREFIX: &str = "alluvium.spill.";
const OURS_PREFIX: &str = "alluvium.";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Kafka pads base offsets to this many digits.
const DIGITS_MIN: usize = 20;

/// What a segment's file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Record batches.
    Log,
    /// Offset index.
    Index,
    /// Time index.
    TimeIndex,
    /// Aborted transactions.
    TxnIndex,
    /// Producer state at an offset.
    Snapshot,
    /// Integrity data.
    Sum,
}

impl FileKind {
    /// In the order in which the files of a segment go.
    pub(crate) const ALL_LOG_LAST: [Self; 6] =
        [Self::Snapshot, Self::Sum, Self::TxnIndex, Self::TimeIndex, Self::Index, Self::Log];

    const ALL: [Self; 6] = [Self::Log, Self::Index, Self::TimeIndex, Self::TxnIndex, Self::Snapshot, Self::Sum];

    fn extension(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::TimeIndex => "timeindex",
            Self::TxnIndex => "txnindex",
            Self::Snapshot => "snapshot",
            Self::Sum => "sum",
        }
    }
}

/// In which state of its life a segment's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In service.
    Live,
    /// To be unlinked.
    Deleted,
    /// Being written; worth nothing after a crash.
    Cleaned,
    /// Complete, being swapped in; a crash finishes the swap.
    Swap,
}

/// A segment's file name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Base offset of the segment; of a snapshot, the offset below which it holds.
    pub base: Offset,
    /// What it holds.
    pub kind: FileKind,
    /// Stage of its life.
    pub stage: Stage,
}

impl SegmentFile {
    /// The file in service.
    pub fn live(base: Offset, kind: FileKind) -> Self {
        Self { base, kind, stage: Stage::Live }
    }

    /// The same file at another stage.
    #[must_use]
    pub fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// The file's name.
    pub fn name(self) -> String {
        let suffix = match self.stage {
            Stage::Live => "",
            Stage::Deleted => ".deleted",
            Stage::Cleaned => ".cleaned",
            Stage::Swap => ".swap",
        };
        format!("{:0width$}.{}{suffix}", self.base.value(), self.kind.extension(), width = DIGITS_MIN)
    }

    /// The file of a segment that an entry is; `None` when it is something else, a directory of that name for one.
    pub fn of(entry: &DirEntry) -> Option<Self> {
        if entry.kind == EntryKind::Directory { None } else { Self::parse(&entry.name) }
    }

    /// Takes a name apart; `None` when it is no segment's.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_once('.')?;
        if digits.len() < DIGITS_MIN || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let base = Offset::new(digits.parse().ok()?)?;
        let (extension, stage) = match rest.split_once('.') {
            None => (rest, Stage::Live),
            Some((extension, "deleted")) => (extension, Stage::Deleted),
            Some((extension, "cleaned")) => (extension, Stage::Cleaned),
            Some((extension, "swap")) => (extension, Stage::Swap),
            Some(_) => return None,
        };
        let kind = FileKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let file = Self { base, kind, stage };
        // A name that we would write differently (more zeros than needed) is another file than ours.
        (file.name() == name).then_some(file)
    }
}

/// What a directory entry is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A segment's file.
    Segment(SegmentFile),
    /// One of our state files, or one of Kafka's that a partition directory holds.
    State,
    /// Half-written state of ours, left by a crash.
    Temporary,
    /// A file set aside by an earlier recovery.
    Aside,
    /// A log that a crash caught while its name was made to change.
    Touched(Offset),
    /// Something that file systems and desktops leave around.
    Ignorable,
    /// Somebody else's.
    Foreign,
}

/// Says what an entry of a partition directory is.
pub fn classify(entry: &DirEntry) -> Known {
    let name = entry.name.as_str();
    if entry.kind == EntryKind::Directory {
        return if name == "lost+found" || name.starts_with('.') { Known::Ignorable } else { Known::Foreign };
    }
    if let Some(file) = SegmentFile::parse(name) {
        return Known::Segment(file);
    }
    if name.starts_with(ASIDE_PREFIX) {
        return Known::Aside;
    }
    if let Some(file) = name.strip_prefix(TOUCHED_PREFIX).and_then(SegmentFile::parse) {
        return Known::Touched(file.base);
    }
    if name.starts_with(OURS_PREFIX) {
        return if name.ends_with(TEMPORARY_SUFFIX) { Known::Temporary } else { Known::State };
    }
    match name {
        LEADER_EPOCH_CHECKPOINT | PARTITION_METADATA | "leader-epoch-checkpoint.tmp" | "partition.metadata.tmp" => {
            Known::State
        }
        _ if name.starts_with('.') => Known::Ignorable,
        _ => Known::Foreign,
    }
}

/// The name that a log has for a moment, while its name is made to change.
pub fn touched(base: Offset) -> String {
    format!("{TOUCHED_PREFIX}{}", SegmentFile::live(base, FileKind::Log).name())
}

/// The name under which a segment is written anew that is being repaired. Worth nothing after a crash.
pub fn repaired(base: Offset) -> String {
    format!("{REPAIRED_PREFIX}{}{TEMPORARY_SUFFIX}", SegmentFile::live(base, FileKind::Log).name())
}

/// The name of the `n`-th file in which a pass of the cleaner keeps what does not fit the memory. Worth nothing after a
/// crash, when opening removes it as it does all that is temporary.
pub fn spill(n: u64) -> String {
    format!("{SPILL_PREFIX}{n}{TEMPORARY_SUFFIX}")
}

/// The name under which what is kept of a log is written that is being cut. Worth nothing after a crash.
pub fn cut(base: Offset) -> String {
    format!("{CUT_PREFIX}{}{TEMPORARY_SUFFIX}", SegmentFile::live(base, FileKind::Log).name())
}

/// A free name under which a `.log` can be set aside.
pub fn aside(taken: &[DirEntry], base: Offset) -> String {
    let name = |n: usize| format!("{ASIDE_PREFIX}{n}.{}", SegmentFile::live(base, FileKind::Log).name());
    let mut n = 0;
    while taken.iter().any(|entry| entry.name == name(n)) {
        n += 1;
    }
    name(n)
}

/// File name of a path, for reports.
pub fn display(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_are_kafkas() {
        let base = Offset::new(368_769).unwrap();
        assert_eq!(SegmentFile::live(base, FileKind::Snapshot).name(), "00000000000000368769.snapshot");
        for kind in FileKind::ALL {
            for stage in [Stage::Live, Stage::Deleted, Stage::Cleaned, Stage::Swap] {
                let file = SegmentFile { base, kind, stage };
                assert_eq!(SegmentFile::parse(&file.name()), Some(file));
            }
        }
        let last = SegmentFile::live(Offset::MAX, FileKind::Log);
        assert_eq!(SegmentFile::parse(&last.name()), Some(last));
    }

    #[test]
    fn what_is_no_segment_is_not_taken_for_one() {
        for name in [
            "0.log",
            "00000000000000000000",
            "00000000000000000000.logs",
            "99999999999999999999.log",
            "000000000000000000000.log",
            "-0000000000000000001.log",
            "00000000000000000000.log.bak",
            "00000000000000000000.log.swap.swap",
        ] {
            assert_eq!(SegmentFile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn entries_are_told_apart() {
        let file = |name: &str| classify(&DirEntry { name: name.into(), kind: EntryKind::File });
        assert_eq!(file("alluvium.lock"), Known::State);
        assert_eq!(file("alluvium.recovery-point.tmp"), Known::Temporary);
        assert_eq!(file(&repaired(Offset::ZERO)), Known::Temporary);
        assert_eq!(file(&spill(7)), Known::Temporary);
        assert_eq!(file(&cut(Offset::ZERO)), Known::Temporary);
        assert_eq!(file(CLEANED), Known::State);
        assert_eq!(file("alluvium.aside.0.00000000000000000000.log"), Known::Aside);
        assert_eq!(file(&touched(Offset::ZERO)), Known::Touched(Offset::ZERO));
        assert_eq!(file("partition.metadata"), Known::State);
        assert_eq!(file(".DS_Store"), Known::Ignorable);
        assert_eq!(file("holiday.jpg"), Known::Foreign);
        let directory = DirEntry { name: "00000000000000000000.log".into(), kind: EntryKind::Directory };
        assert_eq!((classify(&directory), SegmentFile::of(&directory)), (Known::Foreign, None));
    }
}
