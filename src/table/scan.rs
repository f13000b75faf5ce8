//! Going through a partition record by record.

use std::ops::ControlFlow;

use crate::commit::Marks;
use crate::error::{Corruption, CorruptionKind, Damage, InvalidBatch, ReadError};
use crate::index::AbortedTxn;
use crate::log::{Fetched, FileSlice, Isolation, PartitionLog, ReadOptions};
use crate::record::{BatchHeader, BatchView, Record};
use crate::units::{FilePosition, Offset};

/// So many ranges of damage are listed; those past them are counted.
const DAMAGE_LISTED_MAX: usize = 1000;

/// What a scan does where bytes cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnScanDamage {
    /// Ends with [`ReadError::Damaged`], whose range ends at the next readable offset.
    #[default]
    Stop,
    /// Goes on at the next readable offset, and lists the range in [`Scanned::damage`].
    Skip,
}

/// How a scan goes. Made from an [`Isolation`] where nothing else matters.
///
/// ```
/// use alluvium::table::{OnScanDamage, ScanOptions};
/// use alluvium::Isolation;
/// let options = ScanOptions { on_damage: OnScanDamage::Skip, ..Isolation::Stable.into() };
/// assert_eq!(options.fetch_bytes, 1 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    /// Up to which mark, as it stands when the scan begins. Default [`Isolation::Stable`]: then the records of aborted
    /// transactions are left out. With any other, nothing tells which these are, and all records are visited.
    pub isolation: Isolation,
    /// Not past this offset either. Default `None`.
    pub until: Option<Offset>,
    /// Bytes read at a time; a batch that is larger is read whole. Default 1 MiB.
    pub fetch_bytes: u64,
    /// Largest size of one batch's records, decompressed, in bytes. Default `None`: the log's `max_decompressed_bytes`.
    pub decompressed_bytes_max: Option<u32>,
    /// What to do about damage. Default stop.
    pub on_damage: OnScanDamage,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Isolation::Stable.into()
    }
}

impl From<Isolation> for ScanOptions {
    fn from(isolation: Isolation) -> Self {
        let on_damage = OnScanDamage::Stop;
        Self { isolation, until: None, fetch_bytes: 1 << 20, decompressed_bytes_max: None, on_damage }
    }
}

/// A record that a scan came by.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ScannedRecord<'a> {
    /// The record, borrowed until the visit is over.
    pub record: Record<'a>,
    /// The header of its batch: leader epoch, producer, flags.
    pub batch: &'a BatchHeader,
}

/// How far a scan went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scanned {
    /// Where the scan would go on: everything below was visited or left out.
    pub next: Offset,
    /// The end that was aimed at. `next` lies before it only where the visitor ended the scan.
    pub end: Offset,
    /// Records visited.
    pub records: u64,
    /// Bytes of the batches looked at, as stored.
    pub bytes: u64,
    /// The first 1,000 ranges that could not be read, where damage is skipped.
    pub damage: Vec<Damage>,
    /// How many such ranges there were.
    pub damaged: u64,
}

impl Scanned {
    pub(super) fn from(next: Offset, end: Offset) -> Self {
        Self { next, end, records: 0, bytes: 0, damage: Vec::new(), damaged: 0 }
    }

    fn note(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(damage);
        }
    }
}

/// Visits the records of `log` from `from` on, in offset order, up to the mark that the isolation names. Control records
/// are left out, and with [`Isolation::Stable`] the records of aborted transactions. The checksum of every batch is
/// checked; memory is bounded by one fetch and one decompressed batch. The visitor ends the scan with
/// [`ControlFlow::Break`]; the record that it was given counts as visited.
///
/// ```
/// use alluvium::table::scan_records;
/// use alluvium::{AppendAs, BatchBuilder, Isolation, LeaderEpoch, LogConfig, Offset, PartitionLog, TimestampMs};
/// use std::ops::ControlFlow;
///
/// let dir = tempfile::tempdir()?;
/// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), Some(b"k"), Some(b"v")).build()?;
/// log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() })?;
/// let mut keys = Vec::new();
/// let scanned = scan_records(&log, Offset::ZERO, Isolation::Stable, |found| {
///     keys.push(found.record.key.map(<[u8]>::to_vec));
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!((keys, scanned.next), (vec![Some(b"k".to_vec())], log.log_end()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`ReadError::Damaged`] with the next readable offset, unless damage is skipped; [`ReadError::Corrupt`] in either case
/// where nothing tells the next readable offset; [`ReadError::OutOfRange`] before the log start or past the log end, also
/// when retention or truncation gets there first; I/O; a closed log. What was visited before stays visited.
pub fn scan_records(
    log: &PartitionLog,
    from: Offset,
    options: impl Into<ScanOptions>,
    mut visit: impl FnMut(ScannedRecord<'_>) -> ControlFlow<()>,
) -> Result<Scanned, ReadError> {
    let options = options.into();
    let limit = options.decompressed_bytes_max.unwrap_or_else(|| log.config().max_decompressed_bytes);
    scan_batches(log, from, &options, |batch, aborted, scanned| {
        let header = batch.header();
        if header.attributes.is_control() || is_aborted(header, aborted) {
            return Ok(ControlFlow::Continue(()));
        }
        let (next, end) = (scanned.next, scanned.end);
        visit_batch(batch, limit, |record| {
            if record.offset < next || record.offset >= end {
                return ControlFlow::Continue(());
            }
            scanned.records += 1;
            scanned.next = record.offset.next().unwrap_or(Offset::MAX);
            visit(ScannedRecord { record, batch: header })
        })
    })
}

/// Why a batch could not be read to its end: from this offset on.
pub(super) struct Unreadable {
    pub(super) from: Offset,
    pub(super) cause: InvalidBatch,
}

/// Visits the records of one batch.
pub(super) fn visit_batch(
    batch: &BatchView<'_>,
    decompressed_max: u32,
    mut visit: impl FnMut(Record<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Unreadable> {
    let mut from = batch.header().base_offset;
    let unreadable = |from, cause| Unreadable { from, cause };
    let body = batch.body(decompressed_max).map_err(|cause| unreadable(from, cause))?;
    for record in body.records() {
        let record = record.map_err(|cause| unreadable(from, cause))?;
        from = record.offset.next().unwrap_or(Offset::MAX);
        if visit(record).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Where the mark of the isolation stands.
pub(super) fn end_of(marks: &Marks, options: &ScanOptions) -> Offset {
    let end = match options.isolation {
        Isolation::LogEnd => marks.log_end,
        Isolation::HighWatermark => marks.high_watermark,
        Isolation::Stable => marks.last_stable,
        Isolation::Durable => marks.durable_end,
        Isolation::At(at) => at.min(marks.log_end),
    };
    options.until.map_or(end, |until| until.min(end))
}

fn is_aborted(header: &BatchHeader, aborted: &[AbortedTxn]) -> bool {
    let within = |txn: &AbortedTxn| {
        Some(txn.producer_id) == header.producer_id
            && (txn.first_offset..=txn.last_offset).contains(&header.base_offset)
    };
    header.attributes.is_transactional() && aborted.iter().any(within)
}

/// Visits whole batches whose checksums hold, control batches too. The visitor sees in [`Scanned::next`] the first offset
/// that it has not had; what it leaves there when it breaks stays.
pub(super) fn scan_batches(
    log: &PartitionLog,
    from: Offset,
    options: &ScanOptions,
    mut visit: impl FnMut(&BatchView<'_>, &[AbortedTxn], &mut Scanned) -> Result<ControlFlow<()>, Unreadable>,
) -> Result<Scanned, ReadError> {
    let mut scanned = Scanned::from(from, end_of(&log.marks(), options));
    let how = ReadOptions { max_bytes: options.fetch_bytes, min_one_batch: true, isolation: options.isolation };
    let mut buffer = Vec::new();
    // Asked for even when there is nothing to visit: an offset outside the log is an error.
    let mut is_first = true;
    while is_first || scanned.next < scanned.end {
        is_first = false;
        let (before, fetched) = (scanned.next, log.read(scanned.next, &how));
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(ReadError::Damaged(damage)) => {
                skip(&mut scanned, *damage, options)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let marks = fetched.marks();
        if end_of(&marks, options) < scanned.end {
            // Cut meanwhile: the end that was aimed at is not there any more.
            let (log_start, log_end) = (marks.log_start, marks.log_end);
            return Err(ReadError::OutOfRange { asked: scanned.end, log_start, log_end });
        }
        if fetched.is_empty() {
            break;
        }
        let mut walk = Walk { fetched: &fetched, options, scanned: &mut scanned, met: None };
        let flow = walk.slices(&mut buffer, &mut visit)?;
        let met = walk.met.take();
        if flow.is_break() {
            return Ok(scanned);
        }
        // Further on, a read that begins there says what is wrong and how far it reaches.
        match met.filter(|_| scanned.next == before) {
            Some(corruption) => return Err(corruption.into()),
            None if scanned.next == before => break,
            None => {}
        }
    }
    // What follows the last batch was compacted away.
    scanned.next = scanned.next.max(scanned.end);
    Ok(scanned)
}

fn skip(scanned: &mut Scanned, damage: Damage, options: &ScanOptions) -> Result<(), ReadError> {
    let next = damage.offsets.end;
    if options.on_damage == OnScanDamage::Stop || next <= scanned.next {
        return Err(ReadError::Damaged(Box::new(damage)));
    }
    scanned.next = next;
    scanned.note(damage);
    Ok(())
}

/// One fetch on its way through the visitor.
struct Walk<'a> {
    fetched: &'a Fetched,
    options: &'a ScanOptions,
    scanned: &'a mut Scanned,
    /// Bytes that are no batch where one should be.
    met: Option<Corruption>,
}

type Visit<'v> = dyn FnMut(&BatchView<'_>, &[AbortedTxn], &mut Scanned) -> Result<ControlFlow<()>, Unreadable> + 'v;

impl Walk<'_> {
    fn slices(&mut self, buffer: &mut Vec<u8>, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, ReadError> {
        for slice in self.fetched.slices() {
            buffer.clear();
            slice.read_into(buffer)?;
            let mut at = 0;
            while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
                if self.scanned.next >= self.scanned.end {
                    return Ok(ControlFlow::Continue(()));
                }
                let batch = match self.placed(rest) {
                    Ok(batch) => batch,
                    Err(kind) => {
                        let (file, at) = (slice.path(), position(slice, at));
                        self.met = Some(Corruption { file, at, kind });
                        return Ok(ControlFlow::Continue(()));
                    }
                };
                if self.batch(slice, at, &batch, rest, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                at += batch.bytes().len();
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The first batch of `rest`, if its offsets fit what is before it: no checksum covers them.
    fn placed<'b>(&self, rest: &'b [u8]) -> Result<BatchView<'b>, CorruptionKind> {
        let batch = BatchView::parse(rest, i32::MAX as u32)?;
        let (expected, found) = (self.scanned.next, batch.header().base_offset);
        if batch.header().next_offset() <= expected {
            return Err(CorruptionKind::OffsetOrder { expected, found: found.value() });
        }
        Ok(batch)
    }

    fn batch(
        &mut self,
        slice: &FileSlice,
        at: usize,
        batch: &BatchView<'_>,
        rest: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let header = batch.header();
        if header.base_offset >= self.scanned.end {
            self.scanned.next = self.scanned.end;
            return Ok(ControlFlow::Continue(()));
        }
        self.scanned.bytes += u64::from(header.size);
        let from = self.scanned.next.max(header.base_offset);
        let checked = batch.verify_crc().map_err(|cause| Unreadable { from, cause });
        // The end of a batch that fails its checksum is only its word; what stands behind it knows better.
        let behind = rest.get(batch.bytes().len()..).and_then(|behind| BatchView::parse(behind, i32::MAX as u32).ok());
        let behind = behind.map(|behind| behind.header().base_offset).filter(|behind| *behind > from);
        let visited = checked.and_then(|()| visit(batch, self.fetched.aborted(), self.scanned));
        match visited {
            Ok(ControlFlow::Break(())) => Ok(ControlFlow::Break(())),
            Ok(ControlFlow::Continue(())) => {
                self.scanned.next = self.scanned.next.max(header.next_offset()).min(self.scanned.end);
                Ok(ControlFlow::Continue(()))
            }
            Err(Unreadable { from: lost, cause }) => {
                let to = behind.map_or(header.next_offset(), |behind| behind.min(header.next_offset()));
                let (start, lost) = (position(slice, at).value(), lost.max(self.scanned.next));
                let damage = Damage {
                    file: slice.path(),
                    bytes: start..start + u64::from(header.size),
                    offsets: lost..to.max(lost.next().unwrap_or(Offset::MAX)),
                    cause: Some(cause.into()),
                };
                skip(self.scanned, damage, self.options)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }
}

fn position(slice: &FileSlice, at: usize) -> FilePosition {
    FilePosition::new(slice.position().value() + at as u64)
}
