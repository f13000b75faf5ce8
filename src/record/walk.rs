//! Walking records without building them: what the append path does to every record it takes, and the cleaner to every
//! record of a log.
//!
//! Nearly all records have varints of one to three bytes, and they are read here without a function call. Whatever
//! else there is, wrong records included, goes to the parser, which is exact and explains.
#![expect(
    clippy::inline_always,
    reason = "measured: out of line, results go through memory and a record costs half more"
)]

use super::record::{Fields, HeaderKeys, check_headers, split_record};
use super::varint::unzigzag32;
use crate::error::{InvalidBatch, InvalidRecord};

/// What rules need to know of a record. What a visitor does not look at costs it nothing: all is inlined.
#[derive(Clone, Copy)]
pub(crate) struct Scanned<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) has_value: bool,
    /// Bytes of the record, its length field included.
    pub(crate) bytes: usize,
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
    #[inline(never)]
    pub(crate) fn refuse(self, fault: InvalidRecord) -> InvalidBatch {
        InvalidBatch::Record { index: self.index, at: self.at as u64, fault }
    }
}

/// Calls `visit` for each of `count` records, which must be all that `records` holds. `starts_at` is the position of
/// `records`, as errors count.
#[inline]
pub(crate) fn walk<'a, E: From<InvalidBatch>>(
    records: &'a [u8],
    starts_at: usize,
    count: u32,
    keys: HeaderKeys,
    mut visit: impl FnMut(Place, Scanned<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = records;
    for index in 0..count {
        let place = Place { index, at: starts_at + (records.len() - rest.len()) };
        let (scanned, after) = match take_plain(rest, keys) {
            Some(taken) => taken,
            None => take_any(rest, keys).map_err(|fault| place.refuse(fault))?,
        };
        visit(place, scanned)?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(InvalidBatch::Trailing { bytes: rest.len() as u64 }.into()) }
}

/// Takes any record off the front of `records`: exact, and says what is wrong.
#[cold]
fn take_any(records: &[u8], keys: HeaderKeys) -> Result<(Scanned<'_>, &[u8]), InvalidRecord> {
    let (record, rest) = split_record(records)?;
    let fields = Fields::parse(record)?;
    check_headers(record, &fields, keys)?;
    let scanned = Scanned {
        timestamp_delta: fields.timestamp_delta,
        offset_delta: fields.offset_delta,
        key: fields.key,
        has_value: fields.value.is_some(),
        bytes: records.len() - rest.len(),
    };
    Ok((scanned, rest))
}

/// Takes a record off the front of `records` if its varints are short; `None` if it is any other, or wrong.
#[inline(always)]
fn take_plain(records: &[u8], keys: HeaderKeys) -> Option<(Scanned<'_>, &[u8])> {
    let (length_bits, rest) = short_varint(records)?;
    let (record, rest) = rest.split_at_checked(plain_length(length_bits)?)?;
    let word = u64::from_le_bytes(*record.first_chunk()?);
    // The attributes, one byte, say nothing.
    let (timestamp_bits, used, word) = varint_of(word >> 8, 1)?;
    let (offset_bits, used, word) = varint_of(word, used)?;
    let (key_bits, used, _) = varint_of(word, used)?;
    if used > size_of::<u64>() {
        return None;
    }
    let key_end = used + nullable_length(key_bits)?;
    let (value_bits, value) = short_varint(record.get(key_end..)?)?;
    let headers = value.get(nullable_length(value_bits)?..)?;
    // Nearly always one byte, a header count of 0.
    if *headers != [0] {
        walk_headers(headers, keys)?;
    }
    let scanned = Scanned {
        timestamp_delta: i64::from(unzigzag32(timestamp_bits)),
        offset_delta: unzigzag32(offset_bits),
        key: if key_bits == NULL { None } else { record.get(used..key_end) },
        has_value: value_bits != NULL,
        bytes: records.len() - rest.len(),
    };
    Some((scanned, rest))
}

/// The header count and the headers are all that `bytes` hold, and their varints are short.
#[inline(never)]
pub(super) fn walk_headers(bytes: &[u8], keys: HeaderKeys) -> Option<()> {
    let (count_bits, mut rest) = short_varint(bytes)?;
    for _ in 0..plain_length(count_bits)? {
        let (key_bits, after) = short_varint(rest)?;
        let (key, after) = after.split_at_checked(plain_length(key_bits)?)?;
        if keys == HeaderKeys::Utf8 && !key.is_ascii() && str::from_utf8(key).is_err() {
            return None;
        }
        let (value_bits, after) = short_varint(after)?;
        rest = after.get(nullable_length(value_bits)?..)?;
    }
    rest.is_empty().then_some(())
}

/// -1, the length of null, in zig-zag.
pub(super) const NULL: u32 = 1;

/// The length that zig-zag `bits` say, if it is not negative.
#[inline(always)]
pub(super) fn plain_length(bits: u32) -> Option<usize> {
    if bits & 1 == 0 { usize::try_from(bits >> 1).ok() } else { None }
}

/// As [`plain_length`], and 0 for null.
#[inline(always)]
pub(super) fn nullable_length(bits: u32) -> Option<usize> {
    if bits == NULL { Some(0) } else { plain_length(bits) }
}

/// Takes the bits of a varint of one or two bytes off the front of `bytes`.
#[inline(always)]
pub(super) fn short_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match *bytes {
        [a, ref rest @ ..] if a < 0x80 => Some((u32::from(a), rest)),
        [a, b, ref rest @ ..] if b < 0x80 => Some((u32::from(a & 0x7f) | u32::from(b) << 7, rest)),
        [a, b, c, ref rest @ ..] if c < 0x80 => {
            Some((u32::from(a & 0x7f) | u32::from(b & 0x7f) << 7 | u32::from(c) << 14, rest))
        }
        _ => None,
    }
}

/// Takes the bits of a varint of one to three bytes off the low end of `word`, of which `used` were used before.
#[inline(always)]
pub(super) fn varint_of(word: u64, used: usize) -> Option<(u32, usize, u64)> {
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
