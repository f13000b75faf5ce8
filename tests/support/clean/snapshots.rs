//! What a log may know of its producers once snapshots of them are lost, or what they told of was cleaned and then cut: what
//! was known at one offset, where a snapshot may have been, and the batches that are left from there on. Nothing else.

use alluvium::PartitionLog;

use super::super::batches::StoredBatch;
use super::super::naive::{self, Producer};
use super::judge;
use super::standing;
use super::story::{Story, Told};
use super::world::CleanWorld;

/// Where a batch has the byte of its attributes that tells of transactions, and the bit.
const ATTRIBUTES: usize = 22;
const TRANSACTIONAL: u8 = 0x10;

/// Which snapshots an opening or a cut can have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snapshots {
    /// At any offset.
    Some,
    None,
}

impl CleanWorld {
    /// Where the log knows less of producers than everything that was told, finds the offset from which on it had to go by
    /// what is left, and has the story know no more than that.
    pub(crate) fn settle(&mut self, snapshots: Snapshots) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("no log is open")?;
        let Err(differs) = standing::compare(log, &self.story) else { return Ok(()) };
        let left = self.left(log)?;
        for known in self.story.histories(&left, snapshots == Snapshots::Some) {
            let mut story = self.story.clone();
            story.know(known);
            if standing::compare(log, &story).is_ok() {
                self.story = story;
                return Ok(());
            }
        }
        Err(format!("nor with {snapshots:?} of the snapshots: {differs}"))
    }

    /// Where the embedder moves the high watermark, an opening may believe no snapshot past an old mark, and go by what a
    /// cleaner has left: markers are gone, and the records with the largest timestamps. Then the story knows no more of
    /// when a producer wrote and of its coordinator; sequences and transactions are held to all that was told.
    pub(crate) fn settle_times(&mut self) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("no log is open")?;
        if standing::compare(log, &self.story).is_ok() {
            return Ok(());
        }
        let untimed = |story: &Story| {
            let known = story.naive().producers().into_iter();
            let last =
                |producer: &Producer| producer.batches.last().map(|batch| (batch.base, batch.next, batch.sequences));
            known.map(|producer| (producer.id, producer.epoch, last(&producer), producer.open)).collect::<Vec<_>>()
        };
        let wanted = untimed(&self.story);
        let left = self.left(log)?;
        for known in self.story.histories(&left, true) {
            let mut story = self.story.clone();
            story.know(known);
            if untimed(&story) == wanted && standing::compare(log, &story).is_ok() {
                self.story = story;
                break;
            }
        }
        // Otherwise whoever judges next says what is wrong.
        Ok(())
    }

    /// Where a power loss may have left a log that ends below its start, the story knows of producers what batches up to
    /// some offset at or past `floor` tell; all that was open there is forgotten, for its marker may be deleted too.
    pub(crate) fn settle_below_start(&mut self, floor: i64) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("no log is open")?;
        if standing::compare(log, &self.story).is_ok() {
            return Ok(());
        }
        let stored = &self.story.stored;
        for count in (0..=stored.len()).rev() {
            let end = stored[..count].last().map_or(0, |batch| batch.next);
            if (floor..self.story.start).contains(&end) {
                let mut story = self.story.clone();
                story.know(without_open(&stored[..count]));
                if standing::compare(log, &story).is_ok() {
                    self.story = story;
                    break;
                }
            }
        }
        // Otherwise whoever judges next says what is wrong.
        Ok(())
    }

    /// Every batch that is left, those below the log start too.
    fn left(&self, log: &PartitionLog) -> Result<Vec<StoredBatch>, String> {
        let found = judge::everything(log)?;
        let first = found.first().map_or(self.story.end, |batch| batch.facts.base);
        let path = log.segment_files().into_iter().next().ok_or("a log without segments")?;
        let bytes = self.fs.live_bytes(&path).unwrap_or_default();
        let hidden = Told::leading(&bytes).into_iter().filter(|batch| batch.facts.base < first);
        Ok(hidden.chain(found).map(|batch| batch.stored()).collect())
    }
}

/// The same batches, those of open transactions as if they were of none: their sequences are known, and nothing else.
fn without_open(stored: &[StoredBatch]) -> Vec<StoredBatch> {
    let mut closed = stored.to_vec();
    for transaction in naive::Naive(stored).transactions().iter().filter(|transaction| transaction.end.is_none()) {
        for batch in closed.iter_mut().filter(|batch| batch.base >= transaction.first) {
            let facts = naive::facts(&batch.bytes);
            if facts.is_transactional && facts.producer.is_some_and(|(id, _)| id == transaction.id) {
                batch.bytes[ATTRIBUTES] &= !TRANSACTIONAL;
            }
        }
    }
    closed
}
