//! Index files, entry by entry, through a bounded window: a file may claim any size.

use std::io;
use std::path::PathBuf;

use crate::error::{IoFailure, IoOperation};
use crate::fs::OpenMode;
use crate::segment::window::Window;
use crate::segment::{FileKind, Home};
use crate::units::{Offset, TimestampMs};

/// An entry of an index, as stored and unjudged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexEntry {
    /// Of an offset index.
    Offset {
        /// Last offset of a batch minus the segment's base offset.
        relative: i32,
        /// Where that batch starts.
        position: u32,
    },
    /// Of a time index.
    Time {
        /// Largest timestamp so far.
        timestamp: TimestampMs,
        /// Last offset of the batch that brought it, minus the segment's base offset.
        relative: i32,
    },
}

/// Iterator over the whole entries of an index file.
#[derive(Debug)]
pub struct IndexReader {
    window: Window,
    path: PathBuf,
    kind: FileKind,
    file_bytes: u64,
    at: u64,
}

impl IndexReader {
    pub(super) fn open(home: &Home, base: Offset, kind: FileKind) -> Result<Option<Self>, IoFailure> {
        let path = home.path(base, kind);
        let file = match home.fs.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?,
        };
        let file_bytes = file.size().map_err(|e| IoFailure::new(IoOperation::Read, &path, e))?;
        Ok(Some(Self { window: Window::new(file, file_bytes), path, kind, file_bytes, at: 0 }))
    }

    /// Path of the file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Size of the file when it was opened.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Size of one entry.
    pub fn entry_bytes(&self) -> u64 {
        if self.kind == FileKind::TimeIndex { 12 } else { 8 }
    }

    fn read(&mut self) -> io::Result<Option<IndexEntry>> {
        let bytes = self.window.at(self.at, 12)?;
        let entry = if self.kind == FileKind::TimeIndex {
            bytes.first_chunk().map(|&[t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3]| IndexEntry::Time {
                timestamp: TimestampMs::new(i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7])),
                relative: i32::from_be_bytes([o0, o1, o2, o3]),
            })
        } else {
            bytes.first_chunk().map(|&[o0, o1, o2, o3, p0, p1, p2, p3]| IndexEntry::Offset {
                relative: i32::from_be_bytes([o0, o1, o2, o3]),
                position: u32::from_be_bytes([p0, p1, p2, p3]),
            })
        };
        self.at += self.entry_bytes();
        Ok(entry)
    }
}

impl Iterator for IndexReader {
    type Item = Result<IndexEntry, IoFailure>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        read.map_err(|e| IoFailure::new(IoOperation::Read, &self.path, e)).transpose()
    }
}
