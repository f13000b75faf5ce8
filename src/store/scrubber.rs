//! Going through what is sealed, partition by partition, at a byte rate: what time did to it is found before a consumer
//! finds it, while a replica still has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::events::StoreEvent;
use super::hosted::Hosted;
use super::partition_id::TopicPartition;
use super::shared::Shared;
use super::throttle::Throttle;
use crate::log::{ScrubCursor, Scrubbed};
use crate::metrics::Counter;
use crate::segment::sum::LogVerdict;
use crate::sync::Mutex;

/// Read at a time: the longest that stopping waits for, and little beside what a reader asks for.
const STEP_BYTES: u64 = 1 << 20;
/// Between two partitions, so that thousands of small ones are not all opened at once.
const PARTITION_PAUSE: Duration = Duration::from_millis(100);

/// What the scrubber did since the store was opened. Any thread may read it at any time.
#[derive(Debug, Default)]
pub struct ScrubMetrics {
    /// Bytes of logs read.
    pub bytes: Counter,
    /// Segments gone through.
    pub segments: Counter,
    /// Segments that had no sum, or a stale one, and got one.
    pub sums_made: Counter,
    /// Ranges found damaged, and quarantined.
    pub damaged_ranges: Counter,
    /// Files beside logs that were wrong, and built again.
    pub rebuilt_sidecars: Counter,
    /// Segments in which another program wrote.
    pub stale_segments: Counter,
    /// Partitions that could not be gone through to the end.
    pub failures: Counter,
    /// Rounds over all partitions that came to their last one.
    pub rounds: Counter,
}

/// Where the scrubber is.
#[derive(Debug)]
pub(super) struct Scrubber {
    state: Mutex<State>,
    throttle: Throttle,
    pub(super) metrics: ScrubMetrics,
}

#[derive(Debug, Default)]
struct State {
    /// Partitions that this round still has to go through.
    left: VecDeque<TopicPartition>,
    current: Option<(Arc<Hosted>, ScrubCursor)>,
    /// Monotonic time of the first step.
    opened: Option<Duration>,
    /// Monotonic time at which the round began.
    began: Option<Duration>,
    /// Monotonic time before which nothing is read.
    due: Duration,
}

impl Scrubber {
    pub(super) fn new(bytes_per_second: Option<std::num::NonZeroU64>) -> Self {
        Self {
            state: Mutex::default(),
            throttle: Throttle::new(bytes_per_second, STEP_BYTES),
            metrics: ScrubMetrics::default(),
        }
    }

    /// Reads some of what is to be read; returns how long the next step may wait.
    pub(super) fn step(&self, shared: &Shared, now: Duration) -> Duration {
        // Taken out, so that nothing is locked while a disk is read. One thread steps at a time.
        let mut state = std::mem::take(&mut *self.state.lock());
        if state.due <= now {
            state.due = now.saturating_add(self.advance(shared, &mut state, now));
        }
        let pause = state.due.saturating_sub(now);
        *self.state.lock() = state;
        pause
    }

    fn advance(&self, shared: &Shared, state: &mut State, now: Duration) -> Duration {
        let Some((hosted, mut cursor)) = state.current.take() else {
            return self.next_partition(shared, state, now);
        };
        let scrubbed = shared.log_of(&hosted).map(|log| log.scrub(&mut cursor, STEP_BYTES));
        let Ok(Ok(scrubbed)) = scrubbed else {
            // Deleted, offline, or a disk that does not read: the next round tries again.
            self.metrics.failures.add(1);
            return PARTITION_PAUSE;
        };
        self.note(shared, &hosted, &scrubbed);
        if scrubbed.is_round_done {
            return PARTITION_PAUSE;
        }
        state.current = Some((hosted, cursor));
        self.throttle.take(scrubbed.bytes, now)
    }

    /// Goes on to the next partition, or to the next round if it is time for one.
    fn next_partition(&self, shared: &Shared, state: &mut State, now: Duration) -> Duration {
        if let Some(name) = state.left.pop_front() {
            self.metrics.rounds.add(u64::from(state.left.is_empty()));
            state.current = shared.find(&name).map(|hosted| (hosted, ScrubCursor::default()));
            return Duration::ZERO;
        }
        let opened = *state.opened.get_or_insert(now);
        let next = match state.began {
            Some(began) => began.saturating_add(shared.config.scrub_interval),
            None => opened.saturating_add(shared.config.scrub_delay),
        };
        if now < next {
            return next.saturating_sub(now);
        }
        state.began = Some(now);
        state.left = shared.names().into();
        // Where processes do not live for a whole round, the same partitions would always be the last.
        let turn = super::shared::random_below(state.left.len());
        state.left.rotate_left(turn);
        PARTITION_PAUSE
    }

    fn note(&self, shared: &Shared, hosted: &Hosted, scrubbed: &Scrubbed) {
        self.metrics.bytes.add(scrubbed.bytes);
        let Some(done) = &scrubbed.segment_done else { return };
        self.metrics.segments.add(1);
        self.metrics.sums_made.add(u64::from(done.is_sum_written));
        self.metrics.rebuilt_sidecars.add(done.sidecars.len() as u64);
        self.metrics.damaged_ranges.add(done.quarantined.len() as u64);
        self.metrics.stale_segments.add(u64::from(matches!(done.log, LogVerdict::Stale(_))));
        for damage in &done.quarantined {
            let (partition, damage) = (hosted.name.clone(), damage.clone());
            shared.events.emit(&StoreEvent::DamageFound { partition, damage });
        }
    }
}
