//! Appends under conditions, fencing, sealing, and every refusal that goes with them: nothing is changed by one. And
//! what the log does to batches that it takes: recompression, bounds on their size.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use alluvium::error::{BrokenRule, InvalidBatch, ProducerFault, RecompressError};
use alluvium::fs::sim::Survival;
use alluvium::index::{EpochEnd, EpochStart, ProducerState};
use alluvium::record::{BatchBuilder, BatchHeader, Compression, RecordBatch, TransactionEnd};
use alluvium::units::{ProducerEpoch, ProducerId, Sequence};
use alluvium::{
    AppendAs, AppendError, AppendOptions, ChangeError, CompressionPolicy, HighWatermarkMode, Isolation, LeaderEpoch,
    LogConfig, Marks, PartitionLog, ReadOptions,
};

use crate::support::{Contents, Machine, NOW, assert_unchanged, at, batch, client, contents, coordinator, ms, small};

fn epoch(value: i32) -> LeaderEpoch {
    LeaderEpoch::new(value).unwrap()
}

fn led_by(value: i32) -> AppendAs {
    AppendAs::Client { epoch: epoch(value) }
}

/// Everything that a refusal must leave alone.
#[derive(Debug, PartialEq)]
struct State {
    marks: Marks,
    producers: Vec<ProducerState>,
    epochs: Vec<EpochStart>,
    token: Option<u64>,
    is_sealed: bool,
    contents: Contents,
    appended: u64,
}

fn state(machine: &Machine, log: &PartitionLog) -> (BTreeMap<PathBuf, Option<Vec<u8>>>, State) {
    let state = State {
        marks: log.marks(),
        producers: log.producers(),
        epochs: log.leader_epochs(),
        token: log.fencing_token(),
        is_sealed: log.is_sealed(),
        contents: contents(log),
        appended: log.metrics().appended_batches.value(),
    };
    (machine.snapshot(), state)
}

/// Runs `refused` and holds that it changed nothing, in memory and on disk.
fn unchanged<T>(machine: &Machine, log: &PartitionLog, what: &str, refused: impl FnOnce() -> T) -> T {
    let (files, before) = state(machine, log);
    let outcome = refused();
    let (files_after, after) = state(machine, log);
    assert_unchanged(&files, &files_after, what);
    assert_eq!(before, after, "{what}");
    assert!(log.health().failed.is_none(), "{what}");
    outcome
}

fn refused(machine: &Machine, log: &PartitionLog, what: &str, bytes: &[u8], how: AppendOptions) -> AppendError {
    let error = unchanged(machine, log, what, || log.append(bytes, how).unwrap_err());
    let mut lent = bytes.to_vec();
    unchanged(machine, log, what, || log.append(&mut lent, how).unwrap_err());
    assert_eq!(lent, bytes, "{what}: a lent buffer is put back");
    let text = error.to_string();
    assert!(text.contains("; "), "{what}: {text:?} does not say what to do");
    error
}

fn produced(id: i64, producer_epoch: i16, sequence: i32, count: i32, transactional: bool) -> RecordBatch {
    let mut builder = BatchBuilder::new();
    let id = ProducerId::new(id).unwrap();
    builder.producer(id, ProducerEpoch::new(producer_epoch).unwrap(), Sequence::new(sequence));
    builder.transactional(transactional);
    for n in 0..count {
        builder.record(ms(NOW), Some(b"k"), Some(format!("{sequence} {n}").as_bytes()));
    }
    builder.build().unwrap()
}

fn marker(id: i64, producer_epoch: i16, coordinator_epoch: i32) -> RecordBatch {
    let producer = (ProducerId::new(id).unwrap(), ProducerEpoch::new(producer_epoch).unwrap());
    RecordBatch::end_transaction_marker(TransactionEnd::Abort, producer, coordinator_epoch, ms(NOW))
}

fn unverified() -> LogConfig {
    LogConfig { transaction_partition_verification_enable: false, segment_bytes: 5000, ..small() }
}

#[test]
fn of_sixteen_racing_writers_one_wins_each_round() {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 40;
    let machine = Machine::new();
    let log = machine.open(small());
    let (barrier, won) = (Barrier::new(WRITERS), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (log, barrier, won) = (&log, &barrier, &won);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let expected = at(i64::try_from(round).unwrap());
                    barrier.wait();
                    let how = AppendOptions::new(client()).expecting(expected);
                    match log.append(batch(&[&format!("{round} {writer}")]), how) {
                        Ok(appended) => {
                            assert_eq!(appended.base_offset(), expected);
                            won.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(AppendError::UnexpectedEnd { expected: named, log_end }) => {
                            assert_eq!((named, log_end), (expected, expected.next().unwrap()));
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                    barrier.wait();
                    assert_eq!(won.load(Ordering::SeqCst), round + 1);
                    barrier.wait();
                }
            });
        }
    });
    let rounds: Vec<String> = contents(&log).into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(rounds.len(), ROUNDS);
    for (round, value) in rounds.iter().enumerate() {
        assert!(value.starts_with(&format!("{round} ")), "{value}");
    }
}

#[test]
fn an_unexpected_end_changes_nothing() {
    let machine = Machine::new();
    let log = machine.open(small());
    for n in 0..5 {
        log.append(batch(&[&format!("v{n}")]), client()).unwrap();
    }
    for expected in [0, 4, 6, i64::MAX] {
        let how = AppendOptions::new(client()).expecting(at(expected));
        let error = refused(&machine, &log, "unexpected end", batch(&["x"]).as_bytes(), how);
        assert!(matches!(error, AppendError::UnexpectedEnd { log_end, .. } if log_end == at(5)), "{error:?}");
    }
    log.append(batch(&["x"]), AppendOptions::new(client()).expecting(at(5))).unwrap();
}

#[test]
fn a_stale_writer_is_refused_after_a_fence_and_after_every_kind_of_end() {
    let machine = Machine::new();
    let log = machine.open(small());
    let old = AppendOptions::new(client()).fenced_by(6);
    log.append(batch(&["before"]), old).unwrap();
    log.fence(6).unwrap();
    log.append(batch(&["of 6"]), old).unwrap();
    log.fence(7).unwrap();
    let check = |machine: &Machine, log: &PartitionLog, what: &str| {
        for stale in [old, AppendOptions::new(client()), AppendOptions::new(client()).fenced_by(8)] {
            let error = refused(machine, log, what, batch(&["x"]).as_bytes(), stale);
            let AppendError::FencedToken { given, current } = error else { panic!("{what}: {error:?}") };
            assert_eq!((given, current), (stale.fencing_token, 7), "{what}");
        }
        for token in [0, 6, 7] {
            let error = unchanged(machine, log, what, || log.fence(token).unwrap_err());
            assert!(matches!(error, ChangeError::StaleToken { current: 7, .. }), "{what}: {error:?}");
        }
        log.append(batch(&["of 7"]), AppendOptions::new(client()).fenced_by(7)).unwrap();
    };
    check(&machine, &log, "open");
    for (what, ended) in [
        ("kill", machine.kill()),
        ("nothing survives", Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() }),
        ("everything survives", Machine { fs: machine.fs.power_loss_keeping(Survival::Everything), ..machine.clone() }),
    ] {
        let log = ended.open(small());
        check(&ended, &log, what);
    }
    log.close().unwrap();
    let log = machine.open(small());
    check(&machine, &log, "closed and opened");
}

/// Whatever the machine leaves after it died in a step.
fn images(machine: &Machine, seed: u64) -> Vec<Machine> {
    let image = |fs| Machine { fs, ..machine.clone() };
    let mut images = vec![machine.kill()];
    for survival in [Survival::Nothing, Survival::Everything] {
        images.push(image(machine.fs.power_loss_keeping(survival)));
    }
    images.extend((0..4).map(|n| image(machine.fs.power_loss(seed * 10 + n))));
    images
}

/// Fence, seal and unseal, with a crash in every step of them and of what comes after: what returned is in force.
#[test]
fn decisions_that_returned_are_in_force_after_a_crash_at_every_step() {
    let mut step = 1;
    loop {
        let machine = Machine::new();
        let log = machine.open(small());
        log.append(batch(&["one", "two"]), client()).unwrap();
        log.flush().unwrap();
        machine.fs.crash_after(machine.fs.steps() + step);
        let token = |n| AppendOptions::new(client()).fenced_by(n);
        let fenced = log.fence(7);
        let _ = log.append(batch(&["three"]), token(7)).map(|appended| appended.wait_durable(crate::support::LONG));
        let fenced_again = log.fence(9);
        let _ = log.seal().and_then(|()| log.unseal());
        let sealed_again = log.seal();
        let is_over = !machine.fs.is_crashed();
        for (n, image) in images(&machine, step).into_iter().enumerate() {
            let what = format!("step {step} image {n}");
            let log = image.open(small());
            let expected: &[Option<u64>] = match (&fenced, &fenced_again) {
                (_, Ok(())) => &[Some(9)],
                (Ok(()), Err(_)) => &[Some(7), Some(9)],
                (Err(_), Err(_)) => &[None, Some(7)],
            };
            assert!(expected.contains(&log.fencing_token()), "{what}: {:?} of {expected:?}", log.fencing_token());
            let expected: &[bool] = match (&fenced_again, &sealed_again) {
                (_, Ok(())) => &[true],
                // The machine was dead before it was asked to seal.
                (Err(_), _) => &[false],
                _ => &[false, true],
            };
            assert!(expected.contains(&log.is_sealed()), "{what}: {}", log.is_sealed());
            assert!(contents(&log).len() >= 2, "{what}");
            let in_force = log.fencing_token();
            if log.is_sealed() {
                log.unseal().unwrap();
            }
            if let Some(current) = in_force {
                assert!(matches!(log.append(batch(&["x"]), token(current - 1)), Err(AppendError::FencedToken { .. })));
                log.append(batch(&["x"]), token(current)).unwrap();
            }
        }
        if is_over {
            break;
        }
        step += 1;
    }
    assert!(step > 10, "{step} steps");
}

#[test]
fn a_sealed_log_refuses_changes_until_it_is_unsealed() {
    let machine = Machine::new();
    let log = machine.open(small());
    for n in 0..10 {
        log.append(batch(&[&format!("v{n}")]), client()).unwrap();
    }
    log.seal().unwrap();
    let check = |machine: &Machine, log: &PartitionLog, what: &str| {
        assert!(log.is_sealed(), "{what}");
        let error = refused(machine, log, what, batch(&["x"]).as_bytes(), client().into());
        assert!(matches!(error, AppendError::Sealed), "{what}: {error:?}");
        let end = EpochEnd { epoch: epoch(0), end: at(4) };
        let changes: [(&str, &dyn Fn() -> Option<ChangeError>); 4] = [
            ("truncate_to", &|| log.truncate_to(at(5)).err()),
            ("truncate_fully", &|| log.truncate_fully_and_start_at(at(5)).err()),
            ("begin_leader_epoch", &|| log.begin_leader_epoch(epoch(4)).err()),
            ("truncate_to_epoch_end", &|| log.truncate_to_epoch_end(end).err()),
        ];
        for (call, change) in changes {
            let error = unchanged(machine, log, call, change);
            assert!(matches!(error, Some(ChangeError::Sealed)), "{what}, {call}: {error:?}");
        }
    };
    check(&machine, &log, "open");
    // What was appended before may still become durable, and records may be deleted.
    assert_eq!(log.flush().unwrap(), at(10));
    assert_eq!(log.advance_log_start(at(2)).unwrap(), at(2));
    let killed = machine.kill();
    check(&killed, &killed.open(small()), "kill");
    let lost = Machine { fs: machine.fs.power_loss_keeping(Survival::Nothing), ..machine.clone() };
    check(&lost, &lost.open(small()), "power loss");
    log.close().unwrap();
    let log = machine.open(small());
    check(&machine, &log, "closed and opened");
    log.unseal().unwrap();
    log.append(batch(&["x"]), client()).unwrap();
    log.begin_leader_epoch(epoch(4)).unwrap();
    assert_eq!(log.truncate_to(at(5)).unwrap(), at(5));
    log.close().unwrap();
    assert!(!machine.open(small()).is_sealed());
}

#[test]
fn stale_leader_epochs_and_marks_that_are_not_to_be_moved() {
    let machine = Machine::new();
    let log = machine.open(small());
    log.append(batch(&["a", "b"]), led_by(3)).unwrap();
    let error = refused(&machine, &log, "stale epoch", batch(&["x"]).as_bytes(), led_by(2).into());
    assert!(matches!(error, AppendError::FencedEpoch { .. }), "{error:?}");
    for stale in [0, 2, 3] {
        let error = unchanged(&machine, &log, "stale epoch", || log.begin_leader_epoch(epoch(stale)).unwrap_err());
        assert!(matches!(error, ChangeError::StaleEpoch { .. }), "{error:?}");
    }
    let error = unchanged(&machine, &log, "log start", || log.advance_log_start(at(3)).unwrap_err());
    assert!(matches!(error, ChangeError::OutOfBounds { .. }), "{error:?}");
    let error = unchanged(&machine, &log, "not yours", || log.advance_high_watermark(at(1)).unwrap_err());
    assert!(matches!(error, ChangeError::NotYours), "{error:?}");
    log.close().unwrap();
    let log = machine.open(LogConfig { high_watermark: HighWatermarkMode::Embedder, ..small() });
    log.append(batch(&["c", "d"]), led_by(3)).unwrap();
    assert_eq!(log.marks().high_watermark, at(2));
    let error = unchanged(&machine, &log, "past the end", || log.advance_high_watermark(at(5)).unwrap_err());
    assert!(matches!(error, ChangeError::OutOfBounds { .. }), "{error:?}");
    let error = unchanged(&machine, &log, "past the mark", || log.advance_log_start(at(3)).unwrap_err());
    assert!(matches!(error, ChangeError::OutOfBounds { .. }), "{error:?}");
    assert_eq!(log.advance_high_watermark(at(3)).unwrap(), at(3));
    assert_eq!(log.advance_log_start(at(3)).unwrap(), at(3));
}

#[test]
fn no_offsets_are_left() {
    let machine = Machine::new();
    let log = machine.open(small());
    log.truncate_fully_and_start_at(at(i64::MAX - 1)).unwrap();
    let error = refused(&machine, &log, "exhausted", batch(&["a", "b"]).as_bytes(), client().into());
    assert!(matches!(error, AppendError::OffsetsExhausted { records: 2, .. }), "{error:?}");
}

#[test]
fn every_fault_of_a_producer_is_its_own_and_changes_nothing() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { producers_max: 2, ..unverified() });
    log.append(produced(1, 1, 0, 2, false), client()).unwrap();
    log.append(produced(2, 0, 0, 1, true), client()).unwrap();
    let fault = |what: &str, bytes: &[u8], origin: AppendAs| match refused(&machine, &log, what, bytes, origin.into()) {
        AppendError::Producer(refusal) => refusal.cause,
        other => panic!("{what}: {other:?}"),
    };
    let found = fault("fenced", produced(1, 0, 0, 1, false).as_bytes(), client());
    assert!(matches!(found, ProducerFault::FencedEpoch { .. }), "{found:?}");
    for sequence in [3, 7] {
        let found = fault("gap", produced(1, 1, sequence, 1, false).as_bytes(), client());
        assert!(matches!(found, ProducerFault::OutOfOrderSequence { .. }), "{found:?}");
    }
    let mut incomplete = BatchBuilder::new();
    incomplete.producer(ProducerId::new(1).unwrap(), ProducerEpoch::new(1).unwrap(), None);
    let incomplete = incomplete.record(ms(NOW), Some(b"k"), None).build().unwrap();
    // Told from the batch alone, before any producer is looked at.
    let error = refused(&machine, &log, "incomplete", incomplete.as_bytes(), client().into());
    let AppendError::Invalid { cause: InvalidBatch::Rule(rule), .. } = error else { panic!("{error:?}") };
    assert!(matches!(rule, BrokenRule::Producer { .. }), "{rule:?}");
    let found = fault("open", produced(2, 0, 1, 1, false).as_bytes(), client());
    assert!(matches!(found, ProducerFault::TransactionOpen { .. }), "{found:?}");
    let both = [produced(1, 1, 0, 2, false).into_bytes(), produced(1, 1, 2, 1, false).into_bytes()].concat();
    let found = fault("partly", &both, client());
    assert!(matches!(found, ProducerFault::PartlyDuplicate { .. }), "{found:?}");
    log.append(marker(2, 0, 5), coordinator()).unwrap();
    let found = fault("coordinator", marker(2, 0, 4).as_bytes(), coordinator());
    assert!(matches!(found, ProducerFault::FencedCoordinator { .. }), "{found:?}");
    // Both places are taken by transactions.
    log.append(produced(1, 1, 2, 1, true), client()).unwrap();
    log.append(produced(2, 0, 1, 1, true), client()).unwrap();
    let found = fault("too many", produced(3, 0, 0, 1, false).as_bytes(), client());
    assert!(matches!(found, ProducerFault::TooManyProducers { .. }), "{found:?}");
}

#[test]
fn a_transaction_without_a_guard_is_refused() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { transaction_partition_verification_enable: true, ..unverified() });
    let first = produced(2, 0, 0, 1, true);
    let error = refused(&machine, &log, "unverified", first.as_bytes(), client().into());
    let AppendError::Producer(refusal) = error else { panic!("{error:?}") };
    assert!(matches!(refusal.cause, ProducerFault::Unverified { .. }), "{refusal:?}");
    let (id, producer_epoch) = (ProducerId::new(2).unwrap(), ProducerEpoch::new(0).unwrap());
    let guard = log.begin_verification(id, producer_epoch, Sequence::new(0)).unwrap().unwrap();
    // A later batch overtook the first one.
    let how = AppendOptions::new(client()).verified_by(guard);
    let error = refused(&machine, &log, "overtaken", produced(2, 0, 3, 1, true).as_bytes(), how);
    let AppendError::Producer(refusal) = error else { panic!("{error:?}") };
    assert!(matches!(refusal.cause, ProducerFault::PastVerifiedSequence { .. }), "{refusal:?}");
    log.append(first, AppendOptions::new(client()).verified_by(guard)).unwrap();
}

/// The stored batches, one after the other.
fn stored(log: &PartitionLog) -> Vec<(BatchHeader, Vec<u8>)> {
    let fetched = log.read(log.log_start(), &ReadOptions { max_bytes: 1 << 30, ..ReadOptions::default() }).unwrap();
    let batches = fetched.batches().unwrap();
    batches.iter().map(|batch| batch.map(|batch| (*batch.header(), batch.bytes().to_vec())).unwrap()).collect()
}

/// Levels that the settings took were refused by the encoder, append by append.
#[test]
fn every_level_that_the_settings_take_is_one_that_appends_take() {
    let gzip = [-1, 1, 9].map(|level| CompressionPolicy::Gzip { level });
    let lz4 = [1, 9, 17].map(|level| CompressionPolicy::Lz4 { level });
    let zstd = [-131_072, -1, 0, 1, 3, 22].map(|level| CompressionPolicy::Zstd { level });
    for compression in gzip.into_iter().chain(lz4).chain(zstd) {
        let config = LogConfig { compression, ..small() };
        config.validate().unwrap();
        let log = Machine::new().open(config);
        log.append(batch(&["a", "b"]), client()).unwrap();
        assert_eq!(contents(&log).len(), 2, "{compression:?}");
    }
}

#[test]
fn batches_of_every_codec_are_stored_with_the_one_that_is_configured() {
    let policies = [
        (CompressionPolicy::Producer, None),
        (CompressionPolicy::Uncompressed, Some(Compression::None)),
        (CompressionPolicy::Gzip { level: 9 }, Some(Compression::Gzip)),
        (CompressionPolicy::Snappy, Some(Compression::Snappy)),
        (CompressionPolicy::Lz4 { level: 9 }, Some(Compression::Lz4)),
        (CompressionPolicy::Zstd { level: 3 }, Some(Compression::Zstd)),
    ];
    for (compression, codec) in policies {
        let machine = Machine::new();
        let log = machine.open(LogConfig { compression, segment_bytes: 1 << 20, ..small() });
        let mut sent = Vec::new();
        for from in Compression::ALL {
            let mut builder = BatchBuilder::new();
            builder.compression(from);
            for n in 0..50 {
                builder.record(ms(NOW + n), Some(b"key"), Some(format!("value {n} of {}", from.name()).as_bytes()));
            }
            sent.push(builder.build().unwrap().into_bytes());
        }
        for bytes in &sent {
            log.append(bytes, client()).unwrap();
        }
        // Several in one append, too.
        log.append(sent.clone(), client()).unwrap();
        let stored = stored(&log);
        assert_eq!(stored.len(), 2 * sent.len());
        for ((header, bytes), (sent, from)) in
            stored.iter().zip(sent.iter().cycle().zip(Compression::ALL.into_iter().cycle()))
        {
            let expected = codec.unwrap_or(from);
            assert_eq!(header.attributes.compression(), expected, "{compression:?} of {from:?}");
            if expected == from {
                // From the magic on nothing is the log's to change, but for the epoch before it.
                assert_eq!(&bytes[16..], &sent[16..], "{compression:?} of {from:?}");
            }
        }
        assert_eq!(contents(&log).len(), 500);
    }
}

#[test]
fn the_size_that_counts_is_also_that_after_recompression() {
    let machine = Machine::new();
    let config = LogConfig { max_message_bytes: 1000, segment_bytes: 1 << 20, ..small() };
    let log = machine.open(LogConfig { compression: CompressionPolicy::Uncompressed, ..config.clone() });
    log.append(batch(&["before"]), client()).unwrap();
    let mut builder = BatchBuilder::new();
    builder.compression(Compression::Gzip).record(ms(NOW), Some(b"k"), Some(&[b'0'; 2000]));
    let small_when_sent = builder.build().unwrap();
    assert!(small_when_sent.as_bytes().len() < 1000);
    let error = refused(&machine, &log, "too large", small_when_sent.as_bytes(), client().into());
    let AppendError::Invalid { batch: 0, cause: InvalidBatch::Rule(BrokenRule::TooLarge { size, max }) } = error else {
        panic!("{error:?}")
    };
    assert!(size > 2000 && max == 1000, "{size} {max}");
    // The bound is one on clients.
    log.append(small_when_sent.clone(), coordinator()).unwrap();
    log.update_config(LogConfig { compression: CompressionPolicy::Producer, ..config }).unwrap();
    log.append(small_when_sent, client()).unwrap();
}

#[test]
fn a_batch_that_cannot_be_recompressed_changes_nothing() {
    let machine = Machine::new();
    let compression = CompressionPolicy::Gzip { level: 6 };
    let config = LogConfig { compression, max_decompressed_bytes: 1024, segment_bytes: 1 << 20, ..small() };
    let log = machine.open(config);
    log.append(batch(&["before"]), client()).unwrap();
    let large = batch(&["0".repeat(3000).as_str()]);
    let error = refused(&machine, &log, "recompress", large.as_bytes(), client().into());
    let AppendError::Recompress { batch: 0, cause: RecompressError::Batch(cause) } = error else { panic!("{error:?}") };
    assert_eq!(cause, InvalidBatch::Bomb { limit: 1024 });
}

#[test]
fn bounds_that_are_changed_leave_stored_batches_readable() {
    let machine = Machine::new();
    let log = machine.open(LogConfig { segment_bytes: 1 << 20, ..small() });
    let value = "v".repeat(5000);
    log.append(batch(&[&value]), client()).unwrap();
    log.update_config(LogConfig { max_message_bytes: 100, segment_bytes: 1 << 20, ..small() }).unwrap();
    let error = refused(&machine, &log, "lowered", batch(&[&value]).as_bytes(), client().into());
    assert!(matches!(error, AppendError::Invalid { .. }), "{error:?}");
    log.append(batch(&["s"]), client()).unwrap();
    assert_eq!(contents(&log).len(), 2);
    log.close().unwrap();
    let log = machine.open(LogConfig { max_message_bytes: 100, ..small() });
    assert_eq!(contents(&log).len(), 2, "and by an opening, also in a segment larger than is configured");
    log.update_config(LogConfig { max_message_bytes: 10_000, segment_bytes: 1 << 20, ..small() }).unwrap();
    log.append(batch(&[&value]), client()).unwrap();
    assert_eq!(contents(&log).len(), 3);
    // A fetch that is smaller than the next batch goes on all the same, unless it is told not to.
    for isolation in [Isolation::LogEnd, Isolation::HighWatermark, Isolation::Stable] {
        let (mut next, mut count) = (at(0), 0);
        while next < log.log_end() {
            let fetched = log.read(next, &ReadOptions { max_bytes: 1, isolation, ..ReadOptions::default() }).unwrap();
            assert!(fetched.next_offset().unwrap() > next, "{isolation:?} at {next}");
            (next, count) = (fetched.next_offset().unwrap(), count + 1);
        }
        assert_eq!(count, 3);
        let whole_only = ReadOptions { max_bytes: 1, min_one_batch: false, isolation };
        assert!(log.read(at(0), &whole_only).unwrap().is_empty());
    }
}
