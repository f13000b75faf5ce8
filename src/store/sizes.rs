//! How much there may be to scan.

use std::path::Path;

use crate::error::{IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::segment::{FileKind, SegmentFile, Stage};

/// Size of the newest segment's log in a partition's directory: what is scanned at least, unless it was closed cleanly.
pub(super) fn newest_log_bytes(fs: &dyn FileSystem, dir: &Path) -> Result<u64, IoFailure> {
    let entries = fs.list(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    let is_log = |file: &SegmentFile| file.kind == FileKind::Log && file.stage == Stage::Live;
    let newest = entries.iter().filter_map(SegmentFile::of).filter(is_log).max_by_key(|file| file.base);
    // It may go meanwhile; the opening itself will say.
    let bytes = newest.and_then(|file| fs.metadata(&dir.join(file.name())).ok());
    Ok(bytes.map_or(0, |found| found.len))
}
