//! `dump`: producer snapshots, aborted transactions and leader epochs, as their files have them.

use std::fmt::Display;
use std::io::Write;

use alluvium::index::ProducerState;
use alluvium::inspect::SegmentInfo;
use alluvium::{Offset, Sequence};
use serde_json::json;

use crate::dump::{Done, Dump};

/// For people: a value, or a dash for none.
fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl<W: Write> Dump<'_, W> {
    /// Says of a file that it cannot be used.
    fn bad(&mut self, kind: &str, at: Option<Offset>, cause: &dyn Display) -> Done {
        if self.is_json() {
            let object = json!({ "type": kind, "at": at.map(Offset::value), "cause": cause.to_string() });
            return Ok(self.line(&object)?);
        }
        let at = at.map_or_else(String::new, |at| format!(" at {at}"));
        Ok(writeln!(self.out, "  {kind}{at} cannot be used: {cause}")?)
    }

    pub(crate) fn epochs(&mut self) -> Done {
        let epochs = match self.files.leader_epochs()? {
            None if self.is_json() => return Ok(()),
            None => return Ok(writeln!(self.out, "epochs   there is no leader-epoch-checkpoint")?),
            Some(Err(fault)) => return self.bad("leader_epochs", None, &fault),
            Some(Ok(epochs)) => epochs,
        };
        for entry in epochs {
            let (epoch, start) = (entry.epoch.value(), entry.start);
            if self.is_json() {
                self.line(&json!({ "type": "leader_epoch", "epoch": epoch, "start": start.value() }))?;
            } else {
                writeln!(self.out, "epoch    {epoch} starts at {start}")?;
            }
        }
        Ok(())
    }

    /// The aborted transactions whose markers lie in the segment.
    pub(crate) fn aborted(&mut self, segment: &SegmentInfo) -> Done {
        let aborted = match self.files.aborted(segment.base)? {
            None => return Ok(()),
            Some(Err(fault)) => return self.bad("txn_index", Some(segment.base), &fault),
            Some(Ok(aborted)) => aborted,
        };
        for txn in aborted {
            let (id, first, last) = (txn.producer_id.value(), txn.first_offset, txn.last_offset);
            let stable = txn.last_stable_offset;
            if self.is_json() {
                self.line(&json!({
                    "type": "aborted", "segment": segment.base.value(), "producer_id": id,
                    "first_offset": first.value(), "last_offset": last.value(), "last_stable_offset": stable.value(),
                }))?;
            } else {
                writeln!(self.out, "  aborted: producer {id}, offsets {first} to {last}, stable up to {stable} then")?;
            }
        }
        Ok(())
    }

    pub(crate) fn snapshots(&mut self) -> Done {
        for at in self.files.snapshots()? {
            let producers = match self.files.snapshot(at)? {
                // It went since the directory was listed.
                None => continue,
                Some(Err(fault)) => {
                    self.bad("snapshot", Some(at), &fault)?;
                    continue;
                }
                Some(Ok(producers)) => producers,
            };
            if self.is_json() {
                self.line(&json!({ "type": "snapshot", "at": at.value(), "producers": producers.len() }))?;
            } else {
                writeln!(self.out, "snapshot {at}, producers: {}", producers.len())?;
            }
            for producer in producers {
                self.producer(at, &producer)?;
            }
        }
        Ok(())
    }

    fn producer(&mut self, at: Offset, producer: &ProducerState) -> Done {
        let (id, epoch) = (producer.producer_id.value(), producer.epoch.value());
        if self.is_json() {
            return Ok(self.line(&json!({
                "type": "producer", "snapshot": at.value(), "producer_id": id, "producer_epoch": epoch,
                "last_sequence": producer.last_sequence.map(Sequence::value),
                "last_offset": producer.last_offset.map(Offset::value),
                "last_timestamp": producer.last_timestamp.value(),
                "coordinator_epoch": producer.coordinator_epoch,
                "open_transaction": producer.open_transaction.map(Offset::value),
            }))?);
        }
        let sequence = or_dash(producer.last_sequence.map(Sequence::value));
        let (offset, open) = (or_dash(producer.last_offset), or_dash(producer.open_transaction));
        let (coordinator, timestamp) = (or_dash(producer.coordinator_epoch), producer.last_timestamp);
        Ok(writeln!(
            self.out,
            "  producer {id} epoch {epoch}: sequence {sequence} at offset {offset}, timestamp {timestamp}, \
             coordinator epoch {coordinator}, transaction from {open}"
        )?)
    }
}
