//! What a log, its sum and the files beside it say together.

use std::ops::Range;

use super::walk::note;
use super::{DamageKind, LogDamage, SidecarStamp, Sidecars, Span, Sum, Walked};
use crate::error::{CorruptionKind, InvalidBatch};
use crate::segment::FileKind;
use crate::units::Offset;

/// CRC-32 (IEEE) as it is computed bit by bit, lowest bit first.
const CRC_POLYNOMIAL: u32 = 0xedb8_8320;
/// Smallest batch, and what each of them adds to an interval's checksum.
const BATCH_BYTES_MIN: u64 = crate::record::HEADER_BYTES as u64;
const UNCOVERED_BITS: u64 = super::UNCOVERED_BYTES as u64 * 8;

/// What is to be thought of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its log.
    pub log: LogVerdict,
    /// What is wrong with the files beside it. Each can be built again from the log, and has to be. Empty where no sum
    /// says what they were, or it is stale: then they are to be checked against the log.
    pub sidecars: Vec<SidecarFault>,
}

impl Verdict {
    /// Whether log and sidecars are those that were sealed, byte for byte where anything depends on it.
    pub fn is_intact(&self) -> bool {
        self.log == LogVerdict::Intact && self.sidecars.is_empty()
    }

    /// The damaged ranges of the log, by rising position; none overlaps another.
    pub fn damage(&self) -> &[LogDamage] {
        if let LogVerdict::Damaged(ranges) = &self.log { ranges } else { &[] }
    }
}

/// What is to be thought of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogVerdict {
    /// These are the batches that were sealed, at their offsets and in their epochs.
    Intact,
    /// Every batch is valid, and there is no sum that could say more. Write [`Walked::rebuilt`].
    Unprotected,
    /// Every batch is valid, and the sum is about other ones: another program wrote here. Report it, check what was
    /// derived from the log, and write [`Walked::rebuilt`].
    Stale(Staleness),
    /// Ranges that cannot be trusted, by rising position. At most some thousands.
    Damaged(Vec<LogDamage>),
}

/// How a log differs from its sum although all of it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Staleness {
    /// It has another length.
    Length {
        /// In bytes, when the sum was made.
        recorded: u64,
        /// In bytes, now.
        found: u64,
    },
    /// It has the same length and other batches.
    Batches,
    /// It has the same batches at the same offsets, from some place to the end in other leader epochs, which rise: so it
    /// is left where a follower was truncated and fetched them again. A single flipped bit never looks like this.
    /// Compare with the leader epochs before a new sum is written.
    Epochs,
}

/// A file beside a log that is not the one that was sealed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SidecarFault {
    /// Which one.
    pub kind: FileKind,
    /// What is wrong with it.
    pub fault: SidecarFaultKind,
}

/// What is wrong with a file beside a log. The answer is always to build it again from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SidecarFaultKind {
    /// It is gone.
    Missing,
    /// It has another length or another checksum.
    Differs {
        /// As it was sealed.
        recorded: SidecarStamp,
        /// As it is.
        found: SidecarStamp,
    },
    /// There was none when the segment was sealed.
    Unexpected,
    /// It fails a check of its own, or contradicts the log.
    Invalid,
}

/// Compares a sealed segment with its sum. `sum` is `None` when there is none or it cannot be read, and must otherwise be
/// the one that the walk was given; `sidecars` are those on disk.
///
/// Only a log of which every batch is valid can be stale: damage is never explained away by another program's writing.
/// And only a log with the length and the batches of its sum can have damaged headers: nothing else could tell a
/// flipped bit from an offset that was meant.
///
/// See [`LogWalk`](super::LogWalk) for an example.
pub fn verify(sum: Option<&Sum>, walk: &Walked, sidecars: &Sidecars) -> Verdict {
    let Some(sum) = sum else {
        let faults = joined(walk.broken.clone(), walk.misplaced.clone());
        let log = if faults.is_empty() { LogVerdict::Unprotected } else { LogVerdict::Damaged(faults) };
        return Verdict { log, sidecars: Vec::new() };
    };
    let log = judge_log(sum, walk);
    let is_stale = matches!(log, LogVerdict::Stale(_));
    let sidecars = if is_stale { Vec::new() } else { sidecar_faults(sum.sidecars(), sidecars) };
    Verdict { log, sidecars }
}

fn judge_log(sum: &Sum, walk: &Walked) -> LogVerdict {
    let found = &walk.found;
    let is_as_long = found.log_bytes == sum.log_bytes && found.base == sum.base;
    if !walk.broken.is_empty() {
        // Another length would mean that another program wrote here, and then the sum knows nothing of these headers.
        let broken = walk.broken.clone();
        let others = if is_as_long { wrong_headers(sum, found, &broken) } else { walk.misplaced.clone() };
        return LogVerdict::Damaged(joined(broken, others));
    }
    if is_as_long && found.batches == sum.batches {
        return judge_headers(sum, walk);
    }
    if let Some(missing) = missing_tail(sum, walk) {
        return LogVerdict::Damaged(joined(walk.misplaced.clone(), vec![missing]));
    }
    if !walk.misplaced.is_empty() {
        return LogVerdict::Damaged(walk.misplaced.clone());
    }
    LogVerdict::Stale(if is_as_long {
        Staleness::Batches
    } else {
        Staleness::Length { recorded: sum.log_bytes, found: found.log_bytes }
    })
}

/// These are the batches that were sealed: whether each is where it was.
fn judge_headers(sum: &Sum, walk: &Walked) -> LogVerdict {
    let found = &walk.found;
    let wrong = wrong_headers(sum, found, &[]);
    let is_placed_alike = found.placement == sum.placement && found.intervals.len() == sum.intervals.len();
    if wrong.is_empty() && is_placed_alike {
        // The sum agrees with them: they were wrong when it was made.
        let misplaced = walk.misplaced.clone();
        return if misplaced.is_empty() { LogVerdict::Intact } else { LogVerdict::Damaged(misplaced) };
    }
    if is_placed_alike && walk.epochs_rise && walk.misplaced.is_empty() && are_rewritten_epochs(sum, found) {
        return LogVerdict::Stale(Staleness::Epochs);
    }
    if wrong.is_empty() {
        // The digest says that something moved, and no interval says what.
        let (bytes, offsets) = (0..sum.log_bytes, sum.base..sum.end);
        return LogVerdict::Damaged(vec![LogDamage { bytes, offsets, kind: DamageKind::Headers }]);
    }
    LogVerdict::Damaged(wrong)
}

/// What has another checksum of its headers than it had, but for the `broken` batches in it; neighbours are joined.
fn wrong_headers(sum: &Sum, found: &Sum, broken: &[LogDamage]) -> Vec<LogDamage> {
    let mut wrong: Vec<LogDamage> = Vec::new();
    for span in wrong_spans(sum, found) {
        for damage in beside_broken(&span, broken) {
            match wrong.last_mut() {
                Some(last) if last.bytes.end == damage.bytes.start => {
                    last.bytes.end = damage.bytes.end;
                    last.offsets.end = damage.offsets.end;
                }
                _ => note(&mut wrong, damage),
            }
        }
    }
    wrong
}

/// The intervals that both have whole, with different checksums.
fn wrong_spans(sum: &Sum, found: &Sum) -> impl Iterator<Item = Span> {
    let mut others = found.spans().peekable();
    sum.spans().filter(move |span| {
        while others.next_if(|other| other.bytes.start < span.bytes.start).is_some() {}
        others.next_if(|other| other.bytes == span.bytes).is_some_and(|other| other.crc != span.crc)
    })
}

/// What an interval with a wrong checksum adds to the broken batches in it: the rest of it, or nothing where a broken
/// batch explains the checksum, because it has a broken header.
fn beside_broken(span: &Span, broken: &[LogDamage]) -> Vec<LogDamage> {
    let first = broken.partition_point(|damage| damage.bytes.end <= span.bytes.start);
    let within = || broken.iter().skip(first).take_while(|damage| damage.bytes.start < span.bytes.end);
    if within().any(|damage| !is_content(&damage.kind)) {
        return Vec::new();
    }
    let mut rest = Vec::new();
    let mut add = |bytes: Range<u64>, offsets: Range<Offset>| {
        if !bytes.is_empty() {
            rest.push(LogDamage { bytes, offsets, kind: DamageKind::Headers });
        }
    };
    let (mut at, mut offset) = (span.bytes.start, span.offsets.start);
    for damage in within() {
        add(at..damage.bytes.start, offset..damage.offsets.start.max(offset));
        (at, offset) = (damage.bytes.end, damage.offsets.end.max(offset));
    }
    add(at..span.bytes.end, offset..span.offsets.end.max(offset));
    rest
}

/// Whether the header of a broken batch could be read.
fn is_content(kind: &DamageKind) -> bool {
    matches!(kind, DamageKind::Batch(CorruptionKind::Batch(InvalidBatch::Crc { .. })))
}

/// Whether every interval from some place to the end differs, by more than one bit.
fn are_rewritten_epochs(sum: &Sum, found: &Sum) -> bool {
    let pairs = || sum.spans().zip(found.spans());
    let Some((span, other)) = pairs().find(|(a, b)| a.crc != b.crc) else { return false };
    let is_to_the_end = pairs().skip_while(|(a, b)| a.crc == b.crc).all(|(a, b)| a.crc != b.crc);
    let is_last = span.bytes.end == sum.log_bytes;
    is_to_the_end && !(is_last && is_one_flipped_bit(span.crc ^ other.crc, &span.bytes))
}

/// Whether one flipped bit in the headers of an interval explains the difference of its checksums. A CRC is linear: the
/// difference depends only on how many bits come after the flipped one, and no two places within a segment share one.
fn is_one_flipped_bit(difference: u32, bytes: &Range<u64>) -> bool {
    let bits_max = (bytes.end - bytes.start) / BATCH_BYTES_MIN * UNCOVERED_BITS;
    let mut register = CRC_POLYNOMIAL;
    for _ in 0..bits_max {
        if register == difference {
            return true;
        }
        register = (register >> 1) ^ if register & 1 == 1 { CRC_POLYNOMIAL } else { 0 };
    }
    false
}

/// Records that were sealed, and that the next segment, which starts behind them, shows to be missing.
fn missing_tail(sum: &Sum, walk: &Walked) -> Option<LogDamage> {
    let (end, at) = (walk.found.end, walk.found.log_bytes);
    let is_kept = walk.bounds.next_base.is_some_and(|next| next >= sum.end);
    let is_lost = is_kept && !walk.bounds.may_have_gaps && end < sum.end;
    is_lost.then_some(LogDamage { bytes: at..at, offsets: end..sum.end, kind: DamageKind::Missing })
}

/// Both lists by rising position, without what of the second lies in a range of the first.
fn joined(mut first: Vec<LogDamage>, second: Vec<LogDamage>) -> Vec<LogDamage> {
    let is_new = |damage: &LogDamage| {
        let before = first.partition_point(|known| known.bytes.end <= damage.bytes.start);
        first.get(before).is_none_or(|known| known.bytes.start >= damage.bytes.end)
    };
    let added: Vec<LogDamage> = second.into_iter().filter(is_new).collect();
    first.extend(added);
    first.sort_by_key(|damage| damage.bytes.start);
    first
}

fn sidecar_faults(recorded: &Sidecars, found: &Sidecars) -> Vec<SidecarFault> {
    let pairs = recorded.each().into_iter().zip(found.each());
    let faults = pairs.filter_map(|((kind, recorded), (_, found))| {
        let fault = match (recorded, found) {
            (Some(_), None) => SidecarFaultKind::Missing,
            (None, Some(_)) => SidecarFaultKind::Unexpected,
            (Some(recorded), Some(found)) if recorded != found => SidecarFaultKind::Differs { recorded, found },
            _ => return None,
        };
        Some(SidecarFault { kind, fault })
    });
    faults.collect()
}
