//! One segment: a `.log` file, its indexes, and what is known to be unreadable in it.
//!
//! A [`Segment`] is the shared, read-side object. The log's writer owns the active one's growth; readers see of it what
//! the published view allows. Whoever holds an `Arc<Segment>` pins its bytes: they are never shortened or overwritten
//! in place while another holder exists.

mod aborted;
mod age;
mod clean_beside;
mod clean_read;
mod clean_write;
mod home;
mod integrity;
pub mod names;
mod number;
mod read;
mod residency;
pub(crate) mod scan;
mod slots;
pub mod sum;
mod times;
pub(crate) mod walk;
pub(crate) mod window;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub(crate) use clean_read::{CacheUse, CleanReader, Met};
pub(crate) use clean_write::{CleanWriteError, CleanedSegment, CleanedWriter, FinishAt, WriteLimit, remove_cleaned};
pub(crate) use home::Home;
pub(crate) use integrity::Holes;
pub use names::{FileKind, SegmentFile, Stage};
pub(crate) use read::{Extent, Located, StretchLimits};
pub use residency::{Residency, ResidencyLimits, ResidencyUsage};
pub use scan::Hole;
pub(crate) use walk::{MARKER_BYTES_MAX, Walked};

use crate::config::{LogConfig, ReadMode};
use crate::error::{Corruption, CorruptionKind, Damage, InvalidBatch, IoFailure, IoOperation, ReadError};
use crate::fs::{self, File, Mapping, OpenMode};
use crate::index::{IndexCursor, IndexFault, OffsetIndex, SegmentIndex, TimeIndex, replace_file};
use crate::record::{BatchHeader, TransactionMarker};
use crate::units::{FilePosition, Offset};
use home::Place;
use integrity::{GatheredSlot, KnownHoles};
use number::OnceNumber;
use residency::{FileRoom, Held, MapRoom};
use scan::{Scan, ScanTask};
use slots::Slots;

/// How often a scan says how far it is.
const TELL_BYTES: u64 = 8 << 20;

/// How a segment is indexed and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentOptions {
    /// `index.interval.bytes`.
    pub(crate) interval_bytes: u32,
    /// How sealed segments are read.
    pub(crate) read_mode: ReadMode,
    /// Whether cleaning may have removed records.
    pub(crate) may_have_gaps: bool,
}

impl SegmentOptions {
    /// Those that the log's settings ask for.
    pub(crate) fn of(config: &LogConfig) -> Self {
        Self {
            interval_bytes: config.index_interval_bytes,
            read_mode: config.read_mode,
            may_have_gaps: config.cleanup_policy.compacts(),
        }
    }

    /// The same; with `is_cleaned`, of a log that was compacted, whatever its settings say now.
    pub(crate) fn cleaned(self, is_cleaned: bool) -> Self {
        Self { may_have_gaps: self.may_have_gaps || is_cleaned, ..self }
    }
}

/// One segment, shared between the log and its readers. Small, since a store has a hundred thousand: what is held only
/// while it is read lies in the slots, and what it has in common with others in its place.
#[derive(Debug)]
pub struct Segment {
    base: Offset,
    home: Arc<Place>,
    /// Made when something is first held.
    slots: OnceLock<Arc<Slots>>,
    sealed_bytes: OnceNumber,
    /// Where the next segment begins, once there is one: no batch reaches past it.
    next_base: OnceNumber,
    /// When it was last appended to, once somebody asked.
    written: OnceNumber,
    /// Whether its files are being removed.
    is_leaving: AtomicBool,
    /// Where the bytes end that sockets were given as pages of the file.
    lent_bytes: AtomicU64,
    /// What opening found to be unreadable, or knew, and what was met since: nobody looks at bytes below the recovery
    /// point before.
    holes: KnownHoles,
    /// What the sum will be made of, from sealing until it is written.
    gathered: GatheredSlot,
}

impl Segment {
    /// A segment whose file is open and whose index is in memory: the active one, or one that was just scanned.
    pub(crate) fn loaded(
        home: &Home,
        base: Offset,
        options: SegmentOptions,
        file: Arc<dyn File>,
        index: SegmentIndex,
    ) -> Self {
        Self::loaded_at(home.place(options), base, file, index)
    }

    fn loaded_at(home: Arc<Place>, base: Offset, file: Arc<dyn File>, index: SegmentIndex) -> Self {
        let segment = Self::sealed_at(home, base, Vec::new());
        let slots = segment.slots();
        slots.allow_dropping(false);
        slots.mark_index_saved(false);
        slots.change(|resident| {
            resident.file = Some(file);
            resident.index = Some(Box::new(index));
            resident.aborted = Some(Box::default());
        });
        segment
    }

    /// A sealed segment that is not touched before it is read.
    pub(crate) fn sealed(home: &Home, base: Offset, options: SegmentOptions, holes: Vec<Hole>) -> Self {
        Self::sealed_at(home.place(options), base, holes)
    }

    fn sealed_at(home: Arc<Place>, base: Offset, holes: Vec<Hole>) -> Self {
        Self {
            base,
            home,
            slots: OnceLock::new(),
            sealed_bytes: OnceNumber::default(),
            next_base: OnceNumber::default(),
            written: OnceNumber::default(),
            is_leaving: AtomicBool::new(false),
            lent_bytes: AtomicU64::new(0),
            holes: KnownHoles::new(holes),
            gathered: GatheredSlot::new(None),
        }
    }

    /// The same segment with what is known to be unreadable in it.
    pub(crate) fn with_holes(mut self, holes: Vec<Hole>) -> Self {
        self.holes = KnownHoles::new(holes);
        self
    }

    /// Another object over the same file and index, so that holders of this one can be told apart.
    pub(crate) fn twin(&self, index: SegmentIndex) -> Result<Self, IoFailure> {
        let twin = Self::loaded_at(Arc::clone(&self.home), self.base, self.file()?, index);
        let aborted = self.slots().look(Held::Index).aborted.clone();
        twin.slots().change(|resident| resident.aborted = aborted);
        twin.lend(self.lent_bytes());
        Ok(twin.with_holes(self.holes().to_vec()))
    }

    /// Base offset: no record in it has a smaller one.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Path of its `.log`.
    pub fn log_path(&self) -> PathBuf {
        self.home.path(self.base, FileKind::Log)
    }

    /// What is known to be unreadable.
    pub(crate) fn holes(&self) -> Holes {
        self.holes.list()
    }

    /// Whether records are known to be missing after its last byte.
    pub(crate) fn ends_in_hole(&self) -> bool {
        self.holes().last().is_some_and(|hole| hole.bytes.is_empty())
    }

    /// Fixes the size: nothing is appended to it any more.
    pub(crate) fn seal(&self, bytes: u64) {
        self.sealed_bytes.set(bytes);
    }

    /// Tells each of `segments` where the next one begins. Offsets lie outside the checksums: without a bound a batch
    /// with a damaged one passes for a good one behind a gap.
    pub(crate) fn tell_next(segments: &[Arc<Self>]) {
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            segment.next_base.set(next.base.value().cast_unsigned());
        }
    }

    /// Whether its size is fixed.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed_bytes.get().is_some()
    }

    /// Size in bytes of a sealed segment, if that is known without a look at the disk.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        self.sealed_bytes.get()
    }

    /// Size in bytes of a sealed segment.
    pub(crate) fn bytes(&self) -> Result<u64, IoFailure> {
        if let Some(bytes) = self.sealed_bytes.get() {
            return Ok(bytes);
        }
        let path = self.log_path();
        let bytes = self.file()?.size().map_err(|e| IoFailure::new(IoOperation::Read, path, e))?;
        Ok(self.sealed_bytes.set(bytes))
    }

    fn slots(&self) -> &Arc<Slots> {
        self.slots.get_or_init(|| Slots::new(Arc::clone(&self.home.residency)))
    }

    /// The open `.log`.
    pub(crate) fn file(&self) -> Result<Arc<dyn File>, IoFailure> {
        let slots = self.slots();
        {
            let resident = slots.look(Held::File);
            if let Some(file) = &resident.file {
                return Ok(Arc::clone(file));
            }
        }
        // With nothing locked, so that indexes are looked at meanwhile. Of two that open it at once one was too many.
        let file = self.home.open(&self.log_path(), OpenMode::Read)?;
        if self.is_leaving() {
            // Asked after opening: the name may be that of another file by now. Whoever reads looks at the newer log.
            return Err(IoFailure::new(IoOperation::Open, self.log_path(), io::ErrorKind::NotFound.into()));
        }
        Ok(slots.change(|resident| Arc::clone(resident.file.get_or_insert(file))))
    }

    /// Puts a handle for writing in the place of the open file. From now on what is held stays, until
    /// [`Segment::allow_dropping`].
    pub(crate) fn set_file(&self, file: Arc<dyn File>) {
        self.slots().allow_dropping(false);
        // The other one is closed with nothing locked.
        let _before = self.slots().change(|resident| resident.file.replace(file));
    }

    /// Whether the open file is this very handle.
    pub(crate) fn holds_file(&self, file: &Arc<dyn File>) -> bool {
        let resident = self.slots().look(Held::File);
        resident.file.as_ref().is_some_and(|held| Arc::ptr_eq(held, file))
    }

    /// Closes the file until it is needed again. Only for files without unsynced bytes.
    pub(crate) fn release_file(&self) {
        let _before = self.slots().change(|resident| resident.file.take());
    }

    /// The same, unless somebody has a hand on it too; returns whether it closed one.
    pub(crate) fn release_unheld_file(&self) -> bool {
        let unheld = |file: &mut Arc<dyn File>| Arc::strong_count(file) == 1;
        let before = self.slots().change(|resident| resident.file.take_if(unheld));
        before.is_some()
    }

    /// Every byte is synced and none is written any more: from now on what is held may be dropped for other segments.
    pub(crate) fn allow_dropping(&self) {
        self.slots().allow_dropping(true);
    }

    /// Notes that pages up to byte `end` are about to be given to a socket. It goes on reading them after the call that
    /// gave them, when no slice is left to tell of it.
    pub(crate) fn lend(&self, end: u64) {
        self.lent_bytes.fetch_max(end, Ordering::AcqRel);
    }

    /// Where the bytes end that sockets may still read from the pages of the file.
    pub(crate) fn lent_bytes(&self) -> u64 {
        self.lent_bytes.load(Ordering::Acquire)
    }

    /// The mapped bytes, where the read mode asks for a map and the segment is sealed. `None` too when there is no map to
    /// be had: then the file is read positionally.
    pub(crate) fn mapping(&self) -> Result<Option<Arc<dyn Mapping>>, IoFailure> {
        let Some(bytes) = self.mapped_bytes() else { return Ok(None) };
        let slots = self.slots();
        {
            let resident = slots.look(Held::Map);
            if let Some(mapping) = &resident.mapping {
                return Ok(Some(Arc::clone(mapping)));
            }
        }
        let mapping = self.map(bytes)?;
        let Some(mapping) = mapping else {
            self.home.residency.note_unmapped_read();
            return Ok(None);
        };
        Ok(Some(slots.change(|resident| Arc::clone(resident.mapping.get_or_insert(mapping)))))
    }

    /// How many bytes are to be mapped, where the segment is read by a map.
    fn mapped_bytes(&self) -> Option<u64> {
        let is_mapped = self.home.options.read_mode == ReadMode::Mapped;
        self.sealed_bytes.get().filter(|bytes| is_mapped && *bytes > 0)
    }

    /// A map of its own; `None` when the budget or the system has none.
    fn map(&self, bytes: u64) -> Result<Option<Arc<dyn Mapping>>, IoFailure> {
        let Some(room) = MapRoom::take(&self.home.residency) else { return Ok(None) };
        match room.map(&*self.file()?, bytes) {
            Ok(mapping) => Ok(Some(mapping)),
            // ENOMEM is what mmap(2) says at the limit of maps and of address space, EAGAIN at that of locked memory.
            Err(e) if matches!(e.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock) => Ok(None),
            Err(e) => Err(IoFailure::new(IoOperation::Map, self.log_path(), e)),
        }
    }

    /// Adds what appending brought to the index of the active segment.
    pub(crate) fn extend_index(&self, extend: impl FnOnce(&mut SegmentIndex)) {
        self.slots().change(|resident| extend(resident.index.get_or_insert_default()));
    }

    /// Number of entries in the two indexes, as far as they are in memory.
    pub(crate) fn index_entries(&self) -> (usize, usize) {
        let resident = self.slots().look(Held::Index);
        resident.index.as_ref().map_or((0, 0), |index| (index.offsets.entries().len(), index.times.entries().len()))
    }

    /// CRC-32 over the indexes, as far as they are in memory.
    pub(crate) fn index_checksum(&self) -> u32 {
        let resident = self.slots().look(Held::Index);
        let aborted = resident.aborted.as_ref().map(|aborted| aborted.encode()).unwrap_or_default();
        resident.index.as_ref().map_or(0, |index| index.checksum(&aborted))
    }

    /// A copy of the index, loaded or rebuilt if need be.
    pub(crate) fn index_copy(&self) -> Result<SegmentIndex, ReadError> {
        self.with_index(Clone::clone)
    }

    /// Looks into the index, which is loaded or rebuilt first if need be.
    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&SegmentIndex) -> T) -> Result<T, ReadError> {
        {
            let resident = self.slots().look(Held::Index);
            if let Some(index) = &resident.index {
                return Ok(look(index));
            }
        }
        let loaded = match self.load_index()? {
            Ok(index) => index,
            Err(_) => self.rebuild_index(None)?,
        };
        Ok(self.slots().change(|resident| look(resident.index.get_or_insert_with(|| Box::new(loaded)))))
    }

    /// Reads the index files of a sealed segment; the inner error says why they cannot be used.
    fn load_index(&self) -> Result<Result<SegmentIndex, IndexFault>, ReadError> {
        let offsets = self.read_sidecar(FileKind::Index)?;
        let times = self.read_sidecar(FileKind::TimeIndex)?;
        let (Some(offsets), Some(times)) = (offsets, times) else { return Ok(Err(IndexFault::Missing)) };
        let log_bytes = self.bytes()?;
        let decoded = OffsetIndex::decode(&offsets, log_bytes)
            .and_then(|offsets| Ok(SegmentIndex { offsets, times: TimeIndex::decode(&times)? }));
        let Ok(index) = decoded else { return Ok(decoded) };
        match self.agrees_at_the_end(&index, log_bytes) {
            Ok(true) => Ok(Ok(index)),
            Ok(false) | Err(ReadError::Corrupt(_)) => Ok(Err(IndexFault::Differs)),
            Err(error) => Err(error),
        }
    }

    /// Bytes of an index file; `None` when it is missing or cannot be one of ours.
    pub(crate) fn read_sidecar(&self, kind: FileKind) -> Result<Option<Vec<u8>>, IoFailure> {
        let path = self.home.path(self.base, kind);
        let opened = FileRoom::take(&self.home.residency).open(&*self.home.fs, &path, OpenMode::Read);
        let file = match opened {
            // A directory of that name is no index.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return Ok(None),
            opened => opened.map_err(|e| IoFailure::new(IoOperation::Open, &path, e))?,
        };
        if self.is_leaving() {
            // Asked after opening, as for the log: it may be the file of another one.
            return Ok(None);
        }
        let failed = |e| IoFailure::new(IoOperation::Read, &path, e);
        let len = file.size().map_err(failed)?;
        // No index is larger than positions can count; what claims to be is rebuilt.
        let Some(len) = usize::try_from(len).ok().filter(|len| i32::try_from(*len).is_ok()) else { return Ok(None) };
        let mut bytes = vec![0; len];
        match fs::read_full_at(&*file, &mut bytes, 0) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => return Ok(None),
            read => bytes.truncate(read.map_err(failed)?),
        }
        Ok(Some(bytes))
    }

    /// The segment's files contradict one another: drops the index and looks at every byte of the log, which tells a
    /// lying index from damage.
    pub(crate) fn judge_again(&self, end: Offset) -> Result<(), IoFailure> {
        let index = self.rebuild_index(Some(end))?;
        self.put_index(index);
        Ok(())
    }

    /// Builds the index from the log, and notes what is unreadable there.
    fn rebuild_index(&self, next_base: Option<Offset>) -> Result<SegmentIndex, IoFailure> {
        let scan = self.scan(next_base.or_else(|| self.next_base()), Offset::MAX)?;
        if let Some(next_base) = next_base {
            let mut met = scan.holes;
            if scan.kept_bytes < scan.file_bytes {
                let (bytes, offsets) = (scan.kept_bytes..scan.file_bytes, scan.end..next_base.max(scan.end));
                let cause = match scan.stop {
                    Some(scan::Stop::Bad(cause)) => cause,
                    // Zeros in the place of records.
                    _ => InvalidBatch::Magic { found: 0 }.into(),
                };
                met.push(Hole { bytes, offsets, cause: Some(cause) });
            }
            self.add_holes(met);
        }
        let mut index = scan.index;
        scan.cursor.push_largest(&mut index.times);
        self.mark_index_saved(false);
        Ok(index)
    }

    /// Replaces the index in memory.
    pub(crate) fn put_index(&self, index: SegmentIndex) {
        self.slots().change(|resident| resident.index = Some(Box::new(index)));
    }

    /// Whether the last byte is zero: only then can the file end in zeros that were kept ahead.
    pub(crate) fn ends_in_zero(&self) -> Result<bool, IoFailure> {
        let Some(last) = self.bytes()?.checked_sub(1) else { return Ok(false) };
        let mut byte = [0];
        let read = fs::read_exact_at(&*self.file()?, &mut byte, last);
        read.map_err(|e| IoFailure::new(IoOperation::Read, self.log_path(), e))?;
        Ok(byte == [0])
    }

    /// Walks the whole file. `durable_below`: see [`ScanTask`].
    pub(crate) fn scan(&self, next_base: Option<Offset>, durable_below: Offset) -> Result<Scan, IoFailure> {
        let task = self.scan_task(next_base, durable_below);
        scan::scan(self.file()?, task).map_err(|e| IoFailure::new(IoOperation::Read, self.log_path(), e))
    }

    /// As [`Segment::scan`], and shows `visit` each valid batch with what it decides about a transaction.
    pub(crate) fn scan_each(
        &self,
        next_base: Option<Offset>,
        durable_below: Offset,
        mut visit: impl FnMut(&BatchHeader, Option<TransactionMarker>),
    ) -> Result<Scan, IoFailure> {
        let task = self.scan_task(next_base, durable_below);
        let mut told = 0;
        let scanned = scan::scan_each(self.file()?, task, |position, header, window| {
            visit(header, walk::marker_at(window, position, header)?);
            if position.saturating_sub(told) >= TELL_BYTES {
                self.home.residency.note_scanned(position - told);
                told = position;
            }
            Ok(())
        });
        let scan = scanned.map_err(|e| IoFailure::new(IoOperation::Read, self.log_path(), e))?;
        self.home.residency.note_scanned(scan.file_bytes.saturating_sub(told));
        Ok(scan)
    }

    fn scan_task(&self, next_base: Option<Offset>, durable_below: Offset) -> ScanTask {
        let SegmentOptions { interval_bytes, may_have_gaps, .. } = self.home.options;
        ScanTask { base: self.base, next_base, durable_below, interval_bytes, may_have_gaps }
    }

    /// Adds the entry that closes the time index.
    pub(crate) fn close_time_index(&self, cursor: &IndexCursor) {
        self.extend_index(|index| cursor.push_largest(&mut index.times));
    }

    /// Writes the index files, synced and renamed into place, unless they are there already. The names last once the
    /// directory is synced.
    pub(crate) fn save_index(&self) -> Result<(), IoFailure> {
        if self.is_index_saved() {
            return Ok(());
        }
        self.save_aborted()?;
        let encoded = {
            let resident = self.slots().look(Held::Index);
            resident.index.as_ref().map(|index| (index.offsets.encode(), index.times.encode()))
        };
        if let Some((offsets, times)) = encoded {
            for (kind, bytes) in [(FileKind::Index, offsets), (FileKind::TimeIndex, times)] {
                let name = SegmentFile::live(self.base, kind).name();
                replace_file(&*self.home.fs, &self.home.dir, &name, &bytes)?;
            }
        }
        self.mark_index_saved(true);
        Ok(())
    }

    /// Has the index in memory, from its files or from the log. One that cannot be built is built when it is read.
    pub(crate) fn build_index(&self) -> Result<(), IoFailure> {
        match self.with_index(|_| ()) {
            Err(ReadError::Io(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    /// Whether the index files on disk are those of this segment.
    pub(crate) fn is_index_saved(&self) -> bool {
        self.slots.get().is_none_or(|slots| slots.is_index_saved())
    }

    /// Says whether the index files on disk are current.
    pub(crate) fn mark_index_saved(&self, saved: bool) {
        self.slots().mark_index_saved(saved);
    }

    /// Where the next segment begins, as far as it is known.
    fn next_base(&self) -> Option<Offset> {
        self.next_base.get().and_then(|base| Offset::new(base.cast_signed()))
    }

    fn corrupt(&self, position: u64, kind: impl Into<CorruptionKind>) -> Corruption {
        Corruption { file: self.log_path(), at: FilePosition::new(position), kind: kind.into() }
    }

    /// The report of a hole in this segment.
    pub(crate) fn damage(&self, hole: &Hole) -> Damage {
        Damage {
            file: self.log_path(),
            bytes: hole.bytes.clone(),
            offsets: hole.offsets.clone(),
            cause: hole.cause.clone(),
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // The clock may look at the slots just now, and must not keep a map of a file that is about to be cut.
        if let Some(slots) = self.slots.get() {
            slots.clear();
        }
    }
}
