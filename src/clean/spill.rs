//! What does not fit the memory, in files: pairs of a key's hash and an offset, and offsets that are superseded.
//!
//! ```text
//! chain.rs     blocks of one file, linked into chains that are read in either direction
//! fan.rs       what comes in is spread over many chains, each with its buffer
//! pairs.rs     hash and offset in 16 bytes; which chain they go to
//! resolve.rs   chain after chain, newest record first: whose key was seen before is superseded
//! marks.rs     superseded offsets: a bitmap, or chains by ranges of offsets
//! windows.rs   those chains read back, range after range, in rising order
//! ```
//!
//! The files live in the partition's directory, are never synced, and go when they were consumed or dropped. What a crash
//! leaves of them is removed by the next opening. Every block is checked when it is read back: a block that was torn or
//! rotted, or that is another one than was asked for, is an error and never a verdict.

mod chain;
mod fan;
mod marks;
mod pairs;
mod resolve;
mod windows;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use marks::{Bitmap, Quantiles};
pub(super) use pairs::Pairs;
pub(super) use resolve::{Resolve, Resolved};
pub(super) use windows::Windows;

use crate::error::{IoFailure, IoOperation};
use crate::fs::{File, FileSystem, OpenMode, read_full_at, write_all_at};
use crate::segment::names;

/// Where spill files are made, and how they are numbered.
#[derive(Clone, Debug)]
pub(super) struct SpillFiles {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    next: u64,
}

impl SpillFiles {
    /// In a partition's directory, where opening removes what a crash leaves. One pass at a time.
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Self {
        Self { fs, dir, next: 0 }
    }

    /// A new file. One of the same name, which an earlier pass could not remove, goes first.
    fn create(&mut self) -> Result<SpillFile, IoFailure> {
        let path = self.dir.join(names::spill(self.next));
        self.next = self.next.saturating_add(1);
        let failed = |source| IoFailure::new(IoOperation::Open, &path, source);
        let file = match self.fs.open(&path, OpenMode::CreateNew) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.fs.remove_file(&path).map_err(|e| IoFailure::new(IoOperation::Remove, &path, e))?;
                self.fs.open(&path, OpenMode::CreateNew).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        Ok(SpillFile { fs: Arc::clone(&self.fs), path, file, written: 0, read: 0 })
    }
}

/// A file that goes when it is dropped.
#[derive(Debug)]
struct SpillFile {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Bytes written so far.
    written: u64,
    /// Bytes read so far.
    read: u64,
}

impl SpillFile {
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), IoFailure> {
        write_all_at(&*self.file, bytes, at).map_err(|e| IoFailure::new(IoOperation::Write, &self.path, e))?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Fills as much of `bytes` as the file has.
    fn read(&mut self, bytes: &mut [u8], at: u64) -> Result<usize, IoFailure> {
        let read = read_full_at(&*self.file, bytes, at);
        let read = read.map_err(|e| IoFailure::new(IoOperation::Read, &self.path, e))?;
        self.read = self.read.saturating_add(read as u64);
        Ok(read)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        // One that cannot be removed now is removed by the next pass or the next opening.
        let _ = self.fs.remove_file(&self.path);
    }
}

/// How many bytes files took and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Bytes written.
    pub(super) written: u64,
    /// Bytes read.
    pub(super) read: u64,
}

impl Traffic {
    /// Both sums.
    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self { written: self.written.saturating_add(other.written), read: self.read.saturating_add(other.read) }
    }

    /// Bytes moved either way.
    pub(super) fn total(self) -> u64 {
        self.written.saturating_add(self.read)
    }
}

/// Memory that is divided before the first record is read; see each part's own file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// All of it.
    pub(super) bytes: usize,
    /// A block of pairs.
    pub(super) pair_block: usize,
    /// Chains of pairs at the first level: a power of two.
    pub(super) chains: usize,
    /// A block of superseded offsets.
    pub(super) mark_block: usize,
    /// Chains of superseded offsets.
    pub(super) windows: usize,
}

impl Sizes {
    /// Bits of the hash that choose a chain where one is split again.
    pub(super) const SPLIT_BITS: u32 = 3;
    /// Chains that one is split into.
    pub(super) const SPLIT: usize = 1 << Self::SPLIT_BITS;

    /// How `bytes` are divided: while pairs come in, between a quarter and a half for their blocks; then an eighth for
    /// blocks of chains that are split again, an eighth for superseded offsets, and the rest for the map.
    pub(super) fn of(bytes: usize) -> Self {
        let pair_block = floor_of_power(bytes / 256).clamp(1 << 10, 1 << 16);
        let mark_block = floor_of_power(bytes / 1024).clamp(1 << 9, 1 << 12);
        Self {
            bytes,
            pair_block,
            chains: floor_of_power(bytes / 2 / pair_block).clamp(2, 512),
            mark_block,
            windows: floor_of_power(bytes / 8 / mark_block).clamp(2, 1024),
        }
    }

    /// What a bitmap of the whole range may take.
    pub(super) fn bitmap_bytes_max(&self) -> usize {
        self.bytes / 4
    }

    /// What the verdicts on one range of offsets may take.
    pub(super) fn window_bytes(&self) -> usize {
        (self.bytes / 4).min(1 << 20)
    }

    /// What is kept free for the tables of chains that wait.
    pub(super) fn table_bytes(&self) -> usize {
        self.bytes / 32
    }
}

fn floor_of_power(n: usize) -> usize {
    1 << n.max(1).ilog2()
}

#[cfg(test)]
#[path = "spill/tests.rs"]
mod tests;
