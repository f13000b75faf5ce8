//! What the copy of a partition says of itself, in `alluvium.move`, and the renaming of directories.
//!
//! ```text
//! alluvium.move   purpose u8 (0 a complete copy of a partition, 1 a copy of a directory from elsewhere, begun),
//!                 log end i64, generation of the recovery point u64
//! ```
//! Big-endian, behind the header of a small checked file.

use std::io;
use std::path::Path;

use super::names::{Fate, MarkedDir};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{EntryKind, FileSystem};
use crate::index::{SmallFile, SmallFileError, read_small_file, replace_small_file};
use crate::log::state::RecoveryPoint;
use crate::segment::names::MOVE;
use crate::units::Offset;

const FILE: SmallFile = SmallFile { kind: 18, version: 1, in_place: false };
const COMPLETE: u8 = 0;
const ADOPTION: u8 = 1;

/// What a copy says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing, or nothing that can be believed.
    None,
    /// It has all of the partition, up to `log_end`, and may be served once the partition is not there any more.
    Complete {
        /// Where it ends.
        log_end: Offset,
        /// Ties the marker to the state files beside it.
        generation: u64,
    },
    /// It is a copy of a directory that is elsewhere, and stays there.
    Adoption,
}

impl Mark {
    /// Reads the marker of `dir`. One that is damaged, or of another life of the directory, says nothing.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Self, IoFailure> {
        let payload = match read_small_file(fs, &dir.join(MOVE), FILE) {
            Ok(payload) => payload,
            Err(SmallFileError::Corrupt(_)) => None,
            Err(SmallFileError::Io(failure)) => return Err(failure),
        };
        let mark = payload.as_deref().map_or(Self::None, Self::decode);
        let Self::Complete { log_end, generation } = mark else { return Ok(mark) };
        let point = RecoveryPoint::read(fs, dir)?.ok().flatten();
        let fits = point.is_some_and(|point| point.generation == generation && point.offset == log_end);
        Ok(if fits { mark } else { Self::None })
    }

    fn decode(payload: &[u8]) -> Self {
        let Some((purpose, rest)) = payload.split_first() else { return Self::None };
        let Some((log_end, rest)) = rest.split_first_chunk() else { return Self::None };
        let Ok(generation) = rest.try_into() else { return Self::None };
        match (*purpose, Offset::new(i64::from_be_bytes(*log_end))) {
            (COMPLETE, Some(log_end)) => Self::Complete { log_end, generation: u64::from_be_bytes(generation) },
            (ADOPTION, Some(_)) => Self::Adoption,
            _ => Self::None,
        }
    }

    /// Writes the marker; durable when it returns.
    pub(crate) fn write(self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        let (purpose, log_end, generation) = match self {
            Self::None => return remove_mark(fs, dir),
            Self::Complete { log_end, generation } => (COMPLETE, log_end, generation),
            Self::Adoption => (ADOPTION, Offset::ZERO, 0),
        };
        let mut payload = vec![purpose];
        payload.extend_from_slice(&log_end.value().to_be_bytes());
        payload.extend_from_slice(&generation.to_be_bytes());
        replace_small_file(fs, dir, MOVE, &FILE.encode(&payload))
    }

    /// The marker for a complete copy in `dir`, whose log was closed cleanly.
    pub(crate) fn of_complete(fs: &dyn FileSystem, dir: &Path, log_end: Offset) -> Result<Self, IoFailure> {
        let point = RecoveryPoint::read(fs, dir)?.ok().flatten();
        let fitting = point.filter(|point| point.offset == log_end);
        let generation = fitting.map(|point| point.generation).ok_or_else(|| {
            // Somebody else was at the copy.
            IoFailure::new(IoOperation::Read, dir, io::ErrorKind::InvalidData.into())
        })?;
        Ok(Self::Complete { log_end, generation })
    }
}

/// Whether there is a marker in `dir`, believed or not.
pub(crate) fn has_mark(fs: &dyn FileSystem, dir: &Path) -> Result<bool, IoFailure> {
    exists(fs, &dir.join(MOVE))
}

/// Removes the marker of `dir`; durable when it returns, also where an earlier process removed it and died.
pub(crate) fn remove_mark(fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
    let path = dir.join(MOVE);
    match fs.remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(IoFailure::new(IoOperation::Remove, path, e)),
        _ => {}
    }
    sync_names(fs, dir)
}

/// Whether anything has that name.
pub(crate) fn exists(fs: &dyn FileSystem, path: &Path) -> Result<bool, IoFailure> {
    match fs.metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true).map_err(|e| IoFailure::new(IoOperation::List, path, e)),
    }
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_names(fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
    fs.sync_dir(dir).map_err(|e| IoFailure::new(IoOperation::Sync, dir, e))
}

/// Renames a directory within `data_dir`, durably. What has the new name already is in the way, empty or not.
pub(crate) fn rename_dir(fs: &dyn FileSystem, data_dir: &Path, from: &str, to: &str) -> Result<(), IoFailure> {
    rename_unsynced(fs, data_dir, from, to)?;
    sync_names(fs, data_dir)
}

/// As [`rename_dir`], for whoever has to know whether it was the rename or its sync that failed.
pub(crate) fn rename_unsynced(fs: &dyn FileSystem, data_dir: &Path, from: &str, to: &str) -> Result<(), IoFailure> {
    let (from, to) = (data_dir.join(from), data_dir.join(to));
    if exists(fs, &to)? {
        return Err(IoFailure::new(IoOperation::Rename, to, io::ErrorKind::AlreadyExists.into()));
    }
    fs.rename(&from, &to).map_err(|e| IoFailure::new(IoOperation::Rename, from, e))
}

/// Gives `name` to its directory again, by way of `via`. Where an earlier sync of `data_dir` failed the name may be taken
/// for durable and not be; only a new one is.
pub(crate) fn rename_anew(fs: &dyn FileSystem, data_dir: &Path, name: &str, via: &str) -> Result<(), IoFailure> {
    rename_unsynced(fs, data_dir, name, via)?;
    rename_dir(fs, data_dir, via, name)
}

/// Gives a copy that is worth nothing the name of what is to be removed: at once, whatever its size. Returns that name.
pub(crate) fn set_copy_aside(fs: &dyn FileSystem, data_dir: &Path, copy: &MarkedDir) -> Result<String, IoFailure> {
    let aside = copy.with_fate(Fate::Delete).name();
    rename_dir(fs, data_dir, &copy.name(), &aside)?;
    Ok(aside)
}

/// Removes a directory of files. What is in the way of that, a directory in it, is left and told.
pub(crate) fn remove_dir_of_files(fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
    let entries = match fs.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(|e| IoFailure::new(IoOperation::List, dir, e))?,
    };
    for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Directory) {
        let path = dir.join(&entry.name);
        fs.remove_file(&path).map_err(|e| IoFailure::new(IoOperation::Remove, path, e))?;
    }
    fs.remove_dir(dir).map_err(|e| IoFailure::new(IoOperation::Remove, dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::SimFs;

    #[test]
    fn a_marker_reads_back_and_one_that_fits_nothing_says_nothing() {
        let fs = SimFs::new(1);
        let dir = Path::new("/");
        assert_eq!(Mark::read(&fs, dir).unwrap(), Mark::None);
        Mark::Adoption.write(&fs, dir).unwrap();
        assert_eq!(Mark::read(&fs, dir).unwrap(), Mark::Adoption);
        let complete = Mark::Complete { log_end: Offset::new(7).unwrap(), generation: 3 };
        complete.write(&fs, dir).unwrap();
        assert_eq!(Mark::read(&fs, dir).unwrap(), Mark::None, "no recovery point stands beside it");
        let mut point = RecoveryPoint {
            generation: 3,
            offset: Offset::new(7).unwrap(),
            restart: None,
            standing: crate::log::state::Standing::default(),
            lineage: crate::log::directory::Lineage::NONE,
            is_guarded: false,
        };
        point.write(&fs, dir).unwrap();
        assert_eq!(Mark::read(&fs, dir).unwrap(), complete);
        point.generation = 4;
        point.write(&fs, dir).unwrap();
        assert_eq!(Mark::read(&fs, dir).unwrap(), Mark::None);
        fs.flip_bit(&dir.join(MOVE), 20, 1);
        assert_eq!(Mark::read(&fs, dir).unwrap(), Mark::None);
        assert!(has_mark(&fs, dir).unwrap());
        remove_mark(&fs, dir).unwrap();
        assert!(!has_mark(&fs, dir).unwrap());
    }
}
