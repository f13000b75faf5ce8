//! Handing a log over to a copy of it in another directory: what the copy has to be told beyond the batches, and the short
//! time in which the one stops and the other begins.

use std::sync::{Arc, Weak};

use super::state::Standing;
use super::writer::{Refusal, Writer, WriterState};
use super::{LogCore, PartitionLog, RoundState};
use crate::commit::Marks;
use crate::error::{AppendError, ChangeError, ReadError};
use crate::index::{LeaderEpochs, ProducerTable};
use crate::segment::{Extent, Home, Segment};
use crate::sync;
use crate::units::Offset;

/// A moment of a log, by which a later one can tell what of it was cut meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Glimpse {
    /// Rises with every cut, and with every opening.
    pub(crate) generation: u64,
    pub(crate) marks: Marks,
    /// A cut puts another object in the place of the segment it falls into. Weak: a segment that somebody holds is copied
    /// by the cut instead of being shortened.
    segments: Vec<(Offset, Weak<Segment>)>,
}

impl Glimpse {
    /// Base offset of the first segment that was another one, or none, when `earlier` was taken.
    pub(crate) fn first_changed(&self, earlier: &Self) -> Option<Offset> {
        let is_same = |(base, segment): &&(Offset, Weak<Segment>)| {
            let known = earlier.segments.iter().find(|(at, _)| at == base);
            known.is_some_and(|(_, known)| Weak::ptr_eq(known, segment))
        };
        self.segments.iter().find(|segment| !is_same(segment)).map(|(base, _)| *base)
    }
}

/// What a log knows that its batches do not say, or not any more.
#[derive(Clone, Debug)]
pub(crate) struct Bearing {
    pub(crate) marks: Marks,
    fencing_token: Option<u64>,
    is_sealed: bool,
    epochs: LeaderEpochs,
    producers: ProducerTable,
}

/// A log of which nothing can be changed: no append, no cut, no commit round.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) glimpse: Glimpse,
    pub(crate) bearing: Bearing,
}

/// How it went wrong for whoever was to finish a handing over.
#[derive(Debug)]
pub(crate) enum Unfinished<E> {
    /// Nothing came of it; the log goes on as it was.
    GoesOn(E),
    /// The log must not go on: the copy may be found in its place.
    Stops(E),
}

/// Why a log was not handed over.
#[derive(Debug)]
pub(crate) enum HandOverError<E> {
    /// The log is closed or failed.
    Refused(ChangeError),
    /// As told; where it stops, the log is closed.
    Unfinished(Unfinished<E>),
}

impl PartitionLog {
    /// A moment of the log. Waits for a commit round or a cut in progress: what is read after it belongs to it or is newer.
    pub(crate) fn glimpse(&self) -> Glimpse {
        let round = self.core.round.lock();
        self.core.glimpse_under(&round)
    }

    /// Bytes from the batch with `offset` on.
    pub(crate) fn bytes_from(&self, offset: Offset) -> Result<u64, ReadError> {
        self.with_view(|view| {
            let at = view.segment_of(offset);
            let mut bytes = 0_u64;
            for later in at..view.segments.len() {
                bytes = bytes.saturating_add(view.extent_of(later)?.bytes);
            }
            let Some(segment) = view.segments.get(at) else { return Ok(bytes) };
            let (before, _) = segment.cut_point(offset, view.extent_of(at)?)?;
            Ok(bytes.saturating_sub(before))
        })
    }

    /// Holds off everything that changes the log, makes durable what there is (but for appends that come while it does),
    /// and runs `finish`, which may read the log and use any other. When it succeeds the log is closed as one that was
    /// moved: who waits for durability is told that it is there, since `finish` is to have made it so elsewhere.
    ///
    /// # Errors
    /// [`HandOverError`].
    pub(crate) fn hand_over<R, E>(
        &self,
        finish: impl FnOnce(&Held) -> Result<R, Unfinished<E>>,
    ) -> Result<R, HandOverError<E>> {
        self.core.hand_over(finish)
    }

    /// The copy's part: takes over what the batches do not say. The log is to hold the batches of the other one already,
    /// and nobody else is to use it.
    ///
    /// # Errors
    /// [`ChangeError`]; the log is then neither the one nor the other and to be thrown away.
    pub(crate) fn take_over(&self, bearing: &Bearing) -> Result<(), ChangeError> {
        let core = &self.core;
        let end = bearing.marks.log_end;
        if self.log_end() < end {
            // The other one ends past its last batch, which cleaning brings about.
            core.barrier(end).map_err(into_change)?;
        }
        let _round = core.round.lock();
        core.writer.lock().check_open()?;
        core.keeper.begin()?;
        let high_watermark = Some(bearing.marks.high_watermark);
        let (fencing_token, is_sealed) = (bearing.fencing_token, bearing.is_sealed);
        let log_start = Some(bearing.marks.log_start);
        let decided = core.keeper.decide(Standing { log_start, high_watermark, fencing_token, is_sealed });
        let mut writer = core.writer.lock();
        decided.map_err(|failure| core.latch(&mut writer, failure))?;
        core.finish_deciding(&mut writer)?;
        core.put_on(&mut writer, bearing);
        Ok(())
    }
}

impl LogCore {
    fn glimpse_under(&self, _round: &RoundState) -> Glimpse {
        let view = self.view.read();
        let segments = view.segments.iter().map(|segment| (segment.base(), Arc::downgrade(segment))).collect();
        Glimpse { generation: self.keeper.generation(), marks: view.marks, segments }
    }

    fn bearing(&self, writer: &Writer) -> Bearing {
        Bearing {
            marks: self.view.read().marks,
            fencing_token: writer.fencing_token,
            is_sealed: writer.is_sealed,
            epochs: writer.derived.epochs.clone(),
            producers: writer.derived.producers.clone(),
        }
    }

    fn hand_over<R, E>(&self, finish: impl FnOnce(&Held) -> Result<R, Unfinished<E>>) -> Result<R, HandOverError<E>> {
        let mut round = self.round.lock();
        // Once before appends are held off, so that they are held off for the shorter.
        self.sync_under(&mut round).map_err(refused)?;
        let mut writer = self.writer.lock();
        writer.check_open().map_err(refused)?;
        let held = Held { glimpse: self.glimpse_under(&round), bearing: self.bearing(&writer) };
        let log_end = writer.log_end;
        // The locks of the copy come after ours: nobody who has one of them ever waits for one of ours.
        let finished = sync::apart(|| finish(&held));
        writer.state = match &finished {
            Ok(_) => WriterState::Moved,
            Err(Unfinished::Stops(_)) => WriterState::Closed,
            Err(Unfinished::GoesOn(_)) => return finished.map_err(HandOverError::Unfinished),
        };
        self.view.write().is_closed = true;
        *self.lock.lock() = None;
        drop(writer);
        // Wakers are somebody else's code, which may well look at the log.
        drop(round);
        if finished.is_ok() {
            self.queue.raise(log_end);
        }
        self.queue.close();
        self.waiters.close();
        finished.map_err(HandOverError::Unfinished)
    }

    /// Puts in force what was taken over and written down.
    fn put_on(&self, writer: &mut Writer, bearing: &Bearing) {
        writer.log_end = bearing.marks.log_end;
        writer.fencing_token = bearing.fencing_token;
        writer.is_sealed = bearing.is_sealed;
        writer.derived.epochs = bearing.epochs.clone();
        writer.derived.epochs_changed = true;
        writer.derived.producers = bearing.producers.clone();
        // One that a roll took here knows less.
        writer.derived.newest_snapshot = Offset::ZERO;
        let config = Arc::clone(&self.config.read());
        let marks = bearing.marks;
        self.publish(writer, &config, |view| {
            let durable_end = view.marks.durable_end.max(marks.log_start);
            view.marks = Marks { durable_end, ..marks };
        });
    }
}

/// What a reader may see of the segment with `offset` up to it, for whoever copies files: the segments before, the bytes
/// of the last one, and where they end.
#[derive(Debug)]
pub(crate) struct Prefix {
    pub(crate) glimpse: Glimpse,
    pub(crate) standing: Standing,
    pub(crate) epochs: LeaderEpochs,
    /// By base offset, with the bytes that belong to the prefix and the offset where they end.
    pub(crate) segments: Vec<(Arc<Segment>, Extent)>,
    pub(crate) end: Offset,
}

impl PartitionLog {
    /// The part of the log that is durable when this returns, with everything that was appended before the call.
    pub(crate) fn durable_prefix(&self) -> Result<Prefix, ChangeError> {
        let core = &self.core;
        let mut round = core.round.lock();
        core.sync_under(&mut round)?;
        let view = core.view.read().clone();
        let end = view.marks.durable_end;
        let last = view.segment_of(end);
        let mut segments = Vec::with_capacity(last + 1);
        for (at, segment) in view.segments.iter().enumerate().take(last + 1) {
            let mut extent = view.extent_of(at)?;
            if at == last {
                let (bytes, _) = segment.cut_point(end, extent)?;
                extent = Extent { bytes, end };
            }
            segments.push((Arc::clone(segment), extent));
        }
        let mut epochs = LeaderEpochs::clone(&view.epochs);
        epochs.truncate_from_end(end);
        let marks = view.marks;
        let standing = Standing {
            log_start: Some(marks.log_start),
            high_watermark: Some(marks.high_watermark.min(end)),
            ..core.keeper.standing()
        };
        Ok(Prefix { glimpse: core.glimpse_under(&round), standing, epochs, segments, end })
    }
}

fn refused<E>(refusal: Refusal) -> HandOverError<E> {
    HandOverError::Refused(refusal.into())
}

fn into_change(error: AppendError) -> ChangeError {
    match error {
        AppendError::Failed(failed) => ChangeError::Failed(failed),
        AppendError::Io(failure) => ChangeError::Io(failure),
        _ => ChangeError::Closed,
    }
}

impl PartitionLog {
    /// Where its files are.
    pub(crate) fn home(&self) -> Home {
        self.core.home.clone()
    }
}
