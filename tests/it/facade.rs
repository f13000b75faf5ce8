//! The log as `dyn`, futures on runtimes written by hand, and which types may cross threads.

use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use alluvium::error::{ConfigError, DurabilityError, WaitError};
use alluvium::index::{EpochEnd, EpochStart, ProducerState, VerificationGuard};
use alluvium::log::{LogHealth, Ticked};
use alluvium::record::{BatchHeader, stamp};
use alluvium::table::{CompactedTable, TableError, TableWrite};
use alluvium::{
    AppendError, AppendOptions, Appended, Batches, BoxedFuture, ChangeError, Deadline, Durable, Environment, Fetched,
    FetchedBatches, FileSlice, Flusher, LeaderEpoch, Log, LogAppended, LogConfig, LogRead, Mark, MarkReached, Marks,
    MemoryRead, Offset, PartitionLog, ProducerEpoch, ProducerId, ReadError, ReadOptions, RecoveryReport, TimestampMs,
    TimestampOffset,
};
use alluvium::{Sequence, error};

use crate::support::{LONG, Machine, at, batch, client, small};

/// A runtime of one thread that sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = Box::pin(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

/// A runtime of many tasks on one queue: a task is polled when it was woken, and never otherwise.
#[derive(Default)]
struct Queue {
    woken: Arc<Mutex<VecDeque<usize>>>,
    tasks: Vec<Option<BoxedFuture<()>>>,
}

struct Requeue {
    woken: Arc<Mutex<VecDeque<usize>>>,
    task: usize,
}

impl Wake for Requeue {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push_back(self.task);
    }
}

impl Queue {
    fn spawn(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.woken.lock().unwrap().push_back(self.tasks.len());
        self.tasks.push(Some(Box::pin(future)));
    }

    /// Polls what was woken; returns how many tasks are left.
    fn run(&mut self) -> usize {
        loop {
            let Some(task) = self.woken.lock().unwrap().pop_front() else { break };
            let waker = Waker::from(Arc::new(Requeue { woken: Arc::clone(&self.woken), task }));
            let Some(future) = &mut self.tasks[task] else { continue };
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                self.tasks[task] = None;
            }
        }
        self.tasks.iter().flatten().count()
    }
}

/// A log without files, as an embedder's tests would have one.
#[derive(Debug, Default)]
struct Fake {
    batches: Mutex<Vec<Vec<u8>>>,
}

impl Fake {
    fn end(&self) -> Offset {
        let batches = self.batches.lock().unwrap();
        batches.last().map_or(at(0), |last| BatchHeader::parse(last, u32::MAX).unwrap().next_offset())
    }
}

impl Log for Fake {
    fn append(&self, batches: Batches<'_>, how: AppendOptions) -> Result<LogAppended, AppendError> {
        let log_end = self.end();
        if let Some(expected) = how.expected_end.filter(|expected| *expected != log_end) {
            return Err(AppendError::UnexpectedEnd { expected, log_end });
        }
        let Batches::Owned(mut bytes) = batches else { return Err(AppendError::Nothing) };
        stamp(&mut bytes, log_end, None);
        self.batches.lock().unwrap().push(bytes);
        Ok(LogAppended::new(log_end, self.end(), Box::pin(std::future::ready(Ok(())))))
    }
    fn read(&self, offset: Offset, _: &ReadOptions) -> Result<LogRead, ReadError> {
        let is_wanted = |bytes: &&Vec<u8>| BatchHeader::parse(bytes, u32::MAX).unwrap().next_offset() > offset;
        let bytes = self.batches.lock().unwrap().iter().filter(is_wanted).flatten().copied().collect();
        let (next_offset, marks) = (self.end(), self.marks());
        Ok(LogRead::Memory(MemoryRead { bytes, next_offset, marks, aborted: Vec::new() }))
    }
    fn marks(&self) -> Marks {
        let end = self.end();
        Marks { log_start: at(0), last_stable: end, high_watermark: end, durable_end: end, log_end: end }
    }
    fn wait_for(&self, mark: Mark, at_least: Offset) -> BoxedFuture<Result<Offset, WaitError>> {
        let at = self.marks().of(mark);
        let outcome = if at >= at_least { Ok(at) } else { Err(WaitError::Closed) };
        Box::pin(std::future::ready(outcome))
    }
    fn wait_until(&self, mark: Mark, at_least: Offset, _: Deadline) -> Result<Offset, WaitError> {
        block_on(self.wait_for(mark, at_least))
    }
    fn flush(&self) -> Result<Offset, DurabilityError> {
        Ok(self.end())
    }
    fn tick(&self) -> Result<Ticked, ChangeError> {
        Ok(Ticked::default())
    }
    fn roll(&self) -> Result<bool, ChangeError> {
        Ok(false)
    }
    fn truncate_to(&self, offset: Offset) -> Result<Offset, ChangeError> {
        self.batches.lock().unwrap().retain(|b| BatchHeader::parse(b, u32::MAX).unwrap().next_offset() <= offset);
        Ok(self.end())
    }
    fn truncate_fully_and_start_at(&self, _: Offset) -> Result<(), ChangeError> {
        Err(ChangeError::Sealed)
    }
    fn truncate_to_epoch_end(&self, leader: EpochEnd) -> Result<Offset, ChangeError> {
        self.truncate_to(leader.end)
    }
    fn advance_high_watermark(&self, _: Offset) -> Result<Offset, ChangeError> {
        Err(ChangeError::NotYours)
    }
    fn advance_log_start(&self, _: Offset) -> Result<Offset, ChangeError> {
        Ok(at(0))
    }
    fn begin_leader_epoch(&self, _: LeaderEpoch) -> Result<(), ChangeError> {
        Ok(())
    }
    fn leader_epoch(&self) -> Option<LeaderEpoch> {
        None
    }
    fn leader_epochs(&self) -> Vec<EpochStart> {
        Vec::new()
    }
    fn end_offset_for_epoch(&self, _: LeaderEpoch) -> Option<EpochEnd> {
        None
    }
    fn divergence(&self, _: Offset, _: LeaderEpoch) -> Option<EpochEnd> {
        None
    }
    fn offset_for_timestamp(&self, _: TimestampMs) -> Result<Option<TimestampOffset>, ReadError> {
        Ok(None)
    }
    fn producers(&self) -> Vec<ProducerState> {
        Vec::new()
    }
    fn begin_verification(
        &self,
        _: ProducerId,
        _: ProducerEpoch,
        _: Option<Sequence>,
    ) -> Result<Option<VerificationGuard>, ChangeError> {
        Ok(None)
    }
    fn fence(&self, _: u64) -> Result<(), ChangeError> {
        Ok(())
    }
    fn fencing_token(&self) -> Option<u64> {
        None
    }
    fn seal(&self) -> Result<(), ChangeError> {
        Ok(())
    }
    fn unseal(&self) -> Result<(), ChangeError> {
        Ok(())
    }
    fn is_sealed(&self) -> bool {
        false
    }
    fn config(&self) -> Arc<LogConfig> {
        Arc::new(LogConfig::default())
    }
    fn update_config(&self, config: LogConfig) -> Result<(), ConfigError> {
        config.validate()
    }
    fn health(&self) -> LogHealth {
        unreachable!("LogHealth is the log's own to make, and this test does not ask")
    }
    fn segment_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    fn close(&self) -> Result<(), ChangeError> {
        Ok(())
    }
}

/// What an embedder does, who does not know which log it is.
fn produce_and_consume(log: &Arc<dyn Log>) {
    let how = AppendOptions::new(client());
    let first = log.append(batch(&["one", "two"]).into(), how).unwrap();
    assert_eq!((first.base_offset, first.end), (at(0), at(2)));
    let second = log.append(batch(&["three"]).into(), how.expecting(at(2))).unwrap();
    let refused = log.append(batch(&["four"]).into(), how.expecting(at(2))).unwrap_err();
    assert!(matches!(refused, AppendError::UnexpectedEnd { log_end, .. } if log_end == at(3)), "{refused:?}");
    assert_eq!(log.wait_until(Mark::LogEnd, at(3), LONG.into()).unwrap(), at(3));
    assert_eq!(block_on(log.wait_for(Mark::HighWatermark, at(1))).unwrap(), at(3));
    assert_eq!(log.flush().unwrap(), at(3));
    block_on(second.durable).unwrap();
    let read = log.read(at(0), &ReadOptions::default()).unwrap();
    assert_eq!((read.next_offset().unwrap(), read.marks().log_end), (at(3), at(3)));
    assert!(!read.is_empty() && read.aborted().is_empty());
    let bytes = read.into_bytes().unwrap();
    let headers: Vec<_> =
        alluvium::record::batches(&bytes, u32::MAX).map(|b| b.unwrap().header().base_offset).collect();
    assert_eq!(headers, [at(0), at(2)]);
    assert_eq!(log.truncate_to(at(2)).unwrap(), at(2));
    log.close().unwrap();
}

#[test]
fn real_and_fake_logs_answer_alike_behind_dyn() {
    let real: Arc<dyn Log> = Arc::new(Machine::new().open(small()));
    produce_and_consume(&real);
    let fake: Arc<dyn Log> = Arc::new(Fake::default());
    produce_and_consume(&fake);
}

#[test]
fn the_facade_passes_everything_on() {
    let machine = Machine::new();
    let direct = machine.open(small());
    let log: Arc<dyn Log> = Arc::new(direct.clone());
    log.append(batch(&["one"]).into(), client().into()).unwrap();
    assert_eq!((log.marks(), log.config()), (direct.marks(), direct.config()));
    assert_eq!(log.leader_epoch(), direct.leader_epoch());
    assert_eq!((log.leader_epochs(), log.producers()), (direct.leader_epochs(), direct.producers()));
    let epoch = LeaderEpoch::new(5).unwrap();
    log.begin_leader_epoch(epoch).unwrap();
    assert_eq!(direct.leader_epoch(), Some(epoch));
    assert_eq!(log.end_offset_for_epoch(epoch), Some(EpochEnd { epoch, end: at(1) }));
    assert_eq!(log.divergence(at(9), epoch), direct.divergence(at(9), epoch));
    log.fence(3).unwrap();
    log.seal().unwrap();
    assert!(direct.is_sealed() && log.is_sealed() && log.fencing_token() == Some(3));
    assert!(matches!(log.truncate_to(at(0)), Err(ChangeError::Sealed)));
    log.unseal().unwrap();
    assert!(log.roll().unwrap() && log.segment_files() == direct.segment_files());
    assert_eq!(log.offset_for_timestamp(TimestampMs::new(0)).unwrap().unwrap().offset, at(0));
    log.update_config(LogConfig { max_message_bytes: 77, ..small() }).unwrap();
    assert_eq!(direct.config().max_message_bytes, 77);
    assert_eq!(log.advance_log_start(at(1)).unwrap(), at(1));
    log.truncate_fully_and_start_at(at(50)).unwrap();
    assert_eq!(direct.log_end(), at(50));
    log.close().unwrap();
    assert!(log.health().is_closed);
}

/// Tasks that wait for marks and for durability, on a runtime that never polls without being woken.
#[test]
fn futures_complete_on_a_queue_of_tasks_and_on_threads_alike() {
    let log = Machine::new().open(small());
    let done = Arc::new(AtomicUsize::new(0));
    let mut queue = Queue::default();
    for n in 1..=50 {
        let (log, done) = (log.clone(), Arc::clone(&done));
        queue.spawn(async move {
            assert!(log.wait_for(Mark::LogEnd, at(n)).await.unwrap() >= at(n));
            log.wait_for(Mark::DurableEnd, at(n)).await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    assert_eq!(queue.run(), 50);
    for n in 0..50 {
        log.append(batch(&[&format!("{n}")]), client()).unwrap();
    }
    assert_eq!(queue.run(), 50, "nothing is durable yet");
    log.tick().unwrap();
    assert_eq!(queue.run(), 0);
    assert_eq!(done.load(Ordering::SeqCst), 50);
    // Threads that park, with a flusher that wakes them.
    let flusher = Flusher::start(log.clone()).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let log = &log;
            scope.spawn(move || {
                let appended = log.append(batch(&[&format!("thread {n}")]), client()).unwrap();
                block_on(appended.durable()).unwrap();
                assert!(block_on(log.wait_for(Mark::DurableEnd, appended.end())).unwrap() >= appended.end());
            });
        }
    });
    drop(flusher);
}

#[test]
fn a_future_that_is_dropped_half_way_costs_nothing() {
    let log: Arc<dyn Log> = Arc::new(Machine::new().open(small()));
    let mut context = Context::from_waker(Waker::noop());
    for n in 0..1000 {
        let mut waiting = log.wait_for(Mark::LogEnd, at(5000 + n));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let mut appended = log.append(batch(&["v"]).into(), client().into()).unwrap();
        assert!(appended.durable.as_mut().poll(&mut context).is_pending());
    }
    log.flush().unwrap();
    let marks = log.marks();
    assert_eq!((marks.log_end, marks.durable_end), (at(1000), at(1000)));
    log.close().unwrap();
}

fn shared<T: Send + Sync + 'static>() {}
fn sent<T: Send + 'static>() {}
fn future<T: Future + Send + Sync + Unpin + 'static>() {}

#[test]
fn public_types_cross_threads_and_futures_move() {
    shared::<PartitionLog>();
    shared::<Arc<dyn Log>>();
    shared::<Appended>();
    shared::<Fetched>();
    shared::<FetchedBatches>();
    shared::<FileSlice>();
    shared::<Environment>();
    shared::<LogConfig>();
    shared::<Marks>();
    shared::<LogRead>();
    shared::<LogHealth>();
    shared::<RecoveryReport>();
    shared::<CompactedTable>();
    shared::<Flusher>();
    shared::<TableError>();
    shared::<AppendError>();
    shared::<ChangeError>();
    shared::<ReadError>();
    shared::<DurabilityError>();
    shared::<WaitError>();
    shared::<error::OpenError>();
    shared::<VerificationGuard>();
    shared::<alluvium::BatchBuilder>();
    future::<Durable>();
    future::<MarkReached>();
    future::<TableWrite>();
    sent::<LogAppended>();
    sent::<BoxedFuture<()>>();
    sent::<Pin<Box<TableWrite>>>();
}
