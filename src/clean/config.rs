//! Settings of a store's cleaner: plain data with Kafka's names and defaults where Kafka has them (`CleanerConfig`).
//!
//! What belongs to one log (lags, dirty ratio, delete retention) is in its [`LogConfig`](crate::LogConfig). `validate`
//! refuses; nothing is clamped. The two tables below are the one place that knows names, ranges and meanings; the
//! settings of a store read and print them with its own.

use std::num::NonZeroU64;
use std::time::Duration;

use super::MEMORY_BYTES_MIN;
use crate::error::ConfigError;

const LONG_MAX: i64 = i64::MAX;
/// Means that there is no limit, or never.
const NONE: i64 = -1;
const THREADS_MAX: i64 = 1024;
const MEMORY: &str = "log.cleaner.dedupe.buffer.size";
const RETRY: &str = "alluvium.cleaner.retry.ms";
const RETRY_MAX: &str = "alluvium.cleaner.retry.max.ms";

/// Settings of the cleaner of a store.
///
/// ```
/// use alluvium::clean::CleanerConfig;
/// let config = CleanerConfig { threads: 4, memory_bytes: 64 << 20, ..CleanerConfig::default() };
/// config.validate().unwrap();
/// assert_eq!(config.memory_of_thread(), 16 << 20);
/// assert!(CleanerConfig { memory_bytes: 1 << 20, ..config }.validate().is_err(), "four threads need 4 MiB");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanerConfig {
    /// `log.cleaner.enable`: whether compacted logs are cleaned at all. Default true.
    pub enabled: bool,
    /// `log.cleaner.threads`: how many logs are cleaned at a time. 1 to 1,024, default 1. Kafka's 0 is refused: it is
    /// `enabled` that turns the cleaner off.
    pub threads: u32,
    /// `log.cleaner.dedupe.buffer.size`: everything that the cleaner holds in memory, codecs apart, shared out evenly among
    /// its threads: offset maps, buffers and bitmaps, where Kafka counts the maps alone. At least 1 MiB for each thread,
    /// default 128 MiB.
    pub memory_bytes: u64,
    /// `log.cleaner.io.max.bytes.per.second`: bytes that all threads together may read and write. `None` (-1), the default
    /// as in Kafka, is no limit: passes then go as fast as the disk, and slow appends are slower while one is at work
    /// (their 99th percentile took 1.3 times as long where it was measured). Set a limit where that matters; it should be
    /// several times what is appended in a second, or the cleaner falls behind.
    pub bytes_per_second: Option<NonZeroU64>,
    /// `log.cleaner.backoff.ms`: how long it rests when no log was due. Default 15 seconds.
    pub backoff: Duration,
    /// `alluvium.cleaner.behind.bytes`: a due log is behind when it has so many dirty bytes more than made it due. `None`
    /// (-1) never, default 1 GiB.
    pub behind_bytes: Option<u64>,
    /// `alluvium.cleaner.behind.after.ms`: a log is behind when it has been due, or overdue, for so long. 1 ms or more,
    /// `None` (-1) never, default 30 minutes.
    pub behind_after: Option<Duration>,
    /// `alluvium.cleaner.catch.up.unthrottled`: whether the limit of `bytes_per_second` is lifted while a log is behind.
    /// Default true: appends that wait for a disk are a nuisance, and a log that nobody can load any more is an outage.
    pub catch_up_unthrottled: bool,
    /// `alluvium.cleaner.retry.ms`: the pause after a pass that failed, doubled with each failure in a row. 1 ms or more,
    /// default 1 second.
    pub retry: Duration,
    /// `alluvium.cleaner.retry.max.ms`: the longest such pause, no less than `retry`. Default 5 minutes.
    pub retry_max: Duration,
    /// `alluvium.cleaner.stuck.after.ms`: a worker that has not finished a step for so long counts as stuck. 1 ms or more,
    /// default 2 minutes: no disk that works needs so long for one step.
    pub stuck_after: Duration,
    /// `alluvium.cleaner.spill`: whether keys that do not fit the memory are sorted out on disk, rather than in several
    /// passes. Default true.
    pub spill: bool,
    /// `alluvium.cleaner.spill.free.bytes`: so much of the file system stays free beside the spill files. Default 512 MiB:
    /// more than `alluvium.space.floor.bytes` and its margin, so that spilling never stops appends.
    pub spill_free_bytes: u64,
}

impl Default for CleanerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            threads: 1,
            memory_bytes: 128 << 20,
            bytes_per_second: None,
            backoff: Duration::from_secs(15),
            behind_bytes: Some(1 << 30),
            behind_after: Some(Duration::from_mins(30)),
            catch_up_unthrottled: true,
            retry: Duration::from_secs(1),
            retry_max: Duration::from_mins(5),
            stuck_after: Duration::from_mins(2),
            spill: true,
            spill_free_bytes: 512 << 20,
        }
    }
}

impl CleanerConfig {
    /// Refuses values out of range, naming key, value and range, and settings that contradict one another.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`], also for memory that is less than 1 MiB for each thread;
    /// [`ConfigError::Contradiction`] when the first pause before a retry is longer than the longest.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for key in &CLEANER_KEYS {
            (key.read)(self).map_or(Ok(()), |value| key.check_value(value))?;
        }
        let least = MEMORY_BYTES_MIN.saturating_mul(u64::from(self.threads));
        if self.memory_bytes < least {
            let (value, min) = (i128::from(self.memory_bytes), i64::try_from(least).unwrap_or(LONG_MAX));
            return Err(ConfigError::OutOfRange { key: MEMORY, value, min, max: LONG_MAX, also: None });
        }
        if self.retry > self.retry_max {
            let in_millis = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let (lower_value, upper_value) = (in_millis(self.retry), in_millis(self.retry_max));
            return Err(ConfigError::Contradiction { lower: RETRY, lower_value, upper: RETRY_MAX, upper_value });
        }
        Ok(())
    }

    /// What one thread may hold in memory, in bytes.
    pub fn memory_of_thread(&self) -> u64 {
        self.memory_bytes / u64::from(self.threads.max(1))
    }

    /// The pause after so many failures in a row: none after none, and never longer than `retry_max`.
    ///
    /// ```
    /// use alluvium::clean::CleanerConfig;
    /// let pauses = [0, 1, 2, 3, 100].map(|failures| CleanerConfig::default().retry_after(failures).as_secs());
    /// assert_eq!(pauses, [0, 1, 2, 4, 300]);
    /// ```
    pub fn retry_after(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.retry.saturating_mul(factor).min(self.retry_max)
    }
}

/// A setting that is a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanerKey {
    /// Kafka's broker key where it has one, else `alluvium.` and a name.
    pub(crate) name: &'static str,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// One more value, -1, that means no limit, or never.
    pub(crate) also: Option<i64>,
    pub(crate) doc: &'static str,
    /// `None` is the one more value.
    pub(crate) read: fn(&CleanerConfig) -> Option<i128>,
    pub(crate) write: fn(&mut CleanerConfig, Option<u64>),
}

impl CleanerKey {
    fn check_value(&self, value: i128) -> Result<(), ConfigError> {
        let Self { name: key, min, max, also, .. } = *self;
        let is_within = (i128::from(min)..=i128::from(max)).contains(&value);
        if is_within { Ok(()) } else { Err(ConfigError::OutOfRange { key, value, min, max, also }) }
    }
}

/// A setting that is `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanerFlag {
    /// Kafka's broker key where it has one, else `alluvium.` and a name.
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) read: fn(&CleanerConfig) -> bool,
    pub(crate) write: fn(&mut CleanerConfig, bool),
}

fn millis(value: Duration) -> i128 {
    i128::from(value.as_secs()) * 1000 + i128::from(value.subsec_millis())
}

/// A number that may be absent.
const fn optional(
    name: &'static str,
    doc: &'static str,
    read: fn(&CleanerConfig) -> Option<i128>,
    write: fn(&mut CleanerConfig, Option<u64>),
) -> CleanerKey {
    CleanerKey { name, min: 1, max: LONG_MAX, also: Some(NONE), doc, read, write }
}

/// A field that is a time in milliseconds.
macro_rules! time {
    ($name:expr, $min:literal, $field:ident, $doc:literal) => {
        CleanerKey {
            name: $name,
            min: $min,
            max: LONG_MAX,
            also: None,
            doc: $doc,
            read: |config| Some(millis(config.$field)),
            write: |config, value| config.$field = value.map_or(config.$field, Duration::from_millis),
        }
    };
}

/// A field that is a whole number. What is written was checked against the range, which fits the type.
macro_rules! number {
    ($name:expr, $min:expr, $max:expr, $field:ident: $kind:ty, $doc:literal) => {
        CleanerKey {
            name: $name,
            min: $min,
            max: $max,
            also: None,
            doc: $doc,
            read: |config| Some(i128::from(config.$field)),
            write: |config, value| {
                config.$field = value.and_then(|value| <$kind>::try_from(value).ok()).unwrap_or(config.$field);
            },
        }
    };
}

/// Every number, in the order in which they are listed and checked.
pub(crate) static CLEANER_KEYS: [CleanerKey; 10] = [
    number!(
        "log.cleaner.threads", 1, THREADS_MAX, threads: u32,
        "How many logs are cleaned at a time. Kafka's 0 is refused: set log.cleaner.enable."
    ),
    number!(
        MEMORY, 1 << 20, LONG_MAX, memory_bytes: u64,
        "Memory of the whole cleaner, shared out among its threads, at least 1 MiB for each."
    ),
    optional(
        "log.cleaner.io.max.bytes.per.second",
        "Bytes that the cleaner's threads together may read and write; -1 for no limit.",
        |config| config.bytes_per_second.map(|bytes| i128::from(bytes.get())),
        |config, value| config.bytes_per_second = value.and_then(NonZeroU64::new),
    ),
    time!("log.cleaner.backoff.ms", 0, backoff, "How long the cleaner rests when no log was due."),
    optional(
        "alluvium.cleaner.behind.bytes",
        "A log is behind when it has so many dirty bytes more than made it due; -1 for never.",
        |config| config.behind_bytes.map(i128::from),
        |config, value| config.behind_bytes = value,
    ),
    optional(
        "alluvium.cleaner.behind.after.ms",
        "A log is behind when it has been due for so long; -1 for never.",
        |config| config.behind_after.map(millis),
        |config, value| config.behind_after = value.map(Duration::from_millis),
    ),
    time!(RETRY, 1, retry, "The pause after a pass that failed, doubled with each failure in a row."),
    time!(RETRY_MAX, 1, retry_max, "The longest pause after a pass that failed."),
    time!(
        "alluvium.cleaner.stuck.after.ms",
        1,
        stuck_after,
        "A worker that has not finished a step for so long counts as stuck."
    ),
    number!(
        "alluvium.cleaner.spill.free.bytes", 0, LONG_MAX, spill_free_bytes: u64,
        "So much of a file system stays free beside the cleaner's spill files."
    ),
];

/// Every setting that is `true` or `false`.
pub(crate) static CLEANER_FLAGS: &[CleanerFlag] = &[
    CleanerFlag {
        name: "log.cleaner.enable",
        doc: "Whether compacted logs are cleaned.",
        read: |config| config.enabled,
        write: |config, value| config.enabled = value,
    },
    CleanerFlag {
        name: "alluvium.cleaner.catch.up.unthrottled",
        doc: "Whether log.cleaner.io.max.bytes.per.second is lifted while a log is behind.",
        read: |config| config.catch_up_unthrottled,
        write: |config, value| config.catch_up_unthrottled = value,
    },
    CleanerFlag {
        name: "alluvium.cleaner.spill",
        doc: "Whether keys that do not fit the memory are sorted out on disk.",
        read: |config| config.spill,
        write: |config, value| config.spill = value,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_are_kafkas_where_kafka_has_them() {
        let config = CleanerConfig::default();
        config.validate().unwrap();
        let value = |name: &str| {
            let key = CLEANER_KEYS.iter().find(|key| key.name == name).unwrap();
            (key.read)(&config)
        };
        assert_eq!(value("log.cleaner.threads"), Some(1));
        assert_eq!(value(MEMORY), Some(134_217_728));
        assert_eq!(value("log.cleaner.backoff.ms"), Some(15_000));
        assert_eq!(value("log.cleaner.io.max.bytes.per.second"), None);
        assert!(config.enabled);
    }

    #[test]
    fn what_is_out_of_range_or_contradicts_is_refused_by_key() {
        let refused = |config: CleanerConfig| config.validate().unwrap_err().key().unwrap().to_owned();
        let ok = CleanerConfig::default();
        assert_eq!(refused(CleanerConfig { threads: 0, ..ok.clone() }), "log.cleaner.threads");
        assert_eq!(refused(CleanerConfig { threads: 1025, ..ok.clone() }), "log.cleaner.threads");
        assert_eq!(refused(CleanerConfig { memory_bytes: (1 << 20) - 1, ..ok.clone() }), MEMORY);
        assert_eq!(refused(CleanerConfig { memory_bytes: u64::MAX, ..ok.clone() }), MEMORY);
        assert_eq!(
            refused(CleanerConfig { stuck_after: Duration::MAX, ..ok.clone() }),
            "alluvium.cleaner.stuck.after.ms"
        );
        assert_eq!(refused(CleanerConfig { behind_bytes: Some(0), ..ok.clone() }), "alluvium.cleaner.behind.bytes");
        let error = CleanerConfig { threads: 4, memory_bytes: (4 << 20) - 1, ..ok.clone() }.validate().unwrap_err();
        assert!(error.to_string().contains("outside 4194304..="), "{error}");
        CleanerConfig { threads: 4, memory_bytes: 4 << 20, ..ok.clone() }.validate().unwrap();
        assert_eq!(refused(CleanerConfig { retry: Duration::from_hours(1), ..ok }), RETRY);
    }

    #[test]
    fn pauses_double_up_to_the_longest_whatever_the_count() {
        let config = CleanerConfig { retry: Duration::MAX, retry_max: Duration::MAX, ..CleanerConfig::default() };
        assert_eq!(config.retry_after(u32::MAX), Duration::MAX);
        let pauses: Vec<Duration> = (0..70).map(|failures| CleanerConfig::default().retry_after(failures)).collect();
        assert!(pauses.is_sorted() && pauses.last() == Some(&Duration::from_mins(5)), "{pauses:?}");
    }
}
