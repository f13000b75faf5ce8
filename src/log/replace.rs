//! Putting cleaned segments in the place of those that they were made from.

use std::sync::Arc;

use super::PartitionLog;
use super::cleaning::Staged;
use crate::error::{ChangeError, IoFailure};
use crate::segment::Segment;

/// What a replacement did.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    /// The segments that are in the log now.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Length of the logs that went, and of those that came.
    pub(crate) bytes_before: u64,
    pub(crate) bytes_after: u64,
}

/// Why segments were not replaced. The log is as it was, and the staged files are gone; but where it says that the log
/// failed, the next opening finishes or undoes it.
#[derive(Debug)]
pub(crate) enum ReplaceError {
    /// The segments are not those of the log any more, or more of them is damaged than was known: plan anew.
    Changed,
    /// What was staged cannot take their place: a mistake of the caller's.
    Unfit,
    /// Files could not be changed; tried again it may succeed.
    Io(IoFailure),
    /// A failed or closed log.
    Log(ChangeError),
}

impl PartitionLog {
    /// Puts `outputs` in the place of `inputs`.
    ///
    /// # Errors
    /// [`ReplaceError`].
    pub(crate) fn replace_segments(
        &self,
        inputs: &[Arc<Segment>],
        outputs: Vec<Staged>,
    ) -> Result<Replaced, ReplaceError> {
        let _ = (inputs, outputs);
        unimplemented!("in the next commit")
    }
}
