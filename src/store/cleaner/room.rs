//! What the cleaner's workers share: settings, throttle, benches, and the way from a change of state to the disk and to
//! subscribers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::bench::{Bench, Memory};
use super::counters::CleanerCounters;
use super::engine::CleaningEngine;
use super::memory;
use super::track::{Effects, Now, Pause, Told, Track};
use crate::clean::CleanerConfig;
use crate::clock::Clock;
use crate::fs::FileSystem;
use crate::store::events::{Events, StoreEvent};
use crate::store::hosted::{Hosted, SlotState};
use crate::store::partition_id::TopicPartition;
use crate::store::shared::Shared;
use crate::store::throttle::Throttle;
use crate::store::workers::Waker;
use crate::sync::{Mutex, RwLock};

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
    wakers: Mutex<Vec<Waker>>,
    /// Some partition is behind: nothing is held back.
    pub(super) is_catching_up: AtomicBool,
    /// Workers that could not be started, or ended though nobody dismissed them.
    pub(super) dead_workers: AtomicU64,
    pub(super) counters: CleanerCounters,
}

impl CleanerRoom {
    pub(in crate::store) fn new(config: CleanerConfig, engine: Arc<dyn CleaningEngine>) -> Self {
        let room = Self {
            engine,
            throttle: Throttle::new(config.bytes_per_second, BURST),
            memory: Memory::default(),
            config: RwLock::new(Arc::new(config)),
            surveyed: Mutex::default(),
            pause: Mutex::default(),
            benches: Mutex::default(),
            wakers: Mutex::default(),
            is_catching_up: AtomicBool::new(false),
            dead_workers: AtomicU64::new(0),
            counters: CleanerCounters::default(),
        };
        room.fit();
        room
    }

    pub(super) fn config(&self) -> Arc<CleanerConfig> {
        Arc::clone(&self.config.read())
    }

    /// Takes other settings; returns those before.
    pub(super) fn set_config(&self, config: CleanerConfig, now: Duration) -> Arc<CleanerConfig> {
        self.throttle.set_rate(config.bytes_per_second, now);
        let before = std::mem::replace(&mut *self.config.write(), Arc::new(config));
        self.fit();
        before
    }

    /// Has as many benches as the settings say; those beyond are dismissed. Returns those that are new.
    fn fit(&self) {
        let wanted = usize::try_from(self.config().threads).unwrap_or(usize::MAX);
        let mut benches = self.benches.lock();
        for bench in benches.iter().skip(wanted) {
            bench.dismiss();
        }
        benches.truncate(wanted);
        for number in benches.len()..wanted {
            benches.push(Arc::new(Bench::new(number)));
        }
    }

    pub(super) fn benches(&self) -> Vec<Arc<Bench>> {
        self.benches.lock().clone()
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
    pub(in crate::store) fn drop_passes(&self) {
        for bench in self.benches() {
            bench.dismiss();
            drop(bench.take());
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause.lock().is_some()
    }
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
    Track(Box<Known1>),
}

/// A track, and what of it is on disk.
#[derive(Debug, Default)]
pub(in crate::store) struct Known1 {
    pub(super) track: Track,
    pub(super) is_unwritten: bool,
}
