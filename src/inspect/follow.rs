//! Reading a log from outside while it grows, rolls and is cut, without any word from the process that writes it.

use std::path::PathBuf;

use super::walk::{Item, Limits, SegmentWalk};
use super::{InspectError, PartitionFiles, SegmentInfo};
use crate::error::{Corruption, Damage, IoFailure};
use crate::record::BatchHeader;
use crate::units::{FilePosition, Offset};

/// When the tail looks bad this many times in a row, the segment is gone through again from its start: it may have been
/// cut and written anew, with other batch boundaries.
const STALLS_MAX: u32 = 8;

/// What following a log met.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Followed {
    /// A whole batch.
    Batch {
        /// The `.log` that holds it.
        file: PathBuf,
        /// Where it starts.
        position: FilePosition,
        /// Its header.
        header: BatchHeader,
        /// All of its bytes; the checksum is right.
        bytes: Vec<u8>,
    },
    /// A batch whose bytes cannot be read whole, being larger than the limits.
    Unread(Corruption),
    /// Offsets that cannot be read; reading goes on behind them.
    Skipped(Damage),
    /// The log was cut below what was already read. Reading goes on from its new end.
    Cut {
        /// Where the log ends now.
        to: Offset,
    },
}

/// Where in a segment reading stands.
#[derive(Debug)]
struct Place {
    segment: SegmentInfo,
    walk: SegmentWalk,
}

/// Reads a log batch by batch, from [`PartitionFiles::follow`].
#[derive(Debug)]
pub struct Follow {
    files: PartitionFiles,
    limits: Limits,
    next: Offset,
    place: Option<Place>,
    stalls: u32,
}

impl Follow {
    pub(super) fn new(files: PartitionFiles, from: Offset) -> Self {
        Self { files, limits: Limits::default(), next: from, place: None, stalls: 0 }
    }

    /// The offset that is due next.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// What comes next; `None` when there is nothing more for now. Call again later.
    ///
    /// # Errors
    /// [`InspectError::Io`] when a file cannot be read; the call may be repeated.
    pub fn next_batch(&mut self) -> Result<Option<Followed>, InspectError> {
        loop {
            if self.place.is_none() && !self.enter()? {
                return Ok(None);
            }
            let Some(place) = &mut self.place else { return Ok(None) };
            match place.walk.next().transpose()? {
                Some(Item::Batch { header, .. }) if header.last_offset() < self.next => {}
                Some(Item::Batch { position, header }) => {
                    self.stalls = 0;
                    self.next = header.next_offset();
                    let file = place.segment.path.clone();
                    return match place.walk.read(position, &header, self.limits) {
                        Ok(bytes) => Ok(Some(Followed::Batch { file, position, header, bytes })),
                        Err(InspectError::Corrupt(corruption)) => Ok(Some(Followed::Unread(corruption))),
                        Err(error) => Err(error),
                    };
                }
                Some(Item::Bad { bytes, expected, cause, next: Some(next), .. }) => {
                    if let Some(damage) = self.skip(bytes, expected, cause, next)? {
                        return Ok(Some(Followed::Skipped(damage)));
                    }
                }
                end => {
                    let looks_bad = matches!(end, Some(Item::Bad { .. } | Item::OldFormat { .. }));
                    match self.at_end(looks_bad)? {
                        AtEnd::GoOn => {}
                        AtEnd::Wait => return Ok(None),
                        AtEnd::Met(followed) => return Ok(Some(followed)),
                    }
                }
            }
        }
    }

    /// Finds the segment that holds the next offset and goes to its start.
    fn enter(&mut self) -> Result<bool, IoFailure> {
        let segments = self.files.segments()?;
        let at = segments.partition_point(|segment| segment.base <= self.next).saturating_sub(1);
        let Some(segment) = segments.get(at).cloned() else { return Ok(false) };
        let walk = self.files.walk(&segment)?;
        self.place = Some(Place { segment, walk });
        Ok(true)
    }

    /// Steps over damage, unless it was only a batch that was being written while we looked.
    fn skip(
        &mut self,
        bytes: std::ops::Range<u64>,
        expected: Offset,
        cause: crate::error::CorruptionKind,
        next: Offset,
    ) -> Result<Option<Damage>, IoFailure> {
        let Some(Place { segment, walk }) = &mut self.place else { return Ok(None) };
        let mut again = self.files.resume(segment, bytes.start, expected)?;
        if !matches!(again.next().transpose()?, Some(Item::Bad { .. })) {
            *walk = self.files.resume(segment, bytes.start, expected)?;
            return Ok(None);
        }
        let from = expected.max(self.next);
        self.next = self.next.max(next);
        let damage = Damage { file: segment.path.clone(), bytes, offsets: from..next, cause: Some(cause) };
        Ok((from < next).then_some(damage))
    }

    /// The walk saw all that the file held. Looks for more: in the file, or in the next segment.
    fn at_end(&mut self, looks_bad: bool) -> Result<AtEnd, InspectError> {
        let Some(Place { segment, walk }) = &mut self.place else { return Ok(AtEnd::GoOn) };
        let (position, expected) = (walk.at().value(), walk.next_offset());
        let segments = self.files.segments()?;
        let listed = segments.iter().find(|listed| listed.base == segment.base);
        let is_shorter = listed.is_none_or(|listed| listed.log_bytes < position);
        self.stalls = if looks_bad { self.stalls + 1 } else { 0 };
        if is_shorter || self.stalls >= STALLS_MAX {
            return self.look_again(&segments);
        }
        // What was appended between our last look and the roll comes first.
        let mut more = self.files.resume(segment, position, expected)?;
        if matches!(more.next().transpose()?, Some(Item::Batch { .. })) {
            *walk = self.files.resume(segment, position, expected)?;
            return Ok(AtEnd::GoOn);
        }
        let Some(later) = segments.iter().find(|listed| listed.base > segment.base).cloned() else {
            *walk = self.files.resume(segment, position, expected)?;
            return Ok(AtEnd::Wait);
        };
        let from = expected.max(self.next);
        let gap = (from < later.base).then(|| Damage {
            file: segment.path.clone(),
            bytes: position..if looks_bad { walk.file_bytes() } else { position },
            offsets: from..later.base,
            cause: None,
        });
        self.next = self.next.max(later.base);
        let walk = self.files.walk(&later)?;
        self.place = Some(Place { segment: later, walk });
        Ok(gap.map_or(AtEnd::GoOn, |damage| AtEnd::Met(Followed::Skipped(damage))))
    }

    /// The file is not what it was: finds out where the log ends now.
    fn look_again(&mut self, segments: &[SegmentInfo]) -> Result<AtEnd, InspectError> {
        self.stalls = 0;
        self.place = None;
        let at = segments.partition_point(|segment| segment.base <= self.next).saturating_sub(1);
        let Some(segment) = segments.get(at) else { return Ok(AtEnd::Wait) };
        let mut walk = self.files.walk(segment)?;
        for item in walk.by_ref() {
            if matches!(item?, Item::Batch { header, .. } if header.last_offset() >= self.next) {
                return Ok(AtEnd::GoOn);
            }
        }
        let end = walk.next_offset();
        self.place = Some(Place { segment: segment.clone(), walk });
        if end < self.next {
            self.next = end;
            return Ok(AtEnd::Met(Followed::Cut { to: end }));
        }
        Ok(AtEnd::Wait)
    }
}

enum AtEnd {
    GoOn,
    Wait,
    Met(Followed),
}
