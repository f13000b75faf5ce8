//! Loading a table: one way through its log, batch by batch, from where the table is.

use std::ops::ControlFlow;

use super::compacted::{CompactedTable, LastBatch};
use super::contents::Update;
use super::scan::{ScanOptions, Scanned, Unreadable, scan_batches, visit_batch};
use crate::error::ReadError;
use crate::log::{Isolation, PartitionLog};
use crate::record::{BatchHeader, BatchView, transaction_marker};
use crate::units::Offset;

/// So many ranges of damage are remembered.
const DAMAGE_LISTED_MAX: usize = 1000;

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Where it began.
    pub start: Offset,
    /// Everything below is loaded.
    pub offset: Offset,
    /// Where the log ended when it began.
    pub end: Offset,
    /// Records so far.
    pub records: u64,
    /// Bytes of batches so far, as stored.
    pub bytes: u64,
}

impl LoadProgress {
    /// The share of offsets that is loaded, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a share to show to people")]
    pub fn fraction(&self) -> f64 {
        match self.end.distance_from(self.start) {
            0 => 1.0,
            all => (self.offset.distance_from(self.start) as f64 / all as f64).min(1.0),
        }
    }
}

/// Why a load ended before the log did.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    Diverged,
    Full { bytes: u64, bytes_max: u64 },
    Asked { end: Offset },
}

/// One way through the log.
pub(super) struct Loading<'p> {
    progress: &'p mut dyn FnMut(&LoadProgress) -> ControlFlow<()>,
    pub(super) shown: LoadProgress,
    /// Bytes at the last look.
    shown_bytes: u64,
    pub(super) stopped_by: Option<Stop>,
    decompressed_max: u32,
}

impl<'p> Loading<'p> {
    pub(super) fn new(table: &CompactedTable, progress: &'p mut dyn FnMut(&LoadProgress) -> ControlFlow<()>) -> Self {
        let (offset, end) = (table.position, table.log.log_end());
        let shown = LoadProgress { start: offset, offset, end, records: 0, bytes: 0 };
        let decompressed_max = table.log.config().max_decompressed_bytes;
        Self { progress, shown, shown_bytes: 0, stopped_by: None, decompressed_max }
    }

    pub(super) fn run(&mut self, table: &mut CompactedTable, log: &PartitionLog) -> Result<(), ReadError> {
        let (fetch_bytes, on_damage) = (table.options.fetch_bytes, table.options.on_damage);
        let options = ScanOptions { fetch_bytes, on_damage, ..Isolation::LogEnd.into() };
        let scanned = scan_batches(log, table.position, &options, |batch, _, scanned| {
            if leaves_the_log(table, batch.header()) {
                return Ok(self.stop(Stop::Diverged));
            }
            if self.take(table, batch, scanned)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let header = batch.header();
            table.position = header.next_offset();
            table.last =
                Some(LastBatch { base: header.base_offset, epoch: header.leader_epoch, crc: Some(header.crc) });
            (self.shown.offset, self.shown.bytes, self.shown.end) = (table.position, scanned.bytes, scanned.end);
            Ok(self.maybe_show(fetch_bytes))
        })?;
        if self.stopped_by.is_none() {
            table.position = table.position.max(scanned.next);
            self.shown.offset = table.position;
            let _ = (self.progress)(&self.shown);
        }
        let room = DAMAGE_LISTED_MAX.saturating_sub(table.damage.len());
        table.damage.extend(scanned.damage.into_iter().take(room));
        Ok(())
    }

    fn take(
        &mut self,
        table: &mut CompactedTable,
        batch: &BatchView<'_>,
        scanned: &mut Scanned,
    ) -> Result<ControlFlow<()>, Unreadable> {
        let header = batch.header();
        if header.attributes.is_control() {
            let unreadable = |cause| Unreadable { from: header.base_offset, cause };
            let marker = transaction_marker(batch).map_err(unreadable)?;
            if let (Some(marker), Some(producer)) = (marker, header.producer_id) {
                table.contents.decide(producer, marker.commit);
            }
            return Ok(ControlFlow::Continue(()));
        }
        let held_for = header.producer_id.filter(|_| header.attributes.is_transactional());
        visit_batch(batch, self.decompressed_max, |record| {
            if record.offset < scanned.next {
                return ControlFlow::Continue(());
            }
            self.shown.records += 1;
            if let Some(key) = record.key {
                let (value, offset, timestamp) = (record.value, record.offset, record.timestamp);
                if let Some(full) = full(table, key, value) {
                    return self.stop(full);
                }
                let update = Update { key, value, offset, timestamp };
                match held_for {
                    Some(producer) => table.contents.hold(producer, update),
                    None => table.contents.apply(update),
                }
            }
            scanned.next = record.offset.next().unwrap_or(Offset::MAX);
            table.position = scanned.next;
            ControlFlow::Continue(())
        })
    }

    fn stop(&mut self, by: Stop) -> ControlFlow<()> {
        self.stopped_by = Some(by);
        ControlFlow::Break(())
    }

    fn maybe_show(&mut self, every: u64) -> ControlFlow<()> {
        if self.shown.bytes - self.shown_bytes < every.max(1) {
            return ControlFlow::Continue(());
        }
        self.shown_bytes = self.shown.bytes;
        match (self.progress)(&self.shown) {
            ControlFlow::Break(()) if self.shown.offset < self.shown.end => {
                self.stop(Stop::Asked { end: self.shown.end })
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// A batch of another leader: whether what was loaded before it is the log's.
fn leaves_the_log(table: &CompactedTable, header: &BatchHeader) -> bool {
    let before = table.last.and_then(|last| last.epoch);
    match before {
        Some(epoch) if header.leader_epoch != Some(epoch) => table.log.divergence(table.position, epoch).is_some(),
        _ => false,
    }
}

/// Whether the record does not fit any more.
fn full(table: &CompactedTable, key: &[u8], value: Option<&[u8]>) -> Option<Stop> {
    let bytes_max = table.options.memory_bytes_max?;
    let bytes = table.contents.weight_with(std::iter::once((key, value)));
    (bytes > bytes_max && bytes > table.contents.memory().total()).then_some(Stop::Full { bytes, bytes_max })
}
