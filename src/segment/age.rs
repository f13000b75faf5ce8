//! How large and how old a segment is, asked without opening its files.

use std::io;
use std::sync::atomic::Ordering;

use super::{FileKind, Segment};
use crate::error::{IoFailure, IoOperation};
use crate::units::TimestampMs;

impl Segment {
    /// Size in bytes of a sealed segment. Unlike [`Segment::bytes`] it takes no descriptor: a hundred thousand segments
    /// may be asked.
    pub(crate) fn size_on_disk(&self) -> Result<u64, IoFailure> {
        if let Some(bytes) = self.sealed_bytes.get() {
            return Ok(bytes);
        }
        let path = self.home.path(self.base, FileKind::Log);
        let found = match self.home.fs.metadata(&path) {
            // Somebody else removed it. It takes no space, and must not keep the others from going.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            found => found.map_err(|e| IoFailure::new(IoOperation::List, path, e))?,
        };
        Ok(self.sealed_bytes.set(found.len))
    }

    /// When the segment was last appended to, as the modification time of its `.log` says; kept for sealed ones. `now`
    /// where the file system does not tell, or tells of a time to come: nobody can have written then.
    pub(crate) fn last_written(&self, now: TimestampMs, is_active: bool) -> Result<TimestampMs, IoFailure> {
        if let Some(written) = self.written.get() {
            return Ok(TimestampMs::new(written.cast_signed()));
        }
        let path = self.home.path(self.base, FileKind::Log);
        let found = self.home.fs.metadata(&path).map_err(|e| IoFailure::new(IoOperation::List, path, e))?;
        let written = found.modified.unwrap_or(now).min(now);
        if is_active {
            return Ok(written);
        }
        Ok(TimestampMs::new(self.written.set(written.value().cast_unsigned()).cast_signed()))
    }

    /// Its files are about to go, or to be others by the same names: from now on a missing side file says nothing about
    /// the segment, and its log is not opened any more.
    pub(crate) fn mark_leaving(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    /// Its files are about to get other names, and those of another segment to come under theirs. Who reads it goes on with
    /// the file that is opened here, and with the index that is in memory from now on.
    pub(crate) fn pin(&self) -> Result<(), IoFailure> {
        self.slots().allow_dropping(false);
        let pinned = self.file().and_then(|_| self.build_index());
        if pinned.is_err() {
            self.slots().allow_dropping(true);
        }
        pinned
    }

    /// Nothing came of it: its files are its own, and those of its index current if they were.
    pub(crate) fn unpin(&self, is_index_saved: bool) {
        self.is_leaving.store(false, Ordering::Release);
        self.mark_index_saved(is_index_saved);
        self.slots().allow_dropping(true);
    }

    /// It has left the log, and nobody reads it any more: lets go of its descriptor and indexes at once.
    pub(crate) fn let_go(&self) {
        self.slots().clear();
    }

    /// It is as old as the one that was written last of those that it takes the place of, whatever its file says.
    pub(crate) fn inherit_age(&self, written: TimestampMs) {
        self.written.set(written.value().cast_unsigned());
    }

    /// Whether its files may be gone.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }
}
