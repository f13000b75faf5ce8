//! Aborted transactions (format: Kafka's `AbortedTxn`).

use crate::units::{Offset, ProducerId};

/// An aborted transaction: its producer's records from the first offset to the marker do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Offset of its first record.
    pub first_offset: Offset,
    /// Offset of its ABORT marker.
    pub last_offset: Offset,
    /// First offset of the earliest transaction of another producer that was still open, else the offset after the
    /// marker.
    pub last_stable_offset: Offset,
}
