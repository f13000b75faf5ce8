//! Open files and maps that count for as long as anybody holds them, be it a segment or a slice.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Held, Residency};
use crate::fs::{Advice, BorrowedFd, File, FileSystem, Mapping, OpenMode};

/// A descriptor in the budget: taken before the file is opened, given back when the last holder closes it.
#[derive(Debug)]
pub(crate) struct FileRoom {
    residency: Arc<Residency>,
}

impl FileRoom {
    /// Takes one, and closes what must be closed for it. There always is one: whether a file can be opened is for the
    /// system to say.
    pub(crate) fn take(residency: &Arc<Residency>) -> Self {
        residency.files.take(1);
        residency.files.make_room(Held::File);
        residency.files.note_peak();
        Self { residency: Arc::clone(residency) }
    }

    /// Opens a file in it.
    pub(crate) fn open(self, fs: &dyn FileSystem, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = fs.open(path, mode)?;
        Ok(Arc::new(CountedFile { file, _room: self }))
    }
}

impl Drop for FileRoom {
    fn drop(&mut self) {
        self.residency.files.give_back(1);
    }
}

/// A map in the budget.
#[derive(Debug)]
pub(crate) struct MapRoom {
    residency: Arc<Residency>,
}

impl MapRoom {
    /// Takes one, and takes down what must be taken down for it; `None` when nothing can be.
    pub(crate) fn take(residency: &Arc<Residency>) -> Option<Self> {
        let limit = residency.limits().maps;
        if limit == 0 {
            return None;
        }
        residency.maps.take(1);
        let room = Self { residency: Arc::clone(residency) };
        residency.maps.make_room(Held::Map);
        if residency.maps.is_over() {
            return None;
        }
        residency.maps.note_peak();
        Some(room)
    }

    /// Maps the first `len` bytes of `file` in it.
    pub(crate) fn map(self, file: &dyn File, len: u64) -> io::Result<Arc<dyn Mapping>> {
        let mapping = file.map(len)?;
        Ok(Arc::new(CountedMapping { mapping, _room: self }))
    }
}

impl Drop for MapRoom {
    fn drop(&mut self) {
        self.residency.maps.give_back(1);
    }
}

/// Fields are dropped in order: the descriptor is closed before its room is given back.
#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn File>,
    _room: FileRoom,
}

impl File for CountedFile {
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

#[derive(Debug)]
struct CountedMapping {
    mapping: Arc<dyn Mapping>,
    _room: MapRoom,
}

impl Mapping for CountedMapping {
    fn bytes(&self) -> &[u8] {
        self.mapping.bytes()
    }
}
