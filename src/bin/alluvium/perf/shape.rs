//! What is cleaned: records with keys drawn at random, in a log that is written once and copied for each round.

use std::path::{Path, PathBuf};

use alluvium::clock::{Clock as _, SystemClock};
use alluvium::fs::{FileSystem as _, OpenMode, OsFileSystem, read_full_at, write_all_at};
use alluvium::record::{BatchBuilder, RecordBatch};
use alluvium::{AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};

use super::Done;
use super::rng::Rng;

/// Batches are filled up to this size.
const BATCH_BYTES: usize = 16 << 10;
/// Values are pieces of so many random bytes.
const RANDOM_BYTES: usize = 1 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// What a log holds, and how it is cleaned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) records: u64,
    /// Bytes of a record's value; its key has 16.
    pub(crate) record_bytes: usize,
    /// Keys that are drawn from, each as likely as any other.
    pub(crate) keys: u64,
    /// What the cleaner may hold.
    pub(crate) memory_bytes: u64,
    pub(crate) segment_bytes: u32,
}

impl Shape {
    /// How its log is opened.
    pub(crate) fn config(&self) -> LogConfig {
        let segment_bytes = self.segment_bytes;
        LogConfig { segment_bytes, cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() }
    }

    /// Writes the log into `dir`, all of it sealed and durable, and none of it clean.
    pub(crate) fn fill(&self, dir: &Path) -> Done<Filled> {
        let log = PartitionLog::open(dir, self.config())?;
        let mut batches = Batches::new(self);
        while let Some(batch) = batches.next()? {
            log.append(batch, client())?;
        }
        log.roll()?;
        log.flush()?;
        let files = log.segment_files();
        log.close()?;
        let mut bytes = 0;
        for file in &files {
            bytes += OsFileSystem.metadata(file)?.len;
        }
        Ok(Filled { dir: dir.to_owned(), files, bytes })
    }
}

/// Who appends.
pub(crate) fn client() -> AppendAs {
    AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap_or_default() }
}

/// A stream of batches of one shape; the same each time.
pub(crate) struct Batches {
    shape: Shape,
    left: u64,
    random: Vec<u8>,
    rng: Rng,
    builder: BatchBuilder,
    timestamp: TimestampMs,
}

impl Batches {
    pub(crate) fn new(shape: &Shape) -> Self {
        let mut rng = Rng::new(shape.keys);
        let random: Vec<u8> = (0..RANDOM_BYTES / 8).flat_map(|_| rng.next().to_be_bytes()).collect();
        let (builder, timestamp) = (BatchBuilder::new(), SystemClock::new().wall());
        Self { shape: *shape, left: shape.records, random, rng, builder, timestamp }
    }

    /// The next one; `None` when all records are out.
    pub(crate) fn next(&mut self) -> Done<Option<RecordBatch>> {
        if self.left == 0 {
            return Ok(None);
        }
        // A record has 16 bytes of key, and no more than 16 of lengths and differences.
        while self.left > 0
            && (self.builder.count() == 0 || self.builder.bytes() + self.shape.record_bytes + 32 <= BATCH_BYTES)
        {
            self.left -= 1;
            let key = format!("{:016}", self.rng.below(self.shape.keys.max(1)));
            let room = RANDOM_BYTES.saturating_sub(self.shape.record_bytes).max(1) as u64;
            let from = usize::try_from(self.rng.below(room))?;
            let value = self.random.get(from..from + self.shape.record_bytes).ok_or("a value is at most 1 MiB")?;
            self.builder.record(self.timestamp, Some(key.as_bytes()), Some(value));
        }
        Ok(Some(self.builder.build()?))
    }
}

/// A log that was written and closed.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) dir: PathBuf,
    /// Its segments, oldest first.
    pub(crate) files: Vec<PathBuf>,
    /// Bytes of all its segments.
    pub(crate) bytes: u64,
}

impl Filled {
    /// The same log in another directory, which is made, durable and in the page cache.
    pub(crate) fn copy_to(&self, to: &Path) -> Done<()> {
        OsFileSystem.create_dir(to)?;
        let mut piece = vec![0; PIECE_BYTES];
        for entry in OsFileSystem.list(&self.dir)? {
            let source = OsFileSystem.open(&self.dir.join(&entry.name), OpenMode::Read)?;
            let copy = OsFileSystem.open(&to.join(&entry.name), OpenMode::CreateNew)?;
            let mut at = 0;
            loop {
                let read = read_full_at(&*source, &mut piece, at)?;
                write_all_at(&*copy, piece.get(..read).unwrap_or_default(), at)?;
                at += read as u64;
                if read < piece.len() {
                    break;
                }
            }
            copy.sync_data()?;
        }
        OsFileSystem.sync_dir(to)?;
        Ok(())
    }
}

/// Removes a directory of files, whatever is in it.
pub(crate) fn remove(dir: &Path) -> Done<()> {
    for entry in OsFileSystem.list(dir)? {
        OsFileSystem.remove_file(&dir.join(entry.name))?;
    }
    Ok(OsFileSystem.remove_dir(dir)?)
}
