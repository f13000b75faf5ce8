//! Transactions as a pass meets them, batch by batch in offset order (Kafka's `CleanedTransactionMetadata`).
//!
//! The data of a transaction that was aborted never counts: it is not learned, and it goes whatever its keys are. The
//! marker that ended a transaction is needed as long as anything of the transaction is in the log: without it, what is
//! left would never be decided. So a marker tells how the pass met its transaction: of one whose batches are all gone
//! it may go, after a time. A header that was kept of an emptied batch is a batch too. Everything below a marker is read
//! in the pass that judges it, for a pass begins at the log start; one that is resumed further on restores what was met
//! before ([`CleanedTransactions::save`]).
//!
//! What is aborted is known by offsets: from the first offset of an entry of the transaction index to its last, that of
//! the marker. A marker that cannot be read ends its transaction all the same, and never takes the data of the next one
//! for aborted, as it would if only markers ended what is aborted.
//!
//! Saved transactions, big-endian, without a checksum: they lie in a file that has one.
//!
//! ```text
//! at len field
//! 0  2   version             1
//! 2  8   position            offset after the last batch met
//! 10 4   producers           that have met data and are to be committed, as far as is known
//!    8   producer id         as often
//!    4   aborted             transactions that have begun and have not ended
//!    33  producer id, first offset, last offset, last stable offset (8 each), whether data of it was met (1)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::error::InvalidBatch;
use crate::index::AbortedTxn;
use crate::record::{BatchHeader, VerifiedBatch, transaction_marker};
use crate::units::{Offset, ProducerId};

const VERSION: u16 = 1;

/// What a batch is to the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Data that counts, as far as transactions are concerned.
    Data,
    /// Data of a transaction that was aborted.
    AbortedData,
    /// A marker.
    Marker(SeenMarker),
    /// A control batch that ends no transaction.
    OtherControl {
        /// Its record was removed before.
        is_emptied: bool,
    },
}

/// What a marker stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenMarker {
    /// No batch of its transaction was met: nothing needs the marker.
    pub(crate) is_of_empty: bool,
    /// The transaction that it aborts, as the transaction index has it.
    pub(crate) aborted: Option<AbortedTxn>,
}

/// Why saved transactions cannot be restored. The answer is always the same: the pass begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SavedFault {
    /// A version that this build does not read.
    #[error("saved transactions have version {found}, which is unknown to this build; clean from the log start")]
    Version {
        /// What was found.
        found: u16,
    },
    /// The bytes end early, or later than their contents.
    #[error("{bytes} bytes of saved transactions are not as many as they say; clean from the log start")]
    Length {
        /// How many there are.
        bytes: u64,
    },
    /// A number that no writer writes.
    #[error("the {field} in saved transactions is impossible; clean from the log start")]
    Field {
        /// Which.
        field: &'static str,
    },
}

/// An aborted transaction that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begun {
    entry: AbortedTxn,
    /// A batch of it was met.
    is_met: bool,
}

/// The transactions that a pass has met so far.
///
/// Memory grows with the producers and with the aborted transactions that are expected: [`Self::memory_bytes`]. Those of
/// a segment may be told when the pass comes to the segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CleanedTransactions {
    position: Offset,
    /// Producers of which data was met that is not aborted, and no marker since.
    committed: BTreeSet<ProducerId>,
    /// By last offset, so that one that is over is not taken for the next.
    begun: BTreeMap<(ProducerId, Offset), Begun>,
    /// By first offset, and last.
    expected: BTreeMap<(Offset, Offset), AbortedTxn>,
}

impl CleanedTransactions {
    /// Adds aborted transactions, in any order and as often as one likes: those whose marker was passed are not needed
    /// any more, and those that are known are not counted twice.
    pub(crate) fn expect_aborted(&mut self, aborted: impl IntoIterator<Item = AbortedTxn>) {
        for entry in aborted {
            let is_begun = self.begun.contains_key(&(entry.producer_id, entry.last_offset));
            if entry.last_offset >= self.position && !is_begun {
                self.expected.insert((entry.first_offset, entry.last_offset), entry);
            }
        }
    }

    /// Whether `header` is of data that was aborted. For the scan that learns keys, which needs no markers; batches come
    /// in offset order.
    pub(crate) fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        self.advance(header);
        !header.attributes.is_control() && self.aborts(header).is_some()
    }

    /// Takes notice of the next batch. Batches come in offset order.
    ///
    /// An error says that a control record cannot be read: its transaction, if it ends any, is taken to go on.
    pub(crate) fn observe(&mut self, batch: &VerifiedBatch<'_>) -> Result<Seen, InvalidBatch> {
        let header = batch.header();
        if !header.attributes.is_control() {
            return Ok(self.observe_data(header));
        }
        self.advance(header);
        let Some(marker) = transaction_marker(batch.view())? else {
            return Ok(Seen::OtherControl { is_emptied: header.count == 0 });
        };
        let Some(producer) = header.producer_id else {
            return Ok(Seen::OtherControl { is_emptied: false });
        };
        let seen = if marker.commit { self.commit(producer) } else { self.abort(producer, header.last_offset()) };
        Ok(Seen::Marker(seen))
    }

    /// As [`Self::observe`], of a batch of data, of which the header says all that matters.
    pub(crate) fn observe_data(&mut self, header: &BatchHeader) -> Seen {
        self.advance(header);
        let Some(producer) = header.producer_id.filter(|_| header.attributes.is_transactional()) else {
            return Seen::Data;
        };
        if let Some(begun) = self.aborts(header) {
            begun.is_met = true;
            return Seen::AbortedData;
        }
        self.committed.insert(producer);
        Seen::Data
    }

    /// Offset after the last batch that was met.
    #[cfg(test)]
    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// About the bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        // A B-tree's nodes are at least half full.
        let of = |count: usize, entry: usize| count.saturating_mul(entry.saturating_mul(2));
        of(self.committed.len(), size_of::<ProducerId>())
            .saturating_add(of(self.begun.len(), size_of::<((ProducerId, Offset), Begun)>()))
            .saturating_add(of(self.expected.len(), size_of::<((Offset, Offset), AbortedTxn)>()))
    }

    /// Comes to `header`: transactions that begin with it or before are under way.
    fn advance(&mut self, header: &BatchHeader) {
        let last = header.last_offset();
        while let Some(first) = self.expected.first_entry().filter(|next| next.key().0 <= last) {
            let entry = first.remove();
            self.begun.insert((entry.producer_id, entry.last_offset), Begun { entry, is_met: false });
        }
        self.position = self.position.max(header.next_offset());
    }

    /// The aborted transaction that a batch of data belongs to, by its producer and its offsets.
    fn aborts(&mut self, header: &BatchHeader) -> Option<&mut Begun> {
        let producer = header.producer_id.filter(|_| header.attributes.is_transactional())?;
        self.forget_ended(producer, header.base_offset);
        let (_, begun) = self.begun.range_mut((producer, header.base_offset)..=(producer, Offset::MAX)).next()?;
        (begun.entry.first_offset <= header.last_offset()).then_some(begun)
    }

    /// Drops what ended below `offset` with a marker that was not read.
    fn forget_ended(&mut self, producer: ProducerId, offset: Offset) {
        while let Some((&key, _)) = self.begun.range((producer, Offset::ZERO)..(producer, offset)).next() {
            self.begun.remove(&key);
        }
    }

    fn commit(&mut self, producer: ProducerId) -> SeenMarker {
        SeenMarker { is_of_empty: !self.committed.remove(&producer), aborted: None }
    }

    fn abort(&mut self, producer: ProducerId, marker: Offset) -> SeenMarker {
        self.forget_ended(producer, marker);
        let ended = self.begun.remove(&(producer, marker));
        // Data that no entry tells of counts, rather too much than too little, and this is its marker.
        let has_other_data = self.committed.remove(&producer);
        let is_met = ended.is_some_and(|begun| begun.is_met) || has_other_data;
        SeenMarker { is_of_empty: !is_met, aborted: ended.map(|begun| begun.entry) }
    }

    /// Appends to `out` what [`Self::restore`] needs to go on with the next batch: all but what is expected.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.position.value().to_be_bytes());
        put_count(out, self.committed.len());
        for producer in &self.committed {
            out.extend_from_slice(&producer.value().to_be_bytes());
        }
        put_count(out, self.begun.len());
        for Begun { entry, is_met } in self.begun.values() {
            let offsets = [entry.first_offset, entry.last_offset, entry.last_stable_offset].map(Offset::value);
            for field in [entry.producer_id.value()].into_iter().chain(offsets) {
                out.extend_from_slice(&field.to_be_bytes());
            }
            out.push(u8::from(*is_met));
        }
    }

    /// Reads what [`Self::save`] wrote. Which aborted transactions are expected is to be told again.
    pub(crate) fn restore(saved: &[u8]) -> Result<Self, SavedFault> {
        let mut saved = Saved { all: saved, rest: saved };
        let found = u16::from_be_bytes(saved.take()?);
        if found != VERSION {
            return Err(SavedFault::Version { found });
        }
        let mut restored = Self { position: saved.offset("position")?, ..Self::default() };
        for _ in 0..u32::from_be_bytes(saved.take()?) {
            restored.committed.insert(saved.producer()?);
        }
        for _ in 0..u32::from_be_bytes(saved.take()?) {
            let begun = saved.begun()?;
            restored.begun.insert((begun.entry.producer_id, begun.entry.last_offset), begun);
        }
        if saved.rest.is_empty() { Ok(restored) } else { Err(saved.length()) }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // As many do not fit in memory.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

/// Saved bytes, being read. A count is not believed: nothing is allocated but for what is there.
struct Saved<'a> {
    all: &'a [u8],
    rest: &'a [u8],
}

impl Saved<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SavedFault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.length())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn length(&self) -> SavedFault {
        SavedFault::Length { bytes: self.all.len() as u64 }
    }

    fn offset(&mut self, field: &'static str) -> Result<Offset, SavedFault> {
        Offset::new(i64::from_be_bytes(self.take()?)).ok_or(SavedFault::Field { field })
    }

    fn producer(&mut self) -> Result<ProducerId, SavedFault> {
        let field = "producer id";
        ProducerId::new(i64::from_be_bytes(self.take()?)).ok_or(SavedFault::Field { field })
    }

    fn begun(&mut self) -> Result<Begun, SavedFault> {
        let entry = AbortedTxn {
            producer_id: self.producer()?,
            first_offset: self.offset("first offset")?,
            last_offset: self.offset("last offset")?,
            last_stable_offset: self.offset("last stable offset")?,
        };
        let is_met = match self.take()? {
            [0] => false,
            [1] => true,
            [_] => return Err(SavedFault::Field { field: "sign of data met" }),
        };
        if entry.first_offset > entry.last_offset {
            return Err(SavedFault::Field { field: "first offset" });
        }
        Ok(Begun { entry, is_met })
    }
}

#[cfg(test)]
mod tests;
