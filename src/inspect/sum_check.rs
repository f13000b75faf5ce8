//! Holding a sealed segment against its sum, without changing either.

use super::SegmentInfo;
use crate::config::ReadMode;
use crate::error::{IoFailure, IoOperation, SmallFileFault};
use crate::segment::sum::{LogWalk, Verdict, verify};
use crate::segment::{Home, Segment, SegmentOptions};

/// What a sum says of its segment.
pub(super) enum SumVerdict {
    /// There is none.
    Unprotected,
    /// It cannot be used.
    Unreadable(SmallFileFault),
    /// As it was compared.
    Compared(Verdict),
}

/// Reads the log once more if it has a sum.
pub(super) fn judge(home: &Home, info: &SegmentInfo) -> Result<SumVerdict, IoFailure> {
    // How fine a new sum would be is no matter: none is made.
    let options = SegmentOptions { interval_bytes: 0, read_mode: ReadMode::default(), may_have_gaps: true };
    let segment = Segment::sealed(home, info.base, options, Vec::new());
    let sum = match segment.read_sum()? {
        Ok(Some(sum)) => std::sync::Arc::new(sum),
        Ok(None) => return Ok(SumVerdict::Unprotected),
        Err(fault) => return Ok(SumVerdict::Unreadable(fault)),
    };
    let failed = |e| IoFailure::new(IoOperation::Read, &info.path, e);
    let bounds = crate::segment::sum::WalkBounds { next_base: info.next_base, ..segment.walk_bounds() };
    let mut walk = LogWalk::new(segment.file()?, bounds, Some(std::sync::Arc::clone(&sum))).map_err(failed)?;
    while walk.step().map_err(failed)?.is_some() {}
    Ok(SumVerdict::Compared(verify(Some(&sum), &walk.finish(), &segment.stamps()?)))
}
