//! How far the opening of a store is: for a supervisor that must not kill a process which is still recovering.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::partition_id::TopicPartition;
use crate::clock::Clock;
use crate::segment::Residency;
use crate::sync::Mutex;

/// How far the opening of a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenProgress {
    /// Partitions whose logs have to be opened: those that were not closed cleanly.
    pub partitions: usize,
    /// How many of them are done, for better or worse.
    pub done: usize,
    /// How many could not be opened.
    pub failed: usize,
    /// Bytes of the segments that may have to be scanned.
    pub bytes: u64,
    /// How many of them were scanned, or belong to partitions that are done.
    pub bytes_done: u64,
    /// Partitions that are being opened now.
    pub current: Vec<TopicPartition>,
    /// Time since the opening began.
    pub elapsed: Duration,
}

impl OpenProgress {
    /// How long it may still take, from what was done so far; `None` while nothing tells.
    pub fn time_left(&self) -> Option<Duration> {
        let (done, all) =
            if self.bytes > 0 { (self.bytes_done, self.bytes) } else { (self.done as u64, self.partitions as u64) };
        let left = all.saturating_sub(done);
        let nanos = u128::from(left).checked_mul(self.elapsed.as_nanos())?.checked_div(u128::from(done))?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

type Listener = dyn Fn(&OpenProgress) + Send + Sync;

/// Tells how far an opening is: to whoever polls a clone of it, and to a function that is called with each change. The
/// function is called by the threads that recover, one call at a time; it must not wait for long.
///
/// ```
/// use alluvium::store::Progress;
/// let progress = Progress::with_listener(|now| println!("{} of {} partitions", now.done, now.partitions));
/// assert_eq!(progress.now().partitions, 0);
/// ```
#[derive(Clone, Default)]
pub struct Progress {
    state: Arc<Mutex<State>>,
    listener: Option<Arc<Listener>>,
}

#[derive(Default)]
struct State {
    progress: OpenProgress,
    clock: Option<(Arc<dyn Clock>, Duration)>,
    /// Where scans say how far they are.
    residency: Option<Arc<Residency>>,
}

impl Progress {
    /// One that is polled only.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that also calls `listener` whenever something changed.
    pub fn with_listener(listener: impl Fn(&OpenProgress) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Arc::new(listener)), ..Self::default() }
    }

    /// How far the opening is now.
    pub fn now(&self) -> OpenProgress {
        let state = self.state.lock();
        state.now()
    }

    pub(super) fn start(&self, clock: &Arc<dyn Clock>, residency: &Arc<Residency>) {
        {
            let mut state = self.state.lock();
            state.clock = Some((Arc::clone(clock), clock.monotonic()));
            state.residency = Some(Arc::clone(residency));
        }
        if self.listener.is_some() {
            // Not by a strong reference: what it would keep alive has this.
            let (state, listener) = (Arc::downgrade(&self.state), self.listener.clone());
            residency.on_scan(move || {
                if let (Some(state), Some(listener)) = (state.upgrade(), &listener) {
                    let now = state.lock().now();
                    listener(&now);
                }
            });
        }
    }

    /// Openings that come later are no part of it.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        state.progress = state.now();
        (state.clock, state.residency) = (None, None);
    }

    pub(super) fn expect(&self, partitions: usize, bytes: u64) {
        self.change(|progress| {
            progress.partitions += partitions;
            progress.bytes += bytes;
        });
    }

    pub(super) fn begin(&self, partition: &TopicPartition) {
        self.change(|progress| progress.current.push(partition.clone()));
    }

    pub(super) fn done(&self, partition: &TopicPartition, bytes: u64, has_failed: bool) {
        self.change(|progress| {
            progress.current.retain(|current| current != partition);
            progress.done += 1;
            progress.failed += usize::from(has_failed);
            progress.bytes_done += bytes;
        });
    }

    fn change(&self, change: impl FnOnce(&mut OpenProgress)) {
        let now = {
            let mut state = self.state.lock();
            change(&mut state.progress);
            state.now()
        };
        if let Some(listener) = &self.listener {
            listener(&now);
        }
    }
}

impl State {
    fn now(&self) -> OpenProgress {
        let elapsed =
            self.clock.as_ref().map_or(Duration::ZERO, |(clock, from)| clock.monotonic().saturating_sub(*from));
        let elapsed = elapsed.max(self.progress.elapsed);
        let scanned = self.residency.as_ref().map_or(0, |residency| residency.scanned());
        let bytes_done = self.progress.bytes_done.max(scanned.min(self.progress.bytes));
        OpenProgress { bytes_done, elapsed, ..self.progress.clone() }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.now()).finish()
    }
}
