//! What a partition remembers between processes: recovery point, sync state, clean shutdown, damage. How far it is clean
//! is in a file of its own, see `clean_state`.
//!
//! The recovery point file is durable and replaced atomically. The sync state is written in place and never synced: it
//! survives the death of the process, which is when it matters (a sync that failed leaves a page cache that lies), and
//! after a power loss any version of it that survives was true when it was written. Its generation ties it to the
//! recovery point file, which a truncation replaces before it cuts.
//!
//! ```text
//! alluvium.recovery-point   generation u64, recovery point i64, pending u8 (0 none, 1 restart), restart offset i64,
//!                           log start i64 or -1, high watermark i64 or -1, fencing token given u8, token u64, sealed u8,
//!                           lineage u64, guarded by a canary u8 (these two since version 3; before, 0)
//! alluvium.sync-state       generation u64, durable end i64, in doubt u8, log start i64 or -1, count u32, for each a base
//!                           offset i64: segments whose names went since the last directory sync that succeeded; bytes
//!                           without meaning up to 512 or more
//! alluvium.clean-shutdown   generation u64, log end i64, active base i64, active bytes u64,
//!                           CRC-32 over the active segment's index files u32, CRC-32 over the leader epochs u32,
//!                           log start i64, high watermark i64, last stable offset i64 (these three since version 3)
//! alluvium.damage           count u32, then for each: base i64, bytes from u64, to u64, offsets from i64, to i64; in
//!                           version 2, which is there while a repair changes the length of a log, also the length of
//!                           the log u64 for which the entry holds, all ones for any
//! ```
//! All big-endian, each behind the header of a small checked file. Files of the version before are read, too. The lineage
//! says under which state of the data directory all this was written; see `directory`.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, SmallFileFault};
use crate::fs::FileSystem;
use crate::index::{SmallFile, SmallFileError, read_small_file, replace_small_file};
use crate::segment::{FileKind, Hole, SegmentFile, names};
use crate::units::{FilePosition, Offset};

use super::directory::Lineage;

const RECOVERY_POINT: SmallFile = SmallFile { kind: 1, version: 3, in_place: false };
const SYNC_STATE: SmallFile = SmallFile { kind: 2, version: 2, in_place: true };
const CLEAN_SHUTDOWN: SmallFile = SmallFile { kind: 3, version: 3, in_place: false };
const DAMAGE: SmallFile = SmallFile { kind: 4, version: 1, in_place: false };
const DAMAGE_BY_LENGTH: SmallFile = SmallFile { version: 2, ..DAMAGE };
/// 40 bytes each, 10 MiB: with more of them the file would be larger than any small file that is read. Then each segment
/// has one range, which reaches from its first damage to its last.
const DAMAGE_MAX: usize = 1 << 18;
/// The entry holds whatever the length of the log.
const ANY_LENGTH: u64 = u64::MAX;
/// Of the recovery point and the marker: the version that is read besides the present one.
const BEFORE_LINEAGE: u16 = 2;

/// The durable recovery point, and a restart that was decided and may not be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecoveryPoint {
    /// Rises with each open and each truncation.
    pub(crate) generation: u64,
    /// Everything below it was synced.
    pub(crate) offset: Offset,
    /// All segments are to go and the log is to start here.
    pub(crate) restart: Option<Offset>,
    /// What else must outlive the process.
    pub(crate) standing: Standing,
    /// The lineage of the data directory under which the log was opened.
    pub(crate) lineage: Lineage,
    /// There was a canary in the directory when this was written.
    pub(crate) is_guarded: bool,
}

/// What an embedder decided about a log, and has to find again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Records below it are deleted, whatever the segments still hold; `None` where nobody ever said.
    pub(crate) log_start: Option<Offset>,
    /// As it was when the file was written last: true then, behind since.
    pub(crate) high_watermark: Option<Offset>,
    /// The only token with which appends are taken.
    pub(crate) fencing_token: Option<u64>,
    /// Whether the log is read-only.
    pub(crate) is_sealed: bool,
}

/// What the newest sync round left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncState {
    pub(crate) generation: u64,
    pub(crate) durable_end: Offset,
    /// A sync began and did not succeed: the page cache past the durable end may lie.
    pub(crate) in_doubt: bool,
    /// As in the recovery point, or past it where the disk was too full to replace that file; then it was synced.
    pub(crate) log_start: Option<Offset>,
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
    /// Vouches for the active segment's index files, which appending goes on from unseen.
    pub(crate) index_checksum: u32,
    /// Vouches for the leader epochs, whose file has no checksum of its own.
    pub(crate) epochs_checksum: u32,
    /// The marks that readers saw last; not in files of the version before.
    pub(crate) marks: Option<ClosedMarks>,
}

/// The marks of a log when it was closed, of those that no other state file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClosedMarks {
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) last_stable: Offset,
}

/// Reads fields from a payload, front to back.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those of this payload.
    pub(super) fn of(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SmallFileFault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    /// Bytes behind their number.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], SmallFileFault> {
        let len = usize::try_from(u32::from_be_bytes(self.take()?)).map_err(|_| SmallFileFault::Length)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, SmallFileFault> {
        self.take().map(i64::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, SmallFileFault> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn offset(&mut self) -> Result<Offset, SmallFileFault> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SmallFileFault::Field)
    }

    /// An offset, or -1 for none.
    fn maybe_offset(&mut self) -> Result<Option<Offset>, SmallFileFault> {
        match i64::from_be_bytes(self.take()?) {
            -1 => Ok(None),
            value => Offset::new(value).map(Some).ok_or(SmallFileFault::Field),
        }
    }

    pub(super) fn flag(&mut self) -> Result<bool, SmallFileFault> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(SmallFileFault::Field),
        }
    }

    /// The base offset of a segment, and a hole in it.
    fn hole(&mut self) -> Result<(Offset, Hole), SmallFileFault> {
        let base = self.offset()?;
        let (from, to) = (self.u64()?, self.u64()?);
        let (first, end) = (self.offset()?, self.offset()?);
        // Bytes can be bad without a record being lost with them, and records be missing without bytes.
        if from > to || first > end || (from == to && first == end) || first < base {
            return Err(SmallFileFault::Field);
        }
        let cause = (from < to).then_some(CorruptionKind::FoundEarlier);
        Ok((base, Hole { bytes: from..to, offsets: first..end, cause }))
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, SmallFileFault> {
        if self.0.is_empty() { Ok(value) } else { Err(SmallFileFault::Length) }
    }
}

impl RecoveryPoint {
    fn encode(self) -> Vec<u8> {
        let Standing { log_start, high_watermark, fencing_token, is_sealed } = self.standing;
        let or_none = |offset: Option<Offset>| offset.map_or(-1, Offset::value).to_be_bytes();
        let mut payload = Vec::with_capacity(60);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.offset.value().to_be_bytes());
        payload.push(u8::from(self.restart.is_some()));
        payload.extend_from_slice(&self.restart.unwrap_or_default().value().to_be_bytes());
        payload.extend_from_slice(&or_none(log_start));
        payload.extend_from_slice(&or_none(high_watermark));
        payload.push(u8::from(fencing_token.is_some()));
        payload.extend_from_slice(&fencing_token.unwrap_or_default().to_be_bytes());
        payload.push(u8::from(is_sealed));
        payload.extend_from_slice(&self.lineage.value().to_be_bytes());
        payload.push(u8::from(self.is_guarded));
        RECOVERY_POINT.encode(&payload)
    }

    fn decode(payload: &[u8], version: u16) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, offset) = (fields.u64()?, fields.offset()?);
        let (pending, restart) = (fields.flag()?, fields.offset()?);
        let (log_start, high_watermark) = (fields.maybe_offset()?, fields.maybe_offset()?);
        let (is_fenced, token) = (fields.flag()?, fields.u64()?);
        let fencing_token = is_fenced.then_some(token);
        let standing = Standing { log_start, high_watermark, fencing_token, is_sealed: fields.flag()? };
        let is_older = version == BEFORE_LINEAGE;
        let lineage = if is_older { Lineage::NONE } else { Lineage::new(fields.u64()?) };
        let is_guarded = if is_older { false } else { fields.flag()? };
        fields.finish(Self { generation, offset, restart: pending.then_some(restart), standing, lineage, is_guarded })
    }

    /// Replaces the file; durable when it returns.
    pub(crate) fn write(self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        replace_small_file(fs, dir, names::RECOVERY_POINT, &self.encode())
    }

    /// Reads the file; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read_either(fs, dir, names::RECOVERY_POINT, RECOVERY_POINT, Self::decode)
    }
}

impl SyncState {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(29 + 8 * self.removed.len());
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.durable_end.value().to_be_bytes());
        payload.push(u8::from(self.in_doubt));
        payload.extend_from_slice(&self.log_start.map_or(-1, Offset::value).to_be_bytes());
        payload.extend_from_slice(&u32::try_from(self.removed.len()).unwrap_or(u32::MAX).to_be_bytes());
        for base in &self.removed {
            payload.extend_from_slice(&base.value().to_be_bytes());
        }
        SYNC_STATE.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, durable_end, in_doubt) = (fields.u64()?, fields.offset()?, fields.flag()?);
        let log_start = fields.maybe_offset()?;
        let count = u32::from_be_bytes(fields.take()?);
        let removed = (0..count).map(|_| fields.offset()).collect::<Result<_, _>>()?;
        fields.finish(Self { generation, durable_end, in_doubt, log_start, removed })
    }

    /// Reads the file; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read(fs, dir, names::SYNC_STATE, SYNC_STATE, Self::decode)
    }
}

impl CleanShutdown {
    fn encode(self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(64);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.log_end.value().to_be_bytes());
        payload.extend_from_slice(&self.active_base.value().to_be_bytes());
        payload.extend_from_slice(&self.active_bytes.to_be_bytes());
        payload.extend_from_slice(&self.index_checksum.to_be_bytes());
        payload.extend_from_slice(&self.epochs_checksum.to_be_bytes());
        let Some(ClosedMarks { log_start, high_watermark, last_stable }) = self.marks else {
            return SmallFile { version: BEFORE_LINEAGE, ..CLEAN_SHUTDOWN }.encode(&payload);
        };
        for mark in [log_start, high_watermark, last_stable] {
            payload.extend_from_slice(&mark.value().to_be_bytes());
        }
        CLEAN_SHUTDOWN.encode(&payload)
    }

    fn decode(payload: &[u8], version: u16) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, log_end, active_base) = (fields.u64()?, fields.offset()?, fields.offset()?);
        let active_bytes = fields.u64()?;
        let index_checksum = u32::from_be_bytes(fields.take()?);
        let epochs_checksum = u32::from_be_bytes(fields.take()?);
        let marks = if version == BEFORE_LINEAGE {
            None
        } else {
            let (log_start, high_watermark, last_stable) = (fields.offset()?, fields.offset()?, fields.offset()?);
            Some(ClosedMarks { log_start, high_watermark, last_stable })
        };
        fields.finish(Self { generation, log_end, active_base, active_bytes, index_checksum, epochs_checksum, marks })
    }

    /// Writes the marker; durable when it returns.
    pub(crate) fn write(self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        replace_small_file(fs, dir, names::CLEAN_SHUTDOWN, &self.encode())
    }

    /// Reads the marker; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read_either(fs, dir, names::CLEAN_SHUTDOWN, CLEAN_SHUTDOWN, Self::decode)
    }
}

/// Known damage: for each the base offset of its segment, and the hole.
pub(crate) type DamageList = Vec<(Offset, Hole)>;

/// Writes the list, or removes the file when the list is empty. Durable when it returns.
pub(crate) fn write_damage(fs: &dyn FileSystem, dir: &Path, list: &DamageList) -> Result<(), IoFailure> {
    if list.is_empty() {
        return remove_durably(fs, dir, names::DAMAGE).map(drop);
    }
    replace_small_file(fs, dir, names::DAMAGE, &DAMAGE.encode(&encode_damage(&bounded(list))))
}

/// A log that is about to get another length, and what is unreadable in it before and after.
pub(crate) struct DamageChange<'a> {
    pub(crate) base: Offset,
    pub(crate) before: (u64, &'a [Hole]),
    pub(crate) after: (u64, &'a [Hole]),
}

/// Writes `others`, which are about other segments, and what holds for a log of either length. Durable when it returns.
/// Which of the two it is shows the length of the file, so that a list never names the wrong bytes, whenever a crash
/// comes.
pub(crate) fn write_damage_by_length(
    fs: &dyn FileSystem,
    dir: &Path,
    others: &DamageList,
    change: &DamageChange<'_>,
) -> Result<(), IoFailure> {
    let of =
        |(len, holes): (u64, &[Hole])| holes.iter().map(|hole| (change.base, hole.clone(), len)).collect::<Vec<_>>();
    let others = bounded(others).into_owned().into_iter().map(|(base, hole)| (base, hole, ANY_LENGTH));
    let entries: Vec<_> = others.chain(of(change.before)).chain(of(change.after)).collect();
    let mut payload = Vec::with_capacity(4 + 48 * entries.len());
    payload.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (base, hole, len) in &entries {
        encode_hole(*base, hole, &mut payload);
        payload.extend_from_slice(&len.to_be_bytes());
    }
    replace_small_file(fs, dir, names::DAMAGE, &DAMAGE_BY_LENGTH.encode(&payload))
}

/// The list, coarser where it would be too long.
fn bounded(list: &DamageList) -> Cow<'_, DamageList> {
    if list.len() <= DAMAGE_MAX {
        return Cow::Borrowed(list);
    }
    let mut coarse = DamageList::new();
    for (base, hole) in list {
        match coarse.last_mut() {
            Some((at, whole)) if at == base => {
                whole.bytes.end = whole.bytes.end.max(hole.bytes.end);
                whole.offsets.end = whole.offsets.end.max(hole.offsets.end);
                whole.cause = whole.cause.take().or_else(|| hole.cause.clone());
            }
            _ => coarse.push((*base, hole.clone())),
        }
    }
    coarse.truncate(DAMAGE_MAX);
    Cow::Owned(coarse)
}

fn encode_damage(list: &DamageList) -> Vec<u8> {
    let mut payload = Vec::with_capacity(4 + 40 * list.len());
    payload.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (base, hole) in list {
        encode_hole(*base, hole, &mut payload);
    }
    payload
}

fn encode_hole(base: Offset, hole: &Hole, payload: &mut Vec<u8>) {
    payload.extend_from_slice(&base.value().to_be_bytes());
    payload.extend_from_slice(&hole.bytes.start.to_be_bytes());
    payload.extend_from_slice(&hole.bytes.end.to_be_bytes());
    payload.extend_from_slice(&hole.offsets.start.value().to_be_bytes());
    payload.extend_from_slice(&hole.offsets.end.value().to_be_bytes());
}

/// Reads the list; empty without a file. The inner error is for bytes that are wrong.
pub(crate) fn read_damage(fs: &dyn FileSystem, dir: &Path) -> Result<Result<DamageList, Corruption>, IoFailure> {
    let list = read(fs, dir, names::DAMAGE, DAMAGE, decode_damage)?;
    let is_by_length = |corruption: &Corruption| {
        corruption.kind == CorruptionKind::SmallFile(SmallFileFault::Version(DAMAGE_BY_LENGTH.version))
    };
    if !list.as_ref().is_err_and(is_by_length) {
        return Ok(list.map(Option::unwrap_or_default));
    }
    match read(fs, dir, names::DAMAGE, DAMAGE_BY_LENGTH, decode_damage_by_length)? {
        Ok(entries) => holding(fs, dir, entries.unwrap_or_default()).map(Ok),
        Err(corruption) => Ok(Err(corruption)),
    }
}

/// The entries that hold for the logs as long as they are.
fn holding(fs: &dyn FileSystem, dir: &Path, entries: Vec<(Offset, Hole, u64)>) -> Result<DamageList, IoFailure> {
    let mut list = DamageList::new();
    for (base, hole, len) in entries {
        let path = dir.join(SegmentFile::live(base, FileKind::Log).name());
        let is_as_long = || match fs.metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            found => found.map(|found| found.len == len).map_err(|e| IoFailure::new(IoOperation::List, &path, e)),
        };
        if len == ANY_LENGTH || is_as_long()? {
            list.push((base, hole));
        }
    }
    Ok(list)
}

fn decode_damage(payload: &[u8]) -> Result<DamageList, SmallFileFault> {
    let mut fields = Fields(payload);
    let count = u32::from_be_bytes(fields.take()?);
    let mut list = DamageList::new();
    for _ in 0..count {
        list.push(fields.hole()?);
    }
    fields.finish(list)
}

fn decode_damage_by_length(payload: &[u8]) -> Result<Vec<(Offset, Hole, u64)>, SmallFileFault> {
    let mut fields = Fields(payload);
    let count = u32::from_be_bytes(fields.take()?);
    let mut list = Vec::new();
    for _ in 0..count {
        let (base, hole) = fields.hole()?;
        list.push((base, hole, fields.u64()?));
    }
    fields.finish(list)
}

/// Reads a file of the present version, or of the one before.
fn read_either<T>(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    kind: SmallFile,
    decode: impl Fn(&[u8], u16) -> Result<T, SmallFileFault>,
) -> Result<Result<Option<T>, Corruption>, IoFailure> {
    let found = read(fs, dir, name, kind, |payload| decode(payload, kind.version))?;
    let is_older =
        |corruption: &Corruption| corruption.kind == CorruptionKind::SmallFile(SmallFileFault::Version(BEFORE_LINEAGE));
    if !found.as_ref().is_err_and(is_older) {
        return Ok(found);
    }
    let older = SmallFile { version: BEFORE_LINEAGE, ..kind };
    read(fs, dir, name, older, |payload| decode(payload, BEFORE_LINEAGE))
}

pub(super) fn read<T>(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn payloads_round_trip_and_other_lengths_are_refused() {
        let standing =
            Standing { log_start: Some(at(2)), high_watermark: None, fencing_token: Some(u64::MAX), is_sealed: true };
        let lineage = Lineage::new(0x0102_0304_0506_0708);
        let restart = Some(at(3));
        let point = RecoveryPoint { generation: 7, offset: at(9), restart, standing, lineage, is_guarded: true };
        let bytes = point.encode();
        let payload = RECOVERY_POINT.decode(&bytes).unwrap();
        assert_eq!(RecoveryPoint::decode(payload, 3), Ok(point));
        for shorter in 0..payload.len() {
            assert_eq!(RecoveryPoint::decode(&payload[..shorter], 3), Err(SmallFileFault::Length), "{shorter} bytes");
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(RecoveryPoint::decode(&longer, 3), Err(SmallFileFault::Length));
        let state = SyncState {
            generation: 7,
            durable_end: at(11),
            in_doubt: true,
            log_start: Some(at(5)),
            removed: vec![at(3), at(9)],
        };
        let bytes = state.encode();
        assert_eq!(SyncState::decode(SYNC_STATE.decode(&bytes).unwrap()), Ok(state));
        let clean = CleanShutdown {
            generation: 7,
            log_end: at(100),
            active_base: at(50),
            active_bytes: 4096,
            index_checksum: 7,
            epochs_checksum: 8,
            marks: Some(ClosedMarks { log_start: at(1), high_watermark: at(90), last_stable: at(80) }),
        };
        let bytes = clean.encode();
        assert_eq!(CleanShutdown::decode(CLEAN_SHUTDOWN.decode(&bytes).unwrap(), 3), Ok(clean));
    }

    #[test]
    fn files_of_the_version_before_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (fs, dir) = (&crate::fs::OsFileSystem, dir.path());
        let standing = Standing { log_start: Some(at(2)), ..Standing::default() };
        let (restart, lineage) = (None, Lineage::NONE);
        let point = RecoveryPoint { generation: 7, offset: at(9), restart, standing, lineage, is_guarded: false };
        let bytes = point.encode();
        let payload = RECOVERY_POINT.decode(&bytes).unwrap();
        let older = SmallFile { version: 2, ..RECOVERY_POINT }.encode(&payload[..51]);
        replace_small_file(fs, dir, names::RECOVERY_POINT, &older).unwrap();
        assert_eq!(RecoveryPoint::read(fs, dir).unwrap().unwrap(), Some(point));
        let clean = CleanShutdown {
            generation: 7,
            log_end: at(9),
            active_base: at(5),
            active_bytes: 4096,
            index_checksum: 7,
            epochs_checksum: 8,
            marks: None,
        };
        clean.write(fs, dir).unwrap();
        assert_eq!(CleanShutdown::read(fs, dir).unwrap().unwrap(), Some(clean));
        let unknown = SmallFile { version: 4, ..RECOVERY_POINT }.encode(payload);
        replace_small_file(fs, dir, names::RECOVERY_POINT, &unknown).unwrap();
        let refused = RecoveryPoint::read(fs, dir).unwrap().unwrap_err();
        assert_eq!(refused.kind, CorruptionKind::SmallFile(SmallFileFault::Version(4)));
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
