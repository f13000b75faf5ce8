//! One flusher for many logs: all that are due or waited for are made durable in one round, with one call for all their
//! syncs, which the system then works on at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::commit::{Due, DueQueue, Worker};
use crate::error::{DurabilityError, LogFailed};
use crate::fs::{FileSystem, SyncItem};
use crate::log::{Attempt, Member, Part, PartitionLog};
use crate::metrics::Counter;
use crate::sync::Mutex;

/// A log that was busy is tried again after this long: somebody else's round or truncation takes about as long.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// One whose part in a round panicked, after this long.
const PANIC_PAUSE: Duration = Duration::from_millis(10);
/// A step is due at least this often, though none is ever missed for want of it.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a round came to for one of its logs.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// Everything is durable that was appended before.
    Done,
    /// Somebody else is making it durable, or cuts or closes it.
    Busy,
    /// It latched, now or before, or was closed. Whoever waited knows.
    Refused(DurabilityError),
    /// A waker of somebody's, or its file system, panicked. Nothing of it is forgotten.
    Panicked,
}

/// Makes everything durable that is unsynced in `members`, in one round: one call of [`FileSystem::sync_many`] for all
/// that are on `fs`, and one each for those that are not. Every waiter is answered before side files are written. What
/// fails or panics for one log is its own affair, but for a panic of `sync_many` itself: nobody knows then what
/// the system said of the others' files, and all of the round latch.
pub(crate) fn flush_many(fs: &Arc<dyn FileSystem>, members: &[Member]) -> Vec<Flushed> {
    let mut outcomes: Vec<Option<Flushed>> = Vec::new();
    outcomes.resize_with(members.len(), || None);
    let mut parts = begin_all(members, &mut outcomes);
    let strays: Vec<_> = parts.extract_if(.., |(at, _)| members.get(*at).is_some_and(|m| !m.is_on(fs))).collect();
    let mut answered = sync_and_answer(fs, parts, &mut outcomes);
    for (at, part) in strays {
        if let Some(member) = members.get(at) {
            answered.extend(sync_and_answer(member.fs(), vec![(at, part)], &mut outcomes));
        }
    }
    for (at, part) in answered {
        // Who waited has the answer; what could not be written for a panic is written by a later round.
        let outcome = match catch_unwind(AssertUnwindSafe(|| part.finish())) {
            Ok(Ok(())) => continue,
            Ok(Err(refusal)) => Flushed::Refused(refusal.into()),
            Err(_) => Flushed::Panicked,
        };
        if let Some(place) = outcomes.get_mut(at) {
            *place = Some(outcome);
        }
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(Flushed::Panicked)).collect()
}

/// The logs of a round that have something to sync, each with its place among the members.
type Parts<'a> = Vec<(usize, Part<'a>)>;

fn begin_all<'a>(members: &'a [Member], outcomes: &mut [Option<Flushed>]) -> Parts<'a> {
    let mut parts = Vec::with_capacity(members.len());
    for ((at, member), outcome) in members.iter().enumerate().zip(outcomes) {
        *outcome = match catch_unwind(AssertUnwindSafe(|| member.begin())) {
            Ok(Attempt::Begun(part)) => {
                parts.push((at, part));
                None
            }
            Ok(Attempt::Busy) => Some(Flushed::Busy),
            Ok(Attempt::Idle) => Some(Flushed::Done),
            Ok(Attempt::Refused(refusal)) => Some(Flushed::Refused(refusal.into())),
            Err(_) => Some(Flushed::Panicked),
        };
    }
    parts
}

/// Syncs the files of all parts and answers who waits for them; returns the parts that succeeded.
fn sync_and_answer<'a>(fs: &Arc<dyn FileSystem>, mut parts: Parts<'a>, outcomes: &mut [Option<Flushed>]) -> Parts<'a> {
    if parts.is_empty() {
        return Vec::new();
    }
    let mut items: Vec<SyncItem> = Vec::with_capacity(parts.len());
    for (_, part) in &mut parts {
        part.add_items(&mut items);
    }
    let unknown = || Err(io::Error::other("a panic during the sync left its outcome unknown"));
    let answers = catch_unwind(AssertUnwindSafe(|| fs.sync_many(&items)))
        .unwrap_or_else(|_| items.iter().map(|_| unknown()).collect());
    let mut answers = answers.into_iter();
    let mut answered = Vec::with_capacity(parts.len());
    for (at, mut part) in parts {
        let outcome = match catch_unwind(AssertUnwindSafe(|| part.answer(&mut answers))) {
            Ok(Ok(())) => {
                answered.push((at, part));
                Flushed::Done
            }
            Ok(Err(refusal)) => Flushed::Refused(refusal.into()),
            Err(_) => Flushed::Panicked,
        };
        if let Some(place) = outcomes.get_mut(at) {
            *place = Some(outcome);
        }
    }
    answered
}

/// What a flusher counted. Any thread may read it at any time.
#[derive(Debug, Default)]
pub struct GroupMetrics {
    /// Rounds.
    pub rounds: Counter,
    /// Logs that rounds made durable, each counted once a round.
    pub synced_logs: Counter,
    /// Logs that were left out of a round because somebody else held theirs.
    pub busy_logs: Counter,
    /// Logs whose part in a round, or whose look, panicked.
    pub panics: Counter,
}

/// Makes many logs durable together. Has no thread of its own: whoever drives it calls [`step`](Self::step) when
/// [`on_work`](Self::on_work) calls, and when the time that the last step named has passed. Any number of threads
/// may attach logs and use them meanwhile; of steps there is one at a time.
///
/// A step costs what is due or waited for, however many logs are attached. A log's truncation or close may wait for as
/// long as the round takes that the log is in.
///
/// ```
/// use alluvium::clock::{Clock, SystemClock};
/// use alluvium::flush::GroupFlusher;
/// use alluvium::fs::OsFileSystem;
/// use alluvium::{AppendAs, BatchBuilder, Environment, FlushPolicy, LeaderEpoch, LogConfig, TimestampMs};
/// use std::sync::Arc;
///
/// let dir = tempfile::tempdir()?;
/// let environment = Environment { fs: Arc::new(OsFileSystem), clock: Arc::new(SystemClock::new()) };
/// let flusher = Arc::new(GroupFlusher::new(Arc::clone(&environment.fs), Arc::clone(&environment.clock)));
/// let flush = FlushPolicy { after_records: Some(1), ..FlushPolicy::default() };
/// let log = environment.open(dir.path().join("orders-0"), LogConfig { flush, ..LogConfig::default() })?;
/// let attached = flusher.attach(&log);
/// let batch = BatchBuilder::new().record(TimestampMs::new(7), None, Some(b"v")).build()?;
/// let appended = log.append(batch, AppendAs::Client { epoch: LeaderEpoch::new(0).unwrap() })?;
/// flusher.step(environment.clock.monotonic());
/// assert_eq!(log.durable_end(), appended.end());
/// drop(attached);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GroupFlusher {
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    due: Arc<DueQueue>,
    logs: Mutex<Logs>,
    plan: Mutex<Plan>,
    is_stepping: AtomicBool,
    /// Logs that latched in a round and that nobody has asked for.
    failed: Mutex<Vec<(PartitionLog, LogFailed)>>,
    metrics: GroupMetrics,
}

#[derive(Debug, Default)]
struct Logs {
    attached: HashMap<u64, PartitionLog>,
    next_key: u64,
}

/// What the next steps are to do.
#[derive(Debug, Default)]
struct Plan {
    /// When each log is to be looked at again.
    looks: BTreeSet<(Duration, u64)>,
    look_of: HashMap<u64, Duration>,
    /// The logs of the next round, and until when each waits for company.
    gathering: BTreeMap<u64, Duration>,
}

impl Plan {
    /// Has the log looked at at `at`, or earlier if that was planned.
    fn look_at(&mut self, key: u64, at: Duration) {
        if self.look_of.get(&key).is_some_and(|planned| *planned <= at) {
            return;
        }
        if let Some(planned) = self.look_of.insert(key, at) {
            self.looks.remove(&(planned, key));
        }
        self.looks.insert((at, key));
    }

    /// A log whose time has come.
    fn next_look(&mut self, now: Duration) -> Option<u64> {
        let (at, key) = *self.looks.first().filter(|(at, _)| *at <= now)?;
        self.looks.remove(&(at, key));
        self.look_of.remove(&key);
        Some(key)
    }

    /// When the next step is due, if anything is planned.
    fn next(&self) -> Option<Duration> {
        let look = self.looks.first().map(|(at, _)| *at);
        look.into_iter().chain(self.gathering.values().min().copied()).min()
    }
}

/// A log in the care of a flusher; dropped, its waiters sync for themselves again.
#[derive(Debug)]
#[must_use = "dropped, it takes the log out of the flusher's care"]
pub struct Attached {
    flusher: Arc<GroupFlusher>,
    due: Arc<Due>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let log = self.flusher.logs.lock().attached.remove(&self.due.key());
        if let Some(log) = log {
            log.detach_worker(&self.due);
        }
    }
}

impl GroupFlusher {
    /// A flusher for logs that were opened on `fs`: their files are synced by one call of its `sync_many`. Logs on others
    /// are taken too, and synced each by a call of its own. `clock` is that of the logs.
    pub fn new(fs: Arc<dyn FileSystem>, clock: Arc<dyn Clock>) -> Self {
        Self {
            fs,
            clock,
            due: Arc::new(DueQueue::new()),
            logs: Mutex::default(),
            plan: Mutex::default(),
            is_stepping: AtomicBool::new(false),
            failed: Mutex::default(),
            metrics: GroupMetrics::default(),
        }
    }

    /// From now on whoever waits for the log's durability waits for this flusher. A flusher that it had before has lost
    /// it. A log that is closed stays attached, at no cost, until what this returns is dropped.
    pub fn attach(self: &Arc<Self>, log: &PartitionLog) -> Attached {
        let key = {
            let mut logs = self.logs.lock();
            let key = logs.next_key;
            logs.next_key += 1;
            logs.attached.insert(key, log.clone());
            key
        };
        let due = Arc::new(Due::new(Arc::clone(&self.due), key));
        log.attach_worker(Some(Worker::Shared(Arc::clone(&due))));
        // Something may be unsynced already, or have been waited for.
        due.list();
        Attached { flusher: Arc::clone(self), due }
    }

    /// What to call when a step is wanted before the time that the last one named. It is called under locks of logs:
    /// it may wake a thread, and must not call a log or this flusher.
    pub fn on_work(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.due.on_listed(Some(Arc::new(hook)));
    }

    /// The logs that latched in rounds of this flusher since the last call, and why. Their waiters were told then.
    /// Until it is called it keeps them from going.
    pub fn take_failed(&self) -> Vec<(PartitionLog, LogFailed)> {
        std::mem::take(&mut *self.failed.lock())
    }

    /// What it counted.
    pub fn metrics(&self) -> &GroupMetrics {
        &self.metrics
    }

    /// Looks at the logs that ask for it and makes those durable that are waited for or due, in one round. `now` is
    /// monotonic time on the clock. Returns how long the next step may wait, if nothing calls for it: zero if there
    /// is more to do.
    ///
    /// Logs that linger (`alluvium.flush.linger.ms`) hold back the round for as long as the least patient of them,
    /// and no longer than one that has enough company, or does not linger. A log that fails latches, as when it is synced
    /// alone, and its waiters are told; that is no concern of the others. So is a waker that panics.
    pub fn step(&self, now: Duration) -> Duration {
        // No lock: rounds are taken during a step, and they come before all others.
        if self.is_stepping.swap(true, Ordering::Acquire) {
            return BUSY_PAUSE;
        }
        let _stepping = Stepping(&self.is_stepping);
        self.look_at_all(now);
        let round = {
            let mut plan = self.plan.lock();
            let is_time = plan.gathering.values().any(|until| *until <= now);
            if is_time { std::mem::take(&mut plan.gathering) } else { BTreeMap::new() }
        };
        if !round.is_empty() {
            self.run(round.into_keys());
        }
        if !self.due.is_empty() {
            return Duration::ZERO;
        }
        let next = self.plan.lock().next();
        next.map_or(LOOK_INTERVAL, |at| at.saturating_sub(self.clock.monotonic().max(now)).min(LOOK_INTERVAL))
    }

    /// Whom the next round is for.
    fn look_at_all(&self, now: Duration) {
        let mut keys = self.due.take();
        {
            let mut plan = self.plan.lock();
            keys.extend(std::iter::from_fn(|| plan.next_look(now)));
        }
        for key in keys {
            let Some(log) = self.log(key) else { continue };
            let Ok(look) = catch_unwind(AssertUnwindSafe(|| log.member().look(now))) else {
                self.metrics.panics.add(1);
                self.plan.lock().look_at(key, now.saturating_add(PANIC_PAUSE));
                continue;
            };
            let mut plan = self.plan.lock();
            if look.is_due || (look.waiting > 0 && look.waiting >= look.max_waiting) {
                plan.gathering.insert(key, now);
            } else if look.waiting > 0 {
                let until = now.saturating_add(look.linger);
                plan.gathering.entry(key).or_insert(until);
            } else if let Some(at) = look.due_at {
                plan.look_at(key, at);
            }
        }
    }

    fn log(&self, key: u64) -> Option<PartitionLog> {
        self.logs.lock().attached.get(&key).cloned()
    }

    fn run(&self, keys: impl Iterator<Item = u64>) {
        let (keys, logs): (Vec<u64>, Vec<PartitionLog>) = keys.filter_map(|key| Some((key, self.log(key)?))).unzip();
        let members: Vec<Member> = logs.iter().map(PartitionLog::member).collect();
        let outcomes = flush_many(&self.fs, &members);
        self.metrics.rounds.add(1);
        let now = self.clock.monotonic();
        let mut plan = self.plan.lock();
        for ((key, log), outcome) in keys.into_iter().zip(logs).zip(outcomes) {
            match outcome {
                Flushed::Done => self.metrics.synced_logs.add(1),
                Flushed::Refused(DurabilityError::Failed(cause)) => self.failed.lock().push((log, cause)),
                Flushed::Refused(_) => {}
                Flushed::Busy => {
                    self.metrics.busy_logs.add(1);
                    plan.look_at(key, now.saturating_add(BUSY_PAUSE));
                }
                Flushed::Panicked => {
                    self.metrics.panics.add(1);
                    plan.look_at(key, now.saturating_add(PANIC_PAUSE));
                }
            }
        }
    }
}

/// Given back also by a panic.
struct Stepping<'a>(&'a AtomicBool);

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl fmt::Debug for GroupFlusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupFlusher").field("due", &self.due).field("metrics", &self.metrics).finish_non_exhaustive()
    }
}
