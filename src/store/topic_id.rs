//! `partition.metadata`: which topic a partition's directory belongs to, by id (format: Kafka's `PartitionMetadataFile`).
//!
//! ```text
//! version: 0
//! topic_id: EREiIjMzREQAAAAAAAAAEA
//! ```
//! A topic that was deleted and made again has the same name and another id. By the id a partition of the old one is told
//! from one of the new.

use std::path::{Path, PathBuf};

use super::partition_id::{IdFault, TopicId};
use super::{Content, read_content};
use crate::error::{IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::index::replace_small_file;
use crate::segment::names::PARTITION_METADATA;

/// Such a file has some fifty bytes.
const FILE_BYTES_MAX: usize = 4096;

/// What is wrong with the content of a `partition.metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicIdFault {
    /// No such file is this long.
    #[error("{bytes} bytes are more than the {FILE_BYTES_MAX} that it may have")]
    Size {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The first line is no version, or one that does not exist. Those after 0 are taken, as Kafka does.
    #[error("its first line is not `version: ` and a number from 0")]
    Version,
    /// The second line does not begin as it must.
    #[error("its second line is not `topic_id: ` and an id")]
    NoId,
    /// The second line has no id.
    #[error("its topic id is wrong: {0}")]
    Id(IdFault),
}

/// Why the topic id of a partition is not known, or is not the one wanted. Nothing was changed on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicIdError {
    /// The file is there and cannot be read.
    #[error("{} does not tell the topic's id: {fault}; write it anew with the right id, or remove it", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        fault: TopicIdFault,
    },
    /// The directory belongs to another topic of the same name.
    #[error(
        "{} says {stored}, not {given}: the directory is that of another topic of this name; move or delete it first",
        file.display()
    )]
    Mismatch {
        /// The file.
        file: PathBuf,
        /// The id in it.
        stored: TopicId,
        /// The id wanted.
        given: TopicId,
    },
    /// A system call failed. Where its path is the directory, the id is in place and may not last.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// The topic id of the partition in `dir`; `None` where none was ever written. Changes nothing.
///
/// # Errors
/// [`TopicIdError::Malformed`] and [`TopicIdError::Io`].
pub fn read_topic_id(fs: &dyn FileSystem, dir: &Path) -> Result<Option<TopicId>, TopicIdError> {
    let file = dir.join(PARTITION_METADATA);
    let decoded = match read_content(fs, &file, FILE_BYTES_MAX)? {
        None => return Ok(None),
        Some(Content::Whole(bytes)) => decode(&bytes),
        Some(Content::TooLong(bytes)) => Err(TopicIdFault::Size { bytes }),
    };
    decoded.map(Some).map_err(|fault| TopicIdError::Malformed { file, fault })
}

/// The topic id of the partition in `dir`, after a comparison with `given`, what the caller takes it for. `None` where none
/// was ever written, as in a directory that was opened without one. Changes nothing.
///
/// # Errors
/// [`TopicIdError`].
pub fn check_topic_id(
    fs: &dyn FileSystem,
    dir: &Path,
    given: Option<TopicId>,
) -> Result<Option<TopicId>, TopicIdError> {
    let stored = read_topic_id(fs, dir)?;
    match stored.zip(given).filter(|(stored, given)| stored != given) {
        Some((stored, given)) => Err(TopicIdError::Mismatch { file: dir.join(PARTITION_METADATA), stored, given }),
        None => Ok(stored),
    }
}

/// Makes `id` the topic id of the partition in `dir`, or finds that it is. Durable when it returns; a crash leaves the
/// directory with the id or without any. By whoever holds the partition's lock.
///
/// ```
/// use alluvium::fs::OsFileSystem;
/// use alluvium::store::{TopicId, TopicIdError, claim_topic_id, read_topic_id};
/// let dir = tempfile::tempdir().unwrap();
/// let (ours, theirs) = (TopicId::from_random(1), TopicId::from_random(2));
/// claim_topic_id(&OsFileSystem, dir.path(), ours).unwrap();
/// assert_eq!(read_topic_id(&OsFileSystem, dir.path()).unwrap(), Some(ours));
/// let error = claim_topic_id(&OsFileSystem, dir.path(), theirs).unwrap_err();
/// assert!(matches!(error, TopicIdError::Mismatch { stored, .. } if stored == ours));
/// ```
///
/// # Errors
/// [`TopicIdError`]; another id is never overwritten, nor is a file that cannot be read.
pub fn claim_topic_id(fs: &dyn FileSystem, dir: &Path, id: TopicId) -> Result<(), TopicIdError> {
    let claimed = match check_topic_id(fs, dir, Some(id))? {
        // Whoever wrote it may have died before its name was durable.
        Some(_) => fs.sync_dir(dir).map_err(|e| IoFailure::new(IoOperation::Sync, dir, e)),
        None => replace_small_file(fs, dir, PARTITION_METADATA, &encode(id)),
    };
    claimed.map_err(TopicIdError::Io)
}

/// As Kafka writes it: no newline at the end.
fn encode(id: TopicId) -> Vec<u8> {
    format!("version: 0\ntopic_id: {id}").into_bytes()
}

fn decode(bytes: &[u8]) -> Result<TopicId, TopicIdFault> {
    // What is not UTF-8 is no line that belongs there either.
    let text = str::from_utf8(bytes).unwrap_or_default();
    let mut lines = text.lines();
    let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(": ").map(str::trim);
    let version = value("version").and_then(|version| version.parse::<i32>().ok());
    if version.is_none_or(|version| version < 0) {
        return Err(TopicIdFault::Version);
    }
    value("topic_id").ok_or(TopicIdFault::NoId)?.parse().map_err(TopicIdFault::Id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimFs;
    use crate::fs::{OpenMode, write_all_at};

    #[test]
    fn the_bytes_are_kafkas() {
        let id: TopicId = "EREiIjMzREQAAAAAAAAAEA".parse().unwrap();
        assert_eq!(encode(id), b"version: 0\ntopic_id: EREiIjMzREQAAAAAAAAAEA");
        for text in [
            "version: 0\ntopic_id: EREiIjMzREQAAAAAAAAAEA",
            "version: 0\ntopic_id: EREiIjMzREQAAAAAAAAAEA\n",
            "version: 0\r\ntopic_id:  EREiIjMzREQAAAAAAAAAEA==\r\nmore: 1",
            // A later version's file must be readable after a downgrade.
            "version: 3\ntopic_id: EREiIjMzREQAAAAAAAAAEA",
        ] {
            assert_eq!(decode(text.as_bytes()), Ok(id), "{text:?}");
        }
    }

    #[test]
    fn what_tells_no_id_is_an_error() {
        let fault = |text: &str| decode(text.as_bytes()).unwrap_err();
        for text in ["", "\n", "version", "version:0\ntopic_id: x", "version: -1\n", "version: x\n", "topic_id: x\n"] {
            assert_eq!(fault(text), TopicIdFault::Version, "{text:?}");
        }
        assert_eq!(decode(b"version: 0\n\xff"), Err(TopicIdFault::Version));
        for text in
            ["version: 0", "version: 0\n", "version: 0\n\ntopic_id: EREiIjMzREQAAAAAAAAAEA", "version: 0\nid: x"]
        {
            assert_eq!(fault(text), TopicIdFault::NoId, "{text:?}");
        }
        assert_eq!(fault("version: 0\ntopic_id: "), TopicIdFault::Id(IdFault::Length { bytes: 0 }));
        let zero = fault("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(zero, TopicIdFault::Id(IdFault::Reserved));
    }

    #[test]
    fn what_cannot_be_read_is_never_overwritten() {
        let fs = SimFs::new(1);
        let (dir, path) = (Path::new("/"), Path::new("/partition.metadata"));
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        let claim = || claim_topic_id(&fs, dir, TopicId::from_random(1)).unwrap_err();
        assert!(matches!(claim(), TopicIdError::Malformed { fault: TopicIdFault::Version, .. }));
        write_all_at(&*file, &[b' '; FILE_BYTES_MAX + 1], 0).unwrap();
        assert!(matches!(claim(), TopicIdError::Malformed { fault: TopicIdFault::Size { bytes: 4097 }, .. }));
        assert_eq!(fs.live_bytes(path).unwrap().len(), FILE_BYTES_MAX + 1);
    }
}
