//! After a sync that failed, or may have: what is in the page cache is not what is on the disk, and the next sync may
//! have nothing to do and succeed. So everything that counts is written, renamed or removed once more.
//!
//! A name whose removal may not have reached the disk has to be that very name to be removed again: any other one leaves its
//! own entry in the directory as it was. So the log of a segment that is gone is made, empty, and removed at once. Should
//! this process end just between the two, the next opening of ours is in doubt still, and does it again. Kafka, if it were
//! to open the directory exactly then, would take the empty log for a segment, and would not read offsets of the segment
//! before it that lie past that base offset. Nothing is lost: with the empty log removed by hand, or by an opening of ours,
//! they are there.

use std::sync::Arc;

use super::recover::Unjudged;
use super::report::{Found, RecoveryReport};
use super::survey::{Scanned, Survey, live_logs};
use crate::error::{IoFailure, IoOperation, OpenError};
use crate::fs::{self, DirEntry, File, OpenMode};
use crate::segment::{FileKind, SegmentFile, Stage, names, scan};
use crate::units::Offset;

/// The files that a swap gives names to.
const SWAPPED: [FileKind; 5] = [FileKind::Sum, FileKind::TxnIndex, FileKind::TimeIndex, FileKind::Index, FileKind::Log];

impl Unjudged {
    /// After a directory sync that may have failed: removes the indexes of what will be scanned, also those that are not
    /// there any more. One of a shorter log could come back with a power loss, when its segment is no longer looked at.
    pub(super) fn remove_indexes(&self) -> Result<(), OpenError> {
        let bases = live_logs(&self.home.list()?);
        for base in bases.iter().skip(self.first_uncovered(&bases)) {
            for kind in [FileKind::Index, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Sum] {
                drop(self.home.open(&self.home.path(*base, kind), OpenMode::CreateOrOpen)?);
            }
            self.home.remove_index(*base)?;
        }
        Ok(())
    }

    /// After a sync that may have failed: writes what lies past the durable end again, in place, so that the coming
    /// sync has something to write whatever the page cache believes. Size and name are made to change too.
    /// Returns whether what was written is what was scanned.
    pub(super) fn rewrite(&self, survey: &Survey) -> Result<bool, OpenError> {
        let durable_end = self.durable_end.unwrap_or_default();
        let mut is_same = true;
        for Scanned { base, scan, .. } in &survey.scanned {
            let path = self.home.path(*base, FileKind::Log);
            let failed = |operation| {
                let path = path.clone();
                move |e| IoFailure::new(operation, path, e)
            };
            let file = self.home.open(&path, OpenMode::ReadWrite)?;
            let below = Offset::new(durable_end.value() - 1);
            let from = below.and_then(|below| scan.index.offsets.at_or_before(*base, below));
            let from = from.map_or(0, |entry| u64::from(entry.position));
            rewrite_range(&*file, from, scan.kept_bytes).map_err(failed(IoOperation::Write))?;
            file.set_len(scan.file_bytes + 1).map_err(failed(IoOperation::SetLen))?;
            file.set_len(scan.file_bytes).map_err(failed(IoOperation::SetLen))?;
            let is_whole = scan::is_whole(Arc::clone(&file), from..scan.kept_bytes);
            is_same &= scan.holes.is_empty() && is_whole.map_err(failed(IoOperation::Read))?;
            // Also where the name has long been durable: a cut may have put another file under it. Not with the suffix
            // of a swap, which a leftover of an unfinished cut would turn into something to be removed.
            let (live, touched) = (SegmentFile::live(*base, FileKind::Log).name(), names::touched(*base));
            self.home.rename(&live, &touched)?;
            self.home.rename(&touched, &live)?;
        }
        Ok(is_same)
    }

    /// After a directory sync that may have failed: removes again what was removed, so that the coming sync has
    /// something to do and the old segments do not come back with a power loss.
    pub(super) fn remove_again(&self) -> Result<(), OpenError> {
        self.forget_unfinished()?;
        let live = live_logs(&self.home.list()?);
        for base in &self.removed {
            if live.binary_search(base).is_ok() {
                self.touch_again(*base)?;
            } else {
                let path = self.home.path(*base, FileKind::Log);
                drop(self.home.open(&path, OpenMode::CreateOrOpen)?);
                self.home.remove_segment(*base)?;
            }
            // One that is there was written after that, or is removed if it lies past the end.
            let path = self.home.path(*base, FileKind::Snapshot);
            if self.home.fs.metadata(&path).is_err() {
                drop(self.home.open(&path, OpenMode::CreateOrOpen)?);
                self.home.remove(&SegmentFile::live(*base, FileKind::Snapshot).name())?;
            }
        }
        Ok(())
    }

    /// After a directory sync that may have failed in a swap: names of unfinished files that are gone could come back with
    /// a power loss, and have a later swap pass for one that is not complete.
    fn forget_unfinished(&self) -> Result<(), OpenError> {
        for base in &self.removed {
            for kind in SWAPPED {
                self.make_and_remove(SegmentFile::live(*base, kind).at(Stage::Cleaned))?;
            }
        }
        if !self.removed.is_empty() {
            self.home.sync_names()?;
        }
        Ok(())
    }

    /// Makes the names of a segment change that a swap may have put in place: one that is not durable would lose it to the
    /// segment before, or to an older swap. By the names of a swap, which is finished whenever a crash comes; nothing is
    /// unfinished any more.
    fn touch_again(&self, base: Offset) -> Result<(), OpenError> {
        for kind in SWAPPED {
            let live = SegmentFile::live(base, kind);
            let (live_name, swap_name) = (live.name(), live.at(Stage::Swap).name());
            if self.home.fs.metadata(&self.home.dir.join(&live_name)).is_ok() {
                self.home.rename(&live_name, &swap_name)?;
                self.home.rename(&swap_name, &live_name)?;
            } else {
                self.make_and_remove(live)?;
                self.make_and_remove(live.at(Stage::Swap))?;
            }
        }
        Ok(())
    }

    fn make_and_remove(&self, file: SegmentFile) -> Result<(), OpenError> {
        let name = file.name();
        drop(self.home.open(&self.home.dir.join(&name), OpenMode::CreateOrOpen)?);
        Ok(self.home.remove(&name)?)
    }

    /// Gives a log its name back that lost it while names were made to change.
    pub(super) fn put_back(
        &self,
        entries: &[DirEntry],
        base: Offset,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let (touched, live) = (names::touched(base), SegmentFile::live(base, FileKind::Log).name());
        report.note(Found::LeftoverTouched, self.config.on_damage, touched.clone(), 0, Some(base));
        // A log never has both names; should it, nothing is thrown away.
        let is_taken = entries.iter().any(|entry| entry.name == live);
        Ok(self.home.rename(&touched, &if is_taken { names::aside(entries, base) } else { live })?)
    }

    /// Syncs the size of a covered segment whose zeros were cut off by a process that may have died before it synced
    /// the cut: a power loss would bring them back, behind a recovery point that nobody looks behind.
    pub(super) fn sync_cut(&self, base: Offset) -> Result<(), OpenError> {
        let path = self.home.path(base, FileKind::Log);
        let file = self.home.open(&path, OpenMode::ReadWrite)?;
        let failed = |operation| {
            let path = path.clone();
            move |e| IoFailure::new(operation, path, e)
        };
        if self.is_in_doubt {
            let bytes = file.size().map_err(failed(IoOperation::Read))?;
            file.set_len(bytes + 1).map_err(failed(IoOperation::SetLen))?;
            file.set_len(bytes).map_err(failed(IoOperation::SetLen))?;
        }
        Ok(file.sync_data().map_err(failed(IoOperation::Sync))?)
    }
}

/// Reads and writes back `from..to`.
fn rewrite_range(file: &dyn File, from: u64, to: u64) -> std::io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut at = from;
    let mut buffer = vec![0; usize::try_from(to.saturating_sub(from).min(PIECE_BYTES)).unwrap_or_default()];
    while at < to {
        let piece = usize::try_from((to - at).min(PIECE_BYTES)).unwrap_or_default();
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        fs::read_exact_at(file, piece, at)?;
        fs::write_all_at(file, piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}
