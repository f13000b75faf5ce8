//! The settings that are one of a few words, and the small types that settings are made of.

use std::time::Duration;

/// An enum whose values have names in properties. The names are written once: what is printed is what is parsed.
macro_rules! named {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$variant_about:meta])* $variant:ident = $text:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_about])* $variant,)+
        }

        impl $name {
            /// The names of all values, as properties spell them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// Its name in properties.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The value of a name. Case matters, as it does to Kafka.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

named! {
    /// `message.timestamp.type`.
    TimestampType {
        /// The producer's timestamps are kept.
        #[default]
        CreateTime = "CreateTime",
        /// Every record of a batch bears the time of its append.
        LogAppendTime = "LogAppendTime",
    }
}

named! {
    /// `cleanup.policy`. In properties the words may come in any order; an empty list is refused.
    CleanupPolicy {
        /// Old segments are deleted.
        #[default]
        Delete = "delete",
        /// Superseded records are removed.
        Compact = "compact",
        /// Both.
        CompactDelete = "compact,delete",
    }
}

impl CleanupPolicy {
    /// Whether records are removed by key.
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactDelete)
    }

    /// Whether whole segments are deleted by age and by size.
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactDelete)
    }
}

named! {
    /// How sealed segments are read. Active segments are always read with positional reads.
    ReadMode {
        /// With positional reads. A failing disk is an error.
        #[default]
        Positional = "positional",
        /// Through read-only maps, so that slices can be borrowed as bytes. A failing disk under a map kills the
        /// process with SIGBUS.
        Mapped = "mapped",
    }
}

named! {
    /// What opening does with damage below the recovery point.
    OnDamage {
        /// Refuse to open; change nothing.
        Refuse = "refuse",
        /// Open, keep the damaged bytes as they are, and answer reads of the range with a precise error.
        #[default]
        Quarantine = "quarantine",
        /// Cut the log at the first damage. Later records are lost: for logs that have replicas.
        Cut = "cut",
    }
}

named! {
    /// Which time a segment's age is counted from when `retention.ms` is applied.
    RetentionBasis {
        /// The largest timestamp of the segment's records, as in Kafka. A timestamp from the future holds the segment.
        #[default]
        RecordTime = "record_time",
        /// The time at which the segment's last batch was appended, by this machine's clock.
        AppendTime = "append_time",
        /// Whichever of the two is earlier: records dated in the future cannot hold a segment.
        Smaller = "smaller",
    }
}

named! {
    /// Who moves the high watermark.
    HighWatermarkMode {
        /// The embedder, once its replicas have the records.
        Embedder = "embedder",
        /// Every append: it is the log end, as on a Kafka partition with a single replica.
        #[default]
        LogEnd = "log_end",
        /// Every completed sync: it is the end of what survives a power loss.
        DurableEnd = "durable_end",
    }
}

/// `compression.type`, with the level of its codec: what appended batches are compressed with.
///
/// ```
/// use alluvium::config::CompressionPolicy;
/// use alluvium::LogConfig;
/// let text = "compression.type=zstd\ncompression.zstd.level=7";
/// let config = LogConfig::from_kafka_properties(text).unwrap().config;
/// assert_eq!(config.compression, CompressionPolicy::Zstd { level: 7 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionPolicy {
    /// Whatever the producer chose: batches are stored as they come.
    #[default]
    Producer,
    /// None.
    Uncompressed,
    /// gzip.
    Gzip {
        /// `compression.gzip.level`: 1 to 9, or -1 (the default) for the library's own choice.
        level: i32,
    },
    /// snappy, which has no levels.
    Snappy,
    /// lz4.
    Lz4 {
        /// `compression.lz4.level`: 1 to 17, default 9. Kept and printed; the encoder here has one level.
        level: i32,
    },
    /// zstd.
    Zstd {
        /// `compression.zstd.level`: -131,072 to 22, default 3.
        level: i32,
    },
}

impl CompressionPolicy {
    /// The names of all values, as properties spell them.
    pub const NAMES: &'static [&'static str] = &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"];

    /// Its name in properties.
    pub fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Uncompressed => "uncompressed",
            Self::Gzip { .. } => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 { .. } => "lz4",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// The policy of a name, at Kafka's default level. Case matters, as it does to Kafka.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "producer" => Self::Producer,
            "uncompressed" => Self::Uncompressed,
            "gzip" => Self::Gzip { level: -1 },
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4 { level: 9 },
            "zstd" => Self::Zstd { level: 3 },
            _ => return None,
        })
    }
}

/// `min.cleanable.dirty.ratio`: the share of a compacted log that must be dirty before it is cleaned, 0.0 to 1.0.
///
/// ```
/// use alluvium::config::DirtyRatio;
/// assert_eq!(DirtyRatio::new(0.25).unwrap().value(), 0.25);
/// assert!(DirtyRatio::new(1.5).is_none() && DirtyRatio::new(f64::NAN).is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DirtyRatio(f64);

// It is never NaN, the one number that differs from itself.
impl Eq for DirtyRatio {}

impl DirtyRatio {
    /// `None` unless `ratio` is from 0.0 to 1.0.
    pub fn new(ratio: f64) -> Option<Self> {
        // Adding zero turns -0.0 into 0.0, so that equal ratios print alike.
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio + 0.0))
    }

    /// From 0.0 to 1.0.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl Default for DirtyRatio {
    /// One half, as in Kafka.
    fn default() -> Self {
        Self(0.5)
    }
}

/// When unsynced bytes are made durable although nobody waits for it. Any condition that is met is enough.
///
/// The conditions are acted upon by the flusher, or, without one, by `tick` and by whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// `flush.messages`: after this many records. 1 to `i64::MAX` - 1. Default none, which Kafka writes as the largest
    /// long.
    pub after_records: Option<u64>,
    /// `alluvium.flush.after.bytes`: after this many bytes. 1 to `i64::MAX`, default none.
    pub after_bytes: Option<u64>,
    /// `flush.ms`: when the oldest unsynced byte is this old. Below `i64::MAX` ms. Default none, which Kafka writes as
    /// the largest long.
    pub after: Option<Duration>,
    /// `alluvium.flush.on.roll`: when a segment is sealed. Default true.
    pub on_roll: bool,
    /// `alluvium.flush.linger.ms`: how long a commit round waits for company before it syncs. At most a minute,
    /// default zero.
    pub linger: Duration,
    /// `alluvium.flush.max.waiting`: a round stops lingering once this many wait. 1 to `i32::MAX`, default 64.
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
