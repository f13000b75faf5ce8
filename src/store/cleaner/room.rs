//! What the cleaner's workers share: settings, throttle, benches, and the way from a change of state to the disk and to
//! subscribers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::bench::{Bench, Memory};
use super::cause::CleaningCause;
use super::counters::CleanerCounters;
use super::engine::CleaningEngine;
use super::memory::{self, Found};
use super::pool::CleanerPool;
use super::track::{Effects, Now, Pause, Remembered, Told, Track};
use crate::clean::{CleanerConfig, MEMORY_BYTES_MIN};
use crate::clock::Clock;
use crate::config::LogConfig;
use crate::log::PartitionLog;
use crate::store::directory::Directory;
use crate::store::events::StoreEvent;
use crate::store::hosted::{Hosted, SlotState};
use crate::store::partition_id::TopicPartition;
use crate::store::shared::Shared;
use crate::store::throttle::Throttle;
use crate::store::workers::{Waker, WorkerHealth};
use crate::sync::{Mutex, RwLock};
use crate::units::{Offset, TimestampMs};

/// With so much memory for each worker there is a stand-in.
const STAND_IN_FROM: u64 = 16 << 20;
/// As much is cleaned at once after a quiet time.
const BURST: u64 = 1 << 20;

/// The inside of the cleaner.
#[derive(Debug)]
pub(in crate::store) struct CleanerRoom {
    pub(super) engine: Arc<dyn CleaningEngine>,
    config: RwLock<Arc<CleanerConfig>>,
    pub(super) throttle: Throttle,
    pub(super) memory: Memory,
    /// Monotonic time at which the last survey began.
    pub(super) surveyed: Mutex<Option<Duration>>,
    /// Somebody asked for all of it to stand still.
    pub(super) pause: Mutex<Option<Pause>>,
    benches: Mutex<Vec<Arc<Bench>>>,
    /// Of a worker that works while another one hangs.
    stand_in: Mutex<Option<Arc<Bench>>>,
    wakers: Mutex<Vec<Waker>>,
    /// Some partition is behind: nothing is held back.
    pub(super) is_catching_up: AtomicBool,
    /// Workers that could not be started.
    pub(super) missing_workers: AtomicU64,
    /// The threads; the store's handles own them.
    pool: Mutex<Weak<CleanerPool>>,
    /// Wall time at which a worker looked for something to clean.
    pub(super) looked: Mutex<Option<TimestampMs>>,
    pub(super) counters: CleanerCounters,
    /// Wall time at which the store was opened.
    pub(super) opened_at: TimestampMs,
}

impl CleanerRoom {
    pub(in crate::store) fn new(
        config: CleanerConfig,
        engine: Arc<dyn CleaningEngine>,
        opened_at: TimestampMs,
    ) -> Self {
        let room = Self {
            opened_at,
            engine,
            throttle: Throttle::new(config.bytes_per_second, BURST),
            memory: Memory::default(),
            config: RwLock::new(Arc::new(config)),
            surveyed: Mutex::default(),
            pause: Mutex::default(),
            benches: Mutex::default(),
            stand_in: Mutex::default(),
            wakers: Mutex::default(),
            is_catching_up: AtomicBool::new(false),
            missing_workers: AtomicU64::new(0),
            pool: Mutex::default(),
            looked: Mutex::default(),
            counters: CleanerCounters::default(),
        };
        drop(room.fit());
        room
    }

    /// Whose threads there are from now on.
    pub(in crate::store) fn set_pool(&self, pool: &Arc<CleanerPool>) {
        *self.pool.lock() = Arc::downgrade(pool);
    }

    /// How each thread that cleans is doing, by the number of its bench.
    pub(super) fn workers(&self) -> Vec<(usize, WorkerHealth)> {
        let pool = self.pool.lock().upgrade();
        pool.map(|pool| pool.health()).unwrap_or_default()
    }

    pub(super) fn config(&self) -> Arc<CleanerConfig> {
        Arc::clone(&self.config.read())
    }

    /// Takes other settings; returns those before. Passes of workers that are not wanted any more are let go of.
    pub(super) fn set_config(&self, shared: &Shared, config: CleanerConfig, now: Duration) -> Arc<CleanerConfig> {
        self.throttle.set_rate(config.bytes_per_second, now);
        let before = std::mem::replace(&mut *self.config.write(), Arc::new(config));
        for bench in self.fit() {
            self.put_away(shared, &bench);
        }
        before
    }

    /// Has as many benches as the settings say; returns those beyond, which are none of its own any more.
    fn fit(&self) -> Vec<Arc<Bench>> {
        let wanted = usize::try_from(self.config().threads).unwrap_or(usize::MAX);
        let mut benches = self.benches.lock();
        let kept = wanted.min(benches.len());
        let mut left = benches.split_off(kept);
        for number in benches.len()..wanted {
            benches.push(Arc::new(Bench::new(number)));
        }
        drop(benches);
        let has_stand_in = stand_in_bytes(&self.config()) > 0;
        let mut stand_in = self.stand_in.lock();
        if stand_in.is_some() != has_stand_in {
            let before = std::mem::replace(&mut *stand_in, has_stand_in.then(|| Arc::new(Bench::stand_in())));
            left.extend(before);
        }
        left
    }

    pub(super) fn benches(&self) -> Vec<Arc<Bench>> {
        self.benches.lock().clone()
    }

    /// The bench of the worker that works while another one hangs, if there is memory for it.
    pub(super) fn stand_in(&self) -> Option<Arc<Bench>> {
        self.stand_in.lock().clone()
    }

    /// What a pass at a bench may hold.
    pub(super) fn share_of(&self, bench: &Bench) -> u64 {
        let config = self.config();
        let aside = stand_in_bytes(&config);
        if bench.is_stand_in {
            return aside;
        }
        config.memory_bytes.saturating_sub(aside) / u64::from(config.threads.max(1))
    }

    /// Whether some step takes longer than it should.
    pub(super) fn is_anyone_stuck(&self, shared: &Shared, now: Duration) -> bool {
        let limit = self.config().stuck_after;
        let is_stuck = |since: Duration| now.saturating_sub(since) > limit;
        shared
            .all()
            .iter()
            .any(|hosted| hosted.track(|tracked| tracked.track.in_step_since().is_some_and(is_stuck)).unwrap_or(false))
    }

    /// Who is to be told when something is due.
    pub(super) fn set_wakers(&self, wakers: Vec<Waker>) {
        *self.wakers.lock() = wakers;
    }

    /// Makes the next step of every worker due.
    pub(super) fn wake(&self) {
        for waker in self.wakers.lock().iter() {
            waker.wake();
        }
    }

    /// Drops every pass between two steps: what is swapped stays, and the next process goes on behind it. A worker that
    /// hangs keeps the one that it is at.
    pub(in crate::store) fn drop_passes(&self, shared: &Shared) {
        for bench in self.benches().into_iter().chain(self.stand_in()) {
            self.put_away(shared, &bench);
        }
    }

    /// The first offset of a compacted log that no pass has been at.
    pub(in crate::store) fn first_dirty(&self, log: &PartitionLog) -> Option<Offset> {
        log.config().cleanup_policy.compacts().then(|| self.engine.first_dirty(log))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause.lock().is_some()
    }
}

/// What is set aside for the stand-in: as little as a pass can do with, where the others have plenty.
fn stand_in_bytes(config: &CleanerConfig) -> u64 {
    if config.memory_of_thread() >= STAND_IN_FROM { MEMORY_BYTES_MIN } else { 0 }
}

/// The time of a store's clock.
pub(super) fn now_of(clock: &dyn Clock) -> Now {
    Now { wall: clock.wall(), monotonic: clock.monotonic() }
}

/// What is known of a partition's cleaning; it lives beside the partition's slot.
#[derive(Debug, Default)]
pub(in crate::store) enum Known {
    /// Nobody has looked yet what an earlier process left.
    #[default]
    Unread,
    /// Somebody is reading it: others go on to the next partition, since a disk may not answer.
    Reading,
    /// This.
    Read(Box<Tracked>),
}

/// A track, and what it has to do with the world.
#[derive(Debug, Default)]
pub(in crate::store) struct Tracked {
    pub(super) track: Track,
    /// What is on disk, as far as is known.
    written: Option<Remembered>,
    /// Something of consequence could not be written down.
    pub(super) owes_writing: bool,
    /// It was put aside, and what was seen of it is not of now: it has to be opened.
    pub(super) is_unseen: bool,
    /// It could not be used at the last look.
    pub(super) was_away: bool,
    /// Which failed attempt's cause was looked for, and whether it was gone at the last look.
    pub(super) heard: Option<(u32, bool)>,
    /// Where it lay at the last look.
    pub(super) directory: Option<Arc<Path>>,
    /// Its settings at the last look.
    pub(super) config: Option<Arc<LogConfig>>,
}

impl Tracked {
    /// Whether it is behind, and haste would help it: not while it is paused or its directory is offline.
    pub(super) fn lags(&self) -> bool {
        self.track.behind().is_some() && !self.track.is_paused() && !self.was_away
    }

    /// There is nothing on disk where the partition lies now.
    pub(super) fn forget_written(&mut self) {
        self.owes_writing = self.written.take().is_some();
    }

    /// Whether what is on disk is older than what is known.
    pub(super) fn is_unwritten(&self) -> bool {
        self.written.as_ref() != Some(&self.track.remember())
    }
}

impl Hosted {
    /// Looks at the partition's track, or changes it; `None` where it has none (yet).
    pub(super) fn track<T>(&self, with: impl FnOnce(&mut Tracked) -> T) -> Option<T> {
        match &mut *self.cleaning.lock() {
            Known::Read(tracked) => Some(with(tracked)),
            Known::Unread | Known::Reading => None,
        }
    }
}

impl CleanerRoom {
    /// Gives the partition a track, from what an earlier process left; whether it has one now.
    pub(super) fn read(&self, shared: &Shared, hosted: &Hosted, directory: &Directory, now: Now) -> bool {
        match &mut *hosted.cleaning.lock() {
            Known::Read(_) => return true,
            Known::Reading => return false,
            known @ Known::Unread => *known = Known::Reading,
        }
        let found = memory::read(&*shared.environment.fs, &directory.path_of(&hosted.name));
        let mut tracked = Tracked::default();
        match found {
            Ok(Found::Remembered(remembered)) => {
                tracked.track = Track::restore(Remembered::clone(&remembered), now, &self.config());
                tracked.written = Some(*remembered);
            }
            Ok(Found::Nothing) => {}
            Ok(Found::Corrupt) => tracked.track.is_begun_anew = true,
            Err(failure) => {
                // Not left for later: who has no track is never cleaned, and nobody would hear of it.
                tracked.track.is_begun_anew = true;
                let cause = CleaningCause::of_io(&failure);
                let effects = tracked.track.could_not_be_seen(cause, now, &self.config());
                *hosted.cleaning.lock() = Known::Read(Box::new(tracked));
                self.settle(shared, hosted, effects);
                shared.events.emit(&StoreEvent::CleanerStateLost { partition: hosted.name.clone() });
                return true;
            }
        }
        let is_corrupt = tracked.track.is_begun_anew;
        *hosted.cleaning.lock() = Known::Read(Box::new(tracked));
        if is_corrupt {
            shared.events.emit(&StoreEvent::CleanerStateLost { partition: hosted.name.clone() });
        }
        true
    }

    /// Writes down and tells what a change came to.
    pub(super) fn settle(&self, shared: &Shared, hosted: &Hosted, effects: Effects) {
        if effects.is_new && !Self::write(shared, hosted) {
            hosted.track(|tracked| tracked.owes_writing = true);
        }
        for told in effects.told {
            self.counters.note(&told);
            if matches!(told, Told::Behind(_)) && hosted.track(|tracked| tracked.lags()) == Some(true) {
                self.is_catching_up.store(true, Ordering::Release);
            }
            shared.events.emit(&event_of(hosted.name.clone(), told));
        }
    }

    /// Replaces what is remembered of a partition. What cannot be written now is by the next survey; in this process it
    /// holds all the same.
    pub(in crate::store) fn write(shared: &Shared, hosted: &Hosted) -> bool {
        let Some(remembered) = hosted.track(|tracked| tracked.track.remember()) else { return false };
        // With the slot locked: the directory of one that was deleted or moved meanwhile may be another partition's. One
        // that is about to change is not waited for.
        let written = hosted.peek().is_some_and(|slot| {
            !matches!(slot.state, SlotState::Away(_))
                && memory::write(&*shared.environment.fs, &slot.directory.path_of(&hosted.name), &remembered).is_ok()
        });
        if written {
            hosted.track(|tracked| {
                tracked.written = Some(remembered);
                tracked.owes_writing = false;
            });
        }
        written
    }
}

fn event_of(partition: TopicPartition, told: Told) -> StoreEvent {
    match told {
        Told::Behind(behind) => StoreEvent::CleanerBehind {
            partition,
            backlog_bytes: behind.backlog_bytes,
            overdue_ms: behind.overdue_ms,
            growth_bytes_per_second: behind.growth_bytes_per_second,
        },
        Told::CaughtUp => StoreEvent::CleanerCaughtUp { partition },
        Told::Failed { cause, attempt, retry_at } => StoreEvent::CleaningFailed { partition, cause, attempt, retry_at },
        Told::Recovered => StoreEvent::CleaningRecovered { partition },
        Told::Paused { by } => StoreEvent::CleaningPaused { partition, by },
        Told::Resumed => StoreEvent::CleaningResumed { partition },
    }
}
