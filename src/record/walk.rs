//! Walking records without building them: what the append path does to every record it takes.
//!
//! Nearly all records have no headers and short varints. Those are read from one eight-byte word and a look at the
//! end; whatever else there is, wrong records included, goes to the parser, which is exact and explains.

use super::record::{Fields, HeaderKeys, check_headers, split_record};
use super::varint::unzigzag32;
use crate::error::{InvalidBatch, InvalidRecord};

/// What rules need to know of a record.
#[derive(Clone, Copy)]
pub(crate) struct Scanned {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) has_key: bool,
}

/// Which record, and where.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) index: u32,
    at: usize,
}

impl Place {
    /// The record there has `fault`.
    #[cold]
    pub(crate) fn refuse(self, fault: InvalidRecord) -> InvalidBatch {
        InvalidBatch::Record { index: self.index, at: self.at as u64, fault }
    }
}

/// Calls `visit` for each of `count` records, which must be all that `records` holds. `starts_at` is the position of
/// `records`, as errors count.
#[inline]
pub(crate) fn walk(
    records: &[u8],
    starts_at: usize,
    count: u32,
    keys: HeaderKeys,
    mut visit: impl FnMut(Place, Scanned) -> Result<(), InvalidBatch>,
) -> Result<(), InvalidBatch> {
    let mut rest = records;
    for index in 0..count {
        let place = Place { index, at: starts_at + (records.len() - rest.len()) };
        let (record, after) = split_record(rest).map_err(|fault| place.refuse(fault))?;
        let scanned = match scan_plain(record) {
            Some(scanned) => scanned,
            None => scan_any(record, keys).map_err(|fault| place.refuse(fault))?,
        };
        visit(place, scanned)?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(InvalidBatch::Trailing { bytes: rest.len() as u64 }) }
}

/// Any record: exact, and says what is wrong.
#[cold]
fn scan_any(record: &[u8], keys: HeaderKeys) -> Result<Scanned, InvalidRecord> {
    let fields = Fields::parse(record)?;
    check_headers(record, &fields, keys)?;
    Ok(Scanned {
        timestamp_delta: fields.timestamp_delta,
        offset_delta: fields.offset_delta,
        has_key: fields.key.is_some(),
    })
}

/// A record without headers whose varints are short, or `None` if it is any other or wrong.
#[inline]
fn scan_plain(record: &[u8]) -> Option<Scanned> {
    let word = u64::from_le_bytes(*record.first_chunk()?);
    // The attributes, one byte, say nothing.
    let (timestamp_bits, used, word) = short_varint(word >> 8, 1)?;
    let (offset_bits, used, word) = short_varint(word, used)?;
    let (key_bits, used, _) = short_varint(word, used)?;
    if used > size_of::<u64>() {
        return None;
    }
    let key_length = unzigzag32(key_bits);
    let tail = record.get(used + nullable_bytes(key_length)?..)?;
    let (value_length, tail) = match *tail {
        [a, ref tail @ ..] if a < 0x80 => (unzigzag32(u32::from(a)), tail),
        [a, b, ref tail @ ..] if b < 0x80 => (unzigzag32(u32::from(a & 0x7f) | u32::from(b) << 7), tail),
        _ => return None,
    };
    let value_bytes = nullable_bytes(value_length)?;
    let has_no_headers = tail.len() == value_bytes + 1 && tail.last() == Some(&0);
    has_no_headers.then_some(Scanned {
        timestamp_delta: i64::from(unzigzag32(timestamp_bits)),
        offset_delta: unzigzag32(offset_bits),
        has_key: key_length >= 0,
    })
}

/// Takes a varint of one to three bytes off the low end of `word`, of which `used` bytes were used before.
#[inline]
fn short_varint(word: u64, used: usize) -> Option<(u32, usize, u64)> {
    let [a, b, c, ..] = word.to_le_bytes().map(u32::from);
    if a < 0x80 {
        Some((a, used + 1, word >> 8))
    } else if b < 0x80 {
        Some((a & 0x7f | b << 7, used + 2, word >> 16))
    } else if c < 0x80 {
        Some((a & 0x7f | (b & 0x7f) << 7 | c << 14, used + 3, word >> 24))
    } else {
        None
    }
}

/// Bytes that follow a length, where -1 is null.
#[inline]
fn nullable_bytes(length: i32) -> Option<usize> {
    if length == -1 { Some(0) } else { usize::try_from(length).ok() }
}
