//! What befalls a store, told to whoever wants to know.
//!
//! Each subscriber has a queue of its own, of the length that it asked for. The store never waits for one: when a queue is
//! full, the oldest event goes, since the newest says how things stand, and a counter says how many were lost. Whoever
//! lost any asks the store for its health, which has the whole truth at any time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::cleaner::CleaningCause;
use super::partition_id::TopicPartition;
use super::trace;
use crate::clock::Deadline;
use crate::error::{Damage, IoFailure};
use crate::sync::Mutex;
use crate::units::TimestampMs;

/// A queue has at least room for one event and at most for so many.
const CAPACITY_MAX: usize = 1 << 16;

/// Something that an embedder may want to act upon. More kinds may come.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreEvent {
    /// A data directory went offline; its partitions serve no more until it is opened again.
    DirectoryOffline {
        /// The directory.
        dir: PathBuf,
        /// The call that failed.
        cause: IoFailure,
        /// The partitions that it holds.
        partitions: Vec<TopicPartition>,
    },
    /// A data directory serves again.
    DirectoryOnline {
        /// The directory.
        dir: PathBuf,
    },
    /// A partition latched after a failed sync or write and takes no more appends until it is opened again.
    PartitionFailed {
        /// The partition.
        partition: TopicPartition,
        /// The call that failed.
        cause: IoFailure,
    },
    /// A partition that had failed serves again.
    PartitionReopened {
        /// The partition.
        partition: TopicPartition,
    },
    /// Damage was found in a partition.
    DamageFound {
        /// The partition.
        partition: TopicPartition,
        /// Where, and which offsets it takes.
        damage: Damage,
    },
    /// A data directory is short of space and refuses appends.
    SpaceLow {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that must stay free.
        floor: u64,
    },
    /// A data directory has space again and takes appends.
    SpaceOk {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
    },
    /// A step of a worker panicked. The worker goes on after a pause.
    WorkerPanicked {
        /// The worker's name.
        worker: String,
        /// What the panic said; the beginning, if it was long.
        message: String,
    },
    /// A data directory holds what no store and no Kafka put there. It was left alone; Kafka would not start on it.
    UnknownEntries {
        /// The directory.
        dir: PathBuf,
        /// The names.
        names: Vec<String>,
    },
    /// The cleaner does not keep up with a partition: whoever writes to it may want to slow down.
    CleanerBehind {
        /// The partition.
        partition: TopicPartition,
        /// Bytes that could be cleaned and are not.
        backlog_bytes: u64,
        /// Milliseconds for which the oldest of them should have been.
        overdue_ms: u64,
        /// How fast the backlog grows.
        growth_bytes_per_second: i64,
    },
    /// The cleaner keeps up with a partition again.
    CleanerCaughtUp {
        /// The partition.
        partition: TopicPartition,
    },
    /// A pass over a partition failed. Another one follows by itself.
    CleaningFailed {
        /// The partition.
        partition: TopicPartition,
        /// Why.
        cause: CleaningCause,
        /// How many failed in a row.
        attempt: u32,
        /// Wall time of the next one, unless the cause is seen to be gone before.
        retry_at: TimestampMs,
    },
    /// A pass over a partition came to its end after others had failed.
    CleaningRecovered {
        /// The partition.
        partition: TopicPartition,
    },
    /// A partition is not cleaned until somebody resumes it.
    CleaningPaused {
        /// The partition.
        partition: TopicPartition,
        /// Who asked for it.
        by: String,
    },
    /// A partition is cleaned again.
    CleaningResumed {
        /// The partition.
        partition: TopicPartition,
    },
    /// What was remembered of the cleaning of a partition could not be read: it is begun anew, and a pause that somebody
    /// had asked for is forgotten.
    CleanerStateLost {
        /// The partition.
        partition: TopicPartition,
    },
}

/// The store's end: where events go in. Clones share their subscribers. Any thread.
///
/// ```
/// use alluvium::store::events::{Events, StoreEvent};
/// let events = Events::new();
/// let subscription = events.subscribe(16);
/// events.emit(&StoreEvent::DirectoryOnline { dir: "/data".into() });
/// assert!(matches!(subscription.try_next(), Some(StoreEvent::DirectoryOnline { .. })));
/// assert!(subscription.try_next().is_none());
/// assert_eq!(subscription.lost(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Events {
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
}

#[derive(Debug)]
struct Subscriber {
    queue: Sender<StoreEvent>,
    /// The other end of the queue, to take the oldest event from.
    oldest: Receiver<StoreEvent>,
    /// Gone when the subscription is.
    lost: Weak<AtomicU64>,
}

impl Events {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener for what happens from now on, with room for `capacity` events, 1 to 65,536; more and less are
    /// taken as these.
    pub fn subscribe(&self, capacity: usize) -> Subscription {
        let (queue, events) = bounded(capacity.clamp(1, CAPACITY_MAX));
        let lost = Arc::new(AtomicU64::new(0));
        let subscriber = Subscriber { queue, oldest: events.clone(), lost: Arc::downgrade(&lost) };
        let mut subscribers = self.subscribers.lock();
        // Those who left; nothing may ever happen that would find them gone.
        subscribers.retain(|known| known.lost.strong_count() > 0);
        subscribers.push(subscriber);
        drop(subscribers);
        Subscription { events, lost }
    }

    /// Tells every subscriber. Never waits; what a full queue loses is counted.
    pub fn emit(&self, event: &StoreEvent) {
        trace::emitted(event);
        self.subscribers.lock().retain(|subscriber| subscriber.tell(event));
    }
}

impl Subscriber {
    /// Whether anybody is there to listen.
    fn tell(&self, event: &StoreEvent) -> bool {
        let Some(lost) = self.lost.upgrade() else { return false };
        // One place is made, and only this thread, which holds the list, fills it: the second attempt succeeds.
        if let Err(TrySendError::Full(event)) = self.queue.try_send(event.clone()) {
            // The listener may have taken it meanwhile; then nothing is lost.
            lost.fetch_add(u64::from(self.oldest.try_recv().is_ok()), Ordering::Relaxed);
            if self.queue.try_send(event).is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }
}

/// A listener's end: the events in their order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<StoreEvent>,
    lost: Arc<AtomicU64>,
}

impl Subscription {
    /// The next event, if there is one now.
    pub fn try_next(&self) -> Option<StoreEvent> {
        self.events.try_recv().ok()
    }

    /// Waits for the next event. `None` at the deadline, and when the store is gone.
    pub fn next(&self, deadline: Deadline) -> Option<StoreEvent> {
        match deadline.instant() {
            Some(at) => self.events.recv_deadline(at).ok(),
            None => self.events.recv().ok(),
        }
    }

    /// How many events were lost because nobody took them in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(dir: usize) -> StoreEvent {
        StoreEvent::DirectoryOnline { dir: dir.to_string().into() }
    }

    fn dir_of(event: Option<StoreEvent>) -> usize {
        let Some(StoreEvent::DirectoryOnline { dir }) = event else { panic!("{event:?}") };
        dir.to_str().unwrap().parse().unwrap()
    }

    #[test]
    fn a_slow_subscriber_loses_the_oldest_and_knows_how_many() {
        let events = Events::new();
        let (slow, quick) = (events.subscribe(3), events.subscribe(100));
        (0..10).for_each(|dir| events.emit(&online(dir)));
        assert_eq!((slow.lost(), quick.lost()), (7, 0));
        assert_eq!((0..3).map(|_| dir_of(slow.try_next())).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!((0..10).map(|_| dir_of(quick.try_next())).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(slow.try_next().is_none());
    }

    #[test]
    fn who_left_is_forgotten() {
        let events = Events::new();
        let (stays, goes) = (events.subscribe(0), events.subscribe(usize::MAX));
        drop(goes);
        events.emit(&online(1));
        assert_eq!(events.subscribers.lock().len(), 1);
        assert_eq!(dir_of(stays.next(Deadline::NEVER)), 1);
    }

    #[test]
    fn subscribers_that_come_and_go_leave_nothing() {
        let events = Events::new();
        (0..100).for_each(|_| drop(events.subscribe(1)));
        assert_eq!(events.subscribers.lock().len(), 1);
    }

    #[test]
    fn the_end_of_the_store_ends_the_waiting() {
        let events = Events::new();
        let subscription = events.subscribe(4);
        events.emit(&online(1));
        drop(events);
        assert_eq!(dir_of(subscription.next(Deadline::NEVER)), 1);
        assert!(subscription.next(Deadline::NEVER).is_none());
    }

    #[test]
    fn many_threads_neither_wait_nor_lose_without_counting() {
        const EACH: u64 = 500;
        let events = Events::new();
        let subscription = events.subscribe(8);
        let taken = std::thread::scope(|scope| {
            let emitters: Vec<_> =
                (0..3).map(|_| scope.spawn(|| (0..EACH).for_each(|_| events.emit(&online(0))))).collect();
            let mut taken = 0;
            while emitters.iter().any(|emitter| !emitter.is_finished()) {
                taken += u64::from(subscription.try_next().is_some());
            }
            taken
        });
        let rest = std::iter::from_fn(|| subscription.try_next()).count() as u64;
        assert_eq!(taken + rest + subscription.lost(), 3 * EACH);
    }
}
