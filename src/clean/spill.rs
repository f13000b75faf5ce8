//! What does not fit the memory, in files.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fs::FileSystem;

/// Where spill files are made, and how they are numbered.
#[derive(Clone, Debug)]
pub(super) struct SpillFiles {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
}

impl SpillFiles {
    /// In a partition's directory, where opening removes what a crash leaves. One pass at a time.
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Self {
        Self { fs, dir }
    }
}
