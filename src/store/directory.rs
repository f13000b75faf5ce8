//! One data directory of a store: its lock, its lists of offsets, and whether its disk still answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::checkpoints::{CheckpointFault, OffsetCheckpoint};
use super::config::{StoreConfig, Workers};
use super::lists::{Changes, Lists, as_changes, gone, is_there};
use super::lock::{DirectoryLock, DirectoryRegistry};
use super::meta::MetaProperties;
use super::names::{self, CheckpointKind, Fate, Listed, MarkedDir, UniqueId};
use super::partition_id::TopicPartition;
use super::shutdown::CONTENT as CLEAN_SHUTDOWN_CONTENT;
use super::space::{SpaceGuard, SpaceLimits, SpaceLow};
use super::store_error::StoreError;
use super::witness::{Part, StoreWitness};
use super::{is_clean_shutdown, mark_clean_shutdown, remove_clean_shutdown, remove_temporaries};
use crate::error::{AppendError, IoFailure, IoOperation, Unavailable};
use crate::flush::{Attached, GroupFlusher};
use crate::fs::{EntryKind, FileSystem};
use crate::log::directory::{DirectoryWord, Parents, Word};
use crate::log::hosted::Above;
use crate::log::{Environment, PartitionLog, sync_ancestors};
use crate::metrics::Counter;
use crate::sync::{Mutex, RwLock};
use crate::units::Offset;

/// A data directory. Its paths stay as the embedder gave them.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Arc<Path>,
    fs: Arc<dyn FileSystem>,
    standing: RwLock<Standing>,
    lists: Mutex<Lists>,
    /// Recovery points that are to be lowered by whoever has the lists next.
    lowering: Mutex<BTreeMap<TopicPartition, Offset>>,
    /// What it said of its partitions when it was opened.
    word: RwLock<DirectoryWord>,
    /// Makes its partitions durable, many at a time.
    pub(super) flusher: Arc<GroupFlusher>,
    has_thread: bool,
    /// Its space, once it was entered.
    space: OnceLock<SpaceGuard>,
    limits: SpaceLimits,
    /// Partitions that lie in it.
    partitions: AtomicIsize,
    /// Lists of offsets that were replaced, and attempts that failed.
    pub(super) list_writes: Counter,
    pub(super) list_failures: Counter,
}

#[derive(Debug)]
enum Standing {
    /// Served, under this lock.
    Online(DirectoryLock),
    /// Its own files could not be read or written. The lock is kept, so that nobody else gets a half-dead directory.
    Offline { cause: IoFailure, _lock: Option<DirectoryLock> },
}

/// Offsets are being collected; see [`Directory::collect`].
#[derive(Debug)]
pub(super) struct Collecting<'a> {
    directory: &'a Directory,
}

impl Collecting<'_> {
    /// As [`Directory::say`], but for what is not true any more.
    pub(super) fn say(
        &self,
        mut offsets: Vec<(CheckpointKind, BTreeMap<TopicPartition, Offset>)>,
    ) -> Result<(), IoFailure> {
        let mut lists = self.directory.lists.lock();
        for (kind, offsets) in &mut offsets {
            for (name, cut) in &lists.meanwhile {
                match (cut, offsets.get_mut(name)) {
                    (None, _) => drop(offsets.remove(name)),
                    (Some(cut), Some(offset)) if is_bound_by_cuts(*kind) => {
                        *offset = (*offset).min(*cut);
                    }
                    (Some(_), _) => {}
                }
            }
        }
        self.directory.change(&mut lists, as_changes(offsets))
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        let mut lists = self.directory.lists.lock();
        lists.collecting = lists.collecting.saturating_sub(1);
        if lists.collecting == 0 {
            lists.meanwhile.clear();
        }
    }
}

/// What a directory said when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) was_clean: bool,
    /// Another program had the directory since a store of ours did.
    pub(super) was_elsewhere: bool,
    pub(super) meta: Option<MetaProperties>,
    pub(super) faults: Vec<CheckpointFault>,
}

impl Directory {
    /// Makes the directory if it is missing, takes its lock and reads what it says of itself. Changes nothing else.
    pub(super) fn open(
        environment: &Environment,
        config: &StoreConfig,
        path: &Path,
        registry: &DirectoryRegistry,
    ) -> Result<(Self, Opened), StoreError> {
        let fs = &*environment.fs;
        make(fs, path)?;
        let lock = DirectoryLock::take(fs, path, registry)?;
        let (opened, lists, word) = read(fs, path)?;
        Ok((Self::new(environment, config, path, Standing::Online(lock), (lists, word)), opened))
    }

    fn new(
        environment: &Environment,
        config: &StoreConfig,
        path: &Path,
        standing: Standing,
        (lists, word): (Lists, DirectoryWord),
    ) -> Self {
        let Environment { fs, clock } = environment;
        Self {
            path: Arc::from(path),
            fs: Arc::clone(fs),
            standing: RwLock::new(standing),
            lists: Mutex::new(lists),
            lowering: Mutex::default(),
            word: RwLock::new(word),
            flusher: Arc::new(GroupFlusher::new(Arc::clone(fs), Arc::clone(clock))),
            has_thread: config.workers == Workers::Threads,
            space: OnceLock::new(),
            limits: config.space_limits(),
            partitions: AtomicIsize::new(0),
            list_writes: Counter::default(),
            list_failures: Counter::default(),
        }
    }

    /// One whose disk did not answer from the start.
    pub(super) fn broken(environment: &Environment, config: &StoreConfig, path: &Path, cause: IoFailure) -> Self {
        let lists = Lists {
            by_kind: CheckpointKind::ALL.map(OffsetCheckpoint::new),
            witness: None,
            owed: BTreeSet::new(),
            collecting: 0,
            meanwhile: BTreeMap::new(),
        };
        let word = DirectoryWord::default();
        Self::new(environment, config, path, Standing::Offline { cause, _lock: None }, (lists, word))
    }

    /// Before anything else in the directory is changed: says that a store has it, and removes its marker of a clean
    /// shutdown, durably, and what a crash left half-written. A crash from here on counts as unclean.
    pub(super) fn enter(&self, now: Duration) -> Result<(), IoFailure> {
        // An earlier process may have made it and died before its name was synced. Its partitions rely on it.
        sync_ancestors(&*self.fs, &self.path, usize::MAX)?;
        let word = self.word.read();
        let was_closed = word.witness.as_ref().is_none_or(|witness| witness.is_closed);
        let witness = match StoreWitness::begin(&*self.fs, &self.path, &word) {
            // The reserve is for that. What there is of it after this is seen when the space is looked at.
            Err(failure)
                if failure.is_storage_full() && self.fs.remove_file(&self.path.join(names::RESERVE)).is_ok() =>
            {
                StoreWitness::begin(&*self.fs, &self.path, &word)?
            }
            begun => begun?,
        };
        drop(word);
        self.lists.lock().witness = Some(witness);
        remove_clean_shutdown(&*self.fs, &self.path)?;
        remove_temporaries(&*self.fs, &self.path)?;
        if !was_closed {
            match self.lists.lock().write_anew(&*self.fs, &self.path) {
                Err(failure) if failure.is_storage_full() => {}
                written => written?,
            }
        }
        if self.space.get().is_none() {
            let guard = SpaceGuard::open(&*self.fs, &self.path, self.limits, now)?;
            let _ = self.space.set(guard);
        }
        Ok(())
    }

    /// What lies in it now.
    pub(super) fn list(&self) -> Result<Vec<Listed>, IoFailure> {
        names::list(&*self.fs, &self.path)
    }

    /// Its space, unless it was never served.
    pub(super) fn space(&self) -> Option<&SpaceGuard> {
        self.space.get()
    }

    /// Reads anew what the directory says of itself, after it was offline.
    pub(super) fn reopen(&self, registry: &DirectoryRegistry) -> Result<Opened, StoreError> {
        let mut standing = self.standing.write();
        // The lock file may be another one now, of a disk that was mounted again.
        *standing = match std::mem::replace(&mut *standing, Standing::Offline { cause: gone(&self.path), _lock: None })
        {
            Standing::Offline { cause, .. } => Standing::Offline { cause, _lock: None },
            Standing::Online(lock) => {
                *standing = Standing::Online(lock);
                return Err(StoreError::NotOffline { dir: self.path.to_path_buf() });
            }
        };
        make(&*self.fs, &self.path)?;
        let lock = DirectoryLock::take(&*self.fs, &self.path, registry)?;
        let (opened, lists, word) = read(&*self.fs, &self.path)?;
        *self.lists.lock() = lists;
        *self.word.write() = word;
        *standing = Standing::Online(lock);
        Ok(opened)
    }

    /// Whether its disk is still there.
    pub(super) fn look(&self) -> Result<(), IoFailure> {
        is_there(&*self.fs, &self.path)
    }

    /// Gives a log into the care of the flusher, if that has a thread.
    pub(super) fn attach(&self, log: &PartitionLog) -> Option<Attached> {
        self.has_thread.then(|| self.flusher.attach(log))
    }

    /// Counts partitions that came or went.
    pub(super) fn count(&self, change: isize) {
        self.partitions.fetch_add(change, Ordering::Relaxed);
    }

    /// How many partitions lie in it.
    pub(super) fn len(&self) -> isize {
        self.partitions.load(Ordering::Relaxed)
    }

    /// Where a partition lies in it.
    pub(super) fn path_of(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.dir_name())
    }

    /// `Err` when it is offline.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        match &*self.standing.read() {
            Standing::Online(_) => Ok(()),
            Standing::Offline { cause, .. } => Err(self.unavailable(cause)),
        }
    }

    /// Why it is offline, if it is.
    pub(super) fn failure(&self) -> Option<IoFailure> {
        match &*self.standing.read() {
            Standing::Online(_) => None,
            Standing::Offline { cause, .. } => Some(cause.clone()),
        }
    }

    /// Why it is offline, if it is, without waiting: also while somebody reopens it, which a dead disk may hold up.
    pub(super) fn failure_seen(&self) -> Option<IoFailure> {
        match self.standing.try_read().as_deref() {
            Some(Standing::Online(_)) => None,
            Some(Standing::Offline { cause, .. }) => Some(cause.clone()),
            None => Some(gone(&self.path)),
        }
    }

    /// What its partitions answer while it is offline.
    pub(super) fn unavailable(&self, cause: &IoFailure) -> Unavailable {
        Unavailable::Offline { dir: self.path.to_path_buf(), cause: Box::new(cause.clone()) }
    }

    /// Takes it out of service; `false` when it was already.
    pub(super) fn set_offline(&self, cause: &IoFailure) -> bool {
        let mut standing = self.standing.write();
        let taken = std::mem::replace(&mut *standing, Standing::Offline { cause: cause.clone(), _lock: None });
        let (was_online, next) = match taken {
            Standing::Online(lock) => (true, Standing::Offline { cause: cause.clone(), _lock: Some(lock) }),
            offline @ Standing::Offline { .. } => (false, offline),
        };
        *standing = next;
        was_online
    }

    /// What a list says of a partition.
    pub(super) fn offset(&self, kind: CheckpointKind, partition: &TopicPartition) -> Option<Offset> {
        self.lists.lock().of(kind).offset(partition)
    }

    /// What counts for a partition that it holds, beside the partition's own state. `is_new`: nothing that was ever said
    /// of one of that name.
    pub(super) fn word_of(self: &Arc<Self>, partition: &TopicPartition, is_new: bool) -> Word {
        let word = self.word.read();
        let said = word.of(&partition.dir_name());
        let parents = if is_new { Parents::default() } else { said.parents };
        let above = AboveOne { directory: Arc::downgrade(self), partition: partition.clone() };
        Word { parents, above: Some(Arc::new(above)), ..said }
    }

    /// Says `offsets` in the lists from now on, durably, where that is new. Partitions that are not named stay as they
    /// are.
    pub(super) fn say(
        &self,
        offsets: Vec<(CheckpointKind, BTreeMap<TopicPartition, Offset>)>,
    ) -> Result<(), IoFailure> {
        self.change(&mut self.lists.lock(), as_changes(offsets))
    }

    fn change(&self, lists: &mut Lists, changes: Vec<Changes>) -> Result<(), IoFailure> {
        let outcome = lists.change(&*self.fs, &self.path, changes);
        match &outcome {
            Ok(written) => self.list_writes.add(*written as u64),
            Err(_) => self.list_failures.add(1),
        }
        outcome.map(drop)
    }

    /// To be held while offsets are collected that are to be said: what is cut or deleted meanwhile is not said.
    pub(super) fn collect(&self) -> Collecting<'_> {
        self.lists.lock().collecting += 1;
        Collecting { directory: self }
    }

    /// Says nothing any more of partitions that are not `there`, in any list: one that is made later under an old name
    /// must not find the offsets of the old one. Durable when it returns.
    pub(super) fn forget_all_but(&self, there: impl Fn(&TopicPartition) -> bool) -> Result<(), IoFailure> {
        let mut lists = self.lists.lock();
        let gone = |list: &OffsetCheckpoint| {
            let gone = list.offsets().map(|(name, _)| name).filter(|name| !there(name));
            (list.kind(), gone.map(|name| (name.clone(), None)).collect())
        };
        let changes = lists.by_kind.iter().map(gone).collect();
        self.change(&mut lists, changes)
    }

    /// Says nothing any more of one partition. Durable when it returns.
    pub(super) fn forget(&self, partition: &TopicPartition) -> Result<(), IoFailure> {
        let changes = CheckpointKind::ALL.map(|kind| (kind, vec![(partition.clone(), None)])).into();
        let mut lists = self.lists.lock();
        lists.note_meanwhile(partition, None);
        lists.owed.remove(partition);
        let outcome = self.change(&mut lists, changes);
        if outcome.is_err() {
            lists.owed.insert(partition.clone());
        }
        outcome
    }

    /// Forgets what could not be forgotten when it was deleted, for want of space.
    pub(super) fn forget_owed(&self) -> Result<(), IoFailure> {
        let owed = self.lists.lock().owed.clone();
        owed.iter().try_for_each(|partition| self.forget(partition))
    }

    /// Lowers what the list of recovery points says of a partition to at most `to`, durably: nothing past a cut may pass
    /// for synced. Several that come at once are done with one write.
    pub(super) fn lower_recovery_point(&self, partition: &TopicPartition, to: Offset) -> Result<(), IoFailure> {
        self.lowering.lock().insert(partition.clone(), to);
        let mut lists = self.lists.lock();
        lists.note_meanwhile(partition, Some(to));
        let mut wanted = std::mem::take(&mut *self.lowering.lock());
        // Whoever had the lists before may have taken this one along; if that failed it is this one's turn.
        wanted.insert(partition.clone(), to);
        let lowered = |kind| {
            let is_past =
                |(name, to): &(&TopicPartition, &Offset)| lists.of(kind).offset(name).is_some_and(|said| said > **to);
            (kind, wanted.iter().filter(is_past).map(|(name, to)| (name.clone(), Some(*to))).collect())
        };
        let changes = CheckpointKind::ALL.into_iter().filter(|kind| is_bound_by_cuts(*kind)).map(lowered).collect();
        self.change(&mut lists, changes)
    }

    /// Gives the directory of a partition the name under which it waits to be removed; durable when it returns.
    pub(super) fn set_deleted(&self, partition: &TopicPartition, id: UniqueId) -> Result<MarkedDir, IoFailure> {
        let from = self.path_of(partition);
        // A name that is cut to fit is refused for future copies alone.
        let marked = MarkedDir::new(partition, Fate::Delete, id)
            .map_err(|fault| IoFailure::new(IoOperation::Rename, &from, io::Error::other(fault)))?;
        let to = self.path.join(marked.name());
        self.fs.rename(&from, &to).map_err(|e| IoFailure::new(IoOperation::Rename, &from, e))?;
        self.sync()?;
        Ok(marked)
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> Result<(), IoFailure> {
        self.fs.sync_dir(&self.path).map_err(|e| IoFailure::new(IoOperation::Sync, &*self.path, e))
    }

    /// Marks the last shutdown as clean, durably. The last thing that is written.
    pub(super) fn mark_clean(&self) -> Result<(), IoFailure> {
        if let Some(witness) = &mut self.lists.lock().witness {
            witness.announce_close(&*self.fs, &[(Part::Marker, Some(CLEAN_SHUTDOWN_CONTENT))])?;
            mark_clean_shutdown(&*self.fs, &self.path)?;
            witness.closed(&*self.fs)?;
        }
        Ok(())
    }

    /// Lets go of the lock. Whoever still comes to write the lists is refused; while somebody is at it, on a disk that does
    /// not answer, the directory stays locked, for as long as anybody has a handle.
    pub(super) fn close(&self) {
        let cause = gone(&self.path);
        let Some(mut lists) = self.lists.try_lock() else {
            self.set_offline(&cause);
            return;
        };
        lists.witness = None;
        drop(lists);
        *self.standing.write() = Standing::Offline { cause, _lock: None };
    }
}

/// Whether a list may say nothing past a cut: what is appended there later is neither synced nor cleaned.
fn is_bound_by_cuts(kind: CheckpointKind) -> bool {
    matches!(kind, CheckpointKind::RecoveryPoint | CheckpointKind::Cleaner)
}

/// Keeps what the list of recovery points says of one partition from standing above a cut.
#[derive(Debug)]
struct AboveOne {
    directory: Weak<Directory>,
    partition: TopicPartition,
}

impl Above for AboveOne {
    fn before_cut(&self, to: Offset) -> Result<(), IoFailure> {
        self.directory.upgrade().map_or(Ok(()), |directory| directory.lower_recovery_point(&self.partition, to))
    }

    fn admits(&self) -> Result<(), AppendError> {
        let Some(directory) = self.directory.upgrade() else { return Ok(()) };
        let Some(space) = directory.space() else { return Ok(()) };
        space.admits().map_err(|low| {
            let SpaceLow { dir, free, floor, resume } = low;
            AppendError::SpaceLow { dir, free, floor, resume }
        })
    }

    fn wrote(&self, outcome: Result<u64, &IoFailure>) {
        let Some(directory) = self.directory.upgrade() else { return };
        match (directory.space(), outcome) {
            (Some(space), Ok(bytes)) => space.note_written(bytes),
            (Some(space), Err(failure)) if failure.is_storage_full() => space.note_full(),
            _ => {}
        }
    }
}

/// Makes a data directory, and makes its name durable, if it is missing. What is above it must be there.
fn make(fs: &dyn FileSystem, path: &Path) -> Result<(), StoreError> {
    match fs.metadata(path) {
        Ok(found) if found.kind == EntryKind::Directory => return Ok(()),
        Ok(_) => return Err(StoreError::NotADirectory { path: path.to_path_buf() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(IoFailure::new(IoOperation::List, path, e).into()),
    }
    fs.create_dir(path).map_err(|e| IoFailure::new(IoOperation::CreateDir, path, e))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs.sync_dir(parent).map_err(|e| IoFailure::new(IoOperation::Sync, parent, e))?;
    Ok(())
}

/// Reads what a locked directory says of itself.
fn read(fs: &dyn FileSystem, path: &Path) -> Result<(Opened, Lists, DirectoryWord), StoreError> {
    let word = DirectoryWord::read(fs, path)?;
    let meta = MetaProperties::read(fs, path)?;
    let [points, starts, marks, cleaned] = CheckpointKind::ALL.map(|kind| OffsetCheckpoint::read(fs, path, kind));
    let by_kind = [points?, starts?, marks?, cleaned?];
    let faults = by_kind.iter().filter_map(|list| list.fault().cloned()).collect();
    let was_clean = is_clean_shutdown(fs, path)?;
    let was_elsewhere = word.witness.is_some() && !word.is_unbroken;
    Ok((
        Opened { was_clean, was_elsewhere, meta, faults },
        Lists { by_kind, witness: None, owed: BTreeSet::new(), collecting: 0, meanwhile: BTreeMap::new() },
        word,
    ))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
