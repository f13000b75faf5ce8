//! What a partition remembers of its idempotent and transactional producers: enough to recognise a batch that is sent
//! again, to refuse a gap or a fenced incarnation, and to know which transactions are open.
//!
//! A machine without I/O, clock or lock: batches and values in, values out. Every batch in the log is applied in order,
//! whoever wrote it; only what a client or a coordinator is about to append is judged first. The rules are those of
//! Kafka's `ProducerStateManager`, `ProducerAppendInfo` and `UnifiedLog.analyzeAndValidateProducerState` (KIP-98,
//! KIP-890). Where one call brings several batches, which Kafka's clients never do, each is judged against the state
//! after those before it, and all are taken or none.
//!
//! | file | what it holds |
//! |---|---|
//! | `state` | the table of producers: batches applied, expiry, the bound on memory |
//! | `judge` | whether an append may be taken |
//! | `entry` | one producer, with the batches that would be recognised |
//! | `transactions` | which transactions are open or decided but not replicated |
//! | `verification` | guards against writes that come after their transaction ended |
//! | `snapshot` | the bytes of the `.snapshot` file |

mod entry;
mod judge;
mod snapshot;
mod state;
mod transactions;
mod verification;

pub use snapshot::{SnapshotFault, read_snapshot};
pub(crate) use state::ProducerTable;
pub use verification::VerificationGuard;

use crate::units::{Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Bounds on producer state. Plain data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducerLimits {
    /// A producer without open transaction is forgotten this long after its last batch, by that batch's timestamp.
    pub(crate) expiration_ms: i64,
    /// As many producers are remembered; more only if all have open transactions. Bounds verifications too.
    pub(crate) producers_max: usize,
    /// Whether the first batch of a transaction needs a [`VerificationGuard`].
    pub(crate) verification_required: bool,
}

/// Who asks for an append. Followers and recovery are never judged, only applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// A producer: epochs, sequences and transactions are judged.
    Client,
    /// A transaction or group coordinator: no sequences, but epochs and transactions.
    Coordinator,
}

/// What becomes of an append as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: write it, then apply each batch.
    Append,
    /// All of it is in the log already: write nothing and answer these offsets.
    Duplicate {
        /// Base offset of the first batch.
        base_offset: Offset,
        /// Last offset of the last batch. Inclusive.
        last_offset: Offset,
        /// Largest timestamp of the last batch; if it was restored from a snapshot, that of its producer's last batch
        /// or marker then, since the file has no other.
        timestamp: TimestampMs,
    },
}

/// What is remembered of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerState {
    /// Whose state it is.
    pub producer_id: ProducerId,
    /// The incarnation that wrote last.
    pub epoch: ProducerEpoch,
    /// Last sequence of the last data batch. `None` when no batch of this epoch is known, or it came from a coordinator,
    /// which numbers nothing.
    pub last_sequence: Option<Sequence>,
    /// Last offset of the last data batch; `None` when no batch of this epoch is known.
    pub last_offset: Option<Offset>,
    /// Largest timestamp of the last batch or marker, ms.
    pub last_timestamp: TimestampMs,
    /// Leadership of the transaction coordinator that wrote the last marker; `None` before any.
    pub coordinator_epoch: Option<i32>,
    /// First offset of the open transaction.
    pub open_transaction: Option<Offset>,
}

/// What is remembered of one producer, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownProducer {
    /// What is remembered.
    pub(crate) state: ProducerState,
    /// All of it comes from batches below this offset. A snapshot does not say from which, only that they lie below its
    /// own.
    pub(crate) changed_below: Offset,
}

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
