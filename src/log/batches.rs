//! What is appended, and how.

use crate::index::VerificationGuard;
use crate::record::{Origin, RecordBatch};
use crate::units::{LeaderEpoch, Offset};

/// Batches to append: each buffer holds one or several whole record batches, one after the other. Buffers that are
/// owned or lent mutably are stamped in place; borrowed ones are copied first.
///
/// ```
/// use alluvium::Batches;
/// let bytes = vec![0_u8; 61];
/// let _: Batches<'_> = bytes.as_slice().into();   // copied, then stamped
/// let _: Batches<'_> = bytes.into();              // stamped in place, no copy
/// ```
#[derive(Debug)]
pub enum Batches<'a> {
    /// A buffer given away.
    Owned(Vec<u8>),
    /// Bytes to be copied.
    Borrowed(&'a [u8]),
    /// A buffer that the caller keeps. Afterwards it holds the stamped bytes; what it held before if the append fails, is
    /// a duplicate, or any of its batches was recompressed.
    InPlace(&'a mut [u8]),
    /// Several buffers, written with one vectored call.
    Many(Vec<Vec<u8>>),
}

impl From<Vec<u8>> for Batches<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl<'a> From<&'a [u8]> for Batches<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Batches<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Batches<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::InPlace(bytes)
    }
}

impl<'a> From<&'a mut Vec<u8>> for Batches<'a> {
    fn from(bytes: &'a mut Vec<u8>) -> Self {
        Self::InPlace(bytes)
    }
}

impl From<Vec<Vec<u8>>> for Batches<'_> {
    fn from(buffers: Vec<Vec<u8>>) -> Self {
        Self::Many(buffers)
    }
}

impl From<RecordBatch> for Batches<'_> {
    fn from(batch: RecordBatch) -> Self {
        Self::Owned(batch.into_bytes())
    }
}

impl From<Vec<RecordBatch>> for Batches<'_> {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self::Many(batches.into_iter().map(RecordBatch::into_bytes).collect())
    }
}

/// On whose behalf an append is made; decides what is checked and who assigns offsets (format: Kafka's `LogValidator`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendAs {
    /// A producer's batches, taken by the leader: offset 0 in, offsets assigned here.
    Client {
        /// The leader's epoch, stamped into each batch.
        epoch: LeaderEpoch,
    },
    /// The leader's own: control batches are allowed, sequences may be missing.
    Coordinator {
        /// The leader's epoch, stamped into each batch.
        epoch: LeaderEpoch,
    },
    /// Batches fetched from the leader, written verbatim: offsets and epochs are given.
    Follower,
}

impl AppendAs {
    pub(super) fn origin(self) -> Origin {
        match self {
            Self::Client { .. } => Origin::Client,
            Self::Coordinator { .. } => Origin::Coordinator,
            Self::Follower => Origin::Follower,
        }
    }

    pub(super) fn epoch(self) -> Option<LeaderEpoch> {
        match self {
            Self::Client { epoch } | Self::Coordinator { epoch } => Some(epoch),
            Self::Follower => None,
        }
    }
}

/// How an append is made: on whose behalf, and under which conditions. Made from an [`AppendAs`] where there are none.
///
/// ```
/// use alluvium::{AppendAs, AppendOptions, LeaderEpoch, Offset};
/// let epoch = LeaderEpoch::new(0).unwrap();
/// let how = AppendOptions::new(AppendAs::Client { epoch }).expecting(Offset::ZERO).fenced_by(7);
/// assert_eq!(how.expected_end, Some(Offset::ZERO));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendOptions {
    /// On whose behalf.
    pub origin: AppendAs,
    /// Append only if the log ends here, so that of several writers who read the same end one succeeds.
    pub expected_end: Option<Offset>,
    /// The token that was announced with [`PartitionLog::fence`](super::PartitionLog::fence). Needed once one was.
    pub fencing_token: Option<u64>,
    /// What [`PartitionLog::begin_verification`](super::PartitionLog::begin_verification) gave, for the batch that
    /// begins a transaction (KIP-890).
    pub verification: Option<VerificationGuard>,
}

impl AppendOptions {
    /// Without conditions.
    pub fn new(origin: AppendAs) -> Self {
        Self { origin, expected_end: None, fencing_token: None, verification: None }
    }

    /// Only if the log ends at `end`.
    #[must_use]
    pub fn expecting(self, end: Offset) -> Self {
        Self { expected_end: Some(end), ..self }
    }

    /// With a fencing token.
    #[must_use]
    pub fn fenced_by(self, token: u64) -> Self {
        Self { fencing_token: Some(token), ..self }
    }

    /// With a verification guard.
    #[must_use]
    pub fn verified_by(self, guard: VerificationGuard) -> Self {
        Self { verification: Some(guard), ..self }
    }
}

impl From<AppendAs> for AppendOptions {
    fn from(origin: AppendAs) -> Self {
        Self::new(origin)
    }
}
