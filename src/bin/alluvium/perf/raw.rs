//! The least work that cleaning takes, by hand: the log is read twice and its bytes are summed, what does not fit the
//! memory goes to a file and is read back, and what survives is written and made durable. No record is looked at.

use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};

use alluvium::fs::{FileSystem as _, OpenMode, OsFileSystem, read_full_at, write_all_at};
use alluvium::record::crc32c;

use super::spent::{Spent, Stopwatch};

const PIECE_BYTES: usize = 1 << 20;

/// What is moved.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawWork {
    /// Read twice.
    pub(crate) files: Vec<PathBuf>,
    /// Written to one file and read back; not synced.
    pub(crate) spill_bytes: u64,
    /// Written to new files, and synced.
    pub(crate) survivor_bytes: u64,
    /// How long such a file is at most.
    pub(crate) segment_bytes: u64,
}

impl RawWork {
    /// Does it, with new files in `dir`, which are removed again; says what the work took.
    pub(crate) fn run(&self, dir: &Path) -> io::Result<Spent> {
        let stopwatch = Stopwatch::start();
        let mut piece = vec![0x5a; PIECE_BYTES];
        let mut made = Vec::new();
        for file in &self.files {
            scan(file, &mut piece)?;
        }
        if self.spill_bytes > 0 {
            made.push(dir.join("raw-spill"));
            fill(&dir.join("raw-spill"), self.spill_bytes, &piece)?;
            scan(&dir.join("raw-spill"), &mut piece)?;
        }
        for file in &self.files {
            scan(file, &mut piece)?;
        }
        let mut left = self.survivor_bytes;
        while left > 0 {
            let len = left.min(self.segment_bytes.max(1));
            let path = dir.join(format!("raw-{}", made.len()));
            fill(&path, len, &piece)?;
            OsFileSystem.open(&path, OpenMode::ReadWrite)?.sync_data()?;
            made.push(path);
            left -= len;
        }
        let took = stopwatch.spent();
        for path in made {
            OsFileSystem.remove_file(&path)?;
        }
        Ok(took)
    }
}

fn scan(path: &Path, piece: &mut [u8]) -> io::Result<()> {
    let file = OsFileSystem.open(path, OpenMode::Read)?;
    let mut at = 0;
    loop {
        let read = read_full_at(&*file, piece, at)?;
        black_box(crc32c(piece.get(..read).unwrap_or_default()));
        at += read as u64;
        if read < piece.len() {
            return Ok(());
        }
    }
}

fn fill(path: &Path, bytes: u64, piece: &[u8]) -> io::Result<()> {
    let file = OsFileSystem.open(path, OpenMode::CreateNew)?;
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(piece.len());
        write_all_at(&*file, piece.get(..len).unwrap_or_default(), at)?;
        at += len as u64;
    }
    Ok(())
}
