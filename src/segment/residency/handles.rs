//! Open files and maps that count for as long as anybody holds them, be it a segment or a slice.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Held, Residency};
use crate::fs::{File, FileIn, FileSystem, Mapping, OpenMode};

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
        Ok(Arc::new(FileIn::new(file, self)))
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
