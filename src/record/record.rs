//! The records of a batch, borrowed from its bytes.

use super::batch::BatchHeader;
use super::varint::{take_i32, take_i64};
use crate::config::TimestampType;
use crate::error::{InvalidBatch, InvalidRecord};
use crate::units::{Offset, OffsetDelta, Sequence, TimestampMs};

/// One record, borrowed from the batch.
///
/// ```
/// # use alluvium::record::BatchBuilder;
/// # use alluvium::{Offset, TimestampMs};
/// let batch = BatchBuilder::new()
///     .record_with_headers(TimestampMs::new(7), Some(b"k"), None, &[("trace", Some(b"1"))])
///     .build()?;
/// let body = batch.view().body(0)?;
/// let record = body.records().next().unwrap()?;
/// assert_eq!((record.offset, record.key, record.value), (Offset::ZERO, Some(&b"k"[..]), None));
/// assert_eq!(record.headers().collect::<Vec<_>>(), [("trace", Some(&b"1"[..]))]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its offset minus the batch's base offset.
    pub offset_delta: OffsetDelta,
    /// When it was made, or appended if the batch says so.
    pub timestamp: TimestampMs,
    /// Its number in the producer's stream.
    pub sequence: Option<Sequence>,
    /// The key; `None` is null, which is not empty.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null, a tombstone in a compacted log.
    pub value: Option<&'a [u8]>,
    header_count: u32,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers in order; keys may repeat.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.headers, left: self.header_count }
    }
}

/// Iterator over the headers of a record: key and value, where `None` is null. From [`Record::headers`].
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // The record was checked when it was parsed, so neither can fail.
        let (key, value, rest) = take_header(self.rest).ok()?;
        self.rest = rest;
        Some((str::from_utf8(key).ok()?, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// Iterator over the records of a batch, from [`Body::records`](super::Body::records).
///
/// Yields as many records as the header counts, or fewer and then one error. Offsets rise strictly and stay within
/// the batch's last offset.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    /// Position of the end of `rest`, as errors count.
    end: usize,
    index: u32,
    next_delta: i32,
    ended: bool,
}

impl<'a> Records<'a> {
    pub(crate) fn new(header: &BatchHeader, records: &'a [u8], starts_at: usize) -> Self {
        let end = starts_at + records.len();
        Self { header: *header, rest: records, end, index: 0, next_delta: 0, ended: false }
    }

    fn take(&mut self) -> Result<Record<'a>, InvalidRecord> {
        let (record, rest) = split_record(self.rest)?;
        let fields = Fields::parse(record)?;
        check_headers(record, &fields, HeaderKeys::Utf8)?;
        let delta = checked_delta(fields.offset_delta, self.next_delta, self.header.last_offset_delta)?;
        self.next_delta = delta.value().saturating_add(1);
        self.rest = rest;
        Ok(Record {
            offset: self.header.base_offset.checked_add(delta).unwrap_or(Offset::MAX),
            offset_delta: delta,
            timestamp: match self.header.attributes.timestamp_type() {
                TimestampType::CreateTime => create_time(&self.header, fields.timestamp_delta),
                TimestampType::LogAppendTime => self.header.max_timestamp,
            },
            sequence: self.header.base_sequence.map(|first| first.wrapping_add(delta)),
            key: fields.key,
            value: fields.value,
            header_count: fields.header_count,
            headers: fields.headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, InvalidBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.index == self.header.count {
            self.ended = true;
            return (!self.rest.is_empty()).then_some(Err(InvalidBatch::Trailing { bytes: self.rest.len() as u64 }));
        }
        let at = (self.end - self.rest.len()) as u64;
        let record = self.take().map_err(|fault| InvalidBatch::Record { index: self.index, at, fault });
        self.ended = record.is_err();
        self.index += 1;
        Some(record)
    }

    // The count is the batch's word only: nothing may be allocated on it.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.header.count - self.index).ok().and_then(|left| left.checked_add(1)))
    }
}

/// Wraps on overflow as the writers' subtraction does, so that any two timestamps can share a batch.
pub(crate) fn create_time(header: &BatchHeader, timestamp_delta: i64) -> TimestampMs {
    TimestampMs::new(header.base_timestamp.value().wrapping_add(timestamp_delta))
}

/// Offsets rise from record to record and end with the batch.
pub(crate) fn checked_delta(found: i32, expected: i32, last: OffsetDelta) -> Result<OffsetDelta, InvalidRecord> {
    match OffsetDelta::new(found) {
        Some(delta) if found >= expected && delta <= last => Ok(delta),
        Some(delta) if delta > last => Err(InvalidRecord::OffsetDeltaPastLast { found, last: last.value() }),
        _ => Err(InvalidRecord::OffsetDelta { found, expected }),
    }
}

/// Splits the first record off `records`, without its length field.
#[inline]
pub(crate) fn split_record(records: &[u8]) -> Result<(&[u8], &[u8]), InvalidRecord> {
    let (length, rest) = take_i32(records, "length")?;
    match usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)) {
        Some(split) => Ok(split),
        None => Err(InvalidRecord::Field { field: "length", value: i64::from(length) }),
    }
}

/// The fields of a record; the headers are yet to be checked.
pub(crate) struct Fields<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    header_count: u32,
    headers: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads the fields of a record that starts at its attributes.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "measured: out of line, results go through memory and reading takes half more"
    )]
    pub(crate) fn parse(record: &'a [u8]) -> Result<Self, InvalidRecord> {
        let Some((_attributes, rest)) = record.split_first() else {
            return Err(InvalidRecord::Short { field: "attributes" });
        };
        let (timestamp_delta, rest) = take_i64(rest, "timestampDelta")?;
        let (offset_delta, rest) = take_i32(rest, "offsetDelta")?;
        let (key, rest) = take_nullable(rest, "keyLength")?;
        let (value, rest) = take_nullable(rest, "valueLength")?;
        let (count, headers) = take_i32(rest, "headersCount")?;
        let header_count = match u32::try_from(count) {
            Ok(checked) if u64::from(checked) <= headers.len() as u64 => checked,
            _ => return Err(InvalidRecord::Field { field: "headersCount", value: i64::from(count) }),
        };
        Ok(Self { timestamp_delta, offset_delta, key, value, header_count, headers })
    }
}

/// Whether header keys must be UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKeys {
    Utf8,
    AnyBytes,
}

/// The headers are whole, and with them the record ends.
#[inline]
pub(crate) fn check_headers(record: &[u8], fields: &Fields<'_>, keys: HeaderKeys) -> Result<(), InvalidRecord> {
    let mut rest = fields.headers;
    for _ in 0..fields.header_count {
        let (key, _, after) = take_header(rest)?;
        if keys == HeaderKeys::Utf8 && str::from_utf8(key).is_err() {
            return Err(InvalidRecord::HeaderKey);
        }
        rest = after;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let declared = record.len() as u64;
    Err(InvalidRecord::LengthMismatch { declared, used: declared - rest.len() as u64 })
}

type Header<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn take_header(bytes: &[u8]) -> Result<Header<'_>, InvalidRecord> {
    let (key, rest) = take_nullable(bytes, "headerKeyLength")?;
    let Some(key) = key else {
        return Err(InvalidRecord::Field { field: "headerKeyLength", value: -1 });
    };
    let (value, rest) = take_nullable(rest, "headerValueLength")?;
    Ok((key, value, rest))
}

/// A length and as many bytes; -1 is null.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "measured: out of line, results go through memory and reading takes half more"
)]
fn take_nullable<'a>(bytes: &'a [u8], field: &'static str) -> Result<(Option<&'a [u8]>, &'a [u8]), InvalidRecord> {
    let (length, rest) = take_i32(bytes, field)?;
    if length == -1 {
        return Ok((None, rest));
    }
    match usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)) {
        Some((taken, rest)) => Ok((Some(taken), rest)),
        None => Err(InvalidRecord::Field { field, value: i64::from(length) }),
    }
}
