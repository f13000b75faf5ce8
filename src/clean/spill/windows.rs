//! Superseded offsets read back, window after window, in rising order.
//!
//! A window is read into a bitmap if its range fits one, or into a list if it holds few; otherwise it is split into
//! windows of its own, by a sample of what it holds: each split divides the offsets by about the number of windows, and at
//! least by two, since no offset comes twice.

use std::ops::Range;
use std::vec;

use super::chain::{Chain, ChainFile, Direction};
use super::fan::Chains;
use super::marks::{Bitmap, Division, WindowMarks, decoded};
use super::{Sizes, SpillFiles, Traffic};
use crate::error::IoFailure;
use crate::units::Offset;

/// The verdicts on a range of offsets, of which one window at a time is in memory.
#[derive(Debug)]
pub(in crate::clean) struct Windows {
    files: SpillFiles,
    sizes: Sizes,
    /// Windows to come: of the whole range, of the window of it that was split, and so on.
    levels: Vec<Level>,
    current: Window,
    block: Vec<u8>,
    /// Of files that are gone.
    traffic: Traffic,
    memory_peak: usize,
}

/// The windows of one file that are yet to come.
#[derive(Debug)]
struct Level {
    file: ChainFile,
    chains: vec::IntoIter<Chain>,
    division: Division,
}

impl Level {
    fn memory_bytes(&self) -> usize {
        self.chains.len() * size_of::<Chain>() + self.division.memory_bytes()
    }
}

/// The window that can be asked.
#[derive(Debug)]
enum Window {
    Bits(Bitmap),
    /// Offsets in rising order.
    List {
        range: Range<Offset>,
        offsets: Vec<Offset>,
    },
}

impl Window {
    fn range(&self) -> &Range<Offset> {
        match self {
            Self::Bits(bits) => bits.range(),
            Self::List { range, .. } => range,
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Bits(bits) => bits.memory_bytes(),
            Self::List { offsets, .. } => offsets.capacity() * size_of::<Offset>(),
        }
    }
}

impl Windows {
    /// Of what was marked.
    pub(super) fn new(files: SpillFiles, sizes: Sizes, marks: WindowMarks) -> Result<Self, IoFailure> {
        let (chains, division) = marks.close()?;
        let current = Window::List { range: Offset::ZERO..Offset::ZERO, offsets: Vec::new() };
        let block = vec![0; sizes.mark_block];
        let mut windows =
            Self { files, sizes, levels: Vec::new(), current, block, traffic: Traffic::default(), memory_peak: 0 };
        windows.push(chains, division);
        Ok(windows)
    }

    /// Whether an offset is superseded. One that lies before what was asked last is not known any more, and said not to
    /// be: then its record stays.
    pub(in crate::clean) fn has(&mut self, offset: Offset) -> Result<bool, IoFailure> {
        self.advance(offset)?;
        Ok(match &self.current {
            Window::Bits(bits) => bits.has(offset),
            Window::List { offsets, .. } => offsets.binary_search(&offset).is_ok(),
        })
    }

    /// How many offsets of a range are superseded; `None` if it reaches into the next window.
    pub(in crate::clean) fn count_in(&mut self, range: &Range<Offset>) -> Result<Option<u64>, IoFailure> {
        self.advance(range.start)?;
        let current = self.current.range();
        if range.start < current.start || range.end > current.end {
            return Ok(None);
        }
        Ok(Some(match &self.current {
            Window::Bits(bits) => bits.count_in(range),
            Window::List { offsets, .. } => {
                let below = |end: &Offset| offsets.partition_point(|offset| offset < end);
                below(&range.end).saturating_sub(below(&range.start)) as u64
            }
        }))
    }

    /// Bytes written and read so far.
    pub(in crate::clean) fn traffic(&self) -> Traffic {
        self.levels.iter().fold(self.traffic, |sum, level| sum.and(level.file.traffic()))
    }

    /// What is allocated now.
    pub(in crate::clean) fn memory_bytes(&self) -> usize {
        let tables: usize = self.levels.iter().map(Level::memory_bytes).sum();
        self.current.memory_bytes() + self.block.capacity() + tables
    }

    /// The most that was allocated at a time.
    pub(in crate::clean) fn memory_peak_bytes(&self) -> usize {
        self.memory_peak.max(self.memory_bytes())
    }

    fn push(&mut self, chains: Chains, division: Division) {
        self.levels.push(Level { file: chains.file, chains: chains.all.into_iter(), division });
    }

    /// Loads the window that an offset lies in, if it is a later one.
    fn advance(&mut self, offset: Offset) -> Result<(), IoFailure> {
        while offset >= self.current.range().end {
            let Some(level) = self.levels.last_mut() else { return Ok(()) };
            let Some(chain) = level.chains.next() else {
                self.traffic = self.traffic.and(level.file.traffic());
                self.levels.pop();
                continue;
            };
            let range = level.division.part(chain.number);
            // What is not asked for is not read.
            if range.end > offset {
                self.load(chain, range)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, chain: Chain, range: Range<Offset>) -> Result<(), IoFailure> {
        let bytes = self.sizes.window_bytes();
        let listed = usize::try_from(chain.records).unwrap_or(usize::MAX).saturating_mul(size_of::<Offset>());
        let bits = Bitmap::bytes_for(&range).filter(|bits| *bits <= bytes);
        if bits.is_none_or(|bits| listed <= bits) && listed <= bytes {
            self.let_go();
            let mut offsets = Vec::with_capacity(usize::try_from(chain.records).unwrap_or(0));
            self.read(chain, |offset| {
                offsets.push(offset);
                Ok(())
            })?;
            offsets.sort_unstable();
            self.current = Window::List { range, offsets };
        } else if bits.is_some() {
            let mut bitmap = self.emptied(range);
            self.read(chain, |offset| {
                bitmap.set(offset);
                Ok(())
            })?;
            self.current = Window::Bits(bitmap);
        } else {
            self.split(chain, &range)?;
        }
        self.memory_peak = self.memory_peak_bytes();
        Ok(())
    }

    /// A bitmap of a range, in the memory of the last one where there is one.
    fn emptied(&mut self, range: Range<Offset>) -> Bitmap {
        let is_enough = |bits: &Bitmap| Bitmap::bytes_for(&range).is_some_and(|bytes| bytes <= bits.memory_bytes());
        match self.let_go() {
            Window::Bits(mut bits) if is_enough(&bits) => {
                bits.reset(range);
                bits
            }
            before => {
                drop(before);
                Bitmap::new(range)
            }
        }
    }

    fn let_go(&mut self) -> Window {
        let end = self.current.range().end;
        std::mem::replace(&mut self.current, Window::List { range: end..end, offsets: Vec::new() })
    }

    /// Divides what one window holds among windows of its own, which come next.
    fn split(&mut self, chain: Chain, range: &Range<Offset>) -> Result<(), IoFailure> {
        drop(self.let_go());
        let division = self.sampled(chain, range)?;
        let mut marks = WindowMarks::new(&mut self.files, &self.sizes, division)?;
        self.memory_peak = self.memory_peak.max(self.memory_bytes() + marks.memory_bytes());
        self.read(chain, |offset| marks.mark(offset))?;
        let (chains, division) = marks.close()?;
        self.memory_peak = self.memory_peak.max(self.memory_bytes() + chains.memory_bytes());
        self.push(chains, division);
        Ok(())
    }

    /// Parts of a range that hold about equally many of a chain's offsets.
    fn sampled(&mut self, chain: Chain, range: &Range<Offset>) -> Result<Division, IoFailure> {
        const SAMPLES_PER_WINDOW: usize = 4;
        let samples_max = self.sizes.windows * SAMPLES_PER_WINDOW;
        let stride = chain.records.div_ceil(samples_max as u64).max(1);
        let mut samples = Vec::with_capacity(samples_max);
        let mut number = 0_u64;
        self.read(chain, |offset| {
            if number.is_multiple_of(stride) {
                samples.push(offset);
            }
            number += 1;
            Ok(())
        })?;
        samples.sort_unstable();
        let between = samples.len().div_ceil(self.sizes.windows).max(1);
        Ok(Division::new(range, samples.into_iter().step_by(between).skip(1).collect()))
    }

    /// Reads all offsets of a chain of the last level.
    fn read(&mut self, chain: Chain, mut each: impl FnMut(Offset) -> Result<(), IoFailure>) -> Result<(), IoFailure> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let mut cursor = chain.cursor(Direction::Forward);
        while let Some(payload) = level.file.read(&mut cursor, &mut self.block)? {
            let (mut rest, mut last) = (payload.bytes, payload.base);
            for _ in 0..payload.records {
                let offset = decoded(&mut rest, last).and_then(Offset::new);
                let Some(offset) = offset else { return Err(level.file.bad_records(&cursor)) };
                last = offset.value();
                each(offset)?;
            }
            if !rest.is_empty() {
                return Err(level.file.bad_records(&cursor));
            }
        }
        Ok(())
    }
}
