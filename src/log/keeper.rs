//! Keeps what recovery will go by while a log is open: the durable recovery point, and the sync state around each sync.
//!
//! Layouts and their reasons are in `state`.

use std::path::Path;
use std::sync::Arc;

use super::directory::Lineage;
use super::hosted::Above;
use super::state::{RecoveryPoint, Standing, SyncState};
use crate::error::{IoFailure, IoOperation};
use crate::fs::{self, File, FileSystem, OpenMode};
use crate::segment::names;
use crate::sync::Mutex;
use crate::units::Offset;

/// Keeps the sync state and the recovery point of an open log. Any thread.
#[derive(Debug)]
pub(crate) struct SyncKeeper {
    fs: Arc<dyn FileSystem>,
    dir: Arc<Path>,
    kept: Mutex<Kept>,
    /// Who says the recovery point to others, too.
    above: Option<Arc<dyn Above>>,
}

#[derive(Debug)]
struct Kept {
    /// The sync state, written in place. Closed while the log is idle: what was written to it is not lost with it.
    file: Option<Arc<dyn File>>,
    point: RecoveryPoint,
    durable_end: Offset,
    in_flight: u32,
    failed: bool,
    removed: Vec<Offset>,
    /// A cut to here has begun, and the recovery point may not be lowered yet.
    cutting_to: Option<Offset>,
}

impl SyncKeeper {
    /// Starts keeping for a log that is being opened: in doubt until [`SyncKeeper::settle`], since a process that dies
    /// while recovering may leave a failed sync behind.
    pub(crate) fn start(
        fs: Arc<dyn FileSystem>,
        dir: Arc<Path>,
        point: RecoveryPoint,
        durable_end: Offset,
        removed: Vec<Offset>,
    ) -> Result<Self, IoFailure> {
        let path = dir.join(names::SYNC_STATE);
        let file = fs.open(&path, OpenMode::CreateOrOpen).map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?;
        let kept = Kept { file: Some(file), point, durable_end, in_flight: 0, failed: true, removed, cutting_to: None };
        let keeper = Self { fs, dir, kept: Mutex::new(kept), above: None };
        keeper.make_room(&path)?;
        keeper.write(&mut keeper.kept.lock())?;
        Ok(keeper)
    }

    /// The recovery point on disk is guarded by now.
    pub(super) fn note_guard(&self, is_guarded: bool) {
        self.kept.lock().point.is_guarded |= is_guarded;
    }

    /// The store above, if there is one.
    pub(super) fn above(&self) -> Option<&dyn Above> {
        self.above.as_deref()
    }

    /// From now on `above` is told before every cut.
    pub(super) fn under(self, above: Option<Arc<dyn Above>>) -> Self {
        Self { above, ..self }
    }

    /// Gives a new file its size, durably: written in place from then on, it needs no space on a full disk.
    fn make_room(&self, path: &Path) -> Result<(), IoFailure> {
        const ROOM: [u8; 512] = [0; 512];
        let failed = |operation| move |e| IoFailure::new(operation, path, e);
        let mut kept = self.kept.lock();
        let file = self.file(&mut kept)?;
        if file.size().map_err(failed(IoOperation::Read))? >= ROOM.len() as u64 {
            return Ok(());
        }
        self.write(&mut kept)?;
        let used = file.size().map_err(failed(IoOperation::Read))?;
        let rest = ROOM.get(usize::try_from(used).unwrap_or(ROOM.len())..).unwrap_or_default();
        fs::write_all_at(&*file, rest, used).map_err(failed(IoOperation::Write))?;
        file.sync_data().map_err(failed(IoOperation::Sync))
    }

    /// The open sync state, opened again if it was closed. It is there: the log that is open made it.
    fn file(&self, kept: &mut Kept) -> Result<Arc<dyn File>, IoFailure> {
        if let Some(file) = &kept.file {
            return Ok(Arc::clone(file));
        }
        let path = self.dir.join(names::SYNC_STATE);
        let file = self.fs.open(&path, OpenMode::ReadWrite).map_err(|e| IoFailure::new(IoOperation::Open, path, e))?;
        kept.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Closes the sync state until it is written again, unless a sync is in flight.
    pub(crate) fn release_file(&self) {
        if let Some(mut kept) = self.kept.try_lock().filter(|kept| kept.in_flight == 0) {
            kept.file = None;
        }
    }

    /// To be called before every sync of a file or directory of the log: if the process dies before it is known to
    /// have succeeded, the next one does not believe the page cache.
    pub(crate) fn begin(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.in_flight += 1;
        if kept.in_flight > 1 {
            return Ok(());
        }
        let written = self.write(&mut kept);
        if written.is_err() {
            // Nothing begins. Counted all the same, it would keep the next one from leaving its warning.
            kept.in_flight = 0;
        }
        written
    }

    /// The sync succeeded; with `durable_end`, everything below it is durable.
    pub(crate) fn finish(&self, durable_end: Option<Offset>) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.in_flight = kept.in_flight.saturating_sub(1);
        kept.durable_end = kept.durable_end.max(durable_end.unwrap_or_default());
        if kept.in_flight == 0 { self.write(&mut kept) } else { Ok(()) }
    }

    /// The sync failed; nothing succeeds any more until the log is opened again.
    pub(crate) fn fail(&self) {
        let mut kept = self.kept.lock();
        kept.failed = true;
        // In doubt since `begin`; this only adds the newest durable end. If even that fails, the older state says more
        // is in doubt than is.
        let _ = self.write(&mut kept);
    }

    fn write(&self, kept: &mut Kept) -> Result<(), IoFailure> {
        let in_doubt = kept.failed || kept.in_flight > 0;
        let state = SyncState {
            generation: kept.point.generation,
            durable_end: kept.durable_end,
            in_doubt,
            log_start: kept.point.standing.log_start,
            removed: kept.removed.clone(),
        };
        fs::write_all_at(&*self.file(kept)?, &state.encode(), 0)
            .map_err(|e| IoFailure::new(IoOperation::Write, self.dir.join(names::SYNC_STATE), e))
    }

    /// To be called before the names of segments go: until a directory sync succeeds they may come back.
    pub(crate) fn note_removed(&self, bases: impl IntoIterator<Item = Offset>) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let known = kept.removed.len();
        kept.removed.extend(bases);
        if kept.removed.len() == known { Ok(()) } else { self.write(&mut kept) }
    }

    /// A directory sync succeeded: what was removed stays removed.
    pub(crate) fn forget_removed(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        if kept.removed.is_empty() {
            return Ok(());
        }
        kept.removed.clear();
        self.write(&mut kept)?;
        // The one case in which an older state must not come back with a power loss: the log goes on past these offsets.
        self.file(&mut kept)?
            .sync_data()
            .map_err(|e| IoFailure::new(IoOperation::Sync, self.dir.join(names::SYNC_STATE), e))
    }

    /// As [`SyncKeeper::forget_removed`], where an older state that comes back with a power loss does no harm: those bases
    /// are not given out again, and who finds one of them in the log has its name changed once more. Written with the next
    /// state.
    pub(crate) fn settle_removed(&self) {
        self.kept.lock().removed.clear();
    }

    /// Makes the recovery point durable as it was read; `anew` by writing it again, where its sync is in doubt.
    pub(crate) fn confirm(&self, anew: bool) -> Result<(), IoFailure> {
        let point = self.kept.lock().point;
        match if anew { point.write(&*self.fs, &self.dir) } else { Ok(()) } {
            // Then it must do as it is.
            Err(failure) if failure.is_storage_full() => {}
            written => written?,
        }
        self.fs.sync_dir(&self.dir).map_err(|e| IoFailure::new(IoOperation::Sync, &*self.dir, e))
    }

    /// The recovery point as it is on disk.
    pub(crate) fn recovery_point(&self) -> Offset {
        self.kept.lock().point.offset
    }

    /// The recovery point as it may be told to others: no higher than where a cut that has begun will end.
    pub(crate) fn listed_point(&self) -> Offset {
        let kept = self.kept.lock();
        kept.cutting_to.map_or(kept.point.offset, |to| kept.point.offset.min(to))
    }

    /// The lineage of the data directory under which the log was opened.
    pub(crate) fn lineage(&self) -> Lineage {
        self.kept.lock().point.lineage
    }

    /// Generation that ties the state files together.
    pub(crate) fn generation(&self) -> u64 {
        self.kept.lock().point.generation
    }

    /// Raises the durable recovery point, if `to` is past it, and writes down the high watermark with it. Between
    /// `begin` and `finish`.
    pub(crate) fn raise_recovery_point(&self, to: Offset, high_watermark: Offset) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let standing = Standing { high_watermark: Some(high_watermark), ..kept.point.standing };
        let point = RecoveryPoint { offset: kept.point.offset.max(to), standing, ..kept.point };
        if point != kept.point {
            point.write(&*self.fs, &self.dir)?;
            kept.point = point;
        }
        Ok(())
    }

    /// What was decided about the log, as it is on disk.
    pub(crate) fn standing(&self) -> Standing {
        self.kept.lock().point.standing
    }

    /// Writes down a decision. Durable when it returns; on an error the old one may stand or the new one. Between
    /// `begin` and `finish`.
    pub(crate) fn decide(&self, standing: Standing) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let point = RecoveryPoint { standing, ..kept.point };
        if point == kept.point {
            return Ok(());
        }
        let is_log_start_alone = Standing { log_start: standing.log_start, ..kept.point.standing } == standing;
        match point.write(&*self.fs, &self.dir) {
            // Deleting must not need the space that it is to free.
            Err(failure) if failure.is_storage_full() && *failure.path != *self.dir && is_log_start_alone => {
                self.decide_in_place(&mut kept, point)?;
            }
            written => written?,
        }
        kept.point = point;
        Ok(())
    }

    /// Writes the log start of `point` into the sync state, which takes no space, and syncs it there.
    fn decide_in_place(&self, kept: &mut Kept, point: RecoveryPoint) -> Result<(), IoFailure> {
        let before = std::mem::replace(&mut kept.point, point);
        let path = self.dir.join(names::SYNC_STATE);
        let synced = self
            .write(kept)
            .and_then(|()| self.file(kept)?.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, path, e)));
        if synced.is_err() {
            kept.point = before;
        }
        synced
    }

    /// Lowers the durable recovery point to at most `to` before a cut, and makes every older sync state void.
    /// With `restart`, the next opening finishes a restart there. Between `begin` and `finish`.
    pub(crate) fn prepare_cut(&self, to: Offset, restart: Option<Offset>) -> Result<(), IoFailure> {
        // First: whoever lists the point from now on lists the lower one.
        self.kept.lock().cutting_to = Some(to);
        // Kafka goes by the data directory's list, and would miss what is cut if that still named a later point.
        let told = self.above.as_ref().map_or(Ok(()), |above| above.before_cut(to));
        let mut kept = self.kept.lock();
        let lowered = told.and_then(|()| self.lower(&mut kept, to, restart));
        kept.cutting_to = None;
        lowered
    }

    fn lower(&self, kept: &mut Kept, to: Offset, restart: Option<Offset>) -> Result<(), IoFailure> {
        let offset = kept.point.offset.min(to);
        let standing = Standing {
            high_watermark: kept.point.standing.high_watermark.map(|mark| mark.min(to)),
            ..kept.point.standing
        };
        let generation = kept.point.generation.wrapping_add(1);
        let point = RecoveryPoint { generation, offset, restart, standing, ..kept.point };
        point.write(&*self.fs, &self.dir)?;
        kept.point = point;
        kept.durable_end = kept.durable_end.min(to);
        self.write(kept)
    }

    /// A restart is finished: everything below `at` is durable, since there is nothing.
    pub(crate) fn finish_restart(&self, at: Offset) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let standing = Standing { log_start: Some(at), high_watermark: Some(at), ..kept.point.standing };
        let generation = kept.point.generation.wrapping_add(1);
        let point = RecoveryPoint { generation, offset: at, restart: None, standing, ..kept.point };
        point.write(&*self.fs, &self.dir)?;
        kept.point = point;
        kept.durable_end = at;
        self.write(&mut kept)
    }

    /// The last close was clean: nothing is in doubt.
    pub(crate) fn accept(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.failed = false;
        self.write(&mut kept)
    }

    /// Opening judged everything from `log_start` up to `end` and made it durable. `had_point`: a recovery
    /// point file is there.
    pub(crate) fn settle(&self, end: Offset, log_start: Offset, had_point: bool) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let standing = Standing { log_start: Some(log_start), ..kept.point.standing };
        let generation = kept.point.generation.wrapping_add(1);
        let point = RecoveryPoint { generation, offset: end, restart: None, standing, ..kept.point };
        match point.write(&*self.fs, &self.dir) {
            Ok(()) => kept.point = point,
            // A full disk must not keep a log from opening. The older point is lower and as true, and the sync state,
            // which needs no space, says the rest.
            Err(failure) if failure.is_storage_full() && had_point && kept.point.restart.is_none() => {
                kept.point.standing = standing;
            }
            Err(failure) => return Err(failure),
        }
        kept.durable_end = end;
        kept.failed = false;
        self.write(&mut kept)
    }

    /// As [`SyncKeeper::settle`], where the recovery point must not rise. There is one, and no restart is pending.
    pub(crate) fn settle_in_place(&self, end: Offset, log_start: Offset) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.point.standing.log_start = Some(log_start);
        kept.durable_end = end;
        kept.failed = false;
        self.write(&mut kept)
    }
}
