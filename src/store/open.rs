//! Opening a store.

use std::path::PathBuf;
use std::sync::Arc;

use super::cleaner::{CleaningEngine, LogCleaner};
use super::config::{StoreConfig, Workers};
use super::config_of::ConfigOf;
use super::directory::{Directory, Opened};
use super::loading::Loading;
use super::lock::DirectoryRegistry;
use super::meta::{Identity, MetaProperties};
use super::partition_id::TopicPartition;
use super::progress::Progress;
use super::report::{DirectoryReport, StoreReport};
use super::shared::Shared;
use super::store_error::StoreError;
use super::trace;
use super::{Owner, Store};
use crate::config::LogConfig;
use crate::error::IoFailure;
use crate::fs::{Descriptors, FileSystem, PooledFs};
use crate::log::Environment;
use crate::segment::{Residency, ResidencyLimits};

/// Threads of a store that are not one for each directory: housekeeper and scrubber.
const DUTIES: usize = 2;
/// More threads for syncs than this gain nothing.
const POOL_THREADS_MAX: u8 = 15;

/// How a store is opened: its settings, and what is wanted of the opening alone.
///
/// ```
/// use alluvium::store::{Progress, StoreConfig, StoreOpening, TopicPartition};
/// # let dir = tempfile::tempdir()?;
/// let progress = Progress::new();
/// let store = StoreOpening::new(StoreConfig::new(dir.path()))
///     .urgent([TopicPartition::new("__consumer_offsets", 0)?])
///     .progress(&progress)
///     .open()?;
/// assert_eq!(progress.now().done, 0, "there was nothing to recover");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct StoreOpening {
    config: StoreConfig,
    environment: Environment,
    /// The file system is the system's own.
    is_own: bool,
    registry: DirectoryRegistry,
    configs: ConfigOf,
    urgent: Vec<TopicPartition>,
    progress: Progress,
    /// Who cleans.
    engine: Arc<dyn CleaningEngine>,
}

impl StoreOpening {
    /// With these settings, on the system's files and clock.
    pub fn new(config: StoreConfig) -> Self {
        Self {
            config,
            environment: Environment::default(),
            is_own: true,
            registry: DirectoryRegistry::of_process(),
            configs: ConfigOf::default(),
            urgent: Vec::new(),
            progress: Progress::new(),
            engine: Arc::new(LogCleaner),
        }
    }

    /// With another cleaner than the crate's.
    #[cfg(test)]
    pub(super) fn engine(mut self, engine: Arc<dyn CleaningEngine>) -> Self {
        self.engine = engine;
        self
    }

    /// On another file system and clock. Its directories are not those of the process: one that is open in another
    /// store is told by its lock alone.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self.is_own = false;
        self.registry = DirectoryRegistry::separate();
        self
    }

    /// Which settings a partition has, where they are not the default ones. Called once for each partition found.
    pub fn configs(mut self, of: impl Fn(&TopicPartition) -> Option<LogConfig> + Send + Sync + 'static) -> Self {
        self.configs = ConfigOf::by(of);
        self
    }

    /// The partitions to be opened before all others, the first one first. Those that are not there are passed over.
    pub fn urgent(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.urgent = partitions.into_iter().collect();
        self
    }

    /// Who is told how far the opening is.
    pub fn progress(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// Opens the store: locks its directories, recovers what was not closed cleanly, several partitions at a time, and
    /// starts the workers that the settings ask for. A partition that cannot be opened, or a directory whose disk fails,
    /// is in the [report](Store::report); the others are served.
    ///
    /// # Errors
    /// [`StoreError`]: settings, a lock that somebody holds, directories of different nodes, or no directory that can be
    /// served. Nothing but locks is held and nothing is changed then.
    pub fn open(self) -> Result<Store, StoreError> {
        trace::Opening::begin(self.config.directories.len()).within(|| self.open_all())
    }

    fn open_all(mut self) -> Result<Store, StoreError> {
        self.config.validate()?;
        let (descriptors, residency) = self.budgets();
        self.environment.fs = Arc::new(descriptors.clone());
        self.progress.start(&self.environment.clock, &residency);
        let mut lost = Vec::new();
        let mut found = Vec::new();
        for path in self.config.directories.clone() {
            match Directory::open(&self.environment, &self.config, &path, &self.registry) {
                Ok((directory, opened)) => found.push((Arc::new(directory), opened)),
                // A disk that is broken must not keep the others from being served; anything else is a mistake.
                Err(error) => match error.io() {
                    Some(failure) => lost.push((path, failure.clone())),
                    None => return Err(error),
                },
            }
        }
        if found.is_empty() {
            return Err(lost.pop().map_or(StoreError::NoDirectory, |(_, failure)| failure.into()));
        }
        verify_identity(&found)?;
        self.serve(found, lost, descriptors, residency)
    }

    /// What bounds the store's descriptors, maps and memory for indexes.
    fn budgets(&self) -> (Descriptors, Arc<Residency>) {
        let files = u64::from(self.config.open_files());
        let limits = ResidencyLimits {
            // The rest is for active segments and for what is open for a moment.
            files: files / 2,
            maps: self.config.maps_max.into(),
            index_bytes: self.config.index_memory_bytes,
        };
        let residency = Residency::new(limits);
        let inner: Arc<dyn FileSystem> =
            if self.is_own { Arc::new(self.pool()) } else { Arc::clone(&self.environment.fs) };
        let descriptors = Descriptors::new(inner, files);
        let relief = Arc::clone(&residency);
        descriptors.set_relief(move |count| relief.release_files(count));
        (descriptors, residency)
    }

    /// The system's file system, with as many threads for its syncs as the settings leave beside the workers.
    fn pool(&self) -> PooledFs {
        let Some(max) = self.config.threads_max else { return PooledFs::new() };
        let workers = match self.config.workers {
            Workers::Threads => self.config.directories.len() + DUTIES + self.cleaners(),
            Workers::Tick => 0,
        };
        let left = max.saturating_sub(u32::try_from(workers).unwrap_or(u32::MAX));
        PooledFs::with_threads_max(u8::try_from(left).unwrap_or(u8::MAX).min(POOL_THREADS_MAX))
    }

    /// Threads that clean, and the stand-in.
    fn cleaners(&self) -> usize {
        let config = &self.config.cleaner;
        if config.enabled { usize::try_from(config.threads).unwrap_or(usize::MAX).saturating_add(1) } else { 0 }
    }

    fn serve(
        self,
        found: Vec<(Arc<Directory>, Opened)>,
        lost: Vec<(PathBuf, IoFailure)>,
        descriptors: Descriptors,
        residency: Arc<Residency>,
    ) -> Result<Store, StoreError> {
        let mut directories: Vec<Arc<Directory>> = found.iter().map(|(directory, _)| Arc::clone(directory)).collect();
        let mut report = StoreReport::default();
        for (path, failure) in lost {
            directories.push(Arc::new(Directory::broken(&self.environment, &self.config, &path, failure.clone())));
            report.directories.push(DirectoryReport {
                dir: path,
                offline: Some(failure),
                ..DirectoryReport::default()
            });
        }
        directories.sort_by_key(|known| self.config.directories.iter().position(|named| **named == *known.path));
        let shared = Arc::new(Shared::new(
            self.config,
            (self.environment, descriptors),
            residency,
            self.registry,
            directories,
            self.engine,
        ));
        let loading =
            Loading { shared: &shared, configs: &self.configs, urgent: &self.urgent, progress: &self.progress };
        for (directory, _) in &found {
            let _ = shared.enter(directory);
        }
        let refused = shared.recover_moves(&shared.directories);
        for (directory, opened) in found {
            let loaded = shared.judge(&directory, loading.load(&directory, opened, &refused));
            let mut line = loaded.unwrap_or_default();
            line.dir = directory.path.to_path_buf();
            line.offline = directory.failure();
            report.directories.push(line);
        }
        self.progress.finish();
        report.directories.sort_by_key(|line| shared.directories.iter().position(|known| *known.path == *line.dir));
        let owner = Owner::start(&shared)?;
        Ok(Store { shared, owner: Arc::new(owner), report: Arc::new(report), configs: self.configs })
    }
}

/// Directories that say whose they are must all be one node's.
fn verify_identity(found: &[(Arc<Directory>, Opened)]) -> Result<(), StoreError> {
    let named: Vec<(PathBuf, MetaProperties)> = found
        .iter()
        .filter_map(|(directory, opened)| Some((directory.path.to_path_buf(), opened.meta.clone()?)))
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    Identity::default().verify(&named)?;
    Ok(())
}
