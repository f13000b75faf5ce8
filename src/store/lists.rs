//! The four lists of a data directory as they are on disk: what they say changes together with the files, and each change
//! is announced before it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::checkpoints::OffsetCheckpoint;
use super::names::CheckpointKind;
use super::partition_id::TopicPartition;
use super::witness::{Part, StoreWitness};
use crate::error::{IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::index::replace_small_file;
use crate::segment::names::STORE_WITNESS;
use crate::units::Offset;

/// What a list is to say of partitions: an offset, or nothing any more.
type Entries = Vec<(TopicPartition, Option<Offset>)>;
pub(super) type Changes = (CheckpointKind, Entries);

/// The four lists, as they are on disk.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) by_kind: [OffsetCheckpoint; 4],
    /// Partitions that were deleted and of which the lists go on.
    pub(super) owed: BTreeSet<TopicPartition>,
    /// What is said beforehand of each change; `None` before the directory is entered.
    pub(super) witness: Option<StoreWitness>,
    /// So many collect offsets that they are about to say.
    pub(super) collecting: u32,
    /// What was cut since the first of them began, and to where; `None`: it was deleted or went elsewhere.
    pub(super) meanwhile: BTreeMap<TopicPartition, Option<Offset>>,
}

impl Lists {
    /// For those who collect offsets and may have seen one from before.
    pub(super) fn note_meanwhile(&mut self, partition: &TopicPartition, cut: Option<Offset>) {
        if self.collecting == 0 {
            return;
        }
        let noted = self.meanwhile.entry(partition.clone()).or_insert(cut);
        // One that is deleted stays so: what is collected is not of the next one of that name.
        *noted = noted.and_then(|noted| cut.map(|cut| cut.min(noted)));
    }

    /// Changes lists, and replaces those on disk that say something new, each after it was said what will be there. One
    /// that could not be replaced says what it did. Returns how many were.
    pub(super) fn change(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        changes: Vec<Changes>,
    ) -> Result<usize, IoFailure> {
        let mut undo: Vec<Changes> = Vec::new();
        for (kind, entries) in changes {
            let before = self.put(kind, entries);
            if !before.is_empty() {
                undo.push((kind, before));
            }
        }
        let mut written = 0;
        let replaced = self.replace(fs, dir, undo.iter().map(|(kind, _)| *kind), &mut written);
        if replaced.is_err() {
            for (kind, before) in undo.into_iter().skip(written) {
                self.put(kind, before);
            }
        }
        replaced.map(|()| written)
    }

    /// Says of each partition what is given, or nothing; returns what was said of those for which that is new.
    fn put(&mut self, kind: CheckpointKind, entries: Entries) -> Entries {
        let list = self.of_mut(kind);
        let mut before = Vec::new();
        for (name, offset) in entries {
            let said = list.offset(&name);
            if said == offset {
                continue;
            }
            match offset {
                Some(offset) => drop(list.set(name.clone(), offset)),
                None => drop(list.remove(&name)),
            }
            before.push((name, said));
        }
        before
    }

    /// Writes lists as they are now; counts those that are written.
    fn replace(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        kinds: impl Iterator<Item = CheckpointKind>,
        written: &mut usize,
    ) -> Result<(), IoFailure> {
        let encoded: Vec<(CheckpointKind, Vec<u8>)> = kinds.map(|kind| (kind, self.of(kind).encode())).collect();
        if encoded.is_empty() {
            return Ok(());
        }
        let parts: Vec<_> =
            encoded.iter().filter_map(|(kind, bytes)| Some((part_of(*kind)?, Some(&**bytes)))).collect();
        // Whoever is late to write them may meet another store's: the directory was closed, or never entered.
        let witness = self.witness.as_mut().ok_or_else(|| gone(dir))?;
        is_there(fs, dir)?;
        witness.announce(fs, &parts)?;
        for (kind, bytes) in &encoded {
            replace_small_file(fs, dir, kind.file_name(), bytes)?;
            *written += 1;
        }
        witness.settled();
        Ok(())
    }

    /// Replaces every list that there is with what it says. A process before this one may have failed to make its names
    /// durable, and later syncs do not tell.
    pub(super) fn write_anew(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        // What cannot be read is left for somebody to look at.
        let is_there = |list: &&OffsetCheckpoint| {
            list.fault().is_none() && fs.metadata(&dir.join(list.kind().file_name())).is_ok()
        };
        let kinds: Vec<_> = self.by_kind.iter().filter(is_there).map(OffsetCheckpoint::kind).collect();
        let are_all = self.by_kind.iter().all(|list| list.fault().is_none());
        self.replace(fs, dir, kinds.into_iter(), &mut 0)?;
        if let Some(witness) = self.witness.as_mut().filter(|_| are_all) {
            witness.disinherit();
        }
        Ok(())
    }

    pub(super) fn of(&self, kind: CheckpointKind) -> &OffsetCheckpoint {
        let [points, starts, marks, cleaned] = &self.by_kind;
        match kind {
            CheckpointKind::RecoveryPoint => points,
            CheckpointKind::LogStart => starts,
            CheckpointKind::HighWatermark => marks,
            CheckpointKind::Cleaner => cleaned,
        }
    }

    fn of_mut(&mut self, kind: CheckpointKind) -> &mut OffsetCheckpoint {
        let [points, starts, marks, cleaned] = &mut self.by_kind;
        match kind {
            CheckpointKind::RecoveryPoint => points,
            CheckpointKind::LogStart => starts,
            CheckpointKind::HighWatermark => marks,
            CheckpointKind::Cleaner => cleaned,
        }
    }
}

/// Which part of a directory's print a list is, if it is any.
fn part_of(kind: CheckpointKind) -> Option<Part> {
    match kind {
        CheckpointKind::RecoveryPoint => Some(Part::RecoveryPoints),
        CheckpointKind::LogStart => Some(Part::LogStarts),
        CheckpointKind::HighWatermark | CheckpointKind::Cleaner => None,
    }
}

pub(super) fn as_changes(offsets: Vec<(CheckpointKind, BTreeMap<TopicPartition, Offset>)>) -> Vec<Changes> {
    let some = |(name, offset)| (name, Some(offset));
    offsets.into_iter().map(|(kind, offsets)| (kind, offsets.into_iter().map(some).collect())).collect()
}

/// `Err` unless the directory is the one that was opened: where a disk was taken away its mount point is an empty
/// directory, which would take whatever is written.
pub(super) fn is_there(fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
    let path = dir.join(STORE_WITNESS);
    fs.metadata(&path).map(drop).map_err(|e| IoFailure::new(IoOperation::Open, path, e))
}

/// What stands for the failure of a directory that was closed.
pub(super) fn gone(path: &Path) -> IoFailure {
    IoFailure::new(IoOperation::Lock, path, io::ErrorKind::NotConnected.into())
}
