//! Opening a partition alone: directories, locks, what the last process left, and the way to a judged log.
//!
//! Nothing but the lock file is written before the directory is known to be a log's (or empty), locked, and looked
//! through as far as it has to be: whatever is refused is left as it was. Then the clean-shutdown marker goes before
//! anything else changes, so that a crash while opening counts as unclean.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ancestors::{make_directories, missing_directories, parent_of, sync_ancestors};
use super::clean_state::{CleanFile, Cleaned};
use super::directory::{DirectoryWord, Lineage, Whose, Word, judge};
use super::hosted;
use super::keeper::SyncKeeper;
use super::recover::{self, Judged, Unjudged};
use super::report::{Found, RecoveryReport};
use super::state::{self, CleanShutdown, DamageList, RecoveryPoint, Standing, SyncState};
use super::view::{self, LogView};
use super::writer::{ActiveFile, Writer, WriterState};
use super::{LogCore, PartitionLog, RoundState};
use crate::clock::{Clock, SystemClock};
use crate::commit::{CommitQueue, MarkWaiters, Marks, Unsynced};
use crate::config::LogConfig;
use crate::error::{Corruption, IoFailure, IoOperation, OpenError};
use crate::fs::{DirEntry, FileSystem, LockGuard, OpenMode, OsFileSystem};
use crate::segment::names::{self, Known};
use crate::segment::sum::SumBuilder;
use crate::segment::{FileKind, Home, Residency, SegmentFile, SegmentOptions, Stage};
use crate::sync::{Condvar, Mutex, Rank, RwLock};
use crate::units::Offset;

/// What a log runs on: a file system and a clock. The default is the operating system's; tests put the simulator here.
///
/// ```
/// use alluvium::{Environment, LogConfig};
/// let dir = tempfile::tempdir().unwrap();
/// let log = Environment::default().open(dir.path(), LogConfig::default()).unwrap();
/// assert_eq!(log.log_end(), alluvium::Offset::ZERO);
/// ```
#[derive(Clone, Debug)]
pub struct Environment {
    /// Every file of the log is reached through it.
    pub fs: Arc<dyn FileSystem>,
    /// Every time the log asks for.
    pub clock: Arc<dyn Clock>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { fs: Arc::new(OsFileSystem), clock: Arc::new(SystemClock::new()) }
    }
}

impl PartitionLog {
    /// Opens the log in `dir`, or begins one there; makes the directories that are missing. No worker is started: see
    /// [`PartitionLog::tick`] and the flusher.
    ///
    /// # Errors
    /// [`OpenError`]: configuration, directory, permission, lock, foreign files, old format, damage (by policy), I/O.
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Self, OpenError> {
        Environment::default().open(dir, config)
    }
}

impl Environment {
    /// As [`PartitionLog::open`], on this file system and clock.
    ///
    /// # Errors
    /// As [`PartitionLog::open`].
    pub fn open(&self, dir: impl AsRef<Path>, config: LogConfig) -> Result<PartitionLog, OpenError> {
        self.open_within(dir, config, &Arc::default())
    }

    /// As [`Environment::open`], with a budget of descriptors, maps and index memory that other logs share.
    ///
    /// # Errors
    /// As [`PartitionLog::open`].
    pub fn open_within(
        &self,
        dir: impl AsRef<Path>,
        config: LogConfig,
        residency: &Arc<Residency>,
    ) -> Result<PartitionLog, OpenError> {
        config.validate()?;
        let home = Home::within(Arc::clone(&self.fs), Arc::from(dir.as_ref()), Arc::clone(residency));
        let missing = missing_directories(&home)?;
        // Before anything is made: a refusal leaves nothing behind.
        refuse_locked_parent(&home)?;
        make_directories(&home, &missing)?;
        let entries = home.list()?;
        refuse_foreign(&home, &entries)?;
        let lock = take_lock(&home)?;
        // A store takes the parent's lock and then looks at this one. Looking again, not both can get past the other.
        refuse_locked_parent(&home)?;
        let word = word_around(&*home.fs, &home.dir)?;
        let opening = Opening { home, clock: Arc::clone(&self.clock), config, word };
        opening.open(Some(lock))
    }
}

/// What stands in for a recovery point that is not there.
const NO_POINT: RecoveryPoint = RecoveryPoint {
    generation: 0,
    offset: Offset::ZERO,
    restart: None,
    standing: Standing { log_start: None, high_watermark: None, fencing_token: None, is_sealed: false },
    lineage: Lineage::NONE,
    is_guarded: false,
};

pub(super) struct Opening {
    pub(super) home: Home,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: LogConfig,
    pub(super) word: Word,
}

/// What the last process left in the state files.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a finding of its own")]
pub(crate) struct Left {
    pub(crate) point: Result<Option<RecoveryPoint>, Corruption>,
    pub(crate) sync: Result<Option<SyncState>, Corruption>,
    pub(crate) clean: Option<CleanShutdown>,
    /// Whether there is a marker at all.
    pub(crate) had_marker: bool,
    pub(crate) damage: Result<DamageList, Corruption>,
    /// How far the log is clean.
    pub(crate) cleaned: Result<Option<CleanFile>, Corruption>,
    /// What stands in for a recovery point that is not there.
    no_point: RecoveryPoint,
    /// The state files are to be replaced; what is above is what the directory says.
    is_replaced: bool,
    /// There was a recovery point, of another lineage or from before Kafka loaded the partition.
    is_obsolete: bool,
    /// Kafka's marker of a clean shutdown speaks of this log.
    trusts_parents_close: bool,
    has_canary: bool,
}

impl Left {
    pub(crate) fn read(home: &Home) -> Result<Self, IoFailure> {
        let (fs, dir) = (&*home.fs, &*home.dir);
        let clean = CleanShutdown::read(fs, dir)?;
        Ok(Self {
            point: RecoveryPoint::read(fs, dir)?,
            sync: SyncState::read(fs, dir)?,
            had_marker: !matches!(clean, Ok(None)),
            clean: clean.ok().flatten(),
            damage: state::read_damage(fs, dir)?,
            cleaned: CleanFile::read(fs, dir)?,
            no_point: NO_POINT,
            is_replaced: false,
            is_obsolete: false,
            trusts_parents_close: false,
            has_canary: has_canary(fs, dir)?,
        })
    }

    /// What counts in the data directory around the partition: this, or what that directory says instead.
    fn under(self, word: &Word) -> Self {
        let no_point = RecoveryPoint { lineage: word.lineage, is_guarded: word.is_shared, ..NO_POINT };
        let Ok(own) = self.point else {
            // Whose it was cannot be told, and any list may be older than it: nobody's word is safe.
            let cleaned = self.cleaned.map(|file| file.map(CleanFile::of_unknown_lineage));
            return Self { cleaned, no_point, ..self };
        };
        let whose = judge(own.map(|own| own.for_judgement(self.has_canary, self.clean)), word);
        let lineage = own.map(|own| own.lineage);
        let cleaned = self.cleaned.clone().map(|file| Some(file.unwrap_or_default().under(whose, lineage, word)));
        match whose {
            Whose::Own => return Self { cleaned, no_point, ..self },
            Whose::Nobodys if own.is_none() => return Self { cleaned, no_point, ..self },
            Whose::Parents | Whose::Lower | Whose::Nobodys => {}
        }
        // Past everything that is there, so that none of it passes for state that belongs to the new point.
        let generations = [own.map(|own| own.generation), self.sync().map(|sync| sync.generation)];
        let marker = self.clean.map(|marker| marker.generation);
        let newest = generations.into_iter().chain([marker]).flatten().max().unwrap_or_default();
        // Who may write is the embedder's decision, of which Kafka knows nothing.
        let decided = own.map(|own| own.standing).unwrap_or_default();
        let (log_start, high_watermark) = (word.parents.log_start, word.parents.high_watermark);
        let standing = Standing { log_start, high_watermark, ..decided };
        let no_point = RecoveryPoint { generation: newest.wrapping_add(1), standing, ..no_point };
        let ours = own.filter(|_| whose == Whose::Lower).map(|own| own.offset);
        let offset = word.parents.recovery_point.map(|listed| ours.map_or(listed, |ours| ours.min(listed)));
        let point = offset.map(|offset| RecoveryPoint { offset, ..no_point });
        // A sync in doubt is one still: what an opening of ours left while it was replacing this state looks the same.
        let (clean, damage) = (None, Ok(DamageList::new()));
        let (point, had_marker, is_replaced, is_obsolete) = (Ok(point), false, true, own.is_some());
        let trusts_parents_close = whose == Whose::Parents && word.parents.is_clean;
        let cleaned = Ok(cleaned.unwrap_or_default());
        Self {
            point,
            clean,
            had_marker,
            damage,
            cleaned,
            no_point,
            is_replaced,
            is_obsolete,
            trusts_parents_close,
            ..self
        }
    }

    /// Puts the directory's word in the place of the partition's own state, durably. The new recovery point goes last:
    /// until then the old state is of another lineage or without its canary, and none of it is believed.
    fn replace(&self, home: &Home, point: Option<RecoveryPoint>) -> Result<(), IoFailure> {
        self.clean_file().replace(&*home.fs, &home.dir)?;
        state::remove_durably(&*home.fs, &home.dir, names::DAMAGE)?;
        state::remove_durably(&*home.fs, &home.dir, names::CLEAN_SHUTDOWN)?;
        match point {
            Some(point) => point.write(&*home.fs, &home.dir),
            None => state::remove_durably(&*home.fs, &home.dir, names::RECOVERY_POINT).map(drop),
        }
    }

    /// How far the log is clean, as far as anything says so.
    fn clean_file(&self) -> CleanFile {
        self.cleaned.as_ref().ok().cloned().flatten().unwrap_or_default()
    }

    /// Sets the canary, durably, in whose absence a guarded recovery point is not believed. A new point stands by now and
    /// an old one that counts must not miss it, so that one is guarded afterwards.
    fn guard(&self, home: &Home, point: Option<&mut RecoveryPoint>) -> Result<(), IoFailure> {
        let may_wait = point.as_ref().is_some_and(|point| !point.is_guarded);
        match self.set_guard(home, point) {
            // A log opens on a full disk; it is guarded by the next opening.
            Err(failure) if may_wait && failure.is_storage_full() => Ok(()),
            guarded => guarded,
        }
    }

    fn set_guard(&self, home: &Home, point: Option<&mut RecoveryPoint>) -> Result<(), IoFailure> {
        // One that is there without a point that says so may be from an opening whose sync failed. Only a new name lasts.
        let is_durable = self.has_canary && point.as_ref().is_some_and(|point| point.is_guarded);
        if self.has_canary && !is_durable {
            home.remove(names::CANARY)?;
        }
        if !is_durable {
            drop(home.open(&home.dir.join(names::CANARY), OpenMode::CreateOrOpen)?);
            home.sync_names()?;
        }
        if let Some(point) = point.filter(|point| !point.is_guarded) {
            let guarded = RecoveryPoint { is_guarded: true, ..*point };
            guarded.write(&*home.fs, &home.dir)?;
            *point = guarded;
        }
        Ok(())
    }

    /// Everything below it is durable, as far as anything says so.
    pub(crate) fn durable_end(&self, point: RecoveryPoint) -> Offset {
        let newer = self.sync_since(point);
        newer.map_or(point.offset, |sync| sync.durable_end.max(point.offset))
    }

    fn sync(&self) -> Option<&SyncState> {
        self.sync.as_ref().ok()?.as_ref()
    }

    /// The sync state, unless it is one from before `point` was written that came back with a power loss.
    fn sync_since(&self, point: RecoveryPoint) -> Option<&SyncState> {
        self.sync().filter(|sync| sync.generation == point.generation)
    }

    /// What the state of this opening counts on from. Without a recovery point it still counts past what the sync state
    /// says: an older one may come back with a power loss, and must not be taken for one that belongs to the new point.
    fn counted_from(&self, point: Option<RecoveryPoint>) -> RecoveryPoint {
        let generation = self.sync().map_or(0, |sync| sync.generation).max(self.no_point.generation);
        point.unwrap_or(RecoveryPoint { generation, ..self.no_point })
    }

    /// The point with the log start that was decided when there was no space to write it into its file.
    pub(crate) fn with_log_start(&self, point: RecoveryPoint) -> RecoveryPoint {
        let decided = self.sync_since(point).and_then(|sync| sync.log_start);
        let standing = Standing { log_start: point.standing.log_start.max(decided), ..point.standing };
        RecoveryPoint { standing, ..point }
    }

    fn removed(&self, point: RecoveryPoint) -> Vec<Offset> {
        self.sync_since(point).map(|sync| sync.removed.clone()).unwrap_or_default()
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        // One that cannot be read may have been torn by the death of the process: doubt costs a little writing.
        self.sync.is_err() || self.sync().is_some_and(|sync| sync.in_doubt || !sync.removed.is_empty())
    }

    /// The clean-shutdown marker, if it is about the files that are here.
    pub(crate) fn fitting(&self, home: &Home, point: RecoveryPoint) -> Result<Option<CleanShutdown>, IoFailure> {
        let Some(marker) = self.clean else { return Ok(None) };
        let fits = marker.generation == point.generation && marker.log_end == point.offset;
        let entries = home.list()?;
        let files: Vec<SegmentFile> = entries.iter().filter_map(SegmentFile::of).collect();
        let is_settled = files.iter().all(|file| file.stage == Stage::Live);
        let last = files.iter().filter(|file| file.kind == FileKind::Log).map(|file| file.base).max();
        if !fits || !is_settled || last != Some(marker.active_base) {
            return Ok(None);
        }
        let path = home.path(marker.active_base, FileKind::Log);
        let found = home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
        Ok((found.len == marker.active_bytes).then_some(marker))
    }
}

impl Opening {
    pub(super) fn open(self, lock: Option<Box<dyn LockGuard>>) -> Result<PartitionLog, OpenError> {
        let home = &self.home;
        let left = Left::read(home)?.under(&self.word);
        let mut report = RecoveryReport::default();
        let mut point = match &left.point {
            Ok(Some(point)) => Some(left.with_log_start(*point)),
            Ok(None) | Err(_) => None,
        };
        if point.is_none() {
            // An earlier process may have made some of the directories and died before their names were synced.
            // Above a store's data directory the store saw to that.
            let levels = if self.word.above.is_some() { 1 } else { usize::MAX };
            sync_ancestors(&*home.fs, &home.dir, levels)?;
        }
        let standing = point.unwrap_or(left.no_point);
        let durable_end = left.durable_end(standing);
        let mut unjudged = self.unjudged(&left, point, &mut report);
        report.recovery_point = unjudged.durable_end;
        // Nothing is changed before it is sure that the log will be opened.
        let clean = if unjudged.may_be_clean() { self.clean_marker(&left, point)? } else { None };
        let clean = match clean {
            Some(marker) => {
                unjudged.doubts_epochs = !unjudged.has_epochs_of(&marker)?;
                unjudged.accept(&marker, &mut report)?
            }
            None => None,
        };
        let survey = if clean.is_none() {
            if left.had_marker {
                report.note(Found::StaleCleanMarker, self.config.on_damage, names::CLEAN_SHUTDOWN, 0, None);
            }
            self.note_point(&left, &unjudged, &mut report)?;
            unjudged.look(&mut report)?
        } else {
            None
        };
        if left.is_obsolete {
            let found = Found::StateObsolete;
            report.note(found, self.config.on_damage, names::RECOVERY_POINT, 0, point.map(|point| point.offset));
        }
        // In doubt before the first sync of the directory: where that fails, what an earlier process left unsynced may be lost,
        // and neither this one nor the next could tell.
        let (fs, dir, counted) = (Arc::clone(&home.fs), Arc::clone(&home.dir), left.counted_from(point));
        let keeper = SyncKeeper::start(fs, dir, counted, durable_end, left.removed(standing))?;
        let keeper = keeper.under(self.word.above.clone());
        if left.is_replaced {
            left.replace(home, point)?;
        }
        if self.word.is_shared {
            left.guard(home, point.as_mut())?;
            keeper.note_guard(point.is_some_and(|point| point.is_guarded));
        }
        state::remove_durably(&*home.fs, &home.dir, names::CLEAN_SHUTDOWN)?;
        let judged = if let Some(judged) = clean {
            // Behind from the first append on, and written again when the segment is sealed or closed.
            home.remove_index(judged.active.segment.base())?;
            keeper.accept()?;
            judged
        } else {
            unjudged.recover(survey, &keeper, &mut report)?
        };
        if left.damage.is_err() && judged.segments.iter().all(|segment| segment.holes().is_empty()) {
            state::remove_durably(&*home.fs, &home.dir, names::DAMAGE)?;
        }
        let cleaned = self.settle_cleaned(&left, judged.log_end, &mut report)?;
        Ok(self.build(judged, keeper, cleaned, report, lock))
    }

    /// What is written down of cleaning, as far as it is about the log that was opened.
    fn settle_cleaned(
        &self,
        left: &Left,
        log_end: Offset,
        report: &mut RecoveryReport,
    ) -> Result<CleanFile, IoFailure> {
        let (fs, dir, policy) = (&*self.home.fs, &*self.home.dir, self.config.on_damage);
        if let Err(corruption) = &left.cleaned {
            report.note(Found::CleanStateUnreadable(corruption.kind.clone()), policy, names::CLEANED, 0, None);
            state::remove_durably(fs, dir, names::CLEANED)?;
        }
        left.clean_file().settle(fs, dir, log_end, report, policy)
    }

    /// What vouches for the log's end without a scan: our marker, or Kafka's where the directory's word counts.
    fn clean_marker(&self, left: &Left, point: Option<RecoveryPoint>) -> Result<Option<CleanShutdown>, IoFailure> {
        match point {
            Some(point) if left.trusts_parents_close => {
                hosted::marker_of_kafkas_close(&self.home, SegmentOptions::of(&self.config), point)
            }
            point => left.fitting(&self.home, point.unwrap_or(left.no_point)),
        }
    }

    fn unjudged(&self, left: &Left, point: Option<RecoveryPoint>, report: &mut RecoveryReport) -> Unjudged {
        let cleaned_to = left.clean_file().cleaned_to;
        let options = SegmentOptions::of(&self.config).cleaned(cleaned_to > Offset::ZERO);
        Unjudged {
            cleaned_to,
            home: self.home.clone(),
            options,
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            durable_end: point.map(|point| left.durable_end(point)),
            recovery_point: point.unwrap_or(left.no_point).offset,
            is_in_doubt: left.is_in_doubt(),
            restart: point.and_then(|point| point.restart),
            removed: left.removed(point.unwrap_or(left.no_point)),
            had_point: point.is_some(),
            doubts_epochs: false,
            known_damage: self.known_damage(left, report),
            standing: point.unwrap_or(left.no_point).standing,
        }
    }

    fn known_damage(&self, left: &Left, report: &mut RecoveryReport) -> DamageList {
        match &left.damage {
            Ok(list) => list.clone(),
            Err(corruption) => {
                let found = Found::DamageListUnreadable(corruption.kind.clone());
                report.note(found, self.config.on_damage, names::DAMAGE, 0, None);
                DamageList::new()
            }
        }
    }

    fn note_point(&self, left: &Left, unjudged: &Unjudged, report: &mut RecoveryReport) -> Result<(), IoFailure> {
        let policy = self.config.on_damage;
        match &left.point {
            Err(corruption) => {
                let found = Found::RecoveryPointUnreadable(corruption.kind.clone());
                report.note(found, policy, names::RECOVERY_POINT, 0, None);
            }
            Ok(None) if unjudged.has_segments()? => {
                report.note(Found::RecoveryPointAbsent, policy, "", 0, None);
            }
            Ok(None) => {
                report.note(Found::Nothing, policy, "", 0, None);
            }
            Ok(Some(_)) => {}
        }
        Ok(())
    }

    fn build(
        self,
        judged: Judged,
        keeper: SyncKeeper,
        cleaned: CleanFile,
        mut report: RecoveryReport,
        lock: Option<Box<dyn LockGuard>>,
    ) -> PartitionLog {
        let Judged { segments, active, log_start, log_end, derived } = judged;
        report.segments = segments.len();
        report.log_start = log_start;
        report.log_end = log_end;
        let standing = keeper.standing();
        let recover::Active { segment, file, cursor, position, first_timestamp } = active;
        let interval_bytes = SegmentOptions::of(&self.config).interval_bytes;
        let summing = (position == 0).then(|| SumBuilder::new(segment.base(), interval_bytes));
        let mut writer = Writer {
            state: WriterState::Open,
            file: ActiveFile::new(segment.base(), file),
            active: segment,
            cursor,
            summing,
            position,
            file_bytes: position,
            is_zeroing: false,
            log_end,
            derived,
            producers_expired: None,
            fencing_token: standing.fencing_token,
            is_sealed: standing.is_sealed,
            first_timestamp,
            created: self.clock.wall(),
            unsealed: Vec::new(),
            is_dirty: false,
            // After a clean shutdown the index files of the active segment were removed, and that is not synced yet.
            names_changed: report.was_clean,
            unsynced: Unsynced::default(),
            must_wake: false,
        };
        // Kafka's rule: a stored mark that lies outside the log says nothing.
        let is_inside = |mark: &Offset| (log_start..=log_end).contains(mark);
        let high_watermark = standing.high_watermark.filter(is_inside).unwrap_or(log_start);
        let unsettled = Marks { log_start, last_stable: log_start, high_watermark, durable_end: log_end, log_end };
        let marks = view::settled(unsettled, &mut writer, self.config.high_watermark);
        let epochs = Arc::new(writer.derived.epochs.clone());
        let view = LogView::opened(segments, marks, position, cleaned.cleaned_to, epochs);
        let point_written = self.clock.monotonic();
        let core = LogCore {
            home: self.home,
            clock: self.clock,
            config: RwLock::new(Arc::new(self.config)),
            round: Mutex::ranked(Rank::Round, RoundState { point_written, ..RoundState::default() }),
            writer: Mutex::ranked(Rank::Writer, writer),
            zeros_done: Condvar::new(),
            view: RwLock::ranked(Rank::View, view),
            queue: CommitQueue::new(log_end),
            waiters: MarkWaiters::new(marks),
            keeper,
            metrics: Arc::default(),
            report,
            has_met_damage: AtomicBool::new(false),
            is_repairing: AtomicBool::new(false),
            cleaned: Mutex::new(Cleaned::new(cleaned)),
            is_cleaning: AtomicBool::new(false),
            lock: Mutex::new(lock),
        };
        PartitionLog { core: Arc::new(core) }
    }
}

/// A broker or store that holds the data directory owns its partitions.
fn refuse_locked_parent(home: &Home) -> Result<(), OpenError> {
    let Some(parent) = parent_of(&home.dir) else { return Ok(()) };
    let lock = parent.join(names::PARENT_LOCK);
    match home.fs.is_locked(&lock) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::ParentLocked { lock }),
        Err(e) => Err(IoFailure::new(IoOperation::Lock, lock, e).into()),
    }
}

/// Whether the partition's canary is there. Who may not look at it is told by what is read next.
pub(super) fn has_canary(fs: &dyn FileSystem, dir: &Path) -> Result<bool, IoFailure> {
    let path = dir.join(names::CANARY);
    match fs.metadata(&path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(IoFailure::new(IoOperation::List, path, e)),
    }
}

/// What the data directory around the partition says of it, whether there is such a one or not.
pub(super) fn word_around(fs: &dyn FileSystem, dir: &Path) -> Result<Word, IoFailure> {
    // Under whatever name it is opened. Without the current directory's a relative path must do as it is.
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(Word::default()) };
    Ok(DirectoryWord::read(fs, parent)?.of(&name.to_string_lossy()))
}

/// Refuses a directory with files in it that are not a log's and none that are.
pub(super) fn refuse_foreign(home: &Home, entries: &[DirEntry]) -> Result<(), OpenError> {
    let known: Vec<(&DirEntry, Known)> = entries.iter().map(|entry| (entry, names::classify(entry))).collect();
    if known.iter().any(|(_, known)| matches!(known, Known::Segment(_) | Known::State | Known::Touched(_))) {
        return Ok(());
    }
    match known.iter().find(|(_, known)| *known == Known::Foreign) {
        Some((entry, _)) => Err(OpenError::Foreign { path: home.dir.to_path_buf(), entry: entry.name.clone() }),
        None => Ok(()),
    }
}

fn take_lock(home: &Home) -> Result<Box<dyn LockGuard>, OpenError> {
    let path = home.dir.join(names::LOCK);
    match home.fs.try_lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::Locked { lock: path }),
        Err(e) => Err(IoFailure::new(IoOperation::Lock, path, e).into()),
    }
}
