//! What a key of the table is, and how its value is parsed, printed and checked.

use std::fmt;
use std::time::Duration;

use super::{DirtyRatio, LogConfig};
use crate::error::ConfigError;

const NANOS_PER_MS: u32 = 1_000_000;
const WHOLE_NUMBER: &str = "write a whole number";
const MILLISECONDS: &str = "write milliseconds, with up to six decimals";
/// As much of a refused value as an error repeats.
const SHOWN_CHARS: usize = 80;

/// A key of the configuration: its name, default, range and meaning. [`LogConfig::describe`] lists them all.
///
/// ```
/// use alluvium::LogConfig;
/// let key = LogConfig::describe().iter().find(|key| key.name == "segment.ms").unwrap();
/// assert_eq!((key.kind(), key.default), ("integer", "604800000"));
/// assert_eq!(key.values.to_string(), "1..=9223372036854775807");
/// assert_eq!(key.value_of(&LogConfig { segment_ms: 5, ..LogConfig::default() }), "5");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeyDoc {
    /// Kafka's topic key where it has one, Kafka's broker key where a broker alone has it, else `alluvium.` and a name.
    pub name: &'static str,
    /// The default value as text.
    pub default: &'static str,
    /// The values allowed.
    pub values: Values,
    /// What it means, in one or two sentences.
    pub doc: &'static str,
    /// Broker keys that set the same, the most binding one first. Each binds less than `name` itself.
    pub synonyms: &'static [Synonym],
    slot: Slot,
}

/// A broker's key for a topic's setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synonym {
    /// The broker's key.
    pub name: &'static str,
    /// One of its units in units of the topic's key: 3,600,000 for hours where that has milliseconds.
    pub unit: u32,
}

impl Synonym {
    /// In the topic key's own unit.
    pub(super) const fn same(name: &'static str) -> Self {
        Self { name, unit: 1 }
    }

    pub(super) const fn minutes(name: &'static str) -> Self {
        Self { name, unit: 60_000 }
    }

    pub(super) const fn hours(name: &'static str) -> Self {
        Self { name, unit: 3_600_000 }
    }
}

/// The values that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Values {
    /// A whole number.
    Integer(Bounds),
    /// Milliseconds; up to six decimals are taken, which Kafka does not do.
    Milliseconds(Bounds),
    /// A number from 0.0 to 1.0.
    Ratio,
    /// `true` or `false`, in any case.
    Boolean,
    /// One of these words, in this case. Words with commas may have their parts in any order.
    OneOf(&'static [&'static str]),
}

/// The range of a number, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Smallest allowed.
    pub min: i64,
    /// Largest allowed.
    pub max: i64,
    /// One more value, with a meaning of its own that the key's doc tells.
    pub also: Option<i64>,
}

impl Bounds {
    pub(super) const fn new(min: i64, max: i64) -> Self {
        Self { min, max, also: None }
    }

    pub(super) const fn or(self, also: i64) -> Self {
        Self { also: Some(also), ..self }
    }

    /// The same range for a synonym. Kafka's keys in hours and minutes are 32 bits wide.
    fn in_units_of(self, unit: u32) -> Self {
        if unit == 1 {
            return self;
        }
        let unit = i64::from(unit);
        let min = self.min / unit + i64::from(self.min % unit > 0);
        Self { min, max: (self.max / unit).min(i64::from(i32::MAX)), also: self.also }
    }

    fn is_also(self, value: i128) -> bool {
        self.also.is_some_and(|also| i128::from(also) == value)
    }

    fn check(self, key: &'static str, value: i128) -> Result<(), ConfigError> {
        let Self { min, max, also } = self;
        if (i128::from(min)..=i128::from(max)).contains(&value) {
            return Ok(());
        }
        Err(ConfigError::OutOfRange { key, value, min, max, also })
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(bounds) | Self::Milliseconds(bounds) => {
                write!(f, "{}..={}", bounds.min, bounds.max)?;
                bounds.also.map_or(Ok(()), |also| write!(f, " | {also}"))
            }
            Self::Ratio => f.write_str("0.0..=1.0"),
            Self::Boolean => f.write_str("false | true"),
            Self::OneOf(words) => f.write_str(&words.join(" | ")),
        }
    }
}

type Read<T> = fn(&LogConfig) -> T;
type Write<T> = fn(&mut LogConfig, T);

/// Where a key's value lives in a [`LogConfig`], by type. `None` prints as the one more value of the key's bounds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    U32(Read<u32>, Write<u32>),
    U64(Read<u64>, Write<u64>),
    OptionalU64(Read<Option<u64>>, Write<Option<u64>>),
    Millis(Read<Option<Duration>>, Write<Option<Duration>>),
    /// The level of one codec. `None` while another is chosen: then there is nothing to write to either.
    Level(Read<Option<i32>>, Write<i32>),
    Ratio(Read<DirtyRatio>, Write<DirtyRatio>),
    Flag(Read<bool>, Write<bool>),
    /// Written only with one of the key's words.
    Word(Read<&'static str>, fn(&mut LogConfig, &str)),
}

/// What setting a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Set,
    /// The level of a codec that is not chosen, other than its default.
    Nothing,
}

impl KeyDoc {
    /// An entry of the table.
    pub(super) const fn new(
        name: &'static str,
        default: &'static str,
        values: Values,
        slot: Slot,
        doc: &'static str,
    ) -> Self {
        Self { name, default, values, doc, synonyms: &[], slot }
    }

    pub(super) const fn synonyms(self, synonyms: &'static [Synonym]) -> Self {
        Self { synonyms, ..self }
    }

    /// The type of its values, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self.values {
            Values::Integer(_) => "integer",
            Values::Milliseconds(_) => "milliseconds",
            Values::Ratio => "ratio",
            Values::Boolean => "boolean",
            Values::OneOf(_) => "word",
        }
    }

    /// Whether Kafka has no such key.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with("alluvium.")
    }

    /// The value of this key in `config`, as properties spell it. Of a codec that is not chosen, the default level.
    pub fn value_of(&self, config: &LogConfig) -> String {
        let or_also = |text: Option<String>| text.unwrap_or_else(|| self.also_text());
        match self.slot {
            Slot::U32(read, _) => read(config).to_string(),
            Slot::U64(read, _) => read(config).to_string(),
            Slot::OptionalU64(read, _) => or_also(read(config).map(|value| value.to_string())),
            Slot::Millis(read, _) => or_also(read(config).map(millis_text)),
            Slot::Level(read, _) => read(config).map_or_else(|| self.default.to_owned(), |level| level.to_string()),
            // The shortest decimal that reads back as the same number.
            Slot::Ratio(read, _) => format!("{:?}", read(config).value()),
            Slot::Flag(read, _) => read(config).to_string(),
            Slot::Word(read, _) => read(config).to_owned(),
        }
    }

    fn also_text(&self) -> String {
        self.bounds().also.map_or_else(|| self.default.to_owned(), |also| also.to_string())
    }

    /// Refuses a value of `config` that this key does not allow.
    pub(super) fn check(&self, config: &LogConfig) -> Result<(), ConfigError> {
        let value = match self.slot {
            Slot::U32(read, _) => Some(i128::from(read(config))),
            Slot::U64(read, _) => Some(i128::from(read(config))),
            Slot::OptionalU64(read, _) => read(config).map(i128::from),
            Slot::Millis(read, _) => read(config).map(whole_millis),
            Slot::Level(read, _) => read(config).map(i128::from).filter(|level| !self.bounds().is_also(*level)),
            Slot::Ratio(..) | Slot::Flag(..) | Slot::Word(..) => None,
        };
        value.map_or(Ok(()), |value| self.bounds().check(self.name, value))
    }

    /// Parses `text`, given under this key's name or a synonym, and writes it into `config`.
    pub(super) fn set(&self, source: Synonym, text: &str, config: &mut LogConfig) -> Result<Effect, ConfigError> {
        let text = text.trim();
        match self.slot {
            Slot::U32(_, write) => {
                let value = self.integer(source, text)?;
                write(config, u32::try_from(value).map_err(|_| self.too_wide(source, value))?);
            }
            Slot::U64(_, write) => {
                let value = self.integer(source, text)?;
                write(config, u64::try_from(value).map_err(|_| self.too_wide(source, value))?);
            }
            Slot::OptionalU64(_, write) => {
                let value = Some(self.integer(source, text)?).filter(|value| !self.bounds().is_also(*value));
                let value = value.map(|value| u64::try_from(value).map_err(|_| self.too_wide(source, value)));
                write(config, value.transpose()?);
            }
            Slot::Millis(_, write) => write(config, self.duration(source, text)?),
            Slot::Level(read, write) => {
                let value = self.integer(source, text)?;
                if read(config).is_none() {
                    return Ok(if value.to_string() == self.default { Effect::Set } else { Effect::Nothing });
                }
                write(config, i32::try_from(value).map_err(|_| self.too_wide(source, value))?);
            }
            Slot::Ratio(_, write) => {
                let ratio = text.parse().ok().and_then(DirtyRatio::new);
                let refused = || ConfigError::NotARatio { key: source.name, value: shown(text) };
                write(config, ratio.ok_or_else(refused)?);
            }
            Slot::Flag(_, write) => write(config, self.word(source, &text.to_ascii_lowercase())? == "true"),
            Slot::Word(_, write) => write(config, self.word(source, text)?),
        }
        Ok(Effect::Set)
    }

    fn bounds(&self) -> Bounds {
        match self.values {
            Values::Integer(bounds) | Values::Milliseconds(bounds) => bounds,
            Values::Ratio | Values::Boolean | Values::OneOf(_) => Bounds::new(0, 1),
        }
    }

    /// A whole number within the bounds, in this key's unit.
    fn integer(&self, source: Synonym, text: &str) -> Result<i128, ConfigError> {
        let refused = |_| ConfigError::NotANumber { key: source.name, value: shown(text), expected: WHOLE_NUMBER };
        let value: i128 = text.parse().map_err(refused)?;
        self.scaled(source, value)
    }

    fn scaled(&self, source: Synonym, value: i128) -> Result<i128, ConfigError> {
        // It means what it means in every unit: -1 hours is no limit, as -1 ms is.
        if self.bounds().is_also(value) {
            return Ok(value);
        }
        self.bounds().in_units_of(source.unit).check(source.name, value)?;
        Ok(value * i128::from(source.unit))
    }

    /// Milliseconds with or without decimals; `None` for the one more value.
    fn duration(&self, source: Synonym, text: &str) -> Result<Option<Duration>, ConfigError> {
        let refused = || ConfigError::NotANumber { key: source.name, value: shown(text), expected: MILLISECONDS };
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_fraction = (1..=6).contains(&decimals.len()) && decimals.bytes().all(|byte| byte.is_ascii_digit());
        let is_negative_fraction = whole.starts_with('-') && text.contains('.');
        if !is_fraction || is_negative_fraction {
            return Err(refused());
        }
        let nanos: u32 = format!("{decimals:0<6}").parse().map_err(|_| refused())?;
        let millis = self.scaled(source, whole.parse().map_err(|_| refused())?)?;
        if self.bounds().is_also(millis) {
            return if nanos == 0 { Ok(None) } else { Err(refused()) };
        }
        let millis = u64::try_from(millis).map_err(|_| self.too_wide(source, millis))?;
        let duration = Duration::from_millis(millis).checked_add(Duration::from_nanos(u64::from(nanos)));
        duration.map(Some).ok_or_else(refused)
    }

    /// The value's own spelling of one of the words.
    fn word(&self, source: Synonym, text: &str) -> Result<&'static str, ConfigError> {
        let allowed = match self.values {
            Values::OneOf(words) => words,
            _ => &["false", "true"],
        };
        let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
        parts.sort_unstable();
        let wanted = parts.join(",");
        let found = allowed.iter().find(|word| **word == wanted).copied();
        found.ok_or_else(|| ConfigError::NotOneOf { key: source.name, value: shown(text), allowed })
    }

    /// Says no to what the bounds allow and the field cannot hold; a table whose bounds fit its fields never gets here.
    fn too_wide(&self, source: Synonym, value: i128) -> ConfigError {
        let Bounds { min, max, also } = self.bounds();
        ConfigError::OutOfRange { key: source.name, value, min, max, also }
    }
}

/// A setting's text as an error repeats it.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn whole_millis(duration: Duration) -> i128 {
    i128::from(duration.as_secs()) * 1000 + i128::from(duration.subsec_millis())
}

fn millis_text(duration: Duration) -> String {
    let (millis, nanos) = (whole_millis(duration), duration.subsec_nanos() % NANOS_PER_MS);
    if nanos == 0 {
        return millis.to_string();
    }
    format!("{millis}.{nanos:06}").trim_end_matches('0').to_owned()
}
