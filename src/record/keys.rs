//! The keys of a batch's records, for whoever reads millions of them and nothing else: nearly all records have short
//! varints, which are read here without a call; what is else goes to the parser.
#![expect(
    clippy::inline_always,
    reason = "measured: out of line, results go through memory and a record costs half more"
)]

use super::batch::BatchView;
use super::compress::{self, Compression};
use super::record::{Fields, HeaderKeys, check_headers, split_record};
use super::walk::{NULL, nullable_length, plain_length, short_varint, varint_of, walk_headers};
use crate::error::{InvalidBatch, InvalidRecord};

/// The records of `batch`, uncompressed: as they lie in it, or expanded into `plain` to at most `limit` bytes.
pub(crate) fn plain_records<'a>(
    batch: &BatchView<'a>,
    limit: u32,
    plain: &'a mut Vec<u8>,
) -> Result<&'a [u8], InvalidBatch> {
    let stored = batch.stored_records();
    let codec = batch.header().attributes.compression();
    if codec == Compression::None || stored.is_empty() {
        return Ok(stored);
    }
    plain.clear();
    compress::decompress(codec, stored, limit, plain)?;
    Ok(plain)
}

/// Of a record: its key, where it has one, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keyed<'a> {
    /// Its offset minus the batch's base offset; not checked.
    pub(crate) offset_delta: i32,
    /// `None` is null.
    pub(crate) key: Option<&'a [u8]>,
    /// Whether the value is null: a tombstone, where there is a key.
    pub(crate) is_null: bool,
}

/// Iterator over the records that `bytes` hold one after the other. Ends at the end of them, or before what is not a
/// record: [`Keys::is_whole`] tells which.
#[derive(Clone, Debug)]
pub(crate) struct Keys<'a> {
    rest: &'a [u8],
}

impl<'a> Keys<'a> {
    /// Over the uncompressed records of a batch.
    pub(crate) fn new(records: &'a [u8]) -> Self {
        Self { rest: records }
    }

    /// Whether everything was read, once the iterator has ended.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether `records` are exactly `count` records whose offsets rise and stay within `last_delta`.
    pub(crate) fn are_sound(records: &'a [u8], count: u32, last_delta: i32) -> bool {
        let mut keys = Self::new(records);
        let (mut next_delta, mut found) = (0, 0);
        for record in keys.by_ref() {
            if record.offset_delta < next_delta || record.offset_delta > last_delta {
                return false;
            }
            next_delta = record.offset_delta.saturating_add(1);
            found += 1;
        }
        keys.is_whole() && found == count
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = Keyed<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Keyed<'a>> {
        let taken = take_plain(self.rest).or_else(|| take_any(self.rest));
        let (keyed, rest) = taken?;
        self.rest = rest;
        Some(keyed)
    }
}

/// Takes a record off the front of `records` if its varints are short; `None` if it is any other, or wrong.
#[inline(always)]
fn take_plain(records: &[u8]) -> Option<(Keyed<'_>, &[u8])> {
    let (length_bits, rest) = short_varint(records)?;
    let (record, rest) = rest.split_at_checked(plain_length(length_bits)?)?;
    let word = u64::from_le_bytes(*record.first_chunk()?);
    // The attributes, one byte, say nothing.
    let (_, used, word) = varint_of(word >> 8, 1)?;
    let (offset_bits, used, word) = varint_of(word, used)?;
    let (key_bits, used, _) = varint_of(word, used)?;
    if used > size_of::<u64>() {
        return None;
    }
    let (key, behind) = record.get(used..)?.split_at_checked(nullable_length(key_bits)?)?;
    let (value_bits, value) = short_varint(behind)?;
    let headers = value.get(nullable_length(value_bits)?..)?;
    // Nearly always one byte, a header count of 0.
    if *headers != [0] {
        walk_headers(headers, HeaderKeys::Utf8)?;
    }
    let keyed = Keyed {
        offset_delta: super::varint::unzigzag32(offset_bits),
        key: (key_bits != NULL).then_some(key),
        is_null: value_bits == NULL,
    };
    Some((keyed, rest))
}

/// Takes any record off the front of `records`.
#[cold]
fn take_any(records: &[u8]) -> Option<(Keyed<'_>, &[u8])> {
    if records.is_empty() {
        return None;
    }
    let parse = || -> Result<_, InvalidRecord> {
        let (record, rest) = split_record(records)?;
        let fields = Fields::parse(record)?;
        check_headers(record, &fields, HeaderKeys::Utf8)?;
        let is_null = fields.value.is_none();
        Ok((Keyed { offset_delta: fields.offset_delta, key: fields.key, is_null }, rest))
    };
    parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;
    use crate::units::TimestampMs;

    /// Records of every kind, also those that only the parser takes, are those that the parser finds.
    #[test]
    fn keys_are_those_that_the_parser_finds() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..300 {
            let mut builder = BatchBuilder::new();
            for _ in 0..rng.usize(1..20) {
                let key = (rng.u8(0..4) > 0).then(|| vec![rng.u8(..); rng.usize(0..200)]);
                let value = (rng.u8(0..4) > 0).then(|| vec![rng.u8(..); rng.usize(0..20_000)]);
                let headers: &[(&str, Option<&[u8]>)] = match rng.u8(0..3) {
                    0 => &[],
                    1 => &[("h", None)],
                    _ => &[("a", Some(b"1")), ("é", Some(b""))],
                };
                let shift = rng.u8(0..50);
                let timestamp = TimestampMs::new(rng.i64(0..i64::MAX >> shift));
                builder.record_with_headers(timestamp, key.as_deref(), value.as_deref(), headers);
            }
            let batch = builder.build().unwrap();
            let body = batch.view().body(0).unwrap();
            let expected: Vec<_> = body
                .records()
                .map(Result::unwrap)
                .map(|record| (record.offset_delta.value(), record.key, record.value.is_none()))
                .collect();
            let mut keys = Keys::new(body.bytes());
            let found: Vec<_> = keys.by_ref().map(|keyed| (keyed.offset_delta, keyed.key, keyed.is_null)).collect();
            assert!(keys.is_whole());
            assert_eq!(found, expected);
            let (count, last) = (batch.header().count, batch.header().last_offset_delta.value());
            assert!(Keys::are_sound(body.bytes(), count, last));
            assert!(!Keys::are_sound(body.bytes(), count + 1, last));
            assert!(last == 0 || !Keys::are_sound(body.bytes(), count, last - 1));
            let cut = &body.bytes()[..body.bytes().len() - 1];
            assert!(!Keys::are_sound(cut, count, last));
        }
    }
}
