//! What a log says beyond its records, worked out from all of its batches each time it is asked: producers,
//! transactions, leader epochs, last stable offset. As simple as the rules can be put; nothing of the crate is used, the
//! bytes of a batch are read by their places.

use super::batches::StoredBatch;

/// Batches of each producer that are recognised when they are sent again.
const RECENT: usize = 5;

/// What matters of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) base: i64,
    pub(crate) next: i64,
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) producer: Option<(i64, i16)>,
    /// First and last; `None` for a coordinator's batches.
    pub(crate) sequences: Option<(i32, i32)>,
    pub(crate) is_transactional: bool,
    pub(crate) is_control: bool,
    pub(crate) marker: Option<Marker>,
    pub(crate) timestamp: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) commit: bool,
    pub(crate) coordinator_epoch: i32,
}

impl Facts {
    /// An empty control batch changes nothing.
    fn says_something(&self) -> bool {
        self.marker.is_some() || !self.is_control
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

pub(crate) fn facts(bytes: &[u8]) -> Facts {
    let base = i64::from_be_bytes(field(bytes, 0));
    let leader_epoch = i32::from_be_bytes(field(bytes, 12));
    let attributes = bytes[22];
    let delta = i32::from_be_bytes(field(bytes, 23));
    let id = i64::from_be_bytes(field(bytes, 43));
    let sequence = i32::from_be_bytes(field(bytes, 53));
    let is_control = attributes & 0x20 != 0;
    Facts {
        base,
        next: base + i64::from(delta) + 1,
        leader_epoch: (leader_epoch >= 0).then_some(leader_epoch),
        producer: (id >= 0).then(|| (id, i16::from_be_bytes(field(bytes, 51)))),
        sequences: (sequence >= 0).then(|| (sequence, plus(sequence, delta))),
        is_transactional: attributes & 0x10 != 0,
        is_control,
        // Length, attributes, two deltas of one byte, length of the key; then version and type.
        // A cleaner may have left an empty batch of a marker.
        marker: (is_control && bytes.len() > 61).then(|| marker(bytes)),
        timestamp: i64::from_be_bytes(field(bytes, 35)),
    }
}

/// The one record: length, attributes, two deltas, length of the key; version and type; length of the value; version and epoch.
fn marker(bytes: &[u8]) -> Marker {
    let skip = |at: usize| at + bytes[at..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let key = skip(skip(skip(skip(61) + 1)));
    let value = skip(key + 4);
    Marker {
        commit: i16::from_be_bytes(field(bytes, key + 2)) == 1,
        coordinator_epoch: i32::from_be_bytes(field(bytes, value + 2)),
    }
}

/// Sequences go on at 0 after the largest.
pub(crate) fn plus(sequence: i32, delta: i32) -> i32 {
    i32::try_from((i64::from(sequence) + i64::from(delta)) % (1 << 31)).unwrap()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    /// Data batches of this epoch, oldest first.
    pub(crate) batches: Vec<Facts>,
    pub(crate) timestamp: i64,
    pub(crate) coordinator_epoch: Option<i32>,
    pub(crate) open: Option<i64>,
}

/// A transaction with its first offset, and its marker's offset when it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) id: i64,
    pub(crate) first: i64,
    pub(crate) end: Option<(i64, Marker)>,
}

/// An entry of the transaction index: producer, first offset, marker, last stable offset.
pub(crate) type Aborted = (i64, i64, i64, i64);

/// A log that is nothing but its batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naive<'a>(pub(crate) &'a [StoredBatch]);

impl Naive<'_> {
    fn all(&self) -> impl DoubleEndedIterator<Item = Facts> {
        self.0.iter().map(|batch| facts(&batch.bytes))
    }

    pub(crate) fn producer(&self, id: i64) -> Option<Producer> {
        let mut known: Option<Producer> = None;
        for batch in self.all().filter(Facts::says_something) {
            let Some((_, epoch)) = batch.producer.filter(|(of, _)| *of == id) else { continue };
            let fresh = Producer { id, epoch, batches: vec![], timestamp: 0, coordinator_epoch: None, open: None };
            let producer = known.get_or_insert(fresh);
            if producer.epoch != epoch {
                producer.epoch = epoch;
                producer.batches.clear();
            }
            producer.timestamp = batch.timestamp;
            if let Some(marker) = batch.marker {
                producer.coordinator_epoch = Some(marker.coordinator_epoch);
                producer.open = None;
                continue;
            }
            producer.batches.push(batch);
            if batch.is_transactional {
                producer.open.get_or_insert(batch.base);
            }
        }
        known
    }

    /// All of them, by id.
    pub(crate) fn producers(&self) -> Vec<Producer> {
        let mut ids: Vec<i64> =
            self.all().filter(Facts::says_something).filter_map(|batch| batch.producer).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| self.producer(id)).collect()
    }

    /// In the order in which they began.
    pub(crate) fn transactions(&self) -> Vec<Transaction> {
        let mut found: Vec<Transaction> = Vec::new();
        for batch in self.all().filter(Facts::says_something).filter(|batch| batch.is_transactional) {
            let Some((id, _)) = batch.producer else { continue };
            let open = found.iter_mut().find(|transaction| transaction.id == id && transaction.end.is_none());
            match (batch.marker, open) {
                (Some(marker), Some(open)) => open.end = Some((batch.base, marker)),
                (None, None) => found.push(Transaction { id, first: batch.base, end: None }),
                _ => {}
            }
        }
        found
    }

    /// Below it everything is decided, and known to be by all replicas.
    pub(crate) fn last_stable(&self, start: i64, high_watermark: i64) -> i64 {
        let is_unstable = |t: &Transaction| t.end.is_none_or(|(marker, _)| marker >= high_watermark);
        let unstable = self.transactions().into_iter().filter(is_unstable).map(|t| t.first).min();
        unstable.unwrap_or(high_watermark).min(high_watermark).max(start)
    }

    /// Every entry of every transaction index, by the marker.
    pub(crate) fn aborted(&self) -> Vec<Aborted> {
        let all = self.transactions();
        let mut found = Vec::new();
        for aborted in &all {
            let Some((end, Marker { commit: false, .. })) = aborted.end else { continue };
            let is_open = |t: &&Transaction| t.first < end && t.end.is_none_or(|(other, _)| other > end);
            let stable = all.iter().filter(is_open).map(|t| t.first).min().unwrap_or(end + 1);
            found.push((aborted.id, aborted.first, end, stable));
        }
        found.sort_by_key(|entry| entry.2);
        found
    }

    /// Those that a fetch of `from..upper` is told of.
    pub(crate) fn aborted_between(&self, from: i64, upper: i64) -> Vec<Aborted> {
        let mut found = Vec::new();
        for entry in self.aborted().into_iter().filter(|entry| entry.2 >= from) {
            if entry.1 < upper {
                found.push(entry);
            }
            if entry.3 >= upper {
                break;
            }
        }
        found
    }

    /// Base offsets of the data batches of `from..upper` that count.
    pub(crate) fn committed(&self, from: i64, upper: i64) -> Vec<i64> {
        let aborted = self.aborted();
        let is_aborted = |batch: &Facts| {
            let of = |id| aborted.iter().any(|a| a.0 == id && (a.1..a.2).contains(&batch.base));
            batch.is_transactional && batch.producer.is_some_and(|(id, _)| of(id))
        };
        let in_range = |batch: &Facts| batch.next > from && batch.next <= upper && !batch.is_control;
        self.all().filter(in_range).filter(|batch| !is_aborted(batch)).map(|batch| batch.base).collect()
    }

    /// Leader epochs with their starts. `begun` are those that were announced, with the log end of that moment.
    pub(crate) fn epochs(&self, begun: &[(i32, i64)]) -> Vec<(i32, i64)> {
        let written = self.all().filter_map(|batch| Some((batch.leader_epoch?, batch.base, 1)));
        let mut changes: Vec<_> = begun.iter().map(|(epoch, at)| (*epoch, *at, 0)).chain(written).collect();
        changes.sort_by_key(|(epoch, at, kind)| (*at, *kind, *epoch));
        let mut found: Vec<(i32, i64)> = Vec::new();
        for (epoch, start, _) in changes {
            if found.last().is_none_or(|(newest, _)| *newest != epoch) {
                found.retain(|(earlier, at)| *earlier < epoch && *at < start);
                found.push((epoch, start));
            }
        }
        found
    }
}

/// Where `epoch` ends in a log with these epochs.
pub(crate) fn epoch_end(epochs: &[(i32, i64)], end: i64, epoch: i32) -> Option<(i32, i64)> {
    let (latest, _) = *epochs.last()?;
    if epoch == latest {
        return Some((epoch, end));
    }
    let (_, next) = *epochs.iter().find(|(later, _)| *later > epoch)?;
    let floor = epochs.iter().rfind(|(known, _)| *known <= epoch).map_or(epoch, |(known, _)| *known);
    Some((floor, next))
}

/// What becomes of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// First offset, and the one after the last.
    Duplicate(i64, i64),
    Refuse(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    FencedLeader,
    FencedEpoch,
    OutOfOrder,
    Unverified,
    TransactionOpen,
    FencedCoordinator,
    PartlyDuplicate,
}

/// What judging knows besides the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// Whether sequences are judged.
    pub(crate) is_client: bool,
    /// Whether the first batch of a transaction needs a guard.
    pub(crate) verifies: bool,
    /// Producer and epoch that the guard shown is good for.
    pub(crate) verified: Option<(i64, i16)>,
    /// Batches before it are recognised only if they are the last of their producer before it.
    pub(crate) remembered_from: i64,
}

/// Judges a call. `batches` are placed where they would be in the log.
pub(crate) fn judge(log: &[StoredBatch], batches: &[StoredBatch], how: Circumstances) -> Verdict {
    let mut grown = log.to_vec();
    let mut verified = how.verified;
    let mut first_verdict: Option<Verdict> = None;
    for batch in batches {
        let batch_facts = facts(&batch.bytes);
        let Some((id, _)) = batch_facts.producer else { continue };
        let verdict = match duplicate(Naive(log), &batch_facts, how) {
            Some((base, next)) => Verdict::Duplicate(base, next),
            None => match refusal(Naive(&grown), &batch_facts, Circumstances { verified, ..how }) {
                Some(refusal) => return Verdict::Refuse(refusal),
                None => Verdict::Append,
            },
        };
        first_verdict = match (first_verdict, verdict) {
            (None, verdict) => Some(verdict),
            (Some(Verdict::Append), Verdict::Append) => Some(Verdict::Append),
            (Some(Verdict::Duplicate(base, end)), Verdict::Duplicate(from, next)) if from >= end => {
                Some(Verdict::Duplicate(base, next))
            }
            (Some(Verdict::Duplicate(..)), Verdict::Duplicate(..)) => return Verdict::Refuse(Refusal::OutOfOrder),
            _ => return Verdict::Refuse(Refusal::PartlyDuplicate),
        };
        if verdict == Verdict::Append {
            verified = verified.filter(|(of, _)| !batch_facts.is_transactional || *of != id);
            grown.push(batch.clone());
        }
    }
    first_verdict.unwrap_or(Verdict::Append)
}

fn duplicate(log: Naive<'_>, batch: &Facts, how: Circumstances) -> Option<(i64, i64)> {
    let (id, epoch) = batch.producer?;
    let known = log.producer(id).filter(|known| how.is_client && known.epoch == epoch)?;
    // A snapshot has the last batch of each producer and no other.
    let last_before = known.batches.iter().rposition(|kept| kept.base < how.remembered_from).unwrap_or(0);
    let oldest = last_before.max(known.batches.len().saturating_sub(RECENT));
    let is_same = |kept: &&Facts| kept.sequences.is_some() && kept.sequences == batch.sequences;
    // Without a sequence of its own nothing is a repetition.
    known.batches[oldest..].iter().rfind(is_same).map(|kept| (kept.base, kept.next))
}

fn refusal(log: Naive<'_>, batch: &Facts, how: Circumstances) -> Option<Refusal> {
    let (id, epoch) = batch.producer?;
    let known = log.producer(id);
    if known.as_ref().is_some_and(|known| epoch < known.epoch) {
        return Some(Refusal::FencedEpoch);
    }
    if let Some(marker) = batch.marker {
        let seen = known.and_then(|known| known.coordinator_epoch);
        return seen.filter(|seen| marker.coordinator_epoch < *seen).map(|_| Refusal::FencedCoordinator);
    }
    let open = known.as_ref().filter(|known| known.open.is_some());
    let needs_guard = batch.is_transactional && how.verifies && open.is_none_or(|open| open.epoch != epoch);
    if needs_guard && how.verified != Some((id, epoch)) {
        return Some(Refusal::Unverified);
    }
    if how.is_client
        && let Some(known) = &known
    {
        let same = (known.epoch == epoch).then(|| known.batches.last()).flatten();
        let due = same.and_then(|last| last.sequences).map_or(0, |(_, last)| plus(last, 1));
        if batch.sequences.is_none_or(|(first, _)| first != due) {
            return Some(Refusal::OutOfOrder);
        }
    }
    (open.is_some() && !batch.is_transactional).then_some(Refusal::TransactionOpen)
}
