//! A log in memory, as simple as it can be: the batches in a vector, every question answered by looking at all of them.

use super::batches::StoredBatch;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelLog {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) batches: Vec<StoredBatch>,
}

impl ModelLog {
    pub(crate) fn append(&mut self, batch: StoredBatch) {
        assert!(batch.base >= self.end, "batch at {} in a model that ends at {}", batch.base, self.end);
        self.end = batch.next;
        self.batches.push(batch);
    }

    /// Where a cut at `offset` falls: the end of the last batch that lies wholly below it.
    pub(crate) fn cut_end(&self, offset: i64) -> i64 {
        if offset >= self.end {
            return self.end;
        }
        let kept = self.batches.iter().rfind(|batch| batch.next <= offset);
        kept.map_or(self.start, |batch| batch.next)
    }

    pub(crate) fn truncate_to(&mut self, offset: i64) -> i64 {
        let end = self.cut_end(offset);
        self.batches.retain(|batch| batch.next <= end);
        self.end = end;
        end
    }

    pub(crate) fn restart(&mut self, at: i64) {
        *self = Self { start: at, end: at, batches: Vec::new() };
    }

    /// The whole batches from the one with `from` on that end by `upper` and fit `max_bytes`; the first one whatever
    /// its size if `min_one_batch`.
    pub(crate) fn read(&self, from: i64, max_bytes: u64, min_one_batch: bool, upper: i64) -> &[StoredBatch] {
        let first = self.batches.partition_point(|batch| batch.next <= from);
        let mut bytes = 0;
        let mut count = 0;
        for batch in &self.batches[first..] {
            bytes += batch.bytes.len() as u64;
            let fits = bytes <= max_bytes || (min_one_batch && count == 0);
            if batch.next > upper || !fits {
                break;
            }
            count += 1;
        }
        &self.batches[first..first + count]
    }

    /// First record, in offset order, with a timestamp of at least `target`: its offset and timestamp.
    pub(crate) fn offset_for_timestamp(&self, target: i64) -> Option<(i64, i64)> {
        self.batches.iter().flat_map(|batch| &batch.records).find(|(_, timestamp)| *timestamp >= target).copied()
    }

    /// Every timestamp in the log, and what lies beside it.
    pub(crate) fn interesting_timestamps(&self) -> Vec<i64> {
        let all = self.batches.iter().flat_map(|batch| &batch.records);
        let mut around: Vec<i64> = all.flat_map(|(_, t)| [t - 1, *t, t + 1]).chain([-2, 0, i64::MAX]).collect();
        around.sort_unstable();
        around.dedup();
        around
    }
}
