//! What a log says beyond its records (producers, transactions, leader epochs) over a clean close: found again without a
//! look at the records, and healed where one of its files is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use alluvium::error::AppendError;
use alluvium::fs::sim::{Operation, Outcome, TraceEvent};
use alluvium::index::{AbortedTxn, EpochStart, ProducerState};
use alluvium::log::Found;
use alluvium::record::{BatchBuilder, RecordBatch, TransactionEnd};
use alluvium::{
    AppendAs, HighWatermarkMode, Isolation, LeaderEpoch, LogConfig, Marks, PartitionLog, ProducerEpoch, ProducerId,
    ReadOptions, Sequence,
};

use crate::support::{Machine, NOW, at, findings, ms, small};

fn config() -> LogConfig {
    LogConfig { transaction_partition_verification_enable: false, ..small() }
}

fn id(value: i64) -> ProducerId {
    ProducerId::new(value).unwrap()
}

fn producer_epoch() -> ProducerEpoch {
    ProducerEpoch::new(0).unwrap()
}

fn leader_of(n: i64) -> LeaderEpoch {
    LeaderEpoch::new(i32::try_from(n / 8).unwrap()).unwrap()
}

fn write(log: &PartitionLog, n: i64, producer: i64, sequence: i32, is_transactional: bool) {
    let mut builder = BatchBuilder::new();
    builder.producer(id(producer), producer_epoch(), Sequence::new(sequence)).transactional(is_transactional);
    builder.record(ms(NOW + n), Some(b"k"), Some(format!("{n} of {producer}").as_bytes()));
    log.append(builder.build().unwrap(), AppendAs::Client { epoch: leader_of(n) }).unwrap();
}

fn end(log: &PartitionLog, n: i64, producer: i64, ending: TransactionEnd) {
    let marker = RecordBatch::end_transaction_marker(ending, (id(producer), producer_epoch()), 4, ms(NOW + n));
    log.append(marker, AppendAs::Coordinator { epoch: leader_of(n) }).unwrap();
}

/// A record of an idempotent producer in each round, transactions of two others that overlap, abort and commit in turns;
/// a new leader every eight rounds. The last transaction stays open.
fn fill(log: &PartitionLog, rounds: std::ops::Range<i64>) {
    for n in rounds {
        let sequence = i32::try_from(n).unwrap();
        write(log, n, 1, sequence, false);
        write(log, n, 2, sequence, true);
        write(log, n, 3 + n % 2, sequence / 2, true);
        let ending = if n % 3 == 1 { TransactionEnd::Commit } else { TransactionEnd::Abort };
        end(log, n, 2, ending);
        if n % 4 == 3 {
            end(log, n, 3, TransactionEnd::Abort);
            end(log, n, 4, TransactionEnd::Commit);
        }
    }
}

/// All that is derived.
#[derive(Debug, PartialEq)]
struct State {
    producers: Vec<ProducerState>,
    epochs: Vec<EpochStart>,
    marks: Marks,
    aborted: Vec<AbortedTxn>,
}

fn aborted(log: &PartitionLog) -> Vec<AbortedTxn> {
    let mut found = Vec::new();
    let mut next = log.log_start();
    while next < log.marks().last_stable {
        let options = ReadOptions { max_bytes: 300, isolation: Isolation::Stable, ..ReadOptions::default() };
        let fetched = log.read(next, &options).unwrap();
        for txn in fetched.aborted() {
            if !found.contains(txn) {
                found.push(*txn);
            }
        }
        next = fetched.next_offset().unwrap();
    }
    found
}

fn state(log: &PartitionLog) -> State {
    State { producers: log.producers(), epochs: log.leader_epochs(), marks: log.marks(), aborted: aborted(log) }
}

const ROUNDS: i64 = 22;

/// A machine with a log of several segments that was closed, and what it said.
fn closed() -> (Machine, State) {
    let machine = Machine::new();
    let log = machine.open(config());
    fill(&log, 0..ROUNDS);
    let found = state(&log);
    log.close().unwrap();
    assert!(log.segment_files().len() > 5);
    assert!(found.aborted.len() > 15 && found.epochs.len() == 3 && found.producers.len() == 4);
    assert!(found.marks.last_stable < found.marks.log_end, "a transaction is open");
    (machine, State { marks: Marks { durable_end: found.marks.log_end, ..found.marks }, ..found })
}

fn is_kind(name: &str, kind: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == kind)
}

fn names_of(machine: &Machine, kind: &str) -> Vec<String> {
    let mut names = machine.names();
    names.retain(|name| is_kind(name, kind));
    names.sort();
    names
}

/// Everything that Kafka reads too.
fn files(machine: &Machine) -> BTreeMap<String, Vec<u8>> {
    let names = machine.names().into_iter().filter(|name| !name.starts_with("alluvium."));
    names.map(|name| (name.clone(), machine.read(&name))).collect()
}

fn trace_of_opening(machine: &Machine, config: LogConfig) -> (PartitionLog, Vec<TraceEvent>) {
    let before = machine.fs.trace().len();
    machine.fs.record_trace(true);
    let log = machine.open(config);
    machine.fs.record_trace(false);
    let events = machine.fs.trace().split_off(before);
    (log, events)
}

fn name_of(event: &TraceEvent) -> String {
    event.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Which files were opened, and how many bytes of each were read.
fn reads(events: &[TraceEvent]) -> BTreeMap<String, u64> {
    let mut reads = BTreeMap::new();
    for event in events {
        match (event.operation, event.outcome) {
            (Operation::Open, Outcome::Done(_)) => drop(reads.entry(name_of(event)).or_insert(0)),
            (Operation::Read, Outcome::Done(bytes)) => *reads.entry(name_of(event)).or_insert(0) += bytes,
            (Operation::Map, _) => panic!("{event:?}"),
            _ => {}
        }
    }
    reads
}

#[test]
fn a_clean_opening_looks_at_no_records() {
    for high_watermark in [HighWatermarkMode::LogEnd, HighWatermarkMode::Embedder, HighWatermarkMode::DurableEnd] {
        let (machine, right) = closed();
        let config = LogConfig { high_watermark, ..config() };
        if high_watermark == HighWatermarkMode::Embedder {
            let log = machine.open(config.clone());
            log.advance_high_watermark(log.log_end()).unwrap();
            log.close().unwrap();
        }
        let (log, events) = trace_of_opening(&machine, config);
        assert!(log.recovery_report().was_clean);
        assert_eq!(log.recovery_report().scanned_bytes, 0);
        let reads = reads(&events);
        let active = names_of(&machine, "log").pop().unwrap();
        let newest = names_of(&machine, "snapshot").pop().unwrap();
        let logs: Vec<&String> = reads.keys().filter(|name| is_kind(name, "log")).collect();
        assert_eq!(logs, [&active], "no sealed segment is opened: {reads:?}");
        let snapshots: Vec<&String> = reads.keys().filter(|name| is_kind(name, "snapshot")).collect();
        assert_eq!(snapshots, [&newest], "nor an older snapshot");
        for kind in ["index", "timeindex", "txnindex"] {
            let opened = reads.keys().filter(|name| is_kind(name, kind)).count();
            assert!(opened <= 1, "{kind} of the active segment alone: {reads:?}");
        }
        // Of the active one the headers behind the last index entry, and never a payload.
        let of_active = events.iter().filter(|event| event.operation == Operation::Read && name_of(event) == active);
        let lengths: Vec<u64> = of_active.map(|event| event.len).collect();
        assert!(lengths.iter().all(|len| *len <= 61), "{lengths:?}");
        assert!(lengths.len() < 10, "{lengths:?}");
        // Every other byte is of a file that was written for this.
        let rest = reads.keys().filter(|name| !is_kind(name, "log") && !name.contains(&active[..20]));
        let rest: Vec<&str> = rest.map(String::as_str).filter(|name| !name.starts_with("alluvium.")).collect();
        assert_eq!(rest, [newest.as_str(), "leader-epoch-checkpoint"]);
        assert_eq!(state(&log), right, "{high_watermark:?}");
    }
}

/// Closing and opening any number of times changes no file.
#[test]
fn files_stay_as_they_are_over_clean_openings() {
    let (machine, right) = closed();
    let before = files(&machine);
    for _ in 0..3 {
        let log = machine.open(config());
        assert_eq!(state(&log), right);
        log.close().unwrap();
        assert!(files(&machine) == before);
    }
}

/// A producer that is known after the opening goes on; one that sends again is answered with the old offsets.
#[test]
fn producers_go_on_over_a_clean_opening() {
    let (machine, _) = closed();
    let log = machine.open(config());
    let mut builder = BatchBuilder::new();
    let last = i32::try_from(ROUNDS - 1).unwrap();
    let mut batch = |sequence: i32| {
        builder.producer(id(1), producer_epoch(), Sequence::new(sequence));
        builder.record(ms(NOW + 100), Some(b"k"), Some(b"again")).build().unwrap()
    };
    let leader = AppendAs::Client { epoch: leader_of(ROUNDS) };
    let log_end = log.log_end();
    let again = log.append(batch(last), leader).unwrap();
    assert!(again.is_duplicate() && again.base_offset() < log_end);
    let gap = log.append(batch(last + 2), leader).unwrap_err();
    assert!(matches!(gap, AppendError::Producer { .. }), "{gap:?}");
    assert_eq!(log.log_end(), log_end);
    assert_eq!(log.append(batch(last + 1), leader).unwrap().base_offset(), log_end);
}

fn flip(machine: &Machine, name: &str, byte: usize, bit: u8) {
    let mut bytes = machine.read(name);
    bytes[byte] ^= 1 << bit;
    machine.write(name, &bytes);
}

/// What is done to a file.
type Harm = fn(&Machine, &str);

#[test]
fn a_bad_snapshot_falls_back_to_the_next_older_one() {
    let (machine, right) = closed();
    let before = files(&machine);
    let names = names_of(&machine, "snapshot");
    assert!(names.len() > 5);
    let harms: [Harm; 5] = [
        |machine, name| flip(machine, name, 30, 3),
        |machine, name| flip(machine, name, 1, 1),
        |machine, name| machine.write(name, b""),
        |machine, name| machine.write(name, &machine.read(name)[..50]),
        |machine, name| machine.remove(name),
    ];
    for (kind, harm) in harms.into_iter().enumerate() {
        for bad in 1..=names.len() {
            let machine = machine.kill();
            for name in &names[names.len() - bad..] {
                harm(&machine, name);
            }
            let (log, events) = trace_of_opening(&machine, config());
            assert!(log.recovery_report().was_clean);
            assert_eq!(state(&log), right, "harm {kind} to {bad} of {names:?}");
            let told = findings(&log).into_iter().filter(|(found, _)| matches!(found, Found::BadSnapshot(_))).count();
            assert_eq!(told, if kind == 4 { 0 } else { bad }, "harm {kind}: {:?}", findings(&log));
            // What lies before the snapshot that is good is not read.
            let reads = reads(&events);
            let first = if bad == names.len() { "" } else { &names[names.len() - bad - 1][..20] };
            let logs: Vec<&String> = reads.keys().filter(|name| is_kind(name, "log")).collect();
            assert!(logs.iter().all(|name| &name[..20] >= first), "harm {kind} to {bad}: {logs:?}");
            // The close leaves a good one where the log ends.
            log.close().unwrap();
            let last = names.last().unwrap();
            assert!(machine.read(last) == before[last], "harm {kind} to {bad}");
            let log = machine.open(config());
            assert_eq!(findings(&log).iter().filter(|(found, _)| matches!(found, Found::BadSnapshot(_))).count(), 0);
            assert_eq!(state(&log), right);
        }
    }
}

#[test]
fn a_bad_checkpoint_of_epochs_is_made_anew() {
    let (machine, right) = closed();
    let name = "leader-epoch-checkpoint";
    let before = files(&machine);
    let good = String::from_utf8(machine.read(name)).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    assert_eq!(lines.len(), 5);
    let second: i64 = lines[3].split(' ').nth(1).unwrap().parse().unwrap();
    let bads = [
        String::new(),
        "0\n".to_owned(),
        "0\n0\n".to_owned(),
        "1\n0\n".to_owned(),
        good.replace("0\n3\n", "0\n4\n"),
        good.replace("0\n3\n", "0\n2\n"),
        // Those are well formed and wrong.
        good.replace(&format!("1 {second}"), &format!("1 {}", second + 1)),
        good.replace(&format!("1 {second}"), &format!("1 {}", second - 1)),
        format!("0\n2\n{}\n{}\n", lines[2], lines[4]),
        format!("0\n1\n{}\n", lines[2]),
        format!("0\n4\n{}\n{}\n{}\n7 {}\n", lines[2], lines[3], lines[4], right.marks.log_end.value() - 1),
        "0\n1\n9 0\n".to_owned(),
        "\u{fffd}".repeat(40),
    ];
    for bad in bads {
        let machine = machine.kill();
        machine.write(name, bad.as_bytes());
        let log = machine.open(config());
        assert_eq!(state(&log), right, "{bad:?}");
        assert_eq!(machine.read(name), good.as_bytes(), "healed at once: {bad:?}");
        log.close().unwrap();
        assert!(files(&machine) == before, "{bad:?}");
        assert!(machine.open(config()).recovery_report().was_clean);
    }
    let machine = machine.kill();
    machine.remove(name);
    assert_eq!(state(&machine.open(config())), right);
}

#[test]
fn a_bad_transaction_index_is_made_anew_when_it_is_looked_at() {
    let (machine, right) = closed();
    let before = files(&machine);
    let names = names_of(&machine, "txnindex");
    let active = names_of(&machine, "log").pop().unwrap();
    assert!(names.len() > 4);
    for name in &names {
        let is_active = name[..20] == active[..20];
        let good = machine.read(name);
        let mut older = good.clone();
        older[1] = 9;
        let mut before_it = good.clone();
        before_it[18..26].fill(0xff);
        for bad in [&good[..good.len() - 1], &[0; 20], &older, &before_it] {
            let machine = machine.kill();
            machine.write(name, bad);
            let log = machine.open(config());
            assert_eq!(log.recovery_report().was_clean, !is_active, "{name}");
            assert_eq!(state(&log), right, "{name} as {bad:?}");
            log.close().unwrap();
            assert!(files(&machine) == before, "{name} as {bad:?}");
        }
        if is_active {
            let machine = machine.kill();
            machine.remove(name);
            let log = machine.open(config());
            assert_eq!(state(&log), right, "{name} gone");
            log.close().unwrap();
            assert!(files(&machine) == before, "{name} gone");
        }
    }
}

/// A power loss came between the sync of a segment and the names of its index files. That there was no `.txnindex` was
/// taken for "nothing was aborted here", and consumers of committed records were shown what had been aborted.
#[test]
fn aborted_transactions_are_found_again_where_no_index_was_written() {
    let machine = Machine::new();
    let log = machine.open(config());
    fill(&log, 0..ROUNDS);
    log.flush().unwrap();
    let right = aborted(&log);
    drop(log);
    let names = names_of(&machine, "log");
    let sealed = &names[..names.len() - 1];
    for lost in [&[".index", ".timeindex", ".txnindex"][..], &[".timeindex", ".txnindex"], &[".index", ".txnindex"]] {
        for closes in [false, true] {
            let mut machine = machine.kill();
            for name in sealed {
                for kind in lost {
                    let name = name.replace(".log", kind);
                    if machine.exists(&name) {
                        machine.remove(&name);
                    }
                }
            }
            let log = machine.open(config());
            assert_eq!(aborted(&log), right, "{lost:?}");
            if closes {
                log.close().unwrap();
            }
            drop(log);
            machine = machine.kill();
            // Not asked for before the close, either.
            machine.open(config()).close().unwrap();
            let log = machine.open(config());
            assert_eq!(log.recovery_report().scanned_bytes, 0);
            assert_eq!(aborted(&log), right, "{lost:?}, closed: {closes}");
        }
    }
}

/// A leader that wrote nothing has an epoch that begins at the log end. It is told by no record, and forgotten.
#[test]
fn an_epoch_without_records_is_forgotten_by_every_opening() {
    let (machine, right) = closed();
    for closes in [true, false] {
        let machine = machine.kill();
        let log = machine.open(config());
        log.begin_leader_epoch(LeaderEpoch::new(70).unwrap()).unwrap();
        assert_eq!(log.leader_epoch(), LeaderEpoch::new(70));
        if closes {
            log.close().unwrap();
        }
        drop(log);
        let machine = machine.kill();
        let log = machine.open(config());
        assert_eq!(log.recovery_report().was_clean, closes);
        assert_eq!(state(&log), right, "closed: {closes}");
        log.close().unwrap();
        assert_eq!(state_after(&machine), right);
    }
}

fn state_after(machine: &Machine) -> State {
    let log = machine.open(config());
    assert!(log.recovery_report().was_clean);
    state(&log)
}

/// Without a clean close everything comes from the log and what was synced beside it.
#[test]
fn a_killed_log_says_the_same_again() {
    let machine = Machine::new();
    let log = machine.open(config());
    for n in 0..ROUNDS {
        fill(&log, n..n + 1);
        if n % 5 == 2 {
            log.flush().unwrap();
        }
        let right = state(&log);
        let again = machine.kill().open(config());
        let found = state(&again);
        let marks = Marks { durable_end: right.marks.log_end, ..right.marks };
        assert_eq!(found, State { marks, ..right }, "after round {n}");
        // And a clean close of that, too.
        again.close().unwrap();
    }
}

/// Snapshots lie where segments begin, however the log was left, and one where it ends.
#[test]
fn snapshots_lie_at_every_segment_and_at_the_end() {
    for is_killed in [false, true] {
        let (mut machine, _) = closed();
        let log = machine.open(config());
        fill(&log, ROUNDS..ROUNDS + 6);
        if is_killed {
            drop(log);
            machine = machine.kill();
            machine.open(config()).close().unwrap();
        } else {
            log.close().unwrap();
        }
        let log = machine.open(config());
        let end = format!("{:020}.snapshot", log.log_end().value());
        let mut right: Vec<String> =
            names_of(&machine, "log").iter().skip(1).map(|name| name.replace(".log", ".snapshot")).collect();
        right.push(end);
        assert_eq!(names_of(&machine, "snapshot"), right, "killed: {is_killed}");
        assert!(log.log_end() > at(0));
    }
}
