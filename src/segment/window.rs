//! A sliding window over a file, filled with positional reads into a reused buffer.

use std::io;
use std::sync::Arc;

use crate::fs::{self, File};

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
