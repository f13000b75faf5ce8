//! What a partition opened alone remembers between processes: recovery point, sync state, clean shutdown, damage.
//!
//! The recovery point file is durable and replaced atomically. The sync state is written in place and never synced: it
//! survives the death of the process, which is when it matters (a sync that failed leaves a page cache that lies), and
//! after a power loss any version of it that survives was true when it was written. Its generation ties it to the
//! recovery point file, which a truncation replaces before it cuts.
//!
//! ```text
//! alluvium.recovery-point   generation u64, recovery point i64, pending u8 (0 none, 1 restart), restart offset i64,
//!                           log start i64 or -1, high watermark i64 or -1, fencing token given u8, token u64, sealed u8
//! alluvium.sync-state       generation u64, durable end i64, in doubt u8, log start i64 or -1, count u32, for each a base
//!                           offset i64: segments whose names went since the last directory sync that succeeded; bytes
//!                           without meaning up to 512 or more
//! alluvium.clean-shutdown   generation u64, log end i64, active base i64, active bytes u64,
//!                           CRC-32 over the active segment's index files u32, CRC-32 over the leader epochs u32
//! alluvium.damage           count u32, then for each: base i64, bytes from u64, to u64, offsets from i64, to i64; in
//!                           version 2, which is there while a repair changes the length of a log, also the length of
//!                           the log u64 for which the entry holds, all ones for any
//! ```
//! All big-endian, each behind the header of a small checked file.

use std::borrow::Cow;
use std::path::Path;

use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, SmallFileFault};
use crate::fs::FileSystem;
use crate::index::{SmallFile, SmallFileError, read_small_file, replace_small_file};
use crate::segment::{FileKind, Hole, SegmentFile, names};
use crate::units::{FilePosition, Offset};

const RECOVERY_POINT: SmallFile = SmallFile { kind: 1, version: 2, in_place: false };
const SYNC_STATE: SmallFile = SmallFile { kind: 2, version: 2, in_place: true };
const CLEAN_SHUTDOWN: SmallFile = SmallFile { kind: 3, version: 2, in_place: false };
const DAMAGE: SmallFile = SmallFile { kind: 4, version: 1, in_place: false };
const DAMAGE_BY_LENGTH: SmallFile = SmallFile { version: 2, ..DAMAGE };
/// 40 bytes each, 10 MiB: with more of them the file would be larger than any small file that is read. Then each segment
/// has one range, which reaches from its first damage to its last.
const DAMAGE_MAX: usize = 1 << 18;
/// The entry holds whatever the length of the log.
const ANY_LENGTH: u64 = u64::MAX;

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

    /// An offset, or -1 for none.
    fn maybe_offset(&mut self) -> Result<Option<Offset>, SmallFileFault> {
        match i64::from_be_bytes(self.take()?) {
            -1 => Ok(None),
            value => Offset::new(value).map(Some).ok_or(SmallFileFault::Field),
        }
    }

    fn flag(&mut self) -> Result<bool, SmallFileFault> {
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

    fn finish<T>(self, value: T) -> Result<T, SmallFileFault> {
        if self.0.is_empty() { Ok(value) } else { Err(SmallFileFault::Length) }
    }
}

impl RecoveryPoint {
    fn encode(self) -> Vec<u8> {
        let Standing { log_start, high_watermark, fencing_token, is_sealed } = self.standing;
        let or_none = |offset: Option<Offset>| offset.map_or(-1, Offset::value).to_be_bytes();
        let mut payload = Vec::with_capacity(51);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.offset.value().to_be_bytes());
        payload.push(u8::from(self.restart.is_some()));
        payload.extend_from_slice(&self.restart.unwrap_or_default().value().to_be_bytes());
        payload.extend_from_slice(&or_none(log_start));
        payload.extend_from_slice(&or_none(high_watermark));
        payload.push(u8::from(fencing_token.is_some()));
        payload.extend_from_slice(&fencing_token.unwrap_or_default().to_be_bytes());
        payload.push(u8::from(is_sealed));
        RECOVERY_POINT.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, offset) = (fields.u64()?, fields.offset()?);
        let (pending, restart) = (fields.flag()?, fields.offset()?);
        let (log_start, high_watermark) = (fields.maybe_offset()?, fields.maybe_offset()?);
        let (is_fenced, token) = (fields.flag()?, fields.u64()?);
        let fencing_token = is_fenced.then_some(token);
        let standing = Standing { log_start, high_watermark, fencing_token, is_sealed: fields.flag()? };
        fields.finish(Self { generation, offset, restart: pending.then_some(restart), standing })
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
        let mut payload = Vec::with_capacity(40);
        payload.extend_from_slice(&self.generation.to_be_bytes());
        payload.extend_from_slice(&self.log_end.value().to_be_bytes());
        payload.extend_from_slice(&self.active_base.value().to_be_bytes());
        payload.extend_from_slice(&self.active_bytes.to_be_bytes());
        payload.extend_from_slice(&self.index_checksum.to_be_bytes());
        payload.extend_from_slice(&self.epochs_checksum.to_be_bytes());
        CLEAN_SHUTDOWN.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields(payload);
        let (generation, log_end, active_base) = (fields.u64()?, fields.offset()?, fields.offset()?);
        let active_bytes = fields.u64()?;
        let index_checksum = u32::from_be_bytes(fields.take()?);
        let epochs_checksum = u32::from_be_bytes(fields.take()?);
        fields.finish(Self { generation, log_end, active_base, active_bytes, index_checksum, epochs_checksum })
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
        let point = RecoveryPoint { generation: 7, offset: at(9), restart: Some(at(3)), standing };
        let bytes = point.encode();
        let payload = RECOVERY_POINT.decode(&bytes).unwrap();
        assert_eq!(RecoveryPoint::decode(payload), Ok(point));
        for shorter in 0..payload.len() {
            assert_eq!(RecoveryPoint::decode(&payload[..shorter]), Err(SmallFileFault::Length), "{shorter} bytes");
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(RecoveryPoint::decode(&longer), Err(SmallFileFault::Length));
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
