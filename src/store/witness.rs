//! What our store says beforehand of the lists that it is about to write, in `alluvium.store`, so that the next opening
//! can tell its hand from somebody else's (the rules: `log/directory.rs`).
//!
//! ```text
//! begin                      one write: the prints of now, with and without the marker of a clean shutdown
//!   (after a crash: the lists are written anew)
//!   announce(changes)        one write, or none when no list changes: every print that may be seen from now on
//!   replace the lists ...
//!   settled                  no write: the lists stand, older prints are left out of the next announcement
//! announce_close             before the last lists and the marker are written
//!   replace the lists, write the marker ...
//! closed                     one write: no print but this one
//! ```
//! An announcement stands until the next one, so a crash anywhere leaves a print that is known.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::IoFailure;
use crate::fs::FileSystem;
use crate::log::directory::{DirectoryPrint, DirectoryWord, PrintParts, Witness};

pub(crate) use crate::log::directory::Part;

/// So many prints may be possible at once: failures whose outcome nobody knows, each of several lists. With more than that
/// the next opening may not know one of them, and goes by the lists, which costs a scan.
const POSSIBLE_MAX: usize = 128;

/// The file `alluvium.store` of a data directory that a store has. One thread at a time; under the directory's lock.
#[derive(Debug)]
pub(crate) struct StoreWitness {
    dir: PathBuf,
    written: Witness,
    /// What the lists may be on disk.
    possible: BTreeSet<PrintParts>,
    /// What they are when all announced changes have been made.
    newest: PrintParts,
    /// What the store before may have left. It was not closed, so that what is seen may not be what is durable: after a sync
    /// that failed a power loss brings an older list back, whatever a later sync says.
    inherited: Vec<DirectoryPrint>,
}

/// A file of the data directory that is about to have this content, or to go.
pub(crate) type Change<'a> = (Part, Option<&'a [u8]>);

impl StoreWitness {
    /// Takes the directory over: before anything in it is changed, the marker of the last shutdown included. `word` is
    /// what was read under the lock. Durable when it returns; repeated after a crash it gives the same lineage.
    pub(crate) fn begin(fs: &dyn FileSystem, dir: &Path, word: &DirectoryWord) -> Result<Self, IoFailure> {
        let incarnation = word.witness.as_ref().map_or(0, |witness| witness.incarnation).wrapping_add(1);
        let written = Witness { lineage: word.lineage, incarnation, is_closed: false, prints: Vec::new() };
        let (newest, possible) = (word.parts, BTreeSet::from([word.parts]));
        let unclosed = word.witness.as_ref().filter(|before| !before.is_closed && word.is_unbroken);
        let inherited = unclosed.map(|before| before.prints.clone()).unwrap_or_default();
        let mut witness = Self { dir: dir.to_owned(), written, possible, newest, inherited };
        witness.write(fs, &[(Part::Marker, None)], false)?;
        Ok(witness)
    }

    /// Under which the partitions of the directory are opened.
    #[cfg(test)]
    pub(crate) fn lineage(&self) -> crate::log::directory::Lineage {
        self.written.lineage
    }

    /// How often a store took the directory, this time included.
    #[cfg(test)]
    pub(crate) fn incarnation(&self) -> u64 {
        self.written.incarnation
    }

    /// To be called before files of the directory are replaced or removed, in whatever order and in however many steps.
    /// Durable when it returns; writes nothing where no content changes.
    pub(crate) fn announce(&mut self, fs: &dyn FileSystem, changes: &[Change<'_>]) -> Result<(), IoFailure> {
        self.write(fs, changes, self.written.is_closed)
    }

    /// As [`StoreWitness::announce`], for the last changes before the directory's lock is let go.
    pub(crate) fn announce_close(&mut self, fs: &dyn FileSystem, changes: &[Change<'_>]) -> Result<(), IoFailure> {
        self.write(fs, changes, true)
    }

    /// Every list has been replaced since the beginning, durably: what was there before does not come back.
    pub(crate) fn disinherit(&mut self) {
        self.inherited.clear();
    }

    /// All that was announced has been made, and is durable.
    pub(crate) fn settled(&mut self) {
        self.possible = BTreeSet::from([self.newest]);
    }

    /// The marker is in place, durably: from now on any other print is somebody else's, also the one without it, which is
    /// all that a broker shows that started and died at once. The last thing before the directory's lock is let go.
    pub(crate) fn closed(&mut self, fs: &dyn FileSystem) -> Result<(), IoFailure> {
        self.settled();
        let next = Witness { is_closed: true, prints: vec![self.newest.print()], ..self.written.clone() };
        next.write(fs, &self.dir)?;
        self.written = next;
        Ok(())
    }

    fn write(&mut self, fs: &dyn FileSystem, changes: &[Change<'_>], is_closed: bool) -> Result<(), IoFailure> {
        // What fails may have been written all the same, so it stays possible.
        for (part, content) in changes {
            let after: Vec<_> = self.possible.iter().map(|parts| parts.with(*part, *content)).collect();
            self.possible.extend(after);
            self.newest = self.newest.with(*part, *content);
        }
        while self.possible.len() > POSSIBLE_MAX {
            self.possible.pop_first();
        }
        self.possible.insert(self.newest);
        let mut prints: Vec<_> = self.possible.iter().map(|parts| parts.print()).collect();
        prints.extend(self.inherited.iter().take(POSSIBLE_MAX));
        prints.sort_unstable();
        prints.dedup();
        let is_known = prints.iter().all(|print| self.written.prints.contains(print));
        if is_known && is_closed == self.written.is_closed {
            return Ok(());
        }
        let next = Witness { is_closed, prints, ..self.written.clone() };
        let written = next.write(fs, &self.dir);
        if written.is_ok() {
            self.written = next;
        }
        written
    }
}

#[cfg(test)]
mod hosted_tests;
#[cfg(test)]
mod tests;
