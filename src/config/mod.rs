//! Settings are plain data. `validate` refuses what is out of range; nothing is ever clamped.
//!
//! ```text
//! mod.rs         LogConfig, its defaults and what can be asked of it
//! choices.rs     settings that are one of a few words, and small types
//! table.rs       every key with default, range, meaning and field: the one place that knows them
//! keys.rs        how a key's value is parsed, printed and checked
//! properties.rs  the syntax of Java's properties
//! parsed.rs      from a text of properties to a config: synonyms, precedence, what is ignored
//! ```

mod choices;
mod keys;
mod parsed;
mod properties;
mod table;
#[cfg(test)]
mod tests;

pub use choices::{
    CleanupPolicy, CompressionPolicy, DirtyRatio, FlushPolicy, HighWatermarkMode, OnDamage, ReadMode, RetentionBasis,
    TimestampType,
};
pub(crate) use keys::shown;
pub use keys::{Bounds, KeyDoc, Synonym, Values};
pub(crate) use parsed::is_log_key;
pub use parsed::{IgnoredKey, IgnoredReason, ParsedConfig};
pub(crate) use properties::{Property, parse as parse_properties};

use crate::error::ConfigError;

/// Settings of one partition log. Field names follow Kafka's topic settings, with `.` as `_`; defaults are Kafka 4's.
///
/// It is plain data: settings come into force when a log is opened with them, or by
/// [`PartitionLog::update_config`](crate::PartitionLog::update_config), and nothing of them is stored with the log.
/// [`describe`](Self::describe) lists every key with its range.
///
/// ```
/// use alluvium::LogConfig;
/// let config = LogConfig { segment_bytes: 64 << 20, ..LogConfig::default() };
/// config.validate().unwrap();
/// assert!(LogConfig { segment_bytes: 3, ..LogConfig::default() }.validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment rolls before it grows past this. 14 to `i32::MAX`, default 1 GiB.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment rolls when its first batch is this much older than the append's newest timestamp.
    /// 1 to `i64::MAX` ms, default 7 days. In compacted logs see [`LogConfig::roll_ms`].
    pub segment_ms: u64,
    /// `segment.jitter.ms`: up to this much is taken off `segment_ms`, another amount for each segment, so that many
    /// logs do not roll at once. Up to `i64::MAX` ms, default 0.
    pub segment_jitter_ms: u64,
    /// `segment.index.bytes`: bound on the size of each index; a segment rolls when one is full. 24 to `i32::MAX`,
    /// default 10 MiB.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: an index entry is written when more than this many bytes came since the last.
    /// 0 to `i32::MAX`, default 4,096.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`: largest batch, header included, taken from a client. 0 to `i32::MAX`, default 1,048,588.
    /// Stored batches stay readable whatever it is set to.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`: keep the producers' timestamps or stamp the time of the append.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far in the past a client's timestamp may lie. Up to `i64::MAX`, the default.
    pub message_timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`: how far in the future a client's timestamp may lie. Up to `i64::MAX`, default
    /// 1 hour (KIP-1030).
    pub message_timestamp_after_max_ms: u64,
    /// `cleanup.policy`: in compacted logs every record needs a key, and gaps between segments are ordinary.
    pub cleanup_policy: CleanupPolicy,
    /// `retention.bytes`: the oldest segments are deleted while the log would still hold this many bytes without them.
    /// Up to `i64::MAX`, default `None`: no limit (-1 in properties).
    pub retention_bytes: Option<u64>,
    /// `retention.ms`: segments older than this are deleted. Up to `i64::MAX`, default 7 days. `None`: no limit (-1 in
    /// properties).
    pub retention_ms: Option<u64>,
    /// `alluvium.retention.basis`: what `retention_ms` counts a segment's age from. Default the records' timestamps.
    pub retention_basis: RetentionBasis,
    /// `file.delete.delay.ms`: how long the files of a deleted segment stay under their other name. Up to `i64::MAX`,
    /// default 1 minute.
    pub file_delete_delay_ms: u64,
    /// `delete.retention.ms`: how long tombstones and transaction markers are kept after the cleaner first meets them.
    /// Up to `i64::MAX`, default 1 day.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`: for so long a record is not compacted away. At most `max_compaction_lag_ms`, default 0.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`: after so long a record must be up for compaction (KIP-354). 1 to `i64::MAX`, the default.
    pub max_compaction_lag_ms: u64,
    /// `min.cleanable.dirty.ratio`: the share of a compacted log that must be dirty before it is cleaned. Default 0.5.
    pub min_cleanable_dirty_ratio: DirtyRatio,
    /// `compression.type` and the level of its codec: what appended batches are compressed with. Default as they come.
    pub compression: CompressionPolicy,
    /// `alluvium.high.watermark`: who moves the high watermark. Default every append.
    pub high_watermark: HighWatermarkMode,
    /// `producer.id.expiration.ms`: an idle producer's state is dropped after this. 1 to `i64::MAX`, default 1 day.
    pub producer_id_expiration_ms: u64,
    /// `alluvium.producers.max`: bound on the producers whose state is kept in memory. 1 to 10,000,000, default 100,000.
    pub producers_max: u32,
    /// `transaction.partition.verification.enable`: a producer's first transactional batch needs a verification that was
    /// issued beforehand (KIP-890). Default true.
    pub transaction_partition_verification_enable: bool,
    /// `flush.messages`, `flush.ms` and `alluvium.flush.*`: when unsynced bytes are made durable although nobody waits
    /// for it.
    pub flush: FlushPolicy,
    /// `alluvium.read.mode`: how sealed segments are read.
    pub read_mode: ReadMode,
    /// `alluvium.on.damage`: what opening does with damage below the recovery point.
    pub on_damage: OnDamage,
    /// `alluvium.max.decompressed.bytes`: largest decompressed size of a client's batch; a bound against decompression
    /// bombs. 1 KiB to 2 GiB, default 256 MiB.
    pub max_decompressed_bytes: u32,
    /// `alluvium.zero.ahead.bytes`: zero-written bytes kept ahead of the append position while durable appends come in;
    /// they turn a sync into a data-only write. 0 turns it off. Up to 1 GiB, default 4 MiB.
    pub zero_ahead_bytes: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX as u64,
            message_timestamp_after_max_ms: 3_600_000,
            cleanup_policy: CleanupPolicy::Delete,
            retention_bytes: None,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_basis: RetentionBasis::RecordTime,
            file_delete_delay_ms: 60_000,
            delete_retention_ms: 24 * 3600 * 1000,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX as u64,
            min_cleanable_dirty_ratio: DirtyRatio::default(),
            compression: CompressionPolicy::Producer,
            high_watermark: HighWatermarkMode::LogEnd,
            producer_id_expiration_ms: 24 * 3600 * 1000,
            producers_max: 100_000,
            transaction_partition_verification_enable: true,
            flush: FlushPolicy::default(),
            read_mode: ReadMode::Positional,
            on_damage: OnDamage::Quarantine,
            max_decompressed_bytes: 256 << 20,
            zero_ahead_bytes: 4 << 20,
        }
    }
}

impl LogConfig {
    /// Refuses values out of range, naming key, value and range, and settings that contradict one another.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first such key of [`describe`](Self::describe)'s order;
    /// [`ConfigError::Contradiction`] when `min_compaction_lag_ms` is larger than `max_compaction_lag_ms`, which Kafka
    /// refuses too (`LogConfig.validateValues`).
    pub fn validate(&self) -> Result<(), ConfigError> {
        for key in table::KEYS {
            key.check(self)?;
        }
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(ConfigError::Contradiction {
                lower: "min.compaction.lag.ms",
                lower_value: self.min_compaction_lag_ms,
                upper: "max.compaction.lag.ms",
                upper_value: self.max_compaction_lag_ms,
            });
        }
        Ok(())
    }

    /// Every key with its type, default, range and meaning, in a fixed order.
    ///
    /// ```
    /// for key in alluvium::LogConfig::describe() {
    ///     println!("{} ({}, default {}, one of {}): {}", key.name, key.kind(), key.default, key.values, key.doc);
    /// }
    /// ```
    pub fn describe() -> &'static [KeyDoc] {
        table::KEYS
    }

    /// Every key with its value as text, in the order of [`describe`](Self::describe). The entries of a valid config,
    /// parsed, make an equal one.
    ///
    /// ```
    /// use alluvium::LogConfig;
    /// let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() };
    /// assert!(config.entries().any(|entry| entry == ("segment.bytes", "1048576".to_owned())));
    /// let text: String = config.entries().map(|(key, value)| format!("{key}={value}\n")).collect();
    /// assert_eq!(LogConfig::from_kafka_properties(&text).unwrap().config, config);
    /// ```
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        table::KEYS.iter().map(|key| (key.name, key.value_of(self)))
    }

    /// How old a segment's first batch may grow before the next append rolls, in milliseconds, jitter not yet taken off:
    /// `segment_ms`, in compacted logs no more than `max_compaction_lag_ms`, since the active segment is never compacted
    /// (Kafka's `LogConfig.maxSegmentMs`).
    ///
    /// ```
    /// use alluvium::{CleanupPolicy, LogConfig};
    /// let config = LogConfig { segment_ms: 100, max_compaction_lag_ms: 30, ..LogConfig::default() };
    /// assert_eq!(config.roll_ms(), 100);
    /// assert_eq!(LogConfig { cleanup_policy: CleanupPolicy::Compact, ..config }.roll_ms(), 30);
    /// ```
    pub fn roll_ms(&self) -> u64 {
        if self.cleanup_policy.compacts() { self.segment_ms.min(self.max_compaction_lag_ms) } else { self.segment_ms }
    }
}
