//! Why settings are refused.

/// Why a setting is refused, or a text of settings. Values are never clamped, and what is refused changes nothing.
///
/// ```
/// use alluvium::LogConfig;
/// use alluvium::error::ConfigError;
/// let error = LogConfig::from_kafka_properties("segment.bytes=13").unwrap_err();
/// assert!(matches!(error, ConfigError::OutOfRange { key: "segment.bytes", value: 13, min: 14, .. }));
/// assert_eq!(error.to_string(), "segment.bytes = 13 is outside 14..=2147483647; set it within that range");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number out of its range.
    #[error("{key} = {value} is outside {min}..={max}; set it within that range{}", or_to(*.also))]
    OutOfRange {
        /// The key, as it was given: Kafka's topic key, a broker's synonym for it, or one of ours.
        key: &'static str,
        /// The value refused, in the key's own unit; of milliseconds, the whole ones.
        value: i128,
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
        /// One more value that is allowed and means something of its own, such as -1 for no limit.
        also: Option<i64>,
    },
    /// No number at all, or one of more than 128 bits.
    #[error("{key} = {value:?} is not a number; {expected}")]
    NotANumber {
        /// The key, as it was given.
        key: &'static str,
        /// The value refused; its beginning, if it is long.
        value: String,
        /// What is taken.
        expected: &'static str,
    },
    /// No number from 0 to 1.
    #[error("{key} = {value:?} is not a ratio; set a number from 0.0 to 1.0")]
    NotARatio {
        /// The key, as it was given.
        key: &'static str,
        /// The value refused; its beginning, if it is long.
        value: String,
    },
    /// None of the words that the key knows.
    #[error("{key} = {value:?} is none of its values; set one of {}", allowed.join(" | "))]
    NotOneOf {
        /// The key, as it was given.
        key: &'static str,
        /// The value refused; its beginning, if it is long.
        value: String,
        /// Every value allowed. Case matters, as it does to Kafka, but for `true` and `false`.
        allowed: &'static [&'static str],
    },
    /// A key that is neither ours nor one that Kafka has for topics or logs.
    #[error("{key:?} is no known key{}; `LogConfig::describe` lists them all", nearest_is(*nearest))]
    UnknownKey {
        /// The key; its beginning, if it is long.
        key: String,
        /// The known key that is spelt most alike, if any is.
        nearest: Option<&'static str>,
    },
    /// A key stands in a text twice. Java would silently take the later one.
    #[error("{key} is set in line {first} and again in line {second}; remove one of them")]
    Duplicate {
        /// The key.
        key: &'static str,
        /// Line of the first, from 1.
        first: usize,
        /// Line of the second, from 1.
        second: usize,
    },
    /// Two settings that cannot both hold, by Kafka's rule (`LogConfig.validateValues`).
    #[error("{lower} = {lower_value} is larger than {upper} = {upper_value}; lower the one or raise the other")]
    Contradiction {
        /// The key whose value must not be the larger one.
        lower: &'static str,
        /// Its value.
        lower_value: u64,
        /// The key whose value bounds it.
        upper: &'static str,
        /// Its value.
        upper_value: u64,
    },
    /// A single setting that would change nothing.
    #[error("{key} has no effect here: {reason}")]
    NoEffect {
        /// The key, as it was given.
        key: &'static str,
        /// Why, and what to set instead if there is anything.
        reason: &'static str,
    },
    /// An escape in a text of properties that is not complete, or half a surrogate pair.
    #[error(r"line {line} holds a malformed \u escape; write \u and four hex digits, surrogates in pairs")]
    MalformedEscape {
        /// Where the line starts, from 1.
        line: usize,
    },
}

impl ConfigError {
    /// The key that is refused. `None` where a line could not be read so far.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::OutOfRange { key, .. }
            | Self::NotANumber { key, .. }
            | Self::NotARatio { key, .. }
            | Self::NotOneOf { key, .. }
            | Self::Duplicate { key, .. }
            | Self::NoEffect { key, .. }
            | Self::Contradiction { lower: key, .. } => Some(key),
            Self::UnknownKey { key, .. } => Some(key),
            Self::MalformedEscape { .. } => None,
        }
    }
}

fn or_to(also: Option<i64>) -> String {
    also.map_or_else(String::new, |value| format!(", or to {value}"))
}

fn nearest_is(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; the nearest is {key:?}"))
}
