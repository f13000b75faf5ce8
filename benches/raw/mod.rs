//! What the same work takes by hand: plain system calls and a checksum, nothing else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use alluvium::TimestampMs;
use alluvium::record::{BatchBuilder, crc32c};

/// First byte that the checksum of a batch covers.
pub(crate) const COVERED_FROM: usize = 21;
/// The timestamp of the first record.
pub(crate) const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

/// Batches of `records` records of `value_bytes` each, as a client sends them. No two have the same bytes; the n-th
/// has timestamp `FIRST_TIMESTAMP + n`.
pub(crate) fn batches(count: usize, records: usize, value_bytes: usize) -> Vec<Vec<u8>> {
    let mut value = vec![0_u8; value_bytes];
    let mut builder = BatchBuilder::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::with_capacity(count);
    for batch in 0..count {
        for _ in 0..records {
            for piece in value.chunks_mut(8) {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                piece.copy_from_slice(&seed.to_le_bytes()[..piece.len()]);
            }
            let timestamp = TimestampMs::new(FIRST_TIMESTAMP + i64::try_from(batch).unwrap());
            builder.record(timestamp, None, Some(&value));
        }
        all.push(builder.build().unwrap().into_bytes());
    }
    all
}

/// Number of records of `value_bytes` that make a batch of at most `batch_bytes`.
pub(crate) fn records_in(batch_bytes: usize, value_bytes: usize) -> usize {
    let mut builder = BatchBuilder::new();
    let value = vec![0; value_bytes];
    let mut fit = 0;
    loop {
        builder.record(TimestampMs::new(FIRST_TIMESTAMP), None, Some(&value));
        if builder.bytes() > batch_bytes {
            return fit;
        }
        fit += 1;
    }
}

/// Makes an appended batch one that a client may send again: it was stamped in place.
pub(crate) fn unstamp(batch: &mut [u8]) {
    batch[..8].fill(0);
}

/// What a producer says of itself in a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing.
    Plain,
    /// Who it is, and the number of the first record.
    Idempotent,
    /// The same, inside a transaction.
    Transactional,
}

/// Makes `batch` the one with sequence `first` of the one producer there is, and seals it; plain batches are sealed
/// too, so that all are as warm. Returns the sequence of the next one.
pub(crate) fn send_as(batch: &mut [u8], sent: Sent, first: i32) -> i32 {
    let records = i32::from_be_bytes([batch[57], batch[58], batch[59], batch[60]]);
    if sent != Sent::Plain {
        let attributes = if sent == Sent::Transactional { 0x10_u16 } else { 0 };
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch[43..51].copy_from_slice(&7_u64.to_be_bytes());
        batch[51..53].copy_from_slice(&0_u16.to_be_bytes());
        batch[53..57].copy_from_slice(&first.to_be_bytes());
    }
    unstamp(batch);
    let crc = crc32c(&batch[COVERED_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    first.checked_add(records).expect("a benchmark sends fewer records than there are sequences")
}

/// A file that is appended to by hand.
pub(crate) struct RawFile {
    file: File,
    path: PathBuf,
    position: u64,
}

impl RawFile {
    /// An empty file in `dir`.
    pub(crate) fn create(dir: &Path) -> Self {
        let path = dir.join("raw");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        Self { file, path, position: 0 }
    }

    /// The leader's least work: the checksum is checked, the offset stamped, and the bytes go out with one write.
    pub(crate) fn append(&mut self, batch: &mut [u8], offset: u64) {
        check(batch);
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        self.write(batch);
    }

    /// One positional write.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.position).unwrap();
        self.position += bytes.len() as u64;
    }

    /// Bytes written.
    pub(crate) fn bytes(&self) -> u64 {
        self.position
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Compares the stored checksum of a batch with its bytes.
pub(crate) fn check(batch: &[u8]) {
    let stored = u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]]);
    assert_eq!(stored, crc32c(&batch[COVERED_FROM..]));
}

/// Reads the whole file in pieces of 1 MiB into one buffer and takes the checksum of each piece.
pub(crate) fn scan(path: &Path) -> u32 {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut at, mut sum) = (0, 0);
    loop {
        let read = file.read_at(&mut buffer, at).unwrap();
        if read == 0 {
            return sum;
        }
        sum ^= crc32c(&buffer[..read]);
        at += read as u64;
    }
}

/// How a group commit lays out its file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Every write makes the file longer.
    Extending,
    /// So many bytes of zeros were written and synced before anybody counts.
    Prepared(u64),
    /// The leader writes so many zeros ahead of the end when half of them are used up.
    Ahead(u64),
}

/// Group commit, as short as it can be: appends write one after the other, whoever finds no leader leads, and a sync
/// answers all who wrote before it began.
pub(crate) struct GroupCommit {
    file: File,
    path: PathBuf,
    layout: Layout,
    written: Mutex<u64>,
    state: Mutex<Commit>,
    changed: Condvar,
}

#[derive(Default)]
struct Commit {
    synced: u64,
    zeroed: u64,
    leading: bool,
}

impl GroupCommit {
    /// In a new file in `dir`.
    pub(crate) fn create(dir: &Path, layout: Layout) -> Self {
        let path = dir.join("raw-commit");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        if let Layout::Prepared(bytes) = layout {
            write_zeros(&file, 0, bytes);
        }
        file.sync_all().unwrap();
        let (written, state) = (Mutex::new(0), Mutex::new(Commit::default()));
        Self { file, path, layout, written, state, changed: Condvar::new() }
    }

    /// Writes `batch`, and returns when it is durable.
    pub(crate) fn append(&self, batch: &[u8]) {
        check(batch);
        let end = {
            let mut written = self.written.lock().unwrap();
            self.file.write_all_at(batch, *written).unwrap();
            *written += batch.len() as u64;
            *written
        };
        let mut state = self.state.lock().unwrap();
        while state.synced < end {
            if state.leading {
                state = self.changed.wait(state).unwrap();
                continue;
            }
            state.leading = true;
            drop(state);
            let covered = *self.written.lock().unwrap();
            self.file.sync_data().unwrap();
            state = self.state.lock().unwrap();
            self.zero_ahead(&mut state);
            state.synced = covered;
            state.leading = false;
            self.changed.notify_all();
        }
    }

    /// Keeps appends out while it writes, as simple code does.
    fn zero_ahead(&self, state: &mut Commit) {
        let Layout::Ahead(bytes) = self.layout else { return };
        let written = self.written.lock().unwrap();
        if state.zeroed.saturating_sub(*written) < bytes / 2 {
            let from = state.zeroed.max(*written);
            state.zeroed = *written + bytes;
            write_zeros(&self.file, from, state.zeroed);
        }
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn write_zeros(file: &File, from: u64, to: u64) {
    let zeros = vec![0; 1 << 18];
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at).unwrap().min(zeros.len());
        file.write_all_at(&zeros[..piece], at).unwrap();
        at += piece as u64;
    }
}
