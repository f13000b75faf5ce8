//! What an opening makes of files that are on their way: out, being written, or being swapped in (Kafka's `LogLoader`,
//! steps 1 to 3; how they come about is in `swap`).
//!
//! Every step may be repeated. Where the meaning of a file hangs on another one that goes too, the directory is synced in
//! between: unfinished files show that `.swap` files beside them are no complete set, so those go first; and a log that is
//! swapped in shows which old segments are to go, so they go before it loses the name that says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::derived::derived_bytes;
use super::recover::Unjudged;
use super::report::{Found, RecoveryReport};
use super::survey::live_logs;
use crate::error::{IoFailure, IoOperation, OpenError};
use crate::fs::{File, OpenMode};
use crate::segment::names::{self, Known};
use crate::segment::scan::{self, ScanTask};
use crate::segment::sum::Sum;
use crate::segment::{FileKind, SegmentFile, Stage};
use crate::units::Offset;

impl Unjudged {
    /// Brings unfinished swaps and removals to their end.
    pub(super) fn clear_leftovers(&self, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let entries = self.home.list()?;
        let files: Vec<SegmentFile> = entries.iter().filter_map(SegmentFile::of).collect();
        let at = |stage| files.iter().copied().filter(move |file| file.stage == stage);
        let smallest_unfinished = at(Stage::Cleaned).map(|file| file.base).min();
        let is_partial = |file: &SegmentFile| smallest_unfinished.is_some_and(|unfinished| file.base >= unfinished);
        let (partial, swaps): (Vec<SegmentFile>, Vec<SegmentFile>) = at(Stage::Swap).partition(is_partial);
        let mut did_anything = self.remove_leftovers(at(Stage::Deleted), &Found::LeftoverDeleted, report)?;
        if self.remove_leftovers(partial.into_iter(), &Found::LeftoverPartialSwap, report)? {
            // Without what is unfinished beside them they would pass for complete.
            self.home.sync_names()?;
        }
        did_anything |= self.remove_leftovers(at(Stage::Cleaned), &Found::LeftoverUnfinished, report)?;
        did_anything |= self.finish_swaps(swaps, &files, report)?;
        for entry in &entries {
            match names::classify(entry) {
                Known::Temporary => self.home.remove(&entry.name)?,
                Known::Touched(base) => self.put_back(&entries, base, report)?,
                _ => continue,
            }
            did_anything = true;
        }
        did_anything |= self.clear_orphans(report)?;
        if did_anything {
            self.home.sync_names()?;
        }
        Ok(())
    }

    /// Removes the files; returns whether there were any.
    fn remove_leftovers(
        &self,
        files: impl Iterator<Item = SegmentFile>,
        found: &Found,
        report: &mut RecoveryReport,
    ) -> Result<bool, IoFailure> {
        let mut did_anything = false;
        for file in files {
            report.note(found.clone(), self.config.on_damage, file.name(), 0, Some(file.base));
            self.home.remove(&file.name())?;
            did_anything = true;
        }
        Ok(did_anything)
    }

    /// Gives complete sets their names, after the segments that they take the place of are gone. Returns whether there were
    /// any.
    fn finish_swaps(
        &self,
        mut swaps: Vec<SegmentFile>,
        files: &[SegmentFile],
        report: &mut RecoveryReport,
    ) -> Result<bool, OpenError> {
        let is_live_log = |base: Offset| files.contains(&SegmentFile::live(base, FileKind::Log));
        let mut covers = BTreeMap::new();
        let mut is_unusable = false;
        let logs: Vec<SegmentFile> = swaps.iter().copied().filter(|file| file.kind == FileKind::Log).collect();
        for log in logs {
            match self.covered_by(log.base)? {
                Some(next) => drop(covers.insert(log.base, next)),
                // It says nothing; what it was to take the place of says more.
                None if is_live_log(log.base) => {
                    let (bad, good) = swaps.into_iter().partition::<Vec<_>, _>(|file| file.base == log.base);
                    swaps = good;
                    is_unusable |= self.remove_leftovers(bad.into_iter(), &Found::LeftoverPartialSwap, report)?;
                }
                None => {}
            }
        }
        let range =
            covers.keys().next().copied().unwrap_or_default()..covers.values().max().copied().unwrap_or_default();
        let is_replaced = |file: &&SegmentFile| {
            let is_snapshot_of_new = file.kind == FileKind::Snapshot && covers.contains_key(&file.base);
            file.stage == Stage::Live && range.contains(&file.base) && !is_snapshot_of_new
        };
        let replaced = files.iter().filter(is_replaced).copied();
        if self.remove_leftovers(replaced, &Found::LeftoverReplaced, report)? {
            self.home.sync_names()?;
        }
        // Lowest base offset first, and the log of a set first: see `swap`.
        swaps.sort_unstable_by_key(|file| (file.base, file.kind));
        for file in &swaps {
            report.note(Found::LeftoverSwap, self.config.on_damage, file.name(), 0, Some(file.base));
            self.home.rename(&file.name(), &file.at(Stage::Live).name())?;
        }
        Ok(is_unusable || !swaps.is_empty())
    }

    /// The offset after the last one of a log that is being swapped in: its sum says it, or else its batches do. `None` when
    /// no batch of it can be read.
    fn covered_by(&self, base: Offset) -> Result<Option<Offset>, IoFailure> {
        let swap = |kind| SegmentFile::live(base, kind).at(Stage::Swap).name();
        let path = self.home.dir.join(swap(FileKind::Log));
        let file: Arc<dyn File> = self.home.open(&path, OpenMode::Read)?;
        let failed = |e| IoFailure::new(IoOperation::Read, &path, e);
        let bytes = file.size().map_err(failed)?;
        let sum = derived_bytes(&self.home, &swap(FileKind::Sum))?.and_then(|sum| Sum::decode(&sum, base).ok());
        if let Some(sum) = sum.filter(|sum| sum.log_bytes() == bytes && sum.end() > base) {
            return Ok(Some(sum.end()));
        }
        let (interval_bytes, next_base) = (self.options.interval_bytes, None);
        let task = ScanTask { base, next_base, durable_below: Offset::MAX, interval_bytes, may_have_gaps: true };
        let mut next = None;
        scan::scan_each(file, task, |_, header, _| {
            next = Some(header.next_offset());
            Ok(())
        })
        .map_err(failed)?;
        Ok(next)
    }

    fn clear_orphans(&self, report: &mut RecoveryReport) -> Result<bool, OpenError> {
        let entries = self.home.list()?;
        let logs = live_logs(&entries);
        let mut did_anything = false;
        for file in entries.iter().filter_map(SegmentFile::of) {
            let is_sidecar = !matches!(file.kind, FileKind::Log | FileKind::Snapshot);
            if file.stage == Stage::Live && is_sidecar && logs.binary_search(&file.base).is_err() {
                report.note(Found::OrphanIndex, self.config.on_damage, file.name(), 0, Some(file.base));
                self.home.remove(&file.name())?;
                did_anything = true;
            }
        }
        Ok(did_anything)
    }

    /// Removes empty logs below the recovery point. The active segment, which alone may be empty, lies at or past it; these
    /// are what a crash in [`Unjudged::remove_again`] leaves, and would hide the records of the segment before them.
    pub(super) fn remove_empty(&self, report: &mut RecoveryReport) -> Result<(), OpenError> {
        for base in self.empty_logs()? {
            let name = SegmentFile::live(base, FileKind::Log).name();
            report.note(Found::EmptyLog, self.config.on_damage, name, 0, Some(base));
            self.home.remove_segment(base)?;
        }
        Ok(())
    }

    /// Removes segments wholly below the log start, which was durable before this began. What comes back of them is removed
    /// again.
    pub(super) fn remove_hidden(&self, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let bases = live_logs(&self.home.list()?);
        for base in bases.iter().take(self.hidden(&bases)) {
            let name = SegmentFile::live(*base, FileKind::Log).name();
            report.note(Found::BelowLogStart, self.config.on_damage, name, 0, Some(*base));
            self.home.remove(&SegmentFile::live(*base, FileKind::Snapshot).name())?;
            self.home.remove_segment(*base)?;
        }
        Ok(())
    }

    /// Empty logs below the recovery point.
    pub(super) fn empty_logs(&self) -> Result<Vec<Offset>, IoFailure> {
        let durable_end = self.restart.or(self.durable_end).unwrap_or_default();
        let mut empty = Vec::new();
        // One that is known to have lost its records is what remembers them.
        let is_known = |base: &Offset| self.known_damage.iter().any(|(at, _)| at == base);
        let below = |base: &Offset| *base < durable_end && !is_known(base);
        for base in live_logs(&self.home.list()?).into_iter().filter(below) {
            let path = self.home.path(base, FileKind::Log);
            let found = self.home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
            if found.len == 0 {
                empty.push(base);
            }
        }
        Ok(empty)
    }
}
