//! The aborted transactions of one segment after the other, with each transaction index read once.
//!
//! A transaction that has data in a segment may end in any later one. Asked segment by segment, a log in which nothing is
//! aborted would be gone through to its end for each of them.

use super::error::CleanError;
use crate::error::ReadError;
use crate::index::AbortedTxn;
use crate::log::{CleanSegment, PartitionLog};
use crate::units::Offset;

/// The aborted transactions from some place of a log on. Segments come in offset order.
#[derive(Debug, Default)]
pub(super) struct AbortedAhead {
    /// The segments before the one with this offset were read; `None` before the first, or when all were.
    next: Option<Offset>,
    has_begun: bool,
    /// All that began below it is decided by what was read.
    decided_to: Offset,
    /// Those that begin further up.
    pending: Vec<AbortedTxn>,
}

impl AbortedAhead {
    /// The aborted transactions that have an offset in `segment`, readable ones, and were not told before.
    pub(super) fn of(&mut self, log: &PartitionLog, segment: &CleanSegment) -> Result<Vec<AbortedTxn>, CleanError> {
        let from = segment.base.max(log.log_start());
        if from >= segment.end {
            return Ok(Vec::new());
        }
        self.until(from, segment.end, |at| log.aborted_at(at)).map_err(unreadable)
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.pending.capacity().saturating_mul(size_of::<AbortedTxn>())
    }

    /// Those from `from` on that begin below `end`. `read` has the entries of the segment with an offset, and where the
    /// next one begins.
    fn until(
        &mut self,
        from: Offset,
        end: Offset,
        mut read: impl FnMut(Offset) -> Result<(Vec<AbortedTxn>, Option<Offset>), ReadError>,
    ) -> Result<Vec<AbortedTxn>, ReadError> {
        if !self.has_begun {
            (self.has_begun, self.next) = (true, Some(from));
        }
        while self.decided_to < end
            && let Some(at) = self.next
        {
            let (entries, next) = read(at)?;
            for entry in entries.into_iter().filter(|entry| entry.last_offset >= from) {
                self.decided_to = self.decided_to.max(entry.last_stable_offset);
                self.pending.push(entry);
            }
            self.next = next;
        }
        let (told, pending) = self.pending.drain(..).partition(|entry| entry.first_offset < end);
        self.pending = pending;
        Ok(told)
    }
}

/// What it means that nobody can tell what was aborted.
pub(super) fn unreadable(error: ReadError) -> CleanError {
    match error {
        ReadError::Io(failure) => CleanError::Io(failure),
        // Retention took it meanwhile.
        ReadError::OutOfRange { .. } => CleanError::Changed,
        other => CleanError::Read(Box::new(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ProducerId;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    /// Each index was read once for every segment before it, where nothing was aborted.
    #[test]
    fn each_index_is_read_once_and_told_what_asking_by_segment_tells() {
        const SEGMENTS: i64 = 1_000;
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            // Up to three producers, each with one transaction at a time; segments of ten offsets.
            let mut open: [Option<i64>; 3] = [None; 3];
            let mut all: Vec<AbortedTxn> = Vec::new();
            for offset in 0..SEGMENTS * 10 {
                let producer = rng.usize(0..3);
                match open[producer] {
                    None if rng.u8(0..4) == 0 => open[producer] = Some(offset),
                    Some(first) if rng.u16(0..200) == 0 => {
                        open[producer] = None;
                        if seed % 4 != 0 && rng.bool() {
                            let undecided = open.iter().flatten().min().copied();
                            all.push(AbortedTxn {
                                producer_id: ProducerId::new(i64::try_from(producer).unwrap()).unwrap(),
                                first_offset: at(first),
                                last_offset: at(offset),
                                last_stable_offset: at(undecided.unwrap_or(offset + 1)),
                            });
                        }
                    }
                    _ => {}
                }
            }
            let (mut ahead, mut reads, mut told) = (AbortedAhead::default(), 0, Vec::new());
            let begin = rng.i64(0..SEGMENTS / 2);
            for segment in begin..SEGMENTS {
                let (from, end) = (at(segment * 10), at(segment * 10 + 10));
                told.extend(
                    ahead
                        .until(from, end, |asked| {
                            reads += 1;
                            let base = asked.value() / 10 * 10;
                            let within = |txn: &&AbortedTxn| (base..base + 10).contains(&txn.last_offset.value());
                            let next = (base + 10 < SEGMENTS * 10).then(|| at(base + 10));
                            Ok((all.iter().filter(within).copied().collect(), next))
                        })
                        .unwrap(),
                );
                let wanted = all.iter().filter(|txn| txn.last_offset >= from && txn.first_offset < end);
                assert!(wanted.into_iter().all(|txn| told.contains(txn)), "seed {seed}, segment {segment}");
            }
            assert!(reads <= SEGMENTS - begin, "seed {seed}: {reads} reads");
            let needed = all.iter().filter(|txn| txn.last_offset >= at(begin * 10)).count();
            assert_eq!(told.len(), needed, "seed {seed}: each is told once");
        }
    }
}
