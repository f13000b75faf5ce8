//! The files beside a log that is being written for cleaning: both indexes, the aborted transactions and the sum.
//!
//! They are written as they come, a few KiB at a time, since the cleaner's memory is bounded and the size of a segment is
//! not by it: a segment of a gigabyte has entries of 10 MB. Of a small segment they are written at its end.

use std::path::PathBuf;
use std::sync::Arc;

use super::sum::{GradualSum, SidecarStamp, Sidecars, SumEnd, UNCOVERED_BYTES};
use super::{FileKind, Home, SegmentFile, Stage};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, File, OpenMode};
use crate::index::{AbortedTxns, IndexCursor, SegmentIndex};
use crate::record::BatchHeader;
use crate::units::Offset;

/// Entries of a kind that are held before they are written.
const HELD_MAX: usize = 256;

/// What is written beside a log.
#[derive(Debug)]
pub(super) struct Beside {
    home: Home,
    base: Offset,
    index: SegmentIndex,
    cursor: IndexCursor,
    sum: GradualSum,
    offsets: Growing,
    times: Growing,
    sums: Growing,
}

/// A file that grows, and is there from the first bytes on.
#[derive(Debug)]
struct Growing {
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    /// Where it goes on.
    at: u64,
    crc: crc32fast::Hasher,
}

impl Beside {
    /// Beside the empty log of the segment at `base`.
    pub(super) fn new(home: &Home, base: Offset, interval_bytes: u32) -> Self {
        let growing = |kind, at| Growing::new(home, base, kind, at);
        Self {
            home: home.clone(),
            base,
            index: SegmentIndex::default(),
            cursor: IndexCursor::new(base, interval_bytes),
            sum: GradualSum::new(base, interval_bytes),
            offsets: growing(FileKind::Index, 0),
            times: growing(FileKind::TimeIndex, 0),
            sums: growing(FileKind::Sum, GradualSum::FRONT_BYTES),
        }
    }

    /// Bytes of memory that it holds: some ten KiB at most.
    pub(super) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes().saturating_add(self.sum.memory_bytes())
    }

    /// Takes the next batch of the log, which begins at `position`.
    pub(super) fn observe(&mut self, header: &BatchHeader, batch: &[u8], position: u64) -> Result<(), IoFailure> {
        let uncovered: [u8; UNCOVERED_BYTES] = batch.first_chunk().copied().unwrap_or([0; UNCOVERED_BYTES]);
        self.sum.observe(&uncovered, header.crc, position);
        self.cursor.observe(header, position, &mut self.index);
        let SegmentIndex { offsets, times } = &self.index;
        let held = self.sum.held().max(offsets.entries().len()).max(times.entries().len());
        if held >= HELD_MAX { self.write_out() } else { Ok(()) }
    }

    /// Writes all entries but the newest of each kind.
    fn write_out(&mut self) -> Result<(), IoFailure> {
        let mut out = Vec::with_capacity(HELD_MAX * 12);
        self.index.offsets.move_out(&mut out);
        self.offsets.push(&self.home, &out)?;
        out.clear();
        self.index.times.move_out(&mut out);
        self.times.push(&self.home, &out)?;
        out.clear();
        self.sum.move_out(&mut out);
        self.sums.push(&self.home, &out)
    }

    /// Writes the rest beside a log of `bytes` bytes that ends before `next`, and syncs it. The kinds that there are.
    pub(super) fn finish(
        mut self,
        bytes: u64,
        next: Offset,
        aborted: &AbortedTxns,
    ) -> Result<Vec<FileKind>, IoFailure> {
        let home = &self.home;
        let mut kinds = Vec::new();
        let mut sidecars = Sidecars::default();
        if !aborted.entries().is_empty() {
            let txn_index = Growing::new(home, self.base, FileKind::TxnIndex, 0);
            sidecars.txn_index = Some(txn_index.finish(home, &aborted.encode())?);
            kinds.push(FileKind::TxnIndex);
        }
        self.cursor.push_largest(&mut self.index.times);
        sidecars.time_index = Some(self.times.finish(home, &self.index.times.encode())?);
        kinds.push(FileKind::TimeIndex);
        sidecars.index = Some(self.offsets.finish(home, &self.index.offsets.encode())?);
        kinds.push(FileKind::Index);
        match self.sum.finish(bytes, next, sidecars) {
            Some(SumEnd { front, rest }) => {
                self.sums.write(home, &front, 0)?;
                self.sums.finish(home, &rest)?;
                kinds.push(FileKind::Sum);
            }
            // Without it the segment is unprotected until it is scrubbed, and that is all.
            None => home.remove(&SegmentFile::live(self.base, FileKind::Sum).at(Stage::Cleaned).name())?,
        }
        Ok(kinds)
    }
}

impl Growing {
    fn new(home: &Home, base: Offset, kind: FileKind, at: u64) -> Self {
        let path = home.dir.join(SegmentFile::live(base, kind).at(Stage::Cleaned).name());
        Self { path, file: None, at, crc: crc32fast::Hasher::new() }
    }

    fn open(&mut self, home: &Home) -> Result<&dyn File, IoFailure> {
        let file = match self.file.take() {
            Some(file) => file,
            None => home.open(&self.path, OpenMode::CreateNew)?,
        };
        Ok(&**self.file.insert(file))
    }

    fn write(&mut self, home: &Home, content: &[u8], at: u64) -> Result<(), IoFailure> {
        let written = fs::write_all_at(self.open(home)?, content, at);
        written.map_err(|e| IoFailure::new(IoOperation::Write, &self.path, e))
    }

    /// Appends.
    fn push(&mut self, home: &Home, content: &[u8]) -> Result<(), IoFailure> {
        if content.is_empty() {
            return Ok(());
        }
        self.write(home, content, self.at)?;
        self.at = self.at.saturating_add(content.len() as u64);
        self.crc.update(content);
        Ok(())
    }

    /// Appends the last bytes, and syncs the file, which there is then even if it is empty.
    fn finish(mut self, home: &Home, content: &[u8]) -> Result<SidecarStamp, IoFailure> {
        self.push(home, content)?;
        let synced = self.open(home)?.sync_data();
        synced.map_err(|e| IoFailure::new(IoOperation::Sync, &self.path, e))?;
        Ok(SidecarStamp { bytes: self.at, crc: self.crc.finalize() })
    }
}
