//! What checking a directory found.

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{CorruptionKind, InvalidBatch, SmallFileFault};
use crate::index::{IndexFault, SnapshotFault, TextFault};
use crate::segment::sum::Staleness;
use crate::units::{FilePosition, LeaderEpoch, Offset, ProducerId, TimestampMs};

/// More findings than this are counted, not kept: hostile bytes must not fill the memory.
const FINDINGS_MAX: usize = 10_000;

/// What is wrong with an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexProblem {
    /// There is no file.
    #[error("the file is missing")]
    Missing,
    /// The length is no whole number of entries.
    #[error("its length {bytes} is no whole number of entries")]
    Length {
        /// Length of the file.
        bytes: u64,
    },
    /// It holds more entries than the log can have batches.
    #[error("its {bytes} bytes are more than {max}, which a log of this size can need")]
    TooLong {
        /// Length of the file.
        bytes: u64,
        /// Most that can be needed.
        max: u64,
    },
    /// Entries do not rise.
    #[error("entry {entry} does not rise above the one before it")]
    Order {
        /// Which entry, from 0.
        entry: u64,
    },
    /// An entry has a negative offset, or names what lies past the end of the log.
    #[error("entry {entry} points outside the segment")]
    Outside {
        /// Which entry, from 0.
        entry: u64,
    },
    /// An entry names a position where no batch starts.
    #[error("entry {entry} says {position}, where no batch starts")]
    NoBatch {
        /// Which entry, from 0.
        entry: u64,
        /// What it says.
        position: u32,
    },
    /// An entry names another offset than its batch has.
    #[error("entry {entry} says offset {found}, which is not the last one of the batch it names")]
    WrongOffset {
        /// Which entry, from 0.
        entry: u64,
        /// What it says.
        found: Offset,
    },
    /// A record before the entry's offset has a later timestamp, or none has the one it names.
    #[error("entry {entry} says timestamp {found}, the records up to its offset say {expected}")]
    WrongTimestamp {
        /// Which entry, from 0.
        entry: u64,
        /// What it says.
        found: TimestampMs,
        /// The largest timestamp so far.
        expected: TimestampMs,
    },
    /// Entries are missing at the end.
    #[error("it ends early: its last entry is for byte {indexed}, the last batch starts at byte {last_batch}")]
    OffsetsShort {
        /// Position that the last entry names.
        indexed: u64,
        /// Where the last batch starts.
        last_batch: u64,
    },
    /// The last entry is not the largest timestamp.
    #[error("it ends early: the log's largest timestamp is {largest}")]
    TimesShort {
        /// Largest timestamp of the segment.
        largest: TimestampMs,
    },
}

/// What was found at one place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindingKind {
    /// Bytes that are no valid batch, where there should be one.
    #[error("bytes {}..{} hold offsets {}..{}: {cause}", bytes.start, bytes.end, offsets.start, offsets.end)]
    BadBatch {
        /// The bytes.
        bytes: Range<u64>,
        /// The offsets that cannot be read for it.
        offsets: Range<Offset>,
        /// What the check said.
        cause: CorruptionKind,
    },
    /// A batch with a right checksum whose records are wrong.
    #[error("the checksum is right but the records are wrong: {0}")]
    BadRecords(InvalidBatch),
    /// Offsets that no batch holds.
    #[error("offsets {}..{} are missing", .0.start, .0.end)]
    Missing(Range<Offset>),
    /// The log ends below its recovery point.
    #[error("the log ends here although offsets up to {} were durable; restore them from a replica", .0.end)]
    EndsBelowRecoveryPoint(Range<Offset>),
    /// A message of an older format.
    #[error("messages with magic {magic} follow; upgrade them with Kafka first, v2 is needed")]
    OldFormat {
        /// 0 or 1.
        magic: i8,
    },
    /// The offset index is not what the log gives.
    #[error("offset index: {0}; opening the log rebuilds it")]
    OffsetIndex(IndexProblem),
    /// The time index is not what the log gives.
    #[error("time index: {0}; opening the log rebuilds it")]
    TimeIndex(IndexProblem),
    /// A transaction index is not what the log gives.
    #[error("transaction index: {0}; remove it and the clean-shutdown marker, and opening the log rebuilds it")]
    TxnIndex(IndexFault),
    /// A producer snapshot cannot be read.
    #[error("producer snapshot: {0}")]
    BadSnapshot(SnapshotFault),
    /// A producer snapshot says something else than the batches below it.
    #[error("what the snapshot says of producer {0} is not what the log gives; remove it, an older one will do")]
    SnapshotDiffers(ProducerId),
    /// A producer snapshot tells of offsets that the log does not have.
    #[error("the snapshot lies past the log end; the next opening that recovers removes it")]
    SnapshotPastEnd,
    /// The file of leader epochs cannot be read.
    #[error("leader epochs: {0}; opening the log rebuilds them")]
    BadEpochs(TextFault),
    /// There is no file of leader epochs, and the log has some.
    #[error("the file of leader epochs is missing; opening the log rebuilds it")]
    EpochsMissing,
    /// A batch is of another epoch than the file says.
    #[error("the batch is of leader epoch {log}, the file says {}; remove the file, opening rebuilds it", shown(*file))]
    EpochDiffers {
        /// What the file says.
        file: Option<LeaderEpoch>,
        /// What the batch says.
        log: LeaderEpoch,
    },
    /// The file says that an epoch begins where no batch of it does.
    #[error("the file says that leader epoch {0} begins here, and no batch of it does; remove it, opening rebuilds it")]
    EpochWithoutBatch(LeaderEpoch),
    /// One of our state files fails its own check.
    #[error("{0}")]
    StateFile(CorruptionKind),
    /// An opening found this range unreadable, and nothing was found there now.
    #[error("offsets {}..{} are listed as damaged; if the file was restored, remove the list", .0.start, .0.end)]
    ListedAsDamaged(Range<Offset>),
    /// Batches that pass their own checks and are not where, or what, they were when the segment was sealed.
    #[error("bytes {}..{} hold offsets {}..{}: an offset, length, epoch or magic is not what was sealed",
        bytes.start, bytes.end, offsets.start, offsets.end)]
    WrongHeaders {
        /// The bytes.
        bytes: Range<u64>,
        /// The offsets that cannot be trusted for it.
        offsets: Range<Offset>,
    },
    /// A sum that cannot be used.
    #[error("the sum of the segment cannot be used: {0}; scrubbing makes another")]
    BadSum(SmallFileFault),
    /// A sum about other batches, all of which are valid.
    #[error("the sum is about other batches: another program wrote here ({0:?}); scrubbing makes another")]
    StaleSum(Staleness),
    /// A file beside a log that is not the one that was sealed with it.
    #[error("is not as it was when the segment was sealed; scrubbing compares it with the log")]
    NotAsSealed,
    /// Bytes past the recovery point that are no whole valid batch: written and not synced when the writer died, or
    /// being written now.
    #[error("a torn tail of {bytes} bytes past the recovery point, which opening cuts off: {cause}")]
    TornTail {
        /// How many bytes.
        bytes: u64,
        /// What the check said.
        cause: CorruptionKind,
    },
    /// Zeros behind the last batch: space kept for later.
    #[error("{bytes} bytes of zeros behind the last batch, kept for later appends")]
    ZeroTail {
        /// How many bytes.
        bytes: u64,
    },
    /// A segment that does not join the one before it, past the recovery point.
    #[error("the segment lies past a torn tail; opening sets it aside")]
    PastTear,
    /// A gap as compaction leaves them.
    #[error("offsets {}..{} are not there, as compaction leaves it", .0.start, .0.end)]
    CompactionGap(Range<Offset>),
    /// A gap below the log start: what was deleted need not have been durable.
    #[error("offsets {}..{} are not there; they lie below the log start", .0.start, .0.end)]
    DeletedGap(Range<Offset>),
    /// The records of a batch were not looked at.
    #[error("the records were not looked at: {0}")]
    Unchecked(InvalidBatch),
    /// The clean-shutdown marker does not fit the files.
    #[error("the clean-shutdown marker does not fit the files: somebody else wrote here since")]
    StaleCleanMarker,
    /// A sync began and is not known to have succeeded.
    #[error("a sync is under way or failed: opening writes what lies past the recovery point again")]
    SyncInDoubt,
    /// All segments are to go.
    #[error("a restart at offset {0} was decided and not finished; the next opening drops all segments")]
    RestartPending(Offset),
    /// Somebody has the log open.
    #[error("another process has the log open; what it is writing may look torn")]
    InUse,
    /// A file on its way in or out.
    #[error("left over from an unfinished change; the next opening deals with it")]
    Leftover,
    /// An index without a log.
    #[error("belongs to no segment; the next opening removes it")]
    Orphan,
    /// A segment that a recovery set aside.
    #[error("was set aside by a recovery; remove it when nobody needs it")]
    SetAside,
    /// Neither ours nor Kafka's.
    #[error("is no file of a partition log")]
    Foreign,
}

fn shown(epoch: Option<LeaderEpoch>) -> String {
    epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{position}{}: {kind}", file.display(), .offset.map(|at| format!(" offset {at}")).unwrap_or_default())]
#[non_exhaustive]
pub struct Finding {
    /// The file, or the directory.
    pub file: PathBuf,
    /// Where in it.
    pub position: FilePosition,
    /// The offset that is, or was due, there.
    pub offset: Option<Offset>,
    /// What was found.
    pub kind: FindingKind,
}

/// What checking a directory found.
///
/// ```
/// let report = alluvium::inspect::Report::default();
/// assert!(report.is_sound() && report.notes.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Damage: something that was written, and synced or closed, is not as it was.
    pub problems: Vec<Finding>,
    /// What is out of the ordinary and no damage, such as the torn tail that a crash leaves.
    pub notes: Vec<Finding>,
    /// Findings that were counted and not kept.
    pub omitted: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Bytes of their logs.
    pub bytes: u64,
    /// Valid batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Offset of the first segment.
    pub log_start: Offset,
    /// Offset after the last valid batch.
    pub log_end: Offset,
    /// Everything below it is durable, if a state file says so.
    pub durable_end: Option<Offset>,
    /// Sealed segments that are what their sums say, byte for byte.
    pub intact: u64,
    /// Sealed segments without a sum that can be used.
    pub unprotected: u64,
    /// Whether the last close was clean; unknown (`false`) where Kafka alone was here.
    pub was_clean: bool,
}

impl Report {
    /// Whether there is no damage.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, is_problem: bool, finding: Finding) {
        let list = if is_problem { &mut self.problems } else { &mut self.notes };
        if list.len() < FINDINGS_MAX {
            list.push(finding);
        } else {
            self.omitted += 1;
        }
    }
}
