//! The table of a store's keys that are numbers: the one place that knows their names, ranges and meanings.

use std::num::NonZeroU64;
use std::time::Duration;

use super::config::StoreConfig;
use crate::clean::CLEANER_KEYS;
use crate::config::shown;
use crate::error::ConfigError;

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
/// Means that there is no limit, or never.
const NONE: i64 = -1;

/// A key of a store's settings. [`StoreConfig::describe`] lists them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StoreKey {
    /// Kafka's broker key where it has one, else `alluvium.` and a name. Names of times end with their unit, `.ms`.
    pub name: &'static str,
    /// Smallest value allowed.
    pub min: i64,
    /// Largest value allowed.
    pub max: i64,
    /// One more value, -1, that means no limit, or never.
    pub also: Option<i64>,
    /// What it means.
    pub doc: &'static str,
    /// `None` is the one more value.
    read: fn(&StoreConfig) -> Option<i128>,
    write: fn(&mut StoreConfig, Option<u64>),
}

impl StoreKey {
    /// The value of this key in `config`, as properties spell it.
    pub fn value_of(&self, config: &StoreConfig) -> String {
        (self.read)(config).unwrap_or(i128::from(NONE)).to_string()
    }

    /// Refuses a value of `config` that this key does not allow.
    pub(super) fn check(&self, config: &StoreConfig) -> Result<(), ConfigError> {
        (self.read)(config).map_or(Ok(()), |value| self.check_value(value))
    }

    /// Parses `text` and writes it into `config`.
    pub(super) fn set(&self, text: &str, config: &mut StoreConfig) -> Result<(), ConfigError> {
        let expected = "write a whole number";
        let refused = |_| ConfigError::NotANumber { key: self.name, value: shown(text), expected };
        let value: i128 = text.parse().map_err(refused)?;
        if self.also.is_some_and(|also| i128::from(also) == value) {
            (self.write)(config, None);
            return Ok(());
        }
        self.check_value(value)?;
        (self.write)(config, u64::try_from(value).ok());
        Ok(())
    }

    fn check_value(&self, value: i128) -> Result<(), ConfigError> {
        let Self { name: key, min, max, also, .. } = *self;
        let is_within = (i128::from(min)..=i128::from(max)).contains(&value);
        if is_within { Ok(()) } else { Err(ConfigError::OutOfRange { key, value, min, max, also }) }
    }
}

fn millis(value: Duration) -> i128 {
    i128::from(value.as_secs()) * 1000 + i128::from(value.subsec_millis())
}

/// A key for a field of a number's type. What is written was checked against the range, which fits the type.
macro_rules! number {
    ($name:literal, $min:expr, $max:expr, $field:ident: $kind:ty, $doc:literal) => {
        StoreKey {
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

/// The same for a number that may be missing.
macro_rules! optional {
    ($name:literal, $min:expr, $max:expr, $field:ident: $kind:ty, $doc:literal) => {
        StoreKey {
            name: $name,
            min: $min,
            max: $max,
            also: Some(NONE),
            doc: $doc,
            read: |config| config.$field.map(|value| i128::from(u64::from(value))),
            write: |config, value| config.$field = value.and_then(|value| <$kind>::try_from(value).ok()),
        }
    };
}

/// A key in milliseconds.
macro_rules! time {
    ($name:literal, $min:expr, $field:ident, $doc:literal) => {
        StoreKey {
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

/// A key in milliseconds that may be never.
macro_rules! optional_time {
    ($name:literal, $field:ident, $doc:literal) => {
        StoreKey {
            name: $name,
            min: 1,
            max: LONG_MAX,
            also: Some(NONE),
            doc: $doc,
            read: |config| config.$field.map(millis),
            write: |config, value| config.$field = value.map(Duration::from_millis),
        }
    };
}

/// The cleaner's own table has the rest of it.
macro_rules! cleaner {
    ($at:literal) => {
        StoreKey {
            name: CLEANER_KEYS[$at].name,
            min: CLEANER_KEYS[$at].min,
            max: CLEANER_KEYS[$at].max,
            also: CLEANER_KEYS[$at].also,
            doc: CLEANER_KEYS[$at].doc,
            read: |config| (CLEANER_KEYS[$at].read)(&config.cleaner),
            write: |config, value| (CLEANER_KEYS[$at].write)(&mut config.cleaner, value),
        }
    };
}

/// Every key, in the order in which they are listed and checked.
pub(super) static KEYS: &[StoreKey] = &[
    optional!("alluvium.threads.max", 1, 4096, threads_max: u32, "Bound on the store's background threads."),
    number!(
        "num.recovery.threads.per.data.dir", 1, 4096, recovery_threads: u32,
        "Threads that open partitions, for each data directory. Kafka takes more, to no use."
    ),
    time!("log.retention.check.interval.ms", 1, retention_check_interval, "How often retention is applied."),
    time!(
        "log.flush.offset.checkpoint.interval.ms",
        0,
        recovery_checkpoint_interval,
        "How often the recovery points are written to a data directory."
    ),
    time!(
        "log.flush.start.offset.checkpoint.interval.ms",
        0,
        start_checkpoint_interval,
        "How often the log starts are written to a data directory."
    ),
    time!(
        "replica.high.watermark.checkpoint.interval.ms",
        0,
        high_watermark_checkpoint_interval,
        "How often the high watermarks are written to a data directory."
    ),
    time!(
        "alluvium.housekeeping.interval.ms",
        1,
        housekeeping_interval,
        "How often the housekeeper looks for what time brings about."
    ),
    optional!(
        "alluvium.open.files.max", 16, INT_MAX, open_files_max: u32,
        "Descriptors that the store keeps open; -1 for three quarters of the process's limit."
    ),
    number!("alluvium.maps.max", 0, INT_MAX, maps_max: u32, "Memory maps that the store keeps."),
    number!(
        "alluvium.index.memory.bytes", 65_536, LONG_MAX, index_memory_bytes: u64,
        "Memory for what is kept of indexes."
    ),
    optional_time!(
        "alluvium.idle.after.ms",
        idle_after,
        "A partition that nobody used for so long is closed until used."
    ),
    optional!(
        "alluvium.background.bytes.per.second", 1, LONG_MAX, background_bytes_per_second: NonZeroU64,
        "Bytes that all background work together may read and write."
    ),
    optional!(
        "alluvium.scrub.bytes.per.second", 1, LONG_MAX, scrub_bytes_per_second: NonZeroU64,
        "Bytes that the scrubber may read."
    ),
    time!(
        "alluvium.scrub.delay.ms",
        0,
        scrub_delay,
        "The first round of the scrubber begins no sooner after the store was opened."
    ),
    time!(
        "alluvium.scrub.interval.ms",
        0,
        scrub_interval,
        "A round of the scrubber begins no sooner after the one before it."
    ),
    number!(
        "alluvium.space.floor.bytes", 0, LONG_MAX, space_floor_bytes: u64,
        "Appends to a data directory are refused below this many free bytes."
    ),
    number!(
        "alluvium.space.floor.permille", 0, 1000, space_floor_permille: u16,
        "Appends are refused below this many thousandths of the file system, too."
    ),
    number!(
        "alluvium.space.margin.bytes", 0, LONG_MAX, space_margin_bytes: u64,
        "Appends go on when so many bytes above the floor are free."
    ),
    number!(
        "alluvium.reserve.bytes", 0, LONG_MAX, reserve_bytes: u64,
        "Space kept in each data directory for what must go on when the disk is full."
    ),
    time!("alluvium.close.deadline.ms", 0, close_deadline, "How long closing may take before it counts as unclean."),
    optional_time!(
        "alluvium.reopen.after.ms",
        reopen_after,
        "A partition that failed is opened again after so long, doubled each time; -1 for never."
    ),
    time!("alluvium.reopen.after.max.ms", 1, reopen_after_max, "The longest pause before a partition is opened again."),
    cleaner!(0),
    cleaner!(1),
    cleaner!(2),
    cleaner!(3),
    cleaner!(4),
    cleaner!(5),
    cleaner!(6),
    cleaner!(7),
    cleaner!(8),
    cleaner!(9),
];
