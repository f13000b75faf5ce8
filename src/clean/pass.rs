//! One pass over one log: a state machine that is driven a bounded step at a time.
//!
//! ```text
//! Securing ─► Learning in a map ─► Rewriting, group by group ─► Finished
//!               │ full               ▲   │ a batch is damaged: its segment is left alone, keys are learned again
//!               ├─► Spilling ─► Resolving │
//!               │     │ no space          │
//!               └─────┴─► a partial pass: up to where the map was full
//! ```
//! What is finished stays: each group is put in place as it is done, lower offsets first, and how far the pass is goes to
//! disk with it. A pass that ends in between, by a crash, an error, or since it is dropped, is gone on with by the next
//! one, with the same bounds and the same time: keys are learned again, finished groups are not written again.
//!
//! There is no thread, no sleep and no clock but the log's. Whatever happens, a pass that says it is finished has raised
//! the first dirty offset, or nothing was dirty.

use std::ops::Range;
use std::sync::Arc;

use super::bounds::{Bounds, Source};
use super::cleaned::{CleanMode, Cleaned, LeftAlone};
use super::error::CleanError;
use super::facts::segment_facts;
use super::figures::Figures;
use super::filter::{BatchFilter, FilterRules};
use super::group::{GroupLimits, groups};
use super::key_hash::KeyHasher;
use super::learning::{Finishing, Learning, LearningCounts, Verdicts};
use super::options::CleanOptions;
use super::producers::ActiveProducers;
use super::rewrite::{Rewrite, RewriteCounts, RewriteTask, Rewritten};
use super::scan::{KeyScan, ScanTask, Scanned};
use super::spill::SpillFiles;
use super::transactions::CleanedTransactions;
use crate::config::HighWatermarkMode;
use crate::error::IoFailure;
use crate::log::{CleanSegment, CleanState, CleaningClaim, PartitionLog, PassProgress, PutCleanError};
use crate::segment::CacheUse;
use crate::units::Offset;

/// Bytes that a spilled record takes: what is stored of its hash, and its offset.
const SPILLED_RECORD_BYTES: u64 = 24;

/// What came of beginning a pass.
#[derive(Debug)]
pub(crate) enum Begun {
    /// There is something to clean.
    Pass(Box<Pass>),
    /// There is not; the figures are those of no pass.
    Nothing(Cleaned),
}

/// What one step did.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassStep {
    /// Bytes read, of segments and spill files.
    pub(crate) bytes_read: u64,
    /// Bytes written, to new segments and spill files.
    pub(crate) bytes_written: u64,
    /// The figures, when the pass is done. It is not stepped again.
    pub(crate) finished: Option<Cleaned>,
}

/// What a pass is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Making what it relies on durable.
    Securing,
    /// Reading keys.
    Learning,
    /// Sorting out spilled keys.
    Resolving,
    /// Writing segments anew and putting them in place.
    Rewriting,
    /// All done.
    Finished,
}

/// How far a pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What it is doing.
    pub(crate) phase: Phase,
    /// How it learns.
    pub(crate) mode: CleanMode,
    /// The dirty range that it cleans.
    pub(crate) dirty: Range<Offset>,
    /// Bytes that were read and written so far.
    pub(crate) bytes_done: u64,
    /// Bytes that will have been when it is done, as far as is known.
    pub(crate) bytes_total: u64,
    /// Bytes of the old segments that are freed so far.
    pub(crate) bytes_freed: u64,
}

/// One pass over one log. Dropping it removes what it has written aside; what is swapped stays.
#[derive(Debug)]
pub(crate) struct Pass {
    // First: what it has aside goes while the log is still claimed.
    state: State,
    log: PartitionLog,
    options: CleanOptions,
    bounds: Bounds,
    source: Source,
    /// As the last scan has left them.
    producers: ActiveProducers,
    hasher: KeyHasher,
    mode: CleanMode,
    figures: Figures,
    clean_state: CleanState,
    /// The lowest offset of what was not read, for the next pass.
    unread: Option<Offset>,
    _claim: CleaningClaim,
}

/// What a pass is doing, and what it does it with.
#[derive(Debug)]
enum State {
    Securing,
    Learning(Box<(KeyScan, Learning)>),
    Spilling(Box<(KeyScan, Learning)>),
    Resolving(Box<Finishing>),
    Rewriting(Box<Rewrite>),
    Finished,
    /// An error ended it.
    Ended,
}

/// Where the high watermark follows the durable end, what is sealed has to be durable before it may be cleaned, and so have
/// the markers that decide transactions in it. Nobody else may ever ask for that.
fn make_readable(log: &PartitionLog) -> Result<(), CleanError> {
    let config = log.config();
    if config.cleanup_policy.compacts() && config.high_watermark == HighWatermarkMode::DurableEnd {
        let active_base = log.cleanable()?.active_base;
        log.secure(active_base)?;
        let marks = log.cleanable()?.marks;
        if marks.last_stable < active_base && marks.durable_end < marks.log_end {
            log.secure(marks.log_end)?;
        }
    }
    Ok(())
}

impl Pass {
    /// Begins a pass, or goes on with the one that was interrupted.
    ///
    /// # Errors
    /// [`CleanError`]; nothing is changed.
    pub(crate) fn begin(log: &PartitionLog, options: &CleanOptions) -> Result<Begun, CleanError> {
        Self::plan(log, options).map_err(|error| error.seen_in(log))
    }

    fn plan(log: &PartitionLog, options: &CleanOptions) -> Result<Begun, CleanError> {
        options.memory()?;
        let claim = log.claim_cleaning().ok_or(CleanError::Busy)?;
        make_readable(log)?;
        let view = log.cleanable()?;
        if !view.config.cleanup_policy.compacts() {
            return Err(CleanError::NotCompacted);
        }
        let now = log.clock().wall();
        let facts = segment_facts(&view, now)?;
        let bounds = Bounds::of(&view, &facts, options, now);
        let has_dirty = bounds.first_dirty < bounds.upper;
        let is_anything = view.segments.iter().any(|segment| segment.base < bounds.upper);
        // A high watermark that fell back with a restart, for one: no pass ends below where the last one did.
        let is_below_clean = bounds.upper < bounds.first_dirty;
        if !is_anything || is_below_clean || !has_dirty && !options.cleans_clean && !bounds.resumed {
            return Ok(Begun::Nothing(Cleaned {
                from: bounds.from,
                first_dirty: bounds.first_dirty,
                upper: bounds.first_dirty,
                ..Cleaned::default()
            }));
        }
        let figures = Figures::from(log.clock().monotonic());
        Ok(Begun::Pass(Box::new(Self {
            state: State::Securing,
            log: log.clone(),
            options: options.clone(),
            clean_state: view.state.clone(),
            // What it met below, only its state tells.
            unread: if bounds.resumed { bounds.unread } else { None },
            bounds,
            source: Source::of(view, facts),
            producers: ActiveProducers::default(),
            hasher: KeyHasher::random(),
            mode: CleanMode::Map,
            figures,
            _claim: claim,
        })))
    }

    /// Goes on for about `bytes_max` bytes of reading and writing.
    ///
    /// # Errors
    /// [`CleanError`]; the pass is to be dropped, and another one goes on behind the groups that are finished.
    pub(crate) fn step(&mut self, bytes_max: u64) -> Result<PassStep, CleanError> {
        let (read, written) = self.moved();
        // An error leaves it ended, and drops what it had aside.
        let state = std::mem::replace(&mut self.state, State::Ended);
        self.state = match state {
            State::Securing => self.secure(),
            State::Learning(work) => self.learn(work, bytes_max),
            State::Spilling(work) => self.spill(work, bytes_max),
            State::Resolving(work) => self.resolve(work, bytes_max),
            State::Rewriting(work) => self.rewrite(work, bytes_max),
            State::Finished => Ok(State::Finished),
            State::Ended => Err(CleanError::Changed),
        }
        .map_err(|error| error.seen_in(&self.log))?;
        let finished = if matches!(self.state, State::Finished) { Some(self.cleaned()) } else { None };
        let (read_now, written_now) = self.moved();
        Ok(PassStep {
            bytes_read: read_now.saturating_sub(read),
            bytes_written: written_now.saturating_sub(written),
            finished,
        })
    }

    fn secure(&mut self) -> Result<State, CleanError> {
        // Segments are replaced as a whole.
        let end = self.source.end_of(self.bounds.upper);
        if self.log.secure(end)? < end {
            return Err(CleanError::Changed);
        }
        // A marker further up may have decided what lies below. Were it lost with the power, what its transaction
        // superseded would be gone, and the transaction could be aborted.
        let decided_by = self.source.view.marks.high_watermark.min(self.log.log_end());
        if self.log.durable_end() < decided_by {
            self.log.secure(decided_by)?;
        }
        self.begin_learning()
    }

    /// Keys of the dirty range, in memory.
    fn begin_learning(&mut self) -> Result<State, CleanError> {
        let learned = self.bounds.learned();
        let learning = Learning::in_map(self.hasher, self.options.map_memory()?, learned.clone());
        Ok(State::Learning(Box::new((self.scan(learned)?, learning))))
    }

    fn scan(&self, range: Range<Offset>) -> Result<KeyScan, CleanError> {
        let producers = ActiveProducers::new(&self.source.view.producers, range.start);
        let task = ScanTask {
            log: self.log.clone(),
            segments: Arc::clone(&self.source.segments),
            range,
            window_bytes: self.options.memory()?.buffer_bytes() / 8 * 7,
            decompressed_bytes_max: self.source.view.config.max_decompressed_bytes,
            // The rewrite reads them again.
            cache: CacheUse::Keep,
        };
        Ok(KeyScan::new(task, producers))
    }

    fn learn(&mut self, mut work: Box<(KeyScan, Learning)>, bytes_max: u64) -> Result<State, CleanError> {
        let scanned = {
            let (scan, learning) = &mut *work;
            scan.step(learning, bytes_max)?
        };
        self.note_learning(&work.0, work.1.counts());
        if scanned == Scanned::Going {
            return Ok(State::Learning(work));
        }
        self.end_scan(&mut work.0);
        if scanned == Scanned::Misled {
            drop(work);
            return self.look_again();
        }
        let (scan, learning) = *work;
        let Some(full_at) = learning.full_at() else { return Ok(State::Resolving(Box::new(learning.finish()))) };
        let is_first = self.figures.full_at.replace(full_at).is_none();
        if is_first && self.has_room_to_spill(&scan, learning.counts()) {
            drop(learning);
            return self.begin_spilling();
        }
        if self.learns_no_more_than_dirty() {
            drop(learning);
            self.figures.end_learning();
            return self.begin_learning();
        }
        self.cut_short(full_at)?;
        Ok(State::Resolving(Box::new(learning.finish())))
    }

    /// Where there is no room for keys of the clean part, does without them: then tombstones of that part have to stay.
    /// Returns whether that changes anything.
    fn learns_no_more_than_dirty(&mut self) -> bool {
        let unread = self.bounds.unread.take_if(|unread| *unread < self.bounds.first_dirty);
        self.source.note_unreadable(unread);
        self.unread = [self.unread, unread].into_iter().flatten().min();
        unread.is_some()
    }

    /// The pass ends where the map was full, or where it has come before.
    fn cut_short(&mut self, full_at: Offset) -> Result<(), CleanError> {
        self.mode = CleanMode::Partial;
        // A pass that was interrupted may have had more memory: what it has done is clean up to its end.
        let upper = full_at.max(self.bounds.done_to);
        if upper > full_at {
            self.producers.forget_met();
        }
        if upper <= self.bounds.first_dirty {
            return Err(CleanError::Stuck { at: self.bounds.first_dirty });
        }
        self.bounds.upper = upper;
        Ok(())
    }

    /// Whether what is to be spilled, by what was read so far, may be written.
    fn has_room_to_spill(&self, scan: &KeyScan, counts: LearningCounts) -> bool {
        let Some(limit) = self.spill_bytes_max() else { return false };
        let whole = self.source.bytes_between(self.source.start(), self.bounds.upper);
        let records = u128::from(counts.notes) * u128::from(whole) / u128::from(scan.bytes_read().max(1));
        records.saturating_mul(u128::from(SPILLED_RECORD_BYTES)) <= u128::from(limit)
    }

    /// How much may be spilled. An eighth of what is free is left to others.
    fn spill_bytes_max(&self) -> Option<u64> {
        let space = self.log.file_system().space(self.log.dir()).ok()?;
        let limit = space.free - space.free / 8;
        Some(self.options.spill_bytes_max.map_or(limit, |max| max.min(limit))).filter(|limit| *limit > 0)
    }

    fn begin_spilling(&mut self) -> Result<State, CleanError> {
        self.mode = CleanMode::Spill;
        let whole = self.source.start().min(self.bounds.first_dirty)..self.bounds.upper;
        let files = SpillFiles::new(Arc::clone(self.log.file_system()), self.log.dir().to_path_buf());
        let memory = self.options.spill_memory()?;
        match Learning::in_spill(self.hasher, memory, files, whole.clone()) {
            Ok(learning) => Ok(State::Spilling(Box::new((self.scan(whole)?, learning)))),
            Err(failure) => self.after_full_disk(failure),
        }
    }

    fn spill(&mut self, mut work: Box<(KeyScan, Learning)>, bytes_max: u64) -> Result<State, CleanError> {
        let stepped = {
            let (scan, learning) = &mut *work;
            scan.step(learning, bytes_max)
        };
        self.note_learning(&work.0, work.1.counts());
        let scanned = match stepped {
            Err(CleanError::Io(failure)) => {
                drop(work);
                return self.after_full_disk(failure);
            }
            scanned => scanned?,
        };
        if self.has_spilled_too_much(work.1.counts()) {
            drop(work);
            return self.begin_partial();
        }
        if scanned == Scanned::Going {
            return Ok(State::Spilling(work));
        }
        self.end_scan(&mut work.0);
        if scanned == Scanned::Misled {
            drop(work);
            return self.look_again();
        }
        let (_, learning) = *work;
        Ok(State::Resolving(Box::new(learning.finish())))
    }

    fn has_spilled_too_much(&self, counts: LearningCounts) -> bool {
        let spilled = counts.spilled_bytes.saturating_add(counts.mark_bytes);
        self.options.spill_bytes_max.is_some_and(|max| spilled > max)
    }

    /// Without disk for spilling, the pass is a partial one. Other failures end it.
    fn after_full_disk(&mut self, failure: IoFailure) -> Result<State, CleanError> {
        if failure.is_storage_full() { self.begin_partial() } else { Err(failure.into()) }
    }

    /// Learns again up to where the map was full: what it had was dropped to spill.
    fn begin_partial(&mut self) -> Result<State, CleanError> {
        let full_at = self.figures.full_at.unwrap_or(self.bounds.upper);
        self.figures.end_learning();
        if !self.learns_no_more_than_dirty() {
            self.cut_short(full_at)?;
        }
        self.begin_learning()
    }

    fn resolve(&mut self, mut work: Box<Finishing>, bytes_max: u64) -> Result<State, CleanError> {
        let stepped = work.step(bytes_max);
        let counts = work.counts();
        self.figures.learning = counts;
        self.figures.note_memory(counts.memory_peak_bytes);
        match stepped {
            Err(failure) if self.mode == CleanMode::Spill => {
                drop(work);
                self.after_full_disk(failure)
            }
            Err(failure) => Err(failure.into()),
            Ok(None) if self.mode == CleanMode::Spill && self.has_spilled_too_much(counts) => {
                drop(work);
                self.begin_partial()
            }
            Ok(None) => Ok(State::Resolving(work)),
            Ok(Some(verdicts)) => self.begin_rewriting(verdicts),
        }
    }

    fn begin_rewriting(&mut self, verdicts: Verdicts) -> Result<State, CleanError> {
        // Damage that the scan met: such a segment is left as it is.
        self.source.note_holes();
        let filter = self.filter();
        self.put_progress(&filter)?;
        let Bounds { done_to, upper, .. } = self.bounds;
        let limits = GroupLimits::of(&self.source.view.config, self.options.group_bytes_max);
        let task = RewriteTask {
            log: self.log.clone(),
            segments: Arc::clone(&self.source.segments),
            groups: groups(&self.source.facts, done_to, upper, &limits),
            buffer_bytes: self.options.memory()?.buffer_bytes(),
            group_bytes_max: self.options.group_bytes_max,
            removable_below: self.source.lowest_unreadable(),
            cache: if self.options.drops_cache { CacheUse::DropBehind } else { CacheUse::Keep },
        };
        Ok(State::Rewriting(Box::new(Rewrite::new(task, filter, verdicts))))
    }

    /// The filter as it stands at `done_to`.
    fn filter(&mut self) -> BatchFilter {
        let rules = FilterRules {
            now: self.bounds.horizon_from,
            delete_retention_ms: self.source.view.config.delete_retention_ms,
            upper: self.bounds.upper,
            tombstones_removable_below: self.source.lowest_unreadable(),
            decompressed_bytes_max: self.source.view.config.max_decompressed_bytes,
            producers: std::mem::take(&mut self.producers),
        };
        if !self.bounds.transactions.is_empty()
            && let Ok(filter) = BatchFilter::resume(rules.clone(), &self.bounds.transactions)
        {
            return filter;
        }
        // What was saved was by another version: all is gone through again, which changes nothing that is done.
        self.bounds.done_to = self.bounds.from;
        BatchFilter::new(rules, CleanedTransactions::default())
    }

    fn rewrite(&mut self, mut work: Box<Rewrite>, bytes_max: u64) -> Result<State, CleanError> {
        let rewritten = work.step(bytes_max);
        self.unread = [self.unread, work.unread()].into_iter().flatten().min();
        self.figures.note_held(work.counts().memory_peak, work.counts().expanded_max);
        match rewritten? {
            Rewritten::Going => Ok(State::Rewriting(work)),
            Rewritten::Group { done_to, is_swapped } => {
                self.bounds.done_to = done_to.min(self.bounds.upper);
                if is_swapped {
                    self.put_progress(work.filter())?;
                } else {
                    self.bounds.transactions = work.filter().save();
                }
                Ok(State::Rewriting(work))
            }
            Rewritten::Damaged => {
                self.figures.end_rewrite(&work);
                drop(work);
                self.look_again()
            }
            Rewritten::All => {
                self.figures.end_rewrite(&work);
                drop(work);
                self.finish()
            }
        }
    }

    /// A segment is to be left alone from now on: the groups are other ones, and what was asked about it cannot be asked
    /// again. What is in place stays there.
    fn look_again(&mut self) -> Result<State, CleanError> {
        let view = self.log.cleanable()?;
        let facts = segment_facts(&view, self.log.clock().wall())?;
        let unreadable = self.source.unreadable;
        self.source = Source { unreadable, ..Source::of(view, facts) };
        self.figures.end_learning();
        self.figures.full_at = None;
        // One that was cut short stays so.
        if self.mode == CleanMode::Spill {
            self.mode = CleanMode::Map;
        }
        self.begin_learning()
    }

    /// Has on disk how far the pass is.
    fn put_progress(&mut self, filter: &BatchFilter) -> Result<(), CleanError> {
        self.bounds.transactions = filter.save();
        let Bounds { upper, first_dirty, done_to, horizon_from, ref transactions, .. } = self.bounds;
        let transactions = transactions.clone();
        // A pass over what is clean may end below it.
        let first_dirty = first_dirty.min(upper);
        let mut state = self.clean_state.clone();
        state.unread = [state.unread, self.unread].into_iter().flatten().min();
        state.pass = Some(PassProgress { upper, first_dirty, done_to, horizon_from, transactions });
        self.put(state)
    }

    fn finish(&mut self) -> Result<State, CleanError> {
        let first_dirty = self.bounds.first_dirty.max(self.bounds.upper);
        debug_assert!(first_dirty > self.bounds.first_dirty || self.bounds.dirty().is_empty(), "{:?}", self.bounds);
        self.bounds.done_to = self.bounds.upper;
        let mut state = self.clean_state.clone();
        // A pass that ends below what is clean has not learned the tombstones between.
        let unread_before = state.unread.filter(|_| self.bounds.upper < first_dirty);
        state.unread = [unread_before, self.unread].into_iter().flatten().min();
        (state.first_dirty, state.pass) = (first_dirty, None);
        self.put(state)?;
        Ok(State::Finished)
    }

    fn put(&mut self, state: CleanState) -> Result<(), CleanError> {
        self.clean_state = self.log.put_clean_state(state).map_err(|error| match error {
            PutCleanError::Changed => CleanError::Changed,
            PutCleanError::Log(cause) => cause.into(),
        })?;
        Ok(())
    }
}

/// What the pass tells.
impl Pass {
    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let phase = match &self.state {
            State::Securing => Phase::Securing,
            State::Learning(_) | State::Spilling(_) => Phase::Learning,
            State::Resolving(_) => Phase::Resolving,
            State::Rewriting(_) => Phase::Rewriting,
            State::Finished | State::Ended => Phase::Finished,
        };
        let (read, written) = self.moved();
        let bytes_done = read.saturating_add(written);
        let Bounds { first_dirty, upper, done_to, .. } = self.bounds;
        let (dirty, whole) = (self.source.bytes_between(first_dirty, upper), self.source.bytes_between(done_to, upper));
        // What is kept, and so written again, nobody knows beforehand.
        let left = match phase {
            Phase::Securing | Phase::Learning if self.mode == CleanMode::Spill => whole.saturating_mul(3),
            Phase::Securing | Phase::Learning => dirty.saturating_add(whole.saturating_mul(2)),
            Phase::Resolving | Phase::Rewriting => whole.saturating_mul(2),
            Phase::Finished => 0,
        };
        let rewrite = self.figures.rewrite_with(self.under_way());
        Progress {
            phase,
            mode: self.mode,
            dirty: self.bounds.dirty(),
            bytes_done,
            bytes_total: if left == 0 { bytes_done } else { bytes_done.saturating_add(left) },
            bytes_freed: rewrite.bytes_before.saturating_sub(rewrite.bytes_after),
        }
    }

    fn under_way(&self) -> RewriteCounts {
        match &self.state {
            State::Rewriting(work) => work.counts(),
            _ => RewriteCounts::default(),
        }
    }

    /// Bytes read and written so far.
    fn moved(&self) -> (u64, u64) {
        let scanned = match &self.state {
            State::Learning(work) | State::Spilling(work) => work.0.bytes_read(),
            _ => 0,
        };
        self.figures.moved(scanned, self.under_way())
    }

    fn cleaned(&self) -> Cleaned {
        let now = self.log.clock().monotonic();
        let mut cleaned = self.figures.cleaned(now);
        let Bounds { from, first_dirty, upper, resumed, .. } = self.bounds;
        (cleaned.mode, cleaned.resumed, cleaned.from, cleaned.first_dirty) = (self.mode, resumed, from, first_dirty);
        cleaned.upper = first_dirty.max(upper);
        (cleaned.segments_before, cleaned.bytes_before) = self.source.extent_below(upper);
        let holes = |segment: &CleanSegment| {
            let of = |damaged: Range<Offset>| LeftAlone { base: segment.base, damaged };
            segment.segment.holes().iter().map(|hole| of(hole.offsets.clone())).collect::<Vec<_>>()
        };
        let cleanable = self.source.segments.iter().filter(|segment| segment.base < upper);
        cleaned.left_alone = cleanable.flat_map(holes).collect();
        cleaned
    }

    fn note_learning(&mut self, scan: &KeyScan, counts: LearningCounts) {
        self.figures.learning = counts;
        self.figures.note_held(counts.memory_peak_bytes.saturating_add(scan.memory_bytes()), scan.expanded_max());
    }

    fn end_scan(&mut self, scan: &mut KeyScan) {
        self.producers = scan.take_producers();
        self.figures.bytes_scanned = self.figures.bytes_scanned.saturating_add(scan.bytes_read());
        self.source.note_unreadable(scan.unreadable());
        self.unread = [self.unread, scan.doubtful()].into_iter().flatten().min();
    }
}
