//! From a text of properties, or a single key and its value, to a config.

use std::collections::BTreeMap;
use std::fmt;

use super::LogConfig;
use super::keys::{Effect, KeyDoc, Synonym, shown};
use super::properties::{self, Property};
use super::table::{self, Known};

use crate::error::ConfigError;

const LEVEL_WITHOUT_CODEC: &str = "compression.type names another codec; set it to this one first";

/// What a text of properties says. See [`LogConfig::from_kafka_properties`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedConfig {
    /// The settings, valid. What the text does not name has its default.
    pub config: LogConfig,
    /// Keys that are known and changed nothing, by name.
    pub ignored: Vec<IgnoredKey>,
}

/// A known key that changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IgnoredKey {
    /// The key.
    pub key: &'static str,
    /// Its value; the beginning, if it is long.
    pub value: String,
    /// Why it changed nothing.
    pub reason: IgnoredReason,
}

/// Why a known key changed nothing. `Display` puts it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IgnoredReason {
    /// It says nothing to one log, for this reason. The value was not looked at.
    NotOfTheLog(&'static str),
    /// The same setting was given by this key, which binds more: topic over broker, milliseconds over minutes over
    /// hours.
    OverriddenBy(&'static str),
    /// It needs another setting, as this says: the level of a codec that is not chosen.
    NoEffect(&'static str),
}

impl fmt::Display for IgnoredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOfTheLog(why) | Self::NoEffect(why) => f.write_str(why),
            Self::OverriddenBy(key) => write!(f, "{key} is set and binds more"),
        }
    }
}

/// The properties of a text by name, each with its line.
type Named = BTreeMap<&'static str, Property>;

impl LogConfig {
    /// Reads settings from a text in the syntax of Java's `.properties`: comments with `#` or `!`, keys and values
    /// separated by `=`, `:` or blanks, escapes, and lines that go on after a backslash.
    ///
    /// Taken are Kafka's topic keys (`segment.bytes`), the broker keys that Kafka has for the same settings
    /// (`log.segment.bytes`, `log.retention.hours`), and ours, which begin with `alluvium.`. A topic key binds more than
    /// a broker key, and of several broker keys the one with the finer unit, wherever they stand. Values that are
    /// overridden are checked all the same.
    ///
    /// ```
    /// use alluvium::LogConfig;
    /// use alluvium::config::IgnoredReason;
    ///
    /// let text = "# orders\nlog.retention.hours = 48\nretention.ms: 3600000\nmin.insync.replicas=2";
    /// let parsed = LogConfig::from_kafka_properties(text).unwrap();
    /// assert_eq!(parsed.config.retention_ms, Some(3_600_000));
    /// assert_eq!(parsed.ignored[0].reason, IgnoredReason::OverriddenBy("retention.ms"));
    /// assert_eq!(parsed.ignored[1].key, "min.insync.replicas");
    ///
    /// let error = LogConfig::from_kafka_properties("segment.byte=5").unwrap_err();
    /// assert!(error.to_string().contains("the nearest is \"segment.bytes\""), "{error}");
    /// ```
    ///
    /// # Errors
    /// Unlike Kafka, which takes the last of them, a key that stands there twice is [`ConfigError::Duplicate`]. An
    /// unknown key is [`ConfigError::UnknownKey`]; Kafka's keys for topics and logs that say nothing to one log, such as
    /// `min.insync.replicas`, are known and returned in [`ParsedConfig::ignored`]. Otherwise as
    /// [`validate`](Self::validate), with the key named as it was given.
    pub fn from_kafka_properties(text: &str) -> Result<ParsedConfig, ConfigError> {
        Self::from_properties(properties::parse(text)?)
    }

    /// The same from properties that were parsed before.
    pub(crate) fn from_properties(found: Vec<Property>) -> Result<ParsedConfig, ConfigError> {
        let mut parsed = ParsedConfig { config: Self::default(), ignored: Vec::new() };
        let named = by_name(found, &mut parsed.ignored)?;
        for key in table::KEYS {
            apply(key, &named, &mut parsed)?;
        }
        parsed.config.validate()?;
        parsed.ignored.sort_by_key(|ignored| ignored.key);
        Ok(parsed)
    }

    /// The same settings but for one key, whose value is given as in properties. Keys are those of
    /// [`from_kafka_properties`](Self::from_kafka_properties).
    ///
    /// ```
    /// use alluvium::LogConfig;
    /// let config = LogConfig::default().with("retention.ms", "-1").unwrap();
    /// assert_eq!(config, LogConfig { retention_ms: None, ..LogConfig::default() });
    /// ```
    ///
    /// # Errors
    /// As [`from_kafka_properties`](Self::from_kafka_properties); and [`ConfigError::NoEffect`] for a key that says
    /// nothing to one log, and for the level of a codec that is not chosen.
    pub fn with(&self, key: &str, value: &str) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        match table::find(key).ok_or_else(|| unknown(key))? {
            Known::NotOurs { name, reason } => return Err(ConfigError::NoEffect { key: name, reason }),
            Known::Key(key, source) => {
                if key.set(source, value, &mut config)? == Effect::Nothing {
                    return Err(ConfigError::NoEffect { key: source.name, reason: LEVEL_WITHOUT_CODEC });
                }
            }
        }
        config.validate()?;
        Ok(config)
    }
}

/// Whether a key says something to a log, or is known to say nothing to one.
pub(crate) fn is_log_key(key: &str) -> bool {
    table::find(key).is_some()
}

fn unknown(key: &str) -> ConfigError {
    ConfigError::UnknownKey { key: shown(key), nearest: table::nearest(key) }
}

/// Sorts out what is unknown, given twice, or not ours.
fn by_name(found: Vec<Property>, ignored: &mut Vec<IgnoredKey>) -> Result<Named, ConfigError> {
    let mut named = Named::new();
    for property in found {
        let known = table::find(&property.key).ok_or_else(|| unknown(&property.key))?;
        let name = match known {
            Known::Key(_, source) => source.name,
            Known::NotOurs { name, .. } => name,
        };
        if let Some(first) = named.get(name) {
            return Err(ConfigError::Duplicate { key: name, first: first.line, second: property.line });
        }
        if let Known::NotOurs { reason, .. } = known {
            let reason = IgnoredReason::NotOfTheLog(reason);
            ignored.push(IgnoredKey { key: name, value: shown(&property.value), reason });
        }
        named.insert(name, property);
    }
    Ok(named)
}

/// Sets a key from the most binding of its names that is given; the others are checked and noted.
fn apply(key: &'static KeyDoc, named: &Named, parsed: &mut ParsedConfig) -> Result<(), ConfigError> {
    let mut binding: Option<Synonym> = None;
    for source in table::sources(key) {
        let Some(Property { value, .. }) = named.get(source.name) else { continue };
        let reason = if let Some(binding) = binding {
            key.set(source, value, &mut parsed.config.clone())?;
            IgnoredReason::OverriddenBy(binding.name)
        } else {
            binding = Some(source);
            match key.set(source, value, &mut parsed.config)? {
                Effect::Set => continue,
                Effect::Nothing => IgnoredReason::NoEffect(LEVEL_WITHOUT_CODEC),
            }
        };
        parsed.ignored.push(IgnoredKey { key: source.name, value: shown(value), reason });
    }
    Ok(())
}
