//! The names in a swap: one step after the other, and back again when one fails.
//!
//! | | step | what a crash after it leaves, and what an opening makes of it |
//! |---|---|---|
//! | 1 | the names of the staged files are synced | `.cleaned` files: removed |
//! | 2 | staged sets get the suffix `.swap`, highest base offset first and the log of a set last; a directory sync after each set | with any `.cleaned` file at or below them, `.swap` files are removed. The sync of the lowest set is the commit |
//! | 3 | sums of the old segments go; their files get the suffix `.deleted`, oldest segment first, the log of each last; directory sync | the `.swap` logs name the offsets that they cover, and each old file within them is removed |
//! | 4 | `.swap` files get their names, lowest base offset first and the log of a set first; directory sync | a `.swap` log as before; without one, `.swap` files beside a log of their base are its indexes |
//!
//! The order of the renames is that of Apache Kafka's `LocalLog.replaceSegments`, and what an opening makes of them is what
//! Kafka's `LogLoader` does. Where this has a directory sync and Kafka has none, the loss that its lack would cause: after 1
//! and within 2, a `.swap` log whose siblings have no name yet (it would be finished, and what the others hold be lost);
//! between 3 and 4, a new log without the end of an old one's (both would have the same offsets).
//!
//! Kafka does right by every state that this leaves but one: where a power loss kept the rename of an index in step 4 and
//! not that of its log, it removes the index with the old files and builds it again, as we do.
//!
//! A step that fails is taken back together with all before it, in the reverse order with the same syncs, so that a crash
//! in between leaves one of the states above. Once a directory sync failed, or a step cannot be taken back, nobody knows
//! which names are durable: the log latches and the next opening decides.

use std::io;

use crate::error::{IoFailure, IoOperation};
use crate::segment::{CleanedSegment, FileKind, Home, SegmentFile, Stage};
use crate::units::Offset;

/// The kinds of files that wait under another name, in the order in which they get it.
const RETIRED: [FileKind; 4] = [FileKind::TxnIndex, FileKind::TimeIndex, FileKind::Index, FileKind::Log];

/// A step that was taken, or tried.
#[derive(Debug)]
enum Step {
    Renamed { from: String, to: String },
    Synced,
}

/// How a swap went wrong.
#[derive(Debug)]
pub(super) enum SwapFailure {
    /// The old segments are in their place again, durably but for their sums, and the outputs staged as they were.
    TakenBack(IoFailure),
    /// Nobody knows which names are durable.
    Unknown(IoFailure),
}

/// A swap on its way.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    home: &'a Home,
    steps: Vec<Step>,
}

impl<'a> Swap<'a> {
    pub(super) fn new(home: &'a Home) -> Self {
        Self { home, steps: Vec::new() }
    }

    /// Puts the staged `outputs` (base offsets rising) in the place of the segments at `inputs` (rising).
    pub(super) fn run(mut self, inputs: &[Offset], outputs: &[&CleanedSegment]) -> Result<(), SwapFailure> {
        let Err(failure) = self.forward(inputs, outputs) else { return Ok(()) };
        if failure.operation == IoOperation::Sync {
            return Err(SwapFailure::Unknown(failure));
        }
        match self.back() {
            Ok(()) => Err(SwapFailure::TakenBack(failure)),
            Err(failure) => Err(SwapFailure::Unknown(failure)),
        }
    }

    fn forward(&mut self, inputs: &[Offset], outputs: &[&CleanedSegment]) -> Result<(), IoFailure> {
        // Left of an earlier swap of the same base offset: a step that failed is taken back by the names that are there.
        for base in inputs {
            self.home.remove_deleted(*base)?;
        }
        self.sync()?;
        for output in outputs.iter().rev() {
            for kind in &output.kinds {
                let file = SegmentFile::live(output.base, *kind);
                self.rename(file.at(Stage::Cleaned), file.at(Stage::Swap))?;
            }
            self.sync()?;
        }
        for base in inputs {
            self.home.remove(&SegmentFile::live(*base, FileKind::Sum).name())?;
            for kind in RETIRED {
                let file = SegmentFile::live(*base, kind);
                self.rename_if_there(file, file.at(Stage::Deleted))?;
            }
        }
        self.sync()?;
        for output in outputs {
            for kind in output.kinds.iter().rev() {
                let file = SegmentFile::live(output.base, *kind);
                self.rename(file.at(Stage::Swap), file)?;
            }
        }
        self.sync()
    }

    fn rename(&mut self, from: SegmentFile, to: SegmentFile) -> Result<(), IoFailure> {
        let (from, to) = (from.name(), to.name());
        let renamed = self.home.rename(&from, &to);
        // Noted also when it failed: it may have been done all the same.
        self.steps.push(Step::Renamed { from, to });
        renamed
    }

    fn rename_if_there(&mut self, from: SegmentFile, to: SegmentFile) -> Result<(), IoFailure> {
        match self.rename(from, to) {
            Err(failure) if failure.source.kind() == io::ErrorKind::NotFound => {
                self.steps.pop();
                Ok(())
            }
            renamed => renamed,
        }
    }

    fn sync(&mut self) -> Result<(), IoFailure> {
        self.home.sync_names()?;
        self.steps.push(Step::Synced);
        Ok(())
    }

    /// Takes back every step, the last one first. Durable when it returns: what was staged may be other bytes next time,
    /// and a `.swap` file that came back with a power loss would take the place of newer ones.
    fn back(&mut self) -> Result<(), IoFailure> {
        let mut is_last = true;
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Renamed { from, to } => self.rename_back(&from, &to, is_last)?,
                Step::Synced => self.home.sync_names()?,
            }
            is_last = false;
        }
        self.home.sync_names()
    }

    /// `is_unsure`: the step failed, and may have been done or not.
    fn rename_back(&self, from: &str, to: &str, is_unsure: bool) -> Result<(), IoFailure> {
        match self.home.fs.metadata(&self.home.dir.join(from)) {
            Ok(_) if is_unsure => return Ok(()),
            _ => {}
        }
        self.home.rename(to, from)
    }
}
