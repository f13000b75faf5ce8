//! A file that takes up room which is given back once it is closed.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{Advice, BorrowedFd, File, Mapping};

/// A file and what its being open takes up. Fields are dropped in order: it is closed before the room is given back.
/// Every call is passed on; the one place for whatever [`File`] learns.
#[derive(Debug)]
pub(crate) struct FileIn<R> {
    file: Arc<dyn File>,
    _room: R,
}

impl<R> FileIn<R> {
    /// `file`, which keeps `room` for as long as it is open.
    pub(crate) fn new(file: Arc<dyn File>, room: R) -> Self {
        Self { file, _room: room }
    }
}

impl<R: Send + Sync + fmt::Debug> File for FileIn<R> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(buf, at)
    }

    fn write_vectored_at(&self, bufs: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.file.write_vectored_at(bufs, at)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.file.allocate(at, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn Mapping>> {
        // A map has no descriptor of its own.
        self.file.map(len)
    }

    fn advise(&self, at: u64, len: u64, advice: Advice) -> io::Result<()> {
        self.file.advise(at, len, advice)
    }

    fn send_to(&self, socket: BorrowedFd<'_>, position: u64, len: u64) -> io::Result<u64> {
        self.file.send_to(socket, position, len)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}
