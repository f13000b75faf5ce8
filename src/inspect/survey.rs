//! What a cleaner would make of a partition, found out by reading its files: no lock, and nothing is changed.
//!
//! ```text
//! survey.rs    the headers of all batches, once: segments, transactions, marks, and the planner's outlook
//! records.rs   the records of a range of offsets, with what became of their transactions
//! verdict.rs   of one record, or of the records of one key: kept or removed, and why
//! estimate.rs  what a pass would read, write and free
//! ```
//! What the files do not say is taken to be as in a log that is opened alone: the high watermark stands where
//! `alluvium.high.watermark` of the settings lets it stand. A log that another process has open may be further.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::walk::{Item, Limits, SegmentWalk};
use super::{InspectError, PartitionFiles, SegmentInfo};
use crate::clean::explain::{Stretch, explain};
use crate::clean::plan::{LogFacts, Outlook, PassFacts, SegmentFacts, judge};
use crate::commit::Marks;
use crate::config::{HighWatermarkMode, LogConfig};
use crate::error::{Damage, IoFailure};
use crate::index::AbortedTxn;
use crate::log::clean_state::CleanFile;
use crate::log::state::RecoveryPoint;
use crate::record::{BatchHeader, BatchView, transaction_marker};
use crate::segment::Home;
use crate::units::{FilePosition, Offset, ProducerId, TimestampMs};

/// What a survey goes by besides the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyOptions {
    /// The settings of the log, of which nothing is stored with it.
    pub config: LogConfig,
    /// The time by which lags and horizons are judged.
    pub now: TimestampMs,
    /// Bounds on what is held in memory at once.
    pub limits: Limits,
}

/// A partition as its cleaner would see it. Of a log that is in use, all was true when it was read.
///
/// ```
/// use alluvium::inspect::{Asked, Limits, PartitionFiles, SurveyOptions};
/// use alluvium::record::BatchBuilder;
/// use alluvium::{AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, Offset, PartitionLog, TimestampMs};
///
/// let dir = tempfile::tempdir().unwrap();
/// let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, segment_bytes: 100, ..LogConfig::default() };
/// let log = PartitionLog::open(dir.path(), config.clone()).unwrap();
/// for value in [b"old", b"new", b"end"] {
///     let batch = BatchBuilder::new().record(TimestampMs::new(7), Some(b"key"), Some(value)).build().unwrap();
///     log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() }).unwrap();
/// }
///
/// let options = SurveyOptions { config, now: TimestampMs::new(9), limits: Limits::default() };
/// let survey = PartitionFiles::open(dir.path()).unwrap().survey(&options).unwrap();
/// assert!(survey.outlook().is_due());
/// let Asked::Record(found) = survey.record(Offset::ZERO).unwrap() else { panic!("it is there") };
/// assert_eq!(found.fate.to_string(), "removed by the next pass: superseded by offset 1");
/// ```
#[derive(Clone, Debug)]
pub struct CleanSurvey {
    pub(super) files: PartitionFiles,
    pub(super) listed: Vec<SegmentInfo>,
    pub(super) options: SurveyOptions,
    pub(super) segments: Vec<SegmentFacts>,
    pub(super) marks: Marks,
    /// By producer, each in the order of the log.
    pub(super) aborted: BTreeMap<ProducerId, Vec<AbortedTxn>>,
    damage: Vec<Damage>,
    outlook: Outlook,
    stretches: Vec<Stretch>,
}

impl PartitionFiles {
    /// Finds out what a cleaner would make of the log. Reads all of it once, and keeps of it what the segments are, and
    /// which transactions were aborted.
    ///
    /// # Errors
    /// [`InspectError`] when a file cannot be read at all. Damage is no error but part of the answer.
    pub fn survey(&self, options: &SurveyOptions) -> Result<CleanSurvey, InspectError> {
        CleanSurvey::of(self, options)
    }
}

impl CleanSurvey {
    /// What the planner says.
    pub fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    /// The log from its start to its end, and why each stretch of it is kept, cleaned or held back.
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// The marks that were assumed.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &[SegmentFacts] {
        &self.segments
    }

    /// What of the sealed segments cannot be read.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    fn of(files: &PartitionFiles, options: &SurveyOptions) -> Result<Self, InspectError> {
        let listed = files.segments()?;
        let stored = Stored::read(&files.home)?;
        let mut scan = HeaderScan::default();
        // Opening does not look at what lies before the segment with the log start.
        let start = stored.log_start.unwrap_or_default();
        let with_start = listed.partition_point(|segment| segment.base <= start).saturating_sub(1);
        for (at, segment) in listed.iter().enumerate() {
            if at == with_start {
                scan.go_on_at(segment.base);
            }
            scan.take(files, segment, options)?;
        }
        scan.go_on_at(start);
        let HeaderScan { segments, open, aborted, damage, end, .. } = scan;
        let first = listed.first().map_or(Offset::ZERO, |segment| segment.base);
        let log_start = stored.log_start.map_or(first, |start| start.max(first));
        let marks = marks(log_start, end.max(log_start), open.values().min().copied(), &stored, &options.config);
        let facts = LogFacts {
            segments: &segments,
            marks,
            first_dirty: stored.first_dirty,
            pass: stored.pass,
            next_horizon: scan.next_horizon,
        };
        let outlook = judge(&facts, &options.config, options.now);
        let stretches = explain(&facts, &outlook);
        let (files, options) = (files.clone(), options.clone());
        Ok(Self { files, listed, options, segments, marks, aborted, damage, outlook, stretches })
    }

    /// The aborted transaction that a batch of this producer, at this offset, belongs to.
    pub(super) fn abort_of(&self, header: &BatchHeader) -> Option<&AbortedTxn> {
        let producer = header.producer_id.filter(|_| header.attributes.is_transactional())?;
        let aborted = self.aborted.get(&producer)?;
        let at = aborted.partition_point(|txn| txn.last_offset < header.base_offset);
        aborted.get(at).filter(|txn| txn.first_offset <= header.base_offset && header.base_offset < txn.last_offset)
    }
}

/// What the state files say of a log, as far as a cleaner asks.
#[derive(Debug, Default)]
struct Stored {
    log_start: Option<Offset>,
    high_watermark: Option<Offset>,
    durable_end: Option<Offset>,
    first_dirty: Option<Offset>,
    pass: Option<PassFacts>,
}

impl Stored {
    fn read(home: &Home) -> Result<Self, IoFailure> {
        let fs = &*home.fs;
        let standing = RecoveryPoint::read(fs, &home.dir)?.ok().flatten().map(|point| point.standing);
        let state = super::StateFiles::read(home)?;
        let clean = CleanFile::read(fs, &home.dir)?.ok().flatten();
        let pass = clean.as_ref().and_then(|clean| clean.pass.as_ref());
        Ok(Self {
            log_start: state.log_start,
            high_watermark: standing.and_then(|standing| standing.high_watermark),
            durable_end: state.durable_end,
            pass: pass.map(|pass| PassFacts { done_to: pass.done_to, upper: pass.upper }),
            first_dirty: clean.map(|clean| clean.first_dirty),
        })
    }
}

fn marks(log_start: Offset, log_end: Offset, first_open: Option<Offset>, stored: &Stored, config: &LogConfig) -> Marks {
    let within = |mark: Offset| mark.clamp(log_start, log_end);
    // Without a state file nobody knows; opening syncs what it finds.
    let durable_end = stored.durable_end.map_or(log_end, within);
    let high_watermark = match config.high_watermark {
        HighWatermarkMode::LogEnd => log_end,
        HighWatermarkMode::DurableEnd => durable_end,
        HighWatermarkMode::Embedder => stored.high_watermark.map_or(log_start, within),
    };
    let last_stable = first_open.map_or(high_watermark, within).min(high_watermark);
    Marks { log_start, last_stable, high_watermark, durable_end, log_end }
}

/// What the headers of all batches tell.
#[derive(Debug, Default)]
struct HeaderScan {
    segments: Vec<SegmentFacts>,
    /// First offset of each open transaction.
    open: BTreeMap<ProducerId, Offset>,
    aborted: BTreeMap<ProducerId, Vec<AbortedTxn>>,
    damage: Vec<Damage>,
    /// The earliest delete horizon below the first damage.
    next_horizon: Option<TimestampMs>,
    end: Offset,
}

impl HeaderScan {
    /// The log goes on at `offset`, at or below its start. Where it broke off below that, opening it forgets what was open.
    fn go_on_at(&mut self, offset: Offset) {
        if self.end < offset {
            self.open.clear();
        }
    }

    fn take(
        &mut self,
        files: &PartitionFiles,
        segment: &SegmentInfo,
        options: &SurveyOptions,
    ) -> Result<(), InspectError> {
        let mut walk = match files.walk(segment) {
            Ok(walk) => walk,
            // It went since the directory was listed.
            Err(failure) if failure.source.kind() == ErrorKind::NotFound => return Ok(()),
            Err(failure) => return Err(failure.into()),
        };
        let mut facts = facts_before(files, segment);
        while let Some(item) = walk.next() {
            match item? {
                Item::Batch { position, header } => {
                    facts.first_timestamp = facts.first_timestamp.or(Some(header.max_timestamp));
                    facts.largest_timestamp = facts.largest_timestamp.max(Some(header.max_timestamp));
                    self.note_horizon(&header);
                    self.note_transaction(&mut walk, position, &header, options)?;
                }
                Item::Bad { bytes, expected, cause, next, .. } => {
                    // The tail of the newest segment is torn, or is being written just now.
                    if let Some(to) = next.or(segment.next_base) {
                        facts.has_holes = true;
                        let (file, cause) = (segment.path.clone(), Some(cause));
                        self.damage.push(Damage { file, bytes, offsets: expected..to.max(expected), cause });
                    }
                }
                Item::Zeros { .. } | Item::OldFormat { .. } => {}
            }
        }
        self.end = walk.next_offset();
        facts.bytes = walk.at().value();
        facts.end = segment.next_base.unwrap_or(self.end);
        self.segments.push(facts);
        Ok(())
    }

    /// Below damage only: past it nothing goes before the damage is repaired.
    fn note_horizon(&mut self, header: &BatchHeader) {
        if let Some(horizon) = header.delete_horizon().filter(|_| self.damage.is_empty()) {
            self.next_horizon = Some(self.next_horizon.map_or(horizon, |known| known.min(horizon)));
        }
    }

    fn note_transaction(
        &mut self,
        walk: &mut SegmentWalk,
        position: FilePosition,
        header: &BatchHeader,
        options: &SurveyOptions,
    ) -> Result<(), InspectError> {
        let Some(producer_id) = header.producer_id.filter(|_| header.attributes.is_transactional()) else {
            return Ok(());
        };
        if !header.attributes.is_control() {
            self.open.entry(producer_id).or_insert(header.base_offset);
            return Ok(());
        }
        let bytes = match walk.read(position, header, options.limits) {
            Ok(bytes) => bytes,
            // Whatever it decided, nobody can tell.
            Err(InspectError::Corrupt(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let marker = BatchView::parse(&bytes, u32::MAX).and_then(|view| transaction_marker(&view));
        let Ok(Some(marker)) = marker else { return Ok(()) };
        let first = self.open.remove(&producer_id);
        if let Some(first_offset) = first.filter(|_| !marker.commit) {
            let last_offset = header.base_offset;
            let txn = AbortedTxn { producer_id, first_offset, last_offset, last_stable_offset: last_offset };
            self.aborted.entry(producer_id).or_default().push(txn);
        }
        Ok(())
    }
}

/// What is known of a segment before it is read.
fn facts_before(files: &PartitionFiles, segment: &SegmentInfo) -> SegmentFacts {
    SegmentFacts {
        base: segment.base,
        end: segment.base,
        bytes: segment.log_bytes,
        index_bytes: 0,
        first_timestamp: None,
        largest_timestamp: None,
        // Where the system does not tell, nothing is known.
        last_written: files.home.fs.metadata(&segment.path).ok().and_then(|found| found.modified),
        is_active: segment.next_base.is_none(),
        has_holes: false,
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
