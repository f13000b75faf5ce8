//! The table against the struct, Kafka's documented numbers, and texts of every kind.

use std::time::Duration;

use fastrand::Rng;

use super::table::{KEYS, NOT_OURS};
use super::*;

fn parse(text: &str) -> Result<LogConfig, ConfigError> {
    LogConfig::from_kafka_properties(text).map(|parsed| parsed.config)
}

fn refusal(text: &str) -> ConfigError {
    LogConfig::from_kafka_properties(text).unwrap_err()
}

/// Ignored keys with their reasons in words.
fn ignored(text: &str) -> Vec<(&'static str, String)> {
    let parsed = LogConfig::from_kafka_properties(text).unwrap();
    parsed.ignored.into_iter().map(|ignored| (ignored.key, ignored.reason.to_string())).collect()
}

type Change = fn(&mut LogConfig);

/// The properties of a config.
fn text_of(config: &LogConfig) -> String {
    let lines: Vec<String> = config.entries().map(|(key, value)| format!("{key} = {value}")).collect();
    lines.join("\n")
}

/// Configs that differ from the default in one field, with that field's key. The pattern names every field: a new one
/// does not compile until it is listed here.
fn one_field_each() -> Vec<(&'static str, LogConfig)> {
    let LogConfig {
        segment_bytes: _,
        segment_ms: _,
        segment_jitter_ms: _,
        segment_index_bytes: _,
        index_interval_bytes: _,
        max_message_bytes: _,
        message_timestamp_type: _,
        message_timestamp_before_max_ms: _,
        message_timestamp_after_max_ms: _,
        cleanup_policy: _,
        retention_bytes: _,
        retention_ms: _,
        retention_basis: _,
        file_delete_delay_ms: _,
        delete_retention_ms: _,
        min_compaction_lag_ms: _,
        max_compaction_lag_ms: _,
        min_cleanable_dirty_ratio: _,
        compression: _,
        high_watermark: _,
        producer_id_expiration_ms: _,
        producers_max: _,
        transaction_partition_verification_enable: _,
        flush: FlushPolicy { after_records: _, after_bytes: _, after: _, on_roll: _, linger: _, max_waiting: _ },
        read_mode: _,
        on_damage: _,
        max_decompressed_bytes: _,
        zero_ahead_bytes: _,
    } = LogConfig::default();
    let mut cases = Vec::new();
    let mut case = |key: &'static str, change: Change| {
        let mut config = LogConfig::default();
        change(&mut config);
        cases.push((key, config));
    };
    case("segment.bytes", |c| c.segment_bytes = 777);
    case("segment.ms", |c| c.segment_ms = 777);
    case("segment.jitter.ms", |c| c.segment_jitter_ms = 777);
    case("segment.index.bytes", |c| c.segment_index_bytes = 777);
    case("index.interval.bytes", |c| c.index_interval_bytes = 777);
    case("max.message.bytes", |c| c.max_message_bytes = 777);
    case("message.timestamp.type", |c| c.message_timestamp_type = TimestampType::LogAppendTime);
    case("message.timestamp.before.max.ms", |c| c.message_timestamp_before_max_ms = 777);
    case("message.timestamp.after.max.ms", |c| c.message_timestamp_after_max_ms = 777);
    case("cleanup.policy", |c| c.cleanup_policy = CleanupPolicy::CompactDelete);
    case("retention.bytes", |c| c.retention_bytes = Some(777));
    case("retention.ms", |c| c.retention_ms = None);
    case("alluvium.retention.basis", |c| c.retention_basis = RetentionBasis::Smaller);
    case("file.delete.delay.ms", |c| c.file_delete_delay_ms = 777);
    case("delete.retention.ms", |c| c.delete_retention_ms = 777);
    case("min.compaction.lag.ms", |c| c.min_compaction_lag_ms = 777);
    case("max.compaction.lag.ms", |c| c.max_compaction_lag_ms = 777);
    case("min.cleanable.dirty.ratio", |c| c.min_cleanable_dirty_ratio = DirtyRatio::new(0.1).unwrap());
    case("compression.type", |c| c.compression = CompressionPolicy::Snappy);
    case("alluvium.high.watermark", |c| c.high_watermark = HighWatermarkMode::DurableEnd);
    case("producer.id.expiration.ms", |c| c.producer_id_expiration_ms = 777);
    case("alluvium.producers.max", |c| c.producers_max = 777);
    case("transaction.partition.verification.enable", |c| c.transaction_partition_verification_enable = false);
    case("flush.messages", |c| c.flush.after_records = Some(777));
    case("alluvium.flush.after.bytes", |c| c.flush.after_bytes = Some(777));
    case("flush.ms", |c| c.flush.after = Some(Duration::from_micros(1500)));
    case("alluvium.flush.on.roll", |c| c.flush.on_roll = false);
    case("alluvium.flush.linger.ms", |c| c.flush.linger = Duration::from_nanos(1));
    case("alluvium.flush.max.waiting", |c| c.flush.max_waiting = 777);
    case("alluvium.read.mode", |c| c.read_mode = ReadMode::Mapped);
    case("alluvium.on.damage", |c| c.on_damage = OnDamage::Cut);
    case("alluvium.max.decompressed.bytes", |c| c.max_decompressed_bytes = 7777);
    case("alluvium.zero.ahead.bytes", |c| c.zero_ahead_bytes = 777);
    cases
}

/// Every key, its default as Kafka 4 documents it (ours as we do), and its range.
const DOCUMENTED: [(&str, &str, &str); 36] = [
    ("segment.bytes", "1073741824", "14..=2147483647"),
    ("segment.ms", "604800000", "1..=9223372036854775807"),
    ("segment.jitter.ms", "0", "0..=9223372036854775807"),
    ("segment.index.bytes", "10485760", "24..=2147483647"),
    ("index.interval.bytes", "4096", "0..=2147483647"),
    ("max.message.bytes", "1048588", "0..=2147483647"),
    ("message.timestamp.type", "CreateTime", "CreateTime | LogAppendTime"),
    ("message.timestamp.before.max.ms", "9223372036854775807", "0..=9223372036854775807"),
    ("message.timestamp.after.max.ms", "3600000", "0..=9223372036854775807"),
    ("compression.type", "producer", "producer | uncompressed | gzip | snappy | lz4 | zstd"),
    ("compression.gzip.level", "-1", "1..=9 | -1"),
    ("compression.lz4.level", "9", "1..=17"),
    ("compression.zstd.level", "3", "-131072..=22"),
    ("cleanup.policy", "delete", "delete | compact | compact,delete"),
    ("retention.bytes", "-1", "0..=9223372036854775807 | -1"),
    ("retention.ms", "604800000", "0..=9223372036854775807 | -1"),
    ("alluvium.retention.basis", "record_time", "record_time | append_time | smaller"),
    ("file.delete.delay.ms", "60000", "0..=9223372036854775807"),
    ("delete.retention.ms", "86400000", "0..=9223372036854775807"),
    ("min.compaction.lag.ms", "0", "0..=9223372036854775807"),
    ("max.compaction.lag.ms", "9223372036854775807", "1..=9223372036854775807"),
    ("min.cleanable.dirty.ratio", "0.5", "0.0..=1.0"),
    ("flush.messages", "9223372036854775807", "1..=9223372036854775806 | 9223372036854775807"),
    ("flush.ms", "9223372036854775807", "0..=9223372036854775806 | 9223372036854775807"),
    ("alluvium.flush.after.bytes", "-1", "1..=9223372036854775807 | -1"),
    ("alluvium.flush.on.roll", "true", "false | true"),
    ("alluvium.flush.linger.ms", "0", "0..=60000"),
    ("alluvium.flush.max.waiting", "64", "1..=2147483647"),
    ("alluvium.high.watermark", "log_end", "embedder | log_end | durable_end"),
    ("producer.id.expiration.ms", "86400000", "1..=9223372036854775807"),
    ("alluvium.producers.max", "100000", "1..=10000000"),
    ("transaction.partition.verification.enable", "true", "false | true"),
    ("alluvium.read.mode", "positional", "positional | mapped"),
    ("alluvium.on.damage", "quarantine", "refuse | quarantine | cut"),
    ("alluvium.max.decompressed.bytes", "268435456", "1024..=2147483648"),
    ("alluvium.zero.ahead.bytes", "4194304", "0..=1073741824"),
];

#[test]
fn every_field_has_its_key_and_no_other() {
    let default: Vec<_> = LogConfig::default().entries().collect();
    for (key, config) in one_field_each() {
        config.validate().unwrap();
        let entries: Vec<_> = config.entries().collect();
        let changed: Vec<&str> =
            entries.iter().zip(&default).filter(|(now, before)| now != before).map(|(now, _)| now.0).collect();
        assert_eq!(changed, [key]);
        assert_eq!(parse(&text_of(&config)).unwrap(), config, "{key}");
    }
    // What is left are the levels, which live in the field of the codec.
    let fields: Vec<&str> = one_field_each().iter().map(|(key, _)| *key).collect();
    let rest: Vec<&str> = KEYS.iter().map(|key| key.name).filter(|key| !fields.contains(key)).collect();
    assert_eq!(rest, ["compression.gzip.level", "compression.lz4.level", "compression.zstd.level"]);
}

#[test]
fn defaults_and_ranges_are_the_documented_ones() {
    let config = LogConfig::default();
    config.validate().unwrap();
    let table: Vec<_> = KEYS.iter().map(|key| (key.name, key.default.to_owned(), key.values.to_string())).collect();
    let documented: Vec<_> =
        DOCUMENTED.iter().map(|(key, default, range)| (*key, (*default).to_owned(), (*range).to_owned())).collect();
    assert_eq!(table, documented);
    let entries: Vec<_> = config.entries().collect();
    assert_eq!(entries, documented.into_iter().map(|(key, default, _)| (key, default)).collect::<Vec<_>>());
    assert_eq!(LogConfig::from_kafka_properties("").unwrap(), {
        let text = text_of(&config);
        LogConfig::from_kafka_properties(&text).unwrap()
    });
    assert_eq!(parse("").unwrap(), config);
}

#[test]
fn names_are_unique_and_docs_are_sentences() {
    let mut names: Vec<&str> = KEYS.iter().flat_map(|key| table::sources(key).map(|source| source.name)).collect();
    names.extend(NOT_OURS.iter().map(|(name, _)| *name));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for key in KEYS {
        assert!(key.doc.ends_with('.') && key.doc.len() > 20, "{}: {}", key.name, key.doc);
        assert!(!key.doc.contains("  "), "{}: {}", key.name, key.doc);
        assert!(!key.is_ours() || key.synonyms.is_empty(), "{}", key.name);
    }
}

/// The text that must stand before a key for it to have an effect.
fn needed_by(key: &str) -> &'static str {
    match key {
        "compression.gzip.level" => "compression.type=gzip\n",
        "compression.lz4.level" => "compression.type=lz4\n",
        "compression.zstd.level" => "compression.type=zstd\n",
        _ => "",
    }
}

#[test]
fn both_ends_of_every_range_are_taken_and_one_past_them_is_refused() {
    let mut count = 0;
    for key in KEYS {
        let (Values::Integer(bounds) | Values::Milliseconds(bounds)) = key.values else { continue };
        count += 1;
        let before = needed_by(key.name);
        let (min, max) = (i128::from(bounds.min), i128::from(bounds.max));
        let is_also = |value: i128| bounds.also.map(i128::from) == Some(value);
        for value in [min - 2, min - 1, min, min + 1, max - 1, max, max + 1, max + 2, i128::MIN, i128::MAX] {
            let text = format!("{before}{} = {value}", key.name);
            if (min..=max).contains(&value) || is_also(value) {
                let config = parse(&text).unwrap();
                assert_eq!(key.value_of(&config), value.to_string());
                assert_eq!(parse(&text_of(&config)).unwrap(), config, "{text}");
            } else {
                let error = refusal(&text);
                let ConfigError::OutOfRange { key: named, value: refused, min, max, also } = error else {
                    panic!("{error:?}")
                };
                assert_eq!((named, refused, min, max, also), (key.name, value, bounds.min, bounds.max, bounds.also));
            }
        }
        for value in ["", "x", "1x", "0x10", "1e3", "--1", "1 2", "170141183460469231731687303715884105728", "٣", "1_0"]
        {
            let error = refusal(&format!("{before}{} = {value}", key.name));
            let is_named = matches!(&error, ConfigError::NotANumber { key: named, value: refused, .. }
                if *named == key.name && refused == value);
            assert!(is_named, "{error:?}");
        }
        let (plain, signed) = (parse(&format!("{before}{}=5", key.name)), parse(&format!("{before}{}= +5 ", key.name)));
        assert_eq!(plain, signed);
    }
    assert_eq!(count, 26);
}

/// Out of range in the struct, where no parser has looked: fields can hold more than their keys.
#[test]
fn values_put_into_fields_are_checked_as_well() {
    let cases: [(&str, i128, Change); 27] = [
        ("segment.bytes", 13, |c| c.segment_bytes = 13),
        ("segment.bytes", 1 << 31, |c| c.segment_bytes = 1 << 31),
        ("segment.ms", 0, |c| c.segment_ms = 0),
        ("segment.ms", 1 << 63, |c| c.segment_ms = 1 << 63),
        ("segment.jitter.ms", u64::MAX.into(), |c| c.segment_jitter_ms = u64::MAX),
        ("segment.index.bytes", 23, |c| c.segment_index_bytes = 23),
        ("index.interval.bytes", u32::MAX.into(), |c| c.index_interval_bytes = u32::MAX),
        ("max.message.bytes", u32::MAX.into(), |c| c.max_message_bytes = u32::MAX),
        // These two were once taken: the check clamped what it compared.
        ("message.timestamp.before.max.ms", u64::MAX.into(), |c| c.message_timestamp_before_max_ms = u64::MAX),
        ("message.timestamp.after.max.ms", 1 << 63, |c| c.message_timestamp_after_max_ms = 1 << 63),
        ("retention.bytes", 1 << 63, |c| c.retention_bytes = Some(1 << 63)),
        ("retention.ms", u64::MAX.into(), |c| c.retention_ms = Some(u64::MAX)),
        ("file.delete.delay.ms", 1 << 63, |c| c.file_delete_delay_ms = 1 << 63),
        ("delete.retention.ms", 1 << 63, |c| c.delete_retention_ms = 1 << 63),
        ("min.compaction.lag.ms", 1 << 63, |c| c.min_compaction_lag_ms = 1 << 63),
        ("max.compaction.lag.ms", 0, |c| c.max_compaction_lag_ms = 0),
        ("compression.gzip.level", 0, |c| c.compression = CompressionPolicy::Gzip { level: 0 }),
        ("compression.gzip.level", -2, |c| c.compression = CompressionPolicy::Gzip { level: -2 }),
        ("compression.lz4.level", 18, |c| c.compression = CompressionPolicy::Lz4 { level: 18 }),
        ("compression.zstd.level", i32::MIN.into(), |c| c.compression = CompressionPolicy::Zstd { level: i32::MIN }),
        ("producer.id.expiration.ms", 0, |c| c.producer_id_expiration_ms = 0),
        ("alluvium.producers.max", 10_000_001, |c| c.producers_max = 10_000_001),
        // None is how a field says never.
        ("flush.messages", i64::MAX.into(), |c| c.flush.after_records = Some(i64::MAX as u64)),
        ("alluvium.flush.after.bytes", 0, |c| c.flush.after_bytes = Some(0)),
        ("flush.ms", i128::from(u64::MAX) * 1000 + 999, |c| c.flush.after = Some(Duration::MAX)),
        ("alluvium.flush.linger.ms", 60_001, |c| c.flush.linger = Duration::from_millis(60_001)),
        ("alluvium.flush.max.waiting", 0, |c| c.flush.max_waiting = 0),
    ];
    for (key, value, change) in cases {
        let mut config = LogConfig::default();
        change(&mut config);
        let error = config.validate().unwrap_err();
        let is_it = matches!(error, ConfigError::OutOfRange { key: named, value: refused, .. }
            if (named, refused) == (key, value));
        assert!(is_it, "{key}: {error:?}");
        assert_eq!(error.key(), Some(key));
        assert!(error.to_string().contains(&format!("{key} = {value} is outside")), "{error}");
    }
}

#[test]
fn kafka_s_order_of_synonyms_decides_wherever_they_stand() {
    let retention = |text: &str| parse(text).unwrap().retention_ms;
    assert_eq!(retention("log.retention.hours=2"), Some(7_200_000));
    assert_eq!(retention("log.retention.minutes=3\nlog.retention.hours=2"), Some(180_000));
    assert_eq!(retention("log.retention.ms=4\nlog.retention.hours=2\nlog.retention.minutes=3"), Some(4));
    assert_eq!(retention("retention.ms=5\nlog.retention.ms=4"), Some(5));
    assert_eq!(retention("log.retention.hours=1\nlog.retention.ms=4\nretention.ms=5\n"), Some(5));
    assert_eq!(retention("log.retention.hours=-1"), None);
    assert_eq!(retention("log.retention.minutes=-1\nlog.retention.hours=7"), None);
    assert_eq!(
        ignored("log.retention.hours=2\nlog.retention.minutes=3\nretention.ms=5"),
        [
            ("log.retention.hours", "retention.ms is set and binds more".to_owned()),
            ("log.retention.minutes", "retention.ms is set and binds more".to_owned()),
        ]
    );
    let config = parse("log.roll.hours=1\nlog.roll.jitter.hours=2\nlog.flush.scheduler.interval.ms=3").unwrap();
    assert_eq!((config.segment_ms, config.segment_jitter_ms), (3_600_000, 7_200_000));
    assert_eq!(config.flush.after, Some(Duration::from_millis(3)));
    assert_eq!(
        parse("log.flush.interval.ms=9\nlog.flush.scheduler.interval.ms=3").unwrap().flush.after,
        Some(Duration::from_millis(9))
    );
}

#[test]
fn every_synonym_sets_its_key() {
    for key in KEYS {
        for synonym in key.synonyms {
            let (given, wanted) = match key.values {
                Values::Integer(_) | Values::Milliseconds(_) => ("40", (40 * i64::from(synonym.unit)).to_string()),
                Values::Ratio => ("0.25", "0.25".to_owned()),
                Values::OneOf(words) => (words[1], words[1].to_owned()),
                Values::Boolean => ("false", "false".to_owned()),
            };
            let config = parse(&format!("{} {given}", synonym.name)).unwrap();
            assert_eq!(key.value_of(&config), wanted, "{}", synonym.name);
            assert_eq!(LogConfig::default().with(synonym.name, given).unwrap(), config);
        }
    }
    assert_eq!(
        parse("log.cleaner.min.cleanable.ratio=1").unwrap().min_cleanable_dirty_ratio.value().to_bits(),
        1_f64.to_bits()
    );
}

#[test]
fn synonyms_are_refused_by_their_own_names_and_units_even_where_overridden() {
    for before in ["", "retention.ms=1\n", "log.retention.ms=1\n"] {
        let error = refusal(&format!("{before}log.retention.hours=-2"));
        let ConfigError::OutOfRange { key, value, min, max, also } = error else { panic!("{error:?}") };
        assert_eq!((key, value, min, max, also), ("log.retention.hours", -2, 0, 2_147_483_647, Some(-1)));
    }
    assert_eq!(refusal("log.roll.hours=2147483648").key(), Some("log.roll.hours"));
    // A millisecond at least is an hour at least.
    assert!(matches!(refusal("log.roll.hours=0"), ConfigError::OutOfRange { min: 1, .. }));
    assert_eq!(parse("log.roll.hours=2147483647").unwrap().segment_ms, 2_147_483_647 * 3_600_000);
    assert_eq!(refusal("log.cleanup.policy=gone").key(), Some("log.cleanup.policy"));
}

#[test]
fn words_are_kafka_s_in_case_and_order() {
    for text in ["compact,delete", "delete,compact", " delete ,\\\n   compact "] {
        let config = parse(&format!("cleanup.policy={text}")).unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy::CompactDelete, "{text}");
    }
    for text in ["", ",", "Delete", "delete,delete", "compact,delete,compact", "delete,", "none"] {
        let error = refusal(&format!("cleanup.policy={text}"));
        assert!(matches!(error, ConfigError::NotOneOf { key: "cleanup.policy", .. }), "{text}: {error:?}");
        assert!(error.to_string().contains("set one of delete | compact | compact,delete"), "{error}");
    }
    let deletes: Vec<bool> = [CleanupPolicy::Delete, CleanupPolicy::Compact, CleanupPolicy::CompactDelete]
        .iter()
        .flat_map(|policy| [policy.deletes(), policy.compacts()])
        .collect();
    assert_eq!(deletes, [true, false, false, true, true, true]);
    for (text, wanted) in [("TRUE", true), ("False", false)] {
        assert_eq!(parse(&format!("alluvium.flush.on.roll={text}")).unwrap().flush.on_roll, wanted);
    }
    for text in ["yes", "1", "", "true,false"] {
        assert!(matches!(refusal(&format!("alluvium.flush.on.roll={text}")), ConfigError::NotOneOf { .. }));
    }
    assert!(matches!(refusal("message.timestamp.type=createtime"), ConfigError::NotOneOf { .. }));
    for text in ["-0.1", "1.1", "NaN", "inf", "", "half", "1e400"] {
        let error = refusal(&format!("min.cleanable.dirty.ratio={text}"));
        assert!(matches!(error, ConfigError::NotARatio { .. }), "{text}: {error:?}");
    }
    for (text, printed) in [("0", "0.0"), ("-0.0", "0.0"), ("1", "1.0"), ("5e-1", "0.5"), ("1e-7", "1e-7")] {
        let config = parse(&format!("min.cleanable.dirty.ratio={text}")).unwrap();
        let key = KEYS.iter().find(|key| key.name == "min.cleanable.dirty.ratio").unwrap();
        assert_eq!(key.value_of(&config), printed);
    }
}

#[test]
fn levels_belong_to_the_codec_that_is_chosen() {
    let compression = |text: &str| parse(text).unwrap().compression;
    assert_eq!(compression("compression.zstd.level=-5\ncompression.type=zstd"), CompressionPolicy::Zstd { level: -5 });
    assert_eq!(compression("compression.type=gzip"), CompressionPolicy::Gzip { level: -1 });
    assert_eq!(compression("compression.type=lz4"), CompressionPolicy::Lz4 { level: 9 });
    assert_eq!(compression("compression.type=zstd"), CompressionPolicy::Zstd { level: 3 });
    // Kafka takes the levels of all codecs at once; those of the others change nothing, and that is said.
    let text = "compression.type=lz4\ncompression.gzip.level=5\ncompression.lz4.level=4\ncompression.zstd.level=3";
    assert_eq!(compression(text), CompressionPolicy::Lz4 { level: 4 });
    let noted = ignored(text);
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!(noted[0].0, "compression.gzip.level");
    assert!(matches!(refusal("compression.gzip.level=10"), ConfigError::OutOfRange { max: 9, also: Some(-1), .. }));

    let config = LogConfig::default();
    assert!(matches!(config.with("compression.gzip.level", "5"), Err(ConfigError::NoEffect { .. })));
    let gzip = config.with("compression.type", "gzip").unwrap().with("compression.gzip.level", "5").unwrap();
    assert_eq!(gzip.compression, CompressionPolicy::Gzip { level: 5 });
    assert_eq!(gzip.with("compression.type", "gzip").unwrap(), gzip);
    assert_eq!(gzip.with("compression.type", "zstd").unwrap().compression, CompressionPolicy::Zstd { level: 3 });
}

#[test]
fn durations_are_exact_to_the_nanosecond() {
    let after = |text: &str| parse(&format!("flush.ms={text}")).map(|config| config.flush.after);
    assert_eq!(after("0.000001"), Ok(Some(Duration::from_nanos(1))));
    assert_eq!(after("1.5"), Ok(Some(Duration::from_micros(1500))));
    assert_eq!(after("1000"), Ok(Some(Duration::from_secs(1))));
    assert_eq!(after("9223372036854775807"), Ok(None));
    assert_eq!(after("9223372036854775807.0"), Ok(None));
    for text in ["0.0000001", "1.", ".5", "1.+5", "-0.5", "1.5.5", "9223372036854775807.5"] {
        assert!(matches!(after(text), Err(ConfigError::NotANumber { .. })), "{text}: {:?}", after(text));
    }
    let config = LogConfig {
        flush: FlushPolicy { linger: Duration::new(1, 5), ..FlushPolicy::default() },
        ..LogConfig::default()
    };
    assert!(config.entries().any(|entry| entry == ("alluvium.flush.linger.ms", "1000.000005".to_owned())));
}

#[test]
fn keys_of_others_are_known_and_change_nothing() {
    for (key, reason) in NOT_OURS {
        let text = format!("{key}=whatever it is");
        assert_eq!(parse(&text).unwrap(), LogConfig::default());
        assert_eq!(ignored(&text), [(*key, (*reason).to_owned())]);
        let error = LogConfig::default().with(key, "1").unwrap_err();
        assert_eq!(error, ConfigError::NoEffect { key, reason });
    }
    for key in [
        "min.insync.replicas",
        "unclean.leader.election.enable",
        "leader.replication.throttled.replicas",
        "follower.replication.throttled.replicas",
        "remote.storage.enable",
        "local.retention.ms",
        "local.retention.bytes",
        "message.downconversion.enable",
        "preallocate",
        "message.format.version",
    ] {
        assert!(NOT_OURS.iter().any(|(known, _)| *known == key), "{key}");
    }
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    for (key, nearest) in [
        ("segment.byte", Some("segment.bytes")),
        ("retention_ms", Some("retention.ms")),
        ("Segment.Bytes", Some("segment.bytes")),
        ("log.retention.hour", Some("log.retention.hours")),
        ("min.insync.replica", Some("min.insync.replicas")),
        ("alluvium.onroll", Some("alluvium.on.damage")),
        ("zzzzzzzzzzzzzzzzzzzz", None),
        ("", None),
        ("é", None),
    ] {
        let error = LogConfig::default().with(key, "1").unwrap_err();
        assert_eq!(error.key(), Some(key));
        if key != "alluvium.onroll" {
            assert_eq!(error, ConfigError::UnknownKey { key: key.to_owned(), nearest });
        }
        assert_eq!(refusal(&format!("{key}=1")), error);
    }
    let long = "k".repeat(1 << 20);
    let error = LogConfig::default().with(&long, "1").unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
    let error = LogConfig::default().with("segment.ms", &long).unwrap_err();
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn every_refusal_says_what_to_do() {
    let said = |text: &str| refusal(text).to_string();
    assert_eq!(said("segment.ms=0"), "segment.ms = 0 is outside 1..=9223372036854775807; set it within that range");
    assert_eq!(
        said("compression.gzip.level=0"),
        "compression.gzip.level = 0 is outside 1..=9; set it within that range, or to -1"
    );
    assert_eq!(said("segment.ms=soon"), "segment.ms = \"soon\" is not a number; write a whole number");
    assert_eq!(
        said("flush.ms=soon"),
        "flush.ms = \"soon\" is not a number; write milliseconds, with up to six decimals"
    );
    assert_eq!(
        said("min.cleanable.dirty.ratio=2"),
        "min.cleanable.dirty.ratio = \"2\" is not a ratio; set a number from 0.0 to 1.0"
    );
    assert_eq!(
        said("alluvium.read.mode=fast"),
        "alluvium.read.mode = \"fast\" is none of its values; set one of positional | mapped"
    );
    assert_eq!(
        said("segment.byte=1"),
        "\"segment.byte\" is no known key; the nearest is \"segment.bytes\"; `LogConfig::describe` lists them all"
    );
    assert_eq!(
        said("segment.ms=1\n\nsegment.ms=1"),
        "segment.ms is set in line 1 and again in line 3; remove one of them"
    );
    assert_eq!(refusal("preallocate=true\npreallocate=true").key(), Some("preallocate"));
    assert_eq!(
        said("min.compaction.lag.ms=5\nlog.cleaner.max.compaction.lag.ms=3"),
        "min.compaction.lag.ms = 5 is larger than max.compaction.lag.ms = 3; lower the one or raise the other"
    );
    assert_eq!(parse("min.compaction.lag.ms=3\nmax.compaction.lag.ms=3").unwrap().min_compaction_lag_ms, 3);
    assert_eq!(
        said("\\u12=3"),
        "line 1 holds a malformed \\u escape; write \\u and four hex digits, surrogates in pairs"
    );
    assert_eq!(refusal("\\u12=3").key(), None);
    let error = LogConfig::default().with("min.insync.replicas", "2").unwrap_err();
    assert_eq!(error.to_string(), "min.insync.replicas has no effect here: replication is the embedder's");
    let config = LogConfig { max_compaction_lag_ms: 9, ..LogConfig::default() };
    assert!(matches!(config.with("min.compaction.lag.ms", "10"), Err(ConfigError::Contradiction { .. })));
}

#[test]
fn one_key_at_a_time_equals_a_text_of_one_line() {
    for (key, config) in one_field_each() {
        let value = config.entries().find(|(name, _)| *name == key).unwrap().1;
        assert_eq!(LogConfig::default().with(key, &value).unwrap(), config);
        assert_eq!(config.with(key, &value).unwrap(), config);
    }
}

/// A value within bounds, mostly near their ends.
fn within(rng: &mut Rng, min: i64, max: i64) -> i64 {
    match rng.u8(..6) {
        0 => min,
        1 => max,
        2 => min.saturating_add(rng.i64(0..100)).min(max),
        3 => max.saturating_sub(rng.i64(0..100)).max(min),
        _ => rng.i64(min..=max),
    }
}

fn random_value(rng: &mut Rng, values: &Values) -> String {
    match values {
        Values::Integer(bounds) | Values::Milliseconds(bounds) if bounds.also.is_some() && rng.u8(..4) == 0 => {
            bounds.also.unwrap().to_string()
        }
        Values::Integer(bounds) => within(rng, bounds.min, bounds.max).to_string(),
        Values::Milliseconds(bounds) => {
            let fraction = if rng.bool() { format!(".{:06}", rng.u32(0..1_000_000)) } else { String::new() };
            format!("{}{fraction}", within(rng, bounds.min, bounds.max - 1))
        }
        Values::Ratio => rng.f64().to_string(),
        Values::Boolean => rng.bool().to_string(),
        Values::OneOf(words) => words[rng.usize(..words.len())].to_owned(),
    }
}

#[test]
fn random_valid_configs_come_back_from_their_entries() {
    let mut rng = Rng::with_seed(4);
    let mut made = 0;
    for round in 0..3000 {
        let mut config = LogConfig::default();
        for key in KEYS.iter().filter(|_| rng.bool()).collect::<Vec<_>>() {
            let value = random_value(&mut rng, &key.values);
            match config.with(key.name, &value) {
                Ok(next) => (config, made) = (next, made + 1),
                Err(ConfigError::Contradiction { .. } | ConfigError::NoEffect { .. }) => {}
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        config.validate().unwrap();
        let mut lines: Vec<String> = config.entries().map(|(key, value)| format!("{key}={value}")).collect();
        rng.shuffle(&mut lines);
        let parsed = LogConfig::from_kafka_properties(&lines.join("\n")).unwrap();
        assert_eq!(parsed.config, config, "round {round}");
        assert_eq!(parsed.ignored, [], "round {round}");
    }
    assert!(made > 30_000, "{made}");
}

/// Bytes at random, and lines of real keys with random values: refused or taken, never a panic, and what is taken is
/// valid and comes back.
#[test]
fn random_texts_are_refused_or_valid() {
    let mut rng = Rng::with_seed(7);
    let names: Vec<&str> = KEYS
        .iter()
        .flat_map(|key| table::sources(key).map(|source| source.name))
        .chain(NOT_OURS.iter().map(|(name, _)| *name))
        .collect();
    let values =
        ["0", "1", "-1", "17", "0.5", "true", "gzip", "compact", "9223372036854775807", "9223372036854775808", "x", ""];
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let text = if rng.bool() {
            let bytes: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            let line = |rng: &mut Rng| {
                let value = values[rng.usize(..values.len())];
                let separator = ["=", ":", " ", " = ", "\\\n=", "="][rng.usize(..6)];
                format!("{}{separator}{value}\n", names[rng.usize(..names.len())])
            };
            (0..rng.usize(0..5)).map(|_| line(&mut rng)).collect()
        };
        match LogConfig::from_kafka_properties(&text) {
            Ok(parsed) => {
                taken += 1;
                parsed.config.validate().unwrap();
                assert_eq!(parse(&text_of(&parsed.config)).unwrap(), parsed.config, "{text:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().len() < 2000, "{error}");
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn compacted_logs_roll_by_the_shorter_of_two_limits() {
    for (cleanup_policy, wanted) in
        [(CleanupPolicy::Delete, 100), (CleanupPolicy::Compact, 30), (CleanupPolicy::CompactDelete, 30)]
    {
        let config = LogConfig { segment_ms: 100, max_compaction_lag_ms: 30, cleanup_policy, ..LogConfig::default() };
        assert_eq!(config.roll_ms(), wanted);
        assert_eq!(LogConfig { max_compaction_lag_ms: 200, ..config }.roll_ms(), 100);
    }
}
