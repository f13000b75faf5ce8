//! Taking the directory of a partition from elsewhere into a data directory.
//!
//! Within a file system it is renamed: before the rename it is where it was, after it it is adopted. Across file systems it
//! is copied under the name of a copy, with a marker that says so from the start; renamed when all of it is durable; and the
//! marker removed. An opening sets a copy aside that was not renamed (the original is where it was), and removes the
//! marker of one that was.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::export::copy_file;
use super::moving_marker::{self as marker, Mark};
use super::names::{Fate, LOCK, MarkedDir, UniqueId};
use super::partition_id::{NameFault, TopicId, TopicPartition};
use super::topic_id::{TopicIdError, check_topic_id};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{DirEntry, EntryKind, FileSystem, LockGuard, OpenMode};
use crate::segment::names::{self, Known};
use crate::segment::{FileKind, Home};

/// Why a directory is not adopted. It is where it was, and as it was but for a lock file.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// It is no directory, or has no segment.
    #[error("{} holds no segment of a partition; name the directory with its .log files", dir.display())]
    NotAPartition {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds something that is not a partition's.
    #[error("{} holds {entry:?}, which is no partition's; take it out first", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The first such entry.
        entry: String,
    },
    /// Somebody has it open, or the data directory that it is in.
    #[error("{} is held: somebody has the partition, or its data directory, open; close that first", lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// The data directory has that partition.
    #[error("{} is there already; delete or move that partition first", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// It belongs to another topic, or its id cannot be read.
    #[error(transparent)]
    TopicId(#[from] TopicIdError),
    /// A copy cannot be named.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// A system call failed. Where it came after the directory got its name, that may not last; adopting it again, from
    /// where it is now found, makes sure.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// A directory that was adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Where the partition is now.
    pub dir: PathBuf,
    /// It was copied, from another file system; the original is still there.
    pub is_copy: bool,
}

/// Takes the directory `from` into `data_dir` as `partition`; `topic` is what the caller takes the topic's id for. Durable
/// when it returns. `data_dir` is locked by the caller, and nobody opens the partition there meanwhile. `id` names a copy,
/// where one has to be made.
///
/// # Errors
/// [`AdoptError`].
pub(crate) fn adopt(
    fs: &Arc<dyn FileSystem>,
    from: &Path,
    data_dir: &Path,
    partition: &TopicPartition,
    topic: Option<TopicId>,
    id: UniqueId,
) -> Result<Adopted, AdoptError> {
    let dir = data_dir.join(partition.dir_name());
    if marker::exists(&**fs, &dir)? {
        return Err(AdoptError::Exists { dir });
    }
    let entries = partition_files(&**fs, from)?;
    let parent = from.parent().unwrap_or(Path::new("."));
    let _held = hold(&**fs, from, parent, data_dir)?;
    check_topic_id(&**fs, from, topic)?;
    // What a move that was given up may have left would speak for other content here.
    marker::remove_mark(&**fs, from)?;
    sync_files(&**fs, from, &entries)?;
    match fs.rename(from, &dir) {
        Ok(()) => {
            marker::sync_names(&**fs, data_dir)?;
            marker::sync_names(&**fs, parent)?;
            Ok(Adopted { dir, is_copy: false })
        }
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let copy = MarkedDir::new(partition, Fate::Future, id)?;
            let copied = copy_dir(fs, from, &entries, &data_dir.join(copy.name()))
                .and_then(|()| marker::rename_dir(&**fs, data_dir, &copy.name(), &partition.dir_name()));
            if let Err(failure) = copied {
                if let Ok(aside) = marker::set_copy_aside(&**fs, data_dir, &copy) {
                    let _ = marker::remove_dir_of_files(&**fs, &data_dir.join(aside));
                }
                return Err(failure.into());
            }
            marker::remove_mark(&**fs, &dir)?;
            Ok(Adopted { dir, is_copy: true })
        }
        Err(e) => Err(IoFailure::new(IoOperation::Rename, from, e).into()),
    }
}

/// The files of a partition's directory, refused where there is anything else in it or no segment.
fn partition_files(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<DirEntry>, AdoptError> {
    let found = fs.metadata(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    if found.kind != EntryKind::Directory {
        return Err(AdoptError::NotAPartition { dir: dir.to_path_buf() });
    }
    let mut entries = fs.list(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    let is_foreign = |entry: &&DirEntry| {
        names::classify(entry) == Known::Foreign || entry.kind != EntryKind::File && entry.name != "lost+found"
    };
    if let Some(entry) = entries.iter().find(is_foreign) {
        return Err(AdoptError::Foreign { dir: dir.to_path_buf(), entry: entry.name.clone() });
    }
    let is_log =
        |entry: &DirEntry| matches!(names::classify(entry), Known::Segment(file) if file.kind == FileKind::Log);
    if !entries.iter().any(is_log) {
        return Err(AdoptError::NotAPartition { dir: dir.to_path_buf() });
    }
    entries.retain(|entry| entry.kind == EntryKind::File && entry.name != names::LOCK && entry.name != names::MOVE);
    Ok(entries)
}

/// Makes sure that nobody has the directory open, nor the data directory that it may be in.
fn hold(fs: &dyn FileSystem, dir: &Path, parent: &Path, data_dir: &Path) -> Result<Box<dyn LockGuard>, AdoptError> {
    let lock = parent.join(LOCK);
    // That of our own store is ours.
    if parent != data_dir && fs.is_locked(&lock).map_err(|e| IoFailure::new(IoOperation::Lock, &lock, e))? {
        return Err(AdoptError::Locked { lock });
    }
    let lock = dir.join(names::LOCK);
    match fs.try_lock(&lock) {
        Ok(Some(guard)) => Ok(guard),
        Ok(None) => Err(AdoptError::Locked { lock }),
        Err(e) => Err(IoFailure::new(IoOperation::Lock, lock, e).into()),
    }
}

/// Whoever put the files there may not have synced them, and state files among them may say that they are durable.
fn sync_files(fs: &dyn FileSystem, dir: &Path, entries: &[DirEntry]) -> Result<(), IoFailure> {
    for entry in entries {
        let path = dir.join(&entry.name);
        let file = fs.open(&path, OpenMode::Read).map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?;
        file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, &path, e))?;
    }
    marker::sync_names(fs, dir)
}

/// Copies the files to a new directory, durably, under the marker of an adoption.
fn copy_dir(fs: &Arc<dyn FileSystem>, from: &Path, entries: &[DirEntry], to: &Path) -> Result<(), IoFailure> {
    fs.create_dir(to).map_err(|e| IoFailure::new(IoOperation::CreateDir, to, e))?;
    Mark::Adoption.write(&**fs, to)?;
    let target = Home::new(Arc::clone(fs), Arc::from(to));
    for entry in entries {
        let path = from.join(&entry.name);
        let file = fs.open(&path, OpenMode::Read).map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?;
        let len = file.size().map_err(|e| IoFailure::new(IoOperation::Read, &path, e))?;
        copy_file(&*file, &target, &to.join(&entry.name), len)?;
    }
    target.sync_names()
}

#[cfg(test)]
#[path = "adopt_tests.rs"]
mod tests;
