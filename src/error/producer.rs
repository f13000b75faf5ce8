//! Why an idempotent or transactional producer's batch is refused.

use crate::units::{Offset, ProducerEpoch, ProducerId, Sequence};

/// A batch of an append breaks its producer's order, fencing or transaction. Nothing of the append was written.
///
/// ```
/// use alluvium::error::{ProducerFault, ProducerRefusal};
/// use alluvium::{ProducerEpoch, ProducerId};
/// let epoch = |value| ProducerEpoch::new(value).unwrap();
/// let producer_id = ProducerId::new(7).unwrap();
/// let cause = ProducerFault::FencedEpoch { producer_id, given: epoch(1), current: epoch(2) };
/// let refusal = ProducerRefusal { batch: 0, cause };
/// assert_eq!(refusal.cause.protocol_error(), "INVALID_PRODUCER_EPOCH");
/// assert!(refusal.to_string().starts_with("batch 0 of the append: epoch 1 of producer 7"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch {batch} of the append: {cause}")]
pub struct ProducerRefusal {
    /// Which batch of the call, from 0.
    pub batch: usize,
    /// Why.
    pub cause: ProducerFault,
}

/// Which rule of idempotent and transactional producers a batch breaks (Kafka's `ProducerAppendInfo` and
/// `UnifiedLog`). Each says which error of the protocol a broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProducerFault {
    /// `INVALID_PRODUCER_EPOCH`: a newer incarnation of the producer has written here.
    #[error(
        "epoch {} of producer {producer_id} is older than {}, the newest seen; another instance took over, stop this one",
        given.value(), current.value()
    )]
    FencedEpoch {
        /// Whose.
        producer_id: ProducerId,
        /// As given.
        given: ProducerEpoch,
        /// The newest seen.
        current: ProducerEpoch,
    },
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`: records before these are missing, or were taken too long ago to be recognised.
    #[error(
        "first sequence {given} of producer {producer_id} (epoch {}) where {expected} is due; send the batches before \
        it first, or begin a new epoch at 0",
        epoch.value()
    )]
    OutOfOrderSequence {
        /// Whose.
        producer_id: ProducerId,
        /// The incarnation.
        epoch: ProducerEpoch,
        /// First sequence of the batch.
        given: Sequence,
        /// The only one that would be taken.
        expected: Sequence,
    },
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`: a verification asked for a lower sequence, which must be written first.
    #[error(
        "first sequence {given} of producer {producer_id} is past {lowest}, the lowest that awaits verification; \
        send that one first"
    )]
    PastVerifiedSequence {
        /// Whose.
        producer_id: ProducerId,
        /// First sequence of the batch.
        given: Sequence,
        /// The lowest that a verification was begun for.
        lowest: Sequence,
    },
    /// `INVALID_TXN_STATE`: the first batch of a transaction came without the guard of a verification, or with one
    /// that an end of a transaction has made stale.
    #[error(
        "producer {producer_id} (epoch {}) has no open transaction here and no valid verification; begin a \
        verification, ask the transaction coordinator, and append with its guard",
        epoch.value()
    )]
    Unverified {
        /// Whose.
        producer_id: ProducerId,
        /// The incarnation.
        epoch: ProducerEpoch,
    },
    /// `INVALID_TXN_STATE`: a batch outside of transactions, while one of its producer is open.
    #[error(
        "producer {producer_id} has a transaction open here and the batch is not part of it; end the transaction first"
    )]
    TransactionOpen {
        /// Whose.
        producer_id: ProducerId,
    },
    /// `TRANSACTION_COORDINATOR_FENCED`: a newer leader of the transaction coordinator has ended a transaction here.
    #[error(
        "coordinator epoch {given} of a marker for producer {producer_id} is older than {current}, the newest seen; \
        another coordinator took over, stop this one"
    )]
    FencedCoordinator {
        /// Whose transaction.
        producer_id: ProducerId,
        /// As given.
        given: i32,
        /// The newest seen.
        current: i32,
    },
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`: some batches of the call are in the log already and others are not.
    #[error(
        "the batch {}, unlike those before it in the call; send the batches that are in the log and the new ones in \
        separate appends", if *is_duplicate { "is in the log already" } else { "is not in the log yet" }
    )]
    PartlyDuplicate {
        /// Whether this batch is in the log, and those before it are not; else the other way round.
        is_duplicate: bool,
        /// Where the batch that is in the log begins: this one, or the last of those before it.
        base_offset: Offset,
    },
    /// `INVALID_RECORD`: a producer id without epoch, or, from a client, without sequence.
    #[error("producer {producer_id} gives no epoch or no sequence; set both, as idempotent producers do")]
    Incomplete {
        /// Whose.
        producer_id: ProducerId,
    },
    /// `THROTTLING_QUOTA_EXCEEDED`: the producer is new here, there are as many as may be remembered, and none can be
    /// forgotten, since all have open transactions.
    #[error(
        "producer {producer_id} is new here and {open} transactions are open of at most {producers_max} producers; \
        try again when some have ended, or raise the bound"
    )]
    TooManyProducers {
        /// The new one.
        producer_id: ProducerId,
        /// Transactions open.
        open: usize,
        /// The bound.
        producers_max: usize,
    },
}

impl ProducerFault {
    /// Name of the protocol's error that a broker answers, as in Kafka's `Errors`.
    pub fn protocol_error(&self) -> &'static str {
        match self {
            Self::FencedEpoch { .. } => "INVALID_PRODUCER_EPOCH",
            Self::OutOfOrderSequence { .. } | Self::PastVerifiedSequence { .. } | Self::PartlyDuplicate { .. } => {
                "OUT_OF_ORDER_SEQUENCE_NUMBER"
            }
            Self::Unverified { .. } | Self::TransactionOpen { .. } => "INVALID_TXN_STATE",
            Self::FencedCoordinator { .. } => "TRANSACTION_COORDINATOR_FENCED",
            Self::Incomplete { .. } => "INVALID_RECORD",
            Self::TooManyProducers { .. } => "THROTTLING_QUOTA_EXCEEDED",
        }
    }
}
