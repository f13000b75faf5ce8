//! The table of keys: the one place that knows names, defaults, ranges and meanings.
//!
//! Names, defaults, ranges and the order of synonyms are those of Kafka 4 (`TopicConfig`, `LogConfig`,
//! `ServerTopicConfigSynonyms`). Where a range differs, the doc says so.

use super::keys::{Bounds, KeyDoc, Slot, Synonym, Values};
use super::{CleanupPolicy, CompressionPolicy, HighWatermarkMode, OnDamage, ReadMode, RetentionBasis, TimestampType};

const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: i64 = i64::MAX;
const MINUTE_MS: i64 = 60_000;

const fn integer(min: i64, max: i64) -> Values {
    Values::Integer(Bounds::new(min, max))
}

/// A field that is what its key says.
macro_rules! field {
    ($kind:ident, $($field:ident).+) => {
        Slot::$kind(|config| config.$($field).+, |config, value| config.$($field).+ = value)
    };
}

/// A field that is one of an enum's words; the table lets no other word through.
macro_rules! word {
    ($kind:ident, $field:ident) => {
        Slot::Word(
            |config| config.$field.name(),
            |config, word| config.$field = $kind::from_name(word).unwrap_or(config.$field),
        )
    };
}

/// The level of the codec, while that is chosen.
macro_rules! level {
    ($codec:ident) => {
        Slot::Level(
            |config| match config.compression {
                CompressionPolicy::$codec { level } => Some(level),
                _ => None,
            },
            |config, level| config.compression = CompressionPolicy::$codec { level },
        )
    };
}

/// Every key, in the order in which they are listed. `compression.type` stands before the levels: a level is written
/// to the codec that is chosen.
pub(super) static KEYS: &[KeyDoc] = &[
    KeyDoc::new(
        "segment.bytes",
        "1073741824",
        integer(14, INT_MAX),
        field!(U32, segment_bytes),
        "A segment rolls before it grows past this many bytes. Kafka 4 asks for 1 MiB or more of topics.",
    )
    .synonyms(&[Synonym::same("log.segment.bytes")]),
    KeyDoc::new(
        "segment.ms",
        "604800000",
        integer(1, LONG_MAX),
        field!(U64, segment_ms),
        "A segment rolls when its first batch is this many milliseconds older than the newest timestamp appended.",
    )
    .synonyms(&[Synonym::same("log.roll.ms"), Synonym::hours("log.roll.hours")]),
    KeyDoc::new(
        "segment.jitter.ms",
        "0",
        integer(0, LONG_MAX),
        field!(U64, segment_jitter_ms),
        "Up to this many milliseconds are taken off segment.ms, so that many logs do not roll at once.",
    )
    .synonyms(&[Synonym::same("log.roll.jitter.ms"), Synonym::hours("log.roll.jitter.hours")]),
    KeyDoc::new(
        "segment.index.bytes",
        "10485760",
        integer(24, INT_MAX),
        field!(U32, segment_index_bytes),
        "Bound on the bytes of each index; a segment rolls when one is full. Kafka takes 4 or more; 24 is the \
        least that has room for an entry in each.",
    )
    .synonyms(&[Synonym::same("log.index.size.max.bytes")]),
    KeyDoc::new(
        "index.interval.bytes",
        "4096",
        integer(0, INT_MAX),
        field!(U32, index_interval_bytes),
        "An index entry is written when more than this many bytes came since the last one.",
    )
    .synonyms(&[Synonym::same("log.index.interval.bytes")]),
    KeyDoc::new(
        "max.message.bytes",
        "1048588",
        integer(0, INT_MAX),
        field!(U32, max_message_bytes),
        "Largest batch in bytes, header included and as compressed, that is taken from a client. Stored batches stay \
        readable whatever it is set to.",
    )
    .synonyms(&[Synonym::same("message.max.bytes")]),
    KeyDoc::new(
        "message.timestamp.type",
        "CreateTime",
        Values::OneOf(TimestampType::NAMES),
        word!(TimestampType, message_timestamp_type),
        "Keep the producers' timestamps, or stamp the time of the append.",
    )
    .synonyms(&[Synonym::same("log.message.timestamp.type")]),
    KeyDoc::new(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        integer(0, LONG_MAX),
        field!(U64, message_timestamp_before_max_ms),
        "How many milliseconds in the past a client's timestamp may lie.",
    )
    .synonyms(&[Synonym::same("log.message.timestamp.before.max.ms")]),
    KeyDoc::new(
        "message.timestamp.after.max.ms",
        "3600000",
        integer(0, LONG_MAX),
        field!(U64, message_timestamp_after_max_ms),
        "How many milliseconds in the future a client's timestamp may lie (KIP-937, default by KIP-1030).",
    )
    .synonyms(&[Synonym::same("log.message.timestamp.after.max.ms")]),
    KeyDoc::new(
        "compression.type",
        "producer",
        Values::OneOf(CompressionPolicy::NAMES),
        Slot::Word(
            |config| config.compression.name(),
            |config, word| {
                // Naming the codec that is chosen already keeps its level.
                if word != config.compression.name() {
                    config.compression = CompressionPolicy::from_name(word).unwrap_or(config.compression);
                }
            },
        ),
        "What appended batches are compressed with; producer stores them as they come.",
    ),
    KeyDoc::new(
        "compression.gzip.level",
        "-1",
        Values::Integer(Bounds::new(1, 9).or(-1)),
        level!(Gzip),
        "Level while compression.type is gzip; -1 is the library's own choice (KIP-390).",
    ),
    KeyDoc::new(
        "compression.lz4.level",
        "9",
        integer(1, 17),
        level!(Lz4),
        "Level while compression.type is lz4 (KIP-390). Kept and printed; the encoder here has one level.",
    ),
    KeyDoc::new(
        "compression.zstd.level",
        "3",
        integer(-131_072, 22),
        level!(Zstd),
        "Level while compression.type is zstd (KIP-390).",
    ),
    KeyDoc::new(
        "cleanup.policy",
        "delete",
        Values::OneOf(CleanupPolicy::NAMES),
        word!(CleanupPolicy, cleanup_policy),
        "Delete old segments, remove superseded records by key, or both. In compacted logs every record needs a key.",
    )
    .synonyms(&[Synonym::same("log.cleanup.policy")]),
    KeyDoc::new(
        "retention.bytes",
        "-1",
        Values::Integer(Bounds::new(0, LONG_MAX).or(-1)),
        field!(OptionalU64, retention_bytes),
        "The oldest segments are deleted while the log would still hold this many bytes without them; -1 for no limit.",
    )
    .synonyms(&[Synonym::same("log.retention.bytes")]),
    KeyDoc::new(
        "retention.ms",
        "604800000",
        Values::Integer(Bounds::new(0, LONG_MAX).or(-1)),
        field!(OptionalU64, retention_ms),
        "Segments older than this many milliseconds are deleted; -1 for no limit.",
    )
    .synonyms(&[
        Synonym::same("log.retention.ms"),
        Synonym::minutes("log.retention.minutes"),
        Synonym::hours("log.retention.hours"),
    ]),
    KeyDoc::new(
        "alluvium.retention.basis",
        "record_time",
        Values::OneOf(RetentionBasis::NAMES),
        word!(RetentionBasis, retention_basis),
        "What retention.ms counts a segment's age from: its largest timestamp, as Kafka does, the time of its last \
        append, or the earlier of the two.",
    ),
    KeyDoc::new(
        "file.delete.delay.ms",
        "60000",
        integer(0, LONG_MAX),
        field!(U64, file_delete_delay_ms),
        "Milliseconds between the renaming of a deleted segment and the removal of its files.",
    )
    .synonyms(&[Synonym::same("log.segment.delete.delay.ms")]),
    KeyDoc::new(
        "delete.retention.ms",
        "86400000",
        integer(0, LONG_MAX),
        field!(U64, delete_retention_ms),
        "Milliseconds that tombstones and transaction markers are kept for after the cleaner first meets them.",
    )
    .synonyms(&[Synonym::same("log.cleaner.delete.retention.ms")]),
    KeyDoc::new(
        "min.compaction.lag.ms",
        "0",
        integer(0, LONG_MAX),
        field!(U64, min_compaction_lag_ms),
        "Milliseconds for which a record is not compacted away. Not larger than max.compaction.lag.ms.",
    )
    .synonyms(&[Synonym::same("log.cleaner.min.compaction.lag.ms")]),
    KeyDoc::new(
        "max.compaction.lag.ms",
        "9223372036854775807",
        integer(1, LONG_MAX),
        field!(U64, max_compaction_lag_ms),
        "Milliseconds after which a record must be up for compaction (KIP-354); compacted logs roll by it as well.",
    )
    .synonyms(&[Synonym::same("log.cleaner.max.compaction.lag.ms")]),
    KeyDoc::new(
        "min.cleanable.dirty.ratio",
        "0.5",
        Values::Ratio,
        field!(Ratio, min_cleanable_dirty_ratio),
        "A compacted log is cleaned when so large a share of it is dirty.",
    )
    .synonyms(&[Synonym::same("log.cleaner.min.cleanable.ratio")]),
    KeyDoc::new(
        "flush.messages",
        "9223372036854775807",
        Values::Integer(Bounds::new(1, LONG_MAX - 1).or(LONG_MAX)),
        field!(OptionalU64, flush.after_records),
        "Unsynced records are synced when there are this many; the largest long is never.",
    )
    .synonyms(&[Synonym::same("log.flush.interval.messages")]),
    KeyDoc::new(
        "flush.ms",
        "9223372036854775807",
        Values::Milliseconds(Bounds::new(0, LONG_MAX - 1).or(LONG_MAX)),
        field!(Millis, flush.after),
        "Unsynced records are synced when the oldest has waited for so long; the largest long is never.",
    )
    .synonyms(&[Synonym::same("log.flush.interval.ms"), Synonym::same("log.flush.scheduler.interval.ms")]),
    KeyDoc::new(
        "alluvium.flush.after.bytes",
        "-1",
        Values::Integer(Bounds::new(1, LONG_MAX).or(-1)),
        field!(OptionalU64, flush.after_bytes),
        "Unsynced bytes are synced when there are this many; -1 is never.",
    ),
    KeyDoc::new(
        "alluvium.flush.on.roll",
        "true",
        Values::Boolean,
        field!(Flag, flush.on_roll),
        "Sync when a segment is sealed.",
    ),
    KeyDoc::new(
        "alluvium.flush.linger.ms",
        "0",
        Values::Milliseconds(Bounds::new(0, MINUTE_MS)),
        Slot::Millis(
            |config| Some(config.flush.linger),
            |config, linger| config.flush.linger = linger.unwrap_or_default(),
        ),
        "How long a commit round waits for company before it syncs.",
    ),
    KeyDoc::new(
        "alluvium.flush.max.waiting",
        "64",
        integer(1, INT_MAX),
        field!(U32, flush.max_waiting),
        "A commit round stops lingering once this many wait.",
    ),
    KeyDoc::new(
        "alluvium.high.watermark",
        "log_end",
        Values::OneOf(HighWatermarkMode::NAMES),
        word!(HighWatermarkMode, high_watermark),
        "Who moves the high watermark: the embedder, every append, or every completed sync.",
    ),
    KeyDoc::new(
        "producer.id.expiration.ms",
        "86400000",
        integer(1, LONG_MAX),
        field!(U64, producer_id_expiration_ms),
        "An idle producer's state is dropped after this many milliseconds. A broker's key in Kafka, 32 bits wide there.",
    ),
    KeyDoc::new(
        "alluvium.producers.max",
        "100000",
        integer(1, 10_000_000),
        field!(U32, producers_max),
        "Bound on the producers whose state is kept in memory.",
    ),
    KeyDoc::new(
        "transaction.partition.verification.enable",
        "true",
        Values::Boolean,
        field!(Flag, transaction_partition_verification_enable),
        "A producer's first transactional batch needs a verification issued beforehand (KIP-890). A broker's key.",
    ),
    KeyDoc::new(
        "alluvium.read.mode",
        "positional",
        Values::OneOf(ReadMode::NAMES),
        word!(ReadMode, read_mode),
        "How sealed segments are read. A failing disk under a map kills the process.",
    ),
    KeyDoc::new(
        "alluvium.on.damage",
        "quarantine",
        Values::OneOf(OnDamage::NAMES),
        word!(OnDamage, on_damage),
        "What opening does with damage below the recovery point: refuse, read around it, or cut the log there.",
    ),
    KeyDoc::new(
        "alluvium.max.decompressed.bytes",
        "268435456",
        integer(1024, 2 << 30),
        field!(U32, max_decompressed_bytes),
        "Largest decompressed size in bytes of a client's batch: a bound against decompression bombs.",
    ),
    KeyDoc::new(
        "alluvium.zero.ahead.bytes",
        "4194304",
        integer(0, 1 << 30),
        field!(U32, zero_ahead_bytes),
        "Zero-written bytes kept ahead of the log end while durable appends come in; 0 turns it off.",
    ),
];

const REPLICATION: &str = "replication is the embedder's";
const STORE: &str = "it belongs to a store of many partitions, not to one log";
const REMOTE: &str = "there is no remote storage";
const FORMAT: &str = "record batches v2 are the only format, as in Kafka 4";
const CLEANER_MEMORY: &str =
    "log.cleaner.dedupe.buffer.size is all of the cleaner's memory, and the cleaner shares it out itself";
const PREALLOCATION: &str = "files are not preallocated; see alluvium.zero.ahead.bytes";

/// Keys that Kafka has for topics, or for logs of a broker, and that say nothing to one log, with the reason.
pub(super) static NOT_OURS: &[(&str, &str)] = &[
    ("min.insync.replicas", REPLICATION),
    ("unclean.leader.election.enable", REPLICATION),
    ("leader.replication.throttled.replicas", REPLICATION),
    ("follower.replication.throttled.replicas", REPLICATION),
    ("default.replication.factor", REPLICATION),
    ("remote.storage.enable", REMOTE),
    ("remote.log.copy.disable", REMOTE),
    ("remote.log.delete.on.disable", REMOTE),
    ("remote.copy.lag.ms", REMOTE),
    ("remote.copy.lag.bytes", REMOTE),
    ("local.retention.ms", REMOTE),
    ("local.retention.bytes", REMOTE),
    ("log.local.retention.ms", REMOTE),
    ("log.local.retention.bytes", REMOTE),
    ("message.format.version", FORMAT),
    ("log.message.format.version", FORMAT),
    ("message.downconversion.enable", FORMAT),
    ("log.message.downconversion.enable", FORMAT),
    ("message.timestamp.difference.max.ms", "Kafka 4 has message.timestamp.before.max.ms and .after.max.ms instead"),
    (
        "log.message.timestamp.difference.max.ms",
        "Kafka 4 has message.timestamp.before.max.ms and .after.max.ms instead",
    ),
    ("preallocate", PREALLOCATION),
    ("log.preallocate", PREALLOCATION),
    ("log.dir", STORE),
    ("log.dirs", STORE),
    ("log.dir.failure.timeout.ms", STORE),
    ("num.partitions", STORE),
    ("auto.create.topics.enable", STORE),
    ("num.recovery.threads.per.data.dir", STORE),
    ("log.initial.task.delay.ms", STORE),
    ("log.retention.check.interval.ms", STORE),
    ("log.flush.offset.checkpoint.interval.ms", STORE),
    ("log.flush.start.offset.checkpoint.interval.ms", STORE),
    ("producer.id.expiration.check.interval.ms", STORE),
    ("log.cleaner.enable", STORE),
    ("log.cleaner.threads", STORE),
    ("log.cleaner.backoff.ms", STORE),
    ("log.cleaner.dedupe.buffer.size", STORE),
    ("log.cleaner.io.buffer.size", CLEANER_MEMORY),
    ("log.cleaner.io.buffer.load.factor", CLEANER_MEMORY),
    ("log.cleaner.io.max.bytes.per.second", STORE),
];

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// A key of the table, named by itself or by a synonym.
    Key(&'static KeyDoc, Synonym),
    /// A key that says nothing to a log.
    NotOurs { name: &'static str, reason: &'static str },
}

/// Looks a name up among keys, synonyms and the keys that are not ours.
pub(super) fn find(name: &str) -> Option<Known> {
    let key = KEYS.iter().find_map(|key| {
        let source = sources(key).find(|source| source.name == name)?;
        Some(Known::Key(key, source))
    });
    let not_ours = || NOT_OURS.iter().find(|(known, _)| *known == name);
    key.or_else(|| not_ours().map(|(name, reason)| Known::NotOurs { name, reason }))
}

/// Every name that sets a key, the most binding first.
pub(super) fn sources(key: &'static KeyDoc) -> impl Iterator<Item = Synonym> {
    std::iter::once(Synonym::same(key.name)).chain(key.synonyms.iter().copied())
}

/// The known name that is spelt most alike, unless the closest differs in more than half of its letters.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    // No key of Kafka's is half as long, and comparing takes the product of the lengths.
    const NAME_BYTES_MAX: usize = 100;
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let names = KEYS.iter().flat_map(|key| sources(key).map(|source| source.name));
    let all = names.chain(NOT_OURS.iter().map(|(name, _)| *name));
    let (distance, nearest) = all.map(|known| (edits(name, known), known)).min_by_key(|(distance, _)| *distance)?;
    (distance * 2 <= nearest.len()).then_some(nearest)
}

/// Levenshtein's distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, byte) in a.bytes().enumerate() {
        let Some((first, rest)) = row.split_first_mut() else { break };
        let (mut above_left, mut left) = (at, at + 1);
        *first = left;
        for (cell, other) in rest.iter_mut().zip(b.bytes()) {
            let cost = above_left + usize::from(byte != other);
            above_left = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}
