//! The latest of each key.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use super::error::TableError;
use super::scan::{ScanOptions, Scanned, end_of, scan_records};
use crate::log::PartitionLog;
use crate::units::{Offset, TimestampMs};

/// What a key costs beside its bytes: the entry in the map and what the allocator adds. An estimate on the safe side.
pub(super) const KEY_OVERHEAD_BYTES: u64 = 128;

/// How the latest of each key is found.
///
/// ```
/// use alluvium::table::LatestOptions;
/// let options = LatestOptions { memory_bytes_max: Some(64 << 20), ..LatestOptions::default() };
/// assert!(options.from.is_none());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatestOptions {
    /// Up to which mark, and around damage or not.
    pub scan: ScanOptions,
    /// From which offset on. Default `None`: the log start.
    pub from: Option<Offset>,
    /// Bound on the memory for keys and values, in bytes. Where all of them together need more, the log is gone through
    /// several times, each time for another part of the keys. Default `None`: no bound, once through.
    pub memory_bytes_max: Option<u64>,
}

/// The latest record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latest<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The record's offset.
    pub offset: Offset,
    /// The record's timestamp.
    pub timestamp: TimestampMs,
}

/// What finding the latest of each key came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LatestReport {
    /// The last time through the log: where it ended, how many records it saw, which damage it went around.
    pub scanned: Scanned,
    /// Keys visited, tombstones included.
    pub keys: u64,
    /// Records without a key, which are left out.
    pub keyless: u64,
    /// How often the log was gone through.
    pub passes: u32,
}

struct Held {
    value: Option<Box<[u8]>>,
    offset: Offset,
    timestamp: TimestampMs,
}

/// Visits each key once with its latest value or tombstone. Control records, records of aborted transactions (with
/// [`Isolation::Stable`](crate::Isolation::Stable), the default) and records without key are left out. Keys come in the
/// order of the offsets of their latest records, within each pass where several are needed. The visitor ends it with
/// [`ControlFlow::Break`].
///
/// The end is that of the moment of the call; what is appended meanwhile plays no part. With several passes, what is
/// deleted meanwhile (by compaction of what was superseded after the end, by retention) may be missing.
///
/// Who keeps a map anyway goes record by record with [`scan_records`].
///
/// ```
/// use alluvium::table::{LatestOptions, latest_by_key};
/// use alluvium::{AppendAs, BatchBuilder, LeaderEpoch, LogConfig, PartitionLog, TimestampMs};
/// use std::ops::ControlFlow;
///
/// let dir = tempfile::tempdir()?;
/// let log = PartitionLog::open(dir.path(), LogConfig::default())?;
/// let time = TimestampMs::new(7);
/// let mut builder = BatchBuilder::new();
/// builder.record(time, Some(b"a"), Some(b"1")).record(time, Some(b"b"), Some(b"2")).record(time, Some(b"a"), None);
/// log.append(builder.build()?, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() })?;
/// let mut found = Vec::new();
/// latest_by_key(&log, &LatestOptions::default(), |latest| {
///     found.push((latest.key.to_vec(), latest.value.map(<[u8]>::to_vec)));
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(found, [(b"b".to_vec(), Some(b"2".to_vec())), (b"a".to_vec(), None)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TableError::Read`] as [`scan_records`]; [`TableError::MemoryFull`] when a single record needs more than the bound.
pub fn latest_by_key(
    log: &PartitionLog,
    options: &LatestOptions,
    mut visit: impl FnMut(Latest<'_>) -> ControlFlow<()>,
) -> Result<LatestReport, TableError> {
    let marks = log.marks();
    let from = options.from.unwrap_or(marks.log_start);
    // The end of the moment holds for all passes.
    let scan = ScanOptions { until: Some(end_of(&marks, &options.scan)), ..options.scan };
    let state = RandomState::new();
    let mut report = LatestReport { scanned: Scanned::from(from, from), keys: 0, keyless: 0, passes: 0 };
    let mut next_hash = Some(0);
    while let Some(first) = next_hash {
        let mut pass = Pass::new(&state, first, options.memory_bytes_max);
        report.scanned = pass.scan(log, from, &scan)?;
        report.passes = report.passes.saturating_add(1);
        report.keyless = pass.keyless;
        next_hash = pass.last.checked_add(1);
        if pass.visit(&mut report.keys, &mut visit).is_break() {
            break;
        }
    }
    Ok(report)
}

/// One time through the log, for the keys whose hash lies in `first..=last`. The range is made smaller when the keys in
/// it are too many.
struct Pass<'a> {
    state: &'a RandomState,
    first: u64,
    last: u64,
    bytes: u64,
    bytes_max: u64,
    keyless: u64,
    held: HashMap<Box<[u8]>, Held>,
}

impl<'a> Pass<'a> {
    fn new(state: &'a RandomState, first: u64, bytes_max: Option<u64>) -> Self {
        let bytes_max = bytes_max.unwrap_or(u64::MAX);
        Self { state, first, last: u64::MAX, bytes: 0, bytes_max, keyless: 0, held: HashMap::new() }
    }

    fn scan(&mut self, log: &PartitionLog, from: Offset, options: &ScanOptions) -> Result<Scanned, TableError> {
        let mut full = None;
        let scanned = scan_records(log, from, *options, |found| {
            let record = found.record;
            let Some(key) = record.key else {
                self.keyless += 1;
                return ControlFlow::Continue(());
            };
            if !(self.first..=self.last).contains(&self.state.hash_one(key)) {
                return ControlFlow::Continue(());
            }
            let held = Held { value: record.value.map(Box::from), offset: record.offset, timestamp: record.timestamp };
            self.hold(key, held);
            match self.narrow() {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    full = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        full.map_or(Ok(scanned), Err)
    }

    fn hold(&mut self, key: &[u8], held: Held) {
        self.bytes += value_bytes(&held);
        // Compaction keeps offsets in order, so that the later one is the latest.
        if let Some(known) = self.held.get_mut(key) {
            self.bytes -= value_bytes(known);
            *known = held;
        } else {
            self.bytes += key.len() as u64 + KEY_OVERHEAD_BYTES;
            self.held.insert(key.into(), held);
        }
    }

    /// Lets go of the upper half of the hashes until the rest fits; they get a pass of their own.
    fn narrow(&mut self) -> Result<(), TableError> {
        while self.bytes > self.bytes_max {
            if self.held.len() <= 1 || self.first == self.last {
                return Err(TableError::MemoryFull { bytes: self.bytes, bytes_max: self.bytes_max });
            }
            self.last = self.first + (self.last - self.first) / 2;
            let (state, last, bytes) = (self.state, self.last, &mut self.bytes);
            self.held.retain(|key, held| {
                let stays = state.hash_one(&**key) <= last;
                if !stays {
                    *bytes -= key.len() as u64 + KEY_OVERHEAD_BYTES + value_bytes(held);
                }
                stays
            });
        }
        Ok(())
    }

    fn visit(self, keys: &mut u64, visit: &mut impl FnMut(Latest<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut found: Vec<_> = self.held.into_iter().collect();
        found.sort_unstable_by_key(|(_, held)| held.offset);
        for (key, held) in &found {
            *keys += 1;
            let (offset, timestamp) = (held.offset, held.timestamp);
            visit(Latest { key, value: held.value.as_deref(), offset, timestamp })?;
        }
        ControlFlow::Continue(())
    }
}

fn value_bytes(held: &Held) -> u64 {
    held.value.as_ref().map_or(0, |value| value.len() as u64)
}
