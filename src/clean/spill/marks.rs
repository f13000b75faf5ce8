//! Superseded offsets: a bitmap where one of the whole range fits, else chains by ranges of offsets.
//!
//! Chains are found to hold superseded offsets one after the other, each all over the range. Instead of sorted runs that are merged later, each
//! offset goes at once to the window, a part of the range with its share of the records, that it lies in, so that it is written once whatever
//! the number of chains. Within a window an offset is the difference from the one before, folded so that small ones of
//! either sign are small, in groups of seven bits, lowest first, all but the last with the upper bit set: two or three
//! bytes.

use std::ops::Range;

use super::fan::{Chains, Fan};
use super::{Sizes, SpillFiles, Traffic};
use crate::error::IoFailure;
use crate::units::Offset;

/// The longest form of a difference.
const DELTA_BYTES_MAX: usize = 10;

/// Superseded offsets, as they are found.
#[derive(Debug)]
pub(in crate::clean) enum Marks {
    /// All of them in memory.
    Bitmap(Bitmap),
    /// By windows, in a file.
    Windows(WindowMarks),
}

/// One bit for each offset of a range.
#[derive(Debug)]
pub(in crate::clean) struct Bitmap {
    range: Range<Offset>,
    words: Vec<u64>,
    count: u64,
}

/// Superseded offsets on their way into the chains of their windows.
#[derive(Debug)]
pub(in crate::clean) struct WindowMarks {
    fan: Fan,
    windows: Division,
    count: u64,
}

/// A range of offsets in parts that hold about equally many records, however far those are from one another.
#[derive(Clone, Debug)]
pub(super) struct Division {
    start: Offset,
    /// Where the second and all further parts begin, rising.
    starts: Vec<Offset>,
    end: Offset,
}

impl Division {
    /// Of a range, at offsets that rise, of which those that are within the range count.
    pub(super) fn new(range: &Range<Offset>, mut starts: Vec<Offset>) -> Self {
        starts.retain(|start| *start > range.start && *start < range.end);
        starts.dedup();
        Self { start: range.start, starts, end: range.end }
    }

    /// Number of parts.
    pub(super) fn parts(&self) -> usize {
        self.starts.len() + 1
    }

    /// The part that an offset of the range lies in.
    #[inline]
    fn part_of(&self, offset: Offset) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Where a part begins and ends.
    pub(super) fn part(&self, number: u32) -> Range<Offset> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let start = number.checked_sub(1).map_or(Some(self.start), |before| self.starts.get(before).copied());
        start.unwrap_or(self.end)..self.starts.get(number).copied().unwrap_or(self.end)
    }

    /// What is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.starts.capacity() * size_of::<Offset>()
    }
}

/// Where to divide what comes in rising order, without knowing how much will come: every so many offsets one is kept,
/// and whenever there are too many, every second goes and twice as many are passed over from then on.
#[derive(Debug)]
pub(in crate::clean) struct Quantiles {
    kept: Vec<Offset>,
    kept_max: usize,
    stride: u64,
    seen: u64,
}

impl Quantiles {
    /// For at most `parts` parts.
    pub(in crate::clean) fn new(parts: usize) -> Self {
        let kept_max = parts.saturating_sub(1).max(1);
        Self { kept: Vec::with_capacity(kept_max), kept_max, stride: 1, seen: 0 }
    }

    /// The next offset.
    #[inline]
    pub(in crate::clean) fn note(&mut self, offset: Offset) {
        self.seen += 1;
        if self.seen >= self.stride {
            self.keep(offset);
        }
    }

    fn keep(&mut self, offset: Offset) {
        self.seen = 0;
        if self.kept.len() == self.kept_max {
            let mut number = 0_u32;
            self.kept.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.stride = self.stride.saturating_mul(2);
        }
        self.kept.push(offset);
    }

    /// What is allocated.
    pub(in crate::clean) fn memory_bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Offset>()
    }

    /// The parts of a range.
    pub(super) fn division(self, range: &Range<Offset>) -> Division {
        Division::new(range, self.kept)
    }
}

impl Bitmap {
    /// What a bitmap of a range takes; `None` if it is more than can be addressed.
    pub(in crate::clean) fn bytes_for(range: &Range<Offset>) -> Option<usize> {
        let words = range.end.distance_from(range.start).div_ceil(u64::from(u64::BITS));
        usize::try_from(words).ok()?.checked_mul(size_of::<u64>())
    }

    /// With no bit set.
    pub(in crate::clean) fn new(range: Range<Offset>) -> Self {
        let words = Self::bytes_for(&range).unwrap_or(0) / size_of::<u64>();
        Self { range, words: vec![0; words], count: 0 }
    }

    /// Sets an offset's bit; one outside the range has none.
    #[inline]
    pub(in crate::clean) fn set(&mut self, offset: Offset) {
        let Some((word, bit)) = self.place(offset) else { return };
        if let Some(word) = self.words.get_mut(word) {
            self.count += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Whether an offset's bit is set.
    #[inline]
    pub(in crate::clean) fn has(&self, offset: Offset) -> bool {
        let Some((word, bit)) = self.place(offset) else { return false };
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many bits are set in the part of `range` that it covers.
    pub(in crate::clean) fn count_in(&self, range: &Range<Offset>) -> u64 {
        let start = range.start.max(self.range.start).distance_from(self.range.start);
        let end = range.end.min(self.range.end).distance_from(self.range.start);
        if start >= end {
            return 0;
        }
        let index = |at: u64| usize::try_from(at / 64).unwrap_or(usize::MAX);
        let (first, last) = (index(start), index(end - 1));
        let words = self.words.get(first..=last).unwrap_or_default();
        let mut count = 0;
        for (at, word) in words.iter().enumerate() {
            let from = if at == 0 { u64::MAX << (start % 64) } else { u64::MAX };
            let to = if first + at == last { u64::MAX >> (63 - (end - 1) % 64) } else { u64::MAX };
            count += u64::from((word & from & to).count_ones());
        }
        count
    }

    /// Another range, no bit set. The range takes no more than what was allocated.
    pub(super) fn reset(&mut self, range: Range<Offset>) {
        let words = Self::bytes_for(&range).unwrap_or(0) / size_of::<u64>();
        assert!(words <= self.words.capacity(), "the range fits the bitmap");
        self.words.clear();
        self.words.resize(words, 0);
        (self.range, self.count) = (range, 0);
    }

    /// The offsets it has bits for.
    pub(in crate::clean) fn range(&self) -> &Range<Offset> {
        &self.range
    }

    /// Bits set.
    pub(in crate::clean) fn count(&self) -> u64 {
        self.count
    }

    /// What is allocated.
    pub(in crate::clean) fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    #[inline]
    fn place(&self, offset: Offset) -> Option<(usize, u64)> {
        if offset < self.range.start || offset >= self.range.end {
            return None;
        }
        let past = offset.distance_from(self.range.start);
        Some((usize::try_from(past / 64).ok()?, 1 << (past % 64)))
    }
}

impl Marks {
    /// For offsets of `range`: in memory if the bitmap has room, else in a new file.
    pub(super) fn new(
        files: &mut SpillFiles,
        sizes: &Sizes,
        range: &Range<Offset>,
        quantiles: Quantiles,
    ) -> Result<Self, IoFailure> {
        if Bitmap::bytes_for(range).is_some_and(|bytes| bytes <= sizes.bitmap_bytes_max()) {
            return Ok(Self::Bitmap(Bitmap::new(range.clone())));
        }
        Ok(Self::Windows(WindowMarks::new(files, sizes, quantiles.division(range))?))
    }

    /// What it will take for `range`.
    pub(super) fn bytes_for(sizes: &Sizes, range: &Range<Offset>) -> usize {
        let bitmap = Bitmap::bytes_for(range).filter(|bytes| *bytes <= sizes.bitmap_bytes_max());
        bitmap.unwrap_or_else(|| WindowMarks::bytes_for(sizes))
    }

    /// Notes that an offset is superseded.
    #[inline]
    pub(super) fn mark(&mut self, offset: Offset) -> Result<(), IoFailure> {
        match self {
            Self::Bitmap(bitmap) => {
                bitmap.set(offset);
                Ok(())
            }
            Self::Windows(marks) => marks.mark(offset),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Bitmap(bitmap) => bitmap.count(),
            Self::Windows(marks) => marks.count,
        }
    }

    /// Bytes written so far.
    pub(super) fn traffic(&self) -> Traffic {
        match self {
            Self::Bitmap(_) => Traffic::default(),
            Self::Windows(marks) => marks.fan.traffic(),
        }
    }

    /// What is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Bitmap(bitmap) => bitmap.memory_bytes(),
            Self::Windows(marks) => marks.memory_bytes(),
        }
    }
}

impl WindowMarks {
    /// A window for each part of a range, empty.
    pub(super) fn new(files: &mut SpillFiles, sizes: &Sizes, windows: Division) -> Result<Self, IoFailure> {
        let fan = Fan::new(files, windows.parts(), sizes.mark_block)?;
        Ok(Self { fan, windows, count: 0 })
    }

    /// What they take at most.
    pub(super) fn bytes_for(sizes: &Sizes) -> usize {
        sizes.windows * (sizes.mark_block + Fan::BRANCH_BYTES + size_of::<Offset>())
    }

    /// Adds an offset to its window.
    #[inline]
    pub(super) fn mark(&mut self, offset: Offset) -> Result<(), IoFailure> {
        self.count += 1;
        let value = offset.value();
        self.fan.push(self.windows.part_of(offset), value, |_, last| Some(encoded(value.wrapping_sub(last))))
    }

    /// All windows, complete.
    pub(super) fn close(self) -> Result<(Chains, Division), IoFailure> {
        Ok((self.fan.close()?, self.windows))
    }

    /// Bytes written so far.
    pub(super) fn traffic(&self) -> Traffic {
        self.fan.traffic()
    }

    /// What is allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.fan.memory_bytes() + self.windows.memory_bytes()
    }
}

/// A difference as it is written, and its length.
fn encoded(delta: i64) -> ([u8; DELTA_BYTES_MAX], usize) {
    // Folded: 0, -1, 1, -2 become 0, 1, 2, 3.
    let mut rest = (delta.cast_unsigned() << 1) ^ (delta >> 63).cast_unsigned();
    let mut bytes = [0; DELTA_BYTES_MAX];
    let mut len = 0;
    for byte in &mut bytes {
        let [low, ..] = rest.to_le_bytes();
        rest >>= 7;
        len += 1;
        if rest == 0 {
            *byte = low & 0x7f;
            break;
        }
        *byte = low | 0x80;
    }
    (bytes, len)
}

/// Takes the next offset off the front of a payload; `None` when what is there is none.
pub(super) fn decoded(bytes: &mut &[u8], last: i64) -> Option<i64> {
    let mut folded = 0_u64;
    let mut shift = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        folded |= part.unbounded_shl(shift);
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
    let delta = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
    last.checked_add(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_come_back() {
        for delta in [0, 1, -1, 63, 64, -64, -65, 300, -1 << 40, i64::MAX, i64::MIN + 1] {
            let (bytes, len) = encoded(delta);
            let mut rest = &bytes[..len];
            assert_eq!(decoded(&mut rest, 0), Some(delta));
            assert!(rest.is_empty());
        }
        assert_eq!(encoded(-3), ([5, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1));
        assert_eq!(decoded(&mut &[0x80_u8, 0x80][..], 0), None);
        assert_eq!(decoded(&mut &[0xff_u8; 11][..], 0), None);
    }

    #[test]
    fn bits_are_counted_as_they_were_set() {
        let offset = |value: u64| Offset::new(i64::try_from(value).unwrap()).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let (base, len) = (rng.u64(0..1000), rng.u64(0..400));
            let mut bitmap = Bitmap::new(offset(base)..offset(base + len));
            let mut model = std::collections::BTreeSet::new();
            for _ in 0..rng.usize(0..300) {
                let at = rng.u64(0..1600);
                bitmap.set(offset(at));
                if at >= base && at < base + len {
                    model.insert(at);
                }
            }
            assert_eq!(bitmap.count(), model.len() as u64);
            for _ in 0..20 {
                let (a, b) = (rng.u64(0..1600), rng.u64(0..1600));
                let expected = model.iter().filter(|at| **at >= a && **at < b).count() as u64;
                assert_eq!(bitmap.count_in(&(offset(a)..offset(b))), expected);
                assert_eq!(bitmap.has(offset(a)), model.contains(&a));
            }
        }
    }

    #[test]
    fn the_parts_of_a_range_are_the_range_and_hold_about_equally_many() {
        let offset = |value: i64| Offset::new(value).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        for (count, parts) in [(0, 4), (1, 2), (3, 16), (100, 16), (5000, 16), (5000, 128)] {
            let mut quantiles = Quantiles::new(parts);
            let mut offsets = vec![7];
            for n in 1..count {
                offsets.push(offsets[n - 1] + 1 + rng.i64(0..if n % 1000 == 0 { 1 << 40 } else { 3 }));
            }
            offsets.truncate(count);
            for at in &offsets {
                quantiles.note(offset(*at));
            }
            let end = offset(offsets.last().map_or(8, |last| last + 1));
            let division = quantiles.division(&(offset(5)..end));
            assert!(division.parts() <= parts);
            let mut at = offset(5);
            for number in 0..u32::try_from(division.parts()).unwrap() {
                let part = division.part(number);
                assert_eq!(part.start, at);
                assert!(part.start < part.end);
                assert_eq!(division.part_of(part.start), number as usize);
                assert_eq!(division.part_of(offset(part.end.value() - 1)), number as usize);
                let held = offsets.iter().filter(|at| part.contains(&offset(**at))).count();
                assert!(held <= count * 4 / parts + 1, "{held} of {count} in one of {parts}");
                at = part.end;
            }
            assert_eq!(at, end);
        }
    }
}
