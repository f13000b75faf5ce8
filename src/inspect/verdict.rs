//! Of one record, or of the records of one key: kept or removed, and why.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{ControlFlow, Range};

use super::InspectError;
use super::records::Seen;
use super::survey::CleanSurvey;
use crate::clean::plan::{Decision, HeldBack, NotDueBecause, SegmentFacts};
use crate::record::ControlRecord;
use crate::units::{Offset, TimestampMs};

/// What there is at an offset that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// A record.
    Record(Box<RecordVerdict>),
    /// Nothing that can be read: its segment is damaged there.
    Unreadable(Range<Offset>),
    /// It lies below the log start.
    BelowLogStart(Offset),
    /// It lies at or past the log end.
    PastLogEnd(Offset),
    /// Nothing: cleaning removed it, or no record ever had it.
    Gone {
        /// The next offset that has a record.
        next: Option<Offset>,
    },
}

/// A record, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordVerdict {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
    /// Its key; a control record's key is none.
    pub key: Option<Vec<u8>>,
    /// Whether it deletes its key.
    pub is_tombstone: bool,
    /// Its share of the batch's bytes.
    pub bytes: u64,
    /// What becomes of it.
    pub fate: RecordFate,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordFate {
    /// It goes: a newer record has its key.
    Superseded {
        /// The newest one that counts by now.
        by: Offset,
    },
    /// It goes: its transaction was aborted.
    Aborted {
        /// Offset of the marker that says so.
        marker: Offset,
    },
    /// It goes: a compacted log keeps no record without a key.
    Keyless,
    /// It goes: it is a tombstone whose time has passed.
    ExpiredTombstone {
        /// When it might go.
        horizon: TimestampMs,
    },
    /// It stays: no newer record has its key.
    Newest,
    /// It stays for a time: it is a tombstone.
    Tombstone {
        /// When it may go; `None` until a pass has met it, which then gives it `delete.retention.ms`.
        horizon: Option<TimestampMs>,
        /// Damage that lies below it, and may hide what it deletes. It stays until that is repaired.
        damage: Option<Offset>,
    },
    /// It stays while records of its transaction are left, and then for `delete.retention.ms`.
    Marker {
        /// Whether it commits; `None` for a control record of another kind, which stays.
        commits: Option<bool>,
        /// When it may go, once a pass has found nothing left.
        horizon: Option<TimestampMs>,
    },
    /// It stays for now: a newer record has its key, and that one may still be lost.
    SupersededLater {
        /// The newest record of the key.
        by: Offset,
        /// What holds that one back.
        held_back: Vec<HeldBack>,
    },
    /// It stays for now: it may not be cleaned yet.
    HeldBack(Vec<HeldBack>),
    /// It stays as it is: its segment cannot all be read.
    Damaged {
        /// The segment's base offset.
        base: Offset,
    },
    /// It goes with its segment: retention is about to delete it.
    RetentionTakes,
    /// It stays: the log is not compacted.
    NotCompacted,
}

impl RecordFate {
    /// Whether the next pass removes it.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Superseded { .. } | Self::Aborted { .. } | Self::Keyless | Self::ExpiredTombstone { .. })
    }

    /// In a word, for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Superseded { .. } => "superseded",
            Self::Aborted { .. } => "aborted",
            Self::Keyless => "keyless",
            Self::ExpiredTombstone { .. } => "expired_tombstone",
            Self::Newest => "newest",
            Self::Tombstone { .. } => "tombstone",
            Self::Marker { .. } => "marker",
            Self::SupersededLater { .. } => "superseded_later",
            Self::HeldBack(_) => "held_back",
            Self::Damaged { .. } => "damaged",
            Self::RetentionTakes => "retention",
            Self::NotCompacted => "not_compacted",
        }
    }
}

impl fmt::Display for RecordFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_removed() {
            f.write_str("removed by the next pass: ")?;
        }
        match self {
            Self::Superseded { by } => write!(f, "superseded by offset {by}"),
            Self::Aborted { marker } => write!(f, "its transaction was aborted by the marker at {marker}"),
            Self::Keyless => f.write_str("it has no key"),
            Self::ExpiredTombstone { horizon } => write!(f, "a tombstone until {horizon}, which has passed"),
            Self::Newest => f.write_str("kept: the newest record of its key"),
            Self::Tombstone { damage: Some(at), .. } => {
                write!(f, "kept: a tombstone, until the damage at offset {at} below it is repaired")
            }
            Self::Tombstone { horizon: Some(horizon), .. } => write!(f, "kept: a tombstone until {horizon}"),
            Self::Tombstone { horizon: None, .. } => {
                f.write_str("kept: a tombstone, for delete.retention.ms from the next pass on")
            }
            Self::Marker { commits: None, .. } => f.write_str("kept: a control record"),
            Self::Marker { commits: Some(commits), horizon } => {
                let what = if *commits { "a commit" } else { "an abort" };
                match horizon {
                    Some(horizon) => write!(f, "kept: {what} marker until {horizon}"),
                    None => write!(f, "kept: {what} marker, while its transaction has records"),
                }
            }
            Self::SupersededLater { by, held_back } => {
                write!(f, "kept for now: superseded by offset {by}, which may still be lost: {}", joined(held_back))
            }
            Self::HeldBack(held_back) => write!(f, "kept for now: {}", joined(held_back)),
            Self::Damaged { base } => write!(f, "kept: the segment at {base} cannot all be read and stays as it is"),
            Self::RetentionTakes => f.write_str("deleted with its segment by retention"),
            Self::NotCompacted => f.write_str("kept: cleanup.policy is delete"),
        }
    }
}

fn joined(held_back: &[HeldBack]) -> String {
    held_back.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The newest records of a key that count, from somewhere on.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    /// Of those that may be cleaned.
    cleanable: Option<Offset>,
    any: Option<Offset>,
}

impl Newest {
    fn note(&mut self, offset: Offset, secure_to: Offset) {
        self.any = self.any.max(Some(offset));
        if offset < secure_to {
            self.cleanable = self.cleanable.max(Some(offset));
        }
    }
}

impl CleanSurvey {
    /// The record at an offset, and what becomes of it. Reads the log from there on for newer records of its key.
    ///
    /// # Errors
    /// [`InspectError`] when a file cannot be read.
    pub fn record(&self, offset: Offset) -> Result<Asked, InspectError> {
        if offset < self.marks.log_start {
            return Ok(Asked::BelowLogStart(self.marks.log_start));
        }
        if offset >= self.marks.log_end {
            return Ok(Asked::PastLogEnd(self.marks.log_end));
        }
        let (mut found, mut next): (Option<RecordVerdict>, Option<Offset>) = (None, None);
        let mut newest = Newest::default();
        let secure_to = self.outlook().range.secure_to;
        let unread = self.visit(&(offset..self.marks.log_end), |seen| {
            match &found {
                None if seen.record.offset == offset => found = Some(self.seen(seen)),
                None => {
                    next = Some(seen.record.offset);
                    return ControlFlow::Break(());
                }
                Some(found) if found.key.is_some() => {
                    if counts(seen) && seen.record.key == found.key.as_deref() {
                        newest.note(seen.record.offset, secure_to);
                    }
                }
                Some(_) => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        })?;
        Ok(match found {
            Some(found) => Asked::Record(Box::new(self.with_newer(found, newest))),
            None => match unread.into_iter().find(|unread| unread.contains(&offset)) {
                Some(unread) => Asked::Unreadable(unread),
                None => Asked::Gone { next },
            },
        })
    }

    /// The newest `max` records of a key, oldest first, and what becomes of each. Reads the whole log.
    ///
    /// # Errors
    /// [`InspectError`] when a file cannot be read.
    pub fn records_of_key(&self, key: &[u8], max: usize) -> Result<KeyRecords, InspectError> {
        let mut kept: VecDeque<RecordVerdict> = VecDeque::new();
        let (mut total, mut newest) = (0_u64, Newest::default());
        let secure_to = self.outlook().range.secure_to;
        let unread = self.visit(&(self.marks.log_start..self.marks.log_end), |seen| {
            if !seen.header.attributes.is_control() && seen.record.key == Some(key) {
                total = total.saturating_add(1);
                kept.push_back(self.seen(seen));
                if kept.len() > max {
                    kept.pop_front();
                }
                if counts(seen) {
                    newest.note(seen.record.offset, secure_to);
                }
            }
            ControlFlow::Continue(())
        })?;
        let records = kept.into_iter().map(|found| self.with_newer(found, newest)).collect();
        Ok(KeyRecords { records, total, unread })
    }

    /// A record with the fate that it has on its own, whatever comes after it.
    fn seen(&self, seen: &Seen<'_>) -> RecordVerdict {
        let is_control = seen.header.attributes.is_control();
        RecordVerdict {
            offset: seen.record.offset,
            timestamp: seen.record.timestamp,
            key: seen.record.key.filter(|_| !is_control).map(<[u8]>::to_vec),
            is_tombstone: !is_control && seen.record.key.is_some() && seen.record.value.is_none(),
            bytes: seen.bytes,
            fate: self.fate_of_place(seen.record.offset).unwrap_or_else(|| self.fate_alone(seen)),
        }
    }

    /// What becomes of any record that lies there.
    fn fate_of_place(&self, offset: Offset) -> Option<RecordFate> {
        let (range, decision) = (&self.outlook().range, &self.outlook().decision);
        if matches!(decision, Decision::NotDue { reasons } if reasons.contains(&NotDueBecause::NotCompacted)) {
            return Some(RecordFate::NotCompacted);
        }
        if range.retention_to.is_some_and(|to| offset < to) {
            return Some(RecordFate::RetentionTakes);
        }
        if offset >= range.secure_to {
            return Some(RecordFate::HeldBack(self.held_back(offset)));
        }
        let holds = |segment: &&SegmentFacts| (segment.base..segment.end).contains(&offset) && segment.has_holes;
        self.segments.iter().find(holds).map(|segment| RecordFate::Damaged { base: segment.base })
    }

    fn held_back(&self, offset: Offset) -> Vec<HeldBack> {
        self.outlook().range.held_back.iter().copied().filter(|held| held.at() <= offset).collect()
    }

    fn fate_alone(&self, seen: &Seen<'_>) -> RecordFate {
        let horizon = seen.header.delete_horizon();
        if seen.header.attributes.is_control() {
            let commits = match ControlRecord::parse(seen.record.key, seen.record.value) {
                Ok(ControlRecord::Commit { .. }) => Some(true),
                Ok(ControlRecord::Abort { .. }) => Some(false),
                _ => None,
            };
            return RecordFate::Marker { commits, horizon };
        }
        if let Some(aborted) = seen.aborted {
            return RecordFate::Aborted { marker: aborted.last_offset };
        }
        if seen.record.key.is_none() {
            return RecordFate::Keyless;
        }
        if seen.record.value.is_some() {
            return RecordFate::Newest;
        }
        let lowest = self.damage().iter().map(|damage| damage.offsets.start).min();
        let damage = lowest.filter(|at| *at < seen.record.offset);
        match horizon.filter(|horizon| *horizon <= self.options.now && damage.is_none()) {
            Some(horizon) => RecordFate::ExpiredTombstone { horizon },
            None => RecordFate::Tombstone { horizon, damage },
        }
    }

    /// The same, now that newer records of the key are known.
    fn with_newer(&self, found: RecordVerdict, newest: Newest) -> RecordVerdict {
        let is_newer = |by: &Offset| *by > found.offset;
        let stays_alone = matches!(
            found.fate,
            RecordFate::Newest | RecordFate::Tombstone { .. } | RecordFate::ExpiredTombstone { .. }
        );
        if !stays_alone {
            return found;
        }
        let fate = match (newest.cleanable.filter(is_newer), newest.any.filter(is_newer), &found.fate) {
            (Some(by), ..) => RecordFate::Superseded { by },
            (None, Some(by), RecordFate::Newest | RecordFate::Tombstone { .. }) => {
                RecordFate::SupersededLater { by, held_back: self.held_back(by) }
            }
            (None, _, fate) => fate.clone(),
        };
        RecordVerdict { fate, ..found }
    }
}

/// Whether a record supersedes older ones of its key.
fn counts(seen: &Seen<'_>) -> bool {
    !seen.header.attributes.is_control() && seen.aborted.is_none()
}

/// The records of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRecords {
    /// The newest of them, oldest first.
    pub records: Vec<RecordVerdict>,
    /// How many there are in all.
    pub total: u64,
    /// Offsets that could not be read, and may hold more.
    pub unread: Vec<Range<Offset>>,
}
