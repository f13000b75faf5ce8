//! What a log may know of its producers once snapshots of them are lost, or what they told of was cleaned and then cut: what
//! was known at one offset, where a snapshot may have been, and the batches that are left from there on. Nothing else.

use alluvium::PartitionLog;

use super::super::batches::StoredBatch;
use super::judge;
use super::standing;
use super::story::Told;
use super::world::CleanWorld;

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
