//! How far a log is clean, in a small file beside it, and what becomes of that when the log is cut.
//!
//! ```text
//! alluvium.cleaning  lineage u64, first dirty offset i64, cleaned to i64, unread i64 (-1 none), pass u8 (0 none, 1 began
//!                    and did not end), and then upper i64, first dirty offset i64, done to i64 (all of the pass), time i64,
//!                    length u32, bytes
//! ```
//! All big-endian, behind the header of a small checked file. There is none before the first pass.
//!
//! *Cleaned to* is where gaps between batches end that cleaning may have left. It outlives a change of `cleanup.policy`: a
//! log that is not compacted any more keeps its gaps, and they are no damage.
//!
//! *Unread* is the lowest offset of a batch that the last pass had to leave as it is, since its records expand past the limit
//! or this build lacks the codec. It may be readable to the next pass, which learns keys from there: what lies above it
//! counts as clean, and a tombstone of that part would expire and leave the value that it hides.
//!
//! An offset of this file that lies past a cut would, once the log has grown again, have new records taken for clean ones.
//! So it is lowered, durably, before every cut, and a pass whose end is cut goes with it. It is believed only in the
//! lineage of the data directory that it was written in, as the partition's other state is (see `directory`); where Kafka
//! had the directory meanwhile, Kafka's own list of first dirty offsets counts, and the lower of both where both do. What
//! lies past the end of the log that was opened is from another life of it: all of the log is dirty then. *Unread* is kept
//! beside Kafka's word, which knows nothing of it: what this log's passes left as it is, Kafka's may have left too.

use std::path::Path;

use super::directory::{Lineage, Whose, Word};
use super::report::{Found, RecoveryReport};
use super::state::{Fields, read, remove_durably};
use super::{LogCore, PartitionLog};
use crate::config::OnDamage;
use crate::error::{ChangeError, Corruption, IoFailure, SmallFileFault};
use crate::fs::FileSystem;
use crate::index::{SmallFile, replace_small_file};
use crate::segment::names;
use crate::units::{Offset, TimestampMs};

const CLEANED: SmallFile = SmallFile { kind: 5, version: 1, in_place: false };
/// More of a pass is not kept: it would be larger than any small file that is read. Then it begins anew.
const TRANSACTIONS_BYTES_MAX: usize = 15 << 20;

/// How far a log is clean. Taken from [`PartitionLog::clean_state`], changed, and put back: what was taken before the log
/// was cut is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CleanState {
    /// Below it nothing superseded is left, as far as passes that came to their end can tell.
    pub(crate) first_dirty: Offset,
    /// The lowest offset of a sound batch that passes could not read.
    pub(crate) unread: Option<Offset>,
    /// A pass that began and did not come to its end.
    pub(crate) pass: Option<PassProgress>,
    /// Rises with every cut that changes this, and with every repair.
    pub(crate) cuts: u64,
}

/// How far a pass has come. It goes on with the same bounds and the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassProgress {
    /// First uncleanable offset when it began.
    pub(crate) upper: Offset,
    /// First dirty offset when it began.
    pub(crate) first_dirty: Offset,
    /// Groups below it are in place.
    pub(crate) done_to: Offset,
    /// The time from which its delete horizons count.
    pub(crate) horizon_from: TimestampMs,
    /// What the pass knows of transactions at `done_to`, as it wrote it.
    pub(crate) transactions: Vec<u8>,
}

impl PassProgress {
    fn is_possible(&self) -> bool {
        self.first_dirty <= self.upper && self.done_to <= self.upper
    }
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CleanFile {
    pub(super) lineage: Lineage,
    pub(crate) first_dirty: Offset,
    pub(crate) cleaned_to: Offset,
    pub(super) unread: Option<Offset>,
    pub(crate) pass: Option<PassProgress>,
}

/// What of an open log is clean. Guarded by `LogCore::cleaned`, and changed under the round.
#[derive(Debug, Default)]
pub(super) struct Cleaned {
    file: CleanFile,
    cuts: u64,
    /// Rises with every cut and every repair: what a pass goes by may have changed though the file says the same, as the
    /// last data of a producer does, which a cut past the end of the pass moves below it.
    changes: u64,
    /// How many of them there were when the cleaner that is at work claimed the log.
    claimed: Option<u64>,
}

impl Cleaned {
    pub(super) fn new(file: CleanFile) -> Self {
        Self { file, cuts: 0, changes: 0, claimed: None }
    }

    /// A cleaner begins to go by what the log is now.
    pub(super) fn claim(&mut self) {
        self.claimed = Some(self.changes);
    }

    /// It does not any more.
    pub(super) fn let_go(&mut self) {
        self.claimed = None;
    }

    /// Whether what the cleaner goes by may be true no more.
    pub(super) fn is_cut_since_claim(&self) -> bool {
        self.claimed.is_some_and(|changes| changes != self.changes)
    }
}

impl CleanFile {
    fn encode(&self) -> Vec<u8> {
        let kept = self.pass.as_ref().filter(|pass| pass.transactions.len() <= TRANSACTIONS_BYTES_MAX);
        let mut payload = Vec::with_capacity(69 + kept.map_or(0, |pass| pass.transactions.len()));
        payload.extend_from_slice(&self.lineage.value().to_be_bytes());
        payload.extend_from_slice(&self.first_dirty.value().to_be_bytes());
        payload.extend_from_slice(&self.cleaned_to.value().to_be_bytes());
        payload.extend_from_slice(&self.unread.map_or(-1, Offset::value).to_be_bytes());
        payload.push(u8::from(kept.is_some()));
        if let Some(pass) = kept {
            for offset in [pass.upper, pass.first_dirty, pass.done_to] {
                payload.extend_from_slice(&offset.value().to_be_bytes());
            }
            payload.extend_from_slice(&pass.horizon_from.value().to_be_bytes());
            payload.extend_from_slice(&u32::try_from(pass.transactions.len()).unwrap_or(u32::MAX).to_be_bytes());
            payload.extend_from_slice(&pass.transactions);
        }
        CLEANED.encode(&payload)
    }

    fn decode(payload: &[u8]) -> Result<Self, SmallFileFault> {
        let mut fields = Fields::of(payload);
        let lineage = Lineage::new(fields.u64()?);
        let (first_dirty, cleaned_to) = (fields.offset()?, fields.offset()?);
        let unread = match fields.i64()? {
            -1 => None,
            unread => Some(Offset::new(unread).ok_or(SmallFileFault::Field)?),
        };
        let pass = if fields.flag()? {
            let (upper, first_dirty, done_to) = (fields.offset()?, fields.offset()?, fields.offset()?);
            let horizon_from = TimestampMs::new(fields.i64()?);
            let transactions = fields.sized()?.to_vec();
            Some(PassProgress { upper, first_dirty, done_to, horizon_from, transactions })
        } else {
            None
        };
        if pass.as_ref().is_some_and(|pass| !pass.is_possible() || pass.upper > cleaned_to) || first_dirty > cleaned_to
        {
            return Err(SmallFileFault::Field);
        }
        fields.finish(Self { lineage, first_dirty, cleaned_to, unread, pass })
    }

    /// Reads the file; the inner error is for bytes that are wrong.
    pub(crate) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Result<Option<Self>, Corruption>, IoFailure> {
        read(fs, dir, names::CLEANED, CLEANED, Self::decode)
    }

    /// Replaces the file, or removes it where it says nothing; durable when it returns.
    fn write(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        if self.says_nothing() {
            return remove_durably(fs, dir, names::CLEANED).map(drop);
        }
        replace_small_file(fs, dir, names::CLEANED, &self.encode())
    }

    fn says_nothing(&self) -> bool {
        *self == Self { lineage: self.lineage, ..Self::default() }
    }

    /// What counts of it, and of the list of the data directory, in the directory as it is now.
    pub(super) fn under(self, whose: Whose, own: Option<Lineage>, word: &Word) -> Self {
        let listed = word.parents.first_dirty;
        let (lineage, unread) = (word.lineage, self.unread);
        let ours = Some(self).filter(|file| file.lineage == own.unwrap_or(lineage));
        match whose {
            Whose::Own => ours.unwrap_or_default(),
            // The state beside it may have been lost, or removed by somebody who meant well.
            Whose::Nobodys => ours.filter(|_| own.is_none()).map(Self::of_unknown_lineage).unwrap_or_default(),
            Whose::Parents => {
                let first_dirty = listed.unwrap_or_default();
                // Whoever wrote it: from a lower offset more is learned, and nothing is lost.
                Self { lineage, first_dirty, cleaned_to: first_dirty, unread, pass: None }
            }
            Whose::Lower => {
                let ours = ours.unwrap_or_default();
                let listed = listed.unwrap_or_default();
                let first_dirty = ours.first_dirty.min(listed);
                Self { lineage, first_dirty, cleaned_to: ours.cleaned_to.max(listed), unread, pass: None }
            }
        }
    }

    /// As it counts where nobody knows who had the log since.
    pub(super) fn of_unknown_lineage(self) -> Self {
        Self { cleaned_to: self.cleaned_to, ..Self::default() }
    }

    /// Puts this in the place of what an earlier lineage left; durable when it returns.
    pub(super) fn replace(&self, fs: &dyn FileSystem, dir: &Path) -> Result<(), IoFailure> {
        self.write(fs, dir)
    }

    /// What is left of it in a log that was opened and ends at `log_end`; `None` where nothing is to be changed.
    fn fitting(&self, log_end: Offset) -> Option<Self> {
        let pass_fits = self.pass.as_ref().is_none_or(|pass| pass.upper <= log_end);
        if self.first_dirty <= log_end && self.cleaned_to <= log_end && pass_fits {
            return None;
        }
        // From another life of the log, or of records that are gone: what stands below may be others, too.
        Some(Self { lineage: self.lineage, cleaned_to: self.cleaned_to.min(log_end), ..Self::default() })
    }

    /// Has it say nothing about offsets past `log_end`, where the log that was opened ends; durably, or the log would grow
    /// over them. Nothing of it holds for a log that was begun anew.
    pub(super) fn settle(
        self,
        fs: &dyn FileSystem,
        dir: &Path,
        log_end: Offset,
        report: &mut RecoveryReport,
        policy: OnDamage,
    ) -> Result<Self, IoFailure> {
        let Some(fitting) = self.fitting(log_end) else { return Ok(self) };
        let found = Found::CleanStateOutside { first_dirty: self.first_dirty, log_end };
        report.note(found, policy, names::CLEANED, 0, Some(self.first_dirty));
        match fitting.write(fs, dir) {
            // A log opens on a full disk. Without the file all of the log is dirty.
            Err(failure) if failure.is_storage_full() => remove_durably(fs, dir, names::CLEANED).map(drop)?,
            written => written?,
        }
        Ok(fitting)
    }

    /// What is left of it after a cut to `to`; `None` where nothing changes.
    fn cut(&self, to: Offset) -> Option<Self> {
        let pass = self.pass.clone().filter(|pass| pass.upper <= to);
        let (first_dirty, cleaned_to) = (self.first_dirty.min(to), self.cleaned_to.min(to));
        let unread = self.unread.filter(|unread| *unread < to);
        let cut = Self { lineage: self.lineage, first_dirty, cleaned_to, unread, pass };
        (cut != *self).then_some(cut)
    }

    /// What is left of it when what lies past `from` is to be gone through once more; `None` where nothing changes. Gaps
    /// stay what they are.
    fn dirty_from(&self, from: Offset) -> Option<Self> {
        let pass = self.pass.clone().filter(|pass| pass.upper <= from);
        let dirty = Self { first_dirty: self.first_dirty.min(from), pass, ..self.clone() };
        (dirty != *self).then_some(dirty)
    }

    /// Lowers the file before a cut to `to` while the log is being opened. Durable when it returns.
    pub(super) fn lower(&mut self, fs: &dyn FileSystem, dir: &Path, to: Offset) -> Result<(), IoFailure> {
        let Some(cut) = self.cut(to) else { return Ok(()) };
        match cut.write(fs, dir) {
            // Cutting is done on a full disk, too.
            Err(failure) if failure.is_storage_full() && *failure.path != *dir => {
                remove_durably(fs, dir, names::CLEANED)?;
                *self = Self { first_dirty: Offset::ZERO, pass: None, ..cut };
            }
            written => {
                written?;
                *self = cut;
            }
        }
        Ok(())
    }
}

impl PartitionLog {
    /// How far the log is clean. The first dirty offset is never below the log start.
    pub(crate) fn clean_state(&self) -> CleanState {
        let log_start = self.log_start();
        let cleaned = self.core.cleaned.lock();
        let CleanFile { first_dirty, unread, pass, .. } = &cleaned.file;
        // What was to be cleaned may have been deleted.
        let pass = pass.clone().filter(|pass| pass.upper > log_start);
        let unread = unread.map(|unread| unread.max(log_start));
        CleanState { first_dirty: (*first_dirty).max(log_start), unread, pass, cuts: cleaned.cuts }
    }

    /// Writes down how far the log is clean; durable when it returns. Before the first segment of a pass is replaced, the
    /// pass must be in it.
    ///
    /// # Errors
    /// [`PutCleanError::Changed`] when the log was cut below it since the state was taken, or it lies past what is
    /// durable: plan anew.
    pub(crate) fn put_clean_state(&self, state: CleanState) -> Result<CleanState, PutCleanError> {
        let core = &self.core;
        let _round = core.round.lock();
        core.writer.lock().check_open().map_err(ChangeError::from)?;
        let durable_end = core.view.read().marks.durable_end;
        let upper = state.pass.as_ref().map_or(state.first_dirty, |pass| pass.upper.max(state.first_dirty));
        let is_possible = state.pass.as_ref().is_none_or(PassProgress::is_possible);
        let file = {
            let cleaned = core.cleaned.lock();
            if cleaned.cuts != state.cuts || upper > durable_end || !is_possible {
                return Err(PutCleanError::Changed);
            }
            let (first_dirty, unread, pass) = (state.first_dirty, state.unread, state.pass.clone());
            let cleaned_to = cleaned.file.cleaned_to.max(upper);
            CleanFile { lineage: core.keeper.lineage(), first_dirty, cleaned_to, unread, pass }
        };
        if let Some(failure) = core.change_files(|| file.write(&*core.home.fs, &core.home.dir))? {
            return Err(ChangeError::Io(failure).into());
        }
        core.view.write().cleaned_to = file.cleaned_to;
        core.cleaned.lock().file = file;
        Ok(state)
    }
}

impl LogCore {
    /// Lowers what is written down of cleaning before a cut to `to`. Durable when it returns; the round is locked.
    pub(super) fn lower_clean_state(&self, to: Offset) -> Result<(), IoFailure> {
        let mut cleaned = self.cleaned.lock();
        let before = cleaned.file.clone();
        cleaned.changes += 1;
        cleaned.file.lower(&*self.home.fs, &self.home.dir, to)?;
        cleaned.cuts += u64::from(cleaned.file != before);
        Ok(())
    }

    /// Has the cleaner go once more through everything from `from` on, where records are about to come back that no pass
    /// could read. A tombstone above them counts as clean by now, so that none would learn it again: it would expire, and
    /// what it hides would be left. A pass under way, or interrupted, learned without them and does not go on.
    ///
    /// Durable when it returns; the round is locked.
    pub(super) fn clean_again_from(&self, from: Offset) -> Result<(), IoFailure> {
        let mut cleaned = self.cleaned.lock();
        (cleaned.cuts, cleaned.changes) = (cleaned.cuts + 1, cleaned.changes + 1);
        if let Some(dirty) = cleaned.file.dirty_from(from) {
            dirty.write(&*self.home.fs, &self.home.dir)?;
            cleaned.file = dirty;
        }
        Ok(())
    }
}

/// Why a state was not written down.
#[derive(Debug)]
pub(crate) enum PutCleanError {
    /// The log was cut since it was taken, or it lies outside the log.
    Changed,
    /// A failed or closed log; I/O, after which it may be tried again.
    Log(ChangeError),
}

impl From<ChangeError> for PutCleanError {
    fn from(error: ChangeError) -> Self {
        Self::Log(error)
    }
}

#[cfg(test)]
#[path = "clean_state_tests.rs"]
mod tests;
