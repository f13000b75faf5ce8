//! Temporary.
use crate::config::LogConfig;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Data directories.
    pub directories: Vec<PathBuf>,
    /// Settings of partitions that have none of their own.
    pub default_log: LogConfig,
    /// Threads that recover, for each data directory.
    pub recovery_threads: usize,
    /// idle
    pub idle_after: Duration,
    /// housekeeping
    pub housekeeping_interval: Duration,
    /// checkpoints
    pub checkpoint_interval: Duration,
    /// deletes
    pub delete_delay: Duration,
    /// reopen
    pub reopen: Option<Reopening>,
}
/// When failed logs are opened again.
#[derive(Clone, Copy, Debug)]
pub struct Reopening {
    /// first
    pub first: Duration,
    /// longest
    pub longest: Duration,
}
impl Reopening {
    /// The pause before a reopening, after so many.
    pub fn pause(&self, before: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(before.min(31)).unwrap_or(u32::MAX)).min(self.longest)
    }
}
impl StoreConfig {
    /// defaults
    pub fn new<P: Into<PathBuf>>(directories: impl IntoIterator<Item = P>) -> Self {
        Self {
            directories: directories.into_iter().map(Into::into).collect(),
            default_log: LogConfig::default(),
            recovery_threads: 1,
            idle_after: Duration::from_secs(60),
            housekeeping_interval: Duration::from_millis(500),
            checkpoint_interval: Duration::from_secs(60),
            delete_delay: Duration::from_secs(60),
            reopen: None,
        }
    }
    /// ok
    pub fn validate(&self) -> Result<(), crate::error::ConfigError> {
        self.default_log.validate()
    }
}
