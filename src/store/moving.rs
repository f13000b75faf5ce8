//! A partition goes to another data directory while it is written (KIP-113; Kafka's `UnifiedLog` with a future log).
//!
//! A copy grows in `<topic>-<partition>.<id>-future` of the other directory, batch by batch as they are. When it has
//! nearly caught up, appends are held off for the switch:
//!
//! ```text
//! 1 the rest is copied, and what the batches do not say is carried over       the partition is served
//! 2 the copy is closed cleanly: all of it is durable                          the partition is served
//! 3 alluvium.move, "complete", is written into it, durably                    the partition is served, the copy removed
//! 4 the partition is renamed to -delete; its directory is synced              before the sync either, after it the copy
//! 5 the copy gets the partition's name; its directory is synced               the copy
//! 6 the marker is removed, the copy is opened, appends go on                  the copy
//! ```
//! To the right stands what an opening serves after a crash there. Nothing is acknowledged between 1 and 6, so that either
//! has all that was. Kafka takes step 5 before step 4, so that a crash leaves two live copies; here there is always one
//! or none, and one that is complete: [`moving_recovery`](super::moving_recovery) goes by names and that marker alone.
//!
//! No threads: the caller takes steps, and other calls on the partition go on meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::moving_marker::{self as marker, Mark};
use super::names::{Fate, MarkedDir, UniqueId};
use super::partition_id::{NameFault, TopicPartition};
use super::topic_id::{TopicIdError, claim_topic_id, read_topic_id};
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, Damage, InvalidBatch, IoFailure, IoOperation, OpenError, ReadError};
use crate::fs::FileSystem;
use crate::log::{
    AppendAs, Environment, Glimpse, HandOverError, Held, Isolation, PartitionLog, ReadOptions, Unfinished,
};
use crate::record::{self, BatchHeader};
use crate::units::Offset;

/// Copied with one read.
const PIECE_BYTES: u64 = 1 << 20;

/// Why a partition is not moved.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// It is in that directory already.
    #[error("{} is where the partition is; name another data directory", dir.display())]
    SameDirectory {
        /// The data directory.
        dir: PathBuf,
    },
    /// The target has a directory of that partition.
    #[error("{} is there already; remove it, or let the store be opened again, which clears up after a crash",
        dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The copy cannot be named.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// Ranges cannot be read, and a copy would lose them for good.
    #[error("{} damaged ranges would be lost by a copy, the first is {}; repair or delete them first", ranges.len(),
        ranges.first().map(ToString::to_string).unwrap_or_default())]
    Damaged {
        /// The ranges, rising.
        ranges: Vec<Damage>,
    },
    /// A batch is not what it should be, which nobody had noticed.
    #[error("the batch at offset {at} cannot be copied: {cause}; verify the partition, and repair it first")]
    Invalid {
        /// Where the copy ends.
        at: Offset,
        /// What is wrong.
        cause: InvalidBatch,
    },
    /// The partition cannot be read.
    #[error("the partition cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The partition or its copy cannot be changed.
    #[error("the partition or its copy cannot be changed: {0}")]
    Change(#[from] ChangeError),
    /// The copy takes no batch.
    #[error("the copy takes no batch: {0}")]
    Append(AppendError),
    /// The copy cannot be opened.
    #[error("the copy cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// The topic's id cannot be read, or not be written.
    #[error(transparent)]
    TopicId(#[from] TopicIdError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// The switch had begun and could not be finished: the partition is closed. Everything acknowledged is in the copy.
    #[error("the switch to {} began and did not end: {cause}; recover the move, or open the store again", dir.display())]
    Halfway {
        /// The copy, under the one name or the other.
        dir: PathBuf,
        /// What failed.
        cause: IoFailure,
    },
}

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveProgress {
    /// Bytes copied since the move began, those that were cut off again among them.
    pub copied_bytes: u64,
    /// Bytes of the partition that the copy lacks, as of now.
    pub left_bytes: u64,
    /// The copy ends where the partition did a moment ago.
    pub is_caught_up: bool,
}

/// A partition that was moved.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Its directory now.
    pub(crate) dir: PathBuf,
    /// Its old directory, which is to be removed.
    pub(crate) retired: PathBuf,
    /// The log in the new directory. The move is done even if it cannot be opened.
    pub(crate) log: Result<PartitionLog, OpenError>,
}

/// How a log is opened: a store has the data directory locked, which a partition opened alone respects.
pub(crate) type Opener = Arc<dyn Fn(&Path, LogConfig) -> Result<PartitionLog, OpenError> + Send + Sync>;

/// Where everything of a move is.
#[derive(Clone, Debug)]
struct Places {
    source_data_dir: PathBuf,
    /// Name of the partition's directory, here and there.
    name: String,
    target_data_dir: PathBuf,
    copy: MarkedDir,
}

impl Places {
    fn copy_dir(&self) -> PathBuf {
        self.target_data_dir.join(self.copy.name())
    }
}

/// A move under way. Dropped, it leaves the copy for the next opening to clear up; see [`Move::cancel`].
pub(crate) struct Move {
    fs: Arc<dyn FileSystem>,
    open: Opener,
    places: Places,
    source: PartitionLog,
    future: PartitionLog,
    /// When the copy was last known to be a prefix of the partition.
    seen: Glimpse,
    copied_bytes: u64,
}

impl Move {
    /// Begins a copy of `source` in `target_data_dir`. The partition is not touched.
    ///
    /// # Errors
    /// [`MoveError`]; what was made of the copy is removed again, as far as that can be done.
    #[cfg(test)]
    pub(crate) fn begin(
        source: PartitionLog,
        environment: &Environment,
        target_data_dir: &Path,
        partition: &TopicPartition,
        id: UniqueId,
    ) -> Result<Self, MoveError> {
        let own = environment.clone();
        let open: Opener = Arc::new(move |dir, config| own.open(dir, config));
        Self::begin_with(source, environment, target_data_dir, partition, id, open)
    }

    /// As [`Move::begin`], with another way to open logs.
    ///
    /// # Errors
    /// As [`Move::begin`].
    pub(crate) fn begin_with(
        source: PartitionLog,
        environment: &Environment,
        target_data_dir: &Path,
        partition: &TopicPartition,
        id: UniqueId,
        open: Opener,
    ) -> Result<Self, MoveError> {
        let fs = Arc::clone(&environment.fs);
        let source_data_dir = source.dir().parent().unwrap_or(Path::new(".")).to_path_buf();
        if source_data_dir == target_data_dir {
            return Err(MoveError::SameDirectory { dir: source_data_dir });
        }
        let (name, copy) = (partition.dir_name(), MarkedDir::new(partition, Fate::Future, id)?);
        refuse_existing(&*fs, target_data_dir, partition)?;
        refuse_damaged(&source)?;
        // Of an earlier move, to here. Where both copies had one, nothing would tell which is the newer.
        marker::remove_mark(&*fs, source.dir()).inspect_err(|failure| source.fail_if_names_are_in_doubt(failure))?;
        let places = Places { source_data_dir, name, target_data_dir: target_data_dir.to_path_buf(), copy };
        match prepare(&*fs, &open, &source, &places) {
            Ok((future, seen)) => Ok(Self { fs, open, places, source, future, seen, copied_bytes: 0 }),
            Err(error) => {
                let _ = remove_copy(&*fs, &places);
                Err(error)
            }
        }
    }

    /// Copies up to about `bytes_max` bytes, one batch at least. What was cut off the partition since the last step is cut
    /// off the copy first.
    ///
    /// # Errors
    /// [`MoveError`]. The move may go on with another step, once the cause is gone.
    pub(crate) fn step(&mut self, bytes_max: u64) -> Result<MoveProgress, MoveError> {
        let now = self.source.glimpse();
        self.follow(now)?;
        match self.copy_some(bytes_max) {
            // The log start rose, or the end fell, since a moment ago: the next step follows.
            Err(MoveError::Read(ReadError::OutOfRange { .. })) => {}
            copied => copied?,
        }
        let end = self.future.log_end();
        let marks = self.source.marks();
        let left_bytes = if (marks.log_start..=marks.log_end).contains(&end) {
            self.source.bytes_from(end)?
        } else {
            self.source.bytes_from(marks.log_start)?
        };
        let is_caught_up = left_bytes == 0;
        Ok(MoveProgress { copied_bytes: self.copied_bytes, left_bytes, is_caught_up })
    }

    /// The switch: see the module. The partition takes no append meanwhile, so that a move is to be finished when
    /// [`Move::step`] has caught up.
    ///
    /// # Errors
    /// [`MoveError::Halfway`]: the partition is closed, and is served again after
    /// [`recover_moves`](super::moving_recovery::recover_moves). With any other the partition goes on where it is, and the
    /// copy is removed or, where that fails, set aside by the next opening.
    pub(crate) fn finish(mut self) -> Result<Moved, MoveError> {
        let source = self.source.clone();
        let error = match source.hand_over(|held| self.switch(held)) {
            Ok(()) => return Ok(self.settle()),
            Err(HandOverError::Unfinished(Unfinished::Stops(error))) => return Err(error),
            Err(HandOverError::Unfinished(Unfinished::GoesOn(error))) => error,
            Err(HandOverError::Refused(refused)) => refused.into(),
        };
        let _ = self.cancel();
        Err(error)
    }

    /// Gives the move up: the copy is removed. The partition goes on where it is.
    ///
    /// # Errors
    /// [`IoFailure`]: the copy, or a part of it, is still there. The next opening clears it up.
    pub(crate) fn cancel(self) -> Result<(), IoFailure> {
        // Its descriptors go first; nothing in it is worth a sync.
        drop(self.future);
        remove_copy(&*self.fs, &self.places)
    }

    /// Makes the copy a prefix of the partition as it is at `now`, if it is none any more.
    fn follow(&mut self, now: Glimpse) -> Result<(), MoveError> {
        if now.generation != self.seen.generation {
            let changed = now.first_changed(&self.seen).unwrap_or(now.marks.log_start);
            self.cut_to_match(changed, &now)?;
        }
        let log_start = now.marks.log_start;
        if log_start > self.future.log_end() || log_start < self.future.log_start() {
            // All that was copied is deleted over there, or the partition was started anew before it.
            self.future.truncate_fully_and_start_at(first_base(&self.source)?)?;
        }
        self.seen = now;
        Ok(())
    }

    /// Compares the copy with the partition from `changed` on and cuts off what differs. Byte for byte: offsets alone would
    /// not tell what was cut and written anew.
    fn cut_to_match(&self, changed: Offset, now: &Glimpse) -> Result<(), MoveError> {
        let log_start = self.future.log_start();
        let mut at = changed.max(now.marks.log_start).max(log_start);
        while at < self.future.log_end() {
            let ours = read_piece(&self.future, at, PIECE_BYTES)?;
            let theirs = match read_piece(&self.source, at, PIECE_BYTES) {
                Err(MoveError::Read(ReadError::OutOfRange { .. })) => Vec::new(),
                theirs => theirs?,
            };
            let Some(next) = common_end(&ours, &theirs) else {
                self.future.truncate_to(at)?;
                return Ok(());
            };
            at = next;
        }
        Ok(())
    }

    fn copy_some(&mut self, bytes_max: u64) -> Result<(), MoveError> {
        let mut copied = 0;
        while copied < bytes_max {
            let at = self.future.log_end();
            if at >= self.source.log_end() {
                break;
            }
            let piece = read_piece(&self.source, at, PIECE_BYTES.min(bytes_max - copied))?;
            if piece.is_empty() {
                // What lies between the last batch and the log end was cleaned away.
                break;
            }
            self.append(&piece)?;
            copied += piece.len() as u64;
            self.copied_bytes += piece.len() as u64;
        }
        Ok(())
    }

    /// Appends whole batches, as many at a time as a segment takes.
    fn append(&self, piece: &[u8]) -> Result<(), MoveError> {
        let at = self.future.log_end();
        let segment_bytes = self.future.config().segment_bytes as usize;
        let mut rest = piece;
        while !rest.is_empty() {
            let group = group_bytes(rest, segment_bytes).map_err(|cause| MoveError::Invalid { at, cause })?;
            let Some((group, behind)) = rest.split_at_checked(group) else { break };
            if group.len() > segment_bytes {
                // It was written when segments were larger.
                self.append_large(group)?;
            } else {
                self.append_group(group)?;
            }
            rest = behind;
        }
        Ok(())
    }

    fn append_large(&self, batch: &[u8]) -> Result<(), MoveError> {
        let before = self.future.config();
        let segment_bytes = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let failed = |_| MoveError::Change(ChangeError::Closed);
        self.future.update_config(LogConfig { segment_bytes, ..LogConfig::clone(&before) }).map_err(failed)?;
        let appended = self.append_group(batch);
        self.future.update_config(LogConfig::clone(&before)).map_err(failed)?;
        appended
    }

    fn append_group(&self, group: &[u8]) -> Result<(), MoveError> {
        let at = self.future.log_end();
        match self.future.append(group, AppendAs::Follower) {
            Ok(_) => Ok(()),
            Err(AppendError::Invalid { cause, .. }) => Err(MoveError::Invalid { at, cause }),
            Err(error) => Err(MoveError::Append(error)),
        }
    }

    /// Steps 1 to 5, with the partition held.
    fn switch(&mut self, held: &Held) -> Result<(), Unfinished<MoveError>> {
        self.catch_up(held).map_err(Unfinished::GoesOn)?;
        let (fs, places) = (&*self.fs, &self.places);
        let (dir, retired) = (places.copy_dir(), places.copy.with_fate(Fate::Delete).name());
        let renamed = Mark::of_complete(fs, &dir, held.bearing.marks.log_end)
            .and_then(|mark| mark.write(fs, &dir))
            .and_then(|()| marker::rename_unsynced(fs, &places.source_data_dir, &places.name, &retired));
        if let Err(cause) = renamed {
            // The partition stays. A copy that goes on saying that it has all of it must not.
            return Err(match marker::set_copy_aside(fs, &places.target_data_dir, &places.copy) {
                Ok(_) => Unfinished::GoesOn(cause.into()),
                Err(_) => Unfinished::Stops(MoveError::Halfway { dir, cause }),
            });
        }
        // No way back: where the sync fails, nobody knows under which name the partition is found after a power loss.
        marker::sync_names(fs, &places.source_data_dir)
            .and_then(|()| marker::rename_dir(fs, &places.target_data_dir, &places.copy.name(), &places.name))
            .map_err(|cause| Unfinished::Stops(MoveError::Halfway { dir, cause }))
    }

    /// The copy has everything, and is closed.
    fn catch_up(&mut self, held: &Held) -> Result<(), MoveError> {
        self.follow(held.glimpse.clone())?;
        self.copy_some(u64::MAX)?;
        self.future.take_over(&held.bearing)?;
        self.future.close()?;
        let (log_end, own) = (held.bearing.marks.log_end, self.future.log_end());
        // Nothing gets here that is not a copy of all of it, whatever is wrong with the code above.
        assert!(own == log_end, "a copy ends at {own}, the partition at {log_end}");
        Ok(())
    }

    /// Step 6.
    fn settle(self) -> Moved {
        let Places { source_data_dir, name, target_data_dir, copy } = self.places;
        let dir = target_data_dir.join(name);
        let retired = source_data_dir.join(copy.with_fate(Fate::Delete).name());
        // One that stays, or comes back with a power loss, says nothing where it is the only live copy.
        let _ = marker::remove_mark(&*self.fs, &dir);
        let log = (self.open)(&dir, LogConfig::clone(&self.source.config()));
        Moved { dir, retired, log }
    }
}

/// Makes the copy's directory and an empty log in it, which begins where the partition does.
fn prepare(
    fs: &dyn FileSystem,
    open: &Opener,
    source: &PartitionLog,
    places: &Places,
) -> Result<(PartitionLog, Glimpse), MoveError> {
    let dir = places.copy_dir();
    let future = open(&dir, LogConfig::clone(&source.config()))?;
    if let Some(id) = read_topic_id(fs, source.dir())? {
        claim_topic_id(fs, &dir, id)?;
    }
    let seen = source.glimpse();
    future.truncate_fully_and_start_at(first_base(source)?)?;
    Ok((future, seen))
}

/// Refuses a target that has the partition, or a copy of it.
fn refuse_existing(fs: &dyn FileSystem, data_dir: &Path, partition: &TopicPartition) -> Result<(), MoveError> {
    let listed = fs.list(data_dir).map_err(|e| IoFailure::new(IoOperation::List, data_dir, e))?;
    let name = partition.dir_name();
    let is_of_it = |entry: &&crate::fs::DirEntry| {
        let copy = MarkedDir::parse(&entry.name).filter(|marked| marked.fate() == Fate::Future);
        entry.name == name || copy.is_some_and(|copy| copy.partition().as_ref() == Some(partition))
    };
    match listed.iter().find(is_of_it) {
        Some(entry) => Err(MoveError::Exists { dir: data_dir.join(&entry.name) }),
        None => Ok(()),
    }
}

/// What cannot be read is lost with the original, and there is time to repair it before.
fn refuse_damaged(source: &PartitionLog) -> Result<(), MoveError> {
    let log_start = source.log_start();
    let has_records = |damage: &Damage| damage.offsets.start < damage.offsets.end && damage.offsets.end > log_start;
    let ranges: Vec<Damage> = source.health().damage.into_iter().filter(has_records).collect();
    if ranges.is_empty() { Ok(()) } else { Err(MoveError::Damaged { ranges }) }
}

/// Where the first batch begins that can be read: at or before the log start, which may lie within it.
fn first_base(source: &PartitionLog) -> Result<Offset, MoveError> {
    let log_start = source.log_start();
    let piece = read_piece(source, log_start, 1)?;
    let first = BatchHeader::parse(&piece, i32::MAX as u32).ok();
    Ok(first.map_or(log_start, |first| first.base_offset.min(log_start)))
}

/// Whole batches from the one with `at` on.
fn read_piece(log: &PartitionLog, at: Offset, bytes_max: u64) -> Result<Vec<u8>, MoveError> {
    let options = ReadOptions { max_bytes: bytes_max.max(1), isolation: Isolation::LogEnd, ..ReadOptions::default() };
    match log.read(at, &options) {
        Ok(fetched) => Ok(fetched.read()?),
        Err(ReadError::Damaged(damage)) => Err(MoveError::Damaged { ranges: vec![*damage] }),
        Err(error) => Err(error.into()),
    }
}

/// Where the batches end that both begin with; `None` when they differ in the first.
fn common_end(ours: &[u8], theirs: &[u8]) -> Option<Offset> {
    let batches = |bytes| record::batches(bytes, i32::MAX as u32).map_while(Result::ok);
    let common = batches(ours).zip(batches(theirs)).take_while(|(ours, theirs)| ours.bytes() == theirs.bytes());
    common.last().map(|(batch, _)| batch.header().next_offset())
}

/// How many bytes of `piece` go into one append: whole batches that a segment takes, whose offsets lie no further apart
/// than those of one segment; one batch at least.
fn group_bytes(piece: &[u8], bytes_max: usize) -> Result<usize, InvalidBatch> {
    let (mut bytes, mut first) = (0, None);
    for batch in record::batches(piece, i32::MAX as u32) {
        let batch = batch?;
        let (header, len) = (batch.header(), batch.bytes().len());
        let base = *first.get_or_insert(header.base_offset);
        let is_far = header.last_offset().relative_to(base).is_none();
        if bytes > 0 && (bytes + len > bytes_max || is_far) {
            break;
        }
        bytes += len;
    }
    Ok(bytes)
}

/// Gives the copy the name of what is to be removed, and removes it.
fn remove_copy(fs: &dyn FileSystem, places: &Places) -> Result<(), IoFailure> {
    match marker::exists(fs, &places.copy_dir()) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(failure) if failure.source.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Err(failure) => return Err(failure),
    }
    let aside = marker::set_copy_aside(fs, &places.target_data_dir, &places.copy)?;
    marker::remove_dir_of_files(fs, &places.target_data_dir.join(aside))
}

#[cfg(test)]
#[path = "moving_tests.rs"]
mod tests;
