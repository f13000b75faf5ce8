//! Read-only views of a partition's directory, for tools: its segments, batches, indexes, state, and what is wrong.
//!
//! Nothing here opens a file for writing, creates one or takes a lock. So it works on a log that another process is
//! appending to, on a damaged one, on one that Kafka wrote and on what a crash left; what is seen of a log that changes
//! meanwhile was true when it was read. Files are read through windows of bounded size.
//!
//! ```
//! use alluvium::inspect::{Item, PartitionFiles, VerifyOptions};
//! use alluvium::record::BatchBuilder;
//! use alluvium::{AppendAs, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let log = PartitionLog::open(dir.path(), LogConfig::default()).unwrap();
//! let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"value")).build().unwrap();
//! log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
//!
//! let files = PartitionFiles::open(dir.path()).unwrap(); // while the log is open
//! let first = &files.segments().unwrap()[0];
//! let item = files.walk(first).unwrap().next().unwrap().unwrap();
//! assert!(matches!(item, Item::Batch { header, .. } if header.count == 1));
//! assert!(files.verify(&VerifyOptions::default()).unwrap().is_sound());
//! ```

mod data_dir;
mod derived;
mod derived_check;
mod estimate;
mod follow;
mod index_check;
mod indexes;
mod records;
mod report;
mod state;
mod sum_check;
mod survey;
mod verdict;
mod verify;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use data_dir::{DataDirectory, ListInfo, PartitionInfo, WitnessInfo};
pub use estimate::CleanEstimate;
pub use follow::{Follow, Followed};
pub use indexes::{IndexEntry, IndexReader};
pub use report::{Finding, FindingKind, IndexProblem, Report};
pub use state::{LastClose, StateFiles};
pub use survey::{CleanSurvey, SurveyOptions};
pub use verdict::{Asked, KeyRecords, RecordFate, RecordVerdict};
pub use verify::VerifyOptions;
pub use walk::{Item, Limits, SegmentWalk};

use crate::error::{Corruption, IoFailure, IoOperation};
use crate::fs::{DirEntry, EntryKind, FileSystem, OpenMode, OsFileSystem};
use crate::segment::{FileKind, Home, SegmentFile, Stage};
use crate::units::Offset;

/// Why a directory cannot be looked at.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The path names nothing.
    #[error("{} does not exist; name the directory of a partition", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path names a file.
    #[error("{} is not a directory; name the directory of a partition", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is no segment in it.
    #[error("{} holds no segment (no <base offset>.log); name the directory of a partition", path.display())]
    NoSegments {
        /// The path.
        path: PathBuf,
    },
    /// A batch is not what its header says, or larger than the limits.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// `Err` unless there is a directory at `path`.
fn check_directory(fs: &dyn FileSystem, path: &Path) -> Result<(), InspectError> {
    let path = path.to_owned();
    match fs.metadata(&path) {
        Ok(found) if found.kind == EntryKind::Directory => Ok(()),
        Ok(_) => Err(InspectError::NotADirectory { path }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(InspectError::Missing { path }),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(InspectError::NotADirectory { path }),
        Err(e) => Err(IoFailure::new(IoOperation::List, path, e).into()),
    }
}

/// One segment, as the directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Base offset.
    pub base: Offset,
    /// Path of the `.log`.
    pub path: PathBuf,
    /// Size of the `.log`.
    pub log_bytes: u64,
    /// Base offset of the next segment; `None` for the newest, which takes the appends.
    pub next_base: Option<Offset>,
}

/// The files of one partition. Listing and reading start anew with every call.
#[derive(Clone, Debug)]
pub struct PartitionFiles {
    home: Home,
}

impl PartitionFiles {
    /// The files in `dir` of the operating system's file system.
    ///
    /// # Errors
    /// [`InspectError`] when there is no such directory, or no segment in it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, InspectError> {
        Self::open_on(Arc::new(OsFileSystem), dir)
    }

    /// The files in `dir` of `fs`.
    ///
    /// # Errors
    /// As [`PartitionFiles::open`].
    pub fn open_on(fs: Arc<dyn FileSystem>, dir: impl AsRef<Path>) -> Result<Self, InspectError> {
        let path = dir.as_ref().to_owned();
        check_directory(&*fs, &path)?;
        let files = Self { home: Home::new(fs, Arc::from(path.as_path())) };
        if files.segments()?.is_empty() { Err(InspectError::NoSegments { path }) } else { Ok(files) }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.home.dir
    }

    /// Everything in the directory, sorted by name.
    ///
    /// # Errors
    /// [`IoFailure`] when it cannot be listed.
    pub fn entries(&self) -> Result<Vec<DirEntry>, IoFailure> {
        self.home.list()
    }

    /// The segments in service, oldest first.
    ///
    /// # Errors
    /// [`IoFailure`] when the directory cannot be listed.
    pub fn segments(&self) -> Result<Vec<SegmentInfo>, IoFailure> {
        let entries = self.entries()?;
        let files = entries.iter().filter_map(SegmentFile::of);
        let is_live_log = |file: &SegmentFile| file.kind == FileKind::Log && file.stage == Stage::Live;
        let mut bases: Vec<Offset> = files.filter(is_live_log).map(|file| file.base).collect();
        bases.sort_unstable();
        let mut segments: Vec<SegmentInfo> = Vec::with_capacity(bases.len());
        for base in bases {
            let path = self.home.path(base, FileKind::Log);
            let log_bytes = match self.home.fs.metadata(&path) {
                Ok(found) => found.len,
                // It went since the directory was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(IoFailure::new(IoOperation::List, path, e)),
            };
            if let Some(previous) = segments.last_mut() {
                previous.next_base = Some(base);
            }
            segments.push(SegmentInfo { base, path, log_bytes, next_base: None });
        }
        Ok(segments)
    }

    /// Goes through the batches of a segment, from the first one on.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be opened.
    pub fn walk(&self, segment: &SegmentInfo) -> Result<SegmentWalk, IoFailure> {
        self.resume(segment, 0, segment.base)
    }

    /// Goes on through a segment at `position`, where a batch with offset `expected` or more is due.
    fn resume(&self, segment: &SegmentInfo, position: u64, expected: Offset) -> Result<SegmentWalk, IoFailure> {
        let file = self.home.open(&segment.path, OpenMode::Read)?;
        SegmentWalk::new(file, segment, position, expected)
    }

    /// The entries of a segment's offset index; `None` when there is no such file.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be opened.
    pub fn offset_index(&self, base: Offset) -> Result<Option<IndexReader>, IoFailure> {
        IndexReader::open(&self.home, base, FileKind::Index)
    }

    /// The entries of a segment's time index; `None` when there is no such file.
    ///
    /// # Errors
    /// [`IoFailure`] when the file cannot be opened.
    pub fn time_index(&self, base: Offset) -> Result<Option<IndexReader>, IoFailure> {
        IndexReader::open(&self.home, base, FileKind::TimeIndex)
    }

    /// What the state files say.
    ///
    /// # Errors
    /// [`IoFailure`] when one cannot be read. Wrong bytes in one are no error but part of the answer.
    pub fn state(&self) -> Result<StateFiles, IoFailure> {
        StateFiles::read(&self.home)
    }

    /// Reads batch after batch from `from` on, across segments and rolls, and goes on when the log has grown.
    pub fn follow(&self, from: Offset) -> Follow {
        Follow::new(self.clone(), from)
    }

    /// Checks everything: structure, checksums, records inside compressed batches, offsets, indexes, producer
    /// snapshots, leader epochs, state files.
    ///
    /// # Errors
    /// [`InspectError`] when a file cannot be read at all. Damage is no error but part of the report.
    pub fn verify(&self, options: &VerifyOptions) -> Result<Report, InspectError> {
        verify::verify(&self.home, self, options)
    }
}
