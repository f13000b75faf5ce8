use super::*;

fn parsed(text: &str) -> Result<ParsedStoreConfig, StoreConfigError> {
    StoreConfig::from_kafka_properties(text)
}

#[test]
fn defaults_are_valid_and_are_kafkas_where_kafka_has_them() {
    let config = StoreConfig::new("/data");
    config.validate().unwrap();
    let value = |name: &str| {
        let key = StoreConfig::describe().iter().find(|key| key.name == name).unwrap();
        key.value_of(&config)
    };
    for (name, default) in [
        ("num.recovery.threads.per.data.dir", "2"),
        ("log.retention.check.interval.ms", "300000"),
        ("log.flush.offset.checkpoint.interval.ms", "60000"),
        ("log.flush.start.offset.checkpoint.interval.ms", "60000"),
        ("replica.high.watermark.checkpoint.interval.ms", "5000"),
        ("alluvium.idle.after.ms", "60000"),
        ("alluvium.background.bytes.per.second", "-1"),
    ] {
        assert_eq!(value(name), default, "{name}");
    }
    assert_eq!(config.delete_delay(), Duration::from_mins(1));
    assert_eq!(config.space_limits().reserve_bytes, 16 << 20);
}

#[test]
fn every_key_takes_the_ends_of_its_range_and_nothing_past_them() {
    for key in StoreConfig::describe() {
        let refused = |value: i128| {
            let mut config = StoreConfig::new("/data");
            key.set(&value.to_string(), &mut config).unwrap_err()
        };
        let mut taken = vec![i128::from(key.min), i128::from(key.max)];
        taken.extend(key.also.map(i128::from));
        for value in taken {
            let mut config = StoreConfig::new("/data");
            key.set(&value.to_string(), &mut config).unwrap();
            assert_eq!(key.value_of(&config), value.to_string(), "{}", key.name);
            key.check(&config).unwrap();
        }
        for value in [i128::from(key.max) + 1, -2, i128::MIN, i128::MAX] {
            let error = refused(value);
            assert!(matches!(error, ConfigError::OutOfRange { key: name, .. } if name == key.name), "{error}");
        }
        let error = key.set("x", &mut StoreConfig::default()).unwrap_err();
        assert!(error.to_string().contains(key.name), "{error}");
    }
}

#[test]
fn fields_out_of_range_are_refused_by_key() {
    let ok = StoreConfig::new("/data");
    let refused = |config: StoreConfig| {
        let Err(StoreConfigError::Setting(error)) = config.validate() else { panic!("{config:?}") };
        error.key().unwrap().to_owned()
    };
    let by = [
        (StoreConfig { recovery_threads: 0, ..ok.clone() }, "num.recovery.threads.per.data.dir"),
        (StoreConfig { idle_after: Some(Duration::ZERO), ..ok.clone() }, "alluvium.idle.after.ms"),
        (StoreConfig { close_deadline: Duration::MAX, ..ok.clone() }, "alluvium.close.deadline.ms"),
        (StoreConfig { reserve_bytes: u64::MAX, ..ok.clone() }, "alluvium.reserve.bytes"),
        (StoreConfig { open_files_max: Some(15), ..ok.clone() }, "alluvium.open.files.max"),
        (
            StoreConfig { scrub_bytes_per_second: NonZeroU64::new(u64::MAX), ..ok.clone() },
            "alluvium.scrub.bytes.per.second",
        ),
        (
            StoreConfig { default_log: LogConfig { segment_bytes: 1, ..LogConfig::default() }, ..ok.clone() },
            "segment.bytes",
        ),
    ];
    for (config, key) in by {
        assert_eq!(refused(config), key);
    }
    let contradicting = StoreConfig { reopen_after: Some(Duration::from_mins(2)), ..ok };
    let error = contradicting.validate().unwrap_err();
    assert!(error.to_string().contains("alluvium.reopen.after.ms = 120000 is larger than"), "{error}");
}

#[test]
fn directories_are_there_and_apart() {
    let checked = |names: &[&str]| check_directories(&names.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(checked(&[]), Err(StoreConfigError::NoDirectory));
    assert_eq!(checked(&["/b", "/a", "/a-b", "/ab"]), Ok(()));
    assert_eq!(checked(&["/b", "/a", "/b/"]), Err(StoreConfigError::SameDirectory { dir: "/b/".into() }));
    let nested = checked(&["/a/b/c", "/b", "/a-b", "/a"]).unwrap_err();
    assert_eq!(nested.to_string(), "/a/b/c lies within /a; put data directories beside one another");
}

#[test]
fn a_brokers_properties_become_settings_of_store_and_logs() {
    let text = "process.roles=broker\nlisteners=PLAINTEXT://:9092\nlog.dir=/c\nlog.dirs = /a ,,/b\n\
        log.segment.bytes=1048576\nlog.retention.check.interval.ms=7\nlog.dir.failure.timeout.ms=5\n\
        file.delete.delay.ms=9\nalluvium.workers=tick\nalluvium.scrub.bytes.per.second=-1\n\
        log.flush.scheduler.interval.ms=1000\nlog.cleaner.threads=3\nlog.cleaner.enable=FALSE\n\
        log.cleaner.io.max.bytes.per.second=1.7976931348623157E308\nlog.cleaner.io.buffer.size=524288";
    let parsed = parsed(text).unwrap();
    let config = &parsed.config;
    assert_eq!(config.directories, [Path::new("/a"), Path::new("/b")]);
    assert_eq!((config.workers, config.scrub_bytes_per_second), (Workers::Tick, None));
    assert_eq!(config.retention_check_interval, Duration::from_millis(7));
    assert_eq!(config.delete_delay(), Duration::from_millis(9));
    assert_eq!(config.default_log.segment_bytes, 1 << 20);
    assert_eq!(config.default_log.flush.after, Some(Duration::from_secs(1)));
    let ignored: Vec<&str> = parsed.ignored.iter().map(|ignored| ignored.key).collect();
    assert_eq!((config.cleaner.threads, config.cleaner.enabled, config.cleaner.bytes_per_second), (3, false, None));
    assert_eq!(ignored, ["log.cleaner.io.buffer.size", "log.dir", "log.dir.failure.timeout.ms"]);
    assert_eq!(parsed.ignored[1].reason, IgnoredReason::OverriddenBy("log.dirs"));
    assert_eq!(parsed.others, ["process.roles", "listeners"]);
}

#[test]
fn every_key_of_the_cleaner_is_one_of_the_stores() {
    for key in &crate::clean::CLEANER_KEYS {
        assert!(StoreConfig::describe().iter().any(|known| known.name == key.name), "{}", key.name);
    }
    let mut names: Vec<&str> = StoreConfig::describe().iter().map(|key| key.name).collect();
    names.extend(StoreConfig::default().describe_flags().map(|(key, ..)| key));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "each once");
    let mut all = String::from("log.dirs=/data\n");
    for key in StoreConfig::describe().iter().filter(|key| key.name.contains(".cleaner.")) {
        all.extend([key.name, "=", key.value_of(&StoreConfig::default()).as_str(), "\n"]);
    }
    assert_eq!(parsed(&all).unwrap().config, StoreConfig::new("/data"));
}

#[test]
fn the_cleaners_rate_is_kafkas_floating_point_number() {
    let rate = |text: &str| {
        let text = format!("log.dirs=/a\nlog.cleaner.io.max.bytes.per.second={text}");
        parsed(&text).map(|parsed| parsed.config.cleaner.bytes_per_second.map(NonZeroU64::get))
    };
    assert_eq!(rate("10485760.0"), Ok(Some(10 << 20)));
    assert_eq!(rate("1.5e3"), Ok(Some(1500)));
    assert_eq!(rate("1e19"), Ok(None));
    assert_eq!(rate("-1"), Ok(None));
    for refused in ["0.5", "-2.0", "NaN", "inf", "0", "", "fast"] {
        let error = rate(refused).unwrap_err().to_string();
        assert!(error.contains("log.cleaner.io.max.bytes.per.second"), "{refused}: {error}");
    }
}

#[test]
fn what_is_wrong_in_properties_is_named() {
    let error = |text: &str| parsed(text).unwrap_err().to_string();
    assert_eq!(error("node.id=1"), "no data directory is named; set log.dirs");
    assert!(error("log.dir=/a\nlog.dir=/b").contains("log.dir is set in line 1 and again in line 2"));
    assert!(error("log.dirs=/a\nlog.segment.bites=5").contains("nearest is \"log.segment.bytes\""));
    assert!(error("log.dirs=/a\nalluvium.x=5").contains("is no known key"));
    assert!(error("log.dirs=/a\nalluvium.workers=none").contains("threads | tick"));
    assert!(error("log.dirs=/a\nlog.retention.check.interval.ms=0").contains("outside 1..="));
    assert!(error("log.dirs=/a\nlog.retention.check.interval.ms=\\u12").contains("line 2"));
    assert!(error("log.dirs=/a\nlog.cleaner.enable=no").contains("false | true"));
    assert!(error("log.dirs=/a\nlog.cleaner.threads=2\nlog.cleaner.dedupe.buffer.size=1048576").contains("2097152..="));
    assert!(error("log.dirs=/a,/a/b").contains("lies within"));
}

#[test]
fn descriptors_are_three_quarters_of_the_limit() {
    assert_eq!(open_files_within(1024), 768);
    assert_eq!((open_files_within(0), open_files_within(u64::MAX)), (16, i32::MAX.unsigned_abs()));
    assert!(StoreConfig::default().open_files() >= 16);
    assert_eq!(StoreConfig { open_files_max: Some(99), ..StoreConfig::default() }.open_files(), 99);
}
