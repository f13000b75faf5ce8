//! What is remembered of a partition's cleaning over restarts: the small file `alluvium.cleaner-state` beside its log.
//!
//! ```text
//! flags u8              1 paused, 2 failed, 4 behind, 8 a pass is known, 16 the log was looked at, 32 due
//! paused     since i64, by: text
//! failed     attempt u32, next attempt i64, kind u8, missing bytes u64, message: text
//! behind     since i64
//! last pass  at i64, mode u8, upper i64, read written spilled freed records memory u64 each, took in ms u64,
//!            next horizon given u8, i64
//! looked at  due u8 (0 not, else the reason from 1 on), dirty excess clean held overdue u64 each, first dirty i64, log end
//!            i64, due at given u8, i64
//! due        since i64
//! text       length u16, UTF-8
//! ```
//! All big-endian, behind the header of a small checked file; times are wall milliseconds. Nothing that a log depends on
//! is in it: a file that is lost or wrong costs a look at the log, and a pause that somebody asked for.

use std::path::Path;
use std::time::Duration;

use super::cause::{CauseKind, CleaningCause};
use super::state::{CleaningReason, LastPass};
use super::track::{Look, Pause, Remembered};
use crate::clean::CleanMode;
use crate::error::{IoFailure, SmallFileFault};
use crate::fs::FileSystem;
use crate::index::{SmallFile, SmallFileError, read_small_file, replace_small_file};
use crate::segment::names::CLEANER_STATE;
use crate::units::{Offset, TimestampMs};

const FILE: SmallFile = SmallFile { kind: 24, version: 1, in_place: false };
const PAUSED: u8 = 1;
const FAILED: u8 = 2;
const BEHIND: u8 = 4;
const PASSED: u8 = 8;
const SEEN: u8 = 16;
const DUE: u8 = 32;
const MODES: [CleanMode; 3] = [CleanMode::Map, CleanMode::Spill, CleanMode::Partial];
const REASONS: [CleaningReason; 5] = [
    CleaningReason::Ratio,
    CleaningReason::Overdue,
    CleaningReason::Horizon,
    CleaningReason::Interrupted,
    CleaningReason::Asked,
];

/// What was found of an earlier process.
#[derive(Debug)]
pub(super) enum Found {
    Remembered(Box<Remembered>),
    Nothing,
    /// The file is wrong and counts as missing.
    Corrupt,
}

/// Reads what an earlier process left in the partition's directory.
pub(super) fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Found, IoFailure> {
    match read_small_file(fs, &dir.join(CLEANER_STATE), FILE) {
        Ok(None) => Ok(Found::Nothing),
        Ok(Some(payload)) => {
            Ok(decode(&payload).map_or(Found::Corrupt, |remembered| Found::Remembered(Box::new(remembered))))
        }
        Err(SmallFileError::Corrupt(_)) => Ok(Found::Corrupt),
        Err(SmallFileError::Io(failure)) => Err(failure),
    }
}

/// Replaces what is remembered, durably.
pub(super) fn write(fs: &dyn FileSystem, dir: &Path, remembered: &Remembered) -> Result<(), IoFailure> {
    replace_small_file(fs, dir, CLEANER_STATE, &FILE.encode(&encode(remembered)))
}

fn encode(remembered: &Remembered) -> Vec<u8> {
    let Remembered { pause, failed, due_since, behind_since, last, seen } = remembered;
    let mut out = Out(vec![0]);
    let mut flags = 0;
    if let Some(pause) = pause {
        flags |= PAUSED;
        out.i64(pause.since.value()).text(&pause.by);
    }
    if let Some((attempt, at, cause)) = failed {
        flags |= FAILED;
        out.bytes(&attempt.to_be_bytes()).i64(at.value()).cause(cause);
    }
    if let Some(since) = behind_since {
        flags |= BEHIND;
        out.i64(since.value());
    }
    if let Some(last) = last {
        flags |= PASSED;
        out.pass(last);
    }
    if let Some(seen) = seen {
        flags |= SEEN;
        out.look(seen);
    }
    if let Some(since) = due_since {
        flags |= DUE;
        out.i64(since.value());
    }
    if let Some(first) = out.0.first_mut() {
        *first = flags;
    }
    out.0
}

fn decode(payload: &[u8]) -> Result<Remembered, SmallFileFault> {
    let mut fields = In(payload);
    let flags = fields.u8()?;
    let mut remembered = Remembered::default();
    if flags & PAUSED != 0 {
        remembered.pause = Some(Pause { since: fields.time()?, by: fields.text()? });
    }
    if flags & FAILED != 0 {
        let attempt = u32::from_be_bytes(fields.take()?);
        remembered.failed = Some((attempt, fields.time()?, fields.cause()?));
    }
    if flags & BEHIND != 0 {
        remembered.behind_since = Some(fields.time()?);
    }
    if flags & PASSED != 0 {
        remembered.last = Some(fields.pass()?);
    }
    if flags & SEEN != 0 {
        remembered.seen = Some(fields.look()?);
    }
    if flags & DUE != 0 {
        remembered.due_since = Some(fields.time()?);
    }
    // Bits without a meaning are of no version that there is.
    if flags & !(PAUSED | FAILED | BEHIND | PASSED | SEEN | DUE) != 0 {
        return Err(SmallFileFault::Field);
    }
    if fields.0.is_empty() { Ok(remembered) } else { Err(SmallFileFault::Length) }
}

/// Fields of a payload, front to back.
struct Out(Vec<u8>);

impl Out {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    fn maybe(&mut self, time: Option<TimestampMs>) -> &mut Self {
        self.bytes(&[u8::from(time.is_some())]).i64(time.map_or(0, TimestampMs::value))
    }

    fn text(&mut self, text: &str) -> &mut Self {
        // Cut where a character begins: what is kept must be read again.
        let end = (0..=text.len().min(usize::from(u16::MAX))).rev().find(|end| text.is_char_boundary(*end));
        let kept = text.get(..end.unwrap_or(0)).unwrap_or_default();
        self.bytes(&u16::try_from(kept.len()).unwrap_or(0).to_be_bytes()).bytes(kept.as_bytes())
    }

    fn cause(&mut self, cause: &CleaningCause) {
        let is_same = |kind: &CauseKind| std::mem::discriminant(kind) == std::mem::discriminant(&cause.kind);
        let number = CauseKind::ALL.iter().position(is_same).and_then(|at| u8::try_from(at).ok()).unwrap_or(0);
        let missing = if let CauseKind::Space { missing_bytes } = cause.kind { missing_bytes } else { 0 };
        self.bytes(&[number]).u64(missing).text(&cause.message);
    }

    fn pass(&mut self, last: &LastPass) {
        let mode = MODES.iter().position(|mode| *mode == last.mode).and_then(|at| u8::try_from(at).ok());
        self.i64(last.at.value()).bytes(&[mode.unwrap_or(0)]).i64(last.upper.value());
        let figures = [last.bytes_read, last.bytes_written, last.bytes_spilled, last.bytes_freed];
        for figure in figures.into_iter().chain([last.records_kept, last.memory_peak]) {
            self.u64(figure);
        }
        self.u64(u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX)).maybe(last.next_horizon);
    }

    fn look(&mut self, look: &Look) {
        let reason = look.due.and_then(|because| REASONS.iter().position(|known| *known == because));
        let number = reason.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0);
        self.bytes(&[number]);
        for figure in [look.dirty_bytes, look.excess_bytes, look.clean_bytes, look.held_bytes, look.overdue_ms] {
            self.u64(figure);
        }
        self.i64(look.first_dirty.value()).i64(look.log_end.value()).maybe(look.due_at);
    }
}

/// Reads fields of a payload, front to back.
struct In<'a>(&'a [u8]);

impl In<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SmallFileFault> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, SmallFileFault> {
        self.take().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, SmallFileFault> {
        self.take().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Result<TimestampMs, SmallFileFault> {
        self.take().map(|bytes| TimestampMs::new(i64::from_be_bytes(bytes)))
    }

    fn maybe(&mut self) -> Result<Option<TimestampMs>, SmallFileFault> {
        let (is_given, time) = (self.u8()?, self.time()?);
        match is_given {
            0 => Ok(None),
            1 => Ok(Some(time)),
            _ => Err(SmallFileFault::Field),
        }
    }

    fn offset(&mut self) -> Result<Offset, SmallFileFault> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SmallFileFault::Field)
    }

    fn text(&mut self) -> Result<String, SmallFileFault> {
        let len = usize::from(u16::from_be_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(len).ok_or(SmallFileFault::Length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SmallFileFault::Field)
    }

    fn cause(&mut self) -> Result<CleaningCause, SmallFileFault> {
        let (number, missing_bytes) = (self.u8()?, self.u64()?);
        let kind = CauseKind::ALL.get(usize::from(number)).copied().ok_or(SmallFileFault::Field)?;
        let kind = if matches!(kind, CauseKind::Space { .. }) { CauseKind::Space { missing_bytes } } else { kind };
        Ok(CleaningCause { kind, message: self.text()? })
    }

    fn pass(&mut self) -> Result<LastPass, SmallFileFault> {
        let at = self.time()?;
        let mode = MODES.get(usize::from(self.u8()?)).copied().ok_or(SmallFileFault::Field)?;
        Ok(LastPass {
            at,
            mode,
            upper: self.offset()?,
            bytes_read: self.u64()?,
            bytes_written: self.u64()?,
            bytes_spilled: self.u64()?,
            bytes_freed: self.u64()?,
            records_kept: self.u64()?,
            memory_peak: self.u64()?,
            took: Duration::from_millis(self.u64()?),
            next_horizon: self.maybe()?,
        })
    }

    fn look(&mut self) -> Result<Look, SmallFileFault> {
        let due = match usize::from(self.u8()?).checked_sub(1) {
            None => None,
            Some(at) => Some(REASONS.get(at).copied().ok_or(SmallFileFault::Field)?),
        };
        Ok(Look {
            due,
            dirty_bytes: self.u64()?,
            excess_bytes: self.u64()?,
            clean_bytes: self.u64()?,
            held_bytes: self.u64()?,
            held_by: None,
            overdue_ms: self.u64()?,
            first_dirty: self.offset()?,
            log_end: self.offset()?,
            due_at: self.maybe()?,
        })
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
