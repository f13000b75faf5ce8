//! Which settings a partition is opened with.

use std::fmt;
use std::sync::Arc;

use super::partition_id::TopicPartition;
use crate::config::LogConfig;

type Choose = dyn Fn(&TopicPartition) -> Option<LogConfig> + Send + Sync;

/// The embedder's word on the settings of each partition; the store's default for those of which it has none.
#[derive(Clone, Default)]
pub(super) struct ConfigOf(Option<Arc<Choose>>);

impl ConfigOf {
    pub(super) fn by(choose: impl Fn(&TopicPartition) -> Option<LogConfig> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(choose)))
    }

    pub(super) fn of(&self, partition: &TopicPartition, default: &Arc<LogConfig>) -> Arc<LogConfig> {
        let chosen = self.0.as_ref().and_then(|choose| choose(partition));
        // Equal settings are shared: thousands of partitions have the same.
        chosen.filter(|chosen| *chosen != **default).map_or_else(|| Arc::clone(default), Arc::new)
    }
}

impl fmt::Debug for ConfigOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "ConfigOf(embedder)" } else { "ConfigOf(default)" })
    }
}
