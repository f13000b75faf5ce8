//! Kafka's text checkpoints: small files that list offsets in decimal (format: Kafka's `CheckpointFile`).
//!
//! ```text
//! 0              version
//! 2              number of entries, as many as lines follow
//! orders 0 30    an entry: its fields with a space between them
//! orders 1 30
//! ```
//! Lines end with a newline; like Kafka's reader, ours takes a carriage return, or both, as well, and any white space
//! between fields. A file without a byte has no entries: Kafka makes it that way. Where Kafka's reader takes a file that
//! ends after its version for one without entries, ours refuses it: nobody writes that, so something was lost.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::units::Offset;

/// The only version there is.
const VERSION: i64 = 0;
/// Lines before the first entry.
const HEADING_LINES: usize = 2;
/// Room for the entries of a million partitions. A longer file is refused unread.
const BYTES_MAX: usize = 64 << 20;

/// Why a text checkpoint cannot be used. Lines count from 1.
///
/// The answer is always the same: what the file lists has to be found in the logs, or taken as unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// No checkpoint is this long.
    #[error("{bytes} bytes are more than the {max} that a checkpoint may have")]
    Size {
        /// Bytes of the file.
        bytes: u64,
        /// The most that are read.
        max: u64,
    },
    /// A line is no text.
    #[error("line {line} is not UTF-8")]
    Utf8 {
        /// Which line.
        line: usize,
    },
    /// The file ends before a line that it must have.
    #[error("it ends before line {line}, the {field}")]
    Ends {
        /// Which line.
        line: usize,
        /// What stands there.
        field: &'static str,
    },
    /// A version that this build does not read.
    #[error("version {found} is unknown to this build, which reads 0")]
    Version {
        /// What the first line says.
        found: i64,
    },
    /// A line has too few fields or too many.
    #[error("line {line} has {found} fields where {expected} belong")]
    Fields {
        /// Which line.
        line: usize,
        /// Fields that it has; one that is empty, before leading white space, counts.
        found: usize,
        /// Fields that an entry has.
        expected: usize,
    },
    /// A field that must have content has none.
    #[error("line {line}: {field} is empty")]
    Empty {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// A field is no decimal number, or one that does not fit 64 bits.
    #[error("line {line}: {field} is no decimal number that fits 64 bits")]
    Number {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// A number is negative, or larger than its field can be.
    #[error("line {line}: {field} is {value}, which is outside 0..={max}")]
    Range {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: i64,
        /// Largest allowed; the smallest is 0.
        max: i64,
    },
    /// A field must rise from entry to entry and does not.
    #[error("line {line}: {field} does not rise above that of the line before")]
    Order {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// The same partition stands there twice, so that one of the two offsets is wrong.
    #[error("line {line} lists a partition that an earlier line has")]
    Duplicate {
        /// Which line.
        line: usize,
    },
    /// The number of entries is not what the second line says.
    #[error("line 2 counts {declared} entries and {found} are there")]
    Count {
        /// What the second line says.
        declared: i64,
        /// Lines that follow it.
        found: usize,
    },
}

/// The bytes of an `*-offset-checkpoint`: topic, partition and offset of each entry, by topic and then partition,
/// whatever their order here.
///
/// # Panics
/// If a topic is empty or has ASCII white space, or a partition is negative: the file could not be read again. Topics
/// have names, of letters, digits, `.`, `_` and `-`.
///
/// ```
/// use alluvium::Offset;
/// use alluvium::index::{decode_offsets, encode_offsets};
/// let entries = [("orders".to_owned(), 1, Offset::new(30).unwrap()), ("orders".to_owned(), 0, Offset::ZERO)];
/// let bytes = encode_offsets(&entries);
/// assert_eq!(bytes, b"0\n2\norders 0 0\norders 1 30\n");
/// assert_eq!(decode_offsets(&bytes)?.first(), entries.last());
/// # Ok::<(), alluvium::index::TextFault>(())
/// ```
pub fn encode_offsets(entries: &[(String, i32, Offset)]) -> Vec<u8> {
    let mut sorted: Vec<&(String, i32, Offset)> = entries.iter().collect();
    sorted.sort_unstable();
    let mut text = heading(entries.len());
    for (topic, partition, offset) in sorted {
        assert!(!topic.is_empty() && !topic.contains(parts_text), "{topic:?} is no name of a topic");
        assert!(*partition >= 0, "partition {partition} of {topic} does not exist");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{topic} {partition} {offset}");
    }
    text.into_bytes()
}

/// Reads an `*-offset-checkpoint` of at most 64 MiB: topic, partition and offset of each entry, by topic and then
/// partition. A file without a byte has none. Source: Kafka's `OffsetCheckpointFile`.
pub fn decode_offsets(bytes: &[u8]) -> Result<Vec<(String, i32, Offset)>, TextFault> {
    let mut offsets = BTreeMap::new();
    decode_entries(bytes, |line, [topic, partition, offset]| {
        if topic.is_empty() {
            return Err(TextFault::Empty { line, field: "topic" });
        }
        let partition = checked_i32(line, "partition", partition, |value| (value >= 0).then_some(value))?;
        let offset = checked_offset(line, "offset", offset)?;
        let earlier = offsets.insert((topic, partition), offset);
        if earlier.is_some() { Err(TextFault::Duplicate { line }) } else { Ok(()) }
    })?;
    let owned = |((topic, partition), offset): ((&str, i32), Offset)| (topic.to_owned(), partition, offset);
    Ok(offsets.into_iter().map(owned).collect())
}

/// The lines before the entries.
pub(super) fn heading(entries: usize) -> String {
    format!("{VERSION}\n{entries}\n")
}

/// Reads a checkpoint whose entries have `FIELDS` fields. `entry` gets each with the number of its line.
pub(super) fn decode_entries<'a, T, const FIELDS: usize>(
    bytes: &'a [u8],
    mut entry: impl FnMut(usize, [&'a str; FIELDS]) -> Result<T, TextFault>,
) -> Result<Vec<T>, TextFault> {
    if bytes.len() > BYTES_MAX {
        return Err(TextFault::Size { bytes: bytes.len() as u64, max: BYTES_MAX as u64 });
    }
    let mut lines = Lines { rest: bytes, number: 0 };
    let Some(version) = lines.next() else {
        return Ok(Vec::new());
    };
    let found = checked_number(1, "version", version?.1)?;
    if found != VERSION {
        return Err(TextFault::Version { found });
    }
    let count = lines.next().ok_or(TextFault::Ends { line: HEADING_LINES, field: "number of entries" })?;
    let declared = checked_number(HEADING_LINES, "number of entries", count?.1)?;
    // What the count says is not believed before the lines are there: nothing is allocated on it.
    let mut entries = Vec::new();
    for line in lines {
        let (number, text) = line?;
        entries.push(entry(number, fields(number, text)?)?);
    }
    if i64::try_from(entries.len()) == Ok(declared) {
        Ok(entries)
    } else {
        Err(TextFault::Count { declared, found: entries.len() })
    }
}

/// A number that an offset can be.
pub(super) fn checked_offset(line: usize, field: &'static str, text: &str) -> Result<Offset, TextFault> {
    let value = checked_number(line, field, text)?;
    Offset::new(value).ok_or(TextFault::Range { line, field, value, max: i64::MAX })
}

/// A unit of 32 bits that is never negative.
pub(super) fn checked_i32<T>(
    line: usize,
    field: &'static str,
    text: &str,
    unit: impl Fn(i32) -> Option<T>,
) -> Result<T, TextFault> {
    let value = checked_number(line, field, text)?;
    let fits = i32::try_from(value).ok().and_then(unit);
    fits.ok_or(TextFault::Range { line, field, value, max: i64::from(i32::MAX) })
}

fn checked_number(line: usize, field: &'static str, text: &str) -> Result<i64, TextFault> {
    text.parse().map_err(|_| TextFault::Number { line, field })
}

/// Parts a line as Kafka does: white space at its end is dropped, some before its first field leaves an empty one.
fn fields<const FIELDS: usize>(line: usize, text: &str) -> Result<[&str; FIELDS], TextFault> {
    let mut fields = [""; FIELDS];
    let leading = usize::from(text.starts_with(is_space));
    let mut found = leading;
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if let Some(field) = fields.get_mut(found) {
            *field = word;
        }
        found += 1;
    }
    if found == FIELDS { Ok(fields) } else { Err(TextFault::Fields { line, found, expected: FIELDS }) }
}

/// The white space of Java's patterns, but for the ends of lines.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0b' | '\x0c')
}

/// What ends a field or a line.
fn parts_text(c: char) -> bool {
    is_space(c) || matches!(c, '\n' | '\r')
}

/// Lines as Java's readers part them, with their numbers from 1.
struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<(usize, &'a str), TextFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(self.rest.len());
        let (line, tail) = self.rest.split_at(end);
        self.rest = match tail {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => &[],
        };
        self.number += 1;
        let number = self.number;
        Some(str::from_utf8(line).map(|text| (number, text)).map_err(|_| TextFault::Utf8 { line: number }))
    }
}

#[cfg(test)]
mod tests;
