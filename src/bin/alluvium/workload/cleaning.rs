//! What is done to compacted partitions alone: cleanings, and transactions, whose markers make holes.

use std::error::Error;

use alluvium::record::{BatchBuilder, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, AppendError, CleanError, CleanOptions, LeaderEpoch, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};

use super::partition::{Opened, Partition, Step};
use super::{Bench, Try, ack_lines, try_lines};

/// As little as there can be.
const MEMORY_BYTES: u64 = 1 << 20;
/// The one transactional producer of a partition.
const PRODUCER: i64 = 7;
const COORDINATOR_EPOCH: i32 = 1;
/// A record of a transaction is no longer than this.
const VALUE_BYTES_MAX: u64 = 400;

fn leader() -> LeaderEpoch {
    LeaderEpoch::new(0).unwrap_or_default()
}

impl Partition {
    /// Cleans what can be cleaned. What is cut off later must lie behind it: a cut would take away what supersedes a record
    /// that is gone.
    pub(super) fn clean(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        let end = log.log_end();
        bench.journal.say("# clean-begin\n")?;
        let cleaned = log.clean(&CleanOptions::default().with_memory(MEMORY_BYTES));
        bench.journal.say("# clean-end\n")?;
        let upper = cleaned.as_ref().map_or(end, |cleaned| cleaned.upper);
        self.ends.retain(|known| *known >= upper);
        match cleaned {
            Ok(_) => Ok(()),
            Err(error) => self.meet(bench, "clean", &error, matches!(error, CleanError::Log(_))),
        }
    }

    /// A transaction of one batch. What is committed is acknowledged once it is.
    pub(super) fn transact(&mut self, bench: &mut Bench) -> Step {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        let producer = ProducerId::new(PRODUCER).ok_or("no producer")?;
        let known = log.producers().into_iter().find(|known| known.producer_id == producer);
        let epoch =
            known.as_ref().map_or_else(|| ProducerEpoch::new(0), |known| Some(known.epoch)).ok_or("no epoch")?;
        let last = known.and_then(|known| known.last_sequence).map_or(-1, Sequence::value);
        let sequence = Sequence::new(last.checked_add(1).unwrap_or(0));
        let tries: Vec<Try> = (0..1 + bench.rng.below(3)).map(|_| bench.make_try(VALUE_BYTES_MAX, true)).collect();
        let now = alluvium::clock::Clock::wall(&bench.clock);
        let mut builder = BatchBuilder::new();
        builder.producer(producer, epoch, sequence).transactional(true);
        for Try { key, value, .. } in &tries {
            builder.record(now, key.as_deref(), value.as_deref());
        }
        let batch = builder.build()?;
        bench.journal.say(&try_lines(&self.name, &tries))?;
        let appended = match log.append(batch, AppendAs::Client { epoch: leader() }) {
            Ok(appended) => appended,
            Err(error) => return self.meet_append(bench, &error),
        };
        let (base, commits) = (appended.base_offset().value(), bench.rng.chance(70));
        drop(appended);
        match self.mark((producer, epoch), commits, now) {
            Ok(()) if commits => Ok(bench.journal.say(&ack_lines(&self.name, base, &tries, "cached"))?),
            Ok(()) => Ok(()),
            Err(error) => self.meet_append(bench, &error),
        }
    }

    fn mark(&mut self, of: (ProducerId, ProducerEpoch), commits: bool, now: TimestampMs) -> Result<(), AppendError> {
        let Some(Opened { log, .. }) = &self.open else { return Err(AppendError::Closed) };
        let end = if commits { TransactionEnd::Commit } else { TransactionEnd::Abort };
        let marker = RecordBatch::end_transaction_marker(end, of, COORDINATOR_EPOCH, now);
        let appended = log.append(marker, AppendAs::Coordinator { epoch: leader() })?;
        self.ends.push(appended.end());
        Ok(())
    }

    /// A crash came between a batch and its marker, or a cut took the marker off: nothing behind it could be cleaned.
    pub(super) fn end_open_transactions(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(Opened { log, .. }) = &self.open else { return Ok(()) };
        for known in log.producers() {
            if known.open_transaction.is_some() {
                let now = known.last_timestamp;
                self.mark((known.producer_id, known.epoch), false, now)?;
            }
        }
        Ok(())
    }
}
