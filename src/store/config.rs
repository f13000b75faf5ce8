//! Settings of a store: plain data with Kafka's names where Kafka has one. `validate` refuses; nothing is clamped.
//!
//! Kafka's keys, defaults and ranges are those of Kafka 4 (`ServerLogConfigs`, `ReplicationConfigs`); ours begin with
//! `alluvium.`. One table knows all of them, [`StoreConfig::describe`]. What a log is opened with is a [`LogConfig`] of
//! its own; keys for topics that stand in a broker's properties become the store's default for it.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::config_keys::KEYS;
pub use super::config_keys::StoreKey;
use super::space::SpaceLimits;
use crate::clean::{CLEANER_FLAGS, CleanerConfig};
use crate::config::{IgnoredKey, IgnoredReason, LogConfig, Property, is_log_key, parse_properties, shown};
use crate::error::ConfigError;
use crate::fs::open_files_limit;

const LOG_DIRS: &str = "log.dirs";
const LOG_DIR: &str = "log.dir";
const WORKERS: &str = "alluvium.workers";
const FAILURE_TIMEOUT: &str = "log.dir.failure.timeout.ms";
const CLEANER_RATE: &str = "log.cleaner.io.max.bytes.per.second";
const NO_FAILURE_TIMEOUT: &str = "it ends a broker that no controller heard of a failed directory; \
    subscribe to the store's events instead";
/// Descriptors for a store where the system does not say how many there may be: half of what systems allow at least.
const OPEN_FILES_FALLBACK: u32 = 512;

/// Who does the store's background work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// Threads of the store's own: a flusher for each directory, a housekeeper, a scrubber.
    #[default]
    Threads,
    /// Nobody, until the embedder calls the store's `tick`.
    Tick,
}

/// Settings of a store, all of its directories and partitions. Plain data.
///
/// ```
/// use alluvium::store::config::StoreConfig;
/// let config = StoreConfig { recovery_threads: 8, ..StoreConfig::new("/data/a") };
/// config.validate().unwrap();
/// assert!(StoreConfig { recovery_threads: 0, ..config }.validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// `log.dirs`, `log.dir`: the data directories, one or more, none within another.
    pub directories: Vec<PathBuf>,
    /// What a partition is opened with that has no settings of its own.
    pub default_log: LogConfig,
    /// `alluvium.workers`: `threads`, the default, or `tick`.
    pub workers: Workers,
    /// `log.cleaner.*`, `alluvium.cleaner.*`: how compacted partitions are cleaned.
    pub cleaner: CleanerConfig,
    /// `alluvium.threads.max`: bound on the store's background threads, 1 to 4,096. Default none: there are as many as
    /// roles, which grow with the directories alone.
    pub threads_max: Option<u32>,
    /// `num.recovery.threads.per.data.dir`: threads that open partitions, for each directory. 1 to 4,096, default 2
    /// (KIP-1030).
    pub recovery_threads: u32,
    /// `log.retention.check.interval.ms`: how often retention is applied. 1 ms or more, default 5 minutes.
    pub retention_check_interval: Duration,
    /// `log.flush.offset.checkpoint.interval.ms`: how often the recovery points are written for Kafka to find. Default
    /// 1 minute.
    pub recovery_checkpoint_interval: Duration,
    /// `log.flush.start.offset.checkpoint.interval.ms`: how often the log starts are. Default 1 minute.
    pub start_checkpoint_interval: Duration,
    /// `replica.high.watermark.checkpoint.interval.ms`: how often the high watermarks are. Default 5 seconds.
    pub high_watermark_checkpoint_interval: Duration,
    /// `alluvium.housekeeping.interval.ms`: how often the housekeeper looks at what time brings about: rolls, idle
    /// partitions, files to be unlinked. 1 ms or more, default 1 second: no setting of Kafka's asks for finer.
    pub housekeeping_interval: Duration,
    /// `alluvium.open.files.max`: descriptors that the store keeps open, 16 or more. Default none: three quarters of the
    /// process's limit, see [`open_files`](Self::open_files).
    pub open_files_max: Option<u32>,
    /// `alluvium.maps.max`: memory maps that the store keeps, 0 or more. Default 32,000: half of what Linux allows a
    /// process (`vm.max_map_count`), since the allocator and the embedder map, too.
    pub maps_max: u32,
    /// `alluvium.index.memory.bytes`: memory for what is kept of indexes. 64 KiB or more, default 256 MiB: the indexes of
    /// some ten thousand segments that are read at a time.
    pub index_memory_bytes: u64,
    /// `alluvium.idle.after.ms`: a partition that nobody used for so long is closed until somebody does. 1 ms or more, `None`
    /// (-1) for never, default 1 minute.
    pub idle_after: Option<Duration>,
    /// `alluvium.background.bytes.per.second`: bytes that all background work together may read and write. Default
    /// none (-1), as Kafka does not hold its cleaner back either.
    pub background_bytes_per_second: Option<NonZeroU64>,
    /// `alluvium.scrub.bytes.per.second`: bytes that the scrubber may read. `None` (-1) is no limit. Default 16 MiB: over
    /// a tebibyte a day, which no disk notices.
    pub scrub_bytes_per_second: Option<NonZeroU64>,
    /// `alluvium.scrub.delay.ms`: the first round over all partitions begins no sooner after the store was opened. Default
    /// 10 minutes: a start has better things to do.
    pub scrub_delay: Duration,
    /// `alluvium.scrub.interval.ms`: a round begins no sooner after the one before it. Default 1 day.
    pub scrub_interval: Duration,
    /// `alluvium.space.floor.bytes`: appends to a directory are refused below this many free bytes. Default 256 MiB: room
    /// for the segments' indexes and for a compaction's output.
    pub space_floor_bytes: u64,
    /// `alluvium.space.floor.permille`: and below this many thousandths of its file system, 0 to 1,000. Default 0: on a
    /// large disk any share is much.
    pub space_floor_permille: u16,
    /// `alluvium.space.margin.bytes`: appends go on when so many bytes more are free. Default 64 MiB.
    pub space_margin_bytes: u64,
    /// `alluvium.reserve.bytes`: space kept in each directory for checkpoints, retention and cleaner on a full disk. 0 is
    /// no reserve. Default 16 MiB: the checkpoints of ten thousand partitions take two.
    pub reserve_bytes: u64,
    /// `alluvium.close.deadline.ms`: how long `Store::shut_down` may take before the rest counts as unclean. Default 30 seconds: half of what
    /// service managers wait before they kill.
    pub close_deadline: Duration,
    /// `alluvium.reopen.after.ms`: a partition that failed is opened again after so long, doubled with each failure.
    /// 1 ms or more. Default `None` (-1): it stays closed until the embedder says so, since a failed sync means that
    /// somebody should look at the disk.
    pub reopen_after: Option<Duration>,
    /// `alluvium.reopen.after.max.ms`: the longest such pause, no less than `reopen_after`. Default 1 minute.
    pub reopen_after_max: Duration,
}

impl StoreConfig {
    /// The defaults, with one directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directories: vec![directory.into()], ..Self::default() }
    }

    /// Refuses values out of range, naming key, value and range, and settings that contradict one another.
    ///
    /// # Errors
    /// [`StoreConfigError`]. Directories are compared as they are written: two names of one directory are found when the
    /// store is opened.
    pub fn validate(&self) -> Result<(), StoreConfigError> {
        for key in KEYS {
            key.check(self)?;
        }
        self.cleaner.validate()?;
        self.default_log.validate()?;
        if let Some(first) = self.reopen_after.filter(|first| *first > self.reopen_after_max) {
            let millis = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let (lower_value, upper_value) = (millis(first), millis(self.reopen_after_max));
            let (lower, upper) = ("alluvium.reopen.after.ms", "alluvium.reopen.after.max.ms");
            return Err(ConfigError::Contradiction { lower, lower_value, upper, upper_value }.into());
        }
        check_directories(&self.directories)
    }

    /// Every key with a number, its range and meaning, in a fixed order. Beside these there are `log.dirs`, `log.dir`,
    /// `alluvium.workers`, those of [`describe_flags`](Self::describe_flags), and the keys of [`LogConfig::describe`].
    ///
    /// ```
    /// use alluvium::store::config::StoreConfig;
    /// let config = StoreConfig::new("/data");
    /// for key in StoreConfig::describe() {
    ///     println!("{} = {} ({}..={}): {}", key.name, key.value_of(&config), key.min, key.max, key.doc);
    /// }
    /// ```
    pub fn describe() -> &'static [StoreKey] {
        KEYS
    }

    /// Every key that is `true` or `false`, with its value here and its meaning.
    ///
    /// ```
    /// use alluvium::store::config::StoreConfig;
    /// let config = StoreConfig::new("/data");
    /// assert!(config.describe_flags().any(|(key, value, _)| (key, value) == ("log.cleaner.enable", true)));
    /// ```
    pub fn describe_flags(&self) -> impl Iterator<Item = (&'static str, bool, &'static str)> + '_ {
        CLEANER_FLAGS.iter().map(|flag| (flag.name, (flag.read)(&self.cleaner), flag.doc))
    }

    /// Reads settings from a broker's properties: the store's own keys, and as [`default_log`](Self::default_log) all that
    /// [`LogConfig::from_kafka_properties`] takes. Of `log.dirs` and `log.dir` the former binds; Kafka's default,
    /// `/tmp/kafka-logs`, is not taken, since what stands there does not last.
    ///
    /// ```
    /// use alluvium::store::config::StoreConfig;
    /// let text = "node.id=1\nlog.dirs=/data/a, /data/b\nlog.retention.hours=1\nnum.recovery.threads.per.data.dir=4";
    /// let parsed = StoreConfig::from_kafka_properties(text).unwrap();
    /// assert_eq!(parsed.config.directories.len(), 2);
    /// assert_eq!(parsed.config.recovery_threads, 4);
    /// assert_eq!(parsed.config.default_log.retention_ms, Some(3_600_000));
    /// assert_eq!(parsed.others, ["node.id"]);
    /// ```
    ///
    /// # Errors
    /// [`StoreConfigError`]: as [`validate`](Self::validate), and [`ConfigError`] for a text that is no properties, a key
    /// that stands there twice, a value that is none, and an unknown key that begins with `log.` or `alluvium.`. Any other
    /// unknown key is one of a broker's many and is named in [`ParsedStoreConfig::others`].
    pub fn from_kafka_properties(text: &str) -> Result<ParsedStoreConfig, StoreConfigError> {
        let mut parsed = ParsedStoreConfig { config: Self::default(), ignored: Vec::new(), others: Vec::new() };
        let (mut seen, mut of_logs) = (Vec::new(), Vec::new());
        let mut dirs: [Option<String>; 2] = [None, None];
        for property in parse_properties(text)? {
            let Some(name) = store_key(&property.key) else {
                let is_for_logs = is_log_key(&property.key) || is_in_our_names(&property.key);
                if is_for_logs {
                    of_logs.push(property);
                } else {
                    parsed.others.push(shown(&property.key));
                }
                continue;
            };
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) {
                return Err(ConfigError::Duplicate { key: name, first: *first, second: property.line }.into());
            }
            seen.push((name, property.line));
            match name {
                LOG_DIRS => dirs[0] = Some(property.value),
                LOG_DIR => dirs[1] = Some(property.value),
                _ => parsed.set(name, &property)?,
            }
        }
        parsed.set_directories(dirs);
        let logs = LogConfig::from_properties(of_logs)?;
        parsed.config.default_log = logs.config;
        parsed.ignored.extend(logs.ignored);
        parsed.ignored.sort_by_key(|ignored| ignored.key);
        parsed.config.validate()?;
        Ok(parsed)
    }

    /// How many descriptors the store may keep open: what is set, or three quarters of the soft limit that the process has
    /// now (`RLIMIT_NOFILE`). The rest is for sockets and for whatever else the embedder opens.
    pub fn open_files(&self) -> u32 {
        self.open_files_max.unwrap_or_else(|| open_files_limit().map_or(OPEN_FILES_FALLBACK, open_files_within))
    }

    /// `file.delete.delay.ms`: how long the directory of a deleted partition stays under its other name. As in Kafka, it is
    /// the default of the logs.
    pub fn delete_delay(&self) -> Duration {
        Duration::from_millis(self.default_log.file_delete_delay_ms)
    }

    /// What the space of each directory is held to.
    pub fn space_limits(&self) -> SpaceLimits {
        SpaceLimits {
            floor_bytes: self.space_floor_bytes,
            floor_permille: self.space_floor_permille,
            margin_bytes: self.space_margin_bytes,
            reserve_bytes: self.reserve_bytes,
        }
    }
}

impl Default for StoreConfig {
    /// Without a directory, which has to be set.
    fn default() -> Self {
        Self {
            directories: Vec::new(),
            default_log: LogConfig::default(),
            workers: Workers::Threads,
            cleaner: CleanerConfig::default(),
            threads_max: None,
            recovery_threads: 2,
            retention_check_interval: Duration::from_mins(5),
            recovery_checkpoint_interval: Duration::from_mins(1),
            start_checkpoint_interval: Duration::from_mins(1),
            high_watermark_checkpoint_interval: Duration::from_secs(5),
            housekeeping_interval: Duration::from_secs(1),
            open_files_max: None,
            maps_max: 32_000,
            index_memory_bytes: 256 << 20,
            idle_after: Some(Duration::from_mins(1)),
            background_bytes_per_second: None,
            scrub_bytes_per_second: NonZeroU64::new(16 << 20),
            scrub_delay: Duration::from_mins(10),
            scrub_interval: Duration::from_hours(24),
            space_floor_bytes: 256 << 20,
            space_floor_permille: 0,
            space_margin_bytes: 64 << 20,
            reserve_bytes: 16 << 20,
            close_deadline: Duration::from_secs(30),
            reopen_after: None,
            reopen_after_max: Duration::from_mins(1),
        }
    }
}

/// What a broker's properties say. See [`StoreConfig::from_kafka_properties`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedStoreConfig {
    /// The settings, valid. What the text does not name has its default.
    pub config: StoreConfig,
    /// Keys that are known and changed nothing, by name.
    pub ignored: Vec<IgnoredKey>,
    /// Keys that say nothing to a store, in the order of the text: a broker's listeners, replication, and so on. A
    /// misspelt topic key is among them.
    pub others: Vec<String>,
}

impl ParsedStoreConfig {
    fn set(&mut self, name: &'static str, property: &Property) -> Result<(), ConfigError> {
        let text = property.value.trim();
        match name {
            FAILURE_TIMEOUT => self.ignore(name, text, IgnoredReason::NoEffect(NO_FAILURE_TIMEOUT)),
            WORKERS => {
                self.config.workers = match text {
                    "threads" => Workers::Threads,
                    "tick" => Workers::Tick,
                    _ => {
                        let allowed = &["threads", "tick"];
                        return Err(ConfigError::NotOneOf { key: name, value: shown(text), allowed });
                    }
                };
            }
            _ => {
                if let Some(key) = KEYS.iter().find(|key| key.name == name) {
                    let is_rate = name == CLEANER_RATE;
                    key.set(&if is_rate { whole_rate(text) } else { text.into() }, &mut self.config)?;
                }
                if let Some(flag) = CLEANER_FLAGS.iter().find(|flag| flag.name == name) {
                    let allowed = &["false", "true"];
                    let value = text.to_ascii_lowercase().parse();
                    let refused = |_| ConfigError::NotOneOf { key: name, value: shown(text), allowed };
                    (flag.write)(&mut self.config.cleaner, value.map_err(refused)?);
                }
            }
        }
        Ok(())
    }

    fn set_directories(&mut self, [several, one]: [Option<String>; 2]) {
        if let (Some(_), Some(one)) = (&several, &one) {
            self.ignore(LOG_DIR, one, IgnoredReason::OverriddenBy(LOG_DIRS));
        }
        let text = several.or(one).unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        self.config.directories = names.map(PathBuf::from).collect();
    }

    fn ignore(&mut self, key: &'static str, value: &str, reason: IgnoredReason) {
        self.ignored.push(IgnoredKey { key, value: shown(value), reason });
    }
}

/// Our own spelling of a key that is the store's.
fn store_key(key: &str) -> Option<&'static str> {
    let others = [LOG_DIRS, LOG_DIR, WORKERS, FAILURE_TIMEOUT];
    let flags = CLEANER_FLAGS.iter().map(|flag| flag.name);
    others.into_iter().chain(KEYS.iter().map(|known| known.name)).chain(flags).find(|known| *known == key)
}

/// Kafka's rate is a floating-point number, whose largest, the default, is no limit. Others lose their fraction.
fn whole_rate(text: &str) -> Cow<'_, str> {
    const NO_LIMIT_FROM: f64 = 9.2e18;
    match text.parse::<f64>() {
        Ok(rate) if text.parse::<i128>().is_err() && rate.is_finite() => {
            if rate >= NO_LIMIT_FROM {
                "-1".into()
            } else {
                format!("{:.0}", rate.trunc()).into()
            }
        }
        _ => text.into(),
    }
}

/// An unknown key of this kind is a mistake, and the log's settings refuse it.
fn is_in_our_names(key: &str) -> bool {
    key.starts_with("log.") || key.starts_with("alluvium.")
}

fn open_files_within(limit: u64) -> u32 {
    const LEAST: u32 = 16;
    u32::try_from(limit / 4 * 3).unwrap_or(u32::MAX).clamp(LEAST, i32::MAX.unsigned_abs())
}

/// Why settings of a store are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreConfigError {
    /// A key, its value, or the text that it stands in.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// There is no data directory.
    #[error("no data directory is named; set log.dirs")]
    NoDirectory,
    /// A directory stands there twice.
    #[error("{} is named twice; name each data directory once", dir.display())]
    SameDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// A directory lies within another, where it would be taken for something unknown.
    #[error("{} lies within {}; put data directories beside one another", inner.display(), outer.display())]
    NestedDirectory {
        /// The outer one.
        outer: PathBuf,
        /// The one within it.
        inner: PathBuf,
    },
}

fn check_directories(directories: &[PathBuf]) -> Result<(), StoreConfigError> {
    if directories.is_empty() {
        return Err(StoreConfigError::NoDirectory);
    }
    let mut sorted: Vec<(Vec<Component<'_>>, &Path)> =
        directories.iter().map(|dir| (dir.components().collect(), dir.as_path())).collect();
    // What lies within a directory comes right after it, or after others that do.
    sorted.sort();
    for pair in sorted.windows(2) {
        let [(outer_parts, outer), (inner_parts, inner)] = pair else { continue };
        if outer_parts == inner_parts {
            return Err(StoreConfigError::SameDirectory { dir: inner.to_path_buf() });
        }
        if inner_parts.starts_with(outer_parts) {
            return Err(StoreConfigError::NestedDirectory { outer: outer.to_path_buf(), inner: inner.to_path_buf() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
