//! What a partition is called: its topic and number, the topic's id, and the id of a data directory.
//!
//! Plain values, checked when they are made: whoever holds one need not check it again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Bytes that a topic's name may have (Kafka's `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_BYTES_MAX: usize = 249;
/// Bytes that file systems take for a name (`NAME_MAX`), and that Kafka cuts names of directories to.
pub const DIR_NAME_BYTES_MAX: usize = 255;

/// Why something is no name of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// The topic has no name.
    #[error("the topic's name is empty; give it 1 to {TOPIC_BYTES_MAX} characters")]
    EmptyTopic,
    /// The topic is `.` or `..`, which name directories.
    #[error("a topic cannot be named . or ..; choose another name")]
    Dots,
    /// The topic's name is too long.
    #[error("a topic's name of {bytes} bytes is too long; {TOPIC_BYTES_MAX} are allowed")]
    TopicLength {
        /// Bytes that it has.
        bytes: usize,
    },
    /// The topic's name has a character that it may not have.
    #[error("{found:?} at byte {at} cannot stand in a topic's name; use letters and digits of ASCII, '.', '_' and '-'")]
    Character {
        /// Where it stands, in bytes from 0.
        at: usize,
        /// The first such character.
        found: char,
    },
    /// Partitions count from 0.
    #[error("partition {partition} does not exist; partitions count from 0")]
    NegativePartition {
        /// As given.
        partition: i32,
    },
    /// No directory can be called so.
    #[error("the directory's name would have {bytes} bytes where {DIR_NAME_BYTES_MAX} fit; choose a shorter topic")]
    DirNameLength {
        /// Bytes that the name would have.
        bytes: usize,
    },
    /// A directory's name does not end in a dash and a partition's number, written as Kafka writes it.
    #[error("the name does not end in a dash and a partition's number, as in orders-0")]
    NoPartition,
}

/// A partition of a topic. Ordered by topic, byte by byte, then number, as checkpoints are written. Cheap to clone.
///
/// The rules are those of Kafka's `Topic.validate`: 1 to 249 of `a-z A-Z 0-9 . _ -`, neither `.` nor `..`; partitions
/// from 0 to `i32::MAX`. Together they name a directory, so that a long topic bounds the number's digits as well.
///
/// ```
/// use alluvium::store::{NameFault, TopicPartition};
/// let partition = TopicPartition::new("orders-eu", 7)?;
/// assert_eq!(partition.to_string(), "orders-eu-7");
/// assert_eq!("orders-eu-7".parse(), Ok(partition));
/// assert_eq!(TopicPartition::new("two words", 0), Err(NameFault::Character { at: 3, found: ' ' }));
/// # Ok::<(), NameFault>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    topic: Arc<str>,
    partition: i32,
}

impl TopicPartition {
    /// The partition with this number.
    ///
    /// # Errors
    /// [`NameFault`]: what is wrong with the topic's name or the number, or that both together are too long.
    pub fn new(topic: &str, partition: i32) -> Result<Self, NameFault> {
        check_topic(topic)?;
        if partition < 0 {
            return Err(NameFault::NegativePartition { partition });
        }
        let named = Self { topic: Arc::from(topic), partition };
        let bytes = named.to_string().len();
        if bytes > DIR_NAME_BYTES_MAX { Err(NameFault::DirNameLength { bytes }) } else { Ok(named) }
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number, from 0.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The name of its directory, `<topic>-<partition>`; [`str::parse`] takes it apart again.
    pub fn dir_name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicPartition {
    type Err = NameFault;

    /// Takes the name of a directory apart at its last dash, as Kafka's `UnifiedLog.parseTopicPartitionName` does. A
    /// number that Kafka would write differently (`01`, `+1`) is refused: it names another directory than ours.
    fn from_str(name: &str) -> Result<Self, NameFault> {
        let (topic, partition) = split(name).ok_or(NameFault::NoPartition)?;
        Self::new(topic, partition)
    }
}

/// Topic and number of a directory's name, parted at the last dash. The topic is not checked.
pub(super) fn split(name: &str) -> Option<(&str, i32)> {
    let (topic, number) = name.rsplit_once('-')?;
    let partition: i32 = number.parse().ok()?;
    (partition >= 0 && partition.to_string() == number).then_some((topic, partition))
}

/// Kafka's `Topic.validate`.
pub(super) fn check_topic(topic: &str) -> Result<(), NameFault> {
    if topic.is_empty() {
        return Err(NameFault::EmptyTopic);
    }
    if matches!(topic, "." | "..") {
        return Err(NameFault::Dots);
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some((at, found)) = topic.char_indices().find(|(_, c)| !is_legal(*c)) {
        return Err(NameFault::Character { at, found });
    }
    if topic.len() > TOPIC_BYTES_MAX { Err(NameFault::TopicLength { bytes: topic.len() }) } else { Ok(()) }
}

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdFault {
    /// An id has 22 characters, or 24 with its padding.
    #[error("an id has {ID_DIGITS} characters of url-safe base64, and this has {bytes} bytes")]
    Length {
        /// Bytes of the text.
        bytes: usize,
    },
    /// A character that is none of url-safe base64.
    #[error("byte {at} is none of the characters of url-safe base64")]
    Character {
        /// Where it stands, from 0.
        at: usize,
    },
    /// An id that is set aside to mean something else, such as "none".
    #[error("this id is set aside by Kafka and names nothing; take a random one")]
    Reserved,
}

/// Digits of base64 that hold 128 bits: 21 whole ones and two bits in the last.
const ID_DIGITS: usize = 22;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $reserved:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The id with these bits; `None` where Kafka has set it aside.
            pub const fn new(bits: u128) -> Option<Self> {
                if bits < $reserved { None } else { Some(Self(bits)) }
            }

            /// A new id from 128 random bits: an RFC 4122 UUID of version 4 that does not start with a dash when
            /// printed, as Kafka's `Uuid.randomUuid` makes them. Six or seven of the bits are not used.
            #[must_use]
            pub const fn from_random(bits: u128) -> Self {
                Self(without_leading_dash(as_version_4(bits)))
            }

            /// The id with these 16 bytes, most significant first; `None` where Kafka has set it aside.
            pub const fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
                Self::new(u128::from_be_bytes(bytes))
            }

            /// The 16 bytes, most significant first.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&printed(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdFault;

            /// Reads what Kafka's `Uuid.fromString` reads: padding is taken, and what the last digit has beyond the
            /// 128 bits is ignored.
            fn from_str(text: &str) -> Result<Self, IdFault> {
                Self::new(parsed(text)?).ok_or(IdFault::Reserved)
            }
        }
    };
}

id! {
    /// Identity of a topic (KIP-516): two topics of the same name, one after the other, have different ids. Every UUID
    /// but zero, which means "none" on disk. Printed as Kafka prints it, 22 characters of url-safe base64.
    ///
    /// ```
    /// use alluvium::store::{IdFault, TopicId};
    /// let id: TopicId = "EREiIjMzREQAAAAAAAAAEA".parse()?;
    /// assert_eq!(id.to_string(), "EREiIjMzREQAAAAAAAAAEA");
    /// assert_eq!(id.to_bytes()[..4], [0x11, 0x11, 0x22, 0x22]);
    /// assert_eq!("AAAAAAAAAAAAAAAAAAAAAA".parse::<TopicId>(), Err(IdFault::Reserved));
    /// # Ok::<(), IdFault>(())
    /// ```
    TopicId, 1
}
id! {
    /// Identity of a data directory (KIP-858). Every UUID but the first hundred, which Kafka's `DirectoryId` sets aside.
    /// Printed as a [`TopicId`] is.
    ///
    /// ```
    /// use alluvium::store::DirectoryId;
    /// let id = DirectoryId::from_random(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    /// assert_eq!(id.to_string().parse(), Ok(id));
    /// assert_eq!(DirectoryId::new(99), None);
    /// ```
    DirectoryId, 100
}

/// Sets version and variant, as Java's `UUID.randomUUID` does.
pub(super) const fn as_version_4(bits: u128) -> u128 {
    let versioned = bits & !(0xf << 76) | 4 << 76;
    versioned & !(3 << 62) | 2 << 62
}

/// A dash in front reads like an option on a command line.
const fn without_leading_dash(bits: u128) -> u128 {
    const DASH: u128 = 62;
    if bits >> 122 == DASH { bits & !(1 << 127) } else { bits }
}

fn printed(bits: u128) -> String {
    let whole = (0..21).map(|digit| bits >> (122 - 6 * digit));
    // The last two bits stand at the upper end of their digit.
    let sextets = whole.chain(std::iter::once(bits << 4));
    sextets.map(|sextet| digit_of(sextet.to_le_bytes()[0] & 0x3f)).collect()
}

fn parsed(text: &str) -> Result<u128, IdFault> {
    let digits = if text.len() == ID_DIGITS + 2 { text.strip_suffix("==").unwrap_or(text) } else { text };
    if digits.len() != ID_DIGITS {
        return Err(IdFault::Length { bytes: text.len() });
    }
    let mut bits = 0;
    for (at, digit) in digits.bytes().enumerate() {
        let sextet = sextet_of(digit).ok_or(IdFault::Character { at })?;
        let is_last = at + 1 == ID_DIGITS;
        bits = if is_last { bits << 2 | u128::from(sextet >> 4) } else { bits << 6 | u128::from(sextet) };
    }
    Ok(bits)
}

/// The digit of url-safe base64 (RFC 4648, section 5) for six bits.
fn digit_of(sextet: u8) -> char {
    char::from(match sextet {
        0..=25 => b'A' + sextet,
        26..=51 => b'a' + (sextet - 26),
        52..=61 => b'0' + (sextet - 52),
        62 => b'-',
        _ => b'_',
    })
}

fn sextet_of(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn seeds() -> u64 {
        std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
    }

    #[test]
    fn topics_are_checked_as_kafka_does() {
        let long = "a".repeat(TOPIC_BYTES_MAX);
        for topic in ["a", "A.b_c-9", "...", "-", "__consumer_offsets", "orders-0", long.as_str()] {
            let partition = TopicPartition::new(topic, 3).unwrap();
            assert_eq!((partition.topic(), partition.partition()), (topic, 3));
        }
        let fault = |topic: &str| TopicPartition::new(topic, 0).unwrap_err();
        assert_eq!(fault(""), NameFault::EmptyTopic);
        assert_eq!(fault("."), NameFault::Dots);
        assert_eq!(fault(".."), NameFault::Dots);
        assert_eq!(fault(&"a".repeat(250)), NameFault::TopicLength { bytes: 250 });
        assert_eq!(fault("a/b"), NameFault::Character { at: 1, found: '/' });
        assert_eq!(fault("ä"), NameFault::Character { at: 0, found: 'ä' });
        assert_eq!(fault("a\0"), NameFault::Character { at: 1, found: '\0' });
        assert_eq!(TopicPartition::new("a", -1), Err(NameFault::NegativePartition { partition: -1 }));
    }

    #[test]
    fn what_no_directory_can_be_called_is_refused() {
        let long = "a".repeat(TOPIC_BYTES_MAX);
        assert_eq!(TopicPartition::new(&long, 99_999).unwrap().dir_name().len(), DIR_NAME_BYTES_MAX);
        assert_eq!(TopicPartition::new(&long, 100_000), Err(NameFault::DirNameLength { bytes: 256 }));
    }

    #[test]
    fn names_part_at_the_last_dash() {
        let parsed = |name: &str| name.parse::<TopicPartition>();
        assert_eq!(parsed("a-b-3"), TopicPartition::new("a-b", 3));
        assert_eq!(parsed("--0"), TopicPartition::new("-", 0));
        assert_eq!(parsed("a-2147483647"), TopicPartition::new("a", i32::MAX));
        assert_eq!(parsed("a--1"), TopicPartition::new("a-", 1));
        for name in ["a", "", "-", "a-", "a-01", "a-+1", "a-b", "a-2147483648", "a-1 ", "a-1.0", "a_1"] {
            assert_eq!(parsed(name), Err(NameFault::NoPartition), "{name:?}");
        }
        assert_eq!(parsed("-0"), Err(NameFault::EmptyTopic));
    }

    #[test]
    fn partitions_are_ordered_as_checkpoints_are() {
        let mut all: Vec<_> = ["b-0", "a-10", "a-2", "B-1", "a.a-0"].iter().map(|n| n.parse().unwrap()).collect();
        all.sort_unstable();
        let names: Vec<_> = all.iter().map(TopicPartition::dir_name).collect();
        assert_eq!(names, ["B-1", "a-2", "a-10", "a.a-0", "b-0"]);
    }

    #[test]
    fn every_name_reads_back_and_whatever_reads_prints_the_same() {
        const LEGAL: &[u8] = b"abzAZ019._-";
        for seed in 0..seeds() {
            let mut rng = Rng::with_seed(seed);
            let len = if rng.bool() { rng.usize(1..8) } else { rng.usize(1..=TOPIC_BYTES_MAX) };
            let topic: String = (0..len).map(|_| char::from(LEGAL[rng.usize(0..LEGAL.len())])).collect();
            let number = if rng.bool() { rng.i32(0..20) } else { rng.i32(0..) };
            if let Ok(partition) = TopicPartition::new(&topic, number) {
                assert_eq!(partition.dir_name().parse(), Ok(partition.clone()), "seed {seed}");
                assert!(partition.dir_name().len() <= DIR_NAME_BYTES_MAX);
            }
            // Any text at all: what is taken is written the same.
            let text: String = (0..rng.usize(0..12)).map(|_| *rng.choice(b"a-0.9+ /\x7f").unwrap() as char).collect();
            if let Ok(partition) = text.parse::<TopicPartition>() {
                assert_eq!(partition.dir_name(), text, "seed {seed}");
            }
        }
    }

    #[test]
    fn ids_are_printed_as_kafka_prints_them() {
        // Kafka's own test cases: the metadata topic's id is one.
        assert_eq!(TopicId::new(1).unwrap().to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId::new(u128::MAX).unwrap().to_string(), "_____________________w");
        assert_eq!(DirectoryId::new(5 << 64 | 6), None.or("AAAAAAAAAAUAAAAAAAAABg".parse().ok()));
        for seed in 0..seeds() {
            let bits = Rng::with_seed(seed).u128(1..);
            let id = TopicId::new(bits).unwrap();
            let text = id.to_string();
            assert_eq!((text.len(), text.parse()), (ID_DIGITS, Ok(id)));
            assert_eq!(format!("{text}==").parse(), Ok(id));
            assert_eq!(TopicId::from_bytes(id.to_bytes()), Some(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let fault = |text: &str| text.parse::<TopicId>().unwrap_err();
        assert_eq!(fault(""), IdFault::Length { bytes: 0 });
        assert_eq!(fault("AAAAAAAAAAAAAAAAAAAAAQ="), IdFault::Length { bytes: 23 });
        assert_eq!(fault("AAAAAAAAAAAAAAAAAAAAAQAA"), IdFault::Length { bytes: 24 });
        assert_eq!(fault("AAAAAAAAAAAAAAAAAAAA+Q"), IdFault::Character { at: 20 });
        assert_eq!(fault("äAAAAAAAAAAAAAAAAAAAAA"), IdFault::Length { bytes: 23 });
        assert_eq!(fault("äAAAAAAAAAAAAAAAAAAAA"), IdFault::Character { at: 0 });
        assert_eq!("AAAAAAAAAAAAAAAAAAAAYw".parse::<DirectoryId>(), Err(IdFault::Reserved));
        assert!("AAAAAAAAAAAAAAAAAAAAZA".parse::<DirectoryId>().is_ok());
        // Java ignores what the last digit has beyond the 128 bits.
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAf".parse(), Ok(TopicId::new(1).unwrap()));
    }

    #[test]
    fn random_ids_are_uuids_of_version_4_without_a_dash_in_front() {
        for bits in [0, u128::MAX, 62 << 122].into_iter().chain((0..seeds()).map(|seed| Rng::with_seed(seed).u128(..)))
        {
            let id = TopicId::from_random(bits);
            let bytes = id.to_bytes();
            assert_eq!((bytes[6] >> 4, bytes[8] >> 6), (4, 2));
            assert!(!id.to_string().starts_with('-'), "{id}");
            assert!(DirectoryId::new(u128::from_be_bytes(bytes)).is_some());
        }
    }
}
