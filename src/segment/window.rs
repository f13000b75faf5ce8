//! A sliding window over a file, filled with positional reads into a reused buffer.

use std::io;
use std::sync::Arc;

use crate::fs::{self, File};
use crate::record::{Crc32c, crc32c, layout};

/// One read takes this much; measurements show no gain above it.
const WINDOW_BYTES: usize = 1 << 20;

/// The bytes of a file around a position. Reads each byte once when positions rise.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn File>,
    end: u64,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Window {
    /// A window over the first `end` bytes of `file`.
    pub(crate) fn new(file: Arc<dyn File>, end: u64) -> Self {
        Self { file, end, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// Bytes from `position` to the end.
    pub(crate) fn remaining(&self, position: u64) -> u64 {
        self.end.saturating_sub(position)
    }

    /// Largest `need` that [`Window::at`] answers.
    pub(crate) const fn need_max() -> usize {
        WINDOW_BYTES
    }

    /// The bytes at `position`: at least `need` (at most [`Window::need_max`]), or as many as there are to the end.
    pub(crate) fn at(&mut self, position: u64, need: usize) -> io::Result<&[u8]> {
        let held = position
            .checked_sub(self.start)
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| skip + need <= self.filled || self.start + self.filled as u64 >= self.end);
        let skip = if let Some(skip) = held {
            skip
        } else {
            self.fill(position)?;
            0
        };
        Ok(self.buffer.get(skip..self.filled).unwrap_or_default())
    }

    /// CRC-32C over what the checksum of a batch of `size` bytes at `position` covers, whatever its size.
    pub(crate) fn batch_crc(&mut self, position: u64, size: u32) -> io::Result<u32> {
        const COVERED_FROM: usize = layout::ATTRIBUTES_AT;
        if size as usize <= WINDOW_BYTES {
            let bytes = self.at(position, size as usize)?;
            let covered = bytes.get(COVERED_FROM..size as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
            return Ok(crc32c(covered));
        }
        let mut crc = Crc32c::new();
        let (mut at, end) = (position + COVERED_FROM as u64, position + u64::from(size));
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let bytes = self.at(at, left.min(WINDOW_BYTES))?;
            let part = bytes.get(..left).unwrap_or(bytes);
            if part.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            crc.update(part);
            at += part.len() as u64;
        }
        Ok(crc.finish())
    }

    fn fill(&mut self, position: u64) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; WINDOW_BYTES];
        }
        // What is already here moves to the front instead of being read again.
        let kept = match position.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) if skip < self.filled => {
                self.buffer.copy_within(skip..self.filled, 0);
                self.filled - skip
            }
            _ => 0,
        };
        self.start = position;
        self.filled = kept;
        let wanted = usize::try_from(self.remaining(position)).unwrap_or(usize::MAX).min(self.buffer.len());
        if let Some(rest) = self.buffer.get_mut(kept..wanted) {
            self.filled += fs::read_full_at(&*self.file, rest, position + kept as u64)?;
        }
        if self.filled < wanted {
            // The file is shorter than it said; what is missing counts as not there.
            self.end = self.start + self.filled as u64;
        }
        Ok(())
    }
}
