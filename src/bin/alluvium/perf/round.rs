//! One cleaning of one copy of a log, and what is to be known of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::clean::{CleanMode, CleanOptions, Cleaned};
use alluvium::fs::{FileSystem as _, OsFileSystem};
use alluvium::{Environment, PartitionLog};

use super::Done;
use super::raw::RawWork;
use super::shape::{Filled, Shape, remove};
use super::spent::{Spent, Stopwatch};
use super::watched::{Watch, WatchedFs};

/// A note of hash and offset in a spill file is no longer than this.
const SPILL_NOTE_BYTES: u64 = 24;
/// An offset of a superseded record, where the bitmaps do not fit.
const RUN_ENTRY_BYTES: u64 = 8;
/// Files of state, and those beside each new segment, are no longer than this, however little is left. Nothing to logs of
/// megabytes.
const SMALL_FILES_BYTES: u64 = 16 << 10;

/// Counts every byte that is written through it.
#[derive(Debug, Default)]
struct Written(AtomicU64);

impl Watch for Written {
    fn before_write(&self, _path: &Path, bytes: u64) -> io::Result<()> {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// A copy of a log, open and ready to be cleaned.
pub(crate) struct Subject {
    log: PartitionLog,
    dir: PathBuf,
    memory_bytes: u64,
    written: Arc<Written>,
}

/// What cleaning it came to.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) cleaned: Cleaned,
    pub(crate) took: Spent,
    /// All bytes that went to files: new segments with their indexes, spill files, what the log says of itself.
    pub(crate) bytes_written: u64,
    /// Bytes of the segments that there are now.
    pub(crate) bytes_left: u64,
}

impl Subject {
    /// Copies `filled` into `dir` and opens the copy.
    pub(crate) fn copy(shape: &Shape, filled: &Filled, dir: &Path) -> Done<Self> {
        filled.copy_to(dir)?;
        let written = Arc::new(Written::default());
        let environment = Environment { fs: Arc::new(WatchedFs::new(&written)), ..Environment::default() };
        let log = environment.open(dir, shape.config())?;
        Ok(Self { log, dir: dir.to_owned(), memory_bytes: shape.memory_bytes, written })
    }

    /// Cleans it.
    pub(crate) fn clean(&self) -> Done<Round> {
        let options = CleanOptions::default().with_memory(self.memory_bytes);
        self.written.0.store(0, Ordering::Relaxed);
        let stopwatch = Stopwatch::start();
        let cleaned = self.log.clean(&options)?;
        let took = stopwatch.spent();
        let bytes_written = self.written.0.load(Ordering::Relaxed);
        let mut bytes_left = 0;
        for file in self.log.segment_files() {
            bytes_left += OsFileSystem.metadata(&file)?.len;
        }
        Ok(Round { cleaned, took, bytes_written, bytes_left })
    }

    /// Closes and removes it.
    pub(crate) fn remove(self) -> Done<()> {
        self.log.close()?;
        drop(self.log);
        remove(&self.dir)
    }
}

impl Round {
    /// The most that may have been written: what is left, 24 bytes a record for one level of spill files, 8 bytes for
    /// each record that is gone, and one per cent; and the small files.
    pub(crate) fn bytes_bound(&self, shape: &Shape) -> u64 {
        let spilled = match self.cleaned.mode {
            CleanMode::Spill => {
                let gone = shape.records.saturating_sub(self.cleaned.records_kept);
                SPILL_NOTE_BYTES * shape.records + RUN_ENTRY_BYTES * gone
            }
            _ => 0,
        };
        let exact = self.bytes_left + spilled;
        exact + exact / 100 + SMALL_FILES_BYTES * (1 + self.cleaned.segments_after)
    }

    /// The same work by hand.
    pub(crate) fn raw(&self, shape: &Shape, filled: &Filled) -> RawWork {
        let is_spilling = self.cleaned.mode == CleanMode::Spill;
        RawWork {
            files: filled.files.clone(),
            spill_bytes: if is_spilling { SPILL_NOTE_BYTES * shape.records } else { 0 },
            survivor_bytes: self.bytes_left,
            segment_bytes: u64::from(shape.segment_bytes),
        }
    }
}
