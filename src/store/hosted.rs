//! What a store has of one partition: its open log; or, of a partition that is idle, what was known when its log was
//! closed. A log is opened when it is used, and put aside after a time in which nobody used it, so that thousands of
//! partitions cost memory and descriptors for those alone that have something to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cleaner::Known;
use super::directory::Directory;
use super::partition_id::{TopicId, TopicPartition};
use crate::commit::Marks;
use crate::config::LogConfig;
use crate::error::{Damage, OpenError, Unavailable};
use crate::flush::Attached;
use crate::log::{Extent, Former, Lent, PartitionLog};
use crate::metrics::{LogCounts, LogMetrics};
use crate::sync::{Mutex, Rank, ReadGuard, RwLock};
use crate::units::{Offset, TimestampMs};

/// One partition of a store, whatever state it is in. Handles hold it; deleting, moving or reopening the partition changes
/// what is in it.
#[derive(Debug)]
pub(super) struct Hosted {
    pub(super) name: TopicPartition,
    slot: RwLock<Slot>,
    watch: Mutex<Watch>,
    /// The log that was open before, where it was given up without waiting for whoever was at work on it.
    former: Mutex<Former>,
    /// Beside the slot, so that nobody who asks waits for a log that is being opened.
    tally: Mutex<Tally>,
    /// How its cleaning stands.
    pub(super) cleaning: Mutex<Known>,
}

/// What all logs of a partition counted, one after the other.
#[derive(Debug, Default)]
struct Tally {
    /// Those that were put aside since, given up or opened anew.
    before: LogCounts,
    /// The one that is open.
    now: Option<Arc<LogMetrics>>,
    /// Its marks when they were last known.
    marks: Option<Marks>,
}

impl Tally {
    /// From now on `open` counts.
    fn go_on_with(&mut self, open: Option<&PartitionLog>, marks: Option<Marks>) {
        self.marks = marks.or(self.marks);
        let open = open.map(PartitionLog::shared_metrics);
        let is_same = match (&self.now, &open) {
            (Some(now), Some(open)) => Arc::ptr_eq(now, open),
            (now, open) => now.is_none() && open.is_none(),
        };
        if !is_same && let Some(last) = std::mem::replace(&mut self.now, open) {
            self.before += last.counts();
        }
    }

    fn counts(&self) -> LogCounts {
        let mut counts = self.before;
        counts += self.now.as_ref().map(|now| now.counts()).unwrap_or_default();
        counts
    }
}

/// What there is of a partition.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) directory: Arc<Directory>,
    pub(super) topic_id: Option<TopicId>,
    pub(super) config: Arc<LogConfig>,
    pub(super) state: SlotState,
}

/// Whether the log of a partition is open.
#[derive(Debug)]
pub(super) enum SlotState {
    /// It is.
    Loaded(Loaded),
    /// It was closed cleanly, and is opened when it is used.
    Parked(Parked),
    /// It cannot be opened as it is; tried again when somebody asks for it by `reopen`.
    Failed(Arc<OpenError>),
    /// Its data directory is offline, or it was deleted, or the store is closed.
    Away(Unavailable),
}

/// A log that is open, and what makes it durable.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) log: PartitionLog,
    /// `None` for the moment in which the log is looked at whether it can be put aside.
    attached: Option<Attached>,
}

/// Whether the next use may well succeed: a disk that did not answer, no descriptor left, somebody who has the partition
/// open alone. Damage stays, and to find it again costs a scan.
fn is_passing(error: &OpenError) -> bool {
    matches!(error, OpenError::Io(_) | OpenError::Permission(_) | OpenError::Locked { .. })
}

impl Loaded {
    /// Gives a log into the care of its directory's flusher, if that has a thread. Without one, who waits for durability
    /// sees to it.
    pub(super) fn new(log: PartitionLog, directory: &Directory) -> Self {
        let attached = directory.attach(&log);
        Self { log, attached }
    }
}

/// What is known of a log that is closed.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    /// `None` until the log was opened once.
    pub(super) marks: Option<Marks>,
    /// Where its first segment begins, if that is known.
    pub(super) first_base: Option<Offset>,
    /// The first offset that no pass of the cleaner has been at, of a compacted log, if it is known.
    pub(super) first_dirty: Option<Offset>,
    /// What sockets may still read of its files.
    pub(super) lent: Lent,
    /// When retention may first delete something; `None` until somebody looked.
    pub(super) retention_due: Option<TimestampMs>,
    /// Wall time before which retention does not look again.
    pub(super) not_before: TimestampMs,
    /// `None` until the log was opened once.
    pub(super) extent: Option<Extent>,
    /// Ranges that could not be read when it was closed.
    pub(super) damage: Vec<Damage>,
}

/// How long a log that was put aside is left alone by retention at least.
const RETENTION_PAUSE_MS: i64 = 5 * 60 * 1000;

/// What the housekeeper remembers from look to look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    activity: u64,
    /// Monotonic time since which nothing was asked of the log.
    idle_since: Option<Duration>,
    /// After a failure: how many times the log was reopened, and when it may be again.
    pub(super) reopenings: u32,
    pub(super) reopen_at: Option<Duration>,
    /// Whether the embedder was told that the log failed.
    pub(super) is_failure_told: bool,
}

impl Hosted {
    pub(super) fn new(name: TopicPartition, slot: Slot) -> Self {
        let mut tally = Tally::default();
        tally.go_on_with(slot.loaded(), slot.marks());
        let (slot, tally) = (RwLock::ranked(Rank::Slot, slot), Mutex::new(tally));
        Self { name, slot, watch: Mutex::default(), former: Mutex::default(), tally, cleaning: Mutex::default() }
    }

    /// Takes note of a slot that may have changed.
    fn note(&self, slot: &Slot) {
        // Before the tally is locked: the marks are behind a lock of the log's.
        let marks = slot.marks();
        self.tally.lock().go_on_with(slot.loaded(), marks);
    }

    /// The marks before the slot last changed, if they were ever known.
    pub(super) fn last_marks(&self) -> Option<Marks> {
        self.tally.lock().marks
    }

    /// What its logs counted since the store was opened. Never waits.
    pub(super) fn counts(&self) -> LogCounts {
        self.tally.lock().counts()
    }

    /// What there is of it, unless that is about to change: while a log is opened or moved it would have to be waited for.
    pub(super) fn peek(&self) -> Option<ReadGuard<'_, Slot>> {
        self.slot.try_read()
    }

    /// The directory of the partition.
    pub(super) fn path(&self) -> PathBuf {
        self.slot.read().directory.path_of(&self.name)
    }

    /// The data directory that holds it.
    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.slot.read().directory)
    }

    /// Looks at what there is.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Slot) -> T) -> T {
        look(&self.slot.read())
    }

    /// Changes what there is. Whoever uses the partition waits meanwhile.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> T {
        let mut slot = self.slot.write();
        // What a change takes away was known before it.
        self.note(&slot);
        let changed = change(&mut slot);
        self.note(&slot);
        changed
    }

    /// The open log, if it is open.
    pub(super) fn loaded(&self) -> Option<PartitionLog> {
        match &self.slot.read().state {
            SlotState::Loaded(loaded) => Some(loaded.log.clone()),
            SlotState::Parked(_) | SlotState::Failed(_) | SlotState::Away(_) => None,
        }
    }

    /// The log, opened by `open` if it was put aside and `may_open` agrees. That is asked when nobody else can open or
    /// close it meanwhile.
    pub(super) fn log(
        &self,
        may_open: impl FnOnce() -> Result<(), Unavailable>,
        open: impl FnOnce(&Slot) -> Result<PartitionLog, OpenError>,
    ) -> Result<PartitionLog, Unavailable> {
        if let Some(log) = self.loaded() {
            return Ok(log);
        }
        let mut slot = self.slot.write();
        match &slot.state {
            SlotState::Loaded(loaded) => return Ok(loaded.log.clone()),
            SlotState::Away(why) => return Err(why.clone()),
            SlotState::Failed(error) => return Err(Unavailable::Open(Arc::clone(error))),
            SlotState::Parked(_) => {}
        }
        may_open()?;
        self.load(&mut slot, open)
    }

    /// Opens the log of a slot that has none open, and puts it there. A failure that may pass leaves the slot as it is.
    pub(super) fn load(
        &self,
        slot: &mut Slot,
        open: impl FnOnce(&Slot) -> Result<PartitionLog, OpenError>,
    ) -> Result<PartitionLog, Unavailable> {
        // A round or a truncation that a dead disk held up would go on in files that are this one's now.
        let former = std::mem::take(&mut *self.former.lock());
        former.wait_until_left();
        match open(slot) {
            Ok(log) => {
                if let SlotState::Parked(parked) = &slot.state {
                    log.lend_again(&parked.lent);
                }
                slot.state = SlotState::Loaded(Loaded::new(log.clone(), &slot.directory));
                *self.watch.lock() = Watch::default();
                self.note(slot);
                Ok(log)
            }
            Err(error) => {
                let error = Arc::new(error);
                if !is_passing(&error) {
                    slot.state = SlotState::Failed(Arc::clone(&error));
                }
                Err(Unavailable::Open(error))
            }
        }
    }

    /// Gives up a log that was in the slot, without waiting for whoever is at work on it: whoever opens the next one does.
    pub(super) fn abandon(&self, log: &PartitionLog) {
        *self.former.lock() = log.former();
        log.abandon();
    }

    /// Looks once more at the directory of a partition that was just taken in: one that went offline meanwhile came by
    /// before the partition was there.
    pub(super) fn recheck(&self, directory: &Directory) -> Result<(), Unavailable> {
        let Err(why) = directory.check() else { return Ok(()) };
        let taken = self.change(|slot| std::mem::replace(&mut slot.state, SlotState::Away(why.clone())));
        if let SlotState::Loaded(loaded) = taken {
            self.abandon(&loaded.log);
        }
        Err(why)
    }

    /// Closes the log if it is idle and nobody can reach it; `true` when it did. It is opened again when it is used.
    pub(super) fn park(&self, wall: TimestampMs, first_dirty: impl Fn(&PartitionLog) -> Option<Offset>) -> bool {
        let mut slot = self.slot.write();
        let directory = Arc::clone(&slot.directory);
        let SlotState::Loaded(loaded) = &mut slot.state else { return false };
        // The flusher has a handle of its own.
        loaded.attached = None;
        let log = &loaded.log;
        if !log.is_only_handle() || log.needs_sync() || log.health().failed.is_some() {
            loaded.attached = directory.attach(log);
            return false;
        }
        let (lent, marks, first_base) = (log.lent(), log.marks(), Some(log.first_base()));
        let not_before = TimestampMs::new(wall.value().saturating_add(RETENTION_PAUSE_MS));
        let (extent, damage) = (Some(log.extent()), log.glance().damage);
        let first_dirty = first_dirty(log);
        let is_clean = log.close().is_ok();
        slot.config = log.config();
        // Where the close failed the next opening judges what it left. Nothing is known till then, and nothing is said in
        // the lists.
        let parked = Parked { lent, not_before, extent, damage, ..Parked::unknown() };
        slot.state = SlotState::Parked(if is_clean {
            Parked { marks: Some(marks), first_base, first_dirty, ..parked }
        } else {
            parked
        });
        self.note(&slot);
        true
    }

    /// Notes what was asked of the log so far, and says whether that was nothing for `idle_after`.
    pub(super) fn is_idle(&self, log: &PartitionLog, now: Duration, idle_after: Duration) -> bool {
        let activity = log.activity();
        let mut watch = self.watch.lock();
        if watch.activity != activity || watch.idle_since.is_none() {
            watch.activity = activity;
            watch.idle_since = Some(now);
        }
        watch.idle_since.is_some_and(|since| now.saturating_sub(since) >= idle_after)
    }

    /// What the housekeeper remembers, to be changed.
    pub(super) fn watch<T>(&self, change: impl FnOnce(&mut Watch) -> T) -> T {
        change(&mut self.watch.lock())
    }
}

impl Parked {
    /// A log of which nothing is known but that it is there.
    pub(super) fn unknown() -> Self {
        Self {
            marks: None,
            first_base: None,
            first_dirty: None,
            lent: Lent::new(),
            retention_due: None,
            not_before: TimestampMs::new(0),
            extent: None,
            damage: Vec::new(),
        }
    }

    /// A log that an earlier process closed cleanly.
    pub(super) fn closed_at(marks: Marks) -> Self {
        Self { marks: Some(marks), ..Self::unknown() }
    }
}

impl Slot {
    /// The log that is open.
    pub(super) fn loaded(&self) -> Option<&PartitionLog> {
        if let SlotState::Loaded(loaded) = &self.state { Some(&loaded.log) } else { None }
    }

    /// Where the first segment begins, as far as that is known without opening the log.
    pub(super) fn first_base(&self) -> Option<Offset> {
        match &self.state {
            SlotState::Loaded(loaded) => Some(loaded.log.first_base()),
            SlotState::Parked(parked) => parked.first_base,
            SlotState::Failed(_) | SlotState::Away(_) => None,
        }
    }

    /// The first offset that the cleaner has not been at, as far as that is known without opening the log.
    pub(super) fn first_dirty(&self, of: impl Fn(&PartitionLog) -> Option<Offset>) -> Option<Offset> {
        match &self.state {
            SlotState::Loaded(loaded) => of(&loaded.log),
            SlotState::Parked(parked) => parked.first_dirty,
            SlotState::Failed(_) | SlotState::Away(_) => None,
        }
    }

    /// The marks, as far as they are known without opening the log.
    pub(super) fn marks(&self) -> Option<Marks> {
        match &self.state {
            SlotState::Loaded(loaded) => Some(loaded.log.marks()),
            SlotState::Parked(parked) => parked.marks,
            SlotState::Failed(_) | SlotState::Away(_) => None,
        }
    }
}
