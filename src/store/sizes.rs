//! How much there may be to scan.

use std::path::Path;

use crate::error::{IoFailure, IoOperation};
use crate::fs::FileSystem;
use crate::segment::{FileKind, SegmentFile, Stage};
use crate::units::Offset;

/// Bytes that opening a partition may have to scan: those of the segments that its recovery point does not cover whole.
pub(super) fn bytes_to_scan(fs: &dyn FileSystem, dir: &Path, recovery_point: Option<Offset>) -> Result<u64, IoFailure> {
    let entries = fs.list(dir).map_err(|e| IoFailure::new(IoOperation::List, dir, e))?;
    let is_log = |file: &SegmentFile| file.kind == FileKind::Log && file.stage == Stage::Live;
    let mut logs: Vec<SegmentFile> = entries.iter().filter_map(SegmentFile::of).filter(is_log).collect();
    logs.sort_by_key(|file| file.base);
    let point = recovery_point.unwrap_or_default();
    let covered = logs.partition_point(|file| file.base <= point).saturating_sub(1);
    // They may go meanwhile; the opening itself will say.
    let size = |file: &SegmentFile| fs.metadata(&dir.join(file.name())).map_or(0, |found| found.len);
    Ok(logs.iter().skip(covered).map(size).sum())
}
