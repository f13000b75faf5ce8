//! What a partition opened alone remembers between processes: recovery point, sync state, clean shutdown, damage.
//!
//! The recovery point file is durable and replaced atomically. The sync state is written in place and never synced: it
//! survives the death of the process, which is when it matters (a sync that failed leaves a page cache that lies), and
//! after a power loss any version of it that survives was true when it was written. Its generation ties it to the
//! recovery point file, which a truncation replaces before it cuts.
//!
//! ```text
//! alluvium.recovery-point   generation u64, recovery point i64, pending u8 (0 none, 1 restart), restart offset i64
//! alluvium.sync-state       generation u64, durable end i64, in doubt u8, count u32, for each a base offset i64:
//!                           segments whose names went since the last directory sync that succeeded; bytes without
//!                           meaning up to 512 or more
//! alluvium.clean-shutdown   generation u64, log end i64, active base i64, active bytes u64, newest epoch i32 or -1,
//!                           CRC-32 over the active segment's index files u32
//! alluvium.damage           count u32, then for each: base i64, bytes from u64, to u64, offsets from i64, to i64
//! ```
//! All big-endian, each behind the header of a small checked file.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, SmallFileFault};
use crate::fs::{self, File, FileSystem, OpenMode};
use crate::index::{SmallFile, SmallFileError, read_small_file, replace_small_file};
use crate::segment::{Hole, names};
use crate::sync::Mutex;
use crate::units::{FilePosition, LeaderEpoch, Offset};

const RECOVERY_POINT: SmallFile = SmallFile { kind: 1, version: 1, in_place: false };
const SYNC_STATE: SmallFile = SmallFile { kind: 2, version: 1, in_place: true };
const CLEAN_SHUTDOWN: SmallFile = SmallFile { kind: 3, version: 1, in_place: false };
const DAMAGE: SmallFile = SmallFile { kind: 4, version: 1, in_place: false };

/// The durable recovery point, and a restart that was decided and may not be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecoveryPoint {
    /// Rises with each open and each truncation.
    pub(crate) generation: u64,
    /// Everything below it was synced.
    pub(crate) offset: Offset,
    /// All segments are to go and the log is to start here.
    pub(crate) restart: Option<Offset>,
}

/// What the newest sync round left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncState {
    pub(crate) generation: u64,
    pub(crate) durable_end: Offset,
    /// A sync began and did not succeed: the page cache past the durable end may lie.
    pub(crate) in_doubt: bool,
    /// Segments that were removed and may come back with a power loss, because no directory sync covered that.
    pub(crate) removed: Vec<Offset>,
}

/// What a clean close wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CleanShutdown {
    pub(crate) generation: u64,
    pub(crate) log_end: Offset,
    pub(crate) active_base: Offset,
    pub(crate) active_bytes: u64,
    pub(crate) newest_epoch: Option<LeaderEpoch>,
    /// Vouches for the active segment's index files, which appending goes on from unseen.
    pub(crate) index_checksum: u32,
}

/// Reads fields from a payload, front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SmallFileFault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, SmallFileFault> {
        self.take().map(u64::from_be_bytes)
    }

    fn offset(&mut self) -> Result<Offset, SmallFileFault> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SmallFileFault::Field)
    }

    fn flag(&mut self) -> Result<bool, SmallFileFault> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(SmallFileFault::Field),
        }
    }

    fn finish<T>(self, value: T) -> Result<T, SmallFileFault> {
        if self.0.is_empty() { Ok(value) } else { Err(SmallFileFault::Length) }
    }
}

impl RecoveryPoint {
    fn encode(self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(25);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.offset.value().to_be_bytes());
        payload.push(u8::from(self.restart.is_some()));
        payload.extend_from_slice(&self.restart.unwrap_or_default().value().to_be_bytes());
        RECOVERY_POINT.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, offset) = (fields.u64()?, fields.offset()?);
        let (pending, restart) = (fields.flag()?, fields.offset()?);
        fields.finish(Self { generation, offset, restart: pending.then_some(restart) })
    }

    /// Replaces the file; durable when it returns.
    pub(crate) fn write(self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        replace_small_file(fs, dir, names::RECOVERY_POINT, &self.encode())
    }

    /// Reads the file; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read(fs, dir, names::RECOVERY_POINT, RECOVERY_POINT, Self::decode)
    }
}

impl SyncState {
    fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(21 + 8 * self.removed.len());
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.durable_end.value().to_be_bytes());
        payload.push(u8::from(self.in_doubt));
        payload.extend_from_slice(&u32::try_from(self.removed.len()).unwrap_or(u32::MAX).to_be_bytes());
        for base in &self.removed {
            payload.extend_from_slice(&base.value().to_be_bytes());
        }
        SYNC_STATE.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, durable_end, in_doubt) = (fields.u64()?, fields.offset()?, fields.flag()?);
        let count = u32::from_be_bytes(fields.take()?);
        let removed = (0..count).map(|_| fields.offset()).collect::<Result<_, _>>()?;
        fields.finish(Self { generation, durable_end, in_doubt, removed })
    }

    /// Reads the file; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read(fs, dir, names::SYNC_STATE, SYNC_STATE, Self::decode)
    }
}

impl CleanShutdown {
    fn encode(self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(40);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.log_end.value().to_be_bytes());
        payload.extend_from_slice(&self.active_base.value().to_be_bytes());
        payload.extend_from_slice(&self.active_bytes.to_be_bytes());
        payload.extend_from_slice(&self.newest_epoch.map_or(-1, LeaderEpoch::value).to_be_bytes());
        payload.extend_from_slice(&self.index_checksum.to_be_bytes());
        CLEAN_SHUTDOWN.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, log_end, active_base) = (fields.u64()?, fields.offset()?, fields.offset()?);
        let active_bytes = fields.u64()?;
        let newest_epoch = LeaderEpoch::new(i32::from_be_bytes(fields.take()?));
        let index_checksum = u32::from_be_bytes(fields.take()?);
        fields.finish(Self { generation, log_end, active_base, active_bytes, newest_epoch, index_checksum })
    }

    /// Writes the marker; durable when it returns.
    pub(crate) fn write(self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        replace_small_file(fs, dir, names::CLEAN_SHUTDOWN, &self.encode())
    }

    /// Reads the marker; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read(fs, dir, names::CLEAN_SHUTDOWN, CLEAN_SHUTDOWN, Self::decode)
    }
}

/// Known damage: for each the base offset of its segment, and the hole.
pub(crate) type DamageList = Vec<(Offset, Hole)>;

/// Writes the list, or removes the file when the list is empty. Durable when it returns.
pub(crate) fn write_damage(fs: &dyn FileSystem, dir: &Path, list: &DamageList) -> Result<(), IoFailure> {
    if list.is_empty() {
        return remove_durably(fs, dir, names::DAMAGE).map(drop);
    }
    replace_small_file(fs, dir, names::DAMAGE, &DAMAGE.encode(&encode_damage(list)))
}

fn encode_damage(list: &DamageList) -> Vec<u8> {
    let mut payload = Vec::with_capacity(4 + 40 * list.len());
    payload.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (base, hole) in list {
        payload.extend_from_slice(&base.value().to_be_bytes());
        payload.extend_from_slice(&hole.bytes.start.to_be_bytes());
        payload.extend_from_slice(&hole.bytes.end.to_be_bytes());
        payload.extend_from_slice(&hole.offsets.start.value().to_be_bytes());
        payload.extend_from_slice(&hole.offsets.end.value().to_be_bytes());
    }
    payload
}

/// Reads the list; empty without a file. The inner error is for bytes that are wrong.
pub(crate) fn read_damage(fs: &dyn FileSystem, dir: &Path) -> Result<Result<DamageList, Corruption>, IoFailure> {
    let list = read(fs, dir, names::DAMAGE, DAMAGE, decode_damage)?;
    Ok(list.map(Option::unwrap_or_default))
}

fn decode_damage(payload: &[u8]) -> Result<DamageList, SmallFileFault> {
    let mut fields = Fields(payload);
    let count = u32::from_be_bytes(fields.take()?);
    let mut list = DamageList::new();
    for _ in 0..count {
        let base = fields.offset()?;
        let (from, to) = (fields.u64()?, fields.u64()?);
        let (first, end) = (fields.offset()?, fields.offset()?);
        // Bytes can be bad without a record being lost with them, and records be missing without bytes.
        if from > to || first > end || (from == to && first == end) || first < base {
            return Err(SmallFileFault::Field);
        }
        let cause = (from < to).then_some(CorruptionKind::FoundEarlier);
        list.push((base, Hole { bytes: from..to, offsets: first..end, cause }));
    }
    fields.finish(list)
}

fn read<T>(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    kind: SmallFile,
    decode: impl FnOnce(&[u8]) -> Result<T, SmallFileFault>,
) -> Result<Result<Option<T>, Corruption>, IoFailure> {
    let path = dir.join(name);
    match read_small_file(fs, &path, kind) {
        Ok(None) => Ok(Ok(None)),
        Ok(Some(payload)) => Ok(decode(&payload).map(Some).map_err(|fault| {
            let kind = CorruptionKind::SmallFile(fault);
            Corruption { file: path, at: FilePosition::START, kind }
        })),
        Err(SmallFileError::Corrupt(corruption)) => Ok(Err(corruption)),
        Err(SmallFileError::Io(failure)) => Err(failure),
    }
}

/// Removes `name` from `dir`, durably; returns whether it was there.
pub(crate) fn remove_durably(fs: &dyn FileSystem, dir: &Path, name: &str) -> Result<bool, IoFailure> {
    let path = dir.join(name);
    match fs.remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(IoFailure::new(IoOperation::Remove, path, e)),
        Ok(()) => {}
    }
    fs.sync_dir(dir).map_err(|e| IoFailure::new(IoOperation::Sync, dir, e))?;
    Ok(true)
}

/// Keeps the sync state and the recovery point of an open log. Any thread.
#[derive(Debug)]
pub(crate) struct SyncKeeper {
    fs: Arc<dyn FileSystem>,
    dir: Arc<Path>,
    file: Arc<dyn File>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    point: RecoveryPoint,
    durable_end: Offset,
    in_flight: u32,
    failed: bool,
    removed: Vec<Offset>,
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
        let kept = Kept { point, durable_end, in_flight: 0, failed: true, removed };
        let keeper = Self { fs, dir, file, kept: Mutex::new(kept) };
        keeper.make_room(&path)?;
        keeper.write(&keeper.kept.lock())?;
        Ok(keeper)
    }

    /// Gives a new file its size, durably: written in place from then on, it needs no space on a full disk.
    fn make_room(&self, path: &Path) -> Result<(), IoFailure> {
        const ROOM: [u8; 512] = [0; 512];
        let failed = |operation| move |e| IoFailure::new(operation, path, e);
        if self.file.size().map_err(failed(IoOperation::Read))? >= ROOM.len() as u64 {
            return Ok(());
        }
        self.write(&self.kept.lock())?;
        let used = self.file.size().map_err(failed(IoOperation::Read))?;
        let rest = ROOM.get(usize::try_from(used).unwrap_or(ROOM.len())..).unwrap_or_default();
        fs::write_all_at(&*self.file, rest, used).map_err(failed(IoOperation::Write))?;
        self.file.sync_data().map_err(failed(IoOperation::Sync))
    }

    /// To be called before every sync of a file or directory of the log: if the process dies before it is known to
    /// have succeeded, the next one does not believe the page cache.
    pub(crate) fn begin(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.in_flight += 1;
        if kept.in_flight > 1 {
            return Ok(());
        }
        let written = self.write(&kept);
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
        if kept.in_flight == 0 { self.write(&kept) } else { Ok(()) }
    }

    /// The sync failed; nothing succeeds any more until the log is opened again.
    pub(crate) fn fail(&self) {
        let mut kept = self.kept.lock();
        kept.failed = true;
        // In doubt since `begin`; this only adds the newest durable end. If even that fails, the older state says more
        // is in doubt than is.
        let _ = self.write(&kept);
    }

    fn write(&self, kept: &Kept) -> Result<(), IoFailure> {
        let in_doubt = kept.failed || kept.in_flight > 0;
        let state = SyncState {
            generation: kept.point.generation,
            durable_end: kept.durable_end,
            in_doubt,
            removed: kept.removed.clone(),
        };
        fs::write_all_at(&*self.file, &state.encode(), 0)
            .map_err(|e| IoFailure::new(IoOperation::Write, self.dir.join(names::SYNC_STATE), e))
    }

    /// To be called before the names of segments go: until a directory sync succeeds they may come back.
    pub(crate) fn note_removed(&self, bases: impl IntoIterator<Item = Offset>) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let known = kept.removed.len();
        kept.removed.extend(bases);
        if kept.removed.len() == known { Ok(()) } else { self.write(&kept) }
    }

    /// A directory sync succeeded: what was removed stays removed.
    pub(crate) fn forget_removed(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        if kept.removed.is_empty() {
            return Ok(());
        }
        kept.removed.clear();
        self.write(&kept)?;
        // The one case in which an older state must not come back with a power loss: the log goes on past these offsets.
        self.file.sync_data().map_err(|e| IoFailure::new(IoOperation::Sync, self.dir.join(names::SYNC_STATE), e))
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

    /// Generation that ties the state files together.
    pub(crate) fn generation(&self) -> u64 {
        self.kept.lock().point.generation
    }

    /// Raises the durable recovery point, if `to` is past it. Between `begin` and `finish`.
    pub(crate) fn raise_recovery_point(&self, to: Offset) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        if to > kept.point.offset {
            let point = RecoveryPoint { offset: to, ..kept.point };
            point.write(&*self.fs, &self.dir)?;
            kept.point = point;
        }
        Ok(())
    }

    /// Lowers the durable recovery point to at most `to` before a cut, and makes every older sync state void.
    /// With `restart`, the next opening finishes a restart there. Between `begin` and `finish`.
    pub(crate) fn prepare_cut(&self, to: Offset, restart: Option<Offset>) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let offset = kept.point.offset.min(to);
        let point = RecoveryPoint { generation: kept.point.generation + 1, offset, restart };
        point.write(&*self.fs, &self.dir)?;
        kept.point = point;
        kept.durable_end = kept.durable_end.min(to);
        self.write(&kept)
    }

    /// A restart is finished: everything below `at` is durable, since there is nothing.
    pub(crate) fn finish_restart(&self, at: Offset) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let point = RecoveryPoint { generation: kept.point.generation + 1, offset: at, restart: None };
        point.write(&*self.fs, &self.dir)?;
        kept.point = point;
        kept.durable_end = at;
        self.write(&kept)
    }

    /// The last close was clean: nothing is in doubt.
    pub(crate) fn accept(&self) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        kept.failed = false;
        self.write(&kept)
    }

    /// Opening judged everything up to `end` and made it durable. `had_point`: a recovery point file is there.
    pub(crate) fn settle(&self, end: Offset, had_point: bool) -> Result<(), IoFailure> {
        let mut kept = self.kept.lock();
        let point = RecoveryPoint { generation: kept.point.generation + 1, offset: end, restart: None };
        match point.write(&*self.fs, &self.dir) {
            Ok(()) => kept.point = point,
            // A full disk must not keep a log from opening. The older point is lower and as true, and the sync state,
            // which needs no space, says the rest.
            Err(failure) if failure.is_storage_full() && had_point && kept.point.restart.is_none() => {}
            Err(failure) => return Err(failure),
        }
        kept.durable_end = end;
        kept.failed = false;
        self.write(&kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn payloads_round_trip_and_other_lengths_are_refused() {
        let point = RecoveryPoint { generation: 7, offset: at(9), restart: Some(at(3)) };
        let bytes = point.encode();
        let payload = RECOVERY_POINT.decode(&bytes).unwrap();
        assert_eq!(RecoveryPoint::decode(payload), Ok(point));
        assert_eq!(RecoveryPoint::decode(&payload[1..]), Err(SmallFileFault::Length));
        let state = SyncState { generation: 7, durable_end: at(11), in_doubt: true, removed: vec![at(3), at(9)] };
        let bytes = state.encode();
        assert_eq!(SyncState::decode(SYNC_STATE.decode(&bytes).unwrap()), Ok(state));
        let clean = CleanShutdown {
            generation: 7,
            log_end: at(100),
            active_base: at(50),
            active_bytes: 4096,
            newest_epoch: None,
            index_checksum: 7,
        };
        let bytes = clean.encode();
        assert_eq!(CleanShutdown::decode(CLEAN_SHUTDOWN.decode(&bytes).unwrap()), Ok(clean));
    }

    #[test]
    fn impossible_damage_is_refused() {
        let mut payload = 1_u32.to_be_bytes().to_vec();
        for field in [10_i64, 5, 4, 10, 12] {
            payload.extend_from_slice(&field.to_be_bytes());
        }
        assert_eq!(decode_damage(&payload), Err(SmallFileFault::Field));
        assert_eq!(decode_damage(&u32::MAX.to_be_bytes()), Err(SmallFileFault::Length));
    }

    /// Found by fuzzing directories: such a hole was written and then refused, and with it all that was known.
    #[test]
    fn a_hole_may_lie_between_two_offsets() {
        let hole = Hole { bytes: 10..50, offsets: at(5)..at(5), cause: Some(CorruptionKind::FoundEarlier) };
        let list = vec![(at(0), hole)];
        assert_eq!(decode_damage(&encode_damage(&list)), Ok(list));
    }
}
