//! A table kept in a compacted partition: what a group coordinator needs of one (Kafka's `GroupCoordinatorShard` over
//! `__consumer_offsets`).
//!
//! A table always shows a prefix of its log: everything below its position, nothing past it. Its writes are made on the
//! condition that the log ends at its position, so that no writer overlooks another.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::contents::{Contents, Entry, TableMemory, Update};
use super::error::TableError;
use super::load::{LoadProgress, Loading, Stop};
use super::options::{Acknowledge, Change, OnConflict, TableOptions};
use crate::commit::Mark;
use crate::config::{CompressionPolicy, TimestampType};
use crate::error::{AppendError, Damage, ReadError};
use crate::log::{AppendAs, AppendOptions, Appended, Durable, MarkReached, PartitionLog, ReadOptions};
use crate::record::{BatchBuilder, BatchHeader, RecordBatch};
use crate::units::{LeaderEpoch, Offset, TimestampMs};

/// So often a load begins anew because the log was cut under it, before it gives up.
const ATTEMPTS_MAX: u32 = 8;

/// What a catch-up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaughtUp {
    /// Records looked at.
    pub records: u64,
    /// Up to where the table has the log.
    pub position: Offset,
    /// Whether the log had been cut below what was loaded, so that all of it was loaded anew.
    pub reloaded: bool,
}

/// What tells whether the log still is the one that was loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastBatch {
    pub(super) base: Offset,
    pub(super) epoch: Option<LeaderEpoch>,
    /// `None` where the log wrote another batch than it was given.
    pub(super) crc: Option<u32>,
}

/// The latest value of every key of a compacted log, in memory, with writes that go to the log first. Keys are in the
/// order of their bytes.
///
/// **Who writes.** Each write is made on the condition that the log ends where the table does; what to do about other
/// writers is [`OnConflict`]. A fencing token, if given, goes with every write; a stale leader epoch or token is refused
/// by the log. The tables of standby replicas only [`catch_up`](Self::catch_up), and [`take_over`](Self::take_over) when
/// they are elected.
///
/// **Crashes.** What a write returned for is in the page cache, or on the disk, as [`Acknowledge`] says; the table itself
/// is memory, and loaded again from the log.
///
/// **Truncation.** Loading and catching up notice by leader epochs (KIP-101), by the log's ends and by the last batch
/// that was loaded that the log was cut below the position, and load anew. A log whose start was moved up loses the keys
/// below it. A write looks at epoch and log end alone: who cuts a log and fills it to the same end again, within one
/// leader epoch, has to call [`catch_up`](Self::catch_up). No leader of Kafka does that.
///
/// **Transactions.** Records of a transaction count from its COMMIT marker on (as offsets committed in a transaction do
/// in Kafka), and never after an ABORT. Until then they are kept aside, within the same bound on memory.
///
/// ```
/// use alluvium::table::{CompactedTable, TableOptions};
/// use alluvium::{AppendAs, CleanupPolicy, LeaderEpoch, LogConfig, PartitionLog};
///
/// let dir = tempfile::tempdir()?;
/// let config = LogConfig { cleanup_policy: CleanupPolicy::Compact, ..LogConfig::default() };
/// let log = PartitionLog::open(dir.path(), config)?;
/// let options = TableOptions::new(AppendAs::Coordinator { epoch: LeaderEpoch::new(0).unwrap() });
/// let mut table = CompactedTable::open(log.clone(), options)?;
/// table.put(b"group-1", b"42")?;
/// table.put(b"group-2", b"7")?.wait_durable(std::time::Duration::from_secs(10))?;
/// table.delete(b"group-2")?;
///
/// let again = CompactedTable::open(log, options)?;
/// assert_eq!((again.get(b"group-1"), again.get(b"group-2")), (Some(&b"42"[..]), None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CompactedTable {
    pub(super) log: PartitionLog,
    pub(super) options: TableOptions,
    pub(super) contents: Contents,
    log_start: Offset,
    pub(super) position: Offset,
    pub(super) last: Option<LastBatch>,
    pub(super) damage: Vec<Damage>,
}

impl CompactedTable {
    /// Loads the table from its log, up to the log end.
    ///
    /// # Errors
    /// As [`CompactedTable::load`].
    pub fn open(log: PartitionLog, options: TableOptions) -> Result<Self, TableError> {
        Self::load(log, options, |_| ControlFlow::Continue(()))
    }

    /// The same with a look at how far it is, after every `fetch_bytes` and at the end. Loading ends with
    /// [`TableError::Stopped`] when the callback breaks.
    ///
    /// # Errors
    /// [`TableError::NotCompacted`], [`TableError::Follower`]; [`TableError::Read`], [`TableError::MemoryFull`].
    pub fn load(
        log: PartitionLog,
        options: TableOptions,
        mut progress: impl FnMut(&LoadProgress) -> ControlFlow<()>,
    ) -> Result<Self, TableError> {
        let mut table = Self::unloaded(log, options)?;
        table.follow(&mut progress)?;
        Ok(table)
    }

    /// An empty table at the log start, to be loaded by [`CompactedTable::catch_up`] in its own time: after an error that
    /// goes on where it stopped.
    ///
    /// # Errors
    /// [`TableError::NotCompacted`], [`TableError::Follower`].
    pub fn unloaded(log: PartitionLog, options: TableOptions) -> Result<Self, TableError> {
        if !log.config().cleanup_policy.compacts() {
            return Err(TableError::NotCompacted);
        }
        check_origin(options.origin)?;
        let start = log.log_start();
        let contents = Contents::default();
        Ok(Self { log, options, contents, log_start: start, position: start, last: None, damage: Vec::new() })
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entry(key).map(|entry| &*entry.value)
    }

    /// The value of `key` with offset and timestamp of its record.
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.contents.entries().get(key)
    }

    /// Keys with their entries, in the order of the keys' bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Entry)> + DoubleEndedIterator {
        self.contents.entries().iter().map(|(key, entry)| (&**key, entry))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.contents.entries().len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.contents.entries().is_empty()
    }

    /// Everything below is in the table: the offset that its next write expects the log to end at.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// How many producers have transactions here that are neither committed nor aborted.
    pub fn undecided_transactions(&self) -> usize {
        self.contents.undecided_transactions()
    }

    /// What keys and values weigh in memory, in bytes.
    pub fn memory_bytes(&self) -> TableMemory {
        self.contents.memory()
    }

    /// The first 1,000 ranges that loading went around, where [`TableOptions::on_damage`] says so.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The log of the table.
    pub fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// How the table is kept.
    pub fn options(&self) -> &TableOptions {
        &self.options
    }

    /// Writes under another leader epoch, or with another token, from now on: for a standby that was elected.
    ///
    /// # Errors
    /// [`TableError::Follower`].
    pub fn take_over(&mut self, origin: AppendAs, fencing_token: Option<u64>) -> Result<(), TableError> {
        check_origin(origin)?;
        self.options = TableOptions { origin, fencing_token, ..self.options };
        Ok(())
    }

    /// Sets `key` to `value`. As [`CompactedTable::put_all`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Appended, TableError> {
        self.put_all(&[Change::put(key, value)])
    }

    /// Deletes `key`, by a tombstone, whether it is there or not. As [`CompactedTable::put_all`].
    pub fn delete(&mut self, key: &[u8]) -> Result<Appended, TableError> {
        self.put_all(&[Change::delete(key)])
    }

    /// Makes all changes, in their order, or none of them: they are one batch in the log. Returns when they are as safe as
    /// [`TableOptions::acknowledge`] says.
    ///
    /// # Errors
    /// [`TableError::NotDurable`]: the changes are in the log and in the table, but were not durable in time. All others:
    /// nothing was written. [`TableError::Conflict`] when somebody else wrote; [`TableError::Append`] when the log
    /// refuses, among others for a stale leader epoch or token.
    pub fn put_all(&mut self, changes: &[Change<'_>]) -> Result<Appended, TableError> {
        let appended = self.submit(changes)?;
        if let Acknowledge::Durable { within } = self.options.acknowledge {
            let end = appended.end();
            appended.wait_durable(within).map_err(|cause| TableError::NotDurable { end, cause })?;
        }
        Ok(appended)
    }

    /// The same as a future. The changes are in the log, or refused, when this returns; the future waits for the
    /// acknowledgement, without a deadline. Dropping it takes nothing back. Needs no particular runtime; a flusher,
    /// another waiter or [`PartitionLog::tick`] completes it.
    pub fn write(&mut self, changes: &[Change<'_>]) -> TableWrite {
        let state = match self.submit(changes) {
            Err(error) => WriteState::Done(Err(error)),
            Ok(appended) => match self.options.acknowledge {
                Acknowledge::Cached => WriteState::Done(Ok(appended.end())),
                Acknowledge::Durable { .. } => WriteState::Syncs { end: appended.end(), durable: appended.durable() },
            },
        };
        TableWrite { state }
    }

    /// As [`CompactedTable::put_all`], but never waits for durability: what is returned can.
    pub fn submit(&mut self, changes: &[Change<'_>]) -> Result<Appended, TableError> {
        self.check(changes)?;
        let mut attempts = match self.options.on_conflict {
            OnConflict::Refuse => 0,
            OnConflict::CatchUp { attempts_max } => attempts_max,
        };
        loop {
            self.check_memory(changes)?;
            let timestamp = self.log.clock().wall();
            let batch = self.build(changes, timestamp)?;
            let header = batch.header();
            let fencing_token = self.options.fencing_token;
            let how = AppendOptions { fencing_token, ..AppendOptions::new(self.options.origin) };
            match self.log.append(batch, how.expecting(self.position)) {
                Ok(appended) => {
                    self.take_in(changes, &header, &appended, timestamp);
                    return Ok(appended);
                }
                Err(AppendError::UnexpectedEnd { log_end, .. }) if attempts == 0 => {
                    return Err(TableError::Conflict { position: self.position, log_end });
                }
                Err(AppendError::UnexpectedEnd { .. }) => {
                    attempts -= 1;
                    self.catch_up()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in what was appended since, by whomever. For standby replicas, and after a
    /// [`TableError::Conflict`].
    ///
    /// # Errors
    /// [`TableError::Read`], [`TableError::MemoryFull`]; the table then has the log up to its position, and a later call
    /// goes on there.
    pub fn catch_up(&mut self) -> Result<CaughtUp, TableError> {
        self.follow(&mut |_| ControlFlow::Continue(()))
    }

    /// A future of the moment when there is something to catch up with: the log end is past the position.
    ///
    /// A log that is cut below the position wakes nobody; who cuts it has to call [`CompactedTable::catch_up`].
    pub fn more(&self) -> MarkReached {
        self.log.wait_for(Mark::LogEnd, self.position.next().unwrap_or(Offset::MAX))
    }

    fn check(&self, changes: &[Change<'_>]) -> Result<(), TableError> {
        if changes.is_empty() {
            return Err(TableError::Nothing);
        }
        let (key_max, value_max) = (u64::from(self.options.key_bytes_max), u64::from(self.options.value_bytes_max));
        for (change, Change { key, value }) in changes.iter().enumerate() {
            let bytes = key.len() as u64;
            if bytes > key_max {
                return Err(TableError::KeyTooLarge { change, bytes, bytes_max: key_max });
            }
            let bytes = value.map_or(0, |value| value.len() as u64);
            if bytes > value_max {
                return Err(TableError::ValueTooLarge { change, bytes, bytes_max: value_max });
            }
        }
        Ok(())
    }

    fn check_memory(&self, changes: &[Change<'_>]) -> Result<(), TableError> {
        let Some(bytes_max) = self.options.memory_bytes_max else { return Ok(()) };
        let bytes = self.contents.weight_with(changes.iter().map(|change| (change.key, change.value)));
        // What makes a full table no larger is let through, or nothing could be deleted.
        if bytes > bytes_max && bytes > self.contents.memory().total() {
            return Err(TableError::MemoryFull { bytes, bytes_max });
        }
        Ok(())
    }

    fn build(&self, changes: &[Change<'_>], timestamp: TimestampMs) -> Result<RecordBatch, TableError> {
        let mut builder = BatchBuilder::new();
        builder.compression(self.options.compression);
        for Change { key, value } in changes {
            builder.record(timestamp, Some(key), *value);
        }
        Ok(builder.build()?)
    }

    /// The changes are in the log.
    fn take_in(&mut self, changes: &[Change<'_>], given: &BatchHeader, appended: &Appended, timestamp: TimestampMs) {
        let timestamp = appended.append_time().unwrap_or(timestamp);
        let mut offset = appended.base_offset();
        for Change { key, value } in changes {
            self.contents.apply(Update { key, value: *value, offset, timestamp });
            offset = offset.next().unwrap_or(Offset::MAX);
        }
        let config = self.log.config();
        let is_as_given = config.compression == CompressionPolicy::Producer
            && config.message_timestamp_type == TimestampType::CreateTime;
        let crc = is_as_given.then_some(given.crc);
        self.last = Some(LastBatch { base: appended.base_offset(), epoch: epoch_of(self.options.origin), crc });
        self.position = appended.end();
    }

    /// Goes on to the log end, from the log start if what was loaded is not the log's any more.
    fn follow(&mut self, progress: &mut dyn FnMut(&LoadProgress) -> ControlFlow<()>) -> Result<CaughtUp, TableError> {
        let (mut attempts, mut reloaded) = (0, false);
        loop {
            if self.has_diverged()? {
                self.restart();
                reloaded = true;
            }
            self.drop_below_start();
            let (mut loading, log) = (Loading::new(self, progress), self.log.clone());
            let outcome = loading.run(self, &log);
            let (stop, records) = (loading.stopped_by, loading.shown.records);
            match (stop, outcome) {
                (Some(Stop::Diverged), _) | (_, Err(ReadError::OutOfRange { .. })) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    self.restart();
                    reloaded = true;
                }
                (_, Err(error)) => return Err(error.into()),
                (Some(Stop::Full { bytes, bytes_max }), _) => return Err(TableError::MemoryFull { bytes, bytes_max }),
                (Some(Stop::Asked { end }), _) => return Err(TableError::Stopped { at: self.position, end }),
                (Some(Stop::Diverged), _) => {
                    let marks = self.log.marks();
                    let (log_start, log_end) = (marks.log_start, marks.log_end);
                    return Err(ReadError::OutOfRange { asked: self.position, log_start, log_end }.into());
                }
                (None, Ok(())) => return Ok(CaughtUp { records, position: self.position, reloaded }),
            }
        }
    }

    /// Whether the log was cut below the position since, whatever was appended afterwards.
    fn has_diverged(&self) -> Result<bool, TableError> {
        let marks = self.log.marks();
        let is_outside = self.position < marks.log_start || self.position > marks.log_end;
        // A log start falls only when the log begins anew.
        if is_outside || marks.log_start < self.log_start {
            return Ok(true);
        }
        let Some(last) = self.last else { return Ok(false) };
        if last.epoch.is_some_and(|epoch| self.log.divergence(self.position, epoch).is_some()) {
            return Ok(true);
        }
        let Some(crc) = last.crc.filter(|_| last.base >= marks.log_start) else { return Ok(false) };
        // A batch that was compacted meanwhile looks like another one: that costs a load, and no more.
        let found = self.log.read(last.base, &ReadOptions { max_bytes: 0, ..ReadOptions::default() });
        match found.and_then(|fetched| Ok(fetched.read()?)) {
            Ok(bytes) => {
                let found = BatchHeader::parse(&bytes, i32::MAX as u32).ok();
                Ok(found.is_none_or(|found| found.base_offset != last.base || found.crc != crc))
            }
            // It was loaded while it could be read.
            Err(ReadError::Damaged(_) | ReadError::Corrupt(_)) => Ok(false),
            Err(ReadError::OutOfRange { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn restart(&mut self) {
        self.contents = Contents::default();
        self.damage.clear();
        self.last = None;
        self.log_start = self.log.log_start();
        self.position = self.log_start;
    }

    /// Forgets what was deleted with the start of the log, as a table that is loaded now would not have it either.
    fn drop_below_start(&mut self) {
        let log_start = self.log.log_start();
        if log_start > self.log_start {
            self.contents.drop_below(log_start);
            self.log_start = log_start;
        }
    }
}

fn check_origin(origin: AppendAs) -> Result<(), TableError> {
    if origin == AppendAs::Follower { Err(TableError::Follower) } else { Ok(()) }
}

fn epoch_of(origin: AppendAs) -> Option<LeaderEpoch> {
    match origin {
        AppendAs::Client { epoch } | AppendAs::Coordinator { epoch } => Some(epoch),
        AppendAs::Follower => None,
    }
}

/// A future of a write to a table, from [`CompactedTable::write`]. Resolves with the offset after the write.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled; the write itself is made"]
pub struct TableWrite {
    state: WriteState,
}

#[derive(Debug)]
enum WriteState {
    Done(Result<Offset, TableError>),
    Syncs { end: Offset, durable: Durable },
}

impl Future for TableWrite {
    type Output = Result<Offset, TableError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            WriteState::Done(outcome) => Poll::Ready(outcome.clone()),
            WriteState::Syncs { end, durable } => {
                let end = *end;
                let outcome = ready!(Pin::new(durable).poll(context));
                let outcome = outcome.map(|()| end).map_err(|cause| TableError::NotDurable { end, cause });
                self.state = WriteState::Done(outcome.clone());
                Poll::Ready(outcome)
            }
        }
    }
}
