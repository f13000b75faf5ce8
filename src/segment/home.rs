//! The directory of a partition, and what is done to whole sets of segment files in it.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::residency::{FileRoom, Residency};
use super::{FileKind, SegmentFile, SegmentOptions, Stage, names};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{DirEntry, File, FileSystem, OpenMode};
use crate::sync::Mutex;
use crate::units::Offset;

/// Where segments live.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// The file system.
    pub(crate) fs: Arc<dyn FileSystem>,
    /// The partition's directory.
    pub(crate) dir: Arc<Path>,
    /// What its segments may hold at once, together with those of other homes.
    pub(crate) residency: Arc<Residency>,
    /// The newest place, for the next segment that is made alike.
    newest: Arc<Mutex<Weak<Place>>>,
}

/// What a segment shares with its neighbours: where it lives, and how it is indexed and read.
#[derive(Debug)]
pub(crate) struct Place {
    home: Home,
    pub(crate) options: SegmentOptions,
}

impl Deref for Place {
    type Target = Home;
    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Home {
    /// The directory `dir`, whose segments may hold what they like.
    pub(crate) fn new(fs: Arc<dyn FileSystem>, dir: Arc<Path>) -> Self {
        Self::within(fs, dir, Arc::default())
    }

    /// The directory `dir`, whose segments share a budget.
    pub(crate) fn within(fs: Arc<dyn FileSystem>, dir: Arc<Path>, residency: Arc<Residency>) -> Self {
        Self { fs, dir, residency, newest: Arc::new(Mutex::new(Weak::new())) }
    }

    /// The place of segments with `options`. Those made one after the other share it: there may be a hundred thousand.
    pub(crate) fn place(&self, options: SegmentOptions) -> Arc<Place> {
        let mut newest = self.newest.lock();
        if let Some(place) = newest.upgrade().filter(|place| place.options == options) {
            return place;
        }
        let place = Arc::new(Place { home: self.clone(), options });
        *newest = Arc::downgrade(&place);
        place
    }

    /// Path of a file of the segment with base offset `base`.
    pub(crate) fn path(&self, base: Offset, kind: FileKind) -> PathBuf {
        self.dir.join(SegmentFile::live(base, kind).name())
    }

    /// Opens a file of the directory. It counts as open within the budget until the last holder lets go of it.
    pub(crate) fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        let room = FileRoom::take(&self.residency);
        room.open(&*self.fs, path, mode).map_err(|e| IoFailure::new(IoOperation::Open, path, e))
    }

    /// The entries of the directory.
    pub(crate) fn list(&self) -> Result<Vec<DirEntry>, IoFailure> {
        self.fs.list(&self.dir).map_err(|e| IoFailure::new(IoOperation::List, self.dir.to_path_buf(), e))
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_names(&self) -> Result<(), IoFailure> {
        self.fs.sync_dir(&self.dir).map_err(|e| IoFailure::new(IoOperation::Sync, self.dir.to_path_buf(), e))
    }

    /// Removes a file; nothing happens when there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<(), IoFailure> {
        let path = self.dir.join(name);
        match self.fs.remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(IoFailure::new(IoOperation::Remove, path, e)),
            _ => Ok(()),
        }
    }

    /// Renames a file within the directory.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        let (from, to) = (self.dir.join(from), self.dir.join(to));
        self.fs.rename(&from, &to).map_err(|e| IoFailure::new(IoOperation::Rename, from, e))
    }

    /// Removes the files of one segment; the log last, so that no index is left without it for long.
    pub(crate) fn remove_segment(&self, base: Offset) -> Result<(), IoFailure> {
        for kind in [FileKind::Sum, FileKind::TxnIndex, FileKind::TimeIndex, FileKind::Index, FileKind::Log] {
            self.remove(&SegmentFile::live(base, kind).name())?;
        }
        Ok(())
    }

    /// Gives the files of a segment, and the producer snapshot at its base offset, the names under which they wait to be
    /// unlinked. The log goes last: what a crash leaves in between is a log without indexes, which is one that an opening
    /// knows how to deal with. May be repeated.
    pub(crate) fn set_deleted(&self, base: Offset) -> Result<(), IoFailure> {
        for kind in FileKind::ALL_LOG_LAST {
            let live = SegmentFile::live(base, kind);
            match self.rename(&live.name(), &live.at(Stage::Deleted).name()) {
                Err(failure) if failure.source.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        Ok(())
    }

    /// Unlinks what [`Home::set_deleted`] renamed.
    pub(crate) fn remove_deleted(&self, base: Offset) -> Result<(), IoFailure> {
        for kind in FileKind::ALL_LOG_LAST {
            self.remove(&SegmentFile::live(base, kind).at(Stage::Deleted).name())?;
        }
        Ok(())
    }

    /// Removes the index files of a segment that is going to grow: in time they would be those of a shorter log, and
    /// nothing in them tells. The sum with them. The names are gone for good once the directory is synced.
    pub(crate) fn remove_index(&self, base: Offset) -> Result<(), IoFailure> {
        self.remove(&SegmentFile::live(base, FileKind::Sum).name())?;
        self.remove(&SegmentFile::live(base, FileKind::TxnIndex).name())?;
        self.remove(&SegmentFile::live(base, FileKind::TimeIndex).name())?;
        self.remove(&SegmentFile::live(base, FileKind::Index).name())
    }

    /// The offsets that files of segments and snapshots are named for, each once, rising.
    pub(crate) fn bases(&self) -> Result<Vec<Offset>, IoFailure> {
        let entries = self.list()?;
        let mut bases: Vec<Offset> = entries.iter().filter_map(SegmentFile::of).map(|file| file.base).collect();
        bases.sort_unstable();
        bases.dedup();
        Ok(bases)
    }

    /// Removes producer snapshots past `end`, the end of the log: they are about offsets that are gone, and would pass
    /// for the state at those offsets once others stand there. One at the end holds for what is kept. The names last
    /// once the directory is synced.
    pub(crate) fn remove_snapshots_past(&self, end: Offset) -> Result<(), IoFailure> {
        for entry in self.list()? {
            let Some(file) = SegmentFile::of(&entry) else { continue };
            if file.kind == FileKind::Snapshot && file.base > end {
                self.remove(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Removes producer snapshots that are not where a segment of `bases` (rising) begins, but for the one at `end` (Kafka's
    /// `removeStraySnapshots`): closes leave them behind. The names last once the directory is synced.
    pub(crate) fn remove_stray_snapshots(&self, bases: &[Offset], end: Offset) -> Result<(), IoFailure> {
        for entry in self.list()? {
            let Some(file) = SegmentFile::of(&entry) else { continue };
            let is_snapshot = file.kind == FileKind::Snapshot && file.stage == Stage::Live;
            if is_snapshot && file.base != end && bases.binary_search(&file.base).is_err() {
                self.remove(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Removes every segment and begins an empty one at `at`. Durable when it returns; may be repeated after a crash.
    pub(crate) fn restart(&self, at: Offset) -> Result<Arc<dyn File>, IoFailure> {
        for entry in self.list()? {
            if SegmentFile::of(&entry).is_some() {
                self.remove(&entry.name)?;
            }
        }
        // They are about offsets that are gone, and nothing that is left could contradict them.
        // Made first: where an earlier sync of the directory failed, the removal would otherwise be nothing to the next one,
        // and the file would come back with a power loss.
        drop(self.open(&self.dir.join(names::LEADER_EPOCH_CHECKPOINT), OpenMode::CreateOrOpen)?);
        self.remove(names::LEADER_EPOCH_CHECKPOINT)?;
        // Otherwise a crash could bring back an old segment beside the new one.
        self.sync_names()?;
        let file = self.open(&self.path(at, FileKind::Log), OpenMode::CreateNew)?;
        self.sync_names()?;
        Ok(file)
    }
}
