//! The file of a [`Sum`](super::Sum) that is written as the segment is, in memory that does not grow with the segment.
//!
//! Intervals go out as they end. What stands before them, totals and checksum, is known last and written last, at the
//! front: a file that lacks it is refused like any other that is not whole.

use super::builder::{SumBuilder, UNCOVERED_BYTES};
use super::{FILE, FIXED_BYTES, INTERVAL_BYTES, Sidecars};
use crate::index::SMALL_FILE_HEADER_BYTES;
use crate::units::Offset;

/// Makes the content of the file in pieces; all of them together are what [`Sum::encode`](super::Sum::encode) gives.
#[derive(Debug)]
pub(crate) struct GradualSum {
    builder: SumBuilder,
    /// Over the intervals that have gone out.
    crc: crc32fast::Hasher,
    moved: u32,
    is_sound: bool,
}

/// The last pieces of the file.
#[derive(Debug)]
pub(crate) struct SumEnd {
    /// What stands before the intervals.
    pub(crate) front: Vec<u8>,
    /// The intervals that had not gone out.
    pub(crate) rest: Vec<u8>,
}

impl GradualSum {
    /// Where the first interval stands in the file.
    pub(crate) const FRONT_BYTES: u64 = (SMALL_FILE_HEADER_BYTES + FIXED_BYTES) as u64;

    /// Of an empty segment, as [`SumBuilder::new`].
    pub(crate) fn new(base: Offset, interval_bytes: u32) -> Self {
        let builder = SumBuilder::new(base, interval_bytes);
        Self { builder, crc: crc32fast::Hasher::new(), moved: 0, is_sound: true }
    }

    /// Takes the next batch, as [`SumBuilder::observe`].
    #[inline]
    pub(crate) fn observe(&mut self, header: &[u8; UNCOVERED_BYTES], stored_crc: u32, position: u64) {
        self.builder.observe(header, stored_crc, position);
    }

    /// How many intervals are held.
    pub(crate) fn held(&self) -> usize {
        self.builder.held()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.builder.memory_bytes())
    }

    /// Appends the intervals that have ended to `out`, and forgets them.
    pub(crate) fn move_out(&mut self, out: &mut Vec<u8>) {
        // The last one stays, so that each is held against the one before.
        self.is_sound &= self.builder.are_rising();
        let start = out.len();
        for interval in self.builder.take_ended() {
            self.is_sound &= self.moved > 0 || interval.position == 0;
            interval.put(out);
            self.moved = self.moved.saturating_add(1);
        }
        self.crc.update(out.get(start..).unwrap_or_default());
    }

    /// What is left to write, as [`SumBuilder::finish`]. `None` when what was fed is not that log.
    pub(crate) fn finish(mut self, log_bytes: u64, end: Offset, sidecars: Sidecars) -> Option<SumEnd> {
        let is_whole = self.is_sound && self.builder.is_whole() && self.builder.next_position() == log_bytes;
        let sum = self.builder.sum_so_far(log_bytes, end, sidecars);
        let is_possible = if self.moved == 0 { sum.is_possible() } else { sum.is_possible_end() };
        let mut rest = Vec::new();
        sum.intervals.iter().for_each(|interval| interval.put(&mut rest));
        self.crc.update(&rest);
        let count = self.moved.saturating_add(u32::try_from(sum.intervals.len()).ok()?);
        let mut fixed = Vec::with_capacity(FIXED_BYTES);
        sum.put_fixed(count, &mut fixed);
        let front = FILE.encode_front(&fixed, (count as usize).saturating_mul(INTERVAL_BYTES), &self.crc);
        (is_whole && is_possible).then_some(SumEnd { front, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sum;
    use super::*;

    /// Whenever intervals go out, the file is the one that is made at once.
    #[test]
    fn in_pieces_it_is_what_it_is_at_once() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let (mut whole, mut gradual) = (SumBuilder::new(Offset::ZERO, 4096), GradualSum::new(Offset::ZERO, 4096));
            let (mut position, mut file) = (0, Vec::new());
            let batches = rng.u32(0..60);
            for n in 0..batches {
                let (length, crc) = (rng.u32(100..6000), rng.u32(..));
                let mut header = [0; UNCOVERED_BYTES];
                header[..8].copy_from_slice(&u64::from(n).to_be_bytes());
                header[8..12].copy_from_slice(&length.to_be_bytes());
                whole.observe(&header, crc, position);
                gradual.observe(&header, crc, position);
                position += u64::from(length) + 12;
                if rng.u8(0..5) == 0 {
                    gradual.move_out(&mut file);
                    assert!(gradual.held() <= 1);
                }
            }
            let end = Offset::new(i64::from(batches)).unwrap();
            assert!(GradualSum::new(Offset::ZERO, 4096).finish(1, end, Sidecars::default()).is_none());
            let sum: Sum = whole.finish(position, end, Sidecars::default()).unwrap();
            let SumEnd { front, rest } = gradual.finish(position, end, Sidecars::default()).unwrap();
            assert_eq!(front.len() as u64, GradualSum::FRONT_BYTES);
            assert_eq!([front, file, rest].concat(), sum.encode());
        }
    }
}
