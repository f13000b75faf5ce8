//! Which batches the log cannot lose without forgetting a producer.
//!
//! A producer's state is what its batches say, one after the other. The batch that says it last is kept, its header at
//! least; where that one lies past the end of the pass, so is the one that said it last below the end: what lies past it
//! may be lost with the power, or be cut, and then the log ends here. (Kafka keeps the last one alone.)
//!
//! | the last data of a producer lies | kept |
//! |---|---|
//! | below the end of the pass | that batch; where there is none of its epoch, the markers of that epoch |
//! | past it, and its last data below it was met in what the pass learned | that batch too |
//! | past it, and only markers were met | markers of that epoch, and data of it below what was learned |
//! | past it, and nothing was met | all that would vanish below what was learned; the next pass meets the newer data |

use crate::index::KnownProducer;
use crate::record::BatchHeader;
use crate::units::{Offset, ProducerEpoch, ProducerId};

/// What is known of a producer at some offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    epoch: ProducerEpoch,
    /// Last offset of its last data batch of that epoch, if there is any.
    last_data_offset: Option<Offset>,
}

impl Word {
    /// Whether `header` is of the batch that says it.
    fn is_of(&self, header: &BatchHeader) -> bool {
        match self.last_data_offset {
            Some(offset) => header.last_offset() == offset,
            None => header.attributes.is_control() && header.producer_epoch == Some(self.epoch),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Active {
    /// What is known at the log end.
    newest: Word,
    /// All of it, markers too, comes from batches below this offset.
    known_below: Offset,
    /// What is known from the batches that the pass met.
    met: Option<Word>,
}

/// Every active producer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveProducers {
    /// By rising id: there may be many, and no map takes less.
    all: Vec<(ProducerId, Active)>,
    /// From here on every batch is met.
    met_from: Offset,
}

impl ActiveProducers {
    /// As they were known at some end of the log, by rising id; a pass meets all batches from `met_from` to its end.
    pub(crate) fn new(known: &[KnownProducer], met_from: Offset) -> Self {
        let active = |known: &KnownProducer| {
            let newest = Word { epoch: known.state.epoch, last_data_offset: known.state.last_offset };
            (known.state.producer_id, Active { newest, known_below: known.changed_below, met: None })
        };
        Self { all: known.iter().map(active).collect(), met_from }
    }

    /// The next batch, below the end of the pass.
    pub(crate) fn meet(&mut self, header: &BatchHeader) {
        let (Some(id), Some(epoch)) = (header.producer_id, header.producer_epoch) else { return };
        let Ok(at) = self.position(id) else { return };
        let Some((_, active)) = self.all.get_mut(at) else { return };
        let is_data = !header.attributes.is_control();
        let known = active.met.filter(|met| met.epoch == epoch).and_then(|met| met.last_data_offset);
        let last_data_offset = if is_data { Some(header.last_offset()) } else { known };
        active.met = Some(Word { epoch, last_data_offset });
    }

    /// Whether the log has to keep what `header` says of its producer, in a pass that ends at `upper`. Of a marker all of
    /// it: emptied, it changes nothing when producers are rebuilt from the log, so that its epoch would be lost. (Kafka
    /// keeps the header and loses the epoch.)
    pub(crate) fn need(&self, header: &BatchHeader, upper: Offset) -> bool {
        let Some(Ok(at)) = header.producer_id.map(|id| self.position(id)) else { return false };
        let Some((_, active)) = self.all.get(at) else { return false };
        if active.newest.is_of(header) {
            return true;
        }
        let may_be_elsewhere = header.base_offset < self.met_from;
        let is_known_below = match active.newest.last_data_offset {
            Some(offset) => offset < upper,
            None => active.known_below <= upper,
        };
        !is_known_below
            && match active.met {
                None => may_be_elsewhere,
                Some(met) if met.last_data_offset.is_some() => met.is_of(header),
                Some(met) => met.is_of(header) || may_be_elsewhere && header.producer_epoch == Some(met.epoch),
            }
    }

    /// What was met is not all that there is below the end of the pass.
    pub(crate) fn forget_met(&mut self) {
        self.met_from = Offset::MAX;
        for (_, active) in &mut self.all {
            active.met = None;
        }
    }

    fn position(&self, id: ProducerId) -> Result<usize, usize> {
        self.all.binary_search_by_key(&id, |(id, _)| *id)
    }

    /// Bytes of memory that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.all.capacity().saturating_mul(size_of::<(ProducerId, Active)>())
    }
}

#[cfg(test)]
#[path = "producers_tests.rs"]
pub(crate) mod tests;
