//! Putting cleaned segments in the place of those that they were made from.
//!
//! Under the round lock, so that no commit round, truncation, retention or repair comes between; appends and reads go on.
//! A replacement is refused unless its segments are the very objects that the log has now, whole, and durable below the
//! recovery point on disk: a truncation, a repair or a retention since they were read shows in that.
//!
//! Readers see the old segments until the new ones are in their place on disk, and never anything else: an older view goes
//! on with the descriptors that it has, which are opened for it before the first name changes. The order of the names is in
//! `swap`. What the old segments' files took is free when their delay has passed, as after retention.

use std::sync::Arc;

use super::cleaning::Staged;
use super::swap::{Swap, SwapFailure};
use super::view::LogView;
use super::{LogCore, PartitionLog, RoundState};
use crate::error::{ChangeError, IoFailure, ReadError};
use crate::segment::{CleanedSegment, FileKind, Segment, SegmentFile, SegmentOptions};
use crate::units::Offset;

/// Each of the segments that are replaced together takes a descriptor while they are.
pub(crate) const REPLACED_MAX: usize = 256;

/// What a replacement did.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    /// The segments that are in the log now.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Length of the logs that went, and of those that came.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Why segments were not replaced. The log is as it was, and the staged files are gone; but where it says that the log
/// failed, the next opening finishes or undoes it.
#[derive(Debug)]
pub(crate) enum ReplaceError {
    /// The segments are not those of the log any more, some of them is damaged by now, or the log was cut or repaired
    /// elsewhere since it was claimed: plan anew.
    Changed,
    /// What was staged cannot take their place: a mistake of the caller's.
    Unfit(Unfit),
    /// Files could not be changed; tried again it may succeed.
    Io(IoFailure),
    /// A failed or closed log.
    Log(ChangeError),
}

/// What is wrong with what was staged, or with when it is to be put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// There are no inputs or no outputs, or more than [`REPLACED_MAX`] inputs.
    Count,
    /// The outputs do not begin where the first input begins, follow one another, and end where the last one ends.
    Bounds,
    /// No batch reaches past the base offset of the last input: a crash could bring that one back.
    Coverage,
    /// [`PartitionLog::secure`] was not called for all of it.
    Unsecured,
    /// No pass that reaches into the last of it is written down: see [`PartitionLog::put_clean_state`].
    Unannounced,
}

impl Unfit {
    /// In a sentence.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Count => "there are no segments to replace, or too many at once",
            Self::Bounds => "new segments do not begin and end where the old ones do",
            Self::Coverage => "no batch of the new segments reaches into the last old one",
            Self::Unsecured => "the old segments were not made durable",
            Self::Unannounced => "no pass over the old segments was written down",
        }
    }
}

impl From<IoFailure> for ReplaceError {
    fn from(failure: IoFailure) -> Self {
        Self::Io(failure)
    }
}

impl From<ChangeError> for ReplaceError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Io(failure) => Self::Io(failure),
            error => Self::Log(error),
        }
    }
}

impl PartitionLog {
    /// Puts `outputs` in the place of `inputs`, which are neighbours in the log and sealed. Both by rising base offset.
    /// Durable when it returns. Whoever cleans has claimed the log, secured it, and written down the pass.
    ///
    /// # Errors
    /// [`ReplaceError`].
    pub(crate) fn replace_segments(
        &self,
        inputs: &[Arc<Segment>],
        outputs: Vec<Staged>,
    ) -> Result<Replaced, ReplaceError> {
        // After the round is let go of: what was staged is removed by dropping it.
        let outputs = outputs;
        let segments: Vec<&CleanedSegment> = outputs.iter().map(Staged::segment).collect();
        let end = check_fit(inputs, &segments).map_err(ReplaceError::Unfit)?;
        let replaced = self.core.replace(inputs, &segments, end);
        // In a log that failed nobody knows which of the names are durable: some of the files without the others would
        // pass for a complete set.
        if matches!(replaced, Ok(_) | Err(ReplaceError::Log(_))) {
            for staged in &outputs {
                staged.files.keep();
            }
        }
        replaced
    }
}

/// Checks that the outputs can take the place of the inputs; returns where both end.
fn check_fit(inputs: &[Arc<Segment>], outputs: &[&CleanedSegment]) -> Result<Offset, Unfit> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Err(Unfit::Count) };
    let (Some(first_output), Some(last_output)) = (outputs.first(), outputs.last()) else { return Err(Unfit::Count) };
    if inputs.len() > REPLACED_MAX {
        return Err(Unfit::Count);
    }
    let follow = |(before, after): (&&CleanedSegment, &&CleanedSegment)| before.end == after.base;
    let is_inside = |output: &&CleanedSegment| output.base < output.next && output.next <= output.end;
    if first_output.base != first.base()
        || !outputs.iter().zip(outputs.iter().skip(1)).all(follow)
        || !outputs.iter().all(is_inside)
    {
        return Err(Unfit::Bounds);
    }
    if last_output.next <= last.base() {
        return Err(Unfit::Coverage);
    }
    Ok(last_output.end)
}

impl LogCore {
    fn replace(
        &self,
        inputs: &[Arc<Segment>],
        outputs: &[&CleanedSegment],
        end: Offset,
    ) -> Result<Replaced, ReplaceError> {
        let mut round = self.round.lock();
        self.writer.lock().check_open().map_err(ChangeError::from)?;
        let view = self.view.read().clone();
        let at = self.place_of(&view, inputs, end)?;
        if self.keeper.recovery_point() < end {
            return Err(ReplaceError::Unfit(Unfit::Unsecured));
        }
        // A pass may end within the last of them; what lies past its end it leaves as it is, so that no gap comes there.
        if inputs.last().is_none_or(|last| view.cleaned_to <= last.base()) {
            return Err(ReplaceError::Unfit(Unfit::Unannounced));
        }
        let bytes_before = inputs.iter().map(|input| input.bytes()).sum::<Result<u64, IoFailure>>()?;
        let written = inputs.last().map(|last| last.last_written(self.clock.wall(), false)).transpose()?;
        let pinned = self.pin_all(&view, at, inputs)?;
        let bases: Vec<Offset> = inputs.iter().map(|input| input.base()).collect();
        if let Err(failure) = self.swap_names(&bases, outputs) {
            let mut writer = self.writer.lock();
            match failure {
                SwapFailure::Unknown(failure) => return Err(ChangeError::from(self.latch(&mut writer, failure)).into()),
                SwapFailure::TakenBack(failure) => {
                    let finished = self.finish_deciding(&mut writer);
                    inputs.iter().zip(pinned).for_each(|(input, was_saved)| input.unpin(was_saved));
                    round.unsummed.extend(bases);
                    return Err(finished.err().map_or(ReplaceError::Io(failure), ReplaceError::Log));
                }
            }
        }
        self.finish_deciding(&mut self.writer.lock())?;
        let options = SegmentOptions::of(&self.config.read()).cleaned(true);
        let segments: Vec<Arc<Segment>> =
            outputs.iter().map(|output| Arc::new(output.segment(&self.home, options))).collect();
        for segment in &segments {
            if let Some(written) = written {
                segment.inherit_age(written);
            }
        }
        self.show_replaced(inputs, &segments);
        self.drop_snapshots(&bases, &segments);
        self.retire(&mut round, &bases);
        let bytes_after = outputs.iter().map(|output| output.bytes).sum();
        Ok(Replaced { segments, bytes_before, bytes_after })
    }

    /// Where in the view the inputs are, if they are there one behind the other, sealed, durable and whole, and end at `end`.
    fn place_of(&self, view: &LogView, inputs: &[Arc<Segment>], end: Offset) -> Result<usize, ReplaceError> {
        let at = inputs.first().map_or(0, |first| view.segment_of(first.base()));
        let found = view.segments.get(at..at.saturating_add(inputs.len())).unwrap_or_default();
        let is_same = found.len() == inputs.len() && found.iter().zip(inputs).all(|(a, b)| Arc::ptr_eq(a, b));
        let ends_there = view.segments.get(at.saturating_add(inputs.len())).is_some_and(|next| next.base() == end);
        let is_whole = inputs.iter().all(|input| input.holes().is_empty());
        let is_unsynced = {
            let writer = self.writer.lock();
            inputs.iter().any(|input| writer.holds(input) > 0)
        };
        let is_settled = end <= view.marks.durable_end && end <= view.marks.high_watermark;
        let is_cut = self.cleaned.lock().is_cut_since_claim();
        if is_same && ends_there && is_whole && is_settled && !is_unsynced && !is_cut {
            Ok(at)
        } else {
            Err(ReplaceError::Changed)
        }
    }

    /// Has readers of an older view go on with what they read, whatever comes under its names. Returns of which the index
    /// files were current.
    fn pin_all(&self, view: &LogView, at: usize, inputs: &[Arc<Segment>]) -> Result<Vec<bool>, ReplaceError> {
        for (index, input) in inputs.iter().enumerate() {
            let pinned = match self.aborted_in(view, at + index) {
                Err(ReadError::Io(failure)) => Err(failure),
                // Who asks for them is told that they cannot be told, as before.
                _ => input.pin(),
            };
            if let Err(failure) = pinned {
                inputs.iter().take(index).for_each(|input| input.unpin(input.is_index_saved()));
                return Err(failure.into());
            }
        }
        let were_saved = inputs.iter().map(|input| input.is_index_saved()).collect();
        for input in inputs {
            input.mark_leaving();
            // Whoever copies files finds another one's indexes under these names, and leaves them.
            input.mark_index_saved(false);
        }
        Ok(were_saved)
    }

    fn swap_names(&self, inputs: &[Offset], outputs: &[&CleanedSegment]) -> Result<(), SwapFailure> {
        // After a directory sync that failed the next opening makes these names change once more.
        let bases = outputs.iter().map(|output| output.base).filter(|base| inputs.binary_search(base).is_err());
        let begun = self.keeper.begin().and_then(|()| self.keeper.note_removed(inputs.iter().copied().chain(bases)));
        begun.map_err(SwapFailure::TakenBack)?;
        let swapped = Swap::new(&self.home).run(inputs, outputs);
        if !matches!(swapped, Err(SwapFailure::Unknown(_))) {
            self.keeper.settle_removed();
        }
        swapped
    }

    /// Shows readers the new segments.
    fn show_replaced(&self, inputs: &[Arc<Segment>], outputs: &[Arc<Segment>]) {
        let config = Arc::clone(&self.config.read());
        let mut writer = self.writer.lock();
        let is_input = |segment: &Arc<Segment>| inputs.iter().any(|input| Arc::ptr_eq(input, segment));
        self.publish(&mut writer, &config, |view| {
            let mut segments = Vec::with_capacity(view.segments.len().saturating_add(outputs.len()));
            let at = view.segments.iter().position(is_input).unwrap_or_default();
            segments.extend(view.segments.iter().take(at).cloned());
            segments.extend(outputs.iter().cloned());
            segments.extend(view.segments.iter().skip(at.saturating_add(inputs.len())).cloned());
            view.segments = Arc::new(segments);
        });
        self.wake(writer);
    }

    /// Removes producer snapshots of base offsets that are none any more. One that stays is passed over by openings that
    /// find a newer one, and goes with the next close.
    fn drop_snapshots(&self, bases: &[Offset], outputs: &[Arc<Segment>]) {
        let is_base = |base: &Offset| outputs.iter().any(|output| output.base() == *base);
        let gone = |base: &Offset| !is_base(base);
        self.writer.lock().derived.pending.retain(|snapshot| !bases.contains(&snapshot.at) || is_base(&snapshot.at));
        for base in bases.iter().copied().filter(gone) {
            let removed = self.home.remove(&SegmentFile::live(base, FileKind::Snapshot).name());
            self.metrics.side_file_failures.add(u64::from(removed.is_err()));
        }
    }

    /// Leaves the files of the old segments to be unlinked.
    fn retire(&self, round: &mut RoundState, bases: &[Offset]) {
        round.unsummed.retain(|base| !bases.contains(base));
        round.leaving.add_renamed(bases, self.clock.monotonic());
    }
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
