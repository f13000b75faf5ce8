//! Taking a partition out: its sealed segments one by one, for tiered storage, and a copy of all of it, for backup.
//!
//! Both leave the log as it is, and appends go on meanwhile. A backup shares no file with the log: a hard link would save
//! the copying, but a cut of the log, its recovery, or an opening of the backup shortens and extends the file that both
//! names lead to, in this process or any later one, and so does Kafka; and damage to the one would be damage to the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::moving_marker::{exists, remove_dir_of_files, sync_names};
use super::names::UNFINISHED_SUFFIX;
use super::topic_id::{TopicIdError, claim_topic_id, read_topic_id};
use crate::error::{ChangeError, IoFailure, IoOperation};
use crate::fs::{self, File, OpenMode};
use crate::index::EpochStart;
use crate::log::directory::Lineage;
use crate::log::state::{self, DamageList, RecoveryPoint};
use crate::log::{PartitionLog, Prefix, write_epochs};
use crate::segment::{FileKind, Home, Segment, SegmentFile};
use crate::units::{Offset, TimestampMs};

const PIECE_BYTES: u64 = 1 << 20;

/// A sealed segment that is durable, as it is to be copied elsewhere. Its bytes stay readable through `file`, also when
/// retention has removed the names: nothing shortens or overwrites the file while this lives.
#[derive(Clone, Debug)]
pub struct ExportedSegment {
    /// No record in it has a smaller offset.
    pub base: Offset,
    /// The next segment begins here.
    pub end: Offset,
    /// Bytes of batches.
    pub bytes: u64,
    /// `None` where no record has a timestamp.
    pub largest_timestamp: Option<TimestampMs>,
    /// Who led within it, and from where: the first may have begun before it.
    pub epochs: Vec<EpochStart>,
    /// The `.log`.
    pub log: PathBuf,
    /// The `.index`; it may be written later than the segment is durable.
    pub index: PathBuf,
    /// The `.timeindex`; likewise.
    pub time_index: PathBuf,
    /// The `.txnindex`; not there when no transaction was aborted in the segment.
    pub txn_index: PathBuf,
    /// Producer state where the segment ends.
    pub snapshot: PathBuf,
    /// The open `.log`, from byte 0 on.
    pub file: Arc<dyn File>,
    _pin: Arc<Segment>,
}

/// Why a partition could not be taken out. The partition is as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Something is where the backup is to be.
    #[error("{} is there already; name a directory that is not", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// The log was cut while it was copied.
    #[error("the log was cut or its start deleted while it was copied; take the snapshot again")]
    Changed,
    /// The log cannot be read, synced, or is closed.
    #[error("the log cannot be copied: {0}")]
    Log(#[from] ChangeError),
    /// The topic's id cannot be read.
    #[error(transparent)]
    TopicId(#[from] TopicIdError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] IoFailure),
}

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is.
    pub dir: PathBuf,
    /// First offset that can be read in it.
    pub log_start: Offset,
    /// It has everything below.
    pub log_end: Offset,
    /// Bytes of batches in it.
    pub bytes: u64,
}

/// The segments that nothing is appended to any more and that are durable, oldest first. Each has an open descriptor.
///
/// # Errors
/// [`ExportError`]: the log is closed or failed, or a file cannot be opened.
pub(crate) fn sealed_segments(log: &PartitionLog) -> Result<Vec<ExportedSegment>, ExportError> {
    let prefix = log.durable_prefix()?;
    let home = log.home();
    let epochs = prefix.epochs.entries();
    let path = |base, kind| home.path(base, kind);
    let mut exported = Vec::new();
    for (at, (segment, extent)) in prefix.segments.iter().enumerate() {
        // The last one is sealed if it was rolled since; to ask an active one for its size would seal it.
        let is_last = at + 1 == prefix.segments.len();
        if is_last && !(segment.is_sealed() && segment.bytes()? == extent.bytes) {
            continue;
        }
        let base = segment.base();
        let within = |at: usize, start: &EpochStart| {
            let ends_later = epochs.get(at + 1).is_none_or(|next| next.start > base);
            start.start < extent.end && ends_later
        };
        let led = epochs.iter().enumerate().filter(|(at, start)| within(*at, start)).map(|(_, start)| *start).collect();
        exported.push(ExportedSegment {
            base,
            end: extent.end,
            bytes: extent.bytes,
            largest_timestamp: segment.largest_timestamp().map_err(ChangeError::from)?,
            epochs: led,
            log: path(base, FileKind::Log),
            index: path(base, FileKind::Index),
            time_index: path(base, FileKind::TimeIndex),
            txn_index: path(base, FileKind::TxnIndex),
            snapshot: path(extent.end, FileKind::Snapshot),
            file: segment.file()?,
            _pin: Arc::clone(segment),
        });
    }
    Ok(exported)
}

/// Copies everything that was appended before the call to `into`, a directory that is not there yet, while appends go on.
/// Opened as a partition it has the same records, log start, high watermark, leader epochs, producers and known damage,
/// the fencing token among them; Kafka opens it, too. Durable when it returns; a crash leaves a directory of another name,
/// `.unfinished` at its end, which the next snapshot to the same place removes.
///
/// # Errors
/// [`ExportError`]; nothing is left at `into`.
pub(crate) fn snapshot(log: &PartitionLog, into: &Path) -> Result<Snapshot, ExportError> {
    let prefix = log.durable_prefix()?;
    let source = log.home();
    let fs = &*source.fs;
    if exists(fs, into)? {
        return Err(ExportError::Exists { dir: into.to_path_buf() });
    }
    let mut aside = into.as_os_str().to_owned();
    aside.push(UNFINISHED_SUFFIX);
    let aside = PathBuf::from(aside);
    remove_dir_of_files(fs, &aside)?;
    fs.create_dir(&aside).map_err(|e| IoFailure::new(IoOperation::CreateDir, &aside, e))?;
    let target = Home::new(Arc::clone(&source.fs), Arc::from(aside.as_path()));
    let copied = copy_all(log, &source, &target, &prefix).and_then(|bytes| {
        fs.rename(&aside, into).map_err(|e| IoFailure::new(IoOperation::Rename, &aside, e))?;
        sync_names(fs, into.parent().unwrap_or(Path::new(".")))?;
        Ok(bytes)
    });
    match copied {
        Ok(bytes) => {
            let log_start = prefix.standing.log_start.unwrap_or_default();
            Ok(Snapshot { dir: into.to_path_buf(), log_start, log_end: prefix.end, bytes })
        }
        Err(error) => {
            // It takes space that may be missing; what stays is removed by the next one.
            let _ = remove_dir_of_files(fs, &aside);
            Err(error)
        }
    }
}

fn copy_all(log: &PartitionLog, source: &Home, target: &Home, prefix: &Prefix) -> Result<u64, ExportError> {
    let mut total = 0;
    let mut damage = DamageList::new();
    for (at, (segment, extent)) in prefix.segments.iter().enumerate() {
        let is_last = at + 1 == prefix.segments.len();
        if !is_last && prefix.standing.log_start.is_some_and(|log_start| extent.end <= log_start) {
            // All of it is deleted, and waits for retention.
            continue;
        }
        copy_segment(source, target, segment, extent.bytes, is_last)?;
        let known = segment.holes();
        let holes = known.iter().filter(|hole| hole.bytes.end <= extent.bytes);
        damage.extend(holes.map(|hole| (segment.base(), hole.clone())));
        total += extent.bytes;
    }
    copy_producers(source, target, prefix)?;
    write_epochs(target, &prefix.epochs)?;
    if let Some(id) = read_topic_id(&*source.fs, &source.dir)? {
        claim_topic_id(&*target.fs, &target.dir, id)?;
    }
    // Whatever was opened by its name may have been another file than the one that was meant, if the log was cut meanwhile.
    if log.glimpse().generation != prefix.glimpse.generation {
        return Err(ExportError::Changed);
    }
    state::write_damage(&*target.fs, &target.dir, &damage)?;
    // Below it the opening believes the files, damage included; no clean marker: it looks at the last segment.
    let point = RecoveryPoint {
        generation: prefix.glimpse.generation,
        offset: prefix.end,
        restart: None,
        standing: prefix.standing,
        // It lies in a directory of its own, to which no broker and no store ever came.
        lineage: Lineage::NONE,
        is_guarded: false,
    };
    point.write(&*target.fs, &target.dir)?;
    Ok(total)
}

/// Copies a segment. Indexes go with it when they are all there: `.txnindex` is written first, and its lack means something
/// only where the others are. The last segment grows, and has none.
fn copy_segment(source: &Home, target: &Home, segment: &Segment, bytes: u64, is_last: bool) -> Result<(), ExportError> {
    let base = segment.base();
    let file = segment.file().map_err(|failure| gone(&failure).unwrap_or(ExportError::Io(failure)))?;
    copy_file(&*file, target, &target.path(base, FileKind::Log), bytes)?;
    if is_last {
        return Ok(());
    }
    let open = |kind| match source.fs.open(&source.path(base, kind), OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(|e| IoFailure::new(IoOperation::Open, source.path(base, kind), e)),
    };
    // In the opposite order to that in which they are written and removed.
    let (Some(offsets), Some(times)) = (open(FileKind::Index)?, open(FileKind::TimeIndex)?) else { return Ok(()) };
    let aborted = open(FileKind::TxnIndex)?;
    if !segment.is_index_saved() {
        return Ok(());
    }
    let files = [(FileKind::TxnIndex, aborted), (FileKind::TimeIndex, Some(times)), (FileKind::Index, Some(offsets))];
    for (kind, file) in files {
        let Some(file) = file else { continue };
        let path = target.path(base, kind);
        let len = file.size().map_err(|e| IoFailure::new(IoOperation::Read, &path, e))?;
        copy_file(&*file, target, &path, len)?;
    }
    Ok(())
}

/// Copies the producer snapshots at the beginnings of segments: an opening replays from the newest one on.
fn copy_producers(source: &Home, target: &Home, prefix: &Prefix) -> Result<(), ExportError> {
    let bases = prefix.segments.iter().map(|(segment, _)| segment.base());
    for at in bases {
        let name = SegmentFile::live(at, FileKind::Snapshot).name();
        let file = match source.fs.open(&source.dir.join(&name), OpenMode::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, source.dir.join(&name), e))?,
        };
        let path = target.dir.join(&name);
        let len = file.size().map_err(|e| IoFailure::new(IoOperation::Read, &path, e))?;
        copy_file(&*file, target, &path, len)?;
    }
    Ok(())
}

/// A file that retention, or a cut, removed since the log was looked at.
fn gone(failure: &IoFailure) -> Option<ExportError> {
    (failure.source.kind() == std::io::ErrorKind::NotFound).then_some(ExportError::Changed)
}

/// Copies the first `len` bytes to a new file, synced.
pub(super) fn copy_file(source: &dyn File, target: &Home, path: &Path, len: u64) -> Result<(), IoFailure> {
    let copy = target.open(path, OpenMode::CreateNew)?;
    let mut buffer = vec![0; usize::try_from(len.min(PIECE_BYTES)).unwrap_or_default()];
    let mut at = 0;
    while at < len {
        let piece = usize::try_from((len - at).min(PIECE_BYTES)).unwrap_or_default();
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        fs::read_exact_at(source, piece, at).map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
        fs::write_all_at(&*copy, piece, at).map_err(|e| IoFailure::new(IoOperation::Write, path, e))?;
        at += piece.len() as u64;
    }
    copy.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, path, e))
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
