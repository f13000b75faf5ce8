//! What the cleaner counts, and the figures that follow, under Kafka's names where Kafka has them.

use std::time::Duration;

use super::report::CleanerCounts;
use super::track::Told;
use crate::clean::{CleanMode, Cleaned};
use crate::metrics::Counter;
use crate::sync::Mutex;

/// Counters of the cleaner's own.
#[derive(Debug, Default)]
pub(in crate::store) struct CleanerCounters {
    /// Bytes read and written by steps, also of passes that did not come to their end.
    pub(super) bytes: Counter,
    pub(super) passes: Counter,
    pub(super) spilling: Counter,
    pub(super) partial: Counter,
    pub(super) failures: Counter,
    pub(super) bytes_read: Counter,
    pub(super) bytes_written: Counter,
    pub(super) bytes_spilled: Counter,
    pub(super) bytes_freed: Counter,
    pub(super) records_read: Counter,
    pub(super) records_kept: Counter,
    pub(super) records_keyless: Counter,
    pub(super) times_behind: Counter,
    /// Dirty bytes of passes that came to their end, and how long these took.
    dirty_cleaned: Counter,
    millis: Counter,
    recent: Mutex<Recent>,
}

/// Of the last pass that came to its end, and the most of all so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    pub(super) took_max: Duration,
    /// Keys in the map of the last pass, in hundredths of those that its share holds.
    pub(super) buffer_percent: u64,
    pub(super) memory_peak: u64,
}

impl CleanerCounters {
    pub(super) fn note(&self, told: &Told) {
        match told {
            Told::Failed { .. } => self.failures.add(1),
            Told::Behind(_) => self.times_behind.add(1),
            Told::CaughtUp | Told::Recovered | Told::Paused { .. } | Told::Resumed => {}
        }
    }

    /// A pass with memory for so many keys came to its end.
    pub(super) fn note_cleaned(&self, cleaned: &Cleaned, (dirty, took): (u64, Duration), keys_max: u64) {
        self.dirty_cleaned.add(dirty);
        self.millis.add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.passes.add(1);
        self.spilling.add(u64::from(cleaned.mode == CleanMode::Spill));
        self.partial.add(u64::from(cleaned.mode == CleanMode::Partial));
        self.bytes_read.add(cleaned.bytes_read);
        self.bytes_written.add(cleaned.bytes_written);
        self.bytes_spilled.add(cleaned.bytes_spilled);
        self.bytes_freed.add(cleaned.bytes_freed);
        self.records_read.add(cleaned.records_read);
        self.records_kept.add(cleaned.records_kept);
        self.records_keyless.add(cleaned.records_keyless);
        let mut recent = self.recent.lock();
        recent.took_max = recent.took_max.max(cleaned.took);
        let fits = cleaned.mode == CleanMode::Map;
        recent.buffer_percent = if fits { percent(cleaned.keys, keys_max).min(100) } else { 100 };
        recent.memory_peak = recent.memory_peak.max(cleaned.memory_peak);
    }

    /// How long so many dirty bytes take, at the pace of the passes so far.
    pub(super) fn millis_for(&self, bytes: u64) -> Option<u64> {
        let (cleaned, millis) = (self.dirty_cleaned.value(), self.millis.value());
        let needed = u128::from(bytes).saturating_mul(u128::from(millis)).checked_div(u128::from(cleaned))?;
        Some(u64::try_from(needed).unwrap_or(u64::MAX))
    }

    pub(super) fn counts(&self) -> CleanerCounts {
        CleanerCounts {
            passes: self.passes.value(),
            spilling_passes: self.spilling.value(),
            partial_passes: self.partial.value(),
            failures: self.failures.value(),
            times_behind: self.times_behind.value(),
            moved_bytes: self.bytes.value(),
            read_bytes: self.bytes_read.value(),
            written_bytes: self.bytes_written.value(),
            spilled_bytes: self.bytes_spilled.value(),
            freed_bytes: self.bytes_freed.value(),
            read_records: self.records_read.value(),
            kept_records: self.records_kept.value(),
            keyless_records: self.records_keyless.value(),
        }
    }

    pub(super) fn recent(&self) -> Recent {
        *self.recent.lock()
    }
}

/// `part` in hundredths of `whole`; 0 of nothing.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    let hundredths = u128::from(part).saturating_mul(100).checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(hundredths).unwrap_or(u64::MAX)
}
