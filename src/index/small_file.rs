//! Small files of our own: checked, and replaced atomically.
//!
//! ```text
//! at len field    meaning
//! 0  4   magic    "ALVM"
//! 4  2   kind     which file this is, u16 big-endian
//! 6  2   version  of the payload, u16 big-endian
//! 8  4   length   of the payload, u32 big-endian
//! 12 4   crc      CRC-32 (IEEE) over kind, version, length and payload
//! 16 ..  payload
//! ```

use std::path::Path;

use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, SmallFileFault};
use crate::fs::{self, FileSystem, OpenMode};
use crate::units::FilePosition;

const MAGIC: [u8; 4] = *b"ALVM";
const CRC_AT: usize = 12;
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 16;
/// Nothing of ours is larger; a longer file is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What identifies one kind of small file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallFile {
    /// Number of the kind.
    pub(crate) kind: u16,
    /// Version of its payload.
    pub(crate) version: u16,
    /// Whether it is written in place: what follows the payload is left over from a longer one.
    pub(crate) in_place: bool,
}

impl SmallFile {
    /// The bytes of the file.
    pub(crate) fn encode(self, payload: &[u8]) -> Vec<u8> {
        self.encode_front(payload, 0, &crc32fast::Hasher::new())
    }

    /// The bytes of the file up to the end of `front`, where the payload is `front` and then `rest_bytes` that `rest` was
    /// fed: for a file of which the rest was written before.
    pub(crate) fn encode_front(self, front: &[u8], rest_bytes: usize, rest: &crc32fast::Hasher) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + front.len());
        let payload_bytes = front.len().saturating_add(rest_bytes);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(payload_bytes).unwrap_or(u32::MAX).to_be_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(bytes.get(MAGIC.len()..CRC_AT).unwrap_or_default());
        crc.update(front);
        crc.combine(rest);
        bytes.extend_from_slice(&crc.finalize().to_be_bytes());
        bytes.extend_from_slice(front);
        bytes
    }

    /// The payload, when everything about `bytes` is right.
    pub(crate) fn decode(self, bytes: &[u8]) -> Result<&[u8], SmallFileFault> {
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(SmallFileFault::Length)?;
        let [m0, m1, m2, m3, k0, k1, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        if [m0, m1, m2, m3] != MAGIC || u16::from_be_bytes([k0, k1]) != self.kind {
            return Err(SmallFileFault::Magic);
        }
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let payload = payload.get(..len).filter(|_| self.in_place || len == payload.len());
        let payload = payload.ok_or(SmallFileFault::Length)?;
        if u32::from_be_bytes([c0, c1, c2, c3]) != checksum(&[k0, k1, v0, v1, l0, l1, l2, l3], payload) {
            return Err(SmallFileFault::Crc);
        }
        let version = u16::from_be_bytes([v0, v1]);
        if version != self.version {
            return Err(SmallFileFault::Version(version));
        }
        Ok(payload)
    }
}

fn checksum(fields: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(payload);
    hasher.finalize()
}

/// Why a small file could not be read.
#[derive(Debug)]
pub(crate) enum SmallFileError {
    /// It is there and wrong.
    Corrupt(Corruption),
    /// The system refused.
    Io(IoFailure),
}

/// Reads the payload of `path`; `None` when there is no such file.
pub(crate) fn read_small_file(
    fs: &dyn FileSystem,
    path: &Path,
    kind: SmallFile,
) -> Result<Option<Vec<u8>>, SmallFileError> {
    let io = |operation| move |e| SmallFileError::Io(IoFailure::new(operation, path, e));
    let file = match fs.open(path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io(IoOperation::Open))?,
    };
    let corrupt = |fault| {
        let kind = CorruptionKind::SmallFile(fault);
        SmallFileError::Corrupt(Corruption { file: path.to_owned(), at: FilePosition::START, kind })
    };
    let len = file.size().map_err(io(IoOperation::Read))?;
    if len > FILE_BYTES_MAX {
        return Err(corrupt(SmallFileFault::Length));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = fs::read_full_at(&*file, &mut bytes, 0).map_err(io(IoOperation::Read))?;
    bytes.truncate(read);
    kind.decode(&bytes).map(|payload| Some(payload.to_vec())).map_err(corrupt)
}

/// Replaces `name` in `dir` so that a crash leaves the old bytes or the new ones, and makes the new ones durable.
pub(crate) fn replace_small_file(fs: &dyn FileSystem, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), IoFailure> {
    replace_file(fs, dir, name, bytes)?;
    fs.sync_dir(dir).map_err(|e| IoFailure::new(IoOperation::Sync, dir, e))
}

/// Replaces `name` in `dir` with synced content. The rename lasts once the directory is synced, by the caller.
pub(crate) fn replace_file(fs: &dyn FileSystem, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), IoFailure> {
    let path = dir.join(name);
    let aside = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let failed = |operation| {
        let aside = aside.clone();
        move |e| IoFailure::new(operation, aside, e)
    };
    // Always a new file: bytes of one whose sync failed must not be met again.
    match fs.remove_file(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(IoOperation::Remove)(e)),
        _ => {}
    }
    let file = fs.open(&aside, OpenMode::CreateNew).map_err(failed(IoOperation::Open))?;
    let written = fs::write_all_at(&*file, bytes, 0).map_err(failed(IoOperation::Write));
    // Content before name: a rename that outlives its bytes would leave an empty file under the final name.
    let synced = written.and_then(|()| file.sync_data().map_err(failed(IoOperation::Sync)));
    let renamed =
        synced.and_then(|()| fs.rename(&aside, &path).map_err(|e| IoFailure::new(IoOperation::Rename, &path, e)));
    if renamed.is_err() {
        // Half a file would take the space that is missing. One that stays is removed by the next opening.
        let _ = fs.remove_file(&aside);
    }
    renamed
}

/// What is appended to the name of a file that is being written and not yet renamed.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: SmallFile = SmallFile { kind: 7, version: 1, in_place: false };

    #[test]
    fn every_single_bit_flip_is_found() {
        let bytes = KIND.encode(b"payload");
        assert_eq!(KIND.decode(&bytes), Ok(&b"payload"[..]));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(KIND.decode(&flipped).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..bytes.len() {
            assert!(KIND.decode(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn another_kind_or_version_is_named() {
        assert_eq!(KIND.decode(&SmallFile { kind: 8, ..KIND }.encode(b"")), Err(SmallFileFault::Magic));
        assert_eq!(KIND.decode(&SmallFile { version: 2, ..KIND }.encode(b"")), Err(SmallFileFault::Version(2)));
    }
}
