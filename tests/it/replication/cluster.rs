//! Three replicas of a partition on three simulated machines, and the replication between them in a nutshell: who leads
//! and who is in sync is decided here, as a controller would; what is kept and what is cut, by the logs.

use std::collections::BTreeMap;

use alluvium::index::{AbortedTxn, EpochStart};
use alluvium::record::{BatchBuilder, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, HighWatermarkMode, Isolation, LeaderEpoch, LogConfig, Offset, PartitionLog, ProducerEpoch, ProducerId,
    ReadOptions, Sequence,
};

use crate::support::{Machine, NOW, at, ms, small};

/// What a machine loses when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// The process alone.
    Kill,
    /// What was not synced, too. A record counts as replicated once it is synced, as far as the schedule is concerned.
    PowerLoss,
}

/// A record: offset, leader epoch of its batch, value.
pub(super) type Line = (i64, i32, String);

/// Of how many replicas a cluster is made.
pub(super) const REPLICAS: usize = 3;

struct Replica {
    machine: Machine,
    /// `None` while it is dead.
    log: Option<PartitionLog>,
}

pub(super) struct Cluster {
    death: Death,
    seed: u64,
    replicas: Vec<Replica>,
    in_sync: [bool; REPLICAS],
    /// How far each follower has what the present leader has; `None` before it asked that leader anything.
    reported: [Option<Offset>; REPLICAS],
    leader: Option<usize>,
    epoch: i32,
    /// The next one of the producer that writes in this epoch.
    sequence: i32,
    /// Everything that a leader ever took.
    taken: BTreeMap<(i64, i32), String>,
    /// What all in-sync replicas acknowledged: it may never be lost.
    acknowledged: Vec<Line>,
    /// Records that were acknowledged by fewer and cut later.
    pub(super) lost: usize,
}

fn config() -> LogConfig {
    LogConfig {
        high_watermark: HighWatermarkMode::Embedder,
        transaction_partition_verification_enable: false,
        ..small()
    }
}

fn epoch(value: i32) -> LeaderEpoch {
    LeaderEpoch::new(value).unwrap()
}

/// Every record of a log, with the epoch of its batch.
pub(super) fn lines(log: &PartitionLog) -> Vec<Line> {
    let mut found = Vec::new();
    let mut next = log.log_start();
    loop {
        let fetched = log.read(next, &ReadOptions::default()).unwrap();
        if fetched.is_empty() {
            return found;
        }
        for batch in fetched.batches().unwrap().iter() {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            let epoch = batch.header().leader_epoch.unwrap().value();
            for record in batch.body(1 << 20).unwrap().records() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                found.push((record.offset.value(), epoch, value));
            }
        }
        next = fetched.next_offset().unwrap();
    }
}

/// All batches, one behind the other. Where segments begin may differ: a replica that was cut where one began keeps it.
fn bytes(log: &PartitionLog) -> Vec<u8> {
    let options = ReadOptions { max_bytes: u64::MAX, ..ReadOptions::default() };
    log.read(log.log_start(), &options).unwrap().read().unwrap()
}

/// The aborted transactions in the decided part of a log.
fn aborted_transactions(log: &PartitionLog) -> Vec<AbortedTxn> {
    let options = ReadOptions { max_bytes: u64::MAX, isolation: Isolation::Stable, ..ReadOptions::default() };
    log.read(log.log_start(), &options).unwrap().aborted().to_vec()
}

/// The epochs that the records tell of.
fn epochs_of(lines: &[Line]) -> Vec<EpochStart> {
    let mut epochs: Vec<EpochStart> = Vec::new();
    for (offset, value, _) in lines {
        if epochs.last().is_none_or(|last| last.epoch != epoch(*value)) {
            epochs.push(EpochStart { epoch: epoch(*value), start: at(*offset) });
        }
    }
    epochs
}

impl Cluster {
    /// All alive and in sync, nobody leads.
    pub(super) fn new(death: Death, seed: u64) -> Self {
        let replica = |_| {
            let machine = Machine::new();
            let log = Some(machine.open(config()));
            Replica { machine, log }
        };
        let replicas = (0..REPLICAS).map(replica).collect();
        let (taken, acknowledged) = (BTreeMap::new(), Vec::new());
        let in_sync = [true; REPLICAS];
        let reported = [None; REPLICAS];
        Self {
            death,
            seed,
            replicas,
            in_sync,
            reported,
            leader: None,
            epoch: -1,
            sequence: 0,
            taken,
            acknowledged,
            lost: 0,
        }
    }

    pub(super) fn log(&self, replica: usize) -> &PartitionLog {
        self.replicas[replica].log.as_ref().unwrap()
    }

    pub(super) fn leader(&self) -> Option<usize> {
        self.leader
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..REPLICAS).filter(|replica| self.replicas[*replica].log.is_some()).collect()
    }

    pub(super) fn dead(&self) -> Vec<usize> {
        (0..REPLICAS).filter(|replica| self.replicas[*replica].log.is_none()).collect()
    }

    /// Who lives and does not lead.
    pub(super) fn followers(&self) -> Vec<usize> {
        self.alive().into_iter().filter(|replica| Some(*replica) != self.leader).collect()
    }

    /// Who may be elected without losing anything that was acknowledged.
    pub(super) fn electable(&self) -> Vec<usize> {
        self.followers().into_iter().filter(|replica| self.in_sync[*replica]).collect()
    }

    /// Makes a replica the leader, in sync or not.
    pub(super) fn lead(&mut self, replica: usize) {
        self.epoch += 1;
        self.sequence = 0;
        self.log(replica).begin_leader_epoch(epoch(self.epoch)).unwrap();
        self.leader = Some(replica);
        self.in_sync[replica] = true;
        self.reported = [None; REPLICAS];
        self.check_leader();
    }

    pub(super) fn elect(&mut self, replica: usize) {
        assert!(self.in_sync[replica]);
        self.lead(replica);
    }

    /// The leader takes `batches` batches of one or two records, from a producer that writes in its time only: in every
    /// second leadership within transactions, some of which it aborts. They are the leader's own until others fetch them.
    pub(super) fn append(&mut self, batches: usize) {
        let leader = self.leader.unwrap();
        let producer = (ProducerId::new(1000 + i64::from(self.epoch)).unwrap(), ProducerEpoch::new(0).unwrap());
        let is_transactional = self.epoch % 2 == 1;
        for _ in 0..batches {
            let base = self.log(leader).log_end().value();
            let mut builder = BatchBuilder::new();
            builder.producer(producer.0, producer.1, Sequence::new(self.sequence)).transactional(is_transactional);
            for offset in base..base + 1 + base % 2 {
                let value = format!("{offset} of epoch {} by replica {leader}", self.epoch);
                builder.record(ms(NOW + offset), Some(b"k"), Some(value.as_bytes()));
                self.taken.insert((offset, self.epoch), value);
                self.sequence += 1;
            }
            let epoch = epoch(self.epoch);
            let appended = self.log(leader).append(builder.build().unwrap(), AppendAs::Client { epoch }).unwrap();
            assert_eq!(appended.base_offset(), at(base));
            if is_transactional && base % 3 == 0 {
                let marker = RecordBatch::end_transaction_marker(TransactionEnd::Abort, producer, 0, ms(NOW + base));
                let appended = self.log(leader).append(marker, AppendAs::Coordinator { epoch }).unwrap();
                self.taken.insert((appended.base_offset().value(), self.epoch), "\0".repeat(6));
            }
        }
    }

    /// What a follower does before it fetches: finds where it left the leader's log, and cuts there.
    pub(super) fn heal(&mut self, follower: usize) {
        let leader = self.log(self.leader.unwrap()).clone();
        let log = self.log(follower).clone();
        let (end, high_watermark) = (log.log_end(), log.marks().high_watermark);
        let mut rounds = 0;
        while let Some(own) = log.leader_epoch() {
            let Some(diverging) = leader.divergence(log.log_end(), own) else { break };
            let before = (log.log_end(), log.leader_epochs());
            log.truncate_to_epoch_end(diverging).unwrap();
            assert_ne!((log.log_end(), log.leader_epochs()), before, "{diverging:?} leads nowhere");
            rounds += 1;
            assert!(rounds < 50, "no end to {before:?}");
        }
        assert!(log.log_end() >= high_watermark, "{high_watermark} was replicated and is cut");
        self.lost += usize::try_from(end.value() - log.log_end().value()).unwrap();
        self.report(follower);
    }

    fn report(&mut self, replica: usize) {
        let marks = self.log(replica).marks();
        self.reported[replica] = Some(if self.death == Death::PowerLoss { marks.durable_end } else { marks.log_end });
    }

    /// A follower fetches one batch, if there is one.
    pub(super) fn fetch(&mut self, follower: usize) -> bool {
        self.heal(follower);
        let leader = self.log(self.leader.unwrap());
        let log = self.log(follower);
        let options = ReadOptions { max_bytes: 1, isolation: Isolation::LogEnd, ..ReadOptions::default() };
        let fetched = leader.read(log.log_end(), &options).unwrap();
        if fetched.is_empty() {
            return false;
        }
        log.append(fetched.read().unwrap(), AppendAs::Follower).unwrap();
        self.report(follower);
        true
    }

    /// A follower fetches all that the leader has, and is in sync then.
    pub(super) fn catch_up(&mut self, follower: usize) {
        while self.fetch(follower) {}
        if self.death == Death::PowerLoss {
            self.log(follower).flush().unwrap();
        }
        assert_eq!(self.log(follower).log_end(), self.log(self.leader.unwrap()).log_end());
        self.in_sync[follower] = true;
        self.report(follower);
    }

    /// Moves the leader's high watermark to what all in-sync replicas have.
    pub(super) fn acknowledge(&mut self) {
        let leader = self.leader.unwrap();
        if self.death == Death::PowerLoss {
            self.log(leader).flush().unwrap();
        }
        self.report(leader);
        let in_sync = self.alive().into_iter().filter(|replica| self.in_sync[*replica]);
        // Who did not ask this leader yet may have other records at these offsets, and holds the mark back.
        let Some(replicated) = in_sync.map(|replica| self.reported[replica]).min().unwrap() else { return };
        let log = self.log(leader).clone();
        let high_watermark = log.advance_high_watermark(replicated).unwrap();
        let known = self.acknowledged.len();
        let replicated = lines(&log).into_iter().filter(|(offset, ..)| at(*offset) < high_watermark);
        self.acknowledged.extend(replicated.skip(known));
        self.check_leader();
    }

    /// A follower hears of the leader's high watermark, as it does with each fetch.
    pub(super) fn tell(&mut self, follower: usize) {
        let high_watermark = self.log(self.leader.unwrap()).marks().high_watermark;
        if self.reported[follower].is_none() {
            return;
        }
        let log = self.log(follower);
        log.advance_high_watermark(high_watermark.min(log.log_end())).unwrap();
    }

    pub(super) fn die(&mut self, replica: usize) {
        let others = self.alive().into_iter().any(|other| other != replica && self.in_sync[other]);
        // The last one in sync stays it: nobody else may lead before it is back.
        self.in_sync[replica] &= !others;
        self.reported[replica] = None;
        drop(self.replicas[replica].log.take().unwrap());
        let fs = &self.replicas[replica].machine.fs;
        self.seed += 1;
        let fs = match self.death {
            Death::Kill => fs.kill(),
            Death::PowerLoss => fs.power_loss(self.seed),
        };
        self.replicas[replica].machine.fs = fs;
        if self.leader == Some(replica) {
            self.leader = None;
        }
    }

    pub(super) fn come_back(&mut self, replica: usize) {
        let log = self.replicas[replica].machine.open(config());
        assert!(log.recovery_report().damage().next().is_none(), "{:?}", log.recovery_report());
        self.replicas[replica].log = Some(log);
    }

    /// Whoever leads has everything that was acknowledged.
    fn check_leader(&self) {
        let found = lines(self.log(self.leader.unwrap()));
        let kept = self.acknowledged.len();
        assert_eq!(found.get(..kept), Some(&self.acknowledged[..]), "replica {:?} leads with {found:?}", self.leader);
    }

    /// Brings everybody back and in sync, and compares all there is.
    pub(super) fn finish(mut self) -> usize {
        for replica in self.dead() {
            self.come_back(replica);
        }
        if self.leader.is_none() {
            let next = self.electable()[0];
            self.elect(next);
        }
        // An epoch that ends without a record is known to its leader alone; the last one has some.
        self.append(2);
        for follower in self.followers() {
            self.catch_up(follower);
        }
        self.acknowledge();
        for follower in self.followers() {
            self.tell(follower);
        }
        let leader = self.leader.unwrap();
        let right = lines(self.log(leader));
        assert_eq!(right, self.acknowledged);
        for (at, (offset, epoch, value)) in right.iter().enumerate() {
            assert_eq!(usize::try_from(*offset).unwrap(), at);
            assert_eq!(self.taken.get(&(*offset, *epoch)), Some(value), "a record that no leader took");
        }
        self.compare(&right);
        // What is on the disks says the same.
        for replica in 0..REPLICAS {
            self.log(replica).close().unwrap();
            self.replicas[replica].log = None;
            self.come_back(replica);
            assert!(self.log(replica).recovery_report().was_clean);
        }
        self.compare(&right);
        self.lost
    }

    fn compare(&self, right: &[Line]) {
        let all = bytes(self.log(0));
        let (producers, aborted, marks) =
            (self.log(0).producers(), aborted_transactions(self.log(0)), self.log(0).marks());
        assert_eq!(marks.high_watermark, marks.log_end);
        for replica in 0..REPLICAS {
            let log = self.log(replica);
            assert_eq!(lines(log), right, "replica {replica}");
            assert_eq!(log.leader_epochs(), epochs_of(right), "replica {replica}");
            assert!(bytes(log) == all, "replica {replica} has other bytes");
            assert_eq!(log.producers(), producers, "replica {replica}");
            assert_eq!(aborted_transactions(log), aborted, "replica {replica}");
            assert_eq!(log.marks().last_stable, marks.last_stable, "replica {replica}");
        }
    }
}
