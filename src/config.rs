//! Configuration is plain data. `validate` refuses what is out of range; nothing is ever clamped.

use std::time::Duration;

use crate::error::ConfigError;

/// Settings of one partition log. Field names follow Kafka's topic settings, with `.` as `_`; defaults are Kafka's.
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
    /// At least 1 ms, default 7 days.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: up to this much is taken off `segment_ms`, another amount for each segment, so that many
    /// logs do not roll at once. Default 0.
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
    /// `message.timestamp.before.max.ms`: how far in the past a client's timestamp may lie. Default unbounded.
    pub message_timestamp_before_max_ms: u64,
    /// `message.timestamp.after.max.ms`: how far in the future a client's timestamp may lie. Default 1 hour (KIP-1030).
    pub message_timestamp_after_max_ms: u64,
    /// `cleanup.policy`: in compacted logs every record needs a key, and gaps between segments are ordinary.
    pub cleanup_policy: CleanupPolicy,
    /// When unsynced bytes are made durable although nobody waits for it.
    pub flush: FlushPolicy,
    /// How sealed segments are read.
    pub read_mode: ReadMode,
    /// What opening does with damage below the recovery point.
    pub on_damage: OnDamage,
    /// Largest decompressed size of a client's batch; a bound against decompression bombs. 1 KiB to 2 GiB,
    /// default 256 MiB.
    pub max_decompressed_bytes: u32,
    /// Zero-written bytes kept ahead of the append position while durable appends come in; they turn a sync into a
    /// data-only write. 0 turns it off. Up to 1 GiB, default 4 MiB.
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
            flush: FlushPolicy::default(),
            read_mode: ReadMode::Positional,
            on_damage: OnDamage::Quarantine,
            max_decompressed_bytes: 256 << 20,
            zero_ahead_bytes: 4 << 20,
        }
    }
}

impl LogConfig {
    /// Refuses values out of range, naming key, value and range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let int_max = i64::from(i32::MAX);
        let checks = [
            ("segment.bytes", i64::from(self.segment_bytes), 14, int_max),
            ("segment.ms", signed(self.segment_ms), 1, i64::MAX - 1),
            ("segment.jitter.ms", signed(self.segment_jitter_ms), 0, i64::MAX - 1),
            ("segment.index.bytes", i64::from(self.segment_index_bytes), 24, int_max),
            ("index.interval.bytes", i64::from(self.index_interval_bytes), 0, int_max),
            ("max.message.bytes", i64::from(self.max_message_bytes), 0, int_max),
            ("message.timestamp.before.max.ms", signed(self.message_timestamp_before_max_ms), 0, i64::MAX),
            ("message.timestamp.after.max.ms", signed(self.message_timestamp_after_max_ms), 0, i64::MAX),
            ("max_decompressed_bytes", i64::from(self.max_decompressed_bytes), 1024, 2 << 30),
            ("zero_ahead_bytes", i64::from(self.zero_ahead_bytes), 0, 1 << 30),
            ("flush.messages", signed(self.flush.after_records.unwrap_or(1)), 1, i64::MAX - 1),
            ("flush.after_bytes", signed(self.flush.after_bytes.unwrap_or(1)), 1, i64::MAX - 1),
            ("flush.max_waiting", i64::from(self.flush.max_waiting), 1, int_max),
        ];
        for (key, value, min, max) in checks {
            if value < min || value > max {
                return Err(ConfigError { key, value, min, max });
            }
        }
        Ok(())
    }
}

/// Clamps for comparison only: a value past `i64::MAX` is out of every range above.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's timestamps are kept.
    #[default]
    CreateTime,
    /// Every record of a batch bears the time of its append.
    LogAppendTime,
}

/// `cleanup.policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupPolicy {
    /// Old segments are deleted.
    #[default]
    Delete,
    /// Superseded records are removed.
    Compact,
    /// Both.
    CompactDelete,
}

impl CleanupPolicy {
    /// Whether records are removed by key.
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactDelete)
    }
}

/// When unsynced bytes are made durable although nobody waits for it. Any condition that is met is enough.
///
/// The conditions are acted upon by the flusher, or, without one, by `tick` and by whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// After this many records (`flush.messages`). Default none.
    pub after_records: Option<u64>,
    /// After this many bytes. Default none.
    pub after_bytes: Option<u64>,
    /// When the oldest unsynced byte is this old (`flush.ms`). Default none.
    pub after: Option<Duration>,
    /// When a segment is sealed. Default true.
    pub on_roll: bool,
    /// How long a commit round waits for company before it syncs. Default zero.
    pub linger: Duration,
    /// A round stops lingering once this many wait. At least 1, default 64.
    pub max_waiting: u32,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            after_records: None,
            after_bytes: None,
            after: None,
            on_roll: true,
            linger: Duration::ZERO,
            max_waiting: 64,
        }
    }
}

/// How sealed segments are read. Active segments are always read with positional reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// With positional reads. A failing disk is an error.
    #[default]
    Positional,
    /// Through read-only maps, so that slices can be borrowed as bytes. A failing disk under a map kills the process
    /// with SIGBUS.
    Mapped,
}

/// What opening does with damage below the recovery point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to open; change nothing.
    Refuse,
    /// Open, keep the damaged bytes as they are, and answer reads of the range with a precise error.
    #[default]
    Quarantine,
    /// Cut the log at the first damage. Later records are lost: for logs that have replicas.
    Cut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_values_are_named() {
        let config = LogConfig { segment_bytes: 13, ..LogConfig::default() };
        let error = config.validate().unwrap_err();
        assert_eq!((error.key, error.value, error.min), ("segment.bytes", 13, 14));
        let config = LogConfig { segment_bytes: u32::MAX, ..LogConfig::default() };
        assert_eq!(config.validate().unwrap_err().key, "segment.bytes");
        let flush = FlushPolicy { after_records: Some(0), ..FlushPolicy::default() };
        let config = LogConfig { flush, ..LogConfig::default() };
        assert_eq!(config.validate().unwrap_err().key, "flush.messages");
        LogConfig::default().validate().unwrap();
    }
}
