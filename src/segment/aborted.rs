//! The aborted transactions whose markers lie in a segment: in memory, and in its `.txnindex`.

use std::io;

use super::residency::Held;
use super::{FileKind, Segment, SegmentFile};
use crate::error::{Corruption, CorruptionKind, IoFailure, IoOperation, ReadError};
use crate::index::{AbortedTxns, replace_small_file};
use crate::units::FilePosition;

impl Segment {
    /// Replaces what is known of aborted transactions.
    pub(crate) fn put_aborted(&self, aborted: AbortedTxns) {
        self.slots().change(|resident| resident.aborted = Some(Box::new(aborted)));
    }

    /// Adds to what is known of aborted transactions in the active segment.
    pub(crate) fn extend_aborted(&self, extend: impl FnOnce(&mut AbortedTxns)) {
        self.slots().change(|resident| extend(resident.aborted.get_or_insert_default()));
    }

    /// Looks at the aborted transactions, which are read from their file first if need be.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] when the file is wrong, or not known to have been written: they are to be derived from the
    /// log again.
    pub(crate) fn with_aborted<T>(&self, look: impl FnOnce(&AbortedTxns) -> T) -> Result<T, ReadError> {
        {
            let resident = self.slots().look(Held::Index);
            if let Some(aborted) = &resident.aborted {
                return Ok(look(aborted));
            }
        }
        if !self.is_index_saved() {
            // A crash came before the files were written. That there is none says nothing then.
            return Err(self.no_aborted().into());
        }
        let loaded = self.load_aborted()?;
        Ok(self.slots().change(|resident| look(resident.aborted.get_or_insert_with(|| Box::new(loaded)))))
    }

    /// Reads `.txnindex`. It is written before the other index files: once those are there, the lack of this one means
    /// that no transaction was aborted here, and before that it means nothing.
    pub(crate) fn load_aborted(&self) -> Result<AbortedTxns, ReadError> {
        let Some(bytes) = self.read_sidecar(FileKind::TxnIndex)? else {
            if self.is_leaving() {
                // It went with its segment: nothing says that no transaction was aborted here.
                let path = self.home.path(self.base, FileKind::TxnIndex);
                return Err(IoFailure::new(IoOperation::Open, path, io::ErrorKind::NotFound.into()).into());
            }
            return Ok(AbortedTxns::default());
        };
        AbortedTxns::decode(&bytes, self.base).map_err(|_| self.no_aborted().into())
    }

    /// What is said where nobody can tell what was aborted.
    pub(crate) fn no_aborted(&self) -> Corruption {
        let file = self.home.path(self.base, FileKind::TxnIndex);
        Corruption { file, at: FilePosition::START, kind: CorruptionKind::TransactionIndex }
    }

    /// Before the other indexes, and durable by itself: once those are there, the lack of this one means that nothing was
    /// aborted.
    pub(super) fn save_aborted(&self) -> Result<(), IoFailure> {
        let encoded = {
            let resident = self.slots().look(Held::Index);
            let Some(aborted) = &resident.aborted else { return Ok(()) };
            (!aborted.entries().is_empty()).then(|| aborted.encode())
        };
        let name = SegmentFile::live(self.base, FileKind::TxnIndex).name();
        match encoded {
            None => self.home.remove(&name),
            Some(bytes) => replace_small_file(&*self.home.fs, &self.home.dir, &name, &bytes),
        }
    }
}
