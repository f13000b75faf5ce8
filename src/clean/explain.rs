//! Why each stretch of a log is kept, cleaned or held back, with the numbers. Pure, and plain data for a tool to print.

use std::fmt;
use std::ops::Range;

use super::plan::{Decision, DueBecause, LogFacts, NotDueBecause, Outlook};
use super::range::{HeldBack, bytes_between};
use crate::units::Offset;

/// A stretch of a log, all of which is treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stretch {
    /// Its offsets.
    pub offsets: Range<Offset>,
    /// Its bytes; where a segment is cut, in proportion to the offsets.
    pub bytes: u64,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Nothing: the log is not compacted.
    NotCompacted,
    /// Retention is about to delete it.
    RetentionTakes,
    /// Its segment is damaged. It is read for what it supersedes, and left as it is.
    Damaged {
        /// The segment's base offset.
        base: Offset,
    },
    /// A pass has cleaned it. It holds one record of each key; those that newer ones supersede go with the next pass.
    Clean,
    /// The log is due: the next pass cleans it.
    Due(Vec<DueBecause>),
    /// It may be cleaned, and the log is not due.
    Waits(Vec<NotDueBecause>),
    /// It may not be cleaned yet, for all of these reasons.
    HeldBack(Vec<HeldBack>),
}

impl Fate {
    /// In a word, for tables and machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotCompacted => "not compacted",
            Self::RetentionTakes => "retention",
            Self::Damaged { .. } => "damaged",
            Self::Clean => "clean",
            Self::Due(_) => "due",
            Self::Waits(_) => "waits",
            Self::HeldBack(_) => "held back",
        }
    }

    /// Every reason, in full.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::NotCompacted => vec![NotDueBecause::NotCompacted.to_string()],
            Self::RetentionTakes => vec!["retention is about to delete these segments".to_owned()],
            Self::Damaged { base } => vec![format!(
                "the segment at {base} cannot all be read; it supersedes older records and is left as it is"
            )],
            Self::Clean => vec!["a pass has cleaned it; what was superseded since goes with the next one".to_owned()],
            Self::Due(because) => because.iter().map(ToString::to_string).collect(),
            Self::Waits(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Self::HeldBack(by) => by.iter().map(ToString::to_string).collect(),
        }
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offsets, bytes, fate } = self;
        let reasons = fate.reasons().join("; ");
        write!(f, "{}..{}: {bytes} bytes, {}: {reasons}", offsets.start, offsets.end, fate.name())
    }
}

/// The whole log from its start to its end, as stretches without gaps between them.
pub fn explain(facts: &LogFacts<'_>, outlook: &Outlook) -> Vec<Stretch> {
    let (start, end) = (facts.marks.log_start, facts.marks.log_end);
    let range = &outlook.range;
    let mut cuts = vec![start, end, range.first_dirty, range.secure_to];
    cuts.extend(range.retention_to);
    cuts.extend(range.held_back.iter().map(HeldBack::at));
    cuts.extend(
        facts.segments.iter().filter(|segment| segment.has_holes).flat_map(|damaged| [damaged.base, damaged.end]),
    );
    cuts.retain(|cut| (start..=end).contains(cut));
    cuts.sort_unstable();
    cuts.dedup();
    let mut stretches: Vec<Stretch> = Vec::new();
    for (from, to) in cuts.iter().copied().zip(cuts.iter().copied().skip(1)) {
        let (fate, bytes) = (fate_of(from, facts, outlook), bytes_between(facts.segments, from, to));
        match stretches.last_mut().filter(|last| last.fate == fate) {
            Some(last) => {
                last.offsets.end = to;
                last.bytes = bytes_between(facts.segments, last.offsets.start, to);
            }
            None => stretches.push(Stretch { offsets: from..to, bytes, fate }),
        }
    }
    stretches
}

/// The fate of one offset, which is that of all up to the next cut.
fn fate_of(at: Offset, facts: &LogFacts<'_>, outlook: &Outlook) -> Fate {
    let range = &outlook.range;
    let reasons = match &outlook.decision {
        Decision::NotDue { reasons } if reasons.contains(&NotDueBecause::NotCompacted) => return Fate::NotCompacted,
        decision => decision,
    };
    if range.retention_to.is_some_and(|to| at < to) {
        return Fate::RetentionTakes;
    }
    let holds = |segment: &&super::plan::SegmentFacts| segment.has_holes && (segment.base..segment.end).contains(&at);
    if let Some(damaged) = facts.segments.iter().find(holds) {
        return Fate::Damaged { base: damaged.base };
    }
    if at < range.first_dirty {
        return Fate::Clean;
    }
    // What is not synced is synced by the pass itself.
    if at >= range.secure_to {
        return Fate::HeldBack(range.held_back.iter().copied().filter(|held| held.at() <= at).collect());
    }
    match reasons {
        Decision::Due { because, .. } => Fate::Due(because.clone()),
        Decision::NotDue { reasons } => Fate::Waits(reasons.clone()),
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
